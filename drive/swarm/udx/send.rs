//! The half that sends: what goes out next and when, how much of it, and what is sent again.
//!
//! Not here: headers, and packets that carry nothing.

use std::time::{Duration, Instant};

use super::congestion::{Arrival, Congestion};
use super::flight::{Flight, Losses, Outbound};
use super::outgoing::{Outgoing, PAYLOAD};
use super::pacing::Pacer;
use super::round_trip::RoundTrip;

/// The window of the remote until it tells its own.
const FIRST_WINDOW: u32 = 64 * 1024;
/// Longest time between two attempts at what gets no answer.
const MOST_TIMEOUT: Duration = Duration::from_secs(8);
/// Attempts with one packet, before everything counts as lost. On a short way many of them take less
/// time than the shortest timeout.
const PROBES: u32 = 3;
/// An end that is not acknowledged after this many attempts, when the remote has ended too, counts
/// as arrived: the reference forgets the stream then, and answers nothing.
const END_ATTEMPTS: u32 = 5;

#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    NotYet,
    Wanted,
    Sent,
}

/// See the module's description.
pub(crate) struct Sender {
    outgoing: Outgoing,
    end: End,
    flight: Flight,
    trip: RoundTrip,
    congestion: Congestion,
    pacer: Pacer,
    /// What the remote has room for, and the packet that told so.
    window: u32,
    window_from: Option<(u64, u64)>,
    /// When the last news came, or the last packet was sent.
    tried: Instant,
    /// When something was acknowledged last, or nothing was unacknowledged.
    progress: Instant,
    /// Attempts since the last news.
    attempts: u32,
    /// What goes out whatever the windows say: a packet that asks for news.
    probe: bool,
    /// The congestion window was used up, or nearly.
    was_full: bool,
    paced_until: Option<Instant>,
}

impl Sender {
    pub(crate) fn new(first: u32, now: Instant) -> Self {
        Self {
            outgoing: Outgoing::new(),
            end: End::NotYet,
            flight: Flight::new(first),
            trip: RoundTrip::default(),
            congestion: Congestion::new(),
            pacer: Pacer::new(now),
            window: FIRST_WINDOW,
            window_from: None,
            tried: now,
            progress: now,
            attempts: 0,
            probe: false,
            was_full: false,
            paced_until: None,
        }
    }

    pub(crate) fn write(&mut self, data: &[u8]) -> usize {
        if self.end == End::NotYet { self.outgoing.write(data) } else { 0 }
    }

    pub(crate) fn room(&self) -> usize {
        if self.end == End::NotYet { self.outgoing.room() } else { 0 }
    }

    pub(crate) fn finish(&mut self) {
        if self.end == End::NotYet {
            self.end = End::Wanted;
        }
    }

    /// Forgets all that was to be sent.
    pub(crate) fn clear(&mut self) {
        self.outgoing = Outgoing::new();
        self.end = End::Sent;
        self.flight.clear();
    }

    /// The number of the next new packet.
    pub(crate) fn next_sequence(&self) -> u64 {
        self.flight.next()
    }

    /// The number of the first that is not acknowledged.
    pub(crate) fn first_sequence(&self) -> u64 {
        self.flight.first()
    }

    #[cfg(test)]
    pub(crate) fn all_acknowledged(&self) -> bool {
        self.outgoing.is_empty() && self.flight.is_empty() && self.end != End::Wanted
    }

    /// All is acknowledged, with the end.
    pub(crate) fn has_ended(&self) -> bool {
        self.end == End::Sent && self.flight.is_empty()
    }

    /// All is acknowledged but the end, again and again.
    pub(crate) fn waits_only_for_end(&self) -> bool {
        self.flight.only_end() && self.attempts > END_ATTEMPTS
    }

    /// Since when something waits to be acknowledged, if anything does.
    pub(crate) fn waits_since(&self) -> Option<Instant> {
        (!self.flight.is_empty()).then_some(self.progress)
    }

    fn has_new(&self) -> bool {
        !self.outgoing.is_empty() || self.end == End::Wanted
    }

    /// There is something to be sent that the remote has no room for, and nothing on the way that
    /// it would answer to.
    pub(crate) fn is_shut_out(&self) -> bool {
        self.window == 0 && self.flight.is_empty() && self.has_new()
    }

    /// Packets that the remote has room for; a little room is room for one.
    fn window_in_packets(&self) -> usize {
        let packets = self.window as usize / PAYLOAD;
        if self.window > 0 { packets.max(1) } else { 0 }
    }

