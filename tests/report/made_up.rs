//! A report that nobody measured, with everything in it that a page has to show. For tests alone.

use std::collections::BTreeMap;

use bakehouse::api::bakejob::Verdict;
use bakehouse::api::{Metric, Reason};
use bakehouse::bake::probe::Seen;
use bakehouse::bake::report::{
    Artifact, BatchLatency, BatchSpeedup, BudgetUnreachable, CalibrationFigures, CandidateFigures, DataFigures,
    Determinism, EngineFusion, FrontPoint, JobFigures, ModelFigures, OutcomeFigures, PackageFigures, REPORT_VERSION,
    Reproduced, SearchFigures, Unranged,
};
use bakehouse::bake::{Report, Stage, StageRecord};
use bakehouse::engine::EngineId;
use bakehouse::engine::registry::BackendStatus;
use bakehouse::hardware::MachineFacts;
use bakehouse::model::IntakeNotes;
use bakehouse::model::stats::{Count, Macs, NodeStats, Stats};
use bakehouse::optimizer::calibration::Shift;
use bakehouse::optimizer::{How, Missed, Outcome, PassRecord, Scan, Score, SiteHarm, Speed};
use bakehouse::package::{
    FinalMetric, Framework, Identity, Layout, Manifest, ModelFiles, PHASE5_VERSION, PackagedFile, Sparsity, Splits,
    Training,
};
use bakehouse::profiler::{Paired, Samples};
use bakehouse::quality::distribution::{Channel, OutputDistribution};
use bakehouse::quality::stats::Interval;
use bakehouse::quality::{
    Figure, GateReason, GateResult, MetricKind, OutputConsistency, QualityReport, RetentionDetails, TapSimilarity,
};

/// A name that a model may hold and a page must not run.
pub(crate) const HOSTILE: &str = "block<script>document.title='run'</script>\"><img src=x onerror=alert(1)>/conv";

/// Numbers between 0 and 1 that look random and are the same everywhere.
fn noise(seed: u64) -> impl FnMut() -> f64 {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) as f64 / (1_u64 << 53) as f64
    }
}

fn figure(estimate: f64, lower: f64, upper: f64, n: usize) -> Figure {
    Figure::new(estimate, Some(Interval { lower, upper }), n, "BCa bootstrap, 2000 resamples")
}

fn latency(batch: usize, seconds: f64, seed: u64) -> BatchLatency {
    let mut next = noise(seed);
    let sample = |u: f64, v: f64| seconds * (1.0 + 0.04 * u + if v > 0.97 { 0.8 * v } else { 0.0 });
    let samples = Samples { seconds: (0..200).map(|_| sample(next(), next())).collect(), runs_per_sample: 1 };
    let summary = samples.summary().unwrap();
    BatchLatency { batch, throughput: batch as f64 / summary.p50, summary, samples }
}

fn speedup(batch: usize, ratio: f64, seed: u64) -> BatchSpeedup {
    let mut next = noise(seed);
    let ratios: Vec<f64> = (0..180).map(|_| ratio * (0.97 + 0.06 * next())).collect();
    BatchSpeedup {
        batch,
        paired: Paired { ratio, lower: ratio * 0.992, upper: ratio * 1.009, ratios, seconds: [2.1e-4, 2.1e-4 / ratio] },
    }
}

fn model(sha: char, bytes: u64, nodes: usize, dtype: &str, seconds: f64) -> ModelFigures {
    let weights = Count { tensors: 12, all: 214_000, non_zero: 213_950, bytes: bytes as usize - 9_000 };
    ModelFigures {
        sha256: sha.to_string().repeat(64),
        bytes,
        stats: Stats {
            file_bytes: bytes as usize,
            parameters: weights,
            by_dtype: BTreeMap::from([
                (dtype.to_owned(), weights),
                ("int64".to_owned(), Count { tensors: 2, all: 4, non_zero: 4, bytes: 32 }),
            ]),
            nodes: NodeStats {
                all: nodes,
                computing: nodes - 1,
                by_type: BTreeMap::from([
                    ("Conv".to_owned(), 8),
                    ("Relu".to_owned(), nodes - 9),
                    ("Gemm".to_owned(), 1),
                ]),
            },
            macs: Macs { known: 41_250_000, known_nodes: 9, ..Macs::default() },
            ..Stats::default()
        },
        latency: vec![latency(1, seconds, 3), latency(8, seconds * 6.1, 5)],
        fresh_process: Seen {
            file_sha256: sha.to_string().repeat(64),
            outputs_sha256: "0f".repeat(32),
            samples: 4,
            peak_rss_bytes: Some(61_200_000 + bytes * 2),
            idle_rss_bytes: Some(48_900_000),
        },
        determinism: Determinism { runs: true, threads: sha == 'b', processes: true },
    }
}

