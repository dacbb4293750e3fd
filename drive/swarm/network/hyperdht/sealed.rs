//! Encryption of the rounds about a hole against the nodes that forward them.

use std::io;
use std::net::Ipv4Addr;

use bytes::{Bytes, BytesMut};
use crypto_secretbox::aead::{Aead as _, KeyInit as _};
use crypto_secretbox::{Nonce, XSalsa20Poly1305};

use crate::crypto::{blake2b_keyed, random_bytes};
use crate::hyperdht::announcement::holepunch_namespace;
use crate::hyperdht::payload::Round;

const NONCE: usize = 24;

/// The cipher and the tokens of one handshake.
pub(crate) struct Sealed {
    cipher: XSalsa20Poly1305,
    /// The secret of our tokens.
    secret: [u8; 32],
}

impl Sealed {
    /// For the two parties of the handshake with this hash.
    ///
    /// # Errors
    /// Fails if the operating system returns no random bytes.
    pub(crate) fn new(handshake: &[u8; 64]) -> io::Result<Self> {
        let key = blake2b_keyed(handshake, &[&holepunch_namespace()]);
        Ok(Self { cipher: XSalsa20Poly1305::new(&key.into()), secret: random_bytes()? })
    }

    /// # Errors
    /// Fails if the operating system returns no random bytes.
    pub(crate) fn seal(&self, round: &Round) -> io::Result<Bytes> {
        let nonce: [u8; NONCE] = random_bytes()?;
        let sealed = self.cipher.encrypt(&Nonce::from(nonce), round.encode().as_ref());
        let sealed = sealed.map_err(|_| io::Error::other("a message too long to be sealed"))?;
        let mut out = BytesMut::with_capacity(NONCE + sealed.len());
        out.extend_from_slice(&nonce);
        out.extend_from_slice(&sealed);
        Ok(out.freeze())
    }

    /// The round in a message; `None` if the other party has not sealed it.
    pub(crate) fn open(&self, sealed: &[u8]) -> Option<Round> {
        let (nonce, sealed) = sealed.split_first_chunk::<NONCE>()?;
        let plain = self.cipher.decrypt(&Nonce::from(*nonce), sealed).ok()?;
        Round::decode(plain.into()).ok()
    }

    /// A token for `host`: a peer that repeats it receives packets at that host.
    pub(crate) fn token(&self, host: Ipv4Addr) -> [u8; 32] {
        blake2b_keyed(&self.secret, &[host.to_string().as_bytes()])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hyperdht::payload::Firewall;

    fn round() -> Round {
        Round { firewall: Firewall::Consistent, round: 3, punching: true, ..Round::default() }
    }

    #[test]
    fn only_a_party_of_the_handshake_opens_a_sealed_round() {
        let (a, b) = (Sealed::new(&[1; 64]).unwrap(), Sealed::new(&[1; 64]).unwrap());
        let sealed = a.seal(&round()).unwrap();
        assert_eq!(b.open(&sealed), Some(round()));
        assert_eq!(Sealed::new(&[2; 64]).unwrap().open(&sealed), None);
        for length in 0..sealed.len() {
            assert_eq!(b.open(&sealed[..length]), None);
        }
        let host = Ipv4Addr::new(192, 0, 2, 1);
        assert_eq!(a.token(host), a.token(host));
        assert_ne!(a.token(host), b.token(host));
        assert_ne!(a.token(host), a.token(Ipv4Addr::new(192, 0, 2, 2)));
    }

    /// A round sealed by npm hyperdht 6.34 (`tests/vectors/secret-stream.json`).
    #[test]
    fn a_round_sealed_by_the_reference_is_opened() {
        let vectors: serde_json::Value =
            serde_json::from_str(include_str!("../../../../tests/vectors/secret-stream.json"))
                .unwrap();
        let bytes = |name: &str| hex::decode(vectors[name].as_str().unwrap()).unwrap();
        let sealed = Sealed::new(&bytes("hash").try_into().unwrap()).unwrap();
        assert_eq!(sealed.open(&bytes("sealedRound")), Some(round()));
    }
}
