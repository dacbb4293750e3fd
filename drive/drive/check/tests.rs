use std::fs;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::*;
use crate::hyperdrive::Edit;
use crate::hyperdrive::bee_testing::{Origin, recorded_in};
use crate::stat::Stat;
use hypermount_core::MachineIdentity;

fn open(root: &Path) -> Store {
    Store::open_as(root, true, &MachineIdentity::on_machine(b"one", None)).expect("the store opens")
}

fn directory_of(root: &Path, core: &Core) -> PathBuf {
    let name = core.discovery_key().to_hex();
    root.join(&name[..2]).join(&name[2..4]).join(name)
}

/// A drive with the files `/a`, `/b` and `/c` of two blocks each; its key, the directories of its cores.
async fn drive_in(root: &Path) -> (PublicKey, [PathBuf; 2]) {
    let store = open(root);
    let drive = Drive::create(&store, "notes").expect("it is made");
    let content = drive.content().expect("it has one").clone();
    for name in ["a", "b", "c"] {
        let blocks = [Bytes::from(vec![name.as_bytes()[0]; 1000]), Bytes::from(vec![7; 500])];
        let extent = drive.append_content(&blocks).expect("it is written");
        let stat = Stat { mode: 0o100_644, extent, ..Stat::default() };
        let path = DrivePath::parse(name).expect("a path");
        drive.apply(vec![Edit::Put { path, stat }]).await.expect("it is committed");
    }
    store.sync().expect("it is synced");
    let directories = [drive.metadata_core(), &content].map(|core| directory_of(root, core));
    (*drive.key(), directories)
}

async fn checked(root: &Path, key: &PublicKey) -> DriveCheck {
    check(&open(root), key, &mut |_| ()).await.expect("it is checked")
}

fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).expect("it is there");
    bytes[at] ^= 1;
    fs::write(path, bytes).expect("it is written");
}

#[tokio::test]
async fn a_check_of_a_sound_drive_finds_no_damage() {
    let root = tempfile::tempdir().expect("a directory");
    let (key, _) = drive_in(root.path()).await;
    let found = checked(root.path(), &key).await;
    assert_eq!(found, DriveCheck { sound: 4 + 6, ..DriveCheck::default() });
}

#[tokio::test]
async fn a_damaged_block_names_its_file_and_version() {
    let root = tempfile::tempdir().expect("a directory");
    let (key, [_, content]) = drive_in(root.path()).await;
    // In the second block of /b, which the second put after the header brought: version 3.
    flip(&content.join("data"), 1500 + 1200);
    let found = checked(root.path(), &key).await;
    let file = DamagedFile { path: "/b".to_owned(), version: 3, newest: true };
    assert_eq!(found.files, [file]);
    assert_eq!((found.damaged_blocks, found.sound), (1, 4 + 5));
    assert!(found.is_damaged());
    flip(&content.join("data"), 1500 + 1200);
    assert!(!checked(root.path(), &key).await.is_damaged(), "nothing was given up");
}

#[tokio::test]
async fn a_damaged_index_block_names_its_version() {
    let root = tempfile::tempdir().expect("a directory");
    let (key, [index, _]) = drive_in(root.path()).await;
    let offset = {
        let store = open(root.path());
        let core = store.core(&key).expect("it opens");
        core.span(2).expect("it is read").expect("it is here").0
    };
    flip(&index.join("data"), offset as usize + 3);
    let found = checked(root.path(), &key).await;
    assert_eq!((found.versions.as_slice(), found.damaged_blocks), (&[3][..], 1));
    assert!(found.is_damaged());
}

#[tokio::test]
async fn damaged_tree_nodes_are_made_again_from_the_blocks() {
    let root = tempfile::tempdir().expect("a directory");
    let (key, [_, content]) = drive_in(root.path()).await;
    let tree = content.join("tree");
    let sound = fs::read(&tree).expect("it is there");
    // Six blocks: the roots are the nodes 3 and 9.
    for node in [0, 1, 2, 4, 5, 6, 8, 10] {
        for at in [0, 39] {
            flip(&tree, 32 + 40 * node + at);
            let found = checked(root.path(), &key).await;
            assert!(!found.is_damaged(), "node {node}, byte {at}: {found:?}");
            assert_eq!(found.sound, 10, "node {node}, byte {at}");
            assert_eq!(fs::read(&tree).expect("it is there"), sound, "node {node}, byte {at}");
        }
    }
}

#[tokio::test]
async fn a_drive_of_hyperdrive_13_is_verified_with_the_blocks_that_a_map_names() {
    for origin in [Origin::new(), Origin::modern()] {
        let (origin, _) = recorded_in(origin).await;
        let key = *origin.index.key();
        assert_eq!(content_of_drive(&origin.store, &key), Some(*origin.content.key()));
        let found = check(&origin.store, &key, &mut |_| {}).await.unwrap();
        assert!(!found.is_damaged(), "{found:?}");
        assert_eq!(found.sound, 25 + origin.content.head().length);
        // A block that only a map names: of all versions with it.
        origin.content.clear(10..11).unwrap();
        let found = check(&origin.store, &key, &mut |_| {}).await.unwrap();
        let files: Vec<_> = found.files.iter().map(|file| file.path.as_str()).collect();
        assert_eq!(files, ["/dedup"]);
    }
    let (origin, _) = recorded_in(Origin::modern()).await;
    let repaired =
        repair(&origin.store, origin.index.key(), Wait::Local, &mut |_| {}).await.unwrap();
    assert!(!repaired.is_damaged(), "{repaired:?}");
}
