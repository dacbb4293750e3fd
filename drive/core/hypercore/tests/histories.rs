//! Two histories signed with one key, in every arrangement: the one met first is kept whole, and no
//! byte and no node of the other is taken, whatever its length and whatever was stored before.

use super::super::Proof;
use super::*;

const LENGTHS: [usize; 3] = [5, 13, 24];
const FORKS: [usize; 6] = [0, 1, 4, 7, 8, 12];

/// What a reader had fetched of the first history before it met the other one.
#[derive(Clone, Copy, Debug)]
enum Stored {
    /// Its length, and no block.
    Head,
    Newest,
    /// Every third block.
    Some,
    /// What both histories have in common.
    Common,
}

fn history(length: usize, fork: usize, mark: u8) -> Vec<Bytes> {
    let block = |at: usize| if at < fork { at as u8 } else { at as u8 | mark };
    (0..length).map(|at| Bytes::from(vec![block(at); 5 + at])).collect()
}

/// Signed at every length, as a drive's cores are.
fn signed(blocks: &[Bytes]) -> Core {
    source(blocks)
}

fn fetch(to: &Core, from: &Core, stored: Stored, fork: usize) {
    let newest = from.head().length - 1;
    let head = from.prove(newest, 0, !matches!(stored, Stored::Newest), &mut RemoteTree::default());
    to.accept(head.unwrap()).unwrap();
    let blocks: Vec<u64> = match stored {
        Stored::Head | Stored::Newest => Vec::new(),
        Stored::Some => (0..=newest).step_by(3).collect(),
        Stored::Common => (0..fork as u64).collect(),
    };
    for block in blocks {
        send(from, to, block, &mut RemoteTree::default()).unwrap();
    }
}

fn proofs(from: &Core, to: &Core, block: u64) -> [Proof; 3] {
    let prove = |digest, hash| from.prove(block, digest, hash, &mut RemoteTree::default()).unwrap();
    [prove(to.digest(block), false), prove(0, false), prove(0, true)]
}

fn meet(first: &[Bytes], other: &[Bytes], fork: usize, stored: Stored, reopen: bool) {
    let case = format!("{} then {} from {fork}, {stored:?}, {reopen}", first.len(), other.len());
    let (first_core, other_core) = (signed(first), signed(other));
    let world = World::default();
    let mut to = reader(&world);
    fetch(&to, &first_core, stored, fork);
    let head = to.head();
    let reopened = |to: Core| {
        drop(to);
        reader(&world)
    };
    let only_first = |to: &Core| {
        assert_eq!(to.head(), head, "{case}");
        for (at, expected) in first.iter().enumerate() {
            if let Some(found) = to.get_local(at as u64).unwrap() {
                assert_eq!(found, expected, "{case}: block {at}");
            }
        }
        assert_eq!(to.held(head.length..u64::MAX), 0, "{case}");
    };
    if reopen {
        to = reopened(to);
    }
    let mut forks = 0;
    // Twice: what the first round leaves behind must not make the second one believe more.
    for block in (0..other_core.head().length).chain(0..other_core.head().length) {
        for proof in proofs(&other_core, &to, block) {
            match to.accept(proof) {
                Ok(accepted) => {
                    assert!(
                        (block as usize) < fork,
                        "{case}: block {block} of the other was taken"
                    );
                    assert_eq!(accepted.head, None, "{case}");
                }
                Err(Rejected::Forked { ours, theirs }) => {
                    assert_eq!((ours, theirs), (head.length, other.len() as u64), "{case}");
                    forks += 1;
                }
                Err(Rejected::Storage(error)) => panic!("{case}: {error}"),
                Err(Rejected::OtherFork { .. }) => panic!("{case}: a fork"),
                Err(Rejected::Invalid(_) | Rejected::Unconnected { .. }) => {}
            }
        }
        only_first(&to);
    }
    if other.len() >= first.len() {
        assert!(forks > 0, "{case}: the fork was not seen");
    }
    if reopen {
        to = reopened(to);
        only_first(&to);
    }
    // The peer that agrees with our head is never refused, and with its nodes the fork shows.
    fetch_all(&first_core, &to);
    let telling = head.length.min(other_core.head().length - 1);
    let telling = other_core.prove(telling, 0, false, &mut RemoteTree::default());
    let judged = to.accept(telling.unwrap());
    assert!(matches!(judged, Err(Rejected::Forked { .. })), "{case}: {judged:?}");
    to.sync().unwrap();
    let to = reopened(to);
    for (at, expected) in first.iter().enumerate() {
        assert_eq!(to.get_local(at as u64).unwrap().as_ref(), Some(expected), "{case}: block {at}");
    }
}

#[test]
fn of_two_histories_the_first_is_kept_in_every_arrangement() {
    for fork in FORKS {
        for ours in LENGTHS.into_iter().filter(|length| *length > fork) {
            for theirs in LENGTHS.into_iter().filter(|length| *length > fork) {
                let first = history(ours, fork, 0x40);
                let other = history(theirs, fork, 0x80);
                for stored in [Stored::Head, Stored::Newest, Stored::Some, Stored::Common] {
                    for reopen in [false, true] {
                        meet(&first, &other, fork, stored, reopen);
                    }
                }
            }
        }
    }
}

/// An earlier version of this program took such blocks: of the files it left, what does not lead to the
/// roots is forgotten, on disk too.
#[test]
fn nodes_of_another_history_on_disk_are_forgotten() {
    let (first, other) = (history(24, 2, 0x40), history(5, 2, 0x80));
    let (first_core, other_core) = (signed(&first), signed(&other));
    let (world, foreign) = (World::default(), World::default());
    let to = reader(&world);
    fetch(&to, &first_core, Stored::Head, 0);
    to.sync().unwrap();
    let mixed = reader(&foreign);
    fetch_all(&other_core, &mixed);
    mixed.sync().unwrap();
    drop((to, mixed));
    // Records and claims of the other history where the first has none.
    let (mut tree, mut bits) = (world.file("tree").bytes(), world.file("bitfield").bytes());
    let (others, claims) = (foreign.file("tree").bytes(), foreign.file("bitfield").bytes());
    for (mine, theirs) in tree.iter_mut().zip(&others).skip(32) {
        *mine |= theirs;
    }
    for (mine, theirs) in bits.iter_mut().zip(&claims).skip(32) {
        *mine |= theirs;
    }
    world.file("tree").write_at(0, &tree).unwrap();
    world.file("bitfield").write_at(0, &bits).unwrap();
    world.file("data").write_at(0, &foreign.file("data").bytes()).unwrap();
    let slots = foreign.file("signatures").bytes();
    let mut signatures = world.file("signatures").bytes();
    signatures[..slots.len()].copy_from_slice(&slots);
    world.file("signatures").write_at(0, &signatures).unwrap();

    let to = reader(&world);
    assert_eq!(to.head(), first_core.head());
    for block in 0..other.len() as u64 {
        assert_eq!(to.get_local(block).unwrap(), None, "block {block}");
    }
    assert_eq!(to.held(0..u64::MAX), 0);
    to.sync().unwrap();
    drop(to);
    let to = reader(&world);
    assert_eq!(to.held(0..u64::MAX), 0, "forgotten on disk too");
    fetch_all(&first_core, &to);
}
