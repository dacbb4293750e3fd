//! Which block from which peer next: one [`Replicator`] per core.
//!
//! A pure state machine: events and the time go in, actions come out. It does no I/O and has no
//! clock. Of its core it has a [`View`], which answers from memory and changes nothing; what takes a
//! file comes with the verdict on a proof, and what changes the demand goes out as an action. It is
//! driven by `sharing/replication.rs` or by a simulation. Answering the peers' requests is not here
//! (`replicate/upload.rs`): serving needs no memory beyond its connection.

mod continuity;
mod distrust;
mod exchange;
#[cfg(test)]
mod exchange_tests;
mod expected;
mod hinting;
mod histories;
#[cfg(test)]
mod late_tests;
#[cfg(test)]
mod limit_tests;
mod offers;
mod peer;
mod remote_blocks;
mod schedule;
#[cfg(test)]
mod simulation_tests;
mod skips;
mod upload;
mod upload_modern;
mod view;
mod wants;

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;

use tokio::time::Instant;

use exchange::NO_BLOCK;
pub(crate) use exchange::{Exchange, Outcome};
pub(crate) use peer::PeerId;
pub use upload::Upload;
pub(crate) use upload_modern::ModernUpload;
pub(crate) use view::{ForDemand, Learnt, Question, Submitted, View, judge};

use crate::error::Error;
use crate::hypercore::demand::{Change, PeerSummary};
use crate::hypercore::{Accepted, Core, Proof, ReceivedProof, Rejected};
use crate::wire::message::Message;
use continuity::Bridges;
use distrust::Distrusted;
use hinting::is_of_index;
use hypermount_swarm::rate::{Bucket, RateLimit};
use peer::{
    BITFIELDS_PER_WANT, InFlight, MAX_REFUSED, MAX_UNSOLICITED, MAX_WANTED_REGIONS, Peer, Purpose,
};
use skips::Skips;
use wants::Wants;

/// Wants come in regions of this many blocks, aligned (wire8.md §9).
pub(crate) const REGION_BLOCKS: u64 = 1 << 20;
/// Expected size of a block before any has been seen.
const UNKNOWN_BLOCK_BYTES: u64 = 64 * 1024;
/// Bytes of an index up to which what lies in a directory is asked for with the lookup of it. In a larger
/// one proofs are long and directories large, and one lookup must stay cheap.
const NEAR_INDEX_BYTES: u64 = 8 * 1024 * 1024;

/// What happens to a replicator.
#[derive(Debug)]
pub(crate) enum Event {
    /// Both sides opened the core on a connection; `name` is for logs.
    Opened {
        peer: PeerId,
        name: String,
    },
    Closed {
        peer: PeerId,
    },
    Extensions {
        peer: PeerId,
        names: Vec<String>,
    },
    /// The peer sent a Want: it wants to hear of new blocks.
    Subscribed {
        peer: PeerId,
    },
    /// Have, Unhave, Status, Data or an extension message.
    Received {
        peer: PeerId,
        message: Message,
    },
    /// A proof that answers a request.
    Answered {
        peer: PeerId,
        proof: ReceivedProof,
    },
    /// A proof of a greater length, or of a later fork, that the connection requested by itself.
    Upgraded {
        peer: PeerId,
        proof: ReceivedProof,
    },
    /// The peer says that its core is of this fork.
    Announced {
        peer: PeerId,
        fork: u64,
    },
    /// Data that was not requested.
    Unrequested {
        peer: PeerId,
    },
    /// The core grew by local appends.
    Appended {
        start: u64,
        length: u64,
    },
    Cleared {
        start: u64,
        length: u64,
    },
    /// What the core said of a proof.
    Judged {
        peer: PeerId,
        block: u64,
        size: u64,
        verdict: Result<Accepted, Rejected>,
        /// The answers to the question that came with the proof.
        learnt: Learnt,
    },
    /// A connection attempt failed, and why.
    Unreachable {
        trouble: String,
    },
    /// How many bytes of blocks per second may be requested from now on.
    Limited {
        limit: RateLimit,
    },
    /// Time has passed, see [`Replicator::next_check`].
    Tick,
}

