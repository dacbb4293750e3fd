//! The value of a drive's nodes: a `Stat`, byte for byte as the reference writes it
//! (hyperdrive10.md §3).
//!
//! Numbers are kept as stored, however senseless: readers check an extent against the core it is
//! in. Only what would take memory without bound is limited here.

use bytes::Bytes;
use prost::Message;

use super::exact;
use crate::link::{Link, LinkId};
use crate::stat::{Exact, Extent, MountTarget, Stat};
use crate::time::Time;
use hypermount_core::{Error, Result};
use hypermount_swarm::crypto::PublicKey;

/// Longest encoded stat in bytes. A Linux file has at most 64 KiB of attribute names and 64 KiB
/// for each value.
pub(crate) const MAX_STAT_BYTES: usize = 1024 * 1024;
/// Most extended attributes of one entry; further ones are left out.
pub(crate) const MAX_ATTRIBUTES: usize = 4096;

/// The name in the metadata under which the id of a file with several names is (docs/format/links.md).
const LINK: &[u8] = b"user.hypermount.link";

#[derive(Clone, PartialEq, Message)]
struct StatMessage {
    #[prost(uint32, optional, tag = "1")]
    mode: Option<u32>,
    #[prost(uint32, optional, tag = "2")]
    uid: Option<u32>,
    #[prost(uint32, optional, tag = "3")]
    gid: Option<u32>,
    #[prost(uint64, optional, tag = "4")]
    size: Option<u64>,
    #[prost(uint64, optional, tag = "5")]
    blocks: Option<u64>,
    #[prost(uint64, optional, tag = "6")]
    offset: Option<u64>,
    #[prost(uint64, optional, tag = "7")]
    byte_offset: Option<u64>,
    #[prost(uint64, optional, tag = "8")]
    mtime: Option<u64>,
    #[prost(uint64, optional, tag = "9")]
    ctime: Option<u64>,
    /// Text here and below is read as bytes: one name that is not UTF-8 must not cost the entry.
    #[prost(bytes = "vec", optional, tag = "10")]
    linkname: Option<Vec<u8>>,
    #[prost(message, optional, tag = "11")]
    mount: Option<MountMessage>,
    #[prost(message, repeated, tag = "12")]
    metadata: Vec<AttributeMessage>,
}

#[derive(Clone, PartialEq, Message)]
struct MountMessage {
    #[prost(bytes = "vec", required, tag = "1")]
    key: Vec<u8>,
    #[prost(uint64, optional, tag = "2")]
    version: Option<u64>,
    /// Reserved by the reference for the mounted drive's hash; nothing sets or checks it.
    #[prost(bytes = "vec", optional, tag = "3")]
    hash: Option<Vec<u8>>,
    #[prost(bool, optional, tag = "4")]
    hypercore: Option<bool>,
}

#[derive(Clone, PartialEq, Message)]
struct AttributeMessage {
    #[prost(bytes = "vec", optional, tag = "1")]
    name: Option<Vec<u8>>,
    #[prost(bytes = "vec", optional, tag = "2")]
    value: Option<Vec<u8>>,
}

impl AttributeMessage {
    fn is(&self, name: &str) -> bool {
        self.name.as_deref() == Some(name.as_bytes())
    }
}

/// Reads a stat. What a mount's `hash` says is not kept.
pub(crate) fn decode(value: &[u8]) -> Result<Stat> {
    if value.len() > MAX_STAT_BYTES {
        return Err(Error::Malformed(format!("a stat of {} bytes", value.len())));
    }
    let message = StatMessage::decode(value)
        .map_err(|_| Error::Malformed("an entry whose stat cannot be read".into()))?;
    let mode =
        message.mode.ok_or_else(|| Error::Malformed("an entry whose stat has no mode".into()))?;
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    let is_link = |attribute: &&AttributeMessage| attribute.name.as_deref() == Some(LINK);
    let link = message.metadata.iter().find(is_link);
    let link = link.and_then(|link| LinkId::from_slice(link.value.as_deref()?)).map(Link::unread);
    let others = message.metadata.into_iter().filter(|attribute| !is_link(&attribute));
    let attribute =
        |attribute: AttributeMessage| (text(attribute.name.unwrap_or_default()), attribute.value);
    let (own, attributes): (Vec<_>, Vec<_>) = others.partition(|member| member.is(exact::MEMBER));
    let exact = own.last().and_then(|member| member.value.as_deref());
    let exact = exact.map(exact::decode).unwrap_or_default();
    Ok(Stat {
        mode,
        uid: message.uid.unwrap_or(0),
        gid: message.gid.unwrap_or(0),
        extent: Extent {
            block: message.offset.unwrap_or(0),
            blocks: message.blocks.unwrap_or(0),
            byte: message.byte_offset.unwrap_or(0),
            size: message.size.unwrap_or(0),
            map_size: 0,
            holes: exact.holes,
            fork: 0,
        },
        mtime: Time::of_coarse(message.mtime.unwrap_or(0), exact.mtime),
        ctime: Time::of_coarse(message.ctime.unwrap_or(0), exact.ctime),
        atime: exact.atime,
        device: exact.device,
        linkname: message.linkname.filter(|target| !target.is_empty()).map(text),
        mount: message.mount.map(decode_mount).transpose()?,
        attributes: attributes.into_iter().take(MAX_ATTRIBUTES).map(attribute).collect(),
        link,
        foreign: None,
    })
}

