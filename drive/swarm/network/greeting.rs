//! The beginning of a TCP connection: which of two protocols the peer speaks, and the handshake of
//! Hyperswarm 4 (secret-stream over a plain stream: Noise XX, each message after its length).
//!
//! Not here: the handshake of hypercore-protocol 8, which is of the layer above.

use std::time::Duration;
use std::{fmt, io};

use bytes::{Buf, BufMut, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::crypto::KeyPair;
use crate::secret_stream::{Handshake, HandshakeError, MAX_HANDSHAKE, Secrets};

/// How long the first bytes and the handshake may take, each.
pub(super) const GREET_WITHIN: Duration = Duration::from_secs(10);
/// Size of the length of a handshake message, in bytes.
const LENGTH: usize = 3;
/// The first byte of a peer of Hyperswarm 4: the length of its first message, a key, with the lowest byte
/// first. The first message of hypercore-protocol 8 has a nonce besides the key, so its length differs; a
/// length of two bytes begins with 0x80 or more.
const FIRST_BYTE: u8 = 32;
/// Bytes that the system may hold back unsent: more would delay what is sent later and is urgent.
#[cfg(target_os = "linux")]
const UNSENT_BYTES: u32 = 256 * 1024;

#[derive(Debug, thiserror::Error)]
pub(super) enum GreetingError {
    #[error("connection lost: {0}")]
    Lost(#[from] io::Error),
    #[error("broke the handshake: {0}")]
    Handshake(#[from] HandshakeError),
    #[error("broke the handshake: a message of {0} bytes")]
    Length(usize),
    #[error("no handshake within {GREET_WITHIN:?}")]
    Late,
    #[error("closed the connection")]
    Closed,
}

/// Which protocol a peer that connected speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Hypercore-protocol 8, if anything.
    Legacy,
    /// The encrypted streams of Hyperswarm 4.
    SecretStream,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Legacy => "hypercore-protocol 8",
            Kind::SecretStream => "Hyperswarm 4",
        })
    }
}

/// Tells which protocol a peer that connected speaks; takes none of its bytes.
pub(super) async fn kind_of(stream: &TcpStream) -> Result<Kind, GreetingError> {
    let mut first = [0];
    match timeout(GREET_WITHIN, stream.peek(&mut first))
        .await
        .map_err(|_| GreetingError::Late)??
    {
        0 => Err(GreetingError::Closed),
        _ if first == [FIRST_BYTE] => Ok(Kind::SecretStream),
        _ => Ok(Kind::Legacy),
    }
}

/// The handshake with a peer at the other end of a TCP connection.
pub(super) async fn greet(
    stream: &mut TcpStream,
    keys: &KeyPair,
    initiator: bool,
) -> Result<Secrets, GreetingError> {
    set_options(stream)?;
    timeout(GREET_WITHIN, shake_hands(stream, keys, initiator))
        .await
        .map_err(|_| GreetingError::Late)?
}

async fn shake_hands(
    stream: &mut TcpStream,
    keys: &KeyPair,
    initiator: bool,
) -> Result<Secrets, GreetingError> {
    let mut handshake = Handshake::between_strangers(keys, initiator)?;
    while !handshake.is_finished() {
        if handshake.is_our_turn() {
            let message = handshake.write(b"")?;
            let mut frame = BytesMut::with_capacity(LENGTH + message.len());
            frame.put_uint_le(message.len() as u64, LENGTH);
            frame.put_slice(&message);
            stream.write_all(&frame).await?;
        } else {
            let mut length = [0; LENGTH];
            stream.read_exact(&mut length).await?;
            let length = (&length[..]).get_uint_le(LENGTH) as usize;
            let mut message = [0; MAX_HANDSHAKE];
            let message = message.get_mut(..length).ok_or(GreetingError::Length(length))?;
            stream.read_exact(message).await?;
            handshake.read(message)?;
        }
    }
    Ok(handshake.finish()?)
}

/// Small messages leave at once, and what waits to leave can still be preceded by something else.
fn set_options(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    #[cfg(target_os = "linux")]
    socket2::SockRef::from(stream).set_tcp_notsent_lowat(UNSENT_BYTES)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    async fn connected() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let at = listener.local_addr().unwrap();
        let (a, b) = tokio::join!(TcpStream::connect(at), listener.accept());
        (a.unwrap(), b.unwrap().0)
    }

    fn keys(seed: u8) -> KeyPair {
        KeyPair::from_seed(&[seed; 32])
    }

    #[tokio::test]
    async fn the_first_byte_tells_the_protocol_and_is_not_taken() {
        for (first, expected) in [
            (&[32][..], Kind::SecretStream),
            (&[32, 0, 0, 1], Kind::SecretStream),
            (&[0x3a], Kind::Legacy),
            (&[0x3a, 1, 2, 3], Kind::Legacy),
            // A longer payload, so a length of two bytes.
            (&[0xa0, 1], Kind::Legacy),
            (&[0], Kind::Legacy),
        ] {
            let (mut a, mut b) = connected().await;
            a.write_all(first).await.unwrap();
            assert_eq!(kind_of(&b).await.unwrap(), expected, "{first:?}");
            let mut byte = [0];
            b.read_exact(&mut byte).await.unwrap();
            assert_eq!(byte[0], first[0]);
        }
        let (a, b) = connected().await;
        drop(a);
        assert!(matches!(kind_of(&b).await, Err(GreetingError::Closed)));
    }

    #[tokio::test]
    async fn both_sides_agree_and_know_each_other() {
        let (mut a, mut b) = connected().await;
        let (keys_a, keys_b) = (keys(1), keys(2));
        let (initiator, responder) = tokio::join!(greet(&mut a, &keys_a, true), async {
            assert_eq!(kind_of(&b).await.unwrap(), Kind::SecretStream);
            greet(&mut b, &keys_b, false).await
        });
        let (a, b) = (initiator.unwrap(), responder.unwrap());
        assert_eq!((a.transmit, a.receive, a.hash), (b.receive, b.transmit, b.hash));
        assert_eq!(a.remote, *keys_b.public_key().as_bytes());
        assert_eq!(b.remote, *keys_a.public_key().as_bytes());
        assert!(a.initiator && !b.initiator);
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_peer_times_out() {
        let (_a, mut b) = connected().await;
        assert!(matches!(kind_of(&b).await, Err(GreetingError::Late)));
        assert!(matches!(greet(&mut b, &keys(1), false).await, Err(GreetingError::Late)));
        assert!(matches!(greet(&mut b, &keys(1), true).await, Err(GreetingError::Late)));
    }

    #[tokio::test]
    async fn a_peer_of_another_protocol_is_an_error_at_once() {
        for (bytes, initiator) in [
            // The answer of hypercore-protocol 8.
            (&[0x7a, 0x55, 0x11, 1, 2, 3][..], true),
            (&[0xff, 0xff, 0xff], false),
            (&[0, 0, 0], false),
            (&[3, 0, 0, 1, 2, 3], true),
        ] {
            let (mut a, mut b) = connected().await;
            a.write_all(bytes).await.unwrap();
            let error = greet(&mut b, &keys(1), initiator).await.err().unwrap();
            let known = matches!(error, GreetingError::Length(_) | GreetingError::Handshake(_));
            assert!(known, "{error}");
        }
        let (a, mut b) = connected().await;
        drop(a);
        assert!(matches!(greet(&mut b, &keys(1), true).await, Err(GreetingError::Lost(_))));
    }
}
