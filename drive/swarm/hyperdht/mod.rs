//! The hash table of Hyperswarm 4 (dht-rpc 6, hyperdht 6): a node that asks and answers,
//! without sockets or clocks.
//!
//! Peers are found by topic and by the key of their node. Nodes near a key forward the first messages
//! of a connection to the holder of the key. Not here: datagrams and time, connections and hole
//! punching (`network/hyperdht`), and the values that the original can store besides peers (such
//! requests are answered with an error).

pub(crate) mod message;
pub(crate) mod payload;
pub(crate) mod announcement;
mod interface;
mod records;
mod reachability;
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

pub(crate) use interface::{Answer, Ask, Asked, Event, Reachability, RequestId, Role, SocketId};
pub(crate) use node::HyperDhtNode;
pub(crate) use reachability::Samples;
