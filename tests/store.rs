//! Bakes from and to a real S3 server: versitygw, whose buckets are folders, so that each test looks at what really lies in them.
//!
//! Skipped when the server is not found by `BAKEHOUSE_VERSITYGW` or in the cache, where `make test` puts it; with `BAKEHOUSE_REQUIRE_S3=1` that is a
//! failure. `store/` has the faults, web servers and the other clouds.
#![cfg(all(feature = "tract", feature = "store"))]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "phase5/checkpoint.rs"]
mod checkpoint;
#[path = "store/clouds.rs"]
mod clouds;
#[path = "store/faults.rs"]
mod faults;
mod s3;
#[path = "store/web.rs"]
mod web;

use std::fs;
use std::net::TcpListener;
use std::path::Path;

use bakehouse::api::Reason;
use bakehouse::api::digest::sha256_hex;
use bakehouse::model::{Model, Tensor};
use s3::pod::{Pod, example};
use s3::server::{Server, gateway};
use s3::stall::Stall;
use s3::wide;
use serde_json::{Value, json};

/// A bake of the perceptron, all of it in buckets.
fn perceptron() -> Value {
    json!({
        "source": {"uri": "s3://models/mlp/model.onnx"},
        "data": {"validation": {"uri": "s3://data/mlp/validation.npz", "metric": "Top1"}, "calibration": {"uri": "s3://data/mlp/calibration.npz"}},
        "optimization": {"level": "Conservative"},
        "output": {"uri": "s3://baked/mlp/"},
        "runtime": "Bakehouse",
    })
}

fn with(mut spec: Value, field: &str, value: Value) -> Value {
    spec[field] = value;
    spec
}

fn stocked() -> Option<Server> {
    let server = Server::start(&gateway()?);
    for name in ["model.onnx", "validation.npz", "calibration.npz"] {
        let bucket = if name == "model.onnx" { "models" } else { "data" };
        server.put(bucket, &format!("mlp/{name}"), &fs::read(example("mlp", name)).unwrap());
    }
    server.bucket("baked");
    Some(server)
}

/// Every file that the report in this folder of a bucket names is there with the digest that it names.
fn assert_published(server: &Server, bucket: &str, folder: &str) -> Value {
    let objects = server.objects(bucket);
    let report: Value = serde_json::from_slice(&objects[&format!("{folder}/report.json")]).unwrap();
    let artifacts = report["artifacts"].as_array().unwrap();
    assert!(artifacts.iter().any(|a| a["file"] == "model.onnx"), "{artifacts:?}");
    for artifact in artifacts {
        let bytes = &objects[&format!("{folder}/{}", artifact["file"].as_str().unwrap())];
        assert_eq!(artifact["sha256"], sha256_hex(bytes), "{}", artifact["file"]);
        assert_eq!(artifact["bytes"], bytes.len());
    }
    let beside = objects.keys().filter(|key| !key.contains("/earlier/")).count();
    assert_eq!(beside, artifacts.len() + 1, "nothing else lies there: {:?}", objects.keys());
    report
}

#[test]
fn a_worker_bakes_from_bucket_to_bucket_and_a_cleanup_deletes_what_it_wrote() {
    let Some(server) = stocked() else { return };
    for name in ["model.onnx", "validation.npz", "calibration.npz", "training.npz"] {
        server.put("models", &format!("cnn/{name}"), &fs::read(example("cnn", name)).unwrap());
    }
    let model = fs::read(example("cnn", "model.onnx")).unwrap();
    let spec = json!({
        "source": {"uri": "s3://models/cnn/model.onnx", "digest": format!("sha256:{}", sha256_hex(&model))},
        "data": {
            "validation": {"uri": "s3://models/cnn/validation.npz", "metric": "Top1"},
            "calibration": {"uri": "s3://models/cnn/calibration.npz"},
            "training": {"uri": "s3://models/cnn/training.npz"},
        },
        "optimization": {"level": "Light", "goal": "Size"},
        "output": {"uri": "s3://baked/cnn/"},
        "runtime": "Bakehouse",
    });
    let outcome = Pod::bake(&server, &spec).ended(0, Reason::Baked);
    let report = assert_published(&server, "baked", "cnn");
    let objects = server.objects("baked");
    let named = outcome.report.unwrap();
    assert_eq!(named.uri, "s3://baked/cnn/report.json");
    assert_eq!(named.sha256, format!("sha256:{}", sha256_hex(&objects["cnn/report.json"])));
    assert_eq!(outcome.artifacts[0].uri, "s3://baked/cnn/model.onnx");
    assert_eq!(outcome.artifacts[0].sha256, format!("sha256:{}", sha256_hex(&objects["cnn/model.onnx"])));
    let read: Vec<&str> =
        report["data"]["files"].as_array().unwrap().iter().map(|f| f["path"].as_str().unwrap()).collect();
    assert!(
        read.contains(&"s3://models/cnn/model.onnx") && read.iter().all(|path| path.starts_with("s3://")),
        "{read:?}"
    );

    server.put("baked", "cnn/notes.txt", b"somebody's own");
    for _ in 0..2 {
        Pod::run(&server, "Clean", &spec, &[]).ended(0, Reason::Baked);
        assert_eq!(server.objects("baked").into_keys().collect::<Vec<_>>(), ["cnn/notes.txt"]);
    }
}

