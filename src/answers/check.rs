//! `check`: which data of a store, or of one drive in it, was verified, is damaged, and was repaired.
//! `hypermount_drive::check` reads, hashes and fetches.

use std::collections::BTreeSet;

use hypermount_core::{DamagedCore, Store, Wait};
use hypermount_drive::check::{
    CheckStep, DamagedFile, DriveCheck, check as check_drive, content_of_drive,
    repair as repair_drive,
};
use hypermount_swarm::{DiscoveryKey, PublicKey};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::failure::{Context, Failure, Result};
use crate::model::Find;
use crate::stored::{name_of, stored_drives_and_damage};
use crate::target::Target;
use crate::values::drive_url;

/// Bytes read between two reports of progress.
const BETWEEN: u64 = 8 * 1024 * 1024;

/// A request to verify drives.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Check {
    /// A drive's URL or name; all drives of the store without it.
    pub drive: Option<String>,
    /// Fetch damaged blocks from peers.
    #[serde(default)]
    pub repair: bool,
    /// Peers to fetch from, `HOST:PORT` each.
    #[serde(default)]
    pub peers: Vec<String>,
    /// Longest wait for one block: `10s`, `0` (do not wait for peers), `forever`.
    #[serde(default)]
    pub wait: Option<String>,
    /// Where other peers are looked for.
    #[serde(default)]
    pub find: Find,
}

/// Progress of a check, in order. The last one is `done` or `failed`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Checking {
    /// Bytes that were read and hashed since the last time.
    Bytes {
        count: u64,
    },
    /// How many of the requested blocks peers have sent.
    Fetched {
        fetched: u64,
        of: u64,
    },
    Drive {
        drive: Box<CheckedDrive>,
    },
    Done {
        hurt: u64,
    },
    Failed {
        failure: Failure,
    },
}

/// What was found in one drive.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct CheckedDrive {
    /// `null` where the key is lost: then there is only its hash, the discovery key.
    pub url: Option<String>,
    pub discovery_key: String,
    pub name: Option<String>,
    /// Whether something is wrong that was not repaired.
    pub hurt: bool,
    /// What is wrong with the drive as a whole, one sentence each.
    pub why: Vec<String>,
    pub blocks_sound: u64,
    pub blocks_damaged: u64,
    /// Tree nodes and signatures that were damaged, and how many of these were written again.
    pub records_damaged: u64,
    pub records_repaired: u64,
    /// Files that cannot be read whole; the first ones of `file_count`.
    pub files: Vec<HurtPath>,
    pub file_count: u64,
    /// Versions of which the index is damaged; the first ones of `version_count`.
    pub versions: Vec<u64>,
    pub version_count: u64,
    /// Versions of which the signature is damaged; the first ones.
    pub signatures: Vec<u64>,
    /// Small files that were written again from the master key: `key` and `name`, of the index or of the
    /// content.
    pub files_repaired: Vec<String>,
    /// Blocks that were fetched from peers, and blocks that none sent.
    pub blocks_repaired: u64,
    pub blocks_lacking: u64,
    /// Why the first of these did not come.
    pub lacking_because: Option<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct HurtPath {
    pub path: String,
    /// The version of the drive that brought it.
    pub version: u64,
    /// Whether it is what the newest version has at this path.
    pub newest: bool,
}

/// Verifies one drive of the store, or all. With `repair`, fetches damaged blocks; `repair` is the wait for
/// each. Returns the number of drives that are still damaged.
pub async fn check(
    store: &Store,
    asked: &Check,
    repair: Option<Wait>,
    tell: &mut (dyn FnMut(Checking) + Send),
) -> Result<u64> {
    let damaged = store.damaged_small_files().context(|| "read the store")?;
    let wanted = asked.drive.as_deref().map(|drive| key_of(store, drive)).transpose()?;
    let found = stored_drives_and_damage(store).await.context(|| "read the store")?;
    let small = SmallFiles { store, damaged };
    let (mut hurt, mut checked) = (0, 0);
    for key in found.drives.iter().filter(|key| wanted.is_none_or(|wanted| wanted == **key)) {
        let drive = check_one(&small, key, repair, tell).await?;
        checked += 1;
        hurt += u64::from(drive.hurt);
        tell(Checking::Drive { drive: Box::new(drive) });
    }
    // The damage of a drive that opens was reported by its own check above.
    let closed = found.damaged.into_iter().filter(|core| {
        let opens = core.key.is_some_and(|key| found.drives.contains(&key));
        !opens && wanted.is_none_or(|wanted| wanted.discovery_key() == core.discovery_key)
    });
    for damaged in closed {
        let drive = match (damaged.key, repair) {
            (Some(key), Some(_)) => check_one(&small, &key, repair, tell).await?,
            _ => unopened(store, damaged),
        };
        checked += 1;
        hurt += u64::from(drive.hurt);
        tell(Checking::Drive { drive: Box::new(drive) });
    }
    if let Some(drive) = asked.drive.as_deref().filter(|_| checked == 0) {
        return Err(Failure::failed(format!("check {drive}"), "it is not in the store"));
    }
    Ok(hurt)
}

