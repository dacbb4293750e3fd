//! The channel `hypercore/alpha` of Hypercore 10 and 11: bytes to messages and back.
//!
//! One protomux channel replicates one core. [`message`] has what travels on it after it was opened and
//! the handshake with which it is opened. All that a peer claims is counted before it is kept.
//!
//! Not here: protomux (in `swarm`), what a message means for a core, and whether a proof is right.

pub(crate) mod message;
#[cfg(test)]
mod message_tests;
