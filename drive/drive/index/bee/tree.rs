//! One version of a Hyperbee: looking up a key, and walking through the keys in order.
//!
//! A [`Cursor`] is a place between two keys. It holds the tree nodes from the root to there, never more
//! than [`MAX_DEPTH`]; all blocks that a tree node names are asked for together when it is entered, so a
//! remote lookup costs a round trip for each level of the tree.

use std::sync::Arc;

use bytes::Bytes;

use super::block::{Block, Pointer, TreeNode};
use super::blocks::Blocks;
use crate::index::budget::Budget;
use hypermount_core::{Error, Result, Ticket, Wait};

/// Deepest tree. One of 2^32 keys is 15 deep, since all tree nodes but the root have 5 children or more.
pub(super) const MAX_DEPTH: usize = 64;
/// Most keys and tree nodes that one walk reads; more are `TooLarge`.
pub(super) const MAX_STEPS: usize = 4_000_000;

/// One version of an index.
#[derive(Clone)]
pub(crate) struct Tree {
    blocks: Arc<Blocks>,
    version: u64,
}

/// What comes next at a [`Cursor`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Item {
    /// The keys below a tree node.
    Subtree(Pointer),
    /// The key in this block.
    Key(u64),
}

/// A key with the number of its block.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub(crate) seq: u64,
    pub(crate) block: Arc<Block>,
}

/// A tree node on the way from the root to the cursor.
struct Frame {
    node: Arc<TreeNode>,
    /// Every key below is greater than this one, and less than `before`.
    after: Option<Bytes>,
    before: Option<Bytes>,
    /// The next item: subtree `i` is number 2 `i`, key `i` number 2 `i` + 1.
    next: usize,
    _wanted: Vec<Ticket>,
}

/// A place in the order of the keys. It moves forward only.
pub(crate) struct Cursor {
    blocks: Arc<Blocks>,
    wait: Wait,
    frames: Vec<Frame>,
    /// The last key that was read as the next one.
    last: Option<Bytes>,
    steps: usize,
}

impl Tree {
    /// The index when its core was `version` blocks long.
    pub(crate) fn at(blocks: Arc<Blocks>, version: u64) -> Self {
        Self { blocks, version }
    }

    pub(crate) fn version(&self) -> u64 {
        self.version
    }

    pub(crate) fn blocks(&self) -> &Arc<Blocks> {
        &self.blocks
    }

    /// The place before the first key.
    ///
    /// # Errors
    /// `Malformed` if the version is inside a batch, which has no root then; those of [`Blocks::get`].
    pub(crate) async fn cursor(&self, wait: Wait) -> Result<Cursor> {
        let blocks = Arc::clone(&self.blocks);
        let mut cursor = Cursor { blocks, wait, frames: Vec::new(), last: None, steps: 0 };
        // Block 0 is the header.
        if let Some(seq) = self.version.checked_sub(1).filter(|seq| *seq > 0) {
            cursor.enter(Pointer { seq, level: 0 }, None, None).await?;
        }
        Ok(cursor)
    }

    /// The block with `key`.
    ///
    /// # Errors
    /// Those of [`Tree::cursor`] and of [`Cursor::next`].
    pub(crate) async fn get(&self, key: &[u8], wait: Wait) -> Result<Option<Found>> {
        let mut cursor = self.cursor(wait).await?;
        cursor.seek(key).await?;
        Ok(cursor.next().await?.filter(|found| found.block.key == key))
    }

    /// The keys from `start` on and before `end`, in order, at most `limit`. They are within `budget` until
    /// the caller gives their weight back.
    ///
    /// # Errors
    /// `TooLarge` for more than the budget; those of [`Tree::cursor`] and of [`Cursor::next`].
    pub(crate) async fn range(
        &self,
        start: &[u8],
        end: Option<&[u8]>,
        limit: usize,
        budget: &mut Budget,
        wait: Wait,
    ) -> Result<Vec<Found>> {
        let mut cursor = self.cursor(wait).await?;
        cursor.seek(start).await?;
        let mut all = Vec::new();
        while all.len() < limit
            && let Some(found) = cursor.next().await?
            && end.is_none_or(|end| *found.block.key < *end)
        {
            budget.take(size_of::<Found>() + found.block.weight())?;
            all.push(found);
        }
        Ok(all)
    }
}

impl Cursor {
    /// The next key, which the cursor then has passed.
    ///
    /// # Errors
    /// `Malformed` for a tree that is deeper than [`MAX_DEPTH`] or not in order, `TooLarge` after
    /// [`MAX_STEPS`], and those of [`Blocks::get`].
    pub(crate) async fn next(&mut self) -> Result<Option<Found>> {
        loop {
            match self.item() {
                None => return Ok(None),
                Some(Item::Subtree(_)) => self.descend().await?,
                Some(Item::Key(_)) => return self.key().await,
            }
        }
    }

