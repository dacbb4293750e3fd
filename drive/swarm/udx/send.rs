//! The sending half: what is sent next and when, within both windows, and what is sent again.
//!
//! Not here: headers, and packets without data.

use std::time::{Duration, Instant};

use super::congestion::{Arrival, Congestion};
use super::flight::{Flight, Losses, Outbound};
use super::outgoing::{Outgoing, PAYLOAD};
use super::pacing::Pacer;
use super::round_trip::RoundTrip;

/// The window of the remote until it advertises its own.
const FIRST_WINDOW: u32 = 64 * 1024;
/// Longest time between two attempts with a packet that gets no answer.
const MOST_TIMEOUT: Duration = Duration::from_secs(8);
/// Probes with one packet before all packets count as lost. On a short path several probes take less
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
    /// The window of the remote, and the packet that advertised it.
    window: u32,
    window_from: Option<(u64, u64)>,
    /// When the last acknowledgement came, or the last packet was sent.
    tried: Instant,
    /// When a packet was acknowledged last, or no packet was unacknowledged.
    progress: Instant,
    /// Attempts since the last acknowledgement.
    attempts: u32,
    /// Whether a probe is due; it is sent whatever the windows allow.
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

    /// Discards all bytes that were to be sent.
    pub(crate) fn clear(&mut self) {
        self.outgoing = Outgoing::new();
        self.end = End::Sent;
        self.flight.clear();
    }

    /// The number of the next new packet.
    pub(crate) fn next_sequence(&self) -> u64 {
        self.flight.next()
    }

    /// The number of the first unacknowledged packet.
    pub(crate) fn first_sequence(&self) -> u64 {
        self.flight.first()
    }

    #[cfg(test)]
    pub(crate) fn all_acknowledged(&self) -> bool {
        self.outgoing.is_empty() && self.flight.is_empty() && self.end != End::Wanted
    }

    /// Whether all data and the end are acknowledged.
    pub(crate) fn has_ended(&self) -> bool {
        self.end == End::Sent && self.flight.is_empty()
    }

    /// Whether all data is acknowledged, and the end is not after several attempts.
    pub(crate) fn waits_only_for_end(&self) -> bool {
        self.flight.only_end() && self.attempts > END_ATTEMPTS
    }

    /// Since when a packet waits to be acknowledged, if any does.
    pub(crate) fn waits_since(&self) -> Option<Instant> {
        (!self.flight.is_empty()).then_some(self.progress)
    }

    fn has_new(&self) -> bool {
        !self.outgoing.is_empty() || self.end == End::Wanted
    }

    /// Whether the window of the remote is closed, data waits, and no packet in flight will bring an
    /// answer.
    pub(crate) fn is_shut_out(&self) -> bool {
        self.window == 0 && self.flight.is_empty() && self.has_new()
    }

    /// The window of the remote in packets; a window that is not 0 is at least one packet.
    fn window_in_packets(&self) -> usize {
        let packets = self.window as usize / PAYLOAD;
        if self.window > 0 { packets.max(1) } else { 0 }
    }

    /// The next packet with data or the end, if any may be sent now.
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
        // A packet that is sent again was counted when it was sent first.
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
        // In a packet of its own: its acknowledgement is then distinct from that of the last data.
        self.end = End::Sent;
        Some(self.flight.send(bytes::Bytes::new(), true, now))
    }

    /// A new packet if the remote has room for it, else the last one in flight.
    fn probe(&mut self, now: Instant) -> Option<Outbound> {
        let room = self.window_in_packets() > self.flight.under_way() && !self.flight.is_full();
        let new = if room { self.new_packet(now) } else { None };
        self.tried = now;
        new.or_else(|| self.flight.send_last(now))
    }

    /// Notes the window that a packet with these numbers advertised; older packets are ignored.
    pub(crate) fn update_window(&mut self, sequence: u64, ack: u64, window: u32) {
        let is_newer = self.window_from.is_none_or(|before| (sequence, ack) >= before);
        if is_newer && ack >= self.flight.first() {
            (self.window, self.window_from) = (window, Some((sequence, ack)));
        }
    }

    /// The extended number of an acknowledgement, if that number was sent.
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
