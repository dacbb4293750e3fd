//! The stream of hypercore-protocol 8 in a channel of a connection, between two hypermounts.
//!
//! A JavaScript peer expects protomux on the connection, and may have opened channels of its own: so
//! ours is one channel, named [`PROTOCOL`], without an id. Each side opens it with three numbers: the
//! version, the TCP port where it can be reached too (0: nowhere) and how many bytes it takes before it says
//! that it takes more. A message of kind 0 is a piece of the stream, one of kind 1 the number of further
//! bytes that may be sent.
//!
//! The granted bytes bound what one channel holds, so that other channels of the connection keep
//! working when no task reads from this one. A peer that sends more than was granted is disconnected.
//!
//! Not here: the connection and its other channels (`channels.rs`).

use std::num::NonZeroU16;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf};
use tokio::time::{Instant, sleep_until};

use crate::compact::{CutOff, put_uint, take_uint};
use crate::protomux::{ChannelId, Mux};

/// The channel's name.
pub(super) const PROTOCOL: &str = "hypermount/hypercore-protocol-8";
const VERSION: u64 = 1;
/// The remote must have answered by then.
const OPEN_WITHIN: Duration = Duration::from_secs(10);
/// Bytes of the stream that are granted to the remote: the memory of one connection.
pub(super) const WINDOW: usize = 1024 * 1024;
/// More is granted after this many bytes have been passed on.
const GRANT: usize = WINDOW / 4;
/// Longest piece of the stream in one message, in bytes.
pub(super) const PIECE: usize = 64 * 1024;
/// Bytes buffered between the connection and the task that uses the stream.
const BUFFER: usize = PIECE;
/// More is never taken as granted, whatever the remote says.
const MAX_GRANTED: usize = 64 * 1024 * 1024;

pub(super) const PIECE_KIND: u64 = 0;
const GRANT_KIND: u64 = 1;

/// What the remote did wrong.
#[derive(Debug, thiserror::Error)]
pub(super) enum CarriedError {
    #[error("a message ends early")]
    CutOff,
    #[error("sent {0} bytes more than were granted")]
    NotGranted(usize),
}

impl From<CutOff> for CarriedError {
    fn from(_: CutOff) -> Self {
        Self::CutOff
    }
}

/// The remote's answer to our open.
pub(super) enum Answer {
    /// The port is where the remote listens for TCP too, at the same address.
    Open { stream: DuplexStream, port: Option<NonZeroU16> },
    /// It speaks another version.
    Unknown,
}

/// What [`Carried::progress`] has done.
pub(super) enum Progress {
    /// A piece is to be sent: [`Carried::take_piece`].
    Piece,
    /// Bytes were passed on, and a grant may be among the messages.
    PassedOn,
    /// The stream was dropped on our side, or the remote has ended it and all its bytes were passed on.
    Over,
    /// The remote has not answered in time.
    Unanswered,
}

enum Stage {
    Asked { until: Instant },
    Open { reader: ReadHalf<DuplexStream>, writer: WriteHalf<DuplexStream> },
    Over,
}

/// The channel, and the bytes granted in each direction.
pub(super) struct Carried {
    /// `None` once the remote has closed it: the number may be used again.
    channel: Option<ChannelId>,
    stage: Stage,
    /// Bytes that may be sent.
    granted: usize,
    /// Bytes received that were not passed on yet.
    inbox: BytesMut,
    /// Bytes passed on that are not granted again yet.
    taken: usize,
    piece: BytesMut,
}

impl Carried {
    /// Opens the channel; `port` is where we listen for TCP. `None` if no channel is left.
    pub(super) fn open(mux: &mut Mux, port: Option<u16>) -> Option<Self> {
        let mut handshake = BytesMut::new();
        for number in [VERSION, port.unwrap_or(0).into(), WINDOW as u64] {
            put_uint(number, &mut handshake);
        }
        Some(Self {
            channel: Some(mux.open(PROTOCOL, b"", &handshake)?),
            stage: Stage::Asked { until: Instant::now() + OPEN_WITHIN },
            granted: 0,
            inbox: BytesMut::new(),
            taken: 0,
            piece: BytesMut::new(),
        })
    }

