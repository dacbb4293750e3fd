//! Holes through routers: a socket for one peer, what kind of router it is behind, and the knocking by
//! which both sides open theirs.
//!
//! A router admits answers to packets that went out. So both sides send to each other until a packet of
//! one side arrives through the path that a packet of the other has opened. If the router of one side
//! uses a different port for each remote, that side opens many sockets and the other one tries many
//! ports: after half a minute a pair has met, except in one case in a thousand.
//!
//! Not here: the rounds that the two sides exchange before (`connect.rs`, `server.rs`).

use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::task::{JoinHandle, JoinSet};

use super::endpoint::{Closing, Endpoint, OpenSocket};
use super::socket::{Knock, Socket};
use crate::hyperdht::message::Command;
use crate::hyperdht::payload::Firewall;
use crate::hyperdht::{Ask, Reachability, Samples, SocketId};
use crate::sync::{Mutex, MutexGuard, Rank};

/// Nodes that are asked for the address of a socket.
const SAMPLES: usize = 4;
/// Rounds of asking: other nodes replace those that do not answer.
const SAMPLE_ROUNDS: usize = 2;
/// Knocks that may wait for the task.
const KNOCKS: usize = 64;
/// Between two knocks where both routers keep their ports, and how many there are.
const PAUSE: Duration = Duration::from_secs(1);
const TRIES: u32 = 10;
/// An unconfirmed address is tried in the first round, and then once in this many rounds.
const UNVERIFIED_EVERY: u32 = 4;
/// Addresses of a peer that are tried.
const MAX_REMOTE: usize = 8;
/// Sockets that meet the other side's tries where our router changes its ports.
pub(crate) const BIRTHDAY_SOCKETS: usize = 256;
/// Between two tries then, and how many there are.
const RANDOM_PAUSE: Duration = Duration::from_millis(20);
const RANDOM_TRIES: usize = 1750;
/// Ports below are not tried.
const LOWEST_PORT: u16 = 1000;

/// The state of the other side.
#[derive(Debug, Default)]
pub(crate) struct Remote {
    pub firewall: Firewall,
    addresses: Vec<(SocketAddrV4, bool)>,
    pub punching: bool,
}

impl Remote {
    /// Applies the last round of the other side. `verified` is a host that has proved to be its own.
    pub(crate) fn update(
        &mut self,
        firewall: Firewall,
        punching: bool,
        addresses: &[SocketAddrV4],
        verified: Option<Ipv4Addr>,
    ) {
        let known = |ip: &Ipv4Addr| self.addresses.iter().any(|(at, good)| *good && at.ip() == ip);
        let all = addresses.iter().take(MAX_REMOTE);
        let judged = all.map(|at| (*at, verified == Some(*at.ip()) || known(at.ip())));
        self.addresses = judged.collect();
        (self.firewall, self.punching) = (firewall, punching);
    }

    fn verified(&self) -> Option<SocketAddrV4> {
        self.addresses.iter().find(|(_, good)| *good).map(|(at, _)| *at)
    }
}

/// The sockets of one hole; usually one.
type Sockets = Arc<Mutex<Vec<OpenSocket>>>;

/// One hole. Dropping it ends the knocking and closes the sockets.
pub(crate) struct Puncher {
    endpoint: Arc<Endpoint>,
    pub socket: Arc<Socket>,
    sockets: Sockets,
    samples: Samples,
    /// Our address as the last node reported it.
    seen_as: Option<SocketAddrV4>,
    pub remote: Remote,
    knocks: mpsc::Receiver<Knock>,
    /// For further sockets.
    sender: mpsc::Sender<Knock>,
    knocking: Option<JoinHandle<()>>,
    /// Held while ports are tried.
    _turn: Option<OwnedSemaphorePermit>,
}

impl Drop for Puncher {
    fn drop(&mut self) {
        if let Some(knocking) = &self.knocking {
            knocking.abort();
        }
    }
}

/// Why no hole can be punched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PunchError {
    #[error("both routers use a different port for each remote")]
    BothRandom,
    #[error("the other side has shown no address that is its own")]
    NoAddress,
    #[error("other holes are being punched")]
    Busy,
}

