//! A drive on storage that fails at a chosen call, for the tests of this package and of `fs`.
//!
//! Not here: how it fails, which is [`World`]'s.

use std::path::Path;

use super::*;
use crate::index::content_namespace;
#[cfg(test)]
use crate::{path::DrivePath, stat::Stat};
use bytes::Bytes;
use hypermount_core::testing::{BlockCache, Opening, Storage, beside, key_of};
use hypermount_swarm::crypto::KeyPair;

pub use hypermount_core::testing::World;

#[cfg(test)]
pub(crate) fn path(text: &str) -> DrivePath {
    DrivePath::parse(text).unwrap()
}

#[cfg(test)]
pub(crate) fn put(text: &str, stat: Stat) -> Edit {
    Edit::Put { path: path(text), stat }
}

#[cfg(test)]
pub(crate) fn remove(text: &str) -> Edit {
    Edit::Remove { path: path(text) }
}

pub(crate) fn core(world: &World, name: &str, seed: u8) -> Result<Core> {
    let pair = KeyPair::from_seed(&[seed; 32]);
    core_of(world, name, hypermount_core::Dialect::Legacy, (pair.public_key(), None, pair))
}

fn core_of(
    world: &World,
    name: &str,
    dialect: hypermount_core::Dialect,
    (key, manifest, pair): (PublicKey, Option<Bytes>, KeyPair),
) -> Result<Core> {
    Core::open(Opening {
        directory: Path::new(name),
        open_file: &|file| Ok(Box::new(world.file(&format!("{name}/{file}"))) as Box<dyn Storage>),
        key,
        dialect,
        pair: Some(pair),
        store_pair: false,
        manifest,
        writable: true,
        adopted: false,
        cache: Arc::new(BlockCache::new(1 << 20)),
        keep: None,
        stop: None,
        on_stop: None,
    })
}

/// The drive on the disks of `world`, made if there is none. Mends what a crash left.
///
/// # Errors
/// If a call to the storage fails.
pub async fn open(world: &World) -> Result<Drive> {
    open_in(world, DriveFormat::Hyperdrive10).await
}

/// The same in this format.
///
/// # Errors
/// If a call to the storage fails.
pub async fn open_in(world: &World, format: DriveFormat) -> Result<Drive> {
    let (metadata, content) = match format {
        DriveFormat::Hyperdrive10 => (core(world, "metadata", 1)?, core(world, "content", 2)?),
        DriveFormat::Hyperdrive11 => {
            let (dialect, pair) = (format.dialect(), KeyPair::from_seed(&[1; 32]));
            let key = key_of(dialect, &pair);
            let metadata = core_of(world, "metadata", dialect, (key, None, pair))?;
            let derive = |signer: &[u8; 32]| content_namespace(&metadata, signer);
            let (key, manifest, pair) = beside(&metadata, derive).ok_or(Error::NotFound)?;
            let content = core_of(world, "content", dialect, (key, Some(manifest), pair))?;
            (metadata, content)
        }
    };
    if metadata.head().length == 0 {
        metadata.append(&[IndexLog::first_block(format, *content.key())])?;
    }
    let index = IndexLog::new(metadata, format);
    let drive = Drive::assemble(&Store::memory(), index, Some(content), None);
    drive.mend().await?;
    Ok(drive)
}
