//! Append, get, prove, accept, clear, locate.

use super::super::{CoreEvent, Located};
use super::*;

#[test]
fn append_and_read_back() {
    let world = World::default();
    let core = writer(&world);
    let mut events = core.events();
    let head = core.append(&[block("a"), block(""), block("hello")]).unwrap();
    assert_eq!((head.length, head.byte_length), (3, 6));
    assert_eq!(events.try_recv().unwrap(), CoreEvent::Appended { start: 0, length: 3 });
    core.check_invariants();
    drop(core);
    let core = writer(&world);
    assert_eq!(core.head(), head);
    assert_eq!(core.get_local(2).unwrap(), Some(block("hello")));
    assert_eq!(core.get_local(1).unwrap(), Some(block("")));
    assert_eq!(core.get_local(3).unwrap(), None);
    assert_eq!(core.span(2).unwrap(), Some((1, 5)));
    assert_eq!(core.append(&[]).unwrap(), head);
}

#[test]
fn sparse_replication_in_any_order() {
    let target = World::default();
    let blocks = uneven(23);
    let from = source(&blocks);
    let to = reader(&target);
    let mut remote = RemoteTree::default();
    for at in [22u64, 3, 0, 17, 16, 4, 5, 9, 8, 1, 2] {
        assert!(send(&from, &to, at, &mut remote).unwrap().stored);
    }
    assert!(!send(&from, &to, 22, &mut remote).unwrap().stored, "the same block twice");
    assert_eq!(to.head(), from.head());
    drop(to);
    let to = reader(&target);
    assert_eq!(to.head(), from.head());
    assert_eq!(to.held(0..23), 11);
    assert_eq!(to.first_missing(0..23), Some(6));
    for at in 0..23u64 {
        let expected = to.has(at).then(|| blocks[at as usize].clone());
        assert_eq!(to.get_local(at).unwrap(), expected);
    }
    // What was fetched can be proven to others.
    let third = reader(&World::default());
    for at in [3u64, 17, 22, 0] {
        send(&to, &third, at, &mut RemoteTree::default()).unwrap();
        assert_eq!(third.get_local(at).unwrap(), Some(blocks[at as usize].clone()));
    }
}

/// What was fetched under a shorter length is read after the core has grown and was opened again.
#[test]
fn blocks_of_older_lengths_stay_readable() {
    let (world, target) = (World::default(), World::default());
    let from = writer(&world);
    let blocks = uneven(8);
    from.append(&blocks[..1]).unwrap();
    let to = reader(&target);
    send(&from, &to, 0, &mut RemoteTree::default()).unwrap();
    from.append(&blocks[1..]).unwrap();
    send(&from, &to, 7, &mut RemoteTree::default()).unwrap();
    drop(to);
    let to = reader(&target);
    assert_eq!(to.get_local(0).unwrap(), Some(blocks[0].clone()));
    assert_eq!(to.get_local(7).unwrap(), Some(blocks[7].clone()));
    fetch_all(&from, &to);
}

#[test]
fn hash_only_proofs_move_the_head_and_store_no_block() {
    let from = source(&uneven(5));
    let to = reader(&World::default());
    let mut heads = to.watch();
    let proof = from.prove(4, to.digest(4), true, &mut RemoteTree::default()).unwrap();
    let accepted = to.accept(proof).unwrap();
    assert_eq!(accepted, Accepted { stored: false, head: Some(from.head()) });
    assert!(heads.has_changed().unwrap());
    assert_eq!(*heads.borrow_and_update(), from.head());
    assert_eq!(to.held(0..5), 0);
    assert_eq!(to.data_bits(0, 1 << 20), vec![0]);
}

#[test]
fn data_bits_are_cut_after_the_last_block() {
    let core = source(&uneven(11));
    assert_eq!(core.data_bits(0, 1 << 20), vec![0xff, 0xe0]);
    assert_eq!(core.data_bits(8, 2), vec![0xc0]);
    assert_eq!(core.data_bits(8192, 1 << 20), Vec::<u8>::new());
    assert_eq!(core.data_bits(u64::MAX, u64::MAX), Vec::<u8>::new());
}

