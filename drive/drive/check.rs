//! Verifying a drive: everything of its two cores that is on this disk, and which files and versions
//! the damage is in.
//!
//! Not here: the hashes (`core/hypercore/check.rs`), and what keeps a drive from being opened at all
//! (`hyperdrive/stored.rs`).

mod repair;

use std::ops::Range;

use crate::hyperdrive::{Drive, Snapshot};
use crate::path::DrivePath;
use crate::stat::Extent;
use hypermount_core::{
    Core, CoreCheck, Error, MAX_DAMAGED_RANGES, Result, SIGNATURES_PER_STEP, Store, Wait,
};
use hypermount_swarm::crypto::PublicKey;

pub use repair::{DriveRepair, content_of_drive, repair};

/// Progress of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckStep {
    /// Bytes that were read and verified.
    Read(u64),
    /// Blocks of peers have come.
    Fetched {
        /// Blocks that have come.
        fetched: u64,
        /// Blocks that were requested.
        of: u64,
    },
}

/// Files, and versions, that are named; more are only counted.
pub const MAX_NAMED: usize = 1000;

/// A file that cannot be read whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DamagedFile {
    /// In the drive, without a leading slash.
    pub path: String,
    /// The version of the drive that brought it.
    pub version: u64,
    /// Whether it is what the newest version has at this path.
    pub newest: bool,
}

/// What was found in a drive.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DriveCheck {
    /// Blocks that are here and sound, of both cores.
    pub sound: u64,
    /// Blocks that are here and do not verify, of both cores.
    pub damaged_blocks: u64,
    /// Tree nodes and signatures that do not verify.
    pub records_damaged: u64,
    /// How many of those were written again.
    pub records_repaired: u64,
    /// Files with damaged blocks, at most [`MAX_NAMED`].
    pub files: Vec<DamagedFile>,
    /// How many files have damaged blocks.
    pub file_count: u64,
    /// Versions whose index block is damaged or, in a drive whose secret key is here, missing; at most
    /// [`MAX_NAMED`].
    pub versions: Vec<u64>,
    /// How many versions are damaged.
    pub version_count: u64,
    /// Versions of which the signature of the index does not verify and was not repaired, the first ones.
    pub unsigned: Vec<u64>,
    /// What is missing of a core that was marked to be here.
    pub missing: Vec<String>,
    /// Missing blocks that a drive whose secret key is here needs: of the index and of the content. The
    /// first ranges.
    pub(crate) lost_index: Vec<Range<u64>>,
    pub(crate) lost_content: Vec<Range<u64>>,
}

impl DriveCheck {
    /// Whether something is wrong and was not repaired.
    pub fn is_damaged(&self) -> bool {
        self.damaged_blocks > 0
            || self.file_count > 0
            || self.version_count > 0
            || !self.missing.is_empty()
            || self.records_repaired < self.records_damaged
    }

    fn count(&mut self, core: &CoreCheck) {
        self.sound += core.sound;
        self.damaged_blocks +=
            core.damaged.iter().map(|blocks| blocks.end - blocks.start).sum::<u64>();
        self.records_damaged += core.records_damaged;
        self.records_repaired += core.records_repaired;
    }
}

/// Reads and verifies all stored data of the drive. Calls `tell` at each step.
///
/// # Errors
/// Those of [`Drive::open`] without peers, and `Storage`. Damage is in the result.
pub async fn check(
    store: &Store,
    key: &PublicKey,
    tell: &mut (dyn FnMut(CheckStep) + Send),
) -> Result<DriveCheck> {
    check_and_blank(store, key, false, tell).await
}

