//! Protocols for the tests of the network.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{ConnectionEnd, ConnectionSlot, Protocol, Stream, Swarm};

type Running<'a> = Pin<Box<dyn Future<Output = ConnectionEnd> + Send + 'a>>;

fn left(reason: impl ToString) -> ConnectionEnd {
    ConnectionEnd { reason: reason.to_string(), lied: false }
}

/// Sends nothing.
struct Idle;

impl Protocol for Idle {
    fn run(&self, slot: ConnectionSlot, _stream: Stream) -> Running<'_> {
        Box::pin(async move { slot.ending().ended().await })
    }

    fn unreachable(&self, _trouble: &str) {}
}

/// A swarm with [`Idle`] connections.
pub(crate) fn idle() -> Swarm {
    Swarm::new([7; 32], Arc::new(Idle))
}

/// Both sides send their static keys, which opens a channel.
struct Introduces([u8; 32]);

impl Introduces {
    async fn introduce(&self, slot: &ConnectionSlot, stream: &mut Stream) -> Result<(), String> {
        let Stream::Tcp(stream) = stream else { return Err("not over TCP".into()) };
        let lost = |error: std::io::Error| format!("connection lost: {error}");
        stream.write_all(&self.0).await.map_err(lost)?;
        let mut remote = [0; 32];
        stream.read_exact(&mut remote).await.map_err(lost)?;
        slot.identified(remote)?;
        if !slot.admit() {
            return Err("there is no place for another peer".into());
        }
        let _ = stream.read(&mut remote).await.map_err(lost)?;
        Err("closed the connection".into())
    }
}

impl Protocol for Introduces {
    fn run(&self, slot: ConnectionSlot, mut stream: Stream) -> Running<'_> {
        Box::pin(async move {
            let mut ending = slot.ending();
            tokio::select! {
                talked = self.introduce(&slot, &mut stream) => match talked {
                    Ok(()) => left("nothing is left to say"),
                    Err(reason) => left(reason),
                },
                ended = ending.ended() => ended,
            }
        })
    }

    fn unreachable(&self, _trouble: &str) {}
}

/// A swarm with [`Introduces`] connections.
pub(crate) fn introducing() -> Swarm {
    let mut identity: [u8; 32] = crate::crypto::random_bytes().expect("random numbers");
    // The first byte sent is not that of a handshake of Hyperswarm 4.
    identity[0] |= 0x80;
    Swarm::new(identity, Arc::new(Introduces(identity)))
}