    /// The channel, unless the remote has closed it.
    pub(super) fn channel(&self) -> Option<ChannelId> {
        self.channel
    }

    pub(super) fn is_asked(&self) -> bool {
        matches!(self.stage, Stage::Asked { .. })
    }

    /// The remote has opened the channel too.
    pub(super) fn opened(&mut self, mut handshake: Bytes) -> Result<Answer, CarriedError> {
        let version = take_uint(&mut handshake)?;
        let port = take_uint(&mut handshake)?;
        let window = take_uint(&mut handshake)?;
        if version != VERSION {
            self.stage = Stage::Over;
            return Ok(Answer::Unknown);
        }
        self.granted = bounded(window);
        let (stream, ours) = tokio::io::duplex(BUFFER);
        let (reader, writer) = tokio::io::split(ours);
        self.stage = Stage::Open { reader, writer };
        Ok(Answer::Open { stream, port: u16::try_from(port).ok().and_then(NonZeroU16::new) })
    }

    /// Takes a message of the remote.
    pub(super) fn receive(&mut self, kind: u64, mut payload: Bytes) -> Result<(), CarriedError> {
        match kind {
            PIECE_KIND => {
                // Bytes that were passed on and not granted again count as taken.
                let room = WINDOW.saturating_sub(self.inbox.len() + self.taken);
                if payload.len() > room {
                    return Err(CarriedError::NotGranted(payload.len() - room));
                }
                self.inbox.extend_from_slice(&payload);
            }
            GRANT_KIND => {
                let more = take_uint(&mut payload)?;
                self.granted = bounded(more.saturating_add(self.granted as u64));
            }
            _ => {}
        }
        Ok(())
    }

    /// The remote has refused or closed the channel.
    pub(super) fn closed(&mut self) {
        self.channel = None;
        if self.is_asked() {
            self.stage = Stage::Over;
        }
    }

    /// Passes bytes on; resolves when there is something to do. No piece is read while `may_send` is false.
    /// Cancelling it loses nothing.
    pub(super) async fn progress(&mut self, may_send: bool, mux: &mut Mux) -> Progress {
        let (reader, writer) = match &mut self.stage {
            Stage::Asked { until } => {
                sleep_until(*until).await;
                self.stage = Stage::Over;
                return Progress::Unanswered;
            }
            Stage::Open { reader, writer } => (reader, writer),
            Stage::Over => std::future::pending().await,
        };
        let most = self.granted.min(PIECE);
        if self.channel.is_none() && self.inbox.is_empty() {
            self.stage = Stage::Over;
            return Progress::Over;
        }
        let may_read = may_send && most > 0 && self.channel.is_some();
        tokio::select! {
            read = read_some(reader, &mut self.piece, most), if may_read => match read {
                Ok(count) if count > 0 => {
                    self.granted = self.granted.saturating_sub(count);
                    Progress::Piece
                }
                _ => self.over(),
            },
            written = writer.write(&self.inbox), if !self.inbox.is_empty() => match written {
                Ok(count) => {
                    self.inbox.advance(count);
                    self.taken += count;
                    self.grant(mux);
                    Progress::PassedOn
                }
                Err(_) => self.over(),
            },
            else => std::future::pending().await,
        }
    }

    fn over(&mut self) -> Progress {
        self.stage = Stage::Over;
        Progress::Over
    }

    fn grant(&mut self, mux: &mut Mux) {
        let Some(channel) = self.channel.filter(|_| self.taken >= GRANT) else { return };
        let mut number = BytesMut::new();
        put_uint(self.taken as u64, &mut number);
        if mux.send(channel, GRANT_KIND, &number) {
            self.taken = 0;
        }
    }

    /// The piece that was read: `use_it` gets its bytes.
    pub(super) fn take_piece(&mut self, use_it: impl FnOnce(&[u8])) {
        use_it(&self.piece);
        self.piece.clear();
    }
}

