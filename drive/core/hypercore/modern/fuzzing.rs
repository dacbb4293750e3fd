//! Fuzz targets of the decoders in this room. Compiled with `--cfg fuzzing` alone.

use bytes::{Bytes, BytesMut};

use super::super::merkle::{Signature, TreeNode};
use super::manifest::Manifest;
use super::oplog::{self, External};
use super::signature::Verifier;

/// A manifest, and after it the bytes of a signature: a decoded manifest must encode and decode to itself, and
/// no signature verifies.
pub(crate) fn manifest(input: &[u8]) {
    let mut bytes = Bytes::copy_from_slice(input);
    let Ok(manifest) = Manifest::decode(&mut bytes) else { return };
    let mut again = BytesMut::new();
    manifest.encode(&mut again);
    let decoded = Manifest::decode(&mut again.freeze()).expect("we wrote it");
    assert_eq!(decoded, manifest);
    let key = manifest.key();
    let _ = manifest.with_namespaces(|namespace| *namespace).map(|derived| derived.key());
    let verifier = Verifier::new(key, Some(manifest.clone())).expect("its own key");
    let roots = [TreeNode { index: 0, hash: [1; 32], size: 3 }];
    let signature = Signature::from(&bytes[..]);
    let is_fixed = manifest.prologue.is_some();
    assert!(!verifier.signed(&roots, 0, &signature) || is_fixed);
}

/// An oplog file, which is also taken for the file with long headers: what is read must be read again from the
/// header that is written next.
pub(crate) fn oplog(input: &[u8]) {
    let bytes = Bytes::copy_from_slice(input);
    let part = |file: &[u8], place: External| {
        let start = usize::try_from(place.start).ok()?;
        let end = start.checked_add(usize::try_from(place.length).ok()?)?;
        file.get(start..end).map(Bytes::copy_from_slice)
    };
    let Ok(Some(read)) = oplog::read(&bytes, |place| part(input, place)) else { return };
    let placed = oplog::next_header(&read.header, read.slots, read.external);
    let (mut file, mut long) = (input.to_vec(), Vec::new());
    file.resize(file.len().max(oplog::ENTRIES), 0);
    let at = usize::try_from(placed.at).expect("a slot");
    file[at..at + placed.record.len()].copy_from_slice(&placed.record);
    if let Some((place, header)) = placed.external {
        assert!(place.start == 0 || place.start >= read.external.start + read.external.length);
        // It may lie far behind: what is before it is left out here.
        long = header.to_vec();
    }
    let again = oplog::read(&Bytes::from(file), |place| {
        (place.length == long.len() as u64).then(|| Bytes::copy_from_slice(&long))
    });
    assert_eq!(again.expect("we wrote it").expect("a header").header, read.header);
}
