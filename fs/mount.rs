//! A mounted drive: making the mount, noticing its end, and taking it down in order.
//!
//! The order at the end: refuse new requests, end those that wait, unmount, end the threads, commit
//! files that were never closed. So no process stays in a system call, and no thread stays here.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use fuser::{Config, INodeNo, Notifier, SessionACL};
use hypermount_drive::sync::Mutex;
use hypermount_drive::{Drive, Store, unescape};
use tokio::runtime::Handle;
use tokio::sync::watch;

use crate::adapter::Adapter;
use crate::attr::Owner;
use crate::filesystem::{Fs, FsOptions};
use crate::invalidate::{Batch, Invalidation, Invalidations};
use crate::journal::Journal;
use crate::mountpoint::{self, Mounted, UnmountError, UnmountMode};
use crate::patience::Patience;
use crate::platform::{self, Attachment};
use crate::root::{Drives, Root, RootLimits};
use crate::serve::{Server, Witness};
use crate::shown::Shown;

/// Threads that receive requests of the kernel. None of them waits for the network.
const MAX_THREADS: usize = 4;
/// Digits of the drive's key shown as the source of a mount. Enough to tell drives apart, too few
/// to open one: every user of the machine sees the list of mounts.
const SHOWN_KEY_DIGITS: usize = 16;
/// Source of a mount of all drives.
const ROOT_SOURCE: &str = "hypermount";
/// How long the threads of an ended mount may take to end.
const JOIN_LIMIT: Duration = Duration::from_secs(5);
/// How long the commit of files that were never closed may take at the end of a mount.
const FINISH_LIMIT: Duration = Duration::from_secs(300);
/// libfuse's configuration, which the mount helper follows.
const FUSE_CONFIGURATION: &str = "/etc/fuse.conf";

/// How a drive is mounted.
#[derive(Clone, Copy, Debug)]
pub struct MountOptions {
    /// How long calls wait for peers.
    pub patience: Patience,
    /// The owner that files are shown with.
    pub owner: Owner,
    /// Lets users other than the mounting one access the files.
    pub allow_other: bool,
    /// Allows to mount over a directory that is not empty, which hides its content.
    pub allow_non_empty: bool,
    /// Takes no changes, even if the store has the drive's secret key.
    pub read_only: bool,
}

impl MountOptions {
    fn fs(&self) -> FsOptions {
        let Self { owner, patience, read_only, .. } = *self;
        FsOptions { owner, patience, read_only }
    }
}

impl Default for MountOptions {
    fn default() -> Self {
        Self {
            patience: Patience::default(),
            owner: Owner::current(),
            allow_other: false,
            allow_non_empty: false,
            read_only: false,
        }
    }
}

/// Why a drive could not be mounted.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// The directory does not exist.
    #[error("{path} does not exist; make the directory first")]
    Missing {
        /// The directory to mount on.
        path: PathBuf,
    },
    /// The path is not a directory.
    #[error("{path} is not a directory")]
    NotADirectory {
        /// The directory to mount on.
        path: PathBuf,
    },
    /// The directory has entries, and [`MountOptions::allow_non_empty`] is not set.
    #[error("{path} is not empty, and mounting would hide what it holds")]
    NotEmpty {
        /// The directory to mount on.
        path: PathBuf,
    },
    /// A mount of this program is there already.
    #[error("{path} is already mounted ({mounted})")]
    AlreadyMounted {
        /// The directory to mount on.
        path: PathBuf,
        /// Source of that mount, as df(1) shows it.
        mounted: String,
    },
    /// The system does not allow [`MountOptions::allow_other`] to this user.
    #[error(
        "letting other users in needs the line `user_allow_other` in /etc/fuse.conf; \
         add it as root: echo user_allow_other >> /etc/fuse.conf"
    )]
    OthersNotAllowed,
    /// The FUSE device is missing.
    #[error("/dev/fuse is missing; load it as root: modprobe fuse")]
    NoDevice,
    /// The mount there has no process any more, and could not be unmounted.
    #[error("cannot replace the dead mount at {path}: {source}")]
    Stale {
        /// The directory to mount on.
        path: PathBuf,
        /// Why it could not be unmounted.
        source: UnmountError,
    },
    /// A call of the system failed.
    #[error("cannot mount at {path}: {source}")]
    System {
        /// The directory to mount on.
        path: PathBuf,
        /// The error of the system.
        source: io::Error,
    },
}

/// The threads to join at the end.
type Threads = Arc<Mutex<Vec<JoinHandle<()>>>>;

