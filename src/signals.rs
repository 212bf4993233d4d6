//! What must not outlive this process: hidden folders and child processes. SIGINT and SIGTERM take them away before they end it.
//!
//! Everything that is held stands in one table behind one lock. The thread that ends the process takes the lock and never gives it back: from then on
//! nobody can make a folder, start a child or publish a result, and whoever tries waits for an end that is near.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use tempfile::TempDir;

/// How long children may take to clean up after themselves before they are killed.
const GRACE: Duration = Duration::from_secs(5);

/// How often a child is asked whether it has ended, once it closed its output.
const POLL: Duration = Duration::from_millis(1);

static HELD: Mutex<Held> = Mutex::new(Held { next: 0, folders: BTreeMap::new(), children: BTreeMap::new() });

#[derive(Debug)]
struct Held {
    next: u64,
    folders: BTreeMap<u64, Folder>,
    children: BTreeMap<u64, Child>,
}

#[derive(Debug)]
struct Folder {
    path: PathBuf,
    /// A folder around it that goes too when nothing else is in it.
    around: Option<PathBuf>,
}

impl Held {
    fn key(&mut self) -> u64 {
        self.next += 1;
        self.next
    }
}

fn held() -> MutexGuard<'static, Held> {
    HELD.lock().unwrap_or_else(PoisonError::into_inner)
}

/// From here on, the first SIGINT or SIGTERM cleans up and ends the process with 128 and its number. Without it (no thread can be started), a signal
/// ends the process as it always did.
pub(crate) fn install() {
    let Ok(mut signals) = Signals::new([SIGINT, SIGTERM]) else { return };
    let wait = move || {
        if let Some(signal) = signals.forever().next() {
            end(signal);
        }
    };
    if let Err(error) = std::thread::Builder::new().name("signals".to_owned()).spawn(wait) {
        tracing::warn!("signals are not waited for: {error}");
    }
}

/// Ends children, then takes away folders, then exits without another destructor: other threads are still at work.
fn end(signal: i32) -> ! {
    let mut held = held();
    for child in held.children.values() {
        // Asked, not killed: a bake of a batch has folders and a child of its own.
        let _ = kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM);
    }
    let deadline = Instant::now() + GRACE;
    for child in held.children.values_mut() {
        while matches!(child.try_wait(), Ok(None)) {
            if Instant::now() >= deadline {
                let _ = child.kill().and_then(|()| child.wait());
                break;
            }
            std::thread::sleep(POLL);
        }
    }
    held.folders.values().for_each(take_away);
    let name = if signal == SIGINT { "SIGINT" } else { "SIGTERM" };
    eprintln!("error: ended by {name}; nothing was written.");
    signal_hook::low_level::exit(128 + signal)
}

/// Removes a folder. Another thread may still be writing into it, so what comes back is removed again.
fn take_away(folder: &Folder) {
    for _ in 0..20 {
        match std::fs::remove_dir_all(&folder.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => std::thread::sleep(POLL),
            _ => break,
        }
    }
    if let Some(around) = &folder.around {
        let _ = std::fs::remove_dir(around);
    }
}

/// Does something that a signal must not cut in two, such as the renames that make a result visible. It must be short and hold nothing new.
pub(crate) fn undivided<T>(work: impl FnOnce() -> T) -> T {
    let _held = held();
    work()
}

/// A folder that goes when it is dropped, and when a signal ends the process.
#[derive(Debug)]
pub(crate) struct HeldFolder {
    key: u64,
    folder: Option<TempDir>,
    path: PathBuf,
}

impl HeldFolder {
    /// Makes one in the system's folder for temporary files.
    pub(crate) fn temporary() -> io::Result<Self> {
        Self::make(None, tempfile::tempdir)
    }

    /// Makes a hidden one in `parent`, its name beginning with `prefix`. `parent` is made when missing, and goes with it when nothing else came into it.
    pub(crate) fn inside(parent: &Path, prefix: &str) -> io::Result<Self> {
        let around = (!parent.exists()).then(|| parent.to_owned());
        Self::make(around, || {
            std::fs::create_dir_all(parent)?;
            tempfile::Builder::new().prefix(prefix).tempdir_in(parent)
        })
    }

    fn make(around: Option<PathBuf>, make: impl FnOnce() -> io::Result<TempDir>) -> io::Result<Self> {
        let mut held = held();
        let folder = make()?;
        let (key, path) = (held.key(), folder.path().to_owned());
        held.folders.insert(key, Folder { path: path.clone(), around });
        Ok(Self { key, folder: Some(folder), path })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for HeldFolder {
    fn drop(&mut self) {
        // Best effort, and in this order: a folder is held for as long as it is there.
        drop(self.folder.take());
        if let Some(Folder { around: Some(around), .. }) = held().folders.remove(&self.key) {
            let _ = std::fs::remove_dir(around);
        }
    }
}

/// [`Command::output`] of a child that does not outlive this process when a signal ends it.
pub(crate) fn output(command: &mut Command) -> io::Result<Output> {
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let (key, stdout, stderr) = {
        let mut held = held();
        let mut child = command.spawn()?;
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let key = held.key();
        held.children.insert(key, child);
        (key, stdout, stderr)
    };
    let (stdout, stderr) = std::thread::scope(|scope| {
        let stderr = scope.spawn(|| read(stderr));
        (read(stdout), stderr.join().unwrap_or_else(|_| Err(io::Error::other("the reader of its messages failed"))))
    });
    // It is reaped under the lock: a number of a process that the table holds is never that of another one.
    let status = loop {
        let mut held = held();
        let Some(child) = held.children.get_mut(&key) else { return Err(io::ErrorKind::NotFound.into()) };
        match child.try_wait() {
            Ok(None) => {}
            ended => {
                held.children.remove(&key);
                break ended?;
            }
        }
        drop(held);
        std::thread::sleep(POLL);
    };
    let status = status.ok_or(io::ErrorKind::NotFound)?;
    Ok(Output { status, stdout: stdout?, stderr: stderr? })
}

fn read(stream: Option<impl Read>) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if let Some(mut stream) = stream {
        stream.read_to_end(&mut bytes)?;
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_held_folder_goes_with_the_folder_that_was_made_for_it_unless_something_came_into_it() {
        let root = tempfile::tempdir().unwrap();
        let parent = root.path().join("out");
        let folder = HeldFolder::inside(&parent, ".x-").unwrap();
        assert!(folder.path().starts_with(&parent) && folder.path().is_dir());
        drop(folder);
        assert!(!parent.exists());

        let folder = HeldFolder::inside(&parent, ".x-").unwrap();
        std::fs::write(parent.join("result"), b"").unwrap();
        drop(folder);
        assert_eq!(std::fs::read_dir(&parent).unwrap().count(), 1);
    }

    #[test]
    fn a_child_gives_both_streams_and_its_status() {
        let ended = output(Command::new("sh").args(["-c", "echo out; echo err >&2; exit 3"])).unwrap();
        assert_eq!(
            (&ended.stdout[..], &ended.stderr[..], ended.status.code()),
            (&b"out\n"[..], &b"err\n"[..], Some(3))
        );
        // More than a pipe holds, on both at once.
        let much = output(Command::new("sh").args(["-c", "head -c 300000 /dev/zero | tee /dev/stderr"])).unwrap();
        assert_eq!((much.stdout.len(), much.stderr.len()), (300_000, 300_000));
        assert!(output(&mut Command::new("/nowhere/program")).is_err());
    }
}
