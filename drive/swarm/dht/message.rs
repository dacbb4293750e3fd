//! Packets: one protobuf message per datagram, the values of the `peers` and `_holepunch` commands
//! inside, and addresses of six bytes. The numbers are those of dht-rpc 4.

use std::net::{Ipv4Addr, SocketAddrV4};

use bytes::{Bytes, BytesMut};
use prost::Message as _;
use prost::encoding;

use crate::kademlia::{Contact, Id};

/// Longest packet read or written, in bytes.
pub(crate) const MAX_PACKET: usize = 4096;
/// Nodes of one packet that are decoded; more are ignored.
pub(crate) const MAX_NODES: usize = 20;
/// Peers of one packet that are decoded, local and remote together; more are ignored.
pub(crate) const MAX_PEERS: usize = 128;
const VERSION: u64 = 1;
const ADDRESS: usize = 6;
const NODE: usize = 32 + ADDRESS;

pub(crate) const PING: &str = "_ping";
pub(crate) const FIND_NODE: &str = "_find_node";
pub(crate) const HOLEPUNCH: &str = "_holepunch";
pub(crate) const PEERS: &str = "peers";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Query,
    Update,
    Response,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Packet {
    pub kind: Kind,
    /// Chosen by the node that sends the request, repeated in the response.
    pub rid: u16,
    /// The receiver, as the sender sees it.
    pub to: Option<SocketAddrV4>,
    /// The sender's id, if it is a persistent node.
    pub id: Option<Id>,
    pub target: Option<Id>,
    pub closer_nodes: Option<Vec<Contact>>,
    pub token: Option<[u8; 32]>,
    pub command: Option<String>,
    pub error: Option<String>,
    pub value: Option<Bytes>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Wire {
    #[prost(uint64, optional, tag = "11")]
    version: Option<u64>,
    #[prost(uint64, required, tag = "1")]
    kind: u64,
    #[prost(uint64, required, tag = "2")]
    rid: u64,
    #[prost(bytes = "bytes", optional, tag = "10")]
    to: Option<Bytes>,
    #[prost(bytes = "bytes", optional, tag = "3")]
    id: Option<Bytes>,
    #[prost(bytes = "bytes", optional, tag = "4")]
    target: Option<Bytes>,
    #[prost(bytes = "bytes", optional, tag = "5")]
    closer_nodes: Option<Bytes>,
    #[prost(bytes = "bytes", optional, tag = "6")]
    token: Option<Bytes>,
    #[prost(string, optional, tag = "7")]
    command: Option<String>,
    #[prost(string, optional, tag = "8")]
    error: Option<String>,
    #[prost(bytes = "bytes", optional, tag = "9")]
    value: Option<Bytes>,
}

impl Packet {
    pub(crate) fn new(kind: Kind, rid: u16) -> Self {
        Self {
            kind,
            rid,
            to: None,
            id: None,
            target: None,
            closer_nodes: None,
            token: None,
            command: None,
            error: None,
            value: None,
        }
    }

    /// The fields in the order in which the original writes them, which is not that of their tags.
    pub(crate) fn encode(&self) -> Bytes {
        let mut out = BytesMut::new();
        let kind = match self.kind {
            Kind::Query => 1,
            Kind::Update => 2,
            Kind::Response => 3,
        };
        encoding::uint64::encode(11, &VERSION, &mut out);
        encoding::uint64::encode(1, &kind, &mut out);
        encoding::uint64::encode(2, &u64::from(self.rid), &mut out);
        let mut put = |tag, field: Option<Vec<u8>>| {
            if let Some(field) = field {
                encoding::bytes::encode(tag, &field, &mut out);
            }
        };
        put(10, self.to.map(|address| encode_address(address).to_vec()));
        put(3, self.id.map(|id| id.to_vec()));
        put(4, self.target.map(|target| target.to_vec()));
        put(5, self.closer_nodes.as_deref().map(encode_contacts));
        put(6, self.token.map(|token| token.to_vec()));
        put(7, self.command.as_ref().map(|text| text.as_bytes().to_vec()));
        put(8, self.error.as_ref().map(|text| text.as_bytes().to_vec()));
        put(9, self.value.as_ref().map(|value| value.to_vec()));
        out.freeze()
    }

    /// `None` if the bytes are not a valid packet. Invalid fields are left out, as in the original.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        if bytes.len() > MAX_PACKET {
            return None;
        }
        let wire = Wire::decode(bytes).ok()?;
        let kind = match wire.kind {
            1 => Kind::Query,
            2 => Kind::Update,
            3 => Kind::Response,
            _ => return None,
        };
        let fixed =
            |field: Option<Bytes>| field.and_then(|bytes| <[u8; 32]>::try_from(&bytes[..]).ok());
        let current = wire.version.is_some_and(|version| version >= VERSION);
        Some(Self {
            kind,
            rid: u16::try_from(wire.rid).ok()?,
            to: wire.to.and_then(|bytes| decode_address(&bytes)),
            id: fixed(wire.id).filter(|_| current),
            target: fixed(wire.target),
            closer_nodes: wire.closer_nodes.map(|bytes| decode_contacts(&bytes)),
            token: fixed(wire.token),
            command: wire.command,
            error: wire.error,
            value: wire.value,
        })
    }
}

