//! Recordings of npm hyperdht and secret-stream with known keys (tests/vectors).

use bytes::Bytes;
use serde_json::Value;

use super::*;
use crate::crypto::{KeyPair, namespace};

fn vectors() -> Value {
    serde_json::from_str(include_str!("../../../tests/vectors/secret-stream.json")).unwrap()
}

fn bytes(vectors: &Value, name: &str) -> Vec<u8> {
    hex::decode(vectors[name].as_str().unwrap()).unwrap()
}

fn array<const N: usize>(vectors: &Value, name: &str) -> [u8; N] {
    bytes(vectors, name).try_into().unwrap()
}

#[test]
fn the_handshake_equals_that_of_the_reference_byte_for_byte() {
    let vectors = vectors();
    let keys = |name| KeyPair::from_seed(&array(&vectors, name));
    let (initiator, responder) = (keys("initiatorSeed"), keys("responderSeed"));
    let prologue = namespace("hyperswarm/dht", 0);
    assert_eq!(prologue, array(&vectors, "prologue"));
    let remote = *responder.public_key().as_bytes();
    let (first, second) = (bytes(&vectors, "first"), bytes(&vectors, "second"));
    let ephemeral = |name| Some(array(&vectors, name));
    let mut a = Handshake::with_ephemeral(
        &initiator,
        &prologue,
        Some(&remote),
        ephemeral("initiatorEphemeralSeed"),
    )
    .unwrap();
    let mut b =
        Handshake::with_ephemeral(&responder, &prologue, None, ephemeral("responderEphemeralSeed"))
            .unwrap();
    let hello = b.read(&first).unwrap();
    assert_eq!(a.write(&hello).unwrap(), first);
    let answer = a.read(&second).unwrap();
    assert_eq!(b.write(&answer).unwrap(), second);
    let secrets = a.finish().unwrap();
    assert_eq!(secrets.transmit, array(&vectors, "initiatorTransmit"));
    assert_eq!(secrets.receive, array(&vectors, "initiatorReceive"));
    assert_eq!(secrets.hash, array(&vectors, "hash"));
}

/// The frames of a handshake over TCP: length and message.
#[test]
fn the_handshake_between_strangers_equals_that_of_the_reference_byte_for_byte() {
    let vectors = vectors();
    let side = |name: &str, initiator| {
        let keys = KeyPair::from_seed(&array(&vectors, &format!("{name}Seed")));
        let ephemeral = Some(array(&vectors, &format!("{name}EphemeralSeed")));
        Handshake::strangers_with_ephemeral(&keys, initiator, ephemeral).unwrap()
    };
    let (mut a, mut b) = (side("initiator", true), side("responder", false));
    for (number, name) in ["strangersFirst", "strangersSecond", "strangersThird"].iter().enumerate()
    {
        let frame = bytes(&vectors, name);
        let (length, message) = frame.split_at(3);
        assert_eq!(length, [message.len() as u8, 0, 0]);
        let (from, to) = if number == 1 { (&mut b, &mut a) } else { (&mut a, &mut b) };
        assert_eq!(from.write(b"").unwrap(), message, "{name}");
        assert_eq!(to.read(message).unwrap(), b""[..]);
    }
    for (secrets, transmit, receive) in [
        (a.finish().unwrap(), "strangersTransmit", "strangersReceive"),
        (b.finish().unwrap(), "strangersReceive", "strangersTransmit"),
    ] {
        assert_eq!(secrets.transmit, array(&vectors, transmit));
        assert_eq!(secrets.receive, array(&vectors, receive));
        assert_eq!(secrets.hash, array(&vectors, "strangersHash"));
    }
}

#[test]
fn messages_sealed_by_the_reference_are_opened() {
    let vectors = vectors();
    // Ours is the other side of the reference's stream.
    let secrets = Secrets {
        initiator: false,
        transmit: array(&vectors, "initiatorReceive"),
        receive: array(&vectors, "initiatorTransmit"),
        hash: array(&vectors, "hash"),
        remote: [8; 32],
    };
    let (_, mut unsealer, _) = begin(&secrets, 1000);
    unsealer.receive(&bytes(&vectors, "stream"));
    let messages = vectors["messages"].as_array().unwrap().iter();
    for message in messages.map(|text| hex::decode(text.as_str().unwrap()).unwrap()) {
        if !message.is_empty() {
            assert_eq!(unsealer.next_message(), Ok(Some(Bytes::from(message))));
        }
    }
    assert_eq!(unsealer.next_message(), Ok(None));
}
