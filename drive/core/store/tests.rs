use std::os::unix::fs::PermissionsExt;

use bytes::Bytes;

use super::mark::MARK_FILE;
use super::name_file::{decode_name, encode_name};
use super::*;

fn vectors(name: &str) -> serde_json::Value {
    let path = format!("{}/../../tests/vectors/{name}.json", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &target),
            false => drop(fs::copy(entry.path(), target).unwrap()),
        }
    }
}

/// A copy of the directory the reference wrote.
fn golden() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    copy(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/vectors/drive-small")), &path);
    (directory, path)
}

fn why(result: Result<Store>) -> String {
    match result {
        Err(Error::NotAStore { why, .. }) => why,
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("opened"),
    }
}

#[test]
fn golden_key_derivation() {
    let vectors = vectors("corestore-keys");
    let master: [u8; 32] =
        hex::decode(vectors["masterKey"].as_str().unwrap()).unwrap().try_into().unwrap();
    for core in vectors["cores"].as_array().unwrap() {
        let name = hex::decode(core["nameHex"].as_str().unwrap()).unwrap();
        let seed = crypto::derive_seed(&master, "corestore", &name);
        assert_eq!(hex::encode(seed), core["seed"].as_str().unwrap());
        let pair = names::derive(Dialect::Legacy, &master, &name);
        assert_eq!(pair.public_key().to_hex(), core["publicKey"].as_str().unwrap());
        assert_eq!(hex::encode(pair.secret_key()), core["secretKey"].as_str().unwrap());
        let discovery_key = pair.public_key().discovery_key();
        assert_eq!(discovery_key.to_hex(), core["discoveryKey"].as_str().unwrap());
    }
}

#[test]
fn opens_the_references_directory_and_leaves_it_alone() {
    let (_guard, path) = golden();
    let expected = vectors("drive-small.expected");
    let store = Store::open(&path, false).unwrap();
    assert_eq!(store.keys().unwrap().len(), 4);
    let cores = expected["cores"].as_array().unwrap();
    assert_eq!(store.default_key().unwrap().unwrap().to_hex(), cores[0]["key"].as_str().unwrap());
    for core in cores {
        let key = PublicKey::from_hex(core["key"].as_str().unwrap()).unwrap();
        let opened = store.find(&key.discovery_key()).unwrap().unwrap();
        assert!(opened.writable());
        assert_eq!(opened.head().length, core["length"].as_u64().unwrap());
        assert_eq!(opened.head().byte_length, core["byteLength"].as_u64().unwrap());
        let audit = opened.audit().unwrap();
        assert_eq!((audit.valid, audit.invalid), (opened.head().length, 0));
    }
    let metadata = store.core(&store.default_key().unwrap().unwrap()).unwrap();
    for block in expected["metadataBlocks"].as_array().unwrap() {
        let seq = block["seq"].as_u64().unwrap();
        let bytes = metadata.get_local(seq).unwrap().unwrap();
        assert_eq!(hex::encode(bytes), block["block"].as_str().unwrap());
    }
    let content = PublicKey::from_hex(cores[1]["key"].as_str().unwrap()).unwrap();
    let content = store.core(&content).unwrap();
    for (block, size) in expected["contentBlockSizes"].as_array().unwrap().iter().enumerate() {
        let found = content.get_local(block as u64).unwrap().unwrap();
        assert_eq!(found.len() as u64, size.as_u64().unwrap());
    }
    drop((store, metadata, content));
    for (file, expected) in expected["files"].as_object().unwrap() {
        if let Some(name) = file.rsplit('/').next().filter(|name| *name != "master_key") {
            let found = fs::metadata(path.join(file)).unwrap();
            assert_eq!(found.len(), expected["size"].as_u64().unwrap(), "{name}");
        }
    }
    let original =
        Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/vectors/drive-small"));
    for discovery_key in survey(original).unwrap() {
        for name in ["bitfield", "data", "key", "name", "signatures", "tree"] {
            let file = |root| fs::read(core_directory(root, &discovery_key).join(name)).unwrap();
            assert!(file(original) == file(&path), "{name} of {discovery_key} was modified");
        }
    }
}

