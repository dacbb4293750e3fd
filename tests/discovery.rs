//! Finding peers by key alone: the command and the reference, on machines of the test that reach no
//! other machine.

mod common;

use std::fs;
use std::process::Command;

use common::finders::{ByKey, TEXT, our_drive, serve};
use common::living::{self, Running, eventually, hypermount, reference_command, succeed};
use common::namespaces::Machines;
use common::{Home, key_of};
use hypermount_drive::testing::FORMATS;
use serde_json::json;

const NOTHING: [u16; 0] = [];

/// Each side finds the other's drive by its key alone, and sees it change: machine 1 is the
/// reference's, 2 is ours.
fn each_finds_the_other(machines: &Machines, options: &[&str], reference_options: &[&str]) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let theirs = directory.path().join("theirs").display().to_string();
    let run = |arguments: &[&str]| {
        let all = [arguments, reference_options].concat();
        Running::start(&mut machines.on(1, &mut reference_command("find-drive.js", &all)))
    };
    let mut their_server = run(&["serve", &theirs]);
    let key = their_server.json()["key"].as_str().expect("a key").to_owned();
    their_server.ask(json!({"path": "/first.txt", "text": "first"}));
    let mounted = ByKey::new(machines, 2, directory.path(), &key, options);
    let read = |name: &str| fs::read_to_string(mounted.at.join(name)).ok();
    assert_eq!(eventually("the file of the reference", || read("first.txt")), "first");
    their_server.ask(json!({"path": "/second.txt", "text": "second"}));
    assert_eq!(eventually("a newer one", || read("second.txt")), "second");
    drop((mounted, their_server));

    let (store, key) = our_drive(directory.path());
    let _ours = serve(machines, 2, &store, options);
    // The reference looks once, and again after minutes; so the test asks repeatedly.
    let entries = eventually("the reference finds us", || {
        let mut reader = run(&["read", &key, "--deadline", "15"]);
        let answer = reader.json();
        answer.get("entries").cloned()
    });
    assert_eq!(entries["hello.txt"]["size"], TEXT.len());
}

#[test]
fn on_the_local_network_the_reference_and_we_find_each_other() {
    let Some(machines) = Machines::on_one_cable(3) else { return };
    each_finds_the_other(&machines, &["--network", "lan"], &[]);
}

/// 77. A key is enough to open a drive that a peer announces on the local network, in the DHT or in the
///     HyperDHT, nested drives included.
#[test]
fn a_nested_drive_is_found_at_another_peer() {
    let Some(machines) = Machines::behind_a_router(4) else { return };
    let mut node = Running::start(&mut machines.on(0, hypermount().args(["bootstrap", "--json"])));
    node.json();
    let options = ["--bootstrap", "10.77.0.1:49737"];
    let directory = tempfile::tempdir().expect("a temporary directory");
    let (store, key) = our_drive(directory.path());
    let ours = serve(&machines, 2, &store, &options);
    let theirs = directory.path().join("theirs").display().to_string();
    let arguments = [["serve", &theirs], options].concat();
    let mut outer =
        Running::start(&mut machines.on(1, &mut reference_command("find-drive.js", &arguments)));
    let outer_key = outer.json()["key"].as_str().expect("a key").to_owned();
    outer.ask(json!({"path": "/nested", "key": key}));
    let mounted = ByKey::new(&machines, 3, directory.path(), &outer_key, &options);
    let read = || fs::read_to_string(mounted.at.join("nested/hello.txt")).ok();
    assert_eq!(eventually("the file in the nested drive", read), TEXT);
    drop(ours);
}

/// A drive of each format, from our server to our reader: on the local network, in the hash table of Hyperswarm 2 and in
/// the HyperDHT.
#[test]
fn a_drive_of_each_format_is_found_by_its_key() {
    let Some(machines) = Machines::on_one_cable(3) else { return };
    let mut command = hypermount();
    command.args([
        "bootstrap",
        "--json",
        "--listen",
        "0.0.0.0:49738",
        "--hyperdht",
        "10.77.0.1:49737",
    ]);
    let mut node = Running::start(&mut machines.on(0, &mut command));
    node.json();
    for format in FORMATS {
        for options in [
            ["--bootstrap", "hyperdht:10.77.0.1:49737"],
            ["--bootstrap", "10.77.0.1:49738"],
            ["--network", "lan"],
        ] {
            eprintln!("{format}, {options:?}");
            let home = Home::new();
            let store = home.golden_store_of(format, "theirs");
            let _theirs = serve(&machines, 2, &store, &options);
            let key = key_of(format);
            let mounted = ByKey::new(&machines, 1, home.directory.path(), key, &options);
            let read = || fs::read_to_string(mounted.at.join("dir/f1.txt")).ok();
            assert_eq!(eventually("a file of the drive", read), "file 1\n");
        }
    }
}

