//! The blocks of an encrypted core in plain, once its encryption key is here.
//!
//! Files, proofs and peers have the encrypted bytes: without the key a core is verified, kept and given to peers
//! all the same. Not here: the cipher (`modern/encryption.rs`), and where keys are kept (`store/`).

use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;

use super::cache::CoreId;
use super::dialect::{BLOCK_PREFIX, BlockKeys, HashedBlocks};
use super::{Core, Dialect, Head, NEXT_ID};
use crate::error::{Error, Result};

/// What an encryption key opens.
pub(super) struct Unlocked {
    encryption_key: [u8; 32],
    /// They depend on the manifest, which comes with the first proof.
    keys: OnceLock<BlockKeys>,
    /// Under which plain blocks are cached.
    cache_id: CoreId,
}

impl Core {
    /// Reads the blocks with this encryption key from now on, unless it is certainly another core's: then nothing
    /// changes, also for those that read the core now. Does nothing for a core of Hypercore 9. Returns whether it may be
    /// the key.
    ///
    /// # Errors
    /// `Storage`.
    pub fn unlock(&self, encryption_key: &[u8; 32]) -> Result<bool> {
        let same = |unlocked: &Arc<Unlocked>| unlocked.encryption_key == *encryption_key;
        if self.dialect() == Dialect::Legacy || self.unlocked().as_ref().is_some_and(same) {
            return Ok(true);
        }
        let unlocked = Arc::new(Unlocked {
            encryption_key: *encryption_key,
            keys: OnceLock::new(),
            cache_id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
        });
        if self.is_wrong(&unlocked)? {
            return Ok(false);
        }
        *self.inner.unlocked.lock() = Some(unlocked);
        Ok(true)
    }

    /// Whether blocks are read with an encryption key.
    pub fn is_unlocked(&self) -> bool {
        self.unlocked().is_some()
    }

    /// Whether the encryption key is certainly not that of this core: the first block, which is here, was not
    /// written with it. `false` without a key or the block.
    ///
    /// # Errors
    /// `Storage`.
    pub fn has_wrong_encryption_key(&self) -> Result<bool> {
        self.unlocked().map_or(Ok(false), |unlocked| self.is_wrong(&unlocked))
    }

    fn is_wrong(&self, unlocked: &Unlocked) -> Result<bool> {
        let Some(stored) = self.read_block(0)? else { return Ok(false) };
        let Some(keys) = self.block_keys(unlocked) else { return Ok(false) };
        let fork = keys.decrypt(0, &stored).map(|plain| plain.fork);
        Ok(fork.is_none_or(|fork| fork > self.head().fork))
    }

    pub(super) fn unlocked(&self) -> Option<Arc<Unlocked>> {
        match self.dialect() {
            Dialect::Legacy => None,
            Dialect::Modern => self.inner.unlocked.lock().clone(),
        }
    }

    fn block_keys<'a>(&self, unlocked: &'a Unlocked) -> Option<&'a BlockKeys> {
        if self.lacks_manifest() {
            return None;
        }
        let compat = !self.has_manifest();
        let make = || BlockKeys::new(self.key(), compat, &unlocked.encryption_key);
        Some(unlocked.keys.get_or_init(make))
    }

    /// Under which blocks are cached as readers get them.
    pub(super) fn cache_id(&self) -> CoreId {
        self.unlocked().map_or(self.inner.id, |unlocked| unlocked.cache_id)
    }

    /// A stored block as readers get it.
    ///
    /// # Errors
    /// `Malformed` for one that is too short to be encrypted.
    pub(super) fn plain(&self, block: u64, stored: Bytes) -> Result<Bytes> {
        let Some(unlocked) = self.unlocked() else { return Ok(stored) };
        let keys = self.block_keys(&unlocked);
        match keys.and_then(|keys| keys.decrypt(block, &stored)) {
            Some(plain) => Ok(plain.bytes.into()),
            None => Err(Error::Malformed(format!("block {block} is not an encrypted one"))),
        }
    }

    /// These blocks as they are stored from block `first` on; `None` if that is as they are.
    ///
    /// # Errors
    /// `Unsupported` while the manifest is not here.
    pub(super) fn sealed(&self, first: Head, plain: &[Bytes]) -> Result<Option<HashedBlocks>> {
        let Some(unlocked) = self.unlocked() else { return Ok(None) };
        let Some(keys) = self.block_keys(&unlocked) else {
            return Err(Error::Unsupported(
                "writing an encrypted core without its manifest".into(),
            ));
        };
        let sealed = (first.length..)
            .zip(plain)
            .map(|(block, bytes)| keys.encrypt(block, first.fork, bytes).into());
        Ok(Some(HashedBlocks::unhashed(self.dialect(), sealed.collect())))
    }

    /// Bytes of all blocks as readers get them.
    pub fn plain_bytes(&self) -> u64 {
        let head = self.head();
        head.byte_length.saturating_sub(head.length.saturating_mul(self.block_padding()))
    }

    /// Bytes at the front of each block that are not of its content: 8 in an encrypted core whose key is here.
    pub(crate) fn block_padding(&self) -> u64 {
        if self.is_unlocked() { BLOCK_PREFIX } else { 0 }
    }
}
