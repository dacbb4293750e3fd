//! Decoded blocks of one metadata core: fetched from peers when needed, kept while there is room.
//!
//! Not here: which blocks a key or a listing needs.

use std::sync::Arc;

use bytes::Bytes;
use lru::LruCache;

use super::block::Block;
use crate::index::core_blocks;
use hypermount_core::{Core, Result, Ticket, Wait};
use hypermount_swarm::sync::{Mutex, Rank};

/// Bytes of decoded blocks kept per drive, roughly.
const MAX_CACHED_BYTES: usize = 16 * 1024 * 1024;
/// Blocks kept per drive.
const MAX_CACHED_BLOCKS: usize = 32_768;

struct Cache {
    blocks: LruCache<u64, Arc<Block>>,
    bytes: usize,
}

/// The blocks of an index, decoded and cached.
pub(crate) struct Blocks {
    core: Core,
    cache: Mutex<Cache>,
}

impl Blocks {
    /// The blocks of the index in `core`; none is read.
    pub(crate) fn new(core: Core) -> Self {
        let cache = Mutex::new(Rank::LEAF, Cache { blocks: LruCache::unbounded(), bytes: 0 });
        Self { core, cache }
    }

    pub(crate) fn core(&self) -> &Core {
        &self.core
    }

    /// Block `seq`, which is not the header.
    ///
    /// # Errors
    /// `Malformed`, and those of [`Core::get`].
    pub(crate) async fn get(&self, seq: u64, wait: Wait) -> Result<Arc<Block>> {
        let cached = self.cache.lock().blocks.get(&seq).cloned();
        match cached {
            Some(block) => Ok(block),
            None => self.keep(seq, self.core.get(seq, wait).await?),
        }
    }

    fn keep(&self, seq: u64, block: Bytes) -> Result<Arc<Block>> {
        let block = Arc::new(Block::decode(block, seq)?);
        let mut cache = self.cache.lock();
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
    fn lacks(&self, seq: u64) -> bool {
        !self.cache.lock().blocks.contains(&seq) && !self.core.has(seq)
    }

    /// Asks for those of these blocks that are missing, together. They are wanted until what is returned
    /// is dropped; none of them is kept by it.
    pub(crate) fn want(&self, seqs: impl IntoIterator<Item = u64>, wait: Wait) -> Vec<Ticket> {
        core_blocks::want(&self.core, seqs.into_iter().filter(|seq| self.lacks(*seq)), wait)
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
