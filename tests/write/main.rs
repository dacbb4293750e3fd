//! Writing through real mounts of one's own drive. Needs `/dev/fuse`; says so and passes where there
//! is none.

#[path = "../common/mod.rs"]
mod common;

mod crash;
mod crowd;
mod faults;
mod full;
mod live;
mod model;
mod others;
mod own;
mod posix;
mod programs;
mod promises;
mod set_ids;
mod sharing;
mod steps;
