//! A node of the hash table of Hyperswarm 2: sends our requests and answers those of others.
//!
//! Packets and time go in, packets and events come out; no sockets, no clock. A datagram's source
//! address can be forged: a node is remembered after it has answered us, an announcement is accepted
//! with a token that was sent to that address.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddrV4;
use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use tokio::time::Instant;

use super::announcements::Announcements;
use super::message::{
    FIND_NODE, HOLEPUNCH, Holepunch, Kind, PEERS, PING, Packet, PeersInput, PeersOutput,
};
use super::purpose::{ALONE, Goal, PATIENCE, Purpose};
use crate::crypto::random_bytes;
use crate::kademlia::{
    AMPLIFICATION, BUCKET, Confirmed, Contact, Due, Id, Query, QueryId, QueryStep, RandomParts,
    Requests, RoutingTable, Tokens, Window, may_name,
};

/// Queries under way; one more is refused.
pub(crate) const MAX_QUERIES: usize = 16;
/// Requests answered per second; more are ignored.
pub(crate) const MAX_ANSWERS_PER_SECOND: u32 = 1000;
/// New requests sent per second.
pub(crate) const MAX_REQUESTS_PER_SECOND: u32 = 100;
/// Announced topics that are remembered for withdrawal.
pub(crate) const MAX_TAKEN_BACK: usize = 4096;
/// Requests of one query that wait for an answer at the same time.
const AT_ONCE: usize = 16;
/// Unknown nodes that sent a request and are pinged at the same time.
const MAX_CHECKS: usize = 32;
/// How often the nodes that were silent longest are pinged.
const CHECK_EVERY: Duration = Duration::from_secs(40);
const CHECKED: usize = 3;
/// With fewer nodes than a bucket has, the bootstrap is repeated after this pause, then after twice
/// as long each time, up to [`REJOIN_EVERY`].
const FIRST_REJOIN: Duration = Duration::from_secs(5);
const REJOIN_EVERY: Duration = Duration::from_secs(320);

/// How long nodes have to accept an announcement after the walk to them.
const ANNOUNCE_WITHIN: Duration = Duration::from_secs(10);

/// A request that is longer than this is not kept until its address is confirmed.
const MAX_HELD_BYTES: usize = 512;
/// Pings that confirm addresses, at the same time.
const MAX_CONFIRMING: usize = 64;
/// An answer to an unconfirmed address is sent at once if it names this many nodes.
const ENOUGH_CLOSER: usize = 8;

/// A node that accepts announcements, and the token it gave.
type Taker = (SocketAddrV4, [u8; 32]);

/// A result of a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// `via` names a peer; `seen_as` is our own address as that node sees it.
    Peer { query: QueryId, address: SocketAddrV4, via: SocketAddrV4, seen_as: Option<SocketAddrV4> },
    /// The query has ended: `answered` nodes answered, `announced` accepted the announcement.
    Finished { query: QueryId, answered: usize, announced: usize },
}

/// One node; see the module documentation.
pub(crate) struct DhtNode {
    id: Id,
    /// Others get no id of ours, so that they do not rely on us.
    ephemeral: bool,
    bootstrap: Vec<SocketAddrV4>,
    table: RoutingTable,
    tokens: Tokens,
    pub(super) announcements: Announcements,
    confirmed: Confirmed<(Packet, usize)>,
    requests: Requests<SocketAddrV4, Purpose>,
    queries: BTreeMap<QueryId, Query<Goal, Option<[u8; 32]>>>,
    next_query: QueryId,
    /// The nodes that accepted our announcement of a topic, with their tokens, and the port.
    taken: BTreeMap<Id, (u16, Vec<Taker>)>,
    out: VecDeque<(SocketAddrV4, Bytes)>,
    events: VecDeque<Event>,
    answers: Window,
    asked: Window,
    next_check: Instant,
    next_rejoin: Instant,
    rejoin_pause: Duration,
}

