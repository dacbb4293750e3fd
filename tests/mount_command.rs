//! The life of a mount, with a real kernel: mounted in the background or in the foreground, busy,
//! interrupted, gone. Needs /dev/fuse; without it the tests say so and do nothing.

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::{Home, KEY, LIMIT, Running, eventually, in_each_format, key_of};
use hypermount_drive::DriveFormat;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A mount of a copy of the golden drive, removed at the end of the test, also if that fails.
struct Mounted {
    home: Home,
    mountpoint: PathBuf,
}

impl Mounted {
    /// `None`, with a message, where there is no FUSE.
    fn new() -> Option<Self> {
        Self::of(DriveFormat::Hyperdrive10)
    }

    fn of(format: DriveFormat) -> Option<Self> {
        if !Path::new("/dev/fuse").exists() {
            eprintln!("SKIPPED: there is no /dev/fuse here");
            return None;
        }
        let home = Home::new();
        home.golden_store_of(format, "store");
        let mountpoint = home.make("mnt");
        Some(Self { home, mountpoint })
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.mountpoint.join(name)).expect(name)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        self.home.command().args(["unmount", "--force", "mnt"]).output().ok();
    }
}

fn mounted_at(mountpoint: &Path) -> bool {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    table.lines().any(|line| line.contains(&format!(" {} ", mountpoint.display())))
}

/// 26. `unmount` returns 0 only when the mount is gone; without `--lazy`, also only when the store
///     is free, or its daemon has other work.
#[test]
fn a_drive_on_disk_is_a_folder_when_the_command_returns() {
    in_each_format(a_drive_on_disk_is_a_folder);
}

fn a_drive_on_disk_is_a_folder(format: DriveFormat) {
    let Some(mounted) = Mounted::of(format) else { return };
    let home = &mounted.home;
    let ran = home.run(["mount", "store", "mnt"]).must_succeed();
    assert_eq!(ran.stdout, "", "said on stderr");
    assert!(
        ran.stderr.contains(key_of(format)) && ran.stderr.contains("version 28"),
        "{}",
        ran.stderr
    );
    assert_eq!(mounted.read("hello.txt"), "hello again, overwritten");
    assert_eq!(mounted.read("dir/rel-link"), "a");
    if format == DriveFormat::Hyperdrive10 {
        assert_eq!(mounted.read("mnt/inside.txt"), "mount changed");
    }
    assert_eq!(fs::read(mounted.mountpoint.join("big.bin")).unwrap().len(), 204_800);

    // Its store can be looked at while it is mounted, and is free the moment `unmount` returns.
    home.run(["ls", "store"]).must_succeed();
    assert!(home.path("store/hypermount.daemon").exists());
    home.run(["unmount", "mnt"]).must_succeed();
    assert!(!mounted_at(&mounted.mountpoint));
    assert!(!home.path("store/hypermount.daemon").exists(), "no daemon has it");
    home.run(["ls", "store"]).must_succeed();
    home.run(["mount", "store", "mnt"]).must_succeed();
    home.run(["unmount", "mnt"]).must_succeed();
}

#[test]
fn a_program_learns_what_was_mounted_as_json() {
    in_each_format(a_program_learns_what_was_mounted);
}

fn a_program_learns_what_was_mounted(format: DriveFormat) {
    let Some(mounted) = Mounted::of(format) else { return };
    let url = format!("hyper://{}", key_of(format));
    let ran = mounted.home.run(["mount", "--json", &url, "mnt", "--store", "store"]).must_succeed();
    let told: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(told["url"], url);
    assert_eq!(told["version"], 28);
    assert_eq!(told["mountpoint"], mounted.mountpoint.to_str().unwrap());
    let log = told["log"].as_str().unwrap();
    assert!(Path::new(log).starts_with(mounted.home.path("state")), "{log}");

    // SIGTERM to the process it names unmounts.
    let pid = Pid::from_raw(told["pid"].as_i64().unwrap() as i32);
    kill(pid, Signal::SIGTERM).unwrap();
    eventually("the mount is gone", || !mounted_at(&mounted.mountpoint));
}

/// 25. `mount` returns 0 only when the mount is usable; otherwise it mounts nothing.
#[test]
fn the_command_reports_the_failure_of_its_background_process() {
    in_each_format(the_command_reports_the_failure);
}

