//! Keeping a connection to an address that a caller named: dialling again with growing pauses.

use std::sync::Weak;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::Instant;

use super::Inner;
use super::slot::{ConnectionEnd, GivenUp};
use super::transport::{FoundBy, Stream, Transport};

/// How long resolving a name and connecting may take, each.
pub(super) const CONNECT_WITHIN: Duration = Duration::from_secs(10);
/// Pause before the second attempt; doubled each time up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// First pause after a peer sent something that did not verify.
const LIAR_PAUSE: Duration = Duration::from_secs(2);
/// After a connection that lasted this long, the pause is the shortest again.
const LASTING: Duration = Duration::from_secs(30);

pub(super) fn level(lied: bool) -> log::Level {
    if lied { log::Level::Warn } else { log::Level::Info }
}

/// Keeps an address dialled until it is dropped; see [`Swarm::dial_while`](super::Swarm::dial_while).
#[derive(Debug)]
#[must_use = "the connection ends when this is dropped"]
pub struct Dialling {
    pub(super) _needed: watch::Sender<()>,
}

/// Returns when no caller needs the connection any more.
async fn unneeded(needed: &mut watch::Receiver<()>) {
    while needed.changed().await.is_ok() {}
}

/// Runs until the swarm is closed or dropped, or no caller needs the connection.
pub(super) async fn keep_dialling(
    swarm: Weak<Inner>,
    address: String,
    mut needed: watch::Receiver<()>,
) {
    let Some(mut closing) = swarm.upgrade().map(|swarm| swarm.closing.subscribe()) else { return };
    let mut pause = FIRST_PAUSE;
    loop {
        let started = Instant::now();
        let Some(inner) = swarm.upgrade() else { return };
        let ConnectionEnd { reason, lied } = tokio::select! {
            ending = attempt(inner, &address, needed.clone()) => ending,
            () = super::wait_closed(&mut closing) => return,
        };
        if needed.has_changed().is_err() {
            log::info!("peer {address}: not needed any more");
            if let Some(swarm) = swarm.upgrade() {
                swarm.state().troubles.remove(&address);
            }
            return;
        }
        if started.elapsed() >= LASTING {
            pause = FIRST_PAUSE;
        }
        if lied {
            pause = pause.max(LIAR_PAUSE);
        }
        log::log!(level(lied), "peer {address}: {reason}; next attempt in {pause:?}");
        match swarm.upgrade() {
            Some(swarm) => swarm.not_connected(&address, reason),
            None => return,
        };
        tokio::select! {
            _ = tokio::time::sleep(pause) => {}
            () = unneeded(&mut needed) => {}
            () = super::wait_closed(&mut closing) => return,
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// One connection from start to end: why it ended.
async fn attempt(
    swarm: std::sync::Arc<Inner>,
    address: &str,
    mut needed: watch::Receiver<()>,
) -> ConnectionEnd {
    let failed = |reason| ConnectionEnd { reason, lied: false };
    let resolved = tokio::time::timeout(CONNECT_WITHIN, tokio::net::lookup_host(address)).await;
    let candidates: Vec<_> = match resolved {
        Ok(Ok(candidates)) => candidates.collect(),
        Ok(Err(error)) => return failed(format!("cannot be resolved: {error}")),
        Err(_) => return failed(format!("not resolved within {CONNECT_WITHIN:?}")),
    };
    let mut failure = "has no address".to_owned();
    for candidate in candidates {
        match tokio::time::timeout(CONNECT_WITHIN, TcpStream::connect(candidate)).await {
            Ok(Ok(stream)) => {
                swarm.state().troubles.remove(address);
                let connection = swarm.register(candidate, Transport::Tcp, FoundBy::Given);
                let handle = connection.handle.clone();
                let running = connection.run(Stream::Tcp(stream));
                tokio::pin!(running);
                let ending = tokio::select! {
                    ending = &mut running => ending,
                    () = unneeded(&mut needed) => {
                        handle.end("not needed any more".into(), false);
                        running.await
                    }
                };
                if let (Some(GivenUp::Duplicate), Some(key)) =
                    (handle.given_up.get(), handle.identity.get())
                {
                    swarm.gone(key).await;
                }
                return ending;
            }
            Ok(Err(error)) => failure = format!("cannot connect: {error}"),
            Err(_) => failure = format!("did not answer within {CONNECT_WITHIN:?}"),
        }
    }
    failed(failure)
}
