//! Code that the integration tests share: processes that always end, mounts that are always
//! removed, and the reference implementation as a living peer.
#![allow(dead_code)] // each test binary uses its own part

use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Output, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use serde_json::Value;

/// Longest any single step of a test may take before the test fails instead of hanging.
pub const PATIENCE: Duration = Duration::from_secs(300);

pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

pub fn binary() -> &'static str {
    env!("CARGO_BIN_EXE_hypermount")
}

thread_local! {
    /// Removed when the thread of the test ends.
    static OF_THE_TEST: tempfile::TempDir = tempfile::tempdir().expect("temporary directory");
}

/// The command with a state directory of the running test: a copy of a store in one test must not
/// make the copy of another test suspect. Looks for no peers unless the test asks for it.
pub fn hypermount() -> Command {
    let mut command = Command::new(binary());
    OF_THE_TEST.with(|directory| command.env("XDG_STATE_HOME", directory.path()));
    command.env("HYPERMOUNT_NETWORK", "off");
    command
}

/// A copy of the golden drive, for tests that open a store: the original stays untouched.
pub fn copy_of_drive_small(to: &Path) {
    copy_tree(&root().join("tests/vectors/drive-small"), to);
}

pub fn copy_tree(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("create directory");
    for entry in std::fs::read_dir(from).expect("read directory") {
        let entry = entry.expect("directory entry");
        let target = to.join(entry.file_name());
        if entry.file_type().expect("file type").is_dir() {
            copy_tree(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), &target).expect("copy file");
        }
    }
}

