//! Messages that two peers exchange through nodes before they have a connection: the handshake, and
//! the rounds of hole punching (hyperdht.md §4, §5).
//!
//! Not here: the encryption of the payloads (`secret_stream`), and how peers act on them
//! (`network/hyperdht`).

use std::net::{SocketAddrV4, SocketAddrV6};

use bytes::{BufMut, Bytes, BytesMut};

use crate::compact::{
    CutOff, put_buffer, put_ipv4, put_ipv6, put_list, put_uint, take_buffer, take_fixed, take_ipv4,
    take_ipv6, take_list, take_uint,
};

/// Addresses of one list that are decoded; more are ignored. A machine has a few, and three relays.
pub(crate) const MAX_ADDRESSES: usize = 32;

/// The version of the Noise payload and of each of its parts.
pub(crate) const VERSION: u64 = 1;

/// Faults: why a peer refuses a connection.
pub(crate) mod fault {
    pub(crate) const NONE: u64 = 0;
    pub(crate) const ABORTED: u64 = 1;
    pub(crate) const VERSION_MISMATCH: u64 = 2;
    pub(crate) const TRY_LATER: u64 = 3;
}

/// Why a value cannot be decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Malformed {
    #[error("it ends early")]
    CutOff,
    #[error("the mode {0} is unknown")]
    Mode(u64),
    #[error("it is of version {0}")]
    Version(u64),
    #[error("the stream's number {0} is too large")]
    Stream(u64),
}

impl From<CutOff> for Malformed {
    fn from(_: CutOff) -> Self {
        Self::CutOff
    }
}

/// The party that sends a handshake or a holepunch round between two peers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    FromClient,
    FromServer,
    FromRelay,
    FromSecondRelay,
    Reply,
}

impl Mode {
    fn number(self) -> u64 {
        match self {
            Self::FromClient => 0,
            Self::FromServer => 1,
            Self::FromRelay => 2,
            Self::FromSecondRelay => 3,
            Self::Reply => 4,
        }
    }

    fn take(from: &mut Bytes) -> Result<Self, Malformed> {
        Ok(match take_uint(from)? {
            0 => Self::FromClient,
            1 => Self::FromServer,
            2 => Self::FromRelay,
            3 => Self::FromSecondRelay,
            4 => Self::Reply,
            other => return Err(Malformed::Mode(other)),
        })
    }
}

/// The kind of router that a peer is behind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Firewall {
    #[default]
    Unknown,
    /// No router, or one that admits every address.
    Open,
    /// The same port for every remote address.
    Consistent,
    /// A different port for each remote address.
    Random,
}

impl Firewall {
    pub(crate) fn number(self) -> u64 {
        match self {
            Self::Unknown => 0,
            Self::Open => 1,
            Self::Consistent => 2,
            Self::Random => 3,
        }
    }

    fn take(from: &mut Bytes) -> Result<Self, CutOff> {
        Ok(match take_uint(from)? {
            0 => Self::Unknown,
            1 => Self::Open,
            2 => Self::Consistent,
            // Later versions may add kinds; assume the hardest to traverse.
            _ => Self::Random,
        })
    }
}

fn take_addresses(from: &mut Bytes) -> Result<Vec<SocketAddrV4>, CutOff> {
    take_list(from, MAX_ADDRESSES, take_ipv4)
}

fn put_addresses(all: &[SocketAddrV4], out: &mut BytesMut) {
    put_list(all, out, |one, out| put_ipv4(*one, out));
}

/// The flags of the fields that are present.
pub(super) fn put_flags(fields: &[bool], out: &mut BytesMut) {
    let flags = fields.iter().rev().fold(0, |flags, there| flags << 1 | u64::from(*there));
    put_uint(flags, out);
}

/// Whether the field of that place is present.
pub(super) fn has(flags: u64, place: u32) -> bool {
    flags >> place & 1 != 0
}

/// The value of a handshake request, and of its answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Handshake {
    pub mode: Mode,
    /// A message of the Noise handshake.
    pub noise: Bytes,
    /// The address of the peer behind the sender: the client, or in a reply the server.
    pub peer_address: Option<SocketAddrV4>,
    /// The node through which the answer goes, if that is not the sender.
    pub relay_address: Option<SocketAddrV4>,
}

