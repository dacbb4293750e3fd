//! The workloads on a mounted data set, and how they are timed. Every workload checks that it got
//! the right bytes or names, at a cost that does not show in its figure.

use crate::data::{DataFile, DataSet, MIB, mixed, seek_file, shared_file, stream_file};
use crate::net::Net;
use crate::process::{Logs, Streamed, stream};
use crate::tools::git;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// The tools and data of a workload.
pub struct Bench<'a> {
    pub root: &'a Path,
    pub set: DataSet,
    pub net: Net,
    pub repetition: u64,
    pub limit: Duration,
    pub archive: &'a Path,
    pub repository: &'a Path,
    /// What the candidate stores, if it writes.
    pub store: &'a Path,
    /// The command that imports the tree at `root` into a new drive.
    pub import: &'a dyn Fn() -> io::Result<Command>,
    pub logs: &'a Logs,
    /// Stops one of the links.
    pub stall: &'a dyn Fn(),
    /// Gives the reader of the reference a task and returns its answer; `None` on a mount.
    pub ask: Option<Ask<'a>>,
}

/// A line to a reader and the line that it answers.
pub type Ask<'a> = &'a dyn Fn(&str) -> io::Result<String>;

/// A figure, in the unit of its workload.
#[derive(Clone, Debug)]
pub struct Outcome {
    pub value: f64,
    /// The time limit ended the run; the figure covers the work until then.
    pub cut: bool,
    /// The first wrong result, if any.
    pub fault: Option<String>,
}

pub type Workload = fn(&Bench) -> io::Result<Outcome>;

/// The name under which a workload is reported, its unit, and how it is done.
#[derive(Clone, Copy)]
pub struct Step {
    pub name: &'static str,
    pub unit: &'static str,
    pub run: Workload,
}

pub const TTFB_COLD: Step = Step { name: "ttfb_cold", unit: "ms", run: time_to_first_byte };
pub const TTFB_WARM: Step = Step { name: "ttfb_warm", unit: "ms", run: time_to_first_byte_again };
pub const LSR_COLD: Step = Step { name: "lsr_cold", unit: "entries/s", run: list };
pub const LSR_WARM: Step = Step { name: "lsr_warm", unit: "entries/s", run: list };
pub const FIND_COLD: Step = Step { name: "find_cold", unit: "entries/s", run: find };
pub const FIND_WARM: Step = Step { name: "find_warm", unit: "entries/s", run: find };
pub const STAT_WARM: Step = Step { name: "stat_warm", unit: "stat/s", run: stat };
pub const TAR_COLD: Step = Step { name: "tar_cold", unit: "files/s", run: tar };
pub const TAR_WARM: Step = Step { name: "tar_warm", unit: "files/s", run: tar };
pub const SEQ_COLD: Step = Step { name: "seq_cold", unit: "MB/s", run: sequential };
pub const SEQ_WARM: Step = Step { name: "seq_warm", unit: "MB/s", run: sequential };
pub const RAND4K_WARM: Step = Step { name: "rand4k_warm", unit: "IOPS", run: random_warm };
pub const RAND4K_COLD: Step = Step { name: "rand4k_cold", unit: "us (median)", run: random_cold };
pub const SEEK10: Step = Step { name: "seek10", unit: "s", run: seek };
pub const OPEN_FIRST: Step = Step { name: "open_first", unit: "RTT", run: open_first };
pub const LSR_1K: Step = Step { name: "lsr_1k", unit: "RTT", run: list_round_trips };
pub const TAR_1K: Step = Step { name: "tar_1k", unit: "RTT/file", run: tar_round_trips };
pub const THREE_PEERS: Step = Step { name: "three_peers", unit: "Mbit/s", run: from_three_peers };
pub const STALLED_PEER: Step =
    Step { name: "stalled_peer", unit: "s (longest wait)", run: with_a_stalled_peer };
pub const SEQWRITE: Step = Step { name: "seqwrite", unit: "MB/s", run: sequential_write };
pub const UNTAR: Step = Step { name: "untar", unit: "files/s", run: untar };
pub const RMRF: Step = Step { name: "rmrf", unit: "entries/s", run: remove };
pub const APPEND: Step = Step { name: "append", unit: "ms (median)", run: append };
pub const IMPORT: Step = Step { name: "import", unit: "files/s", run: import };
pub const GITCLONE: Step = Step { name: "gitclone", unit: "s", run: git_clone };