/// A drive, or all drives, mounted by this process. Dropping it unmounts.
pub struct Mount {
    mounted: Mounted,
    shown: Shown,
    writable: bool,
    server: Arc<Server>,
    runtime: Handle,
    ended: watch::Receiver<bool>,
    threads: Threads,
}

impl Mount {
    /// Mounts `drive` at `mountpoint`. Replaces a dead mount of this program there. Returns when
    /// files can be opened; needs no peer.
    pub fn start(
        drive: Drive,
        store: Store,
        mountpoint: &Path,
        options: MountOptions,
        runtime: Handle,
    ) -> Result<Self, MountError> {
        let path = prepare(mountpoint, &options)?;
        let key = drive.key().to_hex();
        let source = format!("hyper://{}", key.get(..SHOWN_KEY_DIGITS).unwrap_or(&key));
        let fs = Fs::new(drive, store, options.fs(), runtime.clone());
        let writable = fs.is_writable();
        Self::attach(Shown::Drive(fs), writable, source, path, options, runtime)
    }

    /// As [`Mount::start`], for all drives that `drives` knows; see [`Root`].
    pub fn start_root(
        drives: Arc<dyn Drives>,
        store: Store,
        mountpoint: &Path,
        options: MountOptions,
        limits: RootLimits,
        runtime: Handle,
    ) -> Result<Self, MountError> {
        let path = prepare(mountpoint, &options)?;
        let root = Root::new(drives, store, &path, options.fs(), limits, runtime.clone());
        let source = String::from(ROOT_SOURCE);
        Self::attach(Shown::Root(root), !options.read_only, source, path, options, runtime)
    }

    fn attach(
        shown: Shown,
        writable: bool,
        source: String,
        path: PathBuf,
        options: MountOptions,
        runtime: Handle,
    ) -> Result<Self, MountError> {
        let system = |source| MountError::System { path: path.clone(), source };
        let server = Arc::new(Server::new(runtime.clone(), witness(&shown)));
        let adapter = Adapter::new(shown.clone(), writable, server.clone());
        let (allow_other, read_only) = (options.allow_other, !writable);
        let attachment = Attachment { source: source.clone(), allow_other, read_only };
        let session =
            platform::attach(adapter, &path, &attachment, config(&options)).map_err(&system)?;
        let mounted = mountpoint::mounted_at(&path).unwrap_or(Mounted {
            mountpoint: path.clone(),
            source,
            connection: 0,
        });
        let notifier = session.notifier();
        let (end, ended) = watch::channel(false);
        let threads = Threads::default();
        let telling = tell_of(&shown, notifier, &threads);
        let serving = spawn("hypermount-serve", move || {
            if let Err(error) = session.run() {
                log::warn!("the connection to the kernel ended: {error}");
            }
            end.send_replace(true);
        });
        let mount = Self { mounted, shown, writable, server, runtime, ended, threads };
        // On failure `mount` is dropped, which takes down what was started.
        mount.keep(serving.map_err(&system)?);
        telling.map_err(&system)?;
        Ok(mount)
    }

    fn keep(&self, thread: JoinHandle<()>) {
        self.threads.lock().push(thread);
    }

    /// The absolute path of the mount point.
    pub fn mountpoint(&self) -> &Path {
        &self.mounted.mountpoint
    }

    /// The filesystems of its open drives: one, unless the mount shows all drives.
    pub fn open(&self) -> Vec<Arc<Fs>> {
        self.shown.open()
    }

    /// The open drives, nested ones included.
    pub fn drives(&self) -> Vec<Drive> {
        self.shown.drives()
    }

    /// Whether it shows all drives.
    pub fn is_root(&self) -> bool {
        matches!(self.shown, Shown::Root(_))
    }

    /// Number of inodes that the kernel knows, and number of open files and directories.
    pub fn load(&self) -> (usize, usize) {
        let loads = self.open().into_iter().map(|fs| fs.load());
        loads.fold((0, 0), |all, one| (all.0 + one.0, all.1 + one.1))
    }

    /// The failed calls and the fetched bytes of the mount.
    pub fn journal(&self) -> &Arc<Journal> {
        self.shown.journal()
    }

    /// The threads whose requests wait for the network now, one entry for each request.
    pub fn waiting(&self) -> Vec<u32> {
        self.server.parked()
    }

    /// Whether the mount has ended.
    pub fn has_ended(&self) -> bool {
        *self.ended.borrow()
    }

