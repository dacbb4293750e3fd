//! Importing a file with holes: only its data is read, and its holes are stored as blocks of zeros.
//!
//! Not here: files without holes (`import.rs`).

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

use bytes::Bytes;

use super::super::local::Local;
use super::super::{BLOCK_BYTES, failed, resume};
use super::{Import, MAX_APPEND_BYTES};
use crate::hyperdrive::{Edit, HOLE_BYTES, Holes, StoredPart, hole_bytes, stored_parts};
use crate::path::DrivePath;
use crate::sparse;
use crate::stat::{Extent, Stat};
use hypermount_core::{Result, Wait, zeros};

/// Blocks, of zeros most of them, that are appended under one signature.
const MAX_BLOCKS: usize = 1024;

/// The holes of a local file; a file system that keeps all of it is not asked.
pub(super) fn holes(file: &File, found: &Local) -> std::io::Result<Vec<Range<u64>>> {
    let (mut holes, mut at, size) = (Holes::default(), 0, found.size);
    while at < size && size >= HOLE_BYTES && found.allocated < size {
        let segment = sparse::segment(file, at)?;
        let end = segment.end.max(at + 1).min(size);
        if segment.is_hole {
            holes.add(at..end, size);
        }
        at = end;
    }
    Ok(holes.finish(size))
}

/// A block of a file: bytes of it, or zeros.
fn blocks(parts: impl Iterator<Item = StoredPart>) -> impl Iterator<Item = StoredPart> {
    parts.flat_map(|part| {
        let (data, zeros) = match part {
            StoredPart::Data(range) => (range, None),
            zeros => (0..0, Some(zeros)),
        };
        let end = data.end;
        let cut = move |at| StoredPart::Data(at..end.min(at + BLOCK_BYTES as u64));
        data.step_by(BLOCK_BYTES).map(cut).chain(zeros)
    })
}

/// The bytes of a block; fewer if the file ends before.
fn read(file: &File, block: &StoredPart) -> std::io::Result<Bytes> {
    let range = match block {
        StoredPart::Data(range) => range,
        StoredPart::Zeros(range) => return Ok(zeros(range.end - range.start)),
    };
    let mut bytes = vec![0; (range.end - range.start) as usize];
    let mut done = 0;
    while done < bytes.len() {
        match file.read_at(&mut bytes[done..], range.start + done as u64) {
            Ok(0) => break,
            Ok(count) => done += count,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    bytes.truncate(done);
    Ok(bytes.into())
}

impl Import<'_> {
    /// A file with these holes. False if it changed: what was appended stays in the log, and no version names it.
    pub(super) async fn sparse_file(
        &mut self,
        path: &DrivePath,
        stat: Stat,
        file: &File,
        found: &Local,
        holes: &[Range<u64>],
        local: &Path,
    ) -> Result<bool> {
        self.append().await?;
        let (size, holes_size) = (found.size, hole_bytes(holes));
        let mut writer = self.drive.content_writer().await?;
        let content = self.drive.content()?;
        let nothing = Extent::default();
        let all = std::iter::once(0..size).collect::<Vec<_>>();
        let splice = self.drive.splice(&nothing, size, &all, holes, Wait::Local).await?;
        let parts = || -> Box<dyn Iterator<Item = StoredPart> + Send + '_> {
            match &splice {
                Some(splice) => Box::new(splice.new_blocks().map(StoredPart::Data)),
                None => Box::new(blocks(stored_parts(0..size, holes))),
            }
        };
        if splice.is_none() {
            writer.check_sparse(size, holes_size)?;
        }
        let large = size - holes_size >= resume::MIN_BYTES;
        let read = |block: &StoredPart| read(file, block).map_err(failed("read", local));
        let begun = match &self.note {
            Some(note) => note.resume_blocks(content, parts().map(|block| read(&block)))?,
            None => None,
        };
        let resumed =
            begun.filter(|extent| writer.extend(extent)).map_or(0, |extent| extent.blocks);
        if let Some(note) = self.note.as_ref().filter(|_| large && resumed == 0) {
            note.begin(content)?;
        }
        let (mut waiting, mut bytes) = (Vec::new(), 0);
        for block in parts().skip(usize::try_from(resumed).unwrap_or(usize::MAX)) {
            let (StoredPart::Data(range) | StoredPart::Zeros(range)) = &block;
            let read = read(&block)?;
            if read.len() as u64 != range.end - range.start {
                return Ok(false);
            }
            bytes += if matches!(block, StoredPart::Data(_)) { read.len() } else { 0 };
            waiting.push(read);
            if bytes >= MAX_APPEND_BYTES || waiting.len() >= MAX_BLOCKS {
                writer.append(&waiting)?;
                self.observer.bytes(bytes as u64);
                (waiting, bytes) = (Vec::new(), 0);
            }
        }
        writer.append(&waiting)?;
        self.observer.bytes(bytes as u64 + holes_size);
        if !found.is_still(file).map_err(failed("stat", local))? {
            return Ok(false);
        }
        let extent = match &splice {
            Some(splice) => writer.finish_spliced(splice, holes_size)?,
            None => writer.finish_sparse(holes_size),
        };
        // Its blocks have to be on the disk too if all of them are zeros.
        self.pending.unnamed += (size - holes_size).max(1);
        self.pending.edits.push(Edit::Put { path: path.clone(), stat: Stat { extent, ..stat } });
        if large {
            self.commit().await?;
            if let Some(note) = &self.note {
                note.end();
            }
        }
        Ok(true)
    }
}
