//! `bakehouse compare`: two models, their graphs and weights and, with data, their outputs.

use std::fmt::Write as _;

use comfy_table::{Table, presets};
use serde::Serialize;

use super::args::CompareArgs;
use super::{Failure, json, print};
use crate::bake::compare::{self, OutputComparison};
use crate::engine::Engines;
use crate::model::Model;
use crate::model::diff::ModelDiff;
use crate::model::infer::{InferOptions, infer};
use crate::model::stats::Stats;

/// What `--json` prints.
#[derive(Serialize)]
struct Comparison {
    graph: ModelDiff,
    #[serde(skip_serializing_if = "Option::is_none")]
    outputs: Option<OutputComparison>,
}

pub(super) fn run(args: &CompareArgs) -> Result<u8, Failure> {
    let (a, b) = (Model::load(&args.a)?, Model::load(&args.b)?);
    let stats = |model: &Model| {
        infer(model, &InferOptions::default()).map(|inference| Stats::of(model, &inference)).map_err(Failure::usage)
    };
    let graph = ModelDiff::of((&a, &stats(&a)?), (&b, &stats(&b)?));
    let outputs = args
        .data
        .as_ref()
        .map(|data| compare::outputs(&a, &b, data, &Engines::discover(args.ort_lib.as_deref())))
        .transpose()?;
    if args.json {
        return print(&json(&Comparison { graph, outputs })?);
    }
    let mut text = graph.to_text();
    if let Some(outputs) = &outputs {
        text.push('\n');
        text.push_str(&table(outputs));
    }
    print(&text)
}

fn table(compared: &OutputComparison) -> String {
    let mut table = Table::new();
    table.load_style(presets::UTF8_HORIZONTAL_ONLY).set_header([
        "output",
        "max |a-b|",
        "relative RMS",
        "cosine",
        "argmax equal",
        "n",
    ]);
    let small = |v: Option<f64>| v.map_or_else(|| "-".to_owned(), |v| format!("{v:.3e}"));
    let share = |v: Option<f64>| v.map_or_else(|| "-".to_owned(), |v| format!("{v:.6}"));
    for output in &compared.outputs {
        let name = if output.identical { format!("{} (identical)", output.output) } else { output.output.clone() };
        table.add_row([
            name,
            small(output.max_abs_difference),
            small(output.relative_rms_error),
            share(output.cosine),
            share(output.argmax_agreement),
            compared.samples.to_string(),
        ]);
    }
    let mut text = format!("Outputs on {}\n{table}\n", compared.engine);
    for output in compared.outputs.iter().filter(|o| o.other_shape > 0) {
        let _ = writeln!(text, "{} has another shape on {} samples.", output.output, output.other_shape);
    }
    if !compared.unmatched.is_empty() {
        let _ = writeln!(text, "Only one of the models has: {}.", compared.unmatched.join(", "));
    }
    text
}
