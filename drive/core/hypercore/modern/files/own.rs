//! The files of a core that is written here: an entry of the oplog per append, and what is believed after a crash.
//!
//! An append writes data and nodes, and then an entry with the new head: a killed process loses nothing that was
//! acknowledged. Nothing is synced for that. When it is, a header says so and makes the entries void. At open the header
//! counts as it is; of the entries after it only those whose blocks are all here, since a power cut may have
//! kept an entry and lost its blocks. Peers were not shown these.
//!
//! INVARIANTS: an acknowledged head is in the header or in an entry that counts; a header that makes an entry void has its
//! head, or the claims of its blocks were written. Behind the entries that count are none with their bit when one is added.
//!
//! Not here: when claims are written (`claims.rs`).

use bytes::Bytes;

use super::{
    Bitfield, ENTRIES, Entry, External, Files, Head, Header, HeldBlocks, MAX_BLOCK_SIZE,
    MAX_CORE_LENGTH, Manifest, PAGE_SIZE, Placed, Recovered, Signature, SignedHead, State,
    StoredTree, TreeNode, Upgraded, Verifier, byte_length, claimed_nodes, drop_blocks, flat_tree,
    hash, oplog, push_leaf,
};
use crate::error::{Error, Result};
use hypermount_swarm::crypto::{KeyPair, PublicKey};

/// Bytes of entries with which appends wait for the next header; as in the reference.
pub(super) const MAX_ENTRIES_LENGTH: u64 = 64 * 1024;

/// What writing a core takes.
pub(super) struct Own {
    /// The records of the entries that count.
    records: Vec<u8>,
    /// A sync of the oplog failed, or an earlier process may have ended before one: entries in the file may have missed
    /// the device.
    suspect: bool,
    /// There may be something behind the entries that count.
    tail: bool,
    /// A header was being written when that failed: the file may have it, and with it no entry counts.
    unsure: bool,
}

impl Own {
    pub(super) fn new(records: Bytes) -> Self {
        Self { suspect: !records.is_empty(), records: records.into(), tail: true, unsure: false }
    }

    /// A sync of the oplog has failed.
    pub(super) fn distrust(&mut self) {
        self.suspect = true;
    }
}

/// Whether the core is signed by this key alone, as those that are written here are.
pub(super) fn signs_alone(header: &Header, key: &PublicKey) -> bool {
    let verifier = Verifier::new(header.key, header.manifest.clone());
    verifier.is_ok_and(|verifier| verifier.is_signed_alone_by(key))
}

/// The key pair that the header keeps.
pub(super) fn stored_pair(header: &Header) -> Option<KeyPair> {
    let (_, secret) = header.key_pair.as_ref()?;
    KeyPair::from_secret_key(secret.as_ref().try_into().ok()?)
}

/// Who signs a core that `pair` writes.
pub(super) fn verifier_of(
    key: &PublicKey,
    manifest: Option<&Manifest>,
    pair: &Option<KeyPair>,
) -> Option<Verifier> {
    pair.as_ref()?;
    Verifier::new(*key, manifest.cloned()).ok()
}

/// Whether the entries do nothing but append to the core of this header, and say of no block that it is gone. Others
/// are the reference's.
pub(super) fn are_appends(tree: &StoredTree, entries: &[(Entry, usize)]) -> bool {
    let mut length = tree.length;
    entries.iter().all(|(entry, _)| {
        let drops = entry.held.is_some_and(|held| held.drop);
        let appends = entry.upgrade.as_ref().is_none_or(|upgrade| {
            let from = std::mem::replace(&mut length, upgrade.length);
            upgrade.fork == tree.fork && upgrade.ancestors == from && upgrade.length > from
        });
        appends && !drops && length <= MAX_CORE_LENGTH
    })
}

impl Files {
    /// Writes the header of a new core, without which no entry counts.
    pub(super) fn write_first_header(&self) -> Result<()> {
        self.write_own_header(&mut self.state.lock())
    }

