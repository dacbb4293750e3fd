//! The drives of a store.

use std::path::Path;
use std::time::Duration;

use hypermount_core::{Core, DamagedCore, Store, Wait};
use hypermount_drive::{Drive, DriveFormat, DrivePath, StoredDrives, transfer};
use hypermount_swarm::PublicKey;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::failure::{Context, Failure, Result};
use crate::model::CreateRequest;
use crate::path_text;
use crate::session::Session;
use crate::stored::{drives, name_of, stored_drives_and_damage};
use crate::terminal::escaped;
use crate::values::drive_url;

/// How long a note is waited for that says that a drive has moved.
const NOTE_WITHIN: Duration = Duration::from_millis(500);

/// One drive in full: what `info --json` prints.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct About {
    pub url: String,
    pub key: String,
    /// What peers find the drive by; does not let anyone read it.
    pub discovery_key: String,
    /// Length of the metadata core: the newest version known here, or the frozen one.
    pub version: u64,
    /// The releases of Hyperdrive that have its format: `hyperdrive 10` or `hyperdrive 11-13`.
    pub format: String,
    /// How often its publisher has truncated it. Always 0 in Hyperdrive 10.
    pub fork: u64,
    /// The key in z-base-32, as programs of Hyperdrive 11 to 13 show it; `null` in Hyperdrive 10.
    pub id: Option<String>,
    /// The key of the core with the bytes of its files.
    pub content_key: Option<String>,
    pub writable: bool,
    /// URL of the drive that it has moved to, if a note in it says so and is on this disk or comes at once.
    #[serde(default)]
    pub moved_to: Option<String>,
    /// Directory of the store.
    pub store: String,
    /// Other drives in the store, if they were asked for.
    pub others: Vec<String>,
    pub cores: Vec<AboutCore>,
}

/// What of a core is on this disk.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct AboutCore {
    pub key: String,
    pub blocks: u64,
    pub blocks_here: u64,
    pub bytes: u64,
}

/// `whole_store`: the other drives and their cores too, not only this drive's.
pub async fn about(session: &Session, whole_store: bool) -> Result<About> {
    let what = || "read the store";
    let drive: &Drive = &session.drive;
    let key = *drive.key();
    let index = drive.metadata_core();
    let content = drive.content().ok();
    let mut cores: Vec<AboutCore> = std::iter::once(index).chain(content).map(about_core).collect();
    let mut others = Vec::new();
    if whole_store {
        let stored = session.store.stored_cores().context(what)?;
        let shown = |core: &Core| (*core.key(), core.dialect());
        let of_drive = [Some(shown(index)), content.map(shown)];
        for (key, dialect) in stored.into_iter().filter(|core| !of_drive.contains(&Some(*core))) {
            let core = session.store.core_of(&key, dialect).context(what)?;
            cores.push(about_core(&core));
        }
        let found = drives(&session.store).await.context(what)?;
        others = found.iter().filter(|other| **other != key).map(|k| drive_url(k, None)).collect();
    }
    let format = drive.format();
    Ok(About {
        url: session.url(),
        key: key.to_hex(),
        discovery_key: key.discovery_key().to_hex(),
        version: drive.snapshot().version(),
        format: format.to_string(),
        fork: index.head().fork,
        id: (format == DriveFormat::Hyperdrive11).then(|| hypermount_drive::key_id(&key)),
        content_key: content.map(|core| core.key().to_hex()),
        writable: drive.writable(),
        moved_to: moved_to(drive, session.wait).await.ok().flatten(),
        store: path_text::encode(&session.directory),
        others,
        cores,
    })
}

/// URL of the drive that a note in this one names. Peers are waited for a moment only: the note may be looked for in vain.
pub async fn moved_to(drive: &Drive, wait: Wait) -> hypermount_core::Result<Option<String>> {
    let wait = if wait.is_local() { Wait::Local } else { Wait::Each(NOTE_WITHIN) };
    let found = drive.snapshot().moved_to(wait).await?.filter(|key| key != drive.key());
    Ok(found.map(|key| drive_url(&key, None)))
}

fn about_core(core: &Core) -> AboutCore {
    let head = core.head();
    AboutCore {
        key: core.key().to_hex(),
        blocks: head.length,
        blocks_here: core.held(0..head.length),
        bytes: head.byte_length,
    }
}

