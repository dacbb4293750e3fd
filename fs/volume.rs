//! One drive shown in a mount: the mount's own drive, or one nested in it. Holds the version that
//! the kernel sees, changes that the drive does not have yet, and the drives around it.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use hypermount_drive::sync::{Mutex, MutexGuard, Rank, RwLock};
use hypermount_drive::{
    Drive, DrivePath, Error, MountTarget, PublicKey, Snapshot, Time, View, Wait,
};
use tokio::sync::OnceCell;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use crate::accessed::Accessed;
use crate::errno::Result;
use crate::staging::StagedFile;
use crate::walk_ahead::WalkAhead;

/// How many levels drives may be nested below the mount's own.
pub(crate) const MAX_NESTING: usize = 16;

pub(crate) struct Volume {
    pub drive: Drive,
    /// See [`Volume::prefix`].
    prefix: RwLock<Arc<str>>,
    /// Whether this mount may change the drive.
    pub writable: bool,
    /// New files that the drive does not have yet. Each hides a stored entry of the same path.
    unstored: Mutex<BTreeMap<DrivePath, Arc<StagedFile>>>,
    /// When the children of directories last changed, as far as that is not stored yet.
    touched: Mutex<HashMap<DrivePath, Time>>,
    pub accessed: Accessed,
    /// The volume that this one is nested in.
    pub parent: Option<Arc<Volume>>,
    current: RwLock<Arc<Snapshot>>,
    follower: Mutex<Option<(AbortHandle, Arc<dyn View>)>>,
    pub(crate) walk_ahead: Arc<WalkAhead>,
    /// A clone counts as one nested volume of the mount.
    _counted: Option<Arc<()>>,
}

impl Volume {
    /// The drive that a mount shows at its root.
    pub(crate) fn new(drive: Drive, read_only: bool) -> Self {
        Self {
            writable: !read_only && drive.writable(),
            current: RwLock::new(Rank::LEAF, drive.snapshot()),
            drive,
            prefix: RwLock::new(Rank::LEAF, "".into()),
            unstored: Mutex::new(Rank::UNSTORED, BTreeMap::new()),
            touched: Mutex::new(Rank::TOUCHED, HashMap::new()),
            accessed: Accessed::new(),
            parent: None,
            follower: Mutex::new(Rank::LEAF, None),
            walk_ahead: Arc::default(),
            _counted: None,
        }
    }

    /// A drive inside `parent`. `counted` is held until the volume is dropped.
    pub(crate) fn nested(
        drive: Drive,
        read_only: bool,
        prefix: Arc<str>,
        parent: &Arc<Volume>,
        counted: Arc<()>,
    ) -> Self {
        let mut volume = Self::new(drive, read_only);
        volume.prefix = RwLock::new(Rank::LEAF, prefix);
        volume.parent = Some(parent.clone());
        volume._counted = Some(counted);
        volume
    }

    /// The version that the kernel sees.
    pub(crate) fn snapshot(&self) -> Arc<Snapshot> {
        self.current.read().clone()
    }

    pub(crate) fn advance(&self, snapshot: Arc<Snapshot>) {
        *self.current.write() = snapshot;
    }

    /// Path of its root in the mount, without slashes at the ends; empty for the mount's own drive.
    pub(crate) fn prefix(&self) -> Arc<str> {
        self.prefix.read().clone()
    }

    /// The directory that it is mounted on, or one above, was renamed.
    pub(crate) fn move_to(&self, prefix: Arc<str>) {
        *self.prefix.write() = prefix;
    }

    /// New files that the drive does not have yet.
    pub(crate) fn unstored(&self) -> MutexGuard<'_, BTreeMap<DrivePath, Arc<StagedFile>>> {
        self.unstored.lock()
    }

    /// Directories whose modification times are not stored yet.
    pub(crate) fn touched(&self) -> MutexGuard<'_, HashMap<DrivePath, Time>> {
        self.touched.lock()
    }

    pub(crate) fn is_frozen(&self) -> bool {
        self.drive.frozen_version().is_some()
    }

    /// Ends the task that follows the drive, and the view, together with the volume.
    pub(crate) fn followed_by(&self, task: AbortHandle, view: Arc<dyn View>) {
        *self.follower.lock() = Some((task, view));
    }

    /// Checks that `target` may be opened inside this volume: it must not be one of the drives
    /// around it, nor be more than [`MAX_NESTING`] levels deep.
    pub(crate) fn may_nest(&self, target: &MountTarget) -> Result<()> {
        let ancestors = std::iter::successors(Some(self), |volume| volume.parent.as_deref());
        let identities = ancestors.map(|v| (*v.drive.key(), v.drive.frozen_version()));
        may_nest(identities, target).map_err(Into::into)
    }
}

