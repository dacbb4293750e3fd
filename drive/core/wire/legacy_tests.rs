use bytes::{BufMut, BytesMut};
use proptest::prelude::*;
use serde_json::Value;

use super::super::framing::{self, Front};
use super::super::vectors;
use super::*;

fn bytes(value: &Value) -> Bytes {
    hex::decode(value.as_str().unwrap()).unwrap().into()
}

/// Fields of a golden message; absent and null are both "not set".
struct Fields<'a>(&'a Value);

impl Fields<'_> {
    fn number(&self, name: &str) -> Option<u64> {
        self.0[name].as_u64()
    }

    fn flag(&self, name: &str) -> Option<bool> {
        self.0[name].as_bool()
    }

    fn binary(&self, name: &str) -> Option<Bytes> {
        self.0[name].get("hex").map(bytes)
    }

    fn list(&self, name: &str) -> &[Value] {
        self.0[name].as_array().map_or(&[], Vec::as_slice)
    }
}

/// Both directions for one message.
fn check<T>(expected: T, payload: &Bytes)
where
    T: prost::Message + Default + PartialEq + std::fmt::Debug,
{
    assert_eq!(expected.encode_to_vec(), payload.as_ref());
    assert_eq!(decode::<T>("golden message", payload.clone()).unwrap(), expected);
}

fn check_golden(kind: u8, fields: &Fields, payload: &Bytes) {
    let range = || Range { start: fields.number("start"), length: fields.number("length") };
    let discovery_key = || fields.binary("discoveryKey");
    let (index, count) = (fields.number("index"), fields.number("bytes"));
    let hash = fields.flag("hash");
    match kind {
        kind::OPEN => {
            let capability = fields.binary("capability");
            check(Open { discovery_key: discovery_key(), capability }, payload);
        }
        kind::OPTIONS => {
            let names = fields.list("extensions").iter();
            let extensions = names.map(|name| name.as_str().unwrap().to_owned()).collect();
            check(Options { extensions, ack: fields.flag("ack") }, payload);
        }
        kind::STATUS => {
            let (uploading, downloading) = (fields.flag("uploading"), fields.flag("downloading"));
            check(Status { uploading, downloading }, payload);
        }
        kind::HAVE => {
            let Range { start, length } = range();
            let (bitfield, ack) = (fields.binary("bitfield"), fields.flag("ack"));
            check(Have { start, length, bitfield, ack }, payload);
        }
        kind::UNHAVE | kind::WANT | kind::UNWANT => check(range(), payload),
        kind::REQUEST => {
            let nodes = fields.number("nodes");
            check(Request { index, bytes: count, hash, nodes }, payload);
        }
        kind::CANCEL => check(Cancel { index, bytes: count, hash }, payload),
        kind::DATA => {
            let nodes = fields.list("nodes").iter().map(Fields).map(|node| WireNode {
                index: node.number("index"),
                hash: node.binary("hash"),
                size: node.number("size"),
            });
            let (value, signature) = (fields.binary("value"), fields.binary("signature"));
            check(Data { index, value, nodes: nodes.collect(), signature }, payload);
        }
        kind::CLOSE => check(Close { discovery_key: discovery_key() }, payload),
        other => panic!("no golden message has type {other}"),
    }
}

#[test]
fn matches_every_golden_message_in_both_directions() {
    let vectors = vectors::load("messages.json");
    let mut kinds = std::collections::BTreeSet::new();
    for case in vectors["wire"].as_array().unwrap() {
        let kind = u8::try_from(case["typeId"].as_u64().unwrap()).unwrap();
        let payload = bytes(&case["payload"]);
        check_golden(kind, &Fields(&case["message"]), &payload);
        for (name, channel) in [("frameChannel1", 1), ("frameChannel300", 300)] {
            let mut frame = BytesMut::new();
            framing::put_header(channel, kind, payload.len(), &mut frame);
            frame.put_slice(&payload);
            assert_eq!(frame, bytes(&case[name]));
            let Front::Frame(header) = framing::front(&frame).unwrap() else { panic!("no frame") };
            assert_eq!(
                (header.channel, header.kind, header.payload),
                (channel, kind, payload.len())
            );
        }
        kinds.insert(kind);
    }
    assert_eq!(kinds.into_iter().collect::<Vec<_>>(), (0..=10).collect::<Vec<_>>());
}

