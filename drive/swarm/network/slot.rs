//! One connection as the network sees it: its slot, its counters and its end.
//!
//! Not here: which connections get a slot (`slots`), and the bytes on them (`protocol`).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use tokio::sync::watch;
use tokio::time::Instant;

#[cfg(doc)]
use super::channels::Channels;
use super::transport::{FoundBy, Stream, Transport};
use super::{Inner, PeerInfo, Rates, Traffic, wait_closed};

/// A connection that holds at most this many bytes of an incomplete frame causes no check of the total:
/// 128 KiB, which one read from a socket may return.
const SMALLEST_HALF_RECEIVED: usize = 128 * 1024;

/// Why a connection ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConnectionEnd {
    /// As in the log line "peer ADDRESS left: REASON".
    pub reason: String,
    /// Whether the peer sent something that did not verify.
    pub lied: bool,
}

impl ConnectionEnd {
    fn closing() -> Self {
        Self { reason: "we are closing".into(), lied: false }
    }
}

/// Why a connection was closed without an error of either side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum GivenUp {
    Duplicate,
    Ourselves,
}

#[derive(Default)]
pub(super) struct Statistics {
    received: AtomicU64,
    sent: AtomicU64,
    /// Channels open on both sides.
    pub channels: AtomicUsize,
    /// Bytes of an incomplete frame.
    pub half_received: AtomicUsize,
}

impl Statistics {
    fn traffic(&self) -> Traffic {
        Traffic {
            received: self.received.load(Ordering::Relaxed),
            sent: self.sent.load(Ordering::Relaxed),
        }
    }
}

/// A handle of a connection, by which any task can end it.
#[derive(Clone)]
pub struct ConnectionHandle {
    pub(super) address: SocketAddr,
    pub(super) incoming: bool,
    pub(super) transport: Transport,
    pub(super) found_by: FoundBy,
    /// Set once: ends the connection.
    pub(super) ending: watch::Sender<Option<ConnectionEnd>>,
    pub(super) statistics: Arc<Statistics>,
    /// The peer's static key, once it has proved it.
    pub(super) identity: Arc<OnceLock<[u8; 32]>>,
    /// The peer's key on Hyperswarm 4, if the connection has channels.
    pub(super) network_key: Arc<OnceLock<[u8; 32]>>,
    pub(super) given_up: Arc<OnceLock<GivenUp>>,
    /// True once the peer has proved its key and the connection is kept.
    pub(super) kept: watch::Sender<bool>,
    /// Set once the peer has shown that it is another implementation.
    pub(super) foreign: Arc<OnceLock<()>>,
    /// The address of this machine that it goes out from.
    pub(super) local: Arc<OnceLock<IpAddr>>,
    pub(super) since: Instant,
}

impl ConnectionHandle {
    pub(super) fn new(address: SocketAddr, transport: Transport, found_by: FoundBy) -> Self {
        Self {
            address,
            incoming: found_by == FoundBy::Incoming,
            transport,
            found_by,
            ending: watch::channel(None).0,
            statistics: Arc::default(),
            identity: Arc::default(),
            network_key: Arc::default(),
            given_up: Arc::default(),
            kept: watch::channel(false).0,
            foreign: Arc::default(),
            local: Arc::default(),
            since: Instant::now(),
        }
    }

    pub(super) fn channels(&self) -> usize {
        self.statistics.channels.load(Ordering::Relaxed)
    }

    pub(super) fn info(&self, id: u64) -> PeerInfo {
        PeerInfo {
            id,
            address: self.address,
            incoming: self.incoming,
            transport: self.transport,
            found_by: self.found_by,
            cores: self.channels(),
            traffic: self.statistics.traffic(),
        }
    }

    /// Ends the connection soon; the first reason given counts.
    pub fn end(&self, reason: String, lied: bool) {
        self.ending.send_if_modified(|ending| {
            let first = ending.is_none();
            if first {
                *ending = Some(ConnectionEnd { reason, lied });
            }
            first
        });
    }

    pub(super) fn is_ending(&self) -> bool {
        self.ending.borrow().is_some()
    }
}

/// A connection in its swarm: its bounded slot among all connections, its counters and its end.
/// Dropping it gives the slot back.
pub struct ConnectionSlot {
    pub(super) swarm: Arc<Inner>,
    pub(super) id: u64,
    pub(super) handle: ConnectionHandle,
}