pub(crate) fn encode_address(address: SocketAddrV4) -> [u8; ADDRESS] {
    let [a, b, c, d] = address.ip().octets();
    let [high, low] = address.port().to_be_bytes();
    [a, b, c, d, high, low]
}

/// `None` if the length is wrong or the port is 0.
pub(crate) fn decode_address(bytes: &[u8]) -> Option<SocketAddrV4> {
    let [a, b, c, d, high, low] = *<&[u8; ADDRESS]>::try_from(bytes).ok()?;
    let port = u16::from_be_bytes([high, low]);
    (port != 0).then(|| SocketAddrV4::new(Ipv4Addr::new(a, b, c, d), port))
}

fn encode_contacts(contacts: &[Contact]) -> Vec<u8> {
    contacts
        .iter()
        .flat_map(|contact| contact.id.into_iter().chain(encode_address(contact.address)))
        .collect()
}

fn decode_contacts(bytes: &[u8]) -> Vec<Contact> {
    let contact = |bytes: &[u8]| {
        let (id, address) = bytes.split_at_checked(32)?;
        Some(Contact { id: id.try_into().ok()?, address: decode_address(address)? })
    };
    bytes.chunks_exact(NODE).take(MAX_NODES).filter_map(contact).collect()
}

/// The value of a `peers` request.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct PeersInput {
    /// The port of the sender, or 0 for the one from which the packet came.
    #[prost(uint32, optional, tag = "1")]
    pub port: Option<u32>,
    /// The address for peers on the same local network.
    #[prost(bytes = "bytes", optional, tag = "2")]
    pub local_address: Option<Bytes>,
    #[prost(bool, optional, tag = "3")]
    pub unannounce: Option<bool>,
}

/// The value of a `peers` response.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct PeersOutput {
    /// Addresses of six bytes.
    #[prost(bytes = "bytes", optional, tag = "1")]
    peers: Option<Bytes>,
    /// Two bytes of the address and two of the port; the first half of the address is the asker's.
    #[prost(bytes = "bytes", optional, tag = "2")]
    local_peers: Option<Bytes>,
}

/// The end of a local address.
pub(crate) type LocalPeer = [u8; 4];

impl PeersOutput {
    pub(crate) fn new(peers: &[SocketAddrV4], local: &[LocalPeer]) -> Self {
        let join = |bytes: Vec<u8>| (!bytes.is_empty()).then(|| Bytes::from(bytes));
        Self {
            peers: join(peers.iter().flat_map(|peer| encode_address(*peer)).collect()),
            local_peers: join(local.concat()),
        }
    }

    /// The peers that are not local; no more than [`MAX_PEERS`].
    pub(crate) fn addresses(&self) -> Vec<SocketAddrV4> {
        let bytes = self.peers.as_deref().unwrap_or_default();
        bytes.chunks_exact(ADDRESS).take(MAX_PEERS).filter_map(decode_address).collect()
    }
}

