//! `hypermount check`: prints which drives are sound and what is damaged. The process that has the store
//! open does the checking.

use std::io::{IsTerminal, stderr};
use std::path::Path;

use hyper::Method;
use hypermount_core::Wait;
use indicatif::ProgressBar;

use super::print_json;
use crate::answers::{self, CheckedDrive, Checking};
use crate::cli::Check;
use crate::client::{self, Client};
use crate::directories;
use crate::failure::{Code, Context, Failure, Result};
use crate::session::network;
use crate::source::Source;
use crate::stored::open_store;
use crate::target::ONLY;
use crate::terminal::{self, escaped, is_dumb, size};

pub async fn run(args: &Check) -> Result {
    let source = &args.source;
    must_go_with_repair(args)?;
    let (directory, drive) = match &args.drive {
        Some(named) => {
            let location = named.locate(&Source::of_store(source.store.clone()))?;
            (location.store, Some(location.drive).filter(|drive| drive != ONLY))
        }
        None => (directories::store(source.store.as_deref())?, None),
    };
    let by_key = drive.as_deref().is_some_and(|drive| drive.starts_with("hyper://"));
    let asked = answers::Check {
        drive,
        repair: args.repair,
        peers: source.peers.clone(),
        wait: source.wait.map(|wait| wait.to_string()),
        find: if args.repair { source.find(by_key)? } else { Default::default() },
    };
    let mut shown = Shown::new();
    let ended = match client::find(&directory).await? {
        Some(client) => there(&client, &asked, &mut shown).await,
        None => here(&directory, &asked, source, by_key, &mut shown).await,
    };
    shown.bar.finish_and_clear();
    let hurt = ended?;
    if args.json {
        print_json(&shown.drives)?;
    } else {
        shown.drives.iter().try_for_each(print)?;
    }
    match hurt {
        0 => Ok(()),
        count => {
            let what = format!("check {}", directory.display());
            let hint = match args.repair {
                true => {
                    "name a peer that has the missing blocks with --peer HOST:PORT; restore blocks that \
                    no peer has from a backup"
                }
                false => {
                    "fetch the damaged blocks from a peer: hypermount check DRIVE --repair --peer \
                     HOST:PORT"
                }
            };
            Err(Failure::new(Code::Verification, what, format!("{count} damaged")).hint(hint))
        }
    }
}

/// Fails if an option about fetching is given without `--repair`.
fn must_go_with_repair(args: &Check) -> Result {
    let Source { peers, wait, finding, .. } = &args.source;
    let named = [
        ("--peer", !peers.is_empty()),
        ("--wait", wait.is_some()),
        ("--network", finding.network.is_some()),
        ("--bootstrap", !finding.bootstrap.is_empty()),
    ];
    match named.into_iter().find(|(_, given)| *given && !args.repair) {
        Some((option, _)) => Err(Failure::usage(option, "without --repair no peer is asked")
            .hint("add --repair to fetch damaged blocks")),
        None => Ok(()),
    }
}

async fn there(client: &Client, asked: &answers::Check, shown: &mut Shown) -> Result<u64> {
    let mut ended = None;
    let take = |checking: Checking| {
        match checking {
            Checking::Done { hurt } => ended = Some(Ok(hurt)),
            Checking::Failed { failure } => ended = Some(Err(failure)),
            checking => shown.tell(checking),
        }
        Ok(true)
    };
    client.lines(Method::POST, "/check", asked, take).await?;
    let cut = || Err(Failure::failed("check", "the daemon ended before it was done"));
    ended.unwrap_or_else(cut)
}

async fn here(
    directory: &Path,
    asked: &answers::Check,
    source: &Source,
    by_key: bool,
    shown: &mut Shown,
) -> Result<u64> {
    let store = open_store(directory, false)?;
    let reached = match asked.repair {
        true => network(&store, source, by_key).await?,
        false => None,
    };
    let wait = if reached.is_some() { source.limit().wait() } else { Wait::Local };
    let repair = asked.repair.then_some(wait);
    answers::check(&store, asked, repair, &mut |checking| shown.tell(checking)).await
}

/// Prints the results, and on a terminal the progress.
struct Shown {
    bar: ProgressBar,
    bytes: u64,
    drives: Vec<CheckedDrive>,
}

impl Shown {
    fn new() -> Self {
        let bar = match stderr().is_terminal() && !is_dumb() {
            true => ProgressBar::new_spinner(),
            false => ProgressBar::hidden(),
        };
        Self { bar, bytes: 0, drives: Vec::new() }
    }

    fn tell(&mut self, checking: Checking) {
        match checking {
            Checking::Bytes { count } => {
                self.bytes += count;
                self.bar.set_message(format!("{} verified", size(self.bytes)));
                self.bar.tick();
            }
            Checking::Fetched { fetched, of } => {
                self.bar.set_message(format!("{fetched} of {of} blocks fetched"));
                self.bar.tick();
            }
            Checking::Drive { drive } => self.drives.push(*drive),
            Checking::Done { .. } | Checking::Failed { .. } => {}
        }
    }
}

fn print(drive: &CheckedDrive) -> Result {
    let identity = drive.url.as_deref().unwrap_or(&drive.discovery_key);
    let name = escaped(drive.name.as_deref().unwrap_or(identity));
    let state = if drive.hurt { "damaged" } else { "sound" };
    let mut lines = vec![format!("{name}: {state}, {} blocks verified", drive.blocks_sound)];
    lines.extend(drive.why.iter().map(|why| format!("  {}", escaped(why))));
    if drive.blocks_damaged > 0 {
        lines.push(format!("  damaged blocks: {}", drive.blocks_damaged));
    }
    if drive.records_damaged > 0 {
        lines.push(format!(
            "  {} tree nodes or signatures were damaged, {} of them repaired",
            drive.records_damaged, drive.records_repaired
        ));
    }
    lines.extend(drive.files_repaired.iter().map(|file| format!("  {file}: repaired")));
    if drive.blocks_repaired > 0 {
        lines.push(format!("  {} blocks repaired from peers", drive.blocks_repaired));
    }
    if drive.blocks_lacking > 0 {
        let why = drive.lacking_because.as_deref().map_or(String::new(), |why| format!(": {why}"));
        lines.push(format!("  {} blocks no peer sent{}", drive.blocks_lacking, escaped(&why)));
    }
    for file in &drive.files {
        let newest = if file.newest { "" } else { ", since replaced or removed" };
        lines.push(format!("  {} (version {}{newest})", escaped(&file.path), file.version));
    }
    lines.extend(more("files", drive.file_count, drive.files.len()));
    lines.extend(drive.versions.iter().map(|version| format!("  the index of version {version}")));
    let unsigned = drive.signatures.iter();
    lines.extend(unsigned.map(|version| format!("  the signature of version {version}")));
    lines.extend(more("versions", drive.version_count, drive.versions.len()));
    lines.iter().try_for_each(|line| terminal::print_line(line)).context(|| "print")
}

fn more(what: &str, count: u64, shown: usize) -> Option<String> {
    let more = count.saturating_sub(shown as u64);
    (more > 0).then(|| format!("  and {more} more {what}"))
}
