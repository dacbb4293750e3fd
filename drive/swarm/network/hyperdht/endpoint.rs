//! A node of the HyperDHT on its sockets: packets and time in, answers to waiting callers.
//!
//! A node sends from one socket, and tests whether every address can reach a second one. Each hole has a
//! socket of its own. The first bytes of a datagram distinguish packets of streams, knocks, and packets
//! of the hash table.

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::ops::Deref;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::socket::{Knock, Socket, now};
use super::socket_stream::{Forget, SocketStream};
use crate::crypto::{KeyPair, random_bytes};
use crate::hyperdht::{Answer, Ask, Asked, Event, HyperDhtNode, RequestId, Role, SocketId};
use crate::kademlia::{QueryId, RandomParts};
use crate::sync::{Mutex, MutexGuard, Rank};
use crate::udx::stream_of;

/// Concurrent streams, including those that are being connected or ended; one more is refused.
pub(crate) const MAX_STREAMS: usize = 512;
/// Sockets at once.
pub(crate) const MAX_SOCKETS: usize = 1024;
/// Received bytes that all streams together may keep. Beyond it the stream that keeps most is ended.
pub(crate) const MAX_HELD: usize = 32 * 1024 * 1024;
/// A stream that keeps fewer bytes causes no check of the total.
const LITTLE: usize = 256 * 1024;
/// Events of one query that may wait; more are dropped.
const EVENTS: usize = 256;
/// Requests to our own server that may wait.
const ASKED: usize = 256;
/// Longest possible datagram, in bytes.
const DATAGRAM: usize = 65_536;
/// Packets received before their streams answer.
const BATCH: usize = 64;

/// A node with its sockets and streams.
pub(crate) struct Endpoint {
    own: Weak<Endpoint>,
    pub keys: KeyPair,
    ip: Ipv4Addr,
    node: Mutex<HyperDhtNode>,
    sockets: Mutex<HashMap<SocketId, (Arc<Socket>, AbortHandle)>>,
    next_socket: AtomicU32,
    streams: Mutex<HashMap<u32, Arc<SocketStream>>>,
    stream_count: Arc<AtomicUsize>,
    waiting: Mutex<Waiting>,
    asked: mpsc::Sender<ServerEvent>,
    /// The permit to try ports, which looks like an attack from outside: one hole at a time.
    turns: Arc<Semaphore>,
    /// Notified when the node has an earlier tick than before.
    earlier: Arc<Notify>,
    /// Another endpoint has replaced it: only streams are still served.
    retired: AtomicBool,
}

/// Callers that wait for events of the node.
#[derive(Default)]
struct Waiting {
    answers: HashMap<RequestId, oneshot::Sender<Option<Answer>>>,
    queries: HashMap<QueryId, mpsc::Sender<Event>>,
}

/// Messages of peers to our own server.
pub(crate) enum ServerEvent {
    Handshake(Asked),
    Holepunch(Asked),
}

/// The address of an endpoint, and the role of its node.
pub(crate) struct Settings {
    pub ip: Ipv4Addr,
    /// The port of the server socket; 0 for any.
    pub port: u16,
    /// The address at which others see a persistent node; `None` for an ephemeral node.
    pub stays_at: Option<Ipv4Addr>,
}

/// A stream that is not connected yet. It is removed if it is dropped before that.
pub(crate) struct UnconnectedStream {
    stream: Arc<SocketStream>,
    endpoint: Arc<Endpoint>,
    connected: bool,
}

impl Deref for UnconnectedStream {
    type Target = SocketStream;

    fn deref(&self) -> &SocketStream {
        &self.stream
    }
}

impl UnconnectedStream {
    /// Sends its packets to this address from now on, until the stream is over.
    pub(crate) fn connect(mut self, socket: &Arc<Socket>, to: SocketAddrV4) -> Arc<SocketStream> {
        self.connected = true;
        self.stream.connect(socket, to);
        let endpoint: Weak<Endpoint> = Arc::downgrade(&self.endpoint);
        tokio::spawn(Arc::clone(&self.stream).drive(endpoint));
        Arc::clone(&self.stream)
    }
}

