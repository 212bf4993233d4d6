//! From measurements to figures: what gates read, the verdict in words, the report and its short form.

use super::choose::Chosen;
use super::front::front;
use super::intake::Loaded;
use super::report::{
    BatchLatency, BatchSpeedup, CandidateFigures, DataFigures, JobFigures, ModelFigures, OutcomeFigures,
    REPORT_VERSION, Report,
};
use super::summary::{GateLine, Interval, ResultFigures, Summary};
use super::timing::Timer;
use super::{Options, Search, StageRecord};
use crate::api::bakejob::Verdict;
use crate::api::metric::Unit;
use crate::api::{Metric, Reason, ResolvedJob};
use crate::engine::blocks;
use crate::hardware::detect::MachineFacts;
use crate::model::Tensor;
use crate::profiler::latency::quantile_interval;
use crate::quality::{self, Evaluation, Figure, Figures, GateResult, MetricKind, OutputPair, QualityReport, TapPair};

/// How quality is judged in this job.
pub(super) fn evaluation<'a>(
    job: &ResolvedJob,
    loaded: &Loaded,
    pairs: (Vec<OutputPair>, Vec<TapPair>),
    labels: Option<&'a Tensor>,
) -> Evaluation<'a> {
    let metric = job.validation.metric.map(|named| MetricKind::of(named, job.validation.top_k as u32));
    let gated_outputs = if job.validation.outputs.is_empty() {
        blocks::judged_outputs(&loaded.model)
    } else {
        job.validation.outputs.clone()
    };
    Evaluation { outputs: pairs.0, taps: pairs.1, labels, metric, gated_outputs: Some(gated_outputs), seed: job.seed }
}

/// Every figure that a gate may read. `speedup` is `None` when the artifact is the input: then no speedup is claimed.
pub(super) fn gate_figures(
    quality: &QualityReport,
    baseline: &ModelFigures,
    baked: &ModelFigures,
    speedup: Option<&[BatchSpeedup]>,
) -> Figures {
    let mut figures = quality.figures();
    figures.insert(Metric::FileSize, Figure::exact(baked.bytes as f64));
    figures.insert(Metric::SizeReduction, Figure::exact(1.0 - baked.bytes as f64 / baseline.bytes as f64));
    if baseline.stats.parameters.non_zero > 0 {
        let left = baked.stats.parameters.non_zero as f64 / baseline.stats.parameters.non_zero as f64;
        figures.insert(Metric::ParameterReduction, Figure::exact(1.0 - left));
    }
    if let Some(peak) = baked.fresh_process.peak_rss_bytes {
        figures.insert(Metric::PeakMemory, Figure::exact(peak as f64));
    }
    match speedup {
        None => {
            figures.insert(Metric::Speedup, Figure::exact(1.0));
        }
        Some(batches) => {
            if let Some(paired) = batches.first().map(|b| &b.paired) {
                let interval = quality::stats::Interval { lower: paired.lower, upper: paired.upper };
                figures.insert(
                    Metric::Speedup,
                    Figure::new(
                        paired.ratio,
                        Some(interval),
                        paired.ratios.len(),
                        "median of paired ratios, order statistics",
                    ),
                );
            }
        }
    }
    if let Some(first) = baked.latency.first() {
        latency_figures(first, &mut figures);
    }
    figures
}

/// Samples that a 95 % interval of the 95th percentile needs: the least n for which 1 - 0.95^n > 0.975.
const SAMPLES_FOR_P95: usize = 72;

/// The same of the 99th percentile: 1 - 0.99^n > 0.975.
pub(super) const SAMPLES_FOR_P99: usize = 368;

