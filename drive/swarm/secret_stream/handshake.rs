//! Noise with Ed25519 keys. IK, over the hash table: the initiator knows the responder's key. XX, over a plain
//! stream: neither knows the other's key, and the initiator sends a third message.

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
    /// The remote's public key. The header of its stream proves that it holds the secret key.
    pub remote: [u8; 32],
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
        let (secret, mut builder) = (keys.secret_key(), builder("IK")?);
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

    /// One side of a handshake between strangers on a plain stream. Its prologue is empty.
    pub(crate) fn between_strangers(
        keys: &KeyPair,
        initiator: bool,
    ) -> Result<Self, HandshakeError> {
        Self::strangers_with_ephemeral(keys, initiator, None)
    }

    /// `ephemeral` is `None` except in tests that compare bytes.
    pub(super) fn strangers_with_ephemeral(
        keys: &KeyPair,
        initiator: bool,
        ephemeral: Option<[u8; 32]>,
    ) -> Result<Self, HandshakeError> {
        let (secret, mut builder) = (keys.secret_key(), builder("XX")?);
        builder = builder.local_private_key(seed(&secret))?;
        if let Some(ephemeral) = &ephemeral {
            builder = builder.fixed_ephemeral_key_for_testing_only(ephemeral);
        }
        let state = if initiator { builder.build_initiator() } else { builder.build_responder() }?;
        Ok(Self { state, initiator })
    }

    /// Whether it is our turn to send a message; neither side's once the handshake is finished.
    pub(crate) fn is_our_turn(&self) -> bool {
        !self.is_finished() && self.state.is_my_turn()
    }

    /// Whether all messages have been exchanged.
    pub(crate) fn is_finished(&self) -> bool {
        self.state.is_handshake_finished()
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

    /// The keys, once all messages have been exchanged.
    pub(crate) fn finish(mut self) -> Result<Secrets, HandshakeError> {
        let remote = self.remote().ok_or(HandshakeError::NoKey)?;
        let mut hash = [0; 64];
        for (to, from) in hash.iter_mut().zip(self.state.get_handshake_hash()) {
            *to = *from;
        }
        let (first, second) = self.state.dangerously_get_raw_split();
        let (transmit, receive) = if self.initiator { (first, second) } else { (second, first) };
        Ok(Secrets { initiator: self.initiator, transmit, receive, hash, remote })
    }
}

fn builder<'a>(pattern: &str) -> Result<snow::Builder<'a>, HandshakeError> {
    let pattern = NoiseParams::new(
        format!("Noise_{pattern}_{NAME}_ChaChaPoly_BLAKE2b"),
        BaseChoice::Noise,
        pattern.parse()?,
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

    /// The three messages, each changed by `damage` first; where it fails.
    fn strangers(damage: impl Fn(usize, &mut Vec<u8>)) -> Result<(Secrets, Secrets), usize> {
        let side = |seed, initiator| Handshake::between_strangers(&keys(seed), initiator).unwrap();
        let (mut a, mut b) = (side(1, true), side(2, false));
        for number in 0..3 {
            let (from, to) = if number == 1 { (&mut b, &mut a) } else { (&mut a, &mut b) };
            assert!(from.is_our_turn() && !to.is_our_turn() && !from.is_finished());
            let mut message = from.write(b"").map_err(|_| number)?.to_vec();
            damage(number, &mut message);
            to.read(&message).map_err(|_| number)?;
        }
        assert!(a.is_finished() && b.is_finished() && !a.is_our_turn() && !b.is_our_turn());
        Ok((a.finish().unwrap(), b.finish().unwrap()))
    }

    #[test]
    fn strangers_agree_and_know_each_other() {
        let (a, b) = strangers(|_, _| {}).unwrap();
        assert_eq!((a.transmit, a.receive, a.hash), (b.receive, b.transmit, b.hash));
        assert_eq!(a.remote, *keys(2).public_key().as_bytes());
        assert_eq!(b.remote, *keys(1).public_key().as_bytes());
    }

    #[test]
    fn a_damaged_message_between_strangers_is_refused() {
        for (number, length) in [32, 96, 64].into_iter().enumerate() {
            let damaged = |damage: &dyn Fn(&mut Vec<u8>)| {
                let damage = |n, message: &mut Vec<u8>| {
                    if n == number {
                        assert_eq!(message.len(), length);
                        damage(message);
                    }
                };
                // A damaged first key is no error by itself, but no key fits any more.
                let failed = strangers(damage).err().unwrap();
                assert!(failed == number || (number, failed) == (0, 1), "{number}: {failed}");
            };
            for at in 0..length {
                damaged(&|message| message[at] ^= 1);
            }
            for cut in [0, 1, length / 2, length - 1] {
                damaged(&|message| message.truncate(cut));
            }
        }
        // Another one puts its own message in the place of the last.
        let mut other = Handshake::between_strangers(&keys(3), true).unwrap();
        let message = other.write(b"").unwrap();
        assert_eq!(
            strangers(|n, old| if n == 2 {
                *old = message.to_vec()
            })
            .err(),
            Some(2)
        );
    }

    #[test]
    fn a_payload_that_does_not_fit_is_an_error() {
        assert!(initiator(2).write(&[0; MAX_HANDSHAKE]).is_err());
    }
}
