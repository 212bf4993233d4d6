//! versitygw on a free port, over a folder of its own.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use super::tls::issued;
use super::tools::{cached, free_port, listening};

pub(crate) const KEY: &str = "bakehouse-test-key";
pub(crate) const SECRET: &str = "bakehouse-test-secret";

/// The program, or `None` with the reason printed.
pub(crate) fn gateway() -> Option<PathBuf> {
    let named = std::env::var_os("BAKEHOUSE_VERSITYGW").map(PathBuf::from);
    let found = named.or_else(|| cached("versitygw", "versitygw")).filter(|path| path.is_file());
    if found.is_none() {
        let told = "versitygw is not found: name it in BAKEHOUSE_VERSITYGW, or make it with e2e/cluster/components.sh versitygw";
        assert!(std::env::var_os("BAKEHOUSE_REQUIRE_S3").is_none(), "{told}");
        eprintln!("skipped: {told}");
    }
    found
}

pub(crate) struct Server {
    child: Child,
    root: tempfile::TempDir,
    endpoint: String,
    port: u16,
}

impl Server {
    pub(crate) fn start(gateway: &Path) -> Self {
        Self::with(gateway, "http", tempfile::tempdir().unwrap(), &[])
    }

    /// One that speaks TLS, with a certificate of a CA that nobody else knows.
    pub(crate) fn start_tls(gateway: &Path) -> Self {
        let root = tempfile::tempdir().unwrap();
        let issued = issued();
        fs::write(root.path().join("ca.crt"), &issued.ca).unwrap();
        let [cert_path, key_path] = ["tls.crt", "tls.key"].map(|name| root.path().join(name));
        fs::write(&cert_path, issued.certificate.pem()).unwrap();
        fs::write(&key_path, issued.key.serialize_pem()).unwrap();
        Self::with(
            gateway,
            "https",
            root,
            &["--cert", cert_path.to_str().unwrap(), "--key", key_path.to_str().unwrap()],
        )
    }

    fn with(gateway: &Path, scheme: &str, root: tempfile::TempDir, flags: &[&str]) -> Self {
        fs::create_dir(root.path().join("buckets")).unwrap();
        let port = free_port();
        let mut command = Command::new(gateway);
        command
            .env("ROOT_ACCESS_KEY", KEY)
            .env("ROOT_SECRET_KEY", SECRET)
            .args(["--port", &format!("127.0.0.1:{port}")])
            .args(flags)
            .arg("posix")
            .arg(root.path().join("buckets"));
        let child = listening(&mut command, port, root.path());
        Self { child, root, endpoint: format!("{scheme}://127.0.0.1:{port}"), port }
    }

    pub(crate) fn endpoint(&self) -> &str {
        &self.endpoint
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn ca(&self) -> PathBuf {
        self.root.path().join("ca.crt")
    }

    /// Where a bucket lies on the disk.
    pub(crate) fn folder(&self, bucket: &str) -> PathBuf {
        self.root.path().join("buckets").join(bucket)
    }

    pub(crate) fn bucket(&self, name: &str) {
        fs::create_dir_all(self.folder(name)).unwrap();
    }

    pub(crate) fn put(&self, bucket: &str, key: &str, bytes: &[u8]) {
        let path = self.folder(bucket).join(key);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    pub(crate) fn remove(&self, bucket: &str, key: &str) {
        fs::remove_file(self.folder(bucket).join(key)).unwrap();
    }

    /// Everything that can be read from a bucket, by key.
    pub(crate) fn objects(&self, bucket: &str) -> BTreeMap<String, Vec<u8>> {
        objects(&self.folder(bucket))
    }

    /// Files of uploads that were neither completed nor aborted.
    pub(crate) fn unfinished(&self, bucket: &str) -> usize {
        let root = self.folder(bucket);
        files(&root).iter().filter(|path| unfinished(&root, path)).count()
    }
}

/// The same of a bucket's folder. What goes while it is looked at is not there.
pub(crate) fn objects(root: &Path) -> BTreeMap<String, Vec<u8>> {
    let seen = files(root).into_iter().filter(|path| !unfinished(root, path));
    seen.filter_map(|path| {
        let bytes = fs::read(&path).ok()?;
        Some((path.strip_prefix(root).unwrap().to_str().unwrap().to_owned(), bytes))
    })
    .collect()
}

/// The gateway keeps the parts of unfinished uploads in a folder of the bucket.
fn unfinished(root: &Path, path: &Path) -> bool {
    path.strip_prefix(root).unwrap().starts_with(".sgwtmp")
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    entries
        .map(|entry| entry.unwrap().path())
        .flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] })
        .collect()
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
