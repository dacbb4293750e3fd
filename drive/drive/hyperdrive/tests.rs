//! The reference's recorded drive, a model, remote reads that are counted, and hostile entries.

use std::collections::BTreeMap;
use std::path::Path;

use bytes::Bytes;
use proptest::prelude::*;
use serde_json::Value;

use super::publisher::FORMATS;
use super::testing::{path, put, remove};
use super::*;
use crate::index::trie::testing::{Traffic, reader_of, serve};
use crate::index::trie::{Trie, TrieKey, TrieNode, stat, vectors};
use crate::path::Name;
use crate::stat::{Entry, Kind, MountTarget, Stat, TYPE_DIRECTORY, TYPE_FILE, TYPE_SYMLINK};
use crate::time::Time;
use hypermount_core::testing::Change;

fn trie_of(snapshot: &Snapshot) -> Trie {
    let Index::Trie(trie) = snapshot.index() else { panic!("another format") };
    trie.clone()
}

fn at(milliseconds: u64) -> Time {
    Time::from_milliseconds(milliseconds)
}

fn file(extent: Extent) -> Stat {
    Stat { mode: TYPE_FILE | 0o644, extent, mtime: at(1), ctime: at(1), ..Stat::default() }
}

fn names(listing: &[(Name, Entry)]) -> Vec<&str> {
    listing.iter().map(|(name, _)| name.as_str()).collect()
}

async fn whole(drive: &Drive, extent: &Extent, wait: Wait) -> Result<Vec<u8>> {
    Ok(drive.read(extent, 0..u64::MAX, wait).await?.concat())
}

async fn write(drive: &Drive, text: &str, blocks: &[&[u8]]) -> Extent {
    let blocks: Vec<Bytes> = blocks.iter().map(|block| Bytes::copy_from_slice(block)).collect();
    let extent = drive.append_content(&blocks).unwrap();
    drive.apply(vec![put(text, file(extent))]).await.unwrap();
    extent
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &target),
            false => drop(std::fs::copy(entry.path(), target).unwrap()),
        }
    }
}

/// A store with a copy of the drive that the reference wrote.
fn recorded_store() -> (tempfile::TempDir, Store) {
    let from = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/vectors/drive-small");
    let directory = tempfile::tempdir().unwrap();
    copy(Path::new(from), directory.path());
    let store = Store::open(directory.path(), false).unwrap();
    (directory, store)
}

fn recorded_key() -> PublicKey {
    PublicKey::from_hex(vectors::drive_small()["cores"][0]["key"].as_str().unwrap()).unwrap()
}

/// The SHA-256 that was recorded, computed by the system's tool.
fn sha256(bytes: &[u8]) -> String {
    use std::io::Write;
    use std::process::{Command, Stdio};
    let mut command = Command::new("sha256sum");
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(bytes).unwrap();
    let output = child.wait_with_output().unwrap().stdout;
    String::from_utf8(output).unwrap().split(' ').next().unwrap().to_owned()
}

fn assert_stat(what: &str, entry: &Entry, expected: &Value) {
    let number = |field: &str| expected[field].as_u64().unwrap();
    let stat = &entry.stat;
    assert!(entry.explicit, "{what}");
    assert_eq!(u64::from(stat.mode), number("mode"), "{what}");
    assert_eq!((u64::from(stat.uid), u64::from(stat.gid)), (number("uid"), number("gid")));
    let extent = Extent {
        block: number("offset"),
        blocks: number("blocks"),
        byte: number("byteOffset"),
        size: number("size"),
        map_size: 0,
        holes: 0,
        fork: 0,
    };
    assert_eq!(stat.extent, extent, "{what}");
    assert_eq!((stat.mtime, stat.ctime), (at(number("mtime")), at(number("ctime"))), "{what}");
    assert_eq!(stat.linkname.as_deref(), expected["linkname"].as_str(), "{what}");
    let attributes = expected["metadata"].as_object().into_iter().flatten();
    let attributes: BTreeMap<String, Option<Vec<u8>>> = attributes
        .map(|(name, value)| (name.clone(), value.as_str().map(|v| hex::decode(v).unwrap())))
        .collect();
    assert_eq!(stat.attributes.iter().cloned().collect::<BTreeMap<_, _>>(), attributes, "{what}");
    let mount = stat.mount.as_ref().map(|mount| mount.key.to_hex());
    assert_eq!(mount.as_deref(), expected["mount"]["key"].as_str(), "{what}");
}

