//! What peers say they hold, and which wants that lets us ask for.
//!
//! A peer can say anything as often as it likes, so an event costs no more than what it changes.
//! INVARIANT: a parked block is claimed by no peer that uploads, or is in that peer's `unexamined`.

use std::collections::BTreeSet;
use std::ops::Range;

use bytes::Bytes;
use tokio::time::{Duration, Instant};

use super::peer::{Peer, PeerId};
use super::{Replicator, View};
use crate::hypercore::demand::Urgency;
use crate::wire::run_length;

/// Queued blocks that a peer is asked for because it has just told of them, before the others of the
/// queue have their turn.
const MAX_ASKED_AT_ONCE: usize = 16;
/// Ranges that are examined in one step; the rest in the next.
const MAX_EXAMINED: usize = 256;
/// A block that could not be stored is asked for again after this time.
const PUT_OFF: Duration = Duration::from_secs(1);

impl<V: View> Replicator<V> {
    pub(super) fn have(
        &mut self,
        id: PeerId,
        start: u64,
        length: u64,
        bitfield: Option<Bytes>,
        now: Instant,
    ) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let end = peer.blocks.end();
        let Some(encoded) = bitfield else {
            let claimed = start..start.saturating_add(length);
            let new = peer.claims(claimed.clone());
            let moved = peer.blocks.end() != end;
            self.reconsider(id, &claimed);
            if !self.seeks.is_empty() && !new.is_empty() {
                self.pass_over_late(now);
            }
            self.ask_for_queued(id, &new, now);
            if moved {
                self.end_changed();
            }
            return;
        };
        let bits = match run_length::decode(&encoded, run_length::MAX_UNFOLDED) {
            Ok(bits) => bits,
            Err(error) => {
                return self.disconnect(id, format!("sent a bad bitfield: {error}"), true);
            }
        };
        match peer.bitfields_allowed.checked_sub(1) {
            Some(allowed) => peer.bitfields_allowed = allowed,
            None => peer.refused += 1,
        }
        // A length of 0 or 1 with a bitfield is the older "everything from start".
        let length = if length <= 1 { bits.len() as u64 * 8 } else { length };
        let claimed = start..start.saturating_add(length);
        peer.claims_bits(claimed.clone(), &bits);
        let moved = peer.blocks.end() != end;
        self.reconsider(id, &claimed);
        if moved {
            self.end_changed();
        }
        self.pass_over_late(now);
        self.unscheduled = true;
        self.end_if_fickle(id);
    }

    /// The peer's core is of this fork.
    pub(super) fn announced(&mut self, id: PeerId, fork: u64) {
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.fork = fork;
            self.summary_stale = true;
        }
    }

    pub(super) fn unhave(&mut self, id: PeerId, lost: Range<u64>) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        if lost.is_empty() {
            return;
        }
        let end = peer.blocks.end();
        peer.disclaims(lost.clone());
        let moved = peer.blocks.end() != end;
        let refused: Vec<u64> = peer.owed(lost).collect();
        self.unscheduled |= !refused.is_empty();
        for block in refused {
            self.refused(id, block);
        }
        if moved {
            self.end_changed();
        }
        self.end_if_fickle(id);
    }

    pub(super) fn status(&mut self, id: PeerId, uploading: bool) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        if std::mem::replace(&mut peer.uploading, uploading) == uploading {
            return;
        }
        self.unscheduled = true;
        if uploading {
            peer.unexamined = peer.blocks.clone();
            return self.end_changed();
        }
        peer.refused += 1;
        let open: Vec<u64> = peer.owed(0..u64::MAX).collect();
        for block in open {
            self.refused(id, block);
        }
        self.end_changed();
        self.end_if_fickle(id);
    }

    /// The newest block that a peer tells of is another one.
    pub(super) fn end_changed(&mut self) {
        self.summary_stale = true;
        self.want_newest();
    }

    /// Of what is queued already the peer is asked for what it has just told of, whatever else the
    /// queue holds.
    fn ask_for_queued(&mut self, id: PeerId, new: &[Range<u64>], now: Instant) {
        if !self.peers.get(&id).is_some_and(|peer| can_be_asked(peer, now)) {
            return;
        }
        let queued: Vec<u64> = new
            .iter()
            .flat_map(|range| self.wants.queued(range.clone()))
            .take(MAX_ASKED_AT_ONCE)
            .collect();
        self.unscheduled |= queued.len() == MAX_ASKED_AT_ONCE;
        for block in queued {
            let Some(urgency) = self.wants.get(block).map(|want| want.urgency) else { continue };
            if self.pace.ready_at(now).is_some() {
                return;
            }
            self.ask_a_peer(block, urgency, now);
        }
    }

    /// Puts parked blocks back into the queue: as many of those that each peer tells of as it can be
    /// asked for. When there is more to examine at once, that is due at the time returned.
    pub(super) fn examine(&mut self, now: Instant) -> Option<Instant> {
        while self.put_off.front().is_some_and(|(at, _)| *at <= now)
            && let Some((_, block)) = self.put_off.pop_front()
        {
            self.wants.unpark(block);
            self.unscheduled = true;
        }
        let put_off = self.put_off.front().map(|(at, _)| *at);
        if let Some(ready) = self.pace.ready_at(now) {
            let waiting = self.peers.values().any(|peer| !peer.unexamined.is_empty());
            return waiting.then_some(ready).into_iter().chain(put_off).min();
        }
        let mut left = MAX_EXAMINED;
        let ids: Vec<PeerId> = self
            .peers
            .iter()
            .filter(|(_, peer)| !peer.unexamined.is_empty() && can_be_asked(peer, now))
            .map(|(id, _)| *id)
            .collect();
        for id in ids {
            self.examine_peer(id, &mut left, now);
            if left == 0 {
                return Some(now);
            }
        }
        put_off
    }

    fn examine_peer(&mut self, id: PeerId, left: &mut usize, now: Instant) {
        let average = self.expected_cost();
        let Some(mut room) = self.peers.get(&id).map(|peer| peer.room(average)) else { return };
        while room > 0 && *left > 0 {
            let first = self.peers.get(&id).and_then(|peer| peer.unexamined.first());
            let Some(range) = first else { return };
            *left -= 1;
            let parked: Vec<u64> = self.wants.parked(range.clone()).take(room).collect();
            let stalled = self.held_up_elsewhere(id, range.clone(), room, now);
            let full = parked.len() == room || stalled.len() == room;
            let last = [parked.last(), stalled.last()].into_iter().flatten().min().copied();
            let done = match last {
                Some(last) if full => range.start..last.saturating_add(1),
                _ => range,
            };
            let before = room;
            for block in parked.into_iter().filter(|block| done.contains(block)) {
                self.wants.unpark(block);
                room = room.saturating_sub(1);
            }
            for block in stalled.into_iter().filter(|block| done.contains(block)) {
                self.wants.ask_again(block);
                room = room.saturating_sub(1);
            }
            self.unscheduled |= room < before;
            if let Some(peer) = self.peers.get_mut(&id) {
                peer.unexamined.remove(done);
            }
        }
    }

    /// Blocks of `range` whose answers are held up at other peers, at most `most`, ascending.
    fn held_up_elsewhere(
        &self,
        except: PeerId,
        range: Range<u64>,
        most: usize,
        now: Instant,
    ) -> Vec<u64> {
        let mut owed = BTreeSet::new();
        for (_, peer) in self.peers.iter().filter(|(id, _)| **id != except) {
            owed.extend(self.held_up_at(peer, range.clone(), now).take(most));
        }
        owed.into_iter().take(most).collect()
    }

    /// The block is wanted, but not to be asked for at once.
    pub(super) fn put_off(&mut self, block: u64, now: Instant) {
        self.wants.park(block);
        self.put_off.push_back((now + PUT_OFF, block));
    }

    /// While a reader waits for a longer head: the newest block a peer tells of proves one. A block that
    /// was wanted for that and is no longer the newest of any peer is forgotten.
    pub(super) fn want_newest(&mut self) {
        let length = self.core.head().length;
        if self.upgrade.is_some_and(|wanted| wanted < length) {
            self.upgrade = None;
        }
        let newest =
            if self.upgrade.is_some() { self.newest_blocks(length) } else { BTreeSet::new() };
        for block in self.newest.difference(&newest).copied().collect::<Vec<u64>>() {
            self.newest.remove(&block);
            for peer in self.wants.forget(block) {
                self.cancel(peer, block);
            }
        }
        for block in newest {
            match self.wants.get(block) {
                Some(want) if want.urgency == Urgency::Reader => continue,
                Some(_) => {}
                None => drop(self.newest.insert(block)),
            }
            self.wants.want(block, Urgency::Reader);
            self.unscheduled = true;
        }
    }

    /// Of every peer its own newest: one that claims too much must not hide the others. And the block
    /// after ours, which is asked for first: its proof shows that the newer version continues ours.
    fn newest_blocks(&self, length: u64) -> BTreeSet<u64> {
        let mut newest: BTreeSet<u64> = self
            .peers
            .values()
            .filter(|peer| peer.uploading && peer.blocks.end() > length)
            .filter(|peer| peer.discontinued.is_none())
            .map(|peer| peer.blocks.end() - 1)
            .collect();
        if newest.iter().any(|block| *block > length)
            && self.peers.values().any(|peer| peer.offers(length))
        {
            newest.insert(length);
        }
        newest
    }
}

/// Whether one more request would be sent to the peer.
fn can_be_asked(peer: &Peer, now: Instant) -> bool {
    peer.uploading && peer.has_room(Urgency::Reader) && !peer.is_stalled(now)
}
