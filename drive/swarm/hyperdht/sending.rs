//! Packets that leave a node, and requests that wait for an answer, with limits per second and at a
//! time.

use std::collections::VecDeque;
use std::net::SocketAddrV4;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::interface::{Outgoing, RequestId, SocketId};
use super::message::{Request, Response};
use crate::kademlia::{Due, Id, Patience, QueryId, Requests, Window};

/// New requests sent per second.
pub(crate) const MAX_REQUESTS_PER_SECOND: u32 = 200;
/// Requests that wait to be sent; one more is refused.
pub(crate) const MAX_WAITING: usize = 256;
/// Pending outgoing packets; further ones are dropped, as on any network.
pub(crate) const MAX_OUT: usize = 4096;

const SECOND: Duration = Duration::from_secs(1);
/// Sent once.
pub(crate) const ONCE: Patience =
    Patience { late_after: None, again_after: SECOND, times: 0, given_up_after: SECOND };
/// Sent again twice, which is over before the next ping to the relays.
pub(crate) const THRICE: Patience = Patience { times: 2, ..ONCE };
/// As often as the original.
pub(crate) const PATIENT: Patience = Patience { times: 3, ..ONCE };
/// As often as the original; the walk continues after the first second.
pub(crate) const WALKING: Patience = Patience { late_after: Some(SECOND), ..PATIENT };

/// The purpose of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// One step of a walk.
    Step {
        query: QueryId,
        asked: Option<Id>,
        /// The node that named this one.
        referrer: Option<SocketAddrV4>,
    },
    /// An announcement at the end of a walk. A token that has expired on the way is replaced once.
    Commit {
        query: QueryId,
        replaced: bool,
    },
    TakeBack {
        target: Id,
        replaced: bool,
    },
    /// A ping of a node, for the routing table.
    Check,
    /// A ping of a relay, which also reports our address.
    Relay,
    /// A ping whose answer goes to our server socket.
    Nat,
    /// A hint that a node is down.
    Hint,
    /// A ping that confirms the source address of a request.
    Confirm,
    Asked(RequestId),
}

/// A request that has no number yet.
pub(crate) struct Ready {
    /// The socket to send from.
    pub socket: SocketId,
    pub request: Request,
    pub purpose: Purpose,
    pub patience: Patience,
}

/// The address that must answer, and the socket.
type Destination = (SocketId, SocketAddrV4);

/// See the module's description.
pub(crate) struct Sending {
    out: VecDeque<Outgoing>,
    requests: Requests<Destination, Purpose>,
    waiting: VecDeque<Ready>,
    window: Window,
}

impl Sending {
    pub(crate) fn new(first_request: u16, now: Instant) -> Self {
        Self {
            out: VecDeque::new(),
            requests: Requests::new(first_request),
            waiting: VecDeque::new(),
            window: Window::new(MAX_REQUESTS_PER_SECOND, now),
        }
    }

    /// Whether a new request would have to wait.
    pub(crate) fn is_full(&mut self, now: Instant) -> bool {
        self.window.is_full(now) || self.requests.is_full() || !self.waiting.is_empty()
    }

    /// Sends a request, now or soon; false if too many wait.
    pub(crate) fn ask(&mut self, ready: Ready, now: Instant) -> bool {
        if !self.is_full(now) {
            self.send(ready, now);
            return true;
        }
        let room = self.waiting.len() < MAX_WAITING;
        if room {
            self.waiting.push_back(ready);
        }
        room
    }

    fn send(&mut self, ready: Ready, now: Instant) {
        let Ready { socket, mut request, purpose, patience } = ready;
        let to = request.to;
        let answered_on = if purpose == Purpose::Nat { SocketId::SERVER } else { socket };
        self.window.take(now);
        let encode = |number| {
            request.number = number;
            request.encode()
        };
        if let Some(bytes) = self.requests.add((answered_on, to), purpose, patience, now, encode) {
            self.put(socket, to, bytes);
        }
    }