/// What a replicator wants done, in order.
#[derive(Debug)]
pub(crate) enum Action {
    Send {
        peer: PeerId,
        message: Message,
    },
    /// Have the core verify and store this; report with [`Event::Judged`], see [`judge`].
    Accept(Submitted),
    /// Tell the demand of the core.
    Demand(ForDemand),
    /// Tell the peers of protocols that announce it that the head has moved.
    Grown,
    /// Ask the peer to prove its history from the first block on, see [`Replicator::ask_for_history`].
    AskForHistory {
        peer: PeerId,
    },
    /// Prove our history to all peers: there is a second one, signed by the same author.
    ProveHistory,
    /// End the connection; `lied` if what it sent did not verify.
    Disconnect {
        peer: PeerId,
        reason: String,
        lied: bool,
    },
}

/// See the module documentation.
pub(crate) struct Replicator<V = Core> {
    core: V,
    peers: BTreeMap<PeerId, Peer>,
    wants: Wants,
    seeks: BTreeMap<u64, Seek>,
    /// A caller waits for a head longer than this.
    upgrade: Option<u64>,
    /// Blocks wanted for that only, because peers tell of no newer ones.
    newest: std::collections::BTreeSet<u64>,
    /// Something has changed that may let a queued block be asked for.
    unscheduled: bool,
    /// How much passes over the queue have skipped lately.
    skips: Skips,
    /// Peers that were not asked about regions yet.
    new_peers: Vec<PeerId>,
    /// Blocks that could not be stored, and when to ask for them again.
    put_off: VecDeque<(Instant, u64)>,
    /// Proofs handed to the core and not yet judged: the request each answers, and the byte it
    /// sought.
    judging: BTreeMap<(PeerId, u64), (InFlight, Option<u64>)>,
    /// Blocks of which a proof that built on our own nodes did not verify.
    distrusted: Distrusted,
    average_bytes: u64,
    last_trouble: Option<String>,
    /// A peer holds another history, and nothing has come from others since.
    fork: Option<String>,
    summary_stale: bool,
    /// When the next peer may have stalled.
    due: Option<Instant>,
    /// How fast blocks may be asked for.
    pace: Bucket,
    /// Peers were told that we write this core and download nothing of it.
    watching: bool,
    /// Shorter versions that are not yet shown to be part of ours.
    bridges: Bridges,
    actions: VecDeque<Action>,
}

struct Seek {
    blocks: Range<u64>,
    guess: u64,
    asked: Option<PeerId>,
    failed: std::collections::BTreeSet<PeerId>,
}

impl<V: View> Replicator<V> {
    pub(crate) fn new(core: V, now: Instant) -> Self {
        let head = core.head();
        let average = head.byte_length.checked_div(head.length);
        Self {
            core,
            peers: BTreeMap::new(),
            wants: Wants::default(),
            seeks: BTreeMap::new(),
            upgrade: None,
            newest: Default::default(),
            unscheduled: true,
            skips: Skips::new(now),
            new_peers: Vec::new(),
            put_off: VecDeque::new(),
            judging: BTreeMap::new(),
            distrusted: Default::default(),
            average_bytes: average.unwrap_or(UNKNOWN_BLOCK_BYTES).max(1),
            last_trouble: None,
            fork: None,
            summary_stale: true,
            due: None,
            pace: Bucket::new(None, now),
            watching: false,
            bridges: Bridges::default(),
            actions: VecDeque::new(),
        }
    }

