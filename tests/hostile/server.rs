//! Hostile clients of `hypermount serve`: it keeps running, stores little, reveals nothing to
//! clients that know no key, and serves an honest client meanwhile.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use hypermount_core::testing::wire::{Message, kind, legacy, varint};
use hypermount_swarm::PublicKey;
use prost::Message as _;

use crate::common::{Home, KEY, Running};
use crate::fixture::{HANGS, MOST_MEMORY, cat, peak_memory};
use crate::wire::{Frame, Wire, frame, handshake_message, open_payload};

/// A server of the golden drive, run as a user would.
struct Server {
    home: Home,
    running: Running,
    address: String,
}

impl Server {
    fn new() -> Self {
        let home = Home::new();
        home.golden_store("store");
        let arguments = ["serve", "--store", "store", "--listen", "127.0.0.1:0"];
        let running = Running::start(home.command().args(arguments));
        let address = running.line();
        Self { home, running, address }
    }

    fn dial(&self) -> Wire {
        Wire::dial(&self.address).expect("the server answers")
    }

    /// A client that has opened the drive's index as it should.
    fn client(&self) -> (Wire, u32) {
        let mut wire = self.dial();
        let channel = wire.open(&key()).expect("is sent");
        let opened = next(&mut wire, |(_, kind, _)| *kind == kind::OPEN);
        assert!(opened.is_some(), "the server opens what it has");
        (wire, channel)
    }

    fn serves_the_honest(&self, when: &str) {
        let url = format!("hyper://{KEY}/hello.txt");
        // Sooner than connections without a handshake end by themselves.
        let told = cat(&Home::new(), &url, &[&self.address], "6s");
        assert_eq!(told.code, Some(0), "{when}: {}", told.stderr);
        assert_eq!(told.stdout, b"hello again, overwritten", "{when}");
    }

    fn must_be_sound(mut self, what: &str) {
        self.serves_the_honest(&format!("after {what}"));
        let peak = peak_memory(self.running.child.id());
        assert!(peak > 0 && peak < MOST_MEMORY, "{what}: {peak} KiB of memory");
        self.running.signal(nix::sys::signal::Signal::SIGTERM);
        assert_eq!(self.running.ended(), Some(0), "{what}");
        drop(self.home);
    }
}

fn key() -> PublicKey {
    PublicKey::from_hex(KEY).expect("the vector's key")
}

/// The next frame that `wanted` says yes to; `None` if the server ends the connection.
pub fn next(wire: &mut Wire, wanted: impl Fn(&Frame) -> bool) -> Option<Frame> {
    let started = Instant::now();
    loop {
        assert!(started.elapsed() < HANGS, "neither an answer nor an end");
        match wire.frame() {
            Ok(Some(frame)) if wanted(&frame) => return Some(frame),
            Ok(_) => {}
            Err(_) => return None,
        }
    }
}

#[track_caller]
fn is_ended(wire: &mut Wire) {
    assert!(next(wire, |_| false).is_none());
}

/// All the server says in answer to `plain` until it has answered a want that follows it.
fn said_about(server: &Server, plain: impl Fn(&mut Wire) -> Vec<u8>) -> Vec<(u8, usize)> {
    let mut wire = server.dial();
    let plain = plain(&mut wire);
    wire.plain(&plain).expect("is sent");
    // A core that does not exist: its refusal shows that all earlier messages were processed.
    let mark = PublicKey::new([0x77; 32]);
    wire.open(&mark).expect("is sent");
    let mark = mark.discovery_key();
    let mut said = Vec::new();
    next(&mut wire, |(_, kind, payload)| {
        let close = legacy::Close::decode(payload.clone()).ok();
        close.is_some_and(|close| {
            *kind == kind::CLOSE
                && close.discovery_key.is_some_and(|key| key[..] == mark.as_bytes()[..])
        })
    });
    said.append(&mut wire.seen);
    said
}

