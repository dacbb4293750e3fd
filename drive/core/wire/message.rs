//! What two peers say to each other about one core, independent of how it is encoded.

use bytes::Bytes;

use crate::hypercore::merkle::{Signature, TreeNode};
use hypermount_swarm::crypto::DiscoveryKey;

/// A message on the channel of one core (wire8.md §5). Open, Close and Options are handled by the
/// session below and never reach a replicator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// What the sender does with the core at all.
    Status {
        /// It sends blocks.
        uploading: bool,
        /// It requests blocks.
        downloading: bool,
    },
    /// Blocks `start..start + length` are held; with `bitfield` (run-length encoded, most
    /// significant bit first) only those it marks.
    Have {
        /// The first block.
        start: u64,
        /// Number of blocks.
        length: u64,
        /// See above.
        bitfield: Option<Bytes>,
        /// Sent because the receiver asked for acknowledgements.
        ack: bool,
    },
    /// The blocks are no longer held.
    Unhave {
        /// The first block.
        start: u64,
        /// Number of blocks.
        length: u64,
    },
    /// The sender asks for Haves of the region.
    Want {
        /// The first block.
        start: u64,
        /// Number of blocks.
        length: u64,
    },
    /// Ends a Want.
    Unwant {
        /// The first block.
        start: u64,
        /// Number of blocks.
        length: u64,
    },
    /// `bytes` > 0 asks for the block that holds that byte instead; `hash` for the proof only;
    /// `nodes` is the digest of what the asker holds.
    Request {
        /// The block.
        index: u64,
        /// Offset in the core, in bytes; 0 to request by `index`.
        bytes: u64,
        /// Whether the bytes of the block are left out.
        hash: bool,
        /// See above; 0 for none.
        nodes: u64,
    },
    /// Withdraws the Request with the same fields.
    Cancel {
        /// As in the Request.
        index: u64,
        /// As in the Request.
        bytes: u64,
        /// As in the Request.
        hash: bool,
    },
    /// A block with its proof: the answer to a Request.
    Data {
        /// The block.
        index: u64,
        /// Its bytes; `None` in the answer to a request for the proof only.
        value: Option<Bytes>,
        /// The nodes that lead from it to the signed roots, without those the receiver has.
        nodes: Vec<TreeNode>,
        /// Of the sender's length, if the nodes reach its roots.
        signature: Option<Signature>,
    },
    /// An extension message, its name already resolved.
    Extension {
        /// As both sides registered it.
        name: String,
        /// Its content, by the extension.
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
