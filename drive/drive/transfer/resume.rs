//! Where the import of a large file had got to when it was interrupted: a note in the store of where
//! in the content core its blocks begin. Blocks found there count only if they are still the file's.

use std::fs::{self, File};
use std::io::{Seek, SeekFrom};
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::{BLOCK_BYTES, failed, local};
use crate::hyperdrive::Drive;
use crate::stat::Extent;
use hypermount_core::{Core, Result, private_files};

/// The note, in the store's directory.
const NOTE: &str = "hypermount.import";
/// Files smaller than this are imported from the start again: the bytes lost to the log are few.
pub(super) const MIN_BYTES: u64 = 16 * 1024 * 1024;

pub(super) struct Note {
    path: PathBuf,
}

impl Note {
    /// `None` for a store in memory.
    pub(super) fn of(drive: &Drive) -> Option<Self> {
        Some(Self { path: drive.store().root()?.join(NOTE) })
    }

    /// The blocks of `file` that an earlier run appended last; `file` is left behind them.
    pub(super) fn resume(
        &self,
        content: &Core,
        file: &mut File,
        path: &Path,
    ) -> Result<Option<Extent>> {
        let begun = self.read(content).filter(|block| *block < content.head().length);
        let found = match begun {
            Some(block) => matching(content, block, file, path)?,
            None => None,
        };
        if found.is_none() {
            file.seek(SeekFrom::Start(0)).map_err(failed("seek", path))?;
        }
        Ok(found)
    }

    /// Those of `blocks`, the first ones, that an earlier run appended last.
    pub(super) fn resume_blocks(
        &self,
        content: &Core,
        mut blocks: impl Iterator<Item = Result<Bytes>>,
    ) -> Result<Option<Extent>> {
        let head = content.head();
        let Some(first) = self.read(content).filter(|block| *block < head.length) else {
            return Ok(None);
        };
        let mut size = 0;
        for block in first..head.length {
            let ours = blocks.next().transpose()?;
            let stored = content.get_local(block)?;
            let Some(ours) = ours.filter(|ours| stored.as_ref() == Some(ours)) else {
                return Ok(None);
            };
            size += ours.len() as u64;
        }
        let byte = content.plain_bytes().checked_sub(size);
        let extent = |byte| Extent {
            block: first,
            blocks: head.length - first,
            byte,
            size,
            ..Extent::default()
        };
        Ok(byte.map(extent))
    }

    fn read(&self, content: &Core) -> Option<u64> {
        let text = fs::read_to_string(&self.path).ok()?;
        let (key, block) = text.trim_end().split_once(' ')?;
        (key == content.discovery_key().to_hex()).then(|| block.parse().ok())?
    }

    /// The next block appended to `content` begins a large file.
    pub(super) fn begin(&self, content: &Core) -> Result<()> {
        let text = format!("{} {}\n", content.discovery_key().to_hex(), content.head().length);
        private_files::replace(&self.path, text.as_bytes()).map_err(failed("write", &self.path))
    }

    pub(super) fn end(&self) {
        // Left behind it is only looked at in vain.
        let _ = fs::remove_file(&self.path);
    }
}

/// Compares the core from `first` to its end with the beginning of the file.
fn matching(core: &Core, first: u64, file: &mut File, path: &Path) -> Result<Option<Extent>> {
    let head = core.head();
    let mut size = 0;
    for block in first..head.length {
        let ours = local::read_block(file, path)?;
        // A short block is the end of a file: nothing can follow it.
        let whole = ours.len() == BLOCK_BYTES;
        if !whole || core.get_local(block)?.is_none_or(|stored| stored != ours) {
            return Ok(None);
        }
        size += ours.len() as u64;
    }
    let Some(byte) = core.plain_bytes().checked_sub(size) else { return Ok(None) };
    Ok(Some(Extent {
        block: first,
        blocks: head.length - first,
        byte,
        size,
        map_size: 0,
        holes: 0,
        fork: 0,
    }))
}
