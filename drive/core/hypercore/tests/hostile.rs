//! Proofs that must not be accepted, and what they may leave behind: nothing.

use super::super::Proof;
use super::super::merkle::MAX_BLOCK_SIZE;
use super::*;

fn files(world: &World) -> Vec<Vec<u8>> {
    ["data", "tree", "signatures", "bitfield"].map(|name| world.file(name).bytes()).to_vec()
}

fn proof(from: &Core, at: u64) -> Proof {
    from.prove(at, 0, false, &mut RemoteTree::default()).unwrap()
}

#[test]
fn refused_proofs_change_no_file() {
    let from = source(&uneven(9));
    let world = World::default();
    let to = reader(&world);
    to.accept(proof(&from, 8)).unwrap();
    to.flush().unwrap();
    let before = files(&world);
    let refused = |proof: Proof| {
        let (block, head) = (proof.block, to.head());
        assert!(matches!(to.accept(proof), Err(Rejected::Invalid(_))));
        assert!(!to.has(block));
        assert_eq!(to.head(), head);
    };
    let good = proof(&from, 5);
    let with = |value: &'static [u8]| Proof {
        value: Some(Bytes::from_static(value)),
        signature: None,
        ..good.clone()
    };
    refused(with(b"other"));
    refused(with(b""));
    let mut flipped = good.value.clone().unwrap().to_vec();
    flipped[0] ^= 1;
    refused(Proof { value: Some(flipped.into()), ..good.clone() });
    refused(Proof { block: 4, ..good.clone() });
    refused(Proof { block: 1 << 53, ..good.clone() });
    refused(Proof { block: u64::MAX, ..good.clone() });
    refused(Proof { value: None, nodes: Vec::new(), ..good.clone() });
    refused(Proof { nodes: Vec::new(), signature: None, ..good.clone() });
    refused(Proof { signature: Some([7; 64].into()), nodes: vec![], ..good.clone() });
    to.flush().unwrap();
    assert!(before == files(&world), "nothing was written");
    assert!(to.accept(good).unwrap().stored);
}

#[test]
fn the_largest_block_and_one_byte_more() {
    let from = writer(&World::default());
    let large = Bytes::from(vec![1; MAX_BLOCK_SIZE]);
    from.append(std::slice::from_ref(&large)).unwrap();
    let to = reader(&World::default());
    to.accept(proof(&from, 0)).unwrap();
    assert_eq!(to.get_local(0).unwrap(), Some(large));
    let larger = Bytes::from(vec![1; MAX_BLOCK_SIZE + 1]);
    assert!(matches!(from.append(std::slice::from_ref(&larger)), Err(Error::TooLarge(_))));
    let oversized = Proof { value: Some(larger), ..proof(&from, 0) };
    assert!(matches!(to.accept(oversized), Err(Rejected::Invalid(_))));
}

#[test]
fn a_second_history_is_a_fork() {
    let blocks = uneven(6);
    let from = source(&blocks);
    let mut other = blocks.clone();
    other[1] = block("another history");
    other.push(block("longer"));
    let forked = source(&other);
    let to = reader(&World::default());
    let head = to.accept(proof(&from, 1)).unwrap().head;
    for at in [1, 6] {
        assert!(
            matches!(to.accept(proof(&forked, at)), Err(Rejected::Forked { .. })),
            "block {at}"
        );
        assert_eq!(Some(to.head()), head);
    }
    assert_eq!(to.get_local(1).unwrap(), Some(blocks[1].clone()));
    fetch_all(&from, &to);
}

/// Both histories are signed by the same key. A block that only the second has proves that one's
/// head, and without a look at what both have in common the two would be mixed.
#[test]
fn a_second_history_is_not_taken_for_a_longer_version() {
    for (length, parting) in [(1, 0), (2, 1), (3, 0), (4, 3), (5, 1), (6, 5), (7, 6), (8, 2)] {
        let blocks = uneven(21);
        let mut other = blocks.clone();
        other[parting] = block("another history");
        let (first, second) = (source(&blocks[..length]), source(&other));
        let honest = source(&blocks);
        let to = reader(&World::default());
        to.accept(proof(&first, length as u64 - 1)).unwrap();
        let head = to.head();
        for at in 0..21 {
            match to.accept(proof(&second, at)) {
                Err(Rejected::Forked { .. } | Rejected::Unconnected { .. }) => {}
                // A block that both have is what it is.
                Ok(_) if at < length as u64 && at != parting as u64 => {}
                taken => panic!("block {at} after {length} of another history: {taken:?}"),
            }
            assert_eq!(to.head(), head);
        }
        let next = to.accept(proof(&second, length as u64));
        assert!(matches!(next, Err(Rejected::Forked { .. })), "{next:?}");
        // The first history goes on, shown by the same block, with or without its bytes.
        let whole = honest.prove(length as u64, 0, true, &mut RemoteTree::default()).unwrap();
        assert_eq!(to.accept(whole).unwrap().head, Some(honest.head()));
        for at in 0..21 {
            to.accept(proof(&honest, at)).unwrap();
        }
    }
}

#[test]
fn a_shorter_version_counts_once_it_is_shown_to_be_part_of_ours() {
    let blocks = uneven(9);
    let (old, new) = (source(&blocks[..5]), source(&blocks));
    let to = reader(&World::default());
    to.accept(proof(&new, 8)).unwrap();
    let early = to.accept(proof(&old, 2));
    assert!(matches!(early, Err(Rejected::Unconnected { ours: 9, signed: 5 })), "{early:?}");
    assert!(!to.has(2));
    // The first block after the shorter version passes by all its roots.
    to.accept(new.prove(5, to.digest(5), true, &mut RemoteTree::default()).unwrap()).unwrap();
    let accepted = to.accept(proof(&old, 2)).unwrap();
    assert_eq!(accepted, Accepted { stored: true, head: None });
    assert_eq!(to.head(), new.head());
    assert_eq!(to.get_local(2).unwrap(), Some(blocks[2].clone()));
}

#[test]
fn requests_beyond_the_core_are_refused() {
    let core = source(&uneven(5));
    for at in [5, 1 << 31, 1 << 32, 1 << 53, u64::MAX] {
        for digest in [0, 1, u64::MAX] {
            let proof = core.prove(at, digest, false, &mut RemoteTree::default());
            assert!(matches!(proof, Err(Error::NotFound)));
        }
        assert_eq!(core.get_local(at).unwrap(), None);
        assert_eq!(core.span(at).unwrap(), None);
        assert!(!core.has(at));
        let _ = core.digest(at);
    }
    assert_eq!(core.held(0..u64::MAX), 5);
    assert_eq!(core.first_missing(0..u64::MAX), Some(5));
}

#[test]
fn only_the_writer_appends() {
    let core = reader(&World::default());
    assert!(matches!(core.append(&[block("x")]), Err(Error::ReadOnly(_))));
}
