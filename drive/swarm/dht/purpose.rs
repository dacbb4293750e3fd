//! The purposes of requests, and how long the node waits for each answer.

use std::net::SocketAddrV4;
use std::time::Duration;

use crate::kademlia::{Id, Patience, QueryId};

/// A request is sent again after 1.5 s, two ticks of the original. Before that, its referrer is asked
/// to help.
pub(crate) const PATIENCE: Patience = Patience {
    late_after: Some(Duration::from_millis(500)),
    again_after: Duration::from_millis(1500),
    times: 2,
    given_up_after: Duration::from_secs(3),
};

/// As [`PATIENCE`], for a node without referrer.
pub(crate) const ALONE: Patience = Patience { late_after: None, ..PATIENCE };

/// The goal of a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Goal {
    /// Find the nodes near an id.
    Nodes,
    /// Find the peers of a topic.
    Lookup,
    /// Find the peers of a topic, and announce us at this port.
    Announce { port: u16 },
}

/// The purpose of a request.
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
    /// A ping that confirms the source address of a request.
    Confirm,
    /// A ping of the node with this id.
    Check {
        id: Id,
    },
}
