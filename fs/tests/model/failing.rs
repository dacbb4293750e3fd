//! A store that fails at one call: the program's call that needed it fails, stored data does not
//! change, and after a restart every file is a version that a program wrote.
//!
//! Not here: what a power cut loses, and a failed sync whose pages are dropped. The tests of the
//! drive try these at every storage call (`drive/drive/hyperdrive/crash_tests.rs`).

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;

use drivefs::{Caller, Rename};
use fuser::FileType;
use hypermount_drive::testing::{FORMATS, World, open_in};
use hypermount_drive::{DriveFormat, Store};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use tokio::runtime::Builder;

use crate::kernel::{Kernel, number};
use crate::tree::Answer;

const CASES: u32 = 120;
const PATHS: [&str; 4] = ["a", "b", "c", "d"];

#[derive(Clone, Debug)]
enum Act {
    /// Rewrites the whole file in pieces, all of one byte value; `syncs` it before it is closed.
    Write {
        path: usize,
        length: usize,
        syncs: bool,
    },
    Append {
        path: usize,
        length: usize,
    },
    Rename {
        from: usize,
        to: usize,
    },
    Unlink {
        path: usize,
    },
    /// The program is killed, and the filesystem starts again on the same disks.
    Restart,
}

fn act() -> impl Strategy<Value = Act> {
    let path = || 0..PATHS.len();
    prop_oneof![
        4 => (path(), 1..150_000_usize, any::<bool>())
            .prop_map(|(path, length, syncs)| Act::Write { path, length, syncs }),
        2 => (path(), 1..90_000_usize).prop_map(|(path, length)| Act::Append { path, length }),
        2 => (path(), path()).prop_map(|(from, to)| Act::Rename { from, to }),
        1 => path().prop_map(|path| Act::Unlink { path }),
        1 => Just(Act::Restart),
    ]
}

/// The content of a file as runs of equal bytes; `None` if there is no file.
type Runs = Option<Vec<(u8, usize)>>;

fn runs(bytes: &[u8]) -> Vec<(u8, usize)> {
    bytes.chunk_by(|one, other| one == other).map(|run| (run[0], run.len())).collect()
}

struct Machine {
    format: DriveFormat,
    world: World,
    kernel: Kernel,
    /// What each path may hold. With one member, it must hold that.
    may: BTreeMap<&'static str, BTreeSet<Runs>>,
    /// Whether a storage call has failed since the filesystem was started.
    hurt: bool,
}

impl Machine {
    async fn start(format: DriveFormat, world: World) -> Self {
        let drive = open_in(&world, format).await.expect("the drive opens");
        let kernel = Kernel::new(&drive, &Store::memory(), false);
        let may = PATHS.into_iter().map(|path| (path, BTreeSet::from([None]))).collect();
        Self { format, world, kernel, may, hurt: false }
    }

    async fn restart(&mut self) {
        // What was killed writes nothing more to these files, whatever still runs of it here.
        self.world = self.world.fork();
        let drive = open_in(&self.world, self.format).await.expect("the drive opens");
        self.kernel = Kernel::new(&drive, &Store::memory(), false);
        self.hurt = false;
    }

    async fn write(&self, path: &str, fill: u8, length: usize, how: (bool, bool)) -> Answer<()> {
        let (appends, syncs) = how;
        let (directory, name) = self.kernel.walk(path).await?;
        let fs = &self.kernel.fs;
        let found = self.kernel.look(directory, name).await?;
        let truncates = if appends { 0 } else { libc::O_TRUNC };
        let (flags, caller) = (libc::O_RDWR | truncates, Caller::SELF);
        let (handle, start) = match found {
            Some((ino, _)) => {
                let opened = number(fs.open(ino, flags, caller).await)?;
                let size = number(fs.getattr(ino).await)?.0.size;
                (opened.handle, size)
            }
            None => {
                let created = fs.create(directory, OsStr::new(name), 0o640, flags, caller).await;
                (number(created)?.1.handle, 0)
            }
        };
        let mut done = Ok(());
        let mut at = start;
        for piece in vec![fill; length].chunks(40_000) {
            done = done.and(self.kernel.write(handle, at, piece).await);
            at += piece.len() as u64;
        }
        if syncs {
            done = done.and(number(fs.fsync(handle).await));
        }
        let closed = self.kernel.close(handle).await;
        done.and(closed)
    }

    async fn read(&self, path: &str) -> Answer<Runs> {
        let (directory, name) = self.kernel.walk(path).await?;
        let Some((ino, kind)) = self.kernel.look(directory, name).await? else { return Ok(None) };
        assert_eq!(kind, FileType::RegularFile);
        let fs = &self.kernel.fs;
        let handle = number(fs.open(ino, libc::O_RDONLY, Caller::SELF).await)?.handle;
        let bytes = self.kernel.read(handle, 0, u32::MAX.into()).await;
        let _ = fs.release(handle).await;
        Ok(Some(runs(&bytes?)))
    }

