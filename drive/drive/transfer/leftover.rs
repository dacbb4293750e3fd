//! Making a whole file again of the changes a killed process left in the scratch directory.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::hyperdrive::Drive;
use crate::scratch::Leftover;
use crate::sparse;
use hypermount_core::{Error, Result, Store, Wait, is_zeros};

/// Bytes copied at once.
const PIECE_BYTES: u64 = 1024 * 1024;

/// Writes the file as the process last saw it to `to`, which must not exist: the content beneath,
/// with the changes on top. Durable on return; the leftover itself stays.
///
/// # Errors
/// `Storage` for either file; those of [`Drive::open`] and [`Drive::read`] for what lies beneath.
pub async fn restore(store: &Store, leftover: &Leftover, to: &Path) -> Result<()> {
    let failed = |op| move |source| Error::Storage { op, path: to.to_owned(), source };
    let out = OpenOptions::new().write(true).create_new(true).open(to).map_err(failed("create"))?;
    out.set_len(leftover.size).map_err(failed("extend"))?;
    let beneath = leftover.base_limit.min(leftover.origin.base.size);
    if beneath > 0 {
        let drive = Drive::open(store, &leftover.origin.drive, None, Wait::Local).await?;
        let mut position = 0;
        while position < beneath {
            let end = (position + PIECE_BYTES).min(beneath);
            for piece in drive.read(&leftover.origin.base, position..end, Wait::Local).await? {
                if !is_zeros(&piece) {
                    out.write_all_at(&piece, position).map_err(failed("write"))?;
                }
                position += piece.len() as u64;
            }
        }
    }
    changes(leftover, &out, failed("write"))?;
    out.sync_all().map_err(failed("sync"))
}

fn changes(
    leftover: &Leftover,
    out: &File,
    failed: impl Fn(std::io::Error) -> Error,
) -> Result<()> {
    let data = &leftover.data;
    let lost = |source| Error::Storage { op: "read", path: data.clone(), source };
    let from = File::open(data).map_err(lost)?;
    let mut piece = vec![0; PIECE_BYTES as usize];
    for range in leftover.written.iter() {
        let mut position = range.start;
        while position < range.end {
            let segment = sparse::segment(&from, position).map_err(lost)?;
            let end = segment.end.min(range.end);
            if segment.is_hole {
                sparse::zero(out, position..end).map_err(&failed)?;
                position = end;
                continue;
            }
            let length = (end - position).min(PIECE_BYTES) as usize;
            let Some(part) = piece.get_mut(..length) else { break };
            from.read_exact_at(part, position).map_err(lost)?;
            out.write_all_at(part, position).map_err(&failed)?;
            position += length as u64;
        }
    }
    Ok(())
}
