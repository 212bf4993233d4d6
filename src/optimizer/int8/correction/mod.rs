//! Bias correction: rounding weights and activations shifts the mean of every output channel of a product, because errors of one sign add up over what the channel
//! sums. The bias takes the shift back (Nagel et al. 2019, "Data-Free Quantization Through Weight Equalization and Bias Correction", section 4.2, equation 17, with means
//! of real samples in place of those that a normalisation promises). It costs nothing at run time.
//!
//! ```text
//!  correction of o = sum over i of  W[o, i] E[x[i]] - Wq[o, i] E[q(x)[i]]
//! ```
//! `W` are the weights and `x` the activation of the float model, `Wq` and `q(x)` what codes leave of them, weights summed over the kernel. So what is clipped is taken back
//! too. The mean of an input channel is that of all its values: a convolution's padding, the positions that its steps leave out and the edges that parts of its kernel never
//! meet are not told apart. Only what is computed on codes is corrected.
//!
//! What reaches a product from those before it is theirs to take back, so one run of the float model finds all corrections, whatever their order. To measure instead what
//! each output lost in the quantised model takes a run per layer, for groups of layers take back each other's shifts: on a network of 53 convolutions the RMS error of its
//! logit was 0.41 uncorrected, 0.24 by this form, 0.16 measured layer by layer in 53 runs, 0.60 measured in 8 groups, and 2.2 all at once.
//!
//! The pass runs before the products become codes and changes float rows, so one rounding in 32 bits is all that lies between a correction and what is computed.
//! It knows `Conv` (also one without bias, which gets one), `Gemm` and `MatMul` with the `Add` of a row behind it. A `MatMul` alone stays as it is: an `Add` of its own
//! would cost time at every run.

mod means;
mod shift;

use std::cell::RefCell;
use std::time::Instant;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::linear::linear;
use super::qdq::StaticInt8;
use super::round::RoundWeights;
use super::row::{Editor, Row};
use crate::engine::{Feed, SharedEngine};
use crate::model::edit::Index;
use crate::model::{Effect, Facts, Model, Pass, PassError};
use crate::optimizer::driver::Work;
use crate::optimizer::repair::{Measure, Repair};
use means::{Activation, Means};
use shift::{corrections, products};

/// What is added to the bias of one product.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Correction {
    /// First output of the `MatMul`, `Gemm` or `Conv`.
    pub output: String,
    /// One summand per output channel.
    pub values: Vec<f32>,
}

/// Adds to the rows of biases of the listed products of the main graph.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BiasCorrection {
    /// The products.
    pub corrections: Vec<Correction>,
}

impl BiasCorrection {
    /// Name of the pass.
    pub const NAME: &str = "bias-correction";
}

/// The first opset whose `Gemm` broadcasts a row by itself.
const FIRST_OPSET: i64 = 7;

impl Pass for BiasCorrection {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn parameters(&self) -> Value {
        serde_json::to_value(self).expect("plain data always becomes JSON")
    }

    fn apply(&self, model: &mut Model, facts: &mut Facts) -> Result<Effect, PassError> {
        if model.opset("").is_none_or(|v| v < FIRST_OPSET) {
            return Ok(Effect::Skipped { reason: format!("rows of biases need opset {FIRST_OPSET} or later") });
        }
        let index = Index::new(model.graph());
        let mut rows = Vec::new();
        for correction in &self.corrections {
            let refuse = |detail: String| PassError::Node {
                node: correction.output.clone(),
                detail: format!("{detail}. Bake again instead of editing the recipe."),
            };
            if correction.values.iter().any(|v| !v.is_finite()) {
                return Err(refuse("a correction is no finite number".to_owned()));
            }
            let Some(mut row) = row_of(model, &index, facts, &correction.output) else { continue };
            if row.values.len() != correction.values.len() {
                let (given, needed) = (correction.values.len(), row.values.len());
                return Err(refuse(format!("it has {needed} output channels, its correction {given}")));
            }
            row.values.iter_mut().zip(&correction.values).for_each(|(bias, correction)| *bias += correction);
            rows.push(row);
        }
        let mut editor = Editor::new(model);
        rows.iter().for_each(|row| row.put(&mut editor, model, &index));
        editor.finish(model);
        Ok(Effect::rewrites(rows.len(), "no listed product has a row of biases"))
    }
}

fn row_of(model: &Model, index: &Index, facts: &Facts, output: &str) -> Option<Row> {
    let at = index.producer(output)?;
    let found = linear(model, index, facts, &model.graph().node[at]).ok()?;
    Row::of(model, index, at, &found)
}

