//! Several channels on one encrypted connection, as on Hyperswarm 4 (protomux 3): messages in,
//! messages out, no I/O. A channel is a protocol's name and an id, and is open once both sides have
//! opened it.
//!
//! Not here: the encrypted connection (`swarm/hyperdht`) and what any channel carries.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};

use bytes::{Bytes, BytesMut};

use crate::compact::{CutOff, put_buffer, put_uint, take_buffer, take_uint};

/// Longest message of the remote that is accepted, in bytes.
pub(crate) const MAX_FRAME: usize = 1024 * 1024;
/// Channels that we may have open at the same time.
pub(crate) const MAX_LOCAL: usize = 64;
/// Channels that the remote may have open or requested at the same time; more are refused.
pub(crate) const MAX_REMOTE: usize = 64;
/// Bytes of queued messages on channels that are not open yet, all together. The reference stops
/// reading at this number.
pub(crate) const MAX_QUEUED: usize = 32 * 1024;
/// Longest name of a protocol, and longest id, in bytes.
pub(crate) const MAX_NAME: usize = 256;
/// Messages that one frame may hold: a batch of empty ones costs a byte each.
pub(crate) const MAX_BATCH: usize = 16 * 1024;

/// Number of the control channel, on which all others are opened and closed.
const CONTROL: u64 = 0;
const BATCH: u64 = 0;
const OPEN: u64 = 1;
const REJECT: u64 = 2;
const CLOSE: u64 = 3;
/// Memory, in bytes, that a queued message costs besides its payload.
const QUEUED_OVERHEAD: usize = 64;

/// Errors of the remote that end the connection.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum MuxError {
    #[error("a message of {0} bytes, more than {MAX_FRAME}")]
    TooLong(usize),
    #[error("a message ends early")]
    CutOff,
    #[error("a name that is too long or no text")]
    BadName,
    #[error("channel {0} opened out of turn")]
    OutOfTurn(u64),
    #[error("more than {MAX_QUEUED} bytes on channels that are not open yet")]
    TooMuchQueued,
    #[error("more than {MAX_BATCH} messages in one")]
    TooManyInOne,
    #[error("a batch in a batch")]
    Nested,
}

impl From<CutOff> for MuxError {
    fn from(_: CutOff) -> Self {
        Self::CutOff
    }
}

/// One of our channels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ChannelId(u64);

/// A channel the remote has opened, by its own number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct RemoteId(u64);

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// The remote opens a channel that we have not opened: open the same, or [`Mux::refuse`] it.
    Asked {
        remote: RemoteId,
        protocol: String,
        id: Bytes,
    },
    /// A channel is open on both sides; `handshake` is from the remote.
    Opened {
        channel: ChannelId,
        handshake: Bytes,
    },
    Message {
        channel: ChannelId,
        kind: u64,
        payload: Bytes,
    },
    /// A channel was refused or closed by the remote.
    Closed {
        channel: ChannelId,
    },
}

struct Local {
    protocol: String,
    id: Bytes,
    remote: Option<u64>,
}

enum Remote {
    /// It waits for our answer.
    Asking {
        protocol: String,
        id: Bytes,
        handshake: Bytes,
        queued: Vec<(u64, Bytes)>,
    },
    Open(ChannelId),
}

/// The channels of one connection; see the module documentation.
#[derive(Default)]
pub(crate) struct Mux {
    local: BTreeMap<u64, Local>,
    remote: BTreeMap<u64, Remote>,
    /// The highest number the remote has used.
    highest: u64,
    queued: usize,
    events: VecDeque<Event>,
    frames: VecDeque<Bytes>,
}

impl Mux {
    /// Opens a channel; nothing can be sent on it before [`Event::Opened`]. `None` when
    /// [`MAX_LOCAL`] are open.
    pub(crate) fn open(
        &mut self,
        protocol: &str,
        id: &[u8],
        handshake: &[u8],
    ) -> Option<ChannelId> {
        let number = (1..=MAX_LOCAL as u64).find(|number| !self.local.contains_key(number))?;
        let mut frame = BytesMut::new();
        put_uint(CONTROL, &mut frame);
        put_uint(OPEN, &mut frame);
        put_uint(number, &mut frame);
        put_buffer(protocol.as_bytes(), &mut frame);
        put_buffer(id, &mut frame);
        frame.extend_from_slice(handshake);
        self.frames.push_back(frame.freeze());
        let id = Bytes::copy_from_slice(id);
        self.local.insert(number, Local { protocol: protocol.to_owned(), id, remote: None });
        self.pair(ChannelId(number));
        Some(ChannelId(number))
    }

