//! A node of HyperDHT 6: sends our requests and answers those of others.
//!
//! Packets and time go in, packets and events come out; no sockets, no clock. A datagram's source
//! address can be forged: a node is remembered after it has answered us, an announcement is accepted
//! with a token that was sent to that address.
//!
//! Not here: walks (`walk`), how we are found (`serving`), answers to other nodes (`answer`) and
//! forwarding for them (`router`).

pub(super) mod walk;
mod serving;
pub(super) mod router;
pub(super) mod answer;

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddrV4;
use std::time::Duration;

use tokio::time::Instant;

use super::interface::{Answer, Ask, Event, Outgoing, Reachability, RequestId, Role, SocketId};
use super::message::{Command, Packet, Request, Response, contact, id_of};
use super::reachability::{PROBED, Probe, Samples};
use super::records::Records;
use super::sending::{ONCE, Overdue, PATIENT, Purpose, Ready, Sending};
use crate::crypto::{KeyPair, random_bytes};
use crate::kademlia::{
    AMPLIFICATION, BUCKET, Confirmed, Contact, Id, Patience, QueryId, RandomParts, RoutingTable,
    Tokens, Window,
};

use answer::Incoming;
use router::ForwardedClients;
use serving::Serving;
use walk::{Goal, Taker, Walk};

/// Requests answered per second; more are ignored.
pub(crate) const MAX_ANSWERS_PER_SECOND: u32 = 1000;
/// Pending events that other nodes cause; further ones are dropped. Events that end an operation of
/// ours are never dropped.
pub(crate) const MAX_EVENTS: usize = 1024;
/// Unknown nodes that sent a request and are pinged at the same time.
pub(crate) const MAX_CHECKS: usize = 32;
/// How often the nodes that were silent longest are pinged.
const CHECK_EVERY: Duration = Duration::from_secs(40);
const CHECKED: usize = 3;
/// With fewer nodes than a bucket has, the bootstrap is repeated after this pause, then after twice
/// as long each time, up to [`REJOIN_EVERY`].
const FIRST_REJOIN: Duration = Duration::from_secs(5);
const REJOIN_EVERY: Duration = Duration::from_secs(320);

/// See the module's description.
pub(crate) struct HyperDhtNode {
    pub(super) id: Id,
    pub(super) keys: KeyPair,
    pub(super) role: Role,
    pub(super) bootstrap: Vec<SocketAddrV4>,
    pub(super) table: RoutingTable,
    pub(super) tokens: Tokens,
    pub(super) records: Records,
    pub(super) forwarded_clients: ForwardedClients,
    pub(super) confirmed: Confirmed<Incoming>,
    pub(super) sending: Sending,
    pub(super) queries: BTreeMap<QueryId, Walk>,
    pub(super) next_query: QueryId,
    /// The nodes that accepted our announcement of a topic.
    pub(super) taken: BTreeMap<Id, Vec<Taker>>,
    pub(super) serving: Option<Serving>,
    next_request: RequestId,
    /// Reports of the address of the socket from which the node sends requests.
    samples: Samples,
    probe: Probe,
    /// The address at which every peer can reach our server socket.
    open: Option<SocketAddrV4>,
    events: VecDeque<Event>,
    answers: Window,
    next_check: Instant,
    next_rejoin: Instant,
    rejoin_pause: Duration,
}

impl HyperDhtNode {
    /// A node that joins the network of its `bootstrap` nodes, or starts one.
    pub(crate) fn new(
        chosen: RandomParts,
        keys: KeyPair,
        bootstrap: Vec<SocketAddrV4>,
        role: Role,
        now: Instant,
    ) -> Self {
        let (id, open) = match role {
            Role::Ephemeral { .. } => (chosen.id, None),
            Role::Persistent { address } => (id_of(address), Some(address)),
        };
        let mut node = Self {
            id,
            keys,
            role,
            bootstrap: others(bootstrap, id),
            table: RoutingTable::new(id),
            tokens: Tokens::new(chosen.secrets, now),
            records: Records::default(),
            forwarded_clients: ForwardedClients::default(),
            confirmed: Confirmed::default(),
            sending: Sending::new(chosen.first_request, now),
            queries: BTreeMap::new(),
            next_query: 0,
            taken: BTreeMap::new(),
            serving: None,
            next_request: 0,
            samples: Samples::default(),
            probe: Probe::new(now),
            open,
            events: VecDeque::new(),
            answers: Window::new(MAX_ANSWERS_PER_SECOND, now),
            next_check: now + CHECK_EVERY,
            next_rejoin: now + FIRST_REJOIN,
            rejoin_pause: FIRST_REJOIN,
        };
        node.join(now);
        node
    }

