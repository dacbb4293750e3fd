//! Ending on SIGTERM or SIGINT at a chosen point.

use nix::sys::signal::{SigSet, Signal};
use std::io;

/// Holds SIGTERM and SIGINT back in this thread and those it starts. Call it before any thread.
pub fn block_termination() -> io::Result<SigSet> {
    let signals = SigSet::from_iter([Signal::SIGTERM, Signal::SIGINT]);
    signals.thread_block()?;
    Ok(signals)
}

/// Returns when one of them arrived.
pub fn wait_for_termination(signals: &SigSet) -> io::Result<()> {
    signals.wait()?;
    Ok(())
}
