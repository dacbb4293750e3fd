//! XSalsa20 as one endless key stream per direction (§3). It hides, it does not authenticate.

use salsa20::XSalsa20;
use salsa20::cipher::{KeyIvInit, StreamCipher as _};

/// Length in bytes of the nonce each side sends in its handshake payload.
pub const NONCE_LENGTH: usize = 24;

/// One direction's key stream; encrypting and decrypting are the same operation.
pub struct StreamCipher(XSalsa20);

impl StreamCipher {
    pub fn new(key: &[u8; 32], nonce: &[u8; NONCE_LENGTH]) -> Self {
        Self(XSalsa20::new(key.into(), nonce.into()))
    }

    /// XORs the next `bytes.len()` bytes of the key stream into `bytes`.
    pub fn apply(&mut self, bytes: &mut [u8]) {
        self.0.apply_keystream(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
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