fn the_command_reports_the_failure(format: DriveFormat) {
    let Some(mounted) = Mounted::of(format) else { return };
    let home = &mounted.home;
    home.run(["mount", "store", "mnt"]).must_succeed();
    home.golden_store_of(format, "second");
    home.run(["mount", "second", "mnt"]).must_fail(1, "mount");
    assert_eq!(mounted.read("hello.txt"), "hello again, overwritten");
    home.run(["unmount", "mnt"]).must_succeed();
}

/// 27. A mount that is in use is not unmounted without `--lazy` or `--force`, and the processes
///     that use it are named.
#[test]
fn a_busy_mount_stays_and_its_users_are_named() {
    in_each_format(a_busy_mount_stays);
}

fn a_busy_mount_stays(format: DriveFormat) {
    let Some(mounted) = Mounted::of(format) else { return };
    mounted.home.run(["mount", "store", "mnt"]).must_succeed();
    let file = fs::File::open(mounted.mountpoint.join("hello.txt")).unwrap();
    let own = format!("pid {}", std::process::id());
    mounted.home.run(["unmount", "mnt"]).must_fail(1, &own).hints("--lazy");
    assert_eq!(mounted.read("hello.txt"), "hello again, overwritten");
    mounted.home.run(["unmount", "--lazy", "mnt"]).must_succeed();
    assert!(!mounted_at(&mounted.mountpoint));
    assert_eq!(std::io::read_to_string(&file).unwrap(), "hello again, overwritten");
    drop(file);
    eventually("the store is free", || {
        mounted.home.command().args(["ls", "store"]).output().unwrap().status.success()
    });
}

/// 28. SIGTERM and SIGINT unmount and end the process with 0.
#[test]
fn in_the_foreground_one_line_says_it_is_ready_and_signals_unmount() {
    in_each_format(in_the_foreground_one_line_is_said);
}

fn in_the_foreground_one_line_is_said(format: DriveFormat) {
    let Some(mounted) = Mounted::of(format) else { return };
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let mut running =
            Running::start(mounted.home.command().args(["mount", "--foreground", "store", "mnt"]));
        assert!(running.line().contains(key_of(format)));
        assert_eq!(mounted.read("hello.txt"), "hello again, overwritten");
        running.signal(signal);
        assert_eq!(running.ended(), Some(0), "{signal}");
        assert!(!mounted_at(&mounted.mountpoint));
    }
}

#[test]
fn an_unmount_by_umount_ends_the_process() {
    let Some(mounted) = Mounted::new() else { return };
    let mut running =
        Running::start(mounted.home.command().args(["mount", "--foreground", "store", "mnt"]));
    running.line();
    mounted.home.run(["unmount", "mnt"]).must_succeed();
    assert_eq!(running.ended(), Some(0));
}

/// 29. After the process was killed, mounting at the same directory works without any repair.
#[test]
fn after_a_kill_the_mount_can_be_made_again() {
    in_each_format(after_a_kill_it_is_mounted_again);
}

fn after_a_kill_it_is_mounted_again(format: DriveFormat) {
    let Some(mounted) = Mounted::of(format) else { return };
    let mut running =
        Running::start(mounted.home.command().args(["mount", "--foreground", "store", "mnt"]));
    running.line();
    running.signal(Signal::SIGKILL);
    assert_eq!(running.ended(), None);
    mounted.home.run(["mount", "store", "mnt"]).must_succeed();
    assert_eq!(mounted.read("hello.txt"), "hello again, overwritten");
    mounted.home.run(["unmount", "mnt"]).must_succeed();
}

/// 7. `hyper://KEY` follows the newest version known to this store; `hyper://KEY+N` always shows
///    version N.
#[test]
fn a_version_in_the_url_is_what_is_mounted() {
    in_each_format(a_version_is_mounted);
}

fn a_version_is_mounted(format: DriveFormat) {
    let Some(mounted) = Mounted::of(format) else { return };
    let url = format!("hyper://{}+2", key_of(format));
    mounted.home.run(["mount", &url, "mnt", "--store", "store"]).must_succeed();
    assert_eq!(mounted.read("hello.txt"), "hello world");
    assert!(!mounted.mountpoint.join("big.bin").exists(), "came later");
    mounted.home.run(["unmount", "mnt"]).must_succeed();
}

