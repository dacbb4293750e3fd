//! An index of arbitrary blocks, as a publisher may sign and a disk may keep it: the input is the
//! blocks, each after its length. Every way through it ends.

use std::sync::LazyLock;

use bytes::Bytes;
use hypermount_core::{Store, Wait};
use hypermount_drive::{Drive, DrivePath, Kind, Snapshot, fuzzing};
use tokio::runtime::Runtime;

const MOST_BLOCKS: usize = 64;
/// Directories walked into.
const DEPTH: usize = 4;

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    tokio::runtime::Builder::new_current_thread().enable_time().build().expect("it starts")
});

fn blocks(mut input: &[u8]) -> Vec<Bytes> {
    let mut blocks = Vec::new();
    while let [high, low, rest @ ..] = input {
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        let (block, rest) = rest.split_at(rest.len().min(length));
        blocks.push(Bytes::copy_from_slice(block));
        if blocks.len() == MOST_BLOCKS {
            break;
        }
        input = rest;
    }
    blocks
}

async fn walk(snapshot: &Snapshot) {
    let mut directories = vec![(DrivePath::root(), 0)];
    while let Some((directory, depth)) = directories.pop() {
        let Ok(listing) = snapshot.list(&directory, Wait::Local).await else { continue };
        assert!(listing.len() <= MOST_BLOCKS, "no more names than blocks");
        for (name, entry) in listing {
            let Ok(path) = directory.join(&name) else { continue };
            let _ = snapshot.entry(&path, Wait::Local).await;
            if entry.kind == Kind::Directory && depth < DEPTH {
                directories.push((path, depth + 1));
            }
        }
    }
}

pub fn run(input: &[u8]) {
    let store = Store::memory();
    let core = store.core_named(b"fuzzed").expect("memory cannot fail");
    // A drive's first block says where its content is; that decoder has the target `stat`.
    let content = *store.core_named(b"content").expect("memory").key();
    let blocks = [vec![fuzzing::first_block(content)], blocks(input)].concat();
    core.append(&blocks).expect("memory cannot fail");
    RUNTIME.block_on(async {
        let mut seen = None;
        for version in [Some(blocks.len() as u64 / 2), None] {
            let Ok(drive) = Drive::open(&store, core.key(), version, Wait::Local).await else {
                continue;
            };
            let now = drive.snapshot();
            walk(&now).await;
            if let Some(before) = seen.replace(now.clone()) {
                let _ = drive.changes(&before, &now, MOST_BLOCKS, Wait::Local).await;
            }
        }
    });
}
