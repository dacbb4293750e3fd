//! Files with a map: the list of the blocks that hold their bytes, which is stored in the content core as well
//! (docs/format/hyperbee.md §6). Their sizes, and reading them.
//!
//! A publisher signs what it likes: a map is bounded in blocks and bytes, and every block that it names has to
//! be as long as it says.
//!
//! Not here: how a map is encoded (`index/`), and files whose blocks follow each other (`read.rs`).

use std::collections::{BTreeMap, HashSet};
use std::num::NonZeroUsize;
use std::ops::Range;
use std::sync::Arc;

use lru::LruCache;

use super::Pieces;
use super::read::{self, MAX_BLOCKS_AT_ONCE};
use crate::index::{BlockMap, MAX_MAP_BLOCK_BYTES, MAX_MAP_BLOCKS, Piece};
use crate::stat::{Extent, Segment};
use hypermount_core::{
    Core, Error, MAX_WANTED_BLOCKS, Result, Ticket, Urgency, Wait, ZERO_BLOCK_SIZES,
};
use hypermount_swarm::sync::{Mutex, Rank};

/// Bytes of maps kept per drive, roughly.
const MAX_CACHED_BYTES: usize = 16 * 1024 * 1024;
/// Sizes of files kept per drive; each takes about 100 bytes.
const CACHED_SIZES: NonZeroUsize = NonZeroUsize::new(32_768).unwrap();
/// Blocks of one map that are asked for at once: one that is too long ends the reading of the map.
const MAP_BLOCKS_AT_ONCE: u64 = 8;
/// Blocks looked at one by one for one [`Segment`].
const MAX_LOOKED_AT: usize = 256;

/// Where a map is: an extent without the size of its file.
type Key = (u64, u64, u64, u64);

fn key(extent: &Extent) -> Key {
    (extent.block, extent.blocks, extent.byte, extent.map_size)
}

struct Cache {
    /// The fork counter of the content core when they were read.
    fork: u64,
    maps: LruCache<Key, Arc<BlockMap>>,
    bytes: usize,
    sizes: LruCache<Key, u64>,
    /// Blocks of zeros that this process stored, by their size in bytes.
    zeros: BTreeMap<u64, u64>,
}

impl Cache {
    fn new(fork: u64) -> Self {
        let (maps, sizes) = (LruCache::unbounded(), LruCache::new(CACHED_SIZES));
        Self { fork, maps, bytes: 0, sizes, zeros: BTreeMap::new() }
    }
}

/// The maps of one drive, as far as they were read.
pub(super) struct Maps {
    cache: Mutex<Cache>,
}

/// Refuses a map that no content core can have.
pub(super) fn check(extent: &Extent) -> Result<()> {
    let Extent { block, blocks, byte, map_size, .. } = *extent;
    read::check(&Extent { block, blocks, byte, size: map_size, map_size: 0, holes: 0, fork: 0 })?;
    if blocks > MAX_MAP_BLOCKS || map_size > blocks.saturating_mul(MAX_MAP_BLOCK_BYTES as u64) {
        let what = format!("a block map of {map_size} bytes in {blocks} blocks");
        return Err(Error::Malformed(what));
    }
    Ok(())
}

/// A map that is being put together of its blocks.
#[derive(Default)]
struct Loading {
    map: BlockMap,
    bytes: u64,
}

impl Loading {
    fn push(&mut self, block: bytes::Bytes) -> Result<()> {
        if block.len() > MAX_MAP_BLOCK_BYTES {
            return Err(Error::Malformed(format!("a block map of {} bytes", block.len())));
        }
        self.bytes += block.len() as u64;
        self.map.push(block)
    }

    fn finish(self, extent: &Extent) -> Result<Arc<BlockMap>> {
        if self.bytes != extent.map_size {
            let (bytes, stated) = (self.bytes, extent.map_size);
            return Err(Error::Malformed(format!("a block map of {bytes} bytes, not {stated}")));
        }
        Ok(Arc::new(self.map))
    }
}

impl Maps {
    pub(super) fn new() -> Self {
        Self { cache: Mutex::new(Rank::LEAF, Cache::new(0)) }
    }

    /// The size of the file whose map this is, if it was read before.
    pub(super) fn known_size(&self, content: &Core, extent: &Extent) -> Option<u64> {
        let fork = content.head().fork;
        let mut cache = self.cache.lock();
        if cache.fork != fork {
            *cache = Cache::new(fork);
        }
        cache.sizes.get(&key(extent)).copied()
    }

    /// The map.
    ///
    /// # Errors
    /// `Malformed` or `TooLarge` for one that makes no sense, `Unsupported` for a later version of the format,
    /// those of [`Core::get`].
    pub(super) async fn get(
        &self,
        content: &Core,
        extent: &Extent,
        wait: Wait,
    ) -> Result<Arc<BlockMap>> {
        let fork = content.head().fork;
        if let Some(map) = self.cached(extent, fork) {
            return Ok(map);
        }
        check(extent)?;
        let (mut loading, end) = (Loading::default(), extent.block + extent.blocks);
        let mut wanted: Vec<Ticket> = Vec::new();
        for block in extent.block..end {
            if (block - extent.block).is_multiple_of(MAP_BLOCKS_AT_ONCE) {
                wanted = read::want(content, block..end.min(block + MAP_BLOCKS_AT_ONCE), wait);
            }
            loading.push(content.get(block, wait).await?)?;
        }
        drop(wanted);
        let map = loading.finish(extent)?;
        self.keep(content, extent, &map, fork);
        Ok(map)
    }

