//! Checking the arrays of a split against the inputs that a model declares, and cutting them into feeds.

use std::collections::BTreeMap;
use std::sync::Arc;

use half::{bf16, f16};

use super::arrays::Arrays;
use super::{Dataset, Feed};
use crate::engine::declared::{Declared, Extent};
use crate::model::{DType, Element, Model, Tensor, mapped};

/// The array that holds the truth rather than an input.
const LABELS: &str = "labels";

/// Cuts the arrays into one feed per sample, with notes for the report. Errors are sentences without the file's name.
pub(super) fn fit(mut arrays: Arrays, model: &Model) -> Result<(Dataset, Vec<String>), String> {
    let inputs = Declared::inputs(model);
    let names = || inputs.iter().map(|i| format!("'{}'", i.name)).collect::<Vec<_>>().join(", ");
    let labels = if inputs.iter().any(|i| i.name == LABELS) { None } else { arrays.remove(LABELS) };
    if let Some(unknown) = arrays.keys().find(|name| inputs.iter().all(|i| i.name != **name)) {
        return Err(format!(
            "array '{unknown}' is no input of the model. Its inputs are {}; labels go into '{LABELS}'.",
            names()
        ));
    }
    if inputs.is_empty() {
        return Err("the model has no input, so there is nothing that samples could change.".to_owned());
    }

    let mut notes = Vec::new();
    let mut columns: Vec<(Arc<str>, Vec<Tensor>)> = Vec::new();
    for input in &inputs {
        let array = arrays.remove(&input.name);
        let array =
            array.ok_or_else(|| format!("input '{}' has no array. The model's inputs are {}.", input.name, names()))?;
        let samples = samples_of(input, array, &mut notes).map_err(|e| format!("array '{}' {e}", input.name))?;
        if let Some((first, other)) = columns.first().filter(|(_, other)| other.len() != samples.len()) {
            let (a, b) = (samples.len(), other.len());
            return Err(format!(
                "array '{}' has {a} samples, but '{first}' has {b}. Every array needs the same number.",
                input.name
            ));
        }
        columns.push((Arc::from(input.name.as_str()), samples));
    }

    let count = columns[0].1.len();
    if count == 0 {
        return Err("holds no sample. Give at least one; gates need 20.".to_owned());
    }
    if let Some(labels) = &labels {
        if labels.shape().first() != Some(&count) {
            return Err(format!(
                "'{LABELS}' has the shape {:?}, but there are {count} samples. Give one label per sample.",
                labels.shape()
            ));
        }
        if has_nan(labels) {
            return Err(format!("'{LABELS}' holds NaN. Remove or repair those samples."));
        }
    }
    let mut columns: Vec<_> = columns.into_iter().map(|(name, samples)| (name, samples.into_iter())).collect();
    let feed =
        |_| Feed::new(columns.iter_mut().map(|(n, s)| (n.clone(), s.next().expect("counts are equal"))).collect());
    let feeds = (0..count).map(feed).collect();
    Ok((Dataset { feeds, labels }, notes))
}

/// The first sample that contradicts the declared inputs, in words.
pub(super) fn misfit(dataset: &Dataset, model: &Model) -> Option<String> {
    let inputs = Declared::inputs(model);
    dataset.feeds.iter().enumerate().find_map(|(i, feed)| {
        let mut symbols: BTreeMap<&str, (&str, usize)> = BTreeMap::new();
        inputs.iter().find_map(|input| {
            let shape = feed.get(&input.name)?.shape();
            if input.contradicts(shape) {
                return Some(format!(
                    "sample {i} of array '{}' has the shape {shape:?}, but the model declares this input as {}.",
                    input.name,
                    input.shape_text()
                ));
            }
            let axes = input.shape.iter().flatten().zip(shape);
            axes.into_iter().find_map(|(axis, &extent)| {
                let Extent::Named(symbol) = axis else { return None };
                let (other, first) = *symbols.entry(symbol).or_insert((&input.name, extent));
                (first != extent).then(|| {
                    format!(
                        "sample {i} of array '{}' has the shape {shape:?}, which makes '{symbol}' of the declared {} {extent}, but array '{other}' makes it {first}.",
                        input.name,
                        input.shape_text()
                    )
                })
            })
        })
    })
}

