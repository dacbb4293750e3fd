//! Holes of local files: where they are, and making one.
//!
//! Not here: holes of files in a drive (`hyperdrive/holes.rs`).

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use rustix::fs::SeekFrom;
use rustix::io::Errno;

use crate::stat::Segment;
use hypermount_core::{ZERO_BLOCK_SIZES, zeros};

/// What the file has from `at` on. The position of the file moves; what has no descriptor of its own must not depend on it.
/// Where the file system tells of no holes, all is data. What is beyond the end is a hole.
pub(crate) fn segment(file: &File, at: u64) -> io::Result<Segment> {
    let data = |end| Ok(Segment { is_hole: false, end });
    match rustix::fs::seek(file, SeekFrom::Data(at)) {
        Ok(start) if start > at => Ok(Segment { is_hole: true, end: start }),
        Ok(_) => match rustix::fs::seek(file, SeekFrom::Hole(at)) {
            Ok(end) if end > at => data(end),
            Ok(_) | Err(Errno::NXIO | Errno::INVAL) => data(u64::MAX),
            Err(errno) => Err(errno.into()),
        },
        Err(Errno::NXIO) => Ok(Segment { is_hole: true, end: u64::MAX }),
        Err(Errno::INVAL) => data(u64::MAX),
        Err(errno) => Err(errno.into()),
    }
}

/// Has the range read as zeros, without disk space if the file system can; the length of the file stays.
pub(crate) fn zero(file: &File, range: Range<u64>) -> io::Result<()> {
    let end = range.end.min(file.metadata()?.len());
    if range.start >= end || punch(file, range.start, end - range.start)? {
        return Ok(());
    }
    for at in (range.start..end).step_by(ZERO_BLOCK_SIZES[0] as usize) {
        file.write_all_at(&zeros(end - at), at)?;
    }
    Ok(())
}

/// Makes a hole within the file; false if the file system cannot.
#[cfg(target_os = "linux")]
fn punch(file: &File, offset: u64, length: u64) -> io::Result<bool> {
    use rustix::fs::FallocateFlags;
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    match rustix::fs::fallocate(file, flags, offset, length) {
        Ok(()) => Ok(true),
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

/// There is no safe call for holes here.
#[cfg(not(target_os = "linux"))]
fn punch(_file: &File, _offset: u64, _length: u64) -> io::Result<bool> {
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_of_a_file_are_found_and_made() {
        let file = tempfile::tempfile().expect("a file");
        let mebibyte = 1 << 20;
        file.set_len(4 * mebibyte).unwrap();
        file.write_all_at(&[7; 1 << 20], mebibyte).unwrap();
        let hole = |end| Segment { is_hole: true, end };
        let data = |end| Segment { is_hole: false, end };
        assert_eq!(segment(&file, 0).unwrap(), hole(mebibyte));
        assert_eq!(segment(&file, mebibyte + 5).unwrap(), data(2 * mebibyte));
        assert_eq!(segment(&file, 3 * mebibyte).unwrap(), hole(u64::MAX));
        assert_eq!(segment(&file, 9 * mebibyte).unwrap(), hole(u64::MAX));
        zero(&file, mebibyte..u64::MAX).unwrap();
        assert_eq!(segment(&file, 0).unwrap(), hole(u64::MAX));
        assert_eq!(file.metadata().unwrap().len(), 4 * mebibyte);
        let mut byte = [1];
        file.read_exact_at(&mut byte, mebibyte).unwrap();
        assert_eq!(byte, [0]);
    }
}
