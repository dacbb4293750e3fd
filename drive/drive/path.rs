//! Paths inside a drive: normalised, bounded, and parsed nowhere else.

use std::sync::Arc;

use hypermount_core::error::{Error, Result};

/// Longest path in bytes (PATH_MAX).
pub const MAX_PATH_BYTES: usize = 4096;
/// Longest single name in bytes (NAME_MAX).
pub const MAX_NAME_BYTES: usize = 255;

/// One path component that a filesystem can hold: not empty, not `.` or `..`, no `/`, no NUL, at
/// most [`MAX_NAME_BYTES`].
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(String);

impl Name {
    pub fn new(text: impl Into<String>) -> Result<Self> {
        let text = text.into();
        if text.len() > MAX_NAME_BYTES {
            return Err(Error::NameTooLong { max: MAX_NAME_BYTES });
        }
        if text.is_empty() || text == "." || text == ".." || text.contains(['/', '\0']) {
            return Err(Error::InvalidPath(format!("{text:?} is not a file name")));
        }
        Ok(Self(text))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A place in a drive, as its components; the root has none. Its text form has no leading slash,
/// which is also its trie key. A clone shares the text.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DrivePath(Arc<str>);

impl DrivePath {
    pub fn root() -> Self {
        Self::default()
    }

    /// Parses a path relative to the drive's root; a leading, trailing or doubled slash does not
    /// count; `.` and `..` are refused, never resolved.
    pub fn parse(text: &str) -> Result<Self> {
        let mut path = Self::root();
        for component in text.split('/').filter(|component| !component.is_empty()) {
            path = path.join(&Name::new(component)?)?;
        }
        Ok(path)
    }

    pub fn join(&self, name: &Name) -> Result<Self> {
        let text = if self.is_root() { name.0.clone() } else { format!("{}/{}", self.0, name.0) };
        if text.len() > MAX_PATH_BYTES {
            return Err(Error::NameTooLong { max: MAX_PATH_BYTES });
        }
        Ok(Self(text.into()))
    }

    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// Without a leading slash; empty for the root.
    pub fn as_str(&self) -> &str {
        &self.0
    }

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

    pub fn components(&self) -> impl Iterator<Item = &str> {
        self.0.split('/').filter(|component| !component.is_empty())
    }
}

impl std::fmt::Display for DrivePath {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "/{}", self.0)
    }
}
