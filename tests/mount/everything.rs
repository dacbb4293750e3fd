//! All drives in one mount, with a real kernel: those with names, and any by its key.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use drivefs::{DriveFuture, Drives, Mount, MountOptions, NETWORK, Patience, RootLimits};
use hypermount_core::{Error, Share, Sharing, Store, Wait};
use hypermount_drive::testing::{FORMATS, Publisher};
use hypermount_drive::{
    Drive, DriveFormat, DrivePath, DriveUrl, Edit, Stat, TYPE_FILE, sharing_options,
};
use hypermount_swarm::PublicKey;
use tokio::runtime::Runtime;

use crate::common::{LIMIT, OPTIONS, can_mount, in_each_format, unmounted, until};
use crate::distant::{BLOCK, Line, Origin};

/// Drives in this store, and keys that no peer has.
#[derive(Default)]
struct Shelf {
    named: Mutex<HashMap<String, Drive>>,
    drives: Mutex<HashMap<PublicKey, Drive>>,
    publishers: Mutex<HashMap<PublicKey, Publisher>>,
    opened: Mutex<Vec<PublicKey>>,
    left: Mutex<Vec<PublicKey>>,
}

impl Drives for Shelf {
    fn left(&self, key: &PublicKey) {
        self.left.lock().expect("not poisoned").push(*key);
    }

    fn names(&self) -> DriveFuture<'_, Vec<String>> {
        let names = self.named.lock().expect("not poisoned").keys().cloned().collect();
        Box::pin(async move { Ok(names) })
    }

    fn named<'a>(&'a self, name: &'a str) -> DriveFuture<'a, Option<(Drive, bool)>> {
        let drive = self.named.lock().expect("not poisoned").get(name).cloned();
        Box::pin(async move { Ok(drive.map(|drive| (drive, false))) })
    }

    fn by_key<'a>(&'a self, url: &'a DriveUrl, wait: Wait) -> DriveFuture<'a, Drive> {
        self.opened.lock().expect("not poisoned").push(url.key);
        let known = self.drives.lock().expect("not poisoned").get(&url.key).cloned();
        Box::pin(async move {
            match known {
                Some(known) => Drive::open(known.store(), &url.key, url.version, wait).await,
                None => {
                    match wait.deadline() {
                        Some(deadline) => tokio::time::sleep_until(deadline).await,
                        None => std::future::pending().await,
                    }
                    let (core, waited) = (url.key.discovery_key(), Duration::ZERO);
                    let why = "no peer has it".to_owned();
                    Err(Error::Unavailable { core, block: 0, waited, why })
                }
            }
        })
    }
}

struct Bench {
    mount: Mount,
    runtime: Runtime,
    shelf: Arc<Shelf>,
    store: Store,
    _directory: tempfile::TempDir,
}

impl Bench {
    fn mounted(limits: RootLimits, patience: Patience) -> Self {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        let runtime = builder.worker_threads(2).enable_all().build().expect("a runtime starts");
        let directory = tempfile::tempdir().expect("a directory is made");
        let (store, shelf) = (Store::memory(), Arc::new(Shelf::default()));
        let options = MountOptions { patience, read_only: false, ..OPTIONS };
        let (drives, handle) = (shelf.clone(), runtime.handle().clone());
        let at = directory.path();
        let mount = Mount::start_root(drives, store.clone(), at, options, limits, handle);
        Self { mount: mount.expect("mounts"), runtime, shelf, store, _directory: directory }
    }

    fn at(&self, path: &str) -> PathBuf {
        self.mount.mountpoint().join(path)
    }

    /// A drive with one file, that can be had by its key. Every other one has the other format.
    fn drive(&self, name: &str, text: &str) -> Drive {
        let count = self.shelf.drives.lock().expect("not poisoned").len();
        self.drive_in(FORMATS[count % FORMATS.len()], name, text)
    }

    fn drive_in(&self, format: DriveFormat, name: &str, text: &str) -> Drive {
        let publisher = Publisher::new(&self.store, name, format).expect("is made");
        let drive = publisher.drive().clone();
        self.shelf.publishers.lock().expect("not poisoned").insert(*drive.key(), publisher);
        self.put(&drive, "file", text);
        self.shelf.drives.lock().expect("not poisoned").insert(*drive.key(), drive.clone());
        drive
    }

    fn put(&self, drive: &Drive, path: &str, text: &str) {
        let publishers = self.shelf.publishers.lock().expect("not poisoned");
        let publisher = publishers.get(drive.key()).expect("it was made here");
        let extent = publisher.append_content(&[Bytes::from(text.to_owned())]).expect("appended");
        let stat = Stat { mode: TYPE_FILE | 0o644, extent, ..Stat::default() };
        let edit = Edit::Put { path: DrivePath::parse(path).expect("a path"), stat };
        self.runtime.block_on(publisher.apply(vec![edit])).expect("applied");
    }