    async fn act(&mut self, act: &Act, fill: u8) -> Result<(), TestCaseError> {
        match *act {
            Act::Restart => self.restart().await,
            Act::Write { path, length, syncs } => {
                let path = PATHS[path];
                let done = self.write(path, fill, length, (false, syncs)).await;
                let written = BTreeSet::from([Some(vec![(fill, length)])]);
                self.became(path, written, done)?;
            }
            Act::Append { path, length } => {
                let path = PATHS[path];
                let longer = |before: &Runs| {
                    let mut runs = before.clone().unwrap_or_default();
                    runs.push((fill, length));
                    Some(runs)
                };
                let written = self.may[path].iter().map(longer).collect();
                let done = self.write(path, fill, length, (true, false)).await;
                self.became(path, written, done)?;
            }
            Act::Rename { from, to } if from != to => {
                let (from, to) = (PATHS[from], PATHS[to]);
                let fs = &self.kernel.fs;
                let (root, old, new) = (1, OsStr::new(from), OsStr::new(to));
                let done = match self.kernel.look(root, from).await {
                    Ok(Some(_)) => number(fs.rename(root, old, root, new, Rename::Replace).await),
                    Ok(None) => Err(libc::ENOENT),
                    Err(error) => Err(error),
                };
                if done == Err(libc::ENOENT) {
                    prop_assert!(self.may[from].contains(&None), "{from} is gone");
                    return Ok(());
                }
                let moved: BTreeSet<Runs> =
                    self.may[from].iter().filter(|runs| runs.is_some()).cloned().collect();
                self.became(to, moved, done)?;
                self.became(from, BTreeSet::from([None]), done)?;
            }
            Act::Rename { .. } => {}
            Act::Unlink { path } => {
                let path = PATHS[path];
                let done = match self.kernel.look(1, path).await {
                    Ok(Some(_)) => number(self.kernel.fs.unlink(1, OsStr::new(path)).await),
                    Ok(None) => Err(libc::ENOENT),
                    Err(error) => Err(error),
                };
                if done == Err(libc::ENOENT) {
                    prop_assert!(self.may[path].contains(&None), "{path} is gone");
                } else {
                    self.became(path, BTreeSet::from([None]), done)?;
                }
            }
        }
        Ok(())
    }

    /// A call that changes `path` to one of `new` returned `done`.
    fn became(
        &mut self,
        path: &'static str,
        new: BTreeSet<Runs>,
        done: Answer<()>,
    ) -> Result<(), TestCaseError> {
        let may = self.may.entry(path).or_default();
        match done {
            Ok(()) => *may = new,
            Err(error) => {
                prop_assert!(self.hurt, "{path}: errno {error}, and no call has failed");
                may.extend(new);
                // The file was truncated and not written.
                may.insert(Some(Vec::new()));
                may.insert(None);
            }
        }
        Ok(())
    }

    async fn check(&self) -> Result<(), TestCaseError> {
        for (path, may) in &self.may {
            match self.read(path).await {
                Ok(runs) => prop_assert!(may.contains(&runs), "{path}: {runs:?} of {may:?}"),
                Err(error) => prop_assert!(self.hurt, "{path}: errno {error}"),
            }
        }
        Ok(())
    }
}

/// Each step, with the number of the storage call that fails during it, counted from its start.
type Steps = Vec<(Act, Option<u64>)>;

async fn run(format: DriveFormat, steps: &Steps) -> Result<(), TestCaseError> {
    let mut machine = Machine::start(format, World::default()).await;
    for (n, (act, failing)) in steps.iter().enumerate() {
        if let Some(call) = failing.filter(|_| !matches!(act, Act::Restart)) {
            machine.world.fail_once_at(call);
            machine.hurt = true;
        }
        let context = |error: TestCaseError| TestCaseError::fail(format!("{n} {act:?}: {error}"));
        machine.act(act, n as u8 + 1).await.map_err(context)?;
        machine.check().await.map_err(context)?;
    }
    machine.restart().await;
    machine.check().await?;
    for path in PATHS {
        let done = machine.write(path, 255, 70_000, (false, true)).await;
        machine.became(path, BTreeSet::from([Some(vec![(255, 70_000)])]), done)?;
    }
    machine.check().await
}

#[test]
fn a_call_to_the_store_that_fails_loses_nothing_else() {
    for format in FORMATS {
        let config = Config {
            cases: CASES,
            max_shrink_iters: 1000,
            failure_persistence: None,
            ..Config::default()
        };
        let failing = prop_oneof![3 => Just(None), 1 => (0..25_u64).prop_map(Some)];
        let steps = proptest::collection::vec((act(), failing), 1..25);
        let result = TestRunner::new(config).run(&steps, |steps| {
            let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(run(format, &steps))
        });
        if let Err(failure) = result {
            panic!("{failure}");
        }
    }
}
