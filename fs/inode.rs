//! Inode numbers, and what the kernel knows by them.
//!
//! A number is a fixed function of the path from the mount's root, so it is the same after a
//! remount and on every machine. The kernel counts how often it was given a number and gives the
//! counts back when it forgets the inode. The table holds exactly the inodes that the kernel holds.
//!
//! The kernel caches size and pages per inode. If a file's content changes by other means than this
//! mount, its old inode is *detached*: it serves the open files to their end with the old content,
//! and the next lookup of the path gets another inode, which shows the same number in `st_ino`.
//! This is what rename(2) over an open file looks like, so no reader sees two versions. It also
//! applies to files that are not open: otherwise, a file opened between a change and its notice
//! would be read with the kernel's old size and the new bytes.

use std::collections::HashMap;
use std::hash::Hasher;
use std::sync::Arc;

use fuser::FileType;
use hypermount_drive::{Entry, LinkId};
use siphasher::sip::SipHasher13;

use crate::attr::file_type;
use crate::handle::Content;

/// The kernel's number for the root of a mount (FUSE_ROOT_ID).
pub(crate) const ROOT: u64 = 1;
/// Bits of a number. Some programs store numbers in signed 64-bit integers.
const NUMBER_BITS: u32 = 63;
/// Low bits of a number, which tell the files of one drive apart where a mount shows several.
const DRIVE_BITS: u32 = 48;
/// Number of drives that one mount can tell apart.
pub(crate) const MAX_SLOTS: u64 = 1 << (NUMBER_BITS - DRIVE_BITS);
/// First number within a drive that a path may have. Lower numbers are reserved for this program.
const FIRST: u64 = 16;
/// Fixed, so that numbers survive a remount. This loses no protection: colliding paths get
/// neighbouring numbers, and a publisher who provokes collisions slows down lookups in their own
/// drive only.
const NUMBER_KEYS: (u64, u64) = (0x6879_7065_726d_6f75, 0x6e74_2069_6e6f_6465);

/// A file with several names: the volume that it is in, as a number that no other has, and its id there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct LinkKey {
    pub volume: usize,
    pub id: LinkId,
}

/// Where the content of an inode comes from, by a path.
pub(crate) trait Placed {
    /// Another of its names is the one by which the inode is found now.
    fn found_by(&mut self, mount_path: &Arc<str>);
}

/// One inode that the kernel knows. `P` is where its content comes from, which `filesystem`
/// defines.
#[derive(Debug)]
pub(crate) struct Node<P> {
    pub place: P,
    /// Path from the mount's root, through nested drives; empty for the root. Of a file with several names, one of them.
    pub path: Arc<str>,
    /// The other names that were looked up.
    others: Vec<Arc<str>>,
    /// Set for a file with several names.
    link: Option<LinkKey>,
    /// The number shown in `st_ino`. Differs from the table's number only beside a detached inode.
    pub shown: u64,
    pub kind: FileType,
    lookups: u64,
    opens: u32,
    detached: bool,
    /// The only content that this inode ever has, if this mount cannot change it.
    fixed: Option<Content>,
    /// The entry that the open files read; kept while `opens > 0`.
    opened: Option<Arc<Entry>>,
    /// The content of the kernel's pages of this inode, if it has any.
    cached: Option<Content>,
}

impl<P> Node<P> {
    /// The entry that open files of this inode read, if any are open.
    pub(crate) fn opened(&self) -> Option<&Arc<Entry>> {
        self.opened.as_ref()
    }

    /// Whether the path leads to another inode now.
    pub(crate) fn is_detached(&self) -> bool {
        self.detached
    }

    /// All its names that were looked up.
    pub(crate) fn names(&self) -> impl Iterator<Item = &Arc<str>> {
        std::iter::once(&self.path).chain(&self.others)
    }

    /// Set for a file with several names.
    pub(crate) fn link(&self) -> Option<LinkKey> {
        self.link
    }

    /// Whether a lookup of the path that finds `entry` may return this inode.
    fn can_be(&self, entry: &Entry) -> bool {
        self.kind == file_type(entry) && !self.has_other_content(entry)
    }

