//! Promotion to an OCI registry and back: Debian's docker-registry, started by each test (skipped by name where it is not installed), with skopeo as
//! another reader.
#![cfg(feature = "tract")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "oci/registry.rs"]
mod registry;
#[allow(dead_code, reason = "the storage tests use the rest")]
mod s3;

use std::fs;
use std::io::Write;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bakehouse::api::digest::sha256_hex;
use bakehouse::api::wire::Outcome;
use bakehouse::store::{Blob, Reference, Registry as Client};
use registry::{NAME, PASSWORD, Registry, docker_registry, skopeo};
use s3::http::{Request, answer, serve};
use s3::pod::example;
use serde_json::{Value, json};

/// base64 of `NAME:PASSWORD`.
const AUTH: &str = "YmFrZXI6b3Zlbi1zZWNyZXQ=";

/// Two finished bakes of one name, shared by the tests: the folder they lie in, and the digests of their models.
fn baked() -> &'static (tempfile::TempDir, [String; 2]) {
    static BAKED: OnceLock<(tempfile::TempDir, [String; 2])> = OnceLock::new();
    BAKED.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let digests = [("a", "Light"), ("b", "Conservative")].map(|(name, level)| {
            let spec = json!({
                "source": {"uri": example("mlp", "model.onnx")},
                "data": {"validation": {"uri": example("mlp", "validation.npz"), "metric": "Top1"}},
                "optimization": {"level": level, "goal": "Size"},
                "output": {"uri": folder.path().join(name)},
                "exports": if name == "a" { json!(["ONNX", "Phase7", "OCI"]) } else { json!(["ONNX"]) },
                "profile": {"iterations": 10},
                "runtime": "Bakehouse",
            });
            let file = job(folder.path(), name, &spec);
            code(&program().args(["bake", "--quiet", "-f"]).arg(file).output().unwrap(), 0);
            format!("sha256:{}", sha256_hex(&fs::read(folder.path().join(name).join("model.onnx")).unwrap()))
        });
        (folder, digests)
    })
}

fn job(folder: &Path, name: &str, spec: &Value) -> PathBuf {
    let job = json!({"apiVersion": "bakehouse.dev/v1alpha1", "kind": "BakeJob", "metadata": {"name": "digits"}, "spec": spec});
    let file = folder.join(format!("{name}.yaml"));
    fs::write(&file, job.to_string()).unwrap();
    file
}

fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bakehouse"));
    command.env("NO_PROXY", "127.0.0.1").env("BAKEHOUSE_ORT_LIB", "none").env_remove("BAKEHOUSE_MEMORY_LIMIT");
    command
}

#[track_caller]
fn code(output: &Output, expected: i32) {
    assert_eq!(output.status.code(), Some(expected), "{}", all_said(output));
    for secret in [PASSWORD, AUTH, "issued-token"] {
        assert!(!all_said(output).contains(secret), "a secret is shown: {}", all_said(output));
    }
}

