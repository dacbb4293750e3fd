//! Reads that wait for a peer. Time is tokio's, paused: nothing here sleeps.

use std::time::Duration;

use super::super::demand::Change;
use super::super::demand::PeerSummary;
use super::*;
use crate::wait::Wait;

fn paused(test: impl Future<Output = ()>) {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.unwrap().block_on(test);
}

#[test]
fn get_waits_for_the_block() {
    paused(async {
        let from = source(&uneven(5));
        let to = reader(&World::default());
        let get = to.get(3, Wait::within(Duration::from_secs(10)));
        let deliver = async {
            to.demand().changed().await;
            send(&from, &to, 3, &mut RemoteTree::default()).unwrap();
        };
        let (got, ()) = tokio::join!(get, deliver);
        assert_eq!(got.unwrap(), from.get_local(3).unwrap().unwrap());
        assert!(to.demand().wanted().is_empty());
    });
}

#[test]
fn a_wait_ends_and_says_why() {
    paused(async {
        let core = reader(&World::default());
        let started = tokio::time::Instant::now();
        let error = core.get(7, Wait::within(Duration::from_secs(10))).await.unwrap_err();
        assert_eq!(started.elapsed().as_secs(), 10);
        assert!(error.to_string().ends_with("after 10s: no peer connected"), "{error}");
        core.demand().set_peer_summary(PeerSummary {
            fork: None,
            peers: 3,
            last_trouble: Some("request timed out".to_owned()),
            remote_length: 9,
            later_fork: false,
            near: false,
        });
        let error = core.longer_than(0, Wait::Each(Duration::from_secs(2))).await.unwrap_err();
        assert!(matches!(error, Error::Unavailable { .. }));
        let text = error.to_string();
        assert!(text.contains("3 peers connected, none delivered it; last trouble: request"));
        let error = core.seek(5, 0..4, 2, Wait::within(Duration::from_secs(1))).await;
        assert!(matches!(error, Err(Error::Unavailable { block: 2, .. })));
        let started = tokio::time::Instant::now();
        assert!(core.get(7, Wait::Local).await.is_err());
        assert!(core.seek(5, 0..4, 2, Wait::Local).await.is_err());
        assert!(core.longer_than(0, Wait::Local).await.is_err());
        assert!(started.elapsed().is_zero());
        assert!(core.demand().wanted().is_empty());
    });
}

/// Of a core of Hypercore 10 and 11, of which a peer tells its length: also that it is 0.
#[test]
fn a_wait_for_a_core_without_a_block_says_so() {
    paused(async {
        let key = Dialect::Modern.key_of(&pair());
        let core = super::modern::open_modern(&World::default(), key, None, true).unwrap();
        core.demand().set_peer_summary(PeerSummary { peers: 2, ..PeerSummary::default() });
        let error = core.get(0, Wait::within(Duration::from_secs(10))).await.unwrap_err();
        let why = "no connected peer says that it has a block of it: nothing was put into it yet";
        assert!(error.to_string().contains(why), "{error}");
    });
}

#[test]
fn seek_asks_until_the_tree_tells() {
    paused(async {
        let from = source(&(0..16).map(|_| block("0123456789")).collect::<Vec<_>>());
        let to = reader(&World::default());
        let seek = to.seek(57, 2..9, 3, Wait::within(Duration::from_secs(10)));
        let deliver = async {
            to.demand().changed().await;
            let asked = Change::Seek { byte: 57, blocks: 2..9, guess: 3 };
            assert_eq!(to.demand().take_changes(), [asked]);
            for at in [15, 0, 5] {
                send(&from, &to, at, &mut RemoteTree::default()).unwrap();
                tokio::task::yield_now().await;
            }
        };
        let (found, ()) = tokio::join!(seek, deliver);
        assert_eq!(found.unwrap(), (5, 7));
        // Asked for once, however often the tree changed, and given up once.
        assert_eq!(to.demand().take_changes(), [Change::Unseek { byte: 57 }]);
    });
}

#[test]
fn longer_than_resolves_with_the_upgrade() {
    paused(async {
        let from = source(&uneven(5));
        let to = reader(&World::default());
        let longer = to.longer_than(0, Wait::within(Duration::from_secs(10)));
        let deliver = async {
            to.demand().changed().await;
            let proof = from.prove(4, to.digest(4), true, &mut RemoteTree::default()).unwrap();
            to.accept(proof).unwrap();
        };
        let (head, ()) = tokio::join!(longer, deliver);
        assert_eq!(head.unwrap(), from.head());
    });
}

/// Claims follow by themselves once a runtime is there to write them.
#[test]
fn claims_are_written_after_the_delay() {
    paused(async {
        let world = World::default();
        let core = writer(&world);
        core.append(&uneven(1)).unwrap();
        core.append(&vec![block("x"); 1000]).unwrap();
        let claimed =
            || world.file("bitfield").bytes()[32..].iter().map(|b| b.count_ones()).sum::<u32>();
        assert!(claimed() < 50);
        tokio::time::sleep(super::super::claims::CLAIM_DELAY * 2).await;
        // The write itself happens on another thread; taking its lock waits for it.
        core.flush().unwrap();
        assert!(claimed() > 3000);
    });
}
