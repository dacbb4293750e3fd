//! Watching for a second history of a core we write: a copy of its secret key elsewhere, or a store
//! brought back from an old backup. Every peer is asked to prove the newest block it tells of,
//! without its bytes; the core judges the proof like any other, and stops if it is not a part of
//! what we wrote ([`crate::hypercore::StopReason`]).

use tokio::time::{Duration, Instant};

use super::peer::{InFlight, Peer, PeerId, Purpose};
use super::{Action, Replicator, View};
use crate::wire::message::Message;

/// How often a peer that repeats what we wrote is asked again. One that tells of more than we have
/// is asked at once, or after this time while it has not told of our newest block.
pub(super) const COMPARE_EVERY: Duration = Duration::from_secs(1);

struct Comparison {
    /// The newest block the peer tells of.
    newest: u64,
    /// The block to be proved: of a longer history our own newest, whose proof passes all before it.
    block: u64,
    due: Instant,
}

fn comparison(peer: &Peer, length: u64, now: Instant) -> Option<Comparison> {
    let newest = peer.blocks.end().checked_sub(1)?;
    if !peer.uploading
        || peer.is_comparing()
        || peer.compared.is_some_and(|(compared, _)| compared == newest)
    {
        return None;
    }
    let last = peer.compared.map(|(_, at)| at);
    let ours = length.checked_sub(1);
    let (block, due) = match ours {
        Some(ours) if newest > ours && peer.blocks.contains(ours) => (ours, now),
        None => (newest, now),
        Some(ours) if newest > ours => (newest, last.unwrap_or(peer.since) + COMPARE_EVERY),
        Some(_) => (newest, last.map_or(now, |at| at + COMPARE_EVERY)),
    };
    (!peer.owes(block)).then_some(Comparison { newest, block, due })
}

impl<V: View> Replicator<V> {
    /// Asks for the proofs that are due; once the core has stopped, becomes its reader as well.
    pub(super) fn compare_histories(&mut self, now: Instant) {
        if !self.core.is_written() {
            self.stop_watching();
        }
        if !self.is_ours() {
            return;
        }
        let length = self.core.head().length;
        let due: Vec<(PeerId, Comparison)> = self
            .peers
            .iter()
            .filter_map(|(id, peer)| Some((*id, comparison(peer, length, now)?)))
            .filter(|(_, comparison)| comparison.due <= now)
            .collect();
        for (id, Comparison { newest, block, .. }) in due {
            let Some(peer) = self.peers.get_mut(&id) else { continue };
            peer.compared = Some((newest, now));
            let request = InFlight {
                sent: now,
                order: 0,
                expected: 0,
                cancelled: false,
                full_proof: true,
                purpose: Purpose::Comparison,
                again: false,
            };
            peer.asked(block, request);
            self.send(id, Message::Request { index: block, bytes: 0, hash: true, nodes: 0 });
        }
    }

    /// When the next comparison is due that is not due yet.
    pub(super) fn next_comparison(&self, now: Instant) -> Option<Instant> {
        if !self.is_ours() {
            return None;
        }
        let length = self.core.head().length;
        let comparisons = self.peers.values().filter_map(|peer| comparison(peer, length, now));
        comparisons.map(|comparison| comparison.due).filter(|at| *at > now).min()
    }

    /// Whether the secret key is here. A stopped core too catches up only with what continues it.
    fn is_ours(&self) -> bool {
        self.core.is_written() || self.core.is_stopped()
    }

    /// The core is not ours to write any more: peers may send what they have.
    fn stop_watching(&mut self) {
        if !std::mem::take(&mut self.watching) {
            return;
        }
        for id in self.peers.keys() {
            let message = Message::Status { uploading: true, downloading: true };
            self.actions.push_back(Action::Send { peer: *id, message });
        }
        self.wants.unpark_all();
    }
}
