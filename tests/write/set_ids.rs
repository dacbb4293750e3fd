//! Set-id bits against the disk that holds temporary files: every call that changes a file, by root
//! and by others, on files of every mode that has such bits.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use nix::unistd::{Gid, Uid, setfsgid, setfsuid};
use rustix::fs::FallocateFlags;

use crate::own::{FORMATS, Own, can_mount};

const OWNER: u32 = 65_534;
const OTHER_GROUP: u32 = 65_533;

/// User and group of the thread that makes the calls.
const CALLERS: [(u32, u32); 3] = [(0, 0), (OWNER, OWNER), (OWNER, OTHER_GROUP)];
const MODES: [u32; 6] = [0o6777, 0o4766, 0o2777, 0o2767, 0o6766, 0o1777];

type Call = fn(&Path) -> std::io::Result<()>;

fn writable(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().write(true).open(path)
}

fn allocate(path: &Path, mode: FallocateFlags) -> std::io::Result<()> {
    Ok(rustix::fs::fallocate(writable(path)?, mode, 0, 9)?)
}

const CALLS: [(&str, Call); 19] = [
    ("append", |path| OpenOptions::new().append(true).open(path)?.write_all(b"x")),
    ("write", |path| writable(path)?.write_all(b"x")),
    ("write nothing", |path| writable(path)?.write_at(b"", 0).map(drop)),
    ("write directly", |path| {
        let direct = OpenOptions::new().write(true).custom_flags(libc::O_DIRECT).open(path)?;
        // Unaligned: a disk may refuse it, and has removed the bits before.
        let _ = direct.write_at(b"x", 0);
        writable(path)?.write_all(b"x")
    }),
    ("O_TRUNC", |path| OpenOptions::new().write(true).truncate(true).open(path).map(drop)),
    ("O_CREAT|O_TRUNC", |path| File::create(path).map(drop)),
    ("open", |path| OpenOptions::new().read(true).write(true).open(path).map(drop)),
    ("truncate", |path| Ok(nix::unistd::truncate(path, 2)?)),
    ("truncate to the same size", |path| Ok(nix::unistd::truncate(path, 4)?)),
    ("ftruncate", |path| writable(path)?.set_len(2)),
    ("fallocate", |path| allocate(path, FallocateFlags::empty())),
    ("fallocate within", |path| allocate(path, FallocateFlags::KEEP_SIZE)),
    ("punch", |path| allocate(path, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE)),
    ("copy_file_range", |path| {
        let source = File::open(path.with_file_name("source"))?;
        let target = OpenOptions::new().write(true).truncate(true).open(path)?;
        fs::set_permissions(path, Permissions::from_mode(0o6777))?;
        rustix::fs::copy_file_range(source, None, target, None, 4)?;
        Ok(())
    }),
    ("chown to the same", |path| chown(path, Some(OWNER), None)),
    ("chgrp", |path| chown(path, None, Some(OWNER))),
    ("chown of nothing", |path| chown(path, None, None)),
    ("chmod", |path| fs::set_permissions(path, Permissions::from_mode(0o6711))),
    ("a mapping", |path| {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        // SAFETY: nothing else changes the file while it is mapped.
        #[allow(unsafe_code)]
        let mut mapping = unsafe { memmap2::MmapMut::map_mut(&file)? };
        mapping[0] = b'y';
        mapping.flush()
    }),
];

