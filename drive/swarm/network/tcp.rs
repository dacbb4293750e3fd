//! The two kinds of connections on TCP: the byte stream of hypercore-protocol 8, and the encrypted channels of
//! Hyperswarm 4, which connections over HyperDHT have too.
//!
//! Not here: which addresses are dialled (`dial.rs`, `finding.rs`), and the bytes of a handshake
//! (`greeting.rs`).

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpStream;

use super::Inner;
use super::channels::{Channels, ChannelsError, Told};
use super::encrypted::Carrier;
use super::greeting::{GreetingError, Kind, greet, kind_of};
use super::slot::{ConnectionEnd, ConnectionSlot, GivenUp};
use super::transport::{FoundBy, Stream, Transport};
use crate::crypto::DiscoveryKey;
use crate::secret_stream::Secrets;

/// Why there are no channels on a TCP connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoChannels {
    #[error(transparent)]
    Greeting(#[from] GreetingError),
    #[error(transparent)]
    Channels(#[from] ChannelsError),
    #[error("no random numbers: {0}")]
    Keys(std::io::Error),
    #[error("it is this process itself")]
    Ourselves,
    #[error("is ended by us")]
    Ending,
}

pub(super) fn level(lied: bool) -> log::Level {
    if lied { log::Level::Warn } else { log::Level::Info }
}

impl Inner {
    /// Runs a connection that a peer made by TCP, of either kind.
    pub(super) async fn accepted(self: Arc<Self>, slot: ConnectionSlot, stream: TcpStream) {
        let address = slot.handle.address;
        let mut ending = slot.ending();
        let stream = tokio::select! {
            stream = self.offered(&slot, stream) => stream,
            _ = ending.ended() => return,
        };
        match stream {
            Ok(stream) => {
                let ConnectionEnd { reason, lied } = slot.run(stream).await;
                log::log!(level(lied), "peer {address} left: {reason}");
            }
            Err(reason) => log::info!("peer {address} left: {reason}"),
        }
    }

    /// What a peer that connected by TCP offers.
    async fn offered(
        self: &Arc<Self>,
        slot: &ConnectionSlot,
        mut stream: TcpStream,
    ) -> Result<Stream, NoChannels> {
        match kind_of(&stream).await? {
            Kind::Legacy => Ok(Stream::Tcp(stream)),
            Kind::SecretStream => {
                let secrets = self.greeted(&mut stream, false).await?;
                self.tcp_channels(slot, stream, &secrets).await
            }
        }
    }

    /// The slot and the channels of a TCP connection that we made to a server of Hyperswarm 4.
    pub(super) async fn dialled_encrypted(
        self: &Arc<Self>,
        at: SocketAddr,
        mut stream: TcpStream,
        found_by: FoundBy,
    ) -> Result<(ConnectionSlot, Stream), NoChannels> {
        let secrets = self.greeted(&mut stream, true).await?;
        let slot = self.register(at, Transport::Tcp, found_by);
        let stream = self.tcp_channels(&slot, stream, &secrets).await?;
        Ok((slot, stream))
    }

    /// The handshake of Hyperswarm 4 on a TCP connection.
    pub(super) async fn greeted(
        &self,
        stream: &mut TcpStream,
        initiator: bool,
    ) -> Result<Secrets, NoChannels> {
        let keys = self.keys().map_err(NoChannels::Keys)?;
        Ok(greet(stream, keys, initiator).await?)
    }

    /// The channels of a TCP connection after its handshake.
    pub(super) async fn tcp_channels(
        self: &Arc<Self>,
        slot: &ConnectionSlot,
        stream: TcpStream,
        secrets: &Secrets,
    ) -> Result<Stream, NoChannels> {
        let ourselves =
            self.keys.get().is_some_and(|keys| *keys.public_key().as_bytes() == secrets.remote);
        if ourselves {
            let _ = slot.handle.given_up.set(GivenUp::Ourselves);
            return Err(NoChannels::Ourselves);
        }
        // Another TCP port of the peer is of no use: it would be another connection like this one.
        let channels = self.channels(slot, Carrier::Tcp(stream), secrets, Vec::new()).await?;
        Ok(Stream::Channels(channels))
    }

    /// The channels of a connection of Hyperswarm 4, once the remote has proved its key. If it names a TCP
    /// port too, that becomes a candidate for these topics.
    pub(super) async fn channels(
        self: &Arc<Self>,
        slot: &ConnectionSlot,
        carrier: Carrier,
        secrets: &Secrets,
        topics: Vec<DiscoveryKey>,
    ) -> Result<Channels, NoChannels> {
        let port = self.finding.listening.borrow().map(|address| address.port());
        let (swarm, handle) = (Arc::downgrade(self), slot.handle.clone());
        let listener = move |told| match (told, swarm.upgrade()) {
            (Told::Port(Some(port)), Some(swarm)) if !topics.is_empty() => {
                swarm.add_tcp_address(handle.address.ip(), port, topics);
            }
            (Told::NotCarried, _) => {
                let _ = handle.foreign.set(());
            }
            _ => {}
        };
        let _ = slot.handle.network_key.set(secrets.remote);
        let mut channels = Channels::new(carrier, secrets, port, Box::new(listener));
        let mut ending = slot.ending();
        tokio::select! {
            begun = channels.begun() => begun?,
            _ = ending.ended() => return Err(NoChannels::Ending),
        }
        Ok(channels)
    }
}
