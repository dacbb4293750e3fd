//! Only the accessed data is transferred: measured at the socket, through real mounts.

mod common;

use bytes::Bytes;
use common::living::{self, Mounted};
use hypermount_core::Store;
use hypermount_drive::{Drive, DrivePath, Edit, Extent, Stat, TYPE_FILE, Time};

const MIB: u64 = 1 << 20;

/// A store with one drive made of the edits, and its key.
async fn publish(store: &Store, edits: impl Iterator<Item = (String, Extent)>) -> String {
    let drive = Drive::create(store, "published").expect("create");
    let mut batch = Vec::new();
    for (path, extent) in edits {
        let mtime = Time::from_milliseconds(1_600_000_000_000);
        let stat = Stat { mode: TYPE_FILE | 0o644, extent, mtime, ..Stat::default() };
        batch.push(Edit::Put { path: DrivePath::parse(&path).expect("path"), stat });
        if batch.len() == 5_000 {
            drive.apply(std::mem::take(&mut batch)).await.expect("apply");
        }
    }
    drive.apply(batch).await.expect("apply");
    drive.key().to_hex()
}

#[tokio::test]
async fn one_mebibyte_from_the_middle_of_a_gibibyte_brings_less_than_two() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let at = |name: &str| directory.path().join(name);
    let store = Store::open(&at("origin"), true).expect("store");
    let drive = Drive::create(&store, "published").expect("create");
    let mut extent = Extent::default();
    for batch in 0..64u8 {
        let blocks: Vec<Bytes> =
            (0..256).map(|block| Bytes::from(vec![batch ^ block as u8; 65_536])).collect();
        let part = drive.append_content(&blocks).expect("append");
        extent.blocks += part.blocks;
        extent.size += part.size;
    }
    assert_eq!(extent.size, 1 << 30);
    drop(drive);
    let key = publish(&store, [("big.bin".to_owned(), extent)].into_iter()).await;
    drop(store);

    let mut server = living::serve(&at("origin"));
    let mounted = Mounted::by_key(&key, &at("mnt"), &at("copy"), &[server.address.clone()]);
    let middle = living::read_at(&mounted.path("big.bin"), (512 << 20) + 777, MIB as usize);
    assert_eq!(middle[0], 32, "block 8192 is the first of batch 32");
    drop(mounted);
    let bytes = server.sent();
    assert!(bytes > MIB && bytes < 2 * MIB, "{bytes} bytes sent");
}

#[tokio::test]
async fn a_stat_among_a_hundred_thousand_files_brings_less_than_200_kilobytes() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let at = |name: &str| directory.path().join(name);
    let store = Store::open(&at("origin"), true).expect("store");
    let files = (0..100_000).map(|n| (format!("dir-{}/file-{n}", n % 100), Extent::default()));
    let key = publish(&store, files).await;
    drop(store);

    let mut server = living::serve(&at("origin"));
    let mounted = Mounted::by_key(&key, &at("mnt"), &at("copy"), &[server.address.clone()]);
    let found = std::fs::metadata(mounted.path("dir-42/file-31442")).expect("stat");
    assert!(found.is_file());
    assert!(!mounted.path("dir-42/file-31443").exists());
    drop(mounted);
    let bytes = server.sent();
    assert!(bytes > 1_000 && bytes < 200_000, "{bytes} bytes sent");
}
