//! Bakes of what a web server gives out by https.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::sync::{Arc, Mutex};

use bakehouse::api::Reason;
use bakehouse::api::digest::sha256_hex;
use serde_json::{Value, json};

use crate::s3::pod::Pod;
use crate::s3::tls::{Stream, issued, serve_tls};
use crate::s3::wide;
use crate::with;

/// What links are signed with.
const SIGNATURE: &str = "sig=TOPSECRET";

/// How a server goes about it.
#[derive(Clone, Copy, PartialEq)]
enum Manner {
    /// It knows HEAD and ranges.
    Able,
    /// It knows neither, and breaks off when weights are asked for the second time. The first time is in place of HEAD.
    Plain,
}

struct Web {
    port: u16,
    folder: tempfile::TempDir,
    seen: Arc<Mutex<Vec<String>>>,
}

impl Web {
    fn start(manner: Manner) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let issued = issued();
        fs::write(folder.path().join("ca.crt"), &issued.ca).unwrap();
        let (model, weights) = wide::model();
        let files = BTreeMap::from([
            ("/wide/model.onnx", model.to_bytes()),
            ("/wide/weights.bin", weights),
            ("/wide/validation.safetensors", wide::samples(60)),
        ]);
        let seen = Arc::new(Mutex::new(Vec::new()));
        let told = Arc::clone(&seen);
        let port = serve_tls(&issued, move |head, stream| answer(head, stream, &files, manner, &told));
        Self { port, folder, seen }
    }

    fn uri(&self, name: &str) -> String {
        format!("https://127.0.0.1:{}/wide/{name}?{SIGNATURE}", self.port)
    }

    fn spec(&self, output: &Path) -> Value {
        let spec = with(wide::spec("unused"), "source", json!({"uri": self.uri("model.onnx")}));
        let spec = with(spec, "data", json!({"validation": {"uri": self.uri("validation.safetensors")}}));
        with(with(spec, "output", json!({"uri": output})), "storage", json!({}))
    }

    fn bake(&self, spec: &Value) -> Pod {
        let ca = self.folder.path().join("ca.crt");
        Pod::alone("Bake", spec, &[("AWS_CA_BUNDLE", ca.to_str().unwrap()), ("BAKEHOUSE_STORE_PATIENCE", "20")])
    }
}

/// What breaks off is the worker's affair.
fn answer(head: &str, stream: &mut Stream, files: &BTreeMap<&str, Vec<u8>>, manner: Manner, seen: &Mutex<Vec<String>>) {
    let mut words = head.split(' ');
    let (method, target) = (words.next().unwrap(), words.next().unwrap());
    let range = head.lines().find_map(|line| line.to_lowercase().strip_prefix("range: bytes=").map(str::to_owned));
    seen.lock().unwrap().push(format!(
        "{method} {} {}",
        target.split('?').next().unwrap(),
        range.as_deref().unwrap_or("whole")
    ));
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let (mut status, mut headers, mut body) = ("200 OK", String::new(), &[][..]);
    match files.get(path) {
        None => status = "404 Not Found",
        Some(_) if query != SIGNATURE => status = "403 Forbidden",
        Some(_) if method == "HEAD" && manner == Manner::Plain => status = "405 Method Not Allowed",
        Some(file) => {
            body = file;
            if let (Some(range), Manner::Able) = (range, manner) {
                let (from, to) = range.split_once('-').unwrap();
                let (from, to): (usize, usize) = (from.parse().unwrap(), to.parse().unwrap());
                status = "206 Partial Content";
                headers = format!("Content-Range: bytes {from}-{to}/{}\r\n", file.len());
                body = &file[from..=to];
            }
        }
    }
    let length = body.len();
    if method == "HEAD" {
        body = &[];
    } else if manner == Manner::Plain && times("GET /wide/weights.bin whole", seen) == 2 {
        body = &body[..length / 2];
    }
    let head = format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {length}\r\nConnection: close\r\n\r\n");
    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body));
}

fn times(asked: &str, seen: &Mutex<Vec<String>>) -> usize {
    seen.lock().unwrap().iter().filter(|seen| *seen == asked).count()
}

#[test]
fn a_web_server_is_read_by_signed_links_that_nobody_gets_to_see() {
    for manner in [Manner::Able, Manner::Plain] {
        let web = Web::start(manner);
        let output = web.folder.path().join("out");
        let pod = web.bake(&web.spec(&output));
        pod.ended(0, Reason::NoImprovement);
        let text = fs::read_to_string(output.join("report.json")).unwrap();
        let report: Value = serde_json::from_str(&text).unwrap();
        let weights = format!("https://127.0.0.1:{}/wide/weights.bin", web.port);
        let read = report["data"]["files"].as_array().unwrap().iter().find(|file| file["path"] == weights).unwrap();
        assert_eq!(read["sha256"], sha256_hex(&wide::model().1));
        assert!(!text.contains("TOPSECRET") && !pod.log().contains("TOPSECRET"), "{}", pod.log());
        // Begun again from the start: nothing says that the rest would belong to the first half.
        let (asked, count) = match manner {
            Manner::Able => ("GET /wide/weights.bin 0-8388607", 1),
            Manner::Plain => ("GET /wide/weights.bin whole", 4),
        };
        assert_eq!(times(asked, &web.seen), count, "{:?}", web.seen.lock().unwrap());
    }
}

#[test]
fn what_a_web_server_does_not_give_out_is_said_without_the_signature() {
    let web = Web::start(Manner::Able);
    let output = web.folder.path().join("out");
    let model = format!("https://127.0.0.1:{}/wide/model.onnx", web.port);
    let source = |uri: &str| with(web.spec(&output), "source", json!({"uri": uri}));
    let gone = web.uri("gone.onnx");
    for (spec, code, reason, words) in [
        (source(&gone), 10, Reason::InvalidModel, "gone.onnx is not there".to_owned()),
        (source(&format!("{model}?old=TOPSECRET")), 13, Reason::AccessDenied, format!("access to {model} is denied")),
        (with(web.spec(&output), "output", json!({"uri": model})), 2, Reason::InvalidJob, "https://".to_owned()),
    ] {
        let pod = web.bake(&spec);
        let outcome = pod.ended(code, reason);
        assert!(outcome.message.contains(&words), "'{words}' is not in: {}", outcome.message);
        assert!(!outcome.message.contains("TOPSECRET") && !pod.log().contains("TOPSECRET"), "{}", pod.log());
        assert!(!output.exists());
    }
    let distrusted = Pod::alone("Bake", &web.spec(&output), &[]).ended(2, Reason::InvalidJob);
    assert!(distrusted.message.contains("spec.storage.caBundle"), "{}", distrusted.message);
}
