//! The files of one core on disk (hypercore9.md §4): headers, positions, whole records.
//!
//! Knows bytes and positions, not which of them to believe: that is `recover.rs` at open and
//! `nodes.rs` later.

use std::ops::Range;
use std::path::Path;

use super::super::bitfield::{Bitfield, DATA_BITS, OLD_PAGE_SIZE, PAGE_SIZE, TREE_AREA};
use super::super::files::{CoreFiles, File, OpenFile, Pages, SignedHead, open_file};
use super::super::merkle::{MAX_CORE_LENGTH, Signature, TreeNode};
use crate::error::Result;
use hypermount_swarm::crypto::{KeyPair, PublicKey, SIGNATURE_LENGTH};

const HEADER: u64 = 32;
const NODE: u64 = 40;
const SIGNATURE: u64 = SIGNATURE_LENGTH as u64;
/// Pages of the longest core; what a damaged file has beyond them is not read.
const MAX_PAGES: usize = (MAX_CORE_LENGTH / DATA_BITS) as usize;
const MAGIC: [u8; 3] = [0x05, 0x02, 0x57];

/// The files of one open core.
pub(crate) struct Files {
    data: File,
    tree: File,
    signatures: File,
    bitfield: File,
    page_size: usize,
}

/// What the small files of a core say, before it is opened.
pub(crate) struct Keys {
    pub(crate) key: Option<PublicKey>,
    pub(crate) pair: Option<KeyPair>,
}

/// Reads `key` and `secret_key`; absent, short or senseless ones are `None`.
pub(crate) fn read_keys(directory: &Path, open: OpenFile) -> Result<Keys> {
    let mut key = [0; 32];
    let length = open_file(directory, open, "key")?.read(0, &mut key)?;
    let key = (length == key.len() && key != [0; 32]).then(|| PublicKey::new(key));
    let mut secret = [0; 64];
    let length = open_file(directory, open, "secret_key")?.read(0, &mut secret)?;
    let pair = if length == secret.len() { KeyPair::from_secret_key(&secret) } else { None };
    Ok(Keys { key, pair })
}

pub(crate) fn write_key(directory: &Path, open: OpenFile, key: &PublicKey) -> Result<()> {
    let file = open_file(directory, open, "key")?;
    file.write(0, key.as_bytes())?;
    file.sync()
}

pub(crate) fn write_secret_key(directory: &Path, open: OpenFile, pair: &KeyPair) -> Result<()> {
    let file = open_file(directory, open, "secret_key")?;
    file.write(0, &pair.secret_key())?;
    file.sync()
}

fn header(kind: u8, entry: usize, algorithm: &str) -> [u8; HEADER as usize] {
    let mut header = [0; HEADER as usize];
    header[..3].copy_from_slice(&MAGIC);
    header[3] = kind;
    header[5..7].copy_from_slice(&(entry as u16).to_be_bytes());
    header[7] = algorithm.len() as u8;
    header[8..8 + algorithm.len()].copy_from_slice(algorithm.as_bytes());
    header
}

/// The page size a bitfield header names; the usual one if it is absent or damaged.
fn page_size(header: &[u8]) -> usize {
    match header.get(5..7).map(|size| usize::from(u16::from_be_bytes([size[0], size[1]]))) {
        Some(OLD_PAGE_SIZE) => OLD_PAGE_SIZE,
        _ => PAGE_SIZE,
    }
}

impl Files {
    /// Opens the files and, where `writable`, puts headers right that are absent or damaged.
    pub(crate) fn open(directory: &Path, open: OpenFile, writable: bool) -> Result<Self> {
        let file = |name| open_file(directory, open, name);
        let bitfield = file("bitfield")?;
        let mut found = [0; HEADER as usize];
        let length = bitfield.read(0, &mut found)?;
        let page_size = page_size(&found[..length]);
        let files = Self {
            data: file("data")?,
            tree: file("tree")?,
            signatures: file("signatures")?,
            bitfield,
            page_size,
        };
        if writable {
            ensure_header(&files.signatures, header(1, SIGNATURE as usize, "Ed25519"))?;
            ensure_header(&files.tree, header(2, NODE as usize, "BLAKE2b"))?;
            ensure_header(&files.bitfield, header(0, page_size, ""))?;
        }
        Ok(files)
    }

    /// All pages of the bitfield file.
    pub(crate) fn read_bitfield(&self) -> Result<Bitfield> {
        /// Pages read at once.
        const CHUNK: usize = 64;
        let mut bitfield = Bitfield::new(self.page_size);
        let mut buffer = vec![0; self.page_size * CHUNK];
        let mut page = 0;
        loop {
            let offset = HEADER + (page * self.page_size) as u64;
            let length = self.bitfield.read(offset, &mut buffer)?;
            for bytes in buffer[..length].chunks(self.page_size) {
                bitfield.load(page, bytes);
                page += 1;
            }
            if length < buffer.len() || page >= MAX_PAGES {
                bitfield.rebuild_index();
                return Ok(bitfield);
            }
        }
    }

    /// Stores the signature of the core as long as `length` blocks.
    pub(crate) fn write_signature(&self, length: u64, signature: &Signature) -> Result<()> {
        match (length.checked_sub(1), signature.as_bytes()) {
            (Some(slot), bytes) if bytes.len() == SIGNATURE_LENGTH => {
                self.signatures.write(HEADER + SIGNATURE * slot, bytes)
            }
            // No signature of another size verifies, and none that does not is stored.
            _ => Ok(()),
        }
    }