#[test]
fn a_new_store_keeps_what_is_put_in() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("new/store");
    assert_eq!(why(Store::open(&path, false)), "no such directory");
    let store = Store::open(&path, true).unwrap();
    let mut opened = store.opened();
    assert_eq!(store.default_key().unwrap(), None);
    let core = store.core_named(b"default").unwrap();
    assert_eq!(opened.try_recv().unwrap().key(), core.key());
    core.append(&[Bytes::from_static(b"one")]).unwrap();
    let pair = KeyPair::from_seed(&[5; 32]);
    store.core_with_pair(&pair).unwrap().append(&[Bytes::from_static(b"two")]).unwrap();
    let foreign = KeyPair::from_seed(&[6; 32]).public_key();
    assert!(!store.core(&foreign).unwrap().writable());
    let key = *core.key();
    drop((store, core, opened));

    let mode = |file: &Path| fs::metadata(file).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&path.join(MASTER_KEY)), 0o600);
    let secret = core_directory(&path, &pair.public_key().discovery_key()).join("secret_key");
    assert_eq!(mode(&secret), 0o600);
    let named = core_directory(&path, &key.discovery_key());
    assert_eq!(fs::read(named.join("name")).unwrap(), b"\x07default");
    assert!(!named.join("secret_key").exists(), "derived keys are never stored");

    let store = Store::open(&path, false).unwrap();
    assert_eq!(store.default_key().unwrap(), Some(key));
    let mut keys = vec![key, pair.public_key(), foreign];
    keys.sort_unstable_by_key(PublicKey::discovery_key);
    assert_eq!(store.keys().unwrap(), keys);
    let core = store.core(&key).unwrap();
    assert!(core.writable());
    assert_eq!(core.get_local(0).unwrap().unwrap(), "one");
    let core = store.core(&pair.public_key()).unwrap();
    assert!(core.writable());
    assert_eq!(core.append(&[Bytes::from_static(b"three")]).unwrap().length, 2);
    assert!(!store.core(&foreign).unwrap().writable());
    assert!(
        store.find(&KeyPair::from_seed(&[7; 32]).public_key().discovery_key()).unwrap().is_none()
    );
    assert!(store.space().unwrap().total > 0);
}

#[test]
fn a_store_in_memory() {
    let store = Store::memory();
    let core = store.core_named(b"a").unwrap();
    core.append(&[Bytes::from_static(b"one")]).unwrap();
    let again = store.find(core.discovery_key()).unwrap().unwrap();
    assert_eq!(again.get_local(0).unwrap().unwrap(), "one");
    assert_ne!(Store::memory().core_named(b"a").unwrap().key(), core.key());
}

#[test]
fn a_second_process_is_refused_with_the_id_of_the_first() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path(), true).unwrap();
    match Store::open(directory.path(), true) {
        Err(Error::Locked { path, holder }) => {
            assert_eq!(path, directory.path());
            assert!(holder.ends_with(&format!("(pid {})", std::process::id())), "{holder}");
        }
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("two owners"),
    }
    drop(store);
    Store::open(directory.path(), false).unwrap();
}

#[test]
fn a_core_locked_by_another_program_is_refused() {
    use nix::fcntl::{Flock, FlockArg};

    let (_guard, path) = golden();
    let store = Store::open(&path, false).unwrap();
    let key = store.default_key().unwrap().unwrap();
    let bitfield = core_directory(&path, &key.discovery_key()).join("bitfield");
    let open = || fs::OpenOptions::new().read(true).write(true).open(&bitfield).unwrap();
    let other = Flock::lock(open(), FlockArg::LockExclusiveNonblock).unwrap();
    assert!(matches!(store.core(&key), Err(Error::Locked { .. })));
    drop(other);
    let core = store.core(&key).unwrap();
    assert!(Flock::lock(open(), FlockArg::LockExclusiveNonblock).is_err(), "and the other way");
    drop((core, store));
    assert!(Flock::lock(open(), FlockArg::LockExclusiveNonblock).is_ok());
}

#[test]
fn damaged_master_keys_are_refused_and_never_replaced() {
    let damages: [(&str, &[u8]); 4] = [
        ("damaged (0 bytes instead of 32)", b""),
        ("damaged (31 bytes instead of 32)", &[1; 31]),
        ("damaged (32 bytes, all zero)", &[0; 32]),
        ("damaged or another store's", &[9; 32]),
    ];
    for create in [false, true] {
        for (expected, bytes) in damages {
            let (_guard, path) = golden();
            fs::write(path.join(MASTER_KEY), bytes).unwrap();
            let why = why(Store::open(&path, create));
            assert!(why.contains(expected), "{why}");
            assert_eq!(fs::read(path.join(MASTER_KEY)).unwrap(), bytes);
        }
        let (_guard, path) = golden();
        fs::remove_file(path.join(MASTER_KEY)).unwrap();
        assert!(why(Store::open(&path, create)).contains("missing beside 4 cores"));
        assert!(!path.join(MASTER_KEY).exists());
    }
}