impl Drop for UnconnectedStream {
    fn drop(&mut self) {
        if !self.connected {
            self.endpoint.forget(self.stream.local_id);
        }
    }
}

/// A socket for one hole.
pub(crate) struct OpenSocket {
    pub socket: Arc<Socket>,
    pub closing: Closing,
}

/// Closes a socket when dropped.
pub(crate) struct Closing {
    endpoint: Weak<Endpoint>,
    socket: SocketId,
}

impl Endpoint {
    /// A node that knows no other nodes yet, and the events for its server.
    ///
    /// # Errors
    /// Fails if a socket cannot be opened.
    pub(crate) async fn new(
        keys: KeyPair,
        settings: Settings,
    ) -> io::Result<(Arc<Self>, mpsc::Receiver<ServerEvent>)> {
        let server =
            Arc::new(Socket::bind(SocketId::SERVER, settings.ip, settings.port, None).await?);
        let client = match settings.stays_at {
            Some(_) => None,
            None => Some(Arc::new(Socket::bind(SocketId::CLIENT, settings.ip, 0, None).await?)),
        };
        let role = match settings.stays_at {
            Some(ip) => Role::Persistent { address: SocketAddrV4::new(ip, server.port()) },
            None => Role::Ephemeral { server_port: server.port() },
        };
        let node = HyperDhtNode::new(
            RandomParts::at_random()?,
            keys.clone(),
            Vec::new(),
            role,
            Instant::now(),
        );
        let (sender, asked) = mpsc::channel(ASKED);
        let earlier = Arc::new(Notify::new());
        let endpoint = Arc::new_cyclic(|own| Self {
            own: own.clone(),
            keys,
            ip: settings.ip,
            node: Mutex::new(Rank::NODE, node),
            sockets: Mutex::new(Rank::SOCKETS, HashMap::new()),
            next_socket: AtomicU32::new(SocketId::SERVER.0 + 1),
            streams: Mutex::new(Rank::STREAMS, HashMap::new()),
            stream_count: Arc::default(),
            waiting: Mutex::default(),
            asked: sender,
            turns: Arc::new(Semaphore::new(1)),
            earlier: Arc::clone(&earlier),
            retired: AtomicBool::new(false),
        });
        endpoint.serve(server);
        client.into_iter().for_each(|client| endpoint.serve(client));
        tokio::spawn(keep_time(Arc::downgrade(&endpoint), earlier));
        Ok((endpoint, asked))
    }

