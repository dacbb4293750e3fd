//! How much memory one listing or comparison may take: the publisher decides how large its nodes and
//! its directories are.

use hypermount_core::{Core, Error, Result};

/// Bytes that a listing, or a comparison of two versions, may hold at once: about 100,000 usual entries.
pub(super) const MAX_LISTING_BYTES: usize = 36 * 1024 * 1024;

/// Bytes that may still be held.
#[derive(Debug)]
pub(crate) struct Budget {
    left: usize,
}

impl Budget {
    /// For looking at an index of this core. What was written here needs no bound.
    pub(crate) fn new(core: &Core) -> Self {
        Self { left: if core.writable() { usize::MAX } else { MAX_LISTING_BYTES } }
    }

    /// `bytes` are held from now on.
    ///
    /// # Errors
    /// `TooLarge` when fewer are left.
    pub(crate) fn take(&mut self, bytes: usize) -> Result<()> {
        let left = self.left.checked_sub(bytes).ok_or_else(|| {
            let most = MAX_LISTING_BYTES / (1024 * 1024);
            Error::TooLarge(format!(
                "a directory or a change that takes over {most} MiB to look at"
            ))
        })?;
        self.left = left;
        Ok(())
    }

    /// `bytes` are no longer held.
    pub(crate) fn give_back(&mut self, bytes: usize) {
        self.left = self.left.saturating_add(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::trie::testing::{core_of, reader_of};

    #[test]
    fn a_budget_is_used_up_to_the_last_byte_and_no_further() {
        let own = core_of(&[]);
        let mut budget = Budget::new(&reader_of(&own));
        budget.take(MAX_LISTING_BYTES).unwrap();
        assert!(matches!(budget.take(1), Err(Error::TooLarge(_))));
        budget.give_back(5);
        budget.take(5).unwrap();
        assert!(budget.take(1).is_err());
        Budget::new(&own).take(MAX_LISTING_BYTES + 1).unwrap();
    }
}
