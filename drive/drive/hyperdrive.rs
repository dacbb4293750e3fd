//! A drive: an index over a metadata core, and a content core.
//!
//! [`Drive`] is the handle, [`Snapshot`] one pinned version of it. Not here: what the index looks
//! like (`index/`), which nested drive lies where in a folder (the code that walks paths opens it
//! as a drive of its own), and anything about peers beyond how long to wait for them.

#[cfg(test)]
pub(crate) mod bee_testing;
#[cfg(test)]
mod bee_tests;
mod commit;
#[cfg(test)]
pub(crate) mod crash_tests;
#[cfg(test)]
mod given_up_tests;
#[cfg(test)]
mod kinds_tests;
#[cfg(test)]
pub(crate) mod settled_tests;
mod holes;
mod links;
#[cfg(test)]
mod links_tests;
mod maps;
mod mend;
mod open;
#[cfg(all(test, debug_assertions))]
mod power_tests;
#[cfg(any(test, debug_assertions))]
pub(crate) mod publisher;
mod read;
mod snapshot;
mod splice;
mod stored;
#[cfg(test)]
mod stored_tests;
#[cfg(any(test, debug_assertions))]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod writing_tests;

pub(crate) use crate::index::{Changed, Edit};
pub use commit::{ContentWriter, Hasher, Turn};
pub use holes::{HOLE_BYTES, Holes, StoredPart, hole_bytes, stored_parts};
pub(crate) use open::{content_core, unlock};
pub use read::Pieces;
pub use splice::Splice;
pub use stored::{StoredDrives, drives_opened_by, stored_drives, stored_drives_and_damage};

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use crate::index::{DriveFormat, Index, IndexLog, Stored};
use crate::stat::Extent;
use hypermount_core::{Core, Error, Result, Store, Turns, Urgency, Wait};
use hypermount_swarm::crypto::PublicKey;
use hypermount_swarm::sync::Mutex;
use maps::Maps;

/// How often it is checked whether peers have announced a newer version.
const PEERS_POLLED_EVERY: Duration = Duration::from_millis(20);

/// One version of a drive, pinned: what is read through it never changes.
pub struct Snapshot {
    index: Index,
    /// The fork counter of the index core: another one may have another version of the same number.
    fork: u64,
    /// The largest fork counter of the content core that can belong to this version.
    content_limit: u64,
    content: Option<Core>,
    maps: Arc<Maps>,
    recent: Mutex<snapshot::Recent>,
}

/// A cheap handle on one drive of a store: its two cores, at the newest version or a frozen one.
#[derive(Clone)]
pub struct Drive {
    inner: Arc<Inner>,
}

struct Inner {
    store: Store,
    index: IndexLog,
    content: OnceLock<Core>,
    /// The index had no block when the drive was opened, and the first one was not read since: nothing of it is shown.
    unbegun: AtomicBool,
    maps: Arc<Maps>,
    frozen: Option<u64>,
    /// The fork counters of index and content when the content core was first seen here. A publisher shortens both.
    forks: OnceLock<(u64, u64)>,
    /// The last snapshot given out; replaced when the core has grown.
    current: Mutex<Arc<Snapshot>>,
    /// Shared with every other handle on this drive.
    turns: Arc<Turns>,
}

/// How much of a drive is on this machine, index and content together, and its connected peers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Availability {
    /// Of both cores, as far as their lengths are known.
    pub blocks: u64,
    /// Those stored on this machine.
    pub blocks_here: u64,
    /// Asked for now, by readers or ahead of them.
    pub blocks_wanted: u64,
    /// Connected, and knowing the drive's key.
    pub peers: usize,
}

impl Inner {
    fn snapshot_at(&self, version: u64) -> Snapshot {
        snapshot_of(&self.index, self.content.get(), &self.maps, &self.forks, version)
    }
}

/// `forks` as in [`Inner`].
fn snapshot_of(
    index: &IndexLog,
    content: Option<&Core>,
    maps: &Arc<Maps>,
    forks: &OnceLock<(u64, u64)>,
    version: u64,
) -> Snapshot {
    let fork = index.core().head().fork;
    let (first, content_first) = match content {
        Some(content) => *forks.get_or_init(|| (fork, content.head().fork)),
        None => (fork, 0),
    };
    // One of both cores is followed first. Until the index is, its versions are of the content as it was.
    let content_limit = content_first.saturating_add(fork.saturating_sub(first));
    let (content, maps, recent) = (content.cloned(), Arc::clone(maps), Mutex::default());
    Snapshot { index: index.at(version), fork, content_limit, content, maps, recent }
}

/// The first block after the extent.
fn extent_end(extent: &Extent) -> u64 {
    extent.block.saturating_add(extent.blocks)
}

impl Drive {
    fn metadata(&self) -> &Core {
        self.inner.index.core()
    }

    /// The core with the bytes of this drive's files.
    ///
    /// # Errors
    /// `Malformed` for an index that names no content core.
    pub fn content(&self) -> Result<&Core> {
        let missing = || Error::Malformed("the drive names no content core".into());
        self.inner.content.get().ok_or_else(missing)
    }

