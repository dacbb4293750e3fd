//! Which peer is asked for which block, and what happens when it does not answer.

use std::ops::Range;

use tokio::time::Instant;

use super::peer::{InFlight, MAX_WANTED_REGIONS, Peer, PeerId, Purpose, SILENT_AFTER};
use super::{REGION_BLOCKS, Replicator, View};
use crate::hypercore::demand::Urgency;
use crate::wire::message::Message;

enum Choice {
    Ask(PeerId),
    /// A peer offers it, but has no room now.
    Busy,
    /// No other peer offers it.
    NoPeer,
}

impl<V: View> Replicator<V> {
    pub(super) fn check_stalls(&mut self, now: Instant) {
        let silent: Vec<PeerId> =
            self.peers.iter().filter(|(_, peer)| peer.is_silent(now)).map(|(id, _)| *id).collect();
        for id in silent {
            self.disconnect(id, format!("owed answers for {SILENT_AFTER:?}"), false);
        }
        self.give_up_overdue(now);
        let mut offers_more = false;
        for peer in self.peers.values_mut() {
            offers_more |= peer.claims_retried(now);
        }
        if offers_more {
            self.unscheduled = true;
            self.end_changed();
        }
        let mut retry = Vec::new();
        for (id, peer) in &self.peers {
            retry.extend(self.held_up_at(peer, 0..u64::MAX, now));
            if peer.is_stalled(now) {
                for seek in self.seeks.values_mut().filter(|seek| seek.asked == Some(*id)) {
                    seek.failed.insert(*id);
                    seek.asked = None;
                }
            }
        }
        for block in retry {
            self.wants.ask_again(block);
        }
        self.pass_over_late(now);
    }

