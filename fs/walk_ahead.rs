//! Fetching ahead across files. Whoever reads the small files of a directory one after the other
//! (`tar`, `grep -r`, `cp -r`) would pay a round trip for each; so after a few, what follows in
//! the order of the listings is asked for as well, into the next directories.
//!
//! Not here: what follows inside one file (`Readahead` in `handle.rs`), and large files, which
//! that serves well.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use drive::core::demand::Urgency;
use drive::{DrivePath, Entry, Kind, Name, Snapshot, Wait};
use tokio::runtime::Handle;

use crate::volume::Volume;

/// Files up to this size, in bytes, count as small.
pub const SMALL_FILE_BYTES: u64 = 1024 * 1024;
/// So many small files in a row make a walk.
const FILES_OF_A_WALK: u64 = 3;
/// Bytes asked for ahead of the walker: this much per file it has read so far, up to the limit.
const WINDOW_PER_FILE_BYTES: u64 = 64 * 1024;
pub const LARGEST_WINDOW_BYTES: u64 = 4 * 1024 * 1024;
/// Files asked for and not opened yet.
pub const MAX_FILES_AHEAD: usize = 4096;
/// A listing that takes longer is not worth waiting for: the walker will ask for it itself.
const LIST_WITHIN: Duration = Duration::from_secs(10);

/// How far one volume has been read ahead.
#[derive(Default)]
pub struct WalkAhead {
    state: Mutex<State>,
}

/// INVARIANT: `ahead` is the sum of `asked`.
#[derive(Default)]
struct State {
    /// Directory of the file opened last, and how many were opened in a row that fit a walk.
    directory: DrivePath,
    run: u64,
    asked: HashMap<DrivePath, u64>,
    ahead: u64,
    cursor: Cursor,
    /// A task is moving the cursor.
    moving: bool,
}

/// The listings from the root to where the walk ahead has come, each with its next position.
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
    /// Notes that a small file was opened; whether it is time to ask for more.
    fn opened(&mut self, path: &DrivePath) -> bool {
        let directory = path.parent().unwrap_or_default();
        if let Some(size) = self.asked.remove(path) {
            self.ahead -= size;
            self.run += 1;
        } else if self.directory == directory && self.run > 0 {
            self.run += 1;
        } else {
            *self = State { run: 1, moving: self.moving, ..State::default() };
        }
        self.directory = directory;
        if self.run == FILES_OF_A_WALK && self.asked.is_empty() {
            self.cursor = Cursor::After(path.clone());
        }
        self.run >= FILES_OF_A_WALK && self.ahead < self.window() / 2 && !self.moving
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
        // Nothing panics while holding it, and a wrong guess costs no more than time.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A file of `volume` was opened for reading.
    pub fn opened(volume: &Arc<Volume>, path: &DrivePath, size: u64, runtime: &Handle) {
        if size > SMALL_FILE_BYTES || volume.drive.writable() {
            return;
        }
        let cursor = {
            let mut state = volume.walk_ahead.state();
            if !state.opened(path) {
                return;
            }
            state.moving = true;
            std::mem::take(&mut state.cursor)
        };
        let volume = Arc::clone(volume);
        runtime.spawn(async move {
            let cursor = volume.walk_ahead.advance(&volume, cursor).await;
            let mut state = volume.walk_ahead.state();
            state.moving = false;
            // Another walk may have begun meanwhile: then its own beginning stays.
            if matches!(&state.cursor, Cursor::At(levels) if levels.is_empty()) {
                state.cursor = cursor;
            }
        });
    }

    /// Asks for files from the cursor on until the window is full or the drive at its end.
    async fn advance(&self, volume: &Volume, cursor: Cursor) -> Cursor {
        let snapshot = volume.snapshot();
        let mut levels = match cursor {
            Cursor::At(levels) => levels,
            Cursor::After(path) => levels_after(&snapshot, &path).await.unwrap_or_default(),
        };
        while self.state().has_room() {
            let Some(level) = levels.last_mut() else { break };
            let Some((name, entry)) = level.listing.get(level.next) else {
                levels.pop();
                continue;
            };
            level.next += 1;
            let Ok(path) = level.directory.join(name) else { continue };
            let size = entry.stat.extent.size;
            match entry.kind {
                Kind::File
                    if size > 0 && size <= SMALL_FILE_BYTES && entry.stat.mount.is_none() =>
                {
                    volume.drive.prefetch(&entry.stat.extent, 0..size, Urgency::Ahead);
                    let mut state = self.state();
                    if state.asked.insert(path, size).is_none() {
                        state.ahead += size;
                    }
                }
                Kind::Directory => levels.extend(level_of(&snapshot, path).await),
                _ => {}
            }
        }
        Cursor::At(levels)
    }
}

async fn level_of(snapshot: &Snapshot, directory: DrivePath) -> Option<Level> {
    let listing = snapshot.list(&directory, Wait::within(LIST_WITHIN)).await.ok()?;
    Some(Level { directory, listing, next: 0 })
}

/// The levels from the root to the file's directory, each standing after the way to the file.
async fn levels_after(snapshot: &Snapshot, path: &DrivePath) -> Option<Vec<Level>> {
    let mut levels = Vec::new();
    let mut directory = DrivePath::root();
    for component in path.components() {
        let mut level = level_of(snapshot, directory.clone()).await?;
        let position = level.listing.iter().position(|(name, _)| name.as_str() == component)?;
        level.next = position + 1;
        directory = directory.join(&level.listing[position].0).ok()?;
        levels.push(level);
    }
    Some(levels)
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
        assert!(!state.opened(&path("a/1")));
        assert!(!state.opened(&path("a/2")));
        assert!(state.opened(&path("a/3")));
        assert!(matches!(&state.cursor, Cursor::After(after) if *after == path("a/3")));
    }

    #[test]
    fn files_here_and_there_are_no_walk() {
        let mut state = State::default();
        for text in ["a/1", "b/1", "a/2", "c/1", "a/3", "b/2"] {
            assert!(!state.opened(&path(text)), "{text}");
        }
    }

    #[test]
    fn a_walk_goes_on_where_it_was_expected_to_and_ends_elsewhere() {
        let mut state = State::default();
        for text in ["a/1", "a/2", "a/3"] {
            state.opened(&path(text));
        }
        state.asked.insert(path("b/1"), 100);
        state.ahead = 100;
        assert!(state.opened(&path("b/1")), "the next directory, as expected");
        assert_eq!((state.run, state.ahead), (4, 0));
        assert!(!state.opened(&path("z/1")));
        assert_eq!(state.run, 1);
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
