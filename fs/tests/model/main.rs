//! Random operations on a filesystem without a kernel, against a plain tree in memory: what
//! programs see, what another mount of the drive shows, what remains after a kill, and the result
//! of each call.
//!
//! `kernel.rs` plays the part of the kernel (it looks up names and refuses impossible calls). Reads
//! through the kernel's caches, mappings and signals are tested in `tests/write`.

mod failing;
mod kernel;
mod tree;

use std::collections::BTreeMap;
use std::ffi::OsStr;

use bytes::Bytes;
use drivefs::{AttributeChanges, Caller, Rename};
use hypermount_drive::testing::FORMATS;
use hypermount_drive::{Drive, DriveFormat, DrivePath, Edit, Stat, Store, TYPE_FILE};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use tokio::runtime::Builder;

use kernel::{Kernel, ROOT, number};
use tree::{Content, Is, Model, is_below, parent};

const CASES: u32 = 400;
const STEPS: std::ops::Range<usize> = 1..60;
/// Longest file in bytes: a little more than two blocks of a drive.
const MAX_BYTES: u64 = 150_000;

#[derive(Clone, Debug)]
enum Step {
    Create {
        path: String,
        exclusive: bool,
    },
    Open {
        path: String,
        writes: bool,
        truncates: bool,
    },
    Write {
        handle: usize,
        offset: u64,
        length: u64,
        fill: u8,
    },
    Read {
        handle: usize,
        offset: u64,
        length: u64,
    },
    Resize {
        handle: usize,
        size: u64,
    },
    Zero {
        handle: usize,
        offset: u64,
        length: u64,
        keep_size: bool,
    },
    Copy {
        from: usize,
        to: usize,
    },
    Sync {
        handle: usize,
    },
    Close {
        handle: usize,
    },
    Truncate {
        path: String,
        size: u64,
    },
    Mode {
        path: String,
        mode: u32,
    },
    Attribute {
        path: String,
        value: Option<u8>,
    },
    MakeDirectory {
        path: String,
    },
    Link {
        path: String,
        target: String,
    },
    /// link(2).
    AddName {
        from: String,
        to: String,
    },
    Unlink {
        path: String,
    },
    RemoveDirectory {
        path: String,
    },
    Rename {
        from: String,
        to: String,
        how: Rename,
    },
    /// Another program puts a file into the drive, or removes one, as `import` does.
    PutByOther {
        path: String,
        length: u64,
        fill: u8,
    },
    RemoveByOther {
        path: String,
    },
    /// The mount ends in order, or by a kill, and starts again.
    Remount,
    Kill,
}

fn path() -> impl Strategy<Value = String> {
    proptest::collection::vec(prop_oneof!["a", "b", "c"], 1..=3).prop_map(|names| names.join("/"))
}

/// More often near block boundaries than elsewhere.
fn position() -> impl Strategy<Value = u64> {
    prop_oneof![Just(0), 0..20_u64, 65_530..65_545_u64, 131_065..131_080_u64, 0..MAX_BYTES]
}

