//! What a change of one name of a file does to its other names, and how many names a file has.
//!
//! The entries of all names of a file carry its id, and a record lists them (`link.rs`). A publisher can sign what it
//! likes, and other programs change entries without knowing the record: a name belongs to the file only if its entry
//! says so too, and is equal.

use std::collections::{BTreeMap, BTreeSet};
use std::task::Poll;

use bytes::Bytes;

use super::Snapshot;
use crate::index::{Edit, Index};
use crate::link::{self, FirstPart, Link, LinkId, MAX_LINKS, NAMES_PER_PART};
use crate::path::{DrivePath, Name};
use crate::stat::{Entry, Stat};
use crate::time::Time;
use hypermount_core::{Error, Result, Wait};

/// Records of a listing that are asked for together.
const RECORDS_AT_ONCE: usize = 64;

/// A part of a record that changes.
pub(super) struct PartChange {
    pub(super) id: LinkId,
    pub(super) part: u32,
    /// `None` removes it.
    pub(super) value: Option<Bytes>,
}

/// The record of a file.
#[derive(Default)]
struct Record {
    /// The names that it lists, each once.
    names: Vec<DrivePath>,
    ctime: Time,
    /// The parts as stored.
    parts: Vec<Bytes>,
}

impl Record {
    async fn read(index: &Index, id: LinkId, wait: Wait) -> Result<Self> {
        let Some(bytes) = index.link_part(id, 0, wait).await? else { return Ok(Self::default()) };
        let mut record = Self { parts: vec![bytes.clone()], ..Self::default() };
        let Some(FirstPart { names: count, ctime, paths }) = FirstPart::decode(&bytes) else {
            return Ok(record);
        };
        (record.names, record.ctime) = (paths, Time::from_milliseconds(ctime));
        for part in 1..count.div_ceil(NAMES_PER_PART as u32) {
            let Some(bytes) = index.link_part(id, part, wait).await? else { break };
            record.names.extend(link::decode_part(&bytes));
            record.parts.push(bytes);
        }
        let mut seen = BTreeSet::new();
        record.names.retain(|name| seen.insert(name.clone()));
        Ok(record)
    }

    /// The changes that make this the record of `names`.
    fn become_of(&self, id: LinkId, names: &[DrivePath], ctime: Time) -> Vec<PartChange> {
        let wanted = match names.len() {
            0 | 1 => Vec::new(),
            _ => link::encode_parts(names, ctime.coarse()),
        };
        let parts = 0..self.parts.len().max(wanted.len());
        let changed = parts.filter(|part| self.parts.get(*part) != wanted.get(*part));
        let change = |part: usize| PartChange {
            id,
            // At most one for each name.
            part: part as u32,
            value: wanted.get(part).cloned(),
        };
        changed.map(change).collect()
    }
}

