//! Which results stay in an output when later ones take their place, in a folder and in a bucket.

use std::collections::BTreeMap;
use std::process::{Child, Stdio};
use std::time::Duration;

use bakehouse::api::digest::sha256_hex;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::s3::proxy::{Fault, Proxy, Rule};
use crate::s3::stall::Stall;
use crate::{Files, Ground, code, conservative, on_each_ground, size};

/// A result as far as retention looks at it: its name among earlier ones, and its files.
fn finished(days_ago: i64, files: &[(&str, &str)]) -> (String, Files) {
    let time = Timestamp::now() - SignedDuration::from_hours(24 * days_ago);
    let artifacts: Vec<Value> = files
        .iter()
        .map(|(file, text)| json!({"format": "ONNX", "file": file, "sha256": sha256_hex(text.as_bytes()), "bytes": text.len()}))
        .collect();
    let report = json!({
        "apiVersion": "bakehouse.dev/report/v1", "stages": [{"completionTime": time.to_string()}], "artifacts": artifacts,
    });
    let report = report.to_string().into_bytes();
    let name = format!("{}-{}", time.strftime("%Y%m%dT%H%M%S%.3fZ"), &sha256_hex(&report)[..12]);
    let mut all: Files = files.iter().map(|(file, text)| ((*file).to_owned(), text.as_bytes().to_vec())).collect();
    all.insert("report.json".to_owned(), report);
    (name, all)
}

fn put(ground: &Ground, folder: &str, files: &Files) {
    for (name, bytes) in files {
        ground.put("baked", &format!("{folder}/{name}"), bytes);
    }
}

/// Lays one among the earlier results of `out`.
fn earlier(ground: &Ground, days_ago: i64) -> (String, Files) {
    let (name, files) = finished(days_ago, &[("model.onnx", &format!("{days_ago} days")), ("sub/data.bin", "x")]);
    put(ground, &format!("out/earlier/{name}"), &files);
    (name, files)
}

/// What lies in a folder of the output: files by name.
fn lying(ground: &Ground, folder: &str) -> Files {
    let files = ground.files("baked").into_iter();
    files.filter_map(|(name, bytes)| Some((name.strip_prefix(folder)?.strip_prefix('/')?.to_owned(), bytes))).collect()
}

/// The earlier results of `out`, by name. Each has a report, and with it every file that the report lists.
#[track_caller]
fn set_aside(ground: &Ground) -> BTreeMap<String, Files> {
    let mut found: BTreeMap<String, Files> = BTreeMap::new();
    for (path, bytes) in lying(ground, "out/earlier") {
        if let Some((name, file)) = path.split_once('/') {
            found.entry(name.to_owned()).or_default().insert(file.to_owned(), bytes);
        }
    }
    found.retain(|name, files| files.contains_key("report.json") && name.len() == 33);
    found.values().for_each(assert_whole);
    found
}

#[track_caller]
fn assert_whole(files: &Files) {
    let report: Value = serde_json::from_slice(&files["report.json"]).unwrap();
    for artifact in report["artifacts"].as_array().unwrap() {
        let file = artifact["file"].as_str().unwrap();
        assert_eq!(files.get(file).map(|bytes| sha256_hex(bytes)).as_deref(), artifact["sha256"].as_str(), "{file}");
    }
}

/// The newest result of `out`.
fn top(ground: &Ground) -> Files {
    lying(ground, "out").into_iter().filter(|(name, _)| !name.starts_with("earlier/")).collect()
}

/// A job that bakes into `out`, and keeps so many results for so many days.
fn spec(ground: &Ground, optimization: &Value, runs: u32, days: u32) -> Value {
    let mut spec = ground.spec("out", &json!({"policy": "Manual"}));
    spec["optimization"] = optimization.clone();
    spec["output"]["keepRuns"] = json!(runs);
    spec["output"]["keepDays"] = json!(days);
    spec
}

/// Bakes, and returns the message of the result.
#[track_caller]
fn bake(ground: &Ground, spec: &Value) -> String {
    let baked = ground.run(&["bake", "--json"], &ground.job("out", spec));
    code(&baked, 0);
    assert_whole(&top(ground));
    serde_json::from_slice::<Value>(&baked.stdout).unwrap()["message"].as_str().unwrap().to_owned()
}

fn names(found: &BTreeMap<String, Files>) -> Vec<&str> {
    found.keys().map(String::as_str).collect()
}

