//! Datagrams to a node of HyperDHT 6, and the values inside them.

pub use hypermount_swarm::fuzzing::hyperdht::run;