/// 12. Data in the store is read without any peer.
///
/// 14. If no peer is named, connected or looked for when a drive is mounted, no call on the mount
///     waits for peers.
#[test]
fn a_drive_is_mounted_from_a_peer_and_then_without_one() {
    in_each_format(a_drive_is_mounted_from_a_peer);
}

fn a_drive_is_mounted_from_a_peer(format: DriveFormat) {
    let Some(mounted) = Mounted::of(format) else { return };
    let home = &mounted.home;
    let serve = Running::start(home.command().args([
        "serve",
        "--store",
        "store",
        "--listen",
        "127.0.0.1:0",
    ]));
    let peer = serve.line();
    let url = format!("hyper://{}", key_of(format));
    home.run(["mount", &url, "mnt", "--peer", &peer]).must_succeed();
    assert_eq!(mounted.read("dir/f1.txt"), "file 1\n");
    home.run(["unmount", "mnt"]).must_succeed();
    drop(serve);

    home.run(["mount", &url, "mnt"]).must_succeed();
    assert_eq!(mounted.read("dir/f1.txt"), "file 1\n");
    let started = std::time::Instant::now();
    assert!(fs::read(mounted.mountpoint.join("big.bin")).is_err(), "never fetched");
    assert!(started.elapsed() < LIMIT, "without a peer the call does not wait");
    home.run(["unmount", "mnt"]).must_succeed();
}

/// 13. A call that needs data that is not in the store waits for the time given by `--wait`, with
///     `forever` until the data arrives; after that the call fails with ETIMEDOUT, and the log names
///     the missing block and its core, the number of peers that did not deliver it, and the last error
///     of one of them.
#[test]
fn the_log_names_the_missing_block() {
    in_each_format(the_log_names_a_block);
}

fn the_log_names_a_block(format: DriveFormat) {
    let Some(mounted) = Mounted::of(format) else { return };
    let home = &mounted.home;
    let serve = serving(home);
    let (url, peer) = (format!("hyper://{}", key_of(format)), serve.line());
    let arguments = ["mount", "--json", &url, "mnt", "--wait", "2s", "--peer", &peer];
    let told: serde_json::Value =
        serde_json::from_str(&home.run(arguments).must_succeed().stdout).unwrap();
    let log = PathBuf::from(told["log"].as_str().unwrap());
    let big = mounted.mountpoint.join("big.bin");
    fs::metadata(&big).unwrap();
    // The line about a missing block that has these words too.
    let says = |words: &[&str]| {
        let log = fs::read_to_string(&log).unwrap();
        let of_a_core = |line: &str| {
            let named = line.split_once(" of core ").and_then(|(_, rest)| rest.split(' ').next());
            let number = line.split_once("block ").and_then(|(_, rest)| rest.split(' ').next());
            named.is_some_and(|core| core.chars().count() == 9 && core.contains('…'))
                && number.is_some_and(|block| block.parse::<u64>().is_ok())
        };
        log.lines().any(|line| of_a_core(line) && words.iter().all(|word| line.contains(word)))
    };
    let read = || fs::read(&big).unwrap_err().raw_os_error();
    serve.signal(Signal::SIGSTOP);
    assert_eq!(read(), Some(libc::ETIMEDOUT));
    assert!(
        says(&["1 peer connected, it did not deliver"]),
        "{}",
        fs::read_to_string(&log).unwrap()
    );
    serve.signal(Signal::SIGKILL);
    eventually("the log says that no peer is connected", || {
        assert_eq!(read(), Some(libc::ETIMEDOUT));
        says(&["no peer connected; last trouble: peer 127.0.0.1:", "refused"])
    });
    home.run(["unmount", "mnt"]).must_succeed();
}

fn serving(home: &Home) -> Running {
    let arguments = ["serve", "--store", "store", "--listen", "127.0.0.1:0"];
    Running::start(home.command().args(arguments))
}

/// With `--wait forever` a call waits longer than with any limit.
#[test]
fn wait_forever_waits_until_the_data_arrives() {
    in_each_format(it_waits_forever);
}