#[test]
fn other_directories_are_not_stores() {
    let directory = tempfile::tempdir().unwrap();
    assert!(why(Store::open(directory.path(), false)).contains("no master_key"));
    fs::write(directory.path().join("letter.txt"), "hello").unwrap();
    assert!(why(Store::open(directory.path(), true)).contains("holds other files"));
    assert_eq!(why(Store::open(&directory.path().join("letter.txt"), true)), "not a directory");
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "nothing was left behind");
}

#[test]
fn a_name_of_another_core_is_written_again_or_refused() {
    let (_guard, path) = golden();
    let store = Store::open(&path, false).unwrap();
    let key = store.default_key().unwrap().unwrap();
    let name = core_directory(&path, &key.discovery_key()).join("name");
    fs::write(&name, encode_name(b"other")).unwrap();
    // The drive that the store was made for has a known name.
    assert!(store.core(&key).unwrap().writable());
    assert_eq!(fs::read(name).unwrap(), encode_name(DEFAULT_NAME));
    drop(store.core_named(b"mine").unwrap());
    drop(store);
    let store = Store::open(&path, false).unwrap();
    let key = store.key_named(b"mine");
    let name = core_directory(&path, &key.discovery_key()).join("name");
    fs::write(name, encode_name(b"other")).unwrap();
    match store.core(&key) {
        Err(Error::Corrupt { what, file: "name", .. }) => {
            assert_eq!(what, "Stored an incorrect name.");
        }
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("opened"),
    }
}

#[test]
fn names_at_their_limits() {
    for length in [1, 127, 128, MAX_NAME_LENGTH] {
        let name = vec![b'n'; length];
        assert_eq!(decode_name(&encode_name(&name)), Some(name.as_slice()));
    }
    for wrong in [&b""[..], b"\x00", b"\x02a", b"\x01ab", b"\xff\xff\xff\xff\xff"] {
        assert_eq!(decode_name(wrong), None);
    }
    let store = Store::memory();
    assert!(store.core_named(&[b'n'; MAX_NAME_LENGTH]).is_ok());
    assert!(store.core_named(&[b'n'; MAX_NAME_LENGTH + 1]).is_err());
    assert!(store.core_named(b"").is_err());
}

#[test]
fn unused_cores_are_closed_past_the_limit_and_used_ones_stay() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path(), true).unwrap();
    let used = store.core_named(b"used").unwrap();
    used.append(&[Bytes::from_static(b"one")]).unwrap();
    for at in 1..MAX_OPEN_CORES {
        store.core_named(format!("core {at}").as_bytes()).unwrap();
    }
    assert_eq!(store.cores().len(), MAX_OPEN_CORES);
    store.core_named(b"one more").unwrap();
    assert_eq!(store.cores().len(), 2);
    assert_eq!(store.core_named(b"used").unwrap().append(&[]).unwrap(), used.head());
    assert_eq!(store.keys().unwrap().len(), MAX_OPEN_CORES + 1);
}

/// A store with one written core, closed, and how its user is known.
fn marked(directory: &Path) -> (PathBuf, MachineIdentity) {
    let identity = MachineIdentity::on_machine(b"one", Some(&directory.join("state")));
    let path = directory.join("store");
    write_block(&path, &identity, "first").unwrap();
    (path, identity)
}

fn write_block(path: &Path, identity: &MachineIdentity, text: &'static str) -> Result<()> {
    let store = Store::open_as(path, true, identity)?;
    store.core_named(b"mine")?.append(&[Bytes::from_static(text.as_bytes())]).map(drop)
}

