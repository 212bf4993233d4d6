//! Rows of activations as a product multiplies them: rounded as the pass will round them; of a convolution one row per position of its output.

use super::super::linear::{Linear, Operator};
use super::super::scheme::Codes;
use super::table::Table;
use crate::model::Tensor;
use crate::model::edit::{int_attribute, ints_attribute, string_attribute};
use crate::model::onnx::NodeProto;

/// How an activation is rounded before it is multiplied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Rounding {
    /// Not at all.
    None,
    /// To unsigned 8 bits over the range of the run, as `DynamicQuantizeLinear` does.
    PerRun,
    /// To unsigned 8 bits of a scale (its bits) and zero point.
    Fixed { scale: u32, zero_point: u8 },
}

impl Rounding {
    /// The codes of a tensor's values, where they have some.
    fn codes(self, values: &[f32]) -> Option<Codes> {
        match self {
            Self::None => None,
            Self::PerRun => {
                let (low, high) = values.iter().fold((0.0_f32, 0.0_f32), |(l, h), v| (l.min(*v), h.max(*v)));
                Some(Codes::over(low, high))
            }
            Self::Fixed { scale, zero_point } => {
                Some(Codes { scale: f32::from_bits(scale), zero: f32::from(zero_point) })
            }
        }
    }
}

/// What a convolution's window looks at.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Window {
    kernel: Vec<usize>,
    strides: Vec<usize>,
    dilations: Vec<usize>,
    padding: Padding,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Padding {
    /// Before the first and behind the last element of each axis.
    Given(Vec<(i64, i64)>),
    /// As much as keeps one output per stride; an odd one goes before the first where `lower`.
    Same { lower: bool },
}

/// Where rows come from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Source {
    pub(super) activation: String,
    rounding: Rounding,
    window: Option<Window>,
}

impl Source {
    /// What a node multiplies; `None` where its attributes do not fit its weight.
    pub(super) fn of(node: &NodeProto, found: &Linear, rounding: Rounding) -> Option<Self> {
        let window = if found.operator == Operator::Conv { Some(Window::of(node, found)?) } else { None };
        Some(Self { activation: found.activation.clone(), rounding, window })
    }

    /// The same rows, rounded in another way.
    pub(super) fn rounded(&self, rounding: Rounding) -> Self {
        Self { rounding, ..self.clone() }
    }

    /// Bytes that a value of a row takes.
    pub(super) fn bytes(&self) -> usize {
        if self.rounding == Rounding::None { size_of::<f32>() } else { size_of::<u8>() }
    }

    /// Appends at most `most` rows of `width` values, evenly spread over the tensor. `None` where it is none that the node could multiply.
    pub(super) fn add(&self, tensor: &Tensor, width: usize, most: usize, table: &mut Table) -> Option<()> {
        let values = tensor.to_f32();
        let mut rows = Vec::new();
        match &self.window {
            None => {
                if *tensor.shape().last()? != width || width == 0 {
                    return None;
                }
                for at in spread(values.len() / width, most) {
                    rows.extend(&values[at * width..(at + 1) * width]);
                }
            }
            Some(window) => window.add(&values, tensor.shape(), width, most, &mut rows)?,
        }
        table.extend(&rows, self.rounding.codes(&values))
    }
}

