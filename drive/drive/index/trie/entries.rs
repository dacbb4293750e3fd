//! Paths and entries out of keys and nodes: directories that are not stored, mountpoints, names that a
//! filesystem cannot hold (hyperdrive10.md §3). Also the edits of a drive as puts and deletes.
//!
//! Not here: the walk along a key (`get.rs`), what a batch appends (`batch.rs`).

use std::sync::Arc;

use super::{
    Batch, Child, ChildNode, Difference, Found, Purpose, Removed, Trie, TrieKey, TrieNode, stat,
};
use crate::index::budget::Budget;
use crate::index::{Changed, Edit, Stored};
use crate::path::{DrivePath, Name};
use crate::stat::{Entry, Kind, Stat, TYPE_DIRECTORY};
use crate::time::Time;
use hypermount_core::{Core, Error, Result, Wait};

/// Permissions of a mountpoint that stores no stat.
const MOUNTPOINT_MODE: u32 = TYPE_DIRECTORY | 0o755;
const NESTED: &str = "the path lies in a nested drive";

/// The hidden key of the root's stat. The reference takes a node with an empty key, which the root would have,
/// for the mark of an emptied index, whatever its value: it would show nothing of the drive, or fail.
const ROOT_KEY: &str = "hypermount/root";

/// Nodes of a listing that are asked for together.
const NODES_AT_ONCE: usize = 4096;

impl Trie {
    /// [`crate::index::Index::entry`].
    pub(crate) async fn entry(&self, path: &DrivePath, wait: Wait) -> Result<Entry> {
        if path.is_root()
            && let Some(root) = self.root(wait).await?
        {
            return Ok(root);
        }
        self.look_up(path, Purpose::Lookup, wait).await
    }

    /// What is stored for the root; `None` if nothing is, or nothing that a root can be.
    async fn root(&self, wait: Wait) -> Result<Option<Entry>> {
        let node = self.get_node(&TrieKey::new(ROOT_KEY, true)?, wait).await?;
        let stat = node.and_then(|node| stat::decode(node.value.as_deref()?).ok());
        Ok(stat.map(Entry::stored).filter(|entry| entry.kind == Kind::Directory))
    }

    async fn look_up(&self, path: &DrivePath, purpose: Purpose, wait: Wait) -> Result<Entry> {
        let key = TrieKey::new(path.as_str(), false)?;
        match self.get(&key, purpose, wait).await? {
            Found::Key(node) => match self.stored_entry(&node, wait).await {
                // The root exists whatever is stored for it.
                Ok(entry) if path.is_root() && entry.kind != Kind::Directory => {
                    Ok(implied_by(&node))
                }
                Err(Error::Malformed(_)) if path.is_root() => Ok(implied_by(&node)),
                entry => entry,
            },
            Found::Below(node) => Ok(implied_by(&node)),
            Found::Nothing(node) if path.is_root() => {
                Ok(node.map_or(Entry::implied_directory(Time::default()), |node| implied_by(&node)))
            }
            Found::Nothing(_) => Err(Error::NotFound),
        }
    }

    /// [`crate::index::Index::list`].
    pub(crate) async fn list<T>(
        &self,
        path: &DrivePath,
        wait: Wait,
        kept: impl Fn(Result<Entry>) -> Option<T>,
    ) -> Result<Vec<(Name, T)>> {
        let listing = Purpose::Listing { recursive: false };
        match self.look_up(path, listing, wait).await?.kind {
            Kind::Directory | Kind::Mount => {}
            _ => return Err(Error::NotADirectory),
        }
        let key = TrieKey::new(path.as_str(), false)?;
        let mut budget = Budget::new(self.nodes().core());
        let children = self.children(&key, &mut budget, wait).await?;
        let mut entries = Vec::new();
        for part in children.chunks(NODES_AT_ONCE) {
            let _wanted = self.want_children(part, wait);
            for child in part {
                if let Some((name, entry)) = self.child(&key, child, wait).await? {
                    let weight = entry.as_ref().map_or(size_of::<Error>(), Entry::weight);
                    budget.take(name.as_str().len() + weight)?;
                    entries.extend(kept(entry).map(|entry| (name, entry)));
                }
            }
        }
        Ok(entries)
    }

    /// A child as a name and an entry, or why that makes no sense; `None` if it is not to be listed.
    async fn child(
        &self,
        key: &TrieKey,
        child: &Child,
        wait: Wait,
    ) -> Result<Option<(Name, Result<Entry>)>> {
        let Ok(name) = Name::new(child.name.as_str()) else { return Ok(None) };
        let entry = match self.child_node(key, child, wait).await? {
            None => return Ok(None),
            Some(ChildNode::Below(node)) => Ok(implied_by(&node)),
            Some(ChildNode::Own(node)) => match self.stored_entry(&node, wait).await {
                Err(Error::Malformed(why)) => {
                    log::warn!("index block {}: entry not listed: {why}", node.seq);
                    Err(Error::Malformed(why))
                }
                entry => Ok(entry?),
            },
        };
        Ok(Some((name, entry)))
    }

