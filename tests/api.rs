//! What a person is told: every rule of the `BakeJob` schema, by an object that keeps it and one that breaks it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;

use bakehouse::api::load;
use serde_json::{Value, json};

fn minimal() -> Value {
    json!({
        "apiVersion": "bakehouse.dev/v1alpha1",
        "kind": "BakeJob",
        "metadata": {"name": "digits-cnn"},
        "spec": {"source": {"uri": "model.onnx"}, "data": {"validation": {"uri": "val.npz"}}, "output": {"uri": "out"}},
    })
}

/// Sets `path` (a JSON pointer, `/spec` understood) to `value`; null removes.
fn with(mut object: Value, path: &str, value: Value) -> Value {
    let full = if path.starts_with("/metadata") || path.starts_with("/status") || !path.starts_with('/') {
        path.to_owned()
    } else {
        format!("/spec{path}")
    };
    let mut at = &mut object;
    for part in full.trim_start_matches('/').split('/') {
        if at.is_null() {
            *at = json!({});
        }
        at = &mut at[part.replace("~1", "/")];
    }
    *at = value;
    object
}

fn said(object: &Value, old: Option<&Value>) -> Vec<String> {
    load::admit(object, old).err().unwrap_or_default().iter().map(ToString::to_string).collect()
}

#[test]
fn accepted_objects() {
    let digest = format!("sha256:{}", "0a".repeat(32));
    let rows: Vec<(&str, Value)> = vec![
        ("/source/uri", json!("/models/model.onnx")),
        ("/source/uri", json!("../model.onnx")),
        ("/source/uri", json!("file:///models/model.onnx")),
        ("/source/uri", json!("s3://models/phase5/digits-cnn/")),
        ("/source/uri", json!("oci://registry.example/models/m@sha256:0a")),
        ("/source/uri", json!("https://example.org/model.onnx")),
        ("/source/digest", json!(digest)),
        ("/data/calibration", json!({"uri": "pvc://claim/cal.npz", "samples": 256})),
        ("/data/training", json!({"uri": "gs://b/train.npz"})),
        ("/data/validation", json!({"uri": "v.npz", "metric": "TopK", "topK": 3, "outputs": ["logits"]})),
        ("/data/validation", json!({"uri": "v.npz", "metric": "ArgmaxSequence"})),
        (
            "/storage",
            json!({"endpoint": "https://s3.example", "region": "eu", "pathStyle": true, "caBundle": {"configMapName": "ca"}, "credentials": {"secretName": "s"}}),
        ),
        (
            "/optimization",
            json!({"level": "Maximum", "goal": "Size", "passes": ["weights-int8"], "exclude": ["/head/*"], "seed": 7}),
        ),
        ("/optimization", json!({"recipe": {"uri": "recipe.json", "sha256": digest}})),
        (
            "/hardware",
            json!({"device": "CUDA", "fallback": "None", "gpu": {"count": 2, "minMemory": "16Gi", "minComputeCapability": "8.0"}}),
        ),
        ("/hardware", json!({"device": "CPU", "cpu": {"threads": 1, "features": ["avx512_vnni"]}})),
        ("/hardware", json!({"gpu": {}})),
        ("/runtime", json!("OnnxRuntime")),
        (
            "/profile",
            json!({"batchSizes": [1, 8, 32], "shapes": {"input_ids": [1, 128]}, "warmup": 0, "iterations": 10}),
        ),
        (
            "/gates",
            json!([{"metric": "AccuracyRetention", "min": "0.95"}, {"metric": "LatencyP99", "max": "50ms"}, {"metric": "PeakMemory", "max": "100Mi"}, {"metric": "Speedup", "min": "1.5"}]),
        ),
        (
            "/gates",
            json!([{"metric": "Jitter", "max": "200us"}, {"metric": "LatencyCV", "max": "0.2"}, {"metric": "FileSize", "max": "1048576"}, {"metric": "Throughput", "min": "30"}]),
        ),
        ("/gates", json!([{"metric": "SizeReduction", "min": "1"}, {"metric": "ParameterReduction", "min": "0"}])),
        ("/gates", json!([])),
        ("/exports", json!(["ONNX", "Phase7", "NNEF", "SafeTensors", "OCI", "ONNXStandard"])),
        ("/output", json!({"uri": "az://c/baked/", "onDelete": "Delete", "keepRuns": 1, "keepDays": 3650})),
        ("/promotion", json!({"policy": "Manual", "uri": "s3://phase7/", "approvedDigest": digest})),
        ("/promotion", json!({"policy": "Automatic", "uri": "s3://phase7/"})),
        (
            "/worker",
            json!({"image": "w:1", "imagePullSecrets": [{"name": "r"}], "resources": {"limits": {"cpu": "2", "memory": "4Gi"}}, "nodeSelector": {"a/b": "c"},
            "tolerations": [{"key": "gpu", "operator": "Exists"}], "env": [{"name": "A", "value": "b"}, {"name": "S", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}],
            "envFrom": [{"configMapRef": {"name": "c"}}], "volumes": [{"name": "v", "emptyDir": {}}], "volumeMounts": [{"name": "v", "mountPath": "/v"}],
            "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": []}}}, "labels": {"team": "a"}, "annotations": {"x": "y"},
            "priorityClassName": "p", "runtimeClassName": "nvidia", "serviceAccountName": "sa"}),
        ),
        (
            "/worker/resources",
            json!({"limits": {"cpu": 2, "memory": "4Gi", "nvidia.com/gpu": 1}, "requests": {"cpu": 0.5}}),
        ),
        ("/worker/env", json!([{"name": "EMPTY", "value": null}])),
        ("/worker/volumes", json!([{"name": "v", "emptyDir": {"sizeLimit": 1_073_741_824}}])),
        ("/suspend", json!(true)),
        ("/activeDeadlineSeconds", json!(7200)),
        ("/backoffLimit", json!(0)),
        ("/ttlSecondsAfterFinished", Value::Null),
        ("/ttlSecondsAfterFinished", json!(0)),
        ("/cache", json!("Refresh")),
        ("/metadata/labels", json!({"kueue.x-k8s.io/queue-name": "q"})),
    ];
    for (path, value) in rows {
        let object = with(minimal(), path, value);
        assert_eq!(said(&object, None), Vec::<String>::new(), "{path}: {object}");
    }
}

