//! Code that the programs of the benchmark share.

pub mod counters;
pub mod signal;
