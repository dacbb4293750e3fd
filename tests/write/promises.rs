//! More of docs/semantics.md: each test quotes the sentences it shows.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::XattrFlags;
use rustix::io::Errno;

use crate::common::living::{Mounted, eventually};
use crate::own::{FORMATS, Own, alone, can_mount};

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).expect("lists");
    entries.map(|entry| entry.expect("reads").file_name().into_string().expect("text")).collect()
}

/// Bytes in the log of file contents and in that of the index, by the largest `data` files.
fn stored(store: &Path) -> u64 {
    let mut largest = 0;
    let mut open = vec![store.to_owned()];
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(directory).expect("lists") {
            let entry = entry.expect("reads");
            if entry.file_type().expect("known").is_dir() {
                open.push(entry.path());
            } else if entry.file_name() == "data" {
                largest = largest.max(entry.metadata().expect("exists").len());
            }
        }
    }
    largest
}

/// Sentence 38. "The rename of a directory is one version of the drive: a reader sees all of it or
/// none of it."
#[test]
fn a_renamed_directory_is_seen_whole() {
    for format in FORMATS {
        const FILES: usize = 300;
        if !can_mount() {
            return;
        }
        let mut own = Own::in_format(format);
        fs::create_dir(own.path("a")).expect("makes");
        for n in 0..FILES {
            fs::write(own.path(&format!("a/{n}")), n.to_string()).expect("writes");
        }
        own.unmount();
        let peers = [own.mount_listening()];
        let other = Mounted::by_key(own.key(), &own.beside("other"), &own.beside("cache"), &peers);
        let at = other.at.clone();
        eventually("the directory", || at.join("a").exists().then_some(()));
        let (over, looks) = (AtomicBool::new(false), std::sync::atomic::AtomicU64::new(0));
        let whole = |name: &str| {
            let found =
                fs::read_dir(at.join(name)).map(|listed| listed.filter(Result::is_ok).count());
            found.is_ok_and(|count| count == FILES)
        };
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    let names = names(&at);
                    assert!(names == ["a"] || names == ["b"], "{names:?}");
                    // By now it may have another name, but never only a part of its content.
                    let listed = fs::read_dir(at.join(&names[0]));
                    let listed = listed.and_then(Iterator::collect::<std::io::Result<Vec<_>>>);
                    if let Ok(listed) = listed {
                        assert_eq!(listed.len(), FILES);
                    }
                    looks.fetch_add(1, Ordering::Relaxed);
                }
            });
            for round in 0..10 {
                let (from, to) = if round % 2 == 0 { ("a", "b") } else { ("b", "a") };
                fs::rename(own.path(from), own.path(to)).expect("renames");
                eventually("the other name", || whole(to).then_some(()));
            }
            over.store(true, Ordering::Relaxed);
        });
        assert!(looks.into_inner() > 0);
    }
}

/// Sentence 43. "Extended attributes are those of `user.`, at most 64 KiB each and 512 KiB
/// together; others fail with EOPNOTSUPP."
#[test]
fn limits_of_attributes() {
    for format in FORMATS {
        const LARGEST: usize = 64 * 1024;
        if !can_mount() {
            return;
        }
        let mut own = Own::in_format(format);
        let path = own.path("file");
        fs::write(&path, "x").expect("writes");
        let set = |name: &str, length: usize| {
            rustix::fs::setxattr(&path, name, &vec![b'v'; length], XattrFlags::empty())
        };
        assert_eq!(set("user.one", LARGEST), Ok(()));
        assert_eq!(set("user.one", LARGEST + 1), Err(Errno::TOOBIG));
        // Seven of them and their names leave less than an eighth.
        for n in 2..=7 {
            set(&format!("user.{n}"), LARGEST).expect("is within 512 KiB");
        }
        assert_eq!(set("user.eighth", LARGEST), Err(Errno::NOSPC));
        assert_eq!(set("user.eighth", LARGEST - 1000), Ok(()));
        for name in ["trusted.x", "security.x", "system.x", "os2.x"] {
            assert_eq!(set(name, 1), Err(Errno::OPNOTSUPP), "{name}");
        }
        for _ in 0..2 {
            let mut value = vec![0; LARGEST];
            assert_eq!(rustix::fs::getxattr(&path, "user.7", &mut value), Ok(LARGEST));
            assert!(value.iter().all(|byte| *byte == b'v'));
            own.remount();
        }
    }
}

/// Sentence 45. "A directory's modification time is updated at once when its entries change, and
/// stored at fsync(2) of the directory and at unmount."
#[test]
fn times_of_directories() {
    for format in FORMATS {
        if !can_mount() {
            return;
        }
        let mut own = Own::in_format(format);
        let long_ago = UNIX_EPOCH + Duration::from_millis(1_000_000_000_123);
        let at =
            |own: &Own| fs::metadata(own.path("dir")).expect("exists").modified().expect("known");
        let set = |own: &Own| {
            let directory = File::open(own.path("dir")).expect("opens");
            directory.set_times(fs::FileTimes::new().set_modified(long_ago)).expect("is ours");
        };
        let recent = SystemTime::now() - Duration::from_secs(60);
        fs::create_dir(own.path("dir")).expect("makes");
        set(&own);
        assert_eq!(at(&own), long_ago);
        fs::write(own.path("dir/one"), "x").expect("writes");
        let shown = at(&own);
        assert!(shown > recent, "at once");
        File::open(own.path("dir")).expect("opens").sync_all().expect("syncs");
        own.kill();
        assert_eq!(at(&own), shown, "stored at fsync");
        set(&own);
        fs::remove_file(own.path("dir/one")).expect("unlinks");
        let shown = at(&own);
        assert!(shown > recent, "at once");
        own.remount();
        assert_eq!(at(&own), shown, "stored at unmount");
    }
}

