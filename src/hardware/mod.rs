//! What this machine is: instruction sets, cores, memory limit.
