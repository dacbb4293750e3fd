//! Finding each other through HyperDHT 6, on machines of the test's own: npm hyperdht and we, as
//! nodes of the network and as peers, with and without routers that hide them.

mod common;

use std::fs;
use std::time::Duration;

use common::finders::{
    ByDaemon, ByKey, ENOUGH, NODES, OPTIONS, TEXT, our_drive, reference_nodes, serve,
};
use common::living::{self, Running, eventually, hypermount, reference_command, succeed};
use common::namespaces::Machines;
use serde_json::json;

fn reference_peer(machines: &Machines, n: u8, mode: &str, what: &str) -> Running {
    let arguments = [mode, what, "--bootstrap", NODES];
    Running::start(&mut machines.on(n, &mut reference_command("find-hyperdht.js", &arguments)))
}

/// Machine 1 serves, machine 2 reads. Checks the content, the final transport, and how the peer was
/// found.
fn found(machines: &Machines, transport: &str, way: &str) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let (store, key) = our_drive(directory.path());
    let _ours = serve(machines, 1, &store, &OPTIONS);
    let reader = ByDaemon::new(machines, 2, directory.path(), &key, &OPTIONS);
    assert_eq!(fs::read_to_string(reader.at.join("hello.txt")).expect("read"), TEXT);
    reader.has_one(transport, way);
}

#[test]
fn a_peer_found_through_nodes_of_npm_hyperdht_is_reached_over_tcp() {
    let Some(machines) = Machines::behind_a_router(3) else { return };
    let _nodes = reference_nodes(&machines, "0");
    found(&machines, "tcp", "told");
}

/// Sentence 78. "Reading and mounting only look up; `serve`, and `mount --listen`, announce."
#[test]
fn a_reader_is_not_found() {
    let Some(machines) = Machines::behind_a_router(4) else { return };
    let _nodes = reference_nodes(&machines, "0");
    let directory = tempfile::tempdir().expect("a temporary directory");
    let (store, key) = our_drive(directory.path());
    let server = serve(&machines, 1, &store, &OPTIONS);
    let reader = ByKey::new(&machines, 2, directory.path(), &key, &OPTIONS);
    assert_eq!(fs::read_to_string(reader.at.join("hello.txt")).expect("read"), TEXT);
    drop(server);
    let mut command = hypermount();
    command.args(["cat", &format!("hyper://{key}"), "hello.txt", "--wait", "5s", "--store"]);
    command.arg(directory.path().join("third")).args(OPTIONS);
    let third = living::finish(&mut machines.on(3, &mut command));
    assert_eq!(third.status.code(), Some(3), "{third:?}");
}

#[test]
fn a_peer_is_found_through_a_node_of_ours() {
    let Some(machines) = Machines::behind_a_router(3) else { return };
    let mut node = hypermount();
    node.args(["bootstrap", "--json", "--hyperdht", NODES]);
    let mut node = Running::start(&mut machines.on(0, &mut node));
    assert_eq!(node.json(), json!({"address": null, "hyperdht": NODES}));
    found(&machines, "tcp", "told");
}

/// One process is a node of both networks, at two ports.
#[test]
fn a_peer_is_found_through_a_node_of_ours_in_both_networks() {
    let Some(machines) = Machines::behind_a_router(3) else { return };
    let mut node = hypermount();
    node.args(["bootstrap", "--json", "--listen", "0.0.0.0:49738", "--hyperdht", NODES]);
    let mut node = Running::start(&mut machines.on(0, &mut node));
    assert_eq!(node.json(), json!({"address": "0.0.0.0:49738", "hyperdht": NODES}));
    let directory = tempfile::tempdir().expect("a temporary directory");
    let (store, key) = our_drive(directory.path());
    let _ours =
        serve(&machines, 1, &store, &["--bootstrap", "10.77.0.1:49738", OPTIONS[0], OPTIONS[1]]);
    for bootstrap in ["10.77.0.1:49738", OPTIONS[1]] {
        let reader = ByKey::new(&machines, 2, directory.path(), &key, &["--bootstrap", bootstrap]);
        assert_eq!(fs::read_to_string(reader.at.join("hello.txt")).expect("read"), TEXT);
    }
}

