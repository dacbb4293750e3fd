//! Streams over bad networks and with bad remotes.

use std::time::{Duration, Instant};

use super::simulation::{Link, Network};
use super::stream::{Failure, LINGER, SILENCE, Stream};

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
        network.transfer(5 * MB, s(60));
        let took = network.transfer(40 * MB, s(60)).as_secs_f64();
        let share = 40e6 / took / rate;
        eprintln!("queue {queue}: {share:.3} of the link, {:?}", network.sides[0].stream.counts());
        assert!(share > 0.85, "{share}");
    }
}

#[test]
fn chance_losses_do_not_stop_it() {
    for loss in [0.01, 0.02] {
        let link = Link::new(ms(25)).at_rate(megabits(100.0), megabits(100.0) * 0.05);
        let mut network = Network::new(3, link.loses(loss));
        let took = network.transfer(40 * MB, s(600)).as_secs_f64();
        eprintln!("loss {loss}: {:.2} MB/s", 40.0 / took);
        assert!(took < 40.0, "{took}");
    }
}

#[test]
fn reordering_does_not_stop_it() {
    for jitter in [2, 20, 50] {
        let rate = megabits(100.0);
        let mut link = Link::new(ms(25)).at_rate(rate, rate * 0.1);
        link.jitter = ms(jitter);
        let mut network = Network::new(4, link);
        let took = network.transfer(40 * MB, s(600)).as_secs_f64();
        eprintln!(
            "jitter {jitter}: {:.2} MB/s {:?}",
            40.0 / took,
            network.sides[0].stream.counts()
        );
        assert!(took < 12.0, "{jitter}: {took}");
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
        let wanted = [1, 0].map(|other| network.sides[other].to_write);
        assert_eq!(network.sides.each_ref().map(|side| side.read), wanted, "seed {seed}");
        assert!(network.sides.iter().all(|side| side.stream.remote_ended()));
    }
}
