//! Which blocks and which tree nodes are stored here, in the pages of the `bitfield` file
//! (hypercore9.md §4.3), byte for byte.
//!
//! A page holds 8192 data bits, 16384 tree bits and a share of an index that summarises the data
//! bits for the reference implementation. Pages without a bit are not kept in memory. Not here:
//! when pages are written (`layout.rs`), and the run-length form of the wire.
//!
//! INVARIANTS: the index of every page agrees with the data bits; a page is in `dirty` exactly
//! while it differs from what was last handed out for writing.

use std::collections::BTreeSet;
use std::ops::Range;

use super::flat_tree;

/// Blocks per page.
pub(crate) const DATA_BITS: u64 = 8192;
/// Tree nodes per page.
pub(crate) const TREE_BITS: u64 = 16384;
const DATA_BYTES: usize = 1024;
const TREE_BYTES: usize = 2048;
const INDEX_START: usize = DATA_BYTES + TREE_BYTES;
/// Where the tree bits are within a page.
pub(crate) const TREE_AREA: Range<usize> = DATA_BYTES..INDEX_START;
/// Bytes of a page as written by every recent version.
pub(crate) const PAGE_SIZE: usize = 3584;
/// Bytes of a page as written by very old versions; kept when found.
pub(crate) const OLD_PAGE_SIZE: usize = 3328;

/// Levels of the tree over the longest core.
const MAX_DEPTH: usize = 34;

/// See the module documentation.
pub(crate) struct Bitfield {
    page_size: usize,
    pages: Vec<Option<Box<[u8]>>>,
    dirty: BTreeSet<usize>,
}

impl Bitfield {
    /// An empty one. `page_size` is [`PAGE_SIZE`] or [`OLD_PAGE_SIZE`].
    pub(crate) fn new(page_size: usize) -> Self {
        Self { page_size: page_size.max(INDEX_START), pages: Vec::new(), dirty: BTreeSet::new() }
    }

    /// How many tree bits the pages have room for.
    pub(crate) fn tree_capacity(&self) -> u64 {
        self.pages.len() as u64 * TREE_BITS
    }

    /// Takes over a page as read from disk; a short last page is extended with zeros. Call
    /// [`Bitfield::rebuild_index`] after the last.
    pub(crate) fn load(&mut self, page: usize, bytes: &[u8]) {
        if self.pages.len() <= page {
            self.pages.resize_with(page + 1, || None);
        }
        if bytes.iter().all(|byte| *byte == 0) {
            return;
        }
        let mut owned = vec![0; self.page_size].into_boxed_slice();
        let length = bytes.len().min(self.page_size);
        owned[..length].copy_from_slice(&bytes[..length]);
        self.pages[page] = Some(owned);
    }

    /// Puts pages back to the bytes in the file; short ones are extended with zeros. They are not dirty
    /// then.
    pub(crate) fn replace(&mut self, stored: &[(usize, Vec<u8>)]) {
        let mut dirty = std::mem::take(&mut self.dirty);
        for (page, bytes) in stored {
            if let Some(page) = self.pages.get_mut(*page) {
                *page = None;
            }
            self.load(*page, bytes);
            dirty.remove(page);
        }
        self.derive_index();
        self.dirty = dirty;
    }

    /// Derives the index from the data bits, so that a torn or damaged index on disk neither
    /// misleads us nor, once its page is written again, the reference.
    pub(crate) fn rebuild_index(&mut self) {
        self.derive_index();
        self.dirty.clear();
    }

    /// The index of a page also has what stands above the data of others, so all of it is derived at once.
    fn derive_index(&mut self) {
        for page in self.pages.iter_mut().flatten() {
            page[INDEX_START..].fill(0);
        }
        let size = self.index_size();
        for word in (0..self.pages.len() * DATA_BYTES).step_by(4) {
            if (word..word + 4).any(|byte| self.data_byte(byte) != 0) {
                self.update_index(word, size);
            }
        }
    }

    pub(crate) fn has_data(&self, block: u64) -> bool {
        self.bit((block / DATA_BITS) as usize, (block % DATA_BITS) as usize)
    }

    pub(crate) fn has_node(&self, node: u64) -> bool {
        self.bit((node / TREE_BITS) as usize, DATA_BYTES * 8 + (node % TREE_BITS) as usize)
    }

    /// Returns whether the bit changed.
    pub(crate) fn set_data(&mut self, block: u64, value: bool) -> bool {
        let page = (block / DATA_BITS) as usize;
        let bit = (block % DATA_BITS) as usize;
        if !self.set_bit(page, bit, value) {
            return false;
        }
        self.update_index(page * DATA_BYTES + (bit >> 3), self.index_size());
        true
    }

