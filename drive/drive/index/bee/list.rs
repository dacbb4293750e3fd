//! Paths in a Hyperbee: what lies at one, and what lies directly below it. A directory has no entry of its
//! own; it exists while a key below it does.
//!
//! Not here: the entry that a value stores (`entry.rs`).

use super::entry;
use super::tree::{Found, Tree};
use crate::index::budget::Budget;
use crate::path::{DrivePath, Name};
use hypermount_core::{Result, Wait};

/// What lies at a path. A name can be an entry and a directory at once; the caller decides which it shows.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    /// The entry, if there is one.
    pub(crate) entry: Option<Found>,
    /// The newest block of the tree nodes that have all that lies below, if something does.
    pub(crate) below: Option<u64>,
}

/// A name in a directory, which can be an entry and a directory at once. A block number, not the block:
/// there may be many children, and their blocks may be large.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Child {
    pub(crate) name: Name,
    /// The block of its entry, if it has one.
    pub(crate) entry: Option<u64>,
    /// As in [`Place`].
    pub(crate) below: Option<u64>,
}

impl Child {
    /// Roughly what it takes in memory, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        size_of::<Self>() + self.name.as_str().len()
    }
}

impl Tree {
    /// What lies at `path`. The root is a directory without an entry.
    ///
    /// # Errors
    /// Those of [`Tree::get`].
    pub(crate) async fn place(&self, path: &DrivePath, wait: Wait) -> Result<Place> {
        if path.is_root() {
            return Ok(Place { entry: None, below: Some(self.version().saturating_sub(1)) });
        }
        self.place_of(&entry::key_of(path), &entry::prefix_of(path), wait).await
    }

    /// The same by the key of the path and what the keys below it begin with.
    pub(super) async fn place_of(&self, key: &[u8], below: &[u8], wait: Wait) -> Result<Place> {
        let mut cursor = self.cursor_to(key, wait).await?;
        cursor.seek(key).await?;
        let (entry, next) = match cursor.next().await? {
            Some(found) if *found.block.key == *key => (Some(found), None),
            next => (None, next),
        };
        let is_below = |found: &Found| {
            found.block.key.len() > below.len() && found.block.key.starts_with(below)
        };
        // Where there is no entry, the key that was found instead may be below.
        if !next.as_ref().is_some_and(is_below) {
            cursor.seek(&after(below)).await?;
            if !cursor.next().await?.as_ref().is_some_and(is_below) {
                return Ok(Place { entry, below: None });
            }
        }
        let newest = cursor.newest_of(below, &end_of(below)).unwrap_or_default();
        Ok(Place { entry, below: Some(newest) })
    }

    /// The names in the directory `path`, in bytewise order. Left out are those that a filesystem cannot
    /// hold. They are within `budget` until the caller gives [`Child::bytes`] back.
    ///
    /// # Errors
    /// `TooLarge` for more than the budget; those of [`Tree::get`].
    pub(crate) async fn children(
        &self,
        path: &DrivePath,
        budget: &mut Budget,
        wait: Wait,
    ) -> Result<Vec<Child>> {
        self.children_of(&entry::prefix_of(path), budget, wait).await
    }

    /// The same by what the keys below the directory begin with.
    pub(super) async fn children_of(
        &self,
        below: &[u8],
        budget: &mut Budget,
        wait: Wait,
    ) -> Result<Vec<Child>> {
        let mut cursor = self.cursor(wait).await?;
        cursor.seek(&after(below)).await?;
        let mut children = Vec::new();
        while let Some(found) = cursor.next().await? {
            let Some(rest) = found.block.key.strip_prefix(below) else { break };
            let length = rest.iter().position(|byte| *byte == b'/').unwrap_or(rest.len());
            let (name, below_it) = rest.split_at(length);
            // A slash alone: neither an entry nor one below.
            if below_it == b"/" {
                continue;
            }
            let mut newest = None;
            if !below_it.is_empty() {
                // All keys below this directory are passed at once.
                let inside = [below, name, b"/"].concat();
                newest = Some(cursor.newest_of(&inside, &end_of(&inside)).unwrap_or_default());
                cursor.seek(&end_of(&inside)).await?;
            }
            let name = std::str::from_utf8(name).ok().and_then(|name| Name::new(name).ok());
            let Some(name) = name else { continue };
            let entry = newest.is_none().then_some(found.seq);
            let child = Child { name, entry, below: newest };
            budget.take(child.bytes())?;
            children.push(child);
        }
        // An entry and a directory of one name need not follow each other: `a.txt` is between `a` and `a/b`.
        children.sort_by(|one: &Child, other| one.name.cmp(&other.name));
        children.dedup_by(|later, first| {
            let same = later.name == first.name;
            if same {
                budget.give_back(later.bytes());
                first.entry = first.entry.or(later.entry);
                first.below = first.below.max(later.below);
            }
            same
        });
        Ok(children)
    }
}

/// What follows all keys that begin with `prefix`, which ends with a slash: `0` follows `/`.
pub(super) fn end_of(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    if let Some(last) = end.last_mut() {
        *last = b'0';
    }
    end
}

/// The first key after `key`.
pub(super) fn after(key: &[u8]) -> Vec<u8> {
    [key, &[0]].concat()
}
