//! What a core lacks and which callers wait for it: the only meeting point of [`super::Core`] and its
//! replicator, besides the acceptance of proven blocks. Knows no network and no clock.
//!
//! INVARIANTS: a block is in `blocks` exactly while a caller waits for it or it is wanted ahead;
//! `blocks` never holds more than [`MAX_WANTED_BLOCKS`] that no caller waits for.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use hypermount_swarm::sync::{Mutex, MutexGuard};
use tokio::sync::{Notify, oneshot, watch};

/// Blocks wanted without a waiter (readahead, hints, downloads) remembered at once.
pub const MAX_WANTED_BLOCKS: usize = 65_536;
/// Hints not yet taken by a replicator; a new one beyond it is dropped, hints only save time.
pub(crate) const MAX_PENDING_HINTS: usize = 64;
/// Changes kept while no replicator takes them; beyond it they are folded into [`Change::Reset`].
pub(crate) const MAX_PENDING_CHANGES: usize = 2 * MAX_WANTED_BLOCKS;

/// How badly a block is wanted; the greatest is served first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Urgency {
    /// A reader may need it some time: requested only while little is in flight.
    Spare,
    /// A download that no reader waits for.
    Background,
    /// A reader will probably need it soon.
    Ahead,
    /// A reader is blocked on it.
    Reader,
}

/// What a reader is about to look for, so that a peer that understands can send every block of
/// the way at once. Purely an optimisation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hint {
    /// The path of index blocks to one key, as seen from head block `head`.
    Key {
        /// Number of the block from which the search starts.
        head: u64,
        /// The key, as the index spells it.
        key: String,
    },
    /// The path of blocks to one key of a Hyperbee, and to those that follow.
    Entry {
        /// Length of the index core, in blocks.
        version: u64,
        /// The key; the first one after it if there is none.
        key: Bytes,
        /// Number of keys.
        keys: u64,
        /// What is looked up may be a directory on the way to a file: its first keys are asked for as well.
        inside: Option<(Bytes, u64)>,
    },
    /// The index blocks of everything below `prefix`.
    List {
        /// Number of the block from which the search starts.
        head: u64,
        /// The directory, as the index spells it.
        prefix: String,
        /// Whether subdirectories are listed too.
        recursive: bool,
    },
}

/// A change of demand, in order, for the replicator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Forget everything: what is still wanted follows.
    Reset,
    /// Wanted now, or wanted more urgently than before.
    Wanted {
        /// The block.
        block: u64,
        /// The highest urgency that any caller has.
        urgency: Urgency,
    },
    /// No longer wanted.
    Unwanted {
        /// The block.
        block: u64,
    },
    /// The block containing `byte` is wanted; it lies within `blocks`, probably at `guess`.
    Seek {
        /// Offset in the core, in bytes.
        byte: u64,
        /// The blocks that may contain it.
        blocks: Range<u64>,
        /// The block to request first.
        guess: u64,
    },
    /// No longer sought.
    Unseek {
        /// Offset in the core, in bytes.
        byte: u64,
    },
    /// Sent to peers that understand it.
    Hint(Hint),
    /// A longer head than `length` is wanted.
    Upgrade {
        /// In blocks.
        length: u64,
    },
}

#[derive(Default)]
struct DemandState {
    blocks: BTreeMap<u64, Want>,
    seeks: BTreeMap<u64, Seekers>,
    upgrades: Vec<(u64, oneshot::Sender<()>)>,
    changes: VecDeque<Change>,
    ahead: usize,
    /// `changes` outgrew its bound and was emptied: the next taker gets all current demands.
    overflowed: bool,
    peer_summary: PeerSummary,
}

/// The callers that look for one byte.
struct Seekers {
    count: usize,
    blocks: Range<u64>,
    guess: u64,
}

impl DemandState {
    fn all_changes(&self) -> Vec<Change> {
        let blocks = self
            .blocks
            .iter()
            .map(|(block, want)| Change::Wanted { block: *block, urgency: want.urgency });
        let seeks = self.seeks.iter().map(|(byte, seekers)| Change::Seek {
            byte: *byte,
            blocks: seekers.blocks.clone(),
            guess: seekers.guess,
        });
        let upgrade = self.upgrades.iter().map(|(length, _)| *length).min();
        let upgrade = upgrade.map(|length| Change::Upgrade { length });
        std::iter::once(Change::Reset).chain(blocks).chain(seeks).chain(upgrade).collect()
    }
}