#[test]
fn through_a_bootstrap_node_of_the_reference_both_find_each_other() {
    let Some(machines) = Machines::behind_a_router(3) else { return };
    let mut node = reference_command("find-drive.js", &["bootstrap", "--port", "49737"]);
    let mut node = Running::start(&mut machines.on(0, &mut node));
    assert_eq!(node.json()["port"], 49737);
    let options = ["--bootstrap", "10.77.0.1:49737"];
    each_finds_the_other(&machines, &options, &options);
}

/// 81. With `--bootstrap`, the DHT and the HyperDHT are entered only through the nodes named there.
#[test]
fn through_a_bootstrap_node_of_ours_both_find_each_other() {
    let Some(machines) = Machines::behind_a_router(3) else { return };
    let mut node = Running::start(&mut machines.on(0, hypermount().args(["bootstrap", "--json"])));
    assert_eq!(node.json()["address"], "0.0.0.0:49737");
    let options = ["--bootstrap", "10.77.0.1:49737"];
    each_finds_the_other(&machines, &options, &options);
    // There is no other machine to ask, and names are not resolved here.
    let directory = tempfile::tempdir().expect("a temporary directory");
    let (store, key) = our_drive(directory.path());
    let ours = serve(&machines, 2, &store, &options);
    let fetched = directory.path().join("elsewhere");
    let look = |bootstrap: &str| {
        let mut command = hypermount();
        command.args(["cat", &format!("hyper://{key}"), "hello.txt", "--wait", "5s"]);
        command.arg("--store").arg(&fetched).args(["--bootstrap", bootstrap]);
        living::finish(&mut machines.on(1, &mut command))
    };
    let elsewhere = look("10.77.0.1:49738");
    assert_eq!(elsewhere.status.code(), Some(3), "{elsewhere:?}");
    let hint = String::from_utf8_lossy(&elsewhere.stderr).into_owned();
    assert!(hint.contains("hint: no peer was found; name one with --peer"), "{hint}");
    assert_eq!(look("10.77.0.1:49737").stdout, TEXT.as_bytes());
    drop(ours);
}

/// Local ports of the UDP sockets of a machine.
fn udp_ports(machines: &Machines, n: u8) -> Vec<u16> {
    let table = succeed(&mut machines.on(n, Command::new("cat").arg("/proc/self/net/udp")));
    let port = |line: &str| {
        let local = line.split_whitespace().nth(1)?;
        u16::from_str_radix(local.split_once(':')?.1, 16).ok()
    };
    table.lines().skip(1).filter_map(port).collect()
}

/// 79. A command that names a peer with `--peer`, or opens a drive that is on this disk, looks for no peers
///     unless `--network` or the environment asks for it. (A daemon that looks for peers does so for all it
///     opens.)
///
/// 80. With `--network lan` nothing is sent beyond the local network, with `off` no peers are looked
///     for.
#[test]
fn a_command_looks_for_peers_only_if_it_needs_them() {
    let Some(machines) = Machines::on_one_cable(1) else { return };
    let directory = tempfile::tempdir().expect("a temporary directory");
    let (store, key) = our_drive(directory.path());
    let key = format!("hyper://{key}");
    let at = directory.path().join("mnt");
    fs::create_dir_all(&at).expect("make a directory");
    let ports = |environment: Option<&str>, target: &str, options: &[&str]| {
        let mut command = hypermount();
        match environment {
            Some(level) => command.env("HYPERMOUNT_NETWORK", level),
            None => command.env_remove("HYPERMOUNT_NETWORK"),
        };
        command.args(["mount", "--foreground", target]).arg(&at).arg("--store").arg(&store);
        let mut process = Running::start(&mut machines.on(0, command.args(options)));
        process.line();
        let ports = udp_ports(&machines, 0);
        succeed(hypermount().arg("unmount").arg(&at));
        assert!(process.wait().success());
        ports
    };
    assert_eq!(ports(None, &key, &["--peer", "10.77.0.9:1"]), NOTHING);
    assert_eq!(ports(None, "ours", &[]), NOTHING);
    assert_eq!(ports(Some("off"), &key, &[]), NOTHING);
    assert_eq!(ports(Some("lan"), &key, &["--network", "off"]), NOTHING);
    assert_eq!(ports(Some("lan"), "ours", &[]), [5353], "one socket, for the local network");
    assert_eq!(ports(None, &key, &["--network", "lan"]), [5353]);
    assert_eq!(ports(None, &key, &["--bootstrap", "10.77.0.9:1"]).len(), 2);
}

