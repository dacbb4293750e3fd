//! Single blocks of an index: the target is in package drive.

pub use hypermount_drive::fuzzing::blocks as run;
