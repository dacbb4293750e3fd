//! What one node answers and forwards: every bound at its value and one past it, and every kind of
//! forged packet.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::announcement::*;
use super::interface::*;
use super::message::*;
use super::node::answer::MAX_CONFIRMING;
use super::node::walk::{MAX_QUERIES, MAX_TAKEN_BACK};
use super::node::*;
use super::payload::{Handshake, Holepunch, Mode};
use super::sending::{MAX_REQUESTS_PER_SECOND, MAX_WAITING};
use crate::crypto::KeyPair;
use crate::kademlia::{Id, RandomParts};

pub(super) const OWN: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(198, 51, 100, 1), 7);
pub(super) const PEER: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, 1), 9);
pub(super) const OTHER: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, 2), 8);
pub(super) const THIRD: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(203, 0, 113, 3), 6);
pub(super) const NEAR: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(192, 168, 1, 1), 80);
const SERVER_PORT: u16 = 4000;
pub(super) const TOPIC: Id = [7; 32];

fn chosen() -> RandomParts {
    RandomParts { id: [0x55; 32], secrets: [[1; 32], [2; 32]], first_request: 7 }
}

pub(super) fn keys() -> KeyPair {
    KeyPair::from_seed(&[6; 32])
}

pub(super) fn staying() -> HyperDhtNode {
    staying_with(Vec::new())
}

fn staying_with(bootstrap: Vec<SocketAddrV4>) -> HyperDhtNode {
    let role = Role::Persistent { address: OWN };
    HyperDhtNode::new(chosen(), keys(), bootstrap, role, Instant::now())
}

pub(super) fn passing(bootstrap: Vec<SocketAddrV4>) -> HyperDhtNode {
    let role = Role::Ephemeral { server_port: SERVER_PORT };
    HyperDhtNode::new(chosen(), keys(), bootstrap, role, Instant::now())
}

pub(super) fn request(command: Command) -> Request {
    Request { number: 5, target: Some(TOPIC), ..Request::new(OWN, command) }
}

/// The socket from which a node sends requests.
fn socket(node: &HyperDhtNode) -> SocketId {
    match node.reachability() {
        Reachability::Open(_) => SocketId::SERVER,
        _ => SocketId::CLIENT,
    }
}

pub(super) fn sent(node: &mut HyperDhtNode) -> Vec<(SocketAddrV4, Packet)> {
    std::iter::from_fn(|| node.next_packet())
        .map(|out| (out.to, Packet::decode(&out.bytes).unwrap()))
        .collect()
}

pub(super) fn events(node: &mut HyperDhtNode) -> Vec<Event> {
    std::iter::from_fn(|| node.next_event()).collect()
}

fn requests(node: &mut HyperDhtNode) -> Vec<Request> {
    let requests = sent(node).into_iter().filter_map(|(_, packet)| match packet {
        Packet::Request(request) => Some(request),
        Packet::Response(_) => None,
    });
    requests.collect()
}

pub(super) fn hand(node: &mut HyperDhtNode, from: SocketAddrV4, request: &Request) {
    let socket = socket(node);
    node.receive(socket, from, &request.encode(), Instant::now());
}

fn hand_answer(node: &mut HyperDhtNode, from: SocketAddrV4, response: &Response) {
    let socket = socket(node);
    node.receive(socket, from, &response.encode(), Instant::now());
}

/// Has a node ping another one once, from one of its sockets.
pub(crate) fn ping(
    node: &mut HyperDhtNode,
    to: SocketAddrV4,
    socket: Option<SocketId>,
    now: Instant,
) -> Option<RequestId> {
    node.request(Ask { socket, again: false, ..Ask::new(to, Command::Ping) }, now)
}

