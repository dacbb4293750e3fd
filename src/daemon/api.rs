//! The API: HTTP/1.1 and JSON over the socket. One table has every route; the server and its description
//! (`docs/openapi.json`) are both made from it.
//!
//! Not here: what the requests mean (`host/`).

use std::convert::Infallible;
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::rejection::{JsonRejection, PathRejection, QueryRejection};
use axum::extract::{Path, Query, Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post, put};
use axum::{Json, Router};
use hypermount_core::Urgency;
use serde::Serialize;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::host::Host;
use super::metrics;
use super::openapi;
use super::route::{self, Route};
use crate::answers::{
    self, About, Check, Checking, Convert, Converting, Created, Described, Export, Found, Import,
    Listed, Progress,
};
use crate::failure::{Code, Context, Failure, Result};
use crate::model::*;
use crate::path_text;
use crate::session::Session;
use crate::values::SLOWEST;

/// Most pieces of an answer that wait for a slow client.
const PIECES: usize = 16;
/// Bytes of a file that are read at once, and bytes that are requested ahead of the client.
const CHUNK: u64 = 256 * 1024;
const AHEAD: u64 = 4 * 1024 * 1024;
const NDJSON: &str = "application/x-ndjson";

type App = State<Arc<Host>>;
type Answer<T> = Result<Json<T>>;
type DriveAsked = Result<Query<DriveQuery>, QueryRejection>;
type Segment = Result<Path<String>, PathRejection>;

/// All routes.
pub fn routes() -> Vec<Route> {
    use route::Body::{Bytes as Raw, Json as Value, Lines, OpenApi, Text};
    use route::{route, shape};
    let asked = || shape::<DriveQuery>("DriveQuery");
    vec![
        route(
            "get",
            "/status",
            "Status of the daemon and all it does",
            Value(shape::<Status>("Status")),
            get(status),
        ),
        route(
            "post",
            "/keep",
            "Stay when there is nothing left to do",
            Value(shape::<Done>("Done")),
            post(keep),
        ),
        route(
            "post",
            "/shutdown",
            "Unmount everything and end",
            Value(shape::<Done>("Done")),
            post(shutdown),
        ),
        route(
            "get",
            "/limits",
            "How fast bytes may flow",
            Value(shape::<Limits>("Limits")),
            get(limits),
        ),
        route(
            "put",
            "/limits",
            "Change how fast bytes may flow, at once",
            Value(shape::<Limits>("Limits")),
            put(limit),
        )
        .body(shape::<Limits>("Limits")),
        route(
            "get",
            "/mounts",
            "All mounts",
            Value(shape::<Vec<MountInfo>>("Mounts")),
            get(mounts),
        ),
        route(
            "post",
            "/mounts",
            "Mount a drive; answers when it can be used",
            Value(shape::<MountInfo>("MountInfo")),
            post(mount),
        )
        .body(shape::<MountRequest>("MountRequest")),
        route(
            "delete",
            "/mounts",
            "Unmount, and forget the mount if it was saved",
            Value(shape::<Done>("Done")),
            delete(unmount),
        )
        .query(shape::<UnmountQuery>("UnmountQuery")),
        route(
            "get",
            "/drives",
            "The drives of the store",
            Value(shape::<Vec<Listed>>("Drives")),
            get(drives),
        ),
        route("post", "/drives", "Make a drive", Value(shape::<Created>("Created")), post(create))
            .body(shape::<CreateRequest>("CreateRequest")),
        route(
            "get",
            "/drives/{drive}",
            "One drive in full",
            Value(shape::<About>("About")),
            get(about),
        )
        .query(asked()),
        route(
            "get",
            "/drives/{drive}/entries",
            "The children of a directory",
            Value(shape::<Vec<Described>>("Entries")),
            get(entries),
        )
        .query(asked()),
        route(
            "get",
            "/drives/{drive}/entry",
            "What lies at a path",
            Value(shape::<Found>("Found")),
            get(entry),
        )
        .query(asked()),
        route("get", "/drives/{drive}/content", "The bytes of a file", Raw, get(content))
            .query(asked()),
        route(
            "get",
            "/drives/{drive}/peers",
            "How much of a drive each peer has",
            Value(shape::<DrivePeers>("DrivePeers")),
            get(drive_peers),
        ),
        route(
            "get",
            "/drives/{drive}/limits",
            "How fast bytes of one drive may flow",
            Value(shape::<Limits>("Limits")),
            get(drive_limits),
        ),
        route(
            "put",
            "/drives/{drive}/limits",
            "Change how fast bytes of one drive may flow, at once",
            Value(shape::<Limits>("Limits")),
            put(limit_drive),
        )
        .body(shape::<Limits>("Limits")),
        route(
            "post",
            "/drives/{drive}/import",
            "Copy a directory into a drive",
            Lines(shape::<Progress>("Progress")),
            post(import),
        )
        .body(shape::<Import>("Import")),
        route(
            "post",
            "/drives/{drive}/export",
            "Copy a drive into a directory",
            Lines(shape::<Progress>("Progress")),
            post(export),
        )
        .body(shape::<Export>("Export")),
        route(
            "post",
            "/drives/{drive}/convert",
            "Copy a drive into a new one of another format, or plan that",
            Lines(shape::<Converting>("Converting")),
            post(convert),
        )
        .body(shape::<Convert>("Convert")),
        route(
            "post",
            "/check",
            "Verify what is on this disk of one drive or of all",
            Lines(shape::<Checking>("Checking")),
            post(check),
        )
        .body(shape::<Check>("Check")),
        route(
            "get",
            "/seeds",
            "The drives that are seeded",
            Value(shape::<Vec<SeedInfo>>("Seeds")),
            get(seeds),
        ),
        route(
            "put",
            "/seeds/{drive}",
            "Seed a drive permanently",
            Value(shape::<SeedInfo>("SeedInfo")),
            put(seed),
        )
        .body(shape::<SeedRequest>("SeedRequest")),
        route(
            "delete",
            "/seeds/{drive}",
            "Stop seeding a drive; fetched blocks stay",
            Value(shape::<Done>("Done")),
            delete(unseed),
        ),
        route(
            "get",
            "/peers",
            "All connected peers",
            Value(shape::<Vec<ConnectedPeer>>("Peers")),
            get(peers),
        ),
        route(
            "get",
            "/failures",
            "Calls of programs that failed, and what to do",
            Value(shape::<Vec<FailedCall>>("Failures")),
            get(failures),
        )
        .query(shape::<FailuresQuery>("FailuresQuery")),
        route(
            "get",
            "/activity",
            "Which process, file and drive fetched how much",
            Value(shape::<Activity>("Activity")),
            get(activity),
        ),
        route(
            "get",
            "/events",
            "What happens, from now on",
            Lines(shape::<Happening>("Happening")),
            get(events),
        ),
        route("get", "/metrics", "For Prometheus", Text, get(metrics_text)),
        route("get", "/openapi.json", "This description", OpenApi, get(description)),
    ]
}

