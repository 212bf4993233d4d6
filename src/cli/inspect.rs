//! `bakehouse inspect`: what a model holds.

use std::collections::BTreeMap;

use super::args::InspectArgs;
use super::bake::memory_text;
use super::{Failure, json, print};
use crate::api::bakejob::Runtime;
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
        let bake_memory = BakeMemory { onnxruntime: need.on(Runtime::OnnxRuntime), tract: need.on(Runtime::Bakehouse) };
        json(&Inspected { inspection, bake_memory })?
    } else {
        format!("{}\nMemory of a bake: {}, and the data on top.\n", inspection.to_text(), memory_text(need))
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

/// Bytes that a bake takes on each engine, beside its data.
#[derive(serde::Serialize)]
struct BakeMemory {
    onnxruntime: u64,
    tract: u64,
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
