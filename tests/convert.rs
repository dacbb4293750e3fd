//! `convert` as a command: a drive of either format becomes one of the other, on real mounts, with the references as
//! readers, killed, on a full disk, through the daemon, and from peers.

mod common;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::living::{reference, root, serve};
use common::small_disk::{SmallDisk, content_bytes};
use common::{Home, Ran, copy_tree, eventually};
use nix::sys::signal::Signal;
use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps, XattrFlags};
use serde_json::Value;
use sha2::{Digest, Sha256};

/// The release of a drive, and the one that it is converted to.
const WAYS: [(&str, &str); 2] = [("10", "13"), ("13", "10")];

fn text(path: &Path) -> &str {
    path.to_str().expect("test paths are text")
}

fn can_mount() -> bool {
    let able = fs::File::options().read(true).write(true).open("/dev/fuse").is_ok();
    if !able {
        eprintln!("SKIPPED: /dev/fuse cannot be opened; nothing was mounted");
    }
    able
}

fn has_reference() -> bool {
    let found = ["tests/reference", "tests/reference/modern"]
        .iter()
        .all(|at| root().join(at).join("node_modules/hyperdrive").exists());
    found || std::env::var_os("HYPERMOUNT_REFERENCE").is_some()
}

/// The URL of a new drive.
fn create(home: &Home, name: &str, format: &str) -> String {
    let created = home.run(["create", name, "--format", format]).must_succeed();
    created.stdout.trim().to_owned()
}

fn store(home: &Home) -> PathBuf {
    home.path("data/hypermount")
}

/// What the command says that it did.
fn converted(ran: Ran) -> Value {
    serde_json::from_str(&ran.must_succeed().stdout).expect("JSON")
}

/// A tree with everything that a local disk can have without root.
fn fill(at: &Path) {
    let write = |name: &str, bytes: &[u8]| fs::write(at.join(name), bytes).expect("writes");
    fs::create_dir_all(at.join("a/b")).expect("makes");
    fs::create_dir(at.join("empty")).expect("makes");
    write("large", &(0..9_000_000u32).map(|at| (at >> 9) as u8).collect::<Vec<_>>());
    write("zero", b"");
    write("a/names", b"of one file");
    write("program", b"#!/bin/sh\n");
    fs::hard_link(at.join("a/names"), at.join("a/b/second")).expect("links");
    fs::hard_link(at.join("a/names"), at.join("third")).expect("links");
    fs::write(at.join(OsStr::from_bytes(b"caf\xe9")), "not UTF-8").expect("writes");
    symlink(OsStr::from_bytes(b"/nowhere/\xff"), at.join("link")).expect("links");
    for (name, mode) in [("program", 0o4751), ("zero", 0o400), ("empty", 0o1777), ("a", 0o711)] {
        fs::set_permissions(at.join(name), fs::Permissions::from_mode(mode)).expect("chmod");
    }
    let value = [0, 255, 10];
    for name in ["a/names", "empty", ""] {
        rustix::fs::setxattr(at.join(name), "user.test", &value, XattrFlags::empty()).expect("set");
    }
    for (name, kind) in [("a/fifo", FileType::Fifo), ("a/socket", FileType::Socket)] {
        rustix::fs::mknodat(CWD, at.join(name), kind, Mode::from_raw_mode(0o640), 0)
            .expect("makes");
    }
    if nix::unistd::geteuid().is_root() {
        let device = rustix::fs::makedev(1, 300);
        let kind = FileType::CharacterDevice;
        rustix::fs::mknodat(CWD, at.join("a/device"), kind, Mode::from_raw_mode(0o660), device)
            .expect("makes");
        std::os::unix::fs::lchown(at.join("program"), Some(1234), Some(2345)).expect("chown");
        fs::set_permissions(at.join("program"), fs::Permissions::from_mode(0o4751)).expect("chmod");
    }
    let time = |tv_sec, tv_nsec| Timespec { tv_sec, tv_nsec };
    for (name, seconds) in
        [("large", -7), ("a/names", 5_000_000_000), ("link", 3), ("empty", 9), ("a", 1)]
    {
        let times = Timestamps {
            last_access: time(seconds, 1),
            last_modification: time(seconds, 999_999_999),
        };
        rustix::fs::utimensat(CWD, at.join(name), &times, AtFlags::SYMLINK_NOFOLLOW)
            .expect("is ours");
    }
}

