//! Cores of Hypercore 10 and 11 in files: those that the reference left, and those that are written here when the
//! machine stops.

use bytes::Bytes;
use serde_json::Value;

use super::super::dialect::{ProofRequest, Upgrade, Way};
use super::super::{Head, Received, ReceivedProof};
use super::*;

const POWER_CUTS: u64 = 12;

pub(super) fn open_modern(
    world: &World,
    key: PublicKey,
    pair: Option<KeyPair>,
    writable: bool,
) -> Result<Core> {
    Core::open(Opening {
        directory: std::path::Path::new("world"),
        open_file: &|name| Ok(Box::new(world.file(name)) as Box<dyn Storage>),
        key,
        dialect: Dialect::Modern,
        pair,
        store_pair: false,
        manifest: None,
        writable,
        adopted: false,
        cache: Arc::new(BlockCache::new(1 << 20)),
        keep: None,
        stop: None,
        on_stop: None,
    })
}

fn recorded() -> Vec<Value> {
    let path = format!("{}/../../tests/vectors/modern/oplog.json", env!("CARGO_MANIFEST_DIR"));
    let all: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    all["cores"].as_array().unwrap().clone()
}

fn key_of(core: &Value) -> PublicKey {
    PublicKey::from_hex(core["key"].as_str().unwrap()).unwrap()
}

/// A machine with the files of a recorded core.
fn world_of(core: &Value) -> World {
    let world = World::default();
    for (name, file) in core["files"].as_object().unwrap() {
        let mut bytes = hex::decode(file["bytes"].as_str().unwrap()).unwrap();
        bytes.resize(file["length"].as_u64().unwrap() as usize, 0);
        let disk = world.file(name);
        disk.write_at(0, &bytes).unwrap();
        disk.sync().unwrap();
    }
    world
}

fn check_recorded(core: &Core, expected: &Value) {
    let head = core.head();
    let number = |name: &str| expected[name].as_u64().unwrap();
    assert_eq!(head.length, number("length"));
    assert_eq!((head.fork, head.byte_length), (number("fork"), number("byteLength")));
    core.check_invariants();
    for (at, block) in (0..).zip(expected["blocks"].as_array().unwrap()) {
        let stored = core.get_local(at).unwrap();
        let block = block.as_str().map(|block| Bytes::from(hex::decode(block).unwrap()));
        assert_eq!(stored, block, "block {at} of {}", expected["name"]);
    }
    assert_eq!(core.audit().unwrap().invalid, 0);
}

#[test]
fn the_cores_of_the_reference_open_with_every_block() {
    for expected in recorded() {
        for writable in [false, true] {
            let world = world_of(&expected);
            let names = ["oplog", "tree", "data", "bitfield", "header"];
            let bytes = || names.map(|name| world.file(name).bytes());
            let before = bytes();
            let core = open_modern(&world, key_of(&expected), None, writable).unwrap();
            check_recorded(&core, &expected);
            drop(core);
            // A writer takes over what is in entries.
            assert!(writable || bytes() == before, "nothing was changed");
        }
    }
}

/// What was in entries of the reference is in a header of ours after the next change.
#[test]
fn a_core_of_the_reference_is_the_same_after_it_was_changed_here() {
    for expected in recorded().into_iter().filter(|core| core["length"] != 0) {
        let world = world_of(&expected);
        let core = open_modern(&world, key_of(&expected), None, true).unwrap();
        core.clear(0..1).unwrap();
        core.sync().unwrap();
        drop(core);
        let mut left = expected.clone();
        left["blocks"][0] = Value::Null;
        assert_eq!(world.file("oplog").len().unwrap(), 8192);
        let core = open_modern(&world, key_of(&expected), None, false).unwrap();
        check_recorded(&core, &left);
    }
}

/// Without its head a core that another program writes is damaged, and one that is fetched is empty.
#[test]
fn a_head_that_does_not_verify_is_not_believed() {
    let expected = &recorded()[2];
    for (file, bit) in [("tree", 7 * 40 * 8 + 100), ("oplog", 4096 * 8 + 300)] {
        for writable in [false, true] {
            let world = world_of(expected);
            world.file(file).flip(bit);
            world.file("oplog").flip(300);
            match open_modern(&world, key_of(expected), None, writable) {
                Ok(core) => {
                    assert!(writable || core.head().length < 12);
                    for at in 0..core.head().length {
                        let _ = core.get_local(at).unwrap();
                    }
                }
                Err(error) => assert!(!writable && matches!(error, Error::Corrupt { .. })),
            }
        }
    }
}

