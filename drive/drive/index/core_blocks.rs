//! What every index does with the blocks of its core: wanting those of one step together, and deciding when
//! to fetch the whole index ahead.
//!
//! Not here: what a block says, and which blocks a look-up needs.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;

use hypermount_core::{Core, MAX_WANTED_BLOCKS, Ticket, Urgency, Wait};

/// An index of at most this many bytes is fetched whole as soon as one or a few listings lack a block.
pub(super) const MAX_EAGER_BYTES: u64 = 8 * 1024 * 1024;
/// Blocks missing beyond which one listing alone does not fetch the whole index.
pub(super) const MAX_EAGER_BLOCKS: u64 = 32_768;
/// This number of listings that lacked blocks is a walk through the whole drive: the rest of the index is
/// then fetched ahead whatever its size.
pub(super) const LISTINGS_OF_A_WALK: u64 = 4;

/// Requests blocks from peers, together. They are wanted until what is returned is dropped; none of them is
/// kept by it. With [`Wait::Local`] nothing is requested.
pub(super) fn want(core: &Core, seqs: impl Iterator<Item = u64>, wait: Wait) -> Vec<Ticket> {
    if wait.is_local() {
        return Vec::new();
    }
    let demand = core.demand();
    seqs.map(|seq| demand.want_stored(seq)).collect()
}

/// A part of a block of `block_length` bytes that is to be kept: a copy if it would keep a block in memory
/// that is much larger.
pub(super) fn detached(part: Bytes, block_length: usize) -> Bytes {
    if part.len() < block_length / 2 { Bytes::copy_from_slice(&part) } else { part }
}

/// What is fetched because it may be needed some time is requested this long after the drive was opened: the first
/// lookups go before it.
const SPARE_AFTER: Duration = Duration::from_millis(300);

/// When an index is fetched whole, and how much of it has been wanted ahead.
pub(super) struct Ahead {
    /// An index of at most this many bytes is fetched whole as soon as a drive is opened.
    small_bytes: u64,
    /// Listings so far that lacked a block.
    cold_listings: AtomicU64,
    /// All blocks before this one have been wanted ahead or were here.
    next: AtomicU64,
    /// The fork counter of the core when they were.
    fork: AtomicU64,
}

impl Ahead {
    pub(super) fn new(small_bytes: u64) -> Self {
        Self {
            small_bytes,
            cold_listings: AtomicU64::new(0),
            next: AtomicU64::new(1),
            fork: AtomicU64::new(0),
        }
    }

    /// A listing lacks a block before `end`. Wants the whole index ahead if it is not large and `of_a_few`
    /// listings lacked one, or if [`LISTINGS_OF_A_WALK`] did: a walk through all directories. Single lookups never
    /// come here: they must stay cheap in a large drive.
    pub(super) fn listing_lacks_block(&self, core: &Core, end: u64, of_a_few: u64, wait: Wait) {
        if wait.is_local() {
            return;
        }
        let listings = self.cold_listings.fetch_add(1, Ordering::Relaxed) + 1;
        let is_large = || {
            let missing = end.saturating_sub(core.held(0..end));
            core.head().byte_length > MAX_EAGER_BYTES || missing > MAX_EAGER_BLOCKS
        };
        if listings >= LISTINGS_OF_A_WALK || (listings >= of_a_few && !is_large()) {
            self.want_before(core, end);
        }
    }

    /// Wants the whole index ahead if it is small.
    pub(super) fn fetch_if_small(&self, core: &Core) {
        if self.is_small(core) {
            self.want_before(core, core.head().length);
        }
    }

    /// The same with [`Urgency::Spare`], and after [`SPARE_AFTER`].
    pub(super) fn fetch_later_if_small(&self, core: &Core) {
        if !self.is_small(core) {
            return;
        }
        let core = core.clone();
        tokio::spawn(async move {
            tokio::time::sleep(SPARE_AFTER).await;
            // Collected first: the demand is locked while it takes them.
            let missing: Vec<u64> =
                (1..core.head().length).filter(|block| !core.has(*block)).collect();
            core.demand().want_ahead(missing, Urgency::Spare);
        });
    }

    fn is_small(&self, core: &Core) -> bool {
        let head = core.head();
        head.byte_length <= self.small_bytes && head.length <= MAX_EAGER_BLOCKS
    }

    /// Wants all blocks before `end` that are missing, as far as the demand takes them.
    fn want_before(&self, core: &Core, end: u64) {
        let fork = core.head().fork;
        if self.fork.swap(fork, Ordering::Relaxed) != fork {
            self.next.store(1, Ordering::Relaxed);
        }
        let mut next = self.next.load(Ordering::Relaxed).min(end);
        let mut missing = Vec::new();
        while missing.len() < MAX_WANTED_BLOCKS {
            let Some(block) = core.first_missing(next..end) else {
                next = end;
                break;
            };
            missing.push(block);
            next = block + 1;
        }
        let taken = core.demand().want_ahead(missing.iter().copied(), Urgency::Ahead);
        let refused = missing.get(taken).copied();
        self.next.fetch_max(refused.unwrap_or(next), Ordering::Relaxed);
    }
}
