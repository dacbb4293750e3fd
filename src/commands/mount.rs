//! `hypermount mount`: in the foreground, or by starting itself again in the background.

use std::path::Path;
use std::process;

use drivefs::MountOptions;
use serde_json::json;

use super::{Ending, print_json, runtime};
use crate::background;
use crate::cli::Mount;
use crate::config;
use crate::failure::{Context, Failure, Result};
use crate::record::{self, Record};
use crate::session::Session;
use crate::target::Target;
use crate::terminal::{self, escaped};

pub fn run(args: &Mount, detached: bool) -> Result {
    let mountpoint = record::absolute(&args.mountpoint)
        .context(|| format!("mount on {}", args.mountpoint.display()))?;
    let state = config::state_directory()?;
    if args.foreground {
        return runtime()?
            .block_on(hold(args, &mountpoint, &state, |record| announce(args, record)));
    }
    if detached {
        background::detach()?;
        let held = hold(args, &mountpoint, &state, background::report_ready);
        // Once it was reported ready this goes to the log, where stdout now leads.
        return runtime()?.block_on(held).inspect_err(|failure| {
            let _ = background::report_failure(failure);
        });
    }
    check(args, &mountpoint)?;
    let log = record::log_path(&state, &mountpoint)?;
    let limit = if args.source.peers.is_empty() {
        Some(Default::default())
    } else {
        args.source.limit().limit()
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
    let metadata =
        mountpoint.metadata().context(|| format!("mount on {}", mountpoint.display()))?;
    if !metadata.is_dir() {
        return Err(Failure::failed(
            format!("mount on {}", mountpoint.display()),
            "it is not a directory",
        ));
    }
    Ok(())
}

/// Mounts, says so, and holds the mount until it is unmounted or the process is told to end.
async fn hold(
    args: &Mount,
    mountpoint: &Path,
    state: &Path,
    ready: impl FnOnce(&Record) -> Result,
) -> Result {
    check(args, mountpoint)?;
    let mut ending = Ending::new()?;
    let session = tokio::select! {
        session = Session::open(&args.target, &args.source) => session?,
        () = ending.wait() => return Ok(()),
    };
    let record = Record {
        pid: process::id(),
        mountpoint: mountpoint.to_owned(),
        url: session.url(),
        version: session.drive.snapshot().version(),
        writable: session.drive.writable() && !args.read_only,
        log: if args.foreground { None } else { Some(record::log_path(state, mountpoint)?) },
    };
    let _held = record.hold(state)?;
    let options = MountOptions {
        read_only: args.read_only,
        allow_other: args.allow_other,
        wait: session.wait,
        ..MountOptions::default()
    };
    let mount = drivefs::Mount::new(&session.store, &session.drive, mountpoint, options)
        .await
        .context(|| format!("mount on {}", mountpoint.display()))?;
    ready(&record)?;
    tokio::select! {
        () = mount.ended() => (),
        () = ending.wait() => (),
    }
    let ended = mount.unmount().await.context(|| format!("unmount {}", mountpoint.display()));
    if let Some(network) = &session.network {
        eprintln!("{}: {}", record.url, network.traffic());
    }
    ended
}

/// Says that the mount is usable: with `--json` as data, else in words.
fn announce(args: &Mount, record: &Record) -> Result {
    if args.json {
        return print_json(&json!({
            "url": record.url,
            "version": record.version,
            "writable": record.writable,
            "mountpoint": record.mountpoint,
            "pid": record.pid,
            "log": record.log,
        }));
    }
    let access = if record.writable { "" } else { ", read-only" };
    let line = format!(
        "mounted {} on {} (version {}{access})",
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
