//! The encrypted stream after the handshake: each message is sealed (libsodium's secretstream) and
//! sent as one frame, which begins with its length.
//!
//! Each side begins with a header that only the two parties of the handshake can produce. An empty
//! message keeps the connection alive.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use crypto_secretstream::{Header, Key, PullStream, PushStream, Tag};

use super::handshake::Secrets;
use crate::crypto::{Hash, blake2b_keyed, namespace};

/// Size of the length field of a frame, in bytes.
const FRAME: usize = 3;
/// Size of the tag byte and the checksum, in bytes.
const SEAL: usize = 17;
/// Size of the stream id and the cipher's own header, in bytes.
const HEADER: usize = 32 + Header::BYTES;
/// Longest message that a frame can hold, in bytes.
pub(crate) const LONGEST: usize = 0xff_ffff - SEAL;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum StreamError {
    #[error("the stream begins with something else")]
    Header,
    #[error("a frame of {length} bytes, of which {most} are taken")]
    TooLong { length: usize, most: usize },
    #[error("a frame is not what was sealed")]
    Forged,
}

/// Seals the messages that we send.
pub(crate) struct Sealer {
    push: PushStream,
}

/// Opens the messages that the remote sends.
pub(crate) struct Unsealer {
    /// `None` until the remote's header has arrived.
    pull: Option<PullStream>,
    receive: [u8; 32],
    expected: Hash,
    /// Longest message that is accepted, in bytes.
    longest: usize,
    input: BytesMut,
}

/// Both directions of the stream after a handshake, and the bytes to send first. A message from the
/// remote of more than `longest` bytes breaks the stream before it is received whole.
pub(crate) fn begin(secrets: &Secrets, longest: usize) -> (Sealer, Unsealer, Bytes) {
    let key = Key::from(secrets.transmit);
    let (header, push) = PushStream::init(rand_core::OsRng, &key);
    let mut begin = BytesMut::with_capacity(FRAME + HEADER);
    begin.put_uint_le(HEADER as u64, FRAME);
    begin.put_slice(&id(secrets, secrets.initiator));
    begin.put_slice(header.as_ref());
    let unsealer = Unsealer {
        pull: None,
        receive: secrets.receive,
        expected: id(secrets, !secrets.initiator),
        longest: longest.min(LONGEST),
        input: BytesMut::new(),
    };
    (Sealer { push }, unsealer, begin.freeze())
}

impl Sealer {
    /// The frame of a message; `None` if the message is longer than a frame can hold.
    #[cfg(test)]
    pub(crate) fn seal(&mut self, message: &[u8]) -> Option<Bytes> {
        let mut frame = BytesMut::new();
        self.seal_into(&mut frame, |out| out.put_slice(message)).then(|| frame.freeze())
    }

    /// Appends the frame of the message that `write` appends. Returns false and appends nothing if the
    /// message is longer than a frame can hold.
    #[must_use]
    pub(crate) fn seal_into(
        &mut self,
        out: &mut BytesMut,
        write: impl FnOnce(&mut BytesMut),
    ) -> bool {
        let start = out.len();
        out.put_bytes(0, FRAME);
        write(out);
        let from = start + FRAME;
        let length = out.len() - from;
        let fits = length <= LONGEST
            && self.push.push(&mut InPlace { bytes: out, from }, &[], Tag::Message).is_ok();
        match out.get_mut(start..from) {
            Some(mut field) if fits => field.put_uint_le((length + SEAL) as u64, FRAME),
            _ => out.truncate(start),
        }
        fits
    }
}

impl Unsealer {
    /// Adds received bytes. Call [`Unsealer::next_message`] afterwards until it returns `None`.
    pub(crate) fn receive(&mut self, bytes: &[u8]) {
        self.input.extend_from_slice(bytes);
    }

    /// Where received bytes are to be appended, as [`Unsealer::receive`] does.
    pub(crate) fn input(&mut self) -> &mut BytesMut {
        &mut self.input
    }

