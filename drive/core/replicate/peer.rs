//! One peer of one core: what it holds, what was asked of it, and how well it answers.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Range;
use std::time::Duration;

use tokio::time::Instant;

use super::remote_blocks::{MAX_RANGES, RemoteBlocks};
use crate::hypercore::demand::Urgency;

/// Requests one peer may have open for one core, whatever their size.
pub(crate) const MAX_IN_FLIGHT: usize = 1024;
/// Bounds of the adaptive window of requested bytes per peer and core.
pub(super) const MIN_WINDOW_BYTES: u64 = 128 * 1024;
pub(crate) const MAX_WINDOW_BYTES: u64 = 4 * 1024 * 1024;
const INITIAL_WINDOW_BYTES: u64 = 512 * 1024;
/// Requests, and the bytes of their answers, beyond which nothing is requested that is only [`Urgency::Spare`]: a
/// reader's request is answered after them.
const MAX_SPARE: usize = 16;
const SPARE_BYTES: u64 = 64 * 1024;
/// A peer that has answered once within this time is near.
const NEAR: Duration = Duration::from_millis(5);
/// The same until [`MEASURED`] answers have come: a server takes longer for the first ones.
const NEAR_AT_FIRST: Duration = Duration::from_millis(30);
const MEASURED: u32 = 8;
/// A peer is stalled when it owes answers and has sent nothing for this long (or, on slow links, for
/// longer than the timeout of RFC 6298: the usual time of an answer plus a multiple of its deviation).
pub(crate) const STALL_AFTER: Duration = Duration::from_millis(500);
const STALL_DEVIATIONS: u32 = 4;
/// How long after an unanswered request a peer is doubted, see [`Peer::is_doubtful`].
const DOUBTED_FOR: Duration = Duration::from_secs(10);
/// A peer that owes answers and stays silent this long is disconnected (the reference's timeout).
pub(crate) const SILENT_AFTER: Duration = Duration::from_secs(20);
/// A request is late when it is this old and the peer has answered one that was made after it (or, on slow
/// links, when it is older than an answer usually is, as above).
pub(super) const LATE_AFTER: Duration = Duration::from_secs(1);
/// A single request this old, at a peer that has answered later ones, is made again, of another peer if there is one.
pub(super) const OVERDUE_AFTER: Duration = Duration::from_secs(10);
/// Data messages without a pending request that a peer may send before it counts as misbehaving.
pub(super) const MAX_UNSOLICITED: u32 = 1024;
/// Requests a peer may refuse, beyond as many as it answers, for blocks it offers. One that offers
/// and takes back without end would have us ask without end.
pub(super) const MAX_REFUSED: u32 = 4096;
/// Blocks of one peer that wait until it is shown that its version and ours are one history; beyond it
/// the peer counts as not having the block.
pub(super) const MAX_UNCONNECTED: usize = MAX_IN_FLIGHT;
/// Blocks whose proofs did not verify, beyond as many that did, after which a peer is dropped as a liar.
pub(super) const MAX_STRIKES: u32 = 32;
/// Bytes of bad proofs, less those of good ones since, after which a peer is dropped as a liar: two of the
/// largest blocks.
pub(super) const MAX_BAD_BYTES: u64 = 16 * 1024 * 1024;
/// Bad proofs of its length, after which a peer that was asked for its history is dropped as a liar.
pub(super) const MAX_BAD_LENGTHS: u32 = 4;
/// Bad proofs of one block after which the peer counts as not having it, for [`RETRY_AFTER`], and for twice as
/// long after each further one, up to [`RETRY_WITHIN`]: its operator may mend what is damaged.
pub(super) const MAX_BAD_PROOFS: u8 = 3;
pub(super) const RETRY_AFTER: Duration = Duration::from_secs(5);
pub(super) const RETRY_WITHIN: Duration = Duration::from_secs(80);
/// Blocks of one peer whose bad proofs are counted; of further ones the first is enough.
pub(super) const MAX_BAD_BLOCKS: usize = 1024;
/// Replies that one hint may bring (each at most 2176 blocks).
pub(super) const MAX_CACHES_PER_HINT: u32 = 64;
/// Blocks of a directory that are fetched because something in it was looked up; of a larger one none
/// are, until it is listed: one lookup must stay cheap in a large drive.
pub(super) const MAX_NEAR_BLOCKS: usize = 256;
/// Answers to the hint of a listing come within this time; those that come later may be too large.
pub(super) const LISTING_WITHIN: Duration = Duration::from_secs(10);
/// Regions of 2^20 blocks a peer is asked about.
pub(super) const MAX_WANTED_REGIONS: usize = 4096;

