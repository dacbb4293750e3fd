//! Steps of random work on a directory, the same for a mount and a plain directory.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use proptest::prelude::*;
use rustix::fs::{FallocateFlags, XattrFlags};

#[derive(Clone, Debug)]
pub enum Step {
    Write { path: String, offset: u64, length: usize, byte: u8 },
    Append { path: String, length: usize, byte: u8 },
    Replace { path: String, length: usize, byte: u8 },
    Resize { path: String, size: u64 },
    Punch { path: String, offset: u64, length: u64 },
    MakeDirectory { path: String },
    Unlink { path: String },
    RemoveDirectory { path: String },
    Rename { from: String, to: String },
    Link { path: String, target: String },
    AddName { from: String, to: String },
    Permit { path: String, mode: u32 },
    Copy { from: String, to: String },
    CopyRange { from: String, to: String, offset: u64, length: usize },
    SetTime { path: String, milliseconds: u64 },
    SetAttribute { path: String, name: String, value: Vec<u8> },
    RemoveAttribute { path: String, name: String },
    Remount,
    Kill,
    AskReference,
}

fn path() -> impl Strategy<Value = String> {
    proptest::collection::vec("[abc]", 1..4).prop_map(|names| names.join("/"))
}

pub fn step() -> impl Strategy<Value = Step> {
    let length = prop_oneof![0usize..100, 60_000usize..200_000];
    prop_oneof![
        6 => (path(), 0u64..150_000, length.clone(), any::<u8>())
            .prop_map(|(path, offset, length, byte)| Step::Write { path, offset, length, byte }),
        4 => (path(), length.clone(), any::<u8>())
            .prop_map(|(path, length, byte)| Step::Append { path, length, byte }),
        6 => (path(), length, any::<u8>())
            .prop_map(|(path, length, byte)| Step::Replace { path, length, byte }),
        3 => (path(), 0u64..200_000).prop_map(|(path, size)| Step::Resize { path, size }),
        3 => (path(), 0u64..200_000, 1u64..200_000)
            .prop_map(|(path, offset, length)| Step::Punch { path, offset, length }),
        8 => path().prop_map(|path| Step::MakeDirectory { path }),
        4 => path().prop_map(|path| Step::Unlink { path }),
        3 => path().prop_map(|path| Step::RemoveDirectory { path }),
        8 => (path(), path()).prop_map(|(from, to)| Step::Rename { from, to }),
        2 => (path(), path()).prop_map(|(path, target)| Step::Link { path, target }),
        8 => (path(), path()).prop_map(|(from, to)| Step::AddName { from, to }),
        2 => (path(), 0u32..0o1000)
            .prop_map(|(path, mode)| Step::Permit { path, mode: mode | 0o700 }),
        3 => (path(), path()).prop_map(|(from, to)| Step::Copy { from, to }),
        2 => (path(), path(), 0u64..3000, 0usize..100_000)
            .prop_map(|(from, to, offset, length)| Step::CopyRange { from, to, offset, length }),
        2 => (path(), 0u64..2_000_000_000_000)
            .prop_map(|(path, milliseconds)| Step::SetTime { path, milliseconds }),
        3 => (path(), "user[.][xy]", proptest::collection::vec(any::<u8>(), 0..300))
            .prop_map(|(path, name, value)| Step::SetAttribute { path, name, value }),
        2 => (path(), "user[.][xy]")
            .prop_map(|(path, name)| Step::RemoveAttribute { path, name }),
        1 => Just(Step::Remount),
        1 => Just(Step::Kill),
        1 => Just(Step::AskReference),
    ]
}

/// Links lead to names that may become anything, so no step follows one.
fn opened(root: &Path, path: &str, options: &mut OpenOptions) -> std::io::Result<fs::File> {
    options.custom_flags(libc::O_NOFOLLOW).mode(0o644).open(root.join(path))
}

pub fn leads_through_link(root: &Path, path: &str) -> bool {
    let mut at = root.to_owned();
    path.split('/').any(|name| {
        at.push(name);
        at.is_symlink()
    })
}