impl Handshake {
    pub(crate) fn encode(&self) -> Bytes {
        let mut out = BytesMut::new();
        put_flags(&[self.peer_address.is_some(), self.relay_address.is_some()], &mut out);
        put_uint(self.mode.number(), &mut out);
        put_buffer(&self.noise, &mut out);
        for address in [self.peer_address, self.relay_address].into_iter().flatten() {
            put_ipv4(address, &mut out);
        }
        out.freeze()
    }

    /// # Errors
    /// Fails if the bytes are not a valid handshake.
    pub(crate) fn decode(mut value: Bytes) -> Result<Self, Malformed> {
        let from = &mut value;
        let flags = take_uint(from)?;
        let mode = Mode::take(from)?;
        let noise = take_buffer(from)?;
        let peer_address = has(flags, 0).then(|| take_ipv4(from)).transpose()?;
        let relay_address = has(flags, 1).then(|| take_ipv4(from)).transpose()?;
        Ok(Self { mode, noise, peer_address, relay_address })
    }
}

/// The value of a holepunch request, and of its answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Holepunch {
    pub mode: Mode,
    /// The server's number for the handshake it is about.
    pub id: u64,
    /// Encrypted: a [`Round`].
    pub payload: Bytes,
    pub peer_address: Option<SocketAddrV4>,
}

impl Holepunch {
    pub(crate) fn encode(&self) -> Bytes {
        let mut out = BytesMut::new();
        put_flags(&[self.peer_address.is_some()], &mut out);
        put_uint(self.mode.number(), &mut out);
        put_uint(self.id, &mut out);
        put_buffer(&self.payload, &mut out);
        if let Some(address) = self.peer_address {
            put_ipv4(address, &mut out);
        }
        out.freeze()
    }

    /// # Errors
    /// Fails if the bytes are not a valid holepunch message.
    pub(crate) fn decode(mut value: Bytes) -> Result<Self, Malformed> {
        let from = &mut value;
        let flags = take_uint(from)?;
        let mode = Mode::take(from)?;
        let id = take_uint(from)?;
        let payload = take_buffer(from)?;
        let peer_address = has(flags, 0).then(|| take_ipv4(from)).transpose()?;
        Ok(Self { mode, id, payload, peer_address })
    }
}

/// A node that forwards holepunch messages, and the server's address as that node sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Relay {
    pub relay_address: SocketAddrV4,
    pub peer_address: SocketAddrV4,
}

/// How a client can punch a hole to a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HolepunchInfo {
    pub id: u64,
    pub relays: Vec<Relay>,
}

/// The datagram stream that is to be connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct UdxInfo {
    pub version: u64,
    /// The socket may be used for further streams.
    pub reusable_socket: bool,
    pub id: u32,
    pub seq: u64,
}

/// A relay through which the whole stream may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RelayThrough {
    pub version: u64,
    pub public_key: [u8; 32],
    pub token: [u8; 32],
}

/// The payload of a Noise handshake message: what each side reports of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct NoisePayload {
    /// One of [`fault`].
    pub error: u64,
    pub firewall: Firewall,
    pub holepunch: Option<HolepunchInfo>,
    pub addresses4: Vec<SocketAddrV4>,
    pub addresses6: Vec<SocketAddrV6>,
    pub udx: Option<UdxInfo>,
    /// The version of the encrypted stream.
    pub secret_stream: Option<u64>,
    pub relay_through: Option<RelayThrough>,
    /// Relays of this server, for the next connection.
    pub relay_addresses: Vec<SocketAddrV4>,
}

