//! `hypermount unmount`.

use std::time::Duration;

use drivefs::{Detach, UnmountError};

use crate::cli::Unmount;
use crate::config;
use crate::failure::{Context, Failure, Result};
use crate::record::{self, Record};

/// How long the process behind the mount gets to close its store after the mount is gone.
const RELEASE_LIMIT: Duration = Duration::from_secs(10);

pub fn run(args: &Unmount) -> Result {
    let what = || format!("unmount {}", args.mountpoint.display());
    let mountpoint = record::absolute(&args.mountpoint).context(what)?;
    let how = match (args.lazy, args.force) {
        (true, _) => Detach::Lazy,
        (_, true) => Detach::Force,
        _ => Detach::Normal,
    };
    drivefs::unmount(&mountpoint, how).map_err(cannot_unmount)?;
    // A lazy unmount leaves the process at work until the last file in it is closed.
    if args.lazy {
        return Ok(());
    }
    let state = config::state_directory()?;
    let process = Record::read(&state, &mountpoint);
    if Record::wait_released(&state, &mountpoint, RELEASE_LIMIT) {
        return Ok(());
    }
    let pid = process.map_or(String::from("?"), |record| record.pid.to_string());
    Err(Failure::failed(
        what(),
        format!("it is gone, but process {pid} still has the store after {RELEASE_LIMIT:?}"),
    ))
}

fn cannot_unmount(error: UnmountError) -> Failure {
    let busy = matches!(error, UnmountError::Busy { .. });
    let failure = Failure::failed("unmount", error);
    if busy {
        return failure.hint("end them, or use --lazy (they keep what is open) or --force");
    }
    failure
}
