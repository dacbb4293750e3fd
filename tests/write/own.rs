//! A writable drive, its store, and its mount.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use sha2::{Digest, Sha256};

use crate::common::living::{Mounted, Running, hypermount, reference, serve, succeed};

/// Whether mounts can be made here; prints a message once if not.
pub fn can_mount() -> bool {
    static TOLD: AtomicBool = AtomicBool::new(false);
    let able = fs::File::options().read(true).write(true).open("/dev/fuse").is_ok();
    if !able && !TOLD.swap(true, Ordering::Relaxed) {
        eprintln!("SKIPPED: /dev/fuse cannot be opened; nothing was mounted");
    }
    able
}

/// Runs the test called `name` again in a process of its own; returns true in that process.
///
/// For a test that keeps a file open: when the thread of another test starts a program, the copies
/// of all descriptors are closed in the new process, and the kernel takes that for a close(2) of
/// the file.
pub fn alone(name: &str) -> bool {
    const ALONE: &str = "HYPERMOUNT_TEST_ALONE";
    if std::env::var_os(ALONE).is_some() {
        return true;
    }
    let mut again = Command::new(std::env::current_exe().expect("this test"));
    succeed(again.args([name, "--exact", "--nocapture"]).env(ALONE, "1"));
    false
}

pub fn has_reference() -> bool {
    let installed = |package: &str| crate::common::living::root().join(package).exists();
    installed("tests/reference/node_modules/hyperdrive")
        && installed("tests/reference/modern/node_modules/hyperdrive")
        || std::env::var_os("HYPERMOUNT_REFERENCE").is_some()
}

/// The releases of Hyperdrive in whose formats drives are made.
pub const FORMATS: [&str; 2] = ["10", "13"];

pub struct Own {
    // Before the directory: fields are dropped in this order, and a directory that has a mount cannot be removed.
    mounted: Option<Mounted>,
    directory: tempfile::TempDir,
    store: PathBuf,
    pub url: String,
    format: String,
}

impl Own {
    /// A new drive, mounted.
    pub fn new() -> Self {
        Self::in_format("10")
    }