/// Bitfields that a peer may send when it appears, and for each question of what it holds. Each beyond
/// them counts as a refused request: a few bytes can unfold to a million blocks.
pub(super) const FIRST_BITFIELDS: u32 = 16;
pub(super) const BITFIELDS_PER_WANT: u32 = 4;

/// Names one peer of one core for the life of its channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct PeerId(pub u64);

/// One request that has been sent and not been answered.
#[derive(Clone, Copy, Debug)]
pub(super) struct InFlight {
    pub(crate) sent: Instant,
    /// Its place among the peer's requests; given by [`Peer::asked`] and [`Peer::asked_seek`].
    pub(crate) order: u64,
    /// Bytes the answer is expected to have; counts against the window.
    pub(crate) expected: u64,
    /// No longer wanted; the answer is still accepted, and no longer counts.
    pub(crate) cancelled: bool,
    /// The full proof was asked for, on a connection on which the peer was told of no nodes of ours,
    /// so a failure cannot be blamed on what we hold.
    pub(crate) full_proof: bool,
    pub(crate) purpose: Purpose,
    /// The block was asked for before, so the answer may be to that request: it tells no latency (as in Karn's
    /// algorithm). Set by [`Peer::asked`].
    pub(crate) again: bool,
}

/// What a request is for. All but [`Purpose::Block`] ask for a proof without the block's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    Block,
    /// To compare a peer's history with the one we write (`histories.rs`).
    Comparison,
    /// To see that the peer's longer version continues ours (`continuity.rs`).
    Continuity,
    /// To learn the peer's length, or its fork; made by the connection (`exchange.rs`).
    Length,
    /// To learn the nodes that connect a shorter version, of another peer, with ours (`continuity.rs`).
    Bridge,
}

