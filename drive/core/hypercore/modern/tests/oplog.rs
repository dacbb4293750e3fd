//! Oplogs as Hypercore 10 left them, and what is left of damaged ones.

use super::super::oplog::{
    BadOplog, ENTRIES, External, Header, Oplog, Placed, SLOT, Slots, StoredTree, entry_record,
    next_header, read,
};
use super::*;

struct Recorded {
    name: String,
    oplog: Bytes,
    header: Bytes,
    vector: Value,
}

fn file(vector: &Value, name: &str) -> Bytes {
    let file = &vector["files"][name];
    let mut bytes = if file.is_null() { Vec::new() } else { buffer(&file["bytes"]) };
    bytes.resize(file["length"].as_u64().unwrap_or(0) as usize, 0);
    bytes.into()
}

fn recorded() -> Vec<Recorded> {
    let all = vectors("oplog");
    let cores = list(&all["cores"]).iter();
    let read = |vector: &Value| Recorded {
        name: vector["name"].as_str().unwrap().to_owned(),
        oplog: file(vector, "oplog"),
        header: file(vector, "header"),
        vector: vector.clone(),
    };
    cores.map(read).collect()
}

fn part_of(header: &Bytes, External { start, length }: External) -> Option<Bytes> {
    let end = start.checked_add(length)?.try_into().ok()?;
    let range = usize::try_from(start).ok()?..end;
    header.get(range.clone()).map(|_| header.slice(range))
}

impl Recorded {
    fn read(&self, oplog: &Bytes) -> Result<Option<Oplog>, BadOplog> {
        read(oplog, |place| part_of(&self.header, place))
    }

    fn read_whole(&self) -> Oplog {
        self.read(&self.oplog).unwrap().unwrap()
    }
}

/// The head and the blocks held that an oplog leads to, as far as it says it.
fn head(oplog: &Oplog) -> (u64, u64) {
    let last = oplog.entries.iter().rev().find_map(|(entry, _)| entry.upgrade.as_ref());
    let tree = &oplog.header.tree;
    last.map_or((tree.fork, tree.length), |upgraded| (upgraded.fork, upgraded.length))
}

#[test]
fn what_the_reference_wrote_is_read() {
    let named = recorded();
    assert_eq!(named.len(), 6);
    for recorded in &named {
        let Recorded { name, vector, .. } = recorded;
        let oplog = recorded.read_whole();
        assert_eq!(oplog.header.key, key(&vector["key"]), "{name}");
        let expected = (number(&vector["fork"]), number(&vector["length"]));
        assert_eq!(head(&oplog), expected, "{name}");
        assert_eq!(oplog.external != External::default(), name == "external");
        assert_eq!(oplog.entries.is_empty(), ["thrice", "empty"].contains(&&**name), "{name}");
        let manifest = oplog.header.manifest.clone();
        let verifier = Verifier::new(oplog.header.key, manifest).unwrap();
        assert!(verifier.manifest().is_none(), "without a store they are compat");
        assert!(oplog.header.key_pair.is_some());
    }
}

#[test]
fn user_data_in_entries_is_read() {
    let all = recorded();
    let entries = all[0].read_whole().entries;
    let pairs: Vec<_> = entries.iter().filter_map(|(entry, _)| entry.user_data.clone()).collect();
    let pair = |name: &str, value: &str| {
        (Bytes::copy_from_slice(name.as_bytes()), Bytes::copy_from_slice(value.as_bytes()))
    };
    let other = [pair("other", "gone"), pair("other", "")];
    assert!(pairs.ends_with(&other), "{pairs:?}");
}

/// A program that is killed while it appends leaves a part of the last entry.
#[test]
fn a_cut_oplog_has_the_entries_that_are_whole() {
    for recorded in recorded() {
        let whole = recorded.read_whole();
        for length in ENTRIES..recorded.oplog.len() {
            let cut = recorded.read(&recorded.oplog.slice(..length)).unwrap().unwrap();
            assert_eq!(cut.header, whole.header);
            assert!(whole.entries.starts_with(&cut.entries));
            assert!(cut.entries.len() < whole.entries.len());
        }
        for length in [0, 1, 7, 8, 12] {
            assert!(recorded.read(&recorded.oplog.slice(..length)).unwrap().is_none());
        }
    }
}

/// Of two headers one is read alone when the other is torn; entries with the other bit do not count then.
#[test]
fn a_torn_header_leaves_the_other() {
    for recorded in recorded() {
        let whole = recorded.read_whole();
        for torn in [0, SLOT] {
            let mut bytes = recorded.oplog.to_vec();
            bytes[torn + 20] ^= 1;
            match recorded.read(&bytes.into()) {
                Ok(Some(left)) => {
                    assert_eq!(left.header.key, whole.header.key);
                    let state = |read: &Oplog| (read.header.tree.fork, read.header.tree.length);
                    assert!(state(&left) <= state(&whole), "{}", recorded.name);
                }
                Err(BadOplog::NoHeader) => assert!(recorded.name == "empty" && torn == 0),
                other => panic!("{}: {other:?}", recorded.name),
            }
        }
    }
}

