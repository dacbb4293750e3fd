//! Datagrams to a node of the hash table of Hyperswarm 2, and to a listener for multicast DNS.

pub use hypermount_swarm::fuzzing::packets::run;
