//! Messages of a peer of Hyperswarm 4 inside the encrypted connection.

pub use hypermount_swarm::fuzzing::protomux::run;
