//! The locks of all packages: `std`'s, with an order. In debug builds every acquisition is checked against
//! what the thread already holds; in release builds they cost what `std`'s cost.
//!
//! Locks are taken in ascending [`Rank`]; never two of one rank, never one of a lower rank. Locks
//! that cross an `await` are tokio's and are not here. Poisoning is dealt with here and nowhere
//! else: an operation that panicked under a lock is answered with an error by its caller, and the
//! data behind every lock of these packages is published in one step, so the lock stays usable.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::PoisonError;
use std::time::Duration;

/// A place in the order of locks. The constants are the whole order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rank {
    #[cfg_attr(not(debug_assertions), allow(dead_code))]
    level: u8,
    #[cfg_attr(not(debug_assertions), allow(dead_code))]
    name: &'static str,
}

impl Rank {
    /// Requests to the daemon that are under way.
    pub const DAEMON_LIFE: Self = Self::new(4, "daemon life");
    /// Peers that the daemon keeps dialled.
    pub const DAEMON_DIALLED: Self = Self::new(7, "daemon dialled");
    /// Limits of the rates that the daemon has set.
    pub const DAEMON_LIMITS: Self = Self::new(8, "daemon limits");
    /// Rates of transfer that the daemon measures.
    pub const DAEMON_RATES: Self = Self::new(9, "daemon rates");
    /// Mounts of the daemon.
    pub const DAEMON_MOUNTS: Self = Self::new(10, "daemon mounts");
    /// Seeds of the daemon.
    pub const DAEMON_SEEDS: Self = Self::new(12, "daemon seeds");
    /// Notifier of the kernel in a mount of all drives.
    pub const ROOT_TELL: Self = Self::new(18, "root notifier");
    /// Drives of one mount.
    pub const ROOT: Self = Self::new(20, "root of drives");
    /// Inode table of a drive in a mount.
    pub const INODES: Self = Self::new(30, "inode table");
    /// Files of a volume that are to be stored.
    pub const UNSTORED: Self = Self::new(32, "unstored files");
    /// Directories of a volume that are to be stored.
    pub const TOUCHED: Self = Self::new(34, "touched directories");
    /// Open files.
    pub const HANDLES: Self = Self::new(40, "handle table");
    /// A file that is being written.
    pub const STAGED: Self = Self::new(50, "staged file");
    /// Which cores and connections are shared.
    pub const SHARING: Self = Self::new(51, "sharing");
    /// Connections of a swarm.
    pub(crate) const SWARM: Self = Self::new(52, "swarm");
    /// Addresses that discovery found.
    pub(crate) const CANDIDATES: Self = Self::new(53, "candidates");
    /// The current endpoint of Hyperswarm 4.
    pub(crate) const ENDPOINT: Self = Self::new(54, "endpoint");
    /// Sockets of one hole.
    pub(crate) const PUNCH: Self = Self::new(55, "punch sockets");
    /// All datagram streams of an endpoint.
    pub(crate) const STREAMS: Self = Self::new(56, "datagram streams");
    /// One datagram stream.
    pub(crate) const STREAM: Self = Self::new(57, "datagram stream");
    /// A node of a hash table.
    pub(crate) const NODE: Self = Self::new(58, "hash table node");
    /// Sockets of an endpoint.
    pub(crate) const SOCKETS: Self = Self::new(59, "sockets");
    /// The newest snapshot of a drive.
    pub const DRIVE: Self = Self::new(60, "drive");
    /// Open cores of a store.
    pub const STORE: Self = Self::new(62, "store");
    /// Writing the bitfield of a core.
    pub const CORE_CLAIMS: Self = Self::new(66, "core claims");
    /// Append, accept and clear of a core.
    pub const CORE_WRITER: Self = Self::new(68, "core writer");
    /// State of a core.
    pub const CORE: Self = Self::new(70, "core state");
    /// The header of a core's files.
    pub const CORE_FILES: Self = Self::new(72, "core files");
    /// Everything else: no other lock is taken while it is held.
    pub const LEAF: Self = Self::new(80, "leaf");

    /// A rank at `level`, for tests; the name is for the message of a violation.
    pub const fn new(level: u8, name: &'static str) -> Self {
        Self { level, name }
    }
}

#[cfg(debug_assertions)]
mod order {
    use std::cell::RefCell;

    use super::Rank;

    thread_local! {
        static HELD: RefCell<Vec<Rank>> = const { RefCell::new(Vec::new()) };
    }

    /// One rank held by this thread; dropping it gives the rank up.
    pub(crate) struct Held(Rank);

    pub(crate) fn acquire(rank: Rank) -> Held {
        HELD.with_borrow_mut(|held| {
            if let Some(above) = held.iter().find(|above| above.level >= rank.level) {
                panic!("lock order: {} taken while holding {}", rank.name, above.name);
            }
            held.push(rank);
        });
        Held(rank)
    }

    impl Drop for Held {
        fn drop(&mut self) {
            // The thread-local may be gone already when a guard outlives its thread's storage.
            let _ = HELD.try_with(|held| {
                let mut held = held.borrow_mut();
                if let Some(at) = held.iter().rposition(|rank| *rank == self.0) {
                    held.remove(at);
                }
            });
        }
    }
}

#[cfg(not(debug_assertions))]
mod order {
    pub(super) struct Held;

    #[inline(always)]
    pub(super) fn acquire(_: super::Rank) -> Held {
        Held
    }
}

/// A guard of any of this module's locks.
pub struct Guard<G> {
    inner: G,
    // Dropped after `inner`: fields drop in the order of their declaration.
    _held: order::Held,
}

impl<G: Deref> Deref for Guard<G> {
    type Target = G::Target;