fn may_nest(
    ancestors: impl Iterator<Item = (PublicKey, Option<u64>)>,
    target: &MountTarget,
) -> hypermount_drive::Result<()> {
    let mut levels = 0;
    for identity in ancestors {
        levels += 1;
        if identity == (target.key, target.version) || levels > MAX_NESTING {
            return Err(Error::TooManyLevels);
        }
    }
    Ok(())
}

impl Drop for Volume {
    fn drop(&mut self) {
        if let Some(task) = self.follower.lock().take() {
            task.0.abort();
        }
    }
}

/// A place where another drive begins. Opened at the first access below it. A failure is not kept,
/// so the next caller tries again.
#[derive(Clone)]
pub(crate) struct Crossing {
    pub target: MountTarget,
    pub child: Arc<OnceCell<Arc<Volume>>>,
}

impl Crossing {
    pub(crate) fn new(target: MountTarget) -> Self {
        Self { target, child: Arc::default() }
    }
}

/// After this many failed opens of nested drives within [`REMEMBERED_FOR`], opening another waits
/// for [`SHORT_WAIT`] only: otherwise a program that walks the tree would wait for each of them.
pub(crate) const MAX_UNREACHABLE: usize = 3;
const REMEMBERED_FOR: Duration = Duration::from_secs(30);
const SHORT_WAIT: Duration = Duration::from_millis(200);

/// The most recent failures to open a nested drive in one mount.
#[derive(Default)]
pub(crate) struct Unreachable(Mutex<VecDeque<Instant>>);

impl Unreachable {
    /// How long to wait for the next one, if `usual` is the limit for a name.
    pub(crate) fn patience(&self, usual: Wait) -> Wait {
        let failed = self.0.lock();
        let recent = failed.iter().filter(|at| at.elapsed() < REMEMBERED_FOR).count();
        match usual.deadline() {
            Some(deadline) if recent >= MAX_UNREACHABLE && !usual.is_local() => {
                Wait::within(deadline.saturating_duration_since(Instant::now()).min(SHORT_WAIT))
            }
            _ => usual,
        }
    }

    /// Notes the result of opening one.
    pub(crate) fn tried<T>(&self, opened: &hypermount_drive::Result<T>) {
        let mut failed = self.0.lock();
        match opened {
            Ok(_) => failed.clear(),
            Err(Error::Unavailable { .. }) => {
                if failed.len() >= MAX_UNREACHABLE {
                    failed.pop_front();
                }
                failed.push_back(Instant::now());
            }
            Err(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn nested_drives_that_no_peer_has_are_waited_for_a_few_times_only() {
        let unreachable = Unreachable::default();
        let usual = Duration::from_secs(5);
        let patience = || {
            let deadline = unreachable.patience(Wait::within(usual)).deadline();
            deadline.expect("it ends").saturating_duration_since(Instant::now())
        };
        let core = PublicKey::new([1; 32]).discovery_key();
        let (waited, why) = (usual, String::new());
        let failed: hypermount_drive::Result<()> =
            Err(Error::Unavailable { core, block: 0, waited, why });
        for _ in 0..MAX_UNREACHABLE {
            assert_eq!(patience(), usual);
            unreachable.tried(&failed);
        }
        assert_eq!(patience(), SHORT_WAIT);
        assert!(unreachable.patience(Wait::Forever).deadline().is_none(), "as was asked for");
        tokio::time::advance(REMEMBERED_FOR).await;
        assert_eq!(patience(), usual, "later they are tried again");
        (0..MAX_UNREACHABLE).for_each(|_| unreachable.tried(&failed));
        unreachable.tried(&Ok(()));
        assert_eq!(patience(), usual, "one can be opened");
    }

    fn target(key: u8, version: Option<u64>) -> MountTarget {
        MountTarget { key: PublicKey::new([key; 32]), version, core: false }
    }

    #[test]
    fn a_drive_is_not_entered_from_inside_itself() {
        let inside = [(PublicKey::new([2; 32]), None), (PublicKey::new([1; 32]), Some(5))];
        let allowed = |target| may_nest(inside.into_iter(), &target).is_ok();
        assert!(!allowed(target(2, None)));
        assert!(!allowed(target(1, Some(5))));
        assert!(allowed(target(1, None)), "the same drive at another version is another folder");
        assert!(allowed(target(3, None)));
    }

    #[test]
    fn drives_nest_to_a_limit() {
        let chain = |levels: usize| (0..levels).map(|n| (PublicKey::new([9; 32]), Some(n as u64)));
        assert!(may_nest(chain(MAX_NESTING), &target(1, None)).is_ok());
        let past = may_nest(chain(MAX_NESTING + 1), &target(1, None));
        assert!(matches!(past, Err(Error::TooManyLevels)));
    }
}
