//! How long a daemon lives: as long as it has something to do, or until it is told to end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio::sync::{Notify, watch};

/// See the module documentation.
pub struct Life {
    /// It stays when there is nothing left to do.
    kept: AtomicBool,
    busy: AtomicUsize,
    changed: Notify,
    ending: watch::Sender<bool>,
}

/// Something under way that must not be cut off by an end for want of work.
pub struct Busy(Arc<Life>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.busy.fetch_sub(1, Ordering::AcqRel);
        self.0.changed.notify_one();
    }
}

impl Life {
    pub fn new(kept: bool) -> Arc<Self> {
        Arc::new(Self {
            kept: AtomicBool::new(kept),
            busy: AtomicUsize::new(0),
            changed: Notify::new(),
            ending: watch::Sender::new(false),
        })
    }

    pub fn busy(self: &Arc<Self>) -> Busy {
        self.busy.fetch_add(1, Ordering::AcqRel);
        Busy(self.clone())
    }

    pub fn is_busy(&self) -> bool {
        self.busy.load(Ordering::Acquire) > 0
    }

    pub fn keep(&self) {
        self.kept.store(true, Ordering::Release);
    }

    pub fn is_kept(&self) -> bool {
        self.kept.load(Ordering::Acquire)
    }

    /// Something changed that may have been the last thing to do.
    pub fn consider(&self) {
        self.changed.notify_one();
    }

    /// Resolves when something may have changed since the last time.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    pub fn end(&self) {
        self.ending.send_replace(true);
    }

    /// Resolves when the daemon is about to end.
    pub async fn ended(&self) {
        // The sender is in `self`.
        let _ = self.ending.subscribe().wait_for(|ending| *ending).await;
    }
}
