//! Reading and verifying all of a core that is on this disk, past every cache: tree nodes from the
//! signed roots down, then each block that is held.
//!
//! Not here: which files that concerns (`drive/drive/check.rs`), and damage that keeps a core from being opened
//! (`recover.rs`).

use std::ops::Range;

use super::Core;
use super::dialect::Dialect;
use super::flat_tree;
use super::merkle::{MAX_BLOCK_SIZE, TreeNode};
use super::nodes::Lookup;
use crate::error::Result;

/// Ranges of damaged blocks that are told apart; the last one covers what is beyond.
pub const MAX_DAMAGED_RANGES: usize = 4096;

/// What was found in a core.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CoreCheck {
    /// Blocks that were read and are what the author signed.
    pub sound: u64,
    /// Blocks that are held and are not, ascending.
    pub damaged: Vec<Range<u64>>,
    /// Tree nodes, and the newest signature, that were damaged and follow from what is sound.
    pub records_damaged: u64,
    /// How many of these were written again.
    pub records_repaired: u64,
    /// Proven nodes of which the nodes below do not lead there, the first ones.
    pub(crate) unproven: Vec<u64>,
    /// Lengths of which the signature does not verify and was not repaired, the first ones.
    pub unsigned: Vec<u64>,
}

/// Lengths with a damaged signature that are told.
pub(crate) const MAX_UNSIGNED: usize = 1000;
/// Signatures that are verified in one step: some 30 ms.
pub const SIGNATURES_PER_STEP: u64 = 256;

struct Walk<'a> {
    core: &'a Core,
    found: CoreCheck,
    tell: &'a mut dyn FnMut(u64),
}

impl Core {
    /// Verifies what is stored of this core up to its present head; `tell` gets the bytes of each block.
    /// Damaged records that follow from sound ones are repaired where the medium can be written; blocks
    /// are not changed.
    ///
    /// # Errors
    /// `Storage`. Damage is in the result.
    pub fn check(&self, tell: &mut dyn FnMut(u64)) -> Result<CoreCheck> {
        let (roots, head, signature) = {
            let state = self.inner.state.lock();
            (state.roots.clone(), state.head, state.signature.clone())
        };
        let mut walk = Walk { core: self, found: CoreCheck::default(), tell };
        let mut offset = 0;
        for root in &roots {
            if self.inner.files.read_node(root.index)? != Some(*root) {
                walk.repair(root)?;
            }
            walk.subtree(root, offset)?;
            offset += root.size;
        }
        if let Some(signature) = signature
            && self.inner.files.read_signature(head.length)?.as_ref() != Some(&signature)
        {
            walk.found.records_damaged += 1;
            if self.inner.writable {
                self.inner.write_head(head, &roots, &signature)?;
                walk.found.records_repaired += 1;
            }
        }
        let found = walk.found;
        if found.records_repaired > 0 {
            self.inner.sync_repaired()?;
        }
        Ok(found)
    }

    /// How many lengths may have a signature in the file that is not the head's: those below it.
    ///
    /// # Errors
    /// `Storage`.
    pub fn signed_lengths(&self) -> Result<Range<u64>> {
        Ok(1..self.head().length.min(self.inner.files.longest_signed()? + 1).max(1))
    }

    /// Verifies the signatures of these lengths, as far as the roots of that length are here; `tell` gets
    /// the bytes of each. A damaged one is written again where the secret key is here and in use: the roots
    /// lead to those of the head, so it signs nothing that is not signed already. With `blank`, others are
    /// removed: no reader here needs them, and peers get no bad proof.
    ///
    /// # Errors
    /// `Storage`. Damage is in `found`.
    pub fn check_signatures(
        &self,
        lengths: Range<u64>,
        blank: bool,
        found: &mut CoreCheck,
        tell: &mut dyn FnMut(u64),
    ) -> Result<()> {
        let files = &self.inner.files;
        let (repaired, newest) = (found.records_repaired, self.head());
        for length in lengths {
            let Some(stored) = files.read_signature(length)? else { continue };
            tell(stored.as_bytes().len() as u64);
            let Some(roots) = self.roots_at(length)? else { continue };
            let head = newest.at(length);
            if self.inner.author.signed(&roots, head, &stored) {
                continue;
            }
            found.records_damaged += 1;
            let again = match &self.inner.pair {
                Some(pair) if self.writable() => self.inner.author.sign(pair, &roots, head),
                _ => None,
            };
            if let Some(again) = again {
                self.inner.write_head(head, &roots, &again)?;
                found.records_repaired += 1;
            } else if blank && self.inner.writable {
                files.blank_signature(length)?;
                found.records_repaired += 1;
            } else if found.unsigned.len() < MAX_UNSIGNED {
                found.unsigned.push(length);
            }
        }
        if found.records_repaired > repaired { self.inner.sync_repaired() } else { Ok(()) }
    }

    /// The roots of that length, if all are here and lead to the head.
    fn roots_at(&self, length: u64) -> Result<Option<Vec<TreeNode>>> {
        let mut roots = Vec::new();
        for index in flat_tree::full_roots(length) {
            match self.lookup(index)? {
                Lookup::Known(node) => roots.push(node),
                // Of a damaged node the check of the tree tells.
                Lookup::Absent | Lookup::Damaged(_) => return Ok(None),
            }
        }
        Ok(Some(roots))
    }
}

