//! `hypermount mount`: by the daemon of the store, or, in the foreground, by this process alone.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::Arc;
use std::time::Duration;

use drivefs::{MountOptions, RootLimits};
use hyper::Method;
use hypermount_drive::{DrivePath, DriveUrl};
use serde_json::json;
use tokio::runtime::Handle;

use super::{Ending, print_json, runtime};
use crate::cli::Mount;
use crate::client;
use crate::config;
use crate::daemon::model::{Find, MountInfo, MountRequest};
use crate::everything::Everything;
use crate::failure::{Code, Context, Failure, Result};
use crate::mounting::{cannot_mount, check_mountpoint, patience};
use crate::network::Network;
use crate::path_text;
use crate::reach::Wanted;
use crate::record::{self, Record};
use crate::session::{self, Session, reaches_peers};
use crate::target::Target;
use crate::terminal::{self, escaped};

/// Where all drives are mounted, in the home directory, if nobody says otherwise.
const ROOT: &str = "Hyperdrive";
/// How long tasks get to end after the mount has; they hold the store until then.
const SHUTDOWN_LIMIT: Duration = Duration::from_secs(5);
/// What the daemon gets on top of the user's own limit: for the kernel's mount.
const GRACE: Duration = Duration::from_secs(30);
/// How often a daemon that ends just then is replaced by another.
const ATTEMPTS: usize = 5;

pub fn run(args: &Mount) -> Result {
    let named = directory(args)?;
    let mountpoint =
        record::absolute(&named).context(|| format!("mount on {}", named.display()))?;
    if args.foreground {
        return hold(args, &mountpoint);
    }
    check(args, &mountpoint)?;
    let what = args.target.as_ref().map_or("all drives".to_owned(), ToString::to_string);
    let spinner = terminal::spinner(format!("mounting {what}"));
    let mounted = runtime()?.block_on(by_daemon(args, &mountpoint));
    spinner.finish_and_clear();
    announce(args, &mounted?)
}

/// The directory to mount on, as it was said. The one that nobody has to say is made.
fn directory(args: &Mount) -> Result<PathBuf> {
    match (&args.all, &args.mountpoint) {
        (Some(Some(directory)), _) | (None, Some(directory)) => Ok(directory.clone()),
        _ => {
            let directory = config::home()?.join(ROOT);
            // A mount that a killed process left there is another failure, and is replaced later.
            let there = fs::symlink_metadata(&directory);
            if there.is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
                config::private_directory(&directory)?;
            }
            Ok(directory)
        }
    }
}

/// What can be known to be wrong without opening anything.
fn check(args: &Mount, mountpoint: &Path) -> Result {
    if let Some(Target::Url(url)) = &args.target
        && !url.path.is_root()
    {
        let target = DriveUrl { path: DrivePath::root(), ..url.clone() };
        return Err(Failure::usage(&target, "a drive is mounted whole").hint(format!(
            "leave {} off the URL; it will be at {}{}",
            url.path,
            mountpoint.display(),
            url.path
        )));
    }
    check_mountpoint(mountpoint)
}

