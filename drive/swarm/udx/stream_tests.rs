//! Streams over bad networks and with bad remotes.

use std::time::Duration;

use super::outgoing::SEND_BUFFER;
use super::receive::WINDOW;
use super::simulation::{Link, Network};
use super::stream::{Failure, LINGER, SILENCE};

const MB: u64 = 1_000_000;

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn megabits(rate: f64) -> f64 {
    rate * 1e6 / 8.0
}

#[test]
fn a_megabyte_over_a_long_way_takes_no_more_round_trips_than_tcp() {
    let mut network = Network::new(1, Link::new(ms(50)));
    let took = network.transfer(MB, s(10));
    // TCP sends 10, 20, 40… packets of 1448 bytes: the last arrives after 6.5 round trips.
    assert!(took <= ms(700), "{took:?}");
}

#[test]
fn a_link_with_a_queue_is_filled() {
    let rate = megabits(20.0);
    for queue in [1.0, 0.25] {
        let link = Link::new(ms(50)).at_rate(rate, queue * rate * 0.1);
        let mut network = Network::new(2, link);
        network.transfer(2 * MB, s(60));
        let took = network.transfer(20 * MB, s(60)).as_secs_f64();
        let share = 20e6 / took / rate;
        assert!(share > 0.88, "{share}");
    }
}

#[test]
fn chance_losses_do_not_stop_it() {
    for loss in [0.01, 0.02] {
        let link = Link::new(ms(25)).at_rate(megabits(100.0), megabits(100.0) * 0.05);
        let mut network = Network::new(3, link.loses(loss));
        let took = network.transfer(20 * MB, s(600)).as_secs_f64();
        // CUBIC alone would have 0.3 MB/s.
        assert!(20.0 / took > 1.0, "{took}");
    }
}

#[test]
fn reordering_does_not_stop_it() {
    for jitter in [2, 20, 50] {
        let rate = megabits(100.0);
        let mut link = Link::new(ms(25)).at_rate(rate, rate * 0.1);
        link.jitter = ms(jitter);
        let mut network = Network::new(4, link);
        let took = network.transfer(20 * MB, s(600)).as_secs_f64();
        assert!(20.0 / took > 5.0, "{jitter}: {took}");
    }
}

#[test]
fn bytes_survive_any_network() {
    for seed in 0..60 {
        let mut random = fastrand::Rng::with_seed(seed);
        let rate = [None, Some((random.f64() * 1e7 + 1e5, random.f64() * 2e5 + 3e4))];
        let link = |random: &mut fastrand::Rng| Link {
            delay: ms(random.u64(0..80)),
            jitter: ms(random.u64(0..40)),
            loss: random.f64() * 0.15,
            duplicates: random.f64() * 0.2,
            rate: rate[random.usize(0..2)],
        };
        let links = [link(&mut random), link(&mut random)];
        let first = [u32::MAX - random.u32(0..400), u32::MAX - random.u32(0..400)];
        let mut network = Network::starting_at(first, seed, links[0]);
        network.set_links(links);
        for side in &mut network.sides {
            (side.to_write, side.finishes) = (random.u64(0..1_000_000), true);
        }
        let ended = |network: &Network| network.sides.iter().all(|side| side.stream.has_ended());
        assert!(network.run(s(600), ended), "seed {seed}: {links:?}");
        for (side, other) in [(0, 1), (1, 0)] {
            assert_eq!(network.sides[side].read, network.sides[other].to_write, "seed {seed}");
        }
        assert!(network.sides.iter().all(|side| side.stream.remote_ended()));
    }
}

#[test]
fn a_peer_that_does_not_read_stops_the_sender_and_keeps_the_stream() {
    let mut network = Network::new(5, Link::new(ms(20)));
    network.sides[1].reads = false;
    network.sides[0].to_write = 20 * MB;
    let mut sent_before = 0;
    for minute in 0..5 {
        assert!(!network.run(s(60), |_| false));
        assert!(network.sides.iter().all(|side| side.stream.failure().is_none()));
        let sent = network.sides[0].datagrams;
        // Once a second it is asked whether there is room.
        assert!(minute == 0 || sent - sent_before <= 70, "{}", sent - sent_before);
        sent_before = sent;
    }
    let held = network.sides[1].longest_held;
    assert!(held <= WINDOW && held > WINDOW * 9 / 10, "{held}");
    assert!(network.sides[0].written <= (held + SEND_BUFFER) as u64);
    network.sides[1].reads = true;
    network.transfer(0, s(3));
}

