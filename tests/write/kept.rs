//! What a file is beside its content, in both formats: exact times, devices, names that are not UTF-8.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT};

use sha2::{Digest, Sha256};

use crate::common::living::{Mounted, hypermount, serve, shell, succeed};
use crate::own::{FORMATS, Own, can_mount, has_reference};

type Moment = (i64, i64);

fn time((seconds, nanoseconds): Moment) -> Timespec {
    Timespec { tv_sec: seconds, tv_nsec: nanoseconds as _ }
}

fn set(path: &Path, accessed: Moment, modified: Moment) {
    let times = Timestamps { last_access: time(accessed), last_modification: time(modified) };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).expect("is ours");
}

/// Access and modification time.
fn times(path: &Path) -> [Moment; 2] {
    let found = fs::symlink_metadata(path).expect("exists");
    [(found.atime(), found.atime_nsec()), (found.mtime(), found.mtime_nsec())]
}

fn changed(path: &Path) -> Moment {
    let found = fs::symlink_metadata(path).expect("exists");
    (found.ctime(), found.ctime_nsec())
}

/// Sentence 40. "access and modification times to the nanosecond" Sentence 112. "Times before 1970 and after 2106
/// are stored, and shown within the years 1 to 9999."
#[test]
fn times_are_kept_to_the_nanosecond() {
    for format in FORMATS {
        if !can_mount() {
            return;
        }
        let mut own = Own::in_format(format);
        fs::create_dir(own.path("dir")).expect("makes");
        std::os::unix::fs::symlink("target", own.path("link")).expect("links");
        let moments = [
            ("file", (1_700_000_000, 123_456_789), (1_700_000_000, 999_999_999)),
            ("early", (-2, 500_000_000), (-2_000_000_000, 1)),
            ("late", (4_294_967_296, 1), (253_402_300_799, 0)),
            ("dir", (-1, 999_999_999), (0, 1)),
            ("link", (5, 5), (-6, 6)),
        ];
        for (name, ..) in moments.iter().filter(|(name, ..)| !["dir", "link"].contains(name)) {
            fs::write(own.path(name), "x").expect("writes");
        }
        for (name, accessed, modified) in moments {
            let before = changed(&own.path(name));
            set(&own.path(name), accessed, modified);
            assert!(changed(&own.path(name)) > before, "{name} {format}");
        }
        for _ in 0..2 {
            for (name, accessed, modified) in moments {
                assert_eq!(times(&own.path(name)), [accessed, modified], "{name} {format}");
            }
            own.remount();
        }
        // One of the two alone, and none.
        let (omit, file) = ((0, UTIME_OMIT), own.path("file"));
        set(&file, omit, (7, 8));
        assert_eq!(times(&file), [(1_700_000_000, 123_456_789), (7, 8)]);
        set(&file, (9, 10), omit);
        assert_eq!(times(&file), [(9, 10), (7, 8)]);
        let before = changed(&file);
        set(&file, omit, omit);
        assert_eq!((times(&file), changed(&file)), ([(9, 10), (7, 8)], before));
        set(&file, (0, UTIME_NOW), omit);
        assert!(times(&file)[0].0 > 1_700_000_000, "{:?}", times(&file));
        own.remount();
        assert_eq!(times(&file)[1], (7, 8));
        assert!(times(&file)[0].0 > 1_700_000_000);
        set(&file, (-100_000_000_000, 0), (300_000_000_000, 0));
        assert_eq!(times(&file), [(-62_135_596_800, 0), (253_402_300_799, 0)]);
    }
}

/// 137. A read makes no version. The access time that it changes is kept in memory, by the rules of `relatime`, and
///      stored with the next version of that file; until then it is lost at unmount.
#[test]
fn a_read_is_noted_and_makes_no_version() {
    for format in FORMATS {
        if !can_mount() {
            return;
        }
        let mut own = Own::in_format(format);
        let file = own.path("file");
        fs::write(&file, "content").expect("writes");
        own.remount();
        let (version, [unread, modified]) = (own.version(), times(&file));
        assert!(unread <= modified, "{unread:?} {modified:?}");
        let read = || {
            let mut bytes = Vec::new();
            File::open(&file).expect("opens").read_to_end(&mut bytes).expect("reads");
        };
        read();
        let first = times(&file)[0];
        assert!(first > modified, "{first:?} {modified:?} {format}");
        read();
        assert_eq!(times(&file)[0], first, "not changed since");
        assert_eq!(own.version(), version, "{format}");
        own.remount();
        assert_eq!(times(&file)[0], unread, "it was in memory");
        read();
        let first = times(&file)[0];
        // It is stored with the next version of the file.
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("is ours");
        fs::rename(&file, own.path("renamed")).expect("renames");
        own.remount();
        assert_eq!(times(&own.path("renamed")), [first, modified], "{format}");
    }
}

