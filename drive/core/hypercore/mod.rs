//! One signed append-only log (the legacy term is feed): what it holds, what it provably is, and
//! which callers wait for the rest.
//!
//! A [`Core`] is split by operation: `nodes.rs` (which tree nodes are believed), `read.rs`,
//! `append.rs`, `accept.rs`, `prove.rs`, `clear.rs`, `holes.rs`, `claims.rs` (when the bitfield is written),
//! `recover.rs` (open), `check.rs` and `repair.rs` (damage on this disk). Deliberately not here: the network; a core meets its replicator only
//! at [`Demand`] and at [`Core::accept`].
//!
//! INVARIANTS: `head`, `roots` and `signature` agree, and the signature has been verified;
//! `verified` holds only nodes with a proven path to signed roots; a set data bit whose block was
//! stored by this process has its facts in the files already.

pub(crate) mod flat_tree;
pub(crate) mod bitfield;
pub(crate) mod merkle;
pub(crate) mod zeros;
mod tree_hash;
pub(crate) mod storage;
mod files;
mod legacy;
mod modern;
mod dialect;
pub(crate) mod cache;
pub(crate) mod demand;

// Methods of Core, one file per operation; they may use all of the above and each other.
mod accept;
mod append;
pub(crate) mod check;
mod claims;
mod clear;
mod cuts;
mod holes;
mod nodes;
mod prove;
mod read;
pub(crate) mod repair;
mod stop;
mod suspect;
mod truncate;
mod unlock;
#[cfg(test)]
mod tests;

use std::any::Any;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use bytes::Bytes;
use lru::LruCache;
use tokio::sync::{broadcast, watch};

use crate::error::{Error, Result};
use bitfield::Bitfield;
use cache::{BlockCache, CoreId};
use demand::Demand;
use dialect::Author;
#[cfg(fuzzing)]
pub(crate) use dialect::fuzzing;
pub(crate) use dialect::{
    BlockPart, HashPart, ProofParts, ProofRequest, Received, Seek, SeekPart, Side, Upgrade,
    UpgradePart, Way, capability, stored_key,
};
pub use dialect::{Dialect, HashedBlocks, Proof, ReceivedProof, RemoteTree};
pub(crate) use files::OpenFile;
use files::{CoreFiles, OpenFiles, Opened, SignedHead};
use hypermount_swarm::crypto::{DiscoveryKey, KeyPair, PublicKey};
use hypermount_swarm::sync::{Mutex, Rank};
pub use merkle::Head;
use merkle::{Signature, Signed, TreeNode};
pub(crate) use prove::Unproven;
pub(crate) use stop::OnStop;
pub use stop::StopReason;

/// Verified tree nodes kept in memory per core: about 1.5 MiB.
pub(crate) const MAX_VERIFIED_NODES: usize = 16_384;
/// Events a slow subscriber may be behind before it loses the oldest.
pub(crate) const MAX_PENDING_EVENTS: usize = 1024;

/// Where a byte of the core is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Located {
    /// In `block`, `offset` bytes into it.
    Found {
        /// The block.
        block: u64,
        /// Offset of the byte in it, in bytes.
        offset: u64,
    },
    /// Somewhere in these blocks; the tree nodes that would tell are not here yet.
    Within(Range<u64>),
}

/// What accepting a proof changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// The block is new here (false for a hash-only proof or a block we had).
    pub(crate) stored: bool,
    /// The new head, if the proof carried a longer signed one.
    pub(crate) head: Option<Head>,
}

