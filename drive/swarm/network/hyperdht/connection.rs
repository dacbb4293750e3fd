//! An encrypted connection to a peer: messages on a datagram stream.
//!
//! Not here: how the stream is connected (`connect.rs`, `server.rs`), and the content of messages.

use std::collections::VecDeque;
use std::net::SocketAddrV4;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes};

use super::endpoint::Endpoint;
use super::socket_stream::{SocketStream, SocketStreamError};
use crate::secret_stream::{Sealer, Secrets, StreamError, Unsealer, begin};

/// An empty message is sent after this time without another one: routers forget idle streams, and a
/// remote that is gone is detected only by missing acknowledgements.
pub(crate) const ALIVE_AFTER: Duration = Duration::from_secs(5);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ConnectionError {
    #[error(transparent)]
    Lost(#[from] SocketStreamError),
    #[error(transparent)]
    Broken(#[from] StreamError),
    #[error("a message of {0} bytes is longer than can be sent")]
    TooLong(usize),
}

/// An encrypted connection. After it is dropped, written bytes are still sent for a limited time.
pub(crate) struct Connection {
    pub reader: Reader,
    pub writer: Writer,
    pub address: SocketAddrV4,
}

pub(crate) struct Reader {
    stream: Arc<SocketStream>,
    unsealer: Unsealer,
    pieces: Vec<Bytes>,
}

pub(crate) struct Writer {
    stream: Arc<SocketStream>,
    sealer: Sealer,
    waiting: VecDeque<Bytes>,
    /// Keeps the endpoint, whose tasks drive the stream.
    _endpoint: Arc<Endpoint>,
}

impl Connection {
    /// A connection on a connected stream. Messages of the remote may have `longest` bytes.
    pub(crate) fn new(
        endpoint: Arc<Endpoint>,
        stream: Arc<SocketStream>,
        secrets: &Secrets,
        address: SocketAddrV4,
        longest: usize,
    ) -> Self {
        let (sealer, unsealer, header) = begin(secrets, longest);
        let reader = Reader { stream: Arc::clone(&stream), unsealer, pieces: Vec::new() };
        let waiting = VecDeque::from([header]);
        let writer = Writer { stream, sealer, waiting, _endpoint: endpoint };
        Self { reader, writer, address }
    }
}

impl Reader {
    /// The next message; `None` once the remote has ended. Cancelling it loses nothing.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, ConnectionError> {
        loop {
            if let Some(message) = self.unsealer.next_message()? {
                return Ok(Some(message));
            }
            self.stream.read(&mut self.pieces).await?;
            if self.pieces.is_empty() {
                return Ok(None);
            }
            for piece in self.pieces.drain(..) {
                self.unsealer.receive(&piece);
            }
        }
    }

    /// Whether the remote has proved that it is the peer of the handshake.
    pub(crate) fn has_begun(&self) -> bool {
        self.unsealer.has_begun()
    }
}

impl Writer {
    /// Queues a message.
    ///
    /// # Errors
    /// Fails if the message is longer than a frame can hold.
    pub(crate) fn queue(&mut self, message: &[u8]) -> Result<(), ConnectionError> {
        let sealed = self.sealer.seal(message).ok_or(ConnectionError::TooLong(message.len()))?;
        self.waiting.push_back(sealed);
        Ok(())
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Ends the connection at once: queued messages are lost.
    pub(crate) fn destroy(&self) {
        self.stream.destroy();
    }

    /// Bytes that the stream has not taken yet.
    #[cfg(test)]
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.iter().map(Bytes::len).sum()
    }

    #[cfg(test)]
    pub(crate) fn endpoint(&self) -> &Arc<Endpoint> {
        &self._endpoint
    }

    /// Writes the queued messages. Cancelling it loses nothing.
    pub(crate) async fn flush(&mut self) -> Result<(), ConnectionError> {
        while let Some(first) = self.waiting.front_mut() {
            let count = self.stream.write(first).await?;
            first.advance(count);
            if first.is_empty() {
                self.waiting.pop_front();
            }
        }
        Ok(())
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.stream.leave();
    }
}
