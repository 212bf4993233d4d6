//! Telling whoever waits what is going on.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The stages of a bake, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[allow(missing_docs)]
pub enum Stage {
    Load,
    Baseline,
    Optimize,
    Validate,
    Profile,
    Gate,
    Export,
}

impl Stage {
    /// All stages in order.
    pub const ALL: [Self; 7] =
        [Self::Load, Self::Baseline, Self::Optimize, Self::Validate, Self::Profile, Self::Gate, Self::Export];

    /// What the stage does, for a progress line.
    pub fn doing(self) -> &'static str {
        match self {
            Self::Load => "loading model and data",
            Self::Baseline => "profiling the input",
            Self::Optimize => "optimising",
            Self::Validate => "validating on held-out data",
            Self::Profile => "profiling the result",
            Self::Gate => "deciding the gates",
            Self::Export => "writing artifacts",
        }
    }
}

/// One stage with its times.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StageRecord {
    /// Which stage.
    pub name: Stage,
    /// When it began (RFC 3339, UTC).
    pub start_time: String,
    /// When it ended.
    pub completion_time: String,
    /// Seconds in between, by the monotonic clock.
    pub seconds: f64,
}

/// Receives what happens while a bake runs.
pub trait Progress {
    /// A stage begins.
    fn stage(&mut self, stage: Stage);
    /// Something within the stage.
    fn detail(&mut self, text: &str);
    /// How far files are on their way to this machine, or from it.
    fn transfer(&mut self, text: &str) {
        self.detail(text);
    }
    /// How many bytes of memory the bake will take, as far as that can be told before.
    fn memory(&mut self, _: u64) {}
    /// A stage that an earlier process of this run finished, and that is not repeated.
    fn resumed(&mut self, _: Stage) {}
}

/// Tells nobody.
#[derive(Debug, Clone, Copy, Default)]
pub struct Quiet;

impl Progress for Quiet {
    fn stage(&mut self, _: Stage) {}
    fn detail(&mut self, _: &str) {}
}
