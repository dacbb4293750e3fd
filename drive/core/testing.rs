//! Parts of this package for tests outside of it: storage that fails at a chosen call, a core on such
//! storage, what answers a peer, and the wire codec for peers that lie (`tests/hostile`).
//!
//! Not for product code, and no part of the public face.

pub use crate::hypercore::cache::BlockCache;
pub use crate::hypercore::demand::Change;
pub use crate::hypercore::merkle::{Signature, TreeNode};
pub use crate::hypercore::storage::Storage;
pub use crate::hypercore::storage::faulty::World;
pub use crate::hypercore::{Accepted, Opening, Proof, ReceivedProof, Rejected, RemoteTree};
#[cfg(debug_assertions)]
pub use crate::private_files::power;
pub use crate::replicate::Upload;

use bytes::Bytes;
use hypermount_swarm::crypto::{KeyPair, PublicKey};

/// The key of the core of this kind that `pair` alone signs.
pub fn key_of(dialect: crate::Dialect, pair: &KeyPair) -> PublicKey {
    dialect.key_of(pair)
}

/// Key, manifest and key pair of the core of [`crate::Core::key_with_namespaces`].
pub fn beside(
    core: &crate::Core,
    derive: impl Fn(&[u8; 32]) -> [u8; 32],
) -> Option<(PublicKey, Bytes, KeyPair)> {
    core.beside(derive)
}

/// hypercore-protocol 8 (docs/format/wire8.md), layer by layer.
pub mod wire {
    pub use crate::wire::cipher::{NONCE_LENGTH, StreamCipher};
    pub use crate::wire::legacy::kind;
    pub use crate::wire::message::Message;
    pub use crate::wire::noise::Role;

    /// Extension messages with hints about an index.
    pub mod extension {
        pub use crate::wire::extension::{NAME, TrieMessage, flags};
    }

    /// Frames: a length and a payload.
    pub mod framing {
        pub use crate::wire::framing::{Front, Header, front};
    }

    /// The messages as protobuf.
    pub mod legacy {
        pub use crate::wire::legacy::{
            Close, Data, Open, Options, Range, WireNode, decode_message, encode_message,
        };
    }

    /// Integers of variable length.
    pub mod varint {
        pub use crate::wire::varint::{length, write};
    }
}
