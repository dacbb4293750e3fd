//! Other processes and other users on the same mount.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown};
use std::process::{Command, Stdio};

use rustix::fs::FallocateFlags;

use crate::common::living::{Running, shell};
use crate::own::{FORMATS, Own, can_mount};

const NOBODY: u32 = 65_534;

/// Takes locks as requested: lines on its stdin, one answer each.
const LOCKER: &str = "
import fcntl, sys
f = open(sys.argv[1], 'r+b')
print('ready', flush=True)
for line in sys.stdin:
    what, start, length = line.split()
    try:
        if what == 'lock': fcntl.lockf(f, fcntl.LOCK_EX | fcntl.LOCK_NB, int(length), int(start))
        if what == 'shared': fcntl.lockf(f, fcntl.LOCK_SH | fcntl.LOCK_NB, int(length), int(start))
        if what == 'unlock': fcntl.lockf(f, fcntl.LOCK_UN, int(length), int(start))
        if what == 'flock': fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if what == 'funlock': fcntl.flock(f, fcntl.LOCK_UN)
        print('done', flush=True)
    except OSError as error:
        print('busy' if error.errno in (11, 13) else error, flush=True)
";

struct Locker {
    process: Running,
    input: std::fs::File,
}

impl Locker {
    fn new(own: &Own, name: &str) -> Self {
        // Commands go through a fifo, because the program that reads them is not one of our JSON peers.
        let fifo = own.beside(name);
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).expect("makes");
        let mut command = Command::new("sh");
        command.args(["-c", "exec python3 -c \"$1\" \"$2\" <\"$3\"", "sh", LOCKER]);
        let mut process = Running::start(command.arg(own.path("file")).arg(&fifo));
        let input = OpenOptions::new().write(true).open(&fifo).expect("opens");
        assert_eq!(process.line(), "ready");
        Self { process, input }
    }

    fn ask(&mut self, what: &str, start: u64, length: u64) -> String {
        writeln!(self.input, "{what} {start} {length}").expect("it reads");
        self.process.line()
    }
}

/// Sentence 35. "flock(2), fcntl(2) locks and shared mappings work among the programs of this
/// machine."
#[test]
fn locks_between_processes() {
    for format in FORMATS {
        if !can_mount() || Command::new("python3").arg("-V").output().is_err() {
            return;
        }
        let own = Own::in_format(format);
        fs::write(own.path("file"), vec![0; 1000]).expect("writes");
        let (mut one, mut two) = (Locker::new(&own, "one"), Locker::new(&own, "two"));
        assert_eq!(one.ask("lock", 0, 100), "done");
        assert_eq!(two.ask("lock", 50, 100), "busy");
        assert_eq!(two.ask("lock", 100, 100), "done", "another stretch");
        assert_eq!(one.ask("shared", 500, 10), "done");
        assert_eq!(two.ask("shared", 505, 10), "done", "both only read");
        assert_eq!(two.ask("lock", 500, 1), "busy");
        assert_eq!(one.ask("unlock", 0, 0), "done");
        assert_eq!(two.ask("lock", 0, 100), "done");
        assert_eq!(one.ask("flock", 0, 0), "done", "flock(2) is another kind of lock");
        assert_eq!(two.ask("flock", 0, 0), "busy");
        drop(one);
        crate::common::living::eventually("the lock of a program that ended", || {
            (two.ask("flock", 0, 0) == "done").then_some(())
        });
    }
}

fn as_nobody(script: &str) -> bool {
    let user = NOBODY.to_string();
    let mut command = Command::new("setpriv");
    command.args(["--reuid", &user, "--regid", &user, "--clear-groups", "sh", "-c", script]);
    command.stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}

