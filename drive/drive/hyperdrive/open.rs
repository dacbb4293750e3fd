//! Opening a drive: which kind of core it is in, which format its index has, and its content core.
//!
//! Not here: which nested drive lies where in a folder.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::{Drive, Inner, Maps, snapshot_of};
use crate::index::{DriveFormat, FirstBlock, IndexLog, content_namespace, derived_content_key};
use hypermount_core::{Core, Dialect, Error, Result, StopReason, Store, Wait, content_name};
use hypermount_swarm::crypto::PublicKey;
use hypermount_swarm::sync::{Mutex, Rank};
use tokio::time::Instant;

/// How long a drive without a block is waited for after a peer has proven that it may be one: another peer may have
/// blocks of it.
const EMPTY_AFTER: Duration = Duration::from_secs(1);
/// How often that is looked at.
const POLLED_EVERY: Duration = Duration::from_millis(50);

impl Drive {
    /// Opens the drive with this key, at its newest version or frozen at `version`; fetches the
    /// header block from peers within `wait` if it is not here.
    ///
    /// A key does not tell the kind of its core. Where none is stored, the first block of both kinds is
    /// requested, and the one that arrives first is opened. Without any block, a core of Hypercore 10 or 11 is known by
    /// its manifest: if that is all that peers have, the drive is opened without an entry, and follows what they
    /// get.
    ///
    /// # Errors
    /// `Malformed` if the core is no index; those of [`Store::core`] and [`Core::get`].
    pub async fn open(
        store: &Store,
        key: &PublicKey,
        version: Option<u64>,
        wait: Wait,
    ) -> Result<Self> {
        let dialect = dialect_of(store, key, version, wait, true).await?;
        let metadata = store.core_of(key, dialect)?;
        if version.is_none() && metadata.is_proven_empty() && !wait.is_local() {
            return Self::open_empty(store, metadata);
        }
        Self::open_as(store, key, dialect, version, wait).await
    }

    /// Opens a drive of Hyperdrive 11 to 13 of which no block exists, as far as peers say.
    fn open_empty(store: &Store, metadata: Core) -> Result<Self> {
        unlock(store, metadata.key(), &metadata)?;
        let content = unlocked_content(store, &metadata, derived_content_key(&metadata))?;
        let index = IndexLog::new(metadata, DriveFormat::Hyperdrive11);
        let drive = Self::assemble(store, index, content, None);
        drive.inner.unbegun.store(true, Ordering::Release);
        Ok(drive)
    }

    /// Reads the first block of a drive that had none when it was opened.
    pub(super) async fn begin(&self, wait: Wait) -> Result<()> {
        if !self.is_unbegun() {
            return Ok(());
        }
        let (store, metadata) = (self.store(), self.metadata());
        let first = metadata.get(0, wait).await?;
        let begun = FirstBlock::decode(metadata, &first).and_then(|first| {
            if first.format != self.format() {
                let what = format!("a drive of {} in a core of Hypercore 11", first.format);
                return Err(Error::Unsupported(what));
            }
            let content = unlocked_content(store, metadata, first.content(metadata)?)?;
            if let Some(content) = content {
                // The one that derives from the manifest may be there already.
                let _ = self.inner.content.set(content);
            }
            Ok(())
        });
        if let Err(error) = &begun {
            log::warn!("{}: shown without an entry: {error}", metadata.discovery_key());
        }
        begun?;
        self.inner.unbegun.store(false, Ordering::Release);
        self.inner.index.fetch_if_small();
        Ok(())
    }

