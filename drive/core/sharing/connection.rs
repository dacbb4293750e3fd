//! One connection: bytes to and from the session, messages to and from the cores' replicators, and
//! the answers to what the peer requests.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::hints::Hints;
use super::replication::Replication;
use super::{Command, Connected, Inner, Share};
use crate::hypercore::{Core, CoreName, Dialect, Given};
use crate::replicate::{Event, PeerId, Upload};
use crate::wire::extension;
use crate::wire::message::{Message, SessionEvent};
use crate::wire::noise::Role;
use crate::wire::session::{Opening, Session};
use hypermount_swarm::ConnectionSlot;
use hypermount_swarm::crypto::DiscoveryKey;
use hypermount_swarm::rate::RateLimit;

/// The handshake must be done by then.
pub(super) const HANDSHAKE_WITHIN: Duration = Duration::from_secs(10);
/// A peer that has opened no core both sides know by then is of no use.
pub(super) const CORE_WITHIN: Duration = Duration::from_secs(30);
/// Nothing at all received for this long: the connection is dead (the reference's timeout).
pub(super) const IDLE_AFTER: Duration = Duration::from_secs(20);
/// A keepalive is sent when nothing else was for this long.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(10);
/// A peer must take at least some of what is sent to it within this time.
const WRITE_WITHIN: Duration = Duration::from_secs(60);
/// Bytes read from the socket at once.
const READ_BYTES: usize = 128 * 1024;
/// The same, of a peer that has shown no key of ours yet.
const STRANGER_READ_BYTES: usize = 8 * 1024;
/// Bytes that the session itself answers with (refusals of cores above all), to a peer that does not
/// read them: nothing more is received beyond.
pub(super) const UNREAD_BYTES: usize = 256 * 1024;
/// The same, of a peer that has shown no key of ours yet: more than the refusals of all cores that may be
/// open at once, so that two honest peers never wait for each other to read.
const STRANGER_UNREAD_BYTES: usize = 48 * 1024;
/// Events handled before something else may have its turn.
const EVENTS_AT_ONCE: usize = 256;
/// With a limit, so much less flows at once that something does several times a second, if it can.
const HELPINGS_PER_SECOND: u64 = 4;
const SMALLEST_HELPING_BYTES: usize = 4096;
/// The factor by which timeouts for silence and slowness are longer with a limit.
const LIMITED_PATIENCE: u32 = 3;
/// Bytes received before the others have their turn, timers above all: a peer that sends without
/// end must not keep them.
const YIELD_AFTER: usize = 256 * 1024;
/// Requests are answered while less than this waits to be written: what we ask for ourselves has to
/// wait behind it.
pub(super) const OUTPUT_BYTES: usize = 64 * 1024;
/// Bytes that the system may hold back unsent, for the same reason.
#[cfg(target_os = "linux")]
const UNSENT_BYTES: u32 = 32 * 1024;

/// A core that both sides have opened, or that we have offered to.
struct Channel {
    /// The upload's handle of the core; dropped before it.
    _given: Given,
    upload: Upload,
    replication: Replication,
    opened: bool,
}

struct Connection<'a> {
    sharing: &'a Arc<Inner>,
    id: PeerId,
    slot: &'a ConnectionSlot,
    /// How the cores' replicators reach this connection.
    connected: Connected,
    session: Session,
    channels: HashMap<DiscoveryKey, Channel>,
    hints: Hints,
    /// It is a stream in a channel of a connection of Hyperswarm 4.
    carried: bool,
    handshaken: bool,
    output: Bytes,
    /// Bytes of the output that what was received has caused and that the peer has not read.
    unread: usize,
    /// There may be whole messages among what was received and is not decoded.
    undecoded: bool,
    /// Answers are among the output, which a limit holds up; what we ask for ourselves is not.
    answering: bool,
    started: Instant,
    last_received: Instant,
    last_sent: Instant,
    /// When answers may go on that a limit holds up.
    resume: Option<Instant>,
}

/// What carries the bytes of a session.
pub(super) enum Bearer {
    Tcp(TcpStream),
    /// A channel of a connection of Hyperswarm 4.
    Carried(DuplexStream),
}

