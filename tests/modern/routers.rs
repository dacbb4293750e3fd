//! Peers that are each behind a router of their own, on machines of the test: two of the reference and two of ours. They
//! find each other by the key of the drive alone, and read on after a change of network.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::common::Home;
use crate::common::finders::{ByKey, ENOUGH, NODES, OPTIONS, reference_nodes};
use crate::common::living::{Running, eventually, reference_command};
use crate::common::namespaces::Machines;
use crate::origin::{Origin, expected, found, mounted, same};

/// The machines of the peers; the nodes of the network are on machine 0.
const PUBLISHER: u8 = 1;
const READER: u8 = 2;
const SEEDER: u8 = 3;
const LAST: u8 = 4;

/// The daemon of a machine copies a drive and serves it, until it is dropped.
struct Seeder {
    home: Home,
}

impl Seeder {
    fn new(machines: &Machines, url: &str) -> Self {
        let home = Home::new();
        let mut seed = home.command();
        run(&mut machines.on(SEEDER, seed.args(["seed", url]).args(OPTIONS)));
        Self { home }
    }

    fn has_all_of(&self, version: u64) {
        eventually("the copy is whole", || {
            let status = self.home.run(["status", "--json"]).must_succeed();
            let status: Value = serde_json::from_str(&status.stdout).expect("JSON");
            let seed = &status["seeds"][0];
            (seed["complete"] == true && seed["version"].as_u64() >= Some(version)).then_some(())
        });
    }
}

fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {output:?}");
}

/// Has the publisher write a file, and waits until the mount shows it.
fn reads_on(origin: &mut Origin, at: &Path, name: &str) {
    origin.process.ask(json!({"put": format!("/{name}"), "text": name}));
    let read = || fs::read_to_string(at.join(name)).ok();
    eventually(name, || (read().as_deref() == Some(name)).then_some(()));
}

#[test]
fn two_of_the_reference_and_two_of_ours_read_from_each_other() {
    let Some(machines) = Machines::behind_routers(5, &[PUBLISHER, READER, SEEDER, LAST]) else {
        return;
    };
    let _nodes = reference_nodes(&machines, ENOUGH);
    let mut origin = Origin::on(&machines, PUBLISHER, "small");
    let key = origin.key().to_owned();
    let directory = tempfile::tempdir().expect("a temporary directory");
    let reader = ByKey::new(&machines, READER, directory.path(), &key, &OPTIONS);
    let first = origin.version();
    same("by key", &found(&reader.at), &mounted(&expected(&origin.entries(first))));

    machines.move_to_another_network(READER);
    reads_on(&mut origin, &reader.at, "the reader has moved");
    machines.move_to_another_network(PUBLISHER);
    reads_on(&mut origin, &reader.at, "the publisher has moved");

    let seeder = Seeder::new(&machines, &origin.url(""));
    let version = origin.version();
    seeder.has_all_of(version);
    let entries = origin.entries(version);
    drop((reader, origin));
    // The reference looks once, and again after minutes; so the test asks repeatedly.
    let read = eventually("the reference reads from the seeder", || {
        let arguments = ["--key", &key, "--dht", NODES, "--once", "--timeout", "20"];
        let mut reader = reference_command("modern/read-drive.js", &arguments);
        let answer = Running::start(&mut machines.on(LAST, &mut reader)).json();
        answer.get("entries").cloned()
    });
    assert_eq!(read, entries);
    seeder.home.run(["daemon", "stop"]).must_succeed();
}
