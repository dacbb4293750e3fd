//! The run-length bitfield: decoding is bounded, and a decoded field must encode and decode to
//! itself.

use hypermount_core::wire::run_length::{MAX_UNFOLDED, decode, encode};

pub fn run(input: &[u8]) {
    let Ok(mut bits) = decode(input, MAX_UNFOLDED) else { return };
    assert!(bits.len() <= MAX_UNFOLDED);
    let folded = encode(&bits);
    while bits.last() == Some(&0) {
        bits.pop();
    }
    assert_eq!(decode(&folded, MAX_UNFOLDED).expect("we wrote it"), bits);
}