    /// Whether the kernel or an open file has another content under this inode.
    pub(crate) fn has_other_content(&self, entry: &Entry) -> bool {
        let content = Content::of(entry);
        let opened = self.opened.as_ref().map(|opened| Content::of(opened));
        opened.is_some_and(|opened| opened != content)
            || (self.fixed.is_some() && self.fixed != content)
    }
}

/// Maps numbers to nodes and paths to numbers.
///
/// INVARIANTS: the root is present and never detached; every other node has `lookups > 0`; paths
/// lead to exactly the nodes that are not detached, by all their names; `links` lead to those of them that are a file
/// with several names; `opened` is set exactly while `opens > 0`.
#[derive(Debug)]
pub(crate) struct InodeTable<P> {
    numbers: Numbers,
    /// Boxed: otherwise growing the map would briefly take three times the memory of all nodes.
    nodes: HashMap<u64, Box<Node<P>>>,
    paths: HashMap<Arc<str>, u64>,
    links: HashMap<LinkKey, u64>,
}

/// The numbers of one drive: all numbers; or, where a mount shows several drives, the drive's slot
/// in the high bits and the file in the remaining ones. So the number of an inode tells which drive
/// it is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Numbers {
    base: u64,
    bits: u32,
}

impl Numbers {
    /// The numbers of the only drive of a mount.
    pub(crate) const ALL: Self = Self { base: 0, bits: NUMBER_BITS };

    /// The numbers of the drive in a slot below [`MAX_SLOTS`]. Slot 0 is the mount's own.
    pub(crate) fn in_slot(slot: u64) -> Self {
        Self { base: (slot % MAX_SLOTS) << DRIVE_BITS, bits: DRIVE_BITS }
    }

    /// The slot of a number in a mount of several drives.
    pub(crate) fn slot_of(number: u64) -> u64 {
        number >> DRIVE_BITS
    }

    /// The preferred slot of the drive at this path, the same after every remount; never 0.
    pub(crate) fn preferred_slot(path: &str) -> u64 {
        (hash(path) % MAX_SLOTS).max(1)
    }

    /// The number of the drive's root.
    pub(crate) fn root(self) -> u64 {
        self.base + ROOT
    }

    /// The number of a path, unless another path has it already.
    fn of(self, path: &str) -> u64 {
        if path.is_empty() { self.root() } else { self.fit(hash(path)) }
    }

    /// The number of a file with several names: the same by whichever of them it is found.
    fn of_link(self, id: LinkId) -> u64 {
        self.fit(hash_bytes(id.as_bytes()))
    }

    fn next(self, number: u64) -> u64 {
        self.fit(number + 1)
    }

    fn fit(self, number: u64) -> u64 {
        self.base + (number & ((1 << self.bits) - 1)).max(FIRST)
    }
}

fn hash(path: &str) -> u64 {
    hash_bytes(path.as_bytes())
}

fn hash_bytes(bytes: &[u8]) -> u64 {
    let mut hasher = SipHasher13::new_with_keys(NUMBER_KEYS.0, NUMBER_KEYS.1);
    hasher.write(bytes);
    hasher.finish()
}

impl<P: Placed> InodeTable<P> {
    pub(crate) fn new(root: P, numbers: Numbers) -> Self {
        let path: Arc<str> = "".into();
        let ino = numbers.root();
        let node = Node {
            place: root,
            path: path.clone(),
            others: Vec::new(),
            link: None,
            shown: ino,
            kind: FileType::Directory,
            lookups: 1,
            opens: 0,
            detached: false,
            fixed: None,
            opened: None,
            cached: None,
        };
        Self {
            numbers,
            nodes: HashMap::from([(ino, Box::new(node))]),
            paths: HashMap::from([(path, ino)]),
            links: HashMap::new(),
        }
    }

    /// The number of the root.
    pub(crate) fn root(&self) -> u64 {
        self.numbers.root()
    }

    pub(crate) fn get(&self, ino: u64) -> Option<&Node<P>> {
        self.nodes.get(&ino).map(Box::as_ref)
    }

    pub(crate) fn get_mut(&mut self, ino: u64) -> Option<&mut Node<P>> {
        self.nodes.get_mut(&ino).map(Box::as_mut)
    }

    /// The inode that the kernel knows for this path, if any.
    pub(crate) fn known(&self, path: &str) -> Option<u64> {
        self.paths.get(path).copied()
    }

