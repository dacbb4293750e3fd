//! A publisher whose signatures are valid and whose content is nonsense, mounted by the real
//! command of another user: every walk ends, each bad entry fails by itself, and no path leads out.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hypermount_core::{Share, Sharing, Store, Wait};
use hypermount_drive::testing::trie::{Batch, MOUNT, Nodes, Trie, TrieKey, stat};
use hypermount_drive::{
    Drive, DrivePath, Edit, Extent, MountTarget, Stat, TYPE_DIRECTORY, TYPE_FILE, TYPE_SYMLINK,
    Time, sharing_options,
};
use hypermount_swarm::PublicKey;
use prost::Message as _;
use tokio::runtime::Runtime;

use crate::common::{Home, Running, eventually};
use crate::fixture::{MOST_ABOVE_IDLE, MOST_MEMORY, peak_memory, put, runtime, watch};

/// A drive that is published, and the means to put anything into it.
pub struct Publisher {
    runtime: Runtime,
    store: Store,
    pub drive: Drive,
    pub address: String,
    _swarm: Sharing,
}

impl Publisher {
    pub fn new() -> Self {
        let runtime = runtime();
        let store = Store::memory();
        let drive = Drive::create(&store, "hostile").expect("is made");
        let (swarm, address) = runtime.block_on(async {
            let swarm =
                Sharing::new(&store, sharing_options(Share::Opened)).expect("the network starts");
            let address = swarm.listen("127.0.0.1:0").await.expect("listens");
            (swarm, address.to_string())
        });
        let this = Self { runtime, store, drive, address, _swarm: swarm };
        this.good("good");
        this
    }

    /// An entry without fault.
    fn good(&self, path: &str) {
        put(&self.runtime, &self.drive, path, &[Bytes::copy_from_slice(path.as_bytes())]);
    }

    fn stat(&self, path: &str, stat: Stat) {
        let path = DrivePath::parse(path).expect("a path");
        self.runtime.block_on(self.drive.apply(vec![Edit::Put { path, stat }])).expect("applied");
    }

    fn file(&self, path: &str, extent: Extent) {
        self.stat(path, Stat { mode: TYPE_FILE | 0o644, extent, ..Stat::default() });
    }

    fn link(&self, path: &str, target: &str) {
        let linkname = Some(target.to_owned());
        self.stat(path, Stat { mode: TYPE_SYMLINK | 0o777, linkname, ..Stat::default() });
    }

    /// An entry as no drive of ours would write it.
    fn raw(&self, key: &str, value: impl Into<Bytes>, flags: u64) {
        let core = self.drive.metadata_core();
        let trie = Trie::at(Arc::new(Nodes::new(core.clone())), core.head().length);
        let blocks = self.runtime.block_on(async {
            let mut batch = Batch::new(trie).await.expect("the index is sound");
            let key = TrieKey::new(key, false).expect("a key");
            batch.put(key, Some(value.into()), flags).await.expect("is put");
            batch.encode()
        });
        core.append(&blocks).expect("is appended");
    }

    pub fn block(&self, block: &[u8]) {
        let core = self.drive.metadata_core();
        core.append(&[Bytes::copy_from_slice(block)]).expect("is appended");
    }
}

/// The drive mounted by a stranger.
struct Mounted {
    home: Home,
    running: Running,
    at: PathBuf,
}

impl Mounted {
    /// `None`, with a message, where there is no FUSE.
    fn new(publisher: &Publisher) -> Option<Self> {
        Self::after(publisher, "true")
    }

