//! Every bound on what one peer can make us keep or do: at it, and one past it.

use bytes::Bytes;

use super::peer::{MAX_CACHES_PER_HINT, MAX_NEAR_BLOCKS, MAX_WANTED_REGIONS};
use super::*;
use crate::hypercore::demand::{Hint, Urgency};
use crate::store::Store;
use crate::wire::extension::{self, TrieMessage};
use crate::wire::run_length::{self, MAX_UNFOLDED};
use continuity::MAX_BRIDGES;
use distrust::{DISTRUST_FOR, MAX_DISTRUSTED};
use peer::{
    MAX_BAD_BYTES, MAX_BAD_PROOFS, MAX_IN_FLIGHT, MAX_STRIKES, MAX_UNCONNECTED, RETRY_AFTER,
    RETRY_WITHIN,
};
use skips::{ALWAYS_SKIPPED, MAX_SKIPPED};
use tokio::time::Duration;
use upload::{MAX_QUEUED_REQUESTS, MAX_WANT_BLOCKS, TooManyRequests};

pub(super) const PEER: PeerId = PeerId(1);

/// A core with this many blocks, and its writer's view of it.
pub(super) fn written(blocks: usize) -> Core {
    let core = Store::memory().core_named(b"written").unwrap();
    let blocks: Vec<Bytes> = (0..blocks).map(|block| Bytes::from(vec![block as u8; 9])).collect();
    core.append(&blocks).unwrap();
    core
}

/// A reader of that core with one peer that is connected and has said nothing yet.
fn reading(written: &Core) -> Replicator {
    let core = Store::memory().core(written.key()).unwrap();
    let mut replicator = Replicator::new(core, Instant::now());
    let opened = Event::Opened { peer: PEER, name: "the peer".to_owned() };
    replicator.step(opened, Instant::now());
    replicator
}

fn receive(replicator: &mut Replicator, message: Message) {
    replicator.step(Event::Received { peer: PEER, message }, Instant::now());
}

pub(super) fn have(start: u64, length: u64) -> Message {
    Message::Have { start, length, bitfield: None, ack: false }
}

/// What is to be done; the demand has been told.
fn actions(replicator: &mut Replicator) -> Vec<Action> {
    let mut actions = Vec::new();
    while let Some(action) = replicator.next_action() {
        match action {
            Action::Demand(telling) => telling.apply(replicator.core.demand()),
            other => actions.push(other),
        }
    }
    actions
}

fn peer_of(replicator: &Replicator) -> &Peer {
    &replicator.peers[&PEER]
}

/// Whether the connection is to end, and as a liar's.
fn ended(replicator: &mut Replicator) -> Option<bool> {
    let actions = actions(replicator);
    actions.iter().find_map(|action| match action {
        Action::Disconnect { lied, .. } => Some(*lied),
        _ => None,
    })
}

fn requests(replicator: &mut Replicator) -> usize {
    let is_request =
        |action: &Action| matches!(action, Action::Send { message: Message::Request { .. }, .. });
    actions(replicator).iter().filter(|action| is_request(action)).count()
}

fn want(replicator: &mut Replicator, blocks: Range<u64>) {
    let wanted = |block| Change::Wanted { block, urgency: Urgency::Reader };
    replicator.demand(blocks.map(wanted).collect(), Instant::now());
}

#[test]
fn requests_in_flight() {
    let written = written(1);
    let mut replicator = reading(&written);
    replicator.average_bytes = 1;
    receive(&mut replicator, have(0, 10_000));
    want(&mut replicator, 0..10_000);
    assert_eq!(requests(&mut replicator), MAX_IN_FLIGHT);
}

#[test]
fn unsolicited_data_ends_the_connection_at_the_limit() {
    let written = written(1);
    let mut replicator = reading(&written);
    let data = || Message::Data { index: 0, value: None, nodes: Vec::new(), signature: None };
    for _ in 0..MAX_UNSOLICITED {
        receive(&mut replicator, data());
    }
    assert_eq!(ended(&mut replicator), None);
    receive(&mut replicator, data());
    assert_eq!(ended(&mut replicator), Some(true));
}

