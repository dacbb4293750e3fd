//! All hostile input of `docs/threats.md`: peers that lie to a reader, clients that attack a
//! server, publishers who sign nonsense, and disks that fail.
//!
//! The command runs as a process of its own, so its output, time and memory are those that a user
//! would see.

#[path = "../common/mod.rs"]
mod common;
mod damage;
mod fixture;
mod flood;
mod liar;
mod publisher;
mod reader;
mod server;
mod strangers;
mod wire;
