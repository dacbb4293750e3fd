//! Writing through real mounts of a writable drive. Needs `/dev/fuse`; without it, prints a message
//! and passes.

#[path = "../common/mod.rs"]
mod common;

mod crash;
mod crowd;
mod edits;
mod faults;
mod format13;
mod full;
mod holes;
mod kept;
mod links;
mod live;
mod model;
mod others;
mod own;
mod posix;
mod programs;
mod promises;
mod set_ids;
mod sharing;
mod signals;
mod steps;
