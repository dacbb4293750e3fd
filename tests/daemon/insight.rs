//! Reports to the user: status, failures, events.

use std::fs;

use hypermount_drive::DriveFormat;
use serde_json::Value;

use crate::common::{Home, Running, eventually, in_each_format, key_of};
use crate::steps::*;

/// Sentence 92. "`status` always prints fewer than 20 lines."
#[test]
fn a_status_is_one_screen() {
    let home = Home::new();
    home.golden_store("store");
    let none = home.run(["status", "--store", "store"]).must_succeed();
    assert!(none.stdout.starts_with("no daemon runs"), "{none:?}");
    for number in 0..12 {
        home.run(["create", &format!("drive{number}"), "--store", "store"]).must_succeed();
    }
    for number in 0..12 {
        home.run(["seed", &format!("drive{number}"), "--store", "store"]).must_succeed();
        if can_mount() {
            let at = format!("mnt{number}");
            home.make(&at);
            let drive = format!("drive{number}");
            home.run(["mount", &drive, &at, "--store", "store"]).must_succeed();
        }
    }
    let status = home.run(["status", "--store", "store"]).must_succeed().stdout;
    assert!(status.lines().count() < 20, "{status}");
    assert!(status.contains("wrong    nothing") && status.contains("and 8 more"), "{status}");
    home.run(["daemon", "stop", "--store", "store"]).must_succeed();
}

/// Sentence 93. "For the last failed call at a path of a mount, `why` reports the program, the
/// error, the reason and the remedy." Sentence 94. "`top` charges a process for the bytes it reads
/// that were not on this disk when it asked for them, including bytes read ahead for it."
#[test]
fn failures_are_explained_and_bytes_are_charged() {
    if can_mount() {
        in_each_format(failures_are_explained);
    }
}

fn failures_are_explained(format: DriveFormat) {
    let home = Home::new();
    home.golden_store_of(format, "origin");
    let mnt = home.make("mnt");
    let (serve, peer) = serve(&home, "origin");
    let url = format!("hyper://{}", key_of(format));
    home.run(["mount", &url, "mnt", "--peer", &peer]).must_succeed();
    let big = mnt.join("big.bin");
    let read = program("cat", &[big.to_str().unwrap()]);
    assert_eq!(read.stdout.len(), 204_800);
    // Read again, it costs nothing.
    program("cat", &[big.to_str().unwrap()]);
    let activity = json(home.run(["top", "--json"]));
    assert_eq!(activity["processes"][0]["program"], "cat");
    assert_eq!(activity["files"][0]["path"], "big.bin");
    let fetched = activity["files"][0]["fetched"].as_u64().unwrap();
    assert!((100_000..=204_800).contains(&fetched), "{fetched}");
    assert_eq!(home.run(["why", "mnt/big.bin"]).must_succeed().stdout, "");

    home.run(["unmount", "mnt"]).must_succeed();
    drop(serve);
    home.run(["mount", &url, "mnt", "--peer", &peer, "--wait", "400ms"]).must_succeed();
    let missing = mnt.join("dir/f1.txt");
    assert!(!program("cat", &[missing.to_str().unwrap()]).status.success());
    let why = home.run(["why", "mnt/dir/f1.txt"]).must_succeed().stdout;
    for words in ["ETIMEDOUT", "why:", "do:", "--peer", "not available"] {
        assert!(why.contains(words), "{words} not in {why}");
    }
    let told = json(home.run(["why", "mnt/dir/f1.txt", "--json"]));
    assert_eq!(told[0]["program"], "cat");
    assert!(home.run(["status"]).must_succeed().stdout.contains("calls failed"));
    home.run(["unmount", "mnt"]).must_succeed();
    home.run(["why", "mnt/x"]).must_fail(1, "no mount");
}

#[test]
fn watch_prints_one_event_a_line() {
    if !can_mount() {
        return;
    }
    let home = Home::new();
    let url = create(&home, "notes");
    home.run(["daemon", "start"]).must_succeed();
    let watch = Running::start(home.command().args(["watch"]));
    let next = || serde_json::from_str::<Value>(&watch.line()).expect("JSON");
    let until = |event: &str| loop {
        let happened = next();
        if happened["event"] == event {
            return happened;
        }
    };
    assert_eq!(next()["event"], "listening");
    let mnt = home.make("mnt");
    home.run(["mount", "notes", "mnt"]).must_succeed();
    assert_eq!(until("mounted")["url"], url);
    home.run(["seed", "notes"]).must_succeed();
    assert_eq!(until("seeded")["url"], url);
    until("complete");
    fs::write(mnt.join("file"), "text").unwrap();
    assert_eq!(until("version")["url"], url);
    home.run(["unmount", "mnt"]).must_succeed();
    assert_eq!(until("unmounted")["url"], url);
    home.run(["unseed", "notes"]).must_succeed();
    until("unseeded");
    home.run(["daemon", "stop"]).must_succeed();
    let mut watch = watch;
    assert_eq!(watch.ended(), Some(0), "it ends with the daemon");
}

#[test]
fn an_open_watch_does_not_keep_a_daemon() {
    if !can_mount() {
        return;
    }
    let home = Home::new();
    create(&home, "notes");
    home.make("mnt");
    home.run(["mount", "notes", "mnt"]).must_succeed();
    let watch = Running::start(home.command().args(["watch"]));
    assert!(watch.line().contains("listening"));
    home.run(["unmount", "mnt"]).must_succeed();
    eventually("the daemon has ended", || !has_daemon(&default_store(&home)));
}

/// 106. A daemon dials a peer given with `--peer` while a mount, a seed or a command needs it, and for 10 s
///      from the start of the command.
#[test]
fn a_named_peer_is_dialled_only_while_it_is_needed() {
    if !can_mount() {
        return;
    }
    const NO_PEER: &str = "127.0.0.1:1";
    let home = Home::new();
    let url = create(&home, "notes");
    home.make("mnt");
    home.run(["daemon", "start"]).must_succeed();
    let dials = || home.run(["status", "--json"]).must_succeed().stdout.contains(NO_PEER);
    home.run(["ls", &url, "--peer", NO_PEER]).must_succeed();
    eventually("it is dialled for a command", dials);
    eventually("it is not dialled any more", || !dials());
    home.run(["mount", "notes", "mnt", "--peer", NO_PEER]).must_succeed();
    eventually("it is dialled for a mount", dials);
    home.run(["unmount", "mnt"]).must_succeed();
    eventually("it is not dialled after the unmount", || !dials());
}
