//! Stores of other programs read where they lie, and our own files of Hypercore 10 and 11 opened by the
//! reference.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use common::living::{self, Running, reference};
use common::{Home, Ran};
use serde_json::{Value, json};

/// A drive that the reference has made in a store of Corestore 6, and what it read from it.
struct Foreign {
    home: Home,
    key: String,
    content: String,
    entries: Value,
}

fn serve(home: &Home, shape: &str, options: &[&str]) -> (Running, Value) {
    let at = home.path("js").display().to_string();
    let arguments = [&["--storage", &at, "--shape", shape, "--seed", "1"], options].concat();
    let mut served = reference("modern/serve-drive.js", &arguments);
    let ready = served.json();
    assert_eq!(ready["ready"], true, "{ready}");
    (served, ready)
}

fn text(value: &Value) -> String {
    value.as_str().expect("a text").to_owned()
}

fn quit(mut served: Running) {
    served.wait();
}

impl Foreign {
    fn new(shape: &str, options: &[&str]) -> Self {
        let home = Home::new();
        let (mut served, ready) = serve(&home, shape, options);
        let entries = served.ask(json!({ "manifest": true }))["entries"].clone();
        quit(served);
        Self { key: text(&ready["key"]), content: text(&ready["blobsKey"]), home, entries }
    }

    fn store(&self) -> PathBuf {
        self.home.path("js/store")
    }

    fn directory(&self) -> String {
        self.store().display().to_string()
    }
}

/// Everything below a directory: times, sizes, modes and bytes.
fn snapshot(root: &Path) -> BTreeMap<PathBuf, (i64, i64, u64, u32, Vec<u8>)> {
    let mut found = BTreeMap::new();
    let mut open = vec![root.to_owned()];
    while let Some(path) = open.pop() {
        let stat = fs::symlink_metadata(&path).expect("stat");
        let bytes = match stat.is_dir() {
            true => {
                let entries = fs::read_dir(&path).expect("list");
                open.extend(entries.map(|entry| entry.expect("entry").path()));
                Vec::new()
            }
            false => fs::read(&path).expect("read"),
        };
        let nanoseconds = |seconds: i64, rest: i64| seconds * 1_000_000_000 + rest;
        let changed = nanoseconds(stat.ctime(), stat.ctime_nsec());
        let modified = nanoseconds(stat.mtime(), stat.mtime_nsec());
        found.insert(path, (modified, changed, stat.len(), stat.mode(), bytes));
    }
    found
}

/// Compares a directory with the entries that the reference listed.
fn must_hold(directory: &Path, entries: &Value) {
    let entries = entries.as_object().expect("entries");
    assert!(!entries.is_empty());
    for (name, entry) in entries {
        let path = directory.join(name.trim_start_matches('/'));
        let stat = fs::symlink_metadata(&path).unwrap_or_else(|error| panic!("{name}: {error}"));
        match entry["linkname"].as_str() {
            Some(_) => assert!(stat.is_symlink(), "{name}"),
            None => {
                let bytes = fs::read(&path).expect("read");
                assert_eq!(bytes.len() as u64, entry["size"].as_u64().expect("size"), "{name}");
                if let Some(sum) = entry["sha256"].as_str() {
                    assert_eq!(sha256(&path), sum, "{name}");
                }
                let executable = stat.permissions().mode() & 0o100 != 0;
                assert_eq!(executable, entry["executable"] == true, "{name}");
            }
        }
    }
    let files = living::succeed(
        std::process::Command::new("find")
            .arg(directory)
            .args(["-not", "-type", "d", "-printf", "x"]),
    );
    assert_eq!(files.len(), entries.len(), "no other files");
}

fn sha256(path: &Path) -> String {
    let printed = living::succeed(std::process::Command::new("sha256sum").arg(path));
    // A name with a backslash or newline has one in front of the sum.
    printed.trim_start_matches('\\')[..64].to_owned()
}

