//! The workloads on a drive of Hyperdrive 13. The reference has no mount of these drives: its reader
//! does the same work through the API, and is asked for it by lines of JSON
//! (`tests/bench/reference/modern.js`).
//!
//! Not here: workloads that both candidates do on a mount (`workload.rs`).

use crate::data::{DataFile, MIB, middle_file, short_stream_file};
use crate::workload::{
    Bench, Outcome, Step, megabytes_per_second, milliseconds, probe, run_list, time_to_first_byte,
    tree_entries,
};
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

pub const TTFB_COLD: Step = Step { name: "ttfb_cold", unit: "ms", run: first_byte };
pub const LIST: Step = Step { name: "list", unit: "ms", run: list };
pub const READDIR: Step = Step { name: "readdir", unit: "ms", run: read_directory };
pub const STREAM: Step = Step { name: "stream", unit: "MB/s", run: stream };
pub const MIDDLE: Step = Step { name: "middle", unit: "ms", run: middle };
pub const FILES: Step = Step { name: "files", unit: "MB/s", run: every_file };

/// Names in the root of the tree.
const ROOT_NAMES: u64 = 36;

/// What the reader of the reference is asked to do.
#[derive(Serialize)]
struct Task {
    r#do: &'static str,
    /// Seconds.
    limit: f64,
    #[serde(skip_serializing_if = "String::is_empty")]
    path: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    paths: Vec<String>,
    start: u64,
    /// Zero is all of the file.
    length: u64,
}

/// What was done, by either candidate.
#[derive(Deserialize)]
struct Done {
    seconds: f64,
    count: u64,
    bytes: u64,
    cut: bool,
    good: bool,
}

impl Task {
    fn new(r#do: &'static str, bench: &Bench) -> Task {
        let limit = bench.limit.as_secs_f64();
        Task { r#do, limit, path: String::new(), paths: Vec::new(), start: 0, length: 0 }
    }

    fn of(mut self, file: &DataFile) -> Task {
        self.path = file.path.to_string_lossy().into_owned();
        self
    }

    /// Has the reader of the reference do it; `None` on a mount.
    fn asked(&self, bench: &Bench) -> io::Result<Option<Done>> {
        let Some(ask) = bench.ask else { return Ok(None) };
        Ok(Some(serde_json::from_str(&ask(&serde_json::to_string(self)?)?)?))
    }
}

impl Done {
    fn took(&self) -> Duration {
        Duration::from_secs_f64(self.seconds)
    }

    fn checked(&self, value: f64) -> Outcome {
        Outcome::new(value).cut(self.cut).check(self.good, || "wrong bytes".into())
    }
}

fn first_byte(bench: &Bench) -> io::Result<Outcome> {
    let file = probe(bench.set);
    match Task::new("file", bench).of(&file).asked(bench)? {
        Some(done) => {
            Ok(done.checked(milliseconds(done.took())).expect("bytes", done.bytes, file.size))
        }
        None => time_to_first_byte(bench),
    }
}

/// The API lists files, `ls -lR` directories as well.
fn list(bench: &Bench) -> io::Result<Outcome> {
    if let Some(done) = Task::new("list", bench).asked(bench)? {
        let files = bench.set.files().len() as u64;
        return Ok(done.checked(milliseconds(done.took())).expect("entries", done.count, files));
    }
    let (done, entries) = run_list(bench)?;
    Ok(Outcome::new(milliseconds(done.took)).cut(done.cut).unless_failed(&done, "ls").expect(
        "entries",
        entries,
        tree_entries(bench.set),
    ))
}

fn read_directory(bench: &Bench) -> io::Result<Outcome> {
    if let Some(done) = Task::new("readdir", bench).asked(bench)? {
        let outcome = done.checked(milliseconds(done.took()));
        return Ok(outcome.expect("names", done.count, ROOT_NAMES));
    }
    let started = Instant::now();
    let mut names = 0;
    for entry in fs::read_dir(bench.root)? {
        names += u64::from(entry.is_ok());
    }
    Ok(Outcome::new(milliseconds(started.elapsed())).expect("names", names, ROOT_NAMES))
}

fn stream(bench: &Bench) -> io::Result<Outcome> {
    let file = short_stream_file();
    let task = Task::new("stream", bench).of(&file);
    let done = match task.asked(bench)? {
        Some(done) => done,
        None => read_through(bench, &file)?,
    };
    Ok(done
        .checked(megabytes_per_second(done.bytes, done.took()))
        .expect("bytes", done.bytes, file.size))
}

fn read_through(bench: &Bench, expected: &DataFile) -> io::Result<Done> {
    let mut buffer = vec![0; MIB as usize];
    let started = Instant::now();
    let file = File::open(bench.root.join(&expected.path))?;
    let (mut bytes, mut good, mut cut) = (0, true, false);
    loop {
        let length = file.read_at(&mut buffer, bytes)?;
        if length == 0 {
            break;
        }
        // A sample of each read: enough to see a wrong block, too little to cost anything.
        let sample = 64.min(length & !7);
        good &= !bytes.is_multiple_of(8) || expected.matches(bytes, &buffer[..sample]);
        bytes += length as u64;
        if started.elapsed() > bench.limit {
            cut = bytes < expected.size;
            break;
        }
    }
    Ok(Done { seconds: started.elapsed().as_secs_f64(), count: 1, bytes, cut, good })
}

/// One mebibyte in the middle of the file, not at the boundary of a block.
fn middle(bench: &Bench) -> io::Result<Outcome> {
    let expected = middle_file();
    let start = expected.size / 2 + 4096;
    let task = Task { start, length: MIB, ..Task::new("stream", bench).of(&expected) };
    if let Some(done) = task.asked(bench)? {
        return Ok(done.checked(milliseconds(done.took())).expect("bytes", done.bytes, MIB));
    }
    let mut buffer = vec![0; MIB as usize];
    let started = Instant::now();
    File::open(bench.root.join(&expected.path))?.read_exact_at(&mut buffer, start)?;
    let took = started.elapsed();
    Ok(Outcome::new(milliseconds(took))
        .check(expected.matches(start, &buffer), || "wrong bytes".into()))
}

/// All files of the tree one after the other, each read whole before the next is opened.
fn every_file(bench: &Bench) -> io::Result<Outcome> {
    let mut files = bench.set.files();
    files.sort_by(|a, b| a.path.cmp(&b.path));
    let paths = files.iter().map(|file| file.path.to_string_lossy().into_owned()).collect();
    let done = match (Task { paths, ..Task::new("files", bench) }).asked(bench)? {
        Some(done) => done,
        None => read_files(bench, &files)?,
    };
    let expected = files.iter().take(done.count as usize).map(|file| file.size).sum();
    Ok(done
        .checked(megabytes_per_second(done.bytes, done.took()))
        .expect("files", done.count, files.len() as u64)
        .expect("bytes", done.bytes, expected))
}

fn read_files(bench: &Bench, files: &[DataFile]) -> io::Result<Done> {
    let mut buffer = Vec::new();
    let started = Instant::now();
    let mut done = Done { seconds: 0.0, count: 0, bytes: 0, cut: false, good: true };
    for expected in files {
        buffer.clear();
        File::open(bench.root.join(&expected.path))?.read_to_end(&mut buffer)?;
        done.good &= expected.matches(0, &buffer[..64.min(buffer.len())]);
        done.count += 1;
        done.bytes += buffer.len() as u64;
        if started.elapsed() > bench.limit {
            done.cut = done.count < files.len() as u64;
            break;
        }
    }
    done.seconds = started.elapsed().as_secs_f64();
    Ok(done)
}
