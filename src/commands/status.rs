//! `hypermount status`, `peers`, `why` and `watch`: the state of a daemon, in words.

use std::path::Path;

use hyper::Method;
use serde_json::json;

use super::print_json;
use crate::cli::{Peers, Status, Watch, Why};
use crate::client::{self, Client};
use crate::directories;
use crate::failure::{Context, Failure, Result};
use crate::model::{
    self, DrivePeer, DrivePeers, FailedCall, FailuresQuery, Happening, Limits, MountInfo, SeedInfo,
};
use crate::path_text;
use crate::record::Record;
use crate::target::{Location, drive_or_mount};
use crate::terminal::{self, date, escaped, size};

/// Most lines of one section: a status fits on a screen with a prompt below it.
const MAX_LINES: usize = 4;
/// Hex digits of a key that are shown.
const SHORT: usize = "hyper://".len() + 12;

pub async fn run_status(args: &Status) -> Result {
    let store = directories::store(args.store.as_deref())?;
    let Some(client) = client::find(&store).await? else {
        if args.json {
            return print_json(&json!({ "up": false, "store": path_text::encode(&store) }));
        }
        let line = format!("no daemon runs for {}", escaped(&store.display().to_string()));
        return terminal::print_line(&line).context(|| "print");
    };
    let status: model::Status = client.get("/status").await?;
    if args.json {
        let mut value =
            serde_json::to_value(&status).map_err(|error| Failure::failed("print", error))?;
        if let Some(object) = value.as_object_mut() {
            object.insert("up".into(), true.into());
        }
        return print_json(&value);
    }
    terminal::print_line(&lines(&status).join("\n")).context(|| "print")
}

/// The whole of it on one screen.
fn lines(status: &model::Status) -> Vec<String> {
    let store = escaped(&status.store.display().to_string()).into_owned();
    let kept = if status.kept { "stays until stopped" } else { "ends when nothing is left to do" };
    let uptime = humantime::format_duration(std::time::Duration::from_secs(status.uptime_seconds));
    let mut lines = vec![format!("daemon   pid {}, up {uptime}, {kept}", status.pid)];
    lines.push(format!("store    {store}"));
    section(&mut lines, "mounts", &status.mounts, mount_line);
    section(&mut lines, "storing", &storing(&status.mounts), String::clone);
    section(&mut lines, "seeds", &status.seeds, seed_line);
    let traffic = status.traffic;
    lines.push(format!(
        "network  {} peers{}{}; received {} ({}/s), sent {} ({}/s)",
        status.peers.len(),
        match status.peers.iter().filter(|peer| peer.transport != "tcp").count() {
            0 => String::new(),
            datagrams => format!(" ({datagrams} by datagrams)"),
        },
        match status.listening.as_slice() {
            [] => String::new(),
            addresses => format!(", listening on {}", addresses.join(" ")),
        },
        size(traffic.received),
        size(traffic.receive_rate),
        size(traffic.sent),
        size(traffic.send_rate),
    ));
    section(&mut lines, "limits", &limits(status), String::clone);
    match status.troubles.as_slice() {
        [] => lines.push("wrong    nothing".to_owned()),
        troubles => section(&mut lines, "wrong", troubles, |trouble| escaped(trouble).into_owned()),
    }
    lines
}

/// The rate limits that were set.
fn limits(status: &model::Status) -> Vec<String> {
    let both = |limits: &Limits| {
        format!("up {}, down {}", super::limit::rate(limits.up), super::limit::rate(limits.down))
    };
    let all =
        (status.limits != Limits::default()).then(|| format!("all  {}", both(&status.limits)));
    let drives = status.drive_limits.iter();
    let drives = drives.map(|one| format!("{}  {}", short(&one.url, &one.name), both(&one.limits)));
    all.into_iter().chain(drives).collect()
}

