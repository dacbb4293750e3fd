//! Reading: blocks, and which block holds a byte; from here, or from peers within a limit.

use std::ops::Range;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use super::demand::SeekTicket;
use super::flat_tree;
use super::merkle::{MAX_BLOCK_SIZE, MAX_CORE_LENGTH, TreeNode};
use super::zeros::{ZERO_BLOCK_SIZES, are_shared, zeros};
use super::{Core, Dialect, Head, Located};
use crate::error::{Error, Result};
use crate::wait::Wait;

impl Core {
    /// The block if it is stored here, from the cache or re-hashed from disk. A block that does
    /// not verify is cleared and reported `Ok(None)` on a remote core. It is `Corrupt` on a writable
    /// one, and during a repair on a stopped core of our own.
    ///
    /// # Errors
    /// `Corrupt` as above, `Storage`.
    pub fn get_local(&self, block: u64) -> Result<Option<Bytes>> {
        let cache_id = self.cache_id();
        if let Some(bytes) = self.inner.cache.get(cache_id, block) {
            return Ok(Some(bytes));
        }
        if !self.has(block) {
            return Ok(None);
        }
        match self.read_block(block)? {
            Some(stored) => {
                let bytes = self.plain(block, stored)?;
                // Zeros are at hand, and would only displace others.
                if !are_shared(&bytes) {
                    self.inner.cache.insert(cache_id, block, bytes.clone());
                }
                Ok(Some(bytes))
            }
            // Cleared while it was read.
            None if !self.has(block) => Ok(None),
            // What is repaired is given up by the repair alone.
            None if self.owned() || self.is_own() && self.is_repaired() => {
                Err(self.corrupt("data", block, format!("block {block} does not verify")))
            }
            None => {
                log::warn!(
                    "core {}: block {block} does not verify; it will be fetched again",
                    self.inner.discovery_key
                );
                self.inner.state.lock().bits.set_data(block, false);
                Ok(None)
            }
        }
    }

    /// Brings those of `blocks` that are on disk into the cache, and hashes them together, which is
    /// much faster than one by one. What fails here fails again, and is told, where it is read.
    pub fn warm(&self, blocks: impl IntoIterator<Item = u64>) {
        let cache_id = self.cache_id();
        let mut read = Vec::new();
        for block in blocks {
            let is_at_hand = self.inner.cache.contains(cache_id, block) || !self.has(block);
            if is_at_hand || matches!(self.known_zeros(block), Ok(Some(_))) {
                continue;
            }
            if let Ok(Some((leaf, bytes))) = self.read_unchecked(block) {
                read.push((block, leaf, bytes));
            }
        }
        let hashed: Vec<(u64, &[u8])> =
            read.iter().map(|(block, _, bytes)| (*block, bytes.as_slice())).collect();
        let leaves = self.dialect().leaves(&hashed);
        for ((block, leaf, bytes), hashed) in read.into_iter().zip(leaves) {
            if hashed == leaf
                && let Ok(bytes) = self.plain(block, Bytes::from(bytes))
            {
                self.inner.cache.insert(cache_id, block, bytes);
            }
        }
    }

    /// The bytes of a block as they are stored and sent to peers.
    pub(super) fn stored_block(&self, block: u64) -> Result<Option<Bytes>> {
        match self.is_unlocked() {
            false => self.get_local(block),
            true if self.has(block) => self.read_block(block),
            true => Ok(None),
        }
    }

    /// Reads a block and checks it; `None` when it is not what the tree says.
    pub(super) fn read_block(&self, block: u64) -> Result<Option<Bytes>> {
        if let Some(zeros) = self.known_zeros(block)? {
            return Ok(Some(zeros));
        }
        let read = self.read_unchecked(block)?;
        Ok(read
            .filter(|(leaf, bytes)| self.dialect().leaf(block, bytes) == *leaf)
            .map(|(_, bytes)| Bytes::from(bytes)))
    }

    /// The block, if the tree proves it to be zeros of one of [`ZERO_BLOCK_SIZES`]: it needs no reading.
    fn known_zeros(&self, block: u64) -> Result<Option<Bytes>> {
        let leaf = if block < MAX_CORE_LENGTH { self.node(block * 2)? } else { None };
        let Some(leaf) = leaf.filter(|leaf| ZERO_BLOCK_SIZES.contains(&leaf.size)) else {
            return Ok(None);
        };
        let zeros = zeros(leaf.size);
        Ok((self.dialect().leaf(block, &zeros) == leaf).then_some(zeros))
    }

    /// The bytes on disk where a block should be, and the leaf they should have.
    fn read_unchecked(&self, block: u64) -> Result<Option<(TreeNode, Vec<u8>)>> {
        let Some((offset, leaf)) = self.leaf(block)? else {
            return Ok(None);
        };
        if leaf.size > MAX_BLOCK_SIZE as u64 {
            return Ok(None);
        }
        let mut bytes = vec![0; leaf.size as usize];
        let whole = self.inner.files.read_data(offset, &mut bytes)?;
        Ok(whole.then_some((leaf, bytes)))
    }

