//! Symbolic shapes: which extents are fixed by the model itself, which are equal to which, and which small integer tensors hold them.
//!
//! Everything derived here holds for any feed the model accepts. So an extent that was merely observed is not used: the first axis of a graph input is always a
//! symbol, and so is an axis whose declaration is no number or was contradicted by execution.

use std::collections::HashMap;

use super::evaluate::{axis, movement::cut, movement::permutation, shape_range};
use super::net::{Net, input};
use crate::model::onnx::{NodeProto, tensor_shape_proto::dimension::Value, type_proto};
use crate::model::{DType, edit};

/// One extent, or one element of a small integer tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Extent {
    /// The same for every feed.
    Fixed(i64),
    /// Depends on the feed; equal numbers are equal extents.
    Symbol(u32),
}

use Extent::{Fixed, Symbol};

/// The elements of an integer tensor of rank 0 or 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Values {
    /// Whether the tensor has rank 0.
    pub(crate) scalar: bool,
    /// Its elements.
    pub(crate) items: Vec<Extent>,
}

/// Longest integer tensor whose elements are followed.
const MOST_VALUES: usize = 64;

/// Shapes and small integer values by tensor name.
#[derive(Debug, Default)]
pub(crate) struct Shapes {
    extents: HashMap<String, Vec<Extent>>,
    values: HashMap<String, Values>,
    next: u32,
}

impl Shapes {
    /// Shapes of the graph's inputs; nodes are added by [`Shapes::visit`].
    pub(crate) fn of_inputs(net: &Net) -> Self {
        let mut shapes = Self::default();
        let mut symbols: HashMap<String, Extent> = HashMap::new();
        for declared in &net.graph().input {
            let name = declared.name();
            if net.initializer(name).is_some() {
                continue;
            }
            let Some(type_proto::Value::TensorType(tensor)) = declared.r#type.as_ref().and_then(|t| t.value.as_ref())
            else {
                continue;
            };
            let observed = net.facts().get(name);
            let dims = tensor.shape.as_ref().map(|s| s.dim.as_slice());
            let rank = observed.map(|f| f.shape.len()).or(dims.map(<[_]>::len));
            let Some(rank) = rank else { continue };
            let dims = dims.filter(|d| d.len() == rank);
            let mut extents = Vec::with_capacity(rank);
            for at in 0..rank {
                let declared = dims.and_then(|d| d[at].value.as_ref());
                let seen = observed.map(|f| f.shape[at]);
                extents.push(match declared {
                    Some(&Value::DimValue(n)) if at > 0 && n > 0 => {
                        if seen.is_none_or(|s| s == usize::try_from(n).ok()) { Fixed(n) } else { shapes.symbol() }
                    }
                    // The same symbol is the same extent, unless execution says otherwise.
                    Some(Value::DimParam(symbol)) if !symbol.is_empty() && symbol != "?" => {
                        let fresh = shapes.symbol();
                        let seen = seen.flatten();
                        *symbols.entry(format!("{symbol} {seen:?}")).or_insert(fresh)
                    }
                    _ => shapes.symbol(),
                });
            }
            shapes.extents.insert(name.to_owned(), extents);
        }
        shapes
    }

    /// Shapes of the whole graph, whose nodes must be in topological order.
    pub(crate) fn infer(net: &Net) -> Self {
        let mut shapes = Self::of_inputs(net);
        for id in net.ids() {
            if let Some(node) = net.get(id) {
                shapes.visit(net, node);
            }
        }
        shapes
    }

    fn symbol(&mut self) -> Extent {
        self.next += 1;
        Symbol(self.next)
    }

    fn symbols(&mut self, rank: usize) -> Vec<Extent> {
        (0..rank).map(|_| self.symbol()).collect()
    }

    /// The extents of a tensor, constants included.
    pub(crate) fn get(&self, net: &Net, tensor: &str) -> Option<Vec<Extent>> {
        if let Some(shape) = self.extents.get(tensor) {
            return Some(shape.clone());
        }
        Some(net.constant_info(tensor)?.1.iter().map(|&d| Fixed(d as i64)).collect())
    }

