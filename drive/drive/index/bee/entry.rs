//! Keys and values of a drive: a path as a key, and the JSON that is stored for it.
//!
//! Not here: where the bytes of a file are, if its value names a map (`map.rs`).

use std::collections::BTreeMap;

use bytes::Bytes;
use serde_json::Value;
use serde_json::value::RawValue;

use super::block::Block;
use super::metadata::{self, Kept};
use super::time;
use crate::link::Link;
use crate::path::DrivePath;
use crate::stat::{Entry, Exact, Extent, Kind, Stat, TYPE_FILE, TYPE_MASK, TYPE_SYMLINK};
use crate::time::Time;
use hypermount_core::{Error, MAX_BLOCK_SIZE, MAX_CORE_LENGTH, Result};

/// What all keys of files begin with, the slash of the root included.
const FILES: &[u8] = b"files\0/";
/// Longest value, in bytes. All but the metadata takes some hundred.
const MAX_VALUE_BYTES: usize = 1024 * 1024;
/// Greatest number that the reference can count to.
const MAX_NUMBER: u64 = (1 << 53) - 1;

/// Permissions of a file, of one that is executable, and of a link. None are stored.
const FILE_MODE: u32 = TYPE_FILE | 0o644;
const EXECUTABLE_MODE: u32 = TYPE_FILE | 0o755;
const LINK_MODE: u32 = TYPE_SYMLINK | 0o777;
const PERMISSIONS: u32 = 0o7777;
/// By its owner, which decides whether the entry says that it is.
const EXECUTABLE: u32 = 0o100;
const ANY_EXECUTABLE: u32 = 0o111;
const READABLE: u32 = 0o444;

/// The key of the entry at `path`. Of the root it is a key that no entry has.
pub(crate) fn key_of(path: &DrivePath) -> Vec<u8> {
    [FILES, path.as_str().as_bytes()].concat()
}

/// What the keys below `path` begin with.
pub(super) fn prefix_of(path: &DrivePath) -> Vec<u8> {
    below(key_of(path), path)
}

/// What the keys below the one of `path` begin with.
pub(super) fn below(mut key: Vec<u8>, path: &DrivePath) -> Vec<u8> {
    if !path.is_root() {
        key.push(b'/');
    }
    key
}

/// The path of a key; `None` if it is none of a file, or its path is one that a filesystem cannot hold.
pub(crate) fn path_of(key: &[u8]) -> Option<DrivePath> {
    let text = std::str::from_utf8(key.strip_prefix(FILES)?).ok()?;
    let path = DrivePath::parse(text).ok()?;
    (!path.is_root() && path.as_str() == text).then_some(path)
}

/// What is stored at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct EntryValue {
    pub(crate) executable: bool,
    /// The target of a link, as stored. Not empty.
    pub(crate) linkname: Option<String>,
    /// Where the bytes of a file are. The size of one with a map is 0: the map has it.
    pub(crate) blob: Option<Extent>,
    /// JSON that programs may store there, as stored; `null` if none did.
    metadata: String,
    /// Members that are not known, as stored.
    unknown: BTreeMap<String, String>,
}

type Members = BTreeMap<String, Box<RawValue>>;

fn bad(what: &str) -> Error {
    Error::Malformed(format!("entry: {what}"))
}

/// The member `name`, taken out of `members`; null if it is missing.
fn take(members: &mut Members, name: &str) -> Result<Value> {
    let Some(raw) = members.remove(name) else { return Ok(Value::Null) };
    serde_json::from_str(raw.get()).map_err(|error| bad(&format!("{name}: {error}")))
}

fn take_bool(members: &mut Members, name: &str) -> Result<bool> {
    match take(members, name)? {
        Value::Null => Ok(false),
        Value::Bool(value) => Ok(value),
        _ => Err(bad(&format!("{name} is no boolean"))),
    }
}

fn take_number(members: &mut Members, name: &str) -> Result<u64> {
    let number = take(members, name)?.as_u64().filter(|number| *number <= MAX_NUMBER);
    number.ok_or_else(|| bad(&format!("{name} is no number of a core")))
}

