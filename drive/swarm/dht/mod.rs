//! The distributed hash table of Hyperswarm 2 (dht-rpc 4): a node that asks and answers, without
//! sockets or clocks.
//!
//! The nodes whose ids are near a topic store its peers. A lookup walks to those nodes; an announcement
//! stores an address with them for some minutes. Not here: datagrams and time (`network/discovery`),
//! the values that the original can store besides peers (such requests are answered "Unsupported
//! command"), and uTP.

pub(crate) mod message;
mod announcements;
mod purpose;
mod node;

#[cfg(test)]
mod network_tests;
#[cfg(test)]
mod node_tests;

pub(crate) use message::MAX_PACKET;
pub(crate) use node::{DhtNode, Event};
pub(crate) use purpose::Goal;
