//! Child processes: started with a log, awaited with a deadline, never left behind.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

/// How long a service may take to end by itself.
const PATIENCE: Duration = Duration::from_secs(10);

/// The log file that child processes write their errors to.
pub struct Logs {
    path: PathBuf,
}

impl Logs {
    pub fn new(path: PathBuf) -> io::Result<Logs> {
        File::create(&path)?;
        Ok(Logs { path })
    }

    pub fn file(&self) -> io::Result<File> {
        OpenOptions::new().append(true).open(&self.path)
    }

    pub fn note(&self, line: &str) {
        // A log that cannot be written must not end a measurement.
        let _ = self.file().and_then(|mut file| writeln!(file, "--- {line}"));
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Runs a command to its end and returns its output.
pub fn run(command: &mut Command, logs: &Logs) -> io::Result<String> {
    logs.note(&format!("{command:?}"));
    let output = command.stdin(Stdio::null()).stderr(logs.file()?).output()?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        let program = command.get_program().to_string_lossy();
        Err(io::Error::other(format!(
            "{program} failed: {}, see {}",
            output.status,
            logs.path.display()
        )))
    }
}

/// A process that serves until it is signalled to end.
pub struct Service {
    child: Child,
    pub stdin: Option<ChildStdin>,
    lines: std::sync::mpsc::Receiver<String>,
    ended: bool,
}

/// Resources that a process has used so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    /// Largest resident size, bytes.
    pub peak: u64,
    /// User and system time, seconds.
    pub cpu: f64,
}

impl Service {
    pub fn start(command: &mut Command, logs: &Logs) -> io::Result<Service> {
        logs.note(&format!("{command:?}"));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(logs.file()?);
        let mut child = command.spawn().map_err(|error| {
            io::Error::new(error.kind(), format!("{}: {error}", command.get_program().display()))
        })?;
        let (sender, lines) = channel();
        if let Some(stdout) = child.stdout.take() {
            thread::spawn(move || {
                for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                    // No reader waits any more; keep the pipe empty nevertheless.
                    let _ = sender.send(line);
                }
            });
        }
        let stdin = child.stdin.take();
        Ok(Service { child, stdin, lines, ended: false })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The next line it prints.
    pub fn line(&self, limit: Duration) -> io::Result<String> {
        self.lines.recv_timeout(limit).map_err(|_| {
            io::Error::new(io::ErrorKind::TimedOut, "a child did not answer in time or ended")
        })
    }

    pub fn say(&self, line: &str) -> io::Result<()> {
        let mut stdin = self.stdin.as_ref().ok_or(io::ErrorKind::BrokenPipe)?;
        writeln!(stdin, "{line}")?;
        stdin.flush()
    }

    pub fn usage(&self) -> Usage {
        usage(self.pid()).unwrap_or_default()
    }

    /// Asks it to end, and ends it if it does not.
    pub fn end(&mut self) {
        if self.ended {
            return;
        }
        self.ended = true;
        signal(self.pid(), Signal::SIGTERM);
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            thread::sleep(Duration::from_millis(5));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.end();
    }
}

pub fn signal(pid: u32, signal: Signal) {
    if let Ok(pid) = i32::try_from(pid) {
        // It may have ended by itself.
        let _ = kill(Pid::from_raw(pid), signal);
    }
}

/// proc(5): VmHWM of status, fields 14 and 15 of stat.
fn usage(pid: u32) -> Option<Usage> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = peak.split_whitespace().next()?.parse().ok()?;
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field, a name in parentheses, may contain anything.
    let fields: Vec<&str> = stat.get(stat.rfind(')')? + 2..)?.split(' ').collect();
    let ticks = fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
    let per_second = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK).ok()??;
    Some(Usage { peak: kib * 1024, cpu: ticks as f64 / per_second as f64 })
}

/// The result of a command whose output was read until its end or a deadline.
pub struct Streamed {
    pub took: Duration,
    /// The deadline came first.
    pub cut: bool,
    pub succeeded: bool,
}

/// Runs a command and hands on its output, but no longer than the limit.
///
/// A command that was cut off may hang inside the kernel until its file system goes away; it is
/// killed, but not waited for.
pub fn stream(
    command: &mut Command,
    limit: Duration,
    logs: &Logs,
    mut output: impl FnMut(&[u8]),
) -> io::Result<Streamed> {
    logs.note(&format!("{command:?}"));
    command.env("LC_ALL", "C").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(logs.file()?);
    let started = Instant::now();
    let mut child = command.spawn()?;
    let mut stdout = child.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
    let mut buffer = vec![0; 256 << 10];
    loop {
        let left = limit.saturating_sub(started.elapsed());
        if left.is_zero() || !readable(&stdout, left)? {
            let _ = child.kill();
            // Reaped in the background: it may be stuck until the unmount.
            thread::spawn(move || child.wait());
            return Ok(Streamed { took: started.elapsed(), cut: true, succeeded: true });
        }
        match stdout.read(&mut buffer)? {
            0 => break,
            length => output(&buffer[..length]),
        }
    }
    let status = child.wait()?;
    Ok(Streamed { took: started.elapsed(), cut: false, succeeded: status.success() })
}

fn readable(file: &impl std::os::fd::AsFd, limit: Duration) -> io::Result<bool> {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    let mut set = [PollFd::new(file.as_fd(), PollFlags::POLLIN)];
    let milliseconds = limit.as_millis().clamp(1, 60_000) as u16;
    loop {
        match poll(&mut set, PollTimeout::from(milliseconds)) {
            Err(nix::errno::Errno::EINTR) => {}
            other => return Ok(other? > 0),
        }
    }
}

/// Kills a process when the time is up, so that no read can hang for ever: its mount then
/// answers that it is not connected.
pub struct Watchdog {
    _armed: std::sync::mpsc::Sender<()>,
}

impl Watchdog {
    pub fn arm(pid: Option<u32>, limit: Duration) -> Watchdog {
        let (armed, disarmed) = channel::<()>();
        if let Some(pid) = pid {
            thread::spawn(move || {
                let timeout = std::sync::mpsc::RecvTimeoutError::Timeout;
                if disarmed.recv_timeout(limit) == Err(timeout) {
                    signal(pid, Signal::SIGKILL);
                }
            });
        }
        Watchdog { _armed: armed }
    }
}
