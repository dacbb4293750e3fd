//! How many queued blocks passes over the queue may skip: those that no peer with room can serve.
//!
//! Every event of a peer may cause a pass. Without a bound per time, a peer that offers blocks and takes
//! the offers back makes each pass look at the whole queue. Not here: what a pass does (`schedule.rs`).

use tokio::time::{Duration, Instant};

/// Blocks skipped by all passes that begin within one [`WINDOW`].
pub(super) const MAX_SKIPPED: usize = 256;
const WINDOW: Duration = Duration::from_millis(10);
/// Blocks that a pass may skip in any case: what can be asked for is mostly at the front of the queue.
pub(super) const ALWAYS_SKIPPED: usize = 16;

/// See the module's description.
pub(super) struct Skips {
    /// When the window began.
    since: Instant,
    count: usize,
    /// When the pass is due that goes further than the last one was allowed to.
    pub(crate) next_pass: Option<Instant>,
}

impl Skips {
    pub(super) fn new(now: Instant) -> Self {
        Self { since: now, count: 0, next_pass: None }
    }

    /// Blocks that a pass which begins now may skip.
    pub(super) fn allowed(&mut self, now: Instant) -> usize {
        if now >= self.since + WINDOW {
            (self.since, self.count) = (now, 0);
        }
        MAX_SKIPPED.saturating_sub(self.count).max(ALWAYS_SKIPPED)
    }

    /// A pass has skipped `count` blocks; `ended` if it had to end there.
    pub(super) fn spend(&mut self, count: usize, ended: bool) {
        // The first pass of a window may skip all that passes ever skip: it is complete.
        let is_cut_short = ended && self.count > 0;
        self.count += count;
        self.next_pass = is_cut_short.then_some(self.since + WINDOW);
    }

    /// Whether the pass is due that goes further; it counts as begun then.
    pub(super) fn is_due(&mut self, now: Instant) -> bool {
        self.next_pass.take_if(|due| *due <= now).is_some()
    }

    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        self.count
    }
}
