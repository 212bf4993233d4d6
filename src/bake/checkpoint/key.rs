//! What must be the same for a stage to be taken over.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::api::ResolvedJob;
use crate::api::digest::sha256_hex;
use crate::bake::intake::Loaded;
use crate::bake::source::Role;
use crate::engine::EngineId;
use crate::hardware::MachineFacts;

/// Everything that a stage's end rests on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Key {
    /// Version of Bakehouse.
    bakehouse: String,
    spec_digest: String,
    /// The gates as they count, with whatever was added to the job's own.
    gates: Vec<String>,
    /// Digests of the files by what they were read for. Where they lay does not matter.
    files: Vec<(Role, String)>,
    /// Digest of the recipe that is replayed.
    recipe: Option<String>,
    /// Digest of what was observed of the input's tensors; passes decide on it.
    facts: String,
    engine: EngineId,
    machine: Machine,
    low_memory: bool,
}

/// What of a machine decides what is measured on it: not its load, nor how much memory it has.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Machine {
    cpu: String,
    arch: String,
    features: BTreeSet<String>,
    cores: usize,
    quota: Option<f64>,
    kernel: String,
    os: String,
}

impl Key {
    pub(super) fn of(job: &ResolvedJob, low_memory: bool, loaded: &Loaded, machine: &MachineFacts) -> Self {
        let facts = serde_json::to_vec(&loaded.facts).unwrap_or_default();
        // What cannot be read is said when it is replayed.
        let recipe = job.recipe.as_ref().and_then(|recipe| std::fs::read(&recipe.path).ok());
        Self {
            bakehouse: env!("CARGO_PKG_VERSION").to_owned(),
            spec_digest: job.spec_digest.clone(),
            gates: job.gates.iter().map(ToString::to_string).collect(),
            files: loaded.files.iter().map(|file| (file.role, file.sha256.clone())).collect(),
            recipe: recipe.map(|bytes| sha256_hex(&bytes)),
            facts: sha256_hex(&facts),
            engine: loaded.engine.engine.id().clone(),
            machine: Machine {
                cpu: machine.cpu.clone(),
                arch: machine.arch.clone(),
                features: machine.features.clone(),
                cores: machine.usable_cores(),
                quota: machine.cpu_quota,
                kernel: machine.kernel.clone(),
                os: machine.os.clone(),
            },
            low_memory,
        }
    }

    /// What `self` was made by, on or from that `now` is not; `None` when they are the same.
    pub(super) fn other(&self, now: &Self) -> Option<&'static str> {
        let parts = [
            (self.bakehouse == now.bakehouse, "by another version of Bakehouse"),
            (self.spec_digest == now.spec_digest && self.gates == now.gates, "for another spec"),
            (self.files == now.files && self.facts == now.facts, "from another model or other data"),
            (self.recipe == now.recipe, "from another recipe"),
            (self.engine == now.engine, "on another engine"),
            (self.machine == now.machine, "on another machine"),
            (self.low_memory == now.low_memory, "with another plan for memory"),
        ];
        parts.into_iter().find(|(same, _)| !same).map(|(_, what)| what)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::bake::checkpoint) fn key() -> Key {
        Key {
            bakehouse: "0.1.0".into(),
            spec_digest: "sha256:0".into(),
            gates: vec!["Speedup >= 1.5".into()],
            files: vec![(Role::Model, "1".into()), (Role::Validation, "2".into())],
            recipe: None,
            facts: "3".into(),
            engine: EngineId { name: "tract".into(), version: "0.23.9".into() },
            machine: Machine {
                cpu: "AMD EPYC 9B14".into(),
                arch: "x86_64".into(),
                features: ["avx2".to_owned()].into(),
                cores: 2,
                quota: Some(1.5),
                kernel: "6.1.0".into(),
                os: "Debian".into(),
            },
            low_memory: false,
        }
    }

    #[test]
    fn each_part_that_differs_is_named() {
        let table: [(fn(&mut Key), &str); 17] = [
            (|k| k.bakehouse = "0.2.0".into(), "version"),
            (|k| k.spec_digest = "sha256:1".into(), "spec"),
            (|k| k.gates.push("Speedup >= 2".into()), "spec"),
            (|k| k.files[0].1 = "9".into(), "model or other data"),
            (|k| k.files[1].1 = "9".into(), "model or other data"),
            (|k| k.files[1].0 = Role::Calibration, "model or other data"),
            (|k| k.facts = "9".into(), "model or other data"),
            (|k| k.recipe = Some("9".into()), "recipe"),
            (|k| k.engine.name = "onnxruntime".into(), "engine"),
            (|k| k.engine.version = "0.24.0".into(), "engine"),
            (|k| k.machine.cpu = "Intel Xeon".into(), "machine"),
            (|k| k.machine.arch = "aarch64".into(), "machine"),
            (|k| k.machine.features.clear(), "machine"),
            (|k| k.machine.cores = 1, "machine"),
            (|k| k.machine.quota = None, "machine"),
            (|k| k.machine.kernel = "6.2.0".into(), "machine"),
            (|k| k.low_memory = true, "memory"),
        ];
        assert_eq!(key().other(&key()), None);
        for (i, (change, said)) in table.into_iter().enumerate() {
            let mut changed = key();
            change(&mut changed);
            let what = changed.other(&key()).unwrap_or_else(|| panic!("change {i} counts"));
            assert!(what.contains(said), "change {i}: {what}");
        }
    }

    #[test]
    fn a_key_is_the_same_after_it_was_written_and_read() {
        let text = serde_json::to_string(&key()).unwrap();
        assert_eq!(serde_json::from_str::<Key>(&text).unwrap(), key());
    }
}
