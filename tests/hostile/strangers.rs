//! Peers that flood a daemon: it answers its user, serves others, uses little memory, and ends when
//! asked to.

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use hypermount_core::testing::wire::extension::{self, TrieMessage};
use hypermount_core::testing::wire::{Message, Role, kind, legacy, varint};
use hypermount_swarm::PublicKey;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use prost::Message as _;
use serde_json::Value;

use crate::common::{Home, Ran, eventually};
use crate::fixture::{MOST_ABOVE_IDLE, MOST_MEMORY, peak_memory};
use crate::publisher::{Publisher, node};
use crate::server::next;
use crate::wire::{Wire, encode, frame, open_payload};

/// An answer that takes longer counts as missing. The flood and all other tests share two processors.
const DEADLINE: Duration = Duration::from_secs(30);

/// Hosts of peers, and connections of each: all places there are for peers.
const HOSTS: u8 = 4;
const CONNECTIONS: u8 = 32;
/// Connections of each host that take all places there are for strangers.
const STRANGERS: u8 = (hypermount_swarm::MAX_STRANGERS / HOSTS as usize) as u8;

/// A daemon that gives a drive to peers.
struct Daemon {
    home: Home,
    key: PublicKey,
    pid: u32,
    address: String,
    _publisher: Publisher,
}

fn json(ran: Ran) -> Value {
    serde_json::from_str(&ran.must_succeed().stdout).expect("JSON")
}

impl Daemon {
    /// It seeds another publisher's drive, which has these blocks at the end of its index.
    fn new(blocks: &[Vec<u8>]) -> Self {
        let publisher = Publisher::new();
        for block in blocks {
            publisher.block(block);
        }
        let key = *publisher.drive.key();
        let home = Home::new();
        let url = format!("hyper://{}", key.to_hex());
        home.run(["seed", &url, "--listen", "127.0.0.1:0", "--peer", &publisher.address])
            .must_succeed();
        eventually("all of it is here", || {
            json(home.run(["status", "--json"]))["seeds"][0]["complete"] == true
        });
        let status = json(home.run(["status", "--json"]));
        let address = status["listening"][0].as_str().expect("it listens").to_owned();
        let pid = status["pid"].as_u64().expect("a pid") as u32;
        Self { home, key, pid, address, _publisher: publisher }
    }

    /// A connection from one of the addresses of this machine, before the handshake.
    fn connect(&self, host: u8) -> TcpStream {
        use rustix::net::{AddressFamily, SocketType, bind, connect, socket};
        let socket = socket(AddressFamily::INET, SocketType::STREAM, None).expect("a socket");
        let from = SocketAddrV4::new(Ipv4Addr::new(127, 0, 0, host), 0);
        bind(&socket, &from).expect("an address of this machine");
        let to: SocketAddrV4 = self.address.parse().expect("an address");
        connect(&socket, &to).expect("connects");
        TcpStream::from(socket)
    }

    /// A peer that knows no key.
    fn stranger(&self, host: u8) -> std::io::Result<Wire> {
        Wire::new(self.connect(host), Role::Initiator)
    }

    /// A peer that knows the key and speaks the extension.
    fn client(&self) -> (Wire, u32) {
        self.client_from(1).expect("there is a place")
    }

    /// `None` when all places are taken.
    fn client_from(&self, host: u8) -> Option<(Wire, u32)> {
        let mut wire = self.stranger(host).ok()?;
        let channel = wire.open(&self.key).expect("is sent");
        next(&mut wire, |(_, kind, _)| *kind == kind::OPEN)?;
        let extensions = vec![extension::NAME.to_owned()];
        let options = legacy::Options { extensions, ack: None }.encode_to_vec();
        wire.send(channel, kind::OPTIONS, &options).expect("is sent");
        Some((wire, channel))
    }

