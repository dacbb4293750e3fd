//! A host: one store with its mounts, its seeds and its network. The daemon has one behind its API; a
//! mount in the foreground is a host without a socket.
//!
//! Its methods are spread over `mounts.rs`, `seeds.rs` and `report.rs` (status, peers, failures). Not
//! here: the socket and HTTP (`api.rs`), and when the process ends (`life.rs`).

mod all_drives;
mod mounts;
mod report;
mod seeds;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use hypermount_core::{Store, Wait};
use hypermount_drive::Drive;
use hypermount_swarm::sync::{Mutex, Rank};
use hypermount_swarm::{Dialling, PublicKey};

use super::events::Events;
use super::life::Life;
use super::rates::Rates;
use crate::failure::{Failure, Result};
use crate::model::{DriveLimits, Find, Limits};
use crate::network::{Dialled, Network};
use crate::record::Held;
use crate::saved::Saved;
use crate::session::Session;
use crate::stored;
use crate::target::Target;
use crate::values::{BootstrapAddress, WaitLimit, drive_url, parse_peer};

use mounts::{Mounted, Pending};
use seeds::Seeding;

pub use report::watch;

/// Most peers that one daemon dials.
pub const MAX_DIALLED: usize = 256;
/// How long a peer named by one command stays dialled: the next command probably names it, too.
const LINGER: Duration = Duration::from_secs(10);
/// Most drives with rate limits of their own.
pub const MAX_LIMITED: usize = 1024;

pub struct Host {
    pub store: Store,
    pub directory: PathBuf,
    pub state_directory: PathBuf,
    pub socket: PathBuf,
    pub log: Option<PathBuf>,
    pub network: Network,
    pub life: Arc<Life>,
    pub events: Events,
    pub started: Instant,
    rates: Mutex<Rates>,
    mounts: Mutex<BTreeMap<PathBuf, Arc<Mounted>>>,
    seeds: Mutex<BTreeMap<PublicKey, Seeding>>,
    /// What is restored after a restart.
    saved: Mutex<Saved>,
    /// Saved mounts that could not be made yet.
    pending: Mutex<BTreeMap<PathBuf, Pending>>,
    /// Peers that are dialled, each while a mount, a seed or a request needs it.
    dialled: Mutex<HashMap<String, Weak<Dialling>>>,
    /// Where mounted and seeded drives have moved to, by their URLs.
    moved: Mutex<HashMap<String, String>>,
    /// Limits of single drives.
    limits: Mutex<BTreeMap<PublicKey, Limits>>,
    /// How peers are looked for; `None` until a request asks for it.
    finding: tokio::sync::Mutex<Option<Find>>,
    finds: AtomicBool,
    listening: Mutex<BTreeMap<SocketAddr, SocketAddr>>,
    /// Records of ended mounts that may have been the last ones: a process that waits for such a record
    /// to go must find the store free.
    last_records: Arc<Mutex<Vec<Held>>>,
}

/// What a [`Host`] is made of.
pub struct Parts {
    pub store: Store,
    pub directory: PathBuf,
    pub state_directory: PathBuf,
    pub socket: PathBuf,
    pub log: Option<PathBuf>,
    pub network: Network,
    pub life: Arc<Life>,
    pub saved: Saved,
    pub last_records: Arc<Mutex<Vec<Held>>>,
}

impl Host {
    pub fn new(parts: Parts) -> Arc<Self> {
        let Parts { store, directory, state_directory, socket, log, network, life, .. } = parts;
        Arc::new(Self {
            store,
            directory,
            state_directory,
            socket,
            log,
            network,
            life,
            events: Events::default(),
            started: Instant::now(),
            rates: Mutex::new(Rank::DAEMON_RATES, Rates::default()),
            mounts: Mutex::new(Rank::DAEMON_MOUNTS, BTreeMap::new()),
            seeds: Mutex::new(Rank::DAEMON_SEEDS, BTreeMap::new()),
            saved: Mutex::new(Rank::LEAF, parts.saved),
            pending: Mutex::default(),
            moved: Mutex::default(),
            dialled: Mutex::new(Rank::DAEMON_DIALLED, HashMap::new()),
            limits: Mutex::new(Rank::DAEMON_LIMITS, BTreeMap::new()),
            finding: tokio::sync::Mutex::default(),
            finds: AtomicBool::new(false),
            listening: Mutex::default(),
            last_records: parts.last_records,
        })
    }

