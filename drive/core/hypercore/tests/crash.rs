//! The machine stops at every storage call, by a kill or by a power cut; whatever is left opens
//! to the old state or the new one.

use super::super::zeros::{ZERO_BLOCK_SIZES, zeros};
use super::*;

const POWER_CUTS: u64 = 24;

/// Runs `work` on a world prepared by `prepare`, once for every call it makes, stopping there;
/// then hands every way of coming back to `check`, telling whether it was a power cut.
fn at_every_call(prepare: impl Fn(&World), work: impl Fn(&World), check: impl Fn(&World, bool)) {
    for call in 0.. {
        let mut reached = false;
        for seed in 0..=POWER_CUTS {
            let world = World::default();
            prepare(&world);
            world.stop_at(call);
            work(&world);
            reached = world.stopped();
            if seed == POWER_CUTS {
                world.restart();
            } else {
                world.cut_power(seed);
            }
            check(&world, seed != POWER_CUTS);
        }
        if !reached {
            assert!(call > 3, "the work was done");
            return;
        }
    }
}

fn check_writer(kind: Dialect, world: &World, blocks: &[Bytes], lengths: &[u64], cleared: &[u64]) {
    let core = writer_of(world, kind);
    core.check_invariants();
    let length = core.head().length;
    assert!(lengths.contains(&length), "length {length}, expected one of {lengths:?}");
    for at in 0..length {
        let found = core.get_local(at).unwrap();
        if cleared.contains(&at) && found.is_none() {
            continue;
        }
        assert_eq!(found.as_ref(), blocks.get(at as usize), "block {at} of {length}");
    }
    assert_eq!(core.audit().unwrap().invalid, 0);
    // Appending continues, also over what the crash left behind.
    core.append(&[block("and on"), block("and on again")]).unwrap();
    core.sync().unwrap();
    drop(core);
    let core = writer_of(world, kind);
    assert_eq!(core.head().length, length + 2);
    assert_eq!(core.get_local(length).unwrap(), Some(block("and on")));
    core.check_invariants();
}

/// What is on disk is what was appended: blocks of zeros are not read when the tree tells what they are.
fn check_stored(world: &World, length: u64, blocks: &[Bytes]) {
    let expected = blocks[..length as usize].concat();
    let stored = world.file("data").bytes();
    assert!(stored.len() >= expected.len() && stored[..expected.len()] == expected);
}

#[test]
fn appending_zeros() {
    let blocks = [block("before"), zeros(ZERO_BLOCK_SIZES[2]), block("data"), zeros(5000)];
    for kind in KINDS {
        at_every_call(
            |world| {
                let core = writer_of(world, kind);
                core.append(&blocks[..1]).unwrap();
                core.sync().unwrap();
            },
            |world| {
                let Ok(core) = open_writer(world, kind) else { return };
                if core.append(&blocks[1..]).is_ok() {
                    let _ = core.sync();
                }
            },
            |world, _| {
                let length = writer_of(world, kind).head().length;
                check_stored(world, length, &blocks);
                check_writer(kind, world, &blocks, &[1, 4], &[]);
            },
        );
    }
}

#[test]
fn opening_a_new_core() {
    for kind in KINDS {
        at_every_call(
            |_| {},
            |world| drop(open_writer(world, kind)),
            |world, _| check_writer(kind, world, &[], &[0], &[]),
        );
    }
}

#[test]
fn appending() {
    for kind in KINDS {
        let blocks = uneven(9);
        let acknowledged = std::cell::Cell::new(0);
        at_every_call(
            |world| {
                let core = writer_of(world, kind);
                core.append(&blocks[..2]).unwrap();
                core.sync().unwrap();
            },
            |world| {
                acknowledged.set(2);
                let Ok(core) = open_writer(world, kind) else {
                    return;
                };
                for batch in [2..5, 5..6, 6..9] {
                    let end = batch.end as u64;
                    if core.append(&blocks[batch]).is_ok() {
                        acknowledged.set(end);
                    }
                    let _ = core.flush();
                }
            },
            |world, power_cut| {
                // A kill loses nothing acknowledged; a power cut may lose what was not synced.
                let least = if power_cut { 2 } else { acknowledged.get() };
                let lengths: Vec<u64> =
                    [2, 5, 6, 9].into_iter().filter(|length| *length >= least).collect();
                check_writer(kind, world, &blocks, &lengths, &[]);
            },
        );
    }
}

