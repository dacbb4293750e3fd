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
pub mod cipher;
pub mod error;
pub mod extension;
pub mod framing;
pub mod legacy;
pub mod message;
pub mod noise;
pub mod run_length;
pub mod session;
pub mod varint;

pub use error::ProtocolError;
pub use noise::{Role, StaticKeyPair};
pub use session::{Opening, Session};

/// Golden vectors, for the tests of every layer.
#[cfg(test)]
mod vectors {
    pub fn load(file: &str) -> serde_json::Value {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/vectors/");
        let text = std::fs::read_to_string(format!("{folder}{file}")).unwrap();
        serde_json::from_str(&text).unwrap()
    }
}
