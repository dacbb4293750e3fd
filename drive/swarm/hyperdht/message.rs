//! Packets: version, kind, the receiver's address, and the request or response (hyperdht.md §1).
//! The numbers are those of dht-rpc 6.

use std::net::SocketAddrV4;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::compact::{
    CutOff, put_buffer, put_ipv4, put_list, put_uint, take_buffer, take_fixed, take_ipv4,
    take_list, take_uint,
};
use crate::crypto::blake2b;
use crate::kademlia::{Contact, Id};

/// Longest packet read or written, in bytes. Honest nodes send none that IP has to fragment.
pub(crate) const MAX_PACKET: usize = 2048;
/// Nearer nodes of one answer that are decoded; more are ignored.
pub(crate) const MAX_CLOSER: usize = 20;

/// The first byte: the version in the low bits, the kind in the high ones.
const VERSION: u8 = 0b11;
const REQUEST: u8 = VERSION;
const RESPONSE: u8 = 1 << 4 | VERSION;

/// The queried node does not know the command.
pub(crate) const UNKNOWN_COMMAND: u64 = 1;
/// The token was not given to the sender, or it has expired.
pub(crate) const INVALID_TOKEN: u64 = 2;

pub(crate) type Token = [u8; 32];

/// Which fields a request or a response has.
mod flag {
    pub(crate) const ID: u64 = 1;
    pub(crate) const TOKEN: u64 = 2;
    pub(crate) const INTERNAL: u64 = 4;
    pub(crate) const TARGET: u64 = 8;
    pub(crate) const CLOSER: u64 = 4;
    pub(crate) const ERROR: u64 = 8;
    pub(crate) const VALUE: u64 = 16;
}

/// The command of a request. Those of dht-rpc and those of HyperDHT are numbered separately.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Command {
    Ping,
    /// The answer goes to another port of the sender.
    PingNat,
    FindNode,
    /// A node that was named to the sender does not answer.
    DownHint,
    DelayedPing,
    Handshake,
    Holepunch,
    FindPeer,
    Lookup,
    Announce,
    Unannounce,
    Other {
        internal: bool,
        number: u64,
    },
}

impl Command {
    /// Whether it is a command of dht-rpc, and its number.
    pub(crate) fn number(self) -> (bool, u64) {
        match self {
            Self::Ping => (true, 0),
            Self::PingNat => (true, 1),
            Self::FindNode => (true, 2),
            Self::DownHint => (true, 3),
            Self::DelayedPing => (true, 4),
            Self::Handshake => (false, 0),
            Self::Holepunch => (false, 1),
            Self::FindPeer => (false, 2),
            Self::Lookup => (false, 3),
            Self::Announce => (false, 4),
            Self::Unannounce => (false, 5),
            Self::Other { internal, number } => (internal, number),
        }
    }

