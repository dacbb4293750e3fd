//! One core on one channel of `hypercore/alpha`: what a replicator says as messages of that protocol, and what
//! the peer says as events of a replicator.
//!
//! The protocol numbers its requests, announces lengths and forks beside blocks, and proves a greater length in
//! the answer to any request. A replicator knows none of that: it wants blocks. So this keeps the requests that
//! are open, asks for the greater length of a peer by itself, and follows a fork.
//!
//! A state machine without I/O. Not here: answering the peer's requests (`upload_modern.rs`), and which block is
//! requested from which peer (`schedule.rs`).

use std::collections::{BTreeMap, VecDeque};

use tokio::time::{Duration, Instant};

use super::expected::{ExpectedNodes, HeldBack, end_of};
use super::peer::MAX_IN_FLIGHT;
use super::upload_modern::data;
use super::{Event, PeerId};
use crate::hypercore::flat_tree;
use crate::hypercore::merkle::Signature;
use crate::hypercore::{
    BlockPart, Core, HashPart, ProofParts, ProofRequest, Received, ReceivedProof, SeekPart,
    Upgrade, UpgradePart, Way,
};
use crate::wire::message::Message;
use crate::wire::modern::message as alpha;
use crate::wire::run_length;

/// Requests that may wait until the peer has told its length.
const MAX_WAITING: usize = 2 * MAX_IN_FLIGHT;
/// Requests without an answer that are remembered; a peer that leaves more unanswered loses the oldest.
const MAX_OPEN: usize = 4 * MAX_IN_FLIGHT;
/// A request for a greater length is made again after this time, when there is occasion.
const UPGRADE_WITHIN: Duration = Duration::from_secs(5);
/// Answers build on that of a request which was sent within this time: a later one may never come.
pub(super) const AWAITED_FOR: Duration = Duration::from_secs(2);
/// Lengths and forks that are less than the one before, after which the connection ends. Those of an honest peer
/// only rise.
const MAX_BACKWARD: u32 = 64;
/// Announcements of blocks beyond the announced length, after which the connection ends. An honest peer may tell of a
/// block before it tells the length.
const MAX_BEYOND: u32 = 256;
/// Bytes of blocks that were never requested, after which the connection ends.
const MAX_UNASKED_BYTES: usize = 16 * 1024 * 1024;
/// The number of the request by which two peers compare their histories, and of the answer.
pub(super) const CONFLICT: u64 = 0;
/// Proofs of a history that one peer may send; one of an honest peer follows each question, and each conflict.
pub(super) const MAX_HISTORIES: u32 = 4;
/// In the place of a block number: only the length was requested.
pub(super) const NO_BLOCK: u64 = u64::MAX;
/// Blocks in the unit of a Want.
const WANT_BLOCKS: u64 = 1 << 21;

/// The peer's state, as it last announced it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Remote {
    fork: u64,
    length: u64,
    uploading: bool,
    has_manifest: bool,
}

/// A request that was sent.
#[derive(Clone, Copy, Debug)]
struct Open {
    /// What the replicator asked for; `None` if only the length was asked for.
    wanted: Option<Waiting>,
    /// Whether the bytes of the block were asked for.
    value: bool,
    fork: u64,
    upgrade: bool,
    /// Only the manifest was asked for.
    manifest: bool,
    /// The peer's length, if the way ends at a root of that and not at a node that is known here.
    under: Option<u64>,
    /// The way of the proof, if the nodes on it are expected.
    way: Option<Way>,
    /// The request whose answer brings the node at which the way ends.
    needs: Option<u64>,
    /// It was to be cancelled, and the answer to another one builds on it.
    unwanted: bool,
    sent: Instant,
}

impl Open {
    /// A request for no block.
    fn of_length(fork: u64, sent: Instant) -> Self {
        let (value, upgrade, manifest) = (false, false, false);
        let (wanted, under, way, needs) = (None, None, None, None);
        let unwanted = false;
        Self { wanted, value, fork, upgrade, manifest, under, way, needs, unwanted, sent }
    }
}

/// What a replicator wants that cannot be sent yet.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    index: u64,
    bytes: u64,
    hash: bool,
    full: bool,
}

/// What comes of a message.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// For the replicator of the core.
    Event(Event),
    /// For the peer.
    Send(alpha::Message),
}

