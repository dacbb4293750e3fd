//! Filesystems over drives in memory, for unit tests.

use std::ffi::OsStr;
use std::sync::Arc;

use bytes::Bytes;
use fuser::FileAttr;
use hypermount_drive::testing::FORMATS;
use hypermount_drive::{Drive, DriveFormat, DrivePath, Edit, Stat, Store, TYPE_FILE};
use tokio::runtime::{Builder, Handle, Runtime};

use crate::attr::Owner;
use crate::filesystem::{Fs, FsOptions, Looked};
use crate::patience::Patience;

pub(crate) const OPTIONS: FsOptions =
    FsOptions { owner: Owner { uid: 1, gid: 2 }, patience: Patience::Offline, read_only: false };

pub(crate) fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().expect("a runtime")
}

pub(crate) fn path(text: &str) -> DrivePath {
    DrivePath::parse(text).expect("a path")
}

/// A new drive in memory.
pub(crate) fn drive() -> (Store, Drive) {
    drive_in(DriveFormat::Hyperdrive10)
}

/// The same, in this format.
pub(crate) fn drive_in(format: DriveFormat) -> (Store, Drive) {
    let store = Store::memory();
    let drive = Drive::create_in(format, &store, "test").expect("a drive is made");
    (store, drive)
}

/// Runs a test on a filesystem over a new drive in memory, of each format that is written.
pub(crate) fn on_a_filesystem(read_only: bool, test: impl AsyncFn(Arc<Fs>)) {
    for format in FORMATS {
        runtime().block_on(async {
            let (store, drive) = drive_in(format);
            test(show(&store, &drive, read_only)).await;
        });
    }
}

/// Shows the drive. Call this in a runtime.
fn show(store: &Store, drive: &Drive, read_only: bool) -> Arc<Fs> {
    let options = FsOptions { read_only, ..OPTIONS };
    Fs::new(drive.clone(), store.clone(), options, Handle::current())
}

/// Puts a file into the drive as another program would, and makes the filesystem show it.
pub(crate) async fn put(fs: &Fs, at: &str, content: &[u8]) {
    let drive = fs.drive();
    let blocks: Vec<Bytes> = content.chunks(65_536).map(Bytes::copy_from_slice).collect();
    let extent = drive.append_content(&blocks).expect("appended");
    let stat = Stat { mode: TYPE_FILE | 0o644, extent, ..Stat::default() };
    drive.apply(vec![Edit::Put { path: path(at), stat }]).await.expect("put");
    fs.advance(&fs.root).await;
}

/// Removes an entry as another program would, and makes the filesystem show that.
pub(crate) async fn remove(fs: &Fs, at: &str) {
    fs.drive().apply(vec![Edit::Remove { path: path(at) }]).await.expect("removed");
    fs.advance(&fs.root).await;
}

/// Looks a path up name by name, as the kernel does.
pub(crate) async fn walk(fs: &Fs, at: &str) -> Option<(u64, FileAttr)> {
    let mut found = (fs.root_number(), fs.getattr(fs.root_number()).await.expect("a root").0);
    for name in at.split('/') {
        match fs.lookup(found.0, OsStr::new(name)).await.expect("looked up") {
            Looked::Found { ino, attributes, .. } => found = (ino, attributes),
            Looked::Absent { .. } => return None,
        }
    }
    Some(found)
}