impl Puncher {
    pub(crate) async fn new(endpoint: Arc<Endpoint>) -> std::io::Result<Self> {
        let (sender, knocks) = mpsc::channel(KNOCKS);
        let open = endpoint.open_socket(sender.clone()).await?;
        let socket = Arc::clone(&open.socket);
        Ok(Self {
            endpoint,
            socket,
            sockets: Arc::new(Mutex::new(Rank::PUNCH, vec![open])),
            samples: Samples::default(),
            seen_as: None,
            remote: Remote::default(),
            knocks,
            sender,
            knocking: None,
            _turn: None,
        })
    }

    /// The addresses at which nodes see our socket, for [`Puncher::sampled`].
    pub(crate) fn sampling(&self) -> impl Future<Output = Vec<Seen>> + Send + use<> {
        sample(Arc::clone(&self.endpoint), self.socket.id)
    }

    pub(crate) fn sampled(&mut self, seen: Vec<Seen>) {
        for Seen { own, by } in seen {
            self.samples.add(by, own);
            self.seen_as = Some(own);
        }
    }

    /// The kind of our router; the best possible kind if too few nodes answered.
    pub(crate) fn firewall(&self) -> Firewall {
        match self.samples.reachability() {
            Reachability::Random => Firewall::Random,
            // An openly reachable peer needs no hole.
            Reachability::Open(_) | Reachability::Consistent(_) => Firewall::Consistent,
            Reachability::Unknown if self.samples.agreed().is_some() => Firewall::Consistent,
            Reachability::Unknown if self.seen_as.is_some() => Firewall::Random,
            Reachability::Unknown => Firewall::Unknown,
        }
    }

    /// Our addresses for the other side; if our router changes its ports, only the host counts.
    pub(crate) fn addresses(&self) -> Vec<SocketAddrV4> {
        let host = || self.seen_as.map(|seen_as| SocketAddrV4::new(*seen_as.ip(), 0));
        self.samples.agreed().or_else(host).into_iter().collect()
    }

    /// The next knock at one of our sockets.
    pub(crate) async fn knocked(&mut self) -> (Arc<Socket>, SocketAddrV4) {
        loop {
            // It cannot end: we hold a sender ourselves.
            let Some(knock) = self.knocks.recv().await else { return std::future::pending().await };
            let sockets = lock(&self.sockets);
            if let Some(open) = sockets.iter().find(|open| open.socket.id == knock.at) {
                return (Arc::clone(&open.socket), knock.from);
            }
        }
    }

    /// Takes a socket, which stays open when the rest of the hole is closed.
    pub(crate) fn take(&self, id: SocketId) -> Option<Closing> {
        let mut sockets = lock(&self.sockets);
        let at = sockets.iter().position(|open| open.socket.id == id)?;
        Some(sockets.swap_remove(at).closing)
    }

    /// Starts to knock, once. `first` is whether we begin at once: the side that was asked waits,
    /// since it has just answered.
    ///
    /// # Errors
    /// Fails if both routers choose ports at random, if no usable address of the peer
    /// is known, or if another caller is trying ports.
    pub(crate) fn punch(&mut self, first: bool) -> Result<(), PunchError> {
        if self.knocking.is_some() {
            return Ok(());
        }
        let coerce = |firewall| match firewall {
            Firewall::Open | Firewall::Unknown => Firewall::Consistent,
            firewall => firewall,
        };
        let (ours, theirs) = (coerce(self.firewall()), coerce(self.remote.firewall));
        let knocking = match (ours, theirs) {
            (Firewall::Random, Firewall::Random) => return Err(PunchError::BothRandom),
            (Firewall::Consistent, Firewall::Consistent) => {
                let addresses = self.remote.addresses.clone();
                if addresses.is_empty() {
                    return Err(PunchError::NoAddress);
                }
                tokio::spawn(knock(Arc::clone(&self.socket), addresses, first))
            }
            _ => {
                let to = self.remote.verified().ok_or(PunchError::NoAddress)?;
                self._turn = Some(self.endpoint.turn().ok_or(PunchError::Busy)?);
                if theirs == Firewall::Random {
                    tokio::spawn(try_ports(Arc::clone(&self.socket), *to.ip()))
                } else {
                    let (endpoint, sender) = (Arc::clone(&self.endpoint), self.sender.clone());
                    tokio::spawn(open_many(endpoint, sender, Arc::clone(&self.sockets), to))
                }
            }
        };
        self.knocking = Some(knocking);
        Ok(())
    }
}