/// The key of a drive, which may be too damaged to open.
fn key_of(store: &Store, drive: &str) -> Result<PublicKey> {
    match drive.parse::<Target>().context(|| format!("find the drive {drive}"))? {
        Target::Url(url) => Ok(url.key),
        // The look-up by name also rewrites the name file if that is damaged.
        Target::Name(name) => {
            let found = store.named_key(name.as_bytes()).context(|| format!("find {drive}"))?;
            Ok(found.unwrap_or_else(|| store.key_named(name.as_bytes())))
        }
        Target::Directory(_) => {
            Err(Failure::usage(format!("find the drive {drive}"), "that is no drive")
                .hint("name it by its URL or by the name it was created with"))
        }
    }
}

/// The small files of cores that were damaged before anything was opened.
struct SmallFiles<'a> {
    store: &'a Store,
    damaged: BTreeSet<(DiscoveryKey, &'static str)>,
}

impl SmallFiles<'_> {
    /// The damaged files of the drive that were repaired since.
    fn repaired(&self, drive: &PublicKey) -> Result<Vec<String>> {
        if self.damaged.is_empty() {
            return Ok(Vec::new());
        }
        let content = content_of_drive(self.store, drive).map(|key| key.discovery_key());
        let left = self.store.damaged_small_files().context(|| "read the store")?;
        let repaired = self.damaged.difference(&left);
        let named = repaired.filter_map(|(core, file)| match core {
            core if *core == drive.discovery_key() => Some(format!("{file} of the index")),
            core if Some(*core) == content => Some(format!("{file} of the content")),
            _ => None,
        });
        Ok(named.collect())
    }
}

async fn check_one(
    small: &SmallFiles<'_>,
    key: &PublicKey,
    repair: Option<Wait>,
    tell: &mut (dyn FnMut(Checking) + Send),
) -> Result<CheckedDrive> {
    let store = small.store;
    let mut pending = 0;
    let mut step = |step| match step {
        CheckStep::Read(count) => {
            pending += count;
            if pending >= BETWEEN {
                tell(Checking::Bytes { count: std::mem::take(&mut pending) });
            }
        }
        CheckStep::Fetched { fetched, of } => tell(Checking::Fetched { fetched, of }),
    };
    let mut drive = CheckedDrive {
        url: Some(drive_url(key, None)),
        discovery_key: key.discovery_key().to_hex(),
        name: name_of(store, key).context(|| "read the store")?,
        ..CheckedDrive::default()
    };
    let found = match repair {
        None => check_drive(store, key, &mut step).await,
        Some(wait) => repair_drive(store, key, wait, &mut step).await.map(|repaired| {
            drive.hurt = repaired.is_damaged();
            drive.blocks_repaired = repaired.fetched.fetched;
            drive.blocks_lacking = repaired.fetched.lacking;
            drive.lacking_because = repaired.fetched.why;
            repaired.check
        }),
    };
    match found {
        Ok(found) => drive.found(found),
        // These errors concern every drive of the store, so they end the whole check.
        Err(
            error @ (hypermount_core::Error::Locked { .. }
            | hypermount_core::Error::TooManyCores { .. }),
        ) => return Err(error).context(|| drive_url(key, None)),
        Err(error) => {
            drive.hurt = true;
            drive.why.push(error.to_string());
        }
    }
    drive.files_repaired = small.repaired(key)?;
    if pending > 0 {
        tell(Checking::Bytes { count: pending });
    }
    Ok(drive)
}

impl CheckedDrive {
    fn found(&mut self, found: DriveCheck) {
        self.hurt |= found.is_damaged();
        self.why = found.missing;
        self.blocks_sound = found.sound;
        self.blocks_damaged = found.damaged_blocks;
        self.records_damaged = found.records_damaged;
        self.records_repaired = found.records_repaired;
        self.files = found.files.into_iter().map(HurtPath::from).collect();
        self.file_count = found.file_count;
        self.versions = found.versions;
        self.version_count = found.version_count;
        self.signatures = found.unsigned;
    }
}

fn unopened(store: &Store, damaged: DamagedCore) -> CheckedDrive {
    CheckedDrive {
        url: damaged.key.map(|key| drive_url(&key, None)),
        discovery_key: damaged.discovery_key.to_hex(),
        name: damaged.key.and_then(|key| name_of(store, &key).ok().flatten()),
        hurt: true,
        why: vec![damaged.why],
        ..CheckedDrive::default()
    }
}

impl From<DamagedFile> for HurtPath {
    fn from(file: DamagedFile) -> Self {
        let DamagedFile { path, version, newest } = file;
        Self { path, version, newest }
    }
}