/// The server of a host.
pub fn router(host: Arc<Host>) -> Router {
    let mut router = Router::new();
    for route in routes() {
        router = router.route(route.path, route.handler);
    }
    router
        .fallback(|| async { not_found("there is nothing at this path") })
        .method_not_allowed_fallback(|| async { not_found("not with this method") })
        .layer(middleware::from_fn_with_state(host.clone(), frame))
        .with_state(host)
}

/// Runs around every request: adds the headers, and keeps an otherwise idle daemon from ending meanwhile.
async fn frame(State(host): App, request: Request, next: Next) -> Response {
    log::debug!("{} {}", request.method(), template(request.uri().path()));
    // A listener for events only waits, so it does not keep the daemon from ending.
    let listens = request.uri().path() == "/events";
    let busy = if listens { None } else { host.life.busy() };
    let mut response = if listens || busy.is_some() {
        next.run(request).await
    } else {
        // The client can start another daemon and send the request to that one.
        let what = format!("ask the daemon (pid {})", std::process::id());
        Failure::new(Code::Locked, what, "it is ending").hint("try again").into_response()
    };
    let headers = response.headers_mut();
    headers.insert(API_HEADER, HeaderValue::from_static(API));
    headers.insert(VERSION_HEADER, HeaderValue::from_static(env!("CARGO_PKG_VERSION")));
    drop(busy);
    response
}

/// The path as it is logged: without keys.
fn template(path: &str) -> String {
    let hide = |part: &'_ str| match part.len() {
        0..32 => part.to_owned(),
        _ => "…".to_owned(),
    };
    path.split('/').map(hide).collect::<Vec<_>>().join("/")
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let status = match self.code() {
            Code::Failed => StatusCode::UNPROCESSABLE_ENTITY,
            Code::Usage => StatusCode::BAD_REQUEST,
            Code::Unavailable => StatusCode::GATEWAY_TIMEOUT,
            Code::Locked => StatusCode::LOCKED,
            Code::Verification => StatusCode::BAD_GATEWAY,
        };
        (status, Json(self)).into_response()
    }
}

fn not_found(why: &str) -> Response {
    let failure = Failure::usage("ask the daemon", why).hint("GET /openapi.json lists all paths");
    (StatusCode::NOT_FOUND, Json(failure)).into_response()
}

