//! A disk that is soon full, and how many bytes of files a store has on it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A file system in memory of the given size, removed when this is dropped. Only root can make one.
pub struct SmallDisk(pub PathBuf);

impl SmallDisk {
    pub fn mounted(at: PathBuf, megabytes: u32) -> Option<Self> {
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={megabytes}m"), "tmpfs"]).arg(&at);
        if !mount.output().is_ok_and(|output| output.status.success()) {
            eprintln!("SKIPPED: only root can make a small disk");
            return None;
        }
        Some(Self(at))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).output();
    }
}

/// The bytes in the data files of the cores of a store.
pub fn content_bytes(store: &Path) -> u64 {
    let (mut bytes, mut open) = (0, vec![store.to_owned()]);
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            let path = entry.path();
            match path.is_dir() {
                true => open.push(path),
                false if entry.file_name() == "data" => {
                    bytes += entry.metadata().map_or(0, |found| found.len());
                }
                false => {}
            }
        }
    }
    bytes
}
