//! Answering peers that connect to us: their handshakes, which nodes of the network pass on, and the
//! holes that both sides punch into their routers at the same time.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use libudx::{UdxRuntime, UdxSocket, UdxStream};
use peeroxide_dht::holepuncher::Holepuncher;
use peeroxide_dht::hyperdht::{PeerConnection, ServerEvent, alloc_stream_id};
use peeroxide_dht::hyperdht_messages::{
    ERROR_NONE, FIREWALL_CONSISTENT, FIREWALL_OPEN, FIREWALL_RANDOM, FIREWALL_UNKNOWN,
    HandshakeMessage, HolepunchInfo, HolepunchMessage, HolepunchPayload, MODE_FROM_RELAY,
    MODE_FROM_SECOND_RELAY, MODE_FROM_SERVER, MODE_REPLY, NoisePayload, RelayInfo,
    SecretStreamInfo, UdxInfo, encode_handshake_to_bytes, encode_holepunch_msg_to_bytes,
};
use peeroxide_dht::messages::Ipv4Peer;
use peeroxide_dht::noise::Keypair;
use peeroxide_dht::noise_wrap::{NoiseWrap, NoiseWrapResult};
use peeroxide_dht::secret_stream::SecretStream;
use peeroxide_dht::secure_payload::SecurePayload;
use peeroxide_dht::socket_pool::SocketPool;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::{Instant, timeout, timeout_at};

use super::Node;

/// Handshakes under way at once; others are not answered.
pub const MAX_HANDSHAKES: usize = 64;
/// From the answer to a handshake until the first packet of the stream.
const ARRIVE_WITHIN: Duration = Duration::from_secs(20);
/// The stream's own beginning.
const BEGIN_WITHIN: Duration = Duration::from_secs(10);
/// What means nothing to who gets it, but lets answers through our own router.
const KNOCK: [u8; 1] = [0];
/// Messages about one hole that may wait.
const ROUNDS: usize = 8;

/// A peer that has connected.
pub struct Arrival {
    pub connection: PeerConnection,
    pub address: SocketAddr,
}

/// A message about a hole that is being punched.
struct Round {
    message: HolepunchMessage,
    peer: Ipv4Peer,
    reply: oneshot::Sender<Option<Vec<u8>>>,
}

struct Asked {
    message: HandshakeMessage,
    from: Ipv4Peer,
    /// Of who is behind the node that passed it on.
    peer: Option<Ipv4Peer>,
}

/// What the tasks of one node share.
struct Server {
    node: Node,
    arrivals: mpsc::Sender<Arrival>,
    punching: Mutex<HashMap<u64, mpsc::Sender<Round>>>,
}

