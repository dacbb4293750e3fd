//! Hashes, keys and signatures of the legacy era (hypercore-crypto 2, derive-key 1).
//!
//! Not here: what is hashed into a tree (`core/hypercore/merkle.rs`) and the Noise handshake
//! (`core/wire/noise.rs`).

use std::fmt;

use blake2::digest::consts::U32;
use blake2::digest::{FixedOutput, KeyInit, Mac, Update};
use blake2::{Blake2b, Blake2bMac, Digest};
use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};

/// A BLAKE2b hash of 256 bits (RFC 7693).
pub type Hash = [u8; 32];

/// Length in bytes of an Ed25519 signature.
pub const SIGNATURE_LENGTH: usize = 64;
/// An Ed25519 signature (RFC 8032).
pub type SignatureBytes = [u8; SIGNATURE_LENGTH];

type Blake2b256 = Blake2b<U32>;

/// Unkeyed BLAKE2b-256 of the concatenation of `parts`.
pub fn blake2b(parts: &[&[u8]]) -> Hash {
    let mut hasher = Blake2b256::new();
    for part in parts {
        Update::update(&mut hasher, part);
    }
    hasher.finalize_fixed().into()
}

/// One of the numbered namespaces of a protocol (hypercore-crypto 3). It keeps hashes and signatures of
/// one purpose from being valid for another.
pub fn namespace(protocol: &str, number: u8) -> Hash {
    blake2b(&[&blake2b(&[protocol.as_bytes()]), &[number]])
}

/// [`blake2b`] of each message, four at a time where the processor can: for blocks, of which
/// several come at once (docs/decisions/0009).
pub fn blake2b_each(messages: &[[&[u8]; 2]]) -> Vec<Hash> {
    let mut parameters = blake2b_simd::Params::new();
    parameters.hash_length(32);
    let mut states = vec![parameters.to_state(); messages.len()];
    for (state, [start, _]) in states.iter_mut().zip(messages) {
        state.update(start);
    }
    let rest = messages.iter().map(|[_, rest]| *rest);
    blake2b_simd::many::update_many(states.iter_mut().zip(rest));
    let finished = states.iter().map(|state| {
        let mut hash = [0; 32];
        hash.copy_from_slice(state.finalize().as_bytes());
        hash
    });
    finished.collect()
}

/// BLAKE2b-256 keyed with `key`, of at most 64 bytes, of the concatenation of `parts`.
pub fn blake2b_keyed<const N: usize>(key: &[u8; N], parts: &[&[u8]]) -> Hash {
    const { assert!(N <= 64) };
    let mut hasher = <Blake2bMac<U32> as KeyInit>::new_from_slice(key)
        .expect("BLAKE2b takes every key of up to 64 bytes, and this one is no longer");
    for part in parts {
        Mac::update(&mut hasher, part);
    }
    hasher.finalize_fixed().into()
}

macro_rules! key_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; 32]);

        impl $name {
            /// The key with these bytes; any are accepted.
            pub fn new(bytes: [u8; 32]) -> Self {
                Self(bytes)
            }

            /// The key with these bytes; `None` if they are not exactly 32.
            pub fn from_slice(bytes: &[u8]) -> Option<Self> {
                Some(Self(bytes.try_into().ok()?))
            }

            /// The 32 bytes of the key.
            pub fn as_bytes(&self) -> &[u8; 32] {
                &self.0
            }

            /// All 64 lower-case hex digits. For files and for what the user asked to see; logs
            /// use `Display`.
            pub fn to_hex(&self) -> String {
                self.0.iter().map(|byte| format!("{byte:02x}")).collect()
            }

            /// Reads exactly 64 hex digits, in either case; `None` for anything else.
            pub fn from_hex(text: &str) -> Option<Self> {
                let digits = text.as_bytes();
                if digits.len() != 64 {
                    return None;
                }
                let mut bytes = [0; 32];
                for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
                    let high = (pair[0] as char).to_digit(16)?;
                    let low = (pair[1] as char).to_digit(16)?;
                    *byte = (high << 4 | low) as u8;
                }
                Some(Self(bytes))
            }
        }

        /// Shortened (`8f3a…c21e`): a full key is a capability and does not belong in a log.
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let [a, b, .., c, d] = self.0;
                write!(f, "{a:02x}{b:02x}…{c:02x}{d:02x}")
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({self})", stringify!($name))
            }
        }
    };
}

key_type! {
    /// The Ed25519 public key of a core; of a drive it is its metadata core's. It grants read access.
    PublicKey
}
key_type! {
    /// What may be told to strangers to find peers of a core: a keyed hash of its public key.
    DiscoveryKey
}

impl PublicKey {
    /// BLAKE2b-256 of `hypercore`, keyed with the public key (hypercore9.md §2).
    pub fn discovery_key(&self) -> DiscoveryKey {
        DiscoveryKey(blake2b_keyed(&self.0, &[b"hypercore"]))
    }

    /// Whether `signature` is this key's over `message`.
    pub fn verifies(&self, message: &[u8], signature: &SignatureBytes) -> bool {
        let Ok(key) = VerifyingKey::from_bytes(&self.0) else {
            return false;
        };
        key.verify_strict(message, &Signature::from_bytes(signature)).is_ok()
    }
}

/// A core's key pair. The secret half has no `Debug` and is never logged.
#[derive(Clone)]
pub struct KeyPair(SigningKey);

impl KeyPair {
    /// The key pair that RFC 8032 derives from a seed.
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self(SigningKey::from_bytes(seed))
    }

    /// From libsodium's 64-byte form, seed then public key; `None` when the halves disagree.
    pub fn from_secret_key(secret: &[u8; 64]) -> Option<Self> {
        SigningKey::from_keypair_bytes(secret).ok().map(Self)
    }

    /// Libsodium's 64-byte form: seed then public key.
    pub fn secret_key(&self) -> [u8; 64] {
        self.0.to_keypair_bytes()
    }

    /// The public half.
    pub fn public_key(&self) -> PublicKey {
        PublicKey(self.0.verifying_key().to_bytes())
    }

    /// The Ed25519 signature of `message`.
    pub fn sign(&self, message: &[u8]) -> SignatureBytes {
        self.0.sign(message).to_bytes()
    }
}

/// derive-key 1.0: `BLAKE2b-256(key = master, "<len>\n<namespace>" ‖ name)` (corestore5.md §2).
pub fn derive_seed(master: &[u8; 32], namespace: &str, name: &[u8]) -> [u8; 32] {
    let prefix = format!("{}\n{namespace}", namespace.len());
    blake2b_keyed(master, &[prefix.as_bytes(), name])
}

/// `N` bytes from the operating system's generator, getrandom(2) on Linux.
///
/// # Errors
/// Fails if the operating system returns no random bytes.
pub fn random_bytes<const N: usize>() -> std::io::Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(std::io::Error::other)?;
    Ok(bytes)
}
