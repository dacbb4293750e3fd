//! Connecting to a peer by the key of its node: the handshake through nodes that know it, then a way
//! for datagrams, through routers if need be.
//!
//! Whatever else is tried, the first packet of the stream that arrives has found a way.

use std::collections::{HashSet, VecDeque};
use std::net::SocketAddrV4;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::connection::Connection;
use super::endpoint::Endpoint;
use super::punch::{Hopeless, Puncher, Seen};
use super::sealed::Sealed;
use super::socket::Socket;
use super::{LONGEST_MESSAGE, local_addresses, udx_info};
use crate::crypto::PublicKey;
use crate::hyperdht::announcement::{handshake_namespace, target_of};
use crate::hyperdht::message::Command;
use crate::hyperdht::payload::{
    Firewall, Handshake as HandshakeValue, Holepunch, HolepunchInfo, Mode, NoisePayload, Relay,
    Round, fault,
};
use crate::hyperdht::{Answer, Ask, Event, Reach};
use crate::kademlia::{Id, may_name};
use crate::secret_stream::{Handshake, HandshakeError, Secrets};

/// Nodes that are asked at the same time to pass the handshake on.
const AT_ONCE: usize = 3;
/// Nodes that are asked at all.
const MAX_NODES: usize = 32;
/// The server comes to us, or has been told that we knock: it has so long.
const ARRIVE_WITHIN: Duration = Duration::from_secs(10);
/// The same where ports have to be guessed.
const GUESS_WITHIN: Duration = Duration::from_secs(40);
/// A server that does not know its router yet is asked again after this long.
const LET_IT_FIND_OUT: Duration = Duration::from_secs(1);