fn source_of(blocks: &[Bytes]) -> Core {
    let key = Dialect::Modern.key_of(&pair());
    let core = open_modern(&World::default(), key, Some(pair()), true).unwrap();
    core.append(blocks).unwrap();
    core.sync().unwrap();
    core
}

fn copy(world: &World) -> Result<Core> {
    open_modern(world, Dialect::Modern.key_of(&pair()), None, true)
}

/// Has `to` follow the length of `from`, and take one block, as a peer would give it.
fn fetch(from: &Core, to: &Core, block: u64) -> std::result::Result<(), Rejected> {
    fetch_of_fork(0, from, to, block)
}

/// Takes all that the writer shows; what it does not show yet it does not prove.
pub(super) fn follow(from: &Core, to: &Core) {
    let shown = from.announced_head().length;
    for block in 0..from.head().length {
        if block < shown {
            fetch(from, to, block).unwrap();
            assert_eq!(to.get_local(block).unwrap(), from.get_local(block).unwrap());
            continue;
        }
        let way = Some(Way { from: block, steps: 0 });
        let request = ProofRequest { block: way, hash: None, seek: None, upgrade: None };
        assert!(from.prove_requested(&request).is_err(), "block {block} is beyond what is shown");
    }
    assert_eq!(to.head().length, shown);
    assert!(from.data_bits(0, 1 << 20).len() as u64 <= shown.div_ceil(8));
}

/// As [`fetch`], as if the author had truncated the core to `from` under this fork.
fn fetch_of_fork(
    fork: u64,
    from: &Core,
    to: &Core,
    block: u64,
) -> std::result::Result<(), Rejected> {
    let head = to.head();
    let whole = from.announced_head().length;
    let manifest = || to.lacks_manifest().then(|| from.manifest()).flatten();
    let send = |request: &ProofRequest| {
        let mut proof = from.prove_requested(request).unwrap();
        let own = std::mem::replace(&mut proof.fork, fork);
        if let Some(upgrade) = proof.upgrade.as_mut().filter(|_| own != fork) {
            let roots = from.inner.state.lock().roots.clone();
            upgrade.signature =
                from.inner.author.sign(&pair(), &roots, Head { fork, ..from.head() }).unwrap();
        }
        to.accept(ReceivedProof::Modern(Box::new(Received::new(block, None, manifest(), proof))))
    };
    let start = if head.fork < fork { 0 } else { head.length };
    if start < whole {
        let upgrade = Some(Upgrade { start, length: whole - start });
        send(&ProofRequest { block: None, hash: None, seek: None, upgrade })?;
    }
    let steps = to.steps_to_known(block, whole, false, |_| false).unwrap();
    let way = Some(Way { from: block, steps });
    send(&ProofRequest { block: way, hash: None, seek: None, upgrade: None })?;
    Ok(())
}