    /// Waits until the mount has ended, by this process or by umount(8). Has no limit: it is for a
    /// caller that only serves the mount.
    pub async fn wait_ended(&self) {
        // An error means that the thread has ended, and the mount with it.
        let _ = self.ended.clone().wait_for(|ended| *ended).await;
    }

    /// Unmounts, if `how` allows it. A mount that is busy continues.
    ///
    /// # Errors
    ///
    /// Fails with the processes that use the mount, if it is busy, or with the error of the system.
    pub fn unmount(&self, how: UnmountMode) -> Result<(), UnmountError> {
        if self.has_ended() {
            return Ok(());
        }
        if how != UnmountMode::Normal {
            self.server.stop();
        }
        mountpoint::detach(&self.mounted, how)?;
        self.end();
        Ok(())
    }

    /// Unmounts in every case. Waiting requests fail, and programs with open files get errors from
    /// then on.
    pub fn shutdown(&self) {
        self.server.stop();
        if !self.has_ended() && self.is_ours() {
            let normally = mountpoint::detach(&self.mounted, UnmountMode::Normal);
            if let Err(busy) = normally {
                log::info!("{busy}");
                if let Err(error) = mountpoint::detach(&self.mounted, UnmountMode::Force) {
                    log::error!("{error}");
                }
            }
        }
        self.end();
    }

    /// Whether the mount point still shows this mount.
    fn is_ours(&self) -> bool {
        let there = mountpoint::mounted_at(&self.mounted.mountpoint);
        there.is_none_or(|there| there.connection == self.mounted.connection)
    }

    /// Ends the threads of a mount that is gone.
    fn end(&self) {
        self.server.stop();
        self.shown.stop();
        let threads = std::mem::take(&mut *self.threads.lock());
        let (done, all_done) = std::sync::mpsc::channel();
        let joining = spawn("hypermount-join", move || {
            for thread in threads {
                let _ = thread.join();
            }
            let _ = done.send(());
        });
        // Limited: after a lazy unmount the threads serve programs that still have files open.
        if joining.is_ok() && all_done.recv_timeout(JOIN_LIMIT).is_err() {
            log::debug!("{}: still used", self.mounted.mountpoint.display());
        }
        self.finish();
    }
}

impl Mount {
    /// Commits what was written and never closed, and syncs the drives.
    fn finish(&self) {
        if !self.writable {
            return;
        }
        let (open, (done, all_done)) = (self.open(), std::sync::mpsc::channel());
        self.runtime.spawn(async move {
            for fs in open.iter().filter(|fs| fs.is_writable()) {
                fs.finish().await;
            }
            let _ = done.send(());
        });
        if all_done.recv_timeout(FINISH_LIMIT).is_err() {
            log::error!("{}: not everything was stored", self.mounted.mountpoint.display());
        }
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let over = self.threads.lock().is_empty();
        if !over {
            self.shutdown();
        }
    }
}

/// Makes the callback that notes failed requests in the mount's journal.
fn witness(shown: &Shown) -> Witness {
    let shown = shown.downgrade();
    Arc::new(move |request, error| {
        if let Some(shown) = shown.upgrade() {
            shown.witness(request, error);
        }
    })
}

fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name(name.to_owned()).spawn(body)
}

fn config(options: &MountOptions) -> Config {
    let mut config = Config::default();
    config.acl = if options.allow_other { SessionACL::All } else { SessionACL::Owner };
    if platform::MANY_THREADS {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        config.n_threads = Some(cores.clamp(1, MAX_THREADS));
        config.clone_fd = true;
    }
    config
}

/// Starts a thread for each drive that notifies the kernel of its changes, for open drives now and
/// for others when they open. With one thread for all, every drive would wait for the slowest.
fn tell_of(shown: &Shown, notifier: Notifier, threads: &Threads) -> io::Result<()> {
    let keep = |threads: &Threads, thread| {
        threads.lock().push(thread);
    };
    let start = move |fs: &Arc<Fs>, notifier: Notifier| {
        let fs = fs.clone();
        spawn("hypermount-tell", move || tell(fs.invalidations(), || fs.everything(), &notifier))
    };
    match shown {
        Shown::Drive(fs) => keep(threads, start(fs, notifier)?),
        Shown::Root(root) => {
            let (own, told_by) = (root.invalidations().clone(), notifier.clone());
            let thread = spawn("hypermount-tell", move || tell(&own, Vec::new, &told_by))?;
            keep(threads, thread);
            let threads = Arc::downgrade(threads);
            root.tell_by(Box::new(move |fs| {
                let Some(threads) = threads.upgrade() else { return };
                threads.lock().retain(|thread| !thread.is_finished());
                match start(fs, notifier.clone()) {
                    Ok(thread) => keep(&threads, thread),
                    Err(error) => log::error!("{}: changes are not told: {error}", fs.prefix()),
                }
            }));
        }
    }
    Ok(())
}

