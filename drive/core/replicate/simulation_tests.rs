//! Replicators in a seeded simulation: one reader, several peers that hold parts of a core, on a
//! network that delays, loses and reorders, with peers that stall, lie, leave and come back. Every
//! run must end with all obtainable blocks, in virtual time, without a single wrong byte.
//!
//! A failing seed replays with `SEED=n cargo test -p hypermount-core simulation`.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::{Action, Event, PeerId, Replicator, Upload, judge};
use crate::hypercore::demand::Urgency;
use crate::hypercore::{Core, RemoteTree};
use crate::store::Store;
use crate::wire::message::Message;

/// A small deterministic generator (splitmix64); the seed is the whole story of a run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.roll() % bound.max(1)
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Temper {
    Honest,
    /// Answers nothing after this many answers.
    StallsAfter(u64),
    /// Alters one in this number of answers.
    Lies(u64),
    /// Alters the first answer for each block.
    LiesOnce,
    /// Alters every answer for these blocks, as a damaged disk would.
    Rotten {
        from: u64,
        until: u64,
    },
    /// Leaves after this many answers, and comes back.
    LeavesAfter(u64),
    /// Loses this percentage of the sent messages.
    Loses(u64),
    /// Answers for one block only after this time, and for others at once.
    Holds {
        block: u64,
        time: Duration,
    },
}

struct Remote {
    core: Core,
    upload: Upload,
    temper: Temper,
    answers: u64,
    latency: Duration,
    connected: bool,
    banned: bool,
    /// How often the reader ended the connection.
    ended: u32,
    answered: std::collections::BTreeSet<u64>,
    /// How often each block was requested.
    requested: BTreeMap<u64, u32>,
}

enum Delivery {
    ToRemote(usize, Message),
    ToReader(usize, Message),
    Connect(usize),
}

struct World {
    dice: Dice,
    start: Instant,
    now: Instant,
    queue: BinaryHeap<Reverse<(Instant, u64, usize)>>,
    parcels: BTreeMap<usize, Delivery>,
    next_parcel: usize,
    remotes: Vec<Remote>,
    reader: Core,
    replicator: Replicator,
}

fn block_of(index: u64) -> Bytes {
    let length = 1 + (index * 7919) % 700;
    Bytes::from((0..length).map(|byte| (index + byte * 31) as u8).collect::<Vec<u8>>())
}

fn copy_blocks(from: &Core, to: &Core, blocks: impl Iterator<Item = u64>) {
    let mut remote = RemoteTree::default();
    for block in blocks {
        let proof = from.prove(block, to.digest(block), false, &mut remote).expect("writer has it");
        to.accept(proof).expect("honest proof");
    }
}

impl World {
    fn new(seed: u64) -> (Self, u64) {
        let mut dice = Dice(seed);
        let length = 1 + dice.below(300);
        let writer = Store::memory().core_named(b"sim").expect("memory core");
        let blocks: Vec<Bytes> = (0..length).map(block_of).collect();
        for batch in blocks.chunks(1 + dice.below(50) as usize) {
            writer.append(batch).expect("append");
        }
        let count = 1 + dice.below(5) as usize;
        let mut remotes = Vec::new();
        for number in 0..count {
            let core = Store::memory().core(writer.key()).expect("memory core");
            // The first is honest and full, so that every run can end with all blocks.
            let share = if number == 0 { 100 } else { dice.below(101) };
            let held: Vec<u64> = (0..length).filter(|_| dice.chance(share)).collect();
            copy_blocks(&writer, &core, held.into_iter());
            let temper = match (number, dice.below(5)) {
                (0, _) | (_, 0) => Temper::Honest,
                (_, 1) => Temper::StallsAfter(dice.below(20)),
                (_, 2) => Temper::Lies(1 + dice.below(10)),
                (_, 3) => Temper::LeavesAfter(1 + dice.below(20)),
                _ => Temper::Loses(1 + dice.below(60)),
            };
            remotes.push(Remote {
                upload: Upload::new(core.clone()),
                core,
                temper,
                answers: 0,
                latency: Duration::from_millis(1 + dice.below(200)),
                connected: false,
                banned: false,
                ended: 0,
                answered: Default::default(),
                requested: Default::default(),
            });
        }
        let reader = Store::memory().core(writer.key()).expect("memory core");
        let start = Instant::now();
        let mut world = Self {
            replicator: Replicator::new(reader.clone(), start),
            dice,
            start,
            now: start,
            queue: BinaryHeap::new(),
            parcels: BTreeMap::new(),
            next_parcel: 0,
            remotes,
            reader,
        };
        for number in 0..count {
            let delay = Duration::from_millis(world.dice.below(2000));
            world.post(delay, Delivery::Connect(number));
        }
        (world, length)
    }