    /// Replaces the bootstrap nodes and bootstraps again.
    pub(crate) fn set_bootstrap(&mut self, bootstrap: Vec<SocketAddrV4>, now: Instant) {
        self.bootstrap = others(bootstrap, self.id);
        self.rejoin_pause = FIRST_REJOIN;
        self.next_rejoin = now + FIRST_REJOIN;
        self.join(now);
    }

    /// Announces this node to the network and learns the nodes near it.
    fn join(&mut self, now: Instant) {
        let joining = self.queries.iter_mut().find(|(_, query)| query.goal == Goal::Nodes);
        if let Some((&number, query)) = joining {
            self.bootstrap.iter().for_each(|address| query.add(contact(*address), None));
            self.advance(number, now);
        } else if !self.bootstrap.is_empty() || !self.table.is_empty() {
            self.start(self.id, Goal::Nodes, now);
        }
    }

    /// Looks for the peers of a topic; `None` if too many queries are under way.
    pub(crate) fn lookup(&mut self, topic: Id, now: Instant) -> Option<QueryId> {
        self.start(topic, Goal::Lookup, now)
    }

    /// Looks for the peers of a topic and announces us as one.
    pub(crate) fn announce(&mut self, topic: Id, now: Instant) -> Option<QueryId> {
        self.start(topic, Goal::Announce, now)
    }

    /// Looks for the nodes that know where a peer is; `target` is the hash of the peer's key.
    pub(crate) fn find_peer(&mut self, target: Id, now: Instant) -> Option<QueryId> {
        self.start(target, Goal::Peer, now)
    }

    /// Sends one request, now or soon; `None` if too many wait.
    pub(crate) fn request(&mut self, ask: Ask, now: Instant) -> Option<RequestId> {
        let Ask { to, socket, command, target, token, value, again } = ask;
        let request = Request { target, token, value, ..Request::new(to, command) };
        let number = self.next_request;
        let ready = Ready {
            socket: socket.unwrap_or_else(|| self.socket()),
            request,
            purpose: Purpose::Asked(number),
            patience: if again { PATIENT } else { ONCE },
        };
        if !self.ask(ready, now) {
            return None;
        }
        self.next_request += 1;
        Some(number)
    }

    /// Nodes known.
    pub(crate) fn nodes(&self) -> usize {
        self.table.len()
    }

    /// At most `count` nodes: those that answered last, the newest first, then bootstrap nodes.
    pub(crate) fn recent_nodes(&self, count: usize) -> Vec<SocketAddrV4> {
        let mut nodes: Vec<SocketAddrV4> =
            self.table.newest(count).iter().map(|contact| contact.address).collect();
        for address in &self.bootstrap {
            if nodes.len() < count && !nodes.contains(address) {
                nodes.push(*address);
            }
        }
        nodes
    }

    /// Where others can reach the socket from which the node sends requests.
    pub(crate) fn reachability(&self) -> Reachability {
        self.open.map_or_else(|| self.samples.reachability(), Reachability::Open)
    }

    pub(super) fn is_open(&self) -> bool {
        self.open.is_some()
    }

    pub(super) fn open_address(&self) -> Option<SocketAddrV4> {
        self.open
    }

    /// The socket from which the node sends requests. If every address can reach the server socket,
    /// using it costs nothing.
    pub(super) fn socket(&self) -> SocketId {
        if self.is_open() { SocketId::SERVER } else { SocketId::CLIENT }
    }

    /// Our id, in packets from this socket; `None` if we are ephemeral there.
    pub(super) fn public_id(&self, socket: SocketId) -> Option<Id> {
        let stays = matches!(self.role, Role::Persistent { .. });
        (stays && socket == SocketId::SERVER).then_some(self.id)
    }

    pub(crate) fn next_packet(&mut self) -> Option<Outgoing> {
        self.sending.next_packet()
    }

