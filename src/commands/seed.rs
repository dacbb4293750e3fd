//! `hypermount share`, `seed`, `unseed` and `publish`: sharing drives permanently.

use std::collections::BTreeMap;
use std::fs;
use std::io::{IsTerminal, stdout};
use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper::Method;
use hypermount_core::kept_encryption_key;
use hypermount_drive::DriveUrl;
use hypermount_swarm::PublicKey;
use qrcode::QrCode;
use qrcode::render::unicode::Dense1x2;
use serde::Serialize;
use tokio::time::Instant;

use super::print_json;
use crate::cli::{Publish, Seed, Seeding, Share, Unseed};
use crate::client::{self, ANSWER_LIMIT, Client};
use crate::failure::{Code, Context, Failure, Result};
use crate::model::{Done, DrivePeers, SeedInfo, SeedRequest};
use crate::source::{Source, find_of};
use crate::target::{Location, Target, check_store, drive_or_mount};
use crate::terminal::{self, escaped};

/// How often the peers that hold a drive are counted.
const POLL: Duration = Duration::from_millis(250);
/// The largest list of drives that is read, in bytes.
const MAX_LIST_BYTES: u64 = 16 * 1024 * 1024;

/// Makes the store's daemon seed a drive. Starts a daemon if none runs.
async fn seed(target: &Target, source: &Source, how: &Seeding) -> Result<(Client, SeedInfo)> {
    let location = Location::of(target, source)?;
    let nearby = how.listen.is_some_and(|address| address.ip().is_loopback());
    let found = how.finding.discovery(how.peers.is_empty() && !nearby)?;
    let reaches = !how.peers.is_empty() || !found.is_off();
    let create = matches!(target, Target::Url(_)) && reaches;
    check_store(target, &location.store, create)?;
    let asked = SeedRequest {
        peers: how.peers.clone(),
        find: find_of(found),
        listen: how.listen.map(|address| address.to_string()),
    };
    let path = client::plain(&["seeds", &location.drive]);
    let limit = Some(ANSWER_LIMIT);
    client::ask_or_start(&location.store, create, Method::PUT, &path, &asked, limit).await
}

pub async fn run_share(args: &Share) -> Result {
    let (target, source) = drive_or_mount(&args.what, args.seeding.store.clone())?;
    let (_, info) = seed(&target, &source, &args.seeding).await?;
    let key = match args.with_key {
        true => Some(encryption_key(&Location::of(&target, &source)?, &info)?),
        false => None,
    };
    if args.seeding.json {
        return print_json(&SharedDrive { info: &info, encryption_key: key });
    }
    terminal::print_line(&info.url).context(|| "print")?;
    if let Some(key) = key {
        terminal::print_line(&format!("encryption key: {key}")).context(|| "print")?;
        eprintln!(
            "readers with the URL and the key can read every version of the drive, past and future, and pass both on; \
             the key cannot be changed. They mount it with `hypermount mount --encryption-key URL`"
        );
    }
    if stdout().is_terminal() && !args.no_qr {
        let code = QrCode::new(info.url.as_bytes())
            .map_err(|error| Failure::failed("make a QR code", error))?;
        let image = code.render::<Dense1x2>().build();
        terminal::print_line(&image).context(|| "print")?;
    }
    Ok(())
}

/// What `share --json` prints.
#[derive(Serialize)]
struct SharedDrive<'a> {
    #[serde(flatten)]
    info: &'a SeedInfo,
    /// In hex, if it was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    encryption_key: Option<String>,
}

/// The encryption key of a drive in this store, in hex.
fn encryption_key(location: &Location, info: &SeedInfo) -> Result<String> {
    let what = || format!("share {} with its encryption key", info.url);
    let url = info.url.parse::<DriveUrl>().context(what)?;
    match kept_encryption_key(&location.store, &url.key).context(what)? {
        Some(key) => Ok(PublicKey::new(key).to_hex()),
        None => Err(Failure::failed(what(), "no encryption key of it is in the store")
            .hint(
                "the drive is shared now, and its URL alone opens it if it is not encrypted; `hypermount unseed` ends that",
            )),
    }
}

pub async fn run_seed(args: &Seed) -> Result {
    let mut drives = args.drives.clone();
    if let Some(list) = &args.from {
        drives.extend(read_list(list)?);
    }
    let mut seeded = Vec::new();
    for target in &drives {
        let store = args.seeding.store.clone().filter(|_| !is_directory(target));
        let (_, info) = seed(target, &Source::of_store(store), &args.seeding).await?;
        if !args.seeding.json {
            terminal::print_line(&line(&info)).context(|| "print")?;
        }
        seeded.push(info);
    }
    if args.seeding.json {
        return print_json(&seeded);
    }
    Ok(())
}