    /// Handles one event; what is to be done is then in [`Replicator::next_action`].
    pub(crate) fn step(&mut self, event: Event, now: Instant) {
        // What peers say otherwise is looked at for what it changes (`offers.rs`).
        self.unscheduled |= match &event {
            Event::Received { message, .. } => matches!(message, Message::Data { .. }),
            Event::Answered { .. } => true,
            Event::Judged { .. } | Event::Limited { .. } | Event::Tick => true,
            _ => false,
        };
        match event {
            Event::Opened { peer, name } => self.opened(peer, name, now),
            Event::Closed { peer } => self.closed(peer),
            Event::Extensions { peer, names } => self.extensions(peer, &names),
            Event::Subscribed { peer } => {
                if let Some(peer) = self.peers.get_mut(&peer) {
                    peer.subscribed = true;
                }
            }
            Event::Received { peer, message } => self.received(peer, message, now),
            Event::Answered { peer, proof } => self.data(peer, proof, now),
            Event::Upgraded { peer, proof } => self.upgraded(peer, proof, now),
            Event::Announced { peer, fork } => self.announced(peer, fork),
            Event::Unrequested { peer } => self.unrequested(peer),
            Event::Appended { start, length } => {
                self.announce(None, start, length);
                self.actions.push_back(Action::Grown);
            }
            Event::Cleared { start, length } => {
                self.tell(None, |_| Message::Unhave { start, length });
            }
            Event::Judged { peer, block, size, verdict, learnt } => {
                self.judged(peer, (block, size), verdict, learnt, now);
            }
            Event::Unreachable { trouble } => self.trouble(trouble),
            Event::Limited { limit } => self.pace = Bucket::new(limit, now),
            Event::Tick => self.check_stalls(now),
        }
        self.settle(now);
    }

    /// Handles changes of demand, oldest first.
    pub(crate) fn demand(&mut self, changes: Vec<Change>, now: Instant) {
        self.unscheduled = true;
        for change in changes {
            self.demanded(change, now);
        }
        self.settle(now);
    }

    fn settle(&mut self, now: Instant) {
        // Events that keep coming must not delay the check for stalled peers.
        if self.due.is_some_and(|due| due <= now) {
            self.check_stalls(now);
        }
        self.compare_histories(now);
        self.build_bridges(now);
        let examined = self.examine(now);
        let is_due = self.skips.is_due(now);
        if std::mem::take(&mut self.unscheduled) || is_due {
            self.schedule(now);
        }
        self.ask_about_regions();
        if std::mem::take(&mut self.summary_stale) {
            self.publish_summary();
        }
        let comparison = self.next_comparison(now);
        let paced = if self.wants.is_queued() { self.pace.ready_at(now) } else { None };
        self.due = self
            .peers
            .values()
            .filter_map(|peer| peer.next_check(now))
            .chain(comparison)
            .chain(paced)
            .chain(self.skips.next_pass)
            .chain(examined)
            .min();
    }

    pub(crate) fn next_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When a [`Event::Tick`] is next due.
    pub(crate) fn next_check(&self) -> Option<Instant> {
        self.due
    }

    /// Length of the longest log any peer has told of, and how many peers hold how much of ours.
    pub(crate) fn holdings(&self) -> Vec<(PeerId, u64)> {
        let length = self.core.head().length;
        self.peers.iter().map(|(id, peer)| (*id, peer.blocks.count_below(length))).collect()
    }

    /// Asks the peers that are not known to hold everything what they hold by now: a peer that got a
    /// block from us does not announce it to us.
    pub(crate) fn ask_what_is_held(&mut self) {
        let length = self.core.head().length;
        let regions = length.div_ceil(REGION_BLOCKS).min(MAX_WANTED_REGIONS as u64);
        let lacking =
            self.peers.iter().filter(|(_, peer)| peer.blocks.count_below(length) < length);
        let lacking: Vec<PeerId> = lacking.map(|(id, _)| *id).collect();
        for id in lacking {
            for region in 0..regions {
                let (start, length) = (region * REGION_BLOCKS, REGION_BLOCKS);
                self.send(id, Message::Want { start, length });
            }
        }
    }

    fn send(&mut self, peer: PeerId, message: Message) {
        if matches!(message, Message::Want { .. })
            && let Some(peer) = self.peers.get_mut(&peer)
        {
            peer.bitfields_allowed += BITFIELDS_PER_WANT;
        }
        self.actions.push_back(Action::Send { peer, message });
    }

    fn opened(&mut self, id: PeerId, name: String, now: Instant) {
        let mut peer = Peer::new(name, now);
        if self.core.is_written() {
            self.send(id, Message::Status { uploading: true, downloading: false });
            self.watching = true;
        }
        // Of a core we write nothing is wanted, but to hear what others have (`histories.rs`).
        peer.regions.insert(0);
        self.send(id, Message::Want { start: 0, length: REGION_BLOCKS });
        self.peers.insert(id, peer);
        self.new_peers.push(id);
        self.summary_stale = true;
    }

