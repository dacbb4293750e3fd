//! Proofs of Hypercore 10 and 11: what a data message proves. Pure functions: *the* trust boundary.
//!
//! A proof has up to four parts. A block, a hash and a seek lead from a node up to one top; an upgrade
//! leads from the roots of one length to those of another, which are signed. The top is either one of the
//! nodes that the upgrade needs, or a node that is believed already.
//!
//! Not here: making proofs (`answer.rs`), the bytes of messages, and where nodes are stored; callers hand
//! in a look-up that returns believed nodes only.

use bytes::Bytes;

use super::super::flat_tree;
use super::super::merkle::{
    Flaw, MAX_BLOCK_SIZE, MAX_BYTE_LENGTH, MAX_CORE_LENGTH, MAX_NODE_INDEX, Signature, Signed,
    TreeNode, byte_length,
};
use super::hash;
use super::roots::{BadTree, Roots, nodes_between};
use super::signature::{MAX_SIGNATURE_BYTES, Verifier};

/// Nodes of the longest list in a proof: from any length to any other, a core of [`MAX_CORE_LENGTH`] needs
/// no more than 2 * 33.
pub(crate) const MAX_PROOF_NODES: usize = 72;

/// The parts of a data message that prove something.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Proof {
    /// The fork that the sender is at.
    pub(crate) fork: u64,
    pub(crate) block: Option<BlockPart>,
    pub(crate) hash: Option<HashPart>,
    pub(crate) seek: Option<SeekPart>,
    pub(crate) upgrade: Option<UpgradePart>,
}

/// A block, and the siblings on the way up from its leaf.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BlockPart {
    pub(crate) block: u64,
    pub(crate) value: Bytes,
    pub(crate) nodes: Vec<TreeNode>,
}

/// A node and the siblings on the way up from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HashPart {
    /// Index in the tree.
    pub(crate) index: u64,
    /// First the node itself, unless the seek leads to it.
    pub(crate) nodes: Vec<TreeNode>,
}

/// The way up from the leaf that contains a byte, until it meets the way of the other part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SeekPart {
    /// Offset of the byte in the core.
    pub(crate) bytes: u64,
    /// First the leaf; empty if the other part passes by it.
    pub(crate) nodes: Vec<TreeNode>,
}

/// The roots of a longer core.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct UpgradePart {
    /// The length, in blocks, of the core that is extended.
    pub(crate) start: u64,
    /// By how many blocks.
    pub(crate) length: u64,
    /// The nodes of [`nodes_between`] both lengths, without the top of the other parts.
    pub(crate) nodes: Vec<TreeNode>,
    /// The nodes from there to the length that is signed.
    pub(crate) additional: Vec<TreeNode>,
    /// Over the length that the additional nodes lead to.
    pub(crate) signature: Signature,
}

/// What a proof proves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Proven {
    /// The leaf of the block that came along, whose value is proven.
    pub(crate) leaf: Option<TreeNode>,
    /// Every node proven, the leaf among them; some may have been known before.
    ///
    /// Their hashes and their sums of sizes are proven. A sibling whose own children are not known may
    /// have a size that is too large by what its sibling lacks.
    pub(crate) nodes: Vec<TreeNode>,
    /// The head, at the fork of the proof, if it has an upgrade.
    pub(crate) signed: Option<Signed>,
}

fn invalid<T, E>(reason: impl Into<String>) -> Result<T, Flaw<E>> {
    Err(Flaw::Invalid(reason.into()))
}

fn flawed<E>(reason: impl std::fmt::Display) -> Flaw<E> {
    Flaw::Invalid(reason.to_string())
}