impl NoisePayload {
    pub(crate) fn encode(&self) -> Bytes {
        let mut out = BytesMut::new();
        put_uint(VERSION, &mut out);
        put_flags(
            &[
                self.holepunch.is_some(),
                !self.addresses4.is_empty(),
                !self.addresses6.is_empty(),
                self.udx.is_some(),
                self.secret_stream.is_some(),
                self.relay_through.is_some(),
                !self.relay_addresses.is_empty(),
            ],
            &mut out,
        );
        put_uint(self.error, &mut out);
        put_uint(self.firewall.number(), &mut out);
        if let Some(info) = &self.holepunch {
            info.put(&mut out);
        }
        if !self.addresses4.is_empty() {
            put_addresses(&self.addresses4, &mut out);
        }
        if !self.addresses6.is_empty() {
            put_list(&self.addresses6, &mut out, |one, out| put_ipv6(*one, out));
        }
        if let Some(info) = &self.udx {
            info.put(&mut out);
        }
        if let Some(version) = self.secret_stream {
            put_uint(version, &mut out);
        }
        if let Some(info) = &self.relay_through {
            info.put(&mut out);
        }
        if !self.relay_addresses.is_empty() {
            put_addresses(&self.relay_addresses, &mut out);
        }
        out.freeze()
    }

    /// # Errors
    /// Fails if the bytes are not a valid handshake payload; [`Malformed::Version`] if they are one
    /// of another version, whose layout is unknown.
    pub(crate) fn decode(mut payload: Bytes) -> Result<Self, Malformed> {
        let from = &mut payload;
        let version = take_uint(from)?;
        if version != VERSION {
            return Err(Malformed::Version(version));
        }
        let flags = take_uint(from)?;
        let take_addresses6 = |from: &mut Bytes| take_list(from, MAX_ADDRESSES, take_ipv6);
        Ok(Self {
            error: take_uint(from)?,
            firewall: Firewall::take(from)?,
            holepunch: has(flags, 0).then(|| HolepunchInfo::take(from)).transpose()?,
            addresses4: has(flags, 1)
                .then(|| take_addresses(from))
                .transpose()?
                .unwrap_or_default(),
            addresses6: has(flags, 2)
                .then(|| take_addresses6(from))
                .transpose()?
                .unwrap_or_default(),
            udx: has(flags, 3).then(|| UdxInfo::take(from)).transpose()?,
            secret_stream: has(flags, 4).then(|| take_uint(from)).transpose()?,
            relay_through: has(flags, 5).then(|| RelayThrough::take(from)).transpose()?,
            relay_addresses: has(flags, 6)
                .then(|| take_addresses(from))
                .transpose()?
                .unwrap_or_default(),
        })
    }
}

impl HolepunchInfo {
    fn put(&self, out: &mut BytesMut) {
        put_uint(self.id, out);
        put_list(&self.relays, out, |relay, out| {
            put_ipv4(relay.relay_address, out);
            put_ipv4(relay.peer_address, out);
        });
    }

    fn take(from: &mut Bytes) -> Result<Self, CutOff> {
        let take_relay = |from: &mut Bytes| {
            Ok(Relay { relay_address: take_ipv4(from)?, peer_address: take_ipv4(from)? })
        };
        Ok(Self { id: take_uint(from)?, relays: take_list(from, MAX_ADDRESSES, take_relay)? })
    }
}

impl UdxInfo {
    fn put(&self, out: &mut BytesMut) {
        put_uint(self.version, out);
        put_flags(&[self.reusable_socket], out);
        put_uint(self.id.into(), out);
        put_uint(self.seq, out);
    }

    fn take(from: &mut Bytes) -> Result<Self, Malformed> {
        let version = take_uint(from)?;
        let reusable_socket = has(take_uint(from)?, 0);
        let id = take_uint(from)?;
        let id = u32::try_from(id).map_err(|_| Malformed::Stream(id))?;
        Ok(Self { version, reusable_socket, id, seq: take_uint(from)? })
    }
}

impl RelayThrough {
    fn put(&self, out: &mut BytesMut) {
        put_uint(self.version, out);
        put_flags(&[], out);
        out.put_slice(&self.public_key);
        out.put_slice(&self.token);
    }

    fn take(from: &mut Bytes) -> Result<Self, CutOff> {
        let version = take_uint(from)?;
        let _flags = take_uint(from)?;
        Ok(Self { version, public_key: take_fixed(from)?, token: take_fixed(from)? })
    }
}