#[test]
fn results_stay_by_count_and_age_and_nobody_elses_file_goes() {
    on_each_ground(|ground| {
        earlier(ground, 95);
        let (three, _) = earlier(ground, 3);
        let (two, _) = earlier(ground, 2);
        let (one, newest) =
            finished(1, &[("model.onnx", "newest"), ("sub/data.bin", "of a format that is no longer asked for")]);
        put(ground, "out", &newest);
        // A process was killed while it deleted this one.
        let (leaving, mut files) = finished(94, &[("model.onnx", "old"), ("gone.bin", "already")]);
        files.remove("gone.bin");
        let report = files.remove("report.json").unwrap();
        files.insert("leaving.json".to_owned(), report);
        put(ground, &format!("out/earlier/{leaving}"), &files);
        let strangers = [
            "out/notes.txt".to_owned(),
            "out/earlier/notes.txt".to_owned(),
            format!("out/earlier/{three}/notes.txt"),
            "out/earlier/mine/report.json".to_owned(),
        ];
        for name in &strangers {
            ground.put("baked", name, b"somebody's own");
        }

        bake(ground, &spec(ground, &conservative(), 3, 90));
        let found = set_aside(ground);
        assert_eq!(names(&found), [&two, &one]);
        assert_eq!(found[&one], newest, "it was moved as it was");
        assert!(!top(ground).contains_key("sub/data.bin"), "{:?}", top(ground).keys());
        let first = lying(ground, "out")["report.json"].clone();

        bake(ground, &spec(ground, &conservative(), 100, 2));
        let found = set_aside(ground);
        assert_eq!(found.len(), 2, "{:?}", names(&found));
        assert!(found.contains_key(&one) && found.values().any(|files| files["report.json"] == first));
        let all = ground.files("baked");
        assert!(strangers.iter().all(|name| all[name] == b"somebody's own"));
        let marks = ["leaving.json", "gone.bin"];
        assert!(!all.keys().any(|name| marks.iter().any(|mark| name.ends_with(mark))), "{:?}", all.keys());

        clean(ground, &spec(ground, &conservative(), 3, 90));
        let left: Vec<String> = ground.files("baked").into_keys().collect();
        let mut expected = strangers.to_vec();
        expected.sort();
        assert_eq!(left, expected);
    });
}

/// What happens to an output of a `BakeJob` that is deleted.
fn clean(ground: &Ground, spec: &Value) {
    let assignment = json!({
        "task": "Clean", "name": "digits", "namespace": "ml", "uid": "u", "run": 1, "attempt": 1, "lowMemory": false, "device": "CPU", "spec": spec,
    });
    let mut command = ground.command();
    command.arg("worker").env("BAKEHOUSE_ASSIGNMENT", assignment.to_string());
    code(&command.env("TERMINATION_LOG", ground.folder.path().join("termination")).output().unwrap(), 0);
}

#[test]
fn what_was_promoted_stays_and_where_that_is_not_known_everything_does() {
    on_each_ground(|ground| {
        let (job, a) = ground.baked("out", &size());
        code(&ground.promote(&job, &a), 0);
        let first = top(ground);
        earlier(ground, 3);
        bake(ground, &spec(ground, &conservative(), 1, 90));
        let second = top(ground);
        let found = set_aside(ground);
        assert!(found.values().eq([&first]), "the one that nobody promoted is gone: {:?}", names(&found));

        let job = ground.job("out", &spec(ground, &conservative(), 1, 90));
        let b = format!("sha256:{}", sha256_hex(&second["model.onnx"]));
        code(&ground.promote(&job, &b), 0);
        code(&ground.run(&["promote", "--rollback"], &job), 0);
        assert_eq!(ground.assert_whole().last().unwrap()["sha256"], json!(a));

        let entry = ground.files("promoted")["digits/history/000002.json"].clone();
        ground.put("promoted", "digits/history/000002.json", b"damaged");
        let (plain, files) = earlier(ground, 3);
        let message = bake(ground, &spec(ground, &conservative(), 1, 1));
        assert!(
            message.contains("cannot be learned, so nothing was deleted") && message.contains("000002.json"),
            "{message}"
        );
        let found = set_aside(ground);
        assert_eq!((found.len(), &found[&plain]), (3, &files), "{:?}", names(&found));

        // The job no longer says where it was promoted to. Marks beside the results do.
        ground.put("promoted", "digits/history/000002.json", &entry);
        let mut silent = spec(ground, &conservative(), 1, 1);
        silent["promotion"] = json!({"policy": "Never"});
        let message = bake(ground, &silent);
        assert!(!message.contains("nothing was deleted"), "{message}");
        let found: Vec<Files> = set_aside(ground).into_values().collect();
        assert!(found == [first, second], "{:?}", names(&set_aside(ground)));
    });
}

