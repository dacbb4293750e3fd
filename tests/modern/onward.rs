//! What the reference reads from us after the peer that we read from has gone.

use serde_json::{Value, json};

use crate::common::living::{Running, reference_command, serve};
use crate::common::{Home, Running as Ours, eventually};
use crate::origin::{Origin, read_by_reference};

const ENCRYPTION_KEY: &str = "1111111111111111111111111111111111111111111111111111111111111111";

fn status(home: &Home) -> Value {
    let ran = home.run(["status", "--json"]).must_succeed();
    serde_json::from_str(&ran.stdout).expect("JSON")
}

fn json_of(home: &Home, arguments: [&str; 3]) -> Value {
    let ran = home.run(arguments).must_succeed();
    serde_json::from_str(&ran.stdout).unwrap_or_else(|error| panic!("{error}: {ran:?}"))
}

/// Where the daemon listens.
pub fn address(home: &Home) -> String {
    status(home)["listening"][0].as_str().expect("it listens").to_owned()
}

/// Has a daemon copy the drive, until it has all of this version.
pub fn seed(home: &Home, origin: &Origin, version: u64) {
    let (url, peer) = (origin.url(""), origin.address());
    home.run(["seed", &url, "--peer", &peer, "--listen", "127.0.0.1:0"]).must_succeed();
    whole(home, version);
}

/// Waits until the copy has all of this version.
pub fn whole(home: &Home, version: u64) {
    eventually("the copy is whole", || {
        let seed = &status(home)["seeds"][0];
        seed["complete"] == true && seed["version"].as_u64() >= Some(version)
    });
}

#[test]
fn the_reference_reads_what_serve_gives_on() {
    let mut origin = Origin::new("small", &[]);
    let home = Home::new();
    let (url, key) = (origin.url(""), origin.key().to_owned());
    let version = origin.version();
    let entries = origin.entries(version);
    let store = home.path("store");
    let at = store.display().to_string();
    home.run(["export", &url, "copy", "--peer", &origin.address(), "--store", &at]).must_succeed();
    drop(origin);
    let server = serve(&store);
    for options in [&[][..], &["--legacy10"]] {
        assert_eq!(read_by_reference(&key, &server.address, options), entries, "{options:?}");
    }
}

#[test]
fn the_reference_reads_what_a_daemon_seeds() {
    std::thread::scope(|scope| {
        for (shape, options) in [
            ("many", &[][..]),
            ("dedup", &[]),
            ("odd-names", &[]),
            ("multisig", &[]),
            ("compat", &[]),
            ("small", &["--legacy10"]),
        ] {
            scope.spawn(move || is_seeded(shape, options));
        }
    });
}

fn is_seeded(shape: &str, options: &[&str]) {
    let mut origin = Origin::new(shape, options);
    let home = Home::new();
    let (url, key) = (origin.url(""), origin.key().to_owned());
    let mut version = origin.version();
    seed(&home, &origin, version);
    if shape == "compat" {
        // A copy follows, also a publisher that shortens the drive.
        origin.process.ask(json!({"truncate": version - 5}));
        origin.process.ask(json!({"batch": 40}));
        version = origin.version();
        whole(&home, version);
    }
    let entries = origin.entries(version);
    drop(origin);
    let address = address(&home);
    assert_eq!(read_by_reference(&key, &address, &[]), entries, "{shape}");
    if matches!(shape, "small" | "compat") {
        assert_eq!(read_by_reference(&key, &address, &["--legacy10"]), entries, "{shape}");
    }
    home.run(["check", &url]).must_succeed();
    home.run(["daemon", "stop"]).must_succeed();
}

/// The daemon never has the key of the drive, and the reference reads with it what the daemon gives.
#[test]
fn an_encrypted_drive_is_seeded_without_its_key() {
    let mut origin = Origin::new("small", &["--encryption-key", ENCRYPTION_KEY]);
    let home = Home::new();
    let key = origin.key().to_owned();
    let version = origin.version();
    seed(&home, &origin, version);
    origin.process.ask(json!({"put": "/later", "size": 100_000}));
    whole(&home, version + 1);
    let entries = origin.entries(version + 1);
    drop(origin);
    let options = ["--encryption-key", ENCRYPTION_KEY];
    assert_eq!(read_by_reference(&key, &address(&home), &options), entries);
    home.run(["daemon", "stop"]).must_succeed();
}

/// A reader of the reference that stays, and sees each change through us.
#[test]
fn the_reference_follows_through_us() {
    let mut origin = Origin::new("small", &[]);
    let home = Home::new();
    let version = origin.version();
    seed(&home, &origin, version);
    let (key, address) = (origin.key().to_owned(), address(&home));
    let arguments = ["--key", &key, "--tcp", &address, "--watch"];
    let mut reader = Running::start(&mut reference_command("modern/read-drive.js", &arguments));
    let mut reads = |origin: &mut Origin| {
        let version = origin.version();
        let entries = origin.entries(version);
        // Reports of versions between, and one that a truncation has overtaken.
        while reader.json()["entries"] != entries {}
    };
    reads(&mut origin);
    origin.process.ask(json!({"put": "/later", "text": "later"}));
    reads(&mut origin);
    origin.process.ask(json!({"truncate": version - 3}));
    origin.process.ask(json!({"put": "/other", "text": "other"}));
    reads(&mut origin);
    home.run(["daemon", "stop"]).must_succeed();
}

#[test]
fn the_commands_about_peers_hold_for_these_drives() {
    let mut origin = Origin::new("small", &[]);
    let home = Home::new();
    let url = origin.url("");
    let version = origin.ready["version"].as_u64().expect("a version");
    seed(&home, &origin, version);
    let watch = Ours::start(home.command().args(["watch"]));
    assert!(watch.line().contains("listening"));
    eventually("its peer is known to hold everything", || {
        let peers = json_of(&home, ["peers", &url, "--json"]);
        peers["complete"] == 1 && peers["peers"][0]["complete"] == true
    });
    let published = home.run(["publish", &url, "--wait", "1", "--timeout", "20s"]).must_succeed();
    assert!(published.stderr.contains("safe to go offline"), "{published:?}");
    home.run(["limit", &url, "--down", "1M"]).must_succeed();
    assert_eq!(json_of(&home, ["limit", &url, "--json"])["down"], 1_000_000);
    let status = home.run(["status"]).must_succeed().stdout;
    assert!(
        status.contains("all of version 28") && status.contains("wrong    nothing"),
        "{status}"
    );
    let info = home.run(["info", &url]).must_succeed().stdout;
    assert!(info.contains("28 of 28 blocks here"), "{info}");
    origin.process.ask(json!({"put": "/later", "text": "later"}));
    let told = |line: String| line.contains(origin.key()) && line.contains("\"version\":29");
    while !told(watch.line()) {}
    home.run(["daemon", "stop"]).must_succeed();
}
