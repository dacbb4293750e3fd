//! `hyper://KEY[+<version>][/path]`: the one line people share. The key is in hex or in z-base-32; links of Pear
//! begin with `pear://`.

use std::fmt;
use std::str::FromStr;

use crate::escape::escape_path;
use crate::key_id;
use crate::path::DrivePath;
use hypermount_core::{Error, Result};
use hypermount_swarm::crypto::PublicKey;

const SCHEME: &str = "hyper://";
/// The schemes that are read; the first is the one that is written.
const SCHEMES: [&str; 2] = [SCHEME, "pear://"];
const KEY_DIGITS: usize = 64;
/// Longest text that is looked at, in bytes: a path of the greatest length, every byte escaped,
/// and the rest.
const MAX_URL_BYTES: usize = 3 * crate::path::MAX_PATH_BYTES + 128;

/// `hyper://KEY[+VERSION][/PATH]`: a drive, or a path in it. The key has 64 hexadecimal digits, or 52 characters
/// of z-base-32.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DriveUrl {
    /// Of the drive.
    pub key: PublicKey,
    /// A frozen version: the metadata core's length. `None` follows the newest.
    pub version: Option<u64>,
    /// In the drive; the root if the URL has none.
    pub path: DrivePath,
}

impl FromStr for DriveUrl {
    type Err = Error;

    /// Takes the URL with or without scheme, in either case, with space around it; the path may
    /// be percent-encoded.
    fn from_str(text: &str) -> Result<Self> {
        let text = text.trim();
        if text.len() > MAX_URL_BYTES {
            return Err(Error::InvalidUrl(format!("{} bytes are too long for a URL", text.len())));
        }
        let rest = strip_scheme(text)?;
        let (authority, path) = match rest.split_once('/') {
            Some((authority, path)) => (authority, path),
            None => (rest, ""),
        };
        let (key, version) = match authority.split_once('+') {
            Some((key, version)) => (key, Some(parse_version(version)?)),
            None => (authority, None),
        };
        let key = parse_key(key)?;
        let path = DrivePath::parse(&percent_decode(path)?)
            .map_err(|error| Error::InvalidUrl(format!("the path in the URL: {error}")))?;
        Ok(Self { key, version, path })
    }
}

fn strip_scheme(text: &str) -> Result<&str> {
    for scheme in SCHEMES {
        let start = text.get(..scheme.len());
        if start.is_some_and(|start| start.eq_ignore_ascii_case(scheme)) {
            return Ok(&text[scheme.len()..]);
        }
    }
    match text.split_once("://").or_else(|| text.split_once(':')) {
        Some((scheme, _)) if scheme.chars().all(|c| c.is_ascii_alphanumeric()) => {
            Err(Error::InvalidUrl(format!("{scheme}: is another scheme; expected {EXPECTED}")))
        }
        _ => Ok(text),
    }
}

const EXPECTED: &str =
    "hyper://<64 hex digits, or 52 letters and digits of z-base-32>[+<version>][/path]";

impl DriveUrl {
    /// Whether the text is a link, or begins with a key: no path and no name is meant then.
    pub fn resembles(text: &str) -> bool {
        let key = text.split(['/', '+']).next().unwrap_or_default();
        let is_hex = key.len() == KEY_DIGITS && key.bytes().all(|byte| byte.is_ascii_hexdigit());
        text.contains("://") || is_hex || key_id::resembles(key)
    }
}

fn parse_key(text: &str) -> Result<PublicKey> {
    if let Some(key) = PublicKey::from_hex(text).or_else(|| key_id::parse(text)) {
        return Ok(key);
    }
    let problem = if text.is_empty() {
        "there is no key".to_owned()
    } else if key_id::resembles(text) {
        "the last letter of the key is none that a key ends with".to_owned()
    } else if text.len() == key_id::LENGTH && text.bytes().all(|c| c.is_ascii_alphanumeric()) {
        "the key has letters that z-base-32 does not have (0, 2, l, v)".to_owned()
    } else if text.contains('.') {
        "a link of Pear with a fork and a length is not read; leave both off".to_owned()
    } else if text.chars().all(|c| c.is_ascii_hexdigit()) {
        format!("the key has {} of {KEY_DIGITS} hex digits", text.len())
    } else {
        "the key is not 64 hex digits".to_owned()
    };
    Err(Error::InvalidUrl(format!("{problem}; expected {EXPECTED}")))
}

fn parse_version(text: &str) -> Result<u64> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|version| digits && *version > 0).ok_or_else(|| {
        Error::InvalidUrl(format!("{text:?} is not a version; expected a number from 1 up"))
    })
}

fn percent_decode(text: &str) -> Result<String> {
    let bad = || Error::InvalidUrl("a % in the path is not followed by two hex digits".into());
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || rest.next().and_then(|byte| char::from(byte).to_digit(16));
        let (high, low) = (digit().ok_or_else(bad)?, digit().ok_or_else(bad)?);
        bytes.push((high << 4 | low) as u8);
    }
    // Text is what a drive stores; of other bytes it stores the escape.
    Ok(String::from_utf8(bytes).unwrap_or_else(|error| escape_path(error.as_bytes()).into_owned()))
}

