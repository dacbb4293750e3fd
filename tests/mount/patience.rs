//! How long calls wait for data that does not arrive: for the stated time and not longer, measured at
//! the system call.

use std::fs;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use bytes::Bytes;
use drivefs::{Looked, MountOptions, Patience};
use hypermount_drive::DriveFormat;

use crate::common::{OPTIONS, in_each_format};
use crate::distant::{BLOCK, Distant, Origin};

const WAIT: Duration = Duration::from_secs(2);
/// Time that a call may take in addition: 1 s is promised, and a machine that runs all other tests adds
/// some. Less than a second [`WAIT`].
const GRACE: Duration = Duration::from_millis(1900);
const BLOCKS: usize = 160;
/// Files in each directory. All of them are more than the blocks that a lookup fetches along with a
/// name, and more than the part of a small index that is fetched at once.
const FILES: usize = 2000;
const DIRECTORIES: [&str; 5] = ["names", "one", "two", "three", "four"];

/// A mount of a drive with a large file, whose peer has gone silent.
fn silent(origin: &Origin) -> Distant {
    let patience = Patience::Limited { names: WAIT, data: WAIT };
    let distant = Distant::mounted(origin, MountOptions { patience, ..OPTIONS });
    let at = distant.mount.mountpoint();
    fs::metadata(at.join("large")).expect("its entry comes");
    fs::metadata(at.join("small")).expect("its entry comes");
    let mut begun = fs::File::open(at.join("begun")).expect("its entry comes");
    let mut block = vec![0; BLOCK];
    begun.read_exact(&mut block).expect("its first block comes");
    // Last: the entries of the directory must not have time to arrive too.
    fs::metadata(at.join("three")).expect("its entry comes");
    distant.line.hold();
    distant
}

fn origin(format: DriveFormat) -> Origin {
    let origin = Origin::new(format);
    let small = origin.file(&[Bytes::from_static(b"small")]);
    let paths = DIRECTORIES
        .iter()
        .flat_map(|directory| (0..FILES).map(move |number| format!("{directory}/{number}")));
    let mut entries: Vec<_> = paths.map(|path| (path, small.clone())).collect();
    for name in ["large", "begun"] {
        entries.push((name.to_owned(), origin.large(BLOCKS)));
    }
    entries.push(("small".to_owned(), origin.file(&[Bytes::from_static(b"other")])));
    origin.put(entries);
    origin
}

/// Runs one call, which must fail with `errno`, and neither early nor late.
#[track_caller]
fn fails_in_time(what: &str, errno: i32, call: impl FnOnce() -> std::io::Result<()>) {
    let start = Instant::now();
    let failed = call().expect_err(what);
    let took = start.elapsed();
    eprintln!("{what}: {took:?}");
    assert_eq!(failed.raw_os_error(), Some(errno), "{what}");
    assert!(took < WAIT + GRACE, "{what} took {took:?}, the stated time is {WAIT:?}");
    assert!(took > WAIT / 2, "{what} took {took:?}: it did not wait");
}

/// Sentence 117. "A call that waits for data that does not arrive fails within the time of `--wait`
/// plus 1 s, regardless of its size: reads, page faults, look-ups and listings."
#[test]
fn every_call_fails_within_the_stated_time() {
    in_each_format(calls_fail_in_time);
}

fn calls_fail_in_time(format: DriveFormat) {
    let origin = origin(format);
    let distant = silent(&origin);
    let at = distant.mount.mountpoint().to_owned();
    let large = at.join("large");
    for size in [1, 4096, 128 * 1024, 1024 * 1024, BLOCKS * BLOCK] {
        // A new descriptor waits again, also after the failure of an earlier one.
        let mut file = fs::File::open(&large).expect("opens");
        let mut buffer = vec![0; size];
        fails_in_time(&format!("read of {size}"), libc::ETIMEDOUT, || {
            file.read(&mut buffer).map(drop)
        });
    }
    for offset in [BLOCK as u64 * 40 + 100, BLOCK as u64 * 100 - 4096] {
        let mut file = fs::File::open(&large).expect("opens");
        file.seek(SeekFrom::Start(offset)).expect("seeks");
        fails_in_time(&format!("read at {offset}"), libc::ETIMEDOUT, || {
            file.read(&mut [0; 10_000]).map(drop)
        });
    }
    let direct = fs::File::options().read(true).custom_flags(libc::O_DIRECT).open(&large);
    let mut direct = direct.expect("opens");
    fails_in_time("direct read", libc::ETIMEDOUT, || direct.read(&mut [0; 1 << 20]).map(drop));

    // A page fault in write(2), which then fails instead of the process.
    let file = fs::File::open(&large).expect("opens");
    // SAFETY: the file of a mount that takes no changes does not change while it is mapped.
    #[allow(unsafe_code)]
    let mapped = unsafe { memmap2::Mmap::map(&file) }.expect("maps");
    let mut out = tempfile::tempfile().expect("a temporary file");
    for block in [3, 60] {
        // In the middle of the range that the kernel reads around it.
        let page = &mapped[block * BLOCK + 5 * 4096..][..1];
        fails_in_time("page fault", libc::EFAULT, || out.write(page).map(drop));
    }

    fails_in_time("stat", libc::ETIMEDOUT, || fs::metadata(at.join("names/77")).map(drop));
    fails_in_time("open", libc::ETIMEDOUT, || fs::File::open(at.join("one/1234")).map(drop));
    fails_in_time("listing", libc::ETIMEDOUT, || {
        fs::read_dir(at.join("three"))?.try_for_each(|entry| entry.map(drop))
    });
}

