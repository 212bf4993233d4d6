//! The operator itself: killed, failed over, upgraded, and what it may not do.

use std::time::{Duration, Instant};

use bakehouse::api::BakeJob;
use bakehouse::api::state::State;
use k8s_openapi::api::authorization::v1::SubjectAccessReview;
use k8s_openapi::api::batch::v1::Job;
use kube::api::{ListParams, PostParams};
use kube::{Api, ResourceExt};
use rand::{RngExt, SeedableRng};
use serde_json::json;

use crate::support::operator::{self, Blow, NAMESPACE};
use crate::support::{BAKE, Case, SOON, eventually, phase, shell, slow};

#[tokio::test]
async fn two_replicas_fail_over_within_the_lease() {
    let case = Case::alone("failover").await;
    let first = operator::led(&case.client, SOON).await;
    case.apply(&case.mlp("mlp", &slow(10))).await.unwrap();
    case.reaches("mlp", State::Running, BAKE).await;
    let struck = Instant::now();
    operator::strike(&case.client, Blow::Pod).await;
    let second = eventually("another replica leads", Duration::from_secs(15), async || {
        operator::leader(&case.client).await.filter(|leader| *leader != first)
    })
    .await;
    println!("failover from {first} to {second}: {:.1} s with a Lease of 5 s", struck.elapsed().as_secs_f64());
    case.bakes("mlp", BAKE).await;
    assert_eq!(case.jobs("mlp").await.len(), 1, "the second leader adopts the Job of the first");
    case.done().await;
}

#[tokio::test]
async fn killed_ten_times_at_random_moments_it_loses_and_doubles_nothing() {
    let mut case = Case::alone("killed").await;
    if !shell::own_cluster() {
        println!("skipped: processes of this cluster are not on this machine");
        return;
    }
    case.operator_with(&["replicas=1", "caps.maxBakes=2"]);
    let seed = 7;
    let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
    for i in 0..6 {
        case.apply(&case.mlp(&format!("mlp-{i}"), &json!({"optimization": {"seed": i}}))).await.unwrap();
    }
    let mut back = Vec::new();
    for i in 0..10 {
        let blow = if i % 2 == 0 { Blow::Container } else { Blow::Pod };
        let moment = Duration::from_millis(random.random_range(500..6000));
        tokio::time::sleep(moment).await;
        let before = operator::led(&case.client, Duration::from_mins(1)).await;
        let restarts = operator::restarts(&case.client, &before).await;
        let struck = Instant::now();
        operator::strike(&case.client, blow).await;
        let looked = first_look(&case, &(before, restarts)).await;
        println!(
            "blow {i} ({blow:?}): leads again after {:.1} s, first look {looked:.2} s later",
            struck.elapsed().as_secs_f64() - looked
        );
        back.push(looked);
    }
    for i in 0..6 {
        let name = format!("mlp-{i}");
        let job = case.bakes(&name, BAKE * 3).await;
        assert_eq!(job.status.unwrap().runs, Some(1));
        let jobs = case.jobs(&name).await;
        assert_eq!(jobs.len(), 1, "{name} has {:?}", jobs.iter().map(Job::name_any).collect::<Vec<_>>());
        assert_eq!(case.pods(&name).await.len(), 1, "{name} was baked twice");
    }
    let slowest = back.iter().copied().fold(0.0, f64::max);
    println!("seed {seed}; slowest first look after the Lease was held: {slowest:.2} s");
    assert!(slowest < 1.0, "the first look took {slowest:.2} s after the Lease was held");
    case.done().await;
}

/// Waits for the next process to hold the Lease, and returns the seconds from then to its first look at an object.
async fn first_look(case: &Case, before: &(String, i32)) -> f64 {
    let leader = eventually("the operator is back", Duration::from_mins(1), async || {
        let leader = operator::leader(&case.client).await?;
        let restarts = operator::restarts(&case.client, &leader).await;
        let text = operator::log_since_start(&case.client, &leader).await?;
        let another = leader != before.0 || restarts > before.1;
        (another && text.contains("\"leading\"")).then_some(leader)
    })
    .await;
    eventually("it looks at an object", Duration::from_secs(10), async || {
        operator::first_look(&operator::log_since_start(&case.client, &leader).await?)
    })
    .await
}

#[tokio::test]
async fn the_charts_own_test_passes_and_an_uninstall_keeps_what_bakes() {
    let mut case = Case::alone("uninstall").await;
    case.operator_with(&["test.image=bakehouse.dev/busybox:e2e"]);
    let helm = |arguments: &[&str]| shell::run("helm", &[arguments, &["bakehouse", "-n", NAMESPACE]].concat());
    let said = helm(&["test"]);
    assert!(said.contains("Phase:          Succeeded"), "{said}");

    case.apply(&case.mlp("mlp", &slow(15))).await.unwrap();
    case.reaches("mlp", State::Running, BAKE).await;
    helm(&["uninstall", "--wait"]);
    assert!(operator::replicas(&case.client).await.is_empty());
    // Without a controller the bake goes on; its result waits to be seen.
    eventually("the pod has ended by itself", BAKE, async || {
        case.pods("mlp").await.iter().all(|pod| phase(pod) == "Succeeded").then_some(())
    })
    .await;
    assert!(case.api::<BakeJob>().get_opt("mlp").await.unwrap().is_some(), "the CRD went, and every BakeJob with it");
    case.operator_with(&[]);
    case.bakes("mlp", BAKE).await;
    assert_eq!((case.jobs("mlp").await.len(), case.pods("mlp").await.len()), (1, 1));
    case.done().await;
}

