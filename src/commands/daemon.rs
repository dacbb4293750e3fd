//! `hypermount daemon`.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use hyper::Method;
use serde_json::json;

use super::print_json;
use crate::cli::{Daemon, DaemonCommand, DaemonLogs, DaemonRun, DaemonStart, DaemonStatus};
use crate::client::{self, ANSWER_LIMIT};
use crate::daemon::{self, Options};
use crate::directories;
use crate::failure::{Code, Context, Failure, Result};
use crate::launch;
use crate::model::Done;
use crate::path_text;
use crate::presence::{self, Presence, Sight};
use crate::process::runtime;
use crate::terminal;

/// How long a daemon gets to unmount everything and end.
const STOP_LIMIT: Duration = Duration::from_secs(60);
/// Pause between two checks whether it has ended, or whether a log has grown.
const POLL: Duration = Duration::from_millis(50);
/// Bytes of a log that are copied at once.
const CHUNK: usize = 64 * 1024;

pub fn run(args: &Daemon, detached: bool) -> Result {
    match &args.command {
        DaemonCommand::Start(args) => start(args),
        DaemonCommand::Stop(args) => stop(&directories::store(args.store.as_deref())?),
        DaemonCommand::Status(args) => status(args),
        DaemonCommand::Logs(args) => logs(args),
        DaemonCommand::Run(args) => serve(args, detached),
    }
}

fn serve(args: &DaemonRun, detached: bool) -> Result {
    let options = Options {
        store: directories::store(args.store.as_deref())?,
        create: args.create,
        keep: !args.while_needed,
        detached,
    };
    if !detached {
        return daemon::run(&options);
    }
    launch::detach()?;
    // After the report that the daemon is ready, stdout leads to the log, and so does a later failure.
    daemon::run(&options).inspect_err(|failure| {
        let _ = launch::report_failure(failure);
    })
}

fn start(args: &DaemonStart) -> Result {
    let store = directories::store(args.store.as_deref())?;
    let runtime = runtime()?;
    let deadline = Instant::now() + STOP_LIMIT;
    let presence = loop {
        let Some(client) = runtime.block_on(client::find(&store))? else {
            break launch::start_daemon(&store, true, true)?;
        };
        let keep = client.ask::<Done>(Method::POST, "/keep", &(), Some(ANSWER_LIMIT));
        match runtime.block_on(keep) {
            Ok(_) => break client.presence,
            // The daemon that was found is ending, or was killed.
            Err(failure) if failure.code() == Code::Locked && Instant::now() < deadline => {
                thread::sleep(POLL);
            }
            Err(failure) => return Err(failure),
        }
    };
    if args.json {
        return print_json(&described(&store, &presence)?);
    }
    eprintln!("the daemon runs (pid {}) at {}", presence.pid, presence.socket.display());
    Ok(())
}

fn described(store: &Path, presence: &Presence) -> Result<serde_json::Value> {
    Ok(json!({
        "pid": presence.pid,
        "socket": path_text::encode(&presence.socket),
        "version": presence.version,
        "store": path_text::encode(store),
        "log": path_text::encode(&presence::log_path(store)?),
    }))
}

/// Works with a daemon of any version: its answer is ignored, and if the request fails it is sent
/// SIGTERM.
fn stop(store: &Path) -> Result {
    let Sight::Present(presence) = Presence::of(store) else {
        eprintln!("no daemon runs for {}", store.display());
        return Ok(());
    };
    let runtime = runtime()?;
    let asked = runtime.block_on(async {
        let Some(client) = client::find(store).await? else { return Ok(()) };
        client.ask::<Done>(Method::POST, "/shutdown", &(), Some(ANSWER_LIMIT)).await.map(drop)
    });
    if let Err(failure) = asked {
        log::info!("{}", failure.sentence());
        let pid = i32::try_from(presence.pid).unwrap_or(0);
        // No other process can have this id: the lock on the presence file is still held.
        if pid > 0 && Presence::of(store) == Sight::Present(presence.clone()) {
            let pid = nix::unistd::Pid::from_raw(pid);
            let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
        }
    }
    let deadline = Instant::now() + STOP_LIMIT;
    while Presence::of(store) != Sight::Absent {
        if Instant::now() >= deadline {
            let what = format!("stop the daemon (pid {})", presence.pid);
            return Err(Failure::failed(what, format!("it has not ended in {STOP_LIMIT:?}")));
        }
        thread::sleep(POLL);
    }
    Ok(())
}

fn status(args: &DaemonStatus) -> Result {
    let store = directories::store(args.store.as_deref())?;
    let Sight::Present(presence) = Presence::of(&store) else {
        return Err(Failure::failed("daemon", format!("none runs for {}", store.display()))
            .hint("start it: hypermount daemon start"));
    };
    if args.json {
        return print_json(&described(&store, &presence)?);
    }
    let lines = format!(
        "pid:     {}\nversion: {}\nsocket:  {}\nlog:     {}",
        presence.pid,
        presence.version,
        presence.socket.display(),
        presence::log_path(&store)?.display()
    );
    terminal::print_line(&lines).context(|| "print")
}

fn logs(args: &DaemonLogs) -> Result {
    let store = directories::store(args.store.as_deref())?;
    let path: PathBuf = presence::log_path(&store)?;
    let what = || format!("read {}", path.display());
    let mut log = File::open(&path).context(what)?;
    let mut buffer = vec![0; CHUNK];
    loop {
        let count = log.read(&mut buffer).context(what)?;
        terminal::print(buffer.get(..count).unwrap_or_default()).context(|| "print")?;
        if count > 0 {
            continue;
        }
        if !args.follow {
            return Ok(());
        }
        thread::sleep(POLL);
    }
}
