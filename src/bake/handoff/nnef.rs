//! NNEF, tract's own exchange format. Not every operator has a form in it, so several ways of writing the graph are tried, and the first is taken that a
//! fresh process loads and finds to compute what the model does.

use std::fs::File;
use std::io::{self, BufWriter};
use std::path::Path;

use super::{Artifact, Handoff, artifact};
use crate::bake::intake::Loaded;
use crate::bake::measure::PROBE_SAMPLES;
use crate::bake::probe::{self, NnefRequest};
use crate::bake::publish::Staging;
use crate::bake::{BakeError, MODEL_FILE};
use crate::engine::tract::{NnefForm, TractEngine};
use crate::model::edit::is_op;
use crate::model::{IntakeOptions, Model};
use crate::optimizer::driver::LOSSLESS_TOLERANCE;

/// Name of the archive.
const NNEF_FILE: &str = "model.nnef.tar";

/// How far outputs may be apart, relative to the largest of max(1, |output|), where activations are rounded to 8 bits: a difference in the last digit of a
/// float may flip one of them to the next step.
const STEP_TOLERANCE: f64 = 2e-2;

/// Whether the input has a form in NNEF; an error says why not.
pub(super) fn check(loaded: &Loaded) -> Result<(), String> {
    let (engine, sample) = (TractEngine::new(), &loaded.validation.feeds[0]);
    let mut refused = None;
    for form in NnefForm::ALL {
        match engine.write_nnef(&loaded.model, sample, form, io::sink()) {
            Ok(()) => return Ok(()),
            Err(why) => refused = refused.or(Some(why)),
        }
    }
    Err(refused.unwrap_or_default())
}

impl Handoff<'_> {
    /// The artifact as an archive of NNEF; an inner error is half a sentence on why there is none: passes may bring in what has no form there.
    pub(super) fn nnef(&self, staging: &mut Staging) -> Result<Result<Artifact, String>, BakeError> {
        let staged = staging.path(MODEL_FILE);
        let model = Model::load(&staged)?.prepare(&IntakeOptions::default())?.0;
        let path = staging.path(NNEF_FILE);
        let failed = |source| BakeError::Output { path: path.clone(), source };
        let quantising = ["QuantizeLinear", "DynamicQuantizeLinear"];
        let rounds = model.graph().node.iter().any(|node| quantising.iter().any(|op| is_op(node, op)));
        let tolerance = if rounds { STEP_TOLERANCE } else { LOSSLESS_TOLERANCE };
        let mut refused = None;
        for form in NnefForm::ALL {
            let file = BufWriter::new(File::create(&path).map_err(failed)?);
            let sample = &self.loaded.validation.feeds[0];
            let written = TractEngine::new().write_nnef(&model, sample, form, file);
            let tried = match written {
                Ok(()) => self.compare(&staged, &path, tolerance)?,
                Err(why) => Err(why),
            };
            match tried {
                Ok(()) => {
                    File::open(&path).and_then(|file| file.sync_all()).map_err(failed)?;
                    staging.adopt(NNEF_FILE);
                    return Ok(Ok(artifact("NNEF", NNEF_FILE, &path)?));
                }
                Err(why) => {
                    tracing::debug!(?form, why, "no NNEF in this form");
                    refused = refused.or(Some(why));
                }
            }
        }
        std::fs::remove_file(&path).map_err(failed)?;
        Ok(Err(refused.unwrap_or_default().trim_end_matches('.').to_owned()))
    }

    /// Runs model and archive in a fresh process; an inner error says how they differ.
    fn compare(&self, model: &Path, archive: &Path, tolerance: f64) -> Result<Result<(), String>, BakeError> {
        let request = NnefRequest {
            model: model.to_owned(),
            nnef: archive.to_owned(),
            data: self.job.validation.path.clone(),
            samples: PROBE_SAMPLES,
        };
        let seen = match probe::spawn_nnef(&self.options.program, &request) {
            Err(BakeError::Reload(said)) => return Ok(Err(format!("it cannot be loaded again: {said}"))),
            seen => seen?,
        };
        Ok(match seen.max_difference {
            Some(difference) if difference <= tolerance => Ok(()),
            Some(d) => Err(format!("what it computes differs by {d:.1e}, more than {tolerance:.0e}")),
            None => Err("its outputs are of other shapes or types".to_owned()),
        })
    }
}
