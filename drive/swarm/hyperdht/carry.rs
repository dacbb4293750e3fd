//! The legacy replication stream in a channel of a HyperDHT connection.
//!
//! A JavaScript peer of the same topic expects protomux on the connection, and may have opened
//! channels of its own: so ours is one channel, named [`PROTOCOL`], without an id. Each side opens it
//! with three numbers: the version, the TCP port where it can be reached too (0: nowhere) and how
//! many bytes it takes before it says that it takes more. A message of kind 0 is a piece of the
//! stream, one of kind 1 the number of further bytes that may be sent.
//!
//! The granted bytes are what bounds a connection: the datagram transport below acknowledges what
//! nobody has read yet, so that not reading would only fill its queue. Whoever sends more than was
//! granted is left.

use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use peeroxide_dht::hyperdht::PeerConnection;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::compact::{CutOff, put_uint, take_uint};
use crate::protomux::{ChannelId, Event, MAX_FRAME, Mux, MuxError};

/// The channel's name.
pub const PROTOCOL: &str = "hypermount/hypercore-protocol-8";
const VERSION: u64 = 1;
/// Both sides must have opened the channel by then.
const OPEN_WITHIN: Duration = Duration::from_secs(10);
/// Bytes of the stream that we take before we grant more: memory of one connection.
pub const WINDOW: usize = 1024 * 1024;
/// More is granted when so much has been passed on.
const GRANT: usize = WINDOW / 4;
/// Longest piece of the stream that we send. Two round trips pass per piece: not too short.
const PIECE: usize = 128 * 1024;
/// Between this task and the connection's.
const BUFFER: usize = PIECE;
/// Frames to be sent that may wait; a remote that causes more answers does not read them.
const MAX_FRAMES: usize = 4096;
/// Frames between the tasks, each way.
const HANDED_OVER: usize = 4;
/// How long the last words may take.
const FAREWELL: Duration = Duration::from_secs(5);

const PIECE_KIND: u64 = 0;
const GRANT_KIND: u64 = 1;

/// Why a connection carries nothing.
#[derive(Debug, thiserror::Error)]
pub enum CarryError {
    /// A peer of the topic, but none of ours.
    #[error("does not know {PROTOCOL}")]
    Foreign,
    #[error("broke the protocol: {0}")]
    Broken(#[from] MuxError),
    #[error("sent {0} bytes more than were granted")]
    NotGranted(usize),
    #[error("does not read what it is sent")]
    Deaf,
    #[error("connection lost")]
    Lost,
}

impl From<CutOff> for CarryError {
    fn from(cut_off: CutOff) -> Self {
        MuxError::from(cut_off).into()
    }
}

/// The stream, and what the remote has said before it.
pub struct Carried {
    pub stream: DuplexStream,
    /// Where the remote listens for TCP, at the address it has.
    pub port: Option<NonZeroU16>,
}

/// The two halves of the encrypted connection, each in a task of its own: neither reading nor writing
/// a frame may be given up halfway.
struct Halves {
    frames: mpsc::Receiver<Bytes>,
    writer: mpsc::Sender<Bytes>,
    reading: JoinHandle<()>,
    writing: JoinHandle<()>,
}

impl Halves {
    fn new(connection: PeerConnection) -> Self {
        let PeerConnection { stream, socket, .. } = connection;
        let (mut reader, mut writer) = stream.into_split();
        let (received, frames) = mpsc::channel(HANDED_OVER);
        let reading = tokio::spawn(async move {
            // The socket lives as long as somebody reads.
            let _socket = socket;
            while let Ok(Some(frame)) = reader.read().await {
                if received.send(frame.into()).await.is_err() {
                    return;
                }
            }
        });
        let (sender, mut to_send) = mpsc::channel::<Bytes>(HANDED_OVER);
        let writing = tokio::spawn(async move {
            while let Some(frame) = to_send.recv().await {
                if writer.write(&frame).await.is_err() {
                    return;
                }
            }
            // Nobody waits to hear that this failed.
            let _ = writer.shutdown().await;
        });
        Self { frames, writer: sender, reading, writing }
    }