#[test]
fn offers_taken_back() {
    let written = written(1);
    let mut replicator = reading(&written);
    want(&mut replicator, 0..1);
    let take_back = |replicator: &mut Replicator| {
        receive(replicator, have(0, 1));
        receive(replicator, Message::Unhave { start: 0, length: 1 });
        ended(replicator)
    };
    for _ in 0..MAX_REFUSED {
        assert_eq!(take_back(&mut replicator), None);
    }
    assert_eq!(take_back(&mut replicator), Some(true));
}

#[test]
fn uploading_switched_on_and_off() {
    let written = written(1);
    let mut replicator = reading(&written);
    let flap = |replicator: &mut Replicator| {
        for uploading in [false, true] {
            receive(replicator, Message::Status { uploading, downloading: true });
        }
        ended(replicator)
    };
    for _ in 0..MAX_REFUSED {
        assert_eq!(flap(&mut replicator), None);
    }
    assert_eq!(flap(&mut replicator), Some(true));
}

#[test]
fn bitfields_unfolded() {
    let written = written(1);
    let mut replicator = reading(&written);
    let bitfield = |bytes: usize| Message::Have {
        start: 0,
        length: 1 << 20,
        bitfield: Some(run_length::encode(&vec![0xff; bytes]).freeze()),
        ack: false,
    };
    receive(&mut replicator, bitfield(MAX_UNFOLDED));
    assert_eq!(ended(&mut replicator), None);
    receive(&mut replicator, bitfield(MAX_UNFOLDED + 1));
    assert_eq!(ended(&mut replicator), Some(true));
}

#[test]
fn answers_to_one_hint() {
    let written = written(2000);
    let mut replicator = reading(&written);
    let proof = written.prove(1999, 0, false, &mut Default::default()).unwrap();
    replicator.core.accept(proof).unwrap();
    let names = vec![extension::NAME.to_owned()];
    replicator.step(Event::Extensions { peer: PEER, names }, Instant::now());
    let hint = Hint::Key { head: 1999, key: "key".to_owned() };
    replicator.demand(vec![Change::Hint(hint)], Instant::now());
    for block in 0..MAX_CACHES_PER_HINT as u64 + 1 {
        let blocks = vec![block];
        let payload = TrieMessage::Cache { start: 0, end: 2000, blocks }.encode();
        let name = extension::NAME.to_owned();
        receive(&mut replicator, Message::Extension { name, payload });
    }
    actions(&mut replicator);
    assert_eq!(replicator.core.demand().wanted().len(), MAX_CACHES_PER_HINT as usize);
}

#[test]
fn blocks_near_what_was_looked_up() {
    let written = written(2000);
    let hinted = |hint: Hint, blocks: usize| {
        let mut replicator = reading(&written);
        let proof = written.prove(1999, 0, false, &mut Default::default()).unwrap();
        replicator.core.accept(proof).unwrap();
        let names = vec![extension::NAME.to_owned()];
        replicator.step(Event::Extensions { peer: PEER, names }, Instant::now());
        replicator.demand(vec![Change::Hint(hint)], Instant::now());
        let blocks = (0..blocks as u64).collect();
        let payload = TrieMessage::Cache { start: 0, end: 2000, blocks }.encode();
        receive(&mut replicator, Message::Extension { name: extension::NAME.to_owned(), payload });
        actions(&mut replicator);
        replicator.core.demand().wanted().len()
    };
    let lookup = || Hint::Key { head: 1999, key: "key".to_owned() };
    let listing = Hint::List { head: 1999, prefix: "key".to_owned(), recursive: false };
    assert_eq!(hinted(lookup(), MAX_NEAR_BLOCKS), MAX_NEAR_BLOCKS);
    assert_eq!(hinted(lookup(), MAX_NEAR_BLOCKS + 1), 0);
    assert_eq!(hinted(listing, MAX_NEAR_BLOCKS + 1), MAX_NEAR_BLOCKS + 1);
}

#[test]
fn wants_sent_to_one_peer_are_limited() {
    let written = written(1);
    let mut replicator = reading(&written);
    actions(&mut replicator);
    let regions = |replicator: &mut Replicator| {
        let is_want =
            |action: &Action| matches!(action, Action::Send { message: Message::Want { .. }, .. });
        actions(replicator).iter().filter(|action| is_want(action)).count()
    };
    let mut asked = 1; // the first region, when the peer came
    for region in 1..MAX_WANTED_REGIONS as u64 + 5 {
        want(&mut replicator, region * REGION_BLOCKS..region * REGION_BLOCKS + 1);
        asked += regions(&mut replicator);
    }
    assert_eq!(asked, MAX_WANTED_REGIONS);
}

