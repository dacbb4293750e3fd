use proptest::prelude::*;

use super::*;

const NAME: &str = "test/1";

fn frames(mux: &mut Mux) -> Vec<Bytes> {
    std::iter::from_fn(|| next_frame(mux)).collect()
}

fn next_frame(mux: &mut Mux) -> Option<Bytes> {
    let mut frame = BytesMut::new();
    mux.write_frame(&mut frame).then(|| frame.freeze())
}

fn events(mux: &mut Mux) -> Vec<Event> {
    std::iter::from_fn(|| mux.next_event()).collect()
}

fn pass(from: &mut Mux, to: &mut Mux) {
    for frame in frames(from) {
        to.receive(frame).unwrap();
    }
}

/// Two that have opened the same channel.
fn pair() -> (Mux, Mux, ChannelId) {
    let (mut one, mut two) = (Mux::default(), Mux::default());
    let channel = one.open(NAME, b"id", b"hello").unwrap();
    assert_eq!(two.open(NAME, b"id", b"there"), Some(channel));
    pass(&mut one, &mut two);
    pass(&mut two, &mut one);
    let opened = |handshake: &'static [u8]| {
        vec![Event::Opened { channel, handshake: Bytes::from_static(handshake) }]
    };
    assert_eq!((events(&mut one), events(&mut two)), (opened(b"there"), opened(b"hello")));
    (one, two, channel)
}

fn open_frame(number: u64, protocol: &[u8], rest: &[u8]) -> Bytes {
    let mut frame = BytesMut::from(&[0, 1][..]);
    put_uint(number, &mut frame);
    put_buffer(protocol, &mut frame);
    put_buffer(b"", &mut frame);
    frame.extend_from_slice(rest);
    frame.freeze()
}

#[test]
fn messages_arrive_on_an_open_channel_and_closing_it_closes_both_sides() {
    let (mut one, mut two, channel) = pair();
    assert!(one.send(channel, 7, b"bytes"));
    pass(&mut one, &mut two);
    let payload = Bytes::from_static(b"bytes");
    assert_eq!(events(&mut two), [Event::Message { channel, kind: 7, payload }]);
    one.close(channel);
    pass(&mut one, &mut two);
    assert_eq!(events(&mut two), [Event::Closed { channel }]);
    assert!(!two.send(channel, 0, b""), "closed");
    pass(&mut two, &mut one);
    assert_eq!(events(&mut one), []);
    // The numbers are free again on both sides.
    assert_eq!(one.open(NAME, b"id", b""), Some(channel));
    assert_eq!(two.open(NAME, b"id", b""), Some(channel));
    pass(&mut one, &mut two);
    assert!(matches!(events(&mut two)[..], [Event::Opened { .. }]));
}

/// The recorded frames of npm protomux, `tests/vectors/protomux.json`.
fn recorded(name: &str) -> Vec<Bytes> {
    let all: serde_json::Value =
        serde_json::from_str(include_str!("../../../tests/vectors/protomux.json")).unwrap();
    let sent = all["sent"].as_array().unwrap().iter();
    let frames = sent.filter(|one| one["name"] == name).flat_map(|one| one["frames"].as_array());
    let frames = frames.flatten().map(|frame| hex::decode(frame.as_str().unwrap()).unwrap());
    frames.map(Bytes::from).collect()
}

const CHANNEL: &str = "hypermount/hypercore-protocol-8";

#[test]
fn frames_of_the_reference_are_read() {
    let mut mux = Mux::default();
    let channel = mux.open(CHANNEL, b"", b"").unwrap();
    let mut hear = |name: &str| {
        recorded(name).into_iter().for_each(|frame| mux.receive(frame).unwrap());
        events(&mut mux)
    };
    let handshake = Bytes::from_static(&[1, 0xfd, 0xd2, 0x0c, 0xfe, 0, 0, 0x10, 0]);
    assert_eq!(hear("open"), [Event::Opened { channel, handshake }]);
    let message = |kind, payload: &'static [u8]| Event::Message {
        channel,
        kind,
        payload: Bytes::from_static(payload),
    };
    assert_eq!(hear("messages"), [message(0, b"a piece"), message(1, &[0xfe, 0, 0, 4, 0])]);
    let batch = hear("batch");
    let asked = |event: &Event, expected: [u8; 4]| {
        matches!(event, Event::Asked { protocol, id, .. }
            if protocol == "hypercore/alpha" && *id == expected[..])
    };
    assert!(asked(&batch[0], [0xaa; 4]) && asked(&batch[1], [0xbb; 4]), "{batch:?}");
    assert_eq!(batch[2..], [message(0, b"in a batch"), message(0, b"twice")]);
    assert_eq!(hear("reject"), [], "of a channel that we have not");
    assert_eq!(hear("close"), [Event::Closed { channel }]);
}

