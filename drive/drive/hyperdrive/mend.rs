//! What a power cut can leave of a writable drive: index entries whose file bytes were lost.
//!
//! A file's bytes are written before the entry that names them, but a disk may lose the one and
//! keep the other if neither was synced. Such an entry is put back to what the path held before.
//! That is one more version, not a truncation: what peers have seen of the log stays as it is.
//!
//! Which entries are looked at: those beyond the length that the index core had claimed on disk. A
//! claim is written after the content core was settled (`Core::settle_after`), so the bytes that
//! entries below it name are on the device. (`docs/durability.md`)

use std::collections::BTreeMap;
use std::ops::Range;

use super::{Drive, Edit};
use crate::path::DrivePath;
use crate::stat::{Extent, Stat};
use hypermount_core::{Core, Error, Result, Wait};

impl Drive {
    /// Puts entries whose bytes were lost back to what was there before; how many there were.
    pub(super) async fn mend(&self) -> Result<usize> {
        let lost = self.lost()?;
        let mut edits = Vec::new();
        for (key, first) in lost {
            let Ok(path) = DrivePath::parse(&key) else { continue };
            let Ok(now) = self.snapshot().entry(&path, Wait::Local).await else { continue };
            if !now.explicit || !self.is_lost(&now.stat) {
                continue;
            }
            let settled = self.metadata().recovered().start;
            let before = self.snapshot_at(self.inner.index.version_before(first, settled));
            log::warn!("{path}: its bytes were lost, probably in a power cut; put back as it was");
            edits.push(match before.entry(&path, Wait::Local).await {
                Ok(entry) if entry.explicit && !self.is_lost(&entry.stat) => {
                    Edit::Put { path, stat: entry.stat }
                }
                Ok(_) | Err(Error::NotFound) => Edit::Remove { path },
                Err(error) => return Err(error),
            });
        }
        let count = edits.len();
        if count > 0 {
            self.apply(edits).await?;
            self.sync()?;
        }
        Ok(count)
    }

    /// Keys of entries whose bytes are not all there, each with the first block that says so.
    fn lost(&self) -> Result<BTreeMap<String, u64>> {
        let mut lost = BTreeMap::new();
        let Range { start, end } = self.metadata().recovered();
        // Block 0 is the header.
        for seq in (start.max(1)..end).rev() {
            if let Some(stored) = self.inner.index.stored_at(seq)?
                && self.is_lost(&stored.stat)
            {
                lost.insert(stored.path, seq);
            }
        }
        Ok(lost)
    }

    fn is_lost(&self, stat: &Stat) -> bool {
        let Extent { block, blocks, size, .. } = stat.extent;
        let length = self.inner.content.get().map_or(0, |content: &Core| content.head().length);
        stat.mount.is_none() && size > 0 && block.saturating_add(blocks) > length
    }
}
