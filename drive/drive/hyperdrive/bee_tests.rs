//! Drives of Hyperdrive 11 to 13: the recorded one, what a filesystem shows of names and times, maps, and
//! publishers that lie.

use std::collections::BTreeMap;

use bytes::Bytes;
use hypermount_core::Dialect;
use hypermount_swarm::crypto::{KeyPair, blake2b};
use proptest::prelude::*;
use serde_json::json;

use super::bee_testing::{Origin, file, put, recorded, recorded_in};
use super::testing::path;
use super::*;
use crate::index::bee::block::Header;
use crate::index::trie::testing::{Traffic, reader_of, serve};
use crate::path::Name;
use crate::stat::{Entry, Kind, Stat, TYPE_FILE};
use crate::time::Time;

fn names(listing: &[(Name, Entry)]) -> Vec<&str> {
    listing.iter().map(|(name, _)| name.as_str()).collect()
}

async fn whole(drive: &Drive, extent: &Extent) -> Result<Vec<u8>> {
    Ok(drive.read(extent, 0..u64::MAX, Wait::Local).await?.concat())
}

#[tokio::test]
async fn the_recorded_drive_reads_as_the_reference_wrote_it() {
    for origin in [Origin::new(), Origin::modern()] {
        check_recorded(origin).await;
    }
}

async fn check_recorded(origin: Origin) {
    let (origin, vector) = recorded_in(origin).await;
    let drive = origin.open(None).await.unwrap();
    assert_eq!(drive.format(), DriveFormat::Hyperdrive11);
    assert_eq!(drive.format().to_string(), "hyperdrive 11-13");
    let snapshot = drive.snapshot();
    assert_eq!(snapshot.version(), vector["version"].as_u64().unwrap());
    let mut read = 0;
    for expected in vector["entries"].as_array().unwrap() {
        let key = expected["key"].as_str().unwrap();
        let entry = snapshot.entry(&path(key), Wait::Local).await.unwrap();
        let value = &expected["value"];
        assert!(entry.explicit, "{key}");
        let listed = snapshot.list(&path(key).parent().unwrap(), Wait::Local).await.unwrap();
        let listed = listed.into_iter().find(|(name, _)| Some(name.as_str()) == path(key).name());
        assert_eq!(listed.unwrap().1, entry, "{key}");
        assert_eq!(entry.stat.linkname.as_deref(), value["linkname"].as_str(), "{key}");
        if entry.kind == Kind::Symlink {
            continue;
        }
        assert_eq!(entry.stat.mode & 0o100 != 0, value["executable"].as_bool().unwrap(), "{key}");
        let time = value["metadata"]["mtime"].as_u64();
        let time = time.unwrap_or(1000 * expected["seq"].as_u64().unwrap());
        let times = [entry.stat.mtime, entry.stat.ctime];
        assert_eq!(times, [Time::from_milliseconds(time); 2], "{key}");
        let extent = entry.stat.extent;
        assert_eq!(extent.size, expected["contentLength"].as_u64().unwrap(), "{key}");
        Drive::check_extent(&extent).unwrap();
        let bytes = whole(&drive, &extent).await.unwrap();
        assert_eq!(bytes.len() as u64, extent.size, "{key}");
        if extent.size < 50_000 {
            let hash = hex::encode(blake2b(&[&bytes]));
            assert_eq!(hash, expected["contentHash"].as_str().unwrap(), "{key}");
            read += 1;
        }
        assert_eq!(drive.held(&extent), (extent.size, extent.blocks), "{key}");
        assert_eq!(drive.lacking(&extent, 0..extent.size), 0, "{key}");
    }
    assert_eq!(read, 17);
    for (directory, expected) in vector["readdir"].as_object().unwrap() {
        let listed = snapshot.list(&path(directory), Wait::Local).await;
        match directory.as_str() {
            "/hello.txt" => assert!(matches!(listed, Err(Error::NotADirectory))),
            "/nope" => assert!(matches!(listed, Err(Error::NotFound))),
            _ => assert_eq!(&json!(names(&listed.unwrap())), expected, "{directory}"),
        }
    }
    let old = origin.open(Some(4)).await.unwrap().snapshot();
    for expected in vector["checkout4"].as_array().unwrap() {
        old.entry(&path(expected.as_str().unwrap()), Wait::Local).await.unwrap();
    }
    assert_eq!(
        names(&old.list(&path(""), Wait::Local).await.unwrap()),
        ["bin", "dir", "hello.txt"]
    );
    let empty = origin.open(Some(1)).await.unwrap().snapshot();
    assert!(empty.list(&path(""), Wait::Local).await.unwrap().is_empty());
}