    fn closed(&mut self, id: PeerId) {
        let Some(peer) = self.peers.remove(&id) else { return };
        self.wants.forgive(id);
        for block in peer.owed(0..u64::MAX).chain(peer.unconnected.iter().copied()) {
            self.wants.released(block, id);
        }
        self.unscheduled |= !peer.blocks.is_empty() || peer.is_owing();
        self.want_newest();
        for seek in self.seeks.values_mut() {
            seek.failed.remove(&id);
            if seek.asked == Some(id) {
                seek.asked = None;
            }
        }
        self.bridges.left(id);
        self.summary_stale = true;
    }

    fn extensions(&mut self, id: PeerId, names: &[String]) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        peer.takes_hints = names.iter().any(|name| is_of_index(name));
    }

    fn received(&mut self, id: PeerId, message: Message, now: Instant) {
        match message {
            Message::Have { start, length, bitfield, .. } => {
                self.have(id, start, length, bitfield, now);
            }
            Message::Unhave { start, length } => {
                self.unhave(id, start..start.saturating_add(length));
            }
            Message::Status { uploading, .. } => self.status(id, uploading),
            Message::Data { index, value, nodes, signature } => {
                let proof = Proof { block: index, value, nodes, signature };
                self.data(id, proof.into(), now);
            }
            Message::Extension { name, payload } if is_of_index(&name) => {
                self.cache(id, &name, payload, now);
            }
            // The rest is answered by the connection (`upload.rs`) or means nothing to us.
            _ => {}
        }
    }

    /// The peer will not answer this request.
    fn refused(&mut self, id: PeerId, block: u64) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        peer.refused += 1;
        let showing = peer.showing == Some(block);
        match peer.withdraw(block).map(|request| request.purpose) {
            Some(Purpose::Continuity) => {}
            Some(Purpose::Bridge) => self.bridges.refused(block, id),
            _ => self.wants.failed(block, id),
        }
        if showing {
            self.continuity_answered(id, false);
        }
    }

    fn end_if_fickle(&mut self, id: PeerId) {
        if self.peers.get(&id).is_some_and(|peer| peer.refused > MAX_REFUSED) {
            self.disconnect(id, "does not give what it offers".into(), true);
        }
    }

    /// Not hashed, not kept. Late answers to cancelled requests are no offence.
    fn unrequested(&mut self, id: PeerId) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        peer.unsolicited += 1;
        if peer.unsolicited > MAX_UNSOLICITED {
            self.disconnect(id, "sent data that was not requested".into(), true);
        }
    }

    fn upgraded(&mut self, id: PeerId, proof: ReceivedProof, now: Instant) {
        if !self.peers.contains_key(&id) {
            return;
        }
        let request = InFlight {
            sent: now,
            order: 0,
            expected: 0,
            cancelled: false,
            full_proof: true,
            purpose: Purpose::Length,
            again: false,
        };
        self.judging.insert((id, proof.block()), (request, None));
        let question = Question::default();
        self.actions.push_back(Action::Accept(Submitted { peer: id, proof, question }));
    }

    fn data(&mut self, id: PeerId, proof: ReceivedProof, now: Instant) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let size = proof.value().map_or(0, |value| value.len() as u64);
        let cost = size.max(self.core.least_cost());
        let before = peer.is_near();
        let Some((request, sought)) = peer.answered(proof.block(), cost, now) else {
            return self.unrequested(id);
        };
        self.summary_stale |= before != peer.is_near();
        if std::mem::take(&mut peer.newly_late) {
            self.due = Some(now);
        }
        let blocks = |byte| self.seeks.get(&byte).map(|seek| (byte, seek.blocks.clone()));
        let question = Question {
            byte: sought.and_then(blocks),
            // A proof that ends at a node known before may leave out what was to be learnt.
            roots_at: (request.purpose == Purpose::Bridge).then_some(proof.block()),
        };
        self.judging.insert((id, proof.block()), (request, sought));
        self.actions.push_back(Action::Accept(Submitted { peer: id, proof, question }));
    }

    fn judged(
        &mut self,
        id: PeerId,
        (block, size): (u64, u64),
        verdict: Result<Accepted, Rejected>,
        learnt: Learnt,
        now: Instant,
    ) {
        let (request, sought) = self.judging.remove(&(id, block)).unzip();
        let sought = sought.flatten();
        if let Some(byte) = sought {
            self.sought(id, byte, learnt.byte_located);
        }
        let purpose = match request {
            Some(request) => request.purpose,
            // A second proof of that kind came before the first one was judged.
            None if block == NO_BLOCK => Purpose::Length,
            None => Purpose::Block,
        };
        self.continuity_judged(id, block, purpose, &verdict);
        if purpose == Purpose::Bridge {
            self.bridge_answered(id, block, verdict.is_ok() && learnt.roots_known);
        }
        if verdict.is_ok() {
            self.distrusted.remove(block);
        }
        match verdict {
            Ok(_) | Err(Rejected::Storage(_)) if purpose == Purpose::Comparison => {
                // What waited for a longer head may go on.
                self.wants.unpark_all();
            }
            Ok(accepted) if purpose == Purpose::Length => {
                self.fork = None;
                self.summary_stale = true;
                self.grown(accepted.head);
                self.want_newest();
            }
            Ok(accepted) if purpose == Purpose::Continuity => {
                self.grown(accepted.head);
                self.want_newest();
            }
            Ok(_) if purpose == Purpose::Bridge => {}
            Ok(accepted) => self.accepted(id, (block, size), accepted, sought.is_some()),
            // What cannot connect itself cannot connect others.
            Err(Rejected::Unconnected { .. }) if purpose != Purpose::Block => {}
            Err(Rejected::Unconnected { ours, signed }) if signed < ours => {
                self.ask_for_bridge(id, signed, block);
            }
            Err(Rejected::Unconnected { ours, .. }) => {
                self.ask_for_continuity(id, ours, block, now)
            }
            // The author has truncated the core meanwhile.
            Err(Rejected::OtherFork { .. }) => self.wants.released(block, id),
            Err(Rejected::Invalid(reason)) => {
                self.misproved(id, (block, size), request, &reason, now);
            }
            Err(Rejected::Storage(Error::Corrupt { file, at, .. }))
                if self.core.forgets_nodes() =>
            {
                // The core has forgotten the damaged nodes, so each time there are fewer; a proof
                // that stands alone heals them.
                let core = self.core.discovery_key();
                log::warn!("core {core}: {file} is damaged at {at}, fetching it again");
                self.distrusted.insert(block, now);
                self.wants.released(block, id);
            }
            Err(fork @ Rejected::Forked { .. }) => {
                self.wants.failed(block, id);
                self.forked(id, &fork);
            }
            Err(Rejected::Storage(error)) => {
                log::error!(
                    "core {}: cannot store block {block}: {error}",
                    self.core.discovery_key()
                );
                self.trouble(format!("cannot store block {block}: {error}"));
                // Not put back at once: the disk will not be better in a microsecond.
                self.wants.failed(block, id);
                self.put_off(block, now);
            }
        }
    }

    /// The peer has proved another history. Peers are told of ours, so that those with the other one know too.
    fn forked(&mut self, id: PeerId, fork: &Rejected) {
        let reason = format!("holds another history (a fork): {fork}");
        // The reference closes the channel behind such a proof.
        let name = match self.peers.get(&id) {
            Some(peer) => peer.name.clone(),
            None => {
                log::warn!("core {}: a peer that has left {reason}", self.core.discovery_key());
                "that has left".to_owned()
            }
        };
        self.fork = Some(format!("peer {name} holds another history: {fork}"));
        self.summary_stale = true;
        self.actions.push_back(Action::ProveHistory);
        self.disconnect(id, reason, true);
    }

    /// What an answer is expected to cost, in bytes of the window.
    fn expected_cost(&self) -> u64 {
        self.average_bytes.max(self.core.least_cost())
    }

    /// `sought`: the block was not requested by its number, and its bytes need not come along.
    fn accepted(
        &mut self,
        id: PeerId,
        (block, size): (u64, u64),
        accepted: Accepted,
        sought: bool,
    ) {
        self.summary_stale |= self.fork.take().is_some();
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.proved(size);
        }
        self.average_bytes = ((self.average_bytes * 15 + size) / 16).max(1);
        if self.core.has(block) {
            for other in self.wants.forget(block) {
                if other != id {
                    self.cancel(other, block);
                }
            }
        } else if !sought {
            // It proved the block and kept its bytes to itself.
            if let Some(peer) = self.peers.get_mut(&id) {
                peer.disclaims(block..block.saturating_add(1));
            }
            self.wants.failed(block, id);
        }
        if accepted.stored {
            self.announce(Some(id), block, 1);
        }
        if accepted.head.is_some() {
            self.grown(accepted.head);
            self.want_newest();
        }
    }

    /// A seek has been answered; if the tree still does not tell, another peer is asked.
    fn sought(&mut self, id: PeerId, byte: u64, located: bool) {
        if located {
            self.seeks.remove(&byte);
        } else if let Some(seek) = self.seeks.get_mut(&byte) {
            seek.failed.insert(id);
            seek.asked = None;
        }
    }

    fn disconnect(&mut self, id: PeerId, reason: String, lied: bool) {
        if let Some(peer) = self.peers.get(&id) {
            self.trouble(format!("peer {} {reason}", peer.name));
        }
        self.closed(id);
        self.actions.push_back(Action::Disconnect { peer: id, reason, lied });
    }

    fn trouble(&mut self, what: String) {
        self.last_trouble = Some(what);
        self.summary_stale = true;
    }

    fn publish_summary(&mut self) {
        let fork = self.core.head().fork;
        let summary = PeerSummary {
            later_fork: self.peers.values().any(|peer| peer.uploading && peer.fork > fork),
            peers: self.peers.len(),
            last_trouble: self.last_trouble.clone(),
            fork: self.fork.clone(),
            remote_length: self.remote_length(),
            near: self.peers.values().any(Peer::is_near),
        };
        self.actions.push_back(Action::Demand(ForDemand::PeerSummary(summary)));
    }

    fn remote_length(&self) -> u64 {
        self.peers
            .values()
            .filter(|peer| peer.uploading)
            .map(|peer| peer.blocks.end())
            .max()
            .unwrap_or(0)
    }

    fn demanded(&mut self, change: Change, now: Instant) {
        match change {
            Change::Reset => {
                for block in self.wants.blocks() {
                    for peer in self.wants.forget(block) {
                        self.cancel(peer, block);
                    }
                }
                self.newest.clear();
                self.seeks.clear();
                self.distrusted.clear();
                self.upgrade = None;
            }
            Change::Wanted { block, urgency } => {
                self.newest.remove(&block);
                self.wants.want(block, urgency);
            }
            Change::Unwanted { block } => {
                self.distrusted.remove(block);
                for peer in self.wants.forget(block) {
                    self.cancel(peer, block);
                }
            }
            Change::Seek { byte, blocks, guess } => {
                let failed = Default::default();
                self.seeks.insert(byte, Seek { blocks, guess, asked: None, failed });
            }
            Change::Unseek { byte } => {
                self.seeks.remove(&byte);
            }
            Change::Hint(hint) => self.send_hint(&hint, now),
            Change::Upgrade { length } => {
                self.upgrade = Some(self.upgrade.map_or(length, |wanted| wanted.min(length)));
                self.want_newest();
            }
        }
    }

    fn cancel(&mut self, id: PeerId, block: u64) {
        // What shows continuity is still needed.
        if let Some(peer) = self.peers.get_mut(&id)
            && peer.showing != Some(block)
            && peer.cancel(block)
        {
            self.send(id, Message::Cancel { index: block, bytes: 0, hash: false });
        }
    }

    fn tell(&mut self, except: Option<PeerId>, message: impl Fn(&Peer) -> Message) {
        let messages: Vec<(PeerId, Message)> = self
            .peers
            .iter()
            .filter(|(id, peer)| peer.subscribed && Some(**id) != except)
            .map(|(id, peer)| (*id, message(peer)))
            .collect();
        for (id, message) in messages {
            self.send(id, message);
        }
    }

    fn announce(&mut self, except: Option<PeerId>, start: u64, length: u64) {
        self.tell(except, |_| Message::Have { start, length, bitfield: None, ack: false });
    }
}
