//! A drive in the format of Hyperdrive 13, written through a mount while the reference reads it live; and its store, in which
//! the reference opens the cores and appends to them.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::common::living::{Running, copy_tree, eventually, hypermount, reference, succeed};
use crate::own::{Own, can_mount, has_reference, tree};
use crate::steps::{Step, act, leads_through_link, step};

/// Steps after each of which the reference reads everything.
const STEPS: usize = 500;
const STEPS_ENCRYPTED: usize = 80;

/// Files and links by their paths, as both sides tell them. Hyperdrive 13 knows no other entries.
pub type Seen = BTreeMap<String, String>;

pub fn look(root: &Path) -> Seen {
    let mut found = Seen::new();
    let mut directories = vec![root.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).expect("lists") {
            let path = entry.expect("reads").path();
            let stat = fs::symlink_metadata(&path).expect("exists");
            let what = if stat.is_dir() {
                directories.push(path);
                continue;
            } else if stat.is_symlink() {
                format!("link to {}", fs::read_link(&path).expect("reads").display())
            } else {
                let content = hex::encode(Sha256::digest(fs::read(&path).expect("reads")));
                format!("{} {content}", stat.permissions().mode() & 0o100 != 0)
            };
            found.insert(format!("/{}", path.strip_prefix(root).expect("below").display()), what);
        }
    }
    found
}

fn told(entries: &Value) -> Seen {
    let what = |entry: &Value| match entry["linkname"].as_str() {
        Some(target) => format!("link to {target}"),
        None => format!("{} {}", entry["executable"], entry["sha256"].as_str().unwrap_or("")),
    };
    let entries = entries.as_object().expect("entries").iter();
    entries.map(|(path, entry)| (path.clone(), what(entry))).collect()
}

/// The reference, which reports the drive after each change.
pub struct Reader {
    process: Running,
    last: Seen,
    /// Reports with a version before them.
    compared: usize,
}

impl Reader {
    pub fn new(key: &str, address: &str, options: &[&str]) -> Self {
        let arguments = [&["--key", key, "--tcp", address, "--watch"], options].concat();
        Self {
            process: reference("modern/read-drive.js", &arguments),
            last: Seen::new(),
            compared: 0,
        }
    }

    /// Reads reports until the reference has these entries.
    pub fn follow(&mut self, expected: &Seen, when: &str) {
        while self.last != *expected {
            let said = self.process.json();
            assert!(said.get("error").is_none(), "{when}: {said}, with {:?}", self.last);
            if said.get("manifest").is_some() {
                let entries = told(&said["entries"]);
                if let Some(changed) = said["changed"].as_array() {
                    self.compared += 1;
                    assert_eq!(said["past"], true, "{when}: a version changed: {said}");
                    let named = |path: &&String| changed.iter().any(|name| name == path.as_str());
                    let differ = |path: &&String| self.last.get(*path) != entries.get(*path);
                    let paths = self.last.keys().chain(entries.keys()).filter(differ);
                    let missing: Vec<_> = paths.filter(|path| !named(path)).collect();
                    assert!(missing.is_empty(), "{when}: the diff lacks {missing:?}: {said}");
                }
                self.last = entries;
            }
        }
    }
}

fn random_steps(seed: u8, count: usize) -> Vec<Step> {
    let random = TestRng::from_seed(RngAlgorithm::ChaCha, &[seed; 32]);
    let mut runner = TestRunner::new_with_rng(Config::default(), random);
    let step = step();
    let mut next = || step.new_tree(&mut runner).expect("a step").current();
    (0..count).map(|_| next()).collect()
}

/// Sentence 132. "Of these, other programs see which files are executable, and the directories that a file or link is
/// in."
/// 133. Programs on Hyperdrive 13, and on Hyperdrive 11 with Hypercore 10, read its files and links live, after every
/// change.
#[test]
fn the_reference_reads_everything_after_each_of_many_operations() {
    if can_mount() && has_reference() {
        read_after_each(Own::in_format("13"), STEPS, &[]);
    }
}

