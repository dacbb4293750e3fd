//! The files of the reference, byte for byte, in both directions.

use super::*;

fn vectors() -> serde_json::Value {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/vectors/core-storage.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// The bytes a step says a file has.
fn content(file: &serde_json::Value) -> Vec<u8> {
    if let Some(bytes) = file["hex"].as_str() {
        return hex::decode(bytes).unwrap();
    }
    let mut bytes = vec![0; file["size"].as_u64().unwrap() as usize];
    let header = hex::decode(file["header"].as_str().unwrap()).unwrap();
    bytes[..header.len()].copy_from_slice(&header);
    for run in file["nonZeroRuns"].as_array().unwrap() {
        let at = run[0].as_u64().unwrap() as usize;
        let run = hex::decode(run[1].as_str().unwrap()).unwrap();
        bytes[at..at + run.len()].copy_from_slice(&run);
    }
    bytes
}

fn check(world: &World, step: &serde_json::Value) {
    for (name, expected) in step["files"].as_object().unwrap() {
        assert_eq!(world.file(name).bytes(), content(expected), "{name} after {}", step["step"]);
    }
}

#[test]
fn a_writers_files_are_the_references() {
    let vectors = vectors();
    let steps = vectors["writer"].as_array().unwrap();
    let world = World::default();
    let mut core = writer(&world);
    for (at, step) in steps.iter().enumerate() {
        match at {
            1 => drop(core.append(&[block("a")]).unwrap()),
            2 => drop(core.append(&[block("b"), block("c")]).unwrap()),
            3 => drop(core.append(&[block("")]).unwrap()),
            4 => drop(core.append(&[block("hello")]).unwrap()),
            5 => core.clear(1..2).unwrap(),
            6 => {
                drop(core);
                core = writer(&world);
            }
            _ => {}
        }
        core.flush().unwrap();
        assert_eq!(core.head().length, step["length"].as_u64().unwrap());
        assert_eq!(core.head().byte_length, step["byteLength"].as_u64().unwrap());
        check(&world, step);
    }
    let audit = core.audit().unwrap();
    assert_eq!(audit.valid, vectors["audit"]["valid"].as_u64().unwrap());
    assert_eq!(audit.invalid, vectors["audit"]["invalid"].as_u64().unwrap());
}

#[test]
fn a_sparse_readers_files_are_the_references() {
    let vectors = vectors();
    let from = writer(&World::default());
    from.append(&[block("a")]).unwrap();
    from.append(&[block("b"), block("c")]).unwrap();
    from.append(&[block("")]).unwrap();
    from.append(&[block("hello")]).unwrap();
    let world = World::default();
    let to = reader(&world);
    let mut remote = RemoteTree::default();
    let steps = vectors["sparseReader"].as_array().unwrap();
    let requests = [(4, true), (4, false), (3, false), (0, false)];
    assert_eq!(steps.len(), requests.len());
    for (step, (at, hash_only)) in steps.iter().zip(requests) {
        let proof = from.prove(at, to.digest(at), hash_only, &mut remote).unwrap();
        to.accept(proof).unwrap();
        to.flush().unwrap();
        check(&world, step);
    }
}

/// Every intermediate state the reference left on disk opens, and opening changes nothing.
#[test]
fn opens_the_references_files_and_leaves_them_alone() {
    let vectors = vectors();
    for (kind, owner) in [("writer", Some(pair())), ("sparseReader", None)] {
        for step in vectors[kind].as_array().unwrap() {
            let world = World::default();
            for (name, file) in step["files"].as_object().unwrap() {
                world.file(name).write_at(0, &content(file)).unwrap();
            }
            world.stop_at(0);
            let core = open(&world, owner.clone()).unwrap();
            assert_eq!(core.head().length, step["length"].as_u64().unwrap());
            assert_eq!(core.head().byte_length, step["byteLength"].as_u64().unwrap());
            for at in 0..core.head().length {
                assert_eq!(core.get_local(at).unwrap().is_some(), core.has(at));
            }
            assert_eq!(core.writable(), owner.is_some());
            drop(core);
            assert!(!world.stopped(), "{} was modified", step["step"]);
            check(&world, step);
        }
    }
}

#[test]
fn seeks_are_the_references() {
    let core = source(&["a", "b", "c", "", "hello"].map(block));
    for seek in vectors()["seeks"].as_array().unwrap() {
        let byte = seek["bytes"].as_u64().unwrap();
        let result = seek["result"].as_array().unwrap();
        let (block, offset) = (result[0].as_u64().unwrap(), result[1].as_u64().unwrap());
        // One past the end is a position to the reference, and no byte to us.
        if byte < core.head().byte_length {
            let found = super::super::Located::Found { block, offset };
            assert_eq!(core.locate(byte, 0..5).unwrap(), found);
        }
    }
}

#[test]
fn another_key_is_refused() {
    let world = World::default();
    drop(writer(&world));
    let other = KeyPair::from_seed(&[2; 32]).public_key();
    match open_key(&world, other, None) {
        Err(Error::NotAStore { why, .. }) => assert_eq!(why, "Another hypercore is stored here"),
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("opened"),
    }
}

/// Very old cores have shorter pages; they are kept.
#[test]
fn old_pages_are_kept() {
    let world = World::default();
    let mut header = [0; 32];
    header[..7].copy_from_slice(&[0x05, 0x02, 0x57, 0, 0, 0x0d, 0x00]);
    world.file("bitfield").write_at(0, &header).unwrap();
    let core = writer(&world);
    core.append(&uneven(5)).unwrap();
    core.sync().unwrap();
    drop(core);
    assert_eq!(world.file("bitfield").bytes().len(), 32 + 3328);
    assert_eq!(world.file("bitfield").bytes()[..32], header);
    let core = writer(&world);
    assert_eq!((core.head().length, core.held(0..9)), (5, 5));
}