/// A writer that went on, met by a reader that has the older version.
#[test]
fn blocks_kept_until_continuity_is_shown() {
    let written = written(2);
    let mut replicator = reading(&written);
    let proof = written.prove(1, 0, false, &mut Default::default()).unwrap();
    replicator.core.accept(proof).unwrap();
    let many = MAX_UNCONNECTED as u64 + 10;
    receive(&mut replicator, have(4, many));
    replicator.average_bytes = 1;
    want(&mut replicator, 4..4 + many);
    actions(&mut replicator);
    for block in 4..4 + many {
        let verdict = Err(Rejected::Unconnected { ours: 2, signed: 4 + many });
        replicator.step(
            Event::Judged { peer: PEER, block, size: 9, verdict, learnt: Learnt::default() },
            Instant::now(),
        );
    }
    let kept = replicator.peers[&PEER].unconnected.len();
    assert_eq!(kept, MAX_UNCONNECTED);
    let asked: Vec<_> = actions(&mut replicator);
    let proofs = asked.iter().filter(|action| {
        let Action::Send { message, .. } = action else { return false };
        matches!(message, Message::Request { index: 2, hash: true, nodes: 0, .. })
    });
    assert_eq!(proofs.count(), 1, "asked once, whatever the number of blocks");
    // It cannot show it: nothing beyond our two blocks is asked of it any more.
    receive(&mut replicator, Message::Unhave { start: 2, length: 1 });
    assert!(peer_of(&replicator).unconnected.is_empty());
    assert_eq!(peer_of(&replicator).discontinued, Some(2));
    assert_eq!(requests(&mut replicator), 0);
    assert!(!peer_of(&replicator).offers(4) && peer_of(&replicator).blocks.contains(4));
    // It tells of the block that can show it.
    receive(&mut replicator, have(2, 1));
    assert!(peer_of(&replicator).offers(4));
}

/// Two peers: one has what we have, the other older versions that nothing here connects with ours.
#[test]
fn shorter_versions_waiting_for_a_bridge() {
    let written = written(2000);
    let mut replicator = reading(&written);
    let proof = written.prove(1999, 0, false, &mut Default::default()).unwrap();
    replicator.core.accept(proof).unwrap();
    receive(&mut replicator, have(0, 1000));
    let bridging = PeerId(2);
    let opened = Event::Opened { peer: bridging, name: "another".to_owned() };
    replicator.step(opened, Instant::now());
    let many = MAX_BRIDGES as u64 + 1;
    want(&mut replicator, 0..many);
    actions(&mut replicator);
    for block in 0..many {
        let verdict = Err(Rejected::Unconnected { ours: 2000, signed: 1000 + block });
        replicator.step(
            Event::Judged { peer: PEER, block, size: 9, verdict, learnt: Learnt::default() },
            Instant::now(),
        );
    }
    assert_eq!(replicator.bridges.count(), MAX_BRIDGES);
    let peer = &replicator.peers[&PEER];
    assert_eq!(peer.withheld.len(), MAX_BRIDGES);
    assert!(!peer.blocks.contains(many - 1), "one past the bound counts as not there");
    assert_eq!(requests(&mut replicator), 0, "no peer is known to have a bridge");
    let told = Event::Received { peer: bridging, message: have(1000, 1) };
    replicator.step(told, Instant::now());
    let bridge = actions(&mut replicator);
    let asked = bridge.iter().any(|action| {
        matches!(action, Action::Send { peer, message: Message::Request { index: 1000, hash: true, .. } }
            if *peer == bridging)
    });
    assert!(asked, "{bridge:?}");
    // Its proof verifies, and does not lead to the roots of that version.
    let answer = Message::Data { index: 1000, value: None, nodes: Vec::new(), signature: None };
    replicator.step(Event::Received { peer: bridging, message: answer }, Instant::now());
    let verdict = Ok(crate::hypercore::Accepted { stored: false, head: None });
    let judged =
        Event::Judged { peer: bridging, block: 1000, size: 0, verdict, learnt: Learnt::default() };
    replicator.step(judged, Instant::now());
    assert_eq!(replicator.bridges.count(), MAX_BRIDGES, "what waits for it is not asked for again");
    replicator.step(Event::Closed { peer: PEER }, Instant::now());
    assert_eq!(replicator.bridges.count(), 0);
}

