//! What goes into a node and comes out of it, besides packets and time.

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
    /// It is there to stay, at the address that others see: its id is made of that.
    Persistent { address: SocketAddrV4 },
}

/// Where others can reach a socket, as far as their answers tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reachability {
    Unknown,
    /// Reachable from every address, at this one.
    Open(SocketAddrV4),
    /// Whom it sends to, here.
    Consistent(SocketAddrV4),
    /// Its router gives it another port for each.
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

/// One request.
#[derive(Clone, Debug)]
pub(crate) struct Ask {
    pub to: SocketAddrV4,
    /// `None` is the one that the node itself asks from.
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

/// What a node answered.
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

/// What a peer wants of our server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Asked {
    /// The sender: the peer, or the node that forwarded the message.
    pub from: SocketAddrV4,
    pub socket: SocketId,
    /// Our address, as the sender sees it.
    pub to: SocketAddrV4,
    /// The peer, if the sender passed it on. `from` says so, and may say anything.
    pub peer: Option<SocketAddrV4>,
    /// A message of the Noise handshake, or an encrypted round about a hole.
    pub message: Bytes,
    /// Of a round: our number for the handshake it is about.
    pub id: u64,
    /// Bytes that may be sent because of the datagram, as `from` may be forged.
    pub allowance: usize,
    pub(super) mode: Mode,
    pub(super) number: u16,
    pub(super) relay: Option<SocketAddrV4>,
}

/// What came of what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// Of [`super::HyperDhtNode::request`]; `None` if no node answered in time.
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
    /// `answered` nodes answered, `announced` took the announcement.
    Finished {
        query: QueryId,
        answered: usize,
        announced: usize,
    },
    /// The number of nodes that forward messages to us since the last request to do so.
    Served {
        relays: usize,
    },
    Handshake(Asked),
    Holepunch(Asked),
}