impl EntryValue {
    /// Reads the value of a key.
    ///
    /// # Errors
    /// `Malformed` for anything but an object whose known members have the right types and numbers that
    /// a core can have; `TooLarge` for more than 1 MiB.
    pub(crate) fn decode(value: &[u8]) -> Result<Self> {
        if value.len() > MAX_VALUE_BYTES {
            return Err(Error::TooLarge(format!("an entry of {} bytes", value.len())));
        }
        let mut members: Members =
            serde_json::from_slice(value).map_err(|error| bad(&error.to_string()))?;
        let executable = take_bool(&mut members, "executable")?;
        let linkname = match take(&mut members, "linkname")? {
            Value::Null => None,
            // The reference takes an empty one for none.
            Value::String(target) => Some(target).filter(|target| !target.is_empty()),
            _ => return Err(bad("linkname is no text")),
        };
        let blob = members.remove("blob").filter(|raw| raw.get() != "null");
        let blob = blob.map(|raw| decode_blob(raw.get())).transpose()?;
        let text = |raw: Box<RawValue>| String::from(Box::<str>::from(raw));
        let metadata = members.remove("metadata").map_or_else(|| "null".to_owned(), text);
        let unknown = members.into_iter().map(|(name, raw)| (name, text(raw))).collect();
        Ok(Self { executable, linkname, blob, metadata, unknown })
    }

    /// The value of an entry with this stat.
    ///
    /// # Errors
    /// `TooLarge` for one that no reader takes.
    pub(crate) fn of(stat: &Stat) -> Result<Self> {
        let linkname = stat.linkname.clone().filter(|_| stat.mode & TYPE_MASK == TYPE_SYMLINK);
        let is_file = Entry::stored(stat.clone()).kind == Kind::File;
        let foreign = stat.foreign.as_deref();
        let value = Self {
            executable: is_file && stat.mode & EXECUTABLE != 0,
            linkname,
            blob: is_file.then_some(stat.extent),
            metadata: metadata::encode(stat),
            unknown: foreign.map(|foreign| foreign.members.clone()).unwrap_or_default(),
        };
        match value.encode().len() {
            length if length > MAX_VALUE_BYTES => {
                Err(Error::TooLarge(format!("an entry of {length} bytes")))
            }
            _ => Ok(value),
        }
    }

    /// The bytes to store: known members in the order of the reference, then the others.
    pub(crate) fn encode(&self) -> Bytes {
        let text = |text: &str| Value::from(text).to_string();
        let linkname = self.linkname.as_deref().map_or_else(|| "null".to_owned(), text);
        let blob = self.blob.map_or_else(|| "null".to_owned(), encode_blob);
        let mut json = format!(
            r#"{{"executable":{},"linkname":{linkname},"blob":{blob},"metadata":{}"#,
            self.executable, self.metadata,
        );
        for (name, value) in &self.unknown {
            json += &format!(",{}:{value}", text(name));
        }
        json.push('}');
        json.into()
    }

    /// The metadata as JSON text.
    #[cfg(test)]
    pub(crate) fn metadata(&self) -> &str {
        &self.metadata
    }

    /// The stat of the entry, which block `seq` brought. Owner and mode are those that `metadata.rs` keeps; the time is
    /// that of the metadata or, without one, [`time::of_block`].
    pub(crate) fn stat(&self, seq: u64) -> Stat {
        let coarse = time::in_metadata(&self.metadata).unwrap_or_else(|| time::of_block(seq));
        let mtime = Time::from_milliseconds(coarse);
        let (mode, extent) = match (&self.linkname, self.executable) {
            (Some(_), _) => (LINK_MODE, Extent::default()),
            (None, true) => (EXECUTABLE_MODE, self.blob.unwrap_or_default()),
            (None, false) => (FILE_MODE, self.blob.unwrap_or_default()),
        };
        let linkname = self.linkname.clone();
        let foreign = metadata::foreign(&self.metadata, &self.unknown);
        let stat = Stat { mode, extent, mtime, ctime: mtime, linkname, foreign, ..Stat::default() };
        let Some(kept) = metadata::kept(&self.metadata) else { return stat };
        let Kept { mode: kept_mode, uid, gid, ctime, exact, attributes, link } = kept;
        let mode = self.mode(mode, kept_mode);
        let mtime = Time::of_coarse(coarse, exact.mtime);
        let ctime = Time::of_coarse(ctime, exact.ctime);
        let Exact { atime, device, holes, .. } = exact;
        let link = link.map(Link::unread);
        let extent = Extent { holes, ..extent };
        Stat { mode, uid, gid, extent, mtime, ctime, atime, device, attributes, link, ..stat }
    }

