//! Answers to other nodes: nodes near a target, and the records that a persistent node stores.

use std::net::SocketAddrV4;

use bytes::Bytes;
use tokio::time::Instant;

use super::super::announcement::{Announcement, AnnouncementPlace, LookupReply, Meaning, Peer};
use super::super::interface::{Role, SocketId};
use super::super::message::{
    Command, INVALID_TOKEN, Request, Response, UNKNOWN_COMMAND, contact, id_of,
};
use super::super::sending::{ONCE, PATIENT, Purpose, Ready};
use super::HyperDhtNode;
use crate::compact::take_ipv4;
use crate::kademlia::Id;

/// A received request with its socket and its source.
pub(crate) struct Incoming {
    pub(super) socket: SocketId,
    pub(super) from: SocketAddrV4,
    /// Bytes that may be sent to the address because of the datagram, unless it is confirmed.
    pub(super) allowance: usize,
    pub(super) request: Request,
}

/// The fields of an answer besides its error and its value.
#[derive(Clone, Copy, Default)]
struct AnswerParts {
    token: bool,
    /// Nodes near the target, if there is one.
    closer: bool,
}

/// Pings that confirm addresses, at the same time.
pub(crate) const MAX_CONFIRMING: usize = 64;
/// An answer to an unconfirmed address is sent at once if it names this many nodes.
const ENOUGH_CLOSER: usize = 8;
/// Bytes of the ping that [`HyperDhtNode::check`] sends, with our id.
const CHECK_BYTES: usize = 43;

const NOTHING: AnswerParts = AnswerParts { token: false, closer: false };
const CLOSER: AnswerParts = AnswerParts { token: false, closer: true };
const BOTH: AnswerParts = AnswerParts { token: true, closer: true };

impl HyperDhtNode {
    /// Answers a request of another node.
    pub(super) fn answer(&mut self, mut asked: Incoming, now: Instant) {
        let from = asked.from;
        if let Some(token) = &asked.request.token
            && !self.tokens.accepts(token, *from.ip())
        {
            return self.reply(&asked, INVALID_TOKEN, None, BOTH, now);
        }
        // A handshake draws no ping besides its answer, which is long.
        let long = matches!(asked.request.command, Command::Handshake | Command::Holepunch);
        if let Some(id) = asked.request.id.filter(|id| *id == id_of(from) && *id != self.id)
            && self.table.get(&id).is_none()
            && !long
        {
            self.check(from, ONCE, now);
            asked.allowance = asked.allowance.saturating_sub(CHECK_BYTES);
        }
        let stays = matches!(self.role, Role::Persistent { .. });
        match (asked.request.command, asked.request.target) {
            (Command::Ping, _) => self.reply(&asked, 0, None, NOTHING, now),
            (Command::PingNat, _) => self.ping_nat(asked, now),
            (Command::FindNode, Some(_)) => self.reply(&asked, 0, None, CLOSER, now),
            (Command::DownHint, _) => self.down_hint(&asked, now),
            (Command::Handshake, Some(target)) => self.forward_handshake(asked, target, now),
            (Command::Holepunch, Some(target)) => self.forward_holepunch(asked, target, now),
            (Command::FindPeer, Some(_)) if stays => self.answer_find_peer(&asked, now),
            (Command::Lookup, Some(_)) if stays => self.answer_lookup(&asked, now),
            (Command::Announce, Some(_)) if stays => self.announced(&asked, Meaning::Here, now),
            (Command::Unannounce, Some(_)) if stays => self.announced(&asked, Meaning::Gone, now),
            // These need a target.
            (
                Command::FindNode
                | Command::Handshake
                | Command::Holepunch
                | Command::FindPeer
                | Command::Lookup
                | Command::Announce
                | Command::Unannounce,
                None,
            ) => {}
            (_, _) => self.reply(&asked, UNKNOWN_COMMAND, None, CLOSER, now),
        }
    }

    fn reply(
        &mut self,
        asked: &Incoming,
        error: u64,
        value: Option<Bytes>,
        with: AnswerParts,
        now: Instant,
    ) {
        let Incoming { socket, from, allowance, ref request } = *asked;
        let target = request.target.filter(|_| with.closer);
        let closer = target.map(|target| self.table.closest(&target)).unwrap_or_default();
        let mut response = Response {
            id: self.public_id(socket),
            token: with.token.then(|| self.tokens.token(*from.ip())),
            closer: closer.iter().map(|contact| contact.address).collect(),
            error,
            value,
            ..Response::new(from, request.number)
        };
        // A valid token shows that the host received it. A ping confirms an address, so it must not
        // wait itself: two nodes would wait for each other.
        let is_ping = request.command == Command::Ping;
        if !is_ping && request.token.is_none() && !self.confirmed.has(from, now) {
            let enough = response.closer.len().min(ENOUGH_CLOSER);
            let shorter = shortened(&response, allowance);
            let is_poor = shorter.closer.len() < enough || shorter.value != response.value;
            if is_poor && self.hold(asked, now) {
                return;
            }
            response = shorter;
        }
        self.sending.reply(socket, &response);
    }

