//! From path to entry: what turns a metadata core into names.
//!
//! One index exists today, the hypertrie of the legacy era. It speaks keys, nodes and stats; what a
//! path means to a reader (implied directories, mounts) is decided in `drive.rs`.

pub mod trie;
