//! Drives of Hyperdrive 11 to 13 by their keys in a mount of all drives, beside one of Hyperdrive 10.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::common::living::{eventually, serve};
use crate::common::{Home, KEY};
use crate::origin::{Origin, expected, found, mounted, same};

const ENCRYPTION_KEY: &str = "1111111111111111111111111111111111111111111111111111111111111111";

fn read(path: impl AsRef<Path>) -> String {
    fs::read_to_string(path.as_ref()).unwrap_or_else(|e| panic!("{:?}: {e}", path.as_ref()))
}

fn json_of(home: &Home, arguments: [&str; 3]) -> Value {
    let ran = home.run(arguments).must_succeed();
    serde_json::from_str(&ran.stdout).unwrap_or_else(|error| panic!("{error}: {ran:?}"))
}

/// By its key in hex and in z-base-32, at a version, and as the drive changes; through one network with a drive of
/// Hyperdrive 10.
#[test]
fn a_key_in_a_mount_of_all_drives_is_a_folder() {
    let mut origin = Origin::new("small", &[]);
    let (version, old) = (origin.version(), 9);
    let home = Home::new();
    let other = serve(&home.golden_store("theirs"));
    home.run(["create", "notes"]).must_succeed();
    let peers = [origin.address(), other.address.clone()];
    home.run(["mount", "--all", "all", "--peer", &peers[0], "--peer", &peers[1]]).must_succeed();
    let network = home.path("all/Network");
    let live = network.join(origin.key());
    let entries = expected(&origin.entries(version));
    same("by its key", &found(&live), &mounted(&entries));
    assert_eq!(read(network.join(KEY).join("hello.txt")), "hello again, overwritten");

    let frozen = network.join(format!("{}+{old}", origin.key()));
    let before = mounted(&expected(&origin.entries(old)));
    same("at a version", &found(&frozen), &before);
    let inside = format!("all/Network/{}/nested", origin.key());
    let about = json_of(&home, ["info", &inside, "--json"]);
    assert_eq!(about["format"], "hyperdrive 11-13", "{about}");
    let by_id = network.join(about["id"].as_str().expect("an id"));
    same("by its id", &found(&by_id), &mounted(&entries));
    assert!(fs::write(live.join("new"), "x").is_err(), "it is read-only");

    // The kernel remembers that it is not there.
    assert!(!live.join("new.txt").exists() && !by_id.join("new.txt").exists());
    origin.process.ask(json!({"put": "/new.txt", "text": "fresh"}));
    origin.process.ask(json!({"del": "/hello.txt"}));
    for at in [&live, &by_id] {
        let is_followed = || {
            let new = fs::read_to_string(at.join("new.txt")).is_ok_and(|text| text == "fresh");
            (new && !at.join("hello.txt").exists()).then_some(())
        };
        eventually("the change shows", is_followed);
        same("followed", &found(at), &mounted(&expected(&origin.entries(version + 2))));
    }
    same("still at a version", &found(&frozen), &before);
    let state: Value = serde_json::from_str(&read(live.join(".hypermount/status.json"))).unwrap();
    assert_eq!((&state["version"], &state["peers"]), (&json!(version + 2), &json!(1)), "{state}");
    let mut listed: Vec<_> = fs::read_dir(&network).expect("lists").collect();
    assert_eq!(listed.len(), 4, "{listed:?}");
    listed.clear();
    home.run(["unmount", "all"]).must_succeed();
}

/// A drive that is found in no other way, whose key is not here: the name is there, and entering it fails as with
/// permissions. With its key in the store it is a folder.
#[test]
fn an_encrypted_drive_is_a_folder_once_its_key_is_here() {
    let mut origin = Origin::new("small", &["--encryption-key", ENCRYPTION_KEY]);
    let version = origin.version();
    let home = Home::new();
    let peer = origin.address();
    home.run(["mount", "--all", "all", "--peer", &peer]).must_succeed();
    let at = home.path("all/Network").join(origin.key());
    let refused = fs::read_dir(&at).map(drop).expect_err("it is encrypted");
    assert_eq!(refused.raw_os_error(), Some(libc::EACCES), "{refused}");
    let url = origin.url("");
    let arguments = ["ls", &url, "--peer", &peer, "--encryption-key"];
    let told = crate::origin::with_line(home.command().args(arguments), ENCRYPTION_KEY);
    assert!(told.status.success(), "{told:?}");
    let entries = mounted(&expected(&origin.entries(version)));
    same("with its key", &found(&at), &entries);
    home.run(["unmount", "all"]).must_succeed();
}
