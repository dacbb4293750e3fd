//! From a drive into a local directory.
//!
//! A file appears under its name only when it is whole; a link is made, never followed. The drive may
//! be of any publisher: its set-user-id and the like bits stay behind unless it is our own, its owners
//! always do.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::names::TargetNames;
use super::target::{self, TargetDirectory};
use super::{Observer, Report, TransferStep, attributes, failed, local};
use crate::escape::{escape, unescape, unescape_path};
use crate::hyperdrive::{Drive, Snapshot};
use crate::path::{DrivePath, Name};
use crate::stat::{Entry, Kind, Stat};
use hypermount_core::{Error, Result, Urgency, Wait, is_zeros};

/// Bytes read at once, and asked for ahead of that.
const CHUNK: u64 = 1024 * 1024;
const AHEAD: u64 = 4 * CHUNK;
/// Nested directories; each is held open while the ones below it are written.
pub(super) const MAX_DEPTH: usize = 256;

/// How [`export()`] works. By default it compares sizes and times, and removes nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct ExportOptions {
    /// Compare the content of files that look the same.
    pub checksum: bool,
    /// Remove from the directory what is not in the drive.
    pub delete: bool,
    /// Make devices, which only root may. Without it they are left out and named: a device of another publisher may be
    /// any device of this machine.
    pub devices: bool,
    /// Change nothing; only find out what would be done.
    pub dry_run: bool,
}

/// Makes the directory `to` what the tree at `path` of the drive's newest version is; of a single
/// file, one in `to` with its name. What is not here and does not come within `wait` is in the
/// report as missing, and everything else is exported.
///
/// # Errors
/// Those of [`crate::Snapshot::entry`] for `path`, and `Storage` if `to` cannot be made or opened.
pub async fn export(
    drive: &Drive,
    path: &DrivePath,
    to: &Path,
    options: &ExportOptions,
    wait: Wait,
    observer: &mut dyn Observer,
) -> Result<Report> {
    let snapshot = drive.snapshot();
    let entry = snapshot.entry(path, wait).await?;
    if !options.dry_run {
        std::fs::create_dir_all(to).map_err(failed("create", to))?;
    }
    let root = match TargetDirectory::open(to) {
        Ok(root) => Some(root),
        // Only where nothing is to be changed.
        Err(rustix::io::Errno::NOENT) if options.dry_run => None,
        Err(errno) => return Err(failed("open", to)(errno)),
    };
    let (names, report) = (TargetNames::default(), Report::default());
    let top = path.clone();
    let mut export = Export { drive, snapshot, to, options, wait, top, names, report, observer };
    export.walk(path, entry, root).await?;
    if !options.dry_run && !export.report.is_idle() {
        let root = TargetDirectory::open(to).map_err(failed("open", to))?;
        root.sync().map_err(failed("sync", to))?;
    }
    Ok(export.report)
}

/// How much lies below a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Measured {
    /// Regular files.
    pub files: u64,
    /// The sum of their sizes.
    pub bytes: u64,
    /// False if a part of the index was not to be had.
    pub complete: bool,
}

/// How many files and bytes are below `path`, as far as the index is here or comes within `wait`.
///
/// # Errors
/// Those of [`crate::Snapshot::entry`] for `path`.
pub async fn measure(drive: &Drive, path: &DrivePath, wait: Wait) -> Result<Measured> {
    let snapshot = drive.snapshot();
    let entry = snapshot.entry(path, wait).await?;
    let mut found = Measured { files: 0, bytes: 0, complete: true };
    let mut open = vec![(path.clone(), entry)];
    while let Some((path, entry)) = open.pop() {
        match entry.kind {
            Kind::File if entry.stat.mount.is_none() => {
                found.files += 1;
                found.bytes = found.bytes.saturating_add(entry.stat.extent.size);
            }
            Kind::Directory => match snapshot.list(&path, wait).await {
                Ok(listed) => {
                    for (name, entry) in listed {
                        if let Ok(path) = path.join(&name) {
                            open.push((path, entry));
                        }
                    }
                }
                Err(Error::Unavailable { .. }) => found.complete = false,
                Err(error) => return Err(error),
            },
            _ => {}
        }
    }
    Ok(found)
}