/// As `flipped_bits_of_a_readers_files_are_fetched_again` of a core of Hypercore 9.
#[test]
fn flipped_bits_of_a_copy_are_fetched_again() {
    let blocks = uneven(11);
    let from = source_of(&blocks);
    let world = World::default();
    let core = copy(&world).unwrap();
    for block in 0..11 {
        fetch(&from, &core, block).unwrap();
    }
    core.sync().unwrap();
    drop(core);
    let right = |core: &Core, what: &str| {
        let mut found = 0;
        for (at, expected) in (0..).zip(&blocks) {
            if let Some(block) = core.get_local(at).unwrap() {
                assert_eq!(block, *expected, "{what}, block {at}");
                found += 1;
            }
        }
        found
    };
    for name in ["bitfield", "data", "tree", "oplog"] {
        let bits = world.file(name).bytes().len() as u64 * 8;
        // A few of each file, and all that tell which blocks there are.
        let step = if name == "data" { 7 } else { 61 };
        for bit in (0..bits).filter(|bit| bit % step == 0 || name == "bitfield" && *bit < 16) {
            let what = format!("{name} bit {bit}");
            let damaged = world.fork();
            damaged.file(name).flip(bit);
            let core = copy(&damaged).unwrap();
            core.check_invariants();
            right(&core, &what);
            for block in 0..11 {
                let came = |_| match fetch(&from, &core, block) {
                    Ok(()) => core.get_local(block).unwrap().is_some(),
                    // A damaged node was found, and is forgotten.
                    Err(Rejected::Storage(Error::Corrupt { .. })) => false,
                    Err(other) => panic!("{what}, block {block}: {other}"),
                };
                assert!((0..8).any(came), "{what}, block {block}");
            }
            core.sync().unwrap();
            drop(core);
            let core = copy(&damaged).unwrap();
            assert_eq!(
                (core.head(), right(&core, &what)),
                (from.head(), 11),
                "{what}: healed for good"
            );
        }
    }
}

/// The copy after the power was cut with this seed, or with the last one after a restart alone; whether the power was cut.
fn after_the_stop(world: &World, seed: u64) -> (Core, bool) {
    let power_cut = seed < POWER_CUTS;
    if power_cut {
        world.cut_power(seed)
    } else {
        world.restart()
    }
    let core = copy(world).unwrap();
    core.check_invariants();
    (core, power_cut)
}

#[test]
fn a_copy_reopens_after_a_stop_at_any_call() {
    let blocks = uneven(11);
    let (first, from) = (source_of(&blocks[..5]), source_of(&blocks));
    for call in 0.. {
        let mut reached = false;
        for seed in 0..=POWER_CUTS {
            let world = World::default();
            let core = copy(&world).unwrap();
            fetch(&first, &core, 3).unwrap();
            core.sync().unwrap();
            drop(core);
            world.stop_at(call);
            if let Ok(core) = copy(&world) {
                for block in [0, 10, 7] {
                    let _ = fetch(&from, &core, block);
                }
                let _ = core.flush();
                let _ = fetch(&from, &core, 4);
                let _ = core.clear(0..1);
                let _ = core.sync();
            }
            reached = world.stopped();
            let (core, power_cut) = after_the_stop(&world, seed);
            assert!(core.head().length >= 5, "call {call}: that was synced");
            assert_eq!(core.get_local(3).unwrap(), Some(blocks[3].clone()), "call {call}");
            let audit = core.audit().unwrap();
            assert!(audit.invalid == 0 || power_cut, "call {call}: no claim without its fact");
            for block in 0..11 {
                // A torn node is found and forgotten at first.
                let tries = if power_cut { 8 } else { 1 };
                let fetched = (0..tries).any(|_| match fetch(&from, &core, block) {
                    Ok(()) => core.get_local(block).unwrap().is_some(),
                    Err(Rejected::Storage(Error::Corrupt { .. })) if power_cut => false,
                    Err(other) => panic!("call {call}, block {block}: {other}"),
                });
                assert!(fetched, "call {call}, block {block}");
                assert_eq!(core.get_local(block).unwrap(), Some(blocks[block as usize].clone()));
            }
            core.sync().unwrap();
            drop(core);
            let core = copy(&world).unwrap();
            assert_eq!((core.head(), core.held(0..11)), (from.head(), 11));
        }
        if !reached {
            assert!(call > 5, "the work was done");
            return;
        }
    }
}

