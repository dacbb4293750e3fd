//! Hyperbee: a key/value index in one core, a B-tree of which each change appends the nodes it rewrote.
//!
//! [`tree::Tree`] is one version of the index; it reads. What Hyperdrive 11 to 13 stores in one is above
//! it: names in [`list`], values in [`entry`], and the maps of deduplicated files in [`map`].
//!
//! What a publisher signed is not trusted to make sense. A tree node may only point to blocks that are not
//! newer, and every key has to lie between those that lead to it. A walk therefore meets no key twice,
//! and ends.
#![cfg_attr(
    not(test),
    expect(
        dead_code,
        reason = "Index gets a variant for it with the cores of Hypercore 10 and 11"
    )
)]

pub(crate) mod block;
pub(crate) mod blocks;
pub(crate) mod tree;
pub(crate) mod diff;
pub(crate) mod entry;
pub(crate) mod list;
pub(crate) mod map;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tree_tests;
