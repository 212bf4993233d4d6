//! Bakes whose files lie on an S3 server in the cluster, and on a claim.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use bakehouse::api::BakeJob;
use bakehouse::api::digest::sha256_hex;
use bakehouse::api::state::State;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod, Secret};
use kube::api::{DeleteParams, LogParams, PostParams};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

use crate::support::{BAKE, Case, SOON, eventually, message, shell};

const FILES: [&str; 3] = ["model.onnx", "calibration.npz", "validation.npz"];

/// An S3 server in the namespace, with bucket `models`.
pub(super) struct Server {
    /// As a spec takes it.
    pub(super) storage: Value,
    https: String,
    address: String,
    keys: String,
}

impl Server {
    pub(super) fn in_namespace(case: &Case) -> Self {
        let said = shell::run(&shell::script("s3.sh").display().to_string(), &[&case.namespace]);
        let of = |name: &str| {
            let line = said.lines().find_map(|line| line.strip_prefix(&format!("{name}=")));
            line.unwrap_or_else(|| panic!("s3.sh did not say {name}: {said}")).trim_matches(['\'', '"']).to_owned()
        };
        let credentials = json!({"secretName": "s3-credentials"});
        Self {
            storage: json!({"endpoint": of("S3_HTTP"), "region": "us-east-1", "pathStyle": true, "credentials": credentials}),
            https: of("S3_HTTPS"),
            address: of("S3_ADDRESS"),
            keys: format!("{}:{}", of("S3_ACCESS_KEY"), of("S3_SECRET_KEY")),
        }
    }

    fn request(&self, key: &str, more: &[&str]) -> std::process::Output {
        let url = format!("http://{}:9000/models/{key}", self.address);
        let sign = ["--aws-sigv4", "aws:amz:us-east-1:s3", "-H", "x-amz-content-sha256: UNSIGNED-PAYLOAD"];
        let patient = ["--connect-timeout", "5", "--retry", "10", "--retry-delay", "1", "--retry-connrefused"];
        let all = [&["-sS", "--fail", &url, "--user", &self.keys], &patient[..], &sign[..], more].concat();
        shell::output("curl", &all)
    }

    /// Model and data of an example.
    pub(super) fn put(&self, example: &str) {
        for file in FILES {
            self.send(Path::new(&format!("examples/{example}/{file}")), &format!("{example}/{file}"));
        }
    }

    /// All that lies in a folder, under a prefix.
    pub(super) fn put_folder(&self, folder: &Path, prefix: &str) {
        for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
            let key = format!("{prefix}/{}", entry.file_name().to_str().unwrap());
            if entry.path().is_dir() {
                self.put_folder(&entry.path(), &key);
            } else {
                self.send(&entry.path(), &key);
            }
        }
    }

    fn send(&self, path: &Path, key: &str) {
        // A service may get its address on this node a moment after its pod is ready: until then there is no route, or nobody at its end.
        let sent = self.request(key, &["--retry-all-errors", "-T", &path.display().to_string()]);
        assert!(sent.status.success(), "{}: {}", path.display(), String::from_utf8_lossy(&sent.stderr));
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.request(key, &["--head"]).status.success()
    }
}

/// A bake of an example in the bucket, into the bucket.
pub(super) fn spec(example: &str, storage: &Value) -> Value {
    let at = |file: &str| format!("s3://models/{example}/{file}");
    json!({
        "source": {"uri": at("model.onnx")},
        "data": {"calibration": {"uri": at("calibration.npz")}, "validation": {"uri": at("validation.npz"), "metric": "Top1"}},
        "output": {"uri": format!("s3://models/baked/{example}/")},
        "storage": storage,
    })
}

#[tokio::test]
async fn model_data_and_result_lie_on_an_s3_server() {
    let case = Case::shared("s3").await;
    if !shell::own_cluster() {
        println!("skipped: the S3 server of another cluster cannot be reached from here");
        return;
    }
    let server = Server::in_namespace(&case);
    server.put("cnn");
    let plain = server.storage.clone();
    case.apply(&case.bakejob("cnn", &spec("cnn", &plain))).await.unwrap();
    let job = case.bakes("cnn", BAKE).await;
    let status = job.status.unwrap();
    assert_eq!(status.artifacts[0].uri, "s3://models/baked/cnn/model.onnx");
    assert!(status.report.unwrap().uri.ends_with("/report.json"));

    // The same by https, with an authority that no image knows.
    let mut trusted = plain.clone();
    trusted["endpoint"] = json!(server.https);
    trusted["caBundle"] = json!({"configMapName": "s3-ca", "key": "ca.crt"});
    case.apply(&case.bakejob("https", &spec("cnn", &trusted))).await.unwrap();
    case.bakes("https", BAKE).await;

    let wrong = json!({"metadata": {"name": "wrong"}, "stringData": {"AWS_ACCESS_KEY_ID": "bakehouse", "AWS_SECRET_ACCESS_KEY": "wrong"}});
    case.create::<Secret>(serde_json::from_value(wrong).unwrap()).await;
    let mut denied = plain;
    denied["credentials"] = json!({"secretName": "wrong"});
    case.apply(&case.bakejob("denied", &spec("cnn", &denied))).await.unwrap();
    let job = case.ends("denied", State::AccessDenied, BAKE).await;
    assert!(message(&job).contains("s3://models/cnn/"), "{}", message(&job));
    case.done().await;
}