fn applied(name: &str, nodes: [usize; 2], bytes: [usize; 2], fused: &[&str]) -> PassRecord {
    PassRecord {
        name: name.to_owned(),
        outcome: Outcome::Applied,
        reason: None,
        rewrites: nodes[0].abs_diff(nodes[1]).max(1),
        fused: fused.iter().map(ToString::to_string).collect(),
        nodes,
        bytes,
        max_difference: Some(2.4e-7),
        seconds: 0.0012,
        check_seconds: 0.031,
    }
}

fn refused(name: &str, outcome: Outcome, reason: &str) -> PassRecord {
    PassRecord {
        outcome,
        reason: Some(reason.to_owned()),
        max_difference: None,
        rewrites: 0,
        ..applied(name, [52, 52], [866_000, 866_000], &[])
    }
}

fn candidate(name: &str, bytes: usize, ratio: Option<f64>, quality: f64, refused: Option<&str>) -> CandidateFigures {
    let score = |metric: Metric, estimate, threshold| Score {
        metric: metric.to_string(),
        estimate,
        threshold,
        least: 0.5,
        needed: 0.5,
    };
    CandidateFigures {
        name: name.to_owned(),
        bytes,
        nodes: 61,
        deviation: Some(0.0042),
        quality: vec![
            score(Metric::AccuracyRetention, quality, 0.95),
            score(Metric::OutputConsistency, quality + 0.002, 0.95),
        ],
        speed: ratio.map(|ratio| Speed { ratio, lower: ratio * 0.97, upper: ratio * 1.02, n: 45 }),
        passes: Vec::new(),
        left_out: Vec::new(),
        refused: refused.map(str::to_owned),
        missed: None,
        scan: None,
        chosen: false,
    }
}

fn gate(
    metric: Metric,
    bound: [Option<f64>; 2],
    observed: Option<[f64; 3]>,
    n: usize,
    verdict: Verdict,
    reason: GateReason,
    message: &str,
) -> GateResult {
    GateResult {
        metric,
        min: bound[0],
        max: bound[1],
        observed: observed.map(|o| o[0]),
        interval: observed.map(|[_, lower, upper]| Interval { lower, upper }),
        n,
        verdict,
        reason,
        message: message.to_owned(),
        samples_needed: (verdict == Verdict::Inconclusive && observed.is_some()).then_some(1_840),
    }
}

fn gates() -> Vec<GateResult> {
    let pass = |metric, bound, observed, n| {
        gate(
            metric,
            bound,
            Some(observed),
            n,
            Verdict::Pass,
            GateReason::BoundKept,
            "The whole interval keeps the bound.",
        )
    };
    vec![
        pass(Metric::AccuracyRetention, [Some(0.95), None], [0.9968, 0.9862, 1.0054], 268),
        pass(Metric::OutputConsistency, [Some(0.95), None], [0.99953, 0.99941, 0.99962], 268),
        pass(Metric::FeaturePreservation, [Some(0.85), None], [0.9987, 0.9981, 0.9993], 268),
        pass(Metric::DistributionSimilarity, [Some(0.90), None], [0.9881, 0.9842, 0.9913], 268),
        gate(
            Metric::Speedup,
            [Some(1.8), None],
            Some([1.84, 1.79, 1.88]),
            180,
            Verdict::Inconclusive,
            GateReason::NoiseAboveMargin,
            "The bound lies inside the interval. Measure longer with profile.iterations, or ask for less.",
        ),
        gate(
            Metric::LatencyP99,
            [None, Some(1e-4)],
            Some([1.94e-4, 1.71e-4, 2.3e-4]),
            200,
            Verdict::Fail,
            GateReason::BoundBroken,
            "The whole interval is above the bound.",
        ),
        pass(Metric::PeakMemory, [None, Some(1e8)], [61_700_000.0; 3], 1),
        gate(
            Metric::ParameterReduction,
            [Some(0.1), None],
            None,
            0,
            Verdict::Inconclusive,
            GateReason::MissingData,
            "Nothing was measured for this gate. Leave it out, or choose a level that prunes.",
        ),
    ]
}

