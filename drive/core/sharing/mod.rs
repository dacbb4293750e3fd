//! Which cores are shared on which connection (skeleton: see split-plan.md section 2).

mod hints;
mod replication;
mod connection;
#[cfg(test)]
mod limit_tests;

pub use hints::{Answered, ExtensionRequest};

pub const MAX_HUSHED: usize = 4096;
pub enum Share {}
pub struct SharingOptions {}
pub struct Holding {}
pub struct Sharing {}
pub(crate) struct Inner {}
pub(crate) enum Command {}
