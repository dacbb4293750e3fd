//! When a daemon starts and ends, what it holds meanwhile, and which users get answers.

use std::fs::{self, OpenOptions, Permissions};
use std::io::{Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use hypermount_drive::DriveFormat;
use nix::fcntl::{Flock, FlockArg};

use crate::common::{Home, Ran, eventually, in_each_format, key_of};
use crate::steps::*;

/// Sentence 83. "All mounts of a store that are not in the foreground are made by one daemon, which
/// the first of them starts."
/// Sentence 85. "A daemon that started by itself ends when nothing is mounted or seeded any more; one
/// that `daemon start` started ends at `daemon stop`."
#[test]
fn two_drives_of_one_store_are_mounted_by_one_daemon() {
    if !can_mount() {
        return;
    }
    let home = Home::new();
    let (one, two) = (home.make("one"), home.make("two"));
    create(&home, "first");
    create(&home, "second");
    let store = default_store(&home);
    assert!(!has_daemon(&store), "looking and making takes no daemon");
    let first = json(home.run(["mount", "--json", "first", "one"]));
    let second = json(home.run(["mount", "--json", "second", "two"]));
    assert_eq!(first["pid"], second["pid"]);
    fs::write(one.join("file"), "one").unwrap();
    fs::write(two.join("file"), "two").unwrap();
    assert_eq!(fs::read_to_string(one.join("file")).unwrap(), "one");

    home.run(["unmount", "one"]).must_succeed();
    assert!(!mounted_at(&one) && mounted_at(&two));
    assert!(has_daemon(&store), "the other mount is there");
    home.run(["unmount", "two"]).must_succeed();
    assert!(!has_daemon(&store), "the store is free when the last mount is gone");
    eventually("it has ended", || !alive(first["pid"].as_i64().unwrap()));
}

/// The output of a command without its log.
fn said(ran: &Ran) -> Vec<String> {
    let lines = ran.stderr.lines().filter(|line| !line.starts_with('['));
    lines.map(str::to_owned).collect()
}

/// Sentence 84. "While a daemon has the store, `ls`, `cat`, `stat`, `info`, `list`, `create`, `import`
/// and `export` work as usual, through it."
#[test]
fn every_command_works_while_the_store_is_mounted() {
    if can_mount() {
        in_each_format(every_command_works);
    }
}

fn every_command_works(format: DriveFormat) {
    let home = Home::new();
    home.golden_store_of(format, "store");
    home.make("mnt");
    let ask = |name: &str| match name {
        "ls" => home.run(["ls", "-l", "store", "dir"]),
        "json" => home.run(["ls", "--json", "store"]),
        "cat" => home.run(["cat", "store", "hello.txt", "dir/f1.txt"]),
        "stat" => home.run(["stat", "store", "big.bin"]),
        "info" => home.run(["info", "--json", "store"]),
        _ => home.run(["ls", "store", "nothing"]),
    };
    let questions = ["ls", "json", "cat", "stat", "info", "nothing"];
    let alone: Vec<_> = questions.iter().map(|name| ask(name)).collect();
    let listed = home.run(["list", "--store", "store"]).must_succeed().stdout;
    home.run(["mount", "store", "mnt"]).must_succeed();
    for (name, alone) in questions.iter().zip(alone) {
        let asked = ask(name);
        assert_eq!(asked.stdout, alone.stdout, "{name}");
        assert_eq!((asked.code, said(&asked)), (alone.code, said(&alone)), "{name}");
    }
    assert_eq!(home.run(["list", "--store", "store"]).must_succeed().stdout, listed);

    home.run(["create", "mine", "--store", "store"]).must_succeed();
    home.run(["create", "mine", "--store", "store"]).must_fail(1, "there is one of that name");
    home.make("in/sub");
    fs::write(home.path("in/sub/file"), noise(300_000)).unwrap();
    let dry = home.run(["import", "in", "mine", "--store", "store", "--dry-run"]).must_succeed();
    assert!(dry.stderr.contains("would copy sub/file"), "{dry:?}");
    let did = json(home.run(["import", "in", "mine", "--store", "store", "--json"]));
    assert_eq!((&did["files"], &did["bytes"]), (&1.into(), &300_000.into()));
    home.run(["export", "mine/sub", "out", "--store", "store"]).must_succeed();
    assert_eq!(fs::read(home.path("out/file")).unwrap(), noise(300_000));
    home.run(["import", "absent", "mine", "--store", "store"]).must_fail(1, "absent");
    home.run(["unmount", "mnt"]).must_succeed();
}

/// Two handles on one drive take turns: nothing of either is lost.
#[test]
fn an_import_into_a_mounted_drive_and_a_writer_do_not_harm_each_other() {
    if !can_mount() {
        return;
    }
    let home = Home::new();
    create(&home, "notes");
    let mnt = home.make("mnt");
    home.make("in");
    for number in 0..50 {
        fs::write(home.path(&format!("in/imported {number}")), noise(20_000)).unwrap();
    }
    home.run(["mount", "notes", "mnt"]).must_succeed();
    std::thread::scope(|scope| {
        scope.spawn(|| home.run(["import", "in", "notes"]).must_succeed());
        for number in 0..50 {
            fs::write(mnt.join(format!("written {number}")), noise(10_000)).unwrap();
        }
    });
    let whole = |name: String, length: usize| {
        fs::read(mnt.join(name)).is_ok_and(|bytes| bytes == noise(length))
    };
    for number in 0..50 {
        eventually("what was imported shows", || whole(format!("imported {number}"), 20_000));
        assert!(whole(format!("written {number}"), 10_000), "{number}");
    }
    home.run(["unmount", "mnt"]).must_succeed();
    let names = home.run(["ls", "notes"]).must_succeed().stdout;
    assert_eq!(names.lines().count(), 100);
}

/// What was looked up before leads to the one file that two names have become, and what is written under both is in it.
#[test]
fn an_import_makes_two_files_of_a_mount_one() {
    for (format, linked, kept) in
        ["10", "13"].into_iter().flat_map(|format| [(format, "b", "a"), (format, "a", "b")])
    {
        if !can_mount() {
            return;
        }
        let home = Home::new();
        home.run(["create", "notes", "--format", format]).must_succeed();
        let (mnt, tree) = (home.make("mnt"), home.make("in"));
        for name in ["a", "b"] {
            fs::write(tree.join(name), name.repeat(12)).unwrap();
        }
        // Else an import takes them for equal.
        let file = OpenOptions::new().write(true).open(tree.join("b")).unwrap();
        file.set_modified(UNIX_EPOCH + Duration::from_secs(1)).unwrap();
        home.run(["mount", "notes", "mnt"]).must_succeed();
        home.run(["import", "in", "notes"]).must_succeed();
        let stats = || ["a", "b"].map(|name| fs::metadata(mnt.join(name)).unwrap());
        assert_ne!(stats()[0].ino(), stats()[1].ino());

        fs::remove_file(tree.join(linked)).unwrap();
        fs::hard_link(tree.join(kept), tree.join(linked)).unwrap();
        home.run(["import", "in", "notes"]).must_succeed();
        let [a, b] = stats();
        let what = format!("format {format}, {linked} became {kept}");
        assert_eq!((a.ino(), a.nlink(), b.nlink()), (b.ino(), 2, 2), "{what}");
        let open = ["a", "b"]
            .map(|name| OpenOptions::new().read(true).write(true).open(mnt.join(name)).unwrap());
        open[0].write_all_at(b"1111", 0).unwrap();
        open[1].write_all_at(b"2222", 8).unwrap();
        drop(open);
        let expected = format!("1111{}2222", kept.repeat(4));
        for name in ["a", "b"] {
            assert_eq!(fs::read_to_string(mnt.join(name)).unwrap(), expected, "{what}: {name}");
        }
        home.run(["unmount", "mnt"]).must_succeed();
    }
}

/// Sentence 88. "Your own drive is mounted for writing at one place at a time."
#[test]
fn a_second_place_to_write_one_drive_is_refused() {
    if !can_mount() {
        return;
    }
    let home = Home::new();
    create(&home, "notes");
    let (one, two) = (home.make("one"), home.make("two"));
    home.run(["mount", "notes", "one"]).must_succeed();
    home.run(["mount", "notes", "two"]).must_fail(1, "written there").hints("--read-only");
    home.run(["mount", "--read-only", "notes", "two"]).must_succeed();
    fs::write(one.join("file"), "text").unwrap();
    eventually("it shows in the other", || {
        fs::read_to_string(two.join("file")).is_ok_and(|text| text == "text")
    });
    home.run(["unmount", "one"]).must_succeed();
    home.run(["unmount", "two"]).must_succeed();
}

#[test]
fn a_daemon_that_was_started_stays_until_it_is_stopped() {
    let home = Home::new();
    let store = default_store(&home);
    home.run(["daemon", "status"]).must_fail(1, "none runs").hints("daemon start");
    let started = json(home.run(["daemon", "start", "--json"]));
    let again = json(home.run(["daemon", "start", "--json"]));
    assert_eq!(started["pid"], again["pid"]);
    home.run(["create", "notes"]).must_succeed();
    if can_mount() {
        home.make("mnt");
        home.run(["mount", "notes", "mnt"]).must_succeed();
        home.run(["unmount", "mnt"]).must_succeed();
    }
    assert!(home.run(["status"]).must_succeed().stdout.contains("stays until stopped"));
    let socket = socket(&store);
    assert_eq!(fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
    let above = socket.parent().unwrap();
    assert_eq!(fs::metadata(above).unwrap().permissions().mode() & 0o777, 0o700);
    home.run(["daemon", "stop"]).must_succeed();
    assert!(!has_daemon(&store) && !socket.exists());
    eventually("it has ended", || !alive(started["pid"].as_i64().unwrap()));
    let log = home.run(["daemon", "logs"]).must_succeed().stdout;
    assert!(!log.contains("panicked"), "{log}");
    home.run(["daemon", "stop"]).must_succeed();
}

/// A daemon that a mount has started stays after `daemon start`, also when the mount is gone.
#[test]
fn a_daemon_that_started_by_itself_can_be_told_to_stay() {
    if !can_mount() {
        return;
    }
    let home = Home::new();
    create(&home, "notes");
    home.make("mnt");
    home.run(["mount", "notes", "mnt"]).must_succeed();
    home.run(["daemon", "start"]).must_succeed();
    home.run(["unmount", "mnt"]).must_succeed();
    assert!(has_daemon(&default_store(&home)));
    home.run(["daemon", "stop"]).must_succeed();
}

#[test]
fn no_key_is_in_the_log_or_in_the_list_of_processes() {
    if can_mount() {
        in_each_format(no_key_is_in_the_log);
    }
}

fn no_key_is_in_the_log(format: DriveFormat) {
    let home = Home::new();
    home.golden_store_of(format, "store");
    home.make("mnt");
    let key = key_of(format);
    let url = format!("hyper://{key}");
    let told = json(home.run(["-vv", "mount", "--json", &url, "mnt", "--store", "store"]));
    let pid = told["pid"].as_i64().unwrap();
    let command_line = fs::read(format!("/proc/{pid}/cmdline")).unwrap();
    let command_line = String::from_utf8_lossy(&command_line);
    assert!(command_line.contains("daemon") && !command_line.contains(key), "{command_line}");
    home.run(["ls", &url, "--store", "store"]).must_succeed();
    home.run(["unmount", "mnt"]).must_succeed();
    let log = fs::read_to_string(told["log"].as_str().unwrap()).unwrap();
    assert!(!log.contains(key), "{log}");
}

/// Sentence 86. "Its socket answers only its own user and root."
#[test]
fn another_user_gets_no_answer() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIPPED: only root can become another user");
        return;
    }
    if !Path::new("/usr/bin/curl").exists() {
        eprintln!("SKIPPED: there is no curl");
        return;
    }
    let home = Home::new();
    home.run(["daemon", "start"]).must_succeed();
    let socket = socket(&default_store(&home));
    let own = http(&socket, "GET", "/status", "");
    assert_eq!(own.0, 200);
    // Also if the permissions of the socket and of all directories above it are open.
    for directory in socket.ancestors().skip(1).take_while(|path| *path != Path::new("/tmp")) {
        fs::set_permissions(directory, Permissions::from_mode(0o755)).unwrap();
    }
    fs::set_permissions(&socket, Permissions::from_mode(0o777)).unwrap();
    let user = ["--reuid", "65534", "--regid", "65534", "--clear-groups", "/usr/bin/curl"];
    let request = ["--silent", "--max-time", "60", "--unix-socket", socket.to_str().unwrap()];
    let asked = program("setpriv", &[&user[..], &request, &["http://x/status"]].concat());
    assert!(!asked.status.success() && asked.stdout.is_empty(), "{asked:?}");
    // The same request of the daemon's own user is answered.
    let asked = program("curl", &[&request[..], &["http://x/status"]].concat());
    assert!(asked.status.success() && !asked.stdout.is_empty(), "{asked:?}");
    home.run(["daemon", "stop"]).must_succeed();
}

