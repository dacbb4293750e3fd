//! The mounts of a host: making them, noticing their end, making saved ones again.

use std::path::{Path, PathBuf};
use std::process;
use std::sync::Arc;
use std::time::Duration;

use drivefs::{Fs, Mount, MountOptions, Patience, RootLimits, Storing};
use hypermount_drive::Drive;
use hypermount_swarm::PublicKey;
use hypermount_swarm::sync::{Mutex, Rank};
use tokio::runtime::Handle;
use tokio::sync::watch;

use super::all_drives::AllDrives;
use super::{Dialled, Host, wait_limit};
use crate::directories;
use crate::failure::{Context, Failure, Result};
use crate::model::{Find, Happening, How, MountInfo, MountRequest, MountedDrive, StoringFile};
use crate::mountpoint::{self, Made, cannot_mount};
use crate::record::{self, Held, Record};
use crate::values::{WaitLimit, drive_url, short_url};

/// Pause before a saved mount that could not be made is tried again.
const RETRY: Duration = Duration::from_secs(5);
/// How long a request to unmount waits until the mount has ended.
const UNMOUNT_LIMIT: Duration = Duration::from_secs(10);
/// Pause between two looks whether it has.
const POLL: Duration = Duration::from_millis(20);

/// The path of a drive in a mount. (Joined with an empty path, it would get a slash at its end.)
pub fn within(mountpoint: &Path, prefix: &str) -> PathBuf {
    if prefix.is_empty() { mountpoint.to_owned() } else { mountpoint.join(prefix) }
}

/// A mount that exists in the kernel. Dropped in this order: the mount, its directory, its record.
struct Attached {
    mount: Mount,
    made: Option<Made>,
    held: Held,
    record: Record,
}

/// A saved mount that could not be made yet.
pub(super) struct Pending {
    pub trouble: String,
    /// Dropped when the mount is not wanted any more, which ends the attempts to make it.
    _wanted: watch::Sender<()>,
}

/// What a mount shows.
enum Shown {
    Drive(Box<Drive>),
    AllDrives(AllDrives),
}

pub struct Mounted {
    pub mount: Mount,
    pub record: Record,
    made: Mutex<Option<Made>>,
    held: Mutex<Option<Held>>,
    /// Peers that were named for it.
    _peers: Dialled,
}

impl Mounted {
    /// URL of its drive; `None` for a mount of all drives.
    pub fn url(&self) -> Option<String> {
        Some(self.record.url.clone()).filter(|_| !self.record.is_of_all())
    }

    /// What is mounted, for a log.
    fn described(&self) -> String {
        self.url().map_or_else(|| "all drives".to_owned(), |url| short_url(&url))
    }

    /// Ends the mount, if it has not, and removes its directory. Its record is still held.
    fn shutdown(&self) {
        self.mount.shutdown();
        self.remove_directory();
    }

    /// Removes the mount point, if it was made for this mount and is empty.
    fn remove_directory(&self) {
        let made = self.made.lock().take();
        drop(made);
    }
}

impl Host {
    /// Mounts a drive, or all of them; returns when the mount can be used.
    pub async fn mount(self: &Arc<Self>, asked: &MountRequest) -> Result<MountInfo> {
        let mountpoint = check(asked)?;
        let wait = asked.wait.as_deref().map(wait_limit).transpose()?;
        let peers = self.dial(&asked.peers)?;
        let (shown, record) = match asked.all {
            true => self.all_drives(asked, &mountpoint).await?,
            false => self.one_drive(asked, &mountpoint).await?,
        };
        let attached = self.attach(shown, record, self.mount_options(asked, wait)).await?;
        self.keep(attached, peers, asked)
    }

    /// Opens the drive of a mount.
    async fn one_drive(&self, asked: &MountRequest, mountpoint: &Path) -> Result<(Shown, Record)> {
        let wait = asked.wait.as_deref();
        let session = self.session(&asked.drive, &asked.peers, wait, &asked.find).await?;
        let address = match &asked.listen {
            Some(address) => {
                let address = self.listen(address).await?;
                self.announce(session.drive.key())?;
                Some(address)
            }
            None => None,
        };
        let writable = session.drive.writable() && !asked.read_only;
        if writable {
            self.must_be_only_writer(session.drive.key())?;
        }
        self.look_for_note(&session.drive, session.wait).await;
        let record = Record {
            url: session.url(),
            version: session.drive.snapshot().version(),
            read_only: !writable,
            address,
            ..self.record(mountpoint)
        };
        Ok((Shown::Drive(Box::new(session.drive)), record))
    }

