//! One version of a Hyperbee: looking up a key, and walking through the keys in order.
//!
//! A [`Cursor`] is a place between two keys. It holds the tree nodes from the root to there, never more
//! than [`MAX_DEPTH`]. All blocks that a tree node names are requested together when it is entered, so a
//! lookup at a distant peer costs a round trip for each level of the tree; at a near one each block is requested
//! when it is read.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use super::block::{Block, Pointer, TreeNode};
use super::blocks::Blocks;
use crate::index::budget::Budget;
use hypermount_core::{Error, Hint, Result, Ticket, Wait};

/// Deepest tree. One of 2^32 keys is 15 deep, since all tree nodes but the root have 5 children or more.
pub(super) const MAX_DEPTH: usize = 64;
/// Keys that the hint of a lookup asks for: what follows the key tells whether it is a directory.
const HINTED_KEYS: u64 = 2;
/// Keys of a directory that are fetched from a distant peer because it was looked up: the next lookup is in it.
const KEYS_OF_A_DIRECTORY: u64 = 128;
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
    /// Its block.
    seq: u64,
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
    /// Told to peers when the first block is missing.
    hint: Option<Hint>,
    /// Which keys of a tree node are compared with each other.
    compared: Compared,
}

/// Which keys of a tree node are compared with each other. A walk passes keys without reading them; one that is out of
/// order would hide a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Compared {
    /// All, when it is entered. All have been asked for then.
    All,
    /// Those that are here when a key is looked for in it: it is not to wait for the others.
    Present,
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
        self.cursor_with(None, Compared::All, wait).await
    }

    /// The same, for looking up one key.
    ///
    /// # Errors
    /// Those of [`Tree::cursor`].
    pub(super) async fn cursor_to(&self, key: &[u8], wait: Wait) -> Result<Cursor> {
        let (version, inside) = (self.version, Bytes::from([key, b"/"].concat()));
        let (key, keys) = (inside.slice(..key.len()), HINTED_KEYS);
        let inside = (!self.blocks.is_near()).then_some((inside, KEYS_OF_A_DIRECTORY));
        let hint = Hint::Entry { version, key, keys, inside };
        self.cursor_with(Some(hint), Compared::Present, wait).await
    }

    async fn cursor_with(
        &self,
        hint: Option<Hint>,
        compared: Compared,
        wait: Wait,
    ) -> Result<Cursor> {
        let blocks = Arc::clone(&self.blocks);
        let (frames, last, steps) = (Vec::new(), None, 0);
        let mut cursor = Cursor { blocks, wait, frames, last, steps, hint, compared };
        // Block 0 is the header.
        if let Some(seq) = self.version.checked_sub(1).filter(|seq| *seq > 0) {
            if self.blocks.get(seq, wait).await?.nodes.is_empty() {
                let version = self.version;
                let what =
                    format!("version {version} is inside a batch of changes, and has no root");
                return Err(Error::Malformed(what));
            }
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
    #[cfg_attr(not(test), expect(dead_code, reason = "a drive asks for places"))]
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
                let middle = self.compared_next(&node.keys, low..high);
                let found = self.block(node.keys[middle]).await?;
                match (*found.key).cmp(key) {
                    std::cmp::Ordering::Less => low = middle + 1,
                    order => {
                        high = middle;
                        equal |= order.is_eq();
                    }
                }
            }
            if self.compared == Compared::Present {
                self.check_node().await?;
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

    /// Which of these keys a search compares next: the one in the middle, or the nearest to it that is here.
    fn compared_next(&self, keys: &[u64], among: Range<usize>) -> usize {
        let middle = usize::midpoint(among.start, among.end);
        if !self.blocks.lacks(keys[middle]) {
            return middle;
        }
        let here = among.filter(|at| !self.blocks.lacks(keys[*at]));
        here.min_by_key(|at| at.abs_diff(middle)).unwrap_or(middle)
    }

    /// The block of the smallest tree node on the way to here that has all keys from `start` on and before
    /// `end`. A change of any of these keys writes that node again, in a newer block.
    pub(super) fn newest_of(&self, start: &[u8], end: &[u8]) -> Option<u64> {
        let has_all = |frame: &&Frame| {
            frame.after.as_ref().is_none_or(|after| **after < *start)
                && frame.before.as_ref().is_none_or(|before| **before >= *end)
        };
        self.frames.iter().rev().find(has_all).map(|frame| frame.seq)
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
        let block = self.block(seq).await?;
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
            let key = self.block(*seq).await?.key.clone();
            check_order(after.as_ref(), Some(&key), *seq)?;
            after = Some(key);
        }
        if let Some(seq) = node.keys.get(at) {
            let key = self.block(*seq).await?.key.clone();
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
        let block = self.block(seq).await?;
        let node = block.nodes.get(level).map(Arc::clone).ok_or_else(|| {
            Error::Malformed(format!("index block {seq} has no tree node at level {level}"))
        })?;
        let (keys, children) = match (self.blocks.is_near(), self.compared) {
            (false, _) => (&node.keys[..], &node.children[..]),
            (true, Compared::All) => (&node.keys[..], &[][..]),
            (true, Compared::Present) => (&[][..], &[][..]),
        };
        let named = keys.iter().copied().chain(children.iter().map(|child| child.seq));
        let wanted = self.blocks.want(named, self.wait);
        if !wanted.is_empty() {
            self.tell_hint();
        }
        self.frames.push(Frame { seq, node, after, before, next: 0, _wanted: wanted });
        match self.compared {
            Compared::All => self.check_node().await,
            Compared::Present => Ok(()),
        }
    }

    /// Refuses the tree node that was entered last unless its keys ascend between those that led to it. A block
    /// that has no key is refused where the walk comes to it.
    async fn check_node(&self) -> Result<()> {
        let Some(frame) = self.frames.last() else { return Ok(()) };
        let mut last = frame.after.clone();
        for seq in &frame.node.keys {
            let block = match self.compared {
                Compared::Present if self.blocks.lacks(*seq) => continue,
                Compared::Present => self.blocks.get(*seq, Wait::Local).await,
                Compared::All => self.blocks.get(*seq, self.wait).await,
            };
            let key = match block {
                Ok(block) => block.key.clone(),
                Err(Error::Malformed(_)) => continue,
                Err(_) if self.compared == Compared::Present => continue,
                Err(error) => return Err(error),
            };
            check_order(last.as_ref(), Some(&key), *seq)?;
            last = Some(key);
        }
        check_order(last.as_ref(), frame.before.as_ref(), frame.seq)
    }

    /// The block, of which peers are told what it is for if it is missing.
    async fn block(&mut self, seq: u64) -> Result<Arc<Block>> {
        if self.hint.is_some() && self.blocks.lacks(seq) {
            self.tell_hint();
        }
        self.blocks.get(seq, self.wait).await
    }

    fn tell_hint(&mut self) {
        if let Some(hint) = self.hint.take() {
            self.blocks.hint(hint, self.wait);
        }
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
