//! A drive: an index over a metadata core, and a content core.
//!
//! [`Drive`] is the handle, [`Snapshot`] one pinned version of it. Not here: what the index looks
//! like (`index/`), which nested drive lies where in a folder (the code that walks paths opens it
//! as a drive of its own), and anything about peers beyond how long to wait for them.

mod commit;
#[cfg(test)]
pub(crate) mod crash_tests;
#[cfg(test)]
mod given_up_tests;
#[cfg(test)]
pub(crate) mod settled_tests;
mod mend;
#[cfg(all(test, debug_assertions))]
mod power_tests;
mod read;
mod snapshot;
mod stored;
#[cfg(test)]
mod stored_tests;
#[cfg(any(test, debug_assertions))]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

pub(crate) use crate::index::{Changed, Edit};
pub use commit::{ContentWriter, Turn};
pub use read::Pieces;
pub use stored::{StoredDrives, stored_drives, stored_drives_and_damage};

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use crate::index::{Index, IndexLog, Stored};
use crate::stat::Extent;
use hypermount_core::{Core, Error, Result, Store, Turns, Urgency, Wait, content_name};
use hypermount_swarm::crypto::PublicKey;
use hypermount_swarm::sync::{Mutex, Rank};

/// How often it is checked whether peers have announced a newer version.
const PEERS_POLLED_EVERY: Duration = Duration::from_millis(20);

/// One version of a drive, pinned: what is read through it never changes.
pub struct Snapshot {
    index: Index,
}

/// A cheap handle on one drive of a store: its two cores, at the newest version or a frozen one.
#[derive(Clone)]
pub struct Drive {
    inner: Arc<Inner>,
}

struct Inner {
    store: Store,
    index: IndexLog,
    content: Option<Core>,
    frozen: Option<u64>,
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

impl Drive {
    /// Opens the drive with this key, at its newest version or frozen at `version`; fetches the
    /// header block from peers within `wait` if it is not here.
    ///
    /// # Errors
    /// `Malformed` if the core is no index; those of [`Store::core`] and [`Core::get`].
    pub async fn open(
        store: &Store,
        key: &PublicKey,
        version: Option<u64>,
        wait: Wait,
    ) -> Result<Self> {
        let metadata = store.core(key)?;
        let opened = Self::open_core(store, metadata.clone(), version, wait).await;
        if opened.is_err() {
            store.give_up(metadata);
        }
        opened
    }

    async fn open_core(
        store: &Store,
        metadata: Core,
        version: Option<u64>,
        wait: Wait,
    ) -> Result<Self> {
        if !wait.is_local() {
            store.want_drive(*metadata.discovery_key());
        }
        if version.is_none() && !wait.is_local() && !metadata.has(0) {
            // The newest block leads to everything else: it is fetched in the same round trip as
            // the first one. No caller has to wait for it here.
            drop(metadata.demand().want_longer(metadata.head().length));
        }
        let content = IndexLog::content_named_by(&metadata.get(0, wait).await?)?;
        if let Some(version) = version
            && version > metadata.head().length
        {
            metadata.longer_than(version - 1, wait).await?;
        }
        let content = content.map(|key| store.core(&key)).transpose()?;
        let drive = Self::assemble(store, metadata, content, version);
        if !wait.is_local() {
            drive.inner.index.fetch_if_small();
        }
        if drive.writable() {
            drive.mend().await?;
        }
        Ok(drive)
    }

    /// Makes (or reopens) the drive whose metadata core derives from `name`.
    ///
    /// # Errors
    /// Those of [`Store::core_named`].
    pub fn create(store: &Store, name: &str) -> Result<Self> {
        let metadata = store.core_named(name.as_bytes())?;
        if metadata.head().length > 0 {
            let first = metadata.get_local(0)?.ok_or(Error::NotFound)?;
            let content = IndexLog::content_named_by(&first)?;
            let content = content.map(|key| store.core(&key)).transpose()?;
            return Ok(Self::assemble(store, metadata, content, None));
        }
        let content = store.core_named(content_name(metadata.key()).as_bytes())?;
        metadata.append(&[IndexLog::first_block(*content.key())])?;
        Ok(Self::assemble(store, metadata, Some(content), None))
    }