/// Notifies the kernel of changes until the connection ends. This is the only place that does so,
/// on a thread of its own: the kernel may block it behind requests that were not answered yet.
fn tell(
    invalidations: &Invalidations,
    everything: impl Fn() -> Vec<Invalidation>,
    notifier: &Notifier,
) {
    while let Some(batch) = invalidations.next() {
        let notices = match batch {
            Batch::These(notices) => notices,
            Batch::Everything => everything(),
        };
        for notice in notices {
            let told = match &notice {
                Invalidation::Inode(ino) => notifier.inval_inode(INodeNo(*ino), 0, 0),
                Invalidation::Entry { parent, name } => {
                    notifier.inval_entry(INodeNo(*parent), OsStr::from_bytes(&unescape(name)))
                }
            };
            if let Err(error) = told {
                log::debug!("telling the kernel of {notice:?}: {error}");
            }
        }
    }
}

/// Checks the mount point, removes a dead mount of this program from it, and returns its absolute
/// path.
fn prepare(mountpoint: &Path, options: &MountOptions) -> Result<PathBuf, MountError> {
    let missing = || MountError::Missing { path: mountpoint.to_owned() };
    let path = mountpoint::absolute(mountpoint).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => missing(),
        _ => MountError::System { path: mountpoint.to_owned(), source },
    })?;
    while let Some(mounted) = mountpoint::mounted_at(&path) {
        if !mounted.is_dead() {
            return Err(MountError::AlreadyMounted { path, mounted: mounted.source });
        }
        log::info!("replacing the dead mount at {}", path.display());
        mountpoint::detach(&mounted, UnmountMode::Lazy)
            .map_err(|source| MountError::Stale { path: path.clone(), source })?;
    }
    match fs::metadata(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(missing()),
        Err(source) => return Err(MountError::System { path, source }),
        Ok(metadata) if !metadata.is_dir() => return Err(MountError::NotADirectory { path }),
        Ok(_) => {}
    }
    let empty = mountpoint::is_empty(&path)
        .map_err(|source| MountError::System { path: path.clone(), source })?;
    if !empty && !options.allow_non_empty {
        return Err(MountError::NotEmpty { path });
    }
    if !platform::has_device() {
        return Err(MountError::NoDevice);
    }
    if options.allow_other && !others_allowed() {
        return Err(MountError::OthersNotAllowed);
    }
    Ok(path)
}

/// Whether this user may use `allow_other`: root always, other users if the helper's configuration
/// permits it.
fn others_allowed() -> bool {
    nix::unistd::geteuid().is_root()
        || fs::read_to_string(FUSE_CONFIGURATION).is_ok_and(|text| allows_others(&text))
}

fn allows_others(configuration: &str) -> bool {
    configuration.lines().any(|line| line.trim() == "user_allow_other")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_helpers_configuration() {
        assert!(allows_others("# comment\nuser_allow_other\n"));
        assert!(allows_others("  user_allow_other  "));
        assert!(!allows_others("#user_allow_other\nmount_max = 1000\n"));
        assert!(!allows_others(""));
    }

    #[test]
    fn unusable_mountpoints_are_refused_with_the_reason() {
        let directory = tempfile::tempdir().expect("a directory is made");
        let options = MountOptions::default();
        let refused = |path: &Path| prepare(path, &options).expect_err("unusable");
        let missing = refused(&directory.path().join("missing"));
        assert!(matches!(missing, MountError::Missing { .. }), "{missing}");
        let missing = refused(&directory.path().join("missing/below"));
        assert!(matches!(missing, MountError::Missing { .. }), "{missing}");
        let file = directory.path().join("file");
        fs::write(&file, "x").expect("a file is written");
        assert!(matches!(refused(&file), MountError::NotADirectory { .. }));
        assert!(matches!(refused(directory.path()), MountError::NotEmpty { .. }));
        let allowed = MountOptions { allow_non_empty: true, ..options };
        let path = prepare(directory.path(), &allowed);
        // Without the device nothing can be mounted; these checks come before that error.
        assert!(matches!(path, Ok(_) | Err(MountError::NoDevice)));
    }
}
