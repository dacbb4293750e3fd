//! A laptop that sleeps and wakes in another network: its processes are stopped meanwhile, its address
//! changes, and its peers do not learn of that.

mod common;

use std::fs;
use std::path::Path;
use std::time::Instant;

use common::living::{Running, eventually, hypermount, succeed};
use common::namespaces::Machines;
use nix::sys::signal::Signal;

const NODE: &str = "10.77.0.1:49737";

fn a_drive(store: &Path, tree: &Path) -> String {
    fs::create_dir_all(tree).expect("make a directory");
    for name in ["before", "after"] {
        // More than is fetched with the directory, so that the second needs a peer again.
        fs::write(tree.join(name), name.repeat(200_000)).expect("write");
    }
    let url = succeed(hypermount().args(["create", "ours", "--store"]).arg(store));
    succeed(hypermount().arg("import").arg(tree).arg("ours").arg("--store").arg(store));
    url.trim().to_owned()
}

/// 105. Reading continues when the machine wakes in another network: connections from an address
///      that the machine no longer has are closed, after a sleep of more than 30 s all connections
///      are, and peers are dialled again.
#[test]
fn a_reader_that_wakes_in_another_network_continues() {
    let Some(machines) = Machines::behind_a_router(3) else { return };
    let mut node = Running::start(&mut machines.on(0, hypermount().args(["bootstrap", "--json"])));
    node.json();
    let directory = tempfile::tempdir().expect("a temporary directory");
    let (store, at) = (directory.path().join("ours"), directory.path().join("mnt"));
    let url = a_drive(&store, &directory.path().join("tree"));
    let mut server = hypermount();
    server.args(["serve", "--json", "--listen", "0.0.0.0:0", "--bootstrap", NODE, "--store"]);
    let mut server = Running::start(&mut machines.on(1, server.arg(&store)));
    server.json();
    fs::create_dir_all(&at).expect("make a directory");
    let mut mount = hypermount();
    mount.args(["mount", "--foreground", &url]).arg(&at).args(["--bootstrap", NODE]);
    mount.args(["--wait", "60s", "--store"]).arg(directory.path().join("fetched"));
    let mut mount = Running::start(&mut machines.on(2, &mut mount));
    mount.line();
    assert_eq!(fs::read_to_string(at.join("before")).expect("read"), "before".repeat(200_000));

    mount.signal(Signal::SIGSTOP);
    machines.move_to_another_network(2);
    mount.signal(Signal::SIGCONT);
    let woken = Instant::now();
    let read = eventually("it reads on", || fs::read_to_string(at.join("after")).ok());
    eprintln!("read on after {:?}", woken.elapsed());
    assert!(read == "after".repeat(200_000));
    succeed(hypermount().arg("unmount").arg(&at));
    assert!(mount.wait().success());
}