fn step() -> impl Strategy<Value = Step> {
    let handle = || 0..6_usize;
    let how = prop_oneof![
        4 => Just(Rename::Replace),
        1 => Just(Rename::NoReplace),
        1 => Just(Rename::Exchange)
    ];
    prop_oneof![
        6 => (path(), any::<bool>()).prop_map(|(path, exclusive)| Step::Create { path, exclusive }),
        5 => (path(), any::<bool>(), prop::bool::weighted(0.2))
            .prop_map(|(path, writes, truncates)| Step::Open { path, writes, truncates }),
        12 => (handle(), position(), 1..40_000_u64, any::<u8>())
            .prop_map(|(handle, offset, length, fill)| Step::Write { handle, offset, length, fill }),
        5 => (handle(), position(), 1..70_000_u64)
            .prop_map(|(handle, offset, length)| Step::Read { handle, offset, length }),
        3 => (handle(), position()).prop_map(|(handle, size)| Step::Resize { handle, size }),
        2 => (handle(), position(), 1..70_000_u64, any::<bool>()).prop_map(
            |(handle, offset, length, keep_size)| Step::Zero { handle, offset, length, keep_size }
        ),
        2 => (handle(), handle()).prop_map(|(from, to)| Step::Copy { from, to }),
        3 => handle().prop_map(|handle| Step::Sync { handle }),
        6 => handle().prop_map(|handle| Step::Close { handle }),
        2 => (path(), position()).prop_map(|(path, size)| Step::Truncate { path, size }),
        2 => (path(), 0..0o1000_u32).prop_map(|(path, mode)| Step::Mode { path, mode }),
        2 => (path(), any::<Option<u8>>()).prop_map(|(path, value)| Step::Attribute { path, value }),
        6 => path().prop_map(|path| Step::MakeDirectory { path }),
        2 => (path(), path()).prop_map(|(path, target)| Step::Link { path, target }),
        8 => (path(), path()).prop_map(|(from, to)| Step::AddName { from, to }),
        4 => path().prop_map(|path| Step::Unlink { path }),
        2 => path().prop_map(|path| Step::RemoveDirectory { path }),
        6 => (path(), path(), how).prop_map(|(from, to, how)| Step::Rename { from, to, how }),
        4 => (path(), 1..MAX_BYTES, any::<u8>())
            .prop_map(|(path, length, fill)| Step::PutByOther { path, length, fill }),
        1 => path().prop_map(|path| Step::RemoveByOther { path }),
        1 => Just(Step::Remount),
        1 => Just(Step::Kill),
    ]
}

/// One open file, in the filesystem and in the tree.
#[derive(Clone, Copy)]
struct Open {
    handle: u64,
    inode: usize,
    writes: bool,
}

struct Pair {
    store: Store,
    drive: Drive,
    kernel: Kernel,
    /// Another mount of the drive.
    other: Kernel,
    model: Model,
    open: Vec<Open>,
}

impl Pair {
    fn new(format: DriveFormat) -> Self {
        let store = Store::memory();
        let drive = Drive::create_in(format, &store, "model").expect("a drive is made");
        let kernel = Kernel::new(&drive, &store, false);
        let other = Kernel::new(&drive, &store, true);
        Self { store, drive, kernel, other, model: Model::new(), open: Vec::new() }
    }

    fn file(&self, handle: usize) -> Option<Open> {
        self.open.get(handle % self.open.len().max(1)).copied()
    }

    fn has_writer(&self, inode: usize) -> bool {
        self.open.iter().any(|open| open.inode == inode && open.writes)
    }

    /// Changes what is stored beside the content.
    fn changed(&mut self, inode: usize, change: impl FnOnce(&mut Is)) {
        change(&mut self.model.inodes[inode].now);
        self.model.inodes[inode].dirty = true;
        if !self.has_writer(inode) {
            self.model.commit(inode).expect("what a path leads to can be stored");
        }
    }

    async fn remount(&mut self) {
        self.open.clear();
        self.kernel = Kernel::new(&self.drive, &self.store, false);
    }

    async fn run(&mut self, step: &Step) -> Result<(), TestCaseError> {
        match step {
            Step::Create { path, exclusive } => self.create(path, *exclusive).await?,
            Step::Open { path, writes, truncates } => {
                self.open(path, *writes, *writes && *truncates).await?;
            }
            Step::Truncate { path, size } => self.truncate(path, *size).await?,
            Step::Mode { .. } | Step::Attribute { .. } => self.change(step).await?,
            Step::MakeDirectory { .. }
            | Step::Link { .. }
            | Step::AddName { .. }
            | Step::Unlink { .. }
            | Step::RemoveDirectory { .. }
            | Step::Rename { .. } => self.name(step).await?,
            Step::PutByOther { path, length, fill } => {
                self.put_by_other(path, vec![*fill; *length as usize]).await;
            }
            Step::RemoveByOther { path } => self.remove_by_other(path).await,
            Step::Remount => {
                self.kernel.fs.finish().await;
                let at_paths: Vec<_> = self.model.tree.values().copied().collect();
                for inode in at_paths {
                    self.model.commit(inode).expect("what a path leads to can be stored");
                }
                self.remount().await;
            }
            Step::Kill => {
                self.model.kill();
                self.remount().await;
            }
            Step::Write { handle, .. }
            | Step::Read { handle, .. }
            | Step::Resize { handle, .. }
            | Step::Zero { handle, .. }
            | Step::Sync { handle }
            | Step::Close { handle }
            | Step::Copy { from: handle, .. } => {
                if let Some(open) = self.file(*handle) {
                    self.with_handle(step, open).await?;
                }
            }
        }
        Ok(())
    }