    /// What a mount of all drives shows.
    async fn all_drives(
        self: &Arc<Self>,
        asked: &MountRequest,
        mountpoint: &Path,
    ) -> Result<(Shown, Record)> {
        self.find(&asked.find).await?;
        let (host, other) = (Arc::downgrade(self), Arc::downgrade(self));
        let drives = AllDrives {
            store: self.store.clone(),
            network: self.network.clone(),
            looks_for_peers: asked.find != Find::default(),
            is_written: Box::new(move |key| {
                host.upgrade().is_some_and(|host| host.written_at(key).is_some())
            }),
            is_needed: Box::new(move |key| other.upgrade().is_some_and(|host| host.needs(key))),
        };
        let record = Record { read_only: asked.read_only, ..self.record(mountpoint) };
        Ok((Shown::AllDrives(drives), record))
    }

    /// Makes the mount in the kernel, on a thread that may block.
    async fn attach(
        &self,
        shown: Shown,
        record: Record,
        options: MountOptions,
    ) -> Result<Attached> {
        let what = format!("mount on {}", record.mountpoint.display());
        let (state, store) = (self.state_directory.clone(), self.store.clone());
        let runtime = Handle::current();
        let start = move || {
            let at = record.mountpoint.clone();
            let mut made = mountpoint::make(&at)?;
            let earlier = Record::read(&state, &at).and_then(|record| record.made);
            let directory = made.as_ref().map(|made| made.directory).or(earlier);
            let held = Record { made: directory, ..record.clone() }.hold(&state)?;
            if made.is_none() {
                // A process that was killed made the directory. Only the lock that is now held proves
                // that it has ended.
                made = earlier.and_then(|directory| Made::earlier(&at, directory));
            }
            let mount = match shown {
                Shown::Drive(drive) => Mount::start(*drive, store, &at, options, runtime),
                Shown::AllDrives(drives) => {
                    let limits = RootLimits::default();
                    Mount::start_root(Arc::new(drives), store, &at, options, limits, runtime)
                }
            };
            match mount {
                Ok(mount) => Ok(Attached { mount, made, held, record }),
                Err(error) => {
                    drop(made);
                    if directory.is_some() && mountpoint::is_there(&at) {
                        // The next mount needs to know that we made the directory.
                        held.leave();
                    }
                    Err(cannot_mount(error))
                }
            }
        };
        let started = tokio::task::spawn_blocking(start).await;
        started.map_err(|error| Failure::failed(what, error))?
    }

    fn record(&self, mountpoint: &Path) -> Record {
        Record {
            pid: process::id(),
            mountpoint: mountpoint.to_owned(),
            url: String::new(),
            store: self.directory.clone(),
            version: 0,
            read_only: true,
            address: None,
            log: self.log.clone(),
            made: None,
        }
    }

    fn mount_options(&self, asked: &MountRequest, wait: Option<WaitLimit>) -> MountOptions {
        MountOptions {
            allow_other: asked.allow_other,
            patience: patience(wait, self.knows_peers()),
            read_only: asked.read_only,
            ..MountOptions::default()
        }
    }

    /// Keeps a mount that was made, also over a restart if that was asked for.
    fn keep(
        self: &Arc<Self>,
        attached: Attached,
        peers: Dialled,
        asked: &MountRequest,
    ) -> Result<MountInfo> {
        let Attached { mount, made, held, record } = attached;
        let mountpoint = record.mountpoint.clone();
        let (made, held) = (Mutex::new(Rank::LEAF, made), Mutex::new(Rank::LEAF, Some(held)));
        let mounted = Arc::new(Mounted { mount, record, made, held, _peers: peers });
        self.mounts.lock().insert(mountpoint.clone(), mounted.clone());
        self.choose_shared();
        if asked.save {
            let mount = MountRequest { mountpoint: mountpoint.clone(), ..asked.clone() };
            // Saved with its URL, because a name depends on the store, and `-` on its number of drives.
            let mount = MountRequest { drive: mounted.record.url.clone(), ..mount };
            self.change_saved(|saved| {
                saved.forget_mount(&mountpoint);
                saved.mounts.push(mount);
            })?;
        }
        let version = mounted.record.version;
        log::info!("mounted {} on {}", mounted.described(), mountpoint.display());
        self.events.tell(Happening::Mounted { url: mounted.url(), mountpoint, version });
        let (host, watched) = (self.clone(), mounted.clone());
        tokio::spawn(async move {
            watched.mount.wait_ended().await;
            host.mount_ended(&watched).await;
        });
        Ok(self.describe_mount(&mounted))
    }

    /// Where a drive is mounted for writing.
    fn written_at(&self, key: &PublicKey) -> Option<PathBuf> {
        self.mounts.lock().values().find_map(|mounted| {
            let open = mounted.mount.open();
            let written = open.iter().find(|fs| fs.is_writable() && fs.drive().key() == key)?;
            Some(within(&mounted.record.mountpoint, written.prefix()))
        })
    }

