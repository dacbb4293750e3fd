//! Replays of what the reference recorded, a model, a peer that counts, and signed nonsense.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use bytes::Bytes;
use proptest::prelude::*;
use serde_json::Value;

use super::buckets::Buckets;
use super::responder::{self, MAX_STEPS};
use super::testing::{Traffic, Writer, WriterStep, core_of, reader_of, serve};
use super::*;
use crate::index::budget::Budget;
use hypermount_core::{Answered, ExtensionRequest, Hint, Wait};

fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

fn put(key: &str, value: &str) -> WriterStep {
    let value = Bytes::copy_from_slice(value.as_bytes());
    WriterStep::Put { key: key.to_owned(), value, flags: 0, hidden: false }
}

fn remove(key: &str) -> WriterStep {
    WriterStep::Remove { key: key.to_owned(), hidden: false }
}

/// The batches of a recorded scenario.
fn batches(scenario: &Value) -> Vec<Vec<WriterStep>> {
    let step = |kind: &str, key: &Value, value: &Value, options: &Value| {
        let hidden = options["hidden"].as_bool().unwrap_or(false);
        let flags = options["flags"].as_u64().unwrap_or(0);
        match kind {
            "put" => WriterStep::Put { key: text(key), value: text(value).into(), flags, hidden },
            _ => WriterStep::Remove { key: text(key), hidden },
        }
    };
    let batch = |op: &Value| match op[0].as_str().unwrap() {
        "batch" => {
            let steps = op[1].as_array().unwrap().iter();
            steps
                .map(|op| step(op["type"].as_str().unwrap(), &op["key"], &op["value"], op))
                .collect()
        }
        kind => vec![step(kind, &op[1], &op[2], &op[3])],
    };
    scenario["ops"].as_array().unwrap().iter().map(batch).collect()
}

fn respond(core: &hypermount_core::Core, request: &ExtensionRequest) -> Answered {
    responder::respond(core, request, &AtomicBool::new(false))
}

fn root(hidden: bool) -> TrieKey {
    TrieKey::new("", hidden).unwrap()
}

fn keys(nodes: &[Arc<TrieNode>]) -> Vec<String> {
    nodes.iter().map(|node| node.key.text().to_owned()).collect()
}

async fn children(trie: &Trie, key: &TrieKey, wait: Wait) -> Result<Vec<Child>> {
    trie.children(key, &mut Budget::new(trie.nodes().core()), wait).await
}

/// The nodes written in the blocks `from..` of this version, at most `limit`, up to the last block
/// or to where the index was emptied; nothing if it is empty now.
async fn history(trie: &Trie, from: u64, limit: usize) -> Result<Vec<Arc<TrieNode>>> {
    let mut history = Vec::new();
    if trie.nodes().get(trie.head(), Wait::Local).await?.is_none() {
        return Ok(history);
    }
    for seq in (from.max(1)..trie.version()).take(limit) {
        match trie.nodes().get(seq, Wait::Local).await? {
            Some(node) => history.push(node),
            None => break,
        }
    }
    Ok(history)
}

async fn all(trie: &Trie) -> Vec<Arc<TrieNode>> {
    trie.iterate(&root(false), usize::MAX, Wait::Local).await.unwrap()
}

#[tokio::test]
async fn every_recorded_scenario_gives_the_references_blocks() {
    for (name, scenario) in vectors::trie()["scenarios"].as_object().unwrap() {
        let writer = Writer::empty();
        for batch in batches(scenario) {
            writer.apply(&batch).await;
        }
        assert_eq!(Some(writer.core().head().length), scenario["version"].as_u64(), "{name}");
        for (seq, block) in vectors::blocks(&scenario["nodes"]) {
            assert_eq!(writer.core().get_local(seq).unwrap(), Some(block), "{name}, block {seq}");
        }
    }
}