    /// Number of axes, where inference does not know it as observed.
    pub(crate) fn rank(&self, net: &Net, tensor: &str) -> Option<usize> {
        self.get(net, tensor).map(|s| s.len()).or_else(|| net.facts().rank(tensor))
    }

    /// The elements of a small integer tensor, constants included.
    pub(crate) fn values(&self, net: &Net, tensor: &str) -> Option<Values> {
        if let Some(values) = self.values.get(tensor) {
            return Some(values.clone());
        }
        let (dtype, shape) = net.constant_info(tensor)?;
        if shape.len() > 1 || shape.iter().any(|&n| n > MOST_VALUES) || dtype.is_float() || dtype == DType::Bool {
            return None;
        }
        let items = net.ints(tensor)?.into_iter().map(Fixed).collect();
        Some(Values { scalar: shape.is_empty(), items })
    }

    /// Adds what a node computes.
    pub(crate) fn visit(&mut self, net: &Net, node: &NodeProto) {
        let Some(output) = node.output.first() else { return };
        let standard = matches!(node.domain(), "" | "ai.onnx");
        if standard && let Some(values) = self.value_rule(net, node).filter(|v| v.items.len() <= MOST_VALUES) {
            let shape = if values.scalar { Vec::new() } else { vec![Fixed(values.items.len() as i64)] };
            self.extents.insert(output.clone(), shape);
            self.values.insert(output.clone(), values);
            return;
        }
        if standard && let Some(shapes) = self.shape_rule(net, node) {
            for (output, shape) in node.output.iter().zip(shapes) {
                self.extents.insert(output.clone(), shape);
            }
        }
        for output in node.output.iter().filter(|o| !o.is_empty()) {
            if !self.extents.contains_key(output)
                && let Some(rank) = net.facts().rank(output)
            {
                let fresh = self.symbols(rank);
                self.extents.insert(output.clone(), fresh);
            }
        }
    }

    fn value_rule(&mut self, net: &Net, node: &NodeProto) -> Option<Values> {
        let first = input(node, 0)?;
        Some(match node.op_type() {
            "Shape" => {
                let shape = self.get(net, first)?;
                let (start, end) = shape_range(node, shape.len());
                Values { scalar: false, items: shape.get(start..end).unwrap_or_default().to_vec() }
            }
            "Size" => {
                let shape = self.get(net, first)?;
                let one = self.product(&shape);
                Values { scalar: true, items: vec![one] }
            }
            "Identity" => self.values(net, first)?,
            "Cast" => {
                let to = i32::try_from(edit::int_attribute(node, "to", 0)).ok().and_then(DType::from_onnx)?;
                let values = self.values(net, first)?;
                matches!(to, DType::I64 | DType::I32).then_some(values)?
            }
            "Gather" if edit::int_attribute(node, "axis", 0) == 0 => {
                let from = self.values(net, first).filter(|v| !v.scalar)?;
                let at = self.values(net, input(node, 1)?)?;
                let pick = |i: &Extent| match i {
                    Fixed(i) => from.items.get(axis(*i, from.items.len())?).copied(),
                    Symbol(_) => None,
                };
                Values { scalar: at.scalar, items: at.items.iter().map(pick).collect::<Option<_>>()? }
            }
            "Slice" => {
                let from = self.values(net, first).filter(|v| !v.scalar)?;
                let bound = |position: usize, name: &str, default: i64| -> Option<i64> {
                    match input(node, position) {
                        Some(tensor) => net.ints(tensor)?.first().copied(),
                        None => {
                            Some(edit::ints_attribute(node, name).and_then(|v| v.first().copied()).unwrap_or(default))
                        }
                    }
                };
                let (start, end, step) = (bound(1, "starts", 0)?, bound(2, "ends", i64::MAX)?, bound(4, "steps", 1)?);
                let cut = cut(from.items.len(), start, end, step)?;
                let at = |i: usize| from.items[(cut.start as i64 + i as i64 * cut.step) as usize];
                Values { scalar: false, items: (0..cut.count).map(at).collect() }
            }
            "Concat" => {
                let mut items = Vec::new();
                for part in &node.input {
                    items.extend(self.values(net, part).filter(|v| !v.scalar)?.items);
                }
                Values { scalar: false, items }
            }
            "Unsqueeze" => {
                let from = self.values(net, first).filter(|v| v.scalar)?;
                let axes = list(net, node, 1, "axes")?;
                (axes.len() == 1).then_some(Values { scalar: false, items: from.items })?
            }
            "Squeeze" => {
                let from = self.values(net, first).filter(|v| !v.scalar && v.items.len() == 1)?;
                Values { scalar: true, items: from.items }
            }
            "Reshape" => {
                let from = self.values(net, first)?;
                match list(net, node, 1, "shape")?.as_slice() {
                    [] => Values { scalar: true, items: from.items },
                    [_] => Values { scalar: false, items: from.items },
                    _ => return None,
                }
            }
            "ReduceProd" if edit::int_attribute(node, "keepdims", 1) == 0 => {
                let from = self.values(net, first).filter(|v| !v.scalar)?;
                Values { scalar: true, items: vec![self.product(&from.items)] }
            }
            op @ ("Add" | "Sub" | "Mul" | "Div") => {
                let (a, b) = (self.values(net, first)?, self.values(net, input(node, 1)?)?);
                let n = match (a.items.len(), b.items.len()) {
                    (n, 1) | (1, n) => n,
                    (m, n) if m == n => n,
                    _ => return None,
                };
                let at = |v: &Values, i: usize| v.items[if v.items.len() == 1 { 0 } else { i }];
                let items = (0..n).map(|i| self.arithmetic(op, at(&a, i), at(&b, i))).collect::<Option<_>>()?;
                Values { scalar: a.scalar && b.scalar, items }
            }
            _ => return None,
        })
    }

