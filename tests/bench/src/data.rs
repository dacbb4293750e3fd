//! The data sets: made once, as a plain directory and as a drive of the reference.
//!
//! Contents are a pseudo-random function of file and offset, so that any read can be checked
//! without keeping a copy, and nothing can be compressed.

use crate::process::{Logs, run};
use crate::tools::Tools;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum DataSet {
    /// 10,000 files of about 3 KiB in 100 directories.
    Tree10k,
    /// 1,000 such files in 20 directories.
    Tree1k,
    /// A file of 256 MiB and one of 1 GiB.
    Large,
    /// A file of 24 MiB, which several peers have.
    Shared,
    /// One short file: a drive to write to.
    Seedling,
    /// Hyperdrive 13: 1,651 files of about 12 KiB and 8 directories, 36 names in the root.
    Tree13,
    /// Hyperdrive 13: a file of 64 MiB and one of 1 GiB.
    Large13,
}

/// A file of a data set. `seed` decides its content.
#[derive(Clone, Debug)]
pub struct DataFile {
    pub path: PathBuf,
    pub size: u64,
    pub seed: u64,
}

pub const MIB: u64 = 1 << 20;

impl DataSet {
    pub const ALL: [DataSet; 7] = [
        DataSet::Tree10k,
        DataSet::Tree1k,
        DataSet::Large,
        DataSet::Shared,
        DataSet::Seedling,
        DataSet::Tree13,
        DataSet::Large13,
    ];

    /// Whether its drive is one of Hyperdrive 13.
    pub fn is_modern(self) -> bool {
        matches!(self, DataSet::Tree13 | DataSet::Large13)
    }

    pub fn name(self) -> &'static str {
        match self {
            DataSet::Tree10k => "tree-10k",
            DataSet::Tree1k => "tree-1k",
            DataSet::Large => "large",
            DataSet::Shared => "shared",
            DataSet::Seedling => "seedling",
            DataSet::Tree13 => "tree-13",
            DataSet::Large13 => "large-13",
        }
    }

    pub fn directories(self) -> u64 {
        match self {
            DataSet::Tree10k => 100,
            DataSet::Tree1k => 20,
            DataSet::Tree13 => 8,
            DataSet::Large | DataSet::Shared | DataSet::Seedling | DataSet::Large13 => 0,
        }
    }

    pub fn files(self) -> Vec<DataFile> {
        match self {
            DataSet::Tree10k => tree(100, 100),
            DataSet::Tree1k => tree(20, 50),
            DataSet::Large => vec![stream_file(), seek_file()],
            DataSet::Shared => vec![shared_file()],
            DataSet::Seedling => vec![DataFile { path: "readme".into(), size: 64, seed: 1 }],
            DataSet::Tree13 => deep_root(),
            DataSet::Large13 => vec![short_stream_file(), middle_file()],
        }
    }
}

pub fn stream_file() -> DataFile {
    DataFile { path: "stream.bin".into(), size: 256 * MIB, seed: 2 }
}

pub fn seek_file() -> DataFile {
    DataFile { path: "seek.bin".into(), size: 1024 * MIB, seed: 3 }
}

pub fn shared_file() -> DataFile {
    DataFile { path: "shared.bin".into(), size: 24 * MIB, seed: 4 }
}

pub fn short_stream_file() -> DataFile {
    DataFile { path: "stream.bin".into(), size: 64 * MIB, seed: 5 }
}

pub fn middle_file() -> DataFile {
    DataFile { path: "middle.bin".into(), size: 1024 * MIB, seed: 6 }
}

/// 28 files in the root and 1,623 in 8 directories.
fn deep_root() -> Vec<DataFile> {
    let file = |n: u64| {
        let seed = 100_000 + n;
        let path = if n < 28 {
            format!("file-{n:04}.dat")
        } else {
            format!("directory-{}/file-{n:04}.dat", n % 8)
        };
        DataFile { path: path.into(), size: 2048 + mixed(seed) % 20_481, seed }
    };
    (0..1651).map(file).collect()
}

fn tree(directories: u64, files: u64) -> Vec<DataFile> {
    let all = (0..directories).flat_map(|directory| (0..files).map(move |file| (directory, file)));
    all.map(|(directory, file)| {
        let seed = 1000 + directory * files + file;
        let path = format!("directory-{directory:03}/file-{file:03}.dat").into();
        DataFile { path, size: 2048 + mixed(seed) % 2049, seed }
    })
    .collect()
}

