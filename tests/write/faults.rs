//! The mounting process is killed, or its disk full, at every call that changes its store: cores,
//! scratch files, their records, the store's marks. (Power cuts: `drive/drive/hyperdrive/crash_tests.rs`.)

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::IntoRawFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::common::living::{Mounted, Running, finish, hypermount, shell, succeed};
use crate::own::{FORMATS, alone, can_mount, tree};

type Step = fn(&Path) -> io::Result<()>;

/// Every step may be done again after it failed.
const STEPS: [Step; 8] = [
    |at| store(&at.join("new"), true, 0, &[3; 150_000]),
    // At the end: only the new bytes are appended.
    |at| store(&at.join("a"), false, 200_000, &[4; 70_000]),
    |at| fs::rename(at.join("a"), at.join("renamed")),
    |at| {
        File::options().write(true).open(at.join("b")).and_then(|file| {
            file.set_len(10_000)?;
            close(file)
        })
    },
    |at| fs::rename(at.join("dir"), at.join("moved")),
    |at| {
        let file = File::options().write(true).open(at.join("b"))?;
        file.write_all_at(&[5; 1000], 5000)?;
        file.sync_all()?;
        close(file)
    },
    |at| fs::rename(at.join("new"), at.join("b")),
    |at| fs::remove_file(at.join("moved/c")),
];

fn store(path: &Path, create: bool, offset: u64, bytes: &[u8]) -> io::Result<()> {
    let file = OpenOptions::new().write(true).create(create).truncate(false).open(path)?;
    file.write_all_at(bytes, offset)?;
    close(file)
}

/// Closes a file and returns the result, which dropping the file does not.
fn close(file: File) -> io::Result<()> {
    Ok(nix::unistd::close(file.into_raw_fd())?)
}

fn prepare(at: &Path) {
    fs::write(at.join("a"), vec![1; 200_000]).expect("writes");
    fs::write(at.join("b"), vec![2; 30_000]).expect("writes");
    fs::create_dir(at.join("dir")).expect("makes");
    fs::write(at.join("dir/c"), vec![6; 70_000]).expect("writes");
    fs::write(at.join("dir/d"), "d").expect("writes");
}

/// A store that can be put back as it was, in its place: elsewhere it would be a copy.
pub(crate) struct Stage {
    directory: tempfile::TempDir,
    library: PathBuf,
}

impl Stage {
    pub(crate) fn new(format: &str) -> Option<Self> {
        let directory = tempfile::tempdir().expect("a directory");
        let library = directory.path().join("faults.so");
        let source = crate::common::living::root().join("tests/write/faults.c");
        let mut compile = Command::new("cc");
        compile.args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(source).arg("-ldl");
        if !compile.output().is_ok_and(|output| output.status.success()) {
            eprintln!("SKIPPED: no C compiler to make a failing disk with");
            return None;
        }
        let stage = Self { directory, library };
        for name in ["mnt", "then"] {
            fs::create_dir(stage.path(name)).expect("makes");
        }
        let store = stage.path("now/store");
        succeed(
            stage.command().args(["create", "notes", "--format", format, "--store"]).arg(&store),
        );
        let mounted = stage.mount(&mut stage.command());
        prepare(&stage.path("mnt"));
        succeed(stage.command().arg("unmount").arg(stage.path("mnt")));
        drop(mounted);
        shell(&format!("cp -a '{}/now/.' '{}'", stage.at(), stage.path("then").display()));
        Some(stage)
    }

    fn at(&self) -> std::path::Display<'_> {
        self.directory.path().display()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn command(&self) -> Command {
        let mut command = hypermount();
        command.env("XDG_STATE_HOME", self.path("now/state")).env("RUST_LOG", "off");
        command
    }

    fn put_back(&self) {
        shell(&format!(
            "cd '{}'; find now/store now/state -mindepth 1 -delete; \
             cp -a then/store/. now/store/; cp -a then/state/. now/state/",
            self.at()
        ));
    }

    /// A command whose storage fails, or waits, at a call (`faults.c`).
    pub(crate) fn failing(&self, how: &str, call: usize) -> Command {
        let _ = fs::remove_file(self.path("reached"));
        let mut command = self.command();
        command
            .env("LD_PRELOAD", &self.library)
            .env("FAULT", how)
            .env("FAULT_AT", call.to_string())
            .env("FAULT_ROOT", self.path("now/store"))
            .env("FAULT_REACHED", self.path("reached"));
        command
    }

    fn start(&self, command: &mut Command) -> Running {
        let arguments = ["mount", "--foreground", "--store"];
        command.args(arguments).arg(self.path("now/store")).arg("notes").arg(self.path("mnt"));
        Running::start(command.stderr(Stdio::null()))
    }