/// The same; with `blank`, signatures that are damaged and that no reader here needs are removed.
async fn check_and_blank(
    store: &Store,
    key: &PublicKey,
    blank: bool,
    tell: &mut (dyn FnMut(CheckStep) + Send),
) -> Result<DriveCheck> {
    let drive = Drive::open(store, key, None, Wait::Local).await?;
    let index = drive.metadata_core();
    let mut found = DriveCheck::default();
    let of_index = check_core(index, blank, tell).await?;
    let of_content = match drive.content() {
        Ok(content) => check_core(content, blank, tell).await?,
        Err(_) => CoreCheck::default(),
    };
    found.count(&of_index);
    found.count(&of_content);
    found.unsigned.clone_from(&of_index.unsigned);
    for core in std::iter::once(index).chain(drive.content().ok()) {
        found.missing.extend(store.known_damage(core));
    }
    let snapshot = drive.snapshot();
    // What was marked and is beyond the head is missing.
    for seq in 0..index.head().length.max(store.marked_length(index)) {
        let damaged = covers(&of_index.damaged, &(seq..seq + 1));
        if damaged || index.is_own() && !index.has(seq) {
            note(&mut found.lost_index, seq..seq + 1);
            found.version_count += 1;
            if found.versions.len() < MAX_NAMED {
                found.versions.push(seq + 1);
            }
            continue;
        }
        let Some((path, extent)) = file_at(&drive, seq)? else { continue };
        let blocks = drive.blocks_of(&extent);
        let damaged = blocks.iter().any(|blocks| covers(&of_content.damaged, blocks));
        let missing = |content: &Core| {
            blocks.iter().any(|blocks| content.first_missing(blocks.clone()).is_some())
        };
        let missing = index.is_own() && drive.content().is_ok_and(missing);
        if damaged || missing {
            let newest = is_newest(&snapshot, &path, &extent).await?;
            // Blocks that no newest version has may have been given up on purpose.
            if damaged || newest {
                if let (true, Ok(content)) = (index.is_own(), drive.content()) {
                    lost_of(content, &extent, &mut found.lost_content);
                }
                found.file_count += 1;
                if found.files.len() < MAX_NAMED {
                    found.files.push(DamagedFile { path, version: seq + 1, newest });
                }
            }
        }
    }
    Ok(found)
}

/// Verifies a core: its blocks, then the signatures of all its lengths, a few in each step.
async fn check_core(
    core: &Core,
    blank: bool,
    tell: &mut (dyn FnMut(CheckStep) + Send),
) -> Result<CoreCheck> {
    let mut read = |bytes| tell(CheckStep::Read(bytes));
    let mut found = core.check(&mut read)?;
    let lengths = core.signed_lengths()?;
    for start in lengths.clone().step_by(SIGNATURES_PER_STEP as usize) {
        let end = lengths.end.min(start + SIGNATURES_PER_STEP);
        core.check_signatures(start..end, blank, &mut found, &mut read)?;
        // A caller that has gone is noticed here.
        tokio::task::yield_now().await;
    }
    Ok(found)
}

/// Notes the blocks of the extent that are not here.
fn lost_of(content: &Core, extent: &Extent, lost: &mut Vec<Range<u64>>) {
    let mut rest =
        extent.block..extent.block.saturating_add(extent.blocks).min(content.head().length);
    while lost.len() < MAX_DAMAGED_RANGES
        && let Some(first) = content.first_missing(rest.clone())
    {
        note(lost, first..first + 1);
        rest.start = first + 1;
    }
}

/// Adds a range, as long as there is room.
fn note(ranges: &mut Vec<Range<u64>>, new: Range<u64>) {
    let full = ranges.len() >= MAX_DAMAGED_RANGES;
    match ranges.last_mut() {
        Some(last) if last.end == new.start => last.end = new.end,
        _ if !full => ranges.push(new),
        _ => {}
    }
}

/// Whether one of the ascending ranges has a block of `blocks`.
fn covers(ranges: &[Range<u64>], blocks: &Range<u64>) -> bool {
    let after = ranges.partition_point(|range| range.end <= blocks.start);
    ranges.get(after).is_some_and(|range| range.start < blocks.end)
}

/// The path and content of the file that an index block brings, if it brings one and is here.
fn file_at(drive: &Drive, seq: u64) -> Result<Option<(String, Extent)>> {
    let Some(stored) = drive.stored_at(seq)? else { return Ok(None) };
    let extent = Some(stored.stat).filter(|stat| stat.mount.is_none()).map(|stat| stat.extent);
    let path = || format!("/{}", stored.path);
    let has_bytes = |extent: &Extent| extent.size > 0 || extent.map_size > 0;
    let extent = extent.filter(|extent| extent.blocks > 0 && has_bytes(extent));
    Ok(extent.map(|extent| (path(), extent)))
}

/// Whether the newest version has this content at the path. What cannot be told counts.
async fn is_newest(snapshot: &Snapshot, path: &str, extent: &Extent) -> Result<bool> {
    let Ok(path) = DrivePath::parse(path) else { return Ok(false) };
    match snapshot.entry(&path, Wait::Local).await {
        Ok(entry) => Ok(entry.stat.extent.is_same_place(extent)),
        Err(Error::NotFound) => Ok(false),
        Err(
            Error::Corrupt { .. }
            | Error::Unavailable { .. }
            | Error::Malformed(_)
            | Error::Forked { .. },
        ) => Ok(true),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests;
