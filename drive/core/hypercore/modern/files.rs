//! The files of one core as Hypercore 10 lays them out: `oplog`, `tree`, `data`, `bitfield`, and `header` where
//! that is too long for the oplog (docs/format/hypercore10-files.md).
//!
//! Facts (bytes, nodes) are written at once, where no reader of the files believes them before the oplog has a
//! head over them. Claims are the bitfield and the header in the oplog, which is written to its two slots in
//! turn, so that a torn one leaves the one before. A head of a later fork goes into an entry of the oplog first, because
//! its nodes replace some that lead to the head before. Entries, also those of other programs, are void with the next
//! header.
//!
//! Not here: the records of the oplog (`oplog.rs`), and what differs in a core that is written here (`files/own.rs`).

mod own;

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::ops::Range;
use std::path::Path;

use bytes::Bytes;

use super::super::bitfield::{Bitfield, DATA_BITS, PAGE_SIZE, TREE_AREA};
use super::super::files::{
    CoreFiles, File, OpenFiles, Opened, Pages, Recovered, SignedHead, open_file,
};
use super::super::flat_tree;
use super::super::merkle::{
    Head, MAX_BLOCK_SIZE, MAX_CORE_LENGTH, Signature, TreeNode, byte_length, push_leaf,
};
use super::oplog::{
    self, BadOplog, ENTRIES, Entry, External, Header, HeldBlocks, Oplog, Placed, Slots, StoredTree,
    Upgraded,
};
use super::{Manifest, Verifier, hash};
use crate::error::{Error, Result};
use hypermount_swarm::crypto::{KeyPair, PublicKey};
use hypermount_swarm::sync::{Mutex, Rank};

const NODE: usize = 40;
/// Bytes of data bits in a page.
const PAGE_BYTES: usize = (DATA_BITS / 8) as usize;
/// Bytes of an oplog that are read: the reference writes a header once entries take 64 KiB.
const MAX_OPLOG: u64 = 64 * 1024 * 1024;
/// Records of `tree` that are read at once.
const NODES_AT_ONCE: usize = 16 * 1024;

/// The files of one open core.
struct Files {
    data: File,
    tree: File,
    bitfield: File,
    oplog: File,
    header: File,
    state: Mutex<State>,
}

struct State {
    slots: Slots,
    /// Where the current header is in `header`.
    external: External,
    header: Header,
    /// Some header is in the file, so that entries after it count.
    stored: bool,
    /// Bytes of the entries that count.
    entries_length: u64,
    /// Of a core that is written here: what that takes.
    own: Option<own::Own>,
    /// The signed state before the one in `header`, for an append that fails.
    before: StoredTree,
    /// The newest signed state whose nodes have been synced: the one that a header is written of.
    synced: StoredTree,
    /// The header in the file is an older one.
    changed: bool,
    /// Nodes that are in entries of the oplog and not in `tree`.
    in_entries: BTreeMap<u64, TreeNode>,
    /// The nodes that were here when claims were last written, as the tree bits of a page.
    claimed: BTreeMap<usize, Box<[u8]>>,
}

