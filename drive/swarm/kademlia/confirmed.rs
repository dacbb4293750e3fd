//! Confirmed addresses, and requests that wait for the confirmation of theirs.
//!
//! The source address of a datagram can be forged. Before an address has answered us, at most
//! [`AMPLIFICATION`] times the bytes that came from it are sent to it. A request whose answer is
//! longer is kept, the node pings the address, and answers when the ping is answered.

use std::collections::VecDeque;
use std::net::SocketAddrV4;
use std::num::NonZeroUsize;
use std::time::Duration;

use lru::LruCache;
use tokio::time::Instant;

/// Bytes sent to an unconfirmed address for each byte received from it.
pub(crate) const AMPLIFICATION: usize = 3;
/// Confirmed addresses that are remembered; the least recently confirmed one makes room.
pub(crate) const MAX_CONFIRMED: NonZeroUsize = NonZeroUsize::new(4096).unwrap();
/// How long an address counts as confirmed after its last answer.
pub(crate) const CONFIRMED_FOR: Duration = Duration::from_secs(15 * 60);
/// Requests that wait for the confirmation of their address.
pub(crate) const MAX_HELD: usize = 128;
/// How long a request waits for that.
const HELD_FOR: Duration = Duration::from_secs(2);

struct HeldRequest<R> {
    from: SocketAddrV4,
    since: Instant,
    request: R,
}

/// Confirmed addresses and waiting requests; `R` is the type of a request.
pub(crate) struct Confirmed<R> {
    addresses: LruCache<SocketAddrV4, Instant>,
    held: VecDeque<HeldRequest<R>>,
}

impl<R> Default for Confirmed<R> {
    fn default() -> Self {
        Self { addresses: LruCache::new(MAX_CONFIRMED), held: VecDeque::new() }
    }
}

impl<R> Confirmed<R> {
    /// The address answered a request of ours. Returns the requests that waited for that.
    pub(crate) fn confirm(&mut self, address: SocketAddrV4, now: Instant) -> Vec<R> {
        self.addresses.put(address, now);
        if self.held.is_empty() {
            return Vec::new();
        }
        self.expire(now);
        let (released, held) = self.held.drain(..).partition(|held| held.from == address);
        self.held = held;
        let released: VecDeque<HeldRequest<R>> = released;
        released.into_iter().map(|held| held.request).collect()
    }

    /// Whether the address has answered us within 15 minutes.
    pub(crate) fn has(&self, address: SocketAddrV4, now: Instant) -> bool {
        self.addresses.peek(&address).is_some_and(|at| now < *at + CONFIRMED_FOR)
    }

    /// Keeps a request until its address is confirmed. It replaces a request of the same address for
    /// which `is_same` holds. False if 128 requests wait already.
    pub(crate) fn hold(
        &mut self,
        from: SocketAddrV4,
        request: R,
        is_same: impl Fn(&R) -> bool,
        now: Instant,
    ) -> bool {
        self.expire(now);
        self.held.retain(|held| held.from != from || !is_same(&held.request));
        let room = self.held.len() < MAX_HELD;
        if room {
            self.held.push_back(HeldRequest { from, since: now, request });
        }
        room
    }

    fn expire(&mut self, now: Instant) {
        while self.held.front().is_some_and(|held| now >= held.since + HELD_FOR) {
            self.held.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    fn address(n: u32) -> SocketAddrV4 {
        SocketAddrV4::new(Ipv4Addr::from(0x0a00_0000 + n), 7)
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_waits_for_its_own_address_and_for_two_seconds() {
        let (mut confirmed, start) = (Confirmed::default(), Instant::now());
        for (n, request) in [(1, 'a'), (1, 'b'), (1, 'a'), (2, 'c'), (2, 'a')] {
            assert!(confirmed.hold(address(n), request, |held| *held == request, start));
        }
        assert_eq!(confirmed.confirm(address(3), start), []);
        assert_eq!(confirmed.confirm(address(1), start), ['b', 'a']);
        assert_eq!(confirmed.confirm(address(1), start), []);
        assert_eq!(confirmed.confirm(address(2), start + HELD_FOR), []);
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_stays_confirmed_for_a_quarter_of_an_hour() {
        let (mut confirmed, start) = (Confirmed::<()>::default(), Instant::now());
        assert!(!confirmed.has(address(1), start));
        confirmed.confirm(address(1), start);
        assert!(confirmed.has(address(1), start + CONFIRMED_FOR - Duration::from_secs(1)));
        assert!(!confirmed.has(address(1), start + CONFIRMED_FOR));
        let other_port = SocketAddrV4::new(*address(1).ip(), 8);
        assert!(!confirmed.has(other_port, start));
    }

    #[tokio::test(start_paused = true)]
    async fn addresses_and_waiting_requests_are_bounded() {
        let (mut confirmed, start) = (Confirmed::default(), Instant::now());
        for n in 0..=MAX_CONFIRMED.get() as u32 {
            confirmed.confirm(address(n), start);
        }
        assert!(!confirmed.has(address(0), start));
        assert!(confirmed.has(address(1), start));
        for n in 0..MAX_HELD as u32 {
            assert!(confirmed.hold(address(n), n, |_| false, start));
        }
        assert!(!confirmed.hold(address(9999), 0, |_| false, start));
        assert!(confirmed.hold(address(9999), 0, |_| false, start + HELD_FOR));
    }
}
