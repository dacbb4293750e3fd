//! Blocks of zeros: on disk they are holes, and the tree tells which blocks they are.

use super::super::zeros::{ZERO_BLOCK_SIZES, zeros};
use super::*;

const LARGE: u64 = ZERO_BLOCK_SIZES[1];
const SMALL: u64 = ZERO_BLOCK_SIZES[2];

/// Data, 11 large blocks of zeros, 3 small ones, data, and a short block of zeros.
fn blocks() -> Vec<Bytes> {
    let mut blocks = vec![block("data")];
    blocks.extend((0..11).map(|_| zeros(LARGE)));
    blocks.extend((0..3).map(|_| zeros(SMALL)));
    blocks.extend([block("more"), zeros(100)]);
    blocks
}

fn check_told(core: &Core) {
    let end = core.head().length;
    let told = |first| core.zero_blocks(first, end).unwrap();
    assert_eq!(told(0), (0, 4));
    for first in 1..12 {
        assert_eq!(told(first), (12 - first, LARGE), "from {first}");
    }
    assert_eq!(told(12), (3, SMALL));
    assert_eq!(core.zero_blocks(3, 9).unwrap(), (6, LARGE), "not beyond the end");
    assert_eq!(told(15), (0, 4));
    assert_eq!(told(16), (1, 100));
    assert_eq!(told(17), (0, 0));
}

#[test]
fn the_tree_tells_which_blocks_are_zeros() {
    for kind in KINDS {
        let world = World::default();
        let core = writer_of(&world, kind);
        core.append(&blocks()).unwrap();
        check_told(&core);
        drop(core);
        let core = writer_of(&world, kind);
        check_told(&core);
        for (at, expected) in blocks().iter().enumerate() {
            assert_eq!(core.get_local(at as u64).unwrap().as_ref(), Some(expected), "{kind} {at}");
        }
        assert_eq!(core.check(&mut |_| ()).unwrap().damaged, []);
    }
}

#[test]
fn a_reader_knows_of_the_zeros_that_it_has_proofs_of() {
    let from = source(&blocks());
    let to = reader(&World::default());
    send(&from, &to, 16, &mut RemoteTree::default()).unwrap();
    assert_eq!(to.zero_blocks(5, 17).unwrap(), (0, 0));
    send(&from, &to, 5, &mut RemoteTree::default()).unwrap();
    let (count, bytes) = to.zero_blocks(5, 17).unwrap();
    assert!(count >= 1 && bytes == LARGE, "{count}");
    fetch_all(&from, &to);
    check_told(&to);
}

/// What an append that failed has left behind the end is no zeros.
#[test]
fn zeros_are_written_over_what_was_there() {
    for kind in KINDS {
        for call in 0..12 {
            let world = World::default();
            let core = writer_of(&world, kind);
            core.append(&[block("data")]).unwrap();
            core.sync().unwrap();
            world.fail_once_at(call);
            let stale = Bytes::from(vec![7; 3 * LARGE as usize]);
            let failed = core.append(std::slice::from_ref(&stale)).is_err();
            world.restart();
            core.append(&[zeros(LARGE), zeros(SMALL), block("end")]).unwrap();
            let stale = if failed { Bytes::new() } else { stale };
            let expected = [&b"data"[..], &stale, &zeros(LARGE + SMALL), b"end"].concat();
            let stored = world.file("data").bytes();
            assert!(stored[..expected.len()] == expected, "{kind}, call {call}, {failed}");
        }
    }
}
