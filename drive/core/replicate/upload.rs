//! Answering one peer's requests for one core: a bounded queue in, Haves and Data out.
//!
//! Owned by the connection and drained only while its output has room, so a peer that asks faster
//! than it reads costs a queue of small requests and nothing more.

use std::collections::VecDeque;

use crate::hypercore::{Core, Located, RemoteTree};
use crate::wire::message::Message;
use crate::wire::run_length;

/// Requests and Wants one peer may have waiting per core; one more ends the connection.
pub(crate) const MAX_QUEUED_REQUESTS: usize = 4096;
/// Answers to hints (`sharing/hints.rs`) that may wait beside them; more are dropped.
const MAX_HINT_ANSWERS: usize = 64;
/// Longest region one Want may name, and the alignment the reference insists on.
pub(super) const MAX_WANT_BLOCKS: u64 = super::REGION_BLOCKS;
const WANT_ALIGNMENT: u64 = 8192;

/// Blocks read and hashed together when several are asked for.
const READ_TOGETHER: usize = 4;

enum Job {
    Want { start: u64, length: u64 },
    Request { index: u64, bytes: u64, hash: bool, nodes: u64 },
}

/// The peer asked for more than [`MAX_QUEUED_REQUESTS`] at once.
#[derive(Debug, PartialEq, Eq)]
pub struct TooManyRequests;

/// Answers the requests of one peer for one core.
pub struct Upload {
    core: Core,
    jobs: VecDeque<Job>,
    remote: RemoteTree,
    newest_announced: bool,
    last_sought: Option<u64>,
    /// Blocks that were just read together.
    warmed: Vec<u64>,
    /// Answers of a job that has more than one.
    answers: VecDeque<Message>,
}

impl Upload {
    /// The answers of `core` to one peer, which has requested nothing yet.
    pub fn new(core: Core) -> Self {
        Self {
            core,
            jobs: VecDeque::new(),
            remote: RemoteTree::default(),
            newest_announced: false,
            last_sought: None,
            warmed: Vec::new(),
            answers: VecDeque::new(),
        }
    }

    /// Queues what `message` asks for. Messages that ask for nothing are ignored.
    pub fn received(&mut self, message: &Message) -> Result<(), TooManyRequests> {
        let job = match *message {
            Message::Want { start, length } => Job::Want { start, length },
            Message::Request { index, bytes, hash, nodes } => {
                Job::Request { index, bytes, hash, nodes }
            }
            Message::Cancel { index, bytes, hash } => {
                self.cancel(index, bytes, hash);
                return Ok(());
            }
            _ => return Ok(()),
        };
        if self.jobs.len() >= MAX_QUEUED_REQUESTS {
            return Err(TooManyRequests);
        }
        self.jobs.push_back(job);
        Ok(())
    }

    fn cancel(&mut self, cancelled: u64, sought: u64, hash_only: bool) {
        self.jobs.retain(|job| match job {
            Job::Request { index, bytes, hash, .. } => {
                (*index, *bytes, *hash) != (cancelled, sought, hash_only)
            }
            _ => true,
        });
    }

    pub(crate) fn core(&self) -> &Core {
        &self.core
    }

    /// Messages that answer a hint of the peer: to be sent like other answers.
    pub(crate) fn hint_answered(&mut self, messages: Vec<Message>) {
        let room = MAX_HINT_ANSWERS.saturating_sub(self.answers.len());
        self.answers.extend(messages.into_iter().take(room));
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.jobs.is_empty() && self.answers.is_empty()
    }

    /// The next message to send, if anything is asked for.
    pub fn next_answer(&mut self) -> Option<Message> {
        loop {
            if let Some(answer) = self.answers.pop_front() {
                return Some(answer);
            }
            match self.jobs.pop_front()? {
                Job::Want { start, length } => self.answer_want(start, length),
                Job::Request { index, bytes, hash, nodes } => {
                    self.warm(index, bytes, hash);
                    self.answer_request(index, bytes, hash, nodes);
                }
            }
        }
    }

    /// Reads the block asked for together with the next ones.
    fn warm(&mut self, index: u64, bytes: u64, hash: bool) {
        if hash || bytes > 0 || self.warmed.contains(&index) {
            return;
        }
        let next = self.jobs.iter().map_while(|job| match job {
            Job::Request { index, bytes: 0, hash: false, .. } => Some(*index),
            _ => None,
        });
        self.warmed = std::iter::once(index).chain(next).take(READ_TOGETHER).collect();
        if self.warmed.len() > 1 {
            self.core.warm(self.warmed.iter().copied());
        }
    }

    /// wire8.md §9: first the newest block, then the region's bitfield, even if it is empty.
    fn answer_want(&mut self, start: u64, length: u64) {
        let aligned = start.is_multiple_of(WANT_ALIGNMENT) && length.is_multiple_of(WANT_ALIGNMENT);
        if !aligned || length > MAX_WANT_BLOCKS {
            return;
        }
        let newest = self.core.announced_head().length.checked_sub(1);
        if !std::mem::replace(&mut self.newest_announced, true)
            && let Some(newest) = newest.filter(|newest| self.core.has(*newest))
        {
            let newest = Message::Have { start: newest, length: 1, bitfield: None, ack: false };
            self.answers.push_back(newest);
        }
        let bitfield = run_length::encode(&self.core.data_bits(start, length)).freeze();
        self.answers.push_back(Message::Have {
            start,
            length,
            bitfield: Some(bitfield),
            ack: false,
        });
    }

    fn answer_request(&mut self, mut index: u64, bytes: u64, hash: bool, mut nodes: u64) {
        if bytes > 0 {
            if self.last_sought.replace(bytes) == Some(bytes) {
                return; // asked with several fallback indexes: answered once
            }
            if let Ok(Located::Found { block, .. }) =
                self.core.locate(bytes, 0..self.core.announced_head().length)
            {
                (index, nodes) = (block, 0);
            }
        } else {
            self.last_sought = None;
        }
        if !hash && !self.core.has(index) {
            self.answers.push_back(Message::Unhave { start: index, length: 1 });
            return;
        }
        match self.core.prove(index, nodes, hash, &mut self.remote) {
            Ok(proof) if hash || proof.value.is_some() => self.answers.push_back(Message::Data {
                index: proof.block,
                value: proof.value,
                nodes: proof.nodes,
                signature: proof.signature,
            }),
            Ok(_) => self.answers.push_back(Message::Unhave { start: index, length: 1 }),
            Err(error) => {
                log::debug!(
                    "core {}: no proof for block {index}: {error}",
                    self.core.discovery_key()
                );
                self.answers.push_back(Message::Unhave { start: index, length: 1 });
            }
        }
    }
}