/// Bias correction of static variants, as the search tries it. The means of a float model are found once, whatever choice of sites is corrected.
pub fn repair(engine: &SharedEngine, feeds: &[Feed]) -> Repair {
    let (engine, feeds) = (engine.clone(), feeds.to_vec());
    let known: RefCell<Means> = RefCell::default();
    let find = move |base: &Work, passes: &mut Vec<Box<dyn Pass>>, until: Instant, _: Option<Measure<'_>>| {
        let (at, plan) = StaticInt8::among(passes)?;
        let until_codes = || passes[..=at].iter().map(Box::as_ref);
        // What comes before the codes may have changed float weights and what they give: that is what the codes stand for. What moves weights to other codes is
        // rounding as well.
        let before = |pass: &&dyn Pass| ![StaticInt8::NAME, RoundWeights::NAME].contains(&pass.name());
        let float = base.behind(until_codes().filter(before)).map_err(|e| e.to_string())?;
        let quantised = base.behind(until_codes()).map_err(|e| e.to_string())?;
        let products = products(&float.model, &float.facts, &plan);
        let read: Vec<Activation> = products.iter().map(|product| product.activation.clone()).collect();
        let mut means = known.borrow_mut();
        means.see(&engine, &float.model, &read, &feeds, until).map_err(|e| e.to_string())?;
        let corrections = corrections(&products, &float, &quantised.model, &means);
        if corrections.is_empty() {
            return Err("rounding shifts no product that has a row of biases".to_owned());
        }
        passes.insert(at, Box::new(BiasCorrection { corrections }));
        Ok(())
    };
    Repair { name: BiasCorrection::NAME, pass: BiasCorrection::NAME, find: Box::new(find) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::build::Builder;
    use crate::model::edit::{float, is_op};
    use crate::model::{DType, Tensor};

    fn ones(shape: &[usize]) -> Tensor {
        Tensor::new(shape, &vec![1.0_f32; shape.iter().product()])
    }

    #[test]
    fn a_row_is_added_to_wherever_the_graph_keeps_it() {
        let model = Builder::new(17)
            .input("x", DType::F32, &["N", "2"])
            .input("i", DType::F32, &["N", "2", "3", "3"])
            .initializer("w", ones(&[2, 2]))
            .initializer("k", ones(&[2, 2, 1, 1]))
            .initializer("b", Tensor::new(&[2], &[1.0_f32, 2.0]))
            .node("MatMul", &["x", "w"], "m", vec![])
            .node("Add", &["b", "m"], "a", vec![])
            .node("Gemm", &["a", "w", "b"], "g", vec![float("beta", 2.0)])
            .node("MatMul", &["g", "w"], "alone", vec![])
            .node("Conv", &["i", "k"], "c", vec![])
            .output("alone", DType::F32, &["N", "2"])
            .output("c", DType::F32, &["N", "2", "3", "3"])
            .build();
        let corrections =
            ["m", "g", "c", "alone"].map(|output| Correction { output: output.to_owned(), values: vec![0.5, -0.5] });
        let mut corrected = model.clone();
        let pass = BiasCorrection { corrections: corrections.to_vec() };
        let effect = pass.apply(&mut corrected, &mut Facts::default()).unwrap();
        assert_eq!(effect, Effect::Applied { rewrites: 3, fused: Vec::new() }, "a MatMul without an Add has no row");
        let index = Index::new(corrected.graph());
        let row = |output: &str| row_of(&corrected, &index, &Facts::default(), output).unwrap().values;
        assert_eq!((row("m"), row("g"), row("c")), (vec![1.5, 1.5], vec![2.5, 3.5], vec![0.5, -0.5]));
        assert!(
            !corrected.graph().node.iter().any(|n| is_op(n, "Gemm") && n.attribute.iter().any(|a| a.name() == "beta"))
        );
        assert!(index.initializer("b").is_none(), "nobody reads the old row any more");
        corrected.check().unwrap();
    }

    #[test]
    fn corrections_that_do_not_fit_are_refused_by_the_products_name() {
        for (values, said) in
            [(vec![1.0], "4 output channels, its correction 1"), (vec![f32::NAN; 4], "no finite number")]
        {
            let mut model = Builder::new(17)
                .input("x", DType::F32, &["N", "4"])
                .initializer("w", ones(&[4, 4]))
                .node("Gemm", &["x", "w"], "h", vec![])
                .output("h", DType::F32, &["N", "4"])
                .build();
            let pass = BiasCorrection { corrections: vec![Correction { output: "h".into(), values }] };
            let error = pass.apply(&mut model, &mut Facts::default()).unwrap_err().to_string();
            assert!(error.contains("'h'") && error.contains(said) && error.contains("Bake again"), "{error}");
        }
    }
}
