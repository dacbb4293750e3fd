//! That what a peer holds and what we hold are one history. A publisher that restored a backup and
//! appended again has signed two with one key, and proofs of both verify.
//!
//! *A longer version than ours*: a proof of any block of it proves that version. Only a proof that
//! passes by our roots proves both, and that of the first block after ours always does. So the peer is
//! asked for that one, without the block's bytes. From a peer that cannot show it nothing beyond our
//! length is taken.
//!
//! *A shorter version than ours*: its roots are nodes of our tree, but perhaps of a part that is not
//! here. A proof of the first block after it, under our roots, passes by all of them: another peer is
//! asked for that one, the *bridge*. Until it has come, the peer's blocks wait; then they lead to nodes
//! that are known here, or contradict them, which is a fork.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use tokio::time::Instant;

use super::peer::{InFlight, MAX_BAD_LENGTHS, MAX_UNCONNECTED, PeerId, Purpose};
use super::{Action, Replicator, View};
use crate::hypercore::{Accepted, Head, Rejected, flat_tree};
use crate::wire::message::Message;

/// Shorter versions waiting to be connected with ours at once. A drive's peers are rarely of more than
/// a few versions; blocks of further ones count as not there.
pub(super) const MAX_BRIDGES: usize = 64;

/// A shorter version that is not yet shown to be part of ours.
#[derive(Debug, Default)]
struct Bridge {
    asked: Option<PeerId>,
    /// Peers that could not prove it.
    failed: BTreeSet<PeerId>,
    /// What peers of that version sent, to be asked for again.
    waiting: BTreeSet<(PeerId, u64)>,
}

/// By the length of the shorter version, which is also the block to be proven.
///
/// INVARIANT: at most [`MAX_BRIDGES`], each with something waiting.
#[derive(Debug, Default)]
pub(super) struct Bridges(BTreeMap<u64, Bridge>);

impl Bridges {
    /// False if it cannot wait.
    fn wait(&mut self, length: u64, peer: PeerId, block: u64) -> bool {
        if self.0.len() >= MAX_BRIDGES && !self.0.contains_key(&length) {
            return false;
        }
        self.0.entry(length).or_default().waiting.insert((peer, block));
        true
    }

    pub(super) fn refused(&mut self, length: u64, peer: PeerId) {
        if let Some(bridge) = self.0.get_mut(&length) {
            bridge.failed.insert(peer);
            if bridge.asked == Some(peer) {
                bridge.asked = None;
            }
        }
    }

    /// The peer has left: neither is it asked, nor do blocks of it wait.
    pub(super) fn left(&mut self, peer: PeerId) {
        self.0.retain(|_, bridge| {
            bridge.waiting.retain(|(waiting, _)| *waiting != peer);
            bridge.failed.remove(&peer);
            if bridge.asked == Some(peer) {
                bridge.asked = None;
            }
            !bridge.waiting.is_empty()
        });
    }

    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        self.0.len()
    }
}

impl<V: View> Replicator<V> {
    /// `block`, which the peer sent, is of a version that has not been shown to continue our `from`
    /// blocks: has the peer show it, and asks for the block again afterwards.
    pub(super) fn ask_for_continuity(&mut self, id: PeerId, from: u64, block: u64, now: Instant) {
        let Some(peer) = self.peers.get_mut(&id) else { return self.wants.released(block, id) };
        if peer.unconnected.len() >= MAX_UNCONNECTED {
            self.wants.released(block, id);
        } else {
            peer.unconnected.insert(block);
        }
        if peer.showing.is_some() {
            return;
        }
        // The proof of any block beside our last root passes by all our roots.
        let beside = flat_tree::full_roots(from).last().map(flat_tree::sibling);
        let offered = beside.map(flat_tree::blocks).and_then(|blocks| peer.blocks.first_in(blocks));
        let asked = offered.unwrap_or(from);
        peer.showing = Some(asked);
        if peer.still_owes(asked) || self.judging.contains_key(&(id, asked)) {
            // That block itself is under way, and shows it as well.
            return;
        }
        let request = InFlight {
            sent: now,
            order: 0,
            expected: 0,
            cancelled: false,
            full_proof: peer.stands_alone(0),
            purpose: Purpose::Continuity,
            again: false,
        };
        peer.asked(asked, request);
        self.send(id, Message::Request { index: asked, bytes: 0, hash: true, nodes: 0 });
    }