/// Does the step; the errno it failed with, or 0.
pub fn act(root: &Path, step: &Step) -> i32 {
    let mut options = OpenOptions::new();
    let done = match step {
        Step::Write { path, offset, length, byte } => {
            opened(root, path, options.read(true).write(true).create(true))
                .and_then(|file| file.write_all_at(&vec![*byte; *length], *offset))
        }
        Step::Append { path, length, byte } => {
            opened(root, path, options.append(true).create(true))
                .and_then(|mut file| std::io::Write::write_all(&mut file, &vec![*byte; *length]))
        }
        Step::Replace { path, length, byte } => {
            opened(root, path, options.write(true).create(true).truncate(true))
                .and_then(|file| file.write_all_at(&vec![*byte; *length], 0))
        }
        Step::Resize { path, size } => {
            opened(root, path, options.write(true)).and_then(|file| file.set_len(*size))
        }
        Step::Punch { path, offset, length } => {
            opened(root, path, options.write(true)).and_then(|file| {
                let mode = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                Ok(rustix::fs::fallocate(file, mode, *offset, *length)?)
            })
        }
        Step::MakeDirectory { path } => fs::create_dir(root.join(path)),
        Step::Unlink { path } => fs::remove_file(root.join(path)),
        Step::RemoveDirectory { path } => fs::remove_dir(root.join(path)),
        Step::Rename { from, to } => fs::rename(root.join(from), root.join(to)),
        Step::Link { path, target } => symlink(target, root.join(path)),
        Step::AddName { from, to } => fs::hard_link(root.join(from), root.join(to)),
        Step::Permit { path, mode } => {
            fs::set_permissions(root.join(path), fs::Permissions::from_mode(*mode))
        }
        Step::CopyRange { from, to, offset, length } => {
            copy_range(&root.join(from), &root.join(to), *offset, *length)
        }
        Step::SetTime { path, milliseconds } => {
            let at = UNIX_EPOCH + Duration::from_millis(*milliseconds);
            fs::File::open(root.join(path))
                .and_then(|file| file.set_times(fs::FileTimes::new().set_modified(at)))
        }
        Step::SetAttribute { path, name, value } => {
            let set = rustix::fs::lsetxattr(root.join(path), name, value, XattrFlags::empty());
            set.map_err(Into::into)
        }
        Step::RemoveAttribute { path, name } => {
            rustix::fs::lremovexattr(root.join(path), name).map_err(Into::into)
        }
        Step::Copy { from, to } => fs::copy(root.join(from), root.join(to)).map(drop),
        Step::Remount | Step::Kill | Step::AskReference => Ok(()),
    };
    done.err().map_or(0, |error| error.raw_os_error().unwrap_or(-1))
}

/// copy_file_range(2) of a part to the same place, after the target was emptied. It may copy less
/// than asked, and is asked again.
fn copy_range(from: &Path, to: &Path, offset: u64, length: usize) -> std::io::Result<()> {
    let source = fs::File::open(from)?;
    let mut options = OpenOptions::new();
    let target = options.write(true).create(true).truncate(true).open(to)?;
    let (mut at, mut out, mut left) = (offset, offset, length);
    while left > 0 {
        match rustix::fs::copy_file_range(&source, Some(&mut at), &target, Some(&mut out), left)? {
            0 => break,
            copied => left -= copied,
        }
    }
    Ok(())
}

impl Step {
    pub fn paths(&self) -> Vec<&str> {
        match self {
            Step::Rename { from, to }
            | Step::AddName { from, to }
            | Step::Copy { from, to }
            | Step::CopyRange { from, to, .. } => vec![from, to],
            Step::Write { path, .. }
            | Step::Append { path, .. }
            | Step::Replace { path, .. }
            | Step::Resize { path, .. }
            | Step::Punch { path, .. }
            | Step::MakeDirectory { path }
            | Step::Unlink { path }
            | Step::RemoveDirectory { path }
            | Step::Link { path, .. }
            | Step::SetTime { path, .. }
            | Step::SetAttribute { path, .. }
            | Step::RemoveAttribute { path, .. }
            | Step::Permit { path, .. } => vec![path],
            Step::Remount | Step::Kill | Step::AskReference => Vec::new(),
        }
    }
}