/// At most [`MAX_LINES`] lines, the first with the name of the section.
fn section<T>(lines: &mut Vec<String>, name: &str, items: &[T], line: impl Fn(&T) -> String) {
    for (number, item) in items.iter().take(MAX_LINES).enumerate() {
        let name = if number == 0 { name } else { "" };
        let more = match items.len().saturating_sub(MAX_LINES) {
            more if more > 0 && number + 1 == MAX_LINES => format!("  (and {more} more)"),
            _ => String::new(),
        };
        lines.push(format!("{name:<8} {}{more}", line(item)));
    }
}

/// The files whose content is being stored in their drives.
fn storing(mounts: &[MountInfo]) -> Vec<String> {
    let lines = mounts.iter().flat_map(|mount| {
        mount.storing.iter().map(|file| {
            let path = mount.mountpoint.join(&file.path).display().to_string();
            let (stored, bytes) = (size(file.bytes_stored), size(file.bytes));
            format!("{}  {stored} of {bytes}", escaped(&path))
        })
    });
    lines.collect()
}

fn mount_line(mount: &MountInfo) -> String {
    let mut line = escaped(&mount.mountpoint.display().to_string()).into_owned();
    match &mount.url {
        Some(url) => {
            let drive = short(url, &mount.name);
            line.push_str(&format!("  {drive}  version {}", mount.version));
        }
        None => line.push_str(&format!("  all drives, {} open", mount.drives.len())),
    }
    if mount.read_only {
        line.push_str(", read-only");
    }
    if mount.saved {
        line.push_str(", saved");
    }
    if mount.waiting > 0 {
        line.push_str(&format!(", {} calls wait for the network", mount.waiting));
    }
    line
}

fn seed_line(seed: &SeedInfo) -> String {
    let line = super::seed::line(&SeedInfo { name: None, ..seed.clone() });
    let state = line.split_once("  ").map_or("", |(_, state)| state);
    format!("{}  {state}", short(&seed.url, &seed.name))
}

/// The name of a drive, or the first digits of its key: enough to tell drives apart, too few to open
/// one.
fn short(url: &str, name: &Option<String>) -> String {
    match name {
        Some(name) => escaped(name).into_owned(),
        None => format!("{}…", url.get(..SHORT).unwrap_or(url)),
    }
}

pub async fn run_peers(args: &Peers) -> Result {
    let (target, source) = drive_or_mount(&args.what, args.store.clone())?;
    let location = Location::of(&target, &source)?;
    let client = client::find(&location.store).await?.ok_or_else(|| {
        Failure::failed("peers", format!("no daemon runs for {}", location.store.display()))
            .hint("mount or seed the drive first")
    })?;
    let path = client::plain(&["drives", &location.drive, "peers"]);
    let peers: DrivePeers = client.get(&path).await?;
    if args.json {
        return print_json(&peers);
    }
    let titles = ["ADDRESS", "HAS", "RECEIVING", "SENDING", "OVER", "FOUND"];
    let mut rows = vec![titles.map(str::to_owned)];
    rows.extend(peers.peers.iter().map(|peer| peer_row(peer, peers.blocks)));
    terminal::print(terminal::table(&rows).as_bytes()).context(|| "print")?;
    terminal::print_line(&peers.verdict).context(|| "print")
}

fn peer_row(peer: &DrivePeer, blocks: u64) -> [String; 6] {
    [
        escaped(&peer.peer.address).into_owned(),
        if blocks == 0 { "?".to_owned() } else { super::list::here(peer.blocks, blocks) },
        format!("{}/s", size(peer.peer.receive_rate)),
        format!("{}/s", size(peer.peer.send_rate)),
        escaped(&peer.peer.transport).into_owned(),
        if peer.peer.incoming {
            "connected to us".into()
        } else {
            escaped(&peer.peer.found).into_owned()
        },
    ]
}

pub async fn run_why(args: &Why) -> Result {
    let path = std::path::absolute(&args.path).context(|| args.path.display().to_string())?;
    let (client, path) = daemon_of_path(&path).await?;
    let query = FailuresQuery { path: Some(path.clone()) };
    let failures: Vec<FailedCall> = client.get(&client::path(&["failures"], &query)?).await?;
    let from = if args.all { 0 } else { failures.len().saturating_sub(1) };
    let shown = failures.get(from..).unwrap_or_default();
    if args.json {
        return print_json(&shown);
    }
    for failure in shown {
        terminal::print_line(&explain(failure)).context(|| "print")?;
    }
    if shown.is_empty() {
        eprintln!("nothing is remembered to have failed at {}", escaped(&path.to_string_lossy()));
    }
    Ok(())
}

