//! The task that drives one core's [`Replicator`]: events from connections and demand in, its
//! actions carried out. All judgement is in the replicator; all waiting is here.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};
use tokio::time::Instant;

use super::terms::Terms;
use super::{Command, Connected, Holding};
use crate::hypercore::{Core, CoreEvent, Dialect, HANDLES_OF_REPLICATOR};
use crate::replicate::{Action, Event, PeerId, Replicator, judge};
use hypermount_swarm::rate::RateLimit;
use hypermount_swarm::{wait_closed, wait_until};

/// Events of all connections that may wait for one core's task; senders wait beyond it.
const INBOX: usize = 256;
/// Block bytes among them, in KiB: bounds memory however large the blocks are.
const INBOX_KIBIBYTES: usize = 4 * 1024;
/// Peers are asked again what they hold after this long.
const ASK_AGAIN: Duration = Duration::from_millis(500);
/// Questions of what peers hold that may wait.
const QUESTIONS: usize = 16;
/// Events handled together: enough for their blocks to be hashed several at a time.
const BATCH: usize = 16;

/// An event, and its share of the inbox's memory until it is handled.
pub(super) struct Delivery {
    event: Event,
    share: Option<OwnedSemaphorePermit>,
    /// With [`Event::Opened`]: where what is sent to the peer goes.
    connected: Option<Connected>,
}

/// How connections reach a core's task.
#[derive(Clone)]
pub(super) struct Replication {
    inbox: mpsc::Sender<Delivery>,
    memory: Arc<Semaphore>,
    questions: mpsc::Sender<oneshot::Sender<Vec<Holding>>>,
    stop: Arc<Notify>,
    terms: Arc<Terms>,
}

impl Replication {
    /// On what terms blocks of the core are given away.
    pub(crate) fn terms(&self) -> &Terms {
        &self.terms
    }

    /// What the peers say they hold; nothing once the task has ended.
    pub(super) async fn holdings(&self) -> Vec<Holding> {
        let (sender, answer) = oneshot::channel();
        if self.questions.send(sender).await.is_err() {
            return Vec::new();
        }
        answer.await.unwrap_or_default()
    }

    /// Ends the task: the core is closed.
    pub(super) fn stop(&self) {
        self.stop.notify_one();
    }

    /// Hands over an event that carries `bytes` of block data; waits while the inbox is full.
    pub(super) async fn deliver(&self, event: Event, bytes: usize) {
        let share = if bytes == 0 {
            None
        } else {
            let kibibytes = bytes.div_ceil(1024).min(INBOX_KIBIBYTES) as u32;
            Arc::clone(&self.memory).acquire_many_owned(kibibytes).await.ok()
        };
        // It fails only when the task has ended, with the swarm.
        let _ = self.inbox.send(Delivery { event, share, connected: None }).await;
    }

    /// Hands over [`Event::Opened`], and where what is sent to that peer goes.
    pub(super) async fn open(&self, event: Event, connected: Connected) {
        let connected = Some(connected);
        let _ = self.inbox.send(Delivery { event, share: None, connected }).await;
    }

    /// Hands over an event that may as well be lost, and is while the inbox is full.
    pub(super) fn tell(&self, event: Event) {
        let _ = self.inbox.try_send(Delivery { event, share: None, connected: None });
    }
}

pub(super) fn spawn(
    runtime: &Handle,
    core: Core,
    closing: watch::Receiver<bool>,
    limit: RateLimit,
    terms: Terms,
) -> Replication {
    let (sender, inbox) = mpsc::channel(INBOX);
    let (questions, asked) = mpsc::channel(QUESTIONS);
    let stop = Arc::new(Notify::new());
    let task = run(core, inbox, asked, closing, limit);
    let stopped = Arc::clone(&stop);
    runtime.spawn(async move {
        tokio::select! {
            () = task => {}
            () = stopped.notified() => {}
        }
    });
    let memory = Arc::new(Semaphore::new(INBOX_KIBIBYTES));
    Replication { inbox: sender, questions, memory, stop, terms: Arc::new(terms) }
}

