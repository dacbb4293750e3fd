//! The fuzz target of the index (`tests/fuzz`), and what the target of a whole drive needs of it.
//!
//! Here and not in `tests/fuzz`, because the decoders are private. Compiled with `--cfg fuzzing` alone.

use bytes::Bytes;

use super::trie::{Header, TrieNode, stat};
use super::{IndexLog, bee};
use hypermount_swarm::PublicKey;

/// Number of the block that is decoded.
const SEQ: u64 = 1000;

/// Single blocks of an index of either format: header, node, stat, mount, entry, block map. A decoded block must
/// encode and decode to itself.
///
/// # Panics
/// If it does not.
pub fn blocks(input: &[u8]) {
    if let Ok(found) = stat::decode(input)
        && let Ok(encoded) = stat::encode(&found)
    {
        assert_eq!(stat::decode(&encoded).expect("we wrote it"), found);
    }
    if let Ok(found) = Header::decode(input) {
        let again = Header::decode(&found.encode()).expect("we wrote it");
        assert_eq!(again.encode(), found.encode());
    }
    if let Ok(found) = bee::block::Header::decode(input) {
        assert_eq!(bee::block::Header::decode(&found.encode()).expect("we wrote it"), found);
    }
    if let Ok(found) = bee::block::Block::decode(Bytes::copy_from_slice(input), SEQ) {
        let again = bee::block::Block::decode(found.encode(), SEQ).expect("we wrote it");
        assert_eq!(again, found);
    }
    if let Ok(found) = bee::entry::EntryValue::decode(input) {
        let again = bee::entry::EntryValue::decode(&found.encode()).expect("we wrote it");
        assert_eq!(again.stat(SEQ), found.stat(SEQ));
    }
    let _ = super::BlockMap::default().push(Bytes::copy_from_slice(input));
    // Each decoding drops one leading slash of a key, as the reference does, so a key with several
    // of them changes. No filesystem can show such a name.
    if let Ok(found) = TrieNode::decode(Bytes::copy_from_slice(input), SEQ)
        && !found.key.text().starts_with('/')
    {
        let again = TrieNode::decode(found.encode(), SEQ).expect("we wrote it");
        assert_eq!(again.encode(), found.encode());
    }
}

/// The first block of a new index, which names its content core.
pub fn first_block(content: PublicKey) -> Bytes {
    IndexLog::first_block(super::DriveFormat::Hyperdrive10, content)
}
