//! What others are answered: nodes near a target, and what a node that stays keeps for others.

use std::net::SocketAddrV4;

use bytes::Bytes;
use tokio::time::Instant;

use super::super::announcement::{Announcement, LookupReply, Meaning, Peer, Place};
use super::super::face::{Role, SocketId};
use super::super::message::{
    Command, INVALID_TOKEN, Request, Response, UNKNOWN_COMMAND, contact, id_of,
};
use super::super::sending::{ONCE, PATIENT};
use super::Node;
use crate::compact::take_ipv4;
use crate::kademlia::Id;

/// A request with where it came from and to.
pub(super) struct Incoming {
    pub socket: SocketId,
    pub from: SocketAddrV4,
    pub request: Request,
}

/// What an answer has besides its error and its value.
#[derive(Clone, Copy, Default)]
struct With {
    token: bool,
    /// Nodes near the target, if there is one.
    closer: bool,
}

const NOTHING: With = With { token: false, closer: false };
const CLOSER: With = With { token: false, closer: true };
const BOTH: With = With { token: true, closer: true };

impl Node {
    /// Answers a request of another.
    pub(super) fn answer(
        &mut self,
        socket: SocketId,
        from: SocketAddrV4,
        request: Request,
        now: Instant,
    ) {
        let asked = Incoming { socket, from, request };
        if let Some(token) = &asked.request.token
            && !self.tokens.accepts(token, *from.ip())
        {
            return self.reply(&asked, INVALID_TOKEN, None, BOTH);
        }
        // Its address may be forged: it draws one packet besides the answer, and a handshake, whose
        // answer is long, draws none.
        let long = matches!(asked.request.command, Command::Handshake | Command::Holepunch);
        if let Some(id) = asked.request.id.filter(|id| *id == id_of(from) && *id != self.id)
            && self.table.get(&id).is_none()
            && !long
        {
            self.check(from, ONCE, now);
        }
        let stays = matches!(self.role, Role::Staying { .. });
        match (asked.request.command, asked.request.target) {
            (Command::Ping, _) => self.reply(&asked, 0, None, NOTHING),
            (Command::PingNat, _) => self.ping_nat(asked),
            (Command::FindNode, Some(_)) => self.reply(&asked, 0, None, CLOSER),
            (Command::DownHint, _) => self.down_hint(&asked, now),
            (Command::Handshake, Some(target)) => self.pass_handshake(asked, target, now),
            (Command::Holepunch, Some(target)) => self.pass_holepunch(asked, target, now),
            (Command::FindPeer, Some(_)) if stays => self.tell_record(&asked, now),
            (Command::Lookup, Some(_)) if stays => self.tell_peers(&asked, now),
            (Command::Announce, Some(_)) if stays => self.announced(&asked, Meaning::Here, now),
            (Command::Unannounce, Some(_)) if stays => self.announced(&asked, Meaning::Gone, now),
            // What makes no sense without a target.
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
            (_, _) => self.reply(&asked, UNKNOWN_COMMAND, None, CLOSER),
        }
    }

    fn reply(&mut self, asked: &Incoming, error: u64, value: Option<Bytes>, with: With) {
        let Incoming { socket, from, ref request } = *asked;
        let target = request.target.filter(|_| with.closer);
        let closer = target.map(|target| self.table.closest(&target)).unwrap_or_default();
        self.sending.reply(
            socket,
            &Response {
                id: self.public_id(socket),
                token: with.token.then(|| self.tokens.token(*from.ip())),
                closer: closer.iter().map(|contact| contact.address).collect(),
                error,
                value,
                ..Response::new(from, request.number)
            },
        );
    }

    /// To whom asks whether something reaches another socket of his.
    fn ping_nat(&mut self, mut asked: Incoming) {
        let port = asked.request.value.as_deref().and_then(|value| value.first_chunk::<2>());
        let port = port.map_or(0, |port| u16::from_le_bytes(*port));
        if port != 0 {
            asked.from.set_port(port);
            self.reply(&asked, 0, None, NOTHING);
        }
    }

    /// Somebody says that a node does not answer, which we named to him.
    fn down_hint(&mut self, asked: &Incoming, now: Instant) {
        let mut value = asked.request.value.clone().unwrap_or_default();
        let Ok(down) = take_ipv4(&mut value) else { return };
        if self.table.get(&contact(down).id).is_some() {
            self.check(down, PATIENT, now);
        }
        self.reply(asked, 0, None, NOTHING);
    }

    fn tell_record(&mut self, asked: &Incoming, now: Instant) {
        let Some(target) = asked.request.target else { return };
        let record = match self.serves(&target) {
            true => Some(Peer { key: self.keys.public_key(), relays: Vec::new() }),
            false => self.records.forward(&target, now).map(|forward| forward.peer.clone()),
        };
        self.reply(asked, 0, record.map(|peer| peer.encode()), BOTH);
    }

    fn tell_peers(&mut self, asked: &Incoming, now: Instant) {
        let Some(target) = asked.request.target else { return };
        let peers = self.records.peers(&target, now);
        let value = (!peers.is_empty()).then(|| LookupReply { peers, bump: 0 }.encode());
        self.reply(asked, 0, value, BOTH);
    }

    /// Takes an announcement, or takes it back. What is not signed for here and now is not answered.
    fn announced(&mut self, asked: &Incoming, meaning: Meaning, now: Instant) {
        let Request { target: Some(target), token: Some(token), value: Some(value), .. } =
            &asked.request
        else {
            return;
        };
        let Ok(announcement) = Announcement::decode(value.clone()) else { return };
        let place = Place { target: *target, token: *token, node: self.id };
        let Some(peer) = announcement.verified(meaning, &place) else { return };
        match meaning {
            Meaning::Here => self.records.add(*target, asked.from, peer.clone(), now),
            Meaning::Gone => self.records.remove(target, &peer.key),
        }
        self.reply(asked, 0, None, NOTHING);
    }

    /// Whether we are whom that target is about.
    pub(super) fn serves(&self, target: &Id) -> bool {
        self.serving.as_ref().is_some_and(|serving| serving.target() == target)
    }

    /// Helps somebody who asks the wrong node.
    pub(super) fn point_elsewhere(&mut self, asked: &Incoming) {
        self.reply(asked, 0, None, CLOSER);
    }
}
