//! `hypermount list`.

use super::print_json;
use crate::answers::{self, Listed};
use crate::cli::List;
use crate::client;
use crate::failure::{Context, Result};
use crate::session::{open_at, store_or_default};
use crate::terminal::{self, escaped, size, stdout_is_terminal, table};

/// Hex digits of a key on a terminal; `--json` and pipes get all 64.
const SHORT_KEY: usize = 12;

pub async fn run(args: &List) -> Result {
    let directory = store_or_default(args.store.as_deref())?;
    let listed: Vec<Listed> = match client::find(&directory).await? {
        Some(client) => client.get("/drives").await?,
        None => answers::list(&open_at(&directory, false)?).await?,
    };
    if args.json {
        return print_json(&listed);
    }
    let short = stdout_is_terminal();
    let mut rows = vec![["KEY", "NAME", "SIZE", "VERSION", "ACCESS", "HERE"].map(str::to_owned)];
    rows.extend(listed.iter().map(|drive| row(drive, short)));
    terminal::print(table(&rows).as_bytes()).context(|| "print")?;
    for drive in &listed {
        if let Some(why) = &drive.read_only_because {
            let name = drive.name.as_deref().unwrap_or(&drive.url);
            eprintln!("{}: read-only: {why}; see `hypermount adopt`", escaped(name));
        }
    }
    Ok(())
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
pub fn here(held: u64, blocks: u64) -> String {
    if held >= blocks {
        return "all".to_owned();
    }
    format!("{}%", u128::from(held) * 100 / u128::from(blocks))
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
}
