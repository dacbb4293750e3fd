//! Keeping a connection to an address that a caller named: dialling again with growing pauses.

use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use super::Inner;
use super::greeting::Kind;
use super::protocol::Needs;
use super::slot::{ConnectionEnd, ConnectionSlot, GivenUp};
use super::tcp::level;
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
/// How long a failed attempt waits for that of the other kind before it is trouble: as long as a handshake.
const SETTLED_WITHIN: Duration = Duration::from_secs(11);

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

impl Kind {
    fn is_needed(self, needs: Needs) -> bool {
        match self {
            Kind::Legacy => needs.protocol_8,
            Kind::SecretStream => needs.hyperswarm_4,
        }
    }
}

/// How one kind of connection to an address is getting on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Standing {
    phase: Phase,
    /// There was a connection of this kind before, so the address is a server of this kind.
    proven: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
    #[default]
    Trying,
    /// The peer has proved its key.
    Connected,
    Failed,
}

/// Runs until the swarm is closed or dropped, or no caller needs the connection. The address may be a server
/// of either kind, so both are tried at the same time, as far as they are needed.
pub(super) async fn keep_dialling(
    swarm: Weak<Inner>,
    address: String,
    needed: watch::Receiver<()>,
) {
    let standings =
        [Kind::Legacy, Kind::SecretStream].map(|_| watch::channel(Standing::default()).0);
    let [legacy, secret_stream] = &standings;
    let side = |kind, standing, other: &watch::Sender<Standing>| Side {
        swarm: Weak::clone(&swarm),
        address: &address,
        kind,
        standing,
        other: other.subscribe(),
        needed: needed.clone(),
        pause: FIRST_PAUSE,
    };
    tokio::join!(
        side(Kind::Legacy, legacy, secret_stream).keep(),
        side(Kind::SecretStream, secret_stream, legacy).keep(),
    );
    if needed.has_changed().is_err() {
        log::info!("peer {address}: not needed any more");
        if let Some(swarm) = swarm.upgrade() {
            swarm.state().troubles.remove(&address);
        }
    }
}

/// One kind of connection to an address.
struct Side<'a> {
    swarm: Weak<Inner>,
    address: &'a str,
    kind: Kind,
    standing: &'a watch::Sender<Standing>,
    /// The standing of the other kind.
    other: watch::Receiver<Standing>,
    needed: watch::Receiver<()>,
    /// Before the next attempt.
    pause: Duration,
}

