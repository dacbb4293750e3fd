//! Finding peers on the local network by multicast DNS: repeated queries for topics with lookup, and
//! answers for announced topics.
//!
//! Every machine on the network can read which topics are queried, and can send any answer. Packets
//! that have crossed a router are ignored.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::UdpSocket;
use tokio::time::{Instant, MissedTickBehavior};

use super::DiscoveryContext;
use super::dns::{self, Answer, DnsMessage, MAX_MESSAGE, Token, TopicPrefix, topic_prefix};
use crate::crypto::{DiscoveryKey, random_bytes};
use crate::network::candidates::{DialTarget, Found, Priority, Source};
use crate::network::interfaces::{self, Interface};
use crate::network::topics::Topics;

const GROUP: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 251);
const PORT: u16 = 5353;
const HOPS: u32 = 255;
/// Time from one round of queries to the next, in seconds: a random value of this range each time.
const QUERY_EVERY: std::ops::Range<u64> = 30..60;
/// How often interfaces are checked, and the group is joined on new ones.
const REFRESH_EVERY: Duration = Duration::from_secs(5);
/// Queries of others that are answered per second.
pub(crate) const MAX_ANSWERS_PER_SECOND: u32 = 100;
/// Messages sent together, and the pause before the next ones, so that many topics make no burst.
const TOGETHER: usize = 8;
const PAUSE: Duration = Duration::from_millis(20);

/// The queries and answers of this process, without sockets and clocks.
#[derive(Default)]
struct LanNode {
    looked_for: HashMap<TopicPrefix, DiscoveryKey>,
    /// With the token of our own announcement.
    announced: HashMap<TopicPrefix, Token>,
    port: Option<u16>,
    outbox: VecDeque<Vec<u8>>,
    /// Answers given in the second that began then.
    answers: (Option<Instant>, u32),
}

impl LanNode {
    /// Applies a change of the joined topics: queries and announces the new ones at once.
    fn follow(&mut self, topics: &Topics, port: Option<u16>) -> io::Result<()> {
        let (had_port, had) = (self.port, std::mem::take(&mut self.announced));
        self.port = port;
        let asked = std::mem::take(&mut self.looked_for);
        for (topic, interest) in topics {
            let name = topic_prefix(topic);
            if interest.lookup {
                self.looked_for.insert(name, *topic);
                if !asked.contains_key(&name) {
                    self.query(&name);
                }
            }
            if interest.announce {
                let known = had.get(&name).copied();
                let token = match known {
                    Some(token) => token,
                    None => random_bytes()?,
                };
                self.announced.insert(name, token);
                if known.is_none() || had_port != port {
                    self.announce(&[(name, token)], None);
                }
            }
        }
        Ok(())
    }

    fn query(&mut self, name: &TopicPrefix) {
        self.outbox.extend(dns::query(name));
    }

    fn announce(&mut self, topics: &[(TopicPrefix, Token)], asked_by: Option<Ipv4Addr>) {
        if let Some(port) = self.port {
            self.outbox.extend(dns::response(topics, port, asked_by));
        }
    }

    /// Queries all topics again, unless messages still wait to be sent.
    fn query_all(&mut self) {
        if self.outbox.is_empty() {
            let names: Vec<TopicPrefix> = self.looked_for.keys().copied().collect();
            names.iter().for_each(|name| self.query(name));
        }
    }

    fn announce_all(&mut self) {
        let all: Vec<_> = self.announced.iter().map(|(name, token)| (*name, *token)).collect();
        all.iter().for_each(|one| self.announce(&[*one], None));
    }

    /// Handles a message from `source`: answers a query, or returns the peers that a response names.
    fn receive(&mut self, message: &[u8], source: Ipv4Addr, now: Instant) -> Vec<Found> {
        match dns::parse(message) {
            Some(DnsMessage::Query(asked)) => {
                let known =
                    |name: &TopicPrefix| self.announced.get(name).map(|token| (*name, *token));
                let topics: Vec<_> = asked.iter().filter_map(known).collect();
                if !topics.is_empty() && self.may_answer(now) {
                    self.announce(&topics, Some(source));
                }
                Vec::new()
            }
            Some(DnsMessage::Response(answers)) => {
                answers.iter().filter_map(|answer| self.peer(answer, source)).collect()
            }
            None => Vec::new(),
        }
    }

    fn peer(&self, answer: &Answer, source: Ipv4Addr) -> Option<Found> {
        let topic = *self.looked_for.get(&answer.topic)?;
        let own = self.announced.get(&answer.topic);
        if own.is_some() && own == answer.token.as_ref() {
            return None;
        }
        let address = SocketAddr::from((source, answer.port));
        let source = Source::Lan(IpAddr::V4(source));
        Some(Found { topic, target: DialTarget::Tcp(address), source, priority: Priority::Local })
    }

