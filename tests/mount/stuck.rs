//! Readers of data that does not arrive: a peer announces that it has the data and stays silent. A
//! waiting process can be killed, wherever in the kernel it waits, and does not keep other
//! processes from data in the store.
//!
//! The place where a process waits is read from `/proc/PID/syscall`, so that no test takes one wait
//! for another.

use std::fs;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hypermount_drive::DriveFormat;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::common::{LIMIT, in_each_format, until};
use crate::distant::{BLOCK, Distant, FOR_LONG, Origin, link};

/// How soon a process that waits for the network is gone after the signal that ends it.
const PROMISE: Duration = Duration::from_millis(1500);
/// Delay that a machine may add which runs all other tests at the same time.
const SLACK: Duration = Duration::from_millis(3500);
/// Files in each directory: more than a lookup fetches along with a name.
const FILES: usize = 2000;
/// Blocks of the large file.
const BLOCKS: usize = 200;

/// Touches one page through a mapping, the way a library or a database is read.
const TOUCH: &str = "
import mmap, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
with open(sys.argv[1], 'rb') as file:
    mapped = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
    print(mapped[int(sys.argv[2])])
";

/// A process that is killed when this is dropped.
struct Reader(Child);

impl Reader {
    fn start(command: &mut Command) -> Self {
        // The children of a background job inherit the signals that its shell ignores.
        let mut clean = Command::new("env");
        clean.arg("--default-signal=INT").arg(command.get_program()).args(command.get_args());
        let command = &mut clean;
        let command = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Self(command.spawn().expect("it runs"))
    }