    /// The node, for what it does at once; [`Endpoint::flush`] has to follow.
    fn node(&self) -> MutexGuard<'_, HyperDhtNode> {
        // Nothing panics while holding it.
        self.node.lock()
    }

    fn sockets(&self) -> MutexGuard<'_, HashMap<SocketId, (Arc<Socket>, AbortHandle)>> {
        self.sockets.lock()
    }

    fn streams(&self) -> MutexGuard<'_, HashMap<u32, Arc<SocketStream>>> {
        self.streams.lock()
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock()
    }

    /// Calls the node, then sends its packets and delivers its events.
    pub(crate) fn with<T>(&self, act: impl FnOnce(&mut HyperDhtNode, Instant) -> T) -> T {
        let result = act(&mut self.node(), Instant::now());
        self.flush();
        result
    }

    /// Sends the node's outgoing packets, and wakes waiting callers.
    fn flush(&self) {
        let mut events = Vec::new();
        {
            let mut node = self.node();
            let sockets = self.sockets();
            let retired = self.retired.load(Ordering::Relaxed);
            while let Some(packet) = node.next_packet() {
                let Some((socket, _)) = sockets.get(&packet.socket).filter(|_| !retired) else {
                    continue;
                };
                // What the system does not take now is lost, as on any network.
                if let Err(error) = socket.try_send(&packet.bytes, packet.to) {
                    log::debug!("HyperDHT packet to {}: {error}", packet.to);
                }
            }
            events.extend(std::iter::from_fn(|| node.next_event()));
        }
        for event in events {
            self.deliver(event);
        }
        self.earlier.notify_one();
    }

    fn deliver(&self, event: Event) {
        match event {
            Event::Answered { request, answer } => {
                if let Some(waits) = self.waiting().answers.remove(&request) {
                    let _ = waits.send(answer);
                }
            }
            Event::Finished { query, .. } => {
                if let Some(waits) = self.waiting().queries.remove(&query) {
                    // If there is no room for the event, the reader learns of it by the end of the
                    // channel.
                    let _ = waits.try_send(event);
                }
            }
            Event::Peer { query, .. } | Event::Record { query, .. } => {
                if let Some(waits) = self.waiting().queries.get(&query) {
                    let _ = waits.try_send(event);
                }
            }
            Event::Served { relays } => log::debug!("HyperDHT: {relays} nodes pass peers on to us"),
            Event::Handshake(asked) => drop(self.asked.try_send(ServerEvent::Handshake(asked))),
            Event::Holepunch(asked) => drop(self.asked.try_send(ServerEvent::Holepunch(asked))),
        }
    }

    /// Sends a request and returns the answer; `None` if there is none in time.
    pub(crate) async fn request(&self, ask: Ask) -> Option<Answer> {
        let (sender, answer) = oneshot::channel();
        {
            let mut node = self.node();
            let request = node.request(ask, Instant::now())?;
            self.waiting().answers.insert(request, sender);
        }
        self.flush();
        answer.await.ok().flatten()
    }

    /// Starts a query; the channel gets its results and then the event that it has finished.
    pub(crate) fn query(
        &self,
        start: impl FnOnce(&mut HyperDhtNode, Instant) -> Option<QueryId>,
    ) -> Option<mpsc::Receiver<Event>> {
        let (sender, events) = mpsc::channel(EVENTS);
        {
            let mut node = self.node();
            let query = start(&mut node, Instant::now())?;
            self.waiting().queries.insert(query, sender);
        }
        self.flush();
        Some(events)
    }

    /// The server socket.
    pub(crate) fn server_socket(&self) -> Option<Arc<Socket>> {
        self.socket(SocketId::SERVER)
    }

    pub(crate) fn socket(&self, id: SocketId) -> Option<Arc<Socket>> {
        self.sockets().get(&id).map(|(socket, _)| Arc::clone(socket))
    }

    /// A socket for one hole, which reports knocks.
    pub(crate) async fn open_socket(&self, knocks: mpsc::Sender<Knock>) -> io::Result<OpenSocket> {
        if self.sockets().len() >= MAX_SOCKETS {
            return Err(io::Error::other("too many holes are being punched"));
        }
        let id = SocketId(self.next_socket.fetch_add(1, Ordering::Relaxed));
        let socket = Arc::new(Socket::bind(id, self.ip, 0, Some(knocks)).await?);
        self.serve(Arc::clone(&socket));
        let closing = Closing { endpoint: self.own.clone(), socket: id };
        Ok(OpenSocket { socket, closing })
    }

    fn serve(&self, socket: Arc<Socket>) {
        let task = tokio::spawn(receive(self.own.clone(), Arc::clone(&socket)));
        self.sockets().insert(socket.id, (socket, task.abort_handle()));
    }

    fn close(&self, id: SocketId) {
        if let Some((_, task)) = self.sockets().remove(&id) {
            task.abort();
        }
    }

    /// The permit to try ports, if no other caller holds it.
    pub(crate) fn turn(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.turns).try_acquire_owned().ok()
    }

    /// A stream that is to be connected; `None` if there are too many.
    pub(crate) fn new_stream(self: &Arc<Self>) -> Option<UnconnectedStream> {
        let mut streams = self.streams();
        if streams.len() >= MAX_STREAMS {
            return None;
        }
        // It must not be guessable: the source of the first packet becomes the address of the stream.
        let id = std::iter::repeat_with(|| random_bytes().map(u32::from_le_bytes))
            .take_while(Result::is_ok)
            .flatten()
            .find(|id| !streams.contains_key(id))?;
        let stream = Arc::new(SocketStream::new(id, Arc::clone(&self.stream_count)));
        streams.insert(id, Arc::clone(&stream));
        Some(UnconnectedStream { stream, endpoint: Arc::clone(self), connected: false })
    }

    /// The node sends nothing any more: another endpoint with the same keys replaces it and takes over its
    /// announcements. Streams continue.
    pub(crate) fn retire(&self) {
        self.retired.store(true, Ordering::Relaxed);
    }

    /// Ends the stream that keeps most, if all together keep too much.
    fn bound_held(&self) {
        let all: Vec<_> = self.streams().values().cloned().collect();
        let held: Vec<_> = all.iter().map(|stream| stream.held()).collect();
        if held.iter().sum::<usize>() > MAX_HELD
            && let Some((most, _)) = all.iter().zip(held).max_by_key(|(_, held)| *held)
        {
            most.destroy();
        }
    }

    /// The bytes that all streams keep together, and the number of streams.
    #[cfg(test)]
    pub(crate) fn held(&self) -> (usize, usize) {
        let all: Vec<_> = self.streams().values().cloned().collect();
        (all.iter().map(|stream| stream.held()).sum(), all.len())
    }

    /// Withdraws all announcements, without waiting for answers.
    pub(crate) fn farewell(&self) {
        self.with(|node, now| node.take_back_all(now));
    }

    /// Delivers a packet to its receiver; returns the stream, if it belongs to one.
    fn dispatch(
        &self,
        socket: &Arc<Socket>,
        from: SocketAddrV4,
        packet: &[u8],
    ) -> Option<Arc<SocketStream>> {
        if packet.len() <= 1 {
            socket.knocked(from);
            return None;
        }
        match stream_of(packet) {
            Some(id) => {
                let stream = self.streams().get(&id).cloned()?;
                stream.receive(socket, from, packet, now());
                Some(stream)
            }
            None => {
                self.with(|node, now| node.receive(socket.id, from, packet, now));
                None
            }
        }
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        for (_, task) in self.sockets().values() {
            task.abort();
        }
    }
}

