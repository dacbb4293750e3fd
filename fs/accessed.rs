//! When the files of a drive were read. That is kept in memory and stored with the next version of the file that
//! is made for another reason: reading makes no version.
//!
//! As with `relatime` (mount(8)), a read counts only if the file was changed since the last one, or that is a day ago.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use hypermount_drive::sync::{Mutex, Rank};
use hypermount_drive::{DrivePath, Stat, Time};

/// Most files whose access time waits to be stored.
const MAX_ACCESSED: usize = 16_384;
/// Age from which on an access time is renewed by any read.
const OLD: Duration = Duration::from_secs(24 * 3600);

/// Access times that are not stored yet.
pub(crate) struct Accessed(Mutex<HashMap<DrivePath, Time>>);

impl Accessed {
    pub(crate) fn new() -> Self {
        Self(Mutex::new(Rank::LEAF, HashMap::new()))
    }

    /// Notes that what is at `path`, with this stat, is read now.
    pub(crate) fn note(&self, path: &DrivePath, stat: &Stat) {
        let mut times = self.0.lock();
        let known = times.get(path).copied().unwrap_or_else(|| stored(stat));
        let now = SystemTime::now();
        if !is_due(known, stat, now) {
            return;
        }
        if times.len() >= MAX_ACCESSED
            && let Some(other) = times.keys().next().cloned()
        {
            times.remove(&other);
        }
        times.insert(path.clone(), now.into());
    }

    /// When what is at `path`, with this stat, was last read.
    pub(crate) fn of(&self, path: &DrivePath, stat: &Stat) -> Time {
        self.0.lock().get(path).copied().unwrap_or_else(|| stored(stat))
    }

    /// Adds what is not stored yet to a stat that is about to be.
    pub(crate) fn add_to(&self, path: &DrivePath, stat: &mut Stat) {
        if let Some(time) = self.0.lock().get(path) {
            stat.atime = Some(*time);
        }
    }

    /// The path leads to another file now, or its time was set.
    pub(crate) fn forget(&self, path: &DrivePath) {
        self.0.lock().remove(path);
    }

    /// What was at a path for which `renamed` returns another one is there now.
    pub(crate) fn rename(&self, renamed: impl Fn(&DrivePath) -> Option<DrivePath>) {
        let mut times = self.0.lock();
        let moved: Vec<_> =
            times.keys().filter_map(|old| Some((old.clone(), renamed(old)?))).collect();
        for (old, new) in moved {
            if let Some(time) = times.remove(&old) {
                times.insert(new, time);
            }
        }
    }
}

/// The access time that the drive has for a file.
fn stored(stat: &Stat) -> Time {
    stat.atime.unwrap_or(stat.mtime)
}

fn is_due(known: Time, stat: &Stat, now: SystemTime) -> bool {
    let age = now.duration_since(known.into()).unwrap_or_default();
    known <= stat.mtime || known <= stat.ctime || age >= OLD
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> DrivePath {
        DrivePath::parse(text).expect("a path")
    }

    fn at(seconds: i64) -> Time {
        Time::new(seconds, 0).expect("a time")
    }

    #[test]
    fn a_read_counts_after_a_change_and_once_a_day() {
        let stat = |atime| Stat { mtime: at(100), ctime: at(200), atime, ..Stat::default() };
        let now = |seconds: i64| SystemTime::from(at(seconds));
        for (known, reading, due) in [
            (50, 300, true),
            (150, 300, true),
            (200, 300, true),
            (201, 300, false),
            (201, 201 + 24 * 3600 - 1, false),
            (201, 201 + 24 * 3600, true),
            // The clock was set back.
            (5000, 300, false),
        ] {
            assert_eq!(is_due(at(known), &stat(None), now(reading)), due, "{known} {reading}");
        }
        let accessed = Accessed::new();
        assert_eq!(accessed.of(&path("a"), &stat(None)), at(100));
        assert_eq!(accessed.of(&path("a"), &stat(Some(at(7)))), at(7));
        accessed.note(&path("a"), &stat(Some(at(7))));
        let read = accessed.of(&path("a"), &stat(Some(at(7))));
        assert!(read > at(1_000_000_000), "{read:?}");
        accessed.note(&path("a"), &stat(Some(at(7))));
        assert_eq!(accessed.of(&path("a"), &stat(None)), read, "not changed since");
    }

    #[test]
    fn times_go_with_their_file_and_into_its_next_version() {
        let (accessed, stat) = (Accessed::new(), Stat::default());
        accessed.note(&path("a/b"), &stat);
        let read = accessed.of(&path("a/b"), &stat);
        accessed.rename(|old| (*old == path("a/b")).then(|| path("c")));
        assert_eq!(accessed.of(&path("a/b"), &stat), stat.mtime);
        let mut next = stat.clone();
        accessed.add_to(&path("c"), &mut next);
        assert_eq!(next.atime, Some(read));
        accessed.forget(&path("c"));
        let mut later = stat.clone();
        accessed.add_to(&path("c"), &mut later);
        assert_eq!(later, stat);
    }

    #[test]
    fn only_so_many_are_kept() {
        let (accessed, stat) = (Accessed::new(), Stat::default());
        for n in 0..=MAX_ACCESSED {
            accessed.note(&path(&n.to_string()), &stat);
        }
        assert_eq!(accessed.0.lock().len(), MAX_ACCESSED);
    }
}