/// Why a proof was not accepted.
#[derive(Debug, thiserror::Error)]
pub enum Rejected {
    /// The peer's fault: drop it.
    #[error("invalid: {0}")]
    Invalid(String),
    /// Validly signed, but contradicts what was verified before: the key signed two histories.
    #[error("a signed history of {theirs} blocks contradicts the {ours} blocks known here")]
    Forked {
        /// Length of ours, in blocks.
        ours: u64,
        /// Length of the other one, in blocks.
        theirs: u64,
    },
    /// Validly signed at a length of `signed` blocks, but this proof does not show that this history
    /// and ours, of `ours` blocks, are one.
    #[error(
        "a signed history of {signed} blocks is not shown to be one with the {ours} blocks known here"
    )]
    Unconnected {
        /// Length of ours, in blocks.
        ours: u64,
        /// Length that is signed, in blocks.
        signed: u64,
    },
    /// Of another fork than the core is at: the author has truncated it, and the answer crossed with that.
    #[error("a proof of fork {theirs}, but the core is at fork {ours}")]
    OtherFork {
        /// Of the core here.
        ours: u64,
        /// Of the proof.
        theirs: u64,
    },
    /// Our own disk failed; the peer is innocent.
    #[error(transparent)]
    Storage(Error),
}

/// A change of what is held here that did not come from a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CoreEvent {
    /// Blocks `start..start + length` were written here, and survive a power cut.
    Appended {
        /// The first block.
        start: u64,
        /// Number of blocks.
        length: u64,
    },
    /// Blocks `start..start + length` are no longer here.
    Cleared {
        /// The first block.
        start: u64,
        /// Number of blocks.
        length: u64,
    },
}

/// Stored blocks that [`Core::audit`] hashed again.
#[cfg(any(test, fuzzing))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Audit {
    pub(crate) valid: u64,
    pub(crate) invalid: u64,
}

/// How to open a core.
pub struct Opening<'a> {
    /// Where the files are, for error messages.
    pub directory: &'a Path,
    /// Opens one file of the core by its name.
    pub open_file: OpenFile<'a>,
    /// The key of the core.
    pub key: PublicKey,
    /// Its kind.
    pub dialect: Dialect,
    /// The secret half, if this machine may append.
    pub pair: Option<KeyPair>,
    /// Whether a pair is kept beside the core, in the `secret_key` file or in the `oplog`: `pair` is written there, and
    /// without one the stored one is taken.
    pub store_pair: bool,
    /// Of a new core of Hypercore 10 and 11 that `pair` signs: its manifest, unless it is that of one signer under the
    /// default namespace.
    pub manifest: Option<Bytes>,
    /// Whether the medium can be written at all.
    pub writable: bool,
    /// Whether the files belong to another program, which uses them too: a damaged file is an error, and is not
    /// replaced by what peers send.
    pub adopted: bool,
    /// Holds blocks that were read; shared by the cores of a store.
    pub cache: Arc<BlockCache>,
    /// Kept alive as long as the core: the locks on its files.
    pub keep: Option<Arc<dyn Any + Send + Sync>>,
    /// Known before: appending here would fork the core.
    pub stop: Option<StopReason>,
    /// Told when that is found out later.
    pub on_stop: Option<OnStop>,
}

struct CoreState {
    head: Head,
    cuts: cuts::Cuts,
    roots: Vec<TreeNode>,
    /// The signature of `head`; `None` while it is empty.
    signature: Option<Signature>,
    bits: Bitfield,
    verified: LruCache<u64, TreeNode>,
    /// Blocks and bytes stored since the bitfield was last written.
    unclaimed: claims::Unclaimed,
    /// Where the secret key is here: what is on the device, and shown to peers.
    settled: Head,
    /// Its signature, in a core of Hypercore 10 and 11: the files have that of the newest head alone.
    settled_signature: Option<Signature>,
    /// What is here beyond `settled` may have missed the device: a sync failed, or an earlier process
    /// ended before one.
    suspect: bool,
}

/// Numbers for [`CoreId`].
static NEXT_ID: AtomicU64 = AtomicU64::new(0);

/// By what a store knows a core: one key may name a core of each kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct CoreName {
    pub(crate) dialect: Dialect,
    pub(crate) discovery_key: DiscoveryKey,
}

