//! Streams with remotes that lie, flood, or have disappeared.

use std::time::{Duration, Instant};

use bytes::Bytes;

use super::flight::MAX_UNACKED;
use super::header::{DATA, DESTROY, END, HEADER, HEARTBEAT, Header, Packet};
use super::outgoing::{PAYLOAD, SEND_BUFFER};
use super::receive::{RESERVE, WINDOW};
use super::stream::{Failure, LINGER, SILENCE, Stream};

/// A packet to stream 7, from a remote that has received nothing.
fn header(kind: u8, sequence: u32, ack: u32) -> Header {
    Header { kind, stream: 7, window: 1 << 20, sequence, ack }
}

fn packets(stream: &mut Stream, now: Instant) -> Vec<Bytes> {
    std::iter::from_fn(|| stream.next_packet(now)).collect()
}

/// The header of the only packet that is sent.
fn answer(stream: &mut Stream, now: Instant) -> Option<Header> {
    let all = packets(stream, now);
    assert!(all.len() <= 1, "{}", all.len());
    Some(Packet::parse(all.first()?)?.header)
}

fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

#[test]
fn packets_that_need_an_answer_get_one_and_others_none() {
    let now = Instant::now();
    let mut stream = Stream::new(7, 8, now);
    let mut answers = |kind, sequence, payload: &[u8]| {
        stream.receive(&header(kind, sequence, 0).with_payload(payload), now);
        answer(&mut stream, now).map(|header| (header.kind, header.stream, header.ack))
    };
    assert_eq!(answers(DATA, 0, b"a"), Some((0, 8, 1)));
    assert_eq!(answers(DATA, 0, b"a"), Some((0, 8, 1)));
    assert_eq!(answers(DATA, 9, b"later"), Some((4, 8, 1)));
    assert_eq!(answers(DATA, 1, b"b"), Some((4, 8, 2)));
    // A heartbeat carries no data, even with the data flag.
    assert_eq!(answers(HEARTBEAT | DATA, 2, b"no"), Some((4, 8, 2)));
    const MESSAGE: u8 = 8;
    for kind in [0, MESSAGE] {
        assert_eq!(answers(kind, 2, b"not in the stream"), None);
    }
    assert_eq!(stream.read().as_deref(), Some(&b"ab"[..]));
    stream.receive(&Header { stream: 6, ..header(DATA, 2, 0) }.with_payload(b"x"), now);
    assert_eq!((stream.read(), answer(&mut stream, now)), (None, None));
}

#[test]
fn packets_that_came_together_share_an_answer() {
    let now = Instant::now();
    let mut stream = Stream::new(7, 8, now);
    for sequence in 0..30 {
        stream.receive(&header(DATA, sequence, 0).with_payload(b"x"), now);
    }
    assert_eq!(answer(&mut stream, now).map(|header| header.ack), Some(30));
    // A packet with data is an answer too.
    stream.receive(&header(DATA, 30, 0).with_payload(b"x"), now);
    stream.write(b"y");
    assert_eq!(answer(&mut stream, now).map(|header| (header.kind, header.ack)), Some((DATA, 31)));
}

#[test]
fn acknowledgements_of_unsent_packets_are_ignored() {
    let mut now = Instant::now();
    let mut stream = Stream::new(7, 8, now);
    assert_eq!(stream.write(&[1; 5 * PAYLOAD]), 5 * PAYLOAD);
    assert_eq!(packets(&mut stream, now).len(), 5);
    let room = stream.room();
    for ack in [6, 7, 1 << 30, u32::MAX] {
        stream.receive(&header(0, 0, ack).with_payload(&[]), now);
    }
    let bogus = [(0, 6), (3, 3), (4, 2), (5, 6), (1 << 31, 2), (u32::MAX, 3), (0, u32::MAX)];
    stream.receive(&header(0, 0, 0).with_ranges(bogus.into_iter()), now);
    assert_eq!((stream.room(), stream.all_acknowledged()), (room, false));
    // Ranges that overlap are no more work than there are packets.
    stream.receive(&header(0, 0, 0).with_ranges((0..50).map(|_| (0, 5))), now);
    assert_eq!(stream.room(), room);
    stream.receive(&header(0, 0, 5).with_payload(&[]), now);
    assert!(stream.all_acknowledged() && stream.room() == SEND_BUFFER);
    now += SILENCE;
    assert_eq!(stream.failure(), None);
    stream.next_packet(now);
    assert_eq!(stream.failure(), Some(Failure::Silent));
}

#[test]
fn unacknowledged_packets_are_limited() {
    // The first packet is never acknowledged, all others are, and there is always room.
    for length in [1, PAYLOAD] {
        let mut now = Instant::now();
        let mut stream = Stream::new(7, 8, now);
        let (mut sent, mut written) = (0, 0);
        for _ in 0..MAX_UNACKED + 1000 {
            written += stream.write(&vec![0; length]);
            let before = sent;
            for packet in packets(&mut stream, now) {
                sent = sent.max(Packet::parse(&packet).unwrap().header.sequence);
            }
            let arrived = [(before + 1, sent + 1)].into_iter();
            let room = Header { window: u32::MAX, ..header(0, 0, 0) };
            stream.receive(&room.with_ranges(arrived), now);
            now += millis(1);
        }
        let sent = sent as usize;
        assert!(written <= SEND_BUFFER && sent < MAX_UNACKED, "{written} {sent}");
        assert!(written > SEND_BUFFER - PAYLOAD || sent + 2 > MAX_UNACKED, "{written} {sent}");
    }
}

