//! A connection of Hyperswarm 4: a channel of `hypercore/alpha` for each core of Hypercore 10 and 11, and, between
//! two hypermounts, the stream of hypercore-protocol 8 for the others.
//!
//! Not here: what the messages of a channel mean (`replicate/exchange.rs`), and the bytes on the connection
//! (`hypermount_swarm::Channels`).

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::connection::{Bearer, CORE_WITHIN, OUTPUT_BYTES, UNREAD_BYTES};
use super::hints::Hints;
use super::replication::Replication;
use super::{COMMANDS, Command, Connected, Entry, Inner, Share};
use crate::hypercore::{Core, CoreName, Dialect, Given, ReceivedProof, Side, capability};
use crate::replicate::{Event, Exchange, ModernUpload, Outcome, PeerId};
use crate::wire::bee_extension;
use crate::wire::modern::message::{Decoder, Handshake, Message};
use hypermount_swarm::crypto::DiscoveryKey;
use hypermount_swarm::{ChannelEvent, ChannelId, Channels, ConnectionSlot, RemoteId, Transport};

/// Names of the protocol; the second one is used by peers that know no other.
const PROTOCOL: &str = "hypercore/alpha";
const ALIAS: &str = "hypercore";
/// Bytes of the frame around a message, for the traffic that is counted.
const FRAME: usize = 24;

type Ending = (String, bool);
/// The stream of hypercore-protocol 8, run to its end.
type Legacy<'a> = Pin<Box<dyn Future<Output = Ending> + Send + 'a>>;

/// A core that we have opened on the connection.
struct Channel {
    /// The upload's handle of the core; dropped before it.
    _given: Given,
    upload: ModernUpload,
    replication: Replication,
    decoder: Decoder,
    /// Once both sides have opened the core.
    exchange: Option<Exchange>,
}

struct Connection<'a> {
    sharing: &'a Arc<Inner>,
    slot: &'a ConnectionSlot,
    id: PeerId,
    connected: Connected,
    channels: Channels,
    cores: HashMap<ChannelId, Channel>,
    /// The channel of each core in `cores`.
    by_core: HashMap<DiscoveryKey, ChannelId>,
    hints: Hints,
    /// When answers may go on that a limit holds up.
    resume: Option<Instant>,
    started: Instant,
}

/// Runs the connection to its end: why it ended, and whether the peer lied.
pub(super) async fn run(sharing: &Arc<Inner>, slot: &ConnectionSlot, channels: Channels) -> Ending {
    let (commands, mut receiver) = mpsc::channel(COMMANDS);
    let handle = slot.handle().clone();
    let connected = Connected { dialect: Dialect::Modern, commands, handle };
    let _entry = Entry::new(sharing, slot.id(), connected.clone());
    let mut connection = Connection {
        sharing,
        slot,
        id: PeerId(slot.id()),
        connected,
        channels,
        cores: HashMap::new(),
        by_core: HashMap::new(),
        hints: Hints::new(Arc::clone(&sharing.hint_turns), sharing.options.answer, Instant::now()),
        resume: None,
        started: Instant::now(),
    };
    for core in sharing.store.cores() {
        connection.offer(core).await;
    }
    let ending = connection.talk(&mut receiver).await;
    log::debug!("peer {}: {}", slot.address(), ending.0);
    let Connection { cores, channels, id, .. } = connection;
    for channel in cores.into_values().filter(|channel| channel.exchange.is_some()) {
        channel.replication.deliver(Event::Closed { peer: id }, 0).await;
    }
    channels.end().await;
    ending
}

/// Resolves when the stream of hypercore-protocol 8 ends; never without one. Can be dropped and called again.
async fn ended_legacy(legacy: &mut Option<Legacy<'_>>) -> Ending {
    match legacy {
        Some(legacy) => legacy.await,
        None => std::future::pending().await,
    }
}

