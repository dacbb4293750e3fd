//! Paths inside a drive: normalised, bounded, and parsed nowhere else. They are text, as drives store them; the
//! bytes that a filesystem has for a name are those of `escape.rs`.

use std::borrow::Cow;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::sync::Arc;

use crate::escape::{escape, unescape};
use hypermount_core::{Error, Result};

/// Longest path in bytes (PATH_MAX).
pub(crate) const MAX_PATH_BYTES: usize = 4096;
/// Longest single name in bytes (NAME_MAX).
pub const MAX_NAME_BYTES: usize = 255;

/// One path component that a filesystem can hold: not empty, not `.` or `..`, no `/`, no NUL, at
/// most [`MAX_NAME_BYTES`] of bytes, of which drives store the text.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(String);

impl Name {
    /// A name.
    ///
    /// # Errors
    /// `NameTooLong`, or `InvalidPath` for text that is no name.
    pub fn new(text: impl Into<String>) -> Result<Self> {
        let text = text.into();
        if text.len() > MAX_NAME_BYTES && unescape(&text).len() > MAX_NAME_BYTES {
            return Err(Error::NameTooLong { max: MAX_NAME_BYTES });
        }
        if text.is_empty() || text == "." || text == ".." || text.contains(['/', '\0']) {
            return Err(Error::InvalidPath(format!("{text:?} is not a file name")));
        }
        Ok(Self(text))
    }

    /// The name of these bytes.
    ///
    /// # Errors
    /// Those of [`Name::new`].
    pub fn of_file(name: &OsStr) -> Result<Self> {
        Self::new(escape(name.as_bytes()))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The bytes that a filesystem has for it.
    pub fn file_name(&self) -> Cow<'_, OsStr> {
        file_name(&self.0)
    }
}

/// The bytes of a name's text.
fn file_name(text: &str) -> Cow<'_, OsStr> {
    match unescape(text) {
        Cow::Borrowed(bytes) => Cow::Borrowed(OsStr::from_bytes(bytes)),
        Cow::Owned(bytes) => Cow::Owned(OsString::from_vec(bytes)),
    }
}

/// A place in a drive, as its components; the root has none. Its text form has no leading slash,
/// which is also its trie key. A clone shares the text.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DrivePath(Arc<str>);

impl DrivePath {
    /// The root of a drive.
    pub fn root() -> Self {
        Self::default()
    }

    /// Parses a path relative to the drive's root; a leading, trailing or doubled slash does not
    /// count; `.` and `..` are refused, never resolved.
    ///
    /// # Errors
    /// Those of [`Name::new`] and [`DrivePath::join`].
    pub fn parse(text: &str) -> Result<Self> {
        let mut path = Self::root();
        for component in text.split('/').filter(|component| !component.is_empty()) {
            path = path.join(&Name::new(component)?)?;
        }
        Ok(path)
    }

    /// The path of `name` in this directory.
    ///
    /// # Errors
    /// `NameTooLong` beyond 4096 bytes (PATH_MAX).
    pub fn join(&self, name: &Name) -> Result<Self> {
        let text = if self.is_root() { name.0.clone() } else { format!("{}/{}", self.0, name.0) };
        if text.len() > MAX_PATH_BYTES {
            return Err(Error::NameTooLong { max: MAX_PATH_BYTES });
        }
        Ok(Self(text.into()))
    }

    /// Whether it is the root.
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// Without a leading slash; empty for the root.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The directory that contains it; `None` for the root.
    pub fn parent(&self) -> Option<Self> {
        if self.is_root() {
            return None;
        }
        Some(self.0.rsplit_once('/').map_or(Self::root(), |(parent, _)| Self(parent.into())))
    }

    /// The last component; `None` for the root.
    pub fn name(&self) -> Option<&str> {
        self.0.rsplit('/').next().filter(|name| !name.is_empty())
    }

    /// The bytes that a filesystem has for the last component.
    pub fn file_name(&self) -> Option<Cow<'_, OsStr>> {
        self.name().map(file_name)
    }

    /// The path that a filesystem has for it, relative to the root.
    pub fn file_path(&self) -> PathBuf {
        self.components().map(file_name).collect()
    }

    /// The names from the root down.
    pub fn components(&self) -> impl Iterator<Item = &str> {
        self.0.split('/').filter(|component| !component.is_empty())
    }
}

impl std::fmt::Display for DrivePath {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "/{}", self.0)
    }
}