fn why_read_only(result: Result<()>) -> &'static str {
    match result {
        Err(Error::ReadOnly(why)) => why,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_store_in_its_place_stays_writable() {
    let directory = tempfile::tempdir().unwrap();
    let (path, identity) = marked(directory.path());
    write_block(&path, &identity, "second").unwrap();
    let renamed = directory.path().join("renamed");
    fs::rename(&path, &renamed).unwrap();
    write_block(&renamed, &identity, "third").unwrap();
    // Without a state directory, and after it was lost.
    write_block(&renamed, &MachineIdentity::on_machine(b"one", None), "fourth").unwrap();
    fs::remove_dir_all(directory.path().join("state")).unwrap();
    write_block(&renamed, &identity, "fifth").unwrap();
    assert!(Store::open_as(&renamed, false, &identity).unwrap().stop_reasons().unwrap().is_clear());
}

/// 71. If one user uses two copies on one machine, only the copy adopted last can be written.
#[test]
fn a_copied_store_is_read_only_until_adopted_and_then_its_original_is() {
    let directory = tempfile::tempdir().unwrap();
    let (path, identity) = marked(directory.path());
    let copied = directory.path().join("copy");
    copy(&path, &copied);
    let reason = why_read_only(write_block(&copied, &identity, "fork"));
    assert_eq!(reason, StopReason::Moved.reason());
    write_block(&path, &identity, "the original continues").unwrap();
    {
        let store = Store::open_as(&copied, false, &identity).unwrap();
        assert_eq!(store.stop_reasons().unwrap().store, Some(StopReason::Moved));
        assert_eq!(store.core_named(b"mine").unwrap().get_local(0).unwrap().unwrap(), "first");
        store.adopt(false).unwrap();
    }
    write_block(&copied, &identity, "now").unwrap();
    let reason = why_read_only(write_block(&path, &identity, "fork"));
    assert_eq!(reason, StopReason::Restored.reason());
}

#[test]
fn a_store_on_another_machine_is_read_only() {
    let directory = tempfile::tempdir().unwrap();
    let (path, _) = marked(directory.path());
    let other = MachineIdentity::on_machine(b"two", Some(&directory.path().join("other state")));
    assert_eq!(why_read_only(write_block(&path, &other, "fork")), StopReason::Moved.reason());
}

/// 70. So does one that is older than what its user last wrote with it: restored from a backup, or
///     with cores shorter than marked.
#[test]
fn an_old_backup_put_back_is_read_only() {
    let directory = tempfile::tempdir().unwrap();
    let (path, identity) = marked(directory.path());
    let backup = directory.path().join("backup");
    copy(&path, &backup);
    write_block(&path, &identity, "second").unwrap();
    // In place: the directory stays, its content is the old one, mark and all.
    for entry in fs::read_dir(&path).unwrap() {
        let entry = entry.unwrap();
        match entry.file_type().unwrap().is_dir() {
            true => fs::remove_dir_all(entry.path()).unwrap(),
            false => fs::remove_file(entry.path()).unwrap(),
        }
    }
    copy(&backup, &path);
    assert_eq!(why_read_only(write_block(&path, &identity, "fork")), StopReason::Restored.reason());
}

/// The marks are written one after the other, that in the store first: a machine that stops between
/// leaves an older one outside, which does no harm. An older one inside is an old state put back.
#[test]
fn marks_of_different_moments() {
    let directory = tempfile::tempdir().unwrap();
    let (path, identity) = marked(directory.path());
    let inside = path.join(MARK_FILE);
    let marks = directory.path().join("state/marks");
    let outside = fs::read_dir(marks).unwrap().next().unwrap().unwrap().path();
    let mut moments = vec![(fs::read(&inside).unwrap(), fs::read(&outside).unwrap())];
    for text in ["second", "third", "fourth"] {
        write_block(&path, &identity, text).unwrap();
        moments.push((fs::read(&inside).unwrap(), fs::read(&outside).unwrap()));
    }
    for (within, (mark, _)) in moments.iter().enumerate() {
        for (beyond, (_, other)) in moments.iter().enumerate() {
            fs::write(&inside, mark).unwrap();
            fs::write(&outside, other).unwrap();
            let stop =
                Store::open_as(&path, false, &identity).unwrap().stop_reasons().unwrap().store;
            let expected = (beyond > within).then_some(StopReason::Restored);
            assert_eq!(stop, expected, "inside {within}, outside {beyond}");
        }
    }
}

#[test]
fn a_core_shorter_than_marked_is_read_only_with_and_without_outside_marks() {
    let directory = tempfile::tempdir().unwrap();
    let (path, _) = marked(directory.path());
    let identity = MachineIdentity::on_machine(b"one", None);
    let key = Store::open_as(&path, false, &identity).unwrap().named_key(b"mine").unwrap().unwrap();
    let core = core_directory(&path, &key.discovery_key());
    let backup = directory.path().join("backup");
    copy(&core, &backup);
    write_block(&path, &identity, "second").unwrap();
    fs::remove_dir_all(&core).unwrap();
    copy(&backup, &core);
    assert_eq!(why_read_only(write_block(&path, &identity, "fork")), StopReason::Restored.reason());
    let store = Store::open_as(&path, false, &identity).unwrap();
    assert_eq!(store.stop_reasons().unwrap().cores, [(key.discovery_key(), StopReason::Restored)]);
}

/// Two stores with one master key, as far as both went together.
fn twins() -> (Core, Core) {
    let master_key = [7; 32];
    let open =
        || Store::new(None, master_key, None, None, StoreKind::Own).core_named(b"mine").unwrap();
    let (one, other) = (open(), open());
    for core in [&one, &other] {
        core.append(&[Bytes::from_static(b"common")]).unwrap();
    }
    (one, other)
}

fn prove_newest(
    from: &Core,
    to: &Core,
) -> std::result::Result<crate::hypercore::Accepted, crate::hypercore::Rejected> {
    let newest = from.head().length - 1;
    to.accept(from.prove(newest, 0, true, &mut Default::default()).unwrap())
}

/// 73. A longer history is accepted only if it is proven to continue the one in the store.
#[test]
fn a_longer_history_of_ours_stops_the_core_and_is_taken_over() {
    let (ahead, behind) = twins();
    prove_newest(&ahead, &behind).unwrap();
    assert!(behind.writable(), "the same history is no reason");
    ahead.append(&[Bytes::from_static(b"more")]).unwrap();
    prove_newest(&ahead, &behind).unwrap();
    assert_eq!(behind.stopped(), Some(StopReason::Behind { length: 2 }));
    assert_eq!(behind.head(), ahead.head());
    let refused = behind.append(&[Bytes::from_static(b"fork")]);
    assert!(matches!(refused, Err(Error::ReadOnly(_))));
}

#[test]
fn another_history_of_ours_stops_the_core_and_is_not_taken_over() {
    for (ours, theirs) in [(1, 1), (1, 3), (3, 1)] {
        let (one, other) = twins();
        for n in 0..ours {
            one.append(&[Bytes::from(format!("ours {n}"))]).unwrap();
        }
        for n in 0..theirs {
            other.append(&[Bytes::from(format!("theirs {n}"))]).unwrap();
        }
        let head = one.head();
        let verdict = prove_newest(&other, &one);
        assert!(matches!(verdict, Err(crate::hypercore::Rejected::Forked { .. })), "{verdict:?}");
        assert_eq!((one.stopped(), one.head()), (Some(StopReason::Forked), head));
    }
}

/// 72. A drive is not written any more, also after a restart, once a peer proves another or a
///     longer history of it signed with its key; data in the store stays readable.
#[test]
fn a_stopped_core_stays_stopped_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let (path, identity) = marked(directory.path());
    let copied = directory.path().join("copy");
    copy(&path, &copied);
    let there = MachineIdentity::on_machine(b"two", None);
    Store::open_as(&copied, false, &there).unwrap().adopt(false).unwrap();
    write_block(&copied, &there, "theirs").unwrap();
    write_block(&path, &identity, "ours").unwrap();
    {
        let theirs = Store::open_as(&copied, false, &there).unwrap();
        let ours = Store::open_as(&path, false, &identity).unwrap();
        let ours = ours.core_named(b"mine").unwrap();
        prove_newest(&theirs.core_named(b"mine").unwrap(), &ours).unwrap_err();
    }
    assert_eq!(why_read_only(write_block(&path, &identity, "more")), StopReason::Forked.reason());
    Store::open_as(&path, false, &identity).unwrap().adopt(false).unwrap();
    write_block(&path, &identity, "more").unwrap();
}

