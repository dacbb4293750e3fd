//! `convert`: its request, plan, progress and result. The copying itself is `hypermount_drive::transfer`, and the note in
//! the old drive `hypermount_drive::Drive::note_move`.

use hypermount_core::{Error, Store, Wait};
use hypermount_drive::transfer::{
    Conversion, ConversionLock, Converted, Observer, TransferStep, convert as copy,
};
use hypermount_drive::{Drive, DriveFormat};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::transfer::{StepKind, Summary, TroubleFound, no_room};
use crate::failure::{Code, Context, Failure, Result};
use crate::model::{Find, NewFormat};
use crate::session::Session;
use crate::stored::name_of;
use crate::target::{ONLY, Target};
use crate::terminal::{escaped, size};
use crate::values::drive_url;

/// Bytes of an index entry and its share of the tree, about; for the plan only.
const ENTRY_BYTES: u64 = 800;
/// Bytes of content for each of which one more is stored about it, about: hashes of its blocks.
const CONTENT_PER_HASH_BYTE: u64 = 512;

/// A drive into a new one of another format.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Convert {
    /// The release of Hyperdrive whose format the new drive has: `10` or `13`.
    pub to: NewFormat,
    /// Its name. Without it that of the conversion that was begun, else the old name with the release.
    #[serde(default)]
    pub name: Option<String>,
    /// Only plan: the answer is one line, `planned`.
    #[serde(default)]
    pub dry_run: bool,
    /// Leave no note in the old drive, and take back one that is there.
    #[serde(default)]
    pub no_note: bool,
    /// Peers to fetch from what is not on this disk, `HOST:PORT` each.
    #[serde(default)]
    pub peers: Vec<String>,
    /// Longest wait for one block: `10s`, `0` (do not wait for peers), `forever`.
    #[serde(default)]
    pub wait: Option<String>,
    /// Where other peers are looked for.
    #[serde(default)]
    pub find: Find,
}

/// What a conversion would do.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Plan {
    /// URL of the old drive.
    pub from: String,
    /// Its version that is copied.
    pub version: u64,
    /// The release of Hyperdrive of the new drive.
    pub to: NewFormat,
    /// Name of the new drive.
    pub name: String,
    /// URL of the new drive, if the conversion was begun before.
    pub url: Option<String>,
    /// Whether the new drive has all of an earlier version already.
    pub finished: bool,
    /// Files to copy, and the sum of their sizes.
    pub files: u64,
    pub bytes: u64,
    /// Other changes: directories, links, attributes, names, entries that are removed.
    pub others: u64,
    /// How much the store may grow, and how much space there is for that.
    pub growth: u64,
    pub available: u64,
    /// Bytes that have to be fetched from peers first; they stay in the store as well.
    pub fetched: u64,
    /// Whether a note in the old drive will name the new one.
    pub note: bool,
    /// The first of the entries that the format of the new drive has no place for.
    pub left_out: Vec<TroubleFound>,
    pub left_out_count: u64,
}

impl Plan {
    /// Whether the new drive has all of the old one.
    pub fn is_idle(&self) -> bool {
        self.finished && self.files + self.others == 0
    }
}

/// What became of the note in the old drive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Note {
    /// It names the new drive: for this program, and in the file MOVED.txt.
    Written,
    /// For this program only: MOVED.txt is a file of the user's.
    WithoutFile,
    /// None was asked for.
    None,
    /// The old drive cannot be written here.
    ReadOnly,
    /// Not before the new drive has everything.
    Unfinished,
}

/// A drive that was converted, or what of it was.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Moved {
    /// URL of the old drive.
    pub from: String,
    /// Its version that was copied.
    pub version: u64,
    pub to: NewFormat,
    /// URL of the new drive.
    pub url: String,
    pub name: String,
    /// Whether the new drive has all of that version.
    pub finished: bool,
    pub copied: Summary,
    /// Fifos, sockets and devices that were made, and further names of files.
    pub others: u64,
    /// Entries that only the new drive changed, which stay.
    pub kept: u64,
    /// The first of the entries that the format of the new drive has no place for.
    pub left_out: Vec<TroubleFound>,
    pub left_out_count: u64,
    pub note: Note,
}

/// Progress of a conversion, in order. The last line is `done`, `failed` or, of a dry run, `planned`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Converting {
    Planned {
        plan: Box<Plan>,
    },
    Step {
        path: String,
        step: StepKind,
    },
    /// More bytes that were copied.
    Bytes {
        count: u64,
    },
    Done {
        moved: Box<Moved>,
    },
    Failed {
        failure: Failure,
    },
}

/// Receives the progress.
pub type TellConverting<'a> = &'a mut (dyn FnMut(Converting) + Send);