/// Latency figures of one batch size, with intervals from order statistics.
pub(super) fn latency_figures(first: &BatchLatency, figures: &mut Figures) {
    let mut sorted = first.samples.seconds.clone();
    sorted.sort_by(f64::total_cmp);
    let n = sorted.len();
    let figure = |estimate: f64, [lower, upper]: [f64; 2]| {
        Figure::new(estimate, Some(quality::stats::Interval { lower, upper }), n, "order statistics")
    };
    let summary = &first.summary;
    let median = quantile_interval(&sorted, 0.5);
    figures.insert(Metric::LatencyP50, figure(summary.p50, median));
    // With fewer samples no order statistic bounds these quantiles from above at 95 %; then there is no interval, and no gate passes.
    if let Some(p95) = summary.p95.filter(|_| n >= SAMPLES_FOR_P95) {
        figures.insert(Metric::LatencyP95, figure(p95, quantile_interval(&sorted, 0.95)));
    }
    if let Some(p99) = summary.p99.filter(|_| n >= SAMPLES_FOR_P99) {
        let tail = quantile_interval(&sorted, 0.99);
        figures.insert(Metric::LatencyP99, figure(p99, tail));
        figures
            .insert(Metric::Jitter, figure(p99 - summary.p50, [(tail[0] - median[1]).max(0.0), tail[1] - median[0]]));
    }
    let rows = first.batch as f64;
    figures.insert(Metric::Throughput, figure(first.throughput, [rows / median[1], rows / median[0]]));
    // Normal-theory interval of a coefficient of variation (Miller 1991), wide enough for the use: a gate on stability.
    let cv = summary.cv;
    let half = 1.96 * cv * ((0.5 + cv * cv) / n.max(2) as f64).sqrt();
    figures.insert(Metric::LatencyCV, figure(cv, [(cv - half).max(0.0), cv + half]));
}

/// Reason and sentence for a candidate whose gates are decided.
pub(super) fn verdict(name: &str, gates: &[GateResult]) -> (Reason, String) {
    match quality::overall(gates) {
        Verdict::Pass => (Reason::Baked, format!("{name}: every gate passed.")),
        Verdict::Fail => (Reason::GateFailed, format!("{name}: {}", worst_gate(gates))),
        Verdict::Inconclusive => (Reason::GateInconclusive, format!("{name}: {}", worst_gate(gates))),
    }
}

/// The gate that keeps a result from passing, in words: a failed one before an inconclusive one.
pub(super) fn worst_gate(gates: &[GateResult]) -> String {
    let by = |verdict| gates.iter().find(|g| g.verdict == verdict);
    by(Verdict::Fail)
        .or_else(|| by(Verdict::Inconclusive))
        .map_or_else(|| "every gate passed".to_owned(), |g| g.message.clone())
}

/// A gate as a line of the result table.
pub(super) fn gate_line(gate: &GateResult) -> GateLine {
    let unit = gate.metric.unit();
    let threshold = match (gate.min, gate.max) {
        (Some(least), _) => format!(">= {}", show(unit, least)),
        (None, Some(most)) => format!("<= {}", show(unit, most)),
        (None, None) => String::new(),
    };
    let observed = match (gate.observed, gate.interval) {
        (None, _) => "no data".to_owned(),
        (Some(e), Some(i)) if i.lower < i.upper => {
            format!("{} [{}, {}] n={}", show(unit, e), show(unit, i.lower), show(unit, i.upper), gate.n)
        }
        (Some(e), _) => show(unit, e),
    };
    GateLine { metric: gate.metric.to_string(), threshold, observed, verdict: format!("{:?}", gate.verdict) }
}

fn show(unit: Unit, value: f64) -> String {
    match unit {
        // Four figures are more than any clock here is good for.
        Unit::Seconds if value < 1e-3 => format!("{:.1} us", value * 1e6),
        Unit::Seconds if value < 1.0 => format!("{:.3} ms", value * 1e3),
        Unit::Seconds => format!("{value:.3} s"),
        Unit::Bytes => format!("{:.1} MB", value / 1e6),
        Unit::PerSecond => format!("{value:.0}/s"),
        Unit::Ratio | Unit::Share => format!("{value:.4}"),
    }
}

