//! The records of files with several names, as hidden keys, which no listing of other programs meets
//! (docs/format/links.md).

use bytes::Bytes;

use super::{Batch, Found, Purpose, Removed, Trie, TrieKey};
use crate::link::LinkId;
use hypermount_core::{Error, Result, Wait};

/// Hidden directory of the records.
const LINKS: &str = "hypermount-links";

fn key_of(id: LinkId, part: u32) -> Result<TrieKey> {
    let id = id.to_hex();
    let key = if part == 0 { format!("{LINKS}/{id}") } else { format!("{LINKS}/{id}/{part}") };
    TrieKey::new(&key, true)
}

impl Trie {
    /// [`crate::index::Index::has_links`].
    pub(crate) async fn has_links(&self, wait: Wait) -> Result<bool> {
        let listing = Purpose::Listing { recursive: false };
        let found = self.get(&TrieKey::new(LINKS, true)?, listing, wait).await?;
        Ok(matches!(found, Found::Key(_) | Found::Below(_)))
    }

    /// [`crate::index::Index::link_part`].
    pub(crate) async fn link_part(
        &self,
        id: LinkId,
        part: u32,
        wait: Wait,
    ) -> Result<Option<Bytes>> {
        let node = self.get_node(&key_of(id, part)?, wait).await?;
        Ok(node.and_then(|node| node.value.clone()))
    }
}

impl Batch {
    /// [`crate::index::Edits::set_link_part`].
    pub(crate) async fn set_link_part(
        &mut self,
        id: LinkId,
        part: u32,
        value: Option<Bytes>,
    ) -> Result<()> {
        let key = key_of(id, part)?;
        let Some(value) = value else {
            return match self.remove(&key).await? {
                Removed::Done | Removed::Absent => Ok(()),
                Removed::Colliding => Err(Error::Unsupported(
                    "removing a record whose key collides with another in the format's hash".into(),
                )),
            };
        };
        self.put(key, Some(value), 0).await
    }
}