#[test]
fn a_package_is_published_with_the_result_and_verified_from_the_bucket_alone() {
    let Some(server) = stocked() else { return };
    let spec = with(perceptron(), "exports", json!(["ONNX", "Phase7", "SafeTensors"]));
    let outcome = Pod::bake(&server, &spec).outcome();
    assert!(matches!(outcome.reason, Reason::Baked | Reason::NoImprovement), "{}", outcome.message);
    assert_published(&server, "baked", "mlp");
    let listed: Vec<(&str, &str)> = outcome.artifacts.iter().map(|a| (&*a.format, &*a.uri)).collect();
    assert_eq!(
        listed,
        [
            ("ONNX", "s3://baked/mlp/model.onnx"),
            ("SafeTensors", "s3://baked/mlp/weights.safetensors"),
            ("Phase7", "s3://baked/mlp/phase7/manifest.json")
        ]
    );
    let objects = server.objects("baked");
    let manifest = sha256_hex(&objects["mlp/phase7/manifest.json"]);
    assert_eq!(outcome.artifacts[2].sha256, format!("sha256:{manifest}"));

    for (name, bytes) in objects.iter().filter_map(|(key, bytes)| Some((key.strip_prefix("mlp/phase7/")?, bytes))) {
        server.put("handed", name, bytes);
    }
    let refuted = |found: &Value| -> Vec<Value> {
        let checks = found["checks"].as_array().unwrap_or_else(|| panic!("{found}"));
        checks.iter().filter(|c| c["holds"]["state"] == "No").cloned().collect()
    };
    for uri in ["s3://baked/mlp/phase7/", "s3://handed"] {
        let (code, found) = Pod::verify(&server, uri, &["--data", "s3://data/mlp/validation.npz"]);
        // Other work on the machine may leave what hangs on the clock open.
        assert_eq!((matches!(code, Some(0 | 4)), refuted(&found)), (true, vec![]), "{uri}");
    }
    // The result as a whole is fetched too; its inputs are elsewhere.
    let (code, found) = Pod::verify(&server, "s3://baked/mlp/", &[]);
    assert_eq!((code, refuted(&found)), (Some(4), vec![]));

    server.put("handed", "model.onnx", b"another");
    let (code, found) = Pod::verify(&server, "s3://handed/", &[]);
    assert!(
        code == Some(3) && refuted(&found)[0]["holds"]["why"].as_str().unwrap().starts_with("DigestMismatch"),
        "{found}"
    );
    server.remove("handed", "outputs.safetensors");
    let (_, found) = Pod::verify(&server, "s3://handed/", &[]);
    assert!(found.to_string().contains("FileMissing"), "{found}");
    let (code, said) = Pod::verify(&server, "s3://data/", &[]);
    assert!(code == Some(2) && said.to_string().contains("holds neither manifest.json nor report.json"), "{said}");
    let (code, said) = Pod::verify(&server, "s3://nowhere/", &[]);
    assert_eq!(code, Some(2), "{said}");

    Pod::run(&server, "Clean", &spec, &[]).ended(0, Reason::Baked);
    assert!(server.objects("baked").is_empty());
}

#[test]
fn buckets_and_folders_mix() {
    let Some(server) = stocked() else { return };
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let spec = with(perceptron(), "output", json!({"uri": out}));
    let spec = with(spec, "data", json!({"validation": {"uri": example("mlp", "validation.npz"), "metric": "Top1"}}));
    let outcome = Pod::bake(&server, &spec).outcome();
    assert!(matches!(outcome.reason, Reason::Baked | Reason::NoImprovement), "{}", outcome.message);
    assert_eq!(
        outcome.artifacts[0].sha256,
        format!("sha256:{}", sha256_hex(&fs::read(out.join("model.onnx")).unwrap()))
    );
    assert!(server.objects("baked").is_empty());
}

