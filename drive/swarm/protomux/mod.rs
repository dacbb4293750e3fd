//! Several channels on one encrypted connection, as on Hyperswarm 4 (protomux 3): messages in,
//! messages out, no I/O. A channel is a protocol's name and an id, and is open once both sides have
//! opened it.
//!
//! Small messages that wait together leave in one frame, a batch. A remote that has not shown yet that it
//! knows a key of ours gets less room than one that has ([`Mux::trust`]).
//!
//! Not here: the encrypted connection (`network/encrypted.rs`) and what any channel carries.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};

use bytes::{Bytes, BytesMut};

use crate::compact::{CutOff, put_buffer, put_uint, take_buffer, take_uint};

/// Longest frame of a trusted remote that is accepted, in bytes: what an encrypted message can hold.
pub(crate) const MAX_FRAME: usize = crate::secret_stream::LONGEST;
/// Longest frame of any other remote that is accepted, in bytes.
pub(crate) const MAX_STRANGER_FRAME: usize = 1024 * 1024;
/// Longest message that can be sent, in bytes: a block of 8 MiB with its proof.
pub(crate) const MAX_SENT: usize = 8 * 1024 * 1024 + 64 * 1024;
/// Channels that we may have open at the same time.
pub(crate) const MAX_LOCAL: usize = 1024;
/// Channels that the remote may have open or requested at the same time; more are refused.
pub(crate) const MAX_REMOTE: usize = 1024;
/// Bytes held of channels that only a trusted remote has opened, and of messages on them. The reference stops
/// reading at 32 KiB of messages.
pub(crate) const MAX_QUEUED: usize = 1024 * 1024;
/// The same, of any other remote.
pub(crate) const MAX_STRANGER_QUEUED: usize = 32 * 1024;
/// Longest handshake of a channel, in bytes; a channel with a longer one is refused.
pub(crate) const MAX_HANDSHAKE: usize = 1024;
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
/// Memory, in bytes, that a queued message or a requested channel costs besides its bytes.
const QUEUED_OVERHEAD: usize = 64;
/// Longest message, in bytes, that shares a frame with others. A longer one would be copied for nothing.
const BATCHED: usize = 4 * 1024;
/// A batch is sent when it has this many bytes.
const BATCH_BYTES: usize = 64 * 1024;

/// Errors of the remote that end the connection.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum MuxError {
    #[error("a message of {length} bytes, of which {most} are taken")]
    TooLong { length: usize, most: usize },
    #[error("a message ends early")]
    CutOff,
    #[error("a name that is too long or no text")]
    BadName,
    #[error("channel {0} opened out of turn")]
    OutOfTurn(u64),
    #[error("more than {0} bytes on channels that are not open yet")]
    TooMuchQueued(usize),
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

/// One of our channels on a connection. The number of a closed channel may be used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChannelId(u64);

/// A channel that the remote asks for, by the remote's own number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RemoteId(u64);

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

/// A message that waits to be sent.
struct Outgoing {
    channel: u64,
    /// Its kind and its payload.
    body: Bytes,
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

impl Remote {
    /// Memory, in bytes, of a channel that waits for our answer.
    fn held(&self) -> usize {
        let Self::Asking { protocol, id, handshake, queued } = self else { return 0 };
        let messages: usize = queued.iter().map(|(_, one)| one.len() + QUEUED_OVERHEAD).sum();
        protocol.len() + id.len() + handshake.len() + QUEUED_OVERHEAD + messages
    }
}

/// The channels of one connection; see the module documentation.
#[derive(Default)]
pub(crate) struct Mux {
    local: BTreeMap<u64, Local>,
    remote: BTreeMap<u64, Remote>,
    /// The highest number the remote has used.
    highest: u64,
    /// Bytes held of channels that wait for our answer; see [`MAX_QUEUED`].
    queued: usize,
    trusted: bool,
    events: VecDeque<Event>,
    outgoing: VecDeque<Outgoing>,
    /// Bytes of `outgoing`.
    pending: usize,
    /// Messages of the control channel in `outgoing`.
    pending_control: usize,
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
        let mut body = BytesMut::new();
        put_uint(OPEN, &mut body);
        put_uint(number, &mut body);
        put_buffer(protocol.as_bytes(), &mut body);
        put_buffer(id, &mut body);
        body.extend_from_slice(handshake);
        self.put(CONTROL, body.freeze());
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
        self.queued = self.queued.saturating_sub(asking.held());
        if let Remote::Asking { handshake, queued, .. } = asking {
            self.events.push_back(Event::Opened { channel, handshake });
            for (kind, payload) in queued {
                self.events.push_back(Event::Message { channel, kind, payload });
            }
        }
    }

    /// Answers [`Event::Asked`]: refuses the channel.
    pub(crate) fn refuse(&mut self, remote: RemoteId) {
        if let Some(Remote::Asking { .. }) = self.remote.get(&remote.0)
            && let Some(asking) = self.remote.remove(&remote.0)
        {
            self.queued = self.queued.saturating_sub(asking.held());
            self.control(REJECT, remote.0);
        }
    }