    fn arithmetic(&mut self, op: &str, a: Extent, b: Extent) -> Option<Extent> {
        Some(match (op, a, b) {
            ("Add", Fixed(a), Fixed(b)) => Fixed(a.checked_add(b)?),
            ("Sub", Fixed(a), Fixed(b)) => Fixed(a.checked_sub(b)?),
            ("Mul", Fixed(a), Fixed(b)) => Fixed(a.checked_mul(b)?),
            ("Div", Fixed(a), Fixed(b)) => Fixed(a.checked_div(b)?),
            ("Mul" | "Div", a, Fixed(1))
            | ("Mul", Fixed(1), a)
            | ("Add" | "Sub", a, Fixed(0))
            | ("Add", Fixed(0), a) => a,
            _ => self.symbol(),
        })
    }

    fn product(&mut self, items: &[Extent]) -> Extent {
        let mut total = Fixed(1);
        for &item in items {
            total = self.arithmetic("Mul", total, item).unwrap_or(Fixed(0));
        }
        total
    }

    #[allow(clippy::too_many_lines, reason = "one arm per operator")]
    fn shape_rule(&mut self, net: &Net, node: &NodeProto) -> Option<Vec<Vec<Extent>>> {
        let first = input(node, 0).unwrap_or_default();
        let x = self.get(net, first);
        let one = match node.op_type() {
            "Relu"
            | "LeakyRelu"
            | "Elu"
            | "Selu"
            | "Celu"
            | "Sigmoid"
            | "HardSigmoid"
            | "HardSwish"
            | "Tanh"
            | "Erf"
            | "Gelu"
            | "Exp"
            | "Log"
            | "Sqrt"
            | "Reciprocal"
            | "Neg"
            | "Abs"
            | "Floor"
            | "Ceil"
            | "Round"
            | "Sign"
            | "Softplus"
            | "Softsign"
            | "Mish"
            | "Sin"
            | "Cos"
            | "Clip"
            | "Cast"
            | "Identity"
            | "Softmax"
            | "LogSoftmax"
            | "Hardmax"
            | "LpNormalization"
            | "Not"
            | "IsNaN"
            | "IsInf"
            | "CumSum"
            | "QuantizeLinear"
            | "DequantizeLinear"
            | "Trilu"
            | "InstanceNormalization"
            | "GroupNormalization"
            | "LRN"
            | "ScatterND"
            | "ScatterElements"
            | "ThresholdedRelu" => x?,
            "Dropout" => return x.map(|x| vec![x; node.output.len()]),
            "BatchNormalization" | "LayerNormalization" => return x.map(|x| vec![x]),
            "Add" | "Sub" | "Mul" | "Div" | "Pow" | "Mod" | "Min" | "Max" | "Sum" | "Mean" | "Equal" | "Less"
            | "Greater" | "LessOrEqual" | "GreaterOrEqual" | "And" | "Or" | "Xor" | "PRelu" | "Where" => {
                let mut total = x?;
                for other in node.input.get(1..).unwrap_or_default() {
                    let other = self.get(net, other)?;
                    total = self.broadcast(&total, &other)?;
                }
                total
            }
            "Transpose" => {
                let x = x?;
                permutation(node, x.len())?.into_iter().map(|p| x[p]).collect()
            }
            "Reshape" => self.reshaped(net, node, x.as_deref())?,
            "Flatten" => {
                let x = x?;
                let at = edit::int_attribute(node, "axis", 1);
                let at = usize::try_from(if at < 0 { at + x.len() as i64 } else { at }).ok()?;
                let (outer, inner) = x.split_at_checked(at)?;
                vec![self.product(outer), self.product(inner)]
            }
            "Squeeze" => {
                let x = x?;
                let axes = list(net, node, 1, "axes")?;
                let axes = axes.iter().map(|&a| axis(a, x.len())).collect::<Option<Vec<_>>>()?;
                x.iter().enumerate().filter(|(i, _)| !axes.contains(i)).map(|(_, &d)| d).collect()
            }
            "Unsqueeze" => {
                let x = x?;
                let axes = list(net, node, 1, "axes")?;
                let rank = x.len() + axes.len();
                let axes = axes.iter().map(|&a| axis(a, rank)).collect::<Option<Vec<_>>>()?;
                let mut rest = x.into_iter();
                (0..rank)
                    .map(|i| if axes.contains(&i) { Some(Fixed(1)) } else { rest.next() })
                    .collect::<Option<_>>()?
            }
            "Concat" => {
                let mut total = x?;
                let along = axis(edit::int_attribute(node, "axis", 0), total.len())?;
                for part in &node.input[1..] {
                    let part = self.get(net, part).filter(|p| p.len() == total.len())?;
                    let sum = self.arithmetic("Add", total[along], part[along])?;
                    for (mine, other) in total.iter_mut().zip(part) {
                        // All parts agree outside of the axis: what one part fixes holds for all.
                        if let Fixed(_) = other {
                            *mine = other;
                        }
                    }
                    total[along] = sum;
                }
                total
            }
            "Gather" => {
                let x = x?;
                let at = self.get(net, input(node, 1)?)?;
                let along = axis(edit::int_attribute(node, "axis", 0), x.len())?;
                [&x[..along], &at, &x[along + 1..]].concat()
            }
            "Slice" => self.sliced(net, node, &x?)?,
            "Expand" => {
                let target = self.values(net, input(node, 1)?)?.items;
                self.broadcast(&x?, &target)?
            }
            "Tile" => {
                let repeats = self.values(net, input(node, 1)?)?.items;
                let x = x.filter(|x| x.len() == repeats.len())?;
                x.iter().zip(&repeats).map(|(&d, &r)| self.arithmetic("Mul", d, r)).collect::<Option<_>>()?
            }
            "ConstantOfShape" => self.values(net, first)?.items,
            "Pad" => {
                let x = x?;
                let pads = list(net, node, 1, "pads").filter(|p| p.len() == 2 * x.len() && input(node, 3).is_none())?;
                (0..x.len())
                    .map(|i| self.arithmetic("Add", x[i], Fixed(pads[i] + pads[i + x.len()])))
                    .collect::<Option<_>>()?
            }
            "Split" => return self.split(net, node, &x?),
            "ReduceSum" | "ReduceMean" | "ReduceMax" | "ReduceMin" | "ReduceProd" | "ReduceL1" | "ReduceL2"
            | "ReduceLogSumExp" | "ReduceSumSquare" => Self::reduced(net, node, &x?)?,
            "ArgMax" | "ArgMin" => {
                let mut x = x?;
                let along = axis(edit::int_attribute(node, "axis", 0), x.len())?;
                if edit::int_attribute(node, "keepdims", 1) != 0 {
                    x[along] = Fixed(1);
                } else {
                    x.remove(along);
                }
                x
            }
            "MatMul" => {
                let (mut a, b) = (x?, self.get(net, input(node, 1)?)?);
                if a.len() < 2 || b.len() < 2 {
                    return None;
                }
                let column = *b.last()?;
                let batch = self.broadcast(&a[..a.len() - 2], &b[..b.len() - 2])?;
                let row = a.swap_remove(a.len() - 2);
                [&batch[..], &[row, column]].concat()
            }
            "Gemm" => {
                let (a, b) = (x.filter(|x| x.len() == 2)?, self.get(net, input(node, 1)?).filter(|b| b.len() == 2)?);
                let flag = |name: &str| usize::from(edit::int_attribute(node, name, 0) != 0);
                vec![a[flag("transA")], b[1 - flag("transB")]]
            }
            "Conv" => {
                let (x, w) = (x?, self.get(net, input(node, 1)?)?);
                let kernel = w.get(2..)?.to_vec();
                let spatial = self.window(node, x.get(2..)?, &kernel);
                [&[x[0], w[0]], &spatial[..]].concat()
            }
            "MaxPool" | "AveragePool" => {
                let x = x?;
                let kernel: Vec<Extent> =
                    edit::ints_attribute(node, "kernel_shape")?.iter().map(|&k| Fixed(k)).collect();
                let spatial = self.window(node, x.get(2..)?, &kernel);
                [x.get(..2)?, &spatial].concat()
            }
            "GlobalAveragePool" | "GlobalMaxPool" => {
                x?.into_iter().enumerate().map(|(i, d)| if i < 2 { d } else { Fixed(1) }).collect()
            }
            _ => return None,
        };
        Some(vec![one])
    }

