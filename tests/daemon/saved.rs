//! Saved mounts, and the files that a killed daemon leaves.

use std::fs;
use std::path::PathBuf;
use std::time::Instant;

use hypermount_drive::DriveFormat;

use crate::common::{Home, Running, eventually, in_each_format, key_of};
use crate::steps::*;

/// A saved mount of a drive in the store `store`, whose daemon has ended; and its mount point.
fn saved_and_stopped() -> (Home, PathBuf) {
    let home = Home::new();
    home.golden_store("store");
    let mnt = home.make("mnt");
    home.run(["mount", "--save", "store", "mnt"]).must_succeed();
    home.run(["daemon", "stop", "--store", "store"]).must_succeed();
    (home, mnt)
}

/// Sentence 87. "A mount made with `--save` is mounted again when the daemon starts, also after kill -9,
/// until it is unmounted; data in the store needs no network for that."
#[test]
fn saved_mounts_come_back_after_a_kill_under_load() {
    if !can_mount() {
        return;
    }
    let home = Home::new();
    create(&home, "notes");
    let mnt = home.make("mnt");
    let other = home.make("other");
    let store = default_store(&home);
    // No peer has this address: mounting again must not wait for one.
    let arguments = ["mount", "--save", "notes", "mnt", "--peer", "192.0.2.1:9"];
    home.run(arguments).must_succeed();
    fs::write(mnt.join("closed"), noise(100_000)).unwrap();
    std::thread::scope(|scope| {
        let busy = scope.spawn(|| {
            let mut written = 0;
            while fs::write(mnt.join(format!("load {written}")), noise(50_000)).is_ok() {
                written += 1;
            }
            written
        });
        // When this file exists, the one before it is closed, and a kill must keep it.
        eventually("it is under load", || mnt.join("load 6").exists());
        kill_daemon(&store);
        assert!(busy.join().unwrap() > 5);
    });
    let started = Instant::now();
    home.run(["daemon", "start"]).must_succeed();
    eventually("the mount is back", || fs::read(mnt.join("closed")).is_ok());
    eprintln!("back after {:?}", started.elapsed());
    assert_eq!(fs::read(mnt.join("closed")).unwrap(), noise(100_000));
    assert_eq!(fs::read(mnt.join("load 5")).unwrap(), noise(50_000));
    let mounts = json(home.run(["status", "--json"]));
    assert_eq!(mounts["mounts"][0]["saved"], true);

    // After an unmount it is not mounted again.
    home.run(["unmount", "mnt"]).must_succeed();
    home.run(["daemon", "stop"]).must_succeed();
    home.run(["mount", "notes", "other"]).must_succeed();
    assert!(mounted_at(&other) && !mounted_at(&mnt));
    home.run(["unmount", "other"]).must_succeed();
}

#[test]
fn stopping_and_terminating_a_daemon_keeps_what_was_saved() {
    if can_mount() {
        in_each_format(stopping_a_daemon_keeps_what_was_saved);
    }
}

fn stopping_a_daemon_keeps_what_was_saved(format: DriveFormat) {
    let home = Home::new();
    let store = home.golden_store_of(format, "store");
    let (mnt, plain) = (home.make("mnt"), home.make("plain"));
    home.run(["mount", "--save", "store", "mnt"]).must_succeed();
    let old = format!("hyper://{}+2", key_of(format));
    home.run(["mount", &old, "plain", "--store", "store"]).must_succeed();
    home.run(["daemon", "stop", "--store", "store"]).must_succeed();
    assert!(!mounted_at(&mnt) && !mounted_at(&plain) && !has_daemon(&store));
    // The next command that needs a daemon brings it back too.
    home.run(["mount", &old, "plain", "--store", "store"]).must_succeed();
    eventually("the saved one is back", || mnt.join("hello.txt").exists());
    assert_eq!(fs::read_to_string(plain.join("hello.txt")).unwrap(), "hello world");
    home.run(["unmount", "mnt"]).must_succeed();
    home.run(["unmount", "plain"]).must_succeed();
    assert!(!has_daemon(&store));
}

#[test]
fn a_saved_mount_that_cannot_be_made_is_said_to_be_wrong_and_tried_again() {
    if !can_mount() {
        return;
    }
    let (home, mnt) = saved_and_stopped();
    fs::write(mnt.join("in the way"), "").unwrap();
    home.run(["daemon", "start", "--store", "store"]).must_succeed();
    eventually("the trouble is told", || {
        let status = json(home.run(["status", "--json", "--store", "store"]));
        status["troubles"].to_string().contains("not empty")
    });
    fs::remove_file(mnt.join("in the way")).unwrap();
    eventually("it is mounted", || mnt.join("hello.txt").exists());
    home.run(["unmount", "mnt"]).must_succeed();
    home.run(["daemon", "stop", "--store", "store"]).must_succeed();
}

#[test]
fn a_saved_mount_that_is_unmounted_while_it_waits_for_a_peer_stays_unmounted() {
    if can_mount() {
        in_each_format(it_stays_unmounted);
    }
}