    /// The peer showed it, or could not.
    pub(super) fn continuity_answered(&mut self, id: PeerId, shown: bool) {
        let length = self.core.head().length;
        let Some(peer) = self.peers.get_mut(&id) else { return };
        peer.showing = None;
        let waiting = std::mem::take(&mut peer.unconnected);
        if !shown && waiting.last().is_some_and(|block| *block >= length) {
            peer.discontinued = Some(length);
            let name = peer.name.clone();
            self.trouble(format!(
                "peer {name} tells of a longer version, and cannot show that it continues the version \
                 known here (length {length})"
            ));
        }
        for block in waiting {
            self.wants.released(block, id);
        }
        self.unscheduled = true;
    }

    /// What came of the request that was to show continuity, if this was it. Of the block itself, which was
    /// under way already, a bad answer shows nothing: what waits is asked for again, and the next time the
    /// peer is asked to show it.
    pub(super) fn continuity_judged(
        &mut self,
        id: PeerId,
        block: u64,
        purpose: Purpose,
        verdict: &Result<Accepted, Rejected>,
    ) {
        let showing = self.peers.get_mut(&id).filter(|peer| peer.showing == Some(block));
        match (showing, verdict) {
            (_, verdict) if purpose == Purpose::Continuity => {
                let longer = verdict.as_ref().is_ok_and(|accepted| accepted.head.is_some());
                self.continuity_answered(id, longer);
            }
            // It waits with the others, see `ask_for_continuity`.
            (Some(peer), Err(Rejected::Unconnected { ours, signed }))
                if purpose == Purpose::Block && signed > ours =>
            {
                peer.showing = None;
            }
            (Some(_), _) => self.continuity_answered(id, true),
            (None, _) => {}
        }
    }

    /// Our head has moved: what could not be shown to continue the old one may continue the new one.
    pub(super) fn grown(&mut self, head: Option<Head>) {
        let Some(head) = head else { return };
        self.actions.push_back(Action::Grown);
        // The first proof tells how small the blocks of an index are: without that a window would hold a handful
        // of them, and a listing would take a round trip for each few.
        self.average_bytes = (head.byte_length / head.length.max(1)).max(1);
        for peer in self.peers.values_mut() {
            if peer.discontinued.take_if(|length| *length < head.length).is_some() {
                peer.unexamined = peer.blocks.clone();
                self.unscheduled = true;
            }
        }
    }

    /// `block`, which the peer sent, is of a version of `length` blocks that is not shown to be part of
    /// ours: waits for a bridge.
    pub(super) fn ask_for_bridge(&mut self, id: PeerId, length: u64, block: u64) {
        self.wants.failed(block, id);
        self.unscheduled = true;
        let Some(peer) = self.peers.get_mut(&id) else { return };
        if peer.withheld.len() < MAX_UNCONNECTED && self.bridges.wait(length, id, block) {
            peer.withheld.insert(block);
        } else {
            peer.disclaims(block..block.saturating_add(1));
        }
        let name = peer.name.clone();
        self.trouble(format!(
            "peer {name} has an older version (length {length}), and no connected peer shows that it is \
             part of the version known here (length {})",
            self.core.head().length
        ));
    }

    /// Asks a peer for each bridge that no peer has been asked for.
    pub(super) fn build_bridges(&mut self, now: Instant) {
        let mut requests = Vec::new();
        for (length, bridge) in
            self.bridges.0.iter_mut().filter(|(_, bridge)| bridge.asked.is_none())
        {
            let fit = self.peers.iter_mut().find(|(id, peer)| {
                peer.offers(*length)
                    && !bridge.failed.contains(id)
                    && !peer.owes(*length)
                    && !bridge.waiting.iter().any(|(waiting, _)| waiting == *id)
            });
            let Some((id, peer)) = fit else { continue };
            let request = InFlight {
                sent: now,
                order: 0,
                expected: 0,
                cancelled: false,
                full_proof: peer.stands_alone(0),
                purpose: Purpose::Bridge,
                again: false,
            };
            peer.asked(*length, request);
            bridge.asked = Some(*id);
            requests.push((*id, *length));
        }
        for (id, length) in requests {
            self.send(id, Message::Request { index: length, bytes: 0, hash: true, nodes: 0 });
        }
    }

