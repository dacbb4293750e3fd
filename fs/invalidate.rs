//! What the kernel must drop from its caches, and the thread that notifies it.
//!
//! A notice to the kernel blocks behind requests of the same directory that this process is still
//! working on. So a separate thread sends it; no request waits for that thread, and it holds no
//! lock meanwhile. A set lies between that thread and the code that finds changes: an inode that
//! changes ten times while the kernel is busy gets one notice.

use hypermount_drive::sync::{Condvar, Mutex};
use std::collections::HashSet;
use std::time::Duration;

/// Most pending notices. One more replaces them all by "everything".
pub(crate) const MAX_PENDING: usize = 65_536;

/// A notice of what the kernel must drop.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Invalidation {
    /// Attributes, pages and (of a directory) the cached listing of an inode.
    Inode(u64),
    /// What this name leads to, or that it leads nowhere.
    Entry {
        /// The inode number of the directory.
        parent: u64,
        /// The name in it, as text.
        name: String,
    },
}

/// The notices that the thread sends next.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Batch {
    These(Vec<Invalidation>),
    /// Too many changes to name: every inode that the kernel knows.
    Everything,
}

#[derive(Default)]
struct Pending {
    set: HashSet<Invalidation>,
    everything: bool,
    closed: bool,
    /// Number of pushes.
    pushed: u64,
    /// The thread has taken all pushes up to `taken` and has sent those up to `told`.
    taken: u64,
    told: u64,
}

impl Pending {
    fn is_told(&self, push: u64) -> bool {
        self.closed || self.told >= push
    }
}

/// The notices that were not sent yet.
///
/// INVARIANT: `set` holds at most `MAX_PENDING`, and is empty while `everything` is set.
#[derive(Default)]
pub struct Invalidations {
    pending: Mutex<Pending>,
    changed: Condvar,
    told: Condvar,
}

impl Invalidations {
    /// Adds notices. Beyond `MAX_PENDING` they are replaced by "everything".
    pub(crate) fn push(&self, notices: impl IntoIterator<Item = Invalidation>) {
        let mut pending = self.pending.lock();
        let mut notices = notices.into_iter().peekable();
        pending.pushed += u64::from(notices.peek().is_some());
        for notice in notices {
            if pending.everything || pending.closed {
                break;
            }
            pending.set.insert(notice);
            if pending.set.len() > MAX_PENDING {
                pending.set.clear();
                pending.everything = true;
            }
        }
        drop(pending);
        self.changed.notify_one();
    }

    /// Replaces all pending notices by "everything".
    pub(crate) fn push_everything(&self) {
        let mut pending = self.pending.lock();
        pending.set.clear();
        pending.everything = !pending.closed;
        pending.pushed += 1;
        drop(pending);
        self.changed.notify_one();
    }

    /// Ends the thread: no more notices are sent.
    pub fn close(&self) {
        let mut pending = self.pending.lock();
        *pending = Pending { closed: true, ..Pending::default() };
        drop(pending);
        self.changed.notify_one();
        self.told.notify_all();
    }

    /// The number of the newest push.
    pub(crate) fn pushed(&self) -> u64 {
        self.pending.lock().pushed
    }

    /// Waits until the pushes up to this one have been sent, at most for `limit`. Returns whether
    /// they have. Later pushes are not waited for: a drive of another publisher may change all the
    /// time.
    pub(crate) fn wait_told(&self, push: u64, limit: Duration) -> bool {
        let pending = self.pending.lock();
        self.told.wait_timeout_while(pending, limit, |pending| !pending.is_told(push))
    }

    /// Whether the pushes up to this one have been sent.
    pub(crate) fn is_told(&self, push: u64) -> bool {
        self.pending.lock().is_told(push)
    }

    /// Waits for notices; `None` once closed. This is the only wait without a deadline: its thread
    /// does nothing else, and `close` ends the wait.
    pub(crate) fn next(&self) -> Option<Batch> {
        let mut pending = self.pending.lock();
        pending.told = pending.taken;
        self.told.notify_all();
        let mut pending =
            self.changed.wait_while(pending, |p| !p.closed && !p.everything && p.set.is_empty());
        pending.taken = pending.pushed;
        Self::take(&mut pending)
    }

    /// The pending notices, without waiting.
    pub fn drain(&self) -> Vec<Invalidation> {
        let mut pending = self.pending.lock();
        match Self::take(&mut pending) {
            Some(Batch::These(notices)) => notices,
            Some(Batch::Everything) | None => Vec::new(),
        }
    }

    fn take(pending: &mut Pending) -> Option<Batch> {
        if pending.closed {
            return None;
        }
        if std::mem::take(&mut pending.everything) {
            return Some(Batch::Everything);
        }
        Some(Batch::These(pending.set.drain().collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notices_coalesce() {
        let pending = Invalidations::default();
        let entry = || Invalidation::Entry { parent: 1, name: "a".into() };
        pending.push([Invalidation::Inode(2), entry(), Invalidation::Inode(2)]);
        pending.push([entry()]);
        let Some(Batch::These(notices)) = pending.next() else { panic!("some are pending") };
        assert_eq!(notices.len(), 2);
        assert!(pending.drain().is_empty());
    }

    #[test]
    fn past_the_limit_there_is_one_notice_for_everything() {
        let pending = Invalidations::default();
        pending.push((0..MAX_PENDING as u64).map(Invalidation::Inode));
        assert!(matches!(pending.next(), Some(Batch::These(all)) if all.len() == MAX_PENDING));
        pending.push((0..=MAX_PENDING as u64).map(Invalidation::Inode));
        assert_eq!(pending.next(), Some(Batch::Everything));
        assert!(pending.drain().is_empty());
    }

    #[test]
    fn a_push_counts_as_sent_when_the_thread_takes_the_next_one() {
        let pending = std::sync::Arc::new(Invalidations::default());
        assert!(pending.wait_told(pending.pushed(), Duration::ZERO));
        pending.push([Invalidation::Inode(2)]);
        let first = pending.pushed();
        assert!(!pending.wait_told(first, Duration::ZERO));
        assert!(pending.next().is_some());
        assert!(!pending.is_told(first), "it is being told");
        // Later pushes do not delay the first.
        pending.push([Invalidation::Inode(3)]);
        assert!(pending.next().is_some());
        assert!(pending.is_told(first) && !pending.is_told(pending.pushed()));
        let teller = std::thread::spawn({
            let pending = pending.clone();
            move || pending.next()
        });
        assert!(pending.wait_told(pending.pushed(), Duration::from_secs(60)));
        pending.close();
        assert_eq!(teller.join().expect("the thread ends"), None);
    }

    #[test]
    fn closing_ends_the_wait_and_drops_what_is_pending() {
        let pending = std::sync::Arc::new(Invalidations::default());
        let waiter = std::thread::spawn({
            let pending = pending.clone();
            move || pending.next()
        });
        pending.close();
        assert_eq!(waiter.join().expect("the waiter ends"), None);
        pending.push([Invalidation::Inode(2)]);
        assert_eq!(pending.next(), None);
    }
}
