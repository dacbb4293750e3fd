//! Every shape of drive that the reference makes, through a mount and by `export`, at several versions.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::thread;

use serde_json::Value;

use crate::common::living::{Mounted, hypermount, reference, succeed};
use crate::common::{Home, Ran};
use crate::origin::{Item, Origin, expected, found, mounted, random_seed, same};

/// Some versions that the publisher has announced, the newest first.
fn versions(origin: &Origin, shape: &str) -> Vec<u64> {
    let newest = origin.ready["version"].as_u64().expect("a version");
    let step = if shape == "many" { 250 } else { 1 };
    let batches = newest.saturating_sub(1) / step;
    let mut versions = vec![newest];
    versions.extend([batches / 2, batches / 3].map(|batch| 1 + batch * step));
    versions.retain(|version| *version > 1 || *version == newest);
    versions.dedup();
    versions
}

/// Whether a filesystem can hold the path (sentence 18 of docs/semantics.md).
fn can_be_held(path: &str) -> bool {
    let is_name =
        |name: &str| !matches!(name, "" | "." | "..") && !name.contains('\0') && name.len() <= 255;
    let names = path.strip_prefix('/');
    names.is_some_and(|names| names.len() <= 4096 && names.split('/').all(is_name))
}

/// The items of a listing of the reference as they are shown: those that a filesystem can hold, and a file that has the
/// name of a directory beside it (sentence 127).
fn shown(entries: &Value) -> BTreeMap<String, Item> {
    let all = entries.as_object().expect("entries");
    let above = |path: &String| {
        let ends: Vec<_> = path.match_indices('/').map(|(at, _)| path[..at].to_owned()).collect();
        ends.into_iter()
    };
    let directories: BTreeSet<String> = all.keys().flat_map(above).collect();
    let held = all.iter().filter(|(path, _)| can_be_held(path));
    let held = held.map(|(path, entry)| match directories.contains(path) {
        true => (format!("{path}~file"), entry.clone()),
        false => (path.clone(), entry.clone()),
    });
    expected(&held.collect())
}

/// Mounts several versions from a peer that is named, and the newest one from a peer that is found by the key in a
/// HyperDHT; exports that.
fn is_shown(shape: &str, options: &[&str], nodes: &str) {
    let options = [&["--tcp", "--dht", nodes], options].concat();
    let mut origin = Origin::seeded(shape, &random_seed(), &options);
    let home = Home::new();
    let store = home.path("store");
    for version in versions(&origin, shape) {
        let entries = shown(&origin.entries(version));
        let newest = origin.ready["version"] == version;
        let target =
            if newest { origin.key().to_owned() } else { format!("{}+{version}", origin.key()) };
        let at = home.path(&format!("mnt{version}"));
        let mount = Mounted::by_key(&target, &at, &store, &[origin.address()]);
        same(&format!("{shape}+{version} mounted"), &found(&mount.at), &mounted(&entries));
        unmount(mount);
        if newest {
            let found_store = home.path("found");
            let found_at = home.path("found-mnt");
            let mount = mount_found(&origin.url(""), &found_at, &found_store, nodes);
            same(&format!("{shape} found"), &found(&mount.at), &mounted(&entries));
            unmount(mount);
            is_exported(shape, &origin, &home, &found_store, &entries);
        }
    }
}

/// The key is all that the mount is given.
fn mount_found(url: &str, at: &Path, store: &Path, nodes: &str) -> Mounted {
    let (bootstrap, store) = (format!("hyperdht:{nodes}"), store.display().to_string());
    let options = ["--network", "full", "--bootstrap", &bootstrap, "--store", &store];
    Mounted::new(url, at, &options)
}

fn is_exported(
    shape: &str,
    origin: &Origin,
    home: &Home,
    store: &Path,
    entries: &BTreeMap<String, Item>,
) {
    let copy = home.path("copy");
    let ran = export(&origin.url(""), &copy, store, &origin.address());
    match shape {
        // Of 900 directories in each other.
        "odd-names" => {
            assert_eq!(ran.code, Some(1), "{ran:?}");
            assert!(ran.stderr.contains("export: 1 entries were not copied"), "{ran:?}");
            assert!(ran.stderr.contains("nested too deeply"), "{ran:?}");
        }
        _ => drop(ran.must_succeed()),
    }
    same(&format!("{shape} exported"), &found(&copy), entries);
}

/// Ends the mount, and waits until its process has stored what it fetched.
fn unmount(mut mount: Mounted) {
    succeed(hypermount().arg("unmount").arg(&mount.at));
    assert!(mount.process.wait().success());
}

fn export(url: &str, to: &Path, store: &Path, peer: &str) -> Ran {
    let mut command = hypermount();
    command.args(["export", url]).arg(to).arg("--store").arg(store).args(["--peer", peer]);
    Ran::new(command.output().expect("it runs"))
}

fn all_are_shown(shapes: &[(&str, &[&str])]) {
    let mut network = reference("modern/bootstrap.js", &[]);
    let nodes = network.json()["bootstrap"].as_str().expect("an address").to_owned();
    thread::scope(|scope| {
        for (shape, options) in shapes.iter().copied() {
            let nodes = &nodes;
            scope.spawn(move || is_shown(shape, options, nodes));
        }
    });
}

#[test]
fn drives_with_some_of_everything_are_shown_whatever_signs_them() {
    all_are_shown(&[
        ("small", &[]),
        ("multisig", &[]),
        ("compat", &[]),
        ("drives10", &[]),
        ("small", &["--legacy10"]),
    ]);
}

/// And drives in which nothing is.
///
/// 131. Entries whose names are not UTF-8, and paths longer than 4096 bytes, are not shown.
#[test]
fn names_that_are_odd_are_shown_or_left_out() {
    all_are_shown(&[("twice", &[]), ("odd-names", &[]), ("emptied", &[])]);
}

#[test]
fn files_of_blocks_of_any_size_are_shown() {
    all_are_shown(&[("uneven", &[]), ("dedup", &[])]);
}

#[test]
fn two_thousand_files_written_in_batches_are_shown() {
    all_are_shown(&[("many", &[])]);
}

#[test]
fn large_files_are_shown() {
    all_are_shown(&[("large", &[])]);
}
