//! hypercore-protocol 8 without sockets and without a clock: bytes in, messages out, and back.
//!
//! [`Session`] is one side of one connection: Noise handshake, stream cipher, frames, channels,
//! capabilities, extension names. Around it, in import order: the era-neutral [`message`] types,
//! then one file per layer of the protocol. The numbers in brackets in these files (`§5`) are
//! sections of `docs/format/wire8.md`.
//!
//! Not here: timers, sockets and back-pressure (the connection in `swarm`), and what the messages
//! of a core mean (`replicate`). Nothing here believes a byte because it came over Noise: the
//! cipher has no authentication, only proofs are believed.

mod channels;
pub(crate) mod cipher;
pub(crate) mod error;
pub(crate) mod extension;
pub(crate) mod bee_extension;
pub(crate) mod framing;
pub(crate) mod legacy;
pub(crate) mod message;
pub(crate) mod modern;
pub(crate) mod noise;
pub(crate) mod run_length;
pub(crate) mod session;
pub(crate) mod varint;

/// Golden vectors, for the tests of every layer.
#[cfg(test)]
mod vectors {
    pub(super) fn load(file: &str) -> serde_json::Value {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/vectors/");
        let text = std::fs::read_to_string(format!("{folder}{file}")).unwrap();
        serde_json::from_str(&text).unwrap()
    }
}
