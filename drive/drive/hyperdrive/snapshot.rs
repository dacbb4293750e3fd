//! One version of a drive as names and entries.

use std::collections::VecDeque;
use std::sync::Arc;

use super::{Changed, Snapshot};
use crate::index::{Index, MAX_MAP_BLOCK_BYTES};
use crate::path::{DrivePath, Name};
use crate::stat::Entry;
use hypermount_core::{Error, Result, Ticket, Wait};

/// Blocks of maps that one listing reads to tell the sizes of files.
const MAX_LISTED_MAP_BLOCKS: u64 = 65_536;
/// Files of a listing whose maps are asked for together.
const MAPS_AT_ONCE: usize = 64;
/// Entries that were looked up last and are kept.
const MAX_RECENT: usize = 4;
/// An entry of more bytes in memory is not kept.
const MAX_RECENT_BYTES: usize = 4096;

/// What was found at the paths that were looked up last, the newest last; `None` where nothing is. One operation of a file
/// system looks the same file and its directory up several times.
#[derive(Default)]
pub(super) struct Recent(VecDeque<(DrivePath, Option<Entry>)>);

impl Recent {
    fn find(&self, path: &DrivePath) -> Option<Option<Entry>> {
        self.0.iter().find(|(known, _)| known == path).map(|(_, entry)| entry.clone())
    }

    fn keep(&mut self, path: &DrivePath, entry: Option<&Entry>) {
        if entry.is_some_and(|entry| entry.weight() > MAX_RECENT_BYTES) {
            return;
        }
        if self.0.len() == MAX_RECENT {
            self.0.pop_front();
        }
        self.0.push_back((path.clone(), entry.cloned()));
    }
}

fn sound(entry: &mut Result<Entry>) -> Option<&mut Entry> {
    entry.as_mut().ok()
}

impl Snapshot {
    /// The metadata core's length at this version.
    pub fn version(&self) -> u64 {
        self.index.version()
    }

    /// Whether `other` is the same version of the same history: a publisher of Hyperdrive 11 to 13 can shorten
    /// its drive, and write another version of the same number.
    pub fn is_version_of(&self, other: &Self) -> bool {
        (self.version(), self.fork) == (other.version(), other.fork)
    }

    /// The entry at `path`. Nested drives are not crossed.
    ///
    /// # Errors
    /// `NotFound` if it is proven that there is none, and below a nested drive; `Malformed` for an
    /// entry that makes no sense; those of [`hypermount_core::Core::get`].
    pub async fn entry(&self, path: &DrivePath, wait: Wait) -> Result<Entry> {
        self.check_kept()?;
        // Released before the entry is stamped, which locks a core.
        let known = self.recent.lock().find(path);
        if let Some(known) = known {
            return known.map(|entry| self.stamped(entry)).ok_or(Error::NotFound);
        }
        let looked = self.look_up(path, wait).await;
        self.check_kept()?;
        match &looked {
            Ok(entry) => self.recent.lock().keep(path, Some(entry)),
            Err(Error::NotFound) => self.recent.lock().keep(path, None),
            Err(_) => {}
        }
        looked
    }

    /// Checks that the publisher has not truncated the index below this version: its blocks would be those of another
    /// one.
    fn check_kept(&self) -> Result<()> {
        self.index.core().check_kept(self.fork, self.version())
    }

    async fn look_up(&self, path: &DrivePath, wait: Wait) -> Result<Entry> {
        let mut entry = self.stamped(self.index.entry(path, wait).await?);
        self.measure(&mut entry, wait).await?;
        self.count_names(path, &mut entry.stat, wait).await?;
        Ok(entry)
    }

    /// The children of the directory `path`, in index order. Left out are names that a filesystem
    /// cannot hold, and entries whose stat cannot be read: looking the latter up says so.
    ///
    /// # Errors
    /// `NotADirectory`; `NotFound`; `TooLarge` for more than 36 MiB, unless the drive is written here;
    /// those of [`hypermount_core::Core::get`].
    pub async fn list(&self, path: &DrivePath, wait: Wait) -> Result<Vec<(Name, Entry)>> {
        self.check_kept()?;
        let kept = |entry: Result<Entry>| entry.ok().map(|entry| self.stamped(entry));
        let listed = self.index.list(path, wait, kept).await?;
        let (mut listed, _) = self.measure_all(listed, |entry| Some(entry), wait).await?;
        self.count_all_names(path, &mut listed, |entry| Some(entry), wait).await?;
        self.check_kept()?;
        Ok(listed)
    }

    /// As [`Snapshot::list`], and with the entries that it leaves out because their stat cannot be read: in place of each
    /// the error of looking it up.
    ///
    /// # Errors
    /// Those of [`Snapshot::list`].
    pub async fn list_all(
        &self,
        path: &DrivePath,
        wait: Wait,
    ) -> Result<Vec<(Name, Result<Entry>)>> {
        self.check_kept()?;
        let kept = |entry: Result<Entry>| Some(entry.map(|entry| self.stamped(entry)));
        let listed = self.index.list(path, wait, kept).await?;
        let (mut listed, unmeasured) = self.measure_all(listed, sound, wait).await?;
        self.count_all_names(path, &mut listed, sound, wait).await?;
        self.check_kept()?;
        listed.extend(unmeasured.into_iter().map(|(name, error)| (name, Err(error))));
        Ok(listed)
    }