    /// Opens a drive as an API request names it. `peers` are dialled while the session is kept, and for
    /// 10 s from now. With an empty `find` peers of this drive are not looked for, even if those of other
    /// drives are.
    pub async fn session(
        &self,
        drive: &str,
        peers: &[String],
        wait: Option<&str>,
        find: &Find,
    ) -> Result<Session> {
        let target = Target::of_request(drive, &self.directory)?;
        let dialled = self.dial(peers)?;
        let lingering = dialled.clone();
        tokio::spawn(async move {
            tokio::time::sleep(LINGER).await;
            drop(lingering);
        });
        self.find(find).await?;
        let looks = *find != Find::default();
        if let Target::Url(url) = &target {
            self.network.look_for(&url.key, looks)?;
        }
        let wait = self.wait_for(find, wait)?;
        let network = Some(&self.network);
        let opened = Session::attach(&self.store, &self.directory, &target, network, wait).await?;
        Ok(opened.with_peers(dialled))
    }

    /// The wait for one block, if there is a peer to wait for.
    pub fn wait_for(&self, find: &Find, wait: Option<&str>) -> Result<Wait> {
        let named = self.dials_peers() || !self.network.peers().is_empty();
        Ok(match (*find != Find::default() || named, wait) {
            (false, _) => Wait::Local,
            (true, None) => WaitLimit::default().wait(),
            (true, Some(text)) => wait_limit(text)?.wait(),
        })
    }

    /// Whether there are peers to wait for.
    pub fn knows_peers(&self) -> bool {
        self.finds() || self.dials_peers() || !self.network.peers().is_empty()
    }

    fn finds(&self) -> bool {
        self.finds.load(Ordering::Acquire)
    }

    /// Begins to look for peers, if it was asked for and has not begun. A daemon does that in one way
    /// only: a client that asked for `lan` must not be announced further by another client's request.
    pub async fn find(&self, asked: &Find) -> Result {
        let options = BootstrapAddress::options(asked.lan, &asked.bootstrap)?;
        let mut finding = self.finding.lock().await;
        if options.is_off() || finding.as_ref() == Some(asked) {
            return Ok(());
        }
        if finding.is_some() {
            let why = "this daemon does so in another way already";
            return Err(Failure::failed("look for peers", why).hint(
                "use the same --network and --bootstrap, or `hypermount daemon stop` first",
            ));
        }
        self.network.discover(&options).await?;
        *finding = Some(asked.clone());
        self.finds.store(true, Ordering::Release);
        Ok(())
    }

    /// Announces that we have the drive, if peers are looked for at all.
    pub fn announce(&self, key: &PublicKey) -> Result {
        if self.finds() { self.network.announce(key) } else { Ok(()) }
    }

    /// The rate limits of all drives together.
    pub fn limits(&self) -> Limits {
        let (up, down) = self.network.limits();
        Limits { up, down }
    }

    /// The limits of one drive.
    pub async fn limits_of(&self, drive: &str) -> Result<Limits> {
        let key = self.key_of(drive).await?;
        Ok(self.limits.lock().get(&key).copied().unwrap_or_default())
    }

    /// Changes the limits of one drive, at once.
    pub async fn limit_drive(&self, drive: &str, limits: Limits) -> Result<Limits> {
        let session = self.session(drive, &[], Some("0"), &Find::default()).await?;
        let key = *session.drive.key();
        let mut limited = self.limits.lock();
        if limits == Limits::default() {
            limited.remove(&key);
        } else {
            if limited.len() >= MAX_LIMITED && !limited.contains_key(&key) {
                let why = format!("{MAX_LIMITED} drives have limits already");
                return Err(Failure::failed(format!("limit {drive}"), why)
                    .hint("take one back: hypermount limit DRIVE --up none --down none"));
            }
            limited.insert(key, limits);
        }
        self.network.limit_drive(&session.drive, limits.up, limits.down);
        Ok(limits)
    }

    /// The drives that have limits of their own.
    pub fn drive_limits(&self) -> Vec<DriveLimits> {
        let limited = self.limits.lock();
        let describe = |(key, limits): (&PublicKey, &Limits)| {
            let (url, name) = (drive_url(key, None), self.name_of(key));
            DriveLimits { url, name, limits: *limits }
        };
        limited.iter().map(describe).collect()
    }

