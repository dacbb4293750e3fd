//! What both hash tables have in common (Kademlia): node ids and their distances, the routing
//! table, walks to a target, and pending requests.
//!
//! Times are passed in. Not here: packets and requests (`dht`, `hyperdht`), sockets and clocks
//! (`network/discovery`).

pub(crate) mod id;
mod address;
mod random_parts;
mod window;
mod tokens;
mod confirmed;
mod topic_store;
mod routing;
mod query;
mod requests;

pub(crate) use address::may_name;
pub(crate) use confirmed::{AMPLIFICATION, Confirmed};
pub(crate) use id::Id;
pub(crate) use query::{Query, QueryId, QueryStep};
pub(crate) use random_parts::RandomParts;
#[cfg(test)]
pub(crate) use requests::MAX_REQUESTS;
pub(crate) use requests::{Due, Patience, Requests};
pub(crate) use routing::{BUCKET, Contact, RoutingTable};
pub(crate) use tokens::Tokens;
pub(crate) use topic_store::{Limits, TopicStore};
pub(crate) use window::Window;