    fn of(internal: bool, number: u64) -> Self {
        match (internal, number) {
            (true, 0) => Self::Ping,
            (true, 1) => Self::PingNat,
            (true, 2) => Self::FindNode,
            (true, 3) => Self::DownHint,
            (true, 4) => Self::DelayedPing,
            (false, 0) => Self::Handshake,
            (false, 1) => Self::Holepunch,
            (false, 2) => Self::FindPeer,
            (false, 3) => Self::Lookup,
            (false, 4) => Self::Announce,
            (false, 5) => Self::Unannounce,
            (internal, number) => Self::Other { internal, number },
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Request {
    /// Chosen by the node that sends the request, repeated in the response.
    pub number: u16,
    /// The receiver, as the sender sees it.
    pub to: SocketAddrV4,
    /// The sender's id, if it is a persistent node.
    pub id: Option<Id>,
    /// The token that the receiver gave. It proves the sender's address.
    pub token: Option<Token>,
    pub command: Command,
    pub target: Option<Id>,
    /// Never empty: the encoding does not distinguish that from `None`.
    pub value: Option<Bytes>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Response {
    pub number: u16,
    pub to: SocketAddrV4,
    pub id: Option<Id>,
    pub token: Option<Token>,
    /// Nodes that are nearer to the target; their ids are hashes of their addresses.
    pub closer: Vec<SocketAddrV4>,
    /// 0 is none.
    pub error: u64,
    pub value: Option<Bytes>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Packet {
    Request(Request),
    Response(Response),
}

/// The id of a node: a hash of its address.
pub(crate) fn id_of(address: SocketAddrV4) -> Id {
    let mut bytes = BytesMut::with_capacity(6);
    put_ipv4(address, &mut bytes);
    blake2b(&[&bytes])
}

/// The node at an address.
pub(crate) fn contact(address: SocketAddrV4) -> Contact {
    Contact { id: id_of(address), address }
}

impl Packet {
    /// `None` if the bytes are not a valid packet.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        if bytes.len() > MAX_PACKET {
            return None;
        }
        let mut rest = Bytes::copy_from_slice(bytes);
        match rest.try_get_u8().ok()? {
            REQUEST => Request::take(&mut rest).ok().map(Self::Request),
            RESPONSE => Response::take(&mut rest).ok().map(Self::Response),
            _ => None,
        }
    }
}

/// Takes a field that is present if its flag is set.
fn take_if<T>(
    there: bool,
    from: &mut Bytes,
    take: impl Fn(&mut Bytes) -> Result<T, CutOff>,
) -> Result<Option<T>, CutOff> {
    there.then(|| take(from)).transpose()
}

fn take_value(there: bool, from: &mut Bytes) -> Result<Option<Bytes>, CutOff> {
    Ok(take_if(there, from, take_buffer)?.filter(|value| !value.is_empty()))
}

impl Request {
    pub(crate) fn new(to: SocketAddrV4, command: Command) -> Self {
        Self { number: 0, to, id: None, token: None, command, target: None, value: None }
    }

    fn take(from: &mut Bytes) -> Result<Self, CutOff> {
        let flags = take_uint(from)?;
        let has = |flag: u64| flags & flag != 0;
        Ok(Self {
            number: from.try_get_u16_le()?,
            to: take_ipv4(from)?,
            id: take_if(has(flag::ID), from, take_fixed)?,
            token: take_if(has(flag::TOKEN), from, take_fixed)?,
            command: Command::of(has(flag::INTERNAL), take_uint(from)?),
            target: take_if(has(flag::TARGET), from, take_fixed)?,
            value: take_value(has(flag::VALUE), from)?,
        })
    }

    pub(crate) fn encode(&self) -> Bytes {
        let (internal, command) = self.command.number();
        let flags = [
            (self.id.is_some(), flag::ID),
            (self.token.is_some(), flag::TOKEN),
            (internal, flag::INTERNAL),
            (self.target.is_some(), flag::TARGET),
            (self.value.is_some(), flag::VALUE),
        ];
        let mut out = head(REQUEST, &flags, self.number, self.to);
        put_fixed(self.id, &mut out);
        put_fixed(self.token, &mut out);
        put_uint(command, &mut out);
        put_fixed(self.target, &mut out);
        if let Some(value) = &self.value {
            put_buffer(value, &mut out);
        }
        out.freeze()
    }
}

impl Response {
    pub(crate) fn new(to: SocketAddrV4, number: u16) -> Self {
        Self { number, to, id: None, token: None, closer: Vec::new(), error: 0, value: None }
    }

    fn take(from: &mut Bytes) -> Result<Self, CutOff> {
        let flags = take_uint(from)?;
        let has = |flag: u64| flags & flag != 0;
        let take_closer = |from: &mut Bytes| take_list(from, MAX_CLOSER, take_ipv4);
        Ok(Self {
            number: from.try_get_u16_le()?,
            to: take_ipv4(from)?,
            id: take_if(has(flag::ID), from, take_fixed)?,
            token: take_if(has(flag::TOKEN), from, take_fixed)?,
            closer: take_if(has(flag::CLOSER), from, take_closer)?.unwrap_or_default(),
            error: take_if(has(flag::ERROR), from, take_uint)?.unwrap_or_default(),
            value: take_value(has(flag::VALUE), from)?,
        })
    }

    pub(crate) fn encode(&self) -> Bytes {
        let flags = [
            (self.id.is_some(), flag::ID),
            (self.token.is_some(), flag::TOKEN),
            (!self.closer.is_empty(), flag::CLOSER),
            (self.error != 0, flag::ERROR),
            (self.value.is_some(), flag::VALUE),
        ];
        let mut out = head(RESPONSE, &flags, self.number, self.to);
        put_fixed(self.id, &mut out);
        put_fixed(self.token, &mut out);
        if !self.closer.is_empty() {
            put_list(&self.closer, &mut out, |one, out| put_ipv4(*one, out));
        }
        if self.error != 0 {
            put_uint(self.error, &mut out);
        }
        if let Some(value) = &self.value {
            put_buffer(value, &mut out);
        }
        out.freeze()
    }
}

/// The fields with which requests and responses begin.
fn head(kind: u8, flags: &[(bool, u64)], number: u16, to: SocketAddrV4) -> BytesMut {
    let mut out = BytesMut::new();
    out.put_u8(kind);
    let flags = flags.iter().filter(|(set, _)| *set).map(|(_, flag)| flag);
    put_uint(flags.sum(), &mut out);
    out.put_u16_le(number);
    put_ipv4(to, &mut out);
    out
}

fn put_fixed(field: Option<[u8; 32]>, out: &mut BytesMut) {
    if let Some(field) = field {
        out.put_slice(&field);
    }
}

#[cfg(test)]
mod tests {
    use super::super::vectors::vectors;
    use super::*;
    use std::net::Ipv4Addr;

    const TO: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 1, 2, 3), 49737);
    const OTHER: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, 7), 258);

    fn packet(what: &str) -> Packet {
        Packet::decode(&vectors("packets")[what]).unwrap()
    }

    fn request(what: &str) -> Request {
        match packet(what) {
            Packet::Request(request) => request,
            Packet::Response(_) => panic!("{what} is a response"),
        }
    }

    fn response(what: &str) -> Response {
        match packet(what) {
            Packet::Response(response) => response,
            Packet::Request(_) => panic!("{what} is a request"),
        }
    }

    #[test]
    fn packets_of_the_original_are_read_and_written_byte_for_byte() {
        let all = vectors("packets");
        assert_eq!(all.len(), 16);
        for (what, bytes) in all {
            let encoded = match Packet::decode(&bytes).unwrap() {
                Packet::Request(request) => request.encode(),
                Packet::Response(response) => response.encode(),
            };
            assert_eq!(encoded, bytes, "{what}");
            for cut in 0..bytes.len() {
                assert_eq!(Packet::decode(&bytes[..cut]), None, "{what} cut at {cut}");
            }
        }
    }

    #[test]
    fn requests_of_the_original_are_decoded() {
        let id = Some(id_of(TO));
        let ping = Request { number: 7, ..Request::new(TO, Command::Ping) };
        assert_eq!(request("ping"), ping);
        assert_eq!(request("ping of a node that stays"), Request { id, ..ping.clone() });
        let value = Some(Bytes::from_static(&[0x49, 0xc2]));
        let nat = Request { number: 300, value, ..Request::new(TO, Command::PingNat) };
        assert_eq!(request("ping to another socket"), nat);
        let target = Some([9; 32]);
        let lookup = Request { number: 9, target, ..Request::new(TO, Command::Lookup) };
        assert_eq!(request("lookup"), lookup);
        assert_eq!(
            request("announce"),
            Request {
                number: 10,
                id,
                token: Some([5; 32]),
                target,
                value: Some(Bytes::from_static(b"value")),
                ..Request::new(TO, Command::Announce)
            }
        );
        for (what, command) in [
            ("find node", Command::FindNode),
            ("find peer", Command::FindPeer),
            ("down hint", Command::DownHint),
            ("unannounce", Command::Unannounce),
            ("handshake", Command::Handshake),
            ("an unknown command", Command::Other { internal: false, number: 1000 }),
        ] {
            assert_eq!(request(what).command, command, "{what}");
        }
    }

    #[test]
    fn responses_of_the_original_are_decoded() {
        let pong = Response::new(OTHER, 513);
        assert_eq!(response("pong"), pong);
        let third = SocketAddrV4::new(Ipv4Addr::new(8, 8, 8, 8), 65535);
        let (id, closer) = (Some(id_of(TO)), vec![OTHER, third]);
        let nodes = Response { id, closer: closer.clone(), ..pong.clone() };
        assert_eq!(response("nodes"), nodes);
        let error = UNKNOWN_COMMAND;
        assert_eq!(response("unknown command"), Response { closer, error, ..pong });
        let value = response("value and token");
        assert_eq!(value.value, Some(Bytes::from(vec![4; 253])));
        let refused = response("invalid token");
        assert_eq!((refused.error, refused.token), (INVALID_TOKEN, value.token));
        assert!(value.token.is_some());
    }

    #[test]
    fn an_id_is_a_hash_of_the_address() {
        let all = include_str!("../../../tests/vectors/hyperdht.json");
        let all: serde_json::Value = serde_json::from_str(all).unwrap();
        for one in all["ids"].as_array().unwrap() {
            let address = one["address"].as_str().unwrap().parse().unwrap();
            assert_eq!(hex::encode(id_of(address)), one["id"].as_str().unwrap());
        }
    }

    #[test]
    fn packet_length_and_nodes_of_one_answer_are_limited() {
        let padded = |length: usize| {
            let value = Some(Bytes::from(vec![0; length - 14]));
            let bytes = Request { value, ..Request::new(TO, Command::Ping) }.encode();
            assert_eq!(bytes.len(), length);
            Packet::decode(&bytes)
        };
        assert!(padded(MAX_PACKET).is_some() && padded(MAX_PACKET + 1).is_none());
        let nodes = |count| {
            let value = Some(Bytes::from_static(b"behind them"));
            let packet = Response { closer: vec![OTHER; count], value, ..Response::new(TO, 1) };
            match Packet::decode(&packet.encode()) {
                Some(Packet::Response(read)) if read.value == packet.value => read.closer.len(),
                other => panic!("{other:?}"),
            }
        };
        assert_eq!((nodes(MAX_CLOSER), nodes(MAX_CLOSER + 1)), (MAX_CLOSER, MAX_CLOSER));
    }

    #[test]
    fn an_empty_value_counts_as_absent_and_other_versions_are_refused() {
        let value = Some(Bytes::new());
        let bytes = Request { value, ..Request::new(TO, Command::Ping) }.encode();
        assert_eq!(Packet::decode(&bytes), Some(Packet::Request(Request::new(TO, Command::Ping))));
        for first in (0..=255).filter(|first| ![REQUEST, RESPONSE].contains(first)) {
            let mut bytes = bytes.to_vec();
            bytes[0] = first;
            assert_eq!(Packet::decode(&bytes), None, "{first}");
        }
    }
}
