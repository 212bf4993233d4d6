//! Observing a model's tensors on real samples: every tensor of the main graph is tapped while the model runs, on samples as they are, on a batch of two, and on
//! samples cut shorter along each axis that the model leaves free. An axis that was the same in all of that is taken as fixed.
//!
//! The runs are on the graph as it is, not as the engine optimises it, so that every tensor is there to be seen. What does not run is left out: a cut sample that
//! the model refuses, a tensor that no engine hands out. Facts then say less, never something wrong.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use super::batch::{self, BatchAxes};
use super::declared::{Declared, Extent};
use super::{EngineError, Feed, LoadOptions, Observed, Session, SharedEngine};
use crate::model::{DType, Dim, Facts, Model, TensorFact};

/// Attempts to find the tensors that an engine does not hand out. Each is a load; beyond them the rest of the tensors stays unknown.
const MAX_LOADS: usize = 48;

/// Cut feeds that are tried. Few models have more free axes than this.
const MAX_CUTS: usize = 3;

/// Observes `model` on `feeds` (at most two of them, of different shapes where there are any).
pub fn observe(engine: &SharedEngine, model: &Model, feeds: &[Feed]) -> Result<Facts, EngineError> {
    let first = feeds.first().ok_or_else(|| EngineError::Data("there is no sample to observe the model on. Give data.".to_owned()))?;
    let shapes = |feed: &Feed| feed.iter().map(|(_, t)| t.shape().to_vec()).collect::<Vec<_>>();
    let second = feeds.iter().find(|f| shapes(f) != shapes(first)).or(feeds.get(1));

    let mut watcher = Watcher::new(model);
    watcher.constants(model);
    let mut probes = Probes::load(engine, model);
    let mut seen = vec![shapes(first)];
    watcher.run(&mut probes, first);
    if let Some(second) = second {
        seen.push(shapes(second));
        watcher.run(&mut probes, second);
    }
    for varied in variations(model, first, second) {
        // Without anything new about it, a run would only cost time.
        if !seen.contains(&shapes(&varied)) {
            seen.push(shapes(&varied));
            watcher.run(&mut probes, &varied);
        }
    }
    Ok(watcher.facts)
}

/// The feed as a batch of two, and cut to half along each free axis that is not the batch. Axes of one name are cut together, unnamed ones when they are as long.
fn variations(model: &Model, first: &Feed, second: Option<&Feed>) -> Vec<Feed> {
    let mut varied = Vec::new();
    let axes = BatchAxes::of(model);
    if let Some(axes) = &axes {
        let pair = axes.concat(&[first, second.unwrap_or(first)]).or_else(|_| axes.concat(&[first, first]));
        varied.extend(pair.ok());
    }
    let inputs = Declared::inputs(model);
    let mut free: BTreeMap<(String, usize), Vec<(&str, usize)>> = BTreeMap::new();
    for input in &inputs {
        let (Some(shape), Some(tensor)) = (&input.shape, first.get(&input.name)) else { continue };
        for (axis, extent) in shape.iter().enumerate() {
            let is_batch = axes.as_ref().is_some_and(|a| a.axis_of(&input.name) == Some(axis));
            let long = tensor.shape().get(axis).copied().unwrap_or(0);
            let key = match extent {
                Extent::Named(symbol) => (symbol.clone(), 0),
                Extent::Free => (String::new(), long),
                Extent::Fixed(_) => continue,
            };
            if !is_batch && long >= 2 {
                free.entry(key).or_default().push((&input.name, axis));
            }
        }
    }
    for places in free.values().take(MAX_CUTS) {
        let cut = |(name, tensor): (&str, &crate::model::Tensor)| {
            let mut tensor = tensor.clone();
            for (_, axis) in places.iter().filter(|(n, _)| *n == name) {
                tensor = batch::slice(&tensor, *axis, 0, tensor.shape()[*axis].div_ceil(2))?;
            }
            Some((Arc::from(name), tensor))
        };
        varied.extend(first.iter().map(cut).collect::<Option<Vec<_>>>().map(Feed::new));
    }
    varied
}

/// Sessions that together hand out every tensor that the engine can hand out.
struct Probes {
    sessions: Vec<(Box<dyn Session>, Vec<String>)>,
}

impl Probes {
    /// One session with all taps; where the engine refuses that, halves of them, down to single tensors.
    fn load(engine: &SharedEngine, model: &Model) -> Self {
        let computed: Vec<String> = model.graph().node.iter().flat_map(|n| &n.output).filter(|o| !o.is_empty()).cloned().collect();
        let mut sessions = Vec::new();
        let mut open = vec![computed];
        for _ in 0..MAX_LOADS {
            let Some(taps) = open.pop() else { break };
            let options = LoadOptions { taps: taps.clone(), optimise: false, ..LoadOptions::default() };
            match engine.load(model, &options) {
                Ok(session) => sessions.push((session, taps)),
                Err(_) if taps.len() > 1 => open.extend([taps[taps.len() / 2..].to_vec(), taps[..taps.len() / 2].to_vec()]),
                Err(_) => {}
            }
        }
        Self { sessions }
    }
}

/// Collects facts. A tensor whose type or rank changed once stays without a fact.
struct Watcher {
    facts: Facts,
    unsteady: HashSet<String>,
    outputs: usize,
}

