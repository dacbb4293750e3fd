//! Manifests and signatures of Hypercore 10 and 11: the target is in package core.

pub use hypermount_core::fuzzing::manifest as run;
