//! Fetching what a listing needs level by level, instead of one tree node after the other: over a distance a
//! listing then takes about as many round trips as the tree has levels.
//!
//! Not here: the listing itself (`list.rs`), which then finds these blocks, and reports what is wrong with them.

use std::sync::Arc;

use bytes::Bytes;

use super::block::{Pointer, TreeNode};
use super::list::end_of;
use super::tree::{MAX_DEPTH, Tree};
use hypermount_core::{Error, Result, Ticket, Wait};

/// Most tree nodes that are read ahead for one listing. Beyond it the listing reads one node after the other.
const MAX_NODES_AHEAD: usize = 8192;
/// Tree nodes whose keys and children are asked for together.
const NODES_AT_ONCE: usize = 256;

/// A tree node to read, and the keys between which all of its keys lie.
struct Step {
    pointer: Pointer,
    after: Option<Bytes>,
    before: Option<Bytes>,
}

/// The keys of a listing: all that begin with a prefix that ends with a slash.
struct Listed {
    prefix: Vec<u8>,
    end: Vec<u8>,
}

impl Listed {
    /// Whether the listing reads a key in this tree node: not if all of them are outside of the directory, or
    /// in the same directory inside of it.
    fn reads(&self, step: &Step) -> bool {
        let after = step.after.as_deref().unwrap_or_default();
        let Some(before) = step.before.as_deref() else { return *after < *self.end };
        if *after >= *self.end || *before <= *self.prefix {
            return false;
        }
        let inside = |key: &[u8]| {
            let rest = key.strip_prefix(&*self.prefix)?;
            let slash = rest.iter().position(|byte| *byte == b'/')?;
            key.get(..=self.prefix.len() + slash).map(<[u8]>::to_vec)
        };
        inside(after).is_none_or(|directory| inside(before).as_ref() != Some(&directory))
    }
}

impl Tree {
    /// Fetches the blocks that a listing of the keys that begin with `prefix` needs, if some are missing; with
    /// [`Wait::Local`] none.
    ///
    /// # Errors
    /// Those of [`hypermount_core::Core::get`]. What makes no sense is left to the listing.
    pub(super) async fn fetch_listed(&self, prefix: &[u8], wait: Wait) -> Result<()> {
        let core = self.blocks().core();
        if wait.is_local() || core.first_missing(1..self.version()).is_none() {
            return Ok(());
        }
        // The names of this directory come before the rest of the index.
        let fetched = self.fetch_levels(prefix, wait).await;
        self.blocks().listing_lacked_block(self.version(), wait);
        fetched
    }

    /// Fetches the blocks of one level after the other.
    async fn fetch_levels(&self, prefix: &[u8], wait: Wait) -> Result<()> {
        let Some(root) = self.version().checked_sub(1).filter(|seq| *seq > 0) else {
            return Ok(());
        };
        let listed = Listed { prefix: prefix.to_vec(), end: end_of(prefix) };
        let pointer = Pointer { seq: root, level: 0 };
        let mut level = vec![Step { pointer, after: None, before: None }];
        let mut nodes = 0;
        // Dropped after the next level has wanted them again: else peers are told that they are not wanted.
        let mut _wanted: Vec<Ticket> = Vec::new();
        for _ in 0..MAX_DEPTH {
            let (mut next, mut named) = (Vec::new(), Vec::new());
            for part in level.chunks(NODES_AT_ONCE) {
                nodes += part.len();
                match self.step(part, &listed, &mut next, wait).await {
                    Ok(children) => named.extend(children),
                    Err(Error::Malformed(_) | Error::TooLarge(_)) => return Ok(()),
                    Err(error) => return Err(error),
                }
                if nodes + next.len() > MAX_NODES_AHEAD {
                    return Ok(());
                }
            }
            if next.is_empty() {
                break;
            }
            (level, _wanted) = (next, named);
        }
        Ok(())
    }

    /// Reads tree nodes of one level and their keys, and adds those of the next one that the listing reads. Returns what
    /// it wants of that level.
    async fn step(
        &self,
        part: &[Step],
        listed: &Listed,
        next: &mut Vec<Step>,
        wait: Wait,
    ) -> Result<Vec<Ticket>> {
        let blocks = self.blocks();
        let _wanted = blocks.want(part.iter().map(|step| step.pointer.seq), wait);
        let mut nodes: Vec<(&Step, Arc<TreeNode>)> = Vec::with_capacity(part.len());
        for step in part {
            let Pointer { seq, level } = step.pointer;
            let block = blocks.get(seq, wait).await?;
            nodes.extend(block.nodes.get(level).map(|node| (step, Arc::clone(node))));
        }
        let near = blocks.is_near();
        let keys = nodes.iter().flat_map(|(_, node)| node.keys.iter().copied());
        let _keys = blocks.want(keys, wait);
        let children = nodes.iter().flat_map(|(_, node)| &node.children).filter(|_| !near);
        let children = blocks.want(children.map(|child| child.seq), wait);
        for (step, node) in nodes {
            let mut after = step.after.clone();
            for at in 0..=node.keys.len() {
                let before = match node.keys.get(at) {
                    Some(seq) => Some(blocks.get(*seq, wait).await?.key.clone()),
                    None => step.before.clone(),
                };
                if let Some(pointer) = node.children.get(at).copied() {
                    let child = Step { pointer, after, before: before.clone() };
                    if listed.reads(&child) {
                        next.push(child);
                    }
                }
                after = before;
            }
        }
        Ok(children)
    }
}