/// The answer to `from`; asserts that nothing is sent to other addresses.
pub(super) fn ask_from(
    node: &mut HyperDhtNode,
    from: SocketAddrV4,
    request: &Request,
) -> Option<Response> {
    hand(node, from, request);
    let mut answers = sent(node);
    assert!(answers.len() <= 1, "{answers:?}");
    answers.pop().map(|(to, answer)| match answer {
        Packet::Response(answer) => {
            assert_eq!((to, answer.to, answer.number), (from, from, request.number));
            answer
        }
        Packet::Request(request) => panic!("{request:?}"),
    })
}

fn ask(node: &mut HyperDhtNode, request: &Request) -> Option<Response> {
    ask_from(node, PEER, request)
}

pub(super) fn own_id() -> Option<Id> {
    Some(id_of(OWN))
}

#[tokio::test(start_paused = true)]
async fn a_ping_tells_where_the_asker_is() {
    let ping = Request { target: None, ..request(Command::Ping) };
    let plain = Response::new(PEER, 5);
    assert_eq!(ask(&mut passing(Vec::new()), &ping), Some(plain.clone()));
    let answer = Response { id: own_id(), ..plain };
    assert_eq!(ask(&mut staying(), &ping), Some(answer));
}

#[tokio::test(start_paused = true)]
async fn a_ping_to_another_socket_goes_there_and_nowhere_else() {
    let mut node = staying();
    let value = |bytes: &[u8]| Some(Bytes::copy_from_slice(bytes));
    let mut ping = Request { value: value(&[0xa0, 0x0f]), ..request(Command::PingNat) };
    hand(&mut node, PEER, &ping);
    let there = SocketAddrV4::new(*PEER.ip(), SERVER_PORT);
    let answer = Response { id: own_id(), ..Response::new(there, 5) };
    assert_eq!(sent(&mut node), [(there, Packet::Response(answer))]);
    for nonsense in [value(&[0, 0]), value(&[1]), None] {
        ping.value = nonsense;
        assert_eq!(ask(&mut node, &ping), None);
    }
}

#[tokio::test(start_paused = true)]
async fn unknown_commands_get_an_error_and_malformed_packets_no_answer() {
    for mut node in [staying(), passing(Vec::new())] {
        for command in [
            Command::DelayedPing,
            Command::Other { internal: true, number: 99 },
            // A value that the original would store.
            Command::Other { internal: false, number: 8 },
        ] {
            let answer = ask(&mut node, &request(command)).unwrap();
            assert_eq!((answer.error, answer.token), (UNKNOWN_COMMAND, None), "{command:?}");
        }
        for command in [Command::FindNode, Command::Lookup, Command::Handshake] {
            let aimless = Request { target: None, ..request(command) };
            assert_eq!(ask(&mut node, &aimless), None);
        }
        for bytes in [&b"garbage"[..], &[0xff; 5000], &[], &Response::new(PEER, 7).encode()] {
            node.receive(SocketId::SERVER, PEER, bytes, Instant::now());
        }
        let nowhere = SocketAddrV4::new(*PEER.ip(), 0);
        node.receive(SocketId::SERVER, nowhere, &request(Command::Ping).encode(), Instant::now());
        assert_eq!(sent(&mut node), []);
    }
}

#[tokio::test(start_paused = true)]
async fn an_ephemeral_node_stores_no_records_and_forwards_no_messages() {
    let mut node = passing(Vec::new());
    for command in [Command::FindPeer, Command::Lookup, Command::Announce, Command::Unannounce] {
        let answer = ask(&mut node, &request(command)).unwrap();
        assert_eq!((answer.error, answer.id), (UNKNOWN_COMMAND, None), "{command:?}");
    }
    for asked in every_handshake().chain(every_holepunch()) {
        hand(&mut node, PEER, &asked);
        let answers = sent(&mut node).into_iter();
        let passed = answers.filter(|(to, _)| *to != PEER).count();
        assert_eq!(passed, 0, "{asked:?}");
    }
    assert_eq!(events(&mut node), []);
}