    pub(crate) fn len(&self) -> usize {
        self.nodes.len()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, &Node<P>)> {
        self.nodes.iter().map(|(ino, node)| (*ino, &**node))
    }

    /// The inode that the kernel knows for a file with several names, if any.
    pub(crate) fn linked(&self, link: LinkKey) -> Option<u64> {
        self.links.get(&link).copied()
    }

    /// The number to show for a path (`d_ino`), without giving it to the kernel.
    pub(crate) fn shown(&self, path: &str, link: Option<LinkKey>) -> u64 {
        let known = self.known(path).or_else(|| self.linked(link?));
        known.and_then(|ino| self.get(ino)).map_or_else(|| self.own_number(path, link), |n| n.shown)
    }

    fn own_number(&self, path: &str, link: Option<LinkKey>) -> u64 {
        link.map_or_else(|| self.numbers.of(path), |link| self.numbers.of_link(link.id))
    }

    /// Gives the kernel the inode of `path` once more and returns its number: that of the file with several names that
    /// `link` says. `place` makes the place of a new path, `refresh` updates that of a known one. `fixed` says that this
    /// mount cannot change the content of the inode.
    pub(crate) fn remember(
        &mut self,
        path: &str,
        entry: &Entry,
        link: Option<LinkKey>,
        fixed: bool,
        make: impl FnOnce() -> P,
        refresh: impl FnOnce(&mut P),
    ) -> u64 {
        if let Some(ino) = self.known(path) {
            let is_root = ino == self.root();
            let fits = is_root || self.can_be(ino, entry) && self.can_have(ino, link);
            match self.nodes.get_mut(&ino) {
                Some(node) if fits => {
                    node.lookups = node.lookups.saturating_add(1);
                    refresh(&mut node.place);
                    self.set_link(ino, link);
                    return ino;
                }
                // All its names lead to what this one leads to.
                Some(node) if node.link == link => drop(self.detach(ino)),
                _ => drop(self.leave(path)),
            }
        }
        if let Some(ino) = link.and_then(|link| self.linked(link)) {
            let fits = self.can_be(ino, entry);
            if let Some(node) = self.nodes.get_mut(&ino).filter(|_| fits) {
                node.lookups = node.lookups.saturating_add(1);
                refresh(&mut node.place);
                self.join(ino, path);
                return ino;
            }
            self.detach(ino);
        }
        let path: Arc<str> = path.into();
        let (ino, shown) = self.vacant(&path, link);
        let node = Node {
            place: make(),
            path: path.clone(),
            others: Vec::new(),
            link,
            shown,
            kind: file_type(entry),
            lookups: 1,
            opens: 0,
            detached: false,
            fixed: fixed.then(|| Content::of(entry)).flatten(),
            opened: None,
            cached: None,
        };
        self.nodes.insert(ino, Box::new(node));
        self.paths.insert(path, ino);
        self.links.extend(link.map(|link| (link, ino)));
        ino
    }

    fn can_be(&self, ino: u64, entry: &Entry) -> bool {
        self.nodes.get(&ino).is_some_and(|node| node.can_be(entry))
    }

    /// Whether the inode can be the file with several names `link`, or the file with one name.
    fn can_have(&self, ino: u64, link: Option<LinkKey>) -> bool {
        let Some(node) = self.nodes.get(&ino) else { return false };
        let free = link.and_then(|link| self.linked(link)).is_none_or(|other| other == ino);
        node.link == link || node.others.is_empty() && free
    }

    /// Notes which file with several names the inode is, if it is one.
    pub(crate) fn set_link(&mut self, ino: u64, link: Option<LinkKey>) {
        let Some(node) = self.nodes.get_mut(&ino).filter(|node| !node.detached) else { return };
        if node.link == link {
            return;
        }
        if let Some(old) = std::mem::replace(&mut node.link, link) {
            self.links.remove(&old);
        }
        self.links.extend(link.map(|link| (link, ino)));
    }

    /// The inode has this name too.
    pub(crate) fn join(&mut self, ino: u64, path: &str) {
        if self.known(path).is_some() {
            return;
        }
        if let Some(node) = self.nodes.get_mut(&ino).filter(|node| !node.detached) {
            let path: Arc<str> = path.into();
            node.others.push(path.clone());
            self.paths.insert(path, ino);
        }
    }

