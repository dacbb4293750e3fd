//! A peer that holds a true copy of a drive, knows its key, and lies.

use std::collections::HashMap;
use std::io::{self, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use hypermount_core::testing::wire::{Message, Role, kind, legacy, varint};
use hypermount_core::testing::{TreeNode, Upload};
use hypermount_core::{Core, Store};
use hypermount_swarm::crypto::KeyPair;
use prost::Message as _;

use crate::wire::{Frame, Wire, encode, frame, handshake_message, open_payload};

/// The fault of a liar. The number is that of the bad input in `docs/threats.md`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lie {
    /// No lie: a peer of ours, for comparison.
    None,
    FlippedBit,
    OtherBlock,
    CutBlock,
    LongerBlock,
    EmptyBlock,
    NoValue,
    SevenMebibytes,
    ProofHashFlipped,
    ProofHashShort,
    ProofMissing,
    ProofSize(u64),
    InventedNodes(usize),
    SignatureFlipped,
    SignatureMissing,
    SignatureShort,
    SignatureZero,
    SignatureOfAnotherKey,
    AnotherIndex(u64),
    UnaskedData,
    RepeatedData,
    HaveBeyond {
        start: u64,
        length: u64,
    },
    BitfieldBomb,
    BitfieldGarbage,
    HaveFlood,
    OffersAndTakesBack,
    /// Have and Unhave of everything, this many bytes a second, and no answers.
    AnnouncesAtRate(u64),
    StatusFlaps,
    Silence,
    OneByteAtATime,
    HalfAFrameThenSilence,
    HalfAFrameThenClose,
    Reset,
    ClosesEach3,
    NoHandshake,
    GarbageHandshake,
    EndlessHandshake,
    SlowHandshake,
    Garbage,
    FlippedCipherBits,
    FrameOf2To40,
    EndlessVarint,
    LargeFramesFirst,
    KeepalivesForever,
    ReservedTypes,
    BrokenProtobuf,
    ChannelNeverOpened,
    WrongCapability,
    NoCapability,
    ShortDiscoveryKey,
    ManyChannels(u32),
    OpensAgain,
    OpensAndCloses(u32),
    ExtensionSpam,
    ExtensionNames(usize),
    WantBeyond,
    RequestsWithoutEnd,
    ManyBlocksHint,
}

impl Lie {
    /// Whether the lie takes megabytes to send.
    pub fn is_large(self) -> bool {
        matches!(
            self,
            Lie::SevenMebibytes
                | Lie::LargeFramesFirst
                | Lie::ExtensionNames(_)
                | Lie::ManyChannels(_)
        )
    }
}

/// A listening liar; it ends when dropped.
pub struct Liar {
    pub address: String,
    shared: Arc<Shared>,
}

struct Shared {
    lie: Lie,
    store: Store,
    /// Blocks given truly before the lies begin, on each connection.
    honest_blocks: usize,
    /// Connections on which it lies; after them it is honest.
    lying_connections: usize,
    connections: AtomicUsize,
    over: AtomicBool,
}

impl Liar {
    pub fn new(lie: Lie, store: &Store, honest_blocks: usize) -> Self {
        Self::until(lie, store, honest_blocks, usize::MAX)
    }

    /// A liar that is honest after some connections.
    pub fn until(lie: Lie, store: &Store, honest_blocks: usize, lying_connections: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("it is bound").to_string();
        let shared = Arc::new(Shared {
            lie,
            store: store.clone(),
            honest_blocks,
            lying_connections,
            connections: AtomicUsize::new(0),
            over: AtomicBool::new(false),
        });
        let ours = shared.clone();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let shared = ours.clone();
                if shared.over.load(Ordering::Relaxed) {
                    return;
                }
                let Ok(stream) = stream else { continue };
                // Most lies end when the remote closes the connection.
                thread::spawn(move || {
                    if is_legacy(&stream) {
                        drop(shared.meet(stream));
                    }
                });
            }
        });
        Self { address, shared }
    }

    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::Relaxed)
    }
}

/// Whether the peer speaks the old protocol. A given address is dialled as a server of Hyperswarm 4 as well, whose
/// first byte is the length of a key; it finds none here.
fn is_legacy(stream: &TcpStream) -> bool {
    let mut first = [0];
    stream.peek(&mut first).is_ok_and(|count| count == 1) && first != [32]
}

impl Drop for Liar {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::Relaxed);
        // Wakes the listening thread.
        drop(TcpStream::connect(&self.address));
    }
}

