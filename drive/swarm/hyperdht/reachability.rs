//! Whether and where peers can reach our sockets: the addresses that nodes report in their answers,
//! and whether packets arrive at a socket that has not sent to their sender.

use std::collections::VecDeque;
use std::net::SocketAddrV4;
use std::time::Duration;

use tokio::time::Instant;

use super::interface::Reachability;

/// Most reports of our address that are kept, one per node.
pub(crate) const MAX_SAMPLES: usize = 16;
/// Fewer reports do not determine the kind of router.
const FEWEST_SAMPLES: usize = 3;
/// Number of nodes that are asked to send a packet to our server socket.
pub(crate) const PROBED: usize = 5;
/// Number of their packets that must arrive; if fewer nodes are asked, one.
const CAME_THROUGH: usize = 3;
/// Pause between two attempts: the first one, and the longest. It doubles in between.
const FIRST_PROBE_AGAIN: Duration = Duration::from_secs(10);
const PROBE_EVERY: Duration = Duration::from_secs(20 * 60);

/// The addresses at which nodes see one of our sockets.
#[derive(Clone, Debug, Default)]
pub(crate) struct Samples(VecDeque<(SocketAddrV4, SocketAddrV4)>);

impl Samples {
    /// Notes that `node` sees us at `seen_as`. Only the last report of each node counts.
    pub(crate) fn add(&mut self, node: SocketAddrV4, seen_as: SocketAddrV4) {
        self.0.retain(|(known, _)| *known != node);
        if self.0.len() >= MAX_SAMPLES {
            self.0.pop_front();
        }
        self.0.push_back((node, seen_as));
    }

    /// The address that most nodes report, and their number.
    fn most(&self) -> Option<(SocketAddrV4, usize)> {
        let hits = |address| self.0.iter().filter(|(_, other)| *other == address).count();
        let counted = self.0.iter().map(|(_, address)| (*address, hits(*address)));
        counted.max_by_key(|(_, hits)| *hits)
    }

    /// Number of differing reports that are ignored: from before our address changed, or from nodes
    /// that lie.
    fn tolerated(&self) -> usize {
        match self.0.len() {
            0..4 => 0,
            4..8 => 1,
            8..12 => 2,
            _ => 3,
        }
    }

    /// The address that all nodes but the tolerated number report.
    pub(crate) fn agreed(&self) -> Option<SocketAddrV4> {
        let (address, hits) = self.most()?;
        (hits + self.tolerated() >= self.0.len()).then_some(address)
    }

    pub(crate) fn reachability(&self) -> Reachability {
        let (Some((_, hits)), true) = (self.most(), self.0.len() >= FEWEST_SAMPLES) else {
            return Reachability::Unknown;
        };
        match self.agreed() {
            Some(address) if hits >= FEWEST_SAMPLES => Reachability::Consistent(address),
            _ if hits * 2 <= self.0.len() => Reachability::Random,
            _ => Reachability::Unknown,
        }
    }
}

/// The state of one attempt: nodes that were asked to send to our server socket.
struct Attempt {
    /// The address that we expect the server socket to have.
    expected: SocketAddrV4,
    asked: usize,
    waiting: usize,
    came: usize,
    /// Number of nodes that report another address.
    elsewhere: usize,
}

/// Determines whether every peer can reach our server socket.
pub(crate) struct Probe {
    attempt: Option<Attempt>,
    /// Time of the next attempt, and the pause after it.
    pub next: Instant,
    pause: Duration,
}

impl Probe {
    pub(crate) fn new(now: Instant) -> Self {
        Self { attempt: None, next: now, pause: FIRST_PROBE_AGAIN }
    }

    /// Begins with a pause, since a router still lets packets in from addresses that the socket has
    /// sent to.
    pub(crate) fn later(now: Instant) -> Self {
        Self { attempt: None, next: now + PROBE_EVERY, pause: PROBE_EVERY }
    }

    pub(crate) fn is_under_way(&self) -> bool {
        self.attempt.is_some()
    }

    /// Notes that `asked` nodes were asked to send to `expected`. With 0, the attempt ends at once.
    pub(crate) fn begin(&mut self, expected: SocketAddrV4, asked: usize, now: Instant) {
        let attempt = Attempt { expected, asked, waiting: asked, came: 0, elsewhere: 0 };
        self.attempt = (asked > 0).then_some(attempt);
        self.next = now + self.pause;
        self.pause = (self.pause * 2).min(PROBE_EVERY);
    }