#[tokio::test]
async fn every_recorded_scenario_is_read_as_the_reference_reads_it() {
    for (name, scenario) in vectors::trie()["scenarios"].as_object().unwrap() {
        let blocks: Vec<Bytes> =
            vectors::blocks(&scenario["nodes"]).into_iter().map(|(_, block)| block).collect();
        let nodes = Arc::new(Nodes::new(core_of(&blocks)));
        let trie = Trie::at(Arc::clone(&nodes), blocks.len() as u64);
        let strings =
            |list: &Value| -> Vec<String> { list.as_array().unwrap().iter().map(text).collect() };
        assert_eq!(keys(&all(&trie).await), strings(&scenario["iterator"]), "{name}");
        let hidden = trie.iterate(&root(true), 100, Wait::Local).await.unwrap();
        assert_eq!(keys(&hidden), strings(&scenario["iteratorHidden"]), "{name}");
        let mut shallow = Vec::new();
        let mut budget = Budget::new(nodes.core());
        let found = |node: &Arc<TrieNode>, _: &mut Budget| {
            shallow.push(Arc::clone(node));
            Ok(())
        };
        trie.visit(&root(false), false, &mut budget, Wait::Local, found).await.unwrap();
        shallow.sort_by(|a, b| a.key.iteration_order(&b.key));
        assert_eq!(keys(&shallow), strings(&scenario["iteratorNonRecursive"]), "{name}");
        let pairs = |nodes: &[Arc<TrieNode>]| -> Vec<(u64, String)> {
            nodes.iter().map(|node| (node.seq, node.key.text().to_owned())).collect()
        };
        let history = history(&trie, 1, 100).await.unwrap();
        let recorded: Vec<(u64, String)> =
            serde_json::from_value(scenario["history"].clone()).unwrap();
        assert_eq!(pairs(&history), recorded, "{name}");
        for (version, listing) in scenario["checkouts"].as_object().unwrap() {
            let old = Trie::at(Arc::clone(&nodes), version.parse().unwrap());
            let recorded: Vec<(String, u64)> = serde_json::from_value(listing.clone()).unwrap();
            let recorded: Vec<(u64, String)> =
                recorded.into_iter().map(|(key, seq)| (seq, key)).collect();
            assert_eq!(pairs(&all(&old).await), recorded, "{name} at {version}");
        }
        for (version, recorded) in scenario["diffFrom"].as_object().unwrap() {
            let old = Trie::at(Arc::clone(&nodes), version.parse().unwrap());
            let found = trie.differences(&old, |_| true, 100, Wait::Local).await.unwrap();
            let seq = |node: &Option<Arc<TrieNode>>| node.as_ref().map(|node| node.seq);
            let found: Vec<_> = found
                .iter()
                .map(|d| (d.key().unwrap().text().to_owned(), seq(&d.new), seq(&d.old)))
                .collect();
            let recorded: Vec<_> = recorded
                .as_array()
                .unwrap()
                .iter()
                .map(|d| (text(&d["key"]), d["left"].as_u64(), d["right"].as_u64()))
                .collect();
            assert_eq!(found, recorded, "{name} from {version}");
        }
    }
}

#[tokio::test]
async fn a_colliding_key_is_found_but_not_removed() {
    let writer = Writer::empty();
    writer.apply(&[put("idgcmnmna", "1"), put("mpomeiehc", "2"), put("mpomeiehc/x", "3")]).await;
    for (key, value) in [("idgcmnmna", "1"), ("mpomeiehc", "2"), ("mpomeiehc/x", "3")] {
        let key = TrieKey::new(key, false).unwrap();
        let node = writer.trie().get_node(&key, Wait::Local).await.unwrap().unwrap();
        assert_eq!(node.value.as_deref(), Some(value.as_bytes()));
    }
    assert_eq!(writer.apply(&[remove("idgcmnmna")]).await, [Removed::Colliding]);
    assert_eq!(writer.apply(&[remove("nothing")]).await, [Removed::Absent]);
    let names: Vec<_> = children(&writer.trie(), &root(false), Wait::Local).await.unwrap();
    assert_eq!(
        names.iter().map(|child| &child.name[..]).collect::<Vec<_>>(),
        ["idgcmnmna", "mpomeiehc"]
    );
}

#[tokio::test]
async fn a_batch_may_go_on_after_emptying_the_index() {
    let writer = Writer::empty();
    writer.apply(&[put("a", "1"), remove("a"), put("b", "2"), put("c", "3")]).await;
    assert_eq!(all(&writer.trie()).await.len(), 2);
}

fn steps() -> impl Strategy<Value = Vec<Vec<(bool, usize, u8)>>> {
    let step = (proptest::bool::weighted(0.7), 0..KEYS.len(), any::<u8>());
    proptest::collection::vec(proptest::collection::vec(step, 1..4), 1..20)
}

