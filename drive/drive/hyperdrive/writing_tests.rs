//! Writing a drive in either format: what is stored is what is read, also after a restart, and by a reader of the key.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::publisher::FORMATS;
use super::testing::{path, put, remove};
use super::*;
use crate::stat::{
    Kind, Segment, Stat, TYPE_DIRECTORY, TYPE_FIFO, TYPE_FILE, TYPE_SOCKET, TYPE_SYMLINK,
};
use crate::time::Time;

fn stat(mode: u32) -> Stat {
    let attributes = vec![("user.a".to_owned(), Some(vec![0, 7, 255]))];
    let [mtime, ctime] = [1_700_000_000_123, 1_700_000_000_456].map(Time::from_milliseconds);
    Stat { mode, uid: 1000, gid: 100, mtime, ctime, attributes, ..Stat::default() }
}

async fn write(drive: &Drive, text: &str, mode: u32, blocks: &[&[u8]]) -> Stat {
    let blocks: Vec<Bytes> = blocks.iter().map(|block| Bytes::copy_from_slice(block)).collect();
    let extent = drive.append_content(&blocks).unwrap();
    let stat = Stat { extent, ..stat(mode) };
    drive.apply(vec![put(text, stat.clone())]).await.unwrap();
    stat
}

async fn read(drive: &Drive, text: &str) -> Vec<u8> {
    let entry = drive.snapshot().entry(&path(text), Wait::Local).await.unwrap();
    drive.read(&entry.stat.extent, 0..u64::MAX, Wait::Local).await.unwrap().concat()
}

async fn list(drive: &Drive, text: &str) -> Vec<(String, Kind)> {
    let listed = drive.snapshot().list(&path(text), Wait::Local).await.unwrap();
    let mut names: Vec<_> =
        listed.into_iter().map(|(name, entry)| (name.as_str().to_owned(), entry.kind)).collect();
    names.sort_by(|one, other| one.0.cmp(&other.0));
    names
}

/// What a publisher says of holes makes no hole of data.
#[tokio::test]
async fn holes_that_are_only_claimed_are_data() {
    for format in FORMATS {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path(), true).unwrap();
        let drive = Drive::create_in(format, &store, "test").unwrap();
        let blocks = [Bytes::from(vec![7; 65_536]), hypermount_core::zeros(65_536)];
        let extent = drive.append_content(&blocks).unwrap();
        for holes in [1, extent.size, u64::MAX] {
            let lied = Extent { holes, ..extent };
            drive.apply(vec![put("file", Stat { extent: lied, ..stat(TYPE_FILE) })]).await.unwrap();
            let entry = drive.snapshot().entry(&path("file"), Wait::Local).await.unwrap();
            assert_eq!(entry.stat.extent, lied, "{format}");
            let told = |at| drive.segment(&entry.stat.extent, at);
            assert_eq!(told(5), Segment { is_hole: false, end: 65_536 }, "{format}");
            assert_eq!(told(65_536), Segment { is_hole: true, end: 131_072 }, "{format}");
        }
        let nonsense = Extent { block: 5, blocks: 1 << 40, holes: 1, ..extent };
        assert_eq!(drive.segment(&nonsense, 0), Segment { is_hole: false, end: extent.size });
        assert!(!drive.segment(&extent, 65_536).is_hole, "of which nothing is said");
    }
}

/// Sentence 154. "There all holes that were ever stored count for the length of the log: beyond 8 TiB a file with holes
/// is refused with EFBIG."
#[tokio::test]
async fn holes_do_not_make_the_log_longer_than_files_may_be() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path(), true).unwrap();
    let drive = Drive::create_in(DriveFormat::Hyperdrive10, &store, "test").unwrap();
    let limit = 8 << 40;
    let mut writer = drive.content_writer().await.unwrap();
    writer.check_sparse(limit, 1).unwrap();
    writer.append(&[Bytes::from_static(b"x")]).unwrap();
    // fs/errno.rs makes EFBIG of it.
    assert!(matches!(writer.check_sparse(limit, 1), Err(Error::TooLarge(_))));
    writer.check_sparse(limit - 1, 1).unwrap();
    writer.check_sparse(limit, 0).unwrap();
}

