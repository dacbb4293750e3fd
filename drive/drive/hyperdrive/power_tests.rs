//! That the names of what was made survive a power cut (`core/private_files/power.rs` is the model).

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::{Drive, Edit};
use crate::path::DrivePath;
use crate::stat::Stat;
use hypermount_core::testing::power::{cut, survivors, synced_below, watch};
use hypermount_core::{MachineIdentity, Store, Wait};

fn open(root: &Path, create: bool) -> crate::Result<Store> {
    Store::open_as(root, create, &MachineIdentity::on_machine(b"one", None))
}

/// What of `root` outlives a power cut at the moment when a new drive, and with `file` a file in it, has been
/// reported as safe.
async fn made(root: &Path, file: bool) -> BTreeSet<PathBuf> {
    watch(root);
    let store = open(&root.join("above/store"), true).expect("it is made");
    let drive = Drive::create(&store, "notes").expect("it is made");
    if file {
        let extent = drive.append_content(&[Bytes::from(vec![7; 5000])]).expect("it is written");
        let stat = Stat { mode: 0o100_644, extent, ..Stat::default() };
        let path = DrivePath::parse("a").expect("a path");
        drive.apply(vec![Edit::Put { path, stat }]).await.expect("it is committed");
    }
    drive.sync().expect("it is synced");
    survivors(root, None)
}

/// Whether the drive, and its file, are there.
async fn is_whole(root: &Path, file: bool) -> bool {
    let Ok(store) = open(&root.join("above/store"), false) else { return false };
    let Ok(Some(key)) = store.named_key(b"notes") else { return false };
    let Ok(drive) = Drive::open(&store, &key, None, Wait::Local).await else { return false };
    if !file {
        return drive.writable() && drive.snapshot().version() == 1;
    }
    let path = DrivePath::parse("a").expect("a path");
    let Ok(entry) = drive.snapshot().entry(&path, Wait::Local).await else { return false };
    let read = drive.read(&entry.stat.extent, 0..5000, Wait::Local).await;
    drive.writable() && read.is_ok_and(|pieces| pieces.concat() == vec![7; 5000])
}

#[tokio::test]
async fn a_drive_that_was_made_outlives_a_power_cut() {
    for file in [false, true] {
        let directory = tempfile::tempdir().expect("a directory");
        let left = made(directory.path(), file).await;
        cut(directory.path(), &left);
        assert!(is_whole(directory.path(), file).await, "with a file: {file}; left: {left:?}");
    }
}

/// Each of the directories has to be synced: without that the drive is not there.
#[tokio::test]
async fn a_directory_that_was_not_synced_takes_the_drive_with_it() {
    let template = tempfile::tempdir().expect("a directory");
    made(template.path(), true).await;
    let directories = synced_below(template.path());
    // The directory, one above the store, the store, and the three levels of at least one core.
    assert!(directories.len() >= 6, "{directories:?}");
    let core = directories.iter().filter(|path| path.components().count() == 5);
    let above = [Path::new(""), Path::new("above"), Path::new("above/store")];
    assert!(above.iter().all(|path| directories.iter().any(|synced| synced == path)));
    assert_eq!(core.count(), 2, "the index and the content: {directories:?}");
    for unless in above {
        let directory = tempfile::tempdir().expect("a directory");
        made(directory.path(), true).await;
        let left = survivors(directory.path(), Some(&directory.path().join(unless)));
        cut(directory.path(), &left);
        assert!(!is_whole(directory.path(), true).await, "{unless:?}");
    }
}