/// See the module's description.
pub(crate) struct Exchange {
    core: Core,
    peer: PeerId,
    /// The peer understands seeks.
    seeks: bool,
    uploading: bool,
    /// `None` until its first Sync.
    remote: Option<Remote>,
    /// How often that was less than before.
    backward: u32,
    /// Announcements beyond the length, since that has risen.
    beyond: u32,
    /// Bytes of blocks that were never requested.
    unasked: usize,
    /// Proofs of its history that it has sent.
    histories: u32,
    /// Ours was proved to it.
    proved: bool,
    /// The last Sync that was sent.
    told: Option<alpha::Sync>,
    next_id: u64,
    open: BTreeMap<u64, Open>,
    expected: ExpectedNodes,
    held_back: HeldBack<(Open, alpha::Data)>,
    waiting: VecDeque<Waiting>,
}

impl Exchange {
    pub(crate) fn new(core: Core, peer: PeerId, seeks: bool, uploading: bool) -> Self {
        Self {
            core,
            peer,
            seeks,
            uploading,
            remote: None,
            backward: 0,
            beyond: 0,
            unasked: 0,
            histories: 0,
            proved: false,
            told: None,
            next_id: 1,
            open: BTreeMap::new(),
            expected: ExpectedNodes::default(),
            held_back: HeldBack::default(),
            waiting: VecDeque::new(),
        }
    }

    /// Whether the peer was told that blocks are given to it.
    pub(crate) fn is_uploading(&self) -> bool {
        self.uploading
    }

    /// What is sent when the channel opens: the head, and the blocks that are held from the first on.
    pub(crate) fn greet(&mut self) -> Vec<alpha::Message> {
        let mut messages = vec![self.sync()];
        let length = self.core.announced_head().length;
        let held = self.core.first_missing(0..length).unwrap_or(length);
        if self.uploading && held > 0 {
            messages.push(alpha::Message::Range { drop: false, start: 0, length: held });
        }
        messages
    }

    /// Whether blocks are given away changed, or the head moved: what the peer has to hear.
    pub(crate) fn changed(&mut self, uploading: bool, now: Instant) -> Vec<Outcome> {
        self.uploading = uploading;
        let mut out = Vec::new();
        let before = self.told;
        let sync = self.sync();
        if self.told != before {
            out.push(Outcome::Send(sync));
        }
        self.send_waiting(now, &mut out);
        self.upgrade(now, &mut out);
        out
    }

