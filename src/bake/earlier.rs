//! The result that an output held before: whoever publishes over it first gives it a place in `earlier/<name>/`, whole, its report last. In a folder that
//! costs no room (a second name of each file), so at every moment it lies whole at the top or there. Which of them stay is decided elsewhere.

use std::io::{self, ErrorKind};
use std::path::{Component, Path};

use jiff::Timestamp;
use serde::Deserialize;

use super::BakeError;
use super::report::Artifact;
use crate::api::digest::sha256_hex;

/// Name of the folder in the output.
pub(crate) const EARLIER: &str = "earlier";

/// The file that names all others of a result: published last.
pub(crate) const REPORT: &str = "report.json";

/// How schemas of reports begin.
const REPORTS: &str = "bakehouse.dev/report/";

/// How the time stands in a name.
const TIME: &str = "%Y%m%dT%H%M%S%.3fZ";

/// Digits of the report's digest in a name.
const DIGITS: usize = 12;

/// The first digits of a SHA-256 in hexadecimal, as names have them.
pub(crate) fn digits(sha256: &str) -> &str {
    sha256.get(..DIGITS).unwrap_or(sha256)
}

/// What a result is called in [`EARLIER`]: when it was finished, and the beginning of its report's digest. Names in their order are results in theirs.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Name {
    /// When its last stage ended, in whole milliseconds.
    pub(crate) time: Timestamp,
    /// The first digits of its report's SHA-256.
    pub(crate) digest: String,
}

impl Name {
    /// Reads the name of a folder; `None` where it is somebody else's.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (time, digest) = text.split_once('-')?;
        let hexadecimal = |b: u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
        let name = Self { time: time.parse().ok()?, digest: digest.to_owned() };
        (digest.len() == DIGITS && digest.bytes().all(hexadecimal) && name.to_string() == text).then_some(name)
    }

    /// Whether it may be that of the result whose report has this SHA-256.
    pub(crate) fn is_of(&self, sha256: &str) -> bool {
        digits(sha256) == self.digest
    }
}

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}", self.time.strftime(TIME), self.digest)
    }
}

/// A result as its report lists it.
#[derive(Debug, Clone)]
pub(crate) struct Listing {
    /// What it is called once another one takes its place.
    pub(crate) name: Name,
    /// Its files but for the report, each inside of its folder.
    pub(crate) files: Vec<Artifact>,
}

/// As much of a report as this needs; older versions of it have no less.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Text {
    api_version: String,
    stages: Vec<Ended>,
    artifacts: Vec<Artifact>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Ended {
    completion_time: Timestamp,
}

impl Listing {
    /// Reads a report; else why it is none.
    pub(crate) fn of(report: &[u8]) -> Result<Self, String> {
        let text: Text =
            serde_json::from_slice(report).map_err(|error| format!("its {REPORT} is no report ({error})"))?;
        if !text.api_version.starts_with(REPORTS) {
            return Err(format!("its {REPORT} is no report (apiVersion {})", text.api_version));
        }
        let ended = text.stages.last().ok_or_else(|| format!("its {REPORT} names no stage"))?;
        let digest = digits(&sha256_hex(report)).to_owned();
        let inside = |name: &str| {
            !name.is_empty() && Path::new(name).components().all(|part| matches!(part, Component::Normal(_)))
        };
        Ok(Self {
            name: Name { time: whole_milliseconds(ended.completion_time), digest },
            files: text.artifacts.into_iter().filter(|artifact| inside(&artifact.file)).collect(),
        })
    }
}

fn whole_milliseconds(time: Timestamp) -> Timestamp {
    Timestamp::from_millisecond(time.as_millisecond()).unwrap_or(time)
}

/// The sentence on a result that has no place in [`EARLIER`] because of `why`.
pub(crate) fn not_kept(output: &dyn std::fmt::Display, why: &str) -> String {
    format!("What lay in {output} before was replaced and is not kept: {why}.")
}

/// The same when a file that its report lists is missing or another one.
pub(crate) fn not_whole(output: &dyn std::fmt::Display, file: &str) -> String {
    not_kept(output, &format!("its {file} is not what its {REPORT} says"))
}