    /// The store both cores are in.
    pub fn store(&self) -> &Store {
        &self.inner.store
    }

    /// The core with this drive's index.
    pub fn metadata_core(&self) -> &Core {
        self.metadata()
    }

    /// The file or directory that block `seq` of the index stores, see [`IndexLog::stored_at`].
    pub(crate) fn stored_at(&self, seq: u64) -> Result<Option<Stored>> {
        self.inner.index.stored_at(seq)
    }

    /// The format in which the drive is stored.
    pub fn format(&self) -> DriveFormat {
        self.inner.index.format()
    }

    /// The key of the metadata core, which is that of the drive.
    pub fn key(&self) -> &PublicKey {
        self.metadata().key()
    }

    /// The version this drive is frozen at, if it is.
    pub fn frozen_version(&self) -> Option<u64> {
        self.inner.frozen
    }

    /// Whether this machine holds the keys of both cores, the format can be written, and the drive is not
    /// frozen.
    pub fn writable(&self) -> bool {
        self.inner.frozen.is_none()
            && self.inner.index.is_writable_format()
            && self.metadata().writable()
            && self.inner.content.get().is_some_and(Core::writable)
    }

    /// The newest version known here (or the frozen one).
    pub fn snapshot(&self) -> Arc<Snapshot> {
        let mut current = self.inner.current.lock();
        let head = self.metadata().head();
        let newest = if self.is_unbegun() { 0 } else { head.length };
        let version = self.inner.frozen.unwrap_or(newest);
        // The version of that number in a shortened drive is another one.
        let is_other = self.inner.frozen.is_none() && current.fork != head.fork;
        if current.version() != version || is_other {
            *current = Arc::new(self.snapshot_at(version));
        }
        Arc::clone(&current)
    }

    /// The drive as it was at a version that it had.
    pub(crate) fn snapshot_at(&self, version: u64) -> Snapshot {
        self.inner.snapshot_at(version)
    }

    /// Waits until a version newer than `version` is known. A frozen drive never has one.
    ///
    /// # Errors
    /// `Unsupported` for a frozen drive; those of [`Core::longer_than`].
    pub async fn newer_than(&self, version: u64, wait: Wait) -> Result<()> {
        match self.inner.frozen {
            Some(frozen) if frozen > version => Ok(()),
            Some(_) => Err(Error::Unsupported("a newer version of a frozen drive".into())),
            None => {
                self.metadata().longer_than(version, wait).await?;
                self.begin(wait).await
            }
        }
    }

    fn is_unbegun(&self) -> bool {
        self.inner.unbegun.load(Ordering::Acquire)
    }

    /// Waits until the drive has another version than `shown`: a newer one, or that of a drive that its
    /// publisher has shortened. A frozen drive never has one.
    ///
    /// # Errors
    /// Those of [`Drive::newer_than`]; `Closed`.
    pub async fn other_than(&self, shown: &Snapshot, wait: Wait) -> Result<()> {
        let mut head = self.metadata().watch();
        tokio::select! {
            shortened = head.wait_for(|head| head.fork != shown.fork), if self.inner.frozen.is_none() => {
                shortened.map(drop).map_err(|_| Error::Closed)
            }
            newer = self.newer_than(shown.version(), wait) => newer,
        }
    }

    /// Fetches the newest version that peers have announced. Returns when it is stored, and after `limit` in
    /// any case. A frozen drive has no newer version, and no peer has a newer version of a writable drive:
    /// returns at once.
    pub async fn freshen(&self, limit: Duration) {
        if self.frozen_version().is_some() || self.writable() {
            return;
        }
        let core = self.metadata();
        let (deadline, mut grown) = (Instant::now() + limit, core.watch());
        // Has peers asked; no caller has to wait for that here.
        drop(core.demand().want_longer(core.head().length));
        loop {
            let summary = core.demand().peer_summary();
            let told = summary.remote_length;
            let nothing_new = told > 0 && told <= core.head().length && !summary.later_fork;
            // A peer that has another history has no news for us.
            if summary.fork.is_some() || nothing_new {
                return;
            }
            // What is told comes without a sign, what grows with one.
            let next = deadline.min(Instant::now() + PEERS_POLLED_EVERY);
            let closed = matches!(timeout_at(next, grown.changed()).await, Ok(Err(_)));
            if closed || Instant::now() >= deadline {
                return;
            }
        }
    }

    /// How much of the newest version is here, and how many peers have more of it.
    pub fn availability(&self) -> Availability {
        let mut availability = Availability::default();
        for core in std::iter::once(self.metadata_core()).chain(self.content().ok()) {
            let length = core.head().length;
            availability.blocks += length;
            availability.blocks_here += core.held(0..length);
            availability.blocks_wanted += core.demand().count() as u64;
            availability.peers = availability.peers.max(core.demand().peer_summary().peers);
        }
        availability
    }

