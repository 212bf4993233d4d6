//! A Git repository that Argo CD reads.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::shell;

/// A working copy beside the bare repository that a daemon serves.
pub(crate) struct Repository {
    /// Where Argo CD finds it.
    pub(crate) url: String,
    folder: tempfile::TempDir,
}

impl Repository {
    /// An empty one. `said` is what `argocd.sh` printed.
    pub(crate) fn new(said: &str, name: &str) -> Self {
        let of = |key: &str| said.lines().find_map(|line| line.strip_prefix(key)).unwrap();
        let bare = PathBuf::from(of("GIT_FOLDER=")).join(format!("{name}.git"));
        // Left behind by a run that failed.
        let _ = std::fs::remove_dir_all(&bare);
        let folder = tempfile::tempdir().unwrap();
        let repository = Self { url: format!("{}/{name}.git", of("GIT_URL=")), folder };
        shell::run("git", &["init", "--quiet", "--bare", "--initial-branch=main", &bare.display().to_string()]);
        repository.git(&["init", "--quiet", "--initial-branch=main"]);
        repository.git(&["remote", "add", "origin", &bare.display().to_string()]);
        repository
    }

    /// Writes the manifests of this folder, in place of all that were there, and pushes them as one commit; returns its id.
    pub(crate) fn push(&self, folder: &str, manifests: &[Value]) -> String {
        let path = self.folder.path().join(folder);
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        for (number, manifest) in manifests.iter().enumerate() {
            let text = serde_json::to_string_pretty(manifest).unwrap();
            std::fs::write(path.join(format!("{number}.json")), text).unwrap();
        }
        self.git(&["add", "--all"]);
        let who = ["-c", "user.name=e2e", "-c", "user.email=e2e@bakehouse.dev"];
        self.git(&[&who[..], &["commit", "--quiet", "--message", "The next state"]].concat());
        self.git(&["push", "--quiet", "origin", "main"]);
        self.git(&["rev-parse", "HEAD"]).trim().to_owned()
    }

    fn git(&self, arguments: &[&str]) -> String {
        let folder = path(self.folder.path());
        shell::run("git", &[&["-C", &folder], arguments].concat())
    }
}

fn path(path: &Path) -> String {
    path.display().to_string()
}
