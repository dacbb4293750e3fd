//! Answering peers that connect to us: their handshakes, which nodes of the network forward, and the
//! holes that both sides punch at the same time.

use std::collections::HashMap;
use std::net::SocketAddrV4;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{Instant, timeout_at};

use super::connection::{Connection, Datagrams};
use super::endpoint::{Closing, Endpoint, ServerEvent, UnconnectedStream};
use super::hello;
use super::punch::{PunchError, Puncher, Seen};
use super::sealed::Sealed;
use super::socket::Socket;
use crate::crypto::{Hash, blake2b};
use crate::hyperdht::announcement::handshake_namespace;
use crate::hyperdht::payload::{
    Firewall, HolepunchInfo, Malformed, NoisePayload, Round, UdxInfo, fault,
};
use crate::hyperdht::{Asked, SocketId};
use crate::kademlia::may_name;
use crate::secret_stream::{Handshake, Secrets};
use crate::sync::{Mutex, MutexGuard};

/// Handshakes under way at once; others are not answered.
pub(crate) const MAX_HANDSHAKES: usize = 64;
/// Handshakes that have been answered and are remembered: the same one comes through several nodes.
pub(crate) const MAX_REMEMBERED: usize = 256;
/// How long an answered handshake is remembered.
const REMEMBERED_FOR: Duration = Duration::from_secs(10);
/// From the answer to a handshake until the first packet of the stream.
const ARRIVE_WITHIN: Duration = Duration::from_secs(20);
/// As [`ARRIVE_WITHIN`], where ports must be guessed.
const GUESS_WITHIN: Duration = Duration::from_secs(50);
/// Messages about one hole that may wait.
const ROUNDS: usize = 8;

