//! Tests of a whole core.

mod basic;
mod crash;
mod damage;
mod histories;
mod holes;
mod hostile;
mod model;
mod modern;
mod settled;
mod vectors;
mod waiting;

use std::sync::Arc;

use bytes::Bytes;

use super::cache::BlockCache;
use super::storage::Storage;
use super::storage::faulty::World;
use super::{Accepted, Core, Dialect, Opening, Rejected, RemoteTree};
use crate::error::{Error, Result};
use hypermount_swarm::crypto::{KeyPair, PublicKey};

fn pair() -> KeyPair {
    KeyPair::from_seed(&[1; 32])
}

fn block(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

/// Opens the core that lives in `world`; with a pair as its writer.
fn open(world: &World, pair: Option<KeyPair>) -> Result<Core> {
    open_key(world, super::tests::pair().public_key(), pair)
}

fn open_key(world: &World, key: PublicKey, pair: Option<KeyPair>) -> Result<Core> {
    open_as(world, Dialect::Legacy, key, pair)
}

/// Both kinds of cores that are written here.
const KINDS: [Dialect; 2] = [Dialect::Legacy, Dialect::Modern];

/// Opens the core of this kind that lives in `world`, as its writer.
fn open_writer(world: &World, dialect: Dialect) -> Result<Core> {
    open_as(world, dialect, dialect.key_of(&pair()), Some(pair()))
}

fn writer_of(world: &World, dialect: Dialect) -> Core {
    open_writer(world, dialect).unwrap()
}

fn open_as(world: &World, dialect: Dialect, key: PublicKey, pair: Option<KeyPair>) -> Result<Core> {
    let store_pair = pair.is_some();
    Core::open(Opening {
        directory: std::path::Path::new("world"),
        open_file: &|name| Ok(Box::new(world.file(name)) as Box<dyn Storage>),
        key,
        dialect,
        pair,
        store_pair,
        manifest: None,
        writable: true,
        adopted: false,
        cache: Arc::new(BlockCache::new(1 << 20)),
        keep: None,
        stop: None,
        on_stop: None,
    })
}

fn writer(world: &World) -> Core {
    open(world, Some(pair())).unwrap()
}

fn reader(world: &World) -> Core {
    open(world, None).unwrap()
}

/// A writer in memory with these blocks, one signature each.
fn source(blocks: &[Bytes]) -> Core {
    let core = writer(&World::default());
    for block in blocks {
        core.append(std::slice::from_ref(block)).unwrap();
    }
    core.sync().unwrap();
    core
}

/// Blocks of uneven sizes, some empty.
fn uneven(count: usize) -> Vec<Bytes> {
    (0..count).map(|at| Bytes::from(vec![at as u8 + 1; at * 7 % 23])).collect()
}

/// Sends one block from a core to another as a peer would.
fn send(
    from: &Core,
    to: &Core,
    block: u64,
    remote: &mut RemoteTree,
) -> std::result::Result<Accepted, Rejected> {
    let proof = from.prove(block, to.digest(block), false, remote).expect("provable");
    let accepted = match to.accept(proof.clone()) {
        // As a replicator does: the first block after ours shows that the history is ours.
        Err(Rejected::Unconnected { ours, signed }) if signed > ours => {
            let first = from.prove(ours, 0, true, &mut RemoteTree::default()).expect("provable");
            to.accept(first).and_then(|first| {
                to.accept(proof).map(|accepted| Accepted { head: first.head, ..accepted })
            })
        }
        accepted => accepted,
    };
    to.check_invariants();
    accepted
}

/// Fetches all blocks, asking again where own damage was found on the way.
fn fetch_all(from: &Core, to: &Core) {
    for at in 0..from.head().length {
        for _ in 0..4 {
            if to.get_local(at).unwrap().is_some() {
                break;
            }
            match send(from, to, at, &mut RemoteTree::default()) {
                Ok(_) | Err(Rejected::Storage(Error::Corrupt { .. })) => {}
                Err(other) => panic!("block {at}: {other:?}"),
            }
        }
        assert_eq!(to.get_local(at).unwrap(), from.get_local(at).unwrap(), "block {at}");
    }
    assert_eq!(to.head(), from.head(), "all blocks are here");
}
