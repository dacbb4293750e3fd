//! The map of a deduplicated file: the blocks of the content core that hold its bytes, in order, which may
//! lie anywhere and occur several times.

use bytes::{Bytes, BytesMut};

use hypermount_core::{Error, MAX_BLOCK_SIZE, MAX_CORE_LENGTH, Result};
use hypermount_swarm::compact::{CutOff, put_uint, take_uint};

/// Version of the format.
const VERSION: u64 = 0;
/// Most blocks of one map. The reference writes no more.
pub(crate) const MAX_MAP_BLOCKS: u64 = 64;
/// Most pieces in one block of a map, likewise.
const MAX_PIECES: u64 = 8192;
/// Most pieces of a map.
pub(crate) const MAX_MAP_PIECES: u64 = MAX_MAP_BLOCKS * MAX_PIECES;
/// Longest block of a map, in bytes: two numbers, then two for each piece, of at most 9 bytes.
pub(crate) const MAX_MAP_BLOCK_BYTES: usize = 18 * (1 + MAX_PIECES as usize);

/// One block with bytes of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    /// Its number in the content core.
    pub(crate) block: u64,
    /// Offset of its first byte in the file.
    pub(crate) start: u64,
    /// Its length in bytes.
    pub(crate) bytes: u64,
}

/// The pieces of a file, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct BlockMap {
    pieces: Vec<Piece>,
    blocks: u64,
}

impl BlockMap {
    /// Adds the pieces in the next block of the map.
    ///
    /// # Errors
    /// `Malformed` for bytes that are none, or numbers that no content core can have; `Unsupported` for
    /// a later version; `TooLarge` for more than a limit above.
    pub(crate) fn push(&mut self, mut block: Bytes) -> Result<()> {
        let from = &mut block;
        let cut_off = |error: CutOff| Error::Malformed(format!("block map: {error}"));
        let version = take_uint(from).map_err(cut_off)?;
        if version != VERSION {
            return Err(Error::Unsupported(format!("block maps of version {version}")));
        }
        let count = take_uint(from).map_err(cut_off)?;
        if count > MAX_PIECES || self.blocks == MAX_MAP_BLOCKS {
            let what = format!("a block map of more than {MAX_MAP_BLOCKS} * {MAX_PIECES} blocks");
            return Err(Error::TooLarge(what));
        }
        for _ in 0..count {
            let block = take_uint(from).map_err(cut_off)?;
            let bytes = take_uint(from).map_err(cut_off)?;
            if block >= MAX_CORE_LENGTH || bytes > MAX_BLOCK_SIZE as u64 {
                return Err(Error::Malformed(format!("block map: {bytes} bytes in block {block}")));
            }
            self.pieces.push(Piece { block, start: self.size(), bytes });
        }
        if !from.is_empty() {
            return Err(Error::Malformed(format!("block map: {} bytes follow it", from.len())));
        }
        self.blocks += 1;
        Ok(())
    }

    /// Adds a piece at the end.
    pub(crate) fn add(&mut self, block: u64, bytes: u64) {
        self.pieces.push(Piece { block, start: self.size(), bytes });
        self.blocks = (self.pieces.len() as u64).div_ceil(MAX_PIECES);
    }

    /// The blocks of the map, of at most [`MAX_MAP_PIECES`] pieces that were added.
    pub(crate) fn encode(&self) -> Vec<Bytes> {
        let encode = |pieces: &[Piece]| {
            let mut block = BytesMut::new();
            put_uint(VERSION, &mut block);
            put_uint(pieces.len() as u64, &mut block);
            for piece in pieces {
                put_uint(piece.block, &mut block);
                put_uint(piece.bytes, &mut block);
            }
            block.freeze()
        };
        self.pieces.chunks(MAX_PIECES as usize).map(encode).collect()
    }

    /// Roughly what it takes in memory, in bytes.
    pub(crate) fn weight(&self) -> usize {
        size_of::<Self>() + self.pieces.capacity() * size_of::<Piece>()
    }

