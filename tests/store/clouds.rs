//! The same bakes from and to Google Cloud Storage and Azure Blob Storage, as fake-gcs-server and Azurite play them. `make clouds` makes both
//! (`e2e/cluster/components.sh`, with Go and npm) and runs these tests; where they were never made, these are skipped with a word.

use std::fs;
use std::path::Path;
use std::process::{Child, Command};

use bakehouse::api::Reason;
use bakehouse::api::digest::sha256_hex;
use serde_json::{Value, json};

use crate::s3::gcs::Gcs;
use crate::s3::pod::Pod;
use crate::s3::tools::{free_port, listening, made};
use crate::s3::wide;
use crate::with;

type Variables<'v> = &'v [(&'v str, &'v str)];

/// Local files of the wide model, baked to some output.
fn baked_here(folder: &Path, output: &str, storage: &Value) -> Value {
    let (model, weights) = wide::model();
    let validation = folder.join("validation.safetensors");
    fs::write(folder.join("model.onnx"), model.to_bytes()).unwrap();
    fs::write(folder.join("weights.bin"), weights).unwrap();
    fs::write(&validation, wide::samples(60)).unwrap();
    let spec = with(wide::spec(output), "source", json!({"uri": folder.join("model.onnx")}));
    let spec = with(spec, "data", json!({"validation": {"uri": validation}}));
    with(spec, "storage", storage.clone())
}

/// Publishes, in parts too; fetches what was published, in ranges too; publishes over it; cleans up; and misses what is gone.
fn round_trip(scheme: &str, storage: &Value, variables: Variables) {
    let folder = tempfile::tempdir().unwrap();
    let there = format!("{scheme}baked/some folder/wide");
    let publishing = baked_here(folder.path(), &there, storage);
    for _ in 0..2 {
        let outcome = Pod::alone("Bake", &publishing, variables).ended(0, Reason::NoImprovement);
        assert_eq!(outcome.report.unwrap().uri, format!("{there}/report.json"));
    }
    let outcome = Pod::alone("Bake", &publishing, variables).ended(0, Reason::NoImprovement);
    let model = outcome.artifacts.iter().find(|a| a.uri.ends_with("/model.onnx")).unwrap();

    let back = folder.path().join("back");
    let fetching = with(publishing.clone(), "output", json!({"uri": back}));
    let fetching = with(fetching, "source", json!({"uri": model.uri, "digest": model.sha256}));
    Pod::alone("Bake", &fetching, variables).ended(0, Reason::NoImprovement);
    assert_eq!(sha256_hex(&fs::read(back.join("weights.bin")).unwrap()), sha256_hex(&wide::model().1));
    let report: Value = serde_json::from_slice(&fs::read(back.join("report.json")).unwrap()).unwrap();
    let read = report["data"]["files"].as_array().unwrap();
    assert!(read.iter().any(|file| file["path"] == format!("{there}/weights.bin")), "{read:?}");

    Pod::alone("Clean", &publishing, variables).ended(0, Reason::Baked);
    let gone = Pod::alone("Bake", &fetching, variables).ended(10, Reason::InvalidModel);
    assert!(gone.message.contains(&format!("{there}/model.onnx is not there")), "{}", gone.message);
    Pod::alone("Clean", &publishing, variables).ended(0, Reason::Baked);
}

#[test]
fn google_cloud_storage_is_read_and_written() {
    let Some(program) = made("fake-gcs-server", "fake-gcs-server", "BAKEHOUSE_REQUIRE_GCS") else { return };
    let server = Gcs::start(&program, "baked");
    let storage = json!({"endpoint": server.endpoint()});
    let key = r#"{"private_key": "", "private_key_id": "", "client_email": "", "disable_oauth": true}"#;
    round_trip("gs://", &storage, &[("GOOGLE_SERVICE_ACCOUNT_KEY", key)]);

    let folder = tempfile::tempdir().unwrap();
    let spec = baked_here(folder.path(), "gs://baked/x", &storage);
    let outcome =
        Pod::alone("Bake", &spec, &[("GOOGLE_SERVICE_ACCOUNT_KEY", "SECRET")]).ended(13, Reason::AccessDenied);
    assert!(
        outcome.message.contains("spec.output.uri: there are no credentials for gs://baked/x"),
        "{}",
        outcome.message
    );
    assert!(
        outcome.message.contains("GOOGLE_SERVICE_ACCOUNT_KEY") && !outcome.message.contains("SECRET"),
        "{}",
        outcome.message
    );
    let spec = baked_here(folder.path(), "gs://nowhere/x", &storage);
    let outcome = Pod::alone("Bake", &spec, &[("GOOGLE_SERVICE_ACCOUNT_KEY", key)]).ended(14, Reason::OutputUnwritable);
    assert!(outcome.message.contains("spec.output.uri: the bucket of gs://nowhere/x"), "{}", outcome.message);
}

