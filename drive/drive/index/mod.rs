//! From path to entry: what turns a metadata core into names.
//!
//! What a drive needs of an index, whatever its format: [`IndexLog`] is the core that holds it, [`Index`]
//! one version of it (entry, list, changes between versions), [`Edits`] a batch of changes to append. They
//! speak paths, entries and stats. There is one format, the hypertrie of Hyperdrive 10; a second one adds
//! a folder beside `trie/`, a variant to each of the three, an arm to each match here, and a choice where
//! there is no match yet. (docs/decisions/0017)
//!
//! Not here: what an entry's bytes are, and which version is shown (`hyperdrive.rs`).

pub(crate) mod budget;
mod core_blocks;
pub(crate) mod trie;
mod bee;
#[cfg(fuzzing)]
pub mod fuzzing;

use std::sync::Arc;

use bytes::Bytes;

use crate::path::{DrivePath, Name};
use crate::stat::{Entry, Stat};
use hypermount_core::{Core, Result, Share, SharingOptions, Wait};
use hypermount_swarm::crypto::PublicKey;

use trie::{Batch, Header, Nodes, Trie};

/// Options with which the hints of peers are answered from the index.
pub fn sharing_options(share: Share) -> SharingOptions {
    SharingOptions { share, answer: Some(trie::responder::respond) }
}

/// One difference between two versions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changed {
    /// Where they differ.
    pub path: DrivePath,
    /// The entry in the older version; `None` if there was none.
    pub before: Option<Entry>,
    /// The entry in the newer version; `None` if there is none.
    pub after: Option<Entry>,
}

/// One step of a commit. A batch of them becomes one signed append.
#[derive(Clone, Debug)]
pub enum Edit {
    /// Stores an entry; replaces the one that is there.
    Put {
        /// Where; its parents need not exist.
        path: DrivePath,
        /// What; its extent must be in the content core.
        stat: Stat,
    },
    /// Removes the entry, and not what is below it.
    Remove {
        /// Where.
        path: DrivePath,
    },
}

/// A stat that one block of an index stores, and the path it stores it at.
#[derive(Clone, Debug)]
pub(crate) struct Stored {
    /// Without a slash at the front; it need not be a path that a filesystem can hold.
    pub(crate) path: String,
    pub(crate) stat: Stat,
}

/// The core that holds an index, with what is decoded of it.
#[derive(Clone)]
pub(crate) enum IndexLog {
    Trie(Arc<Nodes>),
}

impl IndexLog {
    /// The key of the content core that the first block of an index names, if it names one.
    ///
    /// # Errors
    /// `Malformed` if the block does not begin an index, `Unsupported` if it begins one of another format.
    pub(crate) fn content_named_by(block: &[u8]) -> Result<Option<PublicKey>> {
        Ok(Header::decode(block)?.content)
    }

    /// The first block of a new index.
    pub(crate) fn first_block(content: PublicKey) -> Bytes {
        Header { content: Some(content) }.encode()
    }

    /// The index in `core`, whose first block has passed [`IndexLog::content_named_by`].
    pub(crate) fn new(core: Core) -> Self {
        Self::Trie(Arc::new(Nodes::new(core)))
    }

    /// The core that holds the index.
    pub(crate) fn core(&self) -> &Core {
        match self {
            Self::Trie(nodes) => nodes.core(),
        }
    }

    /// The index when its core was `version` blocks long.
    pub(crate) fn at(&self, version: u64) -> Index {
        match self {
            Self::Trie(nodes) => Index::Trie(Trie::at(Arc::clone(nodes), version)),
        }
    }

    /// Asks peers for the whole index if it is small: that costs less than the round trips of two lookups.
    pub(crate) fn fetch_if_small(&self) {
        match self {
            Self::Trie(nodes) => nodes.fetch_if_small(),
        }
    }

    /// The file or directory that block `seq` stores; `None` if it stores none (such as a mount), is not
    /// here, or makes no sense.
    ///
    /// # Errors
    /// Those of [`Core::get_local`].
    pub(crate) fn stored_at(&self, seq: u64) -> Result<Option<Stored>> {
        match self {
            Self::Trie(nodes) => trie::stored_at(nodes.core(), seq),
        }
    }
}

/// One version of an index.
#[derive(Clone)]
pub(crate) enum Index {
    Trie(Trie),
}

impl Index {
    /// The length of its core at this version, in blocks.
    pub(crate) fn version(&self) -> u64 {
        match self {
            Self::Trie(trie) => trie.version(),
        }
    }

    /// What lies at `path`. The root always exists.
    ///
    /// # Errors
    /// `NotFound` if nothing does, and only if that is proven; `Malformed` for an entry that makes no
    /// sense; those of [`Core::get`].
    pub(crate) async fn entry(&self, path: &DrivePath, wait: Wait) -> Result<Entry> {
        match self {
            Self::Trie(trie) => trie.entry(path, wait).await,
        }
    }

    /// The children of the directory `path` in the order of the index, each passed through `kept`. Left
    /// out are names that a filesystem cannot hold and entries that make no sense.
    ///
    /// # Errors
    /// `NotADirectory`, those of [`Index::entry`], and `TooLarge` for more than 36 MiB of an
    /// index that is not written here.
    pub(crate) async fn list<T>(
        &self,
        path: &DrivePath,
        wait: Wait,
        kept: impl Fn(Entry) -> T,
    ) -> Result<Vec<(Name, T)>> {
        match self {
            Self::Trie(trie) => trie.list(path, wait, kept).await,
        }
    }

    /// What differs from `old`, at most `limit` changes. Left out are entries that were written again with
    /// the same value, and names that a filesystem cannot hold. An entry that makes no sense counts as none.
    ///
    /// # Errors
    /// `TooLarge` for more changes, or for more than 36 MiB; those of [`Core::get`].
    pub(crate) async fn changes(
        &self,
        old: &Self,
        limit: usize,
        wait: Wait,
    ) -> Result<Vec<Changed>> {
        match (self, old) {
            (Self::Trie(new), Self::Trie(old)) => new.changes(old, limit, wait).await,
        }
    }

    /// An empty batch on top of this version, whose blocks must be here.
    ///
    /// # Errors
    /// Those of [`Core::get_local`].
    pub(crate) async fn edits(self) -> Result<Edits> {
        match self {
            Self::Trie(trie) => Batch::new(trie).await.map(Edits::Trie),
        }
    }
}

/// Changes to one version of an index, not yet appended.
pub(crate) enum Edits {
    Trie(Batch),
}

impl Edits {
    /// Adds one change, which sees those before it.
    ///
    /// # Errors
    /// `NotFound` if nothing is there to be removed, `ReadOnly` inside a nested drive, `Unsupported` or
    /// `TooLarge` for what the format cannot hold.
    pub(crate) async fn add(&mut self, edit: Edit) -> Result<()> {
        match self {
            Self::Trie(batch) => batch.edit(edit).await,
        }
    }

    /// The blocks to append, in order.
    pub(crate) fn encode(&self) -> Vec<Bytes> {
        match self {
            Self::Trie(batch) => batch.encode(),
        }
    }
}
