//! Diffie-Hellman between Ed25519 keys (noise-curve-ed 2), for Noise.
//!
//! The key that a peer signs with also takes part in the handshake: the shared secret is the scalar of
//! one key pair times the point of the other.

use curve25519_dalek::edwards::{CompressedEdwardsY, EdwardsPoint};
use curve25519_dalek::scalar::{Scalar, clamp_integer};
use sha2::{Digest as _, Sha512};
use snow::params::{CipherChoice, DHChoice, HashChoice};
use snow::resolvers::{CryptoResolver, DefaultResolver};
use snow::types::{Cipher, Dh, Hash, Random};

const LENGTH: usize = 32;

/// The name of the curve in the reference, which hashes it as part of the protocol's name.
pub(crate) const NAME: &str = "Ed25519";

/// The resolver of snow, with this curve instead of its own.
pub(crate) struct Resolver;

impl CryptoResolver for Resolver {
    fn resolve_rng(&self) -> Option<Box<dyn Random>> {
        DefaultResolver.resolve_rng()
    }

    fn resolve_dh(&self, _: &DHChoice) -> Option<Box<dyn Dh>> {
        Some(Box::new(Ed25519::default()))
    }

    fn resolve_hash(&self, choice: &HashChoice) -> Option<Box<dyn Hash>> {
        DefaultResolver.resolve_hash(choice)
    }

    fn resolve_cipher(&self, choice: &CipherChoice) -> Option<Box<dyn Cipher>> {
        DefaultResolver.resolve_cipher(choice)
    }
}

/// A key pair; its secret half is the seed that libsodium keeps.
#[derive(Default)]
struct Ed25519 {
    seed: [u8; LENGTH],
    scalar: Scalar,
    public: [u8; LENGTH],
}

impl Dh for Ed25519 {
    fn name(&self) -> &'static str {
        NAME
    }

    fn pub_len(&self) -> usize {
        LENGTH
    }

    fn priv_len(&self) -> usize {
        LENGTH
    }

    fn set(&mut self, seed: &[u8]) {
        for (to, from) in self.seed.iter_mut().zip(seed) {
            *to = *from;
        }
        let mut low = [0; LENGTH];
        for (to, from) in low.iter_mut().zip(Sha512::digest(self.seed)) {
            *to = from;
        }
        // Only points of the prime-order group are multiplied with it: reducing the scalar by the order
        // of the group changes no result.
        self.scalar = Scalar::from_bytes_mod_order(clamp_integer(low));
        self.public = EdwardsPoint::mul_base(&self.scalar).compress().to_bytes();
    }

    fn generate(&mut self, random: &mut dyn Random) -> Result<(), snow::Error> {
        let mut seed = [0; LENGTH];
        random.try_fill_bytes(&mut seed)?;
        self.set(&seed);
        Ok(())
    }

    fn pubkey(&self) -> &[u8] {
        &self.public
    }

    fn privkey(&self) -> &[u8] {
        &self.seed
    }

    /// As libsodium's `crypto_scalarmult_ed25519_noclamp`: refuses points outside of the prime-order
    /// group, and encodings that are not canonical.
    fn dh(&self, public: &[u8], out: &mut [u8]) -> Result<(), snow::Error> {
        let compressed =
            public.get(..LENGTH).and_then(|key| CompressedEdwardsY::from_slice(key).ok());
        let compressed = compressed.ok_or(snow::Error::Dh)?;
        let point = compressed.decompress().ok_or(snow::Error::Dh)?;
        if point.is_small_order() || !point.is_torsion_free() || point.compress() != compressed {
            return Err(snow::Error::Dh);
        }
        let shared = (point * self.scalar).compress().to_bytes();
        out.get_mut(..LENGTH).ok_or(snow::Error::Dh)?.copy_from_slice(&shared);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::KeyPair;

    fn pair(seed: u8) -> Ed25519 {
        let mut pair = Ed25519::default();
        pair.set(&[seed; 32]);
        pair
    }

    #[test]
    fn both_sides_derive_the_same_secret_from_signing_keys() {
        let (a, b) = (pair(1), pair(2));
        assert_eq!(a.pubkey(), KeyPair::from_seed(&[1; 32]).public_key().as_bytes());
        let (mut ab, mut ba) = ([0; 32], [0; 32]);
        a.dh(b.pubkey(), &mut ab).unwrap();
        b.dh(a.pubkey(), &mut ba).unwrap();
        assert_eq!(ab, ba);
        assert_ne!(ab, [0; 32]);
    }

    #[test]
    fn points_outside_of_the_large_group_are_refused() {
        let a = pair(1);
        let mut out = [0; 32];
        let zero = [0; 32]; // of order 4
        let one = {
            let mut one = [0; 32];
            one[0] = 1;
            one
        }; // the neutral element
        let mut twice = [0xff; 32]; // one, written with the prime added
        (twice[0], twice[31]) = (0xee, 0x7f);
        let no_point = {
            let mut two = [0; 32];
            two[0] = 2;
            two
        };
        let torsion = curve25519_dalek::constants::EIGHT_TORSION[1];
        let mixed = (EdwardsPoint::mul_base(&Scalar::from(5u8)) + torsion).compress().to_bytes();
        for refused in [zero, one, twice, no_point, torsion.compress().to_bytes(), mixed] {
            assert!(a.dh(&refused, &mut out).is_err(), "{refused:?}");
        }
        assert!(a.dh(&[1; 5], &mut out).is_err(), "a short one");
    }
}