    /// Writes the entry of an append.
    pub(super) fn write_entry(&self, state: &mut State, stored: &SignedHead<'_>) -> Result<()> {
        if state.own.as_ref().is_some_and(|own| own.unsure) {
            self.write_own_header(state)?;
        }
        self.clear_tail(state)?;
        let (head, from) = (stored.head, state.header.tree.length);
        let entry = Entry {
            // They are in `tree`.
            nodes: Vec::new(),
            user_data: None,
            upgrade: Some(Upgraded {
                fork: head.fork,
                ancestors: from,
                length: head.length,
                signature: Bytes::copy_from_slice(stored.signature.as_bytes()),
            }),
            held: Some(HeldBlocks { drop: false, start: from, length: head.length - from }),
        };
        let record = oplog::entry_record(&entry, state.slots);
        self.oplog.write(ENTRIES as u64 + state.entries_length, &record)?;
        state.entries_length += record.len() as u64;
        if let Some(own) = &mut state.own {
            own.records.extend_from_slice(&record);
        }
        Ok(())
    }

    /// Cuts what is behind the entries that count.
    pub(super) fn cut_tail(&self, state: &mut State) -> Result<()> {
        if let Some(own) = &mut state.own {
            own.tail = true;
        }
        self.oplog.truncate(ENTRIES as u64 + state.entries_length)
    }

    /// The same, so that it stays cut: what is added next would make an old entry count.
    fn clear_tail(&self, state: &mut State) -> Result<()> {
        if !state.own.as_ref().is_some_and(|own| own.tail) {
            return Ok(());
        }
        if self.oplog.len()? > ENTRIES as u64 + state.entries_length {
            self.cut_tail(state)?;
        }
        self.sync_oplog(state)?;
        if let Some(own) = &mut state.own {
            own.tail = false;
        }
        Ok(())
    }

    fn sync_oplog(&self, state: &mut State) -> Result<()> {
        self.oplog.sync().inspect_err(|_| {
            if let Some(own) = &mut state.own {
                own.distrust();
            }
        })
    }

    /// The core has `settled` blocks whose facts and claims are on the device: makes the oplog say so for good.
    pub(super) fn claim_own(&self, state: &mut State, settled: u64) -> Result<()> {
        if state.header.tree.length > settled && state.entries_length > 0 {
            // Another append came in between, and counts by its entry alone.
            return self.sync_entries(state);
        }
        self.write_own_header(state)
    }

    fn sync_entries(&self, state: &mut State) -> Result<()> {
        if let Some(own) = state.own.as_ref().filter(|own| own.suspect) {
            self.oplog.write(ENTRIES as u64, &own.records)?;
        }
        self.sync_oplog(state)?;
        if let Some(own) = &mut state.own {
            own.suspect = false;
        }
        Ok(())
    }

    fn write_own_header(&self, state: &mut State) -> Result<()> {
        self.clear_tail(state)?;
        let (Placed { at, record, slots, external }, is_newest) = state.place_header();
        if let Some((place, bytes)) = &external {
            self.header.write(place.start, bytes)?;
            self.header.sync()?;
        }
        // The other slot may be the only whole one by now.
        self.sync_oplog(state)?;
        if let Some(own) = &mut state.own {
            own.unsure = true;
        }
        self.oplog.write(at, &record)?;
        self.sync_oplog(state)?;
        (state.stored, state.entries_length) = (true, 0);
        state.external = external.map_or_else(External::default, |(place, _)| place);
        (state.slots, state.changed) = (slots, !is_newest);
        if let Some(own) = &mut state.own {
            own.records.clear();
            (own.unsure, own.suspect) = (false, false);
        }
        // The entries are void, whether or not they are there.
        if self.oplog.len()? != ENTRIES as u64
            && let Err(error) = self.cut_tail(state)
        {
            log::warn!("{error}; tried again with the next append");
        }
        Ok(())
    }

