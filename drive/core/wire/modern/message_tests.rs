//! Messages against the bytes of the reference, a recorded session, and arbitrary bytes.

use std::collections::HashMap;

use bytes::{BufMut, Bytes, BytesMut};
use proptest::prelude::*;
use serde_json::Value;

use super::message::*;
use crate::hypercore::merkle::TreeNode;
use crate::wire::error::ProtocolError;
use crate::wire::vectors;
use hypermount_swarm::compact::{put_buffer, put_uint, take_buffer, take_uint};
use hypermount_swarm::crypto::{blake2b, blake2b_keyed};

fn bytes(value: &Value) -> Bytes {
    hex::decode(value.as_str().unwrap()).unwrap().into()
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap()
}

fn flag(value: &Value) -> bool {
    value.as_bool().unwrap()
}

fn fixed(value: &Value) -> [u8; 32] {
    bytes(value).as_ref().try_into().unwrap()
}

/// A part of a message, unless it is null.
fn part<T>(value: &Value, read: impl FnOnce(&Value) -> T) -> Option<T> {
    (!value.is_null()).then(|| read(value))
}

fn nodes(value: &Value) -> Vec<TreeNode> {
    let node = |node: &Value| TreeNode {
        index: number(&node["index"]),
        size: number(&node["size"]),
        hash: fixed(&node["hash"]),
    };
    value.as_array().unwrap().iter().map(node).collect()
}

/// The message that the fields of a vector describe.
fn described(name: &str, fields: &Value) -> Message {
    let requested = |node: &Value| RequestedNode {
        index: number(&node["index"]),
        nodes: number(&node["nodes"]),
    };
    let want = || Want {
        start: number(&fields["start"]),
        length: number(&fields["length"]),
        any: flag(&fields["any"]),
    };
    match name {
        "sync" => Message::Sync(Sync {
            can_upgrade: flag(&fields["canUpgrade"]),
            uploading: flag(&fields["uploading"]),
            downloading: flag(&fields["downloading"]),
            has_manifest: flag(&fields["hasManifest"]),
            allow_push: flag(&fields["allowPush"]),
            fork: number(&fields["fork"]),
            length: number(&fields["length"]),
            remote_length: number(&fields["remoteLength"]),
        }),
        "request" => Message::Request(Request {
            id: number(&fields["id"]),
            fork: number(&fields["fork"]),
            block: part(&fields["block"], requested),
            hash: part(&fields["hash"], requested),
            seek: part(&fields["seek"], |seek| RequestedSeek {
                bytes: number(&seek["bytes"]),
                padding: number(&seek["padding"]),
            }),
            upgrade: part(&fields["upgrade"], |upgrade| RequestedUpgrade {
                start: number(&upgrade["start"]),
                length: number(&upgrade["length"]),
            }),
            manifest: flag(&fields["manifest"]),
            priority: number(&fields["priority"]),
        }),
        "cancel" => Message::Cancel { request: number(&fields["request"]) },
        "data" => Message::Data(Data {
            request: number(&fields["request"]),
            fork: number(&fields["fork"]),
            block: part(&fields["block"], |block| DataBlock {
                index: number(&block["index"]),
                value: bytes(&block["value"]),
                nodes: nodes(&block["nodes"]),
            }),
            hash: part(&fields["hash"], |hash| DataHash {
                index: number(&hash["index"]),
                nodes: nodes(&hash["nodes"]),
            }),
            seek: part(&fields["seek"], |seek| DataSeek {
                bytes: number(&seek["bytes"]),
                nodes: nodes(&seek["nodes"]),
            }),
            upgrade: part(&fields["upgrade"], |upgrade| DataUpgrade {
                start: number(&upgrade["start"]),
                length: number(&upgrade["length"]),
                nodes: nodes(&upgrade["nodes"]),
                additional_nodes: nodes(&upgrade["additionalNodes"]),
                signature: bytes(&upgrade["signature"]),
            }),
            // The recorded messages have none; `transcript.json` has.
            manifest: part(&fields["manifest"], bytes),
        }),
        "noData" => Message::NoData {
            request: number(&fields["request"]),
            reason: match number(&fields["reason"]) {
                0 => None,
                1 => Some(NoDataReason::NotAvailable),
                other => panic!("reason {other}"),
            },
        },
        "want" => Message::Want(want()),
        "unwant" => Message::Unwant(want()),
        "bitfield" => Message::Bitfield {
            start: number(&fields["start"]),
            words: fields["bitfield"]
                .as_array()
                .unwrap()
                .iter()
                .map(|word| number(word) as u32)
                .collect(),
        },
        "range" => Message::Range {
            drop: flag(&fields["drop"]),
            start: number(&fields["start"]),
            length: number(&fields["length"]),
        },
        "extension" => Message::Extension {
            name: fields["name"].as_str().unwrap().to_owned(),
            payload: bytes(&fields["message"]),
        },
        other => panic!("{other}"),
    }
}

