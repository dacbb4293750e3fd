//! One channel of `hypercore/alpha`: what is said and heard, without a replicator.

use bytes::Bytes;

use super::ModernUpload;
use super::exchange::{AWAITED_FOR, CONFLICT, Exchange, MAX_HISTORIES, NO_BLOCK, Outcome};
use super::{Event, PeerId};
use crate::hypercore::Core;
use crate::hypercore::Dialect;
use crate::store::Store;
use crate::wire::message::Message;
use crate::wire::modern::message as alpha;
use crate::wire::modern::message::{Data, DataBlock, DataUpgrade, Sync};
use hypermount_swarm::crypto::{KeyPair, PublicKey};
use tokio::time::Instant;

fn exchange() -> Exchange {
    let store = Store::memory();
    let core = store.core_of(&PublicKey::new([7; 32]), Dialect::Modern).unwrap();
    Exchange::new(core, PeerId(1), true, false)
}

fn sync(fork: u64, length: u64) -> alpha::Message {
    alpha::Message::Sync(Sync { fork, length, uploading: true, ..Sync::default() })
}

/// Requests and answers until neither side has more to say.
fn converse(reader: &mut Exchange, upload: &mut ModernUpload, heard: alpha::Message) {
    let mut outcomes = reader.hear(heard, Instant::now());
    while let Some(outcome) = outcomes.pop() {
        let Outcome::Send(message) = outcome else { continue };
        upload.received(&message).unwrap();
        while let Some(answer) = upload.next_answer() {
            outcomes.extend(reader.hear(answer, Instant::now()));
        }
    }
}

#[test]
fn the_manifest_of_an_empty_core_proves_its_key() {
    let pair = KeyPair::from_seed(&[3; 32]);
    let empty = Store::memory().modern_core_with_pair(&pair).unwrap();
    let core = Store::memory().core_of(empty.key(), Dialect::Modern).unwrap();
    let mut upload = ModernUpload::new(empty.clone());
    let has = |has_manifest| {
        alpha::Message::Sync(Sync { has_manifest, uploading: true, ..Sync::default() })
    };
    let mut reader = Exchange::new(core.clone(), PeerId(1), true, false);
    converse(&mut reader, &mut upload, has(false));
    assert!(core.lacks_manifest(), "the peer has none");
    converse(&mut reader, &mut upload, has(true));
    assert_eq!((core.manifest(), core.head().length), (empty.manifest(), 0));
    // That of another core is not taken.
    let other_core = Store::memory().core_of(&PublicKey::new([7; 32]), Dialect::Modern).unwrap();
    let mut other = Exchange::new(other_core.clone(), PeerId(1), true, false);
    let mut outcomes = other.hear(has(true), Instant::now()).into_iter();
    let id = outcomes.find_map(|outcome| match outcome {
        Outcome::Send(alpha::Message::Request(request)) => Some(request.id),
        _ => None,
    });
    let request = id.expect("it is asked for");
    let data = Data { request, manifest: empty.manifest(), ..Data::default() };
    let told = other.hear(alpha::Message::Data(data), Instant::now());
    assert!(matches!(told[..], [Outcome::Event(Event::Unrequested { .. })]), "{told:?}");
    assert!(other_core.lacks_manifest());
}

#[test]
fn lengths_that_go_back_and_forth_are_abuse_and_others_are_not() {
    let (mut honest, mut liar) = (exchange(), exchange());
    for n in 0..1000 {
        honest.hear(sync(n / 10, if n % 10 == 0 { 3 } else { n }), Instant::now());
        liar.hear(sync(0, n % 2), Instant::now());
    }
    assert_eq!(honest.abuse(), None);
    assert_eq!(liar.abuse(), Some("announces lengths that go back and forth"));
}

#[test]
fn announcements_beyond_the_length_are_abuse_unless_it_rises() {
    let (mut honest, mut liar) = (exchange(), exchange());
    liar.hear(sync(0, 1), Instant::now());
    for n in 0..1000 {
        let range = alpha::Message::Range { drop: false, start: n, length: 1 };
        honest.hear(range.clone(), Instant::now());
        honest.hear(sync(0, n + 1), Instant::now());
        liar.hear(range, Instant::now());
    }
    assert_eq!(honest.abuse(), None);
    assert_eq!(liar.abuse(), Some("announces blocks beyond its length"));
}

