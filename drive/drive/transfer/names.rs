//! Files with several names (hard links) in a source and in a target, so that they have them on the other side too.

use std::collections::{BTreeSet, HashMap, HashSet};

use super::local::Inode;
use super::target::{self, TargetDirectory};
use crate::link::{LinkId, MAX_LINKS};
use crate::path::DrivePath;
use crate::stat::Stat;

/// Most files with several names of a drive that are remembered; further ones are exported name by name.
const MAX_REMEMBERED: usize = 1_000_000;

/// The files of an import that have several names.
#[derive(Default)]
pub(super) struct SourceNames {
    /// Where in `files` an inode is.
    places: HashMap<Inode, usize>,
    /// First name, and the others.
    files: Vec<(DrivePath, BTreeSet<DrivePath>)>,
}

impl SourceNames {
    /// Whether `path` is a further name of a file whose first name was imported. Then it is noted.
    pub(super) fn is_further(&mut self, inode: Option<Inode>, path: &DrivePath) -> bool {
        let place = inode.and_then(|inode| self.places.get(&inode));
        let Some((_, others)) = place.and_then(|place| self.files.get_mut(*place)) else {
            return false;
        };
        if others.len() + 1 >= MAX_LINKS as usize {
            return false;
        }
        others.insert(path.clone());
        true
    }

    /// `path` was imported.
    pub(super) fn is_first(&mut self, inode: Option<Inode>, path: &DrivePath) {
        let Some(inode) = inode else { return };
        self.places.insert(inode, self.files.len());
        self.files.push((path.clone(), BTreeSet::new()));
    }

    /// The files of which several names are in the source: first names, and the others.
    pub(super) fn linked(self) -> impl Iterator<Item = (DrivePath, BTreeSet<DrivePath>)> {
        self.files.into_iter().filter(|(_, others)| !others.is_empty())
    }
}

/// The files of an export that have several names.
#[derive(Default)]
pub(super) struct TargetNames {
    /// The first name that was exported, and its inode there.
    first: HashMap<LinkId, (DrivePath, Inode)>,
    inodes: HashSet<Inode>,
}

impl TargetNames {
    /// Whether the local file that is found under a name can be the file with this stat: one with several names, which may
    /// be other ones, cannot be changed as one of them.
    pub(super) fn may_stay(&self, stat: &Stat, found: &rustix::fs::Stat) -> bool {
        found.st_nlink == 1 || stat.link.is_some() && !self.inodes.contains(&target::inode(found))
    }

    /// The name that was exported of the file with this stat, and its inode.
    pub(super) fn first(&self, stat: &Stat) -> Option<&(DrivePath, Inode)> {
        self.first.get(&stat.link?.id)
    }

    /// The file with this stat was exported to `path` in `target`.
    pub(super) fn exported(&mut self, stat: &Stat, path: &DrivePath, target: &TargetDirectory) {
        let found = path.file_name().and_then(|name| target.stat(&name).ok()?);
        let (Some(link), Some(found)) = (stat.link, found) else { return };
        if self.first.len() < MAX_REMEMBERED {
            self.inodes.insert(target::inode(&found));
            self.first.insert(link.id, (path.clone(), target::inode(&found)));
        }
    }
}