impl Server {
    fn with_punching<T>(
        &self,
        with: impl FnOnce(&mut HashMap<u64, mpsc::Sender<Round>>) -> T,
    ) -> T {
        with(&mut self.punching.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Answers until the node is gone; who has connected goes to `arrivals`.
pub async fn serve(
    node: Node,
    mut events: mpsc::UnboundedReceiver<ServerEvent>,
    arrivals: mpsc::Sender<Arrival>,
) {
    let server = Arc::new(Server { node, arrivals, punching: Mutex::default() });
    let places = Arc::new(Semaphore::new(MAX_HANDSHAKES));
    let mut next = 1;
    let mut answering = tokio::task::JoinSet::new();
    while let Some(event) = events.recv().await {
        while answering.try_join_next().is_some() {}
        match event {
            ServerEvent::PeerHandshake { msg, from, peer_address, reply_tx, .. } => {
                // Dropping the sender answers that there is no answer.
                let Ok(place) = Arc::clone(&places).try_acquire_owned() else { continue };
                let asked = Asked { message: msg, from, peer: peer_address };
                let (server, id) = (Arc::clone(&server), next);
                next += 1;
                answering.spawn(async move {
                    if let Err(reason) = answer(&server, id, asked, reply_tx).await {
                        log::debug!("HyperDHT handshake: {reason}");
                    }
                    server.with_punching(|punching| punching.remove(&id));
                    drop(place);
                });
            }
            ServerEvent::PeerHolepunch { msg, peer_address, reply_tx, .. } => {
                let hole = server.with_punching(|punching| punching.get(&msg.id).cloned());
                if let Some(hole) = hole {
                    let round = Round { message: msg, peer: peer_address, reply: reply_tx };
                    let _ = hole.try_send(round);
                }
            }
            _ => {}
        }
    }
}

/// How the peer's stream and ours come together.
enum Meeting {
    /// The peer says that everybody can reach it: we go there.
    There,
    /// It comes to where this node is.
    Here,
    /// Both punch a hole for it.
    Between,
}

/// A socket on which the peer's first packet is waited for.
struct Landing {
    stream: UdxStream,
    socket: UdxSocket,
    remote: u32,
    arrived: oneshot::Receiver<SocketAddr>,
    /// Where we go, if it is us who goes.
    there: Option<SocketAddr>,
}

impl Landing {
    /// Listens before the peer is told where: its first packet must not be lost.
    async fn new(socket: UdxSocket, local: u32, remote: &UdxInfo) -> Result<Self, String> {
        let remote = u32::try_from(remote.id).map_err(|_| "a stream's number is too large")?;
        let runtime = UdxRuntime::new().map_err(text)?;
        let stream = runtime.create_stream(local).await.map_err(text)?;
        let (sender, arrived) = oneshot::channel();
        let hook = move |_: &UdxSocket, port, ip| sender.send(SocketAddr::new(ip, port)).is_ok();
        stream.set_firewall_hook(&socket, remote, hook).map_err(text)?;
        Ok(Self { stream, socket, remote, arrived, there: None })
    }

    /// Leads nowhere until the peer has had its answer.
    async fn at(
        there: SocketAddr,
        socket: UdxSocket,
        local: u32,
        remote: &UdxInfo,
    ) -> Result<Self, String> {
        let remote = u32::try_from(remote.id).map_err(|_| "a stream's number is too large")?;
        let runtime = UdxRuntime::new().map_err(text)?;
        let stream = runtime.create_stream(local).await.map_err(text)?;
        let arrived = oneshot::channel().1;
        Ok(Self { stream, socket, remote, arrived, there: Some(there) })
    }
}

/// A hole that is to be punched for one peer.
struct Hole {
    puncher: Option<Holepuncher>,
    payload: Option<SecurePayload>,
    /// Where its socket can be reached.
    addresses: Vec<Ipv4Peer>,
    rounds: mpsc::Receiver<Round>,
    task: Option<tokio::task::JoinHandle<()>>,
}

impl Drop for Hole {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

async fn answer(
    server: &Server,
    id: u64,
    asked: Asked,
    reply: oneshot::Sender<Option<Vec<u8>>>,
) -> Result<(), String> {
    let node = &server.node;
    let keys = &node.keys;
    let mut noise = NoiseWrap::new_responder(Keypair {
        public_key: keys.public_key,
        secret_key: keys.secret_key,
    });
    let hello = noise.recv(&asked.message.noise).map_err(text)?;
    let remote = hello.udx.as_ref().filter(|_| hello.error == ERROR_NONE);
    let remote = remote.ok_or("it asks for no stream")?;
    let local = alloc_stream_id();
    let firewall = node.handle.firewalled().await.map_err(text)?;
    let client = asked.peer.clone().unwrap_or_else(|| asked.from.clone());
    let meeting = match firewall {
        _ if hello.firewall == FIREWALL_OPEN => Meeting::There,
        // Behind a router, of a peer that has not come through to us yet.
        FIREWALL_CONSISTENT | FIREWALL_RANDOM if asked.peer.is_some() => Meeting::Between,
        _ => Meeting::Here,
    };
    let socket = node.handle.server_socket().await.map_err(text)?.ok_or("no socket")?;
    let (landing, mut hole) = match meeting {
        Meeting::There => {
            let there = SocketAddr::new(client.host.parse().map_err(text)?, client.port);
            (Landing::at(there, socket, local, remote).await?, None)
        }
        Meeting::Here => {
            // If we are behind a router all the same, and nobody could tell us: most let in who was
            // sent something.
            if let Some(Ok(ip)) = asked.peer.as_ref().map(|peer| peer.host.parse()) {
                socket.send_to(&KNOCK, SocketAddr::new(ip, client.port)).map_err(text)?;
            }
            (Landing::new(socket, local, remote).await?, None)
        }
        Meeting::Between => {
            let (socket, hole) = dig(server, id, hello.firewall).await?;
            (Landing::new(socket, local, remote).await?, Some(hole))
        }
    };
    let port = landing.socket.local_addr().await.map_err(text)?.port();
    // A peer to which we go would come here too, if it were told of no hole.
    let holepunch = match meeting {
        Meeting::Here => None,
        Meeting::There | Meeting::Between => Some(holepunch_info(node, id)),
    };
    let payload = NoisePayload {
        version: 1,
        error: ERROR_NONE,
        firewall,
        holepunch,
        addresses4: node.handle.noise_addresses4(port).await,
        addresses6: Vec::new(),
        udx: Some(UdxInfo { version: 1, reusable_socket: true, id: local.into(), seq: 0 }),
        secret_stream: Some(SecretStreamInfo { version: 1 }),
        relay_through: None,
        relay_addresses: None,
    };
    let hello = noise.send(&payload).map_err(text)?;
    let secrets = noise.finalize().map_err(text)?;
    // What came through another node goes back through it.
    let through = matches!(asked.message.mode, MODE_FROM_RELAY | MODE_FROM_SECOND_RELAY);
    let message = HandshakeMessage {
        mode: if through { MODE_FROM_SERVER } else { MODE_REPLY },
        noise: hello,
        peer_address: asked.peer.filter(|_| through),
        relay_address: None,
    };
    if let Some(hole) = &mut hole {
        hole.payload = Some(SecurePayload::new(secrets.holepunch_secret));
    }
    // The peer may have gone meanwhile; then it does not arrive.
    let _ = reply.send(Some(encode_handshake_to_bytes(&message).map_err(text)?));
    arrive(server, landing, hole, &secrets).await
}

/// The nodes that pass messages about the hole on to us, and where they are to send them.
fn holepunch_info(node: &Node, id: u64) -> HolepunchInfo {
    let relay = |(relay_address, ours)| RelayInfo { relay_address, peer_address: ours };
    HolepunchInfo { id, relays: node.relays().into_iter().map(relay).collect() }
}

/// A socket of its own for one peer, whose outside address is found out.
async fn dig(server: &Server, id: u64, remote: u64) -> Result<(UdxSocket, Hole), String> {
    let runtime = UdxRuntime::new().map_err(text)?;
    let pool = SocketPool::new("0.0.0.0".into());
    // The landing says when the peer has come through.
    let (unheard, _) = mpsc::unbounded_channel();
    let mut puncher =
        Holepuncher::new(&pool, &runtime, true, false, remote, unheard).await.map_err(text)?;
    puncher.auto_sample(server.node.handle.dht()).await;
    let socket = puncher.primary_socket().ok_or("no socket to punch with")?.socket.clone();
    let port = socket.local_addr().await.map_err(text)?.port();
    let addresses = puncher.punch_addresses(port);
    let (sender, rounds) = mpsc::channel(ROUNDS);
    server.with_punching(|punching| punching.insert(id, sender));
    let hole = Hole { puncher: Some(puncher), payload: None, addresses, rounds, task: None };
    Ok((socket, hole))
}

/// Waits for the peer, punching if there is a hole to be made.
async fn arrive(
    server: &Server,
    landing: Landing,
    hole: Option<Hole>,
    secrets: &NoiseWrapResult,
) -> Result<(), String> {
    let Landing { stream, socket, remote, mut arrived, there } = landing;
    let until = Instant::now() + ARRIVE_WITHIN;
    let address = match (hole, there) {
        (_, Some(there)) => {
            stream.connect(&socket, remote, there).await.map_err(text)?;
            Ok(Ok(there))
        }
        (None, None) => timeout_at(until, arrived).await,
        (Some(mut hole), None) => {
            let punch = async {
                loop {
                    tokio::select! {
                        address = &mut arrived => return address,
                        Some(round) = hole.rounds.recv() => hole.take_part(server, round).await,
                    }
                }
            };
            timeout_at(until, punch).await
        }
    };
    let address = address.map_err(|_| "the peer did not arrive")?.map_err(|_| "given up")?;
    let begun = SecretStream::from_session(
        false,
        stream.into_async_stream(),
        secrets.tx,
        secrets.rx,
        secrets.handshake_hash,
        secrets.remote_public_key,
    );
    let begun = timeout(BEGIN_WITHIN, begun).await.map_err(|_| "the stream did not begin")?;
    let key = secrets.remote_public_key;
    let connection =
        PeerConnection::with_remote_addr(begun.map_err(text)?, key, address, socket, None);
    // It fails only when the swarm is gone.
    let _ = server.arrivals.send(Arrival { connection, address }).await;
    Ok(())
}

impl Hole {
    /// Answers one message about the hole; the first that says so starts the punching.
    async fn take_part(&mut self, server: &Server, round: Round) {
        let Round { message, peer, reply } = round;
        let Some(payload) = &self.payload else { return };
        let Ok(theirs) = payload.decrypt(&message.payload) else { return };
        if let Some(puncher) = &mut self.puncher {
            let addresses = theirs.addresses.as_deref().unwrap_or_default();
            puncher.update_remote(theirs.punching, theirs.firewall, addresses, Some(&peer.host));
        }
        if theirs.punching
            && let Some(mut puncher) = self.puncher.take()
        {
            self.task = Some(tokio::spawn(async move {
                if let Ok(runtime) = UdxRuntime::new() {
                    puncher.punch(&SocketPool::new("0.0.0.0".into()), &runtime).await;
                }
            }));
        }
        let firewall = server.node.handle.firewalled().await.unwrap_or(FIREWALL_UNKNOWN);
        let ours = HolepunchPayload {
            error: ERROR_NONE,
            firewall,
            round: theirs.round,
            connected: false,
            punching: theirs.punching,
            addresses: Some(self.addresses.clone()),
            remote_address: Some(peer.clone()),
            token: Some(payload.token(&peer.host)),
            remote_token: theirs.token,
        };
        let Ok(encrypted) = payload.encrypt(&ours) else { return };
        let through = matches!(message.mode, MODE_FROM_RELAY | MODE_FROM_SECOND_RELAY);
        let answer = HolepunchMessage {
            mode: if through { MODE_FROM_SERVER } else { MODE_REPLY },
            id: message.id,
            payload: encrypted,
            peer_address: Some(peer),
        };
        let _ = reply.send(encode_holepunch_msg_to_bytes(&answer).ok());
    }
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

#[cfg(test)]
mod tests {
    use peeroxide_dht::hyperdht::{HyperDhtConfig, KeyPair};

    use super::*;

    async fn node() -> (Node, mpsc::UnboundedReceiver<ServerEvent>) {
        let mut config = HyperDhtConfig::default();
        config.dht.host = "127.0.0.1".into();
        let (handle, events, _task) = crate::swarm::hyperdht::start(config).await.unwrap();
        (Node { handle, keys: KeyPair::generate(), relays: Arc::default() }, events)
    }

    /// The handshake of a peer that will not come.
    fn handshake(node: &Node) -> (ServerEvent, oneshot::Receiver<Option<Vec<u8>>>) {
        let keys = KeyPair::generate();
        let keys = Keypair { public_key: keys.public_key, secret_key: keys.secret_key };
        let mut noise = NoiseWrap::new_initiator(keys, node.keys.public_key);
        let hello = NoisePayload {
            version: 1,
            error: ERROR_NONE,
            firewall: FIREWALL_UNKNOWN,
            holepunch: None,
            addresses4: Vec::new(),
            addresses6: Vec::new(),
            udx: Some(UdxInfo { version: 1, reusable_socket: true, id: 7, seq: 0 }),
            secret_stream: Some(SecretStreamInfo { version: 1 }),
            relay_through: None,
            relay_addresses: None,
        };
        let msg = HandshakeMessage {
            mode: MODE_FROM_RELAY,
            noise: noise.send(&hello).unwrap(),
            peer_address: None,
            relay_address: None,
        };
        let (reply_tx, answer) = oneshot::channel();
        let from = Ipv4Peer { host: "127.0.0.1".into(), port: 9 };
        let peer_address = Some(from.clone());
        (ServerEvent::PeerHandshake { msg, from, peer_address, target: None, reply_tx }, answer)
    }

    #[tokio::test]
    async fn so_many_handshakes_are_under_way_at_once_and_rubbish_takes_no_place() {
        let (node, _) = node().await;
        let (events, receiver) = mpsc::unbounded_channel();
        let (arrivals, _arrived) = mpsc::channel(1);
        let serving = tokio::spawn(serve(node.clone(), receiver, arrivals));
        let (mut rubbish, answer) = handshake(&node);
        if let ServerEvent::PeerHandshake { msg, .. } = &mut rubbish {
            msg.noise.truncate(40);
        }
        events.send(rubbish).unwrap();
        assert!(answer.await.is_err(), "not answered");
        for n in 0..=MAX_HANDSHAKES {
            let (event, answer) = handshake(&node);
            events.send(event).unwrap();
            let answered = matches!(answer.await, Ok(Some(_)));
            assert_eq!(answered, n < MAX_HANDSHAKES, "{n}");
        }
        serving.abort();
    }
}
