//! Access to the drive of a command: in this process, which opens the store, or through the daemon that
//! has the store open. A command that only reads starts no daemon.

use hypermount_drive::DrivePath;

use crate::client::{self, Client};
use crate::failure::{Code, Context, Result};
use crate::model::{DriveQuery, Find};
use crate::session::Session;
use crate::source::Source;
use crate::target::{Location, Target, TargetPath};

/// Most attempts of a command to find the daemon.
const ATTEMPTS: usize = 3;

/// The drive of a command.
pub enum Access {
    /// Opened by this process.
    Local(Box<Session>),
    /// Opened by the daemon that has the store open.
    Remote(Box<Remote>),
}

/// A drive in the store of a daemon.
pub struct Remote {
    pub client: Client,
    /// The drive's name in the API.
    pub drive: String,
    /// Within the drive.
    pub path: DrivePath,
    pub source: Source,
    /// Where peers are looked for.
    pub find: Find,
}

impl Access {
    /// For a command that names a drive, or a path in it by its URL.
    pub async fn open(target: &Target, source: &Source) -> Result<Self> {
        let location = Location::of(target, source)?;
        Self::find(target, location, source).await
    }

    /// For a command that names a drive and a path in it in one argument.
    pub async fn open_path(named: &TargetPath, source: &Source) -> Result<Self> {
        let (target, path) = named.split()?;
        let location = Location { path, ..Location::of(&target, source)? };
        Self::find(&target, location, source).await
    }

    async fn find(target: &Target, location: Location, source: &Source) -> Result<Self> {
        location.keep_encryption_key(target, source)?;
        for _ in 1..ATTEMPTS {
            if let Some(client) = client::find(&location.store).await? {
                return Self::remote(client, target, location, source);
            }
            match Session::open(target, source).await {
                // A daemon was started since we looked for it.
                Err(failure) if failure.code() == Code::Locked => {}
                opened => return Self::local(opened?, location).await,
            }
        }
        match client::find(&location.store).await? {
            Some(client) => Self::remote(client, target, location, source),
            None => Self::local(Session::open(target, source).await?, location).await,
        }
    }

    async fn local(mut session: Session, location: Location) -> Result<Self> {
        session.path = location.path;
        session.freshen().await;
        Ok(Self::Local(Box::new(session)))
    }

    fn remote(
        client: Client,
        target: &Target,
        location: Location,
        source: &Source,
    ) -> Result<Self> {
        let Location { drive, path, .. } = location;
        let find = source.find(target.is_url())?;
        Ok(Self::Remote(Box::new(Remote { client, drive, path, source: source.clone(), find })))
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