    /// As above, in a shell that has run `first`.
    fn after(publisher: &Publisher, first: &str) -> Option<Self> {
        if !Path::new("/dev/fuse").exists() {
            eprintln!("SKIPPED: there is no /dev/fuse here");
            return None;
        }
        let home = Home::new();
        let at = home.make("mnt");
        let url = format!("hyper://{}", publisher.drive.key().to_hex());
        let arguments = ["mount", "--foreground", "--wait", "10s", &url, "mnt", "--peer"];
        let plain = home.command();
        let mut command = Command::new("sh");
        command.args(["-c", &format!("{first} && exec \"$0\" \"$@\"")]).arg(plain.get_program());
        for (name, value) in plain.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command.current_dir(home.directory.path()).stdin(Stdio::null());
        // Only the newest version has all entries.
        let running = Running::start(command.args(arguments).arg(&publisher.address));
        running.line();
        Some(Self { home, running, at })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.at.join(name)
    }

    fn error(&self, name: &str) -> Option<i32> {
        fs::read(self.path(name)).expect_err(name).raw_os_error()
    }

    /// Walks the whole tree with the usual tools, which must end; then checks their results.
    fn walk(self, goods: &[&str]) {
        for (program, arguments) in [
            ("find", &["-ls"][..]),
            ("ls", &["-lR"]),
            // Into a pipe: into /dev/null it opens nothing.
            ("sh", &["-c", "tar -cf - \"$0\" | wc -c"]),
            ("find", &["-type", "f", "-exec", "cat", "{}", "+"]),
        ] {
            // The directory is an argument: no program starts in a directory where every call fails.
            let mut command = Command::new(program);
            let told = match program {
                "find" => watch(command.arg(&self.at).args(arguments)),
                _ => watch(command.args(arguments).arg(&self.at)),
            };
            assert!(told.code.is_some(), "{program} was killed: {}", told.stderr);
        }
        for good in goods {
            let read = fs::read_to_string(self.path(good));
            assert_eq!(read.as_deref().ok(), Some(*good), "a neighbour suffers: {read:?}");
        }
        self.leads_nowhere_else(&self.at.clone(), 0);
        let peak = peak_memory(self.running.child.id());
        assert!(peak > 0 && peak < MOST_MEMORY, "{peak} KiB of memory");
    }

    fn leads_nowhere_else(&self, directory: &Path, depth: usize) {
        let Ok(entries) = fs::read_dir(directory) else { return };
        for entry in entries.flatten() {
            let name = entry.file_name().into_string().expect("names are text");
            assert!(!name.contains(['/', '\0']) && name != "." && name != "..", "{name:?}");
            assert!(!name.is_empty() && name.len() <= 255, "{name:?}");
            if let Ok(target) = fs::canonicalize(entry.path()) {
                assert!(target.starts_with(&self.at), "{:?} leads to {target:?}", entry.path());
            }
            let Ok(kind) = entry.file_type() else { continue };
            if kind.is_dir() && depth < 40 {
                self.leads_nowhere_else(&entry.path(), depth + 1);
            }
        }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // By force, because that succeeds in every state of the mount.
        let _ = self.home.command().args(["unmount", "--force", "mnt"]).output();
    }
}

fn encoded(mode: u32) -> Bytes {
    stat::encode(&Stat { mode, ..Stat::default() }).expect("encodes")
}

fn errno(name: &str, found: Option<i32>, expected: &[i32]) {
    assert!(found.is_some_and(|found| expected.contains(&found)), "{name}: {found:?}");
}