    fn write_page(&self, page: usize, bytes: &[u8]) -> Result<()> {
        self.bitfield.write(HEADER + (page * self.page_size) as u64, bytes)
    }
}

impl CoreFiles for Files {
    fn read_claims(&self, page: usize) -> Result<Vec<u8>> {
        let mut bytes = vec![0; self.page_size];
        self.bitfield.read(HEADER + (page * self.page_size) as u64, &mut bytes)?;
        Ok(bytes)
    }

    fn write_claims(&self, pages: &Pages, settled: Option<u64>) -> Result<()> {
        if settled.is_some() {
            // A power cut may tear a page. If the tree bits, which state the length, were stored
            // without the data bits, blocks of ours that no peer has would count as missing. So
            // the data bits are written first.
            for (page, bytes) in pages {
                let mut bytes = bytes.to_vec();
                let before = self.read_claims(*page)?;
                bytes[TREE_AREA].copy_from_slice(&before[TREE_AREA]);
                self.write_page(*page, &bytes)?;
            }
            self.sync_claims()?;
        }
        for (page, bytes) in pages {
            self.write_page(*page, bytes)?;
        }
        // Peers are shown what is claimed: a claim that is lost would be a head that goes back.
        if settled.is_some() { self.sync_claims() } else { Ok(()) }
    }

    fn read_node(&self, index: u64) -> Result<Option<TreeNode>> {
        let mut record = [0; NODE as usize];
        let length = self.tree.read(HEADER + NODE * index, &mut record)?;
        if length < record.len() || record == [0; NODE as usize] {
            return Ok(None);
        }
        Ok(Some(decode_node(index, &record)))
    }

    fn write_nodes(&self, nodes: &[TreeNode]) -> Result<()> {
        for run in nodes.chunk_by(|one, next| one.index + 1 == next.index) {
            let Some(first) = run.first() else {
                continue;
            };
            let bytes: Vec<u8> = run.iter().flat_map(encode_node).collect();
            self.tree.write(HEADER + NODE * first.index, &bytes)?;
        }
        Ok(())
    }

    fn write_node_range(&self, start: u64, end: u64, nodes: &[TreeNode]) -> Result<()> {
        let mut bytes = vec![0; ((end - start) * NODE) as usize];
        for node in nodes.iter().filter(|node| (start..end).contains(&node.index)) {
            let at = ((node.index - start) * NODE) as usize;
            bytes[at..at + NODE as usize].copy_from_slice(&encode_node(node));
        }
        self.tree.write(HEADER + NODE * start, &bytes)
    }

    fn read_signature(&self, length: u64) -> Result<Option<Signature>> {
        let mut signature = [0; SIGNATURE_LENGTH];
        let Some(slot) = length.checked_sub(1) else {
            return Ok(None);
        };
        let found = self.signatures.read(HEADER + SIGNATURE * slot, &mut signature)?;
        Ok((found == SIGNATURE_LENGTH && signature != [0; SIGNATURE_LENGTH])
            .then(|| signature.into()))
    }

    fn write_head(&self, head: &SignedHead<'_>) -> Result<()> {
        self.write_signature(head.head.length, head.signature)
    }

    /// A core of Hypercore 9 has no forks.
    fn write_fork(
        &self,
        head: &SignedHead<'_>,
        nodes: &[TreeNode],
        _replaced: Range<u64>,
    ) -> Result<()> {
        self.write_nodes(nodes)?;
        self.write_head(head)
    }

    fn blank_signature(&self, length: u64) -> Result<()> {
        match length.checked_sub(1) {
            Some(slot) => self.signatures.write(HEADER + SIGNATURE * slot, &[0; SIGNATURE_LENGTH]),
            None => Ok(()),
        }
    }

    fn longest_signed(&self) -> Result<u64> {
        Ok(self.signatures.len()?.saturating_sub(HEADER) / SIGNATURE)
    }

    fn drop_signatures_after(&self, length: u64) -> Result<()> {
        let end = HEADER + SIGNATURE * length;
        if self.signatures.len()? > end { self.signatures.truncate(end) } else { Ok(()) }
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

    fn are_volatile(&self) -> bool {
        self.data.is_volatile()
    }

    fn sync_facts(&self) -> Result<()> {
        self.data.sync()?;
        self.tree.sync()?;
        self.signatures.sync()
    }

    fn sync_claims(&self) -> Result<()> {
        self.bitfield.sync()
    }
}

fn ensure_header(file: &File, expected: [u8; HEADER as usize]) -> Result<()> {
    let mut found = [0; HEADER as usize];
    let length = file.read(0, &mut found)?;
    if length == found.len() && found == expected {
        return Ok(());
    }
    if length > 0 {
        log::warn!("{}: header damaged, written again", file.path().display());
    }
    file.write(0, &expected)
}

fn encode_node(node: &TreeNode) -> [u8; NODE as usize] {
    let mut record = [0; NODE as usize];
    record[..32].copy_from_slice(&node.hash);
    record[32..].copy_from_slice(&node.size.to_be_bytes());
    record
}

fn decode_node(index: u64, record: &[u8; NODE as usize]) -> TreeNode {
    let (mut hash, mut size) = ([0; 32], [0; 8]);
    hash.copy_from_slice(&record[..32]);
    size.copy_from_slice(&record[32..]);
    TreeNode { index, hash, size: u64::from_be_bytes(size) }
}