struct Export<'a> {
    drive: &'a Drive,
    snapshot: Arc<Snapshot>,
    to: &'a Path,
    options: &'a ExportOptions,
    wait: Wait,
    /// The directory of the drive that becomes `to`.
    top: DrivePath,
    names: TargetNames,
    report: Report,
    observer: &'a mut dyn Observer,
}

/// A directory whose entries are being exported.
struct Frame {
    path: DrivePath,
    /// `None` in a dry run where it does not exist.
    target: Option<TargetDirectory>,
    left: std::vec::IntoIter<(Name, Entry)>,
    /// What the directory becomes at last; `None` for the one the user named.
    stat: Option<Stat>,
}

/// Why an entry was not written.
enum Failed {
    /// Goes into the report.
    Entry(Error),
    /// Ends the run.
    Run(Error),
}

impl Export<'_> {
    fn step(&mut self, path: &DrivePath, step: TransferStep) {
        self.report.step(step);
        self.observer.step(path.as_str(), step);
    }

    /// The local path of an entry, for messages.
    fn local(&self, path: &DrivePath) -> PathBuf {
        self.to.join(path.file_path())
    }

    fn mode(&self, stat: &Stat) -> u32 {
        let kept = if self.drive.writable() { 0o7777 } else { 0o777 };
        stat.mode & kept
    }

    async fn walk(
        &mut self,
        path: &DrivePath,
        entry: Entry,
        root: Option<TargetDirectory>,
    ) -> Result<()> {
        let mut open = Vec::new();
        if entry.kind == Kind::Directory {
            let root = self.enter(path.clone(), root, None).await?;
            open.extend(root);
        } else {
            let name = Name::new(path.name().unwrap_or_default())?;
            let parent = path.parent().unwrap_or_default();
            let left = vec![(name, entry)].into_iter();
            open.push(Frame { path: parent, target: root, left, stat: None });
        }
        while let Some(frame) = open.last_mut() {
            let Some((name, entry)) = frame.left.next() else {
                if let Some(frame) = open.pop() {
                    self.leave(frame)?;
                }
                continue;
            };
            let path = frame.path.join(&name)?;
            let depth = open.len();
            let target = open.last().and_then(|frame| frame.target.as_ref());
            match self.entry(target, &name, &path, &entry, depth).await {
                Ok(None) => {}
                Ok(Some(frame)) => open.push(frame),
                Err(Failed::Entry(error)) => self.report.failed(path.as_str(), &error),
                Err(Failed::Run(error)) => return Err(error),
            }
        }
        Ok(())
    }

    /// Lists a directory of the drive, and with `delete` removes what is only in the local one.
    async fn enter(
        &mut self,
        path: DrivePath,
        target: Option<TargetDirectory>,
        stat: Option<Stat>,
    ) -> Result<Option<Frame>> {
        let mut listed = match self.snapshot.list_all(&path, self.wait).await {
            Ok(listed) => listed,
            Err(error @ Error::Storage { .. }) => return Err(error),
            Err(error) => {
                self.report.failed(path.as_str(), &error);
                return Ok(None);
            }
        };
        listed.sort_by(|(one, _), (other, _)| one.cmp(other));
        if let Some(target) = target.as_ref().filter(|_| self.options.delete) {
            let local = self.local(&path);
            for name in target.names().map_err(failed("list", &local))? {
                let text = escape(name.as_bytes());
                if listed.binary_search_by(|(kept, _)| kept.as_str().cmp(&text)).is_err() {
                    self.delete(target, &path, &name)?;
                }
            }
        }
        let mut left = Vec::with_capacity(listed.len());
        for (name, entry) in listed {
            match entry {
                Ok(entry) => left.push((name, entry)),
                Err(error) => {
                    let path = path.join(&name).unwrap_or_default();
                    self.report.failed(path.as_str(), &error);
                }
            }
        }
        Ok(Some(Frame { path, target, left: left.into_iter(), stat }))
    }

    /// A directory's own mode and time, which writing into it would have changed.
    fn leave(&mut self, frame: Frame) -> Result<()> {
        let (Some(target), Some(stat), false) = (&frame.target, &frame.stat, self.options.dry_run)
        else {
            return Ok(());
        };
        let local = self.local(&frame.path);
        let set = attributes::write(target.as_file(), &attributes::of_stat(stat));
        if let Err(errno) = set.map_err(failed("set attributes of", &local)) {
            self.report.failed(frame.path.as_str(), &errno);
        }
        let finished = target::finish(target.as_file(), self.mode(stat), stat.mtime);
        finished.map_err(failed("set mode and time of", &local))
    }

    async fn entry(
        &mut self,
        target: Option<&TargetDirectory>,
        name: &Name,
        path: &DrivePath,
        entry: &Entry,
        depth: usize,
    ) -> std::result::Result<Option<Frame>, Failed> {
        let local = self.local(path);
        let found = match target {
            Some(target) => target.stat(&name.file_name()),
            None => Ok(None),
        };
        let found = found.map_err(failed("stat", &local)).map_err(Failed::Entry)?;
        if let Some(mount) = &entry.stat.mount {
            let why =
                format!("another drive, hyper://{}, to be exported by itself", mount.key.to_hex());
            self.report.trouble(path.as_str(), why, false);
            return Ok(None);
        }
        let in_the_way = found.as_ref().is_some_and(target::is_directory);
        match entry.kind {
            Kind::Directory if depth >= MAX_DEPTH => {
                self.report.trouble(path.as_str(), "nested too deeply", false);
                Ok(None)
            }
            Kind::Directory if found.is_some() && !in_the_way && !self.options.delete => {
                let why =
                    "something else is in the place of the directory; --delete would replace it";
                self.report.trouble(path.as_str(), why, false);
                Ok(None)
            }
            Kind::Directory => self.directory(target, name, path, entry, found.as_ref()).await,
            Kind::CharacterDevice | Kind::BlockDevice if !self.options.devices => {
                self.report.trouble(path.as_str(), "a device; --devices makes it, as root", false);
                Ok(None)
            }
            _ if in_the_way && !self.options.delete => {
                let why = "a directory is in its place; --delete would replace it";
                self.report.trouble(path.as_str(), why, false);
                Ok(None)
            }
            _ => {
                let found = found.filter(|found| !target::is_directory(found));
                if let Some(target) = target.filter(|_| in_the_way) {
                    let parent = path.parent().unwrap_or_default();
                    self.delete(target, &parent, &name.file_name()).map_err(Failed::Entry)?;
                }
                if self.is_linked(target, name, path, &entry.stat, found.as_ref()) {
                    return Ok(None);
                }
                let found = found.filter(|found| self.names.may_stay(&entry.stat, found));
                match entry.kind {
                    Kind::Symlink => self.symlink(target, name, path, &entry.stat, found.as_ref()),
                    Kind::File => self.file(target, name, path, &entry.stat, found.as_ref()).await,
                    _ => self.special(target, name, path, &entry.stat, found.as_ref()),
                }?;
                if let Some(target) = target {
                    self.names.exported(&entry.stat, path, target);
                }
                Ok(None)
            }
        }
    }

    /// Makes the name another one of a file that was exported, if it is one; whether that was possible.
    fn is_linked(
        &mut self,
        target: Option<&TargetDirectory>,
        name: &Name,
        path: &DrivePath,
        stat: &Stat,
        found: Option<&rustix::fs::Stat>,
    ) -> bool {
        let (Some((first, inode)), Some(target)) = (self.names.first(stat), target) else {
            return false;
        };
        let step = match found {
            Some(found) if target::inode(found) == *inode => TransferStep::Unchanged,
            _ => TransferStep::Metadata,
        };
        if step == TransferStep::Metadata && !self.options.dry_run {
            let temporary = TargetDirectory::temporary(&name.file_name());
            let link = || {
                let mut from = TargetDirectory::open(self.to).ok()?;
                let above = self.top.components().count();
                for name in first.parent()?.components().skip(above) {
                    from = from.existing(OsStr::from_bytes(&unescape(name))).ok()?;
                }
                target.link(&from, &first.file_name()?, &temporary).ok()?;
                target.rename(&temporary, &name.file_name()).ok()
            };
            // A file system without links, or with too many of them, gets a file of its own.
            if link().is_none() {
                return false;
            }
        }
        self.observer.bytes(stat.extent.size);
        self.step(path, step);
        true
    }

    async fn directory(
        &mut self,
        target: Option<&TargetDirectory>,
        name: &Name,
        path: &DrivePath,
        entry: &Entry,
        found: Option<&rustix::fs::Stat>,
    ) -> std::result::Result<Option<Frame>, Failed> {
        let there = found.filter(|found| target::is_directory(found));
        // A directory that was not stored has no mode of its own: an existing one keeps its mode.
        let stat = (entry.explicit || there.is_none()).then(|| entry.stat.clone());
        let same = there.is_some_and(|found| {
            let mode = target::permissions(found);
            stat.as_ref()
                .is_none_or(|stat| mode == self.mode(stat) && target::has_mtime(found, stat.mtime))
        });
        let step = match (there, same) {
            (None, _) => TransferStep::Directory,
            (Some(_), false) => TransferStep::Metadata,
            (Some(_), true) => TransferStep::Unchanged,
        };
        if found.is_some() && there.is_none() {
            self.step(path, TransferStep::Delete);
        }
        let inside = self.open_directory(target, name, found).map_err(|error| {
            let local = self.local(path);
            Failed::Entry(failed("create", &local)(error))
        })?;
        self.step(path, step);
        self.enter(path.clone(), inside, stat).await.map_err(Failed::Run)
    }

    fn open_directory(
        &self,
        target: Option<&TargetDirectory>,
        name: &Name,
        found: Option<&rustix::fs::Stat>,
    ) -> rustix::io::Result<Option<TargetDirectory>> {
        let Some(target) = target else { return Ok(None) };
        let name = name.file_name();
        let other = found.is_some_and(|found| !target::is_directory(found));
        if self.options.dry_run {
            let there = found.is_some() && !other;
            return there.then(|| target.existing(&name)).transpose();
        }
        if other {
            target.unlink(&name)?;
        }
        let inside = target.subdirectory(&name)?;
        inside.unlock()?;
        Ok(Some(inside))
    }

    fn symlink(
        &mut self,
        target: Option<&TargetDirectory>,
        name: &Name,
        path: &DrivePath,
        stat: &Stat,
        found: Option<&rustix::fs::Stat>,
    ) -> std::result::Result<(), Failed> {
        let linkname = unescape_path(stat.linkname.as_deref().unwrap_or_default());
        let name = &*name.file_name();
        let there = found.is_some_and(target::is_symlink)
            && target
                .and_then(|target| target.link_target(name).ok())
                .is_some_and(|present| present == *linkname);
        if there && found.is_some_and(|found| target::has_mtime(found, stat.mtime)) {
            self.step(path, TransferStep::Unchanged);
            return Ok(());
        }
        self.step(path, if there { TransferStep::Metadata } else { TransferStep::Symlink });
        let Some(target) = target.filter(|_| !self.options.dry_run) else { return Ok(()) };
        let make = || {
            if there {
                return target.set_link_time(name, stat.mtime);
            }
            let temporary = TargetDirectory::temporary(name);
            target.symlink(&temporary, &linkname)?;
            target.set_link_time(&temporary, stat.mtime)?;
            target.rename(&temporary, name)
        };
        make().map_err(failed("link", &self.local(path))).map_err(Failed::Entry)
    }

    /// A fifo, a socket or a device.
    fn special(
        &mut self,
        target: Option<&TargetDirectory>,
        name: &Name,
        path: &DrivePath,
        stat: &Stat,
        found: Option<&rustix::fs::Stat>,
    ) -> std::result::Result<(), Failed> {
        let name = &*name.file_name();
        let there = found.filter(|found| target::is_special(found, stat));
        let mode = self.mode(stat);
        let is_same = |found: &rustix::fs::Stat| {
            target::permissions(found) == mode && target::has_mtime(found, stat.mtime)
        };
        if there.is_some_and(is_same) {
            self.step(path, TransferStep::Unchanged);
            return Ok(());
        }
        let made = match target.filter(|_| !self.options.dry_run) {
            Some(target) if there.is_some() => target.finish_special(name, mode, stat.mtime),
            Some(target) => {
                let temporary = TargetDirectory::temporary(name);
                let made = target
                    .special(&temporary, stat)
                    .and_then(|()| target.finish_special(&temporary, mode, stat.mtime))
                    .and_then(|()| target.rename(&temporary, name));
                made.inspect_err(|_| target.unlink(&temporary).unwrap_or_default())
            }
            None => Ok(()),
        };
        match made {
            Ok(()) => {
                let step =
                    if there.is_some() { TransferStep::Metadata } else { TransferStep::Special };
                self.step(path, step);
                Ok(())
            }
            Err(rustix::io::Errno::PERM) if stat.device.is_some() => {
                let why =
                    "a device, which only root may make; run this as root, or without --devices";
                self.report.trouble(path.as_str(), why, false);
                Ok(())
            }
            Err(errno) => Err(Failed::Entry(failed("make", &self.local(path))(errno))),
        }
    }

    async fn file(
        &mut self,
        target: Option<&TargetDirectory>,
        name: &Name,
        path: &DrivePath,
        stat: &Stat,
        found: Option<&rustix::fs::Stat>,
    ) -> std::result::Result<(), Failed> {
        let size = stat.extent.size;
        let candidate = found.filter(|found| {
            target::is_file(found) && u64::try_from(found.st_size).is_ok_and(|there| there == size)
        });
        if let (Some(target), Some(found)) = (target, candidate)
            && self.same_content(target, name, stat, found).await.map_err(Failed::Entry)?
        {
            self.observer.bytes(size);
            return self.refresh(target, name, path, stat, found);
        }
        if self.options.dry_run {
            self.step(path, TransferStep::Content(size));
            return Ok(());
        }
        let Some(target) = target else { return Ok(()) };
        let temporary = TargetDirectory::temporary(&name.file_name());
        let written = self.write(target, &temporary, path, stat).await.and_then(|()| {
            let renamed = target.rename(&temporary, &name.file_name());
            renamed.map_err(failed("rename", &self.local(path)))
        });
        match written {
            Ok(()) => {
                self.step(path, TransferStep::Content(size));
                Ok(())
            }
            Err(error) => {
                // What is left of it costs space and says nothing.
                let _ = target.unlink(&temporary);
                match error {
                    Error::Storage { .. } | Error::Closed => Err(Failed::Run(error)),
                    error => Err(Failed::Entry(error)),
                }
            }
        }
    }

    async fn same_content(
        &self,
        target: &TargetDirectory,
        name: &Name,
        stat: &Stat,
        found: &rustix::fs::Stat,
    ) -> Result<bool> {
        let looks_same = target::has_mtime(found, stat.mtime);
        if !self.options.checksum || !looks_same {
            return Ok(looks_same);
        }
        let local = self.to.join(name.file_name());
        let Ok(mut file) = target.file(&name.file_name()) else { return Ok(false) };
        let mut at = 0;
        while at < stat.extent.size {
            let ours = local::read_block(&mut file, &local)?;
            let end = at + ours.len() as u64;
            let pieces = self.drive.read(&stat.extent, at..end, self.wait).await?;
            if ours.is_empty() || pieces.concat() != ours {
                return Ok(false);
            }
            at = end;
        }
        Ok(true)
    }

    /// Mode and attributes of a file whose content is there already.
    fn refresh(
        &mut self,
        target: &TargetDirectory,
        name: &Name,
        path: &DrivePath,
        stat: &Stat,
        found: &rustix::fs::Stat,
    ) -> std::result::Result<(), Failed> {
        let wanted = attributes::of_stat(stat);
        let file = target.file(&name.file_name()).ok();
        let present = file.as_ref().and_then(|file| attributes::read(file).ok());
        let same_mode = target::permissions(found) == self.mode(stat);
        if same_mode && present.is_none_or(|present| present == wanted) {
            self.step(path, TransferStep::Unchanged);
            return Ok(());
        }
        self.step(path, TransferStep::Metadata);
        let Some(file) = file.filter(|_| !self.options.dry_run) else { return Ok(()) };
        let set = attributes::write(&file, &wanted)
            .and_then(|()| target::finish(&file, self.mode(stat), stat.mtime));
        set.map_err(failed("update", &self.local(path))).map_err(Failed::Entry)
    }

    /// Writes a file whole, with its holes, mode, time and attributes, under a temporary name.
    async fn write(
        &mut self,
        target: &TargetDirectory,
        temporary: &OsStr,
        path: &DrivePath,
        stat: &Stat,
    ) -> Result<()> {
        let local = self.local(path);
        let file = target.create(temporary).map_err(failed("create", &local))?;
        let extent = &stat.extent;
        let mut at = 0;
        while at < extent.size {
            let segment = self.drive.segment(extent, at);
            if segment.is_hole {
                self.observer.bytes(segment.end - at);
                at = segment.end;
                continue;
            }
            let end = at.saturating_add(CHUNK).min(segment.end);
            if !self.wait.is_local() {
                let ahead = end..end.saturating_add(AHEAD).min(extent.size);
                self.drive.prefetch(extent, ahead, Urgency::Ahead);
            }
            for piece in self.drive.read(extent, at..end, self.wait).await? {
                if !is_zeros(&piece) {
                    file.write_all_at(&piece, at).map_err(failed("write", &local))?;
                }
                self.observer.bytes(piece.len() as u64);
                at += piece.len() as u64;
            }
            at = end;
        }
        file.set_len(extent.size).map_err(failed("write", &local))?;
        let set = attributes::write(&file, &attributes::of_stat(stat));
        if let Err(error) = set.map_err(failed("set attributes of", &local)) {
            self.report.failed(path.as_str(), &error);
        }
        target::finish(&file, self.mode(stat), stat.mtime).map_err(failed("set mode of", &local))
    }

    /// Removes a local entry and everything below it, never through a link.
    fn delete(&mut self, target: &TargetDirectory, path: &DrivePath, name: &OsStr) -> Result<()> {
        let local = self.local(path).join(name);
        let shown = format!("{}/{}", path.as_str(), escape(name.as_bytes()));
        let found = target.stat(name).map_err(failed("stat", &local))?;
        if !found.as_ref().is_some_and(target::is_directory) {
            self.report.step(TransferStep::Delete);
            self.observer.step(shown.trim_start_matches('/'), TransferStep::Delete);
            return match self.options.dry_run {
                true => Ok(()),
                false => target.unlink(name).map_err(failed("remove", &local)),
            };
        }
        let mut open =
            vec![(target.existing(name).map_err(failed("open", &local))?, name.to_owned())];
        let mut left = vec![self.names_of(&open[0].0, &local)?];
        while let (Some((inside, _)), Some(names)) = (open.last(), left.last_mut()) {
            if let Some(name) = names.pop() {
                let found = inside.stat(&name).map_err(failed("stat", &local))?;
                if found.as_ref().is_some_and(target::is_directory) {
                    let below = inside.existing(&name).map_err(failed("open", &local))?;
                    left.push(self.names_of(&below, &local)?);
                    open.push((below, name));
                } else if !self.options.dry_run {
                    inside.unlink(&name).map_err(failed("remove", &local))?;
                }
                continue;
            }
            left.pop();
            let Some((_, name)) = open.pop() else { break };
            let parent = open.last().map_or(target, |(parent, _)| parent);
            if !self.options.dry_run {
                parent.remove_directory(&name).map_err(failed("remove", &local))?;
            }
        }
        self.report.step(TransferStep::Delete);
        self.observer.step(shown.trim_start_matches('/'), TransferStep::Delete);
        Ok(())
    }

    fn names_of(&self, directory: &TargetDirectory, local: &Path) -> Result<Vec<OsString>> {
        if !self.options.dry_run {
            directory.unlock().map_err(failed("unlock", local))?;
        }
        directory.names().map_err(failed("list", local))
    }
}
