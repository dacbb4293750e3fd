//! When the bitfield is written, and when a core of ours is *settled*: claims follow facts.
//!
//! Data, nodes and signatures are written at once; the bitfield pages that claim them lazily, and
//! only after the facts have been synced. So a power cut never leaves a claim without its fact. A
//! claim that is lost costs a fetch on a remote core, and on our own it is found again at open
//! (`recover.rs`).
//!
//! Of a core we write, peers are shown what is settled and nothing beyond: facts and claims are on the
//! device. A longer head that a peer had seen and a power cut took back would be signed a second
//! time with other blocks, which is a fork.
//!
//! Not here: what a failed sync covered (`suspect.rs`).

use std::ops::Range;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use super::files::Pages;
use super::{Core, CoreEvent, Head, Inner};
use crate::error::Result;

/// Blocks stored before their claims are written without waiting for a delay.
pub(super) const MAX_UNCLAIMED_BLOCKS: u64 = 1024;
/// Bytes stored before their claims are written without waiting for a delay.
pub(super) const MAX_UNCLAIMED_BYTES: u64 = 64 * 1024 * 1024;
/// How long fetched blocks stay unclaimed at most, as long as a runtime is there to do it.
pub(super) const CLAIM_DELAY: Duration = Duration::from_millis(500);
/// How long appended blocks wait for others, to be synced and shown to peers together.
pub(super) const SETTLE_DELAY: Duration = Duration::from_millis(150);

/// How long after a failure what was appended is settled again, while nothing else is appended.
pub(super) const RETRY_DELAY: Duration = Duration::from_secs(5);

/// What was stored since the bitfield was last written.
#[derive(Default)]
pub(super) struct Unclaimed {
    blocks: u64,
    bytes: u64,
}

impl Unclaimed {
    pub(super) fn add(&mut self, blocks: u64, bytes: u64) {
        self.blocks += blocks;
        self.bytes += bytes;
    }

    /// Whether a limit is reached; counts from zero from then on, so that one flush is started for
    /// it and not one for every block that follows while it runs.
    fn limit_reached(&mut self) -> bool {
        let reached = self.blocks >= MAX_UNCLAIMED_BLOCKS || self.bytes >= MAX_UNCLAIMED_BYTES;
        if reached {
            *self = Self::default();
        }
        reached
    }
}

impl Core {
    /// Writes the claims on everything stored so far. Costs up to five `fdatasync`.
    ///
    /// # Errors
    /// `Storage`; it is tried again later.
    pub fn flush(&self) -> Result<()> {
        if self.inner.pair.is_some() { self.settle() } else { self.inner.write_claims() }
    }

    /// Makes everything stored so far survive a power cut.
    ///
    /// # Errors
    /// `Storage`; what was stored may not survive then.
    pub fn sync(&self) -> Result<()> {
        if !self.inner.writable {
            return Ok(());
        }
        self.flush()?;
        self.inner.files.sync_claims()
    }

    /// How much of the core peers are shown: of one whose secret key is here what is settled.
    pub fn announced_head(&self) -> Head {
        let state = self.inner.state.lock();
        if self.inner.pair.is_some() { state.settled } else { state.head }
    }

    /// Has `first` settled whenever this core is: its entries name blocks of that one, and are not to
    /// outlive them.
    pub fn settle_after(&self, first: &Core) {
        let _ = self.inner.settled_after.set(Arc::downgrade(&first.inner));
    }

    /// The blocks that were found at open beyond the claimed length. Blocks of other cores that they name
    /// may have been lost.
    pub fn recovered(&self) -> Range<u64> {
        self.inner.recovered.clone()
    }

