//! Where a command finds its drive: in this process, which then opens the store, or in the daemon that
//! has the store open. A command that only looks starts no daemon.

use std::path::PathBuf;

use hypermount_drive::DrivePath;

use crate::cli::Source;
use crate::client::{self, Client};
use crate::daemon::ONLY;
use crate::daemon::model::{DriveQuery, Find};
use crate::failure::{Code, Context, Failure, Result};
use crate::named::{NamedDrive, split_store};
use crate::session::{Session, find_by_key, store_directory, store_or_default};
use crate::target::Target;

/// How often a command changes its mind about where the store is open.
const ATTEMPTS: usize = 3;

/// The drive of a command, where it is.
pub enum Reached {
    Here(Box<Session>),
    There(Box<Remote>),
}

/// A drive that a daemon has.
pub struct Remote {
    pub client: Client,
    /// As the API names it.
    pub drive: String,
    /// Within the drive.
    pub path: DrivePath,
    pub source: Source,
    /// Where peers are looked for.
    pub find: Find,
}

/// The drive a command line names.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Directory of its store, absolute.
    pub store: PathBuf,
    /// As the API names it.
    pub drive: String,
    pub path: DrivePath,
}

impl Wanted {
    pub fn of_target(target: &Target, source: &Source) -> Result<Self> {
        let store = store_directory(target, source)?;
        let (drive, path) = match target {
            Target::Url(url) => {
                (crate::session::drive_url(&url.key, url.version), url.path.clone())
            }
            Target::Directory(_) => (ONLY.to_owned(), DrivePath::root()),
            Target::Name(name) => (name.clone(), DrivePath::root()),
        };
        Ok(Self { store, drive, path })
    }

    pub fn of_named(named: &NamedDrive, source: &Source) -> Result<Self> {
        match named {
            NamedDrive::Url(url) => Self::of_target(&Target::Url(url.clone()), source),
            NamedDrive::Directory(path) => {
                let what = || format!("open {named}");
                let path = std::path::absolute(path).context(what)?;
                let (directory, inside) = split_store(&path)
                    .ok_or_else(|| Failure::failed(what(), "there is no store there"))?;
                let mut wanted = Self::of_target(&Target::Directory(directory), source)?;
                wanted.path = DrivePath::parse(&inside).context(what)?;
                Ok(wanted)
            }
            NamedDrive::Name { name, path } => {
                let store = store_or_default(source.store.as_deref())?;
                Ok(Self { store, drive: name.clone(), path: path.clone() })
            }
        }
    }
}

impl Reached {
    /// The drive of a command that names it as `ls` does.
    pub async fn open(target: &Target, source: &Source) -> Result<Self> {
        let wanted = Wanted::of_target(target, source)?;
        Self::find(wanted, source, async || Session::open(target, source).await).await
    }

    /// The drive of a command that names it as `import` does.
    pub async fn open_named(named: &NamedDrive, source: &Source, peers: bool) -> Result<Self> {
        let wanted = Wanted::of_named(named, source)?;
        let open = async || {
            let asked = peers.then_some(source);
            Session::open_named(named, source.store.as_deref(), asked).await
        };
        Self::find(wanted, source, open).await
    }

    async fn find(
        wanted: Wanted,
        source: &Source,
        open: impl AsyncFn() -> Result<Session>,
    ) -> Result<Self> {
        let find = find_by_key(wanted.drive.starts_with("hyper://"), source)?;
        let remote = |client| {
            let Wanted { drive, path, .. } = wanted.clone();
            Self::There(Box::new(Remote {
                client,
                drive,
                path,
                source: source.clone(),
                find: find.clone(),
            }))
        };
        for _ in 1..ATTEMPTS {
            if let Some(client) = client::find(&wanted.store).await? {
                return Ok(remote(client));
            }
            match open().await {
                // A daemon may have come in between.
                Err(failure) if failure.code() == Code::Locked => {}
                opened => return Self::here(opened?).await,
            }
        }
        match client::find(&wanted.store).await? {
            Some(client) => Ok(remote(client)),
            None => Self::here(open().await?).await,
        }
    }
}

impl Reached {
    async fn here(session: Session) -> Result<Self> {
        session.freshen().await;
        Ok(Self::Here(Box::new(session)))
    }
}

impl Remote {
    /// A path of the API about something in this drive.
    pub fn about(&self, what: &[&str], path: &str) -> Result<String> {
        self.query(what, DriveQuery { path: self.join(path)?, ..self.base() })
    }

    pub fn query(&self, what: &[&str], query: DriveQuery) -> Result<String> {
        let segments = [&["drives", self.drive.as_str()], what].concat();
        client::path(&segments, &query)
    }

    pub fn base(&self) -> DriveQuery {
        DriveQuery {
            peers: self.source.peers.join(","),
            wait: self.source.wait.map(|wait| wait.to_string()),
            lan: self.find.lan,
            bootstrap: self.find.bootstrap.join(","),
            ..DriveQuery::default()
        }
    }

    /// `path` below the drive's own.
    fn join(&self, path: &str) -> Result<String> {
        let below = DrivePath::parse(path).context(|| path.to_owned())?;
        Ok(format!("{}/{}", self.path.as_str(), below.as_str()))
    }
}