    fn may_answer(&mut self, now: Instant) -> bool {
        let (since, count) = &mut self.answers;
        if since.is_none_or(|since| now >= since + Duration::from_secs(1)) {
            (*since, *count) = (Some(now), 0);
        }
        *count += 1;
        *count <= MAX_ANSWERS_PER_SECOND
    }
}

/// Runs until the swarm is closed.
pub(super) async fn run(mut discovery_context: DiscoveryContext) {
    let mut closing = discovery_context.closing.clone();
    loop {
        let error = tokio::select! {
            ended = speak(&mut discovery_context) => match ended {
                Ok(()) => return,
                Err(error) => error,
            },
            () = crate::network::wait_closed(&mut closing) => return,
        };
        log::warn!("no discovery on the local network: {error}; next attempt in {REFRESH_EVERY:?}");
        tokio::select! {
            () = tokio::time::sleep(REFRESH_EVERY) => {}
            () = crate::network::wait_closed(&mut closing) => return,
        }
    }
}

/// Until an error, or until the swarm is gone.
async fn speak(context: &mut DiscoveryContext) -> io::Result<()> {
    let mut group = Group::open()?;
    let mut speaker = LanNode::default();
    context.topics.mark_changed();
    let mut buffer = vec![0; MAX_MESSAGE + 1];
    let mut refresh = tokio::time::interval(REFRESH_EVERY);
    refresh.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut pace = tokio::time::interval(PAUSE);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut next_query = Instant::now() + query_pause();
    // The interfaces first: new topics are announced on them.
    refresh.tick().await;
    group.refresh();
    loop {
        tokio::select! {
            received = group.socket.recv_from(&mut buffer) => {
                let Ok((count, SocketAddr::V4(source))) = received else { continue };
                let message = buffer.get(..count).unwrap_or_default();
                if !group.is_near(*source.ip()) {
                    continue;
                }
                for found in speaker.receive(message, *source.ip(), Instant::now()) {
                    if context.found.send(found).await.is_err() {
                        return Ok(());
                    }
                }
            }
            changed = context.topics.changed() => {
                if changed.is_err() {
                    return Ok(());
                }
                context.follow(&mut speaker)?;
            }
            _ = context.listening.changed() => context.follow(&mut speaker)?,
            _ = refresh.tick() => if group.refresh() {
                speaker.query_all();
                speaker.announce_all();
            },
            () = tokio::time::sleep_until(next_query) => {
                next_query = Instant::now() + query_pause();
                speaker.query_all();
            }
            _ = pace.tick(), if !speaker.outbox.is_empty() => {
                for message in speaker.outbox.drain(..speaker.outbox.len().min(TOGETHER)) {
                    group.send(&message, context.only_at()).await;
                }
            }
        }
    }
}

fn query_pause() -> Duration {
    Duration::from_secs(fastrand::u64(QUERY_EVERY))
}

impl DiscoveryContext {
    fn follow(&mut self, speaker: &mut LanNode) -> io::Result<()> {
        let listening = *self.listening.borrow_and_update();
        let topics = self.topics.borrow_and_update();
        speaker.follow(&topics, listening.map(|address| address.port()))
    }

    /// The one address where we can be reached, if it is only one.
    fn only_at(&self) -> Option<Ipv4Addr> {
        match (*self.listening.borrow())?.ip() {
            IpAddr::V4(address) if !address.is_unspecified() => Some(address),
            _ => None,
        }
    }
}

/// The multicast group on all interfaces.
struct Group {
    socket: UdpSocket,
    interfaces: Vec<Interface>,
}

