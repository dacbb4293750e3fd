//! `import`, `export`, `list` and `adopt` as commands: with the reference working on the same store in
//! turns, with two processes, and with copies of a store.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::living::{Server, reference, serve};
use common::small_disk::{SmallDisk, content_bytes};
use common::{Home, copy_tree};
use hypermount_core::Store;
use hypermount_drive::testing::FORMATS;
use hypermount_drive::{Drive, DriveFormat};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// A store with an empty drive: the one a reference's `hyperdrive(directory)` opens.
fn make_store(home: &Home, name: &str) -> (PathBuf, String) {
    make_store_in(DriveFormat::Hyperdrive10, home, name)
}

fn make_store_in(format: DriveFormat, home: &Home, name: &str) -> (PathBuf, String) {
    let path = home.path(name);
    let store = Store::open(&path, true).expect("make a store");
    let drive = Drive::create_in(format, &store, "default").expect("make a drive");
    (path, drive.key().to_hex())
}

fn text(path: &Path) -> &str {
    path.to_str().expect("test paths are text")
}

/// The listing that the reference would give of a tree, computed from plain files.
fn listing(root: &Path) -> BTreeMap<String, Value> {
    let mut found = BTreeMap::new();
    let mut open = vec![root.to_owned()];
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(directory).expect("list") {
            let at = entry.expect("entry").path();
            let stat = fs::symlink_metadata(&at).expect("stat");
            let name = at.strip_prefix(root).expect("inside").display().to_string();
            let described = if stat.is_dir() {
                open.push(at.clone());
                json!({ "type": "directory" })
            } else if stat.is_symlink() {
                json!({ "type": "symlink", "target": fs::read_link(&at).expect("link") })
            } else {
                let hash = Sha256::digest(fs::read(&at).expect("read"));
                json!({
                    "type": "file", "mode": stat.mode(), "size": stat.len(),
                    "mtime": stat.mtime() * 1000 + stat.mtime_nsec() / 1_000_000,
                    "sha256": hex::encode(hash),
                })
            };
            found.insert(name, described);
        }
    }
    found
}

/// The reference's listing, reduced to the fields of [`listing`].
fn comparable(entries: &Value) -> BTreeMap<String, Value> {
    let entries = entries.as_object().expect("a listing");
    entries
        .iter()
        .map(|(name, entry)| {
            let mut kept = json!({ "type": entry["type"] });
            let fields: &[&str] = match entry["type"].as_str() {
                Some("symlink") => &["target"],
                Some("file") => &["mode", "size", "mtime", "sha256"],
                _ => &[],
            };
            for field in fields {
                kept[*field] = entry[*field].clone();
            }
            (name.clone(), kept)
        })
        .collect()
}

struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

/// A dozen changes to a tree.
fn change(root: &Path, dice: &mut Dice) {
    for n in 0..12 {
        let directory =
            root.join(format!("d{}", dice.below(3))).join(format!("e{}", dice.below(3)));
        fs::create_dir_all(&directory).expect("mkdir");
        let at = directory.join(format!("f{}", dice.below(6)));
        let _ = fs::remove_file(&at);
        match dice.below(6) {
            0 => {}
            1 => symlink(format!("../target {n}"), &at).expect("symlink"),
            2 => fs::create_dir_all(directory.join(format!("empty {n}"))).expect("mkdir"),
            _ => {
                let length = [0, 1, 65_535, 65_536, 200_000][dice.below(5) as usize];
                fs::write(&at, vec![dice.below(256) as u8; length]).expect("write");
                let mode = [0o644, 0o600, 0o755][dice.below(3) as usize];
                fs::set_permissions(&at, fs::Permissions::from_mode(mode)).expect("chmod");
            }
        }
    }
}

