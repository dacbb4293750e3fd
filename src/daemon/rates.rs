//! Transfer rates over the last seconds, of all peers together and of each.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use hypermount_swarm::PeerInfo;

use crate::network::Traffic;

/// Time over which a rate is averaged.
const SPAN: Duration = Duration::from_secs(3);
/// Most samples kept, regardless of the times they carry.
const MAX_SAMPLES: usize = 64;

#[derive(Default)]
pub struct Rates {
    samples: VecDeque<(Instant, Traffic, HashMap<u64, Traffic>)>,
}

impl Rates {
    pub fn sample(&mut self, now: Instant, total: Traffic, peers: &[PeerInfo]) {
        let traffic = |peer: &PeerInfo| {
            let hypermount_swarm::Traffic { received, sent } = peer.traffic;
            Traffic { received, sent }
        };
        let by_peer = peers.iter().map(|peer| (peer.id, traffic(peer))).collect();
        self.samples.push_back((now, total, by_peer));
        let old = |at: &Instant| now.saturating_duration_since(*at) > SPAN;
        while self.samples.len() > MAX_SAMPLES
            || (self.samples.len() > 2 && self.samples.front().is_some_and(|(at, ..)| old(at)))
        {
            self.samples.pop_front();
        }
    }

    /// Bytes received and sent a second.
    pub fn total(&self) -> (u64, u64) {
        match (self.samples.front(), self.samples.back()) {
            (Some((from, before, _)), Some((to, after, _))) => rate(*from, *before, *to, *after),
            _ => (0, 0),
        }
    }

    /// Rates of one connection, by its number.
    pub fn of(&self, peer: u64) -> (u64, u64) {
        let Some((to, _, last)) = self.samples.back() else { return (0, 0) };
        let Some(after) = last.get(&peer) else { return (0, 0) };
        let first = self.samples.iter().find_map(|(at, _, by)| Some((*at, *by.get(&peer)?)));
        first.map_or((0, 0), |(from, before)| rate(from, before, *to, *after))
    }
}

fn rate(from: Instant, before: Traffic, to: Instant, after: Traffic) -> (u64, u64) {
    let milliseconds = to.saturating_duration_since(from).as_millis();
    let per_second = |less: u64, more: u64| {
        let bytes = u128::from(more.saturating_sub(less)) * 1000;
        bytes.checked_div(milliseconds).map_or(0, |rate| u64::try_from(rate).unwrap_or(u64::MAX))
    };
    (per_second(before.received, after.received), per_second(before.sent, after.sent))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_of_the_last_seconds() {
        let start = Instant::now();
        let mut rates = Rates::default();
        for second in 0..10u64 {
            let received = if second < 5 { 0 } else { (second - 5) * 1000 };
            let now = start + Duration::from_secs(second);
            rates.sample(now, Traffic { received, sent: 0 }, &[]);
        }
        assert_eq!(rates.total(), (1000, 0));
        assert_eq!(rates.of(7), (0, 0), "no peer has this number");
    }
}