async fn run(
    core: Core,
    mut inbox: mpsc::Receiver<Delivery>,
    mut asked: mpsc::Receiver<oneshot::Sender<Vec<Holding>>>,
    mut closing: watch::Receiver<bool>,
    limit: RateLimit,
) {
    let _turn = core.drive().await;
    core.demand().tell_again();
    let mut replicator = Replicator::new(core.clone(), Instant::now());
    let _given = core.given_by(HANDLES_OF_REPLICATOR);
    replicator.step(Event::Limited { limit }, Instant::now());
    let mut local = core.events();
    core.settle_later();
    let mut asked_last: Option<Instant> = None;
    let mut batch = Vec::with_capacity(BATCH);
    let mut connections = HashMap::new();
    loop {
        let check = replicator.next_check();
        tokio::select! {
            received = inbox.recv_many(&mut batch, BATCH) => {
                if received == 0 {
                    return;
                }
            }
            () = core.demand().changed() => {}
            Some(answer) = asked.recv() => {
                let holdings = replicator.holdings().into_iter();
                let holdings = holdings.map(|(peer, blocks)| Holding { peer: peer.0, blocks });
                // The receiver may have been dropped.
                let _ = answer.send(holdings.collect());
                if asked_last.is_none_or(|last| last.elapsed() >= ASK_AGAIN) {
                    asked_last = Some(Instant::now());
                    replicator.ask_what_is_held();
                }
            }
            event = local.recv() => match event {
                Ok(CoreEvent::Appended { start, length }) => {
                    replicator.step(Event::Appended { start, length }, Instant::now());
                }
                Ok(CoreEvent::Cleared { start, length }) => {
                    replicator.step(Event::Cleared { start, length }, Instant::now());
                }
                // Peers missed some announcements; they ask again with their next Want.
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return,
            },
            () = wait_until(check) => replicator.step(Event::Tick, Instant::now()),
            () = wait_closed(&mut closing) => return,
        }
        // The shares of the inbox's memory are held until the blocks are stored.
        let shares: Vec<_> = batch
            .drain(..)
            .map(|Delivery { event, share, connected }| {
                match (&event, connected) {
                    (Event::Opened { peer, .. }, Some(connected)) => {
                        connections.insert(*peer, connected);
                    }
                    (Event::Closed { peer }, _) => drop(connections.remove(peer)),
                    _ => {}
                }
                replicator.step(event, Instant::now());
                share
            })
            .collect();
        let changes = core.demand().take_changes();
        if !changes.is_empty() {
            replicator.demand(changes, Instant::now());
        }
        carry_out(&connections, &core, &mut replicator);
        drop(shares);
    }
}

/// Performs all pending actions. What a connection that has ended was to be told is dropped.
fn carry_out(connections: &HashMap<PeerId, Connected>, core: &Core, replicator: &mut Replicator) {
    loop {
        let mut submitted = Vec::new();
        while let Some(action) = replicator.next_action() {
            match action {
                Action::Accept(proof) => submitted.push(proof),
                Action::Send { peer, message } => {
                    if let Some(connection) = connections.get(&peer) {
                        connection.command(Command::Send(*core.discovery_key(), message));
                    }
                }
                Action::Disconnect { peer, reason, lied } => {
                    if let Some(connection) = connections.get(&peer) {
                        let reason = format!("core {}: {reason}", core.discovery_key());
                        connection.handle.end(reason, lied);
                    }
                }
                Action::Demand(telling) => telling.apply(core.demand()),
                // Protocol 8 has no request for it.
                Action::AskForHistory { peer } if core.dialect() == Dialect::Modern => {
                    if let Some(connection) = connections.get(&peer) {
                        connection.command(Command::AskForHistory(*core.discovery_key()));
                    }
                }
                Action::ProveHistory if core.dialect() == Dialect::Modern => {
                    for connection in connections.values() {
                        connection.command(Command::ProveHistory(*core.discovery_key()));
                    }
                }
                Action::AskForHistory { .. } | Action::ProveHistory => {}
                // In Hypercore 9 the blocks that are announced tell the length.
                Action::Grown if core.dialect() == Dialect::Modern => {
                    for connection in connections.values() {
                        connection.command(Command::Grown(*core.discovery_key()));
                    }
                }
                Action::Grown => {}
            }
        }
        if submitted.is_empty() {
            return;
        }
        for judged in judge(core, submitted) {
            replicator.step(judged, Instant::now());
        }
    }
}
