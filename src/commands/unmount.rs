//! `hypermount unmount`.

use std::path::Path;
use std::time::Duration;

use hyper::Method;

use crate::cli::Unmount;
use crate::client::{self, Client};
use crate::directories;
use crate::failure::{Code, Context, Failure, Result};
use crate::model::{Done, How, UnmountQuery};
use crate::mountpoint::{self, Made};
use crate::process::runtime;
use crate::record::{self, Record};
use crate::saved::Saved;

/// How long the process behind the mount gets to close its store after the mount is gone.
const RELEASE_LIMIT: Duration = Duration::from_secs(10);
/// How long a daemon may take, which may have files to store.
const ANSWER_LIMIT: Duration = Duration::from_secs(300);

pub fn run(args: &Unmount) -> Result {
    let what = || format!("unmount {}", args.mountpoint.display());
    let mountpoint = record::absolute(&args.mountpoint).context(what)?;
    let how = match (args.lazy, args.force) {
        (true, _) => How::Lazy,
        (_, true) => How::Force,
        _ => How::Normal,
    };
    let state = directories::records_directory()?;
    let process = Record::read(&state, &mountpoint);
    if process.is_none()
        && let Some((whole, _)) = Record::containing(&state, &mountpoint)
    {
        let at = whole.mountpoint.display();
        return Err(Failure::failed(what(), format!("it is in the mount at {at}"))
            .hint(format!("hypermount unmount {at}")));
    }
    // The daemon also forgets a saved mount. Everything else the system can do alone.
    let is_done = runtime()?.block_on(async {
        match &process {
            Some(record) => by_daemon(record, &mountpoint, how).await,
            None => forget(&mountpoint, how).await,
        }
    })?;
    if !is_done {
        mountpoint::unmount(&mountpoint, how)?;
        // The process that made it does the same, unless it was killed.
        let made = process.as_ref().and_then(|record| record.made);
        drop(made.and_then(|directory| Made::earlier(&mountpoint, directory)));
    }
    // A lazy unmount leaves the process at work until the last file in it is closed.
    if args.lazy {
        return Ok(());
    }
    if Record::wait_released(&state, &mountpoint, RELEASE_LIMIT) {
        Record::clear(&state, &mountpoint);
        return Ok(());
    }
    let pid = process.map_or(String::from("?"), |record| record.pid.to_string());
    Err(Failure::failed(
        what(),
        format!("it is unmounted, but process {pid} still has the store after {RELEASE_LIMIT:?}"),
    ))
}

/// Whether a daemon had the mount and unmounted it.
async fn by_daemon(record: &Record, mountpoint: &Path, how: How) -> Result<bool> {
    if record.store.as_os_str().is_empty() {
        return Ok(false);
    }
    let Ok(Some(client)) = client::find(&record.store).await else { return Ok(false) };
    if client.presence.pid != record.pid {
        return Ok(false);
    }
    ask(&client, mountpoint, how).await
}

/// Withdraws a saved mount that is not mounted now. Whether there was one and nothing is left to do.
async fn forget(mountpoint: &Path, how: How) -> Result<bool> {
    // Without a state directory nothing was saved.
    let stores = Saved::stores_with_mount_at(mountpoint).unwrap_or_default();
    let mut is_done = false;
    for store in stores {
        if client::find(&store).await?.is_none() {
            let mut saved = Saved::load(&store)?;
            saved.forget_mount(mountpoint);
            saved.save(&store)?;
            is_done = true;
        }
        // Also a daemon that started meanwhile, and may have read the file before it changed.
        if let Some(client) = client::find(&store).await? {
            match ask(&client, mountpoint, how).await {
                Ok(asked) => is_done |= asked,
                // It read the file after it changed.
                Err(_) if is_done => {}
                Err(failure) => return Err(failure),
            }
        }
    }
    Ok(is_done && !drivefs::mounts().iter().any(|mounted| mounted.mountpoint == mountpoint))
}

async fn ask(client: &Client, mountpoint: &Path, how: How) -> Result<bool> {
    let query = UnmountQuery { mountpoint: mountpoint.to_owned(), how };
    let path = client::path(&["mounts"], &query)?;
    match client.ask::<Done>(Method::DELETE, &path, &(), Some(ANSWER_LIMIT)).await {
        Ok(Done {}) => Ok(true),
        // A daemon that hangs or was replaced meanwhile does not prevent the unmount.
        Err(failure) if how == How::Force || failure.code() == Code::Locked => Ok(false),
        Err(failure) => Err(failure),
    }
}
