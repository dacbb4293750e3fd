//! The transports of connections, and how their peers were found.

use std::fmt;

use tokio::net::TcpStream;

use super::candidates::Source;
use super::channels::Channels;

/// What carries a connection. Of two connections to one peer the greater variant is kept: it is the
/// faster one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Transport {
    /// Datagrams of Hyperswarm 4 (UDX over UDP), through routers if necessary.
    HyperDht,
    /// A TCP connection.
    Tcp,
}

/// As in commands' output.
impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Transport::HyperDht => "hyperdht",
            Transport::Tcp => "tcp",
        })
    }
}

/// How a connected peer was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FoundBy {
    /// It dialled us.
    Incoming,
    /// A local caller named its address.
    Given,
    /// Multicast DNS named it.
    Lan,
    /// The hash table of Hyperswarm 2 named it.
    Dht,
    /// HyperDHT 6 named it.
    HyperDht,
    /// It named its TCP address over another connection.
    Itself,
}

impl From<Source> for FoundBy {
    fn from(source: Source) -> Self {
        match source {
            Source::Lan(_) => FoundBy::Lan,
            Source::Node(_) => FoundBy::Dht,
            Source::HyperNode(_) => FoundBy::HyperDht,
            Source::Itself(_) => FoundBy::Itself,
        }
    }
}

/// As in commands' output.
impl fmt::Display for FoundBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            FoundBy::Incoming => "incoming",
            FoundBy::Given => "given",
            FoundBy::Lan => "lan",
            FoundBy::Dht => "dht",
            FoundBy::HyperDht => "hyperdht",
            FoundBy::Itself => "told",
        })
    }
}

/// What a connection offers to the [`Protocol`](crate::Protocol), which authenticates the peer.
#[allow(clippy::large_enum_variant)] // One per connection.
pub enum Stream {
    /// An ordered, reliable stream of bytes in both directions, for hypercore-protocol 8.
    Tcp(TcpStream),
    /// An encrypted connection of Hyperswarm 4, over HyperDHT or TCP. The peer has proved a key.
    Channels(Channels),
}