/// Sentence 45. "A directory's modification time is updated at once when its entries change, and stored at
/// fsync(2) of the directory and at unmount."
#[test]
fn the_root_keeps_its_time() {
    for format in FORMATS {
        if !can_mount() {
            return;
        }
        let mut own = Own::in_format(format);
        fs::create_dir(own.path("dir")).expect("makes");
        fs::write(own.path("dir/file"), "x").expect("writes");
        fs::write(own.path("file"), "x").expect("writes");
        let before = ["", "dir"].map(|name| times(&own.path(name))[1]);
        own.remount();
        assert_eq!(["", "dir"].map(|name| times(&own.path(name))[1]), before, "{format}");
        let mode = fs::metadata(own.root()).expect("exists").mode();
        assert_eq!(mode & 0o7777, 0o755, "{format}");
        let version = own.version();
        own.remount();
        assert_eq!(own.version(), version, "nothing changed");
        let other = File::open(own.root()).expect("opens");
        fs::remove_file(own.path("file")).expect("removes");
        let removed = times(&own.root())[1];
        other.sync_all().expect("syncs");
        own.kill();
        assert_eq!(times(&own.root())[1], removed, "{format}");
    }
}

/// Sentence 44. "Fifos, sockets, devices and hard links are stored."
///
/// 139. A device has its numbers (`st_rdev`), and opening it fails with EACCES: a mount is `nodev`, also of your own
///      drive.
#[test]
fn devices_keep_their_numbers_and_are_not_opened() {
    use nix::sys::stat::{Mode, SFlag, makedev, mknod};
    for format in FORMATS {
        if !can_mount() || !nix::unistd::geteuid().is_root() {
            eprintln!("SKIPPED: only root makes devices");
            return;
        }
        let mut own = Own::in_format(format);
        let devices = [
            ("null", SFlag::S_IFCHR, makedev(1, 3)),
            ("disk", SFlag::S_IFBLK, makedev(259, 70_000)),
            ("whiteout", SFlag::S_IFCHR, 0),
        ];
        for (name, kind, number) in devices {
            let made = mknod(&own.path(name), kind, Mode::S_IRUSR | Mode::S_IWUSR, number);
            made.unwrap_or_else(|error| panic!("{name} {format}: {error}"));
        }
        mknod(&own.path("fifo"), SFlag::S_IFIFO, Mode::S_IRWXU, 0).expect("makes");
        drop(std::os::unix::net::UnixListener::bind(own.path("socket")).expect("binds"));
        fs::rename(own.path("null"), own.path("zero")).expect("renames");
        fs::set_permissions(own.path("zero"), fs::Permissions::from_mode(0o644)).expect("is ours");
        own.remount();
        let found = |name: &str| fs::symlink_metadata(own.path(name)).expect("is stored");
        let (zero, disk, whiteout) = (found("zero"), found("disk"), found("whiteout"));
        assert!(zero.file_type().is_char_device() && whiteout.file_type().is_char_device());
        assert!(disk.file_type().is_block_device() && found("fifo").file_type().is_fifo());
        assert!(found("socket").file_type().is_socket());
        assert_eq!((zero.rdev(), zero.mode() & 0o7777), (makedev(1, 3), 0o644), "{format}");
        assert_eq!((disk.rdev(), whiteout.rdev()), (makedev(259, 70_000), 0), "{format}");
        let refused = File::open(own.path("zero")).expect_err("a mount is nodev");
        assert_eq!(refused.raw_os_error(), Some(libc::EACCES));
        own.unmount();
        let told =
            succeed(hypermount().args(["stat", "notes", "disk", "--store"]).arg(own.store()));
        assert!(told.contains("device: 259, 70000"), "{told}");
        own.mount();
        fs::remove_file(own.path("disk")).expect("removes");
        assert!(!own.path("disk").exists());
    }
}