    /// Byte offset and leaf of a block.
    fn leaf(&self, block: u64) -> Result<Option<(u64, TreeNode)>> {
        if block >= MAX_CORE_LENGTH {
            return Ok(None);
        }
        let Some(leaf) = self.node(block * 2)? else {
            return Ok(None);
        };
        let mut offset = 0u64;
        for index in flat_tree::full_roots(block) {
            let Some(node) = self.node(index)? else {
                return Ok(None);
            };
            offset = offset.saturating_add(node.size);
        }
        Ok(Some((offset, leaf)))
    }

    /// Byte offset and size of a block's content, if the tree nodes that tell are here.
    ///
    /// # Errors
    /// `Corrupt`, `Storage`.
    pub fn span(&self, block: u64) -> Result<Option<(u64, u64)>> {
        let padding = self.block_padding();
        let before = padding.saturating_mul(block);
        let content = |(offset, size): (u64, u64)| {
            (offset.saturating_sub(before), size.saturating_sub(padding))
        };
        Ok(self.stored_span(block)?.map(content))
    }

    /// Sizes of the content of these blocks, if the tree nodes that tell are here.
    ///
    /// # Errors
    /// `Corrupt`, `Storage`.
    pub fn sizes(&self, blocks: Range<u64>) -> Result<Option<Vec<u64>>> {
        let padding = self.block_padding();
        let size = |block: u64| {
            let leaf = if block < MAX_CORE_LENGTH { self.node(block * 2)? } else { None };
            Ok(leaf.map(|leaf| leaf.size.saturating_sub(padding)))
        };
        blocks.map(size).collect()
    }

    /// Where the stored bytes of a block are, and how many.
    pub(super) fn stored_span(&self, block: u64) -> Result<Option<(u64, u64)>> {
        Ok(self.leaf(block)?.map(|(offset, leaf)| (offset, leaf.size)))
    }

    /// Which of `blocks` holds `byte`, as far as the tree here tells. Empty blocks hold no byte
    /// and are passed over. `Malformed` if the byte is provably in none of them.
    ///
    /// # Errors
    /// `Malformed` as above, `Corrupt`, `Storage`.
    pub fn locate(&self, byte: u64, blocks: Range<u64>) -> Result<Located> {
        let mut rest = byte;
        let padding = self.block_padding();
        let (root, head) = {
            let state = self.inner.state.lock();
            let is_above = |root: &&TreeNode| {
                let size = content_size(root, padding);
                let holds = rest < size;
                if !holds {
                    rest -= size;
                }
                holds
            };
            (state.roots.iter().find(is_above).copied(), state.head)
        };
        match root {
            Some(root) => self.descend(root, rest, byte, blocks),
            None => self.beyond(byte, &blocks, head),
        }
    }

    /// The byte lies past all we know: it can only be in blocks past all we know.
    fn beyond(&self, byte: u64, blocks: &Range<u64>, head: Head) -> Result<Located> {
        let unknown = blocks.start.max(head.length)..blocks.end;
        if unknown.is_empty() { Err(outside(byte, blocks)) } else { Ok(Located::Within(unknown)) }
    }

    fn descend(
        &self,
        root: TreeNode,
        mut rest: u64,
        byte: u64,
        blocks: Range<u64>,
    ) -> Result<Located> {
        let padding = self.block_padding();
        let mut top = TreeNode { size: content_size(&root, padding), ..root };
        while let Some((left, right)) = flat_tree::children(top.index) {
            let size = |node: &TreeNode| content_size(node, padding);
            let left_size = match self.node(left)? {
                Some(left) => Some(size(&left)),
                None => self.node(right)?.and_then(|right| top.size.checked_sub(size(&right))),
            };
            let Some(left_size) = left_size else {
                let below = flat_tree::blocks(top.index);
                let narrowed = below.start.max(blocks.start)..below.end.min(blocks.end);
                return if narrowed.is_empty() {
                    Err(outside(byte, &blocks))
                } else {
                    Ok(Located::Within(narrowed))
                };
            };
            let (index, size) = if rest < left_size {
                (left, left_size)
            } else {
                rest -= left_size;
                (right, top.size.saturating_sub(left_size))
            };
            // Only index and size are used further down; the size is proven by its parent's.
            top = TreeNode { index, size, ..top };
        }
        let block = top.index / 2;
        if blocks.contains(&block) {
            Ok(Located::Found { block, offset: rest })
        } else {
            Err(outside(byte, &blocks))
        }
    }