    async fn create(&mut self, path: &str, exclusive: bool) -> Result<(), TestCaseError> {
        if self
            .model
            .at(path)
            .is_some_and(|it| matches!(self.model.inodes[it].now.content, Content::Link(_)))
        {
            return Ok(());
        }
        let expected = self.model.walk(path).and_then(|()| match self.model.at(path) {
            Some(_) if exclusive => Err(libc::EEXIST),
            Some(_) if self.model.is_directory(path) => Err(libc::EISDIR),
            Some(inode) => Ok(inode),
            None => Ok(self.model.add(path, Content::File(Vec::new()), 0o640, false)),
        });
        let flags = libc::O_RDWR | libc::O_CREAT | if exclusive { libc::O_EXCL } else { 0 };
        let created = async {
            let (directory, name) = self.kernel.walk(path).await?;
            let fs = &self.kernel.fs;
            number(fs.create(directory, OsStr::new(name), 0o640, flags, Caller::SELF).await)
        };
        let created = created.await.map(|(_, opened)| opened.handle);
        prop_assert_eq!(created.map(|_| ()), expected.map(|_| ()), "errno");
        if let (Ok(handle), Ok(inode)) = (created, expected) {
            self.open.push(Open { handle, inode, writes: true });
        }
        Ok(())
    }

    async fn open(
        &mut self,
        path: &str,
        writes: bool,
        truncates: bool,
    ) -> Result<(), TestCaseError> {
        let expected = self.model.find(path);
        if expected.is_ok_and(|it| !matches!(self.model.inodes[it].now.content, Content::File(_))) {
            return Ok(());
        }
        let access = if writes { libc::O_RDWR } else { libc::O_RDONLY };
        let flags = access | if truncates { libc::O_TRUNC } else { 0 };
        let opened = async {
            let (ino, _) = self.kernel.find(path).await?;
            number(self.kernel.fs.open(ino, flags, Caller::SELF).await)
        };
        let opened = opened.await;
        prop_assert_eq!(opened.as_ref().map(|_| ()).map_err(|errno| *errno), expected.map(|_| ()));
        if let (Ok(opened), Ok(inode)) = (opened, expected) {
            if truncates {
                self.model.bytes(inode).clear();
                self.model.inodes[inode].dirty = true;
            }
            self.open.push(Open { handle: opened.handle, inode, writes });
        }
        Ok(())
    }

    async fn truncate(&mut self, path: &str, size: u64) -> Result<(), TestCaseError> {
        let expected = self.model.find(path);
        if expected.is_ok_and(|it| !matches!(self.model.inodes[it].now.content, Content::File(_))) {
            return Ok(());
        }
        let changes = AttributeChanges { size: Some(size), ..AttributeChanges::default() };
        let done = async {
            let (ino, _) = self.kernel.find(path).await?;
            number(self.kernel.fs.setattr(ino, None, changes, Caller::SELF).await)
        };
        prop_assert_eq!(done.await.map(|_| ()), expected.map(|_| ()));
        if let Ok(inode) = expected {
            self.model.bytes(inode).resize(size as usize, 0);
            self.model.inodes[inode].dirty = true;
            self.model.commit(inode).expect("what a path leads to can be stored");
        }
        Ok(())
    }