#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("nobody knows where it is")]
    NotFound,
    #[error("no node that knows it passed a handshake on")]
    Unanswered,
    #[error("it does not want to be connected to (fault {0})")]
    Refused(u64),
    #[error("there is no way to it: {0}")]
    Hopeless(#[from] Hopeless),
    #[error("it says nothing of how its router can be opened")]
    NotPunchable,
    #[error("the node that passes messages on does not answer any more")]
    RelayGone,
    #[error("no packet has come through within {0:?}")]
    NotThrough(Duration),
    #[error("handshake: {0}")]
    Handshake(#[from] HandshakeError),
    #[error("there are too many streams")]
    TooMany,
    #[error("{0}")]
    Io(#[from] std::io::Error),
}

/// A handshake that has come through.
struct Shaken {
    /// The node that passed it on, or the server itself.
    node: SocketAddrV4,
    /// Where that node sees the server.
    server: SocketAddrV4,
    /// Where that node sees us.
    client: SocketAddrV4,
    socket: Arc<Socket>,
    theirs: NoisePayload,
    secrets: Secrets,
}

/// A way for the stream's packets.
type Way = (Arc<Socket>, SocketAddrV4);

/// Connects to the owner of `key`. `relays` are nodes that are said to know it.
///
/// # Errors
/// When there is no way to it. It takes no longer than the limits here add up to.
pub async fn connect(
    endpoint: &Arc<Endpoint>,
    key: &PublicKey,
    relays: Vec<SocketAddrV4>,
) -> Result<Connection, ConnectError> {
    let line = endpoint.new_line().ok_or(ConnectError::TooMany)?;
    let shaken = shake_hands(endpoint, key, relays, line.local_id).await?;
    let udx = shaken.theirs.udx.ok_or(ConnectError::Refused(fault::NONE))?;
    line.remote_is(udx.id);
    let mut puncher = None;
    let (socket, to) = tokio::select! {
        // Who comes to us has found a way, whatever we thought.
        way = line.arrived() => way,
        way = find_way(endpoint, key, &shaken, &mut puncher) => way?,
    };
    let closing = puncher.as_ref().and_then(|puncher: &Puncher| puncher.take(socket.id));
    let line = line.connect(&socket, to);
    closing.into_iter().for_each(|closing| line.keep(closing));
    Ok(Connection::new(Arc::clone(endpoint), line, &shaken.secrets, to, LONGEST_MESSAGE))
}

/// The handshake, through whichever node passes it on first.
async fn shake_hands(
    endpoint: &Arc<Endpoint>,
    key: &PublicKey,
    relays: Vec<SocketAddrV4>,
    stream: u32,
) -> Result<Shaken, ConnectError> {
    let target = target_of(key);
    let reach = endpoint.with(|node, _| node.reach());
    let mut handshake =
        Handshake::initiator(&endpoint.keys, &handshake_namespace(), key.as_bytes())?;
    let hello = handshake.write(
        &NoisePayload {
            firewall: if matches!(reach, Reach::Open(_)) {
                Firewall::Open
            } else {
                Firewall::Unknown
            },
            addresses4: local_addresses(endpoint, reach),
            udx: Some(udx_info(stream)),
            secret_stream: Some(1),
            ..NoisePayload::default()
        }
        .encode(),
    )?;
    let mut search = Search::new(endpoint, target, relays);
    let mut asked = JoinSet::new();
    loop {
        while asked.len() < AT_ONCE
            && let Some(node) = search.next()
        {
            asked.spawn(pass_on(Arc::clone(endpoint), node, target, hello.clone()));
        }
        tokio::select! {
            true = search.more() => {}
            Some(answer) = asked.join_next() => {
                let Ok(Some((answer, value))) = answer else { continue };
                // Another node may still tell the truth.
                let Ok(theirs) = handshake.read(&value.noise) else { continue };
                return shaken(endpoint, handshake, &theirs, answer, value);
            }
            else => return Err(search.nobody()),
        }
    }
}

fn shaken(
    endpoint: &Arc<Endpoint>,
    handshake: Handshake,
    theirs: &Bytes,
    answer: Answer,
    value: HandshakeValue,
) -> Result<Shaken, ConnectError> {
    let refused = |_| ConnectError::Refused(fault::VERSION_MISMATCH);
    let theirs = NoisePayload::decode(theirs.clone()).map_err(refused)?;
    if theirs.error != fault::NONE {
        return Err(ConnectError::Refused(theirs.error));
    }
    Ok(Shaken {
        node: answer.from,
        server: value.peer_address.unwrap_or(answer.from),
        client: answer.to,
        socket: endpoint.socket(answer.socket).ok_or(ConnectError::RelayGone)?,
        theirs,
        secrets: handshake.finish()?,
    })
}

/// Asks one node to pass the handshake on; what comes back, if it is the answer to it.
async fn pass_on(
    endpoint: Arc<Endpoint>,
    node: SocketAddrV4,
    target: Id,
    noise: Bytes,
) -> Option<(Answer, HandshakeValue)> {
    let value =
        HandshakeValue { mode: Mode::FromClient, noise, peer_address: None, relay_address: None };
    let ask = Ask {
        target: Some(target),
        value: Some(value.encode()),
        ..Ask::new(node, Command::Handshake)
    };
    let answer = endpoint.request(ask).await?;
    let value = HandshakeValue::decode(answer.value.clone()?).ok()?;
    (value.mode == Mode::Reply).then_some((answer, value))
}

/// The nodes that know a peer: those that are said to, and those that are found to.
struct Search {
    waiting: VecDeque<SocketAddrV4>,
    seen: HashSet<SocketAddrV4>,
    found: Option<mpsc::Receiver<Event>>,
}

impl Search {
    fn new(endpoint: &Endpoint, target: Id, relays: Vec<SocketAddrV4>) -> Self {
        let found = endpoint.query(|node, now| node.find_peer(target, now));
        let mut search = Self { waiting: VecDeque::new(), seen: HashSet::new(), found };
        relays.into_iter().for_each(|relay| search.add(relay));
        search
    }

    fn add(&mut self, node: SocketAddrV4) {
        if self.seen.len() < MAX_NODES && self.seen.insert(node) {
            self.waiting.push_back(node);
        }
    }

    fn next(&mut self) -> Option<SocketAddrV4> {
        self.waiting.pop_front()
    }

    /// Waits until there are more; false if there will be none.
    async fn more(&mut self) -> bool {
        let Some(found) = &mut self.found else { return false };
        match found.recv().await {
            Some(Event::Record { from, relays, .. }) => {
                self.add(from);
                relays.into_iter().for_each(|relay| self.add(relay));
            }
            Some(_) => {}
            None => self.found = None,
        }
        true
    }

    fn nobody(&self) -> ConnectError {
        if self.seen.is_empty() { ConnectError::NotFound } else { ConnectError::Unanswered }
    }
}

/// Where to send the first packet to, once the other side lets it in.
async fn find_way(
    endpoint: &Arc<Endpoint>,
    key: &PublicKey,
    shaken: &Shaken,
    puncher: &mut Option<Puncher>,
) -> Result<Way, ConnectError> {
    let Shaken { node, server, theirs, .. } = shaken;
    let passed_on = server != node;
    let hole = theirs.holepunch.as_ref().filter(|hole| !hole.relays.is_empty());
    if !passed_on {
        return Ok((Arc::clone(&shaken.socket), *server));
    }
    if theirs.firewall == Firewall::Open || hole.is_none() {
        // What a node far away has let through is no address next door.
        let known = |at: &&SocketAddrV4| may_name(*node.ip(), *at.ip()) && at.port() != 0;
        let mut open = theirs.addresses4.iter().filter(|_| theirs.firewall == Firewall::Open);
        let to = open.find(known).unwrap_or(server);
        return Ok((Arc::clone(&shaken.socket), *to));
    }
    if matches!(endpoint.with(|node, _| node.reach()), Reach::Open(_)) {
        // It comes to us.
        tokio::time::sleep(ARRIVE_WITHIN).await;
        return Err(ConnectError::NotThrough(ARRIVE_WITHIN));
    }
    let hole = hole.ok_or(ConnectError::NotPunchable)?;
    let near = next_door(endpoint, shaken);
    let mut talk = Talk::new(endpoint, key, shaken, hole, puncher).await?;
    tokio::select! {
        Some(way) = near => Ok(way),
        way = talk.punch() => way,
    }
}

/// A server behind the router that we are behind too: the shorter way, if it answers there.
async fn next_door(endpoint: &Arc<Endpoint>, shaken: &Shaken) -> Option<Way> {
    if shaken.client.ip() != shaken.server.ip() {
        return None;
    }
    let private = |at: &&SocketAddrV4| at.ip().is_private() && at.port() != 0;
    let at = *shaken.theirs.addresses4.iter().find(private)?;
    let socket = endpoint.server_socket()?;
    let ping = Ask { socket: Some(socket.id), ..Ask::new(at, Command::Ping) };
    endpoint.request(ping).await?;
    Some((socket, at))
}

/// What the two sides tell each other about the hole, through nodes that know the server.
struct Talk<'a> {
    endpoint: &'a Arc<Endpoint>,
    target: Id,
    shaken: &'a Shaken,
    id: u64,
    /// The node that the server has chosen, and its own address as that node sees it.
    relay: Relay,
    sealed: Sealed,
    puncher: &'a mut Puncher,
    round: u64,
}

impl<'a> Talk<'a> {
    async fn new(
        endpoint: &'a Arc<Endpoint>,
        key: &PublicKey,
        shaken: &'a Shaken,
        hole: &HolepunchInfo,
        puncher: &'a mut Option<Puncher>,
    ) -> Result<Self, ConnectError> {
        let same = |relay: &&Relay| relay.relay_address == shaken.node;
        let relay = hole.relays.iter().find(same).or(hole.relays.first());
        let relay = *relay.ok_or(ConnectError::NotPunchable)?;
        let puncher = puncher.insert(Puncher::new(Arc::clone(endpoint)).await?);
        puncher.remote.firewall = shaken.theirs.firewall;
        let sealed = Sealed::new(&shaken.secrets.hash)?;
        let target = target_of(key);
        Ok(Self { endpoint, target, shaken, id: hole.id, relay, sealed, puncher, round: 0 })
    }

    /// Until somebody has come through.
    async fn punch(&mut self) -> Result<Way, ConnectError> {
        let mut server = self.shaken.server;
        // Whoever is there may send to us now; that it hears of it is not needed.
        self.puncher.socket.open_for(server);
        let (seen, first) = tokio::join!(self.puncher.sampling(), self.probe(server));
        self.puncher.sampled(seen);
        let (mut answer, mut theirs) = self.heard(first?)?;
        if theirs.firewall == Firewall::Unknown || theirs.token.is_none() {
            tokio::time::sleep(LET_IT_FIND_OUT).await;
            self.round += 1;
            let second = self.probe(server).await?;
            (answer, theirs) = self.heard(second)?;
        }
        if self.relay.relay_address == self.shaken.node && answer.at != server {
            // The server has taken another socket meanwhile.
            server = answer.at;
            self.puncher.socket.open_for(server);
        }
        self.round += 1;
        let token = self.sealed.token(*server.ip());
        let last = Round {
            punching: true,
            token: Some(token),
            remote_token: theirs.token,
            ..self.say(None)
        };
        let said = self.tell(server, self.shaken.node, &last).await?;
        let verified = said.round.remote_token == Some(token);
        self.puncher.remote.update(
            said.round.firewall,
            said.round.punching,
            &said.round.addresses,
            verified.then_some(*server.ip()),
        );
        if !said.round.punching {
            return Err(ConnectError::Refused(said.round.error));
        }
        self.puncher.punch(true)?;
        let random = [self.puncher.firewall(), self.puncher.remote.firewall];
        let within = if random.contains(&Firewall::Random) { GUESS_WITHIN } else { ARRIVE_WITHIN };
        let knocked = timeout(within, self.puncher.knocked()).await;
        knocked.map_err(|_| ConnectError::NotThrough(within))
    }

    /// What we say of ourselves.
    fn say(&self, remote_address: Option<SocketAddrV4>) -> Round {
        Round {
            firewall: self.puncher.firewall(),
            round: self.round,
            addresses: self.puncher.addresses(),
            remote_address,
            ..Round::default()
        }
    }

    /// Asks the server what it is behind, and lets it know where we have sent to.
    async fn probe(&self, server: SocketAddrV4) -> Result<Heard, ConnectError> {
        let round = self.say(Some(server));
        self.tell(self.relay.peer_address, self.relay.relay_address, &round).await
    }

    fn heard(&mut self, heard: Heard) -> Result<(Heard, Round), ConnectError> {
        let round = heard.round.clone();
        self.puncher.sampled(vec![Seen { own: heard.own, by: heard.by }]);
        self.puncher.remote.update(round.firewall, round.punching, &round.addresses, None);
        Ok((heard, round))
    }

    /// One round, by way of `relay`, to the server where that node sees it.
    async fn tell(
        &self,
        to: SocketAddrV4,
        relay: SocketAddrV4,
        round: &Round,
    ) -> Result<Heard, ConnectError> {
        let value = Holepunch {
            mode: Mode::FromClient,
            id: self.id,
            payload: self.sealed.seal(round)?,
            peer_address: Some(to),
        };
        let ask = Ask {
            socket: Some(self.puncher.socket.id),
            target: Some(self.target),
            value: Some(value.encode()),
            ..Ask::new(relay, Command::Holepunch)
        };
        let answer = self.endpoint.request(ask).await.ok_or(ConnectError::RelayGone)?;
        let value = answer.value.and_then(|value| Holepunch::decode(value).ok());
        let value = value.filter(|value| value.mode == Mode::Reply);
        let value = value.ok_or(ConnectError::RelayGone)?;
        let round = self.sealed.open(&value.payload).ok_or(ConnectError::RelayGone)?;
        if round.error != fault::NONE {
            return Err(ConnectError::Refused(round.error));
        }
        let at = value.peer_address.unwrap_or(to);
        Ok(Heard { own: answer.to, by: answer.from, at, round })
    }
}

/// What the server said.
struct Heard {
    /// Our socket, and who sees it there.
    own: SocketAddrV4,
    by: SocketAddrV4,
    /// Where the server has answered from, as the node sees it.
    at: SocketAddrV4,
    round: Round,
}