impl DhtNode {
    /// A node that joins the network of its `bootstrap` nodes, or starts one.
    pub(crate) fn new(
        chosen: RandomParts,
        bootstrap: Vec<SocketAddrV4>,
        ephemeral: bool,
        now: Instant,
    ) -> Self {
        let mut node = Self {
            id: chosen.id,
            ephemeral,
            bootstrap,
            table: RoutingTable::new(chosen.id),
            tokens: Tokens::new(chosen.secrets, now),
            announcements: Announcements::default(),
            confirmed: Confirmed::default(),
            requests: Requests::new(chosen.first_request),
            queries: BTreeMap::new(),
            next_query: 0,
            taken: BTreeMap::new(),
            out: VecDeque::new(),
            events: VecDeque::new(),
            answers: Window::new(MAX_ANSWERS_PER_SECOND, now),
            asked: Window::new(MAX_REQUESTS_PER_SECOND, now),
            next_check: now + CHECK_EVERY,
            next_rejoin: now + FIRST_REJOIN,
            rejoin_pause: FIRST_REJOIN,
        };
        node.join(now);
        node
    }

    /// Replaces the bootstrap nodes and bootstraps again.
    pub(crate) fn set_bootstrap(&mut self, bootstrap: Vec<SocketAddrV4>, now: Instant) {
        self.bootstrap = bootstrap;
        self.rejoin_pause = FIRST_REJOIN;
        self.next_rejoin = now + FIRST_REJOIN;
        self.join(now);
    }

    /// Announces this node to the network and learns the nodes near it.
    fn join(&mut self, now: Instant) {
        if !self.bootstrap.is_empty() || !self.table.is_empty() {
            self.start(self.id, Goal::Nodes, now);
        }
    }

    /// Nodes known.
    pub(crate) fn nodes(&self) -> usize {
        self.table.len()
    }

    #[cfg(test)]
    pub(super) fn know(&mut self, contact: Contact, now: Instant) {
        self.table.heard(contact, now);
    }

    /// Begins a query about `target`; `None` if too many are under way.
    pub(crate) fn start(&mut self, target: Id, goal: Goal, now: Instant) -> Option<QueryId> {
        if self.queries.len() >= MAX_QUERIES {
            return None;
        }
        let known = self.table.closest(&target);
        let few = known.len() < BUCKET.min(self.bootstrap.len().max(1));
        let bootstrap = if few { self.bootstrap.clone() } else { Vec::new() };
        let mut query = Query::new(target, goal, AT_ONCE, now);
        query.begin_with(bootstrap);
        known.into_iter().for_each(|contact| query.add(contact, None));
        let number = self.next_query;
        self.next_query += 1;
        self.queries.insert(number, query);
        self.advance(number, now);
        Some(number)
    }

    /// Withdraws our announcement of `topic` from all nodes that accepted it.
    pub(crate) fn take_back(&mut self, topic: &Id, now: Instant) {
        let Some((port, nodes)) = self.taken.remove(topic) else { return };
        for (node, token) in nodes {
            let packet = announcement(topic, port, token, true);
            self.request(node, packet, Purpose::TakeBack, now);
        }
    }

    /// Withdraws the announcements of all topics.
    pub(crate) fn take_back_all(&mut self, now: Instant) {
        let topics: Vec<Id> = self.taken.keys().copied().collect();
        topics.iter().for_each(|topic| self.take_back(topic, now));
    }

    pub(crate) fn next_packet(&mut self) -> Option<(SocketAddrV4, Bytes)> {
        self.out.pop_front()
    }

    pub(crate) fn next_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// When [`DhtNode::tick`] has something to do.
    pub(crate) fn next_tick(&self) -> Instant {
        let mut next = self.next_check.min(self.next_rejoin);
        if let Some(due) = self.requests.next_due() {
            next = next.min(due);
        }
        if let Some(opens) = self.asked.opens()
            && !self.queries.is_empty()
        {
            next = next.min(opens);
        }
        self.queries.values().map(|query| query.deadline).fold(next, Instant::min)
    }