fn quality() -> QualityReport {
    let tap = |name: &str, cka: f64, width: usize| TapSimilarity {
        tap: name.to_owned(),
        figure: figure(cka, cka - 0.0006, (cka + 0.0005).min(1.0), 268),
        widths: [width; 2],
    };
    let channel = |channel: usize, distance: f64| Channel {
        channel,
        distance,
        spread: 2.31,
        jensen_shannon: distance / 9.0,
        kolmogorov_smirnov: distance / 4.0,
    };
    QualityReport {
        samples: 268,
        seed: 7,
        accuracy_retention: figure(0.9968, 0.9862, 1.0054, 268),
        output_consistency: figure(0.99953, 0.99941, 0.99962, 268),
        feature_preservation: figure(0.9987, 0.9981, 0.9993, 268),
        distribution_similarity: figure(0.9881, 0.9842, 0.9913, 268),
        retention: RetentionDetails {
            metric: MetricKind::Top1,
            why: "the labels are class numbers".to_owned(),
            labelled: true,
            output: "logits".to_owned(),
            baseline: Some(0.9776),
            baked: Some(0.9745),
            chance: Some(0.1045),
            outputs: Vec::new(),
            samples: Vec::new(),
        },
        consistency: vec![OutputConsistency {
            output: "logits".to_owned(),
            gated: true,
            measure: "Concordance".to_owned(),
            figure: figure(0.99953, 0.99941, 0.99962, 268),
            cosine: Some(0.99971),
            argmax_agreement: Some(0.9963),
            relative_rms_error: Some(0.0214),
            logits: None,
            other_shape: 0,
            samples: Vec::new(),
        }],
        taps: vec![
            tap("/stem/Relu_output_0", 0.99994, 2048),
            tap("/layer1/Add_output_0", 0.9991, 2048),
            tap(HOSTILE, 0.9979, 1024),
            tap("/layer3/Add_output_0", 0.9964, 512),
        ],
        lowest_tap: Some(0.9964),
        distribution: vec![OutputDistribution {
            output: "logits".to_owned(),
            gated: true,
            figure: figure(0.9881, 0.9842, 0.9913, 268),
            channels: 10,
            worst: vec![channel(7, 0.061), channel(2, 0.044), channel(9, 0.031)],
            jensen_shannon: 0.0021,
            kolmogorov_smirnov: 0.0074,
        }],
        identical: false,
    }
}

fn machine() -> MachineFacts {
    MachineFacts {
        cpu: "A processor of no maker".to_owned(),
        arch: "x86_64".to_owned(),
        features: ["avx2", "fma", "sse4_2"].map(str::to_owned).into(),
        logical_cores: 8,
        affinity_cores: 4,
        cpu_quota: Some(1.5),
        physical_memory: 16 << 30,
        cgroup_memory: Some(4 << 30),
        kernel: "6.1.0".to_owned(),
        os: "linux".to_owned(),
        load_average: None,
    }
}

fn stages() -> Vec<StageRecord> {
    let seconds = [0.041, 0.93, 1.42, 0.31, 0.88, 0.002, 0.004];
    let mut at = 0.0;
    let moment = |s: f64| format!("2026-03-01T09:30:{s:09.6}Z");
    let record = |(name, seconds): (Stage, f64)| {
        let from = at;
        at += seconds;
        StageRecord { name, start_time: moment(from), completion_time: moment(at), seconds }
    };
    Stage::ALL.into_iter().zip(seconds).map(record).collect()
}