pub(super) struct Peer {
    /// How logs call it: its address.
    pub(crate) name: String,
    pub(crate) blocks: RemoteBlocks,
    /// The part of `blocks` in which wants may be parked that it could be asked for.
    pub(crate) unexamined: RemoteBlocks,
    /// Bitfields that it may still send.
    pub(crate) bitfields_allowed: u32,
    pub(crate) uploading: bool,
    /// The fork that it says its core is of.
    pub(super) fork: u64,
    /// It sent a Want: it is told of new blocks.
    pub(crate) subscribed: bool,
    pub(crate) takes_hints: bool,
    pub(crate) caches_allowed: u32,
    /// A listing was hinted at: until then large answers to hints are welcome.
    pub(crate) listing_until: Option<Instant>,
    pub(crate) regions: BTreeSet<u64>,
    in_flight: BTreeMap<u64, InFlight>,
    /// The requests of `in_flight`, oldest first: when they were made, their order and their blocks.
    by_age: BTreeSet<(Instant, u64, u64)>,
    /// Requests made so far.
    made: u64,
    /// The newest request that was answered, when it was made and its order: older ones were passed over.
    answered_up_to: (Instant, u64),
    /// A request has become late with an answer, not by the time.
    pub(crate) newly_late: bool,
    /// How many requests, seeks included, are still to be answered.
    owed: usize,
    /// How many of `in_flight` compare histories.
    comparing: usize,
    /// Seeks by byte, oldest first: they are answered in order, under an index of the peer's choice.
    seeks: VecDeque<(u64, InFlight)>,
    pub(crate) unsolicited: u32,
    /// How many more requests it refused than it answered.
    pub(crate) refused: u32,
    /// Blocks with a bad proof, less those with a good one since. With any, it is asked for one block at
    /// a time.
    strikes: u32,
    /// Bytes of bad proofs, less those of good ones since.
    bad_bytes: u64,
    /// When the first of these strikes came: answers to earlier requests bring no further ones.
    struck: Instant,
    /// Some proof of it verified. One that proves nothing is a liar after the last try for one block.
    has_proved: bool,
    /// It was asked to prove its history from the first block on.
    pub(crate) asked_for_history: bool,
    /// Proofs of its length that did not verify.
    pub(crate) bad_lengths: u32,
    /// How often the proof of a block was bad.
    bad_proofs: BTreeMap<u64, u8>,
    /// When to ask again for blocks that were disclaimed for their bad proofs.
    ///
    /// INVARIANT: each block once, and only blocks of `bad_proofs`.
    retries: BTreeSet<(Instant, u64)>,
    /// The newest block it was asked to prove, and when, to compare histories.
    pub(crate) compared: Option<(u64, Instant)>,
    /// When it opened the core.
    pub(crate) since: Instant,
    /// It was told of nodes we hold, and leaves them out of its proofs from then on.
    knows_our_nodes: bool,
    /// It could not show that its version continues ours, which had this many blocks: what it has beyond
    /// them is not asked for.
    pub(crate) discontinued: Option<u64>,
    /// Blocks that wait for the answer to a request that shows continuity.
    pub(crate) unconnected: BTreeSet<u64>,
    /// The block that this request is for, whatever its purpose.
    pub(crate) showing: Option<u64>,
    /// Blocks it sent under a shorter version that is not shown to be part of ours.
    pub(crate) withheld: BTreeSet<u64>,
    in_flight_bytes: u64,
    window: u64,
    latency: Option<Duration>,
    /// How far from the usual an answer usually is.
    deviation: Duration,
    best_latency: Option<Duration>,
    /// Answers that were measured.
    measured: u32,
    last_answer: Instant,
    /// The first request since its last answer, cancelled or not.
    unanswered_since: Option<Instant>,
}

impl Peer {
    pub(super) fn new(name: String, now: Instant) -> Self {
        Self {
            name,
            blocks: RemoteBlocks::default(),
            unexamined: RemoteBlocks::default(),
            bitfields_allowed: FIRST_BITFIELDS,
            uploading: true,
            fork: 0,
            subscribed: false,
            takes_hints: false,
            caches_allowed: 0,
            listing_until: None,
            regions: BTreeSet::new(),
            in_flight: BTreeMap::new(),
            by_age: BTreeSet::new(),
            made: 0,
            answered_up_to: (now, 0),
            newly_late: false,
            owed: 0,
            comparing: 0,
            seeks: VecDeque::new(),
            unsolicited: 0,
            refused: 0,
            strikes: 0,
            bad_bytes: 0,
            struck: now,
            has_proved: false,
            asked_for_history: false,
            bad_lengths: 0,
            bad_proofs: BTreeMap::new(),
            retries: BTreeSet::new(),
            compared: None,
            since: now,
            knows_our_nodes: false,
            discontinued: None,
            unconnected: BTreeSet::new(),
            showing: None,
            withheld: BTreeSet::new(),
            in_flight_bytes: 0,
            window: INITIAL_WINDOW_BYTES,
            latency: None,
            deviation: Duration::ZERO,
            best_latency: None,
            measured: 0,
            last_answer: now,
            unanswered_since: None,
        }
    }

    /// It claims these blocks; those that are new.
    pub(super) fn claims(&mut self, blocks: Range<u64>) -> Vec<Range<u64>> {
        let new = self.blocks.gaps(blocks.clone());
        self.blocks.insert(blocks);
        for range in &new {
            self.unexamined.insert(range.clone());
        }
        self.bound_unexamined();
        new
    }

    /// Of this region it claims these blocks and no others.
    pub(crate) fn claims_bits(&mut self, region: Range<u64>, bits: &[u8]) {
        self.blocks.replace(region.clone(), bits);
        self.unexamined.remove(region.clone());
        let claimed = self.blocks.within(region);
        if claimed.is_empty() {
            return;
        }
        for range in claimed {
            self.unexamined.insert(range);
        }
        self.bound_unexamined();
    }

