//! For the tests of this room and of the drive: a trie to write to, and a peer without a network.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;

use super::{Batch, Nodes, Removed, Trie, TrieKey};
use hypermount_core::testing::{Change, RemoteTree};
use hypermount_core::{Core, Hint, Located, Store};

/// A writable core in memory with these blocks.
pub(crate) fn core_of(blocks: &[Bytes]) -> Core {
    let core = Store::memory().core_named(b"index").expect("memory cannot fail");
    if !blocks.is_empty() {
        core.append(blocks).expect("memory cannot fail");
    }
    core
}

/// A step of a test's writer.
#[derive(Clone, Debug)]
pub(crate) enum WriterStep {
    Put { key: String, value: Bytes, flags: u64, hidden: bool },
    Remove { key: String, hidden: bool },
}

/// A writer as the reference is one: every batch one append.
pub(crate) struct Writer {
    nodes: Arc<Nodes>,
}

impl Writer {
    pub(crate) fn empty() -> Self {
        Self { nodes: Arc::new(Nodes::new(core_of(&[Bytes::from_static(b"\x0a\x09hypertrie")]))) }
    }

    pub(crate) fn core(&self) -> &Core {
        self.nodes.core()
    }

    pub(crate) fn trie(&self) -> Trie {
        Trie::at(Arc::clone(&self.nodes), self.core().head().length)
    }

    pub(crate) fn at(&self, version: u64) -> Trie {
        Trie::at(Arc::clone(&self.nodes), version)
    }

    pub(crate) async fn apply(&self, steps: &[WriterStep]) -> Vec<Removed> {
        let mut batch = Batch::new(self.trie()).await.unwrap();
        let mut removed = Vec::new();
        for step in steps {
            match step {
                WriterStep::Put { key, value, flags, hidden } => {
                    let key = TrieKey::new(key, *hidden).unwrap();
                    batch.put(key, Some(value.clone()), *flags).await.unwrap();
                }
                WriterStep::Remove { key, hidden } => {
                    let key = TrieKey::new(key, *hidden).unwrap();
                    removed.push(batch.remove(&key).await.unwrap());
                }
            }
        }
        let blocks = batch.encode();
        if !blocks.is_empty() {
            self.core().append(&blocks).unwrap();
        }
        removed
    }
}

/// What a peer was asked.
#[derive(Default)]
pub(crate) struct Traffic {
    /// How often a caller had to wait for an answer.
    pub rounds: AtomicU64,
    pub blocks: AtomicU64,
    pub hints: hypermount_swarm::sync::Mutex<Vec<Hint>>,
}

impl Traffic {
    pub(crate) fn rounds(&self) -> u64 {
        self.rounds.load(Ordering::Relaxed)
    }

    pub(crate) fn blocks(&self) -> u64 {
        self.blocks.load(Ordering::Relaxed)
    }
}

/// Answers what `reader` demands from `origin`: all that is demanded at once in one round trip.
/// Never returns: to be raced with the reader's work.
pub(crate) async fn serve(origin: &Core, reader: &Core, traffic: &Traffic) {
    let mut remote = RemoteTree::default();
    loop {
        reader.demand().changed().await;
        let mut asked = false;
        for change in reader.demand().take_changes() {
            let (block, hash_only) = match change {
                Change::Wanted { block, .. } => (block, false),
                Change::Seek { byte, blocks, .. } => {
                    match origin.locate(byte, blocks).expect("the origin has all nodes") {
                        Located::Found { block, .. } => (block, true),
                        Located::Within(_) => continue,
                    }
                }
                Change::Upgrade { .. } => (origin.head().length - 1, true),
                Change::Hint(hint) => {
                    traffic.hints.lock().push(hint);
                    continue;
                }
                _ => continue,
            };
            if block >= origin.head().length || (reader.has(block) && !hash_only) {
                continue;
            }
            asked = true;
            let digest = reader.digest(block);
            let proof = origin.prove(block, digest, hash_only, &mut remote).expect("a proof");
            traffic.blocks.fetch_add(1, Ordering::Relaxed);
            reader.accept(proof).expect("an honest proof is accepted");
        }
        traffic.rounds.fetch_add(u64::from(asked), Ordering::Relaxed);
    }
}

/// An empty reader's copy of the core.
pub(crate) fn reader_of(origin: &Core) -> Core {
    Store::memory().core(origin.key()).expect("memory cannot fail")
}