pub(super) fn handshake(
    mode: Mode,
    peer: Option<SocketAddrV4>,
    relay: Option<SocketAddrV4>,
) -> Bytes {
    let noise = Bytes::from_static(b"noise");
    Handshake { mode, noise, peer_address: peer, relay_address: relay }.encode()
}

pub(super) fn holepunch(mode: Mode, peer: Option<SocketAddrV4>) -> Bytes {
    let payload = Bytes::from_static(b"payload");
    Holepunch { mode, id: 3, payload, peer_address: peer }.encode()
}

const MODES: [Mode; 5] =
    [Mode::FromClient, Mode::FromServer, Mode::FromRelay, Mode::FromSecondRelay, Mode::Reply];

fn every_handshake() -> impl Iterator<Item = Request> {
    let addresses = [(None, None), (Some(OTHER), None), (Some(OTHER), Some(THIRD))];
    MODES.into_iter().flat_map(move |mode| {
        addresses.map(|(peer, relay)| Request {
            value: Some(handshake(mode, peer, relay)),
            ..request(Command::Handshake)
        })
    })
}

fn every_holepunch() -> impl Iterator<Item = Request> {
    MODES.into_iter().flat_map(|mode| {
        [None, Some(OTHER)].map(|peer| Request {
            value: Some(holepunch(mode, peer)),
            ..request(Command::Holepunch)
        })
    })
}

/// The token that a node gives to `from`.
pub(super) fn token(node: &mut HyperDhtNode, from: SocketAddrV4) -> Token {
    ask_from(node, from, &request(Command::Lookup)).unwrap().token.unwrap()
}

/// An announcement of a peer in a topic.
pub(super) fn announce(keys: &KeyPair, target: Id, token: Token, meaning: Meaning) -> Request {
    let place = AnnouncementPlace { target, token, node: id_of(OWN) };
    let value = Announcement::signed(meaning, keys, vec![OTHER], &place).encode();
    let request = Request::new(OWN, meaning.command());
    Request { number: 5, target: Some(target), token: Some(token), value: Some(value), ..request }
}

fn peers(node: &mut HyperDhtNode) -> Vec<Peer> {
    let value = ask_from(node, OTHER, &request(Command::Lookup)).unwrap().value;
    value.map_or_else(Vec::new, |value| LookupReply::decode(value).unwrap().peers)
}

#[tokio::test(start_paused = true)]
async fn an_announcement_needs_a_signature_and_the_token_that_was_sent_to_that_host() {
    let mut node = staying();
    let given = token(&mut node, PEER);
    let good = announce(&keys(), TOPIC, given, Meaning::Here);
    let unsigned = Announcement {
        peer: Some(Peer { key: keys().public_key(), relays: vec![] }),
        refresh: None,
        signature: None,
        bump: 0,
    };
    let elsewhere = announce(&keys(), [8; 32], given, Meaning::Here).value;
    for bad in [
        Request { token: None, ..good.clone() },
        Request { value: None, ..good.clone() },
        Request { value: Some(unsigned.encode()), ..good.clone() },
        Request { value: elsewhere, ..good.clone() },
        Request { value: Some(Bytes::from_static(b"rubbish")), ..good.clone() },
        announce(&keys(), TOPIC, given, Meaning::Gone),
    ] {
        let bad = Request { command: Command::Announce, ..bad };
        assert_eq!(ask(&mut node, &bad), None);
    }
    for (from, token) in [(PEER, [0; 32]), (OTHER, given)] {
        let foreign = announce(&keys(), TOPIC, token, Meaning::Here);
        let refused = ask_from(&mut node, from, &foreign).unwrap();
        assert_eq!(refused.error, INVALID_TOKEN);
        assert!(refused.token.is_some(), "another to do it with");
    }
    assert_eq!(peers(&mut node), []);
    let taken = Response { id: own_id(), ..Response::new(PEER, 5) };
    assert_eq!(ask(&mut node, &good), Some(taken.clone()));
    let peer = Peer { key: keys().public_key(), relays: vec![OTHER] };
    assert_eq!(peers(&mut node), [peer]);
    let stranger = announce(&KeyPair::from_seed(&[9; 32]), TOPIC, given, Meaning::Gone);
    assert!(ask(&mut node, &stranger).is_some());
    assert_eq!(peers(&mut node).len(), 1, "only that peer can withdraw it");
    assert_eq!(ask(&mut node, &announce(&keys(), TOPIC, given, Meaning::Gone)), Some(taken));
    assert_eq!(peers(&mut node), []);
}