    /// Bytes received of messages that were not returned yet.
    pub(crate) fn pending(&self) -> usize {
        self.input.len()
    }

    /// Bytes that the next frame needs to be whole; `None` while its length is not known.
    pub(crate) fn missing(&self) -> Option<usize> {
        let mut length = self.input.get(..FRAME)?;
        let length = length.get_uint_le(FRAME) as usize;
        Some((FRAME + length).saturating_sub(self.input.len()))
    }

    /// Changes how long a message may be, in bytes.
    pub(crate) fn accept_up_to(&mut self, longest: usize) {
        self.longest = longest.min(LONGEST);
    }

    /// Returns the next message of the remote, `None` if it has not arrived whole. Empty messages
    /// are skipped.
    ///
    /// # Errors
    ///
    /// Fails if the header or a frame is not the remote's, or a frame is too long. The stream is
    /// then broken permanently.
    pub(crate) fn next_message(&mut self) -> Result<Option<Bytes>, StreamError> {
        loop {
            let Some(mut frame) = self.next_frame()? else { return Ok(None) };
            let Some(pull) = &mut self.pull else {
                self.pull = Some(self.begun(&frame)?);
                continue;
            };
            pull.pull(&mut InPlace { bytes: &mut frame, from: 0 }, &[])
                .map_err(|_| StreamError::Forged)?;
            if !frame.is_empty() {
                return Ok(Some(frame.freeze()));
            }
        }
    }

    /// Whether the remote's header has arrived, which proves that it took part in the handshake.
    pub(crate) fn has_begun(&self) -> bool {
        self.pull.is_some()
    }

    fn next_frame(&mut self) -> Result<Option<BytesMut>, StreamError> {
        let Some(mut length) = self.input.get(..FRAME) else { return Ok(None) };
        let length = length.get_uint_le(FRAME) as usize;
        let most = if self.pull.is_some() { self.longest + SEAL } else { HEADER };
        if length > most {
            return Err(StreamError::TooLong { length, most });
        }
        if self.input.len() < FRAME + length {
            return Ok(None);
        }
        self.input.advance(FRAME);
        Ok(Some(self.input.split_to(length)))
    }

    fn begun(&self, frame: &[u8]) -> Result<PullStream, StreamError> {
        let (stream_id, header) = frame.split_at_checked(32).ok_or(StreamError::Header)?;
        let header = Header::try_from(header).map_err(|_| StreamError::Header)?;
        if stream_id != self.expected {
            return Err(StreamError::Header);
        }
        Ok(PullStream::init(header, &Key::from(self.receive)))
    }
}

/// The stream id of one side.
fn id(secrets: &Secrets, initiator: bool) -> Hash {
    let namespace = namespace("hyperswarm/secret-stream", if initiator { 0 } else { 1 });
    blake2b_keyed(&secrets.hash, &[&namespace])
}

/// Lets the cipher work in place on the bytes from a position to the end.
struct InPlace<'a> {
    bytes: &'a mut BytesMut,
    from: usize,
}

impl AsRef<[u8]> for InPlace<'_> {
    fn as_ref(&self) -> &[u8] {
        self.bytes.get(self.from..).unwrap_or_default()
    }
}

impl AsMut<[u8]> for InPlace<'_> {
    fn as_mut(&mut self) -> &mut [u8] {
        self.bytes.get_mut(self.from..).unwrap_or_default()
    }
}

