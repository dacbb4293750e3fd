//! `hypermount list`.

use drive::{Drive, DrivePath, PublicKey, Store, Wait, transfer};
use serde::Serialize;

use super::print_json;
use crate::cli::List;
use crate::failure::{Context, Result};
use crate::session::{drive_url, drives, open_at, store_or_default};
use crate::terminal::{self, escaped, size, stdout_is_terminal};

/// Hex digits of a key on a terminal; `--json` and pipes get all 64.
const SHORT_KEY: usize = 12;

#[derive(Debug, Serialize)]
struct Listed {
    key: String,
    url: String,
    /// The name it was created with, where this store has it.
    name: Option<String>,
    /// Bytes of all files of the newest version; `null` while part of its index is not here.
    size: Option<u64>,
    version: u64,
    writable: bool,
    /// Why it is not writable although its keys are here.
    read_only_because: Option<&'static str>,
    /// Blocks of content, and those of them on this disk.
    blocks: u64,
    blocks_here: u64,
}

pub async fn run(args: &List) -> Result {
    let directory = store_or_default(args.store.as_deref())?;
    let store = open_at(&directory, false)?;
    let what = || "read the store";
    let mut listed = Vec::new();
    for key in drives(&store).await.context(what)? {
        listed.push(describe(&store, &key).await.context(|| drive_url(&key, None))?);
    }
    if args.json {
        return print_json(&listed);
    }
    let short = stdout_is_terminal();
    let mut rows = vec![["KEY", "NAME", "SIZE", "VERSION", "ACCESS", "HERE"].map(str::to_owned)];
    rows.extend(listed.iter().map(|drive| row(drive, short)));
    terminal::print(table(&rows).as_bytes()).context(|| "print")?;
    for drive in &listed {
        if let Some(why) = drive.read_only_because {
            let name = drive.name.as_deref().unwrap_or(&drive.url);
            eprintln!("{}: read-only: {why}; see `hypermount adopt`", escaped(name));
        }
    }
    Ok(())
}

async fn describe(store: &Store, key: &PublicKey) -> drive::Result<Listed> {
    let drive = Drive::open(store, key, None, Wait::Local).await?;
    let measured = transfer::measure(&drive, &DrivePath::root(), Wait::Local).await;
    let content = drive.content().ok();
    let blocks = content.map_or(0, |core| core.head().length);
    let stop = drive.metadata_core().stopped().or(content.and_then(|core| core.stopped()));
    let name = store.name_of(key)?;
    Ok(Listed {
        key: key.to_hex(),
        url: drive_url(key, None),
        name: name.and_then(|name| String::from_utf8(name).ok()),
        size: measured.ok().filter(|measured| measured.complete).map(|measured| measured.bytes),
        version: drive.snapshot().version(),
        writable: drive.writable(),
        read_only_because: stop.map(|stop| stop.reason()),
        blocks,
        blocks_here: content.map_or(0, |core| core.held(0..blocks)),
    })
}

fn row(drive: &Listed, short: bool) -> [String; 6] {
    let key = if short { drive.key.get(..SHORT_KEY).unwrap_or_default() } else { &drive.key };
    [
        key.to_owned(),
        drive.name.as_deref().map_or("-".into(), |name| escaped(name).into_owned()),
        drive.size.map_or("?".into(), size),
        drive.version.to_string(),
        if drive.writable { "writable" } else { "read-only" }.to_owned(),
        here(drive.blocks_here, drive.blocks),
    ]
}

/// The share of the content that is on this disk. All of it is said only if not a block is missing.
fn here(held: u64, blocks: u64) -> String {
    if held >= blocks {
        return "all".to_owned();
    }
    format!("{}%", u128::from(held) * 100 / u128::from(blocks))
}

/// Columns as wide as their widest cell, two spaces apart.
fn table<const N: usize>(rows: &[[String; N]]) -> String {
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max()
    };
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (column, cell) in row.iter().enumerate() {
            let width = width(column).unwrap_or(0);
            line.push_str(&format!("{cell:<width$}  "));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_block_is_never_all() {
        assert_eq!(here(0, 0), "all");
        assert_eq!(here(3, 3), "all");
        assert_eq!(here(u64::MAX - 1, u64::MAX), "99%");
        assert_eq!(here(0, 3), "0%");
    }

    #[test]
    fn columns_line_up() {
        let rows = [["a", "bb"], ["ccc", "d"]].map(|row| row.map(str::to_owned));
        assert_eq!(table(&rows), "a    bb\nccc  d\n");
    }
}
