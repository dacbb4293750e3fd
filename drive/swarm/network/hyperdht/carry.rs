//! The legacy replication stream in a channel of a HyperDHT connection.
//!
//! A JavaScript peer of the same topic expects protomux on the connection, and may have opened
//! channels of its own: so ours is one channel, named [`PROTOCOL`], without an id. Each side opens it
//! with three numbers: the version, the TCP port where it can be reached too (0: nowhere) and how
//! many bytes it takes before it says that it takes more. A message of kind 0 is a piece of the
//! stream, one of kind 1 the number of further bytes that may be sent.
//!
//! The granted bytes bound what one channel holds, so that other channels of the connection keep
//! working when no task reads from this one. A peer that sends more than was granted is disconnected.

use std::num::NonZeroU16;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::time::{Instant, sleep_until, timeout};

use super::connection::{ALIVE_AFTER, Connection, ConnectionError, Reader, Writer};
use crate::compact::{CutOff, put_uint, take_uint};
use crate::protomux::{ChannelId, Event, MAX_FRAME, Mux, MuxError};

/// The channel's name.
pub(crate) const PROTOCOL: &str = "hypermount/hypercore-protocol-8";
const VERSION: u64 = 1;
/// Both sides must have opened the channel by then.
const OPEN_WITHIN: Duration = Duration::from_secs(10);
/// Bytes of the stream that are granted to the remote: the memory of one connection.
pub(crate) const WINDOW: usize = 1024 * 1024;
/// More is granted after this many bytes have been passed on.
const GRANT: usize = WINDOW / 4;
/// Longest piece of the stream in one message, in bytes.
const PIECE: usize = 64 * 1024;
/// Bytes buffered between this task and that of the connection.
const BUFFER: usize = PIECE;
/// Frames to be sent that may wait; a remote that causes more answers does not read them.
const MAX_FRAMES: usize = 4096;
/// How long the last messages may take.
const FAREWELL: Duration = Duration::from_secs(5);

const PIECE_KIND: u64 = 0;
const GRANT_KIND: u64 = 1;