#[test]
fn clear_forgets_blocks_and_keeps_proofs() {
    let world = World::default();
    let core = writer(&world);
    let blocks: Vec<Bytes> = (0..6u8).map(|at| Bytes::from(vec![at; 9000])).collect();
    core.append(&blocks).unwrap();
    let mut events = core.events();
    core.clear(1..3).unwrap();
    assert_eq!(events.try_recv().unwrap(), CoreEvent::Cleared { start: 1, length: 2 });
    let holes = world.file("data").bytes();
    assert!(holes[12_288..24_576].iter().all(|byte| *byte == 0), "whole pages are given back");
    core.clear(5..6).unwrap();
    assert_eq!(world.file("data").bytes().len(), 45_000, "cut at the end");
    drop(core);
    let core = writer(&world);
    assert_eq!(core.head().length, 6);
    for (at, expected) in blocks.iter().enumerate() {
        let expected = (![1, 2, 5].contains(&at)).then(|| expected.clone());
        assert_eq!(core.get_local(at as u64).unwrap(), expected);
    }
    assert_eq!(core.span(5).unwrap(), Some((45_000, 9000)));
    core.append(&[block("after")]).unwrap();
    assert_eq!(core.get_local(6).unwrap(), Some(block("after")));
    let audit = core.audit().unwrap();
    assert_eq!((audit.valid, audit.invalid), (4, 0));
}

#[test]
fn locate_passes_over_empty_blocks() {
    let core = source(&["a", "b", "c", "", "hello"].map(block));
    let found = |byte| core.locate(byte, 0..5).unwrap();
    assert_eq!(found(0), Located::Found { block: 0, offset: 0 });
    assert_eq!(found(3), Located::Found { block: 4, offset: 0 });
    assert_eq!(found(7), Located::Found { block: 4, offset: 4 });
    assert!(matches!(core.locate(8, 0..5), Err(Error::Malformed(_))));
    assert_eq!(core.locate(8, 0..9).unwrap(), Located::Within(5..9));
    assert!(matches!(core.locate(3, 0..3), Err(Error::Malformed(_))));
    assert!(matches!(core.locate(3, 2..2), Err(Error::Malformed(_))));
}

#[test]
fn locate_narrows_with_every_node() {
    let from = source(&(0..8).map(|_| block("0123456789")).collect::<Vec<_>>());
    let to = reader(&World::default());
    assert_eq!(to.locate(35, 0..8).unwrap(), Located::Within(0..8));
    send(&from, &to, 7, &mut RemoteTree::default()).unwrap();
    assert_eq!(to.locate(35, 0..8).unwrap(), Located::Within(0..4));
    assert_eq!(to.locate(35, 2..8).unwrap(), Located::Within(2..4));
    send(&from, &to, 2, &mut RemoteTree::default()).unwrap();
    assert_eq!(to.locate(35, 0..8).unwrap(), Located::Found { block: 3, offset: 5 });
}

/// Many threads on one core; in debug builds the order of locks is checked on the way.
#[test]
fn concurrent_accepts_reads_and_clears() {
    let blocks: Vec<Bytes> = (0..64u8).map(|at| Bytes::from(vec![at; 6000])).collect();
    let from = source(&blocks);
    let world = World::default();
    let to = reader(&world);
    std::thread::scope(|scope| {
        for thread in 0..4u64 {
            let (from, to, blocks) = (&from, &to, &blocks);
            scope.spawn(move || {
                for at in (0..64).map(|at| (at * 13 + thread * 16) % 64) {
                    let proof = from.prove(at, 0, false, &mut RemoteTree::default()).unwrap();
                    to.accept(proof).unwrap();
                    if let Some(found) = to.get_local((at * 7) % 64).unwrap() {
                        assert_eq!(found, blocks[(at as usize * 7) % 64]);
                    }
                    match at % 16 {
                        3 => to.clear(at / 2..at / 2 + 5).unwrap(),
                        9 => to.flush().unwrap(),
                        _ => {}
                    }
                }
            });
        }
    });
    to.check_invariants();
    assert_eq!(to.audit().unwrap().invalid, 0);
    drop(to);
    let to = reader(&world);
    assert_eq!(to.audit().unwrap().invalid, 0);
    fetch_all(&from, &to);
}

#[test]
fn claims_are_written_at_the_limit_without_waiting() {
    use super::super::claims::MAX_UNCLAIMED_BLOCKS;

    let world = World::default();
    let core = writer(&world);
    let blocks = vec![block("x"); MAX_UNCLAIMED_BLOCKS as usize];
    core.append(&blocks[..1]).unwrap();
    let claimed = || world.file("bitfield").bytes()[32..1056].iter().all(|byte| *byte == 0xff);
    core.append(&blocks[1..]).unwrap();
    assert!(!claimed());
    core.append(&vec![block("x"); 8192 - blocks.len()]).unwrap();
    assert!(claimed());
}