#[tokio::test]
async fn it_may_not_read_secrets_or_config_maps() {
    let case = Case::shared("rights").await;
    let reviews: Api<SubjectAccessReview> = Api::all(case.client.clone());
    let allowed = async |verb: &str, group: &str, resource: &str, namespace: &str| {
        let review = json!({"metadata": {}, "spec": {
            "user": format!("system:serviceaccount:{NAMESPACE}:bakehouse"),
            "resourceAttributes": {"verb": verb, "group": group, "resource": resource, "namespace": namespace},
        }});
        let review = serde_json::from_value(review).unwrap();
        reviews.create(&PostParams::default(), &review).await.unwrap().status.unwrap().allowed
    };
    for namespace in [case.namespace.as_str(), NAMESPACE] {
        for verb in ["get", "list", "watch", "create"] {
            for resource in ["secrets", "configmaps"] {
                assert!(!allowed(verb, "", resource, namespace).await, "{verb} {resource} in {namespace}");
            }
        }
        assert!(
            !allowed("create", "", "pods", namespace).await && !allowed("create", "", "pods/exec", namespace).await
        );
    }
    assert!(allowed("create", "batch", "jobs", &case.namespace).await, "the account of the review is the operator's");
    assert!(
        !allowed("update", "coordination.k8s.io", "leases", &case.namespace).await,
        "its Lease is in its own namespace"
    );
    case.done().await;
}

#[tokio::test]
async fn an_upgrade_of_chart_and_crd_disturbs_no_bake() {
    let mut case = Case::alone("upgrade").await;
    case.apply(&case.mlp("mlp", &slow(15))).await.unwrap();
    case.reaches("mlp", State::Running, BAKE).await;
    case.operator_with(&["podAnnotations.upgraded=yes", "concurrency=8"]);
    let job = case.bakes("mlp", BAKE).await;
    assert_eq!(job.status.unwrap().runs, Some(1));
    assert_eq!(case.pods("mlp").await.len(), 1);
    case.done().await;
}

#[tokio::test]
async fn metrics_count_what_happened_and_name_no_object() {
    let case = Case::alone("metrics").await;
    let before = operator::metric(&case.client, "bakejob_gate_total").await;
    case.apply(&case.mlp("a-name-that-must-not-be-a-label", &json!({}))).await.unwrap();
    case.bakes("a-name-that-must-not-be-a-label", BAKE).await;
    eventually("the gate is counted", SOON, async || {
        (operator::metric(&case.client, "bakejob_gate_total").await > before).then_some(())
    })
    .await;
    let text = operator::metrics(&case.client).await;
    assert!(!text.contains("a-name-that-must-not-be-a-label") && !text.contains(&case.namespace));
    for name in ["controller_runtime_reconcile_total", "workqueue_depth", "rest_client_requests_total", "bakejob_jobs"]
    {
        assert!(text.contains(name), "{name}");
    }
    case.done().await;
}

#[tokio::test]
async fn twelve_jobs_under_a_cap_of_four_all_end_and_a_poisoned_one_stops_no_other() {
    let mut case = Case::alone("twelve").await;
    case.operator_with(&["caps.maxBakes=4"]);
    for i in 0..12 {
        // Slow enough that all of them are there before the first has ended.
        let mut spec = slow(8);
        spec["optimization"]["seed"] = json!(i);
        if i == 5 {
            spec["source"] = json!({"uri": "/shelf/none.onnx"});
        }
        case.apply(&case.mlp(&format!("mlp-{i}"), &spec)).await.unwrap();
    }
    let mut most = 0;
    let mut positions = 0;
    let api: Api<BakeJob> = case.api();
    eventually("all have ended", BAKE * 4, async || {
        let jobs = api.list(&ListParams::default()).await.unwrap().items;
        let active = jobs
            .iter()
            .filter(|job| job.status.as_ref().is_some_and(|s| s.start_time.is_some() && s.completion_time.is_none()));
        most = most.max(active.count());
        positions = positions.max(jobs.iter().filter_map(|j| j.status.as_ref()?.queue_position).max().unwrap_or(0));
        jobs.iter().all(crate::support::ended).then_some(())
    })
    .await;
    assert_eq!(most, 4, "the cap is kept, and used");
    assert!(positions >= 5, "the queue says how many are ahead: at most {positions}");
    for i in 0..12 {
        let job = api.get(&format!("mlp-{i}")).await.unwrap();
        let state = crate::support::state(&job).unwrap();
        let well = matches!(state, State::Baked | State::NoImprovement);
        assert_eq!(well, i != 5, "mlp-{i}: {state}");
    }
    case.done().await;
}
