//! The packets in flight: which have arrived, which are lost (RACK, RFC 8985), which are sent next.
//!
//! A transmission is a packet sent once; sent again it is another one. They are numbered, since
//! several are sent at the same time by the clock.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::header::{FIRST_SEQUENCE, widen};
use super::round_trip::RoundTrip;

/// Packets from the first that is not acknowledged to the last.
pub(crate) const MAX_UNACKED: usize = 32_768;

/// Packets that may overtake another before it counts as lost.
const OVERTAKEN: usize = 3;
/// A late packet counts as lost after a share of the shortest round trip. The number of shares grows
/// each time that proves wrong.
const MOST_PATIENCE: u32 = 16;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PacketState {
    UnderWay,
    Lost,
    Arrived,
}

#[derive(Clone, Copy)]
struct Transmission {
    number: u64,
    at: Instant,
    is_first: bool,
}

struct Sent {
    payload: Bytes,
    length: usize,
    is_end: bool,
    state: PacketState,
    last: Transmission,
}

/// A packet to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Outbound {
    pub sequence: u64,
    pub payload: Bytes,
    pub is_end: bool,
}

/// The result of an acknowledgement.
#[derive(Debug, Default)]
pub(crate) struct Delivery {
    pub packets: usize,
    /// Bytes of packets that have arrived in order.
    pub let_go: usize,
    pub sample: Option<Duration>,
    /// Packets that had counted as lost and have arrived late.
    pub false_alarms: usize,
    pub advanced: bool,
}

/// Packets that newly count as lost.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Losses {
    pub packets: usize,
    /// The latest transmission among them.
    pub newest: u64,
}

/// The packets of one stream.
pub(crate) struct Flight {
    sent: VecDeque<Sent>,
    /// The number of the first packet in `sent`.
    first: u64,
    under_way: usize,
    /// Lost packets, and some that have arrived since.
    lost: VecDeque<u64>,
    lost_now: usize,
    /// Packets in flight in the order of sending, and some that no longer are.
    order: VecDeque<(u64, u64)>,
    next_transmission: u64,
    /// The newest transmission that has arrived, and its round trip.
    newest: Option<(Transmission, Duration)>,
    reorders: bool,
    patience: u32,
    /// Patience grows once for all packets sent before this transmission.
    impatient_until: u64,
    /// When the next late packet counts as lost.
    late_at: Option<Instant>,
}

impl Flight {
    pub(crate) fn new(first: u32) -> Self {
        Self {
            sent: VecDeque::new(),
            first: FIRST_SEQUENCE + u64::from(first),
            under_way: 0,
            lost: VecDeque::new(),
            lost_now: 0,
            order: VecDeque::new(),
            next_transmission: 0,
            newest: None,
            reorders: false,
            patience: 1,
            impatient_until: 0,
            late_at: None,
        }
    }

    /// The number of the first unacknowledged packet.
    pub(crate) fn first(&self) -> u64 {
        self.first
    }

    /// The number of the next new packet.
    pub(crate) fn next(&self) -> u64 {
        self.first + self.sent.len() as u64
    }

    /// The number that is `wire` on the wire.
    pub(crate) fn number(&self, wire: u32) -> u64 {
        widen(wire, self.first)
    }

    pub(crate) fn under_way(&self) -> usize {
        self.under_way
    }

    pub(crate) fn lost(&self) -> usize {
        self.lost_now
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.sent.is_empty()
    }

    pub(crate) fn is_full(&self) -> bool {
        self.sent.len() >= MAX_UNACKED
    }

    /// Only the end is not acknowledged.
    pub(crate) fn only_end(&self) -> bool {
        self.sent.len() == 1 && self.sent.front().is_some_and(|sent| sent.is_end)
    }

    pub(crate) fn next_transmission(&self) -> u64 {
        self.next_transmission
    }

    /// The latest transmission that has arrived.
    pub(crate) fn newest(&self) -> u64 {
        self.newest.map_or(0, |(transmission, _)| transmission.number)
    }

