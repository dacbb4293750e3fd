//! Counts the traffic at the middle of the link.

use serde::{Deserialize, Serialize};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Direction {
    ToServer = 0,
    ToClient = 1,
}

/// Payload bytes, turns and connections since the last reset.
///
/// A turn begins when, at the middle of the link, payload towards the server follows payload
/// towards the client (or nothing). Without overlap, a request and its answer are one turn.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
pub struct Traffic {
    pub to_server_bytes: u64,
    pub to_client_bytes: u64,
    pub turns: u64,
    pub connections: u64,
}

/// A piece of payload in one direction, and the time at which its last byte passes the middle.
struct Passage {
    at: Instant,
    direction: Direction,
}

#[derive(Default)]
struct State {
    bytes: [u64; 2],
    connections: u64,
    /// Kept one by one, as neighbours cannot be merged before both directions are known: the other
    /// one may yet report an earlier time.
    passages: Vec<Passage>,
}

#[derive(Default)]
pub struct Counters(Mutex<State>);

impl Counters {
    pub fn connected(&self) {
        self.state().connections += 1;
    }

    /// Counts payload whose last byte passes the middle at the given time. The end of a stream
    /// (no bytes) is not payload.
    pub fn passed(&self, direction: Direction, bytes: u64, at: Instant) {
        if bytes == 0 {
            return;
        }
        let mut state = self.state();
        state.bytes[direction as usize] += bytes;
        state.passages.push(Passage { at, direction });
    }

    pub fn reset(&self) {
        *self.state() = State::default();
    }

    pub fn traffic(&self) -> Traffic {
        let mut state = self.state();
        state.passages.sort_by_key(|passage| passage.at);
        let mut last = Direction::ToClient;
        let mut turns = 0;
        for passage in &state.passages {
            turns += u64::from(passage.direction < last);
            last = passage.direction;
        }
        let [to_server_bytes, to_client_bytes] = state.bytes;
        Traffic { to_server_bytes, to_client_bytes, turns, connections: state.connections }
    }

    pub fn json(&self) -> String {
        // Four integers under fixed names always serialise.
        serde_json::to_string(&self.traffic()).unwrap_or_default()
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn turns_follow_the_middle_of_the_link_not_the_order_of_reports() {
        let counters = Counters::default();
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        counters.connected();
        counters.passed(Direction::ToServer, 10, at(1));
        counters.passed(Direction::ToServer, 20, at(2));
        // Reported early, but it leaves the queue after the request below has passed.
        counters.passed(Direction::ToClient, 1000, at(9));
        counters.passed(Direction::ToServer, 30, at(5));
        counters.passed(Direction::ToServer, 40, at(10));
        counters.passed(Direction::ToClient, 0, at(11));
        let expected =
            Traffic { to_server_bytes: 100, to_client_bytes: 1000, turns: 2, connections: 1 };
        assert_eq!(counters.traffic(), expected);
        counters.reset();
        assert_eq!(counters.traffic(), Traffic::default());
    }
}
