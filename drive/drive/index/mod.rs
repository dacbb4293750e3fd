//! From path to entry: what turns a metadata core into names.
//!
//! What a drive needs of an index, whatever its format: [`IndexLog`] is the core that holds it, [`Index`]
//! one version of it (entry, list, changes between versions), [`Edits`] a batch of changes to append. They
//! speak paths, entries and stats. There are two formats, each in a folder: the hypertrie of Hyperdrive 10,
//! and the Hyperbee of Hyperdrive 11 to 13. (docs/decisions/0017)
//!
//! Not here: what an entry's bytes are, and which version is shown (`hyperdrive.rs`).

pub(crate) mod budget;
mod core_blocks;
pub(crate) mod trie;
pub(crate) mod bee;
#[cfg(fuzzing)]
pub mod fuzzing;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use bytes::Bytes;

use crate::link::LinkId;
use crate::path::{DrivePath, Name};
use crate::stat::{Entry, Stat};
use hypermount_core::{
    Answered, Core, Dialect, Error, ExtensionRequest, Result, Share, SharingOptions, Wait,
};
use hypermount_swarm::crypto::{PublicKey, blake2b, namespace};

use bee::blocks::Blocks;
use bee::tree::Tree;
use trie::{Batch, Nodes, Trie};

pub(crate) use bee::map::{BlockMap, MAX_MAP_BLOCK_BYTES, MAX_MAP_BLOCKS, MAX_MAP_PIECES, Piece};

/// The format of a drive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DriveFormat {
    /// An index in a hypertrie.
    Hyperdrive10,
    /// An index in a Hyperbee, the same in Hyperdrive 11, 12 and 13.
    Hyperdrive11,
}

impl DriveFormat {
    /// The kind of the cores of a drive that is made in this format.
    pub(crate) fn dialect(self) -> Dialect {
        match self {
            Self::Hyperdrive10 => Dialect::Legacy,
            Self::Hyperdrive11 => Dialect::Modern,
        }
    }
}

impl std::fmt::Display for DriveFormat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Hyperdrive10 => "hyperdrive 10",
            Self::Hyperdrive11 => "hyperdrive 11-13",
        })
    }
}

/// Options with which the hints of peers are answered from the index.
pub fn sharing_options(share: Share) -> SharingOptions {
    SharingOptions { share, answer: Some(respond) }
}

fn respond(core: &Core, request: &ExtensionRequest, cancelled: &AtomicBool) -> Answered {
    match request {
        ExtensionRequest::Get { .. } | ExtensionRequest::Iterator { .. } => {
            trie::responder::respond(core, request, cancelled)
        }
        ExtensionRequest::Entry { version, key } => {
            bee::responder::get(core, *version, key, cancelled)
        }
        ExtensionRequest::Range(range) => bee::responder::range(core, range, cancelled),
    }
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
#[allow(clippy::large_enum_variant)] // most edits are the large one
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
    Bee(Arc<Blocks>),
}

/// What the first block of an index says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FirstBlock {
    pub(crate) format: DriveFormat,
    /// The content core that it names.
    content: Option<PublicKey>,
}

impl FirstBlock {
    /// Reads the first block of `core`.
    ///
    /// # Errors
    /// `Malformed` if it does not begin an index, `Unsupported` if it begins one of another format.
    pub(crate) fn decode(core: &Core, block: &[u8]) -> Result<Self> {
        let bee = bee::block::Header::decode(block);
        if let Ok(bee::block::Header { content, .. }) = bee {
            return Ok(Self { format: DriveFormat::Hyperdrive11, content });
        }
        match (trie::Header::decode(block), core.dialect()) {
            (Ok(trie::Header { content }), _) => {
                Ok(Self { format: DriveFormat::Hyperdrive10, content })
            }
            (Err(error), Dialect::Legacy) => Err(error),
            (Err(_), Dialect::Modern) if core.has_wrong_encryption_key()? => {
                Err(Error::WrongEncryptionKey(*core.discovery_key()))
            }
            (Err(_), Dialect::Modern) if core.is_unlocked() => {
                let what =
                    "the encryption key fits, but the first block begins no Hyperbee: no drive";
                Err(Error::Malformed(what.into()))
            }
            (Err(_), Dialect::Modern) => Err(Error::NeedsEncryptionKey(*core.discovery_key())),
        }
    }