    /// Opens the drive to keep all its blocks and give them to peers. An encrypted one whose key is not here
    /// opens too: its cores can be fetched and verified, and none of its entries read.
    ///
    /// # Errors
    /// Those of [`Drive::open`]; `NeedsEncryptionKey` for an encrypted drive whose content core no manifest
    /// names.
    pub async fn open_to_seed(store: &Store, key: &PublicKey, wait: Wait) -> Result<Self> {
        let dialect = dialect_of(store, key, None, wait, false).await?;
        let sealed = match Self::open_as(store, key, dialect, None, wait).await {
            Err(sealed @ (Error::NeedsEncryptionKey(_) | Error::WrongEncryptionKey(_))) => sealed,
            opened => return opened,
        };
        let metadata = store.core_of(key, dialect)?;
        let Some(content) = derived_content_key(&metadata) else { return Err(sealed) };
        let content = content_core(store, &metadata, &content, None)?;
        let index = IndexLog::new(metadata, DriveFormat::Hyperdrive11);
        Ok(Self::assemble(store, index, Some(content), None))
    }

    /// Opens a drive whose index is in a core of this kind, see [`Drive::open`].
    pub(super) async fn open_as(
        store: &Store,
        key: &PublicKey,
        dialect: Dialect,
        version: Option<u64>,
        wait: Wait,
    ) -> Result<Self> {
        let metadata = store.core_of(key, dialect)?;
        let opened = Self::open_core(store, metadata.clone(), version, wait).await;
        if opened.is_err() {
            store.give_up(metadata);
        }
        opened
    }

    async fn open_core(
        store: &Store,
        metadata: Core,
        version: Option<u64>,
        wait: Wait,
    ) -> Result<Self> {
        if !wait.is_local() {
            store.want_drive(*metadata.discovery_key());
        }
        want_newest(&metadata, version, wait);
        unlock(store, metadata.key(), &metadata)?;
        let first = FirstBlock::decode(&metadata, &metadata.get(0, wait).await?);
        match &first {
            Ok(_) if metadata.is_unlocked() => store.settle_encryption_key(metadata.key())?,
            Err(Error::WrongEncryptionKey(_)) => {
                withdraw_wrong_key(store, metadata.key(), &metadata)?;
            }
            _ => {}
        }
        let first = first?;
        if let Some(version) = version
            && version > metadata.head().length
        {
            metadata.longer_than(version - 1, wait).await?;
        }
        let content = unlocked_content(store, &metadata, first.content(&metadata)?)?;
        let index = IndexLog::new(metadata, first.format);
        let drive = Self::assemble(store, index, content, version);
        if !wait.is_local() {
            drive.inner.index.fetch_if_small();
        }
        if drive.writable() {
            drive.mend().await?;
        }
        Ok(drive)
    }

    /// Makes (or reopens) the drive of Hyperdrive 10 whose metadata core derives from `name`.
    ///
    /// # Errors
    /// Those of [`Drive::create_in`].
    pub fn create(store: &Store, name: &str) -> Result<Self> {
        Self::create_in(DriveFormat::Hyperdrive10, store, name)
    }

    /// Makes (or reopens) the drive of this format whose metadata core derives from `name`.
    ///
    /// # Errors
    /// Those of [`Store::core_named_of`] and [`Store::core_beside`].
    pub fn create_in(format: DriveFormat, store: &Store, name: &str) -> Result<Self> {
        let metadata = store.core_named_of(name.as_bytes(), format.dialect())?;
        unlock(store, metadata.key(), &metadata)?;
        if metadata.head().length == 0 {
            let content = match format {
                DriveFormat::Hyperdrive10 => {
                    store.core_named(content_name(metadata.key()).as_bytes())?
                }
                // The header does not name it: it has to be there before.
                DriveFormat::Hyperdrive11 => {
                    store.core_beside(&metadata, |signer| content_namespace(&metadata, signer))?
                }
            };
            metadata.append(&[IndexLog::first_block(format, *content.key())])?;
        }
        let first = metadata.get_local(0)?.ok_or(Error::NotFound)?;
        let first = FirstBlock::decode(&metadata, &first)?;
        let content = unlocked_content(store, &metadata, first.content(&metadata)?)?;
        Ok(Self::assemble(store, IndexLog::new(metadata, first.format), content, None))
    }