/// Sentence 132. "A drive made with `--format 13` keeps owners, modes, extended attributes, directories, fifos, sockets
/// and devices, the empty directories too."
///
/// In a listing too, in either format.
#[tokio::test]
async fn what_is_stored_is_what_is_read_after_a_restart() {
    for format in FORMATS {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().join("store"), true).unwrap();
        let drive = Drive::create_in(format, &store, "d").unwrap();
        assert!(drive.writable(), "{format}");
        let mut stored = BTreeMap::new();
        for (text, mode) in [("a/file", 0o640), ("a/program", 0o4755), ("b", 0o600)] {
            stored.insert(text, write(&drive, text, TYPE_FILE | mode, &[b"1", b"23"]).await);
        }
        stored.insert("empty", write(&drive, "empty", TYPE_FILE | 0o644, &[]).await);
        let link = Stat { linkname: Some("../b".into()), ..stat(TYPE_SYMLINK | 0o777) };
        for (text, stat) in [
            ("a", stat(TYPE_DIRECTORY | 0o1750)),
            ("bare", stat(TYPE_DIRECTORY | 0o700)),
            ("a/bare", stat(TYPE_DIRECTORY | 0o755)),
            ("a/link", link),
            ("fifo", stat(TYPE_FIFO | 0o600)),
            ("socket", stat(TYPE_SOCKET | 0o600)),
            ("", stat(TYPE_DIRECTORY | 0o711)),
        ] {
            drive.apply(vec![put(text, stat.clone())]).await.unwrap();
            stored.insert(text, stat);
        }
        let key = *drive.key();
        drive.sync().unwrap();
        drop((drive, store));
        let store = Store::open(&directory.path().join("store"), false).unwrap();
        let drive = Drive::open(&store, &key, None, Wait::Local).await.unwrap();
        assert_eq!((drive.format(), drive.writable()), (format, true));
        for (text, stat) in &stored {
            let entry = drive.snapshot().entry(&path(text), Wait::Local).await.unwrap();
            assert_eq!((&entry.stat, entry.explicit), (stat, true), "{format}: {text}");
        }
        assert_eq!(read(&drive, "a/file").await, b"123");
        assert_eq!(read(&drive, "empty").await, b"");
        let (file, directory, link) = (Kind::File, Kind::Directory, Kind::Symlink);
        let expected = [("bare", directory), ("file", file), ("link", link), ("program", file)];
        let expected = expected.map(|(name, kind)| (name.to_owned(), kind));
        assert_eq!(list(&drive, "a").await, expected, "{format}");
        let names: Vec<String> = list(&drive, "").await.into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["a", "b", "bare", "empty", "fifo", "socket"], "{format}");
        assert_eq!(list(&drive, "bare").await, []);
        for (name, entry) in drive.snapshot().list(&path("a"), Wait::Local).await.unwrap() {
            assert_eq!(Some(&entry.stat), stored.get(&*format!("a/{}", name.as_str())), "{name:?}");
        }
    }
}

/// What is at a path is replaced by something of another kind, removed, and put again.
#[tokio::test]
async fn at_a_path_there_is_what_was_put_last() {
    for format in FORMATS {
        let drive = Drive::create_in(format, &Store::memory(), "d").unwrap();
        let before = drive.snapshot();
        for mode in [TYPE_FILE, TYPE_DIRECTORY, TYPE_FIFO, TYPE_FILE, TYPE_SOCKET] {
            drive.apply(vec![put("x", stat(mode | 0o755))]).await.unwrap();
            let entry = drive.snapshot().entry(&path("x"), Wait::Local).await.unwrap();
            assert_eq!((entry.stat, entry.explicit), (stat(mode | 0o755), true), "{format}");
            assert_eq!(list(&drive, "").await.len(), 1);
        }
        drive.apply(vec![remove("x")]).await.unwrap();
        let gone = drive.snapshot().entry(&path("x"), Wait::Local).await;
        assert!(matches!(gone, Err(Error::NotFound)), "{format}");
        assert!(matches!(drive.apply(vec![remove("x")]).await, Err(Error::NotFound)));
        assert_eq!(list(&drive, "").await, []);
        // A directory that is there because of what is below it, a directory without a parent's entry.
        drive.apply(vec![put("p/q", stat(TYPE_DIRECTORY | 0o755))]).await.unwrap();
        let implied = drive.snapshot().entry(&path("p"), Wait::Local).await.unwrap();
        assert_eq!((implied.kind, implied.explicit), (Kind::Directory, false), "{format}");
        let new = drive.snapshot();
        let mut changes = drive.changes(&before, &new, 100, Wait::Local).await.unwrap();
        changes.sort_by(|one, other| one.path.cmp(&other.path));
        let changed: Vec<_> = changes.iter().map(|change| change.path.as_str()).collect();
        assert!(changed.ends_with(&["p/q"]), "{format}: {changed:?}");
    }
}

