//! Messages sealed one after the other (libsodium's secretstream), each behind its length.
//!
//! Either side begins with a header that only who took part in the handshake can write. A message
//! is one frame; an empty one keeps the connection alive.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use crypto_secretstream::{Header, Key, PullStream, PushStream, Tag};

use super::handshake::Secrets;
use super::namespace;
use crate::crypto::{Hash, blake2b_keyed};

/// Bytes that sealing and framing add to a message at most.
pub const MAX_OVERHEAD: usize = FRAME + SEAL;
/// The length in front of a frame.
const FRAME: usize = 3;
/// A tag byte and a checksum.
const SEAL: usize = 17;
/// Who is meant, and the cipher's own header.
const HEADER: usize = 32 + Header::BYTES;
/// Longest message that a frame can hold.
const LONGEST: usize = 0xff_ffff - SEAL;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StreamError {
    #[error("the stream begins with something else")]
    Header,
    #[error("a frame of {length} bytes, of which {most} are taken")]
    TooLong { length: usize, most: usize },
    #[error("a frame is not what was sealed")]
    Forged,
}

/// Both directions of one stream.
pub struct SecretStream {
    push: PushStream,
    /// `None` until the remote's header is there.
    pull: Option<PullStream>,
    receive: [u8; 32],
    expected: Hash,
    /// Of what the remote sends, the longest message that is taken.
    longest: usize,
    input: BytesMut,
}

impl SecretStream {
    /// The stream after a handshake, and what has to be sent before anything else. Messages of more
    /// than `longest` bytes end it before they are received whole.
    pub fn new(secrets: &Secrets, longest: usize) -> (Self, Bytes) {
        let key = Key::from(secrets.transmit);
        let (header, push) = PushStream::init(rand_core::OsRng, &key);
        let mut begin = BytesMut::with_capacity(FRAME + HEADER);
        begin.put_uint_le(HEADER as u64, FRAME);
        begin.put_slice(&id(secrets, secrets.initiator));
        begin.put_slice(header.as_ref());
        let stream = Self {
            push,
            pull: None,
            receive: secrets.receive,
            expected: id(secrets, !secrets.initiator),
            longest: longest.min(LONGEST),
            input: BytesMut::new(),
        };
        (stream, begin.freeze())
    }

    /// A message as it is sent. `None` if it is too long to be.
    pub fn seal(&mut self, message: &[u8]) -> Option<Bytes> {
        if message.len() > LONGEST {
            return None;
        }
        let mut sealed = Vec::with_capacity(message.len() + SEAL);
        sealed.extend_from_slice(message);
        self.push.push(&mut sealed, &[], Tag::Message).ok()?;
        let mut frame = BytesMut::with_capacity(FRAME + sealed.len());
        frame.put_uint_le(sealed.len() as u64, FRAME);
        frame.put_slice(&sealed);
        Some(frame.freeze())
    }

    /// Bytes that came, to be followed by [`SecretStream::next`] until it has nothing more.
    pub fn receive(&mut self, bytes: &[u8]) {
        self.input.extend_from_slice(bytes);
    }

    /// The next message of the remote; empty ones are passed over.
    ///
    /// # Errors
    /// When the stream is broken for good.
    pub fn next(&mut self) -> Result<Option<Bytes>, StreamError> {
        loop {
            let Some(mut frame) = self.next_frame()? else { return Ok(None) };
            let Some(pull) = &mut self.pull else {
                self.pull = Some(self.begun(&frame)?);
                continue;
            };
            let mut buffer = Unsealing(&mut frame);
            pull.pull(&mut buffer, &[]).map_err(|_| StreamError::Forged)?;
            if !frame.is_empty() {
                return Ok(Some(frame.freeze()));
            }
        }
    }

    /// Whether the remote has shown that it took part in the handshake.
    pub fn has_begun(&self) -> bool {
        self.pull.is_some()
    }

    /// What is here of frames that are not whole.
    pub fn half_received(&self) -> usize {
        self.input.len()
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
        let (who, header) = frame.split_at_checked(32).ok_or(StreamError::Header)?;
        let header = Header::try_from(header).map_err(|_| StreamError::Header)?;
        if who != self.expected {
            return Err(StreamError::Header);
        }
        Ok(PullStream::init(header, &Key::from(self.receive)))
    }
}