    /// Why the peer is of no use, if it has shown that.
    pub(crate) fn abuse(&self) -> Option<&'static str> {
        if self.backward >= MAX_BACKWARD {
            return Some("announces lengths that go back and forth");
        }
        if self.beyond >= MAX_BEYOND {
            return Some("announces blocks beyond its length");
        }
        (self.unasked > MAX_UNASKED_BYTES).then_some("sent data that was not requested")
    }

    fn sync(&mut self) -> alpha::Message {
        let head = self.core.announced_head();
        let remote = self.remote.unwrap_or_default();
        let sync = alpha::Sync {
            can_upgrade: true,
            uploading: self.uploading,
            downloading: !self.core.writable(),
            has_manifest: self.core.has_manifest(),
            allow_push: false,
            fork: head.fork,
            length: head.length,
            remote_length: if remote.fork == head.fork { remote.length } else { 0 },
        };
        self.told = Some(sync);
        alpha::Message::Sync(sync)
    }

    /// What the replicator says to the peer.
    pub(crate) fn say(&mut self, message: Message, now: Instant) -> Vec<Outcome> {
        let mut out = Vec::new();
        match message {
            Message::Request { index, bytes, hash, nodes } => {
                let wanted = Waiting { index, bytes, hash, full: nodes == 0 };
                self.request(wanted, now, &mut out);
            }
            Message::Cancel { index, hash, .. } => {
                self.waiting.retain(|wanted| wanted.index != index || wanted.hash != hash);
                let of_block = |open: &Open| {
                    open.wanted.is_some_and(|wanted| wanted.index == index && wanted.hash == hash)
                };
                let found = self.open.iter().find(|(_, open)| of_block(open));
                if let Some(id) = found.map(|(id, _)| *id) {
                    self.cancel(id, &mut out);
                }
            }
            Message::Want { start, .. } => {
                let start = start - start % WANT_BLOCKS;
                let want = alpha::Want { start, length: WANT_BLOCKS, any: false };
                out.push(Outcome::Send(alpha::Message::Want(want)));
            }
            Message::Have { start, length, bitfield: None, .. } if self.uploading => {
                out.push(Outcome::Send(alpha::Message::Range { drop: false, start, length }));
            }
            Message::Unhave { start, length } => {
                out.push(Outcome::Send(alpha::Message::Range { drop: true, start, length }));
            }
            Message::Extension { name, payload } => {
                out.push(Outcome::Send(alpha::Message::Extension { name, payload }));
            }
            Message::Status { .. } => return self.changed(self.uploading, now),
            _ => {}
        }
        out
    }

    fn refuse(&self, index: u64, out: &mut Vec<Outcome>) {
        out.push(self.hear_message(Message::Unhave { start: index, length: 1 }));
    }

    fn hear_message(&self, message: Message) -> Outcome {
        Outcome::Event(Event::Received { peer: self.peer, message })
    }

    fn request(&mut self, wanted: Waiting, now: Instant, out: &mut Vec<Outcome>) {
        let head = self.core.head();
        let ready = self.remote.filter(|remote| {
            remote.fork == head.fork && wanted.index < remote.length.max(head.length)
        });
        let Some(remote) = ready else {
            if self.waiting.len() < MAX_WAITING {
                self.waiting.push_back(wanted);
            } else {
                self.refuse(wanted.index, out);
            }
            return;
        };
        match self.compose(wanted, remote, now) {
            Some((mut request, under)) => {
                let block = request.block.filter(|_| request.upgrade.is_none() && under.is_none());
                let way = block.map(|block| Way { from: block.index, steps: block.nodes });
                let open = Open {
                    wanted: Some(wanted),
                    value: request.block.is_some(),
                    fork: request.fork,
                    upgrade: request.upgrade.is_some(),
                    manifest: false,
                    under,
                    way,
                    needs: way.and_then(|way| self.brought_by(end_of(way), now)),
                    unwanted: false,
                    sent: now,
                };
                request.id = self.number(open, out);
                out.push(Outcome::Send(alpha::Message::Request(request)));
            }
            None => self.refuse(wanted.index, out),
        }
    }

    fn number(&mut self, open: Open, out: &mut Vec<Outcome>) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        if let Some(way) = open.way {
            self.expected.requested(id, way);
        }
        self.open.insert(id, open);
        if self.open.len() > MAX_OPEN
            && let Some(oldest) = self.open.first_key_value().map(|(id, _)| *id)
        {
            self.close(oldest);
            self.release(oldest, out);
        }
        id
    }

    /// The request is open no more.
    fn close(&mut self, id: u64) -> Option<Open> {
        self.expect_no_more(id);
        self.open.remove(&id)
    }

    /// What the request was to bring is expected no more.
    fn expect_no_more(&mut self, id: u64) {
        if let Some(way) = self.open.get_mut(&id).and_then(|open| open.way.take()) {
            self.expected.ended(id, way);
        }
    }

    /// Cancels a request, unless the answer to another one builds on it: the peer would not send what that needs. Then it
    /// is cancelled with the last of those.
    fn cancel(&mut self, id: u64, out: &mut Vec<Outcome>) {
        let mut next = Some(id);
        while let Some(id) = next.take() {
            let is_needed = self.open.values().any(|open| open.needs == Some(id))
                || self.held_back.is_waited_for(id);
            let Some(open) = self.open.get_mut(&id) else { return };
            open.unwanted = true;
            if is_needed {
                return;
            }
            let needs = open.needs.take();
            out.push(Outcome::Send(alpha::Message::Cancel { request: id }));
            self.expect_no_more(id);
            next = needs.filter(|id| self.open.get(id).is_some_and(|open| open.unwanted));
        }
    }

    /// The request whose answer brings this node, if that may be on its way.
    fn brought_by(&self, node: u64, now: Instant) -> Option<u64> {
        let id = self.expected.brought_by(node)?;
        self.is_awaited(id, now).then_some(id)
    }

    /// Whether the answer to a request may be on its way. One that is late may never come.
    fn is_awaited(&self, id: u64, now: Instant) -> bool {
        self.open.get(&id).is_some_and(|open| now < open.sent + AWAITED_FOR)
    }

    /// Whether no answer waits for another one, and no node for an answer.
    #[cfg(test)]
    pub(super) fn expects_nothing(&self) -> bool {
        self.expected.is_empty() && self.held_back.is_empty()
    }

    /// Answers that waited for request `id`, which has ended.
    fn release(&mut self, id: u64, out: &mut Vec<Outcome>) {
        for (open, data) in self.held_back.ended(id) {
            self.judge(open, data, out);
        }
    }

    /// The request, and the peer's length if its tree does not reach a node that is known here. `None` if the
    /// peer does not have the block.
    fn compose(
        &self,
        wanted: Waiting,
        remote: Remote,
        now: Instant,
    ) -> Option<(alpha::Request, Option<u64>)> {
        let head = self.core.head();
        let Waiting { mut index, bytes, mut hash, full } = wanted;
        let mut request = alpha::Request { fork: head.fork, ..alpha::Request::default() };
        if bytes > 0 {
            if self.seeks {
                let padding = self.core.block_padding();
                request.seek = Some(alpha::RequestedSeek { bytes, padding });
            }
            // The nodes beside the way to the middle of what may hold the byte tell where it is.
            index = self.core.middle_of_search(bytes).unwrap_or(index).min(head.length.max(1) - 1);
            hash = true;
        }
        let (mut nodes, mut under) = (0, None);
        if index >= head.length {
            let length = remote.length.checked_sub(head.length).filter(|length| *length > 0)?;
            request.upgrade = Some(alpha::RequestedUpgrade { start: head.length, length });
            request.manifest = self.core.lacks_manifest() && remote.has_manifest;
        } else {
            // A proof without the block's bytes judges the peer by itself.
            let brought = |node| !hash && self.brought_by(node, now).is_some();
            match self.core.steps_to_known(index, remote.length, full, brought) {
                Some(steps) => nodes = steps,
                None => {
                    nodes = steps_to_root(index, remote.length)?;
                    under = Some(remote.length);
                }
            }
        }
        if hash {
            request.hash = Some(alpha::RequestedNode { index: index * 2, nodes });
        } else {
            request.block = Some(alpha::RequestedNode { index, nodes });
        }
        Some((request, under))
    }

    fn send_waiting(&mut self, now: Instant, out: &mut Vec<Outcome>) {
        for wanted in std::mem::take(&mut self.waiting) {
            self.request(wanted, now, out);
        }
    }

    /// Asks for the manifest of a core in which nothing is yet: it proves what the key is of. With blocks it comes along
    /// with the first length.
    fn ask_manifest(&mut self, remote: Remote, now: Instant, out: &mut Vec<Outcome>) {
        let empty = remote.length == 0 && remote.fork == 0 && self.core.head().length == 0;
        let asked = |open: &Open| open.manifest && now < open.sent + UPGRADE_WITHIN;
        if !empty
            || !remote.has_manifest
            || !self.core.lacks_manifest()
            || self.open.values().any(asked)
        {
            return;
        }
        let id = self.number(Open { manifest: true, ..Open::of_length(remote.fork, now) }, out);
        let request = alpha::Request { id, manifest: true, ..alpha::Request::default() };
        out.push(Outcome::Send(alpha::Message::Request(request)));
    }

    /// Asks for the peer's length if that is greater than ours, or of a later fork.
    fn upgrade(&mut self, now: Instant, out: &mut Vec<Outcome>) {
        let head = self.core.head();
        let Some(remote) = self.remote.filter(|remote| remote.uploading) else { return };
        self.ask_manifest(remote, now, out);
        let start = match remote.fork.cmp(&head.fork) {
            std::cmp::Ordering::Less => return,
            std::cmp::Ordering::Equal => head.length,
            std::cmp::Ordering::Greater => 0,
        };
        let asked = |open: &Open| {
            open.upgrade && open.fork == remote.fork && now < open.sent + UPGRADE_WITHIN
        };
        let Some(length) = remote.length.checked_sub(start).filter(|length| *length > 0) else {
            return;
        };
        if self.open.values().any(asked) || self.core.writable() {
            return;
        }
        let fork = remote.fork;
        let open = Open { upgrade: true, ..Open::of_length(fork, now) };
        let request = alpha::Request {
            id: self.number(open, out),
            fork,
            upgrade: Some(alpha::RequestedUpgrade { start, length }),
            manifest: self.core.lacks_manifest() && remote.has_manifest,
            ..alpha::Request::default()
        };
        out.push(Outcome::Send(alpha::Message::Request(request)));
    }

    /// The part of the peer's history that has to be ours as well: both forks are the same, and neither is empty.
    fn common_history(&self) -> Option<(u64, Upgrade)> {
        let head = self.core.announced_head();
        let remote = self.remote.filter(|remote| remote.fork == head.fork)?;
        let length = remote.length.min(head.length);
        (length > 0).then_some((head.fork, Upgrade { start: 0, length }))
    }

    /// Asks the peer to prove its history from the first block on, to see whether it is ours.
    pub(crate) fn ask_for_history(&mut self) -> Vec<Outcome> {
        let asked = self.common_history().map(|(fork, Upgrade { start, length })| {
            Outcome::Send(alpha::Message::Request(alpha::Request {
                id: CONFLICT,
                fork,
                upgrade: Some(alpha::RequestedUpgrade { start, length }),
                ..alpha::Request::default()
            }))
        });
        asked.into_iter().collect()
    }

    /// Proves our history to the peer, once: another peer has a second one, so both see that there are two.
    pub(crate) fn prove_history(&mut self) -> Vec<Outcome> {
        let Some((_, upgrade)) = self.common_history().filter(|_| !self.proved) else {
            return Vec::new();
        };
        self.proved = true;
        let asked = ProofRequest { upgrade: Some(upgrade), ..ProofRequest::default() };
        match self.core.prove_requested(&asked) {
            Ok(proof) => vec![Outcome::Send(alpha::Message::Data(data(CONFLICT, proof)))],
            Err(unproven) => {
                log::debug!("core {}: no proof: {unproven:?}", self.core.discovery_key());
                Vec::new()
            }
        }
    }

    /// A proof of the peer's history, asked for or not, which builds on nothing of ours.
    fn history_proved(&mut self, data: alpha::Data, out: &mut Vec<Outcome>) {
        self.histories += 1;
        let proof = ReceivedProof::Modern(Box::new(received(NO_BLOCK, None, data)));
        out.push(Outcome::Event(Event::Upgraded { peer: self.peer, proof }));
    }

    /// What a message of the peer means. Requests, Cancels and Wants are answered elsewhere.
    pub(crate) fn hear(&mut self, message: alpha::Message, now: Instant) -> Vec<Outcome> {
        let mut out = Vec::new();
        match message {
            alpha::Message::Sync(sync) => self.synced(sync, now, &mut out),
            alpha::Message::Range { drop, start, length } => {
                self.note_end(start.saturating_add(length));
                out.push(self.hear_message(match drop {
                    true => Message::Unhave { start, length },
                    false => Message::Have { start, length, bitfield: None, ack: false },
                }));
            }
            alpha::Message::Bitfield { start, words } => {
                self.note_end(start);
                let bits: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
                let bits: Vec<u8> = bits.iter().map(|byte| byte.reverse_bits()).collect();
                let length = words.len() as u64 * 32;
                // The peer's older message about more blocks would be forgotten by a smaller one.
                for (at, piece) in (0..).zip(bits.chunks(run_length::MAX_UNFOLDED)) {
                    let start = start + at * run_length::MAX_UNFOLDED as u64 * 8;
                    let length = length.min(piece.len() as u64 * 8);
                    let bitfield = Some(run_length::encode(piece).freeze());
                    let have = Message::Have { start, length, bitfield, ack: false };
                    out.push(self.hear_message(have));
                }
            }
            alpha::Message::Data(data) => self.answered(data, now, &mut out),
            alpha::Message::Extension { name, payload } => {
                out.push(self.hear_message(Message::Extension { name, payload }));
            }
            alpha::Message::NoData { request, .. } => {
                if let Some(open) = self.close(request) {
                    self.not_answered(open, &mut out);
                    self.release(request, &mut out);
                }
            }
            _ => {}
        }
        out
    }

    /// Notes that the peer tells of blocks up to `end`.
    fn note_end(&mut self, end: u64) {
        if end > self.remote.map_or(0, |remote| remote.length) {
            self.beyond = self.beyond.saturating_add(1);
        }
    }

    fn synced(&mut self, sync: alpha::Sync, now: Instant, out: &mut Vec<Outcome>) {
        let alpha::Sync { uploading, has_manifest, fork, length, .. } = sync;
        let before = self.remote.replace(Remote { fork, length, uploading, has_manifest });
        if before.is_some_and(|before| (fork, length) < (before.fork, before.length)) {
            self.backward += 1;
        } else if before.is_none_or(|before| (fork, length) != (before.fork, before.length)) {
            self.beyond = 0;
        }
        if before.map_or(0, |before| before.fork) != fork {
            out.push(Outcome::Event(Event::Announced { peer: self.peer, fork }));
        }
        if before.is_none_or(|before| before.uploading != uploading) {
            out.push(self.hear_message(Message::Status { uploading, downloading: true }));
        }
        let told = self.told;
        let answer = self.sync();
        if told != self.told {
            out.push(Outcome::Send(answer));
        }
        self.send_waiting(now, out);
        // What is beyond the length that the peer says it has will not be answered.
        let unreachable: Vec<u64> = match fork >= self.core.head().fork {
            true => Vec::new(),
            false => self.waiting.drain(..).map(|wanted| wanted.index).collect(),
        };
        for index in unreachable {
            self.refuse(index, out);
        }
        self.upgrade(now, out);
    }

    /// What was asked for under a fork that is over is asked for again; else the peer does not have it.
    fn not_answered(&mut self, open: Open, out: &mut Vec<Outcome>) {
        let Some(wanted) = open.wanted else { return };
        let now = self.remote.map_or(0, |remote| remote.fork).max(self.core.head().fork);
        if now > open.fork && self.waiting.len() < MAX_WAITING {
            self.waiting.push_back(wanted);
        } else {
            self.refuse(wanted.index, out);
        }
    }

    fn answered(&mut self, data: alpha::Data, now: Instant, out: &mut Vec<Outcome>) {
        let stands_alone = data.upgrade.as_ref().is_some_and(|upgrade| upgrade.start == 0)
            && data.block.is_none()
            && data.hash.is_none()
            && data.seek.is_none();
        if data.request == CONFLICT && stands_alone && self.histories < MAX_HISTORIES {
            return self.history_proved(data, out);
        }
        let (id, bytes) = (data.request, data.block.as_ref().map_or(0, |block| block.value.len()));
        let Some(open) = self.close(id) else {
            self.unasked = self.unasked.saturating_add(bytes);
            out.push(Outcome::Event(Event::Unrequested { peer: self.peer }));
            return;
        };
        if open.manifest {
            let manifest = data.manifest.filter(|bytes| !self.core.take_manifest(bytes.clone()));
            if manifest.is_some() {
                out.push(Outcome::Event(Event::Unrequested { peer: self.peer }));
            }
            return;
        }
        let comes_early = |id: &u64| self.is_awaited(*id, now) || self.held_back.has(*id);
        let answer = match open.needs.filter(comes_early) {
            Some(needs) => self.held_back.hold(id, needs, bytes, (open, data)),
            None => Some((open, data)),
        };
        if let Some((open, data)) = answer {
            self.judge(open, data, out);
            self.release(id, out);
        }
    }

    /// Has the core judge an answer, if it is one.
    fn judge(&mut self, open: Open, data: alpha::Data, out: &mut Vec<Outcome>) {
        let came = data.block.is_some() || data.hash.is_some() || data.seek.is_some();
        let lacks = open.wanted.is_some() && !came || open.value && data.block.is_none();
        if data.fork != open.fork || lacks {
            return self.not_answered(open, out);
        }
        if open.wanted.is_none() && data.upgrade.is_none() {
            return;
        }
        let asked = open.wanted.map_or(NO_BLOCK, |wanted| wanted.index);
        let proof = ReceivedProof::Modern(Box::new(received(asked, open.under, data)));
        out.push(Outcome::Event(match open.wanted {
            Some(_) => Event::Answered { peer: self.peer, proof },
            None => Event::Upgraded { peer: self.peer, proof },
        }));
    }
}

/// How many parents the root over `block` of a tree of `length` blocks is above the leaf.
fn steps_to_root(block: u64, length: u64) -> Option<u64> {
    let root = flat_tree::full_roots(length).find(|root| flat_tree::blocks(*root).contains(&block));
    root.map(|root| flat_tree::depth(root).into())
}

/// The answer to a request for block `asked`, as the core takes it.
fn received(asked: u64, under: Option<u64>, data: alpha::Data) -> Received {
    let alpha::Data { fork, block, hash, seek, upgrade, manifest, .. } = data;
    let block =
        block.map(|part| BlockPart { block: part.index, value: part.value, nodes: part.nodes });
    let hash = hash.map(|part| HashPart { index: part.index, nodes: part.nodes });
    let seek = seek.map(|part| SeekPart { bytes: part.bytes, nodes: part.nodes });
    let upgrade = upgrade.map(|part| UpgradePart {
        start: part.start,
        length: part.length,
        nodes: part.nodes,
        additional: part.additional_nodes,
        signature: Signature::from(&part.signature[..]),
    });
    Received::new(asked, under, manifest, ProofParts { fork, block, hash, seek, upgrade })
}