/// A line of `list`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Listed {
    /// `null` where it is lost: then there is only its hash, the discovery key.
    pub key: Option<String>,
    pub discovery_key: String,
    pub url: Option<String>,
    /// The name it was created with, where this store has it.
    pub name: Option<String>,
    /// Bytes of all files of the newest version; `null` while part of its index is not here.
    pub size: Option<u64>,
    pub version: u64,
    pub writable: bool,
    /// Why it is not writable although its keys are here.
    pub read_only_because: Option<String>,
    /// What is known to be damaged or missing; `check` tells all of it.
    pub damaged: Option<String>,
    /// Blocks of content, and those of them on this disk.
    pub blocks: u64,
    pub blocks_here: u64,
    /// Whether it is kept whole and given to others for good.
    #[serde(default)]
    pub seeded: bool,
    /// Where the daemon has it mounted.
    #[serde(default)]
    pub mountpoints: Vec<String>,
}

/// The drives of a store, the one it was made for first, and last those that cannot be opened.
pub async fn list(store: &Store) -> Result<Vec<Listed>> {
    let what = || "read the store";
    let StoredDrives { drives, damaged: mut cores } =
        stored_drives_and_damage(store).await.context(what)?;
    let mut listed = Vec::new();
    for key in drives {
        match describe(store, &key).await {
            Ok(mut drive) => {
                let found = cores.extract_if(.., |core| core.key == Some(key));
                let whys: Vec<String> = found.map(|core| core.why).collect();
                drive.damaged = (!whys.is_empty()).then(|| whys.join("; "));
                listed.push(drive);
            }
            Err(error) => {
                let discovery_key = key.discovery_key();
                cores.push(DamagedCore { discovery_key, key: Some(key), why: error.to_string() });
            }
        }
    }
    listed.extend(cores.into_iter().map(|core| damaged(store, core)));
    Ok(listed)
}

fn damaged(store: &Store, core: DamagedCore) -> Listed {
    Listed {
        key: core.key.map(|key| key.to_hex()),
        discovery_key: core.discovery_key.to_hex(),
        url: core.key.map(|key| drive_url(&key, None)),
        name: core.key.and_then(|key| name_of(store, &key).ok().flatten()),
        size: None,
        version: 0,
        writable: false,
        read_only_because: None,
        damaged: Some(core.why),
        blocks: 0,
        blocks_here: 0,
        seeded: false,
        mountpoints: Vec::new(),
    }
}

async fn describe(store: &Store, key: &PublicKey) -> hypermount_core::Result<Listed> {
    let drive = Drive::open(store, key, None, Wait::Local).await?;
    let measured = transfer::measure(&drive, &DrivePath::root(), Wait::Local).await;
    let content = drive.content().ok();
    let blocks = content.map_or(0, |core| core.head().length);
    let stop = drive.metadata_core().stopped().or(content.and_then(|core| core.stopped()));
    if let Err(error @ hypermount_core::Error::Corrupt { .. }) = measured {
        return Err(error);
    }
    Ok(Listed {
        key: Some(key.to_hex()),
        discovery_key: key.discovery_key().to_hex(),
        url: Some(drive_url(key, None)),
        name: name_of(store, key)?,
        size: measured.ok().filter(|measured| measured.complete).map(|measured| measured.bytes),
        version: drive.snapshot().version(),
        writable: drive.writable(),
        read_only_because: stop.map(|stop| stop.reason().to_owned()),
        damaged: None,
        blocks,
        blocks_here: content.map_or(0, |core| core.held(0..blocks)),
        seeded: false,
        mountpoints: Vec::new(),
    })
}

/// What `create --json` prints.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Created {
    pub url: String,
    pub name: String,
    /// Directory of the store.
    pub store: String,
}

/// Makes a drive whose keys derive from the name.
pub fn create(store: &Store, directory: &Path, asked: &CreateRequest) -> Result<Created> {
    let CreateRequest { name, format, encrypted } = asked;
    let what = || format!("create {name}");
    let format = format.format();
    if name.chars().any(char::is_control) {
        return Err(Failure::usage(
            format!("create {}", escaped(name)),
            "the name of a drive has no line breaks and no other control characters",
        ));
    }
    if *encrypted && format != DriveFormat::Hyperdrive11 {
        return Err(Failure::usage(what(), "a drive of Hyperdrive 10 cannot be encrypted")
            .hint("make one of Hyperdrive 13: --format 13 --encrypted"));
    }
    if let Some(key) = store.named_key(name.as_bytes()).context(what)? {
        return Err(Failure::failed(what(), "there is one of that name already")
            .hint(format!("it is {}", drive_url(&key, None))));
    }
    let drive = match encrypted {
        true => Drive::create_encrypted(store, name),
        false => Drive::create_in(format, store, name),
    };
    let drive = drive.context(what)?;
    drive.sync().context(what)?;
    let store = path_text::encode(directory);
    Ok(Created { url: drive_url(drive.key(), None), name: name.clone(), store })
}
