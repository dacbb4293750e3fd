//! Making a damaged drive whole with blocks of peers, then verifying it again.
//!
//! Not here: how a core forgets and fetches (`core/repair.rs`).

use std::ops::Range;

use super::{CheckStep, DriveCheck, check_and_blank};
use crate::hyperdrive::{content_core, unlock};
use crate::index::{IndexLog, derived_content_key};
use hypermount_core::{
    Core, Dialect, Error, FetchOutcome, Result, StopReason, Store, Wait, content_name,
};
use hypermount_swarm::crypto::PublicKey;

/// What a repair did, and what is left.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DriveRepair {
    /// What was found when nothing more could be done.
    pub check: DriveCheck,
    /// Blocks that peers were asked for.
    pub fetched: FetchOutcome,
}

impl DriveRepair {
    /// Whether something is wrong and was not repaired.
    pub fn is_damaged(&self) -> bool {
        self.check.is_damaged() || self.fetched.lacking > 0
    }
}

struct Repair<'a> {
    store: &'a Store,
    wait: Wait,
    tell: &'a mut (dyn FnMut(CheckStep) + Send),
    fetched: FetchOutcome,
}

/// Fetches damaged blocks of the drive from peers and, if its secret key is here, lost ones; `wait` is the
/// limit for each block. What cannot be told from what is here, such as blocks of others that were never here, is
/// not fetched.
///
/// # Errors
/// `Corrupt` if too little is left to know what the drive consists of; those of [`super::check()`].
pub async fn repair(
    store: &Store,
    key: &PublicKey,
    wait: Wait,
    tell: &mut (dyn FnMut(CheckStep) + Send),
) -> Result<DriveRepair> {
    let dialect = store.stored_dialect(key)?.unwrap_or(Dialect::Legacy);
    let index = store.core_to_repair(key, dialect)?;
    unlock(store, key, &index)?;
    if !wait.is_local() {
        store.want_drive(*index.discovery_key());
    }
    let mut repair = Repair { store, wait, tell, fetched: FetchOutcome::default() };
    let _index = index.repairing(store.marked_length(&index));
    repair.core(&index, true).await?;
    let content = match content_of(store, &index) {
        Some(key) => Some(content_to_repair(store, &index, &key)?),
        None => None,
    };
    let _content = content.as_ref().map(|core| core.repairing(store.marked_length(core)));
    if let Some(content) = &content {
        repair.core(content, false).await?;
    }
    let mut found = check_and_blank(store, key, true, repair.tell).await?;
    // What a file lacks is known when its index block has come.
    while repair.lost(&index, content.as_ref(), &found).await? {
        let repaired = (found.records_damaged, found.records_repaired);
        found = check_and_blank(store, key, true, repair.tell).await?;
        found.records_damaged += repaired.0;
        found.records_repaired += repaired.1;
    }
    if index.is_own() {
        let lost = found.lost_index.iter().chain(&found.lost_content);
        let lost: u64 = lost.map(|blocks| blocks.end - blocks.start).sum();
        repair.fetched.lacking = found.damaged_blocks + lost;
    }
    for core in std::iter::once(&index).chain(&content) {
        if let Some(length) = core.refused_to_repair() {
            found.missing.push(format!(
                "a peer has {length} blocks of it, of which {} are known here: adopt it, or copy it from there",
                core.head().length
            ));
        }
        if found.missing.is_empty() && !store.holds_what_was_marked(core)? {
            found.missing.push("it is not the history that was marked as safely stored".to_owned());
        }
    }
    Ok(DriveRepair { check: found, fetched: repair.fetched })
}

/// Blocks that were forgotten to be fetched. What has not come at the end, also of a repair that its caller
/// gives up, stays damaged and is not taken for what was never here.
struct Forgotten<'a> {
    core: &'a Core,
    blocks: Vec<Range<u64>>,
}

impl Drop for Forgotten<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.core.claim_again(&self.blocks) {
            log::error!("core {}: {error}", self.core.discovery_key());
        }
    }
}

impl Repair<'_> {
    /// Fetches what is damaged, and the length that was marked where less is here.
    async fn core(&mut self, core: &Core, is_index: bool) -> Result<()> {
        self.lengthen(core).await;
        let found = core.check(&mut |bytes| (self.tell)(CheckStep::Read(bytes)))?;
        let mut lacking = core.forget_to_repair(&found)?;
        let forgotten = Forgotten { core, blocks: lacking.clone() };
        let first = is_index && core.first_missing(0..1).is_some();
        if first && !lacking.iter().any(|range| range.start == 0) {
            // The first block of an index names the content.
            lacking.insert(0, 0..1);
        }
        let fetched = self.fetch(core, &lacking).await;
        drop(forgotten);
        fetched.map(drop)
    }

    /// Of a core of ours that is shorter than it was marked: waits until peers have shown it that long.
    async fn lengthen(&mut self, core: &Core) {
        let marked = self.store.marked_length(core);
        while core.stopped().is_some() && core.head().length < marked {
            if let Err(error) = core.longer_than(core.head().length, self.wait).await {
                self.fetched.why.get_or_insert(error.to_string());
                return;
            }
        }
    }

    /// Fetches the lost blocks of a drive whose secret key is here; whether any came.
    async fn lost(
        &mut self,
        index: &Core,
        content: Option<&Core>,
        found: &DriveCheck,
    ) -> Result<bool> {
        let mut came = 0;
        for (core, blocks) in [(Some(index), &found.lost_index), (content, &found.lost_content)] {
            if let Some(core) = core.filter(|_| !blocks.is_empty()) {
                came += self.fetch(core, blocks).await?.fetched;
            }
        }
        Ok(came > 0)
    }

    async fn fetch(&mut self, core: &Core, blocks: &[Range<u64>]) -> Result<FetchOutcome> {
        let tell = &mut *self.tell;
        let mut each = |fetched, of| tell(CheckStep::Fetched { fetched, of });
        let fetched = core.fetch(blocks, self.wait, &mut each).await?;
        self.fetched.add(fetched.clone());
        Ok(fetched)
    }
}

/// As [`Store::core_to_repair`], with the key pair of the index where that signs the content too.
fn content_to_repair(store: &Store, index: &Core, key: &PublicKey) -> Result<Core> {
    match content_core(store, index, key, None) {
        Err(Error::Corrupt { .. }) => content_core(store, index, key, Some(StopReason::Restored)),
        opened => opened,
    }
}

/// Key of the content core of a drive in the store, as far as it can be told.
pub fn content_of_drive(store: &Store, key: &PublicKey) -> Option<PublicKey> {
    let dialect = store.stored_dialect(key).ok()?.unwrap_or(Dialect::Legacy);
    content_of(store, &store.core_of(key, dialect).ok()?)
}

/// The content core: what the header names or what derives from the manifest or, if the secret key is here, from the
/// index's key.
fn content_of(store: &Store, index: &Core) -> Option<PublicKey> {
    match index.get_local(0) {
        Ok(Some(block)) => IndexLog::content_named_by(index, &block).ok()?,
        _ if index.is_own() => match index.dialect() {
            Dialect::Legacy => Some(store.key_named(content_name(index.key()).as_bytes())),
            Dialect::Modern => derived_content_key(index),
        },
        _ => None,
    }
}