    /// The next packet that carries something, if any may be sent now.
    pub(crate) fn next(&mut self, now: Instant) -> Option<Outbound> {
        if self.flight.is_empty() {
            self.progress = now;
        }
        self.on_time(now);
        self.paced_until = None;
        if std::mem::take(&mut self.probe)
            && let Some(outbound) = self.probe(now)
        {
            return Some(outbound);
        }
        let under_way = self.flight.under_way();
        let again = self.flight.lost() > 0;
        // What is sent again was counted when it was sent first.
        let room = self.window_in_packets() > under_way && !self.flight.is_full();
        let new = self.has_new() && room;
        if !(again || new) {
            self.was_full |= under_way * 2 >= self.congestion.window();
            return None;
        }
        if under_way >= self.congestion.window() {
            self.was_full = true;
            return None;
        }
        if !self.is_allowed_by_pace(now) {
            return None;
        }
        let outbound = if again { self.flight.send_lost(now) } else { None };
        let outbound = outbound.or_else(|| if new { self.new_packet(now) } else { None })?;
        self.pacer.sent();
        self.tried = now;
        Some(outbound)
    }

    fn is_allowed_by_pace(&mut self, now: Instant) -> bool {
        let Some(rate) = self.congestion.rate(&self.trip) else { return true };
        if self.pacer.allows(rate, now) {
            return true;
        }
        self.was_full = true;
        self.paced_until = Some(self.pacer.next(rate));
        false
    }

    fn new_packet(&mut self, now: Instant) -> Option<Outbound> {
        if let Some(payload) = self.outgoing.take() {
            return Some(self.flight.send(payload, false, now));
        }
        if self.end != End::Wanted {
            return None;
        }
        // In a packet of its own: whether the bytes have arrived is then never in doubt.
        self.end = End::Sent;
        Some(self.flight.send(bytes::Bytes::new(), true, now))
    }

    /// Something new if the remote has room for it, else the last that is under way.
    fn probe(&mut self, now: Instant) -> Option<Outbound> {
        let room = self.window_in_packets() > self.flight.under_way() && !self.flight.is_full();
        let new = if room { self.new_packet(now) } else { None };
        self.tried = now;
        new.or_else(|| self.flight.send_last(now))
    }

    /// The window as a packet with these numbers told it; what came before it does not count.
    pub(crate) fn update_window(&mut self, sequence: u64, ack: u64, window: u32) {
        let is_newer = self.window_from.is_none_or(|before| (sequence, ack) >= before);
        if is_newer && ack >= self.flight.first() {
            (self.window, self.window_from) = (window, Some((sequence, ack)));
        }
    }

    /// The number that an acknowledgement is on the wire, if it is of what was sent.
    pub(crate) fn acknowledged_number(&self, wire: u32) -> Option<u64> {
        Some(self.flight.number(wire)).filter(|number| *number <= self.flight.next())
    }

    pub(crate) fn acknowledged(
        &mut self,
        ack: u64,
        ranges: impl Iterator<Item = (u32, u32)>,
        now: Instant,
    ) {
        let delivery = self.flight.acknowledged(ack, ranges, &self.trip, now);
        self.outgoing.let_go(delivery.let_go);
        if let Some(sample) = delivery.sample {
            self.trip.add(sample);
        }
        if delivery.packets == 0 && !delivery.advanced {
            return;
        }
        (self.attempts, self.tried, self.progress) = (0, now, now);
        if delivery.false_alarms > 0 {
            self.flight.be_patient();
            self.congestion.false_alarm(delivery.false_alarms);
        }
        let arrival = Arrival {
            packets: delivery.packets,
            newest: self.flight.newest(),
            next: self.flight.next_transmission(),
            sample: delivery.sample,
            was_full: self.was_full,
            now,
        };
        self.congestion.arrived(arrival, &self.trip);
        self.was_full = false;
        self.find_losses(now);
    }

    fn find_losses(&mut self, now: Instant) {
        let recovering = self.congestion.is_recovering();
        let Losses { packets, newest } = self.flight.find_losses(&self.trip, recovering, now);
        if packets > 0 {
            let next = self.flight.next_transmission();
            self.congestion.lost(packets, newest, next, &self.trip);
        }
    }

    /// When the next attempt is due, while an answer is waited for.
    fn attempt_at(&self) -> Option<Instant> {
        if self.flight.is_empty() {
            return None;
        }
        let timeout = if self.may_probe() {
            (self.trip.probe_timeout() * (1 << self.attempts)).min(self.trip.timeout())
        } else {
            self.trip.timeout() * (1 << self.attempts.saturating_sub(PROBES).min(10))
        };
        Some(self.tried + timeout.min(MOST_TIMEOUT))
    }

    fn may_probe(&self) -> bool {
        self.attempts < PROBES && self.trip.smoothed().is_some()
    }

    fn on_time(&mut self, now: Instant) {
        if self.flight.late_at().is_some_and(|at| at <= now) {
            self.find_losses(now);
        }
        if self.attempt_at().is_none_or(|at| at > now) {
            return;
        }
        if self.may_probe() {
            self.probe = true;
        } else {
            let trip = self.trip.smoothed().unwrap_or_default();
            let Losses { packets, .. } = self.flight.time_out(now.checked_sub(trip).unwrap_or(now));
            self.congestion.timed_out(packets, self.flight.next_transmission());
        }
        self.attempts += 1;
        self.tried = now;
    }

    pub(crate) fn next_timeout(&self) -> Option<Instant> {
        let all = [self.paced_until, self.flight.late_at(), self.attempt_at()];
        all.into_iter().flatten().min()
    }
}
