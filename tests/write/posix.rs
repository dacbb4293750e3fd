//! What programs may rely on: each test quotes the sentences of docs/semantics.md it shows.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt, symlink};
use std::time::{Duration, UNIX_EPOCH};

use rustix::fs::{CWD, RenameFlags, renameat_with};

use crate::own::{FORMATS, Own, alone, can_mount};

fn code<T>(result: std::io::Result<T>) -> i32 {
    result.map(drop).map_err(|error| error.raw_os_error().unwrap_or(0)).err().unwrap_or(0)
}

fn rename_with(own: &Own, from: &str, to: &str, flags: RenameFlags) -> i32 {
    let renamed = renameat_with(CWD, own.path(from), CWD, own.path(to), flags);
    renamed.err().map_or(0, rustix::io::Errno::raw_os_error)
}

/// Sentence 31. "A file can be read and written at any offset; what was never written reads as
/// zeros."
#[test]
fn any_offset_and_any_size() {
    for format in FORMATS {
        if !can_mount() {
            return;
        }
        let mut own = Own::in_format(format);
        let path = own.path("file");
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(false).open(&path);
        let file = file.expect("is made");
        file.write_all_at(b"end", 200_000).expect("writes");
        file.write_all_at(b"begin", 0).expect("writes");
        let mut model = vec![0; 200_003];
        model[..5].copy_from_slice(b"begin");
        model[200_000..].copy_from_slice(b"end");
        assert_eq!(fs::read(&path).expect("reads"), model, "before it is closed");
        drop(file);
        let file = options.open(&path).expect("opens");
        file.write_all_at(b"middle", 100_000).expect("writes");
        model[100_000..100_006].copy_from_slice(b"middle");
        assert_eq!(fs::read(&path).expect("reads"), model);
        for size in [150_000, 3, 70_000, 0, 10] {
            file.set_len(size).expect("is cut or extended");
            model.resize(size as usize, 0);
            assert_eq!(fs::metadata(&path).expect("exists").len(), size);
            assert_eq!(fs::read(&path).expect("reads"), model, "{size}");
        }
        drop(file);
        own.remount();
        assert_eq!(fs::read(&path).expect("reads"), model);
    }
}

/// Sentence 32. "Every combination of open(2)'s flags means what it means on a local disk."
/// Sentence 34. "All processes that have a file open see a write by any of them at once." Sentence
/// 36. "`O_TMPFILE` fails with EOPNOTSUPP."
#[test]
fn flags_of_open() {
    for format in FORMATS {
        if !can_mount() {
            return;
        }
        let own = Own::in_format(format);
        let path = own.path("file");
        fs::write(&path, "0123456789").expect("writes");
        let new = OpenOptions::new().write(true).create_new(true).open(&path);
        assert_eq!(code(new), libc::EEXIST);
        assert_eq!(code(OpenOptions::new().write(true).open(own.path("absent"))), libc::ENOENT);
        let mut append = OpenOptions::new().append(true).open(&path).expect("opens");
        append.write_all(b"ab").expect("appends");
        append.seek(SeekFrom::Start(0)).expect("seeks");
        append.write_all(b"c").expect("appends wherever it stands");
        assert_eq!(fs::read(&path).expect("reads"), b"0123456789abc");
        let mut read_only = File::open(&path).expect("opens");
        assert_eq!(code(read_only.write(b"x").map(drop)), libc::EBADF);
        let mut truncating =
            OpenOptions::new().write(true).truncate(true).open(&path).expect("opens");
        assert_eq!(fs::metadata(&path).expect("exists").len(), 0);
        truncating.write_all(b"new").expect("writes");
        let mut text = String::new();
        read_only.read_to_string(&mut text).expect("reads");
        assert_eq!(text, "new", "all descriptors share one file");
        let unnamed = OpenOptions::new().write(true).custom_flags(libc::O_TMPFILE).open(own.root());
        assert_eq!(code(unnamed), libc::EOPNOTSUPP);
        let direct = OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(&path);
        let mut bytes = [0; 3];
        direct.expect("opens").read_exact(&mut bytes).expect("reads");
        assert_eq!(&bytes, b"new");
    }
}

