//! Paths and entries out of keys and values: what [`crate::index::Index`] asks of a Hyperbee.
//!
//! A name can be a file (or a link) and a directory at once. It is shown as the directory, and the file beside
//! it under the name with [`BESIDE`] at its end, unless that name exists or is too long.
//!
//! Not here: where in the tree a key is (`tree.rs`, `list.rs`), and the sizes of files with a map, which are in
//! the content core.

use std::collections::BTreeSet;

use super::block::Block;
use super::diff::Difference;
use super::entry::{self, decode};
use super::list::{Child, Place};
use super::records;
use super::time;
use super::tree::Tree;
use crate::index::budget::Budget;
use crate::index::{Changed, Stored};
use crate::path::{DrivePath, Name};
use crate::stat::{Entry, Kind};
use crate::time::Time;
use hypermount_core::{Core, Error, Result, Wait};

/// What the name of a file ends with that is shown beside a directory of its name.
const BESIDE: &str = "~file";
/// Entries of a listing that are asked for together.
const ENTRIES_AT_ONCE: usize = 4096;
/// Paths that are looked up for each change that a comparison may find: of entries, and of the directories above.
const PATHS_PER_CHANGE: usize = 4;

impl Tree {
    /// [`crate::index::Index::entry`].
    pub(crate) async fn entry(&self, path: &DrivePath, wait: Wait) -> Result<Entry> {
        match self.shown_at(path, wait).await? {
            Some(entry) => entry,
            None => match file_beside(path) {
                Some(path) => match self.place(&path, wait).await? {
                    Place { entry: Some(found), below: Some(_) } => decode(found.seq, &found.block),
                    _ => Err(Error::NotFound),
                },
                None => Err(Error::NotFound),
            },
        }
    }

    /// What is shown at `path`, or why its entry makes no sense; `None` if nothing is there.
    async fn shown_at(&self, path: &DrivePath, wait: Wait) -> Result<Option<Result<Entry>>> {
        let place = self.place(path, wait).await?;
        if let Place { entry: Some(found), below: None } = &place {
            return Ok(Some(decode(found.seq, &found.block)));
        }
        let record = self.record(path, wait).await?;
        Ok(match (place.below.max(record.below), records::recorded(&record)) {
            (None, recorded) => recorded.map(Ok),
            (Some(_), Some(recorded)) if recorded.kind == Kind::Directory => Some(Ok(recorded)),
            (Some(newest), _) => Some(Ok(directory(newest))),
        })
    }

    /// [`crate::index::Index::list`].
    pub(crate) async fn list<T>(
        &self,
        path: &DrivePath,
        wait: Wait,
        kept: impl Fn(Result<Entry>) -> Option<T>,
    ) -> Result<Vec<(Name, T)>> {
        if !path.is_root() && self.entry(path, wait).await?.kind != Kind::Directory {
            return Err(Error::NotADirectory);
        }
        self.fetch_listed(&entry::prefix_of(path), wait).await?;
        let mut budget = Budget::new(self.blocks().core());
        let children = with_files_beside(self.children(path, &mut budget, wait).await?);
        let recorded = self.recorded_children(path, &mut budget, wait).await?;
        let children = with_records(children, recorded);
        let mut entries = Vec::new();
        for part in children.chunks(ENTRIES_AT_ONCE) {
            let named = part.iter().filter_map(|(child, record)| child.entry.or(*record));
            let _wanted = self.blocks().want(named, wait);
            for (child, record) in part {
                let entry = match (child.below, child.entry.or(*record)) {
                    (Some(newest), _) => Ok(self.directory(newest, *record, wait).await?),
                    (None, Some(seq)) => {
                        let block = self.blocks().get(seq, wait).await?;
                        decode(seq, &block)
                    }
                    (None, None) => continue,
                };
                match &entry {
                    Ok(_) => {}
                    Err(Error::Malformed(why) | Error::TooLarge(why)) => {
                        log::warn!("{}: entry not listed: {why}", child.name.as_str());
                    }
                    Err(_) => return entry.map(|_| entries),
                }
                let weight = entry.as_ref().map_or(size_of::<Error>(), Entry::weight);
                budget.take(child.name.as_str().len() + weight)?;
                entries.extend(kept(entry).map(|entry| (child.name.clone(), entry)));
            }
        }
        Ok(entries)
    }

    /// [`crate::index::Index::changes`].
    pub(crate) async fn changes(
        &self,
        old: &Self,
        limit: usize,
        wait: Wait,
    ) -> Result<Vec<Changed>> {
        let mut budget = Budget::new(self.blocks().core());
        let differences = self.differences(old, limit, &mut budget, wait).await?;
        let mut paths = BTreeSet::new();
        for Difference { old, new } in differences {
            let found = old.as_ref().or(new.as_ref());
            let path = |key: &[u8]| entry::path_of(key).or_else(|| records::path_of(key));
            let Some(path) = found.and_then(|found| path(&found.block.key)) else { continue };
            // The first entry below a file makes it a directory, and the last one that goes ends that.
            let both = old.is_some() && new.is_some();
            let mut next = Some(path);
            while let Some(path) = next.filter(|path| !path.is_root() && !paths.contains(path)) {
                next = path.parent().filter(|_| !both);
                budget.take(size_of::<DrivePath>() + path.as_str().len())?;
                paths.insert(path);
            }
            if paths.len() > limit.saturating_mul(PATHS_PER_CHANGE) {
                return Err(Error::TooLarge(format!("more than {limit} differences")));
            }
        }
        let mut changes = Vec::new();
        for path in paths {
            self.change(old, &path, limit, &mut changes, wait).await?;
        }
        Ok(changes)
    }