/// Why a handshake leads to no connection.
#[derive(Debug, thiserror::Error)]
enum Unanswered {
    #[error("handshake: {0}")]
    Handshake(#[from] crate::secret_stream::HandshakeError),
    #[error("handshake: {0}")]
    Payload(#[from] Malformed),
    #[error("it asks for no stream (fault {0})")]
    NoStream(u64),
    #[error("there are too many streams")]
    TooMany,
    #[error("there is no socket")]
    NoSocket,
    #[error("the peer has not arrived")]
    NotArrived,
    #[error("{0}")]
    Io(#[from] std::io::Error),
}

/// An answer that was given.
struct Answered {
    at: Instant,
    /// `None` until it is there.
    reply: Option<(SocketId, Bytes)>,
}

/// What the tasks of one endpoint share.
struct Server {
    endpoint: Arc<Endpoint>,
    arrivals: mpsc::Sender<Connection>,
    /// By the hash of the message that is answered.
    answered: Mutex<HashMap<Hash, Answered>>,
    holes: Mutex<HashMap<u64, mpsc::Sender<Asked>>>,
}

impl Server {
    fn answered(&self) -> MutexGuard<'_, HashMap<Hash, Answered>> {
        // Nothing panics while holding it.
        self.answered.lock()
    }

    fn holes(&self) -> MutexGuard<'_, HashMap<u64, mpsc::Sender<Asked>>> {
        self.holes.lock()
    }

    /// Answers a handshake; returns how many bytes may still be sent until a packet of the peer arrives.
    fn reply(&self, asked: &Asked, socket: SocketId, noise: Bytes) -> usize {
        self.endpoint.with(|node, _| node.answer_handshake(asked, socket, noise))
    }

    /// Whether this handshake is new. A repeated one gets its answer again.
    fn is_new(&self, hash: Hash, asked: &Asked) -> bool {
        let now = Instant::now();
        let mut answered = self.answered();
        if let Some(known) = answered.get(&hash) {
            let reply = known.reply.clone();
            drop(answered);
            if let Some((socket, noise)) = reply {
                self.reply(asked, socket, noise);
            }
            return false;
        }
        answered.retain(|_, one| now < one.at + REMEMBERED_FOR);
        if answered.len() >= MAX_REMEMBERED {
            return false;
        }
        answered.insert(hash, Answered { at: now, reply: None });
        true
    }

    /// Forgets a handshake that was not answered, so that invalid ones do not fill the table.
    fn forget_unanswered(&self, hash: &Hash) {
        let mut answered = self.answered();
        if answered.get(hash).is_some_and(|one| one.reply.is_none()) {
            answered.remove(hash);
        }
    }
}

/// Answers until the endpoint is gone; connected peers go to `arrivals`.
pub(crate) async fn serve(
    endpoint: Arc<Endpoint>,
    mut events: mpsc::Receiver<ServerEvent>,
    arrivals: mpsc::Sender<Connection>,
) {
    let server = Server { endpoint, arrivals, answered: Mutex::default(), holes: Mutex::default() };
    let server = Arc::new(server);
    let places = Arc::new(Semaphore::new(MAX_HANDSHAKES));
    let mut next = 1;
    let mut answering = tokio::task::JoinSet::new();
    while let Some(event) = events.recv().await {
        while answering.try_join_next().is_some() {}
        match event {
            // The forwarding node names the peer, and must not make us send to our local network.
            ServerEvent::Handshake(Asked { from, peer: Some(peer), .. })
                if !may_name(*from.ip(), *peer.ip()) => {}
            ServerEvent::Handshake(asked) => {
                let hash = blake2b(&[&asked.message]);
                let Ok(place) = Arc::clone(&places).try_acquire_owned() else { continue };
                if server.is_new(hash, &asked) {
                    answering.spawn(handshake(Arc::clone(&server), next, hash, asked, place));
                    next += 1;
                }
            }
            ServerEvent::Holepunch(asked) => {
                let hole = server.holes().get(&asked.id).cloned();
                if let Some(hole) = hole {
                    // Further messages of the peer are repetitions: drop them.
                    let _ = hole.try_send(asked);
                }
            }
        }
    }
}

/// One handshake from its first message to the stream.
async fn handshake(
    server: Arc<Server>,
    id: u64,
    hash: Hash,
    asked: Asked,
    _place: OwnedSemaphorePermit,
) {
    let peer = asked.peer.unwrap_or(asked.from);
    match answer(&server, id, hash, asked).await {
        // Fails only when the swarm is dropped.
        Ok(connection) => drop(server.arrivals.send(connection).await),
        Err(reason) => {
            log::debug!("HyperDHT peer {peer}: {reason}");
            server.forget_unanswered(&hash);
        }
    }
    server.holes().remove(&id);
}

/// How the two sides connect.
enum ConnectPlan {
    /// We connect to the peer: every address can reach it, or its packets have reached us already.
    There(Arc<Socket>, SocketAddrV4),
    /// The peer connects to us, because every address can reach us.
    Here,
    /// Both punch a hole for it.
    Between(Box<Puncher>),
}

async fn plan(
    endpoint: &Arc<Endpoint>,
    asked: &Asked,
    theirs: &NoisePayload,
    open: bool,
) -> Result<ConnectPlan, Unanswered> {
    let socket = |id| endpoint.socket(id).ok_or(Unanswered::NoSocket);
    Ok(match asked.peer {
        None => ConnectPlan::There(socket(asked.socket)?, asked.from),
        // From the socket that we report as openly reachable, since the peer may connect to us as
        // well.
        Some(peer) if theirs.firewall == Firewall::Open => {
            ConnectPlan::There(socket(if open { SocketId::SERVER } else { asked.socket })?, peer)
        }
        Some(_) if open => ConnectPlan::Here,
        Some(_) => ConnectPlan::Between(Box::new(Puncher::new(Arc::clone(endpoint)).await?)),
    })
}

async fn answer(
    server: &Server,
    id: u64,
    hash: Hash,
    asked: Asked,
) -> Result<Connection, Unanswered> {
    let endpoint = &server.endpoint;
    let mut noise = Handshake::responder(&endpoint.keys, &handshake_namespace())?;
    let theirs = NoisePayload::decode(noise.read(&asked.message)?)?;
    let UdxInfo { id: remote_stream, .. } = theirs
        .udx
        .filter(|_| theirs.error == fault::NONE)
        .ok_or(Unanswered::NoStream(theirs.error))?;
    let stream = endpoint.new_stream().ok_or(Unanswered::TooMany)?;
    stream.remote_is(remote_stream);
    let (reachability, relays) = endpoint.with(|node, _| (node.reachability(), node.relays()));
    let open = reachability.open();
    let plan = plan(endpoint, &asked, &theirs, open.is_some()).await?;
    let payload = NoisePayload {
        relay_addresses: relays.iter().map(|relay| relay.relay_address).collect(),
        holepunch: open.is_none().then_some(HolepunchInfo { id, relays }),
        ..hello(endpoint, open, stream.local_id)
    };
    let hello = noise.write(&payload.encode())?;
    let secrets = noise.finish()?;
    // The peer punches towards the source of the answer. Behind the same router it reaches us
    // directly.
    let same_router = asked.peer.is_some_and(|peer| peer.ip() == asked.to.ip());
    let from = match &plan {
        ConnectPlan::Between(puncher) if !same_router => puncher.socket.id,
        _ => asked.socket,
    };
    let (rounds, receiver) = mpsc::channel(ROUNDS);
    if let ConnectPlan::Between(_) = plan {
        server.holes().insert(id, rounds);
    }
    if let Some(answered) = server.answered().get_mut(&hash) {
        answered.reply = Some((from, hello.clone()));
    }
    let left = server.reply(&asked, from, hello);
    match plan {
        ConnectPlan::There(socket, to) => {
            // The peer's address is not confirmed yet.
            stream.limit_unconfirmed(left);
            Ok(connected(server, stream, &socket, to, secrets, None))
        }
        ConnectPlan::Here => {
            let arrived = timeout_at(Instant::now() + ARRIVE_WITHIN, stream.arrived()).await;
            let (socket, from) = arrived.map_err(|_| Unanswered::NotArrived)?;
            Ok(connected(server, stream, &socket, from, secrets, None))
        }
        ConnectPlan::Between(puncher) => {
            let sealed = Sealed::new(&secrets.hash)?;
            let mut hole = Hole { endpoint, puncher: *puncher, sealed, round: 0, rounds: receiver };
            hole.puncher.remote.firewall = theirs.firewall;
            let (socket, from) = hole.open(&stream).await.ok_or(Unanswered::NotArrived)?;
            let closing = hole.puncher.take(socket.id);
            Ok(connected(server, stream, &socket, from, secrets, closing))
        }
    }
}

fn connected(
    server: &Server,
    stream: UnconnectedStream,
    socket: &Arc<Socket>,
    to: SocketAddrV4,
    secrets: Secrets,
    closing: Option<Closing>,
) -> Connection {
    let stream = stream.connect(socket, to);
    closing.into_iter().for_each(|closing| stream.keep(closing));
    let datagrams = Datagrams::new(Arc::clone(&server.endpoint), stream);
    Connection { datagrams, secrets, address: to }
}

/// A hole that is being punched for one peer.
struct Hole<'a> {
    endpoint: &'a Endpoint,
    puncher: Puncher,
    sealed: Sealed,
    /// The number of the peer's last round.
    round: u64,
    rounds: mpsc::Receiver<Asked>,
}

