//! Stores of other programs: which program a directory belongs to, and opening one where it lies.
//!
//! Corestore 6, in which the `drives` command keeps its drives, is read and never written: no file is made,
//! changed or removed there, and its own lock is taken for reading, so that its program does not change the files
//! meanwhile.
//!
//! ```text
//! <root>/primary-key                           32 bytes, locked by the process that has the store open
//! <root>/cores/<dk[0:2]>/<dk[2:4]>/<dk>/…      as in our own stores (`kinds.rs`)
//! ```
//!
//! Not here: which of the cores make a drive, and stores in a RocksDB, which are recognised only.

use std::path::Path;
use std::sync::Arc;

use super::lock::FileLock;
use super::{MASTER_KEY, Store, failed};
use crate::error::{Error, Result};

/// The file that Corestore 6 locks.
pub(super) const PRIMARY_KEY: &str = "primary-key";
/// The file that Corestore 7 locks, and the directory of its database.
const DEVICE_FILE: &str = "CORESTORE";
const DATABASE: &str = "db";
/// Why nothing of ours goes into such a store.
pub(super) const FOREIGN: &str = "the store is another program's, which is only read here";

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
    /// Opens the store of another program in `directory`, for reading.
    pub(super) fn open_foreign(directory: &Path, kind: StoreKind) -> Result<Self> {
        if kind == StoreKind::Corestore7 {
            let program = "Corestore 7 (Pear, Keet, Hyperdrive 12 and 13)";
            return Err(Error::OtherProgram { path: directory.to_owned(), program });
        }
        let lock = FileLock::share(&directory.join(PRIMARY_KEY)).map_err(|error| match error {
            Error::Locked { holder, .. } => Error::Locked { path: directory.to_owned(), holder },
            error => error,
        })?;
        std::fs::read_dir(directory).map_err(failed("list", directory))?;
        log::info!("{}: a store of Corestore 6, opened for reading", directory.display());
        // No core of ours derives from this key: no directory of a core that would is in such a store.
        Ok(Self::new(Some(directory.to_owned()), [0; 32], Some(Arc::new(lock)), None, false))
    }

    /// Whether the store is another program's, so that nothing can be added to it.
    pub fn is_foreign(&self) -> bool {
        let root = self.inner.root.as_deref();
        root.is_some() && self.inner.lock.is_some() && !self.inner.writable
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