    /// Sets a node's bit and those of all ancestors that it completes.
    pub(crate) fn set_node(&mut self, node: u64) {
        let mut node = node;
        while self.set_node_bit(node, true) && self.has_node(flat_tree::sibling(node)) {
            node = flat_tree::parent(node);
        }
    }

    /// Clears one node's bit, and only that.
    pub(crate) fn clear_node(&mut self, node: u64) {
        self.set_node_bit(node, false);
    }

    /// Clears the bits of all nodes over blocks of which some are not below `length`.
    pub(crate) fn clear_nodes_beyond(&mut self, length: u64) {
        let first = (length.saturating_mul(2) / TREE_BITS) as usize;
        // A node with a lower index may reach beyond the length: those are the parents of its last blocks.
        let mut above = length.saturating_sub(1).saturating_mul(2);
        for _ in 0..MAX_DEPTH {
            if flat_tree::blocks(above).end > length {
                self.clear_node(above);
            }
            above = flat_tree::parent(above);
        }
        for page in first..self.pages.len() {
            let Some(Some(bytes)) = self.pages.get(page) else { continue };
            let start = page as u64 * TREE_BITS;
            let set: Vec<u64> = (0..TREE_BITS)
                .filter(|bit| bytes[DATA_BYTES + (bit / 8) as usize] & (0x80 >> (bit % 8)) != 0)
                .map(|bit| start + bit)
                .filter(|node| flat_tree::blocks(*node).end > length)
                .collect();
            for node in set {
                self.clear_node(node);
            }
        }
    }

    fn set_node_bit(&mut self, node: u64, value: bool) -> bool {
        let page = (node / TREE_BITS) as usize;
        self.set_bit(page, DATA_BYTES * 8 + (node % TREE_BITS) as usize, value)
    }

    /// How many blocks of the range are here.
    pub(crate) fn count(&self, blocks: Range<u64>) -> u64 {
        let mut count = 0;
        self.each_piece(blocks, |page, bits| {
            if let Some(page) = page {
                count += count_bits(&page[..DATA_BYTES], bits);
            }
            true
        });
        count
    }

    /// The first block of the range that is not here.
    pub(crate) fn first_missing(&self, blocks: Range<u64>) -> Option<u64> {
        self.first(blocks, false)
    }

    /// The first block of the range that is here.
    pub(crate) fn first_present(&self, blocks: Range<u64>) -> Option<u64> {
        self.first(blocks, true)
    }

    fn first(&self, blocks: Range<u64>, value: bool) -> Option<u64> {
        let mut found = None;
        let mut base = blocks.start - blocks.start % DATA_BITS;
        self.each_piece(blocks, |page, bits| {
            let hit = match page {
                Some(page) => first_bit(&page[..DATA_BYTES], bits, value),
                None if value => None,
                None => Some(bits.start),
            };
            found = hit.map(|bit| base + bit as u64);
            base += DATA_BITS;
            found.is_none()
        });
        found
    }

    /// Calls `visit` with every page's part of the range until it returns false. Beyond the last
    /// page there is one call with all the rest cut to a page: enough for every question here.
    fn each_piece(
        &self,
        blocks: Range<u64>,
        mut visit: impl FnMut(Option<&[u8]>, Range<usize>) -> bool,
    ) {
        let mut at = blocks.start;
        while at < blocks.end {
            let index = (at / DATA_BITS) as usize;
            let page = self.pages.get(index).and_then(Option::as_deref);
            let start = (at % DATA_BITS) as usize;
            let end = (blocks.end - (at - start as u64)).min(DATA_BITS) as usize;
            if !visit(page, start..end) || index >= self.pages.len() {
                return;
            }
            at += (end - start) as u64;
        }
    }

    /// The data bits of `start..start + length` as bytes, first block in the highest bit.
    pub(crate) fn data_bits(&self, start: u64, length: u64) -> Vec<u8> {
        let first = (start / 8) as usize;
        let shift = (start % 8) as u32;
        let bytes = length.div_ceil(8) as usize;
        let mut out: Vec<u8> = (first..first + bytes)
            .map(|at| {
                let pair = u16::from_be_bytes([self.data_byte(at), self.data_byte(at + 1)]);
                ((pair << shift) >> 8) as u8
            })
            .collect();
        if let (Some(last), 1..) = (out.last_mut(), length % 8) {
            *last &= 0xffu8 << (8 - length % 8);
        }
        out
    }