/// Sentence 78. "Reading and mounting only look up; `serve`, and `mount --listen`, announce."
#[test]
fn a_reader_is_not_found_and_a_listening_mount_is() {
    let Some(machines) = Machines::on_one_cable(3) else { return };
    let directory = tempfile::tempdir().expect("a temporary directory");
    let (store, key) = our_drive(directory.path());
    let server = serve(&machines, 0, &store, &["--network", "lan"]);
    let lan = ["--network", "lan"];
    let reader = ByKey::new(&machines, 1, directory.path(), &key, &lan);
    assert_eq!(fs::read_to_string(reader.at.join("hello.txt")).expect("read"), TEXT);
    drop(server);
    let second = directory.path().join("second");
    let look = || {
        let mut command = hypermount();
        command.args(["cat", &format!("hyper://{key}"), "hello.txt", "--wait", "3s"]);
        living::finish(&mut machines.on(2, command.arg("--store").arg(&second).args(lan)))
    };
    assert_eq!(look().status.code(), Some(3), "a reader does not announce the drive");
    drop(reader);
    let third = directory.path().join("third");
    fs::create_dir_all(&third).expect("make a directory");
    let mut listener = hypermount();
    listener.args(["mount", "--foreground", "ours"]).arg(&third).arg("--store").arg(&store);
    listener.args(["--listen", "0.0.0.0:0"]).args(lan);
    let mut listener = Running::start(&mut machines.on(1, &mut listener));
    listener.line();
    assert_eq!(look().stdout, TEXT.as_bytes());
    succeed(hypermount().arg("unmount").arg(&third));
    listener.wait();
    // Nor does a mount by a daemon, unless it listens.
    let mount = |options: &[&str]| {
        let mut command = hypermount();
        command.args(["mount", "ours"]).arg(&third).arg("--store").arg(&store);
        succeed(&mut machines.on(1, command.args(options).args(lan)));
    };
    let fourth = directory.path().join("fourth");
    let look = || {
        let mut command = hypermount();
        command.args(["cat", &format!("hyper://{key}"), "hello.txt", "--wait", "3s"]);
        living::finish(&mut machines.on(2, command.arg("--store").arg(&fourth).args(lan)))
    };
    mount(&[]);
    assert_eq!(look().status.code(), Some(3), "a mount that does not listen does not announce");
    succeed(hypermount().arg("unmount").arg(&third));
    mount(&["--listen", "0.0.0.0:0"]);
    assert_eq!(look().stdout, TEXT.as_bytes());
    succeed(hypermount().arg("unmount").arg(&third));
}

/// As above, for a key that is looked up in a mount of all drives, with no other source of peers.
#[test]
fn a_key_in_a_path_is_found_and_not_announced() {
    let Some(machines) = Machines::on_one_cable(3) else { return };
    let directory = tempfile::tempdir().expect("a temporary directory");
    let (store, key) = our_drive(directory.path());
    let lan = ["--network", "lan"];
    let server = serve(&machines, 0, &store, &lan);
    let at = directory.path().join("all");
    fs::create_dir_all(&at).expect("make a directory");
    let mut command = hypermount();
    command.args(["mount", "--foreground", "--all"]).arg(&at);
    command.arg("--store").arg(directory.path().join("fetched")).args(lan);
    let mut all = Running::start(&mut machines.on(1, &mut command));
    all.line();
    let file = at.join("Network").join(&key).join("hello.txt");
    assert_eq!(fs::read_to_string(&file).expect("it is found by its key"), TEXT);
    drop(server);
    let mut command = hypermount();
    command.args(["cat", &format!("hyper://{key}"), "hello.txt", "--wait", "3s"]);
    command.arg("--store").arg(directory.path().join("second")).args(lan);
    let looked = living::finish(&mut machines.on(2, &mut command));
    assert_eq!(looked.status.code(), Some(3), "{looked:?}");
    assert_eq!(fs::read_to_string(&file).expect("it goes on"), TEXT);
    succeed(hypermount().arg("unmount").arg(&at));
    assert!(all.wait().success());
}
