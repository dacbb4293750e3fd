//! From a drive into another one, of another format: the same tree, under a new key.
//!
//! [`convert()`] walks both drives directory by directory and writes what differs. It may be killed at any point and run
//! again: an entry that is in the new drive is done. The old drive may have changed since, and the new one may have been
//! written too. An entry of the new drive that is neither what the old drive has now nor what it had at an earlier
//! run was made or changed in the new drive, and stays.
//!
//! Not here: the new drive (the caller makes it), and the note in the old one (`moved.rs`).

mod contents;
mod kept;
mod record;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{MAX_TROUBLES, Observer, Report, TransferStep, Trouble};
use crate::hyperdrive::{Drive, Edit, Snapshot};
use crate::link::Link;
use crate::path::{DrivePath, Name};
use crate::stat::{Entry, Extent, Kind, Stat};
use contents::{Contents, Failed, Placed, shifted};
use hypermount_core::{Error, Result, Wait};
use kept::{has_same_bytes, is_same, is_unchanged, left_out, stat_of};
pub use record::{Conversion, ConversionLock};

/// What one batch of edits holds at most: entries, and bytes of the files they name.
const MAX_EDITS: usize = 1024;
const MAX_COMMIT_BYTES: u64 = 16 * 1024 * 1024;
/// Files of a directory that peers are asked for ahead of the one that is read.
const FILES_AHEAD: usize = 32;

/// What a conversion did or, without a new drive, would do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Converted {
    /// The version of the old drive that was copied.
    pub version: u64,
    /// What was copied; its troubles are entries that were not.
    pub copied: Report,
    /// Fifos, sockets and devices that were made, and further names of files.
    pub others: u64,
    /// Bytes that were stored for it: those that several entries have, once.
    pub stored: u64,
    /// Of what would be stored, bytes that are not on this machine, counted by whole blocks.
    pub lacking: u64,
    /// Files with such bytes, and the first of them.
    pub lacking_files: u64,
    /// See there.
    pub first_lacking: Option<String>,
    /// Entries that both drives have and that only the new one changed, or removed: they stay.
    pub kept: u64,
    /// The first [`MAX_TROUBLES`] entries that the format of the new drive has no place for.
    pub left_out: Vec<Trouble>,
    /// How many there are.
    pub left_out_count: u64,
}

/// Makes the tree of `new` what that of `old` is at its newest version. The conversion is recorded as it proceeds, and
/// finished if nothing failed: then all of it is on the disk. A dry run, for which there need not be a new drive, only
/// reports what would be done.
/// Entries that cannot be copied are in the report; an error ends the run, with everything before it safe.
///
/// # Errors
/// `Storage`, `ReadOnly`; those of [`Snapshot::list`] for the root; those of [`Drive::apply`].
pub async fn convert(
    old: &Drive,
    new: Option<&Drive>,
    conversion: &mut Conversion,
    dry_run: bool,
    wait: Wait,
    observer: &mut dyn Observer,
) -> Result<Converted> {
    let snapshot = old.snapshot();
    let (version, fork) = (snapshot.version(), old.metadata_core().head().fork);
    let are_usable = conversion.fork == fork && conversion.versions.iter().all(|at| *at <= version);
    let versions = conversion.versions.iter().filter(|_| are_usable);
    let earlier: Vec<Snapshot> = versions.map(|at| old.snapshot_at(*at)).collect();
    let has_whole = conversion.whole && are_usable;
    if !dry_run {
        conversion.begin(version, fork)?;
    }
    let theirs = new.map(Drive::snapshot);
    let mut run = Convert {
        old,
        new,
        dry_run,
        snapshot,
        earlier,
        has_whole,
        reached: theirs.as_ref().map_or(0, |theirs| theirs.version()),
        theirs,
        wait,
        contents: Contents::new(old, new.filter(|_| !dry_run), wait),
        groups: Vec::new(),
        edits: 0,
        named: BTreeSet::new(),
        done: Converted { version, ..Converted::default() },
        conversion,
        observer,
    };
    run.walk().await?;
    run.commit().await?;
    let done = run.done;
    if let Some(new) = new.filter(|_| !dry_run) {
        new.sync()?;
        if done.copied.trouble_count == 0 {
            conversion.finish(version)?;
        }
    }
    Ok(done)
}