/// The address of this machine that datagrams to `remote` go out from now. Sends none.
fn source_towards(remote: SocketAddr) -> Option<IpAddr> {
    let any: IpAddr = match remote {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    socket.connect(remote).ok()?;
    Some(socket.local_addr().ok()?.ip().to_canonical())
}

impl ConnectionSlot {
    /// Runs the connection to its end.
    pub(super) async fn run(self, stream: Stream) -> ConnectionEnd {
        let local = match &stream {
            Stream::Tcp(stream) => stream.local_addr().ok().map(|local| local.ip().to_canonical()),
            Stream::Channels(channels) => channels.local_ip(),
        };
        // The sockets of datagrams have no address of their own.
        let local = local.or_else(|| source_towards(self.handle.address));
        if let Some(local) = local {
            let _ = self.handle.local.set(local);
        }
        let protocol = Arc::clone(&self.swarm.protocol);
        protocol.run(self, stream).await
    }

    /// [`PeerInfo::id`].
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Where the peer is.
    pub fn address(&self) -> SocketAddr {
        self.handle.address
    }

    /// What carries the connection.
    pub fn transport(&self) -> Transport {
        self.handle.transport
    }

    /// Whether the peer dialled us.
    pub fn is_incoming(&self) -> bool {
        self.handle.incoming
    }

    /// The connection's handle.
    pub fn handle(&self) -> &ConnectionHandle {
        &self.handle
    }

    /// The rates of all connections together.
    pub fn rates(&self) -> &Rates {
        &self.swarm.rates
    }

    /// Tells when the swarm wants the connection to end.
    pub fn ending(&self) -> Ending {
        Ending { ending: self.handle.ending.subscribe(), closing: self.swarm.closing.subscribe() }
    }

    /// Counts bytes that were received, for the traffic and the rate.
    pub fn received(&self, bytes: usize) {
        self.swarm.rates.down.spend(bytes);
        self.handle.statistics.received.fetch_add(bytes as u64, Ordering::Relaxed);
        self.swarm.received.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Counts bytes that were sent, for the traffic and the rate.
    pub fn sent(&self, bytes: usize) {
        self.swarm.rates.up.spend(bytes);
        self.handle.statistics.sent.fetch_add(bytes as u64, Ordering::Relaxed);
        self.swarm.sent.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Notes how many bytes of an incomplete frame the connection holds. Ends the connection that
    /// holds most if all together hold more than 32 MiB.
    pub fn half_received(&self, bytes: usize) {
        self.handle.statistics.half_received.store(bytes, Ordering::Relaxed);
        if bytes > SMALLEST_HALF_RECEIVED {
            self.swarm.bound_half_received();
        }
    }

    /// Notes the static key that the peer has proved: that of its protocol, or [`Channels::remote_key`].
    ///
    /// # Errors
    /// The reason why the connection is not kept: the peer is this process, or has another connection.
    pub fn identified(&self, remote: [u8; 32]) -> Result<(), String> {
        self.swarm.identified(self.id, remote)?;
        self.handle.kept.send_replace(true);
        Ok(())
    }

    /// How many channels are open on both sides.
    pub fn channels(&self) -> usize {
        self.handle.channels()
    }

    /// Counts a channel that was opened on both sides; false if there is no slot for another peer.
    pub fn admit(&self) -> bool {
        self.swarm.admit(self.id)
    }

    /// Counts down a channel that was admitted and is closed now.
    pub fn channel_closed(&self) {
        self.handle.statistics.channels.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        let identity = self.handle.identity.get();
        let mut state = self.swarm.state();
        state.connections.remove(&self.id);
        let another = state.connections.values().any(|other| other.identity.get() == identity);
        drop(state);
        self.swarm.finding.connection_gone(identity.filter(|_| !another));
    }
}

/// Tells a connection when it is to end.
pub struct Ending {
    ending: watch::Receiver<Option<ConnectionEnd>>,
    closing: watch::Receiver<bool>,
}

impl Ending {
    /// Resolves when the swarm wants the connection to end. Can be dropped and called again.
    pub async fn ended(&mut self) -> ConnectionEnd {
        tokio::select! {
            ending = self.ending.wait_for(Option::is_some) => {
                ending.ok().and_then(|ending| ending.clone()).unwrap_or_else(ConnectionEnd::closing)
            }
            () = wait_closed(&mut self.closing) => ConnectionEnd::closing(),
        }
    }
}