fn it_waits_forever(format: DriveFormat) {
    let Some(mounted) = Mounted::of(format) else { return };
    let home = &mounted.home;
    let serve = serving(home);
    let (url, peer) = (format!("hyper://{}", key_of(format)), serve.line());
    let options = ["--foreground", "--wait", "forever", "--peer", &peer];
    let mount =
        Running::start(home.command().arg("mount").args(options).args([url.as_str(), "mnt"]));
    mount.line();
    let big = mounted.mountpoint.join("big.bin");
    fs::metadata(&big).unwrap();
    serve.signal(Signal::SIGSTOP);
    let waiting = std::thread::spawn(move || fs::read(big));
    let patient = format!("{url}/dir/f1.txt");
    let mut cat = Running::start(
        home.command()
            .args(["cat", "--wait", "forever", "--store", "other", "--peer", &peer, &patient]),
    );
    home.run(["cat", "--wait", "3s", "--store", "third", "--peer", &peer, &patient])
        .must_fail(3, "");
    assert!(!waiting.is_finished(), "the mount gave up");
    assert!(matches!(cat.child.try_wait(), Ok(None)), "the command gave up");
    serve.signal(Signal::SIGCONT);
    assert_eq!(cat.ended(), Some(0));
    assert_eq!(cat.line(), "file 1");
    assert_eq!(waiting.join().unwrap().unwrap().len(), 204_800);
    drop(mount);
}

/// A missing mount point: made by the mount, removed after the unmount.
impl Mounted {
    fn absent() -> Option<Self> {
        let mut mounted = Self::new()?;
        fs::remove_dir(&mounted.mountpoint).unwrap();
        mounted.mountpoint = mounted.home.path("mnt");
        Some(mounted)
    }

    fn must_be_mounted(&self) {
        assert!(mounted_at(&self.mountpoint));
        assert_eq!(self.read("hello.txt"), "hello again, overwritten");
    }

    fn must_be_gone(&self, when: &str) {
        assert!(fs::symlink_metadata(&self.mountpoint).is_err(), "{when}: it is still there");
    }

    /// Ends the daemon as a power cut does.
    fn kill_daemon(&self) {
        let presence = fs::read(self.home.path("store/hypermount.daemon")).unwrap();
        let presence: serde_json::Value = serde_json::from_slice(&presence).unwrap();
        let pid = Pid::from_raw(presence["pid"].as_i64().unwrap() as i32);
        kill(pid, Signal::SIGKILL).unwrap();
        eventually("it is dead", || !Path::new(&format!("/proc/{pid}/fd/0")).exists());
    }
}

#[test]
fn a_daemon_makes_a_missing_mount_point_and_removes_it() {
    let Some(mounted) = Mounted::absent() else { return };
    for how in [&["unmount", "mnt"][..], &["unmount", "--lazy", "mnt"], &["daemon", "stop"]] {
        mounted.home.run(["mount", "store", "mnt"]).must_succeed();
        mounted.must_be_mounted();
        let store = ["--store", "store"];
        let store = if how[0] == "daemon" { &store[..] } else { &[] };
        let ended = mounted.home.command().args(how).args(store).output().unwrap();
        assert!(ended.status.success(), "{how:?}");
        mounted.must_be_gone(&format!("{how:?}"));
        // A lazy unmount does not wait for that.
        let presence = mounted.home.path("store/hypermount.daemon");
        eventually("the store is free", || !presence.exists());
    }
    // Another program unmounts, and the daemon notices.
    mounted.home.run(["mount", "store", "mnt"]).must_succeed();
    let mut umount = std::process::Command::new("fusermount3");
    assert!(umount.arg("-u").arg(&mounted.mountpoint).status().unwrap().success());
    eventually("it is removed", || fs::symlink_metadata(&mounted.mountpoint).is_err());
}

#[test]
fn a_foreground_mount_makes_and_removes_its_mount_point() {
    let Some(mounted) = Mounted::absent() else { return };
    let start = || {
        let mut command = mounted.home.command();
        let running = Running::start(command.args(["mount", "--foreground", "store", "mnt"]));
        running.line();
        mounted.must_be_mounted();
        running
    };
    let mut running = start();
    running.signal(Signal::SIGTERM);
    assert_eq!(running.ended(), Some(0));
    mounted.must_be_gone("SIGTERM");

    let mut running = start();
    mounted.home.run(["unmount", "mnt"]).must_succeed();
    mounted.must_be_gone("unmount");
    assert_eq!(running.ended(), Some(0));

    let mut running = start();
    running.signal(Signal::SIGKILL);
    running.ended();
    mounted.home.run(["unmount", "mnt"]).must_succeed();
    mounted.must_be_gone("killed");
}

