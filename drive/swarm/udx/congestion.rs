//! Congestion control: how many packets may be in flight. CUBIC (RFC 9438), with a slow start that
//! ends before it has filled the queues on the path (HyStart++, RFC 9406).
//!
//! One thing differs: a loss counts as congestion only with further evidence, which is a queue that
//! makes round trips longer, or more losses than chance explains. A radio link may lose one packet
//! in a hundred without congestion, and CUBIC would stop at about a dozen packets in flight. The
//! reference (BBR) does not stop there either.

use std::time::{Duration, Instant};

use super::round_trip::RoundTrip;

/// First window, in packets (about the bytes that RFC 6928 allows).
pub(crate) const FIRST_WINDOW: f64 = 12.0;
/// Smallest window, in packets.
pub(crate) const LEAST_WINDOW: f64 = 4.0;
/// Largest window, in packets: what the sender can track.
pub(crate) const MOST_WINDOW: f64 = 16_384.0;

/// Congestion multiplies the window by this.
const KEPT: f64 = 0.7;
/// Lower bound of that factor in slow start, which may have doubled the window too far.
const KEPT_OF_START: f64 = 0.5;
/// CUBIC's constant C: speed of growth in packets per second cubed.
const CUBIC: f64 = 0.4;
/// Growth of the estimate of Reno's window, in packets per round trip.
const RENO: f64 = 3.0 * (1.0 - KEPT) / (1.0 + KEPT);
/// There is no queue while the arrival rate times the shortest round trip is at least this fraction
/// of the window. Only then may a loss be random.
const NO_QUEUE: f64 = 0.85;
/// And only while at most one packet in this number is lost per round trip,
const CHANCE: f64 = 20.0;
/// or at most this number of packets, which is too few to judge by.
const FEW: f64 = 3.0;

/// Bounds of the increase of the shortest round trip that indicates a growing queue.
const LEAST_GROWTH: Duration = Duration::from_millis(4);
const MOST_GROWTH: Duration = Duration::from_millis(16);
const SAMPLES: u32 = 8;
/// After such an increase, slow start grows at a quarter of its speed for this number of rounds
/// before it ends, in case there was no queue.
const CAREFUL_ROUNDS: u32 = 3;

/// An acknowledgement.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arrival {
    pub packets: usize,
    /// The latest transmission among those that arrived.
    pub newest: u64,
    /// The number of the next transmission.
    pub next: u64,
    pub sample: Option<Duration>,
    /// Whether the window was the limit, and not the writer.
    pub was_full: bool,
    pub now: Instant,
}

/// Measurements of one round, which ends when a packet arrives that was sent after it began.
struct Round {
    ends: u64,
    since: Option<Instant>,
    arrived: f64,
    lost: f64,
    least: Option<Duration>,
    samples: u32,
}

struct SlowStart {
    least_before: Option<Duration>,
    /// While growth is slowed: the shortest round trip at which that began, and the rounds since.
    careful: Option<(Duration, u32)>,
}

/// Growth since the last congestion.
struct Epoch {
    since: Instant,
    /// Seconds until the window has the size again that it had before congestion.
    plateau: f64,
    origin: f64,
    reno: f64,
}

/// The state before the reaction to a loss, restored if the loss proves spurious.
struct SavedState {
    window: f64,
    start: bool,
    top: f64,
    lost: usize,
    false_alarms: usize,
}

/// Congestion control of one stream; see the module documentation.
pub(crate) struct Congestion {
    window: f64,
    /// Set during slow start.
    start: Option<SlowStart>,
    /// Slow start ends at this window.
    threshold: f64,
    /// The window at the last congestion, or less (fast convergence).
    top: f64,
    epoch: Option<Epoch>,
    /// Losses of transmissions before this one have been reacted to.
    recovery: u64,
    recovering: bool,
    before: Option<SavedState>,
    round: Round,
    /// Packets per second that arrived in each of the last two rounds.
    rates: [f64; 2],
}

impl Congestion {
    pub(crate) fn new() -> Self {
        let round =
            Round { ends: 0, since: None, arrived: 0.0, lost: 0.0, least: None, samples: 0 };
        Self {
            window: FIRST_WINDOW,
            start: Some(SlowStart { least_before: None, careful: None }),
            threshold: MOST_WINDOW,
            top: 0.0,
            epoch: None,
            recovery: 0,
            recovering: false,
            before: None,
            round,
            rates: [0.0; 2],
        }
    }

    pub(crate) fn window(&self) -> usize {
        self.window as usize
    }

    /// Whether no packet has arrived yet that was sent after the last loss was noticed.
    pub(crate) fn is_recovering(&self) -> bool {
        self.recovering
    }

    /// Pacing rate in packets per second; `None` before a round trip is known.
    pub(crate) fn rate(&self, trip: &RoundTrip) -> Option<f64> {
        let doubles = self.start.as_ref().is_some_and(|start| start.careful.is_none());
        let gain = if doubles { 2.0 } else { 1.25 };
        let trip = trip.smoothed()?.as_secs_f64().max(1e-6);
        Some(gain * self.window / trip)
    }

