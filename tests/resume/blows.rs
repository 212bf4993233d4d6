//! Twenty pods of one run after another, each killed at a moment that a generator draws; the last one may end. In a folder, and in a bucket.

use std::collections::BTreeMap;
use std::process::Child;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::s3::server::{KEY, SECRET, Server, gateway};
use super::s3::whole;
use super::*;

const SEED: u64 = 20_260_101;

const BLOWS: usize = 20;

/// Where bakes are struck, beside moments by the clock from their start.
const STAGES: [&str; 6] = ["Load", "Baseline", "Optimize", "Validate", "Profile", "Gate"];

/// A moment by the clock from the start, or from when a stage is told.
#[derive(Debug, Clone, Copy)]
struct Moment {
    behind: Option<&'static str>,
    millis: u64,
}

impl Moment {
    fn drawn(random: &mut ChaCha8Rng) -> Self {
        match random.random_range(0..3) {
            0 => Self { behind: None, millis: random.random_range(0..1_200) },
            1 => {
                Self { behind: Some(STAGES[random.random_range(0..STAGES.len())]), millis: random.random_range(0..150) }
            }
            // The package is made and everything published within a moment that would else hardly ever be met.
            _ => Self { behind: Some("Export"), millis: random.random_range(50..350) },
        }
    }

    /// Waits for it. The child may end before.
    fn pass(self, child: &mut Child) {
        let stdout = child.stdout.take().unwrap();
        let Some(stage) = self.behind else {
            std::thread::sleep(Duration::from_millis(self.millis));
            return;
        };
        let lines = BufReader::new(stdout).lines().map_while(Result::ok);
        // What follows is read on, or the child would find nobody at the other end.
        let (told, heard) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            for line in lines.filter_map(|line| ProgressLine::parse(&line)) {
                let _ = told.send(line.stage);
            }
        });
        if heard.iter().any(|name| name == stage) {
            std::thread::sleep(Duration::from_millis(self.millis));
        }
    }
}

/// Strikes until twenty blows have met a bake at work, each over what the others left. After each, whatever is named is there as it is named.
fn struck(job: &Job, what_lies_there: impl Fn()) {
    let mut random = ChaCha8Rng::seed_from_u64(SEED);
    // There is an earlier result for all of them to leave whole or take away.
    assert!(job.whole().outcome.is_some());
    let (mut blows, mut results) = (0, 0);
    while blows < BLOWS {
        let moment = Moment::drawn(&mut random);
        let mut child = job.command("Bake").stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        moment.pass(&mut child);
        let ended = child.try_wait().unwrap();
        let said = if ended.is_some() { "it had ended" } else { "killed" };
        match ended {
            None => {
                child.kill().unwrap();
                child.wait().unwrap();
                blows += 1;
            }
            // It was quicker than the moment: a whole result, and the next one begins anew.
            Some(status) => {
                assert_eq!(status.code(), Some(0));
                results += 1;
                assert!(results < 3 * BLOWS, "hardly any bake is met at work");
                assert!(!job.out().join("runs").exists());
            }
        }
        let report = if job.out().join("report.json").exists() { "is there" } else { "was taken away" };
        println!("seed {SEED}, {moment:?}: {said}; a report {report}");
        what_lies_there();
    }
    let last = job.whole();
    job.good(&last);
    what_lies_there();
}

/// Every file that a report or the manifest of a package names lies there with its digest.
fn named_files_are_there(out: &Path) {
    for (naming, list, file) in [("report.json", "artifacts", "file"), ("phase7/manifest.json", "files", "path")] {
        let path = out.join(naming);
        let Ok(bytes) = fs::read(&path) else { continue };
        let value: Value = serde_json::from_slice(&bytes).unwrap_or_else(|error| panic!("{naming}: {error}"));
        let named = value[list].as_array().unwrap();
        let digest = |file: &Value| (file["sha256"].as_str().unwrap().to_owned(), file.to_string());
        let expected: BTreeMap<_, _> = named.iter().map(|f| (f[file].as_str().unwrap(), digest(f))).collect();
        assert!(!expected.is_empty(), "{naming}");
        for (name, (sha256, said)) in expected {
            let found = fs::read(path.parent().unwrap().join(name)).map(|bytes| sha256_hex(&bytes));
            assert_eq!(found.ok().as_deref(), Some(sha256.as_str()), "{naming}: {said}");
        }
    }
}

fn handing_over(mut job: Job) -> Job {
    job.spec["exports"] = json!(["ONNX", "Phase7"]);
    job
}

#[test]
fn killed_at_twenty_random_moments_a_folder_is_never_wrong_and_holds_a_result_that_is_verified() {
    let job = handing_over(Job::new());
    struck(&job, || {
        whole_files(&job.out());
        named_files_are_there(&job.out());
    });
}

#[test]
fn killed_at_twenty_random_moments_a_bucket_is_never_wrong_and_holds_a_result_that_is_verified() {
    let Some(gateway) = gateway() else { return };
    let server = Server::start(&gateway);
    server.bucket("baked");
    let mut job = handing_over(Job::new());
    job.spec["output"] = json!({"uri": "s3://baked/mlp/"});
    job.spec["storage"] = json!({"endpoint": server.endpoint(), "region": "us-east-1"});
    job.bucket = Some(server.folder("baked").join("mlp"));
    let scratch = job.folder.path().join("tmp");
    fs::create_dir(&scratch).unwrap();
    job.variables = vec![
        ("AWS_ACCESS_KEY_ID", KEY.into()),
        ("AWS_SECRET_ACCESS_KEY", SECRET.into()),
        ("AWS_ENDPOINT_URL", server.endpoint().into()),
        ("AWS_REGION", "us-east-1".into()),
        ("NO_PROXY", "127.0.0.1".into()),
        // What a killed pod fetched goes with the test.
        ("TMPDIR", scratch.into()),
    ];
    struck(&job, || {
        whole::check(&server.folder("baked")).unwrap();
        named_files_are_there(&job.out());
    });
}