/// Fifteen sites, one of which breaks the outputs.
fn scan() -> Scan {
    let site = |at: usize| SiteHarm {
        site: if at == 2 { HOSTILE.to_owned() } else { format!("/layer{at}/Conv_output_0") },
        part: if at % 4 == 3 { "Between" } else { "Conv" }.to_owned(),
        work: 1_474_560 / (at + 1),
        harm: (at > 0).then(|| 0.8 / (at * at) as f64),
        how: [How::Alone, How::Alone, How::LeftOut, How::Estimated][at % 4],
    };
    Scan { without: Some(2.1e-7), together: Some(0.914), sites: (0..15).map(site).collect() }
}

/// A calibration on data that was scaled otherwise than the validation data.
fn calibration() -> CalibrationFigures {
    let shift = |tensor: &str, input| Shift {
        tensor: tensor.to_owned(),
        input,
        calibrated: [0.0, 1.0],
        seen: [0.0, 255.0],
        beyond: 0.981,
        mean: 431.0,
        width: 254.2,
    };
    CalibrationFigures {
        source: "spec.data.calibration".to_owned(),
        samples: 128,
        tensors: 31,
        seconds: 0.412,
        held_bytes: 31 * 32_850,
        key: Some("c4".repeat(32)),
        from_cache: false,
        methods: BTreeMap::from(
            [("Entropy", 2), ("MinMax", 7), ("Mse", 18), ("Percentile", 0)].map(|(m, n)| (m.to_owned(), n)),
        ),
        left_out: vec![Unranged {
            tensor: HOSTILE.to_owned(),
            reason: "it was zero throughout".to_owned(),
            sites: vec!["/layer3/Add_output_0".to_owned(), HOSTILE.to_owned()],
        }],
        compared_with: 32,
        compared: 32,
        off: 2,
        shifts: vec![shift("image", true), shift(HOSTILE, false)],
    }
}

fn missed() -> Missed {
    Missed {
        metric: Metric::OutputConsistency.to_string(),
        estimate: 0.622,
        threshold: 0.95,
        at_least: true,
        needed: 0.975,
        on_verdict: false,
    }
}

/// What nobody reached.
fn unreachable() -> BudgetUnreachable {
    BudgetUnreachable {
        nearest: HOSTILE.to_owned(),
        missed: missed(),
        bytes: 235_500,
        input_bytes: 871_400,
        speed: None,
        left_out: 2,
        candidates: 1,
        message: format!("BudgetUnreachable: of 1 candidate in 8 bits none reaches the gates. Nearest is {HOSTILE}."),
    }
}

fn front() -> Vec<FrontPoint> {
    let point = |candidate: usize, name: &str, bytes, speed, slack| FrontPoint {
        candidate,
        name: name.to_owned(),
        bytes,
        speed,
        slack,
    };
    vec![
        point(0, "dynamic-int8", 241_000, 1.84, 0.956),
        point(1, "dynamic-int8-fast-sites", 402_000, 1.79, 0.982),
        point(3, "lossless", 861_000, 1.12, 1.0),
        point(2, "weights-int8", 236_000, 1.01, 0.97),
    ]
}

fn candidates() -> Vec<CandidateFigures> {
    let mut chosen = candidate("dynamic-int8", 241_000, Some(1.84), 0.9978, None);
    chosen.chosen = true;
    chosen.scan = Some(scan());
    chosen.left_out = vec![
        format!("{HOSTILE}: alone it costs 0.8 % of accuracy"),
        "/head/Gemm: first and last layers stay in float".to_owned(),
    ];
    vec![
        chosen,
        candidate("dynamic-int8-fast-sites", 402_000, Some(1.79), 0.9991, None),
        candidate("weights-int8", 236_000, Some(1.01), 0.9985, None),
        candidate("lossless", 861_000, Some(1.12), 1.0, None),
        candidate("dynamic-int8-conv", 239_500, Some(0.71), 0.9801, Some("slower than the input: 0.71x [0.69, 0.72]")),
        candidate(
            "weights-int8-per-tensor",
            235_000,
            Some(1.02),
            0.941,
            Some("AccuracyRetention is 0.941 on the search split, below the gate of 0.95"),
        ),
        candidate(
            HOSTILE,
            235_500,
            None,
            0.62,
            Some("OutputConsistency is 0.622 on the search split, far below the gate of 0.95"),
        ),
    ]
}

