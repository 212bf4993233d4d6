//! A bake between buckets with faults on the wire: how each of them ends, and that nothing is ever half-written under a final name.
//!
//! `docs/storage.md` has the table. Run with `UPDATE=1` to write it anew.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bakehouse::api::Reason;
use bakehouse::api::digest::sha256_hex;
use serde_json::json;

use crate::s3::http::answer;
use crate::s3::pod::Pod;
use crate::s3::proxy::{Fault, Proxy, Rule};
use crate::s3::server::{KEY, SECRET, Server, gateway};
use crate::s3::tls::{issued, serve_tls};
use crate::s3::{whole, wide};
use crate::{assert_published, with};

const DOCUMENT: &str = "docs/storage.md";

/// Bakes that run at once: they mostly wait.
const AT_ONCE: usize = 3;

/// Method and part of the target of a request.
type Asked = (&'static str, &'static str);

struct Row {
    fault: &'static str,
    during: &'static str,
    how: How,
    /// The request that meets it once; all of these are met by one bake, which ends well.
    once: Option<Asked>,
    lasts: Option<Lasting>,
}

enum How {
    /// On the wire. It is given the bucket's folder.
    Wire(fn(PathBuf) -> Fault),
    /// No file may grow beyond some megabytes.
    Disk,
    /// In a test of its own.
    Elsewhere,
}
use How::{Disk, Elsewhere, Wire};

/// The end of a bake that meets the fault whenever it asks so.
struct Lasting {
    asked: Asked,
    reason: Reason,
    words: &'static [&'static str],
    left: Left,
}

/// What lies under the final names, where the result of an earlier run lay.
#[derive(Clone, Copy, PartialEq)]
enum Left {
    Earlier,
    New,
    Files,
    Other,
}

impl Left {
    fn said(self) -> &'static str {
        match self {
            Self::Earlier => "the earlier result, untouched",
            Self::New => "the new result",
            Self::Files => "whole files, no report",
            Self::Other => "whole files, the other run's report",
        }
    }
}

fn error_500(_: PathBuf) -> Fault {
    Fault::Answer("500 Internal Server Error", "InternalError")
}

fn slow_down(_: PathBuf) -> Fault {
    Fault::Answer("503 Slow Down", "SlowDown")
}

fn reset(_: PathBuf) -> Fault {
    Fault::Reset
}

fn silent(_: PathBuf) -> Fault {
    Fault::Silent
}

fn expired(_: PathBuf) -> Fault {
    Fault::Answer("400 Bad Request", "ExpiredToken")
}

/// Something else that was put as a server puts it, with a tag.
fn another_report(bucket: PathBuf) -> Fault {
    Fault::Meanwhile(Arc::new(move || {
        let other = bucket.with_file_name("baked").join("wide/recipe.json");
        let copied = Command::new("cp").arg("-a").args([&other, &bucket.join("wide/report.json")]).status();
        assert!(copied.unwrap().success());
    }))
}

fn reading(
    how: fn(PathBuf) -> Fault,
    fault: &'static str,
    once: Option<Asked>,
    asked: Asked,
    reason: Reason,
    words: &'static [&'static str],
) -> Row {
    let lasts = Some(Lasting { asked, reason, words, left: Left::Earlier });
    Row { fault, during: "reading", how: Wire(how), once, lasts }
}

fn publishing(
    how: fn(PathBuf) -> Fault,
    fault: &'static str,
    once: Option<Asked>,
    asked: Asked,
    reason: Reason,
    words: &'static [&'static str],
    left: Left,
) -> Row {
    let lasts = Some(Lasting { asked, reason, words, left });
    Row { fault, during: "publishing", how: Wire(how), once, lasts }
}

const MODEL: &str = "models/wide/model.onnx";
const WEIGHTS: &str = "models/wide/weights.bin";
const DATA: &str = "data/wide/validation";
const SOURCE: &str = "spec.source.uri: ";
const OUTPUT: &str = "spec.output.uri: ";
const AGAIN: &str = "worth another try";

fn rows() -> Vec<Row> {
    let mut rows = while_reading();
    rows.extend(while_publishing());
    rows
}