/// [`super::super::dialect::Dialect::open`] for Hypercore 10 and 11; also who signs the core, as far as it is
/// stored.
pub(in super::super) fn open(opening: OpenFiles) -> Result<(Opened, Option<Verifier>)> {
    let OpenFiles { directory, open_file: open, key, pair, store_pair, manifest, .. } = opening;
    let (writable, stopped) = (opening.writable, opening.stopped);
    let may_forget = writable && !opening.adopted;
    let file = |name| open_file(directory, open, name);
    let files = (file("oplog")?, file("tree")?, file("data")?, file("bitfield")?);
    let (oplog, tree, data, bitfield) = files;
    let header_file = file("header")?;
    // What others write and what is damaged here is fetched again, unless the files are another program's.
    let read = read_oplog(&oplog, &header_file, key, may_forget && (pair.is_none() || stopped))?;
    let stored = read.is_some();
    let Oplog { header, entries, records, slots, external } = read.unwrap_or_else(|| Oplog {
        header: new_header(key, pair.as_ref(), store_pair, manifest),
        entries: Vec::new(),
        records: Bytes::new(),
        slots: Slots::EMPTY,
        external: External::default(),
    });
    if header.key != *key {
        let why = "Another hypercore is stored here".to_owned();
        return Err(Error::NotAStore { path: directory.to_owned(), why });
    }
    let pair = pair.or_else(|| own::stored_pair(&header).filter(|_| store_pair));
    let pair = pair.filter(|pair| own::signs_alone(&header, &pair.public_key()));
    // A core of ours that is stopped is repaired: its key pair is known without the files.
    let forgets = may_forget && (pair.is_none() || stopped);
    let manifest = header.manifest.clone();
    let before = header.tree.clone();
    let state = State {
        slots,
        external,
        header,
        stored,
        entries_length: records.len() as u64,
        own: pair.as_ref().map(|_| own::Own::new(records)),
        synced: before.clone(),
        before,
        changed: false,
        in_entries: BTreeMap::new(),
        claimed: BTreeMap::new(),
    };
    let state = Mutex::new(Rank::CORE_FILES, state);
    let files = Files { data, tree, bitfield, oplog, header: header_file, state };
    if pair.is_some() && !stored && writable {
        files.write_first_header()?;
    }
    if let Some(verifier) = own::verifier_of(key, manifest.as_ref(), &pair)
        && own::are_appends(&files.state.lock().header.tree, &entries)
    {
        let found = files.recover_own(entries, &verifier, forgets, stopped)?;
        return Ok((Opened { files: Box::new(files), pair, found }, Some(verifier)));
    }
    let entries = entries.into_iter().map(|(entry, _)| entry).collect();
    let changes = files.take_over(entries);
    let verifier = files.verifier(key, manifest)?;
    let found = files.recover(&changes, verifier.as_ref(), forgets)?;
    Ok((Opened { files: Box::new(files), pair, found }, verifier))
}

/// The key in the `oplog` file at this path, if the file says one.
///
/// # Errors
/// As read(2).
pub(crate) fn stored_key(path: &Path) -> io::Result<Option<PublicKey>> {
    let mut slots = Vec::new();
    fs::File::open(path)?.take(ENTRIES as u64).read_to_end(&mut slots)?;
    let external = |External { start, length }| {
        let mut header = Vec::new();
        let mut file = fs::File::open(path.with_file_name("header")).ok()?;
        file.seek(SeekFrom::Start(start)).ok()?;
        file.take(length).read_to_end(&mut header).ok()?;
        Some(Bytes::from(header))
    };
    let read = oplog::read(&Bytes::from(slots), external);
    Ok(read.ok().flatten().map(|oplog| oplog.header.key))
}

/// The header of a core of which nothing is stored; `pair` signs a core that is written here, and `manifest` is that of
/// the core unless it has the usual one.
fn new_header(
    key: &PublicKey,
    pair: Option<&KeyPair>,
    store_pair: bool,
    manifest: Option<Bytes>,
) -> Header {
    let stated = manifest.and_then(|mut bytes| Manifest::decode(&mut bytes).ok());
    let usual = || pair.map(|pair| Manifest::of_one_signer(pair.public_key()));
    let manifest = stated.or_else(usual).filter(|manifest| manifest.key() == *key);
    let copy = Bytes::copy_from_slice;
    let kept = pair.filter(|_| store_pair);
    let key_pair = kept.map(|pair| (copy(pair.public_key().as_bytes()), copy(&pair.secret_key())));
    let user_data = Vec::new();
    Header { key: *key, manifest, key_pair, user_data, tree: StoredTree::default(), contiguous: 0 }
}

/// A damaged oplog is `None` where `forgets`: what it said is fetched again.
fn read_oplog(file: &File, header: &File, key: &PublicKey, forgets: bool) -> Result<Option<Oplog>> {
    let length = file.len()?.min(MAX_OPLOG) as usize;
    let mut bytes = vec![0; length];
    let length = file.read(0, &mut bytes)?;
    bytes.truncate(length);
    let external = |External { start, length }| {
        let mut bytes = vec![0; usize::try_from(length).ok()?];
        let read = header.read(start, &mut bytes);
        read.is_ok_and(|read| read == bytes.len()).then(|| Bytes::from(bytes))
    };
    match oplog::read(&Bytes::from(bytes), external) {
        Ok(read) => Ok(read),
        // Of a later version or with a manifest that is not understood: it is not to be overwritten.
        Err(unknown @ (BadOplog::Version(_) | BadOplog::Flags(_) | BadOplog::Manifest(_))) => {
            let what = format!("{}: {unknown}", file.path().display());
            Err(Error::Unsupported(what))
        }
        Err(damaged) if forgets => {
            log::warn!("{}: {damaged}; the core is fetched again", file.path().display());
            Ok(None)
        }
        Err(damaged) => Err(Error::Corrupt {
            core: key.discovery_key(),
            file: "oplog",
            at: 0,
            what: damaged.to_string(),
        }),
    }
}

