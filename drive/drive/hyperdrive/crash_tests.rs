//! The machine stops at every storage call of making, changing and renaming files, by a kill or by
//! a power cut: every file is then what it was or what it was to be, and writing goes on.

use std::cell::Cell;
use std::collections::BTreeMap;

use bytes::Bytes;
use tokio::runtime::{Builder, Runtime};

use super::publisher::FORMATS;
use super::testing::{World, open_in};
use super::*;
use crate::path::DrivePath;
use crate::stat::{Stat, TYPE_FILE};

const POWER_CUTS: u64 = 8;

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

pub(crate) fn path(text: &str) -> DrivePath {
    DrivePath::parse(text).unwrap()
}

pub(crate) fn bytes(fill: u8) -> Vec<u8> {
    vec![fill; 3000 + usize::from(fill) * 100]
}

/// As a mount does: blocks in batches, then the entry.
pub(crate) async fn write(drive: &Drive, name: &str, fill: u8) -> Result<()> {
    let mut writer = drive.content_writer().await?;
    for batch in bytes(fill).chunks(2500) {
        writer.append(&[Bytes::copy_from_slice(batch)])?;
    }
    put(drive, name, writer.finish()).await
}

pub(crate) async fn put(drive: &Drive, name: &str, extent: Extent) -> Result<()> {
    let stat = Stat { mode: TYPE_FILE | 0o644, extent, ..Stat::default() };
    drive.apply(vec![Edit::Put { path: path(name), stat }]).await.map(drop)
}

pub(crate) async fn rename(drive: &Drive, from: &str, to: &str) -> Result<()> {
    let stat = drive.snapshot().entry(&path(from), Wait::Local).await?.stat;
    let put = Edit::Put { path: path(to), stat };
    drive.apply(vec![put, Edit::Remove { path: path(from) }]).await.map(drop)
}

pub(crate) async fn content(drive: &Drive, name: &str) -> Option<Vec<u8>> {
    match drive.snapshot().entry(&path(name), Wait::Local).await {
        Ok(entry) => {
            let read = drive.read(&entry.stat.extent, 0..u64::MAX, Wait::Local).await;
            Some(read.unwrap_or_else(|error| panic!("{name}: {error}")).concat())
        }
        Err(Error::NotFound) => None,
        Err(error) => panic!("{name}: {error}"),
    }
}

type Files = BTreeMap<&'static str, u8>;

/// Runs `work` over two synced files, stopping at each of its calls. `states` are what the files
/// may be, oldest first; `work` notes the last one it was told is reached, and is safe.
fn at_every_call(
    states: &[Files],
    work: impl AsyncFn(&Drive, &Cell<usize>, &Cell<usize>) -> Result<()>,
) {
    for format in FORMATS {
        let runtime = runtime();
        for call in 0.. {
            let mut reached = false;
            for seed in 0..=POWER_CUTS {
                let (world, told, safe) = (World::default(), Cell::new(0), Cell::new(0));
                runtime.block_on(async {
                    let drive = open_in(&world, format).await.unwrap();
                    write(&drive, "a", 1).await.unwrap();
                    write(&drive, "b", 2).await.unwrap();
                    drive.sync().unwrap();
                    world.stop_at(call);
                    let _ = work(&drive, &told, &safe).await;
                    reached = world.stopped();
                    drop(drive);
                    let least = match seed {
                        POWER_CUTS => {
                            world.restart();
                            told.get()
                        }
                        seed => {
                            world.cut_power(seed);
                            safe.get()
                        }
                    };
                    check(format, &world, &states[least..], &format!("call {call}, seed {seed}"))
                        .await;
                });
            }
            if !reached {
                assert!(call > 3, "the work was done");
                break;
            }
        }
    }
}

async fn check(format: DriveFormat, world: &World, allowed: &[Files], when: &str) {
    let drive = open_in(world, format).await.unwrap_or_else(|error| panic!("{when}: {error}"));
    // Each file by itself is in one of the states: a power cut may reorder what was not synced.
    for name in ["a", "b", "c"] {
        let found = content(&drive, name).await;
        let fits = |state: &Files| state.get(name).map(|fill| bytes(*fill)) == found;
        let length = found.as_ref().map(Vec::len);
        assert!(allowed.iter().any(fits), "{when}: {name} has {length:?} bytes");
    }
    write(&drive, "later", 9).await.unwrap();
    drive.sync().unwrap();
    drop(drive);
    let drive = open_in(world, format).await.unwrap();
    assert_eq!(content(&drive, "later").await, Some(bytes(9)), "{when}");
}