    /// As [`Snapshot::list`], with shared entries: there is only one copy of them at any time.
    ///
    /// # Errors
    /// Those of [`Snapshot::list`].
    pub async fn list_shared(
        &self,
        path: &DrivePath,
        wait: Wait,
    ) -> Result<Vec<(Name, Arc<Entry>)>> {
        self.check_kept()?;
        let kept = |entry: Result<Entry>| entry.ok().map(|entry| Arc::new(self.stamped(entry)));
        let listed = self.index.list(path, wait, kept).await?;
        let (mut listed, _) = self.measure_all(listed, Arc::get_mut, wait).await?;
        self.count_all_names(path, &mut listed, Arc::get_mut, wait).await?;
        self.check_kept()?;
        Ok(listed)
    }

    /// The fork counter of the content core to which the extents of this version belong.
    pub fn content_fork(&self) -> u64 {
        let now = self.content.as_ref().map_or(0, |content| content.head().fork);
        now.min(self.content_limit)
    }

    /// The entry of the index as one of this version.
    fn stamped(&self, mut entry: Entry) -> Entry {
        entry.stat.extent.fork = self.content_fork();
        entry
    }

    pub(crate) fn index(&self) -> &Index {
        &self.index
    }

    /// Puts the size of a file with a map into its stat.
    async fn measure(&self, entry: &mut Entry, wait: Wait) -> Result<()> {
        let extent = &mut entry.stat.extent;
        if extent.map_size == 0 {
            return Ok(());
        }
        let missing = || Error::Malformed("the drive names no content core".into());
        let content = self.content.as_ref().ok_or_else(missing)?;
        extent.size = match self.maps.known_size(content, extent) {
            Some(size) => size,
            None => self.maps.get(content, extent, wait).await?.size(),
        };
        Ok(())
    }

    /// Puts the sizes of files with a map into their stats; takes those out whose map makes no sense, and returns them
    /// with the reasons.
    async fn measure_all<T>(
        &self,
        mut listed: Vec<(Name, T)>,
        entry: impl Fn(&mut T) -> Option<&mut Entry>,
        wait: Wait,
    ) -> Result<(Vec<(Name, T)>, Vec<(Name, Error)>)> {
        let mut mapped = Vec::new();
        for (at, (_, listed)) in listed.iter_mut().enumerate() {
            let extent = entry(listed).map(|entry| entry.stat.extent);
            mapped.extend(extent.filter(|extent| extent.map_size > 0).map(|extent| (at, extent)));
        }
        let (mut blocks, mut left_out, mut reasons) = (0, Vec::new(), Vec::new());
        for part in mapped.chunks(MAPS_AT_ONCE) {
            let _wanted = self.want_maps(part.iter().map(|(_, extent)| extent), wait);
            for (at, extent) in part {
                blocks += extent.blocks;
                if blocks > MAX_LISTED_MAP_BLOCKS {
                    let what = format!("a directory with {MAX_LISTED_MAP_BLOCKS} blocks of maps");
                    return Err(Error::TooLarge(what));
                }
                let Some((name, listed)) = listed.get_mut(*at) else { continue };
                let Some(entry) = entry(listed) else { continue };
                match self.measure(entry, wait).await {
                    Ok(()) => {}
                    Err(
                        error @ (Error::Malformed(_) | Error::TooLarge(_) | Error::Unsupported(_)),
                    ) => {
                        log::warn!("{}: not listed: {error}", name.as_str());
                        left_out.push(*at);
                        reasons.push((name.clone(), error));
                    }
                    Err(error) => return Err(error),
                }
            }
        }
        if !left_out.is_empty() {
            let mut at = 0..;
            listed.retain(|_| at.next().is_none_or(|at| left_out.binary_search(&at).is_err()));
        }
        Ok((listed, reasons))
    }

    /// Asks for the first block of maps that are not known, together.
    fn want_maps<'a>(
        &self,
        extents: impl Iterator<Item = &'a crate::stat::Extent>,
        wait: Wait,
    ) -> Vec<Ticket> {
        let Some(content) = self.content.as_ref().filter(|_| !wait.is_local()) else {
            return Vec::new();
        };
        let sound = |extent: &&crate::stat::Extent| {
            extent.map_size <= extent.blocks.saturating_mul(MAX_MAP_BLOCK_BYTES as u64)
                && self.maps.known_size(content, extent).is_none()
                && !content.has(extent.block)
        };
        extents.filter(sound).map(|extent| content.demand().want_stored(extent.block)).collect()
    }

    /// Puts the sizes of files with a map into changes, until one cannot be told.
    pub(super) async fn measure_changes(&self, changes: &mut [Changed], wait: Wait) {
        for change in changes {
            for entry in change.before.iter_mut().chain(&mut change.after) {
                entry.stat.extent.fork = self.content_fork();
                if matches!(
                    self.measure(entry, wait).await,
                    Err(Error::Unavailable { .. } | Error::Forked { .. })
                ) {
                    return;
                }
            }
        }
    }
}
