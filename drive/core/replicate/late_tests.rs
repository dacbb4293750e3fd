//! Requests that a peer passes over while it answers others, in virtual time.

use bytes::Bytes;

use super::limit_tests::{PEER, have, written};
use super::*;
use crate::hypercore::demand::Urgency;
use crate::store::Store;
use tokio::time::Duration;

const SECOND: PeerId = PeerId(2);
const THIRD: PeerId = PeerId(3);

/// One request that was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Sent {
    peer: PeerId,
    index: u64,
    bytes: u64,
    hash: bool,
    nodes: u64,
    /// Since the beginning.
    after: Duration,
}

/// A reader whose peers do what the test says.
struct Scene {
    replicator: Replicator,
    start: Instant,
    now: Instant,
    sent: Vec<Sent>,
    ticks: usize,
    ended: Vec<PeerId>,
}

impl Scene {
    fn new(written: &Core, peers: &[PeerId]) -> Self {
        let start = Instant::now();
        let replicator = Replicator::new(Store::memory().core(written.key()).unwrap(), start);
        let mut scene =
            Self { replicator, start, now: start, sent: Vec::new(), ticks: 0, ended: Vec::new() };
        for peer in peers {
            scene.step(Event::Opened { peer: *peer, name: format!("{peer:?}") });
        }
        scene
    }

    fn step(&mut self, event: Event) {
        self.replicator.step(event, self.now);
        self.act();
    }

    fn act(&mut self) {
        while let Some(action) = self.replicator.next_action() {
            match action {
                Action::Send { peer, message: Message::Request { index, bytes, hash, nodes } } => {
                    let after = self.now - self.start;
                    self.sent.push(Sent { peer, index, bytes, hash, nodes, after });
                }
                Action::Grown | Action::AskForHistory { .. } | Action::ProveHistory => {}
                Action::Accept(submitted) => {
                    for judged in judge(&self.replicator.core, vec![submitted]) {
                        self.replicator.step(judged, self.now);
                    }
                }
                Action::Demand(telling) => telling.apply(self.replicator.core.demand()),
                Action::Disconnect { peer, .. } => self.ended.push(peer),
                Action::Send { .. } => {}
            }
        }
    }

    fn receive(&mut self, peer: PeerId, message: Message) {
        self.step(Event::Received { peer, message });
    }

    /// What `from` says of a block, as an answer of `peer`.
    fn answer(&mut self, peer: PeerId, from: &Core, block: u64, hash: bool) {
        let proof = from.prove(block, 0, hash, &mut Default::default()).unwrap();
        let Proof { block: index, value, nodes, signature } = proof;
        self.receive(peer, Message::Data { index, value, nodes, signature });
    }

    fn want(&mut self, blocks: impl IntoIterator<Item = u64>) {
        let wanted = |block| Change::Wanted { block, urgency: Urgency::Reader };
        self.replicator.demand(blocks.into_iter().map(wanted).collect(), self.now);
        self.act();
    }

    /// Lets time pass, with a tick whenever one is due.
    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(due) = self.replicator.next_check().filter(|due| *due <= end) {
            self.now = due.max(self.now);
            self.ticks += 1;
            assert!(self.ticks < 200, "ticks without end");
            self.step(Event::Tick);
        }
        self.now = end;
    }

    /// Requests for a block, of one peer.
    fn asked(&self, peer: PeerId, index: u64) -> Vec<Sent> {
        self.sent.iter().filter(|sent| (sent.peer, sent.index) == (peer, index)).copied().collect()
    }

    fn asked_first(&self, peer: PeerId, index: u64) -> Option<Duration> {
        self.asked(peer, index).first().map(|sent| sent.after)
    }
}

const RUN: Duration = Duration::from_millis(20);

/// The reader has the whole tree.
fn knowing(written: &Core, scene: &mut Scene) {
    let last = written.head().length - 1;
    let proof = written.prove(last, 0, false, &mut Default::default()).unwrap();
    scene.replicator.core.accept(proof).unwrap();
}

#[test]
fn a_block_that_the_only_peer_passes_over_is_requested_again() {
    let written = written(200);
    let mut scene = Scene::new(&written, &[PEER]);
    scene.receive(PEER, have(0, 200));
    scene.want([3]);
    for block in 10..70 {
        scene.want([block]);
        scene.pass(RUN);
        scene.answer(PEER, &written, block, false);
        scene.pass(Duration::from_millis(200));
    }
    assert_eq!(scene.asked(PEER, 3).len(), 2);
    scene.answer(PEER, &written, 3, false);
    assert!(scene.replicator.core.has(3));
}

