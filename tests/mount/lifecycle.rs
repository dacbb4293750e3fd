//! Mounting and unmounting, with busy, waiting and dead mounts.

use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use drivefs::{Mount, MountError, MountOptions, Patience, UnmountError, UnmountMode};
use hypermount_drive::{DriveFormat, MountTarget, Stat, TYPE_DIRECTORY};
use hypermount_swarm::PublicKey;

use crate::common::{Bench, OPTIONS, can_mount, in_each_format, unmounted, until};

#[test]
fn a_mount_is_listed_and_a_second_one_on_it_refused() {
    in_each_format(a_mount_is_listed);
}

fn a_mount_is_listed(format: DriveFormat) {
    let bench = Bench::recorded(format, None);
    let mount = bench.mount();
    let listed = drivefs::mounts().into_iter().find(|m| m.mountpoint == mount.mountpoint());
    let listed = listed.expect("listed");
    let start = format!("hyper://{}", &bench.drive.key().to_hex()[..16]);
    assert!(listed.source.starts_with(&start), "{}", listed.source);
    assert!(!listed.is_dead());
    assert!(listed.served_by().is_none_or(|pid| pid == std::process::id()));
    let (drive, store) = (bench.drive.clone(), bench.store.clone());
    let runtime = bench.runtime.handle().clone();
    let again = Mount::start(drive, store, mount.mountpoint(), OPTIONS, runtime);
    assert!(matches!(again.map(drop), Err(MountError::AlreadyMounted { .. })));
}

#[test]
fn a_busy_mount_names_its_users_and_goes_on() {
    in_each_format(a_busy_mount_names_its_users);
}

fn a_busy_mount_names_its_users(format: DriveFormat) {
    let bench = Bench::recorded(format, None);
    let mount = bench.mount();
    let mut sitting = Command::new("sleep")
        .arg("1000")
        .current_dir(mount.mountpoint().join("dir"))
        .spawn()
        .expect("`sleep` runs");
    let open = fs::File::open(mount.mountpoint().join("hello.txt")).expect("opens");
    let busy = drivefs::unmount(mount.mountpoint(), UnmountMode::Normal).expect_err("busy");
    let text = busy.to_string();
    let UnmountError::Busy { users, .. } = busy else { panic!("{text}") };
    let of = |pid: u32| users.iter().find(|user| user.pid == pid).expect("named").to_string();
    assert!(
        of(sitting.id()).contains("sleep") && of(sitting.id()).ends_with("/mnt/dir)"),
        "{text}"
    );
    assert!(of(std::process::id()).contains("hello.txt"), "{text}");
    assert!(!mount.has_ended());
    assert!(fs::metadata(mount.mountpoint().join("empty")).is_ok(), "the mount goes on");

    sitting.kill().expect("killed");
    sitting.wait().expect("ends");
    drop(open);
    // A process that another test forks has a copy of each descriptor until it executes its program.
    until("no process uses it", || mount.unmount(UnmountMode::Normal).is_ok());
    assert!(mount.has_ended());
    assert!(fs::read_dir(mount.mountpoint()).expect("the empty directory").next().is_none());
}

#[test]
fn an_unmount_by_another_program_ends_the_mount() {
    in_each_format(an_unmount_ends_the_mount);
}

fn an_unmount_ends_the_mount(format: DriveFormat) {
    let bench = Bench::recorded(format, None);
    let mount = bench.mount();
    until("it unmounts", || drivefs::unmount(mount.mountpoint(), UnmountMode::Normal).is_ok());
    bench.runtime.block_on(mount.wait_ended());
    assert!(mount.has_ended());
    drop(mount);
    unmounted(&bench.mount());
}

#[test]
fn shutting_down_does_not_wait_for_open_files() {
    in_each_format(shutting_down_does_not_wait);
}

fn shutting_down_does_not_wait(format: DriveFormat) {
    let bench = Bench::recorded(format, None);
    let mount = bench.mount();
    let open = fs::File::open(mount.mountpoint().join("dir")).expect("opens");
    mount.shutdown();
    assert!(fs::read_dir(bench.mountpoint()).expect("the empty directory").next().is_none());
    let error = rustix::fs::Dir::read_from(&open).and_then(|mut dir| dir.read().transpose());
    let code = error.map(drop).map_err(rustix::io::Errno::raw_os_error);
    assert!([Err(libc::ENOTCONN), Err(libc::ECONNABORTED)].contains(&code), "{code:?}");
    // A user who may not abort the connection keeps it until the last file is closed.
    drop(open);
    until("the end", || mount.has_ended());
}

/// A drive with a nested drive that no peer has.
fn unreachable() -> Bench {
    let bench = Bench::made();
    let mount = Some(MountTarget { key: PublicKey::new([9; 32]), version: None, core: false });
    bench.put("absent", Stat { mode: TYPE_DIRECTORY | 0o755, mount, ..Stat::default() });
    bench.write("file", "here");
    bench
}

