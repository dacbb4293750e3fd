//! Requests that wait for an answer: their purpose, when they are sent again, and when they fail.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

/// Requests that wait for an answer at the same time.
pub(crate) const MAX_REQUESTS: usize = 512;

/// How long a node waits for an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Patience {
    /// Time without an answer after which the request is reported as late, once; `None` never
    /// reports it.
    pub late_after: Option<Duration>,
    /// Time without an answer after which the request is sent again.
    pub again_after: Duration,
    /// How many times it is sent again.
    pub times: u32,
    /// Time after the last sending at which it fails.
    pub given_up_after: Duration,
}

/// What is due for a request.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Due<To, Purpose> {
    /// There is no answer yet. The request stays under way.
    Late {
        to: To,
        number: u16,
        purpose: Purpose,
    },
    Again {
        to: To,
        packet: Bytes,
        purpose: Purpose,
    },
    TimedOut {
        to: To,
        purpose: Purpose,
    },
}

struct Request<To, Purpose> {
    to: To,
    packet: Bytes,
    purpose: Purpose,
    patience: Patience,
    /// The time at which the request counts as late; `None` once that was reported.
    late: Option<Instant>,
    sent: Instant,
    again: u32,
}

impl<To, Purpose> Request<To, Purpose> {
    fn due(&self) -> Instant {
        let more = self.again < self.patience.times;
        let due =
            self.sent + if more { self.patience.again_after } else { self.patience.given_up_after };
        self.late.map_or(due, |late| due.min(late))
    }
}

/// Pending requests. `To` is what an answer must match, such as the queried node and the socket.
pub(crate) struct Requests<To, Purpose> {
    all: BTreeMap<u16, Request<To, Purpose>>,
    next: u16,
}

impl<To: Copy + Eq, Purpose: Clone> Requests<To, Purpose> {
    /// Numbers begin at a random `first`, so that answers cannot be guessed.
    pub(crate) fn new(first: u16) -> Self {
        Self { all: BTreeMap::new(), next: first }
    }

    pub(crate) fn is_full(&self) -> bool {
        self.all.len() >= MAX_REQUESTS
    }

    /// Keeps a request and returns its bytes, which `encode` makes of its number; `None` if too many
    /// wait.
    pub(crate) fn add(
        &mut self,
        to: To,
        purpose: Purpose,
        patience: Patience,
        now: Instant,
        encode: impl FnOnce(u16) -> Bytes,
    ) -> Option<Bytes> {
        if self.is_full() {
            return None;
        }
        while self.all.contains_key(&self.next) {
            self.next = self.next.wrapping_add(1);
        }
        let packet = encode(self.next);
        let request = Request {
            to,
            packet: packet.clone(),
            purpose,
            patience,
            late: patience.late_after.map(|after| now + after),
            sent: now,
            again: 0,
        };
        self.all.insert(self.next, request);
        self.next = self.next.wrapping_add(1);
        Some(packet)
    }

    /// The purpose of the request with this number, if it was sent there; the request is removed.
    pub(crate) fn answered(&mut self, from: To, number: u16) -> Option<Purpose> {
        if self.all.get(&number)?.to != from {
            return None;
        }
        self.all.remove(&number).map(|request| request.purpose)
    }

    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.all.values().map(Request::due).min()
    }

    /// How many waiting requests have such a purpose.
    pub(crate) fn count(&self, is_for: impl Fn(&Purpose) -> bool) -> usize {
        self.all.values().filter(|request| is_for(&request.purpose)).count()
    }

    /// Takes the next event that is due.
    pub(crate) fn take_due(&mut self, now: Instant) -> Option<Due<To, Purpose>> {
        let (&number, request) = self.all.iter_mut().find(|(_, request)| request.due() <= now)?;
        let to = request.to;
        if request.late.take_if(|late| *late <= now).is_some() {
            return Some(Due::Late { to, number, purpose: request.purpose.clone() });
        }
        if request.again < request.patience.times {
            request.again += 1;
            request.sent = now;
            let (packet, purpose) = (request.packet.clone(), request.purpose.clone());
            return Some(Due::Again { to, packet, purpose });
        }
        let purpose = self.all.remove(&number)?.purpose;
        Some(Due::TimedOut { to, purpose })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TO: u8 = 1;
    const OTHER: u8 = 2;
    const PATIENCE: Patience = Patience {
        late_after: Some(Duration::from_millis(500)),
        again_after: Duration::from_millis(1500),
        times: 2,
        given_up_after: Duration::from_secs(3),
    };

    fn add(requests: &mut Requests<u8, char>, now: Instant) -> Option<Bytes> {
        requests.add(TO, 'p', PATIENCE, now, |number| Bytes::copy_from_slice(&number.to_be_bytes()))
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_is_late_then_sent_again_twice_then_failed() {
        let (mut requests, start) = (Requests::new(u16::MAX), Instant::now());
        let packet = add(&mut requests, start).unwrap();
        assert_eq!(packet[..], [255, 255]);
        let mut seen = Vec::new();
        while let Some(at) = requests.next_due() {
            assert_eq!(requests.take_due(at - Duration::from_millis(1)), None);
            seen.push(((at - start).as_millis(), requests.take_due(at).unwrap()));
        }
        let again = || Due::Again { to: TO, packet: packet.clone(), purpose: 'p' };
        let late = Due::Late { to: TO, number: u16::MAX, purpose: 'p' };
        let given_up = Due::TimedOut { to: TO, purpose: 'p' };
        assert_eq!(seen, [(500, late), (1500, again()), (3000, again()), (6000, given_up)]);
    }

    #[tokio::test(start_paused = true)]
    async fn only_the_queried_node_can_answer_and_only_once() {
        let (mut requests, now) = (Requests::new(7), Instant::now());
        add(&mut requests, now);
        assert_eq!(requests.answered(OTHER, 7), None);
        assert_eq!(requests.answered(TO, 8), None);
        assert_eq!(requests.answered(TO, 7), Some('p'));
        assert_eq!(requests.answered(TO, 7), None);
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_requests_are_limited() {
        let (mut requests, now) = (Requests::new(65_300), Instant::now());
        for _ in 0..MAX_REQUESTS {
            assert!(add(&mut requests, now).is_some());
        }
        assert!(requests.is_full() && add(&mut requests, now).is_none());
        assert_eq!(requests.count(|purpose| *purpose == 'p'), MAX_REQUESTS);
        assert!(requests.answered(TO, 65_300).is_some());
        assert!(add(&mut requests, now).is_some());
    }
}
