//! `hypermount check`: showing what is verified and what is hurt. The checking is done where the store
//! is open.

use std::io::{IsTerminal, stderr};

use hyper::Method;
use indicatif::ProgressBar;

use super::print_json;
use crate::answers::{self, CheckedDrive, Checking};
use crate::cli::{Check, of_store};
use crate::client;
use crate::daemon::ONLY;
use crate::failure::{Code, Context, Failure, Result};
use crate::reach::Wanted;
use crate::session::{open_at, store_or_default};
use crate::terminal::{self, escaped, is_dumb, size};

pub async fn run(args: &Check) -> Result {
    let (directory, drive) = match &args.drive {
        Some(named) => {
            let wanted = Wanted::of_named(named, &of_store(args.store.clone()))?;
            (wanted.store, Some(wanted.drive).filter(|drive| drive != ONLY))
        }
        None => (store_or_default(args.store.as_deref())?, None),
    };
    let asked = answers::Check { drive };
    let mut shown = Shown::new();
    let ended = match client::find(&directory).await? {
        Some(client) => {
            let mut ended = None;
            let take = |checking: Checking| {
                match checking {
                    Checking::Done { hurt } => ended = Some(Ok(hurt)),
                    Checking::Failed { failure } => ended = Some(Err(failure)),
                    checking => shown.tell(checking),
                }
                Ok(true)
            };
            client.lines(Method::POST, "/check", &asked, take).await?;
            let cut = || Err(Failure::failed("check", "the daemon ended before it was done"));
            ended.unwrap_or_else(cut)
        }
        None => {
            let store = open_at(&directory, false)?;
            answers::check(&store, &asked, &mut |checking| shown.tell(checking)).await
        }
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
            Err(Failure::new(Code::Verification, what, format!("{count} damaged")).hint(
                "damaged blocks of a drive of somebody else's are fetched again when they are read; of a \
                 drive of your own, take what is named here from a backup",
            ))
        }
    }
}

/// How much was read, on a terminal; and what was found.
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
        lines.push(format!("  {} blocks are damaged", drive.blocks_damaged));
    }
    if drive.records_damaged > 0 {
        lines.push(format!(
            "  {} tree nodes or signatures were damaged, {} of them repaired",
            drive.records_damaged, drive.records_repaired
        ));
    }
    for file in &drive.files {
        let newest = if file.newest { "" } else { ", since replaced or removed" };
        lines.push(format!("  {} (version {}{newest})", escaped(&file.path), file.version));
    }
    lines.extend(more("files", drive.file_count, drive.files.len()));
    lines.extend(drive.versions.iter().map(|version| format!("  the index of version {version}")));
    lines.extend(more("versions", drive.version_count, drive.versions.len()));
    lines.iter().try_for_each(|line| terminal::print_line(line)).context(|| "print")
}

fn more(what: &str, count: u64, shown: usize) -> Option<String> {
    let more = count.saturating_sub(shown as u64);
    (more > 0).then(|| format!("  and {more} more {what}"))
}