#[tokio::test(start_paused = true)]
async fn a_node_is_remembered_when_it_has_answered_under_its_own_id() {
    let now = Instant::now();
    let mut node = staying();
    let stranger = Request { id: Some([9; 32]), ..request(Command::FindNode) };
    assert!(ask(&mut node, &stranger).is_some(), "with the id of another address");
    let honest = Request { id: Some(id_of(PEER)), ..request(Command::FindNode) };
    hand(&mut node, PEER, &honest);
    assert_eq!(node.nodes(), 0, "its address may be forged");
    let ping = requests(&mut node).pop().unwrap();
    assert_eq!((ping.to, ping.command, ping.id), (PEER, Command::Ping, own_id()));
    let id = Some(id_of(PEER));
    let answer = Response { id, ..Response::new(OWN, ping.number) };
    hand_answer(&mut node, OTHER, &answer);
    node.receive(SocketId::CLIENT, PEER, &answer.encode(), now);
    let wrong = Response { number: ping.number + 1, ..answer.clone() };
    hand_answer(&mut node, PEER, &wrong);
    assert_eq!(node.nodes(), 0, "not from there, not there, not to that");
    hand_answer(&mut node, PEER, &answer);
    assert_eq!((node.nodes(), node.recent_nodes(9)), (1, vec![PEER]));
    // A node that answers without an id is removed, and an answer counts once.
    hand(&mut node, PEER, &Request { number: 6, ..honest });
    assert_eq!(requests(&mut node), [], "known by now");
    node.tick(now + Duration::from_secs(40));
    let check = requests(&mut node).into_iter().find(|one| one.command == Command::Ping).unwrap();
    hand_answer(&mut node, PEER, &Response::new(OWN, check.number));
    assert_eq!(node.nodes(), 0);
    hand_answer(&mut node, PEER, &Response { id, ..Response::new(OWN, check.number) });
    assert_eq!(node.nodes(), 0, "a replay");
}

#[tokio::test(start_paused = true)]
async fn a_node_that_is_reported_down_is_pinged() {
    let mut node = staying();
    let hint = |address: SocketAddrV4| {
        let mut value = bytes::BytesMut::new();
        crate::compact::put_ipv4(address, &mut value);
        Request { value: Some(value.freeze()), ..request(Command::DownHint) }
    };
    assert!(ask(&mut node, &hint(PEER)).is_some(), "unknown here");
    hand(&mut node, PEER, &Request { id: Some(id_of(PEER)), ..request(Command::Ping) });
    let ping = requests(&mut node).pop().unwrap();
    hand_answer(&mut node, PEER, &Response { id: ping.id, ..Response::new(OWN, ping.number) });
    assert_eq!(node.nodes(), 0);
    hand(&mut node, PEER, &Request { id: Some(id_of(PEER)), ..request(Command::Ping) });
    let ping = requests(&mut node).pop().unwrap();
    let id = Some(id_of(PEER));
    hand_answer(&mut node, PEER, &Response { id, ..Response::new(OWN, ping.number) });
    assert_eq!(node.nodes(), 1);
    hand(&mut node, OTHER, &hint(PEER));
    assert_eq!(requests(&mut node).len(), 1);
    let mut now = Instant::now();
    for _ in 0..4 {
        now += Duration::from_secs(1);
        node.tick(now);
    }
    assert_eq!((node.nodes(), sent(&mut node).len()), (0, 3));
    let cut = Request { value: Some(Bytes::from_static(b"short")), ..request(Command::DownHint) };
    assert_eq!(ask(&mut node, &cut), None);
}