/// Page-sized reads of a cold random workload.
const COLD_READS: u64 = 200;
/// Reads of a warm file.
const WARM_READS: u64 = 200_000;
const PAGE: u64 = 4096;
const ARCHIVED_FILES: u64 = 5_000;
const ARCHIVED_DIRECTORIES: u64 = 50;
/// The file that is appended to, and how often.
const APPENDED_TO_BYTES: u64 = 1024 * MIB;
const APPENDS: u64 = 20;
/// Most bytes by which the store may grow with each of them.
const APPEND_GROWTH: u64 = 100 * 1024;

impl Outcome {
    pub fn new(value: f64) -> Outcome {
        Outcome { value, cut: false, fault: None }
    }

    pub fn cut(mut self, cut: bool) -> Outcome {
        self.cut = cut;
        self
    }

    pub fn check(mut self, good: bool, complaint: impl FnOnce() -> String) -> Outcome {
        if !good && self.fault.is_none() {
            self.fault = Some(complaint());
        }
        self
    }

    /// A failed command did not do the measured work.
    pub fn unless_failed(mut self, done: &Streamed, command: &str) -> Outcome {
        if !done.succeeded {
            self.value = f64::NAN;
        }
        self.check(done.succeeded, || format!("{command} failed"))
    }

    /// Checks a count, unless the time limit ended the run.
    pub fn expect(self, what: &str, found: u64, expected: u64) -> Outcome {
        let good = if self.cut { found <= expected } else { found == expected };
        self.check(good, || format!("{found} {what}, expected {expected}"))
    }
}

fn per_second(count: u64, took: Duration) -> f64 {
    count as f64 / took.as_secs_f64()
}

pub fn megabytes_per_second(bytes: u64, took: Duration) -> f64 {
    per_second(bytes, took) / 1e6
}

pub fn milliseconds(took: Duration) -> f64 {
    took.as_secs_f64() * 1000.0
}

/// The file of a tree whose first byte is timed: not one at the start of a listing.
pub fn probe(set: DataSet) -> DataFile {
    let files = set.files();
    files[files.len() / 2].clone()
}

fn read_probe(bench: &Bench) -> io::Result<(Duration, bool)> {
    let file = probe(bench.set);
    let path = bench.root.join(&file.path);
    let mut buffer = [0; PAGE as usize];
    let started = Instant::now();
    let length = File::open(path)?.read_at(&mut buffer, 0)?;
    let took = started.elapsed();
    Ok((took, length as u64 == file.size.min(PAGE) && file.matches(0, &buffer[..length])))
}

pub fn time_to_first_byte(bench: &Bench) -> io::Result<Outcome> {
    let (took, good) = read_probe(bench)?;
    Ok(Outcome::new(milliseconds(took)).check(good, || "wrong bytes".into()))
}

fn open_first(bench: &Bench) -> io::Result<Outcome> {
    let (took, good) = read_probe(bench)?;
    Ok(Outcome::new(took.as_secs_f64() / bench.net.round_trip())
        .check(good, || "wrong bytes".into()))
}

fn time_to_first_byte_again(bench: &Bench) -> io::Result<Outcome> {
    let mut times = Vec::new();
    for _ in 0..21 {
        let (took, good) = read_probe(bench)?;
        if !good {
            return Ok(Outcome::new(0.0).check(false, || "wrong bytes".into()));
        }
        times.push(milliseconds(took));
    }
    Ok(Outcome::new(median(&mut times)))
}

pub fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        odd if odd % 2 == 1 => values[odd / 2],
        even => (values[even / 2 - 1] + values[even / 2]) / 2.0,
    }
}

/// `ls -lR`: its duration, and the number of entries that it listed.
pub fn run_list(bench: &Bench) -> io::Result<(Streamed, u64)> {
    let (mut entries, mut line_start) = (0, true);
    let mut ls = Command::new("ls");
    let done = stream(ls.arg("-lR").current_dir(bench.root), bench.limit, bench.logs, |bytes| {
        for &byte in bytes {
            entries += u64::from(line_start && matches!(byte, b'-' | b'd' | b'l'));
            line_start = byte == b'\n';
        }
    })?;
    Ok((done, entries))
}

