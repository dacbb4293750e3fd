//! Damage on this disk as commands show it: `list`, `status` and `check`, in this process and through
//! the daemon.

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::{Home, Running, copy_tree, in_each_format, key_of};
use hypermount_drive::DriveFormat;
use serde_json::Value;

/// A store with the drive `notes`, which has three files; the directories of its index and of its
/// content core.
fn store_in(home: &Home) -> [PathBuf; 2] {
    tree_in(home);
    store_of(home, "10");
    cores_of(&home.path("store"))
}

fn tree_in(home: &Home) {
    let tree = home.make("tree");
    for name in ["a", "b", "c"] {
        let bytes: Vec<u8> =
            (0..70_000u32).map(|at| (at % 251) as u8 ^ name.as_bytes()[0]).collect();
        fs::write(tree.join(name), bytes).expect("write");
    }
}

/// A drive `notes` of these files, in this format.
fn store_of(home: &Home, format: &str) {
    home.run(["create", "notes", "--format", format, "--store", "store"]).must_succeed();
    home.run(["import", "tree", "notes", "--store", "store"]).must_succeed();
}

/// The directories of the index and of the content core of a store with one drive.
fn cores_of(store: &Path) -> [PathBuf; 2] {
    let mut cores: Vec<(u64, PathBuf)> = files_below(store)
        .into_iter()
        .filter(|file| file.ends_with("data"))
        .map(|file| store.join(file))
        .map(|file| {
            (fs::metadata(&file).expect("stat").len(), file.parent().expect("a core").to_owned())
        })
        .collect();
    cores.sort();
    let cores: Vec<PathBuf> = cores.into_iter().map(|(_, directory)| directory).collect();
    cores.try_into().expect("two cores")
}

fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).expect("read");
    bytes[at] ^= 1;
    fs::write(path, bytes).expect("write");
}

fn checked(stdout: &str) -> Value {
    serde_json::from_str::<Value>(stdout).expect("JSON")[0].clone()
}

/// 118. `check` reads and verifies every block in the store, of one drive or of all drives of a store,
///      and names the damaged files and versions, and the versions whose signature is damaged. It exits with
///      code 5 if damage remains.
#[test]
fn check_names_each_damaged_file_and_version() {
    let home = Home::new();
    let [index, content] = store_in(&home);
    let sound = home.run(["check", "--store", "store"]).must_succeed();
    assert!(sound.stdout.starts_with("notes: sound, "), "{sound:?}");
    // The files lie in the order in which they were imported.
    flip(&content.join("data"), 70_000 + 66_000);
    let here = home.run(["check", "notes", "--store", "store", "--json"]);
    assert_eq!(here.code, Some(5), "{here:?}");
    let drive = checked(&here.stdout);
    assert_eq!((&drive["hurt"], &drive["blocks_damaged"]), (&true.into(), &1.into()), "{drive}");
    let file = &drive["files"][0];
    assert_eq!((&file["newest"], drive["file_count"].as_u64()), (&true.into(), Some(1)), "{drive}");
    let path = file["path"].as_str().expect("a path").to_owned();
    let version = file["version"].as_u64().expect("a version");
    home.run(["daemon", "start", "--store", "store"]).must_succeed();
    let there = home.run(["check", "notes", "--store", "store", "--json"]);
    home.run(["daemon", "stop", "--store", "store"]).must_succeed();
    assert_eq!((there.code, checked(&there.stdout)), (Some(5), drive));
    let shown = home.run(["check", "--store", "store"]);
    assert!(shown.stdout.contains(&format!("  {path} (version {version})\n")), "{shown:?}");
    assert!(shown.stderr.contains("1 damaged"), "{shown:?}");
    flip(&content.join("data"), 70_000 + 66_000);
    home.run(["check", "--store", "store"]).must_succeed();
    // A record that follows from sound data is repaired.
    flip(&content.join("tree"), 32 + 40 * 2 + 5);
    let repaired = home.run(["check", "--store", "store"]).must_succeed();
    assert!(repaired.stdout.contains("1 of them repaired"), "{repaired:?}");
    flip(&index.join("data"), fs::metadata(index.join("data")).expect("stat").len() as usize - 3);
    let hurt = home.run(["check", "--store", "store", "--json"]);
    assert_eq!(hurt.code, Some(5), "{hurt:?}");
    let drive = checked(&hurt.stdout);
    let named = drive["versions"] == serde_json::json!([4]) || drive["why"][0].is_string();
    assert!(named, "{drive}");
    let unknown = home.run(["check", "other", "--store", "store"]);
    assert_eq!(unknown.code, Some(1), "{unknown:?}");
}

