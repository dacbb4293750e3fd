//! Two sessions against each other, and one against a remote that means harm.

use proptest::prelude::*;

use super::super::channels::{MAX_CHANNELS, MAX_REMOTE_OPENS};
use super::super::legacy::tests::any_message;
use super::super::noise::MAX_HANDSHAKE_MESSAGE;
use super::*;

fn key(number: u32) -> PublicKey {
    let mut bytes = [0x55; 32];
    bytes[..4].copy_from_slice(&number.to_le_bytes());
    PublicKey::new(bytes)
}

fn core(number: u32) -> DiscoveryKey {
    key(number).discovery_key()
}

fn pair() -> (Session, Session) {
    let start = |role, seed: u8| {
        Session::new(role, StaticKeyPair::from_seed(&[seed; 32]), [seed; NONCE_LENGTH]).unwrap()
    };
    (start(Role::Initiator, 1), start(Role::Responder, 2))
}

/// Hands what `from` has to say to `to`.
fn deliver(from: &mut Session, to: &mut Session) -> Vec<SessionEvent> {
    let bytes = from.take_output().unwrap_or_default();
    to.receive(&mut BytesMut::from(bytes.as_ref())).unwrap()
}

/// Passes bytes both ways until both are silent; what each was told.
fn settle(a: &mut Session, b: &mut Session) -> (Vec<SessionEvent>, Vec<SessionEvent>) {
    let (mut to_a, mut to_b) = (Vec::new(), Vec::new());
    while a.pending_output() + b.pending_output() > 0 {
        to_b.extend(deliver(a, b));
        to_a.extend(deliver(b, a));
    }
    (to_a, to_b)
}

fn established() -> (Session, Session) {
    let (mut a, mut b) = pair();
    settle(&mut a, &mut b);
    (a, b)
}

/// Both have opened core 1.
fn opened() -> (Session, Session) {
    let (mut a, mut b) = established();
    assert_eq!(a.open(&key(1), &["x"]), Opening::Waiting);
    settle(&mut a, &mut b);
    assert_eq!(b.open(&key(1), &["x"]), Opening::Opened);
    settle(&mut a, &mut b);
    (a, b)
}

fn want() -> Message {
    Message::Want { start: 0, length: 1 << 20 }
}

fn message_event(discovery_key: DiscoveryKey, message: Message) -> SessionEvent {
    SessionEvent::Message { discovery_key, message }
}

#[test]
fn handshake_introduces_the_static_keys() {
    let (mut a, mut b) = pair();
    assert_eq!(a.pending_output(), 59);
    assert_eq!(b.pending_output(), 0);
    a.keepalive();
    assert_eq!(a.pending_output(), 59);
    let (to_a, to_b) = settle(&mut a, &mut b);
    let remote = |seed| *StaticKeyPair::from_seed(&[seed; 32]).public();
    assert_eq!(to_a, [SessionEvent::Handshaken { remote: remote(2) }]);
    assert_eq!(to_b, [SessionEvent::Handshaken { remote: remote(1) }]);
}

#[test]
fn a_generated_pair_is_a_new_one() {
    let (one, two) = (StaticKeyPair::generate().unwrap(), StaticKeyPair::generate().unwrap());
    assert_ne!(one.public(), two.public());
}

#[test]
fn opens_before_the_handshake_are_sent_after_it_in_order() {
    let (mut a, mut b) = pair();
    for number in [3, 1, 2] {
        assert_eq!(a.open(&key(number), &[]), Opening::Waiting);
    }
    a.close(&core(1));
    assert_eq!(b.open(&key(2), &[]), Opening::Waiting);
    let (to_a, to_b) = settle(&mut a, &mut b);
    assert_eq!(
        to_b[1..],
        [
            SessionEvent::RemoteOpen { discovery_key: core(3) },
            SessionEvent::Opened { discovery_key: core(2) },
        ]
    );
    assert_eq!(to_a[1..], [SessionEvent::Opened { discovery_key: core(2) }]);
    assert_eq!(a.open(&key(2), &[]), Opening::Opened);
    assert!(!a.send(&core(3), want()));
    assert!(!a.send(&core(1), want()));
}