const PATIENT: MountOptions = MountOptions { patience: Patience::Forever, ..OPTIONS };

#[test]
fn a_process_that_waits_for_the_network_can_be_killed_and_blocks_no_other() {
    if !can_mount() {
        return;
    }
    let bench = unreachable();
    let mount = bench.mount_with(PATIENT);
    for signal in ["INT", "KILL"] {
        // A shell's background jobs ignore SIGINT, and their children with them.
        let mut waiting = Command::new("env")
            .args(["--default-signal=INT", "ls"])
            .arg(mount.mountpoint().join("absent"))
            .stderr(Stdio::null())
            .spawn()
            .expect("`ls` runs");
        until("it waits", || !mount.waiting().is_empty());
        let text = fs::read_to_string(mount.mountpoint().join("file"));
        assert_eq!(text.expect("others read on"), "here");
        let start = Instant::now();
        let pid = waiting.id().to_string();
        let sent = Command::new("kill").args([format!("-{signal}"), pid]).status();
        assert!(sent.expect("`kill` runs").success());
        waiting.wait().expect("ends");
        // 1.5 s are promised; the rest is what a machine adds that runs all other tests.
        assert!(start.elapsed() < Duration::from_secs(5), "{signal}: {:?}", start.elapsed());
        until("nothing waits", || mount.waiting().is_empty());
    }
}

#[test]
fn a_waiting_call_fails_when_the_mount_ends_or_its_time_is_over() {
    if !can_mount() {
        return;
    }
    let bench = unreachable();
    let mount = bench.mount_with(PATIENT);
    let absent = mount.mountpoint().join("absent");
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| fs::read_dir(&absent).map(drop));
        until("it waits", || !mount.waiting().is_empty());
        mount.shutdown();
        let error = waiting.join().expect("no panic").expect_err("ended");
        assert_eq!(error.raw_os_error(), Some(libc::ENOTCONN));
    });
    let brief = Duration::from_millis(50);
    let patience = Patience::Limited { names: brief, data: brief };
    let _mount = bench.mount_with(MountOptions { patience, ..OPTIONS });
    let error = fs::read_dir(&absent).map(drop).expect_err("not reachable");
    assert_eq!(error.raw_os_error(), Some(libc::ETIMEDOUT));
}

/// Where the child process of the test below mounts.
const CHILD_MOUNTPOINT: &str = "HYPERMOUNT_TEST_CHILD_MOUNTPOINT";

/// Not a test by itself: the next test runs it as a process of its own, to kill it.
#[test]
#[ignore = "run by `a_dead_mount_is_told_from_a_live_one_and_replaced`"]
fn child_that_mounts() {
    let Some(mountpoint) = std::env::var_os(CHILD_MOUNTPOINT) else { return };
    let bench = unreachable();
    let (drive, store) = (bench.drive.clone(), bench.store.clone());
    let runtime = bench.runtime.handle().clone();
    let mount = Mount::start(drive, store, mountpoint.as_ref(), OPTIONS, runtime).expect("mounts");
    bench.runtime.block_on(mount.wait_ended());
}

#[test]
fn a_dead_mount_is_told_from_a_live_one_and_replaced() {
    if !can_mount() {
        return;
    }
    let bench = Bench::recorded(DriveFormat::Hyperdrive10, None);
    let mounted = || drivefs::mounts().into_iter().find(|m| m.mountpoint == bench.mountpoint());
    let die = || {
        let mut child = Command::new(std::env::current_exe().expect("this test"))
            .args(["--ignored", "--exact", "lifecycle::child_that_mounts"])
            .env(CHILD_MOUNTPOINT, bench.mountpoint())
            .stdout(Stdio::null())
            .spawn()
            .expect("the child runs");
        until("the mount", || bench.mountpoint().join("file").exists());
        let live = mounted().expect("listed");
        assert!(!live.is_dead());
        assert!(live.served_by().is_none_or(|pid| pid == child.id()));
        // Cached answers of the kernel must not make the mount look alive.
        fs::metadata(bench.mountpoint()).expect("exists");
        child.kill().expect("killed");
        child.wait().expect("ends");
        let dead = mounted().expect("still listed");
        assert!(dead.is_dead());
        // Another test in this process may still hold an ended connection whose number the kernel reused.
        assert!(dead.served_by().is_none_or(|pid| pid == std::process::id()));
    };
    die();
    let mount = bench.mount();
    let text = fs::read_to_string(mount.mountpoint().join("hello.txt"));
    assert!(text.is_ok(), "{text:?}");
    drop(mount);

    die();
    drivefs::unmount(&bench.mountpoint(), UnmountMode::Normal).expect("no process serves it");
    assert_eq!(mounted(), None);
}