    /// Goes to the first key that is `key` or greater, unless it has passed that.
    ///
    /// # Errors
    /// Those of [`Cursor::next`].
    pub(crate) async fn seek(&mut self, key: &[u8]) -> Result<()> {
        let passes = |frame: &Frame| frame.before.as_ref().is_some_and(|before| *before <= *key);
        while self.frames.last().is_some_and(passes) {
            self.frames.pop();
        }
        loop {
            let Some(frame) = self.frames.last() else { return Ok(()) };
            let (node, next) = (Arc::clone(&frame.node), frame.next);
            let (mut low, mut high) = (next / 2, node.keys.len());
            let mut equal = false;
            while low < high {
                let middle = usize::midpoint(low, high);
                let found = self.blocks.get(node.keys[middle], self.wait).await?;
                match (*found.key).cmp(key) {
                    std::cmp::Ordering::Less => low = middle + 1,
                    order => {
                        high = middle;
                        equal |= order.is_eq();
                    }
                }
            }
            let position = 2 * low + usize::from(equal);
            let Some(frame) = self.frames.last_mut() else { return Ok(()) };
            if equal || position < frame.next || node.children.is_empty() {
                frame.next = frame.next.max(position);
                return Ok(());
            }
            frame.next = position;
            self.descend().await?;
        }
    }

    /// What comes next; tree nodes that are passed are left.
    pub(super) fn item(&mut self) -> Option<Item> {
        loop {
            let frame = self.frames.last_mut()?;
            let at = frame.next / 2;
            let item = match frame.next % 2 {
                0 if frame.node.children.is_empty() && at < frame.node.keys.len() => {
                    frame.next += 1;
                    continue;
                }
                0 => frame.node.children.get(at).copied().map(Item::Subtree),
                _ => frame.node.keys.get(at).copied().map(Item::Key),
            };
            if item.is_some() {
                return item;
            }
            self.frames.pop();
        }
    }

    /// Passes what comes next.
    pub(super) fn skip(&mut self) {
        if let Some(frame) = self.frames.last_mut() {
            frame.next += 1;
        }
    }

    /// Reads and passes the key that comes next; `None` if none does.
    pub(super) async fn key(&mut self) -> Result<Option<Found>> {
        let Some(Item::Key(seq)) = self.item() else { return Ok(None) };
        self.step()?;
        let block = self.blocks.get(seq, self.wait).await?;
        self.skip();
        if let Some(frame) = self.frames.last() {
            let (after, before) = (frame.after.as_ref(), frame.before.as_ref());
            let after = self.last.as_ref().max(after);
            check_order(after, Some(&block.key), seq)?;
            check_order(Some(&block.key), before, seq)?;
        }
        self.last = Some(block.key.clone());
        Ok(Some(Found { seq, block }))
    }

    /// Enters the tree node that comes next, if one does.
    pub(super) async fn descend(&mut self) -> Result<()> {
        let Some(Item::Subtree(pointer)) = self.item() else { return Ok(()) };
        self.step()?;
        let Some(frame) = self.frames.last() else { return Ok(()) };
        let node = Arc::clone(&frame.node);
        let (mut after, mut before) = (frame.after.clone(), frame.before.clone());
        let at = frame.next / 2;
        if let Some(seq) = at.checked_sub(1).and_then(|at| node.keys.get(at)) {
            let key = self.blocks.get(*seq, self.wait).await?.key.clone();
            check_order(after.as_ref(), Some(&key), *seq)?;
            after = Some(key);
        }
        if let Some(seq) = node.keys.get(at) {
            let key = self.blocks.get(*seq, self.wait).await?.key.clone();
            check_order(Some(&key), before.as_ref(), *seq)?;
            before = Some(key);
        }
        check_order(after.as_ref(), before.as_ref(), pointer.seq)?;
        self.skip();
        self.enter(pointer, after, before).await
    }

    async fn enter(
        &mut self,
        pointer: Pointer,
        after: Option<Bytes>,
        before: Option<Bytes>,
    ) -> Result<()> {
        let Pointer { seq, level } = pointer;
        if self.frames.len() >= MAX_DEPTH {
            let what = format!("index block {seq}: the tree is deeper than {MAX_DEPTH} nodes");
            return Err(Error::Malformed(what));
        }
        let block = self.blocks.get(seq, self.wait).await?;
        let node = block.nodes.get(level).map(Arc::clone).ok_or_else(|| {
            Error::Malformed(format!("index block {seq} has no tree node at level {level}"))
        })?;
        let children = node.children.iter().map(|child| child.seq);
        let wanted = self.blocks.want(node.keys.iter().copied().chain(children), self.wait);
        self.frames.push(Frame { node, after, before, next: 0, _wanted: wanted });
        Ok(())
    }

    fn step(&mut self) -> Result<()> {
        self.steps += 1;
        if self.steps > MAX_STEPS {
            return Err(Error::TooLarge(format!("more than {MAX_STEPS} keys of an index")));
        }
        Ok(())
    }
}

/// Refuses two keys, if there are both, unless the first is less than the second.
fn check_order(first: Option<&Bytes>, second: Option<&Bytes>, seq: u64) -> Result<()> {
    match (first, second) {
        (Some(first), Some(second)) if first >= second => {
            Err(Error::Malformed(format!("index block {seq} is not in the order of the keys")))
        }
        _ => Ok(()),
    }
}
