//! Giving disk space back, and looking for damage.

use std::ops::Range;

#[cfg(any(test, fuzzing))]
use super::Audit;
use super::{Core, CoreEvent};
use crate::error::Result;

impl Core {
    /// Drops the blocks' bytes and gives their disk space back (hypercore9.md §7). Tree nodes and
    /// signatures stay, so length, proofs and seeking are as before.
    ///
    /// # Errors
    /// `Storage`.
    pub fn clear(&self, blocks: Range<u64>) -> Result<()> {
        if !self.inner.writable {
            return Err(self.read_only());
        }
        let runs = {
            let _claims = self.inner.claims.lock();
            let _writer = self.inner.writer.lock();
            let runs = self.held_runs(blocks)?;
            if runs.is_empty() {
                return Ok(());
            }
            {
                let mut state = self.inner.state.lock();
                for block in runs.iter().flat_map(|run| run.blocks.clone()) {
                    state.bits.set_data(block, false);
                }
            }
            for block in runs.iter().flat_map(|run| run.blocks.clone()) {
                self.inner.cache.remove(self.cache_id(), block);
            }
            // The claims must be gone, also after a power cut, before the bytes are.
            self.claim_locked()?;
            self.inner.files.sync_claims()?;
            for run in runs.iter().rev().filter(|run| !run.bytes.is_empty()) {
                self.inner.files.release_data(run.bytes.start, run.bytes.end)?;
            }
            runs
        };
        for run in runs {
            let (start, length) = (run.blocks.start, run.blocks.end - run.blocks.start);
            let _ = self.inner.events.send(CoreEvent::Cleared { start, length });
        }
        Ok(())
    }

    /// The runs of blocks that are here, with the bytes they take.
    fn held_runs(&self, blocks: Range<u64>) -> Result<Vec<Run>> {
        let mut runs: Vec<Run> = Vec::new();
        let mut next = blocks.start;
        loop {
            let Some(block) = self.inner.state.lock().bits.first_present(next..blocks.end) else {
                return Ok(runs);
            };
            next = block + 1;
            // A block whose place is not known is given up all the same; its bytes stay.
            let (offset, size) = self.stored_span(block)?.unwrap_or_default();
            match runs.last_mut() {
                Some(run) if run.blocks.end == block && run.bytes.end == offset => {
                    run.blocks.end = next;
                    run.bytes.end = offset + size;
                }
                _ => runs.push(Run { blocks: block..next, bytes: offset..offset + size }),
            }
        }
    }

    /// Re-hashes every stored block; a block that does not match is cleared.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn audit(&self) -> Result<Audit> {
        let mut audit = Audit::default();
        let mut next = 0;
        loop {
            let Some(block) = self.inner.state.lock().bits.first_present(next..u64::MAX) else {
                break;
            };
            next = block + 1;
            let matches = match self.read_block(block) {
                Ok(bytes) => bytes.is_some(),
                Err(crate::error::Error::Corrupt { .. }) => false,
                Err(error) => return Err(error),
            };
            if matches {
                audit.valid += 1;
            } else {
                audit.invalid += 1;
                self.inner.state.lock().bits.set_data(block, false);
                self.inner.cache.remove(self.cache_id(), block);
            }
        }
        self.flush()?;
        Ok(audit)
    }
}

struct Run {
    blocks: Range<u64>,
    bytes: Range<u64>,
}