/// The bits of a page of `bitfield`, whose first block is in the least significant bit, and back.
fn reversed(bits: &[u8]) -> Vec<u8> {
    bits.iter().map(|byte| byte.reverse_bits()).collect()
}

fn encode_node(node: &TreeNode) -> [u8; NODE] {
    let mut record = [0; NODE];
    record[..8].copy_from_slice(&node.size.to_le_bytes());
    record[8..].copy_from_slice(&node.hash);
    record
}

/// `None` for a record of zeros.
fn decode_node(index: u64, record: &[u8]) -> Option<TreeNode> {
    let (size, hash) = record.split_first_chunk::<8>()?;
    let hash = hash.try_into().ok()?;
    let blank = record.iter().all(|byte| *byte == 0);
    (!blank).then(|| TreeNode { index, hash, size: u64::from_le_bytes(*size) })
}

impl State {
    /// The next header, of the newest head whose nodes were synced, and whether that is the newest of all.
    fn place_header(&mut self) -> (Placed, bool) {
        // Programs that find 0 count the blocks; another number would be believed.
        self.header.contiguous = 0;
        let newest = std::mem::replace(&mut self.header.tree, self.synced.clone());
        let placed = oplog::next_header(&self.header, self.slots, self.external);
        let is_newest = newest == self.header.tree;
        self.header.tree = newest;
        (placed, is_newest)
    }

    fn set_head(&mut self, stored: &SignedHead<'_>) {
        let tree = StoredTree {
            fork: stored.head.fork,
            length: stored.head.length,
            root_hash: Bytes::copy_from_slice(&hash::TREE.of_roots(stored.roots)),
            signature: Bytes::copy_from_slice(stored.signature.as_bytes()),
        };
        self.before = std::mem::replace(&mut self.header.tree, tree);
        if self.header.manifest.is_none() {
            let decode = |mut bytes: Bytes| Manifest::decode(&mut bytes).ok();
            self.header.manifest = stored.manifest.clone().and_then(decode);
        }
        self.changed = true;
    }
}

impl Files {
    /// The node in `tree`.
    fn read_record(&self, index: u64) -> Result<Option<TreeNode>> {
        let mut record = [0; NODE];
        let length = self.tree.read(index * NODE as u64, &mut record)?;
        Ok(decode_node(index, &record[..length]))
    }

    /// Writes nodes, neighbours in one call.
    fn write_records(&self, nodes: &[TreeNode]) -> Result<()> {
        for run in nodes.chunk_by(|one, next| one.index + 1 == next.index) {
            let Some(first) = run.first() else { continue };
            let bytes: Vec<u8> = run.iter().flat_map(encode_node).collect();
            self.tree.write(first.index * NODE as u64, &bytes)?;
        }
        Ok(())
    }

    /// The blocks that the files have.
    fn read_held(&self) -> Result<Bitfield> {
        let mut bits = Bitfield::new(PAGE_SIZE);
        let pages = self.bitfield.len()?.div_ceil(PAGE_BYTES as u64);
        for page in 0..pages.min(MAX_CORE_LENGTH / DATA_BITS) as usize {
            let mut bytes = vec![0; PAGE_BYTES];
            self.bitfield.read((page * PAGE_BYTES) as u64, &mut bytes)?;
            bits.load(page, &reversed(&bytes));
        }
        bits.rebuild_index();
        Ok(bits)
    }

    /// Notes the nodes that lead to the roots. A program that was killed may have written others, of a head that it
    /// did not come to write. A small part of a very long core costs no more than that part.
    fn read_nodes(&self, roots: &[TreeNode], bits: &mut Bitfield) -> Result<()> {
        let mut buffer = vec![0; NODE * NODES_AT_ONCE];
        // What is in the buffer: the records of `start..end`.
        let (mut start, mut end) = (0, 0);
        let mut open: Vec<u64> = roots.iter().rev().map(|root| root.index).collect();
        while let Some(node) = open.pop() {
            bits.set_node(node);
            let Some((left, right)) = flat_tree::children(node) else { continue };
            let (first, last) = (flat_tree::left_span(node), flat_tree::right_span(node));
            let whole = last - first < NODES_AT_ONCE as u64;
            if whole && !(start <= first && last < end) {
                let length = self.tree.read(first * NODE as u64, &mut buffer)?;
                buffer[length..].fill(0);
                (start, end) = (first, first + NODES_AT_ONCE as u64);
            }
            let is_here = |index: u64| {
                if self.state.lock().in_entries.contains_key(&index) {
                    return Ok(true);
                }
                if !whole {
                    return Ok(self.read_node(index)?.is_some());
                }
                let at = (index - start) as usize * NODE;
                let record = buffer.get(at..at + NODE);
                Ok(record.is_some_and(|record| decode_node(index, record).is_some()))
            };
            if is_here(left)? && is_here(right)? {
                open.extend([right, left]);
            }
        }
        Ok(())
    }

