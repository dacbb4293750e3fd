//! Starting a daemon in the background: the command starts itself again, detached, and waits until that
//! process reports on a pipe that it is ready or why it is not. After that it writes to a log file.
//!
//! A second process rather than fork(2): nothing of a running multi-threaded process has to survive.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::stat::{Mode, umask};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::failure::{Code, Context, Failure, Result};
use crate::presence::{self, Presence};
use crate::terminal;

/// The environment variables that a background process keeps: the user's directories, where mount
/// helpers are found, and what is logged. Other variables of the starting shell concern that shell.
const KEPT_VARIABLES: [&str; 8] = [
    "HOME",
    "PATH",
    "RUST_LOG",
    "TMPDIR",
    "XDG_CONFIG_HOME",
    "XDG_DATA_HOME",
    "XDG_RUNTIME_DIR",
    "XDG_STATE_HOME",
];
/// Limits that a background process does not take over from a shell: their soft values are raised to the
/// hard ones, which only root can raise. (The sizes of core dumps and stacks stay as they are.)
const LIMITS: [Resource; 5] = [
    Resource::RLIMIT_AS,
    Resource::RLIMIT_CPU,
    Resource::RLIMIT_DATA,
    Resource::RLIMIT_FSIZE,
    Resource::RLIMIT_NPROC,
];
/// How long a daemon that was started for a request waits for it, and how long its starter waits for the daemon.
pub const FIRST_REQUEST: Duration = Duration::from_secs(30);
/// A log larger than this, in bytes, is emptied at the next start.
const MAX_LOG_BYTES: u64 = 1024 * 1024;
/// Largest report, in bytes.
const MAX_REPORT_BYTES: u64 = 64 * 1024;
/// Time that the process gets in addition to the user's own limit, for starting and for the kernel's mount.
const GRACE: Duration = Duration::from_secs(30);

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Report<T> {
    Ready(T),
    Failed(Failure),
}

/// Starts a daemon for the store in the background; returns when it answers.
pub fn start_daemon(store: &Path, create: bool, keep: bool) -> Result<Presence> {
    let log = presence::log_path(store)?;
    let mut arguments: Vec<OsString> =
        vec!["daemon".into(), "run".into(), "--store".into(), store.into()];
    if create {
        arguments.push("--create".into());
    }
    if !keep {
        arguments.push("--while-needed".into());
    }
    start_process(&arguments, &log, Some(FIRST_REQUEST))
}

/// Starts this program with `arguments` in the background and waits for its report, at most `limit`
/// (`None`: forever) and a grace.
fn start_process<T: DeserializeOwned + Send>(
    arguments: &[OsString],
    log: &Path,
    limit: Option<Duration>,
) -> Result<T> {
    let stderr = open_log(log).context(|| format!("open the log {}", log.display()))?;
    let program = std::env::current_exe().context(|| "find this program")?;
    drivefs::set_close_on_exec();
    let mut child = Command::new(program)
        .arg("--detached")
        .args(arguments)
        .env_clear()
        .envs(KEPT_VARIABLES.iter().filter_map(|name| Some((name, std::env::var_os(name)?))))
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(stderr)
        .spawn()
        .context(|| "start in the background")?;
    let Some(pipe) = child.stdout.take() else {
        return Err(Failure::failed("start in the background", "no pipe"));
    };
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut line = String::new();
        let read = BufReader::new(pipe.take(MAX_REPORT_BYTES)).read_line(&mut line);
        // The receiver is gone only when it gave up waiting.
        let _ = sender.send(read.map(|_| line));
    });
    let line = match limit {
        Some(limit) => receiver.recv_timeout(limit + GRACE).ok(),
        None => receiver.recv().ok(),
    };
    let Some(line) = line else {
        return Err(give_up(child, log));
    };
    match line.ok().and_then(|line| serde_json::from_str(&line).ok()) {
        Some(Report::Ready(what)) => Ok(what),
        Some(Report::Failed(failure)) => Err(failure),
        None => Err(died(child, log)),
    }
}

fn give_up(mut child: Child, log: &Path) -> Failure {
    // Our own child, and not yet waited for, so no other process can have its id.
    let _ = child.kill();
    let _ = child.wait();
    Failure::new(Code::Unavailable, "start in the background", "it did not become ready in time")
        .hint(format!("see {}", log.display()))
}

fn died(mut child: Child, log: &Path) -> Failure {
    let why = match child.wait() {
        Ok(status) => format!("the process ended early ({status})"),
        Err(error) => error.to_string(),
    };
    Failure::failed("start in the background", why).hint(format!("see {}", log.display()))
}

fn open_log(path: &Path) -> io::Result<File> {
    let log =
        hypermount_core::private_files::open(path, OpenOptions::new().create(true).append(true))?;
    if log.metadata()?.len() > MAX_LOG_BYTES {
        log.set_len(0)?;
    }
    Ok(log)
}

/// In the background process, before anything else: leaves the terminal's session, sets the umask and
/// raises limits.
pub fn detach() -> Result {
    // Files that other users may read get their mode explicitly.
    umask(Mode::S_IRWXG | Mode::S_IRWXO);
    for limit in LIMITS {
        let raised = getrlimit(limit).and_then(|(_, hard)| setrlimit(limit, hard, hard));
        if let Err(errno) = raised {
            log::warn!("cannot raise {limit:?} to its hard limit: {errno}");
        }
    }
    nix::unistd::setsid().map(drop).map_err(io::Error::from).context(|| "leave the session")
}

/// In the background process: reports that it is ready, then closes the pipe.
pub fn report_ready(what: &impl Serialize) -> Result {
    send(&Report::Ready(what))?;
    let what = || "go to the background";
    nix::unistd::dup2_stdout(io::stderr()).map_err(io::Error::from).context(what)
}

/// In the background process: reports why it will not be ready.
pub fn report_failure(failure: &Failure) -> Result {
    send(&Report::<()>::Failed(failure.clone()))
}

fn send(report: &Report<impl Serialize>) -> Result {
    let what = || "report to the process that started this one";
    let line = serde_json::to_string(report).map_err(io::Error::other).context(what)?;
    terminal::print_line(&line).context(what)
}
