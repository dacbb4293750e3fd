//! Files and directories for this user alone: modes 0600 and 0700, whatever the umask. A file is never
//! opened through a link that another user planted under its name.
//!
//! Not here: which files a store has (`store/owner.rs`).

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

const FILE_MODE: u32 = 0o600;
const DIRECTORY_MODE: u32 = 0o700;
/// Permissions of the group and of others.
const OTHERS: u32 = 0o077;
/// How often a temporary file that appears again under its name is removed.
const MAX_ATTEMPTS: usize = 16;

/// Makes the directory, and its parents where they are absent; what is made survives a power cut. One
/// that exists and is this user's is closed to others.
///
/// # Errors
/// Those of mkdir(2), chmod(2) and fsync(2).
pub fn directory(path: &Path) -> io::Result<()> {
    let absent = |path: &&Path| !path.as_os_str().is_empty() && !path.exists();
    let made: Vec<&Path> = path.ancestors().take_while(absent).collect();
    DirBuilder::new().recursive(true).mode(DIRECTORY_MODE).create(path)?;
    made.into_iter().rev().try_for_each(sync_parent)?;
    let found = fs::metadata(path)?;
    if is_open(&found) { tolerate(path, fs::set_permissions(path, closed(&found))) } else { Ok(()) }
}

/// Closes what is at `path` to others if it is a file or directory of this user's; no link is followed.
///
/// # Errors
/// Those of lstat(2) and chmod(2).
pub fn close(path: &Path) -> io::Result<()> {
    let found = fs::symlink_metadata(path)?;
    let plain = found.is_file() || found.is_dir();
    let open = plain && is_open(&found);
    if open { tolerate(path, fs::set_permissions(path, closed(&found))) } else { Ok(()) }
}

/// Accepts that a file system has no permissions, as FAT, after saying so.
fn tolerate(path: &Path, changed: io::Result<()>) -> io::Result<()> {
    match changed {
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::PermissionDenied | io::ErrorKind::Unsupported
            ) =>
        {
            log::warn!("{}: cannot be closed to other users: {error}", path.display());
            Ok(())
        }
        changed => changed,
    }
}

/// Whether others have permissions that this user can remove.
fn is_open(found: &fs::Metadata) -> bool {
    found.mode() & OTHERS != 0 && found.uid() == own()
}

fn closed(found: &fs::Metadata) -> Permissions {
    Permissions::from_mode(found.mode() & 0o7777 & !OTHERS)
}

fn own() -> u32 {
    nix::unistd::geteuid().as_raw()
}

/// Opens a file of this user's, as `options` say; one that is made, and one that exists, is closed to
/// others. A link, or a file of another user's, is refused.
///
/// # Errors
/// Those of open(2), such as `ELOOP` for a link; `PermissionDenied` for a file of another user.
pub fn open(path: &Path, options: &OpenOptions) -> io::Result<File> {
    // All flags are defined in the low 31 bits.
    let no_follow = i32::try_from(OFlags::NOFOLLOW.bits()).unwrap_or(0);
    let file = options.clone().mode(FILE_MODE).custom_flags(no_follow).open(path)?;
    let found = file.metadata()?;
    if found.uid() != own() {
        let why = format!("it belongs to another user (uid {})", found.uid());
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
    }
    if is_open(&found) {
        tolerate(path, file.set_permissions(closed(&found)))?;
    }
    Ok(file)
}

/// A new file. What was at `path`, such as what a killed process left or a link, is removed and not
/// opened.
///
/// # Errors
/// Those of open(2) and unlink(2).
pub fn create_new(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create_new(true);
    for _ in 0..MAX_ATTEMPTS {
        match open(path, &options) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                match fs::remove_file(path) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                    _ => {}
                }
            }
            opened => return opened,
        }
    }
    Err(io::Error::new(io::ErrorKind::AlreadyExists, "it appears again whenever it is removed"))
}

/// Replaces a file so that it holds `bytes` or what it held before, also after a power cut. No other
/// process may replace it at the same time.
///
/// # Errors
/// Those of open(2), write(2), fsync(2) and rename(2). The file is as before then.
pub fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    replace_through(&temporary(path, "new"), path, bytes)
}

