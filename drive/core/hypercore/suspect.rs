//! What a failed sync covered, and how it is made up for.
//!
//! A sync that failed says so once; the kernel then counts the pages as clean, and the next sync
//! succeeds although they never reached the device. What such a sync covered is *suspect*: it is not
//! claimed, and no sync succeeds, until it has been written again. On a core others write it is
//! forgotten instead, and fetched again.
//!
//! A stopped core is both: what it has is written again as far as it can be proven, and the rest is
//! forgotten. So is a block of our own that was cleared and fetched again, below the settled length.

use bytes::Bytes;

use super::bitfield::{DATA_BITS, TREE_BITS};
use super::files::Pages;
use super::merkle::{self, TreeNode};
use super::nodes::Lookup;
use super::{Core, Inner, flat_tree};
use crate::error::{Error, Result};

/// Nodes written again at once.
const NODES_AT_ONCE: usize = 1024;

impl Core {
    /// Writes what a failed sync covered a second time, so that the next one covers it. The lock on claims
    /// is held.
    pub(super) fn write_suspect_again(&self) -> Result<()> {
        let settled = match self.owned() {
            true => {
                self.write_unsettled_again()?;
                self.inner.state.lock().settled.length
            }
            false => u64::MAX,
        };
        self.write_unclaimed_again(settled)
    }

    /// Writes the facts of all blocks that are not settled a second time. What is read back is proven by
    /// the roots, which never left the memory.
    fn write_unsettled_again(&self) -> Result<()> {
        let files = &self.inner.files;
        let (settled, target, roots, signature) = {
            let state = self.inner.state.lock();
            (state.settled, state.head, state.roots.clone(), state.signature.clone())
        };
        let lost = |block| {
            self.corrupt("data", block, "a sync failed, and what it covered cannot be read back")
        };
        let mut found = Vec::new();
        for index in flat_tree::full_roots(settled.length) {
            found.push(self.node(index)?.ok_or_else(|| lost(settled.length))?);
        }
        let mut created = Vec::new();
        let mut offset = settled.byte_length;
        for block in settled.length..target.length {
            let stored = files.read_node(block * 2)?.ok_or_else(|| lost(block))?;
            let leaf = match self.has(block) {
                true => self.write_block_again(offset, stored)?.ok_or_else(|| lost(block))?,
                // Cleared: only its node counts.
                false => stored,
            };
            created.extend(self.dialect().push_leaf(&mut found, leaf).ok_or_else(|| lost(block))?);
            offset += leaf.size;
            // That of the last block is at hand; the others matter only to peers that ask about them.
            if let Some(stored) = files.read_signature(block + 1)?
                && self.inner.author.signed(&found, target.at(block + 1), &stored)
            {
                self.inner.write_head(target.at(block + 1), &found, &stored)?;
            }
        }
        if found != roots {
            return Err(lost(settled.length));
        }
        created.sort_unstable_by_key(|node| node.index);
        files.write_nodes(&created)?;
        match &signature {
            Some(signature) => self.inner.write_head(target, &roots, signature),
            None => Ok(()),
        }
    }

    /// Writes the bytes of a block again as they read now; the leaf they have. `None` if they are gone.
    fn write_block_again(&self, offset: u64, stored: TreeNode) -> Result<Option<TreeNode>> {
        if stored.size > merkle::MAX_BLOCK_SIZE as u64 {
            return Ok(None);
        }
        let mut bytes = vec![0; stored.size as usize];
        if !self.inner.files.read_data(offset, &mut bytes)? {
            return Ok(None);
        }
        self.inner.files.write_data(offset, &bytes)?;
        Ok(Some(self.dialect().leaf(stored.index / 2, &bytes)))
    }

    /// Writes the blocks below `end`, and their nodes, again that the bitfield in memory claims and that of
    /// the file does not, as far as they can be proven, and forgets the others.
    fn write_unclaimed_again(&self, end: u64) -> Result<()> {
        let pages = self.inner.state.lock().bits.dirty_pages();
        for (page, bytes) in pages {
            let claimed = self.inner.files.read_claims(page)?;
            let new = added_bits(&bytes, &claimed);
            let (nodes, blocks) = split(page, new);
            self.write_nodes_again(nodes.filter(|node| flat_tree::blocks(*node).end <= end))?;
            for block in blocks.filter(|block| *block < end) {
                self.write_proven_again(block)?;
            }
        }
        if end == u64::MAX { self.inner.write_head_again() } else { Ok(()) }
    }

