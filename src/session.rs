//! What every command about a drive begins with: the store, the peers, the drive, and finding a path
//! in it. What a path or a drive *is* belongs to the `drive` library.

use std::fmt::Display;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hypermount_core::store::Custodian;
use hypermount_core::{Error, Store, Wait};
use hypermount_drive::hyperdrive::StoredDrives;
use hypermount_drive::url::DriveUrl;
use hypermount_drive::{Drive, DrivePath, Entry, Kind, Snapshot};
use hypermount_swarm::PublicKey;
use hypermount_swarm::network::DiscoveryOptions;

use crate::cli::Source;
use crate::config::{self, BootstrapAddress};
use crate::daemon::model::Find;
use crate::failure::{Code, Context, Failure, Result};
use crate::named::{NamedDrive, split_store};
use crate::network::Network;
use crate::target::Target;
use crate::terminal;

/// Bytes of a drive's URL that tell drives apart and open none, for logs.
pub const SHORT_URL: usize = "hyper://".len() + 12;
/// How long a command that looks once waits for news of a drive that is here already.
const FRESH_LIMIT: Duration = Duration::from_millis(1500);
/// How many nested drives a path may cross.
const MAX_NESTED_DRIVES: usize = 16;

pub struct Session {
    pub store: Store,
    pub directory: PathBuf,
    pub drive: Drive,
    /// The path of the URL; the root for a directory.
    pub path: DrivePath,
    pub wait: Wait,
    pub network: Option<Network>,
}

/// An entry, and the drive it turned out to be in.
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
        let directory = store_directory(target, source)?;
        let store = open_store(target, &directory, reaches_peers(target, source)?)?;
        let url = match target {
            Target::Url(url) => url.clone(),
            Target::Directory(directory) => only_drive(&store, directory).await?,
            Target::Name(name) => named_drive(&store, name, &directory)?,
        };
        let by_key = matches!(target, Target::Url(_));
        Self::with_store(store, directory, url, source, by_key, target).await
    }

    /// The same for a drive named in the way of `import` and `export`. Without a `source` it is one
    /// of our own and no peer is asked.
    pub async fn open_named(
        named: &NamedDrive,
        store: Option<&Path>,
        source: Option<&Source>,
    ) -> Result<Self> {
        let own = Source { store: store.map(Path::to_owned), ..Source::default() };
        let source = source.unwrap_or(&own);
        let what = || format!("open {named}");
        match named {
            NamedDrive::Url(url) => Self::open(&Target::Url(url.clone()), source).await,
            NamedDrive::Directory(path) => {
                let path = std::path::absolute(path).context(what)?;
                let (directory, inside) = split_store(&path)
                    .ok_or_else(|| Failure::failed(what(), "there is no store there"))?;
                let mut session = Self::open(&Target::Directory(directory), source).await?;
                session.path = DrivePath::parse(&inside).context(what)?;
                Ok(session)
            }
            NamedDrive::Name { name, path } => {
                let directory = store_or_default(store)?;
                let store = open_at(&directory, false)?;
                let key = store.named_key(name.as_bytes()).context(what)?;
                let unknown = || {
                    let why = format!("no drive of that name in {}", directory.display());
                    Failure::failed(what(), why)
                        .hint("`hypermount list` names them; a directory is written ./DIR")
                };
                let key = key.ok_or_else(unknown)?;
                let url = DriveUrl { key, version: None, path: path.clone() };
                Self::with_store(store, directory, url, source, false, named).await
            }
        }
    }

    /// The same in a process that has the store open and a network already.
    pub async fn attach(
        store: &Store,
        directory: &Path,
        target: &Target,
        network: &Network,
        wait: Wait,
    ) -> Result<Self> {
        let url = match target {
            Target::Url(url) => url.clone(),
            Target::Directory(directory) => only_drive(store, directory).await?,
            Target::Name(name) => named_drive(store, name, directory)?,
        };
        let opened = Drive::open(store, &url.key, url.version, wait).await;
        let drive = opened
            .context(|| format!("open {target}"))
            .map_err(|failure| with_troubles(failure, wait, network))?;
        let network = (!wait.is_local()).then(|| network.clone());
        let (store, directory) = (store.clone(), directory.to_owned());
        Ok(Self { store, directory, drive, path: url.path, wait, network })
    }

    async fn with_store(
        store: Store,
        directory: PathBuf,
        url: DriveUrl,
        source: &Source,
        by_key: bool,
        named: &impl Display,
    ) -> Result<Self> {
        let discovery = finding(by_key, source)?;
        let network = network(&store, source, by_key).await?;
        let wait = if network.is_some() { source.limit().wait() } else { Wait::Local };
        let spinner = network.as_ref().map(|_| terminal::spinner(waiting_for(source)));
        let opened = Drive::open(&store, &url.key, url.version, wait).await;
        if let Some(spinner) = spinner {
            spinner.finish_and_clear();
        }
        let drive =
            opened.context(|| format!("open {named}")).map_err(|failure| match &network {
                None => failure,
                Some(network)
                    if !discovery.is_off()
                        && !network.found(&url.key)
                        && network.troubles().is_empty() =>
                {
                    failure.hint("no peer was found; name one with --peer HOST:PORT")
                }
                Some(network) => with_troubles(failure, wait, network),
            })?;
        Ok(Self { store, directory, drive, path: url.path, wait, network })
    }

    /// Answers peers at `address` for what is open here, and announces it; the address it is.
    pub async fn listen(&mut self, address: SocketAddr, source: &Source) -> Result<SocketAddr> {
        let network = match self.network.take() {
            Some(network) => network,
            None => {
                let network = Network::for_reading(&self.store)?;
                let needed = source.peers.is_empty() && !address.ip().is_loopback();
                network.discover(&config::discovery(&source.finding, needed)?).await?;
                network
            }
        };
        let network = self.network.insert(network);
        let address = network.listen(address).await?;
        network.announce(self.drive.key())?;
        Ok(address)
    }

    /// For a command that looks once: takes in what peers tell of newer versions, if any is asked.
    pub async fn freshen(&self) {
        if !self.wait.is_local() {
            self.drive.freshen(FRESH_LIMIT).await;
        }
    }

    /// The URL of this drive, frozen version included.
    pub fn url(&self) -> String {
        drive_url(self.drive.key(), self.drive.frozen_version())
    }

    /// What lies at `path` below the URL's own path, crossing nested drives like mount points.
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
    /// Fails unless this is a file; says what it is instead.
    pub fn must_be_file(&self) -> Result {
        let why = match self.entry.kind {
            Kind::File => return Ok(()),
            Kind::Directory | Kind::Mount => "it is a directory",
            Kind::Symlink => {
                let target = self.entry.stat.linkname.as_deref().unwrap_or_default();
                return Err(Failure::failed(&self.path, "it is a symbolic link")
                    .hint(format!("it points to {target}; name that, or mount the drive")));
            }
            _ => "it is not a regular file",
        };
        Err(Failure::failed(&self.path, why))
    }
}

