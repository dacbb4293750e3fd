//! When a daemon ends: when it has nothing left to do, or on request.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use hypermount_swarm::sync::{Mutex, MutexGuard, Rank};
use tokio::sync::{Notify, watch};

/// See the module documentation.
pub struct Life {
    /// The daemon stays when there is nothing left to do.
    kept: AtomicBool,
    requests: Mutex<Requests>,
    changed: Notify,
    ending: watch::Sender<bool>,
}

/// The requests under way, and whether more are accepted. One lock protects both, so an idle daemon never
/// ends while an accepted request is under way.
#[derive(Default)]
struct Requests {
    busy: usize,
    closed: bool,
}

/// A request under way. While one exists, the daemon does not end because it is idle.
pub struct Busy(Arc<Life>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.requests().busy -= 1;
        self.0.changed.notify_one();
    }
}

impl Life {
    pub fn new(kept: bool) -> Arc<Self> {
        Arc::new(Self {
            kept: AtomicBool::new(kept),
            requests: Mutex::new(Rank::DAEMON_LIFE, Requests::default()),
            changed: Notify::new(),
            ending: watch::Sender::new(false),
        })
    }

    fn requests(&self) -> MutexGuard<'_, Requests> {
        self.requests.lock()
    }

    /// Begins a request; `None` if no more are accepted.
    pub fn busy(self: &Arc<Self>) -> Option<Busy> {
        let mut requests = self.requests();
        if requests.closed {
            return None;
        }
        requests.busy += 1;
        Some(Busy(self.clone()))
    }

    /// Stops accepting requests if none is under way and `needed` is false. Returns whether it has stopped.
    pub fn close_unless(&self, needed: impl FnOnce() -> bool) -> bool {
        let mut requests = self.requests();
        requests.closed |= requests.busy == 0 && !needed();
        requests.closed
    }

    pub fn keep(&self) {
        self.kept.store(true, Ordering::Release);
    }

    pub fn is_kept(&self) -> bool {
        self.kept.load(Ordering::Acquire)
    }

    /// Notes that the daemon may have become idle.
    pub fn consider(&self) {
        self.changed.notify_one();
    }

    /// Resolves when the daemon may have become idle since the last call.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_daemon_does_not_close_while_a_request_is_under_way() {
        let life = Life::new(false);
        let busy = life.busy().expect("it takes requests");
        assert!(!life.close_unless(|| false), "something is under way");
        drop(busy);
        assert!(!life.close_unless(|| true), "what was done needs the daemon");
        assert!(life.close_unless(|| false));
        assert!(life.busy().is_none());
        assert!(life.close_unless(|| true), "it stays closed");
    }
}