    /// Every page that changed since it was last taken, as it shall stand in the file. Hand
    /// back what could not be written with [`Bitfield::mark_dirty`].
    pub(crate) fn take_dirty(&mut self) -> Vec<(usize, Box<[u8]>)> {
        let pages = self.dirty_pages();
        self.dirty.clear();
        pages
    }

    /// The same pages, which stay dirty.
    pub(crate) fn dirty_pages(&self) -> Vec<(usize, Box<[u8]>)> {
        let page = |page: &usize| {
            let bytes = self.pages.get(*page).cloned().flatten();
            (*page, bytes.unwrap_or_else(|| vec![0; self.page_size].into_boxed_slice()))
        };
        self.dirty.iter().map(page).collect()
    }

    pub(crate) fn mark_dirty(&mut self, page: usize) {
        self.dirty.insert(page);
    }

    #[cfg(test)]
    pub(crate) fn is_dirty(&self) -> bool {
        !self.dirty.is_empty()
    }

    fn bit(&self, page: usize, bit: usize) -> bool {
        let Some(Some(page)) = self.pages.get(page) else {
            return false;
        };
        page[bit >> 3] & (0x80 >> (bit & 7)) != 0
    }

    fn set_bit(&mut self, page: usize, bit: usize, value: bool) -> bool {
        if self.bit(page, bit) == value {
            return false;
        }
        self.page_mut(page)[bit >> 3] ^= 0x80 >> (bit & 7);
        true
    }

    fn page_mut(&mut self, page: usize) -> &mut [u8] {
        if self.pages.len() <= page {
            self.pages.resize_with(page + 1, || None);
        }
        self.dirty.insert(page);
        let size = self.page_size;
        self.pages[page].get_or_insert_with(|| vec![0; size].into_boxed_slice())
    }

    fn index_size(&self) -> usize {
        self.page_size - INDEX_START
    }

    fn data_byte(&self, at: usize) -> u8 {
        let Some(Some(page)) = self.pages.get(at / DATA_BYTES) else {
            return 0;
        };
        page[at % DATA_BYTES]
    }

    fn index_byte(&self, at: u64, size: usize) -> u8 {
        if size == 0 {
            return 0;
        }
        let Some(Some(page)) = self.pages.get(at as usize / size) else {
            return 0;
        };
        page[INDEX_START + at as usize % size]
    }

    /// Recomputes the index from the leaf over data byte `changed` up to its last stored parent.
    fn update_index(&mut self, changed: usize, size: usize) {
        let word = changed - changed % 4;
        let leaf = (0..4).fold(0, |byte, at| byte << 2 | summary(self.data_byte(word + at), 0xff));
        let mut at = (word / 4 * 2) as u64;
        let mut value = leaf;
        let limit = (self.pages.len() * size) as u64;
        while at < limit {
            if self.index_byte(at, size) != value {
                let page = at as usize / size;
                self.page_mut(page)[INDEX_START + at as usize % size] = value;
            }
            at = flat_tree::parent(at);
            let Some((left, right)) = flat_tree::children(at) else {
                return;
            };
            let (left, right) = (self.index_byte(left, size), self.index_byte(right, size));
            value = [left >> 4, left & 15, right >> 4, right & 15]
                .into_iter()
                .fold(0, |byte, nibble| byte << 2 | summary(nibble, 15));
        }
    }
}

/// Two bits: nothing, something or everything of `full` is set.
fn summary(byte: u8, full: u8) -> u8 {
    match byte {
        0 => 0,
        byte if byte == full => 3,
        _ => 1,
    }
}

fn count_bits(bytes: &[u8], bits: Range<usize>) -> u64 {
    let mut count = 0;
    let mut at = bits.start;
    while at < bits.end {
        if at.is_multiple_of(8) && bits.end - at >= 8 {
            count += u64::from(bytes[at / 8].count_ones());
            at += 8;
        } else {
            count += u64::from(bytes[at / 8] >> (7 - at % 8) & 1);
            at += 1;
        }
    }
    count
}

