//! A power cut as directories see it: a name that was made and whose directory was not synced since is
//! gone, with all that lies below it. For tests; it is not in a release build.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use hypermount_swarm::sync::{Mutex, Rank};

/// What each directory below the watched ones held when it was last synced.
#[derive(Default)]
struct Device {
    watched: Vec<PathBuf>,
    names: BTreeMap<PathBuf, BTreeSet<OsString>>,
}

// Below every lock: files are synced under some of them.
static DEVICE: LazyLock<Mutex<Option<Device>>> =
    LazyLock::new(|| Mutex::new(Rank::new(90, "device of a test"), None));

fn names_in(directory: &Path) -> BTreeSet<OsString> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name()).collect()
}

/// `directory` has been synced.
pub(crate) fn synced(directory: &Path) {
    let mut device = DEVICE.lock();
    let Some(device) = device.as_mut() else { return };
    if device.watched.iter().any(|watched| directory.starts_with(watched)) {
        device.names.insert(directory.to_owned(), names_in(directory));
    }
}

/// Notes from now on what is synced below `root`.
pub fn watch(root: &Path) {
    let mut device = DEVICE.lock();
    device.get_or_insert_default().watched.push(root.to_owned());
}

/// All paths below `root` that a power cut leaves now; `unless` is a directory that counts as never synced.
pub fn survivors(root: &Path, unless: Option<&Path>) -> BTreeSet<PathBuf> {
    let device = DEVICE.lock();
    let device = device.as_ref().expect("it is watched");
    let (mut found, mut open) = (BTreeSet::new(), vec![root.to_owned()]);
    while let Some(directory) = open.pop() {
        let synced = device.names.get(&directory).filter(|_| unless != Some(directory.as_path()));
        for name in synced.into_iter().flatten() {
            let path = directory.join(name);
            if path.is_dir() {
                open.push(path.clone());
            }
            found.insert(path);
        }
    }
    found
}

/// Removes what is not among the survivors.
pub fn cut(root: &Path, survivors: &BTreeSet<PathBuf>) {
    for name in names_in(root) {
        let path = root.join(name);
        match (survivors.contains(&path), path.is_dir()) {
            (true, true) => cut(&path, survivors),
            (true, false) => {}
            (false, true) => fs::remove_dir_all(&path).expect("it is removed"),
            (false, false) => fs::remove_file(&path).expect("it is removed"),
        }
    }
}

/// The directories below `root` that were synced, relative to it.
pub fn synced_below(root: &Path) -> Vec<PathBuf> {
    let device = DEVICE.lock();
    let names = device.as_ref().into_iter().flat_map(|device| device.names.keys());
    names.filter_map(|path| path.strip_prefix(root).ok()).map(Path::to_owned).collect()
}