#[test]
fn t16_bad_handshakes() {
    let server = Server::new();
    let mut silent = Vec::new();
    for first in [vec![], vec![0x5a; 3], handshake_message(&[0; 31]), handshake_message(&[9; 300])]
    {
        let mut stream = TcpStream::connect(&server.address).expect("connects");
        stream.write_all(&first).expect("is sent");
        silent.push(stream);
    }
    let mut endless = TcpStream::connect(&server.address).expect("connects");
    let mut length = BytesMut::new();
    varint::write(1 << 31, &mut length);
    endless.write_all(&length).expect("is sent");
    endless.set_read_timeout(Some(HANGS)).expect("a socket");
    assert!(hung_up(&mut endless), "a handshake of 2^31 bytes is refused at once");
    server.serves_the_honest("meanwhile");
    for mut stream in silent {
        stream.set_read_timeout(Some(HANGS)).expect("a socket");
        assert!(hung_up(&mut stream), "an unfinished handshake is ended");
    }
    server.must_be_sound("bad handshakes");
}

fn hung_up(stream: &mut TcpStream) -> bool {
    let mut room = [0; 1024];
    loop {
        match stream.read(&mut room) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) => return error.kind() == ErrorKind::ConnectionReset,
        }
    }
}

#[test]
fn t17_t18_t19_frames_that_end_the_connection() {
    let server = Server::new();
    let mut absurd = BytesMut::new();
    varint::write(1 << 40, &mut absurd);
    let open = open_payload(key().discovery_key().as_bytes(), Some(&[7; 32]));
    for (what, plain) in [
        ("a frame of 2^40", absurd.to_vec()),
        ("an endless varint", vec![0xff; 64]),
        ("a stranger's long frame", frame(1, kind::OPEN, &[0; 70_000])[..100].to_vec()),
        ("a channel never opened", frame(9, kind::REQUEST, &[8, 0])),
        ("broken protobuf", frame(1, kind::OPEN, &[0xff; 9])),
        ("a short discovery key", frame(1, kind::OPEN, &open_payload(&[7; 5], Some(&[7; 32])))),
        ("a channel beyond all", frame(1 << 27, kind::OPEN, &open)),
    ] {
        let mut wire = server.dial();
        wire.plain(&plain).expect("is sent");
        let started = Instant::now();
        is_ended(&mut wire);
        // The deadline of a handshake is 10 s, that of a silent connection 20 s.
        assert!(started.elapsed() < Duration::from_secs(9), "{what}: ended late");
    }
    let (mut wire, _) = server.client();
    wire.open(&key()).expect("is sent");
    is_ended(&mut wire);
    let mut wire = server.dial();
    let mut garbage = wire.stream.try_clone().expect("a socket");
    garbage.write_all(&[0x3c; 400_000]).ok();
    is_ended(&mut wire);
    server.must_be_sound("broken frames");
}

/// Large frames that never end, from clients that know the key: as many as one host may send.
#[test]
fn t18_half_sent_frames_have_a_budget() {
    let server = Server::new();
    let mut clients: Vec<_> = (0..30).map(|_| server.client()).collect();
    let half = vec![0; 6 << 20];
    let mut sent = 0;
    for (wire, channel) in &mut clients {
        let mut large = frame(*channel, kind::EXTENSION, &half);
        large.pop();
        // Written as they are: encrypting costs the test more than the server.
        let header = wire.encrypt(&large[..5]);
        if wire.stream.write_all(&header).and_then(|()| wire.stream.write_all(&large[5..])).is_ok()
        {
            sent += 1;
        }
    }
    assert!(sent > 0);
    server.serves_the_honest("beside half a frame each");
    server.must_be_sound("half-sent frames");
}

#[test]
fn t18_keepalives_do_not_block_other_clients() {
    let server = Server::new();
    let mut wire = server.dial();
    let mut stream = wire.stream.try_clone().expect("a socket");
    let zeros = wire.encrypt(&vec![0; 4 << 20]);
    std::thread::scope(|scope| {
        // Ends when the connection does.
        scope.spawn(move || while stream.write_all(&zeros).is_ok() {});
        server.serves_the_honest("beside endless keep-alives");
        wire.stream.shutdown(std::net::Shutdown::Both).ok();
    });
    server.must_be_sound("endless keep-alives");
}

