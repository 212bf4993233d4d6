//! Results that are taken again in place of a bake: what hits and what does not, races, damage, limits; in folders, and in a bucket of a real S3 server
//! (versitygw, skipped where it is not found).
#![cfg(feature = "tract")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[allow(dead_code, reason = "the storage tests use the rest")]
mod s3;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use bakehouse::api::Reason;
use bakehouse::api::digest::sha256_hex;
use bakehouse::api::wire::Outcome;
use s3::pod::example;
use s3::server::{KEY, SECRET, Server, gateway, objects};
use serde_json::{Value, json};

const TAKEN: &str = "Taken from the cache: baked at ";

/// A folder of a test: jobs, outputs, and a cache where it does not say otherwise.
struct Ground {
    folder: tempfile::TempDir,
    program: PathBuf,
    endpoint: Option<String>,
}

/// How a command ended.
struct Ended {
    output: Output,
}

impl Ended {
    fn stdout(&self) -> String {
        String::from_utf8_lossy(&self.output.stdout).into_owned()
    }

    fn stderr(&self) -> String {
        String::from_utf8_lossy(&self.output.stderr).into_owned()
    }

    #[track_caller]
    fn code(&self, code: i32) -> &Self {
        assert_eq!(self.output.status.code(), Some(code), "{}\n{}", self.stdout(), self.stderr());
        self
    }

    #[track_caller]
    fn json(&self) -> Value {
        serde_json::from_slice(&self.output.stdout).unwrap_or_else(|e| panic!("{e}: {}", self.stderr()))
    }

    /// What a bake says in its summary; it has to be one that passed.
    #[track_caller]
    fn message(&self) -> String {
        self.code(0).json()["message"].as_str().unwrap().to_owned()
    }
}

impl Ground {
    fn new() -> Self {
        let program = env!("CARGO_BIN_EXE_bakehouse").into();
        Self { folder: tempfile::tempdir().unwrap(), program, endpoint: None }
    }

