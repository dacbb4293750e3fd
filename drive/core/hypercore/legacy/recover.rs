//! What to believe of a core's files at open (hypercore9.md §4.4, §4.5), and how they heal.
//!
//! The reference believes the bitfield. Here the bitfield only says where to begin: a length
//! counts when the roots in `tree` and a signature agree on it. Claims are written after synced
//! facts (`claims.rs`), so after a crash the files hold at least what the bitfield claims, and a
//! longer signed length whose facts are all there is taken over as well.

use super::super::bitfield::Bitfield;
use super::super::files::{CoreFiles, Recovered};
use super::super::flat_tree;
use super::super::merkle::{self, Head, MAX_BLOCK_SIZE, MAX_CORE_LENGTH, Signature, TreeNode};
use super::files::Files;
use super::{hash, proof};
use crate::error::{Error, Result};
use hypermount_swarm::crypto::{DiscoveryKey, KeyPair, PublicKey};

/// Signature slots looked at in one direction; an intact core needs one.
pub(crate) const MAX_SLOTS_SCANNED: u64 = 65_536;
/// Signatures verified in one direction: each costs about 0.1 ms.
pub(crate) const MAX_SIGNATURES_TRIED: usize = 256;

#[derive(Clone)]
struct Candidate {
    length: u64,
    roots: Vec<TreeNode>,
    signature: Signature,
}

struct Recovery<'a> {
    files: &'a Files,
    key: &'a PublicKey,
    writable: bool,
}

/// Reads the bitfield and finds the length to go on with. Writes only what is damaged, and only
/// if the medium is `writable`.
pub(crate) fn recover(
    files: &Files,
    key: &PublicKey,
    pair: Option<&KeyPair>,
    writable: bool,
) -> Result<Recovered> {
    let recovery = Recovery { files, key, writable };
    let mut bits = files.read_bitfield()?;
    let claimed = proof::claimed_length(&|node| bits.has_node(node), bits.tree_capacity());
    let claimed = claimed.min(MAX_CORE_LENGTH);
    let (found, settled) = match pair {
        Some(pair) => recovery.own(&mut bits, claimed, pair)?,
        None => (recovery.foreign(&mut bits, claimed)?, Head::default()),
    };
    let head = found.as_ref().map_or_else(Head::default, Candidate::head);
    let settled = if pair.is_some() { settled } else { head };
    let (roots, signature) = match found {
        Some(found) => (found.roots, Some(found.signature)),
        None => (Vec::new(), None),
    };
    Ok(Recovered { bits, head, roots, signature, settled, settled_signature: None })
}

fn head_of(length: u64, roots: &[TreeNode]) -> Head {
    Head { length, byte_length: merkle::byte_length(roots).unwrap_or_default(), fork: 0 }
}

impl Candidate {
    fn head(&self) -> Head {
        head_of(self.length, &self.roots)
    }
}