/// 119. `list` does not omit damaged drives: it shows a damaged drive as damaged, states the reason,
///      and exits with code 5.
#[test]
fn list_shows_a_damaged_drive() {
    let home = Home::new();
    let [index, _] = store_in(&home);
    home.run(["list", "--store", "store"]).must_succeed();
    flip(&index.join("data"), 10);
    let listed = home.run(["list", "--store", "store"]);
    assert_eq!(listed.code, Some(5), "{listed:?}");
    assert!(listed.stdout.contains("notes") && listed.stdout.contains("damaged"), "{listed:?}");
    listed.hints("hypermount check");
    flip(&index.join("data"), 10);
    for file in ["key", "name"] {
        fs::write(index.join(file), "").expect("write");
    }
    let listed = home.run(["list", "--store", "store", "--json"]);
    assert_eq!(listed.code, Some(5), "{listed:?}");
    let drive = checked(&listed.stdout);
    let name = index.file_name().and_then(|name| name.to_str()).expect("a discovery key");
    assert_eq!((drive["discovery_key"].as_str(), &drive["key"]), (Some(name), &Value::Null));
    // The user knows the name, from which the keys derive.
    home.run(["import", "tree", "notes", "--store", "store"]).must_succeed();
    home.run(["list", "--store", "store"]).must_succeed();
}

/// 120. Your own drive opens read-only while blocks of it are missing; `list`, `status` and
///      `check` report them.
#[test]
fn missing_blocks_of_your_own_drive_are_reported() {
    let home = Home::new();
    for which in [0, 1] {
        let _ = fs::remove_dir_all(home.path("store"));
        let _ = fs::remove_dir_all(home.path("state"));
        let core = &store_in(&home)[which];
        for file in ["signatures", "bitfield"] {
            let path = core.join(file);
            let bytes = fs::read(&path).expect("read");
            let kept = if file == "bitfield" { 32 } else { (32 + bytes.len()) / 2 };
            fs::write(&path, &bytes[..kept]).expect("write");
        }
        for arguments in [["list", "--store", "store"], ["check", "--store", "store"]] {
            let ran = home.run(arguments);
            assert_eq!(ran.code, Some(5), "core {which}: {ran:?}");
            let said = format!("{}{}", ran.stdout, ran.stderr);
            assert!(said.contains("blocks are missing"), "core {which}: {ran:?}");
        }
        let whole = checked(&home.run(["check", "--store", "store", "--json"]).stdout);
        let named = match which {
            0 => &whole["versions"],
            _ => &whole["files"],
        };
        assert!(named.as_array().is_some_and(|named| named.len() >= 2), "core {which}: {whole}");
        let refused = home.run(["import", "tree", "notes", "--store", "store"]);
        assert_ne!(refused.code, Some(0), "core {which}: {refused:?}");
        refused.hints("blocks are missing").hints("hypermount check notes --repair --peer");
        home.run(["daemon", "start", "--store", "store"]).must_succeed();
        let _ = home.run(["list", "--store", "store"]);
        let status = home.run(["status", "--store", "store"]).must_succeed();
        home.run(["daemon", "stop", "--store", "store"]).must_succeed();
        assert!(status.stdout.contains("blocks are missing"), "core {which}: {status:?}");
    }
}

