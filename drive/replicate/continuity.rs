//! That a longer version continues the one we have, and is not of a second history of the same key:
//! a publisher who restored a backup and went on has two, and both are validly signed.
//!
//! A proof of any block of the longer version proves that version. Only a proof that passes by the
//! roots of ours proves both, and that of the first block after ours always does. So the peer is
//! asked for that one, without the block's bytes. A peer that does not have it is believed: the
//! proofs of what was fetched before then still tell the histories apart, only later.

use tokio::time::Instant;

use super::Replicator;
use super::peer::{InFlight, MAX_UNCONNECTED, PeerId};
use crate::wire::message::Message;

impl Replicator {
    /// `block`, which the peer sent, is of a version that has not been shown to continue our `from`
    /// blocks: has the peer show it, and asks for the block again afterwards.
    pub(super) fn ask_for_continuity(&mut self, id: PeerId, from: u64, block: u64, now: Instant) {
        let Some(peer) = self.peers.get_mut(&id) else { return self.wants.released(block, id) };
        if peer.unconnected.len() >= MAX_UNCONNECTED {
            return self.wants.released(block, id);
        }
        peer.unconnected.insert(block);
        if !peer.owes(from) {
            let request = InFlight {
                sent: now,
                expected: 0,
                cancelled: false,
                full_proof: peer.stands_alone(0),
                hash_only: false,
                continuity: true,
            };
            peer.asked(from, request);
            self.send(id, Message::Request { index: from, bytes: 0, hash: true, nodes: 0 });
        } else if !peer.is_asked_for_continuity(from) {
            // That block itself is under way, and shows it as well.
            peer.unconnected.remove(&block);
            self.wants.released(block, id);
        }
    }

    /// The peer showed it, or could not.
    pub(super) fn continuity_answered(&mut self, id: PeerId, shown: bool) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        peer.shows_continuity &= shown;
        for block in std::mem::take(&mut peer.unconnected) {
            self.wants.released(block, id);
        }
    }

    /// A proof that built on nodes we hold does not verify. If those are damaged, or of another
    /// history, the peer is innocent: before it is judged it is asked again, for a proof that stands
    /// alone. What we told it on this connection it goes on leaving out, so if that does not help,
    /// the next connection will.
    pub(super) fn doubt(&mut self, id: PeerId, block: u64, continuity: bool, reason: &str) {
        self.wants.released(block, id);
        let wanted = self.wants.get(block).is_some();
        let first = (wanted || continuity) && self.distrusted.insert(block);
        if !first || continuity {
            let reason = format!("its proof of block {block} does not fit what is here: {reason}");
            self.disconnect(id, reason, false);
        }
    }
}
