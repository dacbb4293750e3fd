//! Noise IK: the initiator knows the responder's key, and proves its own.

use bytes::Bytes;
use snow::params::{BaseChoice, CipherChoice, DHChoice, HashChoice, NoiseParams};

use super::curve::{NAME, Resolver};
use crate::crypto::{Hash, KeyPair};

/// Longest handshake message read or written, in bytes: what fits into one datagram.
pub(crate) const MAX_HANDSHAKE: usize = 1400;

#[derive(Debug, thiserror::Error)]
pub(crate) enum HandshakeError {
    #[error("Noise: {0}")]
    Noise(#[from] snow::Error),
    #[error("a handshake message of {0} bytes, of which {MAX_HANDSHAKE} are possible")]
    TooLong(usize),
    #[error("the remote has shown no key")]
    NoKey,
}

/// One side of a handshake.
pub(crate) struct Handshake {
    state: snow::HandshakeState,
    initiator: bool,
}

/// The result of a handshake: the keys of the stream.
#[derive(Clone)]
pub(crate) struct Secrets {
    pub initiator: bool,
    /// The key of messages that we send.
    pub transmit: [u8; 32],
    /// The key of messages that we receive.
    pub receive: [u8; 32],
    /// The hash of all handshake messages.
    pub hash: [u8; 64],
}

impl Handshake {
    /// The connecting side; `remote` is the responder's key. Both sides must use the same
    /// `prologue`.
    pub(crate) fn initiator(
        keys: &KeyPair,
        prologue: &Hash,
        remote: &[u8; 32],
    ) -> Result<Self, HandshakeError> {
        Self::with_ephemeral(keys, prologue, Some(remote), None)
    }

    /// The side that accepts the connection.
    pub(crate) fn responder(keys: &KeyPair, prologue: &Hash) -> Result<Self, HandshakeError> {
        Self::with_ephemeral(keys, prologue, None, None)
    }

    /// `ephemeral` is `None` except in tests that compare bytes.
    pub(super) fn with_ephemeral(
        keys: &KeyPair,
        prologue: &Hash,
        remote: Option<&[u8; 32]>,
        ephemeral: Option<[u8; 32]>,
    ) -> Result<Self, HandshakeError> {
        let (secret, mut builder) = (keys.secret_key(), builder()?);
        builder = builder.local_private_key(seed(&secret))?.prologue(prologue)?;
        if let Some(ephemeral) = &ephemeral {
            builder = builder.fixed_ephemeral_key_for_testing_only(ephemeral);
        }
        let state = match remote {
            Some(remote) => builder.remote_public_key(remote)?.build_initiator()?,
            None => builder.build_responder()?,
        };
        Ok(Self { state, initiator: remote.is_some() })
    }

    /// Our next message, with `payload` in it.
    pub(crate) fn write(&mut self, payload: &[u8]) -> Result<Bytes, HandshakeError> {
        let mut message = [0; MAX_HANDSHAKE];
        let length = self.state.write_message(payload, &mut message)?;
        Ok(Bytes::copy_from_slice(message.get(..length).unwrap_or_default()))
    }

    /// The payload of the remote's message. After an error, the right message may still be read.
    pub(crate) fn read(&mut self, message: &[u8]) -> Result<Bytes, HandshakeError> {
        if message.len() > MAX_HANDSHAKE {
            return Err(HandshakeError::TooLong(message.len()));
        }
        let mut payload = [0; MAX_HANDSHAKE];
        let length = self.state.read_message(message, &mut payload)?;
        Ok(Bytes::copy_from_slice(payload.get(..length).unwrap_or_default()))
    }

    /// The public key of the remote, once a message has proved it.
    pub(crate) fn remote(&self) -> Option<[u8; 32]> {
        self.state.get_remote_static()?.try_into().ok()
    }

    /// The keys, once both messages have been exchanged.
    pub(crate) fn finish(mut self) -> Result<Secrets, HandshakeError> {
        self.remote().ok_or(HandshakeError::NoKey)?;
        let mut hash = [0; 64];
        for (to, from) in hash.iter_mut().zip(self.state.get_handshake_hash()) {
            *to = *from;
        }
        let (first, second) = self.state.dangerously_get_raw_split();
        let (transmit, receive) = if self.initiator { (first, second) } else { (second, first) };
        Ok(Secrets { initiator: self.initiator, transmit, receive, hash })
    }
}

fn builder<'a>() -> Result<snow::Builder<'a>, HandshakeError> {
    let pattern = NoiseParams::new(
        format!("Noise_IK_{NAME}_ChaChaPoly_BLAKE2b"),
        BaseChoice::Noise,
        "IK".parse()?,
        // snow has no name for the curve; the resolver has no other one.
        DHChoice::Curve25519,
        CipherChoice::ChaChaPoly,
        HashChoice::Blake2b,
    );
    Ok(snow::Builder::with_resolver(pattern, Box::new(Resolver)))
}

/// The first half of libsodium's form of a secret key.
fn seed(secret: &[u8; 64]) -> &[u8] {
    secret.split_at(32).0
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROLOGUE: Hash = [9; 32];

    fn keys(seed: u8) -> KeyPair {
        KeyPair::from_seed(&[seed; 32])
    }

    fn initiator(to: u8) -> Handshake {
        let remote = keys(to).public_key();
        Handshake::initiator(&keys(1), &PROLOGUE, remote.as_bytes()).unwrap()
    }

    #[test]
    fn both_sides_agree_and_know_each_other() {
        let (mut a, mut b) = (initiator(2), Handshake::responder(&keys(2), &PROLOGUE).unwrap());
        let hello = a.write(b"hello").unwrap();
        assert_eq!(b.read(&hello).unwrap(), b"hello"[..]);
        assert_eq!(b.remote(), Some(*keys(1).public_key().as_bytes()));
        let answer = b.write(b"answer").unwrap();
        assert_eq!(a.read(&answer).unwrap(), b"answer"[..]);
        let (a, b) = (a.finish().unwrap(), b.finish().unwrap());
        assert_eq!((a.transmit, a.receive, a.hash), (b.receive, b.transmit, b.hash));
        assert_ne!(a.transmit, a.receive);
    }

    #[test]
    fn a_damaged_or_misdirected_message_is_refused_and_the_right_one_still_read() {
        let mut a = initiator(2);
        let mut b = Handshake::responder(&keys(2), &PROLOGUE).unwrap();
        let hello = a.write(b"hello").unwrap();
        for length in 0..hello.len() {
            assert!(b.read(&hello[..length]).is_err(), "{length}");
        }
        for at in 0..hello.len() {
            let mut flipped = hello.to_vec();
            flipped[at] ^= 1;
            assert!(b.read(&flipped).is_err(), "{at}");
        }
        assert!(b.read(&[0; MAX_HANDSHAKE + 1]).is_err());
        let other = initiator(3).write(b"hello").unwrap();
        assert!(b.read(&other).is_err(), "for another key");
        let prologue = Handshake::initiator(&keys(1), &[8; 32], keys(2).public_key().as_bytes());
        assert!(b.read(&prologue.unwrap().write(b"").unwrap()).is_err(), "of another protocol");
        assert_eq!(b.read(&hello).unwrap(), b"hello"[..]);
        let answer = b.write(b"").unwrap();
        assert!(a.read(&hello).is_err());
        a.read(&answer).unwrap();
        a.finish().unwrap();
    }

    #[test]
    fn a_payload_that_does_not_fit_is_an_error() {
        assert!(initiator(2).write(&[0; MAX_HANDSHAKE]).is_err());
    }
}
