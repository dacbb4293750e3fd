//! A staged file against plain bytes, and what a commit stores of it.

use bytes::Bytes;
use hypermount_drive::testing::FORMATS;
use hypermount_drive::{ContentWriter, HOLE_BYTES, hole_bytes};
use proptest::prelude::*;

use super::*;
use crate::appending::Progress;
use crate::testing::{drive, drive_in, path, runtime};

/// When the tests change something.
fn now() -> Time {
    Time::now()
}

fn stored() -> Stat {
    Stat { mode: 0o100_644, ..Stat::default() }
}

fn pool() -> (tempfile::TempDir, Arc<Pool>) {
    let directory = tempfile::tempdir().expect("a directory");
    let pool = Pool::new(directory.path().to_owned());
    (directory, pool)
}

fn staged(drive: &Drive, content: &[u8], pool: &Arc<Pool>) -> StagedFile {
    let blocks: Vec<Bytes> = content.chunks(1000).map(Bytes::copy_from_slice).collect();
    let extent = match blocks.is_empty() {
        true => Extent::default(),
        false => drive.append_content(&blocks).expect("appended"),
    };
    let stat = Stat { extent, ..stored() };
    StagedFile::new(*drive.key(), path("file"), stat, true, pool.clone())
}

fn bytes(file: &StagedFile, drive: &Drive) -> Vec<u8> {
    let read = file.read(drive, 0..file.size(), Wait::Local);
    runtime().block_on(read).expect("read").concat()
}

#[derive(Clone, Debug)]
enum Change {
    Write(u64, Vec<u8>),
    Resize(u64),
    Zero(Range<u64>),
    CopyUp,
}

fn change() -> impl Strategy<Value = Change> {
    let end = || 0..6000_u64;
    prop_oneof![
        4 => (end(), proptest::collection::vec(1..=255_u8, 1..300))
            .prop_map(|(at, bytes)| Change::Write(at, bytes)),
        2 => end().prop_map(Change::Resize),
        1 => (end(), end()).prop_map(|(one, other)| Change::Zero(one.min(other)..one.max(other))),
        1 => Just(Change::CopyUp),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..Default::default() })]

    #[test]
    fn a_staged_file_holds_what_plain_bytes_do(
        base in proptest::collection::vec(1..=255_u8, 0..4000),
        changes in proptest::collection::vec(change(), 0..25),
    ) {
        let ((_store, drive), (_directory, pool)) = (drive(), pool());
        let file = staged(&drive, &base, &pool);
        let mut plain = base;
        for change in changes {
            match change {
                Change::Write(at, new) => {
                    let (start, end) = (at as usize, at as usize + new.len());
                    plain.resize(plain.len().max(end), 0);
                    plain[start..end].copy_from_slice(&new);
                    prop_assert!(file.write(at, &new, now()).unwrap());
                }
                Change::Resize(size) => {
                    plain.resize(size as usize, 0);
                    file.resize(size, now()).unwrap();
                }
                Change::Zero(range) => {
                    let end = plain.len().min(range.end as usize);
                    plain[end.min(range.start as usize)..end].fill(0);
                    prop_assert!(file.zero(range, now()).unwrap());
                }
                Change::CopyUp => runtime().block_on(file.copy_up(&drive, Wait::Local)).unwrap(),
            }
            prop_assert_eq!(bytes(&file, &drive), plain.clone());
        }
    }
}

/// A change of a file of some blocks, in halves of the smallest hole.
fn coarse_change() -> impl Strategy<Value = Change> {
    let end = || (0..80_u64).prop_map(|halves| halves * HOLE_BYTES / 2);
    prop_oneof![
        2 => (end(), 1..=255_u8, 1..5_usize).prop_map(|(at, byte, halves)| {
            Change::Write(at, vec![byte; halves * HOLE_BYTES as usize / 2])
        }),
        2 => end().prop_map(Change::Resize),
        3 => (end(), end()).prop_map(|(one, other)| Change::Zero(one.min(other)..one.max(other))),
        1 => Just(Change::CopyUp),
    ]
}

/// Stores what there is to store, as a commit does, and lets the staged file know.
async fn commit(file: &StagedFile, drive: &Drive) {
    let Some(pending) = file.pending() else { return };
    let extent = match pending.unchanged() {
        Some(extent) => extent,
        None => {
            let holes = pending.holes(drive).unwrap();
            let writer: ContentWriter = drive.content_writer().await.unwrap();
            let progress = Progress::default();
            let appended = pending.append(drive, writer, &holes, Wait::Local, &progress).await;
            let extent = appended.unwrap();
            assert_eq!(extent.holes, hole_bytes(&holes));
            extent
        }
    };
    let (_, stat) = file.destination(extent).unwrap();
    assert!(file.stored(&stat, pending.generation));
}