#[test]
fn an_artifact_that_is_baked_and_promoted_again_keeps_a_history_that_can_be_gone_back_to() {
    on_each_ground(|ground| {
        for optimization in [size(), size(), conservative(), size()] {
            let (job, digest) = ground.baked("out", &optimization);
            code(&ground.promote(&job, &digest), 0);
            ground.assert_whole();
        }
        let job = ground.job("out", &spec(ground, &size(), 1, 90));
        code(&ground.run(&["promote", "--rollback"], &job), 0);
        code(&ground.run(&["promote", "--rollback"], &job), 0);
        let history = ground.assert_whole();
        assert_eq!(history.len(), 5, "{history:#?}");
        assert_eq!(history[4]["sha256"], history[0]["sha256"]);

        // One more format of the same artifact is promoted with it.
        let mut more = spec(ground, &size(), 5, 90);
        more["exports"] = json!(["ONNX", "SafeTensors"]);
        let job = ground.job("out", &more);
        code(&ground.run(&["bake", "--quiet"], &job), 0);
        code(&ground.promote(&job, history[0]["sha256"].as_str().unwrap()), 0);
        let files = ground.files("promoted");
        let newest: Value = serde_json::from_slice(&files["digits/current.json"]).unwrap();
        let file = |file: &Value| file["file"] == "weights.safetensors";
        assert!(newest["sequence"] == 6 && newest["files"].as_array().unwrap().iter().any(file), "{newest:#}");
    });
}

#[test]
fn a_store_that_refuses_to_say_what_is_promoted_or_what_lies_there_has_nothing_deleted() {
    on_each_ground(|ground| {
        let Some(server) = &ground.server else { return };
        put(ground, "out", &finished(1, &[("model.onnx", "newest")]).1);
        let plain = [earlier(ground, 3).0, earlier(ground, 2).0];
        for (asked, words) in [
            ("promoted/digits/history", "so nothing was deleted: spec.promotion.uri: access to s3://promoted"),
            ("list-type=2", "Earlier results stay as they are: spec.output.uri: access to s3://baked/out/earlier/"),
        ] {
            let denied = Fault::Answer("403 Forbidden", "AccessDenied");
            let proxy = Proxy::before(server.port(), server.folder("none"), vec![Rule::always("GET", asked, &denied)]);
            let mut spec = spec(ground, &conservative(), 1, 90);
            spec["storage"]["endpoint"] = json!(proxy.endpoint());
            let message = bake(ground, &spec);
            assert!(message.contains(words), "{message}");
            let found = set_aside(ground);
            assert!(plain.iter().all(|name| found.contains_key(name)), "{:?}", names(&found));
        }
        assert_eq!(set_aside(ground).len(), 4);
        bake(ground, &spec(ground, &conservative(), 1, 90));
        assert_eq!(names(&set_aside(ground)), [""; 0]);
    });
}