/// Datagrams are the only way to the server: it listens for TCP on an address that no other machine
/// reaches.
#[test]
fn the_stream_is_carried_by_datagrams_where_tcp_does_not_reach() {
    let Some(machines) = Machines::behind_a_router(3) else { return };
    let _nodes = reference_nodes(&machines, "0");
    let directory = tempfile::tempdir().expect("a temporary directory");
    let (store, key) = our_drive(directory.path());
    let big: Vec<u8> = (0..3_000_000_u32)
        .flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes())
        .take(3_000_000)
        .collect();
    let tree = directory.path().join("more");
    fs::create_dir_all(&tree).expect("make a directory");
    fs::write(tree.join("big"), &big).expect("write");
    succeed(hypermount().arg("import").arg(&tree).arg("ours").arg("--store").arg(&store));
    let mut server = hypermount();
    server.args(["serve", "--json", "--network", "full", "--listen", "127.0.0.1:0", "--store"]);
    let mut server = Running::start(&mut machines.on(1, server.arg(&store).args(OPTIONS)));
    server.json();
    let reader = ByDaemon::new(&machines, 2, directory.path(), &key, &OPTIONS);
    assert!(fs::read(reader.at.join("big")).expect("read") == big);
    reader.has_one("hyperdht", "hyperdht");
}

/// A reader behind a router, and a server that every peer reaches.
#[test]
fn a_hidden_reader_finds_an_open_server() {
    let Some(machines) = Machines::behind_routers(3, &[2]) else { return };
    let _nodes = reference_nodes(&machines, ENOUGH);
    found(&machines, "tcp", "told");
}

#[test]
fn a_reader_finds_a_hidden_server() {
    let Some(machines) = Machines::behind_routers(3, &[1]) else { return };
    let _nodes = reference_nodes(&machines, ENOUGH);
    found(&machines, "hyperdht", "hyperdht");
}

#[test]
fn two_behind_routers_punch_holes_for_each_other() {
    let Some(machines) = Machines::behind_routers(3, &[1, 2]) else { return };
    let _nodes = reference_nodes(&machines, ENOUGH);
    found(&machines, "hyperdht", "hyperdht");
}

/// The server's router chooses unpredictable ports: the reader tries ports until one is open.
#[test]
fn a_server_whose_router_changes_its_ports_is_reached() {
    let Some(machines) = Machines::behind_routers(3, &[1, 2]) else { return };
    machines.changes_ports(1);
    let _nodes = reference_nodes(&machines, ENOUGH);
    found(&machines, "hyperdht", "hyperdht");
}

/// As above, with the reader's router.
#[test]
fn a_reader_whose_router_changes_its_ports_reaches_a_hidden_server() {
    let Some(machines) = Machines::behind_routers(3, &[1, 2]) else { return };
    machines.changes_ports(2);
    let _nodes = reference_nodes(&machines, ENOUGH);
    found(&machines, "hyperdht", "hyperdht");
}

/// A server that ends withdraws its announcement: no peer is sent to its old address.
#[test]
fn a_server_that_ends_withdraws_its_announcement() {
    let Some(machines) = Machines::behind_a_router(3) else { return };
    let _nodes = reference_nodes(&machines, ENOUGH);
    let directory = tempfile::tempdir().expect("a temporary directory");
    let (store, key) = our_drive(directory.path());
    let mut ours = serve(&machines, 1, &store, &OPTIONS);
    let announced = |count: usize| {
        let mut look = reference_peer(&machines, 2, "peers", &key);
        look.json()["peers"] == count
    };
    eventually("it is announced", || announced(1).then_some(()));
    ours.signal(nix::sys::signal::Signal::SIGTERM);
    ours.json();
    eventually("it is not any more", || announced(0).then_some(()));
}

