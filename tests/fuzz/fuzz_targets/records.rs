//! Files that our own processes leave in a store: scratch records and marks. The first byte chooses
//! one of them. The checksum of a mark is corrected, so that the decoder behind it is reached too.

use std::fs;
use std::path::PathBuf;
use std::sync::LazyLock;

use hypermount_core::Store;
use hypermount_core::MachineIdentity;
use hypermount_drive::scratch;
use hypermount_swarm::crypto;

/// A directory of this process, in memory where there is such a place. It stays: a fuzzer does not
/// end in order.
static DIRECTORY: LazyLock<PathBuf> = LazyLock::new(|| {
    let shared = PathBuf::from("/dev/shm");
    let base = if shared.is_dir() { shared } else { std::env::temp_dir() };
    base.join(format!("hypermount-fuzz-{}", std::process::id()))
});

fn scratch_record(text: &[u8]) {
    let directory = DIRECTORY.join("scratch");
    fs::create_dir_all(&directory).expect("a directory is made");
    fs::write(directory.join("1.record"), text).expect("a record is written");
    for leftover in scratch::leftovers(&directory).expect("it can be read") {
        assert!(leftover.base_limit <= leftover.origin.base.size.max(leftover.size));
        for range in leftover.written.iter() {
            assert!(range.start < range.end && range.end <= leftover.size, "{leftover:?}");
        }
    }
}

fn mark(text: &[u8]) {
    let root = DIRECTORY.join("store");
    let _ = fs::remove_dir_all(&root);
    fs::create_dir_all(&root).expect("a directory is made");
    fs::write(root.join("master_key"), [7; 32]).expect("a key is written");
    let text = String::from_utf8_lossy(text);
    let content = format!("{}\n", text.trim_end());
    let sum = hypermount_swarm::DiscoveryKey::new(crypto::blake2b(&[content.as_bytes()])).to_hex();
    fs::write(root.join("hypermount.mark"), format!("{content}sum {sum}\n")).expect("is written");
    let identity = MachineIdentity::on_machine(b"fuzz", None);
    if let Ok(store) = Store::open_as(&root, false, &identity) {
        let _ = store.stop_reasons();
        let _ = store.adopt(false);
    }
}

pub fn run(input: &[u8]) {
    match input.split_first() {
        Some((0, rest)) => mark(rest),
        Some((_, rest)) => scratch_record(rest),
        None => {}
    }
}