    /// Takes over what the entries of the oplog say of the header and of nodes. Returns what they say of blocks.
    fn take_over(&self, entries: Vec<Entry>) -> Vec<Change> {
        let mut state = self.state.lock();
        state.changed = !entries.is_empty();
        let mut changes = Vec::new();
        for Entry { user_data, nodes, upgrade, held } in entries {
            if let Some((name, value)) = user_data {
                state.header.user_data.retain(|(known, _)| *known != name);
                if !value.is_empty() {
                    state.header.user_data.push((name, value));
                }
            }
            let nodes = nodes.into_iter().filter(|node| node.index < 2 * MAX_CORE_LENGTH);
            state.in_entries.extend(nodes.map(|node| (node.index, node)));
            if let Some(Upgraded { fork, ancestors, length, signature }) = upgrade {
                changes.push(Change::NewFrom(ancestors));
                state.header.tree = StoredTree { fork, length, root_hash: Bytes::new(), signature };
            }
            changes.extend(held.map(Change::Held));
        }
        // Nodes in entries are written and synced before the next header.
        state.synced = state.header.tree.clone();
        changes
    }

    fn verifier(&self, key: &PublicKey, manifest: Option<Manifest>) -> Result<Option<Verifier>> {
        let state = self.state.lock();
        if manifest.is_none() && state.header.tree.length == 0 {
            return Ok(None);
        }
        let verifier = Verifier::new(*key, manifest);
        verifier.map(Some).map_err(|wrong| Error::Corrupt {
            core: key.discovery_key(),
            file: "oplog",
            at: 0,
            what: wrong.to_string(),
        })
    }

    /// What to believe: the head in the oplog if the roots in `tree` and the signature agree on it; otherwise
    /// nothing, if `forgets`.
    fn recover(
        &self,
        changes: &[Change],
        verifier: Option<&Verifier>,
        forgets: bool,
    ) -> Result<Recovered> {
        let (key, tree) = {
            let state = self.state.lock();
            (state.header.key, state.header.tree.clone())
        };
        let empty = |head| {
            let bits = Bitfield::new(PAGE_SIZE);
            let (roots, settled) = (Vec::new(), head);
            Recovered { bits, head, roots, signature: None, settled, settled_signature: None }
        };
        if tree.length == 0 {
            return Ok(empty(Head { fork: tree.fork, ..Head::default() }));
        }
        let signature = Signature::from(&tree.signature[..]);
        let roots = self.roots(tree.length)?;
        let signed = |roots: &Vec<TreeNode>| {
            verifier.is_some_and(|verifier| verifier.signed(roots, tree.fork, &signature))
        };
        let Some(roots) = roots.filter(signed) else {
            let what = "the head does not verify".to_owned();
            let corrupt = Error::Corrupt { core: key.discovery_key(), file: "oplog", at: 0, what };
            if !forgets {
                return Err(corrupt);
            }
            log::warn!("{corrupt}; the core is fetched again");
            let mut state = self.state.lock();
            (state.header.tree, state.synced) = Default::default();
            return Ok(empty(Head::default()));
        };
        let mut bits = self.read_held()?;
        self.read_nodes(&roots, &mut bits)?;
        self.state.lock().claimed = claimed_nodes(&mut bits);
        for change in changes {
            change.apply(tree.length, &mut bits);
        }
        drop_blocks(&mut bits, tree.length..MAX_CORE_LENGTH);
        let byte_length = byte_length(&roots).unwrap_or_default();
        let head = Head { length: tree.length, byte_length, fork: tree.fork };
        let (signature, settled) = (Some(signature), head);
        let settled_signature = signature.clone();
        Ok(Recovered { bits, head, roots, signature, settled, settled_signature })
    }

    fn roots(&self, length: u64) -> Result<Option<Vec<TreeNode>>> {
        if length > MAX_CORE_LENGTH {
            return Ok(None);
        }
        flat_tree::full_roots(length).map(|index| self.read_node(index)).collect()
    }