    fn post(&mut self, delay: Duration, delivery: Delivery) {
        let parcel = self.next_parcel;
        self.next_parcel += 1;
        self.parcels.insert(parcel, delivery);
        // A random middle key reorders messages that arrive at the same time.
        let order = self.dice.roll();
        self.queue.push(Reverse((self.now + delay, order, parcel)));
    }

    fn travel(&mut self, number: usize) -> Duration {
        let jitter = Duration::from_millis(self.dice.below(20));
        self.remotes[number].latency / 2 + jitter
    }

    fn peer(number: usize) -> PeerId {
        PeerId(number as u64)
    }

    fn act(&mut self) {
        while let Some(action) = self.replicator.next_action() {
            match action {
                Action::Send { peer, message } => {
                    let number = peer.0 as usize;
                    let delay = self.travel(number);
                    self.post(delay, Delivery::ToRemote(number, message));
                }
                Action::Grown | Action::AskForHistory { .. } | Action::ProveHistory => {}
                Action::Accept(submitted) => {
                    for judged in judge(&self.reader, vec![submitted]) {
                        self.replicator.step(judged, self.now);
                    }
                }
                Action::Demand(telling) => telling.apply(self.reader.demand()),
                Action::Disconnect { peer, lied, .. } => {
                    let remote = &mut self.remotes[peer.0 as usize];
                    remote.connected = false;
                    remote.banned |= lied;
                    remote.ended += 1;
                    if !lied {
                        self.post(Duration::from_secs(2), Delivery::Connect(peer.0 as usize));
                    }
                }
            }
        }
    }

    fn deliver(&mut self, delivery: Delivery) {
        match delivery {
            Delivery::Connect(number) => {
                let core = self.remotes[number].core.clone();
                let remote = &mut self.remotes[number];
                remote.connected = true;
                remote.upload = Upload::new(core);
                let event = Event::Opened { peer: Self::peer(number), name: format!("#{number}") };
                self.replicator.step(event, self.now);
            }
            Delivery::ToReader(number, message) if self.remotes[number].connected => {
                let event = Event::Received { peer: Self::peer(number), message };
                self.replicator.step(event, self.now);
            }
            Delivery::ToRemote(number, message) if self.remotes[number].connected => {
                if let Message::Request { index, .. } = message {
                    *self.remotes[number].requested.entry(index).or_default() += 1;
                }
                self.remotes[number].upload.received(&message).expect("bounded requests");
                while let Some(answer) = self.remotes[number].upload.next_answer() {
                    self.answer(number, answer);
                }
            }
            _ => {}
        }
    }

    fn answer(&mut self, number: usize, mut answer: Message) {
        let mut delay = self.travel(number);
        let is_data = matches!(answer, Message::Data { .. });
        let remote = &mut self.remotes[number];
        remote.answers += u64::from(is_data);
        let answers = remote.answers;
        match remote.temper {
            Temper::StallsAfter(limit) if is_data && answers > limit => return,
            Temper::Loses(percent) if is_data && self.dice.chance(percent) => return,
            Temper::Lies(every) if is_data && answers.is_multiple_of(every) => {
                self.distort(&mut answer)
            }
            Temper::LiesOnce => {
                if let Message::Data { index, .. } = answer
                    && self.remotes[number].answered.insert(index)
                {
                    self.distort(&mut answer);
                }
            }
            Temper::Rotten { from, until } => {
                if let Message::Data { index, value, .. } = &mut answer
                    && (from..until).contains(index)
                {
                    *value = Some(Bytes::from_static(b"what a damaged disk says"));
                }
            }
            Temper::Holds { block, time } => {
                if matches!(answer, Message::Data { index, .. } if index == block) {
                    delay += time;
                }
            }
            Temper::LeavesAfter(limit) if is_data && answers.is_multiple_of(limit) => {
                self.remotes[number].connected = false;
                self.replicator.step(Event::Closed { peer: Self::peer(number) }, self.now);
                self.post(Duration::from_secs(3), Delivery::Connect(number));
                return;
            }
            _ => {}
        }
        self.post(delay, Delivery::ToReader(number, answer));
    }

