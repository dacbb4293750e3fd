//! The failed calls of a mount with their causes, and how many fetched bytes each process read.
//! Both are bounded: the newest failures and the largest readers stay.
//!
//! Not here: how to remedy a failure (the command line knows that), and the log.

use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::errno::{Error, errno};
use crate::platform;
use hypermount_drive::sync::{Mutex, MutexGuard};

/// Most failures that are remembered.
const MAX_FAILURES: usize = 256;
/// Most processes, and most files, whose fetched bytes are counted. One more replaces the smallest.
const MAX_COUNTED: usize = 256;
/// Most ranges of an open file that are remembered as charged.
const MAX_RANGES: usize = 32;

/// A call of a program that failed for a reason outside the program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailedCall {
    /// Path of the file or directory within the mount, without slashes at the ends.
    pub path: String,
    /// Name of the operation, such as `read`.
    pub operation: &'static str,
    /// Name of the errno that the program got, such as `ETIMEDOUT`.
    pub errno: String,
    /// The error message.
    pub why: String,
    /// Milliseconds since the epoch.
    pub time: u64,
    /// The process, if it was alive to be identified.
    pub process: Option<Process>,
}

/// A process that used the mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Its process id.
    pub pid: u32,
    /// Name of its program.
    pub program: String,
}

/// Fetched bytes, by reader and by what was read; largest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fetched {
    /// Bytes fetched for all processes.
    pub total: u64,
    /// Bytes by process, at most 256.
    pub processes: Vec<(Process, u64)>,
    /// Bytes by path of the file within the mount, at most 256.
    pub files: Vec<(String, u64)>,
    /// Bytes by path of the drive within the mount, without slashes at the ends, at most 256.
    pub drives: Vec<(String, u64)>,
}

#[derive(Default)]
struct State {
    failures: VecDeque<FailedCall>,
    /// Number of failures since the mount was made.
    failed: u64,
    total: u64,
    processes: HashMap<u32, (String, u64)>,
    files: HashMap<String, u64>,
    drives: HashMap<String, u64>,
}

/// See the module documentation.
#[derive(Default)]
pub struct Journal {
    state: Mutex<State>,
}

impl Journal {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// Notes a failure, unless it is an ordinary answer, such as "no such file".
    pub(crate) fn failed(&self, path: &str, operation: &'static str, thread: u32, error: &Error) {
        if is_ordinary(error) {
            return;
        }
        let failure = FailedCall {
            path: path.to_owned(),
            operation,
            errno: errno_name(error),
            why: error.to_string(),
            time: now(),
            process: platform::process_of(thread).map(|(pid, program)| Process { pid, program }),
        };
        let mut state = self.state();
        if state.failures.len() >= MAX_FAILURES {
            state.failures.pop_front();
        }
        state.failures.push_back(failure);
        state.failed += 1;
    }

    /// Charges bytes to the process of a thread, to the file it read and to the drive of that file.
    pub(crate) fn fetched(&self, drive: &str, path: &str, thread: u32, bytes: u64) {
        let process = platform::process_of(thread);
        let mut state = self.state();
        state.total = state.total.saturating_add(bytes);
        if let Some((pid, program)) = process {
            make_room(&mut state.processes, &pid, |(_, bytes)| *bytes);
            let entry = state.processes.entry(pid).or_insert((program.clone(), 0));
            if entry.0 != program {
                // The system has given the process number to another program since.
                *entry = (program, 0);
            }
            entry.1 = entry.1.saturating_add(bytes);
        }
        charge(&mut state.files, path, bytes);
        charge(&mut state.drives, drive, bytes);
    }

    /// The remembered failures, oldest first.
    pub fn failures(&self) -> Vec<FailedCall> {
        self.state().failures.iter().cloned().collect()
    }

    /// Number of failures since the mount was made, and those after the first `seen` of them that
    /// are still remembered.
    pub fn failures_after(&self, seen: u64) -> (u64, Vec<FailedCall>) {
        let state = self.state();
        let new = usize::try_from(state.failed.saturating_sub(seen)).unwrap_or(usize::MAX);
        let skipped = state.failures.len().saturating_sub(new);
        (state.failed, state.failures.iter().skip(skipped).cloned().collect())
    }

