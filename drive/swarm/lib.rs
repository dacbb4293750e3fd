//! Connections to peers by topic: two hash tables, multicast DNS, dialling, holes through routers,
//! authenticated streams, and the limits on all of it.
//!
//! This package knows no cores and no drives. A caller makes a [`Swarm`], joins topics and dials
//! peers; on each connection runs a [`Protocol`] that the caller hands in. Four rooms have a face
//! of their own, which all packages use: [`compact`], [`crypto`], [`rate`] and [`sync`]. The modules are
//! listed in import order; `scripts/layers.sh` checks it.
#![forbid(unsafe_code)]
#![deny(missing_docs)]
#![warn(unreachable_pub)]

pub mod sync;
pub mod crypto;
pub mod rate;
pub mod compact;
mod kademlia;
mod dht;
mod secret_stream;
mod hyperdht;
mod protomux;
mod udx;
mod network;
#[cfg(fuzzing)]
pub mod fuzzing;

pub use crate::crypto::{DiscoveryKey, PublicKey};
pub use crate::network::{
    BootstrapNode, ChannelEvent, ChannelId, Channels, ChannelsError, ConnectionEnd,
    ConnectionHandle, ConnectionSlot, Dialling, DiscoveryOptions, Ending, FoundBy,
    HyperDhtBootstrapNode, Interest, MAX_STRANGERS, Needs, PUBLIC_HYPERDHT, PeerInfo, Protocol,
    Rates, RemoteId, Stream, Swarm, TooManyTopics, Traffic, Transport, wait_closed, wait_until,
};
pub use crate::rate::RateLimit;
