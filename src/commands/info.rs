//! `hypermount info`.

use super::print_json;
use crate::access::Access;
use crate::answers::{self, About};
use crate::cli::Info;
use crate::failure::{Context, Result};
use crate::model::DriveQuery;
use crate::target::{Target, drive_of_mount};
use crate::terminal::{self, escaped, size};

pub async fn run(args: &Info) -> Result {
    let (mut target, mut source) = (args.target.clone(), args.source.clone());
    if let Target::Directory(path) = &target
        && let Some((mounted, from)) = drive_of_mount(path)?
    {
        (target, source.store) = (mounted, from.store);
    }
    let whole_store = matches!(target, Target::Directory(_));
    let about: About = match Access::open(&target, &source).await? {
        Access::Local(session) => answers::about(&session, whole_store).await?,
        Access::Remote(remote) => {
            let query = DriveQuery { whole_store, ..remote.base() };
            remote.client.ask_patiently(&remote.query(&[], query)?).await?
        }
    };
    if args.json {
        return print_json(&about);
    }
    let mut lines = vec![
        format!("url:       {}", about.url),
        format!("version:   {}", about.version),
        format!("format:    {}", about.format),
        format!("writable:  {}", if about.writable { "yes" } else { "no" }),
        format!("store:     {}", escaped(&about.store)),
        format!("discovery: {}", about.discovery_key),
    ];
    if let Some(id) = &about.id {
        lines.insert(1, format!("id:        {id}"));
        lines.insert(3, format!("fork:      {}", about.fork));
    }
    lines.extend(about.content_key.iter().map(|key| format!("content:   {key}")));
    if let Some(url) = &about.moved_to {
        lines.insert(1, format!("moved to:  {url}"));
    }
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