    fn broadcast(&mut self, a: &[Extent], b: &[Extent]) -> Option<Vec<Extent>> {
        let rank = a.len().max(b.len());
        let at = |s: &[Extent], i: usize| if i + s.len() < rank { Fixed(1) } else { s[i + s.len() - rank] };
        (0..rank)
            .map(|i| match (at(a, i), at(b, i)) {
                (Fixed(1), d) | (d, Fixed(1)) => Some(d),
                (a, b) if a == b => Some(a),
                (Fixed(_), Fixed(_)) => None,
                // A symbol against a number above one must be one or that number: the result is the number.
                (Fixed(n), Symbol(_)) | (Symbol(_), Fixed(n)) => Some(Fixed(n)),
                _ => Some(self.symbol()),
            })
            .collect()
    }

    fn reshaped(&mut self, net: &Net, node: &NodeProto, x: Option<&[Extent]>) -> Option<Vec<Extent>> {
        let target = match input(node, 1) {
            Some(tensor) => self.values(net, tensor)?.items,
            None => edit::ints_attribute(node, "shape")?.iter().map(|&d| Fixed(d)).collect(),
        };
        let keep_zero = edit::int_attribute(node, "allowzero", 0) != 0;
        let mut dims = Vec::with_capacity(target.len());
        let mut open = None;
        for (i, &d) in target.iter().enumerate() {
            dims.push(match d {
                Fixed(0) if !keep_zero => match x {
                    Some(x) => *x.get(i)?,
                    None => self.symbol(),
                },
                Fixed(-1) => {
                    open = Some(i);
                    self.symbol()
                }
                d => d,
            });
        }
        // The open extent follows where everything else cancels: equal symbols on both sides, then a division of the fixed parts.
        if let (Some(open), Some(x)) = (open, x) {
            let mut left: Vec<Extent> = x.iter().copied().filter(|d| matches!(d, Symbol(_))).collect();
            let mut cancels = true;
            for d in dims.iter().enumerate().filter(|&(i, d)| i != open && matches!(d, Symbol(_))).map(|(_, d)| d) {
                match left.iter().position(|l| l == d) {
                    Some(at) => drop(left.swap_remove(at)),
                    None => cancels = false,
                }
            }
            let fixed = |dims: &[Extent], skip: Option<usize>| {
                let numbers = dims.iter().enumerate().filter(|(i, _)| Some(*i) != skip);
                numbers
                    .filter_map(|(_, d)| if let Fixed(n) = d { Some(*n) } else { None })
                    .try_fold(1_i64, i64::checked_mul)
            };
            if cancels && let (Some(have), Some(used)) = (fixed(x, None), fixed(&dims, Some(open))) {
                match left.as_slice() {
                    [] if used > 0 && have % used == 0 => dims[open] = Fixed(have / used),
                    [only] if used == have => dims[open] = *only,
                    _ => {}
                }
            }
        }
        Some(dims)
    }

