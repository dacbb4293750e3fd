//! The rules of Hypercore 10 and 11: hashes, manifests and the keys that follow from them, signatures,
//! proofs, and encrypted blocks.
//!
//! Pure: bytes and nodes in, verdicts out. Not here: the messages that carry proofs (`wire/`), the files of
//! a core, and anything that Hypercore 9 shares.
#![cfg_attr(
    not(test),
    expect(dead_code, reason = "Dialect gets a variant for it with the codec of hypercore/alpha")
)]

pub(super) mod hash;
pub(super) mod roots;
pub(super) mod manifest;
pub(super) mod signature;
pub(super) mod proof;
pub(super) mod answer;
pub(super) mod encryption;
#[cfg(test)]
mod tests;
