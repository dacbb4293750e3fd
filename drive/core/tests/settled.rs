//! What peers are shown of a core we write is on the device, whatever fails and whenever the power
//! goes; and what a failed sync covered counts for nothing until it was written again.

use tokio::runtime::{Builder, Runtime};

use super::*;

/// A runtime in which no time passes: nothing settles by itself.
fn still() -> Runtime {
    Builder::new_current_thread().enable_all().start_paused(true).build().unwrap()
}

/// Takes all that the writer shows, as a peer that is told of it would.
fn follow(from: &Core, to: &Core) {
    let shown = from.shown();
    for block in 0..from.head().length {
        let Ok(proof) = from.prove(block, to.digest(block), false, &mut RemoteTree::default())
        else {
            assert!(block >= shown.length, "block {block} of {shown:?} is shown");
            continue;
        };
        assert!(block < shown.length, "block {block} is beyond what is shown");
        drop(proof);
        if !to.has(block) {
            send(from, to, block, &mut RemoteTree::default()).unwrap();
        }
    }
    assert!(to.head().length <= shown.length);
    let bits = from.data_bits(0, 1 << 20);
    assert!(bits.len() as u64 <= shown.length.div_ceil(8));
}

fn work(core: &Core, follow: &mut dyn FnMut(&Core)) {
    for (step, count) in [2usize, 1, 4, 1, 3].into_iter().enumerate() {
        let blocks: Vec<Bytes> = (0..count).map(|at| block(&format!("{step} {at}"))).collect();
        let _ = core.append(&blocks);
        follow(core);
        if step % 2 == 1 {
            let _ = core.flush();
            follow(core);
        }
    }
    let _ = core.sync();
    follow(core);
}

/// The reader sees all that is announced; then the power goes, at every call in turn. Writer and
/// reader agree after it, and go on agreeing.
#[test]
fn a_power_cut_takes_back_nothing_that_a_peer_has_seen() {
    for call in 0.. {
        let mut reached = false;
        for seed in 0..24 {
            let runtime = still();
            let _entered = runtime.enter();
            let (world, case) = (World::default(), format!("call {call}, seed {seed}"));
            let to = reader(&World::default());
            let core = writer(&world);
            core.append(&[block("first")]).unwrap();
            world.stop_at(call);
            work(&core, &mut |core| follow(core, &to));
            reached = world.stopped();
            let seen = to.head();
            drop(core);
            world.cut_power(seed);
            let core = writer(&world);
            assert!(core.head().length >= seen.length, "{case}: {:?} of {seen:?}", core.head());
            // The writer goes on with other blocks than before.
            core.append(&[block("other"), block("history")]).unwrap();
            core.sync().unwrap();
            fetch_all(&core, &to);
            assert_eq!(to.head(), core.head(), "{case}");
        }
        if !reached {
            assert!(call > 20, "the work was done");
            return;
        }
    }
}

/// A killed process leaves an append that no sync covered. It is here, and not shown before it is on
/// the device.
#[test]
fn what_a_killed_process_left_is_settled_before_it_is_shown() {
    let runtime = still();
    let _entered = runtime.enter();
    let world = World::default();
    let core = writer(&world);
    core.append(&[block("first")]).unwrap();
    core.append(&[block("second"), block("third")]).unwrap();
    world.stop_at(0);
    drop(core);
    world.restart();
    let core = writer(&world);
    assert_eq!((core.head().length, core.shown().length), (3, 1));
    let mut events = core.events();
    core.sync().unwrap();
    assert_eq!(core.shown(), core.head());
    let told = events.try_recv().unwrap();
    assert_eq!(told, super::super::CoreEvent::Appended { start: 1, length: 2 });
    drop(core);
    world.cut_power(0);
    assert_eq!(writer(&world).head().length, 3);
}

/// One sync fails, at every call in turn. The next one that succeeds has everything on the device.
#[test]
fn a_sync_that_failed_is_made_up_for_before_one_succeeds() {
    for evict in [false, true] {
        for call in 0.. {
            let world = World::default();
            if evict {
                world.evict_what_failed();
            }
            let blocks = uneven(7);
            let core = writer(&world);
            core.append(&blocks[..2]).unwrap();
            core.sync().unwrap();
            world.fail_once_at(call);
            let runtime = still();
            let entered = runtime.enter();
            let appended =
                core.append(&blocks[2..4]).and_then(|_| core.append(&blocks[4..])).is_ok();
            let mut tries: Vec<_> = (0..3).map(|_| core.sync()).collect();
            if tries[2].is_err() {
                tries.push(core.sync());
            }
            let synced = tries.last().is_some_and(|last| last.is_ok());
            let (reached, length) = (world.stopped(), core.head().length);
            drop(entered);
            assert!(synced || (reached && evict), "call {call}: {tries:?}");
            assert!(core.shown() == core.head() || !synced, "call {call}");
            drop(core);
            world.cut_power(0);
            let core = writer(&world);
            if synced {
                assert_eq!(core.head().length, length, "call {call}, {evict}: synced, and gone");
            }
            for at in 0..core.head().length {
                let found = core.get_local(at).unwrap();
                assert_eq!(found.as_ref(), Some(&blocks[at as usize]), "call {call}, {evict}");
            }
            assert_eq!(core.audit().unwrap().invalid, 0);
            if !reached {
                assert!(call > 10 && appended);
                break;
            }
        }
    }
}

/// On a core that others write, what a failed sync covered is fetched again.
#[test]
fn fetched_blocks_of_a_failed_sync_are_not_claimed() {
    let blocks = uneven(9);
    let from = source(&blocks);
    for call in 0.. {
        let world = World::default();
        let core = reader(&world);
        send(&from, &core, 3, &mut RemoteTree::default()).unwrap();
        core.sync().unwrap();
        world.fail_once_at(call);
        let mut failed = false;
        for at in [8, 0, 5] {
            let proof = from.prove(at, core.digest(at), false, &mut RemoteTree::default()).unwrap();
            failed |= core.accept(proof).is_err();
            failed |= core.sync().is_err();
        }
        let reached = world.stopped();
        // The second try is the one after the failure.
        let _ = core.sync();
        core.sync().unwrap();
        core.check_invariants();
        drop(core);
        world.cut_power(0);
        let core = reader(&world);
        assert_eq!(core.audit().unwrap().invalid, 0, "call {call}: claimed, and not there");
        assert_eq!(core.get_local(3).unwrap().as_ref(), Some(&blocks[3]), "call {call}");
        fetch_all(&from, &core);
        if !reached {
            assert!(call > 8 && !failed);
            return;
        }
    }
}

/// A block that was cleared before it was settled has no bytes to write again, only a node.
#[test]
fn a_cleared_block_does_not_keep_a_failed_sync_from_being_made_up_for() {
    let runtime = still();
    let _entered = runtime.enter();
    let world = World::default();
    let core = writer(&world);
    core.append(&[block("first")]).unwrap();
    core.append(&[Bytes::from(vec![7; 9000]), block("third")]).unwrap();
    world.fail_once_at(0);
    assert!(core.sync().is_err());
    core.clear(1..2).unwrap();
    core.append(&[block("fourth")]).unwrap();
    core.sync().unwrap();
    drop(core);
    world.cut_power(0);
    let core = writer(&world);
    assert_eq!(core.head().length, 4);
    assert_eq!(core.get_local(1).unwrap(), None);
    assert_eq!(core.get_local(3).unwrap(), Some(block("fourth")));
}