#[test]
fn a_store_of_the_drives_command_is_read_and_not_touched() {
    let shapes: [(&str, &[&str]); 3] =
        [("drives10", &[]), ("compat", &["--legacy10"]), ("many", &["--legacy10"])];
    for (shape, options) in shapes {
        let foreign = Foreign::new(shape, options);
        let (home, at) = (&foreign.home, foreign.directory());
        let before = snapshot(&foreign.store());
        home.run(["ls", "-l", &at]).must_succeed();
        let out = home.path("out");
        home.run(["export", &at, out.to_str().unwrap()]).must_succeed();
        must_hold(&out, &foreign.entries);
        let about = home.run(["info", "--json", &at]).must_succeed().stdout;
        let about: Value = serde_json::from_str(&about).expect("JSON");
        assert_eq!(about["key"], foreign.key.as_str());
        assert_eq!(about["content_key"], foreign.content.as_str());
        assert_eq!(about["format"], "hyperdrive 11-13");
        assert_eq!((&about["writable"], &about["fork"]), (&json!(false), &json!(0)));
        let checked = home.run(["check", &at]).must_succeed();
        assert!(checked.stdout.contains("sound"), "{checked:?}");
        home.run(["list", "--store", &at]).must_succeed();
        let id = about["id"].as_str().expect("an id");
        let by_id = home.run(["ls", &format!("pear://{id}"), "--store", &at]).must_succeed();
        assert_eq!(by_id.stdout, home.run(["ls", &at]).must_succeed().stdout);
        let mnt = home.path("mnt").display().to_string();
        home.run(["mount", &at, &mnt]).must_succeed();
        must_hold(&home.path("mnt"), &foreign.entries);
        let asked = home.run(["ls", &at]).must_succeed();
        assert_eq!(asked.stdout, by_id.stdout, "the daemon answers");
        assert!(fs::write(home.path("mnt/new"), "x").is_err(), "it is read-only");
        home.run(["unmount", &mnt]).must_succeed();
        let foreground = living::Mounted::new(&at, &home.path("front"), &[]);
        must_hold(&foreground.at, &foreign.entries);
        drop(foreground);
        for refused in [
            home.run(["create", "notes", "--store", &at]),
            home.run(["import", out.to_str().unwrap(), &at]),
        ] {
            assert_eq!(refused.code, Some(1), "{refused:?}");
        }
        assert!(snapshot(&foreign.store()) == before, "{shape}: the store was changed");
    }
}

/// A directory that the published `drives` program keeps in its home, and a tree that it mirrors into a drive.
struct Drives {
    home: Home,
    id: String,
}

impl Drives {
    /// The program, with the home of the test.
    fn command(home: &Home, arguments: &[&str]) -> Command {
        let package = living::root().join("tests/reference/drives/node_modules/drives");
        assert!(
            package.exists(),
            "the reference peers are not installed: run scripts/prepare --reference"
        );
        let mut command = Command::new("node");
        command.arg(package.join("bin.js")).args(arguments);
        command.env("HOME", home.directory.path()).current_dir(home.directory.path());
        command
    }

    fn new() -> Self {
        let home = Home::new();
        let tree = home.make("tree");
        fs::create_dir_all(tree.join("nested/a/b")).expect("make");
        for (name, size) in
            [("a.txt", 5), ("empty", 0), ("nested/a/b/large", 3_000_000), ("run", 9)]
        {
            let bytes: Vec<u8> =
                (0..size).map(|at: u32| (at.wrapping_mul(at) >> 7) as u8).collect();
            fs::write(tree.join(name), bytes).expect("write");
        }
        fs::write(tree.join("nested/žluťoučký kůň"), "kůň").expect("write");
        fs::set_permissions(tree.join("run"), fs::Permissions::from_mode(0o755)).expect("chmod");
        std::os::unix::fs::symlink("nested/a/b/large", tree.join("link")).expect("link");
        let said = living::succeed(&mut Self::command(&home, &["touch"]));
        // The key is in colour.
        let id = said.split(|letter: char| !letter.is_ascii_alphanumeric());
        let mut id =
            id.filter_map(|word| word.len().checked_sub(52).map(|at| word[at..].to_owned()));
        let id = id.next_back().unwrap_or_else(|| panic!("no key in {said:?}"));
        let drives = Self { home, id };
        drives.mirror();
        drives
    }

    /// Has the program take what changed in the tree.
    fn mirror(&self) {
        living::succeed(&mut Self::command(&self.home, &["mirror", "./tree", &self.id]));
    }

    fn store(&self) -> PathBuf {
        self.home.path(".drives/corestore")
    }