    pub(crate) fn next_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    pub(super) fn report(&mut self, event: Event) {
        let ends_something =
            matches!(event, Event::Answered { .. } | Event::Finished { .. } | Event::Served { .. });
        if ends_something || self.events.len() < MAX_EVENTS {
            self.events.push_back(event);
        }
    }

    /// Sends a request, now or soon; false if too many wait.
    pub(super) fn ask(&mut self, mut ready: Ready, now: Instant) -> bool {
        ready.request.id = self.public_id(ready.socket);
        self.sending.ask(ready, now)
    }

    /// Pings a node; its answer adds it to the table.
    pub(super) fn check(&mut self, address: SocketAddrV4, patience: Patience, now: Instant) {
        let checks = self.sending.count(|purpose| *purpose == Purpose::Check);
        if checks < MAX_CHECKS {
            let request = Request::new(address, Command::Ping);
            let socket = self.socket();
            self.ask(Ready { socket, request, purpose: Purpose::Check, patience }, now);
        }
    }

    /// When [`HyperDhtNode::tick`] has something to do.
    pub(crate) fn next_tick(&self) -> Instant {
        let next = self.next_check.min(self.next_rejoin);
        let requests = self.sending.next_due(!self.queries.is_empty());
        let probe = self.expected_at().map(|_| self.probe.next);
        let serving = self.serving.as_ref().map(Serving::next_tick);
        let queries = self.queries.values().map(|query| query.deadline);
        [requests, probe, serving].into_iter().flatten().chain(queries).fold(next, Instant::min)
    }

    pub(crate) fn tick(&mut self, now: Instant) {
        self.tokens.rotate(now, || random_bytes().ok());
        while let Some(overdue) = self.sending.take_due(now) {
            self.overdue(overdue, now);
        }
        self.sending.go_on(now);
        if now >= self.next_check {
            self.next_check = now + CHECK_EVERY;
            for contact in self.table.oldest(CHECKED) {
                self.check(contact.address, PATIENT, now);
            }
        }
        if now >= self.next_rejoin {
            self.rejoin_pause = (self.rejoin_pause * 2).min(REJOIN_EVERY);
            self.next_rejoin = now + self.rejoin_pause;
            if self.table.len() < BUCKET {
                self.join(now);
            }
        }
        self.tick_probe(now);
        self.tick_serving(now);
        let numbers: Vec<QueryId> = self.queries.keys().copied().collect();
        numbers.iter().for_each(|number| self.advance(*number, now));
    }

    fn overdue(&mut self, overdue: Overdue, now: Instant) {
        match overdue {
            Overdue::Late { purpose: Purpose::Step { query, asked: Some(asked), .. } } => {
                if let Some(walk) = self.queries.get_mut(&query) {
                    walk.late(&asked);
                }
                self.advance(query, now);
            }
            Overdue::Late { .. } => {}
            Overdue::TimedOut { to, purpose } => self.timed_out(to, purpose, now),
        }
    }

    fn timed_out(&mut self, to: SocketAddrV4, purpose: Purpose, now: Instant) {
        match purpose {
            // The peer to which the node forwarded the request may be the silent one.
            Purpose::Asked(request) => {
                return self.report(Event::Answered { request, answer: None });
            }
            // A ping that does not arrive is no fault of the node.
            Purpose::Nat => return self.probe_ended(None),
            Purpose::Hint | Purpose::Confirm => return,
            Purpose::Step { query, asked, referrer } => {
                self.step_failed(query, asked, to, referrer, now);
            }
            Purpose::Commit { query, .. } => self.commit_result(query, false, now),
            Purpose::Relay => self.relay_failed(to),
            Purpose::TakeBack { .. } | Purpose::Check => {}
        }
        self.table.failed(to);
    }

    /// Handles a datagram.
    pub(crate) fn receive(
        &mut self,
        socket: SocketId,
        from: SocketAddrV4,
        bytes: &[u8],
        now: Instant,
    ) {
        if from.port() == 0 {
            return;
        }
        match Packet::decode(bytes) {
            Some(Packet::Response(response)) => self.response(socket, from, response, now),
            Some(Packet::Request(request)) if self.answers.take(now) => {
                let allowance = bytes.len() * AMPLIFICATION;
                self.answer(Incoming { socket, from, allowance, request }, now);
            }
            Some(Packet::Request(_)) | None => {}
        }
    }

