//! What two peers say to each other about one core, independent of how it is encoded.

use bytes::Bytes;

use crate::hypercore::merkle::{Signature, TreeNode};
use hypermount_swarm::crypto::DiscoveryKey;

/// A message on the channel of one core (wire8.md §5). Open, Close and Options are handled by the
/// session below and never reach a replicator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    Status {
        uploading: bool,
        downloading: bool,
    },
    /// Blocks `start..start + length` are held; with `bitfield` (run-length encoded, most
    /// significant bit first) only those it marks.
    Have {
        start: u64,
        length: u64,
        bitfield: Option<Bytes>,
        ack: bool,
    },
    Unhave {
        start: u64,
        length: u64,
    },
    Want {
        start: u64,
        length: u64,
    },
    Unwant {
        start: u64,
        length: u64,
    },
    /// `bytes` > 0 asks for the block that holds that byte instead; `hash` for the proof only;
    /// `nodes` is the digest of what the asker holds.
    Request {
        index: u64,
        bytes: u64,
        hash: bool,
        nodes: u64,
    },
    Cancel {
        index: u64,
        bytes: u64,
        hash: bool,
    },
    Data {
        index: u64,
        value: Option<Bytes>,
        nodes: Vec<TreeNode>,
        signature: Option<Signature>,
    },
    /// An extension message, its name already resolved.
    Extension {
        name: String,
        payload: Bytes,
    },
}

/// What the session layer tells about its channels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum SessionEvent {
    /// The Noise handshake is done; the remote's static key.
    Handshaken {
        remote: [u8; 32],
    },
    /// The remote opened a core we have not: answer with `open` or `refuse`.
    RemoteOpen {
        discovery_key: DiscoveryKey,
    },
    /// Both sides have opened the core, the capability is verified.
    Opened {
        discovery_key: DiscoveryKey,
    },
    /// The remote's list of extension names for this core changed.
    Options {
        discovery_key: DiscoveryKey,
        ack: bool,
        extensions: Vec<String>,
    },
    Message {
        discovery_key: DiscoveryKey,
        message: Message,
    },
    /// The remote closed or refused the core.
    Closed {
        discovery_key: DiscoveryKey,
    },
}