#[test]
fn transfer_continues_when_the_window_update_is_lost() {
    let link = Link::new(ms(20));
    let mut network = Network::new(6, link);
    network.sides[1].reads = false;
    network.sides[0].to_write = 10 * MB;
    assert!(!network.run(s(10), |_| false));
    // All packets of the reader are lost for a tenth of a second.
    network.set_links([link, link.loses(1.0)]);
    network.sides[1].reads = true;
    assert!(!network.run(ms(100), |network| network.sides[1].read > 5 * MB));
    assert!(network.sides[1].lost > 0);
    network.set_links([link, link]);
    network.transfer(0, s(3));
}

#[test]
fn a_slow_reader_gets_all_bytes_without_retransmission() {
    let mut network = Network::new(7, Link::new(ms(10)));
    network.sides[1].read_rate = Some(2e6);
    let took = network.transfer(20 * MB, s(30)).as_secs_f64();
    assert!((8.0..12.0).contains(&took), "{took}");
    assert_eq!(network.sides[0].repeated, 0);
}

#[test]
fn one_side_may_go_on_after_the_other_has_ended() {
    let mut network = Network::new(8, Link::new(ms(20)).loses(0.1));
    (network.sides[0].to_write, network.sides[0].finishes) = (MB, true);
    assert!(network.run(s(60), |network| network.sides[1].stream.remote_ended()));
    assert!(!network.sides[1].stream.has_ended());
    (network.sides[1].to_write, network.sides[1].finishes) = (MB, true);
    let ended = |network: &Network| network.sides.iter().all(|side| side.stream.has_ended());
    assert!(network.run(s(60), ended));
    assert!(network.sides[0].stream.remote_ended());
    let over = |network: &Network| network.sides.iter().all(|side| side.stream.is_over());
    network.run(LINGER + ms(100), over);
    assert!(over(&network) && !network.step());
}

#[test]
fn idle_streams_stay_open_and_dead_ones_time_out() {
    let link = Link::new(ms(20));
    for busy in [false, true] {
        let mut network = Network::new(9, link);
        assert!(!network.run(s(600), |_| false));
        assert!(network.sides.iter().all(|side| side.stream.failure().is_none()));
        assert!(network.sides.iter().all(|side| side.datagrams <= 130));
        network.set_links([link.loses(1.0); 2]);
        network.sides[0].to_write = if busy { MB } else { 0 };
        let failed = |network: &Network| {
            network.sides.iter().all(|side| side.stream.failure() == Some(Failure::Silent))
        };
        assert!(network.run(SILENCE + s(1), failed));
        assert!(network.sides[0].datagrams < 200);
    }
}

#[test]
fn a_gap_of_some_seconds_is_survived() {
    let link = Link::new(ms(20)).at_rate(megabits(50.0), 1e5);
    let mut network = Network::new(10, link);
    network.sides[0].to_write = 30 * MB;
    assert!(network.run(s(9), |network| network.sides[1].read > 10 * MB));
    network.set_links([link.loses(1.0); 2]);
    assert!(!network.run(s(7), |_| false));
    network.set_links([link; 2]);
    let took = network.transfer(0, s(60));
    assert!(took < s(9), "{took:?}");
}

#[test]
fn a_late_answer_does_not_slow_it_down() {
    let rate = megabits(50.0);
    let mut link = Link::new(ms(20)).at_rate(rate, rate * 0.5);
    let mut network = Network::new(11, link);
    network.transfer(10 * MB, s(20));
    // For a second everything takes half a second longer, as on a telephone changing cells.
    link.delay += ms(500);
    network.set_links([link; 2]);
    assert!(!network.run(s(1), |_| false));
    link.delay -= ms(500);
    network.set_links([link; 2]);
    let took = network.transfer(20 * MB, s(60)).as_secs_f64();
    assert!(took < 6.0, "{took}");
}

#[test]
fn two_streams_share_a_link() {
    let rate = megabits(5.0);
    for queue in [1.0, 0.2] {
        let link = Link::new(ms(40)).at_rate(rate, queue * rate * 0.08);
        let mut network = Network::new(12, link);
        network.transfer(5 * MB, s(60));
        network.add_stream();
        (network.sides[0].to_write, network.sides[2].to_write) = (50 * MB, 50 * MB);
        assert!(!network.run(s(20), |_| false));
        let before = [1, 3].map(|side| network.sides[side].read);
        assert!(!network.run(s(20), |_| false));
        let read = |side: usize, before| (network.sides[side].read - before) as f64;
        let shares = [read(1, before[0]), read(3, before[1])].map(|read| read / 20.0 / rate);
        assert!(shares[0] + shares[1] > 0.85, "{shares:?}");
        assert!(shares.iter().all(|share| *share > 0.25), "{shares:?}");
        let lost = network.sides[0].lost + network.sides[2].lost;
        let sent = network.sides[0].datagrams + network.sides[2].datagrams;
        assert!(lost * 50 < sent, "{lost} of {sent}");
    }
}