    /// A client that sends each message after `delay`.
    fn far_client(&self, host: u8, delay: Duration) -> Option<Wire> {
        let mut wire = Wire::with_delay(self.connect(host), Role::Initiator, delay).ok()?;
        thread::sleep(delay);
        wire.open(&self.key).ok()?;
        next(&mut wire, |(_, kind, _)| *kind == kind::OPEN)?;
        Some(wire)
    }

    /// Memory that it uses now, in KiB.
    fn memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid));
        let status = status.expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok()).expect("a number")
    }

    /// Checks that its peak is not far above its memory at the start.
    #[track_caller]
    fn kept_little(&self, idle: u64, what: &str) {
        let peak = peak_memory(self.pid);
        println!("{what}: {idle} KiB idle, {peak} KiB at most");
        assert!(peak > 0 && peak < idle + MOST_ABOVE_IDLE, "{what}: {idle} KiB, then {peak} KiB");
    }

    #[track_caller]
    fn answers_its_user(&self, when: &str) {
        let started = Instant::now();
        let status = json(self.home.run(["status", "--json"]));
        assert_eq!(status["up"], true, "{when}");
        assert!(started.elapsed() < DEADLINE, "{when}: status took {:?}", started.elapsed());
    }

    /// SIGTERM ends it.
    #[track_caller]
    fn ends_when_told_to(self, when: &str) {
        let peak = peak_memory(self.pid);
        assert!(peak > 0 && peak < MOST_MEMORY, "{when}: {peak} KiB of memory");
        let started = Instant::now();
        kill(Pid::from_raw(self.pid as i32), Signal::SIGTERM).expect("it runs");
        let stat = format!("/proc/{}/stat", self.pid);
        eventually("the daemon ends", || {
            let stat = std::fs::read_to_string(&stat).unwrap_or_default();
            stat.is_empty() || stat.contains(") Z")
        });
        assert!(started.elapsed() < DEADLINE, "{when}: it ended after {:?}", started.elapsed());
    }
}

/// A hint that resumes a listing at the beginning of this block, 4096 times.
fn resuming(block: u64) -> Vec<u8> {
    let mut checkpoint = BytesMut::new();
    for _ in 0..4096 {
        varint::write(0, &mut checkpoint);
        varint::write(block, &mut checkpoint);
    }
    let checkpoint = Some(checkpoint.freeze());
    let flags = extension::flags::RECURSIVE;
    let hint = TrieMessage::Iterator { head: block, key: String::new(), flags, checkpoint };
    [&[0], &hint.encode()[..]].concat()
}

/// The publisher signed keys with as many components as fit, the peer asks for walks along them.
#[test]
fn a_flood_of_hints_keeps_a_daemon_neither_from_its_user_nor_from_its_end() {
    let keys = [65_536, 4096].map(|slashes| node(&"/".repeat(slashes), Vec::new()));
    let daemon = Daemon::new(&keys);
    let mut flooding = Vec::new();
    for _ in 0..8 {
        let (mut wire, channel) = daemon.client();
        // After the header and an entry without fault.
        let hints = [2, 3].map(|block| frame(channel, kind::EXTENSION, &resuming(block))).concat();
        flooding.push(thread::spawn(move || {
            let started = Instant::now();
            // Ends when the connection does.
            while wire.plain(&hints).is_ok() && started.elapsed() < Duration::from_secs(120) {}
        }));
    }
    for when in ["at first", "a little later", "still"] {
        daemon.answers_its_user(when);
        // Another peer is served.
        drop(daemon.client());
    }
    daemon.ends_when_told_to("during a flood of hints");
    for flood in flooding {
        flood.join().expect("it only sends");
    }
}

