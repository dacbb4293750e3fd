//! Where the author of a core has truncated it since it was opened: a block number and a length mean another block, or
//! another length, after that.
//!
//! Not here: following a truncation (`truncate.rs`).

/// Truncations that are told apart. An author may sign as many as it likes.
const MAX_CUTS: usize = 64;

struct Cut {
    /// The fork counter from then on.
    fork: u64,
    /// Blocks that certainly stayed.
    kept: u64,
}

/// The truncations of a core since it was opened, the first one first.
#[derive(Default)]
pub(super) struct Cuts(Vec<Cut>);

impl Cuts {
    /// The core was truncated to `kept` blocks, and has this fork counter now.
    pub(super) fn add(&mut self, fork: u64, kept: u64) {
        if self.0.len() == MAX_CUTS {
            // Told as if the first two had happened at once: what one of them dropped, both did.
            let first = self.0.remove(0);
            self.0[0].kept = self.0[0].kept.min(first.kept);
        }
        self.0.push(Cut { fork, kept });
    }

    /// Whether the blocks before `end` are those of the time when the core had this fork counter.
    pub(super) fn keep(&self, fork: u64, end: u64) -> bool {
        !self.0.iter().any(|cut| cut.fork > fork && cut.kept < end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_beyond_a_later_cut_are_others() {
        let mut cuts = Cuts::default();
        assert!(cuts.keep(0, u64::MAX));
        cuts.add(1, 10);
        cuts.add(2, 20);
        assert!(cuts.keep(0, 10) && !cuts.keep(0, 11));
        assert!(cuts.keep(1, 20) && !cuts.keep(1, 21));
        assert!(cuts.keep(2, u64::MAX));
    }

    #[test]
    fn truncations_without_end_take_bounded_memory_and_forget_none() {
        let mut cuts = Cuts::default();
        (1..=1000).for_each(|fork| cuts.add(fork, fork));
        assert_eq!(cuts.0.len(), MAX_CUTS);
        assert!(cuts.keep(0, 1) && !cuts.keep(0, 2));
        assert!(cuts.keep(999, 1000) && !cuts.keep(999, 1001));
    }
}
