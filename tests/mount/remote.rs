//! A mounted drive whose publisher keeps writing.

use std::fs;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;

use hypermount_drive::DriveFormat;

use crate::common::{Bench, in_each_format, until};

/// 8. When a newer version arrives, later look-ups of names show it, without remounting.
#[test]
fn changes_appear_before_the_kernels_cache_expires() {
    in_each_format(changes_appear);
}

fn changes_appear(format: DriveFormat) {
    let bench = Bench::made_in(format);
    bench.write("dir/file", "one");
    bench.write("dir/gone", "x");
    let mount = bench.mount();
    let dir = mount.mountpoint().join("dir");
    let read = |name: &str| fs::read_to_string(dir.join(name));
    let list = || fs::read_dir(&dir).map_or(0, Iterator::count);
    assert_eq!(read("file").expect("reads"), "one");
    assert!(read("later").is_err(), "and the kernel remembers that it is not there");
    assert_eq!(list(), 2);

    bench.write("dir/file", "two two");
    until("the new content", || read("file").is_ok_and(|text| text == "two two"));
    bench.write("dir/later/deep", "x");
    until("the new file", || fs::metadata(dir.join("later/deep")).is_ok());
    until("it in the listing", || list() == 3);
    bench.remove("dir/gone");
    until("the removal", || !dir.join("gone").exists());
    until("it in the listing", || list() == 2);
}

#[test]
fn an_open_file_keeps_its_content_to_its_end() {
    in_each_format(an_open_file_keeps_its_content);
}

fn an_open_file_keeps_its_content(format: DriveFormat) {
    let bench = Bench::made_in(format);
    let (old, new) = ("o".repeat(300_000), "n".repeat(400_000));
    bench.write("file", &old);
    let mount = bench.mount();
    let path = mount.mountpoint().join("file");
    let mut open = fs::File::open(&path).expect("opens");
    let mut start = vec![0; 1000];
    open.read_exact(&mut start).expect("reads");
    let number = open.metadata().expect("exists").ino();

    bench.write("file", &new);
    until("the new content", || fs::read_to_string(&path).is_ok_and(|text| text == new));
    assert_eq!(fs::metadata(&path).expect("exists").ino(), number, "the path keeps its number");
    open.seek(SeekFrom::Start(0)).expect("seeks");
    let mut whole = String::new();
    open.read_to_string(&mut whole).expect("reads");
    assert!(whole == old, "{} bytes, of another version", whole.len());
    assert_eq!(open.metadata().expect("exists").len(), 300_000);
    assert_eq!(fs::metadata(&path).expect("exists").len(), 400_000);
}

/// The listing gives the kernel the new file, which the kernel must not take for the open one.
#[test]
fn a_listing_leaves_open_files_as_they_were() {
    in_each_format(a_listing_leaves_open_files);
}

fn a_listing_leaves_open_files(format: DriveFormat) {
    let bench = Bench::made_in(format);
    let (old, new) = ("o".repeat(3000), "n".repeat(50_000));
    bench.write("dir/file", &old);
    let mount = bench.mount();
    let dir = mount.mountpoint().join("dir");
    let mut open = fs::File::open(dir.join("file")).expect("opens");
    assert_eq!(open.metadata().expect("exists").len(), 3000);
    bench.write("dir/file", &new);
    // As `ls -l` does: names with attributes, then each by itself.
    let listed = || {
        let entries = fs::read_dir(&dir).expect("lists").flatten();
        entries.filter_map(|entry| entry.metadata().ok()).map(|found| found.len()).sum::<u64>()
    };
    until("the new size is listed", || listed() == 50_000);
    for _ in 0..3 {
        assert_eq!(listed(), 50_000);
        assert_eq!(open.metadata().expect("exists").len(), 3000, "of the file that is open");
    }
    let mut whole = String::new();
    open.read_to_string(&mut whole).expect("reads");
    assert!(whole == old, "{} bytes", whole.len());
    assert_eq!(fs::read_to_string(dir.join("file")).expect("reads"), new);
}
