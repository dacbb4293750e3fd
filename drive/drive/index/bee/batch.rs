//! Changing the index: the blocks that puts and removals append, one for each.
//!
//! The tree is the one that the reference makes of the same changes: a node that gets a ninth key splits in the middle, and
//! one with fewer than four takes a key of a sibling or merges with one. A tree node is written once for a batch, in
//! the block of the last change that rewrote it. So the index of no block is longer than its own change makes it, and the
//! last block has the root.
//!
//! Not here: which keys a drive stores (`edits.rs`).

use std::sync::Arc;

use bytes::Bytes;

use super::block::{Block, MAX_KEY_BYTES, MAX_KEYS, Pointer, TreeNode};
use super::blocks::Blocks;
use super::tree::{MAX_DEPTH, Tree};
use hypermount_core::{Error, Result, Wait};

/// Fewest keys of a tree node other than the root.
const MIN_KEYS: usize = MAX_KEYS / 2;

/// Changes to one version of an index, not yet appended.
pub(crate) struct Batch {
    blocks: Arc<Blocks>,
    /// Number of the first block to append.
    first: u64,
    /// Keys and values, one for each change.
    appended: Vec<(Bytes, Option<Bytes>)>,
    /// Tree nodes that were rewritten; some are no longer part of the tree.
    nodes: Vec<Rewritten>,
    root: Link,
}

/// A tree node in memory.
struct Rewritten {
    keys: Vec<u64>,
    children: Vec<Link>,
    /// The block of the last change that rewrote it.
    seq: u64,
}

/// Where a tree node is.
#[derive(Clone, Copy)]
enum Link {
    Stored(Pointer),
    /// In memory, at this place.
    Rewritten(usize),
}

/// A tree node, and which of its keys, or of its children, the way goes to.
type Way = Vec<(Link, usize)>;

fn broken() -> Error {
    Error::Malformed("the index is no B-tree: its nodes do not fit together".into())
}

impl Batch {
    /// An empty batch on top of `tree`, whose blocks must be on this machine.
    ///
    /// # Errors
    /// Those of [`Blocks::get`].
    pub(crate) async fn new(tree: &Tree) -> Result<Self> {
        let (blocks, first) = (Arc::clone(tree.blocks()), tree.version());
        let mut nodes = Vec::new();
        let root = match first.checked_sub(1).filter(|seq| *seq > 0) {
            Some(seq) => Link::Stored(Pointer { seq, level: 0 }),
            None => {
                nodes.push(Rewritten { keys: Vec::new(), children: Vec::new(), seq: first });
                Link::Rewritten(0)
            }
        };
        Ok(Self { blocks, first, appended: Vec::new(), nodes, root })
    }

    /// Number of the next block.
    fn next(&self) -> u64 {
        self.first + self.appended.len() as u64
    }

    async fn key(&self, seq: u64) -> Result<Bytes> {
        match seq.checked_sub(self.first) {
            None => Ok(self.blocks.get(seq, Wait::Local).await?.key.clone()),
            Some(at) => {
                let appended = usize::try_from(at).ok().and_then(|at| self.appended.get(at));
                appended.map(|(key, _)| key.clone()).ok_or_else(broken)
            }
        }
    }

    async fn stored(&self, pointer: Pointer) -> Result<Arc<TreeNode>> {
        let block = self.blocks.get(pointer.seq, Wait::Local).await?;
        block.nodes.get(pointer.level).cloned().ok_or_else(broken)
    }

    /// The keys and the children of a tree node.
    async fn read(&self, link: Link) -> Result<(Vec<u64>, Vec<Link>)> {
        match link {
            Link::Stored(pointer) => {
                let node = self.stored(pointer).await?;
                let children = node.children.iter().copied().map(Link::Stored).collect();
                Ok((node.keys.clone(), children))
            }
            Link::Rewritten(at) => {
                let node = self.nodes.get(at).ok_or_else(broken)?;
                Ok((node.keys.clone(), node.children.clone()))
            }
        }
    }