/// 124. A drive of Hyperdrive 11 to 13 that another program made is read-only, also where its keys are, unless its store was
/// adopted (sentence 135).
#[tokio::test]
async fn a_drive_that_can_only_be_read_is_never_written() {
    let (origin, _) = recorded().await;
    let drive = origin.open(None).await.unwrap();
    let lengths = || [origin.index.head().length, origin.content.head().length];
    let before = lengths();
    assert!(!drive.writable());
    let stat = Stat { mode: TYPE_FILE | 0o644, ..Stat::default() };
    let edits = vec![Edit::Put { path: path("new"), stat }];
    assert!(matches!(drive.apply(edits).await, Err(Error::ReadOnly(_))));
    assert!(matches!(drive.content_writer().await, Err(Error::ReadOnly(_))));
    let edits = drive.snapshot().index().clone().edits().await;
    assert!(matches!(edits, Err(Error::Unsupported(_))));
    assert_eq!(lengths(), before);
}

#[tokio::test]
async fn the_drive_of_a_store_is_found() {
    for origin in [Origin::new(), Origin::modern()] {
        check_found(origin).await;
    }
}

async fn check_found(origin: Origin) {
    let (origin, _) = recorded_in(origin).await;
    let key = *origin.index.key();
    assert_eq!(stored_drives(&origin.store).unwrap(), [key]);
    let found = stored_drives_and_damage(&origin.store).await.unwrap();
    assert_eq!((found.drives, found.damaged), (vec![key], vec![]));
}

#[tokio::test]
async fn cores_that_hold_no_drive_are_told_apart() {
    let origin = Origin::new();
    for block in ["\x0a\x09hypercore", "no protobuf at all", ""] {
        let core = origin.store.core_named(format!("core {block}").as_bytes()).unwrap();
        core.append(&[Bytes::from(block)]).unwrap();
        let opened = Drive::open(&origin.store, core.key(), None, Wait::Local).await;
        assert!(matches!(opened, Err(Error::Malformed(_) | Error::Unsupported(_))), "{block:?}");
    }
    // A Hyperbee that is no drive.
    origin.index.append(&[Header { content: None, records: false }.encode()]).unwrap();
    let opened = origin.open(None).await.map(drop);
    assert!(matches!(opened, Err(Error::Malformed(why)) if why.contains("names no content core")));
    assert!(stored_drives(&origin.store).unwrap().is_empty());
    // One whose key is that of a manifest: the key of its content core derives from it.
    let origin = Origin::modern();
    origin.index.append(&[Header { content: None, records: false }.encode()]).unwrap();
    let drive = origin.open(None).await.unwrap();
    let content = crate::index::derived_content_key(&origin.index).unwrap();
    assert_eq!(
        (drive.content().unwrap().key(), drive.content().unwrap().dialect()),
        (&content, Dialect::Modern)
    );
    assert_eq!(drive.snapshot().list(&path(""), Wait::Local).await.unwrap(), []);
    let other = origin.store.modern_core_with_pair(&KeyPair::from_seed(&[3; 32])).unwrap();
    other.append(&[Bytes::from_static(b"encrypted")]).unwrap();
    let opened = Drive::open(&origin.store, other.key(), None, Wait::Local).await.map(drop);
    assert!(
        matches!(opened, Err(Error::NeedsEncryptionKey(core)) if core == *other.discovery_key())
    );
    // A key does not make a drive of it: the block is too short to be encrypted.
    origin.store.keep_encryption_key(other.key(), &[1; 32]).unwrap();
    let opened = Drive::open(&origin.store, other.key(), None, Wait::Local).await.map(drop);
    assert!(matches!(opened, Err(Error::WrongEncryptionKey(_))), "{opened:?}");
}

