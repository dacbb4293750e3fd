//! Which drive `list`, `import` and `export` speak of: one of a store by its name or URL, or the one
//! a directory holds, each with a path inside if wanted.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use drive::url::DriveUrl;
use drive::{DrivePath, Name};

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
    type Err = drive::Error;

    /// A directory is written so that it can be told from a name: it begins with `/`, `./` or `../`,
    /// or is one of these without the slash.
    fn from_str(text: &str) -> drive::Result<Self> {
        match text.parse()? {
            Target::Url(url) => Ok(NamedDrive::Url(url)),
            Target::Directory(directory) if is_explicit(text) => {
                Ok(NamedDrive::Directory(directory))
            }
            Target::Directory(_) => {
                let (name, path) = text.split_once('/').unwrap_or((text, ""));
                let name = Name::new(name)?.as_str().to_owned();
                Ok(NamedDrive::Name { name, path: DrivePath::parse(path)? })
            }
        }
    }
}

fn is_explicit(text: &str) -> bool {
    text.starts_with('/') || matches!(text.split('/').next(), Some("." | ".."))
}

/// Splits a path into the store directory it leads into and what is left of it. The innermost
/// directory with a master key counts.
pub fn split_store(path: &Path) -> Option<(PathBuf, String)> {
    path.ancestors().find(|directory| directory.join("master_key").is_file()).map(|store| {
        let inside = path.strip_prefix(store).unwrap_or(Path::new(""));
        (store.to_owned(), inside.to_string_lossy().into_owned())
    })
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
