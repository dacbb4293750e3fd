//! Data that recently did not arrive in time.
//!
//! The kernel repeats some requests by itself: for a page whose read-ahead failed, and for a name
//! whose cached entry could not be confirmed. A program that reads on after a short read repeats
//! one too. Each repeated request would wait as long as the first one. Within 2 s after the failure
//! it fails at once instead; later requests wait again.

use std::collections::VecDeque;
use std::time::Duration;

use hypermount_drive::sync::Mutex;
use hypermount_drive::{DiscoveryKey, Error};
use tokio::time::Instant;

/// How long a failure is remembered: long enough for the kernel's next request on a busy machine.
const MEMORY: Duration = Duration::from_secs(2);
/// Most failures that are remembered. One more replaces the oldest.
const MAX_STALLS: usize = 64;

/// A block that did not arrive in time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    core: DiscoveryKey,
    block: u64,
    waited: Duration,
    why: String,
}

impl Missing {
    /// The missing block that caused `error`, if that is its cause.
    pub fn of(error: &Error) -> Option<Self> {
        match error {
            Error::Unavailable { core, block, waited, why } => {
                Some(Self { core: *core, block: *block, waited: *waited, why: why.clone() })
            }
            _ => None,
        }
    }
}

impl From<Missing> for Error {
    fn from(missing: Missing) -> Self {
        let Missing { core, block, waited, why } = missing;
        Error::Unavailable { core, block, waited, why }
    }
}

/// Recent failures, by what was requested.
#[derive(Debug)]
pub(crate) struct Stalls<K> {
    known: Mutex<VecDeque<(Instant, K, Missing)>>,
}

impl<K> Default for Stalls<K> {
    fn default() -> Self {
        Self { known: Mutex::default() }
    }
}

impl<K> Stalls<K> {
    /// Removes expired failures. Returns whether any are left.
    pub(crate) fn any(&self) -> bool {
        let mut known = self.known.lock();
        let now = Instant::now();
        known.retain(|(at, ..)| now.duration_since(*at) < MEMORY);
        !known.is_empty()
    }

    /// The missing block of a recent failure whose request matches `asked`.
    pub(crate) fn find(&self, asked: impl Fn(&K) -> bool) -> Option<Missing> {
        if !self.any() {
            return None;
        }
        let known = self.known.lock();
        known.iter().find(|(_, known, _)| asked(known)).map(|(.., missing)| missing.clone())
    }

    pub(crate) fn note(&self, key: K, missing: Missing) {
        let mut known = self.known.lock();
        if known.len() >= MAX_STALLS {
            known.pop_front();
        }
        known.push_back((Instant::now(), key, missing));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn missing(block: u64) -> Missing {
        let core = hypermount_drive::PublicKey::new([1; 32]).discovery_key();
        Missing { core, block, waited: Duration::from_secs(5), why: "no peer connected".to_owned() }
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_is_remembered_for_two_seconds() {
        let stalls = Stalls::default();
        assert!(!stalls.any());
        stalls.note("name", missing(1));
        assert_eq!(stalls.find(|known| *known == "name"), Some(missing(1)));
        assert_eq!(stalls.find(|known| *known == "other"), None);
        let error = hypermount_drive::Error::from(missing(1));
        assert_eq!(Missing::of(&error), Some(missing(1)));
        tokio::time::advance(MEMORY).await;
        assert!(stalls.find(|_| true).is_none() && !stalls.any());
    }

    #[test]
    fn failures_are_bounded_and_the_newest_stay() {
        let stalls = Stalls::default();
        for block in 0..=MAX_STALLS as u64 {
            stalls.note(block, missing(block));
        }
        let find = |block: u64| stalls.find(|known| *known == block);
        assert_eq!(find(0), None);
        assert!((1..=MAX_STALLS as u64).all(|block| find(block) == Some(missing(block))));
    }
}
