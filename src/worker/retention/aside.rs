//! Before a result is published into a bucket, the one that lies there is copied among the earlier ones.

use crate::bake::report::Artifact;
use crate::bake::{EARLIER, Listing, REPORT, not_kept, not_whole};
use crate::store::{Location, Store, StoreError, Upload};

use super::OUTPUT;

/// Others may publish meanwhile, and so often somebody's result is set aside for one that comes after it.
const ATTEMPTS: usize = 5;

/// Gives the result at the top of a folder its place among the earlier ones. It stays at the top too: publishing takes its report away first. Returns a
/// sentence where there is something that could not be kept.
pub(in crate::worker) fn set_aside(store: &Store, output: &Location) -> Result<Option<String>, StoreError> {
    let (mut last, mut said) = (None, None);
    for _ in 0..ATTEMPTS {
        let text = match store.read(OUTPUT, output, REPORT) {
            Ok(Some(text)) => text,
            Ok(None) => break,
            Err(error) if error.is_denied() => {
                let said = format!("Whether an earlier result lay there is not known, so none was kept: {error}.");
                return Ok(Some(said));
            }
            Err(error) => return Err(error),
        };
        // What was copied is what still lies there.
        if last.as_ref() == Some(&text) {
            break;
        }
        said = keep(store, output, &text)?;
        last = Some(text);
    }
    Ok(said)
}

fn keep(store: &Store, output: &Location, report: &[u8]) -> Result<Option<String>, StoreError> {
    let listing = match Listing::of(report) {
        Ok(listing) => listing,
        Err(why) => return Ok(Some(not_kept(output, &why))),
    };
    let to = output.join(&format!("{EARLIER}/{}", listing.name));
    // Where it cannot be learned, it is done again.
    if store.has(OUTPUT, &to, REPORT).unwrap_or(false) {
        return Ok(None);
    }
    let upload = |file: Artifact| (Upload { name: file.file, sha256: file.sha256, names_others: false }, file.bytes);
    let files: Vec<_> = listing.files.into_iter().map(upload).collect();
    if let Some(file) = store.copy(OUTPUT, output, &to, &files)? {
        return Ok(Some(not_whole(output, &file)));
    }
    store.write(OUTPUT, &to, REPORT, report)?;
    Ok(None)
}
