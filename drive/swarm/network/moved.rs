//! Connections of a machine that changed networks: their packets are lost without an error. Without
//! this module a reader would wait the 20 s after which a silent peer is given up.
//!
//! Not here: dialling again, which `dial` and `finding` do after every end.

use std::sync::Weak;
use std::time::Duration;

use super::discovery::NetworkLocation;
use super::interfaces::addresses;
use super::{ConnectionHandle, Inner, wait_closed};

const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Runs until the swarm is closed or dropped.
pub(super) async fn run(swarm: Weak<Inner>) {
    let Some(mut closing) = swarm.upgrade().map(|swarm| swarm.closing.subscribe()) else { return };
    let mut before = NetworkLocation::now();
    loop {
        tokio::select! {
            () = tokio::time::sleep(LOOK_EVERY) => {}
            () = wait_closed(&mut closing) => return,
        }
        let Some(swarm) = swarm.upgrade() else { return };
        let now = NetworkLocation::now();
        look(&swarm, &before, &now);
        before = now;
    }
}

/// Ends the connections that cannot have outlived what happened between two looks.
fn look(swarm: &Inner, before: &NetworkLocation, now: &NetworkLocation) {
    let connections: Vec<ConnectionHandle> = swarm.state().connections.values().cloned().collect();
    end_dead(&connections, now.slept_since(before));
}

fn end_dead(connections: &[ConnectionHandle], slept: bool) {
    if connections.is_empty() {
        return;
    }
    let here = addresses();
    for connection in connections {
        if slept {
            // Longer than any peer keeps a silent connection.
            connection.end("this machine slept".into(), false);
        } else if let Some(local) = connection.local.get()
            && !here.is_empty()
            && !here.contains(local)
        {
            connection.end(format!("{local}, where it went out from, is not here any more"), false);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::time::Instant;

    use super::super::Swarm;
    use super::super::testing::introducing;
    use super::*;

    /// The number of the client's only connection, once its channel is open.
    async fn connected(client: &Swarm, unlike: Option<u64>) -> u64 {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let id = client.inner.state().connections.keys().next().copied();
            let is_open = client.peers().first().is_some_and(|peer| peer.cores == 1);
            if let Some(id) = id.filter(|id| is_open && Some(*id) != unlike) {
                return id;
            }
            assert!(Instant::now() < deadline, "not connected");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Sentence 105, for a sleep.
    #[tokio::test]
    async fn after_a_sleep_every_connection_ends_and_its_peer_is_dialled_again() {
        let (server, client) = (introducing(), introducing());
        let address = server.listen((Ipv4Addr::LOCALHOST, 0)).await.expect("a socket");
        client.dial(&address.to_string());
        let first = connected(&client, None).await;
        let before = NetworkLocation::now();
        let after = |seconds| NetworkLocation::now().after_a_sleep_of(Duration::from_secs(seconds));
        let handle = client.inner.state().connections[&first].clone();
        look(&client.inner, &before, &after(29));
        assert!(!handle.is_ending());
        look(&client.inner, &before, &after(31));
        assert!(handle.is_ending());
        connected(&client, Some(first)).await;
        client.close();
        server.close();
    }
}