#[test]
fn rejected_objects_and_what_is_said() {
    let uri = "must be a path, or start with file://, s3://, gs://, az://, oci://, pvc:// or https://";
    let writable = "must be a path, or start with file://, s3://, gs://, az://, oci:// or pvc://";
    let digest = "must be sha256: and 64 lower-case hexadecimal digits";
    let bytes = "must be a number of bytes, with or without a suffix: 100Mi, 2G or 1048576";
    let decimal = "must be a decimal number such as \"0.95\", without percent sign or exponent";
    let gate = |metric: &str, bound: &str, value: &str| json!([{"metric": metric, bound: value}]);
    let rows: Vec<(&str, Value, Vec<String>)> = vec![
        // Names.
        ("/metadata/name", Value::Null, vec!["metadata.name: is required".into()]),
        ("/metadata/name", json!(12), vec!["metadata.name: must be a string; write it in quotes: \"12\"".into()]),
        ("/metadata/name", json!("Digits_CNN"), vec!["metadata.name: must be lower-case letters, digits and dashes, because Jobs and labels are named after it".into()]),
        ("/metadata/name", json!("a".repeat(53)), vec!["metadata.name: has 53 characters; at most 52 are allowed".into()]),
        ("/metadata/nmae", json!("x"), vec!["metadata.nmae: unknown field; did you mean 'name'?".into()]),
        ("/metadata/labels", json!({"a": 1}), vec!["metadata.labels.a: must be a string; write it in quotes: \"1\"".into()]),
        ("kind", json!("BakeJobs"), vec!["kind: must be BakeJob, not BakeJobs".into()]),
        ("apiVersion", json!("v1"), vec!["apiVersion: must be bakehouse.dev/v1alpha1, not v1".into()]),
        ("kind", Value::Null, vec!["kind: is required: write kind: BakeJob".into()]),
        ("spek", json!({}), vec!["spek: unknown field; did you mean 'spec'?".into()]),
        // Unknown fields and wrong types.
        ("/optimization/levle", json!("Light"), vec!["spec.optimization.levle: unknown field; did you mean 'level'?".into()]),
        ("/colour", json!("red"), vec!["spec.colour: unknown field; allowed are activeDeadlineSeconds, backoffLimit, cache, data, exports, gates, hardware, managedBy, optimization, output, profile, promotion, runtime, source, storage, suspend, ttlSecondsAfterFinished, worker".into()]),
        ("/hardware/cpu/cores", json!(2), vec!["spec.hardware.cpu.cores: unknown field; allowed are features, threads".into()]),
        ("/gates", json!([{"metric": "Speedup", "minimum": "2"}]), vec!["spec.gates[0].minimum: unknown field; allowed are max, metric, min".into()]),
        ("/suspend", json!("yes"), vec!["spec.suspend: must be true or false, not the string \"yes\"".into()]),
        ("/backoffLimit", json!("3"), vec!["spec.backoffLimit: must be a whole number, not the string \"3\"".into()]),
        ("/backoffLimit", json!(1.5), vec!["spec.backoffLimit: must be a whole number, not the number 1.5".into()]),
        ("/source", json!("model.onnx"), vec!["spec.source: must be a mapping, not the string \"model.onnx\"".into()]),
        ("/exports", json!("ONNX"), vec!["spec.exports: must be a list, not the string \"ONNX\"".into()]),
        ("/optimization/level", json!(1), vec!["spec.optimization.level: must be a string, not the number 1; allowed are Conservative, Light, Medium, Aggressive, Maximum".into()]),
        ("/hardware/gpu", json!({"minComputeCapability": 8.0}), vec!["spec.hardware.gpu.minComputeCapability: must be a string, not the number 8.0; write it in quotes: \"8.0\"".into()]),
        ("/gates", json!([{"metric": "Speedup", "min": 1.5}]), vec!["spec.gates[0].min: must be a string, not the number 1.5; write it in quotes: \"1.5\"".into()]),
        ("/worker/labels", json!({"a/b": 1}), vec!["spec.worker.labels[\"a/b\"]: must be a string, not the number 1; write it in quotes: \"1\"".into()]),
        // Required fields.
        ("/source", Value::Null, vec!["spec.source: is required: The trained model".into()]),
        ("/output", json!({}), vec!["spec.output.uri: is required: A folder or prefix".into()]),
        ("/gates", json!([{"min": "1"}]), vec!["spec.gates[0].metric: is required: What is measured".into()]),
        // Closed lists.
        ("/optimization/level", json!("light"), vec!["spec.optimization.level: \"light\" is not allowed; use one of Conservative, Light, Medium, Aggressive, Maximum; did you mean 'Light'?".into()]),
        ("/optimization/goal", json!("Speed"), vec!["spec.optimization.goal: \"Speed\" is not allowed; use one of Latency, Size, Balanced".into()]),
        ("/exports", json!(["ONXN"]), vec!["spec.exports[0]: \"ONXN\" is not allowed; use one of ONNX, ONNXStandard, NNEF, SafeTensors, OCI, Phase7; did you mean 'ONNX'?".into()]),
        ("/runtime", json!("TensorRT"), vec!["spec.runtime: \"TensorRT\" is not allowed; use one of Bakehouse, OnnxRuntime".into()]),
        // Bounds.
        ("/backoffLimit", json!(21), vec!["spec.backoffLimit: must be between 0 and 20, not 21".into()]),
        ("/activeDeadlineSeconds", json!(0), vec!["spec.activeDeadlineSeconds: must be between 1 and 31536000, not 0".into()]),
        ("/profile", json!({"iterations": 5}), vec!["spec.profile.iterations: must be between 10 and 1000000, not 5".into()]),
        ("/profile", json!({"batchSizes": [1, 0]}), vec!["spec.profile.batchSizes[1]: must be between 1 and 4096, not 0".into()]),
        ("/profile", json!({"shapes": {"x": [1, -1]}}), vec!["spec.profile.shapes.x[1]: must be between 1 and 1000000, not -1".into()]),
        ("/optimization/seed", json!(-1), vec!["spec.optimization.seed: must be between 0 and 9007199254740991, not -1".into()]),
        ("/source/uri", json!(""), vec!["spec.source.uri: must not be empty".into()]),
        ("/source/uri", json!("x".repeat(2049)), vec!["spec.source.uri: has 2049 characters; at most 2048 are allowed".into()]),
        ("/exports", json!([]), vec!["spec.exports: needs at least 1 item".into()]),
        ("/profile", json!({"batchSizes": [1, 2, 3, 4, 5, 6, 7, 8, 9]}), vec!["spec.profile.batchSizes: has 9 items; at most 8 are allowed".into()]),
        ("/worker/labels", json!((0..33).map(|i| (format!("l{i}"), "v".to_owned())).collect::<std::collections::BTreeMap<_, _>>()), vec!["spec.worker.labels: has 33 entries; at most 32 are allowed".into()]),
        // Sets and maps.
        ("/exports", json!(["ONNX", "ONNX"]), vec!["spec.exports[1]: ONNX is listed twice".into()]),
        ("/profile", json!({"batchSizes": [8, 8]}), vec!["spec.profile.batchSizes[1]: 8 is listed twice".into()]),
        ("/gates", json!([{"metric": "Speedup", "min": "1"}, {"metric": "Speedup", "min": "2"}]), vec!["spec.gates[1]: Speedup is listed twice".into()]),
        // Formats.
        ("/source/uri", json!("ftp://x/model.onnx"), vec![format!("spec.source.uri: {uri}")]),
        ("/source/uri", json!("s3://"), vec![format!("spec.source.uri: {uri}")]),
        ("/data/calibration", json!({"uri": "http://x/c.npz"}), vec![format!("spec.data.calibration.uri: {uri}")]),
        ("/output/uri", json!("https://x/out"), vec![format!("spec.output.uri: {writable}")]),
        ("/source/digest", json!("sha256:abc"), vec![format!("spec.source.digest: {digest}")]),
        ("/optimization/recipe", json!({"uri": "r.json", "sha256": "md5:0"}), vec![format!("spec.optimization.recipe.sha256: {digest}")]),
        ("/hardware/gpu", json!({"minMemory": "16GB"}), vec![format!("spec.hardware.gpu.minMemory: {bytes}")]),
        ("/hardware/gpu", json!({"minComputeCapability": "8"}), vec!["spec.hardware.gpu.minComputeCapability: must be major.minor in quotes, such as \"8.0\"".into()]),
        ("/hardware/gpu", json!({"resourceName": "gpu"}), vec!["spec.hardware.gpu.resourceName: must be domain/name, such as nvidia.com/gpu".into()]),
        ("/hardware/cpu", json!({"features": ["AVX2"]}), vec!["spec.hardware.cpu: features are lower-case instruction sets such as avx2 or avx512_vnni".into()]),
        ("/storage", json!({"endpoint": "s3.example"}), vec!["spec.storage.endpoint: must start with https:// or http://".into()]),
        ("/optimization/exclude", json!(["a b"]), vec!["spec.optimization: exclude holds node names or globs such as /head/*, without spaces".into()]),
        ("/worker/labels", json!({"bakehouse.dev/run": "1"}), vec!["spec.worker.labels: labels of bakehouse.dev/ are set by the controller".into()]),
        // Unions, and fields that go together.
        ("/gates", json!([{"metric": "Speedup"}]), vec!["spec.gates[0]: set exactly one of min and max".into()]),
        ("/gates", json!([{"metric": "Speedup", "min": "1", "max": "2"}]), vec!["spec.gates[0]: set exactly one of min and max".into()]),
        ("/optimization", json!({"recipe": {"uri": "r.json"}, "passes": ["x"]}), vec!["spec.optimization: a recipe fixes every pass: set either recipe, or passes and exclude".into()]),
        ("/data/validation", json!({"uri": "v.npz", "metric": "Top1", "topK": 3}), vec!["spec.data.validation: topK is only for metric TopK".into()]),
        ("/hardware", json!({"device": "CPU", "gpu": {}}), vec!["spec.hardware: gpu is only for device CUDA or Auto".into()]),
        ("/promotion", json!({"policy": "Automatic"}), vec!["spec.promotion: policy Automatic or Manual needs uri: where to promote to".into()]),
        ("/promotion", json!({"approvedDigest": format!("sha256:{}", "0".repeat(64))}), vec!["spec.promotion: approvedDigest is only for policy Manual".into()]),
        // Gates.
        ("/gates", gate("LatencyP99", "min", "50ms"), vec!["spec.gates[0]: LatencyP99 is better when lower: give it max, not min".into()]),
        ("/gates", gate("AccuracyRetention", "max", "0.95"), vec!["spec.gates[0]: AccuracyRetention is better when higher: give it min, not max".into()]),
        ("/gates", gate("LatencyP50", "max", "50"), vec!["spec.gates[0]: max must be a duration with its unit: 50ms, 1.5s or 200us".into()]),
        ("/gates", gate("PeakMemory", "max", "100MB"), vec![format!("spec.gates[0]: max {bytes}")]),
        ("/gates", gate("AccuracyRetention", "min", "95%"), vec![format!("spec.gates[0]: {decimal}")]),
        ("/gates", gate("Speedup", "min", "1e3"), vec![format!("spec.gates[0]: {decimal}")]),
        ("/gates", gate("LatencyCV", "max", "5%"), vec![format!("spec.gates[0]: {decimal}")]),
        ("/gates", gate("OutputConsistency", "min", "95"), vec!["spec.gates[0]: min is a share between 0 and 1: 95 percent is \"0.95\"".into()]),
        ("/gates", gate("Perplexity", "max", "5"), vec!["spec.gates[0].metric: \"Perplexity\" is not allowed; use one of AccuracyRetention, OutputConsistency, FeaturePreservation, DistributionSimilarity, Speedup, LatencyP50, LatencyP95, LatencyP99, Jitter, LatencyCV, Throughput, PeakMemory, FileSize, SizeReduction, ParameterReduction".into()]),
        // Pod-level parts, whose schema is their type.
        ("/worker/env", json!([{"name": "THREADS", "value": 4}]), vec!["spec.worker.env[0].value: must be a string, not the number 4; write it in quotes: \"4\"".into()]),
        ("/worker/env", json!([{"value": "4"}]), vec!["spec.worker.env[0].name: is required".into()]),
        ("/metadata/annotations", json!(["a"]), vec!["metadata: invalid type: sequence, expected a map".into()]),
        ("/worker/resources", json!({"limit": {"cpu": "1"}}), vec!["spec.worker.resources.limit: unknown field".into()]),
        ("/worker/tolerations", json!([{"key": "a", "efect": "NoSchedule"}]), vec!["spec.worker.tolerations[0].efect: unknown field".into()]),
    ];
    assert!(rows.len() >= 40);
    for (path, value, expected) in rows {
        let object = with(minimal(), path, value);
        assert_eq!(said(&object, None), expected, "{path}");
    }
}

