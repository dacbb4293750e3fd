//! A connected datagram stream and the keys that its handshake has agreed on.
//!
//! Not here: how the stream is connected (`connect.rs`, `server.rs`), and its encryption
//! (`network/encrypted.rs`).

use std::net::SocketAddrV4;
use std::sync::Arc;

use bytes::Bytes;

use super::endpoint::Endpoint;
use super::socket_stream::{SocketStream, SocketStreamError};
use crate::secret_stream::Secrets;

/// A connection whose messages are not encrypted yet.
pub(crate) struct Connection {
    pub datagrams: Datagrams,
    pub secrets: Secrets,
    pub address: SocketAddrV4,
}

/// A connected stream. After it is dropped, written bytes are still sent for a limited time.
pub(crate) struct Datagrams {
    stream: Arc<SocketStream>,
    /// Keeps the endpoint, whose tasks drive the stream.
    _endpoint: Arc<Endpoint>,
}

impl Datagrams {
    pub(crate) fn new(endpoint: Arc<Endpoint>, stream: Arc<SocketStream>) -> Self {
        Self { stream, _endpoint: endpoint }
    }

    /// Reads the bytes that have arrived in order; adds none once the remote has ended. Cancelling it
    /// loses nothing.
    pub(crate) async fn read(&self, into: &mut Vec<Bytes>) -> Result<(), SocketStreamError> {
        self.stream.read(into).await
    }

    /// Writes what there is room for; waits until there is some.
    pub(crate) async fn write(&self, bytes: &[u8]) -> Result<usize, SocketStreamError> {
        self.stream.write(bytes).await
    }

    /// Ends the stream at once: bytes that were written and not sent are lost.
    pub(crate) fn destroy(&self) {
        self.stream.destroy();
    }

    #[cfg(test)]
    pub(crate) fn endpoint(&self) -> &Arc<Endpoint> {
        &self._endpoint
    }
}

impl Drop for Datagrams {
    fn drop(&mut self) {
        self.stream.leave();
    }
}