    /// Two mounts of a drive would not show each other's unfinished writes.
    fn must_be_only_writer(&self, key: &PublicKey) -> Result {
        let Some(other) = self.written_at(key) else { return Ok(()) };
        let why = format!("it is mounted at {} and written there", other.display());
        let url = drive_url(key, None);
        Err(Failure::failed(format!("mount {}", short_url(&url)), why)
            .hint("mount it --read-only here"))
    }

    /// Removes the rest of a mount that has ended.
    async fn mount_ended(self: &Arc<Self>, mounted: &Arc<Mounted>) {
        let busy = self.life.busy();
        let mountpoint = mounted.record.mountpoint.clone();
        let ending = mounted.clone();
        // It waits for threads, and may have files to store.
        let _ = tokio::task::spawn_blocking(move || ending.shutdown()).await;
        {
            let mut mounts = self.mounts.lock();
            if mounts.get(&mountpoint).is_some_and(|known| Arc::ptr_eq(known, mounted)) {
                mounts.remove(&mountpoint);
            }
        }
        self.choose_shared();
        log::info!("{} is not mounted on {} any more", mounted.described(), mountpoint.display());
        self.events.tell(Happening::Unmounted { url: mounted.url(), mountpoint });
        let held = mounted.held.lock().take();
        self.last_records.lock().extend(held);
        drop(busy);
    }

    /// Unmounts, and forgets the mount if it was saved.
    pub async fn unmount(&self, mountpoint: &Path, how: How) -> Result {
        let what = || format!("unmount {}", mountpoint.display());
        let mountpoint = record::absolute(mountpoint).context(what)?;
        // First, since it may have made the mount just now.
        self.pending.lock().remove(&mountpoint);
        let saved = self.saved.lock().has_mount_at(&mountpoint);
        let is_mounted = self.mounts.lock().contains_key(&mountpoint);
        if !saved && !is_mounted {
            return Err(Failure::failed(what(), "this daemon has nothing mounted there"));
        }
        if is_mounted {
            let at = mountpoint.clone();
            tokio::task::spawn_blocking(move || mountpoint::unmount(&at, how))
                .await
                .map_err(|error| Failure::failed(what(), error))??;
            // After a lazy unmount the mount serves open files until they are closed, but its path
            // is free.
            if let Some(mounted) = self.mounts.lock().get(&mountpoint).cloned() {
                mounted.remove_directory();
            }
        }
        self.change_saved(|saved| saved.forget_mount(&mountpoint))?;
        if how != How::Lazy {
            let put_away = async {
                while self.mounts.lock().contains_key(&mountpoint) {
                    tokio::time::sleep(POLL).await;
                }
            };
            // A caller that waits longer learns of the end from the record.
            let _ = tokio::time::timeout(UNMOUNT_LIMIT, put_away).await;
        }
        Ok(())
    }

    /// Makes the saved mounts again. Tries each until it succeeds or is unmounted.
    pub fn restore_mounts(self: &Arc<Self>) {
        let saved = self.saved.lock().mounts.clone();
        for mount in saved {
            let (wanted, withdrawn) = watch::channel(());
            let pending = Pending { trouble: "it is being mounted".to_owned(), _wanted: wanted };
            self.pending.lock().insert(mount.mountpoint.clone(), pending);
            let host = self.clone();
            tokio::spawn(async move {
                host.restore(mount, withdrawn).await;
                host.life.consider();
            });
        }
    }

    async fn restore(self: &Arc<Self>, saved: MountRequest, mut withdrawn: watch::Receiver<()>) {
        let mountpoint = &saved.mountpoint;
        let here = MountRequest { save: false, ..saved.clone() };
        loop {
            let made = tokio::select! {
                biased;
                // An error: its sender is dropped.
                _ = withdrawn.changed() => return,
                () = self.life.ended() => return,
                made = self.mount_from_here_or(&here) => made,
            };
            match made {
                Ok(_) => return self.note_restored(mountpoint).await,
                Err(failure) => self.note_not_restored(mountpoint, &failure),
            }
            tokio::select! {
                () = tokio::time::sleep(RETRY) => {}
                _ = withdrawn.changed() => return,
                () = self.life.ended() => return,
            }
        }
    }

    /// Ends a mount again that a request withdrew while it was made.
    async fn note_restored(&self, mountpoint: &Path) {
        let pending = self.pending.lock().remove(mountpoint);
        if pending.is_none()
            && let Err(failure) = self.unmount(mountpoint, How::Normal).await
        {
            log::warn!("{}", failure.sentence());
        }
    }

    fn note_not_restored(&self, mountpoint: &Path, failure: &Failure) {
        if let Some(pending) = self.pending.lock().get_mut(mountpoint) {
            log::warn!("saved mount: {}", failure.sentence());
            pending.trouble = failure.sentence();
        }
    }

