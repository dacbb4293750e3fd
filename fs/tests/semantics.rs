//! The filesystem without a kernel, on drives that the original wrote and on drives made here for
//! special cases: in both formats, where a test is not about writing or about what one format alone has.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use drivefs::{
    AttributeChanges, Caller, Error, Fs, FsOptions, Invalidation, Looked, Owner, Patience, Rename,
    XattrAnswer, errno,
};
use fuser::{FileAttr, FileType};
use hypermount_drive::testing::{FORMATS, Publisher};
use hypermount_drive::{
    Drive, DriveFormat, DrivePath, Edit, Extent, MountTarget, PublicKey, Stat, Store,
    TYPE_DIRECTORY, TYPE_FILE, TYPE_SYMLINK, Time, Wait,
};
use serde_json::Value;
use sha2::{Digest, Sha256};
use tokio::runtime::Handle;

const ROOT: u64 = 1;
/// A test that waits for longer than this has failed.
const PATIENCE: Duration = Duration::from_secs(60);
const OWNER: Owner = Owner { uid: 1234, gid: 5678 };
const OFFLINE: FsOptions = FsOptions { owner: OWNER, patience: Patience::Offline, read_only: true };

fn vectors() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/vectors"))
}

/// The directory of the recorded drive of a format.
fn recorded(format: DriveFormat) -> &'static str {
    match format {
        DriveFormat::Hyperdrive10 => "drive-small",
        DriveFormat::Hyperdrive11 => "drive-small-11",
    }
}

fn expected(format: DriveFormat) -> Value {
    let file = format!("{}.expected.json", recorded(format));
    let text = std::fs::read(vectors().join(file)).expect("the vector reads");
    serde_json::from_slice(&text).expect("the vector is JSON")
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a directory is made");
    for entry in std::fs::read_dir(from).expect("the vector lists").flatten() {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).expect("a file is copied");
        }
    }
}

/// A copy of the recorded drive, since opening a store may repair it.
struct Recorded {
    _directory: tempfile::TempDir,
    store: Store,
    key: PublicKey,
}

impl Recorded {
    fn new(format: DriveFormat) -> Self {
        let directory = tempfile::tempdir().expect("a directory is made");
        copy(&vectors().join(recorded(format)), directory.path());
        let key = expected(format)["cores"][0]["key"].as_str().and_then(PublicKey::from_hex);
        let store = Store::open(directory.path(), false).expect("the store opens");
        Self { _directory: directory, store, key: key.expect("a key") }
    }

    async fn fs(&self, version: Option<u64>) -> Arc<Fs> {
        let drive = Drive::open(&self.store, &self.key, version, Wait::Local).await;
        Fs::new(drive.expect("the drive opens"), self.store.clone(), OFFLINE, Handle::current())
    }
}

async fn step(fs: &Fs, parent: u64, name: &str) -> Result<(u64, FileAttr), Error> {
    match fs.lookup(parent, OsStr::new(name)).await? {
        Looked::Found { ino, attributes, .. } => Ok((ino, attributes)),
        Looked::Absent { .. } => Err(hypermount_drive::Error::NotFound.into()),
    }
}

async fn walk(fs: &Fs, path: &str) -> Result<(u64, FileAttr), Error> {
    let mut found = (ROOT, fs.getattr(ROOT).await?.0);
    for name in path.split('/').filter(|name| !name.is_empty()) {
        found = step(fs, found.0, name).await?;
    }
    Ok(found)
}

async fn contents(fs: &Fs, ino: u64) -> Vec<u8> {
    let file = fs.open(ino, libc::O_RDONLY, Caller::SELF).await.expect("opens").handle;
    let pieces = fs.read(file, 0, u32::MAX).await.expect("reads");
    fs.release(file).await.expect("closes");
    pieces.concat()
}

fn number<T>(result: Result<T, Error>) -> i32 {
    match result {
        Ok(_) => 0,
        Err(error) => errno(&error).code(),
    }
}

/// All names of a directory, with the numbers shown, read in pages of `page` names.
async fn names(fs: &Fs, ino: u64, page: usize, plus: bool) -> Vec<(String, u64)> {
    let handle = fs.opendir(ino).await.expect("opens");
    let mut names = Vec::new();
    let mut offset = 0;
    loop {
        let before = names.len();
        fs.readdir(handle, offset).await.expect("lists").fill(fs, plus, |listed| {
            if names.len() - before == page {
                return true;
            }
            names.push((listed.name.to_owned(), listed.shown));
            offset = listed.next;
            false
        });
        if names.len() == before {
            break;
        }
    }
    fs.releasedir(handle).expect("closes");
    names
}