#[test]
fn bad_proofs_of_one_peer() {
    let written = written(200);
    let mut replicator = reading(&written);
    receive(&mut replicator, have(0, 200));
    replicator.peers.get_mut(&PEER).unwrap().proved(0);
    let mut bad = |block: u64| {
        want(&mut replicator, block..block + 1);
        let verdict = Err(Rejected::Invalid("a lie".to_owned()));
        replicator.step(
            Event::Judged { peer: PEER, block, size: 9, verdict, learnt: Learnt::default() },
            Instant::now(),
        );
        ended(&mut replicator)
    };
    for block in 0..u64::from(MAX_STRIKES) {
        assert_eq!(bad(block), None, "block {block}");
    }
    // Further bad proofs of one block are no further strikes.
    for _ in 1..MAX_BAD_PROOFS {
        assert_eq!(bad(0), None);
    }
    assert_eq!(bad(199), Some(true));

    let mut replicator = reading(&written);
    receive(&mut replicator, have(0, 200));
    let now = Instant::now();
    let peer = replicator.peers.get_mut(&PEER).unwrap();
    for times in 1..=MAX_BAD_PROOFS {
        assert!(peer.blocks.contains(7), "{times}");
        peer.strike(7, 9, now, now);
    }
    assert!(!peer.blocks.contains(7));
}

#[test]
fn a_block_whose_proofs_were_bad_is_asked_for_again_later() {
    let written = written(9);
    let mut replicator = reading(&written);
    receive(&mut replicator, have(0, 9));
    replicator.peers.get_mut(&PEER).unwrap().proved(0);
    let mut now = Instant::now();
    replicator.demand(vec![Change::Wanted { block: 7, urgency: Urgency::Reader }], now);
    let bad = |replicator: &mut Replicator, now| {
        assert_eq!(requests(replicator), 1);
        let message = Message::Data { index: 7, value: None, nodes: Vec::new(), signature: None };
        replicator.step(Event::Received { peer: PEER, message }, now);
        let verdict = Err(Rejected::Invalid("a lie".to_owned()));
        let learnt = Learnt::default();
        replicator.step(Event::Judged { peer: PEER, block: 7, size: 9, verdict, learnt }, now);
    };
    for _ in 0..MAX_BAD_PROOFS {
        bad(&mut replicator, now);
    }
    let mut pause = RETRY_AFTER;
    for _ in 0..6 {
        let just_before = now + pause - Duration::from_millis(1);
        replicator.step(Event::Tick, just_before);
        assert_eq!(requests(&mut replicator), 0, "not before {pause:?}");
        assert_eq!(replicator.next_check(), Some(now + pause));
        now += pause;
        replicator.step(Event::Tick, now);
        bad(&mut replicator, now);
        pause = (pause * 2).min(RETRY_WITHIN);
    }
    assert_eq!(ended(&mut replicator), None);
}

#[test]
fn bytes_of_bad_proofs() {
    let now = Instant::now();
    let mut peer = Peer::new("the peer".to_owned(), now);
    peer.proved(9);
    assert!(!peer.strike(1, MAX_BAD_BYTES, now, now));
    assert!(peer.strike(2, 1, now, now));
    peer.proved(2);
    assert!(!peer.strike(3, 1, now, now), "a good proof makes up for as many bytes");
}

#[test]
fn a_peer_that_has_proved_nothing_is_dropped_after_the_tries_for_one_block() {
    let written = written(9);
    let mut replicator = reading(&written);
    receive(&mut replicator, have(0, 9));
    for times in 1..=MAX_BAD_PROOFS {
        want(&mut replicator, 7..8);
        let verdict = Err(Rejected::Invalid("a lie".to_owned()));
        replicator.step(
            Event::Judged { peer: PEER, block: 7, size: 9, verdict, learnt: Learnt::default() },
            Instant::now(),
        );
        assert_eq!(ended(&mut replicator), (times == MAX_BAD_PROOFS).then_some(true), "{times}");
    }
}