impl Watcher {
    fn new(model: &Model) -> Self {
        Self { facts: Facts::default(), unsteady: HashSet::new(), outputs: model.graph().output.len() }
    }

    /// Initializers that nothing overrides are known without running.
    fn constants(&mut self, model: &Model) {
        let fed: BTreeSet<&str> = model.graph().input.iter().map(|i| i.name()).collect();
        let overridable = |name: &str| model.proto().ir_version() >= 4 && fed.contains(name);
        for tensor in model.graph().initializer.iter().filter(|t| !overridable(t.name())) {
            let shape: Option<Vec<Dim>> = tensor.dims.iter().map(|&d| usize::try_from(d).ok().map(Some)).collect();
            if let (Some(dtype), Some(shape)) = (DType::from_onnx(tensor.data_type()), shape) {
                self.facts.insert(tensor.name(), TensorFact { dtype, shape });
            }
        }
    }

    /// Runs every session on `feed`. Nothing is recorded unless all of them run, so that the facts of all tensors rest on the same runs.
    fn run(&mut self, probes: &mut Probes, feed: &Feed) {
        let mut seen: Vec<(String, Option<Observed>)> = feed.iter().map(|(n, t)| (n.to_owned(), Some((t.dtype(), t.shape().to_vec())))).collect();
        for (session, taps) in &mut probes.sessions {
            let Ok(observed) = session.observe(feed) else { return };
            seen.extend(taps.iter().cloned().zip(observed.into_iter().skip(self.outputs)));
        }
        for (name, observed) in seen {
            let steady = !self.unsteady.contains(&name) && observed.is_some_and(|(dtype, shape)| self.facts.merge(&name, dtype, &shape));
            if !steady {
                self.unsteady.insert(name);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{Engine, EngineId};
    use crate::model::Tensor;
    use crate::model::build::Builder;
    use crate::model::edit::int;

    /// Doubles the batch's columns, hands out every tap but `secret`, and refuses feeds shorter than two columns.
    struct Doubler(EngineId);

    impl Engine for Doubler {
        fn id(&self) -> &EngineId {
            &self.0
        }
        fn load(&self, _: &Model, options: &LoadOptions) -> Result<Box<dyn Session>, EngineError> {
            if options.taps.iter().any(|t| t == "secret") {
                return Err(EngineError::Run { engine: self.0.to_string(), detail: "no type".into() });
            }
            Ok(Box::new(Doubled(options.taps.clone())))
        }
    }

    struct Doubled(Vec<String>);

    impl Session for Doubled {
        fn run(&mut self, feed: &Feed) -> Result<Vec<Tensor>, EngineError> {
            let x = feed.get("x").unwrap();
            let [rows, columns] = *x.shape() else { panic!() };
            let wide = Tensor::new(&[rows, columns * 2], &vec![0.0_f32; rows * columns * 2]);
            let flat = Tensor::new(&vec![1; rows], &[0_i64]);
            let tap = |name: &String| if name == "flat" { flat.clone() } else { wide.clone() };
            Ok(std::iter::once(wide.clone()).chain(self.0.iter().map(tap)).collect())
        }
    }

    fn model() -> Model {
        Builder::new(17)
            .input("x", DType::F32, &["N", "S"])
            .initializer("w", Tensor::new(&[3, 2], &[0_i8; 6]))
            .node("Concat", &["x", "x"], "wide", vec![int("axis", 1)])
            .node("Mystery", &["wide"], "secret", vec![])
            .node("Mystery", &["wide"], "flat", vec![])
            .node("Relu", &["wide"], "y", vec![])
            .output("y", DType::F32, &["N", "T"])
            .build()
    }

    fn observed(feeds: &[Feed]) -> Facts {
        let engine: SharedEngine = Arc::new(Doubler(EngineId { name: "doubler".into(), version: "1".into() }));
        observe(&engine, &model(), feeds).unwrap()
    }

    fn feed(rows: usize, columns: usize) -> Feed {
        Feed::new(vec![("x".into(), Tensor::new(&[rows, columns], &vec![0.0_f32; rows * columns]))])
    }

    #[test]
    fn free_axes_are_varied_even_when_all_samples_are_alike() {
        let facts = observed(&[feed(1, 6)]);
        assert_eq!(facts.get("x").unwrap().shape, [None, None]);
        assert_eq!(facts.get("y").unwrap(), &TensorFact { dtype: DType::F32, shape: vec![None, None] });
        assert_eq!(facts.get("w").unwrap(), &TensorFact { dtype: DType::I8, shape: vec![Some(3), Some(2)] });
    }

    #[test]
    fn a_tensor_that_cannot_be_tapped_or_changes_its_rank_has_no_fact_and_the_others_do() {
        let facts = observed(&[feed(1, 6), feed(1, 4)]);
        assert_eq!((facts.get("secret"), facts.get("flat")), (None, None));
        assert!(facts.get("wide").is_some());
    }

    #[test]
    fn without_a_sample_nothing_can_be_observed() {
        let engine: SharedEngine = Arc::new(Doubler(EngineId { name: "doubler".into(), version: "1".into() }));
        assert_eq!(observe(&engine, &model(), &[]).unwrap_err().reason().exit_code(), 12);
    }
}