/// The payload of one holepunch round.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Round {
    /// One of [`fault`].
    pub error: u64,
    pub firewall: Firewall,
    pub round: u64,
    pub connected: bool,
    pub punching: bool,
    /// Where the sender's socket can be reached.
    pub addresses: Vec<SocketAddrV4>,
    /// The address to which the sender has begun to send.
    pub remote_address: Option<SocketAddrV4>,
    /// A token that the other side repeats, which proves its address.
    pub token: Option<[u8; 32]>,
    pub remote_token: Option<[u8; 32]>,
}

impl Round {
    pub(crate) fn encode(&self) -> Bytes {
        let mut out = BytesMut::new();
        put_flags(
            &[
                self.connected,
                self.punching,
                !self.addresses.is_empty(),
                self.remote_address.is_some(),
                self.token.is_some(),
                self.remote_token.is_some(),
            ],
            &mut out,
        );
        put_uint(self.error, &mut out);
        put_uint(self.firewall.number(), &mut out);
        put_uint(self.round, &mut out);
        if !self.addresses.is_empty() {
            put_addresses(&self.addresses, &mut out);
        }
        if let Some(address) = self.remote_address {
            put_ipv4(address, &mut out);
        }
        for token in [self.token, self.remote_token].into_iter().flatten() {
            out.put_slice(&token);
        }
        out.freeze()
    }

