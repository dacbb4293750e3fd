//! Hyperbee: a key/value index in one core, a B-tree of which each change appends the nodes it rewrote.
//!
//! [`tree::Tree`] is one version of the index; it reads. What Hyperdrive 11 to 13 stores in one is above
//! it: names in [`list`], values in [`entry`], what a filesystem shows of both in [`files`], and the maps of
//! deduplicated files in [`map`]. [`batch`] writes, and [`records`] keeps what the format has no entries for. A writer that
//! is only for tests is in `writer.rs`.
//!
//! What a publisher signed is not trusted to make sense. A tree node may only point to blocks that are not
//! newer, and every key has to lie between those that lead to it. A walk therefore meets no key twice,
//! and ends.

pub(crate) mod block;
pub(crate) mod blocks;
pub(crate) mod tree;
pub(crate) mod diff;
mod time;
mod metadata;
pub(crate) mod entry;
pub(crate) mod links;
mod list;
mod ahead;
pub(crate) mod batch;
pub(crate) mod files;
mod records;
pub(crate) mod map;
pub(crate) mod responder;
#[cfg(any(test, debug_assertions))]
pub(crate) mod writer;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod batch_tests;
#[cfg(test)]
mod tree_tests;
