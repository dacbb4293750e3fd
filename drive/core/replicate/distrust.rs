//! Blocks of which a proof that built on our own nodes did not verify. While there are any, only full
//! proofs are asked for: our nodes may be wrong, and the peers innocent.

use std::collections::{BTreeMap, BTreeSet};

use tokio::time::{Duration, Instant};

/// Blocks that are distrusted at once. A bad proof of a further one is the peer's fault.
pub(super) const MAX_DISTRUSTED: usize = 1024;
/// How long a block stays distrusted that no reader wants. The peer that could not prove it has been
/// disconnected, and comes back within 30 s if at all.
pub(super) const DISTRUST_FOR: Duration = Duration::from_secs(60);

/// INVARIANT: `ends` has each of `blocks` once, with its end.
#[derive(Debug, Default)]
pub(super) struct Distrusted {
    blocks: BTreeMap<u64, Instant>,
    ends: BTreeSet<(Instant, u64)>,
}

impl Distrusted {
    /// False if the block is distrusted already, or there are too many.
    pub(super) fn insert(&mut self, block: u64, now: Instant) -> bool {
        if self.blocks.len() >= MAX_DISTRUSTED || self.blocks.contains_key(&block) {
            return false;
        }
        let end = now + DISTRUST_FOR;
        self.blocks.insert(block, end);
        self.ends.insert((end, block));
        true
    }

    pub(super) fn remove(&mut self, block: u64) {
        if let Some(end) = self.blocks.remove(&block) {
            self.ends.remove(&(end, block));
        }
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Forgets what has been distrusted for long enough and is not `wanted`.
    pub(super) fn expire(&mut self, now: Instant, wanted: impl Fn(u64) -> bool) {
        while let Some((end, block)) = self.ends.first().copied().filter(|(end, _)| *end <= now) {
            self.ends.remove(&(end, block));
            if wanted(block) {
                let later = now + DISTRUST_FOR;
                self.blocks.insert(block, later);
                self.ends.insert((later, block));
            } else {
                self.blocks.remove(&block);
            }
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.blocks.len()
    }
}
