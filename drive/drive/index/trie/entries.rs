//! One version of a drive as names and entries.

use std::sync::Arc;

use super::Snapshot;
use crate::index::trie::{Budget, Child, ChildNode, Found, Node, Purpose, Trie, TrieKey, stat};
use crate::path::{DrivePath, Name};
use crate::stat::{Entry, Kind, Stat, TYPE_DIRECTORY};
use hypermount_core::error::{Error, Result};
use hypermount_core::wait::Wait;

/// Permissions of a mountpoint that stores no stat.
const MOUNTPOINT_MODE: u32 = TYPE_DIRECTORY | 0o755;

/// Nodes of a listing that are asked for together.
const NODES_AT_ONCE: usize = 4096;

impl Snapshot {
    pub(super) fn new(trie: Trie) -> Self {
        Self { trie }
    }

    /// The metadata core's length at this version.
    pub fn version(&self) -> u64 {
        self.trie.version()
    }

    /// What lies at `path`: NotFound if nothing does, and only if that is proven. Does not cross
    /// nested drives: below a mount it is NotFound.
    pub async fn entry(&self, path: &DrivePath, wait: Wait) -> Result<Entry> {
        self.look_up(path, Purpose::Lookup, wait).await
    }

    async fn look_up(&self, path: &DrivePath, purpose: Purpose, wait: Wait) -> Result<Entry> {
        let key = TrieKey::new(path.as_str(), false)?;
        match self.trie.get(&key, purpose, wait).await? {
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
                Ok(node.map_or(Entry::implied_directory(0), |node| implied_by(&node)))
            }
            Found::Nothing(_) => Err(Error::NotFound),
        }
    }

    /// The children of the directory `path`, in index order. Left out are names that a filesystem
    /// cannot hold, and entries whose stat cannot be read: looking the latter up says so.
    /// NotADirectory / NotFound as expected; TooLarge for more than
    /// [`crate::index::trie::MAX_LISTING_BYTES`], unless the drive is written here.
    pub async fn list(&self, path: &DrivePath, wait: Wait) -> Result<Vec<(Name, Entry)>> {
        self.list_as(path, wait, |entry| entry).await
    }

    /// As [`Snapshot::list`], with shared entries: there is only one copy of them at any time.
    pub async fn list_shared(
        &self,
        path: &DrivePath,
        wait: Wait,
    ) -> Result<Vec<(Name, Arc<Entry>)>> {
        self.list_as(path, wait, Arc::new).await
    }

    async fn list_as<T>(
        &self,
        path: &DrivePath,
        wait: Wait,
        kept: impl Fn(Entry) -> T,
    ) -> Result<Vec<(Name, T)>> {
        let listing = Purpose::Listing { recursive: false };
        match self.look_up(path, listing, wait).await?.kind {
            Kind::Directory | Kind::Mount => {}
            _ => return Err(Error::NotADirectory),
        }
        let key = TrieKey::new(path.as_str(), false)?;
        let mut budget = Budget::new(self.trie.nodes().core());
        let children = self.trie.children(&key, &mut budget, wait).await?;
        let mut entries = Vec::new();
        for part in children.chunks(NODES_AT_ONCE) {
            let _wanted = self.trie.want_children(part, wait);
            for child in part {
                if let Some((name, entry)) = self.child(&key, child, wait).await? {
                    budget.take(name.as_str().len() + entry.weight())?;
                    entries.push((name, kept(entry)));
                }
            }
        }
        Ok(entries)
    }

    /// A child as a name and an entry; `None` if it is not to be listed.
    async fn child(
        &self,
        key: &TrieKey,
        child: &Child,
        wait: Wait,
    ) -> Result<Option<(Name, Entry)>> {
        let Ok(name) = Name::new(child.name.as_str()) else { return Ok(None) };
        let entry = match self.trie.child_node(key, child, wait).await? {
            None => return Ok(None),
            Some(ChildNode::Below(node)) => implied_by(&node),
            Some(ChildNode::Own(node)) => match self.stored_entry(&node, wait).await {
                Ok(entry) => entry,
                Err(Error::Malformed(why)) => {
                    log::warn!("index block {}: entry not listed: {why}", node.seq);
                    return Ok(None);
                }
                Err(error) => return Err(error),
            },
        };
        Ok(Some((name, entry)))
    }

    /// The entry a node stores. Where another drive is mounted its stat usually says which; only
    /// if not, the hidden record is looked up.
    pub(super) async fn stored_entry(&self, node: &Node, wait: Wait) -> Result<Entry> {
        let value = node.value.as_deref().unwrap_or_default();
        let mut stat = match value {
            [] if node.is_mount() => Stat { mode: MOUNTPOINT_MODE, ..Stat::default() },
            value => stat::decode(value)?,
        };
        if node.is_mount() && stat.mount.is_none() {
            stat.mount = self.trie.mount_record(node.key.text(), wait).await?;
        }
        Ok(Entry::stored(stat))
    }

    pub(super) fn trie(&self) -> &Trie {
        &self.trie
    }
}

/// A directory nobody stored, as old as the newest entry below it that the index shows.
fn implied_by(node: &Arc<Node>) -> Entry {
    let stat = node.value.as_deref().and_then(|value| stat::decode(value).ok());
    Entry::implied_directory(stat.map_or(0, |stat| stat.mtime))
}
