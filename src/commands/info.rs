//! `hypermount info`.

use drive::{Core, Drive, PublicKey};
use serde::Serialize;

use super::print_json;
use crate::cli::Info;
use crate::failure::{Context, Result};
use crate::session::{Session, drive_url, drives};
use crate::target::Target;
use crate::terminal::{self, escaped, size};

#[derive(Debug, Serialize)]
struct About {
    url: String,
    key: String,
    /// What peers find the drive by; does not let anyone read it.
    discovery_key: String,
    /// Length of the metadata core: the newest version known here, or the frozen one.
    version: u64,
    writable: bool,
    store: String,
    /// Other drives in the store.
    others: Vec<String>,
    cores: Vec<AboutCore>,
}

/// What of a core is on this disk.
#[derive(Debug, Serialize)]
struct AboutCore {
    key: String,
    blocks: u64,
    blocks_here: u64,
    bytes: u64,
}

pub async fn run(args: &Info) -> Result {
    let session = Session::open(&args.target, &args.source).await?;
    let about = about(&session, matches!(args.target, Target::Directory(_))).await?;
    if args.json {
        return print_json(&about);
    }
    let mut lines = vec![
        format!("url:       {}", about.url),
        format!("version:   {}", about.version),
        format!("writable:  {}", if about.writable { "yes" } else { "no" }),
        format!("store:     {}", escaped(&about.store)),
        format!("discovery: {}", about.discovery_key),
    ];
    for core in &about.cores {
        lines.push(format!(
            "core:      {} {} of {} blocks here, {} in all",
            core.key,
            core.blocks_here,
            core.blocks,
            size(core.bytes)
        ));
    }
    for other in &about.others {
        lines.push(format!("also here: {other}"));
    }
    terminal::print_line(&lines.join("\n")).context(|| "print")
}

/// `whole_store`: the other drives and their cores too, not only this drive's.
async fn about(session: &Session, whole_store: bool) -> Result<About> {
    let what = || "read the store";
    let drive: &Drive = &session.drive;
    let key = *drive.key();
    let mut keys: Vec<PublicKey> = vec![key];
    let mut others = Vec::new();
    if whole_store {
        keys.extend(session.store.keys().context(what)?.into_iter().filter(|other| *other != key));
        let found = drives(&session.store).await.context(what)?;
        others = found.iter().filter(|other| **other != key).map(|k| drive_url(k, None)).collect();
    }
    let cores: drive::Result<Vec<_>> =
        keys.iter().map(|key| session.store.core(key).map(|core| about_core(&core))).collect();
    Ok(About {
        url: session.url(),
        key: key.to_hex(),
        discovery_key: key.discovery_key().to_hex(),
        version: drive.snapshot().version(),
        writable: drive.writable(),
        store: session.directory.display().to_string(),
        others,
        cores: cores.context(what)?,
    })
}

fn about_core(core: &Core) -> AboutCore {
    let head = core.head();
    AboutCore {
        key: core.key().to_hex(),
        blocks: head.length,
        blocks_here: core.held(0..head.length),
        bytes: head.byte_length,
    }
}
