//! How a command finds the daemon of a store: a file in the store names the process and its socket, and is
//! locked while that process lives. And the socket itself.
//!
//! The file lies in the store, so that every process that opens the store sees it, in any environment;
//! where the store cannot be written, or is another program's, it lies beside the socket.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use hypermount_core::StoreKind;
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};
use tokio::net::{UnixListener, UnixStream};

use crate::directories::{self, runtime_directory};
use crate::failure::{Code, Context, Failure, Result};

/// Name of the file in the store.
pub const PRESENCE_FILE: &str = "hypermount.daemon";
/// The most of it that is read, in bytes.
const MAX_PRESENCE_BYTES: u64 = 16 * 1024;
/// The daemon of a store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Presence {
    pub pid: u32,
    #[serde(with = "crate::path_text")]
    pub socket: PathBuf,
    /// Version of the program.
    pub version: String,
}

/// A presence in force; dropping it removes it.
pub struct Present {
    _lock: Flock<File>,
    path: PathBuf,
}

impl Drop for Present {
    fn drop(&mut self) {
        // Left behind it would be stale, which readers notice by the missing lock.
        let _ = fs::remove_file(&self.path);
    }
}

/// The result of a look for the daemon.
#[derive(Debug, PartialEq, Eq)]
pub enum Sight {
    Absent,
    /// A daemon that is just starting or ending.
    Unready,
    Present(Presence),
}

impl Presence {
    /// Becomes the daemon of `store`, which must be open already, so that no other daemon has it.
    pub fn take(&self, store: &Path) -> Result<Present> {
        if Self::of(store) != Sight::Absent {
            let what = format!("become the daemon of {}", store.display());
            return Err(Failure::new(Code::Locked, what, "it has one"));
        }
        let mut last = None;
        // Nothing is written into the store of another program.
        let foreign = StoreKind::of(store).is_some_and(|kind| kind != StoreKind::Own);
        for path in places(store)?.into_iter().skip(usize::from(foreign)) {
            let new = path.with_extension("daemon.new");
            match hypermount_core::private_files::create_new(&new) {
                Ok(file) => return self.write(file, &new, path),
                Err(error) => last = Some((path, error)),
            }
        }
        let (path, error) = last.unwrap_or_else(|| (store.to_owned(), io::Error::other("nowhere")));
        Err(Failure::failed(format!("write {}", path.display()), error))
    }

    /// The file is whole and locked from the moment it has its own name. A command that found it earlier
    /// would take it for the remains of a killed daemon, and its own lock would keep us from locking it.
    fn write(&self, file: File, new: &Path, path: PathBuf) -> Result<Present> {
        let what = || format!("write {}", path.display());
        let mut lock = Flock::lock(file, FlockArg::LockExclusiveNonblock)
            .map_err(|(_, errno)| Failure::failed(what(), io::Error::from(errno)))?;
        let text = serde_json::to_vec(self).map_err(io::Error::other).context(what)?;
        lock.write_all(&text).context(what)?;
        fs::rename(new, &path).context(what)?;
        Ok(Present { _lock: lock, path })
    }

    /// Looks for the daemon of a store.
    pub fn of(store: &Path) -> Sight {
        for path in places(store).unwrap_or_default() {
            let Ok(mut file) = File::open(&path) else { continue };
            let mut text = Vec::new();
            let read = (&mut file).take(MAX_PRESENCE_BYTES).read_to_end(&mut text);
            if Flock::lock(file, FlockArg::LockSharedNonblock).is_ok() {
                continue; // left behind
            }
            let presence = read.ok().and_then(|_| serde_json::from_slice(&text).ok());
            return presence.map_or(Sight::Unready, Sight::Present);
        }
        Sight::Absent
    }
}

/// Where the file of a store may be, in the order in which that is tried.
fn places(store: &Path) -> Result<[PathBuf; 2]> {
    Ok([store.join(PRESENCE_FILE), runtime_directory()?.join(format!("{}.daemon", name_of(store)))])
}

/// A name for a store; all of these names have the same length.
pub fn name_of(store: &Path) -> String {
    let hash = hypermount_swarm::crypto::blake2b(&[real(store).as_os_str().as_bytes()]);
    hash.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// The path with symbolic links resolved, as far as it exists.
pub fn real(path: &Path) -> PathBuf {
    if let Ok(real) = fs::canonicalize(path) {
        return real;
    }
    match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) => real(parent).join(name),
        _ => path.to_owned(),
    }
}

/// The socket of a store's daemon.
pub fn socket_path(store: &Path) -> Result<PathBuf> {
    Ok(runtime_directory()?.join(format!("{}.sock", name_of(store))))
}

