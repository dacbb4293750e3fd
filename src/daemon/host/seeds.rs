//! The seeds of a host: drives that are shared permanently. Of a drive of another publisher every block
//! is fetched, of every version.

use std::sync::Arc;
use std::time::Duration;

use hypermount_core::{Core, Store, Urgency, Wait};
use hypermount_drive::Drive;
use hypermount_swarm::PublicKey;
use hypermount_swarm::sync::Mutex;
use tokio::task::AbortHandle;

use super::{Dialled, Host};
use crate::failure::Result;
use crate::model::{Find, Happening, SeedInfo, SeedRequest};
use crate::saved::SavedSeed;
use crate::values::{drive_url, short_url};

/// Most drives that one daemon seeds.
pub const MAX_SEEDS: usize = 4096;
/// Blocks requested at once in the background, per core.
const WANTED_AT_ONCE: usize = 4096;
/// Pause between two requests for more while some are missing.
const REFILL: Duration = Duration::from_millis(200);
/// How long opening a drive that is not in the store waits for peers, before it reports that and tries again.
const OPEN_WITHIN: Duration = Duration::from_secs(30);
/// The default address to listen on: every address, any port.
const ANYWHERE: &str = "0.0.0.0:0";
/// Pause before a failed opening is tried again.
const RETRY: Duration = Duration::from_secs(5);

/// A drive that is seeded. Dropping it ends the fetching, not what was fetched.
pub struct Seeding {
    shared: Arc<Shared>,
    task: AbortHandle,
    /// Peers that were named for it.
    peers: Dialled,
}

#[derive(Default)]
struct Shared {
    drive: Mutex<Option<Drive>>,
    trouble: Mutex<Option<String>>,
}

impl Drop for Seeding {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Seeding {
    fn keep(&mut self, peers: Dialled) {
        let known = |peer: &Arc<_>| self.peers.iter().any(|known| Arc::ptr_eq(known, peer));
        let new: Dialled = peers.into_iter().filter(|peer| !known(peer)).collect();
        self.peers.extend(new);
    }

    /// The drive, once it is open.
    pub fn drive(&self) -> Option<Drive> {
        self.shared.drive.lock().clone()
    }
}

impl Host {
    /// Seeds a drive, now and after every restart.
    pub async fn seed(self: &Arc<Self>, drive: &str, how: &SeedRequest) -> Result<SeedInfo> {
        let key = self.key_of(drive).await?;
        self.start_seed(key, how).await?;
        let saved = SavedSeed { url: drive_url(&key, None), how: how.clone() };
        self.change_saved(|all| {
            all.seeds.retain(|known| *known != saved);
            all.seeds.push(saved);
        })?;
        self.events.tell(Happening::Seeded { url: drive_url(&key, None) });
        Ok(self
            .describe_seed(&key)
            .unwrap_or_else(|| SeedInfo { url: drive_url(&key, None), ..SeedInfo::default() }))
    }

    async fn start_seed(self: &Arc<Self>, key: PublicKey, how: &SeedRequest) -> Result {
        let peers = self.dial(&how.peers)?;
        self.find(&how.find).await?;
        self.network.look_for(&key, how.find != Find::default())?;
        match &how.listen {
            Some(address) => drop(self.listen(address).await?),
            // An announced address has to be reachable.
            None if how.find != Find::default() && self.listening().is_empty() => {
                self.listen(ANYWHERE).await?;
            }
            None => {}
        }
        self.announce(&key)?;
        if let Some(known) = self.seeds.lock().get_mut(&key) {
            known.keep(peers);
            return Ok(());
        }
        if self.seeds.lock().len() >= MAX_SEEDS {
            let why = format!("{MAX_SEEDS} drives are seeded already");
            return Err(crate::failure::Failure::failed("seed", why));
        }
        let shared = Arc::new(Shared::default());
        // A drive that is in the store is opened now, so that the answer describes it.
        *shared.drive.lock() = Drive::open_to_seed(&self.store, &key, Wait::Local).await.ok();
        let task = keep_whole(self.store.clone(), key, shared.clone());
        let host = Arc::downgrade(self);
        let task = tokio::spawn(async move {
            let Some(drive) = task.opened().await else { return };
            if let Some(host) = host.upgrade() {
                host.choose_shared();
            }
            drop(host);
            fetch_all(&drive).await;
        });
        let seeding = Seeding { shared, task: task.abort_handle(), peers };
        self.seeds.lock().insert(key, seeding);
        self.choose_shared();
        log::info!("seeding {}", short_url(&drive_url(&key, None)));
        Ok(())
    }

    /// Seeds what was seeded when the daemon ended.
    pub async fn restore_seeds(self: &Arc<Self>) {
        let saved = self.saved.lock().seeds.clone();
        for seed in saved {
            let Ok(key) = self.key_of(&seed.url).await else {
                log::error!("{}: no drive to seed", seed.url);
                continue;
            };
            if let Err(failure) = self.start_seed(key, &seed.how).await {
                log::error!("{}: {}", short_url(&seed.url), failure.sentence());
            }
        }
    }