fn it_stays_unmounted(format: DriveFormat) {
    let home = Home::new();
    home.golden_store_of(format, "theirs");
    let (mnt, other) = (home.make("mnt"), home.make("other"));
    let url = format!("hyper://{}", key_of(format));
    let (server, peer) = serve(&home, "theirs");
    home.run(["mount", "--save", &url, "mnt", "--peer", &peer, "--wait", "forever"]).must_succeed();
    home.run(["daemon", "stop"]).must_succeed();
    drop(server);
    // Now the drive is not in the store, so mounting it again needs the peer.
    fs::remove_dir_all(default_store(&home)).unwrap();
    home.run(["daemon", "start"]).must_succeed();
    eventually("it is being mounted", || {
        json(home.run(["status", "--json"]))["troubles"].to_string().contains("being mounted")
    });
    home.run(["unmount", "mnt"]).must_succeed();
    let again = ["serve", "--store", "theirs", "--listen", &peer];
    let server = Running::start(home.command().args(again));
    assert_eq!(server.line(), peer);
    home.run(["mount", &url, "other", "--peer", &peer]).must_succeed();
    fs::read(other.join("hello.txt")).unwrap();
    let status = json(home.run(["status", "--json"]));
    assert_eq!(status["mounts"].as_array().unwrap().len(), 1, "{status}");
    assert!(!mounted_at(&mnt));
    home.run(["unmount", "other"]).must_succeed();
    home.run(["daemon", "stop"]).must_succeed();
}

#[test]
fn unmount_forgets_a_saved_mount_while_no_daemon_runs() {
    if !can_mount() {
        return;
    }
    let (home, mnt) = saved_and_stopped();
    home.run(["unmount", "mnt"]).must_succeed();
    home.run(["unmount", "mnt"]).must_fail(1, "is not a mount of ours");
    home.run(["daemon", "start", "--store", "store"]).must_succeed();
    let status = json(home.run(["status", "--json", "--store", "store"]));
    assert_eq!(status["mounts"].as_array().unwrap().len(), 0, "{status}");
    assert_eq!(status["troubles"].as_array().unwrap().len(), 0, "{status}");
    assert!(!mounted_at(&mnt));
    home.run(["daemon", "stop", "--store", "store"]).must_succeed();
}

/// The unit names this program and this store, and nothing is left of it afterwards.
#[test]
fn a_service_is_a_file_that_starts_the_daemon() {
    let home = Home::new();
    let unit = home.path("config/systemd/user/hypermount.service");
    let service = |what: &str| {
        let mut command = home.command();
        command.env("XDG_CONFIG_HOME", home.path("config"));
        command.args(["service", what, "--no-start"]).output().unwrap()
    };
    assert!(service("install").status.success());
    let text = fs::read_to_string(&unit).unwrap();
    let start = text.lines().find_map(|line| line.strip_prefix("ExecStart=")).unwrap();
    assert!(start.contains("daemon run --create --store"));
    assert!(start.starts_with(&format!("\"{}\"", env!("CARGO_BIN_EXE_hypermount"))), "{start}");
    // The unit starts a daemon of that store.
    let words: Vec<&str> = start.split('"').map(str::trim).filter(|w| !w.is_empty()).collect();
    let [program, _, store] = words[..] else { panic!("{words:?}") };
    let arguments = ["daemon", "run", "--create", "--store", store];
    let mut command = home.command();
    let daemon = std::process::Command::new(program)
        .args(arguments)
        .envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))))
        .current_dir(command.args(["x"]).get_current_dir().unwrap())
        .stderr(std::process::Stdio::null())
        .spawn();
    let mut daemon = daemon.unwrap();
    eventually("it runs", || has_daemon(&default_store(&home)));
    home.run(["daemon", "stop"]).must_succeed();
    assert_eq!(daemon.wait().unwrap().code(), Some(0));
    assert!(service("uninstall").status.success() && !unit.exists());
}

/// Sentence 95. "Called as `mount.hypermount`, the program takes a line of fstab(5): `ro`,
/// `allow_other`, `store=`, `peer=`, `wait=` and `listen=` mean what they mean to `mount`, options
/// that concern only the system are ignored, and all others are refused."
#[test]
fn a_line_of_fstab_mounts() {
    if can_mount() && nix::unistd::geteuid().is_root() {
        in_each_format(a_line_mounts);
    }
}

fn a_line_mounts(format: DriveFormat) {
    let home = Home::new();
    let store = home.golden_store_of(format, "store");
    let mnt = home.make("mnt");
    let helper = home.path("mount.hypermount");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_hypermount"), &helper).unwrap();
    let run = |options: &str| {
        let mut command = std::process::Command::new(&helper);
        let set = home.command();
        command.envs(set.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let source = format!("hyper://{}", key_of(format));
        // At boot, HOME is not set.
        command.env_remove("HOME");
        command.args([source.as_str(), mnt.to_str().unwrap(), "-o", options]).output().unwrap()
    };
    let refused = run("typo");
    assert_eq!(refused.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("typo"));
    let options = format!("rw,nofail,_netdev,allow_other,ro,store={}", store.display());
    let done = run(&options);
    assert!(done.status.success(), "{done:?}");
    assert_eq!(fs::read_to_string(mnt.join("hello.txt")).unwrap(), "hello again, overwritten");
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let line = table.lines().find(|line| line.contains(&format!(" {} ", mnt.display()))).unwrap();
    assert!(line.contains("allow_other") && line.contains(" ro,"), "{line}");
    home.run(["unmount", "mnt"]).must_succeed();
}
