//! Which names an import passes over: [`IGNORE_FILE`]s in gitignore(5) syntax, the nearest one first,
//! after them the files given by hand.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use ignore::Match;
use ignore::gitignore::{Gitignore, GitignoreBuilder};

use hypermount_core::{Error, Result};

/// Read in every directory that is imported; imported itself like any other file.
pub const IGNORE_FILE: &str = ".hypermountignore";

/// The rules in force in one directory.
#[derive(Clone)]
pub(super) struct Ignores(Option<Arc<Rules>>);

struct Rules {
    own: Gitignore,
    outer: Ignores,
}

impl Ignores {
    /// The rules of the files given by hand, as if they lay in `root`.
    pub(super) fn given(root: &Path, files: &[PathBuf]) -> Result<Self> {
        let mut builder = GitignoreBuilder::new(root);
        for file in files {
            if let Some(error) = builder.add(file) {
                return Err(unreadable(file, &error));
            }
        }
        let own = builder.build().map_err(|error| unreadable(root, &error))?;
        Ok(Self(Some(Arc::new(Rules { own, outer: Self(None) }))))
    }

    /// The rules inside `directory`, which these ones reach.
    pub(super) fn inside(&self, directory: &Path) -> Result<Self> {
        let file = directory.join(IGNORE_FILE);
        if !file.is_file() {
            return Ok(self.clone());
        }
        let mut builder = GitignoreBuilder::new(directory);
        if let Some(error) = builder.add(&file) {
            return Err(unreadable(&file, &error));
        }
        let own = builder.build().map_err(|error| unreadable(&file, &error))?;
        Ok(Self(Some(Arc::new(Rules { own, outer: self.clone() }))))
    }

    pub(super) fn match_path(&self, path: &Path, is_directory: bool) -> bool {
        let mut next = &self.0;
        while let Some(rules) = next {
            match rules.own.matched(path, is_directory) {
                Match::Ignore(_) => return true,
                Match::Whitelist(_) => return false,
                Match::None => next = &rules.outer.0,
            }
        }
        false
    }
}

fn unreadable(file: &Path, error: &ignore::Error) -> Error {
    Error::Storage {
        op: "read the ignore file",
        path: file.to_owned(),
        source: std::io::Error::new(std::io::ErrorKind::InvalidInput, error.to_string()),
    }
}
