//! All drives in one mount, as users have it: made by the command, through the daemon, with a peer
//! that has the drives that are looked up by key.

use std::fs;
use std::path::Path;

use hypermount_drive::DriveFormat;
use serde_json::Value;

use crate::common::{Home, KEY, Running, UNKNOWN_KEY, eventually, in_each_format, key_of};
use crate::steps::*;

fn read(path: impl AsRef<Path>) -> String {
    let path = path.as_ref();
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A home with a drive of its own, and a peer with the golden drive of a format.
fn with_a_peer(format: DriveFormat) -> (Home, Running, String) {
    let home = Home::new();
    home.golden_store_of(format, "theirs");
    let (serve, peer) = serve(&home, "theirs");
    create(&home, "notes");
    (home, serve, peer)
}

/// Sentence 96. "A mount of all drives (`mount --all`) holds the drives of the store that have a name here,
/// and in `Network` any drive by its key, with `+VERSION` if wanted."
#[test]
fn every_drive_has_a_path_in_a_mount_of_all_drives() {
    if can_mount() {
        in_each_format(every_drive_has_a_path);
    }
}

fn every_drive_has_a_path(format: DriveFormat) {
    let (home, _serve, peer) = with_a_peer(format);
    let shown = key_of(format);
    let ran = home.run(["mount", "--all", "--peer", &peer]).must_succeed();
    assert!(ran.stderr.contains("mounted all drives on"), "{ran:?}");
    let all = home.path("Hyperdrive");
    assert!(mounted_at(&all));
    fs::write(all.join("notes/file"), "mine").unwrap();
    assert_eq!(read(all.join("Network").join(shown).join("hello.txt")), "hello again, overwritten");
    let frozen = all.join("Network").join(format!("{shown}+2"));
    assert_eq!(read(frozen.join("hello.txt")), "hello world");
    assert_eq!(fs::read_dir(&frozen).unwrap().count(), 1);
    let status = |path: &str| -> Value {
        serde_json::from_str(&read(all.join(path).join(".hypermount/status.json"))).unwrap()
    };
    assert_eq!(status("notes")["name"], "notes");
    let old = status(&format!("Network/{shown}+2"));
    assert_eq!((&old["version"], &old["frozen"]), (&2.into(), &true.into()));
    assert_eq!(status(&format!("Network/{shown}"))["peers"], 1);
    assert!(!all.join(".hypermount").exists());
    // A drive that is made while the mount exists appears at once.
    create(&home, "later");
    fs::write(all.join("later/file"), "later").unwrap();

    let status = home.run(["status"]).must_succeed().stdout;
    assert!(status.contains("all drives, 4 open"), "{status}");
    let status = json(home.run(["status", "--json"]));
    let drives = status["mounts"][0]["drives"].as_array().unwrap();
    let paths: Vec<_> = drives.iter().map(|drive| drive["path"].as_str().unwrap()).collect();
    let (key, old) = (format!("Network/{shown}"), format!("Network/{shown}+2"));
    assert_eq!(paths, [key.as_str(), &old, "later", "notes"]);
    assert_eq!(status["mounts"][0]["url"], Value::Null);
    home.run(["unmount", "Hyperdrive/notes"]).must_fail(1, "it is in the mount at");
    home.run(["unmount", "Hyperdrive"]).must_succeed();
    assert!(!mounted_at(&all) && !has_daemon(&default_store(&home)));
    assert_eq!(home.run(["cat", "notes", "file"]).must_succeed().stdout, "mine");
    let left = fs::read_dir(home.path("state/hypermount/mounts")).unwrap().count();
    assert_eq!(left, 0, "nothing is left");
}

#[test]
fn a_path_inside_says_which_drive_a_command_means() {
    if can_mount() {
        in_each_format(a_path_inside_says_which_drive);
    }
}

fn a_path_inside_says_which_drive(format: DriveFormat) {
    let (home, _serve, peer) = with_a_peer(format);
    let shown = key_of(format);
    home.make("all");
    home.run(["mount", "--all", "all", "--peer", &peer, "--wait", "1s"]).must_succeed();
    let all = home.path("all");
    let in_network = format!("all/Network/{shown}");
    fs::create_dir_all(all.join("notes/dir")).unwrap();
    assert_eq!(fs::read(home.path(&in_network).join("big.bin")).unwrap().len(), 204_800);

    let url = format!("hyper://{shown}");
    let notes = json(home.run(["info", "--json", "all/notes/dir"]));
    assert_eq!(notes["writable"], true);
    assert_eq!(json(home.run(["info", "--json", &in_network]))["url"], url.as_str());
    let shared = home.run(["share", "all/notes", "--listen", "127.0.0.1:0"]).must_succeed();
    assert_eq!(shared.stdout.trim(), notes["url"].as_str().unwrap());
    let peers = json(home.run(["peers", "--json", &format!("{in_network}/dir")]));
    assert_eq!((&peers["url"], &peers["complete"]), (&url.as_str().into(), &1.into()));
    home.run(["share", "all"]).must_fail(2, "all drives are mounted there");
    let listed = json(home.run(["list", "--json"]));
    let listed = listed.as_array().unwrap();
    let at = |url: &Value| {
        let drive = listed.iter().find(|drive| drive["url"] == *url).expect("it is listed");
        drive["mountpoints"][0].as_str().unwrap().to_owned()
    };
    assert_eq!(at(&notes["url"]), all.join("notes").to_str().unwrap());
    assert_eq!(at(&url.as_str().into()), home.path(&in_network).to_str().unwrap());

    let top = json(home.run(["top", "--json"]));
    let drives = top["drives"].as_array().unwrap();
    let fetched = drives.iter().find(|drive| drive["url"] == url.as_str()).unwrap();
    assert_eq!(fetched["mountpoint"], home.path(&in_network).to_str().unwrap());
    assert!(fetched["fetched"].as_u64().unwrap() > 100_000, "{top}");
    let files: Vec<_> = top["files"].as_array().unwrap().iter().map(|file| &file["path"]).collect();
    assert_eq!(files, [&Value::from(format!("Network/{shown}/big.bin"))]);

    let unknown = format!("all/Network/{UNKNOWN_KEY}");
    let failed = fs::metadata(home.path(&unknown)).unwrap_err();
    assert_eq!(failed.raw_os_error(), Some(libc::ETIMEDOUT));
    let why = home.run(["why", &unknown]).must_succeed().stdout;
    assert!(why.contains("ETIMEDOUT") && why.contains("do:"), "{why}");
    assert!(fs::write(home.path(&in_network).join("hello.txt"), "x").is_err());
    let why = home.run(["why", &format!("{in_network}/hello.txt")]).must_succeed().stdout;
    assert!(why.contains("EROFS"), "{why}");
    home.run(["unseed", "notes"]).must_succeed();
    home.run(["unmount", "all"]).must_succeed();
}

#[test]
fn a_saved_mount_of_all_drives_comes_back() {
    if can_mount() {
        in_each_format(a_saved_mount_comes_back);
    }
}

fn a_saved_mount_comes_back(format: DriveFormat) {
    let (home, serve, peer) = with_a_peer(format);
    let shown = key_of(format);
    home.make("all");
    home.run(["mount", "--all", "all", "--save", "--peer", &peer]).must_succeed();
    let (notes, known) = (home.path("all/notes/file"), home.path("all/Network").join(shown));
    fs::write(&notes, "mine").unwrap();
    assert_eq!(read(known.join("hello.txt")), "hello again, overwritten");
    drop(serve);
    let is_back = || fs::read_to_string(&notes).is_ok_and(|text| text == "mine");
    home.run(["daemon", "stop"]).must_succeed();
    home.run(["daemon", "start"]).must_succeed();
    eventually("it is back", is_back);
    assert_eq!(read(known.join("hello.txt")), "hello again, overwritten", "it is here");
    kill_daemon(&default_store(&home));
    home.run(["daemon", "start"]).must_succeed();
    eventually("it is back again", is_back);
    assert_eq!(json(home.run(["status", "--json"]))["mounts"][0]["saved"], true);
    home.run(["unmount", "all"]).must_succeed();
    home.run(["daemon", "stop"]).must_succeed();
    home.run(["daemon", "start"]).must_succeed();
    assert_eq!(json(home.run(["status", "--json"]))["mounts"].as_array().unwrap().len(), 0);
    home.run(["daemon", "stop"]).must_succeed();
}

#[test]
fn a_drive_is_writable_in_one_mount_at_a_time() {
    if !can_mount() {
        return;
    }
    let home = Home::new();
    create(&home, "notes");
    let (all, own) = (home.make("all"), home.make("own"));
    home.run(["mount", "--all", "all"]).must_succeed();
    fs::write(all.join("notes/file"), "all").unwrap();
    home.run(["mount", "notes", "own"]).must_fail(1, "all/notes and written there");
    home.run(["unmount", "all"]).must_succeed();
    home.run(["mount", "notes", "own"]).must_succeed();
    home.run(["mount", "--all", "all"]).must_succeed();
    let refused = fs::write(all.join("notes/file"), "x").unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::EROFS));
    fs::write(own.join("file"), "own").unwrap();
    eventually("it shows", || read(all.join("notes/file")) == "own");
    home.run(["unmount", "own"]).must_succeed();
    home.run(["unmount", "all"]).must_succeed();
    home.run(["mount", "--all", "all", "--read-only"]).must_succeed();
    let refused = fs::write(all.join("notes/file"), "x").unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::EROFS));
    home.run(["unmount", "all"]).must_succeed();
}