impl Shared {
    fn over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    /// Keeps the connection open, and says nothing more, to the end of the test.
    fn stay_silent(&self) -> io::Result<()> {
        while !self.over() {
            thread::sleep(Duration::from_millis(20));
        }
        leave()
    }

    fn meet(&self, mut stream: TcpStream) -> io::Result<()> {
        let number = self.connections.fetch_add(1, Ordering::Relaxed);
        let lie = if number < self.lying_connections { self.lie } else { Lie::None };
        match lie {
            Lie::NoHandshake => return self.stay_silent(),
            Lie::GarbageHandshake => {
                stream.write_all(&handshake_message(&[0x5a; 96]))?;
                return self.stay_silent();
            }
            Lie::EndlessHandshake => {
                let mut length = BytesMut::new();
                varint::write(1 << 31, &mut length);
                stream.write_all(&length)?;
                while !self.over() {
                    stream.write_all(&[0; 65_536])?;
                }
                return Ok(());
            }
            Lie::SlowHandshake => {
                for byte in handshake_message(&[0x5a; 96]) {
                    stream.write_all(&[byte])?;
                    thread::sleep(Duration::from_millis(100));
                }
                return self.stay_silent();
            }
            _ => {}
        }
        let wire = Wire::new(stream, Role::Responder)?;
        Talk { shared: self, lie, wire, channels: HashMap::new(), blocks: 0, told: 0 }.run()
    }
}

/// One connection of a liar.
struct Talk<'a> {
    shared: &'a Shared,
    lie: Lie,
    wire: Wire,
    /// By the remote's channel number: ours, the core, and the honest answers.
    channels: HashMap<u32, (u32, Core, Upload)>,
    /// Blocks sent.
    blocks: usize,
    /// How often a repeated lie was sent.
    told: u64,
}

/// Ends the connection from our side.
fn leave() -> io::Result<()> {
    Err(io::Error::other("the lie is told"))
}