#[test]
fn close_is_answered_and_the_core_can_be_opened_again() {
    let (mut a, mut b) = opened();
    assert!(a.send(&core(1), want()));
    for _ in 0..3 {
        a.close(&core(1));
        assert!(!a.is_open(&core(1)));
        // Sent before the Close arrives: not an error for the side that closed.
        let open = b.is_open(&core(1));
        assert_eq!(b.send(&core(1), want()), open);
        let (to_a, to_b) = settle(&mut a, &mut b);
        assert_eq!(to_a, []);
        assert_eq!(to_b.last(), Some(&SessionEvent::Closed { discovery_key: core(1) }));
        assert_eq!(b.open(&key(1), &[]), Opening::Waiting);
        settle(&mut a, &mut b);
        assert_eq!(a.open(&key(1), &[]), Opening::Opened);
        settle(&mut a, &mut b);
        assert!(a.is_open(&core(1)) && b.is_open(&core(1)));
    }
}

#[test]
fn closes_that_cross_close_once() {
    let (mut a, mut b) = opened();
    a.close(&core(1));
    b.close(&core(1));
    assert_eq!(settle(&mut a, &mut b), (vec![], vec![]));
    assert_eq!(a.open(&key(1), &[]), Opening::Waiting);
    let (_, to_b) = settle(&mut a, &mut b);
    assert_eq!(to_b, [SessionEvent::RemoteOpen { discovery_key: core(1) }]);
}

#[test]
fn a_refused_core_can_be_opened_again_from_either_side() {
    let (mut a, mut b) = established();
    assert_eq!(a.open(&key(1), &[]), Opening::Waiting);
    settle(&mut a, &mut b);
    b.refuse(&core(1));
    b.refuse(&core(1));
    let closed = vec![SessionEvent::Closed { discovery_key: core(1) }];
    assert_eq!(settle(&mut a, &mut b), (closed, vec![]));
    assert_eq!(b.open(&key(1), &[]), Opening::Waiting);
    let asked = vec![SessionEvent::RemoteOpen { discovery_key: core(1) }];
    assert_eq!(settle(&mut a, &mut b), (asked, vec![]));
    assert_eq!(a.open(&key(1), &[]), Opening::Opened);
    settle(&mut a, &mut b);
    assert!(b.send(&core(1), want()));
    assert_eq!(deliver(&mut b, &mut a), [message_event(core(1), want())]);
}

#[test]
fn extension_messages_are_known_by_name_on_both_sides() {
    let (mut a, mut b) = established();
    assert_eq!(a.open(&key(1), &["b", "a", "only-a", "b"]), Opening::Waiting);
    settle(&mut a, &mut b);
    assert_eq!(b.open(&key(1), &["b", "0"]), Opening::Opened);
    let (_, to_b) = settle(&mut a, &mut b);
    let extensions = ["a", "b", "only-a"].map(str::to_owned).to_vec();
    assert_eq!(to_b, [SessionEvent::Options { discovery_key: core(1), ack: false, extensions }]);
    let message = |name: &str| {
        let payload = Bytes::from_static(b"hello");
        Message::Extension { name: name.to_owned(), payload }
    };
    assert!(a.send(&core(1), message("only-a")));
    assert!(a.send(&core(1), message("b")));
    assert!(!a.send(&core(1), message("0")));
    assert_eq!(deliver(&mut a, &mut b), [message_event(core(1), message("b"))]);

    assert!(a.set_options(&core(1), true, &["c", "b"]));
    let extensions = ["b", "c"].map(str::to_owned).to_vec();
    let options = SessionEvent::Options { discovery_key: core(1), ack: true, extensions };
    assert_eq!(deliver(&mut a, &mut b), [options]);
    assert!(a.send(&core(1), message("b")));
    assert_eq!(deliver(&mut a, &mut b), [message_event(core(1), message("b"))]);
    assert!(!a.set_options(&core(2), true, &[]));
}

#[test]
fn names_sort_by_utf16_code_units() {
    assert_eq!(sorted(&["\u{ffff}", "\u{10000}", "a"]), ["a", "\u{10000}", "\u{ffff}"]);
}