/// With directories inside each other and without their own nodes, and a collision.
const KEYS: [&str; 14] = [
    "a",
    "b",
    "c",
    "dir",
    "dir/a",
    "dir/b",
    "dir/sub/x",
    "dir/sub/y",
    "dir/sub",
    "e/f/g/h",
    "e/f",
    "ü/ø",
    "mpomeiehc/x",
    "idgcmnmna/x",
];

type Model = BTreeMap<String, Vec<u8>>;

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

async fn check_against_model(trie: &Trie, model: &Model) {
    let found: Model = all(trie)
        .await
        .iter()
        .map(|node| (node.key.text().to_owned(), node.value.clone().unwrap().to_vec()))
        .collect();
    assert_eq!(&found, model);
    for key in KEYS {
        let way = TrieKey::new(key, false).unwrap();
        let found = trie.get(&way, Purpose::Lookup, Wait::Local);
        let below = model.keys().any(|other| other.starts_with(&format!("{key}/")));
        match found.await.unwrap() {
            Found::Key(node) => assert_eq!(node.value.as_deref(), model.get(key).map(|v| &v[..])),
            Found::Below(_) => assert!(below && !model.contains_key(key), "{key}"),
            Found::Nothing(_) => assert!(!below && !model.contains_key(key), "{key}"),
        }
    }
    for prefix in ["", "dir", "dir/sub", "e", "e/f"] {
        let key = TrieKey::new(prefix, false).unwrap();
        let start = if prefix.is_empty() { String::new() } else { format!("{prefix}/") };
        let mut expected = BTreeMap::new();
        for rest in model.keys().filter_map(|key| key.strip_prefix(&start)) {
            let (name, own) = rest.split_once('/').map_or((rest, true), |(name, _)| (name, false));
            *expected.entry(name.to_owned()).or_insert(false) |= own;
        }
        let children = children(trie, &key, Wait::Local).await.unwrap();
        let mut found = BTreeMap::new();
        for child in &children {
            let node = trie.child_node(&key, child, Wait::Local).await.unwrap();
            found.insert(child.name.clone(), matches!(node, Some(ChildNode::Own(_))));
        }
        assert_eq!(children.len(), found.len());
        assert_eq!(found, expected, "below {prefix:?}");
    }
}