    pub(crate) fn arrived(&mut self, arrival: Arrival, trip: &RoundTrip) {
        if self.recovering && arrival.newest >= self.recovery {
            self.recovering = false;
        }
        self.round.arrived += arrival.packets as f64;
        if let Some(sample) = arrival.sample {
            self.round.samples += 1;
            self.round.least = Some(self.round.least.map_or(sample, |least| least.min(sample)));
        }
        if arrival.was_full {
            self.grow(arrival, trip);
        } else {
            // A window that was not full says nothing about the path.
            self.epoch = None;
        }
        self.watch_for_queue();
        if arrival.newest >= self.round.ends {
            self.end_round(arrival);
        }
    }

    fn grow(&mut self, arrival: Arrival, trip: &RoundTrip) {
        let packets = arrival.packets as f64;
        match &self.start {
            Some(start) => {
                let speed = if start.careful.is_some() { 0.25 } else { 1.0 };
                self.window += packets * speed;
                if self.window >= self.threshold {
                    self.window = self.threshold;
                    self.start = None;
                }
            }
            // Growth would undo the reaction to congestion.
            None if self.recovering && self.before.is_some() => {}
            None => self.grow_carefully(packets, trip, arrival.now),
        }
        self.window = self.window.min(MOST_WINDOW);
    }

    fn grow_carefully(&mut self, packets: f64, trip: &RoundTrip, now: Instant) {
        let (window, top) = (self.window, self.top);
        let epoch = self.epoch.get_or_insert_with(|| Epoch {
            since: now,
            plateau: ((top - window).max(0.0) / CUBIC).cbrt(),
            origin: window.max(top),
            reno: window,
        });
        let trip = trip.smoothed().unwrap_or_default();
        let passed = (now.saturating_duration_since(epoch.since) + trip).as_secs_f64();
        let cubic = epoch.origin + CUBIC * (passed - epoch.plateau).powi(3);
        epoch.reno += packets / window * if epoch.reno < top { RENO } else { 1.0 };
        let towards = cubic.clamp(window, window * 1.5);
        self.window = (window + (towards - window) / window * packets).max(epoch.reno);
    }

    /// Slows slow start when round trips become longer: a queue has begun to form.
    fn watch_for_queue(&mut self) {
        let Some(start) = &mut self.start else { return };
        if self.round.samples < SAMPLES {
            return;
        }
        let (Some(least), Some(before)) = (self.round.least, start.least_before) else { return };
        match start.careful {
            None if least >= before + (before / 8).clamp(LEAST_GROWTH, MOST_GROWTH) => {
                start.careful = Some((least, 0));
            }
            Some((grown, _)) if least < grown => start.careful = None,
            _ => {}
        }
    }

    fn end_round(&mut self, arrival: Arrival) {
        if let Some(since) = self.round.since {
            let took = arrival.now.saturating_duration_since(since).as_secs_f64().max(1e-6);
            self.rates = [self.rates[1], self.round.arrived / took];
        }
        if let Some(start) = &mut self.start {
            start.least_before = self.round.least.or(start.least_before);
            if let Some((_, rounds)) = &mut start.careful {
                *rounds += 1;
                if *rounds >= CAREFUL_ROUNDS {
                    self.start = None;
                }
            }
        }
        self.round = Round {
            ends: arrival.next,
            since: Some(arrival.now),
            arrived: 0.0,
            lost: 0.0,
            least: None,
            samples: 0,
        };
    }

    /// Notes that packets were lost; `newest` is the latest transmission among them, `next` the
    /// number of the next transmission.
    pub(crate) fn lost(&mut self, packets: usize, newest: u64, next: u64, trip: &RoundTrip) {
        self.round.lost += packets as f64;
        if let Some(before) = &mut self.before {
            before.lost += packets;
        }
        let of = self.window.max(self.round.lost + self.round.arrived);
        let more_than_chance = self.round.lost > FEW && self.round.lost * CHANCE > of;
        // React once per round trip, and again if losses that seemed random exceed chance now.
        let reacted = newest < self.recovery;
        if reacted && (self.before.is_some() || !more_than_chance) {
            return;
        }
        (self.recovery, self.recovering) = (next, true);
        let without_queue = self.rates[0].max(self.rates[1]) * trip.least().as_secs_f64();
        // The packets that arrive in one round trip were sent in the one before.
        let sent = if self.start.is_some() { self.window / 2.0 } else { self.window };
        // Nothing is known before the first round has ended.
        let no_queue = self.rates[1] == 0.0 || without_queue >= NO_QUEUE * sent;
        if !more_than_chance && no_queue {
            self.before = None;
            return;
        }
        self.remember(packets);
        let kept = if self.start.is_some() { KEPT_OF_START } else { KEPT };
        self.shrink(without_queue.clamp(self.window * kept, self.window * KEPT));
    }