#[test]
fn a_message_too_long_for_a_frame_is_not_sent() {
    let (mut a, mut b) = opened();
    let data = |length| {
        let value = Some(Bytes::from(vec![7; length]));
        Message::Data { index: 0, value, nodes: vec![], signature: None }
    };
    // Tags, index and the length of the value take seven bytes.
    let longest = data(MAX_PAYLOAD - 7);
    assert!(a.send(&core(1), longest.clone()));
    assert_eq!(deliver(&mut a, &mut b), [message_event(core(1), longest)]);
    assert!(!a.send(&core(1), data(MAX_PAYLOAD - 6)));
    let spam = |length| {
        let payload = Bytes::from(vec![7; length]);
        Message::Extension { name: "x".to_owned(), payload }
    };
    assert!(a.send(&core(1), spam(MAX_PAYLOAD - 1)));
    assert!(!a.send(&core(1), spam(MAX_PAYLOAD)));
    assert_eq!(a.pending_output(), 4 + 1 + MAX_PAYLOAD);
}

/// A remote that has done the handshake and then says what it likes.
struct Hostile {
    victim: Session,
    remote: Session,
}

impl Hostile {
    fn new() -> Self {
        let (remote, victim) = opened();
        Self { victim, remote }
    }

    fn say(&mut self, plain: &[u8]) -> Result<Vec<SessionEvent>, ProtocolError> {
        self.remote.send_plain(plain);
        let bytes = self.remote.take_output().unwrap_or_default();
        self.victim.receive(&mut BytesMut::from(bytes.as_ref()))
    }

    fn frame(
        &mut self,
        channel: u32,
        kind: u8,
        payload: &[u8],
    ) -> Result<Vec<SessionEvent>, ProtocolError> {
        let mut out = BytesMut::new();
        framing::put_header(channel, kind, payload.len(), &mut out);
        out.extend_from_slice(payload);
        self.say(&out)
    }

    fn open(
        &mut self,
        channel: u32,
        core: DiscoveryKey,
        capability: Option<[u8; 32]>,
    ) -> Result<Vec<SessionEvent>, ProtocolError> {
        let open = legacy::Open {
            discovery_key: Some(Bytes::copy_from_slice(core.as_bytes())),
            capability: capability.map(|bytes| Bytes::copy_from_slice(&bytes)),
        };
        self.frame(channel, kind::OPEN, &prost::Message::encode_to_vec(&open))
    }

    fn capability(&self, key: &PublicKey) -> [u8; 32] {
        self.remote.established().unwrap().capability(key)
    }

    /// What the victim has answered, in the clear.
    fn answer(&mut self) -> Vec<(Header, Bytes)> {
        let bytes = self.victim.take_output().unwrap_or_default();
        self.remote.inbound.append(&mut BytesMut::from(bytes.as_ref()));
        std::iter::from_fn(|| self.remote.inbound.next_frame(MAX_PAYLOAD).unwrap()).collect()
    }
}

macro_rules! assert_ends {
    ($hostile:expr, $result:expr, $error:pat) => {
        let result = $result;
        assert!(matches!(result, Err($error)), "{result:?}");
        let after = $hostile.say(&[0]);
        assert!(matches!(after, Err(ProtocolError::Ended)), "{after:?}");
        assert_eq!($hostile.victim.open(&key(9), &[]), Opening::Refused);
    };
}

#[test]
fn a_capability_for_our_open_core_must_be_right() {
    for wrong in [None, Some([0; 32])] {
        let mut hostile = Hostile::new();
        assert_eq!(hostile.victim.open(&key(2), &[]), Opening::Waiting);
        let result = hostile.open(9, core(2), wrong);
        assert_ends!(hostile, result, ProtocolError::WrongCapability { .. });
    }
    let mut hostile = Hostile::new();
    assert_eq!(hostile.victim.open(&key(2), &[]), Opening::Waiting);
    // What the victim itself sent is no proof.
    let echoed = hostile.victim.established().unwrap().capability(&key(2));
    let result = hostile.open(9, core(2), Some(echoed));
    assert_ends!(hostile, result, ProtocolError::WrongCapability { .. });
}

