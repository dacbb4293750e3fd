//! Flipped bits in every file: right bytes, a clear error or a missing block; never wrong bytes.

use super::*;

const BLOCKS: usize = 11;

fn world_of(core: &Core, from: &Core) {
    for at in 0..BLOCKS as u64 {
        send(from, core, at, &mut RemoteTree::default()).unwrap();
    }
    core.sync().unwrap();
}

/// The bits to flip: all of small files, a spread of a large one and all of where its claims are.
fn bits_to_flip(name: &str, length: usize) -> Vec<u64> {
    let bits = 0..length as u64 * 8;
    match name {
        "bitfield" => bits
            .filter(|bit| bit % 97 == 0 || (256..400).contains(bit) || (8448..8600).contains(bit))
            .collect(),
        "tree" | "signatures" => bits.filter(|bit| bit % 5 == 0).collect(),
        _ => bits.collect(),
    }
}

#[test]
fn flipped_bits_of_a_writers_files_are_reported() {
    let blocks = uneven(BLOCKS);
    for name in ["bitfield", "data", "tree", "signatures", "secret_key"] {
        let world = World::default();
        let core = writer(&world);
        core.append(&blocks[..4]).unwrap();
        core.append(&blocks[4..]).unwrap();
        core.sync().unwrap();
        drop(core);
        let (mut served, mut refused) = (0, 0);
        for bit in bits_to_flip(name, world.file(name).bytes().len()) {
            let damaged = world.fork();
            damaged.file(name).flip(bit);
            let core = match open(&damaged, Some(pair())) {
                Ok(core) => core,
                Err(Error::Corrupt { .. }) => {
                    refused += 1;
                    continue;
                }
                Err(error) => panic!("{name} bit {bit}: {error}"),
            };
            core.check_invariants();
            assert_eq!(core.head().length, BLOCKS as u64, "{name} bit {bit}: blocks vanished");
            for (at, expected) in blocks.iter().enumerate() {
                match core.get_local(at as u64) {
                    Ok(Some(found)) => {
                        served += 1;
                        assert_eq!(found, *expected, "{name} bit {bit} block {at}");
                    }
                    Ok(None) => assert_eq!(name, "bitfield"),
                    Err(Error::Corrupt { .. }) => refused += 1,
                    Err(error) => panic!("{name} bit {bit} block {at}: {error}"),
                }
            }
        }
        assert!(served > 0);
        let may_refuse = ["data", "tree", "bitfield"].contains(&name);
        assert_eq!(refused > 0, may_refuse, "{name}: {refused}");
    }
}

/// 2. Bytes are verified before they are stored, and again when they are first read from disk.
#[test]
fn flipped_bits_of_a_readers_files_are_fetched_again() {
    let blocks = uneven(BLOCKS);
    let from = source(&blocks);
    let world = World::default();
    let core = reader(&world);
    world_of(&core, &from);
    drop(core);
    for name in ["bitfield", "data", "tree", "signatures"] {
        for bit in bits_to_flip(name, world.file(name).bytes().len()).into_iter().step_by(3) {
            let damaged = world.fork();
            damaged.file(name).flip(bit);
            let core = reader(&damaged);
            core.check_invariants();
            for (at, expected) in blocks.iter().enumerate() {
                if let Some(found) = core.get_local(at as u64).unwrap() {
                    assert_eq!(found, *expected, "{name} bit {bit} block {at}");
                }
            }
            fetch_all(&from, &core);
            drop(core);
            let core = reader(&damaged);
            assert_eq!(core.head(), from.head(), "{name} bit {bit}: healed for good");
            for (at, expected) in blocks.iter().enumerate() {
                let found = core.get_local(at as u64).unwrap();
                assert_eq!(found.as_ref(), Some(expected), "{name} bit {bit} block {at}");
            }
        }
    }
}

#[test]
fn a_flipped_key_is_another_core() {
    let world = World::default();
    drop(writer(&world));
    for bit in [0, 77, 255] {
        let damaged = world.fork();
        damaged.file("key").flip(bit);
        assert!(matches!(open(&damaged, None), Err(Error::NotAStore { .. })));
    }
}

#[test]
fn truncated_and_emptied_files() {
    let blocks = uneven(BLOCKS);
    for name in ["bitfield", "data", "tree", "signatures"] {
        for keep in [0, 20, 40, 100] {
            let world = World::default();
            let core = writer(&world);
            core.append(&blocks).unwrap();
            core.sync().unwrap();
            drop(core);
            world.file(name).truncate(keep).unwrap();
            let core = match open(&world, Some(pair())) {
                Ok(core) => core,
                Err(Error::Corrupt { .. }) => continue,
                Err(error) => panic!("{name} cut to {keep}: {error}"),
            };
            for (at, expected) in blocks.iter().enumerate() {
                match core.get_local(at as u64) {
                    Ok(Some(found)) => assert_eq!(found, *expected),
                    Ok(None) | Err(Error::Corrupt { .. }) => {}
                    Err(error) => panic!("{name} cut to {keep}, block {at}: {error}"),
                }
            }
            assert_eq!(core.head().length, BLOCKS as u64, "{name} cut to {keep}");
        }
    }
}

#[test]
fn a_missing_last_signature_is_made_again() {
    let world = World::default();
    let core = writer(&world);
    core.append(&uneven(4)).unwrap();
    core.append(&uneven(3)).unwrap();
    core.sync().unwrap();
    drop(core);
    let whole = world.file("signatures").bytes();
    world.file("signatures").truncate(32 + 64 * 6).unwrap();
    let core = writer(&world);
    assert_eq!(core.head().length, 7);
    core.check_invariants();
    assert_eq!(world.file("signatures").bytes(), whole);
}

/// The bitfield is lost and a block with it: a new, empty core would be appended to and forked.
#[test]
fn a_core_with_a_history_is_never_taken_for_a_new_one() {
    let world = World::default();
    let core = writer(&world);
    for block in uneven(BLOCKS) {
        core.append(&[block]).unwrap();
    }
    core.sync().unwrap();
    drop(core);
    world.file("bitfield").truncate(0).unwrap();
    world.file("data").flip(0);
    assert!(matches!(open(&world, Some(pair())), Err(Error::Corrupt { .. })));
}