    /// The directory shows the tree: names, bytes, targets of links, and which files are executable.
    fn must_show(&self, directory: &Path) {
        let tree = self.home.path("tree").display().to_string();
        let shown = directory.display().to_string();
        let listed = |at: &str| {
            let executable =
                living::shell(&format!("cd '{at}' && find . -type f -perm -u+x | sort"));
            let sums = living::shell(&format!(
                "cd '{at}' && find . -type f -print0 | sort -z | xargs -0 sha256sum"
            ));
            let links =
                living::shell(&format!("cd '{at}' && find . -type l -printf '%p %l\\n' | sort"));
            (executable, sums, links)
        };
        assert_eq!(listed(&shown), listed(&tree));
    }
}

/// Sentence 135. "The drives of a store of the `drives` program are read-only until `adopt`."
#[test]
fn what_the_drives_program_keeps_is_mounted_and_not_touched() {
    let drives = Drives::new();
    let (home, at) = (&drives.home, drives.store().display().to_string());
    let before = snapshot(&drives.store());
    home.make("mnt");
    home.run(["mount", &at, "mnt"]).must_succeed();
    drives.must_show(&home.path("mnt"));
    assert!(fs::write(home.path("mnt/new"), "x").is_err(), "it is read-only");
    home.run(["unmount", "mnt"]).must_succeed();
    home.run(["check", &at]).must_succeed();
    assert!(snapshot(&drives.store()) == before, "the directory was changed");

    // Its program opens it as before.
    fs::write(home.path("tree/a.txt"), "changed").expect("write");
    fs::remove_file(home.path("tree/link")).expect("remove");
    drives.mirror();
    let before = snapshot(&drives.store());
    let foreground = living::Mounted::new(&at, &home.path("front"), &[]);
    drives.must_show(&foreground.at);
    drop(foreground);
    assert!(snapshot(&drives.store()) == before, "the directory was changed");
}

/// Sentence 135. "Then both programs write them, in turns: one at a time has the store."
/// Sentence 135. "Empty directories, and the attributes of directories, are kept in this store, and other readers do not
/// see them."
#[test]
fn an_adopted_drive_is_written_in_turns_with_the_drives_program() {
    let drives = Drives::new();
    let (home, at) = (&drives.home, drives.store().display().to_string());
    let adopted = home.run(["adopt", "--store", &at]).must_succeed();
    assert!(adopted.stderr.contains("That program can still use the store"), "{adopted:?}");
    let again = home.run(["adopt", "--store", &at]).must_succeed();
    assert!(again.stderr.contains("nothing to adopt"), "{again:?}");
    home.run(["create", "more", "--store", &at]).must_fail(1, "another program's");
    home.make("mnt");
    home.make("theirs");
    for turn in 0..3 {
        home.run(["mount", &at, "mnt"]).must_succeed();
        let kept_out =
            Drives::command(home, &["mirror", &drives.id, "./theirs"]).output().expect("it runs");
        assert!(!kept_out.status.success(), "the lock is ours");
        // The same changes to the mount and to the tree that is compared with it.
        for root in [home.path("mnt"), home.path("tree")] {
            fs::write(root.join(format!("ours {turn}")), vec![turn; 200_000]).expect("write");
            fs::create_dir_all(root.join(format!("made {turn}/below"))).expect("make");
            fs::write(root.join(format!("made {turn}/below/it")), "text").expect("write");
            let run = fs::Permissions::from_mode(if turn == 1 { 0o644 } else { 0o755 });
            fs::set_permissions(root.join("run"), run).expect("chmod");
            fs::rename(root.join("nested"), root.join("moved")).expect("rename");
            fs::rename(root.join("moved"), root.join("nested")).expect("rename");
            let link = root.join(format!("link {turn}"));
            std::os::unix::fs::symlink("run", link).expect("link");
        }
        let empty = home.path(&format!("mnt/empty {turn}"));
        fs::create_dir(&empty).expect("make");
        fs::set_permissions(&empty, fs::Permissions::from_mode(0o710)).expect("chmod");
        drives.must_show(&home.path("mnt"));
        home.run(["unmount", "mnt"]).must_succeed();
        home.run(["check", &at]).must_succeed();
        living::succeed(&mut Drives::command(home, &["mirror", &drives.id, "./theirs"]));
        drives.must_show(&home.path("theirs"));
        // Its turn.
        fs::write(home.path("tree/a.txt"), format!("theirs {turn}")).expect("write");
        fs::remove_file(home.path(&format!("tree/ours {turn}"))).expect("remove");
        drives.mirror();
        home.run(["mount", &at, "mnt"]).must_succeed();
        drives.must_show(&home.path("mnt"));
        let mode = fs::metadata(&empty).expect("an empty directory stays").permissions().mode();
        assert_eq!(mode & 0o777, 0o710);
        home.run(["unmount", "mnt"]).must_succeed();
    }
}