struct Want {
    urgency: Urgency,
    waiters: Vec<Waiter>,
}

struct Waiter {
    sender: oneshot::Sender<Bytes>,
    /// False if only the arrival counts: what is not needed now is not kept in memory.
    takes_bytes: bool,
}

/// What the replicator last knew of the peers that share the core; explains a failed wait.
#[derive(Clone, Debug, Default)]
pub struct PeerSummary {
    /// How many peers share the core now.
    pub peers: usize,
    /// Why peers left or were dropped most recently, newest last.
    pub(crate) last_trouble: Option<String>,
    /// The peer that holds another history of this core, if that is what keeps it from growing.
    pub fork: Option<String>,
    /// Highest length any connected peer has announced.
    pub remote_length: u64,
    /// Whether a connected peer announces a later fork than that of the head here.
    pub later_fork: bool,
    /// Whether a peer is near: a round trip to it costs less than the blocks that it can save.
    pub near: bool,
}

/// The blocks that callers wait for, or will, and what peers are to be told of it.
pub struct Demand {
    state: Mutex<DemandState>,
    changed: Notify,
    /// Counts changes of the tree.
    tree: watch::Sender<u64>,
}

impl Demand {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::default(),
            changed: Notify::new(),
            tree: watch::channel(0).0,
        })
    }

    fn state(&self) -> MutexGuard<'_, DemandState> {
        // No code panics while holding this lock; a poisoned one still holds a usable queue.
        self.state.lock()
    }

    fn push(&self, state: &mut DemandState, change: Change) {
        if state.changes.len() >= MAX_PENDING_CHANGES {
            state.changes.clear();
            state.overflowed = true;
        }
        if !state.overflowed {
            state.changes.push_back(change);
        }
        self.changed.notify_one();
    }

    /// Waits for `block`. Dropping the ticket gives the wait up.
    pub fn want(self: &Arc<Self>, block: u64) -> Ticket {
        self.wait_for(block, true)
    }

    /// The same, but the ticket resolves to no bytes: they are read from the core when they are needed.
    pub fn want_stored(self: &Arc<Self>, block: u64) -> Ticket {
        self.wait_for(block, false)
    }

    fn wait_for(self: &Arc<Self>, block: u64, takes_bytes: bool) -> Ticket {
        let (sender, receiver) = oneshot::channel();
        let mut state = self.state();
        let (urgency_before, waiters) = match state.blocks.remove(&block) {
            Some(want) => (Some(want.urgency), want.waiters),
            None => (None, Vec::new()),
        };
        if urgency_before.is_some_and(|urgency| urgency < Urgency::Reader) {
            state.ahead -= 1;
        }
        let mut want = Want { urgency: Urgency::Reader, waiters };
        want.waiters.push(Waiter { sender, takes_bytes });
        state.blocks.insert(block, want);
        if urgency_before != Some(Urgency::Reader) {
            self.push(&mut state, Change::Wanted { block, urgency: Urgency::Reader });
        }
        Ticket { demand: Arc::clone(self), block, receiver }
    }

    /// Asks for blocks that no caller waits for yet. Returns how many were taken: fewer than given when
    /// [`MAX_WANTED_BLOCKS`] is reached.
    pub fn want_ahead(&self, blocks: impl IntoIterator<Item = u64>, urgency: Urgency) -> usize {
        let urgency = urgency.min(Urgency::Ahead);
        let mut state = self.state();
        let mut taken = 0;
        for block in blocks {
            let full = state.ahead >= MAX_WANTED_BLOCKS;
            match state.blocks.get_mut(&block) {
                Some(want) if want.urgency >= urgency => {}
                Some(want) => {
                    want.urgency = urgency;
                    self.push(&mut state, Change::Wanted { block, urgency });
                }
                None if full => break,
                None => {
                    state.blocks.insert(block, Want { urgency, waiters: Vec::new() });
                    state.ahead += 1;
                    self.push(&mut state, Change::Wanted { block, urgency });
                }
            }
            taken += 1;
        }
        taken
    }

    /// Forgets blocks wanted ahead inside `range`, e.g. after a reader jumped elsewhere.
    pub fn forget_ahead(&self, range: Range<u64>) {
        let mut state = self.state();
        let forgotten: Vec<u64> = state
            .blocks
            .range(range)
            .filter(|(_, want)| want.urgency < Urgency::Reader)
            .map(|(block, _)| *block)
            .collect();
        for block in forgotten {
            state.blocks.remove(&block);
            state.ahead -= 1;
            self.push(&mut state, Change::Unwanted { block });
        }
    }

    /// The core was truncated to `length` blocks: callers that wait for a block beyond that are told that it does
    /// not come.
    pub(crate) fn give_up_beyond(&self, length: u64) {
        let mut state = self.state();
        let beyond = state.blocks.split_off(&length);
        for (block, want) in beyond {
            if want.urgency < Urgency::Reader {
                state.ahead -= 1;
            }
            self.push(&mut state, Change::Unwanted { block });
        }
    }

    /// Asks peers which block holds `byte`. The answer is in the core's tree: look there again
    /// each time [`SeekTicket::tree_changed`] resolves. Dropping the ticket gives up.
    pub(crate) fn seek(self: &Arc<Self>, byte: u64, blocks: Range<u64>, guess: u64) -> SeekTicket {
        let tree = self.tree.subscribe();
        let mut state = self.state();
        let seekers =
            state.seeks.entry(byte).or_insert(Seekers { count: 0, blocks: blocks.clone(), guess });
        seekers.count += 1;
        if seekers.count == 1 {
            self.push(&mut state, Change::Seek { byte, blocks, guess });
        }
        SeekTicket { demand: Arc::clone(self), byte, tree }
    }

    /// Asks peers for a head longer than `length` blocks; the receiver resolves when it is here.
    pub fn want_longer(&self, length: u64) -> oneshot::Receiver<()> {
        let (sender, receiver) = oneshot::channel();
        let mut state = self.state();
        state.upgrades.retain(|(_, waiter)| !waiter.is_closed());
        state.upgrades.push((length, sender));
        self.push(&mut state, Change::Upgrade { length });
        receiver
    }

    /// Adds a hint for peers; dropped while 64 wait to be taken.
    pub fn hint(&self, hint: Hint) {
        let mut state = self.state();
        let pending =
            state.changes.iter().filter(|change| matches!(change, Change::Hint(_))).count();
        if pending < MAX_PENDING_HINTS {
            self.push(&mut state, Change::Hint(hint));
        }
    }

    /// A verified block has been stored: wakes every caller that waits for it.
    pub(crate) fn fulfil(&self, block: u64, bytes: &Bytes) {
        let mut state = self.state();
        let Some(want) = state.blocks.remove(&block) else {
            return;
        };
        if want.urgency < Urgency::Reader {
            state.ahead -= 1;
        }
        drop(state);
        for waiter in want.waiters {
            let bytes = if waiter.takes_bytes { bytes.clone() } else { Bytes::new() };
            // The waiter may have gone.
            let _ = waiter.sender.send(bytes);
        }
    }

    /// The tree has grown new nodes: seeks look again, satisfied upgrades wake.
    pub(crate) fn tree_changed(&self, length: u64) {
        self.tree.send_modify(|changes| *changes = changes.wrapping_add(1));
        let mut state = self.state();
        let (done, waiting): (Vec<_>, Vec<_>) = std::mem::take(&mut state.upgrades)
            .into_iter()
            .partition(|(wanted, _)| *wanted < length);
        state.upgrades = waiting;
        drop(state);
        for (_, waiter) in done {
            let _ = waiter.send(());
        }
    }

    /// A new replicator begins: what is wanted is to be told from the beginning.
    pub(crate) fn tell_again(&self) {
        self.state().overflowed = true;
        self.changed.notify_one();
    }

    /// Everything that changed since the last call, oldest first.
    pub fn take_changes(&self) -> Vec<Change> {
        let mut state = self.state();
        if std::mem::take(&mut state.overflowed) {
            state.changes.clear();
            return state.all_changes();
        }
        state.changes.drain(..).collect()
    }

    /// How many blocks are wanted now, by readers or ahead of them.
    pub fn count(&self) -> usize {
        self.state().blocks.len()
    }

    #[cfg(test)]
    pub(crate) fn wanted(&self) -> Vec<(u64, Urgency)> {
        self.state().blocks.iter().map(|(block, want)| (*block, want.urgency)).collect()
    }

    /// Resolves when [`Demand::take_changes`] has something.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    pub(crate) fn set_peer_summary(&self, summary: PeerSummary) {
        self.state().peer_summary = summary;
    }

    /// [`PeerSummary::near`], as the replicator last reported it.
    pub fn has_near_peer(&self) -> bool {
        self.state().peer_summary.near
    }

    /// What the replicator last reported; the default if there is none.
    pub fn peer_summary(&self) -> PeerSummary {
        self.state().peer_summary.clone()
    }
}