#[test]
fn a_core_we_have_and_a_core_we_have_not_are_refused_alike() {
    let mut answers = Vec::new();
    for we_have_it in [true, false] {
        for capability in [None, Some([7; 32])] {
            let mut hostile = Hostile::new();
            let asked = hostile.open(2, core(2), capability).unwrap();
            assert_eq!(asked, [SessionEvent::RemoteOpen { discovery_key: core(2) }]);
            if we_have_it {
                assert_eq!(hostile.victim.open(&key(2), &["x"]), Opening::Refused);
            } else {
                hostile.victim.refuse(&core(2));
            }
            assert!(!hostile.victim.is_open(&core(2)));
            answers.push(hostile.answer());
        }
    }
    assert_eq!(answers[0].len(), 1);
    assert_eq!(answers[0][0].0.kind, kind::CLOSE);
    assert!(answers.iter().all(|answer| *answer == answers[0]));
    let mut honest = Hostile::new();
    let capability = honest.capability(&key(2));
    honest.open(2, core(2), Some(capability)).unwrap();
    assert_eq!(honest.victim.open(&key(2), &[]), Opening::Opened);
}

#[test]
fn channels_never_opened_end_the_connection() {
    for kind in 1..=15u8 {
        let mut hostile = Hostile::new();
        let result = hostile.frame(2, kind, &[]);
        if (11..=14).contains(&kind) {
            assert_eq!(result.unwrap(), [], "reserved type {kind}");
            continue;
        }
        assert_ends!(hostile, result, ProtocolError::ChannelNeverOpened { channel: 2, .. });
    }
    let mut hostile = Hostile::new();
    let result = hostile.frame(0, kind::DATA, &[8, 0]);
    assert_ends!(hostile, result, ProtocolError::ChannelNeverOpened { channel: 0, .. });
}

#[test]
fn stream_level_options_and_extensions_are_ignored() {
    let mut hostile = Hostile::new();
    assert_eq!(hostile.frame(0, kind::OPTIONS, &[0x0a, 1, b'x']).unwrap(), []);
    assert_eq!(hostile.frame(0, kind::EXTENSION, &[0, 1, 2]).unwrap(), []);
    assert_eq!(hostile.frame(1, kind::EXTENSION, &[99, 1, 2]).unwrap(), []);
    let endless = hostile.frame(1, kind::EXTENSION, &[0x80]);
    assert_ends!(hostile, endless, ProtocolError::Malformed { .. });
}

#[test]
fn broken_protobuf_ends_the_connection() {
    for kind in 0..=10u8 {
        let mut hostile = Hostile::new();
        let result = hostile.frame(1, kind, &[0x0a, 0x7f, 1]);
        assert_ends!(hostile, result, ProtocolError::Malformed { .. });
    }
}

#[test]
fn messages_before_our_answer_are_dropped() {
    let mut hostile = Hostile::new();
    let capability = hostile.capability(&key(2));
    hostile.open(2, core(2), Some(capability)).unwrap();
    assert_eq!(hostile.frame(2, kind::WANT, &[8, 0]).unwrap(), []);
    assert_eq!(hostile.frame(2, kind::OPTIONS, &[0x0a, 1, b'x']).unwrap(), []);
    assert_eq!(hostile.frame(2, kind::EXTENSION, &[0]).unwrap(), []);
    assert!(!hostile.victim.send(&core(2), want()));
    let closed = hostile.frame(2, kind::CLOSE, &[]).unwrap();
    assert_eq!(closed, [SessionEvent::Closed { discovery_key: core(2) }]);
    assert_eq!(hostile.answer(), []);
}

#[test]
fn a_channel_or_a_core_is_not_opened_twice() {
    let mut hostile = Hostile::new();
    let result = hostile.open(1, core(2), None);
    assert_ends!(hostile, result, ProtocolError::ChannelInUse { channel: 1 });
    let mut hostile = Hostile::new();
    let result = hostile.open(0, core(2), None);
    assert_ends!(hostile, result, ProtocolError::ChannelInUse { channel: 0 });
    let mut hostile = Hostile::new();
    let capability = hostile.capability(&key(1));
    let result = hostile.open(2, core(1), Some(capability));
    assert_ends!(hostile, result, ProtocolError::OpenedTwice { .. });
}

