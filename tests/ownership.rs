//! The owner of a store: nothing in it is for other users, and root leaves the stores of other users
//! alone.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use common::{Home, Running, in_each_format, key_of};
use hypermount_drive::DriveFormat;

/// The user "nobody", on all systems these tests run on.
const OTHER: u32 = 65_534;

/// Every file and directory at and below `root` with its owner and mode.
fn found(root: &Path) -> BTreeMap<PathBuf, (u32, u32)> {
    let mut all = BTreeMap::new();
    let mut next = vec![root.to_owned()];
    while let Some(path) = next.pop() {
        let metadata = fs::symlink_metadata(&path).expect("exists");
        if metadata.is_dir() {
            next.extend(fs::read_dir(&path).expect("lists").map(|entry| entry.unwrap().path()));
        }
        all.insert(path, (metadata.uid(), metadata.mode() & 0o7777));
    }
    all
}

#[track_caller]
fn must_be_closed(root: &Path) {
    let open: Vec<_> = found(root).into_iter().filter(|(_, (_, mode))| mode & 0o077 != 0).collect();
    assert!(open.is_empty(), "others have permissions on {open:?}");
}

/// Runs a script with the umask that most users have.
fn with_umask(home: &Home, script: &str) -> Output {
    let mut command = Command::new("sh");
    let binary = env!("CARGO_BIN_EXE_hypermount");
    command.args(["-ec", &format!("umask 022; hypermount() {{ '{binary}' \"$@\"; }}; {script}")]);
    for (name, value) in home.command().get_envs().filter_map(|(n, v)| Some((n, v?))) {
        command.env(name, value);
    }
    let output = command.current_dir(home.directory.path()).output().expect("runs");
    assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

/// Sentence 108. "Every file and directory of a store, and every file this program keeps about it,
/// is accessible only to its user."
#[test]
fn nothing_in_a_store_is_for_others() {
    let home = Home::new();
    let store = home.make("store");
    fs::set_permissions(&store, fs::Permissions::from_mode(0o755)).unwrap();
    with_umask(&home, "hypermount create notes --store store");
    must_be_closed(&store);
    if Path::new("/dev/fuse").exists() {
        home.make("mnt");
        with_umask(
            &home,
            "hypermount mount --save notes mnt --store store; echo secret > mnt/file; sync mnt/file
             exec 3> mnt/unclosed; echo more >&3",
        );
        for place in ["store", "state", "run"] {
            must_be_closed(&home.path(place));
        }
        with_umask(&home, "hypermount unmount mnt");
    }
    let source = home.make("source");
    fs::write(source.join("file"), vec![7; 20 << 20]).unwrap();
    with_umask(&home, "hypermount import source notes --store store");
    home.golden_store_of(DriveFormat::Hyperdrive11, "theirs");
    let arguments = ["serve", "--store", "theirs", "--listen", "127.0.0.1:0"];
    let theirs = Running::start(home.command().args(arguments));
    let (peer, key) = (theirs.line(), key_of(DriveFormat::Hyperdrive11));
    with_umask(&home, &format!("hypermount export hyper://{key} out --store store --peer {peer}"));
    for place in ["store", "state"] {
        must_be_closed(&home.path(place));
    }
}

#[test]
fn a_store_that_an_older_version_left_open_is_closed_when_it_is_opened() {
    in_each_format(a_store_is_closed);
}

fn a_store_is_closed(format: DriveFormat) {
    let home = Home::new();
    let store = home.golden_store_of(format, "store");
    home.run(["info", "store"]).must_succeed();
    for (path, _) in found(&store) {
        let mode = if path.is_dir() { 0o755 } else { 0o644 };
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }
    home.run(["info", "store"]).must_succeed();
    must_be_closed(&store);
}

/// The same files, without those that a killed mount left in `scratch`.
#[test]
fn scratch_files_of_an_older_version_are_closed_too() {
    let home = Home::new();
    let store = home.golden_store("store");
    let scratch = store.join("scratch");
    fs::create_dir(&scratch).unwrap();
    fs::write(scratch.join("1.data"), "secret").unwrap();
    fs::set_permissions(&scratch, fs::Permissions::from_mode(0o755)).unwrap();
    home.run(["info", "store"]).must_succeed();
    must_be_closed(&store);
}

/// A user who is not root, with directories of their own.
struct Other {
    home: Home,
}

impl Other {
    /// `None`, with a message, where it cannot be tried.
    fn new() -> Option<Self> {
        let home = Home::new();
        fs::set_permissions(home.directory.path(), fs::Permissions::from_mode(0o711)).unwrap();
        let theirs = home.make("theirs");
        let other = Self { home };
        if !nix::unistd::geteuid().is_root() || chown(&theirs, Some(OTHER), Some(OTHER)).is_err() {
            eprintln!("SKIPPED: needs root");
            return None;
        }
        if !other.run(&["--version"]).status.success() {
            eprintln!("SKIPPED: another user cannot run the program with setpriv");
            return None;
        }
        Some(other)
    }

    fn directory(&self) -> PathBuf {
        self.home.path("theirs")
    }

    fn store(&self) -> PathBuf {
        self.directory().join("store")
    }

    /// Runs the command as the other user.
    fn run(&self, arguments: &[&str]) -> Output {
        let user = OTHER.to_string();
        let mut command = Command::new("setpriv");
        command.args(["--reuid", &user, "--regid", &user, "--clear-groups"]);
        command.arg(env!("CARGO_BIN_EXE_hypermount")).args(arguments);
        self.environment(&mut command);
        command.output().expect("setpriv runs")
    }

    /// The directories of the other user, as sudo(8) keeps them.
    fn environment(&self, command: &mut Command) {
        command.env("HOME", self.directory()).env("HYPERMOUNT_NETWORK", "off");
        for name in ["XDG_DATA_HOME", "XDG_STATE_HOME", "XDG_RUNTIME_DIR", "RUST_LOG"] {
            command.env_remove(name);
        }
        command.current_dir(self.directory()).stdin(Stdio::null());
    }

    #[track_caller]
    fn must_own_everything(&self) {
        let all = found(&self.directory());
        let foreign: Vec<_> = all.into_iter().filter(|(_, (uid, _))| *uid != OTHER).collect();
        assert!(foreign.is_empty(), "the user does not own {foreign:?}");
    }
}

#[track_caller]
fn must_be_refused(output: &Output) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("belongs to"), "{said}");
}