fn while_reading() -> Vec<Row> {
    use Reason::{AccessDenied, InvalidJob, OutputUnwritable, StorageUnreachable};
    vec![
        reading(
            error_500,
            "500 InternalError",
            Some(("HEAD", MODEL)),
            ("GET", MODEL),
            StorageUnreachable,
            &[SOURCE, AGAIN, "InternalError"],
        ),
        reading(
            slow_down,
            "503 SlowDown",
            Some(("GET", MODEL)),
            ("", MODEL),
            StorageUnreachable,
            &[SOURCE, AGAIN, "503"],
        ),
        reading(
            reset,
            "connection reset",
            Some(("HEAD", DATA)),
            ("GET", WEIGHTS),
            StorageUnreachable,
            &[SOURCE, AGAIN],
        ),
        reading(
            |_| Fault::Cut(100),
            "answer cut short",
            Some(("GET", DATA)),
            ("GET", WEIGHTS),
            StorageUnreachable,
            &[SOURCE, AGAIN],
        ),
        reading(
            silent,
            "no answer",
            Some(("HEAD", WEIGHTS)),
            ("GET", DATA),
            StorageUnreachable,
            &["spec.data.validation.uri: ", AGAIN],
        ),
        reading(
            |_| Fault::Freeze(1000),
            "answer stops halfway",
            Some(("GET", WEIGHTS)),
            ("GET", WEIGHTS),
            StorageUnreachable,
            &[SOURCE, AGAIN],
        ),
        Row { fault: "object replaced", during: "reading", how: Elsewhere, once: None, lasts: None },
        reading(
            expired,
            "credentials expired",
            None,
            ("", MODEL),
            AccessDenied,
            &[SOURCE, "ExpiredToken", "spec.storage.credentials"],
        ),
        reading(
            |_| Fault::ChangedAnswer,
            "a byte changed, digest pinned",
            None,
            ("GET", MODEL),
            InvalidJob,
            &["spec.source.digest: ", "sha256 "],
        ),
        reading(
            |_| Fault::Huge,
            "object larger than the disk",
            None,
            ("HEAD", WEIGHTS),
            OutputUnwritable,
            &["1000000000000000 bytes are to be fetched", " free"],
        ),
        Row {
            fault: "disk full",
            during: "reading",
            how: Disk,
            once: None,
            lasts: Some(Lasting {
                asked: ("", ""),
                reason: OutputUnwritable,
                words: &[SOURCE, "weights.bin", "os error 27"],
                left: Left::Earlier,
            }),
        },
    ]
}

fn while_publishing() -> Vec<Row> {
    use Reason::{AccessDenied, OutputUnwritable, StorageUnreachable};
    let part = ("PUT", "partNumber=");
    vec![
        publishing(
            error_500,
            "500 InternalError",
            Some(("PUT", "report.html")),
            part,
            StorageUnreachable,
            &[OUTPUT, AGAIN, "InternalError"],
            Left::Earlier,
        ),
        publishing(
            slow_down,
            "503 SlowDown",
            Some(("POST", "weights.bin?uploads")),
            part,
            StorageUnreachable,
            &[OUTPUT, AGAIN, "SlowDown"],
            Left::Earlier,
        ),
        publishing(
            reset,
            "connection reset",
            Some(("PUT", "recipe.json")),
            part,
            StorageUnreachable,
            &[OUTPUT, AGAIN],
            Left::Earlier,
        ),
        publishing(
            silent,
            "no answer",
            Some(("PUT", "partNumber=2")),
            part,
            StorageUnreachable,
            &[OUTPUT, AGAIN],
            Left::Earlier,
        ),
        publishing(
            |_| Fault::ChangedRequest,
            "a byte changed",
            None,
            part,
            StorageUnreachable,
            &[OUTPUT, AGAIN],
            Left::Earlier,
        ),
        publishing(expired, "credentials expired", None, part, AccessDenied, &[OUTPUT, "ExpiredToken"], Left::Earlier),
        publishing(
            error_500,
            "500 when an upload is completed",
            None,
            ("POST", "/wide/weights.bin?uploadId="),
            StorageUnreachable,
            &[OUTPUT, AGAIN],
            Left::Files,
        ),
        publishing(
            |_| Fault::Lost,
            "an upload is completed, the answer lost",
            Some(("POST", "uploadId=")),
            ("POST", "/wide/weights.bin?uploadId="),
            Reason::NoImprovement,
            &[],
            Left::New,
        ),
        publishing(
            error_500,
            "500 for the report",
            None,
            ("PUT", "wide/report.json"),
            StorageUnreachable,
            &[OUTPUT, AGAIN],
            Left::Files,
        ),
        publishing(
            |_| Fault::Lost,
            "the report is put, the answer lost",
            Some(("PUT", "wide/report.json")),
            ("PUT", "wide/report.json"),
            Reason::NoImprovement,
            &[],
            Left::New,
        ),
        publishing(
            another_report,
            "another run publishes to the same place",
            None,
            ("PUT", "wide/report.json"),
            OutputUnwritable,
            &[OUTPUT, "another run"],
            Left::Other,
        ),
    ]
}