    pub(crate) fn tick(&mut self, now: Instant) {
        self.tokens.rotate(now, || random_bytes().ok());
        while let Some(due) = self.requests.take_due(now) {
            match due {
                Due::Again { to, packet, .. } => self.send(to, &packet),
                Due::Late { to, number, purpose } => {
                    if let Purpose::Ask { referrer: Some(referrer), .. } = purpose {
                        self.knock(to, referrer, number);
                    }
                }
                Due::TimedOut { to, purpose } => self.timed_out(to, purpose),
            }
        }
        if now >= self.next_check {
            self.next_check = now + CHECK_EVERY;
            for contact in self.table.oldest(CHECKED) {
                self.check(contact, now);
            }
        }
        if now >= self.next_rejoin {
            self.rejoin_pause = (self.rejoin_pause * 2).min(REJOIN_EVERY);
            self.next_rejoin = now + self.rejoin_pause;
            if self.table.len() < BUCKET {
                self.join(now);
            }
        }
        let numbers: Vec<QueryId> = self.queries.keys().copied().collect();
        numbers.iter().for_each(|number| self.advance(*number, now));
    }

    fn timed_out(&mut self, to: SocketAddrV4, purpose: Purpose) {
        self.table.failed(to);
        match purpose {
            Purpose::Ask { query, asked, .. } => {
                if let Some(query) = self.queries.get_mut(&query) {
                    query.failed(asked);
                }
            }
            Purpose::Announce { query } => {
                if let Some(query) = self.queries.get_mut(&query) {
                    query.commit_answered(false);
                }
            }
            Purpose::Check { .. } | Purpose::Confirm | Purpose::TakeBack => {}
        }
    }

    /// Sends the requests that a query may send now, and ends it when it is done.
    fn advance(&mut self, number: QueryId, now: Instant) {
        loop {
            if self.asked.is_full(now) {
                break;
            }
            let Some(query) = self.queries.get_mut(&number) else { return };
            let Some(QueryStep { to, asked, referrer }) = query.next_step() else { break };
            self.asked.take(now);
            let mut packet = Packet::new(Kind::Query, 0);
            packet.target = Some(query.target);
            if query.goal == Goal::Nodes {
                packet.command = Some(FIND_NODE.into());
            } else {
                packet.command = Some(PEERS.into());
                packet.value =
                    Some(PeersInput { port: Some(0), ..Default::default() }.encode_to_vec().into());
            }
            let purpose = Purpose::Ask { query: number, asked, referrer };
            if !self.request(to, packet, purpose, now)
                && let Some(query) = self.queries.get_mut(&number)
            {
                query.failed(asked);
            }
        }
        let Some(query) = self.queries.get_mut(&number) else { return };
        let late = now >= query.deadline;
        if !query.is_done() && !late {
            return;
        }
        if let (Goal::Announce { port }, None) = (query.goal, query.accepted()) {
            let closest = query.closest().into_iter();
            let closest: Vec<Taker> =
                closest.filter_map(|(contact, token)| Some((contact.address, token?))).collect();
            let target = query.target;
            query.commit(closest.len(), now + ANNOUNCE_WITHIN);
            self.announce(number, target, port, &closest, now);
            return self.finish_if_done(number);
        }
        self.finish(number);
    }

    fn announce(&mut self, number: QueryId, topic: Id, port: u16, closest: &[Taker], now: Instant) {
        if self.taken.len() < MAX_TAKEN_BACK || self.taken.contains_key(&topic) {
            self.taken.insert(topic, (port, closest.to_vec()));
        }
        for (node, token) in closest {
            let packet = announcement(&topic, port, *token, false);
            let purpose = Purpose::Announce { query: number };
            if !self.request(*node, packet, purpose, now)
                && let Some(query) = self.queries.get_mut(&number)
            {
                query.commit_answered(false);
            }
        }
    }