fn first_bit(bytes: &[u8], bits: Range<usize>, value: bool) -> Option<usize> {
    let skip = if value { 0x00 } else { 0xff };
    let mut at = bits.start;
    while at < bits.end {
        let byte = bytes[at / 8];
        if at.is_multiple_of(8) && byte == skip {
            at += 8;
        } else if (byte >> (7 - at % 8) & 1 == 1) == value {
            return Some(at);
        } else {
            at += 1;
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn file_bytes(bitfield: &mut Bitfield) -> Vec<u8> {
        let mut bytes = vec![0; bitfield.pages.len() * PAGE_SIZE];
        for (page, content) in bitfield.take_dirty() {
            bytes[page * PAGE_SIZE..(page + 1) * PAGE_SIZE].copy_from_slice(&content);
        }
        bytes
    }

    #[test]
    fn golden_pages() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/vectors/bitfield.json");
        let vectors: serde_json::Value =
            serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        let mut checked = 0;
        for (name, case) in vectors["pages"].as_object().unwrap() {
            let Some(runs) = case["runs"].as_array() else {
                continue;
            };
            let mut bitfield = Bitfield::new(PAGE_SIZE);
            for range in case["ranges"].as_array().unwrap() {
                let (start, end) = (range[0].as_u64().unwrap(), range[1].as_u64().unwrap());
                for block in start..end {
                    bitfield.set_data(block, true);
                    bitfield.set_node(block * 2);
                }
            }
            let mut expected = vec![0; case["pages"].as_u64().unwrap() as usize * PAGE_SIZE];
            for run in runs {
                let at = run[0].as_u64().unwrap() as usize;
                let bytes = hex::decode(run[1].as_str().unwrap()).unwrap();
                expected[at..at + bytes.len()].copy_from_slice(&bytes);
            }
            let written = file_bytes(&mut bitfield);
            assert_eq!(written.len(), expected.len(), "{name}");
            let differs = (0..expected.len()).find(|at| written[*at] != expected[*at]);
            assert_eq!(differs, None, "{name}");

            let mut reloaded = Bitfield::new(PAGE_SIZE);
            for (page, bytes) in expected.chunks(PAGE_SIZE).enumerate() {
                let mut torn = bytes.to_vec();
                torn[INDEX_START..].fill(0xff);
                reloaded.load(page, &torn);
            }
            reloaded.rebuild_index();
            assert!(!reloaded.is_dirty());
            for page in 0..reloaded.pages.len() {
                reloaded.mark_dirty(page);
            }
            assert_eq!(file_bytes(&mut reloaded), expected, "{name} rebuilt");
            checked += 1;
        }
        assert!(checked >= 6);
    }

    #[test]
    fn old_page_size_keeps_its_layout() {
        let mut bitfield = Bitfield::new(OLD_PAGE_SIZE);
        bitfield.set_data(0, true);
        bitfield.set_data(9000, true);
        let pages = bitfield.take_dirty();
        assert_eq!(pages.len(), 2);
        assert!(pages.iter().all(|(_, bytes)| bytes.len() == OLD_PAGE_SIZE));
        assert!(bitfield.has_data(9000) && !bitfield.has_data(8999));
    }

    /// What stands above the data of the first page lies in the index of the third, which has no data.
    #[test]
    fn the_index_of_a_page_without_data_is_derived_too() {
        let mut bitfield = Bitfield::new(PAGE_SIZE);
        bitfield.set_data(19_615, true);
        bitfield.set_data(19_615, false);
        bitfield.set_data(0, true);
        let written = file_bytes(&mut bitfield);
        bitfield.rebuild_index();
        for page in 0..bitfield.pages.len() {
            bitfield.mark_dirty(page);
        }
        let derived = file_bytes(&mut bitfield);
        assert_eq!((0..written.len()).find(|at| written[*at] != derived[*at]), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn agrees_with_a_list_of_booleans(
            steps in prop::collection::vec((0u64..20_000, 1u64..600, any::<bool>()), 1..20),
            question in 0u64..22_000,
            length in 0u64..10_000,
        ) {
            let mut bitfield = Bitfield::new(PAGE_SIZE);
            let mut model = vec![false; 32_768];
            for (start, count, value) in steps {
                for block in start..start + count {
                    bitfield.set_data(block, value);
                    model[block as usize] = value;
                }
            }
            let range = question..question + length;
            let slice = &model[question as usize..(question + length) as usize];
            let position = |value| {
                slice.iter().position(|bit| *bit == value).map(|at| at as u64 + question)
            };
            prop_assert_eq!(
                bitfield.count(range.clone()),
                slice.iter().filter(|bit| **bit).count() as u64
            );
            prop_assert_eq!(bitfield.first_missing(range.clone()), position(false));
            prop_assert_eq!(bitfield.first_present(range), position(true));
            let bits = bitfield.data_bits(question, length);
            prop_assert_eq!(bits.len() as u64, length.div_ceil(8));
            for (at, expected) in slice.iter().enumerate() {
                prop_assert_eq!(bits[at / 8] >> (7 - at % 8) & 1 == 1, *expected);
            }
            let written = file_bytes(&mut bitfield);
            bitfield.rebuild_index();
            for page in 0..bitfield.pages.len() {
                bitfield.mark_dirty(page);
            }
            prop_assert_eq!(file_bytes(&mut bitfield), written);
        }
    }
}
