//! For tests of this package: a drive of Hyperdrive 11 to 13 with what a test puts into it.

use bytes::{Bytes, BytesMut};
use hypermount_swarm::compact::put_uint;
use hypermount_swarm::crypto::KeyPair;
use serde_json::{Value, json};

use super::Drive;
use crate::index::bee::block::Header;
use crate::index::bee::testing::{Writer, recorded_drive};
use hypermount_core::{Core, Result, Store, Wait};

fn hex_of(value: &Value) -> Bytes {
    hex::decode(value.as_str().unwrap()).unwrap().into()
}

/// A drive of which the index core consists of these blocks after the header.
pub(crate) struct Origin {
    pub(crate) store: Store,
    pub(crate) index: Core,
    pub(crate) content: Core,
}

impl Origin {
    /// In cores of Hypercore 9, which tests can replicate without a network.
    pub(crate) fn new() -> Self {
        let store = Store::memory();
        let index = store.core_named(b"index").unwrap();
        let content = store.core_named(b"content").unwrap();
        Self { store, index, content }
    }

    /// In cores of Hypercore 11.
    pub(crate) fn modern() -> Self {
        let store = Store::memory();
        let core = |seed| store.modern_core_with_pair(&KeyPair::from_seed(&[seed; 32])).unwrap();
        let (index, content) = (core(1), core(2));
        Self { store, index, content }
    }

    pub(crate) fn header(&self) -> Bytes {
        Header { content: Some(*self.content.key()), records: false }.encode()
    }

    /// Begins a writer of the index of this drive.
    pub(crate) fn writer(&self) -> Writer {
        Writer::new(self.header())
    }

    /// Appends what the writer has written since.
    pub(crate) fn append(&self, writer: &Writer) {
        let length = self.index.head().length as usize;
        self.index.append(&writer.blocks[length..]).unwrap();
    }

    pub(crate) async fn open(&self, version: Option<u64>) -> Result<Drive> {
        Drive::open(&self.store, self.index.key(), version, Wait::Local).await
    }

    /// Appends content, and the JSON of the blob that it is.
    pub(crate) fn blob(&self, blocks: &[&[u8]]) -> Value {
        let head = self.content.head();
        let blocks: Vec<_> = blocks.iter().map(|block| Bytes::copy_from_slice(block)).collect();
        if !blocks.is_empty() {
            self.content.append(&blocks).unwrap();
        }
        json!({
            "blockOffset": head.length, "byteOffset": head.byte_length, "blockLength": blocks.len(),
            "byteLength": self.content.head().byte_length - head.byte_length,
        })
    }

    /// Appends a map in one block, and the JSON of the blob that it is.
    pub(crate) fn map(&self, pieces: &[(u64, u64)]) -> Value {
        let mut map = BytesMut::new();
        put_uint(0, &mut map);
        put_uint(pieces.len() as u64, &mut map);
        for (block, bytes) in pieces {
            put_uint(*block, &mut map);
            put_uint(*bytes, &mut map);
        }
        let mut blob = self.blob(&[&map]);
        blob["blockMap"] = json!(true);
        blob
    }
}

pub(crate) fn put(writer: &mut Writer, path: &str, value: &Value) {
    writer.put(format!("files\0/{path}").as_bytes(), value.to_string().as_bytes());
}

pub(crate) fn file(blob: &Value) -> Value {
    json!({"executable": false, "linkname": null, "blob": blob, "metadata": null})
}

/// The drive of `drive.json`. Of the contents of which only hashes are recorded, the lengths are right.
pub(crate) async fn recorded() -> (Origin, Value) {
    recorded_in(Origin::new()).await
}

pub(crate) async fn recorded_in(origin: Origin) -> (Origin, Value) {
    let vector = recorded_drive();
    let content = vector["blobBlocks"].as_array().unwrap().iter().map(|block| {
        let length = block["byteLength"].as_u64().unwrap() as usize;
        if block["data"].is_string() { hex_of(&block["data"]) } else { vec![7; length].into() }
    });
    origin.content.append(&content.collect::<Vec<_>>()).unwrap();
    let blocks = vector["dbBlocks"].as_array().unwrap();
    let blocks = std::iter::once(origin.header()).chain(blocks[1..].iter().map(hex_of));
    origin.index.append(&blocks.collect::<Vec<_>>()).unwrap();
    (origin, vector)
}
