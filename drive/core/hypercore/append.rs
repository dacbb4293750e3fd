//! Appending to a core whose secret key is here (hypercore9.md §5).

use std::borrow::Cow;

use bytes::Bytes;

use super::dialect::HashedBlocks;
use super::merkle::{self, MAX_BLOCK_SIZE, MAX_CORE_LENGTH, Signature, TreeNode};
use super::{Core, Head};
use crate::error::{Error, Result};
use hypermount_swarm::crypto::KeyPair;

/// Bytes of the largest appended block kept in the cache: index blocks are read again at once,
/// file contents rarely.
const MAX_CACHED_APPEND: usize = 4096;
/// A batch of at least this number of bytes is a part of a large file: its blocks go to the device while the next ones
/// are hashed.
const MIN_WRITEBACK_BYTES: u64 = 1024 * 1024;

/// A batch ready to be written.
struct Batch<'a> {
    /// As readers get them.
    plain: &'a [Bytes],
    /// As they are stored: encrypted ones, if the core is encrypted.
    blocks: Cow<'a, HashedBlocks>,
    before: Head,
    after: Head,
    roots: Vec<TreeNode>,
    created: Vec<TreeNode>,
    signature: Signature,
}

impl Core {
    /// Appends a batch under one signature. On return it survives the end of this process; a
    /// power cut only after [`Core::sync`], or a little later by itself. Peers are shown it then.
    ///
    /// # Errors
    /// `ReadOnly`; `TooLarge` for a block of more than [`MAX_BLOCK_SIZE`] bytes or a core of more than
    /// [`MAX_CORE_LENGTH`] blocks; `Storage`. Nothing is appended then.
    pub fn append(&self, blocks: &[Bytes]) -> Result<Head> {
        let (dialect, blocks) = (self.dialect(), blocks.to_vec());
        self.append_hashed(&match self.is_unlocked() {
            true => HashedBlocks::unhashed(dialect, blocks),
            false => HashedBlocks::of_kind(dialect, blocks),
        })
    }

    /// As [`Core::append`], of blocks that were hashed before.
    ///
    /// # Errors
    /// Those of [`Core::append`].
    pub fn append_hashed(&self, hashed: &HashedBlocks) -> Result<Head> {
        if hashed.dialect() != self.dialect() {
            return self.append(hashed.blocks());
        }
        let blocks = hashed.blocks();
        let Some(pair) = self.inner.pair.as_ref().filter(|_| self.writable()) else {
            return Err(self.read_only());
        };
        let most = MAX_BLOCK_SIZE - self.block_padding() as usize;
        if let Some(block) = blocks.iter().find(|block| block.len() > most) {
            return Err(Error::TooLarge(format!("a block of {} bytes", block.len())));
        }
        if blocks.is_empty() {
            return Ok(self.head());
        }
        let batch = loop {
            let writer = self.inner.writer.lock();
            if self.first_is_unsettled() || self.inner.files.wants_claims() {
                drop(writer);
                self.sync()?;
                continue;
            }
            // Looked at again: a proof may have come in between that forbids it.
            if self.stopped().is_some() {
                return Err(self.read_only());
            }
            let batch = self.prepare(hashed, pair)?;
            if let Err(error) = self.write(&batch) {
                // What was not acknowledged shall not come back at the next open. If this fails
                // too, it may: signed, whole and unacknowledged, as after a crash.
                let _ = self.inner.files.drop_signatures_after(batch.before.length);
                return Err(error);
            }
            self.publish(&batch);
            break batch;
        };
        self.announce(&batch);
        Ok(batch.after)
    }

    /// Whether the first batch is here and its sync failed. No second one may follow before it is on the
    /// device: a core that claims nothing and has several signatures is taken for damaged (`recover.rs`).
    fn first_is_unsettled(&self) -> bool {
        let state = self.inner.state.lock();
        state.head.length > 0 && state.settled.length == 0
    }