    /// It claims these blocks no more.
    pub(crate) fn disclaims(&mut self, blocks: Range<u64>) {
        self.blocks.remove(blocks.clone());
        self.unexamined.remove(blocks);
    }

    /// Examining too much is only slow; what is left out would never be asked for.
    fn bound_unexamined(&mut self) {
        if self.unexamined.len() >= MAX_RANGES / 2 {
            self.unexamined = self.blocks.clone();
        }
    }

    /// Whether it would give us `block` if asked, and we could use it.
    pub(super) fn offers(&self, block: u64) -> bool {
        self.uploading
            && self.blocks.contains(block)
            && self.discontinued.is_none_or(|length| block < length)
            && !self.withheld.contains(&block)
    }

    /// Whether the answer to a request with this digest will be a proof without our help; to be
    /// asked when the request is made.
    pub(crate) fn stands_alone(&mut self, digest: u64) -> bool {
        self.knows_our_nodes |= digest != 0;
        !self.knows_our_nodes
    }

    /// Whether a request for `block` has not been answered.
    pub(crate) fn owes(&self, block: u64) -> bool {
        self.in_flight.contains_key(&block)
    }

    /// The same, and the request has not been cancelled.
    pub(crate) fn still_owes(&self, block: u64) -> bool {
        self.in_flight.get(&block).is_some_and(|request| !request.cancelled)
    }

    /// The blocks of `range` that were asked for and have not come, ascending.
    pub(crate) fn owed(&self, range: Range<u64>) -> impl Iterator<Item = u64> {
        self.in_flight.range(range).map(|(block, _)| *block)
    }

    /// Whether any request has not been answered.
    pub(crate) fn is_owing(&self) -> bool {
        !self.in_flight.is_empty() || !self.seeks.is_empty()
    }

    pub(crate) fn is_comparing(&self) -> bool {
        self.comparing > 0
    }

    /// Whether a proof of `block` was asked for without its bytes.
    pub(crate) fn is_asked_for_proof(&self, block: u64) -> bool {
        self.in_flight.get(&block).is_some_and(|request| request.purpose != Purpose::Block)
    }

    /// Notes that a proof of `block` with `size` bytes, asked for at `sent`, did not verify. After
    /// [`MAX_BAD_PROOFS`] of them the peer is asked for the block only from time to time. True if it is a liar.
    pub(crate) fn strike(&mut self, block: u64, size: u64, sent: Instant, now: Instant) -> bool {
        self.bad_bytes = self.bad_bytes.saturating_add(size);
        let full = self.bad_proofs.len() >= MAX_BAD_BLOCKS;
        let times = match self.bad_proofs.get_mut(&block) {
            Some(times) => {
                *times = times.saturating_add(1);
                *times
            }
            None if full => MAX_BAD_PROOFS,
            None => *self.bad_proofs.entry(block).or_insert(1),
        };
        if times >= MAX_BAD_PROOFS {
            self.disclaims(block..block.saturating_add(1));
            if self.bad_proofs.contains_key(&block) {
                let doublings = u32::from(times - MAX_BAD_PROOFS).min(4);
                let pause = (RETRY_AFTER * (1 << doublings)).min(RETRY_WITHIN);
                self.retries.retain(|(_, retried)| *retried != block);
                self.retries.insert((now + pause, block));
            }
        }
        if self.strikes == 0 {
            (self.strikes, self.struck) = (1, now);
        } else if times == 1 && sent >= self.struck {
            self.strikes += 1;
        }
        self.strikes > MAX_STRIKES
            || self.bad_bytes > MAX_BAD_BYTES
            || (times >= MAX_BAD_PROOFS && !self.has_proved)
    }

    /// Claims again what is to be asked for again by now.
    pub(super) fn claims_retried(&mut self, now: Instant) -> bool {
        let later = self.retries.split_off(&(now, u64::MAX));
        let due = std::mem::replace(&mut self.retries, later);
        for (_, block) in &due {
            self.claims(*block..block.saturating_add(1));
        }
        !due.is_empty()
    }