    /// Writes the header to the slot that is not the current one.
    fn write_header(&self, state: &mut State) -> Result<()> {
        let (placed, is_newest) = state.place_header();
        let Placed { at, record, slots, external } = placed;
        if let Some((place, bytes)) = &external {
            self.header.write(place.start, bytes)?;
            self.header.sync()?;
        }
        // The other slot may be the only whole one by now.
        self.oplog.sync()?;
        self.oplog.write(at, &record)?;
        if self.oplog.len()? != ENTRIES as u64 {
            // Entries are needed until this header is there for good.
            self.oplog.sync()?;
            self.oplog.truncate(ENTRIES as u64)?;
        }
        (state.stored, state.entries_length) = (true, 0);
        state.external = external.map_or_else(External::default, |(place, _)| place);
        (state.slots, state.changed) = (slots, !is_newest);
        Ok(())
    }
}

/// What an entry says of the blocks that are held.
enum Change {
    /// None from this one on, which is of another history.
    NewFrom(u64),
    Held(HeldBlocks),
}

impl Change {
    /// In a core that is now `length` blocks long.
    fn apply(&self, length: u64, bits: &mut Bitfield) {
        match self {
            Self::NewFrom(first) => drop_blocks(bits, *first..MAX_CORE_LENGTH),
            Self::Held(HeldBlocks { drop: true, start, length }) => {
                drop_blocks(bits, *start..start.saturating_add(*length).min(MAX_CORE_LENGTH));
            }
            Self::Held(HeldBlocks { drop: false, start, length: count }) => {
                for block in *start..start.saturating_add(*count).min(length) {
                    bits.set_data(block, true);
                }
            }
        }
    }
}

/// The tree bits of the pages, which count as written then.
fn claimed_nodes(bits: &mut Bitfield) -> BTreeMap<usize, Box<[u8]>> {
    let pages = bits.take_dirty().into_iter();
    pages.map(|(page, bytes)| (page, bytes.get(TREE_AREA).unwrap_or_default().into())).collect()
}

fn drop_blocks(bits: &mut Bitfield, blocks: std::ops::Range<u64>) {
    let mut next = blocks.start;
    while let Some(block) = bits.first_present(next..blocks.end) {
        bits.set_data(block, false);
        next = block + 1;
    }
}

impl CoreFiles for Files {
    fn read_node(&self, index: u64) -> Result<Option<TreeNode>> {
        if let Some(node) = self.state.lock().in_entries.get(&index) {
            return Ok(Some(*node));
        }
        self.read_record(index)
    }

    fn write_nodes(&self, nodes: &[TreeNode]) -> Result<()> {
        self.write_records(nodes)?;
        let mut state = self.state.lock();
        if !state.in_entries.is_empty() {
            for node in nodes {
                state.in_entries.remove(&node.index);
            }
        }
        Ok(())
    }

    fn write_node_range(&self, start: u64, end: u64, nodes: &[TreeNode]) -> Result<()> {
        let mut bytes = vec![0; (end - start) as usize * NODE];
        for node in nodes.iter().filter(|node| (start..end).contains(&node.index)) {
            let at = (node.index - start) as usize * NODE;
            bytes[at..at + NODE].copy_from_slice(&encode_node(node));
        }
        self.tree.write(start * NODE as u64, &bytes)
    }

    /// That of the head alone is kept.
    fn read_signature(&self, length: u64) -> Result<Option<Signature>> {
        let state = self.state.lock();
        let tree = &state.header.tree;
        let known = tree.length == length && !tree.signature.is_empty();
        Ok(known.then(|| Signature::from(&tree.signature[..])))
    }

    fn write_head(&self, stored: &SignedHead<'_>) -> Result<()> {
        self.state.lock().set_head(stored);
        Ok(())
    }

    fn write_appended(&self, stored: &SignedHead<'_>) -> Result<()> {
        let mut state = self.state.lock();
        if state.own.is_some() {
            self.write_entry(&mut state, stored)?;
        }
        state.set_head(stored);
        Ok(())
    }