/// Cores of every kind that one key signs are written on: with a manifest of version 0 or 1, and without one.
#[test]
fn the_reference_reads_what_was_written_to_adopted_drives() {
    let shapes: [(&str, &[&str]); 3] =
        [("drives10", &[]), ("compat", &["--legacy10"]), ("many", &["--legacy10"])];
    for (shape, options) in shapes {
        let foreign = Foreign::new(shape, options);
        let (home, at) = (&foreign.home, foreign.directory());
        home.run(["adopt", "--store", &at]).must_succeed();
        let tree = home.make("added");
        fs::write(tree.join("added.txt"), "added\n").expect("write");
        fs::create_dir(tree.join("below")).expect("make");
        fs::write(tree.join("below/large"), vec![7; 300_000]).expect("write");
        home.run(["import", tree.to_str().unwrap(), &format!("{at}/new")]).must_succeed();
        home.run(["check", &at]).must_succeed();
        let (mut served, ready) = serve(home, shape, options);
        assert_eq!(ready["key"], foreign.key.as_str());
        let entries = served.ask(json!({ "manifest": true }))["entries"].clone();
        served.ask(json!({ "put": "/after", "text": "after\n" }));
        quit(served);
        let names = |entries: &Value| entries.as_object().expect("entries").len();
        assert_eq!(names(&entries), names(&foreign.entries) + 2, "{shape}: {entries}");
        let sum = |name: &str| entries[name]["sha256"].clone();
        assert_eq!(sum("/new/added.txt"), sha256(&tree.join("added.txt")), "{shape}");
        assert_eq!(sum("/new/below/large"), sha256(&tree.join("below/large")), "{shape}");
        let read = home.run(["cat", &at, "after"]).must_succeed();
        assert_eq!(read.stdout, "after\n", "{shape}");
    }
}

/// Damage to files of another program is reported; nothing is fetched again in their place, which would lose the key.
#[test]
fn damaged_files_of_an_adopted_store_are_left_as_they_are() {
    let foreign = Foreign::new("drives10", &[]);
    let (home, at) = (&foreign.home, foreign.directory());
    home.run(["adopt", "--store", &at]).must_succeed();
    let found =
        living::succeed(Command::new("find").arg(&at).args(["-name", "oplog", "-size", "+0"]));
    let oplogs: Vec<&str> = found.lines().collect();
    assert!(oplogs.len() >= 2, "{found}");
    for oplog in &oplogs {
        let mut bytes = fs::read(oplog).expect("read");
        bytes[8..40].fill(0xff);
        bytes[4096 + 8..].fill(0xff);
        fs::write(oplog, bytes).expect("write");
    }
    let sums = || oplogs.iter().map(|oplog| sha256(Path::new(oplog))).collect::<Vec<_>>();
    let before = sums();
    let url = format!("hyper://{}", foreign.key);
    for ran in [home.run(["ls", &at]), home.run(["ls", &url, "--store", &at, "--wait", "0"])] {
        assert_ne!(ran.code, Some(0), "{ran:?}");
        assert!(!ran.stderr.contains("panicked"), "{ran:?}");
    }
    assert_eq!(sums(), before);
}

