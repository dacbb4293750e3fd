//! The one error type of core and drive: situations a caller can act on, not the sources they came
//! from. One type for both packages, because most situations of a core are those of a drive.
//!
//! A peer's lie is deliberately not here: a bad proof costs the peer, never the call that waited.
//! The mapping to errno lives in `fs/errno.rs`, the mapping to exit codes in `src/`.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use hypermount_swarm::crypto::{DiscoveryKey, PublicKey};

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong when a drive, a core or a store is used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("no such file or directory")]
    NotFound,
    #[error("not a directory")]
    NotADirectory,
    #[error("is a directory")]
    IsADirectory,
    #[error("already exists")]
    AlreadyExists,
    #[error("directory not empty")]
    NotEmpty,
    #[error("invalid path: {0}")]
    InvalidPath(String),
    #[error("name longer than {max} bytes")]
    NameTooLong { max: usize },
    /// Text a person typed that is not a drive URL; says what was expected.
    #[error("{0}")]
    InvalidUrl(String),
    #[error("read-only: {0}")]
    ReadOnly(&'static str),
    #[error("unsupported: {0}")]
    Unsupported(String),
    #[error("too large: {0}")]
    TooLarge(String),
    /// No more files may be open: one more core would take what connections and commands need.
    #[error(
        "{open} cores are open and in use, more take more open files than are allowed (ulimit -n)"
    )]
    TooManyCores { open: usize },
    /// Too many symbolic links or nested drives were crossed.
    #[error("too many levels of links or nested drives")]
    TooManyLevels,
    /// A block is not here and no peer delivered it in time.
    #[error("block {block} of core {core} not available after {waited:?}: {why}")]
    Unavailable {
        core: DiscoveryKey,
        block: u64,
        waited: Duration,
        /// How many peers were connected, and what kept them from delivering.
        why: String,
    },
    /// Our own disk holds something that does not verify. Never about a peer.
    #[error("core {core} is damaged: {file} at {at}: {what}")]
    Corrupt { core: DiscoveryKey, file: &'static str, at: u64, what: String },
    /// Signed content that does not make sense: the publisher's fault, not a peer's.
    #[error("malformed drive content: {0}")]
    Malformed(String),
    /// Two validly signed histories of one core exist. The first one seen is kept.
    #[error("core {core} is forked: {what}")]
    Forked { core: DiscoveryKey, what: String },
    /// Another process owns the store (or one of its cores).
    #[error("store {path} is in use by {holder}")]
    Locked { path: PathBuf, holder: String },
    #[error("{path} is not a drive store: {why}")]
    NotAStore { path: PathBuf, why: String },
    /// Another user's store, which this user may not write.
    #[error("{path} belongs to {owner}")]
    NotOwner { path: PathBuf, owner: String },
    #[error("no drive with key {0} in this store")]
    NoSuchDrive(PublicKey),
    #[error("closed")]
    Closed,
    #[error("{op} {path}: {source}")]
    Storage { op: &'static str, path: PathBuf, source: io::Error },
}