/// The failure of a request that does not match the description.
fn sound<T, E: std::fmt::Display>(extracted: Result<T, E>) -> Result<T> {
    extracted.map_err(|why| Failure::usage("understand the request", why))
}

async fn status(State(host): App) -> Json<Status> {
    Json(host.status())
}

async fn keep(State(host): App) -> Json<Done> {
    host.life.keep();
    Json(Done {})
}

async fn shutdown(State(host): App) -> Json<Done> {
    host.life.end();
    Json(Done {})
}

async fn limits(State(host): App) -> Json<Limits> {
    Json(host.limits())
}

async fn limit(State(host): App, body: Result<Json<Limits>, JsonRejection>) -> Answer<Limits> {
    let Json(asked) = sound(body)?;
    must_be_fast_enough(&asked)?;
    host.network.limit(asked.up, asked.down);
    Ok(Json(asked))
}

async fn drive_limits(State(host): App, drive: Segment) -> Answer<Limits> {
    let Path(drive) = sound(drive)?;
    host.limits_of(&drive).await.map(Json)
}

async fn limit_drive(
    State(host): App,
    drive: Segment,
    body: Result<Json<Limits>, JsonRejection>,
) -> Answer<Limits> {
    let (Path(drive), Json(asked)) = (sound(drive)?, sound(body)?);
    must_be_fast_enough(&asked)?;
    host.limit_drive(&drive, asked).await.map(Json)
}

fn must_be_fast_enough(limits: &Limits) -> Result {
    let slowest = [limits.up, limits.down].into_iter().flatten().min();
    if slowest.is_none_or(|rate| rate >= SLOWEST) {
        return Ok(());
    }
    Err(Failure::usage("limit", format!("less than {SLOWEST} bytes per second")))
}

async fn mounts(State(host): App) -> Json<Vec<MountInfo>> {
    Json(host.mounts())
}

async fn mount(
    State(host): App,
    body: Result<Json<MountRequest>, JsonRejection>,
) -> Answer<MountInfo> {
    let Json(asked) = sound(body)?;
    host.mount(&asked).await.map(Json)
}

async fn unmount(
    State(host): App,
    query: Result<Query<UnmountQuery>, QueryRejection>,
) -> Answer<Done> {
    let Query(asked) = sound(query)?;
    host.unmount(&asked.mountpoint, asked.how).await?;
    Ok(Json(Done {}))
}

async fn drives(State(host): App) -> Answer<Vec<Listed>> {
    let mut listed = answers::list(&host.store).await?;
    let (mounts, seeds) = (host.mounts(), host.seeds());
    for drive in &mut listed {
        drive.seeded = seeds.iter().any(|seed| Some(&seed.url) == drive.url.as_ref());
        let at = |mount: &MountInfo| {
            let whole = mount.url.is_some() && mount.url == drive.url;
            let parts = mount.drives.iter().filter(|part| Some(&part.url) == drive.url.as_ref());
            let parts = parts.map(|part| mount.mountpoint.join(&part.path));
            whole.then(|| mount.mountpoint.clone()).into_iter().chain(parts).collect::<Vec<_>>()
        };
        let mounted = mounts.iter().flat_map(at);
        drive.mountpoints = mounted.map(|path| path_text::encode(&path)).collect();
    }
    Ok(Json(listed))
}

async fn create(
    State(host): App,
    body: Result<Json<CreateRequest>, JsonRejection>,
) -> Answer<Created> {
    let Json(asked) = sound(body)?;
    answers::create(&host.store, &host.directory, &asked).map(Json)
}

/// The items of a list that commas separate.
fn split(list: &str) -> Vec<String> {
    list.split(',').filter(|item| !item.is_empty()).map(str::to_owned).collect()
}

async fn session(host: &Host, drive: Segment, query: DriveAsked) -> Result<(Session, DriveQuery)> {
    let Path(drive) = sound(drive)?;
    let Query(query) = sound(query)?;
    let find = Find { lan: query.lan, bootstrap: split(&query.bootstrap) };
    let peers = split(&query.peers);
    let session = host.session(&drive, &peers, query.wait.as_deref(), &find).await?;
    session.freshen().await;
    Ok((session, query))
}

async fn about(State(host): App, drive: Segment, query: DriveAsked) -> Answer<About> {
    let (session, query) = session(&host, drive, query).await?;
    answers::about(&session, query.whole_store).await.map(Json)
}

async fn entries(State(host): App, drive: Segment, query: DriveAsked) -> Answer<Vec<Described>> {
    let (session, query) = session(&host, drive, query).await?;
    answers::entries(&session, &query.path).await.map(Json)
}

