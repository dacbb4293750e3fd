//! The handshake of a peer of Hyperswarm 4, and the bytes of its encrypted stream after it.

pub use hypermount_swarm::fuzzing::secret_stream::run;
