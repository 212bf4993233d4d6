//! Pools in float whose result becomes codes.
//!
//! ONNX Runtime moves the rounding of a `MaxPool`'s result to in front of the pool, which then picks among codes. Where a float convolution gives what is pooled, that is a pool of codes
//! channel by channel, for which it has no fast kernel: 2.9 ms in place of 0.07 ms for `[1, 64, 112, 112]` (1.32, one thread, AVX-512). It moves nothing past a `Relu`, and which
//! of the two comes first changes no bit: `max(relu(x)) = relu(max(x))`.

use super::StaticInt8;
use crate::model::edit::{Index, is_op};
use crate::model::{Facts, Model};

/// Lets a `Relu` that only a float `MaxPool` reads follow the pool, where the pool's result becomes codes.
pub(super) fn relu_behind(model: &mut Model, facts: &mut Facts, plan: &StaticInt8) {
    let index = Index::new(model.graph());
    let mut taken = model.tensor_names();
    for activation in &plan.activations {
        let Some((relu, pool)) = float_pool(model, &index, plan, &activation.tensor) else { continue };
        let pooled = Model::fresh_name(&mut taken, &format!("{}_signed", activation.tensor));
        if let Some(fact) = facts.get(&activation.tensor).cloned() {
            facts.insert(pooled.clone(), fact);
        }
        let nodes = &mut model.graph_mut().node;
        nodes.swap(relu, pool);
        let (pool, relu) = (relu, pool);
        nodes[pool].input[0] = std::mem::replace(&mut nodes[relu].input[0], pooled.clone());
        nodes[relu].output[0] = std::mem::replace(&mut nodes[pool].output[0], pooled);
    }
}

/// Positions of a `Relu` and of the `MaxPool` behind it that gives `tensor` and is in float, with nobody between.
fn float_pool(model: &Model, index: &Index, plan: &StaticInt8, tensor: &str) -> Option<(usize, usize)> {
    let nodes = &model.graph().node;
    let pool = index.producer(tensor)?;
    let relu = index.producer(nodes[pool].input.first()?)?;
    let fits = is_op(&nodes[pool], "MaxPool")
        && nodes[pool].output.len() == 1
        && !plan.between.iter().any(|between| between == tensor)
        && is_op(&nodes[relu], "Relu")
        && index.only_reader(&nodes[relu].output[0]) == Some(pool);
    fits.then_some((relu, pool))
}
