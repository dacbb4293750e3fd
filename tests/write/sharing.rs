//! A drive written on one side, and mounted by its key on the other.

use std::fs;
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

use crate::common::living::{Mounted, eventually, reference, serve};
use crate::own::{FORMATS, Own, can_mount, has_reference, tree};

/// Another mount reads the written bytes over a socket, byte for byte.
#[test]
fn another_mount_reads_what_was_written() {
    for format in FORMATS {
        if !can_mount() {
            return;
        }
        let mut own = Own::in_format(format);
        fs::create_dir(own.path("dir")).expect("makes");
        fs::write(own.path("dir/file"), vec![3; 300_000]).expect("writes");
        fs::rename(own.path("dir"), own.path("renamed")).expect("renames");
        let ours = tree(&own.root(), true);
        own.unmount();
        let server = serve(&own.store());
        let peers = [server.address.clone()];
        let other = Mounted::by_key(own.key(), &own.beside("other"), &own.beside("cache"), &peers);
        let theirs = eventually("the whole tree", || {
            let theirs = tree(&other.at, true);
            (theirs == ours).then_some(theirs)
        });
        assert_eq!(theirs, ours);
    }
}

/// Sentence 56. "A file saved here appears within 1 s in every mount of the drive by its key, while
/// this mount answers peers (`--listen`) and the network permits it."
#[test]
fn a_saved_file_appears_in_another_mount() {
    for format in FORMATS {
        if !can_mount() {
            return;
        }
        let mut own = Own::in_format(format);
        fs::write(own.path("file"), "one").expect("writes");
        own.unmount();
        let peers = [own.mount_listening()];
        let other = Mounted::by_key(own.key(), &own.beside("other"), &own.beside("cache"), &peers);
        let read = |name: &str| fs::read_to_string(other.path(name)).ok();
        eventually("the first content", || read("file").filter(|text| text == "one"));
        let mut slowest = Duration::ZERO;
        for round in 0..10 {
            let text = format!("round {round}");
            fs::write(own.path("file"), &text).expect("writes");
            fs::write(own.path(&format!("new {round}")), &text).expect("writes");
            let start = Instant::now();
            eventually("the new content", || read("file").filter(|read| *read == text));
            eventually("the new file", || {
                read(&format!("new {round}")).filter(|read| *read == text)
            });
            slowest = slowest.max(start.elapsed());
        }
        eprintln!("slowest: {slowest:?}");
        fs::remove_file(own.path("new 3")).expect("unlinks");
        eventually("the removal", || (!other.path("new 3").exists()).then_some(()));
    }
}

/// We write, the reference continues in the same store, and we read its result.
#[test]
fn the_reference_goes_on_in_the_same_store() {
    if !can_mount() || !has_reference() {
        return;
    }
    let mut own = Own::new();
    for round in 0..3 {
        fs::create_dir_all(own.path(&format!("ours/{round}"))).expect("makes");
        fs::write(own.path(&format!("ours/{round}/file")), format!("ours {round}"))
            .expect("writes");
        let ours = tree(&own.root(), false);
        own.unmount();
        assert_eq!(own.read_by_reference(), ours);
        let store = own.store().display().to_string();
        let mut theirs = reference("serve-drive.js", &[&store, "--key", own.key()]);
        theirs.json();
        let path = format!("theirs/{round}");
        let text = format!("theirs {round}");
        theirs.ask(serde_json::json!({ "op": "put", "path": path, "text": text }));
        drop(theirs);
        own.mount();
        let read = fs::read_to_string(own.path(&format!("theirs/{round}")));
        assert_eq!(read.expect("reads"), text);
    }
}

/// Sentence 56. "A file saved here appears within 1 s in every mount of the drive by its key, while
/// this mount answers peers (`--listen`) and the network permits it." The reference is such a
/// reader.
#[test]
fn a_saved_file_appears_at_the_reference() {
    if !can_mount() || !has_reference() {
        return;
    }
    let mut own = Own::new();
    own.unmount();
    let address = own.mount_listening();
    let port: u16 = address.rsplit(':').next().and_then(|port| port.parse().ok()).expect("a port");
    let mut reader = reference("watch-drive.js", &[own.key()]);
    reader.json();
    reader.ask(serde_json::json!({ "op": "connect", "port": port }));
    let mut slowest = Duration::ZERO;
    for round in 0..20u8 {
        let content = vec![round; usize::from(round) * 20_000];
        let sha256 = hex::encode(Sha256::digest(&content));
        for name in ["file", "dir/another"] {
            fs::create_dir_all(own.path("dir")).expect("makes");
            fs::write(own.path(name), &content).expect("writes");
            let start = Instant::now();
            let until = serde_json::json!({ "op": "until", "path": name, "sha256": sha256 });
            reader.ask(until);
            slowest = slowest.max(start.elapsed());
        }
    }
    eprintln!("slowest at the reference: {slowest:?}");
}