#[tokio::test]
async fn the_kind_of_core_that_no_peer_has_is_given_up() {
    let (origin, _) = recorded().await;
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path(), true).unwrap();
    let index = store.core(origin.index.key()).unwrap();
    let (traffic, wait) = (Traffic::default(), Wait::within(Duration::from_secs(20)));
    let drive = tokio::select! {
        drive = Drive::open(&store, origin.index.key(), None, wait) => drive.unwrap(),
        () = serve(&origin.index, &index, &traffic) => unreachable!(),
    };
    assert_eq!(drive.metadata_core().dialect(), Dialect::Legacy);
    assert!(store.cores().iter().all(|core| core.dialect() == Dialect::Legacy));
    assert_eq!(store.stored_dialect(origin.index.key()).unwrap(), Some(Dialect::Legacy));
    let nothing = Wait::within(Duration::from_millis(20));
    let opened = Drive::open(&store, &PublicKey::new([7; 32]), None, nothing).await;
    assert!(matches!(opened, Err(Error::Unavailable { .. })));
    assert_eq!(store.cores().len(), 2, "the two of the drive");
}

/// 127. Where one name is a file and a directory, it is the directory; the file is shown beside it as `NAME~file`,
/// unless that name exists or is too long.
#[tokio::test]
async fn a_file_beside_a_directory_of_its_name_is_shown_under_another() {
    let origin = Origin::new();
    let mut writer = origin.writer();
    for name in ["a", "b", "c", "c~file", "d~file", "e"] {
        put(&mut writer, name, &file(&origin.blob(&[name.as_bytes()])));
    }
    for name in ["a/x", "b/y", "c/z", "e/deeper/f"] {
        put(&mut writer, name, &file(&origin.blob(&[b"below"])));
    }
    origin.append(&writer);
    let drive = origin.open(None).await.unwrap();
    let snapshot = drive.snapshot();
    let listed = snapshot.list(&path(""), Wait::Local).await.unwrap();
    let expected = ["a", "a~file", "b", "b~file", "c", "c~file", "d~file", "e", "e~file"];
    assert_eq!(names(&listed), expected);
    for (name, listed) in &listed {
        let entry = snapshot.entry(&path(name.as_str()), Wait::Local).await.unwrap();
        assert_eq!(entry, *listed, "{}", name.as_str());
        let is_directory = name.as_str().len() == 1;
        assert_eq!(entry.kind == Kind::Directory, is_directory, "{}", name.as_str());
        if is_directory {
            assert!(!snapshot.list(&path(name.as_str()), Wait::Local).await.unwrap().is_empty());
            continue;
        }
        // The name in the drive wins over the one that is made up.
        let expected = match name.as_str() {
            "c~file" | "d~file" => name.as_str(),
            name => &name[..1],
        };
        let bytes = whole(&drive, &entry.stat.extent).await.unwrap();
        assert_eq!(bytes, expected.as_bytes());
    }
    for absent in ["d", "d~file~file", "a~file~file", "~file", "a~file/x", "a/x~file", "z~file"] {
        let entry = snapshot.entry(&path(absent), Wait::Local).await;
        assert!(matches!(entry, Err(Error::NotFound)), "{absent}");
    }
}