    /// Keeps a request and pings its address; the answer follows that of the ping. False if too
    /// many requests wait.
    fn hold(&mut self, asked: &Incoming, now: Instant) -> bool {
        let Incoming { socket, from, allowance, ref request } = *asked;
        let ping = Request::new(from, Command::Ping);
        let pings = self.sending.count(|purpose| *purpose == Purpose::Confirm);
        if ping.encode().len() > allowance || pings >= MAX_CONFIRMING {
            return false;
        }
        // The value may be long, and no long answer depends on it: do not keep it.
        let kept = Request { value: None, ..request.clone() };
        let held = Incoming { socket, from, allowance, request: kept };
        let same = |held: &Incoming| held.request.number == request.number;
        if !self.confirmed.hold(from, held, same, now) {
            return false;
        }
        let purpose = Purpose::Confirm;
        self.sending.ask(Ready { socket, request: ping, purpose, patience: ONCE }, now)
    }

    /// Answers a node that checks whether packets reach another of its sockets.
    fn ping_nat(&mut self, mut asked: Incoming, now: Instant) {
        let port = asked.request.value.as_deref().and_then(|value| value.first_chunk::<2>());
        let port = port.map_or(0, |port| u16::from_le_bytes(*port));
        if port != 0 {
            asked.from.set_port(port);
            self.reply(&asked, 0, None, NOTHING, now);
        }
    }

    /// A node reports that a node which we named to it does not answer.
    fn down_hint(&mut self, asked: &Incoming, now: Instant) {
        let mut value = asked.request.value.clone().unwrap_or_default();
        let Ok(down) = take_ipv4(&mut value) else { return };
        if self.table.get(&contact(down).id).is_some() {
            self.check(down, PATIENT, now);
        }
        self.reply(asked, 0, None, NOTHING, now);
    }

    fn answer_find_peer(&mut self, asked: &Incoming, now: Instant) {
        let Some(target) = asked.request.target else { return };
        let record = match self.serves(&target) {
            true => Some(Peer { key: self.keys.public_key(), relays: Vec::new() }),
            false => self.records.forward(&target, now).map(|forward| forward.peer.clone()),
        };
        self.reply(asked, 0, record.map(|peer| peer.encode()), BOTH, now);
    }

    fn answer_lookup(&mut self, asked: &Incoming, now: Instant) {
        let Some(target) = asked.request.target else { return };
        let peers = self.records.peers(&target, now);
        let value = (!peers.is_empty()).then(|| LookupReply { peers, bump: 0 }.encode());
        self.reply(asked, 0, value, BOTH, now);
    }

    /// Stores or removes an announcement. A request whose signature is not for this node and token
    /// is not answered.
    fn announced(&mut self, asked: &Incoming, meaning: Meaning, now: Instant) {
        let Request { target: Some(target), token: Some(token), value: Some(value), .. } =
            &asked.request
        else {
            return;
        };
        let Ok(announcement) = Announcement::decode(value.clone()) else { return };
        let place = AnnouncementPlace { target: *target, token: *token, node: self.id };
        let Some(peer) = announcement.verified(meaning, &place) else { return };
        match meaning {
            Meaning::Here => self.records.add(*target, asked.from, peer.clone(), now),
            Meaning::Gone => self.records.remove(target, &peer.key),
        }
        self.reply(asked, 0, None, NOTHING, now);
    }

    /// Whether the target is the hash of our own key.
    pub(super) fn serves(&self, target: &Id) -> bool {
        self.serving.as_ref().is_some_and(|serving| serving.target() == target)
    }

    /// Answers a request that went to the wrong node.
    pub(super) fn point_elsewhere(&mut self, asked: &Incoming, now: Instant) {
        self.reply(asked, 0, None, CLOSER, now);
    }
}

/// Leaves out nodes, then the value, until the response has at most `most` bytes.
fn shortened(response: &Response, most: usize) -> Response {
    let mut response = response.clone();
    while response.encode().len() > most && response.closer.pop().is_some() {}
    if response.encode().len() > most {
        response.value = None;
    }
    response
}
