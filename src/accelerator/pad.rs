//! A Pad in front of a Conv or pooling becomes its `pads` attribute.

use super::net::{self, Id, Net, input};
use crate::model::{Effect, Facts, Model, Pass, PassError, edit};

/// The pass `fold-pad`.
#[derive(Debug, Clone, Copy, Default)]
pub struct FoldPad;

impl Pass for FoldPad {
    fn name(&self) -> &'static str {
        "fold-pad"
    }

    fn apply(&self, model: &mut Model, facts: &mut Facts) -> Result<Effect, PassError> {
        let fused = net::edit(model, facts, |net| {
            let ids = net.ids();
            let fused: Vec<String> = ids.into_iter().filter_map(|id| fold(net, id)).collect();
            if !fused.is_empty() {
                net.sweep();
            }
            fused
        });
        Ok(super::fused(fused, "no constant Pad stands in front of a Conv or pooling that could take it over"))
    }
}

fn fold(net: &mut Net, id: Id) -> Option<String> {
    let node = net.get(id).filter(|n| matches!(n.domain(), "" | "ai.onnx"))?;
    let (op, label) = (node.op_type().to_owned(), edit::label(node));
    if !matches!(op.as_str(), "Conv" | "AveragePool" | "MaxPool") || edit::int_attribute(node, "ceil_mode", 0) != 0 {
        return None;
    }
    let (padded, pad) = net.producer_op(input(node, 0)?, "Pad")?;
    let x = input(pad, 0)?.to_owned();
    if net.only_reader(input(node, 0)?) != Some(id)
        || edit::string_attribute(pad, "mode").unwrap_or("constant") != "constant"
    {
        return None;
    }
    let (pads, value) = if net.opset() >= 11 {
        let value = match input(pad, 2) {
            Some(value) => net.scalar(value)?,
            None => 0.0,
        };
        if input(pad, 3).is_some() {
            return None;
        }
        (net.ints(input(pad, 1)?)?, value)
    } else {
        (edit::ints_attribute(pad, "pads")?.to_vec(), f64::from(edit::float_attribute(pad, "value", 0.0)))
    };
    let rank = pads.len() / 2;
    let spatial = rank.checked_sub(2).filter(|&n| n > 0)?;
    let outside = [0, 1, rank, rank + 1].iter().any(|&i| pads[i] != 0);
    if pads.len() % 2 != 0 || outside || pads.iter().any(|&p| p < 0) {
        return None;
    }
    let own = edit::ints_attribute(node, "pads").map_or_else(|| vec![0; 2 * spatial], <[i64]>::to_vec);
    let auto = edit::string_attribute(node, "auto_pad").unwrap_or("NOTSET");
    let explicit = matches!(auto, "NOTSET" | "") || (auto == "VALID" && own.iter().all(|&p| p == 0));
    let unpadded = own.iter().all(|&p| p == 0);
    let counted = edit::int_attribute(node, "count_include_pad", 0) != 0;
    let takes = match op.as_str() {
        "Conv" => value == 0.0,
        // Zeros from a Pad count in the average. With pads of its own that do not, the two kinds cannot be told apart any more.
        "AveragePool" => value == 0.0 && (counted || unpadded) && net.opset() >= 7,
        // A pooling pads with the lowest value.
        _ => value == f64::NEG_INFINITY && node.output.len() == 1,
    };
    if !explicit || !takes || own.len() != 2 * spatial {
        return None;
    }
    let total: Vec<i64> = (0..2 * spatial)
        .map(|i| own[i] + if i < spatial { pads[2 + i] } else { pads[rank + 2 + i - spatial] })
        .collect();
    // Engines refuse a pooling whose padding is as large as its window.
    if op != "Conv" {
        let kernel = edit::ints_attribute(node, "kernel_shape")?;
        if kernel.len() != spatial || (0..2 * spatial).any(|i| total[i] >= kernel[i % spatial]) {
            return None;
        }
    }
    net.change(id, |node| {
        node.input[0] = x;
        node.attribute.retain(|a| !matches!(a.name(), "pads" | "auto_pad"));
        node.attribute.push(edit::ints("pads", &total));
        if op == "AveragePool" && !counted {
            node.attribute.retain(|a| a.name() != "count_include_pad");
            node.attribute.push(edit::int("count_include_pad", 1));
        }
    });
    net.remove_unused(padded);
    Some(format!("Pad+{op}: {label}"))
}