/// An old object with a run that has started, and ended where `ended`.
fn old(started: bool, ended: bool) -> Value {
    let mut status = json!({"observedGeneration": 1});
    if started {
        status["startTime"] = json!("2026-01-01T00:00:00Z");
    }
    if ended {
        status["completionTime"] = json!("2026-01-01T00:10:00Z");
    }
    with(minimal(), "/status", status)
}

#[test]
fn what_decides_the_artifact_is_frozen_while_a_run_is_active() {
    let frozen: [(&str, Value, &str); 12] = [
        ("/source/uri", json!("other.onnx"), "spec.source"),
        ("/source/digest", json!(format!("sha256:{}", "0".repeat(64))), "spec.source"),
        ("/data/calibration", json!({"uri": "c.npz"}), "spec.data"),
        ("/optimization/level", json!("Conservative"), "spec.optimization"),
        ("/hardware/device", json!("CPU"), "spec.hardware"),
        ("/runtime", json!("Bakehouse"), "spec.runtime"),
        ("/profile/iterations", json!(50), "spec.profile"),
        ("/gates", json!([{"metric": "Speedup", "min": "1"}]), "spec.gates"),
        ("/exports", json!(["Phase7"]), "spec.exports"),
        ("/output/uri", json!("elsewhere"), "spec.output.uri"),
        ("/worker/image", json!("worker:2"), "spec.worker.image"),
        ("/optimization/exclude", json!(["/head/*"]), "spec.optimization"),
    ];
    for (path, value, field) in frozen {
        for (started, ended) in [(false, false), (true, false), (true, true)] {
            let old = old(started, ended);
            let new = with(old.clone(), path, value.clone());
            let expected: Vec<String> = if started && !ended {
                vec![format!("{field}: is frozen while a run is active; wait for its end, or delete the BakeJob")]
            } else {
                Vec::new()
            };
            assert_eq!(said(&new, Some(&old)), expected, "{path}, started {started}, ended {ended}");
        }
    }
}

