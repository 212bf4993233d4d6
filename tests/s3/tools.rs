//! Servers that are made from their source or package when they are asked for.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// What `e2e/cluster/components.sh` makes of this name. Where it does not lie in the cache, it is made when the variable is set, and must be;
/// otherwise this is `None`, with a word printed.
pub(crate) fn made(component: &str, file: &str, required: &str) -> Option<PathBuf> {
    if let Some(path) = cached(component, file) {
        return Some(path);
    }
    if std::env::var_os(required).is_none() {
        eprintln!("skipped: {component} was never made here; `make clouds` makes it and runs this test");
        return None;
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("e2e/cluster/components.sh");
    let output = Command::new("bash").arg(script).arg(component).output().unwrap();
    assert!(output.status.success(), "{component} cannot be made: {}", String::from_utf8_lossy(&output.stderr));
    cached(component, file)
}

/// The newest version of a component that lies in the cache.
pub(crate) fn cached(component: &str, file: &str) -> Option<PathBuf> {
    let cache = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache")))?;
    let begins = format!("{component}-");
    let mut versions: Vec<PathBuf> = fs::read_dir(cache.join("bakehouse"))
        .ok()?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&begins)))
        .map(|path| path.join(file))
        .filter(|path| path.is_file())
        .collect();
    versions.sort();
    versions.pop()
}

pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Starts a server and returns when it listens; panics with its log when it ends before, or is too slow. The log lies in `root`.
pub(crate) fn listening(server: &mut Command, port: u16, root: &Path) -> Child {
    let path = root.join("log");
    let log = fs::File::create(&path).unwrap();
    server.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
    let mut child = server.spawn().unwrap();
    let started = Instant::now();
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        let ended = child.try_wait().unwrap();
        let log = fs::read_to_string(&path).unwrap();
        if ended.is_some() || started.elapsed() > Duration::from_mins(1) {
            let _ = child.kill();
            panic!("no server ({ended:?}): {log}");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    child
}