    /// The path leads elsewhere or nowhere: its inode stays what its other names lead to, or is detached without one.
    /// Returns whether it has other names.
    pub(crate) fn leave(&mut self, path: &str) -> bool {
        let Some(ino) = self.known(path) else { return false };
        let Some(node) = self.nodes.get_mut(&ino) else { return false };
        if node.others.is_empty() {
            self.detach(ino);
            return false;
        }
        self.paths.remove(path);
        if *node.path == *path {
            node.path = node.others.swap_remove(0);
            node.place.found_by(&node.path);
        } else {
            node.others.retain(|other| **other != *path);
        }
        true
    }

    /// A free number for the path, and the number to show: the path's own, or that of the file with several names,
    /// unless that belongs to another path (a collision) instead of to a detached inode of this path or file.
    fn vacant(&self, path: &str, link: Option<LinkKey>) -> (u64, u64) {
        let own = self.own_number(path, link);
        let mut ino = own;
        let mut collided = false;
        while let Some(occupant) = self.nodes.get(&ino) {
            let same = match link {
                Some(_) => occupant.link == link,
                None => occupant.link.is_none() && *occupant.path == *path,
            };
            collided |= !same;
            ino = self.numbers.next(ino);
        }
        (ino, if collided { ino } else { own })
    }

    /// Counts one more lookup of an inode that the kernel knows.
    pub(crate) fn again(&mut self, ino: u64) {
        if let Some(node) = self.nodes.get_mut(&ino) {
            node.lookups = node.lookups.saturating_add(1);
        }
    }

    /// Moves `from` and everything below it to `to`. What the kernel still knows there is detached: another writer may
    /// have removed it, or the caller replaces it. `moved` is called for each inode with the part of its path after
    /// `from`.
    pub(crate) fn rename(
        &mut self,
        from: &str,
        to: &str,
        mut moved: impl FnMut(&mut P, &Arc<str>, &str),
    ) {
        let below = |path: &str| {
            let rest = path.strip_prefix(from)?;
            (rest.is_empty() || rest.starts_with('/')).then(|| rest.to_owned())
        };
        let known: Vec<_> = self
            .paths
            .iter()
            .filter_map(|(path, ino)| Some((path.clone(), *ino, below(path)?)))
            .collect();
        for (path, ..) in &known {
            self.paths.remove(path);
        }
        for (old, ino, rest) in known {
            let path: Arc<str> = format!("{to}{rest}").into();
            self.leave(&path);
            let Some(node) = self.nodes.get_mut(&ino) else { continue };
            if node.path == old {
                node.path = path.clone();
                moved(&mut node.place, &node.path, &rest);
            } else if let Some(other) = node.others.iter_mut().find(|other| **other == old) {
                *other = path.clone();
            }
            self.paths.insert(path, ino);
        }
    }

    /// Notes that this mount stored `entry` for the inode: its open files and the kernel's pages
    /// have it.
    pub(crate) fn stored(&mut self, ino: u64, entry: &Arc<Entry>) {
        let Some(node) = self.nodes.get_mut(&ino) else { return };
        if node.opens > 0 {
            node.opened = Some(entry.clone());
        }
        node.cached = Content::of(entry);
    }

    /// Number of open files of the inode.
    pub(crate) fn opens(&self, ino: u64) -> u32 {
        self.nodes.get(&ino).map_or(0, |node| node.opens)
    }

    /// Detaches an inode from its path. Returns false if it was detached before, and for the root,
    /// which is never detached.
    pub(crate) fn detach(&mut self, ino: u64) -> bool {
        let is_root = ino == self.root();
        match self.nodes.get_mut(&ino) {
            Some(node) if !is_root && !node.detached => {
                node.detached = true;
                for path in node.names() {
                    self.paths.remove(path);
                }
                if let Some(link) = &node.link {
                    self.links.remove(link);
                }
                true
            }
            _ => false,
        }
    }

    /// The kernel gives back `count` lookups. Returns the removed node if that was the last of
    /// them.
    pub(crate) fn forget(&mut self, ino: u64, count: u64) -> Option<Node<P>> {
        if ino == self.root() {
            return None;
        }
        let node = self.nodes.get_mut(&ino)?;
        node.lookups = node.lookups.saturating_sub(count);
        if node.lookups > 0 {
            return None;
        }
        let node = self.nodes.remove(&ino)?;
        if !node.detached {
            for path in node.names() {
                self.paths.remove(path);
            }
            if let Some(link) = &node.link {
                self.links.remove(link);
            }
        }
        Some(*node)
    }

