//! Verified blocks kept in memory, shared by all cores of a store and bounded in bytes.
//!
//! Not here: tree nodes, which every core keeps for itself (`mod.rs`).
//!
//! INVARIANT: `used` is the sum of the sizes of all entries and never exceeds `budget`.

use bytes::Bytes;
use lru::LruCache;

use hypermount_swarm::sync::{Mutex, Rank};

/// Bytes of blocks a store keeps in memory unless told otherwise.
pub(crate) const DEFAULT_CACHE_BYTES: usize = 8 * 1024 * 1024;
/// What an entry costs besides its bytes, so that empty blocks are bounded too.
const ENTRY_COST: usize = 128;

/// Tells the cores of one cache apart.
pub(crate) type CoreId = u64;

struct Entries {
    blocks: LruCache<(CoreId, u64), Bytes>,
    used: usize,
}

/// Verified blocks in memory, within a budget of bytes; the least recently used go first.
pub struct BlockCache {
    budget: usize,
    entries: Mutex<Entries>,
}

impl BlockCache {
    /// `budget` in bytes.
    pub fn new(budget: usize) -> Self {
        let entries = Entries { blocks: LruCache::unbounded(), used: 0 };
        Self { budget, entries: Mutex::new(Rank::LEAF, entries) }
    }

    pub(crate) fn get(&self, core: CoreId, block: u64) -> Option<Bytes> {
        self.entries.lock().blocks.get(&(core, block)).cloned()
    }

    /// Whether the block is here; does not count as a use.
    pub(crate) fn contains(&self, core: CoreId, block: u64) -> bool {
        self.entries.lock().blocks.contains(&(core, block))
    }

    /// Keeps a block; the least recently used ones make room.
    pub(crate) fn insert(&self, core: CoreId, block: u64, bytes: Bytes) {
        let cost = bytes.len() + ENTRY_COST;
        if cost > self.budget {
            return;
        }
        let mut entries = self.entries.lock();
        if let Some(old) = entries.blocks.put((core, block), bytes) {
            entries.used -= old.len() + ENTRY_COST;
        }
        entries.used += cost;
        while entries.used > self.budget {
            let Some((_, old)) = entries.blocks.pop_lru() else {
                return;
            };
            entries.used -= old.len() + ENTRY_COST;
        }
    }

    pub(crate) fn remove(&self, core: CoreId, block: u64) {
        let mut entries = self.entries.lock();
        if let Some(old) = entries.blocks.pop(&(core, block)) {
            entries.used -= old.len() + ENTRY_COST;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stays_within_its_budget_and_forgets_the_oldest() {
        let cache = BlockCache::new(2 * (100 + ENTRY_COST));
        let block = Bytes::from(vec![1; 100]);
        cache.insert(1, 0, block.clone());
        cache.insert(1, 1, block.clone());
        assert!(cache.get(1, 0).is_some());
        cache.insert(2, 0, block.clone());
        assert!(cache.get(1, 1).is_none() && cache.get(1, 0).is_some());
        cache.insert(1, 0, block);
        assert!(cache.get(2, 0).is_some());
        assert_eq!(cache.entries.lock().used, 2 * (100 + ENTRY_COST));
        cache.remove(1, 0);
        cache.remove(2, 0);
        assert_eq!(cache.entries.lock().used, 0);
    }

    #[test]
    fn a_block_larger_than_the_budget_is_not_cached() {
        let cache = BlockCache::new(100 + ENTRY_COST);
        cache.insert(1, 0, Bytes::from(vec![1; 101]));
        assert!(cache.get(1, 0).is_none());
        cache.insert(1, 0, Bytes::from(vec![1; 100]));
        assert!(cache.get(1, 0).is_some());
    }
}
