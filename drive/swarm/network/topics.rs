//! What we look for and what we announce.

use std::collections::BTreeMap;

use crate::crypto::DiscoveryKey;

/// Topics joined at once. Each costs a query every few minutes.
pub const MAX_TOPICS: usize = 4096;

/// What is wanted of a topic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Interest {
    /// Tell others that we have it. Without an address that peers can reach, nothing is told.
    pub announce: bool,
    /// Look for others that have it.
    pub lookup: bool,
}

impl Interest {
    /// For readers: looks up peers and announces nothing.
    pub const LOOKUP: Self = Self { announce: false, lookup: true };
    /// A server's.
    pub const BOTH: Self = Self { announce: true, lookup: true };
}

/// The topics that are joined.
pub(crate) type Topics = BTreeMap<DiscoveryKey, Interest>;

/// [`MAX_TOPICS`] are joined already.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{MAX_TOPICS} drives are looked for or announced already; leave one first")]
pub struct TooManyTopics;
