//! Peers with other versions of a drive: an older one, and one of another history under the same key.

use std::path::Path;

use serde_json::json;

use crate::common::living::eventually;
use crate::common::{Home, Ran};
use crate::origin::{Origin, random_seed};

/// A peer with a store of its own of the drive that this seed gives.
fn peer(seed: &str) -> Origin {
    Origin::seeded("small", seed, &["--tcp"])
}

fn cat(home: &Home, origin: &Origin, path: &str, peers: &[&Origin], wait: &str) -> Ran {
    let mut command = home.command();
    command.args(["cat", &origin.url(path), "--wait", wait]);
    for peer in peers {
        command.args(["--peer", &peer.address()]);
    }
    Ran::new(command.output().expect("it runs"))
}

/// As `t25_an_old_version_takes_nothing_away` of `tests/hostile`.
#[test]
fn an_old_version_takes_nothing_away() {
    let seed = random_seed();
    let (old, mut new) = (peer(&seed), peer(&seed));
    assert_eq!(old.key(), new.key());
    for number in 0..10 {
        new.process.ask(json!({"put": format!("/new{number}"), "text": "new"}));
    }
    let newcomer = Home::new();
    let behind = cat(&newcomer, &new, "/new9", &[&old], "20s");
    assert_eq!((behind.code, &behind.stdout[..]), (Some(1), ""), "{behind:?}");
    let reader = Home::new();
    assert_eq!(cat(&reader, &new, "/new9", &[&new], "20s").must_succeed().stdout, "new");
    // All names are here then: the older peer has none of the new ones.
    reader.run(["ls", &new.url(""), "--peer", &new.address()]).must_succeed();
    let again = cat(&reader, &new, "/new9", &[&old], "2s");
    assert_eq!((again.code, &again.stdout[..]), (Some(0), "new"), "{again:?}");
    // What both have is taken from the older one once the newer one shows that both are of one history.
    let both = cat(&reader, &new, "/hello.txt", &[&old, &new], "20s");
    assert_eq!((both.code, &both.stdout[..]), (Some(0), "hello world\n"), "{both:?}");
    let listed = reader.run(["ls", &new.url(""), "--peer", &old.address()]).must_succeed();
    assert!(listed.stdout.contains("new9"), "{listed:?}");
}

/// As `t26_of_two_histories_the_first_is_kept` of `tests/hostile`.
#[test]
fn of_two_histories_the_first_is_kept() {
    let seed = random_seed();
    let (mut first, mut second) = (peer(&seed), peer(&seed));
    first.process.ask(json!({"put": "/file", "text": "first"}));
    first.process.ask(json!({"put": "/large", "size": 200_000}));
    second.process.ask(json!({"put": "/file", "text": "the second"}));
    for number in 0..30 {
        second.process.ask(json!({"put": format!("/more/{number}"), "text": "second"}));
    }
    let reader = Home::new();
    assert_eq!(cat(&reader, &first, "/file", &[&first], "20s").must_succeed().stdout, "first");

    // Both histories have to be compared within the wait, also on a busy machine.
    let told = cat(&reader, &first, "/large", &[&second], "10s");
    assert!(told.code != Some(0) && told.stdout.is_empty(), "the other was taken: {told:?}");
    // "is forked" of the index if that is waited for, else "(a fork)" as the reason why the content does not come.
    assert!(told.stderr.contains("fork"), "the reader is told: {told:?}");
    let address = second.address();
    let named = |text: &str| {
        text.lines().any(|line| line.contains(&address) && line.contains("contradicts the"))
    };
    assert!(named(&told.stderr), "{told:?}");
    let kept = cat(&reader, &first, "/file", &[&second], "3s");
    assert_eq!((kept.code, &kept.stdout[..]), (Some(0), "first"), "{kept:?}");

    if Path::new("/dev/fuse").exists() {
        let at = reader.make("mnt");
        let url = first.url("");
        let arguments = ["mount", &url, "mnt", "--wait", "3s", "--peer", &address, "--json"];
        let told: serde_json::Value =
            serde_json::from_str(&reader.run(arguments).must_succeed().stdout).expect("JSON");
        let log = || std::fs::read_to_string(told["log"].as_str().expect("a log")).ok();
        eventually("the fork is noticed", || log().filter(|log| named(log)));
        assert_eq!(std::fs::read_to_string(at.join("file")).expect("it reads"), "first");
        assert!(!at.join("more").exists(), "the other history is shown");
        assert!(std::fs::read(at.join("large")).is_err(), "it is not here");
        reader.run(["unmount", "mnt"]).must_succeed();
    }

    let told = cat(&reader, &first, "/large", &[&second, &first], "20s");
    assert_eq!((told.code, told.stdout.len() > 100_000), (Some(0), true), "{:?}", told.stderr);
}
