//! The fuzz targets of this package (`tests/fuzz`): decoders of bytes from a peer or a disk. Each
//! function takes one input and panics if a property does not hold.
//!
//! Here and not in `tests/fuzz`, because the decoders are private. Compiled with `--cfg fuzzing` alone.

mod core_files;

use bytes::{Bytes, BytesMut};

use crate::hypercore::fuzzing as modern;
use crate::wire::bee_extension::BeeMessage;
use crate::wire::extension::TrieMessage;
use crate::wire::legacy::{decode_message, encode_message};
use crate::wire::message::SessionEvent;
use crate::wire::modern::message as alpha;
use crate::wire::noise::{Role, StaticKeyPair};
use crate::wire::run_length::{self, MAX_UNFOLDED};
use crate::wire::session::Session;
use hypermount_swarm::PublicKey;

/// The files of a core after damage: opened, by its writer and by a reader, every block read, audited,
/// proven, and appended to.
pub fn core_files(input: &[u8]) {
    core_files::run(input);
}

/// Messages of the hypertrie extension; a decoded message must encode and decode to itself.
pub fn extension(input: &[u8]) {
    let Ok(Some(message)) = TrieMessage::decode(Bytes::copy_from_slice(input)) else { return };
    let again = TrieMessage::decode(message.clone().encode()).expect("we wrote it");
    assert_eq!(again, Some(message));
}

/// Messages of the hyperbee extension; a decoded message must encode and decode to itself.
pub fn bee_extension(input: &[u8]) {
    let Ok(Some(message)) = BeeMessage::decode(Bytes::copy_from_slice(input)) else { return };
    let again = BeeMessage::decode(message.clone().encode()).expect("we wrote it");
    assert_eq!(again, Some(message));
}

/// Every message of hypercore/alpha, after a byte with its type, and its handshake; a decoded message must encode
/// and decode to itself.
pub fn alpha(input: &[u8]) {
    let Some((kind, payload)) = input.split_first() else { return };
    let payload = Bytes::copy_from_slice(payload);
    if let Ok(handshake) = alpha::Handshake::decode(payload.clone()) {
        let mut again = BytesMut::new();
        handshake.encode(&mut again);
        assert_eq!(alpha::Handshake::decode(again.freeze()).expect("we wrote it"), handshake);
    }
    let decoded = alpha::Decoder::default().decode(u64::from(*kind), payload);
    let Ok(Some(message)) = decoded else { return };
    let mut again = BytesMut::new();
    message.encode(&mut again);
    let decoded = alpha::Decoder::default().decode(message.kind(), again.freeze());
    assert_eq!(decoded.expect("we wrote it"), Some(message));
}

/// Manifests and signatures of Hypercore 10 and 11.
pub fn manifest(input: &[u8]) {
    modern::manifest(input);
}

/// The oplog file of a core of Hypercore 10.
pub fn oplog(input: &[u8]) {
    modern::oplog(input);
}

/// Arbitrary bytes instead of a handshake, to both roles.
pub fn handshake(input: &[u8]) {
    for role in [Role::Initiator, Role::Responder] {
        let mut session = start(role, 1);
        for chunk in input.chunks(50) {
            if session.receive(&mut BytesMut::from(chunk)).is_err() {
                break;
            }
        }
    }
}

/// Every protobuf message about a core, after a byte with its type; a decoded message must encode and
/// decode to itself.
pub fn messages(input: &[u8]) {
    let Some((kind, payload)) = input.split_first() else { return };
    let payload = Bytes::copy_from_slice(payload);
    let Ok(Some(message)) = decode_message(*kind, payload) else { return };
    let (kind, wire) = encode_message(message.clone()).expect("not an extension message");
    let mut again = BytesMut::new();
    wire.encode(&mut again);
    assert_eq!(again.len(), wire.encoded_len());
    let decoded = decode_message(kind, again.freeze()).expect("we wrote it");
    assert_eq!(decoded, Some(message));
}

/// The run-length bitfield: decoding is bounded, and a decoded field must encode and decode to itself.
pub fn run_length(input: &[u8]) {
    let Ok(mut bits) = run_length::decode(input, MAX_UNFOLDED) else { return };
    assert!(bits.len() <= MAX_UNFOLDED);
    let folded = run_length::encode(&bits);
    while bits.last() == Some(&0) {
        bits.pop();
    }
    assert_eq!(run_length::decode(&folded, MAX_UNFOLDED).expect("we wrote it"), bits);
}

/// A remote that has done the handshake and shares one core, then sends arbitrary bytes: the plain text
/// of its side of the connection is the input, cut into pieces of as many bytes as the first byte says.
pub fn session(input: &[u8]) {
    let Some((piece, plain)) = input.split_first() else { return };
    let (mut remote, mut victim) = (start(Role::Initiator, 1), start(Role::Responder, 2));
    let key = PublicKey::new([3; 32]);
    let _ = remote.open(&key, &["hypertrie"]);
    let _ = victim.open(&key, &["hypertrie"]);
    while remote.pending_output() + victim.pending_output() > 0 {
        deliver(&mut remote, &mut victim);
        deliver(&mut victim, &mut remote);
    }
    remote.send_plain(plain);
    let bytes = remote.take_output().unwrap_or_default();
    for chunk in bytes.chunks(usize::from(*piece).max(1)) {
        let Ok(events) = victim.receive(&mut BytesMut::from(chunk)) else { return };
        for event in events {
            if let SessionEvent::RemoteOpen { discovery_key } = event {
                victim.refuse(&discovery_key);
            }
        }
    }
}

fn start(role: Role, seed: u8) -> Session {
    let keys = StaticKeyPair::from_seed(&[seed; 32]);
    Session::new(role, keys, [seed; 24]).expect("the system has randomness")
}

fn deliver(from: &mut Session, to: &mut Session) {
    if let Some(bytes) = from.take_output() {
        to.receive(&mut BytesMut::from(bytes.as_ref())).expect("both sides are honest so far");
    }
}
