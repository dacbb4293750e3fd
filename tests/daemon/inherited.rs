//! What a daemon does not inherit from the shell that started it.

use std::fs;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use crate::common::{Home, Running};
use crate::steps::*;

const SIZE: usize = 5_000_000;

/// A script with `hypermount` as a function in it.
fn script(home: &Home, text: &str) -> Command {
    let mut command = Command::new("bash");
    let binary = env!("CARGO_BIN_EXE_hypermount");
    command.args(["-ec", &format!("hypermount() {{ '{binary}' \"$@\"; }}\n{text}")]);
    for (name, value) in home.command().get_envs().filter_map(|(n, v)| Some((n, v?))) {
        command.env(name, value);
    }
    command.current_dir(home.directory.path()).stdin(Stdio::null());
    command
}

/// Sentence 110. "A daemon depends on the user whose command started it and on nothing else of that
/// command: not on its open files, limits, umask, working directory, signals and environment, except
/// the variables that locate directories and programs, and `RUST_LOG`."
#[test]
fn a_daemon_does_not_inherit_what_its_shell_has() {
    if !can_mount() {
        return;
    }
    let home = Home::new();
    create(&home, "notes");
    let mnt = home.make("mnt");
    home.make("elsewhere");
    let store = default_store(&home);
    // Descriptor 8 is a pipe: its reader would wait for the daemon to end.
    let mut command = script(
        &home,
        "exec 9>lock; flock 9
         ulimit -S -f 1000; ulimit -S -t 1000
         umask 0; trap '' CHLD XFSZ; export SHELL_SECRET=one LD_DEBUG=files
         cd elsewhere
         hypermount mount notes ../mnt 8>&1 >/dev/null 2>&1 | cat
         echo mounted",
    );
    let output = command.output().expect("bash runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.stdout, b"mounted\n");
    let locked = Command::new("flock").arg("-n").arg(home.path("lock")).arg("true").status();
    assert!(locked.expect("flock runs").success(), "the daemon keeps the lock of the script");

    let pid = presence(&store)["pid"].as_i64().expect("a pid");
    let proc = |name: &str| fs::read(format!("/proc/{pid}/{name}")).expect("it is running");
    let status = String::from_utf8(proc("status")).expect("text");
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.expect(name).trim().to_owned()
    };
    assert_eq!(field("Umask:"), "0077");
    assert_eq!(u64::from_str_radix(&field("SigBlk:"), 16), Ok(0));
    let ignored = u64::from_str_radix(&field("SigIgn:"), 16).expect("a mask");
    assert_eq!(ignored & 1 << (libc::SIGCHLD - 1), 0, "it can wait for its helpers");
    assert_eq!(fs::read_link(format!("/proc/{pid}/cwd")).unwrap(), Path::new("/"));
    let environment = String::from_utf8_lossy(&proc("environ")).into_owned();
    let mut names: Vec<_> =
        environment.split_terminator('\0').filter_map(|one| one.split('=').next()).collect();
    names.retain(|name| !["HOME", "PATH", "RUST_LOG", "TMPDIR"].contains(name));
    assert!(names.iter().all(|name| name.starts_with("XDG_")), "{names:?}");
    let limits = String::from_utf8(proc("limits")).expect("text");
    for what in ["Max file size", "Max cpu time"] {
        let line = limits.lines().find_map(|line| line.strip_prefix(what)).expect(what);
        let values: Vec<_> = line.split_whitespace().take(2).collect();
        assert_eq!(values[0], values[1], "{what}: the soft limit is the hard one");
    }
    fs::write(mnt.join("large"), vec![7; SIZE]).expect("no limit of that shell holds here");
    home.run(["unmount", "mnt"]).must_succeed();
}

/// Sentence 111. "Where a limit on the size of files (`RLIMIT_FSIZE`) is in force, a write beyond it
/// fails with EFBIG, and the mount keeps working."
#[test]
fn a_hard_limit_on_the_size_of_files_fails_a_write() {
    if !can_mount() {
        return;
    }
    let home = Home::new();
    create(&home, "notes");
    let mnt = home.make("mnt");
    // A mount by the daemon, and one of its own process.
    for foreground in [false, true] {
        let how = if foreground { "--foreground" } else { "" };
        let mut command =
            script(&home, &format!("ulimit -f 1000; exec \"$BINARY\" mount notes mnt {how}"));
        command.env("BINARY", env!("CARGO_BIN_EXE_hypermount"));
        let mut running = foreground.then(|| Running::start(&mut command));
        match &running {
            Some(running) => drop(running.line()),
            None => assert!(command.status().expect("runs").success()),
        }
        fs::write(mnt.join("small"), "before").expect("it fits");
        let mut file = fs::File::create(mnt.join("large")).expect("makes");
        let written = file.write_all(&vec![7; SIZE]).and_then(|()| file.sync_all());
        assert_eq!(written.unwrap_err().raw_os_error(), Some(libc::EFBIG), "{foreground}");
        drop(file);
        let mut text = String::new();
        let mut small = fs::File::open(mnt.join("small")).expect("the mount lives");
        small.read_to_string(&mut text).expect("reads");
        assert_eq!(text, "before");
        drop(small);
        fs::write(mnt.join("small"), "after").expect("it can still be written");
        home.run(["unmount", "mnt"]).must_succeed();
        if let Some(running) = &mut running {
            assert_eq!(running.ended(), Some(0));
        }
        assert_eq!(home.run(["cat", "notes", "small"]).must_succeed().stdout, "after");
    }
}
