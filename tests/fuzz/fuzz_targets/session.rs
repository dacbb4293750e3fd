//! A remote that sends arbitrary bytes after the handshake: the target is in package core.

pub use hypermount_core::fuzzing::session as run;