fn table() -> String {
    let mut text = String::from(
        "| Fault | While | Once | Lasting | Exit code | Then lies under the final names |\n|---|---|---|---|---|---|\n",
    );
    for Row { fault, during, once, lasts, .. } in rows() {
        let once = if once.is_some() || lasts.is_none() { "ridden out" } else { "as lasting" };
        let cells = lasts.map_or(["-".to_owned(), "-".to_owned(), "-".to_owned()], |lasting| {
            let reason =
                if lasting.reason.exit_code() == 0 { "ridden out".to_owned() } else { format!("`{}`", lasting.reason) };
            [reason, lasting.reason.exit_code().to_string(), lasting.left.said().to_owned()]
        });
        let _ = writeln!(text, "| {fault} | {during} | {once} | {} |", cells.join(" | "));
    }
    text
}

#[test]
fn the_document_has_the_table_of_these_tests() {
    const MARKS: [&str; 2] = ["<!-- written by tests/store.rs -->\n", "<!-- until here -->\n"];
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(DOCUMENT);
    let text = fs::read_to_string(&path).unwrap();
    let (before, rest) = text.split_once(MARKS[0]).unwrap();
    let (found, after) = rest.split_once(MARKS[1]).unwrap();
    if std::env::var_os("UPDATE").is_some() {
        fs::write(&path, [before, MARKS[0], &table(), MARKS[1], after].concat()).unwrap();
    } else {
        assert_eq!(found, table(), "{DOCUMENT} is not what these tests show; run them with UPDATE=1");
    }
}

fn through(proxy: &Proxy, output: &str) -> serde_json::Value {
    with(wide::spec(output), "storage", json!({"endpoint": proxy.endpoint(), "region": "us-east-1"}))
}

fn stocked() -> Option<Server> {
    let server = Server::start(&gateway()?);
    wide::stock(&server);
    Some(server)
}

/// What lies under the final names of a bucket; kept stages are no result, and earlier results no longer the result.
fn results(server: &Server, bucket: &str) -> BTreeMap<String, Vec<u8>> {
    let beside = |key: &str| key.contains("/runs/") || key.contains("/earlier/");
    server.objects(bucket).into_iter().filter(|(key, _)| !beside(key)).collect()
}

/// The result that was set aside, by its names at the top.
fn set_aside(server: &Server, bucket: &str) -> BTreeMap<String, Vec<u8>> {
    let objects = server.objects(bucket).into_iter();
    let aside = objects.filter_map(|(key, bytes)| {
        let (_, file) = key.strip_prefix("wide/earlier/")?.split_once('/')?;
        Some((format!("wide/{file}"), bytes))
    });
    aside.collect()
}

#[test]
fn faults_that_pass_are_ridden_out_and_those_that_last_leave_nothing_half_written() {
    let Some(server) = stocked() else { return };
    let once: Vec<(Asked, Fault)> = rows()
        .into_iter()
        .filter_map(|row| match row.how {
            Wire(fault) => Some((row.once?, fault(server.folder("baked")))),
            Disk | Elsewhere => None,
        })
        .collect();
    let rules = once.iter().map(|((method, target), fault)| Rule::once(method, target, fault)).collect();
    let proxy = Proxy::before(server.port(), server.folder("baked"), rules);
    let spec = through(&proxy, "s3://baked/wide");
    let pod = Pod::run(&server, "Bake", &spec, &[("BAKEHOUSE_STORE_PATIENCE", "16")]);
    pod.ended(0, Reason::NoImprovement);
    for ((asked, _), met) in once.iter().zip(proxy.met()) {
        assert_eq!(met, 1, "{asked:?} of {:#?}", proxy.seen());
    }
    assert_eq!(proxy.wrong(), [""; 0]);
    assert_published(&server, "baked", "wide");
    assert_eq!(server.unfinished("baked"), 0);

    let earlier = another(server.objects("baked"));
    let rows = rows();
    let lasting: Vec<&Row> = rows.iter().filter(|row| row.lasts.is_some()).collect();
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some(row) = lasting.get(next.fetch_add(1, Ordering::Relaxed)) {
                    lasts(&server, &earlier, row);
                }
            });
        }
    });
}