fn decode_mount(mount: MountMessage) -> Result<MountTarget> {
    let key = PublicKey::from_slice(&mount.key)
        .ok_or_else(|| Error::Malformed(format!("a mount key of {} bytes", mount.key.len())))?;
    Ok(MountTarget {
        key,
        version: mount.version.filter(|version| *version > 0),
        core: mount.hypercore.unwrap_or(false),
    })
}

/// The bytes the reference writes for this stat.
///
/// # Errors
/// `TooLarge` for more than 1 MiB or more than 4096 attributes.
pub fn encode(stat: &Stat) -> Result<Bytes> {
    let attribute = |(name, value): &(String, Option<Vec<u8>>)| AttributeMessage {
        name: Some(name.clone().into_bytes()),
        value: value.clone(),
    };
    let link = stat.link.map(|link| AttributeMessage {
        name: Some(LINK.to_vec()),
        value: Some(link.id.as_bytes().to_vec()),
    });
    let exact = Exact::of(stat).map(|exact| AttributeMessage {
        name: Some(exact::MEMBER.as_bytes().to_vec()),
        value: Some(exact::encode(&exact)),
    });
    let message = StatMessage {
        mode: Some(stat.mode),
        uid: Some(stat.uid),
        gid: Some(stat.gid),
        size: Some(stat.extent.size),
        blocks: Some(stat.extent.blocks),
        offset: Some(stat.extent.block),
        byte_offset: Some(stat.extent.byte),
        mtime: Some(stat.mtime.coarse()),
        ctime: Some(stat.ctime.coarse()),
        linkname: stat.linkname.clone().filter(|target| !target.is_empty()).map(String::into_bytes),
        mount: stat.mount.as_ref().map(|target| MountMessage {
            key: target.key.as_bytes().to_vec(),
            version: target.version,
            hash: None,
            hypercore: Some(target.core),
        }),
        metadata: link
            .into_iter()
            .chain(stat.attributes.iter().map(attribute))
            .chain(exact)
            .collect(),
    };
    let bytes = Bytes::from(message.encode_to_vec());
    if bytes.len() > MAX_STAT_BYTES || stat.attributes.len() > MAX_ATTRIBUTES {
        return Err(Error::TooLarge("the extended attributes of one entry".into()));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::trie::vectors;
    use serde_json::Value;

    fn stat_of(vector: &Value) -> Stat {
        let number = |field: &str| vector[field].as_u64().unwrap();
        let bytes = |value: &Value| hex::decode(value.as_str().unwrap()).unwrap();
        let mount = vector["mount"].as_object().map(|mount| MountTarget {
            key: PublicKey::from_slice(&bytes(&mount["key"])).unwrap(),
            version: mount.get("version").and_then(Value::as_u64),
            core: mount["hypercore"].as_bool().unwrap(),
        });
        Stat {
            mode: number("mode") as u32,
            uid: number("uid") as u32,
            gid: number("gid") as u32,
            extent: Extent {
                block: number("offset"),
                blocks: number("blocks"),
                byte: number("byteOffset"),
                size: number("size"),
                map_size: 0,
                holes: 0,
                fork: 0,
            },
            mtime: Time::from_milliseconds(number("mtime")),
            ctime: Time::from_milliseconds(number("ctime")),
            atime: None,
            device: None,
            linkname: vector["linkname"].as_str().map(str::to_owned),
            mount,
            attributes: Vec::new(),
            link: None,
            foreign: None,
        }
    }

    #[test]
    fn recorded_stats_are_read_and_written_byte_for_byte() {
        let vectors = vectors::load("stat.json");
        for vector in vectors["stats"].as_array().unwrap() {
            let encoded = hex::decode(vector["encoded"].as_str().unwrap()).unwrap();
            let stat = decode(&encoded).unwrap();
            let mut expected = stat_of(vector);
            let mut attributes = stat.attributes.clone();
            for (name, value) in vector["metadata"].as_object().into_iter().flatten() {
                let value = value.as_str().map(|value| hex::decode(value).unwrap());
                let stored = attributes.iter().position(|stored| stored.0 == *name).unwrap();
                assert_eq!(attributes.remove(stored).1, value);
            }
            assert!(attributes.is_empty());
            expected.attributes = stat.attributes.clone();
            assert_eq!(stat, expected, "{}", vector["what"]);
            if vector["mount"]["hash"].is_null() {
                assert_eq!(encode(&stat).unwrap(), encoded, "{}", vector["what"]);
            }
            let message = StatMessage::decode(&encoded[..]).unwrap();
            assert_eq!(message.encode_to_vec(), encoded, "{}", vector["what"]);
        }
    }

    #[test]
    fn stats_reencoded_by_the_reference_decode_to_the_same_values() {
        let vectors = vectors::load("stat.json");
        let (first, again) = (&vectors["stats"], &vectors["reencoded"]);
        for (first, again) in first.as_array().unwrap().iter().zip(again.as_array().unwrap()) {
            let decoded =
                |vector: &Value| decode(&hex::decode(vector["encoded"].as_str().unwrap()).unwrap());
            assert_eq!(decoded(first).unwrap(), decoded(again).unwrap());
        }
    }

    /// Sentence 140. "Where another program changed the times of an entry, they are its, to the millisecond"
    #[test]
    fn times_that_another_program_wrote_count() {
        let exact = |seconds, rest| Time::new(seconds, rest).unwrap();
        let stat = Stat {
            mtime: exact(7, 1_000_001),
            ctime: exact(8, 1_000_001),
            atime: Some(exact(9, 1)),
            attributes: vec![("user.a".into(), Some(vec![1]))],
            ..Stat::default()
        };
        let ours = encode(&stat).unwrap();
        assert_eq!(decode(&ours).unwrap(), stat);
        let mut message = StatMessage::decode(&ours[..]).unwrap();
        assert_eq!((message.mtime, message.ctime), (Some(7001), Some(8001)));
        assert_eq!(message.metadata.len(), 2, "one more, which is ours");
        message.mtime = Some(7002);
        let changed = decode(&message.encode_to_vec()).unwrap();
        assert_eq!(changed, Stat { mtime: exact(7, 2_000_000), ..stat.clone() });
        // Ours need not be the last, nor be sensible.
        message.metadata.rotate_left(1);
        assert_eq!(decode(&message.encode_to_vec()).unwrap(), changed);
        message.metadata[0].value = Some(b"nonsense".to_vec());
        let plain = Stat { ctime: exact(8, 1_000_000), atime: None, ..changed };
        assert_eq!(decode(&message.encode_to_vec()).unwrap(), plain);
    }

    /// Sentence 112. "Other programs see 1970-01-01 for a time before it."
    #[test]
    fn other_programs_read_1970_for_earlier_times() {
        let stat = Stat { mtime: Time::new(-9, 5).unwrap(), ..Stat::default() };
        let message = StatMessage::decode(&encode(&stat).unwrap()[..]).unwrap();
        assert_eq!(message.mtime, Some(0));
        assert_eq!(decode(&message.encode_to_vec()).unwrap(), stat);
    }

    #[test]
    fn whole_milliseconds_need_no_member() {
        let at = Time::from_milliseconds(1_700_000_000_123);
        let stat = Stat { mtime: at, ctime: at, ..Stat::default() };
        let message = StatMessage::decode(&encode(&stat).unwrap()[..]).unwrap();
        assert!(message.metadata.is_empty());
    }

    #[test]
    fn attributes_keep_their_order() {
        let attributes = ["b", "a", "c"].map(|name| (name.to_owned(), Some(vec![1])));
        let stat = Stat { attributes: attributes.to_vec(), ..Stat::default() };
        assert_eq!(decode(&encode(&stat).unwrap()).unwrap(), stat);
    }

    #[test]
    fn senseless_stats_are_refused_or_bounded() {
        assert!(matches!(decode(b""), Err(Error::Malformed(_))));
        assert!(matches!(decode(&[0xff; 20]), Err(Error::Malformed(_))));
        assert!(matches!(decode(&vec![0; MAX_STAT_BYTES + 1]), Err(Error::Malformed(_))));
        let short = MountMessage { key: vec![1; 5], ..MountMessage::default() };
        let message = StatMessage { mode: Some(0), mount: Some(short), ..StatMessage::default() };
        assert!(matches!(decode(&message.encode_to_vec()), Err(Error::Malformed(_))));
    }

    #[test]
    fn attributes_are_limited_in_number_and_size() {
        let stat = |count: usize, size: usize| Stat {
            attributes: vec![("n".into(), Some(vec![0; size])); count],
            ..Stat::default()
        };
        assert!(encode(&stat(MAX_ATTRIBUTES, 1)).is_ok());
        assert!(matches!(encode(&stat(MAX_ATTRIBUTES + 1, 1)), Err(Error::TooLarge(_))));
        assert!(matches!(encode(&stat(1, MAX_STAT_BYTES)), Err(Error::TooLarge(_))));
        let attribute = AttributeMessage { name: Some(b"n".to_vec()), value: None };
        let metadata = vec![attribute; MAX_ATTRIBUTES + 1];
        let message = StatMessage { mode: Some(0), metadata, ..StatMessage::default() };
        assert_eq!(decode(&message.encode_to_vec()).unwrap().attributes.len(), MAX_ATTRIBUTES);
    }
}
