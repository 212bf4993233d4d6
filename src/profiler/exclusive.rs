//! One timing section at a time on a machine, per user.
//!
//! Bakes may run side by side; their timing must not. An advisory lock on a file decides; the kernel frees it when a process dies, however it dies.

use std::cell::RefCell;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::rc::{Rc, Weak};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use super::ProfilerError;

/// The right to time. Held until dropped; take it as `let _turn = TimingTurn::take()?;` around the timing only, never around a bake.
///
/// A thread that holds it and takes it again gets the same one, so that nested sections do not wait for themselves.
#[derive(Debug)]
pub struct TimingTurn {
    _lock: Rc<Flock<File>>,
}

thread_local! {
    static HELD: RefCell<Weak<Flock<File>>> = const { RefCell::new(Weak::new()) };
}

impl TimingTurn {
    /// Waits for the turn of this user on this machine.
    pub fn take() -> Result<Self, ProfilerError> {
        if let Some(held) = HELD.with_borrow(Weak::upgrade) {
            return Ok(Self { _lock: held });
        }
        let path = lock_path();
        let lock =
            Rc::new(lock(&path, FlockArg::LockExclusive).map_err(|source| ProfilerError::Lock { path, source })?);
        HELD.set(Rc::downgrade(&lock));
        Ok(Self { _lock: lock })
    }
}

/// In the user's runtime folder, else in the folder for temporary files.
fn lock_path() -> PathBuf {
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|d| d.is_dir());
    let folder = runtime.unwrap_or_else(std::env::temp_dir);
    let user = std::fs::metadata("/proc/self").map_or(0, |m| m.uid());
    folder.join(format!("bakehouse-timing-{user}.lock"))
}

fn lock(path: &Path, how: FlockArg) -> std::io::Result<Flock<File>> {
    // The folder may be shared by all users: a link that someone else put there is not followed.
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(path)?;
    loop {
        match Flock::lock(file, how) {
            Ok(lock) => return Ok(lock),
            // A signal woke the wait.
            Err((back, Errno::EINTR)) => file = back,
            Err((_, errno)) => return Err(errno.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_holders_exclude_each_other_and_the_lock_is_freed_on_drop() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("turn.lock");
        let first = lock(&path, FlockArg::LockExclusiveNonblock).unwrap();
        let second = lock(&path, FlockArg::LockExclusiveNonblock);
        assert_eq!(second.unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
        drop(first);
        assert!(lock(&path, FlockArg::LockExclusiveNonblock).is_ok());
    }

    #[test]
    fn a_link_is_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let (target, link) = (folder.path().join("target"), folder.path().join("link"));
        std::os::unix::fs::symlink(&target, &link).unwrap();
        assert!(lock(&link, FlockArg::LockExclusiveNonblock).is_err());
        assert!(!target.exists());
    }

    #[test]
    fn a_nested_section_does_not_wait_for_itself_and_another_thread_waits() {
        let outer = TimingTurn::take().unwrap();
        let inner = TimingTurn::take().unwrap();
        drop(outer);
        let path = lock_path();
        let elsewhere = std::thread::spawn(move || lock(&path, FlockArg::LockExclusiveNonblock).is_err());
        assert!(elsewhere.join().unwrap(), "the inner section still holds the turn");
        drop(inner);
    }
}
