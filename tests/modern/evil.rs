//! Peers that lie about a drive in each way that the reference's program knows: alone from the start, alone after an
//! honest beginning, and beside an honest peer. No wrong byte is ever written, every command ends in time and in
//! little memory, and beside the honest peer the whole drive comes.

use std::collections::BTreeMap;
use std::sync::{Mutex, OnceLock};
use std::thread;
use std::time::Duration;

use crate::common::Home;
use crate::common::living::{Running, reference};
use crate::fixture::{MOST_MEMORY, Watched, watch};
use crate::origin::{Item, Origin, expected, found, random_seed, same};

/// `--wait` of a reader whose only peer is a liar.
const ALONE: &str = "1s";
/// `--wait` beside an honest peer. The reads end much earlier.
const BESIDE: &str = "20s";
/// A few look-ups of one second each, and a busy machine.
const ENDS_WITHIN: Duration = Duration::from_secs(45);
/// Commands run at once: most of their time they wait.
const AT_ONCE: usize = 3;
/// Answers before the first lie, for the liars that begin honestly.
const HONEST_ANSWERS: &str = "6";
/// The lies that are answers, and so can begin late.
const LATER: [&str; 12] = [
    "wrong-block",
    "wrong-proof",
    "wrong-hash",
    "wrong-size",
    "wrong-signature",
    "wrong-manifest",
    "no-manifest",
    "wrong-fork",
    "longer-length",
    "drip",
    "stall-data",
    "no-data",
];

/// The honest peer of all tests, and what its drive contains.
struct Honest {
    _origin: Mutex<Origin>,
    seed: String,
    key: String,
    address: String,
    entries: BTreeMap<String, Item>,
}

fn honest() -> &'static Honest {
    static HONEST: OnceLock<Honest> = OnceLock::new();
    HONEST.get_or_init(|| {
        let seed = random_seed();
        let mut origin = Origin::seeded("small", &seed, &["--tcp"]);
        let version = origin.version();
        Honest {
            entries: expected(&origin.entries(version)),
            key: origin.key().to_owned(),
            address: origin.address(),
            seed,
            _origin: Mutex::new(origin),
        }
    })
}

struct Liar {
    _process: Running,
    _directory: tempfile::TempDir,
    address: String,
}

impl Liar {
    fn new(mode: &str, after: &str) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let storage = directory.path().display().to_string();
        let seed = honest().seed.as_str();
        let arguments = ["--storage", &storage, "--mode", mode, "--after", after, "--seed", seed];
        let mut process = reference("modern/evil.js", &arguments);
        let ready = process.json();
        assert_eq!(ready["key"], honest().key, "it serves the same drive");
        let address = format!("127.0.0.1:{}", ready["port"].as_u64().expect("a port"));
        Self { _process: process, _directory: directory, address }
    }
}

/// Exports the drive from these peers. What was written is right, whatever the end was.
#[track_caller]
fn export(what: &str, peers: &[&str], wait: &str) -> Watched {
    let home = Home::new();
    let mut command = home.command();
    command.args(["-v", "export", &format!("hyper://{}", honest().key), "copy", "--wait", wait]);
    for peer in peers {
        command.args(["--peer", peer]);
    }
    let told = watch(&mut command);
    println!("{what}: {:?} after {:?}, {} KiB", told.code, told.took, told.peak);
    let stderr = &told.stderr;
    assert!(!stderr.contains("panicked"), "{what}: {stderr}");
    assert!(told.took < ENDS_WITHIN, "{what}: took {:?}: {stderr}", told.took);
    assert!(told.peak < MOST_MEMORY, "{what}: {} KiB of memory", told.peak);
    let copy = home.path("copy");
    let items = if copy.exists() { found(&copy) } else { BTreeMap::new() };
    for (path, item) in &items {
        assert_eq!(Some(item), honest().entries.get(path), "{what}: {path}");
    }
    match told.code {
        Some(0) => same(what, &items, &honest().entries),
        Some(1 | 3 | 5) => assert!(stderr.contains("error: "), "{what}: {stderr}"),
        code => panic!("{what}: ended with {code:?}: {stderr}"),
    }
    told
}

/// `said` is what the log must have beside the liar's address.
fn stands(mode: &str, said: Option<&str>) {
    let liar = Liar::new(mode, "0");
    let told = export(&format!("{mode} alone"), &[&liar.address], ALONE);
    if let Some(said) = said {
        let named = |line: &str| line.contains(&liar.address) && line.contains(said);
        assert!(told.stderr.lines().any(named), "{mode}: {said:?} not in {}", told.stderr);
    }
    let what = format!("{mode} beside an honest peer");
    let told = export(&what, &[&liar.address, &honest().address], BESIDE);
    assert_eq!(told.code, Some(0), "{what}: {}", told.stderr);
    if !LATER.contains(&mode) {
        return;
    }
    drop(liar);
    let liar = Liar::new(mode, HONEST_ANSWERS);
    export(&format!("{mode} after {HONEST_ANSWERS} answers"), &[&liar.address], ALONE);
    let what = format!("{mode} after {HONEST_ANSWERS} answers beside an honest peer");
    let told = export(&what, &[&liar.address, &honest().address], BESIDE);
    assert_eq!(told.code, Some(0), "{what}: {}", told.stderr);
}

fn all_stand(modes: &[(&str, Option<&str>)]) {
    let modes = Mutex::new(modes.iter());
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let next = modes.lock().expect("no test has failed").next();
                    let Some((mode, said)) = next else { return };
                    stands(mode, *said);
                }
            });
        }
    });
}

const BAD_PROOF: Option<&str> = Some("sent a bad proof");
const BAD_LENGTH: Option<&str> = Some("sent a length that does not verify");

/// Checks the program: without a lie the drive is read.
#[test]
fn a_peer_that_does_not_lie_is_read() {
    let liar = Liar::new("none", "0");
    let told = export("no lie", &[&liar.address], BESIDE);
    assert_eq!(told.code, Some(0), "{}", told.stderr);
}

#[test]
fn answers_that_do_not_verify() {
    all_stand(&[
        ("wrong-block", BAD_PROOF),
        ("wrong-proof", None),
        ("wrong-hash", None),
        ("wrong-size", None),
        ("wrong-signature", BAD_LENGTH),
        ("wrong-manifest", BAD_LENGTH),
        ("no-manifest", BAD_LENGTH),
        ("wrong-fork", BAD_LENGTH),
    ]);
}

#[test]
fn announcements_that_are_not_true() {
    all_stand(&[("longer-length", None), ("endless-sync", None)]);
}

#[test]
fn peers_that_do_not_answer() {
    all_stand(&[
        ("drip", None),
        ("stall-data", None),
        ("silent", None),
        ("mute", None),
        ("no-data", None),
    ]);
}

#[test]
fn floods_of_messages() {
    all_stand(&[
        ("flood-range", None),
        ("flood-bitfield", None),
        ("flood-want", None),
        ("flood-request", None),
        ("extension-storm", None),
        ("data-unasked", None),
    ]);
}

#[test]
fn frames_that_are_too_much() {
    all_stand(&[
        ("huge-frame", None),
        ("huge-message", None),
        ("batch-bomb", None),
        ("nested-batch", None),
        ("open-flood", None),
    ]);
}