    fn deref(&self) -> &Self::Target {
        &self.inner
    }
}

impl<G: DerefMut> DerefMut for Guard<G> {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.inner
    }
}

/// The guard of a [`Mutex`].
pub type MutexGuard<'a, T> = Guard<std::sync::MutexGuard<'a, T>>;
/// The shared guard of a [`RwLock`].
pub type ReadGuard<'a, T> = Guard<std::sync::RwLockReadGuard<'a, T>>;
/// The exclusive guard of a [`RwLock`].
pub type WriteGuard<'a, T> = Guard<std::sync::RwLockWriteGuard<'a, T>>;

/// A mutual exclusion lock with a place in the order.
pub struct Mutex<T> {
    rank: Rank,
    inner: std::sync::Mutex<T>,
}

impl<T> Mutex<T> {
    /// A lock of this rank around `value`.
    pub const fn new(rank: Rank, value: T) -> Self {
        Self { rank, inner: std::sync::Mutex::new(value) }
    }

    /// Waits until no other thread holds the lock, and takes it.
    ///
    /// # Panics
    /// In debug builds if this thread holds a lock of the same or a higher rank.
    pub fn lock(&self) -> MutexGuard<'_, T> {
        let held = order::acquire(self.rank);
        Guard { inner: self.inner.lock().unwrap_or_else(PoisonError::into_inner), _held: held }
    }
}

/// A leaf.
impl<T: Default> Default for Mutex<T> {
    fn default() -> Self {
        Self::new(Rank::LEAF, T::default())
    }
}

impl<T: fmt::Debug> fmt::Debug for Mutex<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

/// Waits for a change of what a [`Mutex`] holds. The waiting thread keeps its place in the order: it may
/// hold nothing else that others need to make the change.
#[derive(Debug, Default)]
pub struct Condvar(std::sync::Condvar);

impl Condvar {
    /// Wakes one waiting thread.
    pub fn notify_one(&self) {
        self.0.notify_one();
    }

    /// Wakes all waiting threads.
    pub fn notify_all(&self) {
        self.0.notify_all();
    }

    /// Waits while `condition` holds.
    pub fn wait_while<'a, T>(
        &self,
        guard: MutexGuard<'a, T>,
        condition: impl FnMut(&mut T) -> bool,
    ) -> MutexGuard<'a, T> {
        let Guard { inner, _held } = guard;
        let inner = self.0.wait_while(inner, condition).unwrap_or_else(PoisonError::into_inner);
        Guard { inner, _held }
    }

    /// As [`Condvar::wait_while`], at most for `limit`; false if `condition` still holds then.
    pub fn wait_timeout_while<T>(
        &self,
        guard: MutexGuard<'_, T>,
        limit: Duration,
        condition: impl FnMut(&mut T) -> bool,
    ) -> bool {
        let Guard { inner, _held } = guard;
        let waited = self.0.wait_timeout_while(inner, limit, condition);
        let (inner, result) = waited.unwrap_or_else(PoisonError::into_inner);
        drop(inner);
        !result.timed_out()
    }
}

/// A reader-writer lock with a place in the order. Reading it twice on one thread is refused
/// like everything else of the same rank: with a writer queued in between it would deadlock.
pub struct RwLock<T> {
    rank: Rank,
    inner: std::sync::RwLock<T>,
}

impl<T> RwLock<T> {
    /// A lock of this rank around `value`.
    pub const fn new(rank: Rank, value: T) -> Self {
        Self { rank, inner: std::sync::RwLock::new(value) }
    }

    /// Takes the lock shared with other readers.
    ///
    /// # Panics
    /// In debug builds if this thread holds a lock of the same or a higher rank.
    pub fn read(&self) -> ReadGuard<'_, T> {
        let held = order::acquire(self.rank);
        Guard { inner: self.inner.read().unwrap_or_else(PoisonError::into_inner), _held: held }
    }

    /// Takes the lock exclusively.
    ///
    /// # Panics
    /// In debug builds if this thread holds a lock of the same or a higher rank.
    pub fn write(&self) -> WriteGuard<'_, T> {
        let held = order::acquire(self.rank);
        Guard { inner: self.inner.write().unwrap_or_else(PoisonError::into_inner), _held: held }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HIGH: Rank = Rank::new(1, "high");
    const LOW: Rank = Rank::new(2, "low");

    #[test]
    fn ascending_order_is_allowed_in_any_release_order() {
        let (high, low) = (Mutex::new(HIGH, 1), RwLock::new(LOW, 2));
        let outer = high.lock();
        let inner = low.read();
        drop(outer);
        drop(inner);
        let again = high.lock();
        assert_eq!(*again + *low.write(), 3);
    }

    #[test]
    #[cfg(debug_assertions)]
    #[should_panic(expected = "lock order: high taken while holding low")]
    fn descending_order_panics_with_both_names() {
        let (high, low) = (Mutex::new(HIGH, ()), Mutex::new(LOW, ()));
        let _inner = low.lock();
        let _outer = high.lock();
    }

    #[test]
    #[cfg(debug_assertions)]
    #[should_panic(expected = "lock order: low taken while holding low")]
    fn two_of_one_rank_panic() {
        let (one, two) = (Mutex::new(LOW, ()), Mutex::new(LOW, ()));
        let _one = one.lock();
        let _two = two.lock();
    }

    #[test]
    fn a_panic_under_a_lock_does_not_end_the_others() {
        let lock = std::sync::Arc::new(Mutex::new(LOW, 7));
        let inner = std::sync::Arc::clone(&lock);
        let died = std::thread::spawn(move || {
            let _guard = inner.lock();
            panic!("on purpose");
        });
        assert!(died.join().is_err());
        assert_eq!(*lock.lock(), 7);
    }
}
