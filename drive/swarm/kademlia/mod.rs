//! What both hash tables of the network have in common (Kademlia): names of nodes and how near they
//! are to each other, who is remembered, how a target is walked to, and what is waited for.
//!
//! Pure bookkeeping in given time. Not here: packets and what is asked with them (`dht`,
//! `hyperdht`), sockets and clocks (`swarm/discovery`).

pub mod id;
mod address;
mod chosen;
mod window;
mod tokens;
mod confirmed;
mod shelves;
mod routing;
mod query;
mod requests;

pub use address::may_name;
pub use chosen::Chosen;
pub use confirmed::{AMPLIFICATION, Confirmed};
pub use id::Id;
pub use query::{MAX_ASKED, MAX_CONTACTS, QUERY_WITHIN, Query, QueryId, Step};
pub use requests::{Due, MAX_REQUESTS, Patience, Requests};
pub use routing::{BUCKET, BUCKETS, Contact, RoutingTable};
pub use shelves::{Limits, Shelves};
pub use tokens::Tokens;
pub use window::Window;
