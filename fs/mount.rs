//! A mounted drive: making it, knowing when it has ended, and taking it down in order.
//!
//! The order of ending is: refuse new requests, end those that wait, unmount, end the threads, store
//! what was never closed. So that nobody is left behind in a system call, and no thread in us.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use drive::{Drive, Store};
use fuser::{Config, INodeNo, Notifier, SessionACL};
use tokio::runtime::Handle;
use tokio::sync::watch;

use crate::adapter::Adapter;
use crate::attr::Owner;
use crate::filesystem::{Fs, FsOptions, Patience};
use crate::invalidate::{Batch, Invalidation};
use crate::mountpoint::{self, Detach, Mounted, UnmountError};
use crate::platform::{self, Attachment};
use crate::serve::{Server, Witness};

/// Threads that receive the kernel's requests. None of them ever waits for the network.
const MAX_THREADS: usize = 4;
/// Digits of the drive's key shown as the source of a mount. Enough to tell drives apart, too few
/// to open one: mounts are visible to every user of the machine.
const SHOWN_KEY_DIGITS: usize = 16;
/// How long the threads of an ended mount may take to notice.
const JOIN_LIMIT: Duration = Duration::from_secs(5);
/// How long storing what was never closed may take when a mount ends.
const FINISH_LIMIT: Duration = Duration::from_secs(300);
/// libfuse's configuration, which the mount helper obeys.
const FUSE_CONFIGURATION: &str = "/etc/fuse.conf";

#[derive(Clone, Copy, Debug)]
pub struct MountOptions {
    pub patience: Patience,
    /// Whom the files appear to belong to.
    pub owner: Owner,
    /// Lets users other than the one who mounts in.
    pub allow_other: bool,
    /// Mounts over a directory that holds something, which is then hidden.
    pub allow_non_empty: bool,
    /// Changes nothing, although this machine may hold the drive's keys.
    pub read_only: bool,
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

#[derive(Debug, thiserror::Error)]
pub enum MountError {
    #[error("{path} does not exist; make the directory first")]
    Missing { path: PathBuf },
    #[error("{path} is not a directory")]
    NotADirectory { path: PathBuf },
    #[error("{path} is not empty, and mounting would hide what it holds")]
    NotEmpty { path: PathBuf },
    #[error("{path} is already mounted ({mounted})")]
    AlreadyMounted { path: PathBuf, mounted: String },
    #[error(
        "letting other users in needs the line `user_allow_other` in /etc/fuse.conf; \
         add it as root: echo user_allow_other >> /etc/fuse.conf"
    )]
    OthersNotAllowed,
    #[error("/dev/fuse is missing; load it as root: modprobe fuse")]
    NoDevice,
    #[error("cannot replace the dead mount at {path}: {source}")]
    Stale { path: PathBuf, source: UnmountError },
    #[error("cannot mount at {path}: {source}")]
    System { path: PathBuf, source: io::Error },
}

/// A drive mounted by this process. Dropping it unmounts.
pub struct Mount {
    mounted: Mounted,
    fs: Arc<Fs>,
    server: Arc<Server>,
    runtime: Handle,
    ended: watch::Receiver<bool>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Mount {
    /// Mounts `drive` at `mountpoint`. A dead mount of ours there is replaced. Returns when files
    /// can be opened; needs no peer.
    pub fn start(
        drive: Drive,
        store: Store,
        mountpoint: &Path,
        options: MountOptions,
        runtime: Handle,
    ) -> Result<Self, MountError> {
        let path = prepare(mountpoint, &options)?;
        let system = |source| MountError::System { path: path.clone(), source };
        let key = drive.key().to_hex();
        let source = format!("hyper://{}", key.get(..SHOWN_KEY_DIGITS).unwrap_or(&key));
        let MountOptions { owner, patience, read_only, .. } = options;
        let fs_options = FsOptions { owner, patience, read_only };
        let fs = Fs::new(drive, store, fs_options, runtime.clone());
        let read_only = !fs.is_writable();
        let server = Arc::new(Server::new(runtime.clone(), witness(&fs)));
        let adapter = Adapter::new(fs.clone(), server.clone());
        let allow_other = options.allow_other;
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
        let serving = spawn("hypermount-serve", move || {
            if let Err(error) = session.run() {
                log::warn!("the connection to the kernel ended: {error}");
            }
            end.send_replace(true);
        });
        let telling = spawn("hypermount-tell", {
            let fs = fs.clone();
            move || tell(&fs, &notifier)
        });
        let mount = Self { mounted, fs, server, runtime, ended, threads: Mutex::default() };
        for thread in [serving, telling] {
            // On failure `mount` is dropped, which takes down what was started.
            mount.keep(thread.map_err(&system)?);
        }
        Ok(mount)
    }

    fn keep(&self, thread: JoinHandle<()>) {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner).push(thread);
    }