/// Verifies a proof. `leaf` is the leaf of its block, if it is hashed already. `local` returns the believed
/// node at an index, of a core at the fork of the proof; for a proof of a higher fork it returns none.
///
/// The caller compares the fork of the proof, and what it asked for, with the proof.
///
/// # Errors
/// The flaw of the proof, or the error of `local`; `Unconnected`, with the index of the node, if the way leads to
/// a node that is not known here.
pub(crate) fn verify<E>(
    verifier: &Verifier,
    proof: &Proof,
    leaf: Option<TreeNode>,
    mut local: impl FnMut(u64) -> Result<Option<TreeNode>, E>,
) -> Result<Proven, Flaw<E>> {
    check_bounds(proof)?;
    let mut nodes = Vec::new();
    let climbed = climb_all(proof, leaf, &mut nodes).map_err(flawed)?;
    let mut open = climbed.top;
    let mut signed = None;
    if let Some(upgrade) = &proof.upgrade {
        signed = Some(extend(verifier, proof.fork, upgrade, &mut open, &mut nodes, &mut local)?);
    }
    if let Some(top) = open {
        match local(top.node.index).map_err(Flaw::Local)? {
            Some(ours) if ours.hash == top.node.hash => {}
            Some(_) => return invalid(format!("node {} is another one here", top.node.index)),
            None => return Err(Flaw::Unconnected { length: top.node.index }),
        }
        if !top.computed {
            // As it came its size is not proven, and the node is known here already.
            nodes.retain(|node| node.index != top.node.index);
        }
    }
    if let Some(Signed { length, .. }) = signed {
        for node in &nodes {
            let ours = local(node.index).map_err(Flaw::Local)?;
            if ours.is_some_and(|ours| ours.hash != node.hash) {
                return Err(Flaw::Forked { length });
            }
        }
    }
    Ok(Proven { leaf: climbed.leaf, nodes, signed })
}

fn check_bounds<E>(proof: &Proof) -> Result<(), Flaw<E>> {
    let Proof { fork: _, block, hash, seek, upgrade } = proof;
    if let Some(part) = block {
        if part.block >= MAX_CORE_LENGTH {
            return invalid(format!("block {} is beyond every core", part.block));
        }
        if part.value.len() > MAX_BLOCK_SIZE {
            return invalid("block larger than 8 MiB");
        }
    }
    if let Some(upgrade) = upgrade {
        let end = upgrade.start.checked_add(upgrade.length);
        if upgrade.length == 0 || end.is_none_or(|end| end > MAX_CORE_LENGTH) {
            return invalid(format!("upgrade of {} by {} blocks", upgrade.start, upgrade.length));
        }
        if upgrade.signature.as_bytes().len() > MAX_SIGNATURE_BYTES {
            return invalid("signature too long");
        }
    }
    let lists = [
        block.as_ref().map(|part| &part.nodes),
        hash.as_ref().map(|part| &part.nodes),
        seek.as_ref().map(|part| &part.nodes),
        upgrade.as_ref().map(|part| &part.nodes),
        upgrade.as_ref().map(|part| &part.additional),
    ];
    for list in lists.into_iter().flatten() {
        if list.len() > MAX_PROOF_NODES {
            return invalid(format!("{} nodes", list.len()));
        }
        if list.iter().any(|node| node.index > MAX_NODE_INDEX || node.size > MAX_BYTE_LENGTH) {
            return invalid("a node beyond every core");
        }
    }
    Ok(())
}

/// Where a way up ends.
#[derive(Clone, Copy)]
struct Top {
    node: TreeNode,
    /// Whether it is hashed here from what is below it, so that its size is proven with its hash.
    computed: bool,
}

struct Climbed {
    leaf: Option<TreeNode>,
    top: Option<Top>,
}

/// Computes the top of block, hash and seek, and adds every node on the way to `nodes`.
fn climb_all(
    proof: &Proof,
    leaf: Option<TreeNode>,
    nodes: &mut Vec<TreeNode>,
) -> Result<Climbed, BadTree> {
    let mut seek = None;
    if let Some((first, rest)) = proof.seek.as_ref().and_then(|seek| seek.nodes.split_first()) {
        seek = Some(climb(Top { node: *first, computed: false }, rest, None, nodes)?);
    }
    if let Some(part) = &proof.block {
        // Of one message one way is proven; a hash beside the block would not be.
        if let Some(node) = proof.hash.as_ref().and_then(|hash| hash.nodes.first()) {
            return Err(BadTree::Unused(node.index));
        }
        let leaf = leaf.unwrap_or_else(|| hash::TREE.leaf(part.block, &part.value));
        let top = climb(Top { node: leaf, computed: true }, &part.nodes, seek, nodes)?;
        return Ok(Climbed { leaf: Some(leaf), top: Some(top) });
    }
    let Some(part) = &proof.hash else {
        return Ok(Climbed { leaf: None, top: seek });
    };
    let met = seek.take_if(|seek| seek.node.index == part.index);
    let (first, rest) = match (met, part.nodes.split_first()) {
        (Some(met), _) => (met, part.nodes.as_slice()),
        (None, Some((first, rest))) => (Top { node: *first, computed: false }, rest),
        (None, None) => return Err(BadTree::Missing(part.index)),
    };
    if first.node.index != part.index {
        return Err(BadTree::Unexpected { found: first.node.index, expected: part.index });
    }
    let top = climb(first, rest, seek, nodes)?;
    Ok(Climbed { leaf: None, top: Some(top) })
}