async fn check_differences(new: &Trie, old: &Trie, now: &Model, before: &Model) {
    let value = |node: &Option<Arc<TrieNode>>| node.as_ref().and_then(|node| node.value.clone());
    let changes = |d: &Difference| value(&d.old) != value(&d.new);
    let found = new.differences(old, changes, usize::MAX, Wait::Local).await.unwrap();
    let found: BTreeMap<String, (Option<Bytes>, Option<Bytes>)> = found
        .iter()
        .map(|d| (d.key().unwrap().text().to_owned(), (value(&d.old), value(&d.new))))
        .collect();
    let mut expected = BTreeMap::new();
    for key in now.keys().chain(before.keys()).filter(|key| now.get(*key) != before.get(*key)) {
        let value = |model: &Model| model.get(key).cloned().map(Bytes::from);
        expected.insert(key.clone(), (value(before), value(now)));
    }
    assert_eq!(found, expected);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn the_trie_is_a_map(batches in steps()) {
        block_on(async {
            let writer = Writer::empty();
            let mut model = Model::new();
            let mut versions = vec![(1, model.clone())];
            for batch in batches {
                for (puts, key, value) in batch {
                    let key = KEYS[key];
                    if puts {
                        let step = WriterStep::Put {
                            key: key.into(), value: vec![value].into(), flags: 0, hidden: false,
                        };
                        writer.apply(&[step]).await;
                        model.insert(key.into(), vec![value]);
                    } else {
                        match writer.apply(&[remove(key)]).await[..] {
                            [Removed::Done] => assert!(model.remove(key).is_some()),
                            [Removed::Absent] => assert!(!model.contains_key(key)),
                            [Removed::Colliding] => assert!(model.contains_key(key)),
                            _ => unreachable!("one step has one result"),
                        }
                    }
                }
                versions.push((writer.core().head().length, model.clone()));
            }
            let reopened = Arc::new(Nodes::new(writer.core().clone()));
            let last = Trie::at(Arc::clone(&reopened), writer.core().head().length);
            for (version, then) in &versions {
                let old = Trie::at(Arc::clone(&reopened), *version);
                check_against_model(&old, then).await;
                check_differences(&last, &old, &model, then).await;
                check_differences(&old, &last, then, &model).await;
            }
        });
    }

    /// One batch must end where single steps end.
    #[test]
    fn a_batch_equals_its_single_steps(batches in steps()) {
        block_on(async {
            let writer = Writer::empty();
            let mut model = Model::new();
            for batch in batches {
                let steps: Vec<WriterStep> = batch.iter().map(|(puts, key, value)| match puts {
                    true => put(KEYS[*key], &value.to_string()),
                    false => remove(KEYS[*key]),
                }).collect();
                let mut removed = writer.apply(&steps).await.into_iter();
                for (puts, key, value) in batch {
                    if puts {
                        model.insert(KEYS[key].into(), value.to_string().into_bytes());
                    } else if removed.next() == Some(Removed::Done) {
                        model.remove(KEYS[key]);
                    }
                }
                check_against_model(&writer.trie(), &model).await;
            }
        });
    }

    /// Whatever a publisher signs, reading ends, and ends without a panic.
    #[test]
    fn reading_a_damaged_index_ends_without_a_panic(
        batches in steps(),
        damage in proptest::collection::vec((any::<u16>(), any::<u16>(), any::<u8>()), 1..6),
    ) {
        block_on(async {
            let writer = Writer::empty();
            for (puts, key, value) in batches.into_iter().flatten() {
                let step = if puts { put(KEYS[key], &value.to_string()) } else { remove(KEYS[key]) };
                writer.apply(&[step]).await;
            }
            let length = writer.core().head().length;
            let mut blocks: Vec<Bytes> =
                (0..length).map(|seq| writer.core().get_local(seq).unwrap().unwrap()).collect();
            for (block, byte, value) in damage {
                let count = blocks.len();
                let block = &mut blocks[usize::from(block) % count];
                let mut bytes = block.to_vec();
                let at = usize::from(byte) % bytes.len().max(1);
                bytes[at] = value;
                *block = bytes.into();
            }
            read_everything(&blocks).await;
        });
    }
}

/// Reads an index in every way there is; errors are fine.
async fn read_everything(blocks: &[Bytes]) {
    let core = core_of(blocks);
    let nodes = Arc::new(Nodes::new(core.clone()));
    let trie = Trie::at(Arc::clone(&nodes), blocks.len() as u64);
    let old = Trie::at(nodes, blocks.len() as u64 / 2);
    for key in KEYS.iter().chain(&[""]) {
        let key = TrieKey::new(key, false).unwrap();
        let _ = trie.get(&key, Purpose::Lookup, Wait::Local).await;
        let _ = children(&trie, &key, Wait::Local).await;
    }
    for hidden in [false, true] {
        let _ = trie.iterate(&root(hidden), usize::MAX, Wait::Local).await;
    }
    let _ = trie.differences(&old, |_| true, usize::MAX, Wait::Local).await;
    let _ = history(&trie, 0, usize::MAX).await;
    if let Ok(mut batch) = Batch::new(trie).await {
        let _ = batch.put(TrieKey::new("new", false).unwrap(), None, 0).await;
        let _ = batch.remove(&TrieKey::new("a", false).unwrap()).await;
    }
    let head = blocks.len() as u64 - 1;
    let all = ExtensionRequest::Iterator { head, key: String::new(), flags: 1, checkpoint: None };
    let answered = respond(&core, &all);
    assert!(answered.steps < MAX_STEPS);
}

fn node(seq: u64, key: &str, pointers: &[(usize, u32, u64)]) -> Bytes {
    let mut buckets = Buckets::default();
    for (position, slot, target) in pointers {
        buckets.push(*position, *slot, *target).unwrap();
    }
    let key = TrieKey::new(key, false).unwrap();
    TrieNode { seq, key, value: Some(Bytes::from_static(b"v")), flags: 0, buckets }.encode()
}