/// Starts a bake that is to be killed.
fn baking(ground: &Ground, spec: &Value) -> Child {
    let job = ground.job("out", spec);
    ground
        .command()
        .args(["bake", "--quiet", "-f"])
        .arg(job)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// An earlier result lies whole, where it was or where it is moved to; and what claims to be a result is whole.
#[track_caller]
fn assert_kept(ground: &Ground, (name, files): &(String, Files)) {
    let (top, moved) = (top(ground), lying(ground, &format!("out/earlier/{name}")));
    let lies = |there: &Files| files.iter().all(|(file, bytes)| there.get(file) == Some(bytes));
    assert!(lies(&top) || lies(&moved), "at the top {:?}, moved {:?}", top.keys(), moved.keys());
    if top.contains_key("report.json") {
        assert_whole(&top);
    }
    set_aside(ground);
}

#[test]
fn killed_at_each_step_of_a_publication_the_earlier_result_is_whole_and_the_next_run_tidies_up() {
    on_each_ground(|ground| {
        let Some(server) = &ground.server else { return };
        let old = finished(1, &[("model.onnx", "newest"), ("recipe.json", "{}"), ("only/then.bin", "x")]);
        for step in [
            "PUT /baked/out/earlier/",
            "/only/then.bin HTTP",
            "DELETE /baked/out/report.json ",
            "PUT /baked/out/model.onnx ",
            "PUT /baked/out/report.json ",
        ] {
            ground.files("baked").keys().for_each(|name| server.remove("baked", name));
            put(ground, "out", &old.1);
            let stall = Stall::before(server, step);
            let mut through = spec(ground, &conservative(), 5, 90);
            through["storage"]["endpoint"] = json!(stall.endpoint());
            let mut child = baking(ground, &through);
            stall.wait();
            child.kill().unwrap();
            child.wait().unwrap();
            assert_kept(ground, &old);

            let message = bake(ground, &spec(ground, &conservative(), 5, 90));
            assert!(!message.contains("not kept"), "{step}: {message}");
            assert_eq!(set_aside(ground), BTreeMap::from([old.clone()]), "{step}");
            assert!(!top(ground).contains_key("only/then.bin"), "{step}: {:?}", top(ground).keys());
        }
    });
}

#[test]
fn killed_as_soon_as_something_is_moved_a_folder_keeps_the_earlier_result_too() {
    let ground = Ground { folder: tempfile::tempdir().unwrap(), server: None };
    let old = finished(1, &[("model.onnx", "newest"), ("recipe.json", "{}"), ("only/then.bin", "x")]);
    for _ in 0..3 {
        let out = ground.folder.path().join("baked/out");
        let _ = std::fs::remove_dir_all(&out);
        put(&ground, "out", &old.1);
        let mut child = baking(&ground, &spec(&ground, &conservative(), 5, 90));
        while !out.join("earlier").exists() && child.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_micros(20));
        }
        let _ = child.kill();
        child.wait().unwrap();
        let hidden: Vec<_> = top(&ground).into_keys().filter(|name| name.starts_with(".bake-")).collect();
        assert_kept(&ground, &old);
        bake(&ground, &spec(&ground, &conservative(), 5, 90));
        let found = set_aside(&ground);
        assert_eq!(found[&old.0], old.1);
        let top = top(&ground);
        assert!(!top.contains_key("only/then.bin"), "{:?}", top.keys());
        // A shell's run has no name by which the next one would know its hidden folder.
        assert!(top.keys().filter(|name| name.starts_with(".bake-")).all(|name| hidden.contains(name)));
    }
}

#[test]
fn of_two_runs_at_once_none_loses_the_result_before_them() {
    on_each_ground(|ground| {
        let old = finished(1, &[("model.onnx", "newest"), ("recipe.json", "{}")]);
        put(ground, "out", &old.1);
        let job = spec(ground, &conservative(), 5, 90);
        let children = [baking(ground, &job), baking(ground, &job)];
        let ended = children.map(|mut child| child.wait().unwrap().code());
        assert!(ended.contains(&Some(0)) && ended.iter().all(|code| matches!(code, Some(0 | 14))), "{ended:?}");
        let found = set_aside(ground);
        assert_eq!(found[&old.0], old.1);
        if ground.server.is_none() {
            // In a folder one waits for the other.
            assert_eq!((ended, found.len()), ([Some(0); 2], 2));
            assert_whole(&top(ground));
        }
        bake(ground, &job);
        assert_eq!(set_aside(ground)[&old.0], old.1);
    });
}

#[test]
fn what_lay_there_and_is_not_whole_is_replaced_and_that_is_said() {
    on_each_ground(|ground| {
        let (_, mut files) = finished(1, &[("model.onnx", "newest"), ("recipe.json", "{}")]);
        files.insert("model.onnx".to_owned(), b"edite!".to_vec());
        files.insert("recipe.json".to_owned(), b"longer".to_vec());
        put(ground, "out", &files);
        let message = bake(ground, &spec(ground, &conservative(), 5, 90));
        assert!(message.contains("not kept: its recipe.json is not what its report.json says"), "{message}");
        assert_eq!(names(&set_aside(ground)), [""; 0]);
        bake(ground, &spec(ground, &conservative(), 5, 90));
        assert_eq!(set_aside(ground).len(), 1);
    });
}
