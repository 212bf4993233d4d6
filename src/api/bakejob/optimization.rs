//! What may be done to the model.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::rules::{digest, readable_uri, rule};

/// What may be done to the model.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    rule("!has(self.recipe) || !has(self.passes) && !has(self.exclude)", "a recipe fixes every pass: set either recipe, or passes and exclude"),
    rule("!has(self.exclude) || self.exclude.all(e, e.size() > 0 && !e.contains(' '))", "exclude holds node names or globs such as /head/*, without spaces"),
]))]
pub struct Optimization {
    /// Conservative is lossless, Light adds 8-bit weights, Medium static int8, Aggressive pruning, Maximum ternary weights.
    #[serde(default)]
    pub level: Level,
    /// What to prefer among results that pass the gates.
    #[serde(default)]
    pub goal: Goal,
    /// Only these passes, in this order. Unset: those of the level.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64), inner(length(min = 1, max = 63)))]
    pub passes: Option<Vec<String>>,
    /// Nodes that keep their precision, by name or glob.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 253)))]
    pub exclude: Vec<String>,
    /// Seeds every random choice.
    #[serde(default)]
    #[schemars(range(min = 0, max = 9_007_199_254_740_991_i64))]
    pub seed: u64,
    /// Replay this recipe instead of searching.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recipe: Option<RecipeRef>,
}

/// How far to go, in rising order.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Level {
    /// Lossless graph work only.
    Conservative,
    /// And 8-bit weights.
    #[default]
    Light,
    /// And static, calibrated int8.
    Medium,
    /// And pruning with recovery.
    Aggressive,
    /// And ternary weights with distillation.
    Maximum,
}

/// What to prefer among candidates that pass.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Goal {
    /// The fastest.
    Latency,
    /// The smallest.
    Size,
    /// Speed and size weighed evenly.
    #[default]
    Balanced,
}

/// A recipe and its digest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RecipeRef {
    /// The recipe.json of an earlier bake.
    #[schemars(length(min = 1, max = 2048), extend("x-kubernetes-validations" = readable_uri()))]
    pub uri: String,
    /// What it must hash to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 71), extend("x-kubernetes-validations" = digest()))]
    pub sha256: Option<String>,
}