/// Runs the connection to its end: why it ended, and whether the peer lied.
pub(super) async fn run(
    sharing: &Arc<Inner>,
    slot: &ConnectionSlot,
    bearer: Bearer,
    role: Role,
    nonce: [u8; 24],
    connected: Connected,
    commands: &mut mpsc::Receiver<Command>,
) -> (String, bool) {
    let session = match Session::new(role, sharing.keys.clone(), nonce) {
        Ok(session) => session,
        Err(error) => return (error.to_string(), false),
    };
    let (id, now) = (slot.id(), Instant::now());
    let mut connection = Connection {
        sharing,
        id: PeerId(id),
        slot,
        connected,
        session,
        channels: HashMap::new(),
        hints: Hints::new(Arc::clone(&sharing.hint_turns), sharing.options.answer, now),
        carried: matches!(bearer, Bearer::Carried(_)),
        handshaken: false,
        output: Bytes::new(),
        unread: 0,
        undecoded: false,
        answering: false,
        started: now,
        last_received: now,
        last_sent: now,
        resume: None,
    };
    // Our own too: another copy of them may be written elsewhere, which only its peers can tell.
    for core in sharing.store.cores() {
        if core.dialect() == Dialect::Legacy {
            connection.offer(core).await;
        }
    }
    let ending = match bearer {
        Bearer::Tcp(mut stream) => {
            if let Err(error) = set_options(&stream) {
                log::debug!("peer {}: {error}", slot.address());
            }
            let (reader, writer) = stream.split();
            connection.talk(reader, writer, commands).await
        }
        Bearer::Carried(stream) => {
            let (reader, writer) = tokio::io::split(stream);
            connection.talk(reader, writer, commands).await
        }
    };
    for channel in connection.channels.into_values().filter(|channel| channel.opened) {
        channel.replication.deliver(Event::Closed { peer: PeerId(id) }, 0).await;
    }
    ending
}