/// A publisher lets every node point twice to the two before it: followed naively, 2^60 ways.
#[tokio::test]
async fn an_index_of_exponentially_many_ways_is_walked_once() {
    let key = TrieKey::new("a/b/c", false).unwrap();
    let mut blocks = vec![Bytes::from_static(b"\x0a\x09hypertrie")];
    for seq in 1..90u64 {
        let position = 90 - seq as usize;
        let slot = u32::from(key.digit(position));
        let targets = [seq.saturating_sub(1), seq.saturating_sub(2)];
        let pointers: Vec<_> = targets
            .iter()
            .enumerate()
            .filter(|(_, target)| **target > 0)
            .map(|(index, target)| (position, slot + 5 * index as u32, *target))
            .collect();
        blocks.push(node(seq, "a/b/c", &pointers));
    }
    let trie = Trie::at(Arc::new(Nodes::new(core_of(&blocks))), 90);
    assert!(all(&trie).await.len() < 90);
    read_everything(&blocks).await;
}

#[tokio::test]
async fn pointers_to_other_keys_are_malformed() {
    let a = TrieKey::new("a", false).unwrap();
    let wrong = (u32::from(a.digit(1)) + 1) % 4;
    let header = Bytes::from_static(b"\x0a\x09hypertrie");
    let blocks = [header, node(1, "a", &[]), node(2, "dir/b", &[(1, wrong, 1)])];
    let trie = Trie::at(Arc::new(Nodes::new(core_of(&blocks))), 3);
    let listed = trie.iterate(&root(false), 100, Wait::Local).await;
    assert!(matches!(listed, Err(Error::Malformed(_))));
}

#[tokio::test]
async fn listings_are_limited() {
    let writer = Writer::empty();
    writer.apply(&[put("a", "1"), put("b", "2"), put("c", "3")]).await;
    assert_eq!(writer.trie().iterate(&root(false), 3, Wait::Local).await.unwrap().len(), 3);
    let refused = writer.trie().iterate(&root(false), 2, Wait::Local).await;
    assert!(matches!(refused, Err(Error::TooLarge(_))));
    let old = writer.at(1);
    assert_eq!(writer.trie().differences(&old, |_| true, 3, Wait::Local).await.unwrap().len(), 3);
    let refused = writer.trie().differences(&old, |_| true, 2, Wait::Local).await;
    assert!(matches!(refused, Err(Error::TooLarge(_))));
}

async fn large_writer(directories: usize, files: usize) -> Writer {
    let writer = Writer::empty();
    for directory in 0..directories {
        let steps: Vec<WriterStep> = (0..files)
            .map(|file| put(&format!("dir{directory}/file{file}"), &"v".repeat(60)))
            .collect();
        writer.apply(&steps).await;
    }
    writer
}

#[tokio::test]
async fn a_remote_lookup_brings_little_and_hints_once() {
    let writer = large_writer(10, 200).await;
    let reader = reader_of(writer.core());
    let traffic = Traffic::default();
    let trie = Trie::at(Arc::new(Nodes::new(reader.clone())), writer.core().head().length);
    let key = TrieKey::new("dir3/file77", false).unwrap();
    let found = tokio::select! {
        found = trie.get(&key, Purpose::Lookup, Wait::Forever) => found,
        () = serve(writer.core(), &reader, &traffic) => unreachable!("serves for ever"),
    };
    assert!(matches!(found.unwrap(), Found::Key(_)));
    assert!(traffic.blocks() < 30, "{} blocks", traffic.blocks());
    let head = writer.core().head().length - 1;
    let hint = Hint::Key { head, key: "dir3/file77".into() };
    assert_eq!(*traffic.hints.lock(), [hint]);
}

#[tokio::test]
async fn a_cold_listing_of_a_small_index_takes_few_round_trips() {
    let writer = large_writer(10, 200).await;
    let reader = reader_of(writer.core());
    let traffic = Traffic::default();
    let trie = Trie::at(Arc::new(Nodes::new(reader.clone())), writer.core().head().length);
    let walk = async {
        let mut count = 0;
        for directory in children(&trie, &root(false), Wait::Forever).await? {
            let key = TrieKey::new(&directory.name, false)?;
            count += children(&trie, &key, Wait::Forever).await?.len();
        }
        Ok::<usize, Error>(count)
    };
    let count = tokio::select! {
        count = walk => count.unwrap(),
        () = serve(writer.core(), &reader, &traffic) => unreachable!("serves for ever"),
    };
    assert_eq!(count, 2000);
    assert!(traffic.rounds() <= 6, "{} round trips", traffic.rounds());
}