#[test]
fn open_channels_are_limited_and_one_more_is_refused() {
    let mut hostile = Hostile::new();
    for number in 2..=MAX_CHANNELS as u32 {
        assert_eq!(hostile.open(number, core(number), None).unwrap().len(), 1, "{number}");
    }
    assert_eq!(hostile.answer(), []);
    let one_more = MAX_CHANNELS as u32 + 1;
    assert_eq!(hostile.open(one_more, core(one_more), None).unwrap(), []);
    assert_eq!(hostile.answer().len(), 1);
    assert_eq!(hostile.victim.open(&key(one_more), &[]), Opening::Refused);
    // Closing one makes room for one.
    hostile.victim.refuse(&core(2));
    assert_eq!(hostile.victim.open(&key(one_more), &[]), Opening::Waiting);
}

#[test]
fn opens_of_a_whole_session_are_limited() {
    let mut hostile = Hostile::new();
    let refuse = |hostile: &mut Hostile, number| {
        hostile.open(number, core(2), None)?;
        hostile.victim.refuse(&core(2));
        hostile.victim.take_output().map_or(Ok(0), |bytes| Ok(bytes.len()))
    };
    for number in 2..=MAX_REMOTE_OPENS as u32 {
        assert!(refuse(&mut hostile, number).unwrap() >= 36);
    }
    let result: Result<_, ProtocolError> = refuse(&mut hostile, MAX_REMOTE_OPENS as u32 + 1);
    assert_ends!(hostile, result, ProtocolError::TooMany { .. });
}

#[test]
fn keepalives_are_dropped_without_an_event() {
    let mut hostile = Hostile::new();
    assert_eq!(hostile.say(&vec![0; 1 << 20]).unwrap(), []);
    assert_eq!(hostile.victim.pending_output(), 0);
    assert!(hostile.victim.inbound.bytes.is_empty());
    assert_eq!(hostile.frame(1, kind::WANT, &[8, 0]).unwrap().len(), 1);
}

#[test]
fn keepalives_in_more_bytes_than_they_need_are_dropped_whole() {
    let mut hostile = Hostile::new();
    assert_eq!(hostile.say(&[0x80, 0, 0, 0x80, 0x80, 0, 0x80]).unwrap(), []);
    assert_eq!(hostile.victim.inbound.bytes.len(), 1, "the last one is not there yet");
    assert_eq!(hostile.say(&[0]).unwrap(), []);
    assert!(hostile.victim.inbound.bytes.is_empty());
    assert_eq!(hostile.frame(1, kind::WANT, &[8, 0]).unwrap().len(), 1);
}

#[test]
fn absurd_frames_end_the_connection_before_they_arrive() {
    let mut hostile = Hostile::new();
    let mut claim = BytesMut::new();
    varint::write(1 << 40, &mut claim);
    let result = hostile.say(&claim);
    assert_ends!(hostile, result, ProtocolError::FrameTooLong { .. });
    let mut hostile = Hostile::new();
    let result = hostile.say(&[0xff; 8]);
    assert_ends!(hostile, result, ProtocolError::VarintTooLong { .. });
}

#[test]
fn a_stranger_may_send_small_frames_only() {
    let open = |payload: usize| {
        let (mut a, mut b) = established();
        let mut frame = BytesMut::new();
        framing::put_header(1, 11, payload, &mut frame);
        a.send_plain(&frame);
        let bytes = a.take_output().unwrap();
        b.receive(&mut BytesMut::from(bytes.as_ref())).map(|_| b.pending_input())
    };
    assert!(open(MAX_STRANGER_PAYLOAD).unwrap() > 0, "waits for the rest");
    let refused = open(MAX_STRANGER_PAYLOAD + 1);
    assert!(
        matches!(refused, Err(ProtocolError::FrameTooLong { max, .. }) if max == MAX_STRANGER_PAYLOAD)
    );
}

