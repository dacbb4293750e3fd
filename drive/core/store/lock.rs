//! Whole-file locks that other programs see too, and which process holds one that is taken: `flock(2)`, as
//! Hypercore 9 takes it on every core's `bitfield`, and the locks of open file descriptions of fcntl(2), as
//! Hypercore 10 takes them on `oplog` and Corestore 6 on `primary-key`. On Linux neither sees the other.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use super::{failed, owner};
use crate::error::{Error, Result};
use crate::private_files;

/// What is said of a holder that cannot be found out.
const UNKNOWN: &str = "another process";

/// A lock that lasts until it is dropped or the process ends.
pub(super) struct FileLock {
    _held: Vec<Held>,
}

/// The kind of a lock.
enum Held {
    Flock(#[expect(dead_code, reason = "held until it is dropped")] Flock<File>),
    /// Closing the file gives it up.
    #[cfg(target_os = "linux")]
    Description(#[expect(dead_code, reason = "held until it is dropped")] File),
}

impl FileLock {
    /// The lock on a store. `None` when the medium cannot be written.
    pub(crate) fn take_store(path: &Path, store: &Path) -> Result<Option<Self>> {
        let file = match open(path) {
            Ok(file) => file,
            // Another user could hold such a lock for ever.
            Err(error) if is_anothers(path) => return Err(owner::explain(error, path)),
            Err(error) if cannot_be_written(&error) => return Ok(None),
            Err(error) => return Err(failed("open", path)(error)),
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
            let mut file: &File = &lock;
            file.set_len(0)?;
            file.write_all(format!("{}\n{}\n", std::process::id(), own_name()).as_bytes())
        };
        if let Err(error) = write() {
            log::warn!("{}: {error}", path.display());
        }
        Ok(Some(Self { _held: vec![Held::Flock(lock)] }))
    }

    /// The lock on a core of Hypercore 9, which that program takes too.
    pub(crate) fn take_core(bitfield: &Path) -> Result<Self> {
        let file = open(bitfield).map_err(failed("open", bitfield))?;
        Ok(Self { _held: vec![Held::Flock(lock(file, bitfield)?)] })
    }

    /// The lock on a core of Hypercore 10, which that program takes too.
    pub(crate) fn take_modern_core(oplog: &Path) -> Result<Self> {
        let file = open(oplog).map_err(failed("open", oplog))?;
        Ok(Self { _held: vec![lock_description(file, oplog, true)?] })
    }

    /// The lock of the program that a store belongs to, so that it does not open it. The file exists, and is not
    /// changed.
    pub(crate) fn take_from_program(path: &Path) -> Result<Self> {
        let file = OpenOptions::new().read(true).write(true).open(path);
        let file = file.map_err(|error| owner::explain(error, path))?;
        Ok(Self { _held: vec![lock_description(file, path, true)?] })
    }

    /// Both locks, held together.
    pub(crate) fn and(mut self, other: Self) -> Self {
        self._held.extend(other._held);
        self
    }

    /// The lock on a file of another program's: other readers may have it too, a writer may not. The file is
    /// not changed.
    pub(crate) fn share(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(failed("open", path))?;
        Ok(Self { _held: vec![lock_description(file, path, false)?] })
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

fn lock(file: File, path: &Path) -> Result<Flock<File>> {
    flock(file, path, FlockArg::LockExclusiveNonblock)
}

fn flock(file: File, path: &Path, kind: FlockArg) -> Result<Flock<File>> {
    match Flock::lock(file, kind) {
        Ok(file) => Ok(file),
        Err((file, Errno::EWOULDBLOCK)) => {
            let holder = kernel_holder(&file).unwrap_or_else(|| UNKNOWN.to_owned());
            Err(Error::Locked { path: path.to_owned(), holder })
        }
        Err((_, errno)) => Err(failed("lock", path)(errno.into())),
    }
}

/// Locks the open file description, for writing if `exclusive`.
#[cfg(target_os = "linux")]
fn lock_description(file: File, path: &Path, exclusive: bool) -> Result<Held> {
    use nix::fcntl::{FcntlArg, fcntl};
    use nix::libc::{F_RDLCK, F_WRLCK, SEEK_SET, flock};

    let kind = if exclusive { F_WRLCK } else { F_RDLCK };
    // Both constants are defined to fit. A length of 0 is the whole file, however long it gets.
    let (l_type, l_whence) = (kind as _, SEEK_SET as _);
    let wanted = flock { l_type, l_whence, l_start: 0, l_len: 0, l_pid: 0 };
    match fcntl(&file, FcntlArg::F_OFD_SETLK(&wanted)) {
        Ok(_) => Ok(Held::Description(file)),
        Err(Errno::EAGAIN | Errno::EACCES) => {
            let holder = description_holder(&file).unwrap_or_else(|| UNKNOWN.to_owned());
            Err(Error::Locked { path: path.to_owned(), holder })
        }
        Err(errno) => Err(failed("lock", path)(errno.into())),
    }
}

/// Elsewhere the system has one kind of lock, and `flock` takes part in it.
#[cfg(not(target_os = "linux"))]
fn lock_description(file: File, path: &Path, exclusive: bool) -> Result<Held> {
    let shared = FlockArg::LockSharedNonblock;
    let kind = if exclusive { FlockArg::LockExclusiveNonblock } else { shared };
    flock(file, path, kind).map(Held::Flock)
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
    locks.lines().find_map(|line| holder_in(line, found.ino())).map(named)
}

/// A process that holds a lock of an open description of the file. The kernel's list names none: the processes
/// of this user are looked through for the description.
#[cfg(target_os = "linux")]
fn description_holder(file: &File) -> Option<String> {
    let wanted = file.metadata().ok()?;
    let processes = fs::read_dir("/proc").ok()?.flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| *pid != std::process::id())
        .find(|pid| holds_description(*pid, &wanted).unwrap_or(false))
        .map(named)
}

#[cfg(target_os = "linux")]
fn holds_description(pid: u32, wanted: &fs::Metadata) -> Option<bool> {
    for descriptor in fs::read_dir(format!("/proc/{pid}/fd")).ok()?.flatten() {
        // Through the link: what the descriptor is open on.
        let Ok(found) = fs::metadata(descriptor.path()) else { continue };
        if (found.dev(), found.ino()) != (wanted.dev(), wanted.ino()) {
            continue;
        }
        let number = descriptor.file_name();
        let info = format!("/proc/{pid}/fdinfo/{}", number.to_string_lossy());
        let info = fs::read_to_string(info).unwrap_or_default();
        if info.lines().any(|line| line.starts_with("lock:")) {
            return Some(true);
        }
    }
    Some(false)
}

/// A process by its name and number.
fn named(pid: u32) -> String {
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    match name.trim() {
        "" => format!("pid {pid}"),
        name => format!("{name} (pid {pid})"),
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
    #[cfg(target_os = "linux")]
    fn readers_share_a_lock_that_keeps_writers_out() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("oplog");
        fs::write(&path, "x").unwrap();
        let locked = |result: Result<FileLock>| matches!(result, Err(Error::Locked { .. }));
        let one = FileLock::share(&path).unwrap();
        let other = FileLock::share(&path).unwrap();
        assert!(locked(FileLock::take_modern_core(&path)));
        drop((one, other));
        let writer = FileLock::take_modern_core(&path).unwrap();
        assert!(locked(FileLock::share(&path)) && locked(FileLock::take_modern_core(&path)));
        drop(writer);
        assert!(FileLock::share(&path).is_ok());
    }

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