    /// Notes that a proof with `size` bytes verified.
    pub(super) fn proved(&mut self, size: u64) {
        self.bad_bytes = self.bad_bytes.saturating_sub(size);
        self.refused = self.refused.saturating_sub(1);
        self.strikes = self.strikes.saturating_sub(1);
        self.has_proved = true;
    }

    /// Whether one more request fits; readers may use what readahead leaves free.
    pub(super) fn has_room(&self, urgency: Urgency) -> bool {
        if self.strikes > 0 {
            return self.in_flight.is_empty() && self.seeks.is_empty();
        }
        let (count, bytes) = match urgency {
            Urgency::Reader => (MAX_IN_FLIGHT, self.window.saturating_mul(2)),
            Urgency::Ahead | Urgency::Background => (MAX_IN_FLIGHT * 3 / 4, self.window),
            Urgency::Spare => (MAX_SPARE, self.window.min(SPARE_BYTES)),
        };
        self.open() < count && self.in_flight_bytes < bytes
    }

    /// Requests without an answer that can be used yet. Blocks that wait for continuity count: they are asked
    /// for again.
    fn open(&self) -> usize {
        self.in_flight.len() + self.seeks.len() + self.unconnected.len()
    }

    /// About how many more requests fit, if answers have `average` bytes.
    pub(super) fn room(&self, average: u64) -> usize {
        if !self.has_room(Urgency::Reader) {
            return 0;
        }
        if self.strikes > 0 {
            return 1;
        }
        let count = MAX_IN_FLIGHT.saturating_sub(self.open());
        let bytes = self.window.saturating_mul(2).saturating_sub(self.in_flight_bytes);
        count.min(usize::try_from(bytes / average.max(1)).unwrap_or(usize::MAX).saturating_add(1))
    }

    /// Whether requests one after the other cost less than requests for more than is needed.
    pub(super) fn is_near(&self) -> bool {
        let limit = if self.measured < MEASURED { NEAR_AT_FIRST } else { NEAR };
        self.best_latency.is_some_and(|best| best < limit)
    }

    /// How full its window is, for choosing between peers; lower is better.
    pub(super) fn load(&self) -> u64 {
        self.in_flight_bytes.saturating_mul(1024) / self.window.max(1)
    }

    /// A request was made. What an honest peer did not answer may have been cancelled in time, so the doubt ends.
    fn notes_unanswered(&mut self, sent: Instant) {
        let over = |since: &mut Instant| sent.saturating_duration_since(*since) >= DOUBTED_FOR;
        self.unanswered_since.take_if(over);
        self.unanswered_since.get_or_insert(sent);
    }

    pub(super) fn asked(&mut self, block: u64, mut request: InFlight) {
        if self.owed == 0 {
            self.last_answer = request.sent;
        }
        self.notes_unanswered(request.sent);
        request.again = self.withdraw(block).is_some();
        self.in_flight_bytes += request.expected;
        self.owed += 1;
        self.comparing += usize::from(request.purpose == Purpose::Comparison);
        self.made += 1;
        request.order = self.made;
        self.by_age.insert((request.sent, request.order, block));
        self.in_flight.insert(block, request);
    }

    pub(crate) fn asked_seek(&mut self, byte: u64, mut request: InFlight) {
        if self.owed == 0 {
            self.last_answer = request.sent;
        }
        self.notes_unanswered(request.sent);
        self.in_flight_bytes += request.expected;
        self.owed += 1;
        self.made += 1;
        request.order = self.made;
        self.seeks.push_back((byte, request));
    }

    /// Forgets the request for `block`: it was answered, or never will be.
    pub(crate) fn withdraw(&mut self, block: u64) -> Option<InFlight> {
        let request = self.in_flight.remove(&block)?;
        self.by_age.remove(&(request.sent, request.order, block));
        self.comparing -= usize::from(request.purpose == Purpose::Comparison);
        self.release(&request);
        Some(request)
    }

