//! What mounting in this process and in a daemon have in common: checks, patience, and what a failure
//! means for a person.

use std::path::Path;
use std::time::Duration;

use drivefs::{MountError, Patience, UnmountError};

use crate::config::WaitLimit;
use crate::failure::{Context, Failure, Result};

/// What can be known to be wrong with a mount point without opening a drive.
pub fn check_mountpoint(mountpoint: &Path) -> Result {
    let what = || format!("mount on {}", mountpoint.display());
    let metadata = match mountpoint.metadata() {
        // What a killed process left behind; mounting replaces it.
        Err(error) if error.raw_os_error() == Some(libc::ENOTCONN) => return Ok(()),
        metadata => metadata.context(what)?,
    };
    if !metadata.is_dir() {
        return Err(Failure::failed(what(), "it is not a directory"));
    }
    Ok(())
}

/// Without a peer nothing is worth waiting for.
pub fn patience(wait: Option<WaitLimit>, peers: bool) -> Patience {
    match wait {
        _ if !peers => Patience::Offline,
        None => Patience::default(),
        Some(WaitLimit::Forever) => Patience::Forever,
        Some(WaitLimit::Each(Duration::ZERO)) => Patience::Offline,
        Some(WaitLimit::Each(limit)) => Patience::Limited { names: limit, data: limit },
    }
}

pub fn cannot_mount(error: MountError) -> Failure {
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

pub fn cannot_unmount(error: UnmountError) -> Failure {
    let busy = matches!(error, UnmountError::Busy { .. });
    let failure = Failure::failed("unmount", error);
    if busy {
        return failure.hint("end them, or use --lazy (they keep what is open) or --force");
    }
    failure
}