#[tokio::test]
async fn names_are_shown_as_they_are_and_skipped_if_no_filesystem_can_hold_them() {
    let origin = Origin::new();
    let mut writer = origin.writer();
    let long = "n".repeat(256);
    let shown = ["a\\b", "new\nline", "\u{1}", "x:y", "ä", "a\u{308}", " ", "\u{200b}"];
    let skipped = [".", "..", "", "a/../b", "a//b", "nul\0", &long, "trailing/"];
    for name in shown.iter().chain(&skipped) {
        put(&mut writer, name, &file(&origin.blob(&[b"x"])));
    }
    put(&mut writer, &format!("{}/deep", "n".repeat(256)), &file(&origin.blob(&[b"x"])));
    origin.append(&writer);
    let snapshot = origin.open(None).await.unwrap().snapshot();
    let listed = snapshot.list(&path(""), Wait::Local).await.unwrap();
    let mut expected = shown.to_vec();
    // Exists because of keys that cannot be shown, and is empty.
    expected.push("a");
    expected.sort_unstable();
    assert_eq!(names(&listed), expected);
    assert!(snapshot.list(&path("a"), Wait::Local).await.unwrap().is_empty());
}

/// 126. A file or link has the modification time that a program put into its metadata, as `mtime` or `mtimeMs`, in
/// milliseconds since 1970 or as an ISO 8601 date; else one that is the same for every reader and greater after
/// each change: the number of its index block, in seconds after 1970-01-01. That of a directory is greater after
/// each change of what is in it, and may be after one beside it.
#[tokio::test]
async fn times_differ_after_each_change_and_are_the_same_for_every_reader() {
    let origin = Origin::new();
    let mut writer = origin.writer();
    let blob = origin.blob(&[b"x"]);
    for n in 0..40 {
        put(&mut writer, &format!("d{}/{n:02}", n / 20), &file(&blob));
    }
    put(&mut writer, "a/1", &file(&blob));
    origin.append(&writer);
    let (drive, old) = (origin.open(None).await.unwrap(), 42);
    put(&mut writer, "d1/30", &file(&blob));
    let timed = json!({"blob": blob, "metadata": {"mtime": "2026-11-29T18:30:00.000Z"}});
    put(&mut writer, "d1/31", &timed);
    origin.append(&writer);
    let time = |snapshot: Arc<Snapshot>, name: &'static str| async move {
        snapshot.entry(&path(name), Wait::Local).await.unwrap().stat.mtime.milliseconds()
    };
    let before = || drive.snapshot_at(old).into();
    assert_eq!(time(before(), "d1/30").await, 31_000);
    assert_eq!(time(drive.snapshot(), "d1/30").await, 42_000);
    assert_eq!(time(drive.snapshot(), "d1/31").await, 1_795_977_000_000);
    assert_eq!(time(drive.snapshot(), "d1/32").await, 33_000);
    assert_eq!(time(drive.snapshot(), "").await, 43_000);
    // Of a directory: not before its newest entry, and as old as before if nothing near it has changed.
    assert!(time(before(), "d1").await >= 40_000);
    assert_eq!(time(drive.snapshot(), "d1").await, 43_000);
    assert_eq!(time(before(), "a").await, 41_000);
    assert_eq!(time(drive.snapshot(), "a").await, 41_000);
    let listed = drive.snapshot().list(&path(""), Wait::Local).await.unwrap();
    for (name, entry) in listed {
        let name = path(name.as_str());
        let entry_alone = drive.snapshot().entry(&name, Wait::Local).await.unwrap();
        assert_eq!(entry_alone, entry, "{name}");
    }
}