impl Forget for Endpoint {
    fn forget(&self, id: u32) {
        self.streams().remove(&id);
    }
}

impl Drop for Closing {
    fn drop(&mut self) {
        if let Some(endpoint) = self.endpoint.upgrade() {
            endpoint.close(self.socket);
        }
    }
}

/// Reads a socket until it is closed.
async fn receive(endpoint: Weak<Endpoint>, socket: Arc<Socket>) {
    let mut buffer = vec![0; DATAGRAM];
    let mut touched: HashMap<u32, Arc<SocketStream>> = HashMap::new();
    loop {
        let mut received = match socket.receive(&mut buffer).await {
            Ok(received) => Some(received),
            Err(error) => {
                // The error may repeat at once.
                log::debug!("HyperDHT: {error}");
                tokio::task::yield_now().await;
                continue;
            }
        };
        let Some(endpoint) = endpoint.upgrade() else { return };
        let mut count = 0;
        while let Some((length, from)) = received {
            let packet = buffer.get(..length).unwrap_or_default();
            if let Some(stream) = endpoint.dispatch(&socket, from, packet) {
                touched.insert(stream.local_id, stream);
            }
            count += 1;
            received = if count < BATCH { socket.try_receive(&mut buffer) } else { None };
        }
        let now = now();
        let much = touched.values().any(|stream| stream.held() > LITTLE);
        touched.drain().for_each(|(_, stream)| stream.attend(now));
        if much {
            endpoint.bound_held();
        }
    }
}

/// Calls the node's ticks in time.
async fn keep_time(endpoint: Weak<Endpoint>, earlier: Arc<Notify>) {
    loop {
        let Some(next) = endpoint.upgrade().map(|endpoint| endpoint.node().next_tick()) else {
            return;
        };
        tokio::select! {
            () = tokio::time::sleep_until(next) => {}
            () = earlier.notified() => continue,
        }
        match endpoint.upgrade() {
            Some(endpoint) => endpoint.with(|node, now| node.tick(now)),
            None => return,
        }
    }
}