/// A server of a store, and its address.
fn serve(home: &Home, store: &str) -> (Running, String) {
    let mut command = home.command();
    command.args(["serve", "--json", "--listen", "127.0.0.1:0", "--store", store]);
    let running = Running::start(&mut command);
    let told: Value = serde_json::from_str(&running.line()).expect("JSON");
    let address = told["address"].as_str().expect("an address").to_owned();
    (running, address)
}

/// Ways to damage a core.
const DAMAGES: [&str; 5] = ["block", "first block", "signatures", "hole", "tree"];
/// Those of a core of a drive of Hyperdrive 13.
const MODERN_DAMAGES: [&str; 8] =
    ["block", "first block", "bitfield", "hole", "tree", "no tree", "oplog", "no oplog"];

fn damage(core: &Path, how: &str) {
    let cut = |file: &str, part: usize| {
        let bytes = fs::read(core.join(file)).expect("read");
        let kept = (32 + bytes.len()).checked_div(part).unwrap_or(32);
        fs::write(core.join(file), &bytes[..kept]).expect("write");
    };
    match how {
        "block" => {
            let length = fs::metadata(core.join("data")).expect("stat").len() as usize;
            flip(&core.join("data"), length - 3);
        }
        "first block" => flip(&core.join("data"), 10),
        "signatures" => {
            cut("signatures", 2);
            cut("bitfield", 0);
        }
        "bitfield" | "no tree" | "no oplog" => {
            let file = core.join(how.trim_start_matches("no "));
            if let Err(error) = fs::remove_file(&file) {
                assert!(how == "bitfield" && !file.exists(), "{error}");
            }
        }
        // Both slots.
        "oplog" => {
            let mut bytes = fs::read(core.join("oplog")).expect("read");
            bytes[8..40].fill(0xff);
            bytes[4096 + 8..].iter_mut().take(32).for_each(|byte| *byte = 0xff);
            fs::write(core.join("oplog"), bytes).expect("write");
        }
        "hole" => {
            let mut bytes = fs::read(core.join("tree")).expect("read");
            bytes[32..32 + 3 * 40].fill(0);
            fs::write(core.join("tree"), bytes).expect("write");
        }
        _ => cut("tree", 0),
    }
}

/// 121. With `--repair`, `check` fetches damaged blocks from peers, and the lost blocks of your
///      own drive. It ends with exit code 0 if the drive is whole again, and with 5 if no peer
///      has some of the blocks.
#[test]
fn check_repairs_a_drive_of_ones_own_from_a_peer() {
    repairs_from_a_peer("10", &DAMAGES);
}

/// Sentence 121, of a drive of Hyperdrive 13.
#[test]
fn check_repairs_a_drive_of_hyperdrive_13_from_a_peer() {
    repairs_from_a_peer("13", &MODERN_DAMAGES);
}

