//! `bakehouse inspect`: what a model holds.

use std::collections::BTreeMap;

use super::args::InspectArgs;
use super::bake::memory_text;
use super::{Failure, json, print};
use crate::api::bakejob::{Level, Runtime};
use crate::bake::memory::Need;
use crate::model::infer::{InferOptions, infer};
use crate::model::inspect::Inspection;
use crate::model::{IntakeOptions, Model};

/// Prints the model as it stands in the file; one that a bake would refuse is shown too, and the refusal is the error that it ends with.
pub(super) fn run(args: &InspectArgs) -> Result<u8, Failure> {
    let input_shapes = args.shapes.iter().map(|text| shape(text)).collect::<Result<BTreeMap<_, _>, _>>()?;
    let model = Model::load(&args.model)?;
    let inference = infer(&model, &InferOptions { input_shapes, ..InferOptions::default() }).map_err(Failure::usage)?;
    let inspection = Inspection::of(&model, &inference);
    let need = Need::of_model(&args.model)?;
    print(&if args.json {
        json(&Inspected { inspection, bake_memory: BakeMemory::of(need) })?
    } else {
        let levels = LEVELS
            .map(|level| format!("Memory of a bake at {level:?}, beside its data: {}.\n", memory_text(need, level)));
        format!("{}\n{}", inspection.to_text(), levels.concat())
    })?;
    model.prepare(&IntakeOptions::default()).map_err(|e| e.in_file(&args.model))?;
    Ok(0)
}

/// What is printed as JSON.
#[derive(serde::Serialize)]
#[serde(rename_all = "camelCase")]
struct Inspected {
    #[serde(flatten)]
    inspection: Inspection,
    bake_memory: BakeMemory,
}

/// The levels that memory is told of.
const LEVELS: [Level; 2] = [Level::Conservative, Level::Light];

/// Bytes that a bake takes, beside its data: by level, then by engine.
#[derive(serde::Serialize)]
struct BakeMemory(BTreeMap<String, BTreeMap<&'static str, u64>>);

impl BakeMemory {
    fn of(need: Need) -> Self {
        let engines = [("onnxruntime", Runtime::OnnxRuntime), ("tract", Runtime::Bakehouse)];
        let on = |level| engines.iter().map(|(name, runtime)| (*name, need.on(*runtime, level))).collect();
        Self(LEVELS.map(|level| (format!("{level:?}"), on(level))).into())
    }
}

/// `x=1x3x224x224`; `x=` is a scalar.
fn shape(text: &str) -> Result<(String, Vec<usize>), Failure> {
    let wrong =
        || Failure::usage(format!("--shapes {text}: write INPUT=SHAPE with whole numbers, e.g. x=1x3x224x224."));
    let (name, extents) = text.rsplit_once('=').ok_or_else(wrong)?;
    let extents = extents.split('x').filter(|e| !extents.is_empty() || !e.is_empty());
    Ok((name.to_owned(), extents.map(|e| e.trim().parse().map_err(|_| wrong())).collect::<Result<_, _>>()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shape_is_a_name_and_whole_numbers() {
        assert_eq!(shape("a=b=1x3x224").unwrap(), ("a=b".to_owned(), vec![1, 3, 224]));
        assert_eq!(shape("rate=").unwrap(), ("rate".to_owned(), vec![]));
        for text in ["x", "x=1x", "x=1,2", "x=-1x2", "x=axb"] {
            assert!(shape(text).unwrap_err().message.contains("INPUT=SHAPE"), "{text}");
        }
    }
}
