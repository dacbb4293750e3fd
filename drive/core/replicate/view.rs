//! What a replicator sees of its core, and what its driver does for it: the two sides of the border
//! between a state machine and a core with files and waiting readers.
//!
//! [`View`] answers from memory and changes nothing. What needs a file is told with the verdict on a
//! proof ([`Learnt`]); what changes the demand is an action ([`ForDemand`]). Not here: when the driver
//! runs (`sharing/replication.rs`).

use std::ops::Range;

use super::{Event, PeerId};
use crate::hypercore::demand::{Demand, PeerSummary, Urgency};
use crate::hypercore::{Core, Dialect, Head, Located, ReceivedProof};
use hypermount_swarm::crypto::DiscoveryKey;

/// The reference takes about as long for one request of `hypercore/alpha` as for this number of bytes: 0.2 ms, for the
/// nodes of a proof. Without it a window of bytes would hold thousands of requests for blocks of an index, and what a
/// reader waits for would be answered after all of them.
const MODERN_LEAST_COST: u64 = 1536;

/// The core as its replicator sees it. Every answer comes from memory.
pub(crate) trait View {
    /// What logs call the core.
    fn discovery_key(&self) -> &DiscoveryKey;

    fn head(&self) -> Head;

    /// Whether this machine appends to the core.
    fn is_written(&self) -> bool;

    /// Whether the secret key is here and must not be used, see [`crate::hypercore::StopReason`].
    fn is_stopped(&self) -> bool;

    /// Whether damaged nodes are forgotten, and fetched again with the blocks that need them.
    fn forgets_nodes(&self) -> bool;

    fn has(&self, block: u64) -> bool;

    /// What a request for `block` tells the peer that is here already.
    fn digest(&self, block: u64) -> u64;

    /// What a request costs at least, in bytes of an answer, however small the block is.
    fn least_cost(&self) -> u64;

    /// Whether a proof may build on those that the same peer was asked for before, and has not sent yet.
    fn proofs_build_on_requested(&self) -> bool;
}

impl View for Core {
    fn discovery_key(&self) -> &DiscoveryKey {
        Core::discovery_key(self)
    }

    fn head(&self) -> Head {
        Core::head(self)
    }

    fn is_written(&self) -> bool {
        self.writable()
    }

    fn is_stopped(&self) -> bool {
        self.stopped().is_some()
    }

    fn forgets_nodes(&self) -> bool {
        Core::forgets_nodes(self)
    }

    fn has(&self, block: u64) -> bool {
        Core::has(self, block)
    }

    fn digest(&self, block: u64) -> u64 {
        Core::digest(self, block)
    }

    fn least_cost(&self) -> u64 {
        match self.dialect() {
            Dialect::Legacy => 1,
            Dialect::Modern => MODERN_LEAST_COST,
        }
    }

    fn proofs_build_on_requested(&self) -> bool {
        self.dialect() == Dialect::Modern
    }
}

/// What the replicator asks of the core's tree once a proof has been judged.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Question {
    /// Which of these blocks holds this byte.
    pub(crate) byte: Option<(u64, Range<u64>)>,
    /// Whether the roots that the core had at this length are known.
    pub(crate) roots_at: Option<u64>,
}

/// The answers to a [`Question`]; false where nothing was asked or the tree cannot be read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Learnt {
    /// The tree tells which block holds the byte.
    pub(crate) byte_located: bool,
    /// The roots are known.
    pub(crate) roots_known: bool,
}

/// A proof for the core to judge, see [`super::Action::Accept`].
#[derive(Debug)]
pub(crate) struct Submitted {
    pub(crate) peer: PeerId,
    pub(crate) proof: ReceivedProof,
    pub(crate) question: Question,
}

/// Has the core judge the proofs, in order and hashed together; the events that tell the replicator.
pub(crate) fn judge(core: &Core, submitted: Vec<Submitted>) -> Vec<Event> {
    let (mut answers_to, mut proofs) = (Vec::new(), Vec::new());
    for Submitted { peer, proof, question } in submitted {
        let size = proof.value().map_or(0, |value| value.len() as u64);
        answers_to.push((peer, proof.block(), size, question));
        proofs.push(proof);
    }
    let judged = answers_to.into_iter().zip(core.accept_each(proofs));
    let events = judged.map(|((peer, block, size, question), verdict)| Event::Judged {
        peer,
        block,
        size,
        verdict,
        learnt: learnt(core, question),
    });
    events.collect()
}

fn learnt(core: &Core, question: Question) -> Learnt {
    let located = |(byte, blocks)| matches!(core.locate(byte, blocks), Ok(Located::Found { .. }));
    let known = |length| core.root_hash_at(length).is_ok_and(|hash| hash.is_some());
    Learnt {
        byte_located: question.byte.is_some_and(located),
        roots_known: question.roots_at.is_some_and(known),
    }
}

/// What a replicator tells the demand of its core.
#[derive(Debug)]
pub(crate) enum ForDemand {
    /// A peer told that these blocks will be needed next.
    Ahead(Vec<u64>),
    /// What the chances of a wait are now.
    PeerSummary(PeerSummary),
}

impl ForDemand {
    /// Tells it.
    pub(crate) fn apply(self, demand: &Demand) {
        match self {
            Self::Ahead(blocks) => drop(demand.want_ahead(blocks, Urgency::Ahead)),
            Self::PeerSummary(summary) => demand.set_peer_summary(summary),
        }
    }
}