/// 18. Names that a filesystem cannot hold (empty, `.`, `..`, with `/` or NUL, over 255 bytes) are
///     not shown.
#[test]
fn t27_names_no_filesystem_can_hold() {
    let publisher = Publisher::new();
    let file = encoded(TYPE_FILE | 0o644);
    let long = "n".repeat(300);
    for key in [
        "..",
        ".",
        "../etc/passwd",
        "dir/../../up",
        "dir//twice",
        "dir/./here",
        "//",
        "nul\0inside",
        "dir/nul\0",
        &long,
        &format!("dir/{long}/below"),
        "escape\u{1b}[2Jseq",
        "new\nline",
        "dir/\u{202e}gpj.exe",
    ] {
        publisher.raw(key, file.clone(), 0);
    }
    // A file that has something below it.
    publisher.good("both");
    publisher.good("both/below");
    publisher.good("dir/good");
    let Some(mounted) = Mounted::new(&publisher) else { return };
    let names: Vec<String> = fs::read_dir(&mounted.at)
        .expect("lists")
        .map(|entry| entry.expect("an entry").file_name().into_string().expect("text"))
        .collect();
    assert!(names.contains(&"escape\u{1b}[2Jseq".to_owned()), "shown as it is: {names:?}");
    assert!(names.contains(&"new\nline".to_owned()), "{names:?}");
    assert!(!names.iter().any(|name| name.len() > 255 || name == ".."), "{names:?}");
    // The command's own listing cannot drive a terminal.
    let url = format!("hyper://{}", publisher.drive.key().to_hex());
    let home = Home::new();
    let told = watch(home.command().args(["ls", &url, "--peer", &publisher.address]));
    assert_eq!(told.code, Some(0), "{}", told.stderr);
    assert!(!told.stdout.contains(&0x1b));
    mounted.walk(&["good", "both", "dir/good"]);
}

#[test]
fn t28_extents_that_make_no_sense() {
    let publisher = Publisher::new();
    publisher.good("d/good");
    let at = |block, blocks, byte, size| Extent {
        block,
        blocks,
        byte,
        size,
        map_size: 0,
        holes: 0,
        fork: 0,
    };
    let extents = [
        ("huge", at(0, 1, 0, 1 << 53)),
        ("largest", at(0, 1, 0, u64::MAX)),
        ("overflow", at(u64::MAX, u64::MAX, u64::MAX, u64::MAX)),
        ("past-the-end", at(1_000_000, 5, 1 << 40, 300)),
        ("far-past-the-end", at(1 << 50, 5, 1 << 50, 300)),
        ("offset-past", at(0, 1, 1 << 50, 10)),
        ("larger-than-blocks", at(0, 1, 0, 5000)),
        ("no-blocks", at(0, 0, 0, 10)),
        ("in-the-middle", at(1, 1, 2, 4)),
        ("many-blocks", at(0, 1 << 52, 0, 1 << 52)),
    ];
    for (name, extent) in extents {
        publisher.file(&format!("d/{name}"), extent);
    }
    publisher.good("d/last");
    let Some(mounted) = Mounted::new(&publisher) else { return };
    for (name, _) in extents {
        let path = mounted.path(&format!("d/{name}"));
        assert!(fs::metadata(&path).is_ok(), "{name} can be looked at");
        let mut start = [0; 4];
        // The kernel reads whole pages, so even a start inside the first block may fail.
        let read = fs::File::open(&path)
            .and_then(|file| std::os::unix::fs::FileExt::read_at(&file, &mut start, 0));
        match read {
            Ok(length) => assert_eq!(start[..length], b"good"[..length], "{name}"),
            Err(error) => {
                errno(name, error.raw_os_error(), &[libc::EIO, libc::ETIMEDOUT]);
            }
        }
    }
    mounted.walk(&["good", "d/good", "d/last"]);
}