    /// Connects one of our channels to the one that the remote has opened, if it has.
    fn pair(&mut self, channel: ChannelId) {
        let Some(local) = self.local.get_mut(&channel.0) else { return };
        let same = |remote: &Remote| match remote {
            Remote::Asking { protocol, id, .. } => *protocol == local.protocol && *id == local.id,
            Remote::Open(_) => false,
        };
        let Some((&number, remote)) = self.remote.iter_mut().find(|(_, remote)| same(remote))
        else {
            return;
        };
        local.remote = Some(number);
        let asking = std::mem::replace(remote, Remote::Open(channel));
        if let Remote::Asking { handshake, queued, .. } = asking {
            self.no_longer_queued(&queued);
            self.events.push_back(Event::Opened { channel, handshake });
            for (kind, payload) in queued {
                self.events.push_back(Event::Message { channel, kind, payload });
            }
        }
    }

    /// Answers [`Event::Asked`]: refuses the channel.
    pub(crate) fn refuse(&mut self, remote: RemoteId) {
        if let Some(Remote::Asking { .. }) = self.remote.get(&remote.0)
            && let Some(Remote::Asking { queued, .. }) = self.remote.remove(&remote.0)
        {
            self.no_longer_queued(&queued);
            self.control(REJECT, remote.0);
        }
    }

    /// Sends a message. Returns false and sends nothing if the channel is not open on both sides or the
    /// message is too long.
    #[must_use]
    pub(crate) fn send(&mut self, channel: ChannelId, kind: u64, payload: &[u8]) -> bool {
        let open = self.local.get(&channel.0).is_some_and(|local| local.remote.is_some());
        if !open || payload.len() > MAX_FRAME / 2 {
            return false;
        }
        let mut frame = BytesMut::with_capacity(payload.len() + 10);
        put_uint(channel.0, &mut frame);
        put_uint(kind, &mut frame);
        frame.extend_from_slice(payload);
        self.frames.push_back(frame.freeze());
        true
    }

    /// Closes a channel, whatever its state; no event follows.
    pub(crate) fn close(&mut self, channel: ChannelId) {
        if let Some(local) = self.local.remove(&channel.0) {
            if let Some(remote) = local.remote {
                self.remote.remove(&remote);
            }
            self.control(CLOSE, channel.0);
        }
    }

    fn control(&mut self, kind: u64, number: u64) {
        let mut frame = BytesMut::new();
        put_uint(CONTROL, &mut frame);
        put_uint(kind, &mut frame);
        put_uint(number, &mut frame);
        self.frames.push_back(frame.freeze());
    }

    pub(crate) fn next_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// The next message for the encrypted connection.
    pub(crate) fn next_frame(&mut self) -> Option<Bytes> {
        self.frames.pop_front()
    }

    /// How many frames wait to be sent. It grows if the remote causes answers and does not read them.
    pub(crate) fn pending_frames(&self) -> usize {
        self.frames.len()
    }

    /// Takes one message of the encrypted connection.
    ///
    /// # Errors
    /// Fails if the message is malformed or exceeds a limit; the caller must close the connection.
    pub(crate) fn receive(&mut self, mut frame: Bytes) -> Result<(), MuxError> {
        if frame.len() > MAX_FRAME {
            return Err(MuxError::TooLong(frame.len()));
        }
        let channel = take_uint(&mut frame)?;
        let kind = take_uint(&mut frame)?;
        match (channel, kind) {
            (CONTROL, BATCH) => self.receive_batch(frame),
            _ => self.receive_one(channel, kind, frame),
        }
    }

