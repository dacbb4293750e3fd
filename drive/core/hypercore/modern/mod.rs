//! The rules of Hypercore 10 and 11: hashes, manifests and the keys that follow from them, signatures,
//! proofs, encrypted blocks, and the files of a core.
//!
//! `dialect.rs` alone names this room. Not here: the messages that carry proofs (`wire/`), and anything that
//! Hypercore 9 shares.

pub(super) mod hash;
pub(super) mod roots;
pub(crate) mod manifest;
pub(super) mod signature;
pub(crate) mod proof;
pub(crate) mod received;
pub(crate) mod answer;
pub(super) mod encryption;
mod oplog;
mod files;
#[cfg(fuzzing)]
pub(crate) mod fuzzing;
#[cfg(test)]
mod tests;

pub(super) use files::open;
pub(crate) use files::stored_key;
pub(crate) use manifest::Manifest;
pub(super) use signature::Verifier;
