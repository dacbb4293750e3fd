//! What a node is to choose at random.

use std::io;

use super::id::Id;
use crate::crypto::random_bytes;

pub(crate) struct RandomParts {
    pub id: Id,
    /// Of the tokens it gives.
    pub secrets: [[u8; 32]; 2],
    /// Numbers of requests begin here, so that answers cannot be foretold.
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