/// A store with a daemon of another version in it: this process, with the lock.
#[test]
fn a_daemon_of_another_version_is_named_with_the_remedy() {
    let home = Home::new();
    let store = home.golden_store("store");
    let socket = home.path("other.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let presence = serde_json::json!({ "pid": 1, "socket": socket, "version": "99.0.0" });
    let file = store.join("hypermount.daemon");
    fs::write(&file, presence.to_string()).unwrap();
    let locked = Flock::lock(fs::File::open(&file).unwrap(), FlockArg::LockExclusive);
    let locked = locked.map_err(|(_, errno)| errno).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut asked = [0; 4096];
            // The first connection only checks that the socket answers.
            if stream.read(&mut asked).is_ok_and(|count| count > 0) {
                let head = "HTTP/1.1 200 OK\r\nhypermount-api: 99\r\nhypermount-version: 99.0.0";
                let _ = write!(stream, "{head}\r\ncontent-length: 2\r\n\r\n{{}}");
            }
        }
    });
    let failed = home.run(["ls", "store"]).must_fail(1, "99.0.0").hints("daemon stop");
    assert!(failed.stderr.contains(env!("CARGO_PKG_VERSION")), "{failed:?}");
    drop(locked);
    // The files that the ended daemon left do not fail a command.
    home.run(["ls", "store"]).must_succeed();
}
