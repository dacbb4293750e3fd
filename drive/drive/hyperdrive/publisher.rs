//! A drive that a test publishes, in the format of its choice. Only for the tests of this package and of others.
//!
//! Not here: a drive of Hyperdrive 11 to 13 that lies (`tests/modern/publisher.rs`), and one that the reference writes.

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::sync::Mutex;

use super::{Drive, Edit};
use crate::index::bee::block::Header;
use crate::index::bee::entry;
use crate::index::bee::writer::Writer;
use crate::index::{DriveFormat, IndexLog};
use crate::stat::{Extent, Stat, TYPE_DIRECTORY, TYPE_MASK};
use hypermount_core::{Error, Result, Store};
use hypermount_swarm::crypto::{KeyPair, blake2b};

/// The formats that drives have.
pub const FORMATS: [DriveFormat; 2] = [DriveFormat::Hyperdrive10, DriveFormat::Hyperdrive11];

/// See the module's description.
pub struct Publisher {
    drive: Drive,
    /// What writes the index of a drive of Hyperdrive 11 to 13.
    bee: Option<Mutex<Writer>>,
    /// Bytes of metadata that each entry of a drive of Hyperdrive 11 to 13 has in addition.
    padding: usize,
}

impl Publisher {
    /// Makes an empty drive in a store that it is to be read from, or given to peers.
    ///
    /// # Errors
    /// Those of [`Store::core_named`].
    pub fn new(store: &Store, name: &str, format: DriveFormat) -> Result<Self> {
        if format == DriveFormat::Hyperdrive10 {
            return Ok(Self { drive: Drive::create(store, name)?, bee: None, padding: 0 });
        }
        let core = |part: &[u8]| {
            let pair = KeyPair::from_seed(&blake2b(&[part, name.as_bytes()]));
            store.modern_core_with_pair(&pair)
        };
        let (index, content) = (core(b"index")?, core(b"content")?);
        let header = Header { content: Some(*content.key()), records: false }.encode();
        index.append(std::slice::from_ref(&header))?;
        let drive = Drive::assemble(store, IndexLog::new(index, format), Some(content), None);
        Ok(Self { drive, bee: Some(Mutex::new(Writer::new(header))), padding: 0 })
    }

    /// The same with larger entries where the format has room for that, so that an index is not small.
    #[must_use]
    pub fn padded(self, padding: usize) -> Self {
        Self { padding, ..self }
    }

    /// The drive as its readers have it.
    pub fn drive(&self) -> &Drive {
        &self.drive
    }

    /// Appends the bytes of a file.
    ///
    /// # Errors
    /// Those of [`Drive::append_content`].
    pub fn append_content(&self, blocks: &[Bytes]) -> Result<Extent> {
        if self.bee.is_none() {
            return self.drive.append_content(blocks);
        }
        let content = self.drive.content()?;
        let before = content.head();
        let after = content.append(blocks)?;
        Ok(Extent {
            block: before.length,
            byte: before.byte_length,
            blocks: after.length - before.length,
            size: after.byte_length - before.byte_length,
            map_size: 0,
            holes: 0,
            fork: 0,
        })
    }

    /// Applies the edits as one version.
    ///
    /// # Errors
    /// Those of [`Drive::apply`]; `Unsupported` for what the format cannot hold.
    pub async fn apply(&self, edits: Vec<Edit>) -> Result<()> {
        let Some(writer) = &self.bee else { return self.drive.apply(edits).await.map(drop) };
        let mut writer = writer.lock().await;
        let before = writer.blocks.len();
        for edit in edits {
            match edit {
                Edit::Put { path, stat } => {
                    let value = value(&stat, self.padding)?.to_string();
                    writer.put(&entry::key_of(&path), value.as_bytes());
                }
                Edit::Remove { path } => {
                    if !writer.remove(&entry::key_of(&path)) {
                        return Err(Error::NotFound);
                    }
                }
            }
        }
        self.drive.metadata_core().append(&writer.blocks[before..]).map(drop)
    }
}

/// The value of an entry.
fn value(stat: &Stat, padding: usize) -> Result<Value> {
    let unsupported = |what: &str| Err(Error::Unsupported(what.to_owned()));
    if stat.mode & TYPE_MASK == TYPE_DIRECTORY || stat.mount.is_some() {
        return unsupported("a directory in this format");
    }
    let Extent { block, byte, blocks, size, .. } = stat.extent;
    let blob = json!({
        "blockOffset": block, "byteOffset": byte, "blockLength": blocks, "byteLength": size,
    });
    let blob = if stat.linkname.is_some() { Value::Null } else { blob };
    let mut metadata = json!({ "padding": "p".repeat(padding) });
    if stat.mtime.coarse() > 0 {
        metadata["mtime"] = json!(stat.mtime.coarse());
    }
    let executable = stat.mode & 0o100 != 0 && stat.linkname.is_none();
    Ok(json!({
        "executable": executable, "linkname": stat.linkname, "blob": blob, "metadata": metadata,
    }))
}
