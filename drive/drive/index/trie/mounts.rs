//! Where another drive begins: the hidden record beside a mountpoint's node (hypertrie5.md §12).

use bytes::Bytes;
use prost::Message;

use super::Trie;
use super::batch::{Batch, Removed};
use super::key::TrieKey;
use super::node::MOUNT;
use crate::stat::MountTarget;
use hypermount_core::{Error, Result, Wait};
use hypermount_swarm::crypto::PublicKey;

/// Hidden directory of the records.
const RECORDS: &str = "mounts";

#[derive(Clone, PartialEq, Message)]
struct RecordMessage {
    #[prost(bytes = "vec", required, tag = "1")]
    key: Vec<u8>,
    #[prost(string, required, tag = "2")]
    local_path: String,
    #[prost(uint64, optional, tag = "3")]
    version: Option<u64>,
    #[prost(string, optional, tag = "4")]
    remote_path: Option<String>,
    #[prost(bytes = "vec", optional, tag = "5")]
    hash: Option<Vec<u8>>,
}

/// The record of a mount at `path`.
pub(crate) fn encode_record(path: &str, target: &MountTarget) -> Bytes {
    let record = RecordMessage {
        key: target.key.as_bytes().to_vec(),
        local_path: path.to_owned(),
        version: target.version,
        remote_path: None,
        hash: None,
    };
    record.encode_to_vec().into()
}

/// What a record says. One that leads into the middle of a drive is refused: nothing that writes
/// drives makes them.
pub(crate) fn decode_record(value: &[u8]) -> Result<MountTarget> {
    let record = RecordMessage::decode(value)
        .map_err(|_| Error::Malformed("a mount record that is none".into()))?;
    let key = PublicKey::from_slice(&record.key)
        .ok_or_else(|| Error::Malformed(format!("a mount key of {} bytes", record.key.len())))?;
    if record.remote_path.is_some_and(|path| !path.is_empty()) {
        return Err(Error::Unsupported("a mount of a directory inside another drive".into()));
    }
    Ok(MountTarget { key, version: record.version.filter(|version| *version > 0), core: false })
}

fn record_key(path: &str) -> Result<TrieKey> {
    TrieKey::new(&format!("{RECORDS}/{path}"), true)
}

impl Trie {
    /// The hidden record of the mount at `path`. Only asked for where the mountpoint's own value
    /// does not say it: the reference writes both together.
    pub(crate) async fn mount_record(&self, path: &str, wait: Wait) -> Result<Option<MountTarget>> {
        let record = self.get_node(&record_key(path)?, wait).await?;
        record.and_then(|node| node.value.clone()).map(|value| decode_record(&value)).transpose()
    }
}

impl Batch {
    /// The mounted drive that `path` lies in, if this index has a mountpoint above it.
    pub(crate) async fn mount_above(&self, path: &str) -> Result<Option<String>> {
        for (slash, _) in path.match_indices('/') {
            let above = &path[..slash];
            if self.get(&record_key(above)?).await?.is_some() {
                return Ok(Some(above.to_owned()));
            }
        }
        Ok(None)
    }

    /// Sets `path` to `value` and makes it a mountpoint.
    pub(crate) async fn put_mount(
        &mut self,
        path: &str,
        target: &MountTarget,
        value: Bytes,
    ) -> Result<()> {
        let record = encode_record(path, target);
        let key = record_key(path)?;
        let known = self.get(&key).await?.and_then(|node| node.value.clone());
        if known.as_ref() != Some(&record) {
            self.put(key, Some(record), MOUNT).await?;
        }
        self.put(TrieKey::new(path, false)?, Some(value), MOUNT).await
    }

    /// Sets `path` to `value`; if it was a mountpoint, it no longer is.
    pub(crate) async fn put_plain(&mut self, path: &str, value: Bytes) -> Result<()> {
        let key = TrieKey::new(path, false)?;
        if self.get(&key).await?.is_some_and(|node| node.is_mount()) {
            self.remove(&record_key(path)?).await?;
        }
        self.put(key, Some(value), 0).await
    }

    /// Removes `path`, with its mount record if it has one.
    pub(crate) async fn remove_path(&mut self, path: &str) -> Result<Removed> {
        let key = TrieKey::new(path, false)?;
        let mounted = self.get(&key).await?.is_some_and(|node| node.is_mount());
        let removed = self.remove(&key).await?;
        if mounted && removed == Removed::Done {
            self.remove(&record_key(path)?).await?;
        }
        Ok(removed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::trie::vectors;

    #[test]
    fn records_are_the_references() {
        let vectors = vectors::messages();
        let encoded =
            |index: usize| hex::decode(vectors["trieMount"][index]["encoded"].as_str().unwrap());
        let plain = encoded(0).unwrap();
        let target = MountTarget { key: PublicKey::new([8; 32]), version: None, core: false };
        assert_eq!(decode_record(&plain).unwrap(), target);
        assert_eq!(encode_record("mnt", &target), plain);
        let inside = decode_record(&encoded(1).unwrap());
        assert!(matches!(inside, Err(Error::Unsupported(_))));
    }

    #[test]
    fn a_record_with_a_short_key_is_malformed() {
        let record = RecordMessage { key: vec![1; 5], ..RecordMessage::default() };
        assert!(matches!(decode_record(&record.encode_to_vec()), Err(Error::Malformed(_))));
        assert!(matches!(decode_record(&[0xff]), Err(Error::Malformed(_))));
    }
}