/// Runs a command to its end; panics with its output unless it succeeds.
pub fn succeed(command: &mut Command) -> String {
    let output = finish(command);
    assert!(
        output.status.success(),
        "{command:?} failed with {}:\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub fn finish(command: &mut Command) -> Output {
    command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

pub fn shell(script: &str) -> String {
    succeed(Command::new("bash").args(["-euo", "pipefail", "-c", script]))
}

/// A child process that prints a line when it is ready and is ended by dropping it.
pub struct Running {
    pub child: Child,
    lines: mpsc::Receiver<String>,
    stdin: Option<ChildStdin>,
    what: String,
    _temporary: Option<tempfile::TempDir>,
}

impl Running {
    pub fn start(command: &mut Command) -> Self {
        Self::start_in(command, None)
    }

    /// Starts it with a directory for its temporary files, which is removed after it has ended: it may be killed
    /// before it removes them.
    fn start_in(command: &mut Command, temporary: Option<tempfile::TempDir>) -> Self {
        if let Some(directory) = &temporary {
            command.env("TMPDIR", directory.path());
        }
        let what = format!("{command:?}");
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{what}: {error}"));
        let stdin = child.stdin.take();
        let lines = read_lines(child.stdout.take().expect("stdout is piped"));
        Self { child, lines, stdin, what, _temporary: temporary }
    }

    /// The next line of its stdout.
    pub fn line(&mut self) -> String {
        self.lines.recv_timeout(PATIENCE).unwrap_or_else(|error| {
            let status = self.child.try_wait();
            panic!("no line from {}: {error} ({status:?})", self.what)
        })
    }

    /// Whether it prints a line before it ends.
    pub fn ready(&mut self) -> bool {
        match self.lines.recv_timeout(PATIENCE) {
            Ok(_) => true,
            Err(mpsc::RecvTimeoutError::Disconnected) => false,
            Err(error) => panic!("{}: {error}", self.what),
        }
    }

    pub fn json(&mut self) -> Value {
        let line = self.line();
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{line}: {error}"))
    }

    /// Sends one JSON command and returns the answer.
    pub fn ask(&mut self, command: Value) -> Value {
        let stdin = self.stdin.as_mut().expect("stdin is piped");
        writeln!(stdin, "{command}").expect("it reads its stdin");
        let answer = self.json();
        assert!(answer.get("error").is_none(), "{command}: {answer}");
        answer
    }

    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    pub fn signal(&self, signal: nix::sys::signal::Signal) {
        let pid = nix::unistd::Pid::from_raw(self.pid());
        nix::sys::signal::kill(pid, signal).expect("it is running");
    }

    /// Waits for it to end by itself.
    pub fn wait(&mut self) -> std::process::ExitStatus {
        drop(self.stdin.take());
        self.child.wait().expect("it was started")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.stdin.take());
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn read_lines(stdout: ChildStdout) -> mpsc::Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    receiver
}

/// A program of `tests/reference`, run by Node.
pub fn reference(program: &str, arguments: &[&str]) -> Running {
    let temporary = tempfile::tempdir().expect("a temporary directory");
    Running::start_in(&mut reference_command(program, arguments), Some(temporary))
}

pub fn reference_command(program: &str, arguments: &[&str]) -> Command {
    let directory = root().join("tests/reference");
    // Node would find the packages of the directory above, which are of another generation.
    let package = match program.starts_with("modern/") {
        true => directory.join("modern"),
        false => directory.clone(),
    };
    assert!(
        package.join("node_modules/hyperdrive").exists(),
        "the reference peers are not installed: run scripts/test, or npm install in {}",
        package.display()
    );
    let mut command = Command::new("node");
    // A peer that is killed cannot remove its temporary files.
    OF_THE_TEST.with(|directory| command.env("TMPDIR", directory.path()));
    command.arg(directory.join(program)).args(arguments);
    command
}

/// `hypermount serve` for one store.
pub struct Server {
    pub process: Running,
    pub address: String,
}

pub fn serve(store: &Path) -> Server {
    let mut process = Running::start(
        hypermount().args(["serve", "--json", "--listen", "127.0.0.1:0", "--store"]).arg(store),
    );
    let address = process.json()["address"].as_str().expect("an address").to_owned();
    Server { process, address }
}

impl Server {
    /// Ends it. Returns the number of bytes that it had sent.
    pub fn sent(&mut self) -> u64 {
        self.process.signal(nix::sys::signal::Signal::SIGTERM);
        self.process.json()["sent"].as_u64().expect("a count")
    }
}

/// A kernel mount by the real binary, which is unmounted when this is dropped.
pub struct Mounted {
    pub process: Running,
    pub at: PathBuf,
}

impl Mounted {
    /// Mounts in the foreground and waits until the mount is usable.
    pub fn new(target: &str, at: &Path, options: &[&str]) -> Self {
        std::fs::create_dir_all(at).expect("create mount point");
        let mut process = Running::start(
            hypermount().args(["mount", "--foreground", target]).arg(at).args(options),
        );
        process.line();
        Self { process, at: at.to_owned() }
    }

    pub fn by_key(key: &str, at: &Path, store: &Path, peers: &[String]) -> Self {
        let mut options = vec!["--store".to_owned(), store.display().to_string()];
        for peer in peers {
            options.extend(["--peer".to_owned(), peer.clone()]);
        }
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        Self::new(&format!("hyper://{key}"), at, &options)
    }

    pub fn path(&self, relative: &str) -> PathBuf {
        self.at.join(relative)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Lazy, because that succeeds in every state of the mount.
        let _ = hypermount().args(["unmount", "--lazy"]).arg(&self.at).output();
        let _ = Command::new("umount").arg("-l").arg(&self.at).stderr(Stdio::null()).status();
    }
}

/// Calls `look` repeatedly until it returns a value; the test fails after [`PATIENCE`].
pub fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = std::time::Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(std::time::Instant::now() < deadline, "never happened: {what}");
        std::thread::park_timeout(Duration::from_millis(10));
    }
}

pub fn read_at(path: &Path, offset: u64, length: usize) -> Vec<u8> {
    use std::os::unix::fs::FileExt;
    let file = std::fs::File::open(path).unwrap_or_else(|error| panic!("{path:?}: {error}"));
    let mut bytes = vec![0; length];
    file.read_exact_at(&mut bytes, offset).unwrap_or_else(|error| panic!("{path:?}: {error}"));
    bytes
}

pub fn read(path: &Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    std::fs::File::open(path)
        .and_then(|mut file| file.read_to_end(&mut bytes))
        .unwrap_or_else(|error| panic!("{path:?}: {error}"));
    bytes
}
