//! Putting right what is damaged on this disk with blocks of peers: damaged blocks, and the nodes that lead
//! to them, are forgotten and fetched again with proofs that lead to the head that is known.
//!
//! Of a core written here a repair signs nothing and makes it no longer than it is known to have been. A
//! block of it that no peer has keeps its claim: it stays damaged, and is not taken for one that was given
//! up.
//!
//! Not here: what is damaged (`check.rs`), and which blocks a drive needs (`check/repair.rs`).

use std::ops::Range;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use tokio::time::timeout_at;

use super::check::CoreCheck;
use super::{Core, CoreEvent, Inner, flat_tree};
use crate::error::Result;
use crate::wait::Wait;

/// Blocks that are asked for at once.
const FETCHED_TOGETHER: usize = 256;
/// How often in a row none of the blocks that were asked for may come before the rest is given up.
const MAX_BARREN: usize = 4;

/// The repairs of one core that are under way.
#[derive(Default)]
pub(super) struct Repairs {
    count: AtomicUsize,
    known: AtomicU64,
    refused: AtomicU64,
}

impl Repairs {
    /// Length in blocks that the core is known to have had.
    pub(super) fn known(&self) -> u64 {
        self.known.load(Ordering::Acquire)
    }

    /// A peer has shown a signed history of this length, and it was not taken over.
    pub(super) fn refuse(&self, length: u64) {
        self.refused.fetch_max(length, Ordering::AcqRel);
    }

    /// The longest history that was refused; 0 if none was.
    pub(super) fn refused(&self) -> u64 {
        self.refused.load(Ordering::Acquire)
    }
}

/// While this is kept, damaged nodes of a core whose secret key is here are forgotten and fetched again.
pub struct Repairing(Weak<Inner>);