/// As [`replace`], where other processes may replace the file at the same time: the last one counts.
///
/// # Errors
/// Those of [`replace`].
pub(crate) fn replace_shared(path: &Path, bytes: &[u8]) -> io::Result<()> {
    replace_through(&temporary(path, &std::process::id().to_string()), path, bytes)
}

/// Makes a file that holds `bytes`, whole from the moment it appears. Fails if there is one.
///
/// # Errors
/// `AlreadyExists`; those of [`replace`].
pub(crate) fn create_shared(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = temporary(path, &std::process::id().to_string());
    write(&temporary, bytes)?;
    match fs::hard_link(&temporary, path) {
        // A file system without hard links: the last of several counts there.
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => fs::rename(&temporary, path)?,
        linked => {
            fs::remove_file(&temporary)?;
            linked?;
        }
    }
    sync_parent(path)
}

fn replace_through(temporary: &Path, path: &Path, bytes: &[u8]) -> io::Result<()> {
    write(temporary, bytes)?;
    fs::rename(temporary, path)?;
    sync_parent(path)
}

fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = create_new(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Makes the name of `path` survive a power cut.
///
/// # Errors
/// Those of open(2) and fsync(2).
pub(crate) fn sync_parent(path: &Path) -> io::Result<()> {
    let synced = match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => File::open(".")?.sync_all(),
        Some(parent) => match File::open(parent) {
            // Entries can be made in a directory that cannot be read; only the system syncs it.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
            opened => opened?.sync_all(),
        },
        None => Ok(()),
    };
    #[cfg(debug_assertions)]
    if let (Ok(()), Some(parent)) = (&synced, path.parent()) {
        power::synced(parent);
    }
    synced
}

/// Beside `path`, and never the temporary file of another name.
fn temporary(path: &Path, mark: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".");
    name.push(mark);
    path.with_file_name(name)
}

#[cfg(debug_assertions)]
#[doc(hidden)]
pub mod power;

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn mode(path: &Path) -> u32 {
        fs::symlink_metadata(path).unwrap().mode() & 0o7777
    }

    #[test]
    fn a_planted_link_is_not_followed_by_any_kind_of_write() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        fs::write(path("victim"), "theirs").unwrap();
        let own = std::process::id().to_string();
        for mark in ["new", own.as_str()] {
            symlink(path("victim"), temporary(&path("mark"), mark)).unwrap();
        }
        symlink(path("victim"), path("created.x")).unwrap();
        replace(&path("mark"), b"one").unwrap();
        assert_eq!(fs::read(path("mark")).unwrap(), b"one");
        replace_shared(&path("mark"), b"two").unwrap();
        assert_eq!(fs::read(path("mark")).unwrap(), b"two");
        create_new(&path("created.x")).unwrap();
        symlink(path("victim"), path("link")).unwrap();
        assert!(open(&path("link"), OpenOptions::new().write(true)).is_err());
        replace(&path("link"), b"replaced").unwrap();
        assert_eq!(fs::read(path("link")).unwrap(), b"replaced");
        assert_eq!(fs::read(path("victim")).unwrap(), b"theirs");
        assert_eq!(mode(&path("mark")), FILE_MODE);
    }

    #[test]
    fn creating_an_existing_shared_file_fails_and_changes_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("machine");
        create_shared(&path, b"first").unwrap();
        let second = create_shared(&path, b"second").unwrap_err();
        assert_eq!(second.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read(&path).unwrap(), b"first");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "nothing is left behind");
    }

    #[test]
    fn paths_open_to_others_are_closed_when_they_are_used() {
        let parent = tempfile::tempdir().unwrap();
        let directory_path = parent.path().join("a/b");
        directory(&directory_path).unwrap();
        assert_eq!(mode(&parent.path().join("a")), DIRECTORY_MODE);
        let file = directory_path.join("file");
        fs::write(&file, "x").unwrap();
        for path in [&file, &directory_path] {
            fs::set_permissions(path, Permissions::from_mode(0o755)).unwrap();
        }
        open(&file, OpenOptions::new().read(true)).unwrap();
        directory(&directory_path).unwrap();
        assert_eq!((mode(&file), mode(&directory_path)), (0o700, 0o700), "the owner's bits stay");
    }
}
