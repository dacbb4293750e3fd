//! The directories of this user: data, state, records, sockets and configuration.
//!
//! Not here: which files lie in them.

use std::env;
use std::fs;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::failure::{Context, Failure, Result};

const APP: &str = "hypermount";
/// The longest path of a socket that every system takes, in bytes (unix(7), less the NUL; macOS has
/// four less than Linux).
const MAX_SOCKET_PATH: usize = 103;

/// The store that is named, or the default one, as an absolute path.
pub fn store(named: Option<&Path>) -> Result<PathBuf> {
    let directory = match named {
        Some(store) => store.to_owned(),
        None => default_store()?,
    };
    std::path::absolute(&directory).context(|| format!("find {}", directory.display()))
}

/// The store that is used when neither a directory nor `--store` is given.
pub fn default_store() -> Result<PathBuf> {
    base_directory("XDG_DATA_HOME", ".local/share")
}

/// The directory of state that outlives a restart of the machine; made if absent, for this user only.
pub fn state_directory() -> Result<PathBuf> {
    let directory = base_directory("XDG_STATE_HOME", ".local/state")?;
    let what = || format!("keep state in {}", directory.display());
    let hint = "set XDG_STATE_HOME to a directory that this user can write";
    if let Some(owner) = other_owner(&directory) {
        let why = format!("it belongs to another user (uid {owner}), and this is root");
        return Err(Failure::failed(what(), why).hint(hint));
    }
    hypermount_core::private::directory(&directory)
        .context(what)
        .map_err(|failure| failure.hint(hint))?;
    Ok(directory)
}

/// The directory of logs and records of mounts: the state directory, or, if that cannot be written, a
/// directory beside the sockets of daemons.
pub fn records_directory() -> Result<PathBuf> {
    let refused = match state_directory() {
        Ok(directory) => return Ok(directory),
        Err(refused) => refused,
    };
    let Ok(runtime) = runtime_directory() else { return Err(refused) };
    let directory = runtime.join("state");
    private_directory(&directory)?;
    Ok(directory)
}

/// If this process is root: the owner of the directory, or of the nearest existing directory above it,
/// unless that is root. That user could not use files that root makes there.
fn other_owner(directory: &Path) -> Option<u32> {
    let there = directory.ancestors().find_map(|above| fs::metadata(above).ok())?;
    (nix::unistd::geteuid().is_root() && there.uid() != 0).then_some(there.uid())
}

/// Makes `directory` and its parents, readable by this user only where they are new.
pub fn private_directory(directory: &Path) -> Result {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .context(|| format!("make {}", directory.display()))
}

/// Where other programs look for what a user configures.
pub fn config_home() -> Result<PathBuf> {
    let named = env::var_os("XDG_CONFIG_HOME").map(PathBuf::from);
    match named.filter(|base| base.is_absolute()) {
        Some(base) => Ok(base),
        None => Ok(home()?.join(".config")),
    }
}

pub fn home() -> Result<PathBuf> {
    let home = env::var_os("HOME").map(PathBuf::from).filter(|home| home.is_absolute());
    // mount(8) at boot has no such variable.
    let listed = || nix::unistd::User::from_uid(nix::unistd::geteuid()).ok().flatten();
    home.or_else(|| listed().map(|user| user.dir)).ok_or_else(|| {
        Failure::failed("find the home directory", "HOME is not set")
            .hint("name a store with --store DIR")
    })
}

/// Our directory in the XDG base directory of `variable`, or in its default below the home directory. On
/// macOS the default is the same for data and state.
fn base_directory(variable: &str, below_home: &str) -> Result<PathBuf> {
    // The XDG specification excludes relative values.
    if let Some(base) = env::var_os(variable).map(PathBuf::from).filter(|base| base.is_absolute()) {
        return Ok(base.join(APP));
    }
    let home = home()?;
    let below_home =
        if cfg!(target_os = "macos") { "Library/Application Support" } else { below_home };
    Ok(home.join(below_home).join(APP))
}

/// Where sockets lie, for this user only: `$XDG_RUNTIME_DIR/hypermount`, or a directory of this user's
/// among the temporary files. Made if absent; one that others could have made or can enter is
/// refused.
pub fn runtime_directory() -> Result<PathBuf> {
    let uid = nix::unistd::geteuid();
    let named = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    let named = named.filter(|base| base.is_absolute()).map(|base| base.join("hypermount"));
    let short = |directory: &PathBuf| {
        directory.as_os_str().len() + "/0123456789abcdef.sock.new".len() <= MAX_SOCKET_PATH
    };
    let candidates = [
        named,
        Some(std::env::temp_dir().join(format!("hypermount-{uid}"))),
        Some(PathBuf::from(format!("/tmp/hypermount-{uid}"))),
    ];
    let mut refused = Failure::failed("find a place for the daemon's socket", "there is none");
    for directory in candidates.into_iter().flatten().filter(short) {
        match private(&directory, uid.as_raw()) {
            Ok(()) => return Ok(directory),
            Err(failure) => refused = failure,
        }
    }
    Err(refused)
}

fn private(directory: &Path, uid: u32) -> Result {
    private_directory(directory)?;
    let what = || format!("use {}", directory.display());
    let found = fs::symlink_metadata(directory).context(what)?;
    if !found.is_dir() || found.uid() != uid || found.mode() & 0o077 != 0 {
        return Err(Failure::failed(what(), "it is not a directory that only you can enter")
            .hint("remove it, or set XDG_RUNTIME_DIR"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_directory_that_others_can_enter_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let uid = nix::unistd::geteuid().as_raw();
        let open = directory.path().join("open");
        fs::create_dir(&open).unwrap();
        fs::set_permissions(&open, fs::Permissions::from_mode(0o750)).unwrap();
        assert!(private(&open, uid).is_err());
        fs::set_permissions(&open, fs::Permissions::from_mode(0o700)).unwrap();
        assert!(private(&open, uid).is_ok());
        assert!(private(&open, uid + 1).is_err(), "another user's");
        std::os::unix::fs::symlink(&open, directory.path().join("link")).unwrap();
        assert!(private(&directory.path().join("link"), uid).is_err());
    }
}
