//! Every protobuf message about a core; a decoded message must encode and decode to itself.

use bytes::{Bytes, BytesMut};
use hypermount_core::wire::legacy::{decode_message, encode_message};

pub fn run(input: &[u8]) {
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