    /// The place in memory of a tree node that block `seq` rewrites.
    async fn rewrite(&mut self, link: Link, seq: u64) -> Result<usize> {
        match link {
            Link::Stored(_) => {
                let (keys, children) = self.read(link).await?;
                Ok(self.add(keys, children, seq))
            }
            Link::Rewritten(at) => {
                self.node(at)?.seq = seq;
                Ok(at)
            }
        }
    }

    fn add(&mut self, keys: Vec<u64>, children: Vec<Link>, seq: u64) -> usize {
        self.nodes.push(Rewritten { keys, children, seq });
        self.nodes.len() - 1
    }

    fn node(&mut self, at: usize) -> Result<&mut Rewritten> {
        self.nodes.get_mut(at).ok_or_else(broken)
    }

    /// The place of `key` among these keys, and whether it is there.
    async fn search(&self, keys: &[u64], key: &[u8]) -> Result<(usize, bool)> {
        let (mut low, mut high) = (0, keys.len());
        while low < high {
            let middle = usize::midpoint(low, high);
            let seq = *keys.get(middle).ok_or_else(broken)?;
            match (*self.key(seq).await?).cmp(key) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Equal => return Ok((middle, true)),
                std::cmp::Ordering::Greater => high = middle,
            }
        }
        Ok((low, false))
    }

    /// The way from the root to `key`, or to where it belongs in a leaf; and whether it is there.
    async fn way(&self, key: &[u8]) -> Result<(Way, bool)> {
        let (mut way, mut link) = (Vec::new(), self.root);
        loop {
            if way.len() >= MAX_DEPTH {
                return Err(broken());
            }
            let (keys, children) = self.read(link).await?;
            let (at, found) = self.search(&keys, key).await?;
            way.push((link, at));
            if found || children.is_empty() {
                return Ok((way, found));
            }
            link = *children.get(at).ok_or_else(broken)?;
        }
    }

    /// Has block `seq` rewrite all tree nodes on the way; their places in memory.
    async fn rewrite_way(&mut self, way: &Way, seq: u64) -> Result<Vec<(usize, usize)>> {
        let mut places: Vec<(usize, usize)> = Vec::with_capacity(way.len());
        for (link, at) in way {
            let place = self.rewrite(*link, seq).await?;
            match places.last() {
                Some((parent, child)) => {
                    let link = self.node(*parent)?.children.get_mut(*child);
                    *link.ok_or_else(broken)? = Link::Rewritten(place);
                }
                None => self.root = Link::Rewritten(place),
            }
            places.push((place, *at));
        }
        Ok(places)
    }

    /// Sets `key` to `value`.
    ///
    /// # Errors
    /// `TooLarge` for a key that no reader takes; those of [`Blocks::get`].
    pub(crate) async fn put(&mut self, key: Bytes, value: Bytes) -> Result<()> {
        if key.len() > MAX_KEY_BYTES {
            return Err(Error::TooLarge(format!("a key of {} bytes", key.len())));
        }
        let seq = self.next();
        let (way, found) = self.way(&key).await?;
        let mut places = self.rewrite_way(&way, seq).await?;
        self.appended.push((key, Some(value)));
        let Some((leaf, at)) = places.pop() else { return Err(broken()) };
        let keys = &mut self.node(leaf)?.keys;
        if found {
            *keys.get_mut(at).ok_or_else(broken)? = seq;
            return Ok(());
        }
        keys.insert(at, seq);
        self.split(leaf, places, seq)
    }

    /// Splits a tree node that has too many keys, and those above it that get too many by that.
    fn split(&mut self, mut at: usize, mut above: Vec<(usize, usize)>, seq: u64) -> Result<()> {
        while self.node(at)?.keys.len() > MAX_KEYS {
            let node = self.node(at)?;
            let right_keys = node.keys.split_off(MIN_KEYS + 1);
            let up = node.keys.pop().ok_or_else(broken)?;
            let right_children = match node.children.is_empty() {
                true => Vec::new(),
                false => node.children.split_off(MIN_KEYS + 1),
            };
            let right = Link::Rewritten(self.add(right_keys, right_children, seq));
            match above.pop() {
                Some((parent, child)) => {
                    let node = self.node(parent)?;
                    node.keys.insert(child, up);
                    node.children.insert(child + 1, right);
                    at = parent;
                }
                None => {
                    let root = self.add(vec![up], vec![Link::Rewritten(at), right], seq);
                    self.root = Link::Rewritten(root);
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Removes `key`; whether it was there. If it was not, nothing is appended.
    ///
    /// # Errors
    /// Those of [`Blocks::get`].
    pub(crate) async fn remove(&mut self, key: &[u8]) -> Result<bool> {
        let (mut way, found) = self.way(key).await?;
        let Some((link, at)) = way.pop().filter(|_| found) else { return Ok(false) };
        let seq = self.next();
        let inner = way.len();
        let (_, children) = self.read(link).await?;
        way.push((link, at));
        if !children.is_empty() {
            // The nearest key takes its place, of the side whose leaf has more keys.
            let (left, right) = (children.get(at), children.get(at + 1));
            let (left, right) = (*left.ok_or_else(broken)?, *right.ok_or_else(broken)?);
            let (before, before_keys) = self.edge(left, false).await?;
            let (behind, behind_keys) = self.edge(right, true).await?;
            let from_right = behind_keys > before_keys;
            if from_right && let Some((_, child)) = way.last_mut() {
                *child += 1;
            }
            way.extend(if from_right { behind } else { before });
        }
        let mut places = self.rewrite_way(&way, seq).await?;
        self.appended.push((Bytes::copy_from_slice(key), None));
        let Some((leaf, from)) = places.pop() else { return Err(broken()) };
        let keys = &mut self.node(leaf)?.keys;
        if from >= keys.len() {
            return Err(broken());
        }
        let taken = keys.remove(from);
        if let Some((node, _)) = places.get(inner).copied() {
            *self.node(node)?.keys.get_mut(at).ok_or_else(broken)? = taken;
        }
        self.balance(leaf, places, seq).await?;
        Ok(true)
    }

    /// The way to the first or to the last key below a tree node, and how many keys its leaf has.
    async fn edge(&self, mut link: Link, first: bool) -> Result<(Way, usize)> {
        let mut way = Vec::new();
        loop {
            if way.len() >= MAX_DEPTH {
                return Err(broken());
            }
            let (keys, children) = self.read(link).await?;
            let last = if children.is_empty() { &keys.len() } else { &children.len() };
            let at = if first { 0 } else { last.checked_sub(1).ok_or_else(broken)? };
            way.push((link, at));
            match children.get(at) {
                Some(child) => link = *child,
                None => return Ok((way, keys.len())),
            }
        }
    }

    /// Gives a tree node that has too few keys more of them, and those above it that lose one by that.
    async fn balance(
        &mut self,
        mut at: usize,
        mut above: Vec<(usize, usize)>,
        seq: u64,
    ) -> Result<()> {
        while let Some((parent, child)) = above.pop()
            && self.node(at)?.keys.len() < MIN_KEYS
        {
            let children = self.node(parent)?.children.clone();
            let left = child.checked_sub(1).and_then(|left| children.get(left)).copied();
            let right = children.get(child + 1).copied();
            let (on_left, on_right) = (self.count(left).await?, self.count(right).await?);
            match (left, right) {
                (Some(left), _) if on_left > MIN_KEYS => {
                    let left = self.rewrite_child(parent, child - 1, left, seq).await?;
                    self.take_from_left(left, parent, child, at)?;
                }
                (_, Some(right)) if on_right > MIN_KEYS => {
                    let right = self.rewrite_child(parent, child + 1, right, seq).await?;
                    self.take_from_right(right, parent, child, at)?;
                }
                (Some(left), _) => {
                    let left = self.rewrite_child(parent, child - 1, left, seq).await?;
                    self.merge(parent, child - 1, left, at)?;
                }
                (None, Some(right)) => {
                    let right = self.rewrite_child(parent, child + 1, right, seq).await?;
                    self.merge(parent, child, at, right)?;
                }
                (None, None) => return Err(broken()),
            }
            at = parent;
        }
        // A root without a key is replaced by its only child.
        let (keys, children) = self.read(self.root).await?;
        if let ([], [only]) = (&keys[..], &children[..]) {
            let only = self.rewrite(*only, seq).await?;
            self.root = Link::Rewritten(only);
        }
        Ok(())
    }

    async fn count(&self, link: Option<Link>) -> Result<usize> {
        match link {
            Some(link) => Ok(self.read(link).await?.0.len()),
            None => Ok(0),
        }
    }

    async fn rewrite_child(
        &mut self,
        parent: usize,
        child: usize,
        link: Link,
        seq: u64,
    ) -> Result<usize> {
        let at = self.rewrite(link, seq).await?;
        let place = self.node(parent)?.children.get_mut(child);
        *place.ok_or_else(broken)? = Link::Rewritten(at);
        Ok(at)
    }

    /// The last key of `left` goes up, and the one between goes down to `at`, which is child number `child`.
    fn take_from_left(
        &mut self,
        left: usize,
        parent: usize,
        child: usize,
        at: usize,
    ) -> Result<()> {
        let node = self.node(left)?;
        let (key, moved) = (node.keys.pop().ok_or_else(broken)?, node.children.pop());
        let between = self.node(parent)?.keys.get_mut(child - 1).ok_or_else(broken)?;
        let key = std::mem::replace(between, key);
        let node = self.node(at)?;
        node.keys.insert(0, key);
        if let Some(moved) = moved {
            node.children.insert(0, moved);
        }
        Ok(())
    }

    /// The same with the first key of `right`.
    fn take_from_right(
        &mut self,
        right: usize,
        parent: usize,
        child: usize,
        at: usize,
    ) -> Result<()> {
        let node = self.node(right)?;
        if node.keys.is_empty() {
            return Err(broken());
        }
        let key = node.keys.remove(0);
        let moved = (!node.children.is_empty()).then(|| node.children.remove(0));
        let between = self.node(parent)?.keys.get_mut(child).ok_or_else(broken)?;
        let key = std::mem::replace(between, key);
        let node = self.node(at)?;
        node.keys.push(key);
        node.children.extend(moved);
        Ok(())
    }

    /// The keys of `right`, and the one between, go to `left`, which is child number `child`.
    fn merge(&mut self, parent: usize, child: usize, left: usize, right: usize) -> Result<()> {
        let node = self.node(parent)?;
        if child >= node.keys.len() || child + 1 >= node.children.len() {
            return Err(broken());
        }
        let between = node.keys.remove(child);
        node.children.remove(child + 1);
        let right = self.node(right)?;
        let (keys, children) =
            (std::mem::take(&mut right.keys), std::mem::take(&mut right.children));
        let left = self.node(left)?;
        left.keys.push(between);
        left.keys.extend(keys);
        left.children.extend(children);
        Ok(())
    }

    /// The blocks to append, in order.
    pub(crate) fn encode(&self) -> Vec<Bytes> {
        let mut written = vec![Vec::new(); self.appended.len()];
        if !self.appended.is_empty() {
            self.number(self.root, &mut written);
        }
        let blocks = self.appended.iter().zip(written);
        let block = |((key, value), nodes): (&(Bytes, Option<Bytes>), Vec<TreeNode>)| {
            let nodes = nodes.into_iter().map(Arc::new).collect();
            Block { key: key.clone(), value: value.clone(), nodes }.encode()
        };
        blocks.map(block).collect()
    }

    /// Gives the tree nodes in memory their places in the blocks: the root first, then depth first.
    fn number(&self, link: Link, written: &mut Vec<Vec<TreeNode>>) -> Pointer {
        let unwritten = Pointer { seq: 0, level: 0 };
        let at = match link {
            Link::Stored(pointer) => return pointer,
            Link::Rewritten(at) => at,
        };
        let Some(node) = self.nodes.get(at) else { return unwritten };
        let Some(block) = node.seq.checked_sub(self.first) else { return unwritten };
        let block = block as usize;
        let Some(nodes) = written.get_mut(block) else { return unwritten };
        let level = nodes.len();
        nodes.push(TreeNode { keys: node.keys.clone(), children: Vec::new() });
        let children = node.children.iter().map(|child| self.number(*child, written)).collect();
        if let Some(own) = written.get_mut(block).and_then(|nodes| nodes.get_mut(level)) {
            own.children = children;
        }
        Pointer { seq: node.seq, level }
    }
}
