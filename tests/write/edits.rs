//! Changes in the middle of large files of a drive of Hyperdrive 13: what they store, and that both references read
//! the result.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use crate::common::living::{hypermount, succeed};
use crate::format13::{Reader, look};
use crate::own::{Own, can_mount, has_reference};

/// Bytes of the files that are changed.
const LARGE: u64 = 12 << 20;
/// Bytes that a change of a few bytes may add to the store: two blocks, a map, and an entry of the index.
const MOST_PER_EDIT: u64 = 200 * 1024;
const EDITS: usize = 24;

#[derive(Clone, Debug)]
enum Change {
    Write { file: usize, at: u64, bytes: usize },
    Append { file: usize, bytes: usize },
    Resize { file: usize, size: u64 },
    Rename,
    Crash,
    Remount,
}

fn change() -> impl Strategy<Value = Change> {
    let file = 0..2_usize;
    prop_oneof![
        8 => (file.clone(), 0..LARGE, 1..300_000_usize)
            .prop_map(|(file, at, bytes)| Change::Write { file, at, bytes }),
        4 => (file.clone(), 1..200_000_usize).prop_map(|(file, bytes)| Change::Append { file, bytes }),
        3 => (file, LARGE / 2..LARGE * 3 / 2).prop_map(|(file, size)| Change::Resize { file, size }),
        1 => Just(Change::Rename),
        1 => Just(Change::Crash),
        1 => Just(Change::Remount),
    ]
}

fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..length).map(|_| next()).collect()
}

/// Bytes of all files of the store.
fn stored(own: &Own) -> u64 {
    let mut used = std::process::Command::new("du");
    let used = succeed(used.args(["-sB1", "--apparent-size"]).arg(own.store()));
    used.split_whitespace().next().and_then(|bytes| bytes.parse().ok()).expect("a number")
}

fn apply(root: &Path, change: &Change, seed: u64) {
    let open = |file: &usize| {
        let path = root.join(format!("file {file}"));
        fs::File::options().write(true).open(path).expect("opens")
    };
    match change {
        Change::Write { file, at, bytes } => {
            open(file).write_all_at(&noise(*bytes, seed), *at).expect("writes");
        }
        Change::Append { file, bytes } => {
            let file = open(file);
            let end = file.metadata().expect("stat").len();
            file.write_all_at(&noise(*bytes, seed), end).expect("appends");
        }
        Change::Resize { file, size } => open(file).set_len(*size).expect("resizes"),
        Change::Rename => {
            let at = |name: &str| root.join(name);
            fs::rename(at("file 0"), at("between")).expect("renames");
            fs::rename(at("file 1"), at("file 0")).expect("renames");
            fs::rename(at("between"), at("file 1")).expect("renames");
        }
        Change::Crash | Change::Remount => {}
    }
}

/// Sentence 136. "In one of Hyperdrive 10 it stores the whole file, unless the file is the last in the content core and only
/// grew."
#[test]
fn a_changed_file_of_hyperdrive_10_is_stored_whole() {
    if !can_mount() {
        return;
    }
    let own = Own::new();
    let large = own.path("large");
    fs::write(&large, noise(LARGE as usize, 1)).expect("writes");
    let file = || fs::File::options().write(true).open(&large).expect("opens");
    let before = stored(&own);
    file().write_all_at(b"change", LARGE).expect("appends");
    assert!(stored(&own) - before < MOST_PER_EDIT);
    let before = stored(&own);
    file().write_all_at(b"change", 5).expect("writes");
    assert!(stored(&own) - before > LARGE);
}

/// Sentence 136. "In a drive of Hyperdrive 13 a change of a large file stores the blocks that it touches, and a list of
/// the others."
#[test]
fn a_few_changed_bytes_of_a_large_file_store_little() {
    if !can_mount() {
        return;
    }
    for mut own in [Own::in_format("13"), Own::encrypted()] {
        let large = own.path("large");
        let mut expected = noise(LARGE as usize, 1);
        fs::write(&large, &expected).expect("writes");
        // What follows in the content core: an append cannot go on after the blocks of the file.
        fs::write(own.path("other"), "other").expect("writes");
        let file = || fs::File::options().write(true).open(&large).expect("opens");
        for at in [0, 5_000_000, LARGE - 1, 70_000, 5_000_001, LARGE] {
            let before = stored(&own);
            file().write_all_at(b"change", at).expect("writes");
            let end = (at as usize + 6).max(expected.len());
            expected.resize(end, 0);
            expected[at as usize..at as usize + 6].copy_from_slice(b"change");
            let grown = stored(&own) - before;
            assert!(grown < MOST_PER_EDIT, "{grown} bytes for a change at {at}");
            assert!(fs::read(&large).expect("reads") == expected, "changed at {at}");
        }
        let before = stored(&own);
        file().set_len(LARGE / 2 + 1000).expect("cuts");
        expected.truncate(LARGE as usize / 2 + 1000);
        assert!(stored(&own) - before < MOST_PER_EDIT, "a cut");
        own.remount();
        assert!(fs::read(own.path("large")).expect("reads") == expected, "after a remount");
        own.unmount();
        let store = own.store();
        let checked = succeed(hypermount().args(["check", "notes", "--store"]).arg(store));
        assert!(checked.contains("sound"), "{checked}");
    }
}

/// Both references read the whole file after each of many changes.
#[test]
fn the_reference_reads_a_large_file_after_each_change() {
    if !can_mount() || !has_reference() {
        return;
    }
    let mut own = Own::in_format("13");
    own.unmount();
    let mut address = own.mount_listening();
    let plain = tempfile::tempdir().expect("a directory");
    for file in 0..2 {
        for root in [own.root(), plain.path().to_owned()] {
            let content = noise(LARGE as usize, file + 1);
            fs::write(root.join(format!("file {file}")), content).expect("writes");
        }
    }
    let key = own.key().to_owned();
    let readers = |address: &str| {
        [&[][..], &["--legacy10"]].map(|options| Reader::new(&key, address, options))
    };
    let mut following = readers(&address);
    let random = TestRng::from_seed(RngAlgorithm::ChaCha, &[5; 32]);
    let mut runner = TestRunner::new_with_rng(Config::default(), random);
    for at in 0..EDITS {
        let change = change().new_tree(&mut runner).expect("a change").current();
        let when = format!("change {at}, {change:?}");
        if matches!(change, Change::Crash | Change::Remount) {
            match change {
                Change::Crash => own.crash(),
                _ => own.unmount(),
            }
            address = own.mount_listening();
            following = readers(&address);
        }
        for root in [own.root(), plain.path().to_owned()] {
            apply(&root, &change, at as u64 + 99);
        }
        let expected = look(plain.path());
        assert_eq!(look(&own.root()), expected, "{when}");
        following.iter_mut().for_each(|reader| reader.follow(&expected, &when));
    }
}
