//! Packages: what is handed over between the phases, as files that say what they are. Types, reading and the checks that need no engine; knows nothing of
//! how a model is baked.

pub mod phase7;
