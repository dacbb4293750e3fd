//! Mounts as the system lists them: which ones belong to this program, which processes use one, and
//! how to unmount it. Works from any process, whether or not the process that serves the mount is
//! alive.
//!
//! Nothing here queries the mounted filesystem more than necessary: it may hang or be dead.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::platform;

/// Where Linux lists the mounts of this process (proc(5)).
const MOUNT_TABLE: &str = "/proc/self/mountinfo";
/// Most users of a mount that an error message names.
const NAMED_USERS: usize = 8;

/// One mount of this program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mounted {
    /// Absolute path of the mount point.
    pub mountpoint: PathBuf,
    /// `hyper://` and the first digits of the drive's key.
    pub source: String,
    /// Number of its connection to the kernel (the minor number of its device).
    pub connection: u32,
}

impl Mounted {
    /// Whether the process that served the mount is gone. After a crash, every access fails with
    /// "Transport endpoint is not connected".
    pub fn is_dead(&self) -> bool {
        // Not stat(2): the kernel may answer that from its cache.
        nix::sys::statvfs::statvfs(&self.mountpoint) == Err(nix::errno::Errno::ENOTCONN)
    }

    /// The process that serves the mount; `None` where the system does not say (recent Linux does).
    ///
    /// The kernel reuses connection numbers while a process may still hold a dead connection with
    /// the same number. Of several processes, the one that started last is returned.
    pub fn served_by(&self) -> Option<u32> {
        let wanted = format!("fuse_connection:\t{}", self.connection);
        let holds = |pid: &u32| {
            let Ok(descriptors) = fs::read_dir(format!("/proc/{pid}/fdinfo")) else { return false };
            descriptors.flatten().any(|descriptor| {
                let info = fs::read_to_string(descriptor.path()).unwrap_or_default();
                info.lines().any(|line| line == wanted)
            })
        };
        processes().filter(holds).max_by_key(|pid| started(*pid))
    }
}

/// Start time of a process, in clock ticks since boot (proc_pid_stat(5), field 22).
fn started(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field, a name in parentheses, may contain any character.
    stat.rsplit(") ").next()?.split(' ').nth(19)?.parse().ok()
}

/// All mounts of this program, in the order they were made. Empty where the system has no list.
pub fn mounts() -> Vec<Mounted> {
    let table = fs::read(MOUNT_TABLE).unwrap_or_default();
    table.split(|byte| *byte == b'\n').filter_map(parse_mount).collect()
}

/// Parses a line of mountinfo; `None` if it is not a mount of this program.
fn parse_mount(line: &[u8]) -> Option<Mounted> {
    let fields: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
    // A single dash ends the optional fields.
    let dash = fields.iter().position(|field| *field == b"-")?;
    let kind = std::str::from_utf8(fields.get(dash + 1)?).ok()?;
    if kind.strip_prefix("fuse.") != Some(platform::SUBTYPE) {
        return None;
    }
    let device = std::str::from_utf8(fields.get(2)?).ok()?;
    Some(Mounted {
        mountpoint: PathBuf::from(OsString::from_vec(unescape(fields.get(4)?))),
        source: String::from_utf8_lossy(&unescape(fields.get(dash + 2)?)).into_owned(),
        connection: device.split_once(':')?.1.parse().ok()?,
    })
}

/// Decodes space, tab, newline and backslash, which are written as `\` and three octal digits.
fn unescape(text: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, after)) = rest.split_first() {
        let digits = after.get(..3).filter(|d| *first == b'\\' && d.iter().all(u8::is_ascii_digit));
        let code = digits
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match (code, after.get(3..)) {
            (Some(code), Some(after)) => {
                plain.push(code);
                rest = after;
            }
            _ => {
                plain.push(*first);
                rest = after;
            }
        }
    }
    plain
}

