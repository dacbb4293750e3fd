//! `hypermount list`.

use std::path::Path;

use super::print_json;
use crate::answers::{self, Listed};
use crate::cli::List;
use crate::client;
use crate::directories;
use crate::failure::{Code, Context, Failure, Result};
use crate::stored::open_store;
use crate::terminal::{self, escaped, size, stdout_is_terminal, table};

/// Hex digits of a key on a terminal; `--json` and pipes get all 64.
const SHORT_KEY: usize = 12;

pub async fn run(args: &List) -> Result {
    let directory = directories::store(args.store.as_deref())?;
    let listed: Vec<Listed> = match client::find(&directory).await? {
        Some(client) => client.get("/drives").await?,
        None => answers::list(&open_store(&directory, false)?).await?,
    };
    if args.json {
        print_json(&listed)?;
        return conclude(&directory, &listed);
    }
    let short = stdout_is_terminal();
    let mut rows = vec![["KEY", "NAME", "SIZE", "VERSION", "ACCESS", "HERE"].map(str::to_owned)];
    rows.extend(listed.iter().map(|drive| row(drive, short)));
    terminal::print(table(&rows).as_bytes()).context(|| "print")?;
    for drive in &listed {
        let name = escaped(drive.name.as_deref().unwrap_or(identity(drive)));
        match (&drive.damaged, &drive.read_only_because) {
            (Some(why), _) => eprintln!("{name}: damaged: {}", escaped(why)),
            (None, Some(why)) => eprintln!("{name}: read-only: {why}; see `hypermount adopt`"),
            (None, None) => {}
        }
    }
    conclude(&directory, &listed)
}

/// Fails if a drive is damaged, after all of them were shown.
fn conclude(directory: &Path, listed: &[Listed]) -> Result {
    match listed.iter().filter(|drive| drive.damaged.is_some()).count() {
        0 => Ok(()),
        count => {
            let what = format!("list {}", directory.display());
            Err(Failure::new(Code::Verification, what, format!("{count} damaged"))
                .hint("`hypermount check` names the damage and repairs what it can"))
        }
    }
}

/// The URL or, where the key is lost, its hash.
fn identity(drive: &Listed) -> &str {
    drive.url.as_deref().unwrap_or(&drive.discovery_key)
}

fn row(drive: &Listed, short: bool) -> [String; 6] {
    let key = drive.key.as_deref().map_or("?", |key| match short {
        true => key.get(..SHORT_KEY).unwrap_or_default(),
        false => key,
    });
    [
        key.to_owned(),
        drive.name.as_deref().map_or("-".into(), |name| escaped(name).into_owned()),
        drive.size.map_or("?".into(), size),
        drive.version.to_string(),
        match (&drive.damaged, drive.writable) {
            (Some(_), _) => "damaged",
            (None, true) => "writable",
            (None, false) => "read-only",
        }
        .to_owned(),
        // The blocks that a damaged drive has do not show which others it lacks.
        match drive.damaged {
            Some(_) => "?".to_owned(),
            None => here(drive.blocks_here, drive.blocks),
        },
    ]
}

/// The share of the content that is on this disk; "all" only if no block is missing.
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
    fn a_drive_with_a_missing_block_is_not_shown_as_complete() {
        assert_eq!(here(0, 0), "all");
        assert_eq!(here(3, 3), "all");
        assert_eq!(here(u64::MAX - 1, u64::MAX), "99%");
        assert_eq!(here(0, 3), "0%");
    }
}