impl Hole<'_> {
    /// Until the first packet of the stream comes through.
    async fn open(&mut self, stream: &UnconnectedStream) -> Option<(Arc<Socket>, SocketAddrV4)> {
        let sampling = self.puncher.sampling();
        tokio::pin!(sampling);
        let mut until = Instant::now() + ARRIVE_WITHIN;
        let mut sampled = false;
        loop {
            tokio::select! {
                // Rounds wait until the kind of our router is known.
                seen = &mut sampling, if !sampled => {
                    self.puncher.sampled(seen);
                    sampled = true;
                }
                way = stream.arrived() => return Some(way),
                (socket, from) = self.puncher.knocked() => socket.knock(from),
                Some(asked) = self.rounds.recv(), if sampled => {
                    if self.take_part(&asked) {
                        until = until.max(Instant::now() + GUESS_WITHIN);
                    }
                }
                () = tokio::time::sleep_until(until) => return None,
            }
        }
    }

    /// Answers one round; returns whether ports must be guessed from now on.
    fn take_part(&mut self, asked: &Asked) -> bool {
        let (Some(theirs), Some(peer)) = (self.sealed.open(&asked.message), asked.peer) else {
            return false;
        };
        if theirs.error != fault::NONE {
            return false;
        }
        // A round through a relay of our choice proves the peer's address: it cannot invent it.
        let relays = self.endpoint.with(|node, _| node.relays());
        let through_ours = relays.iter().any(|relay| relay.relay_address == asked.from);
        let token = through_ours.then(|| self.sealed.token(*peer.ip()));
        self.learn(asked, &theirs, peer, token.is_some() && theirs.remote_token == token);
        let punching = if theirs.punching { self.puncher.punch(false) } else { Ok(()) };
        let error = match punching {
            Ok(()) => fault::NONE,
            Err(PunchError::Busy) => fault::TRY_LATER,
            Err(_) => fault::ABORTED,
        };
        let answer = Round {
            error,
            firewall: self.puncher.firewall(),
            round: self.round,
            connected: false,
            punching: theirs.punching && error == fault::NONE,
            addresses: self.puncher.addresses(),
            remote_address: None,
            token,
            remote_token: theirs.token,
        };
        if let Ok(payload) = self.sealed.seal(&answer) {
            let socket = self.puncher.socket.id;
            self.endpoint.with(|node, _| node.answer_holepunch(asked, socket, payload));
        }
        let random = [self.puncher.firewall(), self.puncher.remote.firewall];
        answer.punching && random.contains(&Firewall::Random)
    }

    /// Applies a round; `verified` is whether the peer has proved its host.
    fn learn(&mut self, asked: &Asked, theirs: &Round, peer: SocketAddrV4, verified: bool) {
        if asked.socket == self.puncher.socket.id {
            self.puncher.sampled(vec![Seen { own: asked.to, by: asked.from }]);
        }
        if theirs.round >= self.round {
            self.round = theirs.round;
            self.puncher.remote.update(
                theirs.firewall,
                theirs.punching,
                &theirs.addresses,
                verified.then_some(*peer.ip()),
            );
        }
        let ours = self.puncher.addresses();
        if self.puncher.firewall() == Firewall::Consistent
            && theirs.remote_address.is_some_and(|at| ours.contains(&at))
        {
            // It has opened its router for us: a knock may arrive at once.
            self.puncher.socket.knock(peer);
        }
    }
}
