//! Tests of a whole core.

mod basic;

use std::sync::Arc;

use bytes::Bytes;

use super::cache::BlockCache;
use super::storage::Storage;
use super::storage::faulty::World;
use super::{Core, Opening, Rejected, RemoteTree};
use crate::crypto::{KeyPair, PublicKey};
use crate::error::Result;

pub fn pair() -> KeyPair {
    KeyPair::from_seed(&[1; 32])
}

pub fn block(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

/// Opens the core that lives in `world`.
pub fn open(world: &World, pair: Option<KeyPair>) -> Result<Core> {
    open_key(world, tests_key(), pair)
}

pub fn tests_key() -> PublicKey {
    pair().public_key()
}

pub fn open_key(world: &World, key: PublicKey, pair: Option<KeyPair>) -> Result<Core> {
    let store_pair = pair.is_some();
    Core::open(Opening {
        directory: std::path::Path::new("world"),
        open_file: &|name| Ok(Box::new(world.file(name)) as Box<dyn Storage>),
        key,
        pair,
        store_pair,
        writable: true,
        cache: Arc::new(BlockCache::new(1 << 20)),
        keep: None,
    })
}

pub fn writer(world: &World) -> Core {
    open(world, Some(pair())).unwrap()
}

pub fn reader(world: &World) -> Core {
    open(world, None).unwrap()
}

/// Sends one block from a core to another as a peer would.
pub fn send(from: &Core, to: &Core, block: u64, remote: &mut RemoteTree) -> Result<(), Rejected> {
    let proof = from.prove(block, to.digest(block), false, remote).expect("provable");
    to.accept(proof).map(|_| to.check_invariants())
}
