//! Trained weights onto a graph: each tensor goes to the initializer of its name, or to the one that the manifest names for it. What does not fit exactly is
//! refused; nothing is converted, transposed or left out without having been told.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;

use super::manifest::{WeightTarget, Weights};
use super::torch::Checkpoint;
use crate::model::{DType, Model, Tensor, safetensors};

/// Names that a message lists.
const MOST_NAMED: usize = 3;

/// A counter of training steps that batch normalisation keeps and inference never reads; exporters leave it out of the graph.
const STEP_COUNTER: &str = ".num_batches_tracked";

/// Reads weights by the extension of their file: `.safetensors`, `.pt` or `.pth`.
///
/// # Errors
/// A sentence to be put behind the file's name.
pub(super) fn read(path: &Path) -> Result<BTreeMap<String, Tensor>, String> {
    match path.extension().and_then(|e| e.to_str()).unwrap_or("").to_ascii_lowercase().as_str() {
        "safetensors" => safetensors::load(path),
        "pt" | "pth" => Checkpoint::open(path)?.tensors(),
        _ => Err("is neither .safetensors nor .pt. Save the weights with safetensors, or with torch.save.".to_owned()),
    }
}

/// Puts `tensors` into the graph, by the rules of the manifest. Remarks tell what was left out.
///
/// # Errors
/// A sentence that names the tensors which are missing, left over, or of another shape or type.
pub(super) fn apply(
    model: &mut Model,
    tensors: &BTreeMap<String, Tensor>,
    rules: &Weights,
) -> Result<Vec<String>, String> {
    let graph = model.graph();
    let places: HashMap<&str, usize> = graph.initializer.iter().enumerate().map(|(i, t)| (t.name(), i)).collect();
    if let Some(name) = rules.tensors.keys().find(|name| !tensors.contains_key(*name)) {
        return Err(format!(
            "has no tensor '{name}', for which model.weights.tensors names an initializer. {}",
            listed("It has", tensors.keys())
        ));
    }
    if let Some(name) = rules.keep.iter().find(|name| !places.contains_key(name.as_str())) {
        return Err(format!("model.weights.keep names '{name}', which is no initializer of the graph."));
    }
    let mut given: BTreeMap<usize, (&String, Tensor)> = BTreeMap::new();
    let mut left_over = Vec::new();
    for (name, tensor) in tensors {
        let target = rules.tensors.get(name);
        let initializer = target.map_or(name, |t| &t.initializer);
        match places.get(initializer.as_str()) {
            None if target.is_some() => {
                return Err(format!(
                    "tensor '{name}' is to go to '{initializer}', which is no initializer of the graph. Correct model.weights.tensors."
                ));
            }
            None => left_over.push((name, tensor)),
            Some(&at) => {
                let fitted = fitted(name, tensor, target, &graph.initializer[at])?;
                if let Some((other, _)) = given.insert(at, (name, fitted)) {
                    return Err(format!(
                        "tensors '{other}' and '{name}' both go to the initializer '{initializer}'. Correct model.weights.tensors."
                    ));
                }
            }
        }
    }
    let lacking: BTreeSet<&str> = graph
        .initializer
        .iter()
        .enumerate()
        .filter(|(at, t)| {
            !given.contains_key(at) && is_weight(t.data_type(), &t.dims) && !rules.keep.contains(t.name())
        })
        .map(|(_, t)| t.name())
        .collect();
    let mut remarks = Vec::new();
    left_over.retain(|(name, tensor)| {
        let tied = given.values().find(|(_, other)| other == *tensor).map(|(other, _)| *other);
        if name.ends_with(STEP_COUNTER) {
            remarks.push(format!("'{name}' counts training steps and is left out."));
        } else if let Some(other) = tied.filter(|_| lacking.is_empty()) {
            // Tied weights stand in a state_dict once for each of their names, and in a graph once.
            remarks.push(format!("'{name}' holds the same values as '{other}' and is left out."));
        } else {
            return true;
        }
        false
    });
    if !left_over.is_empty() || !lacking.is_empty() {
        return Err(unmatched(&left_over, &lacking));
    }
    let given: Vec<(usize, Tensor)> = given.into_iter().map(|(at, (_, tensor))| (at, tensor)).collect();
    let graph = model.graph_mut();
    for (at, tensor) in given {
        let name = graph.initializer[at].name().to_owned();
        graph.initializer[at] = tensor.to_proto(&name);
    }
    Ok(remarks)
}

/// Whether an initializer is something that is trained: floating point, and more than a lone number, which exporters make of constants in code.
fn is_weight(data_type: i32, dims: &[i64]) -> bool {
    DType::from_onnx(data_type).is_some_and(DType::is_float) && !dims.is_empty()
}

