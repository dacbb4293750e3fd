//! How many packets may be under way: CUBIC (RFC 9438), with a start that ends before it has filled
//! the queues on the way (HyStart++, RFC 9406).
//!
//! One thing differs: a loss only counts as congestion if there are signs of it, a queue that makes
//! round trips longer or more losses than chance explains. On a radio link one packet in a hundred
//! may be lost for no reason of ours, and CUBIC would stop at a dozen packets under way; the
//! reference (BBR) does not stop there either.

use std::time::{Duration, Instant};

use super::round_trip::RoundTrip;

/// Under way before anything is known (RFC 6928, in bytes).
pub const FIRST_WINDOW: f64 = 12.0;
/// Always allowed.
pub const LEAST_WINDOW: f64 = 4.0;
/// Never exceeded: what can be remembered.
pub const MOST_WINDOW: f64 = 16_384.0;

/// What is left of the window after congestion.
const KEPT: f64 = 0.7;
/// The same when the start went too far: it doubles every round trip.
const KEPT_OF_START: f64 = 0.5;
/// Speed of growth, packets per cubic second.
const CUBIC: f64 = 0.4;
/// Packets per round trip with which Reno's fair share grows.
const RENO: f64 = 3.0 * (1.0 - KEPT) / (1.0 + KEPT);
/// Losses count as random while arrivals fill this fraction of the window without a queue.
const NO_QUEUE: f64 = 0.85;
/// And while at most one packet in this many is lost per round trip.
const CHANCE: f64 = 20.0;
/// Or while at most this many are lost, which is too few to judge.
const FEW: f64 = 3.0;

/// The bounds of the difference between the shortest round trips that indicates a growing queue.
const LEAST_GROWTH: Duration = Duration::from_millis(4);
const MOST_GROWTH: Duration = Duration::from_millis(16);
const SAMPLES: u32 = 8;
/// Then this many rounds grow at a quarter of the speed, in case that was wrong.
const CAREFUL_ROUNDS: u32 = 3;

/// What an acknowledgement told.
#[derive(Clone, Copy, Debug)]
pub struct Arrival {
    pub packets: usize,
    /// The transmission that was sent last of those that arrived.
    pub newest: u64,
    /// The number of the next transmission.
    pub next: u64,
    pub sample: Option<Duration>,
    /// The window, and not the writer, was the limit.
    pub was_full: bool,
    pub now: Instant,
}

/// What has been seen since a packet was sent that has not arrived yet.
struct Round {
    ends: u64,
    since: Option<Instant>,
    arrived: f64,
    lost: f64,
    least: Option<Duration>,
    samples: u32,
}

struct Start {
    least_before: Option<Duration>,
    /// Round trips that were longer, and what they are compared to.
    careful: Option<(Duration, u32)>,
}

/// Growth since congestion.
struct Epoch {
    since: Instant,
    /// Seconds until the window is what it was.
    plateau: f64,
    origin: f64,
    reno: f64,
}

/// What a loss did, in case it was none.
struct Before {
    window: f64,
    start: bool,
    top: f64,
    lost: usize,
    false_alarms: usize,
}

/// See the module's description.
pub struct Congestion {
    window: f64,
    /// While the window doubles.
    start: Option<Start>,
    /// The start ends here, when it is not the first.
    threshold: f64,
    /// The window at which there was congestion.
    top: f64,
    epoch: Option<Epoch>,
    /// Losses of transmissions before this one were reacted to.
    recovery: u64,
    recovering: bool,
    before: Option<Before>,
    round: Round,
    /// Packets a second that arrived in the last two rounds.
    rates: [f64; 2],
}

