//! Two processes that dial each other and share a core keep one connection.

use std::time::Duration;

use hypermount_swarm::crypto::KeyPair;

use super::*;

#[tokio::test]
async fn of_two_connections_to_a_peer_one_is_kept() {
    let key = KeyPair::from_seed(&[3; 32]).public_key();
    let mut both = Vec::new();
    for _ in 0..2 {
        let store = Store::memory();
        store.core(&key).unwrap();
        let sharing = Sharing::new(&store, SharingOptions::default()).unwrap();
        let address = sharing.listen("127.0.0.1:0").await.unwrap();
        both.push((sharing, address));
    }
    both[0].0.dial(&both[1].1.to_string());
    both[1].0.dial(&both[0].1.to_string());
    let settled = async {
        loop {
            let peers: Vec<Vec<PeerInfo>> = both.iter().map(|(one, _)| one.peers()).collect();
            let one = peers.iter().all(|peers| peers.len() == 1 && peers[0].cores == 1);
            if one && peers[0][0].incoming != peers[1][0].incoming {
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let in_time = tokio::time::timeout(Duration::from_secs(30), settled).await;
    let peers: Vec<Vec<PeerInfo>> = both.iter().map(|(one, _)| one.peers()).collect();
    in_time.unwrap_or_else(|_| panic!("more than one connection: {peers:#?}"));
}