pub fn tree_entries(set: DataSet) -> u64 {
    set.files().len() as u64 + set.directories()
}

fn list(bench: &Bench) -> io::Result<Outcome> {
    let (done, entries) = run_list(bench)?;
    Ok(Outcome::new(per_second(entries, done.took))
        .cut(done.cut)
        .unless_failed(&done, "ls")
        .expect("entries", entries, tree_entries(bench.set)))
}

fn list_round_trips(bench: &Bench) -> io::Result<Outcome> {
    let (done, entries) = run_list(bench)?;
    Ok(Outcome::new(done.took.as_secs_f64() / bench.net.round_trip())
        .cut(done.cut)
        .unless_failed(&done, "ls")
        .expect("entries", entries, tree_entries(bench.set)))
}

fn run_lines(command: &mut Command, bench: &Bench) -> io::Result<(Streamed, u64)> {
    let mut lines = 0;
    let done = stream(command, bench.limit, bench.logs, |bytes| {
        lines += bytes.iter().filter(|byte| **byte == b'\n').count() as u64;
    })?;
    Ok((done, lines))
}

fn find(bench: &Bench) -> io::Result<Outcome> {
    let (done, lines) = run_lines(Command::new("find").arg(".").current_dir(bench.root), bench)?;
    let entries = lines.saturating_sub(1);
    Ok(Outcome::new(per_second(entries, done.took))
        .cut(done.cut)
        .unless_failed(&done, "find")
        .expect("entries", entries, tree_entries(bench.set)))
}

fn stat(bench: &Bench) -> io::Result<Outcome> {
    let files = bench.set.files();
    let paths: Vec<_> = files.iter().map(|file| bench.root.join(&file.path)).collect();
    let started = Instant::now();
    let (mut done, mut bytes) = (0, 0);
    for path in &paths {
        bytes += fs::symlink_metadata(path)?.len();
        done += 1;
        if done % 256 == 0 && started.elapsed() > bench.limit {
            break;
        }
    }
    let took = started.elapsed();
    let expected = files.iter().take(done as usize).map(|file| file.size).sum();
    let cut = done < files.len() as u64;
    Ok(Outcome::new(per_second(done, took)).cut(cut).expect("bytes", bytes, expected))
}

/// Counts the files of a ustar stream and their bytes.
#[derive(Default)]
struct TarCount {
    header: Vec<u8>,
    /// Content and padding still to come before the next header.
    skip: u64,
    files: u64,
    bytes: u64,
}

impl TarCount {
    const BLOCK: usize = 512;

    fn take(&mut self, mut input: &[u8]) {
        while !input.is_empty() {
            if self.skip > 0 {
                let skipped = self.skip.min(input.len() as u64);
                self.skip -= skipped;
                input = &input[skipped as usize..];
                continue;
            }
            let wanted = Self::BLOCK - self.header.len();
            let (part, rest) = input.split_at(wanted.min(input.len()));
            self.header.extend_from_slice(part);
            input = rest;
            if self.header.len() == Self::BLOCK {
                self.entry();
                self.header.clear();
            }
        }
    }

    fn entry(&mut self) {
        let digits = self.header[124..136].iter().filter(|byte| byte.is_ascii_digit());
        let size = digits.fold(0, |size, digit| size * 8 + u64::from(digit - b'0'));
        if self.header[156] == b'0' {
            self.files += 1;
            self.bytes += size;
        }
        self.skip = size.next_multiple_of(Self::BLOCK as u64);
    }
}

fn run_tar(bench: &Bench) -> io::Result<(Streamed, TarCount)> {
    let mut count = TarCount::default();
    let mut tar = Command::new("tar");
    tar.args(["--sort=name", "-cf", "-", "."]).current_dir(bench.root);
    let done = stream(&mut tar, bench.limit, bench.logs, |bytes| count.take(bytes))?;
    Ok((done, count))
}

fn check_tar(outcome: Outcome, bench: &Bench, done: &Streamed, count: &TarCount) -> Outcome {
    let files = bench.set.files();
    let bytes = files.iter().map(|file| file.size).sum();
    outcome
        .cut(done.cut)
        .unless_failed(done, "tar")
        .expect("files", count.files, files.len() as u64)
        .expect("bytes", count.bytes, bytes)
}