/// Edits that are applied together or not at all.
struct Group {
    edits: Vec<Edit>,
    /// The files among them have their bytes in blocks that wait.
    is_waiting: bool,
    /// What the new drive had at these paths.
    before: Vec<(DrivePath, Option<Entry>)>,
}

struct Convert<'a> {
    old: &'a Drive,
    new: Option<&'a Drive>,
    dry_run: bool,
    snapshot: Arc<Snapshot>,
    /// The old drive at earlier runs.
    earlier: Vec<Snapshot>,
    /// The new drive had all of the first of these versions.
    has_whole: bool,
    /// The new drive before this run.
    theirs: Option<Arc<Snapshot>>,
    /// The version of the new drive after the last commit of this run.
    reached: u64,
    wait: Wait,
    contents: Contents<'a>,
    groups: Vec<Group>,
    edits: usize,
    /// Further names of files that were put with the first one.
    named: BTreeSet<DrivePath>,
    done: Converted,
    conversion: &'a mut Conversion,
    observer: &'a mut dyn Observer,
}

/// One path as each side has it.
struct Place {
    path: DrivePath,
    want: Option<Entry>,
    earlier: Vec<Option<Entry>>,
    is: Option<Entry>,
}

/// What is to be done at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// The new drive has it.
    Same,
    Put,
    Remove,
    /// The new drive alone changed it.
    Kept,
    /// Both changed it.
    Conflict,
}

impl Place {
    /// `has_whole`: the new drive had all of the first of the earlier versions.
    fn verdict(&self, has_whole: bool) -> Verdict {
        let was = |is: &Entry| self.earlier.iter().flatten().any(|earlier| is_same(earlier, is));
        // What differs now, the new drive changed.
        let unchanged = has_whole
            && self.want.as_ref().is_some_and(|want| {
                let same = |earlier: &Entry| is_unchanged(earlier, want);
                self.earlier.iter().all(|earlier| earlier.as_ref().is_some_and(same))
            });
        match (&self.want, &self.is) {
            (None, None) => Verdict::Same,
            // It is there because of what is below it.
            (None, Some(is)) if !is.explicit => Verdict::Same,
            (None, Some(is)) if was(is) => Verdict::Remove,
            // Made in the new drive, or changed there after the old drive had it.
            (None, Some(_)) if self.earlier.iter().any(Option::is_some) => Verdict::Conflict,
            (None, Some(_)) => Verdict::Kept,
            (Some(want), Some(is)) if is_same(want, is) => Verdict::Same,
            // Nothing is to be stored for it.
            (Some(want), None) if !want.explicit => Verdict::Same,
            (Some(_), _) if unchanged => Verdict::Kept,
            (Some(_), None) => Verdict::Put,
            (Some(want), Some(is)) if !is.explicit && want.kind == Kind::Directory => Verdict::Put,
            (Some(want), Some(is)) if was(is) && want.explicit => Verdict::Put,
            (Some(_), Some(_)) => Verdict::Conflict,
        }
    }
}

/// A directory that is to be looked at, and which sides have it.
struct Directory {
    path: DrivePath,
    want: bool,
    earlier: Vec<bool>,
    is: bool,
}

fn is_directory(entry: Option<&Entry>) -> bool {
    entry.is_some_and(|entry| entry.kind == Kind::Directory)
}