/// A directory of many files is renamed in one version and no byte is moved.
#[tokio::test]
async fn a_rename_of_many_files_moves_no_bytes() {
    for format in FORMATS {
        let drive = Drive::create_in(format, &Store::memory(), "d").unwrap();
        let extent = drive.append_content(&[Bytes::from("content")]).unwrap();
        let stat = Stat { extent, ..stat(TYPE_FILE | 0o644) };
        let name = |directory: &str, at: u32| format!("{directory}/{}/{at}", at % 7);
        let puts = (0..3000).map(|at| put(&name("old", at), stat.clone()));
        drive.apply(puts.collect()).await.unwrap();
        let bytes = drive.content().unwrap().head();
        let before = drive.snapshot();
        let edits = (0..3000)
            .flat_map(|at| [put(&name("new", at), stat.clone()), remove(&name("old", at))]);
        let version = drive.apply(edits.collect()).await.unwrap();
        assert_eq!(drive.content().unwrap().head(), bytes);
        assert_eq!(drive.snapshot().version(), version);
        assert_eq!(list(&drive, "").await, [("new".to_owned(), Kind::Directory)]);
        assert_eq!(list(&drive, "new/3").await.len(), 429);
        assert_eq!(before.list(&path("old/3"), Wait::Local).await.unwrap().len(), 429);
        assert_eq!(read(&drive, "new/3/3").await, b"content", "{format}");
    }
}

fn time(seconds: i64, nanoseconds: u32) -> Time {
    Time::new(seconds, nanoseconds).unwrap()
}

/// Times that are not whole milliseconds from 1970 on, access times, and the numbers of devices.
#[tokio::test]
async fn exact_times_and_devices_are_stored_in_every_format() {
    for format in FORMATS {
        let store = Store::memory();
        let drive = Drive::create_in(format, &store, "d").unwrap();
        let device = Some(crate::stat::Device { major: 8, minor: 300 });
        for (name, stat) in [
            ("before", Stat { mtime: time(-2, 500_000_001), ..stat(TYPE_FILE | 0o644) }),
            ("late", Stat { mtime: time(4_294_967_296, 7), ..stat(TYPE_FILE | 0o644) }),
            ("latest", Stat { mtime: time(1 << 60, 7), ..stat(TYPE_DIRECTORY | 0o755) }),
            ("changed", Stat { ctime: time(-1, 0), ..stat(TYPE_FILE | 0o644) }),
            ("read", Stat { atime: Some(time(-7, 9)), ..stat(TYPE_FILE | 0o644) }),
            ("char", Stat { device, ..stat(0o020_600) }),
            ("block", Stat { device, atime: Some(time(5, 5)), ..stat(0o060_600) }),
            (
                "",
                Stat { mtime: time(9, 9), atime: Some(time(1, 0)), ..stat(TYPE_DIRECTORY | 0o700) },
            ),
        ] {
            drive.apply(vec![put(name, stat.clone())]).await.unwrap();
            let found = drive.snapshot().entry(&path(name), Wait::Local).await.unwrap();
            assert_eq!(found.stat, stat, "{name} {format}");
            assert_eq!(found.kind, Kind::from_mode(stat.mode));
        }
        let kinds = list(&drive, "").await;
        assert!(kinds.contains(&("block".to_owned(), Kind::BlockDevice)), "{kinds:?} {format}");
        assert!(kinds.contains(&("char".to_owned(), Kind::CharacterDevice)), "{kinds:?} {format}");
        drive.apply(vec![remove("char")]).await.unwrap();
        let gone = drive.snapshot().entry(&path("char"), Wait::Local).await;
        assert!(matches!(gone, Err(Error::NotFound)), "{gone:?} {format}");
    }
}

