//! Connecting to a peer by the key of its node: the handshake through nodes that know it, then a path
//! for datagrams, through routers if necessary.
//!
//! The first packet of the stream that arrives decides the path, whatever else is tried.

use std::collections::{HashSet, VecDeque};
use std::net::SocketAddrV4;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::connection::{Connection, Datagrams};
use super::endpoint::Endpoint;
use super::hello;
use super::punch::{PunchError, Puncher, Seen};
use super::sealed::Sealed;
use super::socket::Socket;
use crate::crypto::PublicKey;
use crate::hyperdht::announcement::{handshake_namespace, target_of};
use crate::hyperdht::message::Command;
use crate::hyperdht::payload::{
    Firewall, Handshake as HandshakeValue, Holepunch, HolepunchInfo, Mode, NoisePayload, Relay,
    Round, fault,
};
use crate::hyperdht::{Answer, Ask, Event};
use crate::kademlia::{Id, may_name};
use crate::secret_stream::{Handshake, HandshakeError, Secrets};

/// Nodes that are asked at the same time to forward the handshake.
const AT_ONCE: usize = 3;
/// Nodes that are asked in total.
const MAX_NODES: usize = 32;
/// How long the first packet of the server may take, after the handshake or once both sides punch.
const ARRIVE_WITHIN: Duration = Duration::from_secs(10);
/// As [`ARRIVE_WITHIN`], where ports must be guessed.
const GUESS_WITHIN: Duration = Duration::from_secs(40);
/// A server that does not know its router yet is asked again after this long.
const LET_IT_FIND_OUT: Duration = Duration::from_secs(1);

#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    #[error("no node knows its address")]
    NotFound,
    #[error("no node that knows it passed a handshake on")]
    Unanswered,
    #[error("it does not want to be connected to (fault {0})")]
    Refused(u64),
    #[error("there is no way to it: {0}")]
    PunchError(#[from] PunchError),
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

/// A finished handshake.
struct FinishedHandshake {
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

/// A path for the packets of the stream: our socket, and the peer's address.
type NetworkPath = (Arc<Socket>, SocketAddrV4);

/// Connects to the owner of `key`. `relays` are nodes that are said to know it.
///
/// # Errors
/// Fails if no path to the peer is found, at the latest after the sum of the limits above.
pub(crate) async fn connect(
    endpoint: &Arc<Endpoint>,
    key: &PublicKey,
    relays: Vec<SocketAddrV4>,
) -> Result<Connection, ConnectError> {
    let stream = endpoint.new_stream().ok_or(ConnectError::TooMany)?;
    let shaken = shake_hands(endpoint, key, relays, stream.local_id).await?;
    let udx = shaken.theirs.udx.ok_or(ConnectError::Refused(fault::NONE))?;
    stream.remote_is(udx.id);
    let mut puncher = None;
    let (socket, to) = tokio::select! {
        // A peer whose packets reach us has found a path, whatever we assumed.
        way = stream.arrived() => way,
        way = find_path(endpoint, key, &shaken, &mut puncher) => way?,
    };
    let closing = puncher.as_ref().and_then(|puncher: &Puncher| puncher.take(socket.id));
    let stream = stream.connect(&socket, to);
    closing.into_iter().for_each(|closing| stream.keep(closing));
    let datagrams = Datagrams::new(Arc::clone(endpoint), stream);
    Ok(Connection { datagrams, secrets: shaken.secrets, address: to })
}

/// The handshake, through the node that forwards it first.
async fn shake_hands(
    endpoint: &Arc<Endpoint>,
    key: &PublicKey,
    relays: Vec<SocketAddrV4>,
    stream: u32,
) -> Result<FinishedHandshake, ConnectError> {
    let target = target_of(key);
    let open = endpoint.with(|node, _| node.reachability().open());
    let mut handshake =
        Handshake::initiator(&endpoint.keys, &handshake_namespace(), key.as_bytes())?;
    let hello = handshake.write(&hello(endpoint, open, stream).encode())?;
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
                // Another node may still forward the right answer.
                let Ok(theirs) = handshake.read(&value.noise) else { continue };
                return finish_handshake(endpoint, handshake, &theirs, answer, value);
            }
            else => return Err(search.failure()),
        }
    }
}