#[test]
fn t29_stats_that_make_no_sense() {
    let publisher = Publisher::new();
    for (name, mode) in [
        ("zero", 0),
        ("character-device", 0o020_666),
        ("block-device", 0o060_666),
        ("fifo", 0o010_666),
        ("socket", 0o140_666),
        ("setuid", 0o106_755),
        ("ones", u32::MAX),
        ("directory", TYPE_DIRECTORY | 0o7777),
    ] {
        publisher.raw(&format!("d/{name}"), encoded(mode), 0);
    }
    let mtime = Time::from_milliseconds(1 << 53);
    let ctime = Time::from_milliseconds(u64::MAX);
    let late = Stat { mode: TYPE_FILE | 0o600, mtime, ctime, ..Stat::default() };
    publisher.stat("d/late", late);
    publisher.raw("d/garbage", Bytes::from_static(&[0xff; 40]), 0);
    publisher.raw("d/empty", Bytes::new(), 0);
    publisher.raw("d/megabyte", vec![0x62; 1 << 20], 0);
    publisher.good("d/good");
    let Some(mounted) = Mounted::new(&publisher) else { return };
    for name in ["zero", "setuid", "ones", "late"] {
        let found = fs::symlink_metadata(mounted.path(&format!("d/{name}"))).expect(name);
        assert_eq!(found.mode() & 0o7000, 0, "{name}: no bits that give rights");
        assert_eq!(found.rdev(), 0);
    }
    let device = fs::symlink_metadata(mounted.path("d/character-device")).expect("is there");
    assert!(device.file_type().is_char_device());
    assert!(fs::File::open(mounted.path("d/character-device")).is_err(), "nodev");
    for name in ["d/garbage", "d/megabyte"] {
        errno(name, mounted.error(name), &[libc::EIO]);
    }
    mounted.walk(&["good", "d/good"]);
}

#[test]
fn t30_links_that_lead_out_or_nowhere() {
    let publisher = Publisher::new();
    for (name, target) in [
        ("absolute", "/etc/passwd"),
        ("upward", "../../../../etc/passwd"),
        ("itself", "itself"),
        ("loop-a", "loop-b"),
        ("loop-b", "loop-a"),
        ("nul", "a\0b"),
        ("long", &"l".repeat(64 * 1024)),
        ("pathmax", &"p/".repeat(2047)),
        ("empty", ""),
    ] {
        publisher.link(&format!("d/{name}"), target);
    }
    publisher.good("d/good");
    publisher.good("etc/passwd");
    let Some(mounted) = Mounted::new(&publisher) else { return };
    for name in ["absolute", "upward"] {
        let read = fs::read_to_string(mounted.path(&format!("d/{name}"))).expect(name);
        assert_eq!(read, "etc/passwd", "{name} leads to the drive's own");
    }
    errno("itself", mounted.error("d/itself"), &[libc::ELOOP]);
    errno("loop", mounted.error("d/loop-a"), &[libc::ELOOP]);
    for name in ["nul", "long", "empty"] {
        let found = fs::read_link(mounted.path(&format!("d/{name}"))).expect_err(name);
        errno(name, found.raw_os_error(), &[libc::EIO]);
    }
    assert!(fs::read_link(mounted.path("d/pathmax")).is_ok());
    mounted.walk(&["good", "d/good", "etc/passwd"]);
}

fn mounting(key: PublicKey, version: Option<u64>) -> Stat {
    let mount = Some(MountTarget { key, version, core: false });
    Stat { mode: TYPE_DIRECTORY | 0o755, mount, ..Stat::default() }
}