/// Everything that stat(2), readlink(2), read(2) and getxattr(2) say of a tree, by path.
fn everything(at: &Path) -> BTreeMap<Vec<u8>, String> {
    let (mut found, mut inodes) = (BTreeMap::new(), BTreeMap::<u64, Vec<Vec<u8>>>::new());
    let mut open = vec![at.to_owned()];
    while let Some(path) = open.pop() {
        let stat = fs::symlink_metadata(&path).expect("exists");
        let kind = stat.file_type();
        let name = path.strip_prefix(at).expect("below").as_os_str().as_bytes().to_vec();
        let mut what = format!(
            "mode {:o} owner {}:{} mtime {}.{:09} rdev {}",
            stat.mode(),
            stat.uid(),
            stat.gid(),
            stat.mtime(),
            stat.mtime_nsec(),
            stat.rdev()
        );
        if kind.is_dir() {
            open.extend(
                fs::read_dir(&path).expect("lists").map(|entry| entry.expect("reads").path()),
            );
        } else {
            what += &format!(" size {} names {}", stat.size(), stat.nlink());
            inodes.entry(stat.ino()).or_default().push(name.clone());
        }
        if kind.is_symlink() {
            what += &format!(" to {:?}", fs::read_link(&path).expect("reads"));
        }
        if kind.is_file() {
            what += &format!(" {}", hex::encode(Sha256::digest(fs::read(&path).expect("reads"))));
        }
        if kind.is_file() || kind.is_dir() {
            let mut value = [0; 64];
            let length = rustix::fs::getxattr(&path, "user.test", &mut value).ok();
            what += &format!(" attribute {:?}", length.map(|length| &value[..length]));
        }
        found.insert(name, what);
    }
    for mut names in inodes.into_values() {
        names.sort();
        for name in &names {
            found.entry(name.clone()).and_modify(|what| *what += &format!(" of {names:?}"));
        }
    }
    found
}

/// Files and links as a reference tells them of a served drive.
fn read_by_reference(url: &str, format: &str, store: &Path) -> BTreeMap<String, String> {
    let key = url.trim_start_matches("hyper://");
    let server = serve(store);
    let answer = match format {
        "13" => {
            let arguments = ["--key", key, "--tcp", &server.address, "--once", "--compare"];
            reference("modern/read-drive.js", &arguments).json()
        }
        _ => {
            let port = server.address.rsplit(':').next().expect("a port");
            reference("read-drive.js", &[key, port]).json()
        }
    };
    let entries = answer["entries"].as_object().unwrap_or_else(|| panic!("{answer}"));
    let what = |(path, entry): (&String, &Value)| {
        let target = entry["linkname"].as_str().or(entry["target"].as_str());
        let what = target.or(entry["sha256"].as_str())?.to_owned();
        Some((path.trim_start_matches('/').to_owned(), what))
    };
    entries.iter().filter_map(what).collect()
}

/// 156. `convert` makes a new drive, of Hyperdrive 13 or 10, with the tree of a drive of the other format: names, contents,
///      modes, owners, times to the nanosecond, extended attributes, hard links, symbolic links, fifos, sockets, devices
///      and directories. Its key and URL are new.
#[test]
fn everything_is_there_on_a_mount_and_the_references_read_it() {
    if !can_mount() {
        return;
    }
    for (from, to) in WAYS {
        let home = Home::new();
        let old = create(&home, "notes", from);
        let (before, after) = (home.path("before"), home.path("after"));
        home.run(["mount", "notes", text(&before)]).must_succeed();
        fill(&before);
        home.run(["unmount", text(&before)]).must_succeed();
        let done =
            converted(home.run(["convert", "notes", "--to", to, "--yes", "--no-note", "--json"]));
        let new = done["url"].as_str().expect("a URL").to_owned();
        assert_ne!(new, old);
        assert_eq!(
            (&done["finished"], &done["name"]),
            (&true.into(), &format!("notes-{to}").into())
        );
        home.run(["mount", "notes", text(&before)]).must_succeed();
        home.run(["mount", &format!("notes-{to}"), text(&after)]).must_succeed();
        let expected = everything(&before);
        assert!(
            expected.len() > 12 && everything(&after) == expected,
            "{from} to {to}:\n{expected:#?}\n{:#?}",
            everything(&after)
        );
        for at in [&before, &after] {
            home.run(["unmount", text(at)]).must_succeed();
        }
        if has_reference() {
            let [old, new] = [(&old, from), (&new, to)]
                .map(|(url, format)| read_by_reference(url, format, &store(&home)));
            assert_eq!(new.len(), 8, "{new:?}");
            assert_eq!(new, old, "{from} to {to}");
        }
    }
}

