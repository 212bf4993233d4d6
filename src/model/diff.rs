//! What changed between two models, without running either.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use super::infer::{Inferred, declared};
use super::inspect::{bytes_text, columns, count_text, shape_text};
use super::onnx::{GraphProto, TensorProto, ValueInfoProto};
use super::stats::{Stats, dtype_name};
use super::{Model, Tensor};

/// A figure before and after.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change<T> {
    /// In the first model.
    pub before: T,
    /// In the second model.
    pub after: T,
}

impl<T: PartialEq> Change<T> {
    /// Whether both are equal.
    pub fn is_same(&self) -> bool {
        self.before == self.after
    }
}

/// An initializer of both models whose content differs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ChangedTensor {
    /// Its name.
    pub name: String,
    /// Element types.
    pub dtype: Change<String>,
    /// Extents.
    pub shape: Change<Vec<i64>>,
    /// Largest absolute difference of two elements, when both are floating point and of one shape. Absent when a difference is not a number.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub max_abs_difference: Option<f64>,
}

/// An input or output whose declared signature differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignatureChange {
    /// `input` or `output`.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// Type and extents in each model; `None` where it does not exist.
    pub signature: Change<Option<Inferred>>,
}

/// The structural comparison of two models.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ModelDiff {
    /// Whether both files are byte for byte the same.
    pub identical: bool,
    /// Bytes of the files.
    pub file_bytes: Change<usize>,
    /// Parameters.
    pub parameters: Change<usize>,
    /// Parameters that are not zero.
    pub non_zero_parameters: Change<usize>,
    /// Nodes.
    pub nodes: Change<usize>,
    /// Nodes without `Constant`, `Identity` and `Dropout`.
    pub computing_nodes: Change<usize>,
    /// Nodes by operator, where the numbers differ.
    pub nodes_by_type: BTreeMap<String, Change<usize>>,
    /// Multiply-accumulates, where they are known in full.
    pub macs: Change<Option<u64>>,
    /// Opset versions by domain, where they differ; `None` where it is not imported.
    pub opsets: BTreeMap<String, Change<Option<i64>>>,
    /// Inputs and outputs that differ.
    pub signature: Vec<SignatureChange>,
    /// Initializers of the second model alone.
    pub added: Vec<String>,
    /// Initializers of the first model alone.
    pub removed: Vec<String>,
    /// Initializers of both that differ.
    pub changed: Vec<ChangedTensor>,
    /// Number of initializers that are the same in both.
    pub unchanged: usize,
}

impl ModelDiff {
    /// Compares two models and their statistics.
    pub fn of(before: (&Model, &Stats), after: (&Model, &Stats)) -> Self {
        let ((a, x), (b, y)) = (before, after);
        let (mut added, mut removed, mut changed, mut unchanged) = (Vec::new(), Vec::new(), Vec::new(), 0);
        let (left, right) = (initializers(a.graph()), initializers(b.graph()));
        for (name, tensor) in &left {
            match right.get(name) {
                None => removed.push((*name).to_owned()),
                Some(other) => match compare(name, tensor, other) {
                    None => unchanged += 1,
                    Some(change) => changed.push(change),
                },
            }
        }
        added.extend(right.keys().filter(|n| !left.contains_key(*n)).map(|n| (*n).to_owned()));
        let mut signature = signature("input", &a.graph().input, &b.graph().input);
        signature.extend(self::signature("output", &a.graph().output, &b.graph().output));
        Self {
            identical: a == b,
            file_bytes: Change { before: x.file_bytes, after: y.file_bytes },
            parameters: Change { before: x.parameters.all, after: y.parameters.all },
            non_zero_parameters: Change { before: x.parameters.non_zero, after: y.parameters.non_zero },
            nodes: Change { before: x.nodes.all, after: y.nodes.all },
            computing_nodes: Change { before: x.nodes.computing, after: y.nodes.computing },
            nodes_by_type: by_key(&x.nodes.by_type, &y.nodes.by_type, |v| *v),
            macs: Change { before: x.macs.total(), after: y.macs.total() },
            opsets: by_key(&opsets(a), &opsets(b), |v| Some(*v)),
            signature,
            added,
            removed,
            changed,
            unchanged,
        }
    }

