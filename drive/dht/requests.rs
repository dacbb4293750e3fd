//! Requests that wait for an answer: whose they are, when they are sent again, when they are given up.

use std::collections::BTreeMap;
use std::net::SocketAddrV4;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::id::Id;
use super::message::Packet;
use super::node::QueryId;

/// Requests that wait for an answer at the same time.
pub const MAX_REQUESTS: usize = 512;
/// Sent again when there was no answer for so long: two of the original's ticks of 750 ms.
const AGAIN_AFTER: Duration = Duration::from_millis(1500);
/// So many times.
const AGAIN: u32 = 2;
/// Given up so long after it was sent last.
const GIVEN_UP_AFTER: Duration = Duration::from_secs(3);
/// The referrer is asked to help so long after the request was sent first.
const KNOCK_AFTER: Duration = Duration::from_millis(500);

/// What a request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    Ask {
        query: QueryId,
        asked: Option<Id>,
    },
    Announce {
        query: QueryId,
    },
    TakeBack,
    /// Is the node with this id there?
    Check {
        id: Id,
    },
}

/// What has to be done about a request.
#[derive(Debug, PartialEq, Eq)]
pub enum Due {
    Again { to: SocketAddrV4, packet: Bytes },
    Knock { to: SocketAddrV4, referrer: SocketAddrV4, rid: u16 },
    TimedOut { to: SocketAddrV4, purpose: Purpose },
}

struct Request {
    to: SocketAddrV4,
    packet: Bytes,
    purpose: Purpose,
    knock: Option<(SocketAddrV4, Instant)>,
    sent: Instant,
    again: u32,
}

impl Request {
    fn due(&self) -> Instant {
        let after = if self.again < AGAIN { AGAIN_AFTER } else { GIVEN_UP_AFTER };
        let due = self.sent + after;
        self.knock.map_or(due, |(_, at)| due.min(at))
    }
}

/// See the module's description.
pub struct Requests {
    all: BTreeMap<u16, Request>,
    next: u16,
}

impl Requests {
    /// Numbers begin at a random `first`, so that answers cannot be foretold.
    pub fn new(first: u16) -> Self {
        Self { all: BTreeMap::new(), next: first }
    }

    /// Numbers and keeps a request; its bytes, or `None` if too many wait.
    pub fn add(
        &mut self,
        to: SocketAddrV4,
        mut packet: Packet,
        purpose: Purpose,
        referrer: Option<SocketAddrV4>,
        now: Instant,
    ) -> Option<Bytes> {
        if self.all.len() >= MAX_REQUESTS {
            return None;
        }
        while self.all.contains_key(&self.next) {
            self.next = self.next.wrapping_add(1);
        }
        packet.rid = self.next;
        let bytes = packet.encode();
        let knock = referrer.map(|referrer| (referrer, now + KNOCK_AFTER));
        let request = Request { to, packet: bytes.clone(), purpose, knock, sent: now, again: 0 };
        self.all.insert(self.next, request);
        self.next = self.next.wrapping_add(1);
        Some(bytes)
    }

    /// What the request was for that this answers, if any was sent there.
    pub fn answered(&mut self, from: SocketAddrV4, rid: u16) -> Option<Purpose> {
        if self.all.get(&rid)?.to != from {
            return None;
        }
        self.all.remove(&rid).map(|request| request.purpose)
    }

    pub fn next_due(&self) -> Option<Instant> {
        self.all.values().map(Request::due).min()
    }

    /// Signs of life that are waited for.
    pub fn checks(&self) -> usize {
        self.all.values().filter(|one| matches!(one.purpose, Purpose::Check { .. })).count()
    }

    /// One thing that is due, and done by that.
    pub fn take_due(&mut self, now: Instant) -> Option<Due> {
        let (&rid, _) = self.all.iter().find(|(_, request)| request.due() <= now)?;
        let request = self.all.get_mut(&rid)?;
        if let Some((referrer, _)) = request.knock.take_if(|(_, at)| *at <= now) {
            return Some(Due::Knock { to: request.to, referrer, rid });
        }
        if request.again < AGAIN {
            request.again += 1;
            request.sent = now;
            return Some(Due::Again { to: request.to, packet: request.packet.clone() });
        }
        let request = self.all.remove(&rid)?;
        Some(Due::TimedOut { to: request.to, purpose: request.purpose })
    }
}

#[cfg(test)]
mod tests {
    use super::super::message::Kind;
    use super::*;
    use std::net::Ipv4Addr;

    const TO: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, 1), 1);
    const REFERRER: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, 2), 2);

    fn add(requests: &mut Requests, now: Instant) -> Option<Bytes> {
        let packet = Packet::new(Kind::Query, 0);
        requests.add(TO, packet, Purpose::TakeBack, Some(REFERRER), now)
    }

    #[tokio::test(start_paused = true)]
    async fn knocked_sent_again_twice_and_given_up() {
        let (mut requests, start) = (Requests::new(u16::MAX), Instant::now());
        let packet = add(&mut requests, start).unwrap();
        let mut seen = Vec::new();
        while let Some(at) = requests.next_due() {
            assert_eq!(requests.take_due(at - Duration::from_millis(1)), None);
            seen.push(((at - start).as_millis(), requests.take_due(at).unwrap()));
        }
        let again = || Due::Again { to: TO, packet: packet.clone() };
        let knock = Due::Knock { to: TO, referrer: REFERRER, rid: u16::MAX };
        let given_up = Due::TimedOut { to: TO, purpose: Purpose::TakeBack };
        assert_eq!(seen, [(500, knock), (1500, again()), (3000, again()), (6000, given_up)]);
    }

    #[tokio::test(start_paused = true)]
    async fn only_who_was_asked_can_answer_and_only_once() {
        let (mut requests, now) = (Requests::new(7), Instant::now());
        add(&mut requests, now);
        assert_eq!(requests.answered(REFERRER, 7), None);
        assert_eq!(requests.answered(TO, 8), None);
        assert_eq!(requests.answered(TO, 7), Some(Purpose::TakeBack));
        assert_eq!(requests.answered(TO, 7), None);
    }

    #[tokio::test(start_paused = true)]
    async fn so_many_wait_at_once() {
        let (mut requests, now) = (Requests::new(65_300), Instant::now());
        for _ in 0..MAX_REQUESTS {
            assert!(add(&mut requests, now).is_some());
        }
        assert!(add(&mut requests, now).is_none());
        assert!(requests.answered(TO, 65_300).is_some());
        assert!(add(&mut requests, now).is_some());
    }
}