    /// The mode of an entry whose metadata keeps `kept`. What it is, and whether it is executable, its own members say:
    /// another program may have changed them.
    fn mode(&self, stated: u32, kept: u32) -> u32 {
        let nothing = self.linkname.is_none() && self.blob.is_none();
        let kind = if nothing { kept & TYPE_MASK } else { stated & TYPE_MASK };
        let permissions = kept & PERMISSIONS;
        let permissions = match (kind, self.executable, permissions & EXECUTABLE != 0) {
            (TYPE_FILE, true, false) => permissions | (permissions & READABLE) >> 2,
            (TYPE_FILE, false, true) => permissions & !ANY_EXECUTABLE,
            _ => permissions,
        };
        kind | permissions
    }
}

/// The entry in block `seq`.
pub(super) fn decode(seq: u64, block: &Block) -> Result<Entry> {
    let bad = |what: &dyn std::fmt::Display| format!("index block {seq}: {what}");
    let value = block.value.as_deref().ok_or_else(|| Error::Malformed(bad(&"no value")))?;
    EntryValue::decode(value).map(|value| Entry::stored(value.stat(seq)))
}

fn decode_blob(json: &str) -> Result<Extent> {
    let members = &mut serde_json::from_str::<Members>(json)
        .map_err(|error| bad(&format!("blob: {error}")))?;
    let extent = Extent {
        block: take_number(members, "blockOffset")?,
        byte: take_number(members, "byteOffset")?,
        blocks: take_number(members, "blockLength")?,
        size: take_number(members, "byteLength")?,
        map_size: 0,
        holes: 0,
        fork: 0,
    };
    // The sum does not overflow: both numbers are below 2^53.
    if extent.block + extent.blocks > MAX_CORE_LENGTH {
        return Err(bad("more blocks than a core can have"));
    }
    if extent.size > extent.blocks.saturating_mul(MAX_BLOCK_SIZE as u64) {
        return Err(bad("more bytes than its blocks can have"));
    }
    Ok(match take_bool(members, "blockMap")? {
        true => Extent { size: 0, map_size: extent.size, ..extent },
        false => extent,
    })
}