    /// A node that is believed is written again; what is not here, or does not lead to the roots, is
    /// forgotten.
    fn write_nodes_again(&self, indexes: impl Iterator<Item = u64>) -> Result<()> {
        let mut nodes = Vec::new();
        for index in indexes {
            match self.lookup(index)? {
                Lookup::Known(node) => nodes.push(node),
                _ => self.inner.state.lock().bits.clear_node(index),
            }
            if nodes.len() >= NODES_AT_ONCE {
                self.inner.files.write_nodes(&std::mem::take(&mut nodes))?;
            }
        }
        self.inner.files.write_nodes(&nodes)
    }

    fn write_proven_again(&self, block: u64) -> Result<()> {
        if let Some((offset, bytes)) = self.read_proven(block)? {
            return self.inner.files.write_data(offset, &bytes);
        }
        self.inner.state.lock().bits.set_data(block, false);
        self.inner.cache.remove(self.cache_id(), block);
        log::warn!("core {}: block {block} was lost by a failed sync", self.inner.discovery_key);
        Ok(())
    }

    /// The bytes of a block and where they are; `None` if they cannot be proven any more.
    fn read_proven(&self, block: u64) -> Result<Option<(u64, Bytes)>> {
        let read = || -> Result<_> { Ok(self.read_block(block)?.zip(self.stored_span(block)?)) };
        match read() {
            Ok(found) => Ok(found.map(|(bytes, (offset, _))| (offset, bytes))),
            Err(Error::Corrupt { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// The bits of `now` that `before`, which may be shorter, has not.
fn added_bits(now: &[u8], before: &[u8]) -> Vec<u8> {
    let before = before.iter().copied().chain(std::iter::repeat(0));
    now.iter().zip(before).map(|(now, before)| now & !before).collect()
}

/// The nodes and the blocks that the bits of a page stand for.
fn split(page: usize, bits: Vec<u8>) -> (impl Iterator<Item = u64>, impl Iterator<Item = u64>) {
    let data = (DATA_BITS / 8) as usize;
    let tree = bits.get(data..data + (TREE_BITS / 8) as usize).unwrap_or_default().to_vec();
    let blocks = bits.get(..data).unwrap_or_default().to_vec();
    (set_bits(page as u64 * TREE_BITS, tree), set_bits(page as u64 * DATA_BITS, blocks))
}

fn set_bits(first: u64, bytes: Vec<u8>) -> impl Iterator<Item = u64> {
    let numbered = bytes.into_iter().enumerate().filter(|(_, byte)| *byte != 0);
    numbered.flat_map(move |(at, byte)| {
        (0..8)
            .filter(move |bit| byte & (0x80 >> bit) != 0)
            .map(move |bit| first + at as u64 * 8 + bit)
    })
}

impl Inner {
    /// A sync of the facts that these pages claim has failed.
    pub(super) fn distrust(&self, pages: Pages) {
        if self.pair.is_some() {
            self.mark_dirty(&pages);
            self.state.lock().suspect = true;
            return;
        }
        // The claims in the file were synced before. Of a page that cannot be read nothing is claimed.
        let claimed = |page| self.files.read_claims(page).unwrap_or_default();
        let stored: Vec<_> = pages.iter().map(|(page, _)| (*page, claimed(*page))).collect();
        self.state.lock().bits.replace(&stored);
        if let Err(error) = self.write_head_again() {
            log::warn!("{}: {error}", self.directory.display());
        }
    }

    /// The head stays what it is, and needs its roots.
    fn write_head_again(&self) -> Result<()> {
        let mut state = self.state.lock();
        let roots = state.roots.clone();
        for root in &roots {
            state.bits.set_node(root.index);
        }
        let (head, signature) = (state.head, state.signature.clone());
        drop(state);
        self.files.write_nodes(&roots)?;
        match &signature {
            Some(signature) => self.write_head(head, &roots, signature),
            None => Ok(()),
        }
    }
}
