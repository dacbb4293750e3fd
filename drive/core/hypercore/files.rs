//! What a core needs of the files that keep it, whatever their layout.
//!
//! *Facts* (block bytes, nodes, signatures) are written at once, *claims* (which of them are here) later
//! and only after a sync of the facts. Every kind of core has its own layout and its own rule for what
//! to believe at open; both are behind [`CoreFiles`], the second in what `Dialect::open` returns.
//!
//! Not here: which nodes are believed later (`nodes.rs`) and when claims are written (`claims.rs`).

use std::io;
use std::path::Path;

use super::bitfield::Bitfield;
use super::merkle::{Head, Signature, TreeNode};
use super::storage::Storage;
use crate::error::Result;
use hypermount_swarm::crypto::{KeyPair, PublicKey};

/// Opens the file of a core with the given name. Nothing is created before the first write.
pub(crate) type OpenFile<'a> = &'a dyn Fn(&'static str) -> io::Result<Box<dyn Storage>>;

/// Bitfield pages, numbered, in the form that [`Bitfield`] keeps in memory.
pub(super) type Pages = Vec<(usize, Box<[u8]>)>;

/// What `Dialect::open` is given.
pub(crate) struct OpenFiles<'a> {
    /// Where the files are, for error messages.
    pub(crate) directory: &'a Path,
    pub(crate) open_file: OpenFile<'a>,
    pub(crate) key: &'a PublicKey,
    /// The secret half, if it is known.
    pub(crate) pair: Option<KeyPair>,
    /// Whether `pair` is to be stored beside the core.
    pub(crate) store_pair: bool,
    /// Whether the medium can be written.
    pub(crate) writable: bool,
    /// The core takes no more appends: it may have holes that a peer fills.
    pub(crate) stopped: bool,
}

/// What `Dialect::open` found.
pub(crate) struct Opened {
    pub(crate) files: Box<dyn CoreFiles>,
    /// The secret half: as it was given, or as it is stored.
    pub(crate) pair: Option<KeyPair>,
    pub(crate) found: Recovered,
}

/// An opened core's state as far as it verifies.
pub(crate) struct Recovered {
    pub(crate) bits: Bitfield,
    pub(crate) head: Head,
    pub(crate) roots: Vec<TreeNode>,
    /// `None` while the core is empty.
    pub(crate) signature: Option<Signature>,
    /// What was claimed, and so had been synced: the head, or shorter where more was found.
    pub(crate) settled: Head,
}

/// The files of one open core. Every error names the file.
///
/// A virtual call per file access: next to the system call it cannot be measured.
pub(crate) trait CoreFiles: Send + Sync {
    /// The node's record; `None` if it is blank or beyond the end.
    fn read_node(&self, index: u64) -> Result<Option<TreeNode>>;

    /// Writes nodes given in ascending order, neighbours in one call.
    fn write_nodes(&self, nodes: &[TreeNode]) -> Result<()>;

    /// Writes the records `start..end` whole: the given nodes, all others blank.
    fn write_node_range(&self, start: u64, end: u64, nodes: &[TreeNode]) -> Result<()>;

    /// The signature stored for the core as long as `length` blocks; `None` if there is none.
    fn read_signature(&self, length: u64) -> Result<Option<Signature>>;

    /// Stores the signature of the core as long as `length` blocks.
    fn write_signature(&self, length: u64, signature: &Signature) -> Result<()>;

    /// Makes the stored signature of this length unreadable.
    fn blank_signature(&self, length: u64) -> Result<()>;

    /// The longest length in blocks that may have a stored signature.
    fn longest_signed(&self) -> Result<u64>;

    /// Forgets all signatures of cores longer than `length` blocks.
    fn drop_signatures_after(&self, length: u64) -> Result<()>;

    /// Fills `buffer` with the bytes of blocks from `offset` on; false if they end before.
    fn read_data(&self, offset: u64, buffer: &mut [u8]) -> Result<bool>;

    fn write_data(&self, offset: u64, bytes: &[u8]) -> Result<()>;

    /// Gives back the disk space of these bytes of blocks, which nothing claims any more.
    fn release_data(&self, start: u64, end: u64) -> Result<()>;

    /// The page as it is claimed in the files, extended with zeros.
    fn read_claims(&self, page: usize) -> Result<Vec<u8>>;

    /// Claims what these pages say. With `ordered`, no power cut leaves a length claimed whose blocks
    /// are not, and the claims are synced on return: they are shown to peers.
    fn write_claims(&self, pages: &Pages, ordered: bool) -> Result<()>;

    /// Makes data, nodes and signatures survive a power cut.
    fn sync_facts(&self) -> Result<()>;

    /// Makes the claims survive a power cut.
    fn sync_claims(&self) -> Result<()>;

    /// Whether the files are in memory, where nothing waits for a sync.
    fn are_volatile(&self) -> bool;
}