/// Limits a grant of the remote, which may be any number.
fn bounded(granted: u64) -> usize {
    usize::try_from(granted).unwrap_or(usize::MAX).min(MAX_GRANTED)
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
    use crate::protomux::Event;

    fn handshake(window: u64) -> BytesMut {
        let mut bytes = BytesMut::new();
        for number in [VERSION, 0, window] {
            put_uint(number, &mut bytes);
        }
        bytes
    }

    /// A stream whose channel is open, its mux, and our end.
    fn opened() -> (Carried, Mux, DuplexStream) {
        let mut mux = Mux::default();
        let mut carried = Carried::open(&mut mux, None).unwrap();
        let mut theirs = Mux::default();
        theirs.open(PROTOCOL, b"", &handshake(WINDOW as u64)).unwrap();
        let mut frame = BytesMut::new();
        theirs.write_frame(&mut frame);
        mux.receive(frame.freeze()).unwrap();
        let Some(Event::Opened { handshake, .. }) = mux.next_event() else { panic!() };
        let Ok(Answer::Open { stream, port: None }) = carried.opened(handshake) else { panic!() };
        assert_eq!(carried.granted, WINDOW);
        (carried, mux, stream)
    }

    fn piece(carried: &mut Carried, length: usize) -> Result<(), CarriedError> {
        carried.receive(PIECE_KIND, Bytes::from(vec![0; length]))
    }

    #[tokio::test]
    async fn a_byte_beyond_the_grant_is_refused() {
        let (mut carried, mut mux, mut near) = opened();
        for _ in 0..WINDOW / PIECE {
            piece(&mut carried, PIECE).unwrap();
        }
        assert!(matches!(piece(&mut carried, 1), Err(CarriedError::NotGranted(1))));
        // Bytes that were passed on are room again after the next grant.
        let mut buffer = vec![0; BUFFER];
        let mut passed_on = 0;
        while passed_on < GRANT {
            let taken = carried.taken;
            assert!(matches!(carried.progress(false, &mut mux).await, Progress::PassedOn));
            let count = near.read(&mut buffer).await.unwrap();
            passed_on += count;
            if passed_on < GRANT {
                assert_eq!(carried.taken, taken + count);
                assert!(matches!(piece(&mut carried, 1), Err(CarriedError::NotGranted(1))));
            }
        }
        assert_eq!(carried.taken, 0);
        piece(&mut carried, passed_on).unwrap();
        assert!(matches!(piece(&mut carried, 1), Err(CarriedError::NotGranted(1))));
    }

    #[tokio::test]
    async fn grants_add_up_and_do_not_overflow() {
        let (mut carried, ..) = opened();
        for number in [5, 7, u64::MAX, u64::MAX] {
            let mut bytes = BytesMut::new();
            put_uint(number, &mut bytes);
            let before = carried.granted;
            carried.receive(GRANT_KIND, bytes.freeze()).unwrap();
            assert!(carried.granted >= (before + 5).min(MAX_GRANTED));
            assert!(carried.granted <= MAX_GRANTED);
        }
        let error = carried.receive(GRANT_KIND, Bytes::new());
        assert!(matches!(error, Err(CarriedError::CutOff)));
    }

    /// No more is read from our side than the remote takes.
    #[tokio::test]
    async fn no_more_is_sent_than_was_granted() {
        let (mut carried, mut mux, mut near) = opened();
        carried.granted = 10;
        near.write_all(&[1; 25]).await.unwrap();
        assert!(matches!(carried.progress(true, &mut mux).await, Progress::Piece));
        carried.take_piece(|piece| assert_eq!(piece, [1; 10]));
        let more =
            tokio::time::timeout(Duration::from_millis(20), carried.progress(true, &mut mux));
        assert!(more.await.is_err());
        carried.receive(GRANT_KIND, Bytes::from_static(&[20])).unwrap();
        assert!(matches!(carried.progress(true, &mut mux).await, Progress::Piece));
        carried.take_piece(|piece| assert_eq!(piece.len(), 15));
        drop(near);
        assert!(matches!(carried.progress(true, &mut mux).await, Progress::Over));
    }
}
