//! Encrypted drives: without the key, with a wrong one, with the right one, with one that was kept; and copies that are
//! made and served without it.

use std::fs;
use std::path::{Path, PathBuf};

use crate::common::{Home, Ran};
use crate::onward;
use crate::origin::{Origin, expected, found, mounted, read_by_reference, same, with_line};

const KEY: &str = "1111111111111111111111111111111111111111111111111111111111111111";
const WRONG: &str = "2222222222222222222222222222222222222222222222222222222222222222";

fn origin() -> Origin {
    Origin::new("small", &["--encryption-key", KEY])
}

/// Runs the command with a key on its standard input.
fn with_key(home: &Home, key: &str, arguments: &[&str]) -> Ran {
    let output = with_line(home.command().args(arguments).arg("--encryption-key"), key);
    Ran::new(output)
}

#[test]
fn an_encrypted_drive_is_read_with_its_key_and_only_with_it() {
    let mut origin = origin();
    let version = origin.version();
    let entries = expected(&origin.entries(version));
    let (url, peer, home) = (origin.url(""), origin.address(), Home::new());
    let export = ["export", &url, "copy", "--peer", &peer, "--wait", "5s"];
    home.run(export).must_fail(5, "encrypt").hints("--encryption-key");
    let wrong = with_key(&home, WRONG, &export);
    assert!(wrong.code.is_some_and(|code| code != 0), "{wrong:?}");
    assert!(wrong.stderr.contains("error: ") && !home.path("copy/hello.txt").exists(), "{wrong:?}");
    with_key(&home, KEY, &export).must_succeed();
    same("exported", &found(&home.path("copy")), &entries);
    // The store has kept it.
    let again = ["export", &url, "again", "--peer", &peer];
    home.run(again).must_succeed();
    same("exported again", &found(&home.path("again")), &entries);
    home.make("mnt");
    home.run(["mount", &url, "mnt", "--peer", &peer]).must_succeed();
    same("mounted", &found(&home.path("mnt")), &mounted(&entries));
    home.run(["unmount", "mnt"]).must_succeed();
}

/// A wrong key is not kept, and neither replaces the right one nor disturbs a mount; also where there is none.
#[test]
fn a_wrong_key_changes_nothing() {
    let origin = origin();
    let (url, peer, home) = (origin.url(""), origin.address(), Home::new());
    let list = ["ls", &url, "--peer", &peer, "--wait", "5s"];
    // The first key that is given, before any block is here.
    with_key(&home, WRONG, &list).must_fail(5, "wrong");
    home.run(list).must_fail(5, "encrypt").hints("--encryption-key");
    with_key(&home, KEY, &list).must_succeed();
    with_key(&home, WRONG, &list).must_fail(5, "wrong");
    home.run(list).must_succeed();

    home.make("mnt");
    home.run(["mount", &url, "mnt", "--peer", &peer]).must_succeed();
    with_key(&home, WRONG, &list).must_fail(5, "wrong");
    assert_eq!(fs::read_to_string(home.path("mnt/hello.txt")).unwrap(), "hello world\n");
    assert!(fs::read_dir(home.path("mnt/sizes")).unwrap().count() > 0);
    home.run(["unmount", "mnt"]).must_succeed();
    home.run(["mount", &url, "mnt", "--peer", &peer]).must_succeed();
    home.run(["unmount", "mnt"]).must_succeed();

    let plain = Origin::new("small", &[]);
    let (url, peer) = (plain.url(""), plain.address());
    let list = ["ls", &url, "--peer", &peer, "--wait", "5s"];
    with_key(&home, WRONG, &list).must_fail(5, "wrong");
    home.run(list).must_succeed();
    with_key(&home, WRONG, &list).must_fail(5, "wrong");
    home.run(list).must_succeed();
}

/// The key is kept in the state directory of the user: nothing is written into the other program's store.
#[test]
fn an_encrypted_drive_in_a_store_of_corestore_6_is_read_with_its_key() {
    let mut origin = Origin::new("small", &["--legacy10", "--encryption-key", KEY]);
    let version = origin.version();
    let (url, entries) = (origin.url(""), expected(&origin.entries(version)));
    let directory = origin.stop();
    let store = directory.path().join("origin/store");
    let (at, before) = (store.display().to_string(), found(&store));
    let home = Home::new();
    home.make("mnt");
    home.run(["mount", &at, "mnt"]).must_fail(1, "no drive");
    with_key(&home, WRONG, &["mount", &at, "mnt"]).must_fail(5, "encryption key");
    with_key(&home, KEY, &["mount", &at, "mnt"]).must_succeed();
    same("mounted", &found(&home.path("mnt")), &mounted(&entries));
    home.run(["unmount", "mnt"]).must_succeed();
    home.run(["export", &at, "copy"]).must_succeed();
    same("with the key that was kept", &found(&home.path("copy")), &entries);
    let other = Home::new();
    with_key(&other, KEY, &["export", &url, "copy", "--store", &at]).must_succeed();
    same("by its URL", &found(&other.path("copy")), &entries);
    assert!(found(&store) == before, "the store was changed");
}