/// Sentence 41. "Permissions and owners are enforced by the kernel as on a local disk."
#[test]
fn other_users() {
    for format in FORMATS {
        if !can_mount() || !nix::unistd::geteuid().is_root() || !as_nobody("true") {
            eprintln!("SKIPPED: needs root and setpriv");
            return;
        }
        let mut own = Own::in_format(format);
        // Temporary directories are closed to others.
        let above = own.root().parent().map(std::path::Path::to_owned).expect("is below one");
        fs::set_permissions(above, fs::Permissions::from_mode(0o711)).expect("is ours");
        let at = own.root().display().to_string();
        fs::write(own.path("open"), "text").expect("writes");
        assert!(!as_nobody(&format!("cat {at}/open")), "a mount is its maker's alone");
        own.unmount();
        own.mount_with(&["--allow-other"]);
        fs::write(own.path("closed"), "text").expect("writes");
        fs::set_permissions(own.path("closed"), fs::Permissions::from_mode(0o600))
            .expect("is ours");
        fs::write(own.path("theirs"), "text").expect("writes");
        chown(own.path("theirs"), Some(NOBODY), Some(NOBODY)).expect("we are root");
        fs::create_dir(own.path("sticky")).expect("makes");
        fs::set_permissions(own.path("sticky"), fs::Permissions::from_mode(0o1777))
            .expect("is ours");
        fs::write(own.path("sticky/ours"), "text").expect("writes");
        for _ in 0..2 {
            assert!(as_nobody(&format!("cat {at}/open")));
            assert!(!as_nobody(&format!("echo x > {at}/open")));
            assert!(!as_nobody(&format!("cat {at}/closed")));
            assert!(!as_nobody(&format!("chmod 666 {at}/closed")));
            assert!(!as_nobody(&format!("mv {at}/open {at}/moved")));
            assert!(!as_nobody(&format!("rm -f {at}/sticky/ours")));
            assert!(!as_nobody(&format!("touch {at}/new")));
            assert!(as_nobody(&format!("echo more >> {at}/theirs && chmod 640 {at}/theirs")));
            assert!(!as_nobody(&format!("chown 0 {at}/theirs")));
            assert!(as_nobody(&format!("rm -f {at}/sticky/new; echo x > {at}/sticky/new")));
            let made = fs::metadata(own.path("sticky/new")).expect("was made");
            assert_eq!((made.uid(), made.gid()), (NOBODY, NOBODY));
            own.unmount();
            own.mount_with(&["--allow-other"]);
        }
        let text = fs::read_to_string(own.path("theirs")).expect("reads");
        assert_eq!(text, "textmore\nmore\n");
    }
}

/// Sentence 76. "fallocate(2) takes `KEEP_SIZE`, `PUNCH_HOLE` and `ZERO_RANGE`; other modes fail with
/// EOPNOTSUPP. `O_DIRECT` is accepted. (Sentences 150 to 154 say more of holes.)"
#[test]
fn holes_and_direct_access() {
    for format in FORMATS {
        if !can_mount() {
            return;
        }
        let mut own = Own::in_format(format);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let mut file = options.open(own.path("file")).expect("makes");
        file.write_all(&[7; 100_000]).expect("writes");
        let allocate = |mode, offset, length| rustix::fs::fallocate(&file, mode, offset, length);
        let (keep, punch) = (FallocateFlags::KEEP_SIZE, FallocateFlags::PUNCH_HOLE);
        allocate(FallocateFlags::empty(), 90_000, 110_000).expect("extends");
        allocate(keep, 0, 500_000).expect("leaves the size");
        assert_eq!(file.metadata().expect("exists").len(), 200_000);
        allocate(punch | keep, 1000, 2000).expect("zeros");
        allocate(FallocateFlags::ZERO_RANGE, 199_000, 2000).expect("zeros and extends");
        for mode in [FallocateFlags::COLLAPSE_RANGE, FallocateFlags::INSERT_RANGE] {
            assert_eq!(allocate(mode, 0, 4096), Err(rustix::io::Errno::OPNOTSUPP));
        }
        let mut model = vec![7; 100_000];
        model.resize(201_000, 0);
        model[1000..3000].fill(0);
        assert!(fs::read(own.path("file")).expect("reads") == model);
        let seek = |whence| rustix::fs::seek(&file, whence);
        assert_eq!(seek(rustix::fs::SeekFrom::Data(100_000)), Ok(100_000));
        assert_eq!(seek(rustix::fs::SeekFrom::Data(150_000)), Err(rustix::io::Errno::NXIO));
        assert_eq!(seek(rustix::fs::SeekFrom::Hole(1000)), Ok(131_072));
        assert_eq!(seek(rustix::fs::SeekFrom::Data(201_000)), Err(rustix::io::Errno::NXIO));
        file.seek(SeekFrom::Start(100_000)).expect("seeks");
        let mut rest = Vec::new();
        file.read_to_end(&mut rest).expect("reads");
        assert_eq!(rest.len(), 101_000);
        drop(file);

        let direct = options.custom_flags(libc::O_DIRECT).open(own.path("file")).expect("opens");
        direct.write_all_at(&[9; 8192], 4096).expect("writes");
        model[4096..4096 + 8192].fill(9);
        let mut bytes = vec![0; 16_384];
        direct.read_exact_at(&mut bytes, 0).expect("reads");
        assert!(bytes == model[..16_384], "what one descriptor wrote directly");
        let mut beside = vec![0; 16_384];
        let other = File::open(own.path("file")).expect("opens");
        other.read_exact_at(&mut beside, 0).expect("reads");
        assert!(beside == bytes, "the other sees through its pages");
        drop((direct, other));
        own.remount();
        assert!(fs::read(own.path("file")).expect("reads") == model);
        shell(&format!(
            "cd '{}' && dd if=file of=copy bs=4k iflag=direct oflag=direct 2>&1",
            own.root().display()
        ));
        assert!(fs::read(own.path("copy")).expect("reads") == model);
    }
}