    fn finish_if_done(&mut self, number: QueryId) {
        if self.queries.get(&number).is_some_and(Query::is_done) {
            self.finish(number);
        }
    }

    fn finish(&mut self, number: QueryId) {
        if let Some(query) = self.queries.remove(&number) {
            self.events.push_back(Event::Finished {
                query: number,
                answered: query.answered(),
                announced: query.accepted().unwrap_or(0),
            });
        }
    }

    /// Sends a request; false if too many wait for an answer.
    fn request(
        &mut self,
        to: SocketAddrV4,
        mut packet: Packet,
        purpose: Purpose,
        now: Instant,
    ) -> bool {
        packet.id = self.public_id();
        packet.to = Some(to);
        let encode = |rid| {
            packet.rid = rid;
            packet.encode()
        };
        let patience = match purpose {
            Purpose::Ask { referrer: Some(_), .. } => PATIENCE,
            _ => ALONE,
        };
        match self.requests.add(to, purpose, patience, now, encode) {
            Some(bytes) => {
                self.out.push_back((to, bytes));
                true
            }
            None => false,
        }
    }

    fn public_id(&self) -> Option<Id> {
        (!self.ephemeral).then_some(self.id)
    }

    fn send(&mut self, to: SocketAddrV4, packet: &Bytes) {
        self.out.push_back((to, packet.clone()));
    }

    /// Pings a node; its answer adds it to the table.
    /// Returns how many bytes are sent.
    fn check(&mut self, contact: Contact, now: Instant) -> usize {
        let mut packet = Packet::new(Kind::Query, 0);
        packet.command = Some(PING.into());
        packet.value = Some(Bytes::copy_from_slice(&contact.id));
        packet.to = Some(contact.address);
        packet.id = self.public_id();
        let bytes = packet.encode().len();
        self.request(contact.address, packet, Purpose::Check { id: contact.id }, now);
        bytes
    }

    /// Has `referrer` ask `to` to send us something: its router then lets our packets in.
    fn knock(&mut self, to: SocketAddrV4, referrer: SocketAddrV4, rid: u16) {
        let mut packet = Packet::new(Kind::Query, rid);
        packet.id = self.public_id();
        packet.to = Some(referrer);
        packet.command = Some(HOLEPUNCH.into());
        packet.value = Some(Holepunch { from: None, to: Some(to) }.encode());
        self.send(referrer, &packet.encode());
    }

    /// Handles a datagram.
    pub(crate) fn receive(&mut self, from: SocketAddrV4, bytes: &[u8], now: Instant) {
        let Some(packet) = Packet::decode(bytes) else { return };
        match packet.kind {
            Kind::Response => self.response(from, packet, now),
            Kind::Query | Kind::Update => {
                if from.port() != 0 && self.answers.take(now) {
                    self.answer(from, packet, bytes.len(), now);
                }
            }
        }
    }

    fn response(&mut self, from: SocketAddrV4, packet: Packet, now: Instant) {
        let Some(purpose) = self.requests.answered(from, packet.rid) else { return };
        for (held, bytes) in self.confirmed.confirm(from, now) {
            self.answer(from, held, bytes, now);
        }
        let contact = packet.id.map(|id| Contact { id, address: from });
        match purpose {
            // Another node has the address now.
            Purpose::Check { id } if packet.id != Some(id) => return self.table.failed(from),
            Purpose::Check { .. } | Purpose::Confirm | Purpose::TakeBack => {}
            Purpose::Announce { query: number } => {
                if let Some(query) = self.queries.get_mut(&number) {
                    query.commit_answered(packet.error.is_none());
                }
                self.finish_if_done(number);
            }
            Purpose::Ask { query: number, asked, .. } => {
                if let Some(query) = self.queries.get_mut(&number) {
                    query.answer(asked, contact, packet.token);
                    for named in packet.closer_nodes.iter().flatten() {
                        if named.id != self.id && may_name(*from.ip(), *named.address.ip()) {
                            query.add(*named, Some(from));
                        }
                    }
                    if query.goal != Goal::Nodes {
                        self.peers_found(number, from, &packet);
                    }
                }
                self.advance(number, now);
            }
        }
        if let Some(contact) = contact {
            self.table.heard(contact, now);
        }
    }