    /// A directory of which `newest` is the newest block of what is in it, and `record` the block of its record.
    async fn directory(&self, newest: u64, record: Option<u64>, wait: Wait) -> Result<Entry> {
        let Some(seq) = record else { return Ok(directory(newest)) };
        let block = self.blocks().get(seq, wait).await?;
        let recorded = decode(seq, &block).ok().filter(|entry| entry.kind == Kind::Directory);
        Ok(recorded.unwrap_or_else(|| directory(newest)))
    }

    /// Adds what is shown differently at `path`, and of the file beside it.
    async fn change(
        &self,
        old: &Self,
        path: &DrivePath,
        limit: usize,
        changes: &mut Vec<Changed>,
        wait: Wait,
    ) -> Result<()> {
        let (before, after) = (old.place(path, wait).await?, self.place(path, wait).await?);
        let both = |place: &Place| place.entry.is_some() && place.below.is_some();
        let has_both = both(&before) || both(&after);
        let shown = (old.shown_at(path, wait).await?, self.shown_at(path, wait).await?);
        push(changes, limit, path, shown.0.and_then(Result::ok), shown.1.and_then(Result::ok))?;
        if has_both && let Some(beside) = name_beside(path) {
            let before = sensible(old.entry(&beside, wait).await)?;
            let after = sensible(self.entry(&beside, wait).await)?;
            push(changes, limit, &beside, before, after)?;
        }
        Ok(())
    }
}

/// Adds a change, unless there is none: a directory without a record is the same whatever its time.
fn push(
    changes: &mut Vec<Changed>,
    limit: usize,
    path: &DrivePath,
    before: Option<Entry>,
    after: Option<Entry>,
) -> Result<()> {
    let is_directory = |entry: &Option<Entry>| entry.as_ref().is_some_and(|entry| !entry.explicit);
    if before == after || is_directory(&before) && is_directory(&after) {
        return Ok(());
    }
    if changes.len() >= limit {
        return Err(Error::TooLarge(format!("more than {limit} differences")));
    }
    changes.push(Changed { path: path.clone(), before, after });
    Ok(())
}

fn sensible(entry: Result<Entry>) -> Result<Option<Entry>> {
    match entry {
        Ok(entry) => Ok(Some(entry)),
        Err(Error::NotFound | Error::Malformed(_) | Error::TooLarge(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Children by name, of which those that are an entry and a directory became two.
fn with_files_beside(children: Vec<Child>) -> Vec<Child> {
    let beside = children.iter().filter(|child| child.entry.is_some() && child.below.is_some());
    let beside: Vec<Child> = beside
        .filter_map(|child| {
            let name = Name::new(format!("{}{BESIDE}", child.name.as_str())).ok()?;
            let free = children.binary_search_by(|other| other.name.cmp(&name)).is_err();
            let shown = Child { name, entry: child.entry, below: None };
            free.then_some(shown)
        })
        .collect();
    if beside.is_empty() {
        return children;
    }
    let mut children = [children, beside].concat();
    children.sort_by(|one, other| one.name.cmp(&other.name));
    children
}

/// Children with the blocks of their records, by name. One that only records know has no other entry.
fn with_records(children: Vec<Child>, recorded: Vec<Child>) -> Vec<(Child, Option<u64>)> {
    let mut all: Vec<_> = children.into_iter().map(|child| (child, None)).collect();
    let known = all.len();
    for Child { name, entry, below } in recorded {
        let place = all.get(..known).unwrap_or_default();
        match place.binary_search_by(|(child, _)| child.name.cmp(&name)) {
            Ok(at) => {
                if let Some((child, record)) = all.get_mut(at) {
                    child.below = child.below.max(below);
                    *record = entry;
                }
            }
            Err(_) => all.push((Child { name, entry: None, below }, entry)),
        }
    }
    if all.len() > known {
        all.sort_by(|(one, _), (other, _)| one.name.cmp(&other.name));
    }
    all
}

/// The path at which a file is shown that has the path of a directory.
fn name_beside(path: &DrivePath) -> Option<DrivePath> {
    let name = Name::new(format!("{}{BESIDE}", path.name()?)).ok()?;
    path.parent()?.join(&name).ok()
}

/// The path of the file that is shown at `path` if it is beside a directory.
fn file_beside(path: &DrivePath) -> Option<DrivePath> {
    let name = Name::new(path.name()?.strip_suffix(BESIDE)?).ok()?;
    path.parent()?.join(&name).ok()
}

/// A directory of which `newest` is the newest block of the tree nodes that have what is in it.
fn directory(newest: u64) -> Entry {
    Entry::implied_directory(Time::from_milliseconds(time::of_block(newest)))
}

/// [`crate::index::IndexLog::stored_at`].
pub(crate) fn stored_at(core: &Core, seq: u64) -> Result<Option<Stored>> {
    if seq == 0 || !core.has(seq) {
        return Ok(None);
    }
    let Some(block) = core.get_local(seq)? else { return Ok(None) };
    let Ok(block) = Block::decode(block, seq) else { return Ok(None) };
    let Some(path) = entry::path_of(&block.key) else { return Ok(None) };
    let stat = decode(seq, &block).ok().map(|entry| entry.stat);
    Ok(stat.map(|stat| Stored { path: path.as_str().to_owned(), stat }))
}
