//! Local paths as text, for JSON and queries: a path is any bytes, and JSON has only Unicode.
//!
//! A path in UTF-8 is written as it is. A path that is not UTF-8, or that begins with `bytes:`, is written
//! as `bytes:` and its bytes in hex digits. For a field: `#[serde(with = "crate::path_text")]`.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serializer};

const BYTES: &str = "bytes:";

pub fn encode(path: &Path) -> String {
    match path.to_str() {
        Some(text) if !text.starts_with(BYTES) => text.to_owned(),
        _ => {
            let digits = path.as_os_str().as_bytes().iter().map(|byte| format!("{byte:02x}"));
            format!("{BYTES}{}", digits.collect::<String>())
        }
    }
}

/// The path that a text stands for; `None` if the text after `bytes:` is not pairs of hex digits.
pub fn decode(text: &str) -> Option<PathBuf> {
    let Some(digits) = text.strip_prefix(BYTES) else { return Some(PathBuf::from(text)) };
    let bytes = digits.as_bytes().chunks(2).map(|pair| {
        let pair = std::str::from_utf8(pair).ok().filter(|pair| pair.len() == 2)?;
        // from_str_radix also accepts a sign.
        u8::from_str_radix(pair, 16).ok().filter(|_| !pair.starts_with('+'))
    });
    let bytes: Option<Vec<u8>> = bytes.collect();
    bytes.map(|bytes| PathBuf::from(OsString::from_vec(bytes)))
}

pub fn serialize<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&encode(path))
}

pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<PathBuf, D::Error> {
    let text = String::deserialize(deserializer)?;
    decode(&text).ok_or_else(|| D::Error::custom(format!("{text:?} is no path")))
}

/// A path that may be absent.
pub mod optional {
    use super::*;

    pub fn serialize<S: Serializer>(
        path: &Option<PathBuf>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match path {
            Some(path) => super::serialize(path, serializer),
            None => serializer.serialize_none(),
        }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<PathBuf>, D::Error> {
        let text = Option::<String>::deserialize(deserializer)?;
        let wrong = |text: &String| D::Error::custom(format!("{text:?} is no path"));
        text.map(|text| decode(&text).ok_or_else(|| wrong(&text))).transpose()
    }
}

/// Any number of paths.
pub mod list {
    use super::*;
    use serde::ser::SerializeSeq;

    pub fn serialize<S: Serializer>(paths: &[PathBuf], serializer: S) -> Result<S::Ok, S::Error> {
        let mut list = serializer.serialize_seq(Some(paths.len()))?;
        for path in paths {
            list.serialize_element(&encode(path))?;
        }
        list.end()
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<PathBuf>, D::Error> {
        let texts = Vec::<String>::deserialize(deserializer)?;
        let wrong = |text: &String| D::Error::custom(format!("{text:?} is no path"));
        texts.into_iter().map(|text| decode(&text).ok_or_else(|| wrong(&text))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, serde::Serialize, Deserialize)]
    struct Fields {
        #[serde(with = "crate::path_text")]
        one: PathBuf,
        #[serde(with = "crate::path_text::optional")]
        maybe: Option<PathBuf>,
        #[serde(with = "crate::path_text::list")]
        many: Vec<PathBuf>,
    }

    #[test]
    fn every_path_survives_json_and_utf8_stays_readable() {
        let odd = PathBuf::from(OsString::from_vec(b"/mnt/Bilder-\xfc \n".to_vec()));
        let taken = PathBuf::from("bytes:41");
        for path in [odd, taken, "/mnt/ü".into(), "".into()] {
            let fields =
                Fields { one: path.clone(), maybe: Some(path.clone()), many: vec![path.clone()] };
            let text = serde_json::to_string(&fields).unwrap();
            assert_eq!(serde_json::from_str::<Fields>(&text).unwrap(), fields, "{text}");
        }
        assert_eq!(encode(Path::new("/mnt/ü")), "/mnt/ü");
        assert_eq!(encode(Path::new(&OsString::from_vec(vec![b'/', 0xfc]))), "bytes:2ffc");
        for wrong in ["bytes:f", "bytes:zz", "bytes:+1", "bytes:ü"] {
            assert_eq!(decode(wrong), None, "{wrong}");
        }
    }
}
