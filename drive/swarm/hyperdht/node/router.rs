//! Messages between peers that have no connection yet. Messages for us become events; a persistent
//! node forwards those for others, from the client to the server and back (hyperdht.md §4).
//!
//! A sender could misuse forwarding to attack the receiver. So we send one packet for each packet
//! received. We forward only to addresses that the sender could reach itself: not to an address
//! nearer to us than the sender, unless the server announced itself from that address, or the
//! client there has asked through us.

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::super::interface::{Asked, Event, Role, SocketId};
use super::super::message::{Command, Request, Response};
use super::super::payload::{Handshake, Holepunch, Mode};
use super::HyperDhtNode;
use super::answer::Incoming;
use crate::kademlia::{Id, may_name};

/// Most clients in [`ForwardedClients`].
pub(crate) const MAX_FORWARDED_CLIENTS: usize = 256;
/// How long a client in [`ForwardedClients`] is remembered.
const FORWARDED_FOR: Duration = Duration::from_secs(30);

/// Clients whose requests we forwarded to a server that could not reach them by itself. The
/// server's answers to them are forwarded.
#[derive(Default)]
pub(crate) struct ForwardedClients(VecDeque<(SocketAddrV4, Instant)>);

impl ForwardedClients {
    pub(crate) fn remember(&mut self, client: SocketAddrV4, now: Instant) {
        self.0.retain(|(known, _)| *known != client);
        if self.0.len() >= MAX_FORWARDED_CLIENTS {
            self.0.pop_front();
        }
        self.0.push_back((client, now));
    }

    pub(crate) fn has(&self, client: SocketAddrV4, now: Instant) -> bool {
        self.0.iter().any(|(known, at)| *known == client && now < *at + FORWARDED_FOR)
    }
}

impl HyperDhtNode {
    /// Handles a handshake for us or for another peer.
    pub(super) fn forward_handshake(&mut self, asked: Incoming, target: Id, now: Instant) {
        let value = asked.request.value.clone().unwrap_or_default();
        let Ok(handshake) = Handshake::decode(value) else { return };
        if handshake.noise.is_empty() {
            return;
        }
        if self.serves(&target) {
            return self.handshake_for_us(&asked, handshake);
        }
        let from = asked.from;
        let way = self.way_to(&target, now);
        let (to, mode, peer, relay) = match (handshake.mode, handshake.peer_address) {
            (Mode::FromClient, _) => {
                // The relay that the client names, or the address that the server announced to us.
                let named = handshake.relay_address.filter(|named| reaches(from, *named));
                match named.filter(|_| self.stays()).or(way) {
                    Some(to) => (to, Mode::FromRelay, from, None),
                    None => return self.point_elsewhere(&asked, now),
                }
            }
            (Mode::FromRelay, Some(peer)) => match way {
                Some(to) => (to, Mode::FromSecondRelay, peer, Some(from)),
                None => return,
            },
            (Mode::FromServer, Some(client)) => {
                let handshake =
                    Handshake { mode: Mode::Reply, peer_address: Some(from), ..handshake };
                let value = Handshake { relay_address: None, ..handshake }.encode();
                return self.reply_to_client(&asked, client, value, now);
            }
            _ => return,
        };
        let passed =
            Handshake { mode, peer_address: Some(peer), relay_address: relay, ..handshake };
        self.pass_on(&asked, to, passed.encode(), now);
    }

    fn handshake_for_us(&mut self, asked: &Incoming, handshake: Handshake) {
        let Handshake { mode, noise, peer_address, relay_address } = handshake;
        let peer = match mode {
            Mode::FromClient => None,
            Mode::FromRelay if peer_address.is_some() => peer_address,
            Mode::FromSecondRelay if relay_address.is_some() && peer_address.is_some() => {
                peer_address
            }
            _ => return,
        };
        let asked = asked.by(mode, peer, relay_address, noise, 0);
        self.report(Event::Handshake(asked));
    }

    /// Handles a holepunch round for us or for another peer.
    pub(super) fn forward_holepunch(&mut self, asked: Incoming, target: Id, now: Instant) {
        let value = asked.request.value.clone().unwrap_or_default();
        let Ok(holepunch) = Holepunch::decode(value) else { return };
        let from = asked.from;
        match (holepunch.mode, holepunch.peer_address) {
            (Mode::FromClient, named) => {
                let way = self.way_to(&target, now);
                // The server uses a new socket for each hole, so its port differs from the
                // announced one.
                let known = |named: &SocketAddrV4| way.is_some_and(|way| way.ip() == named.ip());
                let named = named.filter(|named| known(named) || reaches(from, *named));
                let Some(to) = named.filter(|_| self.stays()).or(way) else { return };
                let mode = Mode::FromRelay;
                let passed = Holepunch { mode, peer_address: Some(from), ..holepunch };
                self.pass_on(&asked, to, passed.encode(), now);
            }
            (Mode::FromRelay, Some(peer)) if self.serves(&target) => {
                let Holepunch { mode, id, payload, .. } = holepunch;
                let asked = asked.by(mode, Some(peer), None, payload, id);
                self.report(Event::Holepunch(asked));
            }
            (Mode::FromServer, Some(client)) => {
                let mode = Mode::Reply;
                let reply = Holepunch { mode, peer_address: Some(from), ..holepunch };
                self.reply_to_client(&asked, client, reply.encode(), now);
            }
            _ => {}
        }
    }