/// Sentence 134. "A drive made with `--encrypted` is read with its URL and its encryption key, also by the programs of
/// sentence 133."
/// Sentence 134. "The key is kept in the store, for its owner only."
#[test]
fn the_reference_reads_an_encrypted_drive_after_each_of_many_operations() {
    if !can_mount() || !has_reference() {
        return;
    }
    let own = Own::encrypted();
    // The mount has the store, so no other command can tell the key.
    let kept = fs::read_dir(own.store().join("hypermount.keys")).expect("lists").next();
    let kept = kept.expect("a key").expect("reads");
    assert_eq!(kept.metadata().expect("exists").permissions().mode() & 0o777, 0o600);
    let key = hex::encode(fs::read(kept.path()).expect("reads"));
    read_after_each(own, STEPS_ENCRYPTED, &["--encryption-key", &key]);
}

fn read_after_each(mut own: Own, steps: usize, options: &[&str]) {
    let mirrored = tempfile::tempdir().expect("a directory");
    let directory = mirrored.path().to_str().expect("a path");
    let readers = |key: &str, address: &str| {
        let kinds = [&["--compare", "--mirror", directory][..], &["--compare", "--legacy10"]];
        kinds.map(|kind| Reader::new(key, address, &[options, kind].concat()))
    };
    let mut compared = 0;
    let plain = tempfile::tempdir().expect("a directory");
    own.unmount();
    let mut address = own.mount_listening();
    let key = own.key().to_owned();
    let mut following = readers(&key, &address);
    for (at, step) in random_steps(13, steps).into_iter().enumerate() {
        let when = format!("step {at}, {step:?}");
        match &step {
            Step::Remount | Step::Kill => {
                match step {
                    Step::Kill => own.crash(),
                    _ => own.unmount(),
                }
                address = own.mount_listening();
                compared += following.iter().map(|reader| reader.compared).sum::<usize>();
                following = readers(&key, &address);
            }
            Step::AskReference => continue,
            step if step.paths().iter().any(|path| leads_through_link(plain.path(), path)) => {
                continue;
            }
            step => assert_eq!(act(&own.root(), step), act(plain.path(), step), "{when}"),
        }
        assert_eq!(tree(&own.root(), true), tree(plain.path(), true), "{when}");
        let expected = look(&own.root());
        following.iter_mut().for_each(|reader| reader.follow(&expected, &when));
        assert_eq!(look(mirrored.path()), expected, "{when}: as the reference mirrors it");
    }
    compared += following.iter().map(|reader| reader.compared).sum::<usize>();
    assert!(compared > 0, "{compared} versions were compared with the one before");
    own.unmount();
    let store = own.store();
    let about = succeed(hypermount().args(["info", "--json", "notes", "--store"]).arg(store));
    let about: Value = serde_json::from_str(&about).expect("JSON");
    assert_eq!((&about["format"], &about["writable"]), (&json!("hyperdrive 11-13"), &json!(true)));
}