#[test]
fn floods_are_bounded() {
    let now = Instant::now();
    let mut random = fastrand::Rng::with_seed(1);
    for length in [0, 1, 100, 1472] {
        let mut stream = Stream::new(7, 8, now);
        let payload = vec![1; length];
        for count in 0..100_000 {
            let sequence = if count % 3 == 0 { count / 3 } else { random.u32(0..200_000) };
            let kind = DATA | if sequence == 199_999 { END } else { 0 };
            stream.receive(&header(kind, sequence, 0).with_payload(&payload), now);
            assert!(stream.held() <= WINDOW + RESERVE);
            if count % 100 == 0 {
                assert!(packets(&mut stream, now).len() <= 1);
            }
        }
    }
}

#[test]
fn noise_is_survived() {
    let mut random = fastrand::Rng::with_seed(2);
    for _ in 0..200 {
        let mut now = Instant::now();
        let mut stream = Stream::new(7, 8, now);
        stream.write(&vec![1; random.usize(0..100_000)]);
        for _ in 0..300 {
            let kind = if random.u8(..) < 3 { random.u8(..) } else { random.u8(..) & !DESTROY };
            let near = |random: &mut fastrand::Rng| random.u32(0..40).wrapping_sub(5);
            let (sequence, ack) = (near(&mut random), near(&mut random));
            let mut packet = header(kind, sequence, ack).with_payload(&[]).to_vec();
            packet[3] = if random.bool() { 0 } else { random.u8(0..100) };
            packet.extend((0..random.usize(0..25)).flat_map(|_| near(&mut random).to_le_bytes()));
            packet.truncate(packet.len() - random.usize(0..4).min(packet.len() - HEADER));
            stream.receive(&packet, now);
            assert!(stream.held() <= WINDOW + RESERVE);
            if random.bool() {
                stream.read();
            }
            now += millis(random.u64(0..200));
            assert!(packets(&mut stream, now).len() < 200);
            if stream.is_over() {
                break;
            }
        }
    }
}

#[test]
fn a_remote_that_answers_and_acknowledges_nothing_times_out() {
    let start = Instant::now();
    let mut now = start;
    let mut stream = Stream::new(7, 8, now);
    stream.write(&[0; 100_000]);
    let mut sent = 0;
    while stream.failure().is_none() {
        sent += packets(&mut stream, now).len();
        now += millis(100);
        stream.receive(&header(HEARTBEAT, 0, 0).with_payload(&[]), now);
    }
    assert_eq!(stream.failure(), Some(Failure::Silent));
    assert!(now - start <= SILENCE + millis(100));
    // Answers to heartbeats, and very little else.
    assert!(sent < 300 + 100, "{sent}");
}

#[test]
fn a_stream_ends_when_the_remote_has_ended_and_forgotten_it() {
    let mut now = Instant::now();
    let mut stream = Stream::new(7, 8, now);
    stream.write(b"all");
    stream.finish();
    assert_eq!(packets(&mut stream, now).len(), 2);
    // It has the bytes and has ended itself; our end is lost on the way, or its answer is.
    stream.receive(&header(END, 0, 1).with_payload(&[]), now);
    for _ in 0..20 {
        assert!(!stream.has_ended() && stream.failure().is_none());
        packets(&mut stream, now);
        now = stream.next_timeout().unwrap();
        packets(&mut stream, now);
        if stream.has_ended() {
            break;
        }
    }
    assert!(stream.has_ended() && stream.remote_ended() && stream.all_acknowledged());
    // What it sends again is answered for some time.
    stream.receive(&header(END, 0, 1).with_payload(&[]), now);
    assert_eq!(answer(&mut stream, now).map(|header| header.ack), Some(1));
    assert_eq!((stream.is_over(), stream.next_timeout()), (false, Some(now + LINGER)));
    assert_eq!(stream.next_packet(now + LINGER), None);
    assert_eq!((stream.is_over(), stream.next_timeout()), (true, None));
}

#[test]
fn a_destroyed_stream_notifies_the_remote_again_if_needed() {
    let now = Instant::now();
    let mut stream = Stream::new(7, 8, now);
    stream.write(b"never mind");
    stream.destroy(now);
    assert_eq!(answer(&mut stream, now).map(|header| header.kind), Some(DESTROY));
    assert_eq!(stream.write(b"more"), 0);
    stream.receive(&header(DATA, 0, 0).with_payload(b"x"), now);
    assert_eq!(answer(&mut stream, now).map(|header| header.kind), Some(DESTROY));
    stream.receive(&header(DESTROY, 0, 0).with_payload(b"x"), now);
    assert_eq!(answer(&mut stream, now), None);
    stream.next_packet(now + LINGER);
    assert!(stream.is_over() && stream.failure().is_none());
}

#[test]
fn bytes_received_before_the_remote_destroyed_the_stream_can_be_read() {
    let now = Instant::now();
    let mut stream = Stream::new(7, 8, now);
    stream.receive(&header(DATA, 0, 0).with_payload(b"x"), now);
    // One that is older than what is here does not count.
    stream.receive(&header(DESTROY, 0, 0).with_payload(&[]), now);
    assert_eq!(stream.failure(), None);
    stream.receive(&header(DESTROY, 1, 0).with_payload(&[]), now);
    assert_eq!(stream.failure(), Some(Failure::Destroyed));
    assert_eq!((stream.write(b"y"), stream.next_packet(now)), (0, None));
    assert_eq!(stream.read().as_deref(), Some(&b"x"[..]));
    assert!(stream.is_over());
}