    async fn change(&mut self, step: &Step) -> Result<(), TestCaseError> {
        let (Step::Mode { path, .. } | Step::Attribute { path, .. }) = step else { return Ok(()) };
        let found = self.model.find(path);
        let fs = self.kernel.fs.clone();
        let name = OsStr::new("user.a");
        let ino = self.kernel.find(path).await.map(|(ino, _)| ino);
        prop_assert_eq!(ino.map(|_| ()), found.map(|_| ()));
        let (Ok(ino), Ok(inode)) = (ino, found) else { return Ok(()) };
        let is_link = matches!(self.model.inodes[inode].now.content, Content::Link(_));
        match step {
            // No program can change the mode of a link.
            Step::Mode { mode, .. } if !is_link => {
                let changes = AttributeChanges { mode: Some(*mode), ..AttributeChanges::default() };
                let done = number(fs.setattr(ino, None, changes, Caller::SELF).await).map(|_| ());
                prop_assert_eq!(done, Ok(()));
                self.changed(inode, |is| is.mode = *mode);
            }
            Step::Attribute { value: Some(value), .. } if !is_link => {
                let done = number(fs.setxattr(ino, name, &[*value], 0).await);
                prop_assert_eq!(done, Ok(()));
                self.changed(inode, |is| is.attribute = Some(*value));
            }
            Step::Attribute { value: None, .. } if !is_link => {
                let there = self.model.inodes[inode].now.attribute.is_some();
                let expected = if there { Ok(()) } else { Err(libc::ENODATA) };
                prop_assert_eq!(number(fs.removexattr(ino, name).await), expected);
                if there {
                    self.changed(inode, |is| is.attribute = None);
                }
            }
            _ => {}
        }
        Ok(())
    }

    async fn name(&mut self, step: &Step) -> Result<(), TestCaseError> {
        let fs = self.kernel.fs.clone();
        let (expected, done) = match step {
            Step::MakeDirectory { path } | Step::Link { path, .. } => {
                let expected = self.model.walk(path).and_then(|()| match self.model.at(path) {
                    Some(_) => Err(libc::EEXIST),
                    None => Ok(()),
                });
                let (content, mode) = match step {
                    Step::Link { target, .. } => (Content::Link(target.clone()), 0o777),
                    _ => (Content::Directory, 0o750),
                };
                if expected.is_ok() {
                    self.model.add(path, content.clone(), mode, true);
                }
                let done = async {
                    let (directory, name) = self.kernel.walk(path).await?;
                    let (name, caller) = (OsStr::new(name), Caller::SELF);
                    number(match content {
                        Content::Link(target) => {
                            fs.symlink(directory, name, OsStr::new(&target), caller).await
                        }
                        _ => fs.mkdir(directory, name, mode, caller).await,
                    })
                };
                (expected, done.await.map(|_| ()))
            }
            Step::AddName { from, to } => {
                let expected = self.model.link(from, to);
                let done = async {
                    let (ino, _) = self.kernel.find(from).await?;
                    let (directory, name) = self.kernel.walk(to).await?;
                    if self.kernel.look(directory, name).await?.is_some() {
                        return Err(libc::EEXIST);
                    }
                    number(fs.link(ino, directory, OsStr::new(name)).await)
                };
                (expected, done.await.map(|_| ()))
            }
            Step::Unlink { path } => {
                let expected = self.model.find(path).and_then(|inode| {
                    if self.model.is_directory(path) {
                        return Err(libc::EISDIR);
                    }
                    self.model.tree.remove(path);
                    self.model.inodes[inode].removed = !self.model.has_name(inode);
                    Ok(())
                });
                let done = async {
                    let (directory, name) = self.kernel.walk(path).await?;
                    number(fs.unlink(directory, OsStr::new(name)).await)
                };
                (expected, done.await)
            }
            Step::RemoveDirectory { path } => {
                let expected = self.model.find(path).and_then(|_| {
                    if !self.model.is_directory(path) {
                        return Err(libc::ENOTDIR);
                    }
                    if self.model.tree.keys().any(|other| is_below(other, path)) {
                        return Err(libc::ENOTEMPTY);
                    }
                    self.model.tree.remove(path);
                    Ok(())
                });
                let done = async {
                    let (directory, name) = self.kernel.walk(path).await?;
                    number(fs.rmdir(directory, OsStr::new(name)).await)
                };
                (expected, done.await)
            }
            Step::Rename { from, to, how } => {
                let expected = self.model.rename(from, to, *how);
                // The kernel refuses this itself.
                if expected == Err(libc::ENOTEMPTY) && is_below(from, to) {
                    return Ok(());
                }
                let done = async {
                    self.kernel.find(from).await?;
                    let (directory, name) = self.kernel.walk(from).await?;
                    let (new_directory, new_name) = self.kernel.walk(to).await?;
                    let (name, new_name) = (OsStr::new(name), OsStr::new(new_name));
                    number(fs.rename(directory, name, new_directory, new_name, *how).await)
                };
                (expected, done.await)
            }
            _ => return Ok(()),
        };
        prop_assert_eq!(done, expected);
        Ok(())
    }