fn repairs_from_a_peer(format: &str, damages: &[&str]) {
    let home = Home::new();
    tree_in(&home);
    store_of(&home, format);
    copy_tree(&home.path("store"), &home.path("sound"));
    // A copy in another place is read-only, and serves.
    copy_tree(&home.path("store"), &home.path("copy"));
    let (_server, address) = serve(&home, "copy");
    for (at, how) in damages.iter().enumerate() {
        for which in [0, 1] {
            let case = format!("{how} of core {which}");
            // In the same place, with the same inodes, so the store does not count as a copy.
            for file in files_below(&home.path("sound")) {
                let bytes = fs::read(home.path("sound").join(&file)).expect("read");
                fs::write(home.path("store").join(&file), bytes).expect("write");
            }
            let _ = fs::remove_dir_all(home.path("state/hypermount/marks"));
            let cores = cores_of(&home.path("store"));
            damage(&cores[which], how);
            let alone = home.run(["check", "notes", "--repair", "--store", "store", "--json"]);
            // The bitfield follows from the blocks.
            let heals = *how == "bitfield";
            let expected = if heals { Some(0) } else { Some(5) };
            assert_eq!(alone.code, expected, "{case}, without a peer: {alone:?}");
            let through_daemon = at % 2 == 0;
            if through_daemon {
                home.run(["daemon", "start", "--store", "store"]).must_succeed();
            }
            let peer =
                ["check", "notes", "--repair", "--peer", &address, "--wait", "20s", "--json"];
            let [a, b, c, d, e, f, g, h] = peer;
            let whole = home.run([a, b, c, d, e, f, g, h, "--store", "store"]);
            if through_daemon {
                home.run(["daemon", "stop", "--store", "store"]).must_succeed();
            }
            assert_eq!(whole.code, Some(0), "{case}: {whole:?}");
            let drive = checked(&whole.stdout);
            let repaired = drive["blocks_repaired"].as_u64().is_some_and(|count| count > 0);
            // A daemon has the peer from its start on, and may have fetched what was lost before the repair looks.
            assert!(repaired || through_daemon || heals, "{case}: {drive}");
            assert_eq!(drive["hurt"], false, "{case}: {drive}");
            home.run(["check", "notes", "--store", "store"]).must_succeed();
            let _ = fs::remove_dir_all(home.path("out"));
            home.run(["export", "notes", "out", "--store", "store"]).must_succeed();
            for name in ["a", "b", "c"] {
                let read = fs::read(home.path("out").join(name)).expect("read");
                assert!(
                    read == fs::read(home.path("tree").join(name)).expect("read"),
                    "{case}: {name}"
                );
            }
            // It can be written again, and is no longer than it was.
            let listed = home.run(["list", "--store", "store", "--json"]).must_succeed();
            let listed = checked(&listed.stdout);
            assert_eq!(listed["writable"], true, "{case}: {listed}");
        }
    }
}

/// Damaged blocks of another publisher's drive are fetched again as well. Damaged signatures of older
/// versions are made again with the secret key, or dropped without one.
#[test]
fn check_repairs_a_copy_and_signatures() {
    let home = Home::new();
    let [index, _] = store_in(&home);
    let listed = home.run(["list", "--store", "store", "--json"]).must_succeed();
    let key = checked(&listed.stdout)["key"].as_str().expect("a key").to_owned();
    let url = format!("hyper://{}", key.trim_start_matches("hyper://"));
    let signatures = fs::read(index.join("signatures")).expect("read");
    // The import brought versions 2 to 4 under one signature.
    let first = 32;
    flip(&index.join("signatures"), first + 5);
    let own = home.run(["check", "notes", "--store", "store"]).must_succeed();
    assert!(own.stdout.contains("1 of them repaired"), "{own:?}");
    assert_eq!(fs::read(index.join("signatures")).expect("read"), signatures);
    let (_server, address) = serve(&home, "store");
    home.run(["export", &url, "out", "--store", "there", "--peer", &address]).must_succeed();
    let [_, content] = cores_of(&home.path("there"));
    flip(&content.join("data"), 70_000 + 66_000);
    // The damage is found again, and no claim is dropped before the block can be fetched.
    for _ in 0..2 {
        assert_eq!(home.run(["check", &url, "--store", "there"]).code, Some(5));
        let alone = ["check", &url, "--repair", "--network", "off", "--store", "there"];
        assert_eq!(home.run(alone).code, Some(5));
    }
    let whole =
        home.run(["check", &url, "--repair", "--peer", &address, "--store", "there", "--json"]);
    assert_eq!(
        (whole.code, checked(&whole.stdout)["blocks_repaired"].as_u64()),
        (Some(0), Some(1))
    );
    let misplaced = home.run(["check", &url, "--peer", &address, "--store", "there"]);
    misplaced.must_fail(2, "no peer is asked").hints("--repair");
    copy_tree(&home.path("store"), &home.path("copy"));
    let [index, _] = cores_of(&home.path("copy"));
    flip(&index.join("signatures"), first + 5);
    let hurt = home.run(["check", "notes", "--store", "copy", "--json"]);
    assert_eq!(
        (hurt.code, &checked(&hurt.stdout)["signatures"]),
        (Some(5), &serde_json::json!([1]))
    );
    home.run(["check", "notes", "--repair", "--store", "copy"]).must_succeed();
    let left = fs::read(index.join("signatures")).expect("read");
    assert_eq!(left[first..first + 64], [0; 64]);
}