async fn entry(State(host): App, drive: Segment, query: DriveAsked) -> Answer<Found> {
    let (session, query) = session(&host, drive, query).await?;
    answers::entry(&session, &query.path).await.map(Json)
}

async fn content(State(host): App, drive: Segment, query: DriveAsked) -> Result<Response> {
    let (session, query) = session(&host, drive, query).await?;
    let place = session.find(&query.path).await?;
    place.must_be_file()?;
    let extent = place.entry.stat.extent;
    // The first piece decides whether this is an answer or a failure.
    let end = CHUNK.min(extent.size);
    let first = place.drive.read(&extent, 0..end, session.wait).await;
    let first = first.context(|| place.path.to_string())?;
    let (sender, receiver) = mpsc::channel::<std::io::Result<Bytes>>(PIECES);
    let busy = host.life.busy();
    tokio::spawn(async move {
        let _busy = busy;
        let (mut pieces, mut at) = (first, end);
        loop {
            for piece in pieces {
                if sender.send(Ok(piece)).await.is_err() {
                    return;
                }
            }
            if at >= extent.size {
                return;
            }
            let end = at.saturating_add(CHUNK).min(extent.size);
            let ahead = end..end.saturating_add(AHEAD).min(extent.size);
            place.drive.prefetch(&extent, ahead, Urgency::Ahead);
            pieces = match place.drive.read(&extent, at..end, session.wait).await {
                Ok(pieces) => pieces,
                Err(error) => {
                    // The answer ends before its content-length, so no client takes it for complete.
                    let _ = sender.send(Err(std::io::Error::other(error))).await;
                    return;
                }
            };
            at = end;
        }
    });
    let headers = [
        (header::CONTENT_TYPE, "application/octet-stream".to_owned()),
        (header::CONTENT_LENGTH, extent.size.to_string()),
    ];
    Ok((headers, Body::from_stream(ReceiverStream::new(receiver))).into_response())
}

async fn drive_peers(State(host): App, drive: Segment) -> Answer<DrivePeers> {
    let Path(drive) = sound(drive)?;
    host.drive_peers(&drive).await.map(Json)
}

async fn import(
    State(host): App,
    drive: Segment,
    body: Result<Json<Import>, JsonRejection>,
) -> Result<Response> {
    let (Path(drive), Json(asked)) = (sound(drive)?, sound(body)?);
    let mut session = host.session(&drive, &[], Some("0"), &Find::default()).await?;
    session.path =
        hypermount_drive::DrivePath::parse(&asked.path).context(|| asked.path.clone())?;
    must_be_absolute(&asked.directory)?;
    Ok(copying(&host, async move |tell| {
        let imported = answers::import(&session, &asked, tell).await;
        // Also after a failure: the changes that were made before it are in the drive.
        session.drive.show_newest().await;
        imported
    }))
}

async fn export(
    State(host): App,
    drive: Segment,
    body: Result<Json<Export>, JsonRejection>,
) -> Result<Response> {
    let (Path(drive), Json(asked)) = (sound(drive)?, sound(body)?);
    let wait = asked.wait.as_deref();
    let mut session = host.session(&drive, &asked.peers, wait, &asked.find).await?;
    session.freshen().await;
    session.path =
        hypermount_drive::DrivePath::parse(&asked.path).context(|| asked.path.clone())?;
    must_be_absolute(&asked.directory)?;
    Ok(copying(&host, async move |tell| answers::export(&session, &asked, tell).await))
}

async fn convert(
    State(host): App,
    drive: Segment,
    body: Result<Json<Convert>, JsonRejection>,
) -> Result<Response> {
    let (Path(drive), Json(asked)) = (sound(drive)?, sound(body)?);
    let wait = asked.wait.as_deref();
    let session = host.session(&drive, &asked.peers, wait, &asked.find).await?;
    session.freshen().await;
    Ok(working(&host, async move |tell| match answers::convert(&session, &asked, tell).await {
        Ok(Some(moved)) => tell(Converting::Done { moved: Box::new(moved) }),
        Ok(None) => {}
        Err(failure) => tell(Converting::Failed { failure }),
    }))
}

fn must_be_absolute(path: &std::path::Path) -> Result {
    if path.is_absolute() {
        return Ok(());
    }
    Err(Failure::usage(path.display(), "the path is not absolute"))
}