fn our_node(machines: &Machines, port: u16) -> Running {
    let mut node = hypermount();
    node.args(["bootstrap", "--json", "--hyperdht", &format!("10.77.0.1:{port}")]);
    if port > 49737 {
        node.args(OPTIONS);
    }
    let mut node = Running::start(&mut machines.on(0, &mut node));
    node.json();
    node
}

/// With nodes of ours only, as many as a node needs to determine the type of its router.
#[test]
fn two_behind_routers_meet_through_nodes_of_ours_alone() {
    let Some(machines) = Machines::behind_routers(3, &[1, 2]) else { return };
    let _nodes: Vec<_> = (49737..49741).map(|port| our_node(&machines, port)).collect();
    found(&machines, "hyperdht", "hyperdht");
}

/// With one node, a peer cannot determine the type of its router.
#[test]
fn two_behind_routers_meet_through_a_single_node_of_ours() {
    let Some(machines) = Machines::behind_routers(3, &[1, 2]) else { return };
    let _node = our_node(&machines, 49737);
    found(&machines, "hyperdht", "hyperdht");
}

/// npm hyperswarm and the original's replication in the channel of ours, each way, both behind routers.
#[test]
fn a_javascript_peer_reads_from_us_and_we_from_it() {
    let Some(machines) = Machines::behind_routers(3, &[1, 2]) else { return };
    let _nodes = reference_nodes(&machines, ENOUGH);
    let directory = tempfile::tempdir().expect("a temporary directory");
    let (store, key) = our_drive(directory.path());
    let _ours = serve(&machines, 1, &store, &OPTIONS);
    // The reference looks once, and again after minutes; so the test asks repeatedly.
    let entries = eventually("the reference finds us", || {
        let arguments = ["read", &key, "--bootstrap", NODES, "--deadline", "20"];
        let mut reader = reference_command("find-hyperdht.js", &arguments);
        let answer = Running::start(&mut machines.on(2, &mut reader)).json();
        answer.get("entries").cloned()
    });
    assert_eq!(entries["hello.txt"]["size"], TEXT.len());

    let theirs = directory.path().join("theirs").display().to_string();
    let mut server = reference_peer(&machines, 2, "serve", &theirs);
    let key = server.json()["key"].as_str().expect("a key").to_owned();
    server.ask(json!({"path": "/first.txt", "text": "first"}));
    let mounted = ByKey::new(&machines, 1, directory.path(), &key, &OPTIONS);
    let read = |name: &str| fs::read_to_string(mounted.at.join(name)).ok();
    assert_eq!(eventually("the file of the reference", || read("first.txt")), "first");
    server.ask(json!({"path": "/second.txt", "text": "second"}));
    assert_eq!(eventually("a newer one", || read("second.txt")), "second");
}

/// A peer of the topic that speaks another protocol is disconnected and not dialled repeatedly.
#[test]
fn a_peer_of_another_kind_does_no_harm() {
    let Some(machines) = Machines::behind_a_router(4) else { return };
    let _nodes = reference_nodes(&machines, ENOUGH);
    let directory = tempfile::tempdir().expect("a temporary directory");
    let (store, key) = our_drive(directory.path());
    let mut other = reference_peer(&machines, 3, "idle", &key);
    other.json();
    let mut reader = hypermount();
    reader.args(["cat", &format!("hyper://{key}"), "hello.txt", "--wait", "120s", "--store"]);
    let mut reader = Running::start(
        &mut machines.on(2, reader.arg(directory.path().join("read")).args(OPTIONS)),
    );
    eventually("the other one was connected to and disconnected", || {
        let counts = other.ask(json!({}));
        (counts["connections"] == 1 && counts["open"] == 0).then_some(())
    });
    let _ours = serve(&machines, 1, &store, &OPTIONS);
    assert_eq!(reader.line(), TEXT.trim_end());
    // The server has found it too, and no connection is left.
    eventually("the other one is alone", || (other.ask(json!({}))["open"] == 0).then_some(()));
    let counts = other.ask(json!({}));
    assert!(counts["connections"].as_u64() <= Some(2), "{counts}");
}

