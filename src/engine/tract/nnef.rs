//! NNEF: the Khronos exchange format in tract's dialect, as a tar archive that tract loads without an ONNX reader. What stands in it are tract's own
//! operators, so a graph is written before the engine has chosen kernels; not every operator has a form there. Weights of a few bits are written as the
//! floats that they stand for.

use std::collections::HashSet;
use std::io::{Read, Write};
use std::path::Path;
use std::sync::Arc;

use tract_nnef::framework::Nnef;
use tract_onnx::WithOnnx;
use tract_onnx::prelude::{Framework, TVec, TractResult, TypedModel, TypedSimplePlan};
use tract_onnx::tract_core::runtime::RunOptions;

use super::plan::{Shapes, one_line, typed};
use super::session::{run_plan, tensors};
use super::{TractEngine, arithmetic, caught, values};
use crate::engine::{EngineError, Feed, Session};
use crate::model::{Model, Tensor};

/// How a graph is written. What the one has no form for, another may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Form {
    /// The shapes that the model declares, symbols kept; otherwise those of a sample.
    pub declared: bool,
    /// Simplified as far as it goes without an engine in mind.
    pub simplified: bool,
}

impl Form {
    /// All of them, the best first.
    pub const ALL: [Self; 4] = [
        Self { declared: true, simplified: true },
        Self { declared: true, simplified: false },
        Self { declared: false, simplified: true },
        Self { declared: false, simplified: false },
    ];
}

impl TractEngine {
    /// Writes a model as an archive of NNEF. The same model gives the same bytes. `sample` lends its shapes to a form that takes them.
    ///
    /// # Errors
    /// A sentence that names the node, when tract has no form for it.
    pub fn write_nnef(&self, model: &Model, sample: &Feed, form: Form, to: impl Write) -> Result<(), String> {
        self.check_operators(model).map_err(|error| one_line(&error.to_string()))?;
        let shapes = if form.declared { Shapes::Declared } else { fed(model, sample)? };
        let written = caught(move || -> TractResult<()> {
            let mut typed = typed(model, &shapes, &mut false)?;
            arithmetic::write_out(&mut typed)?;
            let mut typed = if form.simplified { typed.into_decluttered()? } else { typed };
            name_plainly(&mut typed)?;
            // Fixed times of the archive's files, and no compression: weights are not made smaller by it.
            framework().write_to_tar_with_config(&typed, to, false, true)?.flush()?;
            Ok(())
        });
        written.and_then(|written| written.map_err(|error| format!("{error:#}"))).map_err(|said| {
            match said.rsplit_once("No serializer found for node ") {
                Some((_, node)) => format!("tract has no form for node {}", one_line(node)),
                None => one_line(&said),
            }
        })
    }

    /// Loads an archive and optimises it, as its consumers do. `inputs` are the names of its inputs in a feed, in their order.
    ///
    /// # Errors
    /// What tract says of the archive.
    pub fn load_nnef(&self, path: &Path, inputs: Vec<String>) -> Result<Box<dyn Session>, EngineError> {
        let failed = |detail: &str| EngineError::Run { engine: self.id.to_string(), detail: one_line(detail) };
        let made = caught(|| -> TractResult<Arc<TypedSimplePlan>> {
            let mut file: Box<dyn Read> = Box::new(std::io::BufReader::new(std::fs::File::open(path)?));
            let model = framework().model_for_read(&mut file)?.into_optimized()?;
            TypedSimplePlan::new_with_options(model, &RunOptions::default())
        });
        match made {
            Ok(Ok(plan)) => Ok(Box::new(Loaded { engine: self.id.to_string(), plan, inputs })),
            Ok(Err(error)) => Err(failed(&format!("{error:#}"))),
            Err(panic) => Err(failed(&panic)),
        }
    }
}

/// tract's dialect, with its own operators and those that only ONNX has.
fn framework() -> Nnef {
    tract_nnef::nnef().with_onnx()
}

fn fed(model: &Model, sample: &Feed) -> Result<Shapes, String> {
    let shape = |name: &str| {
        let tensor = sample.get(name).ok_or_else(|| format!("the sample has no input '{name}'"))?;
        Ok((tensor.dtype(), tensor.shape().to_vec()))
    };
    model.input_names().into_iter().map(shape).collect::<Result<_, String>>().map(Shapes::Fed)
}

/// Gives every node and output a name that NNEF can spell, and no two the same one: the writer would replace the other characters without looking.
fn name_plainly(model: &mut TypedModel) -> TractResult<()> {
    let mut taken = HashSet::new();
    let mut plain = |name: &str| {
        let mut text: String = name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
        if !text.starts_with(|c: char| c.is_ascii_alphabetic()) {
            text.insert(0, '_');
        }
        while !taken.insert(text.clone()) {
            text.push('_');
        }
        text
    };
    // Inputs and outputs first: those names are looked for. A node is called as its first output.
    let mut done: HashSet<usize> = HashSet::new();
    for outlet in model.input_outlets()?.to_vec() {
        let name = plain(&model.node(outlet.node).name);
        model.rename_node(outlet.node, &name)?;
        done.insert(outlet.node);
    }
    let mut labelled = HashSet::new();
    for (place, outlet) in model.output_outlets()?.to_vec().into_iter().enumerate() {
        if !labelled.insert(outlet) {
            continue;
        }
        let label = model.outlet_label(outlet).map_or_else(|| format!("output_{place}"), str::to_owned);
        let label = plain(&label);
        if outlet.slot == 0 && done.insert(outlet.node) {
            model.rename_node(outlet.node, &label)?;
        }
        model.set_outlet_label(outlet, label)?;
    }
    for id in (0..model.nodes().len()).filter(|id| !done.contains(id)) {
        let name = plain(&model.node(id).name);
        model.rename_node(id, &name)?;
    }
    Ok(())
}

/// A loaded archive.
struct Loaded {
    engine: String,
    plan: Arc<TypedSimplePlan>,
    inputs: Vec<String>,
}

impl Session for Loaded {
    fn run(&mut self, feed: &Feed) -> Result<Vec<Tensor>, EngineError> {
        let failed = |detail: String| EngineError::Run { engine: self.engine.clone(), detail: one_line(&detail) };
        let mut inputs = TVec::new();
        for name in &self.inputs {
            let tensor = feed.get(name).ok_or_else(|| failed(format!("input '{name}' has no value")))?;
            inputs.push(values::to_tract(tensor).map_err(|e| failed(format!("input '{name}' {e}")))?);
        }
        run_plan(&self.plan, inputs).and_then(|outputs| tensors(&outputs)).map_err(failed)
    }
}