    /// Opens a file of this inode, which reads `entry`. Returns whether the kernel may keep its
    /// pages of the inode: only if they hold the same bytes. An inode that was never open has no
    /// pages, so the answer is true: otherwise the first of several openers would wait,
    /// uninterruptibly, for pages that the others wait for.
    pub(crate) fn open(&mut self, ino: u64, entry: &Arc<Entry>, content: &Content) -> bool {
        let Some(node) = self.nodes.get_mut(&ino) else { return false };
        node.opens = node.opens.saturating_add(1);
        if node.opened.is_none() {
            node.opened = Some(entry.clone());
        }
        let same = node.cached.as_ref().is_none_or(|cached| cached == content);
        node.cached = Some(content.clone());
        same
    }

    /// An open file of this inode was closed.
    pub(crate) fn close(&mut self, ino: u64) {
        let Some(node) = self.nodes.get_mut(&ino) else { return };
        node.opens = node.opens.saturating_sub(1);
        if node.opens == 0 {
            node.opened = None;
        }
    }

    /// Panics if an invariant does not hold. For tests and debug builds.
    #[cfg(any(test, debug_assertions))]
    pub(crate) fn check_invariants(&self) {
        assert!(
            self.nodes.get(&self.root()).is_some_and(|root| !root.detached),
            "the root is present"
        );
        for (path, ino) in &self.paths {
            let node = self.nodes.get(ino).expect("a path leads to a node");
            let is_own = node.names().any(|name| name == path);
            assert!(is_own && !node.detached, "a path leads to its own node");
        }
        let attached = || self.nodes.values().filter(|node| !node.detached);
        let names: usize = attached().map(|node| node.names().count()).sum();
        assert_eq!(names, self.paths.len(), "every attached node is found by its paths");
        let linked = attached().filter(|node| node.link.is_some()).count();
        assert_eq!(linked, self.links.len(), "every file with several names is found by its id");
        for (link, ino) in &self.links {
            assert_eq!(self.nodes.get(ino).and_then(|node| node.link), Some(*link));
        }
        for (ino, node) in &self.nodes {
            assert!(node.lookups > 0, "{ino} is in the table without the kernel knowing it");
            assert_eq!(node.opened.is_some(), node.opens > 0, "{ino} keeps what is open");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hypermount_drive::{Extent, Kind, Stat};
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    impl Placed for () {
        fn found_by(&mut self, _: &Arc<str>) {}
    }

    fn file(size: u64) -> Entry {
        let extent = Extent { size, ..Extent::default() };
        Entry { kind: Kind::File, stat: Stat { extent, ..Stat::default() }, explicit: true }
    }

    fn look_up(table: &mut InodeTable<()>, path: &str, entry: &Entry) -> u64 {
        table.remember(path, entry, None, true, || (), |()| ())
    }

    fn open(table: &mut InodeTable<()>, ino: u64, entry: Entry) -> bool {
        let content = Content::of(&entry).expect("a file has content");
        table.open(ino, &Arc::new(entry), &content)
    }

    /// Another writer removed what was there, and the kernel has not forgotten it.
    #[test]
    fn a_rename_detaches_what_the_kernel_still_knows_at_the_target() {
        let mut table = InodeTable::new((), Numbers::ALL);
        let entry = file(1);
        let (old, old_below) =
            (look_up(&mut table, "a", &entry), look_up(&mut table, "a/x", &entry));
        let (new, new_below) =
            (look_up(&mut table, "c", &entry), look_up(&mut table, "c/x", &entry));
        table.rename("c", "a", |(), _, _| ());
        table.check_invariants();
        assert_eq!((table.known("a"), table.known("a/x")), (Some(new), Some(new_below)));
        assert!([old, old_below].iter().all(|ino| table.get(*ino).unwrap().is_detached()));
    }

    #[test]
    fn numbers_are_a_fixed_function_of_the_path() {
        // Fixed values: a change would renumber every mounted file at the next upgrade of this
        // program.
        assert_eq!(Numbers::ALL.of(""), ROOT);
        assert_eq!(Numbers::ALL.of("hello.txt"), 5_273_417_240_621_163_779);
        let mut table = InodeTable::new((), Numbers::ALL);
        let first = look_up(&mut table, "a/b", &file(1));
        assert_eq!(first, Numbers::ALL.of("a/b"));
        let changed = look_up(&mut table, "a/b", &file(2));
        assert_eq!(table.get(changed).expect("known").shown, first);
        assert!(first < 1 << NUMBER_BITS);
    }

    #[test]
    fn drives_of_one_mount_have_no_number_in_common() {
        let last = Numbers::in_slot(MAX_SLOTS - 1);
        for (slot, numbers) in [(1, Numbers::in_slot(1)), (MAX_SLOTS - 1, last)] {
            for path in ["", "hello.txt", "a/b"] {
                let number = numbers.of(path);
                assert_eq!(Numbers::slot_of(number), slot, "{path}");
                assert!(
                    number < 1 << NUMBER_BITS && Numbers::slot_of(numbers.next(number)) == slot
                );
            }
        }
        assert_eq!(last.fit(u64::MAX), (1 << NUMBER_BITS) - 1);
        assert_eq!(last.next(u64::MAX >> 1), last.base + FIRST, "it begins again in its own");
        assert!((1..MAX_SLOTS).contains(&Numbers::preferred_slot("notes")));
        assert_eq!(Numbers::preferred_slot("notes"), Numbers::preferred_slot("notes"));
    }

    #[test]
    fn colliding_paths_get_different_numbers() {
        let mut table = InodeTable::new((), Numbers::ALL);
        let own = Numbers::ALL.of("victim");
        let occupant = Node { path: "other".into(), ..*table.nodes.remove(&ROOT).expect("root") };
        table.nodes.insert(own, Box::new(occupant));
        assert_eq!(table.vacant("victim", None), (Numbers::ALL.next(own), Numbers::ALL.next(own)));
    }

    #[test]
    fn a_file_that_changes_while_open_gets_another_inode_with_the_same_shown_number() {
        let mut table = InodeTable::new((), Numbers::ALL);
        let old = look_up(&mut table, "f", &file(1));
        assert!(open(&mut table, old, file(1)), "there is nothing to drop before the first open");
        assert!(open(&mut table, old, file(1)), "the same content keeps its pages");

        let new = look_up(&mut table, "f", &file(2));
        assert_ne!(new, old);
        assert_eq!(table.get(new).expect("new").shown, old);
        assert!(table.get(old).expect("still open").is_detached());
        assert_eq!(look_up(&mut table, "f", &file(2)), new);
        table.check_invariants();

        table.close(old);
        table.close(old);
        assert!(table.forget(old, 1).is_some());
        assert_eq!(table.known("f"), Some(new), "forgetting the old one leaves the path alone");
        table.check_invariants();
    }

    /// The kernel has the old size, and would cut or pad the other content to it.
    #[test]
    fn a_closed_file_that_changes_gets_another_inode_too_unless_it_was_changed_here() {
        let mut table = InodeTable::new((), Numbers::ALL);
        let old = look_up(&mut table, "f", &file(1));
        open(&mut table, old, file(1));
        table.close(old);
        assert!(table.get(old).expect("known").has_other_content(&file(2)));
        assert_ne!(look_up(&mut table, "f", &file(2)), old);

        let own = table.remember("own", &file(1), None, false, || (), |()| ());
        open(&mut table, own, file(1));
        table.close(own);
        assert!(!table.get(own).expect("known").has_other_content(&file(2)));
        assert_eq!(table.remember("own", &file(2), None, false, || (), |()| ()), own);
        assert!(!open(&mut table, own, file(2)), "its pages are not kept");
        table.check_invariants();
    }

    /// docs/decisions/0020
    #[test]
    fn the_number_of_a_file_with_several_names_is_a_fixed_function_of_its_id() {
        let link = LinkKey { volume: 7, id: LinkId::new([9; 16]) };
        // A fixed value: a change would renumber such files at the next upgrade of this program.
        assert_eq!(Numbers::ALL.of_link(link.id), 8_460_845_080_622_824_328);
        let mut table = InodeTable::new((), Numbers::ALL);
        let mut look =
            |path: &str, size, link| table.remember(path, &file(size), link, true, || (), |()| ());
        let first = look("a", 1, Some(link));
        assert_eq!(first, Numbers::ALL.of_link(link.id));
        assert_eq!(look("d/b", 1, Some(link)), first);
        assert_ne!(look("c", 1, None), first);
        table.check_invariants();
        assert!(table.leave("a"), "it has another name");
        assert_eq!((table.known("a"), table.known("d/b")), (None, Some(first)));
        table.check_invariants();
        // Another content under one name means that all names have it.
        let changed = table.remember("d/b", &file(2), Some(link), true, || (), |()| ());
        assert_ne!(changed, first);
        assert_eq!(table.get(changed).expect("known").shown, first);
        assert_eq!(table.remember("a", &file(2), Some(link), true, || (), |()| ()), changed);
        // The last name but one went.
        assert!(table.leave("a"));
        assert_eq!(table.remember("d/b", &file(2), None, true, || (), |()| ()), changed);
        assert_eq!(table.linked(link), None);
        let other_drive = LinkKey { volume: 8, ..link };
        let nested = table.remember("n/a", &file(2), Some(other_drive), true, || (), |()| ());
        assert_ne!(nested, changed, "an id is that of one drive");
        assert!(!table.leave("d/b"));
        table.check_invariants();
    }

    #[test]
    fn a_path_that_changes_its_kind_gets_another_inode() {
        let mut table = InodeTable::new((), Numbers::ALL);
        let old = look_up(&mut table, "x", &file(1));
        let directory = Entry { kind: Kind::Directory, ..file(0) };
        assert_ne!(look_up(&mut table, "x", &directory), old);
        table.check_invariants();
    }

    #[derive(Clone, Debug)]
    enum Step {
        LookUp(u8, u64),
        Forget(u8, u64),
        Open(u8),
        Close(u8),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0..6u8, 1..3u64).prop_map(|(path, size)| Step::LookUp(path, size)),
            3 => (any::<u8>(), 1..4u64).prop_map(|(which, count)| Step::Forget(which, count)),
            2 => any::<u8>().prop_map(Step::Open),
            2 => any::<u8>().prop_map(Step::Close),
        ]
    }