    fn prepare<'a>(&self, hashed: &'a HashedBlocks, pair: &KeyPair) -> Result<Batch<'a>> {
        let plain = hashed.blocks();
        let (before, mut roots) = {
            let state = self.inner.state.lock();
            (state.head, state.roots.clone())
        };
        let blocks = self.sealed(before, plain)?.map_or(Cow::Borrowed(hashed), Cow::Owned);
        let length = before.length + plain.len() as u64;
        if length > MAX_CORE_LENGTH {
            return Err(Error::TooLarge(format!("a core of {length} blocks")));
        }
        let mut created = Vec::with_capacity(plain.len() * 2);
        for leaf in blocks.leaves(before.length) {
            let Some(nodes) = self.dialect().push_leaf(&mut roots, leaf) else {
                return Err(Error::TooLarge("a core of more than 2^53 bytes".to_owned()));
            };
            created.extend(nodes);
        }
        let byte_length = merkle::byte_length(&roots).unwrap_or_default();
        let after = Head { length, byte_length, fork: before.fork };
        let signature = self.inner.author.sign(pair, &roots, after);
        let signature = signature.ok_or(Error::ReadOnly("a core without its manifest"))?;
        Ok(Batch { plain, blocks, before, after, roots, created, signature })
    }

    fn write(&self, batch: &Batch) -> Result<()> {
        let files = &*self.inner.files;
        match batch.blocks.blocks() {
            [block] => files.write_data(batch.before.byte_length, block)?,
            blocks => {
                let mut offset = batch.before.byte_length;
                // Neighbouring small blocks go out together, large ones as they are.
                for run in
                    blocks.chunk_by(|one, next| one.len().max(next.len()) < MAX_CACHED_APPEND)
                {
                    let bytes = match run {
                        [block] => block.clone(),
                        run => Bytes::from(run.concat()),
                    };
                    files.write_data(offset, &bytes)?;
                    offset += bytes.len() as u64;
                }
            }
        }
        let bytes = batch.after.byte_length - batch.before.byte_length;
        if bytes >= MIN_WRITEBACK_BYTES {
            files.begin_writeback(batch.before.byte_length, bytes);
        }
        // As the reference: the new stretch of the tree in one piece, older parents one by one.
        let first = batch.before.length * 2;
        let mut parents: Vec<TreeNode> =
            batch.created.iter().filter(|node| node.index < first).copied().collect();
        parents.sort_unstable_by_key(|node| node.index);
        files.write_nodes(&parents)?;
        files.write_node_range(first, batch.after.length * 2 - 1, &batch.created)?;
        self.inner.write_appended(batch.after, &batch.roots, &batch.signature)
    }

    fn publish(&self, batch: &Batch) {
        let mut state = self.inner.state.lock();
        for node in &batch.created {
            state.bits.set_node(node.index);
            state.verified.put(node.index, *node);
        }
        for block in batch.before.length..batch.after.length {
            state.bits.set_data(block, true);
        }
        state.head = batch.after;
        state.roots.clone_from(&batch.roots);
        state.signature = Some(batch.signature.clone());
        let bytes = batch.after.byte_length - batch.before.byte_length;
        state.unclaimed.add(batch.plain.len() as u64, bytes);
        // Under the lock, so that watchers never see the head go back.
        self.inner.head.send_replace(batch.after);
    }

    /// Wakes the readers of this process that wait for these blocks, and has the batch settled.
    fn announce(&self, batch: &Batch) {
        for (block, bytes) in (batch.before.length..).zip(batch.plain) {
            if bytes.len() <= MAX_CACHED_APPEND {
                // A copy: the caller's buffer may be much larger than this block.
                let bytes = Bytes::copy_from_slice(bytes);
                self.inner.cache.insert(self.cache_id(), block, bytes);
            }
            self.inner.demand.fulfil(block, bytes);
        }
        self.inner.demand.tree_changed(batch.after.length);
        if batch.before.length == 0 {
            // See `first_is_unsettled`.
            if let Err(error) = self.sync() {
                log::warn!("{}: {error}; tried again later", self.inner.directory.display());
                self.settle_again();
            }
        } else {
            self.claim_later();
        }
    }
}