/// A zero in two bytes: more than one for each thread the server has.
#[test]
fn t18_keepalives_longer_than_they_need_to_be() {
    let server = Server::new();
    let mut wires: Vec<_> = (0..16).map(|_| server.dial()).collect();
    for wire in &mut wires {
        wire.plain(&[0x80, 0]).expect("sent");
    }
    server.serves_the_honest("beside keep-alives of two bytes");
    server.must_be_sound("keep-alives of two bytes");
}

#[test]
fn t20_a_client_without_the_key_learns_nothing() {
    let server = Server::new();
    let known = key().discovery_key();
    let unknown = PublicKey::new([0x55; 32]).discovery_key();
    let about = |core: &[u8; 32], claim: Option<[u8; 32]>| {
        said_about(&server, |wire| {
            let channel = wire.channel();
            frame(channel, kind::OPEN, &open_payload(core, claim.as_ref().map(|claim| &claim[..])))
        })
    };
    let taken_back = |core: &[u8; 32]| {
        said_about(&server, |wire| {
            let channel = wire.channel();
            let open = frame(channel, kind::OPEN, &open_payload(core, Some(&[7; 32])));
            [open, frame(channel, kind::CLOSE, &[])].concat()
        })
    };
    for claim in [None, Some([7; 32])] {
        let (ours, absent) = (about(known.as_bytes(), claim), about(unknown.as_bytes(), claim));
        assert_eq!(ours, absent, "a core it has and one it has not are answered alike");
        assert!(ours.iter().all(|(kind, _)| *kind == kind::CLOSE), "{ours:?}");
    }
    assert_eq!(taken_back(known.as_bytes()), taken_back(unknown.as_bytes()));
    let nothing = said_about(&server, |_| Vec::new());
    assert!(nothing.iter().all(|(kind, _)| *kind == kind::CLOSE), "told unasked: {nothing:?}");
    server.must_be_sound("strangers");
}

/// A server that only holds a partial copy does not announce it unasked.
#[test]
fn t20_a_fetched_copy_is_not_announced() {
    let server = Server::new();
    let home = Home::new();
    let url = format!("hyper://{KEY}/hello.txt");
    let told = cat(&home, &url, &[&server.address], "20s");
    assert_eq!(told.code, Some(0), "{}", told.stderr);
    let arguments = ["serve", "--store", "fetched", "--listen", "127.0.0.1:0"];
    let running = Running::start(home.command().args(arguments));
    let address = running.line();
    let copy = Server { home, running, address };
    let told = said_about(&copy, |_| Vec::new());
    assert!(told.iter().all(|(kind, _)| *kind == kind::CLOSE), "told unasked: {told:?}");
    copy.must_be_sound("serving a copy");
}

#[test]
fn t21_channels_without_end() {
    let server = Server::new();
    let mut wire = server.dial();
    let mut plain = Vec::new();
    for number in 0..20_000_u32 {
        let mut core = [0; 32];
        core[..4].copy_from_slice(&number.to_le_bytes());
        plain.extend(frame(number + 1, kind::OPEN, &open_payload(&core, Some(&[7; 32]))));
    }
    wire.plain(&plain).expect("is sent");
    for _ in 0..20_000 {
        assert!(next(&mut wire, |(_, kind, _)| *kind == kind::CLOSE).is_some(), "each is refused");
    }
    // A peer may open and close the same core repeatedly.
    let (mut wire, mut channel) = server.client();
    for _ in 0..300 {
        wire.send(channel, kind::CLOSE, &[]).expect("is sent");
        channel = wire.open(&key()).expect("is sent");
    }
    // A message that arrives before the server has opened its side is lost, so it is repeated.
    let started = Instant::now();
    loop {
        assert!(started.elapsed() < HANGS, "not served any more");
        wire.message(channel, Message::Want { start: 0, length: 1 << 20 }).expect("is sent");
        if matches!(wire.frame().expect("is not ended"), Some((_, kind::HAVE, _))) {
            break;
        }
    }
    server.must_be_sound("channels without end");
}

