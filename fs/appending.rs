//! Appending the content of large files to a drive, in tasks of their own: a signal ends the request that waits for
//! one, and not the work, which the next commit of the file takes up. Also how far each of them is.
//!
//! Not here: which bytes are appended (`staging.rs`), and when (`write.rs`).

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use hypermount_drive::Extent;
use hypermount_drive::sync::Mutex;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use crate::errno::{Error, Result};

/// A file whose content is being stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Storing {
    /// Within the mount.
    pub path: String,
    /// Bytes that are to be stored.
    pub bytes: u64,
    /// Bytes of them that are stored.
    pub bytes_stored: u64,
}

/// How far an append is.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    path: String,
    bytes: AtomicU64,
    stored: AtomicU64,
}

impl Progress {
    /// `bytes` are to be stored.
    pub(crate) fn begin(&self, bytes: u64) {
        self.bytes.store(bytes, Ordering::Relaxed);
    }

    /// `bytes` more are stored.
    pub(crate) fn add(&self, bytes: u64) {
        self.stored.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// The appends of a mounted drive that are under way.
#[derive(Default)]
pub(crate) struct Appends(Mutex<Vec<Arc<Progress>>>);

/// An append that is under way.
pub(crate) struct Append {
    /// The number of changes of the file when it began.
    pub generation: u64,
    task: JoinHandle<Result<Extent>>,
}

impl Appends {
    /// Starts `append`, which stores the file at `path`, a path within the mount.
    pub(crate) fn start<F: Future<Output = Result<Extent>> + Send + 'static>(
        self: &Arc<Self>,
        runtime: &Handle,
        path: String,
        generation: u64,
        append: impl FnOnce(Arc<Progress>) -> F,
    ) -> Append {
        let progress = Arc::new(Progress { path, ..Progress::default() });
        self.0.lock().push(progress.clone());
        let listed = Listed { appends: self.clone(), progress: progress.clone() };
        let append = append(progress);
        let task = runtime.spawn(async move {
            let _listed = listed;
            append.await
        });
        Append { generation, task }
    }

    /// How far each of them is, the oldest first.
    pub(crate) fn under_way(&self) -> Vec<Storing> {
        let describe = |progress: &Arc<Progress>| Storing {
            path: progress.path.clone(),
            bytes: progress.bytes.load(Ordering::Relaxed),
            bytes_stored: progress.stored.load(Ordering::Relaxed),
        };
        self.0.lock().iter().map(describe).collect()
    }
}

impl Append {
    /// Waits for its end. May be called again if the wait was given up.
    pub(crate) async fn end(&mut self) -> Result<Extent> {
        (&mut self.task).await.unwrap_or(Err(Error::Panicked))
    }

    /// Ends it early: what it stores is not needed any more.
    pub(crate) fn abort(self) {
        self.task.abort();
    }
}

/// Takes an append off the list when its task ends, in whatever way.
struct Listed {
    appends: Arc<Appends>,
    progress: Arc<Progress>,
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.appends.0.lock().retain(|listed| !Arc::ptr_eq(listed, &self.progress));
    }
}
