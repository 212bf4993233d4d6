//! From a bake to phase 7: at once, or when a person approves the artifact.

use bakehouse::api::BakeJob;
use bakehouse::api::state::State;
use serde_json::{Value, json};

use super::storage::{Server, spec};
use crate::support::{BAKE, Case, SOON, condition, shell};

/// A bake from and to the bucket that is promoted within it.
fn promoting(server: &Server, promotion: &Value) -> Value {
    let mut spec = spec("cnn", &server.storage);
    spec["optimization"] = json!({"level": "Light", "goal": "Size"});
    spec["promotion"] = json!({"uri": "s3://models/phase7/"});
    spec["promotion"].as_object_mut().unwrap().extend(promotion.as_object().unwrap().clone());
    spec
}

fn says(reason: &'static str) -> impl Fn(&BakeJob) -> bool {
    move |job| condition(job, "Promoted").is_some_and(|(_, found)| found == reason)
}

#[tokio::test]
async fn what_passed_its_gates_is_promoted_and_what_a_person_approves_without_a_new_bake() {
    let case = Case::shared("promoted").await;
    if !shell::own_cluster() {
        println!("skipped: the S3 server of another cluster cannot be reached from here");
        return;
    }
    let server = Server::in_namespace(&case);
    server.put("cnn");
    case.apply(&case.bakejob("auto", &promoting(&server, &json!({"policy": "Automatic"})))).await.unwrap();
    let job = case.until("auto", "promoted", BAKE, says("Promoted")).await;
    assert_eq!(condition(&job, "Ready").unwrap().0, "True");
    let status = job.status.unwrap();
    let (promotion, digest) = (status.promotion.unwrap(), &status.artifacts[0].sha256);
    assert_eq!(&promotion.sha256, digest);
    let version = format!("phase7/auto/versions/{}", digest.trim_start_matches("sha256:"));
    assert_eq!(promotion.uri, format!("s3://models/{version}"));
    for file in ["model.onnx", "report.json", "recipe.json"] {
        assert!(server.has(&format!("{version}/{file}")), "{file}");
    }
    assert!(server.has("phase7/auto/current.json") && server.has("phase7/auto/history/000001.json"));

    let manual = |approved: &str| {
        let mut promotion = json!({"policy": "Manual"});
        if !approved.is_empty() {
            promotion["approvedDigest"] = json!(approved);
        }
        case.bakejob("manual", &promoting(&server, &promotion))
    };
    case.apply(&manual("")).await.unwrap();
    let job = case.until("manual", "waiting for approval", BAKE, says("AwaitingApproval")).await;
    assert_eq!(crate::support::state(&job), Some(State::Baked));
    assert_eq!(condition(&job, "Ready").unwrap(), ("False".into(), "AwaitingApproval".into()));
    assert!(!server.has("phase7/manual/current.json"));
    let digest = job.status.unwrap().artifacts[0].sha256.clone();
    case.apply(&manual(&digest)).await.unwrap();
    let job = case.until("manual", "promoted", BAKE, says("Promoted")).await;
    assert_eq!(job.status.unwrap().runs, Some(1), "an approval bakes nothing");
    assert_eq!(case.pods("manual").await.len(), 2, "one pod baked, one promoted");
    assert!(server.has("phase7/manual/current.json"));

    // A place that these keys may not write to: the bake stands, the promotion says why.
    let elsewhere = json!({"policy": "Automatic", "uri": "s3://none/phase7/"});
    case.apply(&case.bakejob("elsewhere", &promoting(&server, &elsewhere))).await.unwrap();
    let job = case.until("elsewhere", "not promoted", BAKE, says("PromotionFailed")).await;
    assert_eq!(
        (condition(&job, "Succeeded").unwrap().0.as_str(), condition(&job, "Stalled").unwrap().0.as_str()),
        ("True", "True")
    );
    case.change("elsewhere", &json!({"promotion": {"uri": "s3://models/phase7/"}})).await;
    case.until("elsewhere", "promoted", SOON * 3, says("Promoted")).await;
    case.done().await;
}