    pub(crate) fn late_at(&self) -> Option<Instant> {
        self.late_at
    }

    /// Forgets everything.
    pub(crate) fn clear(&mut self) {
        self.first = self.next();
        self.sent.clear();
        self.lost.clear();
        self.order.clear();
        (self.under_way, self.lost_now, self.late_at) = (0, 0, None);
    }

    fn index(&self, sequence: u64) -> Option<usize> {
        usize::try_from(sequence.checked_sub(self.first)?).ok()
    }

    fn transmit(&mut self, sequence: u64, is_first: bool, now: Instant) -> Transmission {
        let transmission = Transmission { number: self.next_transmission, at: now, is_first };
        self.next_transmission += 1;
        self.order.push_back((sequence, transmission.number));
        self.under_way += 1;
        transmission
    }

    /// Sends a new packet.
    pub(crate) fn send(&mut self, payload: Bytes, is_end: bool, now: Instant) -> Outbound {
        let sequence = self.next();
        let last = self.transmit(sequence, true, now);
        let length = payload.len();
        let outbound = Outbound { sequence, payload: payload.clone(), is_end };
        self.sent.push_back(Sent { payload, length, is_end, state: PacketState::UnderWay, last });
        outbound
    }

    /// Sends the first lost packet again.
    pub(crate) fn send_lost(&mut self, now: Instant) -> Option<Outbound> {
        while let Some(sequence) = self.lost.pop_front() {
            if self.state(sequence) == Some(PacketState::Lost) {
                self.lost_now -= 1;
                return self.send_again(sequence, now);
            }
        }
        None
    }

    /// Sends the last packet in flight again; its acknowledgement shows which others have arrived.
    pub(crate) fn send_last(&mut self, now: Instant) -> Option<Outbound> {
        let back = self.sent.iter().rposition(|sent| sent.state == PacketState::UnderWay)?;
        self.under_way -= 1;
        self.send_again(self.first + back as u64, now)
    }

    fn state(&self, sequence: u64) -> Option<PacketState> {
        self.sent.get(self.index(sequence)?).map(|sent| sent.state)
    }

    fn send_again(&mut self, sequence: u64, now: Instant) -> Option<Outbound> {
        let last = self.transmit(sequence, false, now);
        let index = self.index(sequence)?;
        let sent = self.sent.get_mut(index)?;
        (sent.state, sent.last) = (PacketState::UnderWay, last);
        Some(Outbound { sequence, payload: sent.payload.clone(), is_end: sent.is_end })
    }

    /// Handles an acknowledgement of all packets before `ack` and of those in the ranges. Numbers that were
    /// never sent are ignored.
    pub(crate) fn acknowledged(
        &mut self,
        ack: u64,
        ranges: impl Iterator<Item = (u32, u32)>,
        trip: &RoundTrip,
        now: Instant,
    ) -> Delivery {
        let mut delivery = Delivery::default();
        let newest_before = self.newest();
        while self.first < ack
            && let Some(sent) = self.sent.pop_front()
        {
            self.first += 1;
            delivery.advanced = true;
            delivery.let_go += sent.length;
            self.arrived(sent.state, sent.last, newest_before, trip, now, &mut delivery);
        }
        // Honest ranges do not overlap: together they are no longer than the flight.
        let mut most = self.sent.len();
        for (start, end) in ranges {
            let (start, end) = (self.number(start), self.number(end));
            if start < self.first || start >= end || end > self.next() {
                continue;
            }
            for sequence in start..end {
                let Some(left) = most.checked_sub(1) else { return delivery };
                most = left;
                let Some(index) = self.index(sequence) else { continue };
                let Some(sent) = self.sent.get_mut(index) else { continue };
                let (state, last) = (sent.state, sent.last);
                // An acknowledgement is never revoked: the bytes are not needed any more.
                (sent.state, sent.payload) = (PacketState::Arrived, Bytes::new());
                self.arrived(state, last, newest_before, trip, now, &mut delivery);
            }
        }
        delivery
    }

