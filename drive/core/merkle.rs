//! Nodes and proofs of the Merkle tree over a core's blocks (stub: core helper).

use bytes::Bytes;

use crate::crypto::{Hash, SignatureBytes};

/// A node of the flat tree: the hash and byte size of what lies below it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Node {
    /// Flat-tree index: leaves are even, block `i` is `2 i`.
    pub index: u64,
    pub hash: Hash,
    pub size: u64,
}

/// What a peer sends to prove one block (or, without `value`, one leaf hash).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proof {
    pub block: u64,
    pub value: Option<Bytes>,
    pub nodes: Vec<Node>,
    pub signature: Option<SignatureBytes>,
}
