//! `hypermount mount`: in the foreground, or by starting itself again in the background.

use std::path::Path;
use std::process;
use std::time::Duration;

use drivefs::{MountError, MountOptions, Patience};
use serde_json::json;
use tokio::runtime::Handle;

use super::{Ending, print_json, runtime};
use crate::background;
use crate::cli::Mount;
use crate::config::{self, WaitLimit};
use crate::failure::{Context, Failure, Result};
use crate::record::{self, Record};
use crate::session::{Session, reaches_peers};
use crate::target::Target;
use crate::terminal::{self, escaped};

/// How long tasks get to end after the mount has; they hold the store until then.
const SHUTDOWN_LIMIT: Duration = Duration::from_secs(5);

pub fn run(args: &Mount, detached: bool) -> Result {
    let mountpoint = record::absolute(&args.mountpoint)
        .context(|| format!("mount on {}", args.mountpoint.display()))?;
    let state = config::state_directory()?;
    if args.foreground {
        return hold(args, &mountpoint, &state, |record| announce(args, record));
    }
    if detached {
        background::detach()?;
        // Once it was reported ready, a failure goes to the log, where stdout then leads.
        return hold(args, &mountpoint, &state, background::report_ready).inspect_err(|failure| {
            let _ = background::report_failure(failure);
        });
    }
    check(args, &mountpoint)?;
    let log = record::log_path(&state, &mountpoint)?;
    let limit = match reaches_peers(&args.target, &args.source)? {
        false => Some(Default::default()),
        true => args.source.limit().limit(),
    };
    let spinner = terminal::spinner(format!("mounting {}", args.target));
    let started = background::start(&log, limit);
    spinner.finish_and_clear();
    announce(args, &started?)
}

/// What can be known to be wrong without opening anything.
fn check(args: &Mount, mountpoint: &Path) -> Result {
    if let Target::Url(url) = &args.target
        && !url.path.is_root()
    {
        return Err(Failure::usage(&args.target, "a drive is mounted whole").hint(format!(
            "leave {} off the URL; it will be at {}{}",
            url.path,
            args.mountpoint.display(),
            url.path
        )));
    }
    let metadata = match mountpoint.metadata() {
        // What a killed process left behind; mounting replaces it.
        Err(error) if error.raw_os_error() == Some(libc::ENOTCONN) => return Ok(()),
        metadata => metadata.context(|| format!("mount on {}", mountpoint.display()))?,
    };
    if !metadata.is_dir() {
        return Err(Failure::failed(
            format!("mount on {}", mountpoint.display()),
            "it is not a directory",
        ));
    }
    Ok(())
}

/// Mounts, says so, and holds the mount until it is unmounted or the process is told to end. The
/// record goes last: who sees it gone finds the store free.
fn hold(
    args: &Mount,
    mountpoint: &Path,
    state: &Path,
    ready: impl FnOnce(&Record) -> Result,
) -> Result {
    let mut held = None;
    let runtime = runtime()?;
    let result = runtime.block_on(serve(args, mountpoint, state, &mut held, ready));
    runtime.shutdown_timeout(SHUTDOWN_LIMIT);
    drop(held);
    result
}

async fn serve(
    args: &Mount,
    mountpoint: &Path,
    state: &Path,
    held: &mut Option<record::Held>,
    ready: impl FnOnce(&Record) -> Result,
) -> Result {
    check(args, mountpoint)?;
    let mut ending = Ending::new()?;
    let mut session = tokio::select! {
        session = Session::open(&args.target, &args.source) => session?,
        () = ending.wait() => return Ok(()),
    };
    let address = match args.listen {
        Some(address) => Some(session.listen(address, &args.source).await?),
        None => None,
    };
    let record = Record {
        pid: process::id(),
        mountpoint: mountpoint.to_owned(),
        url: session.url(),
        version: session.drive.snapshot().version(),
        read_only: args.read_only || !session.drive.writable(),
        address,
        log: if args.foreground { None } else { Some(record::log_path(state, mountpoint)?) },
    };
    *held = Some(record.hold(state)?);
    let options = MountOptions {
        allow_other: args.allow_other,
        patience: patience(args, reaches_peers(&args.target, &args.source)?),
        read_only: args.read_only,
        ..MountOptions::default()
    };
    let (store, drive) = (session.store.clone(), session.drive.clone());
    let mount = drivefs::Mount::start(drive, store, mountpoint, options, Handle::current())
        .map_err(cannot_mount)?;
    let told = ready(&record);
    if told.is_ok() {
        tokio::select! {
            () = mount.wait_ended() => (),
            () = ending.wait() => (),
        }
    }
    mount.shutdown();
    if let Some(network) = &session.network {
        eprintln!("{}: {}", record.url, network.traffic());
        network.close();
    }
    told
}

/// Without a peer nothing is worth waiting for.
fn patience(args: &Mount, peers: bool) -> Patience {
    match args.source.wait {
        _ if !peers => Patience::Offline,
        None => Patience::default(),
        Some(WaitLimit::Forever) => Patience::Forever,
        Some(WaitLimit::Each(Duration::ZERO)) => Patience::Offline,
        Some(WaitLimit::Each(limit)) => Patience::Limited { names: limit, data: limit },
    }
}

fn cannot_mount(error: MountError) -> Failure {
    let hint = match &error {
        MountError::Missing { path } => Some(format!("mkdir {}", path.display())),
        MountError::NotEmpty { .. } => Some("mount on an empty directory".into()),
        MountError::AlreadyMounted { path, .. } => {
            Some(format!("hypermount unmount {}", path.display()))
        }
        _ => None,
    };
    let failure = Failure::failed("mount", error);
    match hint {
        Some(hint) => failure.hint(hint),
        None => failure,
    }
}

/// Says that the mount is usable: with `--json` as data, else in words.
fn announce(args: &Mount, record: &Record) -> Result {
    if args.json {
        return print_json(&json!({
            "url": record.url,
            "version": record.version,
            "read_only": record.read_only,
            "address": record.address,
            "mountpoint": record.mountpoint,
            "pid": record.pid,
            "log": record.log,
        }));
    }
    let access = if record.read_only { ", read-only" } else { "" };
    let listening = record.address.map_or(String::new(), |at| format!(", listening on {at}"));
    let line = format!(
        "mounted {} on {} (version {}{access}{listening})",
        record.url,
        escaped(&record.mountpoint.to_string_lossy()),
        record.version
    );
    if args.foreground {
        return terminal::print_line(&line).context(|| "print");
    }
    eprintln!("{line}");
    Ok(())
}
