//! A connection of Hyperswarm 4 for the layer above: several channels on an encrypted connection, over
//! HyperDHT or TCP, and the stream of hypercore-protocol 8 in one of them.
//!
//! No task of its own runs a connection: it moves while a caller awaits [`Channels::next`]. What the remote
//! makes us hold is bounded, less before [`Channels::trust`] than after it.
//!
//! Not here: which channels are opened and what they carry, and limits on rates.

use std::net::IpAddr;
use std::num::NonZeroU16;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::DuplexStream;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use super::carried::{self, Answer, Carried, CarriedError, Progress};
use super::encrypted::{Carrier, EncryptedError, Reader, Writer, encrypted};
use crate::protomux::{Event, MAX_FRAME, MAX_STRANGER_FRAME, Mux, MuxError};
use crate::secret_stream::Secrets;

pub use crate::protomux::{ChannelId, RemoteId};

/// An empty message is sent after this time without another one: routers forget idle streams, and a
/// remote that is gone is detected only by missing acknowledgements.
const ALIVE_AFTER: Duration = Duration::from_secs(5);
/// The remote must have proved its key by then.
const BEGIN_WITHIN: Duration = Duration::from_secs(10);
/// A remote must take at least some of what is sent to it within this time.
pub(super) const WRITE_WITHIN: Duration = Duration::from_secs(60);
/// How long the last messages may take.
const FAREWELL: Duration = Duration::from_secs(5);
/// How long the remote may take to end the connection, once we have.
const DRAIN: Duration = Duration::from_secs(1);
/// Messages are sealed while less than this many bytes wait for the transport.
const SEALED_BYTES: usize = 256 * 1024;
/// Answers to opens and closes that may wait; a remote that causes more does not read them.
const MAX_ANSWERS: usize = 4096;
/// [`ChannelEvent::Drained`] follows when so much waited to be sent ...
pub(super) const MUCH_OUTPUT: usize = 64 * 1024;
/// ... and less than this is left of it.
pub(super) const LITTLE_OUTPUT: usize = 32 * 1024;

/// What happened on a connection.
#[derive(Debug)]
pub enum ChannelEvent {
    /// The remote asks for a channel that we have not opened: [`Channels::open`] the same, or
    /// [`Channels::refuse`] it.
    Asked {
        /// Names the request.
        remote: RemoteId,
        /// The protocol of the channel.
        protocol: String,
        /// Tells channels of one protocol apart; at most 256 bytes.
        id: Bytes,
    },
    /// A channel is open on both sides.
    Opened {
        /// Our number of it.
        channel: ChannelId,
        /// What the remote says first; at most 1 KiB.
        handshake: Bytes,
    },
    /// A message of the remote on an open channel.
    Message {
        /// Our number of the channel.
        channel: ChannelId,
        /// The type number of the message in the channel's protocol.
        kind: u64,
        /// A part of the received frame, which stays in memory as long as this does.
        payload: Bytes,
    },
    /// The remote has refused or closed a channel of ours.
    Closed {
        /// The channel; its number may be used again.
        channel: ChannelId,
    },
    /// The byte stream of hypercore-protocol 8 is open on both sides, between two hypermounts. It moves while
    /// [`Channels::next`] is awaited; dropping it closes its channel.
    Carried {
        /// Our end of it.
        stream: DuplexStream,
    },
    /// The remote does not know that byte stream: it is another implementation.
    NotCarried,
    /// 64 KiB or more waited to be sent, and less than 32 KiB is left of it.
    Drained,
}

/// Why a connection is over.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChannelsError {
    /// The remote has closed the connection.
    #[error("closed the connection")]
    Ended,
    /// The transport failed.
    #[error("connection lost: {0}")]
    Lost(String),
    /// The remote sent something that the protocol does not allow.
    #[error("broke the protocol: {0}")]
    Broken(String),
    /// The remote causes answers and does not read them, or took nothing for a minute.
    #[error("does not read what it is sent")]
    Deaf,
    /// The remote of the handshake may be another one: it has not shown that it holds its key.
    #[error("has not shown within {} seconds that it is the peer", BEGIN_WITHIN.as_secs())]
    Silent,
}

