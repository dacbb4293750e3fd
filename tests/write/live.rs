//! Long random work on a mount while the reference watches: it copies the drive live over a socket,
//! compares everything after each step, and writes the same store in turns.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant, UNIX_EPOCH};

use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::common::living::{Running, reference, shell};
use crate::own::{Own, can_mount, has_reference};
use crate::steps::{Step, act, leads_through_link, step};

/// Steps that change something, and every how many of them the reference writes.
const STEPS: u64 = 500;
const TURN: u64 = 23;
/// Times that are set to another value than now differ from it by more than this, in milliseconds.
const NOW: u64 = 300_000;

/// One entry of a tree. The content as a hash; modification time in milliseconds.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    kind: String,
    /// Permissions; 0 for a link, whose permissions have no meaning.
    mode: u64,
    mtime: u64,
    size: u64,
    content: String,
    attributes: BTreeMap<String, String>,
}

type Tree = BTreeMap<String, Seen>;

fn look(root: &Path) -> Tree {
    let mut found = Tree::new();
    let mut directories = vec![root.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).expect("lists") {
            let path = entry.expect("reads").path();
            let stat = fs::symlink_metadata(&path).expect("exists");
            let (kind, content) = if stat.is_dir() {
                directories.push(path.clone());
                ("directory", String::new())
            } else if stat.is_symlink() {
                ("symlink", fs::read_link(&path).expect("reads").display().to_string())
            } else {
                ("file", hex::encode(Sha256::digest(fs::read(&path).expect("reads"))))
            };
            let seen = Seen {
                kind: kind.to_owned(),
                mode: if stat.is_symlink() { 0 } else { u64::from(stat.mode()) & 0o7777 },
                mtime: (stat.mtime() * 1000 + stat.mtime_nsec() / 1_000_000) as u64,
                size: if stat.is_file() { stat.len() } else { 0 },
                content,
                attributes: attributes(&path),
            };
            found.insert(path.strip_prefix(root).expect("below").display().to_string(), seen);
        }
    }
    found
}

fn attributes(path: &Path) -> BTreeMap<String, String> {
    let mut names = vec![0; 4096];
    let length = rustix::fs::llistxattr(path, &mut names).expect("lists");
    let names = String::from_utf8(names[..length].to_vec()).expect("names are text");
    let ours = names.split_terminator('\0').filter(|name| name.starts_with("user."));
    ours.map(|name| {
        let mut value = [0; 1024];
        let length = rustix::fs::lgetxattr(path, name, &mut value).expect("reads");
        (name.trim_start_matches("user.").to_owned(), hex::encode(&value[..length]))
    })
    .collect()
}

fn told(entries: &Value) -> Tree {
    let entries = entries.as_object().expect("a listing");
    entries
        .iter()
        .map(|(path, entry)| {
            let text = |field: &str| entry[field].as_str().unwrap_or_default().to_owned();
            let number = |field: &str| entry[field].as_u64().unwrap_or_default();
            let kind = text("type");
            let attributes = entry["attributes"].as_object().map_or_else(BTreeMap::new, |all| {
                let named = |(name, value): (&String, &Value)| {
                    let name = name.trim_start_matches("user.").to_owned();
                    (name, value.as_str().expect("hex").to_owned())
                };
                // What a mount stores of its own is no attribute (docs/format/hyperdrive10.md §3).
                all.iter().filter(|(name, _)| !name.contains("hypermount.")).map(named).collect()
            });
            let mode = if kind == "symlink" { 0 } else { number("mode") & 0o7777 };
            let content = text(if kind == "symlink" { "target" } else { "sha256" });
            let (mtime, size) = (number("mtime"), number("size"));
            (path.clone(), Seen { kind, mode, mtime, size, content, attributes })
        })
        .collect()
}

/// Without the modification times of directories, which a peer does not have yet.
fn without_times_of_directories(mut tree: Tree) -> Tree {
    for seen in tree.values_mut().filter(|seen| seen.kind == "directory") {
        seen.mtime = 0;
    }
    tree
}

/// Panics with what differs, which whole trees would hide.
#[track_caller]
fn assert_same(what: &str, left: &Tree, right: &Tree) {
    let differing = |one: &Tree, other: &Tree| -> Tree {
        let differs = |(path, seen): &(&String, &Seen)| other.get(*path) != Some(*seen);
        one.iter().filter(differs).map(|(path, seen)| (path.clone(), seen.clone())).collect()
    };
    assert!(left == right, "{what}:\n{:#?}\n{:#?}", differing(left, right), differing(right, left));
}

struct Play {
    own: Own,
    plain: tempfile::TempDir,
    watcher: Running,
    turns: u64,
    seed: u64,
}

impl Play {
    fn new(seed: u64) -> Self {
        let mut own = Own::new();
        own.unmount();
        let plain = tempfile::tempdir().expect("a directory");
        let mut watcher = reference("watch-drive.js", &[own.key()]);
        watcher.json();
        let mut play = Self { own, plain, watcher, turns: 0, seed };
        play.mount();
        play
    }