    /// Mounts a drive that is in the store without asking peers; fetches any other drive first.
    async fn mount_from_here_or(self: &Arc<Self>, asked: &MountRequest) -> Result<MountInfo> {
        let _peers = self.dial(&asked.peers)?;
        if asked.all {
            return self.mount(asked).await;
        }
        let limit = asked.wait.as_deref();
        let known = self.session(&asked.drive, &[], Some("0"), &asked.find).await.is_ok();
        if !known {
            // Fetches the blocks that opening needs; the mount then finds them in the store.
            self.session(&asked.drive, &asked.peers, limit, &asked.find).await?;
        }
        self.mount(asked).await
    }

    /// Ends every mount, also busy ones; for the end of the daemon.
    pub fn unmount_all(&self) {
        let mounts: Vec<_> = std::mem::take(&mut *self.mounts.lock()).into_values().collect();
        for mounted in mounts {
            mounted.shutdown();
            let held = mounted.held.lock().take();
            self.last_records.lock().extend(held);
        }
    }

    pub fn mounts(&self) -> Vec<MountInfo> {
        let mounts: Vec<_> = self.mounts.lock().values().cloned().collect();
        mounts.iter().map(|mounted| self.describe_mount(mounted)).collect()
    }

    fn describe_mount(&self, mounted: &Mounted) -> MountInfo {
        let (mount, record) = (&mounted.mount, &mounted.record);
        let saved = self.saved.lock().has_mount_at(&record.mountpoint);
        let (_, open) = mount.load();
        let filesystems = mount.open();
        let describe = |fs: &Arc<Fs>| MountedDrive {
            path: fs.prefix().to_owned(),
            url: drive_url(fs.drive().key(), fs.drive().frozen_version()),
            name: self.name_of(fs.drive().key()),
            version: fs.version(),
            read_only: !fs.is_writable(),
        };
        let mut drives: Vec<_> = filesystems.iter().map(describe).collect();
        let storing = filesystems.iter().flat_map(|fs| fs.storing());
        let storing = storing.map(|Storing { path, bytes, bytes_stored }| StoringFile {
            path,
            bytes,
            bytes_stored,
        });
        // A mount of one drive is described by itself, not in the list of drives.
        let only = if record.is_of_all() { None } else { drives.pop() };
        MountInfo {
            url: mounted.url(),
            name: only.as_ref().and_then(|drive| drive.name.clone()),
            mountpoint: record.mountpoint.clone(),
            moved_to: mounted.url().and_then(|url| self.moved_to(&url)),
            version: only.map_or(0, |drive| drive.version),
            drives,
            read_only: record.read_only,
            address: record.address.map(|address| address.to_string()),
            pid: record.pid,
            log: record.log.clone(),
            saved,
            waiting: mount.waiting().len(),
            open,
            storing: storing.collect(),
            failures: mount.journal().failures().len(),
        }
    }

    /// The mount that a path is in.
    pub(super) fn mount_of(&self, path: &Path) -> Option<(PathBuf, Arc<Mounted>)> {
        let mounts = self.mounts.lock();
        let found = mounts.iter().filter(|(at, _)| path.starts_with(at));
        found.max_by_key(|(at, _)| at.as_os_str().len()).map(|(at, m)| (at.clone(), m.clone()))
    }
}

/// The absolute mount point of a request; fails if the request is invalid.
fn check(asked: &MountRequest) -> Result<PathBuf> {
    let what = || format!("mount on {}", asked.mountpoint.display());
    if !asked.mountpoint.is_absolute() {
        return Err(Failure::usage(what(), "the path is not absolute"));
    }
    if asked.all != asked.drive.is_empty() {
        return Err(Failure::usage(what(), "name either one drive or `all`"));
    }
    if asked.all && asked.listen.is_some() {
        return Err(Failure::usage(what(), "a mount of all drives announces none of them")
            .hint("`hypermount share NAME --listen ADDR:PORT` shares a drive"));
    }
    if asked.save {
        // Fails if it cannot be saved, before anything is mounted.
        directories::state_directory()?;
    }
    let mountpoint = mountpoint::absolute(&asked.mountpoint)?;
    mountpoint::check(&mountpoint)?;
    Ok(mountpoint)
}

/// How long calls wait for data. Without a peer they do not wait.
fn patience(wait: Option<WaitLimit>, peers: bool) -> Patience {
    match wait {
        _ if !peers => Patience::Offline,
        None => Patience::default(),
        Some(WaitLimit::Forever) => Patience::Forever,
        Some(WaitLimit::Each(Duration::ZERO)) => Patience::Offline,
        Some(WaitLimit::Each(limit)) => Patience::Limited { names: limit, data: limit },
    }
}