/// Sentence 46. "Written data is part of the drive when close(2) returns 0, as one version
/// regardless of the number of writes; if it cannot be, close(2) fails. Until then only this mount
/// shows it, new files included." (That close(2) fails is shown on a full disk.)
#[test]
fn a_version_for_each_close() {
    for format in FORMATS {
        if !alone("promises::a_version_for_each_close") {
            return;
        }
        if !can_mount() {
            return;
        }
        let own = Own::in_format(format);
        fs::write(own.path("old"), "old").expect("writes");
        let before = own.version();
        let mut file = File::create(own.path("new")).expect("makes");
        for _ in 0..100 {
            file.write_all(&[7; 1000]).expect("writes");
        }
        let mut old = OpenOptions::new().append(true).open(own.path("old")).expect("opens");
        old.write_all(b" and new").expect("writes");
        assert_eq!(own.version(), before, "no other mount shows it");
        assert_eq!(fs::metadata(own.path("new")).expect("we see it").len(), 100_000);
        drop(file);
        assert_eq!(own.version(), before + 1);
        drop(old);
        assert_eq!(own.version(), before + 2);
    }
}

/// Sentence 50. "Data that was written and neither closed nor synced when the process was killed is
/// kept in the `scratch` directory of the store, with a record that identifies it." Of a synced file
/// nothing is. Sentence 47. "When fsync(2) returns 0, no power cut can lose the written data. It does
/// not mean that a peer has the data." (Here, a kill; power cuts are in
/// drive/drive/hyperdrive/crash_tests.rs.)
#[test]
fn synced_while_open() {
    for format in FORMATS {
        if !alone("promises::synced_while_open") {
            return;
        }
        if !can_mount() {
            return;
        }
        let mut own = Own::in_format(format);
        let mut synced = File::create(own.path("synced")).expect("makes");
        let mut unsynced = File::create(own.path("unsynced")).expect("makes");
        synced.write_all(&[1; 200_000]).expect("writes");
        synced.sync_all().expect("syncs");
        unsynced.write_all(&[2; 200_000]).expect("writes");
        own.crash();
        drop((synced, unsynced));
        own.mount();
        assert!(fs::read(own.path("synced")).expect("is there") == [1; 200_000]);
        assert!(!own.path("unsynced").exists());
        let left =
            hypermount_drive::scratch::leftovers(&own.store().join("scratch")).expect("lists");
        let paths: Vec<&str> = left.iter().map(|left| left.origin.path.as_str()).collect();
        assert_eq!(paths, ["unsynced"]);
    }
}

/// Sentence 51. "Pages changed through a mapping after the last close become part of the drive when
/// the mapping ends."
#[test]
fn a_mapping_outlives_its_descriptor() {
    for format in FORMATS {
        if !can_mount() {
            return;
        }
        let mut own = Own::in_format(format);
        fs::write(own.path("file"), vec![1; 300_000]).expect("writes");
        let file = OpenOptions::new().read(true).write(true).open(own.path("file")).expect("opens");
        // SAFETY: no other process has the file open, so no other process changes it under the mapping.
        let mut mapping = unsafe { memmap2::MmapMut::map_mut(&file) }.expect("maps");
        drop(file);
        let before = own.version();
        mapping[200_000..200_006].copy_from_slice(b"mapped");
        drop(mapping);
        eventually("a version with the changed pages", || (own.version() > before).then_some(()));
        own.kill();
        let mut bytes = [0; 6];
        let file = File::open(own.path("file")).expect("opens");
        file.read_exact_at(&mut bytes, 200_000).expect("reads");
        assert_eq!(&bytes, b"mapped");
    }
}

/// Sentence 55. "Renaming moves no file content, regardless of its size."
#[test]
fn renaming_moves_no_bytes() {
    for format in FORMATS {
        if !can_mount() {
            return;
        }
        let own = Own::in_format(format);
        fs::create_dir(own.path("dir")).expect("makes");
        fs::write(own.path("dir/large"), vec![1; 40_000_000]).expect("writes");
        let before = stored(&own.store());
        assert!(before >= 40_000_000);
        fs::rename(own.path("dir/large"), own.path("dir/renamed")).expect("renames");
        fs::rename(own.path("dir"), own.path("other")).expect("renames");
        assert_eq!(stored(&own.store()), before);
        assert_eq!(fs::metadata(own.path("other/renamed")).expect("exists").len(), 40_000_000);
    }
}

/// Sentence 54. "Every other change stores all data of the file again, but for sentence 136: the log only
/// grows. Keep databases and disk images that are synced at each change on another filesystem."
#[test]
fn a_change_in_the_middle_stores_the_whole_file() {
    for format in FORMATS {
        if !can_mount() {
            return;
        }
        let own = Own::in_format(format);
        let file = OpenOptions::new().write(true).create_new(true).open(own.path("file"));
        let file = file.expect("makes");
        file.write_all_at(&[7; 3_000_000], 0).expect("writes");
        drop(file);
        let before = stored(&own.store());
        assert_eq!(before, 3_000_000);
        let file = OpenOptions::new().write(true).open(own.path("file")).expect("opens");
        file.write_all_at(b"middle", 1_500_000).expect("writes");
        drop(file);
        let grown = stored(&own.store()) - before;
        match format {
            "10" => assert_eq!(grown, 3_000_000),
            // Sentence 136: a block and a map.
            _ => assert!(grown < 100_000, "{grown}"),
        }
    }
}