    /// Sends a message. Returns false and sends nothing if the channel is not open on both sides or the
    /// message is too long.
    #[must_use]
    pub(crate) fn send(&mut self, channel: ChannelId, kind: u64, payload: &[u8]) -> bool {
        if !self.is_open(channel) || payload.len() > MAX_SENT {
            return false;
        }
        let mut body = BytesMut::with_capacity(payload.len() + 10);
        put_uint(kind, &mut body);
        body.extend_from_slice(payload);
        self.put(channel.0, body.freeze());
        true
    }

    /// Appends the frame of one message to `out`, before all messages that wait. False, and nothing
    /// appended, where [`Mux::send`] is false.
    #[must_use]
    pub(crate) fn write_message(
        &self,
        channel: ChannelId,
        kind: u64,
        payload: &[u8],
        out: &mut BytesMut,
    ) -> bool {
        let fits = self.is_open(channel) && payload.len() <= MAX_SENT;
        if fits {
            put_uint(channel.0, out);
            put_uint(kind, out);
            out.extend_from_slice(payload);
        }
        fits
    }

    fn is_open(&self, channel: ChannelId) -> bool {
        self.local.get(&channel.0).is_some_and(|local| local.remote.is_some())
    }

    fn put(&mut self, channel: u64, body: Bytes) {
        self.pending += body.len();
        self.pending_control += usize::from(channel == CONTROL);
        self.outgoing.push_back(Outgoing { channel, body });
    }

    /// The remote has shown that it knows a key of ours: from now on it may send long frames and hold
    /// more.
    pub(crate) fn trust(&mut self) {
        self.trusted = true;
    }

    fn max_frame(&self) -> usize {
        if self.trusted { MAX_FRAME } else { MAX_STRANGER_FRAME }
    }

    fn max_queued(&self) -> usize {
        if self.trusted { MAX_QUEUED } else { MAX_STRANGER_QUEUED }
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
        let mut body = BytesMut::new();
        put_uint(kind, &mut body);
        put_uint(number, &mut body);
        self.put(CONTROL, body.freeze());
    }

    pub(crate) fn next_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Appends the next frame for the encrypted connection to `out`; false if no message waits.
    pub(crate) fn write_frame(&mut self, out: &mut BytesMut) -> bool {
        let Some(Outgoing { mut channel, body }) = self.next_outgoing(usize::MAX) else {
            return false;
        };
        let first = (body.len() <= BATCHED).then(|| self.next_outgoing(BATCHED)).flatten();
        let Some(mut next) = first else {
            put_uint(channel, out);
            out.extend_from_slice(&body);
            return true;
        };
        let limit = out.len() + BATCH_BYTES;
        put_uint(CONTROL, out);
        put_uint(BATCH, out);
        put_uint(channel, out);
        put_buffer(&body, out);
        loop {
            if next.channel != channel {
                channel = next.channel;
                put_buffer(b"", out);
                put_uint(channel, out);
            }
            put_buffer(&next.body, out);
            if out.len() >= limit {
                return true;
            }
            match self.next_outgoing(BATCHED) {
                Some(one) => next = one,
                None => return true,
            }
        }
    }

    /// The first message that waits, if it has at most `most` bytes.
    fn next_outgoing(&mut self, most: usize) -> Option<Outgoing> {
        let next = self.outgoing.pop_front_if(|next| next.body.len() <= most)?;
        self.pending -= next.body.len();
        self.pending_control -= usize::from(next.channel == CONTROL);
        Some(next)
    }

    /// Whether a message waits to be sent.
    pub(crate) fn has_output(&self) -> bool {
        !self.outgoing.is_empty()
    }

    /// Bytes of messages that wait to be sent.
    pub(crate) fn pending_output(&self) -> usize {
        self.pending
    }

    /// How many messages of the control channel wait to be sent. The number grows if the remote causes
    /// answers and does not read them.
    pub(crate) fn pending_control(&self) -> usize {
        self.pending_control
    }

    /// Takes one message of the encrypted connection.
    ///
    /// # Errors
    /// Fails if the message is malformed or exceeds a limit; the caller must close the connection.
    pub(crate) fn receive(&mut self, mut frame: Bytes) -> Result<(), MuxError> {
        let (length, most) = (frame.len(), self.max_frame());
        if length > most {
            return Err(MuxError::TooLong { length, most });
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
        let most = self.max_queued();
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
                if self.queued > most {
                    return Err(MuxError::TooMuchQueued(most));
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
            Some(asking) => self.queued = self.queued.saturating_sub(asking.held()),
            None => {}
        }
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
        // One that we have opened too is bounded by the number of ours.
        let held = self.queued + asking.held();
        let full =
            channel.is_none() && (self.remote.len() >= MAX_REMOTE || held > self.max_queued());
        if full || payload.len() > MAX_HANDSHAKE {
            self.control(REJECT, number);
            return Ok(());
        }
        self.queued = held;
        self.remote.insert(number, asking);
        match channel {
            Some(channel) => self.pair(channel),
            None => self.events.push_back(Event::Asked { remote: RemoteId(number), protocol, id }),
        }
        Ok(())
    }
}