/// Why a connection carries nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CarryError {
    /// A peer of the topic that does not speak our protocol.
    #[error("does not know {PROTOCOL}")]
    Foreign,
    #[error("broke the protocol: {0}")]
    Broken(#[from] MuxError),
    #[error("sent {0} bytes more than were granted")]
    NotGranted(usize),
    #[error("does not read what it is sent")]
    Deaf,
    #[error("has not shown within {} seconds that it is the peer", OPEN_WITHIN.as_secs())]
    Silent,
    #[error("ended the connection")]
    Lost,
    #[error(transparent)]
    Connection(#[from] ConnectionError),
}

impl From<CutOff> for CarryError {
    fn from(error: CutOff) -> Self {
        Self::Broken(error.into())
    }
}

/// The opened stream.
pub(crate) struct Carried {
    pub stream: DuplexStream,
    /// The port where the remote listens for TCP too, at the same address.
    pub port: Option<NonZeroU16>,
}

/// The task that carries the stream in the channel.
struct Carrier {
    reader: Reader,
    writer: Writer,
    ledger: Ledger,
}

/// The channel, and the bytes granted in each direction.
struct Ledger {
    mux: Mux,
    channel: ChannelId,
    /// Bytes that may be sent.
    granted: usize,
    /// Bytes received that were not passed on yet.
    inbox: BytesMut,
    /// Bytes passed on that are not granted again yet.
    taken: usize,
}

/// Opens the channel and carries the stream from then on, in a task of its own that ends when either
/// side does. `port` is ours.
///
/// # Errors
/// Fails if the remote does not open the channel in time; the connection is then closed.
pub(crate) async fn carry(
    connection: Connection,
    port: Option<u16>,
) -> Result<Carried, CarryError> {
    let Connection { reader, writer, address } = connection;
    let mut mux = Mux::default();
    let mut handshake = BytesMut::new();
    for number in [VERSION, port.unwrap_or(0).into(), WINDOW as u64] {
        put_uint(number, &mut handshake);
    }
    let channel = mux.open(PROTOCOL, b"", &handshake).ok_or(CarryError::Deaf)?;
    let ledger = Ledger { mux, channel, granted: 0, inbox: BytesMut::new(), taken: 0 };
    let mut carrier = Carrier { reader, writer, ledger };
    let opened = match timeout(OPEN_WITHIN, carrier.opened()).await {
        Ok(opened) => opened,
        Err(_) if carrier.reader.has_begun() => Err(CarryError::Foreign),
        Err(_) => Err(CarryError::Silent),
    };
    let port = match opened {
        Ok(port) => port,
        Err(error) => {
            // A separate task: a peer that refused us must not delay the dialler.
            tokio::spawn(carrier.end());
            return Err(error);
        }
    };
    let (stream, ours) = tokio::io::duplex(BUFFER);
    tokio::spawn(async move {
        if let Err(error) = carrier.run(ours).await {
            log::debug!("HyperDHT peer {address}: {error}");
            return carrier.writer.destroy();
        }
        carrier.ledger.mux.close(channel);
        carrier.end().await;
    });
    Ok(Carried { stream, port })
}

impl Carrier {
    /// Waits until the channel is open on both sides; returns the TCP port of the remote, if any.
    async fn opened(&mut self) -> Result<Option<NonZeroU16>, CarryError> {
        loop {
            self.send_frames().await?;
            let frame = self.reader.next().await?.ok_or(CarryError::Lost)?;
            self.ledger.mux.receive(frame)?;
            if let Some(port) = self.ledger.opened()? {
                return Ok(NonZeroU16::new(port));
            }
        }
    }

    async fn send_frames(&mut self) -> Result<(), CarryError> {
        while let Some(frame) = self.ledger.mux.next_frame() {
            self.writer.queue(&frame)?;
        }
        Ok(self.writer.flush().await?)
    }

    async fn run(&mut self, stream: DuplexStream) -> Result<(), CarryError> {
        let (mut near_reader, mut near_writer) = tokio::io::split(stream);
        let mut piece = BytesMut::new();
        let mut alive = Instant::now();
        // Messages that came together with the opening of the channel.
        self.ledger.take_events()?;
        loop {
            if self.ledger.mux.pending_frames() > MAX_FRAMES {
                return Err(CarryError::Deaf);
            }
            if self.writer.is_idle()
                && let Some(frame) = self.ledger.mux.next_frame()
            {
                self.writer.queue(&frame)?;
                alive = Instant::now();
            }
            let most = self.ledger.granted.min(PIECE);
            let Self { reader, writer, ledger: Ledger { inbox, .. } } = self;
            let idle = writer.is_idle();
            tokio::select! {
                frame = reader.next() => {
                    self.ledger.mux.receive(frame?.ok_or(CarryError::Lost)?)?;
                    self.ledger.take_events()?;
                }
                written = writer.flush(), if !idle => written?,
                read = read_some(&mut near_reader, &mut piece, most), if idle && most > 0 => {
                    match read {
                        Ok(count) if count > 0 => {
                            self.ledger.granted = self.ledger.granted.saturating_sub(count);
                            let sent = self.ledger.mux.send(self.ledger.channel, PIECE_KIND, &piece);
                            piece.clear();
                            if !sent {
                                return Ok(());
                            }
                        }
                        // The connection has ended on our side.
                        _ => return Ok(()),
                    }
                }
                written = near_writer.write(inbox), if !inbox.is_empty() => {
                    let Ok(count) = written else { return Ok(()) };
                    self.ledger.inbox.advance(count);
                    self.ledger.taken += count;
                    self.ledger.grant();
                }
                () = sleep_until(alive + ALIVE_AFTER), if idle => {
                    writer.queue(&[])?;
                    alive = Instant::now();
                }
            }
        }
    }

    /// Sends the waiting messages and ends the connection, within a time limit.
    async fn end(mut self) {
        let _ = timeout(FAREWELL, self.send_frames()).await;
    }
}

impl Ledger {
    /// The TCP port of the remote, once it has opened its side of the channel; 0 is none.
    fn opened(&mut self) -> Result<Option<u16>, CarryError> {
        while let Some(event) = self.mux.next_event() {
            match event {
                Event::Opened { mut handshake, .. } => {
                    let version = take_uint(&mut handshake)?;
                    let port = take_uint(&mut handshake)?;
                    let window = take_uint(&mut handshake)?;
                    if version != VERSION {
                        return Err(CarryError::Foreign);
                    }
                    self.granted = bounded(window);
                    return Ok(Some(u16::try_from(port).unwrap_or(0)));
                }
                Event::Closed { .. } => return Err(CarryError::Foreign),
                Event::Asked { remote, .. } => self.mux.refuse(remote),
                Event::Message { .. } => {}
            }
        }
        Ok(None)
    }

    fn grant(&mut self) {
        if self.taken < GRANT {
            return;
        }
        let mut number = BytesMut::new();
        put_uint(self.taken as u64, &mut number);
        if self.mux.send(self.channel, GRANT_KIND, &number) {
            self.taken = 0;
        }
    }

    fn take_events(&mut self) -> Result<(), CarryError> {
        while let Some(event) = self.mux.next_event() {
            match event {
                Event::Message { kind: PIECE_KIND, payload, .. } => {
                    // Bytes that were passed on and not granted again count as taken.
                    let room = WINDOW.saturating_sub(self.inbox.len() + self.taken);
                    if payload.len() > room {
                        return Err(CarryError::NotGranted(payload.len() - room));
                    }
                    self.inbox.extend_from_slice(&payload);
                }
                Event::Message { kind: GRANT_KIND, mut payload, .. } => {
                    self.granted =
                        bounded(take_uint(&mut payload)?.saturating_add(self.granted as u64));
                }
                Event::Asked { remote, .. } => self.mux.refuse(remote),
                Event::Closed { .. } => return Err(CarryError::Lost),
                Event::Message { .. } | Event::Opened { .. } => {}
            }
        }
        Ok(())
    }
}

/// Limits a grant of the remote, which may be any number; more is never sent at once.
fn bounded(granted: u64) -> usize {
    usize::try_from(granted).unwrap_or(usize::MAX).min(MAX_FRAME * 64)
}

/// Reads at most `most` bytes; cancelling it loses none.
async fn read_some(
    from: &mut (impl AsyncReadExt + Unpin),
    to: &mut BytesMut,
    most: usize,
) -> std::io::Result<usize> {
    to.reserve(most.min(PIECE));
    from.take(most as u64).read_buf(to).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn handshake(window: u64) -> BytesMut {
        let mut bytes = BytesMut::new();
        for number in [VERSION, 0, window] {
            put_uint(number, &mut bytes);
        }
        bytes
    }

    /// A ledger whose channel is open, the remote's mux, and its number of the channel.
    fn opened() -> (Ledger, Mux, ChannelId) {
        let (mut ours, mut theirs) = (Mux::default(), Mux::default());
        let channel = ours.open(PROTOCOL, b"", &handshake(WINDOW as u64)).unwrap();
        let remote = theirs.open(PROTOCOL, b"", &handshake(WINDOW as u64)).unwrap();
        theirs.receive(ours.next_frame().unwrap()).unwrap();
        let mut ledger =
            Ledger { mux: ours, channel, granted: 0, inbox: BytesMut::new(), taken: 0 };
        ledger.mux.receive(theirs.next_frame().unwrap()).unwrap();
        assert_eq!(ledger.opened().unwrap(), Some(0));
        assert_eq!(ledger.granted, WINDOW);
        (ledger, theirs, remote)
    }

    fn say(ledger: &mut Ledger, theirs: &mut Mux, channel: ChannelId, kind: u64, what: &[u8]) {
        assert!(theirs.send(channel, kind, what));
        while let Some(frame) = theirs.next_frame() {
            ledger.mux.receive(frame).unwrap();
        }
    }

    #[test]
    fn a_byte_beyond_the_grant_is_refused() {
        let (mut ledger, mut theirs, remote) = opened();
        for _ in 0..WINDOW / PIECE {
            say(&mut ledger, &mut theirs, remote, PIECE_KIND, &[0; PIECE]);
            ledger.take_events().unwrap();
        }
        say(&mut ledger, &mut theirs, remote, PIECE_KIND, &[0]);
        assert!(matches!(ledger.take_events(), Err(CarryError::NotGranted(1))));
        // Bytes that were passed on are room again after the next grant.
        ledger.inbox.advance(GRANT);
        ledger.taken = GRANT;
        say(&mut ledger, &mut theirs, remote, PIECE_KIND, &[0]);
        assert!(matches!(ledger.take_events(), Err(CarryError::NotGranted(1))));
        ledger.grant();
        say(&mut ledger, &mut theirs, remote, PIECE_KIND, &[0; GRANT]);
        ledger.take_events().unwrap();
    }

    #[test]
    fn grants_add_up_and_do_not_overflow() {
        let (mut ledger, mut theirs, remote) = opened();
        for number in [5, 7, u64::MAX, u64::MAX] {
            let mut bytes = BytesMut::new();
            put_uint(number, &mut bytes);
            say(&mut ledger, &mut theirs, remote, GRANT_KIND, &bytes);
            ledger.take_events().unwrap();
            assert!(ledger.granted >= 5 && ledger.granted <= bounded(u64::MAX));
        }
        say(&mut ledger, &mut theirs, remote, GRANT_KIND, b"");
        assert!(matches!(ledger.take_events(), Err(CarryError::Broken(MuxError::CutOff))));
    }

    /// A carrier whose channel is open, and a remote that reads nothing unless it is asked to.
    async fn carrier() -> (Carrier, Connection) {
        let (ours, theirs) = super::super::tests::pair().await;
        let (ledger, _, _) = opened();
        (Carrier { reader: ours.reader, writer: ours.writer, ledger }, theirs)
    }

    #[tokio::test]
    async fn a_remote_that_does_not_read_the_answers_it_causes_is_disconnected() {
        for (channels, left) in [(MAX_FRAMES, false), (MAX_FRAMES + 3, true)] {
            let (mut carrier, mut theirs) = carrier().await;
            let mut frame = BytesMut::from(&[0, 0, 0][..]);
            for number in 2..channels as u64 + 2 {
                let mut open = BytesMut::from(&[1][..]);
                put_uint(number, &mut open);
                open.extend_from_slice(&[1, b'x', 0]);
                crate::compact::put_buffer(&open, &mut frame);
            }
            theirs.writer.queue(&frame).unwrap();
            theirs.writer.flush().await.unwrap();
            let (_near, stream) = tokio::io::duplex(BUFFER);
            let run = carrier.run(stream);
            let ended =
                timeout(if left { OPEN_WITHIN } else { Duration::from_millis(200) }, run).await;
            assert_eq!(matches!(ended, Ok(Err(CarryError::Deaf))), left, "{channels}: {ended:?}");
        }
    }

    #[tokio::test]
    async fn a_remote_that_refuses_or_speaks_another_version_is_foreign() {
        let mut other = Mux::default();
        let mut bytes = BytesMut::new();
        for number in [VERSION + 1, 0, 9] {
            put_uint(number, &mut bytes);
        }
        other.open(PROTOCOL, b"", &bytes).unwrap();
        let refused = bytes::Bytes::from_static(&[0, 2, 1]);
        for frame in [refused, other.next_frame().unwrap()] {
            let (ours, mut theirs) = super::super::tests::pair().await;
            theirs.writer.queue(&frame).unwrap();
            theirs.writer.flush().await.unwrap();
            assert!(matches!(carry(ours, None).await, Err(CarryError::Foreign)));
        }
    }

    /// Another peer than that of the handshake has the address, or none.
    #[tokio::test(start_paused = true)]
    async fn a_silent_remote_times_out() {
        let (ours, _silent) = super::super::tests::half().await;
        assert!(matches!(carry(ours, None).await, Err(CarryError::Silent)));
    }
}