    /// Notes a timeout: `packets` packets, everything in flight, are sent again.
    pub(crate) fn timed_out(&mut self, packets: usize, next: u64) {
        if !self.recovering || self.before.is_none() {
            self.remember(packets);
        }
        (self.recovery, self.recovering) = (next, true);
        let half = (self.window * KEPT).max(LEAST_WINDOW);
        self.shrink(half);
        self.threshold = half;
        self.window = LEAST_WINDOW;
        self.start = Some(SlowStart { least_before: None, careful: None });
    }

    fn remember(&mut self, lost: usize) {
        self.before = Some(SavedState {
            window: self.window,
            start: self.start.is_some(),
            top: self.top,
            lost,
            false_alarms: 0,
        });
    }

    fn shrink(&mut self, to: f64) {
        // Fast convergence: an older stream releases room for newer ones sooner.
        let lower = self.window < self.top;
        self.top = if lower { self.window * (1.0 + KEPT) / 2.0 } else { self.window };
        self.window = to.clamp(LEAST_WINDOW, MOST_WINDOW);
        (self.start, self.epoch) = (None, None);
    }

    /// Notes that packets counted as lost arrived late. If all of them did, undoes the reaction.
    pub(crate) fn false_alarm(&mut self, packets: usize) {
        let Some(before) = &mut self.before else { return };
        before.false_alarms += packets;
        if before.false_alarms < before.lost {
            return;
        }
        self.window = self.window.max(before.window);
        self.top = before.top;
        self.threshold = MOST_WINDOW;
        self.start = before.start.then_some(SlowStart { least_before: None, careful: None });
        (self.before, self.epoch, self.recovering) = (None, None, false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRIP: Duration = Duration::from_millis(50);

    /// A sender whose window is always full, on a path with a given number of packets per round
    /// trip.
    struct TestPath {
        congestion: Congestion,
        trip: RoundTrip,
        now: Instant,
        next: u64,
        holds: f64,
    }

    impl TestPath {
        fn new(holds: f64) -> Self {
            let mut trip = RoundTrip::default();
            trip.add(TRIP);
            Self { congestion: Congestion::new(), trip, now: Instant::now(), next: 0, holds }
        }

        /// Sends a window, of which every n-th packet is lost.
        fn round(&mut self, every: Option<u64>) {
            let window = self.congestion.window() as u64;
            let took = TRIP.mul_f64((window as f64 / self.holds).max(1.0));
            let (first, start) = (self.next, self.now);
            self.next += window;
            for place in 1..=window {
                self.now = start + took.mul_f64(place as f64 / window as f64);
                if every.is_some_and(|every| place % every == 0) {
                    self.congestion.lost(1, first + place - 1, self.next + place, &self.trip);
                    continue;
                }
                self.trip.add(took);
                let arrival = Arrival {
                    packets: 1,
                    newest: first + place - 1,
                    next: self.next + place,
                    sample: Some(took),
                    was_full: true,
                    now: self.now,
                };
                self.congestion.arrived(arrival, &self.trip);
            }
        }
    }

    #[test]
    fn starts_by_doubling_and_stops_when_a_queue_forms() {
        let mut way = TestPath::new(300.0);
        let mut windows = Vec::new();
        for _ in 0..5 {
            way.round(None);
            windows.push(way.congestion.window());
        }
        assert_eq!(windows, [24, 48, 96, 192, 384]);
        for _ in 0..8 {
            way.round(None);
        }
        assert!(way.congestion.start.is_none());
        assert!((384..900).contains(&way.congestion.window()), "{}", way.congestion.window());
    }

    #[test]
    fn a_loss_with_a_queue_shrinks_the_window_once_a_round() {
        let mut way = TestPath::new(300.0);
        for _ in 0..12 {
            way.round(None);
        }
        let before = way.congestion.window;
        way.round(Some(before as u64 - 5));
        assert!((before * 0.69..before * 0.75).contains(&way.congestion.window));
        let before = way.congestion.window;
        way.congestion.lost(2, way.congestion.recovery - 1, way.next, &way.trip);
        assert!((way.congestion.window - before).abs() < 1.0);
    }

    #[test]
    fn a_loss_without_a_queue_is_ignored_unless_there_are_many() {
        let mut way = TestPath::new(3000.0);
        for _ in 0..4 {
            way.round(None);
        }
        way.congestion.start = None;
        way.round(None);
        way.round(None);
        let before = way.congestion.window;
        way.round(Some(90));
        assert!(way.congestion.window >= before);
        way.round(Some(10));
        assert!(way.congestion.window < before * 0.8);
    }

    #[test]
    fn a_spurious_timeout_is_undone() {
        let mut way = TestPath::new(3000.0);
        for _ in 0..4 {
            way.round(None);
        }
        let before = way.congestion.window;
        way.congestion.timed_out(3, way.next);
        assert!((way.congestion.window - LEAST_WINDOW).abs() < 1.0);
        way.congestion.false_alarm(2);
        assert!(way.congestion.window < before);
        way.congestion.false_alarm(1);
        assert!((way.congestion.window - before).abs() < 1.0);
    }
}
