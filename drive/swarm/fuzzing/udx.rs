//! Packets of a remote to a stream: each has a length and the time that has passed in front.

use std::time::{Duration, Instant};

use crate::udx::{MAX_UNACKED, RESERVE, SEND_BUFFER, Stream, WINDOW, stream_of};

/// What an empty header has for us: the stream is the first of all.
const LOCAL: u32 = 0;
/// Packets that can follow one of the remote: an answer, what may be under way, a sign of life.
const MOST_PACKETS: usize = MAX_UNACKED + 2;

/// Takes the input as packets, each after its length and the time that has passed.
///
/// # Panics
/// If an invariant is broken.
pub fn run(input: &[u8]) {
    let mut now = Instant::now();
    let mut stream = Stream::new(LOCAL, 1, now);
    let mut written = stream.write(&[7; 50_000]);
    let mut rest = input;
    while let Some((&[length, passed], more)) = rest.split_first_chunk() {
        let (packet, more) = more.split_at(more.len().min(length.into()));
        rest = more;
        stream.receive(packet, now);
        assert!(stream.held() <= WINDOW + RESERVE);
        assert!(stream.room() <= SEND_BUFFER);
        match passed % 8 {
            0 => written += stream.write(packet),
            1 => drop(stream.read()),
            2 if passed > 200 => stream.finish(),
            3 if passed > 200 => stream.destroy(now),
            _ => {}
        }
        // Milliseconds, or now and then a long time.
        now += Duration::from_millis(u64::from(passed) * if passed > 250 { 50 } else { 1 });
        let mut packets = 0;
        while let Some(packet) = stream.next_packet(now) {
            assert_eq!(stream_of(&packet), Some(1));
            packets += 1;
            assert!(packets <= MOST_PACKETS);
        }
        // A caller that returns at the requested time must not be asked to return at once for ever.
        assert!(stream.next_timeout().is_none_or(|at| at > now));
    }
    assert!(written < SEND_BUFFER + input.len() + 50_000);
}
