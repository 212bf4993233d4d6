//! What `inspect` says of a model: a struct for `--json`, a text for people.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use comfy_table::{CellAlignment, Table, presets};
use serde::{Deserialize, Serialize};

use super::Model;
use super::infer::{DimExpr, Inference, Inferred, declared};
use super::stats::Stats;

/// One input or output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Port {
    /// Its name.
    pub name: String,
    /// As derived from the inputs' declarations, given shapes and observations.
    #[serde(flatten)]
    pub inferred: Inferred,
    /// As the file declares it, where that says something else.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub declared: Option<Inferred>,
}

/// A model at a glance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Inspection {
    /// Version of the ONNX file format.
    pub ir_version: i64,
    /// Opset version by domain; `ai.onnx` is ONNX's own.
    pub opsets: BTreeMap<String, i64>,
    /// Program that wrote the file, with its version.
    pub producer: String,
    /// Name of the graph.
    pub graph: String,
    /// What a caller must feed.
    pub inputs: Vec<Port>,
    /// What a caller gets.
    pub outputs: Vec<Port>,
    /// Everything counted.
    pub stats: Stats,
    /// Operators whose outputs could not be derived, with the number of their nodes.
    pub unknown_operators: BTreeMap<String, usize>,
}

impl Inspection {
    /// Inspects a model whose shapes were inferred.
    pub fn of(model: &Model, inference: &Inference) -> Self {
        let (proto, graph) = (model.proto(), model.graph());
        let port = |info: &super::onnx::ValueInfoProto| {
            let (inferred, said) = (inference.get(info.name()).cloned().unwrap_or_default(), declared(info));
            let differs = said != inferred && said != Inferred::default();
            Port { name: info.name().to_owned(), inferred, declared: differs.then_some(said) }
        };
        let fed = model.input_names();
        let domain = |d: &str| if d.is_empty() { "ai.onnx".to_owned() } else { d.to_owned() };
        Self {
            ir_version: proto.ir_version(),
            opsets: proto.opset_import.iter().map(|o| (domain(o.domain()), o.version())).collect(),
            producer: format!("{} {}", proto.producer_name(), proto.producer_version()).trim().to_owned(),
            graph: graph.name().to_owned(),
            inputs: graph.input.iter().filter(|i| fed.contains(&i.name())).map(port).collect(),
            outputs: graph.output.iter().map(port).collect(),
            stats: Stats::of(model, inference),
            unknown_operators: inference.unknown_ops.clone(),
        }
    }

    /// The inspection as tables for a terminal.
    pub fn to_text(&self) -> String {
        let stats = &self.stats;
        let opsets = self.opsets.iter().map(|(d, v)| format!("{d} {v}")).collect::<Vec<_>>().join(", ");
        let producer = if self.producer.is_empty() { "unknown" } else { &self.producer };
        let macs = match stats.macs.total() {
            Some(n) => count_text(n),
            None if stats.macs.known_nodes == 0 => {
                format!("unknown for all {} nodes that multiply; give --shapes", stats.macs.unknown.len())
            }
            None => format!(
                "at least {}; unknown for {} more nodes, give --shapes",
                count_text(stats.macs.known),
                stats.macs.unknown.len()
            ),
        };
        let zeros =
            if stats.sparsity() < 0.0005 { String::new() } else { format!(", {:.1} % zero", stats.sparsity() * 100.0) };
        let mut head = vec![
            ["format".to_owned(), format!("IR {}, opset {opsets}", self.ir_version)],
            ["producer".to_owned(), producer.to_owned()],
            ["file".to_owned(), bytes_text(stats.file_bytes)],
            [
                "parameters".to_owned(),
                format!(
                    "{} in {} tensors, {}{zeros}",
                    count_text(stats.parameters.all as u64),
                    stats.parameters.tensors,
                    bytes_text(stats.parameters.bytes)
                ),
            ],
        ];
        if stats.quantization.tensors > 0 {
            let q = &stats.quantization;
            head.push([
                "scales, zero points".to_owned(),
                format!("{} in {} tensors, {}", count_text(q.all as u64), q.tensors, bytes_text(q.bytes)),
            ]);
        }
        head.push([
            "nodes".to_owned(),
            format!("{} ({} without Constant, Identity, Dropout)", stats.nodes.all, stats.nodes.computing),
        ]);
        head.push(["multiply-accumulates".to_owned(), macs]);
        let mut out = columns(&["", ""], &head);
        let ports = |kind: &str, list: &[Port]| {
            let rows = list.iter().map(|p| {
                let note = p.declared.as_ref().map_or(String::new(), |d| format!("declared {}", shape_text(d)));
                [kind.to_owned(), p.name.clone(), shape_text(&p.inferred), note]
            });
            rows.collect::<Vec<_>>()
        };
        let rows = [ports("input", &self.inputs), ports("output", &self.outputs)].concat();
        let _ = write!(out, "\n{}", columns(&["", "name", "type", ""], &rows));
        let mut by_type: Vec<_> = stats.nodes.by_type.iter().collect();
        by_type.sort_by(|a, b| b.1.cmp(a.1).then_with(|| a.0.cmp(b.0)));
        let rows: Vec<_> = by_type.into_iter().map(|(op, n)| [op.clone(), n.to_string()]).collect();
        let _ = write!(out, "\n{}", columns(&["operator", "nodes"], &rows));
        let rows: Vec<_> = stats
            .by_dtype
            .iter()
            .map(|(t, c)| [t.clone(), c.tensors.to_string(), count_text(c.all as u64), bytes_text(c.bytes)])
            .collect();
        let _ = write!(out, "\n{}", columns(&["constants", "tensors", "elements", "bytes"], &rows));
        let rows: Vec<_> = stats
            .largest
            .iter()
            .map(|t| [t.name.clone(), t.dtype.clone(), format!("{:?}", t.shape), bytes_text(t.bytes)])
            .collect();
        let _ = write!(out, "\n{}", columns(&["largest tensors", "type", "shape", "bytes"], &rows));
        if !self.unknown_operators.is_empty() {
            let list =
                self.unknown_operators.iter().map(|(op, n)| format!("{op} ({n})")).collect::<Vec<_>>().join(", ");
            let _ = write!(out, "\nShapes behind these operators are unknown: {list}.\n");
        }
        out
    }
}

