//! The encrypted streams of Hyperswarm 4 (secret-stream 6): a Noise handshake whose keys are
//! Ed25519 keys, and messages sealed one after the other.
//!
//! Bytes go in, bytes come out. Not here: how the messages of the handshake travel (`hyperdht/`,
//! `network/hyperdht/`, `network/greeting.rs`), and the messages of a stream (`protomux/`).

mod curve;
mod handshake;
mod stream;
#[cfg(test)]
mod vectors;

pub(crate) use handshake::{Handshake, HandshakeError, MAX_HANDSHAKE, Secrets};
pub(crate) use stream::{LONGEST, Sealer, StreamError, Unsealer, begin};