fn all_said(output: &Output) -> String {
    format!("{}\n{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Who promotes to what.
struct Ground {
    folder: tempfile::TempDir,
    place: String,
    /// Hosts that are spoken to without TLS, without asking first.
    plain: String,
}

impl Ground {
    /// Somebody with the right login.
    fn at(port: u16) -> Self {
        let place = format!("oci://127.0.0.1:{port}/team/models");
        let ground = Self { folder: tempfile::tempdir().unwrap(), place, plain: String::new() };
        ground.login(AUTH);
        ground
    }

    /// The same through a wire that knows no TLS.
    fn through(port: u16) -> Self {
        Self { plain: format!("other:5000, 127.0.0.1:{port}"), ..Self::at(port) }
    }

    fn login(&self, auth: &str) {
        let host = self.place.split('/').nth(2).unwrap();
        let config = json!({"auths": {host: {"auth": auth}}});
        fs::write(self.folder.path().join("config.json"), config.to_string()).unwrap();
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = program();
        command.args(arguments).env("DOCKER_CONFIG", self.folder.path()).env("TMPDIR", self.folder.path());
        command.env("BAKEHOUSE_OCI_PLAIN_HTTP", &self.plain);
        command
    }

    fn promotion(&self, which: usize, arguments: &[&str]) -> Command {
        let (folder, _) = baked();
        let name = ["a", "b"][which];
        let spec = json!({
            "source": {"uri": example("mlp", "model.onnx")},
            "data": {"validation": {"uri": example("mlp", "validation.npz")}},
            "output": {"uri": folder.path().join(name)},
            "promotion": {"policy": "Manual", "uri": self.place},
        });
        let file = job(self.folder.path(), name, &spec);
        let mut command = self.command(&["promote"]);
        command.args(arguments).arg("-f").arg(file);
        command
    }

    fn promote(&self, which: usize) -> Output {
        self.promotion(which, &["--approve", &baked().1[which]]).output().unwrap()
    }

    fn promoting(&self, which: usize) -> Child {
        let mut command = self.promotion(which, &["--approve", &baked().1[which]]);
        command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    }

    fn history(&self) -> Vec<Value> {
        let output = self.promotion(0, &["--history", "--json"]).output().unwrap();
        code(&output, 0);
        serde_json::from_slice(&output.stdout).unwrap()
    }

    fn verify(&self, what: &str) -> Output {
        self.command(&["verify", "--json", &format!("{}{what}", self.place)]).output().unwrap()
    }

    /// The package that lies there is confirmed, claim by claim. What hangs on the clock may be left open: other work keeps the machine busy.
    #[track_caller]
    fn confirm(&self, what: &str) {
        let output = self.verify(what);
        let found: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", all_said(&output)));
        let checks = found["checks"].as_array().unwrap();
        let timed = |claim: &str| claim.ends_with(" here") || claim.starts_with("median at");
        let open = |c: &&Value| !(timed(c["claim"].as_str().unwrap()) && c["holds"]["state"] == "Unchecked");
        let others: Vec<&Value> = checks.iter().filter(|c| c["holds"]["state"] != "Yes").filter(open).collect();
        assert!(others.is_empty() && checks.len() > 20, "{found:#}");
        assert!(checks.iter().any(|c| c["claim"] == "outputs on the samples"), "{found:#}");
        assert!(matches!(output.status.code(), Some(0 | 4)));
    }
}

fn manifest(registry: &Registry, tag: &str) -> Value {
    serde_json::from_slice(&registry.blob(&registry.tags("team/models")[tag])).unwrap()
}

fn version(sequence: usize, which: usize) -> String {
    format!("digits_{sequence:06}-{}", &baked().1[which]["sha256:".len()..][..12])
}

#[test]
fn what_is_promoted_is_an_artifact_of_modelpack_that_verify_confirms() {
    let Some(server) = docker_registry() else { return };
    let registry = Registry::start(&server);
    let ground = Ground::at(registry.port());
    let promoted = ground.promote(0);
    code(&promoted, 0);
    assert!(all_said(&promoted).contains("is promoted as number 1 of digits"), "{}", all_said(&promoted));

    let tags = registry.tags("team/models");
    assert_eq!(tags.keys().map(String::as_str).collect::<Vec<_>>(), ["digits", &version(1, 0)]);
    assert_eq!(tags["digits"], tags[&version(1, 0)]);
    let stored = manifest(&registry, "digits");
    assert_eq!(stored["artifactType"], "application/vnd.cncf.model.manifest.v1+json");
    let config: Value = serde_json::from_slice(&registry.blob(stored["config"]["digest"].as_str().unwrap())).unwrap();
    assert_eq!((&config["descriptor"]["name"], &config["config"]["format"]), (&json!("digits"), &json!("onnx")));

    // Each layer is a file of the bake as it was, evidence included; the exported layout holds the same, and is not packed once more.
    let out = baked().0.path().join("a");
    let mut paths = Vec::new();
    for (layer, id) in stored["layers"].as_array().unwrap().iter().zip(config["modelfs"]["diffIds"].as_array().unwrap())
    {
        let path = layer["annotations"]["org.cncf.model.filepath"].as_str().unwrap();
        assert_eq!(registry.blob(layer["digest"].as_str().unwrap()), fs::read(out.join(path)).unwrap(), "{path}");
        assert_eq!(&layer["digest"], id);
        paths.push(path.to_owned());
    }
    for expected in
        ["model.onnx", "report.json", "recipe.json", "phase7/manifest.json", "phase7/deployment_config.json"]
    {
        assert!(paths.iter().any(|path| path == expected), "{expected}: {paths:?}");
    }
    assert!(!paths.iter().any(|path| path.starts_with("oci/")), "{paths:?}");

    for what in [":digits".to_owned(), format!("@{}", tags["digits"])] {
        ground.confirm(&what);
    }
    for (what, said) in [("", "names no tag"), (":none", "is not there"), ("@sha256:0", "is no place in a registry")] {
        let refused = ground.verify(what);
        code(&refused, 2);
        assert!(all_said(&refused).contains(said), "{what}: {}", all_said(&refused));
    }

    // Again: nothing is new.
    code(&ground.promote(0), 0);
    assert_eq!(registry.tags("team/models"), tags);
}

#[test]
fn skopeo_pulls_what_is_promoted_and_pushes_an_exported_layout_that_verify_confirms() {
    let Some(server) = docker_registry() else { return };
    let registry = Registry::start(&server);
    let ground = Ground::at(registry.port());
    code(&ground.promote(0), 0);
    let place = |tag: &str| format!("docker://127.0.0.1:{}/team/models:{tag}", registry.port());
    let login = format!("{NAME}:{PASSWORD}");
    let pulled = ground.folder.path().join("pulled");
    let to = format!("dir:{}", pulled.display());
    let pull = ["copy", "--src-creds", &login, "--src-tls-verify=false", &place("digits"), &to];
    let Some(output) = skopeo(&pull) else { return };
    code(&output, 0);
    let raw = fs::read(pulled.join("manifest.json")).unwrap();
    assert_eq!(format!("sha256:{}", sha256_hex(&raw)), registry.tags("team/models")["digits"]);
    let model = baked().1[0].trim_start_matches("sha256:");
    assert_eq!(sha256_hex(&fs::read(pulled.join(model)).unwrap()), model);

    let layout = format!("oci:{}:digits", baked().0.path().join("a/oci").display());
    let push = ["copy", "--dest-creds", &login, "--dest-tls-verify=false", &layout, &place("exported")];
    code(&skopeo(&push).unwrap(), 0);
    ground.confirm(":exported");
}

#[test]
fn a_rollback_lets_the_tag_point_to_the_version_before_and_both_stay_in_the_history() {
    let Some(server) = docker_registry() else { return };
    let registry = Registry::start(&server);
    let ground = Ground::at(registry.port());
    assert_eq!(ground.history(), Vec::<Value>::new());
    let none = ground.promotion(0, &["--rollback"]).output().unwrap();
    code(&none, 2);
    assert!(all_said(&none).contains("nothing was ever promoted"), "{}", all_said(&none));
    code(&ground.promote(0), 0);
    let only = ground.promotion(0, &["--rollback"]).output().unwrap();
    code(&only, 2);
    assert!(all_said(&only).contains("no other version"), "{}", all_said(&only));
    code(&ground.promote(1), 0);
    code(&ground.promotion(1, &["--rollback"]).output().unwrap(), 0);

    let history = ground.history();
    let told: Vec<_> = history.iter().map(|entry| (&entry["sequence"], &entry["act"], &entry["sha256"])).collect();
    let [a, b] = &baked().1;
    let expected = [(json!(1), json!("Promote"), a), (json!(2), json!("Promote"), b), (json!(3), json!("Rollback"), a)];
    assert_eq!(told.len(), 3);
    for (told, (sequence, act, sha256)) in told.iter().zip(&expected) {
        assert_eq!((told.0, told.1, told.2), (sequence, act, &json!(sha256)));
    }
    let tags = registry.tags("team/models");
    assert_eq!(tags["digits"], tags[&version(3, 0)]);
    assert_eq!(manifest(&registry, &version(3, 0))["layers"], manifest(&registry, &version(1, 0))["layers"]);
    ground.confirm(":digits");

    // A version that is not whole any more is not promoted again.
    let layer = manifest(&registry, &version(2, 1))["layers"][0]["digest"].as_str().unwrap().to_owned();
    fs::write(registry.path_of(&layer), b"another model").unwrap();
    let broken = ground.promotion(1, &["--rollback"]).env("BAKEHOUSE_STORE_PATIENCE", "1").output().unwrap();
    assert_ne!(broken.status.code(), Some(0), "{}", all_said(&broken));
    assert!(all_said(&broken).contains(&layer), "{}", all_said(&broken));
    assert_eq!(registry.tags("team/models"), tags);
}

#[test]
fn a_login_that_is_wrong_or_missing_is_said_to_be_and_nothing_is_tagged() {
    let Some(server) = docker_registry() else { return };
    let registry = Registry::start(&server);
    let ground = Ground::at(registry.port());
    ground.login("YmFrZXI6d3Jvbmc=");
    let refused = ground.promote(0);
    code(&refused, 13);
    assert!(all_said(&refused).contains("access to oci://127.0.0.1") && !all_said(&refused).contains("YmFrZXI"));
    fs::remove_file(ground.folder.path().join("config.json")).unwrap();
    let refused = ground.promote(0);
    code(&refused, 13);
    assert!(all_said(&refused).contains("DOCKER_CONFIG"), "{}", all_said(&refused));
    fs::write(ground.folder.path().join("config.json"), r#"{"credsStore": "desktop"}"#).unwrap();
    let refused = ground.promote(0);
    code(&refused, 13);
    assert!(all_said(&refused).contains("docker-credential-desktop"), "{}", all_said(&refused));
    assert!(registry.tags("team/models").is_empty());

    // A pull secret as a pod mounts it.
    fs::remove_file(ground.folder.path().join("config.json")).unwrap();
    let host = ground.place.split('/').nth(2).unwrap();
    let secret = json!({"auths": {host: {"username": NAME, "password": PASSWORD}}});
    fs::write(ground.folder.path().join(".dockerconfigjson"), secret.to_string()).unwrap();
    code(&ground.promote(0), 0);
    assert_eq!(registry.tags("team/models").len(), 2);
}

#[test]
fn a_registry_that_dies_in_the_middle_leaves_no_tag_and_the_next_promotion_goes_through() {
    let Some(server) = docker_registry() else { return };
    let registry = Registry::start(&server);
    let upstream = registry.port();
    let answered = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&answered);
    // After so many answers to what changes something, every connection is reset.
    let wire = serve(move |mut client: TcpStream| {
        let Some(mut request) = Request::peek(&client) else { return };
        let changes = !matches!(request.method.as_str(), "GET" | "HEAD");
        if counted.load(Ordering::SeqCst) >= 5 || request.take(&mut client).is_err() {
            return;
        }
        counted.fetch_add(usize::from(changes), Ordering::SeqCst);
        if let Ok(answer) = request.forward(upstream) {
            let _ = client.write_all(&answer);
        }
    });
    let broken = Ground::through(wire);
    let mut promotion = broken.promotion(0, &["--approve", &baked().1[0]]);
    let ended = promotion.env("BAKEHOUSE_STORE_PATIENCE", "1").output().unwrap();
    code(&ended, 20);
    assert_eq!(answered.load(Ordering::SeqCst), 5, "it died in the middle");
    assert!(registry.tags("team/models").is_empty());

    let ground = Ground::at(upstream);
    code(&ground.promote(0), 0);
    ground.confirm(":digits");
}

#[test]
fn answers_that_are_lost_or_busy_are_ridden_out() {
    let Some(server) = docker_registry() else { return };
    let registry = Registry::start(&server);
    let upstream = registry.port();
    let asked = Arc::new(AtomicUsize::new(0));
    let wire = serve(move |mut client: TcpStream| {
        let Some(mut request) = Request::peek(&client) else { return };
        let turn = asked.fetch_add(1, Ordering::SeqCst);
        let taken = request.take(&mut client);
        match if turn < 40 { turn % 9 } else { 0 } {
            // Reset, busy, done without a word, and a byte that flips on the way up.
            3 => {}
            5 => {
                let _ = client.write_all(&answer("503 Service Unavailable", "", b"later"));
            }
            7 if request.method == "PUT" => drop(request.forward(upstream)),
            _ if taken.is_err() => {}
            turn => {
                let middle = request.body.len() / 2;
                if turn == 8 && request.target.contains("digest=") && !request.body.is_empty() {
                    request.body[middle] ^= 1;
                }
                if let Ok(answer) = request.forward(upstream) {
                    let _ = client.write_all(&answer);
                }
            }
        }
    });
    code(&Ground::through(wire).promote(0), 0);
    let tags = registry.tags("team/models");
    assert_eq!((tags.len(), &tags["digits"]), (2, &tags[&version(1, 0)]));
    Ground::at(upstream).confirm(":digits");
}

#[test]
fn of_two_promotions_at_once_one_wins_and_both_are_in_the_history() {
    let Some(server) = docker_registry() else { return };
    let registry = Registry::open(&server);
    let ground = Ground::at(registry.port());
    let other = Ground::at(registry.port());
    let mut both = [ground.promoting(0), other.promoting(1)];
    for promotion in &mut both {
        assert_eq!(promotion.wait().unwrap().code(), Some(0));
    }
    let history = ground.history();
    assert_eq!(history.len(), 2, "{history:#?}");
    let newest = history[1]["version"].as_str().unwrap();
    let tags = registry.tags("team/models");
    assert_eq!(tags["digits"], tags[newest]);
    // Whichever won is promoted: doing that again is nothing new.
    let winner = usize::from(history[1]["sha256"] == json!(baked().1[1]));
    code(&ground.promote(winner), 0);
    assert_eq!(registry.tags("team/models"), tags);
}

#[test]
fn a_promotion_that_is_killed_at_any_moment_leaves_whole_versions_and_the_next_one_goes_through() {
    let Some(server) = docker_registry() else { return };
    let registry = Registry::open(&server);
    let ground = Ground::at(registry.port());
    for i in 0..12 {
        let mut child = ground.promoting(i % 2);
        std::thread::sleep(Duration::from_millis(20 + 15 * i as u64));
        let _ = child.kill();
        let _ = child.wait();
        // Whatever a tag names is there, whole.
        for tag in registry.tags("team/models").keys() {
            for layer in manifest(&registry, tag)["layers"].as_array().unwrap() {
                let digest = layer["digest"].as_str().unwrap();
                assert_eq!(format!("sha256:{}", sha256_hex(&registry.blob(digest))), digest, "{tag}");
            }
        }
    }
    for which in [0, 1] {
        code(&ground.promote(which), 0);
    }
    let history = ground.history();
    let newest = history.last().unwrap();
    assert_eq!(newest["sha256"], json!(baked().1[1]));
    let tags = registry.tags("team/models");
    assert_eq!(tags["digits"], tags[newest["version"].as_str().unwrap()]);
}

#[test]
fn a_pod_promotes_what_the_status_names_and_says_under_which_tag_it_lies() {
    let Some(server) = docker_registry() else { return };
    let registry = Registry::start(&server);
    let ground = Ground::at(registry.port());
    let (folder, [digest, _]) = baked();
    let out = folder.path().join("a");
    let termination = ground.folder.path().join("termination");
    let promote = |report: &str| {
        let assignment = json!({
            "task": "Promote", "name": "digits", "namespace": "ml", "uid": "u", "run": 3, "attempt": 0, "lowMemory": true, "device": "CPU",
            "candidate": {"artifact": digest, "report": report},
            "spec": {
                "source": {"uri": example("mlp", "model.onnx")}, "data": {"validation": {"uri": example("mlp", "validation.npz")}},
                "output": {"uri": out}, "promotion": {"policy": "Automatic", "uri": ground.place},
            },
        });
        let mut command = ground.command(&["worker"]);
        command.env("BAKEHOUSE_ASSIGNMENT", assignment.to_string()).env("TERMINATION_LOG", &termination);
        let output = command.output().unwrap();
        (output.status.code(), Outcome::parse(&fs::read_to_string(&termination).unwrap()).unwrap())
    };
    let (exit, outcome) = promote(&format!("sha256:{}", "1".repeat(64)));
    assert_eq!(exit, Some(12), "{}", outcome.message);
    assert!(registry.tags("team/models").is_empty() && outcome.promoted.is_none());
    let (exit, outcome) = promote(&format!("sha256:{}", sha256_hex(&fs::read(out.join("report.json")).unwrap())));
    assert_eq!(exit, Some(0), "{}", outcome.message);
    let promoted = outcome.promoted.unwrap();
    assert_eq!(&promoted.sha256, digest);
    assert_eq!(promoted.uri, format!("{}:{}", ground.place, version(1, 0)));
    assert_eq!(ground.history()[0]["bakejob"], json!({"namespace": "ml", "name": "digits", "uid": "u", "run": 3}));
}

#[test]
fn a_token_is_fetched_for_the_login_and_asked_for_again_when_it_is_refused() {
    let Some(server) = docker_registry() else { return };
    let registry = Registry::open(&server);
    let upstream = registry.port();
    let given = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&given);
    let own_port = Arc::new(AtomicUsize::new(0));
    let told = Arc::clone(&own_port);
    let wire = serve(move |mut client: TcpStream| {
        let Some(mut request) = Request::peek(&client) else { return };
        if request.take(&mut client).is_err() {
            return;
        }
        let proof = request.header("authorization").unwrap_or_default().to_owned();
        let answered = if request.target.starts_with("/token?") {
            let right = proof == format!("Basic {AUTH}");
            assert!(
                request.target.contains("service=oven") && request.target.contains("team%2Fmodels"),
                "{}",
                request.target
            );
            let body = if right {
                format!("{{\"token\": \"issued-token-{}\"}}", counted.fetch_add(1, Ordering::SeqCst) + 1)
            } else {
                "{}".to_owned()
            };
            answer(if right { "200 OK" } else { "401 Unauthorized" }, "", body.as_bytes())
        } else if proof == "Bearer issued-token-2"
            || (proof == format!("Bearer issued-token-{}", counted.load(Ordering::SeqCst))
                && !request.target.ends_with("manifests/digits"))
        {
            request.forward(upstream).unwrap_or_default()
        } else {
            let realm = format!("http://127.0.0.1:{}/token", told.load(Ordering::SeqCst));
            let challenge = format!(
                "WWW-Authenticate: Bearer realm=\"{realm}\",service=\"oven\",scope=\"repository:team/models:pull,push\"\r\n"
            );
            answer("401 Unauthorized", &challenge, b"")
        };
        let _ = client.write_all(&answered);
    });
    own_port.store(usize::from(wire), Ordering::SeqCst);
    let ground = Ground::through(wire);
    code(&ground.promote(0), 0);
    assert_eq!(given.load(Ordering::SeqCst), 2, "the second one when the first was refused");
    assert_eq!(registry.tags("team/models").len(), 2);
    ground.login("YmFrZXI6d3Jvbmc=");
    code(&ground.promote(1), 13);
    assert_eq!(registry.tags("team/models").len(), 2);
}

#[test]
fn a_registry_with_a_certificate_of_its_own_is_trusted_once_its_ca_is_named() {
    let Some(server) = docker_registry() else { return };
    let registry = Registry::start_tls(&server);
    let ground = Ground::at(registry.port());
    let untrusted = ground.promote(0);
    code(&untrusted, 2);
    assert!(all_said(&untrusted).contains("certificate that is not trusted"), "{}", all_said(&untrusted));
    let mut promotion = ground.promotion(0, &["--approve", &baked().1[0]]);
    code(&promotion.env("AWS_CA_BUNDLE", registry.ca()).output().unwrap(), 0);
    assert_eq!(registry.tags("team/models").len(), 2);
}

#[test]
fn a_large_blob_goes_up_in_parts_and_comes_back_whole() {
    let Some(server) = docker_registry() else { return };
    let registry = Registry::open(&server);
    let folder = tempfile::tempdir().unwrap();
    let bytes: Vec<u8> = (0..20_000_000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let file = folder.path().join("blob");
    fs::write(&file, &bytes).unwrap();
    let reference = Reference::parse("f", &format!("oci://127.0.0.1:{}/large", registry.port())).unwrap();
    let client = Client::new("f", reference, None).unwrap();
    let blob = Blob { sha256: sha256_hex(&bytes), bytes: bytes.len() as u64, file };
    assert!(client.put_blob(&blob).unwrap());
    assert!(!client.put_blob(&blob).unwrap(), "it is there");
    let back = folder.path().join("back");
    client.fetch_blob(&blob.sha256, blob.bytes, &back).unwrap();
    assert!(fs::read(back).unwrap() == bytes);
    assert_eq!(client.tags().unwrap(), Vec::<String>::new());
}

#[test]
fn what_is_no_place_to_promote_to_is_refused_by_field() {
    let ground = Ground::at(1);
    for (place, said) in [
        ("oci://registry", "spec.promotion.uri: oci://registry is no place in a registry"),
        ("oci://registry/Team/m", "small letters"),
        (format!("oci://registry/m@sha256:{}", "0".repeat(64)).as_str(), "names a digest"),
        (format!("oci://registry/m:{}", "t".repeat(120)).as_str(), "too long"),
    ] {
        let ground = Ground { place: place.to_owned(), ..Ground::at(1) };
        let refused = ground.promote(0);
        code(&refused, 2);
        assert!(all_said(&refused).contains(said), "{place}: {}", all_said(&refused));
    }
    // Nobody is there.
    let mut promotion = ground.promotion(0, &["--approve", &baked().1[0]]);
    let unreachable = promotion.env("BAKEHOUSE_STORE_PATIENCE", "1").output().unwrap();
    code(&unreachable, 20);
    assert!(all_said(&unreachable).contains("the registry does not answer"), "{}", all_said(&unreachable));
}