    /// What to believe of a core that is written here: the head in the header, and the longest one in an entry whose
    /// blocks are all here. With `stopped` it may lack blocks, and takes no more appends.
    pub(super) fn recover_own(
        &self,
        entries: Vec<(Entry, usize)>,
        verifier: &Verifier,
        forgets: bool,
        stopped: bool,
    ) -> Result<Recovered> {
        let claimed = self.state.lock().header.tree.clone();
        let Some(mut roots) = self.claimed_roots(&claimed, verifier)? else {
            let found = self.recover(&[], Some(verifier), forgets)?;
            self.count_entries(0, StoredTree::default(), &[]);
            return Ok(found);
        };
        let settled = head_of(claimed.fork, claimed.length, &roots);
        let claimed_signature = claimed.signature.clone();
        let (mut counted, mut length) = (0, 0);
        let mut newest = (settled, claimed.signature.clone());
        for (entry, record) in &entries {
            if let Some(upgrade) = &entry.upgrade {
                let Some(grown) = self.grow(&roots, newest.0.length, entry, verifier)? else {
                    break;
                };
                roots = grown;
                newest = (head_of(upgrade.fork, upgrade.length, &roots), upgrade.signature.clone());
            }
            counted += 1;
            length += record;
        }
        if counted < entries.len() {
            log::info!("{}: its last appends were lost", self.oplog.path().display());
        }
        let counted = entries.into_iter().take(counted).map(|(entry, _)| entry).collect();
        let changes = self.take_over(counted);
        let (head, signature) = newest;
        self.count_entries(length, claimed, &roots);
        let mut bits = match head.length {
            0 => Bitfield::new(PAGE_SIZE),
            _ => self.read_held()?,
        };
        self.read_nodes(&roots, &mut bits)?;
        self.state.lock().claimed = claimed_nodes(&mut bits);
        for change in changes {
            change.apply(head.length, &mut bits);
        }
        drop_blocks(&mut bits, head.length..MAX_CORE_LENGTH);
        self.find_unlisted(head.length, &mut bits)?;
        let stored = |head: Head, signature: &[u8]| {
            let signature = Signature::from(signature);
            (head.length > 0).then_some(signature)
        };
        let settled_signature = match stopped {
            true => stored(head, &signature),
            false => stored(settled, &claimed_signature),
        };
        let signature = stored(head, &signature);
        let settled = if stopped { head } else { settled };
        Ok(Recovered { bits, head, roots, signature, settled, settled_signature })
    }

    /// Adds the blocks below `length` that are in `data` and not in `bitfield`, which may be damaged or lost: a core that
    /// is written here has all of its blocks, unless they were damaged.
    fn find_unlisted(&self, length: u64, bits: &mut Bitfield) -> Result<()> {
        let Some(first) = bits.first_missing(0..length) else { return Ok(()) };
        let mut before = Vec::new();
        for root in flat_tree::full_roots(first) {
            before.extend(self.read_record(root)?);
        }
        let (mut offset, mut found) = (byte_length(&before).unwrap_or_default(), 0_u64);
        for block in first..length {
            let leaf = self.read_record(block * 2)?;
            let Some(leaf) = leaf.filter(|leaf| leaf.size <= MAX_BLOCK_SIZE as u64) else { break };
            if !bits.has_data(block) {
                let mut bytes = vec![0; leaf.size as usize];
                let whole = self.data.read(offset, &mut bytes)? == bytes.len();
                if whole && hash::TREE.leaf(block, &bytes) == leaf {
                    bits.set_data(block, true);
                    found += 1;
                }
            }
            offset += leaf.size;
        }
        if found > 0 {
            log::warn!(
                "{}: {found} blocks are here that it does not name",
                self.bitfield.path().display()
            );
        }
        Ok(())
    }

    /// The roots of the head in the header, if they are here and signed.
    fn claimed_roots(
        &self,
        claimed: &StoredTree,
        verifier: &Verifier,
    ) -> Result<Option<Vec<TreeNode>>> {
        if claimed.length == 0 {
            return Ok(Some(Vec::new()));
        }
        let signature = Signature::from(&claimed.signature[..]);
        let signed = |roots: &Vec<TreeNode>| verifier.signed(roots, claimed.fork, &signature);
        if let Some(stored) = self.roots(claimed.length)?.filter(signed) {
            return Ok(Some(stored));
        }
        let Some(computed) = self.computed_roots(claimed.length)?.filter(signed) else {
            return Ok(None);
        };
        log::warn!("{}: damaged roots are written again", self.tree.path().display());
        let mut state = self.state.lock();
        state.in_entries.extend(computed.iter().map(|node| (node.index, *node)));
        state.changed = true;
        Ok(Some(computed))
    }