/// 17. Names are shown byte for byte as the publisher wrote them, except the escapes of sentence 138; no Unicode
///     normalisation takes place.
#[tokio::test]
async fn every_recorded_path_is_shown_as_it_was_written() {
    for format in FORMATS {
        every_path_is_shown(format).await;
    }
}

async fn every_path_is_shown(format: DriveFormat) {
    let recorded = Recorded::new(format);
    for version in expected(format)["versions"].as_array().expect("versions") {
        let number = version["version"].as_u64().expect("a version");
        let fs = recorded.fs(Some(number)).await;
        let newest = &expected(format)["versions"][2]["entries"];
        for (path, entry) in version["entries"].as_object().expect("entries") {
            // The parent's version does not pin the nested drive, which shows its newest version.
            let entry = if path.starts_with("mnt/") { &newest[path] } else { entry };
            let field = |name: &str| entry[name].as_u64().expect("a number");
            let (ino, attr) = walk(&fs, path).await.unwrap_or_else(|e| panic!("{path}: {e}"));
            let (again, ttl) = fs.getattr(ino).await.expect("known");
            assert_eq!(again, attr, "{path}");
            assert!(ttl >= Duration::from_secs(3600), "{path}");
            let mtime = UNIX_EPOCH + Duration::from_millis(field("mtime"));
            assert_eq!((attr.mtime, attr.uid, attr.gid), (mtime, OWNER.uid, OWNER.gid), "{path}");
            if let Some(link) = entry["linkname"].as_str() {
                assert_eq!(attr.kind, FileType::Symlink);
                let shown = fs.readlink(ino).await.expect("a link");
                assert_eq!(shown, link.trim_start_matches('/'), "{path}");
                assert_eq!(attr.size, shown.len() as u64);
                continue;
            }
            assert_eq!(u64::from(attr.perm), field("mode") & 0o777, "{path}");
            assert_eq!(attr.size, field("size"), "{path}");
            assert_eq!(attr.blocks, field("size").div_ceil(512), "{path}");
            if let Some(hash) = entry["sha256"].as_str() {
                assert_eq!(hex(&Sha256::digest(contents(&fs, ino).await)), hash, "{path}");
            }
        }
        fs.check_invariants();
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test]
async fn listings_are_in_drive_order_whole_and_page_by_page() {
    for format in FORMATS {
        listings_are_in_order(format).await;
    }
}

async fn listings_are_in_order(format: DriveFormat) {
    let recorded = Recorded::new(format);
    let version = &expected(format)["versions"][2];
    let fs = recorded.fs(version["version"].as_u64()).await;
    for (path, order) in version["readdirOrder"].as_object().expect("listings") {
        let (ino, _) = walk(&fs, path).await.expect("a directory");
        let order = order.as_array().expect("names").iter().filter_map(Value::as_str);
        let whole: Vec<&str> = [".", ".."].into_iter().chain(order).collect();
        for (page, plus) in [(usize::MAX, false), (1, false), (2, true), (usize::MAX, true)] {
            let listed = names(&fs, ino, page, plus).await;
            let listed: Vec<&str> = listed.iter().map(|(name, _)| name.as_str()).collect();
            assert_eq!(listed, whole, "{path}");
        }
    }
}

#[tokio::test]
async fn lookups_and_listings_show_the_same_numbers() {
    for format in FORMATS {
        numbers_are_the_same(format).await;
    }
}

async fn numbers_are_the_same(format: DriveFormat) {
    let recorded = Recorded::new(format);
    let mut seen: Option<BTreeMap<String, u64>> = None;
    for plus in [false, true] {
        let fs = recorded.fs(None).await;
        let (dir, attr) = walk(&fs, "dir").await.expect("a directory");
        let mut numbers: BTreeMap<String, u64> =
            names(&fs, dir, 3, plus).await.into_iter().collect();
        assert_eq!(numbers.remove("."), Some(attr.ino.0));
        assert_eq!(numbers.remove(".."), Some(ROOT));
        for (name, listed) in &numbers {
            assert_eq!(step(&fs, dir, name).await.expect("listed").1.ino.0, *listed, "{name}");
        }
        assert_eq!(*seen.get_or_insert(numbers.clone()), numbers);
    }
}

#[tokio::test]
async fn readdirplus_counts_each_name_that_was_taken_and_no_other() {
    for format in FORMATS {
        names_are_counted(format).await;
    }
}

async fn names_are_counted(format: DriveFormat) {
    let recorded = Recorded::new(format);
    let fs = recorded.fs(None).await;
    let (root_only, _) = fs.load();
    let handle = fs.opendir(ROOT).await.expect("opens");
    let mut taken = Vec::new();
    fs.readdir(handle, 0).await.expect("lists").fill(&fs, true, |listed| {
        if taken.len() == 5 {
            return true;
        }
        taken.push(listed.ino);
        false
    });
    fs.check_invariants();
    assert_eq!(taken[..2], [0, 0], "the dots are not counted");
    assert_eq!(fs.load().0, root_only + 3);
    for ino in taken.into_iter().skip(2) {
        fs.forget(ino, 1);
    }
    fs.check_invariants();
    fs.releasedir(handle).expect("closes");
    assert_eq!(fs.load(), (root_only, 0));
}

#[tokio::test]
async fn ranges_are_cut_at_the_end_and_cross_blocks() {
    for format in FORMATS {
        ranges_are_cut(format).await;
    }
}

async fn ranges_are_cut(format: DriveFormat) {
    let recorded = Recorded::new(format);
    let fs = recorded.fs(None).await;
    let (ino, attr) = walk(&fs, "big.bin").await.expect("a file");
    let whole = contents(&fs, ino).await;
    let file = fs.open(ino, libc::O_RDONLY, Caller::SELF).await.expect("opens").handle;
    let size = attr.size;
    for (offset, length) in [
        (0, 1),
        (size - 1, 1),
        (size - 1, 100),
        (size, 1),
        (size + 5, 1),
        (u64::MAX, u32::MAX),
        (65_535, 2),
        (1, 199_999),
        (7, 0),
    ] {
        let got = fs.read(file, offset, length).await.expect("reads").concat();
        let start = usize::try_from(offset.min(size)).expect("small");
        let end = usize::try_from(offset.saturating_add(length.into()).min(size)).expect("small");
        assert_eq!(got, whole[start..end], "{offset}+{length}");
    }
    assert_eq!(fs.lseek(file, 5, libc::SEEK_DATA).expect("data"), 5);
    assert_eq!(fs.lseek(file, 5, libc::SEEK_HOLE).expect("the end"), size as i64);
    assert_eq!(number(fs.lseek(file, size as i64, libc::SEEK_DATA)), libc::ENXIO);
    assert_eq!(number(fs.lseek(file, -1, libc::SEEK_DATA)), libc::ENXIO);
    assert_eq!(number(fs.lseek(file, 0, 77)), libc::EINVAL);
    fs.release(file).await.expect("closes");
    assert_eq!(number(fs.read(file, 0, 1).await), libc::EBADF);
    assert_eq!(number(fs.release(file).await), libc::EBADF);
}

#[tokio::test]
async fn each_mistake_has_its_errno() {
    for format in FORMATS {
        mistakes_have_errnos(format).await;
    }
}

async fn mistakes_have_errnos(format: DriveFormat) {
    let recorded = Recorded::new(format);
    let fs = recorded.fs(None).await;
    let (file, _) = walk(&fs, "hello.txt").await.expect("a file");
    let (dir, _) = walk(&fs, "dir").await.expect("a directory");
    let (link, _) = walk(&fs, "abs-link").await.expect("a link");
    let longest = "n".repeat(255);
    let longer = "n".repeat(256);
    assert_eq!(number(step(&fs, ROOT, "missing").await), libc::ENOENT);
    assert_eq!(number(step(&fs, ROOT, &longest).await), libc::ENOENT);
    assert_eq!(number(step(&fs, ROOT, &longer).await), libc::ENAMETOOLONG);
    assert_eq!(number(step(&fs, file, "below").await), libc::ENOTDIR);
    assert_eq!(number(fs.getattr(99).await), libc::ESTALE);
    assert_eq!(number(fs.opendir(file).await), libc::ENOTDIR);
    assert_eq!(number(fs.open(dir, libc::O_RDONLY, Caller::SELF).await), libc::EISDIR);
    assert_eq!(number(fs.open(link, libc::O_RDONLY, Caller::SELF).await), libc::EINVAL);
    assert_eq!(number(fs.readlink(file).await), libc::EINVAL);
    assert_eq!(number(fs.open(file, libc::O_WRONLY, Caller::SELF).await), libc::EROFS);
    assert_eq!(number(fs.open(file, libc::O_RDWR, Caller::SELF).await), libc::EROFS);
    assert_eq!(
        number(fs.open(file, libc::O_RDONLY | libc::O_TRUNC, Caller::SELF).await),
        libc::EROFS
    );
    assert_eq!(number(fs.access(file, libc::R_OK).await), 0);
    assert_eq!(number(fs.access(file, libc::W_OK).await), libc::EROFS);
    assert_eq!(number(fs.access(99, libc::W_OK).await), libc::ESTALE);
    let (new, maker) = (OsStr::new("new"), Caller { thread: 0, uid: 0, gid: 0 });
    assert_eq!(number(fs.mkdir(ROOT, new, 0o755, maker).await), libc::EROFS);
    assert_eq!(number(fs.create(ROOT, new, 0o644, libc::O_CREAT, maker).await), libc::EROFS);
    assert_eq!(number(fs.unlink(ROOT, OsStr::new("hello.txt")).await), libc::EROFS);
    assert_eq!(number(fs.rename(ROOT, new, ROOT, new, Rename::Replace).await), libc::EROFS);
    assert_eq!(
        number(fs.setattr(file, None, AttributeChanges::default(), Caller::SELF).await),
        libc::EROFS
    );
    assert_eq!(number(fs.setxattr(file, OsStr::new("user.a"), b"x", 0).await), libc::EROFS);
    assert_eq!(
        number(fs.setattr(99, None, AttributeChanges::default(), Caller::SELF).await),
        libc::ESTALE
    );
}

#[tokio::test]
async fn attributes_are_shown_and_our_own_answered_without_being_listed() {
    let recorded = Recorded::new(DriveFormat::Hyperdrive10);
    let fs = recorded.fs(Some(23)).await;
    let (ino, _) = walk(&fs, "hello.txt").await.expect("a file");
    let get = async |ino, name: &str| match fs.getxattr(ino, OsStr::new(name), 1000).await {
        Ok(XattrAnswer::Data(data)) => Ok(data),
        Ok(XattrAnswer::Size(_)) => panic!("a value was asked for"),
        Err(error) => Err(errno(&error).code()),
    };
    assert_eq!(get(ino, "user.test").await, Ok(b"xattr value".to_vec()));
    assert_eq!(get(ino, "user.two").await, Ok(vec![0, 1, 2, 255]));
    assert_eq!(get(ino, "user.none").await, Err(libc::ENODATA));
    // Namespaces that do not exist here: with another errno, `ls -l` would ask for each file.
    assert_eq!(get(ino, "security.capability").await, Err(libc::EOPNOTSUPP));
    assert_eq!(get(ino, "system.posix_acl_access").await, Err(libc::ENODATA));
    let list = fs.listxattr(ino, 1000).await.expect("lists");
    assert_eq!(list, XattrAnswer::Data(b"user.test\0user.two\0".to_vec()));
    assert_eq!(number(fs.listxattr(ino, 5).await), libc::ERANGE);

    let key = recorded.key.to_hex();
    assert_eq!(get(ino, "user.hypermount.key").await, Ok(key.clone().into_bytes()));
    assert_eq!(get(ino, "user.hypermount.version").await, Ok(b"23".to_vec()));
    let url = format!("hyper://{key}+23/hello.txt");
    assert_eq!(get(ino, "user.hypermount.url").await, Ok(url.into_bytes()));
    assert_eq!(get(ino, "user.hypermount.local").await, Ok(b"1/1".to_vec()));
    assert_eq!(get(ROOT, "user.hypermount.local").await, Err(libc::ENODATA));

    // A removed attribute is not shown, even if its name is still stored.
    let fs = recorded.fs(Some(28)).await;
    let (ino, _) = walk(&fs, "hello.txt").await.expect("a file");
    assert_eq!(fs.listxattr(ino, 0).await.expect("lists"), XattrAnswer::Size(0));
}

// Drives made by these tests.

struct Made {
    store: Store,
    publisher: Publisher,
    drive: Drive,
}

impl Made {
    fn new() -> Self {
        Self::of(DriveFormat::Hyperdrive10)
    }

    fn of(format: DriveFormat) -> Self {
        Self::within(&Store::memory(), "made", format)
    }

    fn within(store: &Store, name: &str, format: DriveFormat) -> Self {
        let publisher = Publisher::new(store, name, format).expect("a drive is made");
        let drive = publisher.drive().clone();
        Self { store: store.clone(), publisher, drive }
    }

    async fn put(&self, path: &str, stat: Stat) {
        let path = DrivePath::parse(path).expect("a path");
        self.publisher.apply(vec![Edit::Put { path, stat }]).await.expect("applied");
    }

    async fn write(&self, path: &str, text: &'static str) {
        let blocks = [Bytes::from_static(text.as_bytes())];
        let extent = self.publisher.append_content(&blocks).expect("appended");
        self.put(path, Stat { mode: TYPE_FILE | 0o644, extent, ..Stat::default() }).await;
    }

    async fn remove(&self, path: &str) {
        let path = DrivePath::parse(path).expect("a path");
        self.publisher.apply(vec![Edit::Remove { path }]).await.expect("applied");
    }

    async fn nest(&self, path: &str, key: PublicKey, core: bool) {
        let mount = Some(MountTarget { key, version: None, core });
        let mode = if core { TYPE_FILE | 0o644 } else { TYPE_DIRECTORY | 0o755 };
        self.put(path, Stat { mode, mount, ..Stat::default() }).await;
    }

    fn fs(&self) -> Arc<Fs> {
        Fs::new(self.drive.clone(), self.store.clone(), OFFLINE, Handle::current())
    }
}

/// 24. A drive mounted inside a drive is a folder; if it cannot be opened, its neighbours are not
///     affected. While the last three attempts to open a nested drive failed within 30 s because no
///     peer delivered it, opening another one that is not in the store waits only 0.2 s.
#[tokio::test]
async fn a_drive_nested_in_itself_is_too_many_levels_and_an_absent_one_fails_alone() {
    let made = Made::new();
    made.write("file", "content").await;
    made.nest("self", *made.drive.key(), false).await;
    made.nest("absent", PublicKey::new([7; 32]), false).await;
    let fs = made.fs();
    let (itself, attr) = walk(&fs, "self").await.expect("the place is there");
    assert_eq!(attr.kind, FileType::Directory);
    assert_eq!(number(fs.opendir(itself).await), libc::ELOOP);
    assert_eq!(number(step(&fs, itself, "file").await), libc::ELOOP);
    let (absent, _) = walk(&fs, "absent").await.expect("the place is there");
    for _ in 0..2 {
        let failed = number(fs.opendir(absent).await);
        assert!([libc::ETIMEDOUT, libc::EIO].contains(&failed), "{failed}");
    }
    assert_eq!(names(&fs, ROOT, usize::MAX, true).await.len(), 5);
    let (file, _) = walk(&fs, "file").await.expect("a file");
    assert_eq!(contents(&fs, file).await, b"content");
}

#[tokio::test]
async fn a_nested_drive_is_entered_and_a_nested_core_is_a_file() {
    let outer = Made::new();
    let inner = Made::within(&outer.store, "inner", DriveFormat::Hyperdrive10);
    inner.write("a/b.txt", "below").await;
    outer.nest("in", *inner.drive.key(), false).await;
    let core = outer.store.core_named(b"log").expect("a core is made");
    core.append(&[Bytes::from_static(b"one"), Bytes::from_static(b"two")]).expect("appended");
    outer.nest("log", *core.key(), true).await;

    let fs = outer.fs();
    let (file, attr) = walk(&fs, "in/a/b.txt").await.expect("found in the inner drive");
    assert_eq!((attr.size, contents(&fs, file).await), (5, b"below".to_vec()));
    let (place, _) = walk(&fs, "in").await.expect("the place");
    let key = fs.getxattr(place, OsStr::new("user.hypermount.key"), 64).await.expect("a key");
    assert_eq!(key, XattrAnswer::Data(inner.drive.key().to_hex().into_bytes()));
    let (log, attr) = walk(&fs, "log").await.expect("a file");
    assert_eq!((attr.kind, attr.size), (FileType::RegularFile, 6));
    assert_eq!(contents(&fs, log).await, b"onetwo");
}

#[tokio::test]
async fn hostile_entries_do_not_hide_their_neighbours() {
    let made = Made::new();
    made.write("good", "content").await;
    let link = |target: &str| Stat {
        mode: TYPE_SYMLINK | 0o777,
        linkname: Some(target.to_owned()),
        ..Stat::default()
    };
    made.put("out", link("../../../etc/passwd")).await;
    made.put("empty", link("")).await;
    made.put("long", link(&"x".repeat(70_000))).await;
    let huge = Extent {
        block: 1 << 52,
        blocks: 1 << 52,
        byte: 1 << 52,
        size: u64::MAX,
        map_size: 0,
        holes: 0,
        fork: 0,
    };
    let huge = Stat {
        mode: u32::MAX,
        extent: huge,
        mtime: Time::from_milliseconds(1 << 53),
        ..Stat::default()
    };
    made.put("huge", Stat { mode: TYPE_FILE | 0o7777, ..huge }).await;

    let fs = made.fs();
    assert_eq!(names(&fs, ROOT, usize::MAX, true).await.len(), 7);
    let (out, _) = walk(&fs, "out").await.expect("shown");
    assert_eq!(fs.readlink(out).await.expect("contained"), "etc/passwd");
    for name in ["empty", "long"] {
        let (ino, attr) = walk(&fs, name).await.expect("shown");
        assert_eq!((attr.size, number(fs.readlink(ino).await)), (0, libc::EIO), "{name}");
    }
    let (ino, attr) = walk(&fs, "huge").await.expect("shown");
    assert_eq!(attr.size, i64::MAX as u64);
    assert_eq!(number(fs.open(ino, libc::O_RDONLY, Caller::SELF).await), libc::EIO);
    let (good, _) = walk(&fs, "good").await.expect("shown");
    assert_eq!(contents(&fs, good).await, b"content");
}

/// Waits until the mount shows the drive's newest version.
async fn caught_up(made: &Made, fs: &Fs) {
    let newest = made.drive.snapshot().version();
    let caught_up = async {
        while fs.version() != newest {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, caught_up).await.expect("the mount follows its drive");
}

/// Collects the notices of a change, which arrive after the version is shown.
async fn notices(fs: &Fs, enough: impl Fn(&[Invalidation]) -> bool) -> Vec<Invalidation> {
    let mut all = Vec::new();
    let told = async {
        while !enough(&all) {
            all.extend(fs.invalidations().drain());
            tokio::task::yield_now().await;
        }
    };
    let in_time = tokio::time::timeout(PATIENCE, told).await;
    assert!(in_time.is_ok(), "only told {all:?}");
    all
}

fn entry(parent: u64, name: &str) -> Invalidation {
    Invalidation::Entry { parent, name: name.to_owned() }
}

#[tokio::test]
async fn an_open_file_keeps_its_content_and_the_path_shows_the_new_one() {
    for format in FORMATS {
        an_open_file_keeps_its_content(format).await;
    }
}

async fn an_open_file_keeps_its_content(format: DriveFormat) {
    let made = Made::of(format);
    made.write("file", "old").await;
    let fs = made.fs();
    let (old, attr) = walk(&fs, "file").await.expect("a file");
    let open = fs.open(old, libc::O_RDONLY, Caller::SELF).await.expect("opens");
    assert!(open.keep_cache, "the kernel has nothing of it yet, and need not wait to drop it");

    made.write("file", "newer").await;
    caught_up(&made, &fs).await;
    notices(&fs, |all| all.contains(&entry(ROOT, "file"))).await;
    assert_eq!(fs.read(open.handle, 0, 100).await.expect("reads").concat(), b"old");
    let (superseded, ttl) = fs.getattr(old).await.expect("open");
    assert_eq!(
        (superseded.size, ttl),
        (3, Duration::ZERO),
        "the kernel must not keep the old size"
    );

    let (new, _) = walk(&fs, "file").await.expect("a file");
    assert_ne!(new, old, "the kernel's pages of the old content are not the new file's");
    let (new_attr, _) = fs.getattr(new).await.expect("a file");
    assert_eq!((new_attr.ino, new_attr.size), (attr.ino, 5), "but the number shown is the same");
    assert_eq!(contents(&fs, new).await, b"newer");
    assert_eq!(contents(&fs, old).await, b"old");
    assert!(fs.open(new, libc::O_RDONLY, Caller::SELF).await.expect("opens").keep_cache);
    fs.check_invariants();
    fs.release(open.handle).await.expect("closes");
    // A program may have looked it up just before it was replaced.
    let (last, ttl) = fs.getattr(old).await.expect("it is shown as it last was");
    assert_eq!((last.size, ttl), (3, Duration::ZERO));
}

/// A file is closed and opened again while its owner writes. The kernel reports the close late, so
/// the old content once counted as still open: the new open got it, and an attribute query in
/// between made the kernel keep the old size for an hour.
#[tokio::test]
async fn opening_a_replaced_path_again_opens_the_new_file() {
    for format in FORMATS {
        a_replaced_path_opens_the_new_file(format).await;
    }
}

async fn a_replaced_path_opens_the_new_file(format: DriveFormat) {
    let made = Made::of(format);
    made.write("file", "old").await;
    let fs = made.fs();
    let (old, _) = walk(&fs, "file").await.expect("a file");
    let closing = fs.open(old, libc::O_RDONLY, Caller::SELF).await.expect("opens").handle;
    made.write("file", "newer").await;
    caught_up(&made, &fs).await;
    notices(&fs, |all| all.contains(&entry(ROOT, "file"))).await;

    let caller = Caller { thread: 7, ..Caller::SELF };
    let again = fs.open(old, libc::O_RDONLY, caller).await;
    assert_eq!(number(again), libc::ESTALE, "look it up again");
    // After it is overtaken again, the call opens the file that the kernel found.
    let overtaken = fs.open(old, libc::O_RDONLY, caller).await.expect("opens").handle;
    assert_eq!(fs.read(overtaken, 0, 100).await.expect("reads").concat(), b"old");
    fs.release(overtaken).await.expect("closes");
    let (new, _) = walk(&fs, "file").await.expect("a file");
    assert_eq!(contents(&fs, new).await, b"newer");
    assert_eq!(contents(&fs, old).await, b"old", "as by /proc/self/fd of the open file");
    fs.release(closing).await.expect("closes");
    fs.check_invariants();
}

#[tokio::test]
async fn the_kernel_is_notified_of_every_stale_cache_entry() {
    for format in FORMATS {
        stale_entries_are_told(format).await;
    }
}

async fn stale_entries_are_told(format: DriveFormat) {
    let made = Made::of(format);
    made.write("dir/one", "1").await;
    made.write("dir/sub/two", "2").await;
    let fs = made.fs();
    let (dir, _) = walk(&fs, "dir").await.expect("a directory");
    let (one, _) = step(&fs, dir, "one").await.expect("a file");
    let (sub, _) = step(&fs, dir, "sub").await.expect("a directory");
    let (two, _) = step(&fs, sub, "two").await.expect("a file");
    let Looked::Absent { ttl } = fs.lookup(dir, OsStr::new("three")).await.expect("looked up")
    else {
        panic!("there is no such file yet")
    };
    assert!(ttl > Duration::ZERO);

    made.write("dir/three/deep", "3").await;
    let told = notices(&fs, |all| all.len() >= 2).await;
    assert!(told.contains(&entry(dir, "three")) && told.contains(&Invalidation::Inode(dir)));

    made.write("dir/one", "one").await;
    // Other content gets another inode, even if the file is not open.
    let told = notices(&fs, |all| all.contains(&entry(dir, "one"))).await;
    assert!(told.contains(&Invalidation::Inode(one)), "{told:?}");
    let (before, ttl) = fs.getattr(one).await.expect("it is shown as it last was");
    assert_eq!((before.size, ttl), (1, Duration::ZERO));
    let (other, attributes) = step(&fs, dir, "one").await.expect("a file");
    assert_ne!(other, one);
    assert_eq!(attributes.size, 3);

    // The implied directory ends with its last file.
    made.remove("dir/sub/two").await;
    let told = notices(&fs, |all| all.contains(&entry(dir, "sub"))).await;
    assert!(told.contains(&entry(sub, "two")) && told.contains(&Invalidation::Inode(two)));
    assert!(told.contains(&Invalidation::Inode(dir)));
    assert_eq!(fs.getattr(two).await.expect("it is shown as it last was").0.size, 1);
    assert_eq!(number(step(&fs, dir, "sub").await), libc::ENOENT);
}

#[tokio::test]
async fn an_open_listing_stays_and_rewinding_shows_the_new_version() {
    for format in FORMATS {
        an_open_listing_stays(format).await;
    }
}

async fn an_open_listing_stays(format: DriveFormat) {
    let made = Made::of(format);
    made.write("a", "1").await;
    made.write("b", "2").await;
    let fs = made.fs();
    let handle = fs.opendir(ROOT).await.expect("opens");
    let rest = async |offset| {
        let mut count = 0;
        fs.readdir(handle, offset).await.expect("lists").fill(&fs, false, |_| {
            count += 1;
            false
        });
        count
    };
    assert_eq!(rest(0).await, 4);
    made.write("c", "3").await;
    caught_up(&made, &fs).await;
    assert_eq!(rest(3).await, 1, "going on shows the listing that was begun");
    assert_eq!(rest(0).await, 5, "rewinding shows the new one");
}

/// Another writer of the drive replaces or removes a file that is open for writing here: closing it
/// fails, and the newest version stays.
#[tokio::test]
async fn a_commit_is_never_based_on_an_older_version() {
    let made = Made::new();
    made.write("file", "old").await;
    made.write("other", "old").await;
    let options = FsOptions { read_only: false, ..OFFLINE };
    let fs = Fs::new(made.drive.clone(), made.store.clone(), options, Handle::current());
    for (name, removed) in [("file", false), ("other", true)] {
        let (ino, _) = walk(&fs, name).await.expect("a file");
        let opened = fs.open(ino, libc::O_RDWR, Caller::SELF).await.expect("opens");
        assert!(fs.write(opened.handle, 3, b" and mine", None).expect("written"));
        if removed {
            made.remove(name).await;
        } else {
            made.write(name, "imported").await;
        }
        assert_eq!(number(fs.flush(opened.handle).await), libc::ESTALE, "{name}");
        assert_eq!(number(fs.fsync(opened.handle).await), libc::ESTALE, "{name}");
    }
    let entry = |name: &'static str| {
        let drive = made.drive.clone();
        async move {
            let path = DrivePath::parse(name).expect("a path");
            drive
                .snapshot()
                .entry(&path, Wait::Local)
                .await
                .map(|entry| entry.stat.extent.size)
                .ok()
        }
    };
    assert_eq!((entry("file").await, entry("other").await), (Some(8), None));
}

/// An empty file and a link have the same empty content. Bytes written to the file are not stored
/// as a link's.
#[tokio::test]
async fn an_empty_file_that_becomes_a_link_while_it_is_open_is_overtaken() {
    let made = Made::new();
    made.write("file", "").await;
    let options = FsOptions { read_only: false, ..OFFLINE };
    let fs = Fs::new(made.drive.clone(), made.store.clone(), options, Handle::current());
    let (ino, _) = walk(&fs, "file").await.expect("a file");
    let opened = fs.open(ino, libc::O_RDWR, Caller::SELF).await.expect("opens");
    let path = DrivePath::parse("file").expect("a path");
    let stat = Stat {
        mode: TYPE_SYMLINK | 0o777,
        linkname: Some("elsewhere".to_owned()),
        ..Stat::default()
    };
    let put = Edit::Put { path: path.clone(), stat };
    made.drive.apply(vec![put]).await.expect("applied");
    assert!(fs.write(opened.handle, 0, b"mine", None).expect("written"));
    assert_eq!(number(fs.flush(opened.handle).await), libc::ESTALE);
    let entry = made.drive.snapshot().entry(&path, Wait::Local).await.expect("it is there");
    assert_eq!(entry.stat.linkname.as_deref(), Some("elsewhere"));
}

/// As above, with too many changes to name each.
#[tokio::test]
async fn a_commit_after_ten_thousand_changes_is_not_based_on_an_older_version() {
    let made = Made::new();
    made.write("file", "old").await;
    let options = FsOptions { read_only: false, ..OFFLINE };
    let fs = Fs::new(made.drive.clone(), made.store.clone(), options, Handle::current());
    let (ino, _) = walk(&fs, "file").await.expect("a file");
    let opened = fs.open(ino, libc::O_RDWR, Caller::SELF).await.expect("opens");
    assert!(fs.write(opened.handle, 3, b" and mine", None).expect("written"));
    let extent = made.drive.append_content(&[Bytes::from_static(b"imported")]).expect("appended");
    let stat = Stat { mode: TYPE_FILE | 0o644, extent, ..Stat::default() };
    let name = |number: usize| match number {
        0 => "file".to_owned(),
        _ => format!("imported/{number}"),
    };
    let put = |number| {
        let path = DrivePath::parse(&name(number)).expect("a path");
        Edit::Put { path, stat: stat.clone() }
    };
    made.drive.apply((0..=10_000).map(put).collect()).await.expect("applied");
    assert_eq!(number(fs.flush(opened.handle).await), libc::ESTALE);
    let path = DrivePath::parse("file").expect("a path");
    let newest = made.drive.snapshot().entry(&path, Wait::Local).await.expect("it is there");
    assert_eq!(newest.stat.extent, extent);
}
