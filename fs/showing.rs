//! Requests that wait until other mounts of a drive show a change.
//!
//! Not here: how a change is shown, and how the kernel is notified of it (`follow.rs`).

use std::sync::atomic::{AtomicUsize, Ordering};

/// Counts the requests of a mount that wait until other mounts show their change. The kernel may
/// hold locks for each of them, and this mount's notices wait for those locks.
#[derive(Default)]
pub(crate) struct Showing(AtomicUsize);

/// Counts one request until it ends, also if it is interrupted.
pub(crate) struct ShowingGuard<'a>(&'a AtomicUsize);

impl Showing {
    pub(crate) fn begin(&self) -> ShowingGuard<'_> {
        self.0.fetch_add(1, Ordering::SeqCst);
        ShowingGuard(&self.0)
    }

    pub(crate) fn is_under_way(&self) -> bool {
        self.0.load(Ordering::SeqCst) > 0
    }
}

impl Drop for ShowingGuard<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}
