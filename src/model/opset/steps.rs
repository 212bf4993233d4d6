//! The single steps: what an operator of version `v - 1` is called and takes at version `v`.

use super::Site;
use crate::model::edit::{attribute, float_attribute, int, int_attribute, ints_attribute, node, string_attribute};
use crate::model::onnx::NodeProto;
use crate::model::{DType, Tensor, build};

/// Operators whose signature or meaning changed at `version`.
#[rustfmt::skip]
pub(super) fn changes(op_type: &str, version: i64) -> bool {
    let changed: &[&str] = match version {
        9 => &["BatchNormalization", "Upsample", "Scan"],
        10 => &["Dropout", "Slice", "TopK", "Upsample"],
        11 => &["Clip", "Pad", "Resize", "Scatter"],
        12 => &["Dropout"],
        13 => &["Softmax", "LogSoftmax", "Hardmax", "ReduceSum", "Squeeze", "Unsqueeze", "Split", "Resize"],
        14 => &["BatchNormalization"],
        16 => &["RoiAlign"],
        18 => &["ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceSumSquare",
                "Split"],
        20 => &["GridSample", "DFT"],
        21 => &["GroupNormalization"],
        _ => &[],
    };
    changed.contains(&op_type)
}

/// Rewrites one node whose operator [`changes`] at `version`. `None`: this node reads the same in both versions. The error says why it cannot be done.
#[allow(clippy::too_many_lines)] // a table: one arm per change, each a few lines
pub(super) fn rewrite(
    old: &NodeProto,
    version: i64,
    site: &mut Site<'_, '_>,
) -> Result<Option<Vec<NodeProto>>, String> {
    if let Some(reference) = old.attribute.iter().find(|a| !a.ref_attr_name().is_empty()) {
        return Err(format!("its attribute '{}' is a parameter of a function", reference.name()));
    }
    let mut new = old.clone();
    match (old.op_type(), version) {
        ("BatchNormalization", 9) => {
            if int_attribute(old, "spatial", 1) == 0 {
                return Err(
                    "it normalises every position on its own (spatial = 0), which later versions cannot say".to_owned()
                );
            }
            drop_attribute(&mut new, "spatial");
        }
        ("BatchNormalization", 14) => without_outputs(&mut new, site, "statistics of training")?,
        ("Dropout", 10) => without_outputs(&mut new, site, "mask, whose type changed")?,
        ("Dropout", 12) => {
            without_outputs(&mut new, site, "mask, whose values differ between engines")?;
            drop_attribute(&mut new, "ratio"); // it acts in training only
        }
        ("Upsample", 9) => {
            let scales = attribute(old, "scales")
                .map(|a| a.floats.clone())
                .filter(|s| !s.is_empty())
                .ok_or("it has no scales")?;
            drop_attribute(&mut new, "scales");
            let scales = site.constant("scales", Tensor::new(&[scales.len()], &scales));
            new.input.truncate(1);
            new.input.push(scales);
        }
        ("Upsample", 10) => {
            new.op_type = Some("Resize".to_owned());
            site.context.upsampled.extend(new.output.first().cloned());
        }
        ("Resize", 11) => {
            // Version 10 maps x to x / scale. It leaves rounding open; ONNX Runtime rounds down where it enlarges and up where it shrinks.
            if string_attribute(old, "mode") != Some("linear") {
                let rounding = nearest_rounding(old, site)
                    .ok_or("which way it rounds depends on scales that are not constant, or that mix")?;
                new.attribute.push(build::string_attribute("nearest_mode", rounding));
            }
            new.attribute.push(build::string_attribute("coordinate_transformation_mode", "asymmetric"));
            let roi = site.constant("roi", Tensor::new::<f32>(&[0], &[]));
            new.input.insert(1, roi);
        }
        ("Resize", 13) => {
            if string_attribute(old, "coordinate_transformation_mode") == Some("tf_half_pixel_for_nn") {
                return Err("its coordinates 'tf_half_pixel_for_nn' were removed".to_owned());
            }
            return Ok(None);
        }
        ("Slice", 10) => {
            let list = |name: &str| ints_attribute(old, name).map(<[i64]>::to_vec);
            let (starts, ends) = (list("starts").ok_or("it has no starts")?, list("ends").ok_or("it has no ends")?);
            let axes = list("axes").unwrap_or_else(|| (0..starts.len() as i64).collect());
            new.attribute.retain(|a| !matches!(a.name(), "starts" | "ends" | "axes"));
            new.input.truncate(1);
            for values in [starts, ends, axes] {
                let name = site.integers(&values);
                new.input.push(name);
            }
        }
        ("TopK", 10) => {
            let k = attribute(old, "k").and_then(|a| a.i).ok_or("it has no k")?;
            drop_attribute(&mut new, "k");
            let k = site.integers(&[k]);
            new.input.push(k);
        }
        ("Clip", 11) => {
            let bounds = ["min", "max"].map(|name| attribute(old, name).and_then(|a| a.f));
            new.attribute.retain(|a| !matches!(a.name(), "min" | "max"));
            for (at, (bound, stem)) in bounds.into_iter().zip(["min", "max"]).enumerate() {
                let Some(bound) = bound else { continue };
                let name = float_constant(old, stem, bound, site)?;
                new.input.resize(at + 1, String::new());
                new.input.push(name);
            }
        }
        ("Pad", 11) => {
            let pads = ints_attribute(old, "pads").ok_or("it has no pads")?.to_vec();
            let value = float_attribute(old, "value", 0.0);
            new.attribute.retain(|a| !matches!(a.name(), "pads" | "value"));
            let pads = site.integers(&pads);
            new.input.truncate(1);
            new.input.push(pads);
            if value != 0.0 {
                let value = float_constant(old, "pad_value", value, site)?;
                new.input.push(value);
            }
        }
        ("Scatter", 11) => new.op_type = Some("ScatterElements".to_owned()),
        ("Softmax" | "LogSoftmax" | "Hardmax", 13) => return softmax(old, site).map(Some),
        ("Split", 13) => attribute_to_input(&mut new, "split", site),
        ("Split", 18) => {
            if old.input.get(1).is_some_and(|i| !i.is_empty()) {
                return Ok(None);
            }
            new.attribute.push(int("num_outputs", old.output.len() as i64));
        }
        ("ReduceSum" | "Squeeze" | "Unsqueeze", 13) | (_, 18) => attribute_to_input(&mut new, "axes", site),
        ("RoiAlign", 16) => {
            new.attribute.push(build::string_attribute("coordinate_transformation_mode", "output_half_pixel"));
        }
        ("GridSample", 20) => {
            let renamed = match string_attribute(old, "mode") {
                None | Some("bilinear") => "linear",
                Some("bicubic") => "cubic",
                Some(_) => return Ok(None),
            };
            drop_attribute(&mut new, "mode");
            new.attribute.push(build::string_attribute("mode", renamed));
        }
        _ => return Err("what changed there is not carried over".to_owned()),
    }
    Ok(Some(vec![new]))
}