const ACCOUNT: &str = "bakehouse";
const KEY: &str = "YmFrZWhvdXNlLXRlc3Qta2V5LW9mLWEtc3RvcmFnZS1hY2NvdW50";

/// Makes a container. Node is there wherever Azurite is, and it knows how to sign.
const CONTAINER: &str = r"
const [port, account, key, name] = process.argv.slice(1);
const date = new Date().toUTCString();
const headers = `x-ms-date:${date}\nx-ms-version:2021-08-06\n`;
const signed = `PUT\n\n\n\n\n\n\n\n\n\n\n\n${headers}/${account}/${account}/${name}\nrestype:container`;
const signature = require('crypto').createHmac('sha256', Buffer.from(key, 'base64')).update(signed, 'utf8').digest('base64');
fetch(`http://127.0.0.1:${port}/${account}/${name}?restype=container`, {
  method: 'PUT',
  headers: {'x-ms-date': date, 'x-ms-version': '2021-08-06', 'Authorization': `SharedKey ${account}:${signature}`},
}).then(async (answer) => { if (answer.status !== 201) { console.error(answer.status, await answer.text()); process.exit(1); } });
";

struct Azurite {
    child: Child,
    _root: tempfile::TempDir,
    port: u16,
}

impl Azurite {
    fn start(program: &Path, container: &str) -> Self {
        let (root, port) = (tempfile::tempdir().unwrap(), free_port());
        let mut command = Command::new("node");
        command
            .arg(program)
            .args(["--blobHost", "127.0.0.1", "--blobPort", &port.to_string(), "--silent", "--skipApiVersionCheck"])
            .arg("--location")
            .arg(root.path())
            .env("AZURITE_ACCOUNTS", format!("{ACCOUNT}:{KEY}"));
        let child = listening(&mut command, port, root.path());
        let server = Self { child, _root: root, port };
        let made =
            Command::new("node").args(["-e", CONTAINER, &port.to_string(), ACCOUNT, KEY, container]).output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        server
    }
}

impl Drop for Azurite {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn azure_blob_storage_is_read_and_written() {
    let file = "node_modules/azurite/dist/src/blob/main.js";
    let Some(program) = made("azurite", file, "BAKEHOUSE_REQUIRE_AZURE") else { return };
    let server = Azurite::start(&program, "baked");
    let storage = json!({"endpoint": format!("http://127.0.0.1:{}/{ACCOUNT}", server.port)});
    let keys = [("AZURE_STORAGE_ACCOUNT_KEY", KEY)];
    round_trip("az://", &storage, &keys);

    let folder = tempfile::tempdir().unwrap();
    let ended = |output: &str, storage: &Value, variables: Variables, code, reason, words: &[&str]| {
        let outcome = Pod::alone("Bake", &baked_here(folder.path(), output, storage), variables).ended(code, reason);
        for word in words {
            assert!(outcome.message.contains(word), "'{word}' is not in: {}", outcome.message);
        }
    };
    let other = [("AZURE_STORAGE_ACCOUNT_KEY", "b3RoZXI=")];
    let denied = ["spec.output.uri: access to az://baked/x", "spec.storage.credentials"];
    ended("az://baked/x", &storage, &other, 13, Reason::AccessDenied, &denied);
    let nowhere = ["spec.output.uri: the bucket of az://nowhere/x", "ContainerNotFound"];
    ended("az://nowhere/x", &storage, &keys, 14, Reason::OutputUnwritable, &nowhere);
    let unnamed = ["there are no credentials for az://baked/x", "no storage account is named"];
    ended("az://baked/x", &json!({}), &keys, 13, Reason::AccessDenied, &unnamed);
}
