//! Connections to peers: listening, and dialling peers that a caller named or discovery found.
//!
//! Not here: how peers find each other (`discovery/`), and the bytes on a connection, which are of the
//! [`Protocol`] of the layer above.

mod topics;
mod candidates;
mod interfaces;
mod hyperdht;
mod encrypted;
mod carried;
mod channels;
#[cfg(test)]
mod channels_tests;
mod transport;
mod slot;
mod protocol;
mod greeting;
mod slots;
mod tcp;
mod dial;
#[cfg(test)]
mod dial_tests;
mod discovery;
mod finding;
#[cfg(test)]
mod finding_tests;
mod moved;
#[cfg(test)]
mod testing;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use tokio::net::{TcpListener, ToSocketAddrs};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::crypto::{DiscoveryKey, KeyPair, random_bytes};
use crate::rate::Rate;
use crate::sync::{Mutex, MutexGuard, Rank};

use finding::Finding;

pub use channels::{ChannelEvent, ChannelId, Channels, ChannelsError, RemoteId};
pub use dial::Dialling;
#[cfg(fuzzing)]
pub(crate) use discovery::parse_multicast_dns;
pub use discovery::{BootstrapNode, DiscoveryOptions, HyperDhtBootstrapNode, PUBLIC_HYPERDHT};
pub use protocol::{Needs, Protocol};
pub use slot::{ConnectionEnd, ConnectionHandle, ConnectionSlot, Ending};
pub use slots::MAX_STRANGERS;
pub use topics::{Interest, TooManyTopics};
pub use transport::{FoundBy, Stream, Transport};

/// Bytes that incomplete frames of all connections may hold together; beyond it the connection that
/// holds most is ended.
pub(crate) const MAX_HALF_RECEIVED: usize = 32 * 1024 * 1024;
/// Pause of the accept loop after a failure such as running out of descriptors.
const ACCEPT_RETRY: Duration = Duration::from_millis(200);

/// Bytes that the protocol of a connection has read and written, its encryption and framing
/// included, without what TCP or Hyperswarm 4 adds to carry them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Bytes received.
    pub received: u64,
    /// Bytes sent.
    pub sent: u64,
}

/// The rates of all connections together; their limits may be changed while bytes flow.
#[derive(Debug)]
pub struct Rates {
    /// Of bytes sent.
    pub up: Rate,
    /// Of bytes received.
    pub down: Rate,
}

impl Default for Rates {
    fn default() -> Self {
        Self { up: Rate::new(None), down: Rate::new(None) }
    }
}

/// One connected peer.
#[derive(Clone, Debug)]
pub struct PeerInfo {
    /// Number of the connection, unique in its swarm.
    pub id: u64,
    /// Where the peer is.
    pub address: SocketAddr,
    /// Whether it dialled us.
    pub incoming: bool,
    /// What carries the connection.
    pub transport: Transport,
    /// How the peer was found.
    pub found_by: FoundBy,
    /// Channels open on both sides: one per core.
    pub cores: usize,
    /// Bytes on this connection.
    pub traffic: Traffic,
}

/// Connections to the peers of joined topics, and to peers that a caller names. Clones are handles of
/// the same swarm.
#[derive(Clone)]
pub struct Swarm {
    inner: Arc<Inner>,
}

pub(crate) struct Inner {
    /// Our static key, by which a connection to ourselves is recognised.
    identity: [u8; 32],
    /// Our key pair on Hyperswarm 4. It proves no identity: each process makes a new one.
    keys: OnceLock<KeyPair>,
    protocol: Arc<dyn Protocol>,
    runtime: Handle,
    closing: watch::Sender<bool>,
    next_connection: AtomicU64,
    state: Mutex<ConnectionTable>,
    received: AtomicU64,
    sent: AtomicU64,
    finding: Arc<Finding>,
    rates: Rates,
    needs: watch::Sender<Needs>,
}

#[derive(Default)]
struct ConnectionTable {
    connections: HashMap<u64, ConnectionHandle>,
    /// By dialled address, the reason of the last failure or end.
    troubles: HashMap<String, String>,
}

impl Swarm {
    /// A swarm in which `protocol` runs on every connection. `identity` is the static key that the
    /// protocol shows to peers.
    ///
    /// # Panics
    /// Outside of a tokio runtime: its tasks run on the current one.
    pub fn new(identity: [u8; 32], protocol: Arc<dyn Protocol>) -> Self {
        let (finding, found) = Finding::new();
        let inner = Arc::new(Inner {
            identity,
            keys: OnceLock::new(),
            protocol,
            runtime: Handle::current(),
            closing: watch::channel(false).0,
            next_connection: AtomicU64::new(1),
            state: Mutex::new(Rank::SWARM, ConnectionTable::default()),
            received: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            finding: Arc::new(finding),
            rates: Rates::default(),
            needs: watch::channel(Needs::BOTH).0,
        });
        inner.runtime.spawn(finding::run(Arc::downgrade(&inner), found));
        inner.runtime.spawn(moved::run(Arc::downgrade(&inner)));
        Self { inner }
    }