/// Checks all of a recorded listing but what lies inside the mount, and how many files it read.
async fn check_recorded(drive: &Drive, recorded: &Value) -> usize {
    let snapshot = drive.snapshot();
    let mut read = 0;
    for (name, expected) in recorded["entries"].as_object().unwrap() {
        if name.starts_with("mnt/") {
            continue;
        }
        let entry = snapshot.entry(&path(name), Wait::Local).await.unwrap();
        assert_stat(name, &entry, expected);
        let sum = expected["sha256"].as_str().filter(|_| entry.kind == Kind::File);
        if let Some(sum) = sum {
            let bytes = whole(drive, &entry.stat.extent, Wait::Local).await.unwrap();
            assert_eq!(sha256(&bytes), sum, "{name}");
            read += 1;
        }
    }
    for (directory, order) in recorded["readdirOrder"].as_object().unwrap() {
        let order: Vec<&str> =
            order.as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect();
        match snapshot.list(&path(directory), Wait::Local).await {
            Ok(_) if directory == "/mnt" => {}
            Ok(listing) => {
                assert_eq!(names(&listing), order, "{directory}");
                for (name, entry) in &listing {
                    let child = path(directory).join(name).unwrap();
                    assert_eq!(snapshot.entry(&child, Wait::Local).await.unwrap(), *entry);
                }
            }
            Err(Error::NotFound) => assert!(order.is_empty(), "{directory}"),
            Err(error) => panic!("{directory}: {error}"),
        }
    }
    read
}

#[tokio::test]
async fn the_recorded_drive_reads_as_recorded_at_every_version() {
    let (_directory, store) = recorded_store();
    let recorded = vectors::drive_small();
    let mut read = 0;
    for version in recorded["versions"].as_array().unwrap() {
        let number = version["version"].as_u64();
        let drive = Drive::open(&store, &recorded_key(), number, Wait::Local).await.unwrap();
        assert_eq!(Some(drive.snapshot().version()), number);
        read += check_recorded(&drive, version).await;
    }
    assert!(read > 30, "{read} files");
    for version in recorded["checkouts"].as_object().unwrap().values() {
        let listing = &version["listing"];
        let number = listing["version"].as_u64();
        let drive = Drive::open(&store, &recorded_key(), number, Wait::Local).await.unwrap();
        check_recorded(&drive, listing).await;
    }
}

#[tokio::test]
async fn the_recorded_mount_leads_to_its_drive() {
    let (_directory, store) = recorded_store();
    let drive = Drive::open(&store, &recorded_key(), None, Wait::Local).await.unwrap();
    let mount = drive.snapshot().entry(&path("mnt"), Wait::Local).await.unwrap();
    assert_eq!(mount.kind, Kind::Mount);
    let target = mount.stat.mount.unwrap();
    assert_eq!(target.version, None);
    let record = trie_of(&drive.snapshot()).mount_record("mnt", Wait::Local).await.unwrap();
    assert_eq!(record, Some(target.clone()));
    let below = drive.snapshot().entry(&path("mnt/inside.txt"), Wait::Local).await;
    assert!(matches!(below, Err(Error::NotFound)));
    let nested = Drive::open(&store, &target.key, target.version, Wait::Local).await.unwrap();
    let listing = nested.snapshot().list(&path(""), Wait::Local).await.unwrap();
    assert_eq!(names(&listing), ["inside.txt", "via-parent.txt", "deep"]);
    let recorded = vectors::drive_small();
    let last = recorded["versions"].as_array().unwrap().last().unwrap();
    for (name, expected) in last["entries"].as_object().unwrap() {
        if let Some(inner) = name.strip_prefix("mnt/") {
            let entry = nested.snapshot().entry(&path(inner), Wait::Local).await.unwrap();
            assert_stat(name, &entry, expected);
            let bytes = whole(&nested, &entry.stat.extent, Wait::Local).await.unwrap();
            assert_eq!(sha256(&bytes), expected["sha256"].as_str().unwrap());
        }
    }
}