impl Group {
    fn open() -> io::Result<Self> {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
        // Other programs speak multicast DNS, too.
        socket.set_reuse_address(true)?;
        #[cfg(not(target_os = "linux"))]
        socket.set_reuse_port(true)?;
        socket.set_multicast_ttl_v4(HOPS)?;
        socket.set_multicast_loop_v4(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, PORT)).into())?;
        Ok(Self { socket: UdpSocket::from_std(socket.into())?, interfaces: Vec::new() })
    }

    /// Joins the group on every interface; true if one is new.
    fn refresh(&mut self) -> bool {
        let socket = SockRef::from(&self.socket);
        let now = interfaces::usable();
        for interface in &now {
            // An interface that was away needs to be joined again; one that stayed returns an error.
            match socket.join_multicast_v4(&GROUP, &interface.address) {
                Err(error) if error.kind() != io::ErrorKind::AddrInUse => {
                    log::debug!("no multicast on {}: {error}", interface.address);
                }
                _ => {}
            }
        }
        let fresh = now.iter().any(|interface| !self.interfaces.contains(interface));
        self.interfaces = now;
        fresh
    }

    fn is_near(&self, source: Ipv4Addr) -> bool {
        self.interfaces.iter().any(|interface| interface.reaches(source))
    }

    async fn send(&self, message: &[u8], only_at: Option<Ipv4Addr>) {
        for interface in &self.interfaces {
            if only_at.is_some_and(|only| only != interface.address) {
                continue;
            }
            let to = SocketAddrV4::new(GROUP, PORT);
            let sent = match SockRef::from(&self.socket).set_multicast_if_v4(&interface.address) {
                Ok(()) => self.socket.send_to(message, to).await,
                Err(error) => Err(error),
            };
            if let Err(error) = sent {
                // The interface went away or has no route; the next refresh removes it.
                log::debug!("multicast on {}: {error}", interface.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::topics::Interest;

    const PEER: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 9);

    fn topic(n: u8) -> DiscoveryKey {
        DiscoveryKey::new([n; 32])
    }

    fn speaker(topics: &[(u8, Interest)], port: Option<u16>) -> LanNode {
        let mut speaker = LanNode::default();
        let topics = topics.iter().map(|(n, interest)| (topic(*n), *interest)).collect();
        speaker.follow(&topics, port).unwrap();
        speaker
    }

    fn said(speaker: &mut LanNode) -> Vec<DnsMessage> {
        speaker.outbox.drain(..).map(|message| dns::parse(&message).unwrap()).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_lookup_sends_queries_and_announces_nothing() {
        let mut reader = speaker(&[(1, Interest::LOOKUP)], Some(7));
        assert_eq!(said(&mut reader), [DnsMessage::Query(vec![[1; 20]])]);
        let question = dns::query(&[1; 20]).unwrap();
        assert_eq!(reader.receive(&question, PEER, Instant::now()), []);
        assert_eq!(said(&mut reader), []);
    }

    /// 82. A node that is queried learns the topic: a hash of the key, which does not open the drive.
    #[test]
    fn messages_do_not_contain_the_key_of_a_drive() {
        let key = crate::crypto::KeyPair::from_seed(&[5; 32]).public_key();
        let mut reader = LanNode::default();
        reader.follow(&[(key.discovery_key(), Interest::BOTH)].into(), Some(7)).unwrap();
        let said: Vec<u8> = reader.outbox.into_iter().flatten().collect();
        let tells = |bytes: &[u8]| said.windows(bytes.len()).any(|window| window == bytes);
        let hex = |bytes: &[u8]| hex::encode(bytes).into_bytes();
        assert!(tells(&hex(&key.discovery_key().as_bytes()[..dns::PREFIX_LENGTH])));
        assert!(!tells(&hex(&key.as_bytes()[..8])) && !tells(&key.as_bytes()[..8]));
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_announces_at_once_and_when_queried() {
        let mut server = speaker(&[(1, Interest::BOTH), (2, Interest::BOTH)], Some(7));
        assert_eq!(said(&mut server).len(), 4, "a query and an answer each");
        server.receive(&dns::query(&[3; 20]).unwrap(), PEER, Instant::now());
        assert_eq!(said(&mut server), [], "of other topics it knows nothing");
        server.receive(&dns::query(&[2; 20]).unwrap(), PEER, Instant::now());
        let answer = server.outbox.pop_front().unwrap();
        let mut reader = speaker(&[(2, Interest::LOOKUP)], None);
        let found = reader.receive(&answer, PEER, Instant::now());
        assert_eq!(found[0].target, DialTarget::Tcp(SocketAddr::from((PEER, 7))));
        assert_eq!((found[0].topic, found[0].priority), (topic(2), Priority::Local));
        assert_eq!(server.receive(&answer, PEER, Instant::now()), [], "not its own answer");
    }

    #[tokio::test(start_paused = true)]
    async fn topics_are_announced_once_there_is_a_port() {
        let topics: Topics = [(topic(1), Interest::BOTH)].into();
        let mut server = speaker(&[(1, Interest::BOTH)], None);
        assert_eq!(said(&mut server), [DnsMessage::Query(vec![[1; 20]])]);
        server.follow(&topics, Some(9)).unwrap();
        assert!(
            matches!(&said(&mut server)[..], [DnsMessage::Response(answers)] if answers[0].port == 9)
        );
        server.follow(&topics, Some(9)).unwrap();
        assert_eq!(said(&mut server), [], "nothing is new");
    }

    #[tokio::test(start_paused = true)]
    async fn answers_per_second_are_limited() {
        let mut server = speaker(&[(1, Interest::BOTH)], Some(7));
        said(&mut server);
        let (question, now) = (dns::query(&[1; 20]).unwrap(), Instant::now());
        for _ in 0..=MAX_ANSWERS_PER_SECOND {
            server.receive(&question, PEER, now);
        }
        assert_eq!(said(&mut server).len(), MAX_ANSWERS_PER_SECOND as usize);
        server.receive(&question, PEER, now + Duration::from_secs(1));
        assert_eq!(said(&mut server).len(), 1);
    }
}
