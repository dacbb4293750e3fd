//! Lookups, ranges, listings and differences: recorded trees, random ones, and trees that make no sense.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;
use serde_json::Value;

use super::block::Block;
use super::blocks::Blocks;
use super::diff::Difference;
use super::entry::path_of;
use super::list::Child;
use super::testing::{self, Parts, Writer, block, header, tree_of};
use super::tree::{Found, MAX_DEPTH, Tree};
use crate::index::budget::Budget;
use crate::index::trie::testing::{Traffic, core_of, reader_of, serve};
use crate::index::trie::vectors;
use crate::path::DrivePath;
use hypermount_core::testing::{Change, RemoteTree};
use hypermount_core::{Error, Result, Wait};

fn bee() -> (Value, Arc<Blocks>) {
    (vectors::load("modern/bee.json"), Arc::new(Blocks::new(core_of(&testing::bee_blocks()))))
}

fn budget(tree: &Tree) -> Budget {
    Budget::new(tree.blocks().core())
}

async fn all(tree: &Tree) -> Result<Vec<Found>> {
    tree.range(b"", None, usize::MAX, &mut budget(tree), Wait::Local).await
}

async fn children(tree: &Tree, path: &str) -> Result<Vec<Child>> {
    let path = DrivePath::parse(path).unwrap();
    tree.children(&path, &mut budget(tree), Wait::Local).await
}

