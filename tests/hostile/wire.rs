//! The wire protocol of a hostile peer: a handshake of its own, and then arbitrary bytes. Blocking, so
//! that the code of a lie has its steps in the order in which they happen.

use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use hypermount_core::wire::Role;
use hypermount_core::wire::cipher::{NONCE_LENGTH, StreamCipher};
use hypermount_core::wire::framing::{self, Front};
use hypermount_core::wire::legacy::{self, kind};
use hypermount_core::wire::message::Message;
use hypermount_core::wire::varint;
use hypermount_swarm::PublicKey;
use hypermount_swarm::crypto::{blake2b_keyed, random_bytes};
use prost::Message as _;

const PATTERN: &str = "Noise_XX_25519_ChaChaPoly_BLAKE2b";
/// A read gives up after this long, so that its thread can see that the test is over.
const GLANCE: Duration = Duration::from_millis(50);
/// Longest handshake message.
const LONGEST: usize = 65_535;

/// A frame of the remote: channel, type, payload.
pub type Frame = (u32, u8, Bytes);

/// One side of a connection after its handshake.
pub struct Wire {
    pub stream: TcpStream,
    transmit: [u8; 32],
    receive: [u8; 32],
    outgoing: StreamCipher,
    incoming: StreamCipher,
    buffer: BytesMut,
    channels: u32,
    /// Type and length of every frame of the remote so far.
    pub seen: Vec<(u8, usize)>,
}

fn broken(what: impl ToString) -> io::Error {
    io::Error::other(what.to_string())
}

/// One handshake message with its length in front.
pub fn handshake_message(body: &[u8]) -> Vec<u8> {
    let mut out = BytesMut::new();
    varint::write(body.len() as u64, &mut out);
    out.extend_from_slice(body);
    out.to_vec()
}

fn read_message(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut length = 0;
    for shift in 0..3 {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        length |= usize::from(byte[0] & 0x7f) << (7 * shift);
        if byte[0] & 0x80 == 0 {
            let mut body = vec![0; length];
            stream.read_exact(&mut body)?;
            return Ok(body);
        }
    }
    Err(broken("a handshake message that long"))
}

impl Wire {
    /// Shakes hands; the remote has a few seconds for its part.
    pub fn new(stream: TcpStream, role: Role) -> io::Result<Self> {
        Self::with_delay(stream, role, Duration::ZERO)
    }