/// In a drive of Hyperdrive 10 the root is stored where the reference does not stumble over it; where earlier versions
/// of this program stored it, it is still found, until the next change of it.
#[tokio::test]
async fn the_root_has_a_hidden_key_in_format_10() {
    use crate::index::trie::{Batch, Trie, TrieKey, TrieNode};
    let drive = Drive::create(&Store::memory(), "d").unwrap();
    let root = |mode: u32| Stat { mode: TYPE_DIRECTORY | mode, ..stat(0) };
    drive.apply(vec![put("a/b", stat(TYPE_FILE | 0o644))]).await.unwrap();
    let Index::Trie(trie) = drive.snapshot().index().clone() else { panic!("another format") };
    let mut batch = Batch::new(Trie::at(trie.nodes().clone(), trie.version())).await.unwrap();
    let value = crate::index::trie::stat::encode(&root(0o711)).unwrap();
    batch.put(TrieKey::new("", false).unwrap(), Some(value), 0).await.unwrap();
    drive.metadata_core().append(&batch.encode()).unwrap();
    let entry = async || drive.snapshot().entry(&path(""), Wait::Local).await.unwrap();
    assert_eq!(entry().await.stat, root(0o711), "of an earlier version");
    let before = drive.snapshot();
    drive.apply(vec![put("", root(0o700))]).await.unwrap();
    assert_eq!((entry().await.stat, entry().await.explicit), (root(0o700), true));
    let changes = drive.changes(&before, &drive.snapshot(), 10, Wait::Local).await.unwrap();
    assert!(changes.iter().any(|change| change.path.is_root()), "{changes:?}");
    assert_eq!(list(&drive, "").await, [("a".to_owned(), Kind::Directory)]);
    let head = drive.snapshot().version() - 1;
    let block = drive.metadata_core().get_local(head).unwrap().unwrap();
    let node = TrieNode::decode(block, head).unwrap();
    assert_eq!((node.key.text(), node.key.hidden()), ("hypermount/root", true));
    let visible = TrieKey::new("", false).unwrap();
    let Index::Trie(trie) = drive.snapshot().index().clone() else { panic!("another format") };
    assert!(trie.get_node(&visible, Wait::Local).await.unwrap().is_none());
    drive.apply(vec![remove("a/b")]).await.unwrap();
    assert_eq!(entry().await.stat, root(0o700), "of an empty drive");
    drive.apply(vec![remove("")]).await.unwrap();
    assert!(!entry().await.explicit);
    assert_eq!(list(&drive, "").await, []);
}

/// What the format has no place for is refused, and nothing is stored.
#[tokio::test]
async fn nested_drives_are_refused_in_format_13() {
    let drive = Drive::create_in(DriveFormat::Hyperdrive11, &Store::memory(), "d").unwrap();
    let mount =
        crate::stat::MountTarget { key: PublicKey::new([9; 32]), version: None, core: false };
    let version = drive.snapshot().version();
    for refused in [
        put("x", Stat { mount: Some(mount), ..stat(TYPE_DIRECTORY | 0o755) }),
        put("", stat(TYPE_FILE | 0o600)),
    ] {
        let what = format!("{refused:?}");
        let refused = drive.apply(vec![refused]).await;
        assert!(matches!(refused, Err(Error::Unsupported(_))), "{what}");
    }
    assert_eq!(drive.snapshot().version(), version);
}

/// The content core is the one that other programs derive from the index.
#[test]
fn the_content_core_of_format_13_derives_from_its_index() {
    let store = Store::memory();
    let drive = Drive::create_in(DriveFormat::Hyperdrive11, &store, "d").unwrap();
    let derived = crate::index::derived_content_key(drive.metadata_core()).unwrap();
    assert_eq!(*drive.content().unwrap().key(), derived);
    let again = Drive::create_in(DriveFormat::Hyperdrive11, &store, "d").unwrap();
    assert_eq!(again.key(), drive.key());
    let old = Drive::create(&store, "d").unwrap();
    assert_ne!(old.key(), drive.key());
}