    /// The roots as what is below them says: other nodes, or the last block.
    fn computed_roots(&self, length: u64) -> Result<Option<Vec<TreeNode>>> {
        let mut roots: Vec<TreeNode> = Vec::new();
        for index in flat_tree::full_roots(length.min(MAX_CORE_LENGTH)) {
            let root = match flat_tree::children(index) {
                Some((left, right)) => match (self.read_record(left)?, self.read_record(right)?) {
                    (Some(left), Some(right)) => hash::TREE.parent(&left, &right),
                    _ => self.read_record(index)?,
                },
                None => self.last_leaf(index / 2, byte_length(&roots).unwrap_or_default())?,
            };
            match root {
                Some(root) => roots.push(root),
                None => return Ok(None),
            }
        }
        Ok(byte_length(&roots).map(|_| roots))
    }

    /// The leaf of the last block, which begins at `offset`: the stored one if it is that of the bytes there, else one of
    /// all bytes that are left.
    fn last_leaf(&self, block: u64, offset: u64) -> Result<Option<TreeNode>> {
        let leaf = |size: u64| {
            let mut bytes = vec![0; size as usize];
            let whole = self.data.read(offset, &mut bytes)? == bytes.len();
            Ok::<_, Error>(whole.then(|| hash::TREE.leaf(block, &bytes)))
        };
        let sane = |size: &u64| *size <= MAX_BLOCK_SIZE as u64;
        let stored = self.read_record(block * 2)?;
        if let Some(size) = stored.map(|leaf| leaf.size).filter(sane)
            && leaf(size)? == stored
        {
            return Ok(stored);
        }
        match self.data.len()?.checked_sub(offset).filter(sane) {
            Some(size) => leaf(size),
            None => Ok(None),
        }
    }

    /// The roots after the append of this entry to a core of `length` blocks, if its blocks are here and its signature
    /// verifies.
    fn grow(
        &self,
        roots: &[TreeNode],
        length: u64,
        entry: &Entry,
        verifier: &Verifier,
    ) -> Result<Option<Vec<TreeNode>>> {
        let Some(upgrade) = &entry.upgrade else { return Ok(None) };
        let mut roots = roots.to_vec();
        let Some(mut offset) = byte_length(&roots) else { return Ok(None) };
        let mut created = Vec::new();
        for block in length..upgrade.length {
            let stored = entry.nodes.iter().find(|node| node.index == block * 2).copied();
            let stored = match stored {
                Some(stored) => Some(stored),
                None => self.read_record(block * 2)?,
            };
            let sane = |leaf: &TreeNode| leaf.size <= MAX_BLOCK_SIZE as u64;
            let Some(stored) = stored.filter(sane) else { return Ok(None) };
            let mut bytes = vec![0; stored.size as usize];
            let whole = self.data.read(offset, &mut bytes)? == bytes.len();
            if !whole || hash::TREE.leaf(block, &bytes) != stored {
                return Ok(None);
            }
            offset += stored.size;
            let pushed = push_leaf(&mut roots, stored, |one, other| hash::TREE.parent(one, other));
            let Some(nodes) = pushed else { return Ok(None) };
            created.extend(nodes);
        }
        let signature = Signature::from(&upgrade.signature[..]);
        if !verifier.signed(&roots, upgrade.fork, &signature) {
            return Ok(None);
        }
        // Written with the next claims where `tree` lacks them.
        for node in created {
            if self.read_record(node.index)? != Some(node) {
                self.state.lock().in_entries.insert(node.index, node);
            }
        }
        Ok(Some(roots))
    }

    /// Of the entries in the file the first ones count, `length` bytes of them, up to the head with these roots.
    fn count_entries(&self, length: usize, claimed: StoredTree, roots: &[TreeNode]) {
        let mut state = self.state.lock();
        state.entries_length = length as u64;
        if let Some(own) = &mut state.own {
            own.records.truncate(length);
        }
        if !roots.is_empty() {
            state.header.tree.root_hash = Bytes::copy_from_slice(&hash::TREE.of_roots(roots));
        }
        (state.before, state.synced) = (claimed.clone(), claimed);
    }
}

fn head_of(fork: u64, length: u64, roots: &[TreeNode]) -> Head {
    Head { fork, length, byte_length: byte_length(roots).unwrap_or_default() }
}
