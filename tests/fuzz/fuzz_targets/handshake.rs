//! Arbitrary bytes instead of a handshake: the target is in package core.

pub use hypermount_core::fuzzing::handshake as run;