#[tokio::test]
async fn changes_name_what_is_shown_differently() {
    let origin = Origin::new();
    let mut writer = origin.writer();
    let blob = origin.blob(&[b"x"]);
    let timed = json!({"blob": blob, "metadata": {"mtime": 5}});
    for (name, value) in [
        ("both", file(&blob)),
        ("gone", file(&blob)),
        ("same", timed.clone()),
        ("d/x", file(&blob)),
    ] {
        put(&mut writer, name, &value);
    }
    origin.append(&writer);
    let drive = origin.open(None).await.unwrap();
    let old = drive.snapshot();
    put(&mut writer, "both/below/f", &file(&blob));
    put(&mut writer, "same", &timed);
    put(&mut writer, "d/x", &file(&blob));
    put(&mut writer, "d/y", &file(&blob));
    origin.append(&writer);
    let new = drive.snapshot();
    assert!(!new.is_version_of(&old) && new.is_version_of(&drive.snapshot()));
    let kinds = |changes: &[Changed]| -> BTreeMap<String, (Option<Kind>, Option<Kind>)> {
        let kind = |entry: &Option<Entry>| entry.as_ref().map(|entry| entry.kind);
        let each = |change: &Changed| {
            (change.path.as_str().to_owned(), (kind(&change.before), kind(&change.after)))
        };
        changes.iter().map(each).collect()
    };
    let (file, directory) = (Some(Kind::File), Some(Kind::Directory));
    let expected = |turned: bool| {
        let turn = |(old, new)| if turned { (new, old) } else { (old, new) };
        let changes = [
            ("both", (file, directory)),
            ("both/below", (None, directory)),
            ("both/below/f", (None, file)),
            ("both~file", (None, file)),
            // Its time is another one.
            ("d/x", (file, file)),
            ("d/y", (None, file)),
        ];
        changes.map(|(name, kinds)| (name.to_owned(), turn(kinds))).into_iter().collect()
    };
    let changes = drive.changes(&old, &new, 100, Wait::Local).await.unwrap();
    assert_eq!(kinds(&changes), expected(false));
    let back = drive.changes(&new, &old, 100, Wait::Local).await.unwrap();
    assert_eq!(kinds(&back), expected(true));
    for change in &changes {
        let entry = |snapshot: Arc<Snapshot>| {
            let path = change.path.clone();
            async move { snapshot.entry(&path, Wait::Local).await.ok() }
        };
        assert_eq!(entry(Arc::clone(&old)).await, change.before, "{}", change.path);
        assert_eq!(entry(Arc::clone(&new)).await, change.after, "{}", change.path);
    }
    let few = drive.changes(&old, &new, 3, Wait::Local).await;
    assert!(matches!(few, Err(Error::TooLarge(_))));
}

/// 129. `+N` with a version that its publisher never announced, one inside of a batch of changes, fails, or shows a
/// part of the drive.
#[tokio::test]
async fn a_version_inside_of_a_batch_says_so() {
    use crate::index::bee::testing::block;
    let origin = Origin::new();
    let blocks =
        [origin.header(), block(b"files\0/a", &[]), block(b"files\0/b", &[(&[1, 2], &[])])];
    origin.index.append(&blocks).unwrap();
    let inside = origin.open(Some(2)).await.unwrap().snapshot();
    let listed = inside.list(&path(""), Wait::Local).await;
    assert!(matches!(listed, Err(Error::Malformed(why)) if why.contains("inside a batch")));
    // Level 0 of a block in a batch can be a tree node below the root.
    origin.index.append(&[block(b"files\0/c", &[(&[1], &[])])]).unwrap();
    let part = origin.open(Some(4)).await.unwrap().snapshot();
    assert!(matches!(part.entry(&path("b"), Wait::Local).await, Err(Error::NotFound)));
    let whole = origin.open(Some(3)).await.unwrap().snapshot();
    // Their values are no entries: they are not listed, and looking them up says so.
    assert!(whole.list(&path(""), Wait::Local).await.unwrap().is_empty());
    let entry = whole.entry(&path("a"), Wait::Local).await;
    assert!(matches!(entry, Err(Error::Malformed(_))));
    assert!(origin.open(Some(5)).await.is_err());
}