fn encode_blob(blob: Extent) -> String {
    let Extent { block, blocks, byte, size, map_size, holes: _, fork: _ } = blob;
    let (size, map) = if map_size > 0 { (map_size, r#","blockMap":true"#) } else { (size, "") };
    format!(
        r#"{{"blockOffset":{block},"byteOffset":{byte},"blockLength":{blocks},"byteLength":{size}{map}}}"#
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::index::trie::vectors;

    #[test]
    fn every_recorded_entry_has_the_stated_members_and_encodes_to_the_same_bytes() {
        let drive = vectors::load("modern/drive.json");
        let entries = drive["entries"].as_array().unwrap();
        assert_eq!(entries.len(), 20);
        for entry in entries {
            let json = entry["value"].to_string();
            let decoded = EntryValue::decode(json.as_bytes()).unwrap();
            let value = &entry["value"];
            assert_eq!(decoded.executable, value["executable"].as_bool().unwrap());
            assert_eq!(decoded.linkname.as_deref(), value["linkname"].as_str());
            let metadata: Value = serde_json::from_str(decoded.metadata()).unwrap();
            assert_eq!(metadata, value["metadata"]);
            let number = |name: &str| value["blob"][name].as_u64().unwrap();
            let blob = (!value["blob"].is_null()).then(|| {
                let mapped = value["blob"]["blockMap"] == true;
                let (size, map_size) = match number("byteLength") {
                    map_size if mapped => (0, map_size),
                    size => (size, 0),
                };
                Extent {
                    block: number("blockOffset"),
                    blocks: number("blockLength"),
                    byte: number("byteOffset"),
                    size,
                    map_size,
                    holes: 0,
                    fork: 0,
                }
            });
            assert_eq!(decoded.blob, blob);
            let again: Value = serde_json::from_slice(&decoded.encode()).unwrap();
            assert_eq!(&again, value);
        }
    }

    #[test]
    fn recorded_values_encode_to_the_same_bytes() {
        let mut values = 0;
        for (seq, block) in
            crate::index::bee::testing::drive_blocks().into_iter().enumerate().skip(1)
        {
            let block = crate::index::bee::block::Block::decode(block, seq as u64).unwrap();
            let Some(value) = block.value else { continue };
            assert_eq!(EntryValue::decode(&value).unwrap().encode(), value);
            values += 1;
        }
        assert!(values > 20);
    }

    /// The block that brought what is decoded here.
    const SEQ: u64 = 7;

    fn decode(json: &str) -> Result<EntryValue> {
        EntryValue::decode(json.as_bytes())
    }

    fn stat(json: &str) -> Stat {
        decode(json).unwrap().stat(SEQ)
    }

    #[test]
    fn a_value_is_a_file_or_a_link() {
        let blob = r#"{"blockOffset":1,"byteOffset":2,"blockLength":3,"byteLength":4}"#;
        let extent =
            Extent { block: 1, byte: 2, blocks: 3, size: 4, map_size: 0, holes: 0, fork: 0 };
        let file = stat(&format!(r#"{{"executable":false,"blob":{blob}}}"#));
        assert_eq!((file.mode, file.extent), (0o100644, extent));
        assert_eq!(Entry::stored(file).kind, Kind::File);
        let program = stat(&format!(r#"{{"executable":true,"linkname":null,"blob":{blob}}}"#));
        assert_eq!((program.mode, program.extent), (0o100755, extent));
        let link = stat(r#"{"executable":true,"linkname":"../a","blob":null}"#);
        assert_eq!((link.mode, link.linkname.as_deref()), (0o120777, Some("../a")));
        assert_eq!((link.mtime, link.ctime), (Time::from_milliseconds(7000), link.mtime));
        assert_eq!(Entry::stored(link).kind, Kind::Symlink);
        let mapped = format!(r#"{{"blob":{},"blockMap":true}}}}"#, &blob[..blob.len() - 1]);
        assert_eq!(stat(&mapped).extent, Extent { size: 0, map_size: 4, ..extent });
        let timed = stat(r#"{"metadata":{"mtime":1700000000123}}"#);
        let stated = Time::from_milliseconds(1_700_000_000_123);
        assert_eq!((timed.mtime, timed.ctime), (stated, stated));
        // As the reference reads them.
        assert_eq!(stat("{}").mode, 0o100644);
        assert_eq!(stat(r#"{"linkname":""}"#).linkname, None);
    }

    /// Sentence 140. "Where another program changed the times of an entry, they are its, to the millisecond;
    /// where it changed whether a file is executable, the mode follows, and the owner stays."
    #[test]
    fn what_another_program_changed_counts() {
        let exact = |seconds, rest| Time::new(seconds, rest).unwrap();
        let ours = Stat {
            mode: 0o100_640,
            uid: 7,
            gid: 8,
            mtime: exact(7, 1_000_001),
            ctime: exact(8, 1_000_001),
            atime: Some(exact(9, 1)),
            ..Stat::default()
        };
        let value = EntryValue::of(&ours).unwrap();
        assert_eq!(value.stat(SEQ), ours);
        let stored = String::from_utf8(value.encode().to_vec()).unwrap();
        let touched = stat(&stored.replace(r#""mtime":7001"#, r#""mtime":7002"#));
        assert_eq!(touched, Stat { mtime: exact(7, 2_000_000), ..ours.clone() });
        let executable = stored.replace(r#""executable":false"#, r#""executable":true"#);
        let (changed, mode) = (stat(&executable), 0o100_750);
        assert_eq!(changed, Stat { mode, ..ours.clone() });
        let program = EntryValue::of(&changed).unwrap();
        let stored = String::from_utf8(program.encode().to_vec()).unwrap();
        assert_eq!(stat(&stored.replace(r#""executable":true"#, r#""executable":false"#)), ours);
    }

    #[test]
    fn unknown_members_and_metadata_are_kept_as_stored() {
        let json = r#"{"executable":false,"linkname":null,"blob":null,"metadata":{"z":1,"a":[1.50,1e3]},"later":{"b": 2}}"#;
        let value = decode(json).unwrap();
        assert_eq!(value.metadata(), r#"{"z":1,"a":[1.50,1e3]}"#);
        assert_eq!(value.encode(), json);
        assert_eq!(decode("{}").unwrap().metadata(), "null");
    }

    #[test]
    fn text_is_escaped_as_the_reference_does() {
        let json =
            r#"{"executable":false,"linkname":"a\"b\\c\n\u0001☃","blob":null,"metadata":null}"#;
        let value = decode(json).unwrap();
        assert_eq!(value.linkname.as_deref(), Some("a\"b\\c\n\u{1}☃"));
        assert_eq!(value.encode(), json);
    }

    #[test]
    fn values_that_make_no_sense_are_refused() {
        let blob = |blob: &str| format!(r#"{{"blob":{{{blob}}}}}"#);
        let numbers = |block: &str, byte: &str, blocks: &str, size: &str| {
            blob(&format!(
                r#""blockOffset":{block},"byteOffset":{byte},"blockLength":{blocks},"byteLength":{size}"#
            ))
        };
        assert!(decode(&numbers("1", "2", "3", "4")).is_ok());
        assert!(decode(&numbers("4294967295", "9007199254740991", "1", "8388608")).is_ok());
        for refused in [
            "",
            "null",
            "[]",
            "7",
            "{",
            "{} {}",
            r#"{"executable":1}"#,
            r#"{"linkname":7}"#,
            r#"{"linkname":"\ud800"}"#,
            r#"{"blob":7}"#,
            r#"{"blob":{}}"#,
            &numbers("-1", "2", "3", "4"),
            &numbers("1.5", "2", "3", "4"),
            &numbers("1", "2", "3", "1e3"),
            &numbers("1", "9007199254740992", "3", "4"),
            &numbers("4294967296", "2", "1", "4"),
            &numbers("18446744073709551615", "2", "1", "4"),
            &numbers("1", "2", "0", "1"),
            &numbers("1", "2", "1", "8388609"),
            &blob(r#""blockOffset":1,"byteOffset":2,"blockLength":3"#),
        ] {
            assert!(matches!(decode(refused), Err(Error::Malformed(_))), "{refused}");
        }
        let long = format!(r#"{{"metadata":"{}"}}"#, "a".repeat(MAX_VALUE_BYTES));
        assert!(matches!(decode(&long), Err(Error::TooLarge(_))));
    }

    #[test]
    fn depth_without_end_is_kept_as_text_or_refused() {
        let nested = "[".repeat(200_000) + &"]".repeat(200_000);
        assert_eq!(decode(&format!(r#"{{"metadata":{nested}}}"#)).unwrap().metadata(), nested);
        assert!(decode(&format!(r#"{{"linkname":{nested}}}"#)).is_err());
        assert!(decode(&format!(r#"{{"blob":{nested}}}"#)).is_err());
    }

    #[test]
    fn keys_are_paths_behind_a_prefix() {
        let path = DrivePath::parse("dir/näme.txt").unwrap();
        assert_eq!(key_of(&path), "files\0/dir/näme.txt".as_bytes());
        assert_eq!(prefix_of(&path), "files\0/dir/näme.txt/".as_bytes());
        assert_eq!(prefix_of(&DrivePath::root()), b"files\0/");
        assert_eq!(path_of(&key_of(&path)), Some(path));
        // The reference takes a backslash for a separator when it is asked, but lists such a name.
        assert!(path_of(b"files\0/a\\b").is_some());
    }

    #[test]
    fn a_key_that_a_filesystem_cannot_hold_is_no_path() {
        let long = [b"files\0/", &[b'a'; 256][..]].concat();
        for key in [
            &b"files\0/"[..],
            b"files\0/a/",
            b"files\0//a",
            b"files\0/a//b",
            b"files\0/./a",
            b"files\0/a/..",
            b"files\0/a\0b",
            b"files\0/\xff",
            b"files\0a",
            b"files/a",
            b"other\0/a",
            b"",
            &long,
        ] {
            assert_eq!(path_of(key), None, "{:?}", key.escape_ascii().to_string());
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_are_an_entry_or_an_error(
            bytes in prop::collection::vec(any::<u8>(), 0..100),
        ) {
            let _ = EntryValue::decode(&bytes);
        }

        #[test]
        fn an_entry_survives_encoding(
            executable: bool, linkname in "\\PC{0,20}", metadata in "[0-9]{1,5}", map: bool,
            numbers in any::<[u32; 4]>(), name in "\\PC{0,9}",
        ) {
            let [block, blocks, byte, size] = numbers.map(|number| u64::from(number >> 2));
            let (size, map_size) = if map { (0, size + 1) } else { (size, 0) };
            let extent = Extent { block, blocks: blocks + 1024, byte, size, map_size, holes: 0, fork: 0 };
            let metadata = metadata.trim_start_matches('0').to_owned() + "1";
            let known = ["executable", "linkname", "blob", "metadata"].contains(&&*name);
            let value = EntryValue {
                executable,
                linkname: Some(linkname).filter(|name| !name.is_empty()),
                blob: Some(extent),
                metadata,
                unknown: if known { BTreeMap::new() } else { [(name, "[1, 2]".into())].into() },
            };
            prop_assert_eq!(EntryValue::decode(&value.encode()).unwrap(), value);
        }

        #[test]
        fn arbitrary_keys_are_the_key_of_their_path(
            key in prop::collection::vec(prop::sample::select(b"ab./\0\xff".to_vec()), 0..12),
        ) {
            let key = [FILES, &key].concat();
            if let Some(path) = path_of(&key) {
                prop_assert_eq!(key_of(&path), key);
            }
        }
    }
}