/// Converts the session's drive; in a dry run only plans. The plan is told first, and what cannot be done fails before
/// anything is written.
pub async fn convert(
    session: &Session,
    asked: &Convert,
    tell: TellConverting<'_>,
) -> Result<Option<Moved>> {
    let what = || format!("convert {}", session.url());
    must_be_convertible(session, asked)?;
    let _lock = match asked.dry_run {
        true => None,
        false => Some(
            ConversionLock::take(&session.store)
                .context(what)
                .map_err(|failure| failure.hint("wait until it has ended, and run this again"))?,
        ),
    };
    let mut conversion = conversion_of(session, asked)?;
    let store = &session.store;
    let known = open_known(store, &conversion).await.context(what)?;
    let plan = plan(session, asked, &conversion, known.as_ref()).await?;
    tell(Converting::Planned { plan: Box::new(plan) });
    if asked.dry_run {
        return Ok(None);
    }
    // The record first: without it a new drive of that name would be taken for another one.
    conversion.save().context(what)?;
    let new = match known {
        Some(new) => new,
        None => make(store, &conversion).await.context(what)?,
    };
    let mut reporter = Reporter(tell);
    let old = &session.drive;
    let copied = copy(old, Some(&new), &mut conversion, false, session.wait, &mut reporter).await;
    // Also after a failure: what was copied before it is in the drive.
    new.show_newest().await;
    let again = "run the same command again: it resumes after what was copied";
    let converted = copied.context(what).map_err(|failure| match failure.code() {
        Code::Failed => failure.hint_if_none(again),
        _ => failure,
    })?;
    let finished = conversion.is_finished();
    let note = note(session, asked, &new, finished).await?;
    let Converted { version, copied, others, kept, left_out, left_out_count, .. } = converted;
    Ok(Some(Moved {
        from: session.url(),
        version,
        to: asked.to,
        url: drive_url(new.key(), None),
        name: conversion.name,
        finished,
        copied: Summary::new(copied, false),
        others,
        kept,
        left_out: left_out.into_iter().map(TroubleFound::from).collect(),
        left_out_count,
        note,
    }))
}

/// Refuses what cannot be converted, with the reason.
fn must_be_convertible(session: &Session, asked: &Convert) -> Result {
    let drive = &session.drive;
    let what = || format!("convert {}", session.url());
    if !session.path.is_root() {
        let why = "a drive is converted whole";
        return Err(Failure::usage(what(), why).hint("leave the path off the URL"));
    }
    if drive.frozen_version().is_some() {
        let why = "the newest version of a drive is converted";
        return Err(Failure::usage(what(), why).hint("leave +VERSION off the URL"));
    }
    if session.store.is_of_another_program() {
        let why = "a new drive is not made in the store of another program";
        return Err(Failure::failed(what(), why).hint(
            "copy the drive into a store of your own by its key, from that program as a peer: hypermount convert \
             hyper://KEY --to RELEASE --name NAME",
        ));
    }
    if let Some(stop) = session.store.stop_reasons().context(what)?.store {
        return Err(Error::ReadOnly(stop.reason())).context(what);
    }
    if drive.format() == asked.to.format() {
        let why = format!("it has that format already: {}", drive.format());
        return Err(Failure::usage(what(), why));
    }
    if drive.metadata_core().is_unlocked() && asked.to.format() == DriveFormat::Hyperdrive10 {
        let why = "it is encrypted, and a drive of Hyperdrive 10 cannot be: its URL alone would be enough to read it";
        return Err(Failure::failed(what(), why)
            .hint("if that is wanted: export it, create a drive, and import it there"));
    }
    Ok(())
}

/// The record of the conversion that is asked for: that of an earlier run, or a new one.
fn conversion_of(session: &Session, asked: &Convert) -> Result<Conversion> {
    let (store, from, to) = (&session.store, *session.drive.key(), asked.to.format());
    let what = || format!("convert {}", session.url());
    let mut known = Conversion::all(store).context(what)?;
    known.retain(|known| known.from == from && known.to == to);
    if let Some(name) = &asked.name {
        if let Some(at) = known.iter().position(|known| known.name == *name) {
            return Ok(known.swap_remove(at));
        }
        must_be_free(store, name, &what())?;
        return Ok(Conversion::new(store, from, to, name));
    }
    if known.len() > 1 {
        let names: Vec<_> = known.iter().map(|known| known.name.as_str()).collect();
        let why = format!("it was converted into several drives: {}", names.join(", "));
        return Err(Failure::usage(what(), why).hint("name one of them with --name"));
    }
    if let Some(only) = known.pop() {
        return Ok(only);
    }
    let Some(old) = name_of(store, &from).context(what)? else {
        let why = "the drive has no name here from which one for the new drive could be made";
        return Err(Failure::usage(what(), why).hint("name the new drive: --name NAME"));
    };
    let name = format!("{old}-{}", asked.to);
    must_be_free(store, &name, &what())?;
    Ok(Conversion::new(store, from, to, &name))
}

