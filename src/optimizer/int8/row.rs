//! The row of biases behind a product, wherever the graph keeps it, and putting constants into the place of others.

use std::collections::HashSet;

use super::linear::{Bias, Linear, Operator};
use super::qdq::region::bias_behind;
use super::scope::overridable;
use super::store::{Store, remove_unread};
use crate::model::edit::{Index, is_op};
use crate::model::{Model, Tensor};

/// What is added to the products of a node: one value per output channel.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Row {
    /// Position of the node that adds it, and which of its operands it is. The operand may be absent.
    pub(super) node: usize,
    pub(super) operand: usize,
    /// The values, their factor multiplied in; zeros where there are none yet.
    pub(super) values: Vec<f32>,
}

impl Row {
    /// The row of node number `at`: the third operand of a `Conv` or `Gemm`, there or not, or what the `Add` behind a `MatMul` adds. `None` where the bias is
    /// computed or no row, and for a `MatMul` without an `Add`: one of its own would cost time at every run.
    pub(super) fn of(model: &Model, index: &Index, at: usize, found: &Linear) -> Option<Self> {
        match (&found.bias, found.operator) {
            (Bias::None, Operator::MatMul) => {
                let (node, operand, row) = bias_behind(model, index, &model.graph().node[at], found)?;
                Some(Self { node, operand, values: row.to_f32().into_owned() })
            }
            (Bias::None, _) => Some(Self { node: at, operand: 2, values: vec![0.0; found.channels()] }),
            (Bias::Constant { values, .. }, _) if values.shape() == [found.channels()] => {
                Some(Self { node: at, operand: 2, values: values.to_f32().into_owned() })
            }
            _ => None,
        }
    }

    /// Writes the values in its place.
    pub(super) fn put(&self, editor: &mut Editor, model: &mut Model, index: &Index) {
        let values = Tensor::new(&[self.values.len()], &self.values);
        editor.put(model, index, (self.node, self.operand), "bias", &values);
        let node = &mut model.graph_mut().node[self.node];
        if is_op(node, "Gemm") {
            node.attribute.retain(|a| a.name() != "beta");
        }
    }
}

/// Puts constants into the place of others. Positions of nodes stay as they are until the end.
pub(super) struct Editor {
    store: Store,
    taken: HashSet<String>,
    overridable: HashSet<String>,
    unread: Vec<String>,
}

impl Editor {
    pub(super) fn new(model: &Model) -> Self {
        Self {
            store: Store::new(model.proto().ir_version()),
            taken: model.tensor_names(),
            overridable: overridable(model).into_iter().map(str::to_owned).collect(),
            unread: Vec::new(),
        }
    }

    /// Gives `operand` of a node another constant. One that nobody else reads keeps its name, for others list weights by name; else the node gets one of its own,
    /// called after its output and `what`.
    pub(super) fn put(
        &mut self,
        model: &mut Model,
        index: &Index,
        (at, operand): (usize, usize),
        what: &str,
        tensor: &Tensor,
    ) {
        let node = &model.graph().node[at];
        let old = node.input.get(operand).filter(|name| !name.is_empty()).cloned();
        if let Some(name) = &old
            && let Some(position) = index.initializer(name)
            && index.only_reader(name) == Some(at)
            && node.input.iter().filter(|i| *i == name).count() == 1
            && !self.overridable.contains(name)
        {
            let proto = &mut model.graph_mut().initializer[position];
            let same_shape =
                proto.dims.iter().map(|&d| usize::try_from(d).ok()).eq(tensor.shape().iter().copied().map(Some));
            if same_shape {
                *proto = tensor.to_proto(name);
                return;
            }
        }
        let stem = format!("{}_{what}", model.graph().node[at].output.first().map_or("", String::as_str));
        let name = Model::fresh_name(&mut self.taken, &stem);
        self.store.add(&name, tensor);
        self.unread.extend(old);
        let inputs = &mut model.graph_mut().node[at].input;
        inputs.resize(inputs.len().max(operand + 1), String::new());
        inputs[operand] = name;
    }

    /// Puts everything into the graph and removes what nobody reads any more.
    pub(super) fn finish(self, model: &mut Model) {
        self.store.flush(model.graph_mut());
        remove_unread(model, self.unread);
    }
}