    pub(crate) fn mount(&self, command: &mut Command) -> Mounted {
        let mut process = self.start(command);
        process.line();
        Mounted { process, at: self.path("mnt") }
    }

    /// The content of the store, read without the mount that failed.
    pub(crate) fn stored(&self) -> BTreeMap<String, String> {
        let out = self.path("out");
        let _ = fs::remove_dir_all(&out);
        let mut export = self.command();
        succeed(
            export.args(["export", "notes"]).arg(&out).arg("--store").arg(self.path("now/store")),
        );
        tree(&out, false)
    }

    fn goes_on(&self, when: &str) {
        let more = self.path("more");
        fs::create_dir_all(&more).expect("makes");
        fs::write(more.join("later"), when).expect("writes");
        let mut import = self.command();
        import.arg("import").arg(&more).args(["notes", "--store"]).arg(self.path("now/store"));
        succeed(&mut import);
        assert!(self.stored().contains_key("later"), "{when}");
    }
}

/// The plain directory before each step, and at the end.
fn states() -> Vec<BTreeMap<String, String>> {
    let plain = tempfile::tempdir().expect("a directory");
    prepare(plain.path());
    let mut states = vec![tree(plain.path(), false)];
    for step in STEPS {
        step(plain.path()).expect("a plain directory takes it");
        states.push(tree(plain.path(), false));
    }
    states
}

/// Sentence 48. "After kill -9 every file has its content from before or from after the interrupted
/// change, and every file whose close(2) returned 0 has its new content."
#[test]
fn killed_at_every_call() {
    if !alone("faults::killed_at_every_call") {
        return;
    }
    for format in FORMATS {
        let Some(stage) = can_mount().then(|| Stage::new(format)).flatten() else { return };
        let states = states();
        for call in 0.. {
            stage.put_back();
            let mut command = stage.failing("kill", call);
            let process = stage.start(&mut command);
            let (mut mounted, mut done) = (Mounted { process, at: stage.path("mnt") }, 0);
            // A process that was killed before it was ready prints nothing.
            if mounted.process.ready() {
                done = STEPS.iter().take_while(|step| step(&mounted.at).is_ok()).count();
                let _ = finish(stage.command().arg("unmount").arg(&mounted.at));
            }
            mounted.process.wait();
            drop(mounted);
            let (when, found) = (format!("call {call}, after {done} steps"), stage.stored());
            let next = states.len().min(done + 2);
            assert!(states[done..next].contains(&found), "{when}: {found:#?}");
            stage.goes_on(&when);
            if !stage.path("reached").exists() {
                assert_eq!(done, STEPS.len(), "{when}");
                assert!(call > 50, "there was something to interrupt: {call}");
                eprintln!("killed at {call} calls");
                break;
            }
        }
    }
}

/// Sentence 52. "A full disk fails the call with ENOSPC and has no other effect."
#[test]
fn full_once_at_every_call() {
    if !alone("faults::full_once_at_every_call") {
        return;
    }
    for format in FORMATS {
        let Some(stage) = can_mount().then(|| Stage::new(format)).flatten() else { return };
        let states = states();
        let mut refused = 0;
        for call in 0.. {
            stage.put_back();
            let mut process = stage.start(&mut stage.failing("full", call));
            let when = format!("call {call}");
            if process.ready() {
                let mounted = Mounted { process, at: stage.path("mnt") };
                for (step, after) in STEPS.iter().zip(&states[1..]) {
                    if let Err(error) = step(&mounted.at) {
                        assert_eq!(error.raw_os_error(), Some(libc::ENOSPC), "{when}");
                        refused += 1;
                        step(&mounted.at).unwrap_or_else(|error| panic!("{when}, again: {error}"));
                    }
                    assert_eq!(tree(&mounted.at, false), *after, "{when}");
                }
                let _ = finish(stage.command().arg("unmount").arg(&mounted.at));
                let mut mounted = mounted;
                mounted.process.wait();
                assert_eq!(Some(&stage.stored()), states.last(), "{when}");
                let left = hypermount_drive::scratch::leftovers(&stage.path("now/store/scratch"));
                assert!(left.expect("lists").is_empty(), "{when}");
            } else {
                process.wait();
                assert_eq!(stage.stored(), states[0], "{when}: it did not even start");
            }
            stage.goes_on(&when);
            if !stage.path("reached").exists() {
                assert!(refused > 20, "{refused} calls failed");
                eprintln!("{refused} steps were refused at {call} calls");
                break;
            }
        }
    }
}
