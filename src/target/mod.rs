//! What a command line may name as a drive: a URL, the directory of a store, or the name of a drive
//! made in the store.

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use clap::builder::{OsStringValueParser, TryMapValueParser, TypedValueParser, ValueParserFactory};
use hypermount_drive::DriveUrl;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    Url(DriveUrl),
    /// The drive in this directory, whichever it is.
    Directory(PathBuf),
    /// The drive of that name in the store: its key derives from the name.
    Name(String),
}

impl FromStr for Target {
    type Err = hypermount_core::Error;

    /// Text with a scheme, or that is a bare key, is a URL; what has a slash or is a store here is a
    /// path; any other word is a name, even where a directory has it: `mount notes notes` is what people
    /// type. Every directory is still reachable as `./…`.
    fn from_str(text: &str) -> hypermount_core::Result<Self> {
        if text.contains("://") || looks_like_key(text) {
            return text.parse().map(Target::Url);
        }
        if text.is_empty() {
            let expected = "expected hyper://KEY, a name or a directory";
            return Err(hypermount_core::Error::InvalidUrl(expected.into()));
        }
        let here = Path::new(text);
        let is_store = matches!(text, "." | "..") || here.join("master_key").is_file();
        if !text.contains('/') && !is_store {
            return Ok(Target::Name(text.to_owned()));
        }
        Ok(Target::Directory(here.to_owned()))
    }
}

impl Target {
    /// As [`Target::from_str`], of an argument that need not be UTF-8: then only a path can be meant.
    pub fn of_argument(argument: OsString) -> hypermount_core::Result<Self> {
        match argument.to_str() {
            Some(text) => text.parse(),
            None => Ok(Target::Directory(argument.into())),
        }
    }
}

impl ValueParserFactory for Target {
    type Parser =
        TryMapValueParser<OsStringValueParser, fn(OsString) -> hypermount_core::Result<Self>>;

    fn value_parser() -> Self::Parser {
        OsStringValueParser::new().try_map(Self::of_argument)
    }
}

/// Whether the text begins with the 64 hex digits of a key.
fn looks_like_key(text: &str) -> bool {
    let key = text.split(['/', '+']).next().unwrap_or_default();
    key.len() == 64 && key.bytes().all(|byte| byte.is_ascii_hexdigit())
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Url(url) => write!(f, "hyper://{}", url.key),
            Target::Directory(directory) => write!(f, "{}", directory.display()),
            Target::Name(name) => f.write_str(name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "ce2a1c6efc95d1d33e5e2ee9ac00a1f06aa905f957bfd31988c6d30d793b3798";

    #[test]
    fn a_key_is_a_url_and_a_path_is_a_path() {
        assert!(matches!(format!("hyper://{KEY}/dir").parse(), Ok(Target::Url(_))));
        assert!(matches!(KEY.parse(), Ok(Target::Url(_))));
        for path in ["./drive", "/srv/drive", &format!("./{KEY}"), "."] {
            assert_eq!(path.parse::<Target>().unwrap(), Target::Directory(path.into()));
        }
    }

    #[test]
    fn a_word_is_a_name_even_of_a_directory_unless_that_is_a_store() {
        assert_eq!("notes".parse::<Target>().unwrap(), Target::Name("notes".into()));
        assert!(Path::new("src").is_dir());
        assert_eq!("src".parse::<Target>().unwrap(), Target::Name("src".into()));
    }

    #[test]
    fn a_broken_url_is_not_taken_for_a_directory() {
        assert!("hyper://ce2a".parse::<Target>().is_err());
        assert!("https://example.org/".parse::<Target>().is_err());
        assert!("".parse::<Target>().is_err());
    }
}
