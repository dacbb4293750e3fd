//! One side of one connection: bytes in, events out; calls in, bytes out.
//!
//! A core is usable once both sides have opened it and shown, with a capability bound to this
//! session, that they know its public key. Until the remote has shown that, nothing it could not
//! know is sent to it: a core we have not and a core whose key it does not know are refused with
//! the same bytes.
//!
//! Not here: when to give up waiting, how much to buffer for a slow reader (see
//! [`Session::pending_output`]), and what messages mean.

use bytes::{Buf, Bytes, BytesMut};

use super::channels::{Channel, Channels, Local, Remote};
use super::cipher::{NONCE_LENGTH, StreamCipher};
use super::error::ProtocolError;
use super::framing::{self, Front, Header, MAX_PAYLOAD, MAX_STRANGER_PAYLOAD};
use super::legacy::{self, kind};
use super::message::{Message, SessionEvent};
use super::noise::{Handshake, Role, StaticKeyPair};
use super::varint;
use hypermount_swarm::crypto::{DiscoveryKey, PublicKey, blake2b_keyed};

/// Payloads below this many bytes are copied out of the read buffer, so that a small one that is
/// kept does not keep the whole buffer. Larger ones are slices of it.
const COPIED_BELOW: usize = 4096;

/// What came of [`Session::open`].
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Opening {
    /// The Open is sent, or will be after the handshake; [`SessionEvent::Opened`] or
    /// [`SessionEvent::Closed`] follows.
    Waiting,
    /// The remote had opened the core before and knows its key: messages may be sent at once.
    Opened,
    /// Not opened. Either the remote, which had opened the core before, does not know its key (it
    /// has been answered as if we did not have the core), or there is no channel left.
    Refused,
}

/// See the module's description.
pub(crate) struct Session {
    stage: Stage,
    inbound: Inbound,
    outbound: Outbound,
    channels: Channels,
    /// Opened before the handshake was done, in order.
    queued: Vec<DiscoveryKey>,
    /// The remote has shown that it knows the key of a core of ours.
    acquainted: bool,
}

enum Stage {
    Handshaking(Box<Handshake>),
    Established(Box<Established>),
    /// The remote broke the protocol.
    Ended,
}

struct Established {
    transmit: [u8; 32],
    receive: [u8; 32],
}

impl Established {
    /// What proves to the remote that we know `key`.
    fn capability(&self, key: &PublicKey) -> [u8; 32] {
        capability(&self.receive, &self.transmit, key)
    }

    /// Whether the remote has proven that it knows `key`.
    fn verifies(&self, key: &PublicKey, claimed: Option<&[u8; 32]>) -> bool {
        let expected = capability(&self.transmit, &self.receive, key);
        // Does not stop at the first difference: how long it takes tells nothing.
        let difference =
            |claimed: &[u8; 32]| expected.iter().zip(claimed).fold(0, |all, (a, b)| all | (a ^ b));
        claimed.is_some_and(|claimed| difference(claimed) == 0)
    }
}

fn capability(first: &[u8; 32], second: &[u8; 32], key: &PublicKey) -> [u8; 32] {
    blake2b_keyed(first, &[b"hypercore capability", second, key.as_bytes()])
}

/// What has arrived and is not yet consumed, already decrypted once there is a cipher.
#[derive(Default)]
struct Inbound {
    bytes: BytesMut,
    cipher: Option<StreamCipher>,
}

impl Inbound {
    /// Takes all of `input`; without copying when nothing is left over or it is adjacent.
    fn append(&mut self, input: &mut BytesMut) {
        let mut fresh = input.split();
        if let Some(cipher) = &mut self.cipher {
            cipher.apply(&mut fresh);
        }
        if self.bytes.is_empty() {
            self.bytes = fresh;
        } else {
            self.bytes.unsplit(fresh);
        }
    }

    fn encrypt_from_here(&mut self, mut cipher: StreamCipher) {
        cipher.apply(&mut self.bytes);
        self.cipher = Some(cipher);
    }

