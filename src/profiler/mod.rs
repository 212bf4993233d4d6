//! Measuring: latency, throughput, memory, determinism, paired A/B.