/// Occupies all places with peers that do the same, each until it can send no more.
fn from_everywhere<T: Send + 'static>(
    connections: u8,
    dial: impl Fn(u8) -> Option<T>,
    flood: impl Fn(T) + Send + Copy + 'static,
) {
    let hosts = (2..2 + HOSTS).flat_map(|host| std::iter::repeat_n(host, connections.into()));
    let peers: Vec<T> = hosts.filter_map(dial).collect();
    assert!(peers.len() > usize::from(connections), "{} are connected", peers.len());
    let floods: Vec<_> = peers.into_iter().map(|peer| thread::spawn(move || flood(peer))).collect();
    for flood in floods {
        flood.join().expect("it only sends");
    }
}

/// Answers that are not read stop the reading of what causes them.
#[test]
fn opens_whose_refusals_are_not_read_take_little_memory() {
    let daemon = Daemon::new(&[]);
    let idle = daemon.memory();
    from_everywhere(
        STRANGERS,
        |host| daemon.stranger(host).ok(),
        |mut wire| {
            wire.stream.set_write_timeout(Some(Duration::from_secs(3))).expect("a socket");
            for part in 0..65_u32 {
                let opens: Vec<u8> = (part * 1000..part * 1000 + 1000)
                    .flat_map(|number| {
                        let mut core = [0x33; 32];
                        core[..4].copy_from_slice(&number.to_le_bytes());
                        let open = open_payload(&core, Some(&[7; 32]));
                        frame(number + 1, kind::OPEN, &open)
                    })
                    .collect();
                if wire.plain(&opens).is_err() {
                    return;
                }
            }
        },
    );
    daemon.answers_its_user("after a flood of opens");
    daemon.kept_little(idle, "strangers that do not read");
    daemon.ends_when_told_to("after a flood of opens");
}

/// A message of four bytes becomes an event many times as large.
#[test]
fn a_flood_of_unhave_messages_is_decoded_one_at_a_time() {
    let daemon = Daemon::new(&[]);
    let idle = daemon.memory();
    from_everywhere(
        CONNECTIONS,
        |host| daemon.client_from(host),
        |(mut wire, channel)| {
            wire.stream.set_write_timeout(Some(Duration::from_secs(3))).expect("a socket");
            let (kind, payload) = encode(Message::Unhave { start: 0, length: 1 });
            let unhave = frame(channel, kind, &payload);
            assert!(unhave.len() <= 6, "{unhave:?}");
            let unhaves = unhave.repeat(50_000);
            let started = Instant::now();
            while started.elapsed() < Duration::from_secs(5) && wire.plain(&unhaves).is_ok() {}
        },
    );
    daemon.answers_its_user("after a flood of Unhave");
    daemon.kept_little(idle, "128 peers that take back what they never offered");
    daemon.ends_when_told_to("after a flood of Unhave");
}

/// Strangers that completed the handshake and hold their places, and strangers that connect again
/// and again.
#[test]
fn strangers_without_end_keep_no_peer_out() {
    let daemon = Daemon::new(&[]);
    let held: Vec<_> = (0..300).filter_map(|_| daemon.stranger(1).ok()).collect();
    assert!(held.len() > 200, "{} handshakes are done", held.len());
    assert!(daemon.client_from(1).is_some(), "a peer at the address of 300 strangers");
    assert!(daemon.client_from(2).is_some(), "a peer at another address");
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        for host in 10..18 {
            let (daemon, stop) = (&daemon, &stop);
            scope.spawn(move || {
                let mut open = VecDeque::new();
                while !stop.load(Ordering::Relaxed) {
                    open.push_back(daemon.connect(host));
                    // This process has a limit of descriptors too.
                    if open.len() > 50 {
                        open.pop_front();
                    }
                }
            });
        }
        // So far away that every step of the handshake takes at least 100 ms.
        let far: Vec<_> = (20..25)
            .map(|host| daemon.far_client(host, Duration::from_millis(100)).is_some())
            .collect();
        stop.store(true, Ordering::Relaxed);
        assert_eq!(far, [true; 5], "peers that are far away");
    });
    daemon.answers_its_user("after a flood of connections");
    daemon.ends_when_told_to("after a flood of connections");
}