    /// The next complete frame that is not a keep-alive; an error as soon as it is known to be
    /// longer than `max`.
    fn next_frame(&mut self, max: usize) -> Result<Option<(Header, Bytes)>, ProtocolError> {
        loop {
            match framing::front(&self.bytes)? {
                Front::Incomplete => return Ok(None),
                Front::KeepAlive { length } => {
                    self.bytes.advance(length);
                    // All that follow at once: there may be nothing else.
                    let zeros = self.bytes.iter().take_while(|byte| **byte == 0).count();
                    self.bytes.advance(zeros);
                }
                Front::Frame(header) if header.payload > max => {
                    return Err(ProtocolError::FrameTooLong { length: header.payload as u64, max });
                }
                Front::Frame(header) => {
                    let length = header.length + header.payload;
                    if self.bytes.len() < length {
                        return Ok(None);
                    }
                    let mut frame = self.bytes.split_to(length);
                    frame.advance(header.length);
                    return Ok(Some((header, frame.freeze())));
                }
            }
        }
    }
}

/// What is to be sent, already encrypted.
#[derive(Default)]
struct Outbound {
    bytes: BytesMut,
    cipher: Option<StreamCipher>,
}

impl Outbound {
    fn put(&mut self, channel: u32, kind: u8, message: &impl prost::Message) {
        self.put_with(channel, kind, message.encoded_len(), |out| message.encode_raw(out));
    }

    fn put_with(
        &mut self,
        channel: u32,
        kind: u8,
        payload: usize,
        encode: impl FnOnce(&mut BytesMut),
    ) {
        self.encrypted(|out| {
            framing::put_header(channel, kind, payload, out);
            encode(out);
        });
    }

    /// Appends what `write` appends, encrypted. Nothing before the handshake.
    fn encrypted(&mut self, write: impl FnOnce(&mut BytesMut)) {
        let Some(cipher) = &mut self.cipher else { return };
        let start = self.bytes.len();
        write(&mut self.bytes);
        if let Some(fresh) = self.bytes.get_mut(start..) {
            cipher.apply(fresh);
        }
    }
}

impl Session {
    /// A session on a fresh connection. `payload_nonce` starts our key stream and must be random.
    /// An initiator has output at once.
    ///
    /// # Errors
    /// When the operating system has no randomness for the ephemeral key.
    pub(crate) fn new(
        role: Role,
        keys: StaticKeyPair,
        payload_nonce: [u8; NONCE_LENGTH],
    ) -> Result<Self, ProtocolError> {
        Self::start(role, &keys, payload_nonce, None)
    }

    /// A session whose bytes can be foretold.
    #[cfg(test)]
    pub(crate) fn with_fixed_ephemeral(
        role: Role,
        keys: &StaticKeyPair,
        payload_nonce: [u8; NONCE_LENGTH],
        ephemeral: &[u8; 32],
    ) -> Result<Self, ProtocolError> {
        Self::start(role, keys, payload_nonce, Some(ephemeral))
    }