impl From<EncryptedError> for ChannelsError {
    fn from(error: EncryptedError) -> Self {
        match error {
            EncryptedError::Datagrams(_) | EncryptedError::Tcp(_) => Self::Lost(error.to_string()),
            EncryptedError::Broken(_) | EncryptedError::TooLong(_) => {
                Self::Broken(error.to_string())
            }
        }
    }
}

impl From<MuxError> for ChannelsError {
    fn from(error: MuxError) -> Self {
        Self::Broken(error.to_string())
    }
}

impl From<CarriedError> for ChannelsError {
    fn from(error: CarriedError) -> Self {
        Self::Broken(error.to_string())
    }
}

/// What a remote has said about the stream of hypercore-protocol 8.
pub(super) enum Told {
    /// It knows it, and listens for TCP at this port too.
    Port(Option<NonZeroU16>),
    /// It does not know it.
    NotCarried,
}

/// Gets the remote's answer once.
pub(super) type Listener = Box<dyn FnOnce(Told) + Send + Sync>;

/// An encrypted connection with channels. Dropping it ends the connection; queued messages are lost.
pub struct Channels {
    reader: Reader,
    writer: Writer,
    mux: Mux,
    carried: Option<Carried>,
    listener: Option<Listener>,
    initiator: bool,
    hash: [u8; 64],
    remote: [u8; 32],
    /// How many of the last bytes that wait in the writer are a piece of the carried stream.
    piece_waiting: usize,
    /// [`MUCH_OUTPUT`] has waited since [`ChannelEvent::Drained`].
    full: bool,
    /// When a message was sent last.
    last_sent: Instant,
    /// When the transport took something last, or had nothing to take.
    last_taken: Instant,
}

impl Channels {
    /// Channels on a connection whose handshake is over. `port` is where we listen for TCP; `listener` is told
    /// what the remote says of itself.
    pub(super) fn new(
        carrier: Carrier,
        secrets: &Secrets,
        port: Option<u16>,
        listener: Listener,
    ) -> Self {
        let (reader, writer) = encrypted(carrier, secrets, MAX_STRANGER_FRAME);
        let mut mux = Mux::default();
        let carried = Carried::open(&mut mux, port);
        let now = Instant::now();
        Self {
            reader,
            writer,
            mux,
            carried,
            listener: Some(listener),
            initiator: secrets.initiator,
            hash: secrets.hash,
            remote: secrets.remote,
            piece_waiting: 0,
            full: false,
            last_sent: now,
            last_taken: now,
        }
    }

    /// Waits until the remote has proved its key.
    pub(super) async fn begun(&mut self) -> Result<(), ChannelsError> {
        let deadline = Instant::now() + BEGIN_WITHIN;
        timeout_at(deadline, self.begin()).await.unwrap_or(Err(ChannelsError::Silent))
    }

    async fn begin(&mut self) -> Result<(), ChannelsError> {
        loop {
            if let Some(message) = self.reader.message()? {
                self.mux.receive(message)?;
            }
            self.fill()?;
            let Self { reader, writer, .. } = self;
            let (begun, idle) = (reader.has_begun(), writer.waiting() == 0);
            if begun && idle {
                return Ok(());
            }
            tokio::select! {
                read = reader.read(), if !begun => if !read? { return Err(ChannelsError::Ended) },
                written = writer.write(), if !idle => written?,
            }
        }
    }

    /// The hash of the Noise handshake, to which proofs of this connection are bound.
    pub fn handshake_hash(&self) -> &[u8; 64] {
        &self.hash
    }

    /// Whether we began the Noise handshake.
    pub fn is_initiator(&self) -> bool {
        self.initiator
    }

    /// The Ed25519 key that the remote has proved.
    pub fn remote_key(&self) -> [u8; 32] {
        self.remote
    }

    /// Opens a channel, or answers [`ChannelEvent::Asked`]; nothing can be sent on it before
    /// [`ChannelEvent::Opened`]. `None` when 1024 are open.
    pub fn open(&mut self, protocol: &str, id: &[u8], handshake: &[u8]) -> Option<ChannelId> {
        self.mux.open(protocol, id, handshake)
    }

    /// Refuses a channel that the remote asks for.
    pub fn refuse(&mut self, remote: RemoteId) {
        self.mux.refuse(remote);
    }

