//! From a local directory into a drive.
//!
//! File bytes go to the content core in batches and are synced before the index names them, so that
//! no crash leaves an entry whose bytes are not there; each index batch is one signed version. An
//! entry that is in the index is done, which is all that a second run needs to know.

mod sparse;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use super::attributes::{self, Attributes};
use super::ignores::Ignores;
use super::local::{self, Local, same_metadata};
use super::names::SourceNames;
use super::resume::{self, Note};
use super::{BLOCK_BYTES, Observer, Report, TransferStep, failed};
use crate::escape::escape_path;
use crate::hyperdrive::{Drive, Edit, Pieces, Snapshot, hole_bytes};
use crate::link::{Link, LinkId, MAX_LINKS};
use crate::path::{DrivePath, Name};
use crate::stat::{Entry, Extent, Kind, Stat};
use hypermount_core::{Error, Result, Wait};

/// Content bytes appended under one signature, and held in memory.
const MAX_APPEND_BYTES: usize = 4 * 1024 * 1024;
/// What one index batch holds at most: entries, and bytes of the files they name.
const MAX_EDITS: usize = 1024;
const MAX_COMMIT_BYTES: u64 = 64 * 1024 * 1024;
/// How often a file is read that changes meanwhile.
const MAX_READS: usize = 3;

/// How [`import()`] works. By default it compares size, time and mode, and removes nothing.
#[derive(Clone, Debug, Default)]
pub struct ImportOptions {
    /// Compare the content of every file of the same size, not only of those whose time or mode
    /// differs.
    pub checksum: bool,
    /// Remove from the drive what is not in the directory. What is ignored stays.
    pub delete: bool,
    /// Change nothing; only find out what would be done.
    pub dry_run: bool,
    /// With `dry_run`: read no content, and take every file whose time differs for changed.
    pub estimate: bool,
    /// More files with patterns to ignore.
    pub ignore_files: Vec<PathBuf>,
}

/// Makes the tree at `path` of the drive what the directory `source` is. Entries that cannot be kept
/// are in the report; an error ends the run, with everything before it safe.
///
/// # Errors
/// `ReadOnly`, `NotADirectory`, `Storage`; those of [`Drive::apply`].
pub async fn import(
    source: &Path,
    drive: &Drive,
    path: &DrivePath,
    options: &ImportOptions,
    observer: &mut dyn Observer,
) -> Result<Report> {
    if !drive.writable() {
        let stop = drive.metadata_core().stopped().or(drive.content()?.stopped());
        let reason = stop.map_or("the drive's keys are not here", |stop| stop.reason());
        return Err(Error::ReadOnly(reason));
    }
    let mut import = Import {
        source,
        drive,
        options,
        snapshot: drive.snapshot(),
        note: Note::of(drive),
        pending: Pending::default(),
        names: SourceNames::default(),
        report: Report::default(),
        observer,
    };
    if let Some(known) = import.prepare(path).await? {
        import.walk(path, known).await?;
    }
    import.commit().await?;
    import.link_names().await?;
    import.commit().await?;
    if !options.dry_run {
        drive.sync()?;
    }
    Ok(import.report)
}

/// What waits to be written.
#[derive(Default)]
struct Pending {
    blocks: Vec<Bytes>,
    bytes: usize,
    files: Vec<PendingFile>,
    edits: Vec<Edit>,
    /// Bytes appended that no version names yet.
    unnamed: u64,
}

/// A file whose blocks are in [`Pending::blocks`].
struct PendingFile {
    path: DrivePath,
    stat: Stat,
    /// Relative to the next block of the content core.
    extent: Extent,
}

struct Import<'a> {
    source: &'a Path,
    drive: &'a Drive,
    options: &'a ImportOptions,
    /// The drive before the import.
    snapshot: Arc<Snapshot>,
    note: Option<Note>,
    pending: Pending,
    names: SourceNames,
    report: Report,
    observer: &'a mut dyn Observer,
}

/// A directory still to be looked at.
struct Directory {
    local: PathBuf,
    path: DrivePath,
    /// Whether the drive has a directory there.
    known: bool,
    ignores: Ignores,
}

