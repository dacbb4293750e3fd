//! Hints of one peer (what it looks up or lists in an index) and our answers: which blocks it will
//! need. The peer and the publisher decide what an answer costs, so answers are computed outside the
//! runtime's threads, one at a time per peer and few at a time in all, at a limited rate.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::hypercore::{Core, Dialect};
use crate::wire::bee_extension::{self, BeeMessage, Range as BeeRange};
use crate::wire::extension::{self, TrieMessage};
use crate::wire::message::Message;
use hypermount_swarm::crypto::DiscoveryKey;
use hypermount_swarm::rate::Bucket;

/// Hints of one peer that may wait; more are ignored.
pub(super) const MAX_QUEUED_HINTS: usize = 32;
/// Bytes of these hints together: room for one of the longest and many usual ones.
pub(super) const MAX_QUEUED_HINT_BYTES: usize = 128 * 1024;
/// Steps ([`Answered::steps`]) per second that the answers to one peer may take.
pub(super) const STEPS_PER_SECOND: u64 = 1 << 20;
/// Answers that are computed at once, for all peers together.
pub(super) const ANSWERED_AT_ONCE: usize = 1;

/// What a peer asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExtensionRequest {
    /// The way to one key.
    Get {
        /// Number of the block from which the search starts.
        head: u64,
        /// The key, as the index spells it.
        key: String,
    },
    /// What is below a prefix, or what follows the places of `checkpoint`: pairs of position and
    /// block as varints, the last one to be taken first.
    Iterator {
        /// Number of the block from which the search starts.
        head: u64,
        /// The prefix, as the index spells it.
        key: String,
        /// Bits: 1 recursive, 2 in reverse, 8 hidden keys.
        flags: u64,
        /// Where an earlier answer stopped.
        checkpoint: Option<Bytes>,
    },
    /// The way to one key of a Hyperbee.
    Entry {
        /// Length of the index core, in blocks.
        version: u64,
        /// The key.
        key: Bytes,
    },
    /// A range of keys of a Hyperbee.
    Range(BeeRange),
}

/// What came of a question.
#[derive(Debug, PartialEq, Eq)]
pub struct Answered {
    /// The blocks to name, one list per message, in the order the peer will need them.
    pub blocks: Vec<Vec<u64>>,
    /// What it cost, in steps that the answerer bounds.
    pub steps: u64,
}

/// Answers a peer's question about a core from blocks that are here; stops early once the flag is
/// set. Runs outside the runtime's threads.
pub type Answerer = fn(&Core, &ExtensionRequest, &AtomicBool) -> Answered;

struct Hint {
    core: Core,
    request: ExtensionRequest,
    bytes: usize,
}

/// An answer under way.
struct Running {
    core: DiscoveryKey,
    dialect: Dialect,
    answer: JoinHandle<Option<Answered>>,
}

/// See the module documentation. Dropping it cancels the answer under way.
pub(super) struct Hints {
    queue: VecDeque<Hint>,
    bytes: usize,
    rate: Bucket,
    running: Option<Running>,
    cancelled: Arc<AtomicBool>,
    /// The turns of all peers.
    turns: Arc<Semaphore>,
    /// Without it hints are ignored.
    answer: Option<Answerer>,
}

impl Hints {
    pub(super) fn new(turns: Arc<Semaphore>, answer: Option<Answerer>, now: Instant) -> Self {
        Self {
            queue: VecDeque::new(),
            bytes: 0,
            rate: Bucket::new(Some(STEPS_PER_SECOND), now),
            running: None,
            cancelled: Arc::default(),
            turns,
            answer,
        }
    }

    /// Queues a hint of the peer about `core`. What is no hint, or is one too many, is ignored.
    pub(super) fn received(&mut self, core: &Core, payload: &Bytes) {
        let bytes = payload.len();
        if self.answer.is_none()
            || self.queue.len() >= MAX_QUEUED_HINTS
            || self.bytes + bytes > MAX_QUEUED_HINT_BYTES
        {
            return;
        }
        let request = match core.dialect() {
            Dialect::Legacy => trie_request(payload.clone()),
            Dialect::Modern => bee_request(payload.clone()),
        };
        let Some(request) = request else { return };
        self.bytes += bytes;
        self.queue.push_back(Hint { core: core.clone(), request, bytes });
    }

    /// Resolves to the next answer and the core it is about. Can be dropped and called again.
    pub(super) async fn answered(&mut self) -> (DiscoveryKey, Vec<Message>) {
        loop {
            if let Some(running) = &mut self.running {
                let answer = (&mut running.answer).await.ok().flatten();
                let (core, dialect) = (running.core, running.dialect);
                self.running = None;
                if let Some(answer) = answer {
                    self.rate.spend(answer.steps, Instant::now());
                    return (core, encode(dialect, answer.blocks));
                }
                continue;
            }
            if self.queue.is_empty() {
                std::future::pending::<()>().await;
            }
            if let Some(at) = self.rate.ready_at(Instant::now()) {
                tokio::time::sleep_until(at).await;
            }
            self.start();
        }
    }