impl Drop for Repairing {
    fn drop(&mut self) {
        if let Some(core) = self.0.upgrade() {
            core.repairing.count.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

/// What became of the blocks that were asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FetchOutcome {
    /// Blocks that came.
    pub fetched: u64,
    /// Blocks that did not come in time.
    pub lacking: u64,
    /// Why not, of the first one.
    pub why: Option<String>,
}

impl FetchOutcome {
    /// Counts what became of other blocks as well.
    pub fn add(&mut self, other: FetchOutcome) {
        self.fetched += other.fetched;
        self.lacking += other.lacking;
        self.why = self.why.take().or(other.why);
    }
}

impl Core {
    /// Begins a repair. `known` is the length in blocks that the core is known to have had: of one whose
    /// secret key is here nothing longer is taken over.
    pub fn repairing(&self, known: u64) -> Repairing {
        self.inner.repairing.known.fetch_max(known, Ordering::AcqRel);
        self.inner.repairing.count.fetch_add(1, Ordering::AcqRel);
        Repairing(Arc::downgrade(&self.inner))
    }

    /// Length in blocks of the longest signed history that a repair did not take over, if it did not.
    pub fn refused_to_repair(&self) -> Option<u64> {
        Some(self.inner.repairing.refused()).filter(|length| *length > self.head().length)
    }

    pub(super) fn is_repaired(&self) -> bool {
        self.inner.repairing.count.load(Ordering::Acquire) > 0
    }

    /// Gives up the claims on what a check found damaged, on the disk too, so that peers are asked for
    /// it; the ranges of blocks that lack now. The bytes stay where they are.
    ///
    /// # Errors
    /// `Storage`.
    pub fn forget_to_repair(&self, found: &CoreCheck) -> Result<Vec<Range<u64>>> {
        // A block that a check counts as damaged may be proven by other nodes, and is kept then.
        let held = found.damaged.iter().cloned().flat_map(|range| self.held_blocks(range));
        let (sound, lost): (Vec<u64>, Vec<u64>) =
            held.partition(|block| matches!(self.read_block(*block), Ok(Some(_))));
        let has_sound = |blocks: Range<u64>| {
            let first = sound.partition_point(|block| *block < blocks.start);
            sound.get(first).is_some_and(|block| *block < blocks.end)
        };
        let unproven = found.unproven.iter().copied();
        self.forget_below(unproven.filter(|top| !has_sound(flat_tree::blocks(*top))));
        let mut forgotten: Vec<Range<u64>> = Vec::new();
        for block in lost {
            self.inner.state.lock().bits.set_data(block, false);
            self.inner.cache.remove(self.cache_id(), block);
            match forgotten.last_mut() {
                Some(last) if last.end == block => last.end = block + 1,
                _ => forgotten.push(block..block + 1),
            }
        }
        self.claim_now()?;
        for &Range { start, end } in &forgotten {
            let _ = self.inner.events.send(CoreEvent::Cleared { start, length: end - start });
        }
        Ok(forgotten)
    }

    /// Forgets all nodes below these, which are proven themselves. No root of the head is among them, so
    /// the claimed length stays.
    fn forget_below(&self, proven: impl Iterator<Item = u64>) {
        for top in proven {
            let mut state = self.inner.state.lock();
            // Nodes beyond the pages that exist are not claimed. A publisher may sign any length.
            let end = flat_tree::right_span(top).saturating_add(1).min(state.bits.tree_capacity());
            for node in (flat_tree::left_span(top)..end).filter(|node| *node != top) {
                state.bits.clear_node(node);
            }
        }
    }

    /// Claims the blocks again that were forgotten and did not come: they are damaged, and not given up.
    ///
    /// # Errors
    /// `Storage`.
    pub fn claim_again(&self, forgotten: &[Range<u64>]) -> Result<()> {
        for block in forgotten.iter().cloned().flatten() {
            self.inner.state.lock().bits.set_data(block, true);
        }
        self.claim_now()
    }

    fn claim_now(&self) -> Result<()> {
        if !self.inner.writable {
            return Err(self.read_only());
        }
        // As any sync: what the claims of an index name is settled first.
        self.sync()
    }

    /// Fetches those of the blocks that are not here; each may take as long as `wait` says. `tell` gets how
    /// many have come and how many there are. What has come survives a power cut.
    ///
    /// # Errors
    /// `Storage`. Blocks that did not come are in the result.
    pub async fn fetch(
        &self,
        blocks: &[Range<u64>],
        wait: Wait,
        tell: &mut (dyn FnMut(u64, u64) + Send),
    ) -> Result<FetchOutcome> {
        let lacking = |core: &Core| -> u64 {
            blocks.iter().map(|range| range.end - range.start - core.held(range.clone())).sum()
        };
        let total = lacking(self);
        let mut wanted = blocks.iter().cloned().flatten().filter(|block| !self.has(*block));
        let (mut lost, mut barren) = (None, 0);
        while !wait.is_local() && barren < MAX_BARREN {
            let batch: Vec<u64> = wanted.by_ref().take(FETCHED_TOGETHER).collect();
            if batch.is_empty() {
                break;
            }
            barren = match self.fetch_batch(&batch, wait, &mut lost).await {
                0 => barren + 1,
                _ => 0,
            };
            tell(total - lacking(self), total);
        }
        drop(wanted);
        if total > 0 {
            self.sync()?;
        }
        let lacking = lacking(self);
        let first = blocks.iter().find_map(|range| self.first_missing(range.clone()));
        let local =
            || first.map(|block| self.unavailable(block, tokio::time::Instant::now()).to_string());
        let why = if lacking == 0 { None } else { lost.or_else(local) };
        Ok(FetchOutcome { fetched: total - lacking, lacking, why })
    }

    /// How many of the blocks came.
    async fn fetch_batch(&self, batch: &[u64], wait: Wait, lost: &mut Option<String>) -> usize {
        let started = tokio::time::Instant::now();
        let mut tickets: Vec<_> =
            batch.iter().map(|block| (*block, self.demand().want_stored(*block))).collect();
        let (mut came, mut deadline) = (0, wait.deadline());
        for (block, ticket) in &mut tickets {
            if !self.has(*block) {
                match deadline {
                    Some(deadline) => drop(timeout_at(deadline, ticket.arrived()).await),
                    None => drop(ticket.arrived().await),
                }
            }
            if self.has(*block) {
                (came, deadline) = (came + 1, wait.deadline());
            } else if lost.is_none() {
                *lost = Some(self.unavailable(*block, started).to_string());
            }
        }
        came
    }
}