    /// Sends waiting requests, as far as the limits allow.
    pub(crate) fn go_on(&mut self, now: Instant) {
        // The window first: the call lets it notice that it is open.
        while !self.window.is_full(now) && !self.requests.is_full() {
            let Some(ready) = self.waiting.pop_front() else { return };
            self.send(ready, now);
        }
    }

    pub(crate) fn reply(&mut self, socket: SocketId, response: &Response) {
        self.put(socket, response.to, response.encode());
    }

    /// Sends a request whose answer, if there is one, goes to another node.
    pub(crate) fn pass_on(&mut self, socket: SocketId, request: &Request) {
        self.put(socket, request.to, request.encode());
    }

    /// Sends these bytes.
    pub(crate) fn put(&mut self, socket: SocketId, to: SocketAddrV4, bytes: Bytes) {
        if self.out.len() < MAX_OUT {
            self.out.push_back(Outgoing { socket, to, bytes });
        }
    }

    pub(crate) fn next_packet(&mut self) -> Option<Outgoing> {
        self.out.pop_front()
    }

    /// The purpose of the request with this number, if it was sent there from that socket.
    pub(crate) fn answered(
        &mut self,
        socket: SocketId,
        from: SocketAddrV4,
        number: u16,
    ) -> Option<Purpose> {
        self.requests.answered((socket, from), number)
    }

    /// How many requests have such a purpose, sent or waiting.
    pub(crate) fn count(&self, is_for: impl Fn(&Purpose) -> bool) -> usize {
        let unsent = self.waiting.iter().filter(|ready| is_for(&ready.purpose)).count();
        unsent + self.requests.count(is_for)
    }

    /// Repeats the requests that are due, and returns the first event that a caller must handle.
    pub(crate) fn take_due(&mut self, now: Instant) -> Option<Overdue> {
        loop {
            match self.requests.take_due(now)? {
                Due::Again { to: (socket, to), packet, purpose } => {
                    let socket = if purpose == Purpose::Nat { SocketId::CLIENT } else { socket };
                    self.put(socket, to, packet);
                }
                Due::Late { purpose, .. } => return Some(Overdue::Late { purpose }),
                Due::TimedOut { to: (_, to), purpose } => {
                    return Some(Overdue::TimedOut { to, purpose });
                }
            }
        }
    }

    /// When something is due; `eager` if a caller has more to send than the waiting requests.
    pub(crate) fn next_due(&self, eager: bool) -> Option<Instant> {
        let opens = self.window.opens().filter(|_| eager || !self.waiting.is_empty());
        [self.requests.next_due(), opens].into_iter().flatten().min()
    }
}

/// A request that is late or has failed.
#[derive(Debug)]
pub(crate) enum Overdue {
    Late { purpose: Purpose },
    TimedOut { to: SocketAddrV4, purpose: Purpose },
}

#[cfg(test)]
mod tests {
    use super::super::message::{Command, Packet};
    use super::*;
    use crate::kademlia::MAX_REQUESTS;
    use std::net::Ipv4Addr;