/// Refuses a name that a new drive cannot have.
fn must_be_free(store: &Store, name: &str, what: &str) -> Result {
    let is_name = matches!(name.parse(), Ok(Target::Name(_))) && name != ONLY;
    if !is_name || name.chars().any(char::is_control) {
        let why = format!("the new drive cannot be named {}", escaped(name));
        return Err(Failure::usage(what, why).hint("a name is one word without slashes"));
    }
    match store.named_key(name.as_bytes()).context(|| what.to_owned())? {
        None => Ok(()),
        Some(key) => {
            let why = format!(
                "there is a drive {name} already, which is no conversion of it: {}",
                drive_url(&key, None)
            );
            Err(Failure::failed(what, why).hint("choose another name: --name NAME"))
        }
    }
}

/// The new drive, if an earlier run made it.
async fn open_known(
    store: &Store,
    conversion: &Conversion,
) -> hypermount_core::Result<Option<Drive>> {
    let Some(key) = store.named_key(conversion.name.as_bytes())? else { return Ok(None) };
    match Drive::open(store, &key, None, Wait::Local).await {
        Ok(drive) => Ok(Some(drive)),
        // It was interrupted before the drive had its first block.
        Err(Error::Unavailable { block: 0, .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

async fn make(store: &Store, conversion: &Conversion) -> hypermount_core::Result<Drive> {
    let drive = Drive::create_in(conversion.to, store, &conversion.name)?;
    drive.sync()?;
    Ok(drive)
}

/// Finds out what there is to do, and fails if it cannot be done.
async fn plan(
    session: &Session,
    asked: &Convert,
    conversion: &Conversion,
    new: Option<&Drive>,
) -> Result<Plan> {
    let what = || format!("convert {}", session.url());
    let (old, wait) = (&session.drive, session.wait);
    let mut record = conversion.clone();
    let found = copy(old, new, &mut record, true, wait, &mut ()).await.context(what)?;
    let copied = &found.copied;
    if let Some(missing) = copied.troubles.iter().find(|trouble| trouble.missing) {
        let why = format!(
            "{} directories of its index are not on this disk, and no peer sent them; the first: /{}",
            copied.missing_count, missing.path
        );
        return Err(lacking(what(), why));
    }
    if wait.is_local() && found.lacking > 0 {
        let why = format!(
            "{} files ({}) are not on this disk, and no peer is asked for them; the first: /{}",
            found.lacking_files,
            size(found.lacking),
            found.first_lacking.as_deref().unwrap_or_default(),
        );
        return Err(lacking(what(), why));
    }
    let others =
        copied.updated + copied.directories + copied.symlinks + copied.deleted + found.others;
    let content = found.stored + found.stored / CONTENT_PER_HASH_BYTE;
    let growth = content + (copied.files + others) * ENTRY_BYTES + found.lacking;
    let available = session.store.space().context(what)?.available;
    if growth > available {
        return Err(no_room(what(), growth, available));
    }
    Ok(Plan {
        from: session.url(),
        version: found.version,
        to: asked.to,
        name: conversion.name.clone(),
        url: new.map(|new| drive_url(new.key(), None)),
        finished: conversion.is_finished(),
        files: copied.files,
        bytes: found.stored,
        others,
        growth,
        available,
        fetched: found.lacking,
        note: !asked.no_note && old.writable(),
        left_out: found.left_out.into_iter().map(TroubleFound::from).collect(),
        left_out_count: found.left_out_count,
    })
}

fn lacking(what: String, why: String) -> Failure {
    Failure::new(Code::Unavailable, what, why).hint(
        "name a peer that has the drive with --peer HOST:PORT, or look for one with --network full",
    )
}

/// Writes the note into the old drive, or takes it back.
async fn note(session: &Session, asked: &Convert, new: &Drive, finished: bool) -> Result<Note> {
    let old = &session.drive;
    let what = || format!("note in {} that it has moved", session.url());
    let again = "the new drive is complete; to write the note, run the same command again";
    let note = match (old.writable(), asked.no_note) {
        (_, false) if !finished => Note::Unfinished,
        (false, true) => Note::None,
        (false, false) => Note::ReadOnly,
        (true, true) => {
            old.withdraw_note().await.context(what)?;
            Note::None
        }
        (true, false) => {
            let noted = old.note_move(new.key()).await.context(what);
            match noted.map_err(|failure| failure.hint(again))?.in_file {
                true => Note::Written,
                false => Note::WithoutFile,
            }
        }
    };
    old.show_newest().await;
    Ok(note)
}

struct Reporter<'a>(TellConverting<'a>);

impl Observer for Reporter<'_> {
    fn step(&mut self, path: &str, step: TransferStep) {
        (self.0)(Converting::Step { path: path.to_owned(), step: step.into() });
    }

    fn bytes(&mut self, count: u64) {
        (self.0)(Converting::Bytes { count });
    }
}