/// While the program runs its directory is left alone, and the drive is read from the program by its key.
#[test]
fn a_drive_of_the_running_drives_program_is_read_by_its_key() {
    let drives = Drives::new();
    let (home, at) = (&drives.home, drives.store().display().to_string());
    let mut network = reference("modern/bootstrap.js", &[]);
    let network = network.json();
    let port = network["port"].to_string();
    let live = ["mirror", "--live", "--bootstrap", &port, "./tree", &drives.id];
    let mut running = Running::start(&mut Drives::command(home, &live));
    while !running.line().contains("Total files") {}
    let before = snapshot(&drives.store());
    home.make("mnt");
    for arguments in [&["mount", &at, "mnt"][..], &["ls", &at]] {
        let refused = home.command().args(arguments).output().expect("it runs");
        let refused = Ran::new(refused).must_fail(4, "in use by");
        assert!(refused.stderr.contains(&format!("(pid {})", running.pid())), "{refused:?}");
        refused.hints("hypermount mount hyper://KEY");
    }
    assert!(snapshot(&drives.store()) == before, "the directory was changed");
    let (url, bootstrap) =
        (format!("pear://{}", drives.id), format!("hyperdht:{}", text(&network["bootstrap"])));
    let found = ["--network", "full", "--bootstrap", &bootstrap];
    let ran = home.command().args(["mount", &url, "mnt"]).args(found).output().expect("it runs");
    Ran::new(ran).must_succeed();
    drives.must_show(&home.path("mnt"));
    home.run(["unmount", "mnt"]).must_succeed();
    running.signal(nix::sys::signal::Signal::SIGTERM);
    running.wait();
    home.run(["ls", &at]).must_succeed();
}

#[test]
fn the_lock_of_its_program_and_ours_exclude_each_other() {
    let home = Home::new();
    let (served, ready) = serve(&home, "drives10", &[]);
    let at = home.path("js/store").display().to_string();
    let refused = home.run(["ls", &at]).must_fail(4, "in use by");
    assert!(refused.stderr.contains(&format!("(pid {})", served.pid())), "{refused:?}");
    refused.hints("hypermount mount hyper://KEY");
    quit(served);
    home.run(["ls", &at]).must_succeed();

    let mounted = living::Mounted::new(&at, &home.path("mnt"), &[]);
    let js = home.path("js").display().to_string();
    let arguments = ["--storage", &js, "--shape", "drives10", "--seed", "1"];
    let mut kept_out = reference("modern/serve-drive.js", &arguments);
    let said = kept_out.json();
    assert!(said["error"].as_str().is_some_and(|why| why.contains("locked")), "{said}");
    // Another reader is no harm.
    home.run(["cat", &at, "hello.txt"]).must_succeed();
    drop(mounted);
    let (served, again) = serve(&home, "drives10", &[]);
    assert_eq!(again["key"], ready["key"]);
    quit(served);
}

#[test]
fn a_store_with_several_drives_needs_a_key() {
    let home = Home::new();
    let at = home.path("js").display().to_string();
    let made = reference("modern/make-store.js", &["--storage", &at, "--drives", "2"]).json();
    let before = snapshot(&home.path("js"));
    let refused = home.run(["ls", &at]).must_fail(2, "there are 2 drives");
    for (n, key) in made["drives"].as_array().expect("keys").iter().enumerate() {
        let key = key.as_str().expect("a key");
        let refused = &refused;
        assert!(refused.stderr.contains(key), "{refused:?}");
        let url = format!("hyper://{key}");
        let read = home.run(["cat", &url, "number.txt", "--store", &at]).must_succeed();
        assert_eq!(read.stdout, format!("drive {n}\n"));
    }
    assert!(snapshot(&home.path("js")) == before, "the store was changed");
}

#[test]
fn what_a_killed_program_left_in_its_oplog_is_read() {
    let home = Home::new();
    let (mut served, _) = serve(&home, "drives10", &[]);
    for n in 0..3 {
        served.ask(json!({ "put": format!("/late/{n}"), "text": format!("late {n}\n") }));
    }
    let entries = served.ask(json!({ "manifest": true }))["entries"].clone();
    served.signal(nix::sys::signal::Signal::SIGKILL);
    quit(served);
    let before = snapshot(&home.path("js/store"));
    let (at, out) = (home.path("js/store"), home.path("out"));
    home.run(["export", at.to_str().unwrap(), out.to_str().unwrap()]).must_succeed();
    must_hold(&out, &entries);
    assert!(snapshot(&at) == before, "the store was changed");
}

#[test]
fn a_store_of_corestore_7_is_refused_with_what_to_do() {
    let foreign = Foreign::new("small", &[]);
    let (home, at) = (&foreign.home, foreign.directory());
    let before = snapshot(&foreign.store());
    let mnt = home.path("mnt").display().to_string();
    for refused in [
        home.run(["ls", &at]),
        home.run(["mount", &at, &mnt]),
        home.run(["mount", "--foreground", &at, &mnt]),
        home.run(["export", &at, &mnt]),
        home.run(["check", &at]),
        home.run(["list", "--store", &at]),
        home.run(["create", "notes", "--store", &at]),
    ] {
        refused.must_fail(1, "a store of Corestore 7").hints("hypermount mount hyper://KEY");
    }
    assert!(snapshot(&foreign.store()) == before, "the store was changed");
}

