//! Two daemons under repeated load: files change, and mounts, peers and strangers come and go. The
//! resources that the daemons use must not grow.
//!
//! `HYPERMOUNT_SOAK=3600 cargo test --release --test daemon soak -- --nocapture` takes an hour.

use std::fs;
use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::common::{Home, KEY, eventually};
use crate::steps::*;

/// Duration unless the environment sets another.
const BRIEF: Duration = Duration::from_secs(20);
const DIRECTORIES: usize = 100;
const FILES: usize = 10_000;
const CHANGED_A_ROUND: usize = 100;
const STRANGERS: usize = 20;
const FEWEST_ROUNDS: usize = 8;
/// Resources that the last quarter may use in addition to those of the second: for threads and
/// connections that are just starting or ending, and caches that are not full yet.
const MORE_THREADS: usize = 8;
const MORE_DESCRIPTORS: usize = 8;
const MORE_KIB: usize = 16 * 1024;
/// Time over which the processor time of idle daemons is measured, and the limit for it. A debug build on a
/// loaded machine needs up to 0.6 %; a loop that polls every 10 ms needs more than the limit.
const IDLE: Duration = Duration::from_secs(8);
const IDLE_SHARE: f64 = 0.02;

/// The resources that a process uses.
#[derive(Clone, Copy, Debug)]
struct Needs {
    kib: usize,
    descriptors: usize,
    threads: usize,
}

impl Needs {
    fn of(pid: i64) -> Self {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).expect(name);
            line.split_whitespace().next().and_then(|n| n.parse().ok()).expect("a number")
        };
        let open = fs::read_dir(format!("/proc/{pid}/fd")).expect("it runs").count();
        Self { kib: field("VmRSS:"), descriptors: open, threads: field("Threads:") }
    }

    /// The median of each over some rounds.
    fn median(rounds: &[Self]) -> Self {
        let middle = |of: fn(&Self) -> usize| {
            let mut all: Vec<_> = rounds.iter().map(of).collect();
            all.sort_unstable();
            all[all.len() / 2]
        };
        Self {
            kib: middle(|needs| needs.kib),
            descriptors: middle(|needs| needs.descriptors),
            threads: middle(|needs| needs.threads),
        }
    }
}

/// Processor time of all its threads, by the scheduler's account.
fn processor_time(pid: i64) -> Duration {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("it runs");
    let nanoseconds = |task: fs::DirEntry| {
        let text = fs::read_to_string(task.path().join("schedstat")).ok()?;
        text.split(' ').next()?.parse::<u64>().ok()
    };
    Duration::from_nanos(tasks.flatten().filter_map(nanoseconds).sum())
}

fn pid(home: &Home) -> i64 {
    presence(&default_store(home))["pid"].as_i64().expect("a pid")
}

struct Soak {
    author: Home,
    reader: Home,
    url: String,
    peer: String,
    /// The publisher's mount, and the reader's mount of the same drive.
    here: PathBuf,
    there: PathBuf,
    changed: usize,
}

impl Soak {
    fn new() -> Self {
        let (author, reader) = (Home::new(), Home::new());
        let url = create(&author, "notes");
        let tree = author.make("tree");
        for directory in 0..DIRECTORIES {
            fs::create_dir_all(tree.join(format!("{directory}"))).unwrap();
        }
        for file in 0..FILES {
            fs::write(tree.join(place(file)), format!("file {file}\n")).unwrap();
        }
        author.run(["import", "tree", "notes"]).must_succeed();
        let (here, there) = (author.make("mnt"), reader.make("mnt"));
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        author.run(["seed", "notes", "--listen", &free]).must_succeed();
        author.run(["mount", "notes", "mnt"]).must_succeed();
        reader.run(["mount", &url, "mnt", "--peer", &free]).must_succeed();
        Self { author, reader, url, peer: free, here, there, changed: 0 }
    }

    fn round(&mut self, number: usize) {
        self.change(number);
        self.look();
        self.visit();
        self.strangers();
        // A guest that connects, reads one file and leaves.
        let guest = Home::new();
        let read = ["cat", &self.url, "0/0", "--store", "fetched", "--peer", &self.peer];
        assert!(!guest.run(read).must_succeed().stdout.is_empty());
    }

    /// The author makes and removes a file and changes others, and the reader sees that.
    fn change(&mut self, number: usize) {
        let gone = self.here.join("0/gone");
        fs::write(&gone, "soon").unwrap();
        fs::remove_file(gone).unwrap();
        let mut last = (PathBuf::new(), String::new());
        for _ in 0..CHANGED_A_ROUND {
            let file = self.changed % FILES;
            self.changed += 1;
            last = (place(file), format!("file {file} in round {number}\n"));
            fs::write(self.here.join(&last.0), &last.1).unwrap();
        }
        let (path, text) = last;
        eventually("the reader sees it", || {
            fs::read_to_string(self.there.join(&path)).is_ok_and(|read| read == text)
        });
    }