    /// Number of the system call it is in; -1 in none, as in a page fault. `None` while it runs.
    fn system_call(&self) -> Option<i64> {
        let text = fs::read_to_string(format!("/proc/{}/syscall", self.0.id())).ok()?;
        text.split(' ').next()?.trim().parse().ok()
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.0.id() as i32), signal).expect("our own child");
    }

    fn has_ended(&mut self) -> Option<ExitStatus> {
        self.0.try_wait().expect("our own child")
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A drive with an entry for each kind of call that can wait.
fn origin(format: DriveFormat) -> Origin {
    let origin = Origin::new(format);
    let small = origin.file(&[Bytes::from_static(b"small")]);
    let mut entries = Vec::new();
    for directory in ["here", "names", "listed", "faulted"] {
        for number in 0..FILES {
            entries.push((format!("{directory}/{number}"), small.clone()));
        }
    }
    entries.extend((0..FILES).map(|number| (format!("links/{number}"), link("../here/1"))));
    entries.push(("large".to_owned(), origin.large(BLOCKS)));
    entries.push(("mapped".to_owned(), origin.large(BLOCKS)));
    origin.put(entries);
    origin
}

/// Waits until the process is inside `calls`, and the mount has parked a request.
fn until_stuck(reader: &mut Reader, distant: &Distant, calls: &[i64]) {
    until("it waits", || {
        assert_eq!(reader.has_ended(), None, "it did not have to wait");
        let inside = reader.system_call().is_some_and(|call| calls.contains(&call));
        inside && distant.mount.waiting().contains(&reader.0.id())
    });
}

/// Ends the process by `signal`; the time until it is gone.
fn end(reader: &mut Reader, signal: Signal) -> Duration {
    let start = Instant::now();
    reader.signal(signal);
    loop {
        if let Some(status) = reader.has_ended() {
            use std::os::unix::process::ExitStatusExt;
            assert_eq!(status.signal(), Some(signal as i32));
            return start.elapsed();
        }
        assert!(start.elapsed() < LIMIT, "{signal} does not end it");
        std::thread::yield_now();
    }
}

/// `program` gets stuck in one of `calls` on a line that was cut after `before`; both signals end it.
fn ends_in_time(
    what: &str,
    before: impl Fn(&Distant) + Sync,
    program: impl Fn(&Distant) -> Command + Sync,
    calls: &[i64],
) {
    in_each_format(|format| {
        let origin = origin(format);
        let distant = Distant::mounted(&origin, FOR_LONG);
        before(&distant);
        distant.line.hold();
        for signal in [Signal::SIGINT, Signal::SIGKILL] {
            let mut reader = Reader::start(&mut program(&distant));
            until_stuck(&mut reader, &distant, calls);
            let took = end(&mut reader, signal);
            eprintln!("{what}: gone {took:?} after {signal}");
            assert!(took < PROMISE + SLACK, "{what}: gone only {took:?} after {signal}");
            // Others may wait as well: a desktop's volume monitor looks into every new mount.
            let thread = reader.0.id();
            let is_parked = || distant.mount.waiting().contains(&thread);
            until("nothing is parked for it any more", || !is_parked());
        }
        // The mount still works.
        distant.line.release();
        let text = fs::read_to_string(distant.mount.mountpoint().join("faulted/7"));
        assert_eq!(text.expect("reads"), "small");
    });
}

fn on(program: &str, distant: &Distant, path: &str) -> Command {
    let mut command = Command::new(program);
    command.arg(distant.mount.mountpoint().join(path));
    command
}

fn look_up(distant: &Distant, path: &str) {
    fs::symlink_metadata(distant.mount.mountpoint().join(path)).expect("is there");
}

#[test]
fn stuck_in_read() {
    let before = |distant: &Distant| look_up(distant, "large");
    ends_in_time("read", before, |d| on("cat", d, "large"), &[libc::SYS_read]);
}

#[test]
fn stuck_in_a_page_fault() {
    let program = |distant: &Distant| {
        let mut command = Command::new("python3");
        let path = distant.mount.mountpoint().join("mapped");
        command.args(["-c", TOUCH]).arg(path).arg((BLOCK * BLOCKS / 2).to_string());
        command
    };
    ends_in_time("page fault", |distant| look_up(distant, "mapped"), program, &[-1]);
}

#[test]
fn stuck_in_a_look_up() {
    let calls = [libc::SYS_newfstatat, libc::SYS_statx];
    ends_in_time("stat", |_| (), |d| on("stat", d, "names/1999"), &calls);
}

#[test]
fn stuck_in_a_listing() {
    let before = |distant: &Distant| look_up(distant, "listed");
    ends_in_time("readdir", before, |d| on("ls", d, "listed"), &[libc::SYS_getdents64]);
}

#[test]
fn stuck_in_readlink() {
    let calls = [libc::SYS_readlink, libc::SYS_readlinkat];
    ends_in_time("readlink", |_| (), |d| on("readlink", d, "links/1999"), &calls);
}

/// Readers of one file at once; more than the kernel has under way of its own accord by default.
const READERS: usize = 100;

fn all_still_wait(readers: &mut [Reader]) -> bool {
    readers.iter_mut().all(|reader| {
        assert_eq!(reader.has_ended(), None, "it did not have to wait");
        reader.system_call() == Some(libc::SYS_read)
    })
}

/// 16. A program that waits for one file does not block other programs from data in the store. A fatal
///     signal ends the program within 1.5 s, whichever call it waits in.
///
/// Here a hundred programs read one file, each at an offset of its own.
///
/// 15. Listing a directory never needs the content of files.
#[test]
fn a_hundred_stuck_readers_do_not_block_data_in_the_store() {
    in_each_format(a_hundred_readers_wait);
}

fn a_hundred_readers_wait(format: DriveFormat) {
    let origin = origin(format);
    let distant = Distant::mounted(&origin, FOR_LONG);
    let at = distant.mount.mountpoint();
    look_up(&distant, "large");
    fs::read_dir(at).expect("lists").for_each(drop);
    // In the store, and not in the kernel's pages.
    distant.fetch("mapped");
    look_up(&distant, "mapped");
    distant.line.hold();
    let mut readers: Vec<Reader> = (0..READERS)
        .map(|number| {
            let offset = format!("+{}", number * 2 * BLOCK + 1);
            Reader::start(Command::new("tail").args(["-c", &offset]).arg(at.join("large")))
        })
        .collect();
    until("all wait", || {
        all_still_wait(&mut readers) && distant.mount.waiting().len() >= READERS / 2
    });

    let mut list = Reader::start(Command::new("ls").arg("-l").arg(at));
    until("the listing ends", || list.has_ended().is_some_and(|status| status.success()));
    let mut read = Reader::start(Command::new("cat").arg(at.join("mapped")));
    until("what is here is read", || read.has_ended().is_some_and(|status| status.success()));
    assert!(all_still_wait(&mut readers), "they waited all the while");

    // Readers that end do not affect the remaining ones.
    let staying = readers.split_off(READERS / 2);
    for mut reader in readers {
        end(&mut reader, Signal::SIGKILL);
    }
    distant.line.release();
    for mut reader in staying {
        until("it has read to the end", || reader.has_ended().is_some_and(|s| s.success()));
    }
}

/// Opens a number of files, and waits to be killed.
const OPEN_MANY: &str = "
import os, signal, sys
held = [os.open(f'{sys.argv[1]}/{n}', os.O_RDONLY) for n in range(int(sys.argv[2]))]
assert all(os.pread(fd, 99, 0) == b'small' for fd in held)
signal.pause()
";

#[test]
fn a_thousand_open_files_block_no_program_and_leave_nothing() {
    in_each_format(a_thousand_files_are_open);
}

fn a_thousand_files_are_open(format: DriveFormat) {
    let origin = origin(format);
    let distant = Distant::mounted(&origin, FOR_LONG);
    let at = distant.mount.mountpoint();
    let mine = || fs::read_dir("/proc/self/fd").expect("lists").count();
    let before = mine();
    let mut holder = Command::new("python3");
    holder.args(["-c", OPEN_MANY]).arg(at.join("here")).arg("1000");
    let mut holder = Reader::start(&mut holder);
    until("all are open", || {
        assert_eq!(holder.has_ended(), None, "it could not open them");
        holder.system_call() == Some(libc::SYS_pause) && distant.mount.load().1 >= 1000
    });
    assert!(mine() < before + 100, "no descriptor of ours for each of theirs");
    for name in ["here/7", "here/1500", "names/3"] {
        assert_eq!(fs::read_to_string(at.join(name)).expect("reads"), "small");
    }
    assert_eq!(fs::read_dir(at.join("here")).expect("lists").count(), FILES);
    end(&mut holder, Signal::SIGKILL);
    until("all are closed", || distant.mount.load().1 == 0);
}
