//! `bakehouse package`: loose files become a package.

use std::fmt::Write as _;
use std::path::PathBuf;

use super::args::PackageArgs;
use super::{Failure, print};
use crate::engine::{Dataset, dataset};
use crate::package::{Draft, Parts};

pub(super) fn run(args: &PackageArgs) -> Result<u8, Failure> {
    let parts = Parts {
        model: args.model.clone(),
        weights: args.weights.clone(),
        validation: args.validation.clone(),
        calibration: args.calibration.clone(),
        training: args.training.clone(),
        metadata: args.metadata.clone(),
        name: args.name.clone(),
        version: args.model_version.clone(),
        metric: args.metric.clone(),
        figures: args.figure.clone(),
    };
    let draft = Draft::new(&parts)?;
    let mut said = String::new();
    for remark in draft.remarks() {
        let _ = writeln!(said, "{remark}");
    }
    // A split that does not fit the model is better found here than by whoever bakes.
    let splits: [(&str, Option<&PathBuf>); 3] = [
        ("validation", Some(&args.validation)),
        ("calibration", args.calibration.as_ref()),
        ("training", args.training.as_ref()),
    ];
    let mut counts = Vec::new();
    for (name, path) in splits {
        let Some(path) = path else { continue };
        let samples = Dataset::load(path, draft.model(), dataset::Limits::default())?.dataset.len();
        counts.push(format!("{samples} {name} samples"));
    }
    let manifest = draft.write(&args.out)?;
    let _ = write!(
        said,
        "Wrote {}: {}, {}. Bake it with: bakehouse bake {0}",
        args.out.display(),
        manifest.identity.name,
        counts.join(", ")
    );
    print(&said)
}