    /// Notes the result of one node: its packet arrived and reports `seen_as`, or did not arrive.
    /// Returns the address at which every peer can reach us, if the last result shows it.
    pub(crate) fn ended(&mut self, seen_as: Option<SocketAddrV4>) -> Option<SocketAddrV4> {
        let attempt = self.attempt.as_mut()?;
        attempt.waiting = attempt.waiting.saturating_sub(1);
        match seen_as {
            Some(address) if address == attempt.expected => attempt.came += 1,
            Some(_) => attempt.elsewhere += 1,
            None => {}
        }
        if attempt.waiting > 0 {
            return None;
        }
        let attempt = self.attempt.take()?;
        let enough = if attempt.asked >= PROBED { CAME_THROUGH } else { 1 };
        (attempt.came >= enough.max(attempt.elsewhere + 1)).then_some(attempt.expected)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    fn at(ip: u8, port: u16) -> SocketAddrV4 {
        SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, ip), port)
    }

    /// The samples of nodes that see us at these ports.
    fn seen(ports: &[u16]) -> Samples {
        let mut samples = Samples::default();
        for (n, port) in ports.iter().enumerate() {
            samples.add(at(100 + n as u8, 1), at(1, *port));
        }
        samples
    }

    #[test]
    fn kinds_of_routers_are_distinguished_by_their_ports() {
        let consistent = Reachability::Consistent(at(1, 5));
        for (ports, reach, agreed) in [
            (&[][..], Reachability::Unknown, None),
            (&[5], Reachability::Unknown, Some(5)),
            (&[5, 5], Reachability::Unknown, Some(5)),
            (&[5, 5, 5], consistent, Some(5)),
            (&[5, 5, 5, 6], consistent, Some(5)),
            (&[5, 5, 6], Reachability::Unknown, None),
            (&[5, 6, 7], Reachability::Random, None),
            (&[5, 5, 6, 6], Reachability::Random, None),
            (&[5, 5, 6, 7], Reachability::Random, None),
            (&[5, 5, 5, 5, 5, 6, 7], Reachability::Unknown, None),
            (&[5, 5, 5, 5, 5, 5, 6, 7], consistent, Some(5)),
        ] {
            let samples = seen(ports);
            assert_eq!(samples.reachability(), reach, "{ports:?}");
            assert_eq!(samples.agreed(), agreed.map(|port| at(1, port)), "{ports:?}");
        }
    }

    #[test]
    fn a_node_counts_once_and_the_number_of_samples_is_limited() {
        let mut samples = Samples::default();
        (0..10).for_each(|_| samples.add(at(100, 1), at(1, 5)));
        assert_eq!(samples.reachability(), Reachability::Unknown, "one node, ten times");
        let mut samples = seen(&[5; MAX_SAMPLES]);
        for n in 0..MAX_SAMPLES as u8 {
            samples.add(at(n, 2), at(1, 6));
            assert_eq!(samples.0.len(), MAX_SAMPLES);
        }
        assert_eq!(samples.agreed(), Some(at(1, 6)), "what was said before is forgotten");
    }

    #[tokio::test(start_paused = true)]
    async fn a_socket_is_open_if_packets_arrive_at_the_address_that_nodes_see() {
        let now = Instant::now();
        let open = |asked: usize, answers: &[Option<SocketAddrV4>]| {
            let mut probe = Probe::new(now);
            probe.begin(at(1, 5), asked, now);
            let (last, before) = answers.split_last().unwrap();
            before.iter().for_each(|answer| assert_eq!(probe.ended(*answer), None));
            assert!(probe.is_under_way());
            let open = probe.ended(*last);
            assert!(!probe.is_under_way() && probe.ended(*last).is_none());
            open.is_some()
        };
        let mut probe = Probe::new(now);
        probe.begin(at(1, 5), 0, now);
        assert!(!probe.is_under_way() && probe.next > now, "no node to ask");
        let (here, there) = (Some(at(1, 5)), Some(at(1, 6)));
        assert!(open(1, &[here]));
        assert!(!open(1, &[None]) && !open(1, &[there]));
        assert!(open(4, &[None, None, here, None]));
        assert!(open(5, &[here, None, here, None, here]));
        assert!(!open(5, &[here, None, here, None, None]));
        assert!(open(5, &[here, here, here, there, there]));
        assert!(!open(5, &[there, there, there, here, here]) && !open(2, &[here, there]));
    }

    #[tokio::test(start_paused = true)]
    async fn attempts_become_rare() {
        let now = Instant::now();
        let mut probe = Probe::new(now);
        let pauses: Vec<u64> = std::iter::from_fn(|| {
            probe.begin(at(1, 5), 1, now);
            Some((probe.next - now).as_secs())
        })
        .take(9)
        .collect();
        assert_eq!(pauses, [10, 20, 40, 80, 160, 320, 640, 1200, 1200]);
    }
}
