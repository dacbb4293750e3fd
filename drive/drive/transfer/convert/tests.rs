use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use tokio::runtime::Builder;

use super::*;
use crate::hyperdrive::publisher::FORMATS;
use crate::hyperdrive::testing::{World, open_in, path, put, remove};
use crate::index::DriveFormat;
use crate::link::LinkId;
use crate::stat::{
    Device, MountTarget, TYPE_CHARACTER_DEVICE, TYPE_DIRECTORY, TYPE_FIFO, TYPE_FILE, TYPE_SOCKET,
    TYPE_SYMLINK,
};
use crate::time::Time;
use hypermount_core::Store;
use hypermount_swarm::crypto::PublicKey;

fn other(format: DriveFormat) -> DriveFormat {
    match format {
        DriveFormat::Hyperdrive10 => DriveFormat::Hyperdrive11,
        DriveFormat::Hyperdrive11 => DriveFormat::Hyperdrive10,
    }
}

/// An old and a new drive, and the record of the conversion.
struct Pair {
    old: Drive,
    new: Drive,
    conversion: Conversion,
}

impl Pair {
    fn new(format: DriveFormat) -> Self {
        let store = Store::memory();
        let old = Drive::create_in(format, &store, "old").unwrap();
        let new = Drive::create_in(other(format), &store, "new").unwrap();
        let conversion = Conversion::new(&store, *old.key(), other(format), "new");
        Self { old, new, conversion }
    }

    async fn convert(&mut self) -> Converted {
        let Self { old, new, conversion } = self;
        convert(old, Some(new), conversion, false, Wait::Local, &mut ()).await.unwrap()
    }

    async fn would(&mut self) -> Converted {
        let Self { old, new, conversion } = self;
        convert(old, Some(new), conversion, true, Wait::Local, &mut ()).await.unwrap()
    }
}

/// Everything in a drive: what each entry is, its bytes, and how many names its file has.
type Tree = BTreeMap<String, (Stat, Vec<u8>, u32)>;

async fn tree(drive: &Drive) -> Tree {
    let snapshot = drive.snapshot();
    let root = snapshot.entry(&DrivePath::root(), Wait::Local).await.unwrap();
    let (mut found, mut open) = (Tree::new(), vec![(DrivePath::root(), root)]);
    while let Some((path, entry)) = open.pop() {
        let mut bytes = Vec::new();
        match entry.kind {
            Kind::Directory => {
                for (name, entry) in snapshot.list(&path, Wait::Local).await.unwrap() {
                    open.push((path.join(&name).unwrap(), entry));
                }
            }
            Kind::File => {
                let extent = &entry.stat.extent;
                bytes = drive.read(extent, 0..u64::MAX, Wait::Local).await.unwrap().concat();
                assert_eq!(bytes.len() as u64, extent.size, "{path}");
            }
            _ => {}
        }
        let names = entry.stat.link.map_or(1, |link| link.names);
        let mut stat = stat_of(&entry);
        if !entry.explicit {
            // Its time is that of a block.
            (stat.mtime, stat.ctime) = Default::default();
        }
        if let Some(link) = stat.link.as_mut() {
            // The record's time, which is that of this drive.
            (stat.ctime, link.names) = (Time::default(), 0);
        }
        stat.extent = Extent::default();
        found.insert(path.as_str().to_owned(), (stat, bytes, names));
    }
    found
}

fn time(seconds: i64) -> Time {
    Time::new(seconds, 123_456_789).unwrap()
}

fn stat(mode: u32) -> Stat {
    Stat {
        mode,
        uid: 1000,
        gid: 100,
        mtime: time(-5),
        ctime: time(1_700_000_000),
        ..Stat::default()
    }
}

async fn content(drive: &Drive, bytes: &[u8]) -> Extent {
    if bytes.is_empty() {
        return Extent::default();
    }
    let blocks: Vec<Bytes> = bytes.chunks(65_536).map(Bytes::copy_from_slice).collect();
    drive.append_content(&blocks).unwrap()
}

async fn file(drive: &Drive, bytes: &[u8]) -> Stat {
    Stat { extent: content(drive, bytes).await, ..stat(TYPE_FILE | 0o640) }
}

