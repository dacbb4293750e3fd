//! Everything bad that others can send us, from `docs/threats.md`: peers that lie to a reader,
//! clients that attack a server, publishers who sign nonsense, and disks that fail.
//!
//! The command is run as a process of its own, so that what it prints, how long it takes and how
//! much memory it needs are what a user would see.

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
