//! The daemon: one process per store that has its mounts, its seeds and its network, and answers
//! requests on a Unix socket. It is started by the first command that needs it, and ends when it has
//! nothing left to do, unless it was told to stay. A mount in the foreground is the same host in the
//! process of the command, without a socket.
//!
//! Not here: what the commands print (`commands/`), how they start it (`launch.rs`) and how they reach
//! it (`client.rs`).

// In import order.
mod events;
mod life;
mod rates;
mod host;
mod metrics;
mod route;
mod openapi;
mod api;

use std::path::{Path, PathBuf};
use std::process;
use std::sync::Arc;
use std::time::Duration;

use axum::serve::Listener;
use hypermount_swarm::sync::Mutex;
use tokio::net::{UnixListener, UnixStream, unix};

use crate::directories;
use crate::failure::{Failure, Result};
use crate::launch::{self, FIRST_REQUEST};
use crate::model::{MountInfo, MountRequest};
use crate::network::Network;
use crate::presence::{self, Presence, Present, is_allowed};
use crate::process::{Ending, runtime};
use crate::record::Held;
use crate::saved::Saved;
use crate::stored::open_store;
use host::{Host, Parts};
use life::Life;

/// How long answers under way get when the daemon ends.
const LAST_ANSWERS: Duration = Duration::from_secs(2);
/// How long tasks get to end after that; they hold the store until then.
const SHUTDOWN_LIMIT: Duration = Duration::from_secs(5);
/// Pause of the accept loop after a failure such as running out of descriptors.
const ACCEPT_RETRY: Duration = Duration::from_millis(200);

/// The options of a daemon.
#[derive(Clone, Debug)]
pub struct Options {
    /// Directory of the store, absolute.
    pub store: PathBuf,
    /// Make the store if it is absent.
    pub create: bool,
    /// Stay when there is nothing left to do.
    pub keep: bool,
    /// Started by another command, which waits for a report on the pipe that is stdout.
    pub detached: bool,
}

/// Files that must outlive the store: a process that sees them gone finds the store free.
#[derive(Default)]
struct Kept {
    presence: Option<Present>,
    records: Arc<Mutex<Vec<Held>>>,
}

/// Runs the daemon until it ends.
pub fn run(options: &Options) -> Result {
    let runtime = runtime()?;
    let mut kept = Kept::default();
    let result = runtime.block_on(serve(options, &mut kept));
    runtime.shutdown_timeout(SHUTDOWN_LIMIT);
    drop(kept);
    result
}

/// Makes one mount in this process, and returns when it is unmounted or the process is told to end.
/// `mounted` is called when the mount can be used.
pub fn run_mount(
    store: &Path,
    create: bool,
    asked: &MountRequest,
    mounted: impl FnOnce(&MountInfo) -> Result,
) -> Result {
    let runtime = runtime()?;
    let kept = Kept::default();
    let result = runtime.block_on(serve_mount(store, create, asked, mounted, &kept));
    runtime.shutdown_timeout(SHUTDOWN_LIMIT);
    drop(kept);
    result
}

async fn serve(options: &Options, kept: &mut Kept) -> Result {
    let mut ending = Ending::new()?;
    let store = open_store(&options.store, options.create)?;
    let directory = presence::real(&options.store);
    let socket = presence::socket_path(&directory)?;
    let log = if options.detached { Some(presence::log_path(&directory)?) } else { None };
    let version = env!("CARGO_PKG_VERSION").to_owned();
    let presence = Presence { pid: process::id(), socket: socket.clone(), version };
    let listener = presence::bind(&socket)?;
    kept.presence = Some(presence.take(&directory)?);
    let life = Life::new(options.keep);
    let host = Host::new(Parts {
        network: Network::for_choosing(&store)?,
        saved: Saved::load(&directory)?,
        state_directory: directories::records_directory()?,
        last_records: kept.records.clone(),
        store,
        directory,
        socket: socket.clone(),
        log,
        life: life.clone(),
    });
    host.restore_mounts();
    host.restore_seeds().await;
    tokio::spawn(host::watch(Arc::downgrade(&host)));
    let server = axum::serve(OwnUser(listener), api::router(host.clone()));
    let (stopping, stopped) = (life.clone(), life.clone());
    let server = server.with_graceful_shutdown(async move { stopping.ended().await });
    let serving = tokio::spawn(server.into_future());
    log::info!("hypermount {} serves {}", presence.version, host.directory.display());
    if options.detached {
        launch::report_ready(&presence)?;
    } else {
        eprintln!("ready at {}", socket.display());
    }
    tokio::select! {
        () = ending.wait() => {}
        () = stopped.ended() => {}
        () = unneeded(&host, &life) => {}
    }
    // From here on no client finds it: new ones wait until the presence is gone.
    let _ = std::fs::remove_file(&socket);
    life.end();
    if tokio::time::timeout(LAST_ANSWERS, serving).await.is_err() {
        log::info!("ended with requests under way");
    }
    end(&host).await
}

async fn serve_mount(
    store: &Path,
    create: bool,
    asked: &MountRequest,
    mounted: impl FnOnce(&MountInfo) -> Result,
    kept: &Kept,
) -> Result {
    let mut ending = Ending::new()?;
    let directory = presence::real(store);
    let store = open_store(store, create)?;
    let life = Life::new(false);
    let host = Host::new(Parts {
        network: Network::for_choosing(&store)?,
        // Only the daemon has saved mounts and seeds.
        saved: Saved::default(),
        state_directory: directories::records_directory()?,
        last_records: kept.records.clone(),
        store,
        directory,
        socket: PathBuf::new(),
        log: None,
        life: life.clone(),
    });
    tokio::spawn(host::watch(Arc::downgrade(&host)));
    let made = tokio::select! {
        made = host.mount(asked) => made,
        () = ending.wait() => return end(&host).await,
    };
    let networked = host.knows_peers() || !host.listening().is_empty();
    let result = made.and_then(|info| mounted(&info));
    if result.is_ok() {
        tokio::select! {
            () = unneeded(&host, &life) => {}
            () = ending.wait() => {}
        }
        if networked {
            eprintln!("{}: {}", asked.mountpoint.display(), host.network.traffic());
        }
    }
    life.end();
    end(&host).await.and(result)
}

/// Ends every mount and every connection.
async fn end(host: &Arc<Host>) -> Result {
    let unmounting = host.clone();
    let unmounted = tokio::task::spawn_blocking(move || unmounting.unmount_all()).await;
    host.network.close();
    log::info!("ended: {}", host.network.traffic());
    unmounted.map_err(|error| Failure::failed("unmount", error))
}

/// Resolves when there is nothing left to do.
async fn unneeded(host: &Arc<Host>, life: &Life) {
    // The command that started the daemon is about to send a request.
    let mut first = !host.is_needed();
    loop {
        if first {
            first = false;
            let _ = tokio::time::timeout(FIRST_REQUEST, life.changed()).await;
        }
        if host.is_needed() {
            // A process that waits for an ended mount need not wait for the others.
            host.release_records();
        } else if life.close_unless(|| host.is_needed()) {
            return;
        }
        life.changed().await;
    }
}

/// Accepts connections of this user and of root only. The permissions of the socket allow no others
/// either, except on systems that ignore them.
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

#[cfg(test)]
mod tests {
    use super::*;

    /// `docs/openapi.json` is what the server answers at `/openapi.json`. To rewrite it:
    /// `HYPERMOUNT_WRITE_OPENAPI=1 cargo test openapi_json`.
    #[test]
    fn openapi_json_is_the_description_of_the_server() {
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