    /// Listens for peers by TCP; returns the address with the port that was chosen.
    ///
    /// # Errors
    /// As bind(2) and listen(2), or if a name is not resolved.
    pub async fn listen(&self, address: impl ToSocketAddrs) -> std::io::Result<SocketAddr> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        self.inner.runtime.spawn(accept(Arc::downgrade(&self.inner), listener));
        self.inner.finding.listening.send_replace(Some(address));
        Ok(address)
    }

    /// Joins a topic, or changes the interest in it. The address that [`Swarm::listen`] returned last
    /// is announced; peers that are found are dialled.
    ///
    /// # Errors
    /// Fails if 4096 other topics are joined already.
    pub fn join(&self, topic: DiscoveryKey, interest: Interest) -> Result<(), TooManyTopics> {
        self.inner.finding.join(topic, interest)
    }

    /// Whether a topic is joined.
    pub fn is_joined(&self, topic: &DiscoveryKey) -> bool {
        self.inner.finding.topics.borrow().contains_key(topic)
    }

    /// Leaves a topic: withdraws its announcement and dials no more peers for it. Connections stay.
    pub fn leave(&self, topic: &DiscoveryKey) {
        self.inner.finding.leave(topic);
    }

    /// How many addresses discovery has found for a topic, including those that do not answer.
    pub fn found(&self, topic: &DiscoveryKey) -> usize {
        self.inner.finding.known_for(topic)
    }

    /// Connects to `address` (`HOST:PORT`) and keeps trying, with growing pauses, until the swarm is
    /// closed.
    pub fn dial(&self, address: &str) {
        let (forever, needed) = watch::channel(());
        let dialling = dial::keep_dialling(Arc::downgrade(&self.inner), address.to_owned(), needed);
        self.inner.runtime.spawn(async move {
            dialling.await;
            drop(forever);
        });
    }

    /// As [`Swarm::dial`], until the returned value is dropped; then the connection ends too.
    pub fn dial_while(&self, address: &str) -> Dialling {
        let (sender, needed) = watch::channel(());
        let swarm = Arc::downgrade(&self.inner);
        self.inner.runtime.spawn(dial::keep_dialling(swarm, address.to_owned(), needed));
        Dialling { _needed: sender }
    }

    /// With which protocols the addresses given to [`Swarm::dial`] are dialled from now on. Connections stay.
    pub fn set_needs(&self, needs: Needs) {
        self.inner.needs.send_if_modified(|before| std::mem::replace(before, needs) != needs);
    }

    /// The rates of all connections together.
    pub fn rates(&self) -> &Rates {
        &self.inner.rates
    }

    /// Bytes on all connections since the start, ended ones included.
    pub fn traffic(&self) -> Traffic {
        Traffic {
            received: self.inner.received.load(Ordering::Relaxed),
            sent: self.inner.sent.load(Ordering::Relaxed),
        }
    }

    /// The connections that are open now, in no order.
    pub fn peers(&self) -> Vec<PeerInfo> {
        let state = self.inner.state();
        state.connections.iter().map(|(id, handle)| handle.info(*id)).collect()
    }

    /// Why dialled peers are not connected, one sentence each.
    pub fn troubles(&self) -> Vec<String> {
        let state = self.inner.state();
        state.troubles.iter().map(|(address, trouble)| format!("{address}: {trouble}")).collect()
    }

    /// Ends every connection, stops listening and dialling, and sends the withdrawal of announcements.
    pub fn close(&self) {
        if let Some(link) = self.inner.finding.dht.get() {
            link.farewell();
        }
        if let Some(link) = self.inner.finding.hyperdht.get() {
            link.farewell();
        }
        self.inner.closing.send_replace(true);
    }

    /// A channel whose value becomes true when the swarm is closed; [`wait_closed`] waits for it.
    pub fn closing(&self) -> watch::Receiver<bool> {
        self.inner.closing.subscribe()
    }
}

impl Inner {
    /// Our key pair on Hyperswarm 4, the same at every call.
    ///
    /// # Errors
    /// Fails if the operating system returns no random bytes.
    fn keys(&self) -> std::io::Result<&KeyPair> {
        if let Some(keys) = self.keys.get() {
            return Ok(keys);
        }
        let new = KeyPair::from_seed(&random_bytes()?);
        Ok(self.keys.get_or_init(|| new))
    }

    fn state(&self) -> MutexGuard<'_, ConnectionTable> {
        // Nothing panics while holding it.
        self.state.lock()
    }

    /// Notes that a dialled address could not be reached, or that its connection ended.
    fn not_connected(&self, address: &str, reason: String) {
        let trouble = format!("peer {address}: {reason}");
        self.state().troubles.insert(address.to_owned(), reason);
        self.protocol.unreachable(&trouble);
    }

    /// Ends the connection that holds most, if incomplete frames of all connections exceed the limit.
    fn bound_half_received(&self) {
        let state = self.state();
        let held =
            |handle: &ConnectionHandle| handle.statistics.half_received.load(Ordering::Relaxed);
        // A connection that is being ended releases its bytes soon.
        let staying = || state.connections.values().filter(|handle| !handle.is_ending());
        if staying().map(held).sum::<usize>() > MAX_HALF_RECEIVED
            && let Some(most) = staying().max_by_key(|handle| held(handle))
        {
            most.end("sends too much at a time".into(), false);
        }
    }

    /// A slot for a connection (`slots.rs`).
    fn register(
        self: &Arc<Self>,
        address: SocketAddr,
        transport: Transport,
        found_by: FoundBy,
    ) -> ConnectionSlot {
        let handle = ConnectionHandle::new(address, transport, found_by);
        let mut state = self.state();
        if handle.incoming {
            state.make_room_for_stranger(address.ip());
        }
        let id = self.next_connection.fetch_add(1, Ordering::Relaxed);
        state.connections.insert(id, handle.clone());
        ConnectionSlot { swarm: Arc::clone(self), id, handle }
    }
}

