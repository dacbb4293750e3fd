//! A client of the daemon: finds it, sends one HTTP request, receives the answer. The requests are in
//! `model.rs`.

use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use axum::body::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use crate::failure::{Code, Context, Failure, Result};
use crate::launch;
use crate::model::{API, API_HEADER, VERSION_HEADER};
use crate::presence::{Presence, Sight, is_allowed};

/// Longest wait for a daemon that is starting or ending.
const SETTLE_LIMIT: Duration = Duration::from_secs(15);
/// Pause between two attempts to find it.
const POLL: Duration = Duration::from_millis(20);
/// Most daemons that are asked in a row, if each ends before it answers.
const ATTEMPTS: usize = 5;
/// Longest wait for the start of an answer that does not depend on peers.
pub const ANSWER_LIMIT: Duration = Duration::from_secs(60);
/// The longest answer that is not taken in pieces, in bytes: a listing of a very large directory.
const MAX_ANSWER: usize = 1024 * 1024 * 1024;
/// The longest line of an answer in lines, in bytes.
const MAX_LINE: usize = 16 * 1024 * 1024;
/// Characters of a path segment that are not percent-encoded (RFC 3986, unreserved).
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// A running daemon, to send requests to.
#[derive(Clone, Debug)]
pub struct Client {
    pub presence: Presence,
}

/// The daemon of a store, if there is one. Waits for a daemon that is just starting or ending.
pub async fn find(store: &Path) -> Result<Option<Client>> {
    let deadline = Instant::now() + SETTLE_LIMIT;
    loop {
        match Presence::of(store) {
            Sight::Absent => return Ok(None),
            Sight::Present(presence) => {
                // A daemon that ends removes its socket first.
                if connect(&presence.socket).await.is_ok() {
                    return Ok(Some(Client { presence }));
                }
            }
            Sight::Unready => {}
        }
        if Instant::now() >= deadline {
            let why = format!("it does not answer for {SETTLE_LIMIT:?}");
            return Err(Failure::new(Code::Locked, daemon_of(store), why)
                .hint("see its log: hypermount daemon logs"));
        }
        tokio::time::sleep(POLL).await;
    }
}

fn daemon_of(store: &Path) -> String {
    format!("ask the daemon of {}", store.display())
}

/// The daemon of a store, started if there is none; with `create` the store is made too.
pub async fn find_or_start(store: &Path, create: bool) -> Result<Client> {
    if let Some(client) = find(store).await? {
        return Ok(client);
    }
    let directory = store.to_owned();
    let started =
        tokio::task::spawn_blocking(move || launch::start_daemon(&directory, create, false));
    match started.await.map_err(|error| Failure::failed(daemon_of(store), error))? {
        Ok(presence) => Ok(Client { presence }),
        // Another command may have started one at the same time.
        Err(failure) if failure.code() == Code::Locked => find(store).await?.ok_or(failure),
        Err(failure) => Err(failure),
    }
}

/// Asks the daemon of a store, started if there is none, and again if that one was just ending. `limit`
/// as in [`Client::ask`].
pub async fn ask_or_start<T: DeserializeOwned>(
    store: &Path,
    create: bool,
    method: Method,
    path: &str,
    body: &impl Serialize,
    limit: Option<Duration>,
) -> Result<(Client, T)> {
    let mut attempt = 1;
    loop {
        let client = find_or_start(store, create).await?;
        match client.ask(method.clone(), path, body, limit).await {
            Err(failure) if failure.code() == Code::Locked && attempt < ATTEMPTS => attempt += 1,
            answer => return answer.map(|answer| (client, answer)),
        }
    }
}

async fn connect(socket: &Path) -> io::Result<UnixStream> {
    let stream = UnixStream::connect(socket).await?;
    // A store of another user may name that user's socket.
    if !is_allowed(&stream) {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "it is another user's"));
    }
    Ok(stream)
}

/// A path of the API with its segments and query encoded.
pub fn path(segments: &[&str], query: &impl Serialize) -> Result<String> {
    let mut path = String::new();
    for segment in segments {
        path.push('/');
        path.extend(utf8_percent_encode(segment, SEGMENT));
    }
    let query = serde_urlencoded::to_string(query)
        .map_err(|error| Failure::failed("ask the daemon", error))?;
    if !query.is_empty() {
        path.push('?');
        path.push_str(&query);
    }
    Ok(path)
}

/// An API path without a query.
pub fn plain(segments: &[&str]) -> String {
    path(segments, &()).unwrap_or_default()
}

