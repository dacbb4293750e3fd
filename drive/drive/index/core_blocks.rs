//! What every index does with the blocks of its core.
//!
//! Not here: what a block says, and which blocks a look-up needs.

use bytes::Bytes;

use hypermount_core::{Core, Ticket, Wait};

/// Requests blocks from peers, together. They are wanted until what is returned is dropped; none of them is
/// kept by it. With [`Wait::Local`] nothing is requested.
pub(super) fn want(core: &Core, seqs: impl Iterator<Item = u64>, wait: Wait) -> Vec<Ticket> {
    if wait.is_local() {
        return Vec::new();
    }
    let demand = core.demand();
    seqs.map(|seq| demand.want_stored(seq)).collect()
}

/// A part of a block of `block_length` bytes that is to be kept: a copy if it would keep a block in memory
/// that is much larger.
pub(super) fn detached(part: Bytes, block_length: usize) -> Bytes {
    if part.len() < block_length / 2 { Bytes::copy_from_slice(&part) } else { part }
}
