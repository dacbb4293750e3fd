//! Messages of a HyperDHT peer inside the encrypted connection: each piece of the input is one
//! message.

use crate::protomux::{Event, Mux};
use bytes::{Bytes, BytesMut};

/// Splits the input at 0xfe bytes into messages.
///
/// # Panics
/// If an invariant is broken.
pub fn run(input: &[u8]) {
    let mut mux = Mux::default();
    let ours =
        mux.open("hypermount/hypercore-protocol-8", b"", b"\x01\x00\x00").expect("the first");
    for frame in input.split(|byte| *byte == 0xfe) {
        if mux.receive(Bytes::copy_from_slice(frame)).is_err() {
            return;
        }
        while let Some(event) = mux.next_event() {
            match event {
                Event::Asked { protocol, id, .. } if protocol.len() % 2 == 0 => {
                    mux.open(&protocol, &id, b"");
                }
                Event::Asked { remote, .. } => mux.refuse(remote),
                Event::Message { channel, kind, payload } => {
                    let _ = mux.send(channel, kind, &payload);
                }
                Event::Opened { channel, .. } if channel != ours => mux.close(channel),
                Event::Opened { .. } | Event::Closed { .. } => {}
            }
        }
        // Whatever we answer is well-formed.
        let mut other = Mux::default();
        other.trust();
        let mut frame = BytesMut::new();
        while mux.write_frame(&mut frame) {
            let _ = other.receive(frame.split().freeze());
        }
    }
}
