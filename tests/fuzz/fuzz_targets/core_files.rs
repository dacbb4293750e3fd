//! The files of a core after damage: the target is in package core.

pub use hypermount_core::fuzzing::core_files as run;
