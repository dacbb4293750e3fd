//! A node of the hash table. The public face; what it does follows.

use std::net::SocketAddrV4;

use bytes::Bytes;
use tokio::time::Instant;

use super::face::{Ask, Asked, Event, Outgoing, Reach, RequestId, Role, SocketId};
use super::payload::Relay;
use crate::crypto::KeyPair;
use crate::kademlia::{Chosen, Id, QueryId};

pub struct Node {
    keys: KeyPair,
    role: Role,
    bootstrap: Vec<SocketAddrV4>,
    next_tick: Instant,
}

impl Node {
    pub fn new(
        _chosen: Chosen,
        keys: KeyPair,
        bootstrap: Vec<SocketAddrV4>,
        role: Role,
        now: Instant,
    ) -> Self {
        Self { keys, role, bootstrap, next_tick: now }
    }

    pub fn set_bootstrap(&mut self, bootstrap: Vec<SocketAddrV4>, _now: Instant) {
        self.bootstrap = bootstrap;
    }

    pub fn keys(&self) -> &KeyPair {
        &self.keys
    }

    /// A datagram came.
    pub fn receive(
        &mut self,
        _socket: SocketId,
        _from: SocketAddrV4,
        _bytes: &[u8],
        _now: Instant,
    ) {
    }

    pub fn tick(&mut self, _now: Instant) {}

    /// When [`Node::tick`] has something to do.
    pub fn next_tick(&self) -> Instant {
        self.next_tick
    }

    pub fn next_packet(&mut self) -> Option<Outgoing> {
        None
    }

    pub fn next_event(&mut self) -> Option<Event> {
        None
    }

    /// Sends one request, at once or when a moment is free; `None` if too many wait.
    pub fn request(&mut self, _ask: Ask, _now: Instant) -> Option<RequestId> {
        None
    }

    pub fn ping(
        &mut self,
        _to: SocketAddrV4,
        _socket: Option<SocketId>,
        _now: Instant,
    ) -> Option<RequestId> {
        None
    }

    /// Looks for the peers of a topic; `None` if too many queries are under way.
    pub fn lookup(&mut self, _topic: Id, _now: Instant) -> Option<QueryId> {
        None
    }

    /// The same, and to be one of them.
    pub fn announce(&mut self, _topic: Id, _now: Instant) -> Option<QueryId> {
        None
    }

    /// Looks for the nodes that know where a peer is; `target` is a hash of his key.
    pub fn find_peer(&mut self, _target: Id, _now: Instant) -> Option<QueryId> {
        None
    }

    /// Tells everybody who took our announcement of `topic` that it holds no longer.
    pub fn take_back(&mut self, _topic: &Id, _now: Instant) {}

    /// The same of all topics, and of where we are.
    pub fn take_back_all(&mut self, _now: Instant) {}

    /// Whether somebody who is told so has yet to answer.
    pub fn is_taking_back(&self) -> bool {
        false
    }

    /// Can be found by our key from now on.
    pub fn serve(&mut self, _now: Instant) {}

    pub fn stop_serving(&mut self, _now: Instant) {}

    /// The nodes that pass messages on to us, and our address as each sees it.
    pub fn relays(&self) -> Vec<Relay> {
        Vec::new()
    }

    /// Nodes known.
    pub fn nodes(&self) -> usize {
        0
    }

    /// Nodes that answered lately, the newest first; the bootstrap nodes too if there are fewer.
    pub fn recent_nodes(&self, _count: usize) -> Vec<SocketAddrV4> {
        Vec::new()
    }

    pub fn reach(&self) -> Reach {
        match self.role {
            Role::Staying { address } => Reach::Open(address),
            Role::Passing { .. } => Reach::Unknown,
        }
    }

    /// Answers [`Event::Handshake`] from `socket`.
    pub fn answer_handshake(&mut self, _asked: &Asked, _socket: SocketId, _noise: Bytes) {}

    /// Answers [`Event::Holepunch`] from `socket`.
    pub fn answer_holepunch(&mut self, _asked: &Asked, _socket: SocketId, _payload: Bytes) {}
}
