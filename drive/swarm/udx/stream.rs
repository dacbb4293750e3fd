//! A stream: its two halves, and the packets without data: acknowledgements, heartbeats, and the
//! notice that the stream is destroyed.

use std::time::{Duration, Instant};

use bytes::Bytes;

use super::header::{DATA, DESTROY, END, HEARTBEAT, Header, Packet};
use super::receive::Receiver;
use super::send::Sender;

/// A heartbeat is requested after this time without a received, or a sent, packet. Routers forget
/// after 30 s.
pub(crate) const HEARTBEAT_AFTER: Duration = Duration::from_secs(10);
/// Pause between two heartbeats.
const HEARTBEAT_AGAIN: Duration = Duration::from_secs(5);
/// Pause between two probes of a closed window: the update of the window may be lost.
const ASK_FOR_ROOM: Duration = Duration::from_secs(1);
/// A stream fails after this time without a packet of the remote, or without an acknowledgement while
/// data waits for one.
pub(crate) const SILENCE: Duration = Duration::from_secs(20);
/// How long an ended stream still answers, since its last answer may be lost.
pub(crate) const LINGER: Duration = Duration::from_secs(5);

/// Why a stream ended early.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Failure {
    #[error("the remote has destroyed the stream")]
    Destroyed,
    #[error("the remote has answered nothing for {} seconds", SILENCE.as_secs())]
    Silent,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum StreamPhase {
    Open,
    /// By both sides.
    Ended,
    /// By us; `tell` if the remote must still be notified.
    Destroyed {
        tell: bool,
    },
    Failed(Failure),
}

/// See the description of [the room](super).
pub(crate) struct Stream {
    local_id: u32,
    remote_id: u32,
    state: StreamPhase,
    /// When it was closed.
    closed: Option<Instant>,
    forgotten: bool,
    sender: Sender,
    receiver: Receiver,
    /// Whether a received packet must be acknowledged.
    owes_answer: bool,
    heard: Instant,
    said: Instant,
    asked: Option<Instant>,
}

impl Stream {
    /// A stream that is `local_id` here and `remote_id` at the remote; each side chooses its own number.
    pub(crate) fn new(local_id: u32, remote_id: u32, now: Instant) -> Self {
        Self::starting_at(0, 0, local_id, remote_id, now)
    }

    /// As [`Self::new`], with first sequence numbers other than 0.
    pub(super) fn starting_at(
        first: u32,
        remote_first: u32,
        local_id: u32,
        remote_id: u32,
        now: Instant,
    ) -> Self {
        Self {
            local_id,
            remote_id,
            state: StreamPhase::Open,
            closed: None,
            forgotten: false,
            sender: Sender::new(first, now),
            receiver: Receiver::new(remote_first),
            owes_answer: false,
            heard: now,
            said: now,
            asked: None,
        }
    }

    /// Handles a datagram for this stream ([`stream_of`](super::stream_of)).
    pub(crate) fn receive(&mut self, packet: &[u8], now: Instant) {
        if let Some(packet) = Packet::parse(packet)
            && packet.header.stream == self.local_id
        {
            self.take(&packet, now);
        }
    }

    fn take(&mut self, packet: &Packet<'_>, now: Instant) {
        match &mut self.state {
            StreamPhase::Open | StreamPhase::Ended => {}
            StreamPhase::Destroyed { tell } => {
                *tell |= !packet.is(DESTROY);
                return;
            }
            StreamPhase::Failed(_) => return,
        }
        self.heard = self.heard.max(now);
        let number = self.receiver.number(packet.header.sequence);
        if packet.is(DATA | END) && !packet.is(HEARTBEAT) {
            let payload = if packet.is(DATA) { packet.payload } else { &[] };
            self.receiver.accept(number, payload, packet.is(END));
        }
        self.owes_answer |= packet.is(DATA | END | HEARTBEAT);
        if packet.is(DESTROY) && number >= self.receiver.next() {
            if self.state == StreamPhase::Open {
                self.close(StreamPhase::Failed(Failure::Destroyed), now);
            }
            return;
        }
        let Some(ack) = self.sender.acknowledged_number(packet.header.ack) else { return };
        self.sender.update_window(number, ack, packet.header.window);
        self.sender.acknowledged(ack, packet.ranges(), now);
        self.close_if_ended(now);
    }

    fn close_if_ended(&mut self, now: Instant) {
        let theirs = self.receiver.has_ended();
        let ours = self.sender.has_ended() || self.sender.waits_only_for_end();
        if self.state == StreamPhase::Open && theirs && ours {
            self.close(StreamPhase::Ended, now);
        }
    }

    fn close(&mut self, state: StreamPhase, now: Instant) {
        self.state = state;
        self.closed = Some(now);
        self.sender.clear();
    }

    /// The next bytes in order, if any have arrived. Reading makes room: call [`Self::next_packet`]
    /// afterwards.
    pub(crate) fn read(&mut self) -> Option<Bytes> {
        self.receiver.read()
    }

    /// Bytes that can be read.
    pub(crate) fn unread(&self) -> usize {
        self.receiver.unread()
    }

    /// Takes as many bytes as there is room for; returns their number.
    pub(crate) fn write(&mut self, data: &[u8]) -> usize {
        if self.state == StreamPhase::Open { self.sender.write(data) } else { 0 }
    }

    /// Bytes that [`Self::write`] would take.
    pub(crate) fn room(&self) -> usize {
        if self.state == StreamPhase::Open { self.sender.room() } else { 0 }
    }

