//! Which drive is meant: by a command line, by a path in a mount, by a request to the API.
//!
//! A [`Target`] is what was named, a [`Location`] the store and the drive in it, and
//! [`Target::resolve`] finds the key in the opened store. Not here: opening the drive (`session.rs`).

mod in_mount;
mod location;
mod resolve;
mod with_path;

pub use in_mount::{drive_of_mount, drive_or_mount};
pub use location::{Location, check_store, may_create};
pub use with_path::TargetPath;

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use clap::builder::{OsStringValueParser, TryMapValueParser, TypedValueParser, ValueParserFactory};
use hypermount_core::StoreKind;
use hypermount_drive::DriveUrl;

use crate::failure::{Context, Failure, Result};

/// The API's name for the only drive of a store, or for its default drive.
pub const ONLY: &str = "-";

/// A drive as it was named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    Url(DriveUrl),
    /// The only or the default drive of the store in this directory.
    Directory(PathBuf),
    /// The drive of that name in the store: its key derives from the name.
    Name(String),
}

impl FromStr for Target {
    type Err = hypermount_core::Error;

    /// Text with a scheme and a bare key are URLs. Text with a slash, and the name of a store directory,
    /// are paths. Any other word is the name of a drive, even if a directory has that name, because
    /// `mount notes notes` is the common case. Every directory can be written as `./…`.
    fn from_str(text: &str) -> hypermount_core::Result<Self> {
        if DriveUrl::resembles(text) {
            return text.parse().map(Target::Url);
        }
        if text.is_empty() {
            let expected = "expected hyper://KEY, a name or a directory";
            return Err(hypermount_core::Error::InvalidUrl(expected.into()));
        }
        let here = Path::new(text);
        let is_store = matches!(text, "." | "..") || StoreKind::of(here).is_some();
        if !text.contains('/') && !is_store {
            return Ok(Target::Name(text.to_owned()));
        }
        Ok(Target::Directory(here.to_owned()))
    }
}

impl Target {
    /// As [`Target::from_str`], for an argument that may not be UTF-8 and is a path then.
    pub fn of_argument(argument: OsString) -> hypermount_core::Result<Self> {
        match argument.to_str() {
            Some(text) => text.parse(),
            None => Ok(Target::Directory(argument.into())),
        }
    }

    /// The drive that a request to the daemon of the store in `directory` names.
    pub fn of_request(drive: &str, directory: &Path) -> Result<Self> {
        if drive == ONLY {
            return Ok(Target::Directory(directory.to_owned()));
        }
        let what = || format!("find the drive {drive}");
        match drive.parse::<Target>().context(what)? {
            Target::Directory(path) if path != directory => {
                Err(Failure::usage(what(), "it is neither a URL nor the name of a drive")
                    .hint("name the drive by its URL or by the name it was created with"))
            }
            target => Ok(target),
        }
    }

    /// Whether the drive is named by its key, so that it need not be in the store.
    pub fn is_url(&self) -> bool {
        matches!(self, Target::Url(_))
    }
}

impl ValueParserFactory for Target {
    type Parser =
        TryMapValueParser<OsStringValueParser, fn(OsString) -> hypermount_core::Result<Self>>;

    fn value_parser() -> Self::Parser {
        OsStringValueParser::new().try_map(Self::of_argument)
    }
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
        let id = "3aiba5zh1ze7gx16f5w4ayfb6bik1bx3k697ggcea5jo46j5g6cy";
        assert_eq!(id.parse::<Target>().unwrap(), KEY.parse().unwrap());
        assert_eq!(format!("pear://{id}").parse::<Target>().unwrap(), KEY.parse().unwrap());
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
