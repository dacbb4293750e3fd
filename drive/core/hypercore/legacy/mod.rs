//! The rules of Hypercore 9 (docs/format/hypercore9.md): hashes and signed bytes, proofs, the files of a
//! core, and what to believe of them at open.
//!
//! `dialect.rs` alone names this room. Not here: anything that a second kind of core shares.

pub(super) mod hash;
pub(super) mod proof;
pub(super) mod files;
pub(super) mod recover;

use self::files::Files;
use super::files::{OpenFiles, Opened};
use crate::error::{Error, Result};

/// [`super::dialect::Dialect::open`] for Hypercore 9.
pub(super) fn open(opening: OpenFiles) -> Result<Opened> {
    let OpenFiles { directory, open_file, key, pair, store_pair, writable, stopped, .. } = opening;
    let stored = files::read_keys(directory, open_file)?;
    match stored.key {
        // With the secret half at hand it is sure which core this is meant to be; whether it is, the
        // signatures tell.
        Some(stored)
            if stored != *key && pair.as_ref().is_some_and(|pair| pair.public_key() == *key) =>
        {
            log::warn!("{}: key damaged, written again", directory.display());
            if writable {
                files::write_key(directory, open_file, key)?;
            }
        }
        Some(stored) if stored != *key => {
            return Err(Error::NotAStore {
                path: directory.to_owned(),
                why: "Another hypercore is stored here".to_owned(),
            });
        }
        None if writable => files::write_key(directory, open_file, key)?,
        _ => {}
    }
    if let Some(pair) = pair.as_ref().filter(|_| store_pair && stored.pair.is_none()) {
        files::write_secret_key(directory, open_file, pair)?;
    }
    let pair = pair.or(stored.pair).filter(|pair| pair.public_key() == *key);
    let files = Files::open(directory, open_file, writable)?;
    // A stopped core may have holes, which a peer fills: it is mended like a foreign one.
    let owner = pair.as_ref().filter(|_| !stopped);
    let found = recover::recover(&files, key, owner, writable)?;
    Ok(Opened { files: Box::new(files), pair, found })
}