#[test]
fn megabytes_that_were_never_requested_are_abuse() {
    let mut liar = exchange();
    let value = Bytes::from(vec![0; 1024 * 1024]);
    let block = Some(DataBlock { index: 0, value, nodes: Vec::new() });
    for _ in 0..16 {
        liar.hear(
            alpha::Message::Data(Data { block: block.clone(), ..Data::default() }),
            Instant::now(),
        );
    }
    assert_eq!(liar.abuse(), None);
    liar.hear(alpha::Message::Data(Data { block, ..Data::default() }), Instant::now());
    assert_eq!(liar.abuse(), Some("sent data that was not requested"));
}

#[test]
fn few_proofs_of_a_history_are_taken_that_were_not_asked_for() {
    let mut peer = exchange();
    let upgrade = Some(DataUpgrade {
        start: 0,
        length: 1,
        nodes: Vec::new(),
        additional_nodes: Vec::new(),
        signature: Bytes::new(),
    });
    let mut hears = || {
        let data = Data { request: CONFLICT, upgrade: upgrade.clone(), ..Data::default() };
        let heard = peer.hear(alpha::Message::Data(data), Instant::now());
        matches!(heard[..], [Outcome::Event(Event::Upgraded { .. })])
    };
    assert!((0..MAX_HISTORIES).all(|_| hears()));
    assert!(!hears());
}

/// A core of `blocks` blocks, and a reader that knows its length and no block of it.
fn written_and_reader(blocks: u8) -> (Core, Exchange, ModernUpload) {
    let pair = KeyPair::from_seed(&[4; 32]);
    let written = Store::memory().modern_core_with_pair(&pair).unwrap();
    let blocks: Vec<Bytes> = (0..blocks).map(|block| Bytes::from(vec![block; 9])).collect();
    written.append(&blocks).unwrap();
    let core = Store::memory().core_of(written.key(), Dialect::Modern).unwrap();
    let mut reader = Exchange::new(core.clone(), PeerId(1), true, false);
    let mut upload = ModernUpload::new(written.clone());
    let has = Sync {
        has_manifest: true,
        uploading: true,
        length: blocks.len() as u64,
        ..Sync::default()
    };
    for asked in sent(reader.hear(alpha::Message::Sync(has), Instant::now())) {
        upload.received(&asked).unwrap();
    }
    while let Some(answer) = upload.next_answer() {
        assert_eq!(judged(&core, reader.hear(answer, Instant::now())), [(NO_BLOCK, true)]);
    }
    assert_eq!(core.head().length, written.head().length);
    (core, reader, upload)
}

fn sent(outcomes: Vec<Outcome>) -> Vec<alpha::Message> {
    let sent = outcomes.into_iter().filter_map(|outcome| match outcome {
        Outcome::Send(message) => Some(message),
        Outcome::Event(_) => None,
    });
    sent.collect()
}

/// The proofs among these, each with whether the core takes it.
fn judged(core: &Core, outcomes: Vec<Outcome>) -> Vec<(u64, bool)> {
    let proofs = outcomes.into_iter().filter_map(|outcome| match outcome {
        Outcome::Event(Event::Answered { proof, .. } | Event::Upgraded { proof, .. }) => {
            Some(proof)
        }
        _ => None,
    });
    proofs.map(|proof| (proof.block(), core.accept(proof).is_ok())).collect()
}

/// Requests these blocks together; the answers, in the order of the requests. `nodes` as in a message of Hypercore 9:
/// 0 asks for a proof that needs nothing of ours.
fn request_together(
    reader: &mut Exchange,
    upload: &mut ModernUpload,
    blocks: std::ops::Range<u64>,
    nodes: u64,
) -> Vec<alpha::Message> {
    for index in blocks {
        let request = Message::Request { index, bytes: 0, hash: false, nodes };
        for asked in sent(reader.say(request, Instant::now())) {
            upload.received(&asked).unwrap();
        }
    }
    std::iter::from_fn(|| upload.next_answer()).collect()
}

fn nodes_in(answers: &[alpha::Message]) -> usize {
    let nodes = answers.iter().map(|answer| match answer {
        alpha::Message::Data(data) => data.block.as_ref().map_or(0, |block| block.nodes.len()),
        _ => 0,
    });
    nodes.sum()
}

