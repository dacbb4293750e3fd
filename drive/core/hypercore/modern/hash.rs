//! The hashes of Hypercore 10 and 11: namespaces, tree nodes, and what a peer proves its knowledge of a
//! core's key with.
//!
//! Not here: the hash of a manifest (`manifest.rs`), what is signed (`signature.rs`). The discovery key is
//! the one of Hypercore 9: [`PublicKey::discovery_key`].

use std::sync::LazyLock;

use super::super::tree_hash::TreeHash;
use hypermount_swarm::crypto::{Hash, PublicKey, blake2b_keyed, namespace};

/// Length in bytes of the hash of a Noise handshake.
pub(crate) const HANDSHAKE_HASH_LENGTH: usize = 64;

/// What a hash or a signature is for. Each purpose has a prefix of its own, so that none can stand for
/// another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Namespace {
    /// Signatures over a tree.
    Tree,
    /// The capability of the peer that opened the connection.
    ReplicateInitiator,
    /// The capability of the peer that accepted the connection.
    ReplicateResponder,
    /// Core keys that are the hash of a manifest.
    Manifest,
    /// The namespace of a signer unless its writer chose another.
    Signer,
    /// Keys of encrypted blocks.
    Encryption,
}

const NAMESPACES: u8 = 6;

static HASHES: LazyLock<[Hash; NAMESPACES as usize]> =
    LazyLock::new(|| std::array::from_fn(|place| namespace("hypercore", place as u8)));

impl Namespace {
    /// The prefix itself.
    pub(crate) fn hash(self) -> &'static Hash {
        const { assert!((Self::Encryption as u8) < NAMESPACES) };
        &HASHES[self as usize]
    }
}

/// How trees are hashed.
pub(crate) const TREE: TreeHash = TreeHash::LittleEndian;

/// Which side of a connection a peer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// It opened the connection.
    Initiator,
    /// It accepted the connection.
    Responder,
}

/// What the peer on this side of a connection sends to show that it knows the key of a core.
pub(crate) fn capability(
    side: Side,
    key: &PublicKey,
    handshake_hash: &[u8; HANDSHAKE_HASH_LENGTH],
) -> Hash {
    let namespace = match side {
        Side::Initiator => Namespace::ReplicateInitiator,
        Side::Responder => Namespace::ReplicateResponder,
    };
    blake2b_keyed(handshake_hash, &[namespace.hash(), key.as_bytes()])
}
