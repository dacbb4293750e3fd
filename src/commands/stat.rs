//! `hypermount stat`.

use super::ls::mode_text;
use super::print_json;
use crate::access::Access;
use crate::answers::{self, DeviceNumbers, Found};
use crate::cli::Stat;
use crate::failure::{Context, Result};
use crate::terminal::{self, date, escaped};

pub async fn run(args: &Stat) -> Result {
    let found: Found = match Access::open(&args.target, &args.source).await? {
        Access::Local(session) => answers::entry(&session, &args.path).await?,
        Access::Remote(remote) => {
            remote.client.ask_patiently(&remote.about(&["entry"], &args.path)?).await?
        }
    };
    if args.json {
        return print_json(&found);
    }
    let entry = &found.entry;
    let mut lines = vec![
        format!("path:  {}", escaped(&found.path)),
        format!("drive: {}", found.drive),
        format!("kind:  {}", entry.kind.name()),
        format!("mode:  {}", mode_text(entry.kind, entry.mode)),
        format!("owner: {}:{}", entry.uid, entry.gid),
        format!("mtime: {}", date(entry.mtime)),
        format!("ctime: {}", date(entry.ctime)),
        format!("atime: {}", date(entry.atime)),
    ];
    if let Some(DeviceNumbers { major, minor }) = &entry.device {
        lines.push(format!("device: {major}, {minor}"));
    }
    if let Some(size) = entry.size {
        lines.push(format!("size:  {size} bytes in {} blocks", entry.blocks.unwrap_or(0)));
    }
    if let (Some(bytes), Some(blocks)) = (found.bytes_here, found.blocks_here) {
        lines.push(format!("here:  {bytes} bytes in {blocks} blocks"));
    }
    if let Some(target) = &entry.target {
        lines.push(format!("link:  {}", escaped(target)));
    }
    for attribute in &entry.attributes {
        lines.push(format!("xattr: {}", escaped(attribute)));
    }
    terminal::print_line(&lines.join("\n")).context(|| "print")
}