/// The peer may be slow, or this machine busy with something else.
#[test]
fn a_peer_that_is_not_heard_for_long_is_asked_for_no_block_twice_and_for_more_later() {
    let written = written(40);
    let mut scene = Scene::new(&written, &[PEER]);
    scene.receive(PEER, have(0, 40));
    scene.want([3, 4, 5]);
    scene.pass(Duration::from_secs(15));
    for block in [3, 4, 5] {
        assert_eq!(scene.asked(PEER, block).len(), 1);
        scene.answer(PEER, &written, block, false);
        assert!(scene.replicator.core.has(block));
    }
    scene.want([6]);
    assert_eq!(scene.asked(PEER, 6).len(), 1);
    assert_eq!(scene.ended, []);
}

#[test]
fn a_block_that_one_peer_passes_over_is_asked_of_one_more_at_a_time() {
    let written = written(40);
    let mut scene = Scene::new(&written, &[PEER]);
    scene.receive(PEER, have(0, 40));
    scene.want([3]);
    // It goes on answering, so it is not stalled.
    for block in [10, 11, 12, 13] {
        scene.want([block]);
        scene.pass(RUN);
        scene.answer(PEER, &written, block, false);
        scene.pass(Duration::from_millis(200));
    }
    for peer in [SECOND, THIRD] {
        scene.step(Event::Opened { peer, name: "another".to_owned() });
        scene.receive(peer, have(0, 40));
    }
    assert_eq!(scene.asked(SECOND, 3).len() + scene.asked(THIRD, 3).len(), 0);
    scene.pass(Duration::from_millis(200));
    let asked = [SECOND, THIRD].map(|peer| scene.asked(peer, 3).len());
    assert_eq!(asked.iter().sum::<usize>(), 1, "one more peer: {asked:?}");
    let more = if asked[0] == 1 { SECOND } else { THIRD };
    let after = scene.asked_first(more, 3).unwrap();
    assert!(after < Duration::from_millis(1400), "{after:?}");
    assert!(scene.replicator.peers[&PEER].owes(3), "the first request is kept");
    // What the second says is taken, and the first is told.
    scene.answer(more, &written, 3, false);
    assert!(scene.replicator.core.has(3));
    assert!(scene.ended.is_empty());
}

#[test]
fn a_peer_that_works_through_its_queue_is_not_late() {
    let written = written(40);
    let mut scene = Scene::new(&written, &[PEER]);
    scene.receive(PEER, have(0, 40));
    scene.want(0..12);
    scene.step(Event::Opened { peer: SECOND, name: "another".to_owned() });
    scene.receive(SECOND, have(0, 40));
    for block in 0..12 {
        scene.pass(Duration::from_millis(400));
        scene.answer(PEER, &written, block, false);
    }
    let asked = scene.sent.iter().filter(|sent| sent.peer == SECOND).count();
    assert_eq!((asked, scene.replicator.core.held(0..12)), (0, 12));
}

#[test]
fn a_seek_that_one_peer_passes_over_is_asked_of_another() {
    let written = written(40);
    let mut scene = Scene::new(&written, &[PEER]);
    knowing(&written, &mut scene);
    scene.receive(PEER, have(0, 40));
    let seek = Change::Seek { byte: 9 * 7 + 1, blocks: 0..32, guess: 9 };
    scene.replicator.demand(vec![seek], scene.now);
    scene.act();
    // It answers others.
    for block in [20, 21, 22, 23] {
        scene.want([block]);
        scene.pass(RUN);
        scene.answer(PEER, &written, block, false);
        scene.pass(Duration::from_millis(200));
    }
    let seeks = |scene: &Scene, peer| {
        scene.sent.iter().filter(|sent| sent.peer == peer && sent.bytes > 0).count()
    };
    scene.step(Event::Opened { peer: SECOND, name: "another".to_owned() });
    scene.receive(SECOND, have(0, 40));
    assert_eq!((seeks(&scene, PEER), seeks(&scene, SECOND)), (1, 0));
    scene.pass(Duration::from_millis(200));
    assert_eq!((seeks(&scene, PEER), seeks(&scene, SECOND)), (1, 1));
    let before = scene.ticks;
    scene.pass(Duration::from_secs(5));
    assert!(scene.ticks - before < 10, "nothing polls");
}