    fn assemble(store: &Store, metadata: Core, content: Option<Core>, frozen: Option<u64>) -> Self {
        if let Some(content) = &content {
            metadata.settle_after(content);
        }
        let version = frozen.unwrap_or(metadata.head().length);
        let turns = store.turns(metadata.discovery_key());
        let index = IndexLog::new(metadata);
        let current = Snapshot::new(index.at(version));
        let inner = Inner {
            store: store.clone(),
            index,
            content,
            frozen,
            current: Mutex::new(Rank::DRIVE, Arc::new(current)),
            turns,
        };
        Self { inner: Arc::new(inner) }
    }

    fn metadata(&self) -> &Core {
        self.inner.index.core()
    }

    /// The core with the bytes of this drive's files.
    ///
    /// # Errors
    /// `Malformed` for an index that names no content core.
    pub fn content(&self) -> Result<&Core> {
        let missing = || Error::Malformed("the drive names no content core".into());
        self.inner.content.as_ref().ok_or_else(missing)
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

    /// The key of the metadata core, which is that of the drive.
    pub fn key(&self) -> &PublicKey {
        self.metadata().key()
    }

    /// The version this drive is frozen at, if it is.
    pub fn frozen_version(&self) -> Option<u64> {
        self.inner.frozen
    }

    /// Whether this machine holds the keys of both cores and the drive is not frozen.
    pub fn writable(&self) -> bool {
        self.inner.frozen.is_none()
            && self.metadata().writable()
            && self.inner.content.as_ref().is_some_and(Core::writable)
    }

    /// The newest version known here (or the frozen one).
    pub fn snapshot(&self) -> Arc<Snapshot> {
        let mut current = self.inner.current.lock();
        let version = self.inner.frozen.unwrap_or(self.metadata().head().length);
        if current.version() != version {
            *current = Arc::new(Snapshot::new(self.inner.index.at(version)));
        }
        Arc::clone(&current)
    }

    /// Waits until a version newer than `version` is known. A frozen drive never has one.
    ///
    /// # Errors
    /// `Unsupported` for a frozen drive; those of [`Core::longer_than`].
    pub async fn newer_than(&self, version: u64, wait: Wait) -> Result<()> {
        match self.inner.frozen {
            Some(frozen) if frozen > version => Ok(()),
            Some(_) => Err(Error::Unsupported("a newer version of a frozen drive".into())),
            None => self.metadata().longer_than(version, wait).await.map(drop),
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
            // A peer that has another history has no news for us.
            if summary.fork.is_some() || (told > 0 && told <= core.head().length) {
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
        read::check(extent)
    }

    /// Bytes `range` of the extent (cut at its size), in pieces as they lie in blocks.
    ///
    /// # Errors
    /// `Malformed` for an extent that is not in the core; those of [`Core::get`].
    pub async fn read(&self, extent: &Extent, range: Range<u64>, wait: Wait) -> Result<Pieces> {
        if range.start >= range.end.min(extent.size) {
            return Ok(Pieces::new());
        }
        let read = read::read(self.content()?, extent, range, wait).await;
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
        let extent = Extent { block: 0, blocks: head.length, byte: 0, size: head.byte_length };
        read::read(&core, &extent, range, wait).await
    }

    /// Asks peers for bytes that no caller waits for yet.
    pub fn prefetch(&self, extent: &Extent, range: Range<u64>, urgency: Urgency) {
        if let Some(content) = &self.inner.content {
            read::prefetch(content, extent, range, urgency);
        }
    }

    /// How many bytes (at most) of the extent are on this machine, counted by whole blocks, and
    /// how many blocks.
    pub fn held(&self, extent: &Extent) -> (u64, u64) {
        self.inner.content.as_ref().map_or((0, 0), |content| read::held(content, extent))
    }

    /// About how many of the bytes `range` of the extent are not on this machine, counted by whole
    /// blocks.
    pub fn lacking(&self, extent: &Extent, range: Range<u64>) -> u64 {
        let content = self.inner.content.as_ref();
        content.map_or(0, |content| read::lacking(content, extent, range))
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
        new.index().changes(old.index(), limit, wait).await
    }
}