    fn sliced(&mut self, net: &Net, node: &NodeProto, x: &[Extent]) -> Option<Vec<Extent>> {
        let starts = list(net, node, 1, "starts");
        let ends = list(net, node, 2, "ends");
        let axes = match list(net, node, 3, "axes") {
            Some(axes) => axes,
            None if input(node, 3).is_some() => return Some(self.symbols(x.len())),
            None => (0..x.len() as i64).collect(),
        };
        let steps = if input(node, 4).is_some() { list(net, node, 4, "steps") } else { Some(vec![1; axes.len()]) };
        let mut out = x.to_vec();
        for (i, &a) in axes.iter().enumerate() {
            let a = axis(a, x.len())?;
            let bounds = [&starts, &ends, &steps].map(|list| list.as_ref().and_then(|l| l.get(i).copied()));
            out[a] = match (x[a], bounds) {
                (Fixed(n), [Some(start), Some(end), Some(step)]) => {
                    Fixed(cut(usize::try_from(n).ok()?, start, end, step)?.count as i64)
                }
                (d, [Some(0), Some(end), Some(1)]) if end >= i64::from(i32::MAX) => d,
                _ => self.symbol(),
            };
        }
        Some(out)
    }

    fn split(&mut self, net: &Net, node: &NodeProto, x: &[Extent]) -> Option<Vec<Vec<Extent>>> {
        let along = axis(edit::int_attribute(node, "axis", 0), x.len())?;
        let parts = node.output.len() as i64;
        let sizes = list(net, node, 1, "split");
        let size = |shapes: &mut Self, i: usize| match (&sizes, x[along]) {
            (Some(sizes), _) => sizes.get(i).map(|&s| Fixed(s)),
            (None, Fixed(n)) if input(node, 1).is_none() && n % parts == 0 => Some(Fixed(n / parts)),
            _ => Some(shapes.symbol()),
        };
        let mut out = Vec::new();
        for i in 0..node.output.len() {
            let mut shape = x.to_vec();
            shape[along] = size(self, i)?;
            out.push(shape);
        }
        Some(out)
    }