#[test]
fn an_open_that_was_taken_back_asks_for_nothing() {
    let (mut a, mut b) = established();
    assert_eq!(a.open(&key(1), &[]), Opening::Waiting);
    deliver(&mut a, &mut b);
    assert!(b.is_asked_for(&core(1)));
    assert!(!b.is_asked_for(&core(2)));
    a.close(&core(1));
    deliver(&mut a, &mut b);
    assert!(!b.is_asked_for(&core(1)));
    assert_eq!(b.open(&key(1), &[]), Opening::Waiting);
    assert!(!b.is_asked_for(&core(1)), "it was we who asked");
}

#[test]
fn the_longest_frame_arrives_in_pieces() {
    let mut hostile = Hostile::new();
    let mut frame = BytesMut::new();
    framing::put_header(1, 11, MAX_PAYLOAD, &mut frame);
    frame.resize(frame.len() + MAX_PAYLOAD, 0);
    framing::put_header(1, kind::WANT, 2, &mut frame);
    frame.extend_from_slice(&[8, 0]);
    let mut events = Vec::new();
    for piece in frame.chunks(60_000) {
        events.extend(hostile.say(piece).unwrap());
    }
    assert_eq!(events, [message_event(core(1), Message::Want { start: 0, length: 0 })]);
}

#[test]
fn handshake_messages_have_a_longest_length() {
    for (length, accepted) in [(MAX_HANDSHAKE_MESSAGE, true), (MAX_HANDSHAKE_MESSAGE + 1, false)] {
        let (_, mut victim) = pair();
        let mut claim = BytesMut::new();
        varint::write(length as u64, &mut claim);
        let result = victim.receive(&mut claim);
        if accepted {
            assert_eq!(result.unwrap(), []);
        } else {
            assert!(matches!(result, Err(ProtocolError::HandshakeTooLong { .. })));
        }
    }
}

#[test]
fn a_handshake_without_nonce_fails() {
    for nonce_length in [0, 23, 25] {
        let (_, mut victim) = pair();
        let pattern = "Noise_XX_25519_ChaChaPoly_BLAKE2b".parse().unwrap();
        let mut noise = snow::Builder::new(pattern)
            .local_private_key(&[9; 32])
            .unwrap()
            .build_initiator()
            .unwrap();
        let mut payload = vec![0x0a, nonce_length];
        payload.resize(2 + usize::from(nonce_length), 1);
        let mut buffer = [0; 1024];
        let mut say = |noise: &mut snow::HandshakeState, victim: &mut Session| {
            let length = noise.write_message(&payload, &mut buffer).unwrap();
            let mut message = BytesMut::new();
            varint::write(length as u64, &mut message);
            message.extend_from_slice(&buffer[..length]);
            victim.receive(&mut message)
        };
        assert_eq!(say(&mut noise, &mut victim).unwrap(), []);
        let answer = victim.take_output().unwrap();
        noise.read_message(&answer[1..], &mut [0; 1024]).unwrap();
        let result = say(&mut noise, &mut victim);
        assert!(matches!(result, Err(ProtocolError::HandshakePayload)), "{result:?}");
    }
}

#[test]
fn flipped_bits_in_the_handshake_end_it() {
    for position in 1..91 {
        let (mut a, mut b) = pair();
        deliver(&mut a, &mut b);
        deliver(&mut b, &mut a);
        let mut last = BytesMut::from(a.take_output().unwrap().as_ref());
        assert_eq!(last.len(), 91);
        last[position] ^= 1;
        assert!(matches!(b.receive(&mut last), Err(ProtocolError::Noise(_))), "{position}");
    }
}

#[derive(Clone, Debug)]
enum SessionStep {
    Send { by_a: bool, core: u32, message: Message },
    Extension { by_a: bool, core: u32, payload: Vec<u8> },
    Keepalive { by_a: bool },
    Deliver { to_a: bool, bytes: usize },
}

fn any_step() -> impl Strategy<Value = SessionStep> {
    let payload = proptest::collection::vec(any::<u8>(), 0..9000);
    prop_oneof![
        3 => (any::<bool>(), 0..3u32, any_message())
            .prop_map(|(by_a, core, message)| SessionStep::Send { by_a, core, message }),
        1 => (any::<bool>(), 0..3u32, payload)
            .prop_map(|(by_a, core, payload)| SessionStep::Extension { by_a, core, payload }),
        1 => any::<bool>().prop_map(|by_a| SessionStep::Keepalive { by_a }),
        4 => (any::<bool>(), 1..400usize)
            .prop_map(|(to_a, bytes)| SessionStep::Deliver { to_a, bytes }),
    ]
}