    /// A new drive in the format of this release of Hyperdrive, mounted.
    pub fn in_format(format: &str) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let store = directory.path().join("store");
        let mut own = Self::create(directory, store, format, &[]);
        own.mount();
        own
    }

    /// A new encrypted drive, mounted.
    pub fn encrypted() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let store = directory.path().join("store");
        let mut own = Self::create(directory, store, "13", &["--encrypted"]);
        own.mount();
        own
    }

    /// A new drive with its store in a place of the caller's, not mounted.
    pub fn stored_at(store: &Path) -> Self {
        Self::create(
            tempfile::tempdir().expect("a temporary directory"),
            store.to_owned(),
            "10",
            &[],
        )
    }

    fn create(
        directory: tempfile::TempDir,
        store: PathBuf,
        format: &str,
        options: &[&str],
    ) -> Self {
        let mut create = hypermount();
        create.args(["create", "notes", "--format", format]).args(options);
        let url = succeed(create.arg("--store").arg(&store));
        let (url, format) = (url.trim().to_owned(), format.to_owned());
        Self { directory, store, url, format, mounted: None }
    }

    pub fn key(&self) -> &str {
        self.url.trim_start_matches("hyper://")
    }

    pub fn store(&self) -> PathBuf {
        self.store.clone()
    }

    /// A place beside the mount, on an ordinary disk.
    pub fn beside(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn mount_with(&mut self, options: &[&str]) {
        let store = self.store().display().to_string();
        let options = [&["--store", store.as_str()], options].concat();
        self.mounted = Some(Mounted::new("notes", &self.beside("mnt"), &options));
    }

    /// Mounts, listening; the address.
    pub fn mount_listening(&mut self) -> String {
        let store = self.store().display().to_string();
        let at = self.root().display().to_string();
        std::fs::create_dir_all(&at).expect("makes");
        let arguments = ["mount", "--foreground", "--json", "--listen", "127.0.0.1:0", "--store"];
        let mut command = hypermount();
        let mut process = Running::start(command.args(arguments).args([&store, "notes", &at]));
        let address = process.json()["address"].as_str().expect("an address").to_owned();
        self.mounted = Some(Mounted { process, at: self.root() });
        address
    }

    pub fn mount(&mut self) {
        self.mount_with(&[]);
    }

    pub fn unmount(&mut self) {
        succeed(hypermount().arg("unmount").arg(self.root()));
        if let Some(mut mounted) = self.mounted.take() {
            assert!(mounted.process.wait().success());
        }
    }

    pub fn remount(&mut self) {
        self.unmount();
        self.mount();
    }

    /// Ends the process that serves the mount at once.
    pub fn crash(&mut self) {
        let mut mounted = self.mounted.take().expect("it is mounted");
        mounted.process.signal(nix::sys::signal::Signal::SIGKILL);
        mounted.process.wait();
    }

    /// Crashes, and mounts again.
    pub fn kill(&mut self) {
        self.crash();
        self.mount();
    }

    /// The version of the drive that the mount shows.
    pub fn version(&self) -> u64 {
        let mut value = [0; 32];
        let length = rustix::fs::getxattr(self.root(), "user.hypermount.version", &mut value);
        let text = String::from_utf8_lossy(&value[..length.expect("answers")]).into_owned();
        text.parse().expect("a number")
    }

    pub fn root(&self) -> PathBuf {
        self.beside("mnt")
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.root().join(name)
    }

    /// Of a tree what the format tells other programs: in that of Hyperdrive 13 no directories that nothing is in.
    pub fn told_to_others(&self, mut tree: BTreeMap<String, String>) -> BTreeMap<String, String> {
        if self.format == "13" {
            tree.retain(|_, what| what != "directory");
            add_parents(&mut tree);
        }
        tree
    }

    /// What the reference of Hyperdrive 13 reads of the store while it is served.
    fn read_by_modern_reference(&self) -> BTreeMap<String, String> {
        let mut server = serve(&self.store());
        let arguments = ["--key", self.key(), "--tcp", &server.address, "--once"];
        let answer = reference("modern/read-drive.js", &arguments).json();
        server.sent();
        let entries = answer["entries"].as_object().unwrap_or_else(|| panic!("{answer}"));
        let what = |entry: &serde_json::Value| match entry["linkname"].as_str() {
            Some(target) => format!("link to {target}"),
            None => format!("file {}", entry["sha256"].as_str().unwrap_or("")),
        };
        let path = |path: &String| path.trim_start_matches('/').to_owned();
        let mut tree = entries.iter().map(|(name, entry)| (path(name), what(entry))).collect();
        add_parents(&mut tree);
        tree
    }

    /// The tree that the reference finds in the store, which must not be mounted.
    pub fn read_by_reference(&self) -> BTreeMap<String, String> {
        if self.format == "13" {
            return self.read_by_modern_reference();
        }
        let store = self.store().display().to_string();
        let arguments = [self.key(), "--store", store.as_str()];
        let answer = reference("read-drive.js", &arguments).json();
        assert_eq!(answer["writable"], true, "it could go on writing");
        let entries = answer["entries"].as_object().expect("entries");
        entries
            .iter()
            .map(|(path, entry)| {
                let what = match entry["type"].as_str() {
                    Some("directory") => "directory".to_owned(),
                    Some("symlink") => {
                        format!("link to {}", entry["target"].as_str().unwrap_or(""))
                    }
                    _ => format!("file {}", entry["sha256"].as_str().unwrap_or("")),
                };
                (path.clone(), what)
            })
            .collect()
    }
}

/// Adds the directories that something is in.
fn add_parents(tree: &mut BTreeMap<String, String>) {
    let paths: Vec<String> = tree.keys().cloned().collect();
    for path in paths {
        for (at, _) in path.match_indices('/') {
            tree.insert(path[..at].to_owned(), "directory".to_owned());
        }
    }
}

/// Everything below a directory by its path: kind and content, and with `modes` its permissions and which other names
/// it has.
pub fn tree(root: &Path, modes: bool) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut inodes: BTreeMap<u64, Vec<String>> = BTreeMap::new();
    let mut directories = vec![root.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).expect("lists").map(|entry| entry.expect("reads")) {
            let path = entry.path();
            let metadata = fs::symlink_metadata(&path).unwrap_or_else(|e| panic!("{path:?}: {e}"));
            let mut what = if metadata.is_dir() {
                directories.push(path.clone());
                "directory".to_owned()
            } else if metadata.is_symlink() {
                format!("link to {}", fs::read_link(&path).expect("reads").display())
            } else {
                let content = fs::read(&path).unwrap_or_else(|e| panic!("{path:?}: {e}"));
                assert_eq!(content.len() as u64, metadata.size(), "{path:?}");
                format!("file {}", hex::encode(Sha256::digest(content)))
            };
            let path = path.strip_prefix(root).expect("below").display().to_string();
            if modes {
                what += &format!(" {:o}", metadata.permissions().mode() & 0o7777);
            }
            if modes && !metadata.is_dir() {
                what += &format!(", {} names", metadata.nlink());
                inodes.entry(metadata.ino()).or_default().push(path.clone());
            }
            found.insert(path, what);
        }
    }
    for names in inodes.into_values().filter(|names| names.len() > 1) {
        let all: std::collections::BTreeSet<_> = names.iter().cloned().collect();
        for name in &names {
            found.entry(name.clone()).and_modify(|what| *what += &format!(": {all:?}"));
        }
    }
    found
}