impl Side<'_> {
    async fn keep(mut self) {
        let Some(mut closing) = self.swarm.upgrade().map(|swarm| swarm.closing.subscribe()) else {
            return;
        };
        let Some(mut needs) = self.swarm.upgrade().map(|swarm| swarm.needs.subscribe()) else {
            return;
        };
        loop {
            if !self.kind.is_needed(*needs.borrow()) {
                // The other kind does not wait for this one.
                self.is(Phase::Failed);
            }
            tokio::select! {
                needed = needs.wait_for(|needs| self.kind.is_needed(*needs)) => if needed.is_err() {
                    return;
                },
                () = unneeded(&mut self.needed) => return,
                () = super::wait_closed(&mut closing) => return,
            }
            let started = Instant::now();
            let Some(inner) = self.swarm.upgrade() else { return };
            self.is(Phase::Trying);
            let ended = tokio::select! {
                ended = self.attempt(inner) => ended,
                () = super::wait_closed(&mut closing) => return,
            };
            if self.needed.has_changed().is_err() {
                return;
            }
            let lasted = started.elapsed() >= LASTING;
            self.is(Phase::Failed);
            tokio::select! {
                () = settled(&mut self.other) => {}
                () = unneeded(&mut self.needed) => return,
                () = super::wait_closed(&mut closing) => return,
            }
            let Some(pause) = self.judge(ended, lasted) else { return };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = unneeded(&mut self.needed) => return,
                () = super::wait_closed(&mut closing) => return,
            }
        }
    }

    fn is(&self, phase: Phase) {
        self.standing.send_modify(|standing| {
            standing.phase = phase;
            standing.proven |= phase == Phase::Connected;
        });
    }

    /// A connection of this kind works: no trouble with the address is left.
    fn connected(&self, swarm: &Inner) {
        self.is(Phase::Connected);
        swarm.state().troubles.remove(self.address);
    }

    /// Notes why a connection or an attempt has ended, unless the other kind tells it; the pause before the
    /// next attempt. `None` if the swarm was dropped.
    fn judge(&mut self, ended: ConnectionEnd, lasted: bool) -> Option<Duration> {
        let ConnectionEnd { reason, lied } = ended;
        let (address, kind) = (self.address, self.kind);
        if lasted {
            self.pause = FIRST_PAUSE;
        }
        if lied {
            self.pause = self.pause.max(LIAR_PAUSE);
        }
        let other = *self.other.borrow();
        let is_other_kind = !self.standing.borrow().proven;
        if other.phase == Phase::Connected && is_other_kind && !lied {
            log::debug!(
                "peer {address}, tried as {kind}: {reason}; next attempt in {LONGEST_PAUSE:?}"
            );
            return Some(LONGEST_PAUSE);
        }
        let pause = self.pause;
        self.pause = (pause * 2).min(LONGEST_PAUSE);
        let needs = *self.swarm.upgrade()?.needs.borrow();
        if !lied && !self.reports(other, needs) {
            log::debug!("peer {address}, tried as {kind}: {reason}; next attempt in {pause:?}");
            return Some(pause);
        }
        log::log!(level(lied), "peer {address}: {reason}; next attempt in {pause:?}");
        self.swarm.upgrade()?.not_connected(address, reason);
        Some(pause)
    }

    /// Whether this kind tells that neither works: exactly one of those that are needed does.
    fn reports(&self, other: Standing, needs: Needs) -> bool {
        let own = *self.standing.borrow();
        match self.kind {
            _ if needs != Needs::BOTH => self.kind.is_needed(needs),
            Kind::Legacy => own.proven || !other.proven,
            Kind::SecretStream => own.proven && !other.proven,
        }
    }

    /// One connection from start to end: why it ended.
    async fn attempt(&self, swarm: Arc<Inner>) -> ConnectionEnd {
        let failed = |reason| ConnectionEnd { reason, lied: false };
        let resolved = timeout(CONNECT_WITHIN, tokio::net::lookup_host(self.address)).await;
        let candidates: Vec<_> = match resolved {
            Ok(Ok(candidates)) => candidates.collect(),
            Ok(Err(error)) => return failed(format!("cannot be resolved: {error}")),
            Err(_) => return failed(format!("not resolved within {CONNECT_WITHIN:?}")),
        };
        let mut failure = "has no address".to_owned();
        for candidate in candidates {
            match timeout(CONNECT_WITHIN, TcpStream::connect(candidate)).await {
                Ok(Ok(stream)) => return self.talk(&swarm, candidate, stream).await,
                Ok(Err(error)) => failure = format!("cannot connect: {error}"),
                Err(_) => failure = format!("did not answer within {CONNECT_WITHIN:?}"),
            }
        }
        failed(failure)
    }

    /// Runs a connection of this kind: why it ended.
    async fn talk(&self, swarm: &Arc<Inner>, at: SocketAddr, stream: TcpStream) -> ConnectionEnd {
        let mut needed = self.needed.clone();
        let opened = tokio::select! {
            opened = self.open(swarm, at, stream) => opened,
            () = unneeded(&mut needed) => Err("not needed any more".into()),
        };
        let (slot, stream) = match opened {
            Ok(opened) => opened,
            Err(reason) => return ConnectionEnd { reason, lied: false },
        };
        let handle = slot.handle.clone();
        let mut kept = handle.kept.subscribe();
        if self.kind == Kind::SecretStream {
            self.connected(swarm);
        }
        let running = slot.run(stream);
        tokio::pin!(running);
        let ended = loop {
            tokio::select! {
                ended = &mut running => break ended,
                changed = kept.changed() => if changed.is_ok() {
                    self.connected(swarm);
                },
                () = unneeded(&mut needed) => {
                    handle.end("not needed any more".into(), false);
                    break running.await;
                }
            }
        };
        if let (Some(GivenUp::Duplicate), Some(key)) =
            (handle.given_up.get(), handle.identity.get())
        {
            self.is(Phase::Failed);
            swarm.gone(key).await;
        }
        ended
    }

    /// The slot of a connection that was made, and its bytes.
    async fn open(
        &self,
        swarm: &Arc<Inner>,
        at: SocketAddr,
        stream: TcpStream,
    ) -> Result<(ConnectionSlot, Stream), String> {
        match self.kind {
            Kind::Legacy => {
                let slot = swarm.register(at, Transport::Tcp, FoundBy::Given);
                Ok((slot, Stream::Tcp(stream)))
            }
            Kind::SecretStream => {
                let dialled = swarm.dialled_encrypted(at, stream, FoundBy::Given).await;
                dialled.map_err(|error| error.to_string())
            }
        }
    }
}

/// Resolves when an attempt at the other kind has succeeded or failed, or takes too long.
async fn settled(other: &mut watch::Receiver<Standing>) {
    let settled = other.wait_for(|standing| standing.phase != Phase::Trying);
    let _ = timeout(SETTLED_WITHIN, settled).await;
}