struct Inner {
    id: CoreId,
    directory: PathBuf,
    author: Author,
    discovery_key: DiscoveryKey,
    pair: Option<KeyPair>,
    files: Box<dyn CoreFiles>,
    /// Whether the medium can be written.
    writable: bool,
    /// As [`Opening::adopted`].
    adopted: bool,
    /// Held while bitfield pages are written: they must not overtake each other.
    claims: Mutex<()>,
    /// Held while facts change: append, accept, clear.
    writer: Mutex<()>,
    state: Mutex<CoreState>,
    cache: Arc<BlockCache>,
    demand: Arc<Demand>,
    head: watch::Sender<Head>,
    events: broadcast::Sender<CoreEvent>,
    flush_scheduled: AtomicBool,
    /// The core to settle before this one.
    settled_after: OnceLock<Weak<Inner>>,
    /// What was found at open beyond the claimed length.
    recovered: Range<u64>,
    /// Of an encrypted core, once its key is here.
    unlocked: Mutex<Option<Arc<unlock::Unlocked>>>,
    stop: OnceLock<StopReason>,
    on_stop: Option<OnStop>,
    repairing: repair::Repairs,
    /// Handles of those that only give the core to peers, see [`Core::given_by`].
    given: AtomicUsize,
    /// Held by the one replicator of the core.
    driving: Arc<tokio::sync::Mutex<()>>,
    keep: Option<Arc<dyn Any + Send + Sync>>,
}

/// A cheap handle on one shared core.
#[derive(Clone)]
pub struct Core {
    inner: Arc<Inner>,
}

/// Handles of a core that its replicator takes: the task's and the state machine's.
pub(crate) const HANDLES_OF_REPLICATOR: usize = 2;

/// See [`Core::given_by`].
pub(crate) struct Given {
    core: Weak<Inner>,
    handles: usize,
}

impl Drop for Given {
    fn drop(&mut self) {
        if let Some(core) = self.core.upgrade() {
            core.given.fetch_sub(self.handles, Ordering::AcqRel);
        }
    }
}

/// A core that may be gone.
pub(crate) struct WeakCore(Weak<Inner>);

impl WeakCore {
    pub(crate) fn is_gone(&self) -> bool {
        self.0.strong_count() == 0
    }

    pub(crate) fn upgrade(&self) -> Option<Core> {
        self.0.upgrade().map(|inner| Core { inner })
    }
}

impl Inner {
    /// Stores a head, and the manifest with it.
    fn write_head(&self, head: Head, roots: &[TreeNode], signature: &Signature) -> Result<()> {
        let manifest = self.author.manifest();
        self.files.write_head(&SignedHead { head, roots, signature, manifest })
    }

    /// Stores the head after an append, see [`CoreFiles::write_appended`].
    fn write_appended(&self, head: Head, roots: &[TreeNode], signature: &Signature) -> Result<()> {
        let manifest = self.author.manifest();
        self.files.write_appended(&SignedHead { head, roots, signature, manifest })
    }

    /// Stores a head of a later fork, see [`CoreFiles::write_fork`].
    fn write_fork(
        &self,
        head: Head,
        signed: &Signed,
        nodes: &[TreeNode],
        replaced: Range<u64>,
    ) -> Result<()> {
        let (roots, signature) = (&signed.roots[..], &signed.signature);
        let manifest = self.author.manifest();
        self.files.write_fork(&SignedHead { head, roots, signature, manifest }, nodes, replaced)
    }
}

