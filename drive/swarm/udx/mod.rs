//! The reliable datagram stream of Hyperswarm 4 (libudx): packets and time in, packets and bytes out.
//!
//! Everything that the remote controls has a bound: received bytes that are kept (`WINDOW`,
//! `RESERVE`), sequence numbers ahead (`MAX_AHEAD`), unacknowledged bytes and packets (`SEND_BUFFER`,
//! `MAX_UNACKED`), and the time of its silence (`SILENCE`). The sender stops when the remote does not
//! read.
//!
//! Not here: sockets and addresses, clocks, encryption, and the unreliable messages that the
//! reference can send besides (they are ignored). Packets stay at 1200 bytes: a packet keeps its
//! sequence number and its bytes when it is sent again, so one that is too long for a new path could
//! not be split, and the stream would stall.

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
