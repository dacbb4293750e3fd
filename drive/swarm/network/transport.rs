//! The transports of connections, and how their peers were found.

use std::fmt;

use tokio::io::DuplexStream;
use tokio::net::TcpStream;

use super::candidates::Source;

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

/// An ordered, reliable stream of bytes to a peer, in both directions. The [`Protocol`](crate::Protocol)
/// authenticates the peer.
pub enum Stream {
    /// A TCP connection.
    Tcp(TcpStream),
    /// A channel of an encrypted connection of Hyperswarm 4, which a task of its own serves.
    Carried(DuplexStream),
}
