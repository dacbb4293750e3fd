//! Walks of a node towards a topic or a key, and the commit to the nearest nodes.

use std::net::SocketAddrV4;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::super::announcement::{
    Announcement, AnnouncementPlace, LookupReply, Meaning, Peer, target_of,
};
use super::super::interface::Event;
use super::super::message::{Command, INVALID_TOKEN, Request, Response, Token, contact, id_of};
use super::super::payload::Relay;
use super::super::sending::{ONCE, PATIENT, Purpose, Ready, THRICE, WALKING};
use super::HyperDhtNode;
use crate::compact::put_ipv4;
use crate::kademlia::{BUCKET, Contact, Id, Query, QueryId, QueryStep, may_name};

/// Queries under way; one more is refused.
pub(crate) const MAX_QUERIES: usize = 16;
/// Announced topics that are remembered for withdrawal.
pub(crate) const MAX_TAKEN_BACK: usize = 4096;
/// Nodes of one topic that are remembered for withdrawal.
pub(crate) const MAX_TAKERS: usize = 2 * BUCKET;
/// Relays: nodes that store our address and forward messages to us.
pub(crate) const RELAYS: usize = 3;
/// Requests of one query that wait for an answer at the same time, late ones aside.
const AT_ONCE: usize = 10;
/// How long nodes have to accept an announcement after the walk to them.
const COMMIT_WITHIN: Duration = Duration::from_secs(10);
/// Down hints under way at the same time.
const MAX_HINTS: usize = 16;

/// The goal of a walk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Goal {
    /// Find the nodes near an id.
    Nodes,
    /// Find the peers of a topic.
    Lookup,
    /// Find the peers of a topic, and announce us.
    Announce,
    /// Find the nodes that forward messages to a peer.
    Peer,
    /// Find nodes that will forward messages to us.
    Serve,
}

impl Goal {
    fn command(self) -> Command {
        match self {
            Self::Nodes => Command::FindNode,
            Self::Lookup | Self::Announce => Command::Lookup,
            Self::Peer | Self::Serve => Command::FindPeer,
        }
    }

    /// The number of nearest nodes that the commit is sent to; `None` if there is no commit.
    fn commit_count(self) -> Option<usize> {
        match self {
            Self::Announce => Some(BUCKET),
            Self::Serve => Some(RELAYS),
            Self::Nodes | Self::Lookup | Self::Peer => None,
        }
    }
}

/// A walk; of each answer its token is kept.
pub(crate) type Walk = Query<Goal, Option<Token>>;

/// A node that accepted an announcement, and the token it gave.
pub(crate) type Taker = (SocketAddrV4, Token);

impl HyperDhtNode {
    /// Begins a walk; `None` if too many are under way.
    pub(super) fn start(&mut self, target: Id, goal: Goal, now: Instant) -> Option<QueryId> {
        if self.queries.len() >= MAX_QUERIES {
            return None;
        }
        let mut query = Query::new(target, goal, AT_ONCE, now);
        let known = self.table.closest(&target);
        if known.len() < BUCKET {
            self.bootstrap.iter().for_each(|address| query.add(contact(*address), None));
        }
        known.into_iter().for_each(|contact| query.add(contact, None));
        let number = self.next_query;
        self.next_query += 1;
        self.queries.insert(number, query);
        self.advance(number, now);
        Some(number)
    }

    /// Sends the requests that a walk may send now, and ends it when it is done.
    pub(super) fn advance(&mut self, number: QueryId, now: Instant) {
        while !self.sending.is_full(now) {
            let socket = self.socket();
            let Some(query) = self.queries.get_mut(&number) else { return };
            let Some(QueryStep { to, asked, referrer }) = query.next_step() else { break };
            let request =
                Request { target: Some(query.target), ..Request::new(to, query.goal.command()) };
            let purpose = Purpose::Step { query: number, asked, referrer };
            self.ask(Ready { socket, request, purpose, patience: WALKING }, now);
        }
        let Some(query) = self.queries.get_mut(&number) else { return };
        if !query.is_done() && now < query.deadline {
            return;
        }
        match query.goal.commit_count() {
            Some(most) if query.accepted().is_none() => self.commit(number, most, now),
            _ => self.finish(number, now),
        }
    }