async fn differences(new: &Tree, old: &Tree) -> Result<Vec<Difference>> {
    new.differences(old, usize::MAX, &mut budget(new), Wait::Local).await
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

fn is_malformed<T>(result: &Result<T>) -> bool {
    matches!(result, Err(Error::Malformed(_)))
}

#[tokio::test]
async fn every_recorded_version_has_its_entries() {
    let (vectors, blocks) = bee();
    let mut versions = 0;
    for checkout in vectors["checkouts"].as_array().unwrap() {
        let version = checkout["version"].as_u64().unwrap();
        let tree = Tree::at(Arc::clone(&blocks), version);
        assert_eq!(tree.version(), version);
        let entries = checkout["entries"].as_array().unwrap();
        let found = all(&tree).await.unwrap();
        assert_eq!(found.len(), entries.len(), "version {version}");
        for (found, entry) in found.iter().zip(entries) {
            let value = found.block.value.as_deref().unwrap();
            let found = serde_json::json!([found.seq, text(&found.block.key), text(value)]);
            assert_eq!(&found, entry, "version {version}");
            let key = entry[1].as_str().unwrap().as_bytes();
            let one = tree.get(key, Wait::Local).await.unwrap().unwrap();
            assert_eq!(one.seq, entry[0].as_u64().unwrap());
            for absent in [&key[..key.len() - 1], &[key, b"0"].concat()] {
                assert!(tree.get(absent, Wait::Local).await.unwrap().is_none());
            }
        }
        versions += 1;
    }
    assert_eq!(versions, 7);
    assert!(all(&Tree::at(blocks, 0)).await.unwrap().is_empty());
}

#[tokio::test]
async fn the_recorded_range_has_its_keys() {
    let (vectors, blocks) = bee();
    let tree = Tree::at(blocks, vectors["blocks"].as_array().unwrap().len() as u64);
    let range = &vectors["range"];
    let after = |name: &str| [range[name].as_str().unwrap().as_bytes(), &[0]].concat();
    let (start, end) = (after("gt"), after("lte"));
    let mut budget = budget(&tree);
    let found = tree.range(&start, Some(&end), usize::MAX, &mut budget, Wait::Local).await;
    let keys: Vec<_> =
        found.unwrap().iter().map(|found| text(&found.block.key).to_owned()).collect();
    assert_eq!(serde_json::json!(keys), range["keys"]);
    let two = tree.range(&start, Some(&end), 2, &mut budget, Wait::Local).await.unwrap();
    assert_eq!(two.len(), 2);
}

#[tokio::test]
async fn the_recorded_difference_is_found() {
    let (vectors, blocks) = bee();
    let new = Tree::at(Arc::clone(&blocks), vectors["blocks"].as_array().unwrap().len() as u64);
    let old = Tree::at(blocks, 31);
    let side = |found: &Option<Found>| {
        found.as_ref().map(|found| serde_json::json!([found.seq, text(&found.block.key)]))
    };
    let found = differences(&new, &old).await.unwrap();
    let found = found.iter().map(
        |Difference { old, new }| serde_json::json!({ "left": side(new), "right": side(old) }),
    );
    assert_eq!(Value::from(found.collect::<Vec<_>>()), vectors["diffAgainst31"]);
    let limited = new.differences(&old, 9, &mut budget(&new), Wait::Local).await;
    assert!(matches!(limited, Err(Error::TooLarge(_))));
}

#[tokio::test]
async fn a_version_inside_a_batch_has_no_root() {
    let (_, blocks) = bee();
    for version in [40, 41] {
        assert!(is_malformed(&all(&Tree::at(Arc::clone(&blocks), version)).await));
    }
}

#[tokio::test]
async fn the_recorded_drive_has_its_entries_and_directories() {
    let drive = vectors::load("modern/drive.json");
    let tree = tree_of(&testing::drive_blocks());
    assert_eq!(tree.version(), drive["version"].as_u64().unwrap());
    let found = all(&tree).await.unwrap();
    let entries = drive["entries"].as_array().unwrap();
    assert_eq!(found.len(), entries.len());
    for (found, entry) in found.iter().zip(entries) {
        let path = path_of(&found.block.key).unwrap();
        assert_eq!(
            (found.seq, path.to_string().as_str()),
            (entry["seq"].as_u64().unwrap(), entry["key"].as_str().unwrap(),)
        );
        let value: Value = serde_json::from_slice(found.block.value.as_deref().unwrap()).unwrap();
        assert_eq!(value, entry["value"]);
        let place = tree.place(&path, Wait::Local).await.unwrap();
        assert_eq!(place.entry.unwrap().seq, found.seq);
        assert!(place.below.is_none());
    }
    for (path, names) in drive["readdir"].as_object().unwrap() {
        let listed = children(&tree, path).await.unwrap();
        let listed: Vec<_> = listed.iter().map(|child| child.name.as_str()).collect();
        assert_eq!(&serde_json::json!(listed), names, "{path}");
    }
    for (path, directory) in [("", true), ("dir", true), ("dir/sub", true), ("nope", false)] {
        let place = tree.place(&DrivePath::parse(path).unwrap(), Wait::Local).await.unwrap();
        assert_eq!((place.below.is_some(), place.entry.is_some()), (directory, false), "{path}");
    }
    let old = Tree::at(Arc::clone(tree.blocks()), 4);
    let found = all(&old).await.unwrap();
    let paths = found.iter().map(|found| path_of(&found.block.key).unwrap().to_string());
    assert_eq!(serde_json::json!(paths.collect::<Vec<_>>()), drive["checkout4"]);
}

#[test]
fn the_writer_of_these_tests_writes_the_blocks_of_the_reference() {
    let vectors = vectors::load("modern/bee.json");
    let blocks = testing::bee_blocks();
    let mut writer = Writer::new(blocks[0].clone());
    for operation in vectors["ops"].as_array().unwrap() {
        if operation["op"] != "put" {
            break;
        }
        let part = |name: &str| operation[name].as_str().unwrap().as_bytes();
        writer.put(part("key"), part("value"));
    }
    assert!(writer.blocks.len() > 30);
    assert_eq!(writer.blocks, blocks[..writer.blocks.len()]);
}

fn files(names: &[&[u8]]) -> Writer {
    let keys: Vec<_> = names.iter().map(|name| [b"files\0/", *name].concat()).collect();
    Writer::of(keys.iter().map(Vec::as_slice))
}

#[tokio::test]
async fn a_name_that_is_an_entry_and_a_directory_is_listed_once_as_both() {
    let tree = files(&[b"a", b"a.txt", b"a/b", b"c"]).tree();
    let listed = children(&tree, "").await.unwrap();
    let listed: Vec<_> = listed
        .iter()
        .map(|child| (child.name.as_str(), child.entry, child.below.is_some()))
        .collect();
    assert_eq!(listed, [("a", Some(1), true), ("a.txt", Some(2), false), ("c", Some(4), false)]);
    let place = tree.place(&DrivePath::parse("a").unwrap(), Wait::Local).await.unwrap();
    assert_eq!((place.entry.unwrap().seq, place.below.is_some()), (1, true));
}

#[tokio::test]
async fn names_that_a_filesystem_cannot_hold_are_not_listed() {
    let long = [b'x'; 256];
    let names: [&[u8]; 12] = [
        b"", b"/a", b".", b"../a", b"\xff", b"\xfe/a", b"b", b"c\0/d", &long, b"d/", b"d//e",
        b"e\\f",
    ];
    let mut writer = files(&names);
    // Keys of other users of the index.
    writer.put(b"files", b"v");
    writer.put(b"files\0a", b"v");
    writer.put(b"other\0/a", b"v");
    let tree = writer.tree();
    let listed = children(&tree, "").await.unwrap();
    let listed: Vec<_> =
        listed.iter().map(|child| (child.name.as_str(), child.below.is_some())).collect();
    assert_eq!(listed, [("b", false), ("d", true), ("e\\f", false)]);
    assert!(children(&tree, "d").await.unwrap().is_empty());
    let place = tree.place(&DrivePath::parse("d").unwrap(), Wait::Local).await.unwrap();
    assert!(place.entry.is_none() && place.below.is_some());
}

#[tokio::test]
async fn a_key_with_a_slash_alone_behind_it_is_below_nothing() {
    let tree = files(&[b"d/"]).tree();
    let place = tree.place(&DrivePath::parse("d").unwrap(), Wait::Local).await.unwrap();
    assert!(place.entry.is_none() && place.below.is_none());
}

#[tokio::test]
async fn a_listing_costs_a_seek_for_each_directory_and_not_for_each_file() {
    let names: Vec<_> = (0..2000).map(|n| format!("{}/{n:04}", n / 1000).into_bytes()).collect();
    let origin = files(&names.iter().map(Vec::as_slice).collect::<Vec<_>>());
    let origin = core_of(&origin.blocks);
    let reader = reader_of(&origin);
    let traffic = Traffic::default();
    let wait = Wait::within(std::time::Duration::from_secs(20));
    let work = async {
        reader.longer_than(0, wait).await.unwrap();
        let tree = Tree::at(Arc::new(Blocks::new(reader.clone())), reader.head().length);
        tree.children(&DrivePath::root(), &mut budget(&tree), wait).await.unwrap()
    };
    let listed = tokio::select! {
        listed = work => listed,
        () = serve(&origin, &reader, &traffic) => unreachable!(),
    };
    assert_eq!(listed.len(), 2);
    assert!(traffic.blocks() < 200, "{} blocks", traffic.blocks());
    assert!(traffic.rounds() < 40, "{} round trips", traffic.rounds());
}

#[tokio::test]
async fn a_remote_lookup_costs_two_round_trips_a_level() {
    let names: Vec<_> = (0..2000).map(|n| format!("{n:04}").into_bytes()).collect();
    let origin = core_of(&files(&names.iter().map(Vec::as_slice).collect::<Vec<_>>()).blocks);
    let reader = reader_of(&origin);
    let traffic = Traffic::default();
    let wait = Wait::within(std::time::Duration::from_secs(20));
    let work = async {
        reader.longer_than(0, wait).await.unwrap();
        let tree = Tree::at(Arc::new(Blocks::new(reader.clone())), reader.head().length);
        tree.get(b"files\0/1234", wait).await.unwrap()
    };
    let found = tokio::select! {
        found = work => found,
        () = serve(&origin, &reader, &traffic) => unreachable!(),
    };
    assert_eq!(found.unwrap().seq, 1235);
    assert!(traffic.rounds() <= 12, "{} round trips", traffic.rounds());
}

/// A peer is told what is taken back, and the next step would ask it for that again: a round trip more.
#[tokio::test]
async fn a_remote_listing_takes_nothing_back_that_it_needs() {
    let names: Vec<_> = (0..2000).map(|n| format!("{n:04}").into_bytes()).collect();
    let origin = core_of(&files(&names.iter().map(Vec::as_slice).collect::<Vec<_>>()).blocks);
    let reader = reader_of(&origin);
    let wait = Wait::within(std::time::Duration::from_secs(20));
    let work = async {
        reader.longer_than(0, wait).await.unwrap();
        let tree = Tree::at(Arc::new(Blocks::new(reader.clone())), reader.head().length);
        tree.fetch_listed(b"files\0", wait).await.unwrap();
    };
    // Answers come one after the other, in the order of the requests.
    let (mut asked, mut taken_back) = (VecDeque::new(), 0);
    let served = async {
        let mut remote = RemoteTree::default();
        loop {
            for change in reader.demand().take_changes() {
                match change {
                    Change::Wanted { block, .. } => asked.push_back((block, false)),
                    Change::Upgrade { .. } => asked.push_back((origin.head().length - 1, true)),
                    Change::Unwanted { block } => taken_back += u64::from(!reader.has(block)),
                    _ => {}
                }
            }
            if let Some((block, hash_only)) = asked.pop_front()
                && (hash_only || !reader.has(block))
            {
                let digest = reader.digest(block);
                let proof = origin.prove(block, digest, hash_only, &mut remote).unwrap();
                reader.accept(proof).unwrap();
            }
            // The listing goes as far as it can with that.
            for _ in 0..20 {
                tokio::task::yield_now().await;
            }
        }
    };
    tokio::select! {
        () = work => {}
        () = served => unreachable!(),
    };
    assert_eq!(taken_back, 0);
}

#[tokio::test]
async fn a_budget_ends_a_listing_and_a_range() {
    let names: Vec<_> = (0..50).map(|n| format!("{n:0200}").into_bytes()).collect();
    let own = files(&names.iter().map(Vec::as_slice).collect::<Vec<_>>()).tree();
    // Only what was written elsewhere has a limit.
    let mut budget = Budget::new(&reader_of(own.blocks().core()));
    let most = 36 * 1024 * 1024;
    budget.take(most - 1000).unwrap();
    let listed = own.children(&DrivePath::root(), &mut budget, Wait::Local).await;
    assert!(matches!(listed, Err(Error::TooLarge(_))));
    let range = own.range(b"", None, usize::MAX, &mut budget, Wait::Local).await;
    assert!(matches!(range, Err(Error::TooLarge(_))));
}

/// The tree with these blocks behind the header must end in `Malformed` however it is walked.
async fn refuses(blocks: &[Bytes]) {
    let tree = tree_of(&[&[header()][..], blocks].concat());
    let walked = all(&tree).await;
    assert!(is_malformed(&walked), "{walked:?}");
    let empty = Tree::at(Arc::clone(tree.blocks()), 1);
    assert!(is_malformed(&differences(&tree, &empty).await));
    // These may miss it, but end.
    for key in [&b""[..], b"a", b"b", b"c", b"d", b"files\0/b", b"\xff"] {
        let _ = tree.get(key, Wait::Local).await;
    }
    let _ = children(&tree, "").await;
}

#[tokio::test]
async fn a_tree_that_contains_itself_is_malformed() {
    let leaf = (&[1][..], &[][..]);
    // Level 1 has level 0 as its first child, then as its last.
    refuses(&[
        block(b"a", &[leaf]),
        block(b"b", &[(&[2], &[(2, 1), (1, 0)]), (&[1], &[(2, 0), (1, 0)])]),
    ])
    .await;
    refuses(&[
        block(b"a", &[(&[], &[])]),
        block(b"b", &[(&[1], &[(1, 0), (2, 1)]), (&[2], &[(1, 0), (2, 0)])]),
    ])
    .await;
}

#[tokio::test]
async fn a_tree_node_in_two_places_is_malformed() {
    let leaf = (&[1][..], &[][..]);
    refuses(&[block(b"a", &[leaf]), block(b"b", &[(&[2], &[(1, 0), (1, 0)])])]).await;
    // Each level has the next one twice: 2^40 ways to the bottom.
    let levels = 40;
    let below: Vec<_> = (1..levels).map(|level| [(2, level), (2, level)]).collect();
    let mut nodes: Vec<Parts> = below.iter().map(|children| (&[1][..], &children[..])).collect();
    nodes.push((&[2], &[]));
    refuses(&[block(b"a", &[leaf]), block(b"b", &nodes)]).await;
}

#[tokio::test]
async fn keys_out_of_order_are_malformed() {
    let leaf = |keys: &'static [u64]| (keys, &[][..]);
    refuses(&[block(b"a", &[]), block(b"b", &[leaf(&[2, 1])])]).await;
    refuses(&[block(b"a", &[]), block(b"b", &[leaf(&[1, 1])])]).await;
    refuses(&[block(b"a", &[]), block(b"a", &[leaf(&[1, 2])])]).await;
    // In order within each tree node, but not among them.
    refuses(&[
        block(b"a", &[leaf(&[1])]),
        block(b"c", &[leaf(&[2])]),
        block(b"b", &[(&[3], &[(2, 0), (1, 0)])]),
    ])
    .await;
    // The last child has a key that belongs before that of the root.
    refuses(&[
        block(b"b", &[leaf(&[1])]),
        block(b"a", &[leaf(&[2])]),
        block(b"c", &[(&[3], &[(1, 0), (2, 0)])]),
    ])
    .await;
}

/// A listing passes a directory at once, and a look-up reads some of the keys. What is passed or not read is in order
/// all the same, or a name would be left out in silence.
#[tokio::test]
async fn a_tree_node_out_of_order_is_malformed_where_its_keys_are_passed() {
    let keys = [b"files\0/a".as_slice(), b"files\0/d/b", b"files\0/d/c", b"files\0/x"];
    let tree = |leaf: &[u64]| {
        let (last, before) = keys.split_last().unwrap();
        let mut blocks = vec![header()];
        blocks.extend(before.iter().map(|key| block(key, &[])));
        blocks.push(block(last, &[(leaf, &[])]));
        tree_of(&blocks)
    };
    let place = async |tree: &Tree, path: &str| {
        tree.place(&DrivePath::parse(path).unwrap(), Wait::Local).await
    };
    let sound = tree(&[1, 2, 3, 4]);
    assert_eq!(children(&sound, "").await.unwrap().len(), 3);
    assert_eq!(children(&sound, "d").await.unwrap().len(), 2);
    assert!(place(&sound, "d/b").await.unwrap().entry.is_some());
    // `a` among what is in the directory, and what is in the directory after its end.
    for leaf in [&[2, 1, 3, 4], &[1, 2, 4, 3]] {
        let tree = tree(leaf);
        for path in ["", "d"] {
            assert!(is_malformed(&children(&tree, path).await), "{leaf:?}: {path}");
        }
        for path in ["a", "d/b", "d/c", "x", "nothing"] {
            assert!(is_malformed(&place(&tree, path).await), "{leaf:?}: {path}");
        }
    }
}

/// A tree in which each tree node has one key and one child that is not empty.
fn chain(depth: usize) -> Vec<Bytes> {
    let mut blocks: Vec<_> =
        (0..depth).map(|n| block(format!("{:04}", depth - n).as_bytes(), &[])).collect();
    let last = depth as u64 + 1;
    let keys: Vec<_> = (1..last).map(|seq| [seq]).collect();
    let children: Vec<_> = (1..depth).map(|level| [(last, level), (last, depth)]).collect();
    let mut nodes: Vec<Parts> =
        keys.iter().zip(&children).map(|(keys, children)| (&keys[..], &children[..])).collect();
    nodes.push((&keys[depth - 1], &[]));
    nodes.push((&[], &[]));
    blocks.push(block(b"x", &nodes));
    blocks
}

#[tokio::test]
async fn a_tree_has_a_greatest_depth() {
    let deep = |depth| tree_of(&[vec![header()], chain(depth)].concat());
    assert_eq!(all(&deep(MAX_DEPTH)).await.unwrap().len(), MAX_DEPTH);
    refuses(&chain(MAX_DEPTH + 1)).await;
    refuses(&chain(2000)).await;
}

#[tokio::test]
async fn a_level_that_is_not_there_is_malformed() {
    refuses(&[block(b"a", &[(&[1], &[])]), block(b"b", &[(&[2], &[(1, 0), (1, 7)])])]).await;
    refuses(&[block(b"a", &[])]).await;
    refuses(&[Bytes::from_static(b"no node")]).await;
}

#[tokio::test]
async fn an_emptied_tree_has_no_keys() {
    let tree = tree_of(&[header(), block(b"a", &[]), block(b"a", &[(&[], &[])])]);
    assert!(all(&tree).await.unwrap().is_empty());
    assert!(tree.get(b"a", Wait::Local).await.unwrap().is_none());
    assert!(children(&tree, "").await.unwrap().is_empty());
}

fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

/// Paths that share beginnings, and some that a filesystem cannot hold.
fn key() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(prop::sample::select(b"ab./0\xff".to_vec()), 0..6)
        .prop_map(|path| [b"files\0/", &path[..]].concat())
}

