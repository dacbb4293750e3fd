//! Messages of the hyperbee extension: the target is in package core.

pub use hypermount_core::fuzzing::bee_extension as run;