impl Congestion {
    pub fn new() -> Self {
        let round =
            Round { ends: 0, since: None, arrived: 0.0, lost: 0.0, least: None, samples: 0 };
        Self {
            window: FIRST_WINDOW,
            start: Some(Start { least_before: None, careful: None }),
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

    pub fn window(&self) -> usize {
        self.window as usize
    }

    /// Losses are being made good.
    pub fn is_recovering(&self) -> bool {
        self.recovering
    }

    /// Packets a second with which a window is to be sent; none before round trips are known.
    pub fn rate(&self, trip: &RoundTrip) -> Option<f64> {
        let doubles = self.start.as_ref().is_some_and(|start| start.careful.is_none());
        let gain = if doubles { 2.0 } else { 1.25 };
        let trip = trip.smoothed()?.as_secs_f64().max(1e-6);
        Some(gain * self.window / trip)
    }

    pub fn arrived(&mut self, arrival: Arrival, trip: &RoundTrip) {
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
            // What was not needed says nothing about what would have been possible.
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
            // Growing while congestion is being reacted to would undo it.
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

    /// Ends the start when round trips become longer: a queue has begun to form.
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

    /// Packets are lost, the last of them sent with transmission `newest`.
    pub fn lost(&mut self, packets: usize, newest: u64, next: u64, trip: &RoundTrip) {
        self.round.lost += packets as f64;
        if let Some(before) = &mut self.before {
            before.lost += packets;
        }
        let of = self.window.max(self.round.lost + self.round.arrived);
        let more_than_chance = self.round.lost > FEW && self.round.lost * CHANCE > of;
        // Once a round trip; but what looked like chance may turn out to be none.
        let reacted = newest < self.recovery;
        if reacted && (self.before.is_some() || !more_than_chance) {
            return;
        }
        (self.recovery, self.recovering) = (next, true);
        let without_queue = self.rates[0].max(self.rates[1]) * trip.least().as_secs_f64();
        // What arrived in a round trip is what was sent in the one before.
        let sent = if self.start.is_some() { self.window / 2.0 } else { self.window };
        // Before a round trip is over nothing is known.
        let no_queue = self.rates[1] == 0.0 || without_queue >= NO_QUEUE * sent;
        if !more_than_chance && no_queue {
            self.before = None;
            return;
        }
        self.remember(packets);
        let kept = if self.start.is_some() { KEPT_OF_START } else { KEPT };
        self.shrink(without_queue.clamp(self.window * kept, self.window * KEPT));
    }

    /// Nothing has arrived for long, and all that was under way is sent again.
    pub fn timed_out(&mut self, packets: usize, next: u64) {
        if !self.recovering || self.before.is_none() {
            self.remember(packets);
        }
        (self.recovery, self.recovering) = (next, true);
        let half = (self.window * KEPT).max(LEAST_WINDOW);
        self.shrink(half);
        self.threshold = half;
        self.window = LEAST_WINDOW;
        self.start = Some(Start { least_before: None, careful: None });
    }

    fn remember(&mut self, lost: usize) {
        self.before = Some(Before {
            window: self.window,
            start: self.start.is_some(),
            top: self.top,
            lost,
            false_alarms: 0,
        });
    }

    fn shrink(&mut self, to: f64) {
        // Later streams find room sooner when earlier ones release some (fast convergence).
        let lower = self.window < self.top;
        self.top = if lower { self.window * (1.0 + KEPT) / 2.0 } else { self.window };
        self.window = to.clamp(LEAST_WINDOW, MOST_WINDOW);
        (self.start, self.epoch) = (None, None);
    }

    /// Packets that counted as lost had only been late. If it was all of them, nothing has happened.
    pub fn false_alarm(&mut self, packets: usize) {
        let Some(before) = &mut self.before else { return };
        before.false_alarms += packets;
        if before.false_alarms < before.lost {
            return;
        }
        self.window = self.window.max(before.window);
        self.top = before.top;
        self.threshold = MOST_WINDOW;
        self.start = before.start.then_some(Start { least_before: None, careful: None });
        (self.before, self.epoch, self.recovering) = (None, None, false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRIP: Duration = Duration::from_millis(50);

    /// A sender whose window is always full, on a path with a given number of packets per round
    /// trip.
    struct Way {
        congestion: Congestion,
        trip: RoundTrip,
        now: Instant,
        next: u64,
        holds: f64,
    }

    impl Way {
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
        let mut way = Way::new(300.0);
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
        let mut way = Way::new(300.0);
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
    fn a_loss_without_a_queue_is_chance_unless_there_are_many() {
        let mut way = Way::new(3000.0);
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
    fn a_timeout_that_was_none_is_taken_back() {
        let mut way = Way::new(3000.0);
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