#[tokio::test]
async fn maps_that_make_no_sense_are_errors_of_their_file_alone() {
    let origin = Origin::new();
    let mut writer = origin.writer();
    let content = origin.blob(&[b"one", b"two", b"three"]);
    let first = content["blockOffset"].as_u64().unwrap();
    let good = origin.map(&[(first + 2, 5), (first, 3), (first, 3), (first + 1, 3)]);
    put(&mut writer, "good", &file(&good));
    put(&mut writer, "nothing", &file(&origin.map(&[])));
    // The size of these is known, and their bytes are not.
    put(&mut writer, "wrong length", &file(&origin.map(&[(first, 4)])));
    put(&mut writer, "beyond", &file(&origin.map(&[(1 << 20, 4)])));
    // The size of these is not.
    let mut bad = Vec::new();
    for (name, change) in [
        ("short", json!({"byteLength": 3})),
        ("many", json!({"blockLength": 65})),
        ("long", json!({"byteLength": 8_000_000})),
        ("content", json!({"blockOffset": first, "blockLength": 1, "byteLength": 3})),
    ] {
        let mut blob = good.clone();
        change.as_object().unwrap().iter().for_each(|(name, value)| blob[name] = value.clone());
        put(&mut writer, name, &file(&blob));
        bad.push(name);
    }
    origin.append(&writer);
    let drive = origin.open(None).await.unwrap();
    let snapshot = drive.snapshot();
    let listed = snapshot.list(&path(""), Wait::Local).await.unwrap();
    assert_eq!(names(&listed), ["beyond", "good", "nothing", "wrong length"]);
    let shared = snapshot.list_shared(&path(""), Wait::Local).await.unwrap();
    let sizes = shared.iter().map(|(_, entry)| entry.stat.extent.size);
    assert_eq!(sizes.collect::<Vec<_>>(), [4, 14, 0, 4]);
    for name in bad {
        let entry = snapshot.entry(&path(name), Wait::Local).await;
        let nonsense = |error: &Error| {
            matches!(error, Error::Malformed(_) | Error::TooLarge(_) | Error::Unsupported(_))
        };
        assert!(entry.as_ref().is_err_and(nonsense), "{name}: {entry:?}");
    }
    let extent = |name: &'static str| {
        let snapshot = Arc::clone(&snapshot);
        async move { snapshot.entry(&path(name), Wait::Local).await.unwrap().stat.extent }
    };
    let good = extent("good").await;
    let all = b"threeoneonetwo";
    for start in 0..=all.len() {
        for end in start..=all.len() + 1 {
            let read = drive.read(&good, start as u64..end as u64, Wait::Local).await.unwrap();
            assert_eq!(read.concat(), all[start..end.min(all.len())], "{start}..{end}");
        }
    }
    let wrong = drive.read(&extent("wrong length").await, 0..4, Wait::Local).await;
    assert!(matches!(wrong, Err(Error::Malformed(_))));
    assert!(drive.read(&extent("beyond").await, 0..4, Wait::Local).await.is_err());
    let lied = Extent { size: 99, ..good };
    assert!(matches!(drive.read(&lied, 0..4, Wait::Local).await, Err(Error::Malformed(_))));
    for lied in [Extent { blocks: 1 << 40, ..good }, Extent { map_size: u64::MAX, ..good }] {
        assert!(matches!(Drive::check_extent(&lied), Err(Error::Malformed(_))));
        drive.prefetch(&lied, 0..u64::MAX, Urgency::Ahead);
        assert_eq!(drive.held(&lied), (0, 0));
    }
}

/// 125. It stores no directories, owners and modes: a directory exists while something is in it, and all are shown with
/// mode 0755; files have 0644, or 0755 if they are executable; links have 0777.
#[tokio::test]
async fn modes_are_those_of_files_programs_links_and_directories() {
    let origin = Origin::new();
    let mut writer = origin.writer();
    put(&mut writer, "file", &file(&origin.blob(&[b"x"])));
    put(&mut writer, "program", &json!({"executable": true, "blob": origin.blob(&[b"x"])}));
    put(&mut writer, "link", &json!({"linkname": "/file"}));
    put(&mut writer, "d/only", &file(&origin.blob(&[])));
    origin.append(&writer);
    let snapshot = origin.open(None).await.unwrap().snapshot();
    for (name, mode) in [
        ("file", 0o100_644),
        ("program", 0o100_755),
        ("link", 0o120_777),
        ("d", 0o040_755),
        ("d/only", 0o100_644),
        ("", 0o040_755),
    ] {
        let entry = snapshot.entry(&path(name), Wait::Local).await.unwrap();
        assert_eq!((entry.stat.mode, entry.stat.uid, entry.stat.gid), (mode, 0, 0), "{name}");
    }
    // Before the file in it was put, there is no directory.
    let before = origin.open(Some(4)).await.unwrap().snapshot();
    assert!(matches!(before.entry(&path("d"), Wait::Local).await, Err(Error::NotFound)));
}