#[test]
fn appending_without_a_flush_in_between() {
    for kind in KINDS {
        let blocks = uneven(9);
        let acknowledged = std::cell::Cell::new(0);
        at_every_call(
            |world| drop(writer_of(world, kind)),
            |world| {
                acknowledged.set(0);
                if let Ok(core) = open_writer(world, kind) {
                    for (batch, end) in [(0..4, 4), (4..5, 5), (5..9, 9)] {
                        if core.append(&blocks[batch]).is_ok() {
                            acknowledged.set(end);
                        }
                    }
                }
            },
            |world, power_cut| {
                let least = if power_cut { 0 } else { acknowledged.get() };
                let lengths: Vec<u64> =
                    [0, 4, 5, 9].into_iter().filter(|length| *length >= least).collect();
                check_writer(kind, world, &blocks, &lengths, &[]);
            },
        );
    }
}

#[test]
fn synced_blocks_survive_any_power_cut() {
    for kind in KINDS {
        let blocks = uneven(7);
        for seed in 0..40 {
            let world = World::default();
            let core = writer_of(&world, kind);
            core.append(&blocks[..3]).unwrap();
            core.append(&blocks[3..]).unwrap();
            core.sync().unwrap();
            world.stop_at(0);
            drop(core);
            world.cut_power(seed);
            check_writer(kind, &world, &blocks, &[7], &[]);
        }
    }
}

#[test]
fn clearing() {
    for kind in KINDS {
        let blocks: Vec<Bytes> = (1..7u8).map(|at| Bytes::from(vec![at; 5000])).collect();
        at_every_call(
            |world| {
                let core = writer_of(world, kind);
                core.append(&blocks).unwrap();
                core.sync().unwrap();
            },
            |world| {
                if let Ok(core) = open_writer(world, kind) {
                    let _ = core.clear(1..4);
                    let _ = core.clear(5..6);
                }
            },
            |world, _| check_writer(kind, world, &blocks, &[6], &[1, 2, 3, 5]),
        );
    }
}

#[test]
fn accepting() {
    let blocks = uneven(9);
    let from = source(&blocks);
    at_every_call(
        |world| {
            let core = reader(world);
            send(&from, &core, 3, &mut RemoteTree::default()).unwrap();
            core.sync().unwrap();
        },
        |world| {
            if let Ok(core) = open(world, None) {
                for at in [8, 0, 5] {
                    let proof = from.prove(at, core.digest(at), false, &mut RemoteTree::default());
                    let _ = core.accept(proof.unwrap());
                }
                let _ = core.flush();
                let proof = from.prove(1, core.digest(1), false, &mut RemoteTree::default());
                let _ = core.accept(proof.unwrap());
            }
        },
        |world, power_cut| {
            let core = reader(world);
            core.check_invariants();
            assert_eq!(core.get_local(3).unwrap(), Some(blocks[3].clone()), "it was synced");
            assert_eq!(core.head(), from.head(), "the signed length was synced");
            // A torn page may claim a block and not its node: that block is fetched again.
            let audit = core.audit().unwrap();
            assert!(audit.invalid == 0 || power_cut, "no claim without its fact");
            fetch_all(&from, &core);
        },
    );
}

/// A disk that is full for one call: the caller is told, and nothing of the append comes back.
#[test]
fn a_failed_append_is_not_there_after_reopening() {
    for kind in KINDS {
        let blocks = uneven(5);
        for call in 0.. {
            let world = World::default();
            let core = writer_of(&world, kind);
            core.append(&blocks[..2]).unwrap();
            core.sync().unwrap();
            world.fail_once_at(call);
            let failed = core.append(&blocks[2..]).is_err();
            if !failed {
                break;
            }
            assert_eq!(core.head().length, 2);
            assert_eq!(core.get_local(1).unwrap(), Some(blocks[1].clone()));
            drop(core);
            check_writer(kind, &world, &blocks, &[2], &[]);
        }
    }
}
