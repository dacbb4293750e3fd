//! What is kept of a file in the metadata of its entry, which the format leaves to programs: the time, as others keep it,
//! and in one member of our own what they have no place for (docs/format/hyperbee.md §9).
//!
//! ```text
//! {"mtime":1700000000123,"hypermount":{"version":1,"mode":33188,"uid":1000,"gid":1000,"ctime":1700000000123,
//!  "exact":{"mtime":[1700000000,123456789],"atime":[1700000000,0]},"device":[1,3],"holes":65536,"attributes":[["user.a","YmFzZTY0"]]}}
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
use crate::stat::{Device, Exact, Foreign, Stat};
use crate::time::Time;

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
    /// The coarse one.
    pub(super) ctime: u64,
    pub(super) exact: Exact,
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
        exact: exact(&own),
        attributes: stored.iter().take(MAX_ATTRIBUTES).filter_map(attribute).collect(),
        link: own.get("link").and_then(Value::as_str).and_then(LinkId::from_hex),
    })
}

/// The exact times, the numbers of a device, and how many bytes are holes; what makes no sense is left out.
fn exact(own: &Value) -> Exact {
    let times = own.get("exact");
    let time = |name: &str| {
        let pair = times?.get(name)?;
        Time::new(pair.get(0)?.as_i64()?, u32::try_from(pair.get(1)?.as_u64()?).ok()?)
    };
    let device = || {
        let number = |at: usize| u32::try_from(own.get("device")?.get(at)?.as_u64()?).ok();
        Some(Device { major: number(0)?, minor: number(1)? })
    };
    let holes = own.get("holes").and_then(Value::as_u64).unwrap_or(0);
    let [mtime, ctime, atime] = ["mtime", "ctime", "atime"].map(time);
    Exact { mtime, ctime, atime, device: device(), holes }
}

/// [`exact()`] as members, each after a comma.
fn encode_exact(exact: &Exact) -> String {
    let times = [("mtime", exact.mtime), ("ctime", exact.ctime), ("atime", exact.atime)];
    let times: Vec<String> = times
        .into_iter()
        .filter_map(|(name, time)| {
            let time = time?;
            Some(format!(r#""{name}":[{},{}]"#, time.seconds(), time.nanoseconds()))
        })
        .collect();
    let mut json = String::new();
    if !times.is_empty() {
        json += &format!(r#","exact":{{{}}}"#, times.join(","));
    }
    if let Some(Device { major, minor }) = exact.device {
        json += &format!(r#","device":[{major},{minor}]"#);
    }
    if exact.holes > 0 {
        json += &format!(r#","holes":{}"#, exact.holes);
    }
    json
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
    let Stat { mode, uid, gid, .. } = stat;
    let (mtime, ctime) = (stat.mtime.coarse(), stat.ctime.coarse());
    let exact = Exact::of(stat).map(|exact| encode_exact(&exact)).unwrap_or_default();
    let mut json = format!(
        r#"{{"{MTIME}":{mtime},"{MEMBER}":{{"version":{VERSION},"mode":{mode},"uid":{uid},"gid":{gid},"ctime":{ctime}{exact}{link}{attributes}}}"#
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
            mtime: Time::from_milliseconds(1_700_000_000_123),
            ctime: Time::from_milliseconds(1_700_000_000_456),
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
            exact: Exact::default(),
            attributes,
            link: None,
        };
        assert_eq!(kept(&encoded), Some(expected));
        assert_eq!(foreign(&encoded, &BTreeMap::new()), None);
    }

    #[test]
    fn exact_times_and_devices_are_read_again_and_nonsense_is_left_out() {
        let time = Time::new;
        let odd = Stat {
            mode: 0o020_600,
            mtime: time(-2, 5).unwrap(),
            ctime: time(1_700_000_000, 456_000_001).unwrap(),
            atime: time(9, 0),
            device: Some(Device { major: 1, minor: 3 }),
            ..Stat::default()
        };
        let encoded = encode(&odd);
        assert_eq!(
            encoded,
            r#"{"mtime":0,"hypermount":{"version":1,"mode":8576,"uid":0,"gid":0,"ctime":1700000000456,"exact":{"mtime":[-2,5],"ctime":[1700000000,456000001],"atime":[9,0]},"device":[1,3]}}"#
        );
        assert_eq!(kept(&encoded).map(|kept| kept.exact), Exact::of(&odd));
        for (member, exact) in [
            (r#""exact":{"mtime":[1,1000000000],"ctime":["1",2],"atime":[1]}"#, Exact::default()),
            (r#""exact":[1],"device":[1]"#, Exact::default()),
            (
                r#""exact":{"atime":[1,2]},"device":[-1,4294967296]"#,
                Exact { atime: time(1, 2), ..Exact::default() },
            ),
        ] {
            let metadata =
                format!(r#"{{"hypermount":{{"version":1,"mode":1,"ctime":1,{member}}}}}"#);
            assert_eq!(kept(&metadata).unwrap().exact, exact, "{member}");
        }
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