/// Sentence 33. "An unlinked file stays available to the processes that have it open, and to no
/// others."
#[test]
fn unlinked_while_open() {
    for format in FORMATS {
        if !can_mount() {
            return;
        }
        let own = Own::in_format(format);
        let path = own.path("file");
        fs::write(&path, "content").expect("writes");
        let file = OpenOptions::new().read(true).write(true).open(&path).expect("opens");
        fs::remove_file(&path).expect("unlinks");
        assert_eq!(code(fs::metadata(&path)), libc::ENOENT);
        file.write_all_at(b"CON", 0).expect("writes");
        let mut bytes = [0; 7];
        file.read_exact_at(&mut bytes, 0).expect("reads");
        assert_eq!(&bytes, b"CONtent");
        assert_eq!(file.metadata().expect("exists").nlink(), 0);
        fs::write(&path, "another").expect("writes");
        drop(file);
        assert_eq!(fs::read(&path).expect("reads"), b"another");
        // A new file that is unlinked before it is ever stored.
        let mut options = OpenOptions::new();
        let file =
            options.read(true).write(true).create_new(true).open(own.path("t")).expect("makes");
        fs::remove_file(own.path("t")).expect("unlinks");
        file.write_all_at(b"x", 0).expect("writes");
        file.sync_all().expect("syncs");
    }
}

/// Sentence 37. "rename(2) replaces files and empty directories in one step; RENAME_NOREPLACE and
/// RENAME_EXCHANGE work. Open files and inode numbers follow."
#[test]
fn renames() {
    for format in FORMATS {
        if !can_mount() {
            return;
        }
        let mut own = Own::in_format(format);
        let write =
            |own: &Own, name: &str, text: &str| fs::write(own.path(name), text).expect("writes");
        let read = |own: &Own, name: &str| fs::read_to_string(own.path(name)).expect("reads");
        write(&own, "a", "a");
        write(&own, "b", "b");
        assert_eq!(rename_with(&own, "a", "b", RenameFlags::NOREPLACE), libc::EEXIST);
        assert_eq!(rename_with(&own, "a", "b", RenameFlags::EXCHANGE), 0);
        assert_eq!((read(&own, "a"), read(&own, "b")), ("b".into(), "a".into()));
        let number = fs::metadata(own.path("a")).expect("exists").ino();
        let mut open = OpenOptions::new().append(true).open(own.path("a")).expect("opens");
        open.write_all(b"1").expect("writes");
        fs::rename(own.path("a"), own.path("b")).expect("replaces");
        open.write_all(b"2").expect("writes");
        assert_eq!(fs::metadata(own.path("b")).expect("exists").ino(), number);
        drop(open);
        assert_eq!(read(&own, "b"), "b12");
        assert_eq!(code(fs::metadata(own.path("a"))), libc::ENOENT);

        fs::create_dir_all(own.path("d/e/f")).expect("makes");
        fs::create_dir(own.path("empty")).expect("makes");
        fs::create_dir(own.path("full")).expect("makes");
        write(&own, "full/x", "x");
        for n in 0..300 {
            write(&own, &format!("d/e/{n}"), &n.to_string());
        }
        let mut deep = OpenOptions::new().append(true).open(own.path("d/e/7")).expect("opens");
        assert_eq!(code(fs::rename(own.path("d"), own.path("full"))), libc::ENOTEMPTY);
        assert_eq!(code(fs::rename(own.path("d"), own.path("b"))), libc::ENOTDIR);
        assert_eq!(code(fs::rename(own.path("b"), own.path("d"))), libc::EISDIR);
        assert_eq!(code(fs::rename(own.path("d"), own.path("d/e/f/g"))), libc::EINVAL);
        fs::rename(own.path("d"), own.path("empty")).expect("replaces");
        deep.write_all(b"!").expect("writes");
        drop(deep);
        assert_eq!(rename_with(&own, "empty", "full", RenameFlags::EXCHANGE), 0);
        for _ in 0..2 {
            assert_eq!(read(&own, "full/e/7"), "7!");
            assert_eq!(read(&own, "full/e/299"), "299");
            assert_eq!(read(&own, "empty/x"), "x");
            assert!(fs::metadata(own.path("full/e/f")).expect("exists").is_dir());
            assert_eq!(code(fs::metadata(own.path("d"))), libc::ENOENT);
            own.remount();
        }
    }
}

