//! Drives into which nothing was put yet: peers have no block that would tell what they are.

use std::fs;

use serde_json::{Value, json};

use crate::common::Home;
use crate::common::living::eventually;
use crate::origin::{Origin, expected, found, mounted, same, with_line};

const ENCRYPTION_KEY: &str = "1111111111111111111111111111111111111111111111111111111111111111";

/// 130. A drive into which nothing was put yet is an empty folder, if a connected peer proves that its key is one of
///      Hyperdrive 11 to 13 and, for 1 s, no peer has a block of it. Its first entries are shown as they arrive.
#[test]
fn a_drive_without_a_block_is_an_empty_folder_that_follows() {
    std::thread::scope(|scope| {
        for options in [&[][..], &["--legacy10"], &["--encryption-key", ENCRYPTION_KEY]] {
            scope.spawn(move || is_empty_and_follows(options));
        }
    });
}

fn is_empty_and_follows(options: &[&str]) {
    let mut origin = Origin::new("empty", options);
    assert_eq!(origin.ready["length"], 0, "{}", origin.ready);
    let home = Home::new();
    let (url, peer) = (origin.url(""), origin.address());
    let encrypted = options.contains(&ENCRYPTION_KEY);
    let run = |arguments: &[&str]| {
        let mut command = home.command();
        command.args(arguments).args(["--peer", &peer]);
        if encrypted {
            command.arg("--encryption-key");
        }
        let output = with_line(&mut command, ENCRYPTION_KEY);
        assert!(output.status.success(), "{options:?} {arguments:?}: {output:?}");
        String::from_utf8(output.stdout).expect("text")
    };
    assert_eq!(run(&["ls", &url]), "");
    let about: Value = serde_json::from_str(&run(&["info", &url, "--json"])).expect("JSON");
    assert_eq!((&about["version"], &about["format"]), (&json!(0), &json!("hyperdrive 11-13")));
    run(&["export", &url, "copy"]);
    assert_eq!(fs::read_dir(home.path("copy")).expect("it is made").count(), 0);

    run(&["mount", &url, "mnt"]);
    let at = home.path("mnt");
    assert_eq!(fs::read_dir(&at).expect("lists").count(), 0);
    assert!(fs::metadata(at.join("first.txt")).is_err());
    origin.process.ask(json!({"put": "/first.txt", "text": "first"}));
    origin.process.ask(json!({"put": "/large", "size": 300_000}));
    eventually("the first entries show", || fs::metadata(at.join("large")).ok());
    let version = origin.version();
    let entries = mounted(&expected(&origin.entries(version)));
    same("followed", &found(&at), &entries);
    home.run(["unmount", "mnt"]).must_succeed();
    // It is an ordinary drive now.
    home.run(["mount", &url, "mnt"]).must_succeed();
    same("from the store", &found(&at), &entries);
    home.run(["unmount", "mnt"]).must_succeed();
}