    /// Under one lock: a header that is written meanwhile is of the head before, or of this one when its nodes are there.
    fn write_fork(
        &self,
        head: &SignedHead<'_>,
        nodes: &[TreeNode],
        replaced: Range<u64>,
    ) -> Result<()> {
        let mut state = self.state.lock();
        // Without a header nothing is claimed that could be lost.
        if state.stored {
            let entry = Entry {
                user_data: None,
                nodes: nodes.to_vec(),
                upgrade: Some(Upgraded {
                    fork: head.head.fork,
                    ancestors: replaced.start,
                    length: head.head.length,
                    signature: Bytes::copy_from_slice(head.signature.as_bytes()),
                }),
                held: (!replaced.is_empty()).then(|| HeldBlocks {
                    drop: true,
                    start: replaced.start,
                    length: replaced.end - replaced.start,
                }),
            };
            let record = oplog::entry_record(&entry, state.slots);
            self.oplog.write(ENTRIES as u64 + state.entries_length, &record)?;
            self.oplog.sync()?;
            state.entries_length += record.len() as u64;
        }
        self.write_records(nodes)?;
        self.tree.sync()?;
        for node in nodes {
            state.in_entries.remove(&node.index);
        }
        state.set_head(head);
        state.synced = state.header.tree.clone();
        Ok(())
    }

    fn blank_signature(&self, _length: u64) -> Result<()> {
        Ok(())
    }

    fn longest_signed(&self) -> Result<u64> {
        Ok(self.state.lock().header.tree.length)
    }

    fn drop_signatures_after(&self, length: u64) -> Result<()> {
        let mut state = self.state.lock();
        if state.own.is_some() {
            // An append that failed has no entry, or a part of one.
            return self.cut_tail(&mut state);
        }
        if state.header.tree.length > length && state.before.length <= length {
            state.header.tree = state.before.clone();
            if state.synced.length > length {
                state.synced = state.before.clone();
            }
        }
        Ok(())
    }

    fn read_data(&self, offset: u64, buffer: &mut [u8]) -> Result<bool> {
        Ok(self.data.read(offset, buffer)? == buffer.len())
    }

    fn write_data(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.data.write_blocks(offset, bytes)
    }

    fn begin_writeback(&self, offset: u64, length: u64) {
        self.data.begin_writeback(offset, length);
    }

    fn release_data(&self, start: u64, end: u64) -> Result<()> {
        self.data.release(start, end)
    }

    fn read_claims(&self, page: usize) -> Result<Vec<u8>> {
        let mut bytes = vec![0; PAGE_BYTES];
        self.bitfield.read((page * PAGE_BYTES) as u64, &mut bytes)?;
        let mut claims = reversed(&bytes);
        claims.resize(PAGE_SIZE, 0);
        if let Some(nodes) = self.state.lock().claimed.get(&page) {
            claims[TREE_AREA].copy_from_slice(nodes);
        }
        Ok(claims)
    }

    fn write_claims(&self, pages: &Pages, settled: Option<u64>) -> Result<()> {
        for (page, bytes) in pages {
            let data = bytes.get(..PAGE_BYTES).unwrap_or_default();
            self.bitfield.write((page * PAGE_BYTES) as u64, &reversed(data))?;
        }
        if settled.is_some() {
            self.bitfield.sync()?;
        }
        let mut state = self.state.lock();
        for (page, bytes) in pages {
            state.claimed.insert(*page, bytes.get(TREE_AREA).unwrap_or_default().into());
        }
        match settled {
            _ if !state.changed => Ok(()),
            Some(length) if state.own.is_some() => self.claim_own(&mut state, length),
            _ => self.write_header(&mut state),
        }
    }

    fn wants_claims(&self) -> bool {
        let state = self.state.lock();
        state.own.is_some() && state.entries_length > own::MAX_ENTRIES_LENGTH
    }

    fn sync_facts(&self) -> Result<()> {
        let (tree, in_entries) = {
            let state = self.state.lock();
            (state.header.tree.clone(), state.in_entries.clone())
        };
        if !in_entries.is_empty() {
            let nodes: Vec<TreeNode> = in_entries.into_values().collect();
            self.write_nodes(&nodes)?;
        }
        self.data.sync()?;
        self.tree.sync()?;
        let mut state = self.state.lock();
        // A truncation that was followed meanwhile is synced by itself.
        if state.header.tree.fork == tree.fork && state.header.tree.length >= tree.length {
            state.synced = tree;
        }
        Ok(())
    }

    fn sync_claims(&self) -> Result<()> {
        self.bitfield.sync()?;
        self.oplog.sync().inspect_err(|_| {
            if let Some(own) = &mut self.state.lock().own {
                own.distrust();
            }
        })
    }

    fn are_volatile(&self) -> bool {
        self.data.is_volatile()
    }
}
