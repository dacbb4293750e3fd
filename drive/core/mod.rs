//! One signed append-only log (the legacy term is feed). (stub: core helper)

pub mod merkle;
pub mod demand;

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::watch;

use crate::crypto::{DiscoveryKey, PublicKey};
use crate::error::Result;
use crate::wait::Wait;
use demand::Demand;
use merkle::Proof;

/// How long a core provably is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// Number of blocks.
    pub length: u64,
    pub byte_length: u64,
}

/// Where a byte of the core is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Located {
    /// In `block`, `offset` bytes into it.
    Found { block: u64, offset: u64 },
    /// Somewhere in these blocks; the tree nodes that would tell are not here yet.
    Within(Range<u64>),
}

/// What accepting a proof changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// The block is new here (false for a hash-only proof or a block we had).
    pub stored: bool,
    /// The new head, if the proof carried a longer signed one.
    pub head: Option<Head>,
}

/// Why a proof was not accepted.
#[derive(Debug)]
pub enum Rejected {
    /// The peer's fault: drop it.
    Invalid(String),
    /// Validly signed, but contradicts what was verified before.
    Forked(String),
    /// Our own disk failed; the peer is innocent.
    Storage(crate::error::Error),
}

/// Nodes the remote side of one channel is known to hold, fed from the digests of its requests.
#[derive(Default)]
pub struct RemoteTree {}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Audit {
    pub valid: u64,
    pub invalid: u64,
}

/// A cheap handle on one shared core.
#[derive(Clone)]
pub struct Core {
    _inner: Arc<()>,
}

impl Core {
    pub fn key(&self) -> &PublicKey {
        todo!()
    }
    pub fn discovery_key(&self) -> &DiscoveryKey {
        todo!()
    }
    pub fn writable(&self) -> bool {
        todo!()
    }
    pub fn head(&self) -> Head {
        todo!()
    }
    /// Fires when the head moves.
    pub fn watch(&self) -> watch::Receiver<Head> {
        todo!()
    }
    pub fn demand(&self) -> &Arc<Demand> {
        todo!()
    }
    pub fn has(&self, _block: u64) -> bool {
        todo!()
    }
    /// How many blocks of the range are stored here.
    pub fn held(&self, _blocks: Range<u64>) -> u64 {
        todo!()
    }
    /// The first block in the range that is not stored here.
    pub fn first_missing(&self, _blocks: Range<u64>) -> Option<u64> {
        todo!()
    }
    /// The block if it is stored here, from the cache or re-hashed from disk. A block that does
    /// not verify is cleared and reported `Ok(None)` on a remote core, `Corrupt` on a writable one.
    pub fn get_local(&self, _block: u64) -> Result<Option<Bytes>> {
        todo!()
    }
    /// The block, from here or from a peer within `wait`.
    pub async fn get(&self, _block: u64, _wait: Wait) -> Result<Bytes> {
        todo!()
    }
    /// Byte offset and size of a block, if the tree nodes that tell are here.
    pub fn span(&self, _block: u64) -> Result<Option<(u64, u64)>> {
        todo!()
    }
    /// Which of `blocks` holds `byte`, as far as the tree here tells.
    pub fn locate(&self, _byte: u64, _blocks: Range<u64>) -> Result<Located> {
        todo!()
    }
    /// Which block holds `byte`, asking peers if needed; `guess` is asked for first.
    pub async fn seek(
        &self,
        _byte: u64,
        _blocks: Range<u64>,
        _guess: u64,
        _wait: Wait,
    ) -> Result<(u64, u64)> {
        todo!()
    }
    /// Waits until the core is longer than `length`.
    pub async fn longer_than(&self, _length: u64, _wait: Wait) -> Result<Head> {
        todo!()
    }
    /// Appends a batch under one signature; durable against kill -9 on return, against power
    /// loss after [`Core::sync`].
    pub fn append(&self, _blocks: &[Bytes]) -> Result<Head> {
        todo!()
    }
    pub fn sync(&self) -> Result<()> {
        todo!()
    }
    /// What a request for `block` tells the peer we already have (hypercore9.md §10.1).
    pub fn digest(&self, _block: u64) -> u64 {
        todo!()
    }
    /// Proves `block` to a peer (§10.2); with its value unless `hash_only` or not held.
    pub fn prove(
        &self,
        _block: u64,
        _digest: u64,
        _hash_only: bool,
        _remote: &mut RemoteTree,
    ) -> Result<Proof> {
        todo!()
    }
    /// Verifies a proof (§10.3) and stores what it proves; wakes those who wait.
    pub fn accept(&self, _proof: Proof) -> std::result::Result<Accepted, Rejected> {
        todo!()
    }
    /// The data bits of `start..start + length` as bytes, most significant bit first, cut after
    /// the last block we know of.
    pub fn data_bits(&self, _start: u64, _length: u64) -> Vec<u8> {
        todo!()
    }
    /// Drops the blocks' bytes and gives their disk space back.
    pub fn clear(&self, _blocks: Range<u64>) -> Result<()> {
        todo!()
    }
    /// Re-hashes every stored block; a block that does not match is cleared.
    pub fn audit(&self) -> Result<Audit> {
        todo!()
    }
}
