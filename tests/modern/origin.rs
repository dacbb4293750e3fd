//! A drive that the reference serves, and the comparison of what it lists with a directory.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use crate::common::finders::NODES;
use crate::common::living::{Running, reference_command};
use crate::common::namespaces::Machines;

/// A process of the reference that serves a drive of its own.
pub struct Origin {
    pub process: Running,
    directory: TempDir,
    /// What it said when it was ready.
    pub ready: Value,
}

/// A number that differs from run to run. It is printed, so that a failure can be repeated.
pub fn random_seed() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    now.subsec_nanos().to_string()
}

impl Origin {
    /// Makes a drive with a random seed and serves it over TCP.
    pub fn new(shape: &str, options: &[&str]) -> Self {
        Self::seeded(shape, &random_seed(), &[&["--tcp"], options].concat())
    }

    pub fn seeded(shape: &str, seed: &str, options: &[&str]) -> Self {
        Self::started(shape, seed, options, Running::start)
    }

    /// Makes a drive with a random seed on a machine, and announces it in the network of [`NODES`].
    pub fn on(machines: &Machines, n: u8, shape: &str) -> Self {
        let start = |command: &mut Command| Running::start(&mut machines.on(n, command));
        Self::started(shape, &random_seed(), &["--dht", NODES], start)
    }

    fn started(
        shape: &str,
        seed: &str,
        options: &[&str],
        start: impl FnOnce(&mut Command) -> Running,
    ) -> Self {
        println!("shape {shape}, seed {seed}, {options:?}");
        let directory = tempfile::tempdir().expect("a temporary directory");
        let storage = directory.path().join("origin").display().to_string();
        let arguments = ["--storage", &storage, "--shape", shape, "--seed", seed];
        let arguments = [&arguments[..], options].concat();
        let mut process = start(&mut reference_command("modern/serve-drive.js", &arguments));
        let ready = process.json();
        assert_eq!(ready["ready"], true, "{ready}");
        Self { process, directory, ready }
    }

    pub fn key(&self) -> &str {
        self.ready["key"].as_str().expect("a key")
    }

    pub fn url(&self, path: &str) -> String {
        format!("hyper://{}{path}", self.key())
    }

    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.ready["port"].as_u64().expect("a port"))
    }

    pub fn version(&mut self) -> u64 {
        self.process.ask(json!({"status": true}))["version"].as_u64().expect("a version")
    }

    /// Ends the process. Its files are in `origin` below the directory.
    pub fn stop(mut self) -> TempDir {
        assert!(self.process.wait().success());
        self.directory
    }

    /// All entries of a version, as the reference reads them.
    pub fn entries(&mut self, version: u64) -> Value {
        self.process.ask(json!({"manifest": version}))["entries"].clone()
    }
}

/// Reads the whole drive with a fresh store of the reference.
pub fn read_by_reference(key: &str, peer: &str, options: &[&str]) -> Value {
    let arguments = [&["--key", key, "--tcp", peer, "--once", "--timeout", "60"], options].concat();
    let answer = Running::start(&mut reference_command("modern/read-drive.js", &arguments)).json();
    assert!(answer.get("error").is_none(), "{answer}");
    answer["entries"].clone()
}

/// What a file or a link is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    File { size: u64, sha256: String, executable: bool },
    Link(String),
}

/// The items of a listing of the reference, by their paths without the leading slash.
pub fn expected(entries: &Value) -> BTreeMap<String, Item> {
    let items = entries.as_object().expect("entries").iter().map(|(path, entry)| {
        let item = match entry["linkname"].as_str() {
            Some(target) => Item::Link(target.to_owned()),
            None => Item::File {
                size: entry["size"].as_u64().expect("a size"),
                sha256: match entry["sha256"].as_str() {
                    Some(sum) => sum.to_owned(),
                    None => sum(&mut std::io::empty()),
                },
                executable: entry["executable"] == true,
            },
        };
        (path.trim_start_matches('/').to_owned(), item)
    });
    items.collect()
}

/// The items as a mount shows them: an absolute target means "from the root of the drive" (sentence 23).
pub fn mounted(items: &BTreeMap<String, Item>) -> BTreeMap<String, Item> {
    let item = |path: &str, item: &Item| match item {
        Item::Link(target) if target.starts_with('/') => {
            let up = "../".repeat(path.matches('/').count());
            Item::Link(format!("{up}{}", target.trim_start_matches('/')))
        }
        item => item.clone(),
    };
    items.iter().map(|(path, found)| (path.clone(), item(path, found))).collect()
}

/// Directories below which nothing is looked for: a drive can have deeper ones than a path can name.
const DEEPEST: usize = 64;

/// The items below a directory, each file read whole.
pub fn found(directory: &Path) -> BTreeMap<String, Item> {
    let mut items = BTreeMap::new();
    walk(directory, directory, 0, &mut items);
    items
}

fn walk(root: &Path, below: &Path, depth: usize, items: &mut BTreeMap<String, Item>) {
    if depth > DEEPEST {
        return;
    }
    let entries = fs::read_dir(below).unwrap_or_else(|error| panic!("{below:?}: {error}"));
    for entry in entries {
        let path = entry.expect("an entry").path();
        let metadata =
            fs::symlink_metadata(&path).unwrap_or_else(|error| panic!("{path:?}: {error}"));
        if metadata.is_dir() {
            walk(root, &path, depth + 1, items);
            continue;
        }
        let item = if metadata.is_symlink() {
            Item::Link(fs::read_link(&path).expect("a link").display().to_string())
        } else {
            let mut file = fs::File::open(&path).unwrap_or_else(|e| panic!("{path:?}: {e}"));
            Item::File {
                size: metadata.len(),
                sha256: sum(&mut file),
                executable: metadata.permissions().mode() & 0o111 != 0,
            }
        };
        let relative = path.strip_prefix(root).expect("below").as_os_str().as_bytes();
        items.insert(String::from_utf8_lossy(relative).into_owned(), item);
    }
}

fn sum(file: &mut dyn Read) -> String {
    let (mut hash, mut buffer) = (Sha256::new(), vec![0; 128 * 1024]);
    loop {
        match file.read(&mut buffer).expect("it reads") {
            0 => return hex::encode(hash.finalize()),
            count => hash.update(&buffer[..count]),
        }
    }
}

/// Both have the same paths, types, sizes, bytes, targets and executable bits.
#[track_caller]
pub fn same(what: &str, is: &BTreeMap<String, Item>, should_be: &BTreeMap<String, Item>) {
    for (path, item) in should_be {
        assert_eq!(is.get(path), Some(item), "{what}: {path}");
    }
    for path in is.keys() {
        assert!(should_be.contains_key(path), "{what}: {path} should not be there");
    }
}

/// Runs a command that reads a line of its standard input, to its end.
pub fn with_line(command: &mut Command, line: &str) -> std::process::Output {
    let command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("it starts");
    let mut stdin = child.stdin.take().expect("is piped");
    // A command that does not want the line may have ended.
    let _ = writeln!(stdin, "{line}");
    drop(stdin);
    child.wait_with_output().expect("it ends")
}