async fn check(State(host): App, body: Result<Json<Check>, JsonRejection>) -> Result<Response> {
    let Json(asked) = sound(body)?;
    let (repair, dialled) = match asked.repair {
        true => {
            let dialled = host.dial(&asked.peers)?;
            host.find(&asked.find).await?;
            let wait = host.wait_for(&asked.find, asked.wait.as_deref())?;
            (Some(wait), dialled)
        }
        false => (None, Vec::new()),
    };
    let store = host.store.clone();
    Ok(working(&host, async move |tell| {
        let _dialled = dialled;
        let last = match answers::check(&store, &asked, repair, tell).await {
            Ok(hurt) => Checking::Done { hurt },
            Err(failure) => Checking::Failed { failure },
        };
        tell(last);
    }))
}

/// Runs a copy and sends its progress.
fn copying<F>(host: &Host, copy: F) -> Response
where
    F: AsyncFnOnce(answers::Tell<'_>) -> Result<answers::Summary> + Send + 'static,
{
    working(host, async move |tell| {
        let last = match copy(tell).await {
            Ok(summary) => Progress::Done { summary },
            Err(failure) => Progress::Failed { failure },
        };
        tell(last);
    })
}

/// Runs work on a thread of its own, since file access blocks, and sends its progress as lines. The work
/// ends when the client disconnects.
fn working<T, F>(host: &Host, work: F) -> Response
where
    T: Serialize + 'static,
    F: AsyncFnOnce(&mut (dyn FnMut(T) + Send)) + Send + 'static,
{
    let (sender, receiver) = mpsc::channel::<Result<Bytes, Infallible>>(PIECES);
    let busy = host.life.busy();
    let runtime = tokio::runtime::Handle::current();
    tokio::task::spawn_blocking(move || {
        let _busy = busy;
        let left = sender.clone();
        let mut tell = move |progress: T| {
            let line = line(&progress);
            // No other work runs on this thread, so it may wait for a slow client. A client that has
            // gone ends the work at its next pause.
            let _ = tokio::task::block_in_place(|| sender.blocking_send(Ok(line)));
        };
        runtime.block_on(async {
            tokio::select! {
                () = left.closed() => log::info!("work was stopped: its client has gone"),
                () = work(&mut tell) => {}
            }
        });
    });
    ndjson(ReceiverStream::new(receiver))
}

async fn seeds(State(host): App) -> Json<Vec<SeedInfo>> {
    Json(host.seeds())
}

async fn seed(
    State(host): App,
    drive: Segment,
    body: Result<Json<SeedRequest>, JsonRejection>,
) -> Answer<SeedInfo> {
    let (Path(drive), Json(how)) = (sound(drive)?, sound(body)?);
    host.seed(&drive, &how).await.map(Json)
}

async fn unseed(State(host): App, drive: Segment) -> Answer<Done> {
    let Path(drive) = sound(drive)?;
    if !host.unseed(&drive).await? {
        return Err(Failure::failed(format!("unseed {drive}"), "it is not seeded"));
    }
    Ok(Json(Done {}))
}

async fn peers(State(host): App) -> Json<Vec<ConnectedPeer>> {
    Json(host.peers())
}

async fn failures(
    State(host): App,
    query: Result<Query<FailuresQuery>, QueryRejection>,
) -> Answer<Vec<FailedCall>> {
    let Query(asked) = sound(query)?;
    Ok(Json(host.failures(asked.path.as_deref())))
}

async fn activity(State(host): App) -> Json<Activity> {
    Json(host.activity())
}

async fn events(State(host): App) -> Response {
    let (sender, receiver) = mpsc::channel::<Result<Bytes, Infallible>>(PIECES);
    let mut listener = host.events.listen();
    let life = host.life.clone();
    tokio::spawn(async move {
        let listening = Happening::Listening { pid: std::process::id() };
        let mut next = Some(listening);
        while let Some(happening) = next {
            if sender.send(Ok(line(&happening))).await.is_err() {
                return;
            }
            next = tokio::select! {
                next = listener.next() => next,
                () = life.ended() => return,
                () = sender.closed() => return,
            };
        }
    });
    ndjson(ReceiverStream::new(receiver))
}

async fn metrics_text(State(host): App) -> Response {
    ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], metrics::render(&host)).into_response()
}

async fn description() -> Json<serde_json::Value> {
    Json(openapi::document(&routes()))
}

fn line(value: &impl Serialize) -> Bytes {
    // No value here fails to serialise; one that did would be left out.
    let mut text = serde_json::to_vec(value).unwrap_or_default();
    text.push(b'\n');
    text.into()
}

fn ndjson(lines: ReceiverStream<Result<Bytes, Infallible>>) -> Response {
    ([(header::CONTENT_TYPE, NDJSON)], Body::from_stream(lines)).into_response()
}
