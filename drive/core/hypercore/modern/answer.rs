//! Making proofs of Hypercore 10 and 11: which nodes answer a request.
//!
//! Not here: whether a peer may ask, and reading blocks; callers hand in the block, and a look-up that
//! returns believed nodes.

use bytes::Bytes;

use super::super::flat_tree;
use super::super::merkle::{Signature, TreeNode};
use super::proof::{BlockPart, HashPart, Proof, SeekPart, UpgradePart};
use super::roots::nodes_between;

/// What a peer asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Request {
    /// A block, by its number.
    pub(crate) block: Option<Way>,
    /// A node, by its index in the tree.
    pub(crate) hash: Option<Way>,
    pub(crate) seek: Option<Seek>,
    pub(crate) upgrade: Option<Upgrade>,
}

/// From where, and how many parents up, to a node that the peer knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Way {
    pub(crate) from: u64,
    /// Ignored for what is in the upgrade that is asked for as well.
    pub(crate) steps: u64,
}

/// The block that contains a byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seek {
    /// Offset of the byte, without padding.
    pub(crate) bytes: u64,
    /// Bytes of each block that do not count: 8 in an encrypted core.
    pub(crate) padding: u64,
}

/// The roots of a longer core.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Upgrade {
    /// Length of the peer's, in blocks.
    pub(crate) start: u64,
    /// By how many blocks.
    pub(crate) length: u64,
}

/// The head that is held here.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Held<'a> {
    pub(crate) fork: u64,
    /// Number of blocks.
    pub(crate) length: u64,
    /// Over this length and fork.
    pub(crate) signature: &'a Signature,
}

/// Why a request gets no proof.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Unanswered<E> {
    /// No core could answer it: the peer's fault.
    Invalid(&'static str),
    /// The block is not here.
    NoBlock,
    /// This node is not here.
    NoNode(u64),
    /// The look-up of our own nodes failed.
    Local(E),
}

/// Proves what a request asks for. `value` is the block that it asks for, if it is here; `local` returns the
/// believed node at an index.
///
/// A seek that leads nowhere near the rest of the request is answered without nodes.
///
/// # Errors
/// The request is invalid, something is not here, or the error of `local`.
pub(crate) fn answer<E>(
    request: &Request,
    held: Held<'_>,
    value: Option<Bytes>,
    local: impl FnMut(u64) -> Result<Option<TreeNode>, E>,
) -> Result<Proof, Unanswered<E>> {
    let mut source = Source { local };
    let upgrade = request.upgrade.map(|asked| plan_upgrade(asked, held.length)).transpose()?;
    let from = match (request.block, request.hash) {
        (Some(_), Some(_)) => return Err(Unanswered::Invalid("a block and a hash")),
        (Some(block), None) => Some(Way { from: block.from.saturating_mul(2), ..block }),
        (None, hash) => hash,
    };
    let path = from.map(|way| plan_way(way, upgrade.as_ref(), held.length)).transpose()?;
    let seek = match request.seek {
        Some(seek) => source.plan_seek(seek, path.as_ref(), upgrade.as_ref(), held.length)?,
        None => None,
    };
    let met = seek.as_ref().map(|seek| seek.top);
    let mut proof = Proof { fork: held.fork, ..Proof::default() };
    if let Some(path) = &path {
        let siblings = path.siblings.iter().filter(|index| Some(**index) != met).copied();
        if let Some(block) = request.block {
            let value = value.ok_or(Unanswered::NoBlock)?;
            let nodes = source.nodes(siblings)?;
            proof.block = Some(BlockPart { block: block.from, value, nodes });
        } else {
            let first = Some(path.from).filter(|from| Some(*from) != met);
            let nodes = source.nodes(first.into_iter().chain(siblings))?;
            proof.hash = Some(HashPart { index: path.from, nodes });
        }
    }
    if let Some(asked) = request.seek {
        let indexes = seek
            .iter()
            .flat_map(|path| std::iter::once(path.from).chain(path.siblings.iter().copied()));
        proof.seek = Some(SeekPart { bytes: asked.bytes, nodes: source.nodes(indexes)? });
    }
    if let Some(Planned { start, end, nodes }) = upgrade {
        let top = path.or(seek).map(|path| path.top);
        let nodes = nodes.into_iter().filter(|index| Some(*index) != top);
        proof.upgrade = Some(UpgradePart {
            start,
            length: end - start,
            nodes: source.nodes(nodes)?,
            additional: source.nodes(nodes_between(end, held.length).into_iter())?,
            signature: held.signature.clone(),
        });
    }
    Ok(proof)
}

