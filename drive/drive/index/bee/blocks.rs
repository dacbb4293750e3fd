//! Decoded blocks of one metadata core: fetched from peers when needed, kept while there is room.
//!
//! Not here: which blocks a key or a listing needs.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use lru::LruCache;

use super::block::{Block, Header};
use crate::index::core_blocks::{self, Ahead};
use hypermount_core::{Core, Hint, Result, Ticket, Wait};
use hypermount_swarm::sync::{Mutex, Rank};

/// Bytes of decoded blocks kept per drive, roughly.
const MAX_CACHED_BYTES: usize = 16 * 1024 * 1024;
/// Blocks kept per drive.
const MAX_CACHED_BLOCKS: usize = 32_768;
/// An index of at most this many bytes is fetched whole as soon as a drive is opened. Every key on the way of
/// a look-up is a block of its own, so a few look-ups cost as many requests.
const MAX_SMALL_BYTES: u64 = 4 * 1024 * 1024;

struct Cache {
    /// The fork counter of the core when they were read: another one has other blocks.
    fork: u64,
    blocks: LruCache<u64, Arc<Block>>,
    bytes: usize,
}

/// The blocks of an index, decoded and cached.
pub(crate) struct Blocks {
    core: Core,
    cache: Mutex<Cache>,
    ahead: Ahead,
    /// Whether there may be records, once that is known.
    records: OnceLock<bool>,
}

impl Blocks {
    /// The blocks of the index in `core`; none is read.
    pub(crate) fn new(core: Core) -> Self {
        let cache = Cache { fork: 0, blocks: LruCache::unbounded(), bytes: 0 };
        let cache = Mutex::new(Rank::LEAF, cache);
        Self { core, cache, ahead: Ahead::new(MAX_SMALL_BYTES), records: OnceLock::new() }
    }

    pub(crate) fn core(&self) -> &Core {
        &self.core
    }

    /// Whether the index may have records (`records.rs`). That of an adopted drive, whose header another program
    /// wrote, may have them where it is written.
    pub(crate) fn has_records(&self) -> bool {
        if let Some(records) = self.records.get() {
            return *records;
        }
        if self.core.is_adopted() {
            return *self.records.get_or_init(|| true);
        }
        let Ok(Some(header)) = self.core.get_local(0) else { return false };
        let records = Header::decode(&header).is_ok_and(|header| header.records);
        *self.records.get_or_init(|| records)
    }

    /// Block `seq`, which is not the header.
    ///
    /// # Errors
    /// `Malformed`, and those of [`Core::get`].
    pub(crate) async fn get(&self, seq: u64, wait: Wait) -> Result<Arc<Block>> {
        let fork = self.core.head().fork;
        let cached = self.cached(seq, fork);
        match cached {
            Some(block) => Ok(block),
            None => self.keep(seq, self.core.get(seq, wait).await?, fork),
        }
    }

    fn cached(&self, seq: u64, fork: u64) -> Option<Arc<Block>> {
        let mut cache = self.cache.lock();
        if cache.fork != fork {
            *cache = Cache { fork, blocks: LruCache::unbounded(), bytes: 0 };
        }
        cache.blocks.get(&seq).cloned()
    }

    /// Decodes a block that was read when the core had this fork counter or the next one.
    fn keep(&self, seq: u64, block: Bytes, fork: u64) -> Result<Arc<Block>> {
        let block = Arc::new(Block::decode(block, seq)?);
        let unchanged = self.core.head().fork == fork;
        let mut cache = self.cache.lock();
        if !unchanged || cache.fork != fork {
            return Ok(block);
        }
        if let Some(old) = cache.blocks.put(seq, Arc::clone(&block)) {
            cache.bytes -= old.weight();
        }
        cache.bytes += block.weight();
        while cache.bytes > MAX_CACHED_BYTES || cache.blocks.len() > MAX_CACHED_BLOCKS {
            match cache.blocks.pop_lru() {
                Some((_, old)) => cache.bytes -= old.weight(),
                None => break,
            }
        }
        Ok(block)
    }

    /// Whether block `seq` would have to come from a peer.
    pub(crate) fn lacks(&self, seq: u64) -> bool {
        !self.cache.lock().blocks.contains(&seq) && !self.core.has(seq)
    }

    /// Asks for those of these blocks that are missing, together. They are wanted until what is returned
    /// is dropped; none of them is kept by it.
    pub(crate) fn want(&self, seqs: impl IntoIterator<Item = u64>, wait: Wait) -> Vec<Ticket> {
        core_blocks::want(&self.core, seqs.into_iter().filter(|seq| self.lacks(*seq)), wait)
    }

    /// Whether a peer is near, so that blocks are requested one after the other, and none that may not be needed.
    pub(crate) fn is_near(&self) -> bool {
        self.core.demand().has_near_peer()
    }

    /// Tells peers what is about to be looked up, so that one answer brings the whole way.
    pub(crate) fn hint(&self, hint: Hint, wait: Wait) {
        if !wait.is_local() {
            self.core.demand().hint(hint);
        }
    }

    /// A listing of the index when its core was `version` blocks long lacked a block, and has requested what it
    /// needs: see [`Ahead::listing_lacks_block`].
    pub(crate) fn listing_lacked_block(&self, version: u64, wait: Wait) {
        // From a near peer, the blocks that lead to the names of one directory come in less time.
        let of_a_few = if self.is_near() { 2 } else { 1 };
        self.ahead.listing_lacks_block(&self.core, version, of_a_few, wait);
    }

    /// Wants the whole index ahead if it is small.
    pub(crate) fn fetch_if_small(&self) {
        self.ahead.fetch_later_if_small(&self.core);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::bee::testing;
    use crate::index::trie::testing::core_of;

    #[tokio::test]
    async fn the_cache_forgets_what_exceeds_its_bytes() {
        let value = vec![1; 3 << 20];
        let block = |key: &'static str| {
            let (key, value) = (Bytes::from_static(key.as_bytes()), value.clone().into());
            Block { key, value: Some(value), nodes: Vec::new() }.encode()
        };
        let keys = ["a", "b", "c", "d", "e", "f", "g"];
        let mut all = vec![testing::header()];
        all.extend(keys.map(block));
        let blocks = Blocks::new(core_of(&all));
        for seq in 1..8 {
            let block = blocks.get(seq, Wait::Local).await.unwrap();
            assert_eq!(block.key, keys[seq as usize - 1]);
        }
        let cache = blocks.cache.lock();
        assert_eq!(cache.blocks.len(), 5);
        assert!(cache.bytes <= MAX_CACHED_BYTES);
    }
}