    /// The comparison as a table for a terminal.
    pub fn to_text(&self) -> String {
        if self.identical {
            return "The models are identical.\n".to_owned();
        }
        let mut out = String::new();
        let mut rows = vec![
            [
                "file".to_owned(),
                bytes_text(self.file_bytes.before),
                bytes_text(self.file_bytes.after),
                percent(&self.file_bytes),
            ],
            [
                "parameters".to_owned(),
                count_text(self.parameters.before as u64),
                count_text(self.parameters.after as u64),
                percent(&self.parameters),
            ],
            [
                "  not zero".to_owned(),
                count_text(self.non_zero_parameters.before as u64),
                count_text(self.non_zero_parameters.after as u64),
                percent(&self.non_zero_parameters),
            ],
            ["nodes".to_owned(), self.nodes.before.to_string(), self.nodes.after.to_string(), percent(&self.nodes)],
            [
                "  computing".to_owned(),
                self.computing_nodes.before.to_string(),
                self.computing_nodes.after.to_string(),
                percent(&self.computing_nodes),
            ],
        ];
        let macs = |m: Option<u64>| m.map_or("unknown".to_owned(), count_text);
        rows.push(["multiply-accumulates".to_owned(), macs(self.macs.before), macs(self.macs.after), String::new()]);
        out += &columns(&["", "before", "after", "change"], &rows);
        let difference = |c: &Change<usize>| format!("{:+}", c.after as i64 - c.before as i64);
        let nodes = self
            .nodes_by_type
            .iter()
            .map(|(op, c)| [op.clone(), c.before.to_string(), c.after.to_string(), difference(c)]);
        section(&mut out, "Nodes by operator", &["operator", "before", "after", "change"], &nodes.collect::<Vec<_>>());
        let version = |v: Option<i64>| v.map_or("-".to_owned(), |v| v.to_string());
        let opsets = self
            .opsets
            .iter()
            .map(|(d, c)| [if d.is_empty() { "ai.onnx" } else { d }.to_owned(), version(c.before), version(c.after)]);
        section(&mut out, "Opsets", &["domain", "before", "after"], &opsets.collect::<Vec<_>>());
        let side = |s: &Option<Inferred>| s.as_ref().map_or("-".to_owned(), shape_text);
        let io = self
            .signature
            .iter()
            .map(|s| [s.kind.clone(), s.name.clone(), side(&s.signature.before), side(&s.signature.after)]);
        section(&mut out, "Inputs and outputs", &["", "name", "before", "after"], &io.collect::<Vec<_>>());
        let changed = self.changed.iter().map(|c| {
            let text = |dtype: &str, shape: &[i64]| format!("{dtype} {shape:?}");
            let delta = c.max_abs_difference.map_or("-".to_owned(), |d| format!("{d:.3e}"));
            [c.name.clone(), text(&c.dtype.before, &c.shape.before), text(&c.dtype.after, &c.shape.after), delta]
        });
        section(
            &mut out,
            "Changed initializers",
            &["name", "before", "after", "max |difference|"],
            &changed.collect::<Vec<_>>(),
        );
        let (more, less) = (self.added.len(), self.removed.len());
        let _ = writeln!(
            out,
            "\nInitializers: {more} added, {less} removed, {} changed, {} the same.",
            self.changed.len(),
            self.unchanged
        );
        out
    }
}

/// Longest list that the text shows; the JSON has all.
const SHOWN: usize = 40;

fn section<const N: usize>(out: &mut String, title: &str, header: &[&str; N], rows: &[[String; N]]) {
    if rows.is_empty() {
        return;
    }
    let _ = write!(out, "\n{title}\n{}", columns(header, &rows[..rows.len().min(SHOWN)]));
    if rows.len() > SHOWN {
        let _ = writeln!(out, "  and {} more", rows.len() - SHOWN);
    }
}

fn percent(change: &Change<usize>) -> String {
    if change.before == 0 || change.is_same() {
        return String::new();
    }
    format!("{:+.1} %", (change.after as f64 / change.before as f64 - 1.0) * 100.0)
}

/// Values that differ by key; `V`'s default stands for a key that is not there.
fn by_key<V: PartialEq + Default, T>(
    a: &BTreeMap<String, T>,
    b: &BTreeMap<String, T>,
    read: impl Fn(&T) -> V,
) -> BTreeMap<String, Change<V>> {
    let keys: BTreeSet<&String> = a.keys().chain(b.keys()).collect();
    let value = |map: &BTreeMap<String, T>, key: &String| map.get(key).map_or_else(V::default, &read);
    let changes = keys.into_iter().map(|k| (k.clone(), Change { before: value(a, k), after: value(b, k) }));
    changes.filter(|(_, c)| !c.is_same()).collect()
}

fn opsets(model: &Model) -> BTreeMap<String, i64> {
    let name = |d: &str| if d == "ai.onnx" { String::new() } else { d.to_owned() };
    model.proto().opset_import.iter().map(|o| (name(o.domain()), o.version())).collect()
}

fn initializers(graph: &GraphProto) -> BTreeMap<&str, &TensorProto> {
    graph.initializer.iter().map(|t| (t.name(), t)).collect()
}

fn signature(kind: &str, a: &[ValueInfoProto], b: &[ValueInfoProto]) -> Vec<SignatureChange> {
    let of =
        |list: &[ValueInfoProto]| list.iter().map(|v| (v.name().to_owned(), declared(v))).collect::<BTreeMap<_, _>>();
    let changes = by_key(&of(a), &of(b), |v| Some(v.clone()));
    changes.into_iter().map(|(name, signature)| SignatureChange { kind: kind.to_owned(), name, signature }).collect()
}

