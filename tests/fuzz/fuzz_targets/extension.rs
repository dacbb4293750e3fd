//! Messages of the hypertrie extension; a decoded message must encode and decode to itself.

use bytes::Bytes;
use hypermount_core::wire::extension::TrieMessage;

pub fn run(input: &[u8]) {
    let Ok(Some(message)) = TrieMessage::decode(Bytes::copy_from_slice(input)) else { return };
    let again = TrieMessage::decode(message.clone().encode()).expect("we wrote it");
    assert_eq!(again, Some(message));
}