#[test]
fn we_and_the_reference_write_the_same_store_in_turns() {
    let home = Home::new();
    let (store, key) = make_store(&home, "store");
    let tree = home.make("tree");
    for round in 0..5u64 {
        change(&tree, &mut Dice(round));
        home.run(["import", text(&tree), text(&store), "--delete"]).must_succeed();
        let again = home.run(["import", text(&tree), text(&store), "--delete", "--json"]);
        let again: Value = serde_json::from_str(&again.must_succeed().stdout).expect("JSON");
        let moved = ["files", "updated", "directories", "symlinks", "deleted"];
        assert!(moved.iter().all(|what| again[*what] == 0), "round {round}: {again}");

        let seed = round.to_string();
        let edited =
            reference("edit-drive.js", &[text(&store), "--seed", &seed, "--edits", "8"]).json();
        assert_eq!(edited["key"], key.as_str(), "{edited}");
        assert_eq!(comparable(&edited["before"]), listing(&tree), "round {round}");

        home.run(["export", text(&store), text(&tree), "--delete"]).must_succeed();
        assert_eq!(listing(&tree), comparable(&edited["after"]), "round {round}");
    }
    // And over the wire.
    let server: Server = serve(&store);
    let port = server.address.rsplit(':').next().expect("a port");
    let read = reference("read-drive.js", &[&key, port]).json();
    assert_eq!(comparable(&read["entries"]), listing(&tree));
}

/// 67. `export` names the files that a partially fetched drive lacks, exports all others, and exits
///     with code 3.
#[test]
fn a_partial_export_names_the_missing_files_and_ends_with_code_3() {
    let home = Home::new();
    let (store, key) = make_store(&home, "store");
    let tree = home.make("tree");
    change(&tree, &mut Dice(7));
    fs::write(tree.join("large"), vec![3u8; 3_000_000]).expect("write");
    home.run(["import", text(&tree), text(&store)]).must_succeed();
    let url = format!("hyper://{key}");
    let (there, out) = (home.path("there"), home.path("out"));
    {
        let server = serve(&store);
        let part = format!("{url}/d0");
        let part_out = home.path("part");
        home.run([
            "export",
            &part,
            text(&part_out),
            "--store",
            text(&there),
            "--peer",
            &server.address,
        ])
        .must_succeed();
        assert_eq!(listing(&part_out), listing(&tree.join("d0")));
    }
    let partial = home.run(["export", &url, text(&out), "--store", text(&there)]);
    assert!(partial.stderr.contains("missing: large"), "{partial:?}");
    partial.must_fail(3, "not here").hints("--peer");
    assert_eq!(listing(&out.join("d0")), listing(&tree.join("d0")));
    let server = serve(&store);
    home.run(["export", &url, text(&out), "--store", text(&there), "--peer", &server.address])
        .must_succeed();
    assert_eq!(listing(&out), listing(&tree));
}

#[test]
fn list_shows_name_size_and_access() {
    let home = Home::new();
    let store = home.path("store");
    let key = {
        let store = Store::open(&store, true).expect("make a store");
        Drive::create(&store, "photos").expect("make a drive").key().to_hex()
    };
    let tree = home.make("tree");
    fs::write(tree.join("a"), vec![1; 1000]).expect("write");
    fs::create_dir(tree.join("sub")).expect("mkdir");
    fs::write(tree.join("sub/b"), vec![2; 70_000]).expect("write");
    home.run(["import", text(&tree), "photos", "--store", text(&store)]).must_succeed();
    let listed = home.run(["list", "--store", text(&store), "--json"]).must_succeed();
    let listed: Value = serde_json::from_str(&listed.stdout).expect("JSON");
    let drive = &listed.as_array().expect("an array")[0];
    assert_eq!(
        (&drive["key"], &drive["name"], &drive["size"], &drive["writable"]),
        (&json!(key), &json!("photos"), &json!(71_000), &json!(true)),
    );
    assert_eq!((&drive["blocks"], &drive["blocks_here"]), (&json!(3), &json!(3)));
    let shown = home.run(["list", "--store", text(&store)]).must_succeed().stdout;
    assert!(
        shown.contains("photos") && shown.contains("69.3 KiB") && shown.contains("all"),
        "{shown}"
    );
    home.run(["export", "photos/sub", text(&home.path("out")), "--store", text(&store)])
        .must_succeed();
    assert_eq!(listing(&home.path("out")), listing(&tree.join("sub")));
    home.run(["import", text(&tree), "other", "--store", text(&store)])
        .must_fail(1, "no drive of that name")
        .hints("hypermount list");
    home.run(["import", text(&home.path("nowhere")), "photos", "--store", text(&store)])
        .must_fail(1, "No such file");
}

