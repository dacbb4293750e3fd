//! Cores by the names from which their key pairs derive, and the cores beside them.
//!
//! One name gives a core of each kind, with key pairs of their own: no key signs in two formats. Not here: the `name`
//! file (`name_file.rs`), and what is put right from a name (`healing.rs`).

use std::fs;
use std::path::PathBuf;

use super::foreign::{ADOPTED, FOREIGN};
use super::name_file::read_name;
use super::owner::CORES;
use super::{DEFAULT_NAME, MAX_NAME_LENGTH, Origin, Store, core_directory};
use crate::error::{Error, Result};
use crate::hypercore::{Core, CoreName, Dialect, StopReason};
use hypermount_swarm::crypto::{self, KeyPair, PublicKey};

/// Namespace of all derived key pairs of cores of Hypercore 9.
const NAMESPACE: &str = "corestore";
/// That of cores of Hypercore 10 and 11.
const MODERN_NAMESPACE: &str = "hypercore 10";

const KINDS: [Dialect; 2] = [Dialect::Legacy, Dialect::Modern];

/// The key pair of the core of this kind that is derived from `name`.
pub(super) fn derive(dialect: Dialect, master_key: &[u8; 32], name: &[u8]) -> KeyPair {
    let namespace = match dialect {
        Dialect::Legacy => NAMESPACE,
        Dialect::Modern => MODERN_NAMESPACE,
    };
    KeyPair::from_seed(&crypto::derive_seed(master_key, namespace, name))
}

impl Store {
    /// The core of this kind derived from the master key and `name`; writable.
    ///
    /// # Errors
    /// Those of [`Store::core`], `Unsupported` for a name that is empty or longer
    /// than 1024 bytes.
    pub fn core_named_of(&self, name: &[u8], dialect: Dialect) -> Result<Core> {
        if name.is_empty() || name.len() > MAX_NAME_LENGTH {
            return Err(Error::Unsupported(format!("a core name of {} bytes", name.len())));
        }
        if self.is_of_another_program() {
            return Err(Error::ReadOnly(if self.is_foreign() { FOREIGN } else { ADOPTED }));
        }
        let pair = self.derive(dialect, name);
        let key = dialect.key_of(&pair);
        let origin = Origin { pair: Some(pair), name: Some(name), manifest: None };
        self.open_core(dialect, &key, origin, None)
    }

    /// [`Store::core_named_of`] Hypercore 9.
    ///
    /// # Errors
    /// Those of [`Store::core_named_of`].
    pub fn core_named(&self, name: &[u8]) -> Result<Core> {
        self.core_named_of(name, Dialect::Legacy)
    }

    /// The core that the signer of `core` signs too, under the namespace that `derive` makes of its own
    /// ([`Core::key_with_namespaces`]); writable if `core` is.
    ///
    /// # Errors
    /// `ReadOnly` if the secret key of `core` is not here; those of [`Store::core`].
    pub fn core_beside(&self, core: &Core, derive: impl Fn(&[u8; 32]) -> [u8; 32]) -> Result<Core> {
        let (key, manifest, pair) =
            core.beside(derive).ok_or(Error::ReadOnly("the core's secret key is not here"))?;
        let origin = Origin { pair: Some(pair), name: None, manifest: Some(manifest) };
        self.open_core(core.dialect(), &key, origin, None)
    }

    /// The core `key` of the kind of `core`. Where it is that of [`Store::core_beside`], its key pair is known even if its
    /// own files have lost it; with `stop` it takes no appends.
    ///
    /// # Errors
    /// Those of [`Store::core`].
    pub fn core_with(
        &self,
        core: &Core,
        key: &PublicKey,
        derive: impl Fn(&[u8; 32]) -> [u8; 32],
        stop: Option<StopReason>,
    ) -> Result<Core> {
        let beside = core.beside(derive).filter(|(derived, _, _)| derived == key);
        let origin = beside.map(|(_, manifest, pair)| Origin {
            pair: Some(pair),
            name: None,
            manifest: Some(manifest),
        });
        self.open_core(core.dialect(), key, origin.unwrap_or_default(), stop)
    }

    /// Key of the core named `default`, if it is on disk: the drive of a `hyperdrive("dir")`.
    ///
    /// # Errors
    /// `Storage`.
    pub fn default_key(&self) -> Result<Option<PublicKey>> {
        self.named_key(DEFAULT_NAME)
    }

    /// Key of the core derived from `name`, of either kind, if it is on disk. Its `name` file is written again if that
    /// is damaged: without it the secret key cannot be derived when the core is opened by its key.
    ///
    /// # Errors
    /// `Storage`.
    pub fn named_key(&self, name: &[u8]) -> Result<Option<PublicKey>> {
        for dialect in KINDS {
            let key = dialect.key_of(&self.derive(dialect, name));
            let discovery_key = key.discovery_key();
            let core = CoreName { dialect, discovery_key };
            if self.inner.cores.lock().contains_key(&core) {
                return Ok(Some(key));
            }
            // Whatever its files say: were it passed over because they are damaged, another drive of the store would
            // be taken for this one.
            let directory = self.directory_of(&core);
            let stored = |directory: &PathBuf| {
                fs::read_dir(directory).is_ok_and(|mut files| files.next().is_some())
            };
            if let Some(directory) = directory.filter(stored) {
                self.restore_name(&directory, name)?;
                return Ok(Some(key));
            }
        }
        Ok(None)
    }

    /// The name a core on disk was derived from, if this store's master key made it.
    ///
    /// # Errors
    /// `Storage`.
    pub fn name_of(&self, key: &PublicKey) -> Result<Option<Vec<u8>>> {
        let discovery_key = key.discovery_key();
        for dialect in KINDS {
            let directory = self.directory_of(&CoreName { dialect, discovery_key });
            let name = directory.map(|directory| read_name(&directory)).transpose()?.flatten();
            let fits = |name: &Vec<u8>| dialect.key_of(&self.derive(dialect, name)) == *key;
            if let Some(name) = name.filter(fits) {
                return Ok(Some(name));
            }
        }
        Ok(None)
    }

    /// The key of the core of Hypercore 9 derived from the master key and `name`, which need not exist.
    pub fn key_named(&self, name: &[u8]) -> PublicKey {
        self.derive(Dialect::Legacy, name).public_key()
    }

    pub(super) fn derive(&self, dialect: Dialect, name: &[u8]) -> KeyPair {
        derive(dialect, &self.inner.master_key, name)
    }

    /// Where the files of a core are; `None` in memory.
    pub(super) fn directory_of(&self, core: &CoreName) -> Option<PathBuf> {
        let root = self.inner.root.as_ref()?;
        Some(match core.dialect {
            Dialect::Legacy => core_directory(root, &core.discovery_key),
            Dialect::Modern => core_directory(&root.join(CORES), &core.discovery_key),
        })
    }
}