/// Of the head before and the one after, with all blocks that both have in common, neither is ever lost.
#[test]
fn a_truncation_is_followed_or_not_after_a_stop_at_any_call() {
    let blocks = uneven(11);
    let others = [block("another"), block(""), block("history")];
    let histories = [
        source_of(&blocks),
        source_of(&[&blocks[..4], &others[..]].concat()),
        source_of(&blocks[..6]),
    ];
    let [first, second, third] = &histories;
    for call in 0.. {
        let mut reached = false;
        for seed in 0..=POWER_CUTS {
            let world = World::default();
            let core = copy(&world).unwrap();
            (0..11).for_each(|block| fetch(first, &core, block).unwrap());
            core.sync().unwrap();
            drop(core);
            world.stop_at(call);
            if let Ok(core) = copy(&world) {
                let _ = fetch_of_fork(1, second, &core, 5);
                let _ = core.flush();
                let _ = fetch_of_fork(2, third, &core, 4);
                let _ = fetch_of_fork(2, third, &core, 5);
                let _ = core.sync();
            }
            reached = world.stopped();
            let (core, power_cut) = after_the_stop(&world, seed);
            let fork = core.head().fork;
            let from = &histories[fork as usize];
            assert_eq!(core.head(), Head { fork, ..from.head() }, "call {call}");
            assert!(reached || fork == 2, "call {call}: it was synced");
            let kept = if fork == 0 { 11 } else { 4 };
            for at in 0..from.head().length {
                match core.get_local(at) {
                    Ok(Some(found)) => assert_eq!(Some(found), from.get_local(at).unwrap()),
                    Ok(None) | Err(Error::Corrupt { .. }) => {
                        assert!(at >= kept, "call {call}, fork {fork}: block {at} is lost");
                    }
                    Err(error) => panic!("call {call}, block {at}: {error}"),
                }
            }
            let audit = core.audit().unwrap();
            assert!(audit.invalid == 0 || power_cut, "call {call}: no claim without its fact");
        }
        if !reached {
            assert!(call > 10, "the work was done");
            return;
        }
    }
}

/// As in a core of Hypercore 9: the roots are what is below them, and are written again.
#[test]
fn damaged_roots_of_our_own_core_are_computed_again() {
    let key = Dialect::Modern.key_of(&pair());
    for count in [1, 2, 6, 7, 8, 11] {
        let blocks = uneven(count);
        for root in super::super::flat_tree::full_roots(count as u64) {
            let world = World::default();
            let core = open_modern(&world, key, Some(pair()), true).unwrap();
            core.append(&blocks).unwrap();
            core.sync().unwrap();
            drop(core);
            world.file("tree").flip((root * 40 + 20) * 8);
            let core = open_modern(&world, key, Some(pair()), true).unwrap();
            core.check_invariants();
            assert_eq!(core.head().length, count as u64, "root {root} of {count}");
            core.append(&[block("and on")]).unwrap();
            core.sync().unwrap();
            drop(core);
            let core = open_modern(&world, key, None, false).unwrap();
            assert_eq!(core.head().length, count as u64 + 1, "root {root} of {count}");
            for (at, block) in (0..).zip(&blocks) {
                assert_eq!(core.get_local(at).unwrap().as_ref(), Some(block));
            }
        }
    }
}

/// A lost or damaged `bitfield` takes no block of a core of ours away, whose data is here.
#[test]
fn blocks_that_the_bitfield_of_our_own_core_does_not_name_are_found() {
    let key = Dialect::Modern.key_of(&pair());
    let blocks = uneven(11);
    for damage in ["lost", "bits", "later bits"] {
        let world = World::default();
        let core = open_modern(&world, key, Some(pair()), true).unwrap();
        core.append(&blocks).unwrap();
        core.sync().unwrap();
        drop(core);
        match damage {
            "lost" => world.file("bitfield").truncate(0).unwrap(),
            "later bits" => [6, 9].into_iter().for_each(|bit| world.file("bitfield").flip(bit)),
            _ => [0, 2, 9].into_iter().for_each(|bit| world.file("bitfield").flip(bit)),
        }
        for pass in ["found", "kept"] {
            let core = open_modern(&world, key, Some(pair()), true).unwrap();
            core.check_invariants();
            for (at, block) in (0..).zip(&blocks) {
                let stored = core.get_local(at).unwrap();
                assert_eq!(stored.as_ref(), Some(block), "{damage}, {pass}: block {at}");
            }
            core.append(&[block("and on")]).unwrap();
            core.sync().unwrap();
        }
        // What is damaged itself is not.
        world.file("data").flip(8 * 70);
        world.file("bitfield").truncate(0).unwrap();
        let core = open_modern(&world, key, Some(pair()), true).unwrap();
        let here = (0..11).filter(|at| core.has(*at)).count();
        assert_eq!(here, 10, "{damage}");
    }
}