/// The mode after the call, seen through a descriptor opened before, by the path, and again after
/// all descriptors were closed; and the result of the call.
fn after(directory: &Path, mode: u32, caller: (u32, u32), call: Call) -> String {
    let path = directory.join("file");
    let _ = fs::remove_file(&path);
    for name in ["file", "source"] {
        fs::write(directory.join(name), "text").expect("root may");
        chown(directory.join(name), Some(OWNER), Some(OWNER)).expect("root may");
    }
    fs::set_permissions(&path, Permissions::from_mode(mode)).expect("root may");
    let open = File::open(&path).expect("root may");
    let ended = std::thread::scope(|scope| {
        let calls = || {
            // Of this thread alone.
            setfsgid(Gid::from_raw(caller.1));
            setfsuid(Uid::from_raw(caller.0));
            call(&path).map_err(|error| error.raw_os_error())
        };
        scope.spawn(calls).join().expect("it does not panic")
    });
    let mode = |found: fs::Metadata| found.mode() & 0o7777;
    // Asks for the mode alone, as chmod(1) and find(1) do: the kernel may answer from its cache.
    let asked = rustix::fs::statx(
        rustix::fs::CWD,
        &path,
        rustix::fs::AtFlags::empty(),
        rustix::fs::StatxFlags::MODE,
    );
    let alone = asked.expect("it exists").stx_mode & 0o7777;
    let descriptor = mode(open.metadata().expect("it is open"));
    drop(open);
    let closed = mode(fs::metadata(&path).expect("it exists"));
    format!("{ended:?}, mode {alone:o}, open {descriptor:o}, closed {closed:o}")
}

/// Sentence 107. "A call that changes a file, or its owner, removes its set-user-id and
/// set-group-id bits when it does on a local disk."
#[test]
fn set_id_bits_are_removed_when_a_local_disk_removes_them() {
    for format in FORMATS {
        if !can_mount() || !nix::unistd::geteuid().is_root() {
            eprintln!("SKIPPED: needs /dev/fuse and root");
            return;
        }
        let mut own = Own::in_format(format);
        own.unmount();
        own.mount_with(&["--allow-other"]);
        let above = own.root().parent().map(Path::to_owned).expect("it is below one");
        fs::set_permissions(above, Permissions::from_mode(0o711)).expect("it is ours");
        let disk: PathBuf = own.beside("disk");
        fs::create_dir(&disk).expect("makes");
        for directory in [&disk, &own.root()] {
            fs::set_permissions(directory, Permissions::from_mode(0o777)).expect("it is ours");
        }
        let mut differences = Vec::new();
        for (what, call) in CALLS {
            for mode in MODES {
                for caller in CALLERS {
                    let local = after(&disk, mode, caller, call);
                    let mounted = after(&own.root(), mode, caller, call);
                    if local != mounted {
                        differences.push(format!(
                            "{what} of {mode:o} by {caller:?}:\n  disk {local}\n  here {mounted}"
                        ));
                    }
                }
            }
        }
        assert!(differences.is_empty(), "{}", differences.join("\n"));
    }
}

/// Attributes of a new file in the kernel's cache must not outlive its set-id bits either.
#[test]
fn a_new_file_with_set_id_bits_loses_them_by_a_write() {
    for format in FORMATS {
        if !can_mount() || !nix::unistd::geteuid().is_root() {
            return;
        }
        let mut own = Own::in_format(format);
        own.unmount();
        own.mount_with(&["--allow-other"]);
        let path = own.path("new");
        let mut options = OpenOptions::new();
        let mut file =
            options.write(true).create_new(true).mode(0o4755).open(&path).expect("makes");
        assert_eq!(fs::metadata(&path).expect("exists").mode() & 0o7777, 0o4755);
        let written = std::thread::scope(|scope| {
            let write = || {
                // Drops CAP_FSETID, of this thread alone.
                setfsuid(Uid::from_raw(OWNER));
                file.write_all(b"text")
            };
            scope.spawn(write).join().expect("it does not panic")
        });
        written.expect("writes");
        assert_eq!(fs::metadata(&path).expect("exists").mode() & 0o7777, 0o755);
    }
}

/// Sentence 107. "Capabilities of files (`security.capability`) cannot be stored: EOPNOTSUPP."
/// A write would have to remove them too.
#[test]
fn file_capabilities_cannot_be_stored() {
    for format in FORMATS {
        if !can_mount() {
            return;
        }
        let own = Own::in_format(format);
        fs::write(own.path("file"), "text").expect("writes");
        let set = rustix::fs::setxattr(
            own.path("file"),
            "security.capability",
            b"\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00",
            rustix::fs::XattrFlags::empty(),
        );
        assert_eq!(set, Err(rustix::io::Errno::OPNOTSUPP));
    }
}