    /// Sends `plain` as if it were frames: what a remote that means harm would do.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn send_plain(&mut self, plain: &[u8]) {
        self.outbound.encrypted(|out| out.extend_from_slice(plain));
    }

    fn start(
        role: Role,
        keys: &StaticKeyPair,
        payload_nonce: [u8; NONCE_LENGTH],
        ephemeral: Option<&[u8; 32]>,
    ) -> Result<Self, ProtocolError> {
        let mut handshake = Handshake::new(role, keys, payload_nonce, ephemeral)?;
        let mut outbound = Outbound::default();
        handshake.write(&mut outbound.bytes)?;
        Ok(Self {
            stage: Stage::Handshaking(Box::new(handshake)),
            inbound: Inbound::default(),
            outbound,
            channels: Channels::new(),
            queued: Vec::new(),
            acquainted: false,
        })
    }

    /// Takes all of `input`; what it means is in [`Session::next_event`], which is to be asked until
    /// there is nothing before more is given: what is not decoded is kept here.
    pub(crate) fn take(&mut self, input: &mut BytesMut) {
        if !matches!(self.stage, Stage::Ended) {
            self.inbound.append(input);
        }
    }

    /// The next thing that the bytes taken so far mean. Decoded one at a time, since a few bytes can
    /// make an event of many. Large values in events share the memory of the bytes; incomplete messages
    /// are kept here, never more than one frame of them (see [`Session::pending_input`]).
    ///
    /// # Errors
    /// The remote broke the protocol: drop the connection. Every later call fails.
    pub(crate) fn next_event(&mut self) -> Result<Option<SessionEvent>, ProtocolError> {
        let event = self.decode();
        if event.is_err() {
            self.stage = Stage::Ended;
            self.inbound = Inbound::default();
            self.channels = Channels::new();
            self.queued.clear();
        }
        event
    }

    /// Takes all of `input` and tells everything that it means.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn receive(
        &mut self,
        input: &mut BytesMut,
    ) -> Result<Vec<SessionEvent>, ProtocolError> {
        self.take(input);
        std::iter::from_fn(|| self.next_event().transpose()).collect()
    }

    /// Opens the core, on our account or in answer to [`SessionEvent::RemoteOpen`]; in that case
    /// the remote's capability decides what comes of it. `extensions` are the names we understand
    /// on this core. Does nothing if the core is open already.
    ///
    /// Opening tells the remote that we know the core, unasked. Answer a `RemoteOpen` only while it
    /// [`stands`](Session::is_asked_for): after a `Closed` the same call would be an announcement of
    /// our own.
    pub(crate) fn open(&mut self, key: &PublicKey, extensions: &[&str]) -> Opening {
        let core = key.discovery_key();
        if matches!(self.stage, Stage::Ended) {
            return Opening::Refused;
        }
        match self.channels.get(&core) {
            Some(Channel { local: Some(_), remote: Some(_) }) => return Opening::Opened,
            Some(Channel { local: Some(_), remote: None }) => return Opening::Waiting,
            Some(Channel { local: None, remote }) => {
                let claimed = remote.as_ref().and_then(|remote| remote.capability);
                if !self.remote_knows(key, claimed.as_ref()) {
                    self.refuse(&core);
                    return Opening::Refused;
                }
            }
            None if self.channels.is_full() => return Opening::Refused,
            None => {}
        }
        let extensions = sorted(extensions);
        self.channels.insert_local(core, Local { key: *key, id: None, ack: false, extensions });
        if !matches!(self.stage, Stage::Established(_)) {
            self.queued.push(core);
            return Opening::Waiting;
        }
        if !self.send_open(&core) {
            return Opening::Refused;
        }
        if self.is_open(&core) {
            self.acquainted = true;
            self.send_options(&core, false);
            return Opening::Opened;
        }
        Opening::Waiting
    }

    /// Replaces what we announce for a core we have opened: whether stored blocks are to be
    /// acknowledged, and the names of extensions. False if we have not opened it.
    #[cfg(test)]
    pub(crate) fn set_options(
        &mut self,
        core: &DiscoveryKey,
        ack: bool,
        extensions: &[&str],
    ) -> bool {
        let Some(local) = self.channels.get_mut(core).and_then(|channel| channel.local.as_mut())
        else {
            return false;
        };
        local.ack = ack;
        local.extensions = sorted(extensions);
        self.send_options(core, true);
        true
    }

    /// Closes a core, whatever its state; no event follows. What the remote still sends on it is
    /// dropped. It can be opened again.
    pub(crate) fn close(&mut self, core: &DiscoveryKey) {
        match self.channels.get(core) {
            Some(Channel { local: Some(_), .. }) => {}
            _ => return self.refuse(core),
        }
        self.queued.retain(|queued| queued != core);
        let local = self.channels.remove(core).and_then(|channel| channel.local);
        if let Some(id) = local.and_then(|local| local.id) {
            self.outbound.put(id, kind::CLOSE, &legacy::Close::default());
        }
    }

    /// Answers [`SessionEvent::RemoteOpen`]: we do not have that core. Does nothing in any other
    /// state.
    pub(crate) fn refuse(&mut self, core: &DiscoveryKey) {
        if self.channels.get(core).is_some_and(|channel| channel.local.is_none()) {
            self.channels.remove(core);
            self.send_refusal(core);
        }
    }

    /// Sends a message about a core. False, and nothing sent, if the core is not open on both
    /// sides, if the message exceeds [`MAX_PAYLOAD`], or if it is of an extension that was not
    /// named when the core was opened.
    #[must_use]
    pub(crate) fn send(&mut self, core: &DiscoveryKey, message: Message) -> bool {
        let Some(Channel { local: Some(local), remote: Some(_) }) = self.channels.get(core) else {
            return false;
        };
        let Some(channel) = local.id else { return false };
        if let Message::Extension { name, payload } = message {
            let Some(id) = local.extensions.iter().position(|known| *known == name) else {
                return false;
            };
            return self.send_extension(channel, id as u64, &payload);
        }
        let Some((kind, message)) = legacy::encode_message(message) else { return false };
        let length = message.encoded_len();
        if length > MAX_PAYLOAD {
            return false;
        }
        self.outbound.put_with(channel, kind, length, |out| message.encode(out));
        true
    }

    /// Sends the empty frame that shows we are still here. Nothing during the handshake.
    pub(crate) fn keepalive(&mut self) {
        self.outbound.encrypted(framing::put_keepalive);
    }

    /// The bytes to be sent next, if there are any.
    pub(crate) fn take_output(&mut self) -> Option<Bytes> {
        (!self.outbound.bytes.is_empty()).then(|| self.outbound.bytes.split().freeze())
    }

    /// How many bytes [`Session::take_output`] would give. While this is large, do not call
    /// [`Session::next_event`]: the remote causes answers but does not read them.
    pub(crate) fn pending_output(&self) -> usize {
        self.outbound.bytes.len()
    }

    /// How many bytes are kept that are not decoded: once there is no event, of an incomplete frame.
    pub(crate) fn pending_input(&self) -> usize {
        self.inbound.bytes.len()
    }

    /// Whether a [`SessionEvent::RemoteOpen`] for the core still waits for its answer. The remote may
    /// have closed the core by the time the event is looked at.
    pub(crate) fn is_asked_for(&self, core: &DiscoveryKey) -> bool {
        matches!(self.channels.get(core), Some(Channel { local: None, remote: Some(_) }))
    }

    /// Whether messages about the core can be sent.
    pub(crate) fn is_open(&self, core: &DiscoveryKey) -> bool {
        matches!(self.channels.get(core), Some(Channel { local: Some(_), remote: Some(_) }))
    }

    fn established(&self) -> Option<&Established> {
        match &self.stage {
            Stage::Established(established) => Some(established),
            Stage::Handshaking(_) | Stage::Ended => None,
        }
    }

    fn remote_knows(&self, key: &PublicKey, claimed: Option<&[u8; 32]>) -> bool {
        self.established().is_some_and(|established| established.verifies(key, claimed))
    }
}

