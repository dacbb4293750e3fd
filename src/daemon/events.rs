//! Events, sent to every listener. The queue is bounded: a listener that is too slow learns how many
//! events it missed.

use tokio::sync::broadcast;

use crate::model::Happening;

/// Events a listener may be behind before it misses the oldest.
pub const MAX_PENDING: usize = 1024;

pub struct Events(broadcast::Sender<Happening>);

impl Default for Events {
    fn default() -> Self {
        Self(broadcast::Sender::new(MAX_PENDING))
    }
}

impl Events {
    pub fn tell(&self, happening: Happening) {
        // It fails if there is no listener.
        let _ = self.0.send(happening);
    }

    pub fn listen(&self) -> Listener {
        Listener(self.0.subscribe())
    }
}

pub struct Listener(broadcast::Receiver<Happening>);

impl Listener {
    /// The next event; `None` when there will be no more.
    pub async fn next(&mut self) -> Option<Happening> {
        match self.0.recv().await {
            Ok(happening) => Some(happening),
            Err(broadcast::error::RecvError::Lagged(count)) => Some(Happening::Missed { count }),
            Err(broadcast::error::RecvError::Closed) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_slow_listener_is_told_how_many_it_missed() {
        let events = Events::default();
        let mut listener = events.listen();
        let event = |pid: u32| Happening::Listening { pid };
        for pid in 0..MAX_PENDING as u32 + 3 {
            events.tell(event(pid));
        }
        assert_eq!(listener.next().await, Some(Happening::Missed { count: 3 }));
        assert_eq!(listener.next().await, Some(event(3)));
    }
}
