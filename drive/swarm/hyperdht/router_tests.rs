//! What a node forwards and reports: every path of the original, and every message that strangers
//! must not make us send.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::announcement::{Meaning, target_of};
use super::interface::{Asked, Event, SocketId};
use super::message::{Command, Packet, Request, Response};
use super::node::router::{ForwardedClients, MAX_FORWARDED_CLIENTS};
use super::node::{HyperDhtNode, MAX_EVENTS};
use super::node_tests::*;
use super::payload::{Handshake, Holepunch, Mode};
use crate::crypto::KeyPair;
use crate::kademlia::Id;

/// A node that stores that the holder of a key is at `at`.
fn relay(at: SocketAddrV4) -> (HyperDhtNode, Id) {
    let mut node = staying();
    let server = KeyPair::from_seed(&[8; 32]);
    let target = target_of(&server.public_key());
    let token = token(&mut node, at);
    assert!(ask_from(&mut node, at, &announce(&server, target, token, Meaning::Here)).is_some());
    (node, target)
}

/// The messages that a node sends, with their addresses, after it receives a value.
fn passed(
    node: &mut HyperDhtNode,
    command: Command,
    target: Id,
    from: SocketAddrV4,
    value: Bytes,
) -> Option<(SocketAddrV4, Packet)> {
    hand(node, from, &Request { target: Some(target), value: Some(value), ..request(command) });
    let mut all = sent(node);
    assert!(all.len() <= 1, "{all:?}");
    all.pop()
}

fn passed_request(
    command: Command,
    target: Id,
    to: SocketAddrV4,
    value: Bytes,
) -> (SocketAddrV4, Packet) {
    let request = Request {
        number: 5,
        id: own_id(),
        target: Some(target),
        value: Some(value),
        ..Request::new(to, command)
    };
    (to, Packet::Request(request))
}

fn passed_reply(to: SocketAddrV4, value: Bytes) -> (SocketAddrV4, Packet) {
    (to, Packet::Response(Response { id: own_id(), value: Some(value), ..Response::new(to, 5) }))
}

#[tokio::test(start_paused = true)]
async fn handshakes_are_forwarded_on_every_path_of_the_original() {
    let (mut node, target) = relay(THIRD);
    let mut pass = |from, value| passed(&mut node, Command::Handshake, target, from, value);
    let request = |to, value| Some(passed_request(Command::Handshake, target, to, value));
    // The client asks a relay; the relay tells the server.
    assert_eq!(
        pass(PEER, handshake(Mode::FromClient, None, None)),
        request(THIRD, handshake(Mode::FromRelay, Some(PEER), None))
    );
    // The client knows another relay.
    assert_eq!(
        pass(PEER, handshake(Mode::FromClient, None, Some(OTHER))),
        request(OTHER, handshake(Mode::FromRelay, Some(PEER), None))
    );
    // This tells the server which node to answer through.
    assert_eq!(
        pass(OTHER, handshake(Mode::FromRelay, Some(PEER), None)),
        request(THIRD, handshake(Mode::FromSecondRelay, Some(PEER), Some(OTHER)))
    );
    // The server answers, and the client hears it.
    assert_eq!(
        pass(THIRD, handshake(Mode::FromServer, Some(PEER), None)),
        Some(passed_reply(PEER, handshake(Mode::Reply, Some(THIRD), None)))
    );
    for nowhere in [
        handshake(Mode::FromRelay, None, None),
        handshake(Mode::FromServer, None, None),
        handshake(Mode::FromSecondRelay, Some(PEER), Some(OTHER)),
        handshake(Mode::Reply, Some(PEER), None),
        Handshake {
            mode: Mode::FromClient,
            noise: Bytes::new(),
            peer_address: None,
            relay_address: None,
        }
        .encode(),
        Bytes::from_static(b"\x00"),
    ] {
        assert_eq!(pass(PEER, nowhere), None);
    }
}

#[tokio::test(start_paused = true)]
async fn a_handshake_for_an_unknown_peer_is_answered_with_nearer_nodes() {
    let (mut node, _) = relay(THIRD);
    let hello = handshake(Mode::FromClient, None, None);
    let answer = passed(&mut node, Command::Handshake, TOPIC, PEER, hello);
    let empty = Response { id: own_id(), ..Response::new(PEER, 5) };
    assert_eq!(answer, Some((PEER, Packet::Response(empty))));
    let unknown = handshake(Mode::FromRelay, Some(PEER), None);
    assert_eq!(passed(&mut node, Command::Handshake, TOPIC, OTHER, unknown), None);
    let round = holepunch(Mode::FromClient, None);
    assert_eq!(passed(&mut node, Command::Holepunch, TOPIC, PEER, round), None);
}