/// The entry at a path; `None` also for one that makes no sense.
async fn entry(index: &Index, path: &DrivePath, wait: Wait) -> Result<Option<Entry>> {
    match index.entry(path, wait).await {
        Ok(entry) => Ok(Some(entry)),
        Err(Error::NotFound | Error::Malformed(_) | Error::TooLarge(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

fn is_named(entry: &Entry, id: LinkId) -> bool {
    entry.stat.link.is_some_and(|link| link.id == id)
}

/// What a batch does to one file with several names.
#[derive(Default)]
struct Touched {
    /// Names of it that the batch puts or removes.
    edited: BTreeSet<DrivePath>,
    /// Those that are names of it afterwards, in order.
    names: Vec<DrivePath>,
    /// The stat of the last of those.
    put: Option<Stat>,
}

/// The edits with all that they imply for other names of the same files, and for the records: an entry that is put
/// with the id of a file is a name of that file, and the other names get what differs; an entry that is removed, or
/// replaced by one without the id, is no name of it any more.
///
/// # Errors
/// `TooManyLinks`; those of [`hypermount_core::Core::get_local`].
pub(super) async fn spread(
    index: &Index,
    edits: Vec<Edit>,
) -> Result<(Vec<Edit>, Vec<PartChange>)> {
    let joins = |edit: &Edit| matches!(edit, Edit::Put { stat, .. } if stat.link.is_some());
    if !edits.iter().any(joins) && !index.has_links(Wait::Local).await? {
        return Ok((edits, Vec::new()));
    }
    let touched = touched_by(index, &edits).await?;
    let mut others: BTreeMap<DrivePath, Stat> = BTreeMap::new();
    let mut parts = Vec::new();
    for (id, touched) in touched {
        parts.extend(settle(index, id, touched, &mut others).await?);
    }
    let mut all = Vec::with_capacity(edits.len() + others.len());
    for edit in edits {
        match edit {
            Edit::Put { path, stat } => {
                let stat = others.remove(&path).unwrap_or(stat);
                all.push(Edit::Put { path, stat });
            }
            remove @ Edit::Remove { .. } => all.push(remove),
        }
    }
    let puts = others.into_iter().map(|(path, stat)| Edit::Put { path, stat });
    Ok((puts.chain(all).collect(), parts))
}

async fn touched_by(index: &Index, edits: &[Edit]) -> Result<BTreeMap<LinkId, Touched>> {
    let mut touched: BTreeMap<LinkId, Touched> = BTreeMap::new();
    for edit in edits {
        let (path, put) = match edit {
            Edit::Put { path, stat } => (path, Some(stat)),
            Edit::Remove { path } => (path, None),
        };
        let before = entry(index, path, Wait::Local).await?;
        if let Some(link) = before.and_then(|before| before.stat.link) {
            let file = touched.entry(link.id).or_default();
            file.edited.insert(path.clone());
            // A later edit of the same path in the batch decides.
            file.names.retain(|name| name != path);
        }
        if let Some((id, stat)) = put.and_then(|stat| Some((stat.link?.id, stat))) {
            let file = touched.entry(id).or_default();
            file.edited.insert(path.clone());
            file.names.retain(|name| name != path);
            file.names.push(path.clone());
            file.put = Some(stat.clone());
        }
    }
    Ok(touched)
}

/// Determines the names that a file has after the batch, and adds to `others` what their entries become beyond the
/// edits themselves. Returns the changes of its record.
async fn settle(
    index: &Index,
    id: LinkId,
    touched: Touched,
    others: &mut BTreeMap<DrivePath, Stat>,
) -> Result<Vec<PartChange>> {
    let Touched { edited, names: put_names, put } = touched;
    let record = Record::read(index, id, Wait::Local).await?;
    // What all names say before the batch: the first name decides.
    let mut before: Option<Stat> = None;
    let mut known: BTreeMap<DrivePath, Stat> = BTreeMap::new();
    for name in &record.names {
        let there = entry(index, name, Wait::Local).await?.filter(|it| is_named(it, id));
        let Some(there) = there.map(|there| there.stat) else { continue };
        if there.is_same_file(before.get_or_insert_with(|| there.clone())) && !edited.contains(name)
        {
            known.insert(name.clone(), there);
        }
    }
    let names = arranged(&record.names, &known, put_names);
    if names.len() > MAX_LINKS as usize {
        return Err(Error::TooManyLinks { max: MAX_LINKS });
    }
    let changed = put
        .as_ref()
        .filter(|put| before.is_some_and(|it| !put.is_same_file(&it) || put.atime != it.atime));
    if let Some(changed) = changed {
        for name in &names {
            let foreign = known.get(name).map_or(changed.foreign.clone(), |it| it.foreign.clone());
            others.insert(name.clone(), Stat { foreign, ..changed.clone() });
        }
    }
    // A rename changes the one entry that it names: its time holds under all names.
    let put_ctime = put.as_ref().map_or(Time::default(), |put| put.ctime);
    let counted = if names.len() == record.names.len() { Time::default() } else { Time::now() };
    let ctime = record.ctime.max(put_ctime).max(counted);
    if let [last] = &names[..] {
        // It is a file with one name again.
        let stat = others.remove(last).or_else(|| known.remove(last)).or(put);
        if let Some(stat) = stat {
            let ctime = stat.ctime.max(ctime);
            others.insert(last.clone(), Stat { link: None, ctime, ..stat });
        }
    }
    Ok(record.become_of(id, &names, ctime))
}

/// The names of a file, as many of them as possible where the record has them now: so few of its parts change.
fn arranged(
    record: &[DrivePath],
    known: &BTreeMap<DrivePath, Stat>,
    put: Vec<DrivePath>,
) -> Vec<DrivePath> {
    let kept: BTreeSet<DrivePath> =
        put.iter().filter(|name| record.contains(*name)).cloned().collect();
    let mut new = put.into_iter().filter(|name| !kept.contains(name));
    let mut names: Vec<Option<DrivePath>> = Vec::new();
    for name in record {
        let stays = known.contains_key(name) || kept.contains(name);
        names.push(if stays { Some(name.clone()) } else { new.next() });
    }
    names.extend(new.map(Some));
    let mut at = 0;
    while at < names.len() {
        match names[at] {
            Some(_) => at += 1,
            None => drop(names.swap_remove(at)),
        }
    }
    names.into_iter().flatten().collect()
}

impl Snapshot {
    /// The names of the file at `path`, itself included: those whose entries are equal and have its id.
    ///
    /// # Errors
    /// Those of [`Snapshot::entry`].
    pub async fn names_of(&self, path: &DrivePath, wait: Wait) -> Result<Vec<DrivePath>> {
        let own = self.entry(path, wait).await?;
        let mut names = vec![path.clone()];
        let Some(link) = own.stat.link else { return Ok(names) };
        for name in Record::read(self.index(), link.id, wait).await?.names {
            let there = entry(self.index(), &name, wait).await?;
            let there = there.filter(|it| is_named(it, link.id) && it.stat.is_same_file(&own.stat));
            if there.is_some() && name != *path {
                names.push(name);
            }
        }
        Ok(names)
    }

    /// Puts into the stat of the entry at `path` how many names its file has, and when it got or lost the last one.
    ///
    /// # Errors
    /// Those of [`hypermount_core::Core::get`].
    pub(super) async fn count_names(
        &self,
        path: &DrivePath,
        stat: &mut Stat,
        wait: Wait,
    ) -> Result<()> {
        let Some(link) = stat.link else { return Ok(()) };
        let first = self.index().link_part(link.id, 0, wait).await?;
        self.confirm(path, stat, decoded(first), wait).await
    }

    /// The same for all entries of a listing of `directory`. Records that are not here are asked for together.
    ///
    /// # Errors
    /// Those of [`hypermount_core::Core::get`].
    pub(super) async fn count_all_names<T>(
        &self,
        directory: &DrivePath,
        listed: &mut [(Name, T)],
        entry: impl Fn(&mut T) -> Option<&mut Entry>,
        wait: Wait,
    ) -> Result<()> {
        let mut linked = Vec::new();
        for (at, (_, listed)) in listed.iter_mut().enumerate() {
            let link = entry(listed).and_then(|entry| entry.stat.link);
            linked.extend(link.map(|link| (at, link.id)));
        }
        for some in linked.chunks(RECORDS_AT_ONCE) {
            let reads = some.iter().map(|(_, id)| self.index().link_part(*id, 0, wait));
            let firsts: Result<Vec<_>> = together(reads).await.into_iter().collect();
            let firsts: Vec<_> = firsts?.into_iter().map(decoded).collect();
            let first_names = firsts.iter().flatten().filter_map(|first| first.paths.first());
            // Asked for together as well; what fails here fails again below.
            drop(together(first_names.map(|name| self.index().entry(name, wait))).await);
            for ((at, _), first) in some.iter().zip(firsts) {
                let Some((name, listed)) = listed.get_mut(*at) else { continue };
                let (Ok(path), Some(entry)) = (directory.join(name), entry(listed)) else {
                    continue;
                };
                self.confirm(&path, &mut entry.stat, first, wait).await?;
            }
        }
        Ok(())
    }

    /// What the record with this first part does not confirm is a file with one name. The entries of all names have to
    /// be equal to the first that has the id. An index that is written here may have been changed by another program,
    /// which knows no record: there all names in the first part are looked up.
    async fn confirm(
        &self,
        path: &DrivePath,
        stat: &mut Stat,
        first: Option<FirstPart>,
        wait: Wait,
    ) -> Result<()> {
        let Some(link) = stat.link.take() else { return Ok(()) };
        let Some(mut first) = first else { return Ok(()) };
        let few = first.names as usize <= NAMES_PER_PART;
        if few && !first.paths.contains(path) {
            return Ok(());
        }
        let counts = few && self.index().core().writable();
        let (mut decided, mut names) = (false, 0);
        for name in &first.paths {
            if decided && !counts {
                break;
            }
            let is_same = if name == path {
                true
            } else {
                let there = entry(self.index(), name, wait).await?;
                let Some(there) = there.filter(|there| is_named(there, link.id)) else { continue };
                there.stat.is_same_file(stat)
            };
            if !decided && !is_same {
                return Ok(());
            }
            decided = true;
            names += u32::from(is_same);
        }
        if counts {
            first.names = names;
        }
        stat.ctime = stat.ctime.max(Time::from_milliseconds(first.ctime));
        stat.link = Some(Link { names: first.names, ..link });
        Ok(())
    }
}

fn decoded(first: Option<Bytes>) -> Option<FirstPart> {
    first.and_then(|bytes| FirstPart::decode(&bytes))
}

/// Waits for all of them at once.
async fn together<F: Future>(futures: impl Iterator<Item = F>) -> Vec<F::Output> {
    let mut waiting: Vec<_> = futures.map(|future| (Box::pin(future), None)).collect();
    std::future::poll_fn(|context| {
        let mut all = true;
        for (future, output) in waiting.iter_mut().filter(|(_, output)| output.is_none()) {
            match future.as_mut().poll(context) {
                Poll::Ready(ready) => *output = Some(ready),
                Poll::Pending => all = false,
            }
        }
        if all { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    waiting.into_iter().filter_map(|(_, output)| output).collect()
}
