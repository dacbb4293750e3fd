//! A reliable stream of bytes in datagrams, as Hyperswarm 4 has it (libudx): packets and time
//! in, packets and bytes out.
//!
//! Everything that the remote controls has a bound: what is kept of it (`WINDOW`, `RESERVE`), how
//! far ahead it may be (`MAX_AHEAD`), what it does not acknowledge (`SEND_BUFFER`, `MAX_UNACKED`),
//! and how long it may be silent (`SILENCE`). A peer that does not read is sent
//! no more.
//!
//! Not here: sockets and addresses, clocks, encryption, and the unreliable messages that the
//! reference can send besides (they are ignored). Packets stay at 1200 bytes: a packet keeps its
//! number when it is sent again, so that one which has become too long for its way could never
//! be cut smaller, and the stream would be stuck for good.

mod header;
mod receive;
mod round_trip;
mod pacing;
mod congestion;
mod outgoing;
mod flight;
mod send;
mod stream;

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod stream_tests;
#[cfg(test)]
mod hostile_tests;

#[cfg(fuzzing)]
pub(crate) use flight::MAX_UNACKED;
pub(crate) use header::stream_of;
pub(crate) use outgoing::SEND_BUFFER;
#[cfg(fuzzing)]
pub(crate) use receive::RESERVE;
#[cfg(any(test, fuzzing))]
pub(crate) use receive::WINDOW;
#[cfg(test)]
pub(crate) use stream::SILENCE;
pub(crate) use stream::{Failure, Stream};