/// The network of a command, if there is anybody to ask.
pub async fn network(store: &Store, source: &Source, by_key: bool) -> Result<Option<Network>> {
    let discovery = finding(by_key, source)?;
    if source.peers.is_empty() && discovery.is_off() {
        return Ok(None);
    }
    let network = Network::for_reading(store)?;
    network.discover(&discovery).await?;
    network.dial(&source.peers);
    Ok(Some(network))
}

/// Says which peers could not be reached, if that was waited for.
fn with_troubles(failure: Failure, wait: Wait, network: &Network) -> Failure {
    match network.troubles().as_slice() {
        [] => failure,
        _ if wait.is_local() => failure,
        troubles => failure.hint(format!("peer {}", troubles.join("; peer "))),
    }
}

/// `hyper://KEY[+VERSION]`.
pub fn drive_url(key: &PublicKey, version: Option<u64>) -> String {
    match version {
        Some(version) => format!("hyper://{}+{version}", key.to_hex()),
        None => format!("hyper://{}", key.to_hex()),
    }
}

/// The drives a store holds, the one it was made for first, and what is wrong with them.
pub async fn survey(store: &Store) -> hypermount_core::Result<StoredDrives> {
    let first = store.default_key()?;
    let mut found = hypermount_drive::hyperdrive::survey(store).await?;
    found.drives.sort_by_key(|key| Some(*key) != first);
    Ok(found)
}

/// Keys of the drives a store holds that can be opened, the one it was made for first. Says which
/// others are damaged.
pub async fn drives(store: &Store) -> hypermount_core::Result<Vec<PublicKey>> {
    let found = survey(store).await?;
    for hurt in found.hurt {
        let name = hurt.key.map_or(hurt.discovery_key.to_hex(), |key| drive_url(&key, None));
        log::error!("{name}: damaged: {}; see `hypermount check`", hurt.why);
    }
    Ok(found.drives)
}

/// Whether anybody is asked for what is not here.
pub fn reaches_peers(target: &Target, source: &Source) -> Result<bool> {
    let discovery = finding(matches!(target, Target::Url(_)), source)?;
    Ok(!source.peers.is_empty() || !discovery.is_off())
}

/// Where a daemon is to look for peers of a drive, as its API has it.
pub fn find(target: &Target, source: &Source) -> Result<Find> {
    find_by_key(matches!(target, Target::Url(_)), source)
}