#[tokio::test(start_paused = true)]
async fn holepunch_rounds_are_forwarded_on_every_path_of_the_original() {
    let (mut node, target) = relay(THIRD);
    let mut pass = |from, value| passed(&mut node, Command::Holepunch, target, from, value);
    let request = |to, value| Some(passed_request(Command::Holepunch, target, to, value));
    let hole = SocketAddrV4::new(*THIRD.ip(), 1234);
    for (told, to) in [(None, THIRD), (Some(hole), hole), (Some(OTHER), OTHER)] {
        assert_eq!(
            pass(PEER, holepunch(Mode::FromClient, told)),
            request(to, holepunch(Mode::FromRelay, Some(PEER)))
        );
    }
    assert_eq!(
        pass(hole, holepunch(Mode::FromServer, Some(PEER))),
        Some(passed_reply(PEER, holepunch(Mode::Reply, Some(hole))))
    );
    for nowhere in [
        holepunch(Mode::FromRelay, Some(PEER)),
        holepunch(Mode::FromServer, None),
        holepunch(Mode::FromSecondRelay, Some(PEER)),
        holepunch(Mode::Reply, Some(PEER)),
        Bytes::from_static(b"\x00"),
    ] {
        assert_eq!(pass(PEER, nowhere), None);
    }
}

/// A node must not let strangers reach other machines on its local network.
#[tokio::test(start_paused = true)]
async fn a_remote_sender_cannot_have_messages_forwarded_into_our_network() {
    let (mut node, target) = relay(THIRD);
    let own_machine = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 80);
    for near in [NEAR, own_machine, SocketAddrV4::new(*OTHER.ip(), 0)] {
        // A path that the sender may not name is ignored.
        let hello = handshake(Mode::FromClient, None, Some(near));
        let (to, _) = passed(&mut node, Command::Handshake, target, PEER, hello).unwrap();
        assert_eq!(to, THIRD);
        let round = holepunch(Mode::FromClient, Some(near));
        let (to, _) = passed(&mut node, Command::Holepunch, target, PEER, round).unwrap();
        assert_eq!(to, THIRD);
        let answer = handshake(Mode::FromServer, Some(near), None);
        assert_eq!(passed(&mut node, Command::Handshake, target, THIRD, answer), None);
        let answer = holepunch(Mode::FromServer, Some(near));
        assert_eq!(passed(&mut node, Command::Holepunch, target, THIRD, answer), None);
    }
}

#[tokio::test(start_paused = true)]
async fn clients_and_servers_in_our_network_use_us_as_relay() {
    let (mut node, target) = relay(THIRD);
    // A client in our own network, of a server far away.
    let hello = handshake(Mode::FromClient, None, None);
    assert!(passed(&mut node, Command::Handshake, target, NEAR, hello).is_some());
    let answer = handshake(Mode::FromServer, Some(NEAR), None);
    let (to, _) = passed(&mut node, Command::Handshake, target, THIRD, answer).unwrap();
    assert_eq!(to, NEAR);
    let other = SocketAddrV4::new(*NEAR.ip(), 81);
    let answer = handshake(Mode::FromServer, Some(other), None);
    assert_eq!(
        passed(&mut node, Command::Handshake, target, THIRD, answer),
        None,
        "it has not asked"
    );
    // A server there, with another socket for the hole, and a client far away.
    let (mut node, target) = relay(NEAR);
    let round = holepunch(Mode::FromClient, Some(other));
    let (to, _) = passed(&mut node, Command::Holepunch, target, PEER, round).unwrap();
    assert_eq!(to, other);
}

#[tokio::test(start_paused = true)]
async fn forwarded_clients_are_limited_and_expire() {
    let mut passed = ForwardedClients::default();
    let now = Instant::now();
    let client = |n: usize| SocketAddrV4::new(*NEAR.ip(), n as u16 + 1);
    for n in 0..MAX_FORWARDED_CLIENTS {
        passed.remember(client(n), now);
    }
    passed.remember(client(0), now);
    assert!(passed.has(client(0), now) && passed.has(client(1), now));
    passed.remember(client(MAX_FORWARDED_CLIENTS), now);
    assert!(!passed.has(client(1), now) && passed.has(client(2), now));
    assert!(passed.has(client(0), now + Duration::from_millis(29_999)));
    assert!(!passed.has(client(0), now + Duration::from_secs(30)));
}

/// A node that serves, and its target.
fn server() -> (HyperDhtNode, Id) {
    let mut node = passing(Vec::new());
    node.serve(Instant::now());
    assert_eq!(events(&mut node), [Event::Served { relays: 0 }]);
    (node, target_of(&keys().public_key()))
}

/// The event of a request for us.
fn asked(node: &mut HyperDhtNode, command: Command, target: Id, value: Bytes) -> Option<Asked> {
    assert_eq!(passed(node, command, target, PEER, value), None);
    let mut all = events(node);
    assert!(all.len() <= 1);
    all.pop().map(|event| match event {
        Event::Handshake(asked) | Event::Holepunch(asked) => asked,
        other => panic!("{other:?}"),
    })
}

