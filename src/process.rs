//! This process: its runtime, the signals that end it, and its limits.

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::failure::{Context, Result};

/// The most threads that run network and drive tasks.
const MAX_WORKERS: usize = 4;

/// Raises the soft limit of open files to the hard one. The usual soft limit of 1024 is for programs that
/// use select(2); drives and peers reach it soon.
pub fn allow_open_files() {
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < hard
    {
        // If that fails, fewer drives can be open at once.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}

/// The runtime of a command or a daemon.
pub fn runtime() -> Result<Runtime> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    Builder::new_multi_thread()
        .worker_threads(cores.min(MAX_WORKERS))
        .enable_all()
        .build()
        .context(|| "start the runtime")
}

/// What asks a process to end: SIGTERM, Ctrl-C, and the terminal going away.
pub struct Ending {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Ending {
    /// From here on those signals no longer end the process by themselves.
    pub fn new() -> Result<Self> {
        let on = |kind| signal(kind).context(|| "handle signals");
        Ok(Self {
            terminate: on(SignalKind::terminate())?,
            interrupt: on(SignalKind::interrupt())?,
            hangup: on(SignalKind::hangup())?,
        })
    }

    pub async fn wait(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => (),
            _ = self.interrupt.recv() => (),
            _ = self.hangup.recv() => (),
        }
    }
}