/// `None` when both hold the same elements, however they are stored.
fn compare(name: &str, a: &TensorProto, b: &TensorProto) -> Option<ChangedTensor> {
    let (x, y) = (Tensor::from_proto(a).ok(), Tensor::from_proto(b).ok());
    let same = match (&x, &y) {
        (Some(x), Some(y)) => x == y,
        _ => a == b,
    };
    if same {
        return None;
    }
    let difference = || {
        let (x, y) = (x?, y?);
        if x.shape() != y.shape() || !x.dtype().is_float() || !y.dtype().is_float() {
            return None;
        }
        let (x, y) = (x.to_f64(), y.to_f64());
        // Equal infinities have no difference; `inf - inf` would not say so.
        let differences = x.iter().zip(&*y).map(|(p, q)| if p == q { 0.0 } else { (p - q).abs() });
        let worst =
            differences.fold(0.0_f64, |worst, d| if d.is_nan() || worst.is_nan() { f64::NAN } else { worst.max(d) });
        worst.is_finite().then_some(worst)
    };
    Some(ChangedTensor {
        name: name.to_owned(),
        dtype: Change { before: dtype_name(a.data_type()), after: dtype_name(b.data_type()) },
        shape: Change { before: a.dims.clone(), after: b.dims.clone() },
        max_abs_difference: difference(),
    })
}

#[cfg(test)]
mod tests {
    use super::super::edit::node;
    use super::super::infer::Inference;
    use super::super::onnx::{ModelProto, NodeProto, OperatorSetIdProto};
    use super::*;

    fn model(opset: i64, constants: &[(&str, Tensor)], nodes: Vec<NodeProto>) -> (Model, Stats) {
        let input = vec![ValueInfoProto { name: Some(format!("x{opset}")), ..ValueInfoProto::default() }];
        let graph = GraphProto {
            input,
            initializer: constants.iter().map(|(n, t)| t.to_proto(n)).collect(),
            node: nodes,
            ..GraphProto::default()
        };
        let opset_import = vec![OperatorSetIdProto { domain: None, version: Some(opset) }];
        let model = Model::from_proto(ModelProto { graph: Some(graph), opset_import, ..ModelProto::default() });
        let stats = Stats::of(&model, &Inference::default());
        (model, stats)
    }

    #[test]
    fn a_diff_names_every_structural_change() {
        let relu = || node("Relu", "", &["a"], &["b"], vec![]);
        let f = |v: &[f32]| Tensor::new(&[v.len()], v);
        let before = model(
            13,
            &[("w", f(&[1.0, 2.0])), ("gone", f(&[1.0])), ("same", f(&[f32::NAN]))],
            vec![relu(), node("Identity", "", &["b"], &["c"], vec![])],
        );
        let after = model(17, &[("w", f(&[1.0, 2.5])), ("new", f(&[1.0])), ("same", f(&[f32::NAN]))], vec![relu()]);
        let diff = ModelDiff::of((&before.0, &before.1), (&after.0, &after.1));
        assert_eq!(
            (diff.added.clone(), diff.removed.clone(), diff.unchanged),
            (vec!["new".to_owned()], vec!["gone".to_owned()], 1)
        );
        assert_eq!(diff.changed[0].max_abs_difference, Some(0.5));
        assert_eq!(diff.nodes_by_type, [("Identity".to_owned(), Change { before: 1, after: 0 })].into());
        assert_eq!(diff.opsets[""], Change { before: Some(13), after: Some(17) });
        assert_eq!(diff.signature.iter().map(|s| s.name.as_str()).collect::<Vec<_>>(), ["x13", "x17"]);
        let text = diff.to_text();
        for word in ["Identity", "x13", "5.000e-1", "1 added, 1 removed, 1 changed, 1 the same"] {
            assert!(text.contains(word), "{word} missing in\n{text}");
        }
        let json = serde_json::to_value(&diff).unwrap();
        assert_eq!(serde_json::from_value::<ModelDiff>(json).unwrap(), diff);
    }

    #[test]
    fn a_model_is_identical_to_itself() {
        let one = model(13, &[("w", Tensor::new(&[1], &[1.0_f32]))], vec![]);
        let diff = ModelDiff::of((&one.0, &one.1), (&one.0, &one.1));
        assert!(diff.identical && diff.changed.is_empty() && diff.signature.is_empty());
        assert_eq!(diff.to_text(), "The models are identical.\n");
    }

    #[test]
    fn a_weight_that_became_nan_has_no_difference_figure() {
        let a = Tensor::new(&[2], &[1.0_f32, f32::INFINITY]).to_proto("w");
        let b = Tensor::new(&[2], &[f32::NAN, f32::INFINITY]).to_proto("w");
        assert_eq!(compare("w", &a, &b).unwrap().max_abs_difference, None);
        let c = Tensor::new(&[2], &[3.0_f32, f32::INFINITY]).to_proto("w");
        assert_eq!(compare("w", &a, &c).unwrap().max_abs_difference, Some(2.0));
    }
}