    fn distort(&mut self, answer: &mut Message) {
        let roll = self.dice.below(4);
        let Message::Data { value, nodes, signature, .. } = answer else { return };
        match roll {
            0 => *value = Some(Bytes::from_static(b"something else entirely")),
            1 => *nodes = Vec::new(),
            2 => *signature = Some([7; 64].into()),
            3 => {
                // Some proofs have no node.
                if let Some(node) = nodes.first_mut() {
                    node.hash[3] ^= 0x10;
                } else {
                    *value = Some(Bytes::new());
                }
            }
            _ => unreachable!("the dice has four sides"),
        }
    }

    /// One event of the world; false when nothing can happen any more.
    fn step(&mut self) -> bool {
        let next = self.queue.peek().map(|Reverse((at, _, _))| *at);
        let check = self.replicator.next_check();
        match (next, check) {
            (None, None) => return false,
            (Some(at), check) if check.is_none_or(|check| at <= check) => {
                if let Some(Reverse((at, _, parcel))) = self.queue.pop() {
                    self.now = at;
                    if let Some(delivery) = self.parcels.remove(&parcel) {
                        self.deliver(delivery);
                    }
                }
            }
            (_, Some(check)) => {
                self.now = check;
                self.replicator.step(Event::Tick, self.now);
            }
            (Some(_), None) => unreachable!("the guard above takes it"),
        }
        let changes = self.reader.demand().take_changes();
        self.replicator.demand(changes, self.now);
        self.act();
        true
    }
}

fn run(seed: u64) {
    let (mut world, length) = World::new(seed);
    let demand = world.reader.demand().clone();
    let ticket = demand.want(length - 1);
    demand.want_ahead(0..length, Urgency::Ahead);
    let limit = world.start + Duration::from_secs(600);
    let mut steps = 0u64;
    while world.reader.held(0..length) < length {
        assert!(world.step(), "seed {seed}: nothing left to happen, blocks missing");
        assert!(world.now < limit, "seed {seed}: ten virtual minutes and no end");
        steps += 1;
        assert!(steps < 2_000_000, "seed {seed}: endless activity");
    }
    drop(ticket);
    assert_eq!(world.reader.head().length, length, "seed {seed}");
    for index in 0..length {
        let block = world.reader.get_local(index).expect("sound store").expect("held");
        assert_eq!(block, block_of(index), "seed {seed}: block {index}");
    }
    assert!(!world.remotes[0].banned, "seed {seed}: the honest peer was called a liar");
}

#[test]
fn every_seed_ends_with_all_blocks() {
    if let Ok(seed) = std::env::var("SEED") {
        return run(seed.parse().expect("SEED is a number"));
    }
    for seed in 0..300 {
        run(seed);
    }
}

/// One peer alone, with all blocks, and how it answers.
mod alone {
    use super::*;

    const LENGTH: u64 = 300;

    fn world(seed: u64, temper: Temper) -> World {
        let (mut world, _) = World::new(seed);
        world.queue.clear();
        world.parcels.clear();
        let writer = Store::memory().core_named(b"alone").expect("memory core");
        let blocks: Vec<Bytes> = (0..LENGTH).map(block_of).collect();
        writer.append(&blocks).expect("append");
        world.reader = Store::memory().core(writer.key()).expect("memory core");
        world.replicator = Replicator::new(world.reader.clone(), world.now);
        world.remotes.truncate(1);
        let remote = &mut world.remotes[0];
        (remote.core, remote.temper) = (writer, temper);
        world.post(Duration::ZERO, Delivery::Connect(0));
        world
    }

    /// Wants every block, for this long of the world's time.
    fn read(world: &mut World, time: Duration) {
        let demand = world.reader.demand().clone();
        let _tickets: Vec<_> = (0..LENGTH).map(|block| demand.want(block)).collect();
        let end = world.now + time;
        while world.now < end && world.reader.held(0..LENGTH) < LENGTH && world.step() {}
    }

    #[test]
    fn a_peer_that_lies_once_for_each_block_is_read_to_the_end() {
        for seed in 0..40 {
            let mut world = world(seed, Temper::LiesOnce);
            read(&mut world, Duration::from_secs(600));
            assert_eq!(world.reader.held(0..LENGTH), LENGTH, "seed {seed}");
            assert!(!world.remotes[0].banned, "seed {seed}");
            assert_eq!(world.remotes[0].ended, 0, "seed {seed}");
        }
    }

    #[test]
    fn damaged_blocks_of_a_peer_cost_these_blocks_only() {
        for seed in 0..40 {
            let from = seed * 7 % LENGTH;
            let mut world = world(seed, Temper::Rotten { from, until: from + 1 + seed % 20 });
            read(&mut world, Duration::from_secs(60));
            let rotten = (from + 1 + seed % 20).min(LENGTH) - from;
            assert_eq!(world.reader.held(0..LENGTH), LENGTH - rotten, "seed {seed}");
            assert_eq!(world.remotes[0].ended, 0, "seed {seed}");
        }
    }