#[derive(Clone, PartialEq, prost::Message)]
struct RawMount {
    #[prost(bytes = "vec", optional, tag = "1")]
    key: Option<Vec<u8>>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct RawStat {
    #[prost(uint32, optional, tag = "1")]
    mode: Option<u32>,
    #[prost(message, optional, tag = "11")]
    mount: Option<RawMount>,
}

/// A drive that mounts `own`, mounted as `path`.
fn round_trip(publisher: &Publisher, path: &str) {
    let own = *publisher.drive.key();
    let other = Drive::create(&publisher.store, "other").expect("is made");
    publisher.stat(path, mounting(*other.key(), None));
    let back = DrivePath::parse("back").expect("a path");
    let back = Edit::Put { path: back, stat: mounting(own, None) };
    publisher.runtime.block_on(other.apply(vec![back])).expect("applied");
}

#[test]
fn t31_drives_inside_drives() {
    let publisher = Publisher::new();
    let own = *publisher.drive.key();
    publisher.stat("itself", mounting(own, None));
    publisher.stat("unknown", mounting(PublicKey::new([0x42; 32]), None));
    round_trip(&publisher, "other");
    let mount = Some(RawMount { key: Some(vec![7; 5]) });
    let short = RawStat { mode: Some(TYPE_DIRECTORY | 0o755), mount };
    publisher.raw("short-key", short.encode_to_vec(), MOUNT);
    publisher.raw("no-record", Bytes::new(), MOUNT);
    // Each holds the version before it, which holds the one before that.
    for level in 0..40 {
        let version = publisher.drive.snapshot().version();
        publisher.stat(&format!("chain/{level}"), mounting(own, Some(version)));
    }
    publisher.good("z/good");
    let Some(mounted) = Mounted::new(&publisher) else { return };
    errno("itself", mounted.error("itself/good"), &[libc::ELOOP]);
    errno("back", mounted.error("other/back/good"), &[libc::ELOOP]);
    errno("unknown", mounted.error("unknown/x"), &[libc::ETIMEDOUT, libc::EIO]);
    assert!(mounted.error("short-key/x").is_some());
    let chain: PathBuf = (20..40).rev().map(|level| format!("chain/{level}")).collect();
    let deep = fs::metadata(mounted.at.join(chain)).expect_err("too deep");
    errno("a chain of 20", deep.raw_os_error(), &[libc::ELOOP]);
    // A walk of all those versions inside each other would visit 2^16 directories, as on any disk
    // with that number of directories; the files in each are readable.
    for good in ["good", "z/good", "chain/39/good"] {
        let read = fs::read_to_string(mounted.path(good)).expect(good);
        assert!(good.ends_with(&read), "{good}: {read}");
    }
}

#[test]
fn t31_find_does_not_hang_on_mounts() {
    let publisher = Publisher::new();
    publisher.stat("d/itself", mounting(*publisher.drive.key(), None));
    publisher.stat("d/unknown", mounting(PublicKey::new([0x42; 32]), None));
    round_trip(&publisher, "d/other");
    publisher.good("d/good");
    let Some(mounted) = Mounted::new(&publisher) else { return };
    mounted.walk(&["good", "d/good"]);
}

#[test]
fn t32_thousands_of_attributes() {
    let publisher = Publisher::new();
    let attributes =
        (0..3000).map(|number| (format!("user.{number:0>40}"), Some(vec![1; 20]))).collect();
    let stat = Stat { mode: TYPE_FILE | 0o644, attributes, ..Stat::default() };
    publisher.stat("d/many", stat);
    let big = vec![("user.big".to_owned(), Some(vec![1; 70_000]))];
    publisher.stat("d/big", Stat { mode: TYPE_FILE | 0o644, attributes: big, ..Stat::default() });
    publisher.good("d/good");
    let Some(mounted) = Mounted::new(&publisher) else { return };
    let mut room = vec![0; 65_536];
    let listed = rustix::fs::listxattr(mounted.path("d/many"), &mut room[..]);
    errno("many", listed.err().map(|error| error.raw_os_error()), &[libc::E2BIG, libc::ERANGE]);
    let value = rustix::fs::getxattr(mounted.path("d/big"), "user.big", &mut room[..]);
    errno("big", value.err().map(|error| error.raw_os_error()), &[libc::E2BIG, libc::ERANGE]);
    let name = format!("user.{:0>40}", 2999);
    let value = rustix::fs::getxattr(mounted.path("d/many"), name.as_str(), &mut room[..]);
    assert_eq!(value.expect("one of many can be read"), 20);
    mounted.walk(&["good", "d/good"]);
}

/// A node of the index with a file's stat and any pointers.
pub fn node(key: &str, buckets: Vec<u8>) -> Vec<u8> {
    #[derive(Clone, PartialEq, prost::Message)]
    struct RawNode {
        #[prost(string, optional, tag = "1")]
        key: Option<String>,
        #[prost(bytes = "vec", optional, tag = "2")]
        value: Option<Vec<u8>>,
        #[prost(bytes = "vec", optional, tag = "3")]
        buckets: Option<Vec<u8>>,
    }
    let value = Some(encoded(TYPE_FILE | 0o644).to_vec());
    RawNode { key: Some(key.to_owned()), value, buckets: Some(buckets) }.encode_to_vec()
}

#[test]
fn t33_an_index_that_ends_in_garbage() {
    // Pointers at position 0, one for each branch.
    let pointers = |target: u8| vec![1, 0, 0x1f, target, target, target, target, target];
    // Every branch of every position leads to the same older node.
    let all = (0..33_u8).flat_map(|position| [position, 0x0f, 1, 1, 1, 1]);
    let wrong_way = [33].into_iter().chain(all).collect();
    let endings = [
        ("garbage", vec![0xff; 300]),
        ("empty", Vec::new()),
        ("megabytes of zeroes", vec![0; 4 << 20]),
        // It becomes block 3: the header, two entries, and this.
        ("loop", node("loop", pointers(3))),
        ("forward", node("forward", pointers(100))),
        ("to the header", node("header", pointers(0))),
        ("wrong way", node("wrong", wrong_way)),
    ];
    for (what, ending) in endings {
        let publisher = Publisher::new();
        publisher.good("d/good");
        let sound = publisher.drive.snapshot().version();
        assert_eq!(sound, 3);
        publisher.block(&ending);
        let Some(mounted) = Mounted::new(&publisher) else { return };
        for (program, arguments) in
            [("find", &[][..]), ("ls", &["-lR"]), ("sh", &["-c", "tar -cf - \"$0\" | wc -c"])]
        {
            let told = watch(Command::new(program).args(arguments).arg(&mounted.at));
            assert!(told.code.is_some(), "{what}: {program} was killed");
        }
        match fs::read_to_string(mounted.path("d/good")) {
            Ok(read) => assert_eq!(read, "d/good", "{what}"),
            Err(error) => errno(what, error.raw_os_error(), &[libc::EIO, libc::ENOENT]),
        }
        let peak = peak_memory(mounted.running.child.id());
        assert!(peak > 0 && peak < MOST_MEMORY, "{what}: {peak} KiB of memory");
        // The earlier content is available under its version.
        let url = format!("hyper://{}+{sound}/d/good", publisher.drive.key().to_hex());
        let home = Home::new();
        let told = watch(home.command().args(["cat", &url, "--peer", &publisher.address]));
        assert_eq!((told.code, &told.stdout[..]), (Some(0), &b"d/good"[..]), "{what}: {told:?}");
        drop(mounted);
    }
}

/// A directory of files with as many attributes as fit: its index has 200 MB.
#[test]
fn a_listing_of_a_fat_index_takes_little_memory() {
    let publisher = Publisher::new();
    for number in 0..250 {
        let attributes = vec![("user.fat".to_owned(), Some(vec![number as u8; 800_000]))];
        let stat = Stat { mode: TYPE_FILE | 0o644, attributes, ..Stat::default() };
        publisher.stat(&format!("fat/{number}"), stat);
    }
    publisher.good("good-too");
    let Some(mounted) = Mounted::new(&publisher) else { return };
    let pid = mounted.running.child.id();
    let idle = peak_memory(pid);
    for (program, argument) in [("ls", "-f"), ("ls", "-l"), ("find", "-ls")] {
        let told = match program {
            "find" => watch(Command::new(program).arg(&mounted.at).arg(argument)),
            _ => watch(Command::new(program).arg(argument).arg(mounted.path("fat"))),
        };
        assert!(told.code.is_some(), "{program} was killed");
    }
    let peak = peak_memory(pid);
    println!("a fat index: {idle} KiB idle, {peak} KiB at most");
    assert!(peak > 0 && peak < idle + MOST_ABOVE_IDLE, "{idle} KiB, then {peak} KiB");
    for good in ["good", "good-too"] {
        assert_eq!(fs::read_to_string(mounted.path(good)).ok().as_deref(), Some(good));
    }
}

/// Descriptors that a process has open.
fn descriptors(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).expect("it runs").count()
}