/// What `children` has to give for these keys.
fn expected(keys: &BTreeMap<Bytes, u64>, directory: &[u8]) -> Vec<(String, Option<u64>, bool)> {
    let mut names: BTreeMap<String, (Option<u64>, bool)> = BTreeMap::new();
    for (key, seq) in keys {
        let Some(rest) = key.strip_prefix(directory).filter(|rest| !rest.is_empty()) else {
            continue;
        };
        let name = rest.split(|byte| *byte == b'/').next().unwrap();
        let Ok(text) = std::str::from_utf8(name) else { continue };
        if crate::path::Name::new(text).is_err() {
            continue;
        }
        match &rest[name.len()..] {
            b"" => names.entry(text.to_owned()).or_default().0 = Some(*seq),
            b"/" => {}
            _ => names.entry(text.to_owned()).or_default().1 = true,
        }
    }
    names.into_iter().map(|(name, (entry, below))| (name, entry, below)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_tree_is_an_ordered_map(
        keys in prop::collection::vec(key(), 0..120), start in key(), end in key(),
    ) {
        let writer = Writer::of(keys.iter().map(Vec::as_slice));
        let (tree, model) = (writer.tree(), writer.model(writer.blocks.len()));
        run(async {
            let seqs = |found: Vec<Found>| found.iter().map(|found| found.seq).collect::<Vec<_>>();
            assert_eq!(seqs(all(&tree).await.unwrap()), model.values().copied().collect::<Vec<_>>());
            let range = tree.range(&start, Some(&end), 1000, &mut budget(&tree), Wait::Local).await;
            let inside = |key: &&Bytes| **key >= *start && **key < *end;
            let expected = model.keys().filter(inside).map(|key| model[key]);
            assert_eq!(seqs(range.unwrap()), expected.collect::<Vec<_>>());
            for key in keys.iter().chain([&start, &end]) {
                let found = tree.get(key, Wait::Local).await.unwrap().map(|found| found.seq);
                assert_eq!(found, model.get(&**key).copied());
            }
        });
    }

    /// The writer of tests: a removal writes a sound tree of the other keys.
    #[test]
    fn what_the_writer_removes_is_gone(
        keys in prop::collection::vec((any::<bool>(), key()), 0..120),
    ) {
        let (mut writer, mut model) = (Writer::new(header()), BTreeMap::new());
        for (put, key) in &keys {
            let seq = writer.blocks.len() as u64;
            if *put {
                writer.put(key, b"v");
                model.insert(key.clone(), seq);
            } else {
                assert_eq!(writer.remove(key), model.remove(key).is_some());
            }
        }
        let found = run(all(&writer.tree())).unwrap();
        let found: Vec<_> = found.into_iter().map(|found| (found.block.key.to_vec(), found.seq)).collect();
        assert_eq!(found, model.into_iter().collect::<Vec<_>>());
    }

    #[test]
    fn a_cursor_seeks_forward(
        keys in prop::collection::vec(key(), 0..120), mut targets in prop::collection::vec(key(), 1..6),
    ) {
        let writer = Writer::of(keys.iter().map(Vec::as_slice));
        let (tree, mut model) = (writer.tree(), writer.model(writer.blocks.len()));
        targets.sort();
        run(async {
            let mut cursor = tree.cursor(Wait::Local).await.unwrap();
            for target in targets {
                // Leaves the tree nodes that are passed, to which no seek may return.
                cursor.item();
                cursor.seek(&target).await.unwrap();
                model.retain(|key, _| **key >= *target);
                let found = cursor.next().await.unwrap().map(|found| found.seq);
                assert_eq!(found, model.pop_first().map(|(_, seq)| seq));
            }
        });
    }

    #[test]
    fn a_listing_has_the_names_of_the_keys(keys in prop::collection::vec(key(), 0..120)) {
        let writer = Writer::of(keys.iter().map(Vec::as_slice));
        let (tree, model) = (writer.tree(), writer.model(writer.blocks.len()));
        run(async {
            for (path, prefix) in [("", "files\0/"), ("a", "files\0/a/"), ("a/b", "files\0/a/b/")] {
                let listed = children(&tree, path).await.unwrap().into_iter();
                let listed =
                    listed.map(|child| (child.name.as_str().to_owned(), child.entry, child.below.is_some()));
                let expected = expected(&model, prefix.as_bytes());
                assert_eq!(listed.collect::<Vec<_>>(), expected, "{path}");
            }
            for path in ["a", "b", "a/b", "a.b"] {
                let path = DrivePath::parse(path).unwrap();
                let place = tree.place(&path, Wait::Local).await.unwrap();
                let key = format!("files\0/{}", path.as_str());
                assert_eq!(place.entry.map(|found| found.seq), model.get(key.as_bytes()).copied());
                let below = format!("{key}/");
                let is_below =
                    |key: &Bytes| key.starts_with(below.as_bytes()) && key.len() > below.len();
                assert_eq!(place.below.is_some(), model.keys().any(is_below));
            }
        });
    }

    #[test]
    fn differences_are_those_of_the_maps(
        keys in prop::collection::vec(key(), 0..120), versions in any::<[prop::sample::Index; 2]>(),
    ) {
        let writer = Writer::of(keys.iter().map(Vec::as_slice));
        let versions = versions.map(|version| 1 + version.index(writer.blocks.len()));
        let models = versions.map(|version| writer.model(version));
        let blocks = Arc::new(Blocks::new(core_of(&writer.blocks)));
        let [old, new] = versions.map(|version| Tree::at(Arc::clone(&blocks), version as u64));
        let both: BTreeSet<_> = models[0].keys().chain(models[1].keys()).collect();
        let expected = both.into_iter().map(|key| (models[0].get(key), models[1].get(key)));
        let expected: Vec<_> = expected
            .map(|(old, new)| (old.copied(), new.copied()))
            .filter(|(old, new)| old != new)
            .collect();
        let seq = |found: Option<Found>| found.map(|found| found.seq);
        let found = run(differences(&new, &old)).unwrap().into_iter();
        let found: Vec<_> = found.map(|found| (seq(found.old), seq(found.new))).collect();
        prop_assert_eq!(found, expected);
    }

    #[test]
    fn an_arbitrary_tree_ends(
        blocks in prop::collection::vec(
            (
                key(),
                prop::collection::vec(
                    (
                        prop::collection::vec(1..8u64, 0..3),
                        prop::collection::vec((1..8u64, 0..3usize), 0..4),
                    ),
                    1..4,
                ),
            ),
            1..7,
        ),
    ) {
        let mut all_blocks = vec![header()];
        for (key, nodes) in &blocks {
            let nodes: Vec<_> = nodes.iter().map(|(keys, children)| (&keys[..], &children[..])).collect();
            all_blocks.push(block(key, &nodes));
        }
        let tree = tree_of(&all_blocks);
        let old = Tree::at(Arc::clone(tree.blocks()), tree.version() / 2);
        run(async {
            if let Ok(found) = all(&tree).await {
                let mut keys: Vec<_> = found.iter().map(|found| found.block.key.clone()).collect();
                keys.dedup();
                assert!(keys.len() == found.len() && keys.is_sorted());
            }
            let _ = children(&tree, "").await;
            let _ = differences(&tree, &old).await;
        });
    }
}

#[tokio::test]
async fn a_difference_skips_what_both_versions_share() {
    let names: Vec<_> = (0..2000).map(|n| format!("{n:04}").into_bytes()).collect();
    let mut writer = files(&names.iter().map(Vec::as_slice).collect::<Vec<_>>());
    let before = writer.blocks.len() as u64;
    writer.put(b"files\0/1000", b"changed");
    let origin = core_of(&writer.blocks);
    let reader = reader_of(&origin);
    let traffic = Traffic::default();
    let wait = Wait::within(std::time::Duration::from_secs(20));
    let work = async {
        reader.longer_than(0, wait).await.unwrap();
        let blocks = Arc::new(Blocks::new(reader.clone()));
        let [old, new] = [before, before + 1].map(|version| Tree::at(Arc::clone(&blocks), version));
        new.differences(&old, 10, &mut budget(&new), wait).await.unwrap()
    };
    let found = tokio::select! {
        found = work => found,
        () = serve(&origin, &reader, &traffic) => unreachable!(),
    };
    assert_eq!(found.len(), 1);
    assert!(traffic.blocks() < 200, "{} blocks", traffic.blocks());
    let value = found[0].new.as_ref().and_then(|found| found.block.value.clone());
    assert_eq!(value.as_deref(), Some(&b"changed"[..]));
    let stored = Block::decode(origin.get_local(before).unwrap().unwrap(), before).unwrap();
    assert_eq!(stored.key, &b"files\0/1000"[..]);
}