    #[test]
    fn a_peer_that_always_lies_is_dropped() {
        for seed in 0..40 {
            let mut world = world(seed, Temper::Lies(1));
            read(&mut world, Duration::from_secs(600));
            assert_eq!(world.reader.held(0..LENGTH), 0, "seed {seed}");
            assert!(world.remotes[0].banned, "seed {seed}");
        }
    }
}

/// A version of two blocks is here, and a peer has a longer one.
mod continuity {
    use super::*;

    const LENGTH: u64 = 40;

    /// The block that would prove that the longer version continues ours is requested, and its
    /// answer takes 5 s. Blocks beyond it are not requested repeatedly meanwhile.
    #[test]
    fn blocks_that_wait_for_an_answer_under_way_are_not_asked_for_again() {
        for seed in 0..20 {
            let (mut world, _) = World::new(seed);
            world.queue.clear();
            world.parcels.clear();
            let writer = Store::memory().core_named(b"longer").expect("memory core");
            let blocks: Vec<Bytes> = (0..LENGTH).map(block_of).collect();
            writer.append(&blocks[..2]).expect("append");
            let reader = Store::memory().core(writer.key()).expect("memory core");
            copy_blocks(&writer, &reader, 0..2);
            writer.append(&blocks[2..]).expect("append");
            world.reader = reader.clone();
            world.replicator = Replicator::new(reader.clone(), world.now);
            world.remotes.truncate(1);
            let temper = Temper::Holds { block: 2, time: Duration::from_secs(5) };
            let remote = &mut world.remotes[0];
            (remote.core, remote.temper) = (writer, temper);
            remote.latency = Duration::from_millis(50);
            world.post(Duration::ZERO, Delivery::Connect(0));
            let demand = reader.demand().clone();
            let _tickets = [2, 10, 11, 30].map(|block| demand.want(block));
            let end = world.now + Duration::from_secs(9);
            while world.now < end && world.step() {}
            let requested = world.remotes[0].requested.clone();
            for block in [2, 10, 11, 30] {
                assert!(reader.has(block), "seed {seed}: block {block}, {requested:?}");
                let times = requested[&block];
                assert!(times <= 2, "seed {seed}: block {block} was requested {times} times");
            }
        }
    }
}

/// A core we write, and a peer with another or a longer history of it, on the same bad network.
mod histories {
    use crate::hypercore::StopReason;
    use hypermount_swarm::crypto::KeyPair;

    use super::*;

    struct Meeting {
        world: World,
        writer: Core,
    }

    fn twin(common: u64, own: u64, mark: u8) -> Core {
        let core = Store::memory().core_with_pair(&KeyPair::from_seed(&[9; 32])).expect("core");
        let mut blocks: Vec<Bytes> = (0..common).map(block_of).collect();
        blocks.extend((0..own).map(|_| Bytes::from(vec![mark; 10])));
        for block in blocks {
            core.append(&[block]).expect("append");
        }
        core
    }

    impl Meeting {
        fn new(seed: u64, writer: Core, peers: Vec<Core>) -> Self {
            let (mut world, _) = World::new(seed);
            world.queue.clear();
            world.parcels.clear();
            world.remotes = peers
                .into_iter()
                .map(|core| Remote {
                    upload: Upload::new(core.clone()),
                    core,
                    temper: Temper::Honest,
                    answers: 0,
                    latency: Duration::from_millis(50),
                    connected: false,
                    banned: false,
                    ended: 0,
                    answered: Default::default(),
                    requested: Default::default(),
                })
                .collect();
            world.reader = writer.clone();
            world.replicator = Replicator::new(writer.clone(), world.now);
            for number in 0..world.remotes.len() {
                let delay = Duration::from_millis(world.dice.below(500));
                world.post(delay, Delivery::Connect(number));
            }
            Self { world, writer }
        }

        /// Lets things happen until the core has stopped, at most for this long.
        fn run(&mut self, limit: Duration) {
            let end = self.world.now + limit;
            while self.writer.stopped().is_none() && self.world.now < end {
                if !self.world.step() {
                    return;
                }
            }
        }
    }

