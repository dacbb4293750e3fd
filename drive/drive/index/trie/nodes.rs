//! Decoded nodes of one metadata core: fetched from peers when needed, kept while there is room.
//!
//! Also here is what makes remote lookups quick: the hint that lets a peer send the whole way at
//! once, all missing nodes of one step wanted together, and the decision to fetch the whole index
//! ahead. Not here: which nodes a key or a listing needs.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use lru::LruCache;

use super::node::TrieNode;
use crate::index::core_blocks;
use hypermount_core::{Core, Hint, MAX_WANTED_BLOCKS, Result, Ticket, Urgency, Wait};
use hypermount_swarm::sync::{Mutex, MutexGuard, Rank};

/// Bytes of decoded nodes kept per drive, roughly.
pub(super) const MAX_CACHED_BYTES: usize = 16 * 1024 * 1024;
/// Nodes kept per drive.
pub(super) const MAX_CACHED_NODES: usize = 32_768;
/// Nodes of one step asked for at once.
pub(super) const MAX_WANTED_AT_ONCE: usize = 4096;
/// An index of at most this many bytes is fetched whole as soon as a listing lacks a block.
pub(super) const MAX_EAGER_BYTES: u64 = 8 * 1024 * 1024;
/// An index of at most this many bytes is fetched whole as soon as a drive is opened: it costs less
/// than the round trips of two lookups.
pub(super) const MAX_SMALL_BYTES: u64 = 512 * 1024;
/// Blocks missing beyond which one listing alone does not fetch the whole index.
pub(super) const MAX_EAGER_BLOCKS: u64 = 32_768;
/// This number of listings that lacked blocks is a walk through the whole drive: the rest of the index is
/// then fetched ahead whatever its size.
pub(super) const LISTINGS_OF_A_WALK: u64 = 4;

struct Cache {
    /// `None` for a node that says the trie is empty.
    nodes: LruCache<u64, Option<Arc<TrieNode>>>,
    bytes: usize,
}

/// The nodes of an index: decoded, cached, and fetched ahead where that saves round trips.
pub struct Nodes {
    core: Core,
    cache: Mutex<Cache>,
    /// Listings so far that lacked a block.
    cold_listings: AtomicU64,
    /// All blocks before this one have been wanted ahead or were here.
    ahead: AtomicU64,
}

impl Nodes {
    /// The nodes of the index in `core`; none is read.
    pub fn new(core: Core) -> Self {
        let cache = Mutex::new(Rank::LEAF, Cache { nodes: LruCache::unbounded(), bytes: 0 });
        Self { core, cache, cold_listings: AtomicU64::new(0), ahead: AtomicU64::new(1) }
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

    /// A listing at `head` lacks a block. Wants the whole index ahead if it is small, or if
    /// [`LISTINGS_OF_A_WALK`] directories were listed: a walk through them all. Single lookups never
    /// come here: they must stay cheap in a large drive.
    pub(crate) fn listing_lacks_block(&self, head: u64, wait: Wait) {
        if wait.is_local() {
            return;
        }
        let listings = self.cold_listings.fetch_add(1, Ordering::Relaxed) + 1;
        let end = head.saturating_add(1);
        let small = || {
            let missing = end.saturating_sub(self.core.held(0..end));
            self.core.head().byte_length <= MAX_EAGER_BYTES && missing <= MAX_EAGER_BLOCKS
        };
        if listings < LISTINGS_OF_A_WALK && !small() {
            return;
        }
        self.want_before(end);
    }

    /// Wants the whole index ahead if it is small.
    pub(crate) fn fetch_if_small(&self) {
        let head = self.core.head();
        if head.byte_length <= MAX_SMALL_BYTES && head.length <= MAX_EAGER_BLOCKS {
            self.want_before(head.length);
        }
    }

    /// Wants all blocks before `end` that are missing, as far as the demand takes them.
    fn want_before(&self, end: u64) {
        let mut next = self.ahead.load(Ordering::Relaxed).min(end);
        let mut missing = Vec::new();
        while missing.len() < MAX_WANTED_BLOCKS {
            let Some(block) = self.core.first_missing(next..end) else {
                next = end;
                break;
            };
            missing.push(block);
            next = block + 1;
        }
        let taken = self.core.demand().want_ahead(missing.iter().copied(), Urgency::Ahead);
        let refused = missing.get(taken).copied();
        self.ahead.fetch_max(refused.unwrap_or(next), Ordering::Relaxed);
    }
}