/// The absolute path of a mount point, determined without accessing what is mounted there.
pub(crate) fn absolute(mountpoint: &Path) -> io::Result<PathBuf> {
    let mountpoint = std::path::absolute(mountpoint)?;
    match (mountpoint.parent(), mountpoint.file_name()) {
        (Some(parent), Some(name)) => {
            let place = parent.canonicalize()?.join(name);
            // A link is followed one level at a time, unless it is itself a mount point.
            match fs::read_link(&place) {
                Ok(target) => parent.canonicalize()?.join(target).canonicalize(),
                Err(_) => Ok(place),
            }
        }
        // `/`, and paths that end in `..`.
        _ => mountpoint.canonicalize(),
    }
}

/// The topmost mount of this program at a path.
pub(crate) fn mounted_at(mountpoint: &Path) -> Option<Mounted> {
    mounts().into_iter().rev().find(|mounted| mounted.mountpoint == mountpoint)
}

/// A process that keeps a mount busy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountUser {
    /// Process id.
    pub pid: u32,
    /// Its name, as ps(1) shows it.
    pub command: String,
    /// What it uses there: its current directory, an open file or a mapped file.
    pub uses: String,
}

impl std::fmt::Display for MountUser {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} (pid {}, {})", self.command, self.pid, self.uses)
    }
}

/// The processes that use the mount, as far as this user may see them. Reads the process table
/// only.
pub fn mount_users(mountpoint: &Path) -> Vec<MountUser> {
    processes().filter_map(|pid| user(pid, mountpoint)).collect()
}

fn processes() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

fn user(pid: u32, mountpoint: &Path) -> Option<MountUser> {
    let process = PathBuf::from(format!("/proc/{pid}"));
    // The kernel prints these links. Following them would query the mount.
    let inside = |link: &Path| fs::read_link(link).ok().filter(|path| path.starts_with(mountpoint));
    let named = |what: &str, path: PathBuf| format!("{what} {}", path.display());
    let directory = || inside(&process.join("cwd")).map(|path| named("current directory", path));
    let root = || inside(&process.join("root")).map(|path| named("root directory", path));
    let program = || inside(&process.join("exe")).map(|path| named("running", path));
    let open = || {
        let descriptors = fs::read_dir(process.join("fd")).ok()?;
        let path = descriptors.flatten().find_map(|descriptor| inside(&descriptor.path()))?;
        Some(named("open", path))
    };
    let mapped = || {
        let maps = fs::read(process.join("maps")).ok()?;
        let path = maps.split(|byte| *byte == b'\n').find_map(|line| {
            let start = line.iter().position(|byte| *byte == b'/')?;
            let path = PathBuf::from(OsString::from_vec(line.get(start..)?.to_vec()));
            path.starts_with(mountpoint).then_some(path)
        })?;
        Some(named("mapped", path))
    };
    let uses = directory().or_else(root).or_else(open).or_else(program).or_else(mapped)?;
    let command = fs::read_to_string(process.join("comm")).unwrap_or_default().trim().to_owned();
    Some(MountUser { pid, command, uses })
}

/// How to unmount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnmountMode {
    /// Only if no process uses it.
    Normal,
    /// Detaches it from the tree at once. Programs keep the files that they have open.
    Lazy,
    /// At once. Programs with open files get errors, and requests that hang fail.
    Force,
}

/// Why a mount could not be unmounted.
#[derive(Debug, thiserror::Error)]
pub enum UnmountError {
    /// This program has no mount there.
    #[error("{path} is not a mount of ours")]
    NotMounted {
        /// The directory of the mount.
        path: PathBuf,
    },
    /// Processes use the mount.
    #[error("{path} is busy{}", list_users(users))]
    Busy {
        /// The directory of the mount.
        path: PathBuf,
        /// The processes that use it, as far as they are known.
        users: Vec<MountUser>,
    },
    /// A call of the system failed.
    #[error("cannot unmount {path}: {source}")]
    System {
        /// The directory of the mount.
        path: PathBuf,
        /// The error of the system.
        source: io::Error,
    },
}

fn list_users(users: &[MountUser]) -> String {
    if users.is_empty() {
        return String::new();
    }
    let named: Vec<String> = users.iter().take(NAMED_USERS).map(MountUser::to_string).collect();
    let more = users.len().saturating_sub(NAMED_USERS);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!(": used by {}{more}", named.join(", "))
}