    /// Sees to it that what was just stored is claimed soon, off this thread where possible.
    pub(super) fn claim_later(&self) {
        if self.inner.pair.is_some() && self.inner.files.are_volatile() {
            return self.flush_or_log();
        }
        let delay = if self.inner.pair.is_some() { SETTLE_DELAY } else { CLAIM_DELAY };
        let urgent = self.inner.state.lock().unclaimed.limit_reached();
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            if urgent || self.inner.pair.is_some() {
                self.flush_or_log();
            }
            return;
        };
        if self.inner.flush_scheduled.swap(true, Ordering::AcqRel) && !urgent {
            return;
        }
        if urgent {
            let weak = Arc::downgrade(&self.inner);
            runtime.spawn_blocking(move || flush_scheduled(&weak));
        } else {
            self.flush_after(&runtime, delay);
        }
    }

    fn flush_after(&self, runtime: &tokio::runtime::Handle, delay: Duration) {
        let weak = Arc::downgrade(&self.inner);
        runtime.spawn(async move {
            tokio::time::sleep(delay).await;
            let _ = tokio::task::spawn_blocking(move || flush_scheduled(&weak)).await;
        });
    }

    /// Settling has failed: it is tried again, whether or not anything is appended.
    pub(super) fn settle_again(&self) {
        if self.inner.pair.is_some()
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
            && !self.inner.flush_scheduled.swap(true, Ordering::AcqRel)
        {
            self.flush_after(&runtime, RETRY_DELAY);
        }
    }

    /// Settles what was recovered at open and not claimed then, before it is served to peers.
    pub(crate) fn settle_later(&self) {
        let unsettled = {
            let state = self.inner.state.lock();
            state.settled.length < state.head.length
        };
        if unsettled && self.inner.pair.is_some() && self.inner.writable {
            self.claim_later();
        }
    }

    fn flush_or_log(&self) {
        if let Err(error) = self.flush() {
            let directory = self.inner.directory.display();
            log::warn!("{directory}: {error}; tried again later");
            self.settle_again();
        }
    }

    /// Makes what was appended survive a power cut, and then shows it to peers.
    fn settle(&self) -> Result<()> {
        let inner = &*self.inner;
        if !inner.writable {
            return Ok(());
        }
        // What is settled here names blocks of the other core that are there by now.
        let (target, signature) = {
            let state = inner.state.lock();
            (state.head, state.signature.clone())
        };
        if let Some(first) = inner.settled_after.get().and_then(Weak::upgrade) {
            Core { inner: first }.settle()?;
        }
        let shown = {
            let _claims = inner.claims.lock();
            if inner.state.lock().suspect {
                // The failed sync may have covered bytes of an append that is not published yet: that
                // one has to end before what is suspect is known.
                drop(inner.writer.lock());
            }
            self.claim_locked()?;
            let mut state = inner.state.lock();
            let before = state.settled.length;
            if target.length > before {
                state.settled = target;
                state.settled_signature = signature;
            }
            // A stopped core takes over a longer history, of which it has only what peers sent, and
            // has announced that.
            let end = match inner.stop.get() {
                Some(_) if target.length > before => {
                    state.bits.first_missing(before..target.length).unwrap_or(target.length)
                }
                _ => target.length,
            };
            before..end
        };
        if !shown.is_empty() {
            let (start, length) = (shown.start, shown.end - shown.start);
            let _ = inner.events.send(CoreEvent::Appended { start, length });
        }
        Ok(())
    }

    /// Writes claims, and before that what is suspect. The lock on claims is held.
    pub(super) fn claim_locked(&self) -> Result<()> {
        let suspect = self.inner.state.lock().suspect;
        if suspect {
            self.write_suspect_again()?;
        }
        self.inner.write_claims_locked()?;
        if suspect {
            self.inner.state.lock().suspect = false;
        }
        Ok(())
    }
}

/// An append while this runs is not covered by it, and schedules the next one.
fn flush_scheduled(inner: &Weak<Inner>) {
    let Some(inner) = inner.upgrade() else { return };
    inner.flush_scheduled.store(false, Ordering::Release);
    Core { inner }.flush_or_log();
}

impl Inner {
    fn write_claims(&self) -> Result<()> {
        if !self.writable {
            return Ok(());
        }
        let _claims = self.claims.lock();
        self.write_claims_locked()
    }

    /// The same, with the lock on claims held by the caller.
    pub(super) fn write_claims_locked(&self) -> Result<()> {
        let (pages, length) = {
            let mut state = self.state.lock();
            state.unclaimed = Unclaimed::default();
            (state.bits.take_dirty(), state.head.length)
        };
        if pages.is_empty() && !self.state.lock().suspect {
            return Ok(());
        }
        if let Err(error) = self.files.sync_facts() {
            self.distrust(pages);
            return Err(error);
        }
        let written = self.files.write_claims(&pages, self.pair.is_some().then_some(length));
        if written.is_err() {
            self.mark_dirty(&pages);
        }
        written
    }

    /// Syncs records that a check has written again. What else the sync was to cover is suspect if it
    /// fails, as for any other.
    pub(super) fn sync_repaired(&self) -> Result<()> {
        let _claims = self.claims.lock();
        self.files.sync_facts().inspect_err(|_| {
            let pages = self.state.lock().bits.take_dirty();
            self.distrust(pages);
        })
    }

    pub(super) fn mark_dirty(&self, pages: &Pages) {
        let mut state = self.state.lock();
        for (page, _) in pages {
            state.bits.mark_dirty(*page);
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // What is suspect takes more than a flush, and stays unclaimed.
        if self.state.lock().suspect {
            return;
        }
        if let Err(error) = self.write_claims() {
            log::warn!("{}: {error}", self.directory.display());
        }
    }
}
