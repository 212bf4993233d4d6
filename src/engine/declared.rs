//! What a model says of its inputs and outputs. A declaration may be wrong or missing; it guides, execution decides.

use crate::model::onnx::{ValueInfoProto, tensor_shape_proto::dimension, type_proto};
use crate::model::{DType, Model};

/// One declared axis.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Extent {
    /// A positive number.
    Fixed(usize),
    /// A symbol, e.g. `batch`. Exporters that write `-1` or `?` mean "anything": that is [`Extent::Free`].
    Named(String),
    /// Nothing is said.
    Free,
}

/// A declared input or output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Declared {
    /// Its tensor name.
    pub name: String,
    /// Element type; `None` when it is not declared or not one that [`DType`] knows (text, sequences).
    pub dtype: Option<DType>,
    /// Axes; `None` when not even the rank is declared.
    pub shape: Option<Vec<Extent>>,
}

impl Declared {
    /// The inputs that a caller must feed, in the model's order.
    pub fn inputs(model: &Model) -> Vec<Self> {
        let names = model.input_names();
        model.graph().input.iter().filter(|i| names.contains(&i.name())).map(Self::of).collect()
    }

    /// The outputs, in the model's order.
    pub fn outputs(model: &Model) -> Vec<Self> {
        model.graph().output.iter().map(Self::of).collect()
    }

    fn of(info: &ValueInfoProto) -> Self {
        let tensor = match info.r#type.as_ref().and_then(|t| t.value.as_ref()) {
            Some(type_proto::Value::TensorType(tensor)) => Some(tensor),
            _ => None,
        };
        let extent = |value: Option<&dimension::Value>| match value {
            Some(dimension::Value::DimValue(n)) if *n > 0 => Extent::Fixed(*n as usize),
            Some(dimension::Value::DimParam(s)) if !s.is_empty() && s != "?" && s.parse::<i64>().is_err() => Extent::Named(s.clone()),
            _ => Extent::Free,
        };
        Self {
            name: info.name().to_owned(),
            dtype: tensor.and_then(|t| DType::from_onnx(t.elem_type())),
            shape: tensor.and_then(|t| t.shape.as_ref()).map(|s| s.dim.iter().map(|d| extent(d.value.as_ref())).collect()),
        }
    }

    /// Whether `shape` contradicts the declaration: another rank, or another extent on a fixed axis.
    pub fn contradicts(&self, shape: &[usize]) -> bool {
        let fits = |declared: &Vec<Extent>| {
            let axis = |(d, &n): (&Extent, &usize)| !matches!(d, Extent::Fixed(f) if *f != n);
            declared.len() == shape.len() && declared.iter().zip(shape).all(axis)
        };
        !self.shape.as_ref().is_none_or(fits)
    }

    /// The shape in words, e.g. `[batch, 3, ?]`.
    pub fn shape_text(&self) -> String {
        let Some(shape) = &self.shape else {
            return "any shape".to_owned();
        };
        let axis = |e: &Extent| match e {
            Extent::Fixed(n) => n.to_string(),
            Extent::Named(s) => s.clone(),
            Extent::Free => "?".to_owned(),
        };
        format!("[{}]", shape.iter().map(axis).collect::<Vec<_>>().join(", "))
    }
}
