//! Packets of a peer of Hyperswarm 4 to a datagram stream.

pub use hypermount_swarm::fuzzing::udx::run;