fn lock(sockets: &Sockets) -> MutexGuard<'_, Vec<OpenSocket>> {
    // Nothing panics while holding it.
    sockets.lock()
}

/// The address of a socket of ours, and the node that reported it.
pub(crate) struct Seen {
    pub own: SocketAddrV4,
    pub by: SocketAddrV4,
}

async fn sample(endpoint: Arc<Endpoint>, socket: SocketId) -> Vec<Seen> {
    let mut nodes = endpoint.with(|node, _| node.recent_nodes(SAMPLES * SAMPLE_ROUNDS));
    let mut seen = Vec::new();
    for _ in 0..SAMPLE_ROUNDS {
        let missing = SAMPLES - seen.len();
        let mut pings = JoinSet::new();
        for to in nodes.drain(..missing.min(nodes.len())) {
            let endpoint = Arc::clone(&endpoint);
            pings.spawn(async move {
                let ping =
                    Ask { socket: Some(socket), again: false, ..Ask::new(to, Command::Ping) };
                endpoint.request(ping).await
            });
        }
        while let Some(answered) = pings.join_next().await {
            if let Ok(Some(answer)) = answered {
                seen.push(Seen { own: answer.to, by: answer.from });
            }
        }
        if seen.len() >= SAMPLES {
            break;
        }
    }
    seen
}

/// Knocks, if both routers keep their ports.
async fn knock(socket: Arc<Socket>, addresses: Vec<(SocketAddrV4, bool)>, first: bool) {
    if !first {
        tokio::time::sleep(PAUSE).await;
    }
    for n in 1..=TRIES {
        for (to, verified) in &addresses {
            if *verified || n % UNVERIFIED_EVERY == 0 || n == 1 {
                socket.knock(*to);
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Tries ports, if the other side has opened many sockets with unknown ports.
async fn try_ports(socket: Arc<Socket>, ip: Ipv4Addr) {
    for _ in 0..RANDOM_TRIES {
        socket.knock(SocketAddrV4::new(ip, fastrand::u16(LOWEST_PORT..)));
        tokio::time::sleep(RANDOM_PAUSE).await;
    }
}

/// Opens many sockets towards the other side, and keeps them open.
async fn open_many(
    endpoint: Arc<Endpoint>,
    sender: mpsc::Sender<Knock>,
    sockets: Sockets,
    to: SocketAddrV4,
) {
    while lock(&sockets).len() < BIRTHDAY_SOCKETS {
        let Ok(open) = endpoint.open_socket(sender.clone()).await else { break };
        open.socket.open_for(to);
        lock(&sockets).push(open);
    }
    for n in 0..RANDOM_TRIES {
        let socket = {
            let all = lock(&sockets);
            all.get(n % all.len().max(1)).map(|open| Arc::clone(&open.socket))
        };
        let Some(socket) = socket else { return };
        // The first round opens our router without reaching the other one, which might block us.
        if n < BIRTHDAY_SOCKETS {
            socket.open_for(to)
        } else {
            socket.knock(to)
        }
        tokio::time::sleep(RANDOM_PAUSE).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(last: u8, port: u16) -> SocketAddrV4 {
        SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, last), port)
    }

    #[test]
    fn a_verified_host_stays_verified_while_the_peer_names_it() {
        let mut remote = Remote::default();
        remote.update(Firewall::Consistent, false, &[at(1, 1), at(2, 2)], None);
        assert_eq!(remote.verified(), None);
        remote.update(Firewall::Consistent, false, &[at(1, 1), at(2, 2)], Some(*at(2, 0).ip()));
        assert_eq!(remote.verified(), Some(at(2, 2)));
        remote.update(Firewall::Random, true, &[at(2, 9)], None);
        assert_eq!(remote.verified(), Some(at(2, 9)));
        remote.update(Firewall::Random, true, &[at(1, 1)], None);
        assert_eq!(remote.verified(), None);
    }

    #[test]
    fn addresses_of_a_peer_are_limited() {
        let mut remote = Remote::default();
        let all: Vec<_> = (0..=MAX_REMOTE as u8).map(|n| at(n, 1)).collect();
        remote.update(Firewall::Consistent, true, &all, None);
        assert_eq!(remote.addresses.len(), MAX_REMOTE);
    }
}
