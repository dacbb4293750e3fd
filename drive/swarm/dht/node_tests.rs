//! What one node answers: every bound at its value and one past it, and every kind of forged
//! packet.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use tokio::time::Instant;

use super::message::*;
use super::node::*;
use super::purpose::Goal;
use crate::kademlia::{Contact, RandomParts};

const PEER: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, 1), 9);
const OTHER: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, 2), 8);
const TOPIC: [u8; 32] = [7; 32];

fn node() -> DhtNode {
    node_with(Vec::new(), false)
}

fn node_with(bootstrap: Vec<SocketAddrV4>, ephemeral: bool) -> DhtNode {
    let chosen = RandomParts { id: [0x55; 32], secrets: [[1; 32], [2; 32]], first_request: 7 };
    DhtNode::new(chosen, bootstrap, ephemeral, Instant::now())
}

fn request(kind: Kind, command: &str) -> Packet {
    let mut packet = Packet::new(kind, 5);
    packet.command = Some(command.into());
    packet
}

fn sent(node: &mut DhtNode) -> Vec<(SocketAddrV4, Packet)> {
    std::iter::from_fn(|| node.next_packet())
        .map(|(to, bytes)| (to, Packet::decode(&bytes).unwrap()))
        .collect()
}

fn ask(node: &mut DhtNode, packet: &Packet) -> Option<Packet> {
    node.receive(PEER, &packet.encode(), Instant::now());
    let mut answers = sent(node);
    assert!(answers.len() <= 1);
    answers.pop().map(|(to, answer)| {
        assert_eq!((to, answer.kind, answer.rid, answer.to), (PEER, Kind::Response, 5, Some(PEER)));
        answer
    })
}

#[tokio::test(start_paused = true)]
async fn a_ping_tells_the_asker_its_address() {
    let mut node = node();
    let answer = ask(&mut node, &request(Kind::Query, PING)).unwrap();
    assert_eq!(answer.value.as_deref(), Some(&encode_address(PEER)[..]));
    let mut packet = request(Kind::Query, PING);
    packet.value = Some(Bytes::from(answer.id.unwrap().to_vec()));
    assert!(ask(&mut node, &packet).is_some());
    packet.value = Some(Bytes::from(vec![1; 32]));
    assert_eq!(ask(&mut node, &packet), None, "meant for another node");
}

#[tokio::test(start_paused = true)]
async fn unknown_commands_get_an_error_and_malformed_packets_no_answer() {
    let mut node = node();
    let mut packet = request(Kind::Query, "immutable-store");
    assert_eq!(ask(&mut node, &packet), None, "no target");
    packet.target = Some(TOPIC);
    let answer = ask(&mut node, &packet).unwrap();
    assert_eq!(answer.error.as_deref(), Some("Unsupported command"));
    assert_eq!((answer.token, answer.closer_nodes), (None, Some(vec![])));
    node.receive(PEER, b"garbage", Instant::now());
    node.receive(PEER, &[0xff; 5000], Instant::now());
    node.receive(PEER, &Packet::new(Kind::Response, 1).encode(), Instant::now());
    assert_eq!(sent(&mut node), []);
}

#[tokio::test(start_paused = true)]
async fn an_ephemeral_node_sends_no_id() {
    let mut node = node_with(Vec::new(), true);
    assert_eq!(ask(&mut node, &request(Kind::Query, PING)).unwrap().id, None);
}

fn update(token: Option<[u8; 32]>, unannounce: bool) -> Packet {
    let mut packet = request(Kind::Update, PEERS);
    packet.target = Some(TOPIC);
    packet.token = token;
    let input = PeersInput { port: Some(77), unannounce: Some(unannounce), local_address: None };
    packet.value = Some(input.encode_to_vec().into());
    packet
}

/// The peers in an answer to `OTHER`.
fn peers(node: &mut DhtNode) -> Vec<SocketAddrV4> {
    let mut packet = request(Kind::Query, PEERS);
    packet.target = Some(TOPIC);
    node.receive(OTHER, &packet.encode(), Instant::now());
    let (_, answer) = sent(node).pop().unwrap();
    PeersOutput::decode(answer.value.unwrap()).unwrap().addresses()
}

