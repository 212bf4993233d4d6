//! Observing a model's tensors on real samples.