#[test]
fn matches_the_golden_frames_that_are_not_protobuf() {
    let vectors = vectors::load("messages.json");
    let frames = vectors["extensions"].as_array().unwrap();
    for (case, (channel, id)) in frames.iter().zip([(0, 0), (2, 200)]) {
        let mut frame = BytesMut::new();
        framing::put_header(
            channel,
            kind::EXTENSION,
            2 + super::super::varint::length(id),
            &mut frame,
        );
        super::super::varint::write(id, &mut frame);
        frame.put_slice(b"hi");
        assert_eq!(frame, bytes(&case["frame"]));
    }
    let mut keepalive = BytesMut::new();
    framing::put_keepalive(&mut keepalive);
    assert_eq!(keepalive, bytes(&frames[2]["frame"]));
    assert_eq!(framing::front(&keepalive).unwrap(), Front::KeepAlive { length: 1 });
}

fn decoded(kind: u8, payload: impl AsRef<[u8]>) -> Result<Message, ProtocolError> {
    let payload = Bytes::copy_from_slice(payload.as_ref());
    decode_message(kind, payload).map(|message| message.expect("a type from 2 to 9"))
}

#[test]
fn fills_in_the_defaults_of_the_reference() {
    let start = [0x08, 7];
    let status = Message::Status { uploading: false, downloading: false };
    assert_eq!(decoded(kind::STATUS, []).unwrap(), status);
    let have = Message::Have { start: 7, length: 1, bitfield: None, ack: false };
    assert_eq!(decoded(kind::HAVE, start).unwrap(), have);
    assert_eq!(decoded(kind::UNHAVE, start).unwrap(), Message::Unhave { start: 7, length: 1 });
    assert_eq!(decoded(kind::WANT, start).unwrap(), Message::Want { start: 7, length: 0 });
    assert_eq!(decoded(kind::UNWANT, start).unwrap(), Message::Unwant { start: 7, length: 0 });
    let request = Message::Request { index: 7, bytes: 0, hash: false, nodes: 0 };
    assert_eq!(decoded(kind::REQUEST, start).unwrap(), request);
    let cancel = Message::Cancel { index: 7, bytes: 0, hash: false };
    assert_eq!(decoded(kind::CANCEL, start).unwrap(), cancel);
    assert_eq!(decode_options(Bytes::new()).unwrap(), (false, vec![]));
    assert_eq!(decode_close(Bytes::new()).unwrap(), None);
}

#[test]
fn requires_the_required_fields() {
    for kind in kind::HAVE..=kind::DATA {
        let refused = decoded(kind, []);
        assert!(matches!(refused, Err(ProtocolError::Malformed { .. })), "type {kind}");
    }
    assert!(matches!(decode_open(Bytes::new()), Err(ProtocolError::Malformed { .. })));
}

#[test]
fn an_empty_value_is_not_an_absent_one() {
    let value = |payload: &[u8]| match decoded(kind::DATA, payload).unwrap() {
        Message::Data { value, .. } => value,
        other => panic!("{other:?}"),
    };
    assert_eq!(value(&[0x08, 1, 0x12, 0]), Some(Bytes::new()));
    assert_eq!(value(&[0x08, 1]), None);
}

#[test]
fn unknown_fields_are_skipped() {
    let have = Message::Have { start: 7, length: 1, bitfield: None, ack: false };
    assert_eq!(decoded(kind::HAVE, [0x50, 9, 0x08, 7, 0x5a, 2, 1, 2]).unwrap(), have);
}

#[test]
fn a_large_value_is_a_slice_of_the_frame() {
    let mut payload = BytesMut::from([0x08, 0, 0x12, 0x80, 0x80, 0x04].as_slice());
    payload.resize(payload.len() + 65_536, 7);
    let payload = payload.freeze();
    let Some(Message::Data { value: Some(value), .. }) =
        decode_message(kind::DATA, payload.clone()).unwrap()
    else {
        panic!("no value")
    };
    assert_eq!(value.as_ptr(), payload[6..].as_ptr());
}

fn data_with_nodes(count: usize) -> Vec<u8> {
    let node = WireNode { index: Some(2), hash: Some(vec![3; 32].into()), size: Some(1) };
    let nodes = vec![node; count];
    Data { index: Some(0), value: None, nodes, signature: None }.encode_to_vec()
}

