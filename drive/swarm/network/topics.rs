//! The topics that are joined.

use std::collections::BTreeMap;

use crate::crypto::DiscoveryKey;

/// Topics that may be joined at once. Each costs a query every few minutes.
pub(super) const MAX_TOPICS: usize = 4096;

/// What a caller wants of a topic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Interest {
    /// Announce that we have it. Without an address that peers can reach, nothing is announced.
    pub announce: bool,
    /// Look for peers that have it.
    pub lookup: bool,
}

impl Interest {
    /// Of a reader: look for peers and announce nothing.
    pub const LOOKUP: Self = Self { announce: false, lookup: true };
    /// Of a server: announce and look for peers.
    pub const BOTH: Self = Self { announce: true, lookup: true };
}

/// The topics that are joined.
pub(crate) type Topics = BTreeMap<DiscoveryKey, Interest>;

/// 4096 topics are joined already.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{MAX_TOPICS} drives are looked for or announced already; leave one first")]
pub struct TooManyTopics;