impl Client {
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        self.ask(Method::GET, path, &(), Some(ANSWER_LIMIT)).await
    }

    /// As [`Client::get`], for an answer that the daemon may need peers for.
    pub async fn ask_patiently<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        self.ask(Method::GET, path, &(), None).await
    }

    /// Sends a request and receives the whole answer. `limit` bounds the wait for its start; `None` for
    /// a request that may wait for peers until the user's own limit.
    pub async fn ask<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: &impl Serialize,
        limit: Option<Duration>,
    ) -> Result<T> {
        let response = self.send(method, path, body, limit).await?;
        let bytes = whole(response).await?;
        serde_json::from_slice(&bytes).map_err(|error| self.strange(error))
    }

    /// Sends a request and passes each line of the answer to `take`, until `take` returns `false`.
    pub async fn lines<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: &impl Serialize,
        mut take: impl FnMut(T) -> Result<bool>,
    ) -> Result {
        let mut response = self.send(method, path, body, None).await?;
        let mut pending: Vec<u8> = Vec::new();
        while let Some(frame) = response.body_mut().frame().await {
            let frame = frame.map_err(|error| self.gone(error))?;
            let Ok(data) = frame.into_data() else { continue };
            pending.extend_from_slice(&data);
            while let Some(end) = pending.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = pending.drain(..=end).collect();
                let value = serde_json::from_slice(&line).map_err(|error| self.strange(error))?;
                if !take(value)? {
                    return Ok(());
                }
            }
            if pending.len() > MAX_LINE {
                return Err(self.strange("a line without end"));
            }
        }
        Ok(())
    }

    /// Sends a request and passes the answer to `take` in pieces.
    pub async fn pieces(&self, path: &str, mut take: impl FnMut(&[u8]) -> Result) -> Result {
        let mut response = self.send(Method::GET, path, &(), None).await?;
        while let Some(frame) = response.body_mut().frame().await {
            let frame = frame.map_err(|error| self.gone(error))?;
            if let Ok(data) = frame.into_data() {
                take(&data)?;
            }
        }
        Ok(())
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: &impl Serialize,
        limit: Option<Duration>,
    ) -> Result<Response<Incoming>> {
        let stream = connect(&self.presence.socket).await.map_err(|error| self.gone(error))?;
        let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = handshake.map_err(|error| self.gone(error))?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                log::debug!("connection to the daemon: {error}");
            }
        });
        let body = match method {
            Method::GET | Method::DELETE => Vec::new(),
            _ => serde_json::to_vec(body).map_err(|error| self.strange(error))?,
        };
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "hypermount")
            .header("content-type", "application/json")
            .header(API_HEADER, API)
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| self.strange(error))?;
        let answer = sender.send_request(request);
        let answer = match limit {
            None => answer.await,
            Some(limit) => tokio::time::timeout(limit, answer).await.map_err(|_| {
                Failure::new(Code::Unavailable, self.what(), format!("no answer in {limit:?}"))
            })?,
        };
        let response = answer.map_err(|error| self.gone(error))?;
        self.check_version(&response)?;
        if response.status() == StatusCode::OK {
            return Ok(response);
        }
        let status = response.status();
        let bytes = whole(response).await?;
        Err(serde_json::from_slice(&bytes).unwrap_or_else(|_| self.strange(status)))
    }

    /// Refuses a daemon of another version: the same fields may have another meaning there. That daemon
    /// serves its mounts until it is stopped.
    fn check_version(&self, response: &Response<Incoming>) -> Result {
        let header = |name| response.headers().get(name).and_then(|value| value.to_str().ok());
        if header(API_HEADER) == Some(API) {
            return Ok(());
        }
        let theirs = header(VERSION_HEADER).unwrap_or(&self.presence.version);
        let ours = env!("CARGO_PKG_VERSION");
        let why = format!("it is version {theirs}; this command is version {ours}");
        Err(Failure::failed(self.what(), why)
            .hint("end it with `hypermount daemon stop`; the next command starts this version"))
    }

    fn what(&self) -> String {
        format!("ask the daemon (pid {})", self.presence.pid)
    }

    fn gone(&self, error: impl std::fmt::Display) -> Failure {
        Failure::new(Code::Locked, self.what(), format!("it is ending ({error})")).hint("try again")
    }

    fn strange(&self, error: impl std::fmt::Display) -> Failure {
        Failure::failed(self.what(), format!("its answer cannot be parsed: {error}"))
            .hint("end it with `hypermount daemon stop`; the next command starts it again")
    }
}

async fn whole(response: Response<Incoming>) -> Result<Bytes> {
    let limited = http_body_util::Limited::new(response.into_body(), MAX_ANSWER);
    let collected = limited.collect().await.map_err(io::Error::other);
    Ok(collected.context(|| "read the daemon's answer")?.to_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::DriveQuery;

    #[test]
    fn names_and_paths_of_all_kinds_arrive_whole() {
        let query = DriveQuery { path: "a b/ü&=?#".into(), ..DriveQuery::default() };
        let path = path(&["drives", "my/drive %", "entries"], &query).unwrap();
        assert!(path.starts_with("/drives/my%2Fdrive%20%25/entries?path=a+b%2F"), "{path}");
        let (_, encoded) = path.split_once('?').unwrap();
        let back: DriveQuery = serde_urlencoded::from_str(encoded).unwrap();
        assert_eq!(back.path, query.path);
    }
}
