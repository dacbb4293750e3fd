//! Files with several names, in both formats, without a filesystem.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::crash_tests::write;
use super::publisher::FORMATS;
use super::testing::{World, open_in, path, put, remove};
use super::*;
use crate::link::{Link, LinkId, MAX_LINKS, NAMES_PER_PART};
use crate::path::DrivePath;
use crate::stat::{Stat, TYPE_FILE};
use crate::time::Time;

fn stat(size: u64) -> Stat {
    let extent = Extent { blocks: 1, size, ..Extent::default() };
    Stat {
        mode: TYPE_FILE | 0o644,
        extent,
        mtime: Time::from_milliseconds(size),
        ctime: Time::from_milliseconds(1),
        ..Stat::default()
    }
}

fn drive(format: DriveFormat) -> Drive {
    Drive::create_in(format, &Store::memory(), "links").unwrap()
}

async fn entry(drive: &Drive, text: &str) -> Stat {
    drive.snapshot().entry(&path(text), Wait::Local).await.unwrap().stat
}

/// link(2), as a filesystem does it.
async fn link(drive: &Drive, from: &str, to: &str) -> Result<u64> {
    let stat = entry(drive, from).await;
    let link = stat.link.unwrap_or_else(|| Link::unread(LinkId::random().unwrap()));
    let stat = Stat { link: Some(link), ..stat };
    drive.apply(vec![put(from, stat.clone()), put(to, stat)]).await
}

async fn names(drive: &Drive, text: &str) -> (u32, BTreeSet<String>) {
    let names = drive.snapshot().names_of(&path(text), Wait::Local).await.unwrap();
    let count = entry(drive, text).await.link.map_or(1, |link| link.names);
    (count, names.iter().map(|name| name.as_str().to_owned()).collect())
}

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

/// As a program that knows no records.
async fn apply_by_other(drive: &Drive, edits: Vec<Edit>) {
    let index = &drive.inner.index;
    let mut batch = index.at(index.core().head().length).edits().await.unwrap();
    for edit in edits {
        batch.add(edit).await.unwrap();
    }
    index.core().append(&batch.encode()).unwrap();
}

async fn set_record(drive: &Drive, id: LinkId, part: u32, value: Option<&str>) {
    let index = &drive.inner.index;
    let mut batch = index.at(index.core().head().length).edits().await.unwrap();
    let value = value.map(|value| Bytes::copy_from_slice(value.as_bytes()));
    batch.set_link_part(id, part, value).await.unwrap();
    index.core().append(&batch.encode()).unwrap();
}

#[tokio::test]
async fn a_change_under_one_name_is_one_version_under_all_of_them() {
    for format in FORMATS {
        let drive = drive(format);
        drive.apply(vec![put("a", stat(1))]).await.unwrap();
        link(&drive, "a", "d/b").await.unwrap();
        link(&drive, "d/b", "c").await.unwrap();
        let all = set(&["a", "c", "d/b"]);
        for name in ["a", "c", "d/b"] {
            assert_eq!(names(&drive, name).await, (3, all.clone()), "{format} {name}");
        }
        let (before, old) = (drive.snapshot(), entry(&drive, "c").await);
        drive.apply(vec![put("c", Stat { mode: TYPE_FILE | 0o600, ..old })]).await.unwrap();
        for name in ["a", "c", "d/b"] {
            assert_eq!(entry(&drive, name).await.mode, TYPE_FILE | 0o600);
            let old = before.entry(&path(name), Wait::Local).await.unwrap();
            assert_eq!(old.stat.mode, TYPE_FILE | 0o644, "the older version has none of it");
        }
        let listed = drive.snapshot().list(&DrivePath::root(), Wait::Local).await.unwrap();
        let counts: BTreeMap<_, _> = listed
            .iter()
            .map(|(name, it)| (name.as_str(), it.stat.link.map_or(1, |link| link.names)))
            .collect();
        assert_eq!(counts, BTreeMap::from([("a", 3), ("c", 3), ("d", 1)]));
    }
}

#[tokio::test]
async fn the_last_name_is_a_plain_file_and_nothing_is_left_of_the_record() {
    for format in FORMATS {
        let drive = drive(format);
        drive.apply(vec![put("a", stat(1))]).await.unwrap();
        link(&drive, "a", "b").await.unwrap();
        assert!(drive.snapshot().index().has_links(Wait::Local).await.unwrap());
        drive.apply(vec![remove("a")]).await.unwrap();
        let left = entry(&drive, "b").await;
        assert_eq!(left.link, None, "{format}");
        assert!(left.ctime > Time::from_milliseconds(1), "the count of names changed");
        assert!(!drive.snapshot().index().has_links(Wait::Local).await.unwrap(), "{format}");
        link(&drive, "b", "c").await.unwrap();
        drive.apply(vec![remove("b"), remove("c")]).await.unwrap();
        assert!(!drive.snapshot().index().has_links(Wait::Local).await.unwrap(), "{format}");
    }
}