    /// The fetched bytes since the mount was made.
    pub fn fetched_so_far(&self) -> Fetched {
        let state = self.state();
        let processes = state.processes.iter();
        let processes = processes.map(|(pid, (program, bytes))| {
            (Process { pid: *pid, program: program.clone() }, *bytes)
        });
        let mut processes: Vec<_> = processes.collect();
        processes.sort_by_key(|(process, bytes)| (std::cmp::Reverse(*bytes), process.pid));
        let (files, drives) = (largest_first(&state.files), largest_first(&state.drives));
        Fetched { total: state.total, processes, files, drives }
    }
}

fn charge(counted: &mut HashMap<String, u64>, path: &str, bytes: u64) {
    make_room(counted, path, |bytes| *bytes);
    let sum = counted.entry(path.to_owned()).or_insert(0);
    *sum = sum.saturating_add(bytes);
}

fn largest_first(counted: &HashMap<String, u64>) -> Vec<(String, u64)> {
    let mut all: Vec<_> = counted.iter().map(|(path, bytes)| (path.clone(), *bytes)).collect();
    all.sort_by(|(one, less), (other, more)| more.cmp(less).then(one.cmp(other)));
    all
}

/// Makes room for one more entry, unless `key` has one: removes the smallest if the map is full.
fn make_room<K, Q, V>(counted: &mut HashMap<K, V>, key: &Q, bytes: impl Fn(&V) -> u64)
where
    K: std::hash::Hash + Eq + Clone + std::borrow::Borrow<Q>,
    Q: std::hash::Hash + Eq + ?Sized,
{
    if counted.len() < MAX_COUNTED || counted.contains_key(key) {
        return;
    }
    let smallest = counted.iter().min_by_key(|(_, value)| bytes(value)).map(|(key, _)| key.clone());
    if let Some(smallest) = smallest {
        counted.remove(smallest.borrow());
    }
}

/// Whether an error is an ordinary answer to what the program asked.
fn is_ordinary(error: &Error) -> bool {
    use hypermount_drive::Error as D;
    match error {
        Error::Drive(error) => matches!(
            error,
            D::NotFound
                | D::NotADirectory
                | D::IsADirectory
                | D::AlreadyExists
                | D::NotEmpty
                | D::InvalidPath(_)
                | D::NameTooLong { .. }
                // The kernel asks for security.capability of every file that is written.
                | D::Unsupported(_)
        ),
        Error::NoAttribute
        | Error::BufferTooSmall
        | Error::BeyondEnd
        | Error::WrongKind
        | Error::InvalidArgument
        | Error::NotSupported(_)
        | Error::OtherDrive
        | Error::Stale
        | Error::Overtaken
        | Error::BadHandle
        | Error::Interrupted
        | Error::ShuttingDown => true,
        Error::ReadOnly
        | Error::NotPermitted(_)
        | Error::FileTooLarge
        | Error::NoSpace
        | Error::Busy
        | Error::AnswerTooLarge
        | Error::BadContent(_)
        | Error::TooManyDrives { .. }
        | Error::Panicked => false,
    }
}

fn errno_name(error: &Error) -> String {
    format!("{:?}", nix::errno::Errno::from_raw(errno(error).code()))
}

fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// The ranges of an open file that its readers were charged for, so that bytes fetched ahead are
/// not charged again when they are read.
#[derive(Debug, Default)]
pub(crate) struct Charged {
    ranges: Vec<Range<u64>>,
}

impl Charged {
    /// Adds `range`. Returns the parts of it that were not charged before.
    pub(crate) fn add(&mut self, range: Range<u64>) -> Vec<Range<u64>> {
        let mut new = vec![range.clone()];
        for known in &self.ranges {
            new = new.into_iter().flat_map(|part| without(part, known)).collect();
        }
        match self.ranges.iter_mut().find(|known| touch(known, &range)) {
            Some(known) => *known = known.start.min(range.start)..known.end.max(range.end),
            None => self.ranges.push(range),
        }
        if self.ranges.len() > MAX_RANGES {
            self.ranges.remove(0);
        }
        new
    }
}