/// The samples of one input. Errors continue `array 'x' …`.
fn samples_of(input: &Declared, array: Tensor, notes: &mut Vec<String>) -> Result<Vec<Tensor>, String> {
    let name = &input.name;
    let array = match input.dtype {
        Some(dtype) if dtype != array.dtype() => {
            let from = array.dtype();
            let converted = convert(&array, dtype)?;
            notes.push(format!(
                "input '{name}': the data is {from}, the model takes {dtype}; every value was converted without loss."
            ));
            converted
        }
        _ => array,
    };
    if has_nan(&array) {
        return Err("holds NaN. Remove or repair those samples.".to_owned());
    }
    let shape = array.shape();
    let Some((&count, sample)) = shape.split_first() else {
        return Err("is a single value. Axis 0 must be the sample.".to_owned());
    };
    let mut sample = sample.to_vec();
    if let Some(declared) = &input.shape {
        let one_more = sample.len() == declared.len();
        let free_batch = declared.first().is_some_and(|d| !matches!(d, Extent::Fixed(n) if *n != 1));
        if !one_more && shape.len() == declared.len() && free_batch {
            sample.insert(0, 1);
            notes.push(format!("input '{name}': the samples have no batch axis, the model declares one; a batch of 1 was added to each."));
        } else if !one_more {
            return Err(format!(
                "has the shape {shape:?}, so each sample has {} axes, but the model takes {} ({}). Axis 0 must be the sample, each a whole input with its batch axis.",
                sample.len(),
                declared.len(),
                input.shape_text()
            ));
        }
        if input.contradicts(&sample) {
            notes.push(format!(
                "input '{name}' is declared as {}, but the samples are {sample:?}; the data is trusted.",
                input.shape_text()
            ));
        }
    } else {
        notes.push(format!(
            "input '{name}' declares no shape; each sample is taken as a whole input of shape {sample:?}."
        ));
    }
    let size = array.bytes().len() / count.max(1);
    let cut =
        |i: usize| Tensor::from_bytes(array.dtype(), sample.clone(), array.bytes().slice(i * size..(i + 1) * size));
    (0..count).map(cut).collect::<Result<_, _>>().map_err(|e| e.to_string())
}

/// Bytes of an array that are looked at before they are put down again, a multiple of every element's size: a split may be larger than what there is room for.
const LOOKED_AT: usize = 4 << 20;

fn has_nan(tensor: &Tensor) -> bool {
    fn among<T: Element>(bytes: &[u8], is_nan: impl Fn(T) -> bool) -> bool {
        // In a file, elements need not be aligned.
        bytes.chunks_exact(size_of::<T>()).any(|element| is_nan(bytemuck::pod_read_unaligned(element)))
    }
    tensor.bytes().chunks(LOOKED_AT).any(|part| {
        let found = match tensor.dtype() {
            DType::F32 => among(part, f32::is_nan),
            DType::F64 => among(part, f64::is_nan),
            DType::F16 => among(part, f16::is_nan),
            DType::BF16 => among(part, bf16::is_nan),
            _ => false,
        };
        mapped::put_down(part);
        found
    })
}