/// A tensor as the initializer holds it.
fn fitted(
    name: &str,
    tensor: &Tensor,
    target: Option<&WeightTarget>,
    place: &crate::model::onnx::TensorProto,
) -> Result<Tensor, String> {
    let to = place.name();
    let tensor = if target.is_some_and(|t| t.transpose) {
        transposed(tensor).ok_or_else(|| {
            format!(
                "tensor '{name}' has the shape {:?}; only a matrix can be transposed. Correct model.weights.tensors.",
                tensor.shape()
            )
        })?
    } else {
        tensor.clone()
    };
    let shape: Vec<i64> = tensor.shape().iter().map(|&d| d as i64).collect();
    if shape != place.dims {
        let turned = shape.iter().rev().eq(&place.dims);
        let hint = if turned && target.is_none() {
            format!(
                " It looks transposed, as exporters leave Linear layers when they fold constants; nothing is guessed. Export the graph without folding, or say so \
                 in the manifest: \"model\": {{\"weights\": {{\"tensors\": {{\"{name}\": {{\"initializer\": \"{to}\", \"transpose\": true}}}}}}}}."
            )
        } else {
            " The graph is of another architecture; export it from the model that was trained.".to_owned()
        };
        return Err(format!(
            "tensor '{name}' has the shape {shape:?}, but the initializer '{to}' of the graph has {:?}.{hint}",
            place.dims
        ));
    }
    if DType::from_onnx(place.data_type()) != Some(tensor.dtype()) {
        let expected = DType::from_onnx(place.data_type())
            .map_or_else(|| format!("type {}", place.data_type()), |d| d.to_string());
        return Err(format!(
            "tensor '{name}' is {}, but the initializer '{to}' of the graph is {expected}. Save the weights as {expected}, or export the graph in {}.",
            tensor.dtype(),
            tensor.dtype()
        ));
    }
    Ok(tensor)
}

/// The transpose of a matrix.
fn transposed(tensor: &Tensor) -> Option<Tensor> {
    let &[rows, columns] = tensor.shape() else { return None };
    let size = tensor.dtype().size();
    let mut out = Vec::with_capacity(tensor.bytes().len());
    for column in 0..columns {
        for row in 0..rows {
            let at = (row * columns + column) * size;
            out.extend_from_slice(&tensor.bytes()[at..at + size]);
        }
    }
    Tensor::from_bytes(tensor.dtype(), vec![columns, rows], out.into()).ok()
}

/// What has no place, and what got nothing.
fn unmatched(left_over: &[(&String, &Tensor)], lacking: &BTreeSet<&str>) -> String {
    let mut said = Vec::new();
    if !left_over.is_empty() {
        said.push(listed("no initializer of the graph has the name of", left_over.iter().map(|(name, _)| name)));
    }
    if !lacking.is_empty() {
        said.push(listed("no tensor has the name of the graph's", lacking));
    }
    let said = said.join(" ").replace(". no tensor", ", and no tensor");
    format!(
        "does not fit the graph: {said} Export the graph so that its initializers keep the names of the state_dict (torch.onnx.export with do_constant_folding=False), or name \
         each pair in model.weights.tensors and what stays as it is in model.weights.keep."
    )
}