impl Connection<'_> {
    async fn talk(&mut self, commands: &mut mpsc::Receiver<Command>) -> Ending {
        let mut ending = self.slot.ending();
        let (sharing, slot) = (self.sharing, self.slot);
        let mut legacy: Option<Legacy<'_>> = None;
        loop {
            if let Err(ending) = self.fill_output() {
                return ending;
            }
            self.tell_terms();
            let slow = self.slot.rates().down.ready_at();
            let reading = slow.is_none() && self.channels.pending_output() < UNREAD_BYTES;
            let deadline = self.deadline(legacy.is_some(), slow);
            let event = tokio::select! {
                event = self.channels.next(reading) => event,
                (core, answers) = self.hints.answered() => {
                    self.hint_answered(&core, answers);
                    continue;
                }
                Some(command) = commands.recv() => {
                    self.command(command).await;
                    continue;
                }
                ended = ended_legacy(&mut legacy) => {
                    legacy = None;
                    if self.cores.is_empty() {
                        return ended;
                    }
                    continue;
                }
                ended = ending.ended() => {
                    // What was to be said before the end, as the proof of a conflict.
                    while let Ok(command) = commands.try_recv() {
                        self.command(command).await;
                    }
                    return (ended.reason, ended.lied);
                }
                () = hypermount_swarm::wait_until(deadline) => {
                    if self.is_useless(legacy.is_some()) {
                        return ("shares no drive with us".into(), false);
                    }
                    continue;
                }
            };
            match event {
                // By TCP the address is tried with protocol 8 as well: a second stream to the same peer would have
                // one of both connections ended, perhaps this one, whose channels the other does not carry.
                Ok(ChannelEvent::Carried { stream }) if slot.transport() == Transport::Tcp => {
                    drop(stream);
                }
                Ok(ChannelEvent::Carried { stream }) => {
                    legacy = Some(Box::pin(sharing.run_protocol_8(slot, Bearer::Carried(stream))));
                }
                Ok(ChannelEvent::NotCarried) => {
                    if let Err(reason) = self.slot.identified(self.channels.remote_key()) {
                        return (reason, false);
                    }
                }
                Ok(event) => {
                    if let Err(ending) = self.handle(event).await {
                        return ending;
                    }
                    // One read from the socket can bring thousands of messages. Other tasks go on between
                    // them, and the runtime can stop.
                    tokio::task::coop::consume_budget().await;
                }
                Err(error) => return (error.to_string(), false),
            }
        }
    }

    /// Tells the peer of cores that are given to peers since, or no longer.
    fn tell_terms(&mut self) {
        let now = Instant::now();
        for (id, channel) in &mut self.cores {
            let shared = channel.replication.terms().is_shared();
            let Some(exchange) = channel.exchange.as_mut() else { continue };
            if exchange.is_uploading() == shared {
                continue;
            }
            for outcome in exchange.changed(shared, now) {
                if let Outcome::Send(message) = outcome {
                    send(&mut self.channels, self.slot, *id, &message);
                }
            }
            if shared {
                for message in exchange.greet() {
                    send(&mut self.channels, self.slot, *id, &message);
                }
            }
        }
    }

    fn is_useless(&self, legacy: bool) -> bool {
        let used = legacy || self.cores.values().any(|channel| channel.exchange.is_some());
        !used && Instant::now() >= self.started + CORE_WITHIN
    }

    /// When there is something to do although nothing happens.
    fn deadline(&self, legacy: bool, slow: Option<Instant>) -> Option<Instant> {
        let useless = self.started + CORE_WITHIN;
        let opened = legacy || self.cores.values().any(|channel| channel.exchange.is_some());
        let useless = (!opened).then_some(useless);
        self.resume.into_iter().chain(useless).chain(slow).min()
    }

    /// Answers requests while there is room: what we ask for ourselves has to wait behind it.
    fn fill_output(&mut self) -> Result<(), Ending> {
        self.resume = None;
        let mut resume = self.slot.rates().up.ready_at();
        while resume.is_none() && self.channels.pending_output() < OUTPUT_BYTES {
            let mut answered = false;
            for (id, channel) in &mut self.cores {
                if channel.exchange.is_none() || channel.upload.is_idle() {
                    continue;
                }
                let terms = channel.replication.terms();
                if !terms.is_shared() {
                    for refusal in channel.upload.refuse_all() {
                        send(&mut self.channels, self.slot, *id, &refusal);
                    }
                    continue;
                }
                if let Some(at) = terms.ready_at() {
                    self.resume = Some(self.resume.map_or(at, |resume| resume.min(at)));
                    continue;
                }
                if let Some(answer) = channel.upload.next_answer() {
                    if channel.upload.is_abused() {
                        return Err(("makes requests that no core can answer".into(), true));
                    }
                    let sent = send(&mut self.channels, self.slot, *id, &answer);
                    terms.spend(sent);
                    answered = true;
                }
            }
            if !answered {
                return Ok(());
            }
            resume = self.slot.rates().up.ready_at();
        }
        if let Some(at) = resume {
            self.resume = Some(self.resume.map_or(at, |resume| resume.min(at)));
        }
        Ok(())
    }

    async fn handle(&mut self, event: ChannelEvent) -> Result<(), Ending> {
        match event {
            ChannelEvent::Asked { remote, protocol, id } => {
                self.asked(remote, &protocol, &id);
                Ok(())
            }
            ChannelEvent::Opened { channel, handshake } => self.opened(channel, handshake).await,
            ChannelEvent::Closed { channel } => {
                self.closed(channel).await;
                Ok(())
            }
            ChannelEvent::Message { channel, kind, payload } => {
                self.slot.received(payload.len() + FRAME);
                self.slot.half_received(self.channels.half_received());
                self.message(channel, kind, payload).await
            }
            ChannelEvent::Drained | ChannelEvent::Carried { .. } | ChannelEvent::NotCarried => {
                Ok(())
            }
        }
    }

    fn asked(&mut self, remote: RemoteId, protocol: &str, id: &[u8]) {
        let discovery_key = DiscoveryKey::from_slice(id);
        let core = discovery_key.filter(|_| protocol == PROTOCOL || protocol == ALIAS);
        let name = |discovery_key| CoreName { dialect: Dialect::Modern, discovery_key };
        match core.and_then(|key| self.sharing.shared(&name(key))) {
            Some(core) => self.open(protocol, core),
            None => self.channels.refuse(remote),
        }
    }

    /// Asks the peer for a core. A peer that dials a server learns of no core by that.
    async fn offer(&mut self, core: Core) {
        if core.dialect() != Dialect::Modern || self.by_core.contains_key(core.discovery_key()) {
            return;
        }
        let asked = match self.sharing.options.share {
            Share::Opened => true,
            Share::Chosen => self.sharing.shares(core.discovery_key()),
            Share::Store => false,
        };
        if !self.slot.is_incoming() || asked {
            self.open(PROTOCOL, core);
        }
    }

    fn open(&mut self, protocol: &str, core: Core) {
        let key = *core.discovery_key();
        if self.by_core.contains_key(&key) {
            return;
        }
        let mut handshake = BytesMut::new();
        Handshake { seeks: true, capability: self.capability(&core, self.side(false)) }
            .encode(&mut handshake);
        let Some(id) = self.channels.open(protocol, key.as_bytes(), &handshake) else { return };
        let channel = Channel {
            _given: core.given_by(1),
            upload: ModernUpload::new(core.clone()),
            replication: self.sharing.replication(&core),
            decoder: Decoder::default(),
            exchange: None,
        };
        self.cores.insert(id, channel);
        self.by_core.insert(key, id);
    }

    fn side(&self, remote: bool) -> Side {
        match self.channels.is_initiator() != remote {
            true => Side::Initiator,
            false => Side::Responder,
        }
    }

    fn capability(&self, core: &Core, side: Side) -> [u8; 32] {
        capability(side, core.key(), self.channels.handshake_hash())
    }

    async fn opened(&mut self, id: ChannelId, handshake: Bytes) -> Result<(), Ending> {
        let remote = self.side(true);
        let Some(channel) = self.cores.get(&id) else { return Ok(()) };
        let core = channel.upload.core().clone();
        let handshake = Handshake::decode(handshake).map_err(|error| broken(&error))?;
        let expected = self.capability(&core, remote);
        // Does not stop at the first difference: how long it takes tells nothing.
        let pairs = expected.iter().zip(&handshake.capability);
        if pairs.fold(0, |all, (one, other)| all | (one ^ other)) != 0 {
            let reason = format!("does not know the key of core {}", core.discovery_key());
            return Err((reason, false));
        }
        if !self.slot.admit() {
            return Err(("there is no place for another peer".into(), false));
        }
        self.channels.trust();
        log::debug!("peer {}: core {} opened", self.slot.address(), core.discovery_key());
        let Some(channel) = self.cores.get_mut(&id) else { return Ok(()) };
        let uploading = channel.replication.terms().is_shared();
        let mut exchange = Exchange::new(core, self.id, handshake.seeks, uploading);
        let greeting = exchange.greet();
        channel.exchange = Some(exchange);
        let opened = Event::Opened { peer: self.id, name: self.slot.address().to_string() };
        channel.replication.open(opened, self.connected.clone()).await;
        // Every peer of this protocol hears of new blocks.
        channel.replication.deliver(Event::Subscribed { peer: self.id }, 0).await;
        let names = vec![bee_extension::NAME.to_owned()];
        channel.replication.deliver(Event::Extensions { peer: self.id, names }, 0).await;
        for message in greeting {
            send(&mut self.channels, self.slot, id, &message);
        }
        Ok(())
    }

    async fn closed(&mut self, id: ChannelId) {
        let Some(channel) = self.cores.remove(&id) else { return };
        let core = channel.upload.core().discovery_key();
        log::debug!("peer {}: core {core} closed", self.slot.address());
        self.by_core.retain(|_, open| *open != id);
        if channel.exchange.is_some() {
            self.slot.channel_closed();
            channel.replication.deliver(Event::Closed { peer: self.id }, 0).await;
        }
    }

    async fn message(&mut self, id: ChannelId, kind: u64, payload: Bytes) -> Result<(), Ending> {
        let Some(channel) = self.cores.get_mut(&id) else { return Ok(()) };
        let message = channel.decoder.decode(kind, payload).map_err(|error| broken(&error))?;
        let Some(message) = message else { return Ok(()) };
        if channel.upload.received(&message).is_err() {
            return Err(("asked for too much at once".into(), false));
        }
        if let Message::Request(_) | Message::Cancel { .. } | Message::Want(_) = message {
            return Ok(());
        }
        if let Message::Extension { name, payload } = &message
            && name == bee_extension::NAME
            && channel.replication.terms().is_shared()
        {
            self.hints.received(channel.upload.core(), payload);
        }
        let outcomes = match &mut channel.exchange {
            Some(exchange) => exchange.hear(message, Instant::now()),
            None => return Ok(()),
        };
        if let Some(reason) = channel.exchange.as_ref().and_then(Exchange::abuse) {
            return Err((reason.into(), true));
        }
        self.carry_out(id, outcomes).await;
        Ok(())
    }

    fn hint_answered(&mut self, core: &DiscoveryKey, answers: Vec<crate::wire::message::Message>) {
        let channel = self.by_core.get(core).and_then(|id| self.cores.get_mut(id));
        let Some(channel) = channel else { return };
        for answer in answers {
            if let crate::wire::message::Message::Extension { name, payload } = answer {
                channel.upload.hint_answered(Message::Extension { name, payload });
            }
        }
    }

    async fn carry_out(&mut self, id: ChannelId, outcomes: Vec<Outcome>) {
        for outcome in outcomes {
            match outcome {
                Outcome::Send(message) => {
                    send(&mut self.channels, self.slot, id, &message);
                }
                Outcome::Event(event) => {
                    if let Some(channel) = self.cores.get(&id) {
                        let size = size_of_event(&event);
                        channel.replication.deliver(event, size).await;
                    }
                }
            }
        }
    }

    async fn command(&mut self, command: Command) {
        let now = Instant::now();
        let (key, said) = match command {
            Command::Open(core) => return self.offer(core).await,
            Command::Close(key) => {
                if let Some(id) = self.by_core.get(&key).copied() {
                    self.channels.close(id);
                    self.closed(id).await;
                }
                return;
            }
            Command::Send(key, message) => (key, Said::Message(message)),
            Command::Grown(key) => (key, Said::Grown),
            Command::AskForHistory(key) => (key, Said::AskForHistory),
            Command::ProveHistory(key) => (key, Said::ProveHistory),
        };
        let Some(id) = self.by_core.get(&key).copied() else { return };
        let Some(channel) = self.cores.get_mut(&id) else { return };
        let uploading = channel.replication.terms().is_shared();
        // Nothing is lost if the channel has closed meanwhile: the replicator was told.
        let Some(exchange) = &mut channel.exchange else { return };
        let outcomes = match said {
            Said::Message(message) => exchange.say(message, now),
            Said::Grown => exchange.changed(uploading, now),
            Said::AskForHistory => exchange.ask_for_history(),
            Said::ProveHistory => exchange.prove_history(),
        };
        self.carry_out(id, outcomes).await;
    }
}

/// What a replicator has to say about a core that is open.
enum Said {
    Message(crate::wire::message::Message),
    Grown,
    AskForHistory,
    ProveHistory,
}

fn broken(error: &dyn std::error::Error) -> Ending {
    (format!("broke the protocol: {error}"), false)
}

/// How many bytes were queued; 0 if the channel has closed.
fn send(channels: &mut Channels, slot: &ConnectionSlot, id: ChannelId, message: &Message) -> usize {
    let mut payload = BytesMut::new();
    message.encode(&mut payload);
    match channels.send(id, message.kind(), &payload) {
        true => {
            let bytes = payload.len() + FRAME;
            slot.sent(bytes);
            bytes
        }
        false => 0,
    }
}

/// Bytes of memory that an event holds until it is handled.
fn size_of_event(event: &Event) -> usize {
    match event {
        Event::Answered { proof, .. } | Event::Upgraded { proof, .. } => size_of_proof(proof),
        _ => 0,
    }
}

fn size_of_proof(proof: &ReceivedProof) -> usize {
    proof.value().map_or(0, Bytes::len) + 1024
}