    /// The key of the content core of the drive with this index core: the one that is named or, in a drive of
    /// Hyperdrive 11 to 13, the one that derives from the manifest of the index core.
    ///
    /// # Errors
    /// `Malformed` for a Hyperbee with neither.
    pub(crate) fn content(&self, core: &Core) -> Result<Option<PublicKey>> {
        if self.format == DriveFormat::Hyperdrive10 || self.content.is_some() {
            return Ok(self.content);
        }
        let missing = || {
            let what =
                "a Hyperbee that names no content core, and from whose key none derives: no drive";
            Error::Malformed(what.into())
        };
        derived_content_key(core).ok_or_else(missing).map(Some)
    }
}

/// The key of the content core that derives from the manifest of an index core of Hyperdrive 12 and 13
/// (docs/format/hyperbee.md §1).
pub(crate) fn derived_content_key(index: &Core) -> Option<PublicKey> {
    index.key_with_namespaces(|signer| content_namespace(index, signer))
}

/// The namespace under which a signer of the index core signs the content core.
pub(crate) fn content_namespace(index: &Core, signer: &[u8; 32]) -> [u8; 32] {
    blake2b(&[&namespace("hyperdrive", 0), index.key().as_bytes(), signer])
}

impl IndexLog {
    /// The key of the content core of the drive that `core` is the index of, given its first block. An index of
    /// Hyperdrive 10 need not name one.
    ///
    /// # Errors
    /// Those of [`FirstBlock::decode`] and [`FirstBlock::content`].
    pub(crate) fn content_named_by(core: &Core, block: &[u8]) -> Result<Option<PublicKey>> {
        FirstBlock::decode(core, block)?.content(core)
    }

    /// The first block of a new index of this format. One of Hyperdrive 13 does not name its content core, which
    /// derives from its manifest.
    pub(crate) fn first_block(format: DriveFormat, content: PublicKey) -> Bytes {
        match format {
            DriveFormat::Hyperdrive10 => trie::Header { content: Some(content) }.encode(),
            DriveFormat::Hyperdrive11 => {
                bee::block::Header { content: None, records: true }.encode()
            }
        }
    }

    /// The index in `core`, whose first block says that it is of this format.
    pub(crate) fn new(core: Core, format: DriveFormat) -> Self {
        match format {
            DriveFormat::Hyperdrive10 => Self::Trie(Arc::new(Nodes::new(core))),
            DriveFormat::Hyperdrive11 => Self::Bee(Arc::new(Blocks::new(core))),
        }
    }

    pub(crate) fn format(&self) -> DriveFormat {
        match self {
            Self::Trie(_) => DriveFormat::Hyperdrive10,
            Self::Bee(_) => DriveFormat::Hyperdrive11,
        }
    }

    /// Whether changes of this index can be written: of a Hyperbee if it may have records.
    pub(crate) fn is_writable_format(&self) -> bool {
        match self {
            Self::Trie(_) => true,
            Self::Bee(blocks) => blocks.has_records(),
        }
    }

    /// The core that holds the index.
    pub(crate) fn core(&self) -> &Core {
        match self {
            Self::Trie(nodes) => nodes.core(),
            Self::Bee(blocks) => blocks.core(),
        }
    }

    /// The index when its core was `version` blocks long.
    pub(crate) fn at(&self, version: u64) -> Index {
        match self {
            Self::Trie(nodes) => Index::Trie(Trie::at(Arc::clone(nodes), version)),
            Self::Bee(blocks) => Index::Bee(Tree::at(Arc::clone(blocks), version)),
        }
    }

    /// The newest version that certainly has a root before block `seq`, given an older one that has: inside of a batch a
    /// Hyperbee has none.
    pub(crate) fn version_before(&self, seq: u64, older: u64) -> u64 {
        match self {
            Self::Trie(_) => seq,
            Self::Bee(_) => older,
        }
    }

    /// Asks peers for the whole index if it is small: that costs less than the round trips of two lookups.
    pub(crate) fn fetch_if_small(&self) {
        match self {
            Self::Trie(nodes) => nodes.fetch_if_small(),
            Self::Bee(blocks) => blocks.fetch_if_small(),
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
            Self::Bee(blocks) => bee::files::stored_at(blocks.core(), seq),
        }
    }
}

/// One version of an index.
#[derive(Clone)]
pub(crate) enum Index {
    Trie(Trie),
    Bee(Tree),
}

