//! What programs see in a mounted drive.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::Path;

use bytes::Bytes;
use hypermount_drive::{DriveFormat, DrivePath, Edit, Stat};
use sha2::{Digest, Sha256};

use crate::common::{Bench, expected, in_each_format};

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn walk(root: &Path, below: &Path, found: &mut BTreeMap<String, u64>) {
    for entry in fs::read_dir(below).expect("lists").map(|entry| entry.expect("an entry")) {
        let path = entry.path();
        let metadata = fs::symlink_metadata(&path).expect("a listed name exists");
        assert_eq!(entry.file_type().expect("a type"), metadata.file_type(), "{path:?}");
        let relative = path.strip_prefix(root).expect("below").to_str().expect("UTF-8");
        found.insert(relative.to_owned(), metadata.ino());
        if metadata.is_dir() {
            walk(root, &path, found);
        }
    }
}

fn getxattr(path: &Path, name: &str) -> Result<Vec<u8>, rustix::io::Errno> {
    let mut value = vec![0; 4096];
    let length = rustix::fs::getxattr(path, name, &mut value[..])?;
    value.truncate(length);
    Ok(value)
}

#[test]
fn each_version_shows_what_was_recorded() {
    in_each_format(each_version_is_shown);
}

fn each_version_is_shown(format: DriveFormat) {
    let vector = expected(format);
    let newest = &vector["versions"][2];
    for version in vector["versions"].as_array().expect("versions") {
        let bench = Bench::recorded(format, version["version"].as_u64());
        let mount = bench.mount();
        let root = mount.mountpoint();
        let mut found = BTreeMap::new();
        walk(root, root, &mut found);
        let recorded = version["recursiveReaddir"].as_array().expect("paths");
        for path in recorded.iter().filter_map(|path| path.as_str()) {
            // The nested drive follows its newest version.
            let source = if path.starts_with("mnt/") { newest } else { version };
            let entry = &source["entries"][path];
            if entry.is_null() {
                continue;
            }
            assert!(found.contains_key(path), "{path} is not listed");
            let at = root.join(path);
            let metadata = fs::symlink_metadata(&at).expect("exists");
            let field = |name: &str| entry[name].as_u64().expect("a number");
            let milliseconds = metadata.mtime() * 1000 + metadata.mtime_nsec() / 1_000_000;
            assert_eq!(milliseconds, field("mtime") as i64, "{path}");
            assert_eq!((metadata.uid(), metadata.gid()), (0, 0), "{path}");
            if let Some(target) = entry["linkname"].as_str() {
                let shown = fs::read_link(&at).expect("a link");
                assert_eq!(shown.to_str(), Some(target.trim_start_matches('/')), "{path}");
                assert_eq!(metadata.len(), target.trim_start_matches('/').len() as u64);
            } else {
                assert_eq!(metadata.permissions().mode() & 0o7777, field("mode") as u32 & 0o777);
                assert_eq!(metadata.len(), field("size"), "{path}");
                assert_eq!(metadata.blocks(), field("size").div_ceil(512), "{path}");
            }
            if let Some(hash) = entry["sha256"].as_str() {
                let bytes = fs::read(&at).expect("reads");
                assert_eq!(hex(&Sha256::digest(bytes)), hash, "{path}");
            }
            for (name, value) in entry["metadata"].as_object().into_iter().flatten() {
                let got = getxattr(&at, name);
                match value.as_str() {
                    Some(value) => assert_eq!(hex(&got.expect("an attribute")), value, "{path}"),
                    None => assert_eq!(got, Err(rustix::io::Errno::NODATA), "{path}"),
                }
            }
        }
    }
}

/// 22. Inode numbers of a drive's files are the same after a remount, except when two numbers
///     collide, which is rare.
#[test]
fn numbers_survive_a_remount_and_are_unique() {
    in_each_format(numbers_survive_a_remount);
}

fn numbers_survive_a_remount(format: DriveFormat) {
    let bench = Bench::recorded(format, None);
    let mut runs = Vec::new();
    for _ in 0..2 {
        let mount = bench.mount();
        let mut found = BTreeMap::new();
        walk(mount.mountpoint(), mount.mountpoint(), &mut found);
        runs.push(found);
    }
    assert_eq!(runs[0], runs[1]);
    let distinct: BTreeSet<u64> = runs[0].values().copied().collect();
    assert_eq!(distinct.len(), runs[0].len());
}