/// 160. When it returns 0, all of the new drive is on the disk, and a note in the old drive names the new one, unless
///      `--no-note` was given: `mount`, `info` and `status` show it, also where the old drive is read by its key,
///      and other programs find a file `MOVED.txt`. A file of yours of that name is not touched.
#[test]
fn the_readers_of_the_old_drive_are_told() {
    if !can_mount() {
        return;
    }
    for (from, to) in WAYS {
        let (home, reader) = (Home::new(), Home::new());
        let old = create(&home, "notes", from);
        let tree = home.make("tree");
        fs::write(tree.join("file"), "x").expect("writes");
        home.run(["import", text(&tree), "notes"]).must_succeed();
        let ran = home.run(["convert", "notes", "--to", to, "--yes"]).must_succeed();
        let new = ran.stdout.trim().to_owned();
        assert!(
            ran.stderr.contains("becomes a new drive") && ran.stderr.contains("(MOVED.txt)"),
            "{ran:?}"
        );
        let info = home.run(["info", "notes"]).must_succeed().stdout;
        assert!(info.contains(&format!("moved to:  {new}")), "{info}");
        assert!(home.run(["cat", "notes", "MOVED.txt"]).must_succeed().stdout.contains(&new));
        assert!(!home.run(["ls", &format!("notes-{to}")]).must_succeed().stdout.contains("MOVED"));

        let server = serve(&store(&home));
        let at = reader.path("old");
        let said = reader.run(["mount", &old, text(&at), "--peer", &server.address]).must_succeed();
        assert!(said.stderr.contains(&format!("this drive has moved to {new}")), "{said:?}");
        let status = reader.run(["status"]).must_succeed().stdout;
        assert!(status.contains(&format!("the drive has moved to {new}")), "{status}");
        let logs = reader.run(["daemon", "logs"]).must_succeed().stdout;
        assert!(logs.contains(&format!("has moved to {new}")), "{logs}");
        reader.run(["unmount", text(&at)]).must_succeed();
        drop(server);
        if has_reference() {
            let seen = read_by_reference(&old, from, &store(&home));
            assert!(seen.contains_key("MOVED.txt"), "{seen:?}");
        }

        // Taken back, and a file of the user's with that name.
        home.run(["convert", "notes", "--to", to, "--no-note"]).must_succeed();
        assert!(!home.run(["info", "notes"]).must_succeed().stdout.contains("moved"));
        fs::write(tree.join("MOVED.txt"), "mine").expect("writes");
        home.run(["import", text(&tree), "notes"]).must_succeed();
        let ran = home.run(["convert", "notes", "--to", to, "--yes"]).must_succeed();
        assert!(ran.stderr.contains("a file of your own"), "{ran:?}");
        assert_eq!(home.run(["cat", "notes", "MOVED.txt"]).must_succeed().stdout, "mine");
        assert_eq!(
            home.run(["cat", &format!("notes-{to}"), "MOVED.txt"]).must_succeed().stdout,
            "mine"
        );
        assert!(home.run(["info", "notes"]).must_succeed().stdout.contains(&new));
    }
}

const LARGE: u64 = 90_000_000;

/// A drive of a store with a large file and some small ones.
fn with_large_file(home: &Home, store: &Path, format: &str) {
    let tree = home.make("tree");
    let bytes = |at: u64| (at.wrapping_mul(2_654_435_761) >> 24) as u8;
    fs::write(tree.join("large"), (0..LARGE).map(bytes).collect::<Vec<u8>>()).expect("writes");
    for at in 0..20u8 {
        fs::write(tree.join(format!("small {at}")), vec![at; 1000]).expect("writes");
    }
    home.run(["create", "notes", "--format", format, "--store", text(store)]).must_succeed();
    home.run(["import", text(&tree), "notes", "--store", text(store)]).must_succeed();
}