/// The whole report, but for the artifacts.
#[allow(clippy::too_many_arguments)]
pub(super) fn report(
    job: &ResolvedJob,
    options: &Options,
    loaded: &Loaded,
    timer: &Timer,
    machine: MachineFacts,
    search: Search,
    baseline: ModelFigures,
    chosen: &Chosen,
    stages: Vec<StageRecord>,
    remarks: Vec<String>,
) -> Report {
    let mut passes = search.lossless;
    passes.extend(chosen.records.iter().cloned());
    let candidates = search.candidates.into_iter().map(|c| CandidateFigures {
        chosen: c.name == chosen.name,
        nodes: c.nodes,
        name: c.name,
        bytes: c.bytes,
        quality: c.quality,
        deviation: c.deviation,
        speed: c.speed,
        passes: c.records,
        left_out: c.left_out,
        refused: c.refused,
        missed: c.missed,
        scan: c.scan,
    });
    let candidates: Vec<CandidateFigures> = candidates.collect();
    Report {
        api_version: REPORT_VERSION.to_owned(),
        bakehouse: env!("CARGO_PKG_VERSION").to_owned(),
        job: JobFigures {
            name: job.name.clone(),
            spec_digest: job.spec_digest.clone(),
            level: format!("{:?}", job.level),
            goal: format!("{:?}", job.goal),
            seed: job.seed,
        },
        outcome: OutcomeFigures {
            reason: chosen.reason,
            message: chosen.message.clone(),
            gate_passed: match quality::overall(&chosen.gates) {
                Verdict::Pass => Some(true),
                Verdict::Fail => Some(false),
                Verdict::Inconclusive => None,
            },
            candidate: chosen.name.clone(),
        },
        stages,
        machine,
        engine: loaded.engine.engine.id().clone(),
        threads: timer.threads(),
        clock: if timer.cpu_time() { "thread CPU" } else { "wall" }.to_owned(),
        backends: options.engines.backends().to_vec(),
        intake: loaded.notes.clone(),
        package: None,
        remarks,
        data: DataFigures {
            calibration_samples: loaded.calibration.len(),
            validation_samples: loaded.validation.len(),
            labelled: loaded.validation.labels.is_some(),
            search: loaded.split.search.clone(),
            verdict: loaded.split.verdict.clone(),
            taps: loaded.taps.clone(),
            files: loaded.files.clone(),
        },
        passes,
        calibration: search.calibration,
        search: search.ran,
        front: front(&candidates),
        candidates,
        budget_unreachable: None,
        baseline,
        baked: (!chosen.is_input()).then(|| chosen.figures.clone()),
        speedup: chosen.speedup.clone(),
        quality: Some(chosen.quality.clone()),
        gates: chosen.gates.clone(),
        engine_fusion: chosen.engine_fusion.clone(),
        cache: None,
        artifacts: Vec::new(),
    }
}

/// The short form of a report, whose file has this digest.
pub(super) fn summary(
    job: &ResolvedJob,
    report: &Report,
    report_sha256: String,
    seconds: f64,
    peak_rss_bytes: Option<u64>,
) -> Summary {
    let baked = report.baked.as_ref().unwrap_or(&report.baseline);
    let retention = report.quality.as_ref().and_then(|q| interval(&q.accuracy_retention));
    let speedup = report.speedup.first().map(|s| &s.paired);
    let speedup = speedup.map(|p| Interval { estimate: p.ratio, lower: p.lower, upper: p.upper, n: p.ratios.len() });
    Summary {
        job: job.name.clone(),
        reason: report.outcome.reason,
        message: report.outcome.message.clone(),
        seconds,
        peak_rss_bytes,
        result: Some(ResultFigures {
            plan: format!("{}/{}", report.job.level, report.job.goal),
            engine: report.engine.to_string(),
            candidate: report.outcome.candidate.clone(),
            folder: job.output.clone(),
            sha256: Some(baked.sha256.clone()),
            bytes: [report.baseline.bytes, baked.bytes],
            nodes: [report.baseline.stats.nodes.computing, baked.stats.nodes.computing],
            speedup,
            retention,
            gates: report.gates.iter().map(gate_line).collect(),
            report: job.output.join("report.html"),
            report_sha256,
        }),
    }
}

fn interval(figure: &Figure) -> Option<Interval> {
    Some(Interval { estimate: figure.estimate?, lower: figure.lower?, upper: figure.upper?, n: figure.n })
}
