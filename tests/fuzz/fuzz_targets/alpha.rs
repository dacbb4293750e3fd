//! Every message of hypercore/alpha: the target is in package core.

pub use hypermount_core::fuzzing::alpha as run;
