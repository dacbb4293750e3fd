//! The reference implementation as a living peer, through real sockets and real kernel mounts: we
//! mount what it publishes, and it reads what we serve.

mod common;

use std::path::{Path, PathBuf};

use common::living::{self, Mounted, eventually, reference, shell, succeed};
use hypermount_drive::DriveFormat;
use serde_json::{Value, json};

const GIB: u64 = 1 << 30;

/// A drive made by the reference, and the same tree as plain files.
struct Made {
    directory: tempfile::TempDir,
    key: String,
}

impl Made {
    fn new(options: &[&str]) -> Self {
        let directory = tempfile::tempdir().expect("temporary directory");
        let drive = directory.path().join("drive").display().to_string();
        let plain = directory.path().join("plain").display().to_string();
        let mut arguments = vec![drive.as_str(), "--plain", plain.as_str(), "--no-manifest"];
        arguments.extend(options);
        let key =
            reference("make-drive.js", &arguments).json()["key"].as_str().expect("key").to_owned();
        Self { directory, key }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn serve(&self) -> (living::Running, String) {
        let mut server = reference("serve-drive.js", &[&self.path("drive").display().to_string()]);
        let port = server.json()["port"].as_u64().expect("port");
        (server, format!("127.0.0.1:{port}"))
    }

    fn mount(&self, peers: &[String]) -> Mounted {
        Mounted::by_key(&self.key, &self.path("mnt"), &self.path("store"), peers)
    }
}

/// Type, size and link target of everything, and the executable bit: what both trees must share.
fn listing(directory: &Path) -> String {
    let printed = succeed(std::process::Command::new("find").arg(directory).args([
        "-not",
        "-type",
        "d",
        "-printf",
        r"%P\t%y\t%s\t%l\0",
    ]));
    let mut lines: Vec<&str> = printed.split('\0').collect();
    lines.sort_unstable();
    lines.join("\n")
}

fn quoted(path: &Path) -> String {
    format!("'{}'", path.display())
}

#[test]
fn a_drive_of_the_reference_equals_its_plain_tree() {
    let made = Made::new(&["--files", "2000", "--big", "314572800"]);
    let (_server, address) = made.serve();
    let mounted = made.mount(&[address]);
    let (plain, here) = (made.path("plain"), mounted.at.clone());

    assert_eq!(listing(&here), listing(&plain));
    shell(&format!("diff -r --no-dereference {} {}", quoted(&plain), quoted(&here)));
    let sums = |at: &Path| {
        shell(&format!(
            "cd {} && find . -type f -print0 | sort -z | xargs -0 sha256sum",
            quoted(at)
        ))
    };
    assert_eq!(sums(&here), sums(&plain));
    let tar = |at: &Path| {
        shell(&format!(
            "tar -C {} --sort=name --owner=0 --group=0 --mtime=@0 --mode=u=rwX,go=rX -c . | sha256sum",
            quoted(at)
        ))
    };
    assert_eq!(tar(&here), tar(&plain));
    let executable = shell(&format!("find {} -type f -perm -u+x -printf '%P'", quoted(&here)));
    assert_eq!(executable, "script.sh");
    assert!(here.join("empty-directory").is_dir(), "an explicit empty directory persists");
}

#[test]
fn only_the_accessed_parts_of_a_3_gib_file_are_fetched() {
    let made = Made::new(&["--files", "10", "--big", "0", "--huge"]);
    let (mut server, address) = made.serve();
    let mounted = made.mount(&[address]);
    let huge = mounted.path("huge.bin");
    assert_eq!(std::fs::metadata(&huge).expect("stat").len(), 3 * GIB);
    let before = server.ask(json!({"op": "status"}))["sent"].as_u64().expect("count");
    for at in [GIB / 2, 2 * GIB - 65536, 2 * GIB, 3 * GIB - 65536] {
        let text = format!("here is byte {at}\n");
        let read = living::read_at(&huge, at, text.len() + 1);
        assert_eq!(read[..text.len()], *text.as_bytes());
        assert_eq!(read[text.len()], 0);
    }
    let middle = living::read_at(&huge, GIB + 12_345, 1 << 20);
    assert!(middle.iter().all(|byte| *byte == 0));
    let after = server.ask(json!({"op": "status"}))["sent"].as_u64().expect("count");
    assert!(after - before < 4 << 20, "1.3 MB asked for, {} bytes sent", after - before);
}

#[test]
fn appends_of_the_reference_appear_in_a_mount() {
    let made = Made::new(&["--files", "20"]);
    let (mut server, address) = made.serve();
    let mounted = made.mount(&[address]);
    assert!(!mounted.path("new.txt").exists());
    assert_eq!(std::fs::read_dir(mounted.path("nested")).expect("list").count(), 1);
    server.ask(json!({"op": "put", "path": "/new.txt", "text": "fresh"}));
    server.ask(json!({"op": "put", "path": "/hello.txt", "text": "changed"}));
    server.ask(json!({"op": "put", "path": "/nested/more.txt", "text": "more"}));
    server.ask(json!({"op": "del", "path": "/script.sh"}));
    eventually("the new file appears", || std::fs::read(mounted.path("new.txt")).ok());
    eventually("the deleted file goes", || (!mounted.path("script.sh").exists()).then_some(()));
    assert_eq!(living::read(&mounted.path("new.txt")), b"fresh");
    assert_eq!(living::read(&mounted.path("hello.txt")), b"changed");
    assert_eq!(std::fs::read_dir(mounted.path("nested")).expect("list").count(), 2);
}

/// As above with commands that look once, and a store that already holds the old version.
#[test]
fn appends_of_the_reference_appear_in_the_next_command() {
    let made = Made::new(&["--files", "20"]);
    let (mut server, peer) = made.serve();
    let (store, url) = (made.path("store"), format!("hyper://{}", made.key));
    let cat = || {
        let mut command = living::hypermount();
        let command = command.args(["cat", &url, "hello.txt", "--peer", &peer, "--store"]);
        succeed(command.arg(&store))
    };
    cat();
    for text in ["one", "two", "three"] {
        server.ask(json!({"op": "put", "path": "/hello.txt", "text": text}));
        assert_eq!(cat(), text);
    }
}

#[test]
fn the_reference_reads_what_we_serve() {
    let made = Made::new(&["--files", "300"]);
    let drive = made.path("drive").display().to_string();
    let listed = |answer: &Value| answer["entries"].clone();
    let original = reference("read-drive.js", &[&made.key, "--store", &drive]).json();
    let server = living::serve(&made.path("drive"));
    let port = server.address.rsplit(':').next().expect("port");
    let through_us = reference("read-drive.js", &[&made.key, port]).json();
    assert_eq!(listed(&through_us), listed(&original));
    assert!(listed(&original).as_object().is_some_and(|entries| entries.len() > 300));
}

#[test]
fn the_reference_opens_and_audits_a_store_that_we_fetched() {
    let made = Made::new(&["--files", "50"]);
    let (server, address) = made.serve();
    let mounted = made.mount(&[address]);
    let tree = shell(&format!(
        "cd {} && find . -type f -print0 | xargs -0 cat | sha256sum",
        quoted(&mounted.at)
    ));
    assert_eq!(tree.len(), 68);
    let unmounted = succeed(living::hypermount().arg("unmount").arg(&mounted.at));
    assert_eq!(unmounted, "");
    let mut mounted = mounted;
    assert!(mounted.process.wait().success());
    drop(server);
    let opened = reference("open-core.js", &[&made.path("store").display().to_string()]).json();
    let cores = opened["cores"].as_array().expect("cores");
    assert_eq!(cores.len(), 2);
    for core in cores {
        assert_eq!(core["audit"]["invalid"], 0, "{core}");
        assert!(core["audit"]["valid"].as_u64().expect("count") > 50, "{core}");
    }
}

#[test]
fn peers_that_die_or_stall_do_not_fail_a_read_from_several() {
    let made = Made::new(&["--files", "10", "--big", "67108864"]);
    let mut thirds: Vec<_> = ["0", "1", "2"]
        .iter()
        .map(|third| {
            // The reference locks the files that it opens, so each part reads a copy of its own.
            let copy = made.path(third);
            living::copy_tree(&made.path("drive"), &copy);
            reference("partial-seed.js", &[&copy.display().to_string(), "--third", third])
        })
        .collect();
    let addresses: Vec<String> = thirds
        .iter_mut()
        .map(|third| format!("127.0.0.1:{}", third.json()["port"].as_u64().expect("port")))
        .collect();
    let (full, full_address) = made.serve();
    let mut peers = addresses.clone();
    let mounted = made.mount(&peers);
    let (plain, here) = (made.path("plain/big.bin"), mounted.path("big.bin"));
    // All three thirds are needed for the whole.
    shell(&format!("cmp {} {}", quoted(&plain), quoted(&here)));
    drop(mounted);

    // With a full peer beside them, a peer that ends and a peer that stalls only cost time.
    peers.push(full_address);
    std::fs::remove_dir_all(made.path("store")).expect("start over");
    let mounted = made.mount(&peers);
    thirds[1].signal(nix::sys::signal::Signal::SIGSTOP);
    drop(thirds.remove(0));
    shell(&format!("cmp {} {}", quoted(&plain), quoted(&mounted.path("big.bin"))));
    thirds[0].signal(nix::sys::signal::Signal::SIGCONT);
    drop(full);
}

#[test]
fn the_lock_of_a_core_excludes_the_reference_and_us() {
    let made = Made::new(&["--files", "3"]);
    let drive = made.path("drive").display().to_string();
    let mut holder = reference("lock.js", &[&drive, &made.key]);
    holder.json();
    let refused = living::finish(living::hypermount().args(["ls", &drive]));
    assert_eq!(refused.status.code(), Some(4), "{refused:?}");
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(said.contains("node") && said.contains(&holder.pid().to_string()), "{said}");
    drop(holder);

    let server = living::serve(&made.path("drive"));
    let port = server.address.rsplit(':').next().expect("port");
    reference("read-drive.js", &[&made.key, port]).json();
    let locked = reference("lock.js", &[&drive, &made.key]).json();
    assert_eq!(locked["locked"], false, "the reference took a core we hold");
}

/// How many times the reference writes in the next test; `HYPERMOUNT_APPENDS` overrides it.
const APPENDS: u64 = 10_000;
/// Number of files that it writes in turns, and number of writes between two checks of open files.
const LIVING_FILES: u64 = 8;
const APPENDS_A_TURN: u64 = 250;

/// The version that a file's content is of; panics unless it is the whole content of exactly one.
fn version_of(text: &str) -> u64 {
    let first = text.lines().next().expect("no version is empty");
    let version: u64 =
        first.strip_prefix("version ").and_then(|n| n.parse().ok()).expect("a line of a version");
    let expected = format!("{first}\n").repeat(1 + version as usize % 3000);
    assert!(text == expected, "torn: {} bytes that begin as version {version}", text.len());
    version
}

/// 4. An open file keeps the content it had when it was opened, also after the drive has changed.
///
/// 5. A single read never mixes two versions of a file.
#[test]
fn readers_of_a_changing_drive_see_whole_versions() {
    common::in_each_format(versions_are_whole);
}

/// A drive that the reference changes, and a mount of it.
struct Changing {
    format: DriveFormat,
    server: living::Running,
    mounted: Mounted,
    _directory: tempfile::TempDir,
}

impl Changing {
    fn new(format: DriveFormat) -> Self {
        if format == DriveFormat::Hyperdrive10 {
            let made = Made::new(&["--files", "20"]);
            let (mut server, address) = made.serve();
            Self::write(format, &mut server, 0, LIVING_FILES);
            let mounted = made.mount(&[address]);
            return Self { format, server, mounted, _directory: made.directory };
        }
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = |name: &str| directory.path().join(name);
        let storage = path("origin").display().to_string();
        let arguments = ["--storage", &storage, "--shape", "small", "--tcp"];
        let mut server = reference("modern/serve-drive.js", &arguments);
        let ready = server.json();
        Self::write(format, &mut server, 0, LIVING_FILES);
        let key = ready["key"].as_str().expect("key");
        let peers = [format!("127.0.0.1:{}", ready["port"].as_u64().expect("port"))];
        let mounted = Mounted::by_key(key, &path("mnt"), &path("store"), &peers);
        Self { format, server, mounted, _directory: directory }
    }