    proptest! {
        /// Against a model that only counts: a node lives exactly while the kernel holds lookups of
        /// it, and its number never serves two contents while it is open.
        #[test]
        fn counts_are_exact(steps in proptest::collection::vec(step(), 1..200)) {
            let mut table = InodeTable::new((), Numbers::ALL);
            let mut held: BTreeMap<u64, (u64, u64, u32)> = BTreeMap::new(); // lookups, size, opens
            for step in steps {
                let nth = |which: u8, held: &BTreeMap<u64, _>| {
                    held.keys().copied().nth(usize::from(which) % held.len().max(1))
                };
                match step {
                    Step::LookUp(path, size) => {
                        let ino = look_up(&mut table, &format!("p{path}"), &file(size));
                        let known = held.entry(ino).or_insert((0, size, 0));
                        prop_assert!(known.2 == 0 || known.1 == size, "content changed under a reader");
                        *known = (known.0 + 1, size, known.2);
                    }
                    Step::Forget(which, count) => {
                        let Some(ino) = nth(which, &held) else { continue };
                        let known = held.get_mut(&ino).expect("chosen from held");
                        // The kernel gives back at most what it has, and nothing while a file is
                        // open.
                        let count = count.min(known.0);
                        if known.2 > 0 && count == known.0 { continue }
                        known.0 -= count;
                        let gone = known.0 == 0;
                        prop_assert_eq!(table.forget(ino, count).is_some(), gone);
                        if gone { held.remove(&ino); }
                    }
                    Step::Open(which) => {
                        let Some(ino) = nth(which, &held) else { continue };
                        let known = held.get_mut(&ino).expect("chosen from held");
                        known.2 += 1;
                        open(&mut table, ino, file(known.1));
                    }
                    Step::Close(which) => {
                        let Some(ino) = nth(which, &held) else { continue };
                        let known = held.get_mut(&ino).expect("chosen from held");
                        if known.2 == 0 { continue }
                        known.2 -= 1;
                        table.close(ino);
                    }
                }
                table.check_invariants();
                prop_assert_eq!(table.len(), held.len() + 1);
            }
        }
    }
}
