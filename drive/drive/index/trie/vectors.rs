//! Golden bytes of the reference, for the tests of this room.

use bytes::Bytes;
use serde_json::Value;

pub(crate) fn load(file: &str) -> Value {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/vectors/");
    let text = std::fs::read_to_string(format!("{folder}{file}")).expect("the vectors are here");
    serde_json::from_str(&text).expect("the vectors are JSON")
}

pub(crate) fn trie() -> Value {
    load("trie.json")
}

pub(crate) fn messages() -> Value {
    load("messages.json")
}

pub(crate) fn drive_small() -> Value {
    load("drive-small.expected.json")
}

/// A list of recorded blocks, with their numbers.
pub(crate) fn blocks(nodes: &Value) -> Vec<(u64, Bytes)> {
    let block = |node: &Value| {
        let block = hex::decode(node["block"].as_str().expect("hex")).expect("hex");
        (node["seq"].as_u64().expect("a number"), Bytes::from(block))
    };
    nodes.as_array().expect("a list").iter().map(block).collect()
}