#[test]
fn each_fault_has_its_code_and_says_field_uri_and_remedy_and_nothing_is_published() {
    let Some(server) = stocked() else { return };
    let validation = |uri: &str| json!({"validation": {"uri": uri}});
    let digest = format!("sha256:{}", "0".repeat(64));
    let found = sha256_hex(&fs::read(example("mlp", "model.onnx")).unwrap());
    let key = [("AWS_SECRET_ACCESS_KEY", "wrong")];
    let stranger = [("AWS_ACCESS_KEY_ID", "stranger")];
    server.put("models", "text.onnx", b"not a model");
    let table: [(Value, &[(&str, &str)], i32, Reason, &[&str]); 10] = [
        (
            perceptron(),
            &key,
            13,
            Reason::AccessDenied,
            &[
                "spec.source.uri: access to s3://models/mlp/model.onnx is denied",
                "spec.storage.credentials",
                "SignatureDoesNotMatch",
            ],
        ),
        (
            perceptron(),
            &stranger,
            13,
            Reason::AccessDenied,
            &["spec.source.uri: access to ", "spec.storage.credentials"],
        ),
        (
            with(perceptron(), "source", json!({"uri": "s3://models/gone.onnx"})),
            &[],
            10,
            Reason::InvalidModel,
            &["spec.source.uri: s3://models/gone.onnx is not there", "NoSuchKey"],
        ),
        (
            with(perceptron(), "source", json!({"uri": "s3://nowhere/gone.onnx"})),
            &[],
            10,
            Reason::InvalidModel,
            &["spec.source.uri: the bucket of s3://nowhere/gone.onnx is not there"],
        ),
        (
            with(perceptron(), "data", validation("s3://data/gone.npz")),
            &[],
            12,
            Reason::InvalidData,
            &["spec.data.validation.uri: s3://data/gone.npz is not there"],
        ),
        (
            with(perceptron(), "output", json!({"uri": "s3://nowhere/out"})),
            &[],
            14,
            Reason::OutputUnwritable,
            &["spec.output.uri: the bucket of s3://nowhere/out"],
        ),
        (
            with(perceptron(), "source", json!({"uri": "s3://models/mlp/model.onnx", "digest": digest})),
            &[],
            2,
            Reason::InvalidJob,
            &["spec.source.digest: s3://models/mlp/model.onnx", "sha256 ", &found, "0000"],
        ),
        (
            with(perceptron(), "source", json!({"uri": "s3://models/text.onnx"})),
            &[],
            10,
            Reason::InvalidModel,
            &["s3://models/text.onnx"],
        ),
        (
            with(perceptron(), "data", validation("s3://models/text.onnx")),
            &[],
            12,
            Reason::InvalidData,
            &["s3://models/text.onnx"],
        ),
        (
            with(perceptron(), "optimization", json!({"recipe": {"uri": "s3://models/gone.json"}})),
            &[],
            2,
            Reason::InvalidJob,
            &["spec.optimization.recipe.uri: s3://models/gone.json is not there"],
        ),
    ];
    for (spec, variables, code, reason, words) in table {
        let pod = Pod::run(&server, "Bake", &spec, variables);
        let outcome = pod.ended(code, reason);
        for word in words {
            assert!(outcome.message.contains(word), "'{word}' is not in: {}", outcome.message);
        }
        let log = pod.log();
        assert!(!log.contains("/tmp") && !log.contains(s3::server::SECRET), "{log}");
        assert!(server.objects("baked").is_empty() && server.unfinished("baked") == 0);
    }
}

#[test]
fn a_store_that_is_down_is_worth_a_retry_and_no_credentials_are_not() {
    let Some(server) = stocked() else { return };
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let spec = with(perceptron(), "storage", json!({"endpoint": format!("http://127.0.0.1:{nobody}")}));
            let outcome = Pod::run(&server, "Bake", &spec, &[]).ended(20, Reason::StorageUnreachable);
            assert!(outcome.message.contains("spec.storage.endpoint"), "{}", outcome.message);
            assert!(outcome.message.contains("refused"), "{}", outcome.message);
        });
        scope.spawn(|| {
            let metadata = format!("http://127.0.0.1:{nobody}");
            let none =
                [("AWS_ACCESS_KEY_ID", ""), ("AWS_SECRET_ACCESS_KEY", ""), ("AWS_METADATA_ENDPOINT", &*metadata)];
            let outcome = Pod::run(&server, "Bake", &perceptron(), &none).ended(13, Reason::AccessDenied);
            assert!(outcome.message.contains("there are no credentials for s3://models"), "{}", outcome.message);
        });
    });
}

