//! The recipe a bake ends in: every pass with every decision resolved. Replaying it involves no clock, no engine and no data.

use serde::{Deserialize, Serialize};

use super::driver::Work;
use crate::model::{Effect, Facts, Model, ModelError, Pass, PassError};

/// Schema of [`Recipe`].
pub const RECIPE_VERSION: &str = "bakehouse.dev/recipe/v1";

/// One pass that was applied and kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// Stable name of the pass.
    pub pass: String,
    /// Its resolved parameters.
    pub parameters: serde_json::Value,
}

impl Step {
    /// The step that repeats `pass`.
    pub fn of(pass: &dyn Pass) -> Self {
        Self { pass: pass.name().to_owned(), parameters: pass.parameters() }
    }
}

/// How to make the artifact from the input again, byte for byte.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Recipe {
    /// [`RECIPE_VERSION`].
    pub api_version: String,
    /// Version of Bakehouse that wrote it.
    pub bakehouse: String,
    /// SHA-256 of the input model as taken in (after inlining and sorting), in hexadecimal.
    pub input_sha256: String,
    /// SHA-256 of the artifact as one file, in hexadecimal. Without steps the artifact is the input's own file, which may not be to the byte what was taken in.
    pub output_sha256: String,
    /// What was observed of the input's tensors; passes decide on it, so it is part of the recipe.
    pub facts: Facts,
    /// The passes, in order.
    pub steps: Vec<Step>,
}

/// Why a recipe could not be replayed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)]
pub enum ReplayError {
    #[error("the recipe is of version '{0}', this build reads '{RECIPE_VERSION}'. Use the Bakehouse that wrote it.")]
    Version(String),
    #[error(
        "the recipe was made for another model (sha256 {expected}, given {given}). Use the model it was made from."
    )]
    Input { expected: String, given: String },
    #[error(
        "the recipe names the pass '{0}' with parameters that this build does not know. Use the Bakehouse that wrote it."
    )]
    UnknownPass(String),
    #[error("pass '{pass}' changed nothing on replay: {reason}. The recipe is damaged.")]
    NoEffect { pass: String, reason: String },
    #[error(
        "replay gave other bytes (sha256 {given}) than the recipe promises ({expected}). The recipe is damaged or of another build."
    )]
    Output { expected: String, given: String },
    #[error(transparent)]
    Pass(#[from] PassError),
    #[error(transparent)]
    Model(#[from] ModelError),
}

impl Work {
    /// Applies recorded steps, as they were applied when they were found. `build` makes a pass of a step.
    pub fn replay(
        &mut self,
        steps: &[Step],
        build: &dyn Fn(&Step) -> Option<Box<dyn Pass>>,
    ) -> Result<(), ReplayError> {
        for step in steps {
            let pass = build(step).ok_or_else(|| ReplayError::UnknownPass(step.pass.clone()))?;
            if let Effect::Skipped { reason } = pass.apply(&mut self.model, &mut self.facts)? {
                return Err(ReplayError::NoEffect { pass: step.pass.clone(), reason });
            }
            // As the driver does after each pass.
            self.model.sort()?;
            self.steps.push(step.clone());
        }
        Ok(())
    }
}

impl Recipe {
    /// Replays every step on `input` and checks that the artifact is the promised one. `build` makes a pass of a step.
    pub fn replay(&self, input: &Model, build: &dyn Fn(&Step) -> Option<Box<dyn Pass>>) -> Result<Model, ReplayError> {
        if self.api_version != RECIPE_VERSION {
            return Err(ReplayError::Version(self.api_version.clone()));
        }
        let given = input.sha256();
        if given != self.input_sha256 {
            return Err(ReplayError::Input { expected: self.input_sha256.clone(), given });
        }
        if self.steps.is_empty() {
            return Ok(input.clone());
        }
        let mut work = Work { model: input.clone(), facts: self.facts.clone(), steps: Vec::new() };
        work.replay(&self.steps, build)?;
        let given = work.model.sha256();
        if given == self.output_sha256 {
            Ok(work.model)
        } else {
            Err(ReplayError::Output { expected: self.output_sha256.clone(), given })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::DType;
    use crate::model::build::Builder;

    #[test]
    fn a_recipe_without_steps_gives_the_input_and_only_that_one() {
        let model = |name: &str| {
            Builder::new(17)
                .input("x", DType::F32, &["N"])
                .node("Relu", &["x"], name, vec![])
                .output(name, DType::F32, &["N"])
                .build()
        };
        let input = model("y");
        let recipe = Recipe {
            api_version: RECIPE_VERSION.to_owned(),
            bakehouse: String::new(),
            input_sha256: input.sha256(),
            output_sha256: "of a file that is written in another way".to_owned(),
            facts: Facts::default(),
            steps: Vec::new(),
        };
        assert_eq!(recipe.replay(&input, &|_| None).unwrap(), input);
        assert!(matches!(recipe.replay(&model("z"), &|_| None), Err(ReplayError::Input { .. })));
    }
}
