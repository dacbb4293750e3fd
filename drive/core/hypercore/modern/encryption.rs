//! Blocks of an encrypted core: their keys, and from stored bytes to plain ones and back.
//!
//! The tree and its signatures cover stored bytes, so replication needs no key. XSalsa20 does not
//! authenticate: a wrong key gives other bytes and no error. What a right key shows itself by is the
//! fork in [`Plain`] and what the caller expects of the first block.

use salsa20::XSalsa20;
use salsa20::cipher::{KeyIvInit, StreamCipher as _};

use super::hash::Namespace;
use hypermount_swarm::crypto::{Hash, PublicKey, blake2b, blake2b_keyed};

/// Bytes that a stored block has before those of the block.
pub(crate) const PREFIX_LENGTH: usize = 8;
const NONCE_LENGTH: usize = 24;

/// The keys of a core's blocks. They have no `Debug` and are never logged.
#[derive(Clone)]
pub(crate) struct BlockKeys {
    block: Hash,
    blinding: Hash,
}

/// A decrypted block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Plain {
    /// The fork under which the block was written. No right key gives one above the core's.
    pub(crate) fork: u64,
    /// The bytes of the block.
    pub(crate) bytes: Vec<u8>,
}

impl BlockKeys {
    /// The keys of the core `key`, of which `compat` tells whether it is one of Hypercore 10 without a
    /// manifest.
    pub(crate) fn new(key: &PublicKey, compat: bool, encryption_key: &[u8; 32]) -> Self {
        let block = if compat {
            blake2b_keyed(key.as_bytes(), &[encryption_key])
        } else {
            blake2b(&[Namespace::Encryption.hash(), key.as_bytes(), encryption_key])
        };
        Self { block, blinding: blake2b(&[&block]) }
    }

    /// Decrypts block `index`; `None` if it is too short to be an encrypted one.
    pub(crate) fn decrypt(&self, index: u64, stored: &[u8]) -> Option<Plain> {
        let (prefix, body) = stored.split_first_chunk::<PREFIX_LENGTH>()?;
        let mut bytes = body.to_vec();
        apply(&self.block, &nonce(index, prefix), &mut bytes);
        let mut fork = *prefix;
        apply(&self.blinding, &nonce(index, &[0; PREFIX_LENGTH]), &mut fork);
        Some(Plain { fork: u64::from_le_bytes(fork), bytes })
    }

    /// The bytes that are stored for block `index`, written under `fork`. An index may be written once
    /// under each fork: two blocks of one index and fork share a key stream.
    pub(crate) fn encrypt(&self, index: u64, fork: u64, plain: &[u8]) -> Vec<u8> {
        let mut prefix = fork.to_le_bytes();
        apply(&self.blinding, &nonce(index, &[0; PREFIX_LENGTH]), &mut prefix);
        let mut stored = Vec::with_capacity(PREFIX_LENGTH + plain.len());
        stored.extend_from_slice(&prefix);
        stored.extend_from_slice(plain);
        apply(&self.block, &nonce(index, &prefix), &mut stored[PREFIX_LENGTH..]);
        stored
    }

    #[cfg(test)]
    pub(super) fn halves(&self) -> (&Hash, &Hash) {
        (&self.block, &self.blinding)
    }
}

fn nonce(index: u64, prefix: &[u8; PREFIX_LENGTH]) -> [u8; NONCE_LENGTH] {
    let mut nonce = [0; NONCE_LENGTH];
    nonce[..8].copy_from_slice(&index.to_le_bytes());
    nonce[8..16].copy_from_slice(prefix);
    nonce
}

/// XORs the XSalsa20 key stream into `bytes`.
fn apply(key: &Hash, nonce: &[u8; NONCE_LENGTH], bytes: &mut [u8]) {
    XSalsa20::new(key.into(), nonce.into()).apply_keystream(bytes);
}