#[test]
fn frames_equal_those_of_the_reference() {
    let mut mux = Mux::default();
    let mut handshake = BytesMut::new();
    [1, 3282, 1024 * 1024].into_iter().for_each(|number| put_uint(number, &mut handshake));
    let channel = mux.open(CHANNEL, b"", &handshake).unwrap();
    assert_eq!(frames(&mut mux), recorded("open"));
    mux.receive(open_frame(1, CHANNEL.as_bytes(), b"")).unwrap();
    for (message, frame) in [&b"a piece"[..], &[0xfe, 0, 0, 4, 0]].iter().zip(0..) {
        assert!(mux.send(channel, frame, message));
        assert_eq!(next_frame(&mut mux).unwrap(), recorded("messages")[frame as usize]);
    }
    mux.receive(open_frame(2, b"other", b"")).unwrap();
    mux.refuse(RemoteId(2));
    assert_eq!(frames(&mut mux), recorded("reject"));
    mux.close(channel);
    assert_eq!(frames(&mut mux), recorded("close"));
}

#[test]
fn a_batch_holds_messages_of_several_channels_and_opens_among_them() {
    let mut mux = Mux::default();
    let mut batch = BytesMut::from(&[0, 0, 0][..]);
    let open = open_frame(1, NAME.as_bytes(), b"hi").slice(1..);
    put_buffer(&open, &mut batch);
    // From here on of the remote's channel 1.
    batch.extend_from_slice(&[0, 1]);
    put_buffer(b"\x00first", &mut batch);
    put_buffer(b"\x05second", &mut batch);
    mux.receive(batch.freeze()).unwrap();
    let asked = events(&mut mux);
    assert!(matches!(&asked[..], [Event::Asked { protocol, .. }] if protocol == NAME));
    let channel = mux.open(NAME, b"", b"").unwrap();
    let message = |kind, text: &'static [u8]| Event::Message {
        channel,
        kind,
        payload: Bytes::from_static(text),
    };
    let opened = Event::Opened { channel, handshake: Bytes::from_static(b"hi") };
    assert_eq!(events(&mut mux), [opened, message(0, b"first"), message(5, b"second")]);
    assert_eq!(mux.queued, 0);
}

#[test]
fn a_refused_channel_can_be_opened_again_and_its_queued_messages_are_dropped() {
    let mut mux = Mux::default();
    for _ in 0..3 {
        mux.receive(open_frame(1, b"other", b"")).unwrap();
        let [Event::Asked { remote, .. }] = events(&mut mux)[..] else { panic!() };
        mux.receive(Bytes::from_static(b"\x01\x00queued")).unwrap();
        mux.refuse(remote);
        assert_eq!(frames(&mut mux), [Bytes::from_static(&[0, 2, 1])]);
        assert_eq!(mux.queued, 0);
        mux.receive(Bytes::from_static(b"\x01\x00late")).unwrap();
        assert_eq!(events(&mut mux), []);
    }
    let channel = mux.open(NAME, b"", b"").unwrap();
    frames(&mut mux);
    mux.receive(Bytes::from_static(&[0, 2, 1])).unwrap();
    assert_eq!(events(&mut mux), [Event::Closed { channel }], "we are refused");
}

#[test]
fn numbers_are_taken_in_turn() {
    let mut mux = Mux::default();
    assert_eq!(mux.receive(open_frame(2, b"x", b"")), Err(MuxError::OutOfTurn(2)));
    mux.receive(open_frame(1, b"x", b"")).unwrap();
    mux.receive(open_frame(2, b"x", b"")).unwrap();
    assert_eq!(mux.receive(open_frame(2, b"x", b"")), Err(MuxError::OutOfTurn(2)), "in use");
    assert_eq!(mux.receive(open_frame(0, b"x", b"")), Err(MuxError::OutOfTurn(0)));
}

