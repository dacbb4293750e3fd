//! Answering one peer's requests for one core on a channel of `hypercore/alpha`: a bounded queue in, data,
//! ranges and bitfields out.
//!
//! Owned by the connection and drained only while its output has room, so a peer that asks faster than it
//! reads costs a queue of small requests and nothing more.

use std::collections::VecDeque;

use bytes::Bytes;

use super::upload::TooManyRequests;
use crate::hypercore::{Core, ProofParts, ProofRequest, Seek, Unproven, Upgrade, Way};
use crate::wire::modern::message::{
    Data, DataBlock, DataHash, DataSeek, DataUpgrade, Message, NoDataReason, Request, Want,
};

/// Requests and Wants one peer may have waiting per core; one more ends the connection.
pub(crate) const MAX_QUEUED: usize = 4096;
/// Answers to hints that may wait beside them.
const MAX_HINT_ANSWERS: usize = 64;
/// Longest region one Want may name, in blocks.
const MAX_WANT_BLOCKS: u64 = 1 << 21;
/// Invalid requests after which the connection ends, as in the reference.
const MAX_INVALID: u32 = 64;

enum Job {
    Want(Want),
    Request(Box<Request>),
}

/// Answers the requests of one peer for one core of Hypercore 10 and 11.
pub(crate) struct ModernUpload {
    core: Core,
    jobs: VecDeque<Job>,
    /// Answers to hints of the peer.
    answers: VecDeque<Message>,
    invalid: u32,
}

impl ModernUpload {
    pub(crate) fn new(core: Core) -> Self {
        Self { core, jobs: VecDeque::new(), answers: VecDeque::new(), invalid: 0 }
    }

    /// Queues what `message` asks for. Messages that ask for nothing are ignored.
    pub(crate) fn received(&mut self, message: &Message) -> Result<(), TooManyRequests> {
        let job = match message {
            Message::Want(want) => Job::Want(*want),
            Message::Request(request) => {
                // One with an id in use replaces the former.
                self.cancel(request.id);
                Job::Request(Box::new(*request))
            }
            Message::Cancel { request } => {
                self.cancel(*request);
                return Ok(());
            }
            _ => return Ok(()),
        };
        if self.jobs.len() >= MAX_QUEUED {
            return Err(TooManyRequests);
        }
        self.jobs.push_back(job);
        Ok(())
    }

    fn cancel(&mut self, id: u64) {
        self.jobs.retain(|job| !matches!(job, Job::Request(request) if request.id == id));
    }

    pub(crate) fn core(&self) -> &Core {
        &self.core
    }

    /// An answer to a hint of the peer: to be sent like other answers. Beyond [`MAX_HINT_ANSWERS`] it is dropped.
    pub(crate) fn hint_answered(&mut self, message: Message) {
        if self.answers.len() < MAX_HINT_ANSWERS {
            self.answers.push_back(message);
        }
    }

    /// Refuses all that is asked for: the core is not given to peers.
    pub(crate) fn refuse_all(&mut self) -> Vec<Message> {
        self.answers.clear();
        let refused = |job| match job {
            Job::Request(request) => {
                let reason = Some(NoDataReason::NotAvailable);
                Some(Message::NoData { request: request.id, reason })
            }
            Job::Want(_) => None,
        };
        self.jobs.drain(..).filter_map(refused).collect()
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.jobs.is_empty() && self.answers.is_empty()
    }

    /// Whether the peer made 64 requests that no core can answer.
    pub(crate) fn is_abused(&self) -> bool {
        self.invalid >= MAX_INVALID
    }

    /// The next message to send, if anything is asked for.
    pub(crate) fn next_answer(&mut self) -> Option<Message> {
        if let Some(answer) = self.answers.pop_front() {
            return Some(answer);
        }
        loop {
            match self.jobs.pop_front()? {
                Job::Request(request) => return Some(self.answer_request(&request)),
                Job::Want(want) => {
                    if let Some(answer) = self.answer_want(want) {
                        return Some(answer);
                    }
                }
            }
        }
    }

