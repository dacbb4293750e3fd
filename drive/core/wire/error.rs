//! Why a connection cannot go on: everything a remote can do wrong below the level of a core.
//!
//! Not here: what a remote can prove wrong about a block; that is the replicator's to judge.

use hypermount_swarm::crypto::DiscoveryKey;

/// The remote broke the protocol. The session is over; the reason is for the log.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProtocolError {
    #[error("noise handshake failed: {0}")]
    Noise(#[from] snow::Error),
    #[error("noise handshake message of {length} bytes, at most {max} are accepted")]
    HandshakeTooLong { length: u64, max: usize },
    #[error("noise handshake carried no 24-byte nonce for the stream cipher")]
    HandshakePayload,
    #[error("integer longer than {max} bytes")]
    VarintTooLong { max: usize },
    #[error("frame of {length} bytes, at most {max} are accepted")]
    FrameTooLong { length: u64, max: usize },
    #[error("frame of {length} bytes is too short for its own header")]
    FrameTooShort { length: u64 },
    #[error("channel number {channel} is out of range")]
    ChannelOutOfRange { channel: u64 },
    #[error("message of type {kind} on channel {channel}, which was never opened")]
    ChannelNeverOpened { channel: u32, kind: u8 },
    #[error("channel {channel} was opened while in use")]
    ChannelInUse { channel: u32 },
    #[error("core {discovery_key} was opened twice without being closed")]
    OpenedTwice { discovery_key: DiscoveryKey },
    #[error("wrong capability for core {discovery_key}: the remote does not know its key")]
    WrongCapability { discovery_key: DiscoveryKey },
    #[error("malformed {what}: {why}")]
    Malformed { what: &'static str, why: String },
    #[error("{count} {what}, at most {max} are accepted")]
    TooMany { what: &'static str, count: usize, max: usize },
    /// The session was used after one of the above.
    #[error("the session has ended")]
    Ended,
}

impl ProtocolError {
    pub(crate) fn malformed(what: &'static str, why: impl ToString) -> Self {
        Self::Malformed { what, why: why.to_string() }
    }
}

/// Refuses a count of a message that exceeds its limit.
///
/// # Errors
/// `TooMany`.
pub(super) fn at_most(what: &'static str, count: usize, max: usize) -> Result<(), ProtocolError> {
    if count > max { Err(ProtocolError::TooMany { what, count, max }) } else { Ok(()) }
}
