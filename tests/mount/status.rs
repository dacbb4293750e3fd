//! `.hypermount/status.json`: read by real programs by its path, and in no listing.

use std::fs;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;

use bytes::Bytes;
use drivefs::MountOptions;
use hypermount_core::Wait;
use hypermount_drive::{DriveFormat, Stat, TYPE_DIRECTORY, TYPE_FILE};
use serde_json::Value;

use crate::common::{Bench, OPTIONS, can_mount, in_each_format, unmounted, until};
use crate::distant::{Distant, FOR_LONG, Origin};

const STATUS: &str = ".hypermount/status.json";

fn status(mountpoint: &Path) -> Value {
    let text = fs::read_to_string(mountpoint.join(STATUS)).expect("it reads");
    serde_json::from_str(&text).expect("it is JSON")
}

fn output(program: &str, arguments: &[&str], at: &Path) -> String {
    let ran = Command::new(program).args(arguments).current_dir(at).output().expect(program);
    assert!(ran.status.success(), "{program}: {ran:?}");
    String::from_utf8(ran.stdout).expect("text")
}

/// Sentence 102. "`.hypermount/status.json` in the root of every drive holds, as JSON, the state of the drive
/// when the file is opened: URL, name, version, peers, bytes in the store and requested, files being stored, and the
/// last failed calls."
#[test]
fn a_status_is_made_when_it_is_opened() {
    in_each_format(a_status_is_made);
}

fn a_status_is_made(format: DriveFormat) {
    let origin = Origin::new(format);
    let block = Bytes::from(vec![7; 100_000]);
    origin.put(vec![("file".to_owned(), origin.file(&[block.clone(), block]))]);
    let distant = Distant::mounted(&origin, FOR_LONG);
    let at = distant.mount.mountpoint();
    let mut held = fs::File::open(at.join(STATUS)).unwrap();
    let before = status(at);
    let key = origin.key().to_hex();
    assert_eq!(before["url"], format!("hyper://{key}"));
    assert_eq!((&before["writable"], &before["frozen"]), (&false.into(), &false.into()));
    assert_eq!(before["peers"], 1);
    assert_eq!(before["failures"].as_array().unwrap().len(), 0);
    let version = before["version"].as_u64().unwrap();
    assert_eq!(fs::read(at.join("file")).unwrap().len(), 200_000);
    until("all of it is here", || {
        let now = status(at);
        now["blocks_here"] == now["blocks"]
            && now["blocks"].as_u64() > before["blocks_here"].as_u64()
    });
    origin.put(vec![("more".to_owned(), origin.file(&[Bytes::from_static(b"x")]))]);
    until("the new version is told", || status(at)["version"].as_u64() > Some(version));
    // A program that has it open reads on in the old text, at any offset.
    let mut text = String::new();
    held.read_to_string(&mut text).unwrap();
    assert_eq!(serde_json::from_str::<Value>(&text).unwrap()["version"], version);
    held.seek(SeekFrom::Start(2)).unwrap();
    let mut rest = String::new();
    held.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, text[2..]);
    drop(held);
    assert_eq!(
        output("cat", &[STATUS], at).len() as u64,
        fs::metadata(at.join(STATUS)).unwrap().len()
    );
    until("nothing is left open", || distant.mount.load().1 == 0);
}

/// Sentence 102. "It is no part of the drive, is in no listing, can be read only by the user who mounted, and
/// gives way to an entry of the drive that is called `.hypermount`."
#[test]
fn a_status_is_unlisted_and_gives_way_to_an_entry_of_the_drive() {
    if !can_mount() {
        return;
    }
    let bench = Bench::made();
    let mount = bench.mount_with(MountOptions { read_only: false, ..OPTIONS });
    let at = mount.mountpoint();
    fs::write(at.join("file"), "text").unwrap();
    assert_eq!(status(at)["writable"], true);
    assert_eq!(output("ls", &["-A"], at), "file\n");
    assert_eq!(output("find", &[".", "-mindepth", "1"], at), "./file\n");
    assert_eq!(output("tar", &["-cf", "/dev/stdout", "."], at).matches("hypermount").count(), 0);
    assert_eq!(output("ls", &["-A", ".hypermount"], at), "status.json\n");
    let modes = [".hypermount", STATUS].map(|path| fs::metadata(at.join(path)).unwrap());
    assert_eq!(modes.each_ref().map(|m| m.permissions().mode() & 0o7777), [0o500, 0o400]);
    assert_ne!(modes[0].ino(), modes[1].ino());
    let code = |result: std::io::Result<()>| result.unwrap_err().raw_os_error().unwrap();
    assert_eq!(code(fs::write(at.join(STATUS), "x")), libc::EROFS);
    assert_eq!(code(fs::write(at.join(".hypermount/x"), "x")), libc::EROFS);
    assert_eq!(code(fs::remove_file(at.join(STATUS))), libc::EROFS);
    assert_eq!(code(fs::rename(at.join(STATUS), at.join("y"))), libc::EROFS);
    assert_eq!(code(fs::rename(at.join("file"), at.join(STATUS))), libc::EROFS);
    assert_eq!(
        code(fs::set_permissions(at.join(STATUS), fs::Permissions::from_mode(0o644))),
        libc::EROFS
    );
    assert_eq!(code(fs::metadata(at.join(".hypermount/x")).map(drop)), libc::ENOENT);
    assert_eq!(code(fs::metadata(at.join("file/.hypermount")).map(drop)), libc::ENOTDIR);
    fs::create_dir(at.join("sub")).unwrap();
    assert_eq!(code(fs::metadata(at.join("sub/.hypermount")).map(drop)), libc::ENOENT);
    let set = ["-n", "user.hypermount.key", "-v", "x", "file"];
    let set = Command::new("setfattr").args(set).current_dir(at).output().expect("setfattr");
    assert!(!set.status.success());
    let failures = status(at)["failures"].clone();
    let last = failures.as_array().and_then(|all| all.last()).unwrap();
    assert_eq!((&last["errno"], &last["path"]), (&"EPERM".into(), &"file".into()));
    fs::copy(at.join(STATUS), at.join("copy")).unwrap();
    assert!(fs::read_to_string(at.join("copy")).unwrap().starts_with('{'));
    let listed = bench.drive.snapshot();
    let names = bench
        .runtime
        .block_on(listed.list(&hypermount_drive::DrivePath::root(), Wait::Local))
        .unwrap();
    assert!(names.iter().all(|(name, _)| name.as_str() != ".hypermount"));

    // The drive's own comes first, as soon as there is one.
    let directory = Stat { mode: TYPE_DIRECTORY | 0o755, ..Stat::default() };
    bench.put(".hypermount", directory);
    let extent = bench.drive.append_content(&[Bytes::from_static(b"own")]).unwrap();
    bench.put(".hypermount/own", Stat { mode: TYPE_FILE | 0o644, extent, ..Stat::default() });
    until("it shows", || fs::read_to_string(at.join(".hypermount/own")).is_ok_and(|t| t == "own"));
    assert_eq!(code(fs::metadata(at.join(STATUS)).map(drop)), libc::ENOENT);
    fs::remove_dir_all(at.join(".hypermount")).unwrap();
    until("and last", || fs::read_to_string(at.join(STATUS)).is_ok());
    unmounted(&mount);
}