/// Names of which the first two are not UTF-8, and the others look like the text that is stored for such.
const ODD: [&[u8]; 5] =
    [b"caf\xe9", b"\xff\xfe", "caf␛E9".as_bytes(), "␛".as_bytes(), "caf␛E2␛90␛9BE9".as_bytes()];

/// Sentence 138. "A name, target of a link or name of an attribute may be any bytes. Those that are not UTF-8 are
/// stored as text, in which `␛` (U+241B) and two digits stand for a byte: `caf␛E9`." Sentence 138. "A text that
/// looks like that is stored in another one, so no two names are mixed up."
#[test]
fn names_may_be_any_bytes() {
    for format in FORMATS {
        if !can_mount() {
            return;
        }
        let mut own = Own::in_format(format);
        for bytes in ODD {
            let name = OsStr::from_bytes(bytes);
            let directory = own.root().join(name);
            fs::create_dir(&directory).unwrap_or_else(|error| panic!("{name:?}: {error}"));
            fs::write(directory.join("old"), bytes).expect("writes");
            fs::rename(directory.join("old"), directory.join(name)).expect("renames");
            std::os::unix::fs::symlink(name, directory.join("link")).expect("links");
            let attribute = [b"user.", bytes].concat();
            let flags = rustix::fs::XattrFlags::empty();
            rustix::fs::setxattr(&directory, &*attribute, bytes, flags).expect("sets");
        }
        for _ in 0..2 {
            let listed = fs::read_dir(own.root()).expect("lists");
            let mut listed: Vec<_> =
                listed.map(|entry| entry.expect("a name").file_name()).collect();
            listed.sort();
            let mut expected = ODD.map(|bytes| OsStr::from_bytes(bytes).to_owned());
            expected.sort();
            assert_eq!(listed, expected, "{format}");
            for bytes in ODD {
                let name = OsStr::from_bytes(bytes);
                let directory = own.root().join(name);
                assert_eq!(fs::read(directory.join(name)).expect("reads"), bytes, "{format}");
                assert_eq!(fs::read(directory.join("link")).expect("follows"), bytes);
                let link = directory.join("link");
                assert_eq!(fs::read_link(&link).expect("a link").as_os_str(), name);
                let size = fs::symlink_metadata(&link).expect("a link").len();
                assert_eq!(size, bytes.len() as u64);
                let mut list = [0; 64];
                let length = rustix::fs::listxattr(&directory, &mut list[..]).expect("lists");
                let attribute = [b"user.", bytes].concat();
                assert_eq!(list[..length], *[&attribute[..], b"\0"].concat(), "{format}");
                let mut value = [0; 64];
                let length = rustix::fs::getxattr(&directory, &*attribute, &mut value[..]);
                assert_eq!(value[..length.expect("is set")], *bytes);
            }
            own.remount();
        }
        let long = vec![0xff; 255];
        fs::write(own.root().join(OsStr::from_bytes(&long)), "long").expect("writes");
        let longer = own.root().join(OsStr::from_bytes(&[&long[..], b"x"].concat()));
        let refused = fs::write(longer, "x").expect_err("no name is that long");
        assert_eq!(refused.raw_os_error(), Some(libc::ENAMETOOLONG));
    }
}

/// Sentence 138. "Mounts, `import` and `export` have the bytes. Other programs, the commands and their `--json`
/// have the text."
#[test]
fn commands_take_the_text_and_copies_keep_the_bytes() {
    for format in FORMATS {
        if !can_mount() {
            return;
        }
        let mut own = Own::in_format(format);
        own.unmount();
        let tree = own.beside("tree");
        for bytes in ODD {
            let name = OsStr::from_bytes(bytes);
            fs::create_dir_all(tree.join(name)).expect("makes");
            fs::write(tree.join(name).join(name), bytes).expect("writes");
            std::os::unix::fs::symlink(name, tree.join(name).join("link")).expect("links");
        }
        let store = own.store();
        let run =
            |arguments: &[&OsStr]| succeed(hypermount().args(arguments).arg("--store").arg(&store));
        run(&["import".as_ref(), tree.as_os_str(), "notes".as_ref()]);
        let listed = run(&["ls".as_ref(), "notes".as_ref()]);
        let mut names: Vec<&str> = listed.lines().collect();
        names.sort_unstable();
        assert_eq!(
            names,
            ["caf␛E2␛90␛9BE2␛E2␛90␛9B90␛E2␛90␛9B9BE9", "caf␛E2␛90␛9BE9", "caf␛E9", "␛", "␛FF␛FE"]
        );
        let said =
            succeed(hypermount().args(["ls", "--json", "notes", "caf␛E9", "--store"]).arg(&store));
        let said: serde_json::Value = serde_json::from_str(&said).expect("JSON");
        let said = said.as_array().expect("entries");
        assert!(said.iter().any(|entry| entry["target"] == "caf␛E9"), "{said:?}");
        let url = format!("{}/caf%E9/caf%E9", own.url);
        let output = hypermount().args(["cat", &url, "--store"]).arg(&store).output();
        assert_eq!(output.expect("runs").stdout, b"caf\xe9");
        let copied = own.beside("copy");
        run(&["export".as_ref(), "notes".as_ref(), copied.as_os_str()]);
        shell(&format!("diff -r --no-dereference {} {}", tree.display(), copied.display()));
        let extra = copied.join(OsStr::from_bytes(b"extra-\xfc"));
        fs::write(&extra, "x").expect("writes");
        run(&["export".as_ref(), "--delete".as_ref(), "notes".as_ref(), copied.as_os_str()]);
        assert!(!extra.exists());
    }
}