    #[test]
    fn every_other_history_stops_the_writer() {
        for seed in 0..40 {
            let mut dice = Dice(seed);
            let (common, ours, theirs) = (dice.below(40), 1 + dice.below(9), 1 + dice.below(9));
            let writer = twin(common, ours, 1);
            let honest = Store::memory().core(writer.key()).expect("core");
            copy_blocks(&writer, &honest, 0..common + ours);
            let peers = vec![honest, twin(common, theirs, 2)];
            let mut meeting = Meeting::new(seed, writer.clone(), peers);
            meeting.run(Duration::from_secs(30));
            assert_eq!(writer.stopped(), Some(StopReason::Forked), "seed {seed}");
            assert_eq!(writer.head().length, common + ours, "seed {seed}");
        }
    }

    #[test]
    fn a_longer_history_stops_the_writer_and_an_equal_one_does_not() {
        for seed in 0..40 {
            let mut dice = Dice(seed);
            let (common, more) = (1 + dice.below(40), dice.below(5));
            let writer = twin(common, 0, 1);
            let mut meeting = Meeting::new(seed, writer.clone(), vec![twin(common, more, 1)]);
            meeting.run(Duration::from_secs(30));
            let expected = (more > 0).then_some(StopReason::Behind { length: common + more });
            assert_eq!(writer.stopped(), expected, "seed {seed}");
            assert_eq!(writer.head().length, common + more, "seed {seed}");
        }
    }

    /// A core that others write, and two peers that hold two histories of it.
    struct Readers {
        meeting: Meeting,
        /// How often the connection of each peer was ended because of an invalid message.
        banned: [bool; 2],
    }

    impl Readers {
        fn new(seed: u64, first: &Core, other: &Core) -> Self {
            let reader = Store::memory().core(first.key()).expect("core");
            let mut meeting = Meeting::new(seed, reader, vec![first.clone(), other.clone()]);
            // The test says when a peer comes.
            meeting.world.queue.clear();
            meeting.world.parcels.clear();
            Self { meeting, banned: [false; 2] }
        }

        fn connect(&mut self, number: usize) {
            self.meeting.world.post(Duration::ZERO, Delivery::Connect(number));
        }

        fn disconnect(&mut self, number: usize) {
            let world = &mut self.meeting.world;
            world.remotes[number].connected = false;
            world.replicator.step(Event::Closed { peer: World::peer(number) }, world.now);
        }

        /// Lets things happen for this long of the world's time.
        fn run(&mut self, time: Duration) {
            let end = self.meeting.world.now + time;
            while self.meeting.world.now < end && self.meeting.world.step() {}
            for (number, banned) in self.banned.iter_mut().enumerate() {
                *banned |= self.meeting.world.remotes[number].banned;
            }
        }
    }

    /// Every fork point, length and order of meeting, and every set of stored blocks; with the
    /// first peer connected or gone when the other one is met.
    #[test]
    fn of_two_histories_the_reader_keeps_the_first() {
        let mut seed = 0;
        for common in [0u64, 1, 6, 8] {
            for ours in [1u64, 5, 30] {
                for theirs in [1u64, 5, 30] {
                    for (stored, together) in [(0, true), (0, false), (2, true), (2, false)] {
                        seed += 1;
                        let case = format!(
                            "{common} common, {ours} and {theirs} of their own, {stored} stored, \
                             together {together}"
                        );
                        two_histories(seed, common, ours, theirs, stored, together, &case);
                    }
                }
            }
        }
    }

    fn two_histories(
        seed: u64,
        common: u64,
        ours: u64,
        theirs: u64,
        stored: u64,
        together: bool,
        case: &str,
    ) {
        let (first, other) = (twin(common, ours, 1), twin(common, theirs, 2));
        let length = first.head().length;
        let mut readers = Readers::new(seed, &first, &other);
        let reader = readers.meeting.world.reader.clone();
        let demand = reader.demand().clone();
        readers.connect(0);
        let newest = demand.want(length - 1);
        demand.want_ahead((0..length).step_by(7).take(stored as usize), Urgency::Ahead);
        readers.run(Duration::from_secs(5));
        drop(newest);
        assert_eq!(reader.head(), first.head(), "{case}");
        if !together {
            readers.disconnect(0);
        }
        readers.connect(1);
        drop(demand.want_longer(length));
        let tickets: Vec<_> = (0..length).map(|block| demand.want(block)).collect();
        readers.run(Duration::from_secs(20));
        assert_eq!(reader.head(), first.head(), "{case}");
        if !together {
            readers.connect(0);
            readers.run(Duration::from_secs(20));
        }
        drop(tickets);
        for block in 0..length {
            let found = reader.get_local(block).expect("sound");
            assert_eq!(found, first.get_local(block).expect("sound"), "{case}: block {block}");
        }
        assert!(!readers.banned[0], "{case}: the peer that agrees with our head was dropped");
    }
}
