//! Connections between endpoints on this machine, without a network of nodes (`tests/hyperdht.rs` has
//! one).

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::net::UdpSocket;

use super::endpoint::{MAX_HELD, MAX_STREAMS, UnconnectedStream};
use super::server::{MAX_HANDSHAKES, MAX_REMEMBERED};
use super::socket_stream::{MAX_UNACKNOWLEDGED, SMALLEST_SHARE, SocketStreamError};
use super::*;
use crate::crypto::random_bytes;
use crate::hyperdht::announcement::{handshake_namespace, target_of};
use crate::hyperdht::message::{Command, Packet, Request};
use crate::hyperdht::payload::{Handshake as HandshakeValue, Mode, NoisePayload};
use crate::network::encrypted::{Carrier, EncryptedError, Reader, Writer, encrypted};
use crate::protomux::MAX_STRANGER_FRAME as LONGEST_MESSAGE;
use crate::secret_stream::{Handshake, Secrets};
use crate::udx::{Failure, SILENCE};

const HERE: std::net::Ipv4Addr = std::net::Ipv4Addr::LOCALHOST;

async fn endpoint() -> Arc<Endpoint> {
    let settings = Settings { ip: HERE, port: 0, stays_at: None };
    Endpoint::new(KeyPair::from_seed(&[1; 32]), settings).await.unwrap().0
}

fn secrets(initiator: bool) -> Secrets {
    let (transmit, receive) = if initiator { ([1; 32], [2; 32]) } else { ([2; 32], [1; 32]) };
    Secrets { initiator, transmit, receive, hash: [7; 64], remote: [8; 32] }
}

/// A connection with its encryption.
struct Encrypted {
    reader: Reader,
    writer: Writer,
    endpoint: Arc<Endpoint>,
}

impl From<Connection> for Encrypted {
    fn from(connection: Connection) -> Self {
        let Connection { datagrams, secrets, .. } = connection;
        let endpoint = Arc::clone(datagrams.endpoint());
        let (reader, writer) = encrypted(Carrier::Datagrams(datagrams), &secrets, LONGEST_MESSAGE);
        Self { reader, writer, endpoint }
    }
}

fn queue(writer: &mut Writer, message: &[u8]) {
    writer.queue(|out| out.extend_from_slice(message)).unwrap();
}

/// The next message, or `None` at the end.
async fn next(reader: &mut Reader) -> Result<Option<Bytes>, EncryptedError> {
    loop {
        if let Some(message) = reader.message()? {
            return Ok(Some(message));
        }
        if !reader.read().await? {
            return Ok(None);
        }
    }
}

fn failed_as(error: EncryptedError, expected: Failure) -> bool {
    matches!(error, EncryptedError::Datagrams(SocketStreamError::Failed(failure)) if failure == expected)
}

fn connection(
    endpoint: &Arc<Endpoint>,
    stream: UnconnectedStream,
    to: SocketAddrV4,
    first: bool,
) -> Connection {
    let socket = endpoint.server_socket().unwrap();
    let datagrams = Datagrams::new(Arc::clone(endpoint), stream.connect(&socket, to));
    Connection { datagrams, secrets: secrets(first), address: to }
}

fn address(endpoint: &Endpoint) -> SocketAddrV4 {
    SocketAddrV4::new(HERE, endpoint.server_socket().unwrap().port())
}

/// Both ends of a connection.
pub(crate) async fn pair() -> (Connection, Connection) {
    let (a, b) = (endpoint().await, endpoint().await);
    let (stream_a, stream_b) = (a.new_stream().unwrap(), b.new_stream().unwrap());
    stream_a.remote_is(stream_b.local_id);
    stream_b.remote_is(stream_a.local_id);
    let (at_a, at_b) = (address(&a), address(&b));
    (connection(&a, stream_a, at_b, true), connection(&b, stream_b, at_a, false))
}

async fn encrypted_pair() -> (Encrypted, Encrypted) {
    let (a, b) = pair().await;
    (a.into(), b.into())
}