    fn response(&mut self, socket: SocketId, from: SocketAddrV4, response: Response, now: Instant) {
        let Some(purpose) = self.sending.answered(socket, from, response.number) else { return };
        for held in self.confirmed.confirm(from, now) {
            self.answer(held, now);
        }
        if purpose == Purpose::Nat {
            return self.probe_ended(Some(response.to));
        }
        let named = response.id.is_some_and(|id| id == id_of(from));
        if named {
            self.table.heard(Contact { id: id_of(from), address: from }, now);
        }
        // Other nodes may be on our local network and see an address that is valid only there.
        if socket == self.socket() && (named || self.bootstrap.contains(&from)) {
            self.seen(from, response.to, now);
        }
        match purpose {
            Purpose::Step { query, asked, .. } => {
                self.step_answered(query, asked, from, response, now);
            }
            Purpose::Commit { query, replaced } => {
                self.commit_answered(query, replaced, from, &response, now);
            }
            Purpose::TakeBack { target, replaced } => {
                self.take_back_answered(target, replaced, from, &response, now);
            }
            // The node now at this address is ephemeral.
            Purpose::Check if !named => self.table.failed(from),
            Purpose::Relay => self.relay_answered(from, response.to),
            Purpose::Asked(request) => {
                let Response { to, token, error, value, .. } = response;
                let answer = Some(Answer { from, to, socket, value, error, token });
                self.report(Event::Answered { request, answer });
            }
            Purpose::Check | Purpose::Nat | Purpose::Hint | Purpose::Confirm => {}
        }
        // The answer makes room for a waiting request.
        self.sending.go_on(now);
    }

    /// Notes that a node sees us at an address.
    fn seen(&mut self, node: SocketAddrV4, seen_as: SocketAddrV4, now: Instant) {
        self.samples.add(node, seen_as);
        let (Role::Ephemeral { .. }, Some(open)) = (self.role, self.open) else { return };
        let moved = match self.samples.reachability() {
            Reachability::Consistent(address) => address != open,
            other => other == Reachability::Random,
        };
        // Our router admitted every address, and no longer does.
        if moved {
            (self.open, self.samples, self.probe) = (None, Samples::default(), Probe::later(now));
            self.hurry_serving();
        }
    }

    /// The address at which our server socket would be reachable, if that is to be tested: the host that
    /// most nodes report, and the port of the socket.
    fn expected_at(&self) -> Option<SocketAddrV4> {
        let Role::Ephemeral { server_port } = self.role else { return None };
        let seen_as = self.samples.agreed()?;
        let probing = self.is_open() || self.probe.is_under_way();
        (!probing).then(|| SocketAddrV4::new(*seen_as.ip(), server_port))
    }

    /// Asks nodes to send a packet to our server socket, which has sent them none.
    fn tick_probe(&mut self, now: Instant) {
        let Role::Ephemeral { server_port } = self.role else { return };
        let Some(expected) = self.expected_at().filter(|_| now >= self.probe.next) else { return };
        let nodes = self.recent_nodes(PROBED);
        self.probe.begin(expected, nodes.len(), now);
        for to in nodes {
            let value = bytes::Bytes::copy_from_slice(&server_port.to_le_bytes());
            let request = Request { value: Some(value), ..Request::new(to, Command::PingNat) };
            let socket = SocketId::CLIENT;
            if !self.ask(Ready { socket, request, purpose: Purpose::Nat, patience: PATIENT }, now) {
                self.probe_ended(None);
            }
        }
    }

    fn probe_ended(&mut self, seen_as: Option<SocketAddrV4>) {
        if let Some(open) = self.probe.ended(seen_as) {
            // What is known of the one socket says nothing about the other.
            (self.open, self.samples) = (Some(open), Samples::default());
            self.hurry_serving();
        }
    }
}

/// Skips our own address in the bootstrap list, which all nodes may share.
fn others(bootstrap: Vec<SocketAddrV4>, own: Id) -> Vec<SocketAddrV4> {
    bootstrap.into_iter().filter(|address| id_of(*address) != own).collect()
}