#[test]
fn a_peer_that_sends_more_than_was_granted_is_disconnected() {
    let Some(machines) = Machines::behind_a_router(3) else { return };
    let _nodes = reference_nodes(&machines, "0");
    let directory = tempfile::tempdir().expect("a temporary directory");
    let (store, key) = our_drive(directory.path());
    let mut ours = serve(&machines, 1, &store, &OPTIONS);
    let flood = reference_peer(&machines, 2, "flood", &key).json();
    assert!(flood["sent"].as_u64() > flood["granted"].as_u64(), "{flood}");
    // Others are served as before.
    let reader = ByKey::new(&machines, 2, directory.path(), &key, &OPTIONS);
    assert_eq!(fs::read_to_string(reader.at.join("hello.txt")).expect("read"), TEXT);
    ours.signal(nix::sys::signal::Signal::SIGTERM);
    let received = ours.json()["received"].as_u64().expect("a count");
    assert!(received < 4 * 1024 * 1024, "{received}");
}

/// A server that gets another address is found there.
#[test]
fn a_server_that_moves_is_found_again() {
    let Some(machines) = Machines::behind_a_router(3) else { return };
    let _nodes = reference_nodes(&machines, "0");
    let directory = tempfile::tempdir().expect("a temporary directory");
    let (store, key) = our_drive(directory.path());
    let _ours = serve(&machines, 1, &store, &OPTIONS);
    let look = |fetched: &str| {
        let mut command = hypermount();
        command.args(["cat", &format!("hyper://{key}"), "hello.txt", "--wait", "10s", "--store"]);
        command.arg(directory.path().join(fetched)).args(OPTIONS);
        living::finish(&mut machines.on(2, &mut command)).stdout
    };
    assert_eq!(look("before"), TEXT.as_bytes());
    machines.move_to_another_network(1);
    eventually("it is found at its new address", || {
        (look("after") == TEXT.as_bytes()).then_some(())
    });
}

/// Prints the speed of datagrams, without a limit: `cargo test --test hyperdht speed -- --ignored --nocapture`.
#[test]
#[ignore = "measures"]
fn speed_of_the_datagrams() {
    let Some(machines) = Machines::behind_a_router(3) else { return };
    let _nodes = reference_nodes(&machines, "0");
    let directory = tempfile::tempdir().expect("a temporary directory");
    let (store, key) = our_drive(directory.path());
    let tree = directory.path().join("more");
    fs::create_dir_all(&tree).expect("make a directory");
    let big: Vec<u8> =
        (0..4_000_000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    fs::write(tree.join("big"), &big).expect("write");
    succeed(hypermount().arg("import").arg(&tree).arg("ours").arg("--store").arg(&store));
    for listen in ["127.0.0.1:0", "0.0.0.0:0"] {
        let mut server = hypermount();
        server.args(["serve", "--json", "--network", "full", "--listen", listen, "--store"]);
        let mut server = Running::start(&mut machines.on(1, server.arg(&store).args(OPTIONS)));
        server.json();
        let reader = directory.path().join(listen);
        fs::create_dir_all(&reader).expect("make a directory");
        let reader = ByDaemon::new(&machines, 2, &reader, &key, &OPTIONS);
        let started = std::time::Instant::now();
        assert!(fs::read(reader.at.join("big")).expect("read") == big);
        let took: Duration = started.elapsed();
        let speed = big.len() as f64 / took.as_secs_f64() / 1e6;
        println!("{}: {speed:.2} MB/s", reader.peers()[0]["transport"]);
    }
}
