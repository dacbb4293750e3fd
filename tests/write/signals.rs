//! Programs that a signal ends while a large file of theirs is being stored. The disk of the store does not answer
//! until the test has seen what it looks for (`faults.c`), so no time is measured.

use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::Signal;
use nix::unistd::Pid;
use serde_json::Value;

use crate::common::living::{Mounted, eventually, finish, succeed};
use crate::faults::Stage;
use crate::own::{FORMATS, can_mount};

const FILE_BYTES: usize = 8 << 20;
const BLOCK_BYTES: usize = 65_536;
/// Blocks of the content that the file needs, and some for what the index stores of it.
const BLOCKS: u64 = (FILE_BYTES / BLOCK_BYTES) as u64 + 16;

/// A mount whose disk stops when content is stored.
struct Held {
    stage: Stage,
    mounted: Mounted,
}

impl Held {
    fn new(format: &str) -> Option<Self> {
        let stage = can_mount().then(|| Stage::new(format)).flatten()?;
        let mounted = stage.mount(&mut stage.failing("hold", BLOCK_BYTES));
        Some(Self { stage, mounted })
    }

    fn status(&self) -> Value {
        let text =
            std::fs::read(self.mounted.path(".hypermount/status.json")).expect("it is there");
        serde_json::from_slice(&text).expect("JSON")
    }

    /// Waits until content is being stored. Returns how the status describes that.
    fn reached(&self) -> Value {
        eventually("content is stored", || self.stage.path("reached").exists().then_some(()));
        self.status()["storing"].clone()
    }

    /// dd(1) that writes what it reads.
    fn writer(&self, more: &[&str]) -> Child {
        let mut command = Command::new("dd");
        command.arg(format!("of={}", self.mounted.path("large").display()));
        command.args(["bs=1M", "iflag=fullblock", "status=none"]).args(more);
        command.stdin(Stdio::piped()).spawn().expect("dd(1) starts")
    }

    /// Lets the disk go on, and checks that the file is stored whole, and once.
    fn all_is_stored(mut self, blocks_before: u64) {
        assert_eq!(
            std::fs::metadata(self.mounted.path("large")).expect("there").len(),
            FILE_BYTES as u64
        );
        std::fs::remove_file(self.stage.path("reached")).expect("it waits");
        eventually("nothing is being stored", || {
            self.status()["storing"].as_array().is_some_and(Vec::is_empty).then_some(())
        });
        eventually("the file is closed", || (self.status()["open"] == 0).then_some(()));
        succeed(self.stage.command().arg("unmount").arg(&self.mounted.at));
        self.mounted.process.wait();
        let mounted = self.stage.mount(&mut self.stage.command());
        let bytes = std::fs::read(mounted.path("large")).expect("it is stored");
        assert!(bytes == content(), "{} bytes", bytes.len());
        let held = Self { mounted, stage: self.stage };
        let blocks = held.status()["blocks"].as_u64().expect("a number");
        assert!(blocks <= blocks_before + BLOCKS, "{blocks_before} blocks became {blocks}");
        let _ = finish(held.stage.command().arg("unmount").arg(&held.mounted.at));
    }
}

fn content() -> Vec<u8> {
    (0..FILE_BYTES).map(|at| (at / 7) as u8).collect()
}

fn signal(child: &Child, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(child.id()).expect("a pid"));
    nix::sys::signal::kill(pid, signal).expect("it runs");
}

/// Sentence 149. "A program that a signal ends while one of its files is being stored ends within 1.5 s, and the file is
/// stored whole without it. `status` and `.hypermount/status.json` list the files of 1 MiB or more that are being stored,
/// and how many bytes of each are."
#[test]
fn a_program_that_closes_a_large_file_ends_by_a_signal() {
    for format in FORMATS {
        for by in [Signal::SIGKILL, Signal::SIGTERM] {
            let Some(held) = Held::new(format) else { return };
            let blocks = held.status()["blocks"].as_u64().expect("a number");
            let mut writer = held.writer(&["count=8"]);
            let mut stdin = writer.stdin.take().expect("a pipe");
            stdin.write_all(&content()).expect("it reads");
            let storing = held.reached();
            assert_eq!(storing[0]["path"], "large", "{storing}");
            assert_eq!(storing[0]["bytes"], FILE_BYTES, "{storing}");
            signal(&writer, by);
            let status = writer.wait().expect("it was started");
            assert_eq!(status.signal(), Some(by as i32), "{format}");
            held.all_is_stored(blocks);
        }
    }
}

/// Sentence 149. "A program that a signal ends while one of its files is being stored ends within 1.5 s, and the file is
/// stored whole without it."
#[test]
fn a_killed_program_ends_before_its_files_are_stored() {
    for format in FORMATS {
        let Some(held) = Held::new(format) else { return };
        let blocks = held.status()["blocks"].as_u64().expect("a number");
        let mut writer = held.writer(&[]);
        let mut stdin = writer.stdin.take().expect("a pipe");
        stdin.write_all(&content()).expect("it reads");
        let large = held.mounted.path("large");
        eventually("all is written", || {
            std::fs::metadata(&large)
                .is_ok_and(|file| file.len() == FILE_BYTES as u64)
                .then_some(())
        });
        // dd(1) reads on; the kernel closes its file.
        signal(&writer, Signal::SIGKILL);
        let status = writer.wait().expect("it was started");
        assert_eq!(status.signal(), Some(Signal::SIGKILL as i32), "{format}");
        assert_eq!(held.reached()[0]["bytes_stored"], 0);
        held.all_is_stored(blocks);
    }
}