    /// A bridge has come: what waited for it is asked for again. Or it is asked of the next peer.
    pub(super) fn bridge_answered(&mut self, id: PeerId, length: u64, built: bool) {
        if !built {
            return self.bridges.refused(length, id);
        }
        let Some(bridge) = self.bridges.0.remove(&length) else { return };
        for (waiting, block) in bridge.waiting {
            if let Some(peer) = self.peers.get_mut(&waiting) {
                peer.withheld.remove(&block);
            }
            self.wants.unpark(block);
        }
        self.unscheduled = true;
    }

    /// A peer tells of blocks that may show what could not be shown before.
    pub(super) fn reconsider(&mut self, id: PeerId, told: &Range<u64>) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        if peer.discontinued.take_if(|length| told.contains(length)).is_some() {
            peer.unexamined = peer.blocks.clone();
            self.unscheduled = true;
        }
        for (_, bridge) in self.bridges.0.range_mut(told.clone()) {
            bridge.failed.remove(&id);
        }
    }

    /// What does not verify here may verify under another history of the author. The proof of that from the first
    /// block on builds on nothing of ours, so it tells a fork from a lie. Asked for once; false if it was before, or
    /// if there is nothing here to compare with.
    fn ask_for_history(&mut self, id: PeerId) -> bool {
        if self.core.head().length == 0 {
            return false;
        }
        let Some(peer) = self.peers.get_mut(&id) else { return false };
        let asks = !std::mem::replace(&mut peer.asked_for_history, true);
        if asks {
            self.actions.push_back(Action::AskForHistory { peer: id });
        }
        asks
    }

    /// A proof does not verify. If it built on nodes we hold, it may be of another history, and the peer
    /// innocent: it is asked once more, for a proof that stands alone. Otherwise the bad proof
    /// costs this block at this peer, and a strike.
    pub(super) fn misproved(
        &mut self,
        id: PeerId,
        (block, size): (u64, u64),
        request: Option<InFlight>,
        reason: &str,
        now: Instant,
    ) {
        let purpose = request.map_or(Purpose::Block, |request| request.purpose);
        let alone = request.is_none_or(|request| request.full_proof);
        let asks = self.ask_for_history(id);
        if purpose == Purpose::Length {
            let reason = format!("sent a length that does not verify: {reason}");
            let Some(peer) = self.peers.get_mut(&id) else { return };
            peer.bad_lengths += 1;
            // Several proofs of its length may be on their way before its history is.
            if !asks && (peer.bad_lengths > MAX_BAD_LENGTHS || !peer.asked_for_history) {
                return self.disconnect(id, reason, true);
            }
            let name = self.peers.get(&id).map_or("?", |peer| peer.name.as_str());
            return self.trouble(format!("peer {name} {reason}"));
        }
        if purpose != Purpose::Block && !alone {
            // What was told to the peer on this connection it leaves out of all proofs. The next
            // connection brings one that stands alone.
            self.distrusted.insert(block, now);
            let reason = format!("its proof of block {block} does not fit what is here: {reason}");
            return self.disconnect(id, reason, false);
        }
        let wanted = self.wants.get(block).is_some();
        self.unscheduled = true;
        if !alone && wanted && self.distrusted.insert(block, now) {
            let core = self.core.discovery_key();
            log::debug!(
                "core {core}: block {block} is requested with a proof that stands alone: {reason}"
            );
            return self.wants.released(block, id);
        }
        self.wants.failed(block, id);
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let name = peer.name.clone();
        let sent = request.map_or(now, |request| request.sent);
        if peer.strike(block, size, sent, now) {
            let reason = format!("sent too many bad proofs, the last for block {block}: {reason}");
            self.disconnect(id, reason, alone);
        } else {
            let core = self.core.discovery_key();
            log::info!("core {core}: peer {name} sent a bad proof for block {block}: {reason}");
            self.trouble(format!("peer {name} sent a bad proof for block {block}: {reason}"));
        }
    }
}