    fn reduced(net: &Net, node: &NodeProto, x: &[Extent]) -> Option<Vec<Extent>> {
        let axes = match list(net, node, 1, "axes") {
            Some(axes) => axes,
            None if input(node, 1).is_some() => return None,
            None => Vec::new(),
        };
        let keep = edit::int_attribute(node, "keepdims", 1) != 0;
        let axes = axes.iter().map(|&a| axis(a, x.len())).collect::<Option<Vec<_>>>()?;
        if axes.is_empty() && edit::int_attribute(node, "noop_with_empty_axes", 0) != 0 {
            return Some(x.to_vec());
        }
        let gone = |i: usize| axes.is_empty() || axes.contains(&i);
        Some(if keep {
            x.iter().enumerate().map(|(i, &d)| if gone(i) { Fixed(1) } else { d }).collect()
        } else {
            x.iter().enumerate().filter(|(i, _)| !gone(*i)).map(|(_, &d)| d).collect()
        })
    }

    /// Spatial extents behind a convolution or pooling window.
    fn window(&mut self, node: &NodeProto, x: &[Extent], kernel: &[Extent]) -> Vec<Extent> {
        let n = x.len();
        let list = |name: &str, default: i64| {
            edit::ints_attribute(node, name).map_or_else(|| vec![default; n], <[i64]>::to_vec)
        };
        let (strides, dilations) = (list("strides", 1), list("dilations", 1));
        let pads = edit::ints_attribute(node, "pads").map_or_else(|| vec![0; 2 * n], <[i64]>::to_vec);
        let auto = edit::string_attribute(node, "auto_pad").unwrap_or("NOTSET");
        let ceil = edit::int_attribute(node, "ceil_mode", 0) != 0;
        let complete = strides.len() == n && dilations.len() == n && pads.len() == 2 * n && kernel.len() == n;
        (0..n)
            .map(|i| match (x[i], kernel.get(i)) {
                (Fixed(d), Some(&Fixed(k))) if complete && !ceil && strides[i] > 0 => {
                    let reach = (k - 1) * dilations[i] + 1;
                    match auto {
                        "NOTSET" | "" => Fixed((d + pads[i] + pads[i + n] - reach) / strides[i] + 1),
                        "VALID" => Fixed((d - reach) / strides[i] + 1),
                        _ => Fixed((d + strides[i] - 1) / strides[i]),
                    }
                }
                // A window that keeps the extent keeps the symbol.
                (d, Some(&Fixed(k))) if complete && strides[i] == 1 => {
                    let same = pads[i] + pads[i + n] == (k - 1) * dilations[i];
                    if auto.starts_with("SAME") || (matches!(auto, "NOTSET" | "") && same) { d } else { self.symbol() }
                }
                _ => self.symbol(),
            })
            .collect()
    }

