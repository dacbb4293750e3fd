//! `import` and `export`: their requests, progress and results. The copying itself is
//! `hypermount_drive::transfer`.

use std::path::PathBuf;

use hypermount_drive::transfer::{
    ExportOptions, ImportOptions, Observer, Report, TransferStep, Trouble, export as copy_out,
    import as copy_in, measure,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::failure::{Context, Failure, Result};
use crate::model::Find;
use crate::session::Session;
use crate::stored::name_of;
use crate::terminal::size;

/// Bytes of an index entry and its share of the tree, about; for the forecast only.
const ENTRY_BYTES: u64 = 400;

/// A directory into a drive.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Import {
    /// Directory to copy; absolute where a daemon is asked.
    #[serde(with = "crate::path_text")]
    #[schemars(with = "String")]
    pub directory: PathBuf,
    /// Where in the drive.
    #[serde(default)]
    pub path: String,
    /// Compare the content of files that look unchanged too.
    #[serde(default)]
    pub checksum: bool,
    /// Remove from the drive what is not in the directory.
    #[serde(default)]
    pub delete: bool,
    /// Only report what would be done.
    #[serde(default)]
    pub dry_run: bool,
    /// Files with more patterns to ignore.
    #[serde(default)]
    #[serde(with = "crate::path_text::list")]
    #[schemars(with = "Vec<String>")]
    pub ignore_files: Vec<PathBuf>,
}

/// A drive, or a part of it, into a directory.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Export {
    /// Directory to write to; absolute where a daemon is asked.
    #[serde(with = "crate::path_text")]
    #[schemars(with = "String")]
    pub directory: PathBuf,
    /// What of the drive.
    #[serde(default)]
    pub path: String,
    #[serde(default)]
    pub checksum: bool,
    /// Remove from the directory what is not in the drive.
    #[serde(default)]
    pub delete: bool,
    /// Make devices too, which takes root.
    #[serde(default)]
    pub devices: bool,
    #[serde(default)]
    pub dry_run: bool,
    /// Report first how many bytes there are in all.
    #[serde(default)]
    pub measure: bool,
    /// Peers to fetch from, `HOST:PORT` each.
    #[serde(default)]
    pub peers: Vec<String>,
    /// Longest wait for one block: `10s`, `0` (do not wait for peers), `forever`.
    pub wait: Option<String>,
    /// Where other peers are looked for.
    #[serde(default)]
    pub find: Find,
}