/// At most `most` of `count` indices: one anywhere in each of as many equal parts. Equal steps would meet the same columns of an image again and again.
fn spread(count: usize, most: usize) -> impl Iterator<Item = usize> {
    let taken = count.min(most);
    (0..taken).map(move |i| {
        let (start, end) = (i * count / taken, (i + 1) * count / taken);
        let mixed = (i as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
        start + mixed as usize % (end - start)
    })
}

impl Window {
    fn of(node: &NodeProto, found: &Linear) -> Option<Self> {
        let kernel = found.matrix.shape()[2..].to_vec();
        let each = |name: &str| -> Option<Vec<usize>> {
            let Some(given) = ints_attribute(node, name) else { return Some(vec![1; kernel.len()]) };
            let given: Option<Vec<usize>> = given.iter().map(|&v| usize::try_from(v).ok().filter(|v| *v > 0)).collect();
            given.filter(|given| given.len() == kernel.len())
        };
        let padding = match string_attribute(node, "auto_pad") {
            Some("SAME_UPPER") => Padding::Same { lower: false },
            Some("SAME_LOWER") => Padding::Same { lower: true },
            None | Some("" | "NOTSET") => match ints_attribute(node, "pads").filter(|p| !p.is_empty()) {
                None => Padding::Given(vec![(0, 0); kernel.len()]),
                Some(pads) if pads.len() == 2 * kernel.len() => {
                    let (before, behind) = pads.split_at(kernel.len());
                    Padding::Given(before.iter().copied().zip(behind.iter().copied()).collect())
                }
                Some(_) => return None,
            },
            Some(_) => Padding::Given(vec![(0, 0); kernel.len()]),
        };
        Some(Self { strides: each("strides")?, dilations: each("dilations")?, kernel, padding })
    }

    /// Outputs along an axis of `extent`, and what is put before its first element.
    fn axis(&self, axis: usize, extent: usize) -> Option<(usize, i64)> {
        let reach = ((self.kernel[axis] - 1) * self.dilations[axis] + 1) as i64;
        let (extent, stride) = (extent as i64, self.strides[axis] as i64);
        match &self.padding {
            Padding::Given(pads) => {
                let (before, behind) = pads[axis];
                let steps = (extent + before + behind - reach).checked_div(stride)?;
                (extent + before + behind >= reach).then(|| (steps as usize + 1, before))
            }
            Padding::Same { lower } => {
                let outputs = extent.div_euclid(stride) + i64::from(extent % stride != 0);
                let total = ((outputs - 1) * stride + reach - extent).max(0);
                Some((outputs as usize, i64::midpoint(total, i64::from(*lower))))
            }
        }
    }

    /// Rows hold channel after channel, of each the positions of the kernel: as the weight does, group after group.
    fn add(&self, values: &[f32], shape: &[usize], width: usize, most: usize, rows: &mut Vec<f32>) -> Option<()> {
        let (spatial, taps) = (self.kernel.len(), self.kernel.iter().product::<usize>());
        if shape.len() != spatial + 2 || shape[1] * taps != width {
            return None;
        }
        let axes: Vec<(usize, i64)> = (0..spatial).map(|a| self.axis(a, shape[a + 2])).collect::<Option<_>>()?;
        let positions: usize = axes.iter().map(|(n, _)| n).product();
        let plane: usize = shape[2..].iter().product();
        for position in spread(shape[0] * positions, most) {
            let (sample, position) = (position / positions, position % positions);
            let offsets: Vec<Option<usize>> = (0..taps).map(|tap| self.offset(tap, position, &axes, shape)).collect();
            for channel in 0..shape[1] {
                let plane = &values[(sample * shape[1] + channel) * plane..][..plane];
                rows.extend(offsets.iter().map(|offset| offset.map_or(0.0, |at| plane[at])));
            }
        }
        Some(())
    }

    /// Where in its plane one position of the kernel lies for one position of the output; `None` in the padding.
    fn offset(&self, mut tap: usize, mut position: usize, axes: &[(usize, i64)], shape: &[usize]) -> Option<usize> {
        let (mut offset, mut stride) = (0, 1);
        for axis in (0..self.kernel.len()).rev() {
            let (outputs, before) = axes[axis];
            let step =
                (position % outputs * self.strides[axis] + tap % self.kernel[axis] * self.dilations[axis]) as i64;
            let at = usize::try_from(step - before).ok().filter(|at| *at < shape[axis + 2])?;
            offset += at * stride;
            stride *= shape[axis + 2];
            position /= outputs;
            tap /= self.kernel[axis];
        }
        Some(offset)
    }
}

/// Groups of a node's channels: 1 of anything but a convolution.
pub(super) fn groups(node: &NodeProto, found: &Linear) -> usize {
    if found.operator != Operator::Conv {
        return 1;
    }
    usize::try_from(int_attribute(node, "group", 1)).unwrap_or(1).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::tract::TractEngine;
    use crate::engine::{Engine, Feed, LoadOptions};
    use crate::model::build::{Builder, string_attribute as text};
    use crate::model::edit::{Index, ints};
    use crate::model::onnx::AttributeProto;
    use crate::model::{DType, Facts};
    use crate::optimizer::int8::linear::linear;

    fn values(n: usize) -> Vec<f32> {
        (0..n).map(|i| ((i * 37 % 101) as f32 - 50.0) * 0.02).collect()
    }

    /// Rows times weights of a convolution, next to what the engine computes.
    fn by_rows(
        attributes: Vec<AttributeProto>,
        group: usize,
        weight: &[usize],
        input: &[usize],
    ) -> (Vec<f32>, Vec<f32>) {
        let dims: Vec<String> = input.iter().map(ToString::to_string).collect();
        let dims: Vec<&str> = dims.iter().map(String::as_str).collect();
        let kernel = Tensor::new(weight, &values(weight.iter().product()));
        let attributes = attributes.into_iter().chain([crate::model::edit::int("group", group as i64)]).collect();
        let model = Builder::new(17)
            .input("x", DType::F32, &dims)
            .initializer("w", kernel.clone())
            .node("Conv", &["x", "w"], "y", attributes)
            .output("y", DType::F32, &["N", "C", "H", "W"][..input.len()])
            .build();
        let x = Tensor::new(input, &values(input.iter().product()));
        let mut session = TractEngine::new().load(&model, &LoadOptions::default()).unwrap();
        let expected = session.run(&Feed::new(vec![("x".into(), x.clone())])).unwrap().remove(0);

        let node = &model.graph().node[0];
        let found = linear(&model, &Index::new(model.graph()), &Facts::default(), node).unwrap();
        let depth = found.depth();
        let width = depth * groups(node, &found);
        let mut rows = Table::new(width);
        Source::of(node, &found, Rounding::None).unwrap().add(&x, width, usize::MAX, &mut rows).unwrap();
        let rows = rows.span(0, 0, width).into_iter().collect::<Vec<f32>>();
        let channels = weight[0];
        let positions = rows.len() / width;
        let weights = kernel.to_f32();
        let mut products = vec![0.0; expected.len()];
        for position in 0..positions {
            for channel in 0..channels {
                let first = channel / (channels / group) * depth;
                let row = &rows[position * width + first..][..depth];
                let sum: f32 = row.iter().zip(&weights[channel * depth..]).map(|(a, b)| a * b).sum();
                // Output is [sample, channel, position]; there is one sample.
                products[channel * positions + position] = sum;
            }
        }
        (products, expected.to_f32().into_owned())
    }

    #[test]
    fn rows_times_weights_are_the_convolution() {
        let cases: Vec<(Vec<AttributeProto>, usize, Vec<usize>, Vec<usize>)> = vec![
            (vec![], 1, vec![4, 3, 3, 3], vec![1, 3, 7, 6]),
            (vec![ints("pads", &[1, 0, 2, 1]), ints("strides", &[2, 1])], 1, vec![4, 3, 3, 2], vec![1, 3, 7, 6]),
            (vec![ints("dilations", &[2, 1]), ints("pads", &[1, 1, 1, 1])], 2, vec![4, 2, 3, 3], vec![1, 4, 8, 5]),
            (vec![text("auto_pad", "SAME_UPPER"), ints("strides", &[2, 2])], 4, vec![4, 1, 3, 3], vec![1, 4, 6, 7]),
            (vec![text("auto_pad", "SAME_LOWER")], 1, vec![2, 3, 2, 2], vec![1, 3, 5, 4]),
            (vec![text("auto_pad", "VALID")], 1, vec![2, 3, 2, 2], vec![1, 3, 5, 4]),
            (vec![ints("pads", &[2, 1])], 3, vec![6, 1, 4], vec![1, 3, 9]),
        ];
        for (attributes, group, weight, input) in cases {
            let (products, expected) = by_rows(attributes.clone(), group, &weight, &input);
            assert_eq!(products.len(), expected.len());
            for (a, b) in products.iter().zip(&expected) {
                assert!((a - b).abs() < 1e-4, "{attributes:?} group {group}: {a} {b}");
            }
        }
    }

    #[test]
    fn activations_are_rounded_as_the_pass_will_and_zero_stays_zero() {
        let x = Tensor::new(&[4, 2], &[0.0_f32, 10.0, -5.1, 3.3, 0.02, 2.0, 1.0, 250.0]);
        let source = |rounding| Source { activation: "x".into(), rounding, window: None };
        let rows = |rounding, most| {
            let mut rows = Table::new(2);
            source(rounding).add(&x, 2, most, &mut rows).unwrap();
            rows.span(0, 0, 2).into_iter().collect::<Vec<f32>>()
        };
        let fixed = Rounding::Fixed { scale: 0.1_f32.to_bits(), zero_point: 20 };
        let expected = [0.0, 10.0, -2.0, 3.3, 0.0, 2.0, 1.0, 23.5];
        assert!(rows(fixed, 9).iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-5), "{:?}", rows(fixed, 9));
        let few = rows(Rounding::None, 2);
        assert!([0.0, -5.1].contains(&few[0]) && [0.02, 1.0].contains(&few[2]) && few.len() == 4, "{few:?}");
        let per_run = rows(Rounding::PerRun, 9);
        assert_eq!(per_run[0], 0.0);
        assert!(per_run.iter().zip(&*x.to_f32()).all(|(a, b)| (a - b).abs() <= 0.501), "{per_run:?}");
        assert_eq!(source(Rounding::None).add(&x, 3, 9, &mut Table::new(3)), None, "rows of another width");
    }
}