    /// Closes a channel, whatever its state; no event follows.
    pub fn close(&mut self, channel: ChannelId) {
        self.mux.close(channel);
    }

    /// Queues a message. Returns false and queues nothing if the channel is not open on both sides or the
    /// message is longer than 8 MiB and 64 KiB.
    #[must_use]
    pub fn send(&mut self, channel: ChannelId, kind: u64, payload: &[u8]) -> bool {
        let sent = self.mux.send(channel, kind, payload);
        self.full |= self.pending_output() >= MUCH_OUTPUT;
        sent
    }

    /// Bytes queued and not yet taken by the transport, without those of the carried stream.
    pub fn pending_output(&self) -> usize {
        self.mux.pending_output() + self.writer.waiting().saturating_sub(self.piece_waiting)
    }

    /// Bytes held of messages that were received in part.
    pub fn half_received(&self) -> usize {
        self.reader.pending()
    }

    /// The remote has shown that it knows a key of ours: from now on it may send messages of 16 MiB instead
    /// of 1 MiB, and more bytes on channels that are not open yet.
    pub fn trust(&mut self) {
        self.reader.trust(MAX_FRAME);
        self.mux.trust();
    }

    /// Our address of a TCP connection.
    pub(super) fn local_ip(&self) -> Option<IpAddr> {
        self.writer.local_ip()
    }

    /// The next event. Until there is one, it reads, writes, keeps the connection alive and carries the byte
    /// stream; with `reading` false it does not read. Cancelling it loses nothing.
    ///
    /// # Errors
    /// The connection is over: `Ended` if the remote has closed it.
    pub async fn next(&mut self, reading: bool) -> Result<ChannelEvent, ChannelsError> {
        let event = self.advance(reading).await;
        if event.as_ref().is_err_and(|error| *error != ChannelsError::Ended) {
            self.writer.destroy();
        }
        event
    }