#[tokio::test(start_paused = true)]
async fn an_announcement_needs_the_token_that_was_sent_to_that_host() {
    let mut node = node();
    let mut lookup = request(Kind::Query, FIND_NODE);
    lookup.target = Some(TOPIC);
    let token = ask(&mut node, &lookup).unwrap().token;
    assert!(token.is_some());
    assert_eq!(ask(&mut node, &update(None, false)), None);
    assert_eq!(ask(&mut node, &update(Some([0; 32]), false)), None);
    node.receive(OTHER, &update(token, false).encode(), Instant::now());
    assert_eq!(sent(&mut node), [], "another host's token");
    assert_eq!(peers(&mut node), []);
    assert!(ask(&mut node, &update(token, false)).is_some());
    assert_eq!(peers(&mut node), [SocketAddrV4::new(*PEER.ip(), 77)]);
    assert!(ask(&mut node, &update(token, true)).is_some());
    assert_eq!(peers(&mut node), []);
}

#[tokio::test(start_paused = true)]
async fn a_node_is_remembered_when_it_has_answered() {
    let mut node = node();
    let mut packet = request(Kind::Query, FIND_NODE);
    (packet.target, packet.id) = (Some(TOPIC), Some([9; 32]));
    node.receive(PEER, &packet.encode(), Instant::now());
    assert_eq!(node.nodes(), 0, "its address may be forged");
    let asked_back = sent(&mut node).into_iter().find(|(_, packet)| packet.kind == Kind::Query);
    let (to, ping) = asked_back.unwrap();
    assert_eq!((to, ping.command.as_deref()), (PEER, Some(PING)));
    let mut answer = Packet::new(Kind::Response, ping.rid);
    answer.id = Some([8; 32]);
    node.receive(PEER, &answer.encode(), Instant::now());
    assert_eq!(node.nodes(), 0, "another node");
    node.receive(PEER, &packet.encode(), Instant::now());
    let (_, ping) =
        sent(&mut node).into_iter().find(|(_, packet)| packet.kind == Kind::Query).unwrap();
    answer = Packet::new(Kind::Response, ping.rid);
    answer.id = Some([9; 32]);
    node.receive(OTHER, &answer.encode(), Instant::now());
    assert_eq!(node.nodes(), 0, "not from there");
    node.receive(PEER, &answer.encode(), Instant::now());
    assert_eq!(node.nodes(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_holepunch_is_passed_on_and_answered() {
    let mut node = node();
    let id = ask(&mut node, &request(Kind::Query, PING)).unwrap().id;
    let mut packet = request(Kind::Query, HOLEPUNCH);
    packet.value = Some(Holepunch { from: None, to: Some(OTHER) }.encode());
    node.receive(PEER, &packet.encode(), Instant::now());
    let (to, passed) = sent(&mut node).pop().unwrap();
    assert_eq!((to, passed.kind, passed.rid, passed.id), (OTHER, Kind::Query, 5, id));
    let value = Holepunch::decode(&passed.value.unwrap()).unwrap();
    assert_eq!(value, Holepunch { from: Some(PEER), to: None });

    packet.value = Some(Holepunch { from: Some(OTHER), to: None }.encode());
    node.receive(PEER, &packet.encode(), Instant::now());
    let (to, answer) = sent(&mut node).pop().unwrap();
    assert_eq!((to, answer.kind, answer.rid, answer.to), (OTHER, Kind::Response, 5, Some(OTHER)));
    for wrong in [
        PEER,
        SocketAddrV4::new(Ipv4Addr::LOCALHOST, 1),
        SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 1), 1),
    ] {
        packet.value = Some(Holepunch { from: None, to: Some(wrong) }.encode());
        node.receive(PEER, &packet.encode(), Instant::now());
        assert_eq!(sent(&mut node), [], "{wrong}");
    }
}

#[tokio::test(start_paused = true)]
async fn answers_per_second_are_limited() {
    let (mut node, now) = (node(), Instant::now());
    let ping = request(Kind::Query, PING).encode();
    for _ in 0..=MAX_ANSWERS_PER_SECOND {
        node.receive(PEER, &ping, now);
    }
    assert_eq!(sent(&mut node).len(), MAX_ANSWERS_PER_SECOND as usize);
    node.receive(PEER, &ping, now + Duration::from_secs(1));
    assert_eq!(sent(&mut node).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn concurrent_queries_and_requests_per_second_are_limited() {
    let now = Instant::now();
    // One query, for the network itself, is under way from the start.
    let mut node = node_with(vec![PEER; 16], true);
    for _ in 1..MAX_QUERIES {
        assert!(node.start(TOPIC, Goal::Lookup, now).is_some());
    }
    assert!(node.start(TOPIC, Goal::Lookup, now).is_none());
    assert_eq!(sent(&mut node).len(), MAX_REQUESTS_PER_SECOND as usize);
    assert_eq!(node.next_tick(), now + Duration::from_secs(1));
    node.tick(node.next_tick());
    assert_eq!(sent(&mut node).len(), MAX_REQUESTS_PER_SECOND as usize);
}

/// A node that answers with peers on our own machine and in our own network, which it cannot know.
#[tokio::test(start_paused = true)]
async fn addresses_of_our_machine_and_network_are_ignored_in_answers_from_elsewhere() {
    let now = Instant::now();
    let mut node = node_with(vec![PEER], true);
    let lookup = node.start(TOPIC, Goal::Lookup, now).unwrap();
    let (_, asked) = sent(&mut node)
        .into_iter()
        .find(|(_, packet)| packet.command.as_deref() == Some(PEERS))
        .unwrap();
    let named = |a, b, c, d| SocketAddrV4::new(Ipv4Addr::new(a, b, c, d), 80);
    let all =
        [named(127, 0, 0, 1), named(192, 168, 1, 1), named(10, 0, 0, 1), named(198, 51, 100, 1)];
    let mut answer = Packet::new(Kind::Response, asked.rid);
    answer.value = Some(PeersOutput::new(&all, &[]).encode_to_vec().into());
    let contact = |address| Contact { id: [3; 32], address };
    answer.closer_nodes = Some(all[..3].iter().map(|address| contact(*address)).collect());
    node.receive(PEER, &answer.encode(), now);
    assert_eq!(sent(&mut node), [], "nor are they asked");
    let events: Vec<Event> = std::iter::from_fn(|| node.next_event()).collect();
    let peer = Event::Peer { query: lookup, address: all[3], via: PEER, seen_as: None };
    assert_eq!(events, [peer, Event::Finished { query: lookup, answered: 1, announced: 0 }]);
}

#[tokio::test(start_paused = true)]
async fn an_unconfirmed_address_gets_at_most_three_times_the_bytes_it_sent() {
    for command in [PING, FIND_NODE, PEERS, HOLEPUNCH, "unknown"] {
        for id in [None, Some([9; 32])] {
            let mut node = node();
            let now = Instant::now();
            for n in 1..=20 {
                let address = SocketAddrV4::new(Ipv4Addr::new(203, 0, 113, n), 5);
                node.know(Contact { id: [n; 32], address }, now);
                node.announcements.add(TOPIC, address, None, now);
            }
            let mut asked = request(Kind::Query, command);
            (asked.target, asked.id, asked.to) = (Some(TOPIC), id, Some(OTHER));
            let came = asked.encode();
            node.receive(PEER, &came, now);
            let packets: Vec<_> = std::iter::from_fn(|| node.next_packet()).collect();
            let bytes: usize = packets.iter().map(|(_, bytes)| bytes.len()).sum();
            assert!(bytes <= 3 * came.len(), "{bytes} for {}: {command}", came.len());
            if command != PEERS {
                continue;
            }
            // The whole answer follows that of the ping.
            let ping = Packet::decode(&packets[0].1).unwrap();
            assert_eq!(ping.command.as_deref(), Some(PING));
            node.receive(PEER, &Packet::new(Kind::Response, ping.rid).encode(), now);
            let answers = sent(&mut node).into_iter();
            let mut answers = answers.filter(|(_, packet)| packet.kind == Kind::Response);
            let (_, answer) = answers.next().unwrap();
            let peers = PeersOutput::decode(answer.value.unwrap()).unwrap().addresses();
            assert_eq!((peers.len(), answer.closer_nodes.unwrap().len()), (20, 20));
        }
    }
}
