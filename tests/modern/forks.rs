//! Two histories of one drive without a truncation, as two writers with one secret key sign them: what was seen first is
//! kept, and the reference is told by us, and we by it.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::common::living::{self, Running, hypermount, reference_command};
use crate::common::{Home, eventually};
use crate::onward::{address, seed};
use crate::origin::{Origin, random_seed};

/// Lengths of the index at the two writers.
const FIRST: u64 = 29;
const SECOND: u64 = 31;
/// Length of the content core at the first one.
const FIRST_CONTENT: u64 = 25;

/// Two writers of one drive, whose histories part after their common beginning.
fn two_writers() -> (Origin, Origin) {
    let seed = random_seed();
    let [mut first, mut second] = [(); 2].map(|()| Origin::seeded("small", &seed, &["--tcp"]));
    for (writer, texts) in
        [(&mut first, &["the first"][..]), (&mut second, &["the second", "more", "and more"])]
    {
        for text in texts {
            writer.process.ask(json!({"put": "/which", "text": text}));
        }
    }
    assert_eq!((first.version(), second.version()), (FIRST, SECOND));
    (first, second)
}

/// Copies all of the drive into a store.
fn copy(home: &Home, from: &Origin, store: &Path) {
    let at = store.display().to_string();
    let (url, peer) = (from.url(""), from.address());
    home.run(["export", &url, "copy", "--peer", &peer, "--store", &at]).must_succeed();
}

/// The program with its log in a file.
fn logged(command: &mut Command, log: &Path) -> Running {
    let log = File::create(log).expect("the log is made");
    Running::start(command.stderr(Stdio::from(log)))
}

/// Waits until the log names both lengths: how long ours is, and the other one.
fn names_both(log: impl Fn() -> String, ours: u64, theirs: u64) {
    let what = format!(
        "holds another history (a fork): a signed history of {theirs} blocks contradicts the {ours} \
         blocks known here"
    );
    eventually("both histories are named", || log().contains(&what));
}

/// 10. Two validly signed histories of one drive are reported as a fork, with the length of both; the
///     one seen first is kept, and no data of the other is shown.
#[test]
fn the_history_seen_first_is_kept_and_the_other_writer_is_told() {
    let (first, mut second) = two_writers();
    let home = Home::new();
    let (store, at, log) = (home.path("store"), home.make("mnt"), home.path("log"));
    copy(&home, &first, &store);
    let mut mount = hypermount();
    mount.args(["-v", "mount", "--foreground", &first.url("")]).arg(&at).arg("--store").arg(&store);
    mount.args(["--peer", &first.address(), "--peer", &second.address()]);
    let mut mount = logged(&mut mount, &log);
    mount.line();
    names_both(|| fs::read_to_string(&log).unwrap_or_default(), FIRST, SECOND);
    living::eventually("the other writer has the proof", || {
        let told = &second.process.ask(json!({"status": true}))["conflict"];
        // Of one core: with that the connection ends.
        (*told == FIRST || *told == FIRST_CONTENT).then_some(())
    });
    assert_eq!(fs::read_to_string(at.join("which")).expect("it reads"), "the first");
    living::succeed(hypermount().arg("unmount").arg(&at));
    assert!(mount.wait().success());
}

/// A reader of the reference that has the first history asks us, who give the second, and tells us of the first.
#[test]
fn the_reference_asks_for_the_other_history_and_proves_its_own() {
    asks_and_proves(&[]);
    asks_and_proves(&["--legacy10"]);
}

fn asks_and_proves(options: &[&str]) {
    let (first, second) = two_writers();
    let home = Home::new();
    seed(&home, &second, SECOND);
    drop(second);
    let (key, peer) = (first.key(), first.address());
    let arguments = [&["--key", key, "--tcp", &peer, "--watch"], options].concat();
    let mut reader = Running::start(&mut reference_command("modern/read-drive.js", &arguments));
    assert_eq!(reader.json()["manifest"], FIRST);
    reader.ask(json!({"dial": address(&home)}));
    let conflict = |line: &Value| line.get("conflict").and_then(Value::as_u64);
    let found = (0..).find_map(|_| conflict(&reader.json()));
    assert_eq!(found, Some(FIRST));
    let log = || home.run(["daemon", "logs"]).must_succeed().stdout;
    names_both(log, SECOND, FIRST);
    home.run(["daemon", "stop"]).must_succeed();
}