    fn look(&self) {
        let seen: usize = (0..DIRECTORIES)
            .map(|directory| fs::read_dir(self.there.join(directory.to_string())).unwrap().count())
            .sum();
        assert_eq!(seen, FILES);
        for file in (self.changed..self.changed + CHANGED_A_ROUND).map(|file| file * 7 % FILES) {
            assert!(!fs::read(self.there.join(place(file))).unwrap().is_empty());
        }
    }

    /// Another drive is mounted from a peer that then dies; a drive of the reader's own, too.
    fn visit(&self) {
        let at = self.reader.make("visiting");
        self.author.golden_store("golden");
        let (serving, peer) = serve(&self.author, "golden");
        let url = format!("hyper://{KEY}");
        self.reader.run(["mount", &url, "visiting", "--peer", &peer]).must_succeed();
        assert!(fs::read_dir(&at).unwrap().count() > 0);
        drop(serving);
        self.reader.run(["unmount", "visiting"]).must_succeed();
        if !self.reader.path("own").is_dir() {
            create(&self.reader, "own");
            self.reader.make("own");
        }
        self.reader.run(["mount", "own", "own"]).must_succeed();
        fs::write(self.reader.path("own/written"), noise(100_000)).unwrap();
        self.reader.run(["unmount", "own"]).must_succeed();
    }

    /// Peers without a key: some send nonsense, some nothing, and all close the connection.
    fn strangers(&self) {
        let connections: Vec<_> = (0..STRANGERS)
            .map(|n| {
                let mut stream = TcpStream::connect(&self.peer).unwrap();
                // The daemon may have closed the connection already.
                let _ = stream.write_all(&noise(n * 100));
                stream
            })
            .collect();
        drop(connections);
    }
}

fn place(file: usize) -> PathBuf {
    Path::new(&(file % DIRECTORIES).to_string()).join((file / DIRECTORIES).to_string())
}

#[test]
fn soak() {
    if !can_mount() {
        return;
    }
    let asked = std::env::var("HYPERMOUNT_SOAK").ok().and_then(|seconds| seconds.parse().ok());
    let lasts = asked.map_or(BRIEF, Duration::from_secs);
    let mut soak = Soak::new();
    let daemons = [("author", pid(&soak.author)), ("reader", pid(&soak.reader))];
    let mut rounds: Vec<[Needs; 2]> = Vec::new();
    let started = Instant::now();
    while started.elapsed() < lasts || rounds.len() < FEWEST_ROUNDS {
        soak.round(rounds.len());
        rounds.push(daemons.map(|(_, pid)| Needs::of(pid)));
        if rounds.len().is_power_of_two() || rounds.len().is_multiple_of(100) {
            eprintln!("{:?}, round {}: {:?}", started.elapsed(), rounds.len(), rounds.last());
        }
    }
    for (which, (name, pid)) in daemons.iter().enumerate() {
        assert_eq!(*pid, self::pid(if which == 0 { &soak.author } else { &soak.reader }));
        let all: Vec<Needs> = rounds.iter().map(|round| round[which]).collect();
        let quarter = all.len() / 4;
        let first = Needs::median(&all[quarter..2 * quarter]);
        let last = Needs::median(&all[all.len() - quarter..]);
        eprintln!("{name}: {first:?} in the second quarter, {last:?} in the last");
        assert!(last.threads <= first.threads + MORE_THREADS, "{name}: threads");
        assert!(last.descriptors <= first.descriptors + MORE_DESCRIPTORS, "{name}: descriptors");
        assert!(last.kib <= first.kib + MORE_KIB, "{name}: memory");
    }
    // Work of the last round is done when a connection to each daemon has become silent.
    let before = daemons.map(|(_, pid)| processor_time(pid));
    std::thread::sleep(IDLE); // the measured stretch itself
    for ((name, pid), before) in daemons.into_iter().zip(before) {
        let share = (processor_time(pid) - before).as_secs_f64() / IDLE.as_secs_f64();
        eprintln!("{name}: {:.2} % of a processor while idle", share * 100.0);
        assert!(share < IDLE_SHARE, "{name}: {share}");
    }
    soak.reader.run(["unmount", "mnt"]).must_succeed();
    soak.author.run(["unmount", "mnt"]).must_succeed();
}
