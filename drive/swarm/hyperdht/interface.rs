//! The types of requests to a node and of its events.

use std::net::SocketAddrV4;

use bytes::Bytes;

use super::message::{Command, Token};
use super::payload::Mode;
use crate::crypto::PublicKey;
use crate::kademlia::{Id, QueryId};

/// One of the sockets that a node's packets come and go through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct SocketId(pub u32);

impl SocketId {
    /// The socket from which an ephemeral node sends requests. All numbers above
    /// [`SocketId::SERVER`] are sockets that holes are punched for.
    pub(crate) const CLIENT: Self = Self(0);
    /// The socket of a persistent node, and the one at which an ephemeral node is reached if every
    /// address can reach it.
    pub(crate) const SERVER: Self = Self(1);
}

/// Whether others rely on a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// An ephemeral node: it sends no id and stores no records for other nodes. Its server socket
    /// has this port.
    Ephemeral { server_port: u16 },
    /// A persistent node at the address that others see; its id is a hash of that address.
    Persistent { address: SocketAddrV4 },
}

/// Where others can reach a socket, as determined from their answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reachability {
    Unknown,
    /// Every address can reach it, at this address.
    Open(SocketAddrV4),
    /// Addresses to which it has sent can reach it, at this address.
    Consistent(SocketAddrV4),
    /// Its router uses a different port for each remote address.
    Random,
}

impl Reachability {
    /// The address at which every peer can reach us, if there is one.
    pub(crate) fn open(&self) -> Option<SocketAddrV4> {
        match self {
            Self::Open(address) => Some(*address),
            Self::Unknown | Self::Consistent(_) | Self::Random => None,
        }
    }
}

pub(crate) type RequestId = u64;

/// A request to one node.
#[derive(Clone, Debug)]
pub(crate) struct Ask {
    pub to: SocketAddrV4,
    /// The socket to send from; `None` is that of the node's own requests.
    pub socket: Option<SocketId>,
    pub command: Command,
    pub target: Option<Id>,
    pub token: Option<Token>,
    pub value: Option<Bytes>,
    /// Whether it is sent again when there is no answer.
    pub again: bool,
}

impl Ask {
    pub(crate) fn new(to: SocketAddrV4, command: Command) -> Self {
        Self { to, socket: None, command, target: None, token: None, value: None, again: true }
    }
}

/// The answer of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub from: SocketAddrV4,
    /// Our address, as the node sees it.
    pub to: SocketAddrV4,
    pub socket: SocketId,
    pub value: Option<Bytes>,
    /// 0 is none.
    pub error: u64,
    pub token: Option<Token>,
}

/// A packet to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Outgoing {
    pub socket: SocketId,
    pub to: SocketAddrV4,
    pub bytes: Bytes,
}

/// A message of a peer to our server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Asked {
    /// The sender: the peer, or the node that forwarded the message.
    pub from: SocketAddrV4,
    pub socket: SocketId,
    /// Our address, as the sender sees it.
    pub to: SocketAddrV4,
    /// The peer, if `from` forwarded the message. It is a claim of `from` and not verified.
    pub peer: Option<SocketAddrV4>,
    /// A message of the Noise handshake, or an encrypted round about a hole.
    pub message: Bytes,
    /// In a holepunch round: our number of the handshake.
    pub id: u64,
    /// Bytes that may be sent because of the datagram, as `from` may be forged.
    pub allowance: usize,
    pub(super) mode: Mode,
    pub(super) number: u16,
    pub(super) relay: Option<SocketAddrV4>,
}

/// An event for the caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// The result of [`super::HyperDhtNode::request`]; `None` if the node did not answer in time.
    Answered {
        request: RequestId,
        answer: Option<Answer>,
    },
    /// `via` names a peer of the topic.
    Peer {
        query: QueryId,
        key: PublicKey,
        relays: Vec<SocketAddrV4>,
        via: SocketAddrV4,
    },
    /// `from` has the record of the wanted peer and forwards messages to it.
    Record {
        query: QueryId,
        from: SocketAddrV4,
        relays: Vec<SocketAddrV4>,
    },
    /// A query has ended: `answered` nodes answered, `announced` accepted the announcement.
    Finished {
        query: QueryId,
        answered: usize,
        announced: usize,
    },
    /// The announcement to our relays has ended; `relays` nodes forward messages to us.
    Served {
        relays: usize,
    },
    Handshake(Asked),
    Holepunch(Asked),
}
