//! Limits between two swarms on real sockets: never faster than said, and lifted while in force.

use std::time::Duration;

use super::*;
use crate::wait::Wait;
use hypermount_swarm::crypto::PublicKey;

/// Bytes per second.
const LIMIT: u64 = 400_000;
const BLOCK: usize = 50_000;
const BLOCKS: u64 = 20;

struct Pair {
    serving: Sharing,
    reading: Sharing,
    copy: Core,
}

async fn pair() -> Pair {
    let (from, to) = (Store::memory(), Store::memory());
    let core = from.core_named(b"limited").unwrap();
    let blocks: Vec<_> = (0..BLOCKS).map(|n| bytes::Bytes::from(vec![n as u8; BLOCK])).collect();
    core.append(&blocks).unwrap();
    let serving = Sharing::new(&from, SharingOptions::default()).unwrap();
    let address = serving.listen("127.0.0.1:0").await.unwrap();
    let reading = Sharing::new(&to, SharingOptions::default()).unwrap();
    let copy = to.core(core.key()).unwrap();
    reading.dial(&address.to_string());
    // One block first: the connection stands.
    copy.get(0, Wait::Forever).await.unwrap();
    Pair { serving, reading, copy }
}

impl Pair {
    async fn fetch(&self, blocks: std::ops::Range<u64>) -> Duration {
        let start = std::time::Instant::now();
        for block in blocks {
            assert_eq!(self.copy.get(block, Wait::Forever).await.unwrap().len(), BLOCK);
        }
        start.elapsed()
    }

    /// Half of it under a limit cannot come sooner than the limit says; the rest, once it is lifted,
    /// must come although what was asked for last is still being waited for.
    async fn limited(self, set: impl Fn(&Self, RateLimit)) {
        set(&self, Some(LIMIT));
        let took = self.fetch(1..BLOCKS / 2).await;
        let bytes = (BLOCKS / 2 - 1) * BLOCK as u64;
        // Less what may flow at once, on both ends.
        let least = (bytes - 4 * BLOCK as u64) as f64 / LIMIT as f64;
        assert!(took.as_secs_f64() >= least, "{took:?} for {bytes} bytes");
        set(&self, Some(1));
        let rest = self.fetch(BLOCKS / 2..BLOCKS);
        let lift = async {
            tokio::task::yield_now().await;
            set(&self, None);
        };
        tokio::join!(rest, lift);
    }
}

#[tokio::test]
async fn receiving_is_rate_limited() {
    pair().await.limited(|pair, limit| pair.reading.rates().down.set(limit)).await;
}

#[tokio::test]
async fn sending_is_rate_limited() {
    pair().await.limited(|pair, limit| pair.serving.rates().up.set(limit)).await;
}

#[tokio::test]
async fn receiving_one_core_is_rate_limited() {
    let set = |pair: &Pair, limit| pair.reading.limit(pair.copy.discovery_key(), None, limit);
    pair().await.limited(set).await;
}

#[tokio::test]
async fn sending_one_core_is_rate_limited() {
    let set = |pair: &Pair, limit| pair.serving.limit(pair.copy.discovery_key(), limit, None);
    pair().await.limited(set).await;
}

/// Seeding comes last: what it has used up for minutes does not keep our own requests.
#[tokio::test]
async fn a_used_up_upload_limit_does_not_delay_own_requests() {
    let pair = pair().await;
    let up = &pair.reading.rates().up;
    up.set(Some(1000));
    up.spend(1_000_000);
    let wait = Wait::within(Duration::from_secs(60));
    for block in 1..BLOCKS {
        assert_eq!(pair.copy.get(block, wait).await.unwrap().len(), BLOCK);
    }
    assert!(up.ready_at().is_some(), "that is still so");
}

#[tokio::test]
async fn drives_that_are_not_looked_for_are_limited() {
    let swarm = Sharing::new(&Store::memory(), SharingOptions::default()).unwrap();
    let topic = |number: usize| {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&number.to_be_bytes());
        DiscoveryKey::new(key)
    };
    for number in 0..MAX_WITHOUT_LOOKUP {
        swarm.set_lookup_on_open(topic(number), false).unwrap();
    }
    swarm.set_lookup_on_open(topic(0), false).unwrap();
    assert!(swarm.set_lookup_on_open(topic(MAX_WITHOUT_LOOKUP), false).is_err());
    swarm.set_lookup_on_open(topic(0), true).unwrap();
    swarm.set_lookup_on_open(topic(MAX_WITHOUT_LOOKUP), false).unwrap();
}

/// Cores not in use are closed with their replicators, and one that is opened again is fetched.
#[tokio::test]
async fn unused_cores_are_closed_with_their_replicators_and_can_be_opened_again() {
    let directory = tempfile::tempdir().unwrap();
    let (from, to) = (Store::memory(), Store::open(directory.path(), true).unwrap());
    let serving = Sharing::new(&from, SharingOptions::default()).unwrap();
    let address = serving.listen("127.0.0.1:0").await.unwrap();
    let reading = Sharing::new(&to, SharingOptions::default()).unwrap();
    let _dialled = reading.dial_while(&address.to_string());
    let wait = Wait::within(Duration::from_secs(60));
    let mut keys = Vec::new();
    for number in 0..2 * crate::store::MAX_OPEN_CORES {
        let core = from.core_named(format!("core {number}").as_bytes()).unwrap();
        core.append(&[bytes::Bytes::from(vec![number as u8; 9]), bytes::Bytes::new()]).unwrap();
        let copy = to.core(core.key()).unwrap();
        assert_eq!(copy.get(0, wait).await.unwrap()[..], [number as u8; 9]);
        keys.push(*core.key());
    }
    // The peer holds channels of all of them: those are what the second limit is for.
    serving.close();
    let emptied = async {
        while reading.peers().iter().any(|peer| peer.cores > 0) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), emptied).await.unwrap();
    let used = to.core(&keys[0]).unwrap();
    let _another = to.core(&PublicKey::new([9; 32])).unwrap();
    let closed = async {
        while reading.inner.state().replications.len() > crate::store::MAX_OPEN_CORES {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), closed).await.unwrap();
    assert!(to.cores().len() <= crate::store::MAX_OPEN_CORES, "{}", to.cores().len());
    let serving = Sharing::new(&from, SharingOptions::default()).unwrap();
    let address = serving.listen("127.0.0.1:0").await.unwrap();
    let _dialled = reading.dial_while(&address.to_string());
    for core in [used, to.core(&keys[1]).unwrap()] {
        assert_eq!(core.get(1, wait).await.unwrap().len(), 0, "fetched after it was opened again");
    }
}

#[tokio::test]
async fn a_core_with_blocks_is_not_given_up() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path(), true).unwrap();
    let other = Store::memory().core_named(b"there").unwrap();
    other.append(&[bytes::Bytes::from_static(b"block")]).unwrap();
    let copy = store.core(other.key()).unwrap();
    copy.accept(other.prove(0, 0, false, &mut Default::default()).unwrap()).unwrap();
    store.give_up(copy);
    assert!(store.has_open(&other.name()));
}
