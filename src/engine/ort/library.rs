//! Finding and loading `libonnxruntime`, once per process.

use std::ffi::OsString;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use ::ort::environment::Environment;

use crate::engine::EngineError;

/// Environment variables that name the library, in the order in which they are asked.
const VARIABLES: [&str; 2] = ["BAKEHOUSE_ORT_LIB", "ORT_DYLIB_PATH"];
/// Value of a variable that switches ONNX Runtime off.
const OFF: &str = "none";
/// What the file is called: `libonnxruntime.so`, `libonnxruntime.so.1.32.0`, `libonnxruntime.1.32.0.dylib`.
const STEM: &str = "libonnxruntime.";

/// The loaded library with its one environment.
pub(super) struct Library {
    pub(super) environment: Environment,
    pub(super) path: PathBuf,
    pub(super) version: String,
}

static LOADED: Mutex<Option<Arc<Library>>> = Mutex::new(None);

/// What a search sees of the world, so that it can be tested.
struct World<'a> {
    variable: &'a dyn Fn(&str) -> Option<OsString>,
    executable: Option<PathBuf>,
}

/// Where to look: files that exist, best first, and for the message every place that was looked at.
#[derive(Debug, Default, PartialEq, Eq)]
struct Search {
    found: Vec<PathBuf>,
    looked_at: Vec<String>,
}

/// Loads the library, or hands out the one that is loaded.
pub(super) fn open(explicit: Option<&Path>) -> Result<Arc<Library>, EngineError> {
    let world = World { variable: &|name| std::env::var_os(name), executable: std::env::current_exe().ok() };
    let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(library) = &*loaded {
        let same = |path: &Path| library_file(path).and_then(|f| f.canonicalize().ok()) == library.path.canonicalize().ok();
        return match explicit {
            Some(path) if !same(path) => {
                Err(unavailable(format!("{} is loaded already, and a process can load one library only", library.path.display())))
            }
            _ => Ok(library.clone()),
        };
    }
    let search = search(explicit, &world).map_err(unavailable)?;
    let mut refused = Vec::new();
    for path in &search.found {
        match load(path) {
            Ok(library) => return Ok(loaded.insert(Arc::new(library)).clone()),
            Err(reason) => refused.push(reason),
        }
    }
    let places = search.looked_at.join(", ");
    let detail = if refused.is_empty() { format!("no libonnxruntime in {places}") } else { refused.join("; ") };
    Err(unavailable(format!("{detail}. Run `make ort`, or set {} to the library's file", VARIABLES[0])))
}

fn unavailable(detail: String) -> EngineError {
    EngineError::Unavailable { name: "ONNX Runtime".to_owned(), detail }
}

/// The candidates. Who names a path decides: then no other place is looked at, and a path without a library is the error.
fn search(explicit: Option<&Path>, world: &World) -> Result<Search, String> {
    let named = VARIABLES.iter().filter_map(|name| Some((format!("the variable {name}"), (world.variable)(name)?)));
    let named = named.filter(|(_, value)| !value.is_empty()).map(|(who, value)| (who, PathBuf::from(value))).next();
    let named = explicit.map(|path| ("the option".to_owned(), path.to_owned())).or(named);
    if let Some((who, path)) = named {
        if path.as_os_str() == OFF {
            return Err(format!("{who} says '{OFF}'"));
        }
        let file = library_file(&path).ok_or_else(|| format!("{who} names {}, where there is no libonnxruntime", path.display()))?;
        return Ok(Search { found: vec![file], looked_at: Vec::new() });
    }
    let mut search = Search::default();
    for place in usual_places(world) {
        search.found.extend(library_file(&place).filter(|f| !search.found.contains(f)));
        search.looked_at.push(place.display().to_string());
    }
    Ok(search)
}