#[test]
fn the_lock_of_our_cores_keeps_the_reference_out() {
    let home = Home::new();
    let (served, ready) = serve(&home, "drives10", &[]);
    let (url, peer) = (text(&ready["key"]), format!("127.0.0.1:{}", ready["port"]));
    let (ours, out) = (home.path("ours"), home.path("out"));
    let at = ours.display().to_string();
    let exported = ["export", &url, out.to_str().unwrap(), "--store", &at, "--peer", &peer];
    home.run(exported).must_succeed();
    quit(served);
    let mounted = living::Mounted::new(&url, &home.path("mnt"), &["--store", &at]);
    let said = reference("modern/open-core.js", &["--storage", &at]).json();
    assert!(said["error"].as_str().is_some_and(|why| why.contains("locked")), "{said}");
    drop(mounted);
    let opened = reference("modern/open-core.js", &["--storage", &at]).json();
    assert_eq!(opened["cores"].as_array().map(Vec::len), Some(2), "{opened}");
    // What the reference has opened is still ours to read.
    home.run(["ls", &url, "--store", &at, "--wait", "0"]).must_succeed();
}

/// What the reference finds in a copy of the cores of a store, by key.
fn opened_by_the_reference(home: &Home, store: &Path) -> BTreeMap<String, Value> {
    let copy = home.make(&format!("copy of {}", store.file_name().unwrap().to_string_lossy()));
    fs::remove_dir_all(&copy).expect("a fresh directory");
    living::copy_tree(&store.join("cores"), &copy.join("cores"));
    let copy = copy.display().to_string();
    let opened = reference("modern/open-core.js", &["--storage", &copy]).json();
    let cores = opened["cores"].as_array().unwrap_or_else(|| panic!("{opened}")).iter();
    cores.map(|core| (text(&core["key"]), core.clone())).collect()
}

#[test]
fn the_reference_opens_the_cores_that_we_fetched() {
    let shapes: [(&str, &[&str]); 4] =
        [("small", &[]), ("drives10", &[]), ("compat", &["--legacy10"]), ("multisig", &[])];
    for (shape, options) in shapes {
        let home = Home::new();
        let (mut served, ready) = serve(&home, shape, options);
        let (key, content) = (text(&ready["key"]), text(&ready["blobsKey"]));
        let peer = format!("127.0.0.1:{}", ready["port"]);
        let (url, store) = (format!("hyper://{key}"), home.path("ours"));
        let fetch = |to: &str| {
            let to = home.path(to).display().to_string();
            let at = store.display().to_string();
            home.run(["export", &url, &to, "--store", &at, "--peer", &peer]).must_succeed();
        };
        let must_agree = |state: &Value| {
            let ours = opened_by_the_reference(&home, &store);
            assert_eq!(ours.len(), 2, "{shape}: {ours:?}");
            for (key, length) in [(&key, "length"), (&content, "blobsLength")] {
                let core = &ours[key];
                assert_eq!(core["length"], state[length], "{shape}: {core}");
                assert_eq!(core["damaged"], 0, "{shape}: {core}");
            }
            assert_eq!(ours[&key]["fork"], state["fork"], "{shape}");
            assert_eq!(ours[&key]["held"], ours[&key]["length"], "{shape}: the whole index");
            ours
        };
        fetch("out");
        must_agree(&ready);
        let longer = served.ask(json!({ "put": "/more.txt", "text": "more\n" }));
        fetch("longer");
        must_agree(&longer);
        let shorter = (shape != "multisig").then(|| served.ask(json!({ "truncate": 20 })));
        let state = match shorter {
            Some(shorter) => {
                fetch("shorter");
                shorter
            }
            None => longer,
        };
        let ours = must_agree(&state);
        quit(served);
        if options.is_empty() && shape != "drives10" {
            continue; // its own files are in a RocksDB
        }
        let theirs = opened_by_the_reference(&home, &home.path("js/store"));
        assert_eq!(ours[&key]["sha256"], theirs[&key]["sha256"], "{shape}");
    }
}