impl crypto_secretstream::aead::Buffer for InPlace<'_> {
    fn extend_from_slice(&mut self, bytes: &[u8]) -> crypto_secretstream::aead::Result<()> {
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    fn truncate(&mut self, length: usize) {
        self.bytes.truncate(self.from + length);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One side of a stream.
    struct Side {
        sealer: Sealer,
        unsealer: Unsealer,
    }

    fn secrets(initiator: bool, transmit: u8, receive: u8) -> Secrets {
        let (transmit, receive) = ([transmit; 32], [receive; 32]);
        Secrets { initiator, transmit, receive, hash: [7; 64], remote: [8; 32] }
    }

    fn side(secrets: &Secrets, longest: usize) -> (Side, Bytes) {
        let (sealer, unsealer, bytes) = begin(secrets, longest);
        (Side { sealer, unsealer }, bytes)
    }

    fn pair(longest: usize) -> (Side, Side) {
        let (mut a, to_b) = side(&secrets(true, 1, 2), longest);
        let (mut b, to_a) = side(&secrets(false, 2, 1), longest);
        for (side, bytes) in [(&mut a, to_a), (&mut b, to_b)] {
            assert!(!side.unsealer.has_begun());
            side.unsealer.receive(&bytes);
            assert_eq!(side.unsealer.next_message(), Ok(None));
            assert!(side.unsealer.has_begun());
        }
        (a, b)
    }

    #[test]
    fn messages_arrive_whole_however_the_bytes_are_split() {
        let (mut a, mut b) = pair(1000);
        let mut bytes = Vec::new();
        for message in [&b"first"[..], b"", &[3; 1000]] {
            bytes.extend_from_slice(&a.sealer.seal(message).unwrap());
        }
        let mut messages = Vec::new();
        for byte in bytes {
            b.unsealer.receive(&[byte]);
            messages.extend(b.unsealer.next_message().unwrap());
        }
        assert_eq!(messages, [Bytes::from_static(b"first"), Bytes::from(vec![3; 1000])]);
        assert!(b.unsealer.input.is_empty());
        a.unsealer.receive(&b.sealer.seal(b"back").unwrap());
        assert_eq!(a.unsealer.next_message(), Ok(Some(Bytes::from_static(b"back"))));
    }

    #[test]
    fn a_message_that_is_too_long_breaks_the_stream_before_it_is_received() {
        let (mut a, mut b) = pair(1000);
        b.unsealer.receive(&a.sealer.seal(&[0; 1001]).unwrap()[..FRAME]);
        let error = StreamError::TooLong { length: 1001 + SEAL, most: 1000 + SEAL };
        assert_eq!(b.unsealer.next_message(), Err(error));
        assert!(a.sealer.seal(&vec![0; LONGEST + 1]).is_none());
    }

    #[test]
    fn changed_repeated_and_missing_frames_break_the_stream() {
        for spoil in 0..4 {
            let (mut a, mut b) = pair(1000);
            let (first, second) = (a.sealer.seal(b"first").unwrap(), a.sealer.seal(b"2").unwrap());
            let mut flipped = first.to_vec();
            *flipped.last_mut().unwrap() ^= 1;
            match spoil {
                0 => b.unsealer.receive(&flipped),
                1 => b.unsealer.receive(&second),
                2 => {
                    b.unsealer.receive(&first);
                    b.unsealer.next_message().unwrap();
                    b.unsealer.receive(&first);
                }
                _ => b.unsealer.receive(&[1, 0, 0, 0]),
            }
            assert_eq!(b.unsealer.next_message(), Err(StreamError::Forged), "{spoil}");
        }
    }

    #[test]
    fn a_header_from_outside_of_the_handshake_is_refused() {
        let (_, own) = side(&secrets(true, 1, 2), 1000);
        let mut other = own.to_vec();
        other[FRAME] ^= 1;
        let short = Bytes::from_static(&[2, 0, 0, 1, 2]);
        let long = Bytes::from_static(&[HEADER as u8 + 1, 0, 0]);
        for bytes in [own, other.into(), short, long] {
            let (mut side, _) = side(&secrets(true, 1, 2), 1000);
            side.unsealer.receive(&bytes);
            assert!(side.unsealer.next_message().is_err(), "{bytes:?}");
        }
    }
}