    /// Ends our direction: the remote receives the end after all written bytes.
    pub(crate) fn finish(&mut self) {
        self.sender.finish();
    }

    /// Ends both directions at once; unacknowledged bytes may be lost.
    pub(crate) fn destroy(&mut self, now: Instant) {
        if self.state == StreamPhase::Open {
            self.close(StreamPhase::Destroyed { tell: true }, now);
        }
    }

    /// The next datagram for the remote. To be asked until there is none: after
    /// [`Self::receive`], [`Self::read`], [`Self::write`] and [`Self::finish`], and at
    /// [`Self::next_timeout`]. What has arrived before it is asked shares one acknowledgement.
    pub(crate) fn next_packet(&mut self, now: Instant) -> Option<Bytes> {
        self.on_time(now);
        let packet = self.choose_packet(now)?;
        self.said = self.said.max(now);
        Some(packet)
    }

    fn choose_packet(&mut self, now: Instant) -> Option<Bytes> {
        match &mut self.state {
            StreamPhase::Open => {}
            StreamPhase::Ended => return self.answer(),
            StreamPhase::Destroyed { tell } => {
                return std::mem::take(tell).then(|| self.header(DESTROY, None).with_payload(&[]));
            }
            StreamPhase::Failed(_) => return None,
        }
        // A packet with data carries the acknowledgement too, but no ranges.
        if self.receiver.has_ranges()
            && let Some(answer) = self.answer()
        {
            return Some(answer);
        }
        if let Some(outbound) = self.sender.next(now) {
            self.owes_answer = false;
            let kind = if outbound.is_end { END } else { DATA };
            let header = self.header(kind, Some(outbound.sequence));
            return Some(header.with_payload(&outbound.payload));
        }
        self.owes_answer |= self.receiver.should_advertise();
        self.answer().or_else(|| self.heartbeat(now))
    }

    fn answer(&mut self) -> Option<Bytes> {
        if !std::mem::take(&mut self.owes_answer) {
            return None;
        }
        let header = self.header(0, None);
        Some(match self.receiver.has_ranges() {
            true => header.with_ranges(self.receiver.ranges()),
            false => header.with_payload(&[]),
        })
    }

    /// A packet that requires an answer. Since February 2026 the reference answers to heartbeats; all of
    /// its versions answer to data that they have received already.
    fn heartbeat(&mut self, now: Instant) -> Option<Bytes> {
        if self.heartbeat_at() > now {
            return None;
        }
        self.asked = Some(now);
        let known = self.sender.first_sequence() - 1;
        Some(self.header(HEARTBEAT | DATA, Some(known)).with_payload(&[]))
    }

    fn heartbeat_at(&self) -> Instant {
        let (at, again) = match self.sender.is_shut_out() {
            true => (self.heard + ASK_FOR_ROOM, ASK_FOR_ROOM),
            false => (self.heard.min(self.said) + HEARTBEAT_AFTER, HEARTBEAT_AGAIN),
        };
        self.asked.map_or(at, |asked| at.max(asked + again))
    }

    fn gone_at(&self) -> Instant {
        let waits = self.sender.waits_since().unwrap_or(self.heard);
        self.heard.min(waits) + SILENCE
    }

    fn header(&mut self, kind: u8, sequence: Option<u64>) -> Header {
        Header {
            kind,
            stream: self.remote_id,
            window: self.receiver.advertise_window(),
            sequence: sequence.unwrap_or(self.sender.next_sequence()) as u32,
            ack: self.receiver.next() as u32,
        }
    }

    fn on_time(&mut self, now: Instant) {
        if self.closed.is_some_and(|closed| now >= closed + LINGER) {
            self.forgotten = true;
        }
        if self.state == StreamPhase::Open && now >= self.gone_at() {
            self.close(StreamPhase::Failed(Failure::Silent), now);
        }
        self.close_if_ended(now);
    }

    /// When to call [`Self::next_packet`] although no packet has arrived.
    pub(crate) fn next_timeout(&self) -> Option<Instant> {
        if let Some(closed) = self.closed {
            return (!self.forgotten).then_some(closed + LINGER);
        }
        let own = self.heartbeat_at().min(self.gone_at());
        Some(self.sender.next_timeout().map_or(own, |at| at.min(own)))
    }

    /// Whether the remote has ended its direction, and all its bytes were read.
    pub(crate) fn remote_ended(&self) -> bool {
        self.receiver.has_ended() && self.receiver.unread() == 0
    }

    /// Whether all written bytes, and the end if there is one, have been acknowledged.
    #[cfg(test)]
    pub(crate) fn all_acknowledged(&self) -> bool {
        self.sender.all_acknowledged()
    }

    /// Whether both directions have ended and are acknowledged.
    #[cfg(test)]
    pub(crate) fn has_ended(&self) -> bool {
        self.state == StreamPhase::Ended
    }

    /// Why the stream ended early, if it did. Bytes that arrived before can still be read.
    pub(crate) fn failure(&self) -> Option<Failure> {
        match self.state {
            StreamPhase::Failed(failure) => Some(failure),
            StreamPhase::Open | StreamPhase::Ended | StreamPhase::Destroyed { .. } => None,
        }
    }

    /// Whether the stream will send no more packets. Until then, received packets may need an answer.
    pub(crate) fn is_over(&self) -> bool {
        self.forgotten || matches!(self.state, StreamPhase::Failed(_))
    }

    /// Received bytes that are kept, with the overhead of packets.
    pub(crate) fn held(&self) -> usize {
        self.receiver.held()
    }
}