    /// Stops seeding a drive; returns whether it was seeded. Fetched blocks stay.
    pub async fn unseed(&self, drive: &str) -> Result<bool> {
        let key = self.key_of(drive).await?;
        let seeding = self.seeds.lock().remove(&key);
        let url = drive_url(&key, None);
        self.change_saved(|all| all.seeds.retain(|known| known.url != url))?;
        let was_there = seeding.is_some();
        if let Some(drive) = seeding.and_then(|seeding| seeding.drive()) {
            for core in cores(&drive) {
                core.demand().forget_ahead(0..u64::MAX);
            }
        }
        self.choose_shared();
        if was_there {
            self.events.tell(Happening::Unseeded { url });
        }
        self.life.consider();
        Ok(was_there)
    }

    pub fn seeds(&self) -> Vec<SeedInfo> {
        let keys: Vec<PublicKey> = self.seeds.lock().keys().copied().collect();
        keys.iter().filter_map(|key| self.describe_seed(key)).collect()
    }

    fn describe_seed(&self, key: &PublicKey) -> Option<SeedInfo> {
        let (drive, trouble) = {
            let seeds = self.seeds.lock();
            let seeding = seeds.get(key)?;
            (seeding.drive(), seeding.shared.trouble.lock().clone())
        };
        let mut info = SeedInfo { url: drive_url(key, None), ..SeedInfo::default() };
        info.name = self.name_of(key);
        info.trouble = trouble;
        if let Some(drive) = drive {
            let (blocks, blocks_here) = completeness(&drive);
            info.version = drive.snapshot().version();
            (info.blocks, info.blocks_here) = (blocks, blocks_here);
            info.complete = blocks > 0 && blocks == blocks_here;
            info.own = drive.writable();
        }
        Some(info)
    }
}

/// The cores of a drive: index first.
pub fn cores(drive: &Drive) -> Vec<Core> {
    let content = drive.content().ok().cloned();
    std::iter::once(drive.metadata_core().clone()).chain(content).collect()
}

/// Blocks of the newest version known, and those of them that are here.
pub fn completeness(drive: &Drive) -> (u64, u64) {
    cores(drive).iter().fold((0, 0), |(blocks, here), core| {
        let length = core.head().length;
        (blocks + length, here + core.held(0..length))
    })
}

/// Opens a drive that may not be in the store yet.
struct Opening {
    store: Store,
    key: PublicKey,
    shared: Arc<Shared>,
}

fn keep_whole(store: Store, key: PublicKey, shared: Arc<Shared>) -> Opening {
    Opening { store, key, shared }
}

impl Opening {
    /// The drive, tried until it opens; `None` if its data is malformed, so that it never will.
    async fn opened(self) -> Option<Drive> {
        loop {
            let known = self.shared.drive.lock().clone();
            if known.is_some() {
                return known;
            }
            match Drive::open_to_seed(&self.store, &self.key, Wait::Each(OPEN_WITHIN)).await {
                Ok(drive) => {
                    *self.shared.drive.lock() = Some(drive.clone());
                    *self.shared.trouble.lock() = None;
                    return Some(drive);
                }
                Err(error @ hypermount_core::Error::Malformed(_)) => {
                    *self.shared.trouble.lock() = Some(error.to_string());
                    return None;
                }
                Err(error) => *self.shared.trouble.lock() = Some(error.to_string()),
            }
            tokio::time::sleep(RETRY).await;
        }
    }
}

/// Fetches every block of every version, without end.
async fn fetch_all(drive: &Drive) {
    if drive.writable() {
        return;
    }
    let mut tasks = tokio::task::JoinSet::new();
    for core in cores(drive) {
        tasks.spawn(follow(core.clone()));
        tasks.spawn(fetch(core));
    }
    // They end only with the store, or when this is aborted, which drops the set.
    while tasks.join_next().await.is_some() {}
}

/// Asks for longer heads without end.
async fn follow(core: Core) {
    while core.longer_than(core.head().length, Wait::Forever).await.is_ok() {}
}

async fn fetch(core: Core) {
    let mut head = core.watch();
    loop {
        let length = head.borrow_and_update().length.max(core.head().length);
        let mut missing = Vec::new();
        let mut next = 0;
        while missing.len() < WANTED_AT_ONCE
            && let Some(block) = core.first_missing(next..length)
        {
            missing.push(block);
            next = block + 1;
        }
        if missing.is_empty() {
            if head.changed().await.is_err() {
                return;
            }
            continue;
        }
        core.demand().want_ahead(missing, Urgency::Background);
        tokio::time::sleep(REFILL).await;
    }
}
