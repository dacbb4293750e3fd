//! Being found by our key: nodes near the key store our address and forward messages to us. We ping
//! them to keep routers open, and announce our address again when one stops answering, when one sees
//! us at another address, and every few minutes.

use std::net::SocketAddrV4;
use std::time::Duration;

use tokio::time::Instant;

use super::super::announcement::target_of;
use super::super::interface::Event;
use super::super::message::{Command, Request};
use super::super::payload::Relay;
use super::super::sending::{Purpose, Ready, THRICE};
use super::HyperDhtNode;
use super::walk::{Goal, RELAYS};
use crate::kademlia::{Id, QueryId};

/// How often our address is announced to the relays.
const ANNOUNCE_EVERY: Duration = Duration::from_secs(300);
/// The pause when a relay is needed sooner, and after the first announcement that no node accepted;
/// it doubles each time.
const ANNOUNCE_AGAIN: Duration = Duration::from_secs(5);
/// How often relays are pinged: routers soon forget which addresses may answer.
const STAY_AWAKE_EVERY: Duration = Duration::from_secs(5);

/// See the module's description.
pub(crate) struct Serving {
    target: Id,
    relays: Vec<Relay>,
    /// Relays that accepted the announcement in the current round.
    accepting: Vec<Relay>,
    /// How many accepted it in the last round.
    accepted: usize,
    query: Option<QueryId>,
    next_announcement: Instant,
    earliest_announcement: Instant,
    /// The address in the announcement that is under way has changed.
    outdated: bool,
    next_awake: Instant,
    pause: Duration,
}

impl Serving {
    fn new(target: Id, now: Instant) -> Self {
        Self {
            target,
            relays: Vec::new(),
            accepting: Vec::new(),
            accepted: 0,
            query: None,
            next_announcement: now,
            earliest_announcement: now,
            outdated: false,
            next_awake: now + STAY_AWAKE_EVERY,
            pause: ANNOUNCE_AGAIN,
        }
    }

    pub(crate) fn target(&self) -> &Id {
        &self.target
    }

    /// Notes that a node will forward messages to us.
    pub(crate) fn accepted_by(&mut self, relay: Relay) {
        self.accepting.push(relay);
    }

    /// Schedules the next announcement as soon as the pause allows.
    fn hurry(&mut self) {
        self.next_announcement = self.next_announcement.min(self.earliest_announcement);
        self.outdated = self.query.is_some();
    }

    pub(crate) fn next_tick(&self) -> Instant {
        match self.query {
            Some(_) => self.next_awake,
            None => self.next_awake.min(self.next_announcement),
        }
    }

    fn announced(&mut self, now: Instant) {
        self.query = None;
        self.relays = std::mem::take(&mut self.accepting);
        self.accepted = self.relays.len();
        let pause;
        (pause, self.pause) = if self.relays.is_empty() {
            (self.pause, (self.pause * 2).min(ANNOUNCE_EVERY))
        } else {
            (if self.outdated { ANNOUNCE_AGAIN } else { ANNOUNCE_EVERY }, ANNOUNCE_AGAIN)
        };
        self.outdated = false;
        (self.next_announcement, self.earliest_announcement) = (now + pause, now + ANNOUNCE_AGAIN);
        self.next_awake = now + STAY_AWAKE_EVERY;
    }

    fn lost(&mut self, relay: SocketAddrV4) {
        self.relays.retain(|one| one.relay_address != relay);
        if self.relays.len() < self.accepted.min(RELAYS) {
            self.hurry();
        }
    }

    /// Notes where a relay sees us. It stores the address from which the announcement came.
    fn seen(&mut self, relay: SocketAddrV4, seen_as: SocketAddrV4) {
        let one = self.relays.iter_mut().find(|one| one.relay_address == relay);
        if let Some(one) = one.filter(|one| one.peer_address != seen_as) {
            one.peer_address = seen_as;
            self.hurry();
        }
    }
}

impl HyperDhtNode {
    /// Starts to announce our key, so that peers can find us by it.
    pub(crate) fn serve(&mut self, now: Instant) {
        if self.serving.is_none() {
            self.serving = Some(Serving::new(target_of(&self.keys.public_key()), now));
            self.tick_serving(now);
        }
    }

    pub(crate) fn stop_serving(&mut self, now: Instant) {
        if let Some(serving) = self.serving.take() {
            if let Some(query) = serving.query {
                self.queries.remove(&query);
            }
            self.take_back(&serving.target, now);
        }
    }

    /// The nodes that forward messages to us, and our address as each sees it.
    pub(crate) fn relays(&self) -> Vec<Relay> {
        self.serving.as_ref().map(|serving| serving.relays.clone()).unwrap_or_default()
    }

    /// Addresses at which peers can reach us: our own, if every address can reach it, and the
    /// relays.
    pub(super) fn relay_addresses(&self) -> Vec<SocketAddrV4> {
        let serving = self.serving.as_ref();
        let own = serving.and(self.open_address());
        let relays = serving.into_iter().flat_map(|serving| &serving.relays);
        own.into_iter().chain(relays.map(|relay| relay.relay_address)).take(RELAYS).collect()
    }

    pub(super) fn tick_serving(&mut self, now: Instant) {
        let Some(serving) = &mut self.serving else { return };
        if serving.query.is_none() && now >= serving.next_announcement {
            serving.accepting.clear();
            serving.next_announcement = now + ANNOUNCE_AGAIN;
            let target = serving.target;
            // The query may have ended already, without a node to ask.
            let query = self.start(target, Goal::Serve, now);
            let under_way = query.filter(|query| self.queries.contains_key(query));
            if let Some(serving) = &mut self.serving {
                serving.query = under_way;
            }
        }
        let Some(serving) = &mut self.serving else { return };
        if now < serving.next_awake {
            return;
        }
        serving.next_awake = now + STAY_AWAKE_EVERY;
        let relays: Vec<SocketAddrV4> =
            serving.relays.iter().map(|relay| relay.relay_address).collect();
        for relay in relays {
            let request = Request::new(relay, Command::Ping);
            let socket = self.socket();
            self.ask(Ready { socket, request, purpose: Purpose::Relay, patience: THRICE }, now);
        }
    }

    /// The walk to the relays has ended, and they have answered.
    pub(super) fn served(&mut self, now: Instant) {
        let Some(serving) = &mut self.serving else { return };
        serving.announced(now);
        let relays = serving.accepted;
        self.report(Event::Served { relays });
    }

    pub(super) fn relay_answered(&mut self, relay: SocketAddrV4, seen_as: SocketAddrV4) {
        if let Some(serving) = &mut self.serving {
            serving.seen(relay, seen_as);
        }
    }

    pub(super) fn relay_failed(&mut self, relay: SocketAddrV4) {
        if let Some(serving) = &mut self.serving {
            serving.lost(relay);
        }
    }

    /// Announces our changed address to the relays as soon as the limits allow.
    pub(super) fn hurry_serving(&mut self) {
        if let Some(serving) = &mut self.serving {
            serving.hurry();
        }
    }
}