/// As another run would have left it: other weights, and a report that names them.
fn another(mut result: BTreeMap<String, Vec<u8>>) -> BTreeMap<String, Vec<u8>> {
    let weights = result.get_mut("wide/weights.bin").unwrap();
    let before = sha256_hex(weights);
    weights[..64].fill(0);
    let after = sha256_hex(weights);
    let report = result.get_mut("wide/report.json").unwrap();
    *report = String::from_utf8(std::mem::take(report)).unwrap().replace(&before, &after).into_bytes();
    result
}

fn lasts(server: &Server, earlier: &BTreeMap<String, Vec<u8>>, row: &Row) {
    let Row { fault, during, how, lasts: Some(Lasting { asked: (method, target), reason, words, left }), .. } = row
    else {
        return;
    };
    let what = format!("{fault}, {during}");
    let bucket = format!("row-{}", sha256_hex(what.as_bytes()).get(..12).unwrap());
    server.bucket(&bucket);
    for (key, bytes) in earlier {
        server.put(&bucket, key, bytes);
    }
    let rules = match how {
        Wire(fault) => vec![Rule::always(method, target, &fault(server.folder(&bucket)))],
        Disk | Elsewhere => Vec::new(),
    };
    let proxy = Proxy::before(server.port(), server.folder(&bucket), rules);
    let mut spec = through(&proxy, &format!("s3://{bucket}/wide"));
    spec["source"]["digest"] =
        json!(format!("sha256:{}", sha256_hex(&fs::read(server.folder("models").join("wide/model.onnx")).unwrap())));
    let pod = match how {
        Disk => Pod::limited(server, &spec, 8000),
        Wire(_) | Elsewhere => Pod::run(server, "Bake", &spec, &[("BAKEHOUSE_STORE_PATIENCE", "6")]),
    };
    let outcome = pod.outcome();
    assert_eq!(outcome.reason, *reason, "{what}: {}\n{:#?}", outcome.message, proxy.seen());
    pod.ended(i32::from(reason.exit_code()), *reason);
    for word in *words {
        assert!(outcome.message.contains(word), "{what}: '{word}' is not in: {}", outcome.message);
    }
    if let Wire(_) = how {
        assert!(proxy.met()[0] > 0, "{what} was never met: {:#?}", proxy.seen());
    }
    assert_eq!(proxy.wrong(), [""; 0], "{what}");
    assert_eq!(whole::check(&server.folder(&bucket)), Ok(()), "{what}");
    assert_eq!(server.unfinished(&bucket), 0, "{what}");
    let now = results(server, &bucket);
    let aside = if *left == Left::Earlier { BTreeMap::new() } else { earlier.clone() };
    assert!(set_aside(server, &bucket) == aside, "{what}: the earlier result is moved whole or not at all");
    match left {
        Left::Earlier => assert!(now == *earlier, "{what}: {:?}", now.keys()),
        Left::New => {
            assert_published(server, &bucket, "wide");
            assert_ne!(now["wide/report.json"], earlier["wide/report.json"], "{what}");
        }
        Left::Files => assert!(!now.contains_key("wide/report.json"), "{what}: {:?}", now.keys()),
        Left::Other => assert_eq!(now["wide/report.json"], server.objects("baked")["wide/recipe.json"], "{what}"),
    }
}

#[test]
fn an_object_that_is_replaced_while_it_is_read_is_read_again() {
    let Some(server) = stocked() else { return };
    Pod::bake(&server, &wide::spec("s3://baked/wide")).ended(0, Reason::NoImprovement);
    // What was published has a tag; what is put beside the server has none.
    let path = server.folder("baked").join("wide/weights.bin");
    let mut other = fs::read(&path).unwrap();
    other[..64].fill(0);
    let (there, bytes) = (path.clone(), other.clone());
    let replace = Fault::Meanwhile(Arc::new(move || {
        let beside = there.with_extension("new");
        fs::write(&beside, &bytes).unwrap();
        fs::rename(&beside, &there).unwrap();
    }));
    server.bucket("again");
    let rule = Rule::once("GET", "baked/wide/weights.bin", &replace);
    let proxy = Proxy::before(server.port(), server.folder("again"), vec![rule]);
    let mut spec = through(&proxy, "s3://again/wide");
    spec["source"]["uri"] = json!("s3://baked/wide/model.onnx");
    Pod::bake(&server, &spec).ended(0, Reason::NoImprovement);
    assert_eq!(proxy.met(), [1]);
    let report = assert_published(&server, "again", "wide");
    let files = report["data"]["files"].as_array().unwrap();
    let read = files.iter().find(|file| file["path"] == "s3://baked/wide/weights.bin").unwrap();
    assert_eq!(read["sha256"], sha256_hex(&other));
}