fn tar(bench: &Bench) -> io::Result<Outcome> {
    let (done, count) = run_tar(bench)?;
    let outcome = Outcome::new(per_second(count.files, done.took));
    Ok(check_tar(outcome, bench, &done, &count))
}

fn tar_round_trips(bench: &Bench) -> io::Result<Outcome> {
    let (done, count) = run_tar(bench)?;
    let round_trips = done.took.as_secs_f64() / bench.net.round_trip();
    Ok(check_tar(Outcome::new(round_trips / count.files as f64), bench, &done, &count))
}

fn sequential(bench: &Bench) -> io::Result<Outcome> {
    let expected = stream_file();
    let file = File::open(bench.root.join(&expected.path))?;
    let mut buffer = vec![0; MIB as usize];
    let started = Instant::now();
    let (mut offset, mut good) = (0, true);
    while started.elapsed() < bench.limit {
        let length = file.read_at(&mut buffer, offset)?;
        if length == 0 {
            break;
        }
        // A sample of each read: enough to see a wrong block, too little to cost anything.
        let aligned = length & !7;
        good &= !offset.is_multiple_of(8) || expected.matches(offset, &buffer[..64.min(aligned)]);
        offset += length as u64;
    }
    let took = started.elapsed();
    Ok(Outcome::new(per_second(offset, took) / 1e6)
        .cut(offset < expected.size && took >= bench.limit)
        .check(good, || "wrong bytes".into())
        .expect("bytes", offset, expected.size))
}

/// Reads the shared file in pieces and passes the end of each piece and its duration to `read`.
fn read_shared(bench: &Bench, mut read: impl FnMut(u64, Duration)) -> io::Result<(u64, bool)> {
    const PIECE: usize = 64 << 10;
    let expected = shared_file();
    let file = File::open(bench.root.join(&expected.path))?;
    let mut buffer = vec![0; PIECE];
    let (started, mut offset, mut good) = (Instant::now(), 0, true);
    while started.elapsed() < bench.limit {
        let asked = Instant::now();
        let length = file.read_at(&mut buffer, offset)?;
        if length == 0 {
            break;
        }
        good &= expected.matches(offset, &buffer[..length]);
        offset += length as u64;
        read(offset, asked.elapsed());
    }
    Ok((offset, good))
}

fn from_three_peers(bench: &Bench) -> io::Result<Outcome> {
    let started = Instant::now();
    let (read, good) = read_shared(bench, |_, _| ())?;
    let size = shared_file().size;
    Ok(Outcome::new(per_second(read * 8, started.elapsed()) / 1e6)
        .cut(read < size)
        .check(good, || "wrong bytes".into())
        .expect("bytes", read, size))
}

/// After a third of the file, one of the peers falls silent without closing its connection.
fn with_a_stalled_peer(bench: &Bench) -> io::Result<Outcome> {
    let size = shared_file().size;
    let (mut stalled, mut longest) = (false, Duration::ZERO);
    let (read, good) = read_shared(bench, |end, took| {
        if stalled {
            longest = longest.max(took);
        } else if end > size / 3 {
            (bench.stall)();
            stalled = true;
        }
    })?;
    Ok(Outcome::new(longest.as_secs_f64())
        .cut(read < size)
        .check(good && stalled, || "wrong bytes".into())
        .expect("bytes", read, size))
}

/// The n-th page-aligned offset of a random series, which each repetition has of its own.
fn random_page(file: &DataFile, series: u64, n: u64) -> u64 {
    mixed((series << 32) + n) % (file.size / PAGE) * PAGE
}

fn random_warm(bench: &Bench) -> io::Result<Outcome> {
    let expected = stream_file();
    let file = File::open(bench.root.join(&expected.path))?;
    let mut buffer = [0; PAGE as usize];
    let started = Instant::now();
    let (mut done, mut good) = (0, true);
    while done < WARM_READS {
        let offset = random_page(&expected, bench.repetition, done);
        file.read_exact_at(&mut buffer, offset)?;
        good &= expected.matches(offset, &buffer[..8]);
        done += 1;
        if done % 256 == 0 && started.elapsed() > bench.limit {
            break;
        }
    }
    Ok(Outcome::new(per_second(done, started.elapsed()))
        .cut(done < WARM_READS)
        .check(good, || "wrong bytes".into()))
}