fn usual_places(world: &World) -> Vec<PathBuf> {
    let folder = |name: &str| (world.variable)(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let home = folder("HOME");
    let mut places = Vec::new();
    if let Some(cache) = folder("XDG_CACHE_HOME").or_else(|| Some(home.as_ref()?.join(".cache"))) {
        let versions = cache.join("bakehouse/ort");
        places.extend(newest_first(&versions, |_| true));
    }
    if let Some(beside) = world.executable.as_deref().and_then(Path::parent) {
        places.extend([beside.to_owned(), beside.join("../lib")]);
    }
    let pythons = [folder("VIRTUAL_ENV"), folder("CONDA_PREFIX"), home.map(|h| h.join(".local")), Some("/usr/local".into()), Some("/usr".into())];
    for prefix in pythons.into_iter().flatten() {
        for python in newest_first(&prefix.join("lib"), |name| name.starts_with("python3")) {
            for packages in ["site-packages", "dist-packages"] {
                let capi = python.join(packages).join("onnxruntime/capi");
                places.extend(capi.is_dir().then_some(capi));
            }
        }
    }
    places.extend(["/usr/local/lib", "/usr/lib"].map(PathBuf::from));
    places.push(PathBuf::from(format!("/usr/lib/{}-linux-gnu", std::env::consts::ARCH)));
    places.extend(["/usr/lib64", "/opt/onnxruntime/lib"].map(PathBuf::from));
    places
}

/// The library at `path`: the file itself, or the one in that folder; without a version in its name first, else the newest.
fn library_file(path: &Path) -> Option<PathBuf> {
    if path.is_file() {
        return Some(path.to_owned());
    }
    let is_library = |name: &str| name.starts_with(STEM) && (name.contains(".so") || name.ends_with(".dylib"));
    let files: Vec<PathBuf> = newest_first(path, is_library).into_iter().filter(|f| f.is_file()).collect();
    let plain = |f: &&PathBuf| f.file_name().is_some_and(|n| n == "libonnxruntime.so" || n == "libonnxruntime.dylib");
    files.iter().find(plain).or(files.first()).cloned()
}

/// Entries of a folder whose names pass, those with the highest numbers in them first.
fn newest_first(folder: &Path, wanted: impl Fn(&str) -> bool) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut named: Vec<(Vec<u64>, String)> = entries
        .filter_map(|e| e.file_name().into_string().ok())
        .filter(|name| wanted(name))
        .map(|name| (name.split(|c: char| !c.is_ascii_digit()).filter_map(|n| n.parse().ok()).collect(), name))
        .collect();
    named.sort_by(|a, b| b.cmp(a));
    named.into_iter().map(|(_, name)| folder.join(name)).collect()
}

fn load(path: &Path) -> Result<Library, String> {
    // A library without the entry points makes the binding panic; that must not end a bake that could run on the other engine.
    let loading = std::panic::catch_unwind(|| {
        let builder = ::ort::init_from(path).map_err(|e| e.to_string())?;
        let environment = builder.with_name("bakehouse").with_telemetry(false).build().map_err(|e| e.to_string())?;
        environment.set_log_level(::ort::logging::LogLevel::Fatal);
        Ok(environment)
    });
    let environment = loading.unwrap_or_else(|_| Err(format!("{} is not a usable ONNX Runtime", path.display())))?;
    let version = version_inside(path).or_else(|| version_in_name(path)).unwrap_or_else(|| "unknown".to_owned());
    Ok(Library { environment, path: path.to_owned(), version })
}

/// The version that the library's exported symbols carry (`VERS_1.32.0`). The binding does not hand out `GetVersionString`, and calling it here would be unsafe.
fn version_inside(path: &Path) -> Option<String> {
    const MARK: &[u8] = b"VERS_";
    const CHUNK: usize = 1 << 20;
    const TAIL: usize = 32;
    let mut file = std::fs::File::open(path).ok()?;
    let mut window: Vec<u8> = Vec::new();
    loop {
        if file.by_ref().take(CHUNK as u64).read_to_end(&mut window).ok()? == 0 {
            return None;
        }
        for at in window.windows(MARK.len()).enumerate().filter(|(_, w)| *w == MARK).map(|(at, _)| at + MARK.len()) {
            let rest = &window[at..window.len().min(at + TAIL)];
            let text: String = rest.iter().map(|&b| char::from(b)).take_while(|c| c.is_ascii_digit() || *c == '.').collect();
            if text.split('.').filter(|n| !n.is_empty()).count() == 3 {
                return Some(text);
            }
        }
        // The mark may lie across two chunks.
        window.drain(..window.len().saturating_sub(MARK.len() + TAIL));
    }
}