#[test]
fn all_drives_are_mounted_in_the_foreground_too() {
    if can_mount() {
        in_each_format(all_drives_are_mounted_in_the_foreground);
    }
}

fn all_drives_are_mounted_in_the_foreground(format: DriveFormat) {
    let (home, _serve, peer) = with_a_peer(format);
    let shown = key_of(format);
    let all = home.make("all");
    let arguments = ["mount", "--foreground", "--all", "all", "--peer", &peer];
    let mut running = Running::start(home.command().args(arguments));
    assert!(running.line().contains("all drives"));
    fs::write(all.join("notes/file"), "mine").unwrap();
    assert_eq!(read(all.join("Network").join(shown).join("hello.txt")), "hello again, overwritten");
    home.run(["unmount", "all"]).must_succeed();
    assert_eq!(running.ended(), Some(0));
    assert!(!mounted_at(&all));
    // After a kill the next mount needs no repair.
    let mut killed = Running::start(home.command().args(["mount", "--foreground", "--all"]));
    killed.line();
    killed.signal(nix::sys::signal::Signal::SIGKILL);
    killed.ended();
    assert!(fs::read_dir(home.path("Hyperdrive")).is_err(), "dead");
    home.run(["mount", "--all"]).must_succeed();
    assert_eq!(read(home.path("Hyperdrive/notes/file")), "mine");
    home.run(["unmount", "Hyperdrive"]).must_succeed();
    let listening = home.run(["mount", "--all", "all", "--listen", "127.0.0.1:0"]);
    assert_eq!(listening.code, Some(2), "{listening:?}");
}