/// The value of `_holepunch`: "tell `to` that I am coming", then "`from` is coming".
#[derive(Clone, PartialEq, Eq, prost::Message)]
struct HolepunchWire {
    #[prost(bytes = "bytes", optional, tag = "2")]
    from: Option<Bytes>,
    #[prost(bytes = "bytes", optional, tag = "3")]
    to: Option<Bytes>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Holepunch {
    pub from: Option<SocketAddrV4>,
    pub to: Option<SocketAddrV4>,
}

impl Holepunch {
    pub(crate) fn encode(&self) -> Bytes {
        let field = |address: Option<SocketAddrV4>| {
            address.map(|address| Bytes::copy_from_slice(&encode_address(address)))
        };
        HolepunchWire { from: field(self.from), to: field(self.to) }.encode_to_vec().into()
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let wire = HolepunchWire::decode(bytes).ok()?;
        let address = |field: Option<Bytes>| field.and_then(|bytes| decode_address(&bytes));
        Some(Self { from: address(wire.from), to: address(wire.to) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 1, 2, 3), 49737);

    fn packets() -> impl Iterator<Item = (String, Bytes)> {
        let all = include_str!("../../../tests/vectors/swarm.json");
        let all: serde_json::Value = serde_json::from_str(all).unwrap();
        all["dhtRpc"].as_array().unwrap().clone().into_iter().map(|packet| {
            let bytes = hex::decode(packet["encoded"].as_str().unwrap()).unwrap();
            (packet["what"].as_str().unwrap().to_owned(), bytes.into())
        })
    }

    #[test]
    fn packets_of_the_original_are_read_and_written_byte_for_byte() {
        let mut count = 0;
        for (what, bytes) in packets() {
            let packet = Packet::decode(&bytes).unwrap();
            assert_eq!(packet.to, Some(PEER), "{what}");
            assert_eq!(packet.encode(), bytes, "{what}");
            count += 1;
        }
        assert_eq!(count, 10);
    }

    fn packet(what: &str) -> Packet {
        let (_, bytes) = packets().find(|(name, _)| name == what).unwrap();
        Packet::decode(&bytes).unwrap()
    }

    #[test]
    fn the_values_inside_are_those_of_the_original() {
        let announce = packet("peers announce");
        assert_eq!((announce.kind, announce.rid, announce.token), (Kind::Update, 9, Some([5; 32])));
        let local = Some(Bytes::from_static(&[0xc0, 0xa8, 1, 5, 0xc2, 0x49]));
        let input = PeersInput { port: Some(49737), local_address: local, unannounce: None };
        assert_eq!(PeersInput::decode(announce.value.clone().unwrap()).unwrap(), input);
        assert_eq!(input.encode_to_vec(), announce.value.unwrap());
        let gone = PeersInput { port: Some(49737), local_address: None, unannounce: Some(true) };
        assert_eq!(gone.encode_to_vec(), packet("peers unannounce").value.unwrap());
        let lookup = PeersInput { port: Some(0), ..PeersInput::default() };
        assert_eq!(lookup.encode_to_vec(), packet("peers lookup").value.unwrap());

        let answer = packet("peers response").value.unwrap();
        let output = PeersOutput::decode(answer.clone()).unwrap();
        assert_eq!(output, PeersOutput::new(&[PEER], &[[1, 5, 0xc2, 0x49]]));
        assert_eq!((output.addresses(), output.encode_to_vec()), (vec![PEER], answer.to_vec()));

        let referred = packet("holepunch to referrer").value.unwrap();
        let there = Holepunch { from: None, to: Some(PEER) };
        assert_eq!((Holepunch::decode(&referred), there.encode()), (Some(there), referred));
        let forwarded = packet("holepunch forwarded").value.unwrap();
        let here = Holepunch { from: Some(PEER), to: None };
        assert_eq!((Holepunch::decode(&forwarded), here.encode()), (Some(here), forwarded));
        assert_eq!(packet("error response").error.as_deref(), Some("Unsupported command"));
    }

    #[test]
    fn an_id_without_a_version_is_ignored() {
        let mut wire =
            Wire { kind: 3, rid: 1, id: Some(Bytes::from(vec![7; 32])), ..Wire::default() };
        assert_eq!(Packet::decode(&wire.encode_to_vec()).unwrap().id, None);
        wire.version = Some(1);
        assert_eq!(Packet::decode(&wire.encode_to_vec()).unwrap().id, Some([7; 32]));
        wire.id = Some(Bytes::from(vec![7; 31]));
        assert_eq!(Packet::decode(&wire.encode_to_vec()).unwrap().id, None);
        wire.rid = 65536;
        assert_eq!(Packet::decode(&wire.encode_to_vec()), None);
    }

    #[test]
    fn packet_length_nodes_and_peers_are_limited() {
        let contacts = |count: usize| {
            (0..count).map(|n| Contact { id: [n as u8; 32], address: PEER }).collect()
        };
        let nodes = |count| {
            let packet =
                Packet { closer_nodes: Some(contacts(count)), ..Packet::new(Kind::Response, 1) };
            Packet::decode(&packet.encode()).unwrap().closer_nodes.unwrap().len()
        };
        assert_eq!((nodes(MAX_NODES), nodes(MAX_NODES + 1)), (MAX_NODES, MAX_NODES));
        let peers = |count| PeersOutput::new(&vec![PEER; count], &[]).addresses().len();
        assert_eq!((peers(MAX_PEERS), peers(MAX_PEERS + 1)), (MAX_PEERS, MAX_PEERS));
        let padded = |length: usize| {
            let mut packet = Packet::new(Kind::Query, 1);
            packet.value = Some(Bytes::from(vec![0; length - 9]));
            let bytes = packet.encode();
            assert_eq!(bytes.len(), length);
            Packet::decode(&bytes)
        };
        assert!(padded(MAX_PACKET).is_some() && padded(MAX_PACKET + 1).is_none());
    }
}