#[tokio::test]
async fn differences_of_a_large_index_fetch_only_what_differs() {
    let writer = large_writer(10, 200).await;
    let old = writer.core().head().length;
    writer.apply(&[put("dir5/file7", "new"), remove("dir2/file9")]).await;
    let reader = reader_of(writer.core());
    let traffic = Traffic::default();
    let nodes = Arc::new(Nodes::new(reader.clone()));
    let new = Trie::at(Arc::clone(&nodes), writer.core().head().length);
    let old = Trie::at(nodes, old);
    let value = |node: &Option<Arc<TrieNode>>| node.as_ref().and_then(|node| node.value.clone());
    let changes = |d: &Difference| value(&d.old) != value(&d.new);
    let found = tokio::select! {
        found = new.differences(&old, changes, 100, Wait::Forever) => found.unwrap(),
        () = serve(writer.core(), &reader, &traffic) => unreachable!("serves for ever"),
    };
    assert_eq!(found.len(), 2);
    assert!(traffic.blocks() < 100, "{} blocks", traffic.blocks());
}

#[tokio::test]
async fn the_answer_to_a_lookup_is_the_way_and_no_more() {
    let writer = large_writer(3, 100).await;
    let head = writer.core().head().length - 1;
    let key = "dir1/file50".to_owned();
    let request = ExtensionRequest::Get { head, key: key.clone() };
    let answer = respond(writer.core(), &request).blocks.concat();
    let reader = reader_of(writer.core());
    let traffic = Traffic::default();
    let trie = Trie::at(Arc::new(Nodes::new(reader.clone())), head + 1);
    let key = TrieKey::new(&key, false).unwrap();
    tokio::select! {
        found = trie.get(&key, Purpose::Lookup, Wait::Forever) => drop(found.unwrap()),
        () = serve(writer.core(), &reader, &traffic) => unreachable!("serves for ever"),
    }
    assert_eq!(answer.len() as u64, traffic.blocks());
    assert!(answer.iter().all(|seq| reader.has(*seq)));
}

#[tokio::test]
async fn the_answer_to_a_listing_is_bounded_and_can_be_resumed() {
    let writer = large_writer(12, 250).await;
    let head = writer.core().head().length - 1;
    let list = |key: &str, flags, checkpoint| {
        let request = ExtensionRequest::Iterator { head, key: key.into(), flags, checkpoint };
        respond(writer.core(), &request).blocks
    };
    let whole = list("", 1, None);
    assert!(whole.iter().all(|message| message.len() <= responder::MAX_ANSWERED_AT_ONCE));
    assert_eq!(whole.concat().len(), responder::MAX_ANSWERED);
    let directory = list("dir4", 1, None).concat();
    assert!((250..290).contains(&directory.len()), "{}", directory.len());
    let shallow = list("", 0, None).concat();
    assert!(shallow.len() < 40, "{}", shallow.len());
    let mut checkpoint = Vec::new();
    for number in [1, head] {
        prost::encoding::encode_varint(number, &mut checkpoint);
    }
    let resumed = list("", 1, Some(checkpoint.into())).concat();
    assert_eq!(resumed.len(), responder::MAX_ANSWERED);
    assert_eq!(resumed[..100], whole.concat()[1..101], "the head itself was known");
    for garbage in [&[0xff; 30][..], &[1], &[1, 0], &[0x80, 0x80]] {
        assert!(list("", 1, Some(Bytes::copy_from_slice(garbage))).is_empty());
    }
}

/// Where a listing is to be resumed, as (position, block) pairs.
fn checkpoint(places: impl IntoIterator<Item = (u64, u64)>) -> Option<Bytes> {
    let mut bytes = Vec::new();
    for (position, seq) in places {
        prost::encoding::encode_varint(position, &mut bytes);
        prost::encoding::encode_varint(seq, &mut bytes);
    }
    Some(bytes.into())
}

fn resume(core: &hypermount_core::Core, checkpoint: Option<Bytes>) -> Answered {
    let request = ExtensionRequest::Iterator { head: 1, key: String::new(), flags: 1, checkpoint };
    respond(core, &request)
}