    fn peers_found(&mut self, query: QueryId, via: SocketAddrV4, packet: &Packet) {
        let Some(output) = packet.value.clone().and_then(|value| PeersOutput::decode(value).ok())
        else {
            return;
        };
        let named = output.addresses().into_iter().filter(|peer| may_name(*via.ip(), *peer.ip()));
        self.events.extend(named.map(|address| Event::Peer {
            query,
            address,
            via,
            seen_as: packet.to,
        }));
    }

    /// Answers a request of another node, whose datagram had `bytes` bytes.
    fn answer(&mut self, from: SocketAddrV4, packet: Packet, bytes: usize, now: Instant) {
        let mut allowance = bytes * AMPLIFICATION;
        if let Some(token) = &packet.token
            && !self.tokens.accepts(token, *from.ip())
        {
            return;
        }
        if packet.kind == Kind::Update && packet.token.is_none() {
            return;
        }
        if let Some(id) = packet.id {
            let contact = Contact { id, address: from };
            let known = self.table.closest(&id).first() == Some(&contact);
            let checks = |purpose: &Purpose| matches!(purpose, Purpose::Check { .. });
            if !known && id != self.id && self.requests.count(checks) < MAX_CHECKS {
                allowance = allowance.saturating_sub(self.check(contact, now));
            }
        }
        let mut answer = Packet::new(Kind::Response, packet.rid);
        answer.closer_nodes = packet.target.map(|target| self.table.closest(&target));
        match (packet.command.as_deref(), packet.target) {
            (Some(PING), _) => {
                if packet.value.as_ref().is_some_and(|id| id[..] != self.id) {
                    return;
                }
                answer.closer_nodes = None;
                answer.value = Some(Bytes::copy_from_slice(&super::message::encode_address(from)));
            }
            (Some(FIND_NODE), Some(_)) => {}
            (Some(HOLEPUNCH), _) => return self.holepunch(from, &packet),
            (Some(PEERS), Some(topic)) => match self.peers(from, topic, &packet, now) {
                Some(output) => answer.value = Some(output.encode_to_vec().into()),
                None => return,
            },
            (_, Some(_)) => answer.error = Some("Unsupported command".into()),
            (_, None) => return,
        }
        self.sign(from, &mut answer);
        // A valid token shows that the host received it. A ping confirms an address, so it must not
        // wait itself: two nodes would wait for each other.
        let is_ping = packet.command.as_deref() == Some(PING);
        if !is_ping && packet.token.is_none() && !self.confirmed.has(from, now) {
            let enough = named(&answer).min(ENOUGH_CLOSER);
            let shorter = shortened(&answer, allowance);
            let is_poor = named(&shorter) < enough || shorter.value != answer.value;
            if is_poor && self.hold(from, packet, bytes, allowance, now) {
                return;
            }
            answer = shorter;
        }
        self.out.push_back((from, answer.encode()));
    }

    /// Keeps a request until its address has answered a ping; false if it cannot be kept.
    fn hold(
        &mut self,
        from: SocketAddrV4,
        packet: Packet,
        bytes: usize,
        allowance: usize,
        now: Instant,
    ) -> bool {
        let mut ping = Packet::new(Kind::Query, 0);
        (ping.command, ping.to, ping.id) = (Some(PING.into()), Some(from), self.public_id());
        let pings = self.requests.count(|purpose| *purpose == Purpose::Confirm);
        let too_long = bytes > MAX_HELD_BYTES || ping.encode().len() > allowance;
        if too_long || pings >= MAX_CONFIRMING {
            return false;
        }
        let rid = packet.rid;
        let same = |(held, _): &(Packet, usize)| held.rid == rid;
        self.confirmed.hold(from, (packet, bytes), same, now)
            && self.request(from, ping, Purpose::Confirm, now)
    }