/// Sentence 144. "A file has at most 1024 names; one more fails with EMLINK."
/// Sentence 145. "A further name costs at most four index entries, however many there are; a change of the file costs one
/// entry for each of its names, and its bytes once."
#[tokio::test]
async fn many_names_cost_a_bounded_number_of_blocks_each() {
    for format in FORMATS {
        let drive = drive(format);
        drive.apply(vec![put("0", stat(1))]).await.unwrap();
        let core = drive.metadata_core();
        for n in 1..u64::from(MAX_LINKS) {
            if n == 50 {
                let stat = entry(&drive, "0").await;
                let many = (n..1000).map(|n| put(&n.to_string(), stat.clone()));
                drive.apply(many.collect()).await.unwrap();
            }
            if (50..1000).contains(&n) {
                continue;
            }
            let before = core.head();
            link(&drive, "0", &n.to_string()).await.unwrap();
            // Both entries, the first part and the last one.
            assert!(core.head().length - before.length <= 4, "{format} {n}");
            let bytes = core.head().byte_length - before.byte_length;
            assert!(bytes < 6000, "{format} {n}: {bytes} bytes");
        }
        assert_eq!(names(&drive, "700").await.1.len(), MAX_LINKS as usize);
        assert_eq!(names(&drive, "700").await.0, MAX_LINKS);
        let refused = link(&drive, "0", "one more").await;
        assert!(matches!(refused, Err(Error::TooManyLinks { max: MAX_LINKS })), "{refused:?}");
        let before = core.head().length;
        drive.apply(vec![remove("3")]).await.unwrap();
        assert!(core.head().length - before <= 4, "{format}");
        let before = core.head().length;
        let old = entry(&drive, "5").await;
        drive.apply(vec![put("5", Stat { uid: 7, ..old })]).await.unwrap();
        assert_eq!(core.head().length - before, u64::from(MAX_LINKS) - 1);
        assert_eq!(entry(&drive, "1000").await.uid, 7);
    }
}

/// Sentence 147. "Of a name that such a program replaces, removes or renames, the others are independent, and stay what
/// they are to each other."
#[tokio::test]
async fn a_name_that_another_program_changed_is_none_and_the_others_stay() {
    for format in FORMATS {
        let drive = drive(format);
        drive.apply(vec![put("a", stat(1))]).await.unwrap();
        for name in ["b", "c", "d"] {
            link(&drive, "a", name).await.unwrap();
        }
        // One is replaced, one removed, and one renamed with all that its entry says.
        let moved = entry(&drive, "d").await;
        apply_by_other(&drive, vec![put("a", stat(2)), remove("b"), remove("d"), put("e", moved)])
            .await;
        assert_eq!(names(&drive, "c").await, (1, set(&["c"])), "{format}");
        assert_eq!(entry(&drive, "a").await.link, None);
        assert_eq!(entry(&drive, "e").await.link, None, "the record does not know it");
        let old = entry(&drive, "c").await;
        drive.apply(vec![put("c", Stat { uid: 5, ..old })]).await.unwrap();
        for (name, size, uid) in [("a", 2, 0), ("e", 1, 0), ("c", 1, 5)] {
            let stat = entry(&drive, name).await;
            assert_eq!((stat.extent.size, stat.uid, stat.link), (size, uid, None), "{name}");
        }
        assert!(!drive.snapshot().index().has_links(Wait::Local).await.unwrap());

        // Changed, with the id kept.
        link(&drive, "c", "f").await.unwrap();
        link(&drive, "c", "g").await.unwrap();
        let kept = Stat { extent: stat(9).extent, ..entry(&drive, "f").await };
        apply_by_other(&drive, vec![put("f", kept)]).await;
        assert_eq!(names(&drive, "c").await, (2, set(&["c", "g"])), "{format}");
        drive.apply(vec![remove("g")]).await.unwrap();
        assert_eq!(entry(&drive, "f").await.extent.size, 9);
        assert_eq!(names(&drive, "c").await, (1, set(&["c"])));
    }
}

