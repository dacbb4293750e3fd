//! Random operations on a mount and on a plain directory: both must always look the same, also to
//! the reference, and after restarts and kills.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::Path;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::own::{Own, can_mount, has_reference, tree};

#[derive(Clone, Debug)]
enum Step {
    Write { path: String, offset: u64, length: usize, byte: u8 },
    Append { path: String, length: usize, byte: u8 },
    Replace { path: String, length: usize, byte: u8 },
    Resize { path: String, size: u64 },
    MakeDirectory { path: String },
    Unlink { path: String },
    RemoveDirectory { path: String },
    Rename { from: String, to: String },
    Link { path: String, target: String },
    Permit { path: String, mode: u32 },
    Copy { from: String, to: String },
    Remount,
    Kill,
    AskReference,
}

fn path() -> impl Strategy<Value = String> {
    proptest::collection::vec("[abc]", 1..4).prop_map(|names| names.join("/"))
}

fn step() -> impl Strategy<Value = Step> {
    let length = prop_oneof![0usize..100, 60_000usize..200_000];
    prop_oneof![
        6 => (path(), 0u64..150_000, length.clone(), any::<u8>())
            .prop_map(|(path, offset, length, byte)| Step::Write { path, offset, length, byte }),
        4 => (path(), length.clone(), any::<u8>())
            .prop_map(|(path, length, byte)| Step::Append { path, length, byte }),
        6 => (path(), length, any::<u8>())
            .prop_map(|(path, length, byte)| Step::Replace { path, length, byte }),
        3 => (path(), 0u64..200_000).prop_map(|(path, size)| Step::Resize { path, size }),
        8 => path().prop_map(|path| Step::MakeDirectory { path }),
        4 => path().prop_map(|path| Step::Unlink { path }),
        3 => path().prop_map(|path| Step::RemoveDirectory { path }),
        8 => (path(), path()).prop_map(|(from, to)| Step::Rename { from, to }),
        2 => (path(), path()).prop_map(|(path, target)| Step::Link { path, target }),
        2 => (path(), 0u32..0o1000)
            .prop_map(|(path, mode)| Step::Permit { path, mode: mode | 0o700 }),
        3 => (path(), path()).prop_map(|(from, to)| Step::Copy { from, to }),
        1 => Just(Step::Remount),
        1 => Just(Step::Kill),
        1 => Just(Step::AskReference),
    ]
}

/// Links lead to names that may become anything, so no step follows one.
fn opened(root: &Path, path: &str, options: &mut OpenOptions) -> std::io::Result<fs::File> {
    use std::os::unix::fs::OpenOptionsExt;
    options.custom_flags(libc::O_NOFOLLOW).mode(0o644).open(root.join(path))
}

fn leads_through_link(root: &Path, path: &str) -> bool {
    let mut at = root.to_owned();
    path.split('/').any(|name| {
        at.push(name);
        at.is_symlink()
    })
}

/// Does the step; the errno it failed with, or 0.
fn act(root: &Path, step: &Step) -> i32 {
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
        Step::MakeDirectory { path } => fs::create_dir(root.join(path)),
        Step::Unlink { path } => fs::remove_file(root.join(path)),
        Step::RemoveDirectory { path } => fs::remove_dir(root.join(path)),
        Step::Rename { from, to } => fs::rename(root.join(from), root.join(to)),
        Step::Link { path, target } => symlink(target, root.join(path)),
        Step::Permit { path, mode } => {
            fs::set_permissions(root.join(path), fs::Permissions::from_mode(*mode))
        }
        Step::Copy { from, to } => fs::copy(root.join(from), root.join(to)).map(drop),
        Step::Remount | Step::Kill | Step::AskReference => Ok(()),
    };
    done.err().map_or(0, |error| error.raw_os_error().unwrap_or(-1))
}

impl Step {
    fn paths(&self) -> Vec<&str> {
        match self {
            Step::Rename { from, to } | Step::Copy { from, to } => vec![from, to],
            Step::Write { path, .. }
            | Step::Append { path, .. }
            | Step::Replace { path, .. }
            | Step::Resize { path, .. }
            | Step::MakeDirectory { path }
            | Step::Unlink { path }
            | Step::RemoveDirectory { path }
            | Step::Link { path, .. }
            | Step::Permit { path, .. } => vec![path],
            Step::Remount | Step::Kill | Step::AskReference => Vec::new(),
        }
    }
}

#[test]
fn a_mount_is_like_a_plain_directory() {
    if !can_mount() {
        return;
    }
    // 8 runs of at least 70 steps: more than 500.
    let config = Config { cases: 8, max_shrink_iters: 60, ..Config::default() };
    let steps = proptest::collection::vec(step(), 70..90);
    let run = |steps: Vec<Step>| {
        let (mut own, plain) = (Own::new(), tempfile::tempdir().expect("a directory"));
        for step in steps {
            match &step {
                Step::Remount => own.remount(),
                Step::Kill => own.kill(),
                Step::AskReference if has_reference() => {
                    own.unmount();
                    let theirs = own.read_by_reference();
                    prop_assert_eq!(theirs, tree(plain.path(), false));
                    own.mount();
                }
                Step::AskReference => {}
                step if step.paths().iter().any(|path| leads_through_link(plain.path(), path))
                    && !matches!(step, Step::Unlink { .. } | Step::Rename { .. }) =>
                {
                    continue;
                }
                step => {
                    let expected = act(plain.path(), step);
                    prop_assert_eq!(act(&own.root(), step), expected, "{:?}", step);
                }
            }
            prop_assert_eq!(tree(&own.root(), true), tree(plain.path(), true), "{:?}", step);
        }
        own.unmount();
        if has_reference() {
            prop_assert_eq!(own.read_by_reference(), tree(plain.path(), false));
        }
        Ok(())
    };
    let result = TestRunner::new(config).run(&steps, run);
    if let Err(failure) = result {
        panic!("{failure}");
    }
}
