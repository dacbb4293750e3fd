//! Pacing: spreads a window over the round trip, so that it does not arrive as one burst.
//!
//! The caller wakes up 1 to 2 ms late. Packets that were due meanwhile may be sent then, up to a burst,
//! so that a coarse clock is not the limit.

use std::time::{Duration, Instant};

/// Packets that may always be sent together.
const LEAST_BURST: f64 = 10.0;
/// Or the packets of this many seconds.
const BURST_TIME: f64 = 0.003;

/// See the module's description.
pub(crate) struct Pacer {
    /// Packets that may be sent at `since`.
    allowed: f64,
    since: Instant,
}

impl Pacer {
    pub(crate) fn new(now: Instant) -> Self {
        Self { allowed: LEAST_BURST, since: now }
    }

    /// Whether a packet may be sent now, at a rate in packets a second.
    pub(crate) fn allows(&mut self, rate: f64, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.since).as_secs_f64();
        let burst = (rate * BURST_TIME).max(LEAST_BURST);
        self.allowed = (self.allowed + passed * rate).min(burst);
        self.since = self.since.max(now);
        self.allowed >= 1.0
    }

    pub(crate) fn sent(&mut self) {
        self.allowed -= 1.0;
    }

    /// The time from which [`Self::allows`] returns true.
    pub(crate) fn next(&self, rate: f64) -> Instant {
        let missing = ((1.0 - self.allowed) / rate).clamp(0.0, 1.0);
        // A little later than computed: rounding must not make the caller wake too early again and again.
        self.since + Duration::from_secs_f64(missing) + Duration::from_micros(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Packets sent in two seconds by a caller that wakes every `wakes_every`.
    fn sent_in_two_seconds(rate: f64, wakes_every: Duration) -> u32 {
        let start = Instant::now();
        let (mut pacer, mut now, mut sent) = (Pacer::new(start), start, 0);
        while now < start + Duration::from_secs(2) {
            while pacer.allows(rate, now) {
                pacer.sent();
                sent += 1;
            }
            now = (now + wakes_every).max(pacer.next(rate));
        }
        sent
    }

    #[test]
    fn a_coarse_clock_does_not_slow_it_down() {
        for rate in [100.0, 5_000.0, 100_000.0] {
            for micros in [1, 300, 1_000, 2_500] {
                let sent = f64::from(sent_in_two_seconds(rate, Duration::from_micros(micros)));
                assert!((1.9 * rate..2.1 * rate + 10.0).contains(&sent), "{rate} {micros}: {sent}");
            }
        }
    }
}