/// An upgrade that this core can prove, and the nodes for it.
struct Planned {
    start: u64,
    end: u64,
    nodes: Vec<u64>,
}

fn plan_upgrade<E>(asked: Upgrade, length: u64) -> Result<Planned, Unanswered<E>> {
    match asked.start.checked_add(asked.length) {
        Some(end) if asked.length > 0 && end <= length => {
            Ok(Planned { start: asked.start, end, nodes: nodes_between(asked.start, end) })
        }
        _ => Err(Unanswered::Invalid("an upgrade by no blocks, or beyond the length")),
    }
}

/// A way up the tree.
struct Path {
    from: u64,
    siblings: Vec<u64>,
    top: u64,
}

impl Path {
    /// The way up from a node of a core of `length` blocks to the first one that `ends`; `None` if the way
    /// leaves the core before.
    fn climb(from: u64, length: u64, mut ends: impl FnMut(u64) -> bool) -> Option<Self> {
        let mut path = Self { from, siblings: Vec::new(), top: from };
        loop {
            if flat_tree::blocks(path.top).end > length {
                return None;
            }
            if ends(path.top) {
                return Some(path);
            }
            path.siblings.push(flat_tree::sibling(path.top));
            path.top = flat_tree::parent(path.top);
        }
    }
}

fn plan_way<E>(way: Way, upgrade: Option<&Planned>, length: u64) -> Result<Path, Unanswered<E>> {
    let blocks = flat_tree::blocks(way.from);
    let path = match upgrade {
        Some(upgrade) if blocks.start >= upgrade.start => {
            Path::climb(way.from, upgrade.end, |node| upgrade.nodes.contains(&node))
        }
        _ => {
            let mut left = way.steps;
            Path::climb(way.from, length, |_| {
                let ends = left == 0;
                left = left.saturating_sub(1);
                ends
            })
        }
    };
    path.ok_or(Unanswered::Invalid("a node that is not below the roots"))
}

/// Where nodes come from.
struct Source<F> {
    local: F,
}

impl<E, F: FnMut(u64) -> Result<Option<TreeNode>, E>> Source<F> {
    fn node(&mut self, index: u64) -> Result<TreeNode, Unanswered<E>> {
        (self.local)(index).map_err(Unanswered::Local)?.ok_or(Unanswered::NoNode(index))
    }

    fn nodes(
        &mut self,
        indexes: impl Iterator<Item = u64>,
    ) -> Result<Vec<TreeNode>, Unanswered<E>> {
        indexes.map(|index| self.node(index)).collect()
    }

    /// The way from the leaf with a byte up to the other way, or else to a node of the upgrade, or to a root
    /// that the peer has. `None` if there is no such byte or way, or if the other way passes by the leaf.
    fn plan_seek(
        &mut self,
        seek: Seek,
        path: Option<&Path>,
        upgrade: Option<&Planned>,
        length: u64,
    ) -> Result<Option<Path>, Unanswered<E>> {
        let Some(leaf) = self.find(seek, length)? else { return Ok(None) };
        Ok(match path {
            Some(path) if path.from == leaf => None,
            Some(path) => {
                Path::climb(leaf, length, |node| node == path.from || path.siblings.contains(&node))
            }
            None => {
                let known = upgrade.map_or(length, |upgrade| upgrade.start);
                Path::climb(leaf, length, |node| {
                    upgrade.is_some_and(|upgrade| upgrade.nodes.contains(&node))
                        || flat_tree::full_roots(known).any(|root| root == node)
                })
            }
        })
    }

    /// The leaf with a byte; `None` beyond the end.
    fn find(&mut self, seek: Seek, length: u64) -> Result<Option<u64>, Unanswered<E>> {
        let mut left = seek.bytes;
        for root in flat_tree::full_roots(length) {
            let size = self.size(root, seek.padding)?;
            if left >= size {
                left -= size;
                continue;
            }
            let mut top = root;
            while let Some((first, second)) = flat_tree::children(top) {
                let size = self.size(first, seek.padding)?;
                if left < size {
                    top = first;
                } else {
                    left -= size;
                    top = second;
                }
            }
            return Ok(Some(top));
        }
        Ok(None)
    }

    /// The bytes below a node that count.
    fn size(&mut self, index: u64, padding: u64) -> Result<u64, Unanswered<E>> {
        let blocks = flat_tree::blocks(index);
        let padding = padding.saturating_mul(blocks.end - blocks.start);
        Ok(self.node(index)?.size.saturating_sub(padding))
    }
}
