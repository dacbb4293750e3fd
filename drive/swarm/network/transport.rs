//! What a connection's bytes go over, and how its peer came to us.

use std::fmt;

use tokio::io::DuplexStream;
use tokio::net::TcpStream;

use super::candidates::Source;

/// In the order of preference, last first: of two connections to a peer the faster one is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Transport {
    /// Datagrams, through routers where need be.
    HyperDht,
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

/// How we came to dial a peer, or that it dialled us.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Way {
    /// It dialled us.
    Incoming,
    /// A local caller named it.
    Given,
    Lan,
    Dht,
    HyperDht,
    /// It told its address over another connection.
    Itself,
}

impl From<Source> for Way {
    fn from(source: Source) -> Self {
        match source {
            Source::Lan(_) => Way::Lan,
            Source::Node(_) => Way::Dht,
            Source::HyperNode(_) => Way::HyperDht,
            Source::Itself(_) => Way::Itself,
        }
    }
}

/// As in commands' output.
impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Way::Incoming => "incoming",
            Way::Given => "given",
            Way::Lan => "lan",
            Way::Dht => "dht",
            Way::HyperDht => "hyperdht",
            Way::Itself => "told",
        })
    }
}

/// An ordered stream of bytes to a peer.
pub enum Stream {
    Tcp(TcpStream),
    /// In a channel of a HyperDHT connection, which a task of its own serves.
    Carried(DuplexStream),
}