    /// The entry a node stores. Where another drive is mounted its stat usually says which; only
    /// if not, the hidden record is looked up.
    async fn stored_entry(&self, node: &TrieNode, wait: Wait) -> Result<Entry> {
        let value = node.value.as_deref().unwrap_or_default();
        let mut stat = match value {
            [] if node.is_mount() => Stat { mode: MOUNTPOINT_MODE, ..Stat::default() },
            value => stat::decode(value)?,
        };
        if node.is_mount() && stat.mount.is_none() {
            stat.mount = self.mount_record(node.key.text(), wait).await?;
        }
        Ok(Entry::stored(stat))
    }

    /// [`crate::index::Index::changes`].
    pub(crate) async fn changes(
        &self,
        old: &Self,
        limit: usize,
        wait: Wait,
    ) -> Result<Vec<Changed>> {
        let differences = self.differences(old, is_change, limit, wait).await?;
        let mut changes = Vec::with_capacity(differences.len());
        for Difference { old: before, new: after } in differences {
            let Some(path) = before.as_ref().or(after.as_ref()).and_then(|node| path_of(node))
            else {
                continue;
            };
            let before = old.sensible_entry(before, wait).await?;
            let after = self.sensible_entry(after, wait).await?;
            changes.push(Changed { path, before, after });
        }
        let (before, after) = (old.root(wait).await?, self.root(wait).await?);
        if before != after {
            changes.push(Changed { path: DrivePath::root(), before, after });
        }
        Ok(changes)
    }

    /// The entry of a node; `None` if it makes no sense.
    async fn sensible_entry(
        &self,
        node: Option<Arc<TrieNode>>,
        wait: Wait,
    ) -> Result<Option<Entry>> {
        match node {
            None => Ok(None),
            Some(node) => match self.stored_entry(&node, wait).await {
                Ok(entry) => Ok(Some(entry)),
                Err(Error::Malformed(_)) => Ok(None),
                Err(error) => Err(error),
            },
        }
    }
}

impl Batch {
    /// [`crate::index::Edits::add`].
    pub(crate) async fn edit(&mut self, edit: Edit) -> Result<()> {
        match edit {
            Edit::Put { path, stat } => self.put_entry(&path, &stat).await,
            Edit::Remove { path } => self.remove_entry(&path).await,
        }
    }

    async fn put_entry(&mut self, path: &DrivePath, stat: &Stat) -> Result<()> {
        if self.mount_above(path.as_str()).await?.is_some() {
            return Err(Error::ReadOnly(NESTED));
        }
        let value = stat::encode(stat)?;
        if path.is_root() {
            // Where earlier versions of this program stored it.
            self.remove(&TrieKey::new("", false)?).await?;
            return self.put(TrieKey::new(ROOT_KEY, true)?, Some(value), 0).await;
        }
        match &stat.mount {
            Some(target) if !target.core => self.put_mount(path.as_str(), target, value).await,
            Some(_) | None => self.put_plain(path.as_str(), value).await,
        }
    }

    async fn remove_entry(&mut self, path: &DrivePath) -> Result<()> {
        if self.mount_above(path.as_str()).await?.is_some() {
            return Err(Error::ReadOnly(NESTED));
        }
        let removed = match path.is_root() {
            true => self.remove(&TrieKey::new(ROOT_KEY, true)?).await?,
            false => self.remove_path(path.as_str()).await?,
        };
        match removed {
            Removed::Done => Ok(()),
            Removed::Absent => Err(Error::NotFound),
            Removed::Colliding => {
                let what =
                    "removing an entry whose name collides with another in the format's hash";
                Err(Error::Unsupported(what.into()))
            }
        }
    }
}

/// [`crate::index::IndexLog::stored_at`].
pub(crate) fn stored_at(core: &Core, seq: u64) -> Result<Option<Stored>> {
    if seq == 0 || !core.has(seq) {
        return Ok(None);
    }
    let Some(block) = core.get_local(seq)? else { return Ok(None) };
    let Ok(node) = TrieNode::decode(block, seq) else { return Ok(None) };
    if node.key.hidden() || node.is_mount() {
        return Ok(None);
    }
    let stat = node.value.as_deref().and_then(|value| stat::decode(value).ok());
    Ok(stat.map(|stat| Stored { path: node.key.text().to_owned(), stat }))
}

fn is_change(difference: &Difference) -> bool {
    let what =
        |node: &Option<Arc<TrieNode>>| node.as_ref().map(|node| (node.value.clone(), node.flags));
    what(&difference.old) != what(&difference.new)
}

/// The path of a node, if a filesystem can hold it.
fn path_of(node: &TrieNode) -> Option<DrivePath> {
    let path = DrivePath::parse(node.key.text()).ok()?;
    (path.as_str() == node.key.text()).then_some(path)
}

/// A directory without an entry of its own; its time is that of `node`, an entry below it.
fn implied_by(node: &Arc<TrieNode>) -> Entry {
    let stat = node.value.as_deref().and_then(|value| stat::decode(value).ok());
    Entry::implied_directory(stat.map_or(Time::default(), |stat| stat.mtime))
}
