//! The round-trip time and the timeouts that follow from it (RFC 6298).

use std::time::Duration;

/// The shortest retransmission timeout, after which all packets in flight count as lost.
const LEAST_TIMEOUT: Duration = Duration::from_millis(200);
/// The timeout before the first measurement of the round trip.
const FIRST_TIMEOUT: Duration = Duration::from_secs(1);
/// The caller's clock may be as coarse as this.
const GRAIN: Duration = Duration::from_millis(10);

/// See the module's description.
#[derive(Debug, Default)]
pub(crate) struct RoundTrip {
    smoothed: Option<Duration>,
    variation: Duration,
    least: Option<Duration>,
}

impl RoundTrip {
    pub(crate) fn add(&mut self, sample: Duration) {
        self.least = Some(self.least.map_or(sample, |least| least.min(sample)));
        let Some(smoothed) = self.smoothed else {
            (self.smoothed, self.variation) = (Some(sample), sample / 2);
            return;
        };
        self.variation = (self.variation * 3 + smoothed.abs_diff(sample)) / 4;
        self.smoothed = Some((smoothed * 7 + sample) / 8);
    }

    pub(crate) fn smoothed(&self) -> Option<Duration> {
        self.smoothed
    }

    /// The shortest round trip, which is that of the path without queues; zero if none is known.
    pub(crate) fn least(&self) -> Duration {
        self.least.unwrap_or_default()
    }

    /// The time without an answer after which all packets in flight are sent again.
    pub(crate) fn timeout(&self) -> Duration {
        let after = |smoothed| smoothed + (self.variation * 4).max(GRAIN);
        self.smoothed.map_or(FIRST_TIMEOUT, |smoothed| after(smoothed).max(LEAST_TIMEOUT))
    }

    /// The time without an answer after which one probe packet is sent (RFC 8985 §7.2).
    pub(crate) fn probe_timeout(&self) -> Duration {
        self.smoothed.map_or(FIRST_TIMEOUT, |smoothed| (smoothed * 2).max(GRAIN))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_follow_the_measured_round_trips() {
        let ms = Duration::from_millis;
        let mut time = RoundTrip::default();
        assert_eq!((time.timeout(), time.least()), (FIRST_TIMEOUT, Duration::ZERO));
        time.add(ms(100));
        assert_eq!((time.timeout(), time.probe_timeout()), (ms(300), ms(200)));
        for _ in 0..100 {
            time.add(ms(1));
        }
        assert_eq!((time.timeout(), time.probe_timeout()), (LEAST_TIMEOUT, GRAIN));
        assert!(time.smoothed() < Some(ms(2)) && time.least() == ms(1));
    }
}