/// Sentence 109. "Root does not open the store of another user, except on a medium that cannot be
/// written, and makes no files in the home directory of one."
#[test]
fn root_leaves_the_store_of_another_user_alone() {
    let Some(other) = Other::new() else { return };
    let store = other.store();
    let at = store.to_str().unwrap();
    let made = other.run(&["create", "notes", "--store", at]);
    assert!(made.status.success(), "{made:?}");
    let victim = other.home.path("victim");
    fs::write(&victim, "of root").unwrap();
    for name in ["hypermount.new", "hypermount.mark.new", "hypermount.daemon.new", "master_key.new"]
    {
        symlink(&victim, store.join(name)).unwrap();
        std::os::unix::fs::lchown(store.join(name), Some(OTHER), Some(OTHER)).unwrap();
    }
    let mnt = other.home.make("mnt");
    let source = other.home.make("source");
    fs::write(source.join("file"), "text").unwrap();
    let (mnt, source) = (mnt.to_str().unwrap(), source.to_str().unwrap());
    let commands: [&[&str]; 9] = [
        &["create", "more", "--store", at],
        &["list", "--store", at],
        &["ls", "notes", "--store", at],
        &["import", source, "notes", "--store", at],
        &["mount", "--foreground", "notes", mnt, "--store", at],
        &["mount", "notes", mnt, "--store", at],
        &["recover", "--store", at],
        &["adopt", "--store", at],
        &["serve", "--store", at],
    ];
    for arguments in commands {
        let output = other.home.command().args(arguments).output().unwrap();
        must_be_refused(&output);
    }
    let helper = other.home.path("mount.hypermount");
    symlink(env!("CARGO_BIN_EXE_hypermount"), &helper).unwrap();
    let mut line = Command::new(&helper);
    line.args(["notes", mnt, "-o", &format!("rw,store={at}")]);
    for (name, value) in other.home.command().get_envs().filter_map(|(n, v)| Some((n, v?))) {
        line.env(name, value);
    }
    must_be_refused(&line.output().unwrap());

    assert_eq!(fs::read_to_string(&victim).unwrap(), "of root");
    other.must_own_everything();
    let listed = other.run(&["ls", "notes", "--store", at]);
    assert!(listed.status.success(), "{listed:?}");
}

