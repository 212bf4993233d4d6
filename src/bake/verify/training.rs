//! What the package for deployment says of the training must be what the report holds of the package of phase 5.

use std::path::Path;

use serde_json::Value;

use super::{Holds, Verification};
use crate::bake::handoff::source_claims;
use crate::bake::report::Report;
use crate::package::phase7::{Defect, FOLDER, FigureClaim, MANIFEST_FILE, Manifest, Phase5Claim};

/// Compares the two.
pub(super) fn agrees(folder: &Path, report: &Report, found: &mut Verification) {
    const CLAIM: &str = "training in the package";
    const CLAIMED: &str = "as the report has it";
    let path = folder.join(FOLDER).join(MANIFEST_FILE);
    let read = std::fs::read(&path).map_err(|e| e.to_string());
    let stated = match read.and_then(|text| serde_json::from_slice::<Manifest>(&text).map_err(|e| e.to_string())) {
        Ok(manifest) => manifest.traceability.phase5,
        Err(why) => {
            return found.add(CLAIM, CLAIMED, "-", Holds::No(format!("{} cannot be read: {why}", path.display())));
        }
    };
    let expected = report.package.as_ref().map(|package| {
        let baseline = package.baseline.iter().map(FigureClaim::from).collect();
        let sources = source_claims(&report.data.files);
        Phase5Claim::of(package.layout, package.manifest_sha256.as_deref(), &package.manifest, &sources, baseline)
    });
    let different = different(stated.as_ref(), expected.as_ref());
    if different.is_empty() {
        return found.add(CLAIM, CLAIMED, "it is", Holds::Yes);
    }
    let fields = different.join(", ");
    let why = format!("{}: {MANIFEST_FILE}: traceability.phase5: {fields}", Defect::TrainingMisstated);
    found.add(CLAIM, CLAIMED, "it is not", Holds::No(why));
}

/// The fields in which two claims differ.
fn different(a: Option<&Phase5Claim>, b: Option<&Phase5Claim>) -> Vec<String> {
    let (Some(a), Some(b)) = (a, b) else {
        return if a == b { Vec::new() } else { vec!["only one of the two is of a package".to_owned()] };
    };
    if a == b {
        return Vec::new();
    }
    let [a, b] = [a, b].map(|claim| serde_json::to_value(claim).unwrap_or_default());
    let fields = |value: &Value| value.as_object().map(|o| o.keys().cloned().collect::<Vec<_>>()).unwrap_or_default();
    let mut all = fields(&a);
    all.extend(fields(&b));
    all.sort();
    all.dedup();
    all.retain(|field| a[field.as_str()] != b[field.as_str()]);
    all
}