/// A few names behind some words.
fn listed<N: AsRef<str>>(words: &str, names: impl IntoIterator<Item = N>) -> String {
    let names: Vec<String> = names.into_iter().map(|name| format!("'{}'", name.as_ref())).collect();
    let more = names.len().saturating_sub(MOST_NAMED);
    let shown = names.into_iter().take(MOST_NAMED).collect::<Vec<_>>().join(", ");
    if more == 0 { format!("{words} {shown}.") } else { format!("{words} {shown} and {more} more.") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::build::Builder;

    /// Two layers as exporters leave them: `y = relu(x fc1ᵀ + b) fc2`, with a scalar and a shape that are not trained.
    fn graph() -> Model {
        Builder::new(17)
            .input("x", DType::F32, &["N", "3"])
            .initializer("fc1.weight", Tensor::new(&[2, 3], &[0.0_f32; 6]))
            .initializer("fc1.bias", Tensor::new(&[2], &[0.0_f32; 2]))
            .initializer("onnx::MatMul_7", Tensor::new(&[2, 4], &[0.0_f32; 8]))
            .initializer("eps", Tensor::scalar(1e-5_f32))
            .initializer("shape", Tensor::new(&[2], &[-1_i64, 4]))
            .node("Gemm", &["x", "fc1.weight", "fc1.bias"], "h", vec![crate::model::edit::int("transB", 1)])
            .node("MatMul", &["h", "onnx::MatMul_7"], "y", vec![])
            .output("y", DType::F32, &["N", "4"])
            .build()
    }

    fn trained() -> BTreeMap<String, Tensor> {
        let count = |n: usize| (0..n).map(|i| i as f32).collect::<Vec<_>>();
        BTreeMap::from([
            ("fc1.weight".to_owned(), Tensor::new(&[2, 3], &count(6))),
            ("fc1.bias".to_owned(), Tensor::new(&[2], &[7.0_f32, 8.0])),
            ("fc2.weight".to_owned(), Tensor::new(&[4, 2], &count(8))),
        ])
    }

    fn rules() -> Weights {
        let target = WeightTarget { initializer: "onnx::MatMul_7".to_owned(), transpose: true };
        Weights { tensors: BTreeMap::from([("fc2.weight".to_owned(), target)]), ..Weights::default() }
    }

    fn said(edit: impl FnOnce(&mut BTreeMap<String, Tensor>, &mut Weights)) -> String {
        let (mut tensors, mut rules) = (trained(), rules());
        edit(&mut tensors, &mut rules);
        let (mut model, before) = (graph(), graph());
        let said = apply(&mut model, &tensors, &rules).unwrap_err();
        assert_eq!(model, before, "a refusal changes nothing");
        said
    }

    #[test]
    fn each_tensor_goes_to_its_initializer_and_constants_stay() {
        let mut model = graph();
        assert!(apply(&mut model, &trained(), &rules()).unwrap().is_empty());
        let value = |name: &str| {
            let initializer = model.graph().initializer.iter().find(|t| t.name() == name).unwrap();
            Tensor::from_proto(initializer).unwrap()
        };
        assert_eq!(value("fc1.bias"), Tensor::new(&[2], &[7.0_f32, 8.0]));
        assert_eq!(value("onnx::MatMul_7"), Tensor::new(&[2, 4], &[0.0_f32, 2.0, 4.0, 6.0, 1.0, 3.0, 5.0, 7.0]));
        assert_eq!(value("eps"), Tensor::scalar(1e-5_f32));
    }

    #[test]
    fn step_counters_and_tied_weights_are_left_out_and_said() {
        let (mut tensors, mut model) = (trained(), graph());
        tensors.insert("bn.num_batches_tracked".to_owned(), Tensor::scalar(9_i64));
        tensors.insert("head.bias".to_owned(), tensors["fc1.bias"].clone());
        let remarks = apply(&mut model, &tensors, &rules()).unwrap();
        assert!(remarks[0].contains("bn.num_batches_tracked") && remarks[1].contains("'fc1.bias'"), "{remarks:?}");
    }

    #[test]
    fn each_misfit_names_its_tensors() {
        let missing = said(|t, _| drop(t.remove("fc1.bias")));
        assert!(missing.contains("no tensor has the name of the graph's 'fc1.bias'."), "{missing}");
        let extra = said(|t, _| drop(t.insert("fc9.weight".to_owned(), Tensor::scalar(1.0_f32))));
        assert!(extra.contains("no initializer of the graph has the name of 'fc9.weight'."), "{extra}");
        let both = said(|_, rules| rules.tensors.clear());
        assert!(both.contains("'fc2.weight', and no tensor has the name of the graph's 'onnx::MatMul_7'."), "{both}");
        let shape = said(|t, _| drop(t.insert("fc1.bias".to_owned(), Tensor::new(&[3], &[0.0_f32; 3]))));
        assert!(shape.contains("tensor 'fc1.bias' has the shape [3], but the initializer 'fc1.bias' of the graph has [2]. The graph is of another"), "{shape}");
        let dtype = said(|t, _| drop(t.insert("fc1.bias".to_owned(), Tensor::new(&[2], &[0.0_f64; 2]))));
        assert!(dtype.contains("is float64, but the initializer 'fc1.bias' of the graph is float32"), "{dtype}");
    }

    #[test]
    fn a_transpose_is_never_guessed() {
        let turned = said(|t, _| drop(t.insert("fc1.weight".to_owned(), Tensor::new(&[3, 2], &[0.0_f32; 6]))));
        assert!(turned.contains("looks transposed") && turned.contains("\"transpose\": true"), "{turned}");
        let named = said(|_, rules| rules.tensors.get_mut("fc2.weight").unwrap().transpose = false);
        assert!(named.contains("[4, 2]") && named.contains("[2, 4]"), "{named}");
        let vector = said(|_, rules| {
            let target = WeightTarget { initializer: "fc1.bias".to_owned(), transpose: true };
            rules.tensors.insert("fc1.bias".to_owned(), target);
        });
        assert!(vector.contains("only a matrix"), "{vector}");
    }

    #[test]
    fn rules_that_name_nothing_are_refused() {
        let target = |to: &str| WeightTarget { initializer: to.to_owned(), transpose: false };
        let ghost = said(|_, rules| drop(rules.tensors.insert("ghost".to_owned(), target("fc1.bias"))));
        assert!(ghost.contains("has no tensor 'ghost'") && ghost.contains("It has 'fc1.bias'"), "{ghost}");
        let nowhere = said(|_, rules| drop(rules.tensors.insert("fc1.bias".to_owned(), target("nowhere"))));
        assert!(nowhere.contains("'nowhere', which is no initializer"), "{nowhere}");
        let twice = said(|_, rules| drop(rules.tensors.insert("fc1.bias".to_owned(), target("fc1.weight"))));
        assert!(twice.contains("fc1.bias"), "{twice}");
        let kept = said(|_, rules| rules.keep = BTreeSet::from(["ghost".to_owned()]));
        assert!(kept.contains("model.weights.keep names 'ghost'"), "{kept}");
    }

    #[test]
    fn an_initializer_may_keep_what_it_holds_when_the_manifest_says_so() {
        let (mut tensors, mut rules, mut model) = (trained(), rules(), graph());
        tensors.remove("fc1.bias");
        rules.keep.insert("fc1.bias".to_owned());
        assert!(apply(&mut model, &tensors, &rules).unwrap().is_empty());
    }
}