fn is_exported_whole(home: &Home, name: &str, store: &Path) {
    let out = home.path("out");
    home.run(["export", name, text(&out), "--store", text(store)]).must_succeed();
    let compared = Command::new("diff").arg("-r").arg(home.path("tree")).arg(&out).output();
    let compared = compared.expect("diff runs");
    assert!(compared.status.success(), "{compared:?}");
}

/// Starts a conversion, and waits until a part of the large file is stored. The process is stopped then.
fn begun(home: &Home, store: &Path, to: &str) -> std::process::Child {
    let mut convert = home.command();
    convert.args(["convert", "notes", "--to", to, "--yes", "--no-note", "--store", text(store)]);
    let child = convert.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("starts");
    eventually("a part of it is stored", || content_bytes(store) > LARGE + 20_000_000);
    let pid = nix::unistd::Pid::from_raw(child.id() as i32);
    nix::sys::signal::kill(pid, Signal::SIGSTOP).expect("our own child, not yet waited for");
    assert!(content_bytes(store) < 2 * LARGE, "it was stopped in the middle of the large file");
    child
}

/// Sentence 159. "A `convert` that was killed, or found the disk full, resumes when it runs again: it keeps the entries that
/// were committed, and of a file of 16 MiB or more the blocks that were appended."
#[test]
fn a_killed_conversion_goes_on_where_it_stopped() {
    for (from, to) in WAYS {
        let home = Home::new();
        let store = home.path("store");
        with_large_file(&home, &store, from);
        let mut child = begun(&home, &store, to);
        child.kill().expect("our own child, not yet waited for");
        child.wait().expect("it was started");
        let name = format!("notes-{to}");
        let taken = home.run([
            "convert",
            "notes",
            "--to",
            to,
            "--name",
            "other",
            "-n",
            "--store",
            text(&store),
        ]);
        assert!(taken.must_succeed().stderr.contains("a new drive"), "another conversion");
        let ran = home.run([
            "convert",
            "notes",
            "--to",
            to,
            "--yes",
            "--no-note",
            "--store",
            text(&store),
        ]);
        let ran = ran.must_succeed();
        assert!(ran.stderr.contains("resumes: notes-"), "{ran:?}");
        // One append that was cut off is written over; nothing is stored twice.
        let stored = content_bytes(&store);
        assert!(stored < 2 * (LARGE + 20_000) + 8_000_000, "{stored} bytes, {from} to {to}");
        is_exported_whole(&home, &name, &store);
        let again =
            home.run(["convert", "notes", "--to", to, "--no-note", "--store", text(&store)]);
        assert!(
            again.must_succeed().stderr.contains("has all of version"),
            "nothing is left to do"
        );
        assert_eq!(content_bytes(&store), stored);
        let check = home.run(["check", &name, "--store", text(&store)]).must_succeed();
        assert!(check.stdout.contains("sound"), "{check:?}");
    }
}

/// 157. Before anything is written it says how many files and bytes it copies, and how much space that takes, and fails
///      if there is not that much. Then it asks on the terminal; where there is none it needs `--yes`.
#[test]
fn a_conversion_that_cannot_fit_or_was_not_confirmed_does_not_begin() {
    let home = Home::new();
    let Some(disk) = SmallDisk::mounted(home.make("disk"), 16) else { return };
    let store = disk.0.join("store");
    home.run(["create", "notes", "--store", text(&store)]).must_succeed();
    let tree = home.make("tree");
    fs::write(tree.join("file"), vec![1; 4_000_000]).expect("writes");
    home.run(["import", text(&tree), "notes", "--store", text(&store)]).must_succeed();
    let convert = ["convert", "notes", "--to", "13", "--store", text(&store)];
    let before = content_bytes(&store);
    let refused = home.run(convert);
    assert!(refused.stderr.contains("1 files (3.8 MiB) and"), "{refused:?}");
    refused.must_fail(2, "it was not confirmed").hints("--yes");
    fs::write(disk.0.join("filler"), vec![0; 9_500_000]).expect("writes");
    home.run(["convert", "notes", "--to", "13", "--yes", "--store", text(&store)])
        .must_fail(1, "it takes up to 3.8 MiB and");
    assert_eq!(content_bytes(&store), before);
    let listed = home.run(["list", "--store", text(&store)]).must_succeed().stdout;
    assert!(!listed.contains("notes-13"), "{listed}");
}