/// 128. The size of a deduplicated file is stored with its content, as the list of its blocks: listing or looking up
/// such a file needs that list, and fails if no peer delivers it.
#[tokio::test]
async fn a_deduplicated_file_without_its_list_fails_and_its_neighbours_do_not() {
    let (origin, _) = recorded().await;
    let map = origin.open(None).await.unwrap().snapshot();
    let map = map.entry(&path("dedup"), Wait::Local).await.unwrap().stat.extent;
    origin.content.clear(map.block..map.block + map.blocks).unwrap();
    let drive = origin.open(None).await.unwrap();
    let snapshot = drive.snapshot();
    for _ in 0..2 {
        let entry = snapshot.entry(&path("dedup"), Wait::Local).await;
        assert!(matches!(entry, Err(Error::Unavailable { .. })), "{entry:?}");
        let listed = snapshot.list(&path(""), Wait::Local).await.map(drop);
        assert!(matches!(listed, Err(Error::Unavailable { .. })));
    }
    assert_eq!(snapshot.list(&path("many"), Wait::Local).await.unwrap().len(), 11);
    snapshot.entry(&path("hello.txt"), Wait::Local).await.unwrap();
    // What was opened before is told from what it was opened with.
    assert_eq!((drive.held(&map), drive.lacking(&map, 3..8)), ((0, 0), 5));
}

/// Runs `work` at a reader of this drive that has only what it fetches.
async fn from_afar<T>(origin: &Origin, traffic: &Traffic, work: impl AsyncFnOnce(Drive) -> T) -> T {
    let store = Store::memory();
    let index = store.core(origin.index.key()).unwrap();
    let content = store.core(origin.content.key()).unwrap();
    let wait = Wait::within(Duration::from_secs(20));
    let work =
        async { work(Drive::open(&store, origin.index.key(), None, wait).await.unwrap()).await };
    tokio::select! {
        done = work => done,
        () = serve(&origin.index, &index, traffic) => unreachable!(),
        () = serve(&origin.content, &content, traffic) => unreachable!(),
    }
}

