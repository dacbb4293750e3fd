//! Stores of other programs: which program a directory belongs to, and opening one where it lies.
//!
//! Corestore 6, in which the `drives` command keeps its drives, is read: no file is made, changed or removed
//! there, and its own lock is taken for reading, so that its program does not change the files meanwhile. A user may
//! adopt such a store. Then its drives are written here too, in the same files, and its lock is taken for writing;
//! its program and this one take turns.
//!
//! ```text
//! <root>/primary-key                           32 bytes, locked by the process that has the store open
//! <root>/cores/<dk[0:2]>/<dk[2:4]>/<dk>/…      as in our own stores (`kinds.rs`)
//! <root>/hypermount.mark                       if it was adopted
//! ```
//!
//! Not here: which of the cores make a drive, and stores in a RocksDB, which are recognised only.

use std::path::Path;
use std::sync::Arc;

use super::lock::FileLock;
use super::mark::{MARK_FILE, Marks};
use super::owner::{self, Access};
use super::{LOCK_FILE, MASTER_KEY, MachineIdentity, Store, failed};
use crate::error::{Error, Result};

/// The file that Corestore 6 locks.
pub(super) const PRIMARY_KEY: &str = "primary-key";
/// The file that Corestore 7 locks, and the directory of its database.
const DEVICE_FILE: &str = "CORESTORE";
const DATABASE: &str = "db";
/// Why nothing of ours goes into such a store.
pub(super) const FOREIGN: &str = "the store is another program's, which is only read here";
/// Why no drive is made in an adopted one.
pub(super) const ADOPTED: &str = "the store is another program's, which makes the drives in it";

/// The program that a store belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreKind {
    /// This one, or Corestore 5, whose layout is ours.
    Own,
    /// Corestore 6 with Hypercore 10, as the `drives` command has it.
    Corestore6,
    /// Corestore 7 with Hypercore 11: a RocksDB.
    Corestore7,
}

impl StoreKind {
    /// Whose store the directory is; `None` if it is none that is known.
    ///
    /// A directory of Corestore 6 that Corestore 7 has failed to convert has the files of both: the old ones
    /// are the ones in use.
    pub fn of(directory: &Path) -> Option<Self> {
        let is_file = |name: &str| directory.join(name).is_file();
        let is_directory = |name: &str| directory.join(name).is_dir();
        if is_file(MASTER_KEY) {
            return Some(Self::Own);
        }
        if is_file(PRIMARY_KEY) {
            return Some(Self::Corestore6);
        }
        let database = is_file(DEVICE_FILE) && is_directory(DATABASE);
        database.then_some(Self::Corestore7)
    }
}

impl Store {
    /// Opens the store of another program in `directory`: for reading, or to write its drives if it was adopted.
    pub(super) fn open_foreign(
        directory: &Path,
        kind: StoreKind,
        identity: &MachineIdentity,
    ) -> Result<Self> {
        if kind == StoreKind::Corestore7 {
            let program = "Corestore 7 (Pear, Keet, Hyperdrive 12 and 13)";
            return Err(Error::OtherProgram { path: directory.to_owned(), program });
        }
        std::fs::read_dir(directory).map_err(failed("list", directory))?;
        let adopted = directory.join(MARK_FILE).exists();
        if adopted && owner::access(directory, false)? == Access::Write {
            let (lock, marks) = take(directory, identity)?;
            log::info!("{}: an adopted store of Corestore 6", directory.display());
            return Ok(Self::new(
                Some(directory.to_owned()),
                [0; 32],
                Some(lock),
                Some(marks),
                kind,
            ));
        }
        let lock = FileLock::share(&directory.join(PRIMARY_KEY));
        let lock = lock.map_err(|error| of_store(error, directory))?;
        log::info!("{}: a store of Corestore 6, opened for reading", directory.display());
        // No core of ours derives from this key: no directory of a core that would is in such a store.
        Ok(Self::new(Some(directory.to_owned()), [0; 32], Some(Arc::new(lock)), None, kind))
    }

