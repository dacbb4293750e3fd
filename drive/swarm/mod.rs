//! Connections to peers. (lead)

pub struct Swarm {}