/// Type and extents, e.g. `float32 [N, 3, 224, 224]`.
pub fn shape_text(inferred: &Inferred) -> String {
    let dtype = inferred.dtype.map_or("?".to_owned(), |t| t.to_string());
    match &inferred.dims {
        Some(dims) => format!("{dtype} [{}]", dims.iter().map(DimExpr::to_string).collect::<Vec<_>>().join(", ")),
        None => format!("{dtype} of unknown rank"),
    }
}

/// A size in bytes with a decimal unit, e.g. `23.0 MB`.
pub fn bytes_text(bytes: usize) -> String {
    scaled(bytes as f64, &[" B", " kB", " MB", " GB", " TB"])
}

/// A number with a decimal unit from ten thousand on, e.g. `22.7 M`.
pub fn count_text(n: u64) -> String {
    if n < 10_000 { n.to_string() } else { scaled(n as f64, &["", " k", " M", " G", " T"]) }
}

fn scaled(mut value: f64, units: &[&str]) -> String {
    let mut unit = 0;
    // 999.95 would print as 1000.0: the next unit is due.
    while value >= 999.95 && unit + 1 < units.len() {
        value /= 1000.0;
        unit += 1;
    }
    if unit == 0 { format!("{value:.0}{}", units[0]) } else { format!("{value:.1}{}", units[unit]) }
}

/// Rows under a header, without borders. Columns of numbers are right-aligned.
pub fn columns<const N: usize>(header: &[&str; N], rows: &[[String; N]]) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    if header.iter().any(|h| !h.is_empty()) {
        table.set_header(header.iter().copied());
    }
    for row in rows {
        table.add_row(row.iter());
    }
    for (i, column) in table.column_iter_mut().enumerate() {
        let numbers = rows
            .iter()
            .all(|r| r[i].is_empty() || r[i].starts_with(|c: char| c.is_ascii_digit() || matches!(c, '+' | '-')));
        if i > 0 && numbers && rows.iter().any(|r| !r[i].is_empty()) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        column.set_padding((if i == 0 { 0 } else { 2 }, 0));
    }
    table.lines().fold(String::new(), |text, line| text + line.trim_end() + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_like_a_person_writes_them() {
        for (bytes, text) in
            [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (999_960, "1.0 MB"), (23_037_000, "23.0 MB")]
        {
            assert_eq!(bytes_text(bytes), text);
        }
        assert_eq!((count_text(9_999), count_text(22_713_216)), ("9999".to_owned(), "22.7 M".to_owned()));
    }

    #[test]
    fn columns_of_numbers_are_right_aligned() {
        let rows = [["MatMul".to_owned(), "48".to_owned()], ["Add".to_owned(), "6".to_owned()]];
        assert_eq!(columns(&["operator", "nodes"], &rows), "operator  nodes\nMatMul       48\nAdd           6\n");
    }

    #[test]
    fn an_inspection_survives_json() {
        let model = Model::from_proto(super::super::onnx::ModelProto::default());
        let inspection = Inspection::of(&model, &Inference::default());
        let json = serde_json::to_string(&inspection).unwrap();
        assert_eq!(serde_json::from_str::<Inspection>(&json).unwrap(), inspection);
        assert!(inspection.to_text().contains("producer"));
    }
}