/// One caller's wait for one block.
pub struct Ticket {
    demand: Arc<Demand>,
    block: u64,
    receiver: oneshot::Receiver<Bytes>,
}

impl Ticket {
    /// Resolves to the verified block. Never resolves by itself without one: the caller sets the
    /// deadline.
    pub(crate) async fn arrived(&mut self) -> Option<Bytes> {
        (&mut self.receiver).await.ok()
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.receiver.close();
        let mut state = self.demand.state();
        let Some(want) = state.blocks.get_mut(&self.block) else {
            return;
        };
        want.waiters.retain(|waiter| !waiter.sender.is_closed());
        if want.waiters.is_empty() && want.urgency == Urgency::Reader {
            state.blocks.remove(&self.block);
            let block = self.block;
            self.demand.push(&mut state, Change::Unwanted { block });
        }
    }
}

/// One caller's search for one byte.
pub(crate) struct SeekTicket {
    demand: Arc<Demand>,
    byte: u64,
    tree: watch::Receiver<u64>,
}

impl SeekTicket {
    /// Resolves when the tree has changed since the ticket was made or this last resolved.
    pub(crate) async fn tree_changed(&mut self) {
        // The sender lives as long as the demand this ticket holds.
        let _ = self.tree.changed().await;
    }
}

impl Drop for SeekTicket {
    fn drop(&mut self) {
        let byte = self.byte;
        let mut state = self.demand.state();
        if let Some(seekers) = state.seeks.get_mut(&byte) {
            seekers.count -= 1;
            if seekers.count == 0 {
                state.seeks.remove(&byte);
                self.demand.push(&mut state, Change::Unseek { byte });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_wanted_ahead_are_limited() {
        let demand = Demand::new();
        let most = MAX_WANTED_BLOCKS as u64;
        assert_eq!(demand.want_ahead(0..most, Urgency::Ahead), MAX_WANTED_BLOCKS);
        assert_eq!(demand.want_ahead([most], Urgency::Ahead), 0);
        // A caller that waits is served all the same.
        let _ticket = demand.want(most);
        assert_eq!(demand.wanted().len(), MAX_WANTED_BLOCKS + 1);
    }

    #[tokio::test]
    async fn a_waiter_beyond_the_end_of_a_truncated_core_is_told() {
        let demand = Demand::new();
        let (mut kept, mut lost) = (demand.want(4), demand.want(5));
        assert_eq!(demand.want_ahead([6, 7], Urgency::Ahead), 2);
        demand.give_up_beyond(5);
        assert_eq!(lost.arrived().await, None);
        assert_eq!(demand.count(), 1);
        demand.fulfil(4, &Bytes::from_static(b"four"));
        assert_eq!(kept.arrived().await, Some(Bytes::from_static(b"four")));
    }

    #[test]
    fn hints_not_taken_are_limited() {
        let demand = Demand::new();
        for head in 0..MAX_PENDING_HINTS as u64 + 1 {
            demand.hint(Hint::Key { head, key: String::new() });
        }
        assert_eq!(demand.take_changes().len(), MAX_PENDING_HINTS);
    }

    #[test]
    fn changes_not_taken_are_folded() {
        let demand = Demand::new();
        let fill = |changes: usize| {
            for _ in 0..changes / 2 {
                drop(demand.want(7)); // wanted, and not any more
            }
        };
        fill(MAX_PENDING_CHANGES);
        assert_eq!(demand.take_changes().len(), MAX_PENDING_CHANGES);
        fill(MAX_PENDING_CHANGES);
        let _ticket = demand.want(8);
        let folded = [Change::Reset, Change::Wanted { block: 8, urgency: Urgency::Reader }];
        assert_eq!(demand.take_changes(), folded);
    }
}
