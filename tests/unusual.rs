//! Machines, names and times that are unusual but allowed.

mod common;

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use common::{Home, Running};

fn can_mount() -> bool {
    let able = Path::new("/dev/fuse").exists();
    if !able {
        eprintln!("SKIPPED: there is no /dev/fuse here");
    }
    able
}

#[track_caller]
fn succeeded(output: Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Unmounts at the end of a test, also if that fails.
struct Unmounted<'a>(&'a Home, &'a Path);

impl Drop for Unmounted<'_> {
    fn drop(&mut self) {
        let _ = self.0.command().args(["unmount", "--force"]).arg(self.1).output();
    }
}

/// Sentence 113. "Mount points, stores and directories may have any name, also one that is not
/// UTF-8."
#[test]
fn names_that_are_not_utf8_are_paths_like_others() {
    if !can_mount() {
        return;
    }
    let home = Home::new();
    let odd = |name: &[u8]| home.directory.path().join(OsStr::from_bytes(name));
    let (store, mnt) = (odd(b"Speicher-\xfc"), odd(b"Bilder-\xfc"));
    let (source, out) = (odd(b"Quelle-\xfc"), odd(b"Ziel-\xfc"));
    for directory in [&mnt, &source] {
        fs::create_dir(directory).unwrap();
    }
    fs::write(source.join("file"), "text").unwrap();
    let run = |words: &[&OsStr]| home.command().args(words).output().unwrap();
    let word = OsStr::new;
    let at_store = [word("--store"), store.as_os_str()];
    let with_store = |words: &[&OsStr]| run(&[words, &at_store].concat());

    succeeded(with_store(&[word("create"), word("notes")]));
    let mount = [word("mount"), word("--json"), word("--save"), word("notes"), mnt.as_os_str()];
    let told: serde_json::Value = serde_json::from_str(&succeeded(with_store(&mount))).unwrap();
    let _unmounted = Unmounted(&home, &mnt);
    let digits: String =
        mnt.as_os_str().as_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(told["mountpoint"], format!("bytes:{digits}"));
    fs::write(mnt.join("written"), "here").unwrap();
    succeeded(with_store(&[word("import"), source.as_os_str(), word("notes")]));
    succeeded(with_store(&[word("export"), word("notes"), out.as_os_str()]));
    assert_eq!(fs::read_to_string(out.join("written")).unwrap(), "here");
    assert_eq!(fs::read_to_string(out.join("file")).unwrap(), "text");
    for asked in
        [&["status"][..], &["status", "--json"], &["daemon", "status", "--json"], &["list"]]
    {
        let words: Vec<_> = asked.iter().map(|asked| word(asked)).collect();
        succeeded(with_store(&words));
    }
    succeeded(run(&[word("why"), mnt.join("file").as_os_str()]));
    succeeded(run(&[word("info"), mnt.as_os_str()]));

    // The saved mount comes back; then it is unmounted for good.
    succeeded(with_store(&[word("daemon"), word("stop")]));
    succeeded(with_store(&[word("daemon"), word("start")]));
    common::eventually("the saved mount is back", || mnt.join("written").exists());
    succeeded(run(&[word("unmount"), mnt.as_os_str()]));
    succeeded(with_store(&[word("daemon"), word("stop")]));
    let listed = succeeded(run(&[word("ls"), store.as_os_str()]));
    assert!(listed.contains("written"), "{listed}");

    let mut process = Command::new(env!("CARGO_BIN_EXE_hypermount"));
    for (name, value) in home.command().get_envs().filter_map(|(n, v)| Some((n, v?))) {
        process.env(name, value);
    }
    let foreground = ["mount", "--foreground"].map(word);
    let process = process.args(foreground).args([store.as_os_str(), mnt.as_os_str()]);
    let mut running = Running::start(process.stdin(Stdio::null()));
    running.line();
    assert!(mnt.join("file").exists());
    succeeded(run(&[word("unmount"), mnt.as_os_str()]));
    assert_eq!(running.ended(), Some(0));
}