    fn stays(&self) -> bool {
        matches!(self.role, Role::Persistent { .. })
    }

    /// The address that the server of this target announced to us.
    fn way_to(&mut self, target: &Id, now: Instant) -> Option<SocketAddrV4> {
        self.records.forward(target, now).map(|forward| forward.to)
    }

    /// Forwards a request with another value. The answer does not come back to us.
    fn pass_on(&mut self, asked: &Incoming, to: SocketAddrV4, value: Bytes, now: Instant) {
        if !may_name(*to.ip(), *asked.from.ip()) {
            self.forwarded_clients.remember(asked.from, now);
        }
        let request = self.passed_on(asked.socket, &asked.request, to, value);
        self.sending.pass_on(asked.socket, &request);
    }

    /// The request to forward: as received, except for the value, the receiver and our id.
    fn passed_on(
        &self,
        socket: SocketId,
        request: &Request,
        to: SocketAddrV4,
        value: Bytes,
    ) -> Request {
        Request {
            number: request.number,
            id: self.public_id(socket),
            target: request.target,
            value: Some(value),
            ..Request::new(to, request.command)
        }
    }

    /// Forwards the answer of a server to the client.
    fn reply_to_client(
        &mut self,
        asked: &Incoming,
        client: SocketAddrV4,
        value: Bytes,
        now: Instant,
    ) {
        let wanted = reaches(asked.from, client) || self.forwarded_clients.has(client, now);
        if !self.stays() || !wanted {
            return;
        }
        let id = self.public_id(asked.socket);
        let number = asked.request.number;
        let response = Response { id, value: Some(value), ..Response::new(client, number) };
        self.sending.reply(asked.socket, &response);
    }

    /// Answers [`Event::Handshake`] from `socket`. Returns how many more bytes may be sent because
    /// of that event; sends nothing if the answer is larger than the limit.
    pub(crate) fn answer_handshake(
        &mut self,
        asked: &Asked,
        socket: SocketId,
        noise: Bytes,
    ) -> usize {
        let (mode, to) = match (asked.mode, asked.relay) {
            (Mode::FromSecondRelay, Some(relay)) => (Mode::FromServer, relay),
            (Mode::FromRelay, _) => (Mode::FromServer, asked.from),
            _ => (Mode::Reply, asked.from),
        };
        let answer = Handshake { mode, noise, peer_address: asked.peer, relay_address: None };
        self.answer_asked(asked, Command::Handshake, socket, to, mode, answer.encode())
    }

    /// Answers [`Event::Holepunch`] from `socket`. Sends nothing if the answer is larger than the
    /// limit.
    pub(crate) fn answer_holepunch(&mut self, asked: &Asked, socket: SocketId, payload: Bytes) {
        let mode = Mode::FromServer;
        let answer = Holepunch { mode, id: 0, payload, peer_address: asked.peer };
        self.answer_asked(asked, Command::Holepunch, socket, asked.from, mode, answer.encode());
    }

    fn answer_asked(
        &mut self,
        asked: &Asked,
        command: Command,
        socket: SocketId,
        to: SocketAddrV4,
        mode: Mode,
        value: Bytes,
    ) -> usize {
        let Some(serving) = &self.serving else { return 0 };
        let (target, number, value) = (Some(*serving.target()), asked.number, Some(value));
        let id = self.public_id(socket);
        let bytes = if mode == Mode::Reply {
            Response { id, value, ..Response::new(to, number) }.encode()
        } else {
            Request { number, id, target, value, ..Request::new(to, command) }.encode()
        };
        let Some(left) = asked.allowance.checked_sub(bytes.len()) else { return 0 };
        self.sending.put(socket, to, bytes);
        left
    }
}

impl Incoming {
    fn by(
        &self,
        mode: Mode,
        peer: Option<SocketAddrV4>,
        relay: Option<SocketAddrV4>,
        message: Bytes,
        id: u64,
    ) -> Asked {
        let Self { socket, from, allowance, ref request } = *self;
        let (to, number) = (request.to, request.number);
        Asked { from, socket, to, peer, message, id, allowance, mode, number, relay }
    }
}

/// Whether `from` could send to `to` without our help.
fn reaches(from: SocketAddrV4, to: SocketAddrV4) -> bool {
    let anywhere: Ipv4Addr = *to.ip();
    to.port() != 0 && may_name(*from.ip(), anywhere)
}