/// Two sessions and the bytes between them.
struct Wire {
    a: Session,
    b: Session,
    to_a: BytesMut,
    to_b: BytesMut,
    heard_by_a: Vec<SessionEvent>,
    heard_by_b: Vec<SessionEvent>,
}

impl Wire {
    fn new() -> Self {
        let (mut a, mut b) = pair();
        for number in 0..3 {
            let _ = a.open(&key(number), &["x"]);
            let _ = b.open(&key(number), &["y", "x"]);
        }
        let (heard_by_a, heard_by_b) = (Vec::new(), Vec::new());
        Self { a, b, to_a: BytesMut::new(), to_b: BytesMut::new(), heard_by_a, heard_by_b }
    }

    /// Lets at most `bytes` of what is under way arrive.
    fn deliver(&mut self, to_a: bool, bytes: usize) {
        let (to, from, under_way, heard) = if to_a {
            (&mut self.a, &mut self.b, &mut self.to_a, &mut self.heard_by_a)
        } else {
            (&mut self.b, &mut self.a, &mut self.to_b, &mut self.heard_by_b)
        };
        under_way.extend_from_slice(&from.take_output().unwrap_or_default());
        let mut arrived = under_way.split_to(bytes.min(under_way.len()));
        heard.extend(to.receive(&mut arrived).unwrap());
        assert!(arrived.is_empty());
    }
}

fn messages(events: Vec<SessionEvent>) -> Vec<(DiscoveryKey, Message)> {
    let message = |event| match event {
        SessionEvent::Message { discovery_key, message } => Some((discovery_key, message)),
        _ => None,
    };
    events.into_iter().filter_map(message).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn however_the_bytes_are_cut_the_messages_arrive_in_order(
        steps in proptest::collection::vec(any_step(), 1..60),
    ) {
        let mut wire = Wire::new();
        let (mut said_by_a, mut said_by_b) = (Vec::new(), Vec::new());
        for step in steps {
            let (by_a, number, message) = match step {
                SessionStep::Deliver { to_a, bytes } => {
                    wire.deliver(to_a, bytes);
                    continue;
                }
                SessionStep::Keepalive { by_a } => {
                    if by_a { wire.a.keepalive() } else { wire.b.keepalive() }
                    continue;
                }
                SessionStep::Send { by_a, core, message } => (by_a, core, message),
                SessionStep::Extension { by_a, core, payload } => {
                    let name = "x".to_owned();
                    (by_a, core, Message::Extension { name, payload: payload.into() })
                }
            };
            let (session, said) = if by_a {
                (&mut wire.a, &mut said_by_a)
            } else {
                (&mut wire.b, &mut said_by_b)
            };
            let open = session.is_open(&core(number));
            prop_assert_eq!(session.send(&core(number), message.clone()), open);
            if open {
                said.push((core(number), message));
            }
        }
        for _ in 0..6 {
            wire.deliver(true, usize::MAX);
            wire.deliver(false, usize::MAX);
        }
        prop_assert_eq!(messages(wire.heard_by_b), said_by_a);
        prop_assert_eq!(messages(wire.heard_by_a), said_by_b);
        prop_assert!((0..3).all(|number| wire.a.is_open(&core(number))));
    }

    #[test]
    fn arbitrary_frames_never_panic(
        frames in proptest::collection::vec(
            (0..4u32, 0..16u8, proptest::collection::vec(any::<u8>(), 0..60)),
            1..8,
        ),
    ) {
        let mut hostile = Hostile::new();
        for (channel, kind, payload) in frames {
            let _ = hostile.frame(channel, kind, &payload);
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let (mut initiator, mut responder) = pair();
        let _ = initiator.receive(&mut BytesMut::from(bytes.as_slice()));
        let _ = responder.receive(&mut BytesMut::from(bytes.as_slice()));
        let _ = Hostile::new().say(&bytes);
    }
}
