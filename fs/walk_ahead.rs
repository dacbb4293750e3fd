//! Reading ahead across files. A program that reads the small files of a directory one after the
//! other (`tar`, `grep -r`, `cp -r`) would pay a round trip for each. So after a few files, the
//! following ones are requested as well, into the next directories: in the order of the listings,
//! or by name if the program reads in that order.
//!
//! Not here: read-ahead inside one file (`Readahead` in `handle.rs`), which also serves large
//! files.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use hypermount_drive::sync::{Mutex, MutexGuard};
use hypermount_drive::{Drive, DrivePath, Entry, Kind, Name, Snapshot, Urgency, Wait};
use tokio::runtime::Handle;

/// Largest size of a small file, in bytes.
pub(crate) const SMALL_FILE_BYTES: u64 = 1024 * 1024;
/// Small files in a row that count as a walk.
const FILES_OF_A_WALK: u64 = 3;
/// Bytes requested ahead of the walk: this much per file read so far, up to the limit.
const WINDOW_PER_FILE_BYTES: u64 = 128 * 1024;
pub(crate) const LARGEST_WINDOW_BYTES: u64 = 4 * 1024 * 1024;
/// Most files that are requested and not opened yet.
pub(crate) const MAX_FILES_AHEAD: usize = 4096;
/// Longest wait for a listing. After that, the program requests it itself.
const LIST_WITHIN: Duration = Duration::from_secs(10);

/// How far one volume has been read ahead.
#[derive(Default)]
pub(crate) struct WalkAhead {
    state: Mutex<State>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Order {
    #[default]
    Listing,
    Name,
}

impl Order {
    fn other(self) -> Self {
        match self {
            Order::Listing => Order::Name,
            Order::Name => Order::Listing,
        }
    }
}

/// INVARIANT: `ahead` is the sum of `asked`.
#[derive(Default)]
struct State {
    /// The small file opened last, and the number of files in a row that fit a walk.
    last: DrivePath,
    run: u64,
    /// Number of files in a row whose names were in ascending order.
    ascending: u64,
    order: Order,
    /// Whether the file opened last was not expected.
    missed: bool,
    asked: HashMap<DrivePath, u64>,
    ahead: u64,
    cursor: Cursor,
    /// Whether a task is moving the cursor.
    moving: bool,
}

/// The listings on the way to the current position of the read-ahead, each with its next index. Those of
/// directories above the first one are made when that ends.
enum Cursor {
    /// Begins after this file.
    After(DrivePath),
    At(Vec<Level>),
}

impl Default for Cursor {
    fn default() -> Self {
        Cursor::At(Vec::new())
    }
}

struct Level {
    directory: DrivePath,
    listing: Vec<(Name, Entry)>,
    next: usize,
}

impl State {
    /// Notes that a small file was opened. Returns whether to request more now.
    fn opened(&mut self, path: &DrivePath) -> bool {
        let same_directory = self.run > 0 && self.last.parent() == path.parent();
        let in_order = same_directory && self.last.name() < path.name();
        self.ascending = if in_order { self.ascending + 1 } else { 0 };
        self.last = path.clone();
        if let Some(size) = self.asked.remove(path) {
            self.ahead -= size;
            self.run += 1;
            self.missed = false;
        } else {
            self.unexpected(path, same_directory);
        }
        self.run >= FILES_OF_A_WALK && self.ahead < self.window() / 2 && !self.moving
    }

    /// Handles a file that was not requested: there is no walk yet, or it has another order or
    /// place.
    fn unexpected(&mut self, path: &DrivePath, same_directory: bool) {
        let walking = self.run >= FILES_OF_A_WALK;
        let twice = std::mem::replace(&mut self.missed, walking);
        if !walking && same_directory {
            self.run += 1;
        } else if same_directory || (walking && !twice) {
            // The walk continues, but not as expected. The window is small again, so guess another
            // order.
            self.run = FILES_OF_A_WALK;
            self.order = self.order.other();
        } else {
            self.run = 1;
            self.missed = false;
        }
        if self.run == FILES_OF_A_WALK {
            if !walking {
                let by_name = self.ascending + 1 >= FILES_OF_A_WALK;
                self.order = if by_name { Order::Name } else { Order::Listing };
            }
            self.asked.clear();
            self.ahead = 0;
            self.cursor = Cursor::After(path.clone());
        }
    }