    /// As [`Wire::new`], from far away: each message of ours takes `delay`.
    pub fn with_delay(mut stream: TcpStream, role: Role, delay: Duration) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        let secret: [u8; 32] = random_bytes()?;
        let nonce: [u8; NONCE_LENGTH] = random_bytes()?;
        let payload = [&[10, NONCE_LENGTH as u8][..], &nonce].concat();
        let builder = snow::Builder::new(PATTERN.parse().map_err(broken)?)
            .local_private_key(&secret)
            .map_err(broken)?;
        let state = match role {
            Role::Initiator => builder.build_initiator(),
            Role::Responder => builder.build_responder(),
        };
        let mut state = state.map_err(broken)?;
        let mut remote_nonce = None;
        let mut room = vec![0; LONGEST];
        while !state.is_handshake_finished() {
            if state.is_my_turn() {
                std::thread::sleep(delay);
                let length = state.write_message(&payload, &mut room).map_err(broken)?;
                stream.write_all(&handshake_message(&room[..length]))?;
            } else {
                let message = read_message(&mut stream)?;
                let length = state.read_message(&message, &mut room).map_err(broken)?;
                remote_nonce = room[..length].get(2..2 + NONCE_LENGTH).map(<[u8]>::to_vec);
            }
        }
        let remote_nonce = remote_nonce.and_then(|nonce| nonce.try_into().ok());
        let remote_nonce = remote_nonce.ok_or_else(|| broken("no nonce"))?;
        let (first, second) = state.dangerously_get_raw_split();
        let (transmit, receive) = match role {
            Role::Initiator => (first, second),
            Role::Responder => (second, first),
        };
        stream.set_read_timeout(Some(GLANCE))?;
        stream.set_write_timeout(Some(Duration::from_secs(10)))?;
        Ok(Self {
            stream,
            transmit,
            receive,
            outgoing: StreamCipher::new(&transmit, &nonce),
            incoming: StreamCipher::new(&receive, &remote_nonce),
            buffer: BytesMut::new(),
            channels: 0,
            seen: Vec::new(),
        })
    }

    /// Connects to `address` and shakes hands.
    pub fn dial(address: &str) -> io::Result<Self> {
        Self::new(TcpStream::connect(address)?, Role::Initiator)
    }

    /// The next frame; `None` if none came within a moment, an error when the remote has gone.
    pub fn frame(&mut self) -> io::Result<Option<Frame>> {
        loop {
            match framing::front(&self.buffer).map_err(broken)? {
                Front::KeepAlive { length } => drop(self.buffer.split_to(length)),
                Front::Frame(header) if self.buffer.len() >= header.length + header.payload => {
                    drop(self.buffer.split_to(header.length));
                    let payload = self.buffer.split_to(header.payload).freeze();
                    self.seen.push((header.kind, payload.len()));
                    return Ok(Some((header.channel, header.kind, payload)));
                }
                Front::Incomplete | Front::Frame(_) => {
                    if !self.fill()? {
                        return Ok(None);
                    }
                }
            }
        }
    }

    fn fill(&mut self) -> io::Result<bool> {
        let mut room = [0; 65_536];
        match self.stream.read(&mut room) {
            Ok(0) => Err(ErrorKind::UnexpectedEof.into()),
            Ok(length) => {
                self.incoming.apply(&mut room[..length]);
                self.buffer.extend_from_slice(&room[..length]);
                Ok(true)
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// Bytes as they are, encrypted: they need not be frames.
    pub fn plain(&mut self, bytes: &[u8]) -> io::Result<()> {
        let encrypted = self.encrypt(bytes);
        self.stream.write_all(&encrypted)
    }

    pub fn encrypt(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut bytes = bytes.to_vec();
        self.outgoing.apply(&mut bytes);
        bytes
    }

    pub fn send(&mut self, channel: u32, kind: u8, payload: &[u8]) -> io::Result<()> {
        self.plain(&frame(channel, kind, payload))
    }

    pub fn message(&mut self, channel: u32, message: Message) -> io::Result<()> {
        let (kind, payload) = encode(message);
        self.send(channel, kind, &payload)
    }

    /// The proof for the remote that we know the key.
    pub fn capability(&self, key: &PublicKey) -> [u8; 32] {
        blake2b_keyed(&self.receive, &[b"hypercore capability", &self.transmit, key.as_bytes()])
    }

    /// A channel number not used before.
    pub fn channel(&mut self) -> u32 {
        self.channels += 1;
        self.channels
    }

    /// Opens a core with the given claims; the channel's number.
    pub fn open_with(&mut self, discovery_key: &[u8], claim: Option<&[u8]>) -> io::Result<u32> {
        let channel = self.channel();
        self.send(channel, kind::OPEN, &open_payload(discovery_key, claim))?;
        Ok(channel)
    }

    /// Opens a core with a valid capability.
    pub fn open(&mut self, key: &PublicKey) -> io::Result<u32> {
        let claim = self.capability(key);
        self.open_with(key.discovery_key().as_bytes(), Some(&claim))
    }
}

pub fn open_payload(discovery_key: &[u8], claim: Option<&[u8]>) -> Vec<u8> {
    let open = legacy::Open {
        discovery_key: Some(Bytes::copy_from_slice(discovery_key)),
        capability: claim.map(Bytes::copy_from_slice),
    };
    open.encode_to_vec()
}

/// A frame with its header, not yet encrypted.
pub fn frame(channel: u32, kind: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = BytesMut::new();
    let word = u64::from(channel) << 4 | u64::from(kind);
    varint::write((varint::length(word) + payload.len()) as u64, &mut out);
    varint::write(word, &mut out);
    out.extend_from_slice(payload);
    out.to_vec()
}

/// The type and payload of a message about a core.
pub fn encode(message: Message) -> (u8, Vec<u8>) {
    let (kind, message) = legacy::encode_message(message).expect("no extension message");
    let mut out = BytesMut::new();
    message.encode(&mut out);
    (kind, out.to_vec())
}
