//! Threads whose open(2) found an inode that a newer version had replaced.

use std::collections::HashSet;

use hypermount_drive::sync::Mutex;

/// Most threads that [`Overtaken`] remembers.
const MAX_LOOKING_AGAIN: usize = 1024;

/// Threads whose open(2) found an inode that a newer version of a followed drive had replaced.
/// ESTALE makes the kernel repeat the lookup, which shows the newer version before its notice has
/// arrived. The kernel repeats it once per call. If a newer version overtakes the thread again, it
/// opens the file as it was at the kernel's lookup, since a program must never see ESTALE.
#[derive(Debug, Default)]
pub(crate) struct Overtaken(Mutex<HashSet<u32>>);

impl Overtaken {
    /// Whether the kernel is to repeat the lookup.
    pub(crate) fn look_again(&self, thread: u32) -> bool {
        let mut threads = self.0.lock();
        let known = thread != 0 && (threads.remove(&thread) || threads.len() >= MAX_LOOKING_AGAIN);
        thread != 0 && !known && threads.insert(thread)
    }

    /// The thread's call opened what the name leads to.
    pub(crate) fn opened(&self, thread: u32) {
        self.0.lock().remove(&thread);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bounded_number_of_threads_looks_again_once_each() {
        let overtaken = Overtaken::default();
        assert!(overtaken.look_again(1) && !overtaken.look_again(1));
        assert!(overtaken.look_again(1), "that was another call");
        overtaken.opened(1);
        assert!(overtaken.look_again(1), "its last call found the file");
        assert!(!overtaken.look_again(0), "an unknown thread cannot be told from another");
        for thread in 2..=MAX_LOOKING_AGAIN as u32 {
            assert!(overtaken.look_again(thread));
        }
        assert!(!overtaken.look_again(5000), "one past the bound opens what was there");
    }
}
