//! Writing: file bytes first, then one signed batch of index changes.

use std::sync::PoisonError;

use bytes::Bytes;

use super::{Drive, Edit};
use crate::error::{Error, Result};
use crate::index::trie::{Batch, Removed, Trie, stat};
use crate::path::DrivePath;
use crate::stat::{Extent, Stat};

const NOT_OURS: &str = "this machine does not hold the drive's keys";
const NESTED: &str = "the path lies in a nested drive";

impl Drive {
    /// Appends file bytes to the content core; the extent they then have. Visible to nobody until
    /// an [`Edit::Put`] names it.
    pub fn append_content(&self, blocks: &[Bytes]) -> Result<Extent> {
        if !self.writable() {
            return Err(Error::ReadOnly(NOT_OURS));
        }
        let content = self.content()?;
        // Between the two looks at the head nobody else may append.
        let _appending = self.inner.appending.lock().unwrap_or_else(PoisonError::into_inner);
        let before = content.head();
        if !blocks.is_empty() {
            content.append(blocks)?;
        }
        Ok(Extent {
            block: before.length,
            blocks: blocks.len() as u64,
            byte: before.byte_length,
            size: blocks.iter().map(|block| block.len() as u64).sum(),
        })
    }

    /// Applies the edits as one signed batch; the new version. Either all of them become visible
    /// or, on any error, none. Removing what is not there is NotFound; a nested drive's inside is
    /// ReadOnly. Safe against a killed process on return; against power loss after [`Drive::sync`].
    pub async fn apply(&self, edits: Vec<Edit>) -> Result<u64> {
        if !self.writable() {
            return Err(Error::ReadOnly(NOT_OURS));
        }
        let _writing = self.inner.writing.lock().await;
        let core = self.inner.nodes.core();
        let trie = Trie::at(self.inner.nodes.clone(), core.head().length);
        let mut batch = Batch::new(trie).await?;
        for edit in edits {
            match edit {
                Edit::Put { path, stat } => put(&mut batch, &path, &stat).await?,
                Edit::Remove { path } => remove(&mut batch, &path).await?,
            }
        }
        let blocks = batch.encode();
        if blocks.is_empty() {
            return Ok(core.head().length);
        }
        Ok(core.append(&blocks)?.length)
    }

    /// Returns when all that was written is on the disk: file bytes first, then the index that
    /// names them. Blocks on the disk.
    pub fn sync(&self) -> Result<()> {
        self.content()?.sync()?;
        self.inner.nodes.core().sync()
    }
}

async fn put(batch: &mut Batch, path: &DrivePath, stat: &Stat) -> Result<()> {
    if batch.mount_above(path.as_str()).await?.is_some() {
        return Err(Error::ReadOnly(NESTED));
    }
    let value = stat::encode(stat)?;
    match &stat.mount {
        Some(target) if !target.core => batch.put_mount(path.as_str(), target, value).await,
        Some(_) | None => batch.put_plain(path.as_str(), value).await,
    }
}

async fn remove(batch: &mut Batch, path: &DrivePath) -> Result<()> {
    if batch.mount_above(path.as_str()).await?.is_some() {
        return Err(Error::ReadOnly(NESTED));
    }
    match batch.remove_path(path.as_str()).await? {
        Removed::Done => Ok(()),
        Removed::Absent => Err(Error::NotFound),
        Removed::Colliding => {
            let what = "removing an entry whose name collides with another in the format's hash";
            Err(Error::Unsupported(what.into()))
        }
    }
}
