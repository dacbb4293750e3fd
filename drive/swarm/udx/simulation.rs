//! Streams and the network between their two sides, in simulated time and from a seed.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::header::{DATA, Packet};
use super::stream::Stream;

/// One direction of the network.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Link {
    pub delay: Duration,
    /// The largest random addition to the delay of a packet, which reorders packets.
    pub jitter: Duration,
    pub loss: f64,
    pub duplicates: f64,
    /// Bytes a second, and the longest queue in bytes before it.
    pub rate: Option<(f64, f64)>,
}

impl Link {
    pub(crate) fn new(delay: Duration) -> Self {
        Self { delay, jitter: Duration::ZERO, loss: 0.0, duplicates: 0.0, rate: None }
    }

    pub(crate) fn loses(self, loss: f64) -> Self {
        Self { loss, ..self }
    }

    pub(crate) fn at_rate(self, rate: f64, queue: f64) -> Self {
        Self { rate: Some((rate, queue)), ..self }
    }
}

/// A stream with its writer and its reader.
pub(crate) struct Side {
    pub stream: Stream,
    /// Bytes to write in total, and bytes written so far.
    pub to_write: u64,
    pub written: u64,
    pub finishes: bool,
    pub reads: bool,
    pub read: u64,
    /// Bytes a second that are read, if that is limited.
    pub read_rate: Option<f64>,
    pub datagrams: u64,
    /// Packets with data that were sent again.
    pub repeated: u64,
    newest: Option<u32>,
    pub lost: u64,
    pub longest_held: usize,
}

impl Side {
    fn new(stream: Stream) -> Self {
        Self {
            stream,
            to_write: 0,
            written: 0,
            finishes: false,
            reads: true,
            read: 0,
            read_rate: None,
            datagrams: 0,
            repeated: 0,
            newest: None,
            lost: 0,
            longest_held: 0,
        }
    }

    /// Writes and reads as much as is possible.
    fn work(&mut self, passed: Duration) {
        while self.written < self.to_write {
            let length = (self.to_write - self.written).min(10_007);
            let taken = self.stream.write(text_at(self.written, length as usize)) as u64;
            self.written += taken;
            if taken < length {
                break;
            }
        }
        if self.finishes && self.written == self.to_write {
            self.stream.finish();
        }
        self.longest_held = self.longest_held.max(self.stream.held());
        let may_read =
            self.read_rate.is_none_or(|rate| self.read as f64 <= rate * passed.as_secs_f64());
        while self.reads
            && may_read
            && let Some(bytes) = self.stream.read()
        {
            for piece in bytes.chunks(TEXT / 2) {
                let expected = text_at(self.read, piece.len());
                assert!(piece == expected, "what was read differs after {}", self.read);
                self.read += piece.len() as u64;
            }
            if self.read_rate.is_some() {
                break;
            }
        }
    }
}

/// A prime, so that a shift by a round number is noticed.
const TEXT: usize = 65_521;

/// The bytes at an offset of the text that every side writes.
fn text_at(offset: u64, length: usize) -> &'static [u8] {
    static TWICE: LazyLock<Vec<u8>> = LazyLock::new(|| {
        let mut random = fastrand::Rng::with_seed(0);
        let once: Vec<u8> = std::iter::repeat_with(|| random.u8(..)).take(TEXT).collect();
        [once.as_slice(), once.as_slice()].concat()
    });
    let start = (offset % TEXT as u64) as usize;
    &TWICE[start..start + length]
}

/// See the module's description.
pub(crate) struct Network {
    pub start: Instant,
    pub now: Instant,
    /// Of each stream one after the other.
    pub sides: Vec<Side>,
    /// The link there, which all streams share, and the link back, each with the time of its next idle
    /// moment.
    links: [(Link, Instant); 2],
    under_way: BinaryHeap<Reverse<(Instant, u64, usize, Bytes)>>,
    count: u64,
    random: fastrand::Rng,
    /// Timeouts are noticed at multiples of this.
    pub grain: Duration,
}

impl Network {
    pub(crate) fn new(seed: u64, link: Link) -> Self {
        Self::starting_at([0, 0], seed, link)
    }

