//! Watching for a second history of a core we write: a copy of its secret key elsewhere, or a store
//! brought back from an old backup. Every peer is asked to prove the newest block it tells of,
//! without its bytes; the core judges the proof like any other, and stops if it is not a part of
//! what we wrote ([`crate::core::Stop`]).

use tokio::time::{Duration, Instant};

use super::peer::{InFlight, Peer, PeerId};
use super::{Action, Replicator};
use crate::wire::message::Message;

/// How often a peer that repeats what we wrote is asked again. One that tells of more than we have
/// is asked at once.
pub const COMPARE_EVERY: Duration = Duration::from_secs(1);

/// The block to be proved and when to ask for it.
fn comparison(peer: &Peer, length: u64, now: Instant) -> Option<(u64, Instant)> {
    let block = peer.blocks.end().checked_sub(1)?;
    let open = peer.in_flight.values().any(|request| request.hash_only);
    if !peer.uploading || open || peer.in_flight.contains_key(&block) {
        return None;
    }
    match peer.compared {
        Some((compared, _)) if compared == block => None,
        Some((_, at)) if block < length => Some((block, at + COMPARE_EVERY)),
        _ => Some((block, now)),
    }
}

impl Replicator {
    /// Asks for the proofs that are due; once the core has stopped, becomes its reader.
    pub(super) fn compare_histories(&mut self, now: Instant) {
        if !self.core.writable() {
            return self.stop_watching();
        }
        let length = self.core.head().length;
        let due: Vec<(PeerId, u64)> = self
            .peers
            .iter()
            .filter_map(|(id, peer)| Some((*id, comparison(peer, length, now)?)))
            .filter(|(_, (_, at))| *at <= now)
            .map(|(id, (block, _))| (id, block))
            .collect();
        for (id, block) in due {
            let Some(peer) = self.peers.get_mut(&id) else { continue };
            peer.compared = Some((block, now));
            let request = InFlight {
                sent: now,
                expected: 0,
                cancelled: false,
                full_proof: true,
                hash_only: true,
            };
            peer.asked(block, request);
            self.send(id, Message::Request { index: block, bytes: 0, hash: true, nodes: 0 });
        }
    }

    /// When the next comparison is due that is not due yet.
    pub(super) fn next_comparison(&self, now: Instant) -> Option<Instant> {
        if !self.core.writable() {
            return None;
        }
        let length = self.core.head().length;
        let due = self.peers.values().filter_map(|peer| comparison(peer, length, now));
        due.map(|(_, at)| at).filter(|at| *at > now).min()
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
        self.wants.unpark();
    }
}
