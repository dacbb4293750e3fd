//! Single blocks of an index: header, node, stat, mount. A decoded block must encode and decode to
//! itself.

use bytes::Bytes;
use hypermount_drive::index::trie::{Header, Node, stat};

/// Where the block is said to be.
const SEQ: u64 = 1000;

pub fn run(input: &[u8]) {
    if let Ok(found) = stat::decode(input)
        && let Ok(encoded) = stat::encode(&found)
    {
        assert_eq!(stat::decode(&encoded).expect("we wrote it"), found);
    }
    if let Ok(found) = Header::decode(input) {
        let again = Header::decode(&found.encode()).expect("we wrote it");
        assert_eq!(again.encode(), found.encode());
    }
    // Each decoding drops one leading slash of a key, as the reference does, so a key with several
    // of them changes. No filesystem can show such a name.
    if let Ok(found) = Node::decode(Bytes::copy_from_slice(input), SEQ)
        && !found.key.text().starts_with('/')
    {
        let again = Node::decode(found.encode(), SEQ).expect("we wrote it");
        assert_eq!(again.encode(), found.encode());
    }
}
