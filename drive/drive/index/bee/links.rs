//! The records of files with several names, at keys of their own, which other programs pass by
//! (docs/format/links.md).

use bytes::Bytes;

use super::batch::Batch;
use super::tree::Tree;
use crate::link::LinkId;
use hypermount_core::{Result, Wait};

/// What all keys of these records begin with.
const LINKS: &[u8] = b"hypermount\0links/";

fn key_of(id: LinkId, part: u32) -> Vec<u8> {
    let mut key = [LINKS, id.to_hex().as_bytes()].concat();
    if part > 0 {
        key.extend_from_slice(format!("/{part}").as_bytes());
    }
    key
}

impl Tree {
    /// [`crate::index::Index::has_links`].
    pub(crate) async fn has_links(&self, wait: Wait) -> Result<bool> {
        if !self.blocks().has_records() {
            return Ok(false);
        }
        Ok(self.place_of(LINKS, LINKS, wait).await?.below.is_some())
    }

    /// [`crate::index::Index::link_part`].
    pub(crate) async fn link_part(
        &self,
        id: LinkId,
        part: u32,
        wait: Wait,
    ) -> Result<Option<Bytes>> {
        if !self.blocks().has_records() {
            return Ok(None);
        }
        let found = self.get(&key_of(id, part), wait).await?;
        Ok(found.and_then(|found| found.block.value.clone()))
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
        let key = key_of(id, part);
        match value {
            Some(value) => self.put(Bytes::from(key), value).await,
            None => self.remove(&key).await.map(drop),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_keys_are_those_of_no_entry_and_no_directory() {
        let key = key_of(LinkId::from_slice(&[7; 16]).unwrap(), 3);
        assert_eq!(key, b"hypermount\0links/07070707070707070707070707070707/3");
        assert_eq!(super::super::entry::path_of(&key), None);
        assert_eq!(super::super::records::path_of(&key), None);
    }
}