impl Import<'_> {
    fn step(&mut self, path: &DrivePath, step: TransferStep) {
        self.report.step(step);
        self.observer.step(path.as_str(), step);
    }

    async fn existing(&self, path: &DrivePath) -> Result<Option<Entry>> {
        match self.snapshot.entry(path, Wait::Local).await {
            Ok(entry) => Ok(Some(entry)),
            Err(Error::NotFound) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Sees to it that `path` can be a directory; whether it is one. `None`, and it is in the report, if
    /// something else is there that stays.
    async fn prepare(&mut self, path: &DrivePath) -> Result<Option<bool>> {
        let found = fs::metadata(self.source).map_err(failed("open", self.source))?;
        if !found.is_dir() {
            return Err(Error::NotADirectory);
        }
        let mut above = path.parent();
        while let Some(parent) = above {
            match self.existing(&parent).await?.map(|entry| entry.kind) {
                None | Some(Kind::Directory) => {}
                Some(Kind::Mount) => return Err(Error::ReadOnly("the path is in a nested drive")),
                Some(_) => return Err(Error::NotADirectory),
            }
            above = parent.parent();
        }
        if path.is_root() {
            return Ok(Some(true));
        }
        let entry = self.existing(path).await?;
        if self.is_nested(path, entry.as_ref()) {
            return Ok(None);
        }
        let file = File::open(self.source).map_err(failed("open", self.source))?;
        let found = Local::new(&found);
        self.directory(path, &file, &found, entry, self.source).await
    }

    /// Depth first, with one directory's names in memory and the unvisited ones' paths.
    async fn walk(&mut self, path: &DrivePath, known: bool) -> Result<()> {
        let ignores = Ignores::given(self.source, &self.options.ignore_files)?;
        let top = Directory { local: self.source.into(), path: path.clone(), known, ignores };
        let mut open = vec![top];
        while let Some(directory) = open.pop() {
            let names = match local::names(&directory.local) {
                Ok(names) => names,
                // Nothing there can be told from something unreadable, so nothing is deleted.
                Err(error) => {
                    self.report.failed(directory.path.as_str(), &error);
                    continue;
                }
            };
            let ignores = directory.ignores.inside(&directory.local)?;
            let mut theirs = self.listing(&directory).await?;
            for name in names {
                let local = directory.local.join(&name);
                let shown = || local.strip_prefix(self.source).unwrap_or(&local).to_string_lossy();
                let joined = Name::of_file(&name).and_then(|name| directory.path.join(&name));
                let path = match joined {
                    Ok(path) => path,
                    Err(error) => {
                        let shown = shown().into_owned();
                        self.report.trouble(shown, error.to_string(), false);
                        continue;
                    }
                };
                let existing = theirs.remove(path.name().unwrap_or_default());
                let visited = self.entry(&local, &path, existing, &ignores).await;
                match visited {
                    Ok(None) => {}
                    Ok(Some(known)) => {
                        open.push(Directory { local, path, known, ignores: ignores.clone() });
                    }
                    Err(error @ Error::Storage { .. }) if is_local(&error, &local) => {
                        self.report.failed(path.as_str(), &error);
                    }
                    Err(error @ Error::TooLarge(_)) => {
                        self.report.failed(path.as_str(), &error);
                    }
                    Err(error) => return Err(error),
                }
                self.commit_if_full().await?;
            }
            if self.options.delete {
                for (name, entry) in theirs {
                    let path = directory.path.join(&Name::new(name)?)?;
                    // What is ignored here is left alone there.
                    let is_directory = entry.kind == Kind::Directory;
                    let local = directory.local.join(path.file_name().unwrap_or_default());
                    if !ignores.match_path(&local, is_directory) {
                        self.delete(path, entry).await?;
                    }
                }
            }
        }
        Ok(())
    }

    async fn listing(&self, directory: &Directory) -> Result<BTreeMap<String, Entry>> {
        if !directory.known {
            return Ok(BTreeMap::new());
        }
        let listed = self.snapshot.list(&directory.path, Wait::Local).await?;
        Ok(listed.into_iter().map(|(name, entry)| (name.as_str().to_owned(), entry)).collect())
    }

    /// Imports one entry; of a directory that is to be walked, whether the drive has it already.
    async fn entry(
        &mut self,
        local: &Path,
        path: &DrivePath,
        existing: Option<Entry>,
        ignores: &Ignores,
    ) -> Result<Option<bool>> {
        let found = fs::symlink_metadata(local).map_err(failed("stat", local))?;
        if ignores.match_path(local, found.is_dir()) {
            return Ok(None);
        }
        if self.is_nested(path, existing.as_ref()) {
            return Ok(None);
        }
        let found = Local::new(&found);
        match found.kind {
            Kind::Directory => {
                let file = local::open(local)?;
                self.directory(path, &file, &found, existing, local).await
            }
            _ => {
                let below = existing.as_ref().filter(|entry| entry.kind == Kind::Directory);
                if let Some(entry) = below {
                    if !self.options.delete {
                        let why = "the drive has a directory there; --delete would replace it";
                        self.report.trouble(path.as_str(), why, false);
                        return Ok(None);
                    }
                    self.delete(path.clone(), entry.clone()).await?;
                }
                if self.names.is_further(found.inode, path) {
                    return Ok(None);
                }
                let existing = existing.filter(|entry| entry.kind == found.kind);
                let troubles = self.report.trouble_count;
                match found.kind {
                    Kind::Symlink => self.symlink(path, local, &found, existing)?,
                    Kind::File => self.file(path, local, existing).await?,
                    _ => self.special(path, &found, existing.as_ref()),
                }
                if self.report.trouble_count == troubles {
                    self.names.is_first(found.inode, path);
                }
                Ok(None)
            }
        }
    }

    async fn directory(
        &mut self,
        path: &DrivePath,
        file: &File,
        found: &Local,
        existing: Option<Entry>,
        local: &Path,
    ) -> Result<Option<bool>> {
        let attributes = attributes::read(file).map_err(failed("read attributes of", local))?;
        if let Some(other) = existing.as_ref().filter(|entry| entry.kind != Kind::Directory) {
            if !self.options.delete {
                let what = if other.kind == Kind::Symlink { "symbolic link" } else { "file" };
                let why = format!("the drive has a {what} there; --delete would replace it");
                self.report.trouble(path.as_str(), why, false);
                return Ok(None);
            }
            self.step(path, TransferStep::Delete);
        }
        let existing = existing.filter(|entry| entry.kind == Kind::Directory);
        let before = existing.as_ref().filter(|entry| entry.explicit).map(|entry| &entry.stat);
        let stat = found.stat(&attributes, before);
        match before {
            Some(before) if same_metadata(before, &stat) => {
                self.step(path, TransferStep::Unchanged)
            }
            Some(_) => self.put(path, stat, TransferStep::Metadata),
            None => self.put(path, stat, TransferStep::Directory),
        }
        Ok(Some(existing.is_some()))
    }

    /// Whether another drive is mounted there, which stays and is named.
    fn is_nested(&mut self, path: &DrivePath, existing: Option<&Entry>) -> bool {
        let nested = existing.is_some_and(|entry| entry.stat.mount.is_some());
        if nested {
            self.report.trouble(path.as_str(), "another drive is mounted there", false);
        }
        nested
    }

    fn symlink(
        &mut self,
        path: &DrivePath,
        local: &Path,
        found: &Local,
        existing: Option<Entry>,
    ) -> Result<()> {
        let target = fs::read_link(local).map_err(failed("read", local))?;
        let before = existing.as_ref().map(|entry| &entry.stat);
        let mut stat = found.stat(&Attributes::new(), before);
        stat.linkname = Some(escape_path(target.as_os_str().as_bytes()).into_owned());
        match before {
            Some(before) if same_metadata(before, &stat) && before.link == stat.link => {
                self.step(path, TransferStep::Unchanged)
            }
            _ => self.put(path, Stat { link: None, ..stat }, TransferStep::Symlink),
        }
        Ok(())
    }

    /// A fifo, a socket or a device: what it is, without what may be behind it.
    fn special(&mut self, path: &DrivePath, found: &Local, existing: Option<&Entry>) {
        let before = existing.map(|entry| &entry.stat);
        let stat = found.stat(&Attributes::new(), before);
        match before {
            Some(before) if same_metadata(before, &stat) && before.link == stat.link => {
                self.step(path, TransferStep::Unchanged)
            }
            Some(_) => self.put(path, Stat { link: None, ..stat }, TransferStep::Metadata),
            None => self.put(path, stat, TransferStep::Special),
        }
    }

    fn put(&mut self, path: &DrivePath, stat: Stat, step: TransferStep) {
        self.step(path, step);
        if !self.options.dry_run {
            self.pending.edits.push(Edit::Put { path: path.clone(), stat });
        }
    }

    /// Imports a file as it was at one moment. One that changes while it is read is read again, a few
    /// times; then the drive keeps what it has of it.
    async fn file(
        &mut self,
        path: &DrivePath,
        local: &Path,
        existing: Option<Entry>,
    ) -> Result<()> {
        let mut file = local::open(local)?;
        for _ in 0..MAX_READS {
            let found = Local::at_rest(&file).map_err(failed("stat", local))?;
            if found.kind != Kind::File {
                self.report.trouble(path.as_str(), "it changed while it was looked at", false);
                return Ok(());
            }
            if self.file_as_found(path, local, &mut file, &found, existing.as_ref()).await? {
                return Ok(());
            }
            rewind(&mut file, local)?;
        }
        let why = "it changed each time it was read; what the drive has of it stays";
        self.report.trouble(path.as_str(), why, false);
        Ok(())
    }

    /// One try; whether the file is still what `found` says, and was imported.
    async fn file_as_found(
        &mut self,
        path: &DrivePath,
        local: &Path,
        file: &mut File,
        found: &Local,
        existing: Option<&Entry>,
    ) -> Result<bool> {
        let attributes = attributes::read(&*file).map_err(failed("read attributes of", local))?;
        let before = existing.map(|entry| &entry.stat);
        let mut stat = found.stat(&attributes, before);
        if let Some(before) = before.filter(|before| before.extent.size == found.size)
            && self.same_content(before, found, file, local).await?
        {
            if !found.is_still(file).map_err(failed("stat", local))? {
                return Ok(false);
            }
            stat.extent = before.extent;
            self.observer.bytes(found.size);
            match same_metadata(before, &stat) && before.link == stat.link {
                true => self.step(path, TransferStep::Unchanged),
                // What changes here changes under this name alone; other names get it when they are linked again.
                false => self.put(path, Stat { link: None, ..stat }, TransferStep::Metadata),
            }
            return Ok(true);
        }
        stat.link = None;
        let holes = sparse::holes(file, found).map_err(failed("seek", local))?;
        if self.options.dry_run {
            self.step(path, TransferStep::Content(found.size));
            self.report.holes += hole_bytes(&holes);
            return Ok(true);
        }
        rewind(file, local)?;
        let whole = match found.size > MAX_APPEND_BYTES as u64 {
            _ if !holes.is_empty() => {
                self.sparse_file(path, stat, file, found, &holes, local).await?
            }
            true => self.large_file(path, stat, file, found, local).await?,
            false => self.small_file(path, stat, file, found, local).await?,
        };
        if whole {
            self.step(path, TransferStep::Content(found.size));
            self.report.holes += hole_bytes(&holes);
        }
        Ok(whole)
    }

    /// Whether the drive has the bytes of a file of the same size already. A log only grows: to
    /// compare costs less than to append what is there.
    async fn same_content(
        &self,
        before: &Stat,
        found: &Local,
        file: &mut File,
        local: &Path,
    ) -> Result<bool> {
        let looks_same = before.mode == found.mode && local::same_time(before.mtime, found.mtime);
        if looks_same && !self.options.checksum {
            return Ok(true);
        }
        if self.options.estimate {
            return Ok(false);
        }
        let mut at = 0;
        let mut same = true;
        while same && at < found.size {
            let ours = local::read_block(file, local)?;
            let end = at + ours.len() as u64;
            let theirs = match self.drive.read(&before.extent, at..end, Wait::Local).await {
                Ok(pieces) => pieces,
                // Not here, or not sound: what is on this disk replaces it.
                Err(Error::Unavailable { .. } | Error::Malformed(_) | Error::Corrupt { .. }) => {
                    Pieces::new()
                }
                Err(error) => return Err(error),
            };
            same = !ours.is_empty() && theirs.concat() == ours;
            at = end;
        }
        rewind(file, local)?;
        Ok(same)
    }

    /// A file whose blocks go out together with other files'. False, and nothing kept, if it changed.
    async fn small_file(
        &mut self,
        path: &DrivePath,
        stat: Stat,
        file: &mut File,
        found: &Local,
        local: &Path,
    ) -> Result<bool> {
        let first = self.pending.blocks.len();
        let byte = self.pending.bytes as u64;
        let mut size = 0;
        // One that grows is not read further than the limit: it has changed.
        while size <= MAX_APPEND_BYTES {
            let block = local::read_block(file, local)?;
            let last = block.len() < BLOCK_BYTES;
            if !block.is_empty() {
                self.observer.bytes(block.len() as u64);
                size += block.len();
                self.pending.blocks.push(block);
            }
            if last {
                break;
            }
        }
        if size as u64 != found.size || !found.is_still(file).map_err(failed("stat", local))? {
            self.pending.blocks.truncate(first);
            return Ok(false);
        }
        self.pending.bytes += size;
        let blocks = (self.pending.blocks.len() - first) as u64;
        let extent = Extent {
            block: first as u64,
            blocks,
            byte,
            size: size as u64,
            map_size: 0,
            holes: 0,
            fork: 0,
        };
        self.pending.files.push(PendingFile { path: path.clone(), stat, extent });
        if self.pending.bytes >= MAX_APPEND_BYTES {
            self.append().await?;
        }
        Ok(true)
    }

    /// A file that is appended as it is read. False if it changed: what was appended stays in the log,
    /// and no version names it.
    async fn large_file(
        &mut self,
        path: &DrivePath,
        mut stat: Stat,
        file: &mut File,
        found: &Local,
        local: &Path,
    ) -> Result<bool> {
        self.append().await?;
        // Until its end no other writer appends: a file's blocks are one stretch.
        let mut writer = self.drive.content_writer().await?;
        let content = self.drive.content()?;
        let resumed = match &self.note {
            Some(note) => note.resume(content, file, local)?,
            None => None,
        };
        let (block, byte) = (content.head().length, content.plain_bytes());
        let start = Extent { block, byte, ..Extent::default() };
        stat.extent = resumed.unwrap_or(start);
        self.observer.bytes(stat.extent.size);
        let large = found.size >= resume::MIN_BYTES;
        if let Some(note) = self.note.as_ref().filter(|_| large && resumed.is_none()) {
            note.begin(content)?;
        }
        // One that grows is not read further: it has changed.
        while stat.extent.size <= found.size {
            let blocks = read_blocks(file, local)?;
            let Some(last) = blocks.last().map(Bytes::len) else { break };
            writer.append(&blocks)?;
            let size = blocks.iter().map(|block| block.len() as u64).sum::<u64>();
            stat.extent.blocks += blocks.len() as u64;
            stat.extent.size += size;
            self.observer.bytes(size);
            if last < BLOCK_BYTES {
                break;
            }
        }
        drop(writer);
        let still = found.is_still(file).map_err(failed("stat", local))?;
        if stat.extent.size != found.size || !still {
            return Ok(false);
        }
        self.pending.unnamed += stat.extent.size;
        self.pending.edits.push(Edit::Put { path: path.clone(), stat });
        if large {
            self.commit().await?;
            if let Some(note) = &self.note {
                note.end();
            }
        }
        Ok(true)
    }

    /// Removes an entry with everything below it; nested drives stay.
    async fn delete(&mut self, path: DrivePath, entry: Entry) -> Result<()> {
        let mut open = vec![(path, entry)];
        while let Some((path, entry)) = open.pop() {
            if entry.stat.mount.is_some() {
                self.report.trouble(path.as_str(), "another drive is mounted there", false);
                continue;
            }
            if entry.kind == Kind::Directory {
                for (name, entry) in self.snapshot.list(&path, Wait::Local).await? {
                    open.push((path.join(&name)?, entry));
                }
            }
            if entry.explicit {
                self.step(&path, TransferStep::Delete);
                if !self.options.dry_run {
                    self.pending.edits.push(Edit::Remove { path });
                    self.commit_if_full().await?;
                }
            }
        }
        Ok(())
    }

    /// Appends the blocks that wait, and makes their files ready to be named.
    async fn append(&mut self) -> Result<()> {
        let Pending { blocks, files, edits, bytes, unnamed } = &mut self.pending;
        if files.is_empty() {
            return Ok(());
        }
        let mut writer = self.drive.content_writer().await?;
        writer.append(blocks)?;
        let whole = writer.finish();
        edits.extend(files.drain(..).map(|file| {
            let block = whole.block + file.extent.block;
            let extent = Extent { block, byte: whole.byte + file.extent.byte, ..file.extent };
            Edit::Put { path: file.path, stat: Stat { extent, ..file.stat } }
        }));
        blocks.clear();
        *unnamed += *bytes as u64;
        *bytes = 0;
        Ok(())
    }

    /// Makes the further names of files in the source names of the same files in the drive.
    async fn link_names(&mut self) -> Result<()> {
        let mut used = BTreeSet::new();
        for (first, others) in std::mem::take(&mut self.names).linked() {
            let snapshot = self.drive.snapshot();
            let Some(stored) = stat_at(&snapshot, &first).await? else {
                // Not imported yet, where nothing is changed.
                others.iter().for_each(|path| self.step(path, TransferStep::Metadata));
                continue;
            };
            let fits = |link: &Link| {
                let (names, others) = (link.names as usize, others.len());
                used.insert(link.id)
                    && (names == others + 1 || names + others <= MAX_LINKS as usize)
            };
            let known = stored.link.filter(fits);
            let link = match known {
                Some(link) => link,
                None => Link { id: LinkId::random()?, names: 0 },
            };
            let stat = Stat { link: Some(link), ..stored };
            let mut has_first = known.is_some();
            for path in others {
                let there = stat_at(&snapshot, &path).await?;
                if known.is_some()
                    && there.as_ref().and_then(|it| it.link).map(|it| it.id) == Some(link.id)
                {
                    self.step(&path, TransferStep::Unchanged);
                    continue;
                }
                if !has_first && !self.options.dry_run {
                    self.pending.edits.push(Edit::Put { path: first.clone(), stat: stat.clone() });
                }
                has_first = true;
                let foreign = there.and_then(|there| there.foreign);
                self.put(&path, Stat { foreign, ..stat.clone() }, TransferStep::Metadata);
            }
            // All names of a file in one version.
            self.commit_if_full().await?;
        }
        Ok(())
    }

    async fn commit_if_full(&mut self) -> Result<()> {
        let waiting = self.pending.edits.len() + self.pending.files.len();
        let full = waiting >= MAX_EDITS || self.pending.unnamed >= MAX_COMMIT_BYTES;
        if full { self.commit().await } else { Ok(()) }
    }

    /// Makes everything done so far one version.
    async fn commit(&mut self) -> Result<()> {
        self.append().await?;
        if self.pending.edits.is_empty() {
            return Ok(());
        }
        if self.pending.unnamed > 0 {
            self.drive.content()?.sync()?;
        }
        self.drive.apply(std::mem::take(&mut self.pending.edits)).await?;
        self.pending.unnamed = 0;
        Ok(())
    }
}

async fn stat_at(snapshot: &Snapshot, path: &DrivePath) -> Result<Option<Stat>> {
    match snapshot.entry(path, Wait::Local).await {
        Ok(entry) => Ok(Some(entry.stat)),
        Err(Error::NotFound | Error::Malformed(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Up to [`MAX_APPEND_BYTES`] of a file in blocks; a short one is the last.
fn read_blocks(file: &mut File, path: &Path) -> Result<Vec<Bytes>> {
    let mut blocks = Vec::new();
    while blocks.len() < MAX_APPEND_BYTES / BLOCK_BYTES {
        let block = local::read_block(file, path)?;
        let last = block.len() < BLOCK_BYTES;
        if !block.is_empty() {
            blocks.push(block);
        }
        if last {
            break;
        }
    }
    Ok(blocks)
}

fn rewind(file: &mut File, path: &Path) -> Result<()> {
    use std::io::Seek;
    file.rewind().map_err(failed("seek", path))
}

/// Whether an error is about this local file, and not about the store.
fn is_local(error: &Error, local: &Path) -> bool {
    matches!(error, Error::Storage { path, .. } if path == local)
}
