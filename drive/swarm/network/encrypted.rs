//! An encrypted connection to a peer: sealed messages on a datagram stream or over TCP.
//!
//! Not here: the handshake (`hyperdht/`, `greeting.rs`), and the content of messages (`channels.rs`).

use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use bytes::{Buf, Bytes, BytesMut};
use tokio::net::TcpStream;

use super::hyperdht::{Datagrams, SocketStreamError};
use crate::secret_stream::{Sealer, Secrets, StreamError, Unsealer, begin};

/// Bytes read from a TCP connection at once, of a remote that is trusted.
const READ_BYTES: usize = 256 * 1024;
/// The same, of any other remote.
const STRANGER_READ_BYTES: usize = 8 * 1024;
/// Room that is reserved at once for a long message.
const RESERVED: usize = 2 * 1024 * 1024;
/// A longer output buffer is not kept when it is empty.
const KEPT_OUTPUT: usize = 512 * 1024;

#[derive(Debug, thiserror::Error)]
pub(super) enum EncryptedError {
    #[error(transparent)]
    Datagrams(#[from] SocketStreamError),
    #[error("connection lost: {0}")]
    Tcp(#[from] io::Error),
    #[error(transparent)]
    Broken(#[from] StreamError),
    #[error("a message of {0} bytes is longer than can be sent")]
    TooLong(usize),
}

/// What carries the bytes.
pub(super) enum Carrier {
    Datagrams(Datagrams),
    Tcp(TcpStream),
}

pub(super) struct Reader {
    carrier: Arc<Carrier>,
    unsealer: Unsealer,
    pieces: Vec<Bytes>,
    read_bytes: usize,
}

pub(super) struct Writer {
    carrier: Arc<Carrier>,
    sealer: Sealer,
    output: BytesMut,
}

/// Both directions of a connection. The remote's messages may have `longest` bytes.
pub(super) fn encrypted(carrier: Carrier, secrets: &Secrets, longest: usize) -> (Reader, Writer) {
    let (sealer, unsealer, header) = begin(secrets, longest);
    let carrier = Arc::new(carrier);
    let reader = Reader {
        carrier: Arc::clone(&carrier),
        unsealer,
        pieces: Vec::new(),
        read_bytes: STRANGER_READ_BYTES,
    };
    (reader, Writer { carrier, sealer, output: BytesMut::from(header) })
}

impl Reader {
    /// Reads more bytes; false once the remote has ended. Cancelling it loses nothing.
    pub(super) async fn read(&mut self) -> Result<bool, EncryptedError> {
        match &*self.carrier {
            Carrier::Datagrams(datagrams) => {
                datagrams.read(&mut self.pieces).await?;
                let ended = self.pieces.is_empty();
                for piece in self.pieces.drain(..) {
                    self.unsealer.receive(&piece);
                }
                Ok(!ended)
            }
            Carrier::Tcp(stream) => {
                let missing = self.unsealer.missing().unwrap_or(0).min(RESERVED);
                let most = self.read_bytes;
                loop {
                    stream.readable().await?;
                    let input = self.unsealer.input();
                    input.reserve(most.max(missing));
                    match stream.try_read_buf(&mut bytes::BufMut::limit(&mut *input, most)) {
                        Ok(count) => return Ok(count > 0),
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                        Err(error) => return Err(error.into()),
                    }
                }
            }
        }
    }

    /// The next message among the bytes that were read, if it is whole.
    pub(super) fn message(&mut self) -> Result<Option<Bytes>, EncryptedError> {
        Ok(self.unsealer.next_message()?)
    }

    /// Whether the remote has proved that it is the peer of the handshake.
    pub(super) fn has_begun(&self) -> bool {
        self.unsealer.has_begun()
    }

    /// Bytes that were read and not returned as messages.
    pub(super) fn pending(&self) -> usize {
        self.unsealer.pending()
    }

    /// Takes messages of `longest` bytes from now on, and more bytes at once.
    pub(super) fn trust(&mut self, longest: usize) {
        self.unsealer.accept_up_to(longest);
        self.read_bytes = READ_BYTES;
    }
}

impl Writer {
    /// Queues the message that `write` appends to the buffer.
    ///
    /// # Errors
    /// Fails if the message is longer than a frame can hold.
    pub(super) fn queue(
        &mut self,
        write: impl FnOnce(&mut BytesMut),
    ) -> Result<(), EncryptedError> {
        let mut length = 0;
        let fits = self.sealer.seal_into(&mut self.output, |out| {
            let start = out.len();
            write(out);
            length = out.len() - start;
        });
        if fits { Ok(()) } else { Err(EncryptedError::TooLong(length)) }
    }

    /// Bytes that the transport has not taken yet.
    pub(super) fn waiting(&self) -> usize {
        self.output.len()
    }

    /// Writes queued bytes, at least one. Cancelling it loses nothing.
    pub(super) async fn write(&mut self) -> Result<(), EncryptedError> {
        let count = match &*self.carrier {
            Carrier::Datagrams(datagrams) => datagrams.write(&self.output).await?,
            Carrier::Tcp(stream) => write_tcp(stream, &self.output).await?,
        };
        self.output.advance(count);
        if self.output.is_empty() {
            // The whole capacity is to be used again, unless it is one of a very long message.
            let all = std::mem::take(&mut self.output);
            if all.capacity() <= KEPT_OUTPUT {
                self.output = all;
                self.output.clear();
            }
        }
        Ok(())
    }

    /// Writes all queued bytes. Cancelling it loses nothing.
    pub(super) async fn flush(&mut self) -> Result<(), EncryptedError> {
        while !self.output.is_empty() {
            self.write().await?;
        }
        Ok(())
    }

    /// Tells the remote that nothing follows. Datagram streams do so when they are dropped.
    pub(super) fn finish(&self) {
        if let Carrier::Tcp(stream) = &*self.carrier {
            // It fails only if the connection has ended.
            let _ = socket2::SockRef::from(stream).shutdown(std::net::Shutdown::Write);
        }
    }

    /// Ends the connection at once: queued messages are lost.
    pub(super) fn destroy(&self) {
        if let Carrier::Datagrams(datagrams) = &*self.carrier {
            datagrams.destroy();
        }
    }

    /// Our address of a TCP connection.
    pub(super) fn local_ip(&self) -> Option<IpAddr> {
        let Carrier::Tcp(stream) = &*self.carrier else { return None };
        stream.local_addr().ok().map(|address| address.ip().to_canonical())
    }
}

async fn write_tcp(stream: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
    loop {
        stream.writable().await?;
        match stream.try_write(bytes) {
            Ok(0) if !bytes.is_empty() => return Err(io::ErrorKind::WriteZero.into()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            done => return done,
        }
    }
}