/// The receiving half.
impl Session {
    fn decode(&mut self) -> Result<Option<SessionEvent>, ProtocolError> {
        if matches!(self.stage, Stage::Ended) {
            return Err(ProtocolError::Ended);
        }
        let mut event = None;
        while let Stage::Handshaking(handshake) = &mut self.stage {
            if !handshake.read(&mut self.inbound.bytes)? {
                return Ok(None);
            }
            handshake.write(&mut self.outbound.bytes)?;
            if handshake.is_finished() {
                self.finish_handshake(&mut event)?;
            }
        }
        while event.is_none()
            && let Some((header, payload)) = self.inbound.next_frame(self.max_payload())?
        {
            self.on_frame(header, payload, &mut event)?;
        }
        Ok(event)
    }

    fn max_payload(&self) -> usize {
        if self.acquainted { MAX_PAYLOAD } else { MAX_STRANGER_PAYLOAD }
    }

    fn finish_handshake(&mut self, event: &mut Option<SessionEvent>) -> Result<(), ProtocolError> {
        let Stage::Handshaking(handshake) = &mut self.stage else { return Ok(()) };
        let nonce = *handshake.nonce();
        let secrets = handshake.finish()?;
        self.outbound.cipher = Some(StreamCipher::new(&secrets.transmit, &nonce));
        self.inbound.encrypt_from_here(StreamCipher::new(&secrets.receive, &secrets.remote_nonce));
        *event = Some(SessionEvent::Handshaken { remote: secrets.remote_static });
        self.stage = Stage::Established(Box::new(Established {
            transmit: secrets.transmit,
            receive: secrets.receive,
        }));
        for core in std::mem::take(&mut self.queued) {
            self.send_open(&core);
        }
        Ok(())
    }