#[test]
fn a_dry_run_says_what_it_would_do_and_does_nothing() {
    let home = Home::new();
    let (store, _) = make_store(&home, "store");
    let tree = home.make("tree");
    fs::write(tree.join("new\u{1b}[2J"), "x").expect("write");
    let dry = home.run(["import", text(&tree), text(&store), "--dry-run"]).must_succeed();
    assert!(dry.stderr.contains("would copy new\\x1b[2J"), "{dry:?}");
    let ls = home.run(["ls", text(&store)]).must_succeed();
    assert_eq!(ls.stdout, "");
    home.run(["import", text(&tree), text(&store)]).must_succeed();
    let out = home.path("out");
    home.run(["export", text(&store), text(&out), "-n"]).must_succeed();
    assert!(!out.exists());
}

#[test]
fn a_killed_import_continues_when_run_again() {
    for format in FORMATS {
        let home = Home::new();
        let (store, _) = make_store_in(format, &home, "store");
        let tree = home.make("tree");
        let large: Vec<u8> =
            (0..60_000_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        fs::write(tree.join("large"), &large).expect("write");
        fs::write(tree.join("small"), "small").expect("write");
        let mut child =
            home.command().args(["import", text(&tree), text(&store)]).spawn().expect("start");
        common::eventually("some of it is stored, or all", || {
            content_bytes(&store) > 8_000_000 || child.try_wait().is_ok_and(|ended| ended.is_some())
        });
        // Our own child, and not yet waited for unless it has ended.
        let _ = child.kill();
        child.wait().expect("it was started");
        home.run(["import", text(&tree), text(&store)]).must_succeed();
        let kept = content_bytes(&store);
        // At most one append that was cut off is written over; nothing is stored twice.
        assert!(kept < 60_000_000 + 100_000, "{kept} bytes for 60 MB");
        let out = home.path("out");
        home.run(["export", text(&store), text(&out)]).must_succeed();
        assert!(fs::read(out.join("large")).expect("read") == large);
    }
}

/// 63. `import` says how much the store may grow before it begins, and fails if the data cannot
///     fit.
#[test]
fn an_import_that_cannot_fit_does_not_begin() {
    let home = Home::new();
    let Some(disk) = SmallDisk::mounted(home.make("disk"), 8) else { return };
    let store = disk.0.join("store");
    let name = make_store(&home, "disk/store").0;
    let tree = home.make("tree");
    fs::write(tree.join("small"), vec![1u8; 100_000]).expect("write");
    let said = home.run(["import", "--dry-run", text(&tree), text(&name)]);
    assert!(
        said.stderr.contains("up to 9") && said.stderr.contains("more in the store"),
        "{said:?}"
    );
    home.run(["import", text(&tree), text(&store)]).must_succeed();
    let before = home.run(["list", "--json", "--store", text(&store)]).stdout;
    fs::write(tree.join("large"), vec![2u8; 20_000_000]).expect("write");
    let refused = home.run(["import", text(&tree), text(&store)]);
    assert!(refused.stderr.contains("are free"), "{refused:?}");
    refused.must_fail(1, "takes up to");
    assert_eq!(home.run(["list", "--json", "--store", text(&store)]).stdout, before);
}

/// 65. An exported file appears under its name only when it is whole, and all are on the disk when
///     `export` returns 0.
#[test]
fn an_export_that_is_killed_shows_no_half_file() {
    let home = Home::new();
    let (store, _) = make_store(&home, "store");
    let tree = home.make("tree");
    for number in 0..40u8 {
        fs::write(tree.join(number.to_string()), vec![number; 1_500_000]).expect("write");
    }
    home.run(["import", text(&tree), text(&store)]).must_succeed();
    let out = home.path("out");
    let mut child = home
        .command()
        .args(["export", text(&store), text(&out)])
        .stderr(Stdio::null())
        .spawn()
        .expect("start");
    let shown = || fs::read_dir(&out).map_or(0, |found| found.flatten().count());
    common::eventually("some files are there, or all", || {
        shown() > 5 || child.try_wait().is_ok_and(|ended| ended.is_some())
    });
    // Our own child, and not yet waited for unless it has ended.
    let _ = child.kill();
    child.wait().expect("it was started");
    for number in 0..40u8 {
        if let Ok(found) = fs::read(out.join(number.to_string())) {
            assert!(found == vec![number; 1_500_000], "{number} is not whole");
        }
    }
    home.run(["export", text(&store), text(&out)]).must_succeed();
    assert_eq!(listing(&out), listing(&tree));
}

/// 66. From a drive that is not your own, set-user-id, set-group-id and sticky bits are not exported;
///     owners never are.
#[test]
fn special_bits_of_another_publisher_are_not_exported() {
    let home = Home::new();
    let (store, key) = make_store(&home, "store");
    let tree = home.make("tree");
    let mode = |path: &Path| fs::metadata(path).expect("is there").permissions().mode() & 0o7777;
    for (name, bits) in [("user", 0o4755), ("group", 0o2755), ("sticky", 0o1755)] {
        fs::write(tree.join(name), name).expect("write");
        fs::set_permissions(tree.join(name), fs::Permissions::from_mode(bits)).expect("chmod");
    }
    home.run(["import", text(&tree), text(&store)]).must_succeed();
    let own = home.path("own");
    home.run(["export", text(&store), text(&own)]).must_succeed();
    assert_eq!(mode(&own.join("user")), 0o4755);
    let server = serve(&store);
    let (there, out) = (home.path("there"), home.path("out"));
    let url = format!("hyper://{key}");
    home.run(["export", &url, text(&out), "--store", text(&there), "--peer", &server.address])
        .must_succeed();
    let us = nix::unistd::geteuid().as_raw();
    for name in ["user", "group", "sticky"] {
        assert_eq!(mode(&out.join(name)), 0o755, "{name}");
        assert_eq!(fs::metadata(out.join(name)).expect("is there").uid(), us);
    }
}

/// 68. A nested drive is neither imported into, exported nor removed; it is named.
#[test]
fn a_nested_drive_is_left_alone_and_named() {
    let home = Home::new();
    let store = home.path("store");
    let recorded = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/drive-small");
    copy_tree(&recorded, &store);
    let (out, target) = (home.path("out"), text(&store).to_owned());
    let exported = home.run(["export", &target, text(&out)]);
    assert!(exported.stderr.contains("not wholly copied: mnt: another drive"), "{exported:?}");
    exported.must_fail(1, "1 entries were not copied, or not wholly");
    assert!(out.join("hello.txt").exists() && !out.join("mnt").exists());
    fs::create_dir(out.join("mnt")).expect("mkdir");
    fs::write(out.join("mnt/file"), "in the way").expect("write");
    let imported = home.run(["import", "--delete", text(&out), &target]);
    assert!(imported.stderr.contains("mnt"), "{imported:?}");
    let before = home.run(["ls", "-l", &target]).stdout;
    assert!(before.contains("mnt => hyper://"), "{before}");
    fs::remove_dir_all(out.join("mnt")).expect("rm");
    home.run(["import", "--delete", text(&out), &target]);
    assert!(home.run(["ls", "-l", &target]).stdout.contains("mnt => hyper://"), "it was removed");
}

/// 30. Two processes never use one store at once; the second one asks the daemon that has it, or
///     fails with exit code 4.
#[test]
fn two_processes_never_write_one_store() {
    for format in FORMATS {
        let home = Home::new();
        let (store, _) = make_store_in(format, &home, "store");
        let tree = home.make("tree");
        let _server = serve(&store);
        home.run(["import", text(&tree), text(&store)])
            .must_fail(4, "in use by hypermount (pid ")
            .hints("one process uses a store at a time");
    }
}

/// 69. A store whose directory was copied, or moved to another disk or machine, opens read-only
///     until `adopt`.
#[test]
fn a_copied_store_is_read_only_until_adopted() {
    for format in FORMATS {
        let home = Home::new();
        let (store, _) = make_store_in(format, &home, "store");
        let tree = home.make("tree");
        fs::write(tree.join("a"), "1").expect("write");
        home.run(["import", text(&tree), text(&store)]).must_succeed();
        let copy = home.path("copy");
        copy_tree(&store, &copy);
        fs::write(tree.join("b"), "2").expect("write");
        home.run(["import", text(&tree), text(&copy)])
            .must_fail(1, "copied or moved")
            .hints("adopt");
        home.run(["cat", text(&copy), "a"]).must_succeed();
        let listed = home.run(["list", "--store", text(&copy)]).must_succeed();
        assert!(listed.stdout.contains("read-only"), "{listed:?}");
        let adopted = home.run(["adopt", "--store", text(&copy)]).must_succeed();
        assert!(adopted.stderr.contains("forked"), "{adopted:?}");
        home.run(["import", text(&tree), text(&copy)]).must_succeed();
        // Now the other one is the copy.
        home.run(["import", text(&tree), text(&store)])
            .must_fail(1, "older than what was last written");
        let nothing = home.run(["adopt", "--store", text(&copy)]).must_succeed();
        assert!(nothing.stderr.contains("nothing to adopt"), "{nothing:?}");
    }
}

/// Two machines write copies of one store, and then meet.
///
/// 74. A copy of a whole machine is not detected until the copies meet a common peer or each other.
#[test]
fn a_fork_is_found_when_two_copies_meet() {
    for format in FORMATS {
        let (here, there) = (Home::new(), Home::new());
        let (store, _) = make_store_in(format, &here, "store");
        let tree = here.make("tree");
        fs::write(tree.join("a"), "1").expect("write");
        here.run(["import", text(&tree), text(&store)]).must_succeed();
        let copy = there.path("copy");
        copy_tree(&store, &copy);
        there.run(["adopt", "--store", text(&copy)]).must_succeed();
        fs::write(tree.join("a"), "here").expect("write");
        here.run(["import", text(&tree), text(&store)]).must_succeed();
        fs::write(tree.join("a"), "there!").expect("write");
        there.run(["import", text(&tree), text(&copy)]).must_succeed();
        {
            let server = serve(&store);
            let _other = common::Running::start(common::living::hypermount().args([
                "serve",
                "--listen",
                "127.0.0.1:0",
                "--store",
                text(&copy),
                "--peer",
                &server.address,
            ]));
            common::eventually("both have noticed", || {
                [&store, &copy].iter().all(|store| {
                    let mark =
                        fs::read_to_string(store.join("hypermount.mark")).unwrap_or_default();
                    mark.contains("\nforked ")
                })
            });
        }
        for (home, store) in [(&here, &store), (&there, &copy)] {
            fs::write(tree.join("a"), "once more").expect("write");
            home.run(["import", text(&tree), text(store)])
                .must_fail(1, "another history signed with this drive's key")
                .hints("adopt");
            assert!(!home.run(["cat", text(store), "a"]).must_succeed().stdout.is_empty());
        }
    }
}

/// The mark is of the directory, regardless of the path that leads to it.
#[test]
fn a_moved_directory_is_not_a_copy() {
    for format in FORMATS {
        let home = Home::new();
        let (store, _) = make_store_in(format, &home, "store");
        let tree = home.make("tree");
        let before = fs::metadata(&store).expect("stat").ino();
        let moved = home.path("moved");
        fs::rename(&store, &moved).expect("rename");
        assert_eq!(fs::metadata(&moved).expect("stat").ino(), before);
        fs::write(tree.join("a"), "1").expect("write");
        home.run(["import", text(&tree), text(&moved)]).must_succeed();
    }
}

/// 155. `import` and `export` keep fifos, sockets and devices: what they are, never what is behind them. `export` makes
///      devices with `--devices` alone, as root; otherwise it names them, and its exit code is not 0.
#[test]
fn special_files_go_in_and_come_out() {
    for format in FORMATS {
        let home = Home::new();
        let (store, _) = make_store_in(format, &home, "store");
        let (tree, out) = (home.make("tree"), home.path("out"));
        let make = |arguments: &[&str]| {
            let made = Command::new("mknod").current_dir(&tree).args(arguments).output();
            made.is_ok_and(|made| made.status.success())
        };
        assert!(make(&["-m", "640", "fifo", "p"]));
        fs::hard_link(tree.join("fifo"), tree.join("other name")).expect("links");
        drop(std::os::unix::net::UnixListener::bind(tree.join("socket")).expect("binds"));
        let devices =
            make(&["-m", "600", "null", "c", "1", "3"]) && make(&["loop", "b", "7", "200"]);
        let look = |root: &Path, name: &str| {
            let found = fs::symlink_metadata(root.join(name)).expect("is there");
            let time = found.mtime() * 1000 + found.mtime_nsec() / 1_000_000;
            (found.mode(), found.rdev(), found.nlink(), time)
        };
        home.run(["import", text(&tree), text(&store)]).must_succeed();
        let again = home.run(["import", text(&tree), text(&store), "--json"]).must_succeed();
        let again: Value = serde_json::from_str(&again.stdout).expect("JSON");
        assert_eq!(again["unchanged"], if devices { 5 } else { 3 }, "{again}");
        let left_out = home.run(["export", text(&store), text(&out)]);
        for name in ["fifo", "other name", "socket"] {
            assert_eq!(look(&out, name), look(&tree, name), "{format}: {name}");
        }
        if !devices {
            eprintln!("SKIPPED: only root can make devices");
            left_out.must_succeed();
            continue;
        }
        assert!(left_out.stderr.contains("null: a device; --devices makes it"), "{left_out:?}");
        left_out.must_fail(1, "2 entries were not copied");
        assert!(!out.join("null").exists());
        let mut unprivileged = Command::new("setpriv");
        unprivileged.args(["--bounding-set", "-mknod", "--inh-caps", "-mknod"]);
        unprivileged.arg(common::living::binary()).args(["export", "--devices"]);
        let unprivileged = unprivileged.arg(&store).arg(&out).output();
        if let Ok(ran) = unprivileged {
            let told = String::from_utf8_lossy(&ran.stderr).into_owned();
            assert!(told.contains("only root may make"), "{told}");
            assert_eq!(ran.status.code(), Some(1));
        }
        home.run(["export", text(&store), text(&out), "--devices"]).must_succeed();
        for name in ["null", "loop", "fifo"] {
            assert_eq!(look(&out, name), look(&tree, name), "{format}: {name}");
        }
        // What a name is can change.
        fs::remove_file(tree.join("socket")).expect("removes");
        assert!(make(&["socket", "p"]));
        fs::remove_file(tree.join("null")).expect("removes");
        fs::write(tree.join("null"), "a file").expect("writes");
        fs::set_permissions(tree.join("loop"), fs::Permissions::from_mode(0o620)).expect("permits");
        home.run(["import", text(&tree), text(&store)]).must_succeed();
        home.run(["export", text(&store), text(&out), "--devices"]).must_succeed();
        for name in ["null", "loop", "socket"] {
            assert_eq!(look(&out, name), look(&tree, name), "{format}: {name}");
        }
        assert_eq!(fs::read(out.join("null")).expect("reads"), b"a file");
    }
}
