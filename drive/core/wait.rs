//! How long a caller is willing to wait for a peer. Everything that may ask one takes a [`Wait`]:
//! nothing in this crate waits without a limit its caller chose.
//!
//! Cancelling is not here: dropping the future is the cancellation.

use std::time::Duration;

use tokio::time::Instant;

/// The limit of one operation that may need peers.
#[derive(Clone, Copy, Debug)]
pub enum Wait {
    /// Never ask a peer: what is not on this machine is unavailable at once.
    Local,
    /// The whole operation must end by this instant.
    Until(Instant),
    /// Each block may take this long; progress restarts the clock.
    Each(Duration),
    /// No limit; only for callers that asked for exactly that.
    Forever,
}

impl Wait {
    /// The whole operation may take `limit` from now.
    pub fn within(limit: Duration) -> Self {
        Wait::Until(Instant::now() + limit)
    }

    /// When a wait for one block that starts now must end; `None` for never.
    pub fn deadline(&self) -> Option<Instant> {
        match *self {
            Wait::Local => Some(Instant::now()),
            Wait::Until(at) => Some(at),
            Wait::Each(limit) => Some(Instant::now() + limit),
            Wait::Forever => None,
        }
    }

    /// Whether peers are never asked.
    pub fn is_local(&self) -> bool {
        matches!(self, Wait::Local)
    }
}
