//! What the node asks others for, and how long it waits for each answer.

use std::net::SocketAddrV4;
use std::time::Duration;

use crate::kademlia::{Id, Patience, QueryId};

/// Two of the original's ticks of 750 ms before a request is sent again; its referrer is asked to
/// help before that.
pub(crate) const PATIENCE: Patience = Patience {
    late_after: Some(Duration::from_millis(500)),
    again_after: Duration::from_millis(1500),
    times: 2,
    given_up_after: Duration::from_secs(3),
};

/// No other node can help.
pub(crate) const ALONE: Patience = Patience { late_after: None, ..PATIENCE };

/// What a query is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Goal {
    /// The nodes near an id.
    Nodes,
    /// The peers of a topic.
    Lookup,
    /// The same, and to be one of them, reachable at this port of ours.
    Announce { port: u16 },
}

/// What a request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    Ask {
        query: QueryId,
        asked: Option<Id>,
        /// The node that named this one.
        referrer: Option<SocketAddrV4>,
    },
    Announce {
        query: QueryId,
    },
    TakeBack,
    /// Is the sender of a request at the address that its datagram names?
    Confirm,
    /// Is the node with this id there?
    Check {
        id: Id,
    },
}
