//! XSalsa20 as one endless key stream per direction (wire8.md §3). It hides, it does not
//! authenticate: nothing may be believed because it came through here.
//!
//! Eight 64-byte blocks are computed side by side in vector registers, because the stream cipher
//! is the most expensive step of a transfer: see docs/decisions for the measurement against the
//! `salsa20` crate, which stays as the key setup and as the tests' oracle.

use salsa20::cipher::consts::U10;
use wide::u32x8;

/// Length in bytes of the nonce each side sends in its handshake payload.
pub const NONCE_LENGTH: usize = 24;
const BLOCK_BYTES: usize = 64;
const LANES: usize = 8;
/// Key stream computed at once, in bytes.
const STRIDE: usize = BLOCK_BYTES * LANES;
/// "expand 32-byte k", the constant of the Salsa20 state.
const SIGMA: [u32; 4] = [0x6170_7865, 0x3320_646e, 0x7962_2d32, 0x6b20_6574];

/// One direction's key stream; encrypting and decrypting are the same operation.
pub struct StreamCipher {
    state: [u32; 16],
    /// Number of the next 64-byte block to compute.
    counter: u64,
    /// Key stream computed but not yet used: `pending[used..]`.
    pending: [u8; STRIDE],
    used: usize,
}

impl StreamCipher {
    /// XSalsa20 with this key and nonce, at the start of its key stream.
    pub fn new(key: &[u8; 32], nonce: &[u8; NONCE_LENGTH]) -> Self {
        let (input, rest) = nonce.split_first_chunk::<16>().expect("a nonce has 24 bytes");
        let subkey: [u8; 32] = salsa20::hsalsa::<U10>(key.into(), input.into()).into();
        let word = |bytes: &[u8], index: usize| {
            u32::from_le_bytes(std::array::from_fn(|byte| bytes[index * 4 + byte]))
        };
        let key = |index| word(&subkey, index);
        let state = [
            SIGMA[0],
            key(0),
            key(1),
            key(2),
            key(3),
            SIGMA[1],
            word(rest, 0),
            word(rest, 1),
            0,
            0,
            SIGMA[2],
            key(4),
            key(5),
            key(6),
            key(7),
            SIGMA[3],
        ];
        Self { state, counter: 0, pending: [0; STRIDE], used: STRIDE }
    }

    /// XORs the next `bytes.len()` bytes of the key stream into `bytes`.
    pub fn apply(&mut self, bytes: &mut [u8]) {
        let left = (STRIDE - self.used).min(bytes.len());
        let (head, rest) = bytes.split_at_mut(left);
        self.apply_pending(head);
        let (strides, tail) = rest.as_chunks_mut::<STRIDE>();
        for stride in strides {
            self.next_stride(|lane, half, stream| {
                let at = lane * BLOCK_BYTES + half * 32;
                for (byte, key) in stride[at..at + 32].iter_mut().zip(stream) {
                    *byte ^= key;
                }
            });
        }
        if !tail.is_empty() {
            let mut pending = [0; STRIDE];
            self.next_stride(|lane, half, stream| {
                let at = lane * BLOCK_BYTES + half * 32;
                pending[at..at + 32].copy_from_slice(&stream);
            });
            self.pending = pending;
            self.used = 0;
            self.apply_pending(tail);
        }
    }

    fn apply_pending(&mut self, bytes: &mut [u8]) {
        for (byte, key) in bytes.iter_mut().zip(&self.pending[self.used..]) {
            *byte ^= key;
        }
        self.used += bytes.len();
    }

    /// Computes the next eight blocks and hands out each half block as (lane, half, bytes).
    #[inline(always)]
    fn next_stride(&mut self, mut take: impl FnMut(usize, usize, [u8; 32])) {
        let counters: [u64; LANES] = std::array::from_fn(|lane| self.counter + lane as u64);
        let mut start: [u32x8; 16] = self.state.map(u32x8::splat);
        start[8] = u32x8::new(counters.map(|counter| counter as u32));
        start[9] = u32x8::new(counters.map(|counter| (counter >> 32) as u32));
        let mixed = twenty_rounds(start);
        let sum: [u32x8; 16] = std::array::from_fn(|word| mixed[word] + start[word]);
        for half in 0..2 {
            let words = std::array::from_fn(|word| sum[half * 8 + word]);
            for (lane, words) in u32x8::transpose(words).into_iter().enumerate() {
                let words = words.to_array();
                let mut bytes = [0; 32];
                for (bytes, word) in bytes.chunks_exact_mut(4).zip(words) {
                    bytes.copy_from_slice(&word.to_le_bytes());
                }
                take(lane, half, bytes);
            }
        }
        self.counter += LANES as u64;
    }
}

