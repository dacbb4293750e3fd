//! The daemons people ran, hyperspace and hyperdrive-daemon, unmodified: each finds our drive by its key
//! alone, and we find one of theirs, on machines of the test's own.

mod common;

use std::fs;
use std::path::Path;
use std::process::Command;

use common::living::{Running, eventually, hypermount, reference_command, succeed};
use common::namespaces::Machines;
use serde_json::json;

/// The bootstrap node, ours, on machine 0.
const NODE: &str = "10.77.0.1:49737";

/// A program of the reference on machine 1.
fn theirs(machines: &Machines, arguments: &[&str]) -> Running {
    let all = [arguments, &["--bootstrap", NODE]].concat();
    let mut command = reference_command("find-hyperspace.js", &all);
    // Its home directory must not be that of the user who runs the tests. Unless it is under test,
    // the daemon mounts its root drive there, and a mount outlives the process.
    command.env("HOME", arguments[2]).env("NODE_ENV", "test");
    Running::start(&mut machines.on(1, &mut command))
}

fn theirs_is_found_by_us(machines: &Machines, kind: &str, directory: &Path) {
    let store = directory.join("theirs").display().to_string();
    let mut server = theirs(machines, &[kind, "serve", &store]);
    let key = server.json()["key"].as_str().expect("a key").to_owned();
    server.ask(json!({"path": "/first.txt", "text": "first"}));
    let at = directory.join("mnt");
    fs::create_dir_all(&at).expect("make a directory");
    let mut mount = hypermount();
    mount.args(["mount", "--foreground", &format!("hyper://{key}")]).arg(&at);
    mount.arg("--store").arg(directory.join("fetched")).args(["--bootstrap", NODE]);
    let mut mount = Running::start(&mut machines.on(2, &mut mount));
    mount.line();
    let read = |name: &str| fs::read_to_string(at.join(name)).ok();
    assert_eq!(eventually("their file", || read("first.txt")), "first");
    server.ask(json!({"path": "/second.txt", "text": "second"}));
    assert_eq!(eventually("a newer one", || read("second.txt")), "second");
    succeed(hypermount().arg("unmount").arg(&at));
    assert!(mount.wait().success());
}

fn ours_is_found_by_them(machines: &Machines, kind: &str, directory: &Path) {
    let (store, tree) = (directory.join("ours"), directory.join("tree"));
    fs::create_dir_all(&tree).expect("make a directory");
    fs::write(tree.join("hello.txt"), "found by its key").expect("write");
    let url = succeed(hypermount().args(["create", "ours", "--store"]).arg(&store));
    succeed(hypermount().arg("import").arg(&tree).arg("ours").arg("--store").arg(&store));
    let mut server = hypermount();
    server.args(["serve", "--json", "--listen", "0.0.0.0:0", "--bootstrap", NODE, "--store"]);
    let mut server = Running::start(&mut machines.on(2, server.arg(&store)));
    server.json();
    let key = url.trim().trim_start_matches("hyper://").to_owned();
    let mut attempt = 0;
    // The reference looks once, and again after minutes; so the test asks repeatedly.
    let answer = eventually("they find us", || {
        attempt += 1;
        let store = directory.join(format!("reader-{attempt}")).display().to_string();
        let answer = theirs(machines, &[kind, "read", &store, &key, "--deadline", "20"]).json();
        answer.get("text").is_some().then_some(answer)
    });
    assert_eq!(answer, json!({"names": ["hello.txt"], "text": "found by its key"}));
}

fn each_finds_the_other(kind: &str) {
    let Some(machines) = Machines::behind_a_router(3) else { return };
    let mut node = Running::start(&mut machines.on(0, hypermount().args(["bootstrap", "--json"])));
    node.json();
    let directory = tempfile::tempdir().expect("a temporary directory");
    theirs_is_found_by_us(&machines, kind, directory.path());
    ours_is_found_by_them(&machines, kind, directory.path());
    let _ = Command::new("umount").arg("-l").arg(directory.path().join("mnt")).output();
}

#[test]
fn hyperspace_and_we_find_each_other() {
    each_finds_the_other("hyperspace");
}

#[test]
fn hyperdrive_daemon_and_we_find_each_other() {
    each_finds_the_other("daemon");
}