/// 20. A mount is `nosuid` and `nodev`, and read-only unless the drive can be written (below):
///     every attempt to change it fails with EROFS.
#[test]
fn nothing_can_be_changed() {
    in_each_format(no_call_changes_anything);
}

fn no_call_changes_anything(format: DriveFormat) {
    let bench = Bench::recorded(format, None);
    let mount = bench.mount();
    let root = mount.mountpoint();
    let file = root.join("hello.txt");
    let code = |result: std::io::Result<()>| result.expect_err("refused").raw_os_error();
    let open = |options: &mut fs::OpenOptions, path: &Path| code(options.open(path).map(drop));
    let new = root.join("new");
    let (erofs, enoent) = (Some(libc::EROFS), Some(libc::ENOENT));
    assert_eq!(open(fs::File::options().write(true), &file), erofs);
    assert_eq!(open(fs::File::options().append(true), &file), erofs);
    assert_eq!(open(fs::File::options().write(true), &new), enoent);
    assert_eq!(open(fs::File::options().write(true).create(true), &new), erofs);
    let exclusive = open(fs::File::options().write(true).create_new(true), &file);
    assert_eq!(exclusive, Some(libc::EEXIST));
    assert_eq!(code(fs::create_dir(&new)), erofs);
    assert_eq!(code(fs::remove_file(&file)), erofs);
    assert_eq!(code(fs::remove_dir(root.join("dir"))), erofs);
    assert_eq!(code(fs::rename(&file, &new)), erofs);
    assert_eq!(code(fs::hard_link(&file, &new)), erofs);
    assert_eq!(code(std::os::unix::fs::symlink("x", &new)), erofs);
    assert_eq!(code(fs::set_permissions(&file, fs::Permissions::from_mode(0o600))), erofs);
    let access = rustix::fs::access(&file, rustix::fs::Access::WRITE_OK);
    assert_eq!(access, Err(rustix::io::Errno::ROFS));
}

/// 23. Following a link never leads out of the drive's own tree: an absolute target means "from the
///     root of this drive", and `..` at the root stays there.
#[test]
fn links_lead_where_the_drive_means_and_never_out() {
    in_each_format(links_never_lead_out);
}

fn links_never_lead_out(format: DriveFormat) {
    let bench = Bench::made_in(format);
    let outside = bench.directory.path().join("secret");
    fs::write(&outside, "outside").expect("written");
    let link = |target: &str| Stat {
        mode: hypermount_drive::TYPE_SYMLINK | 0o777,
        linkname: Some(target.to_owned()),
        ..Stat::default()
    };
    bench.write("a/b/file", "inside");
    bench.put("a/absolute", link("/a/b/file"));
    bench.put("a/relative", link("b/file"));
    bench.put("a/up", link("../../secret"));
    bench.put("top", link("../secret"));
    // Through a link to the root: `..` after its name means the parent of the target.
    bench.put("a/b/root", link("/"));
    bench.put("a/b/sly", link("root/../secret"));
    bench.put("itself", link("itself"));
    let mount = bench.mount();
    let read = |path: &str| fs::read_to_string(mount.mountpoint().join(path));
    assert_eq!(read("a/absolute").expect("inside"), "inside");
    assert_eq!(read("a/relative").expect("inside"), "inside");
    for path in ["a/up", "top", "a/b/sly"] {
        assert_eq!(read(path).expect_err("not out").raw_os_error(), Some(libc::ENOENT), "{path}");
    }
    assert_eq!(read("itself").expect_err("endless").raw_os_error(), Some(libc::ELOOP));
    assert_eq!(fs::read_dir(mount.mountpoint().join("a/b/root")).expect("the root").count(), 3);
}

#[test]
fn a_large_directory_is_listed_completely_and_from_any_position() {
    in_each_format(a_large_directory_is_listed);
}

