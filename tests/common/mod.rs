//! What tests of the command share: running it with directories of its own, and a copy of the
//! golden drive. Every wait has a deadline.
#![allow(dead_code)] // each test program uses its part

pub mod finders;
pub mod living;
pub mod namespaces;
pub mod small_disk;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use hypermount_drive::DriveFormat;
use hypermount_drive::testing::FORMATS;
use tempfile::TempDir;

/// Key of the drive in `tests/vectors/drive-small`.
pub const KEY: &str = "ce2a1c6efc95d1d33e5e2ee9ac00a1f06aa905f957bfd31988c6d30d793b3798";
/// Key of the drive in `tests/vectors/drive-small-11`, which has the same names and contents but for what its format
/// does not have, and as many versions.
pub const KEY_11: &str = "69ab24fd61b5e06fd95d866f227454b29ee4ef36795caed4832b124f835616c5";
/// A well-formed key of no drive.
pub const UNKNOWN_KEY: &str = "00000000000000000000000000000000000000000000000000000000000000aa";
/// How long anything here may take.
pub const LIMIT: Duration = Duration::from_secs(60);

/// A home of its own: nothing a test does touches the user's directories.
pub struct Home {
    pub directory: TempDir,
}

impl Home {
    pub fn new() -> Self {
        Self { directory: tempfile::tempdir().expect("a temporary directory") }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn make(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(&path).expect("make a directory");
        path
    }

    /// A private copy of the golden drive's store.
    pub fn golden_store(&self, name: &str) -> PathBuf {
        let to = self.path(name);
        copy_tree(
            Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vectors/drive-small")),
            &to,
        );
        to
    }

    /// A store with the golden drive of a format.
    pub fn golden_store_of(&self, format: DriveFormat, name: &str) -> PathBuf {
        if format == DriveFormat::Hyperdrive10 {
            return self.golden_store(name);
        }
        let to = self.make(name);
        let vector = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vectors/drive-small-11/cores");
        copy_tree(Path::new(vector), &to.join("cores"));
        let mut options = fs::OpenOptions::new();
        options.write(true).create_new(true).mode(0o600);
        let key = options.open(to.join("master_key")).expect("make a file");
        (&key).write_all(&[7; 32]).expect("write");
        to
    }

    /// The command, with this home, no colours and no log settings of the caller's.
    pub fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hypermount"));
        command
            .env("HOME", self.directory.path())
            .env("XDG_DATA_HOME", self.path("data"))
            .env("XDG_STATE_HOME", self.path("state"))
            .env("XDG_RUNTIME_DIR", self.path("run"))
            .env_remove("RUST_LOG")
            .env("HYPERMOUNT_NETWORK", "off")
            .env("NO_COLOR", "1")
            .current_dir(self.directory.path())
            .stdin(Stdio::null());
        command
    }

    /// Runs the command to its end, which must come within [`LIMIT`].
    pub fn run<const N: usize>(&self, arguments: [&str; N]) -> Ran {
        let mut command = self.command();
        command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = command.spawn().expect("start the command");
        let pid = child.id();
        let (sender, receiver) = mpsc::channel();
        thread::spawn(move || sender.send(child.wait_with_output()));
        match receiver.recv_timeout(LIMIT) {
            Ok(output) => Ran::new(output.expect("run the command")),
            Err(_) => panic!("{arguments:?} (process {pid}) did not end in {LIMIT:?}"),
        }
    }
}

/// Ends mounts and daemons in the directory: a mount whose process was killed stays in the kernel,
/// and a daemon may have been told to stay.
impl Drop for Home {
    fn drop(&mut self) {
        let entries = fs::read_dir(self.directory.path()).into_iter().flatten().flatten();
        let stores = entries.map(|entry| entry.path()).chain([self.path("data/hypermount")]);
        for store in stores.filter(|store| store.join("hypermount.daemon").exists()) {
            let _ = self.command().args(["daemon", "stop", "--store"]).arg(store).output();
        }
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let here = self.directory.path();
        for at in mounts.lines().filter_map(|line| line.split(' ').nth(1)).map(Path::new) {
            if at.starts_with(here) {
                let _ = Command::new("umount").arg("-l").arg(at).output();
            }
        }
    }
}