/// Sentence 39. "A directory can be removed only while it is empty, and stays when its last entry is
/// removed."
#[test]
fn directories() {
    for format in FORMATS {
        if !can_mount() {
            return;
        }
        let mut own = Own::in_format(format);
        fs::create_dir_all(own.path("a/b")).expect("makes");
        assert_eq!(code(fs::create_dir(own.path("a"))), libc::EEXIST);
        assert_eq!(code(fs::remove_dir(own.path("a"))), libc::ENOTEMPTY);
        fs::write(own.path("a/b/c"), "x").expect("writes");
        assert_eq!(code(fs::remove_dir(own.path("a/b/c"))), libc::ENOTDIR);
        assert_eq!(code(fs::remove_file(own.path("a/b"))), libc::EISDIR);
        fs::remove_file(own.path("a/b/c")).expect("unlinks");
        own.remount();
        assert_eq!(fs::read_dir(own.path("a/b")).expect("lists").count(), 0);
        fs::remove_dir(own.path("a/b")).expect("removes");
        fs::remove_dir(own.path("a")).expect("removes");
        assert_eq!(code(fs::metadata(own.path("a"))), libc::ENOENT);
        // A new file counts before it is closed.
        fs::create_dir(own.path("d")).expect("makes");
        let open = File::create(own.path("d/new")).expect("makes");
        assert_eq!(code(fs::remove_dir(own.path("d"))), libc::ENOTEMPTY);
        assert_eq!(fs::read_dir(own.path("d")).expect("lists").count(), 1);
        drop(open);
    }
}

/// Sentence 40. "Permissions, owners, access and modification times to the nanosecond, links and extended
/// attributes are stored."
/// Sentence 42. "Links are shown as they were made."
#[test]
fn metadata_is_stored() {
    for format in FORMATS {
        if !can_mount() {
            return;
        }
        let mut own = Own::in_format(format);
        let path = own.path("file");
        fs::write(&path, "x").expect("writes");
        fs::create_dir(own.path("dir")).expect("makes");
        symlink("/absolute/../target", own.path("link")).expect("makes");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).expect("is ours");
        fs::set_permissions(own.path("dir"), fs::Permissions::from_mode(0o1750)).expect("is ours");
        let root = nix::unistd::geteuid().is_root();
        let made = fs::metadata(&path).expect("exists");
        let owner = if root { (12, 34) } else { (made.uid(), made.gid()) };
        std::os::unix::fs::chown(&path, Some(owner.0), Some(owner.1)).expect("is ours to give");
        let at = UNIX_EPOCH + Duration::from_millis(1_500_000_000_123);
        let times = fs::FileTimes::new().set_modified(at);
        File::options().write(true).open(&path).expect("opens").set_times(times).expect("is ours");
        File::open(own.path("dir")).expect("opens").set_times(times).expect("is ours");
        let set = |name: &str, value: &[u8], flags| rustix::fs::setxattr(&path, name, value, flags);
        use rustix::fs::XattrFlags;
        set("user.a", b"1", XattrFlags::empty()).expect("sets");
        set("user.b", b"2", XattrFlags::CREATE).expect("sets");
        assert_eq!(set("user.a", b"3", XattrFlags::CREATE), Err(rustix::io::Errno::EXIST));
        assert_eq!(set("user.c", b"3", XattrFlags::REPLACE), Err(rustix::io::Errno::NODATA));
        assert_eq!(set("trusted.c", b"3", XattrFlags::empty()), Err(rustix::io::Errno::OPNOTSUPP));
        rustix::fs::removexattr(&path, "user.b").expect("removes");
        for _ in 0..2 {
            let file = fs::metadata(&path).expect("exists");
            assert_eq!((file.mode() & 0o7777, file.modified().expect("known")), (0o640, at));
            assert_eq!((file.uid(), file.gid()), owner);
            let dir = fs::metadata(own.path("dir")).expect("exists");
            assert_eq!((dir.mode() & 0o7777, dir.modified().expect("known")), (0o1750, at));
            let target = fs::read_link(own.path("link")).expect("reads");
            assert_eq!(target.to_str(), Some("/absolute/../target"));
            let mut value = [0; 8];
            assert_eq!(rustix::fs::getxattr(&path, "user.a", &mut value), Ok(1));
            let gone = rustix::fs::getxattr(&path, "user.b", &mut value);
            assert_eq!(gone, Err(rustix::io::Errno::NODATA));
            own.remount();
        }
    }
}

/// Sentence 44. "Fifos, sockets, devices and hard links are stored."
#[test]
fn entries_that_the_format_cannot_hold_are_refused() {
    for format in FORMATS {
        if !can_mount() {
            return;
        }
        let own = Own::in_format(format);
        fs::write(own.path("file"), "x").expect("writes");
        assert_eq!(code(fs::write(own.path(&"n".repeat(256)), "x")), libc::ENAMETOOLONG);
        for name in ["n".repeat(255), "\u{e9}".into(), "line\nfeed".into(), "back\\slash".into()] {
            fs::write(own.path(&name), "x").unwrap_or_else(|error| panic!("{name:?}: {error}"));
            assert_eq!(fs::read(own.path(&name)).expect("reads"), b"x");
        }
    }
}