/// More nested drives than a process may have files open: each fails by itself, and what connections and
/// commands need is left.
#[test]
fn nested_drives_leave_descriptors_to_others() {
    const ALLOWED: usize = 1024;
    let publisher = Publisher::new();
    for number in 0..220 {
        let nested = Drive::create(&publisher.store, &format!("nested {number}")).expect("is made");
        put(&publisher.runtime, &nested, "inside", &[Bytes::from_static(b"inside")]);
        publisher.stat(&format!("d/{number}"), mounting(*nested.key(), None));
    }
    publisher.good("d/good");
    let limit = format!("ulimit -n {ALLOWED}");
    let Some(mounted) = Mounted::after(&publisher, &limit) else { return };
    let before = descriptors(mounted.running.child.id());
    let told = watch(Command::new("find").arg(&mounted.at));
    let inside = String::from_utf8_lossy(&told.stdout).matches("/inside").count();
    let refused = told.stderr.matches("Too many open files").count();
    assert_eq!(inside + refused, 220, "each is shown or is an error: {}", told.stderr);
    assert!(inside >= 32 && refused > 0, "{inside} shown, {refused} refused");
    let after = descriptors(mounted.running.child.id());
    println!("220 nested drives: {before} descriptors, then {after} of {ALLOWED}");
    assert!(after < ALLOWED * 3 / 4, "{after} descriptors are open");
    assert_eq!(fs::read_to_string(mounted.path("d/good")).ok().as_deref(), Some("d/good"));
    drop(mounted);
    // The soft limit is raised, so with the usual one all of them open.
    let Some(mounted) = Mounted::after(&publisher, "ulimit -S -n 256") else { return };
    let told = watch(Command::new("find").arg(&mounted.at));
    let inside = String::from_utf8_lossy(&told.stdout).matches("/inside").count();
    assert_eq!(inside, 220, "{}", told.stderr);
}