/// The daemon that has a path mounted, and the path with its mount point resolved. Does not access the
/// mount, which may hang.
async fn daemon_of_path(path: &Path) -> Result<(Client, std::path::PathBuf)> {
    let state = directories::records_directory()?;
    if let Some((record, inside)) = Record::containing(&state, path)
        && let Some(client) = client::find(&record.store).await?
    {
        return Ok((client, record.mountpoint.join(inside)));
    }
    Err(Failure::failed(format!("why {}", path.display()), "it is in no mount of a daemon")
        .hint("a mount in the foreground logs failures to stderr"))
}

fn explain(failure: &FailedCall) -> String {
    let who = match (&failure.program, failure.pid) {
        (Some(program), Some(pid)) => format!(" by {} (pid {pid})", escaped(program)),
        _ => String::new(),
    };
    let path = failure.mountpoint.join(&failure.path);
    let mut text = format!(
        "{} of {}{who} failed with {} at {}\n  why: {}",
        failure.operation,
        escaped(&path.to_string_lossy()),
        failure.errno,
        date(i64::try_from(failure.time).unwrap_or(i64::MAX)),
        escaped(&failure.why)
    );
    if let Some(remedy) = &failure.remedy {
        text.push_str(&format!("\n  do:  {remedy}"));
    }
    text
}

pub async fn run_watch(args: &Watch) -> Result {
    let store = directories::store(args.store.as_deref())?;
    let client = client::find(&store).await?.ok_or_else(|| {
        Failure::failed("watch", format!("no daemon runs for {}", store.display()))
            .hint("start one: hypermount daemon start")
    })?;
    let print = |happening: Happening| print_json(&happening).map(|()| true);
    client.lines(Method::GET, "/events", &(), print).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{DriveLimits, MountedDrive, StoringFile};

    #[test]
    fn a_status_of_many_mounts_and_seeds_fits_on_a_screen() {
        let url = format!("hyper://{}", "ab".repeat(32));
        let mount = MountInfo {
            url: Some(url.clone()),
            drives: Vec::new(),
            name: None,
            mountpoint: "/mnt".into(),
            moved_to: None,
            version: 1,
            read_only: true,
            address: None,
            pid: 1,
            log: None,
            saved: true,
            waiting: 2,
            open: 0,
            storing: vec![StoringFile {
                path: "a/b.img".into(),
                bytes: 1 << 30,
                bytes_stored: 1 << 28,
            }],
            failures: 0,
        };
        let drive = MountedDrive {
            path: "Network/x".into(),
            url: url.clone(),
            name: None,
            version: 1,
            read_only: true,
        };
        let everything = MountInfo { url: None, drives: vec![drive; 50], ..mount.clone() };
        let seed = SeedInfo { url: url.clone(), name: Some("notes".into()), ..SeedInfo::default() };
        let limits = Limits { up: None, down: Some(2_000_000) };
        let limited = DriveLimits { url: url.clone(), name: None, limits };
        let status = model::Status {
            version: "0".into(),
            pid: 1,
            uptime_seconds: 1,
            store: "/s".into(),
            socket: "/x".into(),
            log: None,
            kept: true,
            listening: vec!["0.0.0.0:1".into()],
            mounts: [vec![mount; 25], vec![everything; 25]].concat(),
            seeds: vec![seed; 50],
            peers: Vec::new(),
            traffic: Default::default(),
            limits: Limits { up: Some(1000), down: None },
            drive_limits: vec![limited; 50],
            troubles: vec!["x".into(); 50],
        };
        let lines = lines(&status);
        assert!(lines.len() < 24, "{}", lines.len());
        assert!(lines.iter().any(|line| line.contains("and 46 more")));
        assert!(!lines.iter().any(|line| line.contains(&"ab".repeat(32))), "a whole key");
    }
}
