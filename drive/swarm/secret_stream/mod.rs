//! The encrypted streams of Hyperswarm 4 (secret-stream 6): a Noise handshake whose keys are
//! Ed25519 keys, and messages sealed one after the other.
//!
//! Bytes go in, bytes come out. Not here: how the messages of the handshake travel (`hyperdht/`,
//! `network/hyperdht/`), and the messages of a stream (`protomux/`).

mod curve;
mod handshake;
mod stream;
#[cfg(test)]
mod vectors;

pub(crate) use handshake::{Handshake, HandshakeError, Secrets};
pub(crate) use stream::{Sealer, StreamError, Unsealer, begin};

use crate::crypto::{Hash, blake2b};

/// One of the numbered namespaces of a protocol (hypercore-crypto 3). It keeps hashes and signatures of
/// one purpose from being valid for another.
pub(crate) fn namespace(protocol: &str, number: u8) -> Hash {
    blake2b(&[&blake2b(&[protocol.as_bytes()]), &[number]])
}