    /// The map, if all its blocks are here and make sense.
    fn get_local(&self, content: &Core, extent: &Extent) -> Option<Arc<BlockMap>> {
        let fork = content.head().fork;
        if let Some(map) = self.cached(extent, fork) {
            return Some(map);
        }
        check(extent).ok()?;
        let mut loading = Loading::default();
        for block in extent.block..extent.block + extent.blocks {
            loading.push(content.get_local(block).ok()??).ok()?;
        }
        let map = loading.finish(extent).ok()?;
        self.keep(content, extent, &map, fork);
        Some(map)
    }

    fn cached(&self, extent: &Extent, fork: u64) -> Option<Arc<BlockMap>> {
        let mut cache = self.cache.lock();
        if cache.fork != fork {
            *cache = Cache::new(fork);
        }
        cache.maps.get(&key(extent)).cloned()
    }

    /// Keeps a map that was read when the content core had this fork counter or the next one.
    fn keep(&self, content: &Core, extent: &Extent, map: &Arc<BlockMap>, fork: u64) {
        let unchanged = content.head().fork == fork;
        let mut cache = self.cache.lock();
        if !unchanged || cache.fork != fork {
            return;
        }
        cache.sizes.put(key(extent), map.size());
        if let Some(old) = cache.maps.put(key(extent), Arc::clone(map)) {
            cache.bytes -= old.weight();
        }
        cache.bytes += map.weight();
        while cache.bytes > MAX_CACHED_BYTES {
            match cache.maps.pop_lru() {
                Some((_, old)) => cache.bytes -= old.weight(),
                None => break,
            }
        }
    }

    /// Keeps a map that was just appended here.
    pub(super) fn keep_own(&self, content: &Core, extent: &Extent, map: Arc<BlockMap>) {
        self.keep(content, extent, &map, content.head().fork);
    }

    /// Bytes `range` of the file, cut at its size.
    ///
    /// # Errors
    /// Those of [`Maps::get`]; `Malformed` for a block that is not as long as the map says.
    pub(super) async fn read(
        &self,
        content: &Core,
        extent: &Extent,
        range: Range<u64>,
        wait: Wait,
    ) -> Result<Pieces> {
        let map = self.get(content, extent, wait).await?;
        if map.size() != extent.size {
            return Err(Error::Malformed("a file is not as long as its block map says".into()));
        }
        let range = range.start..range.end.min(extent.size);
        let named: Vec<Piece> = pieces_in(&map, &range).copied().collect();
        let mut found = Pieces::new();
        for part in named.chunks(MAX_BLOCKS_AT_ONCE as usize) {
            let _wanted = want(content, part, wait);
            let last = part.iter().map(|piece| piece.block).max().unwrap_or_default();
            if content.head().length <= last && !wait.is_local() {
                content.longer_than(last, wait).await?;
            }
            content.check_kept(extent.fork, last.saturating_add(1))?;
            for piece in part {
                let bytes = content.get(piece.block, wait).await?;
                if bytes.len() as u64 != piece.bytes {
                    let (block, stated, is) = (piece.block, piece.bytes, bytes.len());
                    let what = format!("content block {block} has {is} bytes, in a map {stated}");
                    return Err(Error::Malformed(what));
                }
                let start = range.start.saturating_sub(piece.start);
                let end = piece.bytes.min(range.end - piece.start);
                // Both are at most the length of a block that is in memory.
                found.push(bytes.slice(start as usize..end as usize));
            }
            content.check_kept(extent.fork, last.saturating_add(1))?;
        }
        Ok(found)
    }

    /// Asks for the bytes without waiting; for the map alone if that is not here.
    pub(super) fn prefetch(
        &self,
        content: &Core,
        extent: &Extent,
        range: Range<u64>,
        urgency: Urgency,
    ) {
        let missing: Vec<u64> = match self.get_local(content, extent) {
            Some(map) => {
                let range = range.start..range.end.min(map.size());
                let missing = missing(content, pieces_in(&map, &range));
                missing.map(|piece| piece.block).take(MAX_WANTED_BLOCKS).collect()
            }
            None if check(extent).is_ok() => {
                let blocks = extent.block..extent.block + extent.blocks;
                blocks.filter(|block| !content.has(*block)).collect()
            }
            None => return,
        };
        content.demand().want_ahead(missing, urgency);
    }

