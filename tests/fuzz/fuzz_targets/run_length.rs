//! The run-length bitfield: the target is in package core.

pub use hypermount_core::fuzzing::run_length as run;
