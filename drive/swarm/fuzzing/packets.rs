//! Datagrams of any sender: to a node of the hash table, and to a listener for multicast DNS.

use std::net::{Ipv4Addr, SocketAddrV4};

use crate::dht::{DhtNode, Goal};
use crate::kademlia::RandomParts;
use tokio::time::Instant;

/// Splits the input at 0xfe bytes into datagrams, and takes it whole as one more.
///
/// # Panics
/// If an invariant is broken.
pub fn run(input: &[u8]) {
    crate::network::parse_multicast_dns(input);
    let now = Instant::now();
    let peer = SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, 1), 9);
    // The number of the first request is known, so that answers to it can be made up.
    let chosen = RandomParts { id: [1; 32], secrets: [[2; 32], [3; 32]], first_request: 7 };
    let mut node = DhtNode::new(chosen, vec![peer], false, now);
    node.start([4; 32], Goal::Announce { port: 5 }, now);
    for packet in input.split(|byte| *byte == 0xfe) {
        node.receive(peer, packet, now);
    }
    node.receive(peer, input, now);
    while node.next_packet().is_some() {}
    while node.next_event().is_some() {}
    node.tick(node.next_tick());
}