    /// Makes the drives of the store of Corestore 6 in `directory` writable here, as it is now. Its program can still
    /// use the store, but not while it is open here.
    ///
    /// # Errors
    /// `NotAStore` for another directory, `Locked` while a process has the store open, `NotOwner`, `ReadOnly`,
    /// `Storage`.
    pub fn adopt_from_program(directory: &Path, identity: &MachineIdentity) -> Result<()> {
        if StoreKind::of(directory) != Some(StoreKind::Corestore6) {
            let why = "it is no store of Corestore 6".to_owned();
            return Err(Error::NotAStore { path: directory.to_owned(), why });
        }
        if owner::access(directory, false)? == Access::Read {
            return Err(Error::ReadOnly("the store's medium cannot be written"));
        }
        let (_lock, marks) = take(directory, identity)?;
        marks.adopt(&[])
    }

    /// Whether the store is another program's and was not adopted, so that nothing can be added to it.
    pub fn is_foreign(&self) -> bool {
        self.is_of_another_program() && !self.inner.writable
    }

    /// Whether the store is another program's, adopted or not.
    pub fn is_of_another_program(&self) -> bool {
        self.inner.kind != StoreKind::Own
    }
}

/// The locks of this program and of the other one, and the marks.
fn take(directory: &Path, identity: &MachineIdentity) -> Result<(Arc<FileLock>, Arc<Marks>)> {
    let path = directory.join(PRIMARY_KEY);
    let theirs = FileLock::take_from_program(&path).map_err(|error| of_store(error, directory))?;
    let ours = FileLock::take_store(&directory.join(LOCK_FILE), directory)?;
    let ours = ours.ok_or(Error::ReadOnly("the store's medium cannot be written"))?;
    let primary_key = std::fs::read(&path).map_err(failed("read", &path))?;
    let primary_key = <[u8; 32]>::try_from(primary_key).map_err(|bytes| Error::NotAStore {
        path: directory.to_owned(),
        why: format!("its {PRIMARY_KEY} has {} bytes instead of 32", bytes.len()),
    })?;
    let marks = Marks::open(directory, &primary_key, identity)?;
    Ok((Arc::new(theirs.and(ours)), Arc::new(marks)))
}

/// A lock that another process has is that of the store.
fn of_store(error: Error, directory: &Path) -> Error {
    match error {
        Error::Locked { holder, .. } => Error::Locked { path: directory.to_owned(), holder },
        error => error,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn the_program_of_a_directory_is_told_by_its_files() {
        let directory = tempfile::tempdir().unwrap();
        let at = directory.path();
        let kind = || StoreKind::of(at);
        assert_eq!(kind(), None);
        fs::create_dir(at.join("db")).unwrap();
        assert_eq!(kind(), None);
        fs::write(at.join("CORESTORE"), "").unwrap();
        assert_eq!(kind(), Some(StoreKind::Corestore7));
        fs::write(at.join("primary-key"), [7; 32]).unwrap();
        assert_eq!(kind(), Some(StoreKind::Corestore6), "left behind by a conversion that failed");
        fs::write(at.join("master_key"), [7; 32]).unwrap();
        assert_eq!(kind(), Some(StoreKind::Own));
        assert_eq!(StoreKind::of(&at.join("absent")), None);
    }

    #[test]
    fn a_store_of_corestore_7_is_refused_by_name() {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("db")).unwrap();
        fs::write(directory.path().join("CORESTORE"), "").unwrap();
        for create in [false, true] {
            match Store::open(directory.path(), create).err() {
                Some(Error::OtherProgram { program, .. }) => {
                    assert!(program.contains("Corestore 7"), "{program}");
                }
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn nothing_is_added_to_a_store_of_another_program() {
        let directory = tempfile::tempdir().unwrap();
        let at = directory.path();
        fs::write(at.join("primary-key"), [7; 32]).unwrap();
        let store = Store::open(at, true).unwrap();
        assert!(store.is_foreign());
        let key = hypermount_swarm::crypto::PublicKey::new([3; 32]);
        assert!(matches!(store.core_named(b"a"), Err(Error::ReadOnly(FOREIGN))));
        assert!(matches!(store.core(&key), Err(Error::ReadOnly(FOREIGN))));
        let absent = store.core_of(&key, crate::Dialect::Modern).unwrap();
        assert_eq!((absent.head().length, absent.writable()), (0, false));
        assert!(matches!(store.adopt(true), Err(Error::ReadOnly(FOREIGN))));
        assert!(matches!(store.keep_encryption_key(&key, &[1; 32]), Err(Error::ReadOnly(FOREIGN))));
        store.give_up(absent);
        drop(store);
        let left: Vec<_> = fs::read_dir(at).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert_eq!(left, [at.join("primary-key")]);
    }
}