fn decode(kind: u64, payload: &[u8]) -> Result<Option<Message>, ProtocolError> {
    Decoder::default().decode(kind, Bytes::copy_from_slice(payload))
}

fn encode(message: &Message) -> Bytes {
    let mut encoded = BytesMut::new();
    message.encode(&mut encoded);
    encoded.freeze()
}

#[test]
fn every_recorded_message_has_the_stated_fields_and_encodes_to_the_same_bytes() {
    let vectors = vectors::load("modern/wire.json");
    let mut kinds = Vec::new();
    for case in vectors["messages"].as_array().unwrap() {
        let (name, encoded) = (case["name"].as_str().unwrap(), bytes(&case["encoded"]));
        if name == "handshake" {
            let fields = &case["message"];
            let handshake = Handshake::decode(encoded.clone()).unwrap();
            let (seeks, capability) = (flag(&fields["seeks"]), fixed(&fields["capability"]));
            assert_eq!(handshake, Handshake { seeks, capability });
            let mut again = BytesMut::new();
            handshake.encode(&mut again);
            assert_eq!(again, encoded);
            continue;
        }
        let message = described(name, &case["message"]);
        let kind = number(&case["type"]);
        assert_eq!(decode(kind, &encoded).unwrap().as_ref(), Some(&message), "{name}");
        assert_eq!((message.kind(), encode(&message)), (kind, encoded), "{name}");
        kinds.push(kind);
    }
    kinds.dedup();
    assert_eq!(kinds, (0..10).collect::<Vec<_>>());
}

/// A namespace of Hypercore: the hash of the hash of its name and a number.
fn namespace(number: u8) -> [u8; 32] {
    blake2b(&[&blake2b(&[b"hypercore"]), &[number]])
}

/// The items of a protomux frame: the channel, and a message with its type.
fn items(frame: Bytes) -> Vec<(u64, Bytes)> {
    let mut rest = frame;
    let mut channel = take_uint(&mut rest).unwrap();
    let message = rest.clone();
    if channel != 0 || take_uint(&mut rest).unwrap() != 0 {
        return vec![(channel, message)];
    }
    channel = take_uint(&mut rest).unwrap();
    let mut items = Vec::new();
    while !rest.is_empty() {
        let item = take_buffer(&mut rest).unwrap();
        match item.is_empty() {
            true => channel = take_uint(&mut rest).unwrap(),
            false => items.push((channel, item)),
        }
    }
    items
}

#[test]
fn a_recorded_session_decodes_and_encodes_to_the_same_bytes() {
    const OPEN: u64 = 1;
    const REJECT: u64 = 2;
    let transcript = vectors::load("modern/transcript.json");
    let drive = vectors::load("modern/drive.json");
    let keys = [fixed(&drive["key"]), fixed(&drive["blobs"]["key"])];
    let hash: [u8; 64] = bytes(&transcript["handshakeHash"]).as_ref().try_into().unwrap();
    let (mut opened, mut seen) = (0, [0; 10]);
    let (mut manifests, mut unnamed, mut values) = (0, 0, Vec::new());
    let mut decoders: HashMap<_, Decoder> = HashMap::new();
    for frame in transcript["frames"].as_array().unwrap() {
        let role = namespace(match frame["from"].as_str().unwrap() {
            "initiator" => 1,
            _ => 2,
        });
        for (channel, mut item) in items(bytes(&frame["frame"])) {
            let kind = take_uint(&mut item).unwrap();
            if channel == 0 {
                if kind != OPEN {
                    // The responder's cores that the initiator has not opened yet are rejected.
                    assert_eq!(kind, REJECT);
                    continue;
                }
                take_uint(&mut item).unwrap();
                assert_eq!(take_buffer(&mut item).unwrap(), "hypercore/alpha");
                let id = take_buffer(&mut item).unwrap();
                let key =
                    *keys.iter().find(|key| blake2b_keyed(key, &[b"hypercore"]) == *id).unwrap();
                let handshake = Handshake::decode(item.clone()).unwrap();
                assert_eq!(handshake.capability, blake2b_keyed(&hash, &[&role, &key]));
                let mut again = BytesMut::new();
                handshake.encode(&mut again);
                assert_eq!(again, item);
                opened += 1;
                continue;
            }
            let decoder = decoders.entry((role, channel)).or_default();
            let message = decoder.decode(kind, item.clone()).unwrap().unwrap();
            match &message {
                // The reference leaves out the name of the message before; we do not.
                Message::Extension { name, payload } if item.first() == Some(&0) => {
                    assert_eq!((name.as_str(), payload), ("hyperbee", &item.slice(1..)));
                    unnamed += 1;
                }
                message => assert_eq!(encode(message), item, "{message:?}"),
            }
            seen[kind as usize] += 1;
            if let Message::Data(data) = message {
                manifests += usize::from(data.manifest.is_some());
                values.extend(data.block.map(|block| block.value));
            }
        }
    }
    assert_eq!(opened, 5);
    assert_eq!(unnamed, 2);
    assert_eq!(seen, [12, 14, 0, 14, 0, 0, 0, 0, 2, 4]);
    assert_eq!(manifests, 2);
    assert!(values.contains(&Bytes::from_static(b"hello again\n")));
}