#[test]
fn control_fields_may_change_while_a_run_is_active() {
    let old = old(true, false);
    for (path, value) in [
        ("/suspend", json!(true)),
        ("/promotion", json!({"policy": "Never", "uri": "s3://phase7/"})),
        ("/ttlSecondsAfterFinished", json!(60)),
        ("/activeDeadlineSeconds", json!(60)),
        ("/backoffLimit", json!(1)),
        ("/cache", json!("Off")),
        ("/output/keepRuns", json!(1)),
        ("/worker/priorityClassName", json!("high")),
        ("/metadata/labels", json!({"a": "b"})),
        ("/status/progress", json!(50)),
        ("/status/completionTime", json!("2026-01-01T00:10:00Z")),
    ] {
        assert_eq!(said(&with(old.clone(), path, value), Some(&old)), Vec::<String>::new(), "{path}");
    }
}

#[test]
fn rules_see_an_object_only_once_it_fits_the_schema_and_all_problems_come_at_once() {
    let object =
        with(with(minimal(), "/source/uri", json!("ftp://x")), "/gates", json!([{"metric": "LatencyP99", "min": "1"}]));
    assert_eq!(said(&object, None).len(), 2);
    let object = with(with(object, "/suspend", json!(1)), "/optimization/levle", json!(1));
    assert_eq!(
        said(&object, None),
        [
            "spec.suspend: must be true or false, not the number 1",
            "spec.optimization.levle: unknown field; did you mean 'level'?"
        ]
    );
}

