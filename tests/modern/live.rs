//! A drive that its publisher changes while it is mounted, over TCP and found by its key in a HyperDHT.

use std::fs;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;

use serde_json::json;

use crate::common::Home;
use crate::common::living::{Mounted, eventually, reference};
use crate::origin::{Origin, expected, found, mounted, random_seed, same};

fn read(mount: &Mounted, name: &str) -> Option<String> {
    fs::read_to_string(mount.path(name)).ok()
}

/// Waits until the mount shows the newest version, all of it.
fn follows(origin: &mut Origin, mount: &Mounted, last: &str, text: Option<&str>) {
    eventually("the newest version", || (read(mount, last).as_deref() == text).then_some(()));
    let version = origin.version();
    same("followed", &found(&mount.at), &mounted(&expected(&origin.entries(version))));
}

/// What was looked up and read before is cached by the kernel, and what was not there is too.
fn is_followed(origin: &mut Origin, mount: &Mounted) {
    let version = origin.version();
    same("at first", &found(&mount.at), &mounted(&expected(&origin.entries(version))));
    assert!(!mount.path("new.txt").exists() && !mount.path("made/a").exists());

    origin.process.ask(json!({"put": "/hello.txt", "text": "changed", "executable": true}));
    origin.process.ask(json!({"put": "/made/a", "size": 300_000}));
    origin.process.ask(json!({"symlink": "/links/relative", "target": "../made/a"}));
    origin.process.ask(json!({"put": "/new.txt", "text": "fresh"}));
    follows(origin, mount, "new.txt", Some("fresh"));

    // It stays readable as far as it is here, whatever becomes of its name.
    let mut open = fs::File::open(mount.path("made/a")).expect("it opens");
    let (mut before, mut after) = (Vec::new(), Vec::new());
    open.read_to_end(&mut before).expect("it reads");
    origin.process.ask(json!({"del": "/made/a"}));
    origin.process.ask(json!({"del": "/new.txt"}));
    follows(origin, mount, "new.txt", None);
    assert!(!mount.path("made").exists(), "a directory exists while something is in it");
    open.seek(SeekFrom::Start(0)).expect("it seeks");
    open.read_to_end(&mut after).expect("it still reads");
    assert!(after == before, "another file");

    origin.process.ask(json!({"batch": 100, "prefix": "/batch"}));
    follows(origin, mount, "batch/99", Some("number 99\n"));

    origin.process.ask(json!({"truncate": version}));
    follows(origin, mount, "batch/99", None);
    origin.process.ask(json!({"put": "/after.txt", "text": "after the truncation"}));
    follows(origin, mount, "after.txt", Some("after the truncation"));
}

#[test]
fn a_mount_follows_over_tcp() {
    let mut origin = Origin::new("small", &[]);
    let home = Home::new();
    let peers = [origin.address()];
    let mount = Mounted::by_key(origin.key(), &home.path("mnt"), &home.path("store"), &peers);
    is_followed(&mut origin, &mount);
}

#[test]
fn a_drive_signed_by_several_is_followed() {
    let mut origin = Origin::new("multisig", &[]);
    let home = Home::new();
    let peers = [origin.address()];
    let mount = Mounted::by_key(origin.key(), &home.path("mnt"), &home.path("store"), &peers);
    is_followed(&mut origin, &mount);
}

/// The publisher puts another file where a truncation has made room: of the same size, in the same blocks, at the same
/// offsets. Reading what was open, or a frozen version, fails then, and never returns bytes of the other file.
#[test]
fn bytes_after_a_truncation_are_not_read_as_those_before() {
    const SIZE: u64 = 30_000_000;
    let mut origin = Origin::new("small", &[]);
    let kept = origin.version();
    origin.process.ask(json!({"put": "/before.bin", "size": SIZE}));
    let (home, peer) = (Home::new(), origin.address());
    let at = |name: &str, url: &str| {
        let store = home.path(&format!("store-{name}")).display().to_string();
        let options = ["--peer", &peer, "--store", &store, "--wait", "2s"];
        Mounted::new(url, &home.path(name), &options)
    };
    let mount = at("newest", &origin.url(""));
    let frozen = at("frozen", &format!("hyper://{}+{}", origin.key(), kept + 1));
    let open = [&mount, &frozen].map(|mount| {
        let file = fs::File::open(mount.path("before.bin")).expect("it opens");
        file.read_exact_at(&mut [0; 65_536], 0).expect("it reads");
        file
    });

    origin.process.ask(json!({"truncate": kept}));
    origin.process.ask(json!({"put": "/after.bin", "size": SIZE}));
    eventually("the other file", || mount.path("after.bin").exists().then_some(()));
    for file in open {
        eventually("an error of a stale file", || {
            let read = file.read_at(&mut [0; 4096], SIZE / 2);
            read.is_err_and(|error| error.raw_os_error() == Some(libc::ESTALE)).then_some(())
        });
    }
    let again = fs::read(frozen.path("before.bin"));
    assert!(again.is_err(), "a version that does not exist any more");
    let newest = fs::read(mount.path("after.bin")).expect("it reads");
    assert_eq!(newest.len() as u64, SIZE);
}

/// The key is all that the mount is given.
#[test]
fn a_mount_finds_its_drive_in_a_hyperdht_and_follows() {
    let mut network = reference("modern/bootstrap.js", &[]);
    let bootstrap = network.json()["bootstrap"].as_str().expect("an address").to_owned();
    let seed = random_seed();
    let mut origin = Origin::seeded("small", &seed, &["--dht", &bootstrap]);
    let home = Home::new();
    let store = home.path("store").display().to_string();
    let bootstrap = format!("hyperdht:{bootstrap}");
    let options = ["--network", "full", "--bootstrap", &bootstrap, "--store", &store];
    let mount = Mounted::new(&origin.url(""), &home.path("mnt"), &options);
    is_followed(&mut origin, &mount);
}

/// A second command looks once, and has a store with an old version.
#[test]
fn the_next_command_shows_the_newest_version() {
    let mut origin = Origin::new("small", &[]);
    let home = Home::new();
    let cat = |origin: &Origin| {
        let url = origin.url("/hello.txt");
        home.run(["cat", &url, "--peer", &origin.address()]).must_succeed().stdout
    };
    assert_eq!(cat(&origin), "hello world\n");
    for text in ["one", "two"] {
        origin.process.ask(json!({"put": "/hello.txt", "text": text}));
        assert_eq!(cat(&origin), text);
    }
    origin.process.ask(json!({"truncate": 2}));
    origin.process.ask(json!({"put": "/other", "text": "x"}));
    assert_eq!(cat(&origin), "hello world\n");
}

/// A publisher deletes blocks from its disk: blocks that are stored here stay readable; reading the others fails within
/// the wait.
#[test]
fn blocks_that_no_peer_has_are_an_error_and_others_are_read() {
    let mut origin = Origin::new("small", &[]);
    let home = Home::new();
    origin.process.ask(json!({"clear": "/sizes/200000"}));
    let read = |path: &str| {
        home.run(["cat", &origin.url(path), "--peer", &origin.address(), "--wait", "1s"])
    };
    read("/sizes/200000").must_fail(3, "/sizes/200000");
    read("/hello.txt").must_succeed();
}