/// One end of a connection, and an endpoint that does not know of it.
pub(crate) async fn half() -> (Connection, Arc<Endpoint>) {
    let (a, b) = (endpoint().await, endpoint().await);
    let stream = a.new_stream().unwrap();
    stream.remote_is(7);
    (connection(&a, stream, address(&b), true), b)
}

#[tokio::test]
async fn messages_arrive_in_both_directions_and_after_the_writer_is_dropped() {
    let (mut a, mut b) = encrypted_pair().await;
    let large = vec![5; LONGEST_MESSAGE];
    for message in [&b"first"[..], b"", &large] {
        queue(&mut a.writer, message);
    }
    let (sent, received) = tokio::join!(a.writer.flush(), async {
        assert_eq!(next(&mut b.reader).await.unwrap().unwrap(), b"first"[..]);
        next(&mut b.reader).await.unwrap().unwrap()
    });
    sent.unwrap();
    assert_eq!(received, large);
    queue(&mut b.writer, b"goodbye");
    b.writer.flush().await.unwrap();
    drop(b);
    assert_eq!(next(&mut a.reader).await.unwrap().unwrap(), b"goodbye"[..]);
    assert_eq!(next(&mut a.reader).await.unwrap(), None);
}

/// Each side assumes another socket of the other: the first packet that arrives decides the path.
#[tokio::test]
async fn the_address_of_the_first_packet_replaces_the_assumed_one() {
    let (a, b) = (endpoint().await, endpoint().await);
    let (stream_a, stream_b) = (a.new_stream().unwrap(), b.new_stream().unwrap());
    stream_a.remote_is(stream_b.local_id);
    stream_b.remote_is(stream_a.local_id);
    let other = b.socket(crate::hyperdht::SocketId::CLIENT).unwrap();
    let (at_a, at_b) = (address(&a), address(&b));
    let mut a = Encrypted::from(connection(&a, stream_a, at_b, true));
    let datagrams = Datagrams::new(b, stream_b.connect(&other, at_a));
    let mut b = Encrypted::from(Connection { datagrams, secrets: secrets(false), address: at_a });
    for (from, to) in [(&mut a.writer, &mut b.reader), (&mut b.writer, &mut a.reader)] {
        queue(from, b"here");
        let (sent, received) = tokio::join!(from.flush(), next(to));
        sent.unwrap();
        assert_eq!(received.unwrap().unwrap(), b"here"[..]);
    }
}

/// A peer that does not read is sent no more than there is room for, and continues when it reads.
#[tokio::test]
async fn a_writer_waits_for_a_peer_that_does_not_read() {
    let (mut a, mut b) = encrypted_pair().await;
    let message = vec![5; LONGEST_MESSAGE];
    let count = (crate::udx::WINDOW + crate::udx::SEND_BUFFER) / message.len() + 2;
    (0..count).for_each(|_| queue(&mut a.writer, &message));
    let flushed = timeout(Duration::from_millis(500), a.writer.flush()).await;
    assert!(flushed.is_err(), "there is no room for all of it");
    let (sent, ()) = tokio::join!(a.writer.flush(), async {
        for _ in 0..count {
            assert_eq!(next(&mut b.reader).await.unwrap().unwrap(), message);
        }
    });
    sent.unwrap();
}