/// A package whose trainer was too hopeful.
fn package() -> PackageFigures {
    let figure = |name: &str, value: f64| FinalMetric { name: name.to_owned(), value, ..FinalMetric::default() };
    let object = |value: serde_json::Value| value.as_object().cloned().unwrap();
    PackageFigures {
        layout: Layout::Phase5,
        path: "/models/digits-resnet".into(),
        manifest_sha256: Some("5e".repeat(32)),
        manifest: Manifest {
            api_version: PHASE5_VERSION.to_owned(),
            identity: Identity { name: HOSTILE.to_owned(), version: Some("3".to_owned()), ..Identity::default() },
            framework: Some(Framework {
                name: "pytorch".to_owned(),
                version: Some("2.9.1".to_owned()),
                exporter: None,
            }),
            model: ModelFiles {
                graph: PackagedFile { path: "model/model.onnx".to_owned(), sha256: "a".repeat(64), bytes: 871_400 },
                ..ModelFiles::default()
            },
            signature: None,
            training: Training {
                config: object(serde_json::json!({"epochs": 12, "augment": ["shift"], HOSTILE: HOSTILE})),
                hyper_parameters: object(serde_json::json!({"lr": 0.001})),
                ..Training::default()
            },
            metrics: vec![figure("Top1", 0.9912), figure("F1", 0.977), figure("val_loss", 0.0813)],
            quantization: None,
            sparsity: Some(Sparsity { share: 0.0002, pattern: None }),
            environment: object(serde_json::json!({"gpu": "none"})),
            splits: Splits::default(),
        },
        baseline: vec![
            Reproduced {
                metric: "Top1".to_owned(),
                claimed: 0.9912,
                measured: Some(0.9776),
                samples: Some(402),
                holds: Some(false),
                message: "The package's Top1 of 0.9912 is not reproduced: the input model scores 0.9776.".to_owned(),
            },
            Reproduced {
                metric: "F1".to_owned(),
                claimed: 0.977,
                measured: Some(0.977),
                samples: Some(402),
                holds: Some(true),
                message: "The package's F1 of 0.9770 comes out as 0.9770.".to_owned(),
            },
        ],
    }
}