    const TO: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, 1), 1);
    const MAX: usize = MAX_REQUESTS_PER_SECOND as usize;

    fn ready(purpose: Purpose) -> Ready {
        let request = Request::new(TO, Command::Ping);
        Ready { socket: SocketId::CLIENT, request, purpose, patience: PATIENT }
    }

    fn sent(sending: &mut Sending) -> Vec<u16> {
        std::iter::from_fn(|| sending.next_packet())
            .map(|out| match Packet::decode(&out.bytes) {
                Some(Packet::Request(request)) => request.number,
                other => panic!("{other:?}"),
            })
            .collect()
    }

    #[tokio::test(start_paused = true)]
    async fn requests_per_second_and_waiting_requests_are_limited() {
        let now = Instant::now();
        let mut sending = Sending::new(7, now);
        for n in 0..MAX + MAX_WAITING {
            assert_eq!(sending.is_full(now), n >= MAX);
            assert!(sending.ask(ready(Purpose::Asked(n as u64)), now));
        }
        assert!(!sending.ask(ready(Purpose::Hint), now), "one more");
        assert_eq!(sending.count(|_| true), MAX + MAX_WAITING);
        assert_eq!(sent(&mut sending).len(), MAX);
        let opens = now + Duration::from_secs(1);
        assert_eq!(sending.next_due(false), Some(opens));
        for number in 7..7 + MAX as u16 {
            assert!(sending.answered(SocketId::CLIENT, TO, number).is_some());
        }
        sending.go_on(opens);
        assert_eq!(sent(&mut sending).len(), MAX);
        assert!(sending.is_full(opens), "waiting requests go first");
    }

    #[tokio::test(start_paused = true)]
    async fn requests_without_answer_are_limited_by_their_numbers() {
        let mut now = Instant::now();
        let mut sending = Sending::new(7, now);
        let forever = Patience { again_after: Duration::from_secs(1000), ..PATIENT };
        for _ in 0..MAX_REQUESTS + 1 {
            assert!(sending.ask(Ready { patience: forever, ..ready(Purpose::Hint) }, now));
            now += Duration::from_millis(10);
        }
        assert_eq!(sent(&mut sending).len(), MAX_REQUESTS);
        assert!(sending.answered(SocketId::CLIENT, TO, 7).is_some());
        sending.go_on(now);
        assert_eq!(sent(&mut sending).len(), 1);
    }

    /// Nothing is due before it can be done.
    #[tokio::test(start_paused = true)]
    async fn a_full_request_table_does_not_spend_the_rate_limit() {
        let mut now = Instant::now();
        let mut sending = Sending::new(7, now);
        let again_after = Duration::from_secs(1000);
        let forever = |n| {
            let patience = Patience { again_after, ..PATIENT };
            Ready { patience, ..ready(Purpose::Asked(n)) }
        };
        let numbers = MAX_REQUESTS as u64;
        let first = numbers % u64::from(MAX_REQUESTS_PER_SECOND);
        for n in 0..numbers {
            if n % u64::from(MAX_REQUESTS_PER_SECOND) == first {
                now += SECOND;
            }
            assert!(!sending.is_full(now) && sending.ask(forever(n), now));
        }
        assert!(sending.ask(forever(numbers), now), "waits");
        now += SECOND;
        sending.go_on(now);
        assert!(sending.next_due(true) > Some(now + SECOND * 900));
    }

    #[tokio::test(start_paused = true)]
    async fn packets_beyond_the_queue_are_dropped() {
        let mut sending = Sending::new(7, Instant::now());
        for number in 0..=MAX_OUT as u16 {
            sending.reply(SocketId::CLIENT, &Response::new(TO, number));
        }
        assert_eq!(std::iter::from_fn(|| sending.next_packet()).count(), MAX_OUT);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_counts_only_at_the_socket_of_its_request() {
        let now = Instant::now();
        let mut sending = Sending::new(7, now);
        let other = SocketAddrV4::new(*TO.ip(), 2);
        sending.ask(ready(Purpose::Check), now);
        assert_eq!(sending.answered(SocketId::SERVER, TO, 7), None);
        assert_eq!(sending.answered(SocketId::CLIENT, other, 7), None);
        assert_eq!(sending.answered(SocketId::CLIENT, TO, 7), Some(Purpose::Check));
        sending.ask(ready(Purpose::Nat), now);
        assert_eq!(sending.answered(SocketId::CLIENT, TO, 8), None);
        assert!(sending.take_due(now + SECOND).is_none());
        let sockets: Vec<_> =
            std::iter::from_fn(|| sending.next_packet()).map(|out| out.socket).collect();
        assert_eq!(sockets, [SocketId::CLIENT; 3], "also when it is sent again");
        assert_eq!(sending.answered(SocketId::SERVER, TO, 8), Some(Purpose::Nat));
    }
}
