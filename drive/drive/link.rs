//! Hard links: the names of one file share an id, and a record beside the entries lists them (docs/format/links.md).
//!
//! Each name has an entry of its own with the same content, so programs that know no links see equal files. Not here:
//! where an index keeps records (`index/`), and what a change of one name does to the others
//! (`hyperdrive/links.rs`).

use std::fmt::Write as _;

use bytes::Bytes;
use serde_json::{Value, json};

use crate::path::DrivePath;
use hypermount_core::{Error, Result};
use hypermount_swarm::crypto::random_bytes;

/// Most names of one file. A change of it writes the entry of each of them.
pub const MAX_LINKS: u32 = 1024;
/// Names in one part of a record. A new name costs one part and the first one, however many there are.
pub(crate) const NAMES_PER_PART: usize = 16;
/// The version that is written, and the only one that is read.
const VERSION: u64 = 1;
/// Longest part of a record, in bytes: escaped, a byte of a path takes six.
const MAX_PART_BYTES: usize = NAMES_PER_PART * 6 * 4096 + 4096;

/// Identifies a file that has several names; random.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId([u8; 16]);

impl LinkId {
    /// A new id.
    ///
    /// # Errors
    /// `Storage` if the system has no random bytes.
    pub fn random() -> Result<Self> {
        let failed = |source| Error::Storage { op: "read", path: "/dev/random".into(), source };
        random_bytes().map(Self).map_err(failed)
    }

    /// The id with these bytes.
    pub const fn new(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    pub(crate) fn from_slice(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    pub(crate) fn to_hex(self) -> String {
        self.0.iter().fold(String::new(), |mut text, byte| {
            // Writing to a string does not fail.
            let _ = write!(text, "{byte:02x}");
            text
        })
    }

    pub(crate) fn from_hex(text: &str) -> Option<Self> {
        let digits = text.len() == 32 && text.bytes().all(|digit| digit.is_ascii_hexdigit());
        u128::from_str_radix(text, 16).ok().filter(|_| digits).map(|id| Self(id.to_be_bytes()))
    }
}

/// What the entry of one of several names says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// The same in the entries of all names.
    pub id: LinkId,
    /// How many names there are, by the record: 0 where the record was not read, else 1 to [`MAX_LINKS`].
    pub names: u32,
}

impl Link {
    pub(crate) fn unread(id: LinkId) -> Self {
        Self { id, names: 0 }
    }
}

/// The first part of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FirstPart {
    /// Number of names, 1 to [`MAX_LINKS`].
    pub(crate) names: u32,
    /// When a name was added or removed, in milliseconds since the epoch.
    pub(crate) ctime: u64,
    /// The first names.
    pub(crate) paths: Vec<DrivePath>,
}

impl FirstPart {
    /// `None` for what is no record, or one that cannot be true.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let value = parse(bytes)?;
        let names = u32::try_from(value.get("names")?.as_u64()?).ok()?;
        let ctime = value.get("ctime")?.as_u64()?;
        let names = (1..=MAX_LINKS).contains(&names).then_some(names)?;
        Some(Self { names, ctime, paths: paths_in(&value) })
    }
}

fn parse(bytes: &[u8]) -> Option<Value> {
    let bytes = (bytes.len() <= MAX_PART_BYTES).then_some(bytes)?;
    let value: Value = serde_json::from_slice(bytes).ok()?;
    (value.get("version")?.as_u64()? == VERSION).then_some(value)
}

fn paths_in(value: &Value) -> Vec<DrivePath> {
    let paths = value.get("paths").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let path = |text: &Value| {
        let text = text.as_str()?;
        DrivePath::parse(text).ok().filter(|path| path.as_str() == text && !path.is_root())
    };
    paths.iter().take(NAMES_PER_PART).filter_map(path).collect()
}

/// The names in a further part.
pub(crate) fn decode_part(bytes: &[u8]) -> Vec<DrivePath> {
    parse(bytes).map_or(Vec::new(), |value| paths_in(&value))
}

/// The parts of the record of these names, of which there are one or more.
pub(crate) fn encode_parts(names: &[DrivePath], ctime: u64) -> Vec<Bytes> {
    let parts = names.chunks(NAMES_PER_PART).enumerate();
    let encode = |(part, names_in_it): (usize, &[DrivePath])| {
        let paths: Vec<&str> = names_in_it.iter().map(DrivePath::as_str).collect();
        let value = match part {
            0 => json!({"version": VERSION, "names": names.len(), "ctime": ctime, "paths": paths}),
            _ => json!({"version": VERSION, "paths": paths}),
        };
        Bytes::from(value.to_string())
    };
    parts.map(encode).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(count: usize) -> Vec<DrivePath> {
        (0..count).map(|n| DrivePath::parse(&format!("d/\"{n}")).unwrap()).collect()
    }

    #[test]
    fn a_record_is_read_as_written() {
        for count in [1, 2, 16, 17, 40, MAX_LINKS as usize] {
            let names = names(count);
            let parts = encode_parts(&names, 7);
            assert_eq!(parts.len(), count.div_ceil(NAMES_PER_PART));
            let first = FirstPart::decode(&parts[0]).unwrap();
            assert_eq!((first.names as usize, first.ctime), (count, 7));
            let rest = parts[1..].iter().flat_map(|part| decode_part(part));
            let read: Vec<DrivePath> = first.paths.into_iter().chain(rest).collect();
            assert_eq!(read, names);
        }
        let id = LinkId::random().unwrap();
        assert_eq!(LinkId::from_hex(&id.to_hex()), Some(id));
        assert_eq!(LinkId::from_slice(id.as_bytes()), Some(id));
    }

    #[test]
    fn a_record_that_cannot_be_true_is_none() {
        let record = |names: &str| {
            FirstPart::decode(
                format!(r#"{{"version":1,"names":{names},"ctime":1,"paths":["a"]}}"#).as_bytes(),
            )
        };
        assert!(record("2").is_some());
        for names in ["0", "1025", "1152921504606846976", "-1", "\"2\"", "null"] {
            assert_eq!(record(names), None, "{names}");
        }
        assert_eq!(FirstPart::decode(br#"{"version":2,"names":2,"ctime":1,"paths":[]}"#), None);
        assert_eq!(FirstPart::decode(&vec![b' '; MAX_PART_BYTES + 1]), None);
        let odd = br#"{"version":1,"paths":["a",7,"","/b","c//d","e/.."]}"#;
        assert_eq!(decode_part(odd), [DrivePath::parse("a").unwrap()]);
        let many: Vec<String> = (0..99).map(|n| format!("\"{n}\"")).collect();
        let many = format!(r#"{{"version":1,"paths":[{}]}}"#, many.join(","));
        assert_eq!(decode_part(many.as_bytes()).len(), NAMES_PER_PART);
        for text in ["", "+1", &"g".repeat(32), &"1".repeat(33), "+1111111111111111111111111111111"]
        {
            assert_eq!(LinkId::from_hex(text), None, "{text}");
        }
    }
}
