//! `hypermount mount`: by the daemon of the store, or, in the foreground, by this process.

use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper::Method;
use hypermount_drive::{DrivePath, DriveUrl};
use serde_json::json;

use super::print_json;
use crate::cli::Mount;
use crate::client;
use crate::daemon;
use crate::directories;
use crate::failure::{Context, Failure, Result};
use crate::model::{MountInfo, MountRequest};
use crate::mountpoint;
use crate::path_text;
use crate::process::runtime;
use crate::target::{Location, Target, check_store, may_create};
use crate::terminal::{self, escaped};

/// Where all drives are mounted by default, in the home directory.
const ROOT: &str = "Hyperdrive";
/// Time that the daemon gets in addition to the user's own limit, for the kernel's mount.
const GRACE: Duration = Duration::from_secs(30);

/// A mount to be made, and the store it is made from.
struct Order {
    store: PathBuf,
    /// Make the store if it is absent.
    create: bool,
    request: MountRequest,
    /// How long a daemon may take; `None` without a limit.
    limit: Option<Duration>,
}

pub fn run(args: &Mount) -> Result {
    let Order { store, create, request, limit } = order(args)?;
    let what = args.target.as_ref().map_or("all drives".to_owned(), ToString::to_string);
    let spinner = terminal::spinner(format!("mounting {what}"));
    if args.foreground {
        return daemon::run_mount(&store, create, &request, |mounted| {
            spinner.finish_and_clear();
            announce(args, mounted)
        });
    }
    let mounted = runtime()?.block_on(client::ask_or_start(
        &store,
        create,
        Method::POST,
        "/mounts",
        &request,
        limit,
    ));
    spinner.finish_and_clear();
    announce(args, &mounted?.1)
}

/// Reads the order from the command line. Fails if the mount is known to be impossible before a store is
/// opened.
fn order(args: &Mount) -> Result<Order> {
    let source = &args.source;
    let mountpoint = mountpoint::absolute(&directory(args)?)?;
    must_be_whole(args, &mountpoint)?;
    mountpoint::check(&mountpoint)?;
    let by_key = args.target.as_ref().is_none_or(Target::is_url);
    let (store, create, drive) = match &args.target {
        Some(target) => {
            let location = Location::of(target, source)?;
            let create = may_create(target, source)?;
            check_store(target, &location.store, create)?;
            location.keep_encryption_key(target, source)?;
            (location.store, create, location.drive)
        }
        None => (directories::store(source.store.as_deref())?, true, String::new()),
    };
    let waits = args.target.is_some() && source.asks_peers(by_key)?;
    let limit = match waits {
        true => source.limit().limit().map(|limit| limit + GRACE),
        false => Some(GRACE),
    };
    let request = MountRequest {
        all: args.target.is_none(),
        drive,
        mountpoint,
        peers: source.peers.clone(),
        find: source.find_for_mount(by_key, args.listen)?,
        wait: source.wait.map(|wait| wait.to_string()),
        listen: args.listen.map(|address| address.to_string()),
        read_only: args.read_only,
        allow_other: args.allow_other,
        save: args.save,
    };
    Ok(Order { store, create, request, limit })
}

/// The directory to mount on, as it was named.
fn directory(args: &Mount) -> Result<PathBuf> {
    match (&args.all, &args.mountpoint) {
        (Some(Some(directory)), _) | (None, Some(directory)) => Ok(directory.clone()),
        _ => Ok(directories::home()?.join(ROOT)),
    }
}

/// Fails for a URL with a path: a drive is mounted whole.
fn must_be_whole(args: &Mount, mountpoint: &Path) -> Result {
    let Some(Target::Url(url)) = args.target.as_ref() else { return Ok(()) };
    if url.path.is_root() {
        return Ok(());
    }
    let target = DriveUrl { path: DrivePath::root(), ..url.clone() };
    Err(Failure::usage(&target, "a drive is mounted whole").hint(format!(
        "leave {} off the URL; it will be at {}{}",
        url.path,
        mountpoint.display(),
        url.path
    )))
}

/// Reports that the mount is usable: with `--json` as data, else in words.
fn announce(args: &Mount, mounted: &MountInfo) -> Result {
    if args.json {
        return print_json(&json!({
            "url": mounted.url,
            "version": mounted.version,
            "moved_to": mounted.moved_to,
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
    match args.foreground {
        true => terminal::print_line(&line).context(|| "print")?,
        false => eprintln!("{line}"),
    }
    if let Some(new) = &mounted.moved_to {
        eprintln!("this drive has moved to {new}");
    }
    Ok(())
}