impl Core {
    /// Opens the core in the given files, making it where they are empty. An intact core is not
    /// modified; a damaged one is mended as far as what is left proves.
    ///
    /// # Errors
    /// `Storage`, `Corrupt` for a core of ours that cannot be mended, `NotAStore` for files of another core,
    /// `Locked`.
    pub fn open(opening: Opening) -> Result<Self> {
        let Opening { directory, open_file, key, pair, store_pair, writable, cache, .. } = opening;
        let Opening { manifest, adopted, keep, stop, on_stop, .. } = opening;
        let dialect = opening.dialect;
        let stopped = stop.is_some();
        let files = OpenFiles {
            directory,
            open_file,
            key: &key,
            pair,
            store_pair,
            manifest,
            writable,
            adopted,
            stopped,
        };
        let (Opened { files, pair, found }, author) = dialect.open(files)?;
        let capacity = NonZeroUsize::new(MAX_VERIFIED_NODES).unwrap_or(NonZeroUsize::MIN);
        let state = CoreState {
            head: found.head,
            roots: found.roots,
            signature: found.signature,
            bits: found.bits,
            verified: LruCache::new(capacity),
            cuts: cuts::Cuts::default(),
            unclaimed: claims::Unclaimed::default(),
            suspect: found.settled.length < found.head.length,
            settled: found.settled,
            settled_signature: found.settled_signature,
        };
        Ok(Self {
            inner: Arc::new(Inner {
                id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
                directory: directory.to_owned(),
                discovery_key: key.discovery_key(),
                author,
                pair,
                files,
                writable,
                adopted,
                claims: Mutex::new(Rank::CORE_CLAIMS, ()),
                writer: Mutex::new(Rank::CORE_WRITER, ()),
                head: watch::Sender::new(state.head),
                state: Mutex::new(Rank::CORE, state),
                cache,
                demand: Demand::new(),
                events: broadcast::Sender::new(MAX_PENDING_EVENTS),
                flush_scheduled: AtomicBool::new(false),
                settled_after: OnceLock::new(),
                recovered: found.settled.length..found.head.length,
                unlocked: Mutex::new(Rank::LEAF, None),
                stop: stop.map_or_else(OnceLock::new, OnceLock::from),
                on_stop,
                repairing: repair::Repairs::default(),
                given: AtomicUsize::new(0),
                driving: Arc::default(),
                keep,
            }),
        })
    }

    /// The public key, by which peers know the core.
    pub fn key(&self) -> &PublicKey {
        self.inner.author.key()
    }

    /// The key of the core that the same signers sign, each under the namespace (32 bytes) that `derive` makes of
    /// its own: of a core of Hypercore 10 and 11 whose manifest is known and of version 1 or later.
    pub fn key_with_namespaces(&self, derive: impl Fn(&[u8; 32]) -> [u8; 32]) -> Option<PublicKey> {
        self.inner.author.key_with_namespaces(derive)
    }

    /// The key and the manifest of the core of [`Core::key_with_namespaces`], and the key pair that signs both, if it is
    /// here.
    pub(crate) fn beside(
        &self,
        derive: impl Fn(&[u8; 32]) -> [u8; 32],
    ) -> Option<(PublicKey, Bytes, KeyPair)> {
        let (key, manifest) = self.inner.author.beside(derive)?;
        Some((key, manifest, self.inner.pair.clone()?))
    }

    /// A hash of the key, which does not tell the key: the topic under which peers find each other.
    pub fn discovery_key(&self) -> &DiscoveryKey {
        &self.inner.discovery_key
    }

    pub(crate) fn name(&self) -> CoreName {
        CoreName { dialect: self.dialect(), discovery_key: self.inner.discovery_key }
    }

    /// Whether this machine has the secret key, may write the files, and may append to them.
    pub fn writable(&self) -> bool {
        self.inner.pair.is_some() && self.inner.writable && self.inner.stop.get().is_none()
    }

    /// How long the core provably is.
    pub fn head(&self) -> Head {
        self.inner.state.lock().head
    }

    /// Checks that the blocks before `end` are those of the time when the head had this fork counter. Blocks that were
    /// read before this check are then of that time too.
    ///
    /// # Errors
    /// `Shortened`.
    pub fn check_kept(&self, fork: u64, end: u64) -> Result<()> {
        match self.inner.state.lock().cuts.keep(fork, end) {
            true => Ok(()),
            false => Err(Error::Shortened(self.inner.discovery_key)),
        }
    }