    /// A batch: several messages in one frame; those of the control channel omit its number.
    fn receive_batch(&mut self, mut batch: Bytes) -> Result<(), MuxError> {
        let mut channel = take_uint(&mut batch)?;
        let mut count = 0;
        while !batch.is_empty() {
            count += 1;
            if count > MAX_BATCH {
                return Err(MuxError::TooManyInOne);
            }
            let mut item = take_buffer(&mut batch)?;
            if item.is_empty() {
                channel = take_uint(&mut batch)?;
                continue;
            }
            let kind = take_uint(&mut item)?;
            if (channel, kind) == (CONTROL, BATCH) {
                return Err(MuxError::Nested);
            }
            self.receive_one(channel, kind, item)?;
        }
        Ok(())
    }

    fn receive_one(&mut self, channel: u64, kind: u64, payload: Bytes) -> Result<(), MuxError> {
        if channel == CONTROL {
            return self.receive_control(kind, payload);
        }
        match self.remote.get_mut(&channel) {
            Some(Remote::Open(channel)) => {
                let channel = *channel;
                self.events.push_back(Event::Message { channel, kind, payload });
            }
            Some(Remote::Asking { queued, .. }) => {
                self.queued += payload.len() + QUEUED_OVERHEAD;
                if self.queued > MAX_QUEUED {
                    return Err(MuxError::TooMuchQueued);
                }
                // The frame it is part of may be much longer.
                queued.push((kind, Bytes::copy_from_slice(&payload)));
            }
            // Closed or refused while this was under way.
            None => {}
        }
        Ok(())
    }

    fn receive_control(&mut self, kind: u64, mut payload: Bytes) -> Result<(), MuxError> {
        match kind {
            OPEN => self.receive_open(payload),
            REJECT => {
                let number = take_uint(&mut payload)?;
                // One that is open cannot be refused any more.
                if self.local.get(&number).is_some_and(|local| local.remote.is_none()) {
                    self.local.remove(&number);
                    self.events.push_back(Event::Closed { channel: ChannelId(number) });
                }
                Ok(())
            }
            CLOSE => {
                let number = take_uint(&mut payload)?;
                self.remote_closed(number);
                Ok(())
            }
            // A later version may have more.
            _ => Ok(()),
        }
    }

    fn remote_closed(&mut self, number: u64) {
        match self.remote.remove(&number) {
            Some(Remote::Open(channel)) => {
                let known = self.local.remove(&channel.0).is_some();
                if known {
                    self.control(CLOSE, channel.0);
                    self.events.push_back(Event::Closed { channel });
                }
            }
            Some(Remote::Asking { queued, .. }) => self.no_longer_queued(&queued),
            None => {}
        }
    }

    fn no_longer_queued(&mut self, messages: &[(u64, Bytes)]) {
        let held: usize = messages.iter().map(|(_, one)| one.len() + QUEUED_OVERHEAD).sum();
        self.queued = self.queued.saturating_sub(held);
    }

    fn receive_open(&mut self, mut payload: Bytes) -> Result<(), MuxError> {
        let number = take_uint(&mut payload)?;
        let name = take_buffer(&mut payload)?;
        let id = take_buffer(&mut payload)?;
        let protocol = str::from_utf8(&name).map_err(|_| MuxError::BadName)?.to_owned();
        if name.len() > MAX_NAME || id.len() > MAX_NAME {
            return Err(MuxError::BadName);
        }
        // Numbers are taken in turn, and again when they are free.
        if number == CONTROL || number > self.highest + 1 || self.remote.contains_key(&number) {
            return Err(MuxError::OutOfTurn(number));
        }
        self.highest = self.highest.max(number);
        if self.remote.len() >= MAX_REMOTE || payload.len() > MAX_QUEUED {
            self.control(REJECT, number);
            return Ok(());
        }
        let (id, handshake) = (Bytes::copy_from_slice(&id), Bytes::copy_from_slice(&payload));
        let ours = self.local.iter().find(|(_, local)| {
            local.remote.is_none() && local.protocol == protocol && local.id == id
        });
        let channel = ours.map(|(number, _)| ChannelId(*number));
        let asking = Remote::Asking {
            protocol: protocol.clone(),
            id: id.clone(),
            handshake,
            queued: Vec::new(),
        };
        self.remote.insert(number, asking);
        match channel {
            Some(channel) => self.pair(channel),
            None => self.events.push_back(Event::Asked { remote: RemoteId(number), protocol, id }),
        }
        Ok(())
    }
}