fn a_large_directory_is_listed(format: DriveFormat) {
    const FILES: usize = 2000;
    let bench = Bench::made_in(format);
    let stat = bench.file(&[Bytes::from_static(b"x")]);
    let edits = (0..FILES).map(|number| {
        let path = DrivePath::parse(&format!("dir/file-{number:04}")).expect("a path");
        Edit::Put { path, stat: stat.clone() }
    });
    bench.apply(edits.collect());
    let mount = bench.mount();
    let path = mount.mountpoint().join("dir");
    for _ in 0..2 {
        let names: BTreeSet<_> =
            fs::read_dir(&path).expect("lists").map(|e| e.expect("an entry").file_name()).collect();
        assert_eq!(names.len(), FILES);
    }
    // telldir and seekdir: each position leads back to what followed it.
    let file = fs::File::open(&path).expect("opens");
    let mut stream = rustix::fs::Dir::read_from(&file).expect("a stream");
    let mut all = Vec::new();
    while let Some(entry) = stream.read() {
        let entry = entry.expect("an entry");
        all.push((entry.file_name().to_owned(), entry.offset()));
    }
    assert_eq!(all.len(), FILES + 2);
    for position in [0, 1, 2, 777, FILES] {
        let (_, offset) = &all[position];
        stream.seek(*offset).expect("seeks");
        let next = stream.read().expect("more").expect("an entry");
        assert_eq!(next.file_name(), all[position + 1].0.as_c_str());
    }
}

#[test]
fn concurrent_readers_read_the_same_bytes() {
    in_each_format(readers_read_the_same);
}

fn readers_read_the_same(format: DriveFormat) {
    let bench = Bench::made_in(format);
    let blocks: Vec<Bytes> =
        (0..64u32).map(|n| Bytes::from(n.to_le_bytes().repeat(16 * 1024))).collect();
    let whole = blocks.concat();
    let stat = bench.file(&blocks);
    bench.put("big", stat);
    let mount = bench.mount();
    let path = mount.mountpoint().join("big");
    std::thread::scope(|scope| {
        for reader in 0..8usize {
            let (path, whole) = (&path, &whole);
            scope.spawn(move || {
                let mut file = fs::File::open(path).expect("opens");
                for step in 0..50usize {
                    let at = (reader * 7919 + step * 104_729) % whole.len();
                    let mut buffer = vec![0; 100_000.min(whole.len() - at)];
                    file.read_exact_at(&mut buffer, at as u64).expect("reads");
                    assert_eq!(buffer, whole[at..at + buffer.len()]);
                }
                let mut end = Vec::new();
                file.seek(SeekFrom::End(-10)).expect("seeks");
                file.read_to_end(&mut end).expect("reads");
                assert_eq!(end, whole[whole.len() - 10..]);
            });
        }
    });
}

#[test]
fn a_file_is_data_to_its_end_and_maps() {
    in_each_format(a_file_is_data);
}

fn a_file_is_data(format: DriveFormat) {
    let bench = Bench::recorded(format, None);
    let mount = bench.mount();
    let file = fs::File::open(mount.mountpoint().join("big.bin")).expect("opens");
    let data = rustix::fs::seek(&file, rustix::fs::SeekFrom::Data(5)).expect("data");
    let hole = rustix::fs::seek(&file, rustix::fs::SeekFrom::Hole(5)).expect("the end");
    assert_eq!((data, hole), (5, file.metadata().expect("exists").len()));
    // SAFETY: nothing can truncate or write a file of a read-only mount at a frozen content.
    let map = unsafe { memmap2::Mmap::map(&file) }.expect("maps");
    let read = fs::read(mount.mountpoint().join("big.bin")).expect("reads");
    assert_eq!(map[..], read[..]);
}

#[test]
fn statfs_reports_the_disk_of_the_store() {
    in_each_format(statfs_reports_the_disk);
}

fn statfs_reports_the_disk(format: DriveFormat) {
    let bench = Bench::recorded(format, None);
    let mount = bench.mount();
    let room = rustix::fs::statvfs(mount.mountpoint()).expect("answers");
    let disk = rustix::fs::statvfs(bench.directory.path()).expect("answers");
    assert_eq!(room.f_namemax, 255);
    assert_eq!(room.f_blocks * room.f_frsize, disk.f_blocks * disk.f_frsize);
    assert!(room.f_bavail > 0 && room.f_bavail <= room.f_blocks);
}
