//! A key alone does not tell which kind of core it is of: drives of both kinds, from peers over TCP.

use serde_json::json;

use super::bee_testing::{Origin, file, put, recorded_in};
use super::testing::path;
use super::*;
use crate::stat::Kind;
use hypermount_core::{Sharing, SharingOptions};

fn limit() -> Wait {
    Wait::within(Duration::from_secs(60))
}

/// A store that serves another one.
struct Served {
    to: Store,
    _sharing: [Sharing; 2],
}

async fn served(from: &Store, to: Store) -> Served {
    let serving = Sharing::new(from, SharingOptions::default()).unwrap();
    let address = serving.listen("127.0.0.1:0").await.unwrap();
    let reading = Sharing::new(&to, SharingOptions::default()).unwrap();
    reading.dial(&address.to_string());
    Served { to, _sharing: [serving, reading] }
}

#[tokio::test]
async fn a_drive_of_either_kind_is_opened_by_its_key_and_read() {
    for origin in [Origin::new(), Origin::modern()] {
        let dialect = origin.index.dialect();
        let (origin, vector) = recorded_in(origin).await;
        let directory = tempfile::tempdir().unwrap();
        let served = served(&origin.store, Store::open(directory.path(), true).unwrap()).await;
        let drive = Drive::open(&served.to, origin.index.key(), None, limit()).await.unwrap();
        assert_eq!(drive.metadata_core().dialect(), dialect);
        assert_eq!(drive.content().unwrap().dialect(), dialect);
        drive.newer_than(24, limit()).await.unwrap();
        let (snapshot, own) = (drive.snapshot(), origin.open(None).await.unwrap());
        for expected in vector["entries"].as_array().unwrap() {
            let path = path(expected["key"].as_str().unwrap());
            let entry = snapshot.entry(&path, limit()).await.unwrap();
            assert_eq!(entry, own.snapshot().entry(&path, Wait::Local).await.unwrap());
            if entry.kind == Kind::File {
                let extent = &entry.stat.extent;
                let read = drive.read(extent, 0..u64::MAX, limit()).await.unwrap().concat();
                let own = own.read(extent, 0..u64::MAX, Wait::Local).await.unwrap().concat();
                assert!(read == own, "{path}");
            }
        }
        // The core of the other kind was given up.
        let found = served.to.cores();
        assert!(found.iter().all(|core| core.dialect() == dialect), "{dialect:?}");
        assert_eq!(served.to.stored_dialect(origin.index.key()).unwrap(), Some(dialect));
        served.to.sync().unwrap();
        assert_eq!(stored_drives(&served.to).unwrap(), [*origin.index.key()]);
    }
}

#[tokio::test]
async fn a_reader_follows_what_a_publisher_of_hyperdrive_13_puts() {
    let origin = Origin::modern();
    let mut writer = origin.writer();
    put(&mut writer, "a", &file(&origin.blob(&[b"one"])));
    origin.append(&writer);
    let served = served(&origin.store, Store::memory()).await;
    let drive = Drive::open(&served.to, origin.index.key(), None, limit()).await.unwrap();
    drive.newer_than(1, limit()).await.unwrap();
    let old = drive.snapshot();
    put(&mut writer, "a", &file(&origin.blob(&[b"two", b"three"])));
    let blob = origin.blob(&[b"timed"]);
    put(&mut writer, "b/c", &json!({"blob": blob, "metadata": {"mtimeMs": 5.5}}));
    origin.append(&writer);
    while drive.snapshot().version() < 4 {
        drive.other_than(&drive.snapshot(), limit()).await.unwrap();
    }
    let new = drive.snapshot();
    let changes = drive.changes(&old, &new, 10, limit()).await.unwrap();
    let changed: Vec<_> = changes.iter().map(|change| change.path.as_str()).collect();
    assert_eq!(changed, ["a", "b", "b/c"]);
    for (snapshot, content) in [(&old, "one"), (&new, "twothree")] {
        let entry = snapshot.entry(&path("a"), limit()).await.unwrap();
        let read = drive.read(&entry.stat.extent, 0..u64::MAX, limit()).await.unwrap();
        assert_eq!(read.concat(), content.as_bytes());
    }
    assert_eq!(new.entry(&path("b/c"), limit()).await.unwrap().stat.mtime.milliseconds(), 5);
}

/// 4,000 files in directories of 20, in an index that is not fetched whole.
#[tokio::test]
async fn a_large_drive_of_hyperdrive_13_is_listed_from_a_peer() {
    let origin = Origin::modern();
    let mut writer = origin.writer();
    let blob = origin.blob(&[b"x"]);
    let fat = json!({"blob": blob, "metadata": "m".repeat(1500)});
    for n in 0..4000 {
        put(&mut writer, &format!("{:03}/{:02}", n % 200, n / 200), &fat);
    }
    origin.append(&writer);
    assert!(origin.index.head().byte_length > 4 << 20);
    let served = served(&origin.store, Store::memory()).await;
    let drive = Drive::open(&served.to, origin.index.key(), None, limit()).await.unwrap();
    drive.newer_than(4000, limit()).await.unwrap();
    let snapshot = drive.snapshot();
    assert_eq!(snapshot.list(&path("123"), limit()).await.unwrap().len(), 20);
    assert_eq!(snapshot.list(&path(""), limit()).await.unwrap().len(), 200);
    let found = drive.metadata_core().held(0..4001);
    let mut files = 0;
    for directory in 0..200 {
        let directory = path(&format!("{directory:03}"));
        files += snapshot.list(&directory, limit()).await.unwrap().len();
    }
    assert_eq!((files, drive.metadata_core().held(0..4001) >= found), (4000, true));
}