    /// Makes the encrypted drive of Hyperdrive 11 to 13 whose metadata core derives from `name`. Its encryption key is
    /// random, and kept in the store before anything is written.
    ///
    /// # Errors
    /// `Unsupported` if there is a drive of that name; those of [`Drive::create_in`] and
    /// [`Store::make_encryption_key`].
    pub fn create_encrypted(store: &Store, name: &str) -> Result<Self> {
        let format = DriveFormat::Hyperdrive11;
        let metadata = store.core_named_of(name.as_bytes(), format.dialect())?;
        if metadata.head().length > 0 {
            return Err(Error::Unsupported(format!("encrypting the drive {name}, which exists")));
        }
        store.make_encryption_key(metadata.key())?;
        Self::create_in(format, store, name)
    }

    pub(super) fn assemble(
        store: &Store,
        index: IndexLog,
        content: Option<Core>,
        frozen: Option<u64>,
    ) -> Self {
        let metadata = index.core();
        if let Some(content) = &content {
            metadata.settle_after(content);
        }
        let version = frozen.unwrap_or(metadata.head().length);
        let turns = store.turns(metadata.discovery_key());
        let maps = Arc::new(Maps::new());
        let forks = OnceLock::new();
        let current = snapshot_of(&index, content.as_ref(), &maps, &forks, version);
        let inner = Inner {
            store: store.clone(),
            index,
            content: content.map_or_else(OnceLock::new, OnceLock::from),
            unbegun: AtomicBool::new(false),
            maps,
            frozen,
            forks,
            current: Mutex::new(Rank::DRIVE, Arc::new(current)),
            turns,
        };
        Self { inner: Arc::new(inner) }
    }
}

/// The content core `key` of the drive with this index; with `stop` it takes no appends. It has the key pair of the index
/// where that signs it too, even if its own files have lost it.
pub(crate) fn content_core(
    store: &Store,
    index: &Core,
    key: &PublicKey,
    stop: Option<StopReason>,
) -> Result<Core> {
    store.core_with(index, key, |signer| content_namespace(index, signer), stop)
}

/// The content core with this key, which the encryption key of the drive opens if that is kept here.
fn unlocked_content(store: &Store, index: &Core, key: Option<PublicKey>) -> Result<Option<Core>> {
    let Some(key) = key else { return Ok(None) };
    let content = content_core(store, index, &key, None)?;
    unlock(store, index.key(), &content)?;
    Ok(Some(content))
}

/// Gives a core the encryption key of its drive, if that is kept here.
///
/// # Errors
/// `WrongEncryptionKey` for a key that certainly is not the drive's: it is kept no longer.
pub(crate) fn unlock(store: &Store, drive: &PublicKey, core: &Core) -> Result<()> {
    let Some(key) = store.encryption_key(drive)? else { return Ok(()) };
    if core.unlock(&key)? {
        return Ok(());
    }
    withdraw_wrong_key(store, drive, core)?;
    Err(Error::WrongEncryptionKey(*core.discovery_key()))
}

/// Forgets the encryption key of a drive of another publisher. The only copy of one's own is kept, whatever it opens.
fn withdraw_wrong_key(store: &Store, drive: &PublicKey, core: &Core) -> Result<()> {
    if core.writable() { Ok(()) } else { store.withdraw_encryption_key(drive) }
}

/// The kind of the core with this key: the one that is stored here, else the one that a peer has.
async fn dialect_of(
    store: &Store,
    key: &PublicKey,
    version: Option<u64>,
    wait: Wait,
    may_be_empty: bool,
) -> Result<Dialect> {
    match store.stored_dialect(key)? {
        Some(dialect) => Ok(dialect),
        None if wait.is_local() => Ok(Dialect::Legacy),
        None => find_out(store, key, version, wait, may_be_empty && version.is_none()).await,
    }
}

/// The newest block leads to everything else: it is fetched in the same round trip as the first one. No
/// caller has to wait for it here.
fn want_newest(metadata: &Core, version: Option<u64>, wait: Wait) {
    if version.is_none() && !wait.is_local() && !metadata.has(0) {
        drop(metadata.demand().want_longer(metadata.head().length));
    }
}