impl Walk<'_> {
    /// Verifies what is held below a node that is proven.
    fn subtree(&mut self, node: &TreeNode, offset: u64) -> Result<()> {
        let blocks = flat_tree::blocks(node.index);
        if self.core.held(blocks.clone()) == 0 {
            return Ok(());
        }
        let Some((left, right)) = flat_tree::children(node.index) else {
            return self.block(node, offset);
        };
        match self.children(node, left, right, offset)? {
            Some((left, right)) => {
                self.subtree(&left, offset)?;
                self.subtree(&right, offset + left.size)
            }
            None => {
                if self.found.unproven.len() < MAX_DAMAGED_RANGES {
                    self.found.unproven.push(node.index);
                }
                self.damaged(blocks);
                Ok(())
            }
        }
    }

    fn block(&mut self, leaf: &TreeNode, offset: u64) -> Result<()> {
        let block = leaf.index / 2;
        (self.tell)(leaf.size);
        if self.hashed(leaf.index, offset, leaf.size)? == Some(*leaf) {
            self.found.sound += 1;
        } else if self.core.has(block) {
            // Else it was cleared meanwhile.
            self.damaged(block..block + 1);
        }
        Ok(())
    }

    /// The leaf that the bytes on disk have.
    fn hashed(&self, index: u64, offset: u64, size: u64) -> Result<Option<TreeNode>> {
        if size > MAX_BLOCK_SIZE as u64 {
            return Ok(None);
        }
        let mut bytes = vec![0; size as usize];
        let whole = self.core.inner.files.read_data(offset, &mut bytes)?;
        Ok(whole.then(|| self.core.dialect().leaf(index / 2, &bytes)))
    }

    /// The children of a proven node: as they are stored, as their own children have them, or as the
    /// blocks below have them. `None` if none of these leads to the node.
    fn children(
        &mut self,
        node: &TreeNode,
        left: u64,
        right: u64,
        offset: u64,
    ) -> Result<Option<(TreeNode, TreeNode)>> {
        let stored = [self.stored(left)?, self.stored(right)?];
        let lefts = [stored[0], self.parent_of_stored(left)?];
        let rights = [stored[1], self.parent_of_stored(right)?];
        let mut proven = pair(self.core.dialect(), node, &lefts, &rights);
        if proven.is_none() {
            let rest =
                |other: Option<TreeNode>| other.and_then(|other| node.size.checked_sub(other.size));
            let from_data = self.rebuilt(left, offset, rest(stored[1]))?;
            let lefts = [lefts[0], lefts[1], from_data];
            let mut rights = vec![rights[0], rights[1]];
            for left in lefts.into_iter().flatten() {
                if let Some(size) = node.size.checked_sub(left.size) {
                    rights.push(self.rebuilt(right, offset + left.size, Some(size))?);
                }
            }
            proven = pair(self.core.dialect(), node, &lefts, &rights);
        }
        if let Some((left, right)) = &proven {
            for (child, stored) in [left, right].into_iter().zip(stored) {
                if stored != Some(*child) {
                    self.repair(child)?;
                }
            }
        }
        Ok(proven)
    }

    fn stored(&self, index: u64) -> Result<Option<TreeNode>> {
        self.core.inner.files.read_node(index)
    }

    fn parent_of_stored(&self, index: u64) -> Result<Option<TreeNode>> {
        let Some((left, right)) = flat_tree::children(index) else { return Ok(None) };
        let pair = self.stored(left)?.zip(self.stored(right)?);
        Ok(pair.and_then(|(left, right)| self.core.dialect().parent(&left, &right)))
    }

    /// A node out of the blocks below it. Their sizes are those of their records but for the last one,
    /// which has what `size` leaves.
    fn rebuilt(&self, index: u64, offset: u64, size: Option<u64>) -> Result<Option<TreeNode>> {
        let Some((left, right)) = flat_tree::children(index) else {
            let size = match size {
                Some(size) => Some(size),
                None => self.stored(index)?.map(|stored| stored.size),
            };
            return size.map_or(Ok(None), |size| self.hashed(index, offset, size));
        };
        let Some(left) = self.rebuilt(left, offset, None)? else { return Ok(None) };
        let rest = match size.map(|size| size.checked_sub(left.size)) {
            Some(None) => return Ok(None),
            Some(rest) => rest,
            None => None,
        };
        let right = self.rebuilt(right, offset.saturating_add(left.size), rest)?;
        Ok(right.and_then(|right| self.core.dialect().parent(&left, &right)))
    }

    fn repair(&mut self, node: &TreeNode) -> Result<()> {
        self.found.records_damaged += 1;
        if self.core.inner.writable {
            self.core.inner.files.write_nodes(std::slice::from_ref(node))?;
            self.core.inner.state.lock().bits.set_node(node.index);
            self.found.records_repaired += 1;
        }
        Ok(())
    }

    /// Notes those of the blocks that are held.
    fn damaged(&mut self, blocks: Range<u64>) {
        for block in self.core.held_blocks(blocks) {
            let full = self.found.damaged.len() >= MAX_DAMAGED_RANGES;
            match self.found.damaged.last_mut() {
                Some(last) if last.end == block || full => last.end = block + 1,
                _ => self.found.damaged.push(block..block + 1),
            }
        }
    }
}

/// The first of the pairs that leads to the node.
fn pair(
    dialect: Dialect,
    node: &TreeNode,
    lefts: &[Option<TreeNode>],
    rights: &[Option<TreeNode>],
) -> Option<(TreeNode, TreeNode)> {
    let lefts = lefts.iter().flatten();
    let mut pairs = lefts.flat_map(|left| rights.iter().flatten().map(move |right| (left, right)));
    let found = pairs.find(|(left, right)| dialect.parent(left, right) == Some(*node));
    found.map(|(left, right)| (*left, *right))
}
