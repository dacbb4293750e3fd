//! Whether this machine has changed its network or slept.

use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use crate::network::interfaces::{self, Interface};

/// If the clock advanced by this much more than the timer, the machine slept.
const SLEPT: Duration = Duration::from_secs(30);

/// The interfaces and the clocks of the machine at one time.
pub(crate) struct NetworkLocation {
    interfaces: Vec<Interface>,
    clock: SystemTime,
    time: Instant,
}

impl NetworkLocation {
    pub(crate) fn now() -> Self {
        Self { interfaces: interfaces::usable(), clock: SystemTime::now(), time: Instant::now() }
    }

    /// The same place after the machine slept: the clock went on, the timer did not.
    #[cfg(test)]
    pub(crate) fn after_a_sleep_of(mut self, slept: Duration) -> Self {
        self.clock += slept;
        self
    }

    pub(crate) fn differ(&self, before: &Self) -> bool {
        self.slept_since(before) || self.interfaces != before.interfaces
    }

    pub(crate) fn slept_since(&self, before: &Self) -> bool {
        let time = self.time.saturating_duration_since(before.time);
        let clock = self.clock.duration_since(before.clock).unwrap_or_default();
        clock > time + SLEPT
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn location(clock: u64, time: Instant, interfaces: &[Interface]) -> NetworkLocation {
        let clock = SystemTime::UNIX_EPOCH + Duration::from_secs(clock);
        NetworkLocation { interfaces: interfaces.to_vec(), clock, time }
    }

    #[tokio::test(start_paused = true)]
    async fn a_machine_that_slept_or_moved_is_noticed() {
        let now = Instant::now();
        let before = location(100, now, &[]);
        let later = now + Duration::from_secs(5);
        assert!(!location(105, later, &[]).differ(&before));
        assert!(!location(135, later, &[]).differ(&before));
        assert!(location(136, later, &[]).differ(&before));
        assert!(!location(50, later, &[]).differ(&before), "a clock that was put right");
        let wire = Interface {
            address: Ipv4Addr::new(10, 0, 0, 1),
            mask: Ipv4Addr::new(255, 0, 0, 0),
            loopback: false,
        };
        assert!(location(105, later, &[wire]).differ(&before));
    }
}