/// The programs people use make more than one call each.
#[test]
fn programs_end_within_the_stated_time() {
    in_each_format(programs_end_in_time);
}

fn programs_end_in_time(format: DriveFormat) {
    let origin = origin(format);
    let distant = silent(&origin);
    for (program, path) in [
        ("cat", "large"),
        ("cat", "begun"),
        ("cat", "small"),
        ("stat", "names/55"),
        ("ls", "names"),
        ("ls", "three"),
        ("md5sum", "large"),
    ] {
        let mut command = Command::new(program);
        let path = distant.mount.mountpoint().join(path);
        command.arg(&path).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let start = Instant::now();
        let status = command.status().expect("it runs");
        let took = start.elapsed();
        eprintln!("{program} {}: {took:?}", path.display());
        assert!(!status.success(), "{program}: there was nothing to read");
        assert!(took < WAIT + GRACE, "{program} of {} took {took:?}", path.display());
    }
}

/// A failed descriptor waits again a little later, and a new one at once: data that has arrived
/// meanwhile, or arrives then, is read.
#[test]
fn data_that_arrives_after_a_failure_is_read() {
    in_each_format(data_that_arrives_is_read);
}

fn data_that_arrives_is_read(format: DriveFormat) {
    let origin = origin(format);
    let distant = silent(&origin);
    let large = distant.mount.mountpoint().join("large");
    let mut file = fs::File::open(&large).expect("opens");
    fails_in_time("read", libc::ETIMEDOUT, || file.read(&mut [0; 4096]).map(drop));
    let start = Instant::now();
    let again = file.read(&mut [0; 4096]).expect_err("nothing came");
    assert_eq!(again.raw_os_error(), Some(libc::ETIMEDOUT));
    assert!(start.elapsed() < WAIT / 2, "what just failed is not waited for again");
    distant.line.release();
    let mut block = vec![7; BLOCK];
    let mut new = fs::File::open(&large).expect("opens");
    new.read_exact(&mut block).expect("a new descriptor waits for it");
    assert!(block.iter().all(|byte| *byte == 0), "the first block is full of its number");
    file.read_exact(&mut block).expect("it is here now");
}

/// When the kernel cannot confirm a cached name, it repeats the lookup within the same call.
#[test]
fn a_call_that_looks_a_name_up_twice_waits_once() {
    in_each_format(a_call_waits_once);
}

fn a_call_waits_once(format: DriveFormat) {
    let origin = origin(format);
    let distant = silent(&origin);
    let fs = distant.mount.open().remove(0);
    let lookup = |parent, name: &str, thread| {
        distant.bench.runtime.block_on(fs.lookup_for(parent, name.as_ref(), thread))
    };
    // Not a name in the root: a volume monitor of a desktop session may have looked there.
    let Ok(Looked::Found { ino: directory, .. }) = lookup(1, "three", 7) else {
        panic!("its entry is here");
    };
    let look_up = |thread: u32| {
        let start = Instant::now();
        let failed = lookup(directory, "1234", thread).expect_err("nothing comes");
        assert_eq!(drivefs::errno(&failed).code(), libc::ETIMEDOUT);
        (start.elapsed(), failed.to_string())
    };
    let (first, why) = look_up(7);
    assert!(first >= WAIT && first < WAIT + GRACE, "{first:?}");
    let (second, again) = look_up(7);
    assert!(second < WAIT / 2, "the same thread waited {second:?} more");
    assert_eq!(why, again);
    let (other, _) = look_up(8);
    assert!(other >= WAIT, "another call waits as long as was said: {other:?}");
}