#[test]
fn what_older_versions_leave_out_has_its_default() {
    let no_data = Message::NoData { request: 5, reason: None };
    assert_eq!(decode(kind::NO_DATA, &[5]).unwrap(), Some(no_data));
    let want = Want { start: 0, length: 7, any: false };
    assert_eq!(decode(kind::WANT, &[0, 7]).unwrap(), Some(Message::Want(want)));
    assert_eq!(decode(kind::UNWANT, &[0, 7]).unwrap(), Some(Message::Unwant(want)));
    let invalid = Message::NoData { request: 5, reason: Some(NoDataReason::InvalidRequest) };
    assert_eq!(decode(kind::NO_DATA, &encode(&invalid)).unwrap(), Some(invalid));
    let other = Message::NoData { request: 5, reason: Some(NoDataReason::Other(9)) };
    assert_eq!(decode(kind::NO_DATA, &encode(&other)).unwrap(), Some(other));
}

#[test]
fn types_and_fields_of_later_versions_are_ignored() {
    assert_eq!(decode(10, b"anything").unwrap(), None);
    assert_eq!(decode(u64::MAX, b"").unwrap(), None);
    let cancel = Message::Cancel { request: 5 };
    assert_eq!(decode(kind::CANCEL, &[5, 1, 2, 3]).unwrap(), Some(cancel));
}

#[test]
fn an_extension_without_a_name_has_that_of_the_one_before() {
    let mut decoder = Decoder::default();
    let mut decode = |name: &str, content: &[u8]| {
        let mut payload = BytesMut::new();
        put_buffer(name.as_bytes(), &mut payload);
        payload.put_slice(content);
        decoder.decode(kind::EXTENSION, payload.freeze())
    };
    assert!(matches!(decode("", b"a"), Err(ProtocolError::Malformed { .. })));
    for (sent, name) in [("one", "one"), ("", "one"), ("two", "two"), ("", "two"), ("", "two")] {
        let payload = Bytes::from_static(b"a");
        let message = Message::Extension { name: name.to_owned(), payload };
        assert_eq!(decode(sent, b"a").unwrap(), Some(message));
    }
}

#[test]
fn a_message_cut_off_anywhere_is_malformed() {
    for case in vectors::load("modern/wire.json")["messages"].as_array().unwrap() {
        let (name, whole) = (case["name"].as_str().unwrap(), bytes(&case["encoded"]));
        for length in 0..whole.len() {
            let cut = whole.slice(..length);
            if name == "handshake" {
                assert!(Handshake::decode(cut).is_err(), "{length}");
                continue;
            }
            let decoded = decode(number(&case["type"]), &cut);
            // Their last fields are optional, and an extension message has any length.
            let may_end = match name {
                "noData" => length == 1,
                "want" => length == 6,
                "extension" => length >= 9,
                _ => false,
            };
            match decoded {
                Ok(_) => assert!(may_end, "{name} of {length} bytes"),
                Err(ProtocolError::Malformed { .. }) => assert!(!may_end, "{name}"),
                Err(other) => panic!("{name}: {other}"),
            }
        }
    }
}

fn node() -> TreeNode {
    TreeNode { index: 1, hash: [7; 32], size: 3 }
}