/// A tree with one of everything.
async fn fill(drive: &Drive) {
    let large: Vec<u8> = (0..9_000_000u32).map(|at| (at / 1000) as u8).collect();
    let shared = file(drive, &[5; 150_000]).await;
    let link = Some(Link { id: LinkId::new([9; 16]), names: 0 });
    let linked = Stat { link, ..file(drive, b"three names").await };
    let attributes = vec![
        ("user.a".to_owned(), Some(vec![0, 255])),
        ("user.caf␛E9".to_owned(), Some(Vec::new())),
        ("user.gone".to_owned(), None),
    ];
    let device = Some(Device { major: 8, minor: 300 });
    let edits = vec![
        put("", Stat { attributes: attributes.clone(), ..stat(TYPE_DIRECTORY | 0o711) }),
        put("large", file(drive, &large).await),
        put("empty", Stat { atime: Some(time(77)), ..file(drive, b"").await }),
        put("shared", shared.clone()),
        put("copies/shared", shared.clone()),
        put("shorter", Stat { extent: Extent { size: 149_000, ..shared.extent }, ..shared }),
        put("a/first", linked.clone()),
        put("b/c/second", linked.clone()),
        put("third", linked),
        put("d", Stat { attributes, ..stat(TYPE_DIRECTORY | 0o1777) }),
        put("d/empty", stat(TYPE_DIRECTORY | 0o700)),
        put("program", Stat { mode: TYPE_FILE | 0o4755, ..file(drive, b"#!/bin/sh").await }),
        put("caf␛E9", file(drive, b"not UTF-8").await),
        put("link", Stat { linkname: Some("/caf␛E9/..".into()), ..stat(TYPE_SYMLINK | 0o777) }),
        put("d/fifo", stat(TYPE_FIFO | 0o600)),
        put("d/socket", stat(TYPE_SOCKET | 0o755)),
        put("d/device", Stat { device, ..stat(TYPE_CHARACTER_DEVICE | 0o660) }),
    ];
    drive.apply(edits).await.unwrap();
}

#[tokio::test]
async fn everything_that_a_file_is_arrives_in_the_other_format() {
    for format in FORMATS {
        let mut pair = Pair::new(format);
        fill(&pair.old).await;
        let planned = pair.would().await;
        assert_eq!(tree(&pair.new).await.len(), 1, "{format}: a plan changes nothing");
        let done = pair.convert().await;
        assert_eq!(done, planned, "{format}");
        assert!(
            pair.conversion.is_finished() && done.copied.trouble_count == 0,
            "{format}: {done:?}"
        );
        assert_eq!((done.left_out_count, done.kept, done.others), (0, 0, 5), "{format}");
        assert_eq!(tree(&pair.new).await, tree(&pair.old).await, "{format}");
        let length = |drive: &Drive| drive.content().unwrap().head().byte_length;
        // Bytes that several entries have whole are stored once.
        let of_the_shorter = 149_000;
        assert_eq!(length(&pair.new), length(&pair.old) + of_the_shorter, "{format}");
        assert_eq!(length(&pair.new), done.stored, "{format}");
        let version = pair.new.snapshot().version();
        let again = pair.convert().await;
        assert!(again.copied.is_idle() && again.others == 0, "{format}: {again:?}");
        assert_eq!(pair.new.snapshot().version(), version, "{format}");
    }
}

#[tokio::test]
async fn a_file_of_two_names_that_gets_a_third_or_other_bytes_stays_one_file() {
    for format in FORMATS {
        let mut pair = Pair::new(format);
        fill(&pair.old).await;
        pair.convert().await;
        let entry = pair.old.snapshot().entry(&path("third"), Wait::Local).await.unwrap();
        pair.old.apply(vec![put("b/fourth", entry.stat.clone())]).await.unwrap();
        let done = pair.convert().await;
        assert_eq!((done.others + done.copied.files, done.stored), (1, 0), "{format}: {done:?}");
        assert_eq!(tree(&pair.new).await, tree(&pair.old).await, "{format}");
        let mtime = time(1_800_000_000);
        let extent = content(&pair.old, b"four names").await;
        pair.old.apply(vec![put("third", Stat { extent, mtime, ..entry.stat })]).await.unwrap();
        pair.old.apply(vec![remove("a/first")]).await.unwrap();
        let done = pair.convert().await;
        assert_eq!((done.stored, done.copied.deleted), (10, 1), "{format}: {done:?}");
        assert_eq!(tree(&pair.new).await, tree(&pair.old).await, "{format}");
    }
}

