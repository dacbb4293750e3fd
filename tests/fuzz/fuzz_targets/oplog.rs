//! The oplog file of a core of Hypercore 10: the target is in package core.

pub use hypermount_core::fuzzing::oplog as run;