impl Connection<'_> {
    async fn talk(
        &mut self,
        mut reader: impl AsyncRead + Unpin,
        mut writer: impl AsyncWrite + Unpin,
        commands: &mut mpsc::Receiver<Command>,
    ) -> (String, bool) {
        let mut input = BytesMut::new();
        let mut ending = self.slot.ending();
        let mut unyielding = 0;
        loop {
            if let Err(ending) = self.decode().await {
                return ending;
            }
            self.fill_output();
            let may_receive = self.may_receive();
            let may_read = may_receive && !self.undecoded;
            let most = if self.opened() > 0 { READ_BYTES } else { STRANGER_READ_BYTES };
            if may_read {
                input.reserve(most);
            }
            let deadline = self.deadline();
            let has_output = !self.output.is_empty();
            let rates = self.slot.rates();
            let read = async {
                rates.down.ready().await;
                let most = helping(rates.down.limit()).min(most);
                (&mut reader).take(most as u64).read_buf(&mut input).await
            };
            let write = async {
                if self.answering {
                    rates.up.ready().await;
                }
                let most = helping(rates.up.limit()).min(self.output.len());
                writer.write(self.output.get(..most).unwrap_or_default()).await
            };
            tokio::select! {
                read = read, if may_read => match read {
                    Ok(0) => return ("closed the connection".into(), false),
                    Ok(count) => {
                        self.count_received(count);
                        self.session.take(&mut input);
                        self.undecoded = true;
                        unyielding += count;
                        if unyielding >= YIELD_AFTER {
                            unyielding = 0;
                            tokio::task::yield_now().await;
                        }
                    }
                    Err(error) => return (format!("connection lost: {error}"), false),
                },
                written = write, if has_output => match written {
                    Ok(count) => {
                        self.output.advance(count);
                        self.count_sent(count);
                    }
                    Err(error) => return (format!("connection lost: {error}"), false),
                },
                (core, answers) = self.hints.answered(), if !has_output => {
                    if let Some(channel) = self.channels.get_mut(&core) {
                        channel.upload.hint_answered(answers);
                    }
                }
                Some(command) = commands.recv() => self.command(command).await,
                () = tokio::task::yield_now(), if may_receive && self.undecoded => {}
                ended = ending.ended() => return (ended.reason, ended.lied),
                () = tokio::time::sleep_until(deadline) => if let Err(reason) = self.expired() {
                    return (reason, false);
                },
            }
        }
    }

    fn count_received(&mut self, count: usize) {
        self.last_received = Instant::now();
        self.slot.received(count);
    }

    fn count_sent(&mut self, count: usize) {
        self.last_sent = Instant::now();
        self.unread = self.unread.saturating_sub(count);
        self.slot.sent(count);
    }

    /// The earliest instant at which [`Connection::expired`] has something to do.
    fn deadline(&self) -> Instant {
        let mut deadline = self.idle_at();
        if !self.handshaken {
            deadline = deadline.min(self.started + HANDSHAKE_WITHIN);
        } else if self.output.is_empty() {
            deadline = deadline.min(self.last_sent + KEEPALIVE_AFTER);
        } else {
            deadline = deadline.min(self.last_sent + self.patience(WRITE_WITHIN));
        }
        if self.opened() == 0 {
            deadline = deadline.min(self.started + CORE_WITHIN);
        }
        self.resume.map_or(deadline, |resume| deadline.min(resume))
    }

    /// When the peer has been silent for too long. Later while we do not listen: then it is too slow in
    /// reading, for which there is another deadline.
    fn idle_at(&self) -> Instant {
        let listening = self.may_receive() && !self.undecoded;
        let patience = if listening { IDLE_AFTER } else { IDLE_AFTER + WRITE_WITHIN };
        self.last_received + self.patience(patience)
    }

    /// How long to put up with nothing, which may be our own doing when there are limits.
    fn patience(&self, usual: Duration) -> Duration {
        let rates = self.slot.rates();
        let limited = rates.up.limit().is_some() || rates.down.limit().is_some();
        if limited { usual * LIMITED_PATIENCE } else { usual }
    }

    fn expired(&mut self) -> Result<(), String> {
        let now = Instant::now();
        if !self.handshaken && now >= self.started + HANDSHAKE_WITHIN {
            return Err(format!("no handshake within {HANDSHAKE_WITHIN:?}"));
        }
        if now >= self.idle_at() {
            return Err(format!("silent for {IDLE_AFTER:?}"));
        }
        if self.opened() == 0 && now >= self.started + CORE_WITHIN {
            return Err("shares no drive with us".into());
        }
        if !self.output.is_empty() && now >= self.last_sent + self.patience(WRITE_WITHIN) {
            return Err(format!("took nothing for {WRITE_WITHIN:?}"));
        }
        if self.handshaken && now >= self.last_sent + KEEPALIVE_AFTER {
            self.session.keepalive();
            self.last_sent = now;
        }
        Ok(())
    }

    fn opened(&self) -> usize {
        self.slot.channels()
    }

    /// Moves encoded bytes to the socket's buffer, answering requests while there is room: what is
    /// ours comes first.
    fn fill_output(&mut self) {
        if !self.output.is_empty() {
            return;
        }
        self.resume = None;
        self.answering = false;
        loop {
            let mut answered = false;
            for (key, channel) in &mut self.channels {
                if self.session.pending_output() >= OUTPUT_BYTES {
                    break;
                }
                // What we only read ourselves is asked for and not given.
                let terms = channel.replication.terms();
                if channel.upload.is_idle() || !terms.is_shared() {
                    continue;
                }
                if let Some(at) = terms.ready_at() {
                    self.resume = Some(self.resume.map_or(at, |resume| resume.min(at)));
                    continue;
                }
                if let Some(answer) = channel.upload.next_answer() {
                    let before = self.session.pending_output();
                    answered |= self.session.send(key, answer);
                    terms.spend(self.session.pending_output().saturating_sub(before));
                }
            }
            self.answering |= answered;
            if !answered || self.session.pending_output() >= OUTPUT_BYTES {
                break;
            }
        }
        if let Some(output) = self.session.take_output() {
            if self.session.pending_output() == 0 {
                self.last_sent = Instant::now();
            }
            self.output = output;
        }
    }

    /// Whether what a peer sends may be looked at: not while it does not read what that has caused.
    fn may_receive(&self) -> bool {
        let most = if self.opened() > 0 { UNREAD_BYTES } else { STRANGER_UNREAD_BYTES };
        self.unread < most
    }

    /// Handles what was received, message by message.
    async fn decode(&mut self) -> Result<(), (String, bool)> {
        let broken = |error| (format!("broke the protocol: {error}"), false);
        for _ in 0..EVENTS_AT_ONCE {
            if !self.undecoded || !self.may_receive() {
                break;
            }
            let before = self.session.pending_output();
            match self.session.next_event().map_err(broken)? {
                Some(event) => self.handle_event(event).await?,
                None => self.undecoded = false,
            }
            self.unread += self.session.pending_output().saturating_sub(before);
        }
        self.slot.half_received(self.session.pending_input());
        Ok(())
    }

    async fn handle_event(&mut self, event: SessionEvent) -> Result<(), (String, bool)> {
        match event {
            SessionEvent::Handshaken { remote } => {
                self.handshaken = true;
                // The connection may be needed for cores of the other kind, whose messages no other
                // connection to this peer carries.
                let needed = self.carried && self.slot.channels() > 0;
                if !needed {
                    self.slot.identified(remote).map_err(|reason| (reason, false))?;
                }
            }
            // Answered only while it stands: else the answer would tell, unasked, what we have. It
            // is open already if the remote opened, closed and opened it again in one breath.
            SessionEvent::RemoteOpen { discovery_key } => {
                let stands = self.session.is_asked_for(&discovery_key)
                    || self.session.is_open(&discovery_key);
                if stands {
                    let name = CoreName { dialect: Dialect::Legacy, discovery_key };
                    match self.sharing.shared(&name) {
                        Some(core) => self.open(core).await,
                        None => self.session.refuse(&discovery_key),
                    }
                }
            }
            SessionEvent::Opened { discovery_key } => self.channel_opened(&discovery_key).await,
            SessionEvent::Options { discovery_key, extensions, .. } => {
                let event = Event::Extensions { peer: self.id, names: extensions };
                self.deliver(&discovery_key, event, 0).await;
            }
            SessionEvent::Message { discovery_key, message } => {
                self.message(discovery_key, message).await?;
            }
            SessionEvent::Closed { discovery_key } => self.channel_closed(&discovery_key).await,
        }
        Ok(())
    }

    async fn channel_opened(&mut self, key: &DiscoveryKey) {
        let Some(channel) = self.channels.get_mut(key).filter(|channel| !channel.opened) else {
            return;
        };
        if !self.slot.admit() {
            return self.slot.handle().end("there is no place for another peer".into(), false);
        }
        channel.opened = true;
        let event = Event::Opened { peer: self.id, name: self.slot.address().to_string() };
        channel.replication.open(event, self.connected.clone()).await;
    }

    async fn channel_closed(&mut self, key: &DiscoveryKey) {
        if let Some(channel) = self.channels.remove(key)
            && channel.opened
        {
            self.slot.channel_closed();
            channel.replication.deliver(Event::Closed { peer: self.id }, 0).await;
        }
    }

    async fn message(&mut self, key: DiscoveryKey, message: Message) -> Result<(), (String, bool)> {
        let Some(channel) = self.channels.get_mut(&key) else { return Ok(()) };
        if channel.upload.received(&message).is_err() {
            return Err(("asked for too much at once".into(), false));
        }
        let size = match &message {
            Message::Want { .. } => {
                self.deliver(&key, Event::Subscribed { peer: self.id }, 0).await;
                return Ok(());
            }
            Message::Request { .. } | Message::Cancel { .. } | Message::Unwant { .. } => {
                return Ok(());
            }
            Message::Data { value, nodes, .. } => {
                value.as_ref().map_or(0, Bytes::len) + size_of_val(nodes.as_slice())
            }
            Message::Have { bitfield, .. } => bitfield.as_ref().map_or(0, Bytes::len),
            Message::Extension { payload, .. } => {
                // Only registered names arrive here, and we register one.
                if channel.replication.terms().is_shared() {
                    self.hints.received(channel.upload.core(), payload);
                }
                payload.len()
            }
            _ => 0,
        };
        self.deliver(&key, Event::Received { peer: self.id, message }, size).await;
        Ok(())
    }

    async fn deliver(&self, key: &DiscoveryKey, event: Event, bytes: usize) {
        if let Some(channel) = self.channels.get(key) {
            channel.replication.deliver(event, bytes).await;
        }
    }

    async fn command(&mut self, command: Command) {
        match command {
            Command::Open(core) => self.offer(core).await,
            Command::Close(key) => {
                self.session.close(&key);
                self.channel_closed(&key).await;
            }
            // Of no use in protocol 8.
            Command::Grown(_) | Command::AskForHistory(_) | Command::ProveHistory(_) => {}
            Command::Send(key, message) => {
                // Nothing is lost if the channel has closed meanwhile: the replicator was told.
                let _ = self.session.send(&key, message);
            }
        }
    }

    /// Asks the peer for a core. A peer that dials a server learns of no core by that.
    async fn offer(&mut self, core: Core) {
        let asked = match self.sharing.options.share {
            Share::Opened => true,
            Share::Chosen => self.sharing.shares(core.discovery_key()),
            Share::Store => false,
        };
        if !self.slot.is_incoming() || asked {
            self.open(core).await;
        }
    }

    async fn open(&mut self, core: Core) {
        let key = *core.discovery_key();
        let opening = self.session.open(core.key(), &[extension::NAME]);
        if opening == Opening::Refused {
            return;
        }
        self.channels.entry(key).or_insert_with(|| {
            let upload = Upload::new(core.clone());
            let replication = self.sharing.replication(&core);
            Channel { _given: core.given_by(1), upload, replication, opened: false }
        });
        if opening == Opening::Opened {
            self.channel_opened(&key).await;
        }
    }
}

/// Small messages leave at once, and what waits to leave can still be preceded by something else.
fn set_options(stream: &TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    #[cfg(target_os = "linux")]
    socket2::SockRef::from(stream).set_tcp_notsent_lowat(UNSENT_BYTES)?;
    Ok(())
}

/// How many bytes may flow at once.
fn helping(limit: RateLimit) -> usize {
    let Some(limit) = limit else { return usize::MAX };
    let share = usize::try_from(limit / HELPINGS_PER_SECOND).unwrap_or(usize::MAX);
    share.max(SMALLEST_HELPING_BYTES)
}
