//! A datagram stream on a socket: where its packets go, when they are sent, and which tasks wait
//! for it.
//!
//! Not here: the stream itself (`udx/`), and its content (`connection.rs`).

use std::io;
use std::net::SocketAddrV4;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::Notify;

use super::socket::{Socket, now};
use crate::sync::{Mutex, MutexGuard, Rank};
use crate::udx::{SEND_BUFFER, Stream};

/// Packets that are kept until the stream is connected.
pub(crate) const MAX_EARLY: usize = 8;
/// How long an unused stream has to deliver its last bytes.
const LAST_WORDS: Duration = Duration::from_secs(10);
/// Bytes sent and not acknowledged that all streams together may keep, each at least
/// [`SMALLEST_SHARE`].
pub(crate) const MAX_UNACKNOWLEDGED: usize = 64 * 1024 * 1024;
pub(crate) const SMALLEST_SHARE: usize = 128 * 1024;

/// A datagram stream on a socket.
pub(crate) struct SocketStream {
    pub local_id: u32,
    /// The number of streams of the endpoint, including this one.
    all: Arc<AtomicUsize>,
    state: Mutex<State>,
    readable: Notify,
    writable: Notify,
    /// Notified when the first packet has arrived.
    arrived: Notify,
    /// Notified when the next timeout is earlier than the driver's.
    earlier: Notify,
}

#[derive(Default)]
struct State {
    /// Set once the remote's number of the stream is known.
    stream: Option<Stream>,
    /// The path of the packets, once it is known.
    place: Option<(Arc<Socket>, SocketAddrV4)>,
    /// Whether a packet has arrived on that path.
    heard: bool,
    /// Bytes that may be sent on the path until then; `None` for no limit.
    unheard_bytes: Option<usize>,
    /// The path of the first packet.
    first: Option<(Arc<Socket>, SocketAddrV4)>,
    early: Vec<Bytes>,
    /// Keeps a socket open that only this stream uses.
    closing: Option<Box<dyn Send>>,
    /// A packet that the system did not take.
    unsent: Option<Bytes>,
    /// When the driver wakes.
    armed: Option<Instant>,
    /// Set when no caller uses the stream any more: the time of its end.
    left: Option<Instant>,
}

impl State {
    /// Gives the stream the packets that arrived before it was connected.
    fn take_early(&mut self, now: Instant) {
        if let (Some(stream), Some((_, at))) = (&mut self.stream, &self.place) {
            let from_there = self.first.as_ref().is_some_and(|(_, from)| from == at);
            for packet in self.early.drain(..).filter(|_| from_there) {
                self.heard = true;
                stream.receive(&packet, now);
            }
        }
    }

    /// Sends the packets that may be sent now.
    fn send(&mut self, now: Instant) {
        let (Some(stream), Some((socket, to))) = (&mut self.stream, &self.place) else { return };
        if self.left.is_some() {
            // Unread data must not prevent the other side from ending the stream.
            while stream.read().is_some() {}
        }
        while let Some(packet) = self.unsent.take().or_else(|| stream.next_packet(now)) {
            if let Some(left) = self.unheard_bytes.filter(|_| !self.heard) {
                // As if it were lost on the way: the stream sends it again, or is given up.
                let Some(left) = left.checked_sub(packet.len()) else { continue };
                self.unheard_bytes = Some(left);
            }
            match socket.try_send(&packet, *to) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.unsent = Some(packet);
                    return;
                }
                // As if it were lost on the way.
                Ok(_) | Err(_) => {}
            }
        }
    }

    fn next_timeout(&self) -> Option<Instant> {
        let due = self.stream.as_ref().and_then(Stream::next_timeout);
        [due, self.left].into_iter().flatten().min()
    }

    fn is_over(&self, now: Instant) -> bool {
        self.left.is_some_and(|at| now >= at) || self.stream.as_ref().is_some_and(Stream::is_over)
    }
}

/// Why a read or a write failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SocketStreamError {
    #[error("the stream is not connected")]
    Unconnected,
    #[error(transparent)]
    Failed(#[from] crate::udx::Failure),
}