    /// The block, from here or from a peer within `wait`.
    ///
    /// # Errors
    /// `Unavailable` or, if a peer has another history, `Forked`; `Malformed` beyond [`MAX_CORE_LENGTH`]; those of
    /// [`Core::get_local`].
    pub async fn get(&self, block: u64, wait: Wait) -> Result<Bytes> {
        if let Some(bytes) = self.get_local(block)? {
            return Ok(bytes);
        }
        if block >= MAX_CORE_LENGTH {
            return Err(Error::Malformed(format!("block {block} is beyond every core")));
        }
        let started = Instant::now();
        if wait.is_local() {
            return Err(self.unavailable(block, started));
        }
        let deadline = wait.deadline();
        let mut ticket = self.inner.demand.want(block);
        // It may have arrived before the want was heard.
        if let Some(bytes) = self.get_local(block)? {
            return Ok(bytes);
        }
        let arrived = match deadline {
            Some(deadline) => timeout_at(deadline, ticket.arrived()).await.ok().flatten(),
            None => ticket.arrived().await,
        };
        arrived.ok_or_else(|| self.unavailable(block, started))
    }

    /// Which block holds `byte`, and the offset in it, asking peers if needed; `guess` is asked
    /// for first. With [`Wait::Each`] the clock restarts whenever the search gets narrower.
    ///
    /// # Errors
    /// `Unavailable` or `Forked`; those of [`Core::locate`].
    pub async fn seek(
        &self,
        byte: u64,
        blocks: Range<u64>,
        guess: u64,
        wait: Wait,
    ) -> Result<(u64, u64)> {
        let started = Instant::now();
        let mut deadline = wait.deadline();
        let mut asked: Option<(SeekTicket, Range<u64>)> = None;
        loop {
            let within = match self.locate(byte, blocks.clone())? {
                Located::Found { block, offset } => return Ok((block, offset)),
                Located::Within(within) => within,
            };
            let guess = guess.clamp(within.start, within.end - 1);
            if wait.is_local() {
                return Err(self.unavailable(guess, started));
            }
            let Some((ticket, before)) = &mut asked else {
                // Look again after asking: the tree may have grown before the want was heard.
                asked = Some((self.inner.demand.seek(byte, within.clone(), guess), within));
                continue;
            };
            if *before != within {
                deadline = wait.deadline();
                *before = within;
            }
            let changed = match deadline {
                Some(deadline) => timeout_at(deadline, ticket.tree_changed()).await.is_ok(),
                None => {
                    ticket.tree_changed().await;
                    true
                }
            };
            if !changed {
                return Err(self.unavailable(guess, started));
            }
        }
    }

    /// Waits until the core is longer than `length`.
    ///
    /// # Errors
    /// `Unavailable` or `Forked`.
    pub async fn longer_than(&self, length: u64, wait: Wait) -> Result<Head> {
        let started = Instant::now();
        let deadline = wait.deadline();
        loop {
            let head = self.head();
            if head.length > length {
                return Ok(head);
            }
            if wait.is_local() {
                return Err(self.unavailable(length, started));
            }
            let answered = self.inner.demand.want_longer(length);
            // The head may have moved before the want was heard.
            if self.head().length > length {
                continue;
            }
            if !answered_by(deadline, answered).await {
                return Err(self.unavailable(length, started));
            }
        }
    }

    pub(super) fn unavailable(&self, block: u64, started: Instant) -> Error {
        let summary = self.inner.demand.peer_summary();
        if let Some(what) = summary.fork {
            return Error::Forked { core: self.inner.discovery_key, what };
        }
        let mut why = match summary.peers {
            0 => "no peer connected".to_owned(),
            _ if summary.remote_length == 0 && block == 0 && self.dialect() == Dialect::Modern => {
                "no connected peer says that it has a block of it: nothing was put into it yet, or they only read"
                    .to_owned()
            }
            1 => "1 peer connected, it did not deliver".to_owned(),
            peers => format!("{peers} peers connected, none delivered it"),
        };
        if let Some(trouble) = summary.last_trouble {
            why = format!("{why}; last trouble: {trouble}");
        }
        let waited = Duration::from_millis(started.elapsed().as_millis() as u64);
        Error::Unavailable { core: self.inner.discovery_key, block, waited, why }
    }
}

/// Bytes of content below a node.
fn content_size(node: &TreeNode, padding: u64) -> u64 {
    let blocks = flat_tree::blocks(node.index);
    node.size.saturating_sub(padding.saturating_mul(blocks.end - blocks.start))
}

fn outside(byte: u64, blocks: &Range<u64>) -> Error {
    Error::Malformed(format!("byte {byte} is not in blocks {}..{}", blocks.start, blocks.end))
}

/// Whether the answer came before the deadline.
async fn answered_by(deadline: Option<Instant>, answer: oneshot::Receiver<()>) -> bool {
    match deadline {
        Some(deadline) => matches!(timeout_at(deadline, answer).await, Ok(Ok(()))),
        None => answer.await.is_ok(),
    }
}