    /// Notes a requested file. If it was requested before, its size may have been different then.
    fn ask(&mut self, path: DrivePath, size: u64) {
        self.ahead += size;
        self.ahead -= self.asked.insert(path, size).unwrap_or(0);
    }

    fn window(&self) -> u64 {
        self.run.saturating_mul(WINDOW_PER_FILE_BYTES).min(LARGEST_WINDOW_BYTES)
    }

    fn has_room(&self) -> bool {
        self.ahead < self.window() && self.asked.len() < MAX_FILES_AHEAD
    }
}

impl WalkAhead {
    fn state(&self) -> MutexGuard<'_, State> {
        // No code panics under this lock, and a wrong guess only costs time.
        self.state.lock()
    }

    /// A file of the drive was opened for reading. `snapshot` returns the version that the kernel
    /// sees.
    pub(crate) fn opened(
        self: &Arc<Self>,
        drive: &Drive,
        snapshot: impl FnOnce() -> Arc<Snapshot>,
        path: &DrivePath,
        size: u64,
        runtime: &Handle,
    ) {
        if size > SMALL_FILE_BYTES || drive.writable() {
            return;
        }
        let (cursor, order) = {
            let mut state = self.state();
            if !state.opened(path) {
                return;
            }
            state.moving = true;
            (std::mem::take(&mut state.cursor), state.order)
        };
        let (this, drive, snapshot) = (Arc::clone(self), drive.clone(), snapshot());
        runtime.spawn(async move {
            let cursor = this.advance(&drive, &snapshot, cursor, order).await;
            let mut state = this.state();
            state.moving = false;
            // If another walk has begun meanwhile, its start stays.
            if matches!(&state.cursor, Cursor::At(levels) if levels.is_empty()) {
                state.cursor = cursor;
            }
        });
    }

    /// Requests files from the cursor on, until the window is full or the drive has ended.
    async fn advance(
        &self,
        drive: &Drive,
        snapshot: &Arc<Snapshot>,
        cursor: Cursor,
        order: Order,
    ) -> Cursor {
        let mut levels = match cursor {
            Cursor::At(levels) => levels,
            Cursor::After(path) => {
                list_above(snapshot, &path);
                level_after(snapshot, &path, order).await.into_iter().collect()
            }
        };
        while self.state().has_room() {
            let Some(level) = levels.last_mut() else { break };
            let Some((name, entry)) = level.listing.get(level.next) else {
                let directory = level.directory.clone();
                levels.pop();
                if levels.is_empty() {
                    levels.extend(level_after(snapshot, &directory, order).await);
                }
                continue;
            };
            level.next += 1;
            let Ok(path) = level.directory.join(name) else { continue };
            let size = entry.stat.extent.size;
            match entry.kind {
                Kind::File
                    if size > 0 && size <= SMALL_FILE_BYTES && entry.stat.mount.is_none() =>
                {
                    drive.prefetch(&entry.stat.extent, 0..size, Urgency::Ahead);
                    self.state().ask(path, size);
                }
                Kind::Directory => levels.extend(level_of(snapshot, path, order).await),
                _ => {}
            }
        }
        Cursor::At(levels)
    }
}

/// Lists the directory above that of `path`, so that its blocks are here when the walk gets there.
fn list_above(snapshot: &Arc<Snapshot>, path: &DrivePath) {
    let Some(above) = path.parent().and_then(|directory| directory.parent()) else { return };
    let snapshot = Arc::clone(snapshot);
    tokio::spawn(async move { snapshot.list(&above, Wait::within(LIST_WITHIN)).await });
}

