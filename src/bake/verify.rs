//! A finished bake, checked again: its files by digest, its recipe by replay, its figures by measuring once more, its verdict by the same gates.
//!
//! What the report claims is held against what is found here. A claim that cannot be checked (the input model went away, another engine) is listed as such: it is
//! neither confirmed nor refuted.

mod again;
mod claims;
mod files;
mod package;
mod timed;
mod training;

use std::path::Path;

use serde::{Deserialize, Serialize};

pub use package::verify_package;

use super::report::{REPORT_VERSION, Report};
use super::{BakeError, Options, REPORT};
use crate::api::Reason;
use crate::bake::handoff::MANIFEST_FORMAT;
use crate::package::phase7;
use crate::quality::cheat::Finding;

/// Whether a claim holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", content = "why")]
pub enum Holds {
    /// It was checked and holds.
    Yes,
    /// It does not: why.
    No(String),
    /// It could not be checked: why.
    Unchecked(String),
}

/// One claim and what became of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// What is claimed, e.g. `OutputConsistency` or `model.onnx`.
    pub claim: String,
    /// The value in the report.
    pub claimed: String,
    /// The value found.
    pub measured: String,
    /// Whether it holds.
    pub holds: Holds,
}

/// Everything that was checked.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Verification {
    /// The job whose result it is.
    pub job: String,
    /// Claims, in the order they were checked.
    pub checks: Vec<Check>,
    /// Known ways to cheat that were found, by name.
    pub findings: Vec<Finding>,
    /// Remarks, e.g. another version of the engine.
    pub remarks: Vec<String>,
}

impl Verification {
    /// The reason whose exit code the command ends with: 0 when every claim holds, 3 when one does not, 4 when one could not be checked.
    pub fn reason(&self) -> Reason {
        if !self.findings.is_empty() || self.checks.iter().any(|c| matches!(c.holds, Holds::No(_))) {
            Reason::GateFailed
        } else if self.checks.iter().any(|c| matches!(c.holds, Holds::Unchecked(_))) {
            Reason::GateInconclusive
        } else {
            Reason::Baked
        }
    }

    fn add(&mut self, claim: impl Into<String>, claimed: impl Into<String>, measured: impl Into<String>, holds: Holds) {
        self.checks.push(Check { claim: claim.into(), claimed: claimed.into(), measured: measured.into(), holds });
    }

    fn unchecked(&mut self, claim: impl Into<String>, claimed: impl Into<String>, why: impl Into<String>) {
        self.add(claim, claimed, "-", Holds::Unchecked(why.into()));
    }

    /// A claim that must be found as it stands.
    fn equal(&mut self, claim: &str, claimed: &str, measured: &str, otherwise: &str) {
        let holds = if claimed == measured { Holds::Yes } else { Holds::No(otherwise.to_owned()) };
        self.add(claim, claimed, measured, holds);
    }
}

/// Checks the bake whose results lie in `folder`.
///
/// # Errors
/// A folder without a readable report of this version, or a fault while measuring. A claim that does not hold is no error.
pub fn verify(folder: &Path, options: &Options) -> Result<Verification, BakeError> {
    let report = read(folder)?;
    let mut found = Verification { job: report.job.name.clone(), ..Verification::default() };
    let artifact = files::artifacts(folder, &report, &mut found);
    claims::follow(&report, &mut found);
    let sources = files::Sources::find(&report, &mut found);
    files::recipe(folder, &report, &sources, artifact.as_deref(), &mut found);
    again::measure(folder, &report, &sources, artifact.as_deref(), options, &mut found)?;
    if report.artifacts.iter().any(|a| a.format == MANIFEST_FORMAT) {
        training::agrees(folder, &report, &mut found);
        let package = folder.join(phase7::FOLDER);
        found.remarks.push(format!("The package is checked by itself: bakehouse verify {}", package.display()));
    }
    Ok(found)
}

fn read(folder: &Path) -> Result<Report, BakeError> {
    let path = folder.join(REPORT);
    let wrong = |detail: String| BakeError::Job { field: path.display().to_string(), detail };
    let text =
        std::fs::read(&path).map_err(|e| wrong(format!("cannot be read: {e}. Give a folder that a bake wrote.")))?;
    let value: serde_json::Value = serde_json::from_slice(&text)
        .map_err(|e| wrong(format!("is no JSON ({e}). Give a folder that a bake wrote.")))?;
    match value["apiVersion"].as_str() {
        Some(REPORT_VERSION) => {}
        other => {
            let version = other.unwrap_or("none");
            return Err(wrong(format!(
                "is of version '{version}', this build reads '{REPORT_VERSION}'. Use the Bakehouse that wrote it."
            )));
        }
    }
    serde_json::from_value(value)
        .map_err(|e| wrong(format!("does not keep its own schema ({e}). It was changed, or written by another build.")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refuted_claim_outweighs_one_that_is_unchecked() {
        let mut found = Verification::default();
        assert_eq!(found.reason().exit_code(), 0);
        found.unchecked("Speedup", "2x", "another machine");
        assert_eq!(found.reason().exit_code(), 4);
        found.equal("bytes", "1", "1", "");
        assert_eq!(found.reason().exit_code(), 4);
        found.equal("bytes", "1", "2", "they differ");
        assert_eq!(found.reason().exit_code(), 3);
    }

    #[test]
    fn a_report_of_another_version_or_none_is_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let said = |text: &str| {
            std::fs::write(folder.path().join(REPORT), text).unwrap();
            let error = read(folder.path()).unwrap_err();
            assert_eq!(error.reason(), Reason::InvalidJob);
            error.to_string()
        };
        assert!(said("{}").contains("version 'none'"));
        assert!(said("{\"apiVersion\": \"bakehouse.dev/report/v9\"}").contains("report/v9"));
        assert!(said("not json").contains("is no JSON"));
        assert!(said(&format!("{{\"apiVersion\": \"{REPORT_VERSION}\"}}")).contains("its own schema"));
        assert!(read(&folder.path().join("gone")).unwrap_err().to_string().contains("cannot be read"));
    }
}