fn finish_handshake(
    endpoint: &Arc<Endpoint>,
    handshake: Handshake,
    theirs: &Bytes,
    answer: Answer,
    value: HandshakeValue,
) -> Result<FinishedHandshake, ConnectError> {
    let refused = |_| ConnectError::Refused(fault::VERSION_MISMATCH);
    let theirs = NoisePayload::decode(theirs.clone()).map_err(refused)?;
    if theirs.error != fault::NONE {
        return Err(ConnectError::Refused(theirs.error));
    }
    Ok(FinishedHandshake {
        node: answer.from,
        server: value.peer_address.unwrap_or(answer.from),
        client: answer.to,
        socket: endpoint.socket(answer.socket).ok_or(ConnectError::RelayGone)?,
        theirs,
        secrets: handshake.finish()?,
    })
}

/// Asks one node to forward the handshake; returns the peer's answer, if there is one.
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

/// Nodes that know a peer: those that were named, and those that a query finds.
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

    /// Waits until there are more nodes; false if there will be none.
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

    fn failure(&self) -> ConnectError {
        if self.seen.is_empty() { ConnectError::NotFound } else { ConnectError::Unanswered }
    }
}

/// The path for the first packet, once the router of the other side admits it.
async fn find_path(
    endpoint: &Arc<Endpoint>,
    key: &PublicKey,
    shaken: &FinishedHandshake,
    puncher: &mut Option<Puncher>,
) -> Result<NetworkPath, ConnectError> {
    let FinishedHandshake { node, server, theirs, .. } = shaken;
    if server == node {
        return Ok((Arc::clone(&shaken.socket), *server));
    }
    if theirs.firewall == Firewall::Open {
        // A remote node must not name an address in our network.
        let known = |at: &&SocketAddrV4| may_name(*node.ip(), *at.ip()) && at.port() != 0;
        let to = theirs.addresses4.iter().find(known).unwrap_or(server);
        return Ok((Arc::clone(&shaken.socket), *to));
    }
    let Some(hole) = theirs.holepunch.as_ref().and_then(|hole| Hole::through(hole, *node)) else {
        return Ok((Arc::clone(&shaken.socket), *server));
    };
    if endpoint.with(|node, _| node.reachability().open()).is_some() {
        // The peer connects to us.
        tokio::time::sleep(ARRIVE_WITHIN).await;
        return Err(ConnectError::NotThrough(ARRIVE_WITHIN));
    }
    let near = same_router(endpoint, shaken);
    let mut negotiation = PunchNegotiation::new(endpoint, key, shaken, hole, puncher).await?;
    tokio::select! {
        Some(way) = near => Ok(way),
        way = negotiation.punch() => way,
    }
}

/// A server behind our own router: the path inside of that network, if the server answers there.
async fn same_router(endpoint: &Arc<Endpoint>, shaken: &FinishedHandshake) -> Option<NetworkPath> {
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

/// A hole that the server offers to punch.
struct Hole {
    id: u64,
    /// The node that the server has chosen, and its own address as that node sees it.
    relay: Relay,
}

impl Hole {
    /// The offered hole, preferably through the node that forwarded the handshake.
    fn through(offered: &HolepunchInfo, node: SocketAddrV4) -> Option<Self> {
        let same = |relay: &&Relay| relay.relay_address == node;
        let relay = offered.relays.iter().find(same).or(offered.relays.first())?;
        Some(Self { id: offered.id, relay: *relay })
    }
}

/// The exchange of rounds about a hole, through nodes that know the server.
struct PunchNegotiation<'a> {
    endpoint: &'a Arc<Endpoint>,
    target: Id,
    shaken: &'a FinishedHandshake,
    hole: Hole,
    sealed: Sealed,
    puncher: &'a mut Puncher,
    round: u64,
}

impl<'a> PunchNegotiation<'a> {
    async fn new(
        endpoint: &'a Arc<Endpoint>,
        key: &PublicKey,
        shaken: &'a FinishedHandshake,
        hole: Hole,
        puncher: &'a mut Option<Puncher>,
    ) -> Result<Self, ConnectError> {
        let puncher = puncher.insert(Puncher::new(Arc::clone(endpoint)).await?);
        puncher.remote.firewall = shaken.theirs.firewall;
        let sealed = Sealed::new(&shaken.secrets.hash)?;
        Ok(Self { endpoint, target: target_of(key), shaken, hole, sealed, puncher, round: 0 })
    }