/// A named core of each kind, and the one beside a modern core, are written, closed, and written again by their keys.
#[test]
fn cores_of_both_kinds_are_written_and_found_by_their_names() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    let beside = |namespace: &[u8; 32]| crypto::blake2b(&[b"beside", namespace]);
    let open = |create| Store::open(&path, create).unwrap();
    let store = open(true);
    let mut keys = Vec::new();
    for dialect in [Dialect::Legacy, Dialect::Modern] {
        let name = dialect.to_string();
        assert_eq!(store.named_key(name.as_bytes()).unwrap(), None);
        let core = store.core_named_of(name.as_bytes(), dialect).unwrap();
        core.append(&[Bytes::from("first")]).unwrap();
        keys.push((dialect, *core.key()));
    }
    let index = store.core_named_of(b"hypercore 10-11", Dialect::Modern).unwrap();
    let content = store.core_beside(&index, beside).unwrap();
    assert_eq!(Some(*content.key()), index.key_with_namespaces(beside));
    content.append(&[Bytes::from("first")]).unwrap();
    keys.push((Dialect::Modern, *content.key()));
    drop((index, content));
    store.sync().unwrap();
    drop(store);
    for length in [2, 3] {
        let store = open(false);
        for (dialect, key) in &keys {
            let core = store.core_of(key, *dialect).unwrap();
            assert!(core.writable(), "{dialect}");
            assert_eq!(core.append(&[Bytes::from("more")]).unwrap().length, length);
        }
        assert_eq!(store.named_key(b"hypercore 9").unwrap(), Some(keys[0].1));
        assert_eq!(store.named_key(b"hypercore 10-11").unwrap(), Some(keys[1].1));
        assert_eq!(store.name_of(&keys[1].1).unwrap().as_deref(), Some(&b"hypercore 10-11"[..]));
        assert_eq!(store.name_of(&keys[2].1).unwrap(), None);
        let stored = store.stored_cores().unwrap();
        assert!(keys.iter().all(|(dialect, key)| stored.contains(&(*key, *dialect))));
    }
}