fn random_cold(bench: &Bench) -> io::Result<Outcome> {
    let expected = seek_file();
    let file = File::open(bench.root.join(&expected.path))?;
    let mut buffer = [0; PAGE as usize];
    let started = Instant::now();
    let (mut times, mut good) = (Vec::new(), true);
    for n in 0..COLD_READS {
        let offset = random_page(&expected, bench.repetition, n);
        let read = Instant::now();
        file.read_exact_at(&mut buffer, offset)?;
        times.push(read.elapsed().as_secs_f64() * 1e6);
        good &= expected.matches(offset, &buffer);
        if started.elapsed() > bench.limit {
            break;
        }
    }
    let cut = (times.len() as u64) < COLD_READS;
    Ok(Outcome::new(median(&mut times)).cut(cut).check(good, || "wrong bytes".into()))
}

/// Ten times one mebibyte, all over the file.
fn seek(bench: &Bench) -> io::Result<Outcome> {
    const SEEKS: u64 = 10;
    let expected = seek_file();
    let file = File::open(bench.root.join(&expected.path))?;
    let mut buffer = vec![0; MIB as usize];
    let (mut took, mut done, mut good) = (Duration::ZERO, 0, true);
    while done < SEEKS && took < bench.limit {
        // 7 is prime to 10: every tenth of the file once, never the next one.
        let offset = (done * 7 % SEEKS) * 100 * MIB + 13 * MIB + 4096;
        let started = Instant::now();
        file.read_exact_at(&mut buffer, offset)?;
        took += started.elapsed();
        good &= expected.matches(offset, &buffer);
        done += 1;
    }
    let all = took.as_secs_f64() * SEEKS as f64 / done as f64;
    Ok(Outcome::new(all).cut(done < SEEKS).check(good, || "wrong bytes".into()))
}

fn sequential_write(bench: &Bench) -> io::Result<Outcome> {
    let content = stream_file();
    let path = bench.root.join("written.bin");
    // Made beforehand: the figure is of the file system alone.
    let mut pieces = vec![0; 16 * MIB as usize];
    content.fill(0, &mut pieces);
    let mut file = File::options().create_new(true).write(true).open(&path)?;
    let started = Instant::now();
    let mut written = 0;
    for piece in pieces.chunks(MIB as usize).cycle().take((content.size / MIB) as usize) {
        file.write_all(piece)?;
        written += piece.len() as u64;
        if started.elapsed() > bench.limit {
            break;
        }
    }
    file.sync_all()?;
    drop(file);
    let took = started.elapsed();
    let outcome = Outcome::new(per_second(written, took) / 1e6).cut(written < content.size);
    let mut read_back = vec![0; MIB as usize];
    File::open(&path)?.read_exact_at(&mut read_back, 16 * MIB)?;
    Ok(outcome
        .expect("bytes", fs::metadata(&path)?.len(), written)
        .check(read_back == pieces[..MIB as usize], || "wrong bytes read back".into()))
}

fn untar(bench: &Bench) -> io::Result<Outcome> {
    let (mut files, mut last) = (0, 0);
    let mut tar = Command::new("tar");
    tar.arg("-xvf").arg(bench.archive).arg("-C").arg(bench.root);
    let done = stream(&mut tar, bench.limit, bench.logs, |bytes| {
        for &byte in bytes {
            files += u64::from(byte == b'\n' && last != b'/');
            last = byte;
        }
    })?;
    Ok(Outcome::new(per_second(files, done.took)).cut(done.cut).unless_failed(&done, "tar").expect(
        "files",
        files,
        ARCHIVED_FILES,
    ))
}

fn remove(bench: &Bench) -> io::Result<Outcome> {
    let mut rm = Command::new("rm");
    rm.arg("-rfv").args((0..ARCHIVED_DIRECTORIES).map(|n| format!("directory-{n:03}")));
    let (done, lines) = run_lines(rm.current_dir(bench.root), bench)?;
    Ok(Outcome::new(per_second(lines, done.took)).cut(done.cut).unless_failed(&done, "rm").expect(
        "entries",
        lines,
        ARCHIVED_FILES + ARCHIVED_DIRECTORIES,
    ))
}

