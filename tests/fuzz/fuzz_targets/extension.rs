//! Messages of the hypertrie extension: the target is in package core.

pub use hypermount_core::fuzzing::extension as run;
