//! The receiving half: puts packets in order, within limits, and knows what to acknowledge.
//!
//! Not here: when an acknowledgement is sent.

use std::collections::{BTreeMap, VecDeque};

use bytes::{BufMut, Bytes, BytesMut};

use super::header::{FIRST_SEQUENCE, MAX_RANGES, widen};

/// Bytes that are kept for the reader, in order or behind missing packets.
pub(crate) const WINDOW: usize = 4 * 1024 * 1024;
/// Bytes by which the next packet in order may exceed that: others wait behind it, and the reference
/// sends one packet more than allowed to probe for losses.
pub(crate) const RESERVE: usize = 64 * 1024;
/// Packets further ahead of the next one are dropped.
pub(crate) const MAX_AHEAD: u64 = 65_536;
/// Memory, in bytes, that a packet out of order costs besides its payload.
pub(crate) const PACKET_OVERHEAD: usize = 128;

/// Smaller windows are advertised as 0: an old reference would round them down to no packet, and it
/// probes only a window of 0.
const LEAST_WINDOW: usize = 4096;
/// The freed room, in bytes, after which the reader informs the sender.
const WORTH_ADVERTISING: usize = WINDOW / 8;
const CHUNK: usize = 64 * 1024;

struct Waiting {
    payload: Bytes,
    is_end: bool,
}

/// See the module's description.
pub(crate) struct Receiver {
    /// The next in order.
    next: u64,
    full: VecDeque<Bytes>,
    /// The last of the bytes in order, behind `full`.
    last: BytesMut,
    unread: usize,
    waiting: BTreeMap<u64, Waiting>,
    waiting_cost: usize,
    /// The numbers of waiting packets as ranges: the first, and the one after the last.
    ranges: BTreeMap<u64, u64>,
    /// The packet that arrived last out of order.
    newest: u64,
    ended: bool,
    /// The window that was advertised last.
    advertised: usize,
}

impl Receiver {
    pub(crate) fn new(first: u32) -> Self {
        Self {
            next: FIRST_SEQUENCE + u64::from(first),
            full: VecDeque::new(),
            last: BytesMut::new(),
            unread: 0,
            waiting: BTreeMap::new(),
            waiting_cost: 0,
            ranges: BTreeMap::new(),
            newest: 0,
            ended: false,
            advertised: WINDOW,
        }
    }

    /// The number of the next packet in order: all before it have arrived.
    pub(crate) fn next(&self) -> u64 {
        self.next
    }

    /// The number that is `wire` on the wire.
    pub(crate) fn number(&self, wire: u32) -> u64 {
        widen(wire, self.next)
    }

    /// Whether the whole stream has arrived, read or not.
    pub(crate) fn has_ended(&self) -> bool {
        self.ended
    }

    pub(crate) fn unread(&self) -> usize {
        self.unread
    }

    /// Bytes that are kept, with the overhead of packets.
    pub(crate) fn held(&self) -> usize {
        self.unread + self.waiting_cost
    }

    /// Takes a packet; false if it is dropped because there is no room or it is invalid. A repeated
    /// packet has no effect.
    pub(crate) fn accept(&mut self, number: u64, payload: &[u8], is_end: bool) -> bool {
        let Some(ahead) = number.checked_sub(self.next) else { return true };
        if self.ended || ahead > MAX_AHEAD {
            return false;
        }
        if ahead > 0 {
            return self.accept_out_of_turn(number, payload, is_end);
        }
        if self.held() + payload.len() > WINDOW + RESERVE {
            return false;
        }
        self.append(payload, is_end);
        while let Some(waiting) = self.take_waiting() {
            self.append(&waiting.payload, waiting.is_end);
        }
        true
    }

    fn accept_out_of_turn(&mut self, number: u64, payload: &[u8], is_end: bool) -> bool {
        if self.waiting.contains_key(&number) {
            return true;
        }
        let cost = payload.len() + PACKET_OVERHEAD;
        if self.held() + cost > WINDOW {
            return false;
        }
        self.waiting_cost += cost;
        let waiting = Waiting { payload: Bytes::copy_from_slice(payload), is_end };
        self.waiting.insert(number, waiting);
        self.newest = number;
        self.extend_ranges(number);
        true
    }

    fn extend_ranges(&mut self, number: u64) {
        let end = self.ranges.remove(&(number + 1)).unwrap_or(number + 1);
        match self.ranges.range_mut(..number).next_back() {
            Some((_, before)) if *before == number => *before = end,
            _ => {
                self.ranges.insert(number, end);
            }
        }
    }

    /// Takes the next packet in order, if it has arrived already.
    fn take_waiting(&mut self) -> Option<Waiting> {
        let waiting = self.waiting.remove(&self.next)?;
        self.waiting_cost -= waiting.payload.len() + PACKET_OVERHEAD;
        // Taken from the first range, one by one, since nothing before it is missing.
        if let Some((start, end)) = self.ranges.pop_first()
            && start + 1 < end
        {
            self.ranges.insert(start + 1, end);
        }
        Some(waiting)
    }