/// Every block of both cores is longer where it is stored than what it contains, which counts wherever a byte is looked for.
#[test]
fn encrypted_files_of_blocks_of_any_size_are_shown() {
    std::thread::scope(|scope| {
        for shape in ["uneven", "dedup"] {
            scope.spawn(move || an_encrypted_shape_is_shown(shape));
        }
    });
}

fn an_encrypted_shape_is_shown(shape: &str) {
    let mut origin = Origin::new(shape, &["--encryption-key", KEY]);
    let version = origin.version();
    let home = Home::new();
    for version in [version, version - 1] {
        let entries = mounted(&expected(&origin.entries(version)));
        let (url, peer) = (origin.url(&format!("+{version}")), origin.address());
        with_key(&home, KEY, &["mount", &url, "mnt", "--peer", &peer]).must_succeed();
        same(&format!("{shape}+{version}"), &found(&home.path("mnt")), &entries);
        home.run(["unmount", "mnt"]).must_succeed();
    }
}

fn files_below(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).expect("lists").flatten().map(|entry| entry.path());
    let files = entries.flat_map(|path| match path.is_dir() && !path.is_symlink() {
        true => files_below(&path),
        false => vec![path],
    });
    files.filter(|path| path.is_file()).collect()
}

/// Sentence 134. "Peers with the URL alone keep and pass on all of it, and read neither names nor bytes of files."
#[test]
fn an_encrypted_drive_of_ours_is_read_with_its_key_and_passed_on_without_it() {
    const SECRET: &str = "nothing that a peer without the key may read";
    let ours = Home::new();
    let created = ours.run(["create", "diary", "--encrypted"]).must_succeed();
    let url = created.stdout.trim().to_owned();
    assert!(created.stderr.contains("share --with-key diary"), "{created:?}");
    let tree = ours.make("tree");
    fs::write(tree.join(SECRET), SECRET).expect("writes");
    fs::write(tree.join("large"), vec![7; 300_000]).expect("writes");
    ours.run(["import", "tree", "diary"]).must_succeed();
    let entries = found(&tree);

    let share = ["share", "diary", "--listen", "127.0.0.1:0", "--no-qr", "--with-key"];
    let shared = ours.run(share).must_succeed();
    let mut lines = shared.stdout.lines();
    assert_eq!(lines.next(), Some(&*url), "{shared:?}");
    let key = lines.next().and_then(|line| line.strip_prefix("encryption key: "));
    let key = key.unwrap_or_else(|| panic!("{shared:?}")).to_owned();
    assert!(shared.stderr.contains("every version of the drive, past and future"), "{shared:?}");
    let address = onward::address(&ours);

    // A seeder without the key holds all of it, and none of the names and bytes.
    let blind = Home::new();
    blind.run(["seed", &url, "--peer", &address, "--listen", "127.0.0.1:0"]).must_succeed();
    let about = ours.run(["info", "diary", "--json"]).must_succeed().stdout;
    let about: serde_json::Value = serde_json::from_str(&about).expect("JSON");
    onward::whole(&blind, about["version"].as_u64().expect("a version"));
    let between = onward::address(&blind);
    blind.run(["ls", &url]).must_fail(5, "encrypt").hints("--encryption-key");
    ours.run(["daemon", "stop"]).must_succeed();
    for home in [&ours, &blind] {
        for path in files_below(&home.path("")) {
            let bytes = fs::read(&path).unwrap_or_default();
            let has = |text: &str| bytes.windows(text.len()).any(|part| part == text.as_bytes());
            // What was imported is beside the store.
            assert!(path.starts_with(&tree) || !has(SECRET), "{path:?} has the plain bytes");
            assert!(!has(&key), "{path:?} has the key in hex");
        }
    }
    let readers = Home::new();
    let export = ["export", &url, "copy", "--peer", &between];
    with_key(&readers, &key, &export).must_succeed();
    same("from the blind seeder", &found(&readers.path("copy")), &entries);
    let read = read_by_reference(&url[8..], &between, &["--encryption-key", &key]);
    assert_eq!(read.as_object().expect("entries").len(), 2, "{read}");

    let again = ours.run(["create", "diary", "--encrypted"]);
    again.must_fail(1, "there is one of that name already");
    ours.run(["create", "old", "--encrypted", "--format", "10"])
        .must_fail(2, "cannot be encrypted");
    ours.run(["create", "open", "--format", "13"]).must_succeed();
    ours.run(["share", "open", "--with-key", "--network", "off"])
        .must_fail(1, "no encryption key")
        .hints("hypermount unseed");
    ours.run(["create", "two\nlines"]).must_fail(2, "no line breaks");
}
