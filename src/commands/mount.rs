//! `hypermount mount`: by the daemon of the store, or, in the foreground, by this process alone.

use std::path::Path;
use std::process;
use std::time::Duration;

use drivefs::MountOptions;
use hyper::Method;
use serde_json::json;
use tokio::runtime::Handle;

use super::{Ending, print_json, runtime};
use crate::cli::Mount;
use crate::client;
use crate::config;
use crate::daemon::model::{MountInfo, MountRequest};
use crate::failure::{Code, Context, Failure, Result};
use crate::mounting::{cannot_mount, check_mountpoint, patience};
use crate::reach::Wanted;
use crate::record::{self, Record};
use crate::session::{self, Session, reaches_peers};
use crate::target::Target;
use crate::terminal::{self, escaped};

/// How long tasks get to end after the mount has; they hold the store until then.
const SHUTDOWN_LIMIT: Duration = Duration::from_secs(5);
/// What the daemon gets on top of the user's own limit: for the kernel's mount.
const GRACE: Duration = Duration::from_secs(30);
/// How often a daemon that ends just then is replaced by another.
const ATTEMPTS: usize = 5;

pub fn run(args: &Mount) -> Result {
    let mountpoint = record::absolute(&args.mountpoint)
        .context(|| format!("mount on {}", args.mountpoint.display()))?;
    if args.foreground {
        return hold(args, &mountpoint);
    }
    check(args, &mountpoint)?;
    let spinner = terminal::spinner(format!("mounting {}", args.target));
    let mounted = runtime()?.block_on(by_daemon(args, &mountpoint));
    spinner.finish_and_clear();
    announce(args, &mounted?)
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
    check_mountpoint(mountpoint)
}

/// Has the store's daemon mount, which is started if there is none.
async fn by_daemon(args: &Mount, mountpoint: &Path) -> Result<MountInfo> {
    let wanted = Wanted::of_target(&args.target, &args.source)?;
    let create = session::may_create(&args.target, &args.source)?;
    session::check_store(&args.target, &wanted.store, create)?;
    let asked = MountRequest {
        drive: wanted.drive,
        mountpoint: mountpoint.to_owned(),
        peers: args.source.peers.clone(),
        find: session::find(&args.target, &args.source)?,
        wait: args.source.wait.map(|wait| wait.to_string()),
        listen: args.listen.map(|address| address.to_string()),
        read_only: args.read_only,
        allow_other: args.allow_other,
        save: args.save,
    };
    let limit = match reaches_peers(&args.target, &args.source)? {
        false => Some(GRACE),
        true => args.source.limit().limit().map(|limit| limit + GRACE),
    };
    let mut attempt = 1;
    loop {
        let client = client::find_or_start(&wanted.store, create).await?;
        match client.ask(Method::POST, "/mounts", &asked, limit).await {
            // It had nothing left to do just when it was asked.
            Err(failure) if failure.code() == Code::Locked && attempt < ATTEMPTS => attempt += 1,
            answer => return answer,
        }
    }
}

/// Mounts, says so, and holds the mount until it is unmounted or the process is told to end. The
/// record goes last: who sees it gone finds the store free.
fn hold(args: &Mount, mountpoint: &Path) -> Result {
    let mut held = None;
    let runtime = runtime()?;
    let result = runtime.block_on(serve(args, mountpoint, &mut held));
    runtime.shutdown_timeout(SHUTDOWN_LIMIT);
    drop(held);
    result
}

async fn serve(args: &Mount, mountpoint: &Path, held: &mut Option<record::Held>) -> Result {
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
        store: session.directory.clone(),
        version: session.drive.snapshot().version(),
        read_only: args.read_only || !session.drive.writable(),
        address,
        log: None,
    };
    *held = Some(record.hold(&config::state_directory()?)?);
    let options = MountOptions {
        allow_other: args.allow_other,
        patience: patience(args.source.wait, reaches_peers(&args.target, &args.source)?),
        read_only: args.read_only,
        ..MountOptions::default()
    };
    let (store, drive) = (session.store.clone(), session.drive.clone());
    let mount = drivefs::Mount::start(drive, store, mountpoint, options, Handle::current())
        .map_err(cannot_mount)?;
    let told = announce(args, &told_of(&record));
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

/// What a mount that is just made has to be told of.
fn told_of(record: &Record) -> MountInfo {
    MountInfo {
        url: record.url.clone(),
        name: None,
        mountpoint: record.mountpoint.clone(),
        version: record.version,
        read_only: record.read_only,
        address: record.address.map(|address| address.to_string()),
        pid: record.pid,
        log: record.log.clone(),
        saved: false,
        waiting: 0,
        open: 0,
        failures: 0,
    }
}

/// Says that the mount is usable: with `--json` as data, else in words.
fn announce(args: &Mount, mounted: &MountInfo) -> Result {
    if args.json {
        return print_json(&json!({
            "url": mounted.url,
            "version": mounted.version,
            "read_only": mounted.read_only,
            "address": mounted.address,
            "mountpoint": mounted.mountpoint,
            "pid": mounted.pid,
            "log": mounted.log,
            "saved": mounted.saved,
        }));
    }
    let access = if mounted.read_only { ", read-only" } else { "" };
    let listening =
        mounted.address.as_ref().map_or(String::new(), |at| format!(", listening on {at}"));
    let line = format!(
        "mounted {} on {} (version {}{access}{listening})",
        mounted.url,
        escaped(&mounted.mountpoint.to_string_lossy()),
        mounted.version
    );
    if args.foreground {
        return terminal::print_line(&line).context(|| "print");
    }
    eprintln!("{line}");
    Ok(())
}