/// An output whose earlier result would find no place is refused before any work.
pub(super) fn check(target: &Path) -> io::Result<()> {
    let earlier = target.join(EARLIER);
    if target.join(REPORT).exists() && earlier.exists() && !earlier.is_dir() {
        let why = "it is no folder, and the result that lies in the output is to be moved there; move it away";
        return Err(io::Error::new(ErrorKind::NotADirectory, why));
    }
    Ok(())
}

/// Gives the result at the top of `target` its place among the earlier ones, then takes its report away: from here on nothing at the top claims to be
/// a result. `scratch` is a folder of the same file system. Returns a sentence where there was something that could not be kept.
pub(super) fn set_aside(target: &Path, scratch: &Path) -> Result<Option<String>, BakeError> {
    let report = target.join(REPORT);
    let failed = |source| BakeError::Output { path: report.clone(), source };
    let text = match std::fs::read(&report) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        read => read.map_err(failed)?,
    };
    let said = match Listing::of(&text) {
        Ok(listing) => {
            let to = target.join(EARLIER).join(listing.name.to_string());
            let kept = keep(target, &scratch.join("set-aside"), &to, &listing);
            kept.map_err(|source| BakeError::Output { path: to, source })?
        }
        Err(why) => Some(not_kept(&target.display(), &why)),
    };
    std::fs::remove_file(&report).map_err(failed)?;
    Ok(said)
}