#[tokio::test(start_paused = true)]
async fn answers_per_second_are_limited() {
    let (mut node, now) = (staying(), Instant::now());
    let ping = request(Command::Ping).encode();
    for _ in 0..=MAX_ANSWERS_PER_SECOND {
        node.receive(SocketId::SERVER, PEER, &ping, now);
    }
    assert_eq!(sent(&mut node).len(), MAX_ANSWERS_PER_SECOND as usize);
    node.receive(SocketId::SERVER, PEER, &ping, now + Duration::from_secs(1));
    assert_eq!(sent(&mut node).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn concurrent_checks_of_unknown_nodes_are_limited() {
    let mut node = staying();
    for n in 0..=MAX_CHECKS as u16 {
        let from = SocketAddrV4::new(*PEER.ip(), n + 1);
        hand(&mut node, from, &Request { id: Some(id_of(from)), ..request(Command::Ping) });
    }
    assert_eq!(requests(&mut node).len(), MAX_CHECKS);
}

#[tokio::test(start_paused = true)]
async fn concurrent_queries_and_requests_per_second_are_limited() {
    let now = Instant::now();
    // One query, for the network itself, is under way from the start.
    let bootstrap: Vec<_> = (1..=20).map(|n| SocketAddrV4::new(*PEER.ip(), n)).collect();
    let mut node = passing(bootstrap);
    for n in 1..MAX_QUERIES {
        assert!(node.lookup([n as u8; 32], now).is_some());
    }
    assert!(node.lookup(TOPIC, now).is_none() && node.announce(TOPIC, now).is_none());
    assert!(node.find_peer(TOPIC, now).is_none());
    let first = sent(&mut node).len();
    assert_eq!(first, MAX_QUERIES * 10, "ten of each");
    for _ in first..MAX_REQUESTS_PER_SECOND as usize + MAX_WAITING {
        assert!(ping(&mut node, THIRD, None, now).is_some());
    }
    assert!(ping(&mut node, THIRD, None, now).is_none(), "one more");
    assert_eq!(first + sent(&mut node).len(), MAX_REQUESTS_PER_SECOND as usize);
    assert_eq!(node.next_tick(), now + Duration::from_secs(1));
}

/// One step of a walk: answers the next request of a query.
fn answer_step(node: &mut HyperDhtNode, command: Command, answer: Response) -> SocketAddrV4 {
    let asked = requests(node).into_iter().find(|one| one.command == command).unwrap();
    let id = Some(id_of(asked.to));
    let answer = Response { number: asked.number, to: OWN, id, ..answer };
    hand_answer(node, asked.to, &answer);
    asked.to
}

#[tokio::test(start_paused = true)]
async fn addresses_of_our_machine_and_network_are_ignored_in_answers_from_elsewhere() {
    let now = Instant::now();
    let mut node = passing(vec![PEER]);
    let lookup = node.lookup(TOPIC, now).unwrap();
    let own_machine = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 80);
    let no_port = SocketAddrV4::new(*OTHER.ip(), 0);
    let key = KeyPair::from_seed(&[9; 32]).public_key();
    let relays = vec![NEAR, own_machine, OTHER, no_port];
    let own = Peer { key: keys().public_key(), relays: vec![] };
    let reply = LookupReply { peers: vec![Peer { key, relays }, own], bump: 0 };
    let answer = Response {
        closer: vec![NEAR, own_machine, no_port],
        value: Some(reply.encode()),
        ..Response::new(OWN, 0)
    };
    answer_step(&mut node, Command::Lookup, answer);
    assert!(requests(&mut node).is_empty(), "nor are they asked");
    let peer = Event::Peer { query: lookup, key, relays: vec![OTHER], via: PEER };
    let finished = Event::Finished { query: lookup, answered: 1, announced: 0 };
    assert_eq!(events(&mut node), [peer, finished]);
}

#[tokio::test(start_paused = true)]
async fn a_record_of_another_key_is_ignored() {
    let server = KeyPair::from_seed(&[9; 32]).public_key();
    for (key, found) in [(server, true), (keys().public_key(), false)] {
        let mut node = passing(vec![PEER]);
        let query = node.find_peer(target_of(&server), Instant::now()).unwrap();
        let value = Some(Peer { key, relays: vec![NEAR, OTHER] }.encode());
        answer_step(&mut node, Command::FindPeer, Response { value, ..Response::new(OWN, 0) });
        let record = Event::Record { query, from: PEER, relays: vec![OTHER] };
        let finished = Event::Finished { query, answered: 1, announced: 0 };
        let expected = if found { vec![record, finished] } else { vec![finished] };
        assert_eq!(events(&mut node), expected);
    }
}

/// Nodes of the original change their tokens every few seconds.
#[tokio::test(start_paused = true)]
async fn an_expired_token_is_replaced_once() {
    let now = Instant::now();
    let mut node = passing(vec![PEER]);
    let query = node.announce(TOPIC, now).unwrap();
    let answer = |token| Response { token: Some([token; 32]), ..Response::new(OWN, 0) };
    answer_step(&mut node, Command::Lookup, answer(1));
    let refused = |token| Response { error: INVALID_TOKEN, ..answer(token) };
    let next_request = |node: &mut HyperDhtNode| {
        let mut all = requests(node);
        all.retain(|one| matches!(one.command, Command::Announce | Command::Unannounce));
        assert_eq!(all.len(), 1);
        all.pop().unwrap()
    };
    let refuse = |node: &mut HyperDhtNode, asked: &Request, token| {
        let id = Some(id_of(PEER));
        let answer = Response { id, number: asked.number, ..refused(token) };
        hand_answer(node, PEER, &answer);
    };
    let first = next_request(&mut node);
    assert_eq!(first.token, Some([1; 32]));
    refuse(&mut node, &first, 2);
    let second = next_request(&mut node);
    assert_eq!(second.token, Some([2; 32]));
    let value = Announcement::decode(second.value.clone().unwrap()).unwrap();
    let place = AnnouncementPlace { target: TOPIC, token: [2; 32], node: id_of(PEER) };
    assert!(value.verified(Meaning::Here, &place).is_some(), "and signed again");
    refuse(&mut node, &second, 3);
    assert_eq!(events(&mut node), [Event::Finished { query, answered: 1, announced: 0 }]);
    // Taken back with the token that is known best; it may have been taken after all.
    node.take_back(&TOPIC, now);
    let first = next_request(&mut node);
    assert_eq!((first.command, first.token), (Command::Unannounce, Some([2; 32])));
    refuse(&mut node, &first, 4);
    let second = next_request(&mut node);
    assert_eq!((second.command, second.token), (Command::Unannounce, Some([4; 32])));
    assert!(node.is_taking_back());
    refuse(&mut node, &second, 5);
    assert!(!node.is_taking_back() && requests(&mut node).is_empty());
}

#[tokio::test(start_paused = true)]
async fn announcements_remembered_for_withdrawal_are_limited() {
    let mut now = Instant::now();
    let mut node = passing(vec![PEER]);
    let topic = |n: usize| {
        let mut topic = [1; 32];
        topic[..8].copy_from_slice(&n.to_be_bytes());
        topic
    };
    for n in 0..=MAX_TAKEN_BACK {
        now += Duration::from_millis(20);
        node.announce(topic(n), now).unwrap();
        let answer = Response { token: Some([1; 32]), ..Response::new(OWN, 0) };
        answer_step(&mut node, Command::Lookup, answer);
        let request = requests(&mut node).pop().unwrap();
        hand_answer(&mut node, PEER, &Response::new(OWN, request.number));
        events(&mut node);
    }
    for (n, known) in [(MAX_TAKEN_BACK, false), (MAX_TAKEN_BACK - 1, true)] {
        node.take_back(&topic(n), now + Duration::from_secs(9));
        let count =
            requests(&mut node).iter().filter(|one| one.command == Command::Unannounce).count();
        assert_eq!(count, usize::from(known));
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_is_answered_on_its_own_socket_or_given_up() {
    let now = Instant::now();
    let mut node = passing(Vec::new());
    let hole = SocketId(9);
    let ping = ping(&mut node, PEER, Some(hole), now).unwrap();
    let out = node.next_packet().unwrap();
    assert_eq!((out.socket, out.to), (hole, PEER));
    let Some(Packet::Request(asked)) = Packet::decode(&out.bytes) else { panic!() };
    let pong = Response::new(THIRD, asked.number);
    node.receive(SocketId::CLIENT, PEER, &pong.encode(), now);
    node.receive(hole, OTHER, &pong.encode(), now);
    assert_eq!(events(&mut node), []);
    node.receive(hole, PEER, &pong.encode(), now);
    node.receive(hole, PEER, &pong.encode(), now);
    let answer = Answer { from: PEER, to: THIRD, socket: hole, value: None, error: 0, token: None };
    assert_eq!(events(&mut node), [Event::Answered { request: ping, answer: Some(answer) }]);

    let mut tries = Vec::new();
    for again in [false, true] {
        let start = now + Duration::from_secs(20);
        let ask = Ask { again, ..Ask::new(PEER, Command::Ping) };
        let request = node.request(ask, start).unwrap();
        let mut at = start;
        let mut packets = sent(&mut node).len();
        while events(&mut node) != [Event::Answered { request, answer: None }] {
            at += Duration::from_secs(1);
            node.tick(at);
            packets += sent(&mut node).iter().filter(|(to, _)| *to == PEER).count();
        }
        tries.push((packets, (at - start).as_secs()));
    }
    assert_eq!(tries, [(1, 1), (4, 4)]);
}

#[tokio::test(start_paused = true)]
async fn new_bootstrap_nodes_are_queried_at_once_and_our_own_address_never() {
    let now = Instant::now();
    let mut node = staying_with(vec![OWN, PEER]);
    let asked =
        |node: &mut HyperDhtNode| requests(node).iter().map(|one| one.to).collect::<Vec<_>>();
    assert_eq!(asked(&mut node), [PEER]);
    node.set_bootstrap(vec![OTHER, OWN], now);
    assert_eq!(asked(&mut node), [OTHER], "though it still waits for the first");
    assert_eq!(node.recent_nodes(9), [OTHER]);
}

/// The time of the next tick lies ahead after each, whatever is under way: no busy loop.
#[tokio::test(start_paused = true)]
async fn a_tick_does_all_that_is_due() {
    let mut now = Instant::now();
    let bootstrap: Vec<_> = (1..=20).map(|n| SocketAddrV4::new(*PEER.ip(), n)).collect();
    let mut node = passing(bootstrap);
    node.serve(now);
    for n in 2..MAX_QUERIES {
        node.announce([n as u8; 32], now).unwrap();
    }
    // More than may wait for an answer, and more than may be sent.
    for n in 0..2000 {
        now += Duration::from_millis(3);
        node.request(Ask::new(SocketAddrV4::new(*OTHER.ip(), n + 1), Command::Ping), now);
        if node.next_tick() <= now {
            node.tick(now);
            assert!(node.next_tick() > now);
        }
    }
    for _ in 0..2000 {
        now = node.next_tick();
        node.tick(now);
        assert!(node.next_tick() > now);
        events(&mut node);
    }
}

/// A node that knows 20 others and 20 peers of [`TOPIC`], and where [`keys`] are.
fn well_known() -> HyperDhtNode {
    let mut node = staying();
    let now = Instant::now();
    for n in 1..=20 {
        node.table.heard(contact(SocketAddrV4::new(Ipv4Addr::new(203, 0, 113, n), 5)), now);
        let peer = Peer { key: KeyPair::from_seed(&[n; 32]).public_key(), relays: vec![OTHER; 3] };
        node.records.add(TOPIC, SocketAddrV4::new(*OTHER.ip(), n.into()), peer.clone(), now);
        let target = target_of(&peer.key);
        node.records.add(target, OTHER, peer, now);
    }
    node
}

fn every_command() -> Vec<Request> {
    let known = target_of(&KeyPair::from_seed(&[1; 32]).public_key());
    let plain = [
        Command::Ping,
        Command::PingNat,
        Command::FindNode,
        Command::DownHint,
        Command::FindPeer,
        Command::Lookup,
        Command::Announce,
        Command::Unannounce,
        Command::Handshake,
        Command::Holepunch,
        Command::Other { internal: false, number: 8 },
    ];
    let plain = plain.into_iter().flat_map(|command| {
        [TOPIC, known].map(|target| Request { target: Some(target), ..request(command) })
    });
    plain.chain(every_handshake()).chain(every_holepunch()).collect()
}

#[tokio::test(start_paused = true)]
async fn an_unconfirmed_address_gets_at_most_three_times_the_bytes_it_sent() {
    for asked in every_command() {
        for id in [None, Some(id_of(PEER))] {
            for value in [asked.value.clone(), Some(Bytes::from(vec![1; 900]))] {
                let mut node = well_known();
                let asked = Request { id, value, ..asked.clone() };
                let came = asked.encode();
                for _ in 0..3 {
                    node.receive(SocketId::SERVER, PEER, &came, Instant::now());
                    let to_peer = std::iter::from_fn(|| node.next_packet())
                        .filter(|packet| packet.to.ip() == PEER.ip());
                    let bytes: usize = to_peer.map(|packet| packet.bytes.len()).sum();
                    assert!(bytes <= 3 * came.len(), "{bytes} for {}: {asked:?}", came.len());
                }
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_long_answer_follows_when_the_address_has_answered_a_ping() {
    for command in [Command::Lookup, Command::FindPeer] {
        let mut node = well_known();
        let target = match command {
            Command::Lookup => TOPIC,
            _ => target_of(&KeyPair::from_seed(&[1; 32]).public_key()),
        };
        let asked = Request { target: Some(target), ..request(command) };
        hand(&mut node, PEER, &asked);
        let pings = requests(&mut node);
        let [ping] = &pings[..] else { panic!("{pings:?}") };
        assert_eq!((ping.to, ping.command), (PEER, Command::Ping));
        // Another port of that host proves nothing.
        let answer = Response::new(OWN, ping.number);
        hand_answer(&mut node, SocketAddrV4::new(*PEER.ip(), 10), &answer);
        assert_eq!(sent(&mut node), []);
        hand_answer(&mut node, PEER, &answer);
        let answers = sent(&mut node);
        let [(PEER, Packet::Response(answer))] = &answers[..] else { panic!("{answers:?}") };
        assert_eq!((answer.number, answer.closer.len()), (5, 20));
        assert!(answer.value.as_ref().is_some_and(|value| value.len() >= 51), "{command:?}");
        assert_eq!(ask(&mut node, &asked).unwrap().closer.len(), 20, "confirmed from now on");
    }
}

#[tokio::test(start_paused = true)]
async fn pings_to_forged_addresses_are_bounded_and_the_rest_gets_short_answers() {
    let mut node = well_known();
    let lookup = request(Command::Lookup).encode();
    for n in 0..200 {
        let from = SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, n), 9);
        node.receive(SocketId::SERVER, from, &lookup, Instant::now());
    }
    let (pings, answers): (Vec<_>, Vec<_>) =
        sent(&mut node).into_iter().partition(|(_, packet)| matches!(packet, Packet::Request(_)));
    assert_eq!((pings.len(), answers.len()), (MAX_CONFIRMING, 200 - MAX_CONFIRMING));
}
