//! What both hash tables have in common (Kademlia): node ids and their distances, the routing
//! table, walks to a target, and pending requests.
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