    /// Handles the answer of a node on the way.
    pub(super) fn step_answered(
        &mut self,
        number: QueryId,
        asked: Option<Id>,
        from: SocketAddrV4,
        response: Response,
        now: Instant,
    ) {
        let Some(query) = self.queries.get_mut(&number) else { return };
        // A node that answers with an error accepts no announcement.
        let id = response.id.filter(|id| response.error == 0 && *id == id_of(from));
        query.answer(asked, id.map(|id| Contact { id, address: from }), response.token);
        let believed =
            |named: &&SocketAddrV4| named.port() != 0 && may_name(*from.ip(), *named.ip());
        for named in response.closer.iter().filter(believed).map(|named| contact(*named)) {
            if named.id != self.id {
                query.add(named, Some(from));
            }
        }
        let (goal, target) = (query.goal, query.target);
        if let Some(value) = response.value.filter(|_| response.error == 0) {
            match goal {
                Goal::Lookup | Goal::Announce => self.peers_found(number, from, value),
                Goal::Peer => self.record_found(number, target, from, value),
                Goal::Nodes | Goal::Serve => {}
            }
        }
        self.advance(number, now);
    }

    fn peers_found(&mut self, query: QueryId, via: SocketAddrV4, value: Bytes) {
        let Ok(reply) = LookupReply::decode(value) else { return };
        let own = self.keys.public_key();
        for Peer { key, relays } in reply.peers.into_iter().filter(|peer| peer.key != own) {
            let relays = believed_relays(via, relays);
            self.report(Event::Peer { query, key, relays, via });
        }
    }

    fn record_found(&mut self, query: QueryId, target: Id, from: SocketAddrV4, value: Bytes) {
        let Ok(peer) = Peer::decode(value) else { return };
        if target_of(&peer.key) == target {
            let relays = believed_relays(from, peer.relays);
            self.report(Event::Record { query, from, relays });
        }
    }

    /// A node on the way does not answer; the node that named it is informed. If no node answers at
    /// all, our own network is the likelier cause.
    pub(super) fn step_failed(
        &mut self,
        number: QueryId,
        asked: Option<Id>,
        down: SocketAddrV4,
        referrer: Option<SocketAddrV4>,
        now: Instant,
    ) {
        let Some(query) = self.queries.get_mut(&number) else { return };
        query.failed(asked);
        let hints = self.sending.count(|purpose| *purpose == Purpose::Hint);
        if let Some(to) = referrer.filter(|_| query.answered() > 0 && hints < MAX_HINTS) {
            let mut value = bytes::BytesMut::new();
            put_ipv4(down, &mut value);
            let value = Some(value.freeze());
            let request = Request { value, ..Request::new(to, Command::DownHint) };
            let socket = self.socket();
            self.ask(Ready { socket, request, purpose: Purpose::Hint, patience: ONCE }, now);
        }
        self.advance(number, now);
    }

    /// Begins the commit of a walk: announces us to the nearest nodes.
    fn commit(&mut self, number: QueryId, most: usize, now: Instant) {
        let Some(query) = self.queries.get_mut(&number) else { return };
        let closest = query.closest().into_iter();
        let takers: Vec<Taker> = closest
            .filter_map(|(contact, token)| Some((contact.address, token?)))
            .take(most)
            .collect();
        query.commit(takers.len(), now + COMMIT_WITHIN);
        let (target, goal) = (query.target, query.goal);
        self.remember_takers(target, goal, &takers, now);
        for taker in takers {
            if !self.commit_one(number, taker, false, now)
                && let Some(query) = self.queries.get_mut(&number)
            {
                query.commit_answered(false);
            }
        }
        if self.queries.get(&number).is_some_and(Walk::is_done) {
            self.finish(number, now);
        }
    }

    fn remember_takers(&mut self, target: Id, goal: Goal, takers: &[Taker], now: Instant) {
        if takers.is_empty()
            || (self.taken.len() >= MAX_TAKEN_BACK && !self.taken.contains_key(&target))
        {
            return;
        }
        let before = self.taken.insert(target, takers.to_vec()).unwrap_or_default();
        let is_taker = |one: &Taker| takers.iter().any(|(taker, _)| *taker == one.0);
        for one in before.into_iter().filter(|one| !is_taker(one)) {
            if goal == Goal::Serve {
                // A node that is no longer our relay must not refer peers to us.
                self.take_back_from(target, one, false, now);
            } else if let Some(all) = self.taken.get_mut(&target)
                && all.len() < MAX_TAKERS
            {
                all.push(one);
            }
        }
    }

    fn commit_one(
        &mut self,
        number: QueryId,
        (to, token): Taker,
        replaced: bool,
        now: Instant,
    ) -> bool {
        let Some(query) = self.queries.get(&number) else { return false };
        let target = query.target;
        let relays = match query.goal {
            Goal::Serve => Vec::new(),
            _ => self.relay_addresses(),
        };
        let request = self.announcement(Meaning::Here, target, (to, token), relays);
        let purpose = Purpose::Commit { query: number, replaced };
        self.ask(Ready { socket: self.socket(), request, purpose, patience: PATIENT }, now)
    }

