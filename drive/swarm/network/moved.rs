//! Connections of a machine that changed networks: their packets are lost without an error. Without
//! this module a reader would wait the 20 s after which a silent peer is given up.
//!
//! Not here: dialling again, which `dial` and `finding` do after every end.

use std::sync::Weak;
use std::time::Duration;

use super::discovery::NetworkLocation;
use super::interfaces::addresses;
use super::{ConnectionHandle, Inner, closed};

const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Runs until the swarm is closed or dropped.
pub(super) async fn run(swarm: Weak<Inner>) {
    let Some(mut closing) = swarm.upgrade().map(|swarm| swarm.closing.subscribe()) else { return };
    let mut before = NetworkLocation::now();
    loop {
        tokio::select! {
            () = tokio::time::sleep(LOOK_EVERY) => {}
            () = closed(&mut closing) => return,
        }
        let Some(swarm) = swarm.upgrade() else { return };
        let now = NetworkLocation::now();
        let slept = now.slept_since(&before);
        before = now;
        let connections: Vec<ConnectionHandle> =
            swarm.state().connections.values().cloned().collect();
        end_dead(&connections, slept);
    }
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
