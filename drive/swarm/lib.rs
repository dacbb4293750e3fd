//! Connections to peers by topic: two hash tables, multicast DNS, dialling, holes through routers,
//! authenticated streams, and the limits on all of it.
//!
//! This package knows no cores and no drives. What runs on a connection is a
//! [`Protocol`](network::Protocol) that the layer above hands in. The modules are listed in import
//! order; `scripts/layers.sh` checks it.
#![forbid(unsafe_code)]

pub mod sync;
pub mod crypto;
pub mod rate;
pub mod compact;
pub mod kademlia;
pub mod dht;
pub mod secret_stream;
pub mod hyperdht;
pub mod protomux;
pub mod udx;
pub mod network;

pub use crate::crypto::{DiscoveryKey, PublicKey};
pub use crate::network::Swarm;
pub use crate::rate::{Limit, Rate};
