//! A limit of events per second.

use std::time::Duration;

use tokio::time::Instant;

const PERIOD: Duration = Duration::from_secs(1);

/// Counts what happens within a second.
pub(crate) struct Window {
    since: Instant,
    count: u32,
    most: u32,
}

impl Window {
    pub(crate) fn new(most: u32, now: Instant) -> Self {
        Self { since: now, count: 0, most }
    }

    pub(crate) fn is_full(&mut self, now: Instant) -> bool {
        if now >= self.since + PERIOD {
            (self.since, self.count) = (now, 0);
        }
        self.count >= self.most
    }

    /// Counts one more event; false if the limit is reached.
    pub(crate) fn take(&mut self, now: Instant) -> bool {
        let room = !self.is_full(now);
        self.count += u32::from(room);
        room
    }

    /// When the next event is allowed; `None` if one is allowed now.
    pub(crate) fn opens(&self) -> Option<Instant> {
        (self.count >= self.most).then(|| self.since + PERIOD)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn events_per_second_are_limited() {
        let start = Instant::now();
        let mut window = Window::new(2, start);
        assert_eq!(window.opens(), None);
        assert_eq!(
            [window.take(start), window.take(start), window.take(start)],
            [true, true, false]
        );
        assert_eq!(window.opens(), Some(start + PERIOD));
        assert!(window.is_full(start + PERIOD - Duration::from_millis(1)));
        assert!(window.take(start + PERIOD));
    }
}