    fn release(&mut self, request: &InFlight) {
        if !request.cancelled {
            self.in_flight_bytes = self.in_flight_bytes.saturating_sub(request.expected);
            self.owed -= 1;
        }
    }

    /// Takes the request an answer under `index` belongs to; `None` if there is none.
    pub(super) fn answered(
        &mut self,
        index: u64,
        size: u64,
        now: Instant,
    ) -> Option<(InFlight, Option<u64>)> {
        let (request, byte) = if let Some(request) = self.withdraw(index) {
            (request, None)
        } else {
            let (byte, request) = self.seeks.pop_front()?;
            self.release(&request);
            (request, Some(byte))
        };
        if !request.again {
            self.measure(now.saturating_duration_since(request.sent), size);
        }
        self.passes_over(&request, now);
        self.last_answer = now;
        self.unanswered_since = self.is_owing().then_some(now);
        Some((request, byte))
    }

    /// Grows the window while answers come about as fast as the fastest did, shrinks it when they
    /// queue up: enough in flight to fill the link, little enough that a reader's request does not
    /// wait behind seconds of readahead.
    fn measure(&mut self, latency: Duration, size: u64) {
        let best = self.best_latency.map_or(latency, |best| best.min(latency));
        self.best_latency = Some(best);
        self.measured = self.measured.saturating_add(1);
        let usual = self.latency.unwrap_or(latency);
        let off = if self.latency.is_some() { usual.abs_diff(latency) } else { latency / 2 };
        self.deviation = (self.deviation * 3 + off) / 4;
        self.latency = Some((usual * 7 + latency) / 8);
        let queueing = latency.saturating_sub(best);
        if queueing < best + Duration::from_millis(30) {
            self.window = (self.window + size).min(MAX_WINDOW_BYTES);
        } else if queueing > best * 2 + Duration::from_millis(120) {
            self.window = self.window.saturating_sub(size / 2).max(MIN_WINDOW_BYTES);
        }
    }

    pub(crate) fn cancel(&mut self, block: u64) -> bool {
        match self.in_flight.get_mut(&block) {
            Some(request) if !request.cancelled => {
                request.cancelled = true;
                self.in_flight_bytes = self.in_flight_bytes.saturating_sub(request.expected);
                self.owed -= 1;
                true
            }
            _ => false,
        }
    }

    fn stall_limit(&self) -> Duration {
        STALL_AFTER.max(self.latency.unwrap_or_default() + self.deviation * STALL_DEVIATIONS)
    }

    /// Whether it left a request unanswered for as long as a stalled peer does, also one that is not needed any
    /// more because another peer answered it: another peer is asked first, for some time.
    pub(super) fn is_doubtful(&self, now: Instant) -> bool {
        let Some(since) = self.unanswered_since else { return false };
        let unanswered = now.saturating_duration_since(since);
        unanswered >= self.stall_limit() && unanswered < DOUBTED_FOR
    }

    /// It owes answers and has sent none for longer than is usual for it.
    pub(crate) fn is_stalled(&self, now: Instant) -> bool {
        self.owed > 0 && now.saturating_duration_since(self.last_answer) >= self.stall_limit()
    }

    pub(crate) fn is_silent(&self, now: Instant) -> bool {
        self.owed > 0 && now.saturating_duration_since(self.last_answer) >= SILENT_AFTER
    }

    fn late_limit(&self) -> Duration {
        LATE_AFTER.max(self.stall_limit())
    }

    /// Notes that all requests before this one were passed over.
    fn passes_over(&mut self, answered: &InFlight, now: Instant) {
        let (before, newest) = (self.answered_up_to, (answered.sent, answered.order));
        if newest.1 <= before.1 {
            return;
        }
        self.answered_up_to = newest;
        let passed = self.by_age.range((before.0, before.1, 0)..(newest.0, newest.1, 0)).next();
        let block = passed.and_then(|(.., block)| self.in_flight.get(block));
        let seek = self.seeks.iter().find(|(_, request)| request.order > before.1);
        let seek = seek.map(|(_, request)| request);
        self.newly_late |= block.into_iter().chain(seek).any(|request| self.is_late(request, now));
    }

