//! Zeros, of which the blocks are that holes of files become: their bytes, which take no memory, and the sizes of such
//! blocks.
//!
//! Not here: their hashes (`tree_hash.rs`), which stored blocks are zeros (`holes.rs`), and which parts of a file are
//! holes (`drive/drive/hyperdrive/holes.rs`).

use bytes::Bytes;

/// Sizes in bytes of the blocks of zeros that holes are made of, the largest first. A reader fetches and verifies a block
/// as a whole, and a message of the wire protocols holds 8 MiB.
pub const ZERO_BLOCK_SIZES: [u64; 3] = [4 * 1024 * 1024, 1024 * 1024, 64 * 1024];
/// Bytes of the shortest run of zeros that is stored as a hole: what file systems make holes of.
pub(super) const MIN_ZEROS: usize = 4096;

/// Neither in the file of the program, nor in memory before it is read.
static ZEROS: [u8; ZERO_BLOCK_SIZES[0] as usize] = [0; ZERO_BLOCK_SIZES[0] as usize];

/// Zeros, at most [`ZERO_BLOCK_SIZES`]`[0]` bytes. They take no memory.
pub fn zeros(length: u64) -> Bytes {
    Bytes::from_static(&ZEROS[..length.min(ZERO_BLOCK_SIZES[0]) as usize])
}

/// Whether the bytes are a part of [`zeros`].
pub(super) fn are_shared(bytes: &[u8]) -> bool {
    ZEROS.as_ptr_range().contains(&bytes.as_ptr())
}

/// Whether all bytes are zeros. Takes no time for a part of [`zeros`], nor for bytes of which the first is another value.
pub fn is_zeros(bytes: &[u8]) -> bool {
    if are_shared(bytes) {
        return true;
    }
    let (words, rest) = bytes.as_chunks::<16>();
    words.iter().all(|word| u128::from_ne_bytes(*word) == 0) && rest.iter().all(|byte| *byte == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeros_are_told_from_other_bytes() {
        assert!(is_zeros(&[]) && is_zeros(&zeros(17)) && is_zeros(&vec![0; 4099]));
        for at in [0, 15, 16, 4095, 4098] {
            let mut bytes = vec![0; 4099];
            bytes[at] = 1;
            assert!(!is_zeros(&bytes), "{at}");
        }
        assert_eq!(zeros(u64::MAX).len() as u64, ZERO_BLOCK_SIZES[0]);
    }
}
