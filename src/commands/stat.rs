//! `hypermount stat`.

use drive::{Entry, Kind};
use serde::Serialize;

use super::ls::mode_text;
use super::print_json;
use crate::cli::Stat;
use crate::failure::{Context, Result};
use crate::session::{Session, drive_url};
use crate::terminal::{self, date, escaped};

/// An entry as JSON: what `ls --json` and `stat --json` print.
#[derive(Debug, Serialize)]
pub struct Described<'a> {
    name: &'a str,
    kind: &'static str,
    /// Type and permission bits, as stat(2) numbers them.
    mode: u32,
    uid: u32,
    gid: u32,
    /// Bytes; of files only.
    size: Option<u64>,
    /// First and number of the blocks in the content core; of files only.
    block: Option<u64>,
    blocks: Option<u64>,
    /// Milliseconds since the epoch.
    mtime: u64,
    ctime: u64,
    target: Option<&'a str>,
    mount: Option<String>,
    attributes: Vec<&'a str>,
}

impl<'a> Described<'a> {
    pub fn new(name: &'a str, entry: &'a Entry) -> Self {
        let stat = &entry.stat;
        let extent = (entry.kind == Kind::File).then_some(stat.extent);
        Self {
            name,
            kind: kind_name(entry.kind),
            mode: stat.mode,
            uid: stat.uid,
            gid: stat.gid,
            size: extent.map(|extent| extent.size),
            block: extent.map(|extent| extent.block),
            blocks: extent.map(|extent| extent.blocks),
            mtime: stat.mtime,
            ctime: stat.ctime,
            target: stat.linkname.as_deref(),
            mount: stat.mount.as_ref().map(|mount| drive_url(&mount.key, mount.version)),
            attributes: stat
                .attributes
                .iter()
                .filter(|(_, value)| value.is_some())
                .map(|(name, _)| name.as_str())
                .collect(),
        }
    }
}

fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::File => "file",
        Kind::Directory => "directory",
        Kind::Symlink => "symlink",
        Kind::Mount => "mount",
        Kind::Fifo => "fifo",
        Kind::Socket => "socket",
        Kind::CharacterDevice => "character-device",
        Kind::BlockDevice => "block-device",
    }
}

pub async fn run(args: &Stat) -> Result {
    let session = Session::open(&args.target, &args.source).await?;
    let place = session.find(&args.path).await?;
    let name = place.path.as_str();
    let described = Described::new(name, &place.entry);
    if args.json {
        return print_json(&described);
    }
    let mut lines = vec![
        format!("path:  {}", escaped(&place.path.to_string())),
        format!("drive: {}", drive_url(place.drive.key(), place.drive.frozen_version())),
        format!("kind:  {}", described.kind),
        format!("mode:  {}", mode_text(&place.entry)),
        format!("owner: {}:{}", described.uid, described.gid),
        format!("mtime: {}", date(described.mtime)),
        format!("ctime: {}", date(described.ctime)),
    ];
    if let Some(size) = described.size {
        let (bytes, blocks) = place.drive.held(&place.entry.stat.extent);
        lines.push(format!("size:  {size} bytes in {} blocks", described.blocks.unwrap_or(0)));
        lines.push(format!("here:  {bytes} bytes in {blocks} blocks"));
    }
    if let Some(target) = described.target {
        lines.push(format!("link:  {}", escaped(target)));
    }
    for attribute in &described.attributes {
        lines.push(format!("xattr: {}", escaped(attribute)));
    }
    terminal::print_line(&lines.join("\n")).context(|| "print")
}