/// The key of the golden drive of a format.
pub fn key_of(format: DriveFormat) -> &'static str {
    match format {
        DriveFormat::Hyperdrive10 => KEY,
        DriveFormat::Hyperdrive11 => KEY_11,
    }
}

/// Runs a test on the golden drive of each format at once: most of its time it waits.
pub fn in_each_format(test: impl Fn(DriveFormat) + Sync) {
    thread::scope(|scope| {
        for format in FORMATS {
            let test = &test;
            scope.spawn(move || {
                eprintln!("{format}");
                test(format);
            });
        }
    });
}

/// The result of a command.
#[derive(Debug)]
pub struct Ran {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Ran {
    pub fn new(output: Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    #[track_caller]
    pub fn must_succeed(self) -> Self {
        assert_eq!(self.code, Some(0), "{self:?}");
        self
    }

    /// Fails with this code, an `error:` line that has `words`, and nothing on stdout.
    #[track_caller]
    pub fn must_fail(self, code: i32, words: &str) -> Self {
        assert_eq!(self.code, Some(code), "{self:?}");
        assert_eq!(self.stdout, "", "stdout is for data");
        let error = self.stderr.lines().find(|line| line.starts_with("error: "));
        assert!(error.is_some_and(|line| line.contains(words)), "{words:?} not in {self:?}");
        self
    }

    #[track_caller]
    pub fn hints(self, words: &str) -> Self {
        let hint = self.stderr.lines().find(|line| line.starts_with("hint: "));
        assert!(hint.is_some_and(|line| line.contains(words)), "{words:?} not in {self:?}");
        self
    }
}

/// A command that keeps running; ended with SIGTERM when dropped.
pub struct Running {
    pub child: Child,
    lines: mpsc::Receiver<String>,
}

impl Running {
    pub fn start(command: &mut Command) -> Self {
        let mut child =
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("start");
        let stdout = child.stdout.take().expect("stdout is piped");
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Self { child, lines }
    }

    /// The next line it prints.
    #[track_caller]
    pub fn line(&self) -> String {
        self.lines.recv_timeout(LIMIT).expect("a line in time")
    }

    pub fn signal(&self, signal: nix::sys::signal::Signal) {
        let pid = nix::unistd::Pid::from_raw(self.child.id() as i32);
        nix::sys::signal::kill(pid, signal).expect("our own child, not yet waited for");
    }

    /// Its exit code, once it has ended.
    #[track_caller]
    pub fn ended(&mut self) -> Option<i32> {
        let mut code = None;
        eventually("the command ends", || match self.child.try_wait() {
            Ok(Some(status)) => {
                code = status.code();
                true
            }
            _ => false,
        });
        code
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.signal(nix::sys::signal::Signal::SIGTERM);
            // A test that failed may have left it stopped.
            self.signal(nix::sys::signal::Signal::SIGCONT);
            let _ = self.child.wait();
        }
    }
}

/// Calls `true_now` repeatedly until it returns true, and panics at the deadline. The pause between
/// two calls spares the processor; no test depends on its length.
#[track_caller]
pub fn eventually(what: &str, mut true_now: impl FnMut() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !true_now() {
        assert!(Instant::now() < deadline, "not within {LIMIT:?}: {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

pub fn copy_tree(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("make a directory");
    for entry in fs::read_dir(from).expect("read a directory") {
        let entry = entry.expect("a directory entry");
        let target = to.join(entry.file_name());
        if entry.file_type().expect("its type").is_dir() {
            copy_tree(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).expect("copy a file");
        }
    }
}