/// Has the store's daemon mount, which is started if there is none.
async fn by_daemon(args: &Mount, mountpoint: &Path) -> Result<MountInfo> {
    let source = &args.source;
    let (store, create, find, drive) = match &args.target {
        Some(target) => {
            let wanted = Wanted::of_target(target, source)?;
            let create = session::may_create(target, source)?;
            session::check_store(target, &wanted.store, create)?;
            (wanted.store, create, session::find(target, source)?, wanted.drive)
        }
        None => {
            let store = session::store_or_default(source.store.as_deref())?;
            (store, true, session::find_by_key(true, source)?, String::new())
        }
    };
    let asked = MountRequest {
        all: args.target.is_none(),
        drive,
        mountpoint: mountpoint.to_owned(),
        peers: source.peers.clone(),
        find,
        wait: source.wait.map(|wait| wait.to_string()),
        listen: args.listen.map(|address| address.to_string()),
        read_only: args.read_only,
        allow_other: args.allow_other,
        save: args.save,
    };
    let limit = match &args.target {
        Some(target) if reaches_peers(target, source)? => {
            source.limit().limit().map(|limit| limit + GRACE)
        }
        _ => Some(GRACE),
    };
    let mut attempt = 1;
    loop {
        let client = client::find_or_start(&store, create).await?;
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
    let start = async {
        match &args.target {
            Some(target) => start_one(args, target, mountpoint, held).await,
            None => start_all(args, mountpoint, held).await,
        }
    };
    let (mount, network, record) = tokio::select! {
        started = start => started?,
        () = ending.wait() => return Ok(()),
    };
    let told = announce(args, &told_of(&record));
    if told.is_ok() {
        tokio::select! {
            () = mount.wait_ended() => (),
            () = ending.wait() => (),
        }
    }
    mount.shutdown();
    if let Some(network) = &network {
        eprintln!("{}: {}", mountpoint.display(), network.traffic());
        network.close();
    }
    told
}

type Started = (drivefs::Mount, Option<Network>, Record);

async fn start_one(
    args: &Mount,
    target: &Target,
    mountpoint: &Path,
    held: &mut Option<record::Held>,
) -> Result<Started> {
    let mut session = Session::open(target, &args.source).await?;
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
    *held = Some(record.hold(&config::records_directory()?)?);
    let options = mount_options(args, reaches_peers(target, &args.source)?);
    let (store, drive) = (session.store.clone(), session.drive.clone());
    let mount = drivefs::Mount::start(drive, store, mountpoint, options, Handle::current())
        .map_err(cannot_mount)?;
    Ok((mount, session.network, record))
}

async fn start_all(
    args: &Mount,
    mountpoint: &Path,
    held: &mut Option<record::Held>,
) -> Result<Started> {
    let source = &args.source;
    let directory = session::store_or_default(source.store.as_deref())?;
    let store = session::open_at(&directory, true)?;
    let network = session::network(&store, source, true).await?;
    let record = Record {
        pid: process::id(),
        mountpoint: mountpoint.to_owned(),
        url: String::new(),
        store: directory,
        version: 0,
        read_only: args.read_only,
        address: None,
        log: None,
    };
    *held = Some(record.hold(&config::records_directory()?)?);
    let everything = Everything {
        store: store.clone(),
        network: network.clone(),
        looks: session::find_by_key(true, source)? != Find::default(),
        is_written: Box::new(|_| false),
        is_needed: Box::new(|_| false),
    };
    let (drives, limits) = (Arc::new(everything), RootLimits::default());
    let options = mount_options(args, network.is_some());
    let runtime = Handle::current();
    let mount = drivefs::Mount::start_root(drives, store, mountpoint, options, limits, runtime)
        .map_err(cannot_mount)?;
    Ok((mount, network, record))
}

fn mount_options(args: &Mount, peers: bool) -> MountOptions {
    MountOptions {
        allow_other: args.allow_other,
        patience: patience(args.source.wait, peers),
        read_only: args.read_only,
        ..MountOptions::default()
    }
}

/// What a mount that is just made has to be told of.
fn told_of(record: &Record) -> MountInfo {
    MountInfo {
        url: Some(record.url.clone()).filter(|_| !record.is_of_all()),
        name: None,
        mountpoint: record.mountpoint.clone(),
        version: record.version,
        drives: Vec::new(),
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
            "mountpoint": path_text::encode(&mounted.mountpoint),
            "pid": mounted.pid,
            "log": mounted.log.as_deref().map(path_text::encode),
            "saved": mounted.saved,
        }));
    }
    let access = if mounted.read_only { ", read-only" } else { "" };
    let listening =
        mounted.address.as_ref().map_or(String::new(), |at| format!(", listening on {at}"));
    let at = escaped(&mounted.mountpoint.to_string_lossy()).into_owned();
    let line = match &mounted.url {
        Some(url) => {
            format!("mounted {url} on {at} (version {}{access}{listening})", mounted.version)
        }
        None => format!("mounted all drives on {at}{access}"),
    };
    if args.foreground {
        return terminal::print_line(&line).context(|| "print");
    }
    eprintln!("{line}");
    Ok(())
}
