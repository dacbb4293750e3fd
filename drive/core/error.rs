//! The one error type of core and drive: situations a caller can act on, not the sources they came
//! from. One type for both packages, because most situations of a core are those of a drive.
//!
//! A peer's lie is deliberately not here: a bad proof costs the peer, never the call that waited.
//! The mapping to errno lives in `fs/errno.rs`, the mapping to exit codes in `src/`.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use hypermount_swarm::crypto::{DiscoveryKey, PublicKey};

/// The result of all that can fail in core and drive.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong when a drive, a core or a store is used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no entry at the path.
    #[error("no such file or directory")]
    NotFound,
    /// An entry that is no directory was used as one.
    #[error("not a directory")]
    NotADirectory,
    /// A directory was used as a file.
    #[error("is a directory")]
    IsADirectory,
    /// There is an entry at the path already.
    #[error("already exists")]
    AlreadyExists,
    /// A directory with entries cannot be removed or replaced.
    #[error("directory not empty")]
    NotEmpty,
    /// The text is no path inside a drive; says why.
    #[error("invalid path: {0}")]
    InvalidPath(String),
    /// A name or path is too long.
    #[error("name longer than {max} bytes")]
    NameTooLong {
        /// The limit, in bytes.
        max: usize,
    },
    /// Text a person typed that is not a drive URL; says what was expected.
    #[error("{0}")]
    InvalidUrl(String),
    /// The core, the drive or the store cannot be written here; says why.
    #[error("read-only: {0}")]
    ReadOnly(&'static str),
    /// What is asked for, or stored, is beyond what is implemented; says what.
    #[error("unsupported: {0}")]
    Unsupported(String),
    /// A limit of sizes or counts is exceeded; says which.
    #[error("too large: {0}")]
    TooLarge(String),
    /// No more files may be open: one more core would take what connections and commands need.
    #[error(
        "{open} cores are open and in use, more take more open files than are allowed (ulimit -n)"
    )]
    TooManyCores {
        /// Cores that are open and in use.
        open: usize,
    },
    /// Too many symbolic links or nested drives were crossed.
    #[error("too many levels of links or nested drives")]
    TooManyLevels,
    /// A file has as many names as it may have.
    #[error("a file has at most {max} names")]
    TooManyLinks {
        /// The limit.
        max: u32,
    },
    /// A block is not here and no peer delivered it in time.
    #[error("block {block} of core {core} not available after {waited:?}: {why}")]
    Unavailable {
        /// The core with the block.
        core: DiscoveryKey,
        /// Its number, counted from 0; the length in blocks that was to be exceeded, for
        /// [`Core::longer_than`](crate::Core::longer_than).
        block: u64,
        /// How long the caller waited.
        waited: Duration,
        /// How many peers were connected, and what kept them from delivering.
        why: String,
    },
    /// Our own disk holds something that does not verify. Never about a peer.
    #[error("core {core} is damaged: {file} at {at}: {what}")]
    Corrupt {
        /// The damaged core.
        core: DiscoveryKey,
        /// The name of the file in its directory.
        file: &'static str,
        /// The block in `data`, the node in `tree` (numbered as in a flat tree; 0 if no single one is
        /// damaged), 0 in `name`.
        at: u64,
        /// What does not verify.
        what: String,
    },
    /// Signed content that does not make sense: the publisher's fault, not a peer's.
    #[error("malformed drive content: {0}")]
    Malformed(String),
    /// The encryption key that is kept for an encrypted drive is not its key.
    #[error("the encryption key of core {0} is wrong: its first block was not written with it")]
    WrongEncryptionKey(DiscoveryKey),
    /// A core that can be read, if it is an encrypted drive, with an encryption key alone.
    #[error(
        "core {0} is no drive as it is: it is encrypted, or another kind of core; an encrypted drive needs its \
         encryption key"
    )]
    NeedsEncryptionKey(DiscoveryKey),
    /// Two validly signed histories of one core exist. The first one seen is kept.
    #[error("core {core} is forked: {what}")]
    Forked {
        /// The core with two histories.
        core: DiscoveryKey,
        /// How they contradict each other.
        what: String,
    },
    /// The author has truncated the core to fewer blocks than what was opened or named before has.
    #[error("the publisher has shortened the drive: core {0} does not have this version any more")]
    Shortened(DiscoveryKey),
    /// Another process owns the store (or one of its cores).
    #[error("store {path} is in use by {holder}")]
    Locked {
        /// The locked directory.
        path: PathBuf,
        /// The process that holds the lock, as far as it is known.
        holder: String,
    },
    /// The directory is no store, or not one of this kind.
    #[error("{path} is not a drive store: {why}")]
    NotAStore {
        /// The directory.
        path: PathBuf,
        /// What is missing or in the way.
        why: String,
    },
    /// The directory is a store of another program, in a format that is not read here.
    #[error("{path} is a store of {program}, which is not read here")]
    OtherProgram {
        /// The directory.
        path: PathBuf,
        /// Which program, and its version.
        program: &'static str,
    },
    /// Another user's store, which this user may not write.
    #[error("{path} belongs to {owner}")]
    NotOwner {
        /// The directory of the store.
        path: PathBuf,
        /// The name or number of its owner.
        owner: String,
    },
    /// The store has no core with this key.
    #[error("no drive with key {0} in this store")]
    NoSuchDrive(PublicKey),
    /// The network or the mount was closed during the call.
    #[error("closed")]
    Closed,
    /// A call to the local file system failed.
    #[error("{op} {path}: {source}")]
    Storage {
        /// The operation, as a verb.
        op: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}