fn parse(yaml: &str) -> Result<Vec<bakehouse::api::BakeJob>, String> {
    load::parse(yaml, Path::new("jobs/a.yaml")).map_err(|e| {
        assert_eq!(e.reason().exit_code(), 2);
        e.to_string()
    })
}

const JOB: &str = "apiVersion: bakehouse.dev/v1alpha1\nkind: BakeJob\nmetadata: {name: NAME}\nspec:\n  source: {uri: m.onnx}\n  output: {uri: out}\n";

#[test]
fn a_file_may_hold_several_jobs() {
    let text = format!("---\n{}---\n{}---\n", JOB.replace("NAME", "a"), JOB.replace("NAME", "b"));
    let names: Vec<_> = parse(&text).unwrap().into_iter().map(|j| j.metadata.name.unwrap()).collect();
    assert_eq!(names, ["a", "b"]);
}

#[test]
fn a_status_in_the_file_is_dropped() {
    let text = JOB.replace("NAME", "a") + "status: {observedGeneration: 4, nonsense: true}\n";
    assert_eq!(parse(&text).unwrap()[0].status.as_ref().and_then(|s| s.observed_generation), Some(-1));
}

#[test]
fn a_file_that_is_wrong_says_where_and_what_to_do() {
    assert_eq!(
        parse(&(JOB.replace("NAME", "a") + "  optimization: {levle: Light}\n")).unwrap_err(),
        "jobs/a.yaml: BakeJob a is not valid:\n  spec.optimization.levle: unknown field; did you mean 'level'?\nCorrect these fields; `bakehouse init` writes a commented example."
    );
    assert_eq!(
        parse("").unwrap_err(),
        "jobs/a.yaml: no BakeJob in this file. `bakehouse init` writes one to start from."
    );
    assert_eq!(
        parse("# only a comment\n---\n").unwrap_err(),
        "jobs/a.yaml: no BakeJob in this file. `bakehouse init` writes one to start from."
    );
    let second = format!("{}---\nkind: Pod\n", JOB.replace("NAME", "a"));
    assert!(
        parse(&second)
            .unwrap_err()
            .starts_with("jobs/a.yaml: BakeJob number 2 is not valid:\n  apiVersion: is required"),
        "{:?}",
        parse(&second)
    );
    assert!(
        parse("just a sentence").unwrap_err().contains("must be a mapping with apiVersion, kind, metadata and spec")
    );
    for broken in ["a: [", "a: b: c", "a: 1\na: 2", "a: \"x"] {
        let said = parse(broken).unwrap_err();
        assert!(said.starts_with("jobs/a.yaml: not valid YAML: line "), "{said}");
    }
}
