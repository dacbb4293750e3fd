//! The random values with which a node starts.

use std::io;

use super::id::Id;
use crate::crypto::random_bytes;

/// The random values of one node.
pub(crate) struct RandomParts {
    pub id: Id,
    /// The current and the previous secret of its tokens.
    pub secrets: [[u8; 32]; 2],
    /// The number of its first request, so that answers cannot be guessed.
    pub first_request: u16,
}

impl RandomParts {
    /// # Errors
    /// Fails if the operating system returns no random bytes.
    pub(crate) fn at_random() -> io::Result<Self> {
        Ok(Self {
            id: random_bytes()?,
            secrets: [random_bytes()?, random_bytes()?],
            first_request: u16::from_le_bytes(random_bytes()?),
        })
    }
}