#[test]
fn t22_extensions_without_end() {
    let server = Server::new();
    let (mut wire, channel) = server.client();
    let mut plain = Vec::new();
    for id in 0..30_000_u64 {
        let mut payload = BytesMut::new();
        varint::write(id % 2, &mut payload);
        payload.extend_from_slice(&[0xab; 60]);
        plain.extend(frame(channel, kind::EXTENSION, &payload));
    }
    wire.plain(&plain).expect("is sent");
    wire.message(channel, Message::Want { start: 0, length: 1 << 20 }).expect("is sent");
    assert!(next(&mut wire, |(_, kind, _)| *kind == kind::HAVE).is_some(), "they are ignored");
    let extensions = (0..100_000).map(|number| format!("extension {number}")).collect();
    let names = legacy::Options { extensions, ack: None }.encode_to_vec();
    // It may be gone before the last of them is sent.
    wire.send(channel, kind::OPTIONS, &names).ok();
    is_ended(&mut wire);
    server.must_be_sound("extensions without end");
}

#[test]
fn t23_requests_past_the_end_and_without_end() {
    let server = Server::new();
    let (mut wire, channel) = server.client();
    let request = |index| Message::Request { index, bytes: 0, hash: false, nodes: 0 };
    for index in [28, 1 << 31, 1 << 53, u64::MAX] {
        wire.message(channel, request(index)).expect("is sent");
        let (_, _, payload) =
            next(&mut wire, |(_, kind, _)| *kind == kind::UNHAVE).expect("answers");
        let unhave = legacy::Range::decode(payload).expect("is one");
        assert_eq!((unhave.start, unhave.length), (Some(index), Some(1)));
    }
    wire.message(channel, Message::Want { start: 0, length: 1 << 53 }).expect("is sent");
    wire.message(channel, Message::Want { start: u64::MAX - 8191, length: 8192 }).expect("is sent");
    wire.message(
        channel,
        Message::Request { index: 0, bytes: u64::MAX, hash: true, nodes: u64::MAX },
    )
    .expect("is sent");
    wire.message(channel, request(3)).expect("is sent");
    let (_, _, payload) =
        next(&mut wire, |(_, kind, payload)| *kind == kind::DATA && index_of(payload) == Some(3))
            .expect("and goes on serving");
    assert!(!payload.is_empty());

    // More than it queues, none of the answers read.
    let mut plain = Vec::new();
    for number in 0..200_000_u64 {
        let (kind, payload) = crate::wire::encode(request(number % 28));
        plain.extend(frame(channel, kind, &payload));
    }
    wire.stream.set_write_timeout(Some(HANGS)).expect("a socket");
    // It may be gone before the last of them is sent.
    wire.plain(&plain).ok();
    is_ended(&mut wire);
    server.must_be_sound("requests without end");
}

fn index_of(payload: &Bytes) -> Option<u64> {
    legacy::Data::decode(payload.clone()).ok()?.index
}

#[test]
fn t24_thousands_of_connections() {
    let server = Server::new();
    let mut held = Vec::new();
    for number in 0..2000 {
        let Ok(stream) = TcpStream::connect(&server.address) else { continue };
        if number % 100 == 0 {
            // One in a hundred shakes hands.
            drop(
                Wire::new(stream, hypermount_core::testing::wire::Role::Initiator)
                    .map(|wire| held.push(wire.stream)),
            );
        } else {
            held.push(stream);
        }
        if number % 500 == 250 {
            server.serves_the_honest("among thousands");
        }
    }
    server.serves_the_honest("with thousands connected");
    let open = std::fs::read_dir(format!("/proc/{}/fd", server.running.child.id()));
    let open = open.expect("it runs").count();
    assert!(open < hypermount_swarm::MAX_STRANGERS + 64, "{open} descriptors");
    server.must_be_sound("thousands of connections");
}

/// A place once held by a client that knows a key is not taken from it.
#[test]
fn t24_strangers_do_not_take_the_place_of_a_client() {
    let server = Server::new();
    let (mut wire, channel) = server.client();
    let strangers: Vec<_> =
        (0..200).filter_map(|_| TcpStream::connect(&server.address).ok()).collect();
    server.serves_the_honest("among strangers");
    wire.message(channel, Message::Request { index: 0, bytes: 0, hash: false, nodes: 0 })
        .expect("is sent");
    assert!(next(&mut wire, |(_, kind, _)| *kind == kind::DATA).is_some(), "still served");
    drop(strangers);
    server.must_be_sound("strangers");
}
