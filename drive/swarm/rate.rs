//! Rate limits: a token bucket that fills with time and is emptied by transfers.
//!
//! It may be overdrawn by one transfer, so that received or written bytes need not be split to fit.
//! The limit can be changed while a task waits. Not here: the order in which tasks wait.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::sync::{Mutex, MutexGuard, Rank};
use tokio::sync::Notify;
use tokio::time::Instant;

/// A bucket holds the bytes of this time at most.
const BURST: Duration = Duration::from_millis(100);
/// A bucket holds at least this many bytes, however slow it fills.
const SMALLEST_BURST_BYTES: f64 = 16.0 * 1024.0;

/// A limit in bytes per second; `None` is no limit.
pub type RateLimit = Option<u64>;

/// A token bucket without clock and waiting tasks. It may be overdrawn by one transfer.
#[derive(Debug)]
pub struct Bucket {
    limit: RateLimit,
    /// Bytes that may flow at once; below zero while a debt is paid off.
    balance: f64,
    at: Instant,
}

impl Bucket {
    /// An empty bucket that fills from `now` on.
    pub fn new(limit: RateLimit, now: Instant) -> Self {
        Self { limit, balance: 0.0, at: now }
    }

    /// Records that `bytes` bytes were transferred.
    pub fn spend(&mut self, bytes: u64, now: Instant) {
        if self.limit.is_some() {
            self.fill(now);
            self.balance -= bytes as f64;
        }
    }

    fn fill(&mut self, now: Instant) {
        let Some(limit) = self.limit else { return };
        let most = (limit as f64 * BURST.as_secs_f64()).max(SMALLEST_BURST_BYTES);
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.balance = (self.balance + passed * limit as f64).min(most);
        self.at = now;
    }

    /// When the debt will have been paid off; `None` if there is none.
    pub fn ready_at(&mut self, now: Instant) -> Option<Instant> {
        self.fill(now);
        let limit = self.limit?;
        if self.balance >= 0.0 {
            return None;
        }
        // A limit of 0 is checked again each second: it may be lifted.
        let wait = match limit {
            0 => 1.0,
            limit => (-self.balance / limit as f64).min(1.0),
        };
        Some(now + Duration::from_secs_f64(wait))
    }
}

/// A rate of transfer with a limit that may be changed while tasks wait for it. It holds up to
/// 100 ms of the limit, and at least 16 KiB.
#[derive(Debug)]
pub struct Rate {
    /// Whether there is a limit. Without one, a transfer takes no lock.
    limited: AtomicBool,
    bucket: Mutex<Bucket>,
    changed: Notify,
}

impl Rate {
    /// A rate with this limit.
    pub fn new(limit: RateLimit) -> Self {
        Self {
            limited: AtomicBool::new(limit.is_some()),
            bucket: Mutex::new(Rank::LEAF, Bucket::new(limit, Instant::now())),
            changed: Notify::new(),
        }
    }

    fn bucket(&self) -> MutexGuard<'_, Bucket> {
        // Nothing panics while holding it.
        self.bucket.lock()
    }

    fn is_limited(&self) -> bool {
        self.limited.load(Ordering::Acquire)
    }

    /// The current limit.
    pub fn limit(&self) -> RateLimit {
        if self.is_limited() { self.bucket().limit } else { None }
    }

    /// Changes the limit and cancels the debt under the old one.
    pub fn set(&self, limit: RateLimit) {
        {
            let mut bucket = self.bucket();
            *bucket = Bucket::new(limit, Instant::now());
            self.limited.store(limit.is_some(), Ordering::Release);
        }
        self.changed.notify_waiters();
    }

    /// Records that `bytes` bytes were transferred.
    pub fn spend(&self, bytes: usize) {
        if self.is_limited() {
            self.bucket().spend(bytes as u64, Instant::now());
        }
    }

    /// The time at which more may be transferred; `None` means now.
    pub fn ready_at(&self) -> Option<Instant> {
        if self.is_limited() { self.bucket().ready_at(Instant::now()) } else { None }
    }

    /// Waits until more may flow. Can be dropped and called again.
    pub async fn ready(&self) {
        loop {
            let changed = self.changed.notified();
            let Some(at) = self.ready_at() else { return };
            tokio::select! {
                () = tokio::time::sleep_until(at) => {}
                () = changed => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Transfers bytes in pieces for `seconds` seconds; returns their number.
    async fn flow(rate: &Rate, helping: usize, seconds: u64) -> u64 {
        let end = Instant::now() + Duration::from_secs(seconds);
        let mut moved = 0;
        loop {
            tokio::select! {
                () = rate.ready() => {}
                () = tokio::time::sleep_until(end) => return moved,
            }
            rate.spend(helping);
            moved += helping as u64;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_limit_holds_for_transfers_of_any_size() {
        for (limit, helping) in [(1_000_000, 1000), (1_000_000, 128 * 1024), (50_000, 64 * 1024)] {
            let rate = Rate::new(Some(limit));
            let moved = flow(&rate, helping, 10).await;
            let slack = helping as u64 + limit / 10 + SMALLEST_BURST_BYTES as u64;
            assert!(moved.abs_diff(limit * 10) <= slack, "{moved} at {limit}, {helping} a time");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_changed_limit_applies_to_a_waiting_task() {
        let rate = Rate::new(Some(0));
        rate.spend(1);
        let lift = async {
            tokio::time::sleep(Duration::from_secs(5)).await;
            rate.set(None);
        };
        let start = Instant::now();
        tokio::join!(rate.ready(), lift);
        assert_eq!(start.elapsed(), Duration::from_secs(5));
        assert_eq!(rate.limit(), None);
        rate.spend(usize::MAX);
        assert_eq!(rate.ready_at(), None);
    }
}
