//! A published drive that liars offer, and a runner that measures the command from outside.

use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hypermount_core::sharing::Share;
use hypermount_core::{Sharing, Store};
use hypermount_drive::hyperdrive::Edit;
use hypermount_drive::sharing_options;
use hypermount_drive::stat::TYPE_FILE;
use hypermount_drive::{Drive, DrivePath, Stat};
use tokio::runtime::Runtime;

use crate::common::Home;

/// Most memory a process of ours may ever have had, in KiB.
pub const MOST_MEMORY: u64 = 128 * 1024;
/// Memory in KiB that strangers or a publisher may make a process of ours use above its idle size.
pub const MOST_ABOVE_IDLE: u64 = 64 * 1024;
/// A command that runs longer than this counts as hanging.
pub const HANGS: Duration = Duration::from_secs(60);

const BLOCK: usize = 64 * 1024;
const BLOCKS: usize = 12;

/// A published drive with a file of several blocks, and an honest peer that has it.
pub struct Published {
    pub store: Store,
    pub drive: Drive,
    pub honest: String,
    pub big: Vec<u8>,
    _swarm: Sharing,
    _runtime: Runtime,
}

/// Bytes without a pattern, equal for equal seeds.
pub fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        bytes.extend_from_slice(&(state ^ (state >> 29)).to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

pub fn put(runtime: &Runtime, drive: &Drive, path: &str, blocks: &[Bytes]) {
    let extent = drive.append_content(blocks).expect("appended");
    let stat = Stat { mode: TYPE_FILE | 0o644, extent, ..Stat::default() };
    let path = DrivePath::parse(path).expect("a path");
    runtime.block_on(drive.apply(vec![Edit::Put { path, stat }])).expect("applied");
}

pub fn runtime() -> Runtime {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(2).enable_all().build().expect("a runtime starts")
}

impl Published {
    /// The drive all tests that do not change it share.
    pub fn get() -> &'static Self {
        static PUBLISHED: OnceLock<Published> = OnceLock::new();
        PUBLISHED.get_or_init(Self::new)
    }

    fn new() -> Self {
        let runtime = runtime();
        let store = Store::memory();
        let drive = Drive::create(&store, "published").expect("is made");
        let big = noise(1, BLOCKS * BLOCK - 100);
        let blocks: Vec<Bytes> = big.chunks(BLOCK).map(Bytes::copy_from_slice).collect();
        for number in 0..20 {
            put(&runtime, &drive, &format!("dir/{number}"), &[Bytes::from(noise(number, 50))]);
        }
        put(&runtime, &drive, "big", &blocks);
        let (swarm, honest) = runtime.block_on(async {
            let swarm =
                Sharing::new(&store, sharing_options(Share::Opened)).expect("the network starts");
            let address = swarm.listen("127.0.0.1:0").await.expect("listens");
            (swarm, address.to_string())
        });
        Self { store, drive, honest, big, _swarm: swarm, _runtime: runtime }
    }

    pub fn url(&self, path: &str) -> String {
        format!("hyper://{}/{path}", self.drive.key().to_hex())
    }
}

/// The result of a watched command.
#[derive(Debug)]
pub struct Watched {
    pub code: Option<i32>,
    pub stdout: Vec<u8>,
    pub stderr: String,
    pub took: Duration,
    /// The most memory it had, in KiB.
    pub peak: u64,
}

/// The most memory that a process has had so far, in KiB; 0 once it has ended.
///
/// A parent process continues a moment before its child has released the parent's memory; values
/// read until then are the parent's.
pub fn peak_memory(pid: u32) -> u64 {
    let program = |of: &str| std::fs::read_link(format!("/proc/{of}/exe")).ok();
    if program(&pid.to_string()) == program("self") {
        return 0;
    }
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0)
}

fn drain(mut pipe: impl Read + Send + 'static) -> thread::JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        // A pipe of a killed child ends, too.
        let _ = pipe.read_to_end(&mut bytes);
        bytes
    })
}

/// Runs a command to its end, which must come before [`HANGS`], and measures it.
pub fn watch(command: &mut Command) -> Watched {
    let started = Instant::now();
    let mut child: Child =
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("starts");
    let stdout = drain(child.stdout.take().expect("is piped"));
    let stderr = drain(child.stderr.take().expect("is piped"));
    let mut peak = 0;
    let code = loop {
        peak = peak.max(peak_memory(child.id()));
        if let Some(status) = child.try_wait().expect("our own child") {
            break status.code();
        }
        if started.elapsed() > HANGS {
            let _ = child.kill();
            let _ = child.wait();
            let said = [stdout.join().expect("drained"), stderr.join().expect("drained")].concat();
            let last = said.get(said.len().saturating_sub(2000)..).unwrap_or_default();
            panic!("{command:?} hangs: {}", String::from_utf8_lossy(last));
        }
        // Only spares the processor: the peak is kept by the kernel.
        thread::sleep(Duration::from_millis(2));
    };
    Watched {
        code,
        stdout: stdout.join().expect("drained"),
        stderr: String::from_utf8_lossy(&stderr.join().expect("drained")).into_owned(),
        took: started.elapsed(),
        peak,
    }
}

/// `hypermount cat` of a file, from these peers only, into a store of its own.
pub fn cat(home: &Home, url: &str, peers: &[&str], wait: &str) -> Watched {
    let mut command = home.command();
    command.args(["-v", "cat", url, "--store"]).arg(home.path("fetched")).args(["--wait", wait]);
    for peer in peers {
        command.args(["--peer", peer]);
    }
    watch(&mut command)
}