    /// Fires when the head moves.
    pub fn watch(&self) -> watch::Receiver<Head> {
        self.inner.head.subscribe()
    }

    /// What changes here by other means than [`Core::accept`], for announcing it to peers.
    pub fn events(&self) -> broadcast::Receiver<CoreEvent> {
        self.inner.events.subscribe()
    }

    /// The blocks that callers wait for.
    pub fn demand(&self) -> &Arc<Demand> {
        &self.inner.demand
    }

    /// Whether the block is stored here.
    pub fn has(&self, block: u64) -> bool {
        self.inner.state.lock().bits.has_data(block)
    }

    /// The blocks of the range that are here, ascending.
    pub(super) fn held_blocks(&self, blocks: Range<u64>) -> impl Iterator<Item = u64> + '_ {
        let mut next = blocks.start;
        std::iter::from_fn(move || {
            let block = self.inner.state.lock().bits.first_present(next..blocks.end)?;
            next = block + 1;
            Some(block)
        })
    }

    /// How many blocks of the range are stored here.
    pub fn held(&self, blocks: Range<u64>) -> u64 {
        self.inner.state.lock().bits.count(blocks)
    }

    /// The first block in the range that is not stored here.
    pub fn first_missing(&self, blocks: Range<u64>) -> Option<u64> {
        self.inner.state.lock().bits.first_missing(blocks)
    }

    /// The data bits of `start..start + length` as bytes, most significant bit first, cut after
    /// the last block that peers are shown.
    pub(crate) fn data_bits(&self, start: u64, length: u64) -> Vec<u8> {
        let state = self.inner.state.lock();
        let shown = if self.inner.pair.is_some() { state.settled } else { state.head };
        state.bits.data_bits(start, length.min(shown.length.saturating_sub(start)))
    }

    /// What a request for `block` tells the peer we already have (hypercore9.md §10.1). In a core of Hypercore
    /// 10 and 11 it tells only whether a full proof is wanted (0), see `steps_to_known`.
    pub fn digest(&self, block: u64) -> u64 {
        if self.dialect() == Dialect::Modern {
            return 1;
        }
        let state = self.inner.state.lock();
        let bits = &state.bits;
        dialect::digest(block.saturating_mul(2), &|node| bits.has_node(node), bits.tree_capacity())
    }

    /// How many parents above the leaf of `block` the proof from a peer with `length` blocks has to reach, to end
    /// at a node that is known here, or `expected` to be known by then; with `full`, at a root of the head. `None` if
    /// the peer's tree does not reach one.
    pub(crate) fn steps_to_known(
        &self,
        block: u64,
        length: u64,
        full: bool,
        expected: impl Fn(u64) -> bool,
    ) -> Option<u64> {
        let state = self.inner.state.lock();
        let mut top = block.saturating_mul(2);
        let mut steps = 0;
        while flat_tree::blocks(top).end <= length {
            let is_root = state.roots.iter().any(|root| root.index == top);
            if is_root || (!full && (state.bits.has_node(top) || expected(top))) {
                return Some(steps);
            }
            top = flat_tree::parent(top);
            steps += 1;
        }
        None
    }

    /// A block in the middle of those that may hold `byte`, as far as the tree here tells.
    pub(crate) fn middle_of_search(&self, byte: u64) -> Option<u64> {
        match self.locate(byte, 0..self.head().length).ok()? {
            Located::Found { block, .. } => Some(block),
            Located::Within(within) => Some(within.start + (within.end - within.start) / 2),
        }
    }

    /// The first block of the range that is stored here.
    pub(crate) fn first_held(&self, blocks: Range<u64>) -> Option<u64> {
        self.inner.state.lock().bits.first_present(blocks)
    }

    /// How many handles there are besides the store's own and those of [`Core::given_by`].
    pub(crate) fn uses(&self) -> usize {
        let given = self.inner.given.load(Ordering::Acquire);
        Arc::strong_count(&self.inner).saturating_sub(1 + given)
    }

    /// How many handles those of [`Core::given_by`] are.
    pub(crate) fn given_handles(&self) -> usize {
        self.inner.given.load(Ordering::Acquire)
    }

    /// What [`Opening::keep`] was, if it was of this type.
    pub(crate) fn kept<T: Any>(&self) -> Option<&T> {
        self.inner.keep.as_ref()?.downcast_ref()
    }

    /// Whether the secret key is here, whatever keeps it from being used.
    pub fn is_own(&self) -> bool {
        self.inner.pair.is_some()
    }

    /// Whether it is another program's, which was adopted, and its secret key is here.
    pub fn is_adopted(&self) -> bool {
        self.inner.adopted && self.is_own()
    }

    /// `handles` of this core are of one that only gives it to peers and fetches what others want: they
    /// do not keep it open. To be dropped before they are.
    pub(crate) fn given_by(&self, handles: usize) -> Given {
        self.inner.given.fetch_add(handles, Ordering::AcqRel);
        Given { core: Arc::downgrade(&self.inner), handles }
    }

    /// The turn to drive the core's replication: a core that is closed and opened again has two
    /// replicators for a moment.
    pub(crate) async fn drive(&self) -> tokio::sync::OwnedMutexGuard<()> {
        Arc::clone(&self.inner.driving).lock_owned().await
    }

    pub(crate) fn downgrade(&self) -> WeakCore {
        WeakCore(Arc::downgrade(&self.inner))
    }

    /// Which kind of core it is.
    pub fn dialect(&self) -> Dialect {
        self.inner.author.dialect()
    }

    /// The bytes of the manifest, once it is known; compat cores and those of Hypercore 9 have none.
    pub(crate) fn manifest(&self) -> Option<Bytes> {
        self.inner.author.manifest()
    }

    /// Takes a manifest that came without a proof. Whether it hashes to the key: then that is the key of a core of
    /// Hypercore 10 or 11, though nothing is known of its blocks.
    pub(crate) fn take_manifest(&self, bytes: Bytes) -> bool {
        self.inner.author.take_manifest(bytes)
    }

    /// Whether the key is proven to be that of a core of Hypercore 10 or 11, and all peers that are connected say that
    /// it has no block.
    pub fn is_proven_empty(&self) -> bool {
        let summary = self.inner.demand.peer_summary();
        self.head().length == 0
            && self.inner.author.has_manifest()
            && summary.peers > 0
            && summary.remote_length == 0
    }

    /// Whether there is a manifest to send.
    pub(crate) fn has_manifest(&self) -> bool {
        self.inner.author.has_manifest()
    }

    /// Whether it is not known yet whose signatures count.
    pub(crate) fn lacks_manifest(&self) -> bool {
        self.inner.author.is_unknown()
    }

    fn corrupt(&self, file: &'static str, at: u64, what: impl Into<String>) -> Error {
        Error::Corrupt { core: self.inner.discovery_key, file, at, what: what.into() }
    }

    fn read_only(&self) -> Error {
        match self.inner.pair {
            Some(_) if let Some(stop) = self.stopped() => Error::ReadOnly(stop.reason()),
            Some(_) => Error::ReadOnly("the store's medium cannot be written"),
            None => Error::ReadOnly("the core's secret key is not here"),
        }
    }

    /// For tests: whether everything stated at the top of this file holds.
    #[cfg(test)]
    fn check_invariants(&self) {
        let state = self.inner.state.lock();
        assert_eq!(merkle::byte_length(&state.roots), Some(state.head.byte_length));
        assert!(
            flat_tree::full_roots(state.head.length).eq(state.roots.iter().map(|root| root.index))
        );
        match &state.signature {
            Some(signature) => {
                assert!(self.inner.author.signed(&state.roots, state.head, signature));
            }
            None => assert_eq!(state.head.length, 0),
        }
    }
}