/// Sentence 148. "In a drive of another publisher, names of one file that are not equal are shown as files of their own,
/// whatever the drive says."
#[tokio::test]
async fn a_record_that_lies_is_not_believed() {
    for format in FORMATS {
        let drive = drive(format);
        let id = LinkId::random().unwrap();
        let linked = Stat { link: Some(Link::unread(id)), ..stat(1) };
        let other = Stat { link: Some(Link::unread(id)), ..stat(2) };
        let edits = vec![put("a", linked.clone()), put("b", linked.clone()), put("x", other)];
        apply_by_other(&drive, edits).await;
        let count = async |name: &str| entry(&drive, name).await.link.map(|link| link.names);
        assert_eq!(count("a").await, None, "without a record");
        let cases = [
            (r#"{"version":1,"names":2,"ctime":1,"paths":["a","b"]}"#, Some(2)),
            // Names that do not exist, that are others, and the same twice.
            (r#"{"version":1,"names":5,"ctime":1,"paths":["a","gone","x","","a/b"]}"#, Some(1)),
            (r#"{"version":1,"names":2,"ctime":1,"paths":["b"]}"#, None),
            (r#"{"version":1,"names":1152921504606846976,"ctime":1,"paths":["a"]}"#, None),
            (r#"{"version":1,"names":1024,"ctime":1,"paths":["a"]}"#, Some(1024)),
            (r#"{"version":9,"names":2,"ctime":1,"paths":["a","b"]}"#, None),
            ("[]", None),
            ("", None),
        ];
        for (record, expected) in cases {
            set_record(&drive, id, 0, Some(record)).await;
            assert_eq!(count("a").await, expected, "{format} {record}");
            // Whatever it says, a change reaches the names that agree, and no others.
            let found = names(&drive, "a").await.1;
            assert!(found.is_subset(&set(&["a", "b"])), "{format} {record}: {found:?}");
        }
        // The first name decides which of them are one file.
        let lie = r#"{"version":1,"names":3,"ctime":1,"paths":["gone","x","a","b"]}"#;
        set_record(&drive, id, 0, Some(lie)).await;
        assert_eq!((count("x").await, count("a").await), (Some(1), None));
        set_record(
            &drive,
            id,
            0,
            Some(r#"{"version":1,"names":3,"ctime":1,"paths":["a","b","x"]}"#),
        )
        .await;
        let old = entry(&drive, "a").await;
        drive.apply(vec![put("a", Stat { uid: 3, ..old })]).await.unwrap();
        assert_eq!(entry(&drive, "b").await.uid, 3, "{format}");
        assert_eq!((entry(&drive, "x").await.uid, entry(&drive, "x").await.extent.size), (0, 2));
    }
}

/// The machine stops at every storage call of linking, changing and unlinking, by a kill or by a power cut.
#[test]
fn a_crash_leaves_all_names_as_before_or_as_after() {
    const POWER_CUTS: u64 = 6;
    for format in FORMATS {
        let mut seen = BTreeSet::new();
        for call in 0.. {
            let mut reached = false;
            for seed in 0..=POWER_CUTS {
                let world = World::default();
                let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
                runtime.block_on(async {
                    let drive = open_in(&world, format).await.unwrap();
                    write(&drive, "a", 1).await.unwrap();
                    drive.sync().unwrap();
                    world.stop_at(call);
                    let work = async {
                        link(&drive, "a", "b").await?;
                        let old = entry(&drive, "a").await;
                        drive.apply(vec![put("b", Stat { uid: 5, ..old })]).await?;
                        drive.apply(vec![remove("a")]).await
                    };
                    let _ = work.await;
                    reached |= world.stopped();
                    drop(drive);
                    match seed {
                        POWER_CUTS => world.restart(),
                        seed => world.cut_power(seed),
                    }
                    let drive = open_in(&world, format).await.unwrap();
                    let mut files = BTreeMap::new();
                    for name in ["a", "b"] {
                        let there = drive.snapshot().entry(&path(name), Wait::Local).await;
                        let Ok(there) = there else { continue };
                        files.insert(name, (there.stat.uid, names(&drive, name).await));
                    }
                    let alone = |name: &'static str, uid| {
                        BTreeMap::from([(name, (uid, (1, set(&[name]))))])
                    };
                    let both = |uid| {
                        BTreeMap::from(["a", "b"].map(|name| (name, (uid, (2, set(&["a", "b"]))))))
                    };
                    let states = [alone("a", 0), both(0), both(5), alone("b", 5)];
                    let state = states.iter().position(|state| *state == files);
                    seen.insert(
                        state.unwrap_or_else(|| panic!("{format} {call} {seed}: {files:?}")),
                    );
                    link(&drive, if state == Some(3) { "b" } else { "a" }, "later").await.unwrap();
                });
            }
            if !reached {
                break;
            }
        }
        assert_eq!(seen.len(), 4, "{format}: it was stopped before and after each change");
    }
}

/// Names in the test: a record of most of them has several parts.
const NAMES: u8 = 40;
const _: () = assert!(NAMES_PER_PART * 2 < NAMES as usize);

#[derive(Clone, Debug)]
enum Step {
    Put(u8),
    Change(u8),
    Link(u8, u8),
    Remove(u8),
    Rename(u8, u8),
    /// Replaces the first with what the second has: an exchange.
    Exchange(u8, u8),
}

fn step() -> impl Strategy<Value = Step> {
    let name = || 0..NAMES;
    prop_oneof![
        2 => name().prop_map(Step::Put),
        3 => name().prop_map(Step::Change),
        8 => (name(), name()).prop_map(|(from, to)| Step::Link(from, to)),
        2 => name().prop_map(Step::Remove),
        3 => (name(), name()).prop_map(|(from, to)| Step::Rename(from, to)),
        1 => (name(), name()).prop_map(|(one, other)| Step::Exchange(one, other)),
    ]
}

/// Files by name, as numbers of inodes, and what each holds.
#[derive(Default)]
struct Model {
    names: BTreeMap<u8, usize>,
    sizes: Vec<u64>,
}

async fn act(drive: &Drive, model: &mut Model, step: &Step) {
    let text = |name: u8| name.to_string();
    match *step {
        Step::Put(name) => {
            let size = 1000 + model.sizes.len() as u64;
            drive.apply(vec![put(&text(name), stat(size))]).await.unwrap();
            model.sizes.push(size);
            model.names.insert(name, model.sizes.len() - 1);
        }
        Step::Change(name) if model.names.contains_key(&name) => {
            let file = model.names[&name];
            let old = entry(drive, &text(name)).await;
            model.sizes[file] += 100_000;
            let new = Stat { link: old.link, ..stat(model.sizes[file]) };
            drive.apply(vec![put(&text(name), new)]).await.unwrap();
        }
        Step::Link(from, to)
            if model.names.contains_key(&from) && !model.names.contains_key(&to) =>
        {
            link(drive, &text(from), &text(to)).await.unwrap();
            model.names.insert(to, model.names[&from]);
        }
        Step::Remove(name) if model.names.remove(&name).is_some() => {
            drive.apply(vec![remove(&text(name))]).await.unwrap();
        }
        Step::Rename(from, to)
            if model.names.contains_key(&from)
                && model.names.get(&from) != model.names.get(&to) =>
        {
            let moved = entry(drive, &text(from)).await;
            drive.apply(vec![put(&text(to), moved), remove(&text(from))]).await.unwrap();
            let file = model.names.remove(&from).unwrap();
            model.names.insert(to, file);
        }
        Step::Exchange(one, other)
            if model.names.contains_key(&one) && model.names.contains_key(&other) =>
        {
            let stats = (entry(drive, &text(one)).await, entry(drive, &text(other)).await);
            let edits = vec![put(&text(one), stats.1), put(&text(other), stats.0)];
            drive.apply(edits).await.unwrap();
            let files = (model.names[&one], model.names[&other]);
            model.names.extend([(one, files.1), (other, files.0)]);
        }
        _ => {}
    }
}

#[test]
fn names_are_those_of_a_plain_table_after_any_changes() {
    for format in FORMATS {
        let config = Config { cases: 40, failure_persistence: None, ..Config::default() };
        let steps = proptest::collection::vec(step(), 1..120);
        let result = TestRunner::new(config).run(&steps, |steps| {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(async {
                let (drive, mut model) = (drive(format), Model::default());
                for step in &steps {
                    act(&drive, &mut model, step).await;
                }
                let mut linked = false;
                for (name, file) in &model.names {
                    let same: BTreeSet<String> = model
                        .names
                        .iter()
                        .filter(|(_, other)| *other == file)
                        .map(|(name, _)| name.to_string())
                        .collect();
                    linked |= same.len() > 1;
                    let shown = entry(&drive, &name.to_string()).await;
                    prop_assert_eq!(shown.extent.size, model.sizes[*file]);
                    let expected = (same.len() as u32, same);
                    prop_assert_eq!(names(&drive, &name.to_string()).await, expected);
                }
                let has_links = drive.snapshot().index().has_links(Wait::Local).await.unwrap();
                prop_assert_eq!(has_links, linked, "records that belong to no file");
                Ok(())
            })
        });
        if let Err(failure) = result {
            panic!("{format}: {failure}");
        }
    }
}