impl Recovery<'_> {
    /// A core others write: the longest length that verifies and continues the claimed one; what is
    /// lost is fetched again.
    fn foreign(&self, bits: &mut Bitfield, claimed: u64) -> Result<Option<Candidate>> {
        let mut way = Vec::new();
        let longest =
            self.search(claimed..=self.files.longest_signed()?, |candidate| {
                match self.connect(claimed, candidate)? {
                    Some(nodes) => {
                        way = nodes;
                        Ok(true)
                    }
                    None => Ok(false),
                }
            })?;
        let found = match longest {
            Some(found) => Some(found),
            None => self.search(1..=claimed.saturating_sub(1), |_| Ok(true))?,
        };
        let length = found.as_ref().map_or(0, |found| found.length);
        if length < claimed {
            log::warn!("core {}: length {claimed} does not verify, {length} does", self.name());
        }
        if let Some(found) = found.as_ref().filter(|found| found.length > claimed) {
            for node in found.roots.iter().map(|root| root.index).chain(way) {
                bits.set_node(node);
            }
        }
        Ok(found)
    }

    /// The nodes that lead from the roots of the `claimed` length to those of a longer candidate;
    /// `None` where the records do not: what is stored below the claimed length may then be of another
    /// history than the candidate, and the claimed length is the one to keep.
    fn connect(&self, claimed: u64, candidate: &Candidate) -> Result<Option<Vec<u64>>> {
        let mut way = Vec::new();
        // The other roots are siblings on the way up from the last one, or roots of the candidate.
        let Some(last) = flat_tree::full_roots(claimed).last() else { return Ok(Some(way)) };
        let Some(mut top) = self.files.read_node(last)? else { return Ok(None) };
        loop {
            if let Some(root) = candidate.roots.iter().find(|root| root.index == top.index) {
                return Ok((*root == top).then_some(way));
            }
            let Some(sibling) = self.files.read_node(flat_tree::sibling(top.index))? else {
                return Ok(None);
            };
            way.extend([top.index, sibling.index]);
            match hash::TREE.parent(&top, &sibling) {
                Some(parent) if parent.index <= merkle::MAX_NODE_INDEX => top = parent,
                _ => return Ok(None),
            }
        }
    }

    /// A core only we write: nothing acknowledged may vanish without a word. The head, and the length
    /// that was settled.
    fn own(
        &self,
        bits: &mut Bitfield,
        claimed: u64,
        pair: &KeyPair,
    ) -> Result<(Option<Candidate>, Head)> {
        let grown = self.grow_signed(claimed)?;
        // The first append is claimed before it is acknowledged: with nothing claimed there can
        // be one torn append, but not a torn one and another.
        let whole = grown.as_ref().map_or(claimed, |(found, _)| found.length);
        let incomplete = self.signed_beyond(whole)?;
        if claimed == 0
            && let Some(length) = incomplete.first()
            && incomplete.len() + usize::from(grown.is_some()) > 1
        {
            return Err(self.corrupt(format!(
                "the bitfield is lost, and of the signed length {length} blocks are missing"
            )));
        }
        if let Some((found, created)) = grown {
            let roots = self.read_roots(claimed)?.unwrap_or_default();
            self.repair_nodes(&created)?;
            for node in created {
                bits.set_node(node.index);
            }
            for block in claimed..found.length {
                bits.set_data(block, true);
            }
            return Ok((Some(found), head_of(claimed, &roots)));
        }
        if claimed == 0 {
            return Ok((None, Head::default()));
        }
        if let Some(found) = self.search(claimed..=claimed, |_| Ok(true))? {
            let settled = found.head();
            return Ok((Some(found), settled));
        }
        if let Some(length) = incomplete.first() {
            return Err(self.corrupt(format!(
                "length {claimed} does not verify, and of the signed length {length} blocks are missing"
            )));
        }
        self.sign_again(claimed, pair).map(|(found, settled)| (Some(found), settled))
    }

    /// The longest signed length beyond `claimed` whose blocks are all here, and the nodes from there
    /// on. Upwards, block by block: what a power cut left of later appends ends the search and does
    /// not lengthen it.
    fn grow_signed(&self, claimed: u64) -> Result<Option<(Candidate, Vec<TreeNode>)>> {
        let Some(mut roots) = self.read_roots(claimed)? else { return Ok(None) };
        let Some(mut offset) = merkle::byte_length(&roots) else { return Ok(None) };
        let (mut created, mut longest) = (Vec::new(), None);
        let slots = self.files.longest_signed()?;
        for block in claimed..slots.min(claimed.saturating_add(MAX_SLOTS_SCANNED)) {
            let Some(leaf) = self.read_leaf(block, offset)? else { break };
            offset += leaf.size;
            let Some(nodes) =
                merkle::push_leaf(&mut roots, leaf, |one, other| hash::TREE.parent(one, other))
            else {
                break;
            };
            created.extend(nodes);
            let Some(signature) = self.files.read_signature(block + 1)? else { continue };
            if hash::signed_by(self.key, &roots, block + 1, &signature) {
                let candidate = Candidate { length: block + 1, roots: roots.clone(), signature };
                longest = Some((candidate, created.len()));
            }
        }
        Ok(longest.map(|(found, count)| {
            created.truncate(count);
            (found, created)
        }))
    }

    /// Lengths beyond `length` that are signed, with their roots here: appends of which blocks are
    /// missing. Greatest first, a few of them.
    fn signed_beyond(&self, length: u64) -> Result<Vec<u64>> {
        let mut found = Vec::new();
        self.search(length + 1..=self.files.longest_signed()?, |candidate| {
            found.push(candidate.length);
            Ok(found.len() > 1)
        })?;
        Ok(found)
    }

    /// The leaf of a block, if its bytes are where they belong and agree with the record.
    fn read_leaf(&self, block: u64, offset: u64) -> Result<Option<TreeNode>> {
        let leaf = self.files.read_node(block * 2)?;
        let Some(leaf) = leaf.filter(|leaf| leaf.size <= MAX_BLOCK_SIZE as u64) else {
            return Ok(None);
        };
        let mut bytes = vec![0; leaf.size as usize];
        let whole = self.files.read_data(offset, &mut bytes)?;
        Ok((whole && hash::TREE.leaf(block, &bytes) == leaf).then_some(leaf))
    }

    /// The greatest length in the range whose stored roots and signature verify and which
    /// `accept` takes.
    fn search(
        &self,
        lengths: std::ops::RangeInclusive<u64>,
        mut accept: impl FnMut(&Candidate) -> Result<bool>,
    ) -> Result<Option<Candidate>> {
        let mut tries = 0;
        let lengths = (*lengths.start()).max(1)..=(*lengths.end()).min(MAX_CORE_LENGTH);
        for length in lengths.rev().take(MAX_SLOTS_SCANNED as usize) {
            let Some(signature) = self.files.read_signature(length)? else {
                continue;
            };
            if let Some(roots) = self.signed_roots(length, &signature)? {
                let candidate = Candidate { length, roots, signature };
                if accept(&candidate)? {
                    return Ok(Some(candidate));
                }
            }
            tries += 1;
            if tries >= MAX_SIGNATURES_TRIED {
                break;
            }
        }
        Ok(None)
    }

    /// The roots of that length if the signature agrees: as they are stored or, where a record is
    /// damaged, as their children have it.
    fn signed_roots(&self, length: u64, signature: &Signature) -> Result<Option<Vec<TreeNode>>> {
        let signed = |roots: &[TreeNode]| hash::signed_by(self.key, roots, length, signature);
        let stored = self.read_roots(length)?;
        if let Some(stored) = stored.filter(|roots| signed(roots)) {
            return Ok(Some(stored));
        }
        let mut computed = Vec::new();
        for index in flat_tree::full_roots(length) {
            let root = match flat_tree::children(index) {
                Some((left, right)) => {
                    match (self.files.read_node(left)?, self.files.read_node(right)?) {
                        (Some(left), Some(right)) => hash::TREE.parent(&left, &right),
                        _ => self.files.read_node(index)?,
                    }
                }
                None => self.files.read_node(index)?,
            };
            let Some(root) = root else {
                return Ok(None);
            };
            computed.push(root);
        }
        if merkle::byte_length(&computed).is_none() || !signed(&computed) {
            return Ok(None);
        }
        log::warn!("core {}: damaged roots of length {length} repaired", self.name());
        self.repair_nodes(&computed)?;
        Ok(Some(computed))
    }

    fn read_roots(&self, length: u64) -> Result<Option<Vec<TreeNode>>> {
        let mut roots = Vec::new();
        for index in flat_tree::full_roots(length) {
            match self.files.read_node(index)? {
                Some(root) => roots.push(root),
                None => return Ok(None),
            }
        }
        Ok(merkle::byte_length(&roots).map(|_| roots))
    }

    /// Rebuilds the tree from `start` to `end` blocks out of the data itself. `None` when a block
    /// is missing or not what its leaf says.
    fn grow_from(&self, start: u64, end: u64) -> Result<Option<(Vec<TreeNode>, Vec<TreeNode>)>> {
        let Some(mut roots) = self.read_roots(start)? else {
            return Ok(None);
        };
        let mut created = Vec::new();
        let Some(mut offset) = merkle::byte_length(&roots) else {
            return Ok(None);
        };
        for block in start..end {
            let Some(leaf) = self.read_leaf(block, offset)? else {
                return Ok(None);
            };
            let Some(nodes) =
                merkle::push_leaf(&mut roots, leaf, |one, other| hash::TREE.parent(one, other))
            else {
                return Ok(None);
            };
            created.extend(nodes);
            offset += leaf.size;
        }
        Ok(Some((roots, created)))
    }

    /// The last signature is blank or does not verify: if the data bears out the tree from the
    /// last length that does verify, the tree is put right and signed.
    fn sign_again(&self, length: u64, pair: &KeyPair) -> Result<(Candidate, Head)> {
        let base = self.search(1..=length - 1, |_| Ok(true))?;
        let base = base.map_or_else(Head::default, |found| found.head());
        let Some((roots, created)) = self.grow_from(base.length, length)? else {
            return Err(self.corrupt(format!("length {length} is not signed and does not verify")));
        };
        let stored = self.files.read_signature(length)?;
        let signature = match &stored {
            Some(stored) if hash::signed_by(self.key, &roots, length, stored) => stored.clone(),
            _ => hash::sign(pair, &roots, length),
        };
        log::warn!("core {}: length {length} was not validly signed, repaired", self.name());
        self.repair_nodes(&created)?;
        if self.writable && stored.as_ref() != Some(&signature) {
            self.files.write_signature(length, &signature)?;
        }
        Ok((Candidate { length, roots, signature }, base))
    }

    fn repair_nodes(&self, nodes: &[TreeNode]) -> Result<()> {
        for node in nodes {
            if self.writable && self.files.read_node(node.index)? != Some(*node) {
                self.files.write_nodes(std::slice::from_ref(node))?;
            }
        }
        Ok(())
    }

    fn name(&self) -> DiscoveryKey {
        self.key.discovery_key()
    }

    fn corrupt(&self, what: String) -> Error {
        Error::Corrupt { core: self.name(), file: "tree", at: 0, what }
    }
}