    fn arrived(
        &mut self,
        state: PacketState,
        last: Transmission,
        newest_before: u64,
        trip: &RoundTrip,
        now: Instant,
        delivery: &mut Delivery,
    ) {
        match state {
            PacketState::Arrived => return,
            PacketState::UnderWay => self.under_way -= 1,
            PacketState::Lost => {
                self.lost_now -= 1;
                delivery.false_alarms += 1;
            }
        }
        delivery.packets += 1;
        let took = now.saturating_duration_since(last.at);
        if !last.is_first && took < trip.least() {
            // It was sent again, but the first transmission has arrived.
            if state == PacketState::UnderWay && took < trip.least() / 2 {
                delivery.false_alarms += 1;
            }
            return;
        }
        if last.is_first && state == PacketState::UnderWay && last.number < newest_before {
            self.reorders = true;
        }
        if self.newest.is_none_or(|(newest, _)| last.number >= newest.number) {
            self.newest = Some((last, took));
            delivery.sample = last.is_first.then_some(took);
        }
    }

    /// Increases the patience, because a packet that counted as lost was only late.
    pub(crate) fn be_patient(&mut self) {
        self.reorders = true;
        if self.newest() >= self.impatient_until {
            self.patience = (self.patience + 1).min(MOST_PATIENCE);
            self.impatient_until = self.next_transmission;
        }
    }

    fn patience(&self, trip: &RoundTrip, recovering: bool) -> Duration {
        let overtaken = self.sent.len() - self.under_way - self.lost_now;
        if !self.reorders && (recovering || overtaken >= OVERTAKEN) {
            return Duration::ZERO;
        }
        (trip.least() / 4 * self.patience).min(trip.smoothed().unwrap_or_default())
    }

    /// Finds losses: packets that are late and were sent before one that has arrived.
    pub(crate) fn find_losses(
        &mut self,
        trip: &RoundTrip,
        recovering: bool,
        now: Instant,
    ) -> Losses {
        self.late_at = None;
        let mut losses = Losses::default();
        let Some((newest, took)) = self.newest else { return losses };
        let patience = self.patience(trip, recovering);
        while let Some(&(sequence, number)) = self.order.front() {
            let index = self.index(sequence);
            let sent = index.and_then(|index| self.sent.get_mut(index));
            let current = sent
                .filter(|sent| sent.state == PacketState::UnderWay && sent.last.number == number);
            if let Some(sent) = current {
                if number >= newest.number {
                    break;
                }
                let due = sent.last.at + took + patience;
                if due > now {
                    self.late_at = Some(due);
                    break;
                }
                sent.state = PacketState::Lost;
                self.lost.push_back(sequence);
                self.under_way -= 1;
                self.lost_now += 1;
                losses.packets += 1;
                losses.newest = number;
            }
            self.order.pop_front();
        }
        losses
    }

    /// Handles a timeout: all packets sent before `before` are lost, and the first packet.
    pub(crate) fn time_out(&mut self, before: Instant) -> Losses {
        let mut losses = Losses::default();
        self.lost.clear();
        for (index, sent) in self.sent.iter_mut().enumerate() {
            let sequence = self.first + index as u64;
            match sent.state {
                PacketState::UnderWay if index == 0 || sent.last.at <= before => {
                    sent.state = PacketState::Lost;
                    self.under_way -= 1;
                    self.lost_now += 1;
                    losses.packets += 1;
                    losses.newest = losses.newest.max(sent.last.number);
                }
                PacketState::Lost => {}
                PacketState::UnderWay | PacketState::Arrived => continue,
            }
            self.lost.push_back(sequence);
        }
        let (sent, first) = (&self.sent, self.first);
        self.order.retain(|(sequence, number)| {
            let index = sequence.checked_sub(first).and_then(|index| usize::try_from(index).ok());
            let sent = index.and_then(|index| sent.get(index));
            sent.is_some_and(|it| it.state == PacketState::UnderWay && it.last.number == *number)
        });
        losses
    }
}