#[tokio::test]
async fn the_recorded_changes_are_found_without_rewritten_entries() {
    let (_directory, store) = recorded_store();
    let recorded = vectors::drive_small();
    let drive = Drive::open(&store, &recorded_key(), None, Wait::Local).await.unwrap();
    let old = Drive::open(&store, &recorded_key(), Some(16), Wait::Local).await.unwrap();
    let (old, new) = (old.snapshot(), drive.snapshot());
    let changes = drive.changes(&old, &new, 100, Wait::Local).await.unwrap();
    let found: Vec<String> = changes.iter().map(|change| change.path.as_str().into()).collect();
    let blocks = vectors::blocks(&recorded["metadataBlocks"]);
    let value = |seq: &Value| {
        let (seq, block) = &blocks[seq.as_u64()? as usize];
        TrieNode::decode(block.clone(), *seq).unwrap().value
    };
    let expected: Vec<String> = recorded["diffs"]["16"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|d| d["type"] == "mount" || value(&d["seq"]) != value(&d["previous"]["seq"]))
        .map(|d| d["name"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(found, expected);
    assert!(found.len() < recorded["diffs"]["16"].as_array().unwrap().len());
    let few = drive.changes(&old, &new, found.len() - 1, Wait::Local).await;
    assert!(matches!(few, Err(Error::TooLarge(_))));
}

#[tokio::test]
async fn the_recorded_drive_is_writable_where_its_master_key_is() {
    let (directory, store) = recorded_store();
    assert_eq!(stored_drives(&store).unwrap().len(), 2);
    let drive = Drive::create(&store, "default").unwrap();
    assert_eq!(*drive.key(), recorded_key());
    assert!(drive.writable());
    write(&drive, "dir/new.txt", &[b"new ", b"bytes"]).await;
    drop((drive, store));
    let store = Store::open(directory.path(), false).unwrap();
    let drive = Drive::open(&store, &recorded_key(), None, Wait::Local).await.unwrap();
    let entry = drive.snapshot().entry(&path("dir/new.txt"), Wait::Local).await.unwrap();
    assert_eq!(whole(&drive, &entry.stat.extent, Wait::Local).await.unwrap(), b"new bytes");
    assert!(drive.snapshot().entry(&path("hello.txt"), Wait::Local).await.is_ok());
}

#[tokio::test]
async fn a_new_drive_has_an_empty_root() {
    for format in FORMATS {
        let drive = Drive::create_in(format, &Store::memory(), "new").unwrap();
        let snapshot = drive.snapshot();
        assert_eq!(snapshot.version(), 1);
        let root = snapshot.entry(&path(""), Wait::Local).await.unwrap();
        assert_eq!((root.kind, root.explicit, root.stat.mode), (Kind::Directory, false, 0o040755));
        assert!(snapshot.list(&path(""), Wait::Local).await.unwrap().is_empty());
        let none = snapshot.entry(&path("a"), Wait::Local).await;
        assert!(matches!(none, Err(Error::NotFound)));
    }
}

#[tokio::test]
async fn directories_may_be_implied_or_stored() {
    let drive = Drive::create(&Store::memory(), "d").unwrap();
    write(&drive, "a/b/file", &[b"x"]).await;
    let link = Stat {
        mode: TYPE_SYMLINK | 0o777,
        linkname: Some("../elsewhere".into()),
        mtime: at(77),
        ..Stat::default()
    };
    let stored = Stat { mode: TYPE_DIRECTORY | 0o700, mtime: at(5), ..Stat::default() };
    drive.apply(vec![put("stored", stored.clone()), put("a/b/link", link)]).await.unwrap();
    let snapshot = drive.snapshot();
    let implied = snapshot.entry(&path("a/b"), Wait::Local).await.unwrap();
    assert_eq!(implied, Entry::implied_directory(at(77)), "nothing of the link but its time");
    let entry = snapshot.entry(&path("stored"), Wait::Local).await.unwrap();
    assert_eq!((entry.kind, entry.explicit, entry.stat), (Kind::Directory, true, stored));
    assert!(snapshot.list(&path("stored"), Wait::Local).await.unwrap().is_empty());
    let refused = snapshot.list(&path("a/b/file"), Wait::Local).await;
    assert!(matches!(refused, Err(Error::NotADirectory)));
    assert!(matches!(snapshot.list(&path("z"), Wait::Local).await, Err(Error::NotFound)));
}

#[tokio::test]
async fn edits_apply_together_or_not_at_all() {
    for format in FORMATS {
        let drive = Drive::create_in(format, &Store::memory(), "d").unwrap();
        write(&drive, "old", &[b"x"]).await;
        let before = drive.snapshot();
        let stat = before.entry(&path("old"), Wait::Local).await.unwrap().stat;
        let failed = drive.apply(vec![put("new", stat.clone()), remove("missing")]).await;
        assert!(matches!(failed, Err(Error::NotFound)));
        assert_eq!(drive.snapshot().version(), before.version());
        let version = drive.apply(vec![put("new", stat), remove("old")]).await.unwrap();
        assert_eq!(drive.snapshot().version(), version);
        assert_eq!(names(&drive.snapshot().list(&path(""), Wait::Local).await.unwrap()), ["new"]);
        assert_eq!(names(&before.list(&path(""), Wait::Local).await.unwrap()), ["old"], "pinned");
        assert_eq!(drive.apply(Vec::new()).await.unwrap(), version);
    }
}

#[tokio::test]
async fn mounts_are_made_kept_and_undone_with_their_records() {
    let drive = Drive::create(&Store::memory(), "d").unwrap();
    let mount = MountTarget { key: PublicKey::new([9; 32]), version: Some(4), core: false };
    let mode = TYPE_DIRECTORY | 0o755;
    let stat = Stat { mode, mount: Some(mount.clone()), ..Stat::default() };
    drive.apply(vec![put("x/mnt", stat.clone())]).await.unwrap();
    let entry = drive.snapshot().entry(&path("x/mnt"), Wait::Local).await.unwrap();
    assert_eq!((entry.kind, entry.stat.mount), (Kind::Mount, Some(mount.clone())));
    let record = |drive: &Drive| {
        let snapshot = drive.snapshot();
        async move { trie_of(&snapshot).mount_record("x/mnt", Wait::Local).await.unwrap() }
    };
    assert_eq!(record(&drive).await, Some(mount));
    for edit in [put("x/mnt/inside", Stat::default()), remove("x/mnt/inside")] {
        assert!(matches!(drive.apply(vec![edit]).await, Err(Error::ReadOnly(_))));
    }
    drive.apply(vec![remove("x/mnt")]).await.unwrap();
    assert_eq!(record(&drive).await, None);
    drive.apply(vec![put("x/mnt", stat)]).await.unwrap();
    drive.apply(vec![put("x/mnt", file(Extent::default()))]).await.unwrap();
    assert_eq!(record(&drive).await, None);
    drive.apply(vec![put("x/mnt/inside", Stat::default())]).await.unwrap();
}

#[tokio::test]
async fn frozen_and_foreign_drives_are_read_only() {
    for format in FORMATS {
        let store = Store::memory();
        let drive = Drive::create_in(format, &store, "d").unwrap();
        write(&drive, "a", &[b"1"]).await;
        let frozen = Drive::open(&store, drive.key(), Some(2), Wait::Local).await.unwrap();
        write(&drive, "b", &[b"2"]).await;
        assert_eq!(names(&frozen.snapshot().list(&path(""), Wait::Local).await.unwrap()), ["a"]);
        assert!(!frozen.writable() && frozen.frozen_version() == Some(2));
        assert!(matches!(frozen.newer_than(2, Wait::Forever).await, Err(Error::Unsupported(_))));
        let refused = frozen.apply(vec![remove("a")]).await;
        assert!(matches!(refused, Err(Error::ReadOnly(_))));
        assert!(matches!(frozen.append_content(&[]), Err(Error::ReadOnly(_))));
        drive.newer_than(2, Wait::Local).await.unwrap();
    }
}

fn uneven_blocks() -> impl Strategy<Value = Vec<Vec<u8>>> {
    proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 1..12)
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(future)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Local and remote reads of any range give what was written, whatever sizes blocks have.
    #[test]
    fn every_range_reads_what_was_written(
        files in proptest::collection::vec(uneven_blocks(), 1..4),
        from in 0u64..500,
        length in 0u64..500,
    ) {
        block_on(async {
            let drive = Drive::create(&Store::memory(), "d").unwrap();
            let mut written = Vec::new();
            for blocks in &files {
                let pieces: Vec<&[u8]> = blocks.iter().map(|block| &block[..]).collect();
                written.push((write(&drive, "f", &pieces).await, blocks.concat()));
            }
            let content = drive.content().unwrap();
            for (extent, bytes) in written {
                let range = from..from + length;
                let end = (range.end as usize).min(bytes.len());
                let expected = &bytes[(from as usize).min(end)..end];
                let local = drive.read(&extent, range.clone(), Wait::Local).await.unwrap();
                prop_assert_eq!(local.concat(), expected);
                let reader = reader_of(content);
                let traffic = Traffic::default();
                let remote = tokio::select! {
                    remote = read::read(&reader, &extent, range, Wait::Forever) => remote,
                    () = serve(content, &reader, &traffic) => unreachable!("serves for ever"),
                };
                prop_assert_eq!(remote.unwrap().concat(), expected);
            }
            Ok(())
        })?;
    }

    /// A drive is a map from paths to contents, now and at every version it had.
    #[test]
    fn the_drive_is_a_map(
        steps in proptest::collection::vec((any::<bool>(), 0..PATHS.len(), any::<u16>()), 1..30),
    ) {
        block_on(async {
            let store = Store::memory();
            let drive = Drive::create(&store, "d").unwrap();
            let mut model: BTreeMap<&str, Vec<u8>> = BTreeMap::new();
            let mut versions = vec![(drive.snapshot(), model.clone())];
            for (puts, at, value) in steps {
                let text = PATHS[at];
                if puts {
                    let bytes = vec![b'x'; usize::from(value % 300)];
                    write(&drive, text, &[&bytes[..]]).await;
                    model.insert(text, bytes);
                } else {
                    let removed = drive.apply(vec![remove(text)]).await;
                    prop_assert_eq!(removed.is_ok(), model.remove(text).is_some());
                }
                versions.push((drive.snapshot(), model.clone()));
            }
            let (last, now) = versions.last().unwrap().clone();
            for (snapshot, then) in versions {
                for text in PATHS {
                    let entry = snapshot.entry(&path(text), Wait::Local).await;
                    match then.get(text) {
                        Some(bytes) => {
                            let extent = entry.unwrap().stat.extent;
                            prop_assert_eq!(
                                &whole(&drive, &extent, Wait::Local).await.unwrap(), bytes
                            );
                        }
                        None => prop_assert!(entry.map_or(true, |entry| !entry.explicit)),
                    }
                }
                let changes = drive.changes(&snapshot, &last, 100, Wait::Local).await.unwrap();
                for change in &changes {
                    let text = change.path.as_str();
                    prop_assert_eq!(change.before.is_some(), then.contains_key(text));
                    prop_assert_eq!(change.after.is_some(), now.contains_key(text));
                }
                for text in PATHS {
                    let differs = then.get(text) != now.get(text);
                    let found = changes.iter().any(|change| change.path.as_str() == text);
                    prop_assert!(!differs || found, "{} is missing", text);
                }
            }
            Ok(())
        })?;
    }
}

const PATHS: [&str; 8] =
    ["a", "b", "dir/a", "dir/b", "dir/sub/c", "deep/er/still/x", "ü", "dir2/a"];

#[tokio::test]
async fn a_cold_random_read_of_usual_blocks_takes_two_round_trips_at_most() {
    for block_size in [64 * 1024usize, 512 * 1024] {
        let drive = Drive::create(&Store::memory(), "d").unwrap();
        let block = vec![7; block_size];
        let blocks: Vec<&[u8]> =
            std::iter::repeat_n(&block[..], 9).chain([&block[..999]]).collect();
        write(&drive, "before", &[b"some", b"thing"]).await;
        let extent = write(&drive, "big", &blocks).await;
        let content = drive.content().unwrap();
        let reader = reader_of(content);
        let traffic = Traffic::default();
        let start = 5 * block_size as u64 - 10;
        let range = start..start + 128 * 1024;
        let read = tokio::select! {
            read = read::read(&reader, &extent, range, Wait::Forever) => read.unwrap(),
            () = serve(content, &reader, &traffic) => unreachable!("serves for ever"),
        };
        assert_eq!(read.concat(), vec![7; 128 * 1024]);
        assert!(traffic.rounds() <= 2, "{} round trips", traffic.rounds());
        assert!(reader.held(0..reader.head().length) <= 4);
    }
}

#[tokio::test]
async fn held_bytes_are_counted_and_others_prefetched() {
    let drive = Drive::create(&Store::memory(), "d").unwrap();
    let extent = write(&drive, "f", &[&[1; 100], &[2; 50], &[3; 7]]).await;
    assert_eq!(drive.held(&extent), (157, 3));
    let content = drive.content().unwrap();
    let reader = reader_of(content);
    assert_eq!(read::held(&reader, &extent), (0, 0));
    let traffic = Traffic::default();
    tokio::select! {
        got = read::read(&reader, &extent, 0..10, Wait::Forever) => drop(got.unwrap()),
        () = serve(content, &reader, &traffic) => unreachable!("serves for ever"),
    }
    assert_eq!(read::held(&reader, &extent), (100, 1));
    reader.demand().take_changes();
    read::prefetch(&reader, &extent, 0..157, Urgency::Ahead);
    let wanted = |block| Change::Wanted { block, urgency: Urgency::Ahead };
    assert_eq!(reader.demand().take_changes(), [wanted(1), wanted(2)]);
}

#[tokio::test]
async fn senseless_extents_are_malformed_and_allocate_nothing() {
    let drive = Drive::create(&Store::memory(), "d").unwrap();
    let good = write(&drive, "f", &[&[1; 100], &[2; 50]]).await;
    for bad in [
        Extent { size: 1 << 53, ..good },
        Extent { size: 151, ..good },
        Extent { blocks: 3, ..good },
        Extent { blocks: 0, ..good },
        Extent { block: 1 << 53, ..good },
        Extent { block: 1, blocks: 1, ..good },
        Extent { byte: 7, ..good },
        Extent {
            block: u64::MAX,
            blocks: u64::MAX,
            byte: u64::MAX,
            size: u64::MAX,
            map_size: 0,
            holes: 0,
            fork: 0,
        },
        Extent { block: 0, blocks: 2, byte: u64::MAX, size: 1, map_size: 0, holes: 0, fork: 0 },
    ] {
        let read = whole(&drive, &bad, Wait::Local).await;
        assert!(matches!(read, Err(Error::Malformed(_))), "{bad:?}: {read:?}");
        drive.prefetch(&bad, 0..u64::MAX, Urgency::Ahead);
        let _ = drive.held(&bad);
    }
    assert_eq!(whole(&drive, &good, Wait::Local).await.unwrap().len(), 150);
    assert!(drive.read(&good, 150..200, Wait::Local).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_hostile_extent_on_a_remote_core_ends_with_the_wait() {
    let drive = Drive::create(&Store::memory(), "d").unwrap();
    write(&drive, "f", &[&[1; 100]]).await;
    let content = drive.content().unwrap();
    let reader = reader_of(content);
    let extent =
        Extent { block: 1 << 40, blocks: 5, byte: 0, size: 100, map_size: 0, holes: 0, fork: 0 };
    let wait = Wait::within(std::time::Duration::from_millis(50));
    let traffic = Traffic::default();
    let read = tokio::select! {
        read = read::read(&reader, &extent, 0..10, wait) => read,
        () = serve(content, &reader, &traffic) => unreachable!("serves for ever"),
    };
    assert!(matches!(read, Err(Error::Unavailable { .. } | Error::Malformed(_))), "{read:?}");
}

#[tokio::test]
async fn bad_names_and_stats_do_not_hide_their_neighbours() {
    let drive = Drive::create(&Store::memory(), "d").unwrap();
    write(&drive, "dir/good", &[b"x"]).await;
    let trie = trie_of(&drive.snapshot());
    let mut batch = crate::index::trie::Batch::new(trie).await.unwrap();
    let value = stat::encode(&file(Extent::default())).unwrap();
    let long = format!("dir/{}", "n".repeat(256));
    for key in ["dir/..", "dir/.", "dir//x", "dir/nul\0", &long, "dir/ok/.."] {
        batch.put(TrieKey::new(key, false).unwrap(), Some(value.clone()), 0).await.unwrap();
    }
    let garbage = Some(Bytes::from_static(&[0xff; 30]));
    batch.put(TrieKey::new("dir/garbage", false).unwrap(), garbage, 0).await.unwrap();
    batch.put(TrieKey::new("dir/none", false).unwrap(), None, 0).await.unwrap();
    drive.metadata_core().append(&batch.encode()).unwrap();
    let snapshot = drive.snapshot();
    let listing = snapshot.list(&path("dir"), Wait::Local).await.unwrap();
    let mut listed = names(&listing);
    listed.sort();
    assert_eq!(listed, ["good", "ok"]);
    let garbage = snapshot.entry(&path("dir/garbage"), Wait::Local).await;
    assert!(matches!(garbage, Err(Error::Malformed(_))));
    let old = drive.snapshot_at(1);
    let changes = drive.changes(&old, &snapshot, 100, Wait::Local).await.unwrap();
    let mut changed: Vec<&str> = changes.iter().map(|change| change.path.as_str()).collect();
    changed.sort();
    assert_eq!(changed, ["dir/garbage", "dir/good", "dir/none"]);
}

#[tokio::test]
async fn a_whole_core_can_be_a_file() {
    let store = Store::memory();
    let drive = Drive::create(&store, "d").unwrap();
    let log = store.core_named(b"log").unwrap();
    assert!(drive.read_core(log.key(), 0..10, Wait::Local).await.unwrap().is_empty());
    log.append(&[Bytes::from_static(b"hello "), Bytes::from_static(b"world")]).unwrap();
    let read = drive.read_core(log.key(), 3..100, Wait::Local).await.unwrap();
    assert_eq!(read.concat(), b"lo world");
}

#[tokio::test]
async fn opening_a_core_without_an_index_is_malformed() {
    let store = Store::memory();
    let log = store.core_named(b"log").unwrap();
    log.append(&[Bytes::from_static(b"not a header")]).unwrap();
    let opened = Drive::open(&store, log.key(), None, Wait::Local).await;
    assert!(matches!(opened.err(), Some(Error::Malformed(_))));
    let absent = Drive::open(&store, &PublicKey::new([3; 32]), None, Wait::Local).await;
    assert!(matches!(absent.err(), Some(Error::Unavailable { .. })));
}
