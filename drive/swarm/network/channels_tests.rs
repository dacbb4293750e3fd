//! Two ends of a connection, over TCP and over datagrams, and remotes that break the rules.

use std::collections::VecDeque;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::net::{TcpListener, TcpStream};

use tokio::time::{Instant, timeout};

use super::carried;
use super::channels::*;
use super::encrypted::{Carrier, Reader, Writer, encrypted};
use super::greeting::greet;
use super::hyperdht::tests::{half, pair as datagram_pair};
use crate::compact::{put_buffer, put_uint};
use crate::crypto::KeyPair;
use crate::protomux::{MAX_FRAME, MAX_STRANGER_FRAME, Mux};
use crate::secret_stream::Secrets;

const NAME: &str = "test/1";

/// What the listener of one side was told: the port, and whether the stream is not known.
type Heard = Arc<Mutex<Option<Result<Option<u16>, ()>>>>;

fn listener() -> (Listener, Heard) {
    let heard = Heard::default();
    let told = Arc::clone(&heard);
    let listener = move |what| {
        *told.lock().unwrap() = Some(match what {
            Told::Port(port) => Ok(port.map(Into::into)),
            Told::NotCarried => Err(()),
        });
    };
    (Box::new(listener), heard)
}

fn channels(carrier: Carrier, secrets: &Secrets, port: Option<u16>) -> (Channels, Heard) {
    let (listener, heard) = listener();
    (Channels::new(carrier, secrets, port, listener), heard)
}

/// Both ends of a TCP connection after the handshake; the first is the initiator.
async fn greeted() -> [(TcpStream, Secrets); 2] {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let at = listener.local_addr().unwrap();
    let connected = tokio::join!(TcpStream::connect(at), listener.accept());
    let (mut a, mut b) = (connected.0.unwrap(), connected.1.unwrap().0);
    let keys = [1, 2].map(|seed| KeyPair::from_seed(&[seed; 32]));
    let secrets = tokio::join!(greet(&mut a, &keys[0], true), greet(&mut b, &keys[1], false));
    [(a, secrets.0.unwrap()), (b, secrets.1.unwrap())]
}

/// One end, and its events that no test has looked at.
struct Side {
    channels: Channels,
    events: VecDeque<ChannelEvent>,
}

impl Deref for Side {
    type Target = Channels;

    fn deref(&self) -> &Channels {
        &self.channels
    }
}

impl DerefMut for Side {
    fn deref_mut(&mut self) -> &mut Channels {
        &mut self.channels
    }
}

async fn tcp_pair() -> (Side, Side) {
    let [(a, for_a), (b, for_b)] = greeted().await;
    let (a, _) = channels(Carrier::Tcp(a), &for_a, None);
    let (b, _) = channels(Carrier::Tcp(b), &for_b, None);
    begun(a, b).await
}

async fn begun(mut a: Channels, mut b: Channels) -> (Side, Side) {
    let begun = tokio::join!(a.begun(), b.begun());
    begun.0.unwrap();
    begun.1.unwrap();
    let side = |channels| Side { channels, events: VecDeque::new() };
    (side(a), side(b))
}

/// The next event of `of` that `wanted` takes; meanwhile the other side runs as well.
async fn event<T>(
    of: &mut Side,
    other: &mut Side,
    wanted: impl Fn(&ChannelEvent) -> Option<T>,
) -> T {
    loop {
        let found = of.events.iter().enumerate().find_map(|(n, one)| Some((n, wanted(one)?)));
        if let Some((at, found)) = found {
            of.events.remove(at);
            return found;
        }
        tokio::select! {
            event = of.channels.next(true) => of.events.push_back(event.unwrap()),
            event = other.channels.next(true) => other.events.push_back(event.unwrap()),
        }
    }
}

/// The carried streams of both sides.
async fn carried_streams(a: &mut Side, b: &mut Side) -> (DuplexStream, DuplexStream) {
    let is_carried = |event: &ChannelEvent| matches!(event, ChannelEvent::Carried { .. });
    while !a.events.iter().any(is_carried) || !b.events.iter().any(is_carried) {
        tokio::select! {
            event = a.channels.next(true) => a.events.push_back(event.unwrap()),
            event = b.channels.next(true) => b.events.push_back(event.unwrap()),
        }
    }
    let take = |side: &mut Side| {
        let at = side.events.iter().position(is_carried).unwrap();
        let Some(ChannelEvent::Carried { stream }) = side.events.remove(at) else { panic!() };
        stream
    };
    (take(a), take(b))
}