/// An owner of streams that removes those that are over.
pub(crate) trait Forget: Send + Sync {
    fn forget(&self, id: u32);
}

impl Drop for SocketStream {
    fn drop(&mut self) {
        self.all.fetch_sub(1, Ordering::Relaxed);
    }
}

impl SocketStream {
    pub(crate) fn new(local_id: u32, all: Arc<AtomicUsize>) -> Self {
        all.fetch_add(1, Ordering::Relaxed);
        Self {
            local_id,
            all,
            state: Mutex::new(Rank::STREAM, State::default()),
            readable: Notify::new(),
            writable: Notify::new(),
            arrived: Notify::new(),
            earlier: Notify::new(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while holding it.
        self.state.lock()
    }

    /// Bytes that may wait to be sent or acknowledged.
    fn share(&self) -> usize {
        let all = self.all.load(Ordering::Relaxed).max(1);
        (MAX_UNACKNOWLEDGED / all).max(SMALLEST_SHARE)
    }

    /// Received bytes that are kept: unread ones, and those that follow a gap.
    pub(crate) fn held(&self) -> usize {
        self.state().stream.as_ref().map_or(0, Stream::held)
    }

    /// Ends the stream at once and notifies the remote.
    pub(crate) fn destroy(&self) {
        let now = now();
        if let Some(stream) = &mut self.state().stream {
            stream.destroy(now);
        }
        self.attend(now);
    }

    /// Handles a packet for this stream.
    pub(crate) fn receive(
        &self,
        socket: &Arc<Socket>,
        from: SocketAddrV4,
        packet: &[u8],
        now: Instant,
    ) {
        let mut state = self.state();
        let State { stream, place, heard, first, early, .. } = &mut *state;
        match (stream, place) {
            (Some(stream), Some((through, at))) => {
                if !*heard && *at != from {
                    // The packet came on another path than the assumed one: use that.
                    (*through, *at) = (Arc::clone(socket), from);
                }
                if *at == from {
                    *heard = true;
                    stream.receive(packet, now);
                }
            }
            _ => {
                let (_, at) = first.get_or_insert_with(|| (Arc::clone(socket), from));
                if *at == from && early.len() < MAX_EARLY {
                    early.push(Bytes::copy_from_slice(packet));
                }
                self.arrived.notify_one();
            }
        }
    }

    /// Resolves to the path of the first packet. For one task at a time.
    pub(crate) async fn arrived(&self) -> (Arc<Socket>, SocketAddrV4) {
        loop {
            if let Some((socket, from)) = &self.state().first {
                return (Arc::clone(socket), *from);
            }
            self.arrived.notified().await;
        }
    }

    /// Sets the remote's number of the stream.
    pub(crate) fn remote_is(&self, remote_id: u32) {
        let now = now();
        let mut state = self.state();
        state.stream.get_or_insert_with(|| Stream::new(self.local_id, remote_id, now));
        state.take_early(now);
    }

    /// Sends packets on this path from now on. After the first packet of the remote, only packets from its
    /// source are accepted.
    pub(crate) fn connect(&self, socket: &Arc<Socket>, to: SocketAddrV4) {
        let now = now();
        let mut state = self.state();
        state.place.get_or_insert_with(|| (Arc::clone(socket), to));
        state.take_early(now);
        drop(state);
        self.attend(now);
    }

    /// Limits the bytes sent before the first packet of the remote, because its address may be forged.
    pub(crate) fn limit_unconfirmed(&self, bytes: usize) {
        self.state().unheard_bytes = Some(bytes);
    }

    /// Keeps a socket open until the stream is over.
    pub(crate) fn keep(&self, closing: impl Send + 'static) {
        self.state().closing = Some(Box::new(closing));
    }

    /// Reads the bytes that have arrived in order; adds none once the remote has ended.
    pub(crate) async fn read(&self, into: &mut Vec<Bytes>) -> Result<(), SocketStreamError> {
        loop {
            let readable = self.readable.notified();
            let now = now();
            {
                let mut state = self.state();
                let stream = state.stream.as_mut().ok_or(SocketStreamError::Unconnected)?;
                into.extend(std::iter::from_fn(|| stream.read()));
                if !into.is_empty() || stream.remote_ended() {
                    drop(state);
                    // Advertises the new room to the remote.
                    self.attend(now);
                    return Ok(());
                }
                if let Some(failure) = stream.failure() {
                    return Err(failure.into());
                }
            }
            readable.await;
        }
    }

    /// Writes what there is room for; waits until there is some.
    pub(crate) async fn write(&self, bytes: &[u8]) -> Result<usize, SocketStreamError> {
        loop {
            let writable = self.writable.notified();
            let now = now();
            {
                let mut state = self.state();
                let stream = state.stream.as_mut().ok_or(SocketStreamError::Unconnected)?;
                if let Some(failure) = stream.failure() {
                    return Err(failure.into());
                }
                let waiting = SEND_BUFFER.saturating_sub(stream.room());
                let room = self.share().saturating_sub(waiting).min(bytes.len());
                let count = stream.write(bytes.get(..room).unwrap_or_default());
                drop(state);
                if count > 0 {
                    self.attend(now);
                    return Ok(count);
                }
            }
            writable.await;
        }
    }

    /// No caller uses it any more: written data is still sent for a limited time.
    pub(crate) fn leave(&self) {
        let now = now();
        let mut state = self.state();
        state.left.get_or_insert(now + LAST_WORDS);
        if let Some(stream) = &mut state.stream {
            stream.finish();
        }
        drop(state);
        self.attend(now);
    }

    /// Sends packets that are due and wakes waiting tasks.
    pub(crate) fn attend(&self, now: Instant) {
        if self.send(now) {
            self.earlier.notify_one();
        }
    }

    /// As [`Self::attend`]; returns whether the driver must wake earlier than planned.
    fn send(&self, now: Instant) -> bool {
        let mut state = self.state();
        state.send(now);
        let next = state.next_timeout();
        let earlier = match (next, state.armed) {
            (Some(next), Some(armed)) => next < armed,
            (next, None) => next.is_some(),
            (None, Some(_)) => false,
        } || state.unsent.is_some()
            || state.is_over(now);
        if let Some(stream) = &state.stream {
            let failed = stream.failure().is_some();
            if stream.unread() > 0 || stream.remote_ended() || failed {
                self.readable.notify_waiters();
            }
            if stream.room() > 0 || failed {
                self.writable.notify_waiters();
            }
        }
        earlier
    }

    /// Drives the timeouts, until the stream is over or its endpoint is dropped.
    pub(crate) async fn drive(self: Arc<Self>, endpoint: Weak<dyn Forget>) {
        loop {
            let (due, blocked) = {
                let mut state = self.state();
                if state.is_over(now()) {
                    break;
                }
                let due = state.next_timeout();
                state.armed = due;
                let blocked = state.unsent.as_ref().and(state.place.as_ref());
                (due, blocked.map(|(socket, _)| Arc::clone(socket)))
            };
            let wait = async {
                match due {
                    Some(due) => tokio::time::sleep_until(due.into()).await,
                    None => std::future::pending().await,
                }
            };
            let writable = async {
                match &blocked {
                    Some(socket) => socket.writable().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = wait => {}
                () = writable => {}
                () = self.earlier.notified() => {}
            }
            if endpoint.strong_count() == 0 {
                break;
            }
            self.send(now());
        }
        // Tasks that still wait learn that the stream has ended.
        let mut state = self.state();
        let closing = state.closing.take();
        if let Some(stream) = &mut state.stream {
            stream.destroy(now());
        }
        state.send(now());
        drop(state);
        drop(closing);
        self.readable.notify_waiters();
        self.writable.notify_waiters();
        if let Some(endpoint) = endpoint.upgrade() {
            endpoint.forget(self.local_id);
        }
    }
}