fn touch(one: &Range<u64>, other: &Range<u64>) -> bool {
    one.start <= other.end && other.start <= one.end
}

fn without(part: Range<u64>, known: &Range<u64>) -> Vec<Range<u64>> {
    let before = part.start..part.end.min(known.start);
    let after = part.start.max(known.end)..part.end;
    [before, after].into_iter().filter(|range| range.start < range.end).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unavailable() -> Error {
        let core = hypermount_drive::PublicKey::new([1; 32]).discovery_key();
        let waited = std::time::Duration::ZERO;
        hypermount_drive::Error::Unavailable {
            core,
            block: 3,
            waited,
            why: "no peer connected".into(),
        }
        .into()
    }

    #[test]
    fn failures_are_bounded_and_the_newest_stay() {
        let journal = Journal::default();
        for number in 0..=MAX_FAILURES {
            journal.failed(&format!("file {number}"), "read", 0, &unavailable());
        }
        let failures = journal.failures();
        assert_eq!(failures.len(), MAX_FAILURES);
        assert_eq!(failures.first().map(|failure| failure.path.as_str()), Some("file 1"));
        assert_eq!(failures.last().map(|failure| failure.errno.as_str()), Some("ETIMEDOUT"));
        let (count, new) = journal.failures_after(MAX_FAILURES as u64 - 1);
        assert_eq!((count, new.len()), (MAX_FAILURES as u64 + 1, 2));
    }

    #[test]
    fn a_missing_entry_is_not_a_failure() {
        let journal = Journal::default();
        journal.failed("x", "lookup", 0, &hypermount_drive::Error::NotFound.into());
        journal.failed("x", "getxattr", 0, &Error::NoAttribute);
        journal.failed(
            "x",
            "getxattr",
            0,
            &hypermount_drive::Error::Unsupported("security.x".into()).into(),
        );
        assert!(journal.failures().is_empty());
    }

    #[test]
    fn counted_files_are_bounded_and_the_largest_stay() {
        let journal = Journal::default();
        journal.fetched("", "large", 0, 1_000_000);
        for number in 0..MAX_COUNTED as u64 {
            journal.fetched("", &format!("small {number}"), 0, 10 + number);
        }
        let fetched = journal.fetched_so_far();
        assert_eq!(fetched.files.len(), MAX_COUNTED);
        assert_eq!(fetched.files.first(), Some(&("large".to_owned(), 1_000_000)));
        assert!(!fetched.files.iter().any(|(path, _)| path == "small 0"));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_process_is_charged_by_its_name() {
        let journal = Journal::default();
        journal.fetched("notes", "notes/file", std::process::id(), 7);
        let fetched = journal.fetched_so_far();
        let (process, bytes) = fetched.processes.first().expect("it is counted");
        assert_eq!((process.pid, *bytes), (std::process::id(), 7));
        assert_eq!(fetched.drives, [("notes".to_owned(), 7)]);
    }

    #[test]
    fn a_range_is_charged_once() {
        let mut charged = Charged::default();
        let mut new = |range: Range<u64>| {
            charged.add(range).into_iter().map(|new| (new.start, new.end)).collect::<Vec<_>>()
        };
        assert_eq!(new(0..100), [(0, 100)]);
        assert_eq!(new(50..150), [(100, 150)]);
        assert_eq!(new(0..150), []);
        assert_eq!(new(300..400), [(300, 400)]);
        assert_eq!(new(100..500), [(150, 300), (400, 500)]);
        for start in 0..MAX_RANGES as u64 + 1 {
            charged.add(start * 1000 + 10_000..start * 1000 + 10_001);
        }
        assert_eq!(charged.ranges.len(), MAX_RANGES);
    }
}