    pub(crate) fn starting_at(first: [u32; 2], seed: u64, link: Link) -> Self {
        let now = Instant::now();
        let stream = |side: usize| {
            let ids = [7, 8];
            Stream::starting_at(first[side], first[1 - side], ids[side], ids[1 - side], now)
        };
        Self {
            start: now,
            now,
            sides: [0, 1].map(|side| Side::new(stream(side))).into(),
            links: [(link, now); 2],
            under_way: BinaryHeap::new(),
            count: 0,
            random: fastrand::Rng::with_seed(seed),
            grain: Duration::from_millis(1),
        }
    }

    /// One more stream over the same network, with the first number 0.
    pub(crate) fn add_stream(&mut self) {
        for (local, remote) in [(7, 8), (8, 7)] {
            self.sides.push(Side::new(Stream::new(local, remote, self.now)));
        }
    }

    pub(crate) fn set_links(&mut self, links: [Link; 2]) {
        for (before, link) in self.links.iter_mut().zip(links) {
            before.0 = link;
        }
    }

    pub(crate) fn passed(&self) -> Duration {
        self.now - self.start
    }

    fn post(&mut self, from: usize, packet: Bytes) {
        let side = &mut self.sides[from];
        side.datagrams += 1;
        if let Some(packet) = Packet::parse(&packet).filter(|packet| packet.is(DATA)) {
            let sequence = packet.header.sequence;
            let is_new = |newest: u32| sequence.wrapping_sub(newest).cast_signed() > 0;
            if side.newest.is_none_or(is_new) {
                side.newest = Some(sequence);
            } else {
                side.repeated += 1;
            }
        }
        let (link, busy_until) = &mut self.links[from % 2];
        let mut sent = self.now;
        if let Some((rate, queue)) = link.rate {
            let waits = busy_until.saturating_duration_since(self.now).as_secs_f64();
            let length = packet.len() as f64 + 28.0;
            if waits * rate + length > queue {
                side.lost += 1;
                return;
            }
            sent = self.now.max(*busy_until) + Duration::from_secs_f64(length / rate);
            *busy_until = sent;
        }
        if self.random.f64() < link.loss {
            side.lost += 1;
            return;
        }
        let copies = if self.random.f64() < link.duplicates { 2 } else { 1 };
        for _ in 0..copies {
            let at = sent + link.delay + link.jitter.mul_f64(self.random.f64());
            self.count += 1;
            self.under_way.push(Reverse((at, self.count, from ^ 1, packet.clone())));
        }
    }

    fn pump(&mut self) {
        let passed = self.passed();
        for from in 0..self.sides.len() {
            self.sides[from].work(passed);
            while let Some(packet) = self.sides[from].stream.next_packet(self.now) {
                self.post(from, packet);
            }
        }
    }

    /// Advances to the next event; false if there is none.
    pub(crate) fn step(&mut self) -> bool {
        self.pump();
        let arrival = self.under_way.peek().map(|Reverse((at, ..))| *at);
        let grain = self.grain;
        let timeouts = self.sides.iter().filter_map(|side| side.stream.next_timeout());
        let start = self.start;
        let coarse = timeouts.map(|at| {
            let passed = at.saturating_duration_since(start).as_nanos();
            let grains = passed.div_ceil(grain.as_nanos().max(1)) as u32;
            start + grain * grains
        });
        let reads = self.sides.iter().filter(|side| side.read_rate.is_some());
        let reads = reads.map(|_| self.now + Duration::from_millis(5));
        let Some(next) = coarse.chain(reads).chain(arrival).min() else { return false };
        self.now = self.now.max(next);
        while let Some(Reverse((at, ..))) = self.under_way.peek()
            && *at <= self.now
            && let Some(Reverse((_, _, to, packet))) = self.under_way.pop()
        {
            self.sides[to].stream.receive(&packet, self.now);
        }
        true
    }

    /// Runs until the condition holds, or returns false after the limit.
    pub(crate) fn run(&mut self, limit: Duration, until: impl Fn(&Self) -> bool) -> bool {
        let end = self.now + limit;
        while !until(self) {
            if self.now >= end || !self.step() {
                return false;
            }
        }
        true
    }

    /// The time to transfer `bytes` bytes from the first side to the second.
    pub(crate) fn transfer(&mut self, bytes: u64, limit: Duration) -> Duration {
        let began = self.now;
        self.sides[0].to_write += bytes;
        let all = self.sides[0].to_write;
        let done = self.run(limit, |network| network.sides[1].read >= all);
        assert!(done, "{} of {all} bytes after {limit:?}", self.sides[1].read);
        self.now - began
    }
}