    fn mount(&mut self) {
        let address = self.own.mount_listening();
        let port: u16 =
            address.rsplit(':').next().and_then(|port| port.parse().ok()).expect("a port");
        self.watcher.ask(json!({ "op": "connect", "port": port }));
    }

    /// Checks that mount, plain directory and reference show the same tree.
    fn check(&mut self, when: &str) {
        let (mut ours, plain) = (look(&self.own.root()), look(self.plain.path()));
        let answer = self.watcher.ask(json!({ "op": "walk", "version": self.own.version() }));
        let theirs = without_times_of_directories(told(&answer["entries"]));
        let live = without_times_of_directories(ours.clone());
        assert_same(&format!("{when}: mount, and reference"), &live, &theirs);
        for (path, seen) in &mut ours {
            // Both changed it now, but now is later for the second.
            match plain.get(path) {
                Some(there) if there.mtime.abs_diff(seen.mtime) < NOW => seen.mtime = there.mtime,
                _ => {}
            }
        }
        assert_same(&format!("{when}: mount, and plain directory"), &ours, &plain);
    }

    /// The reference reads the store and writes to it; then we continue from its result.
    fn let_the_reference_write(&mut self, when: &str) {
        self.turns += 1;
        let ours = look(&self.own.root());
        self.own.unmount();
        let (store, seed) = (self.own.store().display().to_string(), self.turns + self.seed);
        let seed = seed.to_string();
        let arguments =
            [store.as_str(), "--key", self.own.key(), "--seed", seed.as_str(), "--edits", "3"];
        let answer = reference("edit-drive.js", &arguments).json();
        assert!(answer.get("error").is_none(), "{when}: {answer}");
        assert_same(&format!("{when}: mount, and store"), &ours, &told(&answer["before"]));
        let after = told(&answer["after"]);
        assert!(after != ours, "{when}: it wrote something");
        self.mount();
        // The reference stores the time of a directory that it makes. A file that it later puts
        // into one of our directories does not change ours. We show both as stored.
        assert_same(&format!("{when}: written by the reference"), &look(&self.own.root()), &after);
        let (root, plain) = (self.own.root(), self.plain.path());
        shell(&format!(
            "cd '{}'; find . -mindepth 1 -delete; cp -a '{}/.' .",
            plain.display(),
            root.display()
        ));
    }

    /// When the children of directories changed is not stored before the end of a mount.
    fn forget_times_of_directories(&self) {
        for (path, seen) in look(&self.own.root()) {
            if seen.kind == "directory" {
                let at = UNIX_EPOCH + Duration::from_millis(seen.mtime);
                let directory = fs::File::open(self.plain.path().join(path)).expect("is there too");
                directory.set_times(fs::FileTimes::new().set_modified(at)).expect("is ours");
            }
        }
    }

    /// Whether something was done.
    fn step(&mut self, step: &Step, when: &str) -> bool {
        match step {
            Step::AskReference => return false,
            Step::Remount => {
                self.own.unmount();
                self.mount();
            }
            Step::Kill => {
                self.own.crash();
                self.mount();
                self.forget_times_of_directories();
            }
            step => {
                let links = |path: &&str| leads_through_link(self.plain.path(), path);
                let by_name = matches!(step, Step::Unlink { .. } | Step::Rename { .. });
                if !by_name && step.paths().iter().any(links) {
                    return false;
                }
                let expected = act(self.plain.path(), step);
                assert_eq!(act(&self.own.root(), step), expected, "{when}");
                return expected == 0;
            }
        }
        true
    }
}

fn number(variable: &str, default: u64) -> u64 {
    let given = std::env::var(variable).ok();
    given.map_or(default, |given| given.parse().unwrap_or_else(|_| panic!("{variable}: a number")))
}

/// `HYPERMOUNT_SEED` replays another sequence, `HYPERMOUNT_STEPS` makes it longer.
#[test]
fn the_reference_agrees_after_every_step() {
    if !can_mount() || !has_reference() {
        return;
    }
    let (seed, steps) = (number("HYPERMOUNT_SEED", 1), number("HYPERMOUNT_STEPS", STEPS));
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &Sha256::digest(seed.to_le_bytes()));
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    let mut play = Play::new(seed);
    let started = Instant::now();
    let mut done = 0;
    while done < steps {
        let step = step().new_tree(&mut runner).expect("nothing is filtered").current();
        let when = format!("HYPERMOUNT_SEED={seed}, after {done} steps, {step:?}");
        if play.step(&step, &when) {
            done += 1;
            play.check(&when);
            if done.is_multiple_of(TURN) {
                play.let_the_reference_write(&when);
                play.check(&when);
            }
        }
    }
    assert!(play.turns >= steps / TURN);
    eprintln!("{done} steps, {} turns of the reference, {:?}", play.turns, started.elapsed());
}