/// Sentence 159. "A `convert` that was killed, or found the disk full, resumes when it runs again: it keeps the entries that
/// were committed, and of a file of 16 MiB or more the blocks that were appended."
#[test]
fn a_conversion_that_fills_the_disk_goes_on_when_there_is_room() {
    for (from, to) in WAYS {
        let home = Home::new();
        let Some(disk) = SmallDisk::mounted(home.make("disk"), 240) else { return };
        let store = disk.0.join("store");
        with_large_file(&home, &store, from);
        let child = begun(&home, &store, to);
        let filler = disk.0.join("filler");
        let room = rustix::fs::statvfs(&disk.0).expect("answers");
        let room = room.f_bavail * room.f_frsize;
        fs::write(&filler, vec![0; (room - 6_000_000) as usize]).expect("writes");
        let pid = nix::unistd::Pid::from_raw(child.id() as i32);
        nix::sys::signal::kill(pid, Signal::SIGCONT).expect("our own child, not yet waited for");
        let ended = Ran::new(child.wait_with_output().expect("it was started"));
        let full = "make room on the disk that holds";
        ended
            .must_fail(1, "No space left on device")
            .hints(full)
            .hints("run the same command again");
        let stored = content_bytes(&store);
        fs::remove_file(&filler).expect("removes");
        home.run(["convert", "notes", "--to", to, "--yes", "--no-note", "--store", text(&store)])
            .must_succeed();
        assert!(content_bytes(&store) < 2 * (LARGE + 20_000) + 8_000_000, "{stored} were kept");
        is_exported_whole(&home, &format!("notes-{to}"), &store);
        is_exported_whole(&home, "notes", &store);
    }
}

/// 162. A drive of another publisher is converted too. What of it is not on this disk is fetched from peers; where none is
///      asked, the command names what is missing and ends with exit code 3. It says that no note is written there.
#[test]
fn a_drive_of_another_publisher_is_fetched_and_converted() {
    for (from, to) in WAYS {
        let (home, reader) = (Home::new(), Home::new());
        let old = create(&home, "notes", from);
        let tree = home.make("tree");
        fs::create_dir(tree.join("sub")).expect("makes");
        fs::write(tree.join("sub/large"), vec![7; 2_000_000]).expect("writes");
        fs::write(tree.join("small"), "small").expect("writes");
        home.run(["import", text(&tree), "notes"]).must_succeed();
        let server = serve(&store(&home));
        let peer = server.address.clone();
        reader.run(["cat", &old, "small", "--peer", &peer]).must_succeed();
        reader
            .run(["convert", &old, "--to", to, "--peer", &peer, "--yes"])
            .must_fail(2, "no name here")
            .hints("--name");
        reader.run(["ls", &old, "sub", "--peer", &peer]).must_succeed();
        let convert = ["convert", &old, "--to", to, "--name", "mine", "--yes"];
        let missing = reader.run(convert);
        assert!(missing.stderr.contains("1 files (1.9 MiB) are not on this disk"), "{missing:?}");
        missing.must_fail(3, "the first: /sub/large").hints("--peer");
        let ran =
            reader.run(["convert", &old, "--to", to, "--name", "mine", "--yes", "--peer", &peer]);
        let ran = ran.must_succeed();
        assert!(ran.stderr.contains("are fetched from peers"), "{ran:?}");
        assert!(ran.stderr.contains("no note: the old drive cannot be written here"), "{ran:?}");
        let out = reader.path("out");
        reader.run(["export", "mine", text(&out)]).must_succeed();
        assert!(fs::read(out.join("sub/large")).expect("reads") == vec![7; 2_000_000]);
        assert_eq!(fs::read(out.join("small")).expect("reads"), b"small");
    }
}

