//! Which drive `list`, `import` and `export` speak of: one of a store by its name or URL, or the one
//! a directory holds, each with a path inside if wanted.

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use clap::builder::{OsStringValueParser, TryMapValueParser, TypedValueParser, ValueParserFactory};
use hypermount_drive::url::DriveUrl;
use hypermount_drive::{DrivePath, Name};

use crate::target::Target;

/// `NAME[/path]`, `hyper://KEY[/path]`, or the directory of a store and a path in its drive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NamedDrive {
    /// A drive of the store by the name it was created with.
    Name { name: String, path: DrivePath },
    /// By its key.
    Url(DriveUrl),
    /// The drive of a store directory, which may go on as a path inside that drive.
    Directory(PathBuf),
}

impl FromStr for NamedDrive {
    type Err = hypermount_core::Error;

    /// What leads into the directory of a store is one, and so is what begins with `/`, `./` or
    /// `../`; any other text that is no URL begins with a name.
    fn from_str(text: &str) -> hypermount_core::Result<Self> {
        if let Target::Url(url) = text.parse()? {
            return Ok(NamedDrive::Url(url));
        }
        let path = Path::new(text);
        if is_explicit(text) || split_store(path).is_some() {
            return Ok(NamedDrive::Directory(path.to_owned()));
        }
        let (name, path) = text.split_once('/').unwrap_or((text, ""));
        let name = Name::new(name)?.as_str().to_owned();
        Ok(NamedDrive::Name { name, path: DrivePath::parse(path)? })
    }
}

impl NamedDrive {
    /// As [`NamedDrive::from_str`], of an argument that need not be UTF-8: then only a path can be meant.
    fn of_argument(argument: OsString) -> hypermount_core::Result<Self> {
        match argument.to_str() {
            Some(text) => text.parse(),
            None => Ok(NamedDrive::Directory(argument.into())),
        }
    }
}

impl ValueParserFactory for NamedDrive {
    type Parser =
        TryMapValueParser<OsStringValueParser, fn(OsString) -> hypermount_core::Result<Self>>;

    fn value_parser() -> Self::Parser {
        OsStringValueParser::new().try_map(Self::of_argument)
    }
}

fn is_explicit(text: &str) -> bool {
    text.starts_with('/') || matches!(text.split('/').next(), Some("." | ".."))
}

/// Splits a path into the store directory it leads into and what is left of it. The innermost
/// directory with a master key counts.
pub fn split_store(path: &Path) -> Option<(PathBuf, String)> {
    // The last ancestor of a relative path is empty, and not what was named.
    let mut named = path.ancestors().filter(|directory| !directory.as_os_str().is_empty());
    let store = named.find(|directory| directory.join("master_key").is_file())?;
    let inside = path.strip_prefix(store).unwrap_or(Path::new(""));
    Some((store.to_owned(), inside.to_string_lossy().into_owned()))
}

impl fmt::Display for NamedDrive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NamedDrive::Name { name, .. } => write!(f, "{name}"),
            NamedDrive::Url(url) => write!(f, "hyper://{}", url.key.to_hex()),
            NamedDrive::Directory(directory) => write!(f, "{}", directory.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_urls_and_directories_are_told_apart() {
        let key = "ce2a1c6efc95d1d33e5e2ee9ac00a1f06aa905f957bfd31988c6d30d793b3798";
        assert!(matches!(format!("hyper://{key}/a").parse(), Ok(NamedDrive::Url(_))));
        assert!(matches!(key.parse(), Ok(NamedDrive::Url(_))));
        for text in ["/srv/store", "./store", "../store", "."] {
            assert_eq!(text.parse::<NamedDrive>().unwrap(), NamedDrive::Directory(text.into()));
        }
        let path = DrivePath::parse("2020/summer").unwrap();
        let name = NamedDrive::Name { name: "photos".into(), path };
        assert_eq!("photos/2020/summer".parse::<NamedDrive>().unwrap(), name);
        for wrong in ["", "hyper://ce2a", "photos/../../x"] {
            assert!(wrong.parse::<NamedDrive>().is_err(), "{wrong:?}");
        }
    }
}