    /// The size of the file, in bytes.
    pub(crate) fn size(&self) -> u64 {
        // At most 64 * 8192 pieces of 8 MiB: 2^42.
        self.pieces.last().map_or(0, |piece| piece.start + piece.bytes)
    }

    /// The pieces that hold bytes from `start` on, in order.
    pub(crate) fn from(&self, start: u64) -> &[Piece] {
        let first = self.pieces.partition_point(|piece| piece.start + piece.bytes <= start);
        &self.pieces[first..]
    }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use hypermount_swarm::compact::put_uint;
    use proptest::prelude::*;

    use super::*;
    use crate::index::trie::vectors;

    fn block(numbers: &[u64]) -> Bytes {
        let mut block = BytesMut::new();
        numbers.iter().for_each(|number| put_uint(*number, &mut block));
        block.freeze()
    }

    #[test]
    fn the_recorded_map_lists_the_blocks_of_its_file() {
        let drive = vectors::load("modern/drive.json");
        let blocks = drive["blobBlocks"].as_array().unwrap();
        let data = |at: u64| hex::decode(blocks[at as usize]["data"].as_str().unwrap()).unwrap();
        let mut files = 0;
        for file in drive["entries"].as_array().unwrap() {
            let blob = &file["value"]["blob"];
            if blob["blockMap"] != true {
                continue;
            }
            let mut map = BlockMap::default();
            map.push(data(blob["blockOffset"].as_u64().unwrap()).into()).unwrap();
            assert_eq!(map.size(), file["contentLength"].as_u64().unwrap());
            let mut content = Vec::new();
            for piece in map.from(0) {
                assert_eq!(piece.start, content.len() as u64);
                let bytes = data(piece.block);
                assert_eq!(piece.bytes, bytes.len() as u64);
                content.extend(bytes);
            }
            let hash = hypermount_swarm::crypto::blake2b(&[&content]);
            assert_eq!(hex::encode(hash), file["contentHash"].as_str().unwrap());
            files += 1;
        }
        assert_eq!(files, 1);
    }

    #[test]
    fn pieces_are_found_by_their_bytes() {
        let mut map = BlockMap::default();
        map.push(block(&[0, 3, 7, 10, 7, 0, 2, 5])).unwrap();
        map.push(block(&[0, 1, 9, 1])).unwrap();
        assert_eq!(map.size(), 16);
        let first = |start| map.from(start).first().map(|piece| (piece.block, piece.start));
        assert_eq!(first(0), Some((7, 0)));
        assert_eq!(first(9), Some((7, 0)));
        assert_eq!(first(10), Some((2, 10)));
        assert_eq!(first(15), Some((9, 15)));
        assert_eq!(first(16), None);
        assert_eq!(first(u64::MAX), None);
    }

    #[test]
    fn maps_that_make_no_sense_are_refused() {
        let push = |numbers: &[u64]| BlockMap::default().push(block(numbers));
        assert!(push(&[0, 0]).is_ok());
        assert!(matches!(push(&[1, 0]), Err(Error::Unsupported(_))));
        assert!(matches!(push(&[0, 8193]), Err(Error::TooLarge(_))));
        for numbers in [
            &[][..],
            &[0],
            &[0, 1],
            &[0, 1, 2],
            &[0, 1, 2, 3, 4],
            &[0, 1, MAX_CORE_LENGTH, 3],
            &[0, 1, 2, MAX_BLOCK_SIZE as u64 + 1],
        ] {
            assert!(matches!(push(numbers), Err(Error::Malformed(_))), "{numbers:?}");
        }
        let mut map = BlockMap::default();
        for _ in 0..MAX_MAP_BLOCKS {
            map.push(block(&[0, 0])).unwrap();
        }
        assert!(matches!(map.push(block(&[0, 0])), Err(Error::TooLarge(_))));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_are_a_map_or_an_error(
            bytes in prop::collection::vec(any::<u8>(), 0..100),
        ) {
            let mut map = BlockMap::default();
            if map.push(bytes.into()).is_ok() {
                let sum: u64 = map.from(0).iter().map(|piece| piece.bytes).sum();
                prop_assert_eq!(sum, map.size());
            }
        }
    }
}