    /// Sends what waits and says goodbye, as far as the remote takes it soon.
    async fn end(mut self, mux: &mut Mux) {
        let last_words = async {
            while let Some(frame) = mux.next_frame() {
                if self.writer.send(frame).await.is_err() {
                    break;
                }
            }
            // The task shuts the connection down when nobody can send any more.
            self.writer = mpsc::channel(1).0;
            let _ = (&mut self.writing).await;
        };
        let _ = timeout(FAREWELL, last_words).await;
    }
}

impl Drop for Halves {
    fn drop(&mut self) {
        self.reading.abort();
        self.writing.abort();
    }
}

/// One connection's two streams, the carried and the carrying.
struct Carrier {
    mux: Mux,
    channel: ChannelId,
    /// Bytes that may be sent.
    granted: usize,
    /// Bytes received that were not passed on yet.
    inbox: BytesMut,
    /// Bytes passed on that we have not said yet.
    taken: usize,
}

/// Opens the channel and carries the stream from then on, in a task of its own that ends when either
/// side does. `port` is ours.
///
/// # Errors
/// When the remote does not open the channel in time; the connection is over then.
pub async fn carry(
    connection: PeerConnection,
    port: Option<u16>,
    remote: SocketAddr,
) -> Result<Carried, CarryError> {
    let mut mux = Mux::default();
    let mut handshake = BytesMut::new();
    for number in [VERSION, port.unwrap_or(0).into(), WINDOW as u64] {
        put_uint(number, &mut handshake);
    }
    let channel = mux.open(PROTOCOL, b"", &handshake).ok_or(CarryError::Lost)?;
    let mut carrier = Carrier { mux, channel, granted: 0, inbox: BytesMut::new(), taken: 0 };
    let mut halves = Halves::new(connection);
    let opened = match timeout(OPEN_WITHIN, carrier.opened(&mut halves)).await {
        Ok(opened) => opened,
        Err(_) => Err(CarryError::Foreign),
    };
    let port = match opened {
        Ok(port) => port,
        Err(error) => {
            // Its own task: who refused us need not keep the dialler waiting.
            tokio::spawn(async move { halves.end(&mut carrier.mux).await });
            return Err(error);
        }
    };
    let (stream, ours) = tokio::io::duplex(BUFFER);
    tokio::spawn(async move {
        let ended = carrier.run(ours, &mut halves).await;
        if let Err(error) = ended {
            log::debug!("HyperDHT peer {remote}: {error}");
        }
        carrier.mux.close(carrier.channel);
        halves.end(&mut carrier.mux).await;
    });
    Ok(Carried { stream, port })
}

impl Carrier {
    /// Waits until the channel is open on both sides; the port the remote has told.
    async fn opened(&mut self, halves: &mut Halves) -> Result<Option<NonZeroU16>, CarryError> {
        loop {
            self.send_frames(halves).await?;
            let frame = halves.frames.recv().await.ok_or(CarryError::Lost)?;
            self.mux.receive(frame)?;
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
                        return Ok(u16::try_from(port).ok().and_then(NonZeroU16::new));
                    }
                    Event::Closed { .. } => return Err(CarryError::Foreign),
                    Event::Asked { remote, .. } => self.mux.refuse(remote),
                    Event::Message { .. } => {}
                }
            }
        }
    }

    async fn send_frames(&mut self, halves: &Halves) -> Result<(), CarryError> {
        while let Some(frame) = self.mux.next_frame() {
            halves.writer.send(frame).await.map_err(|_| CarryError::Lost)?;
        }
        Ok(())
    }

    async fn run(&mut self, stream: DuplexStream, halves: &mut Halves) -> Result<(), CarryError> {
        let (mut near_reader, mut near_writer) = tokio::io::split(stream);
        let mut piece = BytesMut::new();
        // Said together with the channel's opening.
        self.take_events()?;
        loop {
            if self.mux.pending_frames() > MAX_FRAMES {
                return Err(CarryError::Deaf);
            }
            let most = self.granted.min(PIECE);
            let idle = !self.mux.has_frames();
            tokio::select! {
                frame = halves.frames.recv() => {
                    self.mux.receive(frame.ok_or(CarryError::Lost)?)?;
                    self.take_events()?;
                }
                place = halves.writer.reserve(), if !idle => {
                    let place = place.map_err(|_| CarryError::Lost)?;
                    if let Some(frame) = self.mux.next_frame() {
                        place.send(frame);
                    }
                }
                read = read_some(&mut near_reader, &mut piece, most), if idle && most > 0 => {
                    match read {
                        Ok(count) if count > 0 => {
                            self.granted = self.granted.saturating_sub(count);
                            let sent = self.mux.send(self.channel, PIECE_KIND, &piece);
                            piece.clear();
                            if !sent {
                                return Ok(());
                            }
                        }
                        // The connection has ended on our side.
                        _ => return Ok(()),
                    }
                }
                written = near_writer.write(&self.inbox), if !self.inbox.is_empty() => {
                    let Ok(count) = written else { return Ok(()) };
                    self.inbox.advance(count);
                    self.taken += count;
                    self.grant();
                }
            }
        }
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
                    // What is granted, passed on and not yet said counts as taken.
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

/// What a remote grants is its own affair; more than this is never sent at once anyway.
fn bounded(granted: u64) -> usize {
    usize::try_from(granted).unwrap_or(usize::MAX).min(MAX_FRAME * 64)
}

/// Reads at most `most` bytes; giving it up loses nothing.
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

    /// A carrier whose channel is open, the remote's mux, and its number of the channel.
    fn opened() -> (Carrier, Mux, ChannelId) {
        let (mut ours, mut theirs) = (Mux::default(), Mux::default());
        let channel = ours.open(PROTOCOL, b"", &handshake(WINDOW as u64)).unwrap();
        let remote = theirs.open(PROTOCOL, b"", &handshake(WINDOW as u64)).unwrap();
        theirs.receive(ours.next_frame().unwrap()).unwrap();
        ours.receive(theirs.next_frame().unwrap()).unwrap();
        assert!(matches!(ours.next_event(), Some(Event::Opened { .. })));
        let inbox = BytesMut::new();
        (Carrier { mux: ours, channel, granted: 0, inbox, taken: 0 }, theirs, remote)
    }

    fn say(carrier: &mut Carrier, theirs: &mut Mux, channel: ChannelId, kind: u64, what: &[u8]) {
        assert!(theirs.send(channel, kind, what));
        while let Some(frame) = theirs.next_frame() {
            carrier.mux.receive(frame).unwrap();
        }
    }

    #[tokio::test]
    async fn as_much_is_taken_as_was_granted_and_not_a_byte_more() {
        let (mut carrier, mut theirs, remote) = opened();
        for _ in 0..WINDOW / PIECE {
            say(&mut carrier, &mut theirs, remote, PIECE_KIND, &[0; PIECE]);
            carrier.take_events().unwrap();
        }
        say(&mut carrier, &mut theirs, remote, PIECE_KIND, &[0]);
        assert!(matches!(carrier.take_events(), Err(CarryError::NotGranted(1))));
        // What was passed on is room again once that is said.
        carrier.inbox.advance(GRANT);
        carrier.taken = GRANT;
        say(&mut carrier, &mut theirs, remote, PIECE_KIND, &[0]);
        assert!(matches!(carrier.take_events(), Err(CarryError::NotGranted(1))));
        carrier.grant();
        say(&mut carrier, &mut theirs, remote, PIECE_KIND, &[0; GRANT]);
        carrier.take_events().unwrap();
    }

    #[tokio::test]
    async fn grants_add_up_and_do_not_overflow() {
        let (mut carrier, mut theirs, remote) = opened();
        for number in [5, 7, u64::MAX, u64::MAX] {
            let mut bytes = BytesMut::new();
            put_uint(number, &mut bytes);
            say(&mut carrier, &mut theirs, remote, GRANT_KIND, &bytes);
            carrier.take_events().unwrap();
            assert!(carrier.granted >= 5 && carrier.granted <= bounded(u64::MAX));
        }
        say(&mut carrier, &mut theirs, remote, GRANT_KIND, b"");
        assert!(matches!(carrier.take_events(), Err(CarryError::Broken(MuxError::CutOff))));
    }

    /// Nobody takes what the carrier writes.
    fn deaf() -> (Halves, mpsc::Sender<Bytes>, mpsc::Receiver<Bytes>) {
        let (sender, frames) = mpsc::channel(HANDED_OVER);
        let (writer, unread) = mpsc::channel(1);
        let (reading, writing) = (tokio::spawn(async {}), tokio::spawn(async {}));
        (Halves { frames, writer, reading, writing }, sender, unread)
    }

    #[tokio::test]
    async fn who_causes_answers_and_does_not_read_them_is_left() {
        for (channels, left) in [(MAX_FRAMES, false), (MAX_FRAMES + 3, true)] {
            let (mut carrier, _theirs, _) = opened();
            let (mut halves, sender, _unread) = deaf();
            let mut frame = BytesMut::from(&[0, 0, 0][..]);
            for number in 2..channels as u64 + 2 {
                let mut open = BytesMut::from(&[1][..]);
                put_uint(number, &mut open);
                open.extend_from_slice(&[1, b'x', 0]);
                crate::compact::put_buffer(&open, &mut frame);
            }
            sender.send(frame.freeze()).await.unwrap();
            let (_near, stream) = tokio::io::duplex(BUFFER);
            let run = carrier.run(stream, &mut halves);
            let ended =
                timeout(if left { OPEN_WITHIN } else { Duration::from_millis(200) }, run).await;
            assert_eq!(matches!(ended, Ok(Err(CarryError::Deaf))), left, "{channels}: {ended:?}");
        }
    }

    #[tokio::test]
    async fn a_remote_that_refuses_or_speaks_another_version_is_foreign() {
        let refused = Bytes::from_static(&[0, 2, 1]);
        let mut other = Mux::default();
        let mut bytes = BytesMut::new();
        for number in [VERSION + 1, 0, 9] {
            put_uint(number, &mut bytes);
        }
        other.open(PROTOCOL, b"", &bytes).unwrap();
        for frame in [refused, other.next_frame().unwrap()] {
            let mut mux = Mux::default();
            let channel = mux.open(PROTOCOL, b"", b"").unwrap();
            let mut carrier =
                Carrier { mux, channel, granted: 0, inbox: BytesMut::new(), taken: 0 };
            let (mut halves, sender, _unread) = deaf();
            sender.send(frame).await.unwrap();
            assert!(matches!(carrier.opened(&mut halves).await, Err(CarryError::Foreign)));
        }
    }
}