/// How many channels the remote may ask for before one is refused.
fn asked_before_refusal(mux: &mut Mux, id: &[u8]) -> usize {
    for number in 1.. {
        let mut frame = BytesMut::from(&[0, 1][..]);
        put_uint(number, &mut frame);
        put_buffer(b"x", &mut frame);
        put_buffer(id, &mut frame);
        mux.receive(frame.freeze()).unwrap();
        if mux.has_output() {
            let mut refusal = BytesMut::from(&[0, 2][..]);
            put_uint(number, &mut refusal);
            assert_eq!(frames(mux), [refusal.freeze()]);
            let asked = events(mux).len();
            assert_eq!(asked as u64, number - 1);
            return asked;
        }
    }
    unreachable!()
}

#[test]
fn channels_of_the_remote_are_limited() {
    let each = b"x".len() + QUEUED_OVERHEAD;
    for (trusted, id, most) in [
        (false, &[7; 32][..], MAX_STRANGER_QUEUED / (each + 32)),
        (false, &[7; MAX_NAME], MAX_STRANGER_QUEUED / (each + MAX_NAME)),
        (true, &[7; 32], MAX_REMOTE),
    ] {
        let mut mux = Mux::default();
        if trusted {
            mux.trust();
        }
        assert_eq!(asked_before_refusal(&mut mux, id), most);
        // One that is ours as well is opened all the same.
        let channel = mux.open("ours", b"", b"").unwrap();
        frames(&mut mux);
        mux.receive(open_frame(most as u64 + 1, b"ours", b"")).unwrap();
        let opened = Event::Opened { channel, handshake: Bytes::new() };
        assert_eq!(events(&mut mux), [opened]);
    }
}

#[test]
fn a_channel_with_a_long_handshake_is_refused() {
    for (length, refused) in [(MAX_HANDSHAKE, false), (MAX_HANDSHAKE + 1, true)] {
        let mut mux = Mux::default();
        mux.receive(open_frame(1, b"x", &vec![7; length])).unwrap();
        assert_eq!((mux.has_output(), events(&mut mux).is_empty()), (refused, refused));
    }
}

#[test]
fn local_channels_are_limited() {
    let mut mux = Mux::default();
    for _ in 0..MAX_LOCAL {
        assert!(mux.open(NAME, b"", b"").is_some());
    }
    assert_eq!(mux.open(NAME, b"", b""), None);
}

#[test]
fn messages_queued_for_unopened_channels_are_limited() {
    let message = |length| Bytes::from([&[1, 0][..], &vec![9; length]].concat());
    for (trusted, most) in [(false, MAX_STRANGER_QUEUED), (true, MAX_QUEUED)] {
        let asked = || {
            let mut mux = Mux::default();
            if trusted {
                mux.trust();
            }
            mux.receive(open_frame(1, b"x", b"")).unwrap();
            mux
        };
        let whole = most - asked().queued - QUEUED_OVERHEAD;
        for (length, accepted) in [(whole, true), (whole + 1, false)] {
            assert_eq!(asked().receive(message(length)).is_ok(), accepted);
        }
        let mut mux = asked();
        let room = most - mux.queued;
        let empty = std::iter::repeat_with(|| mux.receive(message(0)));
        let taken = empty.take_while(Result::is_ok).count();
        assert_eq!(taken, room / QUEUED_OVERHEAD, "empty ones are not free");
    }
}

#[test]
fn frame_length_and_messages_of_a_batch_are_limited() {
    let mut mux = Mux::default();
    let long = |length| Bytes::from([&[9, 0][..], &vec![0; length - 2]].concat());
    for most in [MAX_STRANGER_FRAME, MAX_FRAME] {
        assert_eq!(mux.receive(long(most)), Ok(()));
        let length = most + 1;
        assert_eq!(mux.receive(long(length)), Err(MuxError::TooLong { length, most }));
        mux.trust();
    }
    let batch = |count| Bytes::from([&[0, 0, 5][..], &[1, 0].repeat(count)].concat());
    assert_eq!(mux.receive(batch(MAX_BATCH)), Ok(()));
    assert_eq!(mux.receive(batch(MAX_BATCH + 1)), Err(MuxError::TooManyInOne));
    assert_eq!(mux.receive(Bytes::from_static(&[0, 0, 0, 1, 0])), Err(MuxError::Nested));
}