async fn level_of(snapshot: &Snapshot, directory: DrivePath, order: Order) -> Option<Level> {
    let mut listing = snapshot.list(&directory, Wait::within(LIST_WITHIN)).await.ok()?;
    if order == Order::Name {
        listing.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
    }
    Some(Level { directory, listing, next: 0 })
}

/// The directory that holds `path`, positioned after that; `None` for the root. Over a distance a listing takes
/// several round trips, so the directories above are listed when the walk gets there.
async fn level_after(snapshot: &Snapshot, path: &DrivePath, order: Order) -> Option<Level> {
    let mut level = level_of(snapshot, path.parent()?, order).await?;
    let position = level.listing.iter().position(|(name, _)| Some(name.as_str()) == path.name())?;
    level.next = position + 1;
    Some(level)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> DrivePath {
        DrivePath::parse(text).expect("path")
    }

    #[test]
    fn a_walk_begins_with_the_third_small_file_of_a_directory() {
        let mut state = State::default();
        assert!(!state.opened(&path("a/3")));
        assert!(!state.opened(&path("a/1")));
        assert!(state.opened(&path("a/2")));
        assert!(matches!(&state.cursor, Cursor::After(after) if *after == path("a/2")));
        assert_eq!(state.order, Order::Listing);
    }

    #[test]
    fn a_walk_by_name_is_recognised() {
        let mut state = State::default();
        assert!(!state.opened(&path("a/1")));
        assert!(!state.opened(&path("a/2")));
        assert!(state.opened(&path("a/3")));
        assert_eq!(state.order, Order::Name);
        // The first unexpected file corrects a wrong guess.
        state.ask(path("a/4"), 1);
        assert!(state.opened(&path("a/0")));
        assert_eq!((state.order, state.ahead), (Order::Listing, 0));
    }

    #[test]
    fn scattered_files_are_no_walk() {
        let mut state = State::default();
        for text in ["a/1", "b/1", "a/2", "c/1", "a/3", "b/2"] {
            assert!(!state.opened(&path(text)), "{text}");
        }
    }

    #[test]
    fn a_walk_ends_with_the_second_unexpected_file_in_a_row() {
        let mut state = State::default();
        for text in ["a/1", "a/2", "a/3"] {
            state.opened(&path(text));
        }
        state.ask(path("b/1"), 100);
        assert!(state.opened(&path("b/1")), "the next directory, as expected");
        assert_eq!((state.run, state.ahead), (4, 0));
        assert!(state.opened(&path("y/1")), "elsewhere once: it may go on there");
        assert_eq!(state.run, FILES_OF_A_WALK);
        assert!(!state.opened(&path("z/1")), "and again: no walk any more");
        assert_eq!(state.run, 1);
    }

    /// In a drive that changes during the walk, a file has another size each time it is requested.
    #[test]
    fn a_file_asked_for_twice_counts_once_with_its_newest_size() {
        let mut state = State { run: FILES_OF_A_WALK, ..State::default() };
        for size in [100, 5000, 7] {
            state.ask(path("a/1"), size);
            assert_eq!(state.ahead, size);
        }
        state.ask(path("a/2"), 3);
        state.opened(&path("a/1"));
        assert_eq!(state.ahead, 3);
    }

    #[test]
    fn the_window_is_bounded_in_bytes_and_files() {
        let mut state = State { run: u64::MAX, ..State::default() };
        assert_eq!(state.window(), LARGEST_WINDOW_BYTES);
        state.ahead = LARGEST_WINDOW_BYTES - 1;
        assert!(state.has_room());
        state.ahead += 1;
        assert!(!state.has_room());
        state.ahead = 0;
        state.asked = (0..MAX_FILES_AHEAD - 1).map(|n| (path(&format!("{n}")), 0)).collect();
        assert!(state.has_room());
        state.asked.insert(path("one more"), 0);
        assert!(!state.has_room());
    }
}
