//! What is left of a drive that was opened and that no peer has.

use std::time::Duration;

use hypermount_core::{Sharing, SharingOptions, Store, Wait};
use hypermount_swarm::PublicKey;

use crate::Drive;

/// A key that no peer has leaves no directory in the store.
#[tokio::test]
async fn a_drive_that_no_peer_has_leaves_no_directory() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path(), true).unwrap();
    let _sharing = Sharing::new(&store, SharingOptions::default()).unwrap();
    let key = PublicKey::new([0x42; 32]);
    let id = key.discovery_key().to_string();
    let at = || {
        let all = walk(directory.path());
        all.into_iter().any(|path| path.to_string_lossy().contains(&id))
    };
    let wait = Wait::within(Duration::from_millis(50));
    assert!(Drive::open(&store, &key, None, wait).await.is_err());
    let gone = async {
        while at() || !store.cores().is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), gone).await.unwrap();
}

fn walk(directory: &std::path::Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    entries
        .flat_map(|entry| {
            let path = entry.path();
            if path.is_dir() { [vec![path.clone()], walk(&path)].concat() } else { vec![path] }
        })
        .collect()
}