    /// Dials the peers that are not dialled yet. A peer is dialled until the last value that was returned
    /// for it is dropped.
    pub fn dial(&self, peers: &[String]) -> Result<Dialled> {
        let mut dialled = self.dialled.lock();
        dialled.retain(|_, dialling| dialling.strong_count() > 0);
        let mut kept = Vec::new();
        for peer in peers {
            parse_peer(peer).map_err(|why| Failure::usage(format!("dial {peer:?}"), why))?;
            if let Some(dialling) = dialled.get(peer).and_then(Weak::upgrade) {
                kept.push(dialling);
                continue;
            }
            if dialled.len() >= MAX_DIALLED {
                let why = format!("{MAX_DIALLED} peers are dialled already");
                return Err(Failure::failed(format!("dial {peer}"), why));
            }
            let dialling = Arc::new(self.network.dial_while(peer));
            dialled.insert(peer.clone(), Arc::downgrade(&dialling));
            kept.push(dialling);
        }
        Ok(kept)
    }

    fn dials_peers(&self) -> bool {
        self.dialled.lock().values().any(|dialling| dialling.strong_count() > 0)
    }

    /// Listens for peers; returns the address, with the port that the system chose for port 0.
    pub async fn listen(&self, asked: &str) -> Result<SocketAddr> {
        let asked: SocketAddr = asked
            .parse()
            .map_err(|_| Failure::usage(format!("listen on {asked:?}"), "expected ADDR:PORT"))?;
        if asked.port() != 0
            && let Some(known) = self.listening.lock().get(&asked)
        {
            return Ok(*known);
        }
        let address = self.network.listen(asked).await?;
        self.listening.lock().insert(address, address);
        Ok(address)
    }

    pub fn listening(&self) -> Vec<SocketAddr> {
        self.listening.lock().keys().copied().collect()
    }

    /// The drives that are mounted or seeded.
    fn in_use(&self) -> Vec<Drive> {
        let mut drives: Vec<Drive> = Vec::new();
        for mounted in self.mounts.lock().values() {
            drives.extend(mounted.mount.drives());
        }
        drives.extend(self.seeds.lock().values().filter_map(Seeding::drive));
        drives
    }

    /// Whether a drive is mounted or seeded, or is to be.
    pub fn needs(&self, key: &PublicKey) -> bool {
        self.seeds.lock().contains_key(key) || self.in_use().iter().any(|drive| drive.key() == key)
    }

    /// Shares the drives that are mounted or seeded, and no others.
    pub fn choose_shared(&self) {
        let drives = self.in_use();
        let mut cores = HashSet::new();
        for drive in &drives {
            cores.insert(*drive.metadata_core().discovery_key());
            cores.extend(drive.content().ok().map(|content| *content.discovery_key()));
        }
        self.network.set_shared(cores);
    }

    /// Releases the records of ended mounts, because other mounts or seeds still keep the store in use.
    pub fn release_records(&self) {
        self.last_records.lock().clear();
    }

    /// Whether the daemon must go on: it was told to stay, or has a mount or a seed.
    pub fn is_needed(&self) -> bool {
        self.life.is_kept()
            || !self.mounts.lock().is_empty()
            || !self.seeds.lock().is_empty()
            || !self.pending.lock().is_empty()
    }

    /// Changes the state that is restored after a restart, and stores it.
    fn change_saved(&self, change: impl FnOnce(&mut Saved)) -> Result {
        let mut saved = self.saved.lock();
        let mut new = saved.clone();
        change(&mut new);
        if new != *saved {
            new.save(&self.directory)?;
            *saved = new;
        }
        Ok(())
    }

    /// The name a drive was created with here.
    pub fn name_of(&self, key: &PublicKey) -> Option<String> {
        stored::name_of(&self.store, key).ok().flatten()
    }

    /// The key of the drive that a request names.
    pub async fn key_of(&self, drive: &str) -> Result<PublicKey> {
        if let Ok(Target::Url(url)) = drive.parse() {
            return Ok(url.key);
        }
        Ok(*self.session(drive, &[], Some("0"), &Find::default()).await?.drive.key())
    }
}

/// `10s`, `0`, `forever`.
pub fn wait_limit(text: &str) -> Result<WaitLimit> {
    text.parse().map_err(|why| Failure::usage(format!("wait {text:?}"), why))
}