    /// Where it is mounted, absolute.
    pub fn mountpoint(&self) -> &Path {
        &self.mounted.mountpoint
    }

    /// The filesystem behind it.
    pub fn fs(&self) -> &Arc<Fs> {
        &self.fs
    }

    /// Requests that wait for the network now.
    pub fn waiting(&self) -> usize {
        self.server.parked()
    }

    pub fn has_ended(&self) -> bool {
        *self.ended.borrow()
    }

    /// Waits until the mount has ended, by us or by anybody's umount(8). As long as that takes:
    /// for whoever has nothing to do but to serve the mount.
    pub async fn wait_ended(&self) {
        // An error means the thread is gone, which is also the end.
        let _ = self.ended.clone().wait_for(|ended| *ended).await;
    }

    /// Unmounts, if [`Detach`] allows. A mount that is busy goes on as before.
    pub fn unmount(&self, how: Detach) -> Result<(), UnmountError> {
        if self.has_ended() {
            return Ok(());
        }
        if how != Detach::Normal {
            self.server.stop();
        }
        mountpoint::detach(&self.mounted, how)?;
        self.end();
        Ok(())
    }

    /// Unmounts whatever it takes. What waits for the network fails; who still has files open gets
    /// errors from now on.
    pub fn shutdown(&self) {
        self.server.stop();
        if !self.has_ended() && self.is_ours() {
            let normally = mountpoint::detach(&self.mounted, Detach::Normal);
            if let Err(busy) = normally {
                log::info!("{busy}");
                if let Err(error) = mountpoint::detach(&self.mounted, Detach::Force) {
                    log::error!("{error}");
                }
            }
        }
        self.end();
    }

    /// Whether what is mounted there now is still this mount.
    fn is_ours(&self) -> bool {
        let there = mountpoint::mounted_at(&self.mounted.mountpoint);
        there.is_none_or(|there| there.connection == self.mounted.connection)
    }

    /// Ends the threads of a mount that is gone.
    fn end(&self) {
        self.server.stop();
        self.fs.invalidations().close();
        let threads =
            std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        let (done, all_done) = std::sync::mpsc::channel();
        let joining = spawn("hypermount-join", move || {
            for thread in threads {
                let _ = thread.join();
            }
            let _ = done.send(());
        });
        // Bounded: after a lazy unmount the threads serve those who still have files open.
        if joining.is_ok() && all_done.recv_timeout(JOIN_LIMIT).is_err() {
            log::debug!("{}: still used", self.mounted.mountpoint.display());
        }
        self.finish();
    }
}

impl Mount {
    /// What was written and never closed becomes part of the drive, and everything safe.
    fn finish(&self) {
        if !self.fs.is_writable() {
            return;
        }
        let (fs, (done, all_done)) = (self.fs.clone(), std::sync::mpsc::channel());
        self.runtime.spawn(async move {
            fs.finish().await;
            let _ = done.send(());
        });
        if all_done.recv_timeout(FINISH_LIMIT).is_err() {
            log::error!("{}: not everything was stored", self.mounted.mountpoint.display());
        }
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let over = self.threads.get_mut().is_ok_and(|threads| threads.is_empty());
        if !over {
            self.shutdown();
        }
    }
}

/// Notes failed requests in the filesystem's journal.
fn witness(fs: &Arc<Fs>) -> Witness {
    let fs = Arc::downgrade(fs);
    Arc::new(move |request, error| {
        let Some(fs) = fs.upgrade() else { return };
        if let Ok(path) = fs.node(request.ino, |node| node.path.clone()) {
            fs.journal().failed(&path, request.operation, request.thread, error);
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

/// Tells the kernel what changed, until there is nobody to tell. The only place that does, and a
/// thread of its own: the kernel may keep it waiting behind requests we have not answered.
fn tell(fs: &Fs, notifier: &Notifier) {
    while let Some(batch) = fs.invalidations().next() {
        let notices = match batch {
            Batch::These(notices) => notices,
            Batch::Everything => fs.everything(),
        };
        for notice in notices {
            let told = match &notice {
                Invalidation::Inode(ino) => notifier.inval_inode(INodeNo(*ino), 0, 0),
                Invalidation::Entry { parent, name } => {
                    notifier.inval_entry(INodeNo(*parent), name.as_ref())
                }
            };
            if let Err(error) = told {
                log::debug!("telling the kernel of {notice:?}: {error}");
            }
        }
    }
}

/// Checks the mountpoint and clears a dead mount of ours away; its absolute path.
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
        mountpoint::detach(&mounted, Detach::Lazy)
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

/// Whether this user may let others in: root always, everybody else if the helper is told so.
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
        // Without the device there is nothing to mount with, which is told after these checks.
        assert!(matches!(path, Ok(_) | Err(MountError::NoDevice)));
    }
}