    /// The target of a constant Reshape that turns a tensor of shape `from` into shape `to`: numbers, copied axes (0) and at most one open axis (-1).
    /// `None` when more than one extent would stay open.
    pub(crate) fn reshape_target(from: &[Extent], to: &[Extent]) -> Option<Vec<i64>> {
        let mut open = None;
        let mut target = Vec::with_capacity(to.len());
        for (i, &d) in to.iter().enumerate() {
            target.push(match d {
                Fixed(n) if n > 0 => n,
                Fixed(_) => return None,
                d if from.get(i) == Some(&d) => 0,
                Symbol(_) => {
                    if open.replace(i).is_some() {
                        return None;
                    }
                    -1
                }
            });
        }
        Some(target)
    }
}

/// A constant list of integers that newer opsets take as an input and older ones as an attribute.
fn list(net: &Net, node: &NodeProto, position: usize, attribute: &str) -> Option<Vec<i64>> {
    match input(node, position) {
        Some(tensor) => net.ints(tensor),
        None => edit::ints_attribute(node, attribute).map(<[i64]>::to_vec),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::accelerator::net;
    use crate::model::build::Builder;
    use crate::model::{DType, Facts, Tensor};

    #[test]
    fn extents_are_fixed_by_the_model_and_never_by_the_batch() {
        let mut model = Builder::new(17)
            .input("x", DType::F32, &["2", "8", "S"])
            .node("Shape", &["x"], "s", vec![])
            .node("Transpose", &["x"], "t", vec![])
            .node("Flatten", &["x"], "f", vec![edit::int("axis", 2)])
            .initializer("w", Tensor::new(&[2, 4], &[0.0_f32; 8]))
            .output("t", DType::F32, &["S", "8", "2"])
            .build();
        net::edit(&mut model, &mut Facts::default(), |net| {
            let shapes = Shapes::infer(net);
            let x = shapes.get(net, "x").unwrap();
            assert!(matches!(x[..], [Symbol(_), Fixed(8), Symbol(_)]));
            assert_eq!(shapes.values(net, "s").unwrap().items, x);
            assert_eq!(shapes.get(net, "t").unwrap(), [x[2], x[1], x[0]]);
            assert_eq!(shapes.get(net, "f").unwrap()[1], x[2]);
            assert_eq!(shapes.get(net, "w").unwrap(), [Fixed(2), Fixed(4)]);
        });
    }

    #[test]
    fn an_open_axis_that_is_a_product_stays_open() {
        let (a, b) = (Symbol(1), Symbol(2));
        assert_eq!(Shapes::reshape_target(&[a, b, Fixed(6)], &[a, b, Fixed(2), Fixed(3)]), Some(vec![0, 0, 2, 3]));
        assert_eq!(Shapes::reshape_target(&[a, b, Fixed(6)], &[Symbol(9), Fixed(6)]), Some(vec![-1, 6]));
        assert_eq!(Shapes::reshape_target(&[a, b, Fixed(6)], &[Symbol(9), b]), Some(vec![-1, 0]));
        assert_eq!(Shapes::reshape_target(&[a, b], &[b, a]), None);
    }
}
