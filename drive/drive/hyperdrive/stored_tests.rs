//! What a power cut or a bad disk does to the small files of a store, and what is shown of it.

use std::fs;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::stored::stored_drives_and_damage;
use super::*;
use hypermount_core::MachineIdentity;
use hypermount_swarm::crypto::DiscoveryKey;

fn open(root: &Path) -> Store {
    Store::open_as(root, true, &MachineIdentity::on_machine(b"one", None)).expect("the store opens")
}

fn directory_of(root: &Path, key: &DiscoveryKey) -> PathBuf {
    let name = key.to_hex();
    root.join(&name[..2]).join(&name[2..4]).join(name)
}

/// A store with one writable drive; the directories of its index and of its content.
fn drive_in(root: &Path) -> (PublicKey, [PathBuf; 2]) {
    let store = open(root);
    let drive = Drive::create(&store, "notes").expect("it is made");
    let content = drive.content().expect("it has one");
    content.append(&[Bytes::from_static(b"text")]).expect("it is written");
    store.sync().expect("it is synced");
    let keys = [drive.metadata_core().discovery_key(), content.discovery_key()];
    (*drive.key(), keys.map(|key| directory_of(root, key)))
}

/// How a file may look after a power cut or on a bad disk.
fn damages(bytes: &[u8]) -> Vec<Option<Vec<u8>>> {
    let mut flipped = bytes.to_vec();
    flipped[bytes.len() / 2] ^= 4;
    vec![None, Some(Vec::new()), Some(bytes[..bytes.len() / 2].to_vec()), Some(flipped)]
}

fn put(path: &Path, bytes: Option<&[u8]>) {
    match bytes {
        Some(bytes) => fs::write(path, bytes).expect("it is written"),
        None => fs::remove_file(path).expect("it is removed"),
    }
}

#[tokio::test]
async fn damaged_key_files_are_derived_again() {
    let directory = tempfile::tempdir().expect("a directory");
    let (key, cores) = drive_in(directory.path());
    for core in &cores {
        let sound = fs::read(core.join("key")).expect("it is there");
        for damage in damages(&sound) {
            put(&core.join("key"), damage.as_deref());
            let store = open(directory.path());
            let found = stored_drives_and_damage(&store).await.expect("it is read");
            assert_eq!(found.drives, [key], "{damage:?}");
            assert_eq!(found.damaged, [], "{damage:?}");
            let drive = Drive::open(&store, &key, None, Wait::Local).await.expect("it opens");
            assert!(drive.writable(), "{damage:?}");
            drop((drive, store));
            assert_eq!(fs::read(core.join("key")).expect("it is back"), sound, "{damage:?}");
        }
    }
}

#[tokio::test]
async fn damaged_names_are_written_again_when_they_are_known() {
    let directory = tempfile::tempdir().expect("a directory");
    let (key, [index, content]) = drive_in(directory.path());
    // A content core's name follows from the drive's key.
    let sound = fs::read(content.join("name")).expect("it is there");
    for damage in damages(&sound) {
        put(&content.join("name"), damage.as_deref());
        put(&content.join("key"), None);
        let found = stored_drives_and_damage(&open(directory.path())).await.expect("it is read");
        assert_eq!((found.drives, found.damaged), (vec![key], vec![]), "{damage:?}");
        assert_eq!(fs::read(content.join("name")).expect("it is back"), sound, "{damage:?}");
    }
    // A drive's own is known only to its user: it is shown as damaged until it is opened by name.
    let sound = fs::read(index.join("name")).expect("it is there");
    for damage in damages(&sound) {
        put(&index.join("name"), damage.as_deref());
        let store = open(directory.path());
        let found = stored_drives_and_damage(&store).await.expect("it is read");
        assert_eq!(found.damaged.len(), 1, "{damage:?}");
        assert_eq!(found.damaged[0].key, Some(key), "{damage:?}");
        drop(store);
        let store = open(directory.path());
        assert!(Drive::create(&store, "notes").expect("it opens").writable(), "{damage:?}");
        let found = stored_drives_and_damage(&store).await.expect("it is read");
        assert_eq!((found.drives, found.damaged), (vec![key], vec![]), "{damage:?}");
        drop(store);
        assert_eq!(fs::read(index.join("name")).expect("it is back"), sound, "{damage:?}");
    }
}

#[tokio::test]
async fn a_damaged_drive_is_never_left_out() {
    let directory = tempfile::tempdir().expect("a directory");
    let (key, [index, content]) = drive_in(directory.path());
    for (core, file) in [(&index, "data"), (&index, "tree"), (&content, "tree")] {
        let sound = fs::read(core.join(file)).expect("it is there");
        // The second half of a record of 40 bytes, or of the only block.
        let at = if file == "tree" { 32 + 20 } else { sound.len() / 2 };
        let mut flipped = sound.clone();
        flipped[at] ^= 1;
        put(&core.join(file), Some(&flipped));
        let found = stored_drives_and_damage(&open(directory.path())).await.expect("it is read");
        let shown = found.damaged.iter().filter_map(|damaged| damaged.key).chain(found.drives);
        assert_eq!(shown.collect::<Vec<_>>(), [key], "{file}");
        put(&core.join(file), Some(&sound));
    }
    // Both small files of the index are gone: what is left is its place.
    for file in ["key", "name"] {
        put(&index.join(file), Some(b""));
    }
    let found = stored_drives_and_damage(&open(directory.path())).await.expect("it is read");
    assert_eq!(found.drives, []);
    let lost = found.damaged.iter().find(|damaged| damaged.discovery_key == key.discovery_key());
    assert_eq!(lost.expect("it is shown").key, None);
}

#[tokio::test]
async fn lost_blocks_of_an_own_drive_are_reported_and_nothing_is_written_to_it() {
    let directory = tempfile::tempdir().expect("a directory");
    let (key, [index, content]) = drive_in(directory.path());
    for core in [&index, &content] {
        let sound: Vec<_> = ["signatures", "bitfield"]
            .map(|file| (core.join(file), fs::read(core.join(file)).expect("it is there")))
            .into();
        for (path, bytes) in &sound {
            put(path, Some(&bytes[..32]));
        }
        let store = open(directory.path());
        let found = stored_drives_and_damage(&store).await.expect("it is read");
        assert_eq!(found.damaged.len(), 1, "{found:?}");
        assert_eq!(found.damaged[0].key, Some(key));
        assert!(found.damaged[0].why.contains("of its 1 blocks are missing"), "{found:?}");
        let opened = Drive::open(&store, &key, None, Wait::Local).await;
        assert!(opened.is_err() || !opened.is_ok_and(|drive| drive.writable()));
        drop(store);
        for (path, bytes) in &sound {
            put(path, Some(bytes));
        }
        let found = stored_drives_and_damage(&open(directory.path())).await.expect("it is read");
        assert_eq!((found.drives, found.damaged), (vec![key], vec![]), "nothing was changed");
    }
}