/// The files of both cores are those of Hypercore 10: it opens them, finds no damage, appends with the key pair that they
/// keep; and what it left is written on here.
#[test]
fn the_reference_opens_the_store_and_appends_and_we_go_on() {
    if !can_mount() || !has_reference() {
        return;
    }
    let mut own = Own::in_format("13");
    for at in 0..40 {
        fs::write(own.path(&format!("file {at}")), vec![at as u8; at * 4000]).expect("writes");
    }
    // After a kill the newest appends are in entries of the oplog.
    for killed in [false, true] {
        fs::write(own.path("last"), format!("{killed}")).expect("writes");
        match killed {
            true => own.crash(),
            false => own.unmount(),
        }
        let copy = own.beside(&format!("copy {killed}"));
        copy_tree(&own.store().join("cores"), &copy.join("cores"));
        let at = copy.display().to_string();
        let opened = reference("modern/open-core.js", &["--storage", &at]).json();
        let cores = opened["cores"].as_array().unwrap_or_else(|| panic!("{opened}"));
        assert_eq!(cores.len(), 2, "{opened}");
        for core in cores {
            assert_eq!((&core["damaged"], &core["held"]), (&json!(0), &core["length"]), "{core}");
        }
        let again = ["--storage", &at, "--append", "of the reference"];
        let appended = reference("modern/open-core.js", &again).json();
        for (core, before) in appended["cores"].as_array().expect("cores").iter().zip(cores) {
            assert_eq!(core["length"], before["length"].as_u64().expect("a length") + 1, "{core}");
            assert_eq!(core["damaged"], 0, "{core}");
        }
        own.mount();
        assert_eq!(fs::read(own.path("last")).expect("reads"), format!("{killed}").into_bytes());
    }
    let before = look(&own.root());
    own.unmount();
    // Blocks of the reference at the end of the content core are of no file. The index stays ours.
    let content = |about: &Value| about["content_key"].as_str().expect("a key").to_owned();
    let store = own.store().display().to_string();
    let about = succeed(hypermount().args(["info", "--json", "notes", "--store", &store]));
    let content = content(&serde_json::from_str(&about).expect("JSON"));
    let alone = own.beside("alone");
    for directory in core_directories(&own.store().join("cores")) {
        if holds_core(&directory, &content) {
            let inside = alone.join("cores/aa/bb");
            fs::create_dir_all(&inside).expect("makes");
            let moved = inside.join(directory.file_name().expect("a name"));
            copy_tree(&directory, &moved);
            let at = alone.display().to_string();
            let again = ["--storage", &at, "--append", "of the reference"];
            let appended = reference("modern/open-core.js", &again).json();
            assert_eq!(appended["cores"][0]["damaged"], 0, "{appended}");
            fs::remove_dir_all(&directory).expect("removes");
            copy_tree(&moved, &directory);
        }
    }
    own.mount();
    assert_eq!(look(&own.root()), before);
    fs::write(own.path("after"), "ours again").expect("writes");
    own.remount();
    assert_eq!(fs::read(own.path("after")).expect("reads"), b"ours again");
    own.unmount();
    let checked = succeed(hypermount().args(["check", "notes", "--store", &store]));
    assert!(checked.contains("sound"), "{checked}");
}

fn core_directories(cores: &Path) -> Vec<std::path::PathBuf> {
    let below = |at: &Path| -> Vec<_> {
        let entries = fs::read_dir(at).expect("lists");
        entries.map(|entry| entry.expect("reads").path()).collect()
    };
    below(cores).iter().flat_map(|at| below(at)).flat_map(|at| below(&at)).collect()
}

/// Whether the files in the directory are those of the core with this key.
fn holds_core(directory: &Path, key: &str) -> bool {
    let oplog = fs::read(directory.join("oplog")).expect("reads");
    let key = hex::decode(key).expect("hex");
    oplog.windows(key.len()).any(|window| window == key)
}

/// The key is all that the reference is given.
#[test]
fn the_reference_finds_the_drive_in_a_hyperdht() {
    if !can_mount() || !has_reference() {
        return;
    }
    let mut network = reference("modern/bootstrap.js", &[]);
    let bootstrap = network.json()["bootstrap"].as_str().expect("an address").to_owned();
    let nodes = format!("hyperdht:{bootstrap}");
    let mut own = Own::in_format("13");
    fs::create_dir_all(own.path("a/b")).expect("makes");
    fs::write(own.path("a/b/file"), vec![7; 200_000]).expect("writes");
    own.unmount();
    own.mount_with(&["--listen", "127.0.0.1:0", "--network", "full", "--bootstrap", &nodes]);
    let expected = look(&own.root());
    // The reference looks once, and again after minutes; so it is asked repeatedly.
    let key = own.key().to_owned();
    let read = eventually("the reference reads", || {
        let arguments = ["--key", &key, "--dht", &bootstrap, "--once", "--timeout", "20"];
        let answer = reference("modern/read-drive.js", &arguments).json();
        answer.get("entries").map(told)
    });
    assert_eq!(read, expected);
}