/// Progress of copying a tree, in order. The last one is `done` or `failed`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Progress {
    /// What an import will add to the store, at most.
    Forecast {
        growth: u64,
        available: u64,
        files: u64,
        others: u64,
    },
    /// Bytes to copy or compare in all.
    Expected {
        bytes: u64,
    },
    Step {
        path: String,
        step: StepKind,
    },
    /// More bytes that were copied or found to be there.
    Bytes {
        count: u64,
    },
    Done {
        summary: Summary,
    },
    Failed {
        failure: Failure,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum StepKind {
    Copy,
    Update,
    Make,
    Link,
    Remove,
    Unchanged,
}

impl From<TransferStep> for StepKind {
    fn from(step: TransferStep) -> Self {
        match step {
            TransferStep::Content(_) => StepKind::Copy,
            TransferStep::Metadata => StepKind::Update,
            TransferStep::Directory | TransferStep::Special => StepKind::Make,
            TransferStep::Symlink => StepKind::Link,
            TransferStep::Delete => StepKind::Remove,
            TransferStep::Unchanged => StepKind::Unchanged,
        }
    }
}

/// What was done, or would be.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct Summary {
    pub dry_run: bool,
    pub files: u64,
    pub bytes: u64,
    pub updated: u64,
    pub directories: u64,
    pub symlinks: u64,
    /// Fifos, sockets and devices that were made.
    #[serde(default)]
    pub specials: u64,
    pub deleted: u64,
    pub unchanged: u64,
    /// The first of the entries that were not copied, or not wholly.
    pub troubles: Vec<TroubleFound>,
    pub trouble_count: u64,
    pub missing_count: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct TroubleFound {
    pub path: String,
    pub why: String,
    /// It is not on this machine and no peer delivered it in time.
    pub missing: bool,
}

impl From<Trouble> for TroubleFound {
    fn from(found: Trouble) -> Self {
        Self { path: found.path, why: found.why, missing: found.missing }
    }
}

impl Summary {
    pub(super) fn new(report: Report, dry_run: bool) -> Self {
        Self {
            dry_run,
            files: report.files,
            bytes: report.bytes,
            updated: report.updated,
            directories: report.directories,
            symlinks: report.symlinks,
            specials: report.specials,
            deleted: report.deleted,
            unchanged: report.unchanged,
            troubles: report.troubles.into_iter().map(TroubleFound::from).collect(),
            trouble_count: report.trouble_count,
            missing_count: report.missing_count,
        }
    }
}

/// Receives the progress.
pub type Tell<'a> = &'a mut (dyn FnMut(Progress) + Send);

/// Copies a directory into the session's drive. Reports first how much the store will grow, and fails if
/// that does not fit.
pub async fn import(session: &Session, asked: &Import, tell: Tell<'_>) -> Result<Summary> {
    let imported = import_into(session, asked, tell).await;
    imported.map_err(|failure| match damage(session) {
        Some(damage) => failure.hint(damage),
        None => failure,
    })
}

/// The damage that makes a drive read-only although its secret key is here, and the command that repairs it.
fn damage(session: &Session) -> Option<String> {
    let (drive, store) = (&session.drive, &session.store);
    if drive.writable() || drive.frozen_version().is_some() {
        return None;
    }
    let damage =
        |what, core: &hypermount_core::Core| Some(format!("{what}: {}", store.known_damage(core)?));
    let content = drive.content().ok().and_then(|core| damage("its content", core));
    let hurt: Vec<String> =
        damage("its index", drive.metadata_core()).into_iter().chain(content).collect();
    if hurt.is_empty() {
        return None;
    }
    let name = name_of(store, drive.key()).ok().flatten();
    let name = name.unwrap_or_else(|| session.url());
    Some(format!(
        "{}; fetch it from a peer that has it: hypermount check {name} --repair --peer HOST:PORT",
        hurt.join("; ")
    ))
}

async fn import_into(session: &Session, asked: &Import, tell: Tell<'_>) -> Result<Summary> {
    let what = || format!("import {} into {}", asked.directory.display(), session.url());
    let options = ImportOptions {
        checksum: asked.checksum,
        delete: asked.delete,
        dry_run: asked.dry_run,
        estimate: false,
        ignore_files: asked.ignore_files.clone(),
    };
    let expected = forecast(session, asked, &options, tell).await?;
    tell(Progress::Expected { bytes: expected });
    let mut reporter = Reporter(tell);
    let copied =
        copy_in(&asked.directory, &session.drive, &session.path, &options, &mut reporter).await;
    Ok(Summary::new(copied.context(what)?, asked.dry_run))
}

/// Finds the differences without reading any content. Returns the number of bytes to copy or compare.
async fn forecast(
    session: &Session,
    asked: &Import,
    options: &ImportOptions,
    tell: Tell<'_>,
) -> Result<u64> {
    let what = || format!("look at {}", asked.directory.display());
    let options = ImportOptions { dry_run: true, estimate: true, ..options.clone() };
    let mut counted = Counted(0);
    let (drive, path) = (&session.drive, &session.path);
    let report =
        copy_in(&asked.directory, drive, path, &options, &mut counted).await.context(what)?;
    let made = report.directories + report.symlinks + report.specials;
    let entries = report.files + report.updated + made;
    let growth = report.bytes.saturating_sub(report.holes) + entries * ENTRY_BYTES;
    let available = session.store.space().context(what)?.available;
    if !report.is_idle() {
        let others = report.updated + made + report.deleted;
        tell(Progress::Forecast { growth, available, files: report.files, others });
    }
    if growth > available && !asked.dry_run {
        return Err(no_room(what(), growth, available));
    }
    Ok(report.bytes.saturating_add(counted.0))
}

/// The store may grow by more bytes than are free.
pub(super) fn no_room(what: String, growth: u64, available: u64) -> Failure {
    let why = format!("it takes up to {} and {} are free", size(growth), size(available));
    Failure::failed(what, why).hint("make room on the disk that holds the store")
}

/// Copies the session's drive, or a part of it, into a directory.
pub async fn export(session: &Session, asked: &Export, tell: Tell<'_>) -> Result<Summary> {
    let what = || format!("export {} to {}", session.url(), asked.directory.display());
    let (drive, path) = (&session.drive, &session.path);
    if asked.measure && !asked.dry_run {
        let bytes = measure(drive, path, session.wait).await.context(what)?.bytes;
        tell(Progress::Expected { bytes });
    }
    let Export { checksum, delete, devices, dry_run, .. } = *asked;
    let options = ExportOptions { checksum, delete, devices, dry_run };
    let mut reporter = Reporter(tell);
    let copied =
        copy_out(drive, path, &asked.directory, &options, session.wait, &mut reporter).await;
    Ok(Summary::new(copied.context(what)?, asked.dry_run))
}

/// Counts the bytes that need no copying.
struct Counted(u64);

impl Observer for Counted {
    fn step(&mut self, _: &str, _: TransferStep) {}

    fn bytes(&mut self, count: u64) {
        self.0 = self.0.saturating_add(count);
    }
}

struct Reporter<'a>(Tell<'a>);

impl Observer for Reporter<'_> {
    fn step(&mut self, path: &str, step: TransferStep) {
        (self.0)(Progress::Step { path: path.to_owned(), step: step.into() });
    }

    fn bytes(&mut self, count: u64) {
        (self.0)(Progress::Bytes { count });
    }
}