    fn append(&mut self, payload: &[u8], is_end: bool) {
        self.next += 1;
        self.unread += payload.len();
        if self.last.capacity() - self.last.len() < payload.len() {
            if !self.last.is_empty() {
                self.full.push_back(self.last.split().freeze());
            }
            self.last.reserve(payload.len().max(CHUNK));
        }
        self.last.put_slice(payload);
        if is_end {
            self.ended = true;
            self.waiting.clear();
            self.waiting_cost = 0;
            self.ranges.clear();
        }
    }

    pub(crate) fn read(&mut self) -> Option<Bytes> {
        let bytes = match self.full.pop_front() {
            Some(bytes) => bytes,
            None if self.last.is_empty() => return None,
            None => self.last.split().freeze(),
        };
        self.unread -= bytes.len();
        Some(bytes)
    }

    /// The window, in bytes. An eighth of the room is kept back for the overhead of packets, since the
    /// sender counts packets of full length.
    fn window(&self) -> usize {
        let room = WINDOW.saturating_sub(self.held());
        let window = room - room / 8;
        if window < LEAST_WINDOW { 0 } else { window }
    }

    /// The window for a header that is sent now.
    pub(crate) fn advertise_window(&mut self) -> u32 {
        self.advertised = self.window();
        u32::try_from(self.advertised).unwrap_or(u32::MAX)
    }

    /// Whether the window has grown enough since it was advertised.
    pub(crate) fn should_advertise(&self) -> bool {
        !self.ended && self.window() >= self.advertised + WORTH_ADVERTISING
    }

    pub(crate) fn has_ranges(&self) -> bool {
        !self.ranges.is_empty()
    }

    /// Packets received out of order, as ranges: the one that changed last, then the others from the
    /// first.
    pub(crate) fn ranges(&self) -> impl Iterator<Item = (u32, u32)> {
        let newest =
            self.ranges.range(..=self.newest).next_back().map(|(start, end)| (*start, *end));
        let others = self.ranges.iter().map(|(start, end)| (*start, *end));
        let others = others.filter(move |range| Some(*range) != newest);
        let all = newest.into_iter().chain(others).take(MAX_RANGES);
        all.map(|(start, end)| (start as u32, end as u32))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_all(receiver: &mut Receiver) -> Vec<u8> {
        std::iter::from_fn(|| receiver.read()).flatten().collect()
    }

    #[test]
    fn bytes_come_in_order_across_the_wrap() {
        let mut receiver = Receiver::new(u32::MAX - 1);
        let first = receiver.next();
        for (ahead, text) in [(2, "c"), (0, "a"), (0, "A"), (4, "e"), (2, "C"), (1, "b"), (3, "d")]
        {
            assert!(receiver.accept(first + ahead, text.as_bytes(), ahead == 4));
        }
        assert_eq!(read_all(&mut receiver), b"abcde");
        assert!(receiver.has_ended() && !receiver.has_ranges());
        assert_eq!((receiver.next() - first, receiver.held()), (5, 0));
        assert!(!receiver.accept(first + 5, b"after the end", false));
    }

    #[test]
    fn ranges_begin_with_the_newest() {
        let mut receiver = Receiver::new(u32::MAX - 1);
        let first = receiver.next();
        for ahead in [5, 1, 9, 3, 2] {
            receiver.accept(first + ahead, b"x", false);
        }
        let wire = |ahead: u32| (u32::MAX - 1).wrapping_add(ahead);
        let expected = [(wire(1), wire(4)), (wire(5), wire(6)), (wire(9), wire(10))];
        assert_eq!(receiver.ranges().collect::<Vec<_>>(), expected);
        receiver.accept(first + 8, b"x", false);
        assert_eq!(receiver.ranges().next(), Some((wire(8), wire(10))));
        receiver.accept(first, b"x", false);
        assert_eq!(receiver.ranges().count(), 2);
        for ahead in (10..400).step_by(2) {
            receiver.accept(first + ahead, b"x", false);
        }
        assert_eq!(receiver.ranges().count(), MAX_RANGES);
    }

    #[test]
    fn packets_out_of_order_are_limited_and_leave_room_for_the_missing_ones() {
        let mut receiver = Receiver::new(0);
        let first = receiver.next();
        let taken = (1..2 * MAX_AHEAD).filter(|n| receiver.accept(first + n, b"", false)).count();
        assert_eq!(taken, WINDOW / PACKET_OVERHEAD);
        assert!(!receiver.accept(first + MAX_AHEAD + 1, b"", false));
        assert!(receiver.held() <= WINDOW);
        assert_eq!(receiver.advertise_window(), 0);
        assert!(receiver.accept(first, &[1; 1500], false));
        assert_eq!(receiver.held(), 1500);
    }

    #[test]
    fn the_window_closes_when_the_reader_does_not_read() {
        let mut receiver = Receiver::new(0);
        let mut sent = 0;
        while receiver.advertise_window() > 0 {
            assert!(receiver.accept(receiver.next(), &[0; 1400], false));
            sent += 1400;
        }
        assert!(sent <= WINDOW && sent > WINDOW - 2 * LEAST_WINDOW);
        while receiver.accept(receiver.next(), &[0; 1400], false) {}
        assert!(receiver.held() <= WINDOW + RESERVE);
        assert!(!receiver.should_advertise());
        while !receiver.should_advertise() {
            assert!(receiver.read().is_some());
        }
        assert!(receiver.advertise_window() as usize >= WORTH_ADVERTISING);
        assert!(!receiver.should_advertise());
    }
}
