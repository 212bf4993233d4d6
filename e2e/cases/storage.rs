//! Bakes whose files lie on an S3 server in the cluster, and on a claim.

use bakehouse::api::state::State;
use k8s_openapi::api::core::v1::Secret;
use serde_json::{Value, json};

use crate::support::{BAKE, Case, message, shell};

/// An S3 server in the namespace, with model and data of an example in bucket `models`; its settings as a spec takes them.
fn server(case: &Case, example: &str) -> (Value, String) {
    let said = shell::run(&shell::script("s3.sh").display().to_string(), &[&case.namespace]);
    let of = |name: &str| {
        let line = said.lines().find_map(|line| line.strip_prefix(&format!("{name}=")));
        line.unwrap_or_else(|| panic!("s3.sh did not say {name}: {said}")).trim_matches(['\'', '"']).to_owned()
    };
    let (address, keys) = (of("S3_ADDRESS"), format!("{}:{}", of("S3_ACCESS_KEY"), of("S3_SECRET_KEY")));
    for file in ["model.onnx", "calibration.npz", "validation.npz"] {
        let (path, url) =
            (format!("examples/{example}/{file}"), format!("http://{address}:9000/models/{example}/{file}"));
        let unsigned = "x-amz-content-sha256: UNSIGNED-PAYLOAD";
        let sign = ["--aws-sigv4", "aws:amz:us-east-1:s3", "-H", unsigned, "--user", &keys];
        shell::run("curl", &[&["-sS", "--fail", "-T", &path, &url], &sign[..]].concat());
    }
    let credentials = json!({"secretName": "s3-credentials"});
    (
        json!({"endpoint": of("S3_HTTP"), "region": "us-east-1", "pathStyle": true, "credentials": credentials}),
        of("S3_HTTPS"),
    )
}

fn spec(example: &str, storage: &Value) -> Value {
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
    let (plain, https) = server(&case, "cnn");
    case.apply(&case.bakejob("cnn", &spec("cnn", &plain))).await.unwrap();
    let job = case.bakes("cnn", BAKE).await;
    let status = job.status.unwrap();
    assert_eq!(status.artifacts[0].uri, "s3://models/baked/cnn/model.onnx");
    assert!(status.report.unwrap().uri.ends_with("/report.json"));

    // The same by https, with an authority that no image knows.
    let mut trusted = plain.clone();
    trusted["endpoint"] = json!(https);
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