    fn start(&mut self) {
        let Some(Hint { core, request, bytes }) = self.queue.pop_front() else { return };
        self.bytes -= bytes;
        let Some(respond) = self.answer else { return };
        let (turns, cancelled) = (Arc::clone(&self.turns), Arc::clone(&self.cancelled));
        let (key, dialect) = (*core.discovery_key(), core.dialect());
        let answer = tokio::spawn(async move {
            let turn = turns.acquire_owned().await.ok()?;
            let answer = tokio::task::spawn_blocking(move || {
                // Held to the end of the work, also when the connection has ended.
                let _turn = turn;
                respond(&core, &request, &cancelled)
            });
            answer.await.ok()
        });
        self.running = Some(Running { core: key, dialect, answer });
    }
}

impl Drop for Hints {
    fn drop(&mut self) {
        self.cancelled.store(true, Ordering::Relaxed);
        if let Some(running) = &self.running {
            running.answer.abort();
        }
    }
}

fn trie_request(payload: Bytes) -> Option<ExtensionRequest> {
    match TrieMessage::decode(payload).ok()?? {
        TrieMessage::Get { head, key } => Some(ExtensionRequest::Get { head, key }),
        TrieMessage::Iterator { head, key, flags, checkpoint } => {
            Some(ExtensionRequest::Iterator { head, key, flags, checkpoint })
        }
        TrieMessage::Cache { .. } => None,
    }
}

fn bee_request(payload: Bytes) -> Option<ExtensionRequest> {
    match BeeMessage::decode(payload).ok()?? {
        BeeMessage::Get { version, key } => Some(ExtensionRequest::Entry { version, key }),
        BeeMessage::Iterator(range) => Some(ExtensionRequest::Range(range)),
        BeeMessage::Cache { .. } => None,
    }
}

fn encode(dialect: Dialect, answers: Vec<Vec<u64>>) -> Vec<Message> {
    let message = |blocks: Vec<u64>| {
        let (start, end) = (*blocks.iter().min()?, blocks.iter().max()? + 1);
        let (name, payload) = match dialect {
            Dialect::Legacy => {
                (extension::NAME, TrieMessage::Cache { start, end, blocks }.encode())
            }
            Dialect::Modern => {
                (bee_extension::NAME, BeeMessage::Cache { start, end, blocks }.encode())
            }
        };
        Some(Message::Extension { name: name.into(), payload })
    };
    answers.into_iter().filter_map(message).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Store;

    fn hints() -> (Hints, Core) {
        let core = Store::memory().core_named(b"hinted").expect("memory cannot fail");
        let turns = Arc::new(Semaphore::new(ANSWERED_AT_ONCE));
        (Hints::new(turns, Some(answer), Instant::now()), core)
    }

    fn answer(_: &Core, _: &ExtensionRequest, _: &AtomicBool) -> Answered {
        Answered { blocks: vec![vec![0]], steps: 1 }
    }

    fn get(key: usize) -> Bytes {
        TrieMessage::Get { head: 1, key: "k".repeat(key) }.encode()
    }

    #[tokio::test]
    async fn hints_that_wait_are_bounded_in_number() {
        let (mut hints, core) = hints();
        for _ in 0..MAX_QUEUED_HINTS + 1 {
            hints.received(&core, &get(1));
        }
        assert_eq!(hints.queue.len(), MAX_QUEUED_HINTS);
        let (about, answer) = hints.answered().await;
        assert_eq!((about, answer.len()), (*core.discovery_key(), 1));
        assert_eq!(hints.queue.len(), MAX_QUEUED_HINTS - 1);
    }

    #[tokio::test]
    async fn hints_that_wait_are_bounded_in_bytes() {
        let (mut hints, core) = hints();
        let checkpoint = |bytes| {
            let checkpoint = Some(Bytes::from(vec![1; bytes]));
            TrieMessage::Iterator { head: 1, key: String::new(), flags: 0, checkpoint }.encode()
        };
        let largest = checkpoint(extension::MAX_CHECKPOINT);
        hints.received(&core, &largest);
        let rest = MAX_QUEUED_HINT_BYTES - largest.len();
        let overhead = largest.len() - extension::MAX_CHECKPOINT;
        hints.received(&core, &checkpoint(rest - overhead + 1));
        assert_eq!(hints.queue.len(), 1, "one byte too many");
        hints.received(&core, &checkpoint(rest - overhead));
        assert_eq!((hints.queue.len(), hints.bytes), (2, MAX_QUEUED_HINT_BYTES));
        hints.answered().await;
        hints.answered().await;
        assert_eq!((hints.queue.len(), hints.bytes), (0, 0));
    }

    #[tokio::test]
    async fn messages_other_than_hints_are_ignored() {
        let (mut hints, core) = hints();
        hints.received(&core, &Bytes::from(vec![0xff; 40]));
        hints.received(&core, &TrieMessage::Cache { start: 0, end: 1, blocks: vec![0] }.encode());
        assert!(hints.queue.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_used_up_its_steps_waits_for_more() {
        let (mut hints, core) = hints();
        hints.rate.spend(STEPS_PER_SECOND / 2, Instant::now());
        hints.received(&core, &get(1));
        let start = Instant::now();
        hints.answered().await;
        assert!(start.elapsed() >= std::time::Duration::from_millis(490), "{:?}", start.elapsed());
    }
}
