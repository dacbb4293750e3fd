//! A server and a reader that has the drive's key only, on machines of the test.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use super::living::{Running, eventually, finish, hypermount, reference_command, succeed};
use super::namespaces::Machines;

/// Where the nodes of a HyperDHT are: on machine 0.
pub const NODES: &str = "10.77.0.1:49737";
pub const OPTIONS: [&str; 2] = ["--bootstrap", "hyperdht:10.77.0.1:49737"];
/// Number of other nodes that a node needs to determine the type of its router.
pub const ENOUGH: &str = "4";

/// The content of the file in the drive of [`our_drive`].
pub const TEXT: &str = "found by its key\n";

/// Makes a store with one drive of our own. Returns its path and the drive's key.
pub fn our_drive(directory: &Path) -> (PathBuf, String) {
    let (store, tree) = (directory.join("ours"), directory.join("tree"));
    fs::create_dir_all(&tree).expect("make a directory");
    fs::write(tree.join("hello.txt"), TEXT).expect("write");
    let url = succeed(hypermount().args(["create", "ours", "--store"]).arg(&store));
    succeed(hypermount().arg("import").arg(&tree).arg("ours").arg("--store").arg(&store));
    (store, url.trim().trim_start_matches("hyper://").to_owned())
}

/// A bootstrap node of npm hyperdht on machine 0, and this many others.
pub fn reference_nodes(machines: &Machines, count: &str) -> Running {
    let arguments = ["nodes", "10.77.0.1", "49737", count, "--deadline", "600"];
    let mut command = reference_command("find-hyperdht.js", &arguments);
    let mut nodes = Running::start(&mut machines.on(0, &mut command));
    assert_eq!(nodes.json()["port"], 49737);
    nodes
}

/// A foreground mount of a key on a machine that has no other information.
pub struct ByKey {
    pub at: PathBuf,
    _process: Running,
}

impl ByKey {
    pub fn new(machines: &Machines, n: u8, directory: &Path, key: &str, options: &[&str]) -> Self {
        let at = directory.join("mnt");
        fs::create_dir_all(&at).expect("make a directory");
        let mut command = hypermount();
        command.args(["mount", "--foreground", &format!("hyper://{key}")]).arg(&at);
        command.arg("--store").arg(directory.join("fetched")).args(options);
        let mut process = Running::start(&mut machines.on(n, &mut command));
        process.line();
        Self { at, _process: process }
    }
}

impl Drop for ByKey {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.at).output();
    }
}

/// Starts `serve`, and waits until it listens.
pub fn serve(machines: &Machines, n: u8, store: &Path, options: &[&str]) -> Running {
    let mut command = hypermount();
    command.args(["serve", "--json", "--listen", "0.0.0.0:0", "--store"]).arg(store).args(options);
    let mut process = Running::start(&mut machines.on(n, &mut command));
    process.json();
    process
}

/// A mount of a key by a daemon of a machine, which can be asked about its peers.
pub struct ByDaemon {
    pub at: PathBuf,
    key: String,
    store: PathBuf,
}

impl ByDaemon {
    pub fn new(machines: &Machines, n: u8, directory: &Path, key: &str, options: &[&str]) -> Self {
        let (at, store) = (directory.join(format!("mnt{n}")), directory.join(format!("store{n}")));
        fs::create_dir_all(&at).expect("make a directory");
        let key = format!("hyper://{key}");
        let mut command = hypermount();
        command.args(["mount", &key]).arg(&at).arg("--store").arg(&store).args(options);
        // Punching through a router that changes its ports is a matter of chance, and of several attempts.
        command.args(["--wait", "90s"]);
        let mounted = Self { at, key, store };
        succeed(&mut machines.on(n, &mut command));
        mounted
    }

    /// The connected peers that have the drive open.
    pub fn peers(&self) -> Vec<Value> {
        let mut command = hypermount();
        command.args(["peers", &self.key, "--json", "--store"]).arg(&self.store);
        let answer: Value = serde_json::from_str(&succeed(&mut command)).expect("JSON");
        answer["peers"].as_array().expect("a list").clone()
    }

    /// Waits until there is one peer, over this transport and found in this way.
    pub fn has_one(&self, transport: &str, found: &str) {
        eventually(&format!("one peer over {transport}, {found}"), || {
            let peers = self.peers();
            let [peer] = peers.as_slice() else { return None };
            (peer["transport"] == transport && peer["found"] == found).then_some(())
        });
    }
}

impl Drop for ByDaemon {
    fn drop(&mut self) {
        let _ = finish(hypermount().args(["daemon", "stop", "--store"]).arg(&self.store));
        let _ = Command::new("umount").arg("-l").arg(&self.at).output();
    }
}
