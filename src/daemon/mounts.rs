//! The mounts of a daemon: making them, noticing their end, making saved ones again.

use std::path::{Path, PathBuf};
use std::process;
use std::sync::Arc;
use std::time::Duration;

use drivefs::{Detach, Mount, MountOptions};
use tokio::runtime::Handle;

use super::host::{Host, lock, short, wait_limit};
use super::model::{Happening, How, MountInfo, MountRequest};
use crate::failure::{Context, Failure, Result};
use crate::mounting::{cannot_mount, cannot_unmount, check_mountpoint, patience};
use crate::record::{self, Held, Record};

/// Pause before a saved mount that could not be made is tried again.
const RETRY: Duration = Duration::from_secs(5);
/// How long a request to unmount waits for the mount to be put away.
const UNMOUNT_LIMIT: Duration = Duration::from_secs(10);
/// How often it looks.
const POLL: Duration = Duration::from_millis(20);

pub struct Mounted {
    pub mount: Mount,
    pub record: Record,
    held: std::sync::Mutex<Option<Held>>,
}

impl Host {
    /// Mounts a drive; returns when it can be used.
    pub async fn mount(self: &Arc<Self>, asked: &MountRequest) -> Result<MountInfo> {
        let what = || format!("mount on {}", asked.mountpoint.display());
        if !asked.mountpoint.is_absolute() {
            return Err(Failure::usage(what(), "the path is not absolute"));
        }
        let mountpoint = record::absolute(&asked.mountpoint).context(what)?;
        check_mountpoint(&mountpoint)?;
        let wait = asked.wait.as_deref().map(wait_limit).transpose()?;
        let limit = asked.wait.as_deref();
        let session = self.session(&asked.drive, &asked.peers, limit, &asked.find).await?;
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
            self.must_be_only_writer(&session.url())?;
        }
        let record = Record {
            pid: process::id(),
            mountpoint: mountpoint.clone(),
            url: session.url(),
            store: self.directory.clone(),
            version: session.drive.snapshot().version(),
            read_only: !writable,
            address,
            log: self.log.clone(),
        };
        let held = record.hold(&self.state_directory)?;
        let options = MountOptions {
            allow_other: asked.allow_other,
            patience: patience(wait, self.knows_peers()),
            read_only: asked.read_only,
            ..MountOptions::default()
        };
        let (drive, store, at) = (session.drive.clone(), self.store.clone(), mountpoint.clone());
        let runtime = Handle::current();
        let mount =
            tokio::task::spawn_blocking(move || Mount::start(drive, store, &at, options, runtime))
                .await
                .map_err(|error| Failure::failed(what(), error))?
                .map_err(cannot_mount)?;
        let mounted = Arc::new(Mounted { mount, record, held: Some(held).into() });
        lock(&self.mounts).insert(mountpoint.clone(), mounted.clone());
        self.choose_shared();
        if asked.save {
            let saved = MountRequest { mountpoint: mountpoint.clone(), ..asked.clone() };
            // By its URL: a name means the same drive only in this store, and `-` not even that.
            let saved = MountRequest { drive: mounted.record.url.clone(), ..saved };
            self.change_state(|state| {
                state.mounts.retain(|known| known.mountpoint != mountpoint);
                state.mounts.push(saved);
            })?;
        }
        let Record { url, version, .. } = mounted.record.clone();
        log::info!("mounted {} on {}", short(&url), mountpoint.display());
        self.events.tell(Happening::Mounted { url, mountpoint, version });
        let (host, watched) = (self.clone(), mounted.clone());
        tokio::spawn(async move {
            watched.mount.wait_ended().await;
            host.mount_ended(&watched).await;
        });
        Ok(self.describe_mount(&mounted))
    }

    /// Two mounts of a drive would not show each other's unfinished writes.
    fn must_be_only_writer(&self, url: &str) -> Result {
        let mounts = lock(&self.mounts);
        let other = mounts.values().find(|m| m.record.url == url && !m.record.read_only);
        let Some(other) = other else { return Ok(()) };
        let why =
            format!("it is mounted at {} and written there", other.record.mountpoint.display());
        Err(Failure::failed(format!("mount {}", short(url)), why).hint("mount it --read-only here"))
    }

    /// Puts away what is left of a mount that is gone.
    async fn mount_ended(self: &Arc<Self>, mounted: &Arc<Mounted>) {
        let busy = self.life.busy();
        let mountpoint = mounted.record.mountpoint.clone();
        let ending = mounted.clone();
        // It waits for threads, and may have files to store.
        let _ = tokio::task::spawn_blocking(move || ending.mount.shutdown()).await;
        {
            let mut mounts = lock(&self.mounts);
            if mounts.get(&mountpoint).is_some_and(|known| Arc::ptr_eq(known, mounted)) {
                mounts.remove(&mountpoint);
            }
        }
        self.choose_shared();
        let url = mounted.record.url.clone();
        log::info!("{} is not mounted on {} any more", short(&url), mountpoint.display());
        self.events.tell(Happening::Unmounted { url, mountpoint });
        lock(&self.last_records).extend(lock(&mounted.held).take());
        drop(busy);
    }

    /// Unmounts, and forgets the mount if it was saved.
    pub async fn unmount(&self, mountpoint: &Path, how: How) -> Result {
        let what = || format!("unmount {}", mountpoint.display());
        let mountpoint = record::absolute(mountpoint).context(what)?;
        let saved = lock(&self.state).mounts.iter().any(|known| known.mountpoint == mountpoint);
        let is_mounted = lock(&self.mounts).contains_key(&mountpoint);
        if !saved && !is_mounted {
            return Err(Failure::failed(what(), "this daemon has nothing mounted there"));
        }
        if is_mounted {
            let how = match how {
                How::Normal => Detach::Normal,
                How::Lazy => Detach::Lazy,
                How::Force => Detach::Force,
            };
            let at = mountpoint.clone();
            tokio::task::spawn_blocking(move || drivefs::unmount(&at, how))
                .await
                .map_err(|error| Failure::failed(what(), error))?
                .map_err(cannot_unmount)?;
        }
        lock(&self.pending).remove(&mountpoint);
        self.change_state(|state| state.mounts.retain(|known| known.mountpoint != mountpoint))?;
        if how != How::Lazy {
            let put_away = async {
                while lock(&self.mounts).contains_key(&mountpoint) {
                    tokio::time::sleep(POLL).await;
                }
            };
            // Who still waits after that learns it from the record.
            let _ = tokio::time::timeout(UNMOUNT_LIMIT, put_away).await;
        }
        Ok(())
    }

    /// Makes the saved mounts again, each as often as it takes.
    pub fn restore_mounts(self: &Arc<Self>) {
        let saved = lock(&self.state).mounts.clone();
        for mount in saved {
            lock(&self.pending).insert(mount.mountpoint.clone(), "it is being mounted".to_owned());
            let host = self.clone();
            tokio::spawn(async move { host.restore(mount).await });
        }
    }

    async fn restore(self: Arc<Self>, saved: MountRequest) {
        let mountpoint = saved.mountpoint.clone();
        loop {
            // What is here needs no peer, and must not wait for one.
            let here = MountRequest { save: false, ..saved.clone() };
            let made = tokio::select! {
                made = self.mount_from_here_or(&here) => made,
                () = self.life.ended() => return,
            };
            if !self.note_restored(&mountpoint, made.err()) {
                return self.life.consider();
            }
            tokio::select! {
                () = tokio::time::sleep(RETRY) => {}
                () = self.life.ended() => return,
            }
        }
    }

    /// Whether the mount is to be tried again.
    fn note_restored(&self, mountpoint: &Path, failure: Option<Failure>) -> bool {
        let mut pending = lock(&self.pending);
        match (failure, pending.get_mut(mountpoint)) {
            (Some(failure), Some(why)) => {
                log::warn!("saved mount: {}", failure.sentence());
                *why = failure.sentence();
                true
            }
            // Made, or unmounted meanwhile.
            _ => {
                pending.remove(mountpoint);
                false
            }
        }
    }

    /// A drive that was seen before is opened without asking anybody.
    async fn mount_from_here_or(self: &Arc<Self>, asked: &MountRequest) -> Result<MountInfo> {
        self.dial(&asked.peers)?;
        let limit = asked.wait.as_deref();
        let known = self.session(&asked.drive, &[], Some("0"), &asked.find).await.is_ok();
        if !known {
            // Fetches what opening takes; the mount itself then finds it here.
            self.session(&asked.drive, &asked.peers, limit, &asked.find).await?;
        }
        self.mount(asked).await
    }

    /// Takes every mount down, whatever it takes; for the end of the daemon.
    pub fn unmount_all(&self) {
        let mounts: Vec<_> = std::mem::take(&mut *lock(&self.mounts)).into_values().collect();
        for mounted in mounts {
            mounted.mount.shutdown();
            lock(&self.last_records).extend(lock(&mounted.held).take());
        }
    }

    pub fn mounts(&self) -> Vec<MountInfo> {
        let mounts: Vec<_> = lock(&self.mounts).values().cloned().collect();
        mounts.iter().map(|mounted| self.describe_mount(mounted)).collect()
    }

    fn describe_mount(&self, mounted: &Mounted) -> MountInfo {
        let (mount, record) = (&mounted.mount, &mounted.record);
        let saved = lock(&self.state).mounts.iter().any(|s| s.mountpoint == record.mountpoint);
        let (_, open) = mount.fs().load();
        MountInfo {
            url: record.url.clone(),
            name: self.name_of(mount.fs().drive().key()),
            mountpoint: record.mountpoint.clone(),
            version: mount.fs().version(),
            read_only: record.read_only,
            address: record.address.map(|address| address.to_string()),
            pid: record.pid,
            log: record.log.clone(),
            saved,
            waiting: mount.waiting(),
            open,
            failures: mount.fs().journal().failures().len(),
        }
    }

    /// The mount that a path is in.
    pub(super) fn mount_of(&self, path: &Path) -> Option<(PathBuf, Arc<Mounted>)> {
        let mounts = lock(&self.mounts);
        let found = mounts.iter().filter(|(at, _)| path.starts_with(at));
        found.max_by_key(|(at, _)| at.as_os_str().len()).map(|(at, m)| (at.clone(), m.clone()))
    }
}