async fn accept(swarm: Weak<Inner>, listener: TcpListener) {
    let Some(mut closing) = swarm.upgrade().map(|swarm| swarm.closing.subscribe()) else { return };
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = wait_closed(&mut closing) => return,
        };
        let Some(swarm) = swarm.upgrade() else { return };
        match accepted {
            Ok((stream, address)) => {
                let slot = swarm.register(address, Transport::Tcp, FoundBy::Incoming);
                let runtime = swarm.runtime.clone();
                runtime.spawn(swarm.accepted(slot, stream));
            }
            Err(error) => {
                log::warn!("cannot accept peers: {error}");
                tokio::time::sleep(ACCEPT_RETRY).await;
            }
        }
    }
}

/// Resolves at `at`; never if it is `None`.
pub async fn wait_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// Resolves when the swarm of this channel ([`Swarm::closing`]) is closed or dropped.
pub async fn wait_closed(closing: &mut watch::Receiver<bool>) {
    // A swarm that was dropped is closed too.
    let _ = closing.wait_for(|closing| *closing).await;
}

#[cfg(test)]
mod tests {
    use super::testing::idle;
    use super::*;

    /// A peer that moved dials again while its old connection is not yet known to be dead.
    #[tokio::test]
    async fn a_second_incoming_connection_is_kept_and_a_second_outgoing_one_is_not() {
        let swarm = idle().inner;
        let address = SocketAddr::from(([192, 0, 2, 1], 1));
        for (number, remote) in [(1, [0; 32]), (2, [0xff; 32])] {
            let register = |found_by| swarm.register(address, Transport::Tcp, found_by);
            let (old, new) = (register(FoundBy::Incoming), register(FoundBy::Incoming));
            for slot in [&old, &new] {
                assert_eq!(swarm.identified(slot.id, remote), Ok(()), "{number}");
            }
            assert!(!old.handle.is_ending() && !new.handle.is_ending(), "{number}");
            drop((old, new));
            let (old, new) = (register(FoundBy::Lan), register(FoundBy::Dht));
            assert_eq!(swarm.identified(old.id, remote), Ok(()), "{number}");
            let refused = swarm.identified(new.id, remote).is_err();
            assert!(refused != old.handle.is_ending(), "{number}: one of them");
        }
    }

    /// JavaScript peers keep the connection that the larger key has dialled.
    #[tokio::test]
    async fn of_two_connections_with_channels_that_of_the_larger_key_is_kept() {
        let swarm = idle().inner;
        swarm.keys().unwrap();
        let address = SocketAddr::from(([192, 0, 2, 1], 1));
        for (remote, ours_stays) in [([0; 32], true), ([0xff; 32], false)] {
            for ours_first in [false, true] {
                let register = |found_by| {
                    let slot = swarm.register(address, Transport::HyperDht, found_by);
                    slot.handle.network_key.set(remote).unwrap();
                    slot
                };
                let (ours, theirs) = (register(FoundBy::HyperDht), register(FoundBy::Incoming));
                let (old, new) = if ours_first { (&ours, &theirs) } else { (&theirs, &ours) };
                assert_eq!(old.identified(remote), Ok(()));
                let refused = new.identified(remote).is_err();
                assert_eq!(refused, ours_first == ours_stays);
                assert_eq!(old.handle.is_ending(), !refused);
            }
        }
        let own = *swarm.keys().unwrap().public_key().as_bytes();
        let slot = swarm.register(address, Transport::HyperDht, FoundBy::HyperDht);
        slot.handle.network_key.set(own).unwrap();
        assert!(slot.identified(own).is_err());
    }

    #[tokio::test]
    async fn incomplete_frames_of_all_connections_are_limited() {
        let swarm = idle().inner;
        let address = SocketAddr::from(([192, 0, 2, 1], 1));
        let register = || swarm.register(address, Transport::Tcp, FoundBy::Incoming);
        let (small, large) = (register(), register());
        let hold = |slot: &ConnectionSlot, bytes| {
            slot.handle.statistics.half_received.store(bytes, Ordering::Relaxed);
            swarm.bound_half_received();
        };
        hold(&small, 1000);
        hold(&large, MAX_HALF_RECEIVED - 1000);
        assert!(!large.handle.is_ending());
        hold(&small, 1001);
        assert!(large.handle.is_ending() && !small.handle.is_ending());
    }
}