#[tokio::test]
async fn work_in_the_new_drive_stays_and_is_named_where_the_old_one_changed_too() {
    for format in FORMATS {
        let mut pair = Pair::new(format);
        let old =
            ["same", "theirs", "both", "gone", "gone too", "dir/a", "dir/b", "was dir/x", "x"];
        for name in old {
            let edit = put(name, file(&pair.old, name.as_bytes()).await);
            pair.old.apply(vec![edit]).await.unwrap();
        }
        pair.convert().await;
        let changed =
            |extent| Stat { extent, ctime: time(1_900_000_000), ..stat(TYPE_FILE | 0o600) };
        let ours = changed(content(&pair.new, b"work").await);
        let work =
            ["theirs", "both", "own", "dir/own", "was dir/own"].map(|name| put(name, ours.clone()));
        pair.new.apply(work.into()).await.unwrap();
        pair.new.apply(vec![remove("gone"), remove("gone too")]).await.unwrap();
        let now = changed(content(&pair.old, b"changed").await);
        let edits = vec![
            put("both", now.clone()),
            put("gone too", now.clone()),
            put("x", now.clone()),
            remove("dir/a"),
            remove("dir/b"),
            remove("was dir/x"),
            put("was dir", now),
        ];
        pair.old.apply(edits).await.unwrap();
        let done = pair.convert().await;
        let troubles: Vec<_> = done.copied.troubles.iter().map(|t| t.path.as_str()).collect();
        assert_eq!(troubles, ["both", "was dir"], "{format}: {done:?}");
        assert_eq!(done.kept, 2, "{format}: theirs, and gone: {done:?}");
        assert!(!pair.conversion.is_finished(), "{format}");
        let found: BTreeMap<String, Vec<u8>> =
            tree(&pair.new).await.into_iter().map(|(path, (_, bytes, _))| (path, bytes)).collect();
        let expected: [(&str, &[u8]); 11] = [
            ("", b""),
            ("both", b"work"),
            ("dir", b""),
            ("dir/own", b"work"),
            ("gone too", b"changed"),
            ("own", b"work"),
            ("same", b"same"),
            ("theirs", b"work"),
            ("was dir", b""),
            ("was dir/own", b"work"),
            ("x", b"changed"),
        ];
        let expected: BTreeMap<_, _> =
            expected.into_iter().map(|(name, bytes)| (name.to_owned(), bytes.to_vec())).collect();
        let mut found = found;
        // It stays with the rest of its directory, which stays.
        found.remove("was dir/x");
        assert_eq!(found, expected, "{format}");
        // The way out that the message names.
        let edits = vec![remove("both"), remove("was dir/own"), remove("was dir/x")];
        for edit in edits {
            let _ = pair.new.apply(vec![edit]).await;
        }
        let done = pair.convert().await;
        assert!(
            done.copied.trouble_count == 0 && pair.conversion.is_finished(),
            "{format}: {done:?}"
        );
        assert_eq!(done.kept, 2, "{format}: also after a run that did not finish: {done:?}");
        let found = tree(&pair.new).await;
        assert_eq!((&found["theirs"].1[..], &found["both"].1[..]), (&b"work"[..], &b"changed"[..]));
        assert!(!found.contains_key("gone") && found["was dir"].1 == b"changed", "{format}");
    }
}

/// Sentence 158. "What the new format has no place for, mounts of other drives and of cores in a drive of Hyperdrive 10,
/// what other programs stored with an entry in one of Hyperdrive 13, is left out and named before anything is written."
#[tokio::test]
async fn what_the_new_format_has_no_place_for_is_named_and_the_rest_is_copied() {
    let mut pair = Pair::new(DriveFormat::Hyperdrive10);
    let key = PublicKey::new([4; 32]);
    for (name, core) in [("mnt", false), ("deep/core", true)] {
        let mount = Some(MountTarget { key, version: None, core });
        let edit = put(name, Stat { mount, ..stat(TYPE_DIRECTORY | 0o755) });
        pair.old.apply(vec![edit]).await.unwrap();
    }
    let edit = put("file", file(&pair.old, b"kept").await);
    pair.old.apply(vec![edit]).await.unwrap();
    let done = pair.would().await;
    let mut named: Vec<_> = done.left_out.iter().map(|left| left.path.as_str()).collect();
    named.sort_unstable();
    assert_eq!((named, done.left_out_count), (vec!["deep/core", "mnt"], 2));
    assert!(done.left_out.iter().all(|left| left.why.contains("hyper://0404")), "{done:?}");
    assert_eq!(pair.convert().await, done);
    assert!(pair.conversion.is_finished());
    assert_eq!(tree(&pair.new).await.into_keys().collect::<Vec<_>>(), ["", "file"]);
    // What the new drive has there is its own.
    let own = file(&pair.new, b"own").await;
    pair.new.apply(vec![put("mnt", own)]).await.unwrap();
    assert!(pair.convert().await.copied.is_idle());

    let (origin, _) = crate::hyperdrive::bee_testing::recorded().await;
    let old = origin.open(None).await.unwrap();
    let store = Store::memory();
    let to = DriveFormat::Hyperdrive10;
    let new = Drive::create_in(to, &store, "new").unwrap();
    let mut conversion = Conversion::new(&store, *old.key(), to, "new");
    let done =
        convert(&old, Some(&new), &mut conversion, false, Wait::Local, &mut ()).await.unwrap();
    assert!(done.left_out_count > 0 && done.copied.trouble_count == 0, "{done:?}");
    assert_eq!(tree(&new).await, tree(&old).await);
    let again =
        convert(&old, Some(&new), &mut conversion, false, Wait::Local, &mut ()).await.unwrap();
    assert!(again.copied.is_idle(), "{again:?}");
}