#[tokio::test(start_paused = true)]
async fn a_handshake_for_us_is_reported_and_the_answer_returns_on_its_path() {
    let (mut node, target) = server();
    let welcome = Bytes::from_static(b"welcome");
    for (mode, peer, relay, told, to, back) in [
        (Mode::FromClient, None, None, None, PEER, Mode::Reply),
        // The source address is more reliable than the address in the message.
        (Mode::FromClient, Some(OTHER), None, None, PEER, Mode::Reply),
        (Mode::FromRelay, Some(OTHER), None, Some(OTHER), PEER, Mode::FromServer),
        (Mode::FromSecondRelay, Some(OTHER), Some(THIRD), Some(OTHER), THIRD, Mode::FromServer),
    ] {
        let value = handshake(mode, peer, relay);
        let asked = asked(&mut node, Command::Handshake, target, value).unwrap();
        assert_eq!((asked.from, asked.to, asked.peer), (PEER, OWN, told));
        assert_eq!((asked.socket, &asked.message[..]), (SocketId::CLIENT, &b"noise"[..]));
        node.answer_handshake(&asked, SocketId(9), welcome.clone());
        let out = node.next_packet().unwrap();
        let answer = Handshake {
            mode: back,
            noise: welcome.clone(),
            peer_address: told,
            relay_address: None,
        };
        let value = Some(answer.encode());
        let expected = match back {
            Mode::Reply => Response { value, ..Response::new(to, 5) }.encode(),
            _ => {
                let request = Request::new(to, Command::Handshake);
                Request { number: 5, target: Some(target), value, ..request }.encode()
            }
        };
        assert_eq!((out.socket, out.to, out.bytes), (SocketId(9), to, expected), "{mode:?}");
    }
    for nonsense in [
        handshake(Mode::FromRelay, None, None),
        handshake(Mode::FromSecondRelay, Some(OTHER), None),
        handshake(Mode::FromSecondRelay, None, Some(OTHER)),
        handshake(Mode::FromServer, Some(OTHER), None),
        handshake(Mode::Reply, None, None),
    ] {
        assert_eq!(asked(&mut node, Command::Handshake, target, nonsense), None);
    }
}

#[tokio::test(start_paused = true)]
async fn a_holepunch_round_is_reported_and_answered_through_its_forwarder() {
    let (mut node, target) = server();
    let value = holepunch(Mode::FromRelay, Some(OTHER));
    let round = asked(&mut node, Command::Holepunch, target, value).unwrap();
    assert_eq!((round.from, round.peer, round.id), (PEER, Some(OTHER), 3));
    node.answer_holepunch(&round, SocketId(9), Bytes::from_static(b"answer"));
    let out = node.next_packet().unwrap();
    let payload = Bytes::from_static(b"answer");
    let answer = Holepunch { mode: Mode::FromServer, id: 0, payload, peer_address: Some(OTHER) };
    let request = Request::new(PEER, Command::Holepunch);
    let value = Some(answer.encode());
    let request = Request { number: 5, target: Some(target), value, ..request };
    assert_eq!((out.socket, out.to, out.bytes), (SocketId(9), PEER, request.encode()));
    for nonsense in [
        holepunch(Mode::FromRelay, None),
        holepunch(Mode::FromClient, None),
        holepunch(Mode::FromServer, Some(OTHER)),
        holepunch(Mode::Reply, Some(OTHER)),
    ] {
        assert_eq!(asked(&mut node, Command::Holepunch, target, nonsense), None);
    }
    node.stop_serving(Instant::now());
    let value = handshake(Mode::FromRelay, Some(OTHER), None);
    assert_eq!(asked(&mut node, Command::Handshake, target, value), None);
    node.answer_holepunch(&round, SocketId(9), Bytes::new());
    assert_eq!(node.next_packet(), None, "nor is anything answered any more");
}

#[tokio::test(start_paused = true)]
async fn events_of_other_nodes_are_limited_and_ends_of_own_requests_kept() {
    let (mut node, target) = server();
    let hello = Request {
        target: Some(target),
        value: Some(handshake(Mode::FromClient, None, None)),
        ..request(Command::Handshake)
    };
    let now = Instant::now();
    for n in 0..MAX_EVENTS as u64 + 1 {
        node.receive(SocketId::CLIENT, PEER, &hello.encode(), now + Duration::from_millis(n * 2));
    }
    let ping = ping(&mut node, PEER, None, now + Duration::from_secs(3)).unwrap();
    node.tick(now + Duration::from_secs(4));
    let mut all = events(&mut node);
    let given_up = Event::Answered { request: ping, answer: None };
    assert_eq!((all.pop(), all.len()), (Some(given_up), MAX_EVENTS));
}