    fn on_frame(
        &mut self,
        Header { channel, kind, .. }: Header,
        payload: Bytes,
        event: &mut Option<SessionEvent>,
    ) -> Result<(), ProtocolError> {
        match kind {
            11..=14 => return Ok(()),
            // About the whole stream; we have no extension there.
            kind::OPTIONS | kind::EXTENSION if channel == 0 => return Ok(()),
            kind::OPEN => return self.on_open(channel, payload, event),
            kind::CLOSE => return self.on_close(channel, payload, event),
            _ => {}
        }
        let Some(core) = self.channels.core_of(channel) else {
            if channel > 0 && self.channels.was_used(channel) {
                // Closed by us while this was under way.
                return Ok(());
            }
            return Err(ProtocolError::ChannelNeverOpened { channel, kind });
        };
        match kind {
            kind::OPTIONS => self.on_options(core, payload, event),
            kind::EXTENSION => self.on_extension(core, payload, event),
            _ => {
                let message = legacy::decode_message(kind, payload)?;
                if let Some(message) = message.filter(|_| self.is_open(&core)) {
                    let message = unpinned(message);
                    *event = Some(SessionEvent::Message { discovery_key: core, message });
                }
                Ok(())
            }
        }
    }

    fn on_open(
        &mut self,
        channel: u32,
        payload: Bytes,
        event: &mut Option<SessionEvent>,
    ) -> Result<(), ProtocolError> {
        let (core, capability) = legacy::decode_open(payload)?;
        self.channels.admit_remote(&core, channel)?;
        let remote = Remote { id: channel, capability, extensions: Vec::new() };
        let ours = self.channels.get(&core).and_then(|channel| channel.local.as_ref());
        let Some(key) = ours.map(|local| local.key) else {
            if self.channels.is_full() {
                self.send_refusal(&core);
            } else {
                self.channels.insert_remote(core, remote);
                *event = Some(SessionEvent::RemoteOpen { discovery_key: core });
            }
            return Ok(());
        };
        // Ending the connection tells that the core is ours, but so did our own Open.
        if !self.remote_knows(&key, capability.as_ref()) {
            return Err(ProtocolError::WrongCapability { discovery_key: core });
        }
        self.acquainted = true;
        self.channels.insert_remote(core, remote);
        self.send_options(&core, false);
        *event = Some(SessionEvent::Opened { discovery_key: core });
        Ok(())
    }

    fn on_close(
        &mut self,
        channel: u32,
        payload: Bytes,
        event: &mut Option<SessionEvent>,
    ) -> Result<(), ProtocolError> {
        let named = legacy::decode_close(payload)?;
        let core = self.channels.core_of(channel).or(named);
        let Some(core) = core else {
            if channel > 0 && self.channels.was_used(channel) {
                return Ok(());
            }
            return Err(ProtocolError::ChannelNeverOpened { channel, kind: kind::CLOSE });
        };
        self.channels.mark_used(channel);
        let Some(closed) = self.channels.remove(&core) else { return Ok(()) };
        if let Some(id) = closed.local.and_then(|local| local.id) {
            self.outbound.put(id, kind::CLOSE, &legacy::Close::default());
        }
        *event = Some(SessionEvent::Closed { discovery_key: core });
        Ok(())
    }

    fn on_options(
        &mut self,
        core: DiscoveryKey,
        payload: Bytes,
        event: &mut Option<SessionEvent>,
    ) -> Result<(), ProtocolError> {
        let (ack, extensions) = legacy::decode_options(payload)?;
        let Some(Channel { local: Some(_), remote: Some(remote) }) = self.channels.get_mut(&core)
        else {
            return Ok(());
        };
        remote.extensions.clone_from(&extensions);
        *event = Some(SessionEvent::Options { discovery_key: core, ack, extensions });
        Ok(())
    }