/// A channel that both have opened.
async fn opened(a: &mut Side, b: &mut Side) -> (ChannelId, ChannelId) {
    let ours = a.open(NAME, b"id", b"hello").unwrap();
    let remote = event(b, a, |event| match event {
        ChannelEvent::Asked { remote, protocol, id } => {
            assert_eq!((protocol.as_str(), &id[..]), (NAME, &b"id"[..]));
            Some(*remote)
        }
        _ => None,
    })
    .await;
    // Another one is refused.
    let other = a.open("other", b"", b"").unwrap();
    let refused = event(b, a, |event| match event {
        ChannelEvent::Asked { remote, .. } => Some(*remote),
        _ => None,
    })
    .await;
    assert_ne!(remote, refused);
    b.refuse(refused);
    let theirs = b.open(NAME, b"id", b"there").unwrap();
    event(a, b, |event| {
        matches!(event, ChannelEvent::Closed { channel } if *channel == other).then_some(())
    })
    .await;
    let handshake = |event: &ChannelEvent| match event {
        ChannelEvent::Opened { channel, handshake } => Some((*channel, handshake.clone())),
        _ => None,
    };
    assert_eq!(event(a, b, handshake).await, (ours, Bytes::from_static(b"there")));
    assert_eq!(event(b, a, handshake).await, (theirs, Bytes::from_static(b"hello")));
    (ours, theirs)
}

fn payload(event: &ChannelEvent) -> Option<(u64, Bytes)> {
    match event {
        ChannelEvent::Message { kind, payload, .. } => Some((*kind, payload.clone())),
        _ => None,
    }
}

#[tokio::test]
async fn channels_are_opened_refused_and_closed_over_tcp_and_datagrams() {
    for datagrams in [false, true] {
        let (mut a, mut b) = if datagrams {
            let (a, b) = datagram_pair().await;
            let side = |connection: crate::network::hyperdht::Connection| {
                channels(Carrier::Datagrams(connection.datagrams), &connection.secrets, None).0
            };
            begun(side(a), side(b)).await
        } else {
            tcp_pair().await
        };
        assert_eq!(a.handshake_hash(), b.handshake_hash());
        assert!(a.is_initiator() && !b.is_initiator());
        if !datagrams {
            assert_eq!(a.remote_key(), *KeyPair::from_seed(&[2; 32]).public_key().as_bytes());
            assert!(a.local_ip().unwrap().is_loopback());
        }
        let (ours, theirs) = opened(&mut a, &mut b).await;
        assert!(a.send(ours, 3, b"to b") && b.send(theirs, 4, b"to a"));
        assert_eq!(event(&mut b, &mut a, payload).await, (3, Bytes::from_static(b"to b")));
        assert_eq!(event(&mut a, &mut b, payload).await, (4, Bytes::from_static(b"to a")));
        a.close(ours);
        assert!(!a.send(ours, 3, b"closed"));
        let closed =
            |event: &ChannelEvent| matches!(event, ChannelEvent::Closed { .. }).then_some(());
        event(&mut b, &mut a, closed).await;
        a.channels.end().await;
        let error = loop {
            if let Err(error) = b.next(true).await {
                break error;
            }
        };
        assert_eq!(error, ChannelsError::Ended);
    }
}

#[tokio::test]
async fn what_is_queued_is_sent_before_the_end() {
    let (mut a, mut b) = tcp_pair().await;
    let (ours, _) = opened(&mut a, &mut b).await;
    b.trust();
    let long = vec![5; 4 * 1024 * 1024];
    assert!(a.send(ours, 1, b"first") && a.send(ours, 2, &long));
    let ended = tokio::spawn(a.channels.end());
    let mut received = Vec::new();
    loop {
        match b.next(true).await {
            Ok(event) => received.extend(payload(&event)),
            Err(error) => break assert_eq!(error, ChannelsError::Ended),
        }
    }
    ended.await.unwrap();
    assert_eq!(received, [(1, Bytes::from_static(b"first")), (2, long.into())]);
}

/// A remote that sees an error may not look at the last messages.
#[tokio::test]
async fn an_end_resets_nothing_although_the_remote_had_more_to_say() {
    let (mut a, mut b) = tcp_pair().await;
    let (ours, theirs) = opened(&mut a, &mut b).await;
    assert!(a.send(ours, 1, b"last") && b.send(theirs, 1, &[0; 1000]));
    tokio::select! {
        biased;
        event = b.channels.next(false) => panic!("{event:?}"),
        () = std::future::ready(()) => {}
    }
    a.channels.end().await;
    assert_eq!(payload(&b.next(true).await.unwrap()), Some((1, Bytes::from_static(b"last"))));
    assert_eq!(b.next(true).await.unwrap_err(), ChannelsError::Ended);
}