    fn write(format: DriveFormat, server: &mut living::Running, from: u64, count: u64) {
        let files = LIVING_FILES;
        server.ask(match format {
            DriveFormat::Hyperdrive10 => json!({
                "op": "rewrite", "prefix": "/living", "files": files, "from": from, "count": count
            }),
            DriveFormat::Hyperdrive11 => {
                json!({ "rewrite": "/living", "files": files, "from": from, "count": count })
            }
        });
    }

    fn write_last(&mut self) {
        self.server.ask(match self.format {
            DriveFormat::Hyperdrive10 => {
                json!({"op": "put", "path": "/living/last", "text": "over"})
            }
            DriveFormat::Hyperdrive11 => json!({"put": "/living/last", "text": "over"}),
        });
    }
}

fn versions_are_whole(format: DriveFormat) {
    use std::io::Read as _;
    use std::sync::atomic::{AtomicBool, Ordering};

    let appends = std::env::var("HYPERMOUNT_APPENDS")
        .map_or(APPENDS, |number| number.parse().expect("HYPERMOUNT_APPENDS is a number"));
    let appends = match format {
        DriveFormat::Hyperdrive10 => appends,
        // The reference takes longer for each.
        DriveFormat::Hyperdrive11 => appends / 5,
    };
    let mut changing = Changing::new(format);
    let server = &mut changing.server;
    let write = |server: &mut living::Running, from: u64, count: u64| {
        Changing::write(format, server, from, count);
    };
    let mounted = &changing.mounted;
    let living = mounted.path("living");
    eventually("the files are there", || {
        std::fs::read_dir(&living).is_ok_and(|list| list.count() == 8).then_some(())
    });

    let (over, started) = (AtomicBool::new(false), std::time::Instant::now());
    let (rounds, reads, opens) = std::thread::scope(|scope| {
        // A thread that fails ends the others, too.
        struct Over<'a>(&'a AtomicBool);
        impl Drop for Over<'_> {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Relaxed);
            }
        }
        let grep = scope.spawn(|| {
            let mut rounds = 0;
            while !over.load(Ordering::Relaxed) {
                let mut grep = std::process::Command::new("grep");
                let found =
                    succeed(grep.args(["-r", "--no-filename", "-c", "version"]).arg(&living));
                assert_eq!(found.lines().count() as u64, LIVING_FILES);
                rounds += 1;
            }
            rounds
        });
        let read = scope.spawn(|| {
            let mut reads = 0;
            while !over.load(Ordering::Relaxed) {
                let path = living.join((reads % LIVING_FILES).to_string());
                let text = String::from_utf8(living::read(&path)).expect("text");
                assert_eq!(version_of(&text) % LIVING_FILES, reads % LIVING_FILES);
                reads += 1;
            }
            reads
        });
        let _over = Over(&over);
        let mut open = Vec::new();
        let mut next = LIVING_FILES;
        while next < LIVING_FILES + appends {
            let count = APPENDS_A_TURN.min(LIVING_FILES + appends - next);
            // Half of it read before it is changed, the rest after all the changes.
            let path = living.join((next / APPENDS_A_TURN % LIVING_FILES).to_string());
            let mut file = std::fs::File::open(path).expect("opens");
            let size = file.metadata().expect("stat").len();
            let mut start = Vec::new();
            std::io::Read::by_ref(&mut file).take(size / 2).read_to_end(&mut start).expect("reads");
            let now = file.metadata().expect("stat").len();
            assert!(
                start.len() as u64 == size / 2 && now == size,
                "{} bytes read of a file of {size} bytes, {now} afterwards: {:?}",
                start.len(),
                String::from_utf8_lossy(start.get(..20).unwrap_or_default())
            );
            open.push((file, start));
            write(server, next, count);
            next += count;
        }
        let opens = open.len();
        for (mut file, mut text) in open {
            file.read_to_end(&mut text).expect("an old version can be read");
            version_of(&String::from_utf8(text).expect("text"));
        }
        over.store(true, Ordering::Relaxed);
        (grep.join().expect("grep"), read.join().expect("reads"), opens)
    });
    let took = started.elapsed();

    // The last change shows in the listing and in each file.
    changing.write_last();
    let arrived = std::time::Instant::now();
    let listed = || std::fs::read_dir(&living).is_ok_and(|list| list.count() == 9).then_some(());
    eventually("the last file is listed", listed);
    eprintln!(
        "{appends} appends in {took:?}: {rounds} times grep -r, {reads} reads, {opens} files kept \
         open; the last one was listed {:?} after it was written",
        arrived.elapsed()
    );
    for file in 0..LIVING_FILES {
        let last = (0..LIVING_FILES + appends).rev().find(|n| n % LIVING_FILES == file);
        eventually("each file is at its last version", || {
            let text = String::from_utf8(living::read(&living.join(file.to_string()))).ok()?;
            (Some(version_of(&text)) == last).then_some(())
        });
    }
    assert!(rounds > 0 && reads > 0);
}
