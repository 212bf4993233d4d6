//! Internal tensors as further outputs: the graph that an engine loads gets them as graph outputs, and what it hands back is put in the order asked for.
//! Or as what nodes of our own look at.

use std::collections::{HashMap, HashSet};

use super::Feed;
use crate::model::edit::{Index, int, node};
use crate::model::onnx::{NodeProto, ValueInfoProto};
use crate::model::{Model, Tensor};

/// A model with its taps as graph outputs.
#[derive(Debug)]
pub(crate) struct Tapped {
    /// What the engine loads.
    pub(crate) model: Model,
    /// How to read what it returns.
    pub(crate) order: TapOrder,
}

/// How to arrange what an engine returns for a [`Tapped`] model.
#[derive(Debug, Clone)]
pub(crate) struct TapOrder {
    /// Number of outputs of the original model.
    pub(crate) outputs: usize,
    sources: Vec<Source>,
}

/// Where a tap comes from.
#[derive(Debug, Clone)]
enum Source {
    /// The engine's output at this position.
    Output(usize),
    Apart(Apart),
}

/// A tap that no node computes.
#[derive(Debug, Clone)]
pub(crate) enum Apart {
    /// From the feed: engines refuse an input that is an output.
    Input(String),
    /// From the model's file.
    Constant(Tensor),
}

impl Apart {
    /// Its value in a run.
    pub(crate) fn value<'t>(&'t self, feed: &'t Feed) -> Result<&'t Tensor, String> {
        match self {
            Self::Input(name) => feed.get(name).ok_or_else(|| format!("input '{name}' is missing")),
            Self::Constant(value) => Ok(value),
        }
    }
}

/// What gives a tap its value.
enum Origin {
    Apart(Apart),
    /// The node at this position.
    Node(usize),
}

/// `None` where it is no tensor of the main graph.
fn origin(model: &Model, index: &Index, inputs: &HashSet<&str>, tap: &str) -> Option<Origin> {
    if inputs.contains(tap) {
        Some(Origin::Apart(Apart::Input(tap.to_owned())))
    } else if let Some(constant) = model.constant(index, tap) {
        Some(Origin::Apart(Apart::Constant(constant)))
    } else {
        index.producer(tap).map(Origin::Node)
    }
}

/// Nodes that look at a tensor, for an engine that has an operator for it.
pub(crate) mod observer {
    /// Its domain.
    pub(crate) const DOMAIN: &str = "dev.bakehouse";
    /// Its name. It has one input, and one output that means nothing.
    pub(crate) const OP: &str = "Observe";
    /// Its attribute: the number of the tap.
    pub(crate) const TAP: &str = "tap";
}

/// A model with nodes that look at its taps.
#[derive(Debug)]
pub(crate) struct Watched {
    /// What the engine loads.
    pub(crate) model: Model,
    /// Taps that no node computes, and where they come from.
    pub(crate) apart: Vec<(usize, Apart)>,
}

impl Watched {
    /// Adds an observer of each of `taps` to a copy of `model`. The error names a tap that is no tensor of the main graph.
    pub(crate) fn new(model: &Model, taps: &[String]) -> Result<Self, String> {
        let index = Index::new(model.graph());
        let inputs: HashSet<&str> = model.input_names().into_iter().collect();
        let (mut apart, mut computed) = (Vec::new(), Vec::new());
        for (at, tap) in taps.iter().enumerate() {
            match origin(model, &index, &inputs, tap).ok_or_else(|| missing(tap))? {
                Origin::Apart(source) => apart.push((at, source)),
                Origin::Node(producer) => computed.push((producer, at)),
            }
        }
        // ONNX Runtime goes from the last node without a reader back to what it needs, then on to the one before it. So what is computed first is looked at last in
        // the file, and each observer runs right behind the node that it looks at.
        computed.sort_unstable_by(|a, b| b.cmp(a));
        let mut model = model.clone();
        for (_, at) in computed {
            let (name, tap) = (format!("{}/{at}", observer::DOMAIN), taps[at].as_str());
            let domain = Some(observer::DOMAIN.to_owned());
            let observer = node(observer::OP, "", &[tap], &[&name], vec![int(observer::TAP, at as i64)]);
            let graph = model.graph_mut();
            graph.node.push(NodeProto { domain, ..observer });
            graph.output.push(ValueInfoProto { name: Some(name), ..ValueInfoProto::default() });
        }
        model.import(observer::DOMAIN, 1);
        Ok(Self { model, apart })
    }
}

fn missing(tap: &str) -> String {
    format!("there is no tensor '{tap}' in the graph to look at")
}

impl Tapped {
    /// Adds `taps` to a copy of `model`. The error names a tap that is no tensor of the main graph.
    pub(crate) fn new(model: &Model, taps: &[String]) -> Result<Self, String> {
        let outputs = model.graph().output.len();
        if taps.is_empty() {
            return Ok(Self { model: model.clone(), order: TapOrder { outputs, sources: Vec::new() } });
        }
        let index = Index::new(model.graph());
        let inputs: HashSet<&str> = model.input_names().into_iter().collect();
        let mut position: HashMap<String, usize> = HashMap::new();
        for (i, name) in model.output_names().into_iter().enumerate() {
            position.entry(name.to_owned()).or_insert(i);
        }
        let mut tapped = model.clone();
        let mut sources = Vec::with_capacity(taps.len());
        for tap in taps {
            sources.push(match origin(model, &index, &inputs, tap) {
                Some(Origin::Apart(source)) => Source::Apart(source),
                node => match position.get(tap) {
                    Some(&at) => Source::Output(at),
                    None if node.is_none() => return Err(missing(tap)),
                    None => {
                        let graph = tapped.graph_mut();
                        graph.output.push(ValueInfoProto { name: Some(tap.clone()), ..ValueInfoProto::default() });
                        position.insert(tap.clone(), graph.output.len() - 1);
                        Source::Output(graph.output.len() - 1)
                    }
                },
            });
        }
        Ok(Self { model: tapped, order: TapOrder { outputs, sources } })
    }
}

impl TapOrder {
    /// The model's outputs, then the taps, from what the engine returned for [`Tapped::model`]; `of` makes the same of tensors that come from elsewhere.
    pub(crate) fn arrange<T: Clone>(
        &self,
        mut returned: Vec<T>,
        feed: &Feed,
        of: impl Fn(&Tensor) -> T,
    ) -> Result<Vec<T>, String> {
        let mut taps = Vec::with_capacity(self.sources.len());
        for source in &self.sources {
            taps.push(match source {
                Source::Output(at) => returned.get(*at).cloned().ok_or("it returned fewer tensors than asked for")?,
                Source::Apart(source) => of(source.value(feed)?),
            });
        }
        returned.truncate(self.outputs);
        returned.extend(taps);
        Ok(returned)
    }
}
