//! The plain tree: the expected tree after each operation, and the expected result of each call.

use std::collections::BTreeMap;

use drivefs::Rename;

#[derive(Clone, Debug, PartialEq)]
pub enum Content {
    Directory,
    File(Vec<u8>),
    Link(String),
}

/// The content of an inode, without times and owners.
#[derive(Clone, Debug, PartialEq)]
pub struct Is {
    pub content: Content,
    pub mode: u32,
    pub attribute: Option<u8>,
    /// What stat(2) says, except of a directory.
    pub names: u32,
    /// Which inode it is, except of a directory: the first name that has it.
    pub first: String,
}

#[derive(Debug)]
pub struct Inode {
    pub now: Is,
    /// What the drive has; `None` while a new file has not been closed.
    pub stored: Option<Is>,
    pub dirty: bool,
    /// Unlinked or replaced through this mount.
    pub removed: bool,
    /// Replaced or removed by another program.
    pub overtaken: bool,
}

pub struct Model {
    pub inodes: Vec<Inode>,
    /// Inodes by path, without the root.
    pub tree: BTreeMap<String, usize>,
}

pub type Answer<T> = Result<T, i32>;

pub fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(parent, _)| parent)
}

pub fn is_below(path: &str, directory: &str) -> bool {
    path.strip_prefix(directory).is_some_and(|rest| rest.starts_with('/'))
}

impl Model {
    pub fn new() -> Self {
        Self { inodes: Vec::new(), tree: BTreeMap::new() }
    }

    pub fn at(&self, path: &str) -> Option<usize> {
        self.tree.get(path).copied()
    }

    pub fn is_directory(&self, path: &str) -> bool {
        path.is_empty()
            || self.at(path).is_some_and(|it| self.inodes[it].now.content == Content::Directory)
    }

    /// The expected result of looking up every name above the last.
    pub fn walk(&self, path: &str) -> Answer<()> {
        let mut above = Vec::new();
        let mut next = parent(path);
        while !next.is_empty() {
            above.push(next);
            next = parent(next);
        }
        for directory in above.into_iter().rev() {
            match self.at(directory) {
                None => return Err(libc::ENOENT),
                Some(_) if !self.is_directory(directory) => return Err(libc::ENOTDIR),
                Some(_) => {}
            }
        }
        Ok(())
    }

    pub fn find(&self, path: &str) -> Answer<usize> {
        self.walk(path)?;
        self.at(path).ok_or(libc::ENOENT)
    }

    pub fn add(&mut self, path: &str, content: Content, mode: u32, stored: bool) -> usize {
        let now = Is { content, mode, attribute: None, names: 0, first: String::new() };
        let stored = stored.then(|| now.clone());
        let dirty = stored.is_none();
        self.inodes.push(Inode { now, stored, dirty, removed: false, overtaken: false });
        self.tree.insert(path.to_owned(), self.inodes.len() - 1);
        self.inodes.len() - 1
    }

    pub fn bytes(&mut self, inode: usize) -> &mut Vec<u8> {
        match &mut self.inodes[inode].now.content {
            Content::File(bytes) => bytes,
            other => panic!("{other:?} was opened"),
        }
    }

    pub fn commit(&mut self, inode: usize) -> Answer<()> {
        let inode = &mut self.inodes[inode];
        if inode.removed || !inode.dirty {
            return Ok(());
        }
        if inode.overtaken {
            return Err(libc::ESTALE);
        }
        (inode.stored, inode.dirty) = (Some(inode.now.clone()), false);
        Ok(())
    }

    /// The whole tree, as programs see it or as the drive has it.
    pub fn shown(&self, stored: bool) -> BTreeMap<String, Is> {
        let entries = self.tree.iter().filter_map(|(path, at)| {
            let inode = &self.inodes[*at];
            let mut is = if stored { inode.stored.clone()? } else { inode.now.clone() };
            if is.content != Content::Directory {
                let mut names = self.tree.iter().filter(|(_, other)| *other == at);
                is.names = names.clone().count() as u32;
                is.first = names.next().map(|(name, _)| name.clone()).unwrap_or_default();
            }
            Some((path.clone(), is))
        });
        entries.collect()
    }

    /// Whether a path leads to it.
    pub fn has_name(&self, inode: usize) -> bool {
        self.tree.values().any(|other| *other == inode)
    }

    /// link(2).
    pub fn link(&mut self, from: &str, to: &str) -> Answer<()> {
        let inode = self.find(from)?;
        self.walk(to)?;
        if self.at(to).is_some() {
            return Err(libc::EEXIST);
        }
        if self.is_directory(from) {
            return Err(libc::EPERM);
        }
        if self.inodes[inode].stored.is_none() {
            self.commit(inode)?;
        }
        self.tree.insert(to.to_owned(), inode);
        Ok(())
    }

    pub fn move_below(&mut self, from: &str, to: &str) {
        let moved: Vec<_> = self
            .tree
            .keys()
            .filter(|path| *path == from || is_below(path, from))
            .cloned()
            .collect();
        let moved: Vec<_> =
            moved.into_iter().filter_map(|path| self.tree.remove_entry(&path)).collect();
        for (path, inode) in moved {
            self.tree.insert(format!("{to}{}", &path[from.len()..]), inode);
        }
    }

    pub fn rename(&mut self, from: &str, to: &str, how: Rename) -> Answer<()> {
        let moved = self.find(from)?;
        self.walk(to)?;
        let there = self.at(to);
        match (how, there) {
            (Rename::NoReplace, Some(_)) => return Err(libc::EEXIST),
            (Rename::Exchange, None) => return Err(libc::ENOENT),
            _ => {}
        }
        if is_below(to, from) || how == Rename::Exchange && is_below(from, to) {
            return Err(libc::EINVAL);
        }
        if is_below(from, to) {
            return Err(libc::ENOTEMPTY);
        }
        if from == to || there == Some(moved) {
            return Ok(());
        }
        if how == Rename::Exchange {
            self.move_below(from, "\u{1}");
            self.move_below(to, from);
            self.move_below("\u{1}", to);
            return Ok(());
        }
        if let Some(there) = there {
            match (self.is_directory(from), self.is_directory(to)) {
                (true, false) => return Err(libc::ENOTDIR),
                (false, true) => return Err(libc::EISDIR),
                (true, true) if self.tree.keys().any(|path| is_below(path, to)) => {
                    return Err(libc::ENOTEMPTY);
                }
                _ => {}
            }
            // A kill leaves the old file or the new one, so the new one is stored first.
            self.commit(moved)?;
            self.tree.remove(to);
            self.inodes[there].removed = !self.has_name(there);
        }
        self.tree.remove(to);
        self.move_below(from, to);
        Ok(())
    }

    /// What remains when the filesystem is killed.
    pub fn kill(&mut self) {
        let inodes = &self.inodes;
        self.tree.retain(|_, inode| inodes[*inode].stored.is_some());
        for inode in &mut self.inodes {
            if let Some(stored) = &inode.stored {
                (inode.now, inode.dirty) = (stored.clone(), false);
            }
        }
    }
}