    /// What the file has from `at` on; `None` if the map is not here.
    pub(super) fn segment(&self, content: &Core, extent: &Extent, at: u64) -> Option<Segment> {
        let map = self.get_local(content, extent)?;
        let pieces = map.from(at);
        let mut known: Option<(u64, bool)> = None;
        let (mut kind, mut end, mut looked_at) = (None, at, 0);
        for (n, piece) in pieces.iter().enumerate() {
            let is_hole = match known {
                Some((block, is_hole)) if block == piece.block => is_hole,
                _ => {
                    let again = pieces.get(n + 1).is_some_and(|next| next.block == piece.block);
                    looked_at += 1;
                    is_zeros(content, piece, again)
                }
            };
            if *kind.get_or_insert(is_hole) != is_hole || looked_at > MAX_LOOKED_AT {
                break;
            }
            known = Some((piece.block, is_hole));
            end = piece.start + piece.bytes;
        }
        Some(Segment { is_hole: kind?, end })
    }

    /// The block of `bytes` zeros that holes of this drive share, if one was stored.
    pub(super) fn zeros(&self, content: &Core, bytes: u64) -> Option<u64> {
        let fork = content.head().fork;
        let known = {
            let cache = self.cache.lock();
            cache.zeros.get(&bytes).copied().filter(|_| cache.fork == fork)
        };
        known.filter(|block| content.has(*block))
    }

    /// Keeps the number of a block of `bytes` zeros, of one of [`ZERO_BLOCK_SIZES`].
    pub(super) fn keep_zeros(&self, content: &Core, bytes: u64, block: u64) {
        let fork = content.head().fork;
        let mut cache = self.cache.lock();
        if cache.fork != fork {
            *cache = Cache::new(fork);
        }
        cache.zeros.insert(bytes, block);
    }

    /// How many of the bytes are in blocks that are not here; those of a block that is named several times count once.
    pub(super) fn lacking(&self, content: &Core, extent: &Extent, range: Range<u64>) -> u64 {
        let range = range.start..range.end.min(extent.size);
        let Some(map) = self.get_local(content, extent) else {
            return range.end.saturating_sub(range.start);
        };
        let inside = missing(content, pieces_in(&map, &range))
            .map(|piece| (piece.start + piece.bytes).min(range.end) - piece.start.max(range.start));
        inside.sum()
    }

    /// How many of the bytes are here, and the same share of the blocks of the map.
    pub(super) fn held(&self, content: &Core, extent: &Extent) -> (u64, u64) {
        let Some(map) = self.get_local(content, extent) else { return (0, 0) };
        let here = map.from(0).iter().filter(|piece| content.has(piece.block));
        let bytes: u64 = here.map(|piece| piece.bytes).sum();
        if bytes == map.size() {
            return (bytes, extent.blocks);
        }
        let share = u128::from(extent.blocks) * u128::from(bytes) / u128::from(map.size().max(1));
        (bytes, u64::try_from(share).unwrap_or(extent.blocks))
    }

    /// The blocks that the map names, if it is here.
    pub(super) fn blocks(&self, content: &Core, extent: &Extent) -> Vec<Range<u64>> {
        let Some(map) = self.get_local(content, extent) else { return Vec::new() };
        let mut blocks: Vec<Range<u64>> = Vec::new();
        for Piece { block, .. } in map.from(0) {
            match blocks.last_mut() {
                Some(last) if last.end == *block => last.end += 1,
                Some(last) if last.contains(block) => {}
                _ => blocks.push(*block..block + 1),
            }
        }
        blocks
    }
}

/// Whether the piece is known to be zeros. The tree of an encrypted core tells nothing, so its blocks are read: those as
/// large as only a block of zeros is, or named `again` by the next piece.
fn is_zeros(content: &Core, piece: &Piece, again: bool) -> bool {
    if !content.is_unlocked() {
        let found = content.zero_blocks(piece.block, piece.block + 1);
        return found.is_ok_and(|found| found == (1, piece.bytes));
    }
    let may_be = piece.bytes >= ZERO_BLOCK_SIZES[1] || again;
    let read = may_be.then(|| content.get_local(piece.block).ok().flatten()).flatten();
    read.is_some_and(|bytes| hypermount_core::is_zeros(&bytes))
}

/// The pieces that have bytes of the range.
fn pieces_in<'a>(map: &'a BlockMap, range: &Range<u64>) -> impl Iterator<Item = &'a Piece> {
    let end = range.end;
    let is_empty = range.is_empty();
    let pieces = map.from(range.start).iter();
    pieces.take_while(move |piece| !is_empty && piece.start < end).filter(|piece| piece.bytes > 0)
}

/// Those of the pieces whose blocks are not here, one for each block.
fn missing<'a>(
    content: &Core,
    pieces: impl Iterator<Item = &'a Piece>,
) -> impl Iterator<Item = &'a Piece> {
    let mut seen = HashSet::new();
    pieces.filter(move |piece| !content.has(piece.block) && seen.insert(piece.block))
}

/// Asks for the blocks of these pieces that are missing.
fn want(content: &Core, pieces: &[Piece], wait: Wait) -> Vec<Ticket> {
    if wait.is_local() {
        return Vec::new();
    }
    let demand = content.demand();
    missing(content, pieces.iter()).map(|piece| demand.want(piece.block)).collect()
}
