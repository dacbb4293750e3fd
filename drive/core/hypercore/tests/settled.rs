//! What peers are shown of a core we write is on the device, whatever fails and whenever the power
//! goes; and what a failed sync covered counts for nothing until it was written again.

use std::io;
use std::sync::mpsc::{Receiver, Sender, channel};

use tokio::runtime::{Builder, Runtime};

use super::*;
use crate::hypercore::storage::faulty::Disk;

/// A runtime in which no time passes: nothing settles by itself.
fn still() -> Runtime {
    Builder::new_current_thread().enable_all().start_paused(true).build().unwrap()
}

/// Takes all that the writer shows, as a peer that is told of it would.
fn follow(from: &Core, to: &Core) {
    let shown = from.announced_head();
    if from.dialect() == Dialect::Modern {
        return modern::follow(from, to);
    }
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
    for kind in KINDS {
        for call in 0.. {
            let mut reached = false;
            for seed in 0..24 {
                let runtime = still();
                let _entered = runtime.enter();
                let (world, case) = (World::default(), format!("call {call}, seed {seed}"));
                let key = kind.key_of(&pair());
                let to = open_as(&World::default(), kind, key, None).unwrap();
                let core = writer_of(&world, kind);
                core.append(&[block("first")]).unwrap();
                world.stop_at(call);
                work(&core, &mut |core| follow(core, &to));
                reached = world.stopped();
                let seen = to.head();
                drop(core);
                world.cut_power(seed);
                let core = writer_of(&world, kind);
                assert!(core.head().length >= seen.length, "{case}: {:?} of {seen:?}", core.head());
                // The writer appends other blocks than before.
                core.append(&[block("other"), block("history")]).unwrap();
                core.sync().unwrap();
                follow(&core, &to);
                assert_eq!(to.head(), core.head(), "{case}");
            }
            if !reached {
                assert!(call > 20, "the work was done");
                break;
            }
        }
    }
}

/// A killed process leaves an append that no sync covered. It is here, and not shown before it is on
/// the device.
#[test]
fn appends_of_a_killed_process_are_settled_before_peers_see_them() {
    for kind in KINDS {
        let runtime = still();
        let _entered = runtime.enter();
        let world = World::default();
        let core = writer_of(&world, kind);
        core.append(&[block("first")]).unwrap();
        core.append(&[block("second"), block("third")]).unwrap();
        world.stop_at(0);
        drop(core);
        world.restart();
        let core = writer_of(&world, kind);
        assert_eq!((core.head().length, core.announced_head().length), (3, 1));
        let mut events = core.events();
        core.sync().unwrap();
        assert_eq!(core.announced_head(), core.head());
        let told = events.try_recv().unwrap();
        assert_eq!(told, super::super::CoreEvent::Appended { start: 1, length: 2 });
        drop(core);
        world.cut_power(0);
        assert_eq!(writer_of(&world, kind).head().length, 3);
    }
}

