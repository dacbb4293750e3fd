//! Hypercore 9: hashes, signed bytes, proofs and the files of a core (docs/format/hypercore9.md).
pub mod proof;
pub mod files;
pub mod recover;