    /// Blocks of `range` that were asked of this peer, and whose answers are held up at all peers that were
    /// asked for them: so each period of waiting brings one more peer at most.
    pub(super) fn held_up_at<'a>(
        &'a self,
        peer: &'a Peer,
        range: Range<u64>,
        now: Instant,
    ) -> impl Iterator<Item = u64> + 'a {
        let any = peer.is_stalled(now) || peer.late(now).next().is_some();
        let owed =
            any.then(|| peer.owed(range.clone()).chain(peer.unconnected.range(range).copied()));
        owed.into_iter().flatten().filter(move |block| self.is_held_up(*block, now))
    }

    /// Whether all peers that were asked for a block are stalled or, if a reader waits for it, late with it.
    fn is_held_up(&self, block: u64, now: Instant) -> bool {
        let Some(want) = self.wants.get(block) else { return false };
        let reader = want.urgency == Urgency::Reader;
        !want.asked.is_empty()
            && want
                .asked
                .iter()
                .filter_map(|id| self.peers.get(id))
                .all(|peer| peer.is_stalled(now) || (reader && peer.is_late_with(block, now)))
    }

    /// Bridges and seeks that a peer is late with are asked of another, if there is one.
    pub(super) fn pass_over_late(&mut self, now: Instant) {
        let (mut bridges, mut seeks) = (Vec::new(), Vec::new());
        for (id, peer) in &self.peers {
            let late = peer.late(now).filter(|(_, purpose)| *purpose == Purpose::Bridge);
            bridges.extend(late.map(|(length, _)| (length, *id)));
            seeks.extend(peer.late_seeks(now).map(|byte| (byte, *id)));
        }
        for (length, id) in bridges {
            self.bridges.refused(length, id);
        }
        for (byte, id) in seeks {
            let Some(seek) = self.seeks.get(&byte).filter(|seek| seek.asked == Some(id)) else {
                continue;
            };
            let another = self.peers.iter().any(|(other, peer)| {
                *other != id
                    && !seek.failed.contains(other)
                    && peer.offers(seek.guess)
                    && peer.has_room(Urgency::Reader)
                    && !peer.is_stalled(now)
            });
            if another && let Some(seek) = self.seeks.get_mut(&byte) {
                self.unscheduled = true;
                seek.failed.insert(id);
                seek.asked = None;
            }
        }
    }

    /// What a peer passed over is requested again, of another one if there is one: the answer may have been lost, or
    /// the peer does not have the block after all.
    fn give_up_overdue(&mut self, now: Instant) {
        let overdue: Vec<(PeerId, u64)> = self
            .peers
            .iter()
            .flat_map(|(id, peer)| peer.overdue(now).map(|block| (*id, block)))
            .collect();
        for (id, peer) in &mut self.peers {
            for byte in peer.give_up_seeks(now) {
                peer.refused += 1;
                if let Some(seek) = self.seeks.get_mut(&byte).filter(|seek| seek.asked == Some(*id))
                {
                    seek.failed.insert(*id);
                    seek.asked = None;
                }
            }
        }
        for (id, block) in overdue {
            self.refused(id, block);
        }
    }

    pub(super) fn schedule(&mut self, now: Instant) {
        self.schedule_seeks(now);
        let allowed = self.skips.allowed(now);
        let mut skipped = 0;
        let mut last = None;
        while let Some((block, urgency)) = self.wants.queued_after(last) {
            last = Some((block, urgency));
            // Less urgent ones follow: what has no room for this one has none for them.
            if self.no_peer_has_room(urgency, now) || self.pace.ready_at(now).is_some() {
                break;
            }
            if self.ask_a_peer(block, urgency, now) {
                skipped += 1;
                if skipped >= allowed {
                    break;
                }
            }
        }
        self.skips.spend(skipped, skipped >= allowed);
    }

    /// Asks the best peer for a queued block, or parks it; true if peers that offer it are busy.
    pub(super) fn ask_a_peer(&mut self, block: u64, urgency: Urgency, now: Instant) -> bool {
        match self.choose(block, urgency, now) {
            Choice::Ask(id) => self.request(id, block, now),
            Choice::NoPeer => self.wants.park(block),
            Choice::Busy => return true,
        }
        false
    }

    fn no_peer_has_room(&self, urgency: Urgency, now: Instant) -> bool {
        !self.peers.values().any(|peer| peer.has_room(urgency) && !peer.is_stalled(now))
    }

    /// The least loaded peer that offers the block. Stalled peers and those that failed to
    /// deliver it before are asked only when there is no other.
    fn choose(&self, block: u64, urgency: Urgency, now: Instant) -> Choice {
        let Some(want) = self.wants.get(block) else { return Choice::NoPeer };
        let mut busy = false;
        let mut best: Option<((bool, bool, u64), PeerId)> = None;
        for (id, peer) in &self.peers {
            if !peer.offers(block) || want.asked.contains(id) {
                continue;
            }
            if !peer.has_room(urgency) || peer.is_asked_for_proof(block) {
                busy = true;
                continue;
            }
            let slow = peer.is_stalled(now) || peer.is_doubtful(now);
            let cost = (want.failed.contains(id), slow, peer.load());
            if best.is_none_or(|(least, _)| cost < least) {
                best = Some((cost, *id));
            }
        }
        match best {
            // With one peer asked already, a second stalled or failed peer is no improvement.
            Some(((failed, stalled, _), _)) if !want.asked.is_empty() && (failed || stalled) => {
                Choice::NoPeer
            }
            // A better peer is only busy: wait for it.
            Some(((failed, stalled, _), _)) if busy && (failed || stalled) => Choice::Busy,
            Some((_, id)) => Choice::Ask(id),
            None if busy => Choice::Busy,
            None => Choice::NoPeer,
        }
    }

    fn request(&mut self, id: PeerId, block: u64, now: Instant) {
        self.distrusted.expire(now, |block| self.wants.get(block).is_some());
        let expected = self.expected_cost();
        let trusted = self.distrusted.is_empty();
        let digest = if trusted { self.core.digest(block) } else { 0 };
        let builds = trusted && self.core.proofs_build_on_requested();
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let digest = digest | u64::from(builds && peer.is_owing());
        let request = InFlight {
            sent: now,
            order: 0,
            expected,
            cancelled: false,
            full_proof: peer.stands_alone(digest),
            purpose: Purpose::Block,
            again: false,
        };
        peer.asked(block, request);
        self.pace.spend(self.average_bytes, now);
        self.wants.asked(block, id);
        self.send(id, Message::Request { index: block, bytes: 0, hash: false, nodes: digest });
    }

    fn schedule_seeks(&mut self, now: Instant) {
        let mut requests = Vec::new();
        for (byte, seek) in self.seeks.iter_mut().filter(|(_, seek)| seek.asked.is_none()) {
            // The peer resolves the byte itself, so it must hold the block it leads to: one that
            // holds the guess probably does, and one that holds the whole range surely does.
            let chosen = self
                .peers
                .iter()
                .filter(|(_, peer)| peer.has_room(Urgency::Reader) && peer.offers(seek.guess))
                .min_by_key(|(id, peer)| {
                    let whole = peer.offers(seek.blocks.start)
                        && peer.offers(seek.blocks.end.saturating_sub(1));
                    let slow = peer.is_stalled(now) || peer.is_doubtful(now);
                    (seek.failed.contains(id), slow, !whole, peer.load())
                })
                .map(|(id, _)| *id);
            if let Some(id) = chosen {
                seek.asked = Some(id);
                requests.push((id, *byte, seek.guess));
            }
        }
        for (id, byte, guess) in requests {
            let expected = self.expected_cost();
            if let Some(peer) = self.peers.get_mut(&id) {
                let request = InFlight {
                    sent: now,
                    order: 0,
                    expected,
                    cancelled: false,
                    full_proof: peer.stands_alone(0),
                    purpose: Purpose::Block,
                    again: false,
                };
                peer.asked_seek(byte, request);
                let message = Message::Request { index: guess, bytes: byte, hash: false, nodes: 0 };
                self.send(id, message);
            }
        }
    }

    /// Peers tell what they hold region by region, and only when asked: all peers about regions in
    /// which something is parked since, new peers about all such regions.
    pub(super) fn ask_about_regions(&mut self) {
        let mut questions = Vec::new();
        for id in std::mem::take(&mut self.new_peers) {
            let regions = self.wants.parked_regions().take(MAX_WANTED_REGIONS);
            questions.extend(regions.map(|region| (id, region)));
        }
        for region in self.wants.take_new_regions() {
            questions.extend(self.peers.keys().map(|id| (*id, region)));
        }
        for (id, region) in questions {
            let Some(peer) = self.peers.get_mut(&id) else { continue };
            if peer.regions.len() < MAX_WANTED_REGIONS && peer.regions.insert(region) {
                let start = region * REGION_BLOCKS;
                self.send(id, Message::Want { start, length: REGION_BLOCKS });
            }
        }
    }
}
