//! What a core needs of the files that keep it, whatever their layout.
//!
//! *Facts* (block bytes, nodes, signatures) are written at once, *claims* (which of them are here) later
//! and only after a sync of the facts. Every kind of core has its own layout and its own rule for what
//! to believe at open; both are behind [`CoreFiles`], the second in what `Dialect::open` returns.
//!
//! Not here: which nodes are believed later (`nodes.rs`) and when claims are written (`claims.rs`).

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::bitfield::Bitfield;
use super::merkle::{Head, Signature, TreeNode};
use super::storage::Storage;
use super::zeros::{MIN_ZEROS, is_zeros};
use crate::error::{Error, Result};
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
    /// Whether a pair is stored beside the core: `pair` is written there, and without one the stored one is taken.
    pub(crate) store_pair: bool,
    /// Of a new core of Hypercore 10 and 11 that `pair` signs: its manifest, unless it is that of one signer.
    pub(crate) manifest: Option<Bytes>,
    /// Whether the medium can be written.
    pub(crate) writable: bool,
    /// Whether the files belong to another program, which uses them too: a damaged file is an error, and is not
    /// replaced by what peers send.
    pub(crate) adopted: bool,
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
    /// The signature of `settled`, where no file has it once there is a longer head.
    pub(crate) settled_signature: Option<Signature>,
}

/// A head as it is stored.
pub(super) struct SignedHead<'a> {
    pub(super) head: Head,
    pub(super) roots: &'a [TreeNode],
    pub(super) signature: &'a Signature,
    /// The bytes of the core's manifest, if it has one.
    pub(super) manifest: Option<Bytes>,
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

    /// Stores the signature over these roots of the core at this head, and what else the layout keeps of
    /// a head.
    fn write_head(&self, head: &SignedHead<'_>) -> Result<()>;

    /// Stores the head after an append to a core of ours, whose data and nodes are written. Then it survives the end
    /// of this process.
    fn write_appended(&self, head: &SignedHead<'_>) -> Result<()> {
        self.write_head(head)
    }

    /// Stores a head of a later fork, with the nodes that lead to it; the blocks in `replaced`, of the head before, are
    /// held no longer. A power cut leaves the one head or the other.
    fn write_fork(
        &self,
        head: &SignedHead<'_>,
        nodes: &[TreeNode],
        replaced: Range<u64>,
    ) -> Result<()>;

    /// Makes the stored signature of this length unreadable.
    fn blank_signature(&self, length: u64) -> Result<()>;

    /// The longest length in blocks that may have a stored signature.
    fn longest_signed(&self) -> Result<u64>;

    /// Forgets all signatures of cores longer than `length` blocks.
    fn drop_signatures_after(&self, length: u64) -> Result<()>;

    /// Fills `buffer` with the bytes of blocks from `offset` on; false if they end before.
    fn read_data(&self, offset: u64, buffer: &mut [u8]) -> Result<bool>;

    /// Writes bytes of blocks, from `offset` on; zeros take no disk space.
    fn write_data(&self, offset: u64, bytes: &[u8]) -> Result<()>;

    /// Has the device begin to write these bytes of blocks, without waiting for it.
    fn begin_writeback(&self, offset: u64, length: u64);

    /// Gives back the disk space of these bytes of blocks, which nothing claims any more.
    fn release_data(&self, start: u64, end: u64) -> Result<()>;

    /// The page as it is claimed in the files, extended with zeros.
    fn read_claims(&self, page: usize) -> Result<Vec<u8>>;

    /// Claims what these pages say. In a core of ours they are all pages that changed while it had `settled` blocks:
    /// no power cut leaves a length claimed whose blocks are not, and the claims are synced on return, because they
    /// are shown to peers.
    fn write_claims(&self, pages: &Pages, settled: Option<u64>) -> Result<()>;

    /// Whether appends are to wait until claims are written: what keeps them in the meantime has grown long.
    fn wants_claims(&self) -> bool {
        false
    }

    /// Makes data, nodes and signatures survive a power cut.
    fn sync_facts(&self) -> Result<()>;

    /// Makes the claims survive a power cut.
    fn sync_claims(&self) -> Result<()>;

    /// Whether the files are in memory, where nothing waits for a sync.
    fn are_volatile(&self) -> bool;
}

/// A named file that puts its path into every error.
pub(super) struct File {
    storage: Box<dyn Storage>,
    path: PathBuf,
}

impl File {
    fn failed(&self, op: &'static str) -> impl FnOnce(io::Error) -> Error + '_ {
        move |source| Error::Storage { op, path: self.path.clone(), source }
    }

    /// How many bytes were read: fewer than asked for at the end of the file alone.
    pub(super) fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        self.storage.read_at(offset, buffer).map_err(self.failed("read"))
    }

    pub(super) fn write(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.storage.write_at(offset, bytes).map_err(self.failed("write"))
    }

    /// Writes bytes of blocks; zeros take no disk space. No other thread may write blocks meanwhile.
    pub(super) fn write_blocks(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        if bytes.len() < MIN_ZEROS || !is_zeros(bytes) {
            return self.write(offset, bytes);
        }
        let written = self.storage.write_zeros(offset, bytes.len() as u64);
        written.map_err(self.failed("write"))
    }

    pub(super) fn len(&self) -> Result<u64> {
        self.storage.len().map_err(self.failed("stat"))
    }

    pub(super) fn truncate(&self, length: u64) -> Result<()> {
        self.storage.truncate(length).map_err(self.failed("truncate"))
    }

    pub(super) fn sync(&self) -> Result<()> {
        self.storage.sync().map_err(self.failed("sync"))
    }

    pub(super) fn begin_writeback(&self, offset: u64, length: u64) {
        self.storage.begin_writeback(offset, length);
    }

    pub(super) fn is_volatile(&self) -> bool {
        self.storage.is_volatile()
    }

    /// Gives back the disk space of these bytes: at the end of the file by cutting it (as the reference does),
    /// else as holes.
    pub(super) fn release(&self, start: u64, end: u64) -> Result<()> {
        const HOLE: u64 = MIN_ZEROS as u64;
        let length = self.len()?;
        if start >= length {
            return Ok(());
        }
        if end >= length {
            return self.truncate(start);
        }
        let (first, last) = (start.next_multiple_of(HOLE), end - end % HOLE);
        if first < last {
            let failed = self.failed("release space of");
            self.storage.punch(first, last - first).map_err(failed)?;
        }
        Ok(())
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

pub(super) fn open_file(directory: &Path, open: OpenFile, name: &'static str) -> Result<File> {
    let path = directory.join(name);
    match open(name) {
        Ok(storage) => Ok(File { storage, path }),
        Err(source) => Err(Error::Storage { op: "open", path, source }),
    }
}