/// The byte stream that both hypermounts open by themselves, and the port that they tell.
#[tokio::test]
async fn the_stream_of_the_old_protocol_is_carried_beside_other_channels() {
    let [(a, for_a), (b, for_b)] = greeted().await;
    let (a, heard_a) = channels(Carrier::Tcp(a), &for_a, Some(1234));
    let (b, heard_b) = channels(Carrier::Tcp(b), &for_b, None);
    let (mut a, mut b) = begun(a, b).await;
    let (near_a, near_b) = carried_streams(&mut a, &mut b).await;
    assert_eq!(*heard_a.lock().unwrap(), Some(Ok(None)));
    assert_eq!(*heard_b.lock().unwrap(), Some(Ok(Some(1234))));
    let (ours, _) = opened(&mut a, &mut b).await;
    let length = 5 * carried::WINDOW;
    let (mut messages, mut received) = (0, 0);
    let (mut reader, mut writer) = tokio::io::split(near_a);
    let (mut echo_reader, mut echo_writer) = tokio::io::split(near_b);
    let sent: Vec<u8> = (0..length).map(|n| (n % 251) as u8).collect();
    let writing = async {
        writer.write_all(&sent).await.unwrap();
        std::future::pending::<()>().await
    };
    let echoing = async {
        let mut buffer = vec![0; 70_000];
        loop {
            let count = echo_reader.read(&mut buffer).await.unwrap();
            echo_writer.write_all(&buffer[..count]).await.unwrap();
        }
    };
    let reading = async {
        let mut back = vec![0; length];
        reader.read_exact(&mut back).await.unwrap();
        back
    };
    tokio::pin!(writing, echoing, reading);
    let back = loop {
        // Messages of a channel all the time: neither holds up the other.
        while messages < 10_000 && a.pending_output() < MUCH_OUTPUT {
            assert!(a.send(ours, 1, &[7; 5000]));
            messages += 1;
        }
        tokio::select! {
            event = a.next(true) => drop(event.unwrap()),
            event = b.next(true) => received += usize::from(payload(&event.unwrap()).is_some()),
            () = &mut writing => {}
            () = &mut echoing => {}
            back = &mut reading => break back,
        }
    };
    assert!(back == sent && received > 0);
    while received < messages {
        received +=
            usize::from(event(&mut b, &mut a, |event| Some(payload(event).is_some())).await);
    }
}

#[tokio::test]
async fn dropping_the_carried_stream_ends_it_on_the_other_side_alone() {
    let (mut a, mut b) = tcp_pair().await;
    let (mut near_a, mut near_b) = carried_streams(&mut a, &mut b).await;
    near_a.write_all(b"the last bytes").await.unwrap();
    drop(near_a);
    let mut rest = Vec::new();
    tokio::select! {
        read = near_b.read_to_end(&mut rest) => drop(read.unwrap()),
        _ = event(&mut b, &mut a, |_| None::<()>) => {}
    }
    assert_eq!(rest, b"the last bytes");
    let (ours, _) = opened(&mut a, &mut b).await;
    assert!(a.send(ours, 1, b"still here"));
    assert_eq!(event(&mut b, &mut a, payload).await.1, b"still here"[..]);
}

/// A remote whose messages a test makes itself.
struct Raw {
    _reader: Reader,
    writer: Writer,
}

impl Raw {
    async fn pair() -> (Channels, Heard, Self) {
        let [(a, for_a), (b, for_b)] = greeted().await;
        let (mut a, heard) = channels(Carrier::Tcp(a), &for_a, None);
        let (reader, writer) = encrypted(Carrier::Tcp(b), &for_b, MAX_FRAME);
        let mut raw = Self { _reader: reader, writer };
        let begun = tokio::join!(a.begun(), raw.writer.flush());
        begun.0.unwrap();
        (a, heard, raw)
    }

    async fn say(&mut self, frame: &[u8]) {
        self.writer.queue(|out| out.extend_from_slice(frame)).unwrap();
        self.writer.flush().await.unwrap();
    }
}

