//! A drive and a path in it, as `import`, `export` and `check` take them in one argument.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use clap::builder::{OsStringValueParser, TryMapValueParser, TypedValueParser, ValueParserFactory};
use hypermount_core::StoreKind;
use hypermount_drive::{DrivePath, DriveUrl, Name, escape_path};

use super::{Location, Target};
use crate::failure::{Context, Failure, Result};
use crate::source::Source;

/// `NAME[/path]`, `hyper://KEY[/path]`, or the directory of a store and a path in its drive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TargetPath {
    /// A drive of the store by the name it was created with.
    Name { name: String, path: DrivePath },
    /// A drive by its key.
    Url(DriveUrl),
    /// The directory of a store, with a path in its drive after it if wanted.
    Directory(PathBuf),
}

impl FromStr for TargetPath {
    type Err = hypermount_core::Error;

    /// A path into the directory of a store is a directory, and so is text that begins with `/`, `./` or
    /// `../`. Any other text that is not a URL begins with the name of a drive.
    fn from_str(text: &str) -> hypermount_core::Result<Self> {
        if let Target::Url(url) = text.parse()? {
            return Ok(TargetPath::Url(url));
        }
        let path = Path::new(text);
        if is_explicit(text) || split_store(path).is_some() {
            return Ok(TargetPath::Directory(path.to_owned()));
        }
        let (name, path) = text.split_once('/').unwrap_or((text, ""));
        let name = Name::new(name)?.as_str().to_owned();
        Ok(TargetPath::Name { name, path: DrivePath::parse(path)? })
    }
}

impl TargetPath {
    /// As [`TargetPath::from_str`], for an argument that may not be UTF-8 and is a path then.
    fn of_argument(argument: OsString) -> hypermount_core::Result<Self> {
        match argument.to_str() {
            Some(text) => text.parse(),
            None => Ok(TargetPath::Directory(argument.into())),
        }
    }
}

impl ValueParserFactory for TargetPath {
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
/// directory that is a store counts.
fn split_store(path: &Path) -> Option<(PathBuf, String)> {
    // The last ancestor of a relative path is empty, and no directory that was named.
    let mut named = path.ancestors().filter(|directory| !directory.as_os_str().is_empty());
    let store = named.find(|directory| StoreKind::of(directory).is_some())?;
    let inside = path.strip_prefix(store).unwrap_or(Path::new(""));
    Some((store.to_owned(), escape_path(inside.as_os_str().as_bytes()).into_owned()))
}

impl TargetPath {
    /// The drive, and the path in it.
    pub fn split(&self) -> Result<(Target, DrivePath)> {
        match self {
            Self::Url(url) => Ok((Target::Url(url.clone()), url.path.clone())),
            Self::Name { name, path } => Ok((Target::Name(name.clone()), path.clone())),
            Self::Directory(path) => {
                let what = || format!("open {}", path.display());
                let path = std::path::absolute(path).context(what)?;
                let (store, inside) = split_store(&path)
                    .ok_or_else(|| Failure::failed(what(), "it is not in a store"))?;
                Ok((Target::Directory(store), DrivePath::parse(&inside).context(what)?))
            }
        }
    }

    /// The store, the drive and the path in it.
    pub fn locate(&self, source: &Source) -> Result<Location> {
        let (target, path) = self.split()?;
        Ok(Location { path, ..Location::of(&target, source)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_urls_and_directories_are_told_apart() {
        let key = "ce2a1c6efc95d1d33e5e2ee9ac00a1f06aa905f957bfd31988c6d30d793b3798";
        assert!(matches!(format!("hyper://{key}/a").parse(), Ok(TargetPath::Url(_))));
        assert!(matches!(key.parse(), Ok(TargetPath::Url(_))));
        for text in ["/srv/store", "./store", "../store", "."] {
            assert_eq!(text.parse::<TargetPath>().unwrap(), TargetPath::Directory(text.into()));
        }
        let path = DrivePath::parse("2020/summer").unwrap();
        let name = TargetPath::Name { name: "photos".into(), path };
        assert_eq!("photos/2020/summer".parse::<TargetPath>().unwrap(), name);
        for wrong in ["", "hyper://ce2a", "photos/../../x"] {
            assert!(wrong.parse::<TargetPath>().is_err(), "{wrong:?}");
        }
    }
}