/// Makes parents of `from` and the siblings, in this order. `met` is the top of another way, and stands for
/// the sibling with its index.
fn climb(
    from: Top,
    siblings: &[TreeNode],
    mut met: Option<Top>,
    nodes: &mut Vec<TreeNode>,
) -> Result<Top, BadTree> {
    let mut siblings = siblings.iter();
    let mut top = from;
    nodes.push(top.node);
    while met.is_some() || !siblings.as_slice().is_empty() {
        let expected = flat_tree::sibling(top.node.index);
        let other = match met.take_if(|met| met.node.index == expected) {
            Some(met) => met.node,
            None => *siblings.next().ok_or(BadTree::Missing(expected))?,
        };
        if other.index != expected {
            return Err(BadTree::Unexpected { found: other.index, expected });
        }
        let parent = hash::TREE.parent(&top.node, &other).ok_or(BadTree::TooLarge)?;
        if parent.index > MAX_NODE_INDEX {
            return Err(BadTree::TooLarge);
        }
        nodes.extend([other, parent]);
        top = Top { node: parent, computed: true };
    }
    Ok(top)
}

/// Extends the roots here by an upgrade, and verifies the signature over the result. Takes the top out of
/// `open` if the upgrade needs it.
fn extend<E>(
    verifier: &Verifier,
    fork: u64,
    upgrade: &UpgradePart,
    open: &mut Option<Top>,
    nodes: &mut Vec<TreeNode>,
    local: &mut impl FnMut(u64) -> Result<Option<TreeNode>, E>,
) -> Result<Signed, Flaw<E>> {
    let end = upgrade.start.saturating_add(upgrade.length);
    verifier.check_upgrade(upgrade.start, end).map_err(flawed)?;
    let mut roots = believed_roots(upgrade.start, local)?;
    let mut listed = upgrade.nodes.iter();
    let created = roots.extend(end, |index| {
        let top = open.take_if(|top| top.node.index == index);
        top.map(|top| top.node).or_else(|| listed.next().copied()).ok_or(BadTree::Missing(index))
    });
    nodes.extend(created.map_err(flawed)?);
    if let Some(unused) = listed.next() {
        return Err(flawed(BadTree::Unused(unused.index)));
    }
    nodes.extend(extend_further(&mut roots, &upgrade.additional).map_err(flawed)?);
    verifier.verify(&roots, fork, upgrade.signature.as_bytes()).map_err(flawed)?;
    let Some(byte_length) = byte_length(roots.nodes()) else {
        return invalid("byte length beyond every core");
    };
    Ok(Signed {
        length: roots.length(),
        byte_length,
        roots: roots.nodes().to_vec(),
        signature: upgrade.signature.clone(),
    })
}

fn believed_roots<E>(
    length: u64,
    local: &mut impl FnMut(u64) -> Result<Option<TreeNode>, E>,
) -> Result<Roots, Flaw<E>> {
    let mut nodes = Vec::new();
    for index in flat_tree::full_roots(length) {
        let Some(node) = local(index).map_err(Flaw::Local)? else {
            return invalid(format!("an upgrade from {length} blocks, which are not known here"));
        };
        nodes.push(node);
    }
    Roots::new(nodes).ok_or_else(|| flawed(BadTree::TooLarge))
}

/// Extends the tree by all the nodes, of which the last one tells to what length.
fn extend_further(roots: &mut Roots, nodes: &[TreeNode]) -> Result<Vec<TreeNode>, BadTree> {
    let Some(last) = nodes.last() else { return Ok(Vec::new()) };
    let length = flat_tree::blocks(last.index).end;
    if length > MAX_CORE_LENGTH {
        return Err(BadTree::TooLarge);
    }
    if length <= roots.length() {
        return Err(BadTree::Unused(last.index));
    }
    // Else a node before the last one is missing or was not needed.
    if nodes_between(roots.length(), length).len() != nodes.len() {
        return Err(BadTree::Length(length));
    }
    let mut listed = nodes.iter();
    roots.extend(length, |index| listed.next().copied().ok_or(BadTree::Missing(index)))
}