#[test]
fn a_store_is_reached_through_a_proxy_of_the_environment() {
    let Some(server) = stocked() else { return };
    let proxy = Proxy::before(server.port(), server.folder("baked"), Vec::new());
    let storage = json!({"endpoint": "http://store.example.com", "region": "us-east-1"});
    let spec = with(wide::spec("s3://baked/wide"), "storage", storage);
    let named = [("HTTP_PROXY", &*proxy.endpoint())];
    Pod::run(&server, "Bake", &spec, &named).ended(0, Reason::NoImprovement);
    assert_published(&server, "baked", "wide");
    assert!(proxy.seen().iter().any(|asked| asked.starts_with("GET /models/wide/model.onnx")), "{:?}", proxy.seen());
}

#[test]
fn credentials_of_an_identity_are_renewed_before_they_expire() {
    let Some(server) = stocked() else { return };
    let folder = tempfile::tempdir().unwrap();
    let token = folder.path().join("token");
    fs::write(&token, "of the service account").unwrap();
    let given = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&given);
    // Two minutes are fewer than what the client wants to have left, so each of these is as good as old.
    let issued = issued();
    let bundle = folder.path().join("ca.crt");
    fs::write(&bundle, &issued.ca).unwrap();
    let exchange = serve_tls(&issued, move |head, stream| {
        counted.fetch_add(1, Ordering::Relaxed);
        let ends = jiff::Timestamp::now() + jiff::SignedDuration::from_mins(2);
        // Without a session's token: versitygw knows none.
        let keys = format!(
            "<SessionToken></SessionToken><SecretAccessKey>{SECRET}</SecretAccessKey><AccessKeyId>{KEY}</AccessKeyId><Expiration>{ends}</Expiration>"
        );
        let result = format!(
            "<AssumeRoleWithWebIdentityResult><Credentials>{keys}</Credentials></AssumeRoleWithWebIdentityResult>"
        );
        let body = format!("<AssumeRoleWithWebIdentityResponse>{result}</AssumeRoleWithWebIdentityResponse>");
        let asked = head.contains("Action=AssumeRoleWithWebIdentity") && head.contains("service");
        let status = if asked { "200 OK" } else { "403 Forbidden" };
        let _ = stream.write_all(&answer(status, "", body.as_bytes()));
    });
    let (address, refused) = (format!("https://127.0.0.1:{exchange}"), folder.path().join("other"));
    let variables = |token: &Path| {
        [
            ("AWS_ACCESS_KEY_ID", String::new()),
            ("AWS_SECRET_ACCESS_KEY", String::new()),
            ("AWS_ROLE_ARN", "arn:aws:iam::1:role/bakes".to_owned()),
            ("AWS_WEB_IDENTITY_TOKEN_FILE", token.to_str().unwrap().to_owned()),
            ("AWS_ENDPOINT_URL_STS", address.clone()),
            ("AWS_CA_BUNDLE", bundle.to_str().unwrap().to_owned()),
        ]
    };
    let ended = |token: &Path| {
        let variables = variables(token);
        let variables: Vec<_> = variables.iter().map(|(name, value)| (*name, value.as_str())).collect();
        Pod::run(&server, "Bake", &wide::spec("s3://baked/wide"), &variables)
    };
    ended(&token).ended(0, Reason::NoImprovement);
    assert_published(&server, "baked", "wide");
    assert!(given.load(Ordering::Relaxed) > 3, "they were asked for {given:?} times");

    fs::write(&refused, "of somebody else").unwrap();
    let outcome = ended(&refused).ended(13, Reason::AccessDenied);
    assert!(outcome.message.contains("there are no credentials for s3://models"), "{}", outcome.message);
}