/// Converts float to float or integer to integer, when no value changes by it. Errors continue `array 'x' …`.
fn convert(array: &Tensor, to: DType) -> Result<Tensor, String> {
    let from = array.dtype();
    let refuse = |why: &str| Err(format!("is {from}, but the model takes {to}{why}. Save it as {to}."));
    let integer = |d: DType| !d.is_float() && d != DType::Bool;
    let shape = array.shape();
    let exact = if from.is_float() && to.is_float() {
        let values = array.to_f64();
        let same = |a: f64, b: f64| a == b || (a.is_nan() && b.is_nan());
        macro_rules! narrow {
            ($t:ty, $make:expr) => {{
                let out: Vec<$t> = values.iter().map(|&v| $make(v)).collect();
                values.iter().zip(&out).all(|(&v, &o)| same(v, f64::from(o))).then(|| Tensor::new(shape, &out))
            }};
        }
        match to {
            DType::F64 => Some(Tensor::new(shape, &values)),
            DType::F32 => narrow!(f32, |v: f64| v as f32),
            DType::F16 => narrow!(f16, f16::from_f64),
            _ => narrow!(bf16, bf16::from_f64),
        }
    } else if integer(from) && integer(to) {
        // u64 values beyond i64 are no token, index or pixel; they are refused rather than wrapped.
        let values: Option<Vec<i128>> = match array.values::<u64>() {
            Some(v) => Some(v.iter().map(|&x| i128::from(x)).collect()),
            None => array.to_i64().map(|v| v.iter().map(|&x| i128::from(x)).collect()),
        };
        let values = values.unwrap_or_default();
        macro_rules! narrow {
            ($t:ty) => {
                values
                    .iter()
                    .map(|&v| <$t>::try_from(v))
                    .collect::<Result<Vec<$t>, _>>()
                    .ok()
                    .map(|out| Tensor::new(shape, &out))
            };
        }
        match to {
            DType::I8 => narrow!(i8),
            DType::I16 => narrow!(i16),
            DType::I32 => narrow!(i32),
            DType::I64 => narrow!(i64),
            DType::U8 => narrow!(u8),
            DType::U16 => narrow!(u16),
            DType::U32 => narrow!(u32),
            _ => narrow!(u64),
        }
    } else {
        return refuse("");
    };
    match exact {
        Some(tensor) => Ok(tensor),
        None => refuse(" and some values would change"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::build::Builder;

    fn two_inputs() -> Model {
        let builder = Builder::new(17).input("x", DType::F32, &["N", "3"]).input("ids", DType::I64, &["N", "2"]);
        builder.output("y", DType::F32, &["N", "3"]).build()
    }

    fn arrays(x: Tensor, ids: Tensor) -> Arrays {
        [("x".to_owned(), x), ("ids".to_owned(), ids)].into()
    }

    #[test]
    fn samples_are_whole_feeds_and_labels_stand_beside_them() {
        let mut input = arrays(
            Tensor::new(&[2, 1, 3], &[1.0_f32, 2.0, 3.0, 4.0, 5.0, 6.0]),
            Tensor::new(&[2, 1, 2], &[1_i64, 2, 3, 4]),
        );
        input.insert("labels".to_owned(), Tensor::new(&[2], &[0_i64, 1]));
        let (dataset, notes) = fit(input, &two_inputs()).unwrap();
        assert_eq!((dataset.len(), notes.len()), (2, 0), "{notes:?}");
        assert_eq!(dataset.feeds[1].get("x").unwrap(), &Tensor::new(&[1, 3], &[4.0_f32, 5.0, 6.0]));
        assert_eq!(dataset.feeds[1].get("ids").unwrap(), &Tensor::new(&[1, 2], &[3_i64, 4]));
        assert_eq!(dataset.labels.unwrap().len(), 2);
    }

    #[test]
    fn a_missing_batch_axis_is_added_and_exact_types_are_converted_with_a_note() {
        let input =
            arrays(Tensor::new(&[2, 3], &[1.0_f64, 2.0, 3.0, 4.0, 5.0, 6.0]), Tensor::new(&[2, 2], &[1_i32, 2, 3, 4]));
        let (dataset, notes) = fit(input, &two_inputs()).unwrap();
        assert_eq!(dataset.feeds[0].get("x").unwrap(), &Tensor::new(&[1, 3], &[1.0_f32, 2.0, 3.0]));
        assert_eq!(dataset.feeds[0].get("ids").unwrap(), &Tensor::new(&[1, 2], &[1_i64, 2]));
        assert_eq!(notes.len(), 4, "{notes:?}");
    }

    #[test]
    fn a_wrong_declared_extent_is_noted_and_the_data_trusted() {
        let input = arrays(Tensor::new(&[1, 1, 4], &[1.0_f32; 4]), Tensor::new(&[1, 1, 2], &[1_i64, 2]));
        let (dataset, notes) = fit(input, &two_inputs()).unwrap();
        assert!(notes[0].contains("[N, 3]") && notes[0].contains("[1, 4]"), "{notes:?}");
        assert_eq!(
            dataset.misfit(&two_inputs()).unwrap(),
            "sample 0 of array 'x' has the shape [1, 4], but the model declares this input as [N, 3]."
        );
    }

    #[test]
    fn one_symbol_stands_for_one_number_in_a_sample() {
        let input = |rows: usize| {
            arrays(Tensor::new(&[1, 2, 3], &[1.0_f32; 6]), Tensor::new(&[1, rows, 2], &vec![1_i64; 2 * rows]))
        };
        let misfit = |rows| fit(input(rows), &two_inputs()).unwrap().0.misfit(&two_inputs());
        assert_eq!(misfit(2), None);
        assert_eq!(
            misfit(4).unwrap(),
            "sample 0 of array 'ids' has the shape [4, 2], which makes 'N' of the declared [N, 2] 4, but array 'x' makes it 2."
        );
    }

    #[test]
    fn what_does_not_fit_is_refused_by_name() {
        let x = || Tensor::new(&[2, 1, 3], &[1.0_f32; 6]);
        let ids = || Tensor::new(&[2, 1, 2], &[1_i64; 4]);
        let with = |name: &str, tensor: Tensor| {
            let mut a = arrays(x(), ids());
            a.insert(name.to_owned(), tensor);
            a
        };
        let mut missing = arrays(x(), ids());
        missing.remove("ids");
        for (case, expected) in [
            (missing, "input 'ids' has no array"),
            (with("pixels", x()), "array 'pixels' is no input of the model. Its inputs are 'x', 'ids'"),
            (with("x", Tensor::new(&[2, 1, 1, 3], &[1.0_f32; 6])), "array 'x' has the shape [2, 1, 1, 3]"),
            (with("x", Tensor::scalar(1.0_f32)), "array 'x' is a single value"),
            (with("x", Tensor::new(&[3, 1, 3], &[1.0_f32; 9])), "array 'ids' has 2 samples, but 'x' has 3"),
            (
                with("x", Tensor::new(&[2, 1, 3], &[1_i64; 6])),
                "array 'x' is int64, but the model takes float32. Save it as float32.",
            ),
            (with("x", Tensor::new(&[2, 1, 3], &[0.1_f64; 6])), "some values would change"),
            (
                with("ids", Tensor::new(&[2, 1, 2], &[u64::MAX; 4])),
                "array 'ids' is uint64, but the model takes int64 and some values",
            ),
            (with("x", Tensor::new(&[2, 1, 3], &[f32::NAN; 6])), "array 'x' holds NaN"),
            (with("labels", Tensor::new(&[3], &[1_i64; 3])), "'labels' has the shape [3], but there are 2 samples"),
            (with("labels", Tensor::new(&[2], &[f32::NAN; 2])), "'labels' holds NaN"),
            (arrays(Tensor::new::<f32>(&[0, 1, 3], &[]), Tensor::new::<i64>(&[0, 1, 2], &[])), "holds no sample"),
        ] {
            let message = fit(case, &two_inputs()).unwrap_err();
            assert!(message.contains(expected), "expected '{expected}', got '{message}'");
        }
    }
}