#[test]
fn blocks_that_are_distrusted() {
    let mut distrusted = Distrusted::default();
    let now = Instant::now();
    for block in 0..MAX_DISTRUSTED as u64 {
        assert!(distrusted.insert(block, now) && !distrusted.insert(block, now));
    }
    assert!(!distrusted.insert(MAX_DISTRUSTED as u64, now), "one past the bound");
    distrusted.remove(0);
    assert!(distrusted.insert(MAX_DISTRUSTED as u64, now));
    distrusted.expire(now + DISTRUST_FOR, |block| block < 10);
    assert_eq!(distrusted.len(), 9, "what is wanted stays");
    distrusted.expire(now + DISTRUST_FOR * 2, |_| false);
    assert!(distrusted.is_empty());
}

fn request(index: u64) -> Message {
    Message::Request { index, bytes: 0, hash: false, nodes: 0 }
}

#[test]
fn requests_waiting_to_be_answered() {
    let mut upload = Upload::new(written(1));
    for index in 0..MAX_QUEUED_REQUESTS as u64 {
        assert_eq!(upload.received(&request(index)), Ok(()));
    }
    assert_eq!(upload.received(&request(0)), Err(TooManyRequests));
    upload.next_answer().unwrap();
    assert_eq!(upload.received(&request(0)), Ok(()));
}

#[test]
fn a_want_is_answered_up_to_the_limit_of_its_length() {
    let mut upload = Upload::new(written(3));
    upload.received(&Message::Want { start: 0, length: MAX_WANT_BLOCKS }).unwrap();
    assert_eq!(upload.next_answer(), Some(have(2, 1)));
    assert!(matches!(upload.next_answer(), Some(Message::Have { bitfield: Some(_), .. })));
    for (start, length) in [(0, MAX_WANT_BLOCKS + 8192), (1, 8192), (0, 1 << 53)] {
        upload.received(&Message::Want { start, length }).unwrap();
        assert_eq!(upload.next_answer(), None, "{start} {length}");
    }
}

/// Wanted blocks that no peer has, and a peer that has said nothing yet.
fn wanting(count: u64) -> Replicator {
    let mut replicator = reading(&written(1));
    replicator.average_bytes = 1;
    want(&mut replicator, 0..count);
    actions(&mut replicator);
    replicator
}

const MANY: u64 = 60_000;

#[test]
fn an_offer_of_everything_queues_no_more_than_the_peer_can_be_asked_for() {
    let mut replicator = wanting(MANY);
    receive(&mut replicator, have(0, MANY));
    assert_eq!(requests(&mut replicator), MAX_IN_FLIGHT);
    let parked = |replicator: &Replicator| replicator.wants.parked(0..MANY).count();
    assert_eq!(parked(&replicator), MANY as usize - MAX_IN_FLIGHT);
    // Taken back, the rest was never moved.
    receive(&mut replicator, Message::Unhave { start: 0, length: MANY });
    assert_eq!(parked(&replicator), MANY as usize);
    assert_eq!(replicator.peers[&PEER].refused, MAX_IN_FLIGHT as u32);
}

#[test]
fn an_offer_without_a_new_block_queues_no_request() {
    let mut replicator = wanting(MANY);
    let bitfield = Some(Bytes::new());
    let nothing = Message::Have { start: 0, length: 1 << 32, bitfield, ack: false };
    for message in [nothing, have(1 << 40, 10), Message::Unhave { start: 0, length: MANY }] {
        receive(&mut replicator, message);
        assert!(!replicator.wants.is_queued());
        assert_eq!(requests(&mut replicator), 0);
    }
}

/// A block that is parked is asked for as soon as a peer that has it has room, uploads, and answers.
#[test]
fn offered_blocks_are_asked_for_when_the_peer_has_room_again() {
    let written = written(3);
    let mut replicator = reading(&written);
    replicator.average_bytes = 1;
    want(&mut replicator, 0..3);
    receive(&mut replicator, Message::Status { uploading: false, downloading: true });
    receive(&mut replicator, have(0, 2));
    assert_eq!(requests(&mut replicator), 0);
    receive(&mut replicator, Message::Status { uploading: true, downloading: true });
    assert_eq!(requests(&mut replicator), 2);
    let mut full = wanting(MANY);
    receive(&mut full, have(0, MANY));
    assert_eq!(requests(&mut full), MAX_IN_FLIGHT);
    for block in 0..10 {
        receive(
            &mut full,
            Message::Data { index: block, value: None, nodes: vec![], signature: None },
        );
    }
    assert_eq!(requests(&mut full), 10);
}

