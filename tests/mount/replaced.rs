//! A name whose file is replaced repeatedly always leads to a file, as on a local disk.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use drivefs::MountOptions;
use hypermount_drive::{DriveFormat, Stat, TYPE_SYMLINK};

use crate::common::{Bench, OPTIONS, can_mount, in_each_format};

/// How often the names are replaced.
const ROUNDS: usize = 1500;
const READERS: usize = 3;
const FILE_BYTES: usize = 100_000;
const ATTRIBUTE: &str = "user.test";

/// What failed, and how often.
type Failures = Mutex<BTreeMap<String, usize>>;

fn note(failures: &Failures, what: &str, error: impl std::fmt::Display) {
    let mut failures = failures.lock().expect("no reader panicked");
    *failures.entry(format!("{what}: {error}")).or_default() += 1;
}

/// Makes every call that looks at `file`, which has this attribute, and at `link`. Returns how many bytes of the file
/// differ from its first.
fn look(directory: &Path, attribute: &str, failures: &Failures) -> usize {
    let (file, link) = (directory.join("file"), directory.join("link"));
    let mut torn = 0;
    let mut content = Vec::new();
    match fs::File::open(&file) {
        Ok(mut open) => match open.read_to_end(&mut content).and_then(|_| open.metadata()) {
            Ok(found) => {
                torn += content.iter().filter(|byte| **byte != content[0]).count();
                if found.len() != FILE_BYTES as u64 || content.len() != FILE_BYTES {
                    note(failures, "size", format!("{} read, {}", content.len(), found.len()));
                }
            }
            Err(error) => note(failures, "read", error),
        },
        Err(error) => note(failures, "open", error),
    }
    if let Err(error) = fs::metadata(&file) {
        note(failures, "stat", error);
    }
    if let Err(error) = fs::symlink_metadata(&link) {
        note(failures, "lstat", error);
    }
    if let Err(error) = fs::read_link(&link) {
        note(failures, "readlink", error);
    }
    let mut value = [0; 64];
    if let Err(error) = rustix::fs::getxattr(&file, attribute, &mut value) {
        note(failures, "getxattr", error);
    }
    if let Err(error) = rustix::fs::listxattr(&file, &mut value) {
        note(failures, "listxattr", error);
    }
    if let Err(error) = rustix::fs::access(&file, rustix::fs::Access::READ_OK) {
        note(failures, "access", error);
    }
    torn
}

/// Runs `replace` once a round while readers look. Returns the calls of the readers that failed.
fn while_replaced(
    directory: &Path,
    attribute: &str,
    mut replace: impl FnMut(usize),
) -> BTreeMap<String, usize> {
    replace(0);
    let (over, failures, looks) =
        (AtomicBool::new(false), Failures::default(), AtomicUsize::new(0));
    thread::scope(|scope| {
        for _ in 0..READERS {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    let torn = look(directory, attribute, &failures);
                    if torn > 0 {
                        note(&failures, "torn", torn);
                    }
                    looks.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        (1..ROUNDS).for_each(&mut replace);
        // Slow readers get their share as well.
        while looks.load(Ordering::Relaxed) < 100 {
            thread::yield_now();
        }
        over.store(true, Ordering::Relaxed);
    });
    failures.into_inner().expect("no reader panicked")
}

fn bytes(round: usize) -> Vec<u8> {
    vec![b'a' + (round % 26) as u8; FILE_BYTES]
}

/// Sentence 116. "While a file is replaced under its name, no call that uses the name fails:
/// open(2), stat(2), readlink(2) and getxattr(2) succeed, and an open file is read to its end with
/// one content." Here another program of this machine replaces it.
#[test]
fn a_name_that_is_renamed_over_all_the_time_is_always_there() {
    if !can_mount() {
        return;
    }
    let bench = Bench::made();
    let mount = bench.mount_with(MountOptions { read_only: false, ..OPTIONS });
    let at = bench.mountpoint();
    let failures = while_replaced(&at, ATTRIBUTE, |round| {
        let new = at.join("new");
        fs::write(&new, bytes(round)).expect("writes");
        let value = format!("{round}").into_bytes();
        let flags = rustix::fs::XattrFlags::empty();
        rustix::fs::setxattr(&new, ATTRIBUTE, &value, flags).expect("sets");
        fs::rename(&new, at.join("file")).expect("renames");
        symlink(format!("target {round}"), at.join("new link")).expect("links");
        fs::rename(at.join("new link"), at.join("link")).expect("renames");
    });
    assert!(failures.is_empty(), "{failures:?}");
    drop(mount);
}

/// Here the drive is changed elsewhere, and the mount follows it. (How often a call is overtaken twice is
/// up to chance; `fs/tests/semantics.rs` has it happen.)
#[test]
fn a_name_whose_file_changes_elsewhere_is_always_there() {
    in_each_format(a_name_whose_file_changes);
}

fn a_name_whose_file_changes(format: DriveFormat) {
    let bench = Bench::made_in(format);
    let mount = bench.mount();
    let attribute = match format {
        DriveFormat::Hyperdrive10 => ATTRIBUTE,
        // None is stored; this one is made.
        DriveFormat::Hyperdrive11 => "user.hypermount.key",
    };
    let failures = while_replaced(&bench.mountpoint(), attribute, |round| {
        let blocks: Vec<bytes::Bytes> =
            bytes(round).chunks(65_536).map(bytes::Bytes::copy_from_slice).collect();
        let mut stat = bench.file(&blocks);
        stat.attributes = vec![(ATTRIBUTE.to_owned(), Some(vec![1]))];
        bench.put("file", stat);
        let linkname = Some(format!("target{round}"));
        bench.put("link", Stat { mode: TYPE_SYMLINK | 0o777, linkname, ..Stat::default() });
        if round == 0 {
            crate::common::until("the first version is shown", || {
                bench.mountpoint().join("link").is_symlink()
            });
        }
        // Often enough for each version to be shown before the next one comes.
        thread::yield_now();
    });
    assert!(failures.is_empty(), "{failures:?}");
    drop(mount);
}

/// A file that is opened while it is replaced is the old file, and changes of it are not stored, as with
/// an unlinked file.
#[test]
fn changes_of_a_replaced_file_do_not_reach_the_new_one() {
    if !can_mount() {
        return;
    }
    let bench = Bench::made();
    let mount = bench.mount_with(MountOptions { read_only: false, ..OPTIONS });
    let at = bench.mountpoint();
    fs::write(at.join("file"), "old").expect("writes");
    // A descriptor that only names the file, as a look-up in the kernel does.
    let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::CLOEXEC;
    let named = rustix::fs::open(at.join("file"), flags, rustix::fs::Mode::empty()).expect("opens");
    fs::write(at.join("new"), "new").expect("writes");
    fs::rename(at.join("new"), at.join("file")).expect("renames");
    let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&named));
    let mut text = String::new();
    fs::File::open(&path).expect("opens").read_to_string(&mut text).expect("reads");
    assert_eq!(text, "old");
    assert_eq!(fs::metadata(&path).expect("looks").nlink(), 0);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("changes");
    assert_eq!(fs::metadata(&path).expect("looks").mode() & 0o7777, 0o600);
    fs::write(&path, "written").expect("writes");
    drop(named);
    assert_eq!(fs::read_to_string(at.join("file")).expect("reads"), "new");
    assert_ne!(fs::metadata(at.join("file")).expect("looks").mode() & 0o7777, 0o600);
    drop(mount);
}