#[inline(always)]
fn rotated<const BITS: u32>(words: u32x8) -> u32x8 {
    (words << BITS) | (words >> (32 - BITS))
}

/// The Salsa20 core without the final addition, on eight states at once.
#[inline(always)]
fn twenty_rounds(state: [u32x8; 16]) -> [u32x8; 16] {
    let [
        mut x0,
        mut x1,
        mut x2,
        mut x3,
        mut x4,
        mut x5,
        mut x6,
        mut x7,
        mut x8,
        mut x9,
        mut x10,
        mut x11,
        mut x12,
        mut x13,
        mut x14,
        mut x15,
    ] = state;
    macro_rules! quarter {
        ($a:ident, $b:ident, $c:ident, $d:ident) => {
            $b ^= rotated::<7>($a + $d);
            $c ^= rotated::<9>($b + $a);
            $d ^= rotated::<13>($c + $b);
            $a ^= rotated::<18>($d + $c);
        };
    }
    for _ in 0..10 {
        quarter!(x0, x4, x8, x12);
        quarter!(x5, x9, x13, x1);
        quarter!(x10, x14, x2, x6);
        quarter!(x15, x3, x7, x11);
        quarter!(x0, x1, x2, x3);
        quarter!(x5, x6, x7, x4);
        quarter!(x10, x11, x8, x9);
        quarter!(x15, x12, x13, x14);
    }
    [x0, x1, x2, x3, x4, x5, x6, x7, x8, x9, x10, x11, x12, x13, x14, x15]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    use salsa20::cipher::{KeyIvInit, StreamCipher as _};

    proptest! {
        #[test]
        fn the_key_stream_is_xsalsa20(
            key: [u8; 32],
            nonce: [u8; NONCE_LENGTH],
            mut bytes in proptest::collection::vec(any::<u8>(), 0..3 * STRIDE),
        ) {
            let mut expected = bytes.clone();
            salsa20::XSalsa20::new(&key.into(), &nonce.into()).apply_keystream(&mut expected);
            StreamCipher::new(&key, &nonce).apply(&mut bytes);
            prop_assert_eq!(bytes, expected);
        }

        #[test]
        fn the_block_counter_carries_into_its_high_word(key: [u8; 32], nonce: [u8; NONCE_LENGTH]) {
            use salsa20::cipher::StreamCipherSeek;
            let start = u64::from(u32::MAX) - 3;
            let mut expected = [0; 2 * STRIDE];
            let mut oracle = salsa20::XSalsa20::new(&key.into(), &nonce.into());
            oracle.seek(start * BLOCK_BYTES as u64);
            oracle.apply_keystream(&mut expected);
            let mut ours = [0; 2 * STRIDE];
            let mut cipher = StreamCipher::new(&key, &nonce);
            cipher.counter = start;
            cipher.apply(&mut ours);
            prop_assert_eq!(ours, expected);
        }

        #[test]
        fn pieces_make_the_same_stream_as_the_whole(
            cuts in proptest::collection::vec(0..130usize, 0..12),
            key: [u8; 32],
            nonce: [u8; NONCE_LENGTH],
        ) {
            let mut whole = vec![0; cuts.iter().sum()];
            StreamCipher::new(&key, &nonce).apply(&mut whole);
            let mut pieces = vec![0; whole.len()];
            let mut cipher = StreamCipher::new(&key, &nonce);
            let mut rest = pieces.as_mut_slice();
            for cut in cuts {
                let (piece, after) = rest.split_at_mut(cut);
                cipher.apply(piece);
                rest = after;
            }
            prop_assert_eq!(pieces, whole);
        }
    }
}