    /// Runs until a packet has come through.
    async fn punch(&mut self) -> Result<NetworkPath, ConnectError> {
        let (server, token) = self.probe_routers().await?;
        self.agree(server, token).await?;
        self.puncher.punch(true)?;
        let random = [self.puncher.firewall(), self.puncher.remote.firewall];
        let within = if random.contains(&Firewall::Random) { GUESS_WITHIN } else { ARRIVE_WITHIN };
        let knocked = timeout(within, self.puncher.knocked()).await;
        knocked.map_err(|_| ConnectError::NotThrough(within))
    }

    /// The first rounds: both sides learn the kind of router of the other one. Returns the address of the
    /// server's socket, and the token that proves to the server that we received its answer.
    async fn probe_routers(&mut self) -> Result<(SocketAddrV4, Option<[u8; 32]>), ConnectError> {
        let server = self.shaken.server;
        // The peer at this address may send to us now; it need not receive this packet.
        self.puncher.socket.open_for(server);
        let (seen, first) = tokio::join!(self.puncher.sampling(), self.probe(server));
        self.puncher.sampled(seen);
        let mut heard = first?;
        self.learn(&heard);
        if heard.round.firewall == Firewall::Unknown || heard.round.token.is_none() {
            tokio::time::sleep(LET_IT_FIND_OUT).await;
            self.round += 1;
            heard = self.probe(server).await?;
            self.learn(&heard);
        }
        if self.hole.relay.relay_address == self.shaken.node && heard.at != server {
            // The server has taken another socket meanwhile.
            self.puncher.socket.open_for(heard.at);
            return Ok((heard.at, heard.round.token));
        }
        Ok((server, heard.round.token))
    }

    /// The last round: both sides knock from now on.
    async fn agree(
        &mut self,
        server: SocketAddrV4,
        remote_token: Option<[u8; 32]>,
    ) -> Result<(), ConnectError> {
        self.round += 1;
        let token = self.sealed.token(*server.ip());
        let last =
            Round { punching: true, token: Some(token), remote_token, ..self.own_round(None) };
        let RoundReply { round: said, .. } = self.exchange(server, self.shaken.node, &last).await?;
        let verified = (said.remote_token == Some(token)).then_some(*server.ip());
        self.puncher.remote.update(said.firewall, said.punching, &said.addresses, verified);
        if said.punching { Ok(()) } else { Err(ConnectError::Refused(said.error)) }
    }

    /// Our part of a round.
    fn own_round(&self, remote_address: Option<SocketAddrV4>) -> Round {
        Round {
            firewall: self.puncher.firewall(),
            round: self.round,
            addresses: self.puncher.addresses(),
            remote_address,
            ..Round::default()
        }
    }

    /// One of the first rounds; it names the address to which we have sent.
    async fn probe(&self, server: SocketAddrV4) -> Result<RoundReply, ConnectError> {
        let round = self.own_round(Some(server));
        self.exchange(self.hole.relay.peer_address, self.hole.relay.relay_address, &round).await
    }

    fn learn(&mut self, heard: &RoundReply) {
        let RoundReply { own, by, round, .. } = heard;
        self.puncher.sampled(vec![Seen { own: *own, by: *by }]);
        self.puncher.remote.update(round.firewall, round.punching, &round.addresses, None);
    }

    /// Exchanges one round through `relay`; `to` is the server as that node sees it.
    async fn exchange(
        &self,
        to: SocketAddrV4,
        relay: SocketAddrV4,
        round: &Round,
    ) -> Result<RoundReply, ConnectError> {
        let value = Holepunch {
            mode: Mode::FromClient,
            id: self.hole.id,
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
        Ok(RoundReply { own: answer.to, by: answer.from, at, round })
    }
}

/// The server's answer to a round.
struct RoundReply {
    /// Our socket, and the node that sees it at this address.
    own: SocketAddrV4,
    by: SocketAddrV4,
    /// Where the server has answered from, as the node sees it.
    at: SocketAddrV4,
    round: Round,
}