    /// # Errors
    /// Fails if the bytes are not a valid holepunch round.
    pub(crate) fn decode(mut payload: Bytes) -> Result<Self, Malformed> {
        let from = &mut payload;
        let flags = take_uint(from)?;
        Ok(Self {
            error: take_uint(from)?,
            firewall: Firewall::take(from)?,
            round: take_uint(from)?,
            connected: has(flags, 0),
            punching: has(flags, 1),
            addresses: has(flags, 2).then(|| take_addresses(from)).transpose()?.unwrap_or_default(),
            remote_address: has(flags, 3).then(|| take_ipv4(from)).transpose()?,
            token: has(flags, 4).then(|| take_fixed(from)).transpose()?,
            remote_token: has(flags, 5).then(|| take_fixed(from)).transpose()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::vectors::vectors;
    use super::*;
    use std::net::Ipv4Addr;

    const TO: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 1, 2, 3), 49737);
    const OTHER: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, 7), 258);
    const THIRD: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(8, 8, 8, 8), 65535);

    /// Decodes bytes of the original and encodes them again; no prefix of them can be decoded.
    fn check<T: std::fmt::Debug + PartialEq>(
        what: &str,
        expected: T,
        decode: impl Fn(Bytes) -> Result<T, Malformed>,
        encode: impl Fn(&T) -> Bytes,
    ) {
        let bytes = vectors("values")[what].clone();
        assert_eq!(decode(bytes.clone()), Ok(expected), "{what}");
        assert_eq!(encode(&decode(bytes.clone()).unwrap()), bytes, "{what}");
        for cut in 0..bytes.len() {
            assert_eq!(decode(bytes.slice(..cut)), Err(Malformed::CutOff), "{what} cut at {cut}");
        }
    }

    const MODES: [(&str, Mode); 5] = [
        ("from client", Mode::FromClient),
        ("from server", Mode::FromServer),
        ("from relay", Mode::FromRelay),
        ("from second relay", Mode::FromSecondRelay),
        ("reply", Mode::Reply),
    ];

    #[test]
    fn forwarded_messages_have_the_bytes_of_the_original() {
        for (what, mode) in MODES {
            let handshake = Handshake {
                mode,
                noise: Bytes::from_static(&[7; 5]),
                peer_address: (mode != Mode::FromClient).then_some(OTHER),
                relay_address: (mode == Mode::FromSecondRelay).then_some(THIRD),
            };
            let name = format!("handshake {what}");
            check(&name, handshake, Handshake::decode, Handshake::encode);
            let holepunch = Holepunch {
                mode,
                id: 300,
                payload: Bytes::from_static(&[8; 4]),
                peer_address: (mode != Mode::Reply).then_some(OTHER),
            };
            check(&format!("holepunch {what}"), holepunch, Holepunch::decode, Holepunch::encode);
        }
        let unknown = Bytes::from_static(&[0, 5, 0, 0, 0]);
        assert_eq!(Handshake::decode(unknown.clone()), Err(Malformed::Mode(5)));
        assert_eq!(Holepunch::decode(unknown), Err(Malformed::Mode(5)));
    }

    fn udx(id: u32) -> Option<UdxInfo> {
        Some(UdxInfo { version: 1, reusable_socket: false, id, seq: 0 })
    }

    #[test]
    fn handshake_payloads_have_the_bytes_of_the_original() {
        let (decode, encode) = (NoisePayload::decode, NoisePayload::encode);
        let client = NoisePayload {
            addresses4: vec![TO, OTHER],
            udx: udx(0x1234_5678),
            secret_stream: Some(1),
            ..NoisePayload::default()
        };
        check("hello of a client", client, decode, encode);
        let relay = |relay_address| Relay { relay_address, peer_address: TO };
        let everything = NoisePayload {
            error: fault::TRY_LATER,
            firewall: Firewall::Consistent,
            holepunch: Some(HolepunchInfo { id: 4, relays: vec![relay(OTHER), relay(THIRD)] }),
            addresses4: vec![TO],
            addresses6: vec![SocketAddrV6::new("2001:db8::1".parse().unwrap(), 258, 0, 0)],
            udx: Some(UdxInfo { version: 1, reusable_socket: true, id: 7, seq: 9 }),
            secret_stream: Some(1),
            relay_through: Some(RelayThrough { version: 1, public_key: [1; 32], token: [2; 32] }),
            relay_addresses: vec![THIRD],
        };
        check("hello with everything", everything, decode, encode);
        let nothing = NoisePayload {
            error: fault::ABORTED,
            firewall: Firewall::Random,
            ..NoisePayload::default()
        };
        check("hello with nothing", nothing, decode, encode);
    }

    #[test]
    fn holepunch_rounds_have_the_bytes_of_the_original() {
        let (decode, encode) = (Round::decode, Round::encode);
        check("round with nothing", Round::default(), decode, encode);
        let punches = Round {
            firewall: Firewall::Consistent,
            round: 1,
            punching: true,
            addresses: vec![TO],
            token: Some([1; 32]),
            ..Round::default()
        };
        check("round that punches", punches.clone(), decode, encode);
        let everything = Round {
            error: fault::ABORTED,
            firewall: Firewall::Random,
            round: 2,
            connected: true,
            addresses: vec![TO, OTHER],
            remote_address: Some(THIRD),
            remote_token: Some([2; 32]),
            ..punches
        };
        check("round with everything", everything, decode, encode);
    }

    #[test]
    fn another_version_is_distinguished_from_malformed_bytes() {
        for version in [0, 2, 300] {
            let mut bytes = BytesMut::new();
            put_uint(version, &mut bytes);
            bytes.put_slice(b"whatever it means");
            let read = NoisePayload::decode(bytes.freeze());
            assert_eq!(read, Err(Malformed::Version(version)));
        }
    }

    #[test]
    fn addresses_are_limited_and_stream_numbers_in_range() {
        let addresses = |count| {
            let hello = NoisePayload {
                addresses4: vec![TO; count],
                udx: udx(u32::MAX),
                ..NoisePayload::default()
            };
            let read = NoisePayload::decode(hello.encode()).unwrap();
            assert_eq!(read.udx, hello.udx, "what is behind them is read all the same");
            read.addresses4.len()
        };
        let both = (addresses(MAX_ADDRESSES), addresses(MAX_ADDRESSES + 1));
        assert_eq!(both, (MAX_ADDRESSES, MAX_ADDRESSES));
        let mut bytes = BytesMut::new();
        for number in [VERSION, 8, 0, 0, VERSION, 0, 1 << 32, 0] {
            put_uint(number, &mut bytes);
        }
        assert_eq!(NoisePayload::decode(bytes.freeze()), Err(Malformed::Stream(1 << 32)));
        let later = Bytes::from_static(&[0, 0, 9, 0]);
        assert_eq!(Round::decode(later).unwrap().firewall, Firewall::Random);
    }
}