/// Listens at `socket`. The socket of a killed daemon is replaced: the caller has the store open.
pub fn bind(socket: &Path) -> Result<UnixListener> {
    let what = || format!("listen at {}", socket.display());
    let new = socket.with_extension("sock.new");
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error).context(what),
        _ => {}
    }
    let listener = UnixListener::bind(&new).context(what)?;
    // Under its own name it has these permissions from the first moment on.
    fs::set_permissions(&new, fs::Permissions::from_mode(0o600)).context(what)?;
    fs::rename(&new, socket).context(what)?;
    Ok(listener)
}

/// The log of the daemon of this store.
pub fn log_path(store: &Path) -> Result<PathBuf> {
    let directory = directories::records_directory()?.join("daemons");
    directories::private_directory(&directory)?;
    Ok(directory.join(format!("{}.log", name_of(store))))
}

/// Whether the other end belongs to this user or to root.
pub fn is_allowed(stream: &UnixStream) -> bool {
    let own = nix::unistd::geteuid().as_raw();
    stream.peer_cred().is_ok_and(|peer| may_ask(peer.uid(), own))
}

fn may_ask(peer: u32, own: u32) -> bool {
    peer == own || peer == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn presence() -> Presence {
        Presence { pid: 7, socket: "/run/x.sock".into(), version: "0.1.0".into() }
    }

    #[test]
    fn a_presence_is_in_force_while_it_is_held() {
        let store = tempfile::tempdir().unwrap();
        assert_eq!(Presence::of(store.path()), Sight::Absent);
        let held = presence().take(store.path()).unwrap();
        assert_eq!(Presence::of(store.path()), Sight::Present(presence()));
        assert!(presence().take(store.path()).is_err(), "taken twice");
        drop(held);
        assert_eq!(Presence::of(store.path()), Sight::Absent);
    }

    #[test]
    fn a_presence_is_whole_and_locked_when_it_appears() {
        let store = tempfile::tempdir().unwrap();
        let file = store.path().join(PRESENCE_FILE);
        for _ in 0..200 {
            std::thread::scope(|scope| {
                let taking = scope.spawn(|| presence().take(store.path()).unwrap());
                while !file.exists() {
                    std::hint::spin_loop();
                }
                assert_eq!(Presence::of(store.path()), Sight::Present(presence()));
                drop(taking.join().unwrap());
            });
        }
        let left: Vec<_> = fs::read_dir(store.path()).unwrap().collect();
        assert!(left.is_empty(), "{left:?}");
    }

    #[test]
    fn a_planted_link_is_not_written_through() {
        let store = tempfile::tempdir().unwrap();
        let victim = store.path().join("victim");
        fs::write(&victim, "theirs").unwrap();
        std::os::unix::fs::symlink(&victim, store.path().join("hypermount.daemon.new")).unwrap();
        let present = presence().take(store.path()).unwrap();
        assert_eq!(fs::read(&victim).unwrap(), b"theirs");
        assert_eq!(Presence::of(store.path()), Sight::Present(presence()));
        drop(present);
    }

    #[test]
    fn a_presence_in_a_store_of_another_program_lies_beside_the_socket() {
        let store = tempfile::tempdir().unwrap();
        fs::write(store.path().join("primary-key"), [1; 32]).unwrap();
        let held = presence().take(store.path()).unwrap();
        assert_eq!(Presence::of(store.path()), Sight::Present(presence()));
        assert_eq!(fs::read_dir(store.path()).unwrap().count(), 1);
        drop(held);
        assert_eq!(Presence::of(store.path()), Sight::Absent);
    }

    #[test]
    fn a_presence_file_without_a_lock_is_no_daemon() {
        let store = tempfile::tempdir().unwrap();
        let text = serde_json::to_vec(&presence()).unwrap();
        fs::write(store.path().join(PRESENCE_FILE), text).unwrap();
        assert_eq!(Presence::of(store.path()), Sight::Absent);
    }

    #[test]
    fn names_of_stores_have_one_length_and_do_not_depend_on_links() {
        let directory = tempfile::tempdir().unwrap();
        let deep = directory.path().join("a".repeat(200)).join("b".repeat(200));
        assert_eq!(name_of(&deep).len(), 16);
        fs::create_dir(directory.path().join("real")).unwrap();
        std::os::unix::fs::symlink("real", directory.path().join("link")).unwrap();
        assert_eq!(
            name_of(&directory.path().join("link")),
            name_of(&directory.path().join("real"))
        );
        assert_ne!(name_of(&deep), name_of(&directory.path().join("real")));
    }

    #[test]
    fn the_socket_serves_its_own_user_and_root() {
        assert!(may_ask(1000, 1000) && may_ask(0, 1000));
        assert!(!may_ask(1001, 1000) && !may_ask(1001, 0));
    }
}