#[tokio::test]
async fn a_bake_whose_pod_is_killed_goes_on_behind_its_last_finished_stage() {
    let case = Case::shared("resumed").await;
    if !shell::own_cluster() {
        println!("skipped: the S3 server of another cluster cannot be reached from here");
        return;
    }
    let server = Server::in_namespace(&case);
    server.put("cnn");
    let mut spec = spec("cnn", &server.storage);
    // The stage after the search takes long enough to be struck in.
    spec["profile"] = json!({"iterations": 100_000});
    let uid = case.apply(&case.bakejob("cnn", &spec)).await.unwrap().uid().unwrap();
    let kept = format!("baked/cnn/runs/{uid}-1/optimize.json");
    eventually("the search is kept in the bucket", BAKE, async || server.has(&kept).then_some(())).await;
    let struck = case.pods("cnn").await[0].name_any();
    case.api::<Pod>().delete(&struck, &DeleteParams::default().grace_period(0)).await.unwrap();

    let next = eventually("another pod is there", SOON, async || {
        case.pods("cnn").await.into_iter().find(|pod| pod.name_any() != struck)
    })
    .await;
    let log = eventually("it measures", BAKE, async || {
        let log = case.api::<Pod>().logs(&next.name_any(), &LogParams::default()).await.unwrap_or_default();
        log.contains("\"Profile\"").then_some(log)
    })
    .await;
    for stage in ["Baseline", "Optimize"] {
        let taken = |line: &str| line.contains("taken from an earlier process") && line.contains(stage);
        assert!(log.lines().any(taken), "{stage} was repeated: {log}");
    }
    let job = case.bakes("cnn", BAKE).await;
    let status = job.status.unwrap();
    assert_eq!((status.runs, status.attempt.unwrap().number), (Some(1), 1), "a lost pod is no new attempt");
    assert!(!server.has(&kept), "nothing but the result is left");
    assert!(server.has("baked/cnn/report.json"));
    case.done().await;
}

/// A claim, bound to a folder of this machine, which every node of the test cluster shares.
async fn claim(case: &Case, name: &str, folder: &Path) {
    std::fs::create_dir(folder).unwrap();
    // The worker is no user of this machine.
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o777)).unwrap();
    let volumes: Api<PersistentVolume> = Api::all(case.client.clone());
    let volume = format!("{}-{name}", case.namespace);
    // Left behind by a run that failed.
    eventually("the volume of an earlier run is gone", SOON, async || {
        let _ = volumes.delete(&volume, &DeleteParams::default()).await;
        volumes.get_opt(&volume).await.unwrap().is_none().then_some(())
    })
    .await;
    let (modes, size) = (["ReadWriteMany"], json!({"storage": "1Gi"}));
    let object = json!({
        "metadata": {"name": volume},
        "spec": {"accessModes": modes, "capacity": size, "storageClassName": "", "persistentVolumeReclaimPolicy": "Retain",
                 "claimRef": {"namespace": case.namespace, "name": name}, "hostPath": {"path": folder}},
    });
    volumes.create(&PostParams::default(), &serde_json::from_value(object).unwrap()).await.unwrap();
    let object = json!({
        "metadata": {"name": name},
        "spec": {"accessModes": modes, "resources": {"requests": size}, "storageClassName": "", "volumeName": volume},
    });
    case.create::<PersistentVolumeClaim>(serde_json::from_value(object).unwrap()).await;
}

#[tokio::test]
async fn model_data_and_result_lie_on_claims_and_the_result_goes_with_its_bakejob() {
    let case = Case::shared("claims").await;
    if !shell::own_cluster() {
        println!("skipped: the claims are folders of this machine");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (models, baked) = (folder.path().join("models"), folder.path().join("baked"));
    claim(&case, "models", &models).await;
    claim(&case, "baked", &baked).await;
    for file in FILES {
        std::fs::copy(Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/cnn").join(file), models.join(file))
            .unwrap();
    }
    let at = |file: &str| format!("pvc://models/{file}");
    let spec = json!({
        "source": {"uri": at("model.onnx")},
        "data": {"calibration": {"uri": at("calibration.npz")}, "validation": {"uri": at("validation.npz"), "metric": "Top1"}},
        "output": {"uri": "pvc://baked/cnn", "onDelete": "Delete"},
    });
    case.apply(&case.bakejob("cnn", &spec)).await.unwrap();
    let artifact = case.bakes("cnn", BAKE).await.status.unwrap().artifacts[0].clone();
    assert_eq!(artifact.uri, "pvc://baked/cnn/model.onnx");
    let model = std::fs::read(baked.join("cnn/model.onnx")).unwrap();
    assert_eq!(format!("sha256:{}", sha256_hex(&model)), artifact.sha256, "the status names the file that lies there");
    let mounts = case.pods("cnn").await[0].spec.as_ref().unwrap().containers[0].volume_mounts.clone().unwrap();
    let models = mounts.iter().find(|mount| mount.mount_path.ends_with("/models")).unwrap();
    assert_eq!(models.read_only, Some(true), "a bake cannot write where it only reads");

    case.api::<BakeJob>().delete("cnn", &DeleteParams::default()).await.unwrap();
    eventually("the BakeJob is gone", BAKE, async || {
        case.api::<BakeJob>().get_opt("cnn").await.unwrap().is_none().then_some(())
    })
    .await;
    assert_eq!(std::fs::read_dir(&baked).unwrap().count(), 0, "and its files with it");
    let volumes: Api<PersistentVolume> = Api::all(case.client.clone());
    for name in ["models", "baked"] {
        let _ = volumes.delete(&format!("{}-{name}", case.namespace), &DeleteParams::default()).await;
    }
    case.done().await;
}
