//! What differs between two versions: both are walked side by side, and tree nodes that both share are
//! skipped, so they are neither fetched nor looked at.

use std::cmp::Ordering;

use super::block::Pointer;
use super::tree::{Cursor, Found, Item, Tree};
use crate::index::budget::Budget;
use hypermount_core::{Error, Result, Wait};

/// A key whose block is not the same in both versions. The values may be equal: every put writes a block.
#[derive(Clone, Debug)]
pub(crate) struct Difference {
    pub(crate) old: Option<Found>,
    pub(crate) new: Option<Found>,
}

/// What comes next in one version.
#[derive(Debug)]
enum Front {
    /// A key, already read.
    Key(Found),
    Subtree(Pointer),
    End,
}

/// One version in the walk.
struct Side {
    cursor: Cursor,
    front: Front,
}

impl Side {
    async fn new(tree: &Tree, wait: Wait) -> Result<Self> {
        let mut side = Self { cursor: tree.cursor(wait).await?, front: Front::End };
        side.advance().await?;
        Ok(side)
    }

    /// Finds out what comes next at the cursor.
    async fn advance(&mut self) -> Result<()> {
        self.front = match self.cursor.item() {
            None => Front::End,
            Some(Item::Subtree(pointer)) => Front::Subtree(pointer),
            Some(Item::Key(_)) => self.cursor.key().await?.map_or(Front::End, Front::Key),
        };
        Ok(())
    }

    /// Enters the subtree that comes next.
    async fn enter(&mut self) -> Result<()> {
        self.cursor.descend().await?;
        self.advance().await
    }

    /// Returns the next key and advances past it.
    async fn take(&mut self) -> Result<Option<Found>> {
        match std::mem::replace(&mut self.front, Front::End) {
            Front::Key(found) => {
                self.advance().await?;
                Ok(Some(found))
            }
            front => {
                self.front = front;
                Ok(None)
            }
        }
    }
}

impl Tree {
    /// The differences from `old` to this version in the order of the keys.
    ///
    /// # Errors
    /// `TooLarge` for more than `limit`, or more than `budget`; those of [`Cursor::next`].
    pub(crate) async fn differences(
        &self,
        old: &Self,
        limit: usize,
        budget: &mut Budget,
        wait: Wait,
    ) -> Result<Vec<Difference>> {
        let (mut old, mut new) = (Side::new(old, wait).await?, Side::new(self, wait).await?);
        let mut differences = Vec::new();
        loop {
            let order = match (&old.front, &new.front) {
                (Front::End, Front::End) => return Ok(differences),
                (Front::Subtree(old_node), Front::Subtree(new_node)) if old_node == new_node => {
                    old.cursor.skip();
                    new.cursor.skip();
                    old.advance().await?;
                    new.advance().await?;
                    continue;
                }
                // A tree node contains none that is newer: entering the newer of two passes none that both
                // versions share.
                (Front::Subtree(old_node), Front::Subtree(new_node)) => {
                    let side = if old_node.seq > new_node.seq { &mut old } else { &mut new };
                    side.enter().await?;
                    continue;
                }
                (Front::Subtree(_), _) => {
                    old.enter().await?;
                    continue;
                }
                (_, Front::Subtree(_)) => {
                    new.enter().await?;
                    continue;
                }
                (Front::Key(old), Front::Key(new)) => old.block.key.cmp(&new.block.key),
                (Front::Key(_), Front::End) => Ordering::Less,
                (Front::End, Front::Key(_)) => Ordering::Greater,
            };
            let old = if order.is_le() { old.take().await? } else { None };
            let new = if order.is_ge() { new.take().await? } else { None };
            let seq = |side: &Option<Found>| side.as_ref().map(|found| found.seq);
            if seq(&old) == seq(&new) {
                continue;
            }
            if differences.len() >= limit {
                return Err(Error::TooLarge(format!("more than {limit} differences")));
            }
            let sides = old.iter().chain(&new);
            budget.take(sides.map(|found| size_of::<Found>() + found.block.weight()).sum())?;
            differences.push(Difference { old, new });
        }
    }
}