/// The whole URL in its canonical form, key included: it is printed only on request.
impl fmt::Display for DriveUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}", self.key.to_hex())?;
        if let Some(version) = self.version {
            write!(f, "+{version}")?;
        }
        if !self.path.is_root() {
            f.write_str("/")?;
        }
        for byte in self.path.as_str().bytes() {
            match byte {
                b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'/' | b'-' | b'.' | b'_' | b'~' => {
                    write!(f, "{}", char::from(byte))?;
                }
                _ => write!(f, "%{byte:02X}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KEY: &str = "ce2a1c6efc95d1d33e5e2ee9ac00a1f06aa905f957bfd31988c6d30d793b3798";
    const ID: &str = "3aiba5zh1ze7gx16f5w4ayfb6bik1bx3k697ggcea5jo46j5g6cy";

    fn url(version: Option<u64>, path: &str) -> DriveUrl {
        let key = PublicKey::from_hex(KEY).unwrap();
        DriveUrl { key, version, path: DrivePath::parse(path).unwrap() }
    }

    #[test]
    fn every_accepted_spelling_of_a_url_is_parsed() {
        let upper = KEY.to_uppercase();
        for (text, expected) in [
            (format!("hyper://{KEY}"), url(None, "")),
            (format!("hyper://{KEY}/"), url(None, "")),
            (format!("  hyper://{KEY}/\n"), url(None, "")),
            (format!("HYPER://{upper}"), url(None, "")),
            (KEY.to_owned(), url(None, "")),
            (format!("{KEY}/a/b"), url(None, "a/b")),
            (format!("hyper://{KEY}+28"), url(Some(28), "")),
            (format!("hyper://{KEY}+28/a%20b/%C3%BC/"), url(Some(28), "a b/ü")),
            (format!("hyper://{KEY}/ünï//x"), url(None, "ünï/x")),
            (format!("{KEY}/c+d"), url(None, "c+d")),
            (ID.to_owned(), url(None, "")),
            (format!("hyper://{ID}"), url(None, "")),
            (format!("hyper://{}+28/a", ID.to_uppercase()), url(Some(28), "a")),
            (format!("{ID}+28/a/b"), url(Some(28), "a/b")),
            (format!("pear://{ID}/a/b"), url(None, "a/b")),
            (format!("PEAR://{KEY}+3"), url(Some(3), "")),
        ] {
            assert_eq!(text.parse::<DriveUrl>().unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn other_texts_are_refused_with_what_was_expected() {
        let (padded, letters) = ("b".repeat(52), "l".repeat(52));
        let long = format!("{KEY}/{}", "a".repeat(MAX_URL_BYTES));
        for (text, says) in [
            ("", "no key"),
            ("hyper://", "no key"),
            (&KEY[1..], "63 of 64"),
            (&format!("{KEY}0"), "65 of 64"),
            (&format!("{}g", &KEY[1..]), "not 64 hex"),
            (&format!("dat://{KEY}"), "dat: is another scheme; expected hyper://"),
            (&format!("https://{KEY}"), "expected hyper://"),
            (&format!("hyper:{KEY}"), "expected hyper://"),
            (&format!("hyper://{padded}"), "last letter"),
            (&format!("hyper://{letters}"), "(0, 2, l, v)"),
            (&ID[1..], "not 64 hex"),
            (&format!("pear://0.28.{ID}"), "leave both off"),
            (&format!("pear:{ID}"), "expected hyper://"),
            ("pear://keet", "not 64 hex"),
            (&format!("{KEY}+"), "not a version"),
            (&format!("{KEY}+0"), "from 1 up"),
            (&format!("{KEY}+-1"), "not a version"),
            (&format!("{KEY}++1"), "not a version"),
            (&format!("{KEY}+99999999999999999999"), "not a version"),
            (&format!("{KEY}/../x"), "the path"),
            (&format!("{KEY}/%2e%2e/x"), "the path"),
            (&format!("{KEY}/a%0"), "two hex"),
            (&format!("{KEY}/%00"), "the path"),
            (&long, "too long"),
        ] {
            match text.parse::<DriveUrl>() {
                Err(Error::InvalidUrl(message)) => assert!(message.contains(says), "{message}"),
                other => panic!("{text}: {other:?}"),
            }
        }
    }

    #[test]
    fn a_path_that_is_not_utf_8_is_its_escape() {
        let read = |path: &str| format!("{KEY}/{path}").parse::<DriveUrl>().unwrap();
        assert_eq!(read("d%ff/caf%E9").path.as_str(), "d␛FF/caf␛E9");
        // What is printed is the text, which other programs know.
        let printed = read("caf%E9").to_string();
        assert!(printed.ends_with("/caf%E2%90%9BE9"), "{printed}");
        assert_eq!(printed.parse::<DriveUrl>().unwrap(), read("caf%e9"));
    }

    proptest! {
        #[test]
        fn printing_and_reading_agree(
            key: [u8; 32],
            version in proptest::option::of(1u64..),
            names in proptest::collection::vec("[^/\0]{1,20}", 0..5),
        ) {
            let path = DrivePath::parse(&names.join("/"));
            prop_assume!(path.is_ok());
            let url = DriveUrl { key: PublicKey::new(key), version, path: path.unwrap() };
            prop_assert_eq!(url.to_string().parse::<DriveUrl>().unwrap(), url);
        }

        #[test]
        fn a_text_with_a_key_in_front_is_no_name(key: [u8; 32], rest in "([+/].*)?") {
            let key = PublicKey::new(key);
            for key in [key.to_hex(), key_id::key_id(&key)] {
                let text = format!("{key}{rest}");
                prop_assert!(DriveUrl::resembles(&text));
            }
        }

        #[test]
        fn no_text_panics(text: String) {
            let _ = DriveUrl::resembles(&text);
            let _ = text.parse::<DriveUrl>();
        }
    }
}
