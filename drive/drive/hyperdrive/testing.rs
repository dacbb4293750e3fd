//! A drive on storage that fails at a chosen call, for the tests of this package and of `fs`.
//!
//! Not here: how it fails, which is [`World`]'s.

use std::path::Path;

use super::*;
use hypermount_core::testing::{BlockCache, Opening, Storage};
use hypermount_swarm::crypto::KeyPair;

pub use hypermount_core::testing::World;

pub(crate) fn core(world: &World, name: &str, seed: u8) -> Result<Core> {
    let pair = KeyPair::from_seed(&[seed; 32]);
    Core::open(Opening {
        directory: Path::new(name),
        open_file: &|file| Ok(Box::new(world.file(&format!("{name}/{file}"))) as Box<dyn Storage>),
        key: pair.public_key(),
        pair: Some(pair),
        store_pair: false,
        writable: true,
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
    let (metadata, content) = (core(world, "metadata", 1)?, core(world, "content", 2)?);
    if metadata.head().length == 0 {
        metadata.append(&[IndexLog::first_block(*content.key())])?;
    }
    let drive = Drive::assemble(&Store::memory(), metadata, Some(content), None);
    drive.mend().await?;
    Ok(drive)
}