#[test]
fn making_a_file() {
    let states = [Files::from([("a", 1), ("b", 2)]), Files::from([("a", 1), ("b", 2), ("c", 3)])];
    at_every_call(&states, async |drive, told, safe| {
        write(drive, "c", 3).await?;
        told.set(1);
        drive.sync()?;
        safe.set(1);
        Ok(())
    });
}

/// Sentence 49. "After a power cut every file has, whole, the content of its last fsync(2) or of a
/// later close(2). A file that was closed and never synced may have older content, or be missing."
/// Sentence 47. "When fsync(2) returns 0, no power cut can lose the written data."
#[test]
fn changing_a_file_twice() {
    let state = |fill| Files::from([("a", fill), ("b", 2)]);
    at_every_call(&[state(1), state(3), state(4)], async |drive, told, safe| {
        write(drive, "a", 3).await?;
        told.set(1);
        drive.sync()?;
        safe.set(1);
        write(drive, "a", 4).await?;
        told.set(2);
        Ok(())
    });
}

#[test]
fn replacing_by_rename() {
    let old = Files::from([("a", 1), ("b", 2)]);
    let between = Files::from([("a", 1), ("b", 2), ("c", 3)]);
    let new = Files::from([("a", 3), ("b", 2)]);
    at_every_call(&[old, between, new], async |drive, told, safe| {
        write(drive, "c", 3).await?;
        told.set(1);
        rename(drive, "c", "a").await?;
        told.set(2);
        drive.sync()?;
        safe.set(2);
        Ok(())
    });
}

#[test]
fn importing_several_files_as_one_batch() {
    let old = Files::from([("a", 1), ("b", 2)]);
    let new = Files::from([("a", 5), ("b", 6), ("c", 7)]);
    at_every_call(&[old, new], async |drive, told, _| {
        let mut edits = Vec::new();
        for (name, fill) in [("a", 5), ("b", 6), ("c", 7)] {
            let mut writer = drive.content_writer().await?;
            writer.append(&[Bytes::from(bytes(fill))])?;
            let extent = writer.finish();
            let stat = Stat { mode: TYPE_FILE | 0o644, extent, ..Stat::default() };
            edits.push(Edit::Put { path: path(name), stat });
        }
        drive.apply(edits).await?;
        told.set(1);
        Ok(())
    });
}

fn tail(fill: u8) -> Vec<u8> {
    vec![fill; 4000]
}

/// As a mount does for what was added at the end: the old blocks and new ones after them.
async fn append(drive: &Drive, name: &str, fill: u8) -> Result<()> {
    let extent = drive.snapshot().entry(&path(name), Wait::Local).await?.stat.extent;
    let mut writer = drive.content_writer().await?;
    assert!(writer.extend(&extent), "nothing was stored in between");
    writer.append(&[Bytes::from(tail(fill))])?;
    put(drive, name, writer.finish()).await
}

/// What `a` may be when power is cut in every call, oldest first.
async fn one_of(format: DriveFormat, world: &World, allowed: &[Vec<u8>], when: &str) {
    let drive = open_in(world, format).await.unwrap_or_else(|error| panic!("{when}: {error}"));
    let found = content(&drive, "a").await.unwrap_or_default();
    assert!(allowed.contains(&found), "{when}: {} bytes", found.len());
    assert_eq!(content(&drive, "b").await, Some(bytes(2)), "{when}");
    write(&drive, "later", 9).await.unwrap();
    assert_eq!(content(&drive, "later").await, Some(bytes(9)), "{when}");
}

