//! `check`: what of a store, or of one drive in it, was verified, and what is hurt. The reading and
//! hashing is `hypermount_drive::check`.

use hypermount_core::Store;
use hypermount_core::store::Hurt;
use hypermount_drive::check::{HurtFile, check as check_drive};
use hypermount_swarm::PublicKey;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::name_of;
use crate::failure::{Context, Failure, Result};
use crate::session::{drive_url, survey};
use crate::target::Target;

/// How many bytes are read between two words about it.
const BETWEEN: u64 = 8 * 1024 * 1024;

/// What is to be verified.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Check {
    /// A drive's URL or name; all drives of the store without it.
    pub drive: Option<String>,
}

/// What is told while it goes on, in order. The last one is `done` or `failed`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Checking {
    /// Bytes that were read and hashed since the last time.
    Bytes {
        count: u64,
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
    /// Tree nodes and signatures that were damaged, and how many of these were written anew.
    pub records_damaged: u64,
    pub records_repaired: u64,
    /// Files that cannot be read whole; the first ones of `file_count`.
    pub files: Vec<HurtPath>,
    pub file_count: u64,
    /// Versions of which the index is damaged; the first ones of `version_count`.
    pub versions: Vec<u64>,
    pub version_count: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct HurtPath {
    pub path: String,
    /// The version of the drive that brought it.
    pub version: u64,
    /// Whether it is what the newest version has at this path.
    pub newest: bool,
}

/// Verifies one drive of the store, or all; how many are hurt.
pub async fn check(
    store: &Store,
    asked: &Check,
    tell: &mut (dyn FnMut(Checking) + Send),
) -> Result<u64> {
    let wanted = asked.drive.as_deref().map(|drive| key_of(store, drive)).transpose()?;
    let found = survey(store).await.context(|| "read the store")?;
    let (mut hurt, mut checked) = (0, 0);
    for key in found.drives.iter().filter(|key| wanted.is_none_or(|wanted| wanted == **key)) {
        let drive = check_one(store, key, tell).await?;
        checked += 1;
        hurt += u64::from(drive.hurt);
        tell(Checking::Drive { drive: Box::new(drive) });
    }
    // Of a drive that opens, its own check tells.
    let closed = found.hurt.into_iter().filter(|hurt| {
        let opens = hurt.key.is_some_and(|key| found.drives.contains(&key));
        !opens && wanted.is_none_or(|wanted| wanted.discovery_key() == hurt.discovery_key)
    });
    for damaged in closed {
        checked += 1;
        hurt += 1;
        tell(Checking::Drive { drive: Box::new(unopened(store, damaged)) });
    }
    if let Some(drive) = asked.drive.as_deref().filter(|_| checked == 0) {
        return Err(Failure::failed(format!("check {drive}"), "it is not in the store"));
    }
    Ok(hurt)
}

/// The key of a drive that need not open.
fn key_of(store: &Store, drive: &str) -> Result<PublicKey> {
    match drive.parse::<Target>().context(|| format!("find the drive {drive}"))? {
        Target::Url(url) => Ok(url.key),
        Target::Name(name) => Ok(store.key_named(name.as_bytes())),
        Target::Directory(_) => {
            Err(Failure::usage(format!("find the drive {drive}"), "that is no drive")
                .hint("name it by its URL or by the name it was created with"))
        }
    }
}

async fn check_one(
    store: &Store,
    key: &PublicKey,
    tell: &mut (dyn FnMut(Checking) + Send),
) -> Result<CheckedDrive> {
    let mut pending = 0;
    let mut bytes = |count| {
        pending += count;
        if pending >= BETWEEN {
            tell(Checking::Bytes { count: std::mem::take(&mut pending) });
        }
    };
    let mut drive = CheckedDrive {
        url: Some(drive_url(key, None)),
        discovery_key: key.discovery_key().to_hex(),
        name: name_of(store, key).context(|| "read the store")?,
        ..CheckedDrive::default()
    };
    match check_drive(store, key, &mut bytes).await {
        Ok(found) => {
            drive.hurt = found.is_hurt();
            drive.why = found.missing;
            drive.blocks_sound = found.sound;
            drive.blocks_damaged = found.damaged_blocks;
            drive.records_damaged = found.records_damaged;
            drive.records_repaired = found.records_repaired;
            drive.files = found.files.into_iter().map(HurtPath::from).collect();
            drive.file_count = found.file_count;
            drive.versions = found.versions;
            drive.version_count = found.version_count;
        }
        Err(
            error @ (hypermount_core::Error::Corrupt { .. }
            | hypermount_core::Error::Storage { .. }),
        ) => {
            drive.hurt = true;
            drive.why.push(error.to_string());
        }
        Err(error) => return Err(error).context(|| drive_url(key, None)),
    }
    if pending > 0 {
        tell(Checking::Bytes { count: pending });
    }
    Ok(drive)
}

fn unopened(store: &Store, damaged: Hurt) -> CheckedDrive {
    CheckedDrive {
        url: damaged.key.map(|key| drive_url(&key, None)),
        discovery_key: damaged.discovery_key.to_hex(),
        name: damaged.key.and_then(|key| name_of(store, &key).ok().flatten()),
        hurt: true,
        why: vec![damaged.why],
        ..CheckedDrive::default()
    }
}

impl From<HurtFile> for HurtPath {
    fn from(file: HurtFile) -> Self {
        let HurtFile { path, version, newest } = file;
        Self { path, version, newest }
    }
}