/// As those of Hypercore 9: what is copied, restored or shortened is read-only until it is adopted.
#[test]
fn a_copied_or_restored_store_does_not_write_its_modern_cores() {
    let directory = tempfile::tempdir().unwrap();
    let (path, old, moved) =
        (directory.path().join("a"), directory.path().join("b"), directory.path().join("c"));
    let identity = MachineIdentity::on_machine(b"one", Some(&directory.path().join("state")));
    let open = |path: &Path| Store::open_as(path, true, &identity).unwrap();
    let name = b"notes";
    let append = |store: &Store| {
        let core = store.core_named_of(name, Dialect::Modern).unwrap();
        core.append(&[Bytes::from("block")]).map(|head| head.length)
    };
    let store = open(&path);
    append(&store).unwrap();
    store.sync().unwrap();
    drop(store);
    copy(&path, &old);
    let store = open(&path);
    append(&store).unwrap();
    store.sync().unwrap();
    drop(store);
    copy(&path, &moved);
    let store = open(&moved);
    assert!(append(&store).is_err());
    assert_eq!(store.stop_reasons().unwrap().store, Some(StopReason::Moved));
    store.adopt(false).unwrap();
    drop(store);
    let store = open(&moved);
    assert_eq!(append(&store).unwrap(), 3);
    drop(store);
    fs::remove_dir_all(&path).unwrap();
    fs::rename(&old, &path).unwrap();
    let store = open(&path);
    let core = store.core_named_of(name, Dialect::Modern).unwrap();
    assert_eq!((core.head().length, core.writable()), (1, false));
}

/// As `damaged_master_keys_are_refused_and_never_replaced` of a store with drives of Hyperdrive 10.
#[test]
fn a_master_key_from_which_no_named_modern_core_derives_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    let store = Store::open(&path, true).unwrap();
    let core = store.core_named_of(b"notes", Dialect::Modern).unwrap();
    core.append(&[Bytes::from("block")]).unwrap();
    drop((core, store));
    drop(Store::open(&path, false).unwrap());
    fs::write(path.join(MASTER_KEY), [7; 32]).unwrap();
    assert!(why(Store::open(&path, false)).contains("none of its cores derive from it"));
}

/// A core of ours is not left out because its head is lost, and it is not begun again.
#[test]
fn a_named_modern_core_without_its_oplog_is_known_and_not_written() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    let store = Store::open(&path, true).unwrap();
    let core = store.core_named_of(b"notes", Dialect::Modern).unwrap();
    core.append(&[Bytes::from("block")]).unwrap();
    let key = *core.key();
    let files = store.directory_of(&core.name()).unwrap();
    drop(core);
    store.sync().unwrap();
    drop(store);
    fs::remove_file(files.join("oplog")).unwrap();
    let store = Store::open(&path, false).unwrap();
    assert_eq!(store.stored_cores().unwrap(), [(key, Dialect::Modern)]);
    assert_eq!(store.stored_dialect(&key).unwrap(), Some(Dialect::Modern));
    let core = store.core_of(&key, Dialect::Modern).unwrap();
    assert!(!core.writable() && core.append(&[Bytes::from("other")]).is_err());
    assert!(store.known_damage(&core).unwrap().contains("1 of its 1 blocks are missing"));
}