#[test]
fn what_takes_memory_has_a_limit() {
    let hash = |count| {
        let hash = Some(DataHash { index: 1, nodes: vec![node(); count] });
        Message::Data(Data { hash, ..Data::default() })
    };
    let upgrade = |additional: usize, signature: usize| {
        let upgrade = DataUpgrade {
            start: 0,
            length: 1,
            nodes: Vec::new(),
            additional_nodes: vec![node(); additional],
            signature: vec![1; signature].into(),
        };
        Message::Data(Data { upgrade: Some(upgrade), ..Data::default() })
    };
    let manifest = |length: usize| {
        Message::Data(Data { manifest: Some(vec![1; length].into()), ..Data::default() })
    };
    let bitfield = |words| Message::Bitfield { start: 0, words: vec![1; words] };
    let extension = |name: usize, length: usize| Message::Extension {
        name: "n".repeat(name),
        payload: vec![1; length].into(),
    };
    for (accepted, refused) in [
        (hash(MAX_NODES), hash(MAX_NODES + 1)),
        (upgrade(MAX_NODES, 0), upgrade(MAX_NODES + 1, 0)),
        (upgrade(0, MAX_SIGNATURE_BYTES), upgrade(0, MAX_SIGNATURE_BYTES + 1)),
        (manifest(MAX_MANIFEST_BYTES), manifest(MAX_MANIFEST_BYTES + 1)),
        (bitfield(MAX_BITFIELD_WORDS), bitfield(MAX_BITFIELD_WORDS + 1)),
        (extension(MAX_EXTENSION_NAME, 0), extension(MAX_EXTENSION_NAME + 1, 0)),
        (extension(1, MAX_EXTENSION_BYTES), extension(1, MAX_EXTENSION_BYTES + 1)),
    ] {
        assert_eq!(decode(accepted.kind(), &encode(&accepted)).unwrap(), Some(accepted));
        let refused = decode(refused.kind(), &encode(&refused));
        assert!(matches!(refused, Err(ProtocolError::TooMany { .. })), "{refused:?}");
    }
}

#[test]
fn a_claimed_count_allocates_nothing() {
    let mut claim = BytesMut::new();
    for number in [2, 1, 0, 1, u64::MAX] {
        put_uint(number, &mut claim);
    }
    assert!(matches!(decode(kind::DATA, &claim), Err(ProtocolError::TooMany { .. })));
    let claim = [2, 1, 0, 1, 200];
    assert!(matches!(decode(kind::DATA, &claim), Err(ProtocolError::Malformed { .. })));
    let claim = [0, 200];
    assert!(matches!(decode(kind::BITFIELD, &claim), Err(ProtocolError::Malformed { .. })));
}

#[test]
fn an_extension_name_that_is_not_utf8_is_malformed() {
    let decoded = decode(kind::EXTENSION, &[2, 0xff, 0xfe, 1]);
    assert!(matches!(decoded, Err(ProtocolError::Malformed { .. })));
}

/// A number whose encoding has any of the four lengths.
fn any_number() -> impl Strategy<Value = u64> {
    (any::<u64>(), 0..64u32).prop_map(|(number, shift)| number >> shift)
}

proptest! {
    #[test]
    fn arbitrary_bytes_are_a_message_or_an_error(
        kind in 0..12u64,
        payload in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        let Ok(Some(message)) = decode(kind, &payload) else { return Ok(()) };
        prop_assert_eq!(message.kind(), kind);
        // What was decoded encodes to bytes that decode to the same, if not to the same bytes.
        prop_assert_eq!(decode(kind, &encode(&message)).unwrap(), Some(message));
    }

    #[test]
    fn arbitrary_bytes_are_a_handshake_or_an_error(
        payload in prop::collection::vec(any::<u8>(), 0..50),
    ) {
        let Ok(handshake) = Handshake::decode(payload.into()) else { return Ok(()) };
        let mut again = BytesMut::new();
        handshake.encode(&mut again);
        prop_assert_eq!(Handshake::decode(again.freeze()).unwrap(), handshake);
    }

    #[test]
    fn a_request_survives_encoding(
        id in any_number(), fork in any_number(), index in any_number(), nodes in any_number(),
        parts in any::<[bool; 5]>(), priority in any_number(),
    ) {
        let [block, hash, seek, upgrade, manifest] = parts;
        let node = RequestedNode { index, nodes };
        let request = Message::Request(Request {
            id,
            fork,
            block: block.then_some(node),
            hash: hash.then_some(node),
            seek: seek.then_some(RequestedSeek { bytes: index, padding: nodes }),
            upgrade: upgrade.then_some(RequestedUpgrade { start: index, length: nodes }),
            manifest,
            priority,
        });
        prop_assert_eq!(decode(kind::REQUEST, &encode(&request)).unwrap(), Some(request));
    }
}

#[test]
fn a_manifest_is_all_that_follows() {
    let mut payload = BytesMut::from(&[16, 1, 0][..]);
    payload.put_slice(b"manifest and more");
    let decoded = decode(kind::DATA, &payload).unwrap();
    let manifest = Some(Bytes::from_static(b"manifest and more"));
    let data = Data { request: 1, fork: 0, manifest, ..Data::default() };
    assert_eq!(decoded, Some(Message::Data(data)));
}