/// A bake that went well but for a gate or two, so that every kind of verdict is to be seen.
pub(crate) fn report() -> Report {
    let backend = |name: &str, version: Option<&str>, detail: &str| BackendStatus {
        name: name.to_owned(),
        available: version.is_some(),
        version: version.map(str::to_owned),
        detail: detail.to_owned(),
    };
    Report {
        api_version: REPORT_VERSION.to_owned(),
        bakehouse: "0.1.0".to_owned(),
        job: JobFigures {
            name: "digits-resnet".to_owned(),
            spec_digest: "3d".repeat(32),
            level: "Light".to_owned(),
            goal: "Balanced".to_owned(),
            seed: 7,
        },
        outcome: OutcomeFigures {
            reason: Reason::GateFailed,
            message: "dynamic-int8: LatencyP99 is 194µs [171µs, 230µs] n=200, asked for <= 100µs".to_owned(),
            gate_passed: Some(false),
            candidate: "dynamic-int8".to_owned(),
        },
        stages: stages(),
        machine: machine(),
        engine: EngineId { name: "onnxruntime".to_owned(), version: "1.32.0".to_owned() },
        threads: 1,
        clock: "thread CPU".to_owned(),
        backends: vec![
            backend("onnxruntime", Some("1.32.0"), "/usr/lib/libonnxruntime.so.1.32.0"),
            backend("tract", Some("0.23.9"), "embedded"),
            backend("tensorrt", None, "this build has no TensorRT"),
        ],
        intake: IntakeNotes {
            opset: 17,
            ir_version: 8,
            notes: vec!["3 initializers were also inputs and are constants now.".to_owned()],
            ..IntakeNotes::default()
        },
        package: Some(package()),
        remarks: vec!["Batch size 32 is not measured: the model's batch axis is fixed.".to_owned()],
        data: DataFigures {
            calibration_samples: 256,
            validation_samples: 402,
            labelled: true,
            search: (0..134).collect(),
            verdict: (134..402).collect(),
            taps: vec!["/stem/Relu_output_0".to_owned(), HOSTILE.to_owned()],
            files: Vec::new(),
        },
        passes: vec![
            applied("constant-folding", [96, 81], [871_400, 872_100], &[]),
            applied(
                "batch-norm-folding",
                [81, 64],
                [872_100, 866_300],
                &["Conv+BatchNormalization: /stem/Conv", &format!("Conv+BatchNormalization: {HOSTILE}")],
            ),
            applied("bias-fusion", [64, 52], [866_300, 866_000], &["Gemm+Add: /head/Gemm"]),
            refused("layout", Outcome::Skipped, "No Transpose pair to cancel."),
            refused("gelu", Outcome::RolledBack, "an output changed by 3.1e-4, more than the 1e-5 a lossless pass may"),
            refused("attention", Outcome::Failed, &format!("node '{HOSTILE}': its mask has a rank that is not known")),
            refused("backend-tensorrt", Outcome::Skipped, "BackendUnavailable: this build has no TensorRT"),
            PassRecord { max_difference: None, ..applied("dynamic-int8", [52, 61], [866_000, 241_000], &[]) },
        ],
        calibration: Some(calibration()),
        search: Some(SearchFigures { seconds: 41.7, judged: 23, glanced: 96, timed: 11 }),
        candidates: candidates(),
        front: front(),
        budget_unreachable: Some(unreachable()),
        baseline: model('a', 871_400, 96, "float32", 2.1e-4),
        baked: Some(model('b', 241_000, 61, "int8", 1.14e-4)),
        speedup: vec![speedup(1, 1.84, 11), speedup(8, 2.06, 13)],
        quality: Some(quality()),
        gates: gates(),
        engine_fusion: Some(EngineFusion {
            nodes: [61, 44],
            fused: BTreeMap::from([("FusedConv".to_owned(), 7), ("DynamicQuantizeMatMul".to_owned(), 1)]),
        }),
        cache: None,
        artifacts: vec![
            Artifact {
                format: "ONNX".to_owned(),
                file: "model.onnx".to_owned(),
                sha256: "b".repeat(64),
                bytes: 241_000,
            },
            Artifact {
                format: "Recipe".to_owned(),
                file: "recipe.json".to_owned(),
                sha256: "9c".repeat(32),
                bytes: 18_220,
            },
        ],
    }
}

/// A bake that found nothing better: the input is the artifact, no speedup is claimed.
pub(crate) fn unchanged() -> Report {
    let mut report = report();
    report.outcome = OutcomeFigures {
        reason: Reason::NoImprovement,
        message: "The input is returned unchanged, nothing better passed (lossless: no better than the input under the goal)."
            .to_owned(),
        gate_passed: Some(true),
        candidate: "input".to_owned(),
    };
    report.baked = None;
    report.speedup.clear();
    report.engine_fusion = None;
    for candidate in &mut report.candidates {
        candidate.chosen = false;
    }
    report
}

/// As little as a report may hold.
pub(crate) fn bare() -> Report {
    let mut report = unchanged();
    report.quality = None;
    report.package = None;
    report.gates.clear();
    report.candidates.clear();
    report.calibration = None;
    report.front.clear();
    report.budget_unreachable = None;
    report.passes.clear();
    report.artifacts.clear();
    report.backends.clear();
    report.remarks.clear();
    report.stages.clear();
    report.baseline.latency.clear();
    report.baseline.fresh_process.peak_rss_bytes = None;
    report.baseline.fresh_process.idle_rss_bytes = None;
    report
}
