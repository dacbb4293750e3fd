//! The daemon as users run it: a real process per test, in directories of its own, with real mounts
//! and sockets. A test that needs /dev/fuse prints a message and passes where there is none.

#[path = "../common/mod.rs"]
mod common;

mod api;
mod client;
mod everything;
mod inherited;
mod insight;
mod life;
mod saved;
mod sharing;
mod soak;
mod steps;
