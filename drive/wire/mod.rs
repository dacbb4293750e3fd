//! hypercore-protocol 8 without sockets: bytes in, messages out, and back. (wire helper)

pub mod message;