#[test]
fn a_server_is_trusted_by_the_bundle_that_names_its_ca() {
    let Some(gateway) = gateway() else { return };
    let server = Server::start_tls(&gateway);
    for name in ["model.onnx", "validation.npz"] {
        server.put("models", name, &fs::read(example("mlp", name)).unwrap());
    }
    server.bucket("baked");
    let spec = json!({
        "source": {"uri": "s3://models/model.onnx"},
        "data": {"validation": {"uri": "s3://models/validation.npz", "metric": "Top1"}},
        "optimization": {"level": "Conservative"},
        "output": {"uri": "s3://baked/mlp"},
        "runtime": "Bakehouse",
    });
    let distrusted = Pod::bake(&server, &spec).ended(2, Reason::InvalidJob);
    assert!(distrusted.message.contains("spec.storage.caBundle"), "{}", distrusted.message);
    let ca = server.ca();
    let bundle = ca.to_str().unwrap();
    let outcome = Pod::run(&server, "Bake", &spec, &[("AWS_CA_BUNDLE", bundle)]).outcome();
    assert!(matches!(outcome.reason, Reason::Baked | Reason::NoImprovement), "{}", outcome.message);
    assert_published(&server, "baked", "mlp");
    let gone = Pod::run(&server, "Bake", &spec, &[("AWS_CA_BUNDLE", "/gone.pem")]).ended(2, Reason::InvalidJob);
    assert!(gone.message.contains("spec.storage.caBundle: /gone.pem"), "{}", gone.message);
}

/// The perceptron, its graph with all weights zero, and a checkpoint that holds them.
fn trained() -> (Vec<u8>, Vec<u8>) {
    let mut model = Model::load(&example("mlp", "model.onnx")).unwrap();
    let (mut state, mut storages) = (Vec::new(), Vec::new());
    for initializer in model.graph_mut().initializer.iter_mut().filter(|t| t.data_type() == 1) {
        let trained = Tensor::from_proto(initializer).unwrap();
        let shape: Vec<u64> = trained.shape().iter().map(|&d| d as u64).collect();
        let key = storages.len().to_string();
        state.push((
            initializer.name().to_owned(),
            checkpoint::tensor(&key, "FloatStorage", trained.len() as u64, &shape),
        ));
        let bytes = trained.bytes().to_vec();
        storages.push(checkpoint::Raw { class: "FloatStorage", bytes, elements: trained.len() });
        *initializer = Tensor::new(trained.shape(), &vec![0.0_f32; trained.len()]).to_proto(initializer.name());
    }
    let state: Vec<(&str, Vec<u8>)> = state.iter().map(|(name, tensor)| (name.as_str(), tensor.clone())).collect();
    let root = checkpoint::dict(&[
        ("model_state_dict", checkpoint::ordered(&state)),
        ("training_results", checkpoint::dict(&[("final_accuracy", checkpoint::real(0.979))])),
    ]);
    (model.to_bytes(), checkpoint::archive(&root, &storages))
}

