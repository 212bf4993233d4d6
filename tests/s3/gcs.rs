//! fake-gcs-server on a free port. It knows reading and deleting as the XML interface has them, and writing as the JSON interface has it; a wire before it
//! turns the one into the other, and keeps the parts of uploads until they are completed.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::http::{Request, answer, ask, end_of_head, serve};
use super::tools::{free_port, listening};

pub(crate) struct Gcs {
    child: Child,
    _root: tempfile::TempDir,
    port: u16,
}

impl Gcs {
    /// With one empty bucket.
    pub(crate) fn start(program: &Path, bucket: &str) -> Self {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("data").join(bucket)).unwrap();
        let port = free_port();
        let mut command = Command::new(program);
        command
            .args(["-scheme", "http", "-host", "127.0.0.1", "-backend", "memory", "-log-level", "warn"])
            .args(["-port", &port.to_string(), "-public-host", &format!("127.0.0.1:{port}")])
            .arg("-data")
            .arg(root.path().join("data"));
        let child = listening(&mut command, port, root.path());
        let wire = Wire { server: port, next: AtomicUsize::new(1), uploads: Mutex::default() };
        Self { child, _root: root, port: serve(move |client| wire.pass(client)) }
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }
}

impl Drop for Gcs {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

struct Wire {
    server: u16,
    next: AtomicUsize,
    /// Parts by their number, by upload.
    uploads: Mutex<BTreeMap<String, BTreeMap<usize, Vec<u8>>>>,
}

impl Wire {
    fn pass(&self, mut client: TcpStream) {
        let Some(mut request) = Request::peek(&client) else { return };
        if request.take(&mut client).is_ok()
            && let Ok(answer) = self.answered(request)
        {
            let _ = client.write_all(&answer);
        }
    }

    fn answered(&self, mut request: Request) -> std::io::Result<Vec<u8>> {
        let (path, query) = request.target.split_once('?').unwrap_or((&request.target, ""));
        let (bucket, object) = path.trim_start_matches('/').split_once('/').unwrap_or_default();
        let asked = |name: &str| query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
        match (request.method.as_str(), asked("uploadId"), asked("partNumber")) {
            ("POST", None, _) => {
                let there = ask(self.server, &self.lines("GET", &format!("/storage/v1/b/{bucket}"), ""), b"")?;
                if status(&there) != "200" {
                    let body = b"<Error><Code>NoSuchBucket</Code><Message>The specified bucket does not exist.</Message></Error>";
                    return Ok(answer("404 Not Found", "", body));
                }
                let id = format!("upload-{}", self.next.fetch_add(1, Ordering::Relaxed));
                self.uploads.lock().unwrap().insert(id.clone(), BTreeMap::new());
                Ok(xml("InitiateMultipartUploadResult", &format!("<UploadId>{id}</UploadId>")))
            }
            ("PUT", Some(id), Some(part)) => {
                let mut uploads = self.uploads.lock().unwrap();
                let Some(parts) = uploads.get_mut(id) else { return Ok(gone()) };
                parts.insert(part.parse().unwrap(), request.body);
                Ok(answer("200 OK", &format!("ETag: \"{part}\"\r\n"), b""))
            }
            ("POST", Some(id), _) => {
                let Some(parts) = self.uploads.lock().unwrap().remove(id) else { return Ok(gone()) };
                let whole: Vec<u8> = parts.into_values().flatten().collect();
                let put = self.put(bucket, object, "", &whole)?;
                if status(&put) != "200" {
                    return Ok(put);
                }
                Ok(xml("CompleteMultipartUploadResult", "<ETag>\"whole\"</ETag>"))
            }
            ("DELETE", Some(id), _) => {
                let known = self.uploads.lock().unwrap().remove(id).is_some();
                Ok(if known { answer("204 No Content", "", b"") } else { gone() })
            }
            ("PUT", ..) => {
                let only_new = request.header("x-goog-if-generation-match") == Some("0");
                let bytes = match request.header("x-goog-copy-source").and_then(|source| source.split_once('/')) {
                    None => request.body.clone(),
                    Some((bucket, object)) => {
                        let target = format!("/storage/v1/b/{bucket}/o/{object}?alt=media");
                        let there = ask(self.server, &self.lines("GET", &target, ""), b"")?;
                        if status(&there) != "200" {
                            return Ok(there);
                        }
                        there[end_of_head(&there).unwrap_or_default()..].to_vec()
                    }
                };
                self.put(bucket, object, if only_new { "&ifGenerationMatch=0" } else { "" }, &bytes)
            }
            _ => {
                let host = request.header("host").unwrap_or_default().to_owned();
                request.head = request.head.replacen(&host, &format!("127.0.0.1:{}", self.server), 1);
                request.forward(self.server)
            }
        }
    }

    fn put(&self, bucket: &str, object: &str, condition: &str, bytes: &[u8]) -> std::io::Result<Vec<u8>> {
        let target = format!("/upload/storage/v1/b/{bucket}/o?uploadType=media&name={object}{condition}");
        let length = format!("Content-Type: application/octet-stream\r\nContent-Length: {}\r\n", bytes.len());
        let put = ask(self.server, &self.lines("POST", &target, &length), bytes)?;
        Ok(if status(&put) == "200" { answer("200 OK", "ETag: \"put\"\r\n", b"") } else { put })
    }

    fn lines(&self, method: &str, target: &str, headers: &str) -> String {
        format!("{method} {target} HTTP/1.1\r\nHost: 127.0.0.1:{}\r\n{headers}", self.server)
    }
}

fn status(answer: &[u8]) -> &str {
    std::str::from_utf8(answer.get(9..12).unwrap_or_default()).unwrap_or_default()
}

fn xml(name: &str, inside: &str) -> Vec<u8> {
    answer("200 OK", "Content-Type: application/xml\r\n", format!("<{name}>{inside}</{name}>").as_bytes())
}

fn gone() -> Vec<u8> {
    answer(
        "404 Not Found",
        "",
        b"<Error><Code>NoSuchUpload</Code><Message>The upload does not exist.</Message></Error>",
    )
}
