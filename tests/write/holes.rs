//! Files with holes: what they cost, where lseek(2) finds them, and that they stay holes on every way into a drive and
//! out of it.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use rustix::fs::{FallocateFlags, SeekFrom, fallocate, seek};
use rustix::io::Errno;

use crate::common::living::{Mounted, hypermount, succeed};
use crate::format13::{Reader, look};
use crate::own::{FORMATS, Own, alone, can_mount, has_reference};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
/// What holes are aligned to.
const BLOCK: u64 = 64 * 1024;

/// Bytes on disk of a file or of all below a directory.
fn used(path: &Path) -> u64 {
    let used = succeed(std::process::Command::new("du").arg("-sB1").arg(path));
    used.split_whitespace().next().and_then(|bytes| bytes.parse().ok()).expect("a number")
}

fn open(path: &Path) -> File {
    let mut options = OpenOptions::new();
    let opened = options.read(true).write(true).create(true).truncate(false).open(path);
    opened.unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The stretches of data that lseek(2) tells of.
fn data_of(path: &Path) -> Vec<(u64, u64)> {
    let file = File::open(path).expect("opens");
    let (mut found, mut at): (Vec<(u64, u64)>, u64) = (Vec::new(), 0);
    loop {
        let start = match seek(&file, SeekFrom::Data(at)) {
            Err(Errno::NXIO) => return found,
            start => start.expect("seeks"),
        };
        at = seek(&file, SeekFrom::Hole(start)).expect("seeks");
        match found.last_mut() {
            // Some file systems tell of an end between two stretches of data.
            Some((_, end)) if *end == start => *end = at,
            _ => found.push((start, at)),
        }
    }
}

/// What the block of a file that [`make`] made is filled with.
fn byte_of(block: u64) -> u8 {
    block as u8 | 1
}

/// One block of data at each of these multiples of a block, in a file of `size` bytes.
fn make(path: &Path, blocks: &[u64], size: u64) -> File {
    let file = open(path);
    for block in blocks {
        file.write_all_at(&vec![byte_of(*block); BLOCK as usize], block * BLOCK).expect("writes");
    }
    file.set_len(size).expect("extends");
    file
}

/// The stretches of data of a file with blocks of data at these places, which are apart.
fn stretches(blocks: &[u64]) -> Vec<(u64, u64)> {
    blocks.iter().map(|block| (block * BLOCK, (block + 1) * BLOCK)).collect()
}

/// Sentence 150. "A hole takes no disk space and next to no time, however large it is: in a mount, by `import` and by
/// `export`." Sentence 151. "`SEEK_DATA` and `SEEK_HOLE` tell where the holes are, and `st_blocks` counts the data
/// alone, also before the file is stored."
#[test]
fn a_hole_of_six_gibibytes_costs_nothing_and_is_told() {
    for format in FORMATS {
        if !can_mount() {
            return;
        }
        let mut own = Own::in_format(format);
        let before = used(&own.store());
        let size = 6 * GIB + 12_345;
        let blocks = [0, 16_000, 16_002, 90_000];
        let mut not_stored = Some(make(&own.path("sparse"), &blocks, size));
        for _ in 0..3 {
            let path = own.path("sparse");
            let found = fs::metadata(&path).expect("exists");
            assert_eq!((found.len(), found.blocks() * 512), (size, blocks.len() as u64 * BLOCK));
            assert_eq!(data_of(&path), stretches(&blocks), "format {format}");
            let (mut bytes, file) =
                (vec![1; 3 * BLOCK as usize], File::open(&path).expect("opens"));
            file.read_exact_at(&mut bytes, 16_000 * BLOCK).expect("reads");
            for (part, byte) in
                bytes.chunks(BLOCK as usize).zip([byte_of(16_000), 0, byte_of(16_002)])
            {
                assert!(part.iter().all(|found| *found == byte), "format {format}");
            }
            file.read_exact_at(&mut bytes, size - 3 * BLOCK).expect("reads the end");
            assert!(bytes.iter().all(|byte| *byte == 0));
            drop(file);
            if not_stored.take().is_none() {
                own.remount();
            }
        }
        let grown = used(&own.store()) - before;
        assert!(grown < 3 * MIB, "format {format}: {grown} bytes");
        // A change, and a copy by a program that looks for holes.
        open(&own.path("sparse")).write_all_at(b"changed", 3 * GIB + 5).expect("writes");
        succeed(std::process::Command::new("cp").arg(own.path("sparse")).arg(own.path("copy")));
        let mut expected = stretches(&blocks);
        expected.insert(3, (3 * GIB, 3 * GIB + BLOCK));
        for name in ["sparse", "copy"] {
            assert_eq!(data_of(&own.path(name)), expected, "format {format}: {name}");
            let mut text = [0; 7];
            File::open(own.path(name))
                .expect("opens")
                .read_exact_at(&mut text, 3 * GIB + 5)
                .expect("reads");
            assert_eq!(&text, b"changed");
        }
        let grown = used(&own.store()) - before;
        assert!(grown < 6 * MIB, "format {format}: {grown} bytes");
    }
}

/// Sentence 150. "It begins and ends at multiples of 64 KiB, or with the file; a shorter run of zeros is data."
/// Sentence 152. "fallocate(2) with `PUNCH_HOLE` or `ZERO_RANGE` makes holes. Without them it reserves no space."
#[test]
fn punching_makes_holes() {
    for format in FORMATS {
        if !can_mount() {
            return;
        }
        let mut own = Own::in_format(format);
        let size = 64 * BLOCK;
        let mut model: Vec<u8> = (0..size).map(|at| (at % 251) as u8 | 1).collect();
        fs::write(own.path("file"), &model).expect("writes");
        let keep = FallocateFlags::KEEP_SIZE;
        let punch = FallocateFlags::PUNCH_HOLE | keep;
        let zero = FallocateFlags::ZERO_RANGE;
        for (mode, start, end) in [
            (punch, 4 * BLOCK, 9 * BLOCK),
            (punch, 20 * BLOCK - 10, 22 * BLOCK + 10),
            (punch, 30 * BLOCK + 1, 31 * BLOCK),
            (zero, 60 * BLOCK + 7, 70 * BLOCK),
            (zero | keep, 71 * BLOCK, 80 * BLOCK),
        ] {
            let file = open(&own.path("file"));
            fallocate(&file, mode, start, end - start).expect("zeros");
            let grows = !mode.contains(keep);
            let length = if grows { end.max(model.len() as u64) } else { model.len() as u64 };
            model.resize(length as usize, 0);
            model[start.min(length) as usize..end.min(length) as usize].fill(0);
            assert!(fs::read(own.path("file")).expect("reads") == model, "{start}..{end}");
        }
        fallocate(open(&own.path("file")), keep, 0, 100 * BLOCK).expect("leaves the size");
        let data = [(0, 4), (9, 20), (22, 61)].map(|(start, end)| (start * BLOCK, end * BLOCK));
        for _ in 0..2 {
            assert!(fs::read(own.path("file")).expect("reads") == model, "format {format}");
            assert_eq!(data_of(&own.path("file")), data, "format {format}");
            own.remount();
        }
    }
}

/// 153. A file that is written has at most 2 TiB: beyond that write(2), truncate(2) and fallocate(2) fail with EFBIG.
#[test]
fn a_file_beyond_the_limit_is_refused_at_once() {
    for format in FORMATS {
        if !can_mount() {
            return;
        }
        let mut own = Own::in_format(format);
        fs::write(own.path("file"), "content").expect("writes");
        let file = open(&own.path("file"));
        let most = 2048 * GIB;
        let code =
            |result: std::io::Result<()>| result.err().and_then(|error| error.raw_os_error());
        for size in [most + 1, i64::MAX as u64] {
            assert_eq!(code(file.set_len(size)), Some(libc::EFBIG), "{size}");
            assert_eq!(code(file.write_all_at(b"x", size - 1)), Some(libc::EFBIG), "{size}");
        }
        assert_eq!(fallocate(&file, FallocateFlags::ZERO_RANGE, most, 1), Err(Errno::FBIG));
        file.set_len(most).expect("the largest file");
        file.write_all_at(b"end", most - 3).expect("writes");
        drop(file);
        own.remount();
        let mut end = [0; 4];
        open(&own.path("file")).read_exact_at(&mut end, most - 4).expect("reads");
        assert_eq!(&end, b"\0end");
        assert_eq!(data_of(&own.path("file")), [(0, BLOCK), (most - BLOCK, most)]);
        open(&own.path("file")).set_len(7).expect("cuts");
        assert_eq!(fs::read(own.path("file")).expect("reads"), b"content");
        assert!(used(&own.store()) < 200 * MIB, "format {format}: {}", used(&own.store()));
    }
}

/// As sentence 150 says, by `import` and by `export`.
#[test]
fn holes_go_in_and_come_out() {
    for format in FORMATS {
        if !can_mount() {
            return;
        }
        let mut own = Own::in_format(format);
        let (source, target) = (own.beside("source"), own.beside("target"));
        fs::create_dir(&source).expect("is made");
        let blocks = [3, 700, 702, 30_000];
        make(&source.join("sparse"), &blocks, 3 * GIB + 99);
        make(&source.join("hole"), &[], GIB);
        make(&source.join("small"), &[5], 20 * BLOCK);
        own.unmount();
        let before = used(&own.store());
        let drive = |command: &str, directory: &Path| {
            let mut asked = hypermount();
            match command {
                "import" => asked.arg(command).arg(directory).arg("notes"),
                _ => asked.args([command, "notes"]).arg(directory),
            };
            succeed(asked.arg("--store").arg(own.store()))
        };
        drive("import", &source);
        assert!(used(&own.store()) - before < 3 * MIB, "{}", used(&own.store()) - before);
        drive("export", &target);
        for name in ["sparse", "hole", "small"] {
            let (from, to) = (source.join(name), target.join(name));
            assert_eq!(data_of(&to), data_of(&from), "format {format}: {name}");
            assert_eq!(
                fs::metadata(&to).expect("exists").len(),
                fs::metadata(&from).expect("exists").len()
            );
        }
        assert!(used(&target) <= used(&source) + MIB);
        own.mount();
        assert_eq!(data_of(&own.path("sparse")), stretches(&blocks));
        assert_eq!(fs::metadata(own.path("hole")).expect("exists").blocks(), 1);
    }
}

/// Sentence 154. "Other programs read holes as zeros."
#[test]
fn the_reference_reads_a_file_with_holes() {
    if !can_mount() || !has_reference() {
        return;
    }
    for format in FORMATS {
        let mut own = Own::in_format(format);
        make(&own.path("sparse"), &[0, 40], 5 * MIB + 77);
        make(&own.path("hole"), &[], 3 * MIB);
        if format == "10" {
            own.unmount();
            let read = own.read_by_reference();
            own.mount();
            let shown = own.told_to_others(crate::own::tree(&own.root(), false));
            assert_eq!(read, shown);
            continue;
        }
        own.unmount();
        let address = own.mount_listening();
        let expected = look(&own.root());
        for options in [&["--compare"][..], &["--compare", "--legacy10"]] {
            Reader::new(own.key(), &address, options).follow(&expected, "with holes");
        }
    }
}

/// Sentence 151. "In a drive of another publisher a hole is data until this machine has what proves it."
/// Sentence 154. "In a drive of Hyperdrive 13 large holes are one block of zeros that a list names many times, so peers
/// fetch it once. In one of Hyperdrive 10 peers fetch each hole as zeros."
#[test]
fn a_remote_reader_gets_few_bytes_and_finds_the_holes() {
    if !can_mount() {
        return;
    }
    for format in FORMATS {
        let mut own = Own::in_format(format);
        let size = if format == "10" { 30 * MIB } else { GIB };
        make(&own.path("sparse"), &[1, 300], size);
        own.unmount();
        let address = own.mount_listening();
        let copy = own.beside("copy");
        let mounted = Mounted::by_key(own.key(), &own.beside("there"), &copy, &[address]);
        let path = mounted.path("sparse");
        assert_eq!(fs::metadata(&path).expect("exists").blocks() * 512, 2 * BLOCK);
        assert_eq!(
            data_of(&path).last().map(|(_, end)| *end),
            Some(size),
            "nothing proves a hole yet"
        );
        let (mut at, mut bytes) = (0, vec![0; MIB as usize]);
        let file = File::open(&path).expect("opens");
        while at < 30 * MIB {
            file.read_exact_at(&mut bytes, at).expect("reads");
            at += MIB;
        }
        assert_eq!(data_of(&path), stretches(&[1, 300]), "format {format}");
        drop(file);
        drop(mounted);
        assert!(used(&copy) < 3 * MIB, "format {format}: {}", used(&copy));
        let mut fetched = std::process::Command::new("du");
        let fetched = succeed(fetched.args(["-sB1", "--apparent-size"]).arg(&copy));
        let fetched: u64 =
            fetched.split_whitespace().next().and_then(|n| n.parse().ok()).expect("a number");
        assert_eq!(fetched > 29 * MIB, format == "10", "format {format}: {fetched}");
    }
}

/// As sentence 150 says, in an encrypted drive.
#[test]
fn holes_of_an_encrypted_drive_cost_one_block_of_zeros() {
    if !can_mount() {
        return;
    }
    let mut own = Own::encrypted();
    let before = used(&own.store());
    let blocks = [0, 50_000];
    make(&own.path("sparse"), &blocks, 6 * GIB);
    let grown = used(&own.store()) - before;
    assert!(grown < 4 * MIB, "{grown}");
    for _ in 0..2 {
        assert_eq!(data_of(&own.path("sparse")), stretches(&blocks));
        own.remount();
    }
}

/// Sentence 151. "What is written through a mapping counts from msync(2) or munmap(2) on."
#[test]
fn what_a_mapping_wrote_is_data() {
    if !can_mount() {
        return;
    }
    let script = "
import mmap, os, sys
f = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
os.ftruncate(f, 1 << 24)
m = mmap.mmap(f, 1 << 24)
m[5 << 20] = 7
m.flush()
assert os.lseek(f, 0, os.SEEK_DATA) == 5 << 20
m[9 << 20] = 7
m.close()
assert os.lseek(f, 6 << 20, os.SEEK_DATA) == 9 << 20
";
    for format in FORMATS {
        let mut own = Own::in_format(format);
        let mut python = std::process::Command::new("python3");
        let Ok(ran) = python.args(["-c", script]).arg(own.path("file")).output() else { return };
        assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
        own.remount();
        assert_eq!(data_of(&own.path("file")), stretches(&[80, 144]), "format {format}");
    }
}

/// As sentence 75 says, of a file with holes.
#[test]
fn a_file_with_holes_is_recovered() {
    for format in FORMATS {
        if !alone("holes::a_file_with_holes_is_recovered") {
            return;
        }
        if !can_mount() {
            return;
        }
        let mut own = Own::in_format(format);
        drop(make(&own.path("file"), &[0, 1, 40], 100 * BLOCK));
        let file = open(&own.path("file"));
        fallocate(&file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, BLOCK, BLOCK)
            .expect("punches");
        file.write_all_at(&[7; BLOCK as usize], 60 * BLOCK).expect("writes");
        file.set_len(3 * GIB).expect("extends");
        own.kill();
        drop(file);
        own.unmount();
        let to = own.beside("saved");
        let mut recover = hypermount();
        succeed(recover.args(["recover", "--to"]).arg(&to).arg("--store").arg(own.store()));
        let saved = to.join("file");
        assert_eq!(fs::metadata(&saved).expect("saved").len(), 3 * GIB);
        assert_eq!(data_of(&saved), stretches(&[0, 40, 60]), "format {format}");
        let mut bytes = vec![1; 2 * BLOCK as usize];
        File::open(&saved).expect("opens").read_exact_at(&mut bytes, 0).expect("reads");
        let (kept, punched) = bytes.split_at(BLOCK as usize);
        assert!(
            kept.iter().all(|byte| *byte == byte_of(0)) && punched.iter().all(|byte| *byte == 0)
        );
    }
}
