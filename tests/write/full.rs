//! The disk that holds the store is full. It is a small one that the test makes; only root can.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::IntoRawFd;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::own::{Own, can_mount, has_reference, tree};

const DISK_BYTES: usize = 24 << 20;

/// A file system in memory, gone when this is dropped.
struct Disk {
    directory: tempfile::TempDir,
}

impl Disk {
    fn new() -> Option<Self> {
        let directory = tempfile::tempdir().expect("a directory");
        let options = format!("size={DISK_BYTES}");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(directory.path());
        if !mount.output().is_ok_and(|output| output.status.success()) {
            eprintln!("SKIPPED: only root can make a small disk");
            return None;
        }
        Some(Self { directory })
    }

    fn store(&self) -> PathBuf {
        self.directory.path().join("store")
    }

    fn filler(&self) -> PathBuf {
        self.directory.path().join("filler")
    }

    fn available(&self) -> usize {
        let found = rustix::fs::statvfs(self.directory.path()).expect("answers");
        (found.f_bavail * found.f_frsize) as usize
    }

    /// Leaves this many bytes.
    fn fill(&self, left: usize) {
        let _ = fs::remove_file(self.filler());
        let bytes = self.available().saturating_sub(left);
        fs::write(self.filler(), vec![1; bytes]).expect("has room");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.directory.path()).output();
    }
}

/// Writes a file and closes it. (std ignores the result of close(2).)
fn save(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut options = OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).open(path)?;
    let written = file.write_all(bytes);
    nix::unistd::close(file.into_raw_fd()).map_err(io::Error::from)?;
    written
}

/// Whether the call succeeded; a failure must be ENOSPC.
#[track_caller]
fn had_room(result: io::Result<()>) -> bool {
    match result {
        Ok(()) => true,
        Err(error) => {
            assert_eq!(error.raw_os_error(), Some(libc::ENOSPC), "{error}");
            false
        }
    }
}

/// Sentence 46. "if it cannot be, close(2) fails." Sentence 52. "A full disk fails the call with
/// ENOSPC and has no other effect."
#[test]
fn a_full_disk_fails_the_call_and_has_no_other_effect() {
    let Some(disk) = can_mount().then(Disk::new).flatten() else { return };
    let mut own = Own::stored_at(&disk.store());
    own.mount();
    let old: Vec<u8> = (0..2_000_000u32).map(|n| ((n * 7) >> 3) as u8).collect();
    fs::create_dir(own.path("dir")).expect("makes");
    fs::write(own.path("dir/old"), &old).expect("writes");
    fs::write(own.path("changed"), &old).expect("writes");
    let mut refused = 0;
    for (round, left) in
        [0, 4 << 10, 64 << 10, 300 << 10, 1 << 20, 2_500_000].into_iter().enumerate()
    {
        disk.fill(left);
        let new = own.path(&format!("new {round}"));
        if had_room(save(&new, &vec![round as u8; 3_000_000])) {
            panic!("{left} bytes are no room for 3 MB");
        }
        let saved = had_room(save(&own.path("changed"), &vec![round as u8; 500_000]));
        refused += u32::from(!saved);
        had_room(fs::create_dir(own.path(&format!("dir {round}"))));
        let from = own.path(if round % 2 == 0 { "dir" } else { "renamed" });
        let to = own.path(if round % 2 == 0 { "renamed" } else { "dir" });
        let renamed = had_room(fs::rename(&from, &to));
        let there = if renamed { &to } else { &from };
        assert!(fs::read(there.join("old")).expect("reads") == old, "{left} bytes left");
        if let Ok(directory) = File::open(there) {
            had_room(directory.sync_all());
        }

        fs::remove_file(disk.filler()).expect("removes");
        if !renamed {
            fs::rename(&from, &to).expect("has room");
        }
        assert!(fs::read(to.join("old")).expect("reads") == old);
        let _ = fs::remove_file(&new);
        let text = format!("round {round}, there is room again");
        save(&own.path("changed"), text.as_bytes()).expect("has room");
        assert_eq!(fs::read_to_string(own.path("changed")).expect("reads"), text);
    }
    assert!(refused >= 2, "the disk was full");
    fs::create_dir(own.path("at the end")).expect("has room");
    let ours = tree(&own.root(), false);
    own.remount();
    assert_eq!(tree(&own.root(), false), ours);
    own.unmount();
    let left = hypermount_drive::scratch::leftovers(&own.store().join("scratch")).expect("lists");
    assert!(left.is_empty(), "what was stored or unlinked in the end is not lost: {left:?}");
    if has_reference() {
        assert_eq!(own.read_by_reference(), ours);
    }
}

/// Sentence 51. "If that fails, no process can receive the error; it is logged, and the bytes stay
/// in `scratch`."
#[test]
fn a_mapping_that_cannot_be_stored_is_kept() {
    let Some(disk) = can_mount().then(Disk::new).flatten() else { return };
    let mut own = Own::stored_at(&disk.store());
    own.mount();
    fs::write(own.path("file"), vec![1; 600_000]).expect("writes");
    let file = OpenOptions::new().read(true).write(true).open(own.path("file")).expect("opens");
    // SAFETY: no other process has the file open, so no other process changes it under the mapping.
    let mut mapping = unsafe { memmap2::MmapMut::map_mut(&file) }.expect("maps");
    drop(file);
    // Room for the changed pages in scratch, and not for the whole file in the log.
    disk.fill(300_000);
    mapping[..4].copy_from_slice(b"kept");
    drop(mapping);
    // The kernel reports the end of the mapping some time after it.
    let scratch = own.store().join("scratch");
    crate::common::living::eventually("the changed page is in scratch", || {
        let left = hypermount_drive::scratch::leftovers(&scratch).expect("lists");
        left.iter().any(|left| left.written.next(0).is_some()).then_some(())
    });
    own.unmount();
    let left = hypermount_drive::scratch::leftovers(&scratch).expect("lists");
    let [left] = left.as_slice() else { panic!("{left:?}") };
    assert_eq!(left.origin.path.as_str(), "file");
    assert_eq!(fs::read(&left.data).expect("reads")[..4], *b"kept");
    fs::remove_file(disk.filler()).expect("removes");
    own.mount();
    assert!(fs::read(own.path("file")).expect("reads") == [1; 600_000]);
}