/// What begins the stream of one side.
fn id(secrets: &Secrets, initiator: bool) -> Hash {
    let namespace = namespace("hyperswarm/secret-stream", if initiator { 0 } else { 1 });
    blake2b_keyed(&secrets.hash, &[&namespace])
}

/// Lets the cipher unseal a frame where it lies.
struct Unsealing<'a>(&'a mut BytesMut);

impl AsRef<[u8]> for Unsealing<'_> {
    fn as_ref(&self) -> &[u8] {
        self.0
    }
}

impl AsMut<[u8]> for Unsealing<'_> {
    fn as_mut(&mut self) -> &mut [u8] {
        self.0
    }
}

impl crypto_secretstream::aead::Buffer for Unsealing<'_> {
    fn extend_from_slice(&mut self, bytes: &[u8]) -> crypto_secretstream::aead::Result<()> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }

    fn truncate(&mut self, length: usize) {
        self.0.truncate(length);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(longest: usize) -> (SecretStream, SecretStream) {
        let secrets = |initiator, transmit, receive| Secrets {
            initiator,
            transmit,
            receive,
            hash: [7; 64],
            remote: [0; 32],
        };
        let (mut a, to_b) = SecretStream::new(&secrets(true, [1; 32], [2; 32]), longest);
        let (mut b, to_a) = SecretStream::new(&secrets(false, [2; 32], [1; 32]), longest);
        assert!(!a.has_begun());
        a.receive(&to_a);
        b.receive(&to_b);
        assert_eq!((a.next(), b.next()), (Ok(None), Ok(None)));
        assert!(a.has_begun() && b.has_begun());
        (a, b)
    }

    #[test]
    fn messages_come_out_as_they_went_in_however_they_are_cut() {
        let (mut a, mut b) = pair(1000);
        let mut bytes = Vec::new();
        for message in [&b"first"[..], b"", &[3; 1000]] {
            bytes.extend_from_slice(&a.seal(message).unwrap());
        }
        let mut messages = Vec::new();
        for byte in bytes {
            b.receive(&[byte]);
            messages.extend(b.next().unwrap());
        }
        assert_eq!(messages, [Bytes::from_static(b"first"), Bytes::from(vec![3; 1000])]);
        assert_eq!(b.half_received(), 0);
        a.receive(&b.seal(b"back").unwrap());
        assert_eq!(a.next(), Ok(Some(Bytes::from_static(b"back"))));
    }

    #[test]
    fn what_is_too_long_ends_the_stream_before_it_is_there() {
        let (mut a, mut b) = pair(1000);
        b.receive(&a.seal(&[0; 1001]).unwrap()[..FRAME]);
        let error = StreamError::TooLong { length: 1001 + SEAL, most: 1000 + SEAL };
        assert_eq!(b.next(), Err(error));
        assert!(a.seal(&vec![0; LONGEST + 1]).is_none());
    }

    #[test]
    fn what_was_changed_repeated_or_left_out_is_forged() {
        for spoil in 0..4 {
            let (mut a, mut b) = pair(1000);
            let (first, second) = (a.seal(b"first").unwrap(), a.seal(b"second").unwrap());
            let mut flipped = first.to_vec();
            *flipped.last_mut().unwrap() ^= 1;
            match spoil {
                0 => b.receive(&flipped),
                1 => b.receive(&second),
                2 => {
                    b.receive(&first);
                    b.next().unwrap();
                    b.receive(&first);
                }
                _ => b.receive(&[1, 0, 0, 0]),
            }
            assert_eq!(b.next(), Err(StreamError::Forged), "{spoil}");
        }
    }

    #[test]
    fn who_did_not_take_part_in_the_handshake_is_refused() {
        let secrets = Secrets {
            initiator: true,
            transmit: [1; 32],
            receive: [2; 32],
            hash: [7; 64],
            remote: [0; 32],
        };
        let (_, own) = SecretStream::new(&secrets, 1000);
        let mut other = own.to_vec();
        other[FRAME] ^= 1;
        let short = Bytes::from_static(&[2, 0, 0, 1, 2]);
        let long = Bytes::from_static(&[HEADER as u8 + 1, 0, 0]);
        for bytes in [own, other.into(), short, long] {
            let (mut stream, _) = SecretStream::new(&secrets, 1000);
            stream.receive(&bytes);
            assert!(stream.next().is_err(), "{bytes:?}");
        }
    }
}