/// Unmounts a mount of this program, including one whose process is gone.
///
/// # Errors
///
/// `NotMounted` if no such mount is there, `Busy` with the processes that use it, `System`
/// otherwise.
pub fn unmount(mountpoint: &Path, how: UnmountMode) -> Result<(), UnmountError> {
    let system = |source| UnmountError::System { path: mountpoint.to_owned(), source };
    let path = absolute(mountpoint).map_err(system)?;
    let Some(mounted) = mounted_at(&path) else { return Err(UnmountError::NotMounted { path }) };
    detach(&mounted, how)
}

/// How long a busy mount without users is tried again: the kernel releases the files of a process a
/// moment after the process has ended.
const RELEASED_WITHIN: Duration = Duration::from_secs(1);

/// As [`unmount`], for a mount known to exist.
pub(crate) fn detach(mounted: &Mounted, how: UnmountMode) -> Result<(), UnmountError> {
    let path = &mounted.mountpoint;
    if how == UnmountMode::Force
        && let Err(error) = platform::abort(mounted.connection)
    {
        log::debug!("cannot abort connection {}: {error}", mounted.connection);
    }
    // A dead mount has no user that could lose anything.
    let lazily = how != UnmountMode::Normal || mounted.is_dead();
    let deadline = Instant::now() + RELEASED_WITHIN;
    loop {
        match platform::detach(path, lazily, how == UnmountMode::Force) {
            Ok(()) => return Ok(()),
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
                let users = mount_users(path);
                if !users.is_empty() || Instant::now() >= deadline {
                    return Err(UnmountError::Busy { path: path.clone(), users });
                }
                std::thread::sleep(RELEASED_WITHIN / 20);
            }
            Err(source) => return Err(UnmountError::System { path: path.clone(), source }),
        }
    }
}

/// Whether a directory is empty.
pub(crate) fn is_empty(directory: &Path) -> io::Result<bool> {
    Ok(fs::read_dir(directory)?.next().is_none())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_mounts_are_told_from_others() {
        let ours = b"54 29 0:47 / /mnt/my\\040drive ro,nosuid shared:9 - fuse.hypermount \
                     hyper://ce2a1c6efc95d1d3 ro,user_id=0";
        let expected = Mounted {
            mountpoint: "/mnt/my drive".into(),
            source: "hyper://ce2a1c6efc95d1d3".into(),
            connection: 47,
        };
        assert_eq!(parse_mount(ours), Some(expected));
        for other in [
            &b"54 29 0:47 / /mnt rw - fuse.sshfs host: rw"[..],
            b"54 29 0:47 / /mnt rw - ext4 /dev/sda1 rw",
            b"54 29 0:47 / /mnt rw - fuse.hypermountain x rw",
            b"54 29 0:47 / /mnt rw",
            b"",
            b"- fuse.hypermount",
        ] {
            assert_eq!(parse_mount(other), None);
        }
    }

    #[test]
    fn escapes_of_the_mount_table() {
        for (escaped, plain) in [
            ("a\\040b\\011c\\012d\\134e", &b"a b\tc\nd\\e"[..]),
            ("\\", b"\\"),
            ("\\04", b"\\04"),
            ("\\999", b"\\999"),
            ("plain", b"plain"),
        ] {
            assert_eq!(unescape(escaped.as_bytes()), plain, "{escaped}");
        }
    }

    #[test]
    fn a_process_inside_a_directory_is_found_by_name() {
        let directory = tempfile::tempdir().expect("a directory is made");
        let path = directory.path().canonicalize().expect("it exists");
        let held = fs::File::create(path.join("held")).expect("a file is made");
        let found = mount_users(&path);
        let me = found.iter().find(|user| user.pid == std::process::id());
        assert!(me.is_some_and(|user| user.uses.contains("held")), "{found:?}");
        drop(held);
        assert!(mount_users(&path).iter().all(|user| user.pid != std::process::id()));
    }

    #[test]
    fn unmounting_a_directory_that_is_no_mount_of_ours_is_refused() {
        let directory = tempfile::tempdir().expect("a directory is made");
        let refused = unmount(directory.path(), UnmountMode::Force);
        assert!(matches!(refused, Err(UnmountError::NotMounted { .. })));
    }
}
