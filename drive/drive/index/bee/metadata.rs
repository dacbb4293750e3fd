//! What is kept of a file in the metadata of its entry, which the format leaves to programs: the time, as others keep it,
//! and in one member of our own what they have no place for (docs/format/hyperbee.md §9).
//!
//! ```text
//! {"mtime":1700000000123,"hypermount":{"version":1,"mode":33188,"uid":1000,"gid":1000,"ctime":1700000000123,
//!  "attributes":[["user.a","YmFzZTY0"]]}}
//! ```
//!
//! Members of others are kept. Not here: times that other programs wrote (`time.rs`).

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD as STANDARD;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::link::LinkId;
use crate::stat::{Foreign, Stat};

/// Our member.
const MEMBER: &str = "hypermount";
/// The version that is written, and the only one that is read.
const VERSION: u64 = 1;
/// The member with the modification time in milliseconds since 1970.
const MTIME: &str = "mtime";
/// Most extended attributes of one entry; further ones are left out.
const MAX_ATTRIBUTES: usize = 4096;

/// What our member says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Kept {
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) ctime: u64,
    pub(super) attributes: Vec<(String, Option<Vec<u8>>)>,
    pub(super) link: Option<LinkId>,
}

fn members(metadata: &str) -> Option<BTreeMap<String, &RawValue>> {
    metadata.starts_with('{').then(|| serde_json::from_str(metadata).ok())?
}

/// Our member of this metadata; `None` if it has none that is understood here.
pub(super) fn kept(metadata: &str) -> Option<Kept> {
    let own: Value = serde_json::from_str(members(metadata)?.get(MEMBER)?.get()).ok()?;
    if own.get("version")?.as_u64()? != VERSION {
        return None;
    }
    let number = |name: &str| own.get(name).and_then(Value::as_u64);
    let small = |name: &str| number(name).and_then(|number| u32::try_from(number).ok());
    let stored = own.get("attributes").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let attribute = |pair: &Value| {
        let (name, value) = (pair.get(0)?.as_str()?, pair.get(1)?.as_str()?);
        Some((name.to_owned(), Some(STANDARD.decode(value).ok()?)))
    };
    Some(Kept {
        mode: small("mode")?,
        uid: small("uid").unwrap_or(0),
        gid: small("gid").unwrap_or(0),
        ctime: number("ctime")?,
        attributes: stored.iter().take(MAX_ATTRIBUTES).filter_map(attribute).collect(),
        link: own.get("link").and_then(Value::as_str).and_then(LinkId::from_hex),
    })
}

/// The members of others in this metadata, as stored.
pub(super) fn of_others(metadata: &str) -> BTreeMap<String, String> {
    let others = members(metadata).unwrap_or_default().into_iter();
    let others = others.filter(|(name, _)| name != MEMBER && name != MTIME);
    others.map(|(name, value)| (name, value.get().to_owned())).collect()
}

/// The metadata of an entry with this stat, as JSON.
pub(super) fn encode(stat: &Stat) -> String {
    let text = |text: &str| Value::from(text).to_string();
    let attribute = |(name, value): &(String, Option<Vec<u8>>)| {
        let value = value.as_deref().map(|value| STANDARD.encode(value))?;
        Some(format!("[{},{}]", text(name), text(&value)))
    };
    let attributes: Vec<String> = stat.attributes.iter().filter_map(attribute).collect();
    let attributes = match attributes.is_empty() {
        true => String::new(),
        false => format!(r#","attributes":[{}]"#, attributes.join(",")),
    };
    let link = stat.link.map(|link| format!(r#","link":"{}""#, link.id.to_hex()));
    let link = link.unwrap_or_default();
    let Stat { mode, uid, gid, mtime, ctime, .. } = stat;
    let mut json = format!(
        r#"{{"{MTIME}":{mtime},"{MEMBER}":{{"version":{VERSION},"mode":{mode},"uid":{uid},"gid":{gid},"ctime":{ctime}{link}{attributes}}}"#
    );
    for (name, value) in stat.foreign.iter().flat_map(|foreign| &foreign.metadata) {
        json += &format!(",{}:{value}", text(name));
    }
    json.push('}');
    json
}

/// What other programs stored in an entry, if they stored anything.
pub(super) fn foreign(metadata: &str, unknown: &BTreeMap<String, String>) -> Option<Arc<Foreign>> {
    let foreign = Foreign { metadata: of_others(metadata), members: unknown.clone() };
    (foreign != Foreign::default()).then(|| Arc::new(foreign))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stat() -> Stat {
        Stat {
            mode: 0o100_640,
            uid: 7,
            gid: 8,
            mtime: 1_700_000_000_123,
            ctime: 1_700_000_000_456,
            attributes: vec![
                ("user.a".into(), Some(vec![0, 255])),
                ("user.gone".into(), None),
                ("user.\"é".into(), Some(Vec::new())),
            ],
            ..Stat::default()
        }
    }

    #[test]
    fn what_is_kept_is_read_again() {
        let encoded = encode(&stat());
        assert_eq!(
            encoded,
            r#"{"mtime":1700000000123,"hypermount":{"version":1,"mode":33184,"uid":7,"gid":8,"ctime":1700000000456,"attributes":[["user.a","AP8="],["user.\"é",""]]}}"#
        );
        let mut attributes = stat().attributes;
        attributes.remove(1);
        let expected = Kept {
            mode: 0o100_640,
            uid: 7,
            gid: 8,
            ctime: 1_700_000_000_456,
            attributes,
            link: None,
        };
        assert_eq!(kept(&encoded), Some(expected));
        assert_eq!(foreign(&encoded, &BTreeMap::new()), None);
    }

    #[test]
    fn members_of_others_are_kept_as_stored() {
        let stored = r#"{"z":1.50,"mtime":5,"a":{"b":[1e3]}}"#;
        let unknown = BTreeMap::from([("later".to_owned(), "7".to_owned())]);
        let foreign = foreign(stored, &unknown);
        let encoded = encode(&Stat { foreign, ..stat() });
        assert!(encoded.ends_with(r#"},"a":{"b":[1e3]},"z":1.50}"#), "{encoded}");
        assert_eq!(of_others(&encoded), of_others(stored));
    }

    #[test]
    fn what_is_not_understood_is_none() {
        for metadata in [
            "null",
            "7",
            "{}",
            r#"{"hypermount":null}"#,
            r#"{"hypermount":{"version":2,"mode":1,"ctime":1}}"#,
            r#"{"hypermount":{"version":1,"mode":-1,"ctime":1}}"#,
            r#"{"hypermount":{"version":1,"mode":4294967296,"ctime":1}}"#,
        ] {
            assert_eq!(kept(metadata), None, "{metadata}");
        }
        let odd = r#"{"hypermount":{"version":1,"mode":1,"ctime":1,"attributes":[7,["a"],["a","*"],["b","AA=="]]}}"#;
        assert_eq!(kept(odd).unwrap().attributes, [("b".to_owned(), Some(vec![0]))]);
    }
}