    fn by_key(&self, drive: &Drive, path: &str) -> PathBuf {
        self.at(NETWORK).join(drive.key().to_hex()).join(path)
    }

    fn names(&self, directory: &str) -> Vec<String> {
        let listed = fs::read_dir(self.at(directory)).expect("lists");
        let mut names: Vec<_> =
            listed.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn code<T>(result: io::Result<T>) -> i32 {
    result.err().and_then(|error| error.raw_os_error()).expect("it fails")
}

const QUICK: Patience =
    Patience::Limited { names: Duration::from_millis(300), data: Duration::from_secs(5) };

/// The drives have the same paths, so in mounts of one drive the files would have the same numbers.
///
/// 98. Inode numbers are unique among the drives of one mount.
#[test]
fn drives_beside_each_other_do_not_mix() {
    if !can_mount() {
        return;
    }
    let bench = Bench::mounted(RootLimits::default(), QUICK);
    let drives: Vec<Drive> =
        (0..8).map(|n| bench.drive(&format!("d{n}"), &format!("text of {n}"))).collect();
    bench.shelf.named.lock().unwrap().insert("first".into(), drives[0].clone());
    let mut numbers = Vec::new();
    for (number, drive) in drives.iter().enumerate() {
        let file = bench.by_key(drive, "file");
        assert_eq!(read(&file), format!("text of {number}"));
        let metadata = fs::metadata(&file).unwrap();
        numbers.extend([metadata.ino(), fs::metadata(file.parent().unwrap()).unwrap().ino()]);
    }
    // Once more, now that the kernel knows every name.
    for (number, drive) in drives.iter().enumerate() {
        assert_eq!(read(&bench.by_key(drive, "file")), format!("text of {number}"));
    }
    numbers.extend(["", NETWORK, "first"].map(|at| fs::metadata(bench.at(at)).unwrap().ino()));
    let count = numbers.len();
    numbers.sort();
    numbers.dedup();
    assert_eq!(numbers.len(), count);
    assert_eq!(bench.names(""), [NETWORK, "first"]);
    let mut keys: Vec<String> = drives.iter().map(|drive| drive.key().to_hex()).collect();
    keys.sort();
    assert_eq!(bench.names(NETWORK), keys);
    for fs in bench.mount.open() {
        fs.check_invariants();
    }
}

/// Sentence 96. "A drive with a name is written there as in a mount of its own, and in `Network` not at
/// all."
/// Sentence 96. "Neither directory itself can be changed: EPERM and EROFS; between drives rename(2)
/// fails with EXDEV."
///
/// Sentence 144. "Between drives it fails with EXDEV."
#[test]
fn only_drives_with_names_can_be_changed() {
    if !can_mount() {
        return;
    }
    let bench = Bench::mounted(RootLimits::default(), QUICK);
    for name in ["one", "two"] {
        let drive = bench.drive_in(DriveFormat::Hyperdrive10, name, "old");
        bench.shelf.named.lock().unwrap().insert(name.into(), drive);
    }
    fs::write(bench.at("one/new"), "written").unwrap();
    fs::create_dir(bench.at("one/dir")).unwrap();
    fs::rename(bench.at("one/new"), bench.at("one/dir/new")).unwrap();
    let one = bench.shelf.named.lock().unwrap()["one"].clone();
    until("it is seen by its key", || {
        fs::read_to_string(bench.by_key(&one, "dir/new")).is_ok_and(|text| text == "written")
    });
    assert_eq!(code(fs::write(bench.by_key(&one, "file"), "x")), libc::EROFS);
    assert_eq!(code(fs::create_dir(bench.at("three"))), libc::EPERM);
    assert_eq!(code(fs::write(bench.at("file"), "x")), libc::EPERM);
    assert_eq!(code(fs::remove_dir(bench.at("two"))), libc::EPERM);
    assert_eq!(code(fs::rename(bench.at("two"), bench.at("three"))), libc::EPERM);
    assert_eq!(code(fs::create_dir(bench.at("Network/x"))), libc::EROFS);
    assert_eq!(code(fs::rename(bench.at("one/file"), bench.at("two/x"))), libc::EXDEV);
    assert_eq!(code(fs::hard_link(bench.at("one/file"), bench.at("two/x"))), libc::EXDEV);
    // As mv(1) does after EXDEV; copy_file_range(2) works between drives too.
    fs::copy(bench.at("one/file"), bench.at("two/copy")).unwrap();
    assert_eq!(read(&bench.at("two/copy")), "old");
    assert!(bench.mount.journal().failures().iter().any(|failed| failed.path.is_empty()));
    unmounted(&bench.mount);
    let two = bench.shelf.named.lock().unwrap()["two"].clone();
    let path = DrivePath::parse("copy").unwrap();
    let stored = bench.runtime.block_on(two.snapshot().entry(&path, Wait::Local));
    assert_eq!(stored.expect("it is stored").stat.extent.size, 3);
}

/// Sentence 97. "In `Network` a name that is not a key does not exist, and no peer is asked for it;
/// a key that no peer serves fails with ETIMEDOUT after the timeout for names, and calls for other
/// names do not wait for it."
#[test]
fn a_key_that_no_peer_has_delays_no_other_call() {
    if !can_mount() {
        return;
    }
    let long = Duration::from_secs(2 * LIMIT.as_secs());
    let patience = Patience::Limited { names: long, data: long };
    let bench = Bench::mounted(RootLimits::default(), patience);
    let drive = bench.drive("known", "text");
    let key = drive.key().to_hex();
    for wrong in ["x", &key[1..], &format!("{key}+0"), &format!("{key}+x"), ".git", "é"] {
        let path = bench.at(NETWORK).join(wrong);
        assert_eq!(code(fs::metadata(path)), libc::ENOENT, "{wrong}");
    }
    assert!(bench.shelf.opened.lock().unwrap().is_empty());

    let unknown = bench.at(NETWORK).join("00".repeat(32));
    let mut reader = Command::new("cat").arg(unknown.join("file")).spawn().unwrap();
    until("it waits", || bench.mount.waiting().len() == 1);
    assert_eq!(read(&bench.by_key(&drive, "file")), "text");
    assert_eq!(bench.names(NETWORK), [key]);
    assert_eq!(bench.mount.waiting().len(), 1);
    // A process that waits can be killed, which leaves nothing behind.
    reader.kill().unwrap();
    until("it is gone", || reader.try_wait().unwrap().is_some());
    until("nothing is parked for it any more", || bench.mount.waiting().is_empty());
    drop(bench);

    let bench = Bench::mounted(RootLimits { by_key: 1, ..RootLimits::default() }, QUICK);
    let path = bench.at(NETWORK).join("00".repeat(32));
    for _ in 0..3 {
        assert_eq!(code(fs::metadata(&path)), libc::ETIMEDOUT, "each time, with room for one");
    }
    assert_eq!(bench.shelf.left.lock().unwrap().len(), 3, "every look-up has ended");
    let failures = bench.mount.journal().failures();
    assert!(failures.iter().all(|failed| failed.path == NETWORK && failed.errno == "ETIMEDOUT"));
}

/// 99. `Network` lists the drives that are open there; a drive that no process uses is closed after 5
///     minutes.
#[test]
fn an_unused_drive_is_closed() {
    if !can_mount() {
        return;
    }
    let limits = RootLimits { idle: Duration::from_millis(400), ..RootLimits::default() };
    assert_eq!(RootLimits::default().idle, Duration::from_secs(300));
    let bench = Bench::mounted(limits, QUICK);
    let drives: Vec<Drive> =
        ["idle", "held", "entered"].into_iter().map(|name| bench.drive(name, name)).collect();
    let held = fs::File::open(bench.by_key(&drives[1], "file")).unwrap();
    let mut inside = Command::new("sleep");
    let mut inside = inside.arg("1000").current_dir(bench.by_key(&drives[2], "")).spawn().unwrap();
    assert_eq!(read(&bench.by_key(&drives[0], "file")), "idle");
    let is_open = |drive: &Drive| bench.names(NETWORK).contains(&drive.key().to_hex());
    until("the idle one is closed", || !is_open(&drives[0]));
    assert!(is_open(&drives[1]) && is_open(&drives[2]));
    assert_eq!(io::read_to_string(&held).unwrap(), "held");
    drop(held);
    inside.kill().unwrap();
    inside.wait().unwrap();
    until("all are closed", || bench.names(NETWORK).is_empty());
    until("which is told", || bench.shelf.left.lock().unwrap().len() == drives.len());
    // And open again when they are asked for.
    assert_eq!(read(&bench.by_key(&drives[0], "file")), "idle");
}

/// 100. At most 64 drives are open by their key in one mount; while all of them are in use another one
///      fails with ENFILE.
#[test]
fn drives_open_by_their_key_are_bounded() {
    if !can_mount() {
        return;
    }
    let most = RootLimits::default().by_key;
    assert_eq!(most, 64);
    let bench = Bench::mounted(RootLimits::default(), QUICK);
    let drives: Vec<Drive> =
        (0..=most).map(|n| bench.drive(&format!("d{n}"), &n.to_string())).collect();
    let (past, fitting) = drives.split_last().unwrap();
    let open = |drive: &Drive| fs::File::open(bench.by_key(drive, "file"));
    let mut held: Vec<_> = fitting.iter().map(|drive| open(drive).unwrap()).collect();
    assert_eq!(bench.names(NETWORK).len(), most);
    assert_eq!(code(open(past)), libc::ENFILE);
    assert_eq!(code(open(past)), libc::ENFILE);
    drop(held.pop());
    until("there is room again", || open(past).is_ok());
    assert_eq!(bench.names(NETWORK).len(), most);
    drop(held);
    // Drives that are opened one after the other need one place only.
    for _ in 0..2 {
        for (number, drive) in drives.iter().enumerate() {
            let path = bench.by_key(drive, "file");
            until("it opens", || {
                fs::read_to_string(&path).is_ok_and(|text| text == number.to_string())
            });
        }
    }
    assert!(bench.names(NETWORK).len() <= most);
}

/// One of two drives is behind a connection that is cut: a process that waits for it can be killed
/// in time, and the other drive is not affected.
#[test]
fn a_reader_stuck_in_one_drive_is_ended_and_stops_no_other() {
    in_each_format(a_reader_is_stuck);
}

fn a_reader_is_stuck(format: DriveFormat) {
    let long = Duration::from_secs(2 * LIMIT.as_secs());
    let patience = Patience::Limited { names: long, data: long };
    let bench = Bench::mounted(RootLimits::default(), patience);
    let near = bench.drive("near", "text");
    let origin = Origin::new(format);
    origin.put(vec![("large".to_owned(), origin.large(200))]);
    let (line, key) = (Line::to(&origin), origin.key());
    let (swarm, far) = bench.runtime.block_on(async {
        let swarm = Sharing::new(&bench.store, sharing_options(Share::Opened)).expect("starts");
        swarm.dial(line.address());
        let far = Drive::open(&bench.store, &key, None, Wait::within(LIMIT)).await;
        (swarm, far.expect("it opens"))
    });
    bench.shelf.drives.lock().unwrap().insert(key, far.clone());
    assert_eq!(fs::metadata(bench.by_key(&far, "large")).unwrap().len(), 200 * BLOCK as u64);
    line.hold();
    let mut reader = Command::new("tail");
    reader.args(["-c", &BLOCK.to_string()]).arg(bench.by_key(&far, "large"));
    let mut reader = reader.stdout(Stdio::null()).spawn().unwrap();
    until("it waits", || !bench.mount.waiting().is_empty());
    assert_eq!(read(&bench.by_key(&near, "file")), "text");
    bench.put(&near, "file", "newer");
    until("the other is followed meanwhile", || read(&bench.by_key(&near, "file")) == "newer");
    let killed = Instant::now();
    reader.kill().unwrap();
    reader.wait().unwrap();
    assert!(
        killed.elapsed() < Duration::from_secs(10),
        "gone {:?} after the signal",
        killed.elapsed()
    );
    until("nothing is parked for it any more", || bench.mount.waiting().is_empty());
    unmounted(&bench.mount);
    drop(swarm);
}

/// A new version of one of several shows, and a frozen one stays.
#[test]
fn each_drive_is_followed_by_itself() {
    in_each_format(a_drive_is_followed);
}

fn a_drive_is_followed(format: DriveFormat) {
    let bench = Bench::mounted(RootLimits::default(), QUICK);
    let one = bench.drive_in(format, "one", "old");
    let two = bench.drive("two", "other");
    let version = one.snapshot().version();
    let frozen = bench.at(NETWORK).join(format!("{}+{version}", one.key().to_hex())).join("file");
    let live = bench.by_key(&one, "file");
    assert_eq!((read(&live), read(&frozen)), ("old".to_owned(), "old".to_owned()));
    assert_eq!(read(&bench.by_key(&two, "file")), "other");
    let held = fs::File::open(&live).unwrap();
    bench.put(&one, "file", "new");
    bench.put(&one, "added", "more");
    until("the new version shows", || read(&live) == "new");
    assert_eq!(read(&bench.by_key(&one, "added")), "more");
    assert_eq!(io::read_to_string(held).unwrap(), "old", "an open file keeps its content");
    assert_eq!(read(&frozen), "old");
    assert!(!frozen.with_file_name("added").exists());
    let attribute = |path: &Path, name: &str| {
        let ran = Command::new("getfattr").args(["--only-values", "-n", name]).arg(path).output();
        String::from_utf8(ran.expect("getfattr runs").stdout).unwrap()
    };
    assert_eq!(attribute(&live, "user.hypermount.key"), one.key().to_hex());
    assert_eq!(attribute(&frozen, "user.hypermount.version"), version.to_string());
}