    /// A peer that works through its requests in order is slow, and none of them is late.
    fn is_late(&self, request: &InFlight, now: Instant) -> bool {
        request.order < self.answered_up_to.1
            && now.saturating_duration_since(request.sent) >= self.late_limit()
    }

    /// Whether the request for `block`, or the one that `block` waits for, is late.
    pub(crate) fn is_late_with(&self, block: u64, now: Instant) -> bool {
        let waits = self.unconnected.contains(&block);
        let request = if waits { self.showing } else { Some(block) };
        request
            .and_then(|block| self.in_flight.get(&block))
            .is_some_and(|request| self.is_late(request, now))
    }

    /// The blocks whose requests are late, and what each request is for.
    pub(super) fn late(&self, now: Instant) -> impl Iterator<Item = (u64, Purpose)> {
        self.by_age
            .iter()
            .filter_map(|(.., block)| Some((*block, self.in_flight.get(block)?)))
            .take_while(move |(_, request)| self.is_late(request, now))
            .map(|(block, request)| (block, request.purpose))
    }

    /// The bytes of seeks that are late.
    pub(crate) fn late_seeks(&self, now: Instant) -> impl Iterator<Item = u64> {
        let late = self.seeks.iter().take_while(move |(_, request)| self.is_late(request, now));
        late.map(|(byte, _)| *byte)
    }

    /// Forgets the seeks that are overdue, as [`Peer::overdue`]; their bytes.
    pub(crate) fn give_up_seeks(&mut self, now: Instant) -> Vec<u64> {
        let mut given_up = Vec::new();
        while let Some((byte, request)) = self.seeks.front().copied()
            && now.saturating_duration_since(request.sent) >= OVERDUE_AFTER
            && request.order < self.answered_up_to.1
        {
            self.seeks.pop_front();
            self.release(&request);
            given_up.push(byte);
        }
        given_up
    }

    /// When a request that was passed over becomes late next.
    fn next_late(&self, now: Instant) -> Option<Instant> {
        let limit = self.late_limit();
        let from = now.checked_sub(limit).map(|sent| (sent, u64::MAX, u64::MAX));
        let block = match from {
            Some(from) => self.by_age.range(from..).next(),
            None => self.by_age.first(),
        };
        let block = block.map(|(sent, order, _)| (*sent, *order));
        let seek = self.seeks.iter().map(|(_, request)| (request.sent, request.order));
        block
            .into_iter()
            .chain(seek)
            .filter(|(_, order)| *order < self.answered_up_to.1)
            .map(|(sent, _)| sent + limit)
            .filter(|at| *at > now)
            .min()
    }

    /// Blocks requested more than [`OVERDUE_AFTER`] ago that the peer has passed over. One that has answered none
    /// since may be slow, or was not heard while this machine was busy.
    pub(super) fn overdue(&self, now: Instant) -> impl Iterator<Item = u64> {
        self.by_age
            .iter()
            .take_while(move |(sent, ..)| now.saturating_duration_since(*sent) >= OVERDUE_AFTER)
            .filter(|(_, order, _)| *order < self.answered_up_to.1)
            .map(|(.., block)| *block)
    }

    /// When the peer may next be stalled or silent, a request of it late or overdue, or a block due to be asked for
    /// again.
    pub(super) fn next_check(&self, now: Instant) -> Option<Instant> {
        let retry = self.retries.first().map(|(at, _)| *at);
        if self.owed == 0 {
            return retry;
        }
        let oldest = self.by_age.first().map(|(sent, ..)| *sent);
        let seek = self.seeks.front().map(|(_, request)| request.sent);
        [
            Some(self.last_answer + self.stall_limit()),
            oldest.map(|sent| sent + OVERDUE_AFTER),
            seek.map(|sent| sent + OVERDUE_AFTER),
            self.next_late(now),
            Some(self.last_answer + SILENT_AFTER),
            retry,
        ]
        .into_iter()
        .flatten()
        .filter(|at| *at > now)
        .min()
    }
}