    /// One whose cache holds the result that all tests share.
    fn with_baked() -> Self {
        let ground = Self::new();
        copy(&baked().cache(), &ground.cache());
        ground
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn cache(&self) -> PathBuf {
        self.path("cache")
    }

    /// The smallest bake there is, with these fields of the spec, as `name`, into the folder of that name.
    fn job(&self, name: &str, fields: &Value) -> PathBuf {
        let mut spec = json!({
            "source": {"uri": example("mlp", "model.onnx")},
            "data": {
                "validation": {"uri": example("mlp", "validation.npz"), "metric": "Top1"},
                "calibration": {"uri": example("mlp", "calibration.npz")},
            },
            "optimization": {"level": "Conservative"},
            "output": {"uri": self.path(name)},
            "profile": {"iterations": 10},
            "runtime": "Bakehouse",
            "cache": "Use",
        });
        if let Some(endpoint) = &self.endpoint {
            spec["storage"] = json!({"endpoint": endpoint, "region": "us-east-1"});
        }
        for (field, value) in fields.as_object().unwrap() {
            spec[field] = value.clone();
        }
        let job = json!({
            "apiVersion": "bakehouse.dev/v1alpha1", "kind": "BakeJob", "metadata": {"name": name}, "spec": spec,
        });
        let file = self.path(&format!("{name}.yaml"));
        fs::write(&file, job.to_string()).unwrap();
        file
    }

    fn command(&self) -> Command {
        let scratch = self.path("tmp");
        fs::create_dir_all(&scratch).unwrap();
        let mut command = Command::new(&self.program);
        let keys = [("AWS_ACCESS_KEY_ID", KEY), ("AWS_SECRET_ACCESS_KEY", SECRET), ("NO_PROXY", "127.0.0.1")];
        command.envs(keys).env("TMPDIR", scratch).env("BAKEHOUSE_ORT_LIB", "none").env("BAKEHOUSE_CACHE", self.cache());
        command.env_remove("BAKEHOUSE_MEMORY_LIMIT").env_remove("BAKEHOUSE_LOG");
        if let Some(endpoint) = &self.endpoint {
            command.env("AWS_ENDPOINT_URL", endpoint).env("AWS_REGION", "us-east-1");
        }
        command
    }

    fn run(&self, arguments: &[&str]) -> Ended {
        Ended { output: self.command().args(arguments).output().unwrap() }
    }

    fn bake(&self, name: &str, fields: &Value) -> Ended {
        let job = self.job(name, fields);
        self.run(&["bake", "--json", "-f", job.to_str().unwrap()])
    }

    /// What a dry run says of the cache.
    fn prospect(&self, fields: &Value, arguments: &[&str], variables: &[(&str, &str)]) -> String {
        let job = self.job("prospect", fields);
        let mut command = self.command();
        command.envs(variables.iter().copied()).args(["bake", "--dry-run", "-f"]).arg(job).args(arguments);
        let ended = Ended { output: command.output().unwrap() };
        let text = ended.code(0).stdout();
        let line = text.lines().find_map(|line| line.trim().strip_prefix("cache "));
        line.unwrap_or_default().trim().to_owned()
    }

    /// A worker with a cache that the platform names.
    fn worker(&self, name: &str, fields: &Value, cache: Option<&Path>) -> Child {
        let job: Value = serde_json::from_slice(&fs::read(self.job(name, fields)).unwrap()).unwrap();
        let mut assignment = json!({
            "task": "Bake", "name": name, "namespace": "ml", "uid": name, "run": 1, "attempt": 1, "lowMemory": false, "device": "CPU",
            "spec": job["spec"],
        });
        if let Some(cache) = cache {
            assignment["cache"] = json!(cache);
        }
        let mut command = self.command();
        command.arg("worker").env("BAKEHOUSE_ASSIGNMENT", assignment.to_string()).env_remove("BAKEHOUSE_CACHE");
        command.env("TERMINATION_LOG", self.path(&format!("{name}.end")));
        command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    }

    #[track_caller]
    fn ended(&self, name: &str, mut worker: Child) -> Outcome {
        assert_eq!(worker.wait().unwrap().code(), Some(0));
        Outcome::parse(&fs::read_to_string(self.path(&format!("{name}.end"))).unwrap()).unwrap()
    }

    /// Everything in the cache, by name.
    fn kept(&self) -> BTreeMap<String, Vec<u8>> {
        objects(&self.cache())
    }

    /// Where a file of the only entry lies.
    #[track_caller]
    fn file(&self, name: &str) -> PathBuf {
        let kept = self.kept();
        let mut found = kept.keys().filter(|key| key.ends_with(&format!("/{name}")));
        let path = found.next().unwrap_or_else(|| panic!("{name} of {:?}", kept.keys()));
        assert_eq!(found.next(), None);
        self.cache().join(path)
    }
}

/// One result that is kept, for all tests that only look at it or copy it.
fn baked() -> &'static Ground {
    static BAKED: OnceLock<Ground> = OnceLock::new();
    BAKED.get_or_init(|| {
        let ground = Ground::new();
        let message = ground.bake("digits", &json!({})).message();
        assert!(!message.contains(TAKEN) && !message.contains("was not used"), "{message}");
        ground
    })
}