#[test]
fn a_row_that_is_requested_together_brings_each_node_once_in_any_order() {
    for order in 0..8_usize {
        let (core, mut reader, mut upload) = written_and_reader(64);
        let mut answers = request_together(&mut reader, &mut upload, 0..64, 1);
        assert_eq!(answers.len(), 64);
        assert_eq!(
            nodes_in(&answers),
            63,
            "all nodes of the tree but the root and those that follow"
        );
        match order {
            0 => {}
            1 => answers.reverse(),
            _ => answers.sort_by_key(|answer| match answer {
                alpha::Message::Data(data) => data.request.wrapping_mul(order as u64 * 77 + 5) % 61,
                _ => 0,
            }),
        }
        let outcomes = answers.into_iter().flat_map(|answer| reader.hear(answer, Instant::now()));
        let told = judged(&core, outcomes.collect());
        assert_eq!(told.len(), 64);
        assert!(told.iter().all(|(_, verified)| *verified), "order {order}: {told:?}");
        assert!(reader.expects_nothing());
    }
}

#[test]
fn what_builds_on_a_refused_answer_is_judged_without_it() {
    let (core, mut reader, mut upload) = written_and_reader(8);
    let mut answers = request_together(&mut reader, &mut upload, 0..4, 1);
    let alpha::Message::Data(first) = answers.remove(0) else { panic!("an answer") };
    for answer in answers {
        let told = judged(&core, reader.hear(answer, Instant::now()));
        assert_eq!(told, [], "it waits for the answer to the first request");
    }
    let no_data = alpha::Message::NoData { request: first.request, reason: None };
    let told = reader.hear(no_data, Instant::now());
    assert_eq!(judged(&core, told), [(1, false), (2, false), (3, false)]);
    let again = request_together(&mut reader, &mut upload, 1..2, 0);
    let outcomes = again.into_iter().flat_map(|answer| reader.hear(answer, Instant::now()));
    assert_eq!(judged(&core, outcomes.collect()), [(1, true)]);
    assert!(reader.expects_nothing());
}

fn cancel(reader: &mut Exchange, index: u64) -> Vec<u64> {
    let cancel = Message::Cancel { index, bytes: 0, hash: false };
    let sent = sent(reader.say(cancel, Instant::now())).into_iter();
    let cancelled = sent.map(|message| match message {
        alpha::Message::Cancel { request } => request,
        other => panic!("{other:?}"),
    });
    cancelled.collect()
}

/// A peer does not answer what is cancelled, and blocks that are still wanted build on it.
#[test]
fn what_others_build_on_is_cancelled_with_the_last_of_them() {
    let (core, mut reader, mut upload) = written_and_reader(8);
    let answers = request_together(&mut reader, &mut upload, 0..4, 1);
    assert!(cancel(&mut reader, 0).is_empty());
    let outcomes = answers.into_iter().flat_map(|answer| reader.hear(answer, Instant::now()));
    let told = judged(&core, outcomes.collect());
    assert_eq!(told, [(0, true), (1, true), (2, true), (3, true)]);

    let (_, mut reader, mut upload) = written_and_reader(8);
    let ids = request_together(&mut reader, &mut upload, 0..4, 1).into_iter();
    let ids: Vec<u64> = ids
        .map(|answer| match answer {
            alpha::Message::Data(data) => data.request,
            other => panic!("{other:?}"),
        })
        .collect();
    let mut cancelled: Vec<u64> = (0..4).flat_map(|index| cancel(&mut reader, index)).collect();
    cancelled.sort_unstable();
    assert_eq!(cancelled, ids);
    assert!(reader.expects_nothing());
}

/// The first request is never answered, and those after it are made again.
#[test]
fn nothing_builds_on_a_late_request() {
    let (core, mut reader, mut upload) = written_and_reader(8);
    let answers = request_together(&mut reader, &mut upload, 0..4, 1);
    for answer in answers.into_iter().skip(1) {
        assert_eq!(judged(&core, reader.hear(answer, Instant::now())), []);
    }
    let later = Instant::now() + AWAITED_FOR;
    for index in 1..4 {
        let request = Message::Request { index, bytes: 0, hash: false, nodes: 1 };
        for asked in sent(reader.say(request, later)) {
            upload.received(&asked).unwrap();
        }
    }
    let again = std::iter::from_fn(|| upload.next_answer());
    let outcomes = again.flat_map(|answer| reader.hear(answer, later)).collect();
    assert_eq!(judged(&core, outcomes), [(1, true), (2, true), (3, true)]);
}