/// The most positions that a key can have: a component, and 32 positions, for each byte.
#[tokio::test]
async fn the_answer_to_a_hint_is_bounded_in_steps_however_many_places_it_names() {
    let key = "/".repeat(crate::path::MAX_PATH_BYTES);
    let core = core_of(&[Bytes::from_static(b"\x0a\x09hypertrie"), node(1, &key, &[])]);
    let one = resume(&core, checkpoint([(0, 1)])).steps;
    assert!(one > 4000, "every component counts: {one}");
    let within = MAX_STEPS / one;
    let full = resume(&core, checkpoint((0..within).map(|_| (0, 1)))).steps;
    assert!((within * one).abs_diff(full) <= within && full <= MAX_STEPS, "{full}");
    let beyond = resume(&core, checkpoint((0..4096).map(|_| (0, 1)))).steps;
    assert!((MAX_STEPS..MAX_STEPS + one).contains(&beyond), "{beyond}");
}

/// Where a node has no pointers an answer costs nothing: what a deep drive's listing takes does not
/// grow with the length of its keys.
#[tokio::test]
async fn the_answer_to_a_listing_of_a_deep_drive_costs_a_few_steps_per_node() {
    let writer = Writer::empty();
    let deep = (0..13).map(|level| format!("level{level}/")).collect::<String>();
    let steps: Vec<WriterStep> =
        (0..1000).map(|file| put(&format!("{deep}file{file}"), "v")).collect();
    writer.apply(&steps).await;
    let head = writer.core().head().length - 1;
    let request =
        ExtensionRequest::Iterator { head, key: String::new(), flags: 1, checkpoint: None };
    let answered = respond(writer.core(), &request);
    assert!(answered.blocks.concat().len() >= 1000);
    assert!(answered.steps < 100 * 1000, "{}", answered.steps);
}

#[test]
fn an_answer_to_a_hint_that_was_cancelled_ends() {
    let core = core_of(&[Bytes::from_static(b"\x0a\x09hypertrie"), node(1, "a", &[])]);
    let request = ExtensionRequest::Get { head: 1, key: "a".to_owned() };
    let cancelled = responder::respond(&core, &request, &AtomicBool::new(true));
    assert_eq!(cancelled.steps, 0);
    assert!(respond(&core, &request).steps > 0);
}

/// A directory, and a change, of nodes that are large: what is held at once has a bound in bytes.
#[tokio::test]
async fn a_listing_and_a_comparison_have_a_byte_budget() {
    const VALUE: usize = 512 * 1024;
    let writer = Writer::empty();
    let value = "v".repeat(VALUE);
    for file in 0..MAX_LISTING_BYTES / VALUE + 2 {
        writer.apply(&[put(&format!("file{file}"), &value)]).await;
    }
    // A copy, as a reader has it: an index that is written here has no bound.
    let copy = reader_of(writer.core());
    let mut remote = Default::default();
    for block in 0..writer.core().head().length {
        copy.accept(writer.core().prove(block, 0, false, &mut remote).unwrap()).unwrap();
    }
    let trie = Trie::at(Arc::new(Nodes::new(copy.clone())), copy.head().length);
    let names = children(&trie, &root(false), Wait::Local).await.unwrap();
    assert_eq!(names.len(), MAX_LISTING_BYTES / VALUE + 2, "names alone take little");
    let refused = trie.iterate(&root(false), usize::MAX, Wait::Local).await;
    assert!(matches!(refused, Err(Error::TooLarge(_))), "{refused:?}");
    let empty = Trie::at(Arc::clone(trie.nodes()), 1);
    let refused = trie.differences(&empty, |_| true, usize::MAX, Wait::Local).await;
    assert!(matches!(refused, Err(Error::TooLarge(_))), "{refused:?}");
    let own = writer.trie().iterate(&root(false), usize::MAX, Wait::Local).await.unwrap();
    assert_eq!(own.len(), names.len());
}

/// A value that is a small part of its block does not keep the block in memory.
#[test]
fn a_node_keeps_no_more_of_its_block_than_it_needs() {
    let block = node(1, &"k".repeat(4000), &[]);
    let at = |bytes: &Bytes| bytes.as_ptr() as usize;
    let decoded = TrieNode::decode(block.clone(), 1).unwrap();
    let value = decoded.value.unwrap();
    assert!(!(at(&block)..at(&block) + block.len()).contains(&at(&value)));
}