#[test]
fn small_messages_that_wait_leave_together_and_a_long_one_alone() {
    let (mut one, mut two, channel) = pair();
    let other = one.open("other", b"", b"").unwrap();
    let long = vec![5; BATCHED];
    let sent: [(u64, &[u8]); 5] = [(0, b""), (1, b"one"), (2, &long), (300, b"two"), (4, b"three")];
    for (kind, payload) in sent {
        assert!(one.send(channel, kind, payload));
    }
    assert_eq!(one.pending_control(), 1);
    one.close(other);
    assert_eq!(one.pending_control(), 2);
    let frames = frames(&mut one);
    let lengths: Vec<usize> = frames.iter().map(Bytes::len).collect();
    // The open of `other` with the first two; the long one; the last two with the close.
    assert_eq!(lengths.len(), 3, "{lengths:?}");
    assert_eq!(lengths[1], BATCHED + 2);
    assert_eq!((one.pending_output(), one.pending_control()), (0, 0));
    frames.into_iter().for_each(|frame| two.receive(frame).unwrap());
    let events = events(&mut two);
    assert!(matches!(&events[0], Event::Asked { protocol, .. } if protocol == "other"));
    let message = |(kind, payload): (u64, &[u8])| Event::Message {
        channel,
        kind,
        payload: Bytes::copy_from_slice(payload),
    };
    assert_eq!(events[1..], sent.map(message));
    assert!(two.remote.len() == 1, "closed");
}

#[test]
fn a_batch_has_a_limited_length() {
    let (mut one, mut two, channel) = pair();
    let message = vec![5; BATCHED - 1];
    let count = 3 * BATCH_BYTES / message.len();
    (0..count).for_each(|_| assert!(one.send(channel, 1, &message)));
    let frames = frames(&mut one);
    assert!(frames.len() > 2 && frames.iter().all(|frame| frame.len() < BATCH_BYTES + 2 * BATCHED));
    frames.into_iter().for_each(|frame| two.receive(frame).unwrap());
    assert_eq!(events(&mut two).len(), count);
}

#[test]
fn the_longest_message_is_that_of_a_block_with_its_proof() {
    let (mut one, mut two, channel) = pair();
    assert!(!one.send(channel, 0, &vec![5; MAX_SENT + 1]));
    assert!(one.send(channel, 0, &vec![5; MAX_SENT]));
    two.trust();
    pass(&mut one, &mut two);
    assert!(
        matches!(&events(&mut two)[..], [Event::Message { payload, .. }] if payload.len() == MAX_SENT)
    );
}

#[test]
fn names_are_limited_in_length_and_valid_text() {
    let mut mux = Mux::default();
    assert_eq!(mux.receive(open_frame(1, &[b'x'; MAX_NAME], b"")), Ok(()));
    assert_eq!(mux.receive(open_frame(2, &[b'x'; MAX_NAME + 1], b"")), Err(MuxError::BadName));
    assert_eq!(mux.receive(open_frame(2, b"\xff", b"")), Err(MuxError::BadName));
}

proptest! {
    #[test]
    fn any_bytes_of_the_remote_stay_within_the_limits(
        messages in proptest::collection::vec(proptest::collection::vec(0_u8..12, 0..40), 0..40)
    ) {
        let mut mux = Mux::default();
        mux.open(NAME, b"", b"");
        for message in messages {
            if mux.receive(message.into()).is_err() {
                break;
            }
            prop_assert!(mux.queued <= MAX_STRANGER_QUEUED && mux.remote.len() <= MAX_REMOTE);
            if let Some(Event::Asked { remote, .. }) = mux.next_event() {
                mux.refuse(remote);
            }
            let held: usize = mux.remote.values().map(Remote::held).sum();
            prop_assert_eq!(mux.queued, held);
        }
    }

    /// Whatever is sent arrives in order, however it is put into frames.
    #[test]
    fn messages_arrive_in_order(
        messages in proptest::collection::vec((0_u64..300, prop_oneof![0_usize..40, 4000_usize..4200, 30_000_usize..70_000]), 0..60),
        taken in proptest::collection::vec(0_usize..4, 60)
    ) {
        let (mut one, mut two, channel) = pair();
        let mut received = Vec::new();
        for ((kind, length), taken) in messages.iter().zip(taken) {
            prop_assert!(one.send(channel, *kind, &vec![*kind as u8; *length]));
            for frame in std::iter::from_fn(|| next_frame(&mut one)).take(taken) {
                two.receive(frame).unwrap();
            }
        }
        pass(&mut one, &mut two);
        for event in events(&mut two) {
            if let Event::Message { kind, payload, .. } = event {
                received.push((kind, payload.len()));
            }
        }
        prop_assert_eq!(received, messages);
        prop_assert_eq!(one.pending_output(), 0);
    }
}
