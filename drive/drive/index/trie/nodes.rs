//! Decoded nodes of one metadata core: fetched from peers when needed, kept while there is room.
//!
//! Also here is what makes remote lookups quick: the hint that lets a peer send the whole way at
//! once, and all missing nodes of one step wanted together. Not here: which nodes a key or a listing needs.

use std::sync::Arc;

use bytes::Bytes;
use lru::LruCache;

use super::node::TrieNode;
use crate::index::core_blocks::{self, Ahead};
use hypermount_core::{Core, Hint, Result, Ticket, Wait};
use hypermount_swarm::sync::{Mutex, MutexGuard, Rank};

/// Bytes of decoded nodes kept per drive, roughly.
pub(super) const MAX_CACHED_BYTES: usize = 16 * 1024 * 1024;
/// Nodes kept per drive.
pub(super) const MAX_CACHED_NODES: usize = 32_768;
/// Nodes of one step asked for at once.
pub(super) const MAX_WANTED_AT_ONCE: usize = 4096;
/// An index of at most this many bytes is fetched whole as soon as a drive is opened: it costs less
/// than the round trips of two lookups.
pub(super) const MAX_SMALL_BYTES: u64 = 512 * 1024;

struct Cache {
    /// `None` for a node that says the trie is empty.
    nodes: LruCache<u64, Option<Arc<TrieNode>>>,
    bytes: usize,
}

/// The nodes of an index: decoded, cached, and fetched ahead where that saves round trips.
pub struct Nodes {
    core: Core,
    cache: Mutex<Cache>,
    ahead: Ahead,
}

impl Nodes {
    /// The nodes of the index in `core`; none is read.
    pub fn new(core: Core) -> Self {
        let cache = Mutex::new(Rank::LEAF, Cache { nodes: LruCache::unbounded(), bytes: 0 });
        Self { core, cache, ahead: Ahead::new(MAX_SMALL_BYTES) }
    }

    pub(crate) fn core(&self) -> &Core {
        &self.core
    }

    fn cache(&self) -> MutexGuard<'_, Cache> {
        // Nothing panics while holding this lock, and a cache is right whatever it holds.
        self.cache.lock()
    }

    fn keep(&self, seq: u64, block: Bytes) -> Result<Option<Arc<TrieNode>>> {
        let node = TrieNode::decode(block, seq)?;
        let weight = node.weight();
        let node = (!node.is_reset()).then(|| Arc::new(node));
        let mut cache = self.cache();
        if let Some(Some(old)) = cache.nodes.put(seq, node.clone()) {
            cache.bytes -= old.weight();
        }
        if node.is_some() {
            cache.bytes += weight;
        }
        while cache.bytes > MAX_CACHED_BYTES || cache.nodes.len() > MAX_CACHED_NODES {
            match cache.nodes.pop_lru() {
                Some((_, Some(old))) => cache.bytes -= old.weight(),
                Some((_, None)) => {}
                None => break,
            }
        }
        Ok(node)
    }

    /// The node in block `seq`; `None` for block 0 and where the trie was emptied.
    pub(crate) async fn get(&self, seq: u64, wait: Wait) -> Result<Option<Arc<TrieNode>>> {
        if seq == 0 {
            return Ok(None);
        }
        if let Some(node) = self.cached(seq) {
            return Ok(node);
        }
        let block = self.core.get(seq, wait).await?;
        self.keep(seq, block)
    }

    fn cached(&self, seq: u64) -> Option<Option<Arc<TrieNode>>> {
        self.cache().nodes.get(&seq).cloned()
    }

    /// Whether block `seq` would have to come from a peer.
    pub(crate) fn lacks(&self, seq: u64) -> bool {
        seq > 0 && !self.cache().nodes.contains(&seq) && !self.core.has(seq)
    }

    /// Asks for those of these nodes that are missing, together: at most `MAX_WANTED_AT_ONCE` at a
    /// time. They are wanted until what is returned is dropped; none of them is kept by it.
    pub(crate) fn want(&self, seqs: impl IntoIterator<Item = u64>, wait: Wait) -> Vec<Ticket> {
        core_blocks::want(&self.core, seqs.into_iter().filter(|seq| self.lacks(*seq)), wait)
    }

    /// Tells peers what is about to be looked up, so that one answer brings the whole way.
    pub(crate) fn hint(&self, hint: Hint, wait: Wait) {
        if !wait.is_local() {
            self.core.demand().hint(hint);
        }
    }

    /// A listing at `head` lacks a block, see [`Ahead::listing_lacks_block`].
    pub(crate) fn listing_lacks_block(&self, head: u64, wait: Wait) {
        self.ahead.listing_lacks_block(&self.core, head.saturating_add(1), 1, wait);
    }

    /// Wants the whole index ahead if it is small.
    pub(crate) fn fetch_if_small(&self) {
        self.ahead.fetch_if_small(&self.core);
    }
}