#[tokio::test]
async fn the_note_of_a_move_does_not_move() {
    for format in FORMATS {
        let mut pair = Pair::new(format);
        fill(&pair.old).await;
        pair.convert().await;
        let mut plain = Pair::new(format);
        plain.convert().await;
        plain.old.note_move(plain.new.key()).await.unwrap();
        let done = plain.convert().await;
        assert!(done.copied.is_idle(), "{format}: a root that is stored for the note: {done:?}");
        let mut plain = Pair::new(format);
        let root = put("", Stat { uid: 0, gid: 0, ..stat(TYPE_DIRECTORY | 0o755) });
        plain.old.apply(vec![root]).await.unwrap();
        plain.convert().await;
        plain.old.note_move(plain.new.key()).await.unwrap();
        let done = plain.convert().await;
        assert!(done.copied.is_idle(), "{format}: a plain root with an entry: {done:?}");
        assert!(plain.conversion.is_finished(), "{format}: {done:?}");
        let before = tree(&pair.new).await;
        pair.old.note_move(pair.new.key()).await.unwrap();
        // The new drive has a root of its own by now.
        let root = Stat { mtime: time(9), ctime: time(99), ..stat(TYPE_DIRECTORY | 0o700) };
        let done = pair.convert().await;
        assert!(done.copied.is_idle(), "{format}: {done:?}");
        assert_eq!(tree(&pair.new).await, before, "{format}");
        pair.new.apply(vec![put("", root)]).await.unwrap();
        let done = pair.convert().await;
        assert_eq!((done.copied.trouble_count, done.kept), (0, 1), "{format}: {done:?}");
        assert_eq!(pair.new.snapshot().moved_to(Wait::Local).await.unwrap(), None);
    }
}

