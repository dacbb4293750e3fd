//! Every protobuf message about a core: the target is in package core.

pub use hypermount_core::fuzzing::messages as run;