    async fn advance(&mut self, reading: bool) -> Result<ChannelEvent, ChannelsError> {
        loop {
            if let Some(event) = self.ready_event()? {
                return Ok(event);
            }
            if self.mux.pending_control() > MAX_ANSWERS {
                return Err(ChannelsError::Deaf);
            }
            if reading && let Some(message) = self.reader.message()? {
                self.mux.receive(message)?;
                continue;
            }
            self.fill()?;
            let idle = self.writer.waiting() == 0;
            if idle {
                self.piece_waiting = 0;
                self.last_taken = Instant::now();
            }
            let due =
                if idle { self.last_sent + ALIVE_AFTER } else { self.last_taken + WRITE_WITHIN };
            let may_send = self.piece_waiting == 0;
            let Self { reader, writer, mux, carried, .. } = self;
            let progress = async {
                match carried {
                    Some(carried) => carried.progress(may_send, mux).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                read = reader.read(), if reading => if !read? {
                    return Err(ChannelsError::Ended);
                },
                written = writer.write(), if !idle => {
                    written?;
                    self.last_taken = Instant::now();
                }
                progress = progress => if let Some(event) = self.carried_on(progress)? {
                    return Ok(event);
                },
                () = sleep_until(due) => self.waited(idle).await?,
            }
        }
    }

    /// Seals messages while few bytes wait.
    fn fill(&mut self) -> Result<(), ChannelsError> {
        // What follows a piece of the carried stream would be counted as a part of it.
        if self.piece_waiting > 0 && self.writer.waiting() > 0 {
            return Ok(());
        }
        while self.mux.has_output() && self.writer.waiting() < SEALED_BYTES {
            let mux = &mut self.mux;
            self.writer.queue(|out| {
                mux.write_frame(out);
            })?;
            self.last_sent = Instant::now();
        }
        Ok(())
    }

    /// An event that is known without waiting.
    fn ready_event(&mut self) -> Result<Option<ChannelEvent>, ChannelsError> {
        if self.full && self.pending_output() < LITTLE_OUTPUT {
            self.full = false;
            return Ok(Some(ChannelEvent::Drained));
        }
        while let Some(event) = self.mux.next_event() {
            let carried = self.carried.as_mut();
            let event = match event {
                Event::Asked { remote, protocol, .. } if protocol == carried::PROTOCOL => {
                    self.mux.refuse(remote);
                    continue;
                }
                Event::Asked { remote, protocol, id } => {
                    ChannelEvent::Asked { remote, protocol, id }
                }
                Event::Opened { channel, handshake } => match carried {
                    Some(carried) if carried.channel() == Some(channel) => {
                        let answer = carried.opened(handshake)?;
                        self.answered(answer)
                    }
                    _ => ChannelEvent::Opened { channel, handshake },
                },
                Event::Message { channel, kind, payload } => match carried {
                    Some(carried) if carried.channel() == Some(channel) => {
                        carried.receive(kind, payload)?;
                        continue;
                    }
                    _ => ChannelEvent::Message { channel, kind, payload },
                },
                Event::Closed { channel } => match carried {
                    Some(carried) if carried.channel() == Some(channel) => {
                        let refused = carried.is_asked();
                        carried.closed();
                        if !refused {
                            continue;
                        }
                        self.not_carried()
                    }
                    _ => ChannelEvent::Closed { channel },
                },
            };
            return Ok(Some(event));
        }
        Ok(None)
    }

    fn answered(&mut self, answer: Answer) -> ChannelEvent {
        match answer {
            Answer::Open { stream, port } => {
                if let Some(listener) = self.listener.take() {
                    listener(Told::Port(port));
                }
                ChannelEvent::Carried { stream }
            }
            Answer::Unknown => {
                self.close_carried();
                self.not_carried()
            }
        }
    }

    fn not_carried(&mut self) -> ChannelEvent {
        self.carried = None;
        if let Some(listener) = self.listener.take() {
            listener(Told::NotCarried);
        }
        ChannelEvent::NotCarried
    }

    fn close_carried(&mut self) {
        if let Some(channel) = self.carried.take().and_then(|carried| carried.channel()) {
            self.mux.close(channel);
        }
    }

    /// Handles what became of the carried stream.
    fn carried_on(&mut self, progress: Progress) -> Result<Option<ChannelEvent>, ChannelsError> {
        match progress {
            Progress::PassedOn => {}
            Progress::Over => self.close_carried(),
            Progress::Unanswered => {
                self.close_carried();
                return Ok(Some(self.not_carried()));
            }
            Progress::Piece => {
                let Self { writer, mux, carried: Some(carried), .. } = self else {
                    return Ok(None);
                };
                let Some(channel) = carried.channel() else { return Ok(None) };
                let before = writer.waiting();
                let mut queued = Ok(());
                carried.take_piece(|piece| {
                    queued = writer.queue(|out| {
                        // If the channel was closed meanwhile, an empty message is sent.
                        let _ = mux.write_message(channel, carried::PIECE_KIND, piece, out);
                    });
                });
                queued?;
                self.piece_waiting = writer.waiting() - before;
                self.last_sent = Instant::now();
            }
        }
        Ok(None)
    }

    /// Nothing was sent, or taken, for a while.
    async fn waited(&mut self, idle: bool) -> Result<(), ChannelsError> {
        if idle {
            self.writer.queue(|_| {})?;
            self.last_sent = Instant::now();
            return Ok(());
        }
        // The time may be that in which no caller awaited the connection.
        tokio::select! {
            biased;
            written = self.writer.write() => written?,
            () = std::future::ready(()) => return Err(ChannelsError::Deaf),
        }
        self.last_taken = Instant::now();
        Ok(())
    }

    /// Sends what is queued and ends the connection, within six seconds.
    pub async fn end(mut self) {
        let _ = timeout(FAREWELL, self.flush()).await;
        self.writer.finish();
        let _ = timeout(DRAIN, self.drain()).await;
    }

    /// Reads to the end of what the remote has sent. A TCP socket that is closed before that resets the connection,
    /// and a remote that sees the error may not look at the last messages.
    async fn drain(&mut self) -> Result<(), ChannelsError> {
        while self.reader.message()?.is_some() || self.reader.read().await? {}
        Ok(())
    }

    async fn flush(&mut self) -> Result<(), ChannelsError> {
        self.close_carried();
        self.piece_waiting = 0;
        loop {
            self.fill()?;
            if self.writer.waiting() == 0 {
                return Ok(());
            }
            self.writer.flush().await?;
        }
    }
}