/// The same of a drive that is named by its key, or otherwise.
pub fn find_by_key(by_key: bool, source: &Source) -> Result<Find> {
    let options = finding(by_key, source)?;
    Ok(Find { lan: options.lan, bootstrap: BootstrapAddress::names(options) })
}

/// How peers are looked for: somebody who gives a key and names nobody needs it.
fn finding(by_key: bool, source: &Source) -> Result<DiscoveryOptions> {
    let offline = source.wait.is_some_and(|wait| wait.wait().is_local());
    config::discovery(&source.finding, by_key && source.peers.is_empty() && !offline)
}

fn waiting_for(source: &Source) -> String {
    match source.peers.as_slice() {
        [] => "looking for peers".into(),
        peers => format!("waiting for {}", peers.join(", ")),
    }
}

/// The store a target lives in: the directory itself, `--store`, or the default. Absolute, because
/// a process in the background leaves the directory it was started in.
pub fn store_directory(target: &Target, source: &Source) -> Result<PathBuf> {
    let directory = match (target, &source.store) {
        (Target::Directory(directory), None) => directory.clone(),
        (Target::Directory(directory), Some(_)) => {
            return Err(Failure::usage(
                "--store",
                format!("{} already says which store", directory.display()),
            )
            .hint("with --store, name the drive by its URL"));
        }
        (Target::Url(_) | Target::Name(_), Some(store)) => store.clone(),
        (Target::Url(_) | Target::Name(_), None) => config::default_store()?,
    };
    std::path::absolute(&directory).context(|| format!("find {}", directory.display()))
}

fn open_store(target: &Target, directory: &Path, peers: bool) -> Result<Store> {
    let create = matches!(target, Target::Url(_)) && peers;
    check_store(target, directory, create)?;
    open_at(directory, create)
}

/// Whether the store is to be made if there is none: where there is somebody to fill it.
pub fn may_create(target: &Target, source: &Source) -> Result<bool> {
    Ok(matches!(target, Target::Url(_)) && reaches_peers(target, source)?)
}

/// Refuses to look for a drive in a store that is not there and is not to be made.
pub fn check_store(target: &Target, directory: &Path, create: bool) -> Result {
    let url = matches!(target, Target::Url(_));
    if url && !create && !directory.exists() {
        return Err(Failure::new(
            Code::Unavailable,
            format!("open {target}"),
            format!("it is not in {} and no peer is looked for", directory.display()),
        )
        .hint("name a peer that has it with --peer HOST:PORT"));
    }
    if let Target::Name(name) = target
        && !directory.exists()
    {
        return Err(no_such_name(name, directory));
    }
    Ok(())
}

/// Opens the store, with the marks kept in the user's state directory.
pub fn open_at(directory: &Path, create: bool) -> Result<Store> {
    let state = config::state_directory().ok();
    Store::open_as(directory, create, &Custodian::here(state.as_deref()))
        .context(|| format!("open the store {}", directory.display()))
}

/// The store a command speaks of that names no drive, as an absolute path.
pub fn store_or_default(store: Option<&Path>) -> Result<PathBuf> {
    let directory = match store {
        Some(store) => store.to_owned(),
        None => config::default_store()?,
    };
    std::path::absolute(&directory).context(|| format!("find {}", directory.display()))
}

/// The drive of that name: the one whose key derives from it.
fn named_drive(store: &Store, name: &str, directory: &Path) -> Result<DriveUrl> {
    match store.named_key(name.as_bytes()).context(|| format!("find the drive {name}"))? {
        Some(key) => Ok(DriveUrl { key, version: None, path: DrivePath::root() }),
        None => Err(no_such_name(name, directory)),
    }
}

fn no_such_name(name: &str, directory: &Path) -> Failure {
    let why = format!("there is none of that name in {}", directory.display());
    let failure = Failure::failed(format!("open the drive {name}"), why);
    if Path::new(name).is_dir() {
        return failure.hint(format!(
            "the directory {name} here is no store either: a store has a master_key in it"
        ));
    }
    failure.hint(format!("make it: hypermount create {name}"))
}

async fn only_drive(store: &Store, directory: &Path) -> Result<DriveUrl> {
    let what = || format!("find the drive in {}", directory.display());
    let key = match store.default_key().context(what)? {
        Some(key) => key,
        None => {
            let found = drives(store).await.context(what)?;
            match found.as_slice() {
                [only] => *only,
                [] => return Err(Failure::failed(what(), "there is none")),
                several => {
                    let names: Vec<_> = several.iter().map(|key| drive_url(key, None)).collect();
                    return Err(Failure::usage(what(), format!("there are {}", several.len()))
                        .hint(format!("say one of them with --store: {}", names.join(" "))));
                }
            }
        }
    };
    Ok(DriveUrl { key, version: None, path: DrivePath::root() })
}
