//! When the bitfield is written: claims follow facts.
//!
//! Data, nodes and signatures are written at once; the bitfield pages that claim them lazily, and
//! only after the facts have been synced. So a power cut never leaves a claim without its fact. A
//! claim that is lost costs a fetch on a remote core, and on our own it is found again at open
//! (`recover.rs`).

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use super::bitfield::TREE_AREA;
use super::{Core, Inner};
use crate::error::Result;

/// Blocks stored before their claims are written without waiting for [`CLAIM_DELAY`].
pub const MAX_UNCLAIMED_BLOCKS: u64 = 1024;
/// Bytes stored before their claims are written without waiting for [`CLAIM_DELAY`].
pub const MAX_UNCLAIMED_BYTES: u64 = 64 * 1024 * 1024;
/// How long stored blocks stay unclaimed at most, as long as a runtime is there to do it.
pub const CLAIM_DELAY: Duration = Duration::from_millis(500);

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

    /// Whether a limit is reached; counts anew from then on, so that one flush is started for
    /// it and not one for every block that follows while it runs.
    fn limit_reached(&mut self) -> bool {
        let reached = self.blocks >= MAX_UNCLAIMED_BLOCKS || self.bytes >= MAX_UNCLAIMED_BYTES;
        if reached {
            *self = Self::default();
        }
        reached
    }
}

/// Lets the next flush be scheduled, whether this one ran or was dropped with its runtime.
struct Scheduled(Weak<Inner>);

impl Drop for Scheduled {
    fn drop(&mut self) {
        if let Some(inner) = self.0.upgrade() {
            inner.flush_scheduled.store(false, Ordering::Release);
        }
    }
}

impl Core {
    /// Writes the claims on everything stored so far. Costs up to four `fdatasync`.
    pub fn flush(&self) -> Result<()> {
        self.inner.write_claims()
    }

    /// Makes everything stored so far survive a power cut.
    pub fn sync(&self) -> Result<()> {
        if !self.inner.writable {
            return Ok(());
        }
        self.inner.write_claims()?;
        self.inner.files.sync_claims()
    }

    /// Sees to it that what was just stored is claimed soon, off this thread where possible.
    pub(super) fn claim_later(&self) {
        let urgent = self.inner.state.lock().unclaimed.limit_reached();
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            if urgent {
                self.inner.flush_or_log();
            }
            return;
        };
        if self.inner.flush_scheduled.swap(true, Ordering::AcqRel) && !urgent {
            return;
        }
        let scheduled = Scheduled(Arc::downgrade(&self.inner));
        let flush = move || {
            let inner = scheduled.0.upgrade();
            drop(scheduled);
            if let Some(inner) = inner {
                inner.flush_or_log();
            }
        };
        if urgent {
            runtime.spawn_blocking(flush);
        } else {
            runtime.spawn(async move {
                tokio::time::sleep(CLAIM_DELAY).await;
                let _ = tokio::task::spawn_blocking(flush).await;
            });
        }
    }
}

impl Inner {
    pub(super) fn write_claims(&self) -> Result<()> {
        if !self.writable {
            return Ok(());
        }
        let _claims = self.claims.lock();
        self.write_claims_locked()
    }

    /// The same, with the lock on claims held by the caller.
    pub(super) fn write_claims_locked(&self) -> Result<()> {
        let pages = {
            let mut state = self.state.lock();
            state.unclaimed = Unclaimed::default();
            state.bits.take_dirty()
        };
        if pages.is_empty() {
            return Ok(());
        }
        let written = self.write_pages(&pages);
        if written.is_err() {
            let mut state = self.state.lock();
            for (page, _) in &pages {
                state.bits.mark_dirty(*page);
            }
        }
        written
    }

    fn write_pages(&self, pages: &[(usize, Box<[u8]>)]) -> Result<()> {
        self.files.sync_facts()?;
        if self.pair.is_some() {
            // A page may be torn by a power cut. A length without the data bits below it would
            // hide blocks of ours that nobody else has, so the data bits go first.
            for (page, bytes) in pages {
                let mut bytes = bytes.to_vec();
                let before = self.files.read_page(*page)?;
                bytes[TREE_AREA].copy_from_slice(&before[TREE_AREA]);
                self.files.write_page(*page, &bytes)?;
            }
            self.files.sync_claims()?;
        }
        for (page, bytes) in pages {
            self.files.write_page(*page, bytes)?;
        }
        Ok(())
    }

    fn flush_or_log(&self) {
        if let Err(error) = self.write_claims() {
            log::warn!("{}: {error}; tried again with the next change", self.directory.display());
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.flush_or_log();
    }
}
