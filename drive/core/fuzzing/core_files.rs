//! The files of a core after a disk has had its way with them: opened, by its writer and by a
//! reader, every block read, audited, proven, and appended to. Every block that is read must be one
//! that was signed.
//!
//! The input is a list of damages: which file and what kind, how much follows, and where.

use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::{Arc, LazyLock};

use bytes::Bytes;

use crate::error::Result;
use crate::hypercore::cache::BlockCache;
use crate::hypercore::storage::{Memory, Storage};
use crate::hypercore::{Core, Dialect, Opening, RemoteTree};
use hypermount_swarm::crypto::KeyPair;

const NAMES: [&str; 6] = ["bitfield", "tree", "signatures", "data", "key", "secret_key"];
const BLOCKS: usize = 11;
/// Longest file a damage makes, in bytes.
const LONGEST: u64 = 64 * 1024;

type Files = HashMap<&'static str, Arc<Memory>>;

fn empty() -> Files {
    NAMES.iter().map(|name| (*name, Arc::new(Memory::default()))).collect()
}

fn open(files: &Files, writer: bool) -> Result<Core> {
    let pair = KeyPair::from_seed(&[1; 32]);
    Core::open(Opening {
        directory: Path::new("fuzzed"),
        open_file: &|name| {
            let file = files.get(name).cloned().unwrap_or_default();
            Ok(Box::new(file) as Box<dyn Storage>)
        },
        key: pair.public_key(),
        dialect: Dialect::Legacy,
        pair: writer.then_some(pair),
        store_pair: writer,
        manifest: None,
        writable: true,
        adopted: false,
        cache: Arc::new(BlockCache::new(1 << 20)),
        keep: None,
        stop: None,
        on_stop: None,
    })
}

fn blocks() -> Vec<Bytes> {
    (0..BLOCKS).map(|at| Bytes::from(vec![at as u8 + 1; at * 7 % 23])).collect()
}

fn contents(file: &Memory) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; file.len()? as usize];
    file.read_at(0, &mut bytes)?;
    Ok(bytes)
}

/// What an intact core has on the disk.
static INTACT: LazyLock<HashMap<&'static str, Vec<u8>>> = LazyLock::new(|| {
    let files = empty();
    let core = open(&files, true).expect("it is new");
    core.append(&blocks()[..4]).expect("memory cannot fail");
    core.append(&blocks()[4..]).expect("memory cannot fail");
    core.sync().expect("memory cannot fail");
    drop(core);
    files.iter().map(|(name, file)| (*name, contents(file).expect("memory"))).collect()
});

fn damaged(mut input: &[u8]) -> io::Result<Files> {
    let files = empty();
    for (name, bytes) in INTACT.iter() {
        files[name].write_at(0, bytes)?;
    }
    while let [what, length, high, low, rest @ ..] = input {
        let file = &files[NAMES[usize::from(*what) % NAMES.len()]];
        let at = u64::from(u16::from_be_bytes([*high, *low]));
        let (bytes, rest) = rest.split_at(rest.len().min(usize::from(*length)));
        match what / NAMES.len() as u8 % 3 {
            0 => file.write_at(at, bytes)?,
            1 => file.truncate(at)?,
            _ => {
                file.truncate(0)?;
                file.write_at(0, bytes)?;
            }
        }
        if file.len()? > LONGEST {
            file.truncate(LONGEST)?;
        }
        input = rest;
    }
    Ok(files)
}

fn use_it(core: &Core, writer: bool) {
    let head = core.head();
    let true_blocks = blocks();
    for at in 0..head.length.min(64) {
        if let Ok(Some(block)) = core.get_local(at) {
            // The key has signed these blocks, and no others.
            assert_eq!(true_blocks.get(at as usize), Some(&block), "block {at}");
        }
        let _ = core.span(at);
        let _ = core.prove(at, 0, false, &mut RemoteTree::default());
    }
    for byte in [0, head.byte_length / 2, head.byte_length, u64::MAX] {
        let _ = core.locate(byte, 0..head.length);
    }
    let _ = core.audit();
    if writer && let Ok(at) = core.append(&[Bytes::from_static(b"more")]) {
        let _ = at;
        assert_eq!(core.head().length, head.length + 1);
        let last = core.get_local(head.length).expect("it was just written");
        assert_eq!(last.as_deref(), Some(&b"more"[..]));
    }
    let _ = core.sync();
}

pub(super) fn run(input: &[u8]) {
    for writer in [false, true] {
        let files = damaged(input).expect("memory cannot fail");
        if let Ok(core) = open(&files, writer) {
            use_it(&core, writer);
        }
    }
}