/// Which kind of core with this key peers have: that of which the first block arrives first. The core of the
/// other kind is given up.
async fn find_out(
    store: &Store,
    key: &PublicKey,
    version: Option<u64>,
    wait: Wait,
    may_be_empty: bool,
) -> Result<Dialect> {
    let legacy = store.core_of(key, Dialect::Legacy)?;
    if legacy.is_own() {
        return Ok(Dialect::Legacy);
    }
    let modern = match store.core_of(key, Dialect::Modern) {
        Ok(modern) => modern,
        Err(error) => {
            store.give_up(legacy);
            return Err(error);
        }
    };
    store.want_drive(*legacy.discovery_key());
    want_newest(&legacy, version, wait);
    want_newest(&modern, version, wait);
    let found = tokio::select! {
        found = first_of(&legacy, &modern, wait) => found,
        () = proven_empty(&modern), if may_be_empty => Ok(Dialect::Modern),
    };
    let (kept, given_up) = match &found {
        Ok(Dialect::Modern) => (Some(modern), vec![legacy]),
        Ok(Dialect::Legacy) => (Some(legacy), vec![modern]),
        Err(_) => (None, vec![legacy, modern]),
    };
    given_up.into_iter().for_each(|core| store.give_up(core));
    drop(kept);
    found
}

/// Waits until peers have proven that the key is one of a core of Hypercore 10 or 11, and have had no block of it for
/// some time.
async fn proven_empty(modern: &Core) {
    let mut since = Instant::now();
    loop {
        tokio::time::sleep(POLLED_EVERY).await;
        if !modern.is_proven_empty() {
            since = Instant::now();
        } else if since.elapsed() >= EMPTY_AFTER {
            return;
        }
    }
}

/// Waits for the first block of either; if neither comes, the error says so of both.
async fn first_of(legacy: &Core, modern: &Core, wait: Wait) -> Result<Dialect> {
    let (mut legacy, mut modern) = (Box::pin(legacy.get(0, wait)), Box::pin(modern.get(0, wait)));
    tokio::select! {
        biased;
        first = &mut legacy => match first {
            Ok(_) => Ok(Dialect::Legacy),
            Err(legacy) => modern.await.map(|_| Dialect::Modern).map_err(|modern| both(legacy, modern)),
        },
        first = &mut modern => match first {
            Ok(_) => Ok(Dialect::Modern),
            Err(modern) => legacy.await.map(|_| Dialect::Legacy).map_err(|legacy| both(legacy, modern)),
        },
    }
}

/// The error of the older kind, with that of the newer one if it says something else.
fn both(legacy: Error, modern: Error) -> Error {
    match (legacy, modern) {
        (
            Error::Unavailable { core, block, waited, why },
            Error::Unavailable { why: why_modern, .. },
        ) => {
            let why = match why == why_modern {
                true => why,
                false => format!("{why}; as a core of Hypercore 10 or 11: {why_modern}"),
            };
            Error::Unavailable { core, block, waited, why }
        }
        // A fork, or damage, says more than that no peer has it.
        (Error::Unavailable { .. }, modern) => modern,
        (legacy, _) => legacy,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_error_of_both_kinds_names_what_differs() {
        let unavailable = |why: &str| Error::Unavailable {
            core: PublicKey::new([1; 32]).discovery_key(),
            block: 0,
            waited: Duration::ZERO,
            why: why.to_owned(),
        };
        let why = |error: Error| match error {
            Error::Unavailable { why, .. } => why,
            other => panic!("{other}"),
        };
        assert_eq!(why(both(unavailable("a"), unavailable("a"))), "a");
        let differs = why(both(unavailable("a"), unavailable("b")));
        assert_eq!(differs, "a; as a core of Hypercore 10 or 11: b");
        let forked = || Error::Malformed("forked".into());
        assert!(matches!(both(unavailable("a"), forked()), Error::Malformed(_)));
        assert!(matches!(both(forked(), unavailable("a")), Error::Malformed(_)));
    }
}
