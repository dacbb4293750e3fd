//! An opened drive with its store and network: what every command about a drive begins with.
//!
//! Not here: which drive is meant (`target/`), and what a drive or a path is (the `drive` library).

use std::path::{Path, PathBuf};
use std::time::Duration;

use hypermount_core::{Error, Store, Wait};
use hypermount_drive::{Drive, DrivePath, Entry, Kind, Snapshot};
use hypermount_swarm::PublicKey;

use crate::failure::{Context, Failure, Result};
use crate::network::{Dialled, Network};
use crate::source::Source;
use crate::stored::open_store;
use crate::target::{Location, Target, check_store, may_create};
use crate::terminal;
use crate::values::drive_url;

/// How long a command that reads a drive once waits for news of versions newer than the stored one.
const FRESH_LIMIT: Duration = Duration::from_millis(1500);
/// How many nested drives a path may cross.
const MAX_NESTED_DRIVES: usize = 16;

/// See the module documentation.
pub struct Session {
    pub store: Store,
    pub directory: PathBuf,
    pub drive: Drive,
    /// The path of the URL; the root for a directory.
    pub path: DrivePath,
    pub wait: Wait,
    /// Keeps the connections while the drive is read.
    _network: Option<Network>,
    /// Peers that a host dials for it.
    _peers: Dialled,
}

/// An entry, and the drive that contains it.
pub struct Place {
    pub drive: Drive,
    pub snapshot: std::sync::Arc<Snapshot>,
    /// Within `drive`.
    pub path: DrivePath,
    pub entry: Entry,
}

impl Session {
    /// Opens the store, dials the peers and opens the drive.
    pub async fn open(target: &Target, source: &Source) -> Result<Self> {
        let directory = Location::of(target, source)?.store;
        let create = may_create(target, source)?;
        check_store(target, &directory, create)?;
        let store = open_store(&directory, create)?;
        let network = network(&store, source, target.is_url()).await?;
        let wait = if network.is_some() { source.limit().wait() } else { Wait::Local };
        let spinner = network.as_ref().map(|_| terminal::spinner(waiting_for(source)));
        let opened = Self::attach(&store, &directory, target, network.as_ref(), wait).await;
        if let Some(spinner) = spinner {
            spinner.finish_and_clear();
        }
        opened
    }

    /// As [`Session::open`], in a process that has the store open and its own network.
    pub async fn attach(
        store: &Store,
        directory: &Path,
        target: &Target,
        network: Option<&Network>,
        wait: Wait,
    ) -> Result<Self> {
        let url = target.resolve(store, directory).await?;
        let opened = Drive::open(store, &url.key, url.version, wait).await;
        let drive =
            opened.context(|| format!("open {target}")).map_err(|failure| match network {
                Some(network) => explain(failure, wait, network, &url.key),
                None => failure,
            })?;
        let network = network.filter(|_| !wait.is_local()).cloned();
        let (store, directory) = (store.clone(), directory.to_owned());
        Ok(Self {
            store,
            directory,
            drive,
            path: url.path,
            wait,
            _network: network,
            _peers: Vec::new(),
        })
    }

    /// Keeps peers dialled while the session is kept.
    pub fn with_peers(self, peers: Dialled) -> Self {
        Self { _peers: peers, ..self }
    }

    /// For a command that reads the drive once: fetches a newer version, if peers are asked.
    pub async fn freshen(&self) {
        if !self.wait.is_local() {
            self.drive.freshen(FRESH_LIMIT).await;
        }
    }

    /// The URL of this drive, frozen version included.
    pub fn url(&self) -> String {
        drive_url(self.drive.key(), self.drive.frozen_version())
    }

    /// The entry at `path` below the URL's own path. Nested drives are crossed like mount points.
    pub async fn find(&self, path: &str) -> Result<Place> {
        let below = DrivePath::parse(path).context(|| path.to_owned())?;
        let whole = DrivePath::parse(&format!("{}/{}", self.path.as_str(), below.as_str()))
            .context(|| path.to_owned())?;
        self.resolve(&whole).await.context(|| whole.to_string())
    }

    async fn resolve(&self, whole: &DrivePath) -> hypermount_core::Result<Place> {
        let mut drive = self.drive.clone();
        let mut snapshot = drive.snapshot();
        let mut path = DrivePath::root();
        let mut entry = snapshot.entry(&path, self.wait).await?;
        let mut crossed = 0;
        for component in whole.components() {
            path = path.join(&hypermount_drive::Name::new(component)?)?;
            entry = snapshot.entry(&path, self.wait).await?;
            let Some(mount) = entry.stat.mount.as_ref().filter(|mount| !mount.core) else {
                continue;
            };
            crossed += 1;
            if crossed > MAX_NESTED_DRIVES {
                return Err(Error::TooManyLevels);
            }
            drive = Drive::open(&self.store, &mount.key, mount.version, self.wait).await?;
            snapshot = drive.snapshot();
            path = DrivePath::root();
            entry = snapshot.entry(&path, self.wait).await?;
        }
        Ok(Place { drive, snapshot, path, entry })
    }
}

impl Place {
    /// Fails unless this is a file; the error names what it is instead.
    pub fn must_be_file(&self) -> Result {
        let why = match self.entry.kind {
            Kind::File => return Ok(()),
            Kind::Directory | Kind::Mount => "it is a directory",
            Kind::Symlink => {
                let target = self.entry.stat.linkname.as_deref().unwrap_or_default();
                return Err(Failure::failed(&self.path, "it is a symbolic link")
                    .hint(format!("it points to {target}; name that path, or mount the drive")));
            }
            _ => "it is not a regular file",
        };
        Err(Failure::failed(&self.path, why))
    }
}

/// The network of a command; `None` if no peer is asked.
pub async fn network(store: &Store, source: &Source, by_key: bool) -> Result<Option<Network>> {
    if !source.asks_peers(by_key)? {
        return Ok(None);
    }
    let network = Network::for_reading(store)?;
    network.discover(&source.discovery(by_key)?).await?;
    network.dial(&source.peers);
    Ok(Some(network))
}

/// Adds to the failure of an opening that waited for peers the reason why none sent the drive.
fn explain(failure: Failure, wait: Wait, network: &Network, key: &PublicKey) -> Failure {
    match network.troubles().as_slice() {
        _ if wait.is_local() => failure,
        [] if network.is_discovering() && !network.found(key) => {
            failure.hint("no peer was found; name one with --peer HOST:PORT")
        }
        [] => failure,
        troubles => failure.hint(format!("peer {}", troubles.join("; peer "))),
    }
}

fn waiting_for(source: &Source) -> String {
    match source.peers.as_slice() {
        [] => "looking for peers".into(),
        peers => format!("waiting for {}", peers.join(", ")),
    }
}