#[test]
fn a_package_is_fetched_by_its_manifest_and_the_trainers_folder_by_its_names() {
    let Some(server) = stocked() else { return };
    let (graph, weights) = trained();
    let validation = fs::read(example("mlp", "validation.npz")).unwrap();
    let file = |path: &str, bytes: &[u8]| json!({"path": path, "sha256": sha256_hex(bytes), "bytes": bytes.len()});
    let manifest = json!({
        "apiVersion": "bakehouse.dev/phase5/v1",
        "identity": {"name": "digits"},
        "model": {"graph": file("model/model.onnx", &graph), "weights": file("weights/w.pt", &weights)},
        "metrics": [{"name": "Top1", "value": 0.979}],
        "splits": {"validation": file("data/validation.npz", &validation)},
    });
    let package = |name: &str, manifest: &Value| {
        server.put("models", &format!("{name}/manifest.json"), manifest.to_string().as_bytes());
        server.put("models", &format!("{name}/model/model.onnx"), &graph);
        server.put("models", &format!("{name}/weights/w.pt"), &weights);
        server.put("models", &format!("{name}/data/validation.npz"), &validation);
        // What the manifest does not name is not fetched.
        server.put("models", &format!("{name}/data/calibration.npz"), b"no archive");
    };
    package("package", &manifest);
    server.put("models", "trainer/trained_model.pt", &weights);
    server.put("models", "trainer/model.onnx", &graph);
    server.put("models", "trainer/validation.npz", &validation);

    let spec = |uri: &str| {
        json!({
            "source": {"uri": uri},
            "optimization": {"level": "Conservative"},
            "output": {"uri": "s3://baked/p/"},
            "runtime": "Bakehouse",
        })
    };
    for (uri, layout, model) in [
        ("s3://models/package/", "Phase5", "s3://models/package/model/model.onnx"),
        ("s3://models/trainer/", "Trainer", "s3://models/trainer/model.onnx"),
    ] {
        let outcome = Pod::bake(&server, &spec(uri)).outcome();
        assert!(matches!(outcome.reason, Reason::Baked | Reason::NoImprovement), "{}", outcome.message);
        let report = assert_published(&server, "baked", "p");
        let found = &report["package"];
        assert_eq!((found["layout"].as_str(), found["path"].as_str()), (Some(layout), uri.strip_suffix('/')));
        assert_eq!(found["baseline"][0]["holds"], true, "{found}");
        let read: Vec<&str> =
            report["data"]["files"].as_array().unwrap().iter().map(|f| f["path"].as_str().unwrap()).collect();
        assert!(read.contains(&model) && read.iter().all(|path| path.starts_with(uri)), "{read:?}");
    }

    let mut changed = manifest.clone();
    changed["splits"]["validation"]["sha256"] = json!("0".repeat(64));
    package("changed", &changed);
    let mut leaving = manifest.clone();
    leaving["model"]["graph"]["path"] = json!("../package/model/model.onnx");
    package("leaving", &leaving);
    let mut lacking = manifest;
    lacking["splits"]["validation"]["path"] = json!("data/gone.npz");
    package("lacking", &lacking);
    server.put("models", "huge/manifest.json", &vec![b' '; (4 << 20) + 1]);
    for (uri, code, reason, words) in [
        (
            "s3://models/changed/",
            12,
            Reason::InvalidData,
            "s3://models/changed/manifest.json: splits.validation: 'data/validation.npz' has sha256",
        ),
        (
            "s3://models/leaving/",
            10,
            Reason::InvalidModel,
            "s3://models/leaving/manifest.json: model.graph.path: '../package/model/model.onnx' leaves",
        ),
        ("s3://models/lacking/", 10, Reason::InvalidModel, "s3://models/lacking/data/gone.npz is not there"),
        (
            "s3://models/huge/",
            10,
            Reason::InvalidModel,
            "s3://models/huge/manifest.json has 4194305 bytes, more than the 4194304",
        ),
        (
            "s3://models/nothing/",
            10,
            Reason::InvalidModel,
            "s3://models/nothing is no package: it holds neither manifest.json nor trained_model.pt",
        ),
    ] {
        let outcome = Pod::run(&server, "Bake", &spec(uri), &[]).ended(code, reason);
        assert!(outcome.message.contains(words) && !outcome.message.contains("/tmp"), "{}", outcome.message);
    }
}

#[test]
fn a_worker_that_is_killed_in_the_middle_of_an_upload_leaves_no_result_and_its_successor_finishes_it() {
    let Some(server) = stocked() else { return };
    wide::stock(&server);
    let (_, weights) = wide::model();
    let spec = wide::spec("s3://baked/wide");
    let stall = Stall::before(&server, "partNumber=2");
    let through = with(spec.clone(), "storage", json!({"endpoint": stall.endpoint()}));
    let worker = Pod::start(&server, &through);
    stall.wait();
    worker.kill();
    let left = server.objects("baked");
    assert!(!left.keys().any(|key| key.ends_with("report.json")), "{:?}", left.keys());

    let outcome = Pod::bake(&server, &spec).outcome();
    assert!(matches!(outcome.reason, Reason::Baked | Reason::NoImprovement), "{}", outcome.message);
    let report = assert_published(&server, "baked", "wide");
    let read = report["data"]["files"].as_array().unwrap();
    let beside = read.iter().find(|f| f["path"] == "s3://models/wide/weights.bin").unwrap();
    assert_eq!(beside["sha256"], sha256_hex(&weights));

    // The same from a shell, over the result that lies there; and weights that are missing are missed by name.
    let summary = Pod::shell(&server, &spec);
    assert_eq!(summary["folder"], "s3://baked/wide", "{summary}");
    assert_published(&server, "baked", "wide");
    server.remove("models", "wide/weights.bin");
    let outcome = Pod::bake(&server, &spec).ended(10, Reason::InvalidModel);
    assert!(outcome.message.contains("s3://models/wide/weights.bin is not there"), "{}", outcome.message);
}

#[test]
fn the_server_of_these_tests_is_found_where_it_is_looked_for() {
    if let Some(path) = gateway() {
        assert!(Path::new(&path).is_file());
    }
}
