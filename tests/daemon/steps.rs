//! Steps that the tests of the daemon share.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::common::{Home, LIMIT, Ran, Running, eventually};

/// Whether mounts can be made here; says so if not.
pub fn can_mount() -> bool {
    let able = Path::new("/dev/fuse").exists();
    if !able {
        eprintln!("SKIPPED: there is no /dev/fuse here");
    }
    able
}

pub fn json(ran: Ran) -> Value {
    let ran = ran.must_succeed();
    serde_json::from_str(&ran.stdout).unwrap_or_else(|error| panic!("{error}: {ran:?}"))
}

/// A drive made in the default store; its URL.
pub fn create(home: &Home, name: &str) -> String {
    home.run(["create", name]).must_succeed().stdout.trim().to_owned()
}

pub fn default_store(home: &Home) -> PathBuf {
    home.path("data/hypermount")
}

/// Whether a daemon has the store.
pub fn has_daemon(store: &Path) -> bool {
    store.join("hypermount.daemon").exists()
}

/// The presence record of the daemon of the default store.
pub fn presence(store: &Path) -> Value {
    let text = fs::read_to_string(store.join("hypermount.daemon")).expect("a daemon");
    serde_json::from_str(&text).expect("JSON")
}

pub fn socket(store: &Path) -> PathBuf {
    presence(store)["socket"].as_str().expect("a socket").into()
}

pub fn kill_daemon(store: &Path) {
    let pid = presence(store)["pid"].as_i64().expect("a pid");
    kill(Pid::from_raw(pid as i32), Signal::SIGKILL).expect("it runs");
    eventually("the daemon is gone", || !alive(pid));
}

/// Whether a process runs. One that has ended and was not waited for yet does not count.
pub fn alive(pid: i64) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit(") ").next().and_then(|rest| rest.chars().next());
    !matches!(state, None | Some('Z' | 'X'))
}

pub fn mounted_at(mountpoint: &Path) -> bool {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    table.lines().any(|line| line.contains(&format!(" {} ", mountpoint.display())))
}

/// An HTTP request over the socket, as any program may send it: status, headers, body.
pub fn http(socket: &Path, method: &str, path: &str, body: &str) -> (u16, String, String) {
    let mut stream = UnixStream::connect(socket).expect("it listens");
    stream.set_read_timeout(Some(LIMIT)).expect("a deadline");
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n\
         content-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    )
    .expect("it reads");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("it answers");
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status");
    (status, head.to_lowercase(), body.to_owned())
}

/// A process that answers peers for a store, as another machine would.
pub fn serve(home: &Home, store: &str) -> (Running, String) {
    let arguments = ["serve", "--store", store, "--listen", "127.0.0.1:0"];
    let serve = Running::start(home.command().args(arguments));
    let peer = serve.line();
    (serve, peer)
}

/// Bytes without short repetitions.
pub fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    std::iter::repeat_with(next).take(length).collect()
}

/// Runs a program by its name, to its end.
pub fn program(name: &str, arguments: &[&str]) -> std::process::Output {
    Command::new(name).args(arguments).output().unwrap_or_else(|error| panic!("{name}: {error}"))
}