#[test]
fn no_damaged_byte_panics_or_changes_what_is_said() {
    for recorded in recorded() {
        let whole = recorded.read_whole();
        let length = recorded.oplog.len();
        for at in (0..length).filter(|at| recorded.oplog[*at] != 0 || at % 97 == 0) {
            let mut bytes = recorded.oplog.to_vec();
            bytes[at] ^= 1 << (at % 8);
            if let Ok(Some(read)) = recorded.read(&bytes.into()) {
                assert_eq!(read.header.key, whole.header.key, "{}: byte {at}", recorded.name);
            }
        }
        for at in 0..recorded.header.len() {
            let mut header = recorded.header.to_vec();
            header[at] ^= 1 << (at % 8);
            let header = Bytes::from(header);
            // No checksum covers this file; the signature does.
            let _ = read(&recorded.oplog, |place| part_of(&header, place));
        }
    }
}

/// The bytes are those of the reference, but for the number that is left to be counted.
#[test]
fn a_header_is_written_as_the_reference_writes_it() {
    // Of truncations we write nothing, and a long header has a number more.
    let other = ["external", "truncated"];
    for recorded in recorded().into_iter().filter(|recorded| !other.contains(&&*recorded.name)) {
        let oplog = recorded.read_whole();
        // Which slot is next does not matter here: the bit alone is different, and the checksum with it.
        let placed = next_header(&oplog.header, Slots::EMPTY, oplog.external);
        let Placed { record, external, .. } = placed;
        assert!(external.is_none());
        let found = [0, SLOT].iter().any(|at| recorded.oplog[at + 8..].starts_with(&record[8..]));
        assert!(found, "{}", recorded.name);
    }
}

#[test]
fn an_entry_is_written_as_the_reference_writes_it() {
    let mut entries = 0;
    for recorded in recorded() {
        let oplog = recorded.read_whole();
        let records = oplog.entries.iter().map(|(entry, _)| entry_record(entry, oplog.slots));
        let written: Vec<u8> = records.flatten().collect();
        assert_eq!(written.len() as u64, oplog.records.len() as u64, "{}", recorded.name);
        assert!(recorded.oplog[ENTRIES..].starts_with(&written), "{}", recorded.name);
        entries += oplog.entries.len();
    }
    assert!(entries > 5, "{entries}");
}

fn header(manifest: Option<Manifest>, length: u64) -> Header {
    let key = manifest.as_ref().map_or_else(|| PublicKey::new([1; 32]), Manifest::key);
    let tree = StoredTree {
        fork: 3,
        length,
        root_hash: Bytes::from_static(&[2; 32]),
        signature: Bytes::from_static(&[4; 64]),
    };
    Header { key, manifest, key_pair: None, user_data: Vec::new(), tree, contiguous: 0 }
}

/// A manifest that takes more than a slot.
fn long_manifest(seed: u8) -> Manifest {
    let signer =
        |number: u8| Signer { namespace: [number; 32], public_key: pair(seed).public_key() };
    Manifest {
        signers: (0..MAX_SIGNERS as u8).map(signer).collect(),
        ..Manifest::of_one_signer(pair(seed).public_key())
    }
}

proptest! {
    /// Header after header, short and long ones: each is read back while the ones before it are only overwritten
    /// after the next.
    #[test]
    fn headers_take_turns(long in prop::collection::vec(any::<bool>(), 1..12)) {
        let (mut oplog, mut file) = (vec![0; ENTRIES], Vec::new());
        let (mut slots, mut external) = (Slots::EMPTY, External::default());
        let mut before = None;
        for (number, long) in long.into_iter().enumerate() {
            let new = header(long.then(|| long_manifest(1)), number as u64);
            let placed = next_header(&new, slots, external);
            if let Some((place, bytes)) = &placed.external {
                let end = (place.start + place.length) as usize;
                file.resize(file.len().max(end), 0);
                file[place.start as usize..end].copy_from_slice(bytes);
            }
            let reads = |oplog: &[u8]| {
                let header = Bytes::copy_from_slice(&file);
                let read = read(&Bytes::copy_from_slice(oplog), |place| part_of(&header, place));
                read.unwrap().map(|oplog| oplog.header)
            };
            prop_assert_eq!(reads(&oplog), before, "the one before is still there");
            let at = placed.at as usize;
            oplog[at..at + placed.record.len()].copy_from_slice(&placed.record);
            prop_assert_eq!(reads(&oplog), Some(new.clone()));
            before = Some(new);
            slots = placed.slots;
            external = placed.external.map_or_else(External::default, |(place, _)| place);
        }
    }

    #[test]
    fn no_bytes_panic(bytes: Vec<u8>, at in 0..2 * SLOT) {
        let recorded = &recorded()[1];
        let mut oplog = recorded.oplog.to_vec();
        for (to, from) in oplog.iter_mut().skip(at).zip(bytes) {
            *to = from;
        }
        let _ = recorded.read(&oplog.into());
    }
}
