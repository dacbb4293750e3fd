//! Datagrams of any sender to a node of the hash table HyperDHT 6, in each role, and the values
//! inside; each decoded value must encode and decode to itself.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use crate::crypto::KeyPair;
use crate::hyperdht::announcement::{Announcement, LookupReply, Peer};
use crate::hyperdht::message::Packet;
use crate::hyperdht::payload::{Handshake, Holepunch, NoisePayload, Round};
use crate::hyperdht::{Event, HyperDhtNode, Role, SocketId};
use crate::kademlia::RandomParts;
use bytes::Bytes;
use tokio::time::Instant;

const PEER: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, 1), 9);
const OWN: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(198, 51, 100, 1), 7);

fn node(role: Role, now: Instant) -> HyperDhtNode {
    // The number of the first request is known, so that answers to it can be made up.
    let chosen = RandomParts { id: [1; 32], secrets: [[2; 32], [3; 32]], first_request: 7 };
    let mut node = HyperDhtNode::new(chosen, KeyPair::from_seed(&[6; 32]), vec![PEER], role, now);
    node.serve(now);
    node.announce([9; 32], now);
    node.find_peer([9; 32], now);
    node
}

fn hear(node: &mut HyperDhtNode, socket: SocketId, packet: &[u8], now: Instant) {
    node.receive(socket, PEER, packet, now);
    while let Some(event) = node.next_event() {
        match event {
            Event::Handshake(asked) => {
                node.answer_handshake(&asked, SocketId(9), asked.message.clone());
            }
            Event::Holepunch(asked) => {
                node.answer_holepunch(&asked, asked.socket, asked.message.clone());
            }
            _ => {}
        }
    }
    while let Some(out) = node.next_packet() {
        assert!(Packet::decode(&out.bytes).is_some(), "what we send can be read");
    }
}

macro_rules! same_again {
    ($bytes:expr, $($kind:ty),*) => {
        $(if let Ok(value) = <$kind>::decode($bytes.clone()) {
            assert_eq!(<$kind>::decode(value.encode()).as_ref(), Ok(&value));
        })*
    };
}

/// Splits the input at 0xfe bytes into datagrams, and takes it whole as each kind of value.
///
/// # Panics
/// If an invariant is broken.
pub fn run(input: &[u8]) {
    let now = Instant::now();
    for (role, socket) in [
        (Role::Ephemeral { server_port: 4000 }, SocketId::CLIENT),
        (Role::Persistent { address: OWN }, SocketId::SERVER),
    ] {
        let mut node = node(role, now);
        for packet in input.split(|byte| *byte == 0xfe) {
            hear(&mut node, socket, packet, now);
        }
        hear(&mut node, socket, input, now);
        for seconds in 1..4 {
            node.tick(now + Duration::from_secs(seconds));
            hear(&mut node, socket, input, now + Duration::from_secs(seconds));
        }
        node.stop_serving(now);
        node.take_back_all(now);
    }
    let bytes = Bytes::copy_from_slice(input);
    same_again!(bytes, Handshake, Holepunch, NoisePayload, Round, Peer, LookupReply, Announcement);
}
