//! A drive with a reader that takes all that is shown of it, and with syncs that fail: after a power cut
//! both agree, and what a sync reported as done is there.

use bytes::Bytes;
use tokio::runtime::{Builder, Runtime};

use super::crash_tests::{bytes, content, path, put, rename, write};
use super::testing::{World, open};
use super::*;
use hypermount_core::testing::RemoteTree;

/// No time passes in it: nothing settles by itself.
fn still() -> Runtime {
    Builder::new_current_thread().enable_all().start_paused(true).build().unwrap()
}

/// A reader of the drive, in memory.
struct Reader {
    store: Store,
    index: Core,
    content: Core,
}

impl Reader {
    fn of(drive: &Drive) -> Self {
        let store = Store::memory();
        let index = store.core(drive.metadata_core().key()).unwrap();
        let content = store.core(drive.content().unwrap().key()).unwrap();
        Self { store, index, content }
    }

    /// Takes every block that the writer shows.
    fn follow(&self, drive: &Drive) {
        for (from, to) in
            [(drive.metadata_core(), &self.index), (drive.content().unwrap(), &self.content)]
        {
            let shown = from.announced_head().length;
            // The newest one first, or what shows that it continues the version here.
            let first = to.head().length.min(shown.saturating_sub(1));
            for block in std::iter::once(first).chain(0..shown).filter(|block| !to.has(*block)) {
                let mut told = RemoteTree::default();
                let proof = from.prove(block, to.digest(block), false, &mut told).unwrap();
                to.accept(proof).unwrap_or_else(|error| panic!("block {block}: {error}"));
            }
        }
    }

    async fn drive(&self) -> Drive {
        Drive::open(&self.store, self.index.key(), None, Wait::Local).await.unwrap()
    }
}

const NAMES: [&str; 5] = ["a", "b", "c", "d", "later"];

async fn work(drive: &Drive, after_each: &mut dyn FnMut(&Drive)) -> Result<()> {
    write(drive, "c", 3).await?;
    after_each(drive);
    // As a timer would, at its worst moment: between two appends.
    let _ = drive.metadata_core().flush();
    after_each(drive);
    rename(drive, "a", "d").await?;
    after_each(drive);
    write(drive, "b", 5).await?;
    let _ = drive.content()?.flush();
    after_each(drive);
    put(drive, "c", Extent::default()).await?;
    let _ = drive.metadata_core().flush();
    after_each(drive);
    drive.sync()?;
    after_each(drive);
    Ok(())
}

#[test]
fn a_reader_and_a_writer_agree_after_every_power_cut() {
    let runtime = still();
    for call in 0.. {
        let mut reached = false;
        for seed in 0..8 {
            let (world, case) = (World::default(), format!("call {call}, seed {seed}"));
            runtime.block_on(async {
                let drive = open(&world).await.unwrap();
                write(&drive, "a", 1).await.unwrap();
                write(&drive, "b", 2).await.unwrap();
                drive.sync().unwrap();
                let reader = Reader::of(&drive);
                reader.follow(&drive);
                world.stop_at(call);
                let _ = work(&drive, &mut |drive| reader.follow(drive)).await;
                reached = world.stopped();
                drop(drive);
                world.cut_power(seed);

                // Whole by itself: what an entry names was shown before the entry.
                let read = reader.drive().await;
                for name in NAMES {
                    content(&read, name).await;
                }
                let drive = open(&world).await.unwrap_or_else(|error| panic!("{case}: {error}"));
                write(&drive, "later", 9).await.unwrap();
                drive.sync().unwrap();
                reader.follow(&drive);
                let read = reader.drive().await;
                for name in NAMES {
                    let (ours, theirs) = (content(&drive, name).await, content(&read, name).await);
                    assert!(ours == theirs, "{case}: {name} differs");
                }
            });
        }
        if !reached {
            assert!(call > 20, "the work was done");
            return;
        }
    }
}

/// One call fails, at every call in turn; a failed sync keeps nothing of what it covered. When a later
/// sync of the drive succeeds, no power cut can lose what was written.
pub(crate) fn with_one_failure(
    work: impl AsyncFn(&Drive) -> Result<()>,
    expected: &[(&str, Option<Vec<u8>>)],
) {
    let runtime = still();
    for call in 0.. {
        let world = World::default();
        let reached = runtime.block_on(async {
            let drive = open(&world).await.unwrap();
            write(&drive, "a", 1).await.unwrap();
            write(&drive, "b", 2).await.unwrap();
            drive.sync().unwrap();
            world.fail_once_at(call);
            let done = work(&drive).await.is_ok();
            // As a program that calls fsync(2) again.
            let synced = drive.sync().is_ok() || drive.sync().is_ok();
            assert!(synced, "call {call}: the disk works again, and no sync succeeds");
            let reached = world.stopped();
            drop(drive);
            world.cut_power(0);
            let drive = open(&world).await.unwrap();
            for (name, bytes) in expected.iter().filter(|_| done) {
                let found = content(&drive, name).await;
                assert!(found == *bytes, "call {call}: {name} was synced, and is lost");
            }
            reached
        });
        if !reached {
            assert!(call > 10, "the work was done");
            return;
        }
    }
}

#[test]
fn creating_with_a_failed_sync() {
    let work = async |drive: &Drive| {
        write(drive, "c", 3).await?;
        drive.sync()
    };
    with_one_failure(work, &[("a", Some(bytes(1))), ("c", Some(bytes(3)))]);
}

#[test]
fn appending_with_a_failed_sync() {
    let work = async |drive: &Drive| {
        let extent = drive.snapshot().entry(&path("b"), Wait::Local).await?.stat.extent;
        let mut writer = drive.content_writer().await?;
        assert!(writer.extend(&extent));
        writer.append(&[Bytes::from(vec![7; 5000])])?;
        let _ = drive.sync();
        writer.append(&[Bytes::from(vec![8; 3000])])?;
        put(drive, "b", writer.finish()).await?;
        drive.sync()
    };
    let whole = [bytes(2), vec![7; 5000], vec![8; 3000]].concat();
    with_one_failure(work, &[("a", Some(bytes(1))), ("b", Some(whole))]);
}

#[test]
fn renaming_with_a_failed_sync() {
    let work = async |drive: &Drive| {
        rename(drive, "a", "b").await?;
        drive.sync()
    };
    with_one_failure(work, &[("a", None), ("b", Some(bytes(1)))]);
}
