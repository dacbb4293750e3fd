//! One version of a drive as names and entries.

use std::sync::Arc;

use super::Snapshot;
use crate::error::{Error, Result};
use crate::index::trie::{Found, Node, Purpose, Trie, TrieKey, stat};
use crate::path::{DrivePath, Name};
use crate::stat::{Entry, Kind, Stat, TYPE_DIRECTORY};
use crate::wait::Wait;

/// Permissions of a mountpoint that stores no stat.
const MOUNTPOINT_MODE: u32 = TYPE_DIRECTORY | 0o755;

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
    /// NotADirectory / NotFound as expected.
    pub async fn list(&self, path: &DrivePath, wait: Wait) -> Result<Vec<(Name, Entry)>> {
        let listing = Purpose::Listing { recursive: false };
        match self.look_up(path, listing, wait).await?.kind {
            Kind::Directory | Kind::Mount => {}
            _ => return Err(Error::NotADirectory),
        }
        let key = TrieKey::new(path.as_str(), false)?;
        let mut entries = Vec::new();
        for child in self.trie.children(&key, wait).await? {
            let Ok(name) = Name::new(child.name) else {
                continue;
            };
            let entry = match &child.node {
                None => implied_by(&child.representative),
                Some(node) => match self.stored_entry(node, wait).await {
                    Ok(entry) => entry,
                    Err(Error::Malformed(why)) => {
                        log::warn!("index block {}: entry not listed: {why}", node.seq);
                        continue;
                    }
                    Err(error) => return Err(error),
                },
            };
            entries.push((name, entry));
        }
        Ok(entries)
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
