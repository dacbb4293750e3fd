//! What the small files of a core, `key` and `name`, are put right from: the master key, from which both
//! derive; and the damage in a store that holds secret keys.
//!
//! Not here: what is in a core (`hypercore/recover.rs` at open, `check.rs` all of it).

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::Path;

use super::name_file::{read_name, write_name};
use super::{DEFAULT_NAME, Origin, Store, core_directory, failed, survey};
use crate::error::{Error, Result};
use crate::hypercore::{Core, Dialect, StopReason};
use hypermount_swarm::crypto::{DiscoveryKey, PublicKey};

/// A core on disk that is damaged, or shorter than it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DamagedCore {
    /// By which its directory is named.
    pub discovery_key: DiscoveryKey,
    /// `None` where it is lost: its file is damaged, and the core does not derive from a known name.
    pub key: Option<PublicKey>,
    /// What is damaged or missing.
    pub why: String,
}

/// Name of the content core of the drive with this key, from which its own key derives.
pub fn content_name(metadata: &PublicKey) -> String {
    format!("{}-content", metadata.to_hex())
}

impl Store {
    /// The public key of a core on disk: as it is stored or, where that is damaged, as it derives from a
    /// name. `None` where there is no such core, or its key is lost.
    pub(super) fn stored_key(&self, discovery_key: &DiscoveryKey) -> Result<Option<PublicKey>> {
        let Some(root) = &self.inner.root else {
            return Ok(None);
        };
        let directory = core_directory(root, discovery_key);
        if let Some(key) = self.key_in_file(discovery_key)? {
            return Ok(Some(key));
        }
        if !directory.is_dir() {
            return Ok(None);
        }
        let named = read_name(&directory)?.map(|name| self.key_named(&name));
        if let Some(key) = named.filter(|key| key.discovery_key() == *discovery_key) {
            return Ok(Some(key));
        }
        for name in self.names_of_known_drives()? {
            let key = self.key_named(&name);
            if key.discovery_key() == *discovery_key {
                return Ok(Some(key));
            }
        }
        log::warn!("{}: not the key of the core it lies with", directory.join("key").display());
        Ok(None)
    }