/// A reader of the key sees the times, numbers and names as they are; a program that does not know how they are
/// stored reads the files under the text of their names.
#[test]
fn readers_see_all_of_it_and_other_programs_are_not_disturbed() {
    for format in FORMATS {
        if !can_mount() {
            return;
        }
        let mut own = Own::in_format(format);
        let (accessed, modified) = ((-7, 900_000_001), (1_700_000_000, 123_456_789));
        for bytes in ODD {
            let path = own.root().join(OsStr::from_bytes(bytes));
            fs::write(&path, bytes).expect("writes");
            set(&path, accessed, modified);
            let attribute = rustix::fs::XattrFlags::empty();
            rustix::fs::setxattr(&path, "user.a", b"1", attribute).expect("sets");
        }
        let is_root = nix::unistd::geteuid().is_root();
        if is_root {
            use nix::sys::stat::{Mode, SFlag, makedev, mknod};
            let number = makedev(1, 3);
            mknod(&own.path("null"), SFlag::S_IFCHR, Mode::S_IRWXU, number).expect("makes");
        }
        own.unmount();
        {
            let server = serve(&own.store());
            let (at, cache) = (own.beside("other"), own.beside("cache"));
            let other =
                Mounted::by_key(own.key(), &at, &cache, std::slice::from_ref(&server.address));
            for bytes in ODD {
                let path = other.at.join(OsStr::from_bytes(bytes));
                assert_eq!(fs::read(&path).expect("reads"), bytes, "{format}");
                assert_eq!(times(&path), [accessed, modified], "{format}");
                let mut list = [0; 64];
                let length = rustix::fs::listxattr(&path, &mut list[..]).expect("lists");
                assert_eq!(list[..length], *b"user.a\0", "what is ours is no attribute");
            }
            if is_root {
                let null = fs::symlink_metadata(other.path("null")).expect("is shown");
                assert!(null.file_type().is_char_device());
                assert_eq!(null.rdev(), nix::sys::stat::makedev(1, 3), "{format}");
                let refused = File::open(other.path("null")).expect_err("the mount is nodev");
                assert_eq!(refused.raw_os_error(), Some(libc::EACCES));
            }
        }
        if !has_reference() {
            continue;
        }
        fs::remove_dir_all(own.beside("cache")).expect("removes");
        own.mount();
        let _ = fs::remove_file(own.path("null"));
        own.unmount();
        let read = own.read_by_reference();
        let expected = ODD.map(|bytes| {
            let name = hypermount_drive::escape(bytes).into_owned();
            (name, format!("file {}", hex::encode(Sha256::digest(bytes))))
        });
        assert_eq!(read, expected.into_iter().collect(), "{format}");
    }
}

/// 141. The link count of a directory is 1, as on btrfs: subdirectories are not counted.
#[test]
fn directories_have_one_link() {
    for format in FORMATS {
        if !can_mount() {
            return;
        }
        let own = Own::in_format(format);
        fs::create_dir_all(own.path("dir/sub")).expect("makes");
        for name in ["", "dir", "dir/sub"] {
            assert_eq!(fs::metadata(own.path(name)).expect("exists").nlink(), 1, "{name}");
        }
        let found = shell(&format!("find {} -name sub", own.root().display()));
        assert!(found.trim().ends_with("/dir/sub"), "{found}");
    }
}