impl Convert<'_> {
    fn step(&mut self, path: &DrivePath, step: TransferStep) {
        self.done.copied.step(step);
        self.observer.step(path.as_str(), step);
    }

    /// Depth first, with the names of one directory of each side in memory.
    async fn walk(&mut self) -> Result<()> {
        let root = DrivePath::root();
        let want = self.snapshot.entry(&root, self.wait).await?;
        let place = self.place(&root, Some(want), true).await?;
        let mut open = Vec::from_iter(self.visit(place).await?);
        while let Some(directory) = open.pop() {
            let places = match self.places(&directory).await {
                Ok(places) => places,
                Err(error @ (Error::Storage { .. } | Error::Closed)) => return Err(error),
                // What is there cannot be told from nothing: nothing is removed.
                Err(error) => {
                    self.done.copied.failed(directory.path.as_str(), &error);
                    continue;
                }
            };
            let files =
                places.iter().map(|place| place.want.as_ref().map(|entry| entry.stat.extent));
            let files: Vec<Option<Extent>> = files.collect();
            for (at, place) in places.into_iter().enumerate() {
                let ahead = files.get(at + 1..).unwrap_or_default().iter().take(FILES_AHEAD);
                ahead.flatten().for_each(|extent| self.contents.prefetch(extent));
                open.extend(self.visit(place).await?);
                self.commit_if_full().await?;
            }
        }
        Ok(())
    }

    /// The names that any side has in a directory.
    async fn places(&self, directory: &Directory) -> Result<Vec<Place>> {
        let path = &directory.path;
        let mut want = match directory.want {
            true => names(&self.snapshot, path, self.wait).await?,
            false => BTreeMap::new(),
        };
        let mut is = match (&self.theirs, directory.is) {
            (Some(theirs), true) => names(theirs, path, Wait::Local).await?,
            _ => BTreeMap::new(),
        };
        let mut earlier = Vec::new();
        for (snapshot, has) in self.earlier.iter().zip(&directory.earlier) {
            earlier.push(match has {
                // What is not known of it, an entry of the new drive is not compared with.
                true => names(snapshot, path, self.wait).await.unwrap_or_default(),
                false => BTreeMap::new(),
            });
        }
        let all: BTreeSet<Name> = want.keys().chain(is.keys()).cloned().collect();
        let mut places = Vec::with_capacity(all.len());
        for name in all {
            let path = path.join(&name)?;
            let earlier = earlier.iter_mut().map(|names| names.remove(&name)).collect();
            places.push(without_note(Place {
                path,
                want: want.remove(&name),
                earlier,
                is: is.remove(&name),
            }));
        }
        Ok(places)
    }

    /// A path as all sides have it; `want` is what the old drive has.
    async fn place(&self, path: &DrivePath, want: Option<Entry>, has: bool) -> Result<Place> {
        let mut earlier = Vec::new();
        for snapshot in &self.earlier {
            earlier.push(entry(snapshot, path, self.wait).await.unwrap_or_default());
        }
        let is = match &self.theirs {
            Some(theirs) if has => entry(theirs, path, Wait::Local).await?,
            _ => None,
        };
        Ok(without_note(Place { path: path.clone(), want, earlier, is }))
    }

    /// Does what is to be done at one path; the directory that is to be looked at then.
    async fn visit(&mut self, mut place: Place) -> Result<Option<Directory>> {
        let want = place.want.as_ref();
        if let Some(why) = want.and_then(|want| left_out(want, self.conversion.to)) {
            self.done.left_out_count += 1;
            if self.done.left_out.len() < MAX_TROUBLES {
                let path = place.path.as_str().to_owned();
                self.done.left_out.push(Trouble { path, why, missing: false });
            }
            if want.is_some_and(kept::is_left_out_whole) {
                place.want = None;
                place.earlier.fill(None);
            }
        }
        let directory = Directory {
            path: place.path.clone(),
            want: is_directory(place.want.as_ref()),
            earlier: place.earlier.iter().map(|entry| is_directory(entry.as_ref())).collect(),
            is: is_directory(place.is.as_ref()),
        };
        if self.named.remove(&place.path) {
            return Ok(None);
        }
        let verdict = place.verdict(self.has_whole);
        // What is in a directory has no place below something else that stays.
        let stays = matches!(verdict, Verdict::Kept | Verdict::Conflict);
        let is_barred = stays && directory.want && !directory.is && place.is.is_some();
        match verdict {
            Verdict::Same => self.is_there(&place),
            Verdict::Kept => self.done.kept += u64::from(place.want.is_some()),
            Verdict::Conflict => self.conflict(&place.path),
            Verdict::Remove if directory.is => {
                return Ok(Some(self.remove_directory(place, directory)));
            }
            Verdict::Remove => {
                self.step(&place.path, TransferStep::Delete);
                let edit = Edit::Remove { path: place.path.clone() };
                self.push(vec![edit], vec![(place.path, place.is)], false);
            }
            Verdict::Put if directory.is && !directory.want => {
                return self.replace_directory(place).await.map(|()| None);
            }
            Verdict::Put => self.put(place, Vec::new()).await?,
        }
        let goes_on = directory.want || directory.is && directory.earlier.contains(&true);
        Ok((goes_on && !is_barred).then_some(directory))
    }

    fn is_there(&mut self, place: &Place) {
        let (Some(want), Some(is)) = (&place.want, &place.is) else { return };
        if want.explicit {
            self.step(&place.path, TransferStep::Unchanged);
        }
        if want.kind == Kind::File {
            self.contents.is_at(&want.stat.extent, is.stat.extent);
        }
    }

    fn conflict(&mut self, path: &DrivePath) {
        let why = "both drives have changed it; what the new drive has stays. To take what the old drive has, remove it \
                   in the new drive and run this again";
        let path = if path.is_root() { "/" } else { path.as_str() };
        self.done.copied.trouble(path, why, false);
    }

    /// Removes a directory and what the old drive had in it. What was put there in the new drive stays, in a directory
    /// without attributes.
    fn remove_directory(&mut self, place: Place, directory: Directory) -> Directory {
        if place.is.as_ref().is_some_and(|is| is.explicit) {
            self.step(&place.path, TransferStep::Delete);
            let edit = Edit::Remove { path: place.path.clone() };
            self.push(vec![edit], vec![(place.path, place.is)], false);
        }
        directory
    }

    /// Puts what is no directory in the place of one, if the new drive has nothing of its own in that.
    async fn replace_directory(&mut self, place: Place) -> Result<()> {
        let mut edits = Vec::new();
        let mut open = vec![self.place(&place.path, None, true).await?];
        while let Some(inside) = open.pop() {
            if is_directory(inside.is.as_ref()) {
                let earlier = inside.earlier.iter().map(|entry| is_directory(entry.as_ref()));
                let earlier = earlier.collect();
                let path = inside.path.clone();
                open.extend(
                    self.places(&Directory { path, want: false, earlier, is: true }).await?,
                );
            }
            let is_implied = inside.is.as_ref().is_some_and(|is| !is.explicit);
            match inside.verdict(self.has_whole) {
                _ if is_implied => {}
                Verdict::Remove => edits.push(Edit::Remove { path: inside.path }),
                _ => {
                    self.conflict(&place.path);
                    return Ok(());
                }
            }
        }
        self.put(place, edits).await
    }

    /// Puts an entry, after other edits, and with all names of its file that are to be put.
    async fn put(&mut self, mut place: Place, before: Vec<Edit>) -> Result<()> {
        let Some(want) = place.want.clone() else { return Ok(()) };
        let mut others = Vec::new();
        if want.stat.link.is_some() {
            let names = match self.snapshot.names_of(&place.path, self.wait).await {
                Ok(names) => names,
                Err(error) => return self.not_copied(&place.path, Failed::Reading(error)),
            };
            if let [_] = &names[..] {
                // Its record names others that are not its.
                place.want = Some(Entry { stat: Stat { link: None, ..want.stat }, ..want });
                if place.verdict(self.has_whole) == Verdict::Same {
                    self.is_there(&place);
                    return Ok(());
                }
            } else {
                others = self.other_names(&place.path, names).await?;
            }
        }
        let Some(want) = &place.want else { return Ok(()) };
        let (placed, is_copied) = match self.bytes_of(&place, want).await {
            Ok(placed) => placed,
            Err(failed) => return self.not_copied(&place.path, failed),
        };
        let step = match want.kind {
            Kind::Directory if place.is.as_ref().is_some_and(|is| is.explicit) => {
                TransferStep::Metadata
            }
            Kind::Directory => TransferStep::Directory,
            Kind::Symlink => TransferStep::Symlink,
            Kind::File if is_copied || place.is.is_none() => {
                TransferStep::Content(want.stat.extent.size)
            }
            _ => TransferStep::Metadata,
        };
        if is_copied {
            self.done.stored += want.stat.extent.size;
        }
        let is_special = !matches!(want.kind, Kind::Directory | Kind::Symlink | Kind::File);
        let mut edits = before;
        let mut there = vec![(place.path.clone(), place.is.clone())];
        let (extent, is_waiting) = match placed {
            Placed::Stored(extent) => (extent, false),
            Placed::Waiting(extent) => (extent, true),
        };
        let stat = stat_of(want);
        let link = stat.link.map(|link| Link { names: 0, ..link });
        let stat = Stat { extent, link, ..stat };
        match is_special {
            true => {
                self.done.others += 1;
                self.observer.step(place.path.as_str(), step);
            }
            false => self.step(&place.path, step),
        }
        edits.push(Edit::Put { path: place.path, stat: stat.clone() });
        for other in others {
            self.done.others += 1;
            self.observer.step(other.path.as_str(), TransferStep::Metadata);
            edits.push(Edit::Put { path: other.path.clone(), stat: stat.clone() });
            self.named.insert(other.path.clone());
            there.push((other.path, other.is));
        }
        self.push(edits, there, is_waiting);
        Ok(())
    }

    /// The other names of a file that are to be put with it.
    async fn other_names(&self, path: &DrivePath, names: Vec<DrivePath>) -> Result<Vec<Place>> {
        let mut others = Vec::new();
        for name in names.into_iter().filter(|name| name != path) {
            let want = entry(&self.snapshot, &name, self.wait).await?;
            let other = self.place(&name, want, true).await?;
            // A directory in its place is removed where the walk comes to it.
            if other.verdict(self.has_whole) == Verdict::Put && !is_directory(other.is.as_ref()) {
                others.push(other);
            }
        }
        Ok(others)
    }

    /// Where the bytes of an entry are in the new drive, and whether they were copied for it.
    async fn bytes_of(&mut self, place: &Place, want: &Entry) -> Result<(Placed, bool), Failed> {
        let extent = &want.stat.extent;
        if want.kind != Kind::File {
            return Ok((Placed::Stored(Extent::default()), false));
        }
        if let Some(known) = self.contents.known(extent) {
            return Ok((known, false));
        }
        if let Some(is) = &place.is {
            let kept = |earlier: &&Entry| is_same(earlier, is) && has_same_bytes(earlier, want);
            if place.earlier.iter().flatten().any(|earlier| kept(&earlier)) {
                self.contents.is_at(extent, is.stat.extent);
                return Ok((Placed::Stored(is.stat.extent), false));
            }
        }
        if self.dry_run {
            Drive::check_extent(extent).map_err(Failed::Reading)?;
            self.contents.would_copy(extent);
            let lacking = self.old.lacking(extent, 0..extent.size);
            if lacking > 0 {
                self.done.lacking += lacking;
                self.done.lacking_files += 1;
                self.done.first_lacking.get_or_insert_with(|| place.path.as_str().to_owned());
            }
            return Ok((Placed::Stored(Extent::default()), true));
        }
        if Contents::is_streamed(extent) {
            self.append().await.map_err(Failed::Writing)?;
            let large = self.contents.large(extent, self.conversion, self.observer).await?;
            return Ok((Placed::Stored(large), true));
        }
        Ok((self.contents.small(extent, self.observer).await?, true))
    }

    fn not_copied(&mut self, path: &DrivePath, failed: Failed) -> Result<()> {
        match failed {
            Failed::Writing(error)
            | Failed::Reading(error @ (Error::Storage { .. } | Error::Closed)) => Err(error),
            Failed::Reading(error) => {
                self.done.copied.failed(path.as_str(), &error);
                Ok(())
            }
        }
    }

    fn push(
        &mut self,
        edits: Vec<Edit>,
        before: Vec<(DrivePath, Option<Entry>)>,
        is_waiting: bool,
    ) {
        if !self.dry_run {
            self.edits += edits.len();
            self.groups.push(Group { edits, is_waiting, before });
        }
    }

    async fn commit_if_full(&mut self) -> Result<()> {
        if self.contents.is_full() {
            self.append().await?;
        }
        let full = self.edits >= MAX_EDITS || self.contents.unnamed >= MAX_COMMIT_BYTES;
        if full { self.commit().await } else { Ok(()) }
    }

    /// Appends the bytes that wait, and makes the entries that name them ready.
    async fn append(&mut self) -> Result<()> {
        let Some(base) = self.contents.append().await? else { return Ok(()) };
        for group in self.groups.iter_mut().filter(|group| group.is_waiting) {
            group.is_waiting = false;
            for edit in &mut group.edits {
                if let Edit::Put { stat, .. } = edit {
                    stat.extent = shifted(stat.extent, &base);
                }
            }
        }
        Ok(())
    }

    /// Makes everything done so far one version of the new drive. What that was given since the run began stays.
    async fn commit(&mut self) -> Result<()> {
        self.append().await?;
        let Some(new) = self.new.filter(|_| !self.groups.is_empty()) else { return Ok(()) };
        if self.contents.unnamed > 0 {
            new.content()?.sync()?;
        }
        let mut groups = std::mem::take(&mut self.groups);
        (self.edits, self.contents.unnamed) = (0, 0);
        let turn = new.turn().await;
        let now = new.snapshot();
        if now.version() != self.reached {
            let mut left = Vec::new();
            for group in groups {
                match changed_since(&now, &group).await? {
                    Some(path) => self.conflict(&path),
                    None => left.push(group),
                }
            }
            groups = left;
        }
        let edits =
            |groups: &[Group]| groups.iter().flat_map(|group| group.edits.clone()).collect();
        match new.advance_in(&turn, edits(&groups)).await {
            Ok(versions) => self.reached = versions.end,
            Err(error) if is_of_entry(&error) => {
                // The format cannot hold one of them.
                for group in &groups {
                    match new.advance_in(&turn, group.edits.clone()).await {
                        Ok(versions) => self.reached = versions.end,
                        Err(error) if is_of_entry(&error) => {
                            let path = group.before.first().map_or("", |(path, _)| path.as_str());
                            self.done.copied.failed(path, &error);
                        }
                        Err(error) => return Err(error),
                    }
                }
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }
}

/// Whether an error is about one edit, and not about the drive or the store.
fn is_of_entry(error: &Error) -> bool {
    matches!(
        error,
        Error::TooLarge(_) | Error::Unsupported(_) | Error::NotFound | Error::TooManyLinks { .. }
    )
}

/// A path of the group at which the drive does not have what it had before.
async fn changed_since(now: &Snapshot, group: &Group) -> Result<Option<DrivePath>> {
    for (path, before) in &group.before {
        let there = entry(now, path, Wait::Local).await?.filter(|entry| entry.explicit);
        let before = before.as_ref().filter(|entry| entry.explicit);
        let same = match (before, &there) {
            (None, None) => true,
            (Some(before), Some(there)) => is_same(before, there) && has_same_place(before, there),
            _ => false,
        };
        if !same {
            return Ok(Some(path.clone()));
        }
    }
    Ok(None)
}

fn has_same_place(one: &Entry, other: &Entry) -> bool {
    one.kind != Kind::File || has_same_bytes(one, other)
}

/// What is at a path; `None` also for what makes no sense.
async fn entry(snapshot: &Snapshot, path: &DrivePath, wait: Wait) -> Result<Option<Entry>> {
    match snapshot.entry(path, wait).await {
        Ok(entry) => Ok(Some(entry)),
        Err(Error::NotFound | Error::Malformed(_) | Error::TooLarge(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

async fn names(snapshot: &Snapshot, path: &DrivePath, wait: Wait) -> Result<BTreeMap<Name, Entry>> {
    match snapshot.list(path, wait).await {
        Ok(listed) => Ok(listed.into_iter().collect()),
        Err(Error::NotFound | Error::NotADirectory) => Ok(BTreeMap::new()),
        Err(error) => Err(error),
    }
}

/// The note that the old drive has moved is not part of what moves.
fn without_note(mut place: Place) -> Place {
    let path = place.path.clone();
    let sides = place.earlier.iter_mut().chain(std::iter::once(&mut place.want));
    for side in sides {
        *side = side.take().and_then(|entry| kept::without_note(&path, entry));
    }
    place
}