    /// The key in the file of a core, if it is the core's.
    fn key_in_file(&self, discovery_key: &DiscoveryKey) -> Result<Option<PublicKey>> {
        let Some(root) = &self.inner.root else {
            return Ok(None);
        };
        let path = core_directory(root, discovery_key).join("key");
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed("read", &path)(error)),
        };
        let key = bytes.get(..32).and_then(PublicKey::from_slice);
        Ok(key.filter(|key| key.discovery_key() == *discovery_key))
    }

    /// Names from which cores of this store may derive, whatever their own files say: of the drive it was
    /// made for, and of the content cores of all drives.
    fn names_of_known_drives(&self) -> Result<Vec<Vec<u8>>> {
        let Some(root) = &self.inner.root else {
            return Ok(Vec::new());
        };
        let mut names = vec![DEFAULT_NAME.to_vec()];
        names.push(content_name(&self.key_named(DEFAULT_NAME)).into_bytes());
        for discovery_key in survey(root)? {
            let named = read_name(&core_directory(root, &discovery_key))?;
            let named = named.map(|name| self.key_named(&name));
            let named = named.filter(|key| key.discovery_key() == discovery_key);
            if let Some(key) = named.or(self.key_in_file(&discovery_key)?) {
                names.push(content_name(&key).into_bytes());
            }
        }
        Ok(names)
    }

    /// The name from which this core derives: the stored one, or the one it must have. `None` if it
    /// derives from none that is known here.
    pub(super) fn derived_name(
        &self,
        key: &PublicKey,
        stored: Option<&[u8]>,
    ) -> Result<Option<Vec<u8>>> {
        if let Some(stored) = stored.filter(|name| self.key_named(name) == *key) {
            return Ok(Some(stored.to_vec()));
        }
        let ours = |marks: &super::Marks| marks.cores().contains(&key.discovery_key());
        if stored.is_none() && !self.inner.marks.as_deref().is_some_and(ours) {
            // Not ours: most cores have no name.
            return Ok(None);
        }
        let mut names = self.names_of_known_drives()?.into_iter();
        Ok(names.find(|name| self.key_named(name) == *key))
    }

    /// Writes the `name` file of the core in this directory again if that is damaged; `name` is the one from which the
    /// key derives.
    pub(super) fn restore_name(&self, directory: &Path, name: &[u8]) -> Result<()> {
        if self.inner.writable && read_name(directory)?.as_deref() != Some(name) {
            log::warn!("{}: name damaged or missing, written again", directory.display());
            write_name(directory, name)?;
        }
        Ok(())
    }

    /// The cores on disk of which not even the key is known any more.
    ///
    /// # Errors
    /// `Storage`.
    pub fn unknown_cores(&self) -> Result<Vec<DamagedCore>> {
        let Some(root) = &self.inner.root else {
            return Ok(Vec::new());
        };
        let mut damaged = Vec::new();
        for discovery_key in survey(root)? {
            let directory = core_directory(root, &discovery_key);
            let empty = fs::read_dir(&directory).is_ok_and(|mut files| files.next().is_none());
            if !empty && self.stored_key(&discovery_key)?.is_none() {
                let why = "its key file is damaged or missing, and it derives from no known name";
                damaged.push(DamagedCore { discovery_key, key: None, why: why.to_owned() });
            }
        }
        Ok(damaged)
    }

    /// The core with this key, to be repaired. One of ours that is too damaged to be written opens read-only,
    /// with what can be proven of it.
    ///
    /// # Errors
    /// `Corrupt` if nothing can be proven; those of [`Store::core`].
    pub fn core_to_repair(&self, key: &PublicKey, dialect: Dialect) -> Result<Core> {
        match self.core_of(key, dialect) {
            Err(Error::Corrupt { .. }) => {
                self.open_core(dialect, key, Origin::default(), Some(StopReason::Restored))
            }
            opened => opened,
        }
    }

    /// Whether what was marked of the core is here, with the history that was marked.
    ///
    /// # Errors
    /// `Storage`.
    pub fn holds_what_was_marked(&self, core: &Core) -> Result<bool> {
        self.inner.marks.as_ref().map_or(Ok(true), |marks| marks.holds(core))
    }

    /// The small files of cores, `key` and `name`, that are damaged or missing. A core that is opened, or
    /// found by its name, has them written again from the master key.
    ///
    /// # Errors
    /// `Storage`.
    pub fn damaged_small_files(&self) -> Result<BTreeSet<(DiscoveryKey, &'static str)>> {
        let mut damaged = BTreeSet::new();
        let Some(root) = &self.inner.root else { return Ok(damaged) };
        let ours = self.inner.marks.as_ref().map(|marks| marks.cores()).unwrap_or_default();
        for discovery_key in survey(root)? {
            let directory = core_directory(root, &discovery_key);
            if self.key_in_file(&discovery_key)?.is_none() {
                damaged.insert((discovery_key, "key"));
            }
            let named = read_name(&directory)?.map(|name| self.key_named(&name));
            let sound = named.is_some_and(|key| key.discovery_key() == discovery_key);
            if !sound && ours.contains(&discovery_key) && !directory.join("secret_key").exists() {
                damaged.insert((discovery_key, "name"));
            }
        }
        Ok(damaged)
    }

    /// How many blocks of a core of ours were marked as safely stored; none of any other core.
    pub fn marked_length(&self, core: &Core) -> u64 {
        let marks = self.inner.marks.as_ref();
        marks.and_then(|marks| marks.length(core.discovery_key())).unwrap_or(0)
    }

    /// What is known to be wrong with an open core that is ours: what was marked as safely stored is
    /// missing, or the name is lost from which its secret key derives.
    pub fn known_damage(&self, core: &Core) -> Option<String> {
        let marks = self.inner.marks.as_ref()?;
        let marked = marks.length(core.discovery_key())?;
        let here = core.head().length;
        if here < marked {
            return Some(format!("{} of its {marked} blocks are missing", marked - here));
        }
        let restored = core.stopped() == Some(StopReason::Restored) && marks.stop().is_none();
        if restored && !marks.holds(core).unwrap_or(false) {
            return Some(
                "what was marked as safely stored is damaged, or not its history".to_owned(),
            );
        }
        let lost = !core.is_own();
        lost.then(|| "its name file is damaged or missing: it can only be read".to_owned())
    }
}
