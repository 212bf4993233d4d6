//! That a result was promoted, told beside it: `<output>/earlier/promoted/<digits>.json`, by the first
//! digits of its report's digest, as the names of results have them. It stays known where the place that it was promoted to
//! cannot be reached, or is no longer the one that the job names.

use super::ledger::Entry;
use crate::bake::{EARLIER, Name, digits};
use crate::worker::Failed;
use crate::worker::place::Place;

const MARKS: &str = "promoted";

fn place(output: &Place) -> Place {
    output.join(EARLIER).join(MARKS)
}

fn name(digits: &str) -> String {
    format!("{digits}.json")
}

/// Marks the result whose report has this SHA-256. Who promotes need not be allowed to write there; then the history alone says it.
pub(super) fn set(output: &Place, report: &str, entry: &Entry) {
    let marked = serde_json::to_vec_pretty(entry)
        .map_err(|error| error.to_string())
        .and_then(|text| place(output).replace(&name(digits(report)), &text).map_err(|failed| failed.to_string()));
    if let Err(error) = marked {
        tracing::warn!("that it is promoted is not noted in {output}: {error}");
    }
}

/// Whether a result is marked.
pub(in crate::worker) fn is_set(output: &Place, result: &Name) -> Result<bool, Failed> {
    Ok(place(output).read(&name(&result.digest))?.is_some())
}

/// Takes its mark away.
pub(in crate::worker) fn take(output: &Place, result: &Name) -> Result<(), Failed> {
    place(output).delete(&[name(&result.digest)])
}