    async fn with_handle(&mut self, step: &Step, open: Open) -> Result<(), TestCaseError> {
        let Open { handle, inode, writes } = open;
        let allowed = if writes { Ok(()) } else { Err(libc::EBADF) };
        match *step {
            Step::Write { offset, length, fill, .. } => {
                let bytes = vec![fill; length as usize];
                prop_assert_eq!(self.kernel.write(handle, offset, &bytes).await, allowed);
                if writes {
                    let (start, end) = (offset as usize, (offset + length) as usize);
                    let file = self.model.bytes(inode);
                    file.resize(file.len().max(end), 0);
                    file[start..end].fill(fill);
                    self.model.inodes[inode].dirty = true;
                }
            }
            Step::Read { offset, length, .. } => {
                let file = self.model.bytes(inode);
                let (start, end) = (offset as usize, (offset + length) as usize);
                let expected = &file[start.min(file.len())..end.min(file.len())];
                let read = self.kernel.read(handle, offset, length).await;
                prop_assert_eq!(read.as_deref(), Ok(expected));
            }
            Step::Resize { size, .. } => {
                let (ino, changes) =
                    (ROOT, AttributeChanges { size: Some(size), ..AttributeChanges::default() });
                let fs = &self.kernel.fs;
                let done = number(fs.setattr(ino, Some(handle), changes, Caller::SELF).await);
                prop_assert_eq!(done.map(|_| ()), allowed);
                if writes {
                    self.model.bytes(inode).resize(size as usize, 0);
                    self.model.inodes[inode].dirty = true;
                }
            }
            Step::Zero { offset, length, keep_size, .. } => {
                let keep = if keep_size { libc::FALLOC_FL_KEEP_SIZE } else { 0 };
                let mode = libc::FALLOC_FL_ZERO_RANGE | keep;
                let fs = &self.kernel.fs;
                let done = number(fs.fallocate(handle, offset, length, mode, Caller::SELF).await);
                prop_assert_eq!(done, allowed);
                if writes {
                    let file = self.model.bytes(inode);
                    let end = (offset + length) as usize;
                    if !keep_size {
                        file.resize(file.len().max(end), 0);
                    }
                    let end = end.min(file.len());
                    file[(offset as usize).min(end)..end].fill(0);
                    self.model.inodes[inode].dirty = true;
                }
            }
            Step::Sync { .. } => {
                let expected = self.model.commit(inode);
                prop_assert_eq!(number(self.kernel.fs.fsync(handle).await), expected);
            }
            Step::Close { .. } => {
                self.open.retain(|other| other.handle != handle);
                let expected = self.model.commit(inode);
                prop_assert_eq!(self.kernel.close(handle).await, expected);
            }
            Step::Copy { to, .. } => {
                if let Some(to) = self.file(to).filter(|to| to.inode != inode && to.writes) {
                    self.copy(open, to).await?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    async fn copy(&mut self, from: Open, to: Open) -> Result<(), TestCaseError> {
        let source = self.model.bytes(from.inode).clone();
        let length = source.len() as u64 + 1;
        let fs = &self.kernel.fs;
        let caller = Caller::SELF;
        let copied = number(fs.copy_file_range(from.handle, 0, to.handle, 0, length, caller).await);
        if !source.is_empty() {
            let expected = self.model.commit(from.inode);
            prop_assert!(expected.is_ok() || copied == expected.map(|()| 0));
        }
        match copied {
            Ok(copied) => {
                prop_assert_eq!(copied as usize, source.len());
                prop_assert!(self.model.bytes(to.inode).is_empty());
                *self.model.bytes(to.inode) = source;
                self.model.inodes[to.inode].dirty = true;
            }
            // A part of a file, or a file that is not stored: the kernel copies by itself.
            Err(refused) => prop_assert!(matches!(refused, libc::EOPNOTSUPP | libc::ESTALE)),
        }
        Ok(())
    }

    /// Another program has replaced or removed the path.
    fn overtake(&mut self, path: &str) {
        if let Some(before) = self.model.tree.remove(path) {
            self.model.inodes[before].overtaken = !self.model.has_name(before);
        }
    }

    async fn put_by_other(&mut self, path: &str, bytes: Vec<u8>) {
        if !self.model.is_directory(parent(path)) || self.model.is_directory(path) {
            return;
        }
        let blocks: Vec<_> = bytes.chunks(65_536).map(Bytes::copy_from_slice).collect();
        let extent = self.drive.append_content(&blocks).expect("appended");
        let stat = Stat { mode: TYPE_FILE | 0o604, extent, ..Stat::default() };
        let path_there = DrivePath::parse(path).expect("a path");
        self.drive.apply(vec![Edit::Put { path: path_there, stat }]).await.expect("put");
        self.drive.show_newest().await;
        self.overtake(path);
        self.model.add(path, Content::File(bytes), 0o604, true);
    }

    async fn remove_by_other(&mut self, path: &str) {
        let stored = self.model.at(path).is_some_and(|it| self.model.inodes[it].stored.is_some());
        if !stored || self.model.is_directory(path) {
            return;
        }
        let path_there = DrivePath::parse(path).expect("a path");
        self.drive.apply(vec![Edit::Remove { path: path_there }]).await.expect("removed");
        self.drive.show_newest().await;
        self.overtake(path);
    }

    async fn compare(&self) -> Result<(), TestCaseError> {
        let mut open = BTreeMap::new();
        for (path, inode) in &self.model.tree {
            let handle = self.open.iter().find(|open| open.inode == *inode);
            open.extend(handle.map(|open| (path.as_str(), open.handle)));
        }
        prop_assert_eq!(self.kernel.shown(&open).await, Ok(self.model.shown(false)), "the mount");
        let mut other = self.other.shown(&BTreeMap::new()).await;
        let mut stored = self.model.shown(true);
        // The user of a read-only mount may read everything in it.
        for is in stored.values_mut().chain(other.iter_mut().flat_map(BTreeMap::values_mut)) {
            is.mode &= 0o077;
        }
        prop_assert_eq!(other, Ok(stored), "another mount");
        self.kernel.fs.check_invariants();
        self.other.fs.check_invariants();
        Ok(())
    }
}

/// Sentence 123. "A file that is renamed over another file before it is closed is stored first: a kill
/// leaves the old file or the new one."
#[test]
fn a_filesystem_is_like_a_plain_tree() {
    for format in FORMATS {
        let config = Config {
            cases: CASES,
            max_shrink_iters: 2000,
            failure_persistence: None,
            ..Config::default()
        };
        let run = |steps: Vec<Step>| {
            let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let mut pair = Pair::new(format);
                for step in &steps {
                    let context = |error| match error {
                        TestCaseError::Fail(why) => TestCaseError::fail(format!("{step:?}: {why}")),
                        rejected => rejected,
                    };
                    pair.run(step).await.map_err(context)?;
                    pair.compare().await.map_err(context)?;
                }
                Ok(())
            })
        };
        let result = TestRunner::new(config).run(&proptest::collection::vec(step(), STEPS), run);
        if let Err(failure) = result {
            panic!("{failure}");
        }
    }
}