    fn answer_request(&mut self, request: &Request) -> Message {
        let no_data = |reason| Message::NoData { request: request.id, reason: Some(reason) };
        let fork = self.core.announced_head().fork;
        let manifest = if request.manifest { self.core.manifest() } else { None };
        if request.fork != fork {
            // The manifest is the same in every fork.
            return match manifest {
                Some(manifest) => Message::Data(Data {
                    request: request.id,
                    fork,
                    manifest: Some(manifest),
                    ..Data::default()
                }),
                None => no_data(NoDataReason::NotAvailable),
            };
        }
        let asks_nothing_else = requested(request) == ProofRequest::default();
        if let Some(manifest) = manifest.clone().filter(|_| asks_nothing_else) {
            // Also of a core in which nothing is yet.
            let manifest = Some(manifest);
            return Message::Data(Data { request: request.id, fork, manifest, ..Data::default() });
        }
        match self.core.prove_requested(&requested(request)) {
            Ok(proof) => Message::Data(Data { manifest, ..data(request.id, proof) }),
            Err(Unproven::Invalid(reason)) => {
                self.invalid += 1;
                log::debug!("core {}: {reason}", self.core.discovery_key());
                no_data(NoDataReason::InvalidRequest)
            }
            Err(Unproven::NotHere) => no_data(NoDataReason::NotAvailable),
            Err(Unproven::Failed(error)) => {
                log::debug!("core {}: no proof: {error}", self.core.discovery_key());
                no_data(NoDataReason::NotAvailable)
            }
        }
    }

    /// The whole region is held up to the head, or the blocks in it that are; for `any`, the first one.
    fn answer_want(&self, want: Want) -> Option<Message> {
        let Want { start, length, any } = want;
        if length > MAX_WANT_BLOCKS {
            return None;
        }
        let head = self.core.announced_head().length;
        let end = start.saturating_add(length).min(head);
        let range = |start, length| Message::Range { drop: false, start, length };
        if start >= end {
            return None;
        }
        let contiguous = self.core.first_missing(0..head).unwrap_or(head);
        if contiguous >= end {
            return Some(range(0, contiguous));
        }
        if any {
            let first = self.core.first_held(start..end)?;
            return Some(range(first, 1));
        }
        let start = start - start % 32;
        let bits = self.core.data_bits(start, end - start);
        let mut words: Vec<u32> = bits
            .chunks(4)
            .map(|bytes| {
                let byte = |at: usize| bytes.get(at).map_or(0, |byte| byte.reverse_bits());
                u32::from_le_bytes([byte(0), byte(1), byte(2), byte(3)])
            })
            .collect();
        while words.last() == Some(&0) {
            words.pop();
        }
        Some(Message::Bitfield { start, words })
    }
}

fn requested(request: &Request) -> ProofRequest {
    ProofRequest {
        block: request.block.map(|part| Way { from: part.index, steps: part.nodes }),
        hash: request.hash.map(|part| Way { from: part.index, steps: part.nodes }),
        seek: request.seek.map(|part| Seek { bytes: part.bytes, padding: part.padding }),
        upgrade: request.upgrade.map(|part| Upgrade { start: part.start, length: part.length }),
    }
}

/// The message that has a proof.
pub(super) fn data(request: u64, proof: ProofParts) -> Data {
    let ProofParts { fork, block, hash, seek, upgrade } = proof;
    Data {
        request,
        fork,
        block: block.map(|part| DataBlock {
            index: part.block,
            value: part.value,
            nodes: part.nodes,
        }),
        hash: hash.map(|part| DataHash { index: part.index, nodes: part.nodes }),
        seek: seek.map(|part| DataSeek { bytes: part.bytes, nodes: part.nodes }),
        upgrade: upgrade.map(|part| DataUpgrade {
            start: part.start,
            length: part.length,
            nodes: part.nodes,
            additional_nodes: part.additional,
            signature: Bytes::copy_from_slice(part.signature.as_bytes()),
        }),
        manifest: None,
    }
}