/// Nested drives that no peer has: a walk does not wait for each, and the publisher's keys leave no
/// directories.
#[test]
fn nested_drives_that_do_not_exist_cost_little_time_and_no_directories() {
    let publisher = Publisher::new();
    for number in 1..=30 {
        publisher.stat(&format!("d/{number}"), mounting(PublicKey::new([number; 32]), None));
    }
    publisher.good("d/good");
    let Some(mounted) = Mounted::new(&publisher) else { return };
    let told = watch(Command::new("find").arg(&mounted.at));
    let failed = told.stderr.matches("Connection timed out").count();
    assert_eq!(failed, 30, "{}", told.stderr);
    // Three times the usual wait for a name, and a moment for each of the others.
    assert!(told.took < Duration::from_secs(40), "{:?}", told.took);
    assert_eq!(fs::read_to_string(mounted.path("d/good")).ok().as_deref(), Some("d/good"));
    let unknown: Vec<String> =
        (1..=30).map(|number| PublicKey::new([number; 32]).discovery_key().to_string()).collect();
    let cores = mounted.home.path("data/hypermount");
    eventually("no directory is left of them", || {
        let listed = Command::new("find").arg(&cores).output().expect("find runs");
        let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
        !unknown.iter().any(|id| listed.contains(id.as_str()))
    });
}

/// As above through the library: a read of impossible content ends with an error instead of
/// waiting.
#[test]
fn t28_reads_of_absurd_extents_end_locally() {
    let publisher = Publisher::new();
    let extent =
        Extent { block: 0, blocks: 1, byte: 0, size: 1 << 53, map_size: 0, holes: 0, fork: 0 };
    let read = publisher.drive.read(&extent, (1 << 52)..(1 << 52) + 10, Wait::Local);
    assert!(publisher.runtime.block_on(read).is_err());
}
