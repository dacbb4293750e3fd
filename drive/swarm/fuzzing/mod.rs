//! The fuzz targets for the decoders and state machines of this package. `tests/fuzz` runs them; no
//! other build contains them. Each takes any bytes and panics if an invariant is broken.

pub mod packets;
pub mod secret_stream;
pub mod hyperdht;
pub mod protomux;
pub mod udx;