/// Opens a file of 1 GiB, appends 4 KiB and closes it.
fn append(bench: &Bench) -> io::Result<Outcome> {
    let path = bench.root.join("appended.bin");
    let content = stream_file();
    let mut piece = vec![0; MIB as usize];
    let mut file = File::options().create_new(true).write(true).open(&path)?;
    for at in 0..APPENDED_TO_BYTES / MIB {
        content.fill(at * MIB % content.size, &mut piece);
        file.write_all(&piece)?;
    }
    file.sync_all()?;
    drop(file);
    let before = blocks_of(bench.store)?;
    let mut times = Vec::new();
    for _ in 0..APPENDS {
        let started = Instant::now();
        let mut file = File::options().append(true).open(&path)?;
        file.write_all(&piece[..PAGE as usize])?;
        // Nix reports the error of close(2), which dropping the file does not.
        nix::unistd::close(file)?;
        times.push(started.elapsed().as_secs_f64() * 1000.0);
    }
    File::open(&path)?.sync_all()?;
    let grown = blocks_of(bench.store)?.saturating_sub(before) / APPENDS;
    let outcome = Outcome::new(median(&mut times)).expect(
        "bytes",
        fs::metadata(&path)?.len(),
        APPENDED_TO_BYTES + APPENDS * PAGE,
    );
    Ok(outcome.check(grown <= APPEND_GROWTH, || format!("{grown} bytes more for each")))
}

/// The disk space of a directory in bytes.
fn blocks_of(directory: &Path) -> io::Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        bytes += match metadata.is_dir() {
            true => blocks_of(&entry.path())?,
            false => metadata.blocks() * 512,
        };
    }
    Ok(bytes)
}

fn import(bench: &Bench) -> io::Result<Outcome> {
    let mut command = (bench.import)()?;
    let done = stream(&mut command, bench.limit, bench.logs, |_| {})?;
    let files = bench.set.files().len() as u64;
    Ok(Outcome::new(per_second(files, done.took)).cut(done.cut).unless_failed(&done, "import"))
}

fn git_clone(bench: &Bench) -> io::Result<Outcome> {
    let mut clone = git();
    clone.args(["clone", "--quiet", "--no-hardlinks"]).arg(bench.repository).arg("clone");
    let done = stream(clone.current_dir(bench.root), bench.limit, bench.logs, |_| {})?;
    let outcome =
        Outcome::new(done.took.as_secs_f64()).cut(done.cut).unless_failed(&done, "git clone");
    if done.cut || !done.succeeded {
        return Ok(outcome);
    }
    let mut changes = 0;
    let mut status = git();
    status.args(["status", "--porcelain"]).current_dir(bench.root.join("clone"));
    let checked = stream(&mut status, bench.limit, bench.logs, |bytes| changes += bytes.len())?;
    Ok(outcome.check(checked.succeeded && changes == 0, || "the clone differs".into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tar_files_are_counted_across_reads_of_any_size() {
        let mut header = vec![0; 512];
        header[124..136].copy_from_slice(b"00000001750\0");
        header[156] = b'0';
        let mut archive = header.clone();
        archive.extend([7; 1024]);
        header[124..136].copy_from_slice(b"00000000000\0");
        header[156] = b'5';
        archive.extend(header);
        archive.extend([0; 1024]);
        for size in [1, 100, 512, 4096] {
            let mut count = TarCount::default();
            archive.chunks(size).for_each(|part| count.take(part));
            assert_eq!((count.files, count.bytes), (1, 1000), "in pieces of {size}");
        }
    }

    #[test]
    fn a_short_count_is_a_fault_unless_time_was_up() {
        assert!(Outcome::new(1.0).expect("files", 9, 10).fault.is_some());
        assert!(Outcome::new(1.0).cut(true).expect("files", 9, 10).fault.is_none());
        assert!(Outcome::new(1.0).cut(true).expect("files", 11, 10).fault.is_some());
    }

    #[test]
    fn the_median_of_an_even_number_lies_between() {
        assert_eq!(median(&mut [4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!(median(&mut [3.0, 1.0, 2.0]), 2.0);
    }
}