#[test]
fn a_daemon_that_was_killed_leaves_a_mount_point_that_is_removed_later() {
    let Some(mounted) = Mounted::absent() else { return };
    mounted.home.run(["mount", "store", "mnt"]).must_succeed();
    mounted.kill_daemon();
    mounted.home.run(["mount", "store", "mnt"]).must_succeed();
    mounted.must_be_mounted();
    mounted.home.run(["unmount", "mnt"]).must_succeed();
    mounted.must_be_gone("mounted again over a dead mount");
}

#[test]
fn a_saved_mount_makes_its_mount_point_again() {
    let Some(mounted) = Mounted::absent() else { return };
    let home = &mounted.home;
    home.run(["mount", "--save", "store", "mnt"]).must_succeed();
    home.run(["daemon", "stop", "--store", "store"]).must_succeed();
    mounted.must_be_gone("stopped");
    home.run(["daemon", "start", "--store", "store"]).must_succeed();
    // Asks the daemon, because the kernel answers for a dead mount from its cache.
    let is_mounted = || {
        let status = home.run(["status", "--json", "--store", "store"]).must_succeed().stdout;
        let status: serde_json::Value = serde_json::from_str(&status).unwrap();
        status["mounts"].as_array().is_some_and(|mounts| !mounts.is_empty())
    };
    eventually("it is mounted", is_mounted);
    mounted.kill_daemon();
    home.run(["daemon", "start", "--store", "store"]).must_succeed();
    eventually("it is mounted again", is_mounted);
    mounted.must_be_mounted();
    home.run(["unmount", "mnt"]).must_succeed();
    mounted.must_be_gone("unmounted");
    home.run(["daemon", "stop", "--store", "store"]).must_succeed();
}

#[test]
fn a_mount_point_that_was_there_stays() {
    let Some(mounted) = Mounted::new() else { return };
    mounted.home.run(["mount", "store", "mnt"]).must_succeed();
    mounted.home.run(["unmount", "mnt"]).must_succeed();
    assert!(mounted.mountpoint.is_dir(), "a daemon's");
    let mut running =
        Running::start(mounted.home.command().args(["mount", "--foreground", "store", "mnt"]));
    running.line();
    running.signal(Signal::SIGKILL);
    running.ended();
    mounted.home.run(["unmount", "mnt"]).must_succeed();
    assert!(mounted.mountpoint.is_dir(), "a killed process's");
}

#[test]
fn a_mount_that_fails_leaves_no_directory() {
    let Some(mounted) = Mounted::absent() else { return };
    let home = &mounted.home;
    for foreground in [&[][..], &["--foreground"]] {
        let mount = |what: &str, at: &str| {
            let mut command = home.command();
            command.args(["mount", what, at, "--store", "store"]).args(foreground);
            let output = command.output().unwrap();
            assert!(!output.status.success(), "{what} {at}");
            String::from_utf8_lossy(&output.stderr).into_owned()
        };
        mount("no-such-drive", "mnt");
        mounted.must_be_gone("it cannot be opened");
        let url = format!("hyper://{KEY}");
        let said = mount(&url, "none/mnt");
        assert!(said.contains("mkdir -p") && !home.path("none").exists(), "{said}");
        // Where no directory can be made.
        mount(&url, "/proc/mnt");
    }
}

/// The line of fstab(5) is understood by the same code.
#[test]
fn the_helper_of_fstab_makes_and_removes_the_mount_point() {
    let Some(mounted) = Mounted::absent() else { return };
    let helper = mounted.home.path("mount.hypermount");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_hypermount"), &helper).unwrap();
    let mut command = std::process::Command::new(&helper);
    let own = mounted.home.command();
    command.envs(own.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command.arg(mounted.home.path("store")).arg(&mounted.mountpoint).args(["-o", "ro"]);
    assert!(command.status().unwrap().success());
    mounted.must_be_mounted();
    mounted.home.run(["unmount", "mnt"]).must_succeed();
    mounted.must_be_gone("unmounted");
}
