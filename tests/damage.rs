//! Damage on this disk as commands show it: `list`, `status` and `check`, in this process and through
//! the daemon.

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::Home;
use serde_json::Value;

/// A store with the drive `notes`, which has three files; the directories of its index and of its
/// content core.
fn store_in(home: &Home) -> [PathBuf; 2] {
    let tree = home.make("tree");
    for name in ["a", "b", "c"] {
        let bytes: Vec<u8> =
            (0..70_000u32).map(|at| (at % 251) as u8 ^ name.as_bytes()[0]).collect();
        fs::write(tree.join(name), bytes).expect("write");
    }
    home.run(["create", "notes", "--store", "store"]).must_succeed();
    home.run(["import", "tree", "notes", "--store", "store"]).must_succeed();
    let mut cores = Vec::new();
    let mut open = vec![home.path("store")];
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(&directory).expect("list").flatten() {
            match entry.path() {
                path if path.is_dir() => open.push(path),
                path if path.ends_with("data") => {
                    cores.push((entry.metadata().unwrap().len(), directory.clone()))
                }
                _ => {}
            }
        }
    }
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

/// 118. `check` reads and verifies every block that is here, of one drive or of all drives of a store,
///      and names the files and versions that are damaged. What stays damaged ends it with exit code 5.
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
    // A record that follows from what is sound is repaired.
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

/// 119. `list` leaves no drive out because it is damaged: it shows it as damaged, says why, and ends
///      with exit code 5.
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
    // Its user knows the name, from which all derives.
    home.run(["import", "tree", "notes", "--store", "store"]).must_succeed();
    home.run(["list", "--store", "store"]).must_succeed();
}

/// 120. A drive of one's own of which blocks are missing opens read-only; `list`, `status` and `check`
///      say so.
#[test]
fn missing_blocks_of_ones_own_drive_are_said() {
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
        home.run(["daemon", "start", "--store", "store"]).must_succeed();
        let _ = home.run(["list", "--store", "store"]);
        let status = home.run(["status", "--store", "store"]).must_succeed();
        home.run(["daemon", "stop", "--store", "store"]).must_succeed();
        assert!(status.stdout.contains("blocks are missing"), "core {which}: {status:?}");
    }
}
