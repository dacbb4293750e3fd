//! One UDP socket of an endpoint, and the knocks that open routers.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::time::Instant;

use tokio::net::UdpSocket;
use tokio::sync::mpsc;

use crate::hyperdht::SocketId;
use crate::sync::{Mutex, Rank};

/// A packet that the receiver ignores, but that opens our own router for its packets.
pub(crate) const KNOCK: [u8; 1] = [0];
/// The hop limit of a knock that must open our own router and not reach the other one.
const SHORT_TTL: u32 = 5;
const USUAL_TTL: u32 = 64;
/// The receive buffer of the system, in bytes: a burst of a fast stream.
const RECEIVE_BUFFER: usize = 2 * 1024 * 1024;

/// The time of tokio, which tests can pause.
pub(crate) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// A knock arrived at a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Knock {
    pub at: SocketId,
    pub from: SocketAddrV4,
}

/// One UDP socket.
pub(crate) struct Socket {
    pub id: SocketId,
    udp: UdpSocket,
    /// Receives the knocks at a socket of a hole.
    knocks: Option<mpsc::Sender<Knock>>,
    /// Held while the time to live is changed, which is of the socket and not of a packet.
    knocking: Mutex<()>,
}

impl Socket {
    /// Any port if `port` is 0.
    pub(crate) async fn bind(
        id: SocketId,
        ip: Ipv4Addr,
        port: u16,
        knocks: Option<mpsc::Sender<Knock>>,
    ) -> io::Result<Self> {
        let udp = UdpSocket::bind((ip, port)).await?;
        // A smaller buffer only costs speed.
        let _ = socket2::SockRef::from(&udp).set_recv_buffer_size(RECEIVE_BUFFER);
        // Until tokio has seen that it is writable, sending fails: the first packet would be lost.
        udp.writable().await?;
        Ok(Self { id, udp, knocks, knocking: Mutex::new(Rank::LEAF, ()) })
    }

    pub(crate) fn port(&self) -> u16 {
        self.udp.local_addr().map_or(0, |address| address.port())
    }

    /// Sends a packet if the system takes it now.
    pub(crate) fn try_send(&self, packet: &[u8], to: SocketAddrV4) -> io::Result<usize> {
        self.udp.try_send_to(packet, to.into())
    }

    /// Resolves when the system may take more.
    pub(crate) async fn writable(&self) {
        // The next send returns the error.
        let _ = self.udp.writable().await;
    }

    /// The next packet; packets from IPv6 addresses are skipped.
    pub(crate) async fn receive(&self, buffer: &mut [u8]) -> io::Result<(usize, SocketAddrV4)> {
        loop {
            if let (count, SocketAddr::V4(from)) = self.udp.recv_from(buffer).await? {
                return Ok((count, from));
            }
        }
    }

    /// The next packet, if one has arrived.
    pub(crate) fn try_receive(&self, buffer: &mut [u8]) -> Option<(usize, SocketAddrV4)> {
        match self.udp.try_recv_from(buffer) {
            Ok((count, SocketAddr::V4(from))) => Some((count, from)),
            _ => None,
        }
    }

    /// Sends a knock that shall reach the peer.
    pub(crate) fn knock(&self, to: SocketAddrV4) {
        // Callers repeat knocks that are lost.
        let _ = self.try_send(&KNOCK, to);
    }

    /// Opens our own router for a peer at `to` without reaching the peer yet.
    pub(crate) fn open_for(&self, to: SocketAddrV4) {
        let _alone = self.knocking.lock();
        let _ = self.udp.set_ttl(SHORT_TTL);
        self.knock(to);
        let _ = self.udp.set_ttl(USUAL_TTL);
    }

    /// Reports a knock; it is dropped if no task waits for it.
    pub(crate) fn knocked(&self, from: SocketAddrV4) {
        if let Some(knocks) = &self.knocks {
            let _ = knocks.try_send(Knock { at: self.id, from });
        }
    }
}