impl Index {
    /// The length of its core at this version, in blocks.
    pub(crate) fn version(&self) -> u64 {
        match self {
            Self::Trie(trie) => trie.version(),
            Self::Bee(tree) => tree.version(),
        }
    }

    /// What lies at `path`. The root always exists. The size of a file with a map is 0: it is not in the index.
    ///
    /// # Errors
    /// `NotFound` if nothing does, and only if that is proven; `Malformed` for an entry that makes no
    /// sense; those of [`Core::get`].
    pub(crate) async fn entry(&self, path: &DrivePath, wait: Wait) -> Result<Entry> {
        match self {
            Self::Trie(trie) => trie.entry(path, wait).await,
            Self::Bee(tree) => tree.entry(path, wait).await,
        }
    }

    /// The children of the directory `path` in the order of the index, each passed through `kept`; one whose entry
    /// makes no sense as the error that says why. Left out are names that a filesystem cannot hold, and what `kept`
    /// does not keep.
    ///
    /// # Errors
    /// `NotADirectory`, those of [`Index::entry`], and `TooLarge` for more than 36 MiB of an
    /// index that is not written here.
    pub(crate) async fn list<T>(
        &self,
        path: &DrivePath,
        wait: Wait,
        kept: impl Fn(Result<Entry>) -> Option<T>,
    ) -> Result<Vec<(Name, T)>> {
        match self {
            Self::Trie(trie) => trie.list(path, wait, kept).await,
            Self::Bee(tree) => tree.list(path, wait, kept).await,
        }
    }

    /// Whether some file may have several names. An answer without any look-up of a file.
    ///
    /// # Errors
    /// Those of [`Core::get`].
    pub(crate) async fn has_links(&self, wait: Wait) -> Result<bool> {
        match self {
            Self::Trie(trie) => trie.has_links(wait).await,
            Self::Bee(tree) => tree.has_links(wait).await,
        }
    }

    /// A part of the record of a file with several names, as stored.
    ///
    /// # Errors
    /// Those of [`Core::get`].
    pub(crate) async fn link_part(
        &self,
        id: LinkId,
        part: u32,
        wait: Wait,
    ) -> Result<Option<Bytes>> {
        match self {
            Self::Trie(trie) => trie.link_part(id, part, wait).await,
            Self::Bee(tree) => tree.link_part(id, part, wait).await,
        }
    }

    /// The core that holds the index.
    pub(crate) fn core(&self) -> &Core {
        match self {
            Self::Trie(trie) => trie.nodes().core(),
            Self::Bee(tree) => tree.blocks().core(),
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
            (Self::Bee(new), Self::Bee(old)) => new.changes(old, limit, wait).await,
            (Self::Trie(_), Self::Bee(_)) | (Self::Bee(_), Self::Trie(_)) => {
                Err(Error::Unsupported("differences between two formats".into()))
            }
        }
    }

    /// An empty batch on top of this version, whose blocks must be here.
    ///
    /// # Errors
    /// `Unsupported` for an index that is only read; those of [`Core::get_local`].
    pub(crate) async fn edits(self) -> Result<Edits> {
        match self {
            Self::Trie(trie) => Batch::new(trie).await.map(Edits::Trie),
            Self::Bee(tree) if tree.blocks().has_records() => {
                bee::batch::Batch::new(&tree).await.map(Edits::Bee)
            }
            Self::Bee(_) => {
                let what = "writing to a drive of Hyperdrive 11 to 13 that was not made here";
                Err(Error::Unsupported(what.into()))
            }
        }
    }
}

/// Changes to one version of an index, not yet appended.
pub(crate) enum Edits {
    Trie(Batch),
    Bee(bee::batch::Batch),
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
            Self::Bee(batch) => batch.edit(edit).await,
        }
    }

    /// Sets a part of the record of a file with several names; removes it without a `value`.
    ///
    /// # Errors
    /// Those of [`Core::get_local`]; `Unsupported` for what the format cannot hold.
    pub(crate) async fn set_link_part(
        &mut self,
        id: LinkId,
        part: u32,
        value: Option<Bytes>,
    ) -> Result<()> {
        match self {
            Self::Trie(batch) => batch.set_link_part(id, part, value).await,
            Self::Bee(batch) => batch.set_link_part(id, part, value).await,
        }
    }

    /// The blocks to append, in order.
    pub(crate) fn encode(&self) -> Vec<Bytes> {
        match self {
            Self::Trie(batch) => batch.encode(),
            Self::Bee(batch) => batch.encode(),
        }
    }
}