/// 163. While a daemon has the store, `convert` works through it, and mounts of both drives show what it did before it
///      returns.
#[test]
fn a_mounted_drive_is_converted_through_the_daemon_and_follows() {
    if !can_mount() {
        return;
    }
    for (from, to) in WAYS {
        let home = Home::new();
        create(&home, "notes", from);
        let (old, new) = (home.path("old"), home.path("new"));
        let name = format!("notes-{to}");
        home.run(["mount", "notes", text(&old)]).must_succeed();
        fs::create_dir(old.join("dir")).expect("makes");
        fs::write(old.join("dir/file"), "one").expect("writes");
        // The drive is found by a path in its mount too.
        let ran = home.run(["convert", text(&old.join("dir")), "--to", to, "--yes"]).must_succeed();
        let note = fs::read_to_string(old.join("MOVED.txt")).expect("is shown at once");
        assert!(note.contains(ran.stdout.trim()), "{note}");
        home.run(["mount", &name, text(&new)]).must_succeed();
        assert_eq!(fs::read(new.join("dir/file")).expect("reads"), b"one");
        fs::write(old.join("dir/file"), "two, longer").expect("writes");
        fs::write(old.join("later"), "later").expect("writes");
        fs::write(new.join("own"), "of the new drive").expect("writes");
        let ran = home.run(["convert", "notes", "--to", to, "--yes"]).must_succeed();
        assert!(ran.stderr.contains("2 files"), "{ran:?}");
        assert_eq!(fs::read(new.join("dir/file")).expect("reads"), b"two, longer");
        assert_eq!(fs::read(new.join("later")).expect("reads"), b"later");
        assert_eq!(fs::read(new.join("own")).expect("reads"), b"of the new drive");
        assert!(!new.join("MOVED.txt").exists());
        fs::write(new.join("later"), "both").expect("writes");
        fs::write(old.join("later"), "changed in both").expect("writes");
        let both = home.run(["convert", "notes", "--to", to, "--yes"]);
        assert!(both.stderr.contains("later: both drives have changed it"), "{both:?}");
        assert_eq!(both.code, Some(1), "{both:?}");
        assert_eq!(fs::read(new.join("later")).expect("reads"), b"both");
        // Through the daemon a refusal is the same.
        home.run(["convert", "notes", "--to", from, "--yes"])
            .must_fail(2, "has that format already");
        for at in [&old, &new] {
            home.run(["unmount", text(at)]).must_succeed();
        }
        // The mount has stored the times of its root since.
        assert!(home.run(["info", "notes"]).must_succeed().stdout.contains("moved to:"));
    }
}

/// 164. An encrypted drive is not converted to Hyperdrive 10, which has no encryption.
#[test]
fn what_cannot_be_converted_is_refused_with_the_reason() {
    let home = Home::new();
    let old = create(&home, "notes", "10");
    create(&home, "notes-13", "13");
    home.run(["create", "diary", "--encrypted"]).must_succeed();
    home.run(["convert", "diary", "--to", "10", "--yes"])
        .must_fail(1, "it is encrypted")
        .hints("export");
    home.run(["convert", "notes", "--to", "10", "--yes"]).must_fail(2, "has that format already");
    home.run(["convert", "notes", "--to", "13", "--yes"])
        .must_fail(1, "there is a drive notes-13 already")
        .hints("--name");
    home.run(["convert", &format!("{old}/a"), "--to", "13", "--yes"]).must_fail(2, "whole");
    home.run(["convert", &format!("{old}+1"), "--to", "13", "--yes"])
        .must_fail(2, "newest version");
    for name in ["a/b", "-", "hyper://x", "a\nb"] {
        let ran = home.run(["convert", "notes", "--to", "13", "--yes", &format!("--name={name}")]);
        ran.must_fail(2, "cannot be named");
    }
    home.run(["convert", "nothing", "--to", "13", "--yes"]).must_fail(1, "no drive of that name");
    home.run(["convert", "notes", "--to", "11", "--yes"]).must_fail(2, "expected 10 or 13");
    let listed = home.run(["list"]).must_succeed().stdout;
    assert_eq!(listed.matches("notes").count(), 2, "{listed}");
    // Of the `drives` program: nothing is written there.
    let theirs = home.path("theirs");
    copy_tree(&root().join("tests/vectors/drive-small-11"), &theirs);
    home.run(["convert", "./theirs", "--to", "10", "--name", "mine", "--yes"])
        .must_fail(1, "store of another program")
        .hints("by its key");
    let files = fs::read_dir(&theirs).expect("lists").count();
    assert_eq!(files, 2, "nothing was written there");
}
