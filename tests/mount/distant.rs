//! A drive that another peer has, mounted over a real socket. The test can stop the connection: it
//! stays open, the peer has announced that it has everything, and no further byte arrives.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use drivefs::{Mount, MountOptions, Patience};
use hypermount_core::{Share, Sharing, Store, Wait};
use hypermount_drive::testing::Publisher;
use hypermount_drive::{
    Drive, DriveFormat, DrivePath, Edit, Stat, TYPE_FILE, TYPE_SYMLINK, sharing_options,
};
use hypermount_swarm::PublicKey;
use tokio::runtime::Runtime;

use crate::common::{Bench, LIMIT, OPTIONS};

/// Longer than any step of a test, but not without end: a test that fails must not hang.
const LONG: Duration = Duration::from_secs(2 * LIMIT.as_secs());
pub const FOR_LONG: MountOptions =
    MountOptions { patience: Patience::Limited { names: LONG, data: LONG }, ..OPTIONS };
/// Bytes of a block of a large file.
pub const BLOCK: usize = 64 * 1024;
/// Entries changed at once when a drive is made.
const BATCH: usize = 500;

/// The publisher's side, which is honest and quick.
pub struct Origin {
    publisher: Publisher,
    runtime: Runtime,
    address: String,
    _swarm: Sharing,
}

/// Bytes of padding of an entry of Hyperdrive 11 to 13. A whole index of small entries is fetched when its drive is
/// opened; no test here waits for an entry that is here already.
const PADDING: usize = 400;

impl Origin {
    pub fn new(format: DriveFormat) -> Self {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        let runtime = builder.worker_threads(1).enable_all().build().expect("a runtime starts");
        let store = Store::memory();
        let publisher = Publisher::new(&store, "distant", format).expect("is made");
        let publisher = publisher.padded(PADDING);
        let (swarm, address) = runtime.block_on(async {
            let swarm =
                Sharing::new(&store, sharing_options(Share::Opened)).expect("the network starts");
            let address = swarm.listen("127.0.0.1:0").await.expect("listens");
            (swarm, address.to_string())
        });
        Self { publisher, runtime, address, _swarm: swarm }
    }

    pub fn key(&self) -> PublicKey {
        *self.publisher.drive().key()
    }

    pub fn put(&self, entries: Vec<(String, Stat)>) {
        for batch in entries.chunks(BATCH) {
            let edit = |(path, stat): &(String, Stat)| Edit::Put {
                path: DrivePath::parse(path).expect("a path"),
                stat: stat.clone(),
            };
            let edits = batch.iter().map(edit).collect();
            self.runtime.block_on(self.publisher.apply(edits)).expect("applied");
        }
    }

    pub fn file(&self, blocks: &[Bytes]) -> Stat {
        let extent = self.publisher.append_content(blocks).expect("appended");
        Stat { mode: TYPE_FILE | 0o644, extent, ..Stat::default() }
    }

    /// A file of this number of blocks, each filled with its own number.
    pub fn large(&self, blocks: usize) -> Stat {
        let blocks: Vec<Bytes> =
            (0..blocks).map(|number| vec![number as u8; BLOCK].into()).collect();
        self.file(&blocks)
    }
}

pub fn link(target: &str) -> Stat {
    Stat { mode: TYPE_SYMLINK | 0o777, linkname: Some(target.to_owned()), ..Stat::default() }
}

/// A relay in front of a peer.
pub struct Line {
    address: String,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    held: Mutex<bool>,
    changed: Condvar,
    sockets: Mutex<Vec<TcpStream>>,
}

impl Shared {
    fn pass(&self, mut from: TcpStream, mut to: TcpStream) {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(length @ 1..) = from.read(&mut buffer) {
            let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
            let held = self.changed.wait_while(held, |held| *held);
            drop(held);
            if to.write_all(&buffer[..length]).is_err() {
                break;
            }
        }
        // Either side may be gone already.
        let _ = from.shutdown(Shutdown::Both);
        let _ = to.shutdown(Shutdown::Both);
    }

    fn connect(self: &Arc<Self>, near: TcpStream, peer: &str) -> std::io::Result<()> {
        let far = TcpStream::connect(peer)?;
        let mut sockets = self.sockets.lock().unwrap_or_else(PoisonError::into_inner);
        for (from, to) in [(&near, &far), (&far, &near)] {
            sockets.push(from.try_clone()?);
            let (from, to, shared) = (from.try_clone()?, to.try_clone()?, self.clone());
            std::thread::spawn(move || shared.pass(from, to));
        }
        Ok(())
    }
}

impl Line {
    pub fn to(origin: &Origin) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("it is bound").to_string();
        let (shared, peer) = (Arc::new(Shared::default()), origin.address.clone());
        let weak = Arc::downgrade(&shared);
        std::thread::spawn(move || {
            for near in listener.incoming() {
                let Some(shared) = weak.upgrade() else { return };
                let _ = near.and_then(|near| shared.connect(near, &peer));
            }
        });
        Self { address, shared }
    }

    /// Where it is to be dialled.
    pub fn address(&self) -> &str {
        &self.address
    }

    pub fn hold(&self) {
        self.set(true);
    }

    pub fn release(&self) {
        self.set(false);
    }

    fn set(&self, held: bool) {
        *self.shared.held.lock().unwrap_or_else(PoisonError::into_inner) = held;
        self.shared.changed.notify_all();
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.release();
        for socket in self.shared.sockets.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            let _ = socket.shutdown(Shutdown::Both);
        }
        // Wakes the listening thread, which then sees that it can end.
        self.shared = Arc::default();
        drop(TcpStream::connect(&self.address));
    }
}

/// The reader's side. Fields are dropped in this order.
pub struct Distant {
    pub mount: Mount,
    pub line: Line,
    pub bench: Bench,
    _swarm: Sharing,
}

impl Distant {
    pub fn mounted(origin: &Origin, options: MountOptions) -> Self {
        let line = Line::to(origin);
        let store = Store::memory();
        let key = origin.key();
        let mut swarm = None;
        let bench = Bench::opened(store.clone(), |runtime| {
            runtime.block_on(async {
                let here = Sharing::new(&store, sharing_options(Share::Opened)).expect("starts");
                here.dial(&line.address);
                swarm = Some(here);
                Drive::open(&store, &key, None, Wait::within(LIMIT)).await.expect("opens")
            })
        });
        let mount = bench.mount_with(options);
        Self { mount, line, bench, _swarm: swarm.expect("it was started") }
    }

    /// Fetches a file into the store, and nothing of it into the kernel.
    pub fn fetch(&self, path: &str) {
        let path = DrivePath::parse(path).expect("a path");
        let (drive, wait) = (&self.bench.drive, Wait::within(LIMIT));
        self.bench.runtime.block_on(async {
            let entry = drive.snapshot().entry(&path, wait).await.expect("is there");
            let extent = entry.stat.extent;
            drive.read(&extent, 0..extent.size, wait).await.expect("is fetched");
        });
    }
}
