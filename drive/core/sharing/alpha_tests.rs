//! Two stores that exchange cores of Hypercore 11 over TCP.

use bytes::Bytes;

use super::*;
use crate::wait::Wait;
use hypermount_swarm::crypto::KeyPair;

/// A reader of a core that another store writes.
struct Exchanged {
    writer: Core,
    copy: Core,
    _serving: Sharing,
    reading: Sharing,
}

fn blocks(range: std::ops::Range<u64>) -> Vec<Bytes> {
    range.map(|number| Bytes::from(vec![number as u8; (number as usize * 37) % 3000])).collect()
}

async fn exchanged(count: u64) -> Exchanged {
    let (from, to) = (Store::memory(), Store::memory());
    let writer = from.modern_core_with_pair(&KeyPair::from_seed(&[7; 32])).unwrap();
    writer.append(&blocks(0..count)).unwrap();
    let serving = Sharing::new(&from, SharingOptions::default()).unwrap();
    let address = serving.listen("127.0.0.1:0").await.unwrap();
    let reading = Sharing::new(&to, SharingOptions::default()).unwrap();
    let copy = to.core_of(writer.key(), Dialect::Modern).unwrap();
    reading.dial(&address.to_string());
    Exchanged { writer, copy, _serving: serving, reading }
}

async fn all_equal(exchanged: &Exchanged) {
    let Exchanged { writer, copy, .. } = exchanged;
    for block in 0..writer.head().length {
        let got = copy.get(block, Wait::Forever).await.unwrap();
        assert_eq!(Some(got), writer.get_local(block).unwrap(), "block {block}");
    }
    assert_eq!(copy.head(), writer.head());
}

#[tokio::test]
async fn every_block_of_a_core_is_read_and_what_is_appended_follows() {
    for count in [1, 2, 3, 7, 64, 100] {
        let exchanged = exchanged(count).await;
        all_equal(&exchanged).await;
        for more in [1, 5, 33] {
            let length = exchanged.writer.head().length;
            exchanged.writer.append(&blocks(length..length + more)).unwrap();
            exchanged.copy.longer_than(length, Wait::Forever).await.unwrap();
            all_equal(&exchanged).await;
        }
        let derived = |core: &Core| core.key_with_namespaces(|_| [1; 32]);
        assert!(derived(&exchanged.copy).is_some());
        assert_eq!(derived(&exchanged.copy), derived(&exchanged.writer));
    }
}

#[tokio::test]
async fn single_blocks_of_a_long_core_are_read_in_any_order() {
    let exchanged = exchanged(300).await;
    for block in [299, 0, 150, 151, 7, 298, 64, 63, 255, 256] {
        let got = exchanged.copy.get(block, Wait::Forever).await.unwrap();
        assert_eq!(got, blocks(block..block + 1)[0]);
    }
    assert_eq!(exchanged.copy.held(0..300), 10);
}

#[tokio::test]
async fn the_block_with_a_byte_is_found_without_those_before() {
    let exchanged = exchanged(300).await;
    let (mut offset, mut wanted) = (0, Vec::new());
    for (number, block) in blocks(0..300).iter().enumerate() {
        if number % 41 == 3 && !block.is_empty() {
            wanted.push((offset + block.len() as u64 / 2, number as u64));
        }
        offset += block.len() as u64;
    }
    exchanged.copy.longer_than(0, Wait::Forever).await.unwrap();
    for (byte, block) in wanted {
        let found = exchanged.copy.seek(byte, 0..300, 150, Wait::Forever).await.unwrap();
        assert_eq!(found.0, block, "byte {byte}");
    }
    assert!(exchanged.copy.held(0..300) < 100, "the way there, and no more");
}

#[tokio::test]
async fn a_seeder_gives_what_it_fetched_to_another_reader() {
    let first = exchanged(90).await;
    all_equal(&first).await;
    let address = first.reading.listen("127.0.0.1:0").await.unwrap();
    drop(first._serving);
    let to = Store::memory();
    let second = Sharing::new(&to, SharingOptions::default()).unwrap();
    let copy = to.core_of(first.writer.key(), Dialect::Modern).unwrap();
    second.dial(&address.to_string());
    for (block, bytes) in (0..).zip(blocks(0..90)) {
        assert_eq!(copy.get(block, Wait::Forever).await.unwrap(), bytes);
    }
}

/// What only a peer with an older version has is proven with nodes of a peer with a newer one.
#[tokio::test]
async fn blocks_of_a_shorter_peer_are_connected_by_a_longer_one() {
    let (from, old, to) = (Store::memory(), Store::memory(), Store::memory());
    let writer = from.modern_core_with_pair(&KeyPair::from_seed(&[8; 32])).unwrap();
    writer.append(&blocks(0..100)).unwrap();
    let serving = Sharing::new(&from, SharingOptions::default()).unwrap();
    let address = serving.listen("127.0.0.1:0").await.unwrap().to_string();
    let shorter = old.core_of(writer.key(), Dialect::Modern).unwrap();
    {
        let fetching = Sharing::new(&old, SharingOptions::default()).unwrap();
        fetching.dial(&address);
        for block in 0..100 {
            shorter.get(block, Wait::Forever).await.unwrap();
        }
        fetching.close();
    }
    let serving_old = Sharing::new(&old, SharingOptions::default()).unwrap();
    let address_old = serving_old.listen("127.0.0.1:0").await.unwrap().to_string();
    writer.append(&blocks(100..121)).unwrap();
    writer.clear(0..100).unwrap();
    let reading = Sharing::new(&to, SharingOptions::default()).unwrap();
    let copy = to.core_of(writer.key(), Dialect::Modern).unwrap();
    reading.dial(&address);
    copy.longer_than(120, Wait::Forever).await.unwrap();
    reading.dial(&address_old);
    let limit = Wait::Each(std::time::Duration::from_secs(20));
    for block in [97, 99, 3, 64] {
        let got = copy.get(block, limit).await.unwrap();
        assert_eq!(got, blocks(block..block + 1)[0], "block {block}");
    }
    assert_eq!(shorter.head().length, 100);
}
