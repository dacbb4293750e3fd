//! Whole-file locks that other programs see too: `flock(2)`, as the reference takes it on every
//! core's `bitfield`; and which process holds one that is taken.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use super::owner;
use crate::error::{Error, Result};
use crate::private_files;

/// A lock that lasts until it is dropped or the process ends.
pub(super) struct FileLock {
    _file: Flock<File>,
}

impl FileLock {
    /// The lock on a store. `None` when the medium cannot be written.
    pub(crate) fn take_store(path: &Path, store: &Path) -> Result<Option<Self>> {
        let file = match open(path) {
            Ok(file) => file,
            // Another user could hold such a lock for ever.
            Err(error) if is_anothers(path) => return Err(owner::explain(error, path)),
            Err(error) if cannot_be_written(&error) => return Ok(None),
            Err(source) => {
                return Err(Error::Storage { op: "open", path: path.to_owned(), source });
            }
        };
        let lock = lock(file, path).map_err(|error| match error {
            Error::Locked { holder, .. } => {
                let holder = written_holder(path).unwrap_or(holder);
                Error::Locked { path: store.to_owned(), holder }
            }
            error => error,
        })?;
        // Only for the message a second process shows; the lock itself is what counts.
        let write = || {
            let mut file: &File = &lock._file;
            file.set_len(0)?;
            file.write_all(format!("{}\n{}\n", std::process::id(), own_name()).as_bytes())
        };
        if let Err(error) = write() {
            log::warn!("{}: {error}", path.display());
        }
        Ok(Some(lock))
    }

    /// The lock on one core, shared with the reference implementation.
    pub(crate) fn take_core(bitfield: &Path) -> Result<Self> {
        let file = open(bitfield).map_err(|source| Error::Storage {
            op: "open",
            path: bitfield.to_owned(),
            source,
        })?;
        lock(file, bitfield)
    }
}

/// Opens a lock file that other users cannot open, and so cannot lock.
fn open(path: &Path) -> io::Result<File> {
    private_files::open(
        path,
        OpenOptions::new().read(true).write(true).create(true).truncate(false),
    )
}

fn is_anothers(path: &Path) -> bool {
    let own = nix::unistd::geteuid().as_raw();
    fs::symlink_metadata(path).is_ok_and(|found| found.uid() != own)
}

fn cannot_be_written(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied)
}

fn lock(file: File, path: &Path) -> Result<FileLock> {
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(file) => Ok(FileLock { _file: file }),
        Err((file, Errno::EWOULDBLOCK)) => {
            let holder = kernel_holder(&file).unwrap_or_else(|| "another process".to_owned());
            Err(Error::Locked { path: path.to_owned(), holder })
        }
        Err((_, errno)) => {
            Err(Error::Storage { op: "lock", path: path.to_owned(), source: errno.into() })
        }
    }
}

fn own_name() -> String {
    let program = std::env::current_exe().ok();
    let name = program.as_deref().and_then(Path::file_name).and_then(|name| name.to_str());
    name.unwrap_or("hypermount").to_owned()
}

/// The process that wrote its id into the lock file.
fn written_holder(path: &Path) -> Option<String> {
    /// Bytes: a process id and the name of a program.
    const MAX_CONTENT: u64 = 4096;
    let mut text = String::new();
    File::open(path).ok()?.take(MAX_CONTENT).read_to_string(&mut text).ok()?;
    let mut lines = text.lines();
    let pid: u32 = lines.next()?.parse().ok()?;
    let name = lines.next().filter(|name| !name.is_empty()).unwrap_or("hypermount");
    Some(format!("{name} (pid {pid})"))
}

/// The process that holds a `flock` on the file, from the kernel's list. Linux only.
fn kernel_holder(file: &File) -> Option<String> {
    let found = file.metadata().ok()?;
    let locks = fs::read_to_string("/proc/locks").ok()?;
    let pid = locks.lines().find_map(|line| holder_in(line, found.ino()))?;
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    match name.trim() {
        "" => Some(format!("pid {pid}")),
        name => Some(format!("{name} (pid {pid})")),
    }
}

/// The process of a line such as `1: FLOCK  ADVISORY  WRITE 1234 08:01:5678 0 EOF`, if it is a
/// lock on this inode. The device is not compared: overlay and btrfs report another one there.
fn holder_in(line: &str, inode: u64) -> Option<u32> {
    let mut fields = line.split_whitespace().skip(1);
    if fields.next() != Some("FLOCK") {
        return None;
    }
    let pid = fields.nth(2)?.parse().ok()?;
    let locked: u64 = fields.next()?.rsplit(':').next()?.parse().ok()?;
    (locked == inode).then_some(pid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_kernels_list() {
        let line = "1: FLOCK  ADVISORY  WRITE 1234 08:01:5678 0 EOF";
        assert_eq!(holder_in(line, 5678), Some(1234));
        assert_eq!(holder_in(line, 5679), None);
        assert_eq!(holder_in("2: POSIX  ADVISORY  WRITE 1234 08:01:5678 0 EOF", 5678), None);
        assert_eq!(holder_in("2: -> FLOCK", 5678), None);
        assert_eq!(holder_in("", 5678), None);
    }
}