/// Bytes that were added at the end, twice; then the file cut to nothing and to its first half.
#[test]
fn appending_to_a_file_and_truncating_it() {
    for format in FORMATS {
        let (first, second) = ([bytes(1), tail(7)].concat(), [bytes(1), tail(7), tail(8)].concat());
        let half = bytes(1)[..1000].to_vec();
        let states = [bytes(1), first, second, Vec::new(), half.clone()];
        let runtime = runtime();
        for call in 0.. {
            let mut reached = false;
            for seed in 0..=POWER_CUTS {
                let (world, mut told, mut safe) = (World::default(), 0, 0);
                runtime.block_on(async {
                    let drive = open_in(&world, format).await.unwrap();
                    write(&drive, "b", 2).await.unwrap();
                    write(&drive, "a", 1).await.unwrap();
                    drive.sync().unwrap();
                    world.stop_at(call);
                    let work = async {
                        append(&drive, "a", 7).await?;
                        told = 1;
                        append(&drive, "a", 8).await?;
                        told = 2;
                        drive.sync()?;
                        safe = 2;
                        put(&drive, "a", Extent::default()).await?;
                        told = 3;
                        let mut writer = drive.content_writer().await?;
                        writer.append(&[Bytes::from(half.clone())])?;
                        put(&drive, "a", writer.finish()).await?;
                        told = 4;
                        drive.sync()?;
                        safe = 4;
                        Ok::<(), Error>(())
                    };
                    let _ = work.await;
                    reached = world.stopped();
                    drop(drive);
                    let least = if seed == POWER_CUTS {
                        world.restart();
                        told
                    } else {
                        world.cut_power(seed);
                        safe
                    };
                    one_of(format, &world, &states[least..], &format!("call {call}, seed {seed}"))
                        .await;
                });
            }
            if !reached {
                assert!(call > 10, "the work was done");
                break;
            }
        }
    }
}

/// Sentence 38. "The rename of a directory is one version of the drive": whatever happens, all of
/// it has the one name or all of it the other.
#[test]
fn renaming_a_directory_is_all_or_nothing() {
    for format in FORMATS {
        const FILES: u8 = 12;
        let runtime = runtime();
        for call in 0.. {
            let mut reached = false;
            for seed in 0..=POWER_CUTS {
                let world = World::default();
                runtime.block_on(async {
                    let drive = open_in(&world, format).await.unwrap();
                    for n in 0..FILES {
                        write(&drive, &format!("old/{n}"), n).await.unwrap();
                    }
                    drive.sync().unwrap();
                    world.stop_at(call);
                    let mut edits = Vec::new();
                    for n in 0..FILES {
                        let old = path(&format!("old/{n}"));
                        let entry = drive.snapshot().entry(&old, Wait::Local).await.unwrap();
                        edits.push(Edit::Remove { path: old });
                        let (path, stat) = (path(&format!("new/{n}")), entry.stat);
                        edits.push(Edit::Put { path, stat });
                    }
                    let told = drive.apply(edits).await.is_ok();
                    let safe = told && drive.sync().is_ok();
                    reached = world.stopped();
                    drop(drive);
                    let must = if seed == POWER_CUTS {
                        world.restart();
                        told
                    } else {
                        world.cut_power(seed);
                        safe
                    };
                    let when = format!("call {call}, seed {seed}");
                    let drive = open_in(&world, format)
                        .await
                        .unwrap_or_else(|error| panic!("{when}: {error}"));
                    let renamed = content(&drive, "new/0").await.is_some();
                    assert!(renamed || !must, "{when}");
                    let (here, gone) = if renamed { ("new", "old") } else { ("old", "new") };
                    for n in 0..FILES {
                        let there = content(&drive, &format!("{here}/{n}")).await;
                        assert_eq!(there, Some(bytes(n)), "{when}");
                        assert_eq!(content(&drive, &format!("{gone}/{n}")).await, None, "{when}");
                    }
                });
            }
            if !reached {
                assert!(call > 3, "the work was done");
                break;
            }
        }
    }
}

/// A disk that is full once: the call fails, nothing is lost, and it works when there is room.
#[test]
fn a_full_disk_costs_nothing_but_the_call() {
    for format in FORMATS {
        let runtime = runtime();
        for call in 0..40 {
            let world = World::default();
            runtime.block_on(async {
                let drive = open_in(&world, format).await.unwrap();
                write(&drive, "a", 1).await.unwrap();
                world.fail_once_at(call);
                let first = write(&drive, "a", 2).await;
                world.restart();
                let expected = if first.is_ok() { 2 } else { 1 };
                assert_eq!(content(&drive, "a").await, Some(bytes(expected)), "call {call}");
                write(&drive, "a", 3).await.unwrap();
                drive.sync().unwrap();
                drop(drive);
                let drive = open_in(&world, format).await.unwrap();
                assert_eq!(content(&drive, "a").await, Some(bytes(3)), "call {call}");
            });
        }
    }
}
