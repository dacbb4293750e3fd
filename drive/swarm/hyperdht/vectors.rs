//! Bytes that npm hyperdht wrote, for the tests of the decoders.

use std::collections::BTreeMap;

use bytes::Bytes;

pub(crate) fn all() -> serde_json::Value {
    serde_json::from_str(include_str!("../../../tests/vectors/hyperdht.json")).unwrap()
}

pub(crate) fn hex(value: &serde_json::Value) -> Bytes {
    hex::decode(value.as_str().unwrap()).unwrap().into()
}

/// The bytes of one list, by what they are.
pub(crate) fn vectors(list: &str) -> BTreeMap<String, Bytes> {
    let all = all()[list].as_array().unwrap().clone();
    all.into_iter()
        .map(|one| (one["what"].as_str().unwrap().to_owned(), hex(&one["encoded"])))
        .collect()
}