#[test]
fn root_with_the_home_of_another_user_leaves_nothing_there() {
    let Some(other) = Other::new() else { return };
    let mut command = Command::new(env!("CARGO_BIN_EXE_hypermount"));
    other.environment(&mut command);
    must_be_refused(&command.args(["create", "notes"]).output().unwrap());
    other.must_own_everything();

    // With a store of root's own only the records lie elsewhere.
    let own = other.home.path("own");
    let mut command = Command::new(env!("CARGO_BIN_EXE_hypermount"));
    other.environment(&mut command);
    command.env("XDG_RUNTIME_DIR", other.home.make("run"));
    let made = command.args(["create", "notes", "--store"]).arg(&own).output().unwrap();
    assert!(made.status.success(), "{made:?}");
    other.must_own_everything();
}

/// A lock that another user can open could be held for ever.
#[test]
fn another_user_cannot_hold_the_lock() {
    let Some(other) = Other::new() else { return };
    let store = other.home.make("store");
    fs::set_permissions(&store, fs::Permissions::from_mode(0o755)).unwrap();
    other.home.run(["create", "notes", "--store", "store"]).must_succeed();
    let lock = store.join("hypermount.lock");
    let tries = |path: &Path| {
        let user = OTHER.to_string();
        let mut command = Command::new("setpriv");
        command.args(["--reuid", &user, "--regid", &user, "--clear-groups", "flock", "-n"]);
        command.arg(path).arg("true").stderr(Stdio::null()).status().expect("runs").success()
    };
    let open = other.home.path("open");
    fs::write(&open, "").unwrap();
    fs::set_permissions(&open, fs::Permissions::from_mode(0o644)).unwrap();
    assert!(tries(&open), "the user can lock what they can read");
    assert!(!tries(&lock));
    let cores = found(&store).into_keys().filter(|path| path.ends_with("bitfield"));
    assert!(cores.map(|core| tries(&core)).all(|held| !held));

    // A lock file that was planted before the store was made is not used.
    let planted = other.home.make("planted");
    let lock = planted.join("hypermount.lock");
    fs::write(&lock, "").unwrap();
    chown(&lock, Some(OTHER), None).unwrap();
    let ran = other.home.run(["create", "notes", "--store", "planted"]);
    ran.must_fail(1, "belongs to");
}

/// A directory of root's that a user may write, such as a volume of a container, can be made a store.
#[test]
fn a_directory_of_root_can_become_the_store_of_a_user() {
    let Some(other) = Other::new() else { return };
    let volume = other.home.make("volume");
    fs::set_permissions(&volume, fs::Permissions::from_mode(0o777)).unwrap();
    let at = volume.to_str().unwrap();
    for arguments in [&["create", "notes", "--store", at][..], &["ls", "notes", "--store", at]] {
        let ran = other.run(arguments);
        assert!(ran.status.success(), "{ran:?}");
    }
    let inside = found(&volume).into_iter().filter(|(path, _)| *path != volume);
    assert!(inside.into_iter().all(|(_, (uid, mode))| uid == OTHER && mode & 0o077 == 0));
    // It is theirs from now on.
    let ran = other.home.command().args(["ls", "notes", "--store", at]).output().unwrap();
    must_be_refused(&ran);
}
