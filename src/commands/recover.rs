//! `hypermount recover`.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use hypermount_core::Store;
use hypermount_drive::scratch::{Leftover, leftovers};
use hypermount_drive::transfer::restore;
use serde_json::json;

use super::print_json;
use crate::cli::Recover;
use crate::directories;
use crate::failure::{Context, Result};
use crate::path_text;
use crate::stored::open_store;
use crate::terminal::{self, escaped};
use crate::values::drive_url;

pub async fn run(args: &Recover) -> Result {
    let directory = directories::store(args.store.as_deref())?;
    // While this process has the store open, no mount writes to these files.
    let store = open_store(&directory, false)?;
    let what = || format!("recover from {}", directory.display());
    let mut found = leftovers(&store.scratch_directory()).context(what)?;
    found.sort_by(|one, other| one.origin.path.cmp(&other.origin.path));
    if let Some(to) = &args.to {
        fs::create_dir_all(to).context(|| format!("make {}", to.display()))?;
    }
    let mut rows = Vec::new();
    for leftover in &found {
        let saved = match &args.to {
            Some(to) => Some(save(&store, leftover, to).await?),
            None => None,
        };
        if args.forget {
            forget(leftover)?;
        }
        if args.json {
            rows.push(json!({
                "drive": drive_url(&leftover.origin.drive, None),
                "path": leftover.origin.path.to_string(),
                "size": leftover.size,
                "saved": saved.as_deref().map(path_text::encode),
            }));
        } else {
            show(leftover, saved.as_deref())?;
        }
    }
    if args.json {
        return print_json(&rows);
    }
    match (found.len(), &args.to, args.forget) {
        (0, ..) => eprintln!("nothing was left behind"),
        (_, None, false) => eprintln!("save them with --to DIR; remove them with --forget"),
        _ => {}
    }
    Ok(())
}

fn show(leftover: &Leftover, saved: Option<&Path>) -> Result {
    let path = escaped(&leftover.origin.path.to_string()).to_string();
    let saved = saved.map_or(String::new(), |at| format!(" -> {}", at.display()));
    let line = format!("{:>12}  {}{path}{saved}", leftover.size, leftover.origin.drive);
    terminal::print_line(&line).context(|| "print")
}

/// Saves under the file's own name, with a number if that is taken.
async fn save(store: &Store, leftover: &Leftover, directory: &Path) -> Result<PathBuf> {
    let name = leftover.origin.path.file_name();
    let first = directory.join(name.as_deref().unwrap_or_else(|| OsStr::new("unnamed")));
    let numbered = (1..).map(|number| {
        let mut path = first.clone().into_os_string();
        path.push(format!(".{number}"));
        PathBuf::from(path)
    });
    let free = std::iter::once(first.clone())
        .chain(numbered)
        .find(|path| fs::symlink_metadata(path).is_err())
        .unwrap_or_else(|| first.clone());
    restore(store, leftover, &free)
        .await
        .context(|| format!("save {} as {}", leftover.origin.path, free.display()))?;
    Ok(free)
}

fn forget(leftover: &Leftover) -> Result {
    // The record first: without it the data means nothing, and is taken for free space.
    for file in [&leftover.record, &leftover.data] {
        fs::remove_file(file).context(|| format!("remove {}", file.display()))?;
    }
    Ok(())
}