#[test]
fn bitfields_beyond_those_asked_for_count_as_refusals() {
    let mut replicator = reading(&written(1));
    let allowed = replicator.peers[&PEER].bitfields_allowed;
    let bitfield = || {
        let bitfield = Some(Bytes::new());
        Message::Have { start: 0, length: 1 << 20, bitfield, ack: false }
    };
    for _ in 0..allowed + MAX_REFUSED {
        receive(&mut replicator, bitfield());
        assert_eq!(ended(&mut replicator), None);
    }
    receive(&mut replicator, bitfield());
    assert_eq!(ended(&mut replicator), Some(true));
}

#[test]
fn the_newest_block_of_a_peer_is_wanted_as_long_as_it_is_the_newest() {
    let written = written(9);
    let mut replicator = reading(&written);
    replicator.demand(vec![Change::Upgrade { length: 0 }], Instant::now());
    for newest in 1..100 {
        receive(&mut replicator, have(newest, 1));
        assert_eq!(replicator.wants.blocks(), [newest]);
    }
    receive(&mut replicator, Message::Unhave { start: 1, length: 200 });
    assert_eq!(replicator.wants.blocks(), [] as [u64; 0], "the claim is gone");
    // One that is wanted anyway stays.
    want(&mut replicator, 5..6);
    receive(&mut replicator, have(5, 1));
    receive(&mut replicator, have(8, 1));
    assert_eq!(replicator.wants.blocks(), [5, 8]);
    let proof = written.prove(8, 0, false, &mut Default::default()).unwrap();
    let head = replicator.core.accept(proof).unwrap();
    replicator.step(
        Event::Judged {
            peer: PEER,
            block: 8,
            size: 9,
            verdict: Ok(head),
            learnt: Learnt::default(),
        },
        Instant::now(),
    );
    assert_eq!(replicator.wants.blocks(), [5], "a longer head has arrived");
}

#[test]
fn peers_that_come_and_go_leave_nothing_behind() {
    let mut replicator = wanting(10);
    for number in 2..50 {
        let peer = PeerId(number);
        let name = "another".to_owned();
        replicator.step(Event::Opened { peer, name }, Instant::now());
        let message = have(0, 10);
        replicator.step(Event::Received { peer, message }, Instant::now());
        let message = Message::Unhave { start: 0, length: 10 };
        replicator.step(Event::Received { peer, message }, Instant::now());
        assert!(replicator.wants.get(0).unwrap().failed.contains(&peer));
        replicator.step(Event::Closed { peer }, Instant::now());
        assert!(replicator.wants.get(0).unwrap().failed.is_empty());
    }
    assert_eq!(replicator.wants.parked(0..10).count(), 10);
}

/// A peer that offers everything and takes it back makes the replicator look at few blocks, though another
/// peer is busy with as many as it may be asked for; and the whole queue is looked at a little later.
#[test]
fn blocks_skipped_because_of_offers_taken_back() {
    const OTHER: PeerId = PeerId(2);
    const WANTED: u64 = 2000;
    const FLAPS: usize = 100;
    let mut replicator = reading(&written(1));
    replicator.average_bytes = 1;
    let now = Instant::now();
    replicator.step(Event::Opened { peer: OTHER, name: "the other".to_owned() }, now);
    replicator.step(Event::Received { peer: OTHER, message: have(0, WANTED) }, now);
    let wanted = |block| Change::Wanted { block, urgency: Urgency::Reader };
    replicator.demand((0..WANTED).map(wanted).collect(), now);
    assert_eq!(requests(&mut replicator), MAX_IN_FLIGHT, "the other peer is busy");
    let taken_back = Message::Unhave { start: 0, length: WANTED };
    for _ in 0..FLAPS {
        replicator.step(Event::Received { peer: PEER, message: have(0, WANTED) }, now);
        replicator.step(Event::Received { peer: PEER, message: taken_back.clone() }, now);
    }
    let most = MAX_SKIPPED + 2 * FLAPS * ALWAYS_SKIPPED;
    assert!(replicator.skips.count() <= most, "{}", replicator.skips.count());
    // The last block of all is offered, by a peer that has not taken it back.
    actions(&mut replicator);
    replicator.step(Event::Received { peer: PEER, message: have(WANTED - 1, 1) }, now);
    let due = replicator.next_check().expect("a pass is due");
    assert!(due <= now + tokio::time::Duration::from_millis(10));
}