    /// `Malformed` for an extent that no core can have: reading it would fail at every byte, and a
    /// program that fills in what it cannot read would be at it for years.
    pub fn check_extent(extent: &Extent) -> Result<()> {
        match extent.map_size {
            0 => read::check(extent),
            _ => maps::check(extent),
        }
    }

    /// Bytes `range` of the extent (cut at its size), in pieces as they lie in blocks.
    ///
    /// # Errors
    /// `Malformed` for an extent that is not in the core; those of [`Core::get`].
    pub async fn read(&self, extent: &Extent, range: Range<u64>, wait: Wait) -> Result<Pieces> {
        if range.start >= range.end.min(extent.size) {
            return Ok(Pieces::new());
        }
        let content = self.content()?;
        let end = extent_end(extent);
        // Before, so that no caller waits for what does not exist any more.
        content.check_kept(extent.fork, end)?;
        let read = match extent.map_size {
            0 => read::read(content, extent, range, wait).await,
            _ => self.inner.maps.read(content, extent, range, wait).await,
        };
        content.check_kept(extent.fork, end)?;
        read.map_err(|error| self.explain(error))
    }

    /// A peer that was given up because its index has another history has no content for us either: that
    /// is what to tell a caller that misses some.
    fn explain(&self, error: Error) -> Error {
        let index = self.metadata();
        match (error, index.demand().peer_summary().fork) {
            (Error::Unavailable { .. }, Some(what)) => {
                Error::Forked { core: *index.discovery_key(), what }
            }
            (error, _) => error,
        }
    }

    /// As `read`, of the whole-core file a `MountTarget { core: true }` names. Its length is what
    /// is known of the core now, at least one block.
    ///
    /// # Errors
    /// Those of [`Drive::read`] and [`Store::core`].
    pub async fn read_core(
        &self,
        key: &PublicKey,
        range: Range<u64>,
        wait: Wait,
    ) -> Result<Pieces> {
        let core = self.inner.store.core(key)?;
        let mut head = core.head();
        if head.length == 0 && !core.writable() {
            head = core.longer_than(0, wait).await?;
        }
        let (blocks, size) = (head.length, head.byte_length);
        let extent = Extent { blocks, size, ..Extent::default() };
        read::read(&core, &extent, range, wait).await
    }

    /// Asks peers for bytes that no caller waits for yet.
    pub fn prefetch(&self, extent: &Extent, range: Range<u64>, urgency: Urgency) {
        match self.inner.content.get() {
            // What it named is gone.
            Some(content) if content.check_kept(extent.fork, extent_end(extent)).is_err() => {}
            Some(content) if extent.map_size > 0 => {
                self.inner.maps.prefetch(content, extent, range, urgency);
            }
            Some(content) => read::prefetch(content, extent, range, urgency),
            None => {}
        }
    }

    /// How many bytes (at most) of the extent are on this machine, counted by whole blocks, and
    /// how many blocks. Of a file with a map: what share of the blocks of the map, rounded down.
    pub fn held(&self, extent: &Extent) -> (u64, u64) {
        let held = |content: &Core| match extent.map_size {
            0 => read::held(content, extent),
            _ => self.inner.maps.held(content, extent),
        };
        self.inner.content.get().map_or((0, 0), held)
    }

    /// About how many of the bytes `range` of the extent are not on this machine, counted by whole
    /// blocks.
    pub fn lacking(&self, extent: &Extent, range: Range<u64>) -> u64 {
        let lacking = |content: &Core| match extent.map_size {
            0 => read::lacking(content, extent, range.clone()),
            _ => self.inner.maps.lacking(content, extent, range.clone()),
        };
        self.inner.content.get().map_or(0, lacking)
    }

    /// The blocks of the content core that hold the bytes of the extent, and its map if it has one; some of
    /// them may be named twice. Those of a map that is not here are not among them.
    pub(crate) fn blocks_of(&self, extent: &Extent) -> Vec<Range<u64>> {
        let own = extent.block..extent.block.saturating_add(extent.blocks);
        let mapped = match self.inner.content.get() {
            Some(content) if extent.map_size > 0 => self.inner.maps.blocks(content, extent),
            _ => Vec::new(),
        };
        std::iter::once(own).chain(mapped).collect()
    }

    /// What differs between two snapshots of this drive, at most `limit` changes (else `TooLarge`).
    /// Left out are entries that were only written again with the same value, as a delete does to
    /// an unrelated one, and names that a filesystem cannot hold. An entry whose stat cannot be
    /// read counts as none.
    ///
    /// # Errors
    /// `TooLarge`; those of [`Core::get`].
    pub async fn changes(
        &self,
        old: &Snapshot,
        new: &Snapshot,
        limit: usize,
        wait: Wait,
    ) -> Result<Vec<Changed>> {
        if old.fork != new.fork {
            // What both versions share cannot be told by the numbers of their blocks.
            return Err(Error::TooLarge("the publisher has shortened the drive".into()));
        }
        let mut changes = new.index().changes(old.index(), limit, wait).await?;
        new.measure_changes(&mut changes, wait).await;
        Ok(changes)
    }
}