/// splitmix64: every bit of the answer depends on every bit of the number.
pub fn mixed(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl DataFile {
    /// The bytes of the file from an offset on, which must be a multiple of eight.
    pub fn fill(&self, offset: u64, buffer: &mut [u8]) {
        let start = self.seed << 32;
        for (word, bytes) in (offset / 8..).zip(buffer.chunks_mut(8)) {
            let content = mixed(start.wrapping_add(word)).to_le_bytes();
            bytes.copy_from_slice(&content[..bytes.len()]);
        }
    }

    /// Whether these are the bytes of the file at an offset that is a multiple of eight.
    pub fn matches(&self, offset: u64, bytes: &[u8]) -> bool {
        let mut expected = vec![0; bytes.len()];
        self.fill(offset, &mut expected);
        expected == bytes
    }

    fn write(&self, root: &Path) -> io::Result<()> {
        let path = root.join(&self.path);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        let mut out = BufWriter::new(File::create(path)?);
        let mut buffer = vec![0; MIB as usize];
        let mut offset = 0;
        while offset < self.size {
            let length = MIB.min(self.size - offset) as usize;
            self.fill(offset, &mut buffer[..length]);
            out.write_all(&buffer[..length])?;
            offset += length as u64;
        }
        out.flush()
    }
}

/// The places of the data sets below one directory.
pub struct Data {
    root: PathBuf,
}

impl Data {
    pub fn new(root: PathBuf) -> Data {
        Data { root }
    }

    /// The data set as plain files.
    pub fn plain(&self, set: DataSet) -> PathBuf {
        self.root.join(set.name())
    }

    /// The store of the data set's drive, written by the reference.
    pub fn store(&self, set: DataSet) -> PathBuf {
        self.root.join(format!("{}.drive", set.name()))
    }

    /// The drive's key in hexadecimal digits.
    pub fn key(&self, set: DataSet) -> io::Result<String> {
        Ok(fs::read_to_string(self.key_path(set))?.trim().to_owned())
    }

    /// 5,000 files in 50 directories.
    pub fn archive(&self) -> PathBuf {
        self.root.join("tree-5k.tar")
    }

    /// A bare repository with the 1,000 files in it.
    pub fn repository(&self) -> PathBuf {
        self.root.join("repository.git")
    }

    fn key_path(&self, set: DataSet) -> PathBuf {
        self.root.join(format!("{}.key", set.name()))
    }

    /// Makes what is missing. A set is complete when its key, or else its archive, is there.
    pub fn make(&self, set: DataSet, tools: &Tools, logs: &Logs) -> io::Result<()> {
        if self.key_path(set).exists() {
            return Ok(());
        }
        eprintln!("making the data set {}", set.name());
        let (plain, store) = (self.plain(set), self.store(set));
        for directory in [&plain, &store] {
            remove_tree(directory)?;
        }
        fs::create_dir_all(&plain)?;
        for file in set.files() {
            file.write(&plain)?;
        }
        let mut import =
            if set.is_modern() { tools.modern("import") } else { tools.reference("import") };
        let key = run(import.arg(&store).arg(&plain), logs)?;
        write_whole(&self.key_path(set), |path| fs::write(path, &key))
    }

    pub fn make_archive(&self, logs: &Logs) -> io::Result<()> {
        if self.archive().exists() {
            return Ok(());
        }
        write_whole(&self.archive(), |path| {
            let mut tar = std::process::Command::new("tar");
            tar.arg("-C").arg(self.plain(DataSet::Tree10k)).arg("-cf").arg(path);
            tar.args((0..50).map(|directory| format!("directory-{directory:03}")));
            run(&mut tar, logs).map(drop)
        })
    }

    pub fn make_repository(&self, logs: &Logs) -> io::Result<()> {
        if self.repository().exists() {
            return Ok(());
        }
        let work = self.root.join("repository.tmp");
        remove_tree(&work)?;
        let git = |arguments: &[&str]| {
            let mut git = crate::tools::git();
            git.arg("--git-dir").arg(&work).arg("--work-tree").arg(self.plain(DataSet::Tree1k));
            run(git.args(arguments), logs).map(drop)
        };
        git(&["init", "--quiet", "--initial-branch=main"])?;
        git(&["config", "core.bare", "false"])?;
        git(&["add", "--all"])?;
        git(&["commit", "--quiet", "--message", "A thousand files"])?;
        git(&["config", "core.bare", "true"])?;
        fs::rename(work, self.repository())
    }
}

/// A file appears under its name when it is complete, so that an interrupted run repeats it.
fn write_whole(path: &Path, write: impl FnOnce(&Path) -> io::Result<()>) -> io::Result<()> {
    let unfinished = path.with_extension("tmp");
    write(&unfinished)?;
    fs::rename(unfinished, path)
}

pub fn remove_tree(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_is_the_same_from_every_offset() {
        let file = DataFile { path: "x".into(), size: 100, seed: 7 };
        let mut whole = [0; 100];
        file.fill(0, &mut whole);
        assert!(file.matches(40, &whole[40..]));
        assert!(!file.matches(48, &whole[40..]));
        assert_ne!(whole[..8], whole[8..16]);
    }

    #[test]
    fn the_trees_have_the_files_they_are_named_for() {
        assert_eq!(DataSet::Tree10k.files().len(), 10_000);
        assert_eq!(DataSet::Tree1k.files().len(), 1_000);
        let bytes: u64 = DataSet::Tree10k.files().iter().map(|file| file.size).sum();
        assert_eq!(bytes / 1_000_000, 30);
        let files = DataSet::Tree13.files();
        let root = files.iter().filter(|file| file.path.components().count() == 1).count() as u64;
        assert_eq!(files.len() as u64 + DataSet::Tree13.directories(), 1659);
        assert_eq!(root + DataSet::Tree13.directories(), 36);
    }
}