/// How `Resize` of version 10 picks the nearest sample, as version 11 spells it.
fn nearest_rounding(node: &NodeProto, site: &Site<'_, '_>) -> Option<&'static str> {
    if node.output.first().is_some_and(|o| site.context.upsampled.contains(o)) {
        return Some("floor");
    }
    let scales = site.value(node.input.get(1)?)?;
    let scales = scales.to_f32();
    match () {
        () if scales.iter().all(|&s| s >= 1.0) => Some("floor"),
        () if scales.iter().all(|&s| s <= 1.0) => Some("ceil"),
        () => None,
    }
}

fn drop_attribute(node: &mut NodeProto, name: &str) {
    node.attribute.retain(|a| a.name() != name);
}

/// Cuts a node down to its first output, when nothing reads the others.
fn without_outputs(node: &mut NodeProto, site: &Site<'_, '_>, what: &str) -> Result<(), String> {
    if let Some(read) = node.output.iter().skip(1).find(|o| !o.is_empty() && site.is_read(o)) {
        return Err(format!("its output '{read}' is read ({what})"));
    }
    node.output.truncate(1);
    Ok(())
}

/// Turns a list-of-integers attribute into the second input; an absent or empty one stays absent.
fn attribute_to_input(node: &mut NodeProto, name: &str, site: &mut Site<'_, '_>) {
    let Some(values) = ints_attribute(node, name).map(<[i64]>::to_vec) else { return };
    drop_attribute(node, name);
    if !values.is_empty() {
        let values = site.integers(&values);
        node.input.truncate(1);
        node.input.push(values);
    }
}

/// A scalar of the same type as the node's first input.
fn float_constant(node: &NodeProto, stem: &str, value: f32, site: &mut Site<'_, '_>) -> Result<String, String> {
    let input = node.input.first().map_or("", String::as_str);
    let tensor = match site.float_type(input) {
        Some(DType::F32) => Tensor::scalar(value),
        Some(DType::F64) => Tensor::scalar(f64::from(value)),
        Some(DType::F16) => Tensor::scalar(half::f16::from_f32(value)),
        _ => return Err(format!("the type of '{input}' is not known, so its {stem} cannot be written")),
    };
    Ok(site.constant(stem, tensor))
}

/// Until version 12, axes from `axis` on (default 1) are taken together; from 13 on, `axis` (default last) is one axis.
fn softmax(old: &NodeProto, site: &mut Site<'_, '_>) -> Result<Vec<NodeProto>, String> {
    let (Some(input), Some(output)) = (old.input.first(), old.output.first()) else {
        return Err("it has no input or output".to_owned());
    };
    let axis = int_attribute(old, "axis", 1);
    let rank = site.rank(input);
    let positive =
        if axis >= 0 { Some(axis as usize) } else { rank.and_then(|r| r.checked_sub(axis.unsigned_abs() as usize)) };
    let mut new = old.clone();
    drop_attribute(&mut new, "axis");
    let one_axis = match (positive, rank) {
        _ if axis == -1 => Some(-1),
        (Some(a), Some(r)) if a + 1 == r => Some(-1),
        (Some(a), Some(r)) if a < r && site.all_one_behind(input, a) => Some(a as i64),
        _ => None,
    };
    if let Some(axis) = one_axis {
        new.attribute.push(int("axis", axis));
        return Ok(vec![new]);
    }
    let [shape, flat, soft] = ["shape", "flat", "soft"].map(|stem| site.fresh(&format!("{output}_{stem}")));
    new.attribute.push(int("axis", -1));
    new.input[0].clone_from(&flat);
    new.output[0].clone_from(&soft);
    Ok(vec![
        node("Shape", &shape, &[input], &[&shape], vec![]),
        node("Flatten", &flat, &[input], &[&flat], vec![int("axis", axis)]),
        new,
        node("Reshape", &format!("{output}_reshape"), &[&soft, &shape], &[output], vec![]),
    ])
}