fn is_directory(target: &Target) -> bool {
    matches!(target, Target::Directory(_))
}

/// One drive a line; what follows a # is ignored.
fn read_list(path: &Path) -> Result<Vec<Target>> {
    let what = || format!("read {}", path.display());
    let size = fs::metadata(path).context(what)?.len();
    if size > MAX_LIST_BYTES {
        return Err(Failure::failed(what(), format!("{size} bytes are too many for a list")));
    }
    let text = fs::read_to_string(path).context(what)?;
    let lines = text.lines().map(|line| line.split('#').next().unwrap_or_default().trim());
    lines
        .filter(|line| !line.is_empty())
        .map(|line| line.parse::<Target>().context(|| format!("{}: {line}", path.display())))
        .collect()
}

/// `hyper://… 37% of version 12`.
pub fn line(seed: &SeedInfo) -> String {
    let state = match (seed.own, seed.complete, seed.version) {
        (true, ..) => "your own".to_owned(),
        (_, true, version) => format!("all of version {version}"),
        (_, _, 0) => "nothing known yet".to_owned(),
        (_, _, version) => {
            let percent = super::list::here(seed.blocks_here, seed.blocks);
            format!("{percent} of version {version}")
        }
    };
    match &seed.name {
        Some(name) => format!("{}  {}  {state}", seed.url, escaped(name)),
        None => format!("{}  {state}", seed.url),
    }
}

pub async fn run_unseed(args: &Unseed) -> Result {
    // Seeds are part of a daemon's state, so a daemon is started for each store that has none.
    let mut stores: BTreeMap<PathBuf, Vec<String>> = BTreeMap::new();
    for target in &args.drives {
        let store = args.store.clone().filter(|_| !is_directory(target));
        let location = Location::of(target, &Source::of_store(store))?;
        stores.entry(location.store).or_default().push(location.drive);
    }
    for (store, drives) in stores {
        for drive in drives {
            let client = client::find_or_start(&store, false).await?;
            let path = client::plain(&["seeds", &drive]);
            client.ask::<Done>(Method::DELETE, &path, &(), Some(ANSWER_LIMIT)).await?;
        }
    }
    Ok(())
}

pub async fn run_publish(args: &Publish) -> Result {
    let store = args.seeding.store.clone().filter(|_| !is_directory(&args.drive));
    let (client, info) = seed(&args.drive, &Source::of_store(store), &args.seeding).await?;
    let path = client::plain(&["drives", &info.url, "peers"]);
    let deadline = args.timeout.limit().map(|limit| Instant::now() + limit);
    let spinner = terminal::spinner(format!("waiting for {} peers to hold all of it", args.wait));
    loop {
        let peers: DrivePeers = client.get(&path).await?;
        if peers.complete >= args.wait {
            spinner.finish_and_clear();
            if args.seeding.json {
                return print_json(&peers);
            }
            terminal::print_line(&peers.url).context(|| "print")?;
            eprintln!("{}", peers.verdict);
            return Ok(());
        }
        if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            spinner.finish_and_clear();
            let what = format!("publish {}", peers.url);
            let why =
                format!("{} of {} peers hold it; {}", peers.complete, args.wait, peers.verdict);
            return Err(Failure::new(Code::Unavailable, what, why)
                .hint("seeding continues; `hypermount peers` lists the peers that have it"));
        }
        tokio::time::sleep(POLL).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_has_one_drive_a_line() {
        let directory = tempfile::tempdir().unwrap();
        let list = directory.path().join("list");
        let key = "ce2a1c6efc95d1d33e5e2ee9ac00a1f06aa905f957bfd31988c6d30d793b3798";
        fs::write(&list, format!("# mine\n\nhyper://{key}  # theirs\nnotes\n")).unwrap();
        let found = read_list(&list).unwrap();
        assert!(matches!(&found[..], [Target::Url(_), Target::Name(name)] if name == "notes"));
        fs::write(&list, "hyper://abc\n").unwrap();
        assert!(read_list(&list).is_err());
    }

    #[test]
    fn a_seed_is_described_by_its_share_and_version() {
        let mut seed = SeedInfo {
            url: "hyper://00".into(),
            name: None,
            version: 12,
            blocks: 100,
            blocks_here: 37,
            complete: false,
            own: false,
            trouble: None,
        };
        assert_eq!(line(&seed), "hyper://00  37% of version 12");
        seed.complete = true;
        assert_eq!(line(&seed), "hyper://00  all of version 12");
    }
}