fn keep(target: &Path, made: &Path, to: &Path, listing: &Listing) -> io::Result<Option<String>> {
    // A process that was killed came as far as this.
    if to.join(REPORT).exists() {
        return Ok(None);
    }
    for Artifact { file, bytes, .. } in &listing.files {
        let whole = std::fs::metadata(target.join(file)).is_ok_and(|found| found.is_file() && found.len() == *bytes);
        if !whole {
            return Ok(Some(not_whole(&target.display(), file)));
        }
    }
    for file in listing.files.iter().map(|artifact| artifact.file.as_str()).chain([REPORT]) {
        let (from, to) = (target.join(file), made.join(file));
        std::fs::create_dir_all(to.parent().unwrap_or(made))?;
        // Not every file system knows a second name of a file.
        std::fs::hard_link(&from, &to).or_else(|_| std::fs::copy(&from, &to).map(drop))?;
    }
    std::fs::create_dir_all(to.parent().unwrap_or(to))?;
    std::fs::rename(made, to)?;
    Ok(None)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::fs;
    use std::path::PathBuf;

    use serde_json::json;

    use super::*;

    fn report(second: u32, files: &[(&str, &str)]) -> Vec<u8> {
        let artifacts: Vec<_> = files
            .iter()
            .map(|(file, text)| json!({"format": "ONNX", "file": file, "sha256": sha256_hex(text.as_bytes()), "bytes": text.len()}))
            .collect();
        let ended = format!("2026-03-01T10:00:{second:02}.123456789Z");
        json!({"apiVersion": "bakehouse.dev/report/v1", "stages": [{"completionTime": ended}], "artifacts": artifacts})
            .to_string()
            .into_bytes()
    }

    fn lay(target: &Path, second: u32, files: &[(&str, &str)]) {
        for (file, text) in files {
            fs::create_dir_all(target.join(file).parent().unwrap()).unwrap();
            fs::write(target.join(file), text).unwrap();
        }
        fs::write(target.join(REPORT), report(second, files)).unwrap();
    }

    fn below(folder: &Path) -> BTreeMap<String, String> {
        let mut found = BTreeMap::new();
        let mut folders = vec![PathBuf::new()];
        while let Some(at) = folders.pop() {
            for entry in fs::read_dir(folder.join(&at)).unwrap().map(|entry| entry.unwrap()) {
                let name = at.join(entry.file_name());
                if entry.path().is_dir() {
                    folders.push(name);
                } else {
                    found.insert(name.display().to_string(), fs::read_to_string(entry.path()).unwrap());
                }
            }
        }
        found
    }

    #[test]
    fn a_name_says_when_a_result_was_finished_and_which_it_is() {
        let text = report(7, &[]);
        let name = Listing::of(&text).unwrap().name;
        let digest = sha256_hex(&text);
        assert_eq!(name.to_string(), format!("20260301T100007.123Z-{}", &digest[..12]));
        assert_eq!(Name::parse(&name.to_string()), Some(name.clone()));
        assert!(name.is_of(&digest) && !name.is_of(&sha256_hex(b"another")));
        assert!(Listing::of(&report(8, &[])).unwrap().name > name);
        let sharp = "20260301T100007.000Z-0123456789ab";
        assert_eq!(Name::parse(sharp).unwrap().to_string(), sharp);
        for other in [
            "notes",
            "20260301T100007.123Z",
            "20260301T100007.123Z-xyz",
            "20260301T100007Z-0123456789ab",
            "2026-03-01T10:00:07.123Z-0123456789ab",
            "-0123456789ab",
            "",
        ] {
            assert_eq!(Name::parse(other), None, "{other}");
        }
    }

    #[test]
    fn what_is_no_report_says_why_and_a_file_outside_is_none_of_a_result() {
        for (text, why) in [
            ("{}", "is no report"),
            (r#"{"apiVersion":"x/v1","stages":[],"artifacts":[]}"#, "apiVersion x/v1"),
            (r#"{"apiVersion":"bakehouse.dev/report/v1","stages":[],"artifacts":[]}"#, "names no stage"),
        ] {
            let said = Listing::of(text.as_bytes()).unwrap_err();
            assert!(said.contains(why), "{said}");
        }
        let files = Listing::of(&report(1, &[("../a", ""), ("/a", ""), ("", ""), ("b/c", "")])).unwrap().files;
        assert_eq!(files.iter().map(|artifact| artifact.file.as_str()).collect::<Vec<_>>(), ["b/c"]);
    }

    #[test]
    fn a_result_is_set_aside_whole_and_stays_at_the_top_without_its_report() {
        let root = tempfile::tempdir().unwrap();
        let (target, scratch) = (root.path().join("out"), root.path().join("scratch"));
        assert_eq!(set_aside(&target, &scratch).unwrap(), None);
        let files = [("model.onnx", "m"), ("phase7/manifest.json", "p")];
        lay(&target, 1, &files);
        fs::write(target.join("notes.txt"), "somebody's").unwrap();
        let name = Listing::of(&report(1, &files)).unwrap().name;
        assert_eq!(set_aside(&target, &scratch).unwrap(), None);
        let found = below(&target);
        let names: Vec<&str> = found.keys().map(String::as_str).collect();
        let at = |file: &str| format!("earlier/{name}/{file}");
        assert_eq!(
            names,
            [
                &at("model.onnx"),
                &at("phase7/manifest.json"),
                &at(REPORT),
                "model.onnx",
                "notes.txt",
                "phase7/manifest.json"
            ]
        );
        assert!(below(root.path()).keys().all(|name| name.starts_with("out/")));
        // Killed before the report went: the same again changes nothing.
        fs::write(target.join(REPORT), report(1, &files)).unwrap();
        assert_eq!(set_aside(&target, &scratch).unwrap(), None);
        assert_eq!(below(&target), found);
    }

    #[test]
    fn what_is_not_whole_or_no_result_is_not_kept_and_that_is_said() {
        let root = tempfile::tempdir().unwrap();
        let (target, scratch) = (root.path().join("out"), root.path().join("scratch"));
        lay(&target, 1, &[("model.onnx", "m")]);
        fs::write(target.join("model.onnx"), "longer").unwrap();
        let said = set_aside(&target, &scratch).unwrap().unwrap();
        assert!(said.contains("not kept: its model.onnx"), "{said}");
        fs::write(target.join(REPORT), "{}").unwrap();
        let said = set_aside(&target, &scratch).unwrap().unwrap();
        assert!(said.contains("is no report"), "{said}");
        assert!(!target.join(EARLIER).exists() && !target.join(REPORT).exists());
    }

    #[test]
    fn a_file_where_earlier_results_would_go_is_refused_at_once() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join(EARLIER), "somebody's").unwrap();
        assert!(check(root.path()).is_ok(), "nothing is to be moved there");
        lay(root.path(), 1, &[]);
        assert_eq!(check(root.path()).unwrap_err().kind(), ErrorKind::NotADirectory);
    }
}