impl Talk<'_> {
    fn run(mut self) -> io::Result<()> {
        self.greet()?;
        while !self.shared.over() {
            match self.wire.frame()? {
                Some(frame) => self.answer(frame)?,
                None => self.idle()?,
            }
        }
        Ok(())
    }

    /// Lies sent before any request.
    fn greet(&mut self) -> io::Result<()> {
        match self.lie {
            Lie::Garbage => {
                // Not encrypted: bytes that an attacker on the path could send.
                self.wire.stream.write_all(&[0xa7; 400_000])
            }
            Lie::FrameOf2To40 => self.wire.plain(&{
                let mut length = BytesMut::new();
                varint::write(1 << 40, &mut length);
                length.to_vec()
            }),
            Lie::EndlessVarint => self.wire.plain(&[0xff; 64]),
            Lie::LargeFramesFirst => {
                // All but the last byte of the longest frame there is.
                let mut large = frame(1, kind::OPEN, &vec![0; 8 << 20]);
                large.pop();
                self.wire.plain(&large)?;
                self.shared.stay_silent()
            }
            Lie::KeepalivesForever => {
                while !self.shared.over() {
                    self.wire.plain(&[0; 65_536])?;
                }
                leave()
            }
            Lie::ChannelNeverOpened => self.wire.send(77, kind::WANT, &[8, 0, 16, 8]),
            Lie::ShortDiscoveryKey => {
                let channel = self.wire.channel();
                self.wire.send(channel, kind::OPEN, &open_payload(&[7; 12], Some(&[7; 32])))
            }
            Lie::ManyChannels(count) => {
                let mut opens = Vec::new();
                for number in 0..count {
                    let mut key = [0; 32];
                    key[..4].copy_from_slice(&number.to_le_bytes());
                    let open = open_payload(&key, Some(&[7; 32]));
                    opens.extend(frame(self.wire.channel(), kind::OPEN, &open));
                }
                self.wire.plain(&opens)
            }
            _ => Ok(()),
        }
    }

    /// Lies that need no request, sent while there is none.
    fn idle(&mut self) -> io::Result<()> {
        let Some((channel, core)) =
            self.channels.values().map(|(channel, core, _)| (*channel, core.clone())).next()
        else {
            return Ok(());
        };
        let length = core.head().length;
        let have = |start, length| Message::Have { start, length, bitfield: None, ack: false };
        match self.lie {
            Lie::HaveFlood => {
                let mut burst = Vec::new();
                for number in 0..10_000 {
                    let (kind, payload) = encode(have((self.told + number) * 2 % 200_000, 1));
                    burst.extend(frame(channel, kind, &payload));
                }
                self.told += 10_000;
                self.wire.plain(&burst)
            }
            Lie::OffersAndTakesBack => {
                for _ in 0..500 {
                    self.wire.message(channel, have(0, length))?;
                    self.wire.message(channel, Message::Unhave { start: 0, length })?;
                }
                Ok(())
            }
            Lie::StatusFlaps => {
                for _ in 0..500 {
                    for uploading in [false, true] {
                        let status = Message::Status { uploading, downloading: true };
                        self.wire.message(channel, status)?;
                    }
                }
                Ok(())
            }
            Lie::RequestsWithoutEnd => {
                for number in 0..20_000 {
                    let index = number % (2 * length);
                    let request = Message::Request { index, bytes: 0, hash: false, nodes: 0 };
                    self.wire.message(channel, request)?;
                }
                Ok(())
            }
            Lie::UnaskedData => {
                for index in 0..5000 {
                    let value = Some(Bytes::from_static(b"nobody asked"));
                    let data = Message::Data { index, value, nodes: Vec::new(), signature: None };
                    self.wire.message(channel, data)?;
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn answer(&mut self, (channel, kind, payload): Frame) -> io::Result<()> {
        if kind == kind::OPEN {
            return self.open(channel, payload);
        }
        let Some((ours, _, upload)) = self.channels.get_mut(&channel) else { return Ok(()) };
        let ours = *ours;
        let Ok(Some(message)) = legacy::decode_message(kind, payload) else { return Ok(()) };
        let _ = upload.received(&message);
        while let Some(answer) =
            self.channels.get_mut(&channel).and_then(|(_, _, upload)| upload.next_answer())
        {
            self.say(ours, answer)?;
        }
        Ok(())
    }

    fn open(&mut self, remote: u32, payload: Bytes) -> io::Result<()> {
        let open = legacy::Open::decode(payload).map_err(io::Error::other)?;
        let wanted = open.discovery_key.unwrap_or_default();
        let cores = self.shared.store.cores();
        let core = cores.iter().find(|core| core.discovery_key().as_bytes()[..] == wanted[..]);
        let Some(core) = core.cloned() else { return Ok(()) };
        let known = self.channels.values().find(|(_, known, _)| known.key() == core.key());
        if let Some((channel, ..)) = known {
            // An answer to an Open of ours.
            let answered = (*channel, core.clone(), Upload::new(core));
            self.channels.insert(remote, answered);
            return Ok(());
        }
        let claim = match self.lie {
            Lie::WrongCapability => Some([0x11; 32]),
            Lie::NoCapability => None,
            _ => Some(self.wire.capability(core.key())),
        };
        let claim = claim.as_ref().map(|claim| &claim[..]);
        let channel = self.wire.open_with(core.discovery_key().as_bytes(), claim)?;
        self.channels.insert(remote, (channel, core.clone(), Upload::new(core.clone())));
        self.opened(remote, channel, &core)?;
        self.idle()
    }

    fn announce_at_rate(&mut self, channel: u32, core: &Core, rate: u64) -> io::Result<()> {
        let length = core.head().length;
        // The liar serves the index like any other peer.
        if length < 100 {
            return Ok(());
        }
        let have = Message::Have { start: 0, length, bitfield: None, ack: false };
        let pair: Vec<u8> = [have, Message::Unhave { start: 0, length }]
            .into_iter()
            .flat_map(|message| {
                let (kind, payload) = encode(message);
                frame(channel, kind, &payload)
            })
            .collect();
        let started = Instant::now();
        let mut sent = 0;
        while !self.shared.over() {
            let due = rate.saturating_mul(started.elapsed().as_millis() as u64) / 1000;
            let count = due.saturating_sub(sent) / pair.len() as u64;
            self.wire.plain(&pair.repeat(count as usize))?;
            sent += count * pair.len() as u64;
            thread::sleep(Duration::from_millis(5));
        }
        leave()
    }

    /// Lies sent when a core has been opened.
    fn opened(&mut self, remote: u32, channel: u32, core: &Core) -> io::Result<()> {
        let have = |start, length, bitfield| Message::Have { start, length, bitfield, ack: false };
        match self.lie {
            Lie::HaveBeyond { start, length } => {
                self.wire.message(channel, have(start, length, None))
            }
            Lie::BitfieldBomb => {
                // A run of 2^40 bytes of ones.
                let mut bomb = BytesMut::new();
                varint::write((1 << 42) | 3, &mut bomb);
                self.wire.message(channel, have(0, 1 << 20, Some(bomb.freeze())))
            }
            Lie::AnnouncesAtRate(rate) => self.announce_at_rate(channel, core, rate),
            Lie::BitfieldGarbage => {
                let garbage = Some(Bytes::from_static(&[0xfe, 0xff, 0x7f, 1, 2, 3]));
                self.wire.message(channel, have(0, 1 << 20, garbage))
            }
            Lie::ReservedTypes => {
                for kind in 11..=14 {
                    self.wire.send(channel, kind, b"what a later version might say")?;
                }
                Ok(())
            }
            Lie::BrokenProtobuf => self.wire.send(channel, kind::HAVE, &[0xff, 0xff, 0xff]),
            Lie::OpensAgain => {
                let open = open_payload(core.discovery_key().as_bytes(), Some(&[7; 32]));
                self.wire.send(channel, kind::OPEN, &open)
            }
            Lie::OpensAndCloses(count) => {
                let mut last = channel;
                for _ in 0..count {
                    self.wire.send(last, kind::CLOSE, &[])?;
                    last = self.wire.open(core.key())?;
                }
                self.channels.insert(remote, (last, core.clone(), Upload::new(core.clone())));
                Ok(())
            }
            Lie::ExtensionSpam => {
                for id in 0..20_000_u64 {
                    let mut payload = BytesMut::new();
                    varint::write(id % 3, &mut payload);
                    payload.extend_from_slice(&[0xab; 40]);
                    self.wire.send(channel, kind::EXTENSION, &payload)?;
                }
                Ok(())
            }
            Lie::ExtensionNames(count) => {
                let extensions = (0..count).map(|number| format!("extension {number}")).collect();
                let options = legacy::Options { extensions, ack: None };
                self.wire.send(channel, kind::OPTIONS, &options.encode_to_vec())
            }
            Lie::WantBeyond => {
                self.wire.message(channel, Message::Want { start: 0, length: 1 << 53 })?;
                let start = u64::MAX - 8191;
                self.wire.message(channel, Message::Want { start, length: 8192 })
            }
            Lie::ManyBlocksHint => {
                let options = legacy::Options { extensions: vec!["hypertrie".into()], ack: None };
                self.wire.send(channel, kind::OPTIONS, &options.encode_to_vec())?;
                for _ in 0..200 {
                    let blocks: Vec<u64> = (0..2176).map(|block| block << 20).collect();
                    let cache = hypermount_core::testing::wire::extension::TrieMessage::Cache {
                        start: 0,
                        end: 1 << 40,
                        blocks,
                    };
                    let payload = [&[0][..], &cache.encode()].concat();
                    self.wire.send(channel, kind::EXTENSION, &payload)?;
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Sends an honest answer, or the lie in its place.
    fn say(&mut self, channel: u32, answer: Message) -> io::Result<()> {
        let Message::Data { index, value, nodes, signature } = answer else {
            return self.wire.message(channel, answer);
        };
        self.blocks += 1;
        if self.blocks <= self.shared.honest_blocks {
            let data = Message::Data { index, value, nodes, signature };
            return self.wire.message(channel, data);
        }
        let honest = legacy::Data {
            index: Some(index),
            value,
            nodes: nodes.iter().map(tree_node).collect(),
            signature: signature.map(|bytes| Bytes::copy_from_slice(bytes.as_bytes())),
        };
        self.lie_about(channel, honest, &nodes)
    }

    fn lie_about(
        &mut self,
        channel: u32,
        honest: legacy::Data,
        nodes: &[TreeNode],
    ) -> io::Result<()> {
        let mut data = honest.clone();
        let value = data.value.clone().unwrap_or_default();
        match self.lie {
            Lie::FlippedBit => data.value = Some(flipped(&value)),
            Lie::OtherBlock => data.value = Some(Bytes::from_static(b"of another block")),
            Lie::CutBlock => data.value = Some(value.slice(..value.len().saturating_sub(1))),
            Lie::LongerBlock => data.value = Some([&value[..], b"!"].concat().into()),
            Lie::EmptyBlock => data.value = Some(Bytes::new()),
            Lie::NoValue => data.value = None,
            Lie::SevenMebibytes => data.value = Some(vec![0; 7 << 20].into()),
            Lie::ProofHashFlipped => {
                for node in &mut data.nodes {
                    node.hash = node.hash.as_ref().map(flipped);
                }
            }
            Lie::ProofHashShort => {
                for node in &mut data.nodes {
                    node.hash = node.hash.as_ref().map(|hash| hash.slice(..31));
                }
            }
            Lie::ProofMissing => data.nodes.clear(),
            Lie::ProofSize(size) => {
                for node in &mut data.nodes {
                    node.size = node.size.map(|honest| honest.saturating_add(size));
                }
            }
            Lie::InventedNodes(count) => data.nodes.extend(invented(count, nodes)),
            Lie::SignatureFlipped => data.signature = data.signature.as_ref().map(flipped),
            Lie::SignatureMissing => data.signature = None,
            Lie::SignatureShort => {
                data.signature = data.signature.map(|bytes| bytes.slice(..63));
            }
            Lie::SignatureZero => data.signature = Some(vec![0; 64].into()),
            Lie::SignatureOfAnotherKey => {
                let signature = KeyPair::from_seed(&[9; 32]).sign(b"something else");
                data.signature = Some(Bytes::copy_from_slice(&signature));
            }
            Lie::AnotherIndex(index) => data.index = Some(index),
            Lie::RepeatedData => {
                for _ in 0..400 {
                    self.wire.send(channel, kind::DATA, &honest.encode_to_vec())?;
                }
            }
            Lie::Silence => return Ok(()),
            Lie::OneByteAtATime
            | Lie::HalfAFrameThenSilence
            | Lie::HalfAFrameThenClose
            | Lie::Reset
            | Lie::FlippedCipherBits => return self.deliver_badly(channel, &honest),
            Lie::ClosesEach3 => {
                self.wire.send(channel, kind::DATA, &honest.encode_to_vec())?;
                self.told += 1;
                return if self.told == 3 { leave() } else { Ok(()) };
            }
            _ => {}
        }
        self.wire.send(channel, kind::DATA, &data.encode_to_vec())
    }

    fn deliver_badly(&mut self, channel: u32, honest: &legacy::Data) -> io::Result<()> {
        let plain = frame(channel, kind::DATA, &honest.encode_to_vec());
        let mut bytes = self.wire.encrypt(&plain);
        let half = bytes.len() / 2;
        match self.lie {
            Lie::OneByteAtATime => {
                for byte in bytes {
                    self.wire.stream.write_all(&[byte])?;
                    thread::sleep(Duration::from_millis(100));
                    if self.shared.over() {
                        return leave();
                    }
                }
            }
            Lie::HalfAFrameThenSilence => {
                self.wire.stream.write_all(&bytes[..half])?;
                return self.shared.stay_silent();
            }
            Lie::HalfAFrameThenClose => {
                self.wire.stream.write_all(&bytes[..half])?;
                return leave();
            }
            Lie::Reset => {
                self.wire.stream.write_all(&bytes[..half])?;
                // Closing with bytes unread resets the connection.
                self.wire.stream.set_linger_zero();
                return leave();
            }
            _ => {
                // Bits of the rest of the header, and of the block.
                for byte in bytes.iter_mut().skip(half) {
                    *byte ^= 0x40;
                }
                self.wire.stream.write_all(&bytes)?;
            }
        }
        Ok(())
    }
}

/// Closing the socket then resets the connection instead of ending it in order.
trait Abrupt {
    fn set_linger_zero(&self);
}

impl Abrupt for TcpStream {
    fn set_linger_zero(&self) {
        rustix::net::sockopt::set_socket_linger(self, Some(Duration::ZERO)).expect("a socket");
    }
}

fn flipped(bytes: &Bytes) -> Bytes {
    let mut bytes = bytes.to_vec();
    let middle = bytes.len() / 2;
    if let Some(byte) = bytes.get_mut(middle) {
        *byte ^= 1;
    }
    bytes.into()
}

fn tree_node(node: &TreeNode) -> legacy::WireNode {
    legacy::WireNode {
        index: Some(node.index),
        hash: Some(Bytes::copy_from_slice(&node.hash)),
        size: Some(node.size),
    }
}

/// Nodes beside those that are asked for.
fn invented(count: usize, nodes: &[TreeNode]) -> Vec<legacy::WireNode> {
    let after = nodes.iter().map(|node| node.index).max().unwrap_or(0) + 1;
    (0..count as u64)
        .map(|number| tree_node(&TreeNode { index: after + number, hash: [7; 32], size: 1 }))
        .collect()
}