/// Sentence 57. "With --read-only nothing can be changed."
#[test]
fn read_only() {
    for format in FORMATS {
        if !can_mount() {
            return;
        }
        let mut own = Own::in_format(format);
        fs::write(own.path("file"), "x").expect("writes");
        own.unmount();
        own.mount_with(&["--read-only"]);
        assert_eq!(code(fs::write(own.path("file"), "y")), libc::EROFS);
        assert_eq!(code(fs::remove_file(own.path("file"))), libc::EROFS);
        assert_eq!(fs::read(own.path("file")).expect("reads"), b"x");
    }
}

/// Sentence 53. "Closing a file that was not changed costs nothing, however it was opened; a copy
/// by copy_file_range(2) shares the blocks of the original." Sentence 54. "Appending to the file
/// that was stored last stores only the appended bytes."
#[test]
fn unchanged_files_and_copies_store_no_bytes() {
    for format in FORMATS {
        if !alone("posix::unchanged_files_and_copies_store_no_bytes") {
            return;
        }
        if !can_mount() {
            return;
        }
        let mut own = Own::in_format(format);
        let mut bytes = vec![0; 3_000_000];
        for (index, byte) in bytes.iter_mut().enumerate() {
            *byte = ((index * 7919) >> 8) as u8;
        }
        fs::write(own.path("big"), &bytes).expect("writes");
        let before = own.version();
        drop(OpenOptions::new().read(true).write(true).open(own.path("big")).expect("opens"));
        assert_eq!(own.version(), before);
        // Without the scratch files, which are emptied at RELEASE, some time after close(2).
        let stored = || {
            let store = own.store();
            let du = crate::common::living::shell(&format!(
                "du -sb --exclude=scratch {}",
                store.display()
            ));
            du.split_whitespace().next().and_then(|size| size.parse::<u64>().ok()).expect("a size")
        };
        let before = stored();
        fs::copy(own.path("big"), own.path("copy")).expect("copies");
        assert!(stored() - before < 100_000, "{}", stored() - before);
        // Only appended bytes are stored, unless another file was stored in between.
        fs::write(own.path("log"), &bytes).expect("writes");
        let before = stored();
        for _ in 0..10 {
            let mut log = OpenOptions::new().append(true).open(own.path("log")).expect("opens");
            log.write_all(&[1; 4096]).expect("appends");
        }
        assert!(stored() - before < 200_000, "{}", stored() - before);
        own.remount();
        assert_eq!(fs::read(own.path("copy")).expect("reads"), bytes);
        assert_eq!(fs::read(own.path("log")).expect("reads").len(), bytes.len() + 40_960);
    }
}

/// Sentence 35. "flock(2), fcntl(2) locks and shared mappings work among the programs of this
/// machine."
#[test]
fn locks_and_mappings() {
    for format in FORMATS {
        if !can_mount() {
            return;
        }
        let mut own = Own::in_format(format);
        let path = own.path("file");
        fs::write(&path, vec![7; 10_000]).expect("writes");
        let mut options = OpenOptions::new();
        let (one, two) = (options.read(true).write(true).open(&path), options.open(&path));
        let (one, two) = (one.expect("opens"), two.expect("opens"));
        one.lock().expect("locks");
        assert!(matches!(two.try_lock(), Err(fs::TryLockError::WouldBlock)));
        one.unlock().expect("unlocks");
        two.try_lock().expect("locks");
        let script = "
import mmap, sys
with open(sys.argv[1], 'r+b') as f:
    m = mmap.mmap(f.fileno(), 0)
m[5000:5004] = b'mmap'   # after the descriptor was closed
m.close()
";
        let python = std::process::Command::new("python3").args(["-c", script]).arg(&path).status();
        match python {
            Err(error) if error.kind() == ErrorKind::NotFound => return,
            status => assert!(status.expect("runs").success()),
        }
        let mut bytes = [0; 4];
        two.read_exact_at(&mut bytes, 5000).expect("reads");
        assert_eq!(&bytes, b"mmap");
        drop((one, two));
        own.remount();
        assert_eq!(&fs::read(&path).expect("reads")[5000..5004], b"mmap");
    }
}