/// Sentences 118, 119 and 121 of a drive that was not made here, in each format: the file is named, the drive is listed as
/// damaged, and a peer repairs it.
#[test]
fn a_recorded_drive_is_checked_and_repaired() {
    in_each_format(a_drive_is_checked);
}

fn a_drive_is_checked(format: DriveFormat) {
    let home = Home::new();
    home.golden_store_of(format, "sound");
    let url = format!("hyper://{}", key_of(format));
    let (_server, address) = serve(&home, "sound");
    let all = home.run(["export", &url, "out", "--store", "there", "--peer", &address]);
    // A nested drive is not exported, and named.
    assert_eq!(all.code, Some(i32::from(format == DriveFormat::Hyperdrive10)), "{all:?}");
    home.run(["check", &url, "--store", "there"]).must_succeed();
    let store = home.path("there");
    let data = files_below(&store).into_iter().filter(|file| file.ends_with("data"));
    let mut data: Vec<PathBuf> = data.map(|file| store.join(file)).collect();
    data.sort_by_key(|file| fs::metadata(file).expect("stat").len());
    let content = data.pop().expect("a content core");
    let bytes = fs::read(&content).expect("read");
    // In the middle of the large file.
    flip(&content, bytes.len() / 2);
    let hurt = home.run(["check", &url, "--store", "there", "--json"]);
    assert_eq!(hurt.code, Some(5), "{hurt:?}");
    let drive = checked(&hurt.stdout);
    let path = drive["files"][0]["path"].as_str().map(|path| path.trim_start_matches('/'));
    assert_eq!((&drive["file_count"], path), (&1.into(), Some("big.bin")), "{drive}");
    let repair = ["check", &url, "--repair", "--peer", &address, "--store", "there", "--json"];
    let repaired = home.run(repair);
    let drive = checked(&repaired.stdout);
    assert_eq!((repaired.code, &drive["blocks_repaired"]), (Some(0), &1.into()), "{drive}");
    assert!(fs::read(&content).expect("read") == bytes, "the bytes are back");

    // The first block of the index.
    data.iter().for_each(|index| flip(index, 10));
    let listed = home.run(["list", "--store", "there"]);
    assert_eq!(listed.code, Some(5), "{listed:?}");
    assert!(listed.stdout.contains("damaged"), "{listed:?}");
    home.run(repair).must_succeed();
    home.run(["list", "--store", "there"]).must_succeed();
}

/// Damaged key files are written again from the master key, and `check` reports it.
#[test]
fn check_says_which_key_files_it_repaired() {
    let home = Home::new();
    let [index, content] = store_in(&home);
    for (core, of) in [(index, "index"), (content, "content")] {
        for file in ["key", "name"] {
            fs::write(core.join(file), "").expect("write");
            let ran = home.run(["check", "notes", "--store", "store"]).must_succeed();
            assert!(ran.stdout.contains(&format!("{file} of the {of}: repaired")), "{ran:?}");
        }
    }
}

fn files_below(root: &Path) -> Vec<PathBuf> {
    let (mut found, mut open) = (Vec::new(), vec![root.to_owned()]);
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(&directory).expect("list").flatten() {
            match entry.path() {
                path if path.is_dir() => open.push(path),
                path => found.push(path.strip_prefix(root).expect("below").to_owned()),
            }
        }
    }
    found
}