/// The peer answers with blocks of a longer version and passes over the question that would connect it.
#[test]
fn blocks_whose_continuity_one_peer_does_not_show_are_asked_of_another() {
    let written = written(2);
    let mut scene = Scene::new(&written, &[PEER]);
    knowing(&written, &mut scene);
    let more: Vec<Bytes> = (2..40).map(|block| Bytes::from(vec![block as u8; 9])).collect();
    written.append(&more).unwrap();
    scene.receive(PEER, have(9, 31));
    scene.want([10]);
    scene.step(Event::Opened { peer: SECOND, name: "another".to_owned() });
    scene.receive(SECOND, have(0, 40));
    scene.pass(RUN);
    scene.answer(PEER, &written, 10, false);
    assert_eq!(scene.asked(PEER, 2).len(), 1, "asked to show it: {:?}", scene.sent);
    // It answers others.
    for block in 11..18 {
        scene.want([block]);
        scene.pass(Duration::from_millis(200));
        if scene.asked(PEER, block).len() == 1 {
            scene.answer(PEER, &written, block, false);
        }
    }
    let after = scene.asked_first(SECOND, 10).expect("asked of another peer");
    assert!(after < Duration::from_millis(1500), "{after:?}");
}

#[test]
fn a_bridge_that_one_peer_passes_over_is_asked_of_another() {
    let written = written(40);
    let mut scene = Scene::new(&written, &[PEER, SECOND]);
    knowing(&written, &mut scene);
    scene.receive(PEER, have(0, 10));
    scene.receive(SECOND, have(10, 30));
    scene.want([3]);
    let verdict = Err(Rejected::Unconnected { ours: 40, signed: 10 });
    scene.step(Event::Judged { peer: PEER, block: 3, size: 9, verdict, learnt: Learnt::default() });
    assert_eq!(scene.asked(SECOND, 10).len(), 1, "{:?}", scene.sent);
    scene.step(Event::Opened { peer: THIRD, name: "a third".to_owned() });
    scene.receive(THIRD, have(10, 1));
    for block in 20..27 {
        scene.want([block]);
        scene.pass(Duration::from_millis(200));
        scene.answer(SECOND, &written, block, false);
    }
    assert_eq!(scene.asked(SECOND, 10).len(), 1);
    let after = scene.asked_first(THIRD, 10).expect("asked of another peer");
    assert!(after < Duration::from_millis(1500), "{after:?}");
}

/// A bridge whose proof does not fit what is here. The proofs of all blocks are full for a while, and not
/// for ever.
#[test]
fn full_proofs_are_requested_for_a_limited_time() {
    let written = written(40);
    let mut scene = Scene::new(&written, &[PEER, SECOND]);
    knowing(&written, &mut scene);
    scene.receive(PEER, have(0, 10));
    scene.receive(SECOND, have(10, 30));
    scene.want([39 - 1]);
    assert!(scene.sent.iter().any(|sent| sent.nodes != 0), "{:?}", scene.sent);
    scene.want([3]);
    let verdict = Err(Rejected::Unconnected { ours: 40, signed: 10 });
    scene.step(Event::Judged { peer: PEER, block: 3, size: 9, verdict, learnt: Learnt::default() });
    let answer =
        Message::Data { index: 10, value: None, nodes: vec![], signature: Some([0; 64].into()) };
    scene.receive(SECOND, answer);
    if !scene.ended.contains(&SECOND) {
        let verdict = Err(Rejected::Invalid("a lie".to_owned()));
        scene.step(Event::Judged {
            peer: SECOND,
            block: 10,
            size: 0,
            verdict,
            learnt: Learnt::default(),
        });
    }
    let asks = |scene: &mut Scene, number: u64, block: u64| {
        let peer = PeerId(number);
        scene.step(Event::Opened { peer, name: "another".to_owned() });
        scene.receive(peer, have(block, 1));
        scene.want([block]);
        scene.asked(peer, block)[0].nodes
    };
    assert_eq!(asks(&mut scene, 10, 30), 0, "full proofs only");
    scene.pass(Duration::from_secs(300));
    assert_ne!(asks(&mut scene, 11, 31), 0, "for ever");
}

/// The answer may be to the request that was taken back, so a distant peer would count as a near one.
#[test]
fn a_block_that_is_asked_for_again_tells_no_latency() {
    let written = written(200);
    let mut scene = Scene::new(&written, &[PEER]);
    scene.receive(PEER, have(0, 200));
    scene.want([3]);
    scene.pass(Duration::from_millis(50));
    scene.replicator.demand(vec![Change::Unwanted { block: 3 }], scene.now);
    scene.act();
    scene.want([3]);
    assert_eq!(scene.asked(PEER, 3).len(), 2);
    scene.answer(PEER, &written, 3, false);
    assert!(scene.replicator.core.has(3));
    assert!(!scene.replicator.peers[&PEER].is_near());
    scene.want([4]);
    scene.answer(PEER, &written, 4, false);
    assert!(scene.replicator.peers[&PEER].is_near());
}