#[tokio::test]
async fn a_message_that_is_too_long_ends_the_connection() {
    let (mut a, mut b) = encrypted_pair().await;
    queue(&mut a.writer, &vec![5; LONGEST_MESSAGE + 1]);
    let (_, received) = tokio::join!(timeout(Duration::from_secs(5), a.writer.flush()), async {
        let received = next(&mut b.reader).await;
        drop(b);
        received
    });
    assert!(received.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_silent_remote_times_out_and_is_forgotten() {
    let (a, _silent) = half().await;
    let mut a = Encrypted::from(a);
    let started = tokio::time::Instant::now();
    queue(&mut a.writer, b"are you there?");
    a.writer.flush().await.unwrap();
    let error = next(&mut a.reader).await.unwrap_err();
    assert!(failed_as(error, Failure::Silent));
    assert!(started.elapsed() <= SILENCE * 2, "{:?}", started.elapsed());
}

#[tokio::test]
async fn concurrent_streams_are_limited_and_dropped_ones_not_counted() {
    let endpoint = endpoint().await;
    let mut streams: Vec<_> = (0..MAX_STREAMS).map(|_| endpoint.new_stream().unwrap()).collect();
    assert!(endpoint.new_stream().is_none());
    streams.pop();
    assert!(endpoint.new_stream().is_some());
}

/// The limit of unacknowledged bytes does not grow with the number of streams.
#[tokio::test]
async fn streams_share_the_limit_of_unacknowledged_bytes() {
    let (a, silent) = half().await;
    let mut a = Encrypted::from(a);
    let others: Vec<_> = (0..MAX_STREAMS - 1).map(|_| a.endpoint.new_stream()).collect();
    const { assert!(MAX_UNACKNOWLEDGED / MAX_STREAMS <= SMALLEST_SHARE) };
    let mut written = 0;
    queue(&mut a.writer, &vec![5; LONGEST_MESSAGE]);
    let before = a.writer.waiting();
    let _ = timeout(Duration::from_millis(200), a.writer.flush()).await;
    written += before - a.writer.waiting();
    assert!(written <= SMALLEST_SHARE, "{written}");
    drop((others, silent));
}

/// Packets behind a gap are kept up to the limit of all streams together.
#[tokio::test]
async fn received_bytes_that_cannot_be_read_are_limited_over_all_streams() {
    let endpoint = endpoint().await;
    let remote = UdpSocket::bind((HERE, 0)).await.unwrap();
    let from = SocketAddrV4::new(HERE, remote.local_addr().unwrap().port());
    let streams = MAX_HELD / crate::udx::WINDOW + 2;
    let connections: Vec<_> = (0..streams)
        .map(|_| {
            let stream = endpoint.new_stream().unwrap();
            stream.remote_is(7);
            let id = stream.local_id;
            (id, connection(&endpoint, stream, from, true))
        })
        .collect();
    let mut most = 0;
    let to = address(&endpoint);
    // The first packet of each stream never comes.
    for sequence in 1..u32::MAX {
        for (id, _) in &connections {
            let mut packet = vec![0xff, 1, 1, 0];
            for number in [*id, 1 << 20, sequence, 0] {
                packet.extend_from_slice(&number.to_le_bytes());
            }
            packet.resize(1200, 5);
            remote.send_to(&packet, to).await.unwrap();
        }
        tokio::task::yield_now().await;
        let (held, count) = endpoint.held();
        most = most.max(held);
        if count < streams {
            break;
        }
    }
    assert!(most > MAX_HELD / 2 && most <= MAX_HELD + crate::udx::WINDOW, "{most}");
}

/// A node of the network that passes handshakes on to an endpoint.
struct Relay {
    socket: UdpSocket,
    to: SocketAddrV4,
    key: PublicKey,
}

impl Relay {
    async fn before(endpoint: &Arc<Endpoint>) -> Self {
        endpoint.with(|node, now| node.serve(now));
        let socket = UdpSocket::bind((HERE, 0)).await.unwrap();
        Self { socket, to: address(endpoint), key: endpoint.keys.public_key() }
    }

    /// Sends a handshake from the relay's own address, as a client does.
    async fn ask(&self, noise: Bytes) -> usize {
        let value = HandshakeValue {
            mode: Mode::FromClient,
            noise,
            peer_address: None,
            relay_address: None,
        };
        let mut request = Request::new(self.to, Command::Handshake);
        request.target = Some(target_of(&self.key));
        request.value = Some(value.encode());
        self.socket.send_to(&request.encode(), self.to).await.unwrap()
    }

    /// The handshake of a peer that sends no packet after it.
    fn handshake(&self) -> Bytes {
        let keys = KeyPair::from_seed(&random_bytes().unwrap());
        let mut noise =
            Handshake::initiator(&keys, &handshake_namespace(), self.key.as_bytes()).unwrap();
        let udx = UdxInfo { version: 1, reusable_socket: false, id: 7, seq: 0 };
        let payload = NoisePayload { udx: Some(udx), ..NoisePayload::default() };
        noise.write(&payload.encode()).unwrap()
    }

    async fn send(&self, peer: [u8; 4], noise: Bytes) {
        let peer_address = Some(SocketAddrV4::new(peer.into(), 9));
        let value =
            HandshakeValue { mode: Mode::FromRelay, noise, peer_address, relay_address: None };
        let mut request = Request::new(self.to, Command::Handshake);
        request.target = Some(target_of(&self.key));
        request.value = Some(value.encode());
        self.socket.send_to(&request.encode(), self.to).await.unwrap();
    }

    /// Forwards a handshake; returns the answer, if there is one soon.
    async fn pass_on(&self, noise: Bytes) -> Option<Bytes> {
        self.pass_on_for([192, 0, 2, 1], noise).await
    }

    /// Forwards a handshake of a peer at an address.
    async fn pass_on_for(&self, peer: [u8; 4], noise: Bytes) -> Option<Bytes> {
        self.send(peer, noise).await;
        let mut buffer = [0; 2048];
        loop {
            let received = timeout(Duration::from_millis(500), self.socket.recv(&mut buffer)).await;
            let length = received.ok()?.unwrap();
            // The endpoint asks things of its own, too.
            if let Some(Packet::Request(answer)) = Packet::decode(&buffer[..length])
                && answer.command == Command::Handshake
            {
                return Some(HandshakeValue::decode(answer.value?).unwrap().noise);
            }
        }
    }
}

#[tokio::test]
async fn concurrent_handshakes_are_limited_and_malformed_ones_not_remembered() {
    let settings = Settings { ip: HERE, port: 0, stays_at: None };
    let (endpoint, events) = Endpoint::new(KeyPair::from_seed(&[1; 32]), settings).await.unwrap();
    let (arrivals, _arrived) = tokio::sync::mpsc::channel(1);
    let serving = tokio::spawn(serve(Arc::clone(&endpoint), events, arrivals));
    let relay = Relay::before(&endpoint).await;
    for _ in 0..=MAX_REMEMBERED {
        relay.send([192, 0, 2, 1], relay.handshake().slice(..40)).await;
        tokio::task::yield_now().await;
    }
    assert_eq!(relay.pass_on(relay.handshake().slice(..40)).await, None);
    assert_eq!(relay.pass_on_for([224, 0, 0, 1], relay.handshake()).await, None);
    let first = relay.handshake();
    let answer = relay.pass_on(first.clone()).await.unwrap();
    // The same one, come through another node: the same answer, and no place.
    assert_eq!(relay.pass_on(first).await, Some(answer));
    for n in 1..=MAX_HANDSHAKES {
        let answered = relay.pass_on(relay.handshake()).await.is_some();
        assert_eq!(answered, n < MAX_HANDSHAKES, "{n}");
    }
    serving.abort();
}

/// The connection is used as the swarm uses it: both sides have something to say at once.
#[tokio::test(start_paused = true)]
async fn a_silent_address_gets_three_times_the_bytes_it_sent() {
    let settings = Settings { ip: HERE, port: 0, stays_at: None };
    let (endpoint, events) = Endpoint::new(KeyPair::from_seed(&[1; 32]), settings).await.unwrap();
    let (arrivals, mut arrived) = tokio::sync::mpsc::channel(1);
    let serving = tokio::spawn(serve(Arc::clone(&endpoint), events, arrivals));
    let relay = Relay::before(&endpoint).await;
    let came = relay.ask(relay.handshake()).await;
    let mut connection = Encrypted::from(arrived.recv().await.unwrap());
    queue(&mut connection.writer, &[5; 1000]);
    let _ = connection.writer.flush().await;
    let error = next(&mut connection.reader).await.unwrap_err();
    assert!(failed_as(error, Failure::Silent));
    drop(connection);
    tokio::time::sleep(SILENCE * 2).await;
    let (mut bytes, mut packets) = (0, 0);
    let mut buffer = [0; 2048];
    while let Ok(length) = relay.socket.try_recv(&mut buffer) {
        (bytes, packets) = (bytes + length, packets + 1);
    }
    assert!(packets > 1 && bytes <= came * crate::kademlia::AMPLIFICATION, "{bytes} for {came}");
    serving.abort();
}