fn version_in_name(path: &Path) -> Option<String> {
    let real = path.canonicalize().ok()?;
    let name = real.file_name()?.to_str()?.strip_prefix(STEM)?;
    let version = name.trim_start_matches("so.").trim_end_matches(".dylib");
    version.starts_with(|c: char| c.is_ascii_digit()).then(|| version.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn touch(path: &Path, text: &[u8]) {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    #[test]
    fn who_names_a_path_decides_and_a_wrong_path_is_the_error() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a/libonnxruntime.so"), dir.path().join("b/libonnxruntime.so.1.30.0"));
        touch(&a, b"");
        touch(&b, b"");
        let both = |name: &str| match name {
            "BAKEHOUSE_ORT_LIB" => Some(b.parent().unwrap().into()),
            "ORT_DYLIB_PATH" => Some("/nowhere".into()),
            _ => None,
        };
        let world = World { variable: &both, executable: None };
        assert_eq!(search(Some(&a), &world).unwrap().found, [a.clone()]);
        assert_eq!(search(None, &world).unwrap().found, [b.clone()]);
        let wrong = |name: &str| (name == "ORT_DYLIB_PATH").then(|| "/nowhere".into());
        let message = search(None, &World { variable: &wrong, executable: None }).unwrap_err();
        assert!(message.contains("ORT_DYLIB_PATH") && message.contains("/nowhere"), "{message}");
        let off = |name: &str| (name == "BAKEHOUSE_ORT_LIB").then(|| "none".into());
        assert!(search(None, &World { variable: &off, executable: None }).unwrap_err().contains("'none'"));
    }

    #[test]
    fn the_usual_places_are_searched_in_order_and_newer_before_older() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        let expected = [
            root.join("cache/bakehouse/ort/1.32.0/libonnxruntime.so"),
            root.join("cache/bakehouse/ort/1.9.0/libonnxruntime.so"),
            root.join("bin/libonnxruntime.so.1.31.0"),
            root.join("venv/lib/python3.11/site-packages/onnxruntime/capi/libonnxruntime.so.1.32.0"),
        ];
        expected.iter().for_each(|f| touch(f, b""));
        touch(&root.join("bin/libonnxruntime_providers_shared.so"), b"");
        touch(&root.join("bin/libonnxruntime.so.1.9.2"), b"");
        let variable = |name: &str| match name {
            "XDG_CACHE_HOME" => Some(root.join("cache").into_os_string()),
            "VIRTUAL_ENV" => Some(root.join("venv").into_os_string()),
            _ => None,
        };
        let search = search(None, &World { variable: &variable, executable: Some(root.join("bin/bakehouse")) }).unwrap();
        assert_eq!(search.found[..4], expected);
        assert!(search.looked_at.iter().any(|p| p == "/usr/lib"));
    }

    #[test]
    fn the_version_is_read_from_the_symbols_or_the_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("libonnxruntime.so.1.30.0");
        let mut bytes = vec![0_u8; (1 << 20) - 7];
        bytes.extend(b"VERS_x\0VERS_1.32.0\0");
        touch(&path, &bytes);
        assert_eq!((version_inside(&path), version_in_name(&path)), (Some("1.32.0".to_owned()), Some("1.30.0".to_owned())));
        touch(&path, b"no symbols");
        assert_eq!(version_inside(&path), None);
    }

    #[test]
    fn a_file_that_is_no_library_is_unavailable_not_a_panic() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("libonnxruntime.so");
        touch(&path, b"not a library");
        assert!(load(&path).err().unwrap().contains("libonnxruntime.so"));
    }
}
