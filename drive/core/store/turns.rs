//! The turns at changing a drive, and the views that show each change before it is reported.
//!
//! Every handle on a drive in this process shares one [`Turns`].

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Weak};

use super::Store;
use hypermount_swarm::crypto::DiscoveryKey;
use hypermount_swarm::sync::Mutex;

/// Shows a drive to programs: one drive in one mount.
pub trait View: Send + Sync {
    /// Shows the newest version. Returns when programs see it, or after a limit of its own.
    fn show_newest(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>>;
}

/// The turns at changing a drive, and what shows its newest version.
#[derive(Default)]
pub struct Turns {
    /// One batch of index changes at a time.
    pub index: Arc<tokio::sync::Mutex<()>>,
    /// One file's blocks at a time.
    pub content: Arc<tokio::sync::Mutex<()>>,
    views: Mutex<Vec<Weak<dyn View>>>,
}

impl Turns {
    /// Registers a view until it is dropped.
    pub fn add_view(&self, view: &Arc<dyn View>) {
        let mut views = self.views.lock();
        views.retain(|known| known.strong_count() > 0);
        views.push(Arc::downgrade(view));
    }

    /// The views that exist now.
    pub fn views(&self) -> Vec<Arc<dyn View>> {
        self.views.lock().iter().filter_map(Weak::upgrade).collect()
    }
}

impl Store {
    /// The turns at changing the drive with this metadata core.
    pub fn turns(&self, metadata: &DiscoveryKey) -> Arc<Turns> {
        let mut turns = self.inner.turns.lock();
        if let Some(known) = turns.get(metadata).and_then(Weak::upgrade) {
            return known;
        }
        turns.retain(|_, turns| turns.strong_count() > 0);
        let new = Arc::new(Turns::default());
        turns.insert(*metadata, Arc::downgrade(&new));
        new
    }
}