/// Sentence 114. "A user whose home directory cannot be written mounts and uses the store that
/// `--store` names; only `--save` needs a state directory."
#[test]
fn a_mount_works_without_a_writable_home() {
    if !can_mount() {
        return;
    }
    let home = Home::new();
    home.run(["create", "notes", "--store", "store"]).must_succeed();
    let mnt = home.make("mnt");
    let command = |words: &[&str]| {
        let mut command = home.command();
        // Not even root makes directories there.
        command.env("HOME", "/proc/self").env_remove("XDG_STATE_HOME").env_remove("XDG_DATA_HOME");
        command.args(words);
        command
    };
    let run = |words: &[&str]| command(words).output().unwrap();
    let mount = ["mount", "notes", "mnt", "--store", "store"];
    let mut running = Running::start(&mut command(&[&mount[..], &["--foreground"]].concat()));
    running.line();
    fs::write(mnt.join("file"), "one").unwrap();
    succeeded(run(&["unmount", "mnt"]));
    assert_eq!(running.ended(), Some(0));

    succeeded(run(&mount));
    assert_eq!(fs::read_to_string(mnt.join("file")).unwrap(), "one");
    succeeded(run(&["cat", "notes", "file", "--store", "store"]));
    succeeded(run(&["status", "--store", "store"]));
    succeeded(run(&["why", "mnt/file"]));
    succeeded(run(&["unmount", "mnt"]));
    assert!(!mnt.join("file").exists());

    let saved = run(&[&mount[..], &["--save"]].concat());
    let said = String::from_utf8_lossy(&saved.stderr).into_owned();
    assert_eq!(saved.status.code(), Some(1), "{said}");
    assert!(said.contains("hint: set XDG_STATE_HOME"), "{said}");
    assert!(!mnt.join("file").exists(), "a mount that cannot be saved is not made");
    run(&["unmount", "mnt"]);
}

/// Sentence 115. "Commands that make a store at the same time make one store: each ends with 0, or
/// with 4 while another command has it."
#[test]
fn five_commands_make_one_store() {
    let home = Home::new();
    let mut served = 0;
    for round in 0..20 {
        let store = format!("store{round}");
        let made: Vec<_> = thread::scope(|scope| {
            let make = |drive: usize| {
                let (home, store) = (&home, &store);
                scope.spawn(move || {
                    let name = format!("drive{drive}");
                    home.command().args(["create", &name, "--store", store]).output().unwrap()
                })
            };
            let started: Vec<_> = (0..5).map(make).collect();
            started.into_iter().map(|made| made.join().unwrap()).collect()
        });
        for output in &made {
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(matches!(output.status.code(), Some(0 | 4)), "round {round}: {said}");
        }
        let here = made.iter().filter(|output| output.status.success()).count();
        let listed = home.run(["list", "--json", "--store", &store]).must_succeed().stdout;
        let listed: serde_json::Value = serde_json::from_str(&listed).unwrap();
        assert_eq!(listed.as_array().map(Vec::len), Some(here), "{listed}");
        served += here;
    }
    assert!(served >= 20, "one of each five at least");
}

fn before_1970() -> SystemTime {
    UNIX_EPOCH - Duration::new(304_000_000, 122_456_789)
}

/// Sentence 60. "Both keep names, content, modes, modification times to the nanosecond"
#[test]
fn a_time_before_1970_is_copied_each_way() {
    let home = Home::new();
    home.run(["create", "notes", "--store", "store"]).must_succeed();
    let source = home.make("source");
    home.make("source/album");
    for name in ["photo", "new"] {
        fs::write(source.join(name), "scan").unwrap();
    }
    for name in ["photo", "album"] {
        fs::File::open(source.join(name)).unwrap().set_modified(before_1970()).unwrap();
    }
    home.run(["import", "source", "notes", "--store", "store"]).must_succeed();
    home.run(["export", "notes", "out", "--store", "store"]).must_succeed();
    for name in ["photo", "album", "new"] {
        let modified = |directory: &str| {
            fs::metadata(home.path(directory).join(name)).unwrap().modified().unwrap()
        };
        assert_eq!(modified("out"), modified("source"), "{name}");
    }
    for [what, from, to] in [["import", "source", "notes"], ["export", "notes", "out"]] {
        let again = home.run([what, from, to, "--store", "store", "--json"]);
        let again = again.must_succeed().stdout;
        let again: serde_json::Value = serde_json::from_str(again.lines().last().unwrap()).unwrap();
        assert_eq!((&again["files"], &again["updated"]), (&0.into(), &0.into()), "{again}");
    }
    let listed = home.run(["ls", "-l", "notes", "--store", "store"]).must_succeed().stdout;
    assert!(listed.contains("@-304000000123"), "{listed}");
}