    fn announcement(
        &self,
        meaning: Meaning,
        target: Id,
        (to, token): Taker,
        relays: Vec<SocketAddrV4>,
    ) -> Request {
        let place = AnnouncementPlace { target, token, node: id_of(to) };
        let value = Announcement::signed(meaning, &self.keys, relays, &place).encode();
        Request {
            target: Some(target),
            token: Some(token),
            value: Some(value),
            ..Request::new(to, meaning.command())
        }
    }

    /// Handles the answer to a request of the commit.
    pub(super) fn commit_answered(
        &mut self,
        number: QueryId,
        replaced: bool,
        from: SocketAddrV4,
        response: &Response,
        now: Instant,
    ) {
        let Some(query) = self.queries.get_mut(&number) else { return };
        let (target, goal) = (query.target, query.goal);
        if let (INVALID_TOKEN, false, Some(token)) = (response.error, replaced, response.token) {
            self.replace_token(&target, from, token);
            if self.commit_one(number, (from, token), true, now) {
                return;
            }
        }
        let accepted = response.error == 0;
        if let Some(serving) = self.serving.as_mut().filter(|_| accepted && goal == Goal::Serve) {
            serving.accepted_by(Relay { relay_address: from, peer_address: response.to });
        }
        self.commit_result(number, accepted, now);
    }

    pub(super) fn commit_result(&mut self, number: QueryId, accepted: bool, now: Instant) {
        if let Some(query) = self.queries.get_mut(&number) {
            query.commit_answered(accepted);
        }
        if self.queries.get(&number).is_some_and(Walk::is_done) {
            self.finish(number, now);
        }
    }

    fn replace_token(&mut self, target: &Id, from: SocketAddrV4, token: Token) {
        let takers = self.taken.get_mut(target).into_iter().flatten();
        takers.filter(|(taker, _)| *taker == from).for_each(|taker| taker.1 = token);
    }

    fn finish(&mut self, number: QueryId, now: Instant) {
        let Some(query) = self.queries.remove(&number) else { return };
        match query.goal {
            Goal::Nodes => {}
            Goal::Serve => self.served(now),
            Goal::Lookup | Goal::Announce | Goal::Peer => {
                let (answered, announced) = (query.answered(), query.accepted().unwrap_or(0));
                self.report(Event::Finished { query: number, answered, announced });
            }
        }
    }

    /// Withdraws our announcement of `topic` from all nodes that accepted it.
    pub(crate) fn take_back(&mut self, topic: &Id, now: Instant) {
        for taker in self.taken.remove(topic).unwrap_or_default() {
            self.take_back_from(*topic, taker, false, now);
        }
    }

    /// Withdraws all announcements, including that of our address.
    pub(crate) fn take_back_all(&mut self, now: Instant) {
        let topics: Vec<Id> = self.taken.keys().copied().collect();
        topics.iter().for_each(|topic| self.take_back(topic, now));
    }

    /// Whether a node has not yet answered a withdrawal.
    #[cfg(test)]
    pub(crate) fn is_taking_back(&self) -> bool {
        self.sending.count(|purpose| matches!(purpose, Purpose::TakeBack { .. })) > 0
    }

    fn take_back_from(&mut self, target: Id, taker: Taker, replaced: bool, now: Instant) {
        let request = self.announcement(Meaning::Gone, target, taker, Vec::new());
        let purpose = Purpose::TakeBack { target, replaced };
        self.ask(Ready { socket: self.socket(), request, purpose, patience: THRICE }, now);
    }

    /// Repeats a withdrawal with a new token: nodes change their tokens every few seconds.
    pub(super) fn take_back_answered(
        &mut self,
        target: Id,
        replaced: bool,
        from: SocketAddrV4,
        response: &Response,
        now: Instant,
    ) {
        if let (INVALID_TOKEN, false, Some(token)) = (response.error, replaced, response.token) {
            self.take_back_from(target, (from, token), true, now);
        }
    }
}

/// The relays that the node `from` may name.
fn believed_relays(from: SocketAddrV4, relays: Vec<SocketAddrV4>) -> Vec<SocketAddrV4> {
    let believed = |relay: &SocketAddrV4| relay.port() != 0 && may_name(*from.ip(), *relay.ip());
    relays.into_iter().filter(believed).collect()
}