    fn reply(&mut self, to: SocketAddrV4, mut answer: Packet) {
        self.sign(to, &mut answer);
        self.out.push_back((to, answer.encode()));
    }

    /// Adds the fields of every answer: its receiver, our id, and a token unless it is an error.
    fn sign(&self, to: SocketAddrV4, answer: &mut Packet) {
        answer.to = Some(to);
        answer.id = self.public_id();
        if answer.error.is_none() {
            answer.token = Some(self.tokens.token(*to.ip()));
        }
    }

    /// Stores or removes an announcement, or answers with the peers of a topic.
    fn peers(
        &mut self,
        from: SocketAddrV4,
        topic: Id,
        packet: &Packet,
        now: Instant,
    ) -> Option<PeersOutput> {
        let input = PeersInput::decode(packet.value.clone().unwrap_or_default()).ok()?;
        let port = match input.port.unwrap_or(0) {
            0 => from.port(),
            port => u16::try_from(port).ok()?,
        };
        let peer = SocketAddrV4::new(*from.ip(), port);
        let local = input.local_address.as_deref().and_then(super::message::decode_address);
        if packet.kind == Kind::Query {
            let (peers, near) = self.announcements.peers(topic, peer, local, now);
            return Some(PeersOutput::new(&peers, &near));
        }
        if input.unannounce == Some(true) {
            self.announcements.remove(topic, peer, local);
        } else {
            self.announcements.add(topic, peer, local, now);
        }
        Some(PeersOutput::new(&[], &[]))
    }

    /// Forwards the notice of a connecting peer, or opens our own router for it.
    fn holepunch(&mut self, from: SocketAddrV4, packet: &Packet) {
        let value = packet.value.as_deref().unwrap_or_default();
        let Some(message) = Holepunch::decode(value) else { return };
        let plausible =
            |address: SocketAddrV4| address != from && may_name(*from.ip(), *address.ip());
        match message {
            Holepunch { to: Some(to), .. } if plausible(to) => {
                let mut passed = Packet::new(Kind::Query, packet.rid);
                passed.id = self.public_id();
                passed.to = Some(to);
                passed.command = Some(HOLEPUNCH.into());
                passed.value = Some(Holepunch { from: Some(from), to: None }.encode());
                self.send(to, &passed.encode());
            }
            Holepunch { from: Some(coming), to: None } if plausible(coming) => {
                self.reply(coming, Packet::new(Kind::Response, packet.rid));
            }
            Holepunch { from: None, to: None } => {
                self.reply(from, Packet::new(Kind::Response, packet.rid));
            }
            _ => {}
        }
    }
}

fn named(answer: &Packet) -> usize {
    answer.closer_nodes.as_ref().map_or(0, Vec::len)
}

/// Leaves out nodes, then the value, until the answer has at most `most` bytes.
fn shortened(answer: &Packet, most: usize) -> Packet {
    let mut answer = answer.clone();
    while answer.encode().len() > most
        && answer.closer_nodes.as_mut().is_some_and(|nodes| nodes.pop().is_some())
    {}
    if answer.encode().len() > most {
        answer.value = None;
    }
    answer
}

fn announcement(topic: &Id, port: u16, token: [u8; 32], take_back: bool) -> Packet {
    let mut packet = Packet::new(Kind::Update, 0);
    packet.command = Some(PEERS.into());
    packet.target = Some(*topic);
    packet.token = Some(token);
    let unannounce = take_back.then_some(true);
    let input = PeersInput { port: Some(port.into()), local_address: None, unannounce };
    packet.value = Some(input.encode_to_vec().into());
    packet
}