/// Asserts that each byte of a hole that `seek` tells of is zero.
fn check_holes(plain: &[u8], seek: impl Fn(u64, i32) -> Option<u64>) {
    let (mut at, size) = (0, plain.len() as u64);
    while at < size {
        let data = seek(at, libc::SEEK_DATA).unwrap_or(size);
        assert!(plain[at as usize..data as usize].iter().all(|byte| *byte == 0), "{at}..{data}");
        at = if data < size { seek(data, libc::SEEK_HOLE).unwrap() } else { size };
        assert!(at > data || at == size);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, ..Default::default() })]

    #[test]
    fn holes_are_stored_as_holes_and_told_as_holes(
        changes in proptest::collection::vec((coarse_change(), any::<bool>()), 1..20),
    ) {
        for format in FORMATS {
            let ((_store, drive), (_directory, pool)) = (drive_in(format), pool());
            let file = staged(&drive, &[], &pool);
            let mut plain: Vec<u8> = Vec::new();
            for (change, commits) in &changes {
                match change {
                    Change::Write(at, new) => {
                        let end = *at as usize + new.len();
                        plain.resize(plain.len().max(end), 0);
                        plain[*at as usize..end].copy_from_slice(new);
                        file.write(*at, new, now()).unwrap();
                    }
                    Change::Resize(size) => {
                        plain.resize(*size as usize, 0);
                        file.resize(*size, now()).unwrap();
                    }
                    Change::Zero(range) => {
                        let end = plain.len().min(range.end as usize);
                        plain[end.min(range.start as usize)..end].fill(0);
                        file.zero(range.clone(), now()).unwrap();
                    }
                    Change::CopyUp => runtime().block_on(file.copy_up(&drive, Wait::Local)).unwrap(),
                }
                if *commits {
                    runtime().block_on(commit(&file, &drive));
                }
                prop_assert!(bytes(&file, &drive) == plain, "{format}, {change:?}");
                let told = file.entry().stat.extent;
                prop_assert_eq!(told.size, plain.len() as u64);
                let seek = |at, whence| file.seek(&drive, at as i64, whence).ok().map(|at| at as u64);
                check_holes(&plain, seek);
            }
        }
    }
}

#[test]
fn a_file_with_too_many_stretches_is_copied_up_into_one() {
    let ((_store, drive), (_directory, pool)) = (drive(), pool());
    let file = staged(&drive, &[7; 3000], &pool);
    for n in 0..MAX_STRETCHES as u64 {
        assert!(file.write(n * 2, b"x", now()).unwrap(), "{n}");
    }
    assert!(!file.write(0, b"y", now()).unwrap());
    runtime().block_on(file.copy_up(&drive, Wait::Local)).unwrap();
    assert!(file.write(0, b"y", now()).unwrap());
    let bytes = bytes(&file, &drive);
    assert_eq!(bytes[..4], *b"y\x07x\x07");
    assert_eq!(bytes[3000..3004], *b"x\0x\0");
    assert_eq!(bytes.len(), MAX_STRETCHES * 2 - 1);
}

#[test]
fn a_change_during_a_commit_is_committed_by_the_next_one() {
    let ((_store, drive), (_directory, pool)) = (drive(), pool());
    let file = staged(&drive, b"base", &pool);
    assert!(file.pending().is_none() && !file.is_dirty());
    file.write(0, b"B", now()).unwrap();
    let pending = file.pending().expect("something to commit");
    file.write(1, b"A", now()).unwrap();
    let (at, stat) = file.destination(Extent { size: 4, ..Extent::default() }).unwrap();
    assert_eq!(at, path("file"));
    assert!(!file.stored(&stat, pending.generation), "one change is left");
    let pending = file.pending().expect("the other change");
    assert_eq!(bytes(&file, &drive), b"BAse");
    assert!(file.stored(&stat, pending.generation));
    assert!(file.pending().is_none() && !file.is_dirty());
}

#[test]
fn an_unlinked_file_is_not_committed_and_stays_readable() {
    let ((_store, drive), (_directory, pool)) = (drive(), pool());
    let file = staged(&drive, b"base", &pool);
    file.write(4, b"!", now()).unwrap();
    file.remove();
    assert!(file.pending().is_none() && !file.is_dirty());
    assert!(file.destination(Extent::default()).is_none());
    assert_eq!(bytes(&file, &drive), b"base!");
}

#[test]
fn values_of_another_writer_are_taken_over_unless_changed_here() {
    let ((_store, drive), (_directory, pool)) = (drive(), pool());
    let file = staged(&drive, b"base", &pool);
    let change = |stat: &mut Stat| {
        stat.mode = 0o100_600;
        Ok(())
    };
    file.change(change).unwrap();
    let nine = Time::from_milliseconds(9);
    let theirs = Stat { mode: 0o100_755, uid: 7, mtime: nine, ..stored() };
    file.take_over(&theirs);
    let entry = file.entry();
    assert_eq!((entry.stat.mode, entry.stat.uid, entry.stat.mtime), (0o100_600, 7, nine));
}

#[test]
fn only_an_unchanged_file_is_shared_and_only_into_an_empty_one() {
    let ((_store, drive), (_directory, pool)) = (drive(), pool());
    let source = staged(&drive, b"base", &pool);
    let extent = source.whole_extent().expect("nothing was changed");
    let target = staged(&drive, b"", &pool);
    assert!(target.share(extent, now()));
    assert_eq!(bytes(&target, &drive), b"base");
    assert!(!target.share(extent, now()), "it is not empty any more");
    source.write(0, b"B", now()).unwrap();
    assert_eq!(source.whole_extent(), None);
}

#[test]
fn a_file_ends_before_the_largest_size() {
    let ((_store, drive), (_directory, pool)) = (drive(), pool());
    let file = staged(&drive, b"", &pool);
    for (offset, size) in [(u64::MAX, MAX_WRITTEN_BYTES + 1), (MAX_WRITTEN_BYTES, u64::MAX)] {
        assert!(matches!(file.write(offset, b"x", now()), Err(Error::FileTooLarge)));
        assert!(matches!(file.resize(size, now()), Err(Error::FileTooLarge)));
    }
    assert!(!file.is_dirty());
}
