//! The hash table of Hyperswarm 4 (dht-rpc 6, hyperdht 6): a node that asks and answers,
//! without sockets or clocks.
//!
//! Peers are found by topic and by the key of their node. Nodes near a key forward the first messages
//! of a connection to the holder of the key. Not here: datagrams and time, the connections themselves
//! and the holes that are punched for them (`swarm/hyperdht`), and the values that the original can
//! store besides peers (such requests are answered with an error).

pub mod message;
pub mod payload;
pub mod announcement;
mod face;
mod records;
mod reach;
mod sending;
mod node;
#[cfg(test)]
mod network_tests;
#[cfg(test)]
mod node_tests;
#[cfg(test)]
mod router_tests;
#[cfg(test)]
mod vectors;

pub use face::{Answer, Ask, Asked, Event, Outgoing, Reach, RequestId, Role, SocketId};
pub use message::MAX_PACKET;
pub use node::Node;
pub use reach::Samples;