/// 101. Only the user who mounted, and root, can enter `Network`, also with `--allow-other`.
#[test]
fn other_users_cannot_enter_the_network_directory() {
    use std::os::unix::fs::PermissionsExt;
    if !can_mount() || !nix::unistd::geteuid().is_root() {
        eprintln!("SKIPPED: needs mounts, and root to run a program as another user");
        return;
    }
    let (home, _serve, peer) = with_a_peer(DriveFormat::Hyperdrive10);
    let all = home.make("all");
    fs::set_permissions(home.directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
    home.run(["mount", "--all", "all", "--allow-other", "--peer", &peer]).must_succeed();
    fs::write(all.join("notes/file"), "mine").unwrap();
    let known = all.join("Network").join(KEY).join("hello.txt");
    assert_eq!(read(&known), "hello again, overwritten");
    let other_user_reads = |path: &Path| {
        let mut cat = std::process::Command::new("setpriv");
        cat.args(["--reuid=65534", "--regid=65534", "--clear-groups", "cat"]).arg(path);
        cat.output().expect("setpriv runs").status.success()
    };
    assert!(other_user_reads(&all.join("notes/file")), "--allow-other admits other users");
    assert!(!other_user_reads(&known));
    home.run(["unmount", "all"]).must_succeed();
}

/// More drives than the usual soft limit of open files has room for: it is raised.
#[test]
fn all_of_120_drives_are_listed_and_written_under_the_usual_limit_of_open_files() {
    const DRIVES: usize = 120;
    if !can_mount() {
        return;
    }
    let home = Home::new();
    for number in 0..DRIVES {
        create(&home, &format!("drive{number}"));
    }
    let all = home.make("all");
    let plain = home.command();
    let mut mount = std::process::Command::new("sh");
    mount.args(["-c", "ulimit -S -n 256 && exec \"$0\" mount --all all"]).arg(plain.get_program());
    mount.envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?))));
    mount.current_dir(home.directory.path());
    let mounted = mount.output().expect("sh runs");
    assert!(mounted.status.success(), "{mounted:?}");
    let names = fs::read_dir(&all).expect("lists").flatten().map(|entry| entry.file_name());
    let listed = names.filter(|name| name.to_string_lossy().starts_with("drive")).count();
    assert_eq!(listed, DRIVES);
    for number in 0..DRIVES {
        let file = all.join(format!("drive{number}/file"));
        fs::write(&file, number.to_string()).unwrap();
        assert_eq!(read(&file), number.to_string());
    }
    home.run(["status"]).must_succeed();
    home.run(["unmount", "all"]).must_succeed();
}
