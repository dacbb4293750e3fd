//! The handshake of a HyperDHT peer, and the bytes of its encrypted stream after it.

use crate::crypto::KeyPair;
use crate::secret_stream::{Handshake, Secrets, begin};

/// Of the stream in `tests/vectors/secret-stream.json`, which the seeds are from.
const LONGEST: usize = 1000;

/// Takes the input as a handshake message, and its rest as bytes of the stream.
///
/// # Panics
/// If an invariant is broken.
pub fn run(input: &[u8]) {
    let keys = KeyPair::from_seed(&[2; 32]);
    let prologue = crate::crypto::namespace("hyperswarm/dht", 0);
    let mut handshake = Handshake::responder(&keys, &prologue).expect("keys that are good");
    if handshake.read(input).is_ok() {
        assert!(handshake.remote().is_some());
        handshake.write(b"").expect("an answer");
        handshake.finish().expect("keys");
    }
    // With the keys of the recording, so that mutated recordings pass the first checks.
    let array = |from: usize| std::array::from_fn(|n| input.get(from + n).copied().unwrap_or(0));
    let secrets = Secrets {
        initiator: false,
        transmit: [1; 32],
        receive: array(0),
        hash: std::array::from_fn(|n| input.get(32 + n).copied().unwrap_or(0)),
        remote: [8; 32],
    };
    let (_, mut unsealer, _) = begin(&secrets, LONGEST);
    for piece in input.get(96..).unwrap_or_default().chunks(700) {
        unsealer.receive(piece);
        while let Ok(Some(message)) = unsealer.next_message() {
            assert!(!message.is_empty() && message.len() <= LONGEST);
        }
    }
}