#[test]
fn repeated_fields_are_limited_before_they_are_decoded() {
    assert!(decoded(kind::DATA, data_with_nodes(MAX_NODES)).is_ok());
    let past = decoded(kind::DATA, data_with_nodes(MAX_NODES + 1));
    assert!(matches!(past, Err(ProtocolError::TooMany { .. })));

    let options = |names: Vec<String>| Options { extensions: names, ack: None }.encode_to_vec();
    let named = |count| decode_options(options(vec!["x".into(); count]).into());
    assert_eq!(named(MAX_EXTENSIONS).unwrap().1.len(), MAX_EXTENSIONS);
    assert!(matches!(named(MAX_EXTENSIONS + 1), Err(ProtocolError::TooMany { .. })));
    assert!(matches!(named(100_000), Err(ProtocolError::TooMany { .. })));

    let long = |length| decode_options(options(vec!["x".repeat(length)]).into());
    assert!(long(MAX_EXTENSION_NAME).is_ok());
    assert!(matches!(long(MAX_EXTENSION_NAME + 1), Err(ProtocolError::TooMany { .. })));
}

#[test]
fn fields_of_fixed_size_have_that_size() {
    for length in [0, 31, 33] {
        let key = Some(Bytes::from(vec![1; length]));
        let open = Open { discovery_key: key.clone(), capability: None };
        assert!(decode_open(open.encode_to_vec().into()).is_err());
        let close = Close { discovery_key: key.clone() };
        assert!(decode_close(close.encode_to_vec().into()).is_err());
        let nodes = vec![WireNode { index: Some(1), hash: key, size: Some(1) }];
        let data = Data { index: Some(0), value: None, nodes, signature: None };
        assert!(decoded(kind::DATA, data.encode_to_vec()).is_err());
    }
    for length in [0, 63, 65] {
        let signature = Some(vec![1; length].into());
        let data = Data { index: Some(0), value: None, nodes: vec![], signature };
        assert!(decoded(kind::DATA, data.encode_to_vec()).is_err());
    }
}

fn any_node() -> impl Strategy<Value = TreeNode> {
    any::<(u64, [u8; 32], u64)>().prop_map(|(index, hash, size)| TreeNode { index, hash, size })
}

/// Any message about a core but an extension's.
pub(in super::super) fn any_message() -> impl Strategy<Value = Message> {
    let value = || proptest::option::of(proptest::collection::vec(any::<u8>(), 0..40));
    prop_oneof![
        any::<(bool, bool)>()
            .prop_map(|(uploading, downloading)| Message::Status { uploading, downloading }),
        (any::<(u64, u64, bool)>(), value()).prop_map(|((start, length, ack), bits)| {
            Message::Have { start, length, bitfield: bits.map(Bytes::from), ack }
        }),
        any::<(u64, u64)>().prop_map(|(start, length)| Message::Unhave { start, length }),
        any::<(u64, u64)>().prop_map(|(start, length)| Message::Want { start, length }),
        any::<(u64, u64)>().prop_map(|(start, length)| Message::Unwant { start, length }),
        any::<(u64, u64, bool, u64)>().prop_map(|(index, bytes, hash, nodes)| {
            Message::Request { index, bytes, hash, nodes }
        }),
        any::<(u64, u64, bool)>().prop_map(|(index, bytes, hash)| Message::Cancel {
            index,
            bytes,
            hash
        }),
        (
            any::<u64>(),
            value(),
            proptest::collection::vec(any_node(), 0..5),
            proptest::option::of(proptest::collection::vec(any::<u8>(), 64)),
        )
            .prop_map(|(index, value, nodes, signature)| Message::Data {
                index,
                value: value.map(Bytes::from),
                nodes,
                signature: signature.map(|bytes| <[u8; 64]>::try_from(bytes).unwrap().into()),
            }),
    ]
}

proptest! {
    #[test]
    fn every_message_decodes_to_itself(message in any_message()) {
        let (kind, wire) = encode_message(message.clone()).unwrap();
        let mut out = BytesMut::new();
        wire.encode(&mut out);
        prop_assert_eq!(out.len(), wire.encoded_len());
        prop_assert_eq!(decode_message(kind, out.freeze()).unwrap(), Some(message));
    }

    #[test]
    fn arbitrary_bytes_never_panic(
        kind in 0..16u8,
        payload in proptest::collection::vec(any::<u8>(), 0..80),
    ) {
        let payload = Bytes::from(payload);
        let _ = decode_message(kind, payload.clone());
        let _ = decode_open(payload.clone());
        let _ = decode_close(payload.clone());
        let _ = decode_options(payload);
    }
}
