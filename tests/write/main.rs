//! Writing through real mounts of one's own drive. Needs `/dev/fuse`; says so and passes where there
//! is none.

#[path = "../common/mod.rs"]
mod common;

mod crash;
mod crowd;
mod live;
mod model;
mod own;
mod posix;
mod programs;
mod sharing;
mod steps;