/// One sync fails, at every call in turn. The next one that succeeds has everything on the device.
#[test]
fn a_sync_that_failed_is_made_up_for_before_one_succeeds() {
    for kind in KINDS {
        for evict in [false, true] {
            for call in 0.. {
                let world = World::default();
                if evict {
                    world.evict_what_failed();
                }
                let blocks = uneven(7);
                let core = writer_of(&world, kind);
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
                assert!(core.announced_head() == core.head() || !synced, "call {call}");
                drop(core);
                world.cut_power(0);
                let core = writer_of(&world, kind);
                if synced {
                    assert_eq!(
                        core.head().length,
                        length,
                        "call {call}, {evict}: synced, and gone"
                    );
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
}

/// A core with several signed lengths and no claim looks damaged, so the second append waits until the first
/// is settled.
#[test]
fn a_new_core_whose_first_sync_failed_opens_for_writing_after_a_power_cut() {
    for kind in KINDS {
        for call in 0.. {
            let mut reached = false;
            for seed in 0..24 {
                let runtime = still();
                let _entered = runtime.enter();
                let world = World::default();
                let core = writer_of(&world, kind);
                world.fail_once_at(call);
                for text in ["first", "second", "third"] {
                    let _ = core.append(&[block(text)]);
                }
                reached = world.stopped();
                drop(core);
                world.cut_power(seed);
                let core = open_writer(&world, kind);
                let appended = core.and_then(|core| core.append(&[block("later")]));
                assert!(appended.is_ok(), "call {call}, seed {seed}: {appended:?}");
            }
            if !reached {
                assert!(call > 8);
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
    for kind in KINDS {
        let runtime = still();
        let _entered = runtime.enter();
        let world = World::default();
        let core = writer_of(&world, kind);
        core.append(&[block("first")]).unwrap();
        core.append(&[Bytes::from(vec![7; 9000]), block("third")]).unwrap();
        world.fail_once_at(0);
        assert!(core.sync().is_err());
        core.clear(1..2).unwrap();
        core.append(&[block("fourth")]).unwrap();
        core.sync().unwrap();
        drop(core);
        world.cut_power(0);
        let core = writer_of(&world, kind);
        assert_eq!(core.head().length, 4);
        assert_eq!(core.get_local(1).unwrap(), None);
        assert_eq!(core.get_local(3).unwrap(), Some(block("fourth")));
    }
}

/// Says that the gate is reached, and waits until it is passed.
type Gate = (Sender<()>, Receiver<()>);

/// A disk on which the next write waits until it is let through.
struct Gated {
    disk: Disk,
    gate: Arc<std::sync::Mutex<Option<Gate>>>,
}

impl Storage for Gated {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.disk.read_at(offset, buffer)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let gate = self.gate.lock().unwrap().take();
        if let Some((reached, passed)) = gate {
            reached.send(()).unwrap();
            passed.recv().unwrap();
        }
        self.disk.write_at(offset, bytes)
    }

    fn write_zeros(&self, offset: u64, length: u64) -> io::Result<()> {
        self.disk.write_zeros(offset, length)
    }

    fn len(&self) -> io::Result<u64> {
        self.disk.len()
    }

    fn truncate(&self, length: u64) -> io::Result<()> {
        self.disk.truncate(length)
    }

    fn sync(&self) -> io::Result<()> {
        self.disk.sync()
    }

    fn punch(&self, offset: u64, length: u64) -> io::Result<()> {
        self.disk.punch(offset, length)
    }
}

/// A core that this machine writes, whose file `name` waits at the gate.
fn gated(
    world: &World,
    gate: &Arc<std::sync::Mutex<Option<Gate>>>,
    name: &str,
    dialect: Dialect,
) -> Core {
    Core::open(Opening {
        directory: std::path::Path::new("world"),
        open_file: &|file| {
            let disk = world.file(file);
            Ok(match file == name {
                true => Box::new(Gated { disk, gate: gate.clone() }) as Box<dyn Storage>,
                false => Box::new(disk),
            })
        },
        key: dialect.key_of(&pair()),
        dialect,
        pair: Some(pair()),
        store_pair: true,
        manifest: None,
        writable: true,
        adopted: false,
        cache: Arc::new(BlockCache::new(0)),
        keep: None,
        stop: None,
        on_stop: None,
    })
    .unwrap()
}

/// An append has written its block and not its signature when a sync fails, which takes the block with
/// it, and a second sync begins before the append ends.
#[test]
fn a_failed_sync_during_an_append_is_made_up_for() {
    let (world, gate) = (World::default(), Arc::new(std::sync::Mutex::new(None)));
    let core = gated(&world, &gate, "signatures", Dialect::Legacy);
    let runtime = still();
    let entered = runtime.enter();
    core.append(&[block("first")]).unwrap();
    core.append(&[block("second")]).unwrap();
    let (reached, at_gate) = channel();
    let (pass, passed) = channel();
    *gate.lock().unwrap() = Some((reached, passed));
    let appending = std::thread::spawn({
        let core = core.clone();
        move || core.append(&[block("third")])
    });
    at_gate.recv().unwrap();
    world.fail_once_at(0);
    assert!(core.sync().is_err());
    let (done, synced) = channel();
    let syncing = std::thread::spawn({
        let core = core.clone();
        move || done.send(core.sync())
    });
    // Whether it waits for the append is its own affair: the limit is for one that does.
    let _ = synced.recv_timeout(std::time::Duration::from_millis(300));
    pass.send(()).unwrap();
    appending.join().unwrap().unwrap();
    syncing.join().unwrap().ok();
    core.sync().unwrap();
    drop(entered);
    drop(core);
    world.cut_power(0);
    let core = writer(&world);
    assert_eq!(core.head().length, 3);
    assert_eq!(core.get_local(2).unwrap(), Some(block("third")), "synced, and gone");
}

/// A core that was stopped since a peer has more takes over what is longer, and has only some of it.
#[test]
fn a_stopped_core_announces_only_what_it_has() {
    let world = World::default();
    let core = writer(&world);
    core.append(&uneven(3)).unwrap();
    core.sync().unwrap();
    let other = writer(&world.fork());
    other.append(&uneven(4)).unwrap();
    other.sync().unwrap();
    let mut events = core.events();
    let runtime = still();
    let _entered = runtime.enter();
    core.accept(other.prove(3, 0, false, &mut RemoteTree::default()).unwrap()).unwrap();
    assert_eq!((core.head().length, core.has(4)), (7, false));
    core.flush().unwrap();
    let told = events.try_recv().unwrap();
    assert_eq!(told, super::super::CoreEvent::Appended { start: 3, length: 1 });
    assert_eq!(core.announced_head(), core.head());
}

/// One sync fails and nothing is appended afterwards. What was appended is shown to peers all the same.
#[test]
fn settling_that_failed_is_tried_again() {
    for first in [true, false] {
        for call in 0.. {
            let runtime =
                Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
            let world = World::default();
            let core = writer(&world);
            if !first {
                core.append(&[block("before")]).unwrap();
                core.sync().unwrap();
            }
            let reached = runtime.block_on(async {
                let mut events = core.events();
                world.fail_once_at(call);
                if core.append(&[block("after")]).is_ok() {
                    let limit = std::time::Duration::from_secs(60);
                    let told = tokio::time::timeout(limit, events.recv()).await;
                    assert!(told.is_ok(), "first {first}, call {call}: never settled");
                    assert_eq!(core.announced_head(), core.head());
                }
                world.stopped()
            });
            if !reached {
                assert!(call > 5);
                break;
            }
        }
    }
}

/// A stopped core has only some of a longer history when a sync fails. What is here is written again,
/// the rest is forgotten and fetched again, and claims go on.
#[test]
fn a_failed_sync_does_not_keep_a_stopped_core_from_claiming() {
    for evict in [false, true] {
        for call in 0.. {
            let case = format!("evict {evict}, call {call}");
            let world = World::default();
            let core = writer(&world);
            core.append(&uneven(3)).unwrap();
            core.sync().unwrap();
            let other = writer(&world.fork());
            other.append(&uneven(6)).unwrap();
            other.sync().unwrap();
            if evict {
                world.evict_what_failed();
            }
            let runtime = still();
            let entered = runtime.enter();
            core.accept(other.prove(3, 0, false, &mut RemoteTree::default()).unwrap()).unwrap();
            send(&other, &core, 7, &mut RemoteTree::default()).unwrap();
            assert!(core.stopped().is_some());
            world.fail_once_at(call);
            let _ = core.sync();
            let reached = world.stopped();
            let _ = core.sync();
            core.sync().unwrap_or_else(|error| panic!("{case}: {error}"));
            core.check_invariants();
            if !evict {
                assert!(core.has(3) && core.has(7), "{case}: forgotten, and was readable");
            }
            let held: Vec<u64> = (0..9).filter(|at| core.has(*at)).collect();
            drop(entered);
            drop(core);
            world.cut_power(0);
            let core = open_stopped(&world);
            assert_eq!(core.head().length, 9, "{case}");
            assert_eq!(core.audit().unwrap().invalid, 0, "{case}: claimed, and not there");
            for at in held {
                let found = core.get_local(at).unwrap();
                assert_eq!(found, other.get_local(at).unwrap(), "{case}: block {at}");
            }
            fetch_all(&other, &core);
            if !reached {
                assert!(call > 5);
                break;
            }
        }
    }
}

fn open_stopped(world: &World) -> Core {
    Core::open(Opening {
        directory: std::path::Path::new("world"),
        open_file: &|name| Ok(Box::new(world.file(name)) as Box<dyn Storage>),
        key: pair().public_key(),
        dialect: super::super::Dialect::Legacy,
        pair: Some(pair()),
        store_pair: true,
        manifest: None,
        writable: true,
        adopted: false,
        cache: Arc::new(BlockCache::new(0)),
        keep: None,
        stop: Some(super::super::StopReason::Behind { length: 9 }),
        on_stop: None,
    })
    .unwrap()
}

/// A block that was cleared is fetched again, below the settled length, and a sync of it fails.
#[test]
fn a_fetched_block_below_the_settled_length_is_claimed_only_when_it_is_there() {
    for evict in [false, true] {
        for call in 0.. {
            let case = format!("evict {evict}, call {call}");
            let world = World::default();
            if evict {
                world.evict_what_failed();
            }
            let blocks: Vec<Bytes> = (1..5).map(|at| Bytes::from(vec![at; 9000])).collect();
            let core = writer(&world);
            core.append(&blocks[..3]).unwrap();
            core.sync().unwrap();
            let other = writer(&world.fork());
            core.clear(1..2).unwrap();
            core.append(&blocks[3..]).unwrap();
            core.sync().unwrap();
            let runtime = still();
            let entered = runtime.enter();
            let proof = other.prove(1, 0, false, &mut RemoteTree::default()).unwrap();
            world.fail_once_at(call);
            let _ = core.accept(proof);
            let _ = core.sync();
            let reached = world.stopped();
            let _ = core.sync();
            core.sync().unwrap_or_else(|error| panic!("{case}: {error}"));
            let held = core.has(1);
            drop(entered);
            drop(core);
            world.cut_power(0);
            let core = writer(&world);
            assert_eq!(core.audit().unwrap().invalid, 0, "{case}: claimed, and not there");
            assert_eq!(core.get_local(1).unwrap(), held.then(|| blocks[1].clone()), "{case}");
            assert_eq!(core.get_local(3).unwrap().as_ref(), Some(&blocks[3]), "{case}");
            if !reached {
                assert!(call > 4 && held);
                break;
            }
        }
    }
}

/// An append ends while claims are being written: the header that follows must not make its entry void.
#[test]
fn an_append_during_a_sync_survives_a_kill() {
    let (world, gate) = (World::default(), Arc::new(std::sync::Mutex::new(None)));
    let core = gated(&world, &gate, "bitfield", Dialect::Modern);
    let runtime = still();
    let _entered = runtime.enter();
    core.append(&[block("first")]).unwrap();
    core.append(&[block("second")]).unwrap();
    let (reached, at_gate) = channel();
    let (pass, passed) = channel();
    *gate.lock().unwrap() = Some((reached, passed));
    let syncing = std::thread::spawn({
        let core = core.clone();
        move || core.sync()
    });
    at_gate.recv().unwrap();
    core.append(&[block("third")]).unwrap();
    pass.send(()).unwrap();
    syncing.join().unwrap().unwrap();
    assert_eq!(core.announced_head().length, 2);
    world.stop_at(0);
    drop(core);
    let killed = world.fork();
    world.restart();
    let core = writer_of(&world, Dialect::Modern);
    assert_eq!((core.head().length, core.get_local(2).unwrap()), (3, Some(block("third"))));
    killed.cut_power(0);
    assert_eq!(writer_of(&killed, Dialect::Modern).head().length, 2, "that was synced");
}

/// What a power cut left behind a lost entry does not count again once another entry is in front of it.
#[test]
fn an_entry_behind_a_lost_one_never_counts() {
    let runtime = still();
    let _entered = runtime.enter();
    let world = World::default();
    let append = |texts: &[&str]| {
        let core = writer_of(&world, Dialect::Modern);
        for text in texts {
            core.append(&[block(text)]).unwrap();
        }
        world.stop_at(0);
        drop(core);
        world.restart();
    };
    append(&["first", "second", "third"]);
    // In the entry of the second block.
    world.file("oplog").flip((8192 + 20) * 8);
    append(&["other"]);
    let key = Dialect::Modern.key_of(&pair());
    let reader = modern::open_modern(&world, key, None, false).unwrap();
    assert_eq!(reader.head().length, 2);
    assert_eq!(reader.get_local(1).unwrap(), Some(block("other")));
}