/// A conversion that stops at any storage call is resumed: nothing is lost, and at most a batch is stored twice.
#[test]
fn a_conversion_goes_on_after_a_stop_at_any_storage_call() {
    for format in FORMATS {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        for call in 0.. {
            let mut reached = false;
            for power in [false, true] {
                let world = World::default();
                runtime.block_on(async {
                    let store = Store::memory();
                    let old = Drive::create_in(format, &store, "old").unwrap();
                    for (at, name) in ["a", "b/c", "b/d", "e"].into_iter().enumerate() {
                        let edit = put(name, file(&old, &[at as u8; 70_000]).await);
                        old.apply(vec![edit]).await.unwrap();
                    }
                    let link = Some(Link { id: LinkId::new([1; 16]), names: 0 });
                    let linked = Stat { link, ..file(&old, b"linked").await };
                    old.apply(vec![put("b/l", linked.clone()), put("m", linked)]).await.unwrap();
                    let mut conversion = Conversion::new(&store, *old.key(), other(format), "new");
                    let new = open_in(&world, other(format)).await.unwrap();
                    world.stop_at(call);
                    let _ = convert(&old, Some(&new), &mut conversion, false, Wait::Local, &mut ())
                        .await;
                    reached = world.stopped();
                    drop(new);
                    match power {
                        true => world.cut_power(call),
                        false => world.restart(),
                    }
                    let new = open_in(&world, other(format)).await.unwrap();
                    let done =
                        convert(&old, Some(&new), &mut conversion, false, Wait::Local, &mut ())
                            .await;
                    let done = done.unwrap_or_else(|error| panic!("call {call}: {error}"));
                    assert_eq!(done.copied.trouble_count, 0, "{format}, call {call}: {done:?}");
                    assert!(conversion.is_finished());
                    assert_eq!(tree(&new).await, tree(&old).await, "{format}, call {call}");
                    let stored = new.content().unwrap().head().byte_length;
                    assert!(stored <= 2 * 280_006, "{format}, call {call}: {stored} bytes");
                });
            }
            if !reached {
                assert!(call > 5, "the conversion was done");
                break;
            }
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    /// In the old drive, or in the new one where no other step comes.
    Write {
        own: bool,
        at: usize,
        size: usize,
    },
    Directory {
        at: usize,
        mode: u32,
    },
    Link {
        from: usize,
        to: usize,
    },
    Remove {
        at: usize,
    },
    Convert,
}

const PATHS: [&str; 6] = ["a", "b", "d/a", "d/b", "d/e/a", "f/g"];

fn step() -> impl Strategy<Value = Step> {
    let at = 0..PATHS.len();
    prop_oneof![
        3 => (any::<bool>(), at.clone(), 0..100_000usize)
            .prop_map(|(own, at, size)| Step::Write { own, at, size }),
        1 => (at.clone(), 0..0o1000u32).prop_map(|(at, mode)| Step::Directory { at, mode }),
        1 => (at.clone(), at.clone()).prop_map(|(from, to)| Step::Link { from, to }),
        2 => at.prop_map(|at| Step::Remove { at }),
        2 => Just(Step::Convert),
    ]
}

/// The old drive as a filesystem changes it: a directory that has entries is not replaced.
async fn act(pair: &mut Pair, step: &Step, now: i64) {
    let old = &pair.old;
    let there = async |text: &str| entry(&old.snapshot(), &path(text), Wait::Local).await.unwrap();
    match step {
        Step::Write { own: true, at, size } => {
            let name = format!("own/{}", PATHS[*at]);
            let stat = Stat {
                mtime: time(now),
                ctime: time(now),
                ..file(&pair.new, &vec![7; *size]).await
            };
            pair.new.apply(vec![put(&name, stat)]).await.unwrap();
        }
        Step::Write { at, size, .. }
            if there(PATHS[*at]).await.is_none_or(|it| it.kind == Kind::File) =>
        {
            let stat = Stat {
                mtime: time(now),
                ctime: time(now),
                ..file(old, &vec![*at as u8; *size]).await
            };
            old.apply(vec![put(PATHS[*at], stat)]).await.unwrap();
        }
        Step::Directory { at, mode } => {
            let Some((name, _)) = PATHS[*at].rsplit_once('/') else { return };
            let stat = Stat { ctime: time(now), ..stat(TYPE_DIRECTORY | mode) };
            old.apply(vec![put(name, stat)]).await.unwrap();
        }
        Step::Link { from, to } if from != to => {
            let Some(found) = there(PATHS[*from]).await.filter(|it| it.kind == Kind::File) else {
                return;
            };
            let link = found.stat.link.unwrap_or(Link { id: LinkId::random().unwrap(), names: 0 });
            let stat = Stat { link: Some(link), ..found.stat };
            old.apply(vec![put(PATHS[*from], stat.clone()), put(PATHS[*to], stat)]).await.unwrap();
        }
        Step::Remove { at } if there(PATHS[*at]).await.is_some() => {
            old.apply(vec![remove(PATHS[*at])]).await.unwrap();
        }
        Step::Convert => {
            let done = pair.convert().await;
            assert_eq!((done.copied.trouble_count, done.kept), (0, 0), "{done:?}");
        }
        _ => {}
    }
}

/// Sentence 161. "Changes of the old drive since then are taken over by a further `convert`, and what was made or changed in
/// the new drive meanwhile stays: where both have changed an entry, the new drive's stays and is named."
#[test]
fn conversions_in_turns_with_changes_of_both_drives_lose_nothing() {
    for format in FORMATS {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let mut runner = TestRunner::new(Config { cases: 48, ..Config::default() });
        let steps = prop::collection::vec(step(), 1..24);
        runner
            .run(&steps, |steps| {
                runtime.block_on(async {
                    let mut pair = Pair::new(format);
                    for (step, now) in steps.iter().zip(1_700_000_000..) {
                        act(&mut pair, step, now).await;
                    }
                    act(&mut pair, &Step::Convert, 0).await;
                    let (mut new, old) = (tree(&pair.new).await, tree(&pair.old).await);
                    let own = new.keys().filter(|path| path.starts_with("own/")).count();
                    let made = steps.iter().filter_map(|step| match step {
                        Step::Write { own: true, at, .. } => Some(*at),
                        _ => None,
                    });
                    let made: BTreeSet<usize> = made.collect();
                    let files = PATHS.iter().enumerate().filter(|(at, _)| made.contains(at));
                    for (_, name) in files {
                        assert!(new.contains_key(&format!("own/{name}")), "{name}");
                    }
                    assert_eq!(own > 0, !made.is_empty());
                    new.retain(|path, _| path != "own" && !path.starts_with("own/"));
                    assert_eq!(new, old);
                });
                Ok(())
            })
            .unwrap();
    }
}