fn copy(from: &Path, to: &Path) {
    for (name, bytes) in objects(from) {
        let path = to.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
}

fn age(path: &Path, days: u64) {
    let then = SystemTime::now() - Duration::from_hours(24 * days);
    File::options().write(true).open(path).unwrap().set_modified(then).unwrap();
}

/// The artifacts of a result: all of its files but the report and its page.
fn artifacts(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = objects(folder);
    assert!(files.remove("report.json").is_some() && files.remove("report.html").is_some());
    files
}

fn report(folder: &Path) -> Value {
    serde_json::from_slice(&fs::read(folder.join("report.json")).unwrap()).unwrap()
}

/// Every file that a report names lies beside it as it says.
#[track_caller]
fn assert_whole(folder: &Path) {
    for artifact in report(folder)["artifacts"].as_array().unwrap() {
        let bytes = fs::read(folder.join(artifact["file"].as_str().unwrap())).unwrap();
        assert_eq!(artifact["sha256"], sha256_hex(&bytes), "{}", artifact["file"]);
        assert_eq!(artifact["bytes"], bytes.len());
    }
}

#[test]
fn a_hit_is_the_first_result_to_the_byte_and_says_where_it_comes_from() {
    let ground = Ground::new();
    let all = json!({"optimization": {"level": "Light", "goal": "Size"}, "exports": ["ONNX", "SafeTensors", "ONNXStandard", "Phase7"]});
    assert!(ground.prospect(&all, &[], &[]).starts_with("no hit in "));
    let first = ground.bake("digits", &all);
    assert!(!first.message().contains(TAKEN));
    fs::rename(ground.path("digits"), ground.path("first")).unwrap();

    // The same files in another place are the same inputs.
    let moved = ground.path("moved.onnx");
    fs::copy(example("mlp", "model.onnx"), &moved).unwrap();
    let mut again = all.clone();
    again["source"] = json!({"uri": moved});
    let hit = ground.bake("digits", &again);
    assert!(hit.message().contains(TAKEN), "{}", hit.message());
    assert_eq!(hit.stderr(), "");
    let seconds = |ended: &Ended| ended.json()["seconds"].as_f64().unwrap();
    println!("baked in {:.2} s, taken from the cache in {:.2} s", seconds(&first), seconds(&hit));
    assert!(seconds(&hit) < seconds(&first), "{} s, {} s", seconds(&hit), seconds(&first));

    let (before, after) = (artifacts(&ground.path("first")), artifacts(&ground.path("digits")));
    assert_eq!(before.keys().collect::<Vec<_>>(), after.keys().collect::<Vec<_>>());
    assert!(before == after, "an artifact differs");
    assert!(after.contains_key("phase7/manifest.json") && after.contains_key("weights.safetensors"));
    assert_whole(&ground.path("digits"));

    let (then, now) = (report(&ground.path("first")), report(&ground.path("digits")));
    for same in ["machine", "stages", "baseline", "quality", "gates", "candidates", "engine"] {
        assert_eq!(then[same], now[same], "{same}");
    }
    assert_eq!(then["cache"], Value::Null);
    assert_eq!(
        (now["cache"]["job"].as_str(), &now["cache"]["specDigest"]),
        (Some("digits"), &then["job"]["specDigest"])
    );
    assert_eq!(now["cache"]["bakedAt"], then["stages"].as_array().unwrap().last().unwrap()["completionTime"]);
    assert_ne!(now["job"]["specDigest"], then["job"]["specDigest"], "the spec names another file");
    assert!(now["data"]["files"].as_array().unwrap().iter().any(|file| file["path"] == json!(moved)));
    assert!(fs::read_to_string(ground.path("digits/report.html")).unwrap().contains(TAKEN));

    // What is said of files still holds for whoever checks it.
    let checked = ground.run(&["verify", "--json", ground.path("digits").to_str().unwrap()]).json();
    let checks = checked["checks"].as_array().unwrap();
    let holds = |claim: &str| checks.iter().find(|check| check["claim"] == claim).map(|check| check["holds"].clone());
    for claim in ["model.onnx", "report.html", "phase7/manifest.json", "Model file", "Validation file"] {
        assert_eq!(holds(claim), Some(json!({"state": "Yes"})), "{claim}: {checks:?}");
    }
}

#[test]
fn what_could_end_differently_is_a_miss_and_names_and_places_are_not() {
    let ground = Ground::with_baked();
    let folder = |name: &str| example("mlp", name);
    let hit = |fields: Value| ground.prospect(&fields, &[], &[]).starts_with("a hit in ");
    assert!(hit(json!({})), "{}", ground.prospect(&json!({}), &[], &[]));
    assert!(hit(json!({"storage": {"region": "x"}, "activeDeadlineSeconds": 99, "exports": ["ONNX"]})));

    let other_model = ground.path("other.onnx");
    let mut bytes = fs::read(folder("model.onnx")).unwrap();
    bytes.extend([0xfa, 0x3e, 3, b'a', b'b', b'c']); // a field that no version of ONNX has
    fs::write(&other_model, bytes).unwrap();
    let validation = |uri: PathBuf| json!({"validation": {"uri": uri, "metric": "Top1"}, "calibration": {"uri": folder("calibration.npz")}});
    for fields in [
        json!({"source": {"uri": other_model}}),
        json!({"data": validation(folder("training.npz"))}),
        json!({"data": {"validation": {"uri": folder("validation.npz"), "metric": "Top1"}}}),
        json!({"optimization": {"level": "Light"}}),
        json!({"optimization": {"level": "Conservative", "seed": 1}}),
        json!({"gates": [{"metric": "AccuracyRetention", "min": "0.99"}]}),
        json!({"profile": {"iterations": 11}}),
        json!({"hardware": {"cpu": {"threads": 2}}}),
        json!({"exports": ["ONNX", "SafeTensors"]}),
    ] {
        let said = ground.prospect(&fields, &[], &[]);
        assert!(said.starts_with("no hit in "), "{fields}: {said}");
    }
    let miss = |arguments: &[&str], variables: &[(&str, &str)]| {
        let said = ground.prospect(&json!({}), arguments, variables);
        assert!(said.starts_with("no hit in "), "{arguments:?} {variables:?}: {said}");
    };
    miss(&["--low-memory"], &[]);
    miss(&[], &[("BAKEHOUSE_MEMORY_LIMIT", "700000000")]);
    let library = std::env::var("BAKEHOUSE_ORT_LIB").unwrap_or_default();
    if Path::new(&library).is_file() {
        miss(&[], &[("BAKEHOUSE_ORT_LIB", &library)]);
    } else {
        assert!(std::env::var_os("BAKEHOUSE_REQUIRE_ORT").is_none(), "BAKEHOUSE_ORT_LIB names no library");
    }
    // A file that is not there is for the bake to complain of.
    let said = ground.prospect(&json!({"source": {"uri": "/nowhere/m.onnx"}}), &[], &[]);
    assert!(said.starts_with("not used: ") && said.contains("/nowhere/m.onnx"), "{said}");
    assert_eq!(ground.prospect(&json!({"cache": "Off"}), &[], &[]), "");
}

#[test]
fn another_build_of_the_same_version_is_a_miss() {
    let mut ground = Ground::with_baked();
    let mut program = fs::read(&ground.program).unwrap();
    // The note of the linker: sizes of name and digest, type, name, digest. Without one the whole program counts.
    let before = b"\x04\0\0\0\x14\0\0\0\x03\0\0\0GNU\0";
    match program.windows(before.len()).position(|window| window == before) {
        Some(at) => program[at + before.len()] ^= 1,
        None => program.push(0),
    }
    ground.program = ground.path("bakehouse");
    fs::copy(env!("CARGO_BIN_EXE_bakehouse"), &ground.program).unwrap();
    assert!(ground.prospect(&json!({}), &[], &[]).starts_with("a hit in "), "a copy is the same build");
    fs::write(&ground.program, program).unwrap();
    let said = ground.prospect(&json!({}), &[], &[]);
    assert!(said.starts_with("no hit in "), "{said}");
}

#[test]
fn a_damaged_entry_is_named_deleted_and_baked_again() {
    let flip = |path: &Path| {
        let mut bytes = fs::read(path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(path, bytes).unwrap();
    };
    let cut = |path: &Path| {
        let file = File::options().write(true).open(path).unwrap();
        file.set_len(file.metadata().unwrap().len() / 2).unwrap();
    };
    // An entry whose digests were made to fit.
    let forge = |ground: &Ground| {
        flip(&ground.file("model.onnx"));
        let changed = sha256_hex(&fs::read(ground.file("model.onnx")).unwrap());
        let entry = ground.file("entry.json");
        let mut saved = serde_json::from_slice::<Value>(&fs::read(&entry).unwrap()).unwrap()["saved"].take();
        let files = saved["files"].as_array_mut().unwrap();
        files.iter_mut().find(|file| file["file"] == "model.onnx").unwrap()["sha256"] = json!(changed);
        let digest = sha256_hex(saved.to_string().as_bytes());
        fs::write(&entry, format!("{{\"sha256\":\"{digest}\",\"saved\":{saved}}}")).unwrap();
    };
    let table: [(&str, &str, &dyn Fn(&Ground)); 5] = [
        ("poisoned", "model.onnx has sha256 ", &|g| flip(&g.file("model.onnx"))),
        ("truncated", "report.json has sha256 ", &|g| cut(&g.file("report.json"))),
        ("missing", "recipe.json is missing", &|g| fs::remove_file(g.file("recipe.json")).unwrap()),
        ("half-manifest", "entry.json: it is damaged", &|g| cut(&g.file("entry.json"))),
        ("forged", "it names other files than were kept", &forge),
    ];
    for (name, said, damage) in table {
        let ground = Ground::with_baked();
        damage(&ground);
        let ended = ground.bake(name, &json!({}));
        assert!(!ended.message().contains(TAKEN), "{name}: {}", ended.message());
        let warned = ended.stderr();
        assert!(warned.contains(said) && warned.contains("is not what was baked"), "{name}: {warned}");
        assert_whole(&ground.path(name));
        // What was baked is kept in its place; of a manifest that cannot be read, nobody knows the files: they are left over.
        assert!(ground.prospect(&json!({}), &[], &[]).starts_with("a hit in "), "{name}");
        let left = ground.kept().keys().filter(|file| file.ends_with("/model.onnx")).count();
        assert_eq!(left, if name == "half-manifest" { 2 } else { 1 }, "{name}");
        if name == "poisoned" {
            let hit = ground.bake("hit", &json!({}));
            assert!(hit.message().contains(TAKEN) && hit.message().contains("for poisoned"));
            assert_eq!(artifacts(&ground.path("hit")), artifacts(&ground.path(name)));
        }
    }
}

#[test]
fn two_workers_race_and_one_of_them_is_kept_whole() {
    let ground = Ground::new();
    let cache = ground.cache();
    let names = ["left", "right"];
    let racing = names.map(|name| ground.worker(name, &json!({}), Some(&cache)));
    for (name, worker) in names.into_iter().zip(racing) {
        let outcome = ground.ended(name, worker);
        assert!(matches!(outcome.reason, Reason::Baked | Reason::NoImprovement), "{}", outcome.message);
        assert!(!outcome.message.contains("was not used"), "{}", outcome.message);
        assert_whole(&ground.path(name));
    }
    let attempt = ground.file("model.onnx").parent().unwrap().to_owned();
    assert_eq!(
        fs::read_dir(attempt.parent().unwrap()).unwrap().filter(|e| e.as_ref().unwrap().path().is_dir()).count(),
        1
    );
    let kept = report(&attempt);
    assert_whole(&attempt);
    let winner = kept["job"]["name"].as_str().unwrap();
    assert!(names.contains(&winner));

    let third = ground.worker("third", &json!({}), Some(&cache));
    let outcome = ground.ended("third", third);
    assert!(outcome.message.contains(TAKEN) && outcome.message.contains(winner), "{}", outcome.message);
    assert!(outcome.stages.is_empty(), "no stage was run");
    assert!(outcome.gates.len() == 4 && outcome.baseline.is_some() && outcome.cpu.is_some());
    assert_eq!(artifacts(&ground.path("third")), artifacts(&ground.path(winner)));
    assert_eq!(
        outcome.report.unwrap().sha256,
        format!("sha256:{}", sha256_hex(&fs::read(ground.path("third/report.json")).unwrap()))
    );
}

#[test]
fn refresh_bakes_again_and_replaces_what_is_kept() {
    let ground = Ground::with_baked();
    let attempt = |ground: &Ground| ground.file("model.onnx").parent().unwrap().to_owned();
    let before = attempt(&ground);
    assert!(ground.prospect(&json!({"cache": "Refresh"}), &[], &[]).starts_with("baked anew"));
    assert!(!ground.bake("fresh", &json!({"cache": "Refresh"})).message().contains(TAKEN));
    assert_ne!(attempt(&ground), before);
    assert!(!before.exists());
    let hit = ground.bake("hit", &json!({}));
    assert!(hit.message().contains("for fresh"), "{}", hit.message());
    // The command line goes before the job.
    assert!(ground.prospect(&json!({}), &["--cache-policy", "refresh"], &[]).starts_with("baked anew"));
    assert_eq!(ground.prospect(&json!({}), &["--cache-policy", "off"], &[]), "");
}

#[test]
fn without_a_wish_nothing_is_kept_and_what_did_not_pass_never_is() {
    let ground = Ground::new();
    for (name, fields, code) in [
        ("off", json!({"cache": "Off"}), 0),
        ("unset", json!({"cache": null}), 0),
        ("failed", json!({"gates": [{"metric": "FileSize", "max": "1"}]}), 3),
    ] {
        ground.bake(name, &fields).code(code);
        assert!(ground.kept().is_empty(), "{name}");
    }
    // A cache that is named on the command line is a wish.
    let other = Ground::with_baked();
    let job = ground.job("named", &json!({"cache": null}));
    let named =
        ground.run(&["bake", "--json", "--cache", other.cache().to_str().unwrap(), "-f", job.to_str().unwrap()]);
    assert!(named.message().contains(TAKEN), "{}", named.message());
    let wrong = ground.run(&["bake", "--cache-policy", "sometimes", "-f", job.to_str().unwrap()]);
    assert!(wrong.code(2).stderr().contains("spec.cache"), "{}", wrong.stderr());
}

#[test]
fn a_cache_that_is_not_there_or_cannot_be_used_costs_no_bake() {
    let ground = Ground::new();
    let alone = ground.worker("alone", &json!({}), None);
    let outcome = ground.ended("alone", alone);
    assert!(outcome.message.contains("The cache was not used: nothing says where it lies"), "{}", outcome.message);
    assert_whole(&ground.path("alone"));

    fs::write(ground.path("file"), b"").unwrap();
    let job = ground.job("blocked", &json!({}));
    let place = ground.path("file/cache");
    let ended = ground.run(&["bake", "--json", "--cache", place.to_str().unwrap(), "-f", job.to_str().unwrap()]);
    assert!(ended.message().contains("The cache was not used: "), "{}", ended.message());
    assert!(ended.stderr().contains("file/cache"), "{}", ended.stderr());
    assert_whole(&ground.path("blocked"));
}

#[test]
fn garbage_is_collected_by_age_by_size_and_when_it_is_left_over() {
    let ground = Ground::with_baked();
    ground.bake("second", &json!({"profile": {"iterations": 11}})).code(0);
    let of = |name: &str| -> Vec<PathBuf> {
        let names = ground.kept().into_keys().filter(|key| key.ends_with(&format!("/{name}")));
        names.map(|key| ground.cache().join(key)).collect()
    };
    let jobs = || {
        let listed = ground.run(&["cache", "list", "--json"]).code(0).json();
        let jobs = listed.as_array().unwrap().iter().filter_map(|held| held["job"].as_str());
        jobs.map(str::to_owned).collect::<BTreeSet<_>>()
    };
    let both = || BTreeSet::from(["digits", "second"].map(str::to_owned));
    let gc = |arguments: &[&str]| {
        let ended = ground.run(&[&["cache", "gc", "--json"], arguments].concat());
        let gone = ended.code(0).json();
        gone.as_array().unwrap().iter().map(|gone| gone["reason"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(jobs(), both());
    let table = ground.run(&["cache", "list"]);
    assert!(table.code(0).stdout().contains("digits") && table.stdout().contains("kept"), "{}", table.stdout());

    // Somebody's own file, and what a killed bake left: of today, and of the day before yesterday.
    fs::write(ground.cache().join("notes.txt"), b"mine").unwrap();
    let key = of("entry.json")[0].parent().unwrap().to_owned();
    for (attempt, days) in [("1700000000000-00000000000000aa", 0), ("1700000000000-00000000000000bb", 2)] {
        fs::create_dir(key.join(attempt)).unwrap();
        fs::write(key.join(attempt).join("model.onnx"), b"half").unwrap();
        age(&key.join(attempt).join("model.onnx"), days);
    }
    let first = |name: &str| {
        let entries = of("entry.json").into_iter();
        let mut entries =
            entries.filter(|path| fs::read_to_string(path).unwrap().contains(&format!("\"job\":\"{name}\"")));
        entries.next().unwrap().parent().unwrap().to_owned()
    };
    for name in objects(&first("digits")).into_keys().filter(|name| !name.starts_with("1700000000000-")) {
        age(&first("digits").join(name), 10);
    }

    assert_eq!(gc(&["--max-age", "11d", "--dry-run"]), ["left of an interrupted write"]);
    assert!(key.join("1700000000000-00000000000000bb").exists(), "a dry run deletes nothing");
    assert_eq!(gc(&["--max-age", "11d"]), ["left of an interrupted write"]);
    assert!(
        !key.join("1700000000000-00000000000000bb").exists() && key.join("1700000000000-00000000000000aa").exists()
    );
    assert_eq!(jobs(), both());

    // A hit is a use: it stays while the other goes.
    assert!(ground.bake("hit", &json!({})).message().contains("for digits"));
    assert_eq!(gc(&["--max-age", "9d"]), Vec::<String>::new());
    age(&first("digits").join("used"), 10);
    assert_eq!(gc(&["--max-age", "9d"]), ["not used for longer than --max-age"]);
    assert_eq!(jobs(), BTreeSet::from(["second".to_owned()]));
    assert_eq!(gc(&["--max-bytes", "10Mi"]), Vec::<String>::new());
    fs::remove_file(of("recipe.json").pop().unwrap()).unwrap();
    assert_eq!(gc(&[]), ["damaged: recipe.json is missing"]);
    assert_eq!(jobs(), BTreeSet::new());
    ground.bake("second", &json!({"profile": {"iterations": 11}})).code(0);
    assert_eq!(gc(&["--max-bytes", "1k"]), ["used least recently, beyond --max-bytes"]);
    let left = ground.kept();
    let left: Vec<&str> = left.keys().map(|name| name.rsplit('/').next().unwrap()).collect();
    assert_eq!(left, ["model.onnx", "notes.txt"], "what may be under way, and what is somebody's");
    for wrong in [&["--max-age", "soon"][..], &["--max-bytes", "lots"]] {
        ground.run(&[&["cache", "gc"], wrong].concat()).code(2);
    }
}

#[test]
fn a_bucket_is_a_cache_like_a_folder() {
    let Some(gateway) = gateway() else { return };
    let server = Server::start(&gateway);
    ["bakes", "baked", "models"].iter().for_each(|bucket| server.bucket(bucket));
    server.put("models", "m.onnx", &fs::read(example("mlp", "model.onnx")).unwrap());
    let mut ground = Ground::new();
    ground.endpoint = Some(server.endpoint().to_owned());
    let cache = Path::new("s3://bakes/here");
    let spec = |output: &str| json!({"source": {"uri": "s3://models/m.onnx"}, "output": {"uri": format!("s3://baked/{output}")}});
    let bake = |output: &str| ground.ended(output, ground.worker(output, &spec(output), Some(cache)));

    let first = bake("first");
    assert!(!first.message.contains("ache"), "{}", first.message);
    let kept = || server.objects("bakes");
    assert!(kept().keys().all(|key| key.starts_with("here/")), "{:?}", kept().keys());
    let second = bake("second");
    assert!(second.message.contains(TAKEN), "{}", second.message);
    let baked = server.objects("baked");
    for name in ["model.onnx", "recipe.json"] {
        assert_eq!(baked[&format!("first/{name}")], baked[&format!("second/{name}")], "{name}");
    }
    // A result on this machine, from what was baked for the bucket.
    let local = json!({"output": {"uri": ground.path("local")}});
    let local = ground.worker("local", &local, Some(cache));
    assert!(ground.ended("local", local).message.contains("for first"));
    assert_whole(&ground.path("local"));

    let model = kept().into_keys().find(|key| key.ends_with("/model.onnx")).unwrap();
    server.put("bakes", &model, b"poison");
    let third = bake("third");
    assert!(!third.message.contains(TAKEN), "{}", third.message);
    assert!(bake("fourth").message.contains("for third"));

    let listed = ground.run(&["cache", "list", "--json", "--cache", "s3://bakes/here"]).code(0).json();
    assert_eq!((listed.as_array().unwrap().len(), listed[0]["job"].as_str()), (1, Some("third")));
    server.put("bakes", "here/notes.txt", b"mine");
    let gone = ground.run(&["cache", "gc", "--max-bytes", "0", "--json", "--cache", "s3://bakes/here"]).code(0).json();
    assert_eq!(gone[0]["deleted"], true);
    assert_eq!(kept().into_keys().collect::<Vec<_>>(), ["here/notes.txt"]);
}