#[tokio::test]
async fn a_remote_that_refuses_or_speaks_another_version_is_told_apart() {
    let mut other = Mux::default();
    let mut bytes = BytesMut::new();
    for number in [2, 0, 9] {
        put_uint(number, &mut bytes);
    }
    other.open(carried::PROTOCOL, b"", &bytes).unwrap();
    let mut open = BytesMut::new();
    other.write_frame(&mut open);
    for frame in [&[0, 2, 1][..], &open] {
        let (mut a, heard, mut raw) = Raw::pair().await;
        raw.say(frame).await;
        assert!(matches!(a.next(true).await, Ok(ChannelEvent::NotCarried)));
        assert_eq!(*heard.lock().unwrap(), Some(Err(())));
        // The connection stays open.
        raw.say(b"\x00\x01\x02\x01x\x00").await;
        if frame == open {
            let event = a.next(true).await;
            assert!(matches!(event, Ok(ChannelEvent::Asked { .. })), "{event:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_remote_that_says_nothing_of_the_old_protocol_does_not_know_it() {
    let (mut a, heard, _raw) = Raw::pair().await;
    assert!(matches!(a.next(true).await, Ok(ChannelEvent::NotCarried)));
    assert_eq!(*heard.lock().unwrap(), Some(Err(())));
}

/// Another peer than that of the handshake has the address, or none.
#[tokio::test(start_paused = true)]
async fn a_silent_remote_times_out() {
    let (connection, _silent) = half().await;
    let carrier = Carrier::Datagrams(connection.datagrams);
    let (mut a, _) = channels(carrier, &connection.secrets, None);
    assert_eq!(a.begun().await, Err(ChannelsError::Silent));
}

fn opens(numbers: impl Iterator<Item = u64>) -> BytesMut {
    let mut frame = BytesMut::from(&[0, 0, 0][..]);
    for number in numbers {
        for kind in [1, 3] {
            let mut item = BytesMut::from(&[kind][..]);
            put_uint(number, &mut item);
            if kind == 1 {
                item.extend_from_slice(&[1, b'x', 0]);
            }
            put_buffer(&item, &mut frame);
        }
    }
    frame
}

#[tokio::test]
async fn a_remote_that_does_not_read_the_answers_it_causes_is_disconnected() {
    let (mut a, _, mut raw) = Raw::pair().await;
    // A handshake that is too long is refused at once.
    let long = [&b"\x00\x01\x01\x01x\x00"[..], &[0; 1025]].concat();
    let error = loop {
        for _ in 0..100 {
            raw.writer.queue(|out| out.extend_from_slice(&long)).unwrap();
        }
        // It writes as long as we read, and reads nothing.
        tokio::select! {
            error = a.next(true) => if let Err(error) = error { break error },
            written = raw.writer.flush() => written.unwrap(),
        }
    };
    assert_eq!(error, ChannelsError::Deaf);
    // Requests that are withdrawn at once cause no answers, and are of no more use later.
    let (mut a, _, mut raw) = Raw::pair().await;
    raw.say(&opens((1..200).map(|_| 1))).await;
    for _ in 1..200 {
        let Ok(ChannelEvent::Asked { remote, .. }) = a.next(true).await else { panic!() };
        a.refuse(remote);
    }
    assert_eq!(a.pending_output(), 0);
}

#[tokio::test]
async fn a_message_may_have_sixteen_mebibytes_once_the_remote_is_trusted() {
    let stranger = MAX_STRANGER_FRAME;
    for (trusted, length, accepted) in
        [(false, stranger, true), (false, stranger + 1, false), (true, MAX_FRAME, true)]
    {
        let (mut a, _, mut raw) = Raw::pair().await;
        if trusted {
            a.trust();
        }
        let mut message = vec![9; length];
        message[..2].copy_from_slice(&[1, 7]);
        raw.say(b"\x00\x01\x01\x01x\x00").await;
        let Ok(ChannelEvent::Asked { .. }) = a.next(true).await else { panic!() };
        a.open("x", b"", b"").unwrap();
        let Ok(ChannelEvent::Opened { .. }) = a.next(true).await else { panic!() };
        raw.writer.queue(|out| out.extend_from_slice(&message)).unwrap();
        let (_, received) = tokio::join!(raw.writer.flush(), async {
            let mut most = 0;
            loop {
                match a.next(true).await {
                    Ok(ChannelEvent::Message { kind: 7, payload, .. }) => {
                        break Ok((payload, most));
                    }
                    Ok(_) => {}
                    Err(error) => {
                        // The rest is not read.
                        drop(a);
                        break Err(error);
                    }
                }
                most = most.max(a.half_received());
            }
        });
        match received {
            Ok((payload, _)) => assert!(accepted && payload.len() == length - 2),
            Err(error) => {
                assert!(!accepted && matches!(error, ChannelsError::Broken(_)), "{error}")
            }
        }
    }
}

/// A remote that does not read is sent what the transport takes; the rest waits, and is given up after a
/// minute in which nothing was taken.
#[tokio::test(start_paused = true)]
async fn a_remote_that_reads_nothing_is_given_up() {
    let (mut a, mut b) = tcp_pair().await;
    let (ours, _) = opened(&mut a, &mut b).await;
    for _ in 0..8 {
        assert!(a.send(ours, 1, &vec![5; 4 * 1024 * 1024]));
    }
    let started = Instant::now();
    let error = loop {
        if let Err(error) = a.next(true).await {
            break error;
        }
    };
    assert_eq!(error, ChannelsError::Deaf);
    assert!(started.elapsed() >= WRITE_WITHIN && a.pending_output() > 4 * 1024 * 1024);
}

#[tokio::test]
async fn a_caller_learns_when_it_may_send_more() {
    let (mut a, mut b) = tcp_pair().await;
    let (ours, _) = opened(&mut a, &mut b).await;
    assert!(a.send(ours, 1, &[5; 1000]));
    assert!(a.send(ours, 1, &[5; MUCH_OUTPUT]));
    assert!(a.pending_output() > MUCH_OUTPUT);
    event(&mut a, &mut b, |event| matches!(event, ChannelEvent::Drained).then_some(())).await;
    assert!(a.pending_output() < LITTLE_OUTPUT);
    // A little output is no event.
    assert!(a.send(ours, 1, &[5; LITTLE_OUTPUT]));
    while a.pending_output() > 0 {
        let event = tokio::select! {
            event = a.next(true) => event,
            () = tokio::time::sleep(Duration::from_millis(1)) => continue,
        };
        assert!(!matches!(event, Ok(ChannelEvent::Drained)));
    }
}

#[tokio::test]
async fn nothing_is_read_while_the_caller_does_not_want_to() {
    let (mut a, mut b) = tcp_pair().await;
    let (ours, theirs) = opened(&mut a, &mut b).await;
    assert!(a.send(ours, 1, b"later") && b.send(theirs, 1, b"now"));
    // Everything of `a` is written, and so is what `b` has to send.
    let message = event(&mut a, &mut b, payload).await;
    assert_eq!(message.1, b"now"[..]);
    while a.pending_output() > 0 {
        let _ = timeout(Duration::from_millis(1), a.next(false)).await;
    }
    for _ in 0..20 {
        let _ = timeout(Duration::from_millis(1), b.next(false)).await.map(|event| {
            assert!(payload(&event.unwrap()).is_none());
        });
    }
    assert_eq!(event(&mut b, &mut a, payload).await.1, b"later"[..]);
}

/// Every await of `next` is cancelled as soon as it waits: nothing is lost or comes twice.
#[tokio::test]
async fn cancelling_next_loses_nothing() {
    let (mut a, mut b) = tcp_pair().await;
    let (mut near_a, mut near_b) = carried_streams(&mut a, &mut b).await;
    let (ours, _) = opened(&mut a, &mut b).await;
    b.trust();
    let lengths: Vec<usize> =
        (0..300).map(|n| [3, 4097, 70_000, 900_000][n % 4] / (1 + n % 7)).collect();
    let (mut sent, mut received) = (0, 0);
    let bytes: Vec<u8> = (0..1_000_000).map(|n| (n % 253) as u8).collect();
    let (mut written, mut read) = (0, Vec::new());
    let mut buffer = vec![0; 10_000];
    while received < lengths.len() || read.len() < bytes.len() {
        if sent < lengths.len() && a.pending_output() < MUCH_OUTPUT {
            assert!(a.send(ours, sent as u64, &vec![sent as u8; lengths[sent]]));
            sent += 1;
        }
        tokio::select! {
            biased;
            event = a.next(true) => drop(event.unwrap()),
            event = b.next(true) => if let Some((kind, payload)) = payload(&event.unwrap()) {
                assert_eq!(kind, received as u64);
                assert_eq!(payload, vec![received as u8; lengths[received]]);
                received += 1;
            },
            count = near_a.write(&bytes[written..]), if written < bytes.len() => written += count.unwrap(),
            count = near_b.read(&mut buffer) => read.extend_from_slice(&buffer[..count.unwrap()]),
            () = tokio::task::yield_now() => {}
        }
    }
    assert_eq!(read, bytes);
}

#[tokio::test]
async fn malformed_messages_end_the_connection() {
    for frame in [&b"\x00"[..], b"\x00\x01\x05\x01x\x00", &[0, 0, 0, 1, 0]] {
        let (mut a, _, mut raw) = Raw::pair().await;
        raw.say(frame).await;
        let error = a.next(true).await.unwrap_err();
        assert!(matches!(error, ChannelsError::Broken(_)), "{error}");
    }
}