    fn on_extension(
        &mut self,
        core: DiscoveryKey,
        payload: Bytes,
        event: &mut Option<SessionEvent>,
    ) -> Result<(), ProtocolError> {
        let (id, taken) = varint::read_whole(&payload, "extension message")?;
        let Some(Channel { local: Some(local), remote: Some(remote) }) = self.channels.get(&core)
        else {
            return Ok(());
        };
        let name = usize::try_from(id).ok().and_then(|id| remote.extensions.get(id));
        if let Some(name) = name.filter(|name| local.extensions.contains(name)) {
            let name = name.clone();
            let message = unpinned(Message::Extension { name, payload: payload.slice(taken..) });
            *event = Some(SessionEvent::Message { discovery_key: core, message });
        }
        Ok(())
    }
}

/// The sending half.
impl Session {
    /// Gives our side of the channel its number and sends the Open. False, and the channel gone,
    /// when there is no number left.
    fn send_open(&mut self, core: &DiscoveryKey) -> bool {
        let Stage::Established(established) = &self.stage else { return false };
        let Some(id) = self.channels.allocate() else {
            self.channels.remove(core);
            return false;
        };
        let local = self.channels.get_mut(core).and_then(|channel| channel.local.as_mut());
        let Some(local) = local else { return false };
        local.id = Some(id);
        let capability = established.capability(&local.key);
        let open = legacy::Open {
            discovery_key: Some(Bytes::copy_from_slice(core.as_bytes())),
            capability: Some(Bytes::copy_from_slice(&capability)),
        };
        self.outbound.put(id, kind::OPEN, &open);
        true
    }

    /// Announces our options on a channel that is open on both sides; `always`, even if there is
    /// nothing in them.
    fn send_options(&mut self, core: &DiscoveryKey, always: bool) {
        let Some(Channel { local: Some(local), remote: Some(_) }) = self.channels.get(core) else {
            return;
        };
        let Some(id) = local.id else { return };
        if always || local.ack || !local.extensions.is_empty() {
            let extensions = local.extensions.clone();
            let options = legacy::Options { extensions, ack: Some(local.ack) };
            self.outbound.put(id, kind::OPTIONS, &options);
        }
    }

    fn send_refusal(&mut self, core: &DiscoveryKey) {
        // The number is spent on this one message.
        let Some(id) = self.channels.allocate() else { return };
        let discovery_key = Some(Bytes::copy_from_slice(core.as_bytes()));
        self.outbound.put(id, kind::CLOSE, &legacy::Close { discovery_key });
    }

    fn send_extension(&mut self, channel: u32, id: u64, payload: &[u8]) -> bool {
        let length = varint::length(id) + payload.len();
        if length > MAX_PAYLOAD {
            return false;
        }
        self.outbound.put_with(channel, kind::EXTENSION, length, |out| {
            varint::write(id, out);
            out.extend_from_slice(payload);
        });
        true
    }
}

/// In the order the reference sorts names, by UTF-16 code units, each once.
fn sorted(names: &[&str]) -> Vec<String> {
    let mut names: Vec<String> = names.iter().map(|name| name.to_string()).collect();
    names.sort_by(|a, b| a.encode_utf16().cmp(b.encode_utf16()));
    names.dedup();
    names
}

/// See [`COPIED_BELOW`].
fn unpinned(mut message: Message) -> Message {
    let bytes = match &mut message {
        Message::Have { bitfield, .. } => bitfield.as_mut(),
        Message::Data { value, .. } => value.as_mut(),
        Message::Extension { payload, .. } => Some(payload),
        _ => None,
    };
    if let Some(bytes) = bytes.filter(|bytes| bytes.len() < COPIED_BELOW) {
        *bytes = Bytes::copy_from_slice(bytes);
    }
    message
}

#[cfg(test)]
#[path = "replay_tests.rs"]
mod replay_tests;
#[cfg(test)]
#[path = "session_tests.rs"]
mod tests;