#[tokio::test]
async fn the_recorded_drive_is_read_from_afar_in_few_round_trips() {
    let (origin, vector) = recorded().await;
    let (traffic, wait) = (Traffic::default(), Wait::within(Duration::from_secs(20)));
    from_afar(&origin, &traffic, async |drive: Drive| {
        // Small: the whole index is asked for, some time after it was opened.
        drive.newer_than(24, wait).await.unwrap();
        let snapshot = drive.snapshot();
        for expected in vector["entries"].as_array().unwrap() {
            let path = path(expected["key"].as_str().unwrap());
            let entry = snapshot.entry(&path, wait).await.unwrap();
            if entry.kind == Kind::File {
                let read = drive.read(&entry.stat.extent, 0..u64::MAX, wait).await.unwrap();
                assert_eq!(read.concat().len() as u64, entry.stat.extent.size, "{path}");
            }
        }
        while drive.metadata_core().first_missing(0..25).is_some() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert!(traffic.rounds() < 60, "{} round trips", traffic.rounds());
}

/// 2000 files in one directory, in an index that is too large to be fetched whole when it is opened.
#[tokio::test]
async fn a_large_directory_is_listed_from_afar_in_round_trips_by_level() {
    let origin = Origin::new();
    let mut writer = origin.writer();
    let blob = origin.blob(&[b"x"]);
    let fat = json!({"blob": blob, "metadata": "m".repeat(6000)});
    for n in 0..2000 {
        put(&mut writer, &format!("other/{n}/deep/{n}"), &fat);
        put(&mut writer, &format!("large/{n:04}"), &file(&blob));
    }
    origin.append(&writer);
    assert!(origin.index.head().byte_length > 8 << 20);
    let (traffic, wait) = (Traffic::default(), Wait::within(Duration::from_secs(60)));
    from_afar(&origin, &traffic, async |drive: Drive| {
        drive.newer_than(1, wait).await.unwrap();
        let before = traffic.rounds();
        let listed = drive.snapshot().list(&path("large"), wait).await.unwrap();
        assert_eq!(listed.len(), 2000);
        assert!(traffic.rounds() - before < 30, "{} round trips", traffic.rounds() - before);
        // Not what is below other directories.
        assert!(traffic.blocks() < 3000, "{} blocks", traffic.blocks());
        let before = traffic.blocks();
        assert_eq!(drive.snapshot().list(&path(""), wait).await.unwrap().len(), 2);
        assert!(traffic.blocks() - before < 200, "{} blocks", traffic.blocks() - before);
    })
    .await;
}

#[tokio::test]
async fn a_small_index_is_fetched_whole_when_it_is_opened() {
    let (origin, _) = recorded().await;
    let reader = reader_of(&origin.index);
    let log = IndexLog::new(reader.clone(), DriveFormat::Hyperdrive11);
    let traffic = Traffic::default();
    let work = async {
        reader.longer_than(24, Wait::within(Duration::from_secs(20))).await.unwrap();
        log.fetch_if_small();
        while reader.first_missing(1..25).is_some() {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        () = work => {}
        () = serve(&origin.index, &reader, &traffic) => unreachable!(),
    }
    assert!(traffic.rounds() <= 2, "{} round trips", traffic.rounds());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_range_of_blocks_of_any_size_is_read(
        sizes in prop::collection::vec(prop::sample::select(vec![0_usize, 1, 1, 2, 10, 1000, 65536, 70000]), 1..9),
        before in 0_usize..3, ranges in prop::collection::vec(any::<[prop::sample::Index; 2]>(), 8),
        mapped: bool,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let origin = Origin::new();
            if before > 0 {
                origin.blob(&[&vec![9; before * 77]]);
            }
            let bytes = |n: usize, size: usize| (0..size).map(move |at| (at * 31 + n * 7) as u8);
            let blocks: Vec<Vec<u8>> =
                sizes.iter().enumerate().map(|(n, size)| bytes(n, *size).collect()).collect();
            let slices: Vec<&[u8]> = blocks.iter().map(Vec::as_slice).collect();
            let mut blob = origin.blob(&slices);
            if mapped {
                let first = blob["blockOffset"].as_u64().unwrap();
                let pieces: Vec<_> =
                    (first..).zip(&sizes).map(|(block, size)| (block, *size as u64)).collect();
                blob = origin.map(&pieces);
            }
            let mut writer = origin.writer();
            put(&mut writer, "f", &file(&blob));
            origin.append(&writer);
            let drive = origin.open(None).await.unwrap();
            let entry = drive.snapshot().entry(&path("f"), Wait::Local).await.unwrap();
            let (extent, all) = (entry.stat.extent, blocks.concat());
            assert_eq!(extent.size, all.len() as u64);
            for range in ranges {
                let [one, other] = range.map(|at| at.index(all.len() + 2));
                let (start, end) = (one.min(other), one.max(other));
                let read = drive.read(&extent, start as u64..end as u64, Wait::Local).await.unwrap();
                let expected = all.get(start..end.min(all.len())).unwrap_or_default();
                assert_eq!(read.concat(), expected, "{start}..{end}");
            }
        });
    }
}
