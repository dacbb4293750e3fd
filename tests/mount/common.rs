//! Drives to mount and a guard that always unmounts.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use drivefs::{Mount, MountOptions, Patience};
use hypermount_core::{Store, Wait};
use hypermount_drive::testing::{FORMATS, Publisher};
use hypermount_drive::{Drive, DriveFormat, DrivePath, Edit, Stat, TYPE_FILE};
use hypermount_swarm::PublicKey;
use serde_json::Value;
use tokio::runtime::Runtime;

pub const OPTIONS: MountOptions = MountOptions {
    patience: Patience::Offline,
    owner: drivefs::Owner { uid: 0, gid: 0 },
    allow_other: false,
    allow_non_empty: false,
    read_only: true,
};

/// A test that waits for longer than this has failed.
pub const LIMIT: Duration = Duration::from_secs(60);

/// Whether mounts can be made here; prints a message once if not.
pub fn can_mount() -> bool {
    static TOLD: AtomicBool = AtomicBool::new(false);
    let able = std::fs::File::options().read(true).write(true).open("/dev/fuse").is_ok();
    if !able && !TOLD.swap(true, Ordering::Relaxed) {
        eprintln!("SKIPPED: /dev/fuse cannot be opened; nothing was mounted");
    }
    able
}

/// Runs a test on drives of each format at once, if mounts can be made here: most of its time it waits.
pub fn in_each_format(test: impl Fn(DriveFormat) + Sync) {
    if !can_mount() {
        return;
    }
    std::thread::scope(|scope| {
        for format in FORMATS {
            let test = &test;
            scope.spawn(move || {
                eprintln!("{format}");
                test(format);
            });
        }
    });
}

/// The directory of the recorded drive of a format.
fn vector(format: DriveFormat) -> PathBuf {
    let name = match format {
        DriveFormat::Hyperdrive10 => "drive-small",
        DriveFormat::Hyperdrive11 => "drive-small-11",
    };
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors").join(name)
}

pub fn expected(format: DriveFormat) -> Value {
    let path = vector(format).with_extension("expected.json");
    serde_json::from_slice(&std::fs::read(path).expect("the vector reads")).expect("it is JSON")
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a directory is made");
    for entry in std::fs::read_dir(from).expect("the vector lists").flatten() {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).expect("a file is copied");
        }
    }
}

/// A store, a runtime and a directory to mount at.
pub struct Bench {
    pub directory: tempfile::TempDir,
    pub store: Store,
    pub drive: Drive,
    /// Of a drive made here.
    publisher: Option<Publisher>,
    pub runtime: Runtime,
}

impl Bench {
    fn new(
        directory: tempfile::TempDir,
        store: Store,
        open: impl FnOnce(&Runtime) -> Drive,
    ) -> Self {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        let runtime = builder.worker_threads(2).enable_all().build().expect("a runtime starts");
        let drive = open(&runtime);
        std::fs::create_dir(directory.path().join("mnt")).expect("a mountpoint is made");
        Self { directory, store, drive, publisher: None, runtime }
    }

    /// The recorded drive, copied, at a version.
    pub fn recorded(format: DriveFormat, version: Option<u64>) -> Self {
        let directory = tempfile::tempdir().expect("a directory is made");
        let at = directory.path().join("store");
        copy(&vector(format), &at);
        let key = expected(format)["cores"][0]["key"].as_str().and_then(PublicKey::from_hex);
        let key = key.expect("the vector names the key");
        let store = Store::open(&at, false).expect("the store opens");
        Self::new(directory, store.clone(), |runtime| {
            let drive = runtime.block_on(Drive::open(&store, &key, version, Wait::Local));
            drive.expect("the drive opens")
        })
    }

    /// An empty drive in memory, which can be written.
    pub fn made() -> Self {
        Self::made_in(DriveFormat::Hyperdrive10)
    }

    /// An empty drive in memory, which this writes.
    pub fn made_in(format: DriveFormat) -> Self {
        let store = Store::memory();
        let directory = tempfile::tempdir().expect("a directory is made");
        let publisher = Publisher::new(&store, "made", format).expect("is made");
        let drive = publisher.drive().clone();
        Self { publisher: Some(publisher), ..Self::new(directory, store, |_| drive) }
    }

    /// A drive that the caller opens from `store`.
    pub fn opened(store: Store, open: impl FnOnce(&Runtime) -> Drive) -> Self {
        let directory = tempfile::tempdir().expect("a directory is made");
        Self::new(directory, store, open)
    }

    pub fn mountpoint(&self) -> PathBuf {
        self.directory.path().join("mnt")
    }

    pub fn mount(&self) -> Mount {
        self.mount_with(OPTIONS)
    }

    pub fn mount_with(&self, options: MountOptions) -> Mount {
        let (drive, store) = (self.drive.clone(), self.store.clone());
        let runtime = self.runtime.handle().clone();
        Mount::start(drive, store, &self.mountpoint(), options, runtime).expect("mounts")
    }

    pub fn apply(&self, edits: Vec<Edit>) {
        self.runtime.block_on(self.publisher().apply(edits)).expect("applied");
    }

    fn publisher(&self) -> &Publisher {
        self.publisher.as_ref().expect("the drive was made here")
    }

    pub fn put(&self, path: &str, stat: Stat) {
        let path = DrivePath::parse(path).expect("a path");
        self.apply(vec![Edit::Put { path, stat }]);
    }

    pub fn file(&self, blocks: &[Bytes]) -> Stat {
        let extent = self.publisher().append_content(blocks).expect("appended");
        Stat { mode: TYPE_FILE | 0o644, extent, ..Stat::default() }
    }

    pub fn write(&self, path: &str, text: &str) {
        let stat = self.file(&[Bytes::copy_from_slice(text.as_bytes())]);
        self.put(path, stat);
    }

    pub fn remove(&self, path: &str) {
        let path = DrivePath::parse(path).expect("a path");
        self.apply(vec![Edit::Remove { path }]);
    }
}

/// Repeats until `found` returns true. The event happens on another thread, and only its result is
/// visible.
pub fn until(what: &str, mut found: impl FnMut() -> bool) {
    let start = Instant::now();
    while !found() {
        assert!(start.elapsed() < LIMIT, "{what}: still not");
        std::thread::yield_now();
    }
}

/// Unmounts. A process that another test of this program is just starting has all open files for a moment.
pub fn unmounted(mount: &drivefs::Mount) {
    until("it unmounts", || mount.unmount(drivefs::UnmountMode::Normal).is_ok());
}
