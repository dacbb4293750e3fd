//! The daemon: one process per store that has its mounts, its seeds and its network, and answers
//! requests on a Unix socket. It is started by the first command that needs it, and ends when it has
//! nothing left to do, unless it was told to stay.
//!
//! Not here: what the commands print (`commands/`), and how they reach it (`client.rs`).

mod api;
mod events;
mod host;
mod life;
mod metrics;
pub mod model;
mod mounts;
mod openapi;
pub mod presence;
mod rates;
mod report;
mod seeds;
pub mod state;

use std::path::{Path, PathBuf};
use std::process;
use std::sync::Arc;
use std::time::Duration;

use axum::serve::Listener;
use tokio::net::{UnixListener, UnixStream, unix};

pub use host::ONLY;

use crate::background;
use crate::commands::{Ending, runtime};
use crate::config;
use crate::failure::{Failure, Result};
use crate::network::Network;
use crate::record::Held;
use crate::session::open_at;
use host::{Host, Parts};
use hypermount_swarm::sync::Mutex;
use life::Life;
use presence::{Presence, Present};
use state::State;

/// How long a daemon that was started for a request waits for it.
const FIRST_REQUEST: Duration = Duration::from_secs(30);
/// How long answers under way get when the daemon ends.
const LAST_ANSWERS: Duration = Duration::from_secs(2);
/// How long tasks get to end after that; they hold the store until then.
const SHUTDOWN_LIMIT: Duration = Duration::from_secs(5);
/// Pause of the accept loop after a failure such as running out of descriptors.
const ACCEPT_RETRY: Duration = Duration::from_millis(200);

/// How to run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Directory of the store, absolute.
    pub store: PathBuf,
    /// Make the store if there is none.
    pub create: bool,
    /// Stay when there is nothing left to do.
    pub keep: bool,
    /// Started by another command, which waits for a report on the pipe that is stdout.
    pub detached: bool,
}

/// What must outlive the store: who sees it gone finds the store free.
#[derive(Default)]
struct Kept {
    presence: Option<Present>,
    records: Arc<Mutex<Vec<Held>>>,
}

/// Runs to the end.
pub fn run(options: &Options) -> Result {
    let runtime = runtime()?;
    let mut kept = Kept::default();
    let result = runtime.block_on(serve(options, &mut kept));
    runtime.shutdown_timeout(SHUTDOWN_LIMIT);
    drop(kept);
    result
}

async fn serve(options: &Options, kept: &mut Kept) -> Result {
    let mut ending = Ending::new()?;
    let store = open_at(&options.store, options.create)?;
    let directory = presence::real(&options.store);
    let socket = presence::socket_path(&directory)?;
    let log = if options.detached { Some(state::log_path(&directory)?) } else { None };
    let version = env!("CARGO_PKG_VERSION").to_owned();
    let presence = Presence { pid: process::id(), socket: socket.clone(), version };
    let listener = presence::bind(&socket)?;
    kept.presence = Some(presence.take(&directory)?);
    let life = Life::new(options.keep);
    let host = Host::new(Parts {
        network: Network::for_choosing(&store)?,
        state: State::load(&directory)?,
        state_directory: config::records_directory()?,
        last_records: kept.records.clone(),
        store,
        directory,
        socket: socket.clone(),
        log,
        life: life.clone(),
    });
    host.restore_mounts();
    host.restore_seeds().await;
    tokio::spawn(report::watch(Arc::downgrade(&host)));
    let server = axum::serve(OwnUser(listener), api::router(host.clone()));
    let (stopping, stopped) = (life.clone(), life.clone());
    let server = server.with_graceful_shutdown(async move { stopping.ended().await });
    let serving = tokio::spawn(server.into_future());
    log::info!("hypermount {} serves {}", presence.version, host.directory.display());
    if options.detached {
        background::report_ready(&presence)?;
    } else {
        eprintln!("ready at {}", socket.display());
    }
    tokio::select! {
        () = ending.wait() => {}
        () = stopped.ended() => {}
        () = unneeded(&host, &life) => {}
    }
    // From here on nobody finds it: who comes now waits until the presence is gone.
    let _ = std::fs::remove_file(&socket);
    life.end();
    if tokio::time::timeout(LAST_ANSWERS, serving).await.is_err() {
        log::info!("ended with requests under way");
    }
    let unmounting = host.clone();
    let unmounted = tokio::task::spawn_blocking(move || unmounting.unmount_all()).await;
    host.network.close();
    log::info!("ended: {}", host.network.traffic());
    unmounted.map_err(|error| Failure::failed("unmount", error))
}

/// Resolves when there is nothing left to do.
async fn unneeded(host: &Arc<Host>, life: &Life) {
    // Whoever started it is about to ask something.
    let mut first = !host.is_needed();
    loop {
        if first {
            first = false;
            let _ = tokio::time::timeout(FIRST_REQUEST, life.changed()).await;
        }
        if host.is_needed() {
            // Then these were not the last ones, and who waits for them need not wait longer.
            host::lock(&host.last_records).clear();
        } else if life.close_unless(|| host.is_needed()) {
            return;
        }
        life.changed().await;
    }
}

/// Takes connections of this user and of root. The permissions of the socket say the same; this also
/// holds where they are not looked at.
struct OwnUser(UnixListener);

impl Listener for OwnUser {
    type Io = UnixStream;
    type Addr = unix::SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            match self.0.accept().await {
                Ok((stream, address)) if is_allowed(&stream) => return (stream, address),
                Ok(_) => log::warn!("another user's connection to the daemon was refused"),
                Err(error) => {
                    log::warn!("cannot accept requests: {error}");
                    tokio::time::sleep(ACCEPT_RETRY).await;
                }
            }
        }
    }

    fn local_addr(&self) -> std::io::Result<Self::Addr> {
        self.0.local_addr()
    }
}

/// Whether the other end belongs to this user or to root.
pub fn is_allowed(stream: &UnixStream) -> bool {
    let own = nix::unistd::geteuid().as_raw();
    stream.peer_cred().is_ok_and(|peer| may_ask(peer.uid(), own))
}

fn may_ask(peer: u32, own: u32) -> bool {
    peer == own || peer == 0
}

/// Starts a daemon for the store in the background; returns when it answers.
pub fn start(store: &Path, create: bool, keep: bool) -> Result<Presence> {
    let log = state::log_path(store)?;
    let mut arguments: Vec<std::ffi::OsString> =
        vec!["daemon".into(), "run".into(), "--store".into(), store.into()];
    if create {
        arguments.push("--create".into());
    }
    if !keep {
        arguments.push("--while-needed".into());
    }
    background::start(&arguments, &log, Some(FIRST_REQUEST))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_own_user_and_root_may_ask() {
        assert!(may_ask(1000, 1000) && may_ask(0, 1000));
        assert!(!may_ask(1001, 1000) && !may_ask(1001, 0));
    }

    /// `docs/openapi.json` is what the server answers at `/openapi.json`. To write it anew:
    /// `HYPERMOUNT_WRITE_OPENAPI=1 cargo test the_description`.
    #[test]
    fn the_description_in_the_documents_is_the_servers() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/openapi.json");
        let text = format!(
            "{}\n",
            serde_json::to_string_pretty(&openapi::document(&api::routes())).unwrap()
        );
        if std::env::var_os("HYPERMOUNT_WRITE_OPENAPI").is_some() {
            std::fs::write(path, &text).unwrap();
        }
        assert_eq!(std::fs::read_to_string(path).unwrap(), text);
    }
}
