//! Debian's docker-registry on a free port, over a folder of its own, and skopeo as another reader.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output};

use crate::s3::tls::issued;
use crate::s3::tools::{free_port, listening};

pub(crate) const NAME: &str = "baker";
pub(crate) const PASSWORD: &str = "oven-secret";

/// `NAME:PASSWORD`, as `.htpasswd` has it (bcrypt).
const HTPASSWD: &str = "baker:$2b$05$abcdefghijklmnopqrstuuZcjW4SGE0FkELIcpE1jhDp0cDrJU9Y.\n";

/// A program of the system, or `None` with the reason printed.
fn program(name: &str, variable: &str) -> Option<PathBuf> {
    let named = std::env::var_os(variable).map(PathBuf::from);
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let found =
        named.into_iter().chain(std::env::split_paths(&paths).map(|folder| folder.join(name))).find(|p| p.is_file());
    if found.is_none() {
        let told = format!(
            "{name} is not found: name it in {variable}, or install it with e2e/cluster/components.sh docker-registry"
        );
        assert!(std::env::var_os("BAKEHOUSE_REQUIRE_REGISTRY").is_none(), "{told}");
        eprintln!("skipped: {told}");
    }
    found
}

/// The registry's program.
pub(crate) fn docker_registry() -> Option<PathBuf> {
    program("docker-registry", "BAKEHOUSE_DOCKER_REGISTRY")
}

/// Runs another tool of registries, where it is found.
pub(crate) fn skopeo(arguments: &[&str]) -> Option<Output> {
    Some(Command::new(program("skopeo", "BAKEHOUSE_SKOPEO")?).args(arguments).output().unwrap())
}

pub(crate) struct Registry {
    child: Child,
    root: tempfile::TempDir,
    port: u16,
}

impl Registry {
    /// One that wants a name and a password.
    pub(crate) fn start(program: &Path) -> Self {
        Self::with(program, true, "")
    }

    /// One that lets everybody in.
    pub(crate) fn open(program: &Path) -> Self {
        Self::with(program, false, "")
    }

    /// One that speaks TLS, with a certificate of a CA that nobody else knows.
    pub(crate) fn start_tls(program: &Path) -> Self {
        Self::with(program, true, "tls: {certificate: ROOT/tls.crt, key: ROOT/tls.key}")
    }

    fn with(program: &Path, login: bool, tls: &str) -> Self {
        let root = tempfile::tempdir().unwrap();
        let issued = issued();
        for (name, text) in [
            ("ca.crt", issued.ca.clone()),
            ("tls.crt", issued.certificate.pem()),
            ("tls.key", issued.key.serialize_pem()),
            ("htpasswd", HTPASSWD.to_owned()),
        ] {
            fs::write(root.path().join(name), text).unwrap();
        }
        let port = free_port();
        let auth = if login { "auth: {htpasswd: {realm: bakehouse, path: ROOT/htpasswd}}\n" } else { "" };
        let config = format!(
            "version: 0.1\nlog: {{level: warn, accesslog: {{disabled: true}}}}\nstorage: {{filesystem: {{rootdirectory: ROOT/data}}, maintenance: {{uploadpurging: {{enabled: false}}}}}}\n\
             http: {{addr: \"127.0.0.1:{port}\", secret: s, {tls}}}\n{auth}"
        );
        let path = root.path().join("config.yml");
        fs::write(&path, config.replace("ROOT", root.path().to_str().unwrap())).unwrap();
        let child = listening(Command::new(program).arg("serve").arg(&path), port, root.path());
        Self { child, root, port }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn ca(&self) -> PathBuf {
        self.root.path().join("ca.crt")
    }

    fn data(&self) -> PathBuf {
        self.root.path().join("data/docker/registry/v2")
    }

    /// Tags of a repository, and the digest of the manifest that each names.
    pub(crate) fn tags(&self, repository: &str) -> BTreeMap<String, String> {
        let folder = self.data().join("repositories").join(repository).join("_manifests/tags");
        let Ok(entries) = fs::read_dir(folder) else { return BTreeMap::new() };
        entries
            .map(|entry| entry.unwrap().path())
            .filter_map(|path| {
                let digest = fs::read_to_string(path.join("current/link")).ok()?;
                Some((path.file_name().unwrap().to_str().unwrap().to_owned(), digest))
            })
            .collect()
    }

    /// The bytes of a blob, by its digest.
    pub(crate) fn blob(&self, digest: &str) -> Vec<u8> {
        fs::read(self.path_of(digest)).unwrap()
    }

    /// Where a blob lies on the disk.
    pub(crate) fn path_of(&self, digest: &str) -> PathBuf {
        let hex = digest.trim_start_matches("sha256:");
        self.data().join("blobs/sha256").join(&hex[..2]).join(hex).join("data")
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
