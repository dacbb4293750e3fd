//! The daemon as its users meet it: a real process per test, in directories of its own, with real
//! mounts and sockets. What needs /dev/fuse says so and does nothing where there is none.

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
